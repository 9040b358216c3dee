//! Cuts a super-packet from the TUN device into packets with finished checksums, in place: each packet's headers
//! are written right before its payload, over the end of the packet before, which has been dealt with by then.

use crate::checksum::{Sum, pseudo_header};
use crate::packet::{Ip, TCP, TCP_HEADER, UDP, UDP_HEADER, put, u16_at, u32_at};
use crate::vnet::{NEEDS_CHECKSUM, Super, VnetHeader};

/// Longest headers of a super-packet: IPv6 with a few extension headers, and TCP with all its options.
const MAX_HEADERS: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packet or its virtio header makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A packet from the device, being cut.
#[derive(Debug)]
pub(crate) struct Segments<'a> {
    packet: &'a mut [u8],
    ip: Ip,
    /// Octets of headers; their first state is in `template`.
    headers: usize,
    template: [u8; MAX_HEADERS],
    /// Octets of payload in each; 0: this is one packet, and it is finished.
    segment: usize,
    /// Octets of payload that were given out.
    done: usize,
    given: usize,
}

impl<'a> Segments<'a> {
    /// Looks at what the device gave.
    pub(crate) fn new(header: VnetHeader, packet: &'a mut [u8]) -> Result<Self, Malformed> {
        let ip = Ip::parse(packet).ok_or(Malformed)?;
        let packet = packet.get_mut(..ip.total).ok_or(Malformed)?;
        let mut segments = Segments {
            packet,
            ip,
            headers: 0,
            template: [0; MAX_HEADERS],
            segment: 0,
            done: 0,
            given: 0,
        };
        match header.kind {
            Super::None => segments.finish_single(header)?,
            Super::Tcp => segments.prepare(header, TCP)?,
            Super::Udp => segments.prepare(header, UDP)?,
        }
        Ok(segments)
    }

    /// Completes the checksum that was left to us.
    fn finish_single(&mut self, header: VnetHeader) -> Result<(), Malformed> {
        if header.flags & NEEDS_CHECKSUM == 0 {
            return Ok(());
        }
        let start = usize::from(header.checksum_start);
        let place = start + usize::from(header.checksum_offset);
        if place + 2 > self.packet.len() {
            return Err(Malformed);
        }
        // The place holds the sum of the pseudo-header, which is thereby part of the sum.
        let rest = self.packet.get(start..).ok_or(Malformed)?;
        let mut sum = Sum::default().add(rest).complement();
        if sum == [0, 0] && self.ip.protocol == UDP {
            sum = [0xff, 0xff];
        }
        put(self.packet, place, &sum);
        Ok(())
    }

    fn prepare(&mut self, header: VnetHeader, protocol: u8) -> Result<(), Malformed> {
        let ip = self.ip;
        if ip.protocol != protocol || ip.fragment || ip.later_fragment || header.segment == 0 {
            return Err(Malformed);
        }
        let transport = if protocol == TCP {
            let offset = self.packet.get(ip.transport + 12).ok_or(Malformed)?;
            usize::from(offset >> 4) * 4
        } else {
            UDP_HEADER
        };
        let headers = ip.transport + transport;
        let too_short = protocol == TCP && transport < TCP_HEADER;
        if too_short || headers > MAX_HEADERS || headers >= ip.total {
            return Err(Malformed);
        }
        let original = self.packet.get(..headers).ok_or(Malformed)?;
        put(&mut self.template, 0, original);
        self.headers = headers;
        self.segment = usize::from(header.segment);
        Ok(())
    }

    /// The next packet, finished.
    pub(crate) fn next(&mut self) -> Option<&mut [u8]> {
        if self.segment == 0 {
            let first = std::mem::replace(&mut self.given, 1) == 0;
            return first.then_some(&mut *self.packet);
        }
        let payload = self.packet.len() - self.headers;
        let left = payload.checked_sub(self.done).filter(|&left| left > 0)?;
        let length = left.min(self.segment);
        let packet = self
            .packet
            .get_mut(self.done..self.done + self.headers + length)?;
        put(packet, 0, self.template.get(..self.headers)?);
        write_headers(
            packet,
            self.ip,
            Place {
                done: self.done,
                index: self.given,
                last: length == left,
            },
        );
        self.done += length;
        self.given += 1;
        Some(packet)
    }
}

/// Where a packet is in its super-packet.
#[derive(Clone, Copy)]
struct Place {
    /// Octets of payload before it.
    done: usize,
    /// Packets before it.
    index: usize,
    last: bool,
}

/// Turns the headers of a super-packet into those of one packet.
fn write_headers(packet: &mut [u8], ip: Ip, place: Place) {
    let transport_length = packet.len() - ip.transport;
    if ip.v6 {
        let length = packet.len() - crate::packet::IPV6_HEADER;
        put(packet, 4, &(length as u16).to_be_bytes());
    } else {
        let id = u16_at(packet, 4).wrapping_add(place.index as u16);
        let total = packet.len() as u16;
        put(packet, 2, &total.to_be_bytes());
        put(packet, 4, &id.to_be_bytes());
        put(packet, 10, &[0, 0]);
        let sum = Sum::default()
            .add(packet.get(..ip.transport).unwrap_or_default())
            .complement();
        put(packet, 10, &sum);
    }
    let at = ip.transport;
    let checksum = if ip.protocol == TCP {
        let seq = u32_at(packet, at + 4).wrapping_add(place.done as u32);
        put(packet, at + 4, &seq.to_be_bytes());
        let mut flags = packet.get(at + 13).copied().unwrap_or(0);
        if !place.last {
            flags &= !(FIN | PSH);
        }
        if place.index > 0 {
            flags &= !CWR;
        }
        put(packet, at + 13, &[flags]);
        at + 16
    } else {
        put(packet, at + 4, &(transport_length as u16).to_be_bytes());
        at + 6
    };
    put(packet, checksum, &[0, 0]);
    let addresses = packet.get(ip.addresses()).unwrap_or_default();
    let mut sum = pseudo_header(addresses, ip.protocol, transport_length)
        .add(packet.get(at..).unwrap_or_default())
        .complement();
    if ip.protocol == UDP && sum == [0, 0] {
        sum = [0xff, 0xff];
    }
    put(packet, checksum, &sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ListenerId;
    use crate::coalesce::Coalescer;
    use crate::packet::samples::*;
    use crate::tun::Offloads;
    use crate::vnet::VNET_HEADER;
    use proptest::prelude::*;
    use sluice_spi::PathKey;

    const ALL: Offloads = Offloads { tcp: true, udp: true };

    fn cut(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let (header, packet) = VnetHeader::decode(bytes).ok_or(Malformed)?;
        let mut packet = packet.to_vec();
        let mut segments = Segments::new(header, &mut packet)?;
        let mut found = Vec::new();
        while let Some(segment) = segments.next() {
            found.push(segment.to_vec());
        }
        Ok(found)
    }

    /// What is written for packets of given owners, each with its virtio header.
    fn joined(packets: &[(u32, Vec<u8>)], offloads: Offloads) -> Vec<Vec<u8>> {
        let mut coalescer = Coalescer::new(offloads);
        let mut arena = Vec::new();
        for (_, packet) in packets {
            arena.extend_from_slice(packet);
        }
        let mut start = 0;
        for (owner, packet) in packets {
            let ip = Ip::parse(packet).unwrap();
            let owner = (ListenerId(0), PathKey(*owner));
            coalescer.push(&arena, owner, ip, start..start + packet.len());
            start += packet.len();
        }
        let mut written = Vec::new();
        coalescer.flush(&mut arena, |slices, _| {
            written.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
        });
        assert!(coalescer.is_empty());
        written
    }

    fn through(packets: &[(u32, Vec<u8>)]) -> Vec<Vec<u8>> {
        let written = joined(packets, ALL);
        written.iter().flat_map(|bytes| cut(bytes).unwrap()).collect()
    }

    /// Consecutive segments of one flow.
    fn flow(first: &Sample, lengths: &[usize]) -> Vec<(u32, Vec<u8>)> {
        let mut sample = first.clone();
        let packets = lengths.iter().map(|&length| {
            sample.payload = (0..length).map(|byte| (byte * 7 + length) as u8).collect();
            let packet = (1, sample.build());
            sample.seq = sample.seq.wrapping_add(length as u32);
            sample.id = sample.id.wrapping_add(1);
            packet
        });
        packets.collect()
    }

    fn plain(packets: &[(u32, Vec<u8>)]) -> Vec<Vec<u8>> {
        packets.iter().map(|(_, packet)| packet.clone()).collect()
    }

    #[test]
    fn joins_and_cuts_both_protocols_in_both_versions() {
        for (v6, protocol) in [(false, TCP), (true, TCP), (false, UDP), (true, UDP)] {
            let first = Sample {
                v6,
                protocol,
                ..Sample::default()
            };
            let packets = flow(&first, &[1000, 1000, 1000, 333]);
            assert_eq!(joined(&packets, ALL).len(), 1, "v6 {v6} protocol {protocol}");
            assert_eq!(through(&packets), plain(&packets));
            assert_eq!(joined(&packets, Offloads::default()).len(), 4);
        }
    }

    #[test]
    fn push_ends_a_super_packet_and_stays_on_its_last_segment() {
        let mut packets = flow(&Sample::default(), &[500, 500]);
        let pushed = Sample {
            flags: 0x18,
            seq: 2000,
            id: 3,
            payload: vec![9; 500],
            ..Sample::default()
        };
        packets.push((1, pushed.build()));
        let after = Sample {
            seq: 2500,
            id: 4,
            payload: vec![8; 500],
            ..Sample::default()
        };
        packets.push((1, after.build()));
        assert_eq!(joined(&packets, ALL).len(), 2);
        assert_eq!(through(&packets), plain(&packets));
    }

    /// What must keep two otherwise consecutive packets apart.
    #[test]
    fn keeps_apart_what_differs() {
        let base = Sample {
            dont_fragment: false,
            payload: vec![1; 400],
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            ..Sample::default()
        };
        let second = Sample {
            seq: base.seq + 400,
            id: base.id + 1,
            ..base.clone()
        };
        let pair = |second: &Sample| vec![(1, base.build()), (1, second.build())];
        assert_eq!(joined(&pair(&second), ALL).len(), 1);
        let mut other_options = second.clone();
        other_options.options[7] = 9;
        let different = [
            Sample {
                ack: 8,
                ..second.clone()
            },
            Sample {
                seq: second.seq + 1,
                ..second.clone()
            },
            Sample {
                id: 9,
                ..second.clone()
            },
            Sample {
                dont_fragment: true,
                ..second.clone()
            },
            Sample {
                flags: 0x11,
                ..second.clone()
            },
            Sample {
                flags: 0x90,
                ..second.clone()
            },
            Sample {
                ports: (1, 2),
                ..second.clone()
            },
            Sample {
                payload: vec![1; 401],
                ..second.clone()
            },
            Sample {
                payload: vec![],
                ..second.clone()
            },
            Sample {
                options: vec![],
                ..second.clone()
            },
            other_options,
        ];
        for sample in &different {
            let packets = pair(sample);
            assert_eq!(joined(&packets, ALL).len(), 2, "{sample:?}");
            assert_eq!(through(&packets), plain(&packets));
        }
        let (tos, hops, window, urgent, damaged) = (1, 8, 34, 38, 70);
        for place in [tos, hops, window, urgent, damaged] {
            let mut packets = pair(&second);
            packets[1].1[place] ^= 1;
            if place != damaged {
                let ip = Ip::parse(&packets[1].1).unwrap();
                finish(&mut packets[1].1, ip);
            }
            assert_eq!(joined(&packets, ALL).len(), 2, "octet {place}");
            assert_eq!(through(&packets), plain(&packets));
            packets.swap(0, 1);
            assert_eq!(joined(&packets, ALL).len(), 2, "octet {place}, first");
        }
        let mut sessions = pair(&second);
        sessions[1].0 = 2;
        assert_eq!(joined(&sessions, ALL).len(), 2);
    }

    #[test]
    fn a_damaged_first_packet_stays_as_it_was() {
        let mut packets = flow(&Sample::default(), &[300, 300, 300]);
        packets[0].1[60] ^= 1;
        assert_eq!(joined(&packets, ALL).len(), 2);
        assert_eq!(through(&packets), plain(&packets));
    }

    #[test]
    fn a_fragment_ends_the_super_packets_of_its_session() {
        let mut packets = flow(&Sample::default(), &[300, 300, 300]);
        let mut later = packets[0].1.clone();
        later[6..8].copy_from_slice(&[0, 9]);
        let ip = Ip::parse(&later).unwrap();
        assert!(ip.later_fragment);
        packets.insert(2, (1, later));
        assert_eq!(joined(&packets, ALL).len(), 3);
        assert_eq!(through(&packets), plain(&packets));
    }

    #[test]
    fn refuses_headers_that_make_no_sense() {
        let packet = flow(&Sample::default(), &[100]).remove(0).1;
        let good = VnetHeader {
            flags: NEEDS_CHECKSUM,
            kind: Super::Tcp,
            header_length: 40,
            segment: 50,
            checksum_start: 20,
            checksum_offset: 16,
        };
        let with = |header: VnetHeader| {
            let mut bytes = header.encode(false).to_vec();
            bytes.extend(&packet);
            cut(&bytes)
        };
        assert_eq!(with(good).unwrap().len(), 2);
        assert_eq!(with(VnetHeader { segment: 0, ..good }), Err(Malformed));
        assert_eq!(
            with(VnetHeader {
                kind: Super::Udp,
                ..good
            }),
            Err(Malformed)
        );
        let single = VnetHeader {
            kind: Super::None,
            checksum_start: 139,
            checksum_offset: 0,
            ..good
        };
        assert_eq!(with(single), Err(Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Whatever is joined is given back: for each flow the same packets in the same order.
        #[test]
        fn cutting_undoes_joining(
            steps in prop::collection::vec(
                (0u16..4, 0usize..5, 0u8..20, any::<bool>()), 1..80),
            v6: bool,
        ) {
            let sizes = [0, 1, 200, 700, 1400];
            let mut flows: Vec<Sample> = (0..4u16)
                .map(|index| Sample {
                    v6,
                    protocol: if index % 2 == 0 { TCP } else { UDP },
                    ports: (1000 + index, 80),
                    seq: u32::MAX - 3000,
                    id: u16::MAX - 2,
                    dont_fragment: index < 2,
                    ..Sample::default()
                })
                .collect();
            let mut packets = Vec::new();
            for (index, size, twist, repeat) in steps {
                let sample = &mut flows[usize::from(index)];
                sample.payload = vec![twist; sizes[if repeat { 3 } else { size }]];
                sample.flags = if twist == 1 { 0x18 } else if twist == 2 { 0x11 } else { 0x10 };
                if twist == 3 { sample.ack += 1; }
                let mut packet = sample.build();
                if twist == 4 {
                    let last = packet.len() - 1;
                    packet[last] ^= 0x55;
                }
                packets.push((u32::from(index), packet));
                sample.seq = sample.seq.wrapping_add(sample.payload.len() as u32);
                sample.id = sample.id.wrapping_add(1);
            }
            let given = through(&packets);
            prop_assert_eq!(given.len(), packets.len());
            for index in 0..4u16 {
                let of_flow = |packet: &&Vec<u8>| {
                    let ip = Ip::parse(packet).unwrap();
                    u16_at(packet, ip.transport) == 1000 + index
                };
                let before: Vec<&Vec<u8>> = packets.iter().map(|(_, packet)| packet).filter(of_flow).collect();
                let after: Vec<&Vec<u8>> = given.iter().filter(of_flow).collect();
                prop_assert_eq!(after, before);
            }
        }

        #[test]
        fn any_bytes_from_the_device_are_safe(
            header in prop::array::uniform10(any::<u8>()),
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 0u8..6,
            v6: bool,
        ) {
            let mut input = header.to_vec();
            input[1] = kind;
            input[5] = 0;
            if bytes.len() > 40 {
                let length = bytes.len() as u16;
                bytes[0] = if v6 { 0x60 } else { 0x45 };
                put(&mut bytes, if v6 { 4 } else { 2 }, &(if v6 { length - 40 } else { length }).to_be_bytes());
                bytes[if v6 { 6 } else { 9 }] = if kind == 5 { UDP } else { TCP };
                if !v6 {
                    bytes[6] = 0;
                    bytes[7] = 0;
                }
            }
            input.extend(bytes);
            if let Ok(found) = cut(&input) {
                for packet in found {
                    prop_assert!(packet.len() <= input.len() - VNET_HEADER);
                }
            }
        }
    }
}
