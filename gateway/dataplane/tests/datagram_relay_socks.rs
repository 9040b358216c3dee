//! A relay with the codec of SOCKS5, as its module gives it for a UDP ASSOCIATE (RFC 1928, 7).
#![allow(clippy::unwrap_used, clippy::panic)]

use sluice_dataplane::relay::datagrams::{
    Cause, DatagramPool, DatagramRelay, Decision, Handle, Options, Outcome, Refusal, Resolve,
};
use sluice_socks::SocksFactory;
use sluice_socks::config::Config;
use sluice_spi::{ChannelRef, PeerAddr, RelaySpec, Target, config};
use sluice_testkit::{Seeded, StreamNode};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The datagrams that a machine asks to be relayed are its second channel.
const RELAY: ChannelRef = ChannelRef(1);

/// What the machine of a client at 127.0.0.1 asks for, that cannot say where it sends from.
fn associate(text: &str) -> RelaySpec {
    let text = format!("no_auth_from = [\"127.0.0.0/8\"]\n{text}");
    let factory = SocksFactory::new(config::read("test", &text, Config::from_section).unwrap());
    let peer = PeerAddr {
        remote: "127.0.0.1:50000".parse().unwrap(),
        local: "127.0.0.1:1080".parse().unwrap(),
    };
    let mut node = StreamNode::accept(&factory, peer);
    node.give(ChannelRef::FIRST, &[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
    node.pass(Duration::from_secs(1));
    let spec = node.relay(RELAY);
    RelaySpec {
        client: spec.client,
        codec: std::mem::replace(&mut spec.codec, Box::new(Nothing)),
    }
}

/// Takes the place of the codec in the node.
struct Nothing;

impl sluice_spi::RelayCodec for Nothing {
    fn open<'a>(&'a mut self, _: &'a [u8], _: std::time::Instant) -> sluice_spi::ClientDatagram<'a> {
        sluice_spi::ClientDatagram::Held
    }

    fn target(&self, _: &[u8]) -> Result<Target, sluice_spi::DropReason> {
        Err(sluice_spi::DropReason("nothing"))
    }

    fn seal(
        &mut self,
        _: SocketAddr,
        _: &[u8],
        _: &mut bytes::BytesMut,
    ) -> Result<(), sluice_spi::DropReason> {
        Ok(())
    }

    fn overhead(&self) -> usize {
        0
    }

    fn held_until(&self) -> Option<std::time::Instant> {
        None
    }

    fn expire(&mut self, _: std::time::Instant) -> usize {
        0
    }
}

/// Finds one name, and denies all else.
struct Owner {
    name: &'static str,
    address: SocketAddr,
    asked: RefCell<Vec<String>>,
}

impl Resolve for Owner {
    fn decide(&self, target: Target) -> Decision {
        self.asked.borrow_mut().push(target.to_string());
        let verdict = if target.to_string() == self.name {
            Ok(self.address.into())
        } else {
            Err(Refusal::Denied)
        };
        Decision::Later(Box::pin(async move { verdict }))
    }
}

struct Rig {
    client: UdpSocket,
    target: UdpSocket,
    relay: SocketAddr,
    owner: Rc<Owner>,
    handle: Handle,
    task: JoinHandle<Outcome>,
}

impl Rig {
    async fn new(text: &str) -> Self {
        let local = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let target = local().await.unwrap();
        let owner = Rc::new(Owner {
            name: "host.example:53",
            address: target.local_addr().unwrap(),
            asked: RefCell::default(),
        });
        let pool = DatagramPool::new(Box::new(Seeded::new(1)));
        let ip = Ipv4Addr::LOCALHOST.into();
        let (relay, address) =
            DatagramRelay::open(associate(text), ip, &pool, owner.clone(), Options::default()).unwrap();
        Self {
            client: local().await.unwrap(),
            target,
            relay: address,
            owner,
            handle: relay.handle(),
            task: spawn_local(relay.run()),
        }
    }

    async fn send(&self, fragment: u8, payload: &[u8]) {
        let name = b"host.example";
        let header = [&[0, 0, fragment, 3, name.len() as u8], &name[..], &[0, 53]].concat();
        let packet = [&header, payload].concat();
        self.client.send_to(&packet, self.relay).await.unwrap();
    }

    async fn end(self) -> Vec<(&'static str, u64)> {
        self.handle.end();
        let Outcome::Ended(ended) = self.task.await.unwrap() else {
            panic!("parked");
        };
        assert_eq!(ended.cause, Cause::Asked);
        ended.stats.drops.iter().collect()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(LIMIT, test).await.unwrap() };
    LocalSet::new().block_on(&runtime, limited);
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 66_000];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

#[test]
fn names_go_out_and_addresses_come_back() {
    run(async {
        let rig = Rig::new("").await;
        // A part is never relayed as a whole where parts are not put together.
        rig.send(1, b"part").await;
        // What cannot be read or is denied gets no answer.
        for bad in [
            &b"\0\0\0\x01\x7f"[..],
            b"\0\x01\0\x01\x7f\0\0\x01\0\x35x",
            b"\0\0\0\x02\x7f\0\0\x01\0\x35x",
            b"\0\0\0\x01\x7f\0\0\x01\0\0x",
            b"\0\0\0\x01\x7f\0\0\x01\0\x35x",
        ] {
            rig.client.send_to(bad, rig.relay).await.unwrap();
        }
        for size in [0, 1, 1_472, 65_507 - 3 - 1 - 1 - 12 - 2] {
            let payload = Seeded::new(size as u64).bytes(size);
            rig.send(0, &payload).await;
            let (received, from) = receive(&rig.target).await;
            assert!(received == payload, "{size} octets");
            rig.target.send_to(&payload, from).await.unwrap();
            let (answer, _) = receive(&rig.client).await;
            let (header, received) = answer.split_at(10);
            assert_eq!(header[..8], [0, 0, 0, 1, 127, 0, 0, 1]);
            let port = rig.target.local_addr().unwrap().port();
            assert_eq!(header[8..], port.to_be_bytes());
            assert!(received == payload, "{size} octets back");
        }
        let asked = rig.owner.asked.borrow().clone();
        assert_eq!(asked, ["127.0.0.1:53", "host.example:53"]);
        let mut drops = rig.end().await;
        drops.sort_unstable();
        assert_eq!(
            drops,
            [
                ("denied", 1),
                ("udp_address_type", 1),
                ("udp_fragment", 1),
                ("udp_port", 1),
                ("udp_reserved", 1),
                ("udp_short", 1)
            ]
        );
    });
}

#[test]
fn parts_are_put_together_where_that_is_configured() {
    run(async {
        let rig = Rig::new("udp_fragments = true\n").await;
        rig.send(1, b"one, ").await;
        rig.send(2, b"two, ").await;
        rig.send(0x83, b"three").await;
        assert_eq!(receive(&rig.target).await.0, b"one, two, three");
        // One that is never finished is given up in time.
        rig.send(1, b"alone").await;
        while rig.handle.stats().up.received.packets < 4 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(6)).await;
        while rig.handle.stats().drops.total() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.end().await, [("fragment", 1)]);
    });
}
