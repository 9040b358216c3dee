//! From the peers to the network.

use crate::drops::Dropped;
use crate::mesh::Cargo;
use crate::mss;
use crate::packet::Ip;
use crate::send::DATA_BACKLOG;
use crate::slow::{Kind, Slow};
use crate::sys::udp::{self, RECV_BATCH, Received};
use crate::user_path::{Progress, SocketId, UserPath};
use bytes::BytesMut;
use sluice_spi::{Demux, Direction, Opened, PathCodec, PeerAddr, Released, SlowFrame};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::time::Instant;

/// Protocol field of IPv6 in PPP (RFC 5072): what a frame with an IPv6 packet begins with.
const PPP_IPV6: [u8; 2] = [0x00, 0x57];

/// Reports taken from a socket's error queue at one time.
const MAX_REPORTS: usize = 64;

/// Why a codec's answer leads nowhere.
type Refused = Dropped;

impl UserPath {
    /// Receives from a socket until there is nothing more or about `budget` datagrams were dealt with.
    pub fn poll_udp(&mut self, socket: SocketId, budget: usize, now: Instant) -> Progress {
        let mut done = 0;
        let progress = loop {
            if done >= budget {
                break Progress::More;
            }
            match self.receive_batch(socket, now) {
                Ok(datagrams) => done += datagrams.max(1),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break Progress::Idle,
                    Some(libc::EINTR) => {}
                    // What ICMP said of a datagram sent earlier; the details are in the error queue.
                    Some(
                        libc::ECONNREFUSED
                        | libc::EHOSTUNREACH
                        | libc::EHOSTDOWN
                        | libc::ENETUNREACH
                        | libc::EMSGSIZE
                        | libc::EPROTO
                        | libc::EACCES,
                    ) => {
                        self.note_error(socket);
                        done += 1;
                    }
                    _ => {
                        self.drops.one(Dropped::ReceiveFailed);
                        break Progress::Failed(error);
                    }
                },
            }
        };
        self.take_reports(socket);
        self.flush();
        progress
    }

    /// Deals with packets that other shards received for this one.
    pub fn poll_mesh(&mut self, budget: usize, now: Instant) -> Progress {
        let mut progress = Progress::More;
        for _ in 0..budget {
            let Some(mut crossing) = self.mesh.receive() else {
                progress = Progress::Idle;
                break;
            };
            match crossing.cargo {
                Cargo::Datagram(listener, from) => {
                    if let Some(index) = self.socket_of(listener, from)
                        && let Some(range) = self.stash(&crossing.bytes)
                    {
                        self.datagram(index, from, range, true, now);
                    }
                }
                Cargo::Tun => self.downlink(&mut crossing.bytes, true, now),
            }
            self.mesh.give_back(crossing);
        }
        self.write_out();
        self.flush();
        progress
    }

    fn socket_of(&self, listener: crate::ListenerId, from: PeerAddr) -> Option<usize> {
        self.sockets.iter().position(|place| {
            place.as_ref().is_some_and(|listening| {
                let bound = listening.socket.local_addr();
                listening.listener == listener
                    && bound.port() == from.local.port()
                    && bound.is_ipv4() == from.local.is_ipv4()
            })
        })
    }

    fn receive_batch(&mut self, SocketId(index): SocketId, now: Instant) -> io::Result<usize> {
        let Some(listening) = self.sockets.get(index).and_then(Option::as_ref) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let bound = listening.socket.local_addr();
        let trains = self.arena.receive(&listening.socket, RECV_BATCH)?.min(RECV_BATCH);
        self.totals.receive_calls += 1;
        let mut datagrams = 0;
        for train in 0..trains {
            let Some((received, range)) = self.arena.train(train) else {
                break;
            };
            let Some(from) = sender(&received, bound).filter(|_| !received.truncated) else {
                self.drops.one(Dropped::Truncated);
                continue;
            };
            let bytes = self.arena.bytes().get(range.clone()).unwrap_or_default();
            let header = self
                .sockets
                .get(index)
                .and_then(Option::as_ref)
                .map_or(0, |listening| listening.socket.header_length(bytes));
            let range = range.start + header.min(range.len())..range.end;
            if range.is_empty() {
                self.drops.one(Dropped::Empty);
            }
            let segment = if received.segment > 0 {
                received.segment
            } else {
                range.len().max(1)
            };
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + segment);
                datagrams += 1;
                self.datagram(index, from, start..end, false, now);
                start = end;
            }
        }
        self.totals.datagrams_in += datagrams as u64;
        self.write_out();
        Ok(datagrams)
    }

    /// Deals with one datagram in the arena. `crossed`: another shard received it.
    pub(crate) fn datagram(
        &mut self,
        index: usize,
        from: PeerAddr,
        range: Range<usize>,
        crossed: bool,
        now: Instant,
    ) {
        let Some(listening) = self.sockets.get(index).and_then(Option::as_ref) else {
            return;
        };
        let Some(packet) = self.arena.bytes().get_mut(range.clone()) else {
            return;
        };
        let listener = listening.listener;
        let kind = match listening.module.demux(packet) {
            Demux::Drop(reason) => {
                self.drops.by_module(listening.module_index, reason);
                return;
            }
            Demux::Data(key) => match self.paths.find(listener, key) {
                Some(slot) => {
                    self.open(slot, from, range, now);
                    return;
                }
                None => Kind::Data,
            },
            Demux::Control => Kind::Control,
        };
        let owner = listening.module.steer(packet, self.mesh.shards());
        if let Some(owner) = owner.filter(|&owner| !crossed && owner != self.mesh.shard()) {
            let cargo = Cargo::Datagram(listener, from);
            if self.mesh.cross(owner, cargo, packet) {
                self.totals.crossed += 1;
            } else {
                self.drops.one(Dropped::RingFull);
            }
            return;
        }
        if !self.slow.has_room(kind) {
            self.drops.one(Dropped::SlowQueueFull);
            return;
        }
        let item = Slow::Datagram {
            listener,
            from,
            packet: BytesMut::from(&*packet),
        };
        self.slow.push(kind, item);
    }

    /// Opens a data packet of an installed path.
    fn open(&mut self, slot: u32, from: PeerAddr, range: Range<usize>, now: Instant) {
        let Some(path) = self.paths.at(slot) else {
            return;
        };
        if path.peer.remote != from.remote {
            path.stats.dropped += 1;
            self.drops.one(Dropped::WrongPeer);
            return;
        }
        let Some(packet) = self.arena.bytes().get_mut(range.clone()) else {
            return;
        };
        let within = |inner: Range<usize>| {
            let fits = inner.start <= inner.end && inner.end <= range.len();
            fits.then(|| range.start + inner.start..range.start + inner.end)
        };
        let waiting = path.tapped.then(|| self.slow.len());
        match path.codec.open(packet, &from, now) {
            Opened::Ip(inner) => match within(inner) {
                Some(inner) => self.user_packet(slot, inner),
                None => self.refuse(slot, Dropped::Malformed),
            },
            Opened::Frame(inner) => match within(inner) {
                Some(inner) => self.frame(slot, &[], inner),
                None => self.refuse(slot, Dropped::Malformed),
            },
            Opened::Held | Opened::Consumed => {}
            Opened::Drop(reason) => {
                path.stats.dropped += 1;
                self.drops.by_module(path.module, reason);
            }
        }
        if let Some(waiting) = waiting.filter(|&waiting| self.slow.len() > waiting) {
            self.tap(slot, waiting, from, range);
        }
        let holds = self
            .paths
            .at(slot)
            .is_some_and(|path| path.holds || until(&*path.codec).is_some());
        if holds {
            self.release(slot, now);
        }
    }

    /// Lets a copy of a packet wait whose frames wait already, from the place `at` on.
    fn tap(&mut self, slot: u32, at: usize, from: PeerAddr, range: Range<usize>) {
        let packet = self.arena.bytes().get(range).unwrap_or_default();
        if let Some(path) = self.paths.at(slot) {
            self.slow.tap(at, path, Direction::In, from, packet);
        }
    }

    /// Lets those held packets of a path go on whose turn has come, and notes until when the others wait.
    fn release(&mut self, slot: u32, now: Instant) {
        while let Some(released) = self.paths.at(slot).and_then(|path| path.codec.release(now)) {
            let (packet, is_frame) = match &released {
                Released::Ip(packet) => (packet, false),
                Released::Frame(packet) => (packet, true),
            };
            let Some(range) = self.stash(packet) else {
                self.refuse(slot, Dropped::Malformed);
                continue;
            };
            if is_frame {
                self.frame(slot, &[], range);
            } else {
                self.user_packet(slot, range);
            }
        }
        let Some(path) = self.paths.at(slot) else {
            return;
        };
        if path.codec.speaks_at().is_some_and(|at| at <= now)
            && let Some(listening) = self.sockets.get_mut(path.socket).and_then(Option::as_mut)
            && listening.data.len() < DATA_BACKLOG
        {
            let start = listening.data.len();
            if path.codec.speak(now, listening.data.buffer()) {
                listening.data.commit(start, path.peer);
            }
        }
        // Where nothing is held any more, it stays in the list until that is looked through.
        if let Some(until) = until(&*path.codec) {
            self.held.note(slot, path.holds, until);
            path.holds = true;
        }
    }

    /// Looks through all paths that hold packets.
    pub(crate) fn release_held(&mut self, now: Instant) {
        for slot in self.held.take() {
            if let Some(path) = self.paths.at(slot) {
                path.holds = false;
                self.release(slot, now);
            }
        }
        self.write_out();
    }

    /// Copies a packet to where those of the batch lie. Where there is no room, what lies there is written out first.
    fn stash(&mut self, packet: &[u8]) -> Option<Range<usize>> {
        if let Some(range) = self.arena.stash(packet) {
            return Some(range);
        }
        self.write_out();
        self.arena.stash(packet)
    }

    /// Checks a user's IP packet and puts it among those to be written to the TUN device.
    fn user_packet(&mut self, slot: u32, range: Range<usize>) {
        if let Err(reason) = self.check_user_packet(slot, range) {
            self.refuse(slot, reason);
        }
    }

    fn check_user_packet(&mut self, slot: u32, range: Range<usize>) -> Result<(), Refused> {
        let path = self.paths.at(slot).ok_or(Dropped::Malformed)?;
        let bytes = self.arena.bytes();
        let packet = bytes.get_mut(range.clone()).ok_or(Dropped::Malformed)?;
        let ip = Ip::parse(packet).ok_or(Dropped::Malformed)?;
        let packet = packet.get_mut(..ip.total).ok_or(Dropped::Malformed)?;
        let source = ip.source(packet).ok_or(Dropped::Malformed)?;
        let destination = ip.destination(packet).ok_or(Dropped::Malformed)?;
        if ip.v6 && (is_local(source) || is_local(destination) || destination.is_multicast()) {
            self.frame(slot, &PPP_IPV6, range.start..range.start + ip.total);
            return Ok(());
        }
        if !path.may_send_from(source) {
            return Err(Dropped::SpoofedSource);
        }
        if self.tun.is_none() {
            return Err(Dropped::NoTun);
        }
        mss::clamp(packet, ip, path.mtu);
        path.stats.rx_packets += 1;
        path.stats.rx_bytes += ip.total as u64;
        if let Some((_, carried)) = self.carried.get_mut(path.module.0) {
            carried.rx_packets += 1;
            carried.rx_bytes += ip.total as u64;
        }
        let owner = (path.listener, path.key);
        self.coalescer
            .push(bytes, owner, ip, range.start..range.start + ip.total);
        Ok(())
    }

    /// Lets a frame wait for its machine.
    fn frame(&mut self, slot: u32, protocol: &[u8], range: Range<usize>) {
        let Some(path) = self.paths.at(slot) else {
            return;
        };
        if !self.slow.has_room(Kind::Frame) {
            path.stats.dropped += 1;
            self.drops.one(Dropped::SlowQueueFull);
            return;
        }
        let bytes = self.arena.bytes().get(range).unwrap_or_default();
        let mut frame = BytesMut::with_capacity(protocol.len() + bytes.len());
        frame.extend_from_slice(protocol);
        frame.extend_from_slice(bytes);
        let item = Slow::Frame {
            listener: path.listener,
            frame: SlowFrame {
                machine: path.machine,
                session: path.session,
                frame,
            },
        };
        self.slow.push(Kind::Frame, item);
    }

    fn refuse(&mut self, slot: u32, reason: Dropped) {
        self.drops.one(reason);
        if let Some(path) = self.paths.at(slot) {
            path.stats.dropped += 1;
        }
    }

    /// Writes all packets of the batch to the TUN device. After it nothing names the arena.
    pub(crate) fn write_out(&mut self) {
        if !self.coalescer.is_empty() {
            let (tun, drops, totals) = (&self.tun, &mut self.drops, &mut self.totals);
            self.coalescer.flush(self.arena.bytes(), |pieces, packets| {
                let Some(tun) = tun else {
                    return;
                };
                match tun.queue.write(pieces) {
                    Ok(()) => totals.tun_writes += 1,
                    Err(_) => drops.add(Dropped::TunWrite, packets as u64),
                }
            });
        }
        self.arena.clear_stash();
    }

    fn note_error(&mut self, SocketId(index): SocketId) {
        if let Some(listening) = self.sockets.get_mut(index).and_then(Option::as_mut) {
            listening.socket.note_error();
        }
    }

    /// Takes what ICMP reported of datagrams sent by a socket, if a call hinted at something.
    fn take_reports(&mut self, SocketId(index): SocketId) {
        let Some(listening) = self.sockets.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if !listening.socket.take_noted() {
            return;
        }
        let bound = listening.socket.local_addr();
        for _ in 0..MAX_REPORTS {
            let Ok(report) = udp::receive_report(listening.socket.as_fd()) else {
                break;
            };
            let Some(remote) = report.remote.filter(|_| report.unreachable) else {
                continue;
            };
            let local = report.local.map_or(bound.ip(), |address| address);
            let item = Slow::Unreachable {
                listener: listening.listener,
                peer: PeerAddr {
                    remote,
                    local: SocketAddr::new(local, bound.port()),
                },
            };
            self.slow.push(Kind::Report, item);
        }
    }
}

/// When a path's codec wants to be looked at: packets wait for others, or it has something to say itself.
fn until(codec: &dyn PathCodec) -> Option<Instant> {
    codec.held_until().into_iter().chain(codec.speaks_at()).min()
}

/// Whose a received train is. An IPv6 link-local address of ours goes with its interface.
fn sender(received: &Received, bound: SocketAddr) -> Option<PeerAddr> {
    let local = match received.local.unwrap_or(bound.ip()) {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, bound.port(), 0, received.interface).into()
        }
        address => SocketAddr::new(address, bound.port()),
    };
    Some(PeerAddr {
        remote: received.remote?,
        local,
    })
}

/// A link-local address, or none (the source of duplicate address detection goes to a multicast group anyway).
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
