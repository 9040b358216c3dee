//! The wire format against vectors that share no code with it, and against damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::BytesMut;
use proptest::prelude::*;
use sluice_pptp::wire::message::*;
use sluice_pptp::wire::{Decoded, Stream, decode, encode, gre};
use sluice_testkit::mutate;
use sluice_testkit::vectors::{Vector, load};

fn vectors() -> Vec<Vector> {
    load(include_str!("vectors/control.txt"))
}

fn messages() -> Vec<Message> {
    let start = Start {
        version: VERSION,
        framing: 1,
        bearer: 2,
        channels: 5,
        firmware: 0x690,
        host: b"client.example".to_vec(),
        vendor: b"example vendor".to_vec(),
    };
    let reply = Start {
        version: VERSION,
        framing: 3,
        bearer: 3,
        channels: 7,
        firmware: 1,
        host: b"gate".to_vec(),
        vendor: Vec::new(),
    };
    vec![
        Message::StartRequest(start),
        Message::StartReply(reply, Outcome::plain(1)),
        Message::StopRequest(3),
        Message::StopReply(Outcome::error(6)),
        Message::EchoRequest(0x0102_0304),
        Message::EchoReply(0x0102_0304, Outcome::plain(1)),
        Message::OutgoingRequest(OutgoingRequest {
            call_id: 0x1111,
            serial: 2,
            minimum_bps: 2400,
            maximum_bps: 1_000_000_000,
            bearer: 3,
            framing: 3,
            window: 64,
            delay: 1,
            phone: b"12345".to_vec(),
            sub_address: b"sub".to_vec(),
        }),
        Message::OutgoingReply(OutgoingReply {
            call_id: 0x2222,
            peer_call_id: 0x1111,
            outcome: Outcome::plain(1),
            cause: 9,
            speed: 64_000,
            window: 32,
            delay: 2,
            channel: 7,
        }),
        Message::IncomingRequest(IncomingRequest {
            call_id: 0x1111,
            serial: 3,
            bearer: 1,
            channel: 9,
            dialed: b"100".to_vec(),
            dialing: b"2000".to_vec(),
            sub_address: b"x".to_vec(),
        }),
        Message::IncomingReply(IncomingReply {
            call_id: 0x2222,
            peer_call_id: 0x1111,
            outcome: Outcome::plain(3),
            window: 32,
            delay: 1,
        }),
        Message::IncomingConnected(IncomingConnected {
            peer_call_id: 0x2222,
            speed: 56_000,
            window: 16,
            delay: 3,
            framing: 1,
        }),
        Message::ClearRequest(0x1111),
        Message::DisconnectNotify(Disconnect {
            call_id: 0x2222,
            outcome: Outcome::plain(4),
            cause: 16,
            statistics: b"42 packets".to_vec(),
        }),
        Message::WanError(WanError {
            peer_call_id: 0x1111,
            crc: 1,
            framing: 2,
            hardware: 3,
            buffer: 4,
            timeouts: 5,
            alignment: 6,
        }),
        Message::LinkInfo(LinkInfo {
            peer_call_id: 0x2222,
            send: u32::MAX,
            receive: 0x000a_0000,
        }),
    ]
}

#[test]
fn every_message_is_what_its_vector_says() {
    let (vectors, messages) = (vectors(), messages());
    assert_eq!(vectors.len(), messages.len());
    for (number, (vector, message)) in (1..).zip(vectors.iter().zip(&messages)) {
        assert_eq!(message.number(), number);
        assert_eq!(
            number::length(number),
            Some(vector.bytes.len()),
            "{}",
            vector.name
        );
        let mut out = BytesMut::new();
        encode(message, &mut out);
        assert_eq!(out, vector.bytes, "{}", vector.name);
        assert_eq!(decode(&vector.bytes), Some(Decoded::Message(message.clone())));
    }
}

#[test]
fn a_number_longer_than_its_field_is_a_bad_value() {
    for (name, at, call) in [("outgoing_request", 36, 0x1111), ("incoming_request", 24, 0x1111)] {
        let vectors = vectors();
        let mut bytes = vectors
            .iter()
            .find(|vector| vector.name == name)
            .unwrap()
            .bytes
            .clone();
        bytes[at..at + 2].copy_from_slice(&65u16.to_be_bytes());
        let number = u16::from_be_bytes([bytes[8], bytes[9]]);
        assert_eq!(decode(&bytes), Some(Decoded::BadValue(number, call)), "{name}");
    }
}

#[test]
fn texts_that_are_too_long_are_cut() {
    let mut out = BytesMut::new();
    let start = Start {
        host: vec![b'x'; 200],
        ..Start::default()
    };
    encode(&Message::StartRequest(start), &mut out);
    assert_eq!(out.len(), 156);
    assert!(
        matches!(decode(&out), Some(Decoded::Message(Message::StartRequest(start))) if start.host.len() == TEXT)
    );
}

#[test]
fn r01_damaged_messages_are_survived() {
    for vector in vectors() {
        for damaged in mutate::all(&vector.bytes, 3, 300) {
            let mut stream = Stream::default();
            let mut input = &damaged[..];
            while let Ok(Some(_)) = stream.next(&mut input) {}
            assert!(stream.held().len() <= LONGEST);
            let _ = decode(&damaged);
        }
    }
}

proptest! {
    #[test]
    fn any_packet_is_read_within_its_bounds(packet in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Some(header) = gre::Header::decode(&packet) {
            prop_assert!(header.payload.end <= packet.len());
        }
    }

    #[test]
    fn packets_read_back(call: u16, sequence: Option<u32>, acknowledged: Option<u32>, payload in prop::collection::vec(any::<u8>(), 1..64)) {
        let payload = if sequence.is_some() { payload } else { Vec::new() };
        let mut out = BytesMut::new();
        let start = gre::put(call, sequence, acknowledged, &mut out);
        out.extend_from_slice(&payload);
        gre::finish(start, [sequence, acknowledged].into_iter().flatten().count(), &mut out);
        let header = gre::Header::decode(&out).unwrap();
        prop_assert_eq!((header.call_id, header.sequence, header.acknowledged), (call, sequence, acknowledged));
        prop_assert_eq!(&out[header.payload], &payload[..]);
    }
}
