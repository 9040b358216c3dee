use super::*;
use crate::request::Endpoints;
use proptest::prelude::*;
use std::net::SocketAddr;

/// The octets of a vector as it is written.
fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut times = 1;
    while let Some(first) = rest.chars().next() {
        let (octet, used) = if let Some(number) = rest.strip_prefix('{') {
            let (number, after) = number.split_once('}').unwrap();
            times = number.parse().unwrap();
            let quoted = after.strip_prefix('\'').unwrap();
            let (octet, used) = one(quoted);
            (octet, number.len() + used + 4)
        } else {
            one(rest)
        };
        assert!(first.is_ascii());
        out.extend(std::iter::repeat_n(octet, times));
        times = 1;
        rest = &rest[used..];
    }
    out
}

fn one(text: &str) -> (u8, usize) {
    let bytes = text.as_bytes();
    match (bytes[0], bytes.get(1)) {
        (b'\\', Some(b'r')) => (b'\r', 2),
        (b'\\', Some(b'n')) => (b'\n', 2),
        (b'\\', Some(b'0')) => (0, 2),
        (b'\\', Some(b'x')) => (u8::from_str_radix(&text[2..4], 16).unwrap(), 4),
        (plain, _) => (plain, 1),
    }
}

fn show(result: Result<Decoded, Malformed>) -> String {
    match result {
        Ok(Decoded::More) => "more".to_owned(),
        Ok(Decoded::Header(Header::Own, length)) => format!("own {length}"),
        Ok(Decoded::Header(Header::Proxied(Endpoints { source, destination }), length)) => {
            format!("{source} {destination} {length}")
        }
        Err(malformed) => format!("{malformed:?}"),
    }
}

fn vectors() -> Vec<(String, Vec<u8>)> {
    let lines = include_str!("vectors.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = lines.map(|line| line.split_once(" | ").unwrap());
    split
        .map(|(expected, text)| (expected.to_owned(), octets(text)))
        .collect()
}

#[test]
fn headers_are_read_as_the_vectors_say() {
    let vectors = vectors();
    assert!(vectors.len() > 60);
    for (expected, octets) in vectors {
        assert_eq!(
            show(decode(&octets)),
            expected,
            "{}",
            String::from_utf8_lossy(&octets)
        );
    }
}

#[test]
fn the_start_of_a_header_is_never_another_and_never_wrong() {
    for (expected, octets) in vectors() {
        let Ok(Decoded::Header(_, length)) = decode(&octets) else {
            continue;
        };
        for end in 0..length {
            assert_eq!(
                decode(&octets[..end]),
                Ok(Decoded::More),
                "{expected}: {end} octets"
            );
        }
        assert_eq!(show(decode(&octets[..length])), expected);
    }
}

#[test]
fn a_header_that_is_wrong_stays_wrong() {
    for (expected, octets) in vectors() {
        let Err(malformed) = decode(&octets) else { continue };
        let longer = [octets.as_slice(), b"more"].concat();
        assert_eq!(decode(&longer), Err(malformed), "{expected}");
    }
}

#[test]
fn without_endpoints_a_header_says_nothing() {
    for (version, length) in [(Version::V1, 15), (Version::V2, 16)] {
        let mut out = Vec::new();
        encode(version, None, &mut out);
        assert_eq!(decode(&out), Ok(Decoded::Header(Header::Own, length)));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr, binary: bool) {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        let endpoints = Endpoints { source: plain(source), destination: plain(destination) };
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let version = if binary { Version::V2 } else { Version::V1 };
        let mut out = b"before".to_vec();
        encode(version, Some(endpoints), &mut out);
        let header = &out[6..];
        prop_assert!(version == Version::V2 || header.len() <= MAX_V1);
        let read = Endpoints { source: canonical(source), destination: canonical(destination) };
        prop_assert_eq!(decode(header), Ok(Decoded::Header(Header::Proxied(read), header.len())));
    }

    #[test]
    fn no_octets_are_trouble(octets in proptest::collection::vec(any::<u8>(), 0..300), version in 0usize..3) {
        let start: &[u8] = [&b""[..], b"PROXY ", &SIGNATURE][version];
        let all = [start, &octets].concat();
        if let Ok(Decoded::Header(_, length)) = decode(&all) {
            prop_assert!(length <= all.len());
        }
    }
}

/// CRC-32C as RFC 3720, B.4 has it, bit by bit.
fn crc32c_of(octets: &[u8]) -> u32 {
    let step = |sum: u32| {
        if sum & 1 == 1 {
            sum >> 1 ^ 0x82f6_3b78
        } else {
            sum >> 1
        }
    };
    let of_octet = |sum: u32, octet: &u8| (0..8).fold(sum ^ u32::from(*octet), |sum, _| step(sum));
    !octets.iter().fold(!0, of_octet)
}

#[test]
fn a_checksum_that_a_header_has_must_be_right() {
    assert_eq!(crc32c_of(b"123456789"), 0xe306_9283);
    let mut good = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x17".to_vec();
    good.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2, 1, 0, 1, 187]);
    // The checksum with a TLV behind it, as its place is the sender's choice.
    good.extend_from_slice(&[3, 0, 4, 0, 0, 0, 0, 4, 0, 1, b'n']);
    let sum = crc32c_of(&good).to_be_bytes();
    let place = 28 + 3;
    good[place..place + 4].copy_from_slice(&sum);
    let all = good.len();
    // What follows the header is not its.
    let followed = [&good[..], b"more"].concat();
    assert!(matches!(decode(&followed), Ok(Decoded::Header(Header::Proxied(_), length)) if length == all));
    // From the addresses on, past what says how long the TLVs are.
    for at in (16..28).chain(place..place + 4).chain([all - 1]) {
        for bit in 0..8 {
            let mut damaged = good.clone();
            damaged[at] ^= 1 << bit;
            assert_eq!(decode(&damaged), Err(Malformed::Checksum), "{at}");
        }
    }
    // One that is none: three octets.
    let mut short = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x12".to_vec();
    short.extend_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2, 1, 0, 1, 187, 3, 0, 3, 1, 2, 3]);
    assert_eq!(decode(&short), Err(Malformed::Checksum));
}
