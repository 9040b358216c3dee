use super::*;
use sluice_spi::DropReason;
use std::time::Duration;

const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

fn peer() -> PeerAddr {
    PeerAddr {
        remote: "192.0.2.1:1701".parse().unwrap(),
        local: "192.0.2.2:1701".parse().unwrap(),
    }
}

fn codec(sequencing: Sequencing, packets: usize) -> Codec {
    Codec::new(CodecSpec {
        peer: peer(),
        template: DataTemplate::new(3, 4, false),
        header: PppHeader::default(),
        sequencing,
        reorder: Reorder {
            packets,
            wait: Duration::from_millis(20),
        },
        state: DataState::new(sequencing),
    })
}

/// A data message with the number `ns` and an IPv4 packet marked with `mark`.
fn message(ns: Option<u16>, mark: u8) -> Vec<u8> {
    let mut out = BytesMut::new();
    let template = DataTemplate::new(1, 2, false);
    template.put(ns, &mut out);
    PppHeader::default().seal(protocol::IPV4, &mut out);
    out.extend_from_slice(&PACKET);
    out.put_u8(mark);
    out.to_vec()
}

/// Opens a message and releases what may go on; gives the marks that came out and the reason of a drop.
fn run(codec: &mut Codec, ns: Option<u16>, mark: u8, now: Instant) -> (Vec<u8>, Option<DropReason>) {
    let mut packet = message(ns, mark);
    let mut marks = Vec::new();
    let mut dropped = None;
    match codec.open(&mut packet, &peer(), now) {
        Opened::Ip(range) => marks.extend(packet[range].last()),
        Opened::Held => {}
        Opened::Drop(reason) => dropped = Some(reason),
        other => panic!("{other:?}"),
    }
    marks.extend(released(codec, now));
    (marks, dropped)
}

fn released(codec: &mut Codec, now: Instant) -> Vec<u8> {
    std::iter::from_fn(|| codec.release(now))
        .map(|released| match released {
            Released::Ip(packet) => *packet.last().unwrap(),
            Released::Frame(frame) => panic!("{frame:?}"),
        })
        .collect()
}

#[test]
fn what_is_sealed_opens() {
    let now = Instant::now();
    for with_length in [false, true] {
        for sequencing in [Sequencing::Off, Sequencing::Always] {
            for (acfc, pfc) in [(false, false), (true, true), (true, false), (false, true)] {
                let mut codec = codec(sequencing, 4);
                codec.spec.template = DataTemplate::new(1, 2, with_length);
                codec.spec.header = PppHeader { acfc, pfc };
                let mut out = BytesMut::new();
                assert!(codec.seal(Payload::Ip(&PACKET), &mut out));
                assert!(out.len() <= PACKET.len() + codec.overhead());
                let Opened::Ip(range) = codec.open(&mut out, &peer(), now) else {
                    panic!("no IP packet");
                };
                assert_eq!(out[range], PACKET);
                let mut out = BytesMut::new();
                assert!(codec.seal(Payload::Frame(&[0xc0, 0x21, 9, 1, 0, 4]), &mut out));
                let Opened::Frame(range) = codec.open(&mut out, &peer(), now) else {
                    panic!("no frame");
                };
                assert_eq!(out[range], [0xc0, 0x21, 9, 1, 0, 4]);
            }
        }
    }
}

#[test]
fn compressed_frames_come_out_with_two_octets_of_protocol() {
    let mut codec = codec(Sequencing::Off, 0);
    // VJ uncompressed TCP (0x2f) with PFC and without address: eight octets in all.
    let mut packet = [0, 2, 0, 1, 0, 2, 0x2f, 0xaa];
    let opened = codec.open(&mut packet, &peer(), Instant::now());
    assert_eq!(opened, Opened::Frame(5..8));
    assert_eq!(packet[5..8], [0x00, 0x2f, 0xaa]);
}

#[test]
fn only_whole_user_data_is_sealed() {
    let mut codec = codec(Sequencing::Always, 0);
    let mut out = BytesMut::new();
    for payload in [Payload::Ip(&[]), Payload::Ip(&[0x10]), Payload::Frame(&[1])] {
        assert!(!codec.seal(payload, &mut out));
    }
    assert!(out.is_empty());
    assert_eq!(codec.spec.state.tx_next, 0, "no number is used up");
}

#[test]
fn r17_data_from_another_address_is_dropped() {
    let mut codec = codec(Sequencing::Off, 0);
    let mut from = peer();
    from.remote.set_port(1702);
    let opened = codec.open(&mut message(None, 1), &from, Instant::now());
    assert_eq!(opened, Opened::Drop(drops::WRONG_PEER));
    codec.set_peer(from);
    assert!(matches!(
        codec.open(&mut message(None, 1), &from, Instant::now()),
        Opened::Ip(_)
    ));
}

#[test]
fn local_ipv6_goes_to_the_machine() {
    let mut packet = vec![0, 2, 0, 1, 0, 2, 0xff, 0x03, 0x00, 0x57, 0x60];
    packet.extend([0; 39]);
    let open = |source: [u8; 2], destination: [u8; 2]| {
        let mut packet = packet.clone();
        packet[18..20].copy_from_slice(&source);
        packet[34..36].copy_from_slice(&destination);
        let mut codec = codec(Sequencing::Off, 0);
        matches!(codec.open(&mut packet, &peer(), Instant::now()), Opened::Frame(_))
    };
    assert!(!open([0x20, 0x01], [0x20, 0x01]));
    assert!(open([0xfe, 0x80], [0x20, 0x01]));
    assert!(open([0x20, 0x01], [0xfe, 0xbf]));
    assert!(open([0x20, 0x01], [0xff, 0x02]));
    assert!(!open([0xfe, 0xc0], [0x20, 0x01]));
}

#[test]
fn payloads_that_are_no_ip_are_dropped() {
    let mut codec = codec(Sequencing::Off, 0);
    for payload in [
        &[0x00, 0x21][..],
        &[0x00, 0x21, 0x60],
        &[0x00, 0x57, 0x45],
        &[0xff, 0x03],
        &[],
    ] {
        let mut packet = vec![0, 2, 0, 1, 0, 2];
        packet.extend_from_slice(payload);
        let opened = codec.open(&mut packet, &peer(), Instant::now());
        assert_eq!(opened, Opened::Drop(drops::BAD_PAYLOAD), "{payload:x?}");
    }
}

#[test]
fn packets_are_put_in_order() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Always, 4);
    assert_eq!(run(&mut codec, Some(0), 0, now).0, [0]);
    assert_eq!(run(&mut codec, Some(3), 3, now).0, []);
    assert_eq!(run(&mut codec, Some(2), 2, now).0, []);
    assert_eq!(run(&mut codec, Some(2), 2, now).1, Some(drops::OLD_SEQUENCE));
    assert_eq!(run(&mut codec, Some(1), 1, now).0, [1, 2, 3]);
    assert_eq!(run(&mut codec, Some(1), 1, now).1, Some(drops::OLD_SEQUENCE));
    assert_eq!(codec.held_until(), None);
}

#[test]
fn the_wait_for_a_missing_packet_is_bounded() {
    let now = Instant::now();
    let ms = Duration::from_millis;
    let mut codec = codec(Sequencing::Always, 4);
    assert_eq!(run(&mut codec, Some(1), 1, now).0, []);
    assert_eq!(run(&mut codec, Some(3), 3, now + ms(5)).0, []);
    assert_eq!(codec.held_until(), Some(now + ms(20)));
    assert_eq!(released(&mut codec, now + ms(19)), []);
    assert_eq!(released(&mut codec, now + ms(20)), [1]);
    assert_eq!(codec.held_until(), Some(now + ms(25)));
    assert_eq!(released(&mut codec, now + ms(25)), [3]);
    assert_eq!(
        run(&mut codec, Some(2), 2, now + ms(25)).1,
        Some(drops::OLD_SEQUENCE)
    );
    assert_eq!(run(&mut codec, Some(4), 4, now + ms(25)).0, [4]);
}

#[test]
fn the_number_of_held_packets_is_bounded() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Always, 2);
    for ns in [5, 9] {
        assert_eq!(run(&mut codec, Some(ns), ns as u8, now).0, []);
    }
    assert_eq!(run(&mut codec, Some(20), 20, now).0, [5]);
    assert_eq!(codec.held.len(), 2);
    let mut plain = self::codec(Sequencing::Always, 0);
    assert_eq!(run(&mut plain, Some(7), 7, now).0, [7]);
    assert_eq!(run(&mut plain, Some(6), 6, now).1, Some(drops::OLD_SEQUENCE));
}

#[test]
fn numbers_wrap_around() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Always, 4);
    codec.spec.state.rx_next = Some(65_534);
    assert_eq!(run(&mut codec, Some(0), 2, now).0, []);
    assert_eq!(run(&mut codec, Some(65_535), 1, now).0, []);
    assert_eq!(run(&mut codec, Some(65_534), 0, now).0, [0, 1, 2]);
}

#[test]
fn a_peer_that_counts_anew_is_followed() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Always, 4);
    codec.spec.state.rx_next = Some(1000);
    let came: Vec<u16> = (0..100)
        .filter(|&ns| !run(&mut codec, Some(ns), ns as u8, now).0.is_empty())
        .collect();
    assert_eq!(came.first(), Some(&(RESYNCHRONIZE - 1)));
    assert_eq!(came.len(), usize::from(100 - (RESYNCHRONIZE - 1)));
}

#[test]
fn a_mirror_does_as_the_peer_does() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Mirror, 4);
    let sealed = |codec: &mut Codec| {
        let mut out = BytesMut::new();
        codec.seal(Payload::Ip(&PACKET), &mut out);
        DataHeader::decode(&out).unwrap().ns
    };
    assert_eq!(sealed(&mut codec), None);
    run(&mut codec, Some(0), 0, now);
    assert_eq!((sealed(&mut codec), sealed(&mut codec)), (Some(0), Some(1)));
    run(&mut codec, None, 0, now);
    assert_eq!(sealed(&mut codec), None);
    // Switched on again, numbers go on from where they were (RFC 2661, 5.4).
    run(&mut codec, Some(1), 0, now);
    assert_eq!(sealed(&mut codec), Some(2));
}

#[test]
fn required_numbers_are_expected_once_the_peer_has_begun() {
    let now = Instant::now();
    let mut codec = codec(Sequencing::Always, 4);
    assert_eq!(run(&mut codec, None, 1, now).0, [1]);
    assert_eq!(run(&mut codec, Some(0), 2, now).0, [2]);
    assert_eq!(run(&mut codec, None, 3, now).1, Some(drops::NO_SEQUENCE));
}

#[test]
fn states_read_back() {
    for state in [
        DataState {
            tx_next: 7,
            rx_next: Some(65_535),
            sends: true,
            saw: false,
        },
        DataState {
            tx_next: 0,
            rx_next: None,
            sends: false,
            saw: true,
        },
    ] {
        let bytes = state.to_bytes();
        assert_eq!(DataState::from_bytes(&bytes), Some(state));
        for length in 0..bytes.len() {
            assert_eq!(DataState::from_bytes(&bytes[..length]), None);
        }
    }
    assert_eq!(DataState::from_bytes(&[2, 0, 0, 0, 0, 0]), None);
    assert_eq!(DataState::from_bytes(&[1, 8, 0, 0, 0, 0]), None);
}

#[test]
fn r01_any_bytes_open_without_a_panic() {
    let mut random = 1u32;
    let now = Instant::now();
    let mut codec = codec(Sequencing::Mirror, 4);
    for _ in 0..20_000 {
        let mut packet = message(Some((random >> 8) as u16), 1);
        for _ in 0..3 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (random >> 8) as usize % packet.len();
            packet[at] = (random >> 24) as u8;
        }
        let length = (random >> 4) as usize % (packet.len() + 1);
        packet.truncate(length);
        if let Opened::Ip(range) | Opened::Frame(range) = codec.open(&mut packet, &peer(), now) {
            assert!(range.end <= packet.len() && range.start <= range.end);
        }
        while codec.release(now).is_some() {}
        assert!(codec.held.len() <= 5);
    }
}
