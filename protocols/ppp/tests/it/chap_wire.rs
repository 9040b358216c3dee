//! CHAP packets read and written.

use crate::harness::hex;
use sluice_auth::{MsChapExchange, RejectReason};
use sluice_ppp::AuthProtocol;
use sluice_ppp::wire::Packet;
use sluice_ppp::wire::chap::*;

#[test]
fn challenges_and_responses_read_back() {
    let mut out = Vec::new();
    let sent = Valued {
        value: &[7; 16],
        name: b"gw",
    };
    sent.encode(CHALLENGE, 9, &mut out);
    assert_eq!(out, hex("0109 0017 10 07070707070707070707070707070707 6777"));
    let packet = Packet::decode(&out).unwrap();
    assert!(Valued::decode(packet.body).unwrap() == sent);
    // Every truncation of the body's value is refused, and so is no value at all.
    for length in 0..17 {
        assert!(Valued::decode(&packet.body[..length]).is_err(), "{length}");
    }
    assert!(Valued::decode(&[0, b'g']).is_err());
}

#[test]
fn mschap_values_have_one_length() {
    let exchange = MsChapExchange {
        challenge: [1; 16],
        peer_challenge: [2; 16],
        nt_response: [3; 24],
    };
    let value = encode_mschap(&exchange);
    assert!(decode_mschap(&value, [1; 16]).unwrap() == exchange);
    for length in 0..60 {
        let mut other = value.clone();
        other.resize(length, 0);
        assert_eq!(decode_mschap(&other, [1; 16]).is_ok(), length == value.len());
    }
}

#[test]
fn failures_tell_guessers_nothing() {
    let message = failure_message(691, [0xab; 16], "Login incorrect");
    let digits = "AB".repeat(16);
    assert_eq!(message, format!("E=691 R=0 C={digits} V=3 M=Login incorrect"));
    assert_eq!(failure_code(message.as_bytes()), Some(691));
    for nonsense in [&b""[..], b"E=", b"E=x R=0", b"E=99999", b"\xff", b"R=0 E"] {
        assert_eq!(failure_code(nonsense), None);
    }
    use RejectReason::{BadCredentials, NoVerifier, Throttled, UnknownRealm};
    for reason in [BadCredentials, NoVerifier, UnknownRealm, Throttled] {
        assert_eq!(error_code(reason), 691);
    }
    assert_eq!(error_code(RejectReason::Disabled), 647);
    assert_eq!(error_code(RejectReason::NotPermitted), 649);
}

#[test]
fn version_1_is_no_method() {
    assert_eq!(AuthProtocol::of_algorithm(0x80), None);
    for known in [AuthProtocol::Chap, AuthProtocol::MsChapV2] {
        assert_eq!(
            known.algorithm().and_then(AuthProtocol::of_algorithm),
            Some(known)
        );
    }
}
