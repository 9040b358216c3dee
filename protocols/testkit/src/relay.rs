//! A relay in real time that loses, doubles, delays and reorders packets, for tests with real peers on kernels
//! without netem.
//!
//! Clients speak to the relay as if it were the server. For UDP each client gets a socket of its own towards the
//! server, so that the server sees as many peers as there are; GRE has no ports, so that a GRE relay joins one
//! client and one server.

use crate::Seeded;
use crate::link::{Impairment, Link, LinkStats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients of one UDP relay at the most; the one that was silent longest makes room for another.
pub const MAX_CLIENTS: usize = 4096;
/// IP protocol number of GRE.
const GRE: i32 = 47;
/// Packets read from one socket before the others have their turn.
const READ_BUDGET: usize = 64;
/// Longest sleep: how long stopping takes at the most.
const MAX_SLEEP: Duration = Duration::from_millis(50);
const BUFFER: usize = 65_536;

/// What the relay is to do.
#[derive(Clone, Copy, Debug)]
pub struct RelayConfig {
    /// What happens to packets from clients to the server.
    pub up: Impairment,
    /// What happens to packets from the server to clients.
    pub down: Impairment,
    /// Seed of the faults.
    pub seed: u64,
}

struct Shared {
    stop: AtomicBool,
    changed: Mutex<Option<(Impairment, Impairment)>>,
    stats: Mutex<(LinkStats, LinkStats)>,
}

/// A running relay. It stops when this is dropped.
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays UDP from `listen` (port 0: any) to `server`.
    pub fn udp(listen: SocketAddr, server: SocketAddr, config: RelayConfig) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let wires = Udp {
            socket,
            server,
            clients: HashMap::new(),
        };
        Ok(Self::start(address, wires, config))
    }

    /// Relays GRE that comes to the address `listen` of this host to `server`, and what comes from there to the
    /// client that spoke last. Needs the right to open raw sockets.
    pub fn gre(listen: Ipv4Addr, server: Ipv4Addr, config: RelayConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(GRE)))?;
        let address = SocketAddr::from((listen, 0));
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        Ok(Self::start(
            address,
            Gre {
                socket,
                server,
                client: None,
            },
            config,
        ))
    }

    fn start(address: SocketAddr, wires: impl Wires, config: RelayConfig) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            changed: Mutex::new(None),
            stats: Mutex::default(),
        });
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || Engine::new(wires, config).run(&theirs));
        Self {
            shared,
            address,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to packets that arrive from now on.
    pub fn set_impairment(&self, up: Impairment, down: Impairment) {
        *self.shared.changed.lock().expect("the relay runs") = Some((up, down));
    }

    /// What became of packets from clients and to clients so far.
    pub fn stats(&self) -> (LinkStats, LinkStats) {
        *self.shared.stats.lock().expect("the relay runs")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes a packet with its client, and whether the server sent it.
type Take<'a, Client> = dyn FnMut(Client, bool, &[u8]) + 'a;

/// The sockets of a relay.
trait Wires: Send + 'static {
    /// Who a packet is from or for, among clients.
    type Client: Clone + Send + 'static;

    /// Waits until something can be read.
    fn wait(&self, timeout: Duration);

    /// Reads what has come.
    fn read(&mut self, take: &mut Take<'_, Self::Client>);

    /// Sends a packet of a client to the server.
    fn send_up(&mut self, client: &Self::Client, bytes: &[u8]);

    /// Sends a packet of the server to a client.
    fn send_down(&mut self, client: &Self::Client, bytes: &[u8]);
}

struct Engine<W: Wires> {
    wires: W,
    up: Link<(W::Client, Vec<u8>)>,
    down: Link<(W::Client, Vec<u8>)>,
}

impl<W: Wires> Engine<W> {
    fn new(wires: W, config: RelayConfig) -> Self {
        let mut random = Seeded::new(config.seed);
        Self {
            wires,
            up: Link::new(config.up, random.next_u64()),
            down: Link::new(config.down, random.next_u64()),
        }
    }

    fn run(mut self, shared: &Shared) {
        while !shared.stop.load(Ordering::Relaxed) {
            let next = self
                .up
                .next_arrival()
                .into_iter()
                .chain(self.down.next_arrival())
                .min();
            let sleep = next.map_or(MAX_SLEEP, |at| at.saturating_duration_since(Instant::now()));
            self.wires.wait(sleep.min(MAX_SLEEP));
            if let Some((up, down)) = shared.changed.lock().expect("no holder panics").take() {
                self.up.set_impairment(up);
                self.down.set_impairment(down);
            }
            let (up, down) = (&mut self.up, &mut self.down);
            let now = Instant::now();
            self.wires.read(&mut |client, from_server, bytes| {
                let link = if from_server { &mut *down } else { &mut *up };
                link.send((client, bytes.to_vec()), bytes.len(), now);
            });
            let now = Instant::now();
            while let Some((client, bytes)) = self.up.receive(now) {
                self.wires.send_up(&client, &bytes);
            }
            while let Some((client, bytes)) = self.down.receive(now) {
                self.wires.send_down(&client, &bytes);
            }
            *shared.stats.lock().expect("no holder panics") = (self.up.stats(), self.down.stats());
        }
    }
}

fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) {
    let timeout = Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // An interrupted or failed wait is a short one: all sockets are non-blocking.
    let _ = poll(fds, Some(&timeout));
}

struct Upstream {
    socket: UdpSocket,
    active: Instant,
}

struct Udp {
    socket: UdpSocket,
    server: SocketAddr,
    clients: HashMap<SocketAddr, Upstream>,
}

impl Udp {
    fn upstream(&mut self, client: SocketAddr) -> io::Result<&mut Upstream> {
        if !self.clients.contains_key(&client) {
            if self.clients.len() >= MAX_CLIENTS {
                let oldest = self.clients.iter().min_by_key(|(_, upstream)| upstream.active);
                if let Some(oldest) = oldest.map(|(&address, _)| address) {
                    self.clients.remove(&oldest);
                }
            }
            let any: IpAddr = match self.server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            self.clients.insert(
                client,
                Upstream {
                    socket,
                    active: Instant::now(),
                },
            );
        }
        self.clients
            .get_mut(&client)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Wires for Udp {
    type Client = SocketAddr;

    fn wait(&self, timeout: Duration) {
        let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
        fds.extend(
            self.clients
                .values()
                .map(|upstream| PollFd::new(&upstream.socket, PollFlags::IN)),
        );
        wait_for(&mut fds, timeout);
    }

    fn read(&mut self, take: &mut Take<'_, SocketAddr>) {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..READ_BUDGET {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, client)) => take(client, false, &buffer[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        for (&client, upstream) in &mut self.clients {
            for _ in 0..READ_BUDGET {
                match upstream.socket.recv_from(&mut buffer) {
                    // A server may answer from another port, never from another host.
                    Ok((length, from)) if from.ip() == self.server.ip() => {
                        upstream.active = Instant::now();
                        take(client, true, &buffer[..length]);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    Err(_) => break,
                }
            }
        }
    }

    fn send_up(&mut self, client: &SocketAddr, bytes: &[u8]) {
        let server = self.server;
        // What the kernel does not take is lost, as on any link.
        if let Ok(upstream) = self.upstream(*client) {
            upstream.active = Instant::now();
            let _ = upstream.socket.send_to(bytes, server);
        }
    }

    fn send_down(&mut self, client: &SocketAddr, bytes: &[u8]) {
        let _ = self.socket.send_to(bytes, client);
    }
}

struct Gre {
    socket: Socket,
    server: Ipv4Addr,
    client: Option<Ipv4Addr>,
}

impl Wires for Gre {
    type Client = Ipv4Addr;

    fn wait(&self, timeout: Duration) {
        wait_for(&mut [PollFd::new(&self.socket, PollFlags::IN)], timeout);
    }

    fn read(&mut self, take: &mut Take<'_, Ipv4Addr>) {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..READ_BUDGET {
            let Ok(length) = (&self.socket).read(&mut buffer) else {
                return;
            };
            // A raw IPv4 socket gives the IP header as well.
            let Some((source, payload)) = buffer.get(..length).and_then(split_ipv4) else {
                continue;
            };
            if source != self.server {
                self.client = Some(source);
                take(source, false, payload);
            } else if let Some(client) = self.client {
                take(client, true, payload);
            }
        }
    }

    fn send_up(&mut self, _: &Ipv4Addr, bytes: &[u8]) {
        let _ = self
            .socket
            .send_to(bytes, &SocketAddrV4::new(self.server, 0).into());
    }

    fn send_down(&mut self, client: &Ipv4Addr, bytes: &[u8]) {
        let _ = self.socket.send_to(bytes, &SocketAddrV4::new(*client, 0).into());
    }
}

/// Source address and payload of an IPv4 packet.
fn split_ipv4(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some((source.into(), packet.get(header..)?))
}
