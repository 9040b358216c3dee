//! The wire format against vectors that share no code with it, and against damage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::BytesMut;
use sluice_auth::Secret;
use sluice_l2tp::wire::header::{ControlHeader, DataHeader, HeaderError};
use sluice_l2tp::wire::message::*;
use sluice_l2tp::wire::result::{ResultCode, error};
use sluice_l2tp::wire::{DecodeError, Hider, Scope, decode, encode, hidden, message_type};
use sluice_spi::Entropy;
use sluice_testkit::vectors::{Vector, find, load};
use sluice_testkit::{Seeded, mutate};

fn vectors() -> Vec<Vector> {
    load(include_str!("vectors/control.txt"))
}

fn secret() -> Secret {
    Secret::new("swordfish")
}

/// Decodes a vector with its header.
fn message(name: &str) -> (ControlHeader, Result<Message, DecodeError>) {
    let vectors = vectors();
    let (header, body) = ControlHeader::decode(find(&vectors, name)).unwrap();
    (header, decode(body, Some(&secret())))
}

fn sound(name: &str) -> Message {
    message(name).1.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn refused(name: &str) -> (Scope, u16, String) {
    match message(name).1 {
        Err(DecodeError::Refused(refused)) => (refused.scope, refused.error, refused.message),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn tunnel_messages() {
    let Message::Sccrq(start) = sound("sccrq") else {
        panic!("no SCCRQ")
    };
    assert_eq!(
        start,
        Start {
            version: PROTOCOL_VERSION,
            host_name: b"lac.example".to_vec(),
            framing: 3,
            tunnel_id: 0x1234,
            bearer: Some(0),
            window: Some(8),
            challenge: Some((16..32).collect()),
            response: None,
            tie_breaker: None,
            firmware: Some(0x690),
            vendor: Some(b"example vendor".to_vec()),
        }
    );
    let Message::Sccrq(start) = sound("sccrq_tie") else {
        panic!("no SCCRQ")
    };
    assert_eq!(start.tie_breaker, Some([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!((start.window, start.bearer), (None, None));
    let (header, Ok(Message::Sccrp(start))) = message("sccrp") else {
        panic!("no SCCRP")
    };
    assert_eq!((header.tunnel, header.ns, header.nr), (0x1234, 0, 1));
    let challenge: Vec<u8> = (16..32).collect();
    assert!(hidden::response_matches(
        2,
        &secret(),
        &challenge,
        &start.response.unwrap()
    ));
    assert!(!hidden::response_matches(
        3,
        &secret(),
        &challenge,
        &start.response.unwrap()
    ));
    let Message::Scccn(scccn) = sound("scccn") else {
        panic!("no SCCCN")
    };
    assert!(hidden::response_matches(
        3,
        &secret(),
        &challenge,
        &scccn.response.unwrap()
    ));
    assert!(!hidden::response_matches(
        3,
        &Secret::new("other"),
        &challenge,
        &scccn.response.unwrap()
    ));
    let stop = StopCcn {
        tunnel_id: 0x1234,
        result: ResultCode::with_error(6, 0, "bye"),
    };
    assert_eq!(sound("stopccn"), Message::StopCcn(stop));
    let stop = StopCcn {
        tunnel_id: 0x1234,
        result: ResultCode::plain(1),
    };
    assert_eq!(sound("stopccn_short"), Message::StopCcn(stop));
    assert_eq!(sound("hello"), Message::Hello);
    assert_eq!(message("zlb").1, Err(DecodeError::NoType));
}

#[test]
fn call_messages() {
    let text = |text: &str| text.as_bytes().to_vec();
    assert_eq!(
        sound("ocrq"),
        Message::Ocrq(Ocrq {
            session_id: 0x77,
            serial: 9,
            minimum_bps: 9_600,
            maximum_bps: 64_000,
            bearer: 3,
            framing: 3,
            called: text("5551234"),
            sub_address: Some(text("99")),
        })
    );
    assert_eq!(
        sound("ocrp"),
        Message::Ocrp(Reply {
            session_id: 0x88,
            channel: Some(3)
        })
    );
    assert_eq!(
        sound("occn"),
        Message::Occn(Connected {
            tx_speed: 64_000,
            framing: 1,
            rx_speed: Some(32_000),
            sequencing_required: true,
            ..Connected::default()
        })
    );
    assert_eq!(
        sound("icrq"),
        Message::Icrq(Icrq {
            session_id: 0x99,
            serial: 1,
            bearer: Some(2),
            channel: Some(4),
            calling: Some(text("5550001")),
            called: Some(text("5550002")),
            sub_address: Some(text("1")),
        })
    );
    assert_eq!(
        sound("icrp"),
        Message::Icrp(Reply {
            session_id: 0xaa,
            channel: None
        })
    );
    let Message::Iccn(connected) = sound("iccn") else {
        panic!("no ICCN")
    };
    assert_eq!(connected.private_group, Some(text("green")));
    assert!(!connected.sequencing_required);
    let proxy = &connected.proxy;
    assert_eq!((proxy.auth_type, proxy.id), (Some(3), Some(1)));
    assert_eq!(
        (&proxy.name, &proxy.response),
        (&Some(text("bob")), &Some(text("secret")))
    );
    assert_eq!(proxy.last_sent.as_ref().unwrap()[..4], [3, 4, 0xc0, 0x23]);
    assert_eq!(proxy.initial_received, proxy.last_received);
    assert!(
        !format!("{connected:?}").contains("115, 101, 99"),
        "the password is shown"
    );
    let Message::Cdn(cdn) = sound("cdn") else {
        panic!("no CDN")
    };
    assert_eq!(
        cdn.result,
        ResultCode::with_error(2, error::TRY_ANOTHER, "try another")
    );
    assert_eq!(
        cdn.q931,
        Some(Q931Cause {
            code: 16,
            message: 0x45,
            advisory: "cleared".to_owned()
        })
    );
    assert_eq!(cdn.disconnect.unwrap().code, 3);
    let errors = CallErrors {
        crc: 1,
        framing: 2,
        hardware: 3,
        buffer: 4,
        timeouts: 5,
        alignment: 6,
    };
    assert_eq!(sound("wen"), Message::Wen(errors));
    let info = LinkInfo {
        send: 0xa0000,
        receive: u32::MAX,
    };
    assert_eq!(sound("sli"), Message::Sli(info));
}

#[test]
fn hidden_avps_are_revealed() {
    let Message::Icrq(icrq) = sound("icrq_hidden") else {
        panic!("no ICRQ")
    };
    assert_eq!((icrq.session_id, icrq.serial), (0x99, 1));
    assert_eq!(icrq.calling.unwrap(), b"a calling number longer than one block");
    let Message::Icrq(icrq) = sound("icrq_two_vectors") else {
        panic!("no ICRQ")
    };
    assert_eq!((icrq.session_id, icrq.serial), (0x99, 1));
}

#[test]
fn hidden_avps_that_cannot_be_read_end_the_session() {
    for name in ["icrq_hidden_lying", "icrq_hidden_one"] {
        let (scope, code, _) = refused(name);
        assert_eq!((scope, code), (Scope::Session, error::OUT_OF_RANGE), "{name}");
    }
    let vectors = vectors();
    let (_, body) = ControlHeader::decode(find(&vectors, "icrq_hidden")).unwrap();
    for secret in [None, Some(Secret::new("swordfisk"))] {
        assert!(matches!(
            decode(body, secret.as_ref()),
            Err(DecodeError::Refused(_))
        ));
    }
}

#[test]
fn r15_unknown_and_malformed_avps_by_their_m_bit() {
    assert_eq!(sound("hello_unknown_optional"), Message::Hello);
    let (scope, code, text) = refused("hello_unknown_mandatory");
    assert_eq!((scope, code), (Scope::Tunnel, error::UNKNOWN_MANDATORY));
    assert!(text.contains("attribute 1 of vendor 9"), "{text}");
    let (scope, code, text) = refused("icrq_unknown_mandatory");
    assert_eq!((scope, code), (Scope::Session, error::UNKNOWN_MANDATORY));
    assert!(text.contains("attribute 77"), "{text}");
    let Message::Iccn(connected) = sound("iccn_short_rx_speed") else {
        panic!("no ICCN")
    };
    assert_eq!(connected.rx_speed, None);
    let (scope, code, _) = refused("iccn_short_tx_speed");
    assert_eq!((scope, code), (Scope::Session, error::WRONG_LENGTH));
}

#[test]
fn r15_unknown_message_types_by_their_m_bit() {
    let (scope, ..) = refused("type_unknown_mandatory");
    assert_eq!(scope, Scope::Tunnel);
    assert_eq!(message("type_unknown_optional").1, Err(DecodeError::Ignored(99)));
}

#[test]
fn r10_a_window_of_zero_is_refused() {
    let vectors = vectors();
    let mut packet = find(&vectors, "sccrq").to_vec();
    let at = packet
        .windows(6)
        .position(|window| window == [0x80, 8, 0, 0, 0, 10])
        .unwrap();
    packet[at + 7] = 0;
    let (_, body) = ControlHeader::decode(&packet).unwrap();
    let Err(DecodeError::Refused(refused)) = decode(body, None) else {
        panic!("accepted")
    };
    assert_eq!(refused.error, error::OUT_OF_RANGE);
    assert_eq!(refused.assigned_tunnel, Some(0x1234));
}

#[test]
fn r06_the_message_type_comes_first() {
    let avp = [0x80, 8, 0, 0, 0, 9, 0, 1, 0x80, 8, 0, 0, 0, 0, 0, 6];
    assert_eq!(decode(&avp, None), Err(DecodeError::NoType));
    assert_eq!(message_type(&[0xc0, 8, 0, 0, 0, 0, 0, 6]), None, "hidden");
    assert_eq!(message_type(&[0x84, 8, 0, 0, 0, 0, 0, 6]), None, "reserved bit");
}

#[test]
fn reserved_bits_make_an_avp_unknown() {
    // HELLO with a Host Name AVP whose reserved bit is set, with the M bit and without.
    let hello = [0x80, 8, 0, 0, 0, 0, 0, 6];
    for (bits, accepted) in [(0x20, true), (0xa0, false)] {
        let body = [&hello[..], &[bits, 7, 0, 0, 0, 7, b'x']].concat();
        assert_eq!(decode(&body, None).is_ok(), accepted);
    }
}

#[test]
fn what_is_encoded_decodes() {
    for vector in vectors() {
        let (_, body) = ControlHeader::decode(&vector.bytes).unwrap();
        let Ok(message) = decode(body, Some(&secret())) else {
            continue;
        };
        let plain = encode(&message, None);
        assert_eq!(decode(&plain, None), Ok(message.clone()), "{}", vector.name);
        let mut entropy = Seeded::new(3);
        let secret = secret();
        let hider = Hider {
            secret: &secret,
            entropy: &mut entropy,
        };
        let hidden = encode(&message, Some(hider));
        assert_eq!(
            decode(&hidden, Some(&secret)),
            Ok(message.clone()),
            "{}",
            vector.name
        );
        let shows = |text: &[u8]| hidden.windows(text.len()).any(|window| window == text);
        assert!(!shows(b"5550001") && !shows(b"secret"), "{}", vector.name);
    }
}

#[test]
fn unhidden_messages_encode_to_their_vectors() {
    // Those whose AVPs stand in the order in which this crate writes them.
    for name in [
        "scccn",
        "stopccn",
        "stopccn_short",
        "hello",
        "ocrq",
        "ocrp",
        "icrp",
        "wen",
        "sli",
    ] {
        let vectors = vectors();
        let packet = find(&vectors, name);
        let (header, body) = ControlHeader::decode(packet).unwrap();
        let message = decode(body, None).unwrap();
        let mut out = BytesMut::new();
        let body = encode(&message, None);
        header.encode(&body, &mut out);
        assert_eq!(out, packet, "{name}");
    }
}

#[test]
fn values_of_every_length_hide_and_reveal() {
    let mut entropy = Seeded::new(9);
    for length in (0..70).chain([hidden::MAX_HIDDEN - 1, hidden::MAX_HIDDEN]) {
        let mut value = vec![0; length];
        entropy.fill(&mut value);
        let mut out = BytesMut::new();
        hidden::hide(21, &secret(), b"vector", &value, &mut entropy, &mut out);
        assert!(out.len() <= 1017 && out.len() >= length + 2);
        assert_eq!(hidden::reveal(21, &secret(), b"vector", &out), Some(value));
    }
}

#[test]
fn r01_damaged_messages_never_panic() {
    for vector in vectors() {
        for packet in mutate::all(&vector.bytes, 11, 300) {
            for secret in [None, Some(secret())] {
                if let Ok((_, body)) = ControlHeader::decode(&packet) {
                    let _ = decode(body, secret.as_ref());
                }
            }
            let _: Result<DataHeader, HeaderError> = DataHeader::decode(&packet);
        }
        // Every truncation of the body alone.
        let (_, body) = ControlHeader::decode(&vector.bytes).unwrap();
        for length in 0..body.len() {
            let _ = decode(&body[..length], Some(&secret()));
        }
    }
    let mut random = Seeded::new(4);
    for _ in 0..20_000 {
        let length = random.below(80);
        let noise = random.bytes(length);
        let _ = decode(&noise, Some(&secret()));
        let _ = hidden::reveal(7, &secret(), b"v", &noise);
    }
}
