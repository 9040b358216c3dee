//! A target for the GSS-API method of SOCKS: messages in any order, good and bad, cut anywhere, up to streams and
//! datagrams under protection. The contexts are the testkit's.

use super::link::Program;
use super::socks::{answer, factory, peer, rest};
use bytes::BytesMut;
use sluice_socks::wire::gssapi::{self, Kind, Message};
use sluice_spi::{ChannelRef, ClientDatagram};
use sluice_testkit::StreamNode;
use sluice_testkit::gss::Context;
use sluice_testkit::stream::Stage;
use std::time::{Duration, Instant};

const CLIENT: ChannelRef = ChannelRef::FIRST;
const OTHER: ChannelRef = ChannelRef(1);
/// Tokens that lead somewhere.
const TOKENS: [&[u8]; 8] = [
    b"bob@REALM",
    b"more",
    b"",
    b"i:bob@REALM",
    b"ict:bob@REALM",
    b"ice:bob@REALM",
    b"!skew",
    b":bob@REALM",
];

/// Messages of a client, given by a program; what is read lies within what is there.
pub fn socks_gssapi(data: &[u8]) {
    for kind in [Kind::Context, Kind::Level, Kind::Data] {
        if let Ok(Some((message, length))) = gssapi::message(data, kind) {
            assert!(length <= data.len());
            if let Message::Token(token) = message {
                let header = gssapi::header(kind, token.len()).expect("the length of a token");
                assert_eq!([&header[..], token].concat(), data[..length]);
            }
        }
    }
    run(data);
}

/// Gives the node as it is in the end, with its log.
fn run(data: &[u8]) -> StreamNode {
    let mut program = Program(data);
    let (kind, answers) = (program.byte(), program.byte());
    let minimum = ["none", "integrity", "confidentiality"][usize::from(kind % 3)];
    let factory = factory(&format!(
        "methods = [\"gssapi\"]\ngssapi_keytab = \"/k\"\ngssapi_protection = \"{minimum}\"\ngssapi_nec = {}\n\
         udp_fragments = true\nearly_bytes = 16\n",
        kind & 64 != 0
    ));
    let mut node = StreamNode::accept(&factory, peer());
    answer(&mut node, answers);
    let mut context = Context::client();
    node.give(CLIENT, &[5, 1, 1]);
    while !program.is_over() && !node.is_gone() {
        let bytes = said(&mut program, &mut context, &mut node);
        if !node.has_ended(CLIENT) && !node.is_gone() {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            node.give(CLIENT, first);
            node.give(CLIENT, second);
        }
        protected(&mut node);
    }
    rest(&mut node);
    node
}

/// What a client says next.
fn said(program: &mut Program<'_>, context: &mut Context, node: &mut StreamNode) -> Vec<u8> {
    let op = program.byte();
    let frame = |kind, token: &[u8]| {
        let header = gssapi::header(kind, token.len()).expect("a short token");
        [&header[..], token].concat()
    };
    match op % 8 {
        0 => frame(Kind::Context, TOKENS[usize::from(op >> 3) % TOKENS.len()]),
        1 => frame(Kind::Context, &program.bytes()),
        2 => frame(Kind::Level, &context.token(false, &[op >> 3 & 3])),
        3 => frame(Kind::Data, &context.token(op & 8 != 0, &program.bytes())),
        4 => frame(Kind::Data, &program.bytes()),
        5 => {
            let packet = frame(Kind::Data, &context.token(op & 8 != 0, &program.bytes()));
            if node.stage(OTHER) == Some(Stage::Listening) {
                datagram(node, &packet);
            }
            Vec::new()
        }
        6 => {
            node.pass(Duration::from_millis(u64::from(program.byte()) * 50));
            Vec::new()
        }
        _ => program.bytes(),
    }
}

/// A datagram under protection, and one back.
fn datagram(node: &mut StreamNode, packet: &[u8]) {
    let codec = &mut node.relay(OTHER).codec;
    match codec.open(packet, Instant::now()) {
        ClientDatagram::To { payload, .. } => assert!(payload.len() <= packet.len()),
        ClientDatagram::Held | ClientDatagram::Drop(_) => return,
    }
    let mut out = BytesMut::new();
    let from = "192.0.2.1:53".parse().expect("an address");
    if codec.seal(from, b"x", &mut out).is_ok() {
        assert!(out.len() <= 1 + codec.overhead());
    }
}

/// What a joined client is sent is in one frame.
fn protected(node: &mut StreamNode) {
    if node.joined().is_empty() || !node.has_codec(CLIENT) {
        return;
    }
    let mut out = Vec::new();
    node.codec(CLIENT).seal(b"x", &mut out).expect("a frame");
    let read = gssapi::message(&out, Kind::Data);
    assert!(matches!(read, Ok(Some((Message::Token(_), length))) if length == out.len()));
}

/// Programs: every command under protection, levels, refusals, and disorder.
pub(super) fn programs() -> Vec<Vec<u8>> {
    let data = |op: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).unwrap_or(63);
        [&[op, length], bytes].concat()
    };
    let connect = b"\x05\x01\x00\x01\xc6\x33\x64\x09\x00\x50x";
    let associate = b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00";
    let packet = b"\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35hi";
    vec![
        [
            &[1, 0, 0, 10][..],
            &data(3, connect),
            &data(3, b"GET"),
            &data(4, b"bad"),
        ]
        .concat(),
        [&[1, 0, 8, 16, 0, 18][..], &data(11, connect), &data(3, b"open")].concat(),
        [
            &[2, 0, 32, 18][..],
            &data(11, associate),
            &data(13, packet),
            &data(5, packet),
        ]
        .concat(),
        [
            &[0, 0x80, 0, 6, 20, 2, 6, 20][..],
            &data(7, connect),
            &data(7, b"GET"),
        ]
        .concat(),
        [
            &[1, 0, 0, 10][..],
            &data(3, b"\x05\x02\x00\x01\xc6\x33\x64\x09\x00\x14"),
            &[6, 200],
        ]
        .concat(),
        vec![1, 0, 48],
        vec![1, 0x3f, 0, 10],
        [
            &[65, 0, 0][..],
            &data(7, b"\x01\x02\x00\x01\x02"),
            &data(11, connect),
        ]
        .concat(),
        data(1, b"\x01\x03\x00\x02ab"),
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
        assert_eq!(ups, [1, 1, 1, 1, 1, 0, 0, 1, 0]);
        let dropped = |program: usize, reason| run(&programs()[program]).log.dropped(reason);
        assert_eq!(dropped(0, "gssapi_token"), 1);
        assert_eq!(dropped(1, "gssapi_protection"), 1);
    }
}
