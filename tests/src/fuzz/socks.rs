//! Targets for SOCKS: what clients say, in any order with what the gateway answers, and their datagrams.

use super::link::Program;
use bytes::BytesMut;
use sluice_auth::{RejectReason, Verdict};
use sluice_socks::config::Config;
use sluice_socks::wire::datagram::{self, Fragment};
use sluice_socks::{SocksFactory, wire};
use sluice_spi::{
    ChannelFailure, ChannelRef, ClientDatagram, Input, JoinEnd, LocalRef, PeerAddr, Refusal, StreamEnd,
    TerminateCause, config,
};
use sluice_testkit::StreamNode;
use sluice_testkit::policy::grants;
use sluice_testkit::stream::{Outcome, Wish};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CLIENT: ChannelRef = ChannelRef::FIRST;
/// Virtual time after which nothing may be left of a client that fell silent and whose connection ended.
const SILENCE: Duration = Duration::from_secs(3600);
const JOIN_ENDS: [JoinEnd; 4] = [
    JoinEnd::Finished,
    JoinEnd::FirstReset,
    JoinEnd::SecondReset,
    JoinEnd::Idle,
];

pub(super) fn factory(text: &str) -> SocksFactory {
    SocksFactory::new(config::read("fuzz", text, Config::from_section).expect("a configuration"))
}

/// One connection, driven by a program: octets of the client, answers of the gateway, time, and ends.
pub fn socks_connection(data: &[u8]) {
    run(data);
}

/// Gives the node as it is in the end, with its log.
fn run(data: &[u8]) -> StreamNode {
    let mut program = Program(data);
    let (kind, answers) = (program.byte(), program.byte());
    let trusting = if kind & 1 == 0 {
        "no_auth_from = [\"192.0.2.0/24\"]\n"
    } else {
        ""
    };
    let udp = if kind & 2 == 0 {
        ""
    } else {
        "udp_fragments = true\nudp_strict_client = true\n"
    };
    let factory = factory(&format!("{trusting}{udp}early_bytes = 16\n"));
    let mut node = StreamNode::accept(&factory, peer());
    answer(&mut node, answers);
    while !program.is_over() && !node.is_gone() {
        step(&mut node, &factory, &mut program);
    }
    rest(&mut node);
    node
}

/// Looks that nothing is left of a client that fell silent and whose connection ended.
pub(super) fn rest(node: &mut StreamNode) {
    node.pass(SILENCE);
    for session in node.joined() {
        node.part(session, JoinEnd::Finished);
    }
    if !node.is_gone() {
        node.end(CLIENT, StreamEnd::Reset);
    }
    assert!(node.is_gone(), "something is left:\n{}", node.log.text());
    node.log.check_order(true);
}

pub(super) fn peer() -> PeerAddr {
    PeerAddr {
        remote: SocketAddr::from(([192, 0, 2, 50], 50_000)),
        local: SocketAddr::from(([192, 0, 2, 1], 1080)),
    }
}

/// What the gateway answers, by the bits of a number.
pub(super) fn answer(node: &mut StreamNode, bits: u8) {
    let after = Duration::from_millis(u64::from(bits >> 6) * 100);
    node.policy.admission_delay = after;
    node.policy.judging_delay = after;
    node.policy.admit = Box::new(move |_| {
        if bits & 7 == 7 {
            Err(Refusal::Overload)
        } else {
            Ok(())
        }
    });
    node.policy.judge = Box::new(move |_| match bits >> 3 & 7 {
        6 => Verdict::Reject(RejectReason::TooManySessions),
        7 => Verdict::Reject(RejectReason::BadCredentials),
        _ => Verdict::accept(Box::new(grants(1))),
    });
    node.dialer = Box::new(move |wish| {
        let local = SocketAddr::from(([203, 0, 113, 1], 4000));
        let remote = SocketAddr::from(([198, 51, 100, 9], 80));
        let failed = ChannelFailure::ALL[usize::from(bits) % ChannelFailure::ALL.len()];
        match (wish, bits & 3) {
            (_, 3) => vec![(after, Outcome::Failed(failed))],
            (Wish::Open(_), _) => vec![(after, Outcome::Opened { local, remote })],
            (Wish::Listen(_), 2) => vec![(after, Outcome::Listening(local))],
            (Wish::Listen(_), _) => vec![
                (after, Outcome::Listening(local)),
                (after * 2, Outcome::Opened { local, remote }),
            ],
            (Wish::Relay(_), _) => vec![(after, Outcome::Listening(local))],
        }
    });
}

fn step(node: &mut StreamNode, factory: &SocksFactory, program: &mut Program<'_>) {
    let op = program.byte();
    match op % 16 {
        0 => node.pass(Duration::from_millis(u64::from(program.byte()) * 50)),
        1 if op > 200 => node.end(CLIENT, StreamEnd::Finished),
        2 if op > 200 => node.end(CLIENT, StreamEnd::Reset),
        3 if op > 200 => node.close(TerminateCause::AdminReboot),
        4 if op > 200 => node.input(Input::Terminate {
            session: LocalRef(1),
            cause: TerminateCause::IdleTimeout,
        }),
        5 => node.input(Input::Trace {
            session: LocalRef(1),
            on: op & 16 == 0,
        }),
        6 => {
            if let [session] = node.joined()[..] {
                node.part(session, JOIN_ENDS[usize::from(op >> 4) % JOIN_ENDS.len()]);
            }
        }
        7 => {
            if node.checkpoint().is_some() {
                node.restart(factory).expect("its own checkpoint");
            }
        }
        _ => {
            let bytes = program.bytes();
            if !node.has_ended(CLIENT) {
                node.give(CLIENT, &bytes);
            }
        }
    }
}

/// Datagrams and requests: what is read lies within what is there, and parts never make more than is allowed. The first
/// octet of each datagram is its length.
pub fn socks_datagram(data: &[u8]) {
    let _ = (wire::greeting(data), wire::login(data), wire::v4::request(data));
    if let Ok(Some((request, length))) = wire::request(data) {
        assert!(length <= data.len());
        let _ = request.address.host();
    }
    let mut node = StreamNode::accept(
        &factory("no_auth_from = [\"192.0.2.0/24\"]\nudp_fragments = true\nudp_fragment_bytes = 100\n"),
        peer(),
    );
    node.give(CLIENT, &[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
    let codec = &mut node.relay(ChannelRef(1)).codec;
    let mut program = Program(data);
    let mut now = Instant::now();
    while !program.is_over() {
        now += Duration::from_millis(u64::from(program.byte()) * 10);
        let packet = program.bytes();
        let whole = datagram::decode(&packet).is_ok_and(|datagram| datagram.fragment == Fragment::Whole);
        let target = match codec.open(&packet, now) {
            ClientDatagram::To { target, payload } => {
                assert!(payload.len() <= if whole { packet.len() } else { 100 });
                target.to_vec()
            }
            _ => continue,
        };
        if let Ok(target) = codec.target(&target)
            && let sluice_auth::Host::Address(address) = target.host
        {
            let from = SocketAddr::new(address, target.port);
            let mut out = BytesMut::new();
            codec.seal(from, b"x", &mut out).expect("a datagram");
            assert!(out.len() <= 1 + codec.overhead());
            let sealed = datagram::decode(&out).expect("what was sealed");
            assert_eq!((sealed.payload, sealed.port), (&b"x"[..], target.port));
        }
    }
    let held = codec.held_until();
    codec.expire(now + Duration::from_secs(60));
    assert!(held.is_none() || codec.held_until().is_none());
}

/// Octets of a client as an operation of a program.
fn said(bytes: &[u8]) -> Vec<u8> {
    [&[8, u8::try_from(bytes.len()).unwrap_or(63)], bytes].concat()
}

/// Programs: each command to its end, refusals, a restart, and disorder.
pub(super) fn programs() -> Vec<Vec<u8>> {
    let hello = said(&[5, 1, 0]);
    let login = [said(&[5, 1, 2]), said(b"\x01\x03bob\x04pass")].concat();
    let request = |command| said(&[5, command, 0, 1, 198, 51, 100, 9, 0, 80, b'x']);
    let named = said(b"\x05\x01\x00\x03\x0bexample.com\x01\xbb");
    let begin: &[u8] = &[0, 0];
    let later: &[u8] = &[0, 0x80];
    vec![
        [begin, &hello, &request(1), &[7, 6]].concat(),
        [later, &login, &[0, 20], &named, &[0, 20], &said(b"more"), &[6]].concat(),
        [later, &hello, &request(2), &[0, 4, 0, 200]].concat(),
        [begin, &hello, &request(3), &[7, 0, 255, 0xf1]].concat(),
        [
            begin,
            &said(b"\x04\x01\x00\x50\xc6\x33\x64\x09bob\x00GET"),
            &[0x16],
        ]
        .concat(),
        [
            begin,
            &said(b"\x04\x02\x00\x50\x00\x00\x00\x01\x00example.com\x00"),
            &[0x26],
        ]
        .concat(),
        [&[1, 0x3f], &login[..], &request(1)].concat(),
        [&[0, 3], &hello[..], &[5], &request(1)].concat(),
        [&[2, 2], &hello[..], &request(2), &[0xf2]].concat(),
    ]
}

/// Datagrams, whole and in parts.
pub(super) fn datagrams() -> Vec<Vec<u8>> {
    let packet = |fragment: u8, payload: &[u8]| {
        let bytes = [&[0, 0, fragment, 1, 192, 0, 2, 1, 0, 53], payload].concat();
        [&[1, u8::try_from(bytes.len()).unwrap_or(63)], &bytes[..]].concat()
    };
    let named = b"\x01\x15\x00\x00\x00\x03\x0bexample.com\x00\x35hi".to_vec();
    vec![
        packet(0, b"whole"),
        [packet(1, b"one"), packet(2, b"two"), packet(0x83, b"three")].concat(),
        [packet(1, b"one"), packet(0x83, b"three"), named].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_reach_what_they_are_for() {
        let ups: Vec<usize> = programs()
            .iter()
            .map(|program| run(program).log.sessions_up().len())
            .collect();
        assert_eq!(ups, [1, 1, 1, 1, 1, 1, 0, 0, 0]);
        let restarted = run(&programs()[0]).log.text();
        assert!(restarted.contains("Recovered"), "{restarted}");
    }
}
