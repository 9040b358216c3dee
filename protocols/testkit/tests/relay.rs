//! The relay in real time, over loopback.
#![allow(clippy::unwrap_used)]

use rustix::thread::{UnshareFlags, unshare_unsafe};
use sluice_testkit::Impairment;
use sluice_testkit::relay::{Relay, RelayConfig};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long to wait for what has to come.
const WAIT: Duration = Duration::from_secs(20);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

fn both(impairment: Impairment) -> RelayConfig {
    RelayConfig {
        up: impairment,
        down: impairment,
        seed: 11,
    }
}

fn relay_to(server: &UdpSocket, impairment: Impairment) -> Relay {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Relay::udp(any, server.local_addr().unwrap(), both(impairment)).unwrap()
}

#[test]
fn clients_are_told_apart_and_get_their_own_answers() {
    let server = socket();
    let relay = relay_to(
        &server,
        Impairment {
            delay: Duration::ZERO,
            ..Impairment::NONE
        },
    );
    let clients: Vec<UdpSocket> = (0..20).map(|_| socket()).collect();
    let mut buffer = [0; 100];
    let mut peers = BTreeSet::new();
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&[number as u8], relay.address()).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [number as u8]);
        peers.insert(from);
        server.send_to(&[number as u8, 1], from).unwrap();
    }
    assert_eq!(peers.len(), 20, "the server sees twenty peers");
    for (number, client) in clients.iter().enumerate() {
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from),
            (&[number as u8, 1][..], relay.address())
        );
    }
}

#[test]
fn delay_takes_its_time() {
    let server = socket();
    let relay = relay_to(
        &server,
        Impairment {
            delay: Duration::from_millis(60),
            ..Impairment::NONE
        },
    );
    let client = socket();
    let start = Instant::now();
    client.send_to(b"x", relay.address()).unwrap();
    server.recv_from(&mut [0; 10]).unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn faults_follow_the_seed_and_are_counted() {
    let server = socket();
    let faults = Impairment {
        loss: 0.2,
        duplicate: 0.2,
        delay: Duration::ZERO,
        ..Impairment::NONE
    };
    let relay = relay_to(&server, faults);
    let client = socket();
    for number in 0..200u8 {
        client.send_to(&[number], relay.address()).unwrap();
        while relay.stats().0.offered <= u64::from(number) {
            std::thread::yield_now();
        }
    }
    let stats = relay.stats().0;
    assert!(
        (20..60).contains(&stats.lost) && (15..55).contains(&stats.duplicated),
        "{stats:?}"
    );
    let arrived = (0..stats.offered - stats.lost + stats.duplicated).map(|_| {
        let mut buffer = [0; 1];
        server.recv_from(&mut buffer).unwrap();
        buffer[0]
    });
    assert_eq!(
        arrived.collect::<BTreeSet<u8>>().len() as u64,
        stats.offered - stats.lost
    );

    // A black hole, set while the relay runs.
    relay.set_impairment(Impairment { loss: 1.0, ..faults }, faults);
    let mut seen = stats;
    while seen.lost == stats.lost {
        client.send_to(b"y", relay.address()).unwrap();
        let before = seen.offered;
        while seen.offered == before {
            std::thread::yield_now();
            seen = relay.stats().0;
        }
    }
}

/// Runs `body` in a network namespace of its own, with loopback up; says so and does nothing where that is not
/// permitted.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only the network namespace of this new thread changes; no descriptor table is unshared.
        #[allow(unsafe_code)]
        if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            eprintln!("skipped: no network namespace: {error}");
            return;
        }
        // A child is born into the namespace of the thread that starts it.
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
        body();
    });
    thread.join().unwrap();
}

fn gre(address: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(47))).unwrap();
    socket.bind(&SocketAddrV4::new(address, 0).into()).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

fn payload(mut socket: &Socket) -> Vec<u8> {
    let mut buffer = [0; 200];
    let length = socket.read(&mut buffer).unwrap();
    buffer[20..length].to_vec()
}

#[test]
fn gre_goes_both_ways() {
    in_namespace(|| {
        let [client, middle, server] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
        let impairment = Impairment {
            delay: Duration::from_millis(1),
            ..Impairment::NONE
        };
        let relay = Relay::gre(middle, server, both(impairment)).unwrap();
        let (near, far) = (gre(client), gre(server));
        near.send_to(
            b"\x30\x81\x88\x0b\0\0\0\x07up",
            &SocketAddrV4::new(middle, 0).into(),
        )
        .unwrap();
        assert_eq!(payload(&far), b"\x30\x81\x88\x0b\0\0\0\x07up");
        far.send_to(
            b"\x30\x81\x88\x0b\0\0\0\x09down",
            &SocketAddrV4::new(middle, 0).into(),
        )
        .unwrap();
        assert_eq!(payload(&near), b"\x30\x81\x88\x0b\0\0\0\x09down");
        assert_eq!((relay.stats().0.lost, relay.stats().1.lost), (0, 0));
    });
}
