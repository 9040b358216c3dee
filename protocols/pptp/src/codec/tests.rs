use super::*;
use sluice_testkit::{Clock, Seeded};

fn peer() -> PeerAddr {
    PeerAddr {
        remote: ([192, 0, 2, 7], 0).into(),
        local: ([192, 0, 2, 1], 0).into(),
    }
}

fn codec(now: Instant) -> Codec {
    let spec = CodecSpec {
        peer: peer(),
        call_id: 0x4321,
        header: PppHeader::default(),
        reorder: Reorder {
            packets: 4,
            wait: Duration::from_millis(20),
        },
        ack_delay: Duration::from_millis(100),
        window: 8,
        state: DataState::default(),
    };
    Codec::new(spec, now)
}

/// An IP packet whose last octet is its name.
fn ip(name: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 21];
    packet.resize(20, 0);
    packet.push(name);
    packet
}

fn packet(number: u32, name: u8) -> BytesMut {
    let mut out = BytesMut::new();
    let start = gre::put(7, Some(number), None, &mut out);
    out.extend_from_slice(&[0xff, 0x03, 0x00, 0x21]);
    out.extend_from_slice(&ip(name));
    gre::finish(start, 1, &mut out);
    out
}

/// Gives a packet and what it lets go on, by name.
fn give(codec: &mut Codec, number: u32, name: u8, now: Instant) -> (Opened, Vec<u8>) {
    let mut bytes = packet(number, name);
    let opened = codec.open(&mut bytes, &peer(), now);
    let mut names = Vec::new();
    if let Opened::Ip(range) = &opened {
        names.push(bytes[range.clone()][20]);
    }
    names.extend(released(codec, now));
    (opened, names)
}

fn released(codec: &mut Codec, now: Instant) -> Vec<u8> {
    let mut names = Vec::new();
    while let Some(Released::Ip(packet)) = codec.release(now) {
        names.push(packet[20]);
    }
    names
}

#[test]
fn r30_what_was_overtaken_is_put_in_order_and_never_delivered_late() {
    let clock = Clock::new();
    let now = clock.now();
    let mut codec = codec(now);
    assert_eq!(give(&mut codec, 0, 0, now).1, [0]);
    assert_eq!(give(&mut codec, 2, 2, now).0, Opened::Held);
    assert_eq!(give(&mut codec, 2, 2, now).0, Opened::Drop(drops::OLD_SEQUENCE));
    assert_eq!(give(&mut codec, 1, 1, now).1, [1, 2]);
    assert_eq!(give(&mut codec, 1, 1, now).0, Opened::Drop(drops::OLD_SEQUENCE));
    // What is missing is waited for, but not longer than that.
    assert!(give(&mut codec, 5, 5, now).1.is_empty());
    let until = codec.held_until().unwrap();
    assert_eq!(until, now + Duration::from_millis(20));
    assert_eq!(released(&mut codec, until), [5]);
    assert_eq!(give(&mut codec, 4, 4, until).0, Opened::Drop(drops::OLD_SEQUENCE));
    // Nor longer than there is room.
    let mut names = Vec::new();
    for number in 7..12 {
        names.extend(give(&mut codec, number, number as u8, until).1);
    }
    assert_eq!(names, [7, 8, 9, 10, 11]);
}

#[test]
fn r30_numbers_wrap_and_a_gap_is_loss() {
    let now = Clock::new().now();
    let mut codec = codec(now);
    for number in [u32::MAX - 1, u32::MAX, 0, 1] {
        assert_eq!(give(&mut codec, number, 9, now).1, [9]);
    }
    assert_eq!(give(&mut codec, 2 + AHEAD - 1, 3, now).0, Opened::Held);
    assert_eq!(released(&mut codec, now + Duration::from_secs(1)), [3]);
}

#[test]
fn r30_far_and_replayed_numbers_are_dropped_until_the_peer_counts_anew() {
    let now = Clock::new().now();
    let mut codec = codec(now);
    for number in 0..100 {
        give(&mut codec, number, 1, now);
    }
    // Replays of the past, however many in a row of one number.
    for _ in 0..100 {
        assert_eq!(give(&mut codec, 50, 1, now).0, Opened::Drop(drops::OLD_SEQUENCE));
    }
    let far = 1 << 30;
    assert_eq!(give(&mut codec, far, 1, now).0, Opened::Drop(drops::FAR_SEQUENCE));
    assert_eq!(give(&mut codec, 100, 2, now).1, [2]);
    for number in 0..RESYNCHRONIZE - 1 {
        let dropped = Opened::Drop(drops::FAR_SEQUENCE);
        assert_eq!(give(&mut codec, far + number, 1, now).0, dropped);
    }
    assert_eq!(give(&mut codec, far + RESYNCHRONIZE, 8, now).1, [8]);
    assert_eq!(give(&mut codec, far + RESYNCHRONIZE + 1, 9, now).1, [9]);
}

#[test]
fn r31_acknowledgements_travel_with_data_or_alone_in_time() {
    let now = Clock::new().now();
    let mut codec = codec(now);
    assert_eq!(codec.speaks_at(), None);
    give(&mut codec, 0, 0, now);
    assert_eq!(codec.speaks_at(), Some(now + Duration::from_millis(100)));
    let mut out = BytesMut::new();
    assert!(!codec.speak(now, &mut out) && out.is_empty());
    assert!(codec.seal(Payload::Ip(&ip(1)), &mut out));
    let header = Header::decode(&out).unwrap();
    assert_eq!(
        (header.call_id, header.sequence, header.acknowledged),
        (0x4321, Some(0), Some(0))
    );
    assert_eq!(codec.speaks_at(), None);
    assert!(out.len() <= 21 + codec.overhead());
    give(&mut codec, 1, 0, now);
    let later = now + Duration::from_millis(100);
    out.clear();
    assert!(codec.speak(later, &mut out));
    let header = Header::decode(&out).unwrap();
    assert_eq!((header.sequence, header.acknowledged), (None, Some(1)));
    assert!(!codec.speak(later, &mut out));
    // A peer that keeps to the window of eight does not wait for the delay.
    for number in 2..6 {
        give(&mut codec, number, 0, later);
    }
    out.clear();
    assert!(codec.speak(later, &mut out));
    // Acknowledgements of what was never sent mean nothing, and are counted.
    let mut wrong = BytesMut::new();
    gre::put(7, None, Some(5), &mut wrong);
    assert_eq!(
        codec.open(&mut wrong, &peer(), later),
        Opened::Drop(drops::WRONG_ACK)
    );
    let mut right = BytesMut::new();
    gre::put(7, None, Some(0), &mut right);
    assert_eq!(codec.open(&mut right, &peer(), later), Opened::Consumed);
}

#[test]
fn r28_only_the_peer_of_the_control_connection_is_heard() {
    let now = Clock::new().now();
    let mut codec = codec(now);
    let other = PeerAddr {
        remote: ([192, 0, 2, 8], 0).into(),
        ..peer()
    };
    assert_eq!(
        codec.open(&mut packet(0, 0), &other, now),
        Opened::Drop(drops::WRONG_PEER)
    );
    assert_eq!(give(&mut codec, 0, 0, now).1, [0]);
}

#[test]
fn numbers_outlive_a_restart() {
    for (tx_next, rx_next, owes) in [
        (0, None, false),
        (7, Some(0), true),
        (u32::MAX, Some(u32::MAX), false),
    ] {
        let state = DataState {
            tx_next,
            rx_next,
            owes,
        };
        let bytes = state.to_bytes();
        assert_eq!(DataState::from_bytes(&bytes), Some(state));
        assert_eq!(DataState::from_bytes(&bytes[1..]), None);
    }
}

#[test]
fn r01_any_packet_is_survived_and_order_is_kept() {
    let mut random = Seeded::new(3);
    let mut clock = Clock::new();
    let mut codec = codec(clock.now());
    let mut last = None;
    for round in 0..20_000u32 {
        let number = (round + random.below(8) as u32).saturating_sub(4);
        let mut bytes = packet(number, 0);
        if random.chance(0.2) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        bytes.truncate(if random.chance(0.1) {
            random.below(bytes.len())
        } else {
            bytes.len()
        });
        codec.open(&mut bytes, &peer(), clock.now());
        while codec.release(clock.now()).is_some() {}
        assert!(codec.held.len() <= 5);
        let next = codec.spec.state.rx_next;
        if let (Some(last), Some(next)) = (last, next) {
            let moved = u32::wrapping_sub(next, last);
            assert!(moved < AHEAD || round > RESYNCHRONIZE, "{last} to {next}");
        }
        last = next;
        clock.advance(Duration::from_millis(random.below(3) as u64));
    }
}
