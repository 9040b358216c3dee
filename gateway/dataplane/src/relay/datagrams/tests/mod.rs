//! Relays over loopback sockets, all on one thread. Nothing is waited for by sleeping.

mod answers;
mod batches;
mod client;
mod decisions;
mod handover;
mod times;

use super::super::tests::{in_virtual_time, on_one_thread, settle};
use super::*;
use bytes::{BufMut, BytesMut};
use sluice_auth::{Destination, Host};
use sluice_spi::{ClientDatagram, DropReason, Target};
use sluice_testkit::Seeded;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};

/// The toy's own reasons.
const TOY_BAD: DropReason = DropReason("toy_bad");
const TOY_TARGET: DropReason = DropReason("toy_target");
/// A payload for which the toy has nothing to send.
const UNSEALABLE: &[u8] = b"unsealable";
/// How long the toy holds something.
const HOLD: Duration = Duration::from_secs(5);

/// A codec with a datagram of a kind (0: to a target; 1: a part, which is held; else: bad), the length of the target's
/// text, the text `host:port`, and the payload.
#[derive(Default)]
struct Toy {
    held: usize,
    until: Option<Instant>,
}

impl RelayCodec for Toy {
    fn open<'a>(&'a mut self, packet: &'a [u8], now: Instant) -> ClientDatagram<'a> {
        match packet {
            [0, length, rest @ ..] if rest.len() >= usize::from(*length) => {
                let (target, payload) = rest.split_at(usize::from(*length));
                ClientDatagram::To { target, payload }
            }
            [1, ..] => {
                self.held += 1;
                self.until = Some(now + HOLD);
                ClientDatagram::Held
            }
            _ => ClientDatagram::Drop(TOY_BAD),
        }
    }

    fn target(&self, octets: &[u8]) -> Result<Target, DropReason> {
        let text = std::str::from_utf8(octets).map_err(|_| TOY_TARGET)?;
        let (host, port) = text.rsplit_once(':').ok_or(TOY_TARGET)?;
        Ok(Destination {
            host: Host::parse(host.as_bytes()).map_err(|_| TOY_TARGET)?,
            port: port.parse().map_err(|_| TOY_TARGET)?,
        })
    }

    fn seal(&mut self, from: SocketAddr, payload: &[u8], out: &mut BytesMut) -> Result<(), DropReason> {
        if payload == UNSEALABLE {
            return Err(TOY_BAD);
        }
        let from = from.to_string();
        out.put_u8(0);
        out.put_u8(u8::try_from(from.len()).unwrap());
        out.put_slice(from.as_bytes());
        out.put_slice(payload);
        Ok(())
    }

    fn overhead(&self) -> usize {
        64
    }

    fn held_until(&self) -> Option<Instant> {
        self.until
    }

    fn expire(&mut self, now: Instant) -> usize {
        assert!(
            self.until.take().is_some_and(|until| until <= now),
            "it is not due"
        );
        std::mem::take(&mut self.held)
    }
}

/// A datagram as the toy has it, in both directions.
fn toy(target: impl ToString, payload: &[u8]) -> Vec<u8> {
    let target = target.to_string();
    let length = u8::try_from(target.len()).unwrap();
    [&[0, length], target.as_bytes(), payload].concat()
}

/// An owner that lets addresses pass. Of names it denies `denied`, has no way to `elsewhere`, does
/// not find `lost`, fails with `panics`, and says
/// of all others what the test tells it.
#[derive(Default)]
struct Owner {
    asked: RefCell<Vec<String>>,
    open: RefCell<HashMap<String, oneshot::Sender<Verdict>>>,
    /// How addresses are reached.
    way: RefCell<Way>,
    idle: Cell<Option<Duration>>,
    /// Whether no address may be reached.
    denies: Cell<bool>,
}

impl Owner {
    fn tell(&self, name: &str, verdict: Verdict) {
        let sender = self.open.borrow_mut().remove(name).expect("it was asked");
        sender.send(verdict).expect("the relay waits");
    }

    fn reach(&self, to: SocketAddr) -> Reach {
        Reach {
            way: self.way.borrow().clone(),
            idle: self.idle.get(),
            ..to.into()
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }
}

impl Resolve for Owner {
    fn decide(&self, target: Target) -> Decision {
        self.asked.borrow_mut().push(target.to_string());
        let name = match target.host {
            Host::Address(_) if self.denies.get() => return Decision::Now(Err(Refusal::Denied)),
            Host::Address(ip) => return Decision::Now(Ok(self.reach((ip, target.port).into()))),
            Host::Name(name) => name.to_string(),
        };
        match name.as_str() {
            "denied" => Decision::Now(Err(Refusal::Denied)),
            "elsewhere" => Decision::Now(Err(Refusal::Upstream)),
            "lost" => Decision::Now(Err(Refusal::Failed)),
            "panics" => Decision::Later(Box::pin(async { panic!("as the test wants it") })),
            _ => {
                let (sender, receiver) = oneshot::channel();
                self.open.borrow_mut().insert(name, sender);
                Decision::Later(Box::pin(async { receiver.await.unwrap_or(Err(Refusal::Failed)) }))
            }
        }
    }
}

fn pool() -> Rc<DatagramPool> {
    DatagramPool::new(Box::new(Seeded::new(7)))
}

async fn socket(address: impl Into<IpAddr>) -> UdpSocket {
    let socket = UdpSocket::bind((address.into(), 0)).await.unwrap();
    // So that a test may send without waiting.
    socket.writable().await.unwrap();
    socket
}

async fn local() -> UdpSocket {
    socket(Ipv4Addr::LOCALHOST).await
}

/// Options with these settings.
fn with(settings: Settings) -> Options {
    Options {
        settings: Rc::new(settings),
        ..Options::default()
    }
}

/// A running relay, a client and a target.
struct Rig {
    client: UdpSocket,
    target: UdpSocket,
    relay: SocketAddr,
    owner: Rc<Owner>,
    handle: Handle,
    pool: Rc<DatagramPool>,
    task: JoinHandle<Outcome>,
}

impl Rig {
    async fn new(options: Options) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), 0, options).await
    }

    /// All on one address, with the port that the client states.
    async fn at(ip: IpAddr, stated: u16, options: Options) -> Self {
        let (owner, pool) = (Rc::new(Owner::default()), pool());
        let spec = RelaySpec {
            client: (ip, stated).into(),
            codec: Box::new(Toy::default()),
        };
        let (relay, address) = DatagramRelay::open(spec, ip, &pool, owner.clone(), options).unwrap();
        assert_eq!((relay.local_addr(), address.ip()), (address, ip));
        Self {
            client: socket(ip).await,
            target: socket(ip).await,
            relay: address,
            owner,
            handle: relay.handle(),
            pool,
            task: spawn_local(relay.run()),
        }
    }

    async fn send(&self, target: impl ToString, payload: &[u8]) {
        let sent = self.client.send_to(&toy(target, payload), self.relay).await;
        sent.unwrap();
    }

    fn target_address(&self) -> SocketAddr {
        self.target.local_addr().unwrap()
    }

    /// One datagram to the target, and where it came from.
    async fn reach(&self, payload: &[u8]) -> SocketAddr {
        self.send(self.target_address(), payload).await;
        let (received, from) = receive(&self.target).await;
        assert_eq!(received, payload);
        from
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.handle.stats().drops.iter().collect()
    }

    /// Waits until something is so.
    async fn until(&self, is_so: impl Fn(&Stats) -> bool) {
        while !is_so(&self.handle.stats()) {
            tokio::task::yield_now().await;
        }
    }
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 66_000];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

async fn ended(task: JoinHandle<Outcome>) -> Ended {
    match task.await.unwrap() {
        Outcome::Ended(ended) => *ended,
        Outcome::Parked(_) => panic!("the relay was parked"),
    }
}
