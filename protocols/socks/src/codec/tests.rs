use super::*;
use crate::wire::datagram::encode;
use proptest::prelude::*;
use sluice_auth::Host;
use std::time::Duration;

const RULES: Reassembly = Reassembly {
    timeout: Duration::from_secs(5),
    bytes: 30,
};
/// 192.0.2.1:53 as a client writes it.
const TARGET: [u8; 7] = [1, 192, 0, 2, 1, 0, 53];
const LAST: u8 = 0x80;

fn packet(fragment: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, fragment], &TARGET[..], payload].concat()
}

/// What comes of a datagram, in words.
fn open(codec: &mut Codec, packet: &[u8], now: Instant) -> String {
    match codec.open(packet, now) {
        ClientDatagram::To { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
        ClientDatagram::Held => "held".to_owned(),
        ClientDatagram::Drop(reason) => format!("!{}", reason.0),
    }
}

fn parts(codec: &mut Codec, parts: &[(u8, &str)], now: Instant) -> Vec<String> {
    let open = |&(fragment, payload): &(u8, &str)| open(codec, &packet(fragment, payload.as_bytes()), now);
    parts.iter().map(open).collect()
}

#[test]
fn the_target_is_given_as_it_was_written() {
    let mut codec = Codec::new(None);
    let now = Instant::now();
    for (target, expected) in [
        (&TARGET[..], "192.0.2.1:53"),
        (
            &[&[4][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[1, 0, 53]].concat(),
            "[2001:db8::1]:53",
        ),
        (
            &[&[4][..], &[0; 10], &[255, 255, 192, 0, 2, 1, 0, 53]].concat(),
            "192.0.2.1:53",
        ),
        (b"\x03\x0bExample.COM\x00\x35", "example.com:53"),
        (b"\x03\x09127.0.0.1\x00\x35", "127.0.0.1:53"),
    ] {
        let whole = [&[0, 0, 0], target, b"data"].concat();
        match codec.open(&whole, now) {
            ClientDatagram::To {
                target: read,
                payload,
            } => {
                assert_eq!((read, payload), (target, &b"data"[..]));
                let read = read.to_vec();
                assert_eq!(codec.target(&read).unwrap().to_string(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_cannot_be_relayed_is_dropped_under_its_reason() {
    let mut codec = Codec::new(None);
    let now = Instant::now();
    for (bytes, reason) in [
        (&b""[..], "!udp_short"),
        (&[0, 0], "!udp_short"),
        (&[0, 0, 0, 1, 192, 0, 2, 1, 0], "!udp_short"),
        (&[0, 0, 0, 3], "!udp_short"),
        (&[0, 0, 0, 3, 9, b'x', 0, 53], "!udp_short"),
        (&[0, 1, 0, 1, 192, 0, 2, 1, 0, 53], "!udp_reserved"),
        (&[1, 0, 0, 1, 192, 0, 2, 1, 0, 53], "!udp_reserved"),
        (&[0, 0, 0, 2, 192, 0, 2, 1, 0, 53], "!udp_address_type"),
        (&[0, 0, 0, 1, 192, 0, 2, 1, 0, 0], "!udp_port"),
    ] {
        assert_eq!(open(&mut codec, bytes, now), reason, "{bytes:?}");
    }
    for octets in [
        &b"\x03\x00\x00\x35"[..],
        b"\x03\x03a\0b\x00\x35",
        b"\x03\x0a2130706433\x00\x35",
        b"\x01\x7f\x00",
        b"\x01\x7f\x00\x00\x01\x00\x35\x00",
        b"\x09",
        b"",
    ] {
        assert_eq!(codec.target(octets), Err(drops::TARGET), "{octets:?}");
    }
}

#[test]
fn parts_are_dropped_and_never_relayed_as_whole() {
    let mut codec = Codec::new(None);
    let now = Instant::now();
    for fragment in 1..=255u8 {
        assert_eq!(open(&mut codec, &packet(fragment, b"part"), now), "!udp_fragment");
    }
    assert_eq!(open(&mut codec, &packet(0, b""), now), "");
    assert_eq!(codec.held_until(), None);
}

#[test]
fn parts_in_order_become_one_datagram() {
    let mut codec = Codec::new(Some(RULES));
    let now = Instant::now();
    let out = parts(&mut codec, &[(1, "one "), (2, "two "), (LAST | 3, "three")], now);
    assert_eq!(out, ["held", "held", "one two three"]);
    assert_eq!(codec.held_until(), None);
    // A datagram of one part, and a whole one after it.
    let out = parts(&mut codec, &[(LAST | 1, "all"), (0, "whole")], now);
    assert_eq!(out, ["all", "whole"]);
    assert_eq!(codec.expire(now + RULES.timeout), 0);
}

#[test]
fn all_127_places_can_be_used() {
    let rules = Reassembly { bytes: 127, ..RULES };
    let mut codec = Codec::new(Some(rules));
    let now = Instant::now();
    for position in 1..127u8 {
        assert_eq!(open(&mut codec, &packet(position, b"x"), now), "held");
    }
    assert_eq!(open(&mut codec, &packet(LAST | 127, b"x"), now), "x".repeat(127));
    assert_eq!(open(&mut codec, &packet(LAST, b"x"), now), "!udp_fragment_order");
}

#[test]
fn a_lower_place_ends_the_sequence() {
    let now = Instant::now();
    let mut codec = Codec::new(Some(RULES));
    // A first part begins anew.
    let out = parts(&mut codec, &[(1, "a"), (2, "b"), (1, "c"), (LAST | 2, "d")], now);
    assert_eq!(out, ["held", "held", "held", "cd"]);
    // A whole datagram has place 0.
    let out = parts(&mut codec, &[(1, "a"), (0, "whole"), (LAST | 2, "b")], now);
    assert_eq!(out, ["held", "whole", "!udp_fragment_order"]);
    let out = parts(
        &mut codec,
        &[(1, "a"), (2, "b"), (3, "c"), (2, "b"), (LAST | 4, "d")],
        now,
    );
    assert_eq!(out[3..], ["!udp_fragment_order", "!udp_fragment_order"]);
    assert_eq!(codec.expire(now), 2 + 1 + 3, "the parts given up are told of");
    assert_eq!(codec.expire(now), 0);
}

#[test]
fn a_part_left_out_or_of_another_target_ends_the_sequence() {
    let now = Instant::now();
    let mut codec = Codec::new(Some(RULES));
    let out = parts(&mut codec, &[(1, "a"), (3, "c"), (LAST | 2, "b")], now);
    assert_eq!(out, ["held", "!udp_fragment_order", "!udp_fragment_order"]);
    let mut other = packet(LAST | 2, b"b");
    let _ = open(&mut codec, &packet(1, b"a"), now);
    other[9] = 54;
    assert_eq!(open(&mut codec, &other, now), "!udp_fragment_order");
    // The same part twice is no reason.
    let out = parts(&mut codec, &[(1, "a"), (2, "b"), (2, "b"), (LAST | 3, "c")], now);
    assert_eq!(out, ["held", "held", "!udp_fragment_order", "abc"]);
}

#[test]
fn parts_are_bounded_in_octets() {
    let now = Instant::now();
    let mut codec = Codec::new(Some(RULES));
    let out = parts(&mut codec, &[(1, &"a".repeat(30)), (LAST | 2, "")], now);
    assert_eq!(out, ["held".to_owned(), "a".repeat(30)]);
    let out = parts(
        &mut codec,
        &[(1, &"a".repeat(30)), (2, "b"), (LAST | 3, "c")],
        now,
    );
    assert_eq!(out, ["held", "!udp_fragment_size", "!udp_fragment_order"]);
    assert_eq!(
        open(&mut codec, &packet(1, &[b'a'; 31]), now),
        "!udp_fragment_size"
    );
    assert_eq!(codec.expire(now), 1);
}

#[test]
fn parts_live_as_long_as_their_timer() {
    let now = Instant::now();
    let mut codec = Codec::new(Some(RULES));
    let late = now + RULES.timeout;
    let _ = parts(&mut codec, &[(1, "a"), (2, "b")], now);
    assert_eq!(codec.held_until(), Some(late));
    // Later parts do not prolong it.
    let early = late - Duration::from_millis(1);
    assert_eq!(open(&mut codec, &packet(3, b"c"), early), "held");
    assert_eq!(codec.expire(early), 0);
    assert_eq!(codec.expire(late), 3);
    assert_eq!(codec.held_until(), None);
    // Without anybody calling `expire`, too late is too late.
    let _ = open(&mut codec, &packet(1, b"a"), now);
    assert_eq!(
        open(&mut codec, &packet(LAST | 2, b"b"), late),
        "!udp_fragment_order"
    );
    assert_eq!(codec.held_until(), Some(late), "one is still to be told of");
    assert_eq!(codec.expire(late), 1);
}

#[test]
fn answers_carry_the_real_source() {
    let mut codec = Codec::new(None);
    for (from, header) in [
        ("192.0.2.1:53", "00000001c00002010035"),
        ("[::ffff:192.0.2.1]:53", "00000001c00002010035"),
        ("[2001:db8::1]:53", "0000000420010db80000000000000000000000010035"),
    ] {
        let mut out = BytesMut::from(&b"before"[..]);
        codec.seal(from.parse().unwrap(), b"data", &mut out).unwrap();
        let hex: String = out[6..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, format!("{header}64617461"));
        assert!(out.len() - 6 - 4 <= codec.overhead());
    }
}

#[test]
fn payloads_of_any_size_pass() {
    let mut codec = Codec::new(None);
    for length in [0, 1, 1472, 65_507 - 10] {
        let payload = vec![7; length];
        let whole = packet(0, &payload);
        match codec.open(&whole, Instant::now()) {
            ClientDatagram::To { payload: read, .. } => assert_eq!(read, payload),
            other => panic!("{length}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_held_within_bounds(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..40), 0u8..6, any::<bool>(), 0u64..3000), 0..60
        )
    ) {
        let mut codec = Codec::new(Some(RULES));
        let mut now = Instant::now();
        for (bytes, position, last, pause) in packets {
            now += Duration::from_millis(pause);
            let fragment = position | if last { LAST } else { 0 };
            let bytes = if pause % 2 == 0 { packet(fragment, &bytes) } else { bytes };
            if let ClientDatagram::To { payload, target } = codec.open(&bytes, now) {
                prop_assert!(payload.len() <= 40);
                prop_assert!(target.len() >= 4);
            }
            let held = codec.sequence.as_ref().map_or(0, |sequence| sequence.payload.len());
            prop_assert!(held <= RULES.bytes);
            prop_assert!(codec.sequence.is_none() || codec.held_until().is_some());
        }
        codec.expire(now + RULES.timeout);
        prop_assert_eq!(codec.held_until(), None);
    }

    #[test]
    fn what_was_sealed_is_opened(address in any::<[u8; 16]>(), port in 1u16.., v4 in any::<bool>(), data in any::<Vec<u8>>()) {
        let [a, b, c, d, ..] = address;
        let ip = if v4 { std::net::IpAddr::from([a, b, c, d]) } else { std::net::IpAddr::from(address) };
        let mut out = BytesMut::new();
        encode(SocketAddr::new(ip, port), &data, &mut out);
        let mut codec = Codec::new(None);
        let ClientDatagram::To { target, payload } = codec.open(&out, Instant::now()) else {
            return Err(TestCaseError::fail("dropped"));
        };
        prop_assert_eq!(payload, &data[..]);
        let target = target.to_vec();
        let expected = Target { host: Host::Address(ip.to_canonical()), port };
        prop_assert_eq!(codec.target(&target), Ok(expected));
    }
}
