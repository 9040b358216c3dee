//! The data plane of one shard, as the driver sees it.

use crate::ListenerId;
use crate::coalesce::Coalescer;
use crate::drops::{Dropped, Drops, ModuleIndex};
use crate::icmp::RateLimit;
use crate::mesh::MeshPort;
use crate::paths::{Held, Path, Paths, normalised};
use crate::receive::Arena;
use crate::routes::Routes;
use crate::send::{CONTROL_BACKLOG, DATA_BACKLOG, FRAME_RESERVE, SendQueue, SendStats, Sent};
use crate::slow::{Slow, SlowQueue};
use crate::tun::{Offloads, TunQueue};
use crate::udp::UdpSocket;
use crate::vnet::VNET_HEADER;
use sluice_spi::{
    DataPath, Direction, LocalRef, MachineKey, Module, PathError, PathRef, PathSpec, PathStats, PathUpdate,
    Payload, PeerAddr,
};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

/// Octets of the largest packet from a TUN queue, with its header.
const TUN_BUFFER: usize = VNET_HEADER + (64 << 10);

/// A socket that was given to a [`UserPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub(crate) usize);

/// How a poll ended.
#[derive(Debug)]
pub enum Progress {
    /// There is nothing more: wait until the descriptor is ready.
    Idle,
    /// The budget is used up: poll again after other work.
    More,
    /// The descriptor failed; for a TUN queue, the device may be gone.
    Failed(io::Error),
}

/// What a shard has carried since its start. Bytes are those of the IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// IP packets from peers that were let through.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// IP packets sealed towards peers.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Calls of `recvmmsg` that gave any.
    pub receive_calls: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Calls of `sendmmsg`.
    pub send_calls: u64,
    /// Packets and super-packets read from the TUN queue.
    pub tun_reads: u64,
    /// Packets and super-packets written to the TUN queue.
    pub tun_writes: u64,
    /// Packets passed to another shard.
    pub crossed: u64,
}

/// What a shard has carried of one protocol since its start. Bytes are those of the IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// IP packets from peers that were let through.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// IP packets sealed towards peers.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
}

/// A registered socket with what waits to leave by it.
pub(crate) struct Listening {
    pub listener: ListenerId,
    pub module: &'static dyn Module,
    pub module_index: ModuleIndex,
    pub socket: UdpSocket,
    /// Control messages: they leave before data.
    pub control: SendQueue,
    pub data: SendQueue,
    pub blocked: bool,
}

/// The TUN queue with what is on its way into it.
pub(crate) struct TunSide {
    pub queue: TunQueue,
    pub buffer: Box<[u8]>,
}

/// The data plane of one shard.
///
/// The driver waits for readiness of [`UserPath::socket_fd`] and [`UserPath::tun_fd`], and for its mesh waker, and
/// then calls [`UserPath::poll_udp`], [`UserPath::poll_tun`] and [`UserPath::poll_mesh`] until they say
/// [`Progress::Idle`]; each sends what it caused. After each it empties [`UserPath::pop_slow`]. What the driver sends
/// itself ([`UserPath::send`], [`DataPath::send_frame`]) leaves with [`UserPath::flush`]. Where
/// [`UserPath::wants_write`], it waits for the socket to become writable and calls [`UserPath::flush`] then.
pub struct UserPath {
    pub(crate) mesh: MeshPort,
    pub(crate) routes: Arc<Routes>,
    pub(crate) sockets: Vec<Option<Listening>>,
    pub(crate) paths: Paths,
    pub(crate) tun: Option<TunSide>,
    pub(crate) arena: Arena,
    pub(crate) coalescer: Coalescer,
    pub(crate) slow: SlowQueue,
    pub(crate) held: Held,
    pub(crate) drops: Drops,
    pub(crate) totals: Totals,
    /// By module index.
    pub(crate) carried: Vec<(&'static str, Carried)>,
    pub(crate) sends: SendStats,
    pub(crate) answers: RateLimit,
    /// A buffer to build single packets in.
    pub(crate) scratch: Vec<u8>,
}

impl fmt::Debug for UserPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPath")
            .field("shard", &self.mesh.shard())
            .field("paths", &self.paths.len())
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}

impl UserPath {
    /// The data plane of the shard whose end of the mesh this is, with room for `capacity` paths. It has no sockets
    /// and no TUN queue yet; it works without a TUN queue, but then drops user data.
    pub fn new(mesh: MeshPort, routes: Arc<Routes>, capacity: usize) -> Self {
        UserPath {
            paths: Paths::new(mesh.shard(), capacity),
            mesh,
            routes,
            sockets: Vec::new(),
            tun: None,
            arena: Arena::new(),
            coalescer: Coalescer::new(Offloads::default()),
            slow: SlowQueue::default(),
            held: Held::default(),
            drops: Drops::default(),
            totals: Totals::default(),
            carried: Vec::new(),
            sends: SendStats::default(),
            answers: RateLimit::new(),
            scratch: Vec::new(),
        }
    }

    /// Gives it a socket of a listener, whose packets the module understands.
    pub fn add_socket(
        &mut self,
        listener: ListenerId,
        module: &'static dyn Module,
        socket: UdpSocket,
    ) -> SocketId {
        let module_index = self.drops.register(module.descriptor());
        if module_index.0 == self.carried.len() {
            self.carried.push((module.descriptor().name, Carried::default()));
        }
        let listening = Listening {
            listener,
            module_index,
            module,
            socket,
            control: SendQueue::default(),
            data: SendQueue::default(),
            blocked: false,
        };
        match self.sockets.iter().position(Option::is_none) {
            Some(index) => {
                if let Some(place) = self.sockets.get_mut(index) {
                    *place = Some(listening);
                }
                SocketId(index)
            }
            None => {
                self.sockets.push(Some(listening));
                SocketId(self.sockets.len() - 1)
            }
        }
    }

    /// Takes a socket back. Paths that use it should have been removed; what they send is dropped.
    pub fn remove_socket(&mut self, socket: SocketId) -> Option<UdpSocket> {
        let removed = self.sockets.get_mut(socket.0)?.take()?;
        Some(removed.socket)
    }

    /// Gives it the shard's queue of the TUN device; the former one is given back.
    pub fn set_tun(&mut self, queue: Option<TunQueue>) -> Option<TunQueue> {
        let offloads = queue.as_ref().map(TunQueue::offloads);
        self.coalescer = Coalescer::new(offloads.unwrap_or_default());
        let tun = queue.map(|queue| TunSide {
            queue,
            buffer: vec![0; TUN_BUFFER].into_boxed_slice(),
        });
        std::mem::replace(&mut self.tun, tun).map(|former| former.queue)
    }

    /// A socket's descriptor, to wait for readiness.
    pub fn socket_fd(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        let listening = self.sockets.get(socket.0)?.as_ref()?;
        Some(listening.socket.as_fd())
    }

    /// The TUN queue's descriptor, to wait for readiness.
    pub fn tun_fd(&self) -> Option<BorrowedFd<'_>> {
        self.tun.as_ref().map(|tun| tun.queue.as_fd())
    }

    /// The registered sockets.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketId, ListenerId, &UdpSocket)> {
        self.sockets.iter().enumerate().filter_map(|(index, place)| {
            let listening = place.as_ref()?;
            Some((SocketId(index), listening.listener, &listening.socket))
        })
    }

    /// Queues a datagram (a control message) of a listener to a peer, from the peer's local address. Control messages
    /// leave before data. False: it was dropped and counted, because too much waits or no socket has the address.
    pub fn send(&mut self, listener: ListenerId, peer: PeerAddr, datagram: &[u8]) -> bool {
        let found = find_socket(&self.sockets, Some(listener), peer.local);
        let Some(listening) = found.and_then(|index| self.sockets.get_mut(index)?.as_mut()) else {
            self.drops.one(Dropped::NoSocket);
            return false;
        };
        let queued = listening
            .control
            .push(normalised(peer), datagram, CONTROL_BACKLOG);
        if !queued {
            self.drops.one(Dropped::SendQueueFull);
        }
        queued
    }

    /// Sends what waits, control messages first, and wakes the shards that packets crossed to.
    pub fn flush(&mut self) {
        for listening in self.sockets.iter_mut().flatten() {
            flush_socket(listening, &mut self.sends, &mut self.drops);
        }
        self.mesh.wake();
    }

    /// Whether something waits because a socket takes nothing: call [`UserPath::flush`] when it is writable.
    pub fn wants_write(&self, socket: SocketId) -> bool {
        let found = self.sockets.get(socket.0).and_then(Option::as_ref);
        found.is_some_and(|listening| listening.blocked)
    }

    /// The next item that is not for the data plane, in the order of arrival.
    pub fn pop_slow(&mut self) -> Option<Slow> {
        self.slow.pop()
    }

    /// Number of items that [`UserPath::pop_slow`] would give.
    pub fn slow_waiting(&self) -> usize {
        self.slow.len()
    }

    /// Number of installed paths.
    pub fn path_count(&self) -> usize {
        self.paths.len()
    }

    /// Dropped packets by reason, since the start.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// What was carried, since the start.
    pub fn totals(&self) -> Totals {
        let sum = |part: fn(&Carried) -> u64| self.carried.iter().map(|(_, carried)| part(carried)).sum();
        Totals {
            rx_packets: sum(|carried| carried.rx_packets),
            rx_bytes: sum(|carried| carried.rx_bytes),
            tx_packets: sum(|carried| carried.tx_packets),
            tx_bytes: sum(|carried| carried.tx_bytes),
            datagrams_out: self.sends.datagrams,
            send_calls: self.sends.calls,
            ..self.totals
        }
    }

    /// What was carried of each protocol, by the name in its module's descriptor.
    pub fn carried(&self) -> impl Iterator<Item = (&'static str, Carried)> {
        self.carried.iter().copied()
    }

    /// When [`UserPath::handle_timeout`] wants to be called: the end of the first wait for a packet that is missing in
    /// a sequence.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.held.deadline()
    }

    /// Lets packets go on that waited long enough for those before them.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.deadline().is_some_and(|deadline| deadline <= now) {
            self.release_held(now);
        }
    }
}

/// Sends what waits for one socket.
pub(crate) fn flush_socket(listening: &mut Listening, sends: &mut SendStats, drops: &mut Drops) {
    let mut sent = listening.control.flush(&listening.socket, sends, drops);
    if sent == Sent::All {
        sent = listening.data.flush(&listening.socket, sends, drops);
    }
    listening.blocked = sent == Sent::Blocked;
}

/// The socket that packets from a local address leave by: the one bound to just this address, or to its port on all
/// addresses of the family.
fn find_socket(
    sockets: &[Option<Listening>],
    listener: Option<ListenerId>,
    local: SocketAddr,
) -> Option<usize> {
    let mut any_address = None;
    for (index, listening) in sockets.iter().enumerate() {
        let Some(listening) = listening else {
            continue;
        };
        let bound = listening.socket.local_addr();
        let other = listener.is_some_and(|listener| listening.listener != listener);
        if other || bound.port() != local.port() || bound.is_ipv4() != local.is_ipv4() {
            continue;
        }
        if bound.ip() == local.ip() {
            return Some(index);
        }
        if bound.ip().is_unspecified() {
            any_address = any_address.or(Some(index));
        }
    }
    any_address
}

impl DataPath for UserPath {
    fn install(
        &mut self,
        machine: MachineKey,
        session: LocalRef,
        spec: PathSpec,
    ) -> Result<PathRef, PathError> {
        let peer = normalised(spec.peer);
        let socket = find_socket(&self.sockets, None, peer.local).ok_or(PathError::NoSocket(peer.local))?;
        let listening = self
            .sockets
            .get(socket)
            .and_then(Option::as_ref)
            .ok_or(PathError::NoSocket(peer.local))?;
        let path = Path {
            peer,
            socket,
            mtu: spec.mtu,
            listener: listening.listener,
            module: listening.module_index,
            filter: spec.filter,
            stats: PathStats::default(),
            codec: spec.codec,
            key: spec.key,
            machine,
            session,
            holds: false,
            tapped: false,
        };
        self.paths.insert(path, &self.routes)
    }

    fn update(&mut self, path: PathRef, update: PathUpdate) -> Result<(), PathError> {
        match update {
            PathUpdate::Filter(filter) => return self.paths.set_filter(path, filter, &self.routes),
            PathUpdate::Mtu(mtu) => {
                self.paths.get_mut(path).ok_or(PathError::Unknown)?.mtu = mtu;
            }
            PathUpdate::Peer(peer) => {
                let peer = normalised(peer);
                let found = self.paths.get_mut(path).ok_or(PathError::Unknown)?;
                let socket = find_socket(&self.sockets, Some(found.listener), peer.local)
                    .ok_or(PathError::NoSocket(peer.local))?;
                (found.peer, found.socket) = (peer, socket);
                found.codec.set_peer(peer);
            }
            PathUpdate::Sequencing(on) => {
                let found = self.paths.get_mut(path).ok_or(PathError::Unknown)?;
                found.codec.set_sequencing(on);
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: PathRef) -> Option<(PathStats, Vec<u8>)> {
        let removed = self.paths.remove(path, &self.routes)?;
        Some((removed.stats, removed.codec.hot_state()))
    }

    fn stats(&self, path: PathRef) -> Option<PathStats> {
        self.paths.get(path).map(|path| path.stats)
    }

    fn hot_state(&self, path: PathRef) -> Option<Vec<u8>> {
        self.paths.get(path).map(|path| path.codec.hot_state())
    }

    /// Frames keep their place among the session's data, because they share its sequence numbers; but they still find
    /// room where no more data would.
    fn send_frame(&mut self, path: PathRef, frame: &[u8]) {
        let Some(found) = self.paths.get_mut(path) else {
            return;
        };
        let Some(listening) = self.sockets.get_mut(found.socket).and_then(Option::as_mut) else {
            self.drops.one(Dropped::NoSocket);
            found.stats.dropped += 1;
            return;
        };
        let start = listening.data.len();
        let has_room = start + frame.len() + found.codec.overhead() <= DATA_BACKLOG + FRAME_RESERVE;
        let reason = if !has_room {
            Dropped::SendQueueFull
        } else if found.codec.seal(Payload::Frame(frame), listening.data.buffer()) {
            let sent = listening.data.buffer().get(start..).filter(|_| found.tapped);
            if let Some(packet) = sent {
                self.slow
                    .tap(self.slow.len(), found, Direction::Out, found.peer, packet);
            }
            listening.data.commit(start, found.peer);
            return;
        } else {
            Dropped::NotReady
        };
        self.drops.one(reason);
        found.stats.dropped += 1;
    }

    fn tap(&mut self, path: PathRef, on: bool) {
        if let Some(found) = self.paths.get_mut(path) {
            found.tapped = on;
        }
    }
}
