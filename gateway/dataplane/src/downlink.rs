//! From the network to the peers.

use crate::drops::Dropped;
use crate::fragment::fragment;
use crate::icmp::too_big;
use crate::mesh::Cargo;
use crate::mss;
use crate::packet::Ip;
use crate::paths::Path;
use crate::segment::Segments;
use crate::send::{DATA_BACKLOG, SendQueue};
use crate::user_path::{Progress, UserPath, flush_socket};
use crate::vnet::{VNET_HEADER, VnetHeader};
use sluice_spi::Payload;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::Instant;

/// Octets that wait for a socket before they are sent although more could be read.
const FLUSH_AT: usize = 256 << 10;

/// Octets allowed for the headers that sealing a packet adds.
const SLACK: usize = 256;

impl UserPath {
    /// Reads from the TUN queue until there is nothing more or `budget` packets and super-packets were read.
    pub fn poll_tun(&mut self, budget: usize, now: Instant) -> Progress {
        let Some(mut buffer) = self.tun.as_mut().map(|tun| std::mem::take(&mut tun.buffer)) else {
            return Progress::Idle;
        };
        let progress = self.read_tun(&mut buffer, budget, now);
        if let Some(tun) = self.tun.as_mut() {
            tun.buffer = buffer;
        }
        self.flush();
        progress
    }

    fn read_tun(&mut self, buffer: &mut [u8], budget: usize, now: Instant) -> Progress {
        for _ in 0..budget {
            let Some(tun) = self.tun.as_ref() else {
                return Progress::Idle;
            };
            match tun.queue.read(buffer) {
                Ok(length) => {
                    self.totals.tun_reads += 1;
                    self.downlink(buffer.get_mut(..length).unwrap_or_default(), false, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Idle,
                Err(error) => return Progress::Failed(error),
            }
        }
        Progress::More
    }

    /// Deals with what a TUN queue gave. `crossed`: another shard's queue gave it.
    pub(crate) fn downlink(&mut self, bytes: &mut [u8], crossed: bool, now: Instant) {
        let Some((header, packet)) = VnetHeader::decode(bytes) else {
            self.drops.one(Dropped::Malformed);
            return;
        };
        let Some(destination) = Ip::parse(packet).and_then(|ip| ip.destination(packet)) else {
            self.drops.one(Dropped::Malformed);
            return;
        };
        let Some(target) = self.routes.find(destination) else {
            self.drops.one(if is_group(destination) {
                Dropped::Multicast
            } else {
                Dropped::NoRoute
            });
            return;
        };
        if target.shard == self.mesh.shard() {
            let packet = bytes.get_mut(VNET_HEADER..).unwrap_or_default();
            self.deliver(target.slot, destination, header, packet, now);
        } else if crossed {
            // The address changed hands meanwhile.
            self.drops.one(Dropped::NoRoute);
        } else if self.mesh.cross(target.shard, Cargo::Tun, bytes) {
            self.totals.crossed += 1;
        } else {
            self.drops.one(Dropped::RingFull);
        }
    }

    fn deliver(
        &mut self,
        slot: u32,
        destination: IpAddr,
        header: VnetHeader,
        packet: &mut [u8],
        now: Instant,
    ) {
        let Some(path) = self.paths.at(slot).filter(|path| path.is_for(destination)) else {
            self.drops.one(Dropped::NoRoute);
            return;
        };
        let Some(listening) = self.sockets.get_mut(path.socket).and_then(Option::as_mut) else {
            self.drops.one(Dropped::NoSocket);
            path.stats.dropped += 1;
            return;
        };
        let Ok(mut segments) = Segments::new(header, packet) else {
            self.drops.one(Dropped::Malformed);
            path.stats.dropped += 1;
            return;
        };
        let mut outcome = Outcome::default();
        while let Some(segment) = segments.next() {
            let Some(ip) = Ip::parse(segment) else {
                break;
            };
            if segment.len() <= usize::from(path.mtu) {
                mss::clamp(segment, ip, path.mtu);
                outcome.seal(path, &mut listening.data, segment);
                continue;
            }
            let mtu = usize::from(path.mtu);
            let cut = !ip.dont_fragment(segment)
                && fragment(segment, ip, mtu, &mut self.scratch, |part| {
                    outcome.seal(path, &mut listening.data, part);
                });
            if !cut {
                outcome.too_big += 1;
                // One answer for all segments of a super-packet is enough.
                if outcome.too_big == 1
                    && self.answers.allow(now)
                    && too_big(segment, ip, path.mtu, &mut self.scratch)
                    && let Some(tun) = self.tun.as_ref()
                {
                    let header = VnetHeader::PLAIN.encode(ip.v6);
                    let pieces = [IoSlice::new(&header), IoSlice::new(&self.scratch)];
                    // Where it is not taken, the sender asks again.
                    let _ = tun.queue.write(&pieces);
                }
            }
        }
        path.stats.tx_packets += outcome.packets;
        path.stats.tx_bytes += outcome.bytes;
        path.stats.dropped += outcome.dropped();
        if let Some((_, carried)) = self.carried.get_mut(path.module.0) {
            carried.tx_packets += outcome.packets;
            carried.tx_bytes += outcome.bytes;
        }
        self.drops.add(Dropped::TooBig, outcome.too_big);
        self.drops.add(Dropped::NotReady, outcome.not_ready);
        self.drops.add(Dropped::SendQueueFull, outcome.no_room);
        if listening.data.len() >= FLUSH_AT && !listening.blocked {
            flush_socket(listening, &mut self.sends, &mut self.drops);
        }
    }
}

/// What became of the packets of one super-packet.
#[derive(Debug, Default)]
struct Outcome {
    packets: u64,
    bytes: u64,
    too_big: u64,
    not_ready: u64,
    no_room: u64,
}

impl Outcome {
    /// Seals one packet and queues it.
    fn seal(&mut self, path: &mut Path, queue: &mut SendQueue, packet: &[u8]) {
        let start = queue.len();
        if start + packet.len() + SLACK > DATA_BACKLOG {
            self.no_room += 1;
        } else if path.codec.seal(Payload::Ip(packet), queue.buffer()) {
            queue.commit(start, path.peer);
            self.packets += 1;
            self.bytes += packet.len() as u64;
        } else {
            self.not_ready += 1;
        }
    }

    fn dropped(&self) -> u64 {
        self.too_big + self.not_ready + self.no_room
    }
}

/// A multicast, broadcast or IPv6 link-local destination: what a kernel sends by itself on any interface.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coalesce::Coalescer;
    use crate::packet::samples::Sample;
    use crate::paths::tests::path;
    use crate::routes::Routes;
    use crate::tun::Offloads;
    use crate::{ListenerId, UserPath, Waker, mesh};
    use proptest::prelude::*;
    use sluice_spi::PathKey;
    use std::sync::Arc;

    fn plane() -> UserPath {
        let waker: Waker = Arc::new(|| {});
        let port = mesh(vec![waker]).remove(0);
        UserPath::new(port, Arc::new(Routes::new(8)), 8)
    }

    /// Packets from the network for which there is no path, or whose path has no socket, are counted.
    #[test]
    fn packets_that_lead_nowhere_are_counted() {
        let mut plane = plane();
        let now = Instant::now();
        let mut bytes = VnetHeader::PLAIN.encode(false).to_vec();
        bytes.extend(Sample::default().build());
        plane.downlink(&mut bytes.clone(), false, now);
        let routes = plane.routes.clone();
        let reference = plane
            .paths
            .insert(path(1, Some([198, 51, 100, 7]), None), &routes)
            .unwrap();
        plane.downlink(&mut bytes, false, now);
        bytes.truncate(VNET_HEADER + 19);
        plane.downlink(&mut bytes, false, now);
        let mut group = VnetHeader::PLAIN.encode(false).to_vec();
        group.extend(Sample::default().build());
        group[VNET_HEADER + 16] = 239;
        plane.downlink(&mut group, false, now);
        for reason in [
            Dropped::NoRoute,
            Dropped::NoSocket,
            Dropped::Malformed,
            Dropped::Multicast,
        ] {
            assert_eq!(plane.drops.count(reason), 1, "{reason:?}");
        }
        assert_eq!(plane.paths.get(reference).unwrap().stats.dropped, 1);
    }

    proptest! {
        /// A packet that was damaged anywhere, with any header before it, goes both ways without harm.
        #[test]
        fn any_damage_is_survived(
            header in prop::array::uniform10(any::<u8>()),
            damage in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
            v6: bool,
            cut in 0usize..200,
        ) {
            let mut packet = Sample { v6, payload: vec![3; 60], ..Sample::default() }.build();
            for (place, value) in damage {
                if let Some(byte) = packet.get_mut(place) {
                    *byte = value;
                }
            }
            packet.truncate(cut);
            let mut bytes = header.to_vec();
            bytes[1] %= 6;
            bytes.extend(&packet);
            let mut plane = plane();
            plane.downlink(&mut bytes, false, Instant::now());
            if let Some(ip) = Ip::parse(&packet) {
                let all = Offloads { tcp: true, udp: true };
                let mut coalescer = Coalescer::new(all);
                let mut arena = [&packet[..ip.total], &packet[..ip.total]].concat();
                for start in [0, ip.total] {
                    let owner = (ListenerId(0), PathKey(0));
                    coalescer.push(&arena, owner, ip, start..start + ip.total);
                }
                let mut packets = 0;
                coalescer.flush(&mut arena, |_, count| packets += count);
                prop_assert_eq!(packets, 2);
            }
        }
    }
}
