//! The vectors of RFC 2759, 9.2 and 9.3.

use super::*;

/// See `chap_is_md5_of_identifier_secret_and_challenge`.
const CHAP_SUM: &str = "1166c5a4d653b5f41cc0431512a91a1c";
const VECTORS: &str = include_str!("../tests/data/mschapv2.txt");

fn value(key: &str) -> &'static str {
    let line = VECTORS
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap()
}

fn octets<const N: usize>(key: &str) -> [u8; N] {
    let digits: String = value(key).split(' ').collect();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn mschapv2_computes_what_the_rfc_does() {
    let password = Secret::new(value("password"));
    let (ours, peers) = (octets("authenticator-challenge"), octets("peer-challenge"));
    assert_eq!(challenge_hash(&peers, &ours, b"User"), octets("challenge"));
    let hash = nt_hash(&password).unwrap();
    assert_eq!(hash.expose(), octets::<16>("password-hash"));
    let hash_hash = nt_hash_hash(&hash);
    assert_eq!(hash_hash.expose(), octets::<16>("password-hash-hash"));
    for name in [&b"User"[..], b"BIGCO\\User", b"A\\B\\User"] {
        let response = nt_response(&hash, &peers, &ours, name);
        assert_eq!(response, octets("nt-response"));
        let answer = authenticator_response(&hash_hash, &response, &peers, &ours, name);
        assert_eq!(answer, format!("S={}", value("authenticator-response")));
    }
    assert_ne!(nt_response(&hash, &peers, &ours, b"user"), octets("nt-response"));
}

#[test]
fn keys_are_spread_as_in_the_rfcs_example() {
    // RFC 2759, 9.3 gives them with odd parity, which is the lowest bit.
    let spread = spread(&[0xfc, 0x15, 0x6a, 0xf7, 0xed, 0xcd, 0x6c]);
    let parity = [0xfd, 0x0b, 0x5b, 0x5e, 0x7f, 0x6e, 0x34, 0xd9];
    assert_eq!(*spread, parity.map(|byte| byte & 0xfe));
}

#[test]
fn chap_is_md5_of_identifier_secret_and_challenge() {
    // Computed by `printf '\001secret0123456789abcdef' | md5sum`.
    let response = chap_response(1, &Secret::new("secret"), b"0123456789abcdef");
    let hex: String = response.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, CHAP_SUM);
}

#[test]
fn passwords_that_no_client_can_type_have_no_hash() {
    assert!(nt_hash(&Secret::new([0xff, 0xfe])).is_none());
    assert!(nt_hash(&Secret::new("x".repeat(257))).is_none());
    assert!(nt_hash(&Secret::new("\u{e9}".repeat(256))).is_some());
}
