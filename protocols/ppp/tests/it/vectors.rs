//! Packets from a file: in words, back to octets, cut short and changed.

use crate::harness::{Seeded, hex};
use sluice_ppp::protocol;
use sluice_ppp::wire::{IpcpOption, Ipv6cpOption, LcpOption, Malformed, OptionWalk, Packet, describe, pap};

const VECTORS: &str = include_str!("../data/vectors.txt");

struct Vector {
    source: &'static str,
    protocol: u16,
    information: Vec<u8>,
    words: &'static str,
}

fn vectors() -> Vec<Vector> {
    let rows = VECTORS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        Vector {
            source: columns[0],
            protocol: u16::from_str_radix(columns[1], 16).unwrap(),
            information: hex(columns[2]),
            words: columns[3],
        }
    })
    .collect()
}

/// Decodes all there is in a packet; what counts is that this ends without a panic.
fn decode_everything(number: u16, information: &[u8]) {
    describe(number, information);
    let Ok(packet) = Packet::decode(information) else {
        return;
    };
    let _ = (packet.magic(), packet.rejected_protocol(), packet.rejected_code());
    let _ = (pap::Request::decode(packet.body), pap::message(packet.body));
    for option in packet.options().flatten() {
        let _ = (
            LcpOption::decode(option),
            IpcpOption::decode(option),
            Ipv6cpOption::decode(option),
        );
    }
}

#[test]
fn every_vector_says_what_it_should() {
    let vectors = vectors();
    assert!(vectors.len() >= 28);
    for vector in vectors {
        assert_eq!(
            describe(vector.protocol, &vector.information),
            vector.words,
            "{}",
            vector.source
        );
    }
}

#[test]
fn what_was_decoded_is_encoded_alike() {
    for vector in vectors()
        .into_iter()
        .filter(|vector| !vector.source.ends_with('~'))
    {
        let packet = Packet::decode(&vector.information).unwrap();
        let mut body = Vec::new();
        match (vector.protocol, packet.code) {
            (protocol::LCP, 1..=4) => {
                packet
                    .options()
                    .flatten()
                    .for_each(|option| LcpOption::decode(option).encode(&mut body));
            }
            (protocol::IPCP, 1..=4) => {
                packet
                    .options()
                    .flatten()
                    .for_each(|option| IpcpOption::decode(option).encode(&mut body));
            }
            (protocol::IPV6CP, 1..=4) => {
                packet
                    .options()
                    .flatten()
                    .for_each(|option| Ipv6cpOption::decode(option).encode(&mut body));
            }
            (protocol::PAP, pap::REQUEST) => {
                let mut whole = Vec::new();
                pap::Request::decode(packet.body)
                    .unwrap()
                    .encode(packet.id, &mut whole);
                body.extend_from_slice(&whole[4..]);
            }
            _ => body.extend_from_slice(packet.body),
        }
        let mut whole = Vec::new();
        Packet {
            body: &body,
            ..packet
        }
        .encode(&mut whole);
        assert_eq!(whole, vector.information[..whole.len()], "{}", vector.source);
        assert!(whole.len() == vector.information.len() || vector.source.contains("padding"));
    }
}

#[test]
fn no_part_of_a_packet_is_a_packet() {
    for vector in vectors()
        .into_iter()
        .filter(|vector| !vector.source.contains("padding"))
    {
        for length in 0..vector.information.len() {
            let part = &vector.information[..length];
            assert_eq!(
                Packet::decode(part),
                Err(Malformed),
                "{} cut at {length}",
                vector.source
            );
            decode_everything(vector.protocol, part);
        }
    }
}

#[test]
fn changed_packets_do_no_harm() {
    let mut random = Seeded(11);
    let vectors = vectors();
    for round in 0..20_000 {
        let vector = &vectors[round % vectors.len()];
        let mut information = vector.information.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(information.len() as u64) as usize;
            match random.below(4) {
                0 => information[at] = random.next() as u8,
                1 => information[at] ^= 1 << random.below(8),
                2 => information.insert(at, random.next() as u8),
                _ if information.len() > 1 => drop(information.remove(at)),
                _ => {}
            }
        }
        decode_everything(vector.protocol, &information);
        // Every decoder, whatever the protocol number says.
        decode_everything(protocol::IPV6, &information);
        decode_everything(random.next() as u16, &information);
    }
}

#[test]
fn bodies_and_options_too_long_are_cut_and_never_lie_about_their_length() {
    let body = vec![7; 70_000];
    let mut out = Vec::new();
    Packet {
        code: 1,
        id: 1,
        body: &body,
    }
    .encode(&mut out);
    assert_eq!(out.len(), 65_535);
    assert_eq!(Packet::decode(&out).unwrap().body.len(), 65_531);
    let mut out = Vec::new();
    sluice_ppp::wire::put_option(&mut out, 19, &body);
    let options: Vec<_> = OptionWalk::new(&out).collect();
    assert_eq!((options.len(), out.len()), (1, 255));
}
