//! What the tests of the data plane share: network namespaces, a protocol with the plainest of headers, and a
//! loop that drives a data plane.
#![allow(dead_code, missing_docs, unreachable_pub)]

use bytes::{BufMut, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getcpu, sched_setaffinity};
use sluice_dataplane::{
    ListenerId, MeshPort, Progress, Routes, Slow, SocketId, Tun, UdpSocket, UserPath, mesh,
};
use sluice_spi::config::Section;
use sluice_spi::{
    AddressFilter, Claim, DataPath, Demux, Descriptor, DropReason, Entropy, Factory, Front, LocalRef,
    Machine, MachineKey, Module, Open, OpenError, Opened, PathCodec, PathKey, PathRef, PathSpec, Payload,
    PeerAddr, Released, Resumption, ShardId, Shards, Transport,
};
use std::fs::File;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LISTENER: ListenerId = ListenerId(3);

/// How long a test waits for what has to come: no machine is so slow, and only a failure takes as long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace that lives as long as this and what was made in it.
pub struct Netns(File);

impl Netns {
    /// `None`, with a printed reason, where namespaces cannot be made.
    pub fn new() -> Option<Netns> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-dataplane-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        run(&format!("ip netns del {name}"));
        let netns = Netns(file);
        netns.run("ip link set lo up");
        Some(netns)
    }

    /// Does something within the namespace, on a thread of its own.
    pub fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Sets a parameter of the namespace's network stack.
    pub fn set(&self, parameter: &str, value: &str) {
        self.within(|| std::fs::write(format!("/proc/sys/net/{parameter}"), value).unwrap());
    }

    /// Runs a command within the namespace.
    pub fn run(&self, command: &str) {
        self.output(command);
    }

    /// Runs a command within the namespace, and gives what it wrote.
    fn output(&self, command: &str) -> String {
        self.within(|| run(command))
    }

    /// Gives a device an address, such as `10.9.1.1/16`, and waits until packets to it are taken in. The kernel makes
    /// an IPv6 address a local one in a work queue of its own, some time after the command has returned, and until
    /// then drops what comes for it.
    pub fn add_address(&self, device: &str, address: &str) {
        if !address.contains(':') {
            return self.run(&format!("ip addr add {address} dev {device}"));
        }
        self.run(&format!("ip -6 addr add {address} dev {device} nodad"));
        let host = address.split('/').next().unwrap();
        let end = Instant::now() + PATIENCE;
        while !self
            .output(&format!("ip -6 route get {host}"))
            .starts_with("local ")
        {
            assert!(Instant::now() < end, "{address} does not become local");
        }
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Keeps this thread on the processor it runs on. What crosses the loopback device waits in a queue of the processor
/// that sent it, so that only what one processor sent arrives in the order of sending.
pub fn stay_on_one_cpu() {
    let mut own = CpuSet::new();
    own.set(sched_getcpu());
    sched_setaffinity(None, &own).unwrap();
}

/// Waits until something can be read.
pub fn readable(descriptor: impl AsFd) {
    let mut waits = [PollFd::new(&descriptor, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: PATIENCE.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut waits, Some(&timeout)).unwrap(), 1, "nothing comes");
}

/// The next datagram that comes to a socket, which may be a non-blocking one, and its sender.
pub fn receive(socket: &StdSocket) -> (Vec<u8>, SocketAddr) {
    readable(socket);
    let mut buffer = vec![0; 70_000];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

pub const MAGIC: u8 = 0xd5;
pub const HEADER: usize = 8;
pub const KIND_IP: u8 = 1;
pub const KIND_FRAME: u8 = 2;
pub const KIND_CONTROL: u8 = 3;
/// User data that waits for the next packet, or for [`HOLD`].
pub const KIND_HELD: u8 = 4;
pub const HOLD: Duration = Duration::from_millis(20);

/// A datagram of the toy protocol: magic, kind, two octets unused, key, payload.
pub fn datagram(kind: u8, key: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![MAGIC, kind, 0, 0];
    bytes.extend(key.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub struct ToyCodec {
    key: u32,
    /// It takes packets from no other.
    peer: PeerAddr,
    held: Option<(BytesMut, Instant)>,
    release_all: bool,
    pub sequencing: bool,
}

impl ToyCodec {
    pub fn boxed(key: u32, peer: PeerAddr) -> Box<dyn PathCodec> {
        Box::new(ToyCodec {
            key,
            peer,
            held: None,
            release_all: false,
            sequencing: false,
        })
    }
}

impl PathCodec for ToyCodec {
    fn open(&mut self, packet: &mut [u8], from: &PeerAddr, now: Instant) -> Opened {
        assert_eq!(self.peer.remote, from.remote);
        let range = HEADER..packet.len();
        match packet[1] {
            KIND_IP => {
                self.release_all = self.held.is_some();
                Opened::Ip(range)
            }
            KIND_FRAME => Opened::Frame(range),
            KIND_HELD => {
                self.held = Some((BytesMut::from(&packet[range]), now + HOLD));
                Opened::Held
            }
            _ => Opened::Drop(DropReason("kind")),
        }
    }

    fn release(&mut self, now: Instant) -> Option<Released> {
        let due = |&mut (_, until): &mut (BytesMut, Instant)| self.release_all || until <= now;
        let released = self.held.take_if(due)?;
        self.release_all = false;
        Some(Released::Ip(released.0))
    }

    fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().map(|&(_, until)| until)
    }

    fn seal(&mut self, payload: Payload<'_>, out: &mut BytesMut) -> bool {
        let (kind, bytes) = match payload {
            Payload::Ip(bytes) => (KIND_IP, bytes),
            Payload::Frame(bytes) => (KIND_FRAME, bytes),
        };
        out.put_slice(&[MAGIC, kind, u8::from(self.sequencing), 0]);
        out.put_u32(self.key);
        out.put_slice(bytes);
        true
    }

    fn set_sequencing(&mut self, on: bool) {
        self.sequencing = on;
    }

    fn set_peer(&mut self, peer: PeerAddr) {
        self.peer = peer;
    }

    fn overhead(&self) -> usize {
        HEADER
    }

    fn hot_state(&self) -> Vec<u8> {
        self.key.to_be_bytes().to_vec()
    }
}

/// A module whose keys name their shard in their low bits.
pub struct ToyModule;

static TOY: Descriptor = Descriptor {
    name: "toy",
    title: "Toy",
    transport: Transport::Udp,
    packets: None,
    default_port: 4000,
    specifications: &[],
    resumption: Resumption::Checkpoint,
    drop_reasons: &["magic", "kind"],
    counters: &[],
};

struct NoFactory;

impl Factory for NoFactory {
    fn front(&self, _: ShardId, _: Shards, _: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        None
    }

    fn machine(
        &self,
        _: Open<'_>,
        _: ShardId,
        _: Box<dyn Entropy>,
        _: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        Err(OpenError::NotSupported)
    }
}

impl Module for ToyModule {
    fn descriptor(&self) -> &'static Descriptor {
        &TOY
    }

    fn classify(&self, first: &[u8]) -> Claim {
        if first.first() == Some(&MAGIC) {
            Claim::Mine
        } else {
            Claim::NotMine
        }
    }

    fn steer(&self, packet: &[u8], shards: Shards) -> Option<ShardId> {
        Some(shards.of_id(u16::from(*packet.get(7)?)))
    }

    fn demux(&self, packet: &[u8]) -> Demux {
        let Some([MAGIC, kind, _, _, key @ ..]) = packet.first_chunk::<HEADER>() else {
            return Demux::Drop(DropReason("magic"));
        };
        match *kind {
            KIND_CONTROL => Demux::Control,
            _ => Demux::Data(PathKey(u32::from_be_bytes(*key))),
        }
    }

    fn steering_program(&self, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        // A = octet 7 of the payload; A %= virtual shards; A %= shards; return A.
        Some(vec![
            (0x30, 0, 0, 7),
            (0x94, 0, 0, u32::from(Shards::VIRTUAL)),
            (0x94, 0, 0, u32::from(shards.count())),
            (0x16, 0, 0, 0),
        ])
    }

    fn configure(&self, _: &Section<'_>) -> Box<dyn Factory> {
        Box::new(NoFactory)
    }
}

/// A data plane of one shard.
pub fn alone() -> UserPath {
    let waker: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
    let port = mesh(vec![waker]).pop().unwrap();
    on_port(port, Arc::new(Routes::new(64)))
}

pub fn on_port(port: MeshPort, routes: Arc<Routes>) -> UserPath {
    UserPath::new(port, routes, 1024)
}

/// Binds one socket for it.
pub fn bind(path: &mut UserPath, address: &str) -> (SocketId, SocketAddr) {
    let group = UdpSocket::bind_group(address.parse().unwrap(), Shards::new(1), &ToyModule).unwrap();
    let socket = group.into_iter().next().unwrap();
    let bound = socket.local_addr();
    (path.add_socket(LISTENER, &ToyModule, socket), bound)
}

/// Creates a TUN device with one queue for it; gives the device's name.
pub fn add_tun(path: &mut UserPath) -> String {
    let tun = Tun::create(None, 1).unwrap();
    let name = tun.name().to_owned();
    path.set_tun(tun.into_queues().pop());
    name
}

pub fn filter(v4: &str, v6: &str) -> AddressFilter {
    AddressFilter {
        ipv4: (!v4.is_empty()).then(|| v4.parse().unwrap()),
        ipv6: (!v6.is_empty()).then(|| v6.parse().unwrap()),
    }
}

/// Installs a path with a toy codec.
pub fn install(path: &mut UserPath, key: u32, peer: PeerAddr, filter: AddressFilter, mtu: u16) -> PathRef {
    let spec = PathSpec {
        key: PathKey(key),
        peer,
        codec: ToyCodec::boxed(key, peer),
        filter,
        mtu,
    };
    path.install(MachineKey(key >> 16), LocalRef(key & 0xffff), spec)
        .unwrap()
}

/// Waits until something can be read from a data plane's descriptors, at most a few milliseconds, and works on it.
pub fn drive(path: &mut UserPath) {
    let mut sockets = Vec::new();
    {
        let mut waits = Vec::new();
        for (socket, _, _) in path.sockets() {
            sockets.push(socket);
            let events = if path.wants_write(socket) {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            let fd = path.socket_fd(socket).unwrap();
            waits.push(PollFd::from_borrowed_fd(fd, events));
        }
        if let Some(fd) = path.tun_fd() {
            waits.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        poll(&mut waits, Some(&timeout)).unwrap();
    }
    let now = Instant::now();
    for socket in sockets {
        expect(path.poll_udp(socket, 512, now));
    }
    expect(path.poll_tun(64, now));
    expect(path.poll_mesh(64, now));
    path.handle_timeout(now);
    path.flush();
}

fn expect(progress: Progress) {
    if let Progress::Failed(error) = progress {
        panic!("a descriptor failed: {error}");
    }
}

/// Drives data planes until a condition holds; panics when it does not within [`PATIENCE`].
pub fn until(paths: &mut [&mut UserPath], what: &str, mut holds: impl FnMut(&mut [&mut UserPath]) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds(paths) {
        if Instant::now() > end {
            let drops: Vec<_> = paths.iter().map(|path| reasons(path)).collect();
            panic!("not within {PATIENCE:?}: {what}; dropped {drops:?}");
        }
        for path in paths.iter_mut() {
            drive(path);
        }
    }
}

/// The drops that were counted.
pub fn reasons(path: &UserPath) -> Vec<(&'static str, u64)> {
    let counted = path.drops().iter().filter(|&(_, _, count)| count > 0);
    counted.map(|(_, reason, count)| (reason, count)).collect()
}

/// All waiting items for the driver.
pub fn slow(path: &mut UserPath) -> Vec<Slow> {
    std::iter::from_fn(|| path.pop_slow()).collect()
}

/// Drives a data plane on a thread until told to stop.
pub fn spawn_driver<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    path: &'scope mut UserPath,
    stop: &'scope AtomicBool,
) {
    scope.spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            drive(path);
        }
    });
}

/// Reproducible bytes.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
