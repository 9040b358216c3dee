use super::*;
use crate::mppe::{Mode, Strength};
use std::time::Duration;

const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

fn pair(header: PppHeader, stateless: bool) -> (PppCodec, PppCodec) {
    let mode = Mode {
        strength: Strength::Bits128,
        stateless,
    };
    let encryption = |send: u8, receive: u8| Encryption {
        state: MppeState::begin((mode, &[send; 16]), (mode, &[receive; 16])),
        resumed: false,
        agreement: 1,
    };
    (
        PppCodec::new(header, Some(&encryption(1, 2))),
        PppCodec::new(header, Some(&encryption(2, 1))),
    )
}

fn sealed(codec: &mut PppCodec, number: u16, information: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    assert!(codec.seal(number, information, &mut out));
    out.to_vec()
}

#[test]
fn user_data_goes_encrypted_both_ways_under_every_header() {
    for header in [(false, false), (true, false), (false, true), (true, true)] {
        let header = PppHeader {
            acfc: header.0,
            pfc: header.1,
        };
        for stateless in [true, false] {
            let (mut one, mut other) = pair(header, stateless);
            for round in 0..600 {
                let mut packet = sealed(&mut one, protocol::IPV4, &PACKET);
                assert_eq!(packet.len(), PACKET.len() + one.overhead());
                assert!(one.overhead() <= PppCodec::MAX_OVERHEAD);
                assert!(!packet.windows(4).any(|part| part == &PACKET[12..16]));
                let Ok(UserData::Ip(range)) = other.open(&mut packet, Instant::now()) else {
                    panic!("{round}");
                };
                assert_eq!(packet[range], PACKET);
                std::mem::swap(&mut one, &mut other);
            }
        }
    }
}

#[test]
fn packets_in_clear_do_not_pass_and_control_does() {
    let (mut one, mut other) = pair(PppHeader::default(), true);
    let mut clear = PppCodec::new(PppHeader::default(), None);
    for number in [protocol::IPV4, protocol::IPV6, 0x003d] {
        let mut packet = sealed(&mut clear, number, &PACKET);
        assert_eq!(other.open(&mut packet, Instant::now()), Err(drops::MPPE_CLEAR));
    }
    for number in [protocol::LCP, protocol::CCP, protocol::IPCP, protocol::CHAP] {
        let mut packet = sealed(&mut one, number, &[1, 2, 3]);
        assert_eq!(packet, sealed(&mut clear, number, &[1, 2, 3]));
        assert_eq!(
            other.open(&mut packet, Instant::now()),
            Ok(UserData::Frame(number, 4..7))
        );
    }
    // Encrypted link-local IPv6 is the link's own.
    let mut solicitation = vec![0x60; 48];
    solicitation[24] = 0xff;
    let mut packet = sealed(&mut one, protocol::IPV6, &solicitation);
    let opened = other.open(&mut packet, Instant::now());
    assert_eq!(opened, Ok(UserData::Frame(protocol::IPV6, 8..56)));
    assert_eq!(packet[8..], solicitation);
}

#[test]
fn a_reset_ack_that_passes_begins_anew() {
    let (mut one, mut other) = pair(PppHeader::default(), false);
    let mut now = Instant::now();
    let mut open = |codec: &mut PppCodec, mut packet: Vec<u8>| {
        now += Duration::from_millis(1);
        codec.open(&mut packet, now)
    };
    sealed(&mut one, protocol::IPV4, &PACKET);
    let next = sealed(&mut one, protocol::IPV4, &PACKET);
    assert_eq!(open(&mut other, next), Ok(UserData::Frame(protocol::MPPE, 4..28)));
    sealed(&mut one, protocol::CCP, &[code::RESET_ACK, 1, 0, 4]);
    let next = sealed(&mut one, protocol::IPV4, &PACKET);
    assert!(matches!(open(&mut other, next), Ok(UserData::Ip(_))));
}

#[test]
fn without_encryption_nothing_is_changed() {
    let mut codec = PppCodec::new(PppHeader::default(), None);
    let mut packet = sealed(&mut codec, protocol::IPV4, &PACKET);
    assert_eq!(packet.len(), PACKET.len() + codec.overhead());
    assert_eq!(
        codec.open(&mut packet, Instant::now()),
        Ok(UserData::Ip(4..packet.len()))
    );
    assert!(codec.state().is_none() && !codec.is_encrypted());
}
