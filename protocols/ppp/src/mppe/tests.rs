use super::decoder::{ASK_AGAIN, BAR, HALF, NEAR, OUT_OF_STEP};
use super::*;
use crate::drops;
use crate::header::protocol::{IPV4, IPV6};
use bytes::BytesMut;
use proptest::prelude::*;
use rc4::StreamCipher;
use std::ops::Range;
use std::time::{Duration, Instant};

const VECTORS: &str = include_str!("../../tests/data/rfc3079.txt");

fn hex(text: &str) -> Vec<u8> {
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn keys_and_ciphers_are_those_of_the_rfcs_examples() {
    let mut seen = Vec::new();
    for row in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = row.split('|').collect();
        let bits: u8 = columns[0].trim().parse().unwrap();
        let strength = Strength::ALL
            .into_iter()
            .find(|strength| strength.bits() == bits)
            .unwrap();
        let key = Key::new(&hex(columns[1]), strength);
        assert_eq!(key.session(), hex(columns[2]), "{row}");
        let mut text = b"test message".to_vec();
        key.cipher().unwrap().apply_keystream(&mut text);
        assert_eq!(text, hex(columns[3]), "{row}");
        seen.push(bits);
    }
    assert_eq!(seen, [40, 56, 128]);
}

#[test]
fn master_keys_of_other_lengths_are_cut_and_padded() {
    let long: Vec<u8> = (0..32).collect();
    for strength in Strength::ALL {
        let length = strength.key_length();
        let (cut, whole) = (Key::new(&long[..length], strength), Key::new(&long, strength));
        assert_eq!(cut.session(), whole.session());
        let mut padded = vec![0; length - 3];
        padded.extend([1, 2, 3]);
        let (short, padded) = (Key::new(&[1, 2, 3], strength), Key::new(&padded, strength));
        assert_eq!(short.session(), padded.session());
    }
}

fn mode(strength: Strength, stateless: bool) -> Mode {
    Mode { strength, stateless }
}

/// One direction: what one end encrypts and the other decrypts.
struct Way {
    encoder: Encoder,
    decoder: Decoder,
    now: Instant,
}

fn ends(mode: Mode) -> MppeState {
    MppeState::begin((mode, &[7; 16]), (mode, &[7; 16]))
}

impl Way {
    fn new(mode: Mode) -> Self {
        let (send, receive) = ends(mode).split();
        Self {
            encoder: Encoder::new(send, false),
            decoder: Decoder::new(receive, false),
            now: Instant::now(),
        }
    }

    fn stateless() -> Self {
        Self::new(mode(Strength::Bits128, true))
    }

    fn stateful() -> Self {
        Self::new(mode(Strength::Bits128, false))
    }

    /// An encrypted packet with a number in it.
    fn seal(&mut self, number: u16) -> Vec<u8> {
        let mut out = BytesMut::new();
        assert!(self.encoder.seal(IPV4, &packet(number), &mut out));
        out.to_vec()
    }

    fn open(&mut self, sealed: &[u8]) -> Result<u16, Undecoded> {
        let mut bytes = sealed.to_vec();
        let (protocol, range) = self.decoder.open(&mut bytes, self.now)?;
        assert_eq!((protocol, bytes[range.clone()].len()), (IPV4, 20));
        let number = u16::from_be_bytes([bytes[range.start + 1], bytes[range.start + 2]]);
        assert_eq!(bytes[range], packet(number));
        Ok(number)
    }

    /// Sends packets with these numbers, of which none is lost.
    fn pass(&mut self, numbers: Range<u16>) {
        for number in numbers {
            let sealed = self.seal(number);
            assert_eq!(self.open(&sealed), Ok(number));
        }
    }

    fn lose(&mut self, count: u16) {
        for _ in 0..count {
            self.seal(0);
        }
    }
}

fn packet(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut packet = vec![0x45, high, low];
    packet.resize(20, low ^ 0x5a);
    packet
}

fn dropped(reason: sluice_spi::DropReason) -> Result<u16, Undecoded> {
    Err(Undecoded::Drop(reason))
}

#[test]
fn both_modes_pass_more_packets_than_there_are_counts() {
    for strength in Strength::ALL {
        for stateless in [true, false] {
            let mut way = Way::new(mode(strength, stateless));
            way.pass(0..COUNT + 300);
        }
    }
}

#[test]
fn headers_are_those_of_the_rfc() {
    let mut way = Way::stateless();
    let header = |sealed: &[u8]| u16::from_be_bytes([sealed[0], sealed[1]]);
    assert_eq!(header(&way.seal(0)), 0x9000);
    assert_eq!(header(&way.seal(0)), 0x9001);
    let mut way = Way::stateful();
    for count in 0..=0xff {
        let flag = if count == 0xff { 0x8000 } else { 0 };
        assert_eq!(header(&way.seal(0)), 0x1000 | flag | count);
    }
    assert_eq!(header(&way.seal(0)), 0x1100);
}

#[test]
fn lost_packets_cost_key_changes_and_nothing_else() {
    let mut way = Way::stateless();
    way.pass(0..10);
    for lost in [1, 5, NEAR, 300, HALF - 1] {
        way.lose(lost);
        way.pass(lost..lost + 3);
    }
}

#[test]
fn more_key_changes_than_half_the_counts_are_not_made() {
    let mut way = Way::stateless();
    way.pass(0..3);
    way.lose(HALF);
    let sealed = way.seal(1);
    assert_eq!(way.open(&sealed), dropped(drops::MPPE_OLD));
}

#[test]
fn repeated_and_late_packets_are_dropped() {
    for mut way in [Way::stateless(), Way::stateful()] {
        let sealed: Vec<_> = (0..10).map(|number| way.seal(number)).collect();
        for (number, sealed) in sealed.iter().enumerate() {
            assert_eq!(way.open(sealed), Ok(number as u16));
        }
        for sealed in &sealed {
            for _ in 0..20 {
                assert_eq!(way.open(sealed), dropped(drops::MPPE_OLD));
            }
        }
        way.pass(10..20);
    }
}

#[test]
fn packets_in_another_order_pass_where_the_later_ones_are_dropped() {
    let mut way = Way::stateless();
    let (first, second) = (way.seal(1), way.seal(2));
    assert_eq!(way.open(&second), Ok(2));
    assert_eq!(way.open(&first), dropped(drops::MPPE_OLD));
    way.pass(3..6);
}

#[test]
fn forged_packets_change_nothing_and_cost_little() {
    let mut way = Way::stateless();
    way.pass(0..5);
    let forged = |count: u16| {
        let mut packet = (FLUSHED | ENCRYPTED | count).to_be_bytes().to_vec();
        packet.extend([0xaa; 40]);
        packet
    };
    assert_eq!(way.open(&forged(5)), dropped(drops::MPPE_GARBLED));
    assert_eq!(way.open(&forged(4 + HALF)), dropped(drops::MPPE_GARBLED));
    assert_eq!(way.open(&forged(4 + HALF)), dropped(drops::MPPE_FAR));
    assert_eq!(way.open(&forged(4 + NEAR)), dropped(drops::MPPE_GARBLED));
    way.pass(5..10);
    way.now += BAR;
    assert_eq!(way.open(&forged(4 + HALF)), dropped(drops::MPPE_GARBLED));
    way.pass(10..15);
}

#[test]
fn a_link_out_of_step_is_told_of_once_in_a_while() {
    let mut way = Way::stateless();
    way.encoder = Encoder::new(
        MppeState::begin(
            (mode(Strength::Bits128, true), &[8; 16]),
            (mode(Strength::Bits128, true), &[8; 16]),
        )
        .split()
        .0,
        false,
    );
    let mut stuck = 0;
    for _ in 0..2 * OUT_OF_STEP {
        let sealed = way.seal(1);
        way.now += BAR;
        stuck += usize::from(way.open(&sealed) == Err(Undecoded::Stuck));
    }
    assert_eq!(stuck, 2);
}

#[test]
fn wrong_flags_and_short_packets_are_dropped() {
    let mut way = Way::stateless();
    for packet in [
        &[][..],
        &[0x90],
        &[0x90, 0x00],
        &[0x80, 0, 1, 2],
        &[0x10, 0, 1, 2],
        &[0, 0, 1, 2],
    ] {
        assert_eq!(way.open(packet), dropped(drops::MPPE_HEADER), "{packet:x?}");
    }
    way.pass(0..3);
}

#[test]
fn in_stateful_mode_a_lost_packet_is_told_of_and_fresh_tables_go_on() {
    for lost in [1, 100, 240, 249, 255, 256, 300, 1000, 2000] {
        let mut way = Way::stateful();
        way.pass(0..7);
        way.lose(lost);
        let sealed = way.seal(1);
        assert_eq!(way.open(&sealed), Err(Undecoded::Stuck), "{lost}");
        let sealed = way.seal(2);
        assert_eq!(way.open(&sealed), dropped(drops::MPPE_LOST));
        way.encoder.flush();
        way.pass(3..700);
    }
    // Where the packet after those lost has fresh tables, nothing more is lost.
    let mut way = Way::stateful();
    way.pass(0..7);
    way.lose(248);
    way.pass(1..700);
}

#[test]
fn in_stateful_mode_also_a_long_silence_is_got_over() {
    let mut way = Way::stateful();
    way.pass(0..7);
    way.lose(3000);
    let tries = (0..2 * OUT_OF_STEP).position(|_| {
        let sealed = way.seal(1);
        let opened = way.open(&sealed);
        if opened == Err(Undecoded::Stuck) {
            way.encoder.flush();
        }
        opened.is_ok()
    });
    assert!(
        tries.is_some_and(|tries| tries <= usize::from(OUT_OF_STEP)),
        "{tries:?}"
    );
    way.pass(0..300);
}

#[test]
fn fresh_tables_are_asked_for_again() {
    let mut way = Way::stateful();
    way.pass(0..3);
    way.lose(1);
    let mut asked = 0;
    for _ in 0..8 {
        let sealed = way.seal(1);
        asked += usize::from(way.open(&sealed) == Err(Undecoded::Stuck));
        way.now += ASK_AGAIN / 2 + Duration::from_millis(1);
    }
    assert_eq!(asked, 4);
    way.encoder.flush();
    way.pass(0..600);
}

/// The next packet of a peer that initialises its tables anew at once: with the same key, as RFC 3078 has it, or with
/// another.
fn seal_fresh(encoder: &mut Encoder, changes: bool) -> Vec<u8> {
    encoder.count = (encoder.count + 1) & COUNT;
    if changes || encoder.count & FLAG == FLAG {
        encoder.key.change();
    }
    **encoder.tables.as_mut().unwrap() = encoder.key.cipher().unwrap();
    let mut inner = IPV4.to_be_bytes().to_vec();
    inner.extend(packet(9));
    encoder.tables.as_mut().unwrap().apply_keystream(&mut inner);
    let mut sealed = (FLUSHED | ENCRYPTED | encoder.count).to_be_bytes().to_vec();
    sealed.extend(inner);
    sealed
}

#[test]
fn both_readings_of_the_rfc_are_understood() {
    for changes in [false, true] {
        let mut way = Way::stateful();
        way.pass(0..5);
        for round in 0..40u16 {
            way.lose(1 + 7 * round);
            if round % 4 == 3 {
                // Fresh tables are lost too.
                seal_fresh(&mut way.encoder, changes);
                seal_fresh(&mut way.encoder, changes);
            }
            let sealed = seal_fresh(&mut way.encoder, changes);
            assert_eq!(way.open(&sealed), Ok(9), "{changes} {round}");
            way.pass(0..30);
        }
    }
}

#[test]
fn another_process_goes_on() {
    for stateless in [true, false] {
        let mut way = Way::new(mode(Strength::Bits56, stateless));
        way.pass(0..600);
        let mut bytes = Vec::new();
        MppeState::join(way.encoder.state(), way.decoder.state()).put(&mut bytes);
        assert_eq!(bytes.len(), MppeState::SIZE);
        let read = |bytes: &[u8]| MppeState::read(&mut Reader::new(bytes));
        let (send, receive) = read(&bytes).unwrap().split();
        way.encoder = Encoder::new(send, true);
        way.decoder = Decoder::new(receive, true);
        way.pass(600..1200);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_none());
        }
        // Each end alone: the other has not noticed.
        let (_, receive) = MppeState::join(way.encoder.state(), way.decoder.state()).split();
        way.decoder = Decoder::new(receive, true);
        let sealed = way.seal(1);
        let opened = way.open(&sealed);
        if stateless {
            assert_eq!(opened, Ok(1));
        } else {
            assert_eq!(opened, Err(Undecoded::Stuck));
            way.encoder.flush();
        }
        way.pass(2..600);
    }
}

#[test]
fn nothing_of_a_key_is_shown() {
    let way = Way::stateless();
    let shown = format!(
        "{:?} {:?} {:?}",
        way.encoder,
        way.decoder,
        ends(mode(Strength::Bits40, true))
    );
    assert!(shown.contains("Bits128") && !shown.contains("key"), "{shown}");
}

#[test]
fn only_packets_of_network_protocols_are_covered() {
    for (number, covered) in [
        (0x0020, false),
        (IPV4, true),
        (IPV6, true),
        (0x00fa, true),
        (0x00fb, false),
        (0x00fd, false),
        (0x8021, false),
        (0x80fd, false),
        (0xc021, false),
    ] {
        assert_eq!(covers(number), covered, "{number:#06x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the path does, a packet that comes out is one that went in, each once, in order; and with no more loss
    /// the link goes on.
    #[test]
    fn what_comes_out_went_in(
        stateless: bool,
        fates in proptest::collection::vec(0..10u8, 1..400),
    ) {
        let mut way = Way::new(mode(Strength::Bits128, stateless));
        let mut last = None;
        let mut held: Option<Vec<u8>> = None;
        for (number, fate) in fates.into_iter().enumerate() {
            way.now += Duration::from_millis(10);
            let sealed = way.seal(number as u16);
            let mut arrives = match fate {
                0 => vec![],
                1 => vec![sealed.clone(), sealed],
                2 => { held = Some(sealed); vec![] }
                _ => vec![sealed],
            };
            if fate > 5 {
                arrives.extend(held.take());
            }
            for packet in arrives {
                match way.open(&packet) {
                    Ok(number) => {
                        prop_assert!(last.is_none_or(|last| last < number));
                        last = Some(number);
                    }
                    Err(Undecoded::Stuck) => { prop_assert!(!stateless); way.encoder.flush(); }
                    Err(Undecoded::Drop(_)) => {}
                }
            }
        }
        // The path is whole again.
        let mut passed = 0;
        for number in 0..400 {
            way.now += Duration::from_millis(10);
            let sealed = way.seal(number);
            match way.open(&sealed) {
                Ok(_) => passed += 1,
                Err(Undecoded::Stuck) => way.encoder.flush(),
                Err(_) => passed = 0,
            }
        }
        prop_assert!(passed > 300, "{passed}");
    }

    /// Any bytes: no panic, and bounded work.
    #[test]
    fn any_bytes_are_borne(
        stateless: bool,
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..40),
    ) {
        let mut way = Way::new(mode(Strength::Bits40, stateless));
        for mut packet in packets {
            if let Ok((_, range)) = way.decoder.open(&mut packet, way.now) {
                prop_assert!(range.start >= 1 && range.end <= packet.len());
            }
        }
    }
}
