//! Datagrams: which are passed on, and which are dropped without a word.

use crate::case::{Case, PATIENCE, TRUSTED, at, by_name, read, request, to_end};
use sluice_tests::rig::wait_for;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

/// Octets of a datagram's header with an IPv4 address (RFC 1928, 7).
const HEADER: usize = 10;

/// Longest payload of a datagram of IPv4.
const LONGEST: usize = 65_507;

/// A relay of datagrams for a client that need not authenticate.
struct Association {
    control: TcpStream,
    relay: SocketAddr,
    client: UdpSocket,
}

impl Association {
    fn new(case: &Case) -> Self {
        let (control, relay) = associate(case);
        let client = case.udp(TRUSTED);
        Self {
            control,
            relay,
            client,
        }
    }

    fn send(&self, datagram: &[u8]) {
        self.client.send_to(datagram, self.relay).unwrap();
    }

    #[track_caller]
    fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let (length, from) = self.client.recv_from(&mut buffer).unwrap();
        assert_eq!(from, self.relay);
        buffer.truncate(length);
        buffer
    }

    /// Sends to a server that sends everything back, and gets it back.
    #[track_caller]
    fn echoes(&self, server: &UdpSocket, payload: &[u8]) {
        let datagram = wrapped(server.local_addr().unwrap(), payload);
        self.send(&datagram);
        let mut buffer = vec![0; 70_000];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert!(&buffer[..length] == payload, "{length} octets");
        server.send_to(&buffer[..length], from).unwrap();
        assert!(self.receive() == datagram, "{} octets", payload.len());
    }
}

fn associate(case: &Case) -> (TcpStream, SocketAddr) {
    let mut control = case.client(TRUSTED);
    let said = [&[5, 1, 0][..], &request(3, at([0, 0, 0, 0], 0))].concat();
    control.write_all(&said).unwrap();
    let answer = read(&mut control, 2 + 10);
    assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1]);
    let ip: [u8; 4] = answer[6..10].try_into().unwrap();
    (control, at(ip, u16::from_be_bytes([answer[10], answer[11]])))
}

fn wrapped(target: SocketAddr, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0][..], &request(1, target)[3..], payload].concat()
}

#[test]
fn what_may_not_pass_is_dropped_for_its_reason() {
    let Some(case) = Case::start() else { return };
    let server = case.udp(Ipv4Addr::LOCALHOST);
    let target = server.local_addr().unwrap();
    let association = Association::new(&case);
    // Whoever sends first from the client's host is the client.
    association.echoes(&server, b"first");
    for stranger in [TRUSTED, Ipv4Addr::new(127, 0, 0, 8)] {
        let stranger = case.udp(stranger);
        stranger
            .send_to(&wrapped(target, b"stranger"), association.relay)
            .unwrap();
    }
    let good = wrapped(target, b"x");
    let with = |place: usize, octet: u8| {
        let mut datagram = good.clone();
        datagram[place] = octet;
        datagram
    };
    let name = |name: &[u8]| [&[0, 0, 0][..], &by_name(name, target.port())[3..], b"x"].concat();
    let table = [
        ("udp_reserved", vec![with(0, 1), with(1, 1)]),
        ("udp_fragment", vec![with(2, 1), with(2, 0x81), with(2, 127)]),
        ("udp_address_type", vec![with(3, 0), with(3, 2), with(3, 255)]),
        (
            "udp_short",
            vec![vec![], vec![0], good[..3].to_vec(), good[..HEADER - 1].to_vec()],
        ),
        ("udp_port", vec![wrapped(at([127, 0, 0, 1], 0), b"x")]),
        ("udp_target", vec![name(b""), name(b"2130706433"), name(b"a\0b")]),
        (
            "denied",
            vec![
                wrapped(at([10, 1, 2, 3], 9), b"x"),
                wrapped(at([127, 0, 0, 66], 9), b"x"),
                name(b"private.test"),
            ],
        ),
        ("unresolved", vec![name(b"none.test"), name(b"broken.test")]),
    ];
    for (_, datagrams) in &table {
        for datagram in datagrams {
            association.send(datagram);
        }
    }
    // Nothing of all that is heard anywhere: what comes next is what was said last.
    association.echoes(&server, b"last");
    // Names are looked up meanwhile; what still waits when the relay ends would be dropped for that.
    case.wait_dropped("wrong_source", 2);
    for (reason, datagrams) in &table {
        case.wait_dropped(reason, datagrams.len() as u64);
    }
    drop(association.control);
    case.calm();
}

#[test]
fn payloads_of_all_sizes_pass() {
    let Some(case) = Case::start() else { return };
    let server = case.udp(Ipv4Addr::LOCALHOST);
    let association = Association::new(&case);
    for length in [0, 1, 1472, LONGEST - HEADER] {
        association.echoes(&server, &vec![b'x'; length]);
    }
    drop(association.control);
    case.calm();
}

#[test]
fn a_closed_port_does_not_end_a_relay() {
    let Some(case) = Case::start() else { return };
    let server = case.udp(Ipv4Addr::LOCALHOST);
    let association = Association::new(&case);
    for round in 0..3 {
        association.send(&wrapped(at([127, 0, 0, 1], 9), b"nobody"));
        association.echoes(&server, &[round]);
    }
    assert_eq!(case.gateway.sessions().len(), 1);
    drop(association.control);
    case.calm();
}

#[test]
fn a_relay_ends_with_its_connection() {
    let Some(case) = Case::start() else { return };
    let Association { control, relay, .. } = Association::new(&case);
    let open = || {
        let sockets = case.namespace.sh("ss -Huan").unwrap();
        sockets.contains(&format!("{relay} "))
    };
    assert!(open(), "{relay}");
    let mut control = control;
    crate::case::finish(&control);
    assert_eq!(to_end(&mut control).unwrap(), b"");
    wait_for("the relay to close", PATIENCE, || (!open()).then_some(()));
    case.calm();
}
