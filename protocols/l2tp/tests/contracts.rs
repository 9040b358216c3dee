//! The contract tests that every module passes, and messages in any order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::world::{Peer, World, cdn, line};
use common::{Bench, LAC, LNS};
use sluice_l2tp::wire::message::*;
use sluice_testkit::{Impairment, Seeded, Side, contract};
use std::time::Duration;

sluice_testkit::count_memory!();

#[test]
fn any_bytes_from_anywhere() {
    let peer = Peer::new("198.51.100.7:1701", 77);
    let corpus = vec![
        peer.packet(0, &Message::Sccrq(peer.start())),
        peer.packet(0, &peer.stop(1)),
        peer.packet(0, &Message::Hello),
        peer.packet(0, &Message::Icrq(Icrq::default())),
        peer.data(9, &[0xff, 3, 0xc0, 0x21, 1, 1, 0, 4]),
    ];
    let sources = [
        "198.51.100.7:1701".parse().unwrap(),
        "203.0.113.1:5".parse().unwrap(),
    ];
    let make = || Bench::good(LAC, LNS).pair;
    contract::any_bytes(make, &corpus, &sources, 3, 300, 2_000_000);
}

#[test]
fn any_bytes_from_the_peer_of_an_established_tunnel() {
    for side in [Side::Server, Side::Client] {
        for secret in ["", "secret = \"tunnel-secret\"\nhide_avps = true\n"] {
            let mut bench = Bench::good(&format!("{LAC}{secret}"), &format!("{LNS}{secret}"));
            bench.connect();
            bench.run(Duration::from_secs(2));
            contract::any_bytes_from_the_peer(bench.pair, side, 9, 60);
        }
    }
}

/// A random message of a peer, with random session ids among those in use.
fn any_message(random: &mut Seeded, peer: &Peer) -> (u16, Message) {
    let id = random.below(4) as u16;
    let header = random.below(4) as u16;
    let reply = Reply {
        session_id: id.max(1),
        channel: None,
    };
    let message = match random.below(15) {
        0 => Message::Sccrq(peer.start()),
        1 => Message::Sccrp(peer.start()),
        2 => Message::Scccn(Scccn::default()),
        3 => peer.stop(1),
        4 => Message::Hello,
        5 => Message::Ocrq(Ocrq {
            session_id: id.max(1),
            bearer: 1,
            framing: 1,
            ..Ocrq::default()
        }),
        6 => Message::Ocrp(reply),
        7 => Message::Occn(line()),
        8 | 9 => Message::Icrq(Icrq {
            session_id: id.max(1),
            ..Icrq::default()
        }),
        10 => Message::Icrp(reply),
        11 | 12 => Message::Iccn(line()),
        13 => cdn(id.max(1)),
        _ => Message::Wen(CallErrors::default()),
    };
    (header, message)
}

#[test]
fn r01_messages_in_any_order() {
    for seed in 0..300 {
        let mut random = Seeded::new(seed);
        let mut world = World::new("answer_outgoing = true\ncall_timeout = \"10s\"\n");
        let mut peer = Peer::new("198.51.100.7:1701", 77);
        if random.chance(0.8) {
            peer.establish(&mut world);
        }
        let mut sessions = vec![0u16];
        for _ in 0..40 {
            let (header, message) = any_message(&mut random, &peer);
            let header = sessions.get(usize::from(header)).copied().unwrap_or(header);
            // Mostly in order; sometimes repeated, ahead, or from elsewhere.
            match random.below(10) {
                0 => peer.ns = peer.ns.wrapping_sub(1),
                1 => peer.ns = peer.ns.wrapping_add(1),
                2 => peer.nr = peer.nr.wrapping_add(random.below(3) as u16),
                _ => {}
            }
            for answer in peer.send(&mut world, header, &message) {
                if let Some(Message::Icrp(reply) | Message::Ocrp(reply)) = answer.message {
                    sessions.push(reply.session_id);
                }
            }
            let frame = random.bytes(12);
            let session = sessions[random.below(sessions.len())];
            world.give(peer.address, &peer.data(session, &frame));
            if random.chance(0.3) {
                peer.pass(&mut world, Duration::from_millis(random.below(4000) as u64));
            }
        }
        // Whatever happened, it is over some minutes later.
        world.pass(Duration::from_secs(600));
        assert!(world.node.machines().is_empty(), "seed {seed}");
        world.node.log.check_order(true);
    }
}

#[test]
fn the_same_seed_has_the_same_trace_over_a_bad_link() {
    contract::same_seed_same_trace(|seed| {
        let mut bench = Bench::new(LAC, LNS, Impairment::all(0.2), seed);
        let key = bench.dial();
        bench.call(Side::Client, key, "a", true);
        bench.call(Side::Client, key, "b", true);
        bench.run(Duration::from_secs(60));
        bench.pair
    });
}
