//! Calls of established tunnels, against peers written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::world::{alive, cdn, cdns, established, line, messages};
use common::{Bench, DIALS, LAC, LNS, count_sent};
use sluice_l2tp::wire::message::*;
use sluice_l2tp::wire::result::{cdn as cdn_codes, error};
use sluice_spi::{Event, Input, LocalRef, Refusal, TerminateCause};
use sluice_testkit::log::Seen;
use sluice_testkit::{Policy, Side, Tap};
use std::time::Duration;

const LCP_REQUEST: [u8; 8] = [0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 4];

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Data messages among answers.
fn data(answers: &[common::world::Answer]) -> usize {
    answers.iter().filter(|answer| answer.header.is_none()).count()
}

#[test]
fn refused_admissions_have_their_codes() {
    for (refusal, code) in [
        (Refusal::TooManySessions, (cdn_codes::NO_FACILITIES, None)),
        (Refusal::TooManyOpening, (cdn_codes::NO_FACILITIES, None)),
        (Refusal::PeerLimit, (cdn_codes::NO_FACILITIES, None)),
        (Refusal::Draining, (cdn_codes::ERROR, Some(error::TRY_ANOTHER))),
        (Refusal::Overload, (cdn_codes::ERROR, Some(error::NO_RESOURCES))),
    ] {
        let (mut world, mut peer) = established("");
        world.node.policy = Policy {
            admit: Box::new(move |_| Err(refusal)),
            ..Policy::accept_all()
        };
        let answers = peer.ring(&mut world, 5);
        assert_eq!(cdns(&answers), [code], "{refusal:?}");
        assert!(alive(&world));
        world.node.log.check_order(false);
    }
    let (mut world, mut peer) = established("max_sessions = 1\n");
    peer.call(&mut world, 5);
    assert_eq!(
        cdns(&peer.ring(&mut world, 6)),
        [(cdn_codes::NO_FACILITIES, None)]
    );
}

#[test]
fn a_call_that_ends_while_it_is_admitted_leaves_nothing() {
    let (mut world, mut peer) = established("");
    world.node.policy.admission_delay = seconds(1);
    assert!(peer.ring(&mut world, 5).is_empty());
    peer.send(&mut world, 0, &cdn(5));
    assert_eq!(world.node.log.sessions_down(), ["call_ended_by_peer"]);
    let answers = world.pass(seconds(3));
    assert!(messages(&answers).is_empty(), "the late answer finds nothing");
    world.node.log.check_order(true);
}

#[test]
fn no_early_frame_is_lost() {
    // The first LCP frame overtakes ICCN, and another follows at once.
    let (mut world, mut peer) = established("");
    let answers = peer.ring(&mut world, 5);
    let [Message::Icrp(reply)] = &messages(&answers)[..] else {
        panic!("{answers:?}")
    };
    let session = reply.session_id;
    assert!(
        world
            .give(peer.address, &peer.data(session, &LCP_REQUEST))
            .is_empty()
    );
    let answers = peer.send(&mut world, session, &Message::Iccn(line()));
    let acknowledged = answers
        .iter()
        .any(|answer| answer.header.is_none() && answer.bytes.windows(4).any(|w| w == [0xc0, 0x21, 2, 1]));
    assert!(
        acknowledged,
        "Configure-Ack for the frame before ICCN: {answers:?}"
    );
    // A flood of early frames is bounded.
    let answers = peer.ring(&mut world, 6);
    let Some(Message::Icrp(reply)) = messages(&answers).into_iter().next() else {
        panic!("{answers:?}")
    };
    for _ in 0..10 {
        world.give(peer.address, &peer.data(reply.session_id, &LCP_REQUEST));
    }
    assert_eq!(world.dropped("early_data"), 6);
}

#[test]
fn a_call_that_is_not_connected_in_time_is_ended() {
    let (mut world, mut peer) = established("call_timeout = \"10s\"\n");
    peer.ring(&mut world, 5);
    peer.acknowledge(&mut world);
    let answers = peer.pass(&mut world, Duration::from_millis(10_500));
    assert_eq!(cdns(&answers).len(), 1);
    assert_eq!(world.node.log.sessions_down(), ["call_timeout"]);
}

#[test]
fn wen_and_sli() {
    let (mut world, mut peer) = established("");
    let answers = peer.ring(&mut world, 5);
    let [Message::Icrp(reply)] = &messages(&answers)[..] else {
        panic!("{answers:?}")
    };
    let session = reply.session_id;
    let line = Connected {
        framing: FRAMING_ASYNC,
        ..line()
    };
    peer.send(&mut world, session, &Message::Iccn(line));
    let errors = CallErrors {
        crc: 3,
        ..CallErrors::default()
    };
    peer.send(&mut world, session, &Message::Wen(errors));
    peer.send(&mut world, session, &Message::Wen(errors));
    assert_eq!(world.dropped("wen_rate"), 1);
    assert_eq!(world.node.log.counted("wan_errors"), 1);
    // An SLI is for the LAC.
    let answers = peer.send(
        &mut world,
        session,
        &Message::Sli(LinkInfo { send: 0, receive: 0 }),
    );
    assert_eq!(cdns(&answers).len(), 1);
    assert!(alive(&world));
}

#[test]
fn an_asynchronous_line_is_told_its_maps() {
    let mut bench = Bench::good(LAC, LNS);
    // The client's ICCN says that its line is asynchronous.
    bench.pair.set_tap(|side, packet| {
        let mut packet = packet.clone();
        let framing = [0x80, 10, 0, 0, 0, 19, 0, 0, 0, 1];
        if side == Side::Client
            && let Some(at) = packet.bytes.windows(10).position(|window| window == framing)
        {
            packet.bytes[at + 9] = 2;
        }
        Tap::Replace(vec![packet])
    });
    bench.connect();
    assert_eq!(count_sent(&bench.pair.server, number::SLI), 1);
    bench.pair.clear_tap();
    let mut plain = Bench::good(LAC, LNS);
    plain.connect();
    assert_eq!(count_sent(&plain.pair.server, number::SLI), 0);
}

#[test]
fn outgoing_calls_need_a_peer_that_places_them() {
    let mut bench = Bench::good(LAC, LNS);
    let key = bench.dial_from_lns();
    bench.call(Side::Server, key, "x", false);
    bench.run(seconds(2));
    assert_eq!(bench.pair.server.log.sessions_down(), ["peer_places_no_calls"]);
    assert_eq!(count_sent(&bench.pair.server, number::OCRQ), 0);
    // One that refuses.
    let (mut world, mut peer) = established("");
    let ocrq = Ocrq {
        session_id: 5,
        bearer: 1,
        framing: 1,
        ..Ocrq::default()
    };
    let answers = peer.send(&mut world, 0, &Message::Ocrq(ocrq.clone()));
    assert_eq!(cdns(&answers), [(cdn_codes::NO_FACILITIES_EVER, None)]);
    let (mut world, mut peer) = established("answer_outgoing = true\n");
    let impossible = Ocrq {
        minimum_bps: 2,
        maximum_bps: 1,
        ..ocrq
    };
    let answers = peer.send(&mut world, 0, &Message::Ocrq(impossible));
    assert_eq!(cdns(&answers), [(cdn_codes::ERROR, Some(error::OUT_OF_RANGE))]);
}

#[test]
fn calls_placed_on_a_closing_tunnel_end_at_once() {
    let mut bench = Bench::good(DIALS, LNS);
    let key = bench.dial_from_lns();
    bench.run(seconds(2));
    bench.pair.close_all(Side::Server, TerminateCause::AdminReset);
    bench.call(Side::Server, key, "late", false);
    assert_eq!(bench.pair.server.log.sessions_down(), ["tunnel_closed"]);
    bench.pair.server.log.check_order(true);
}

#[test]
fn traces_show_messages_in_words() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    let key = bench.pair.server.only_machine();
    let session = bench.pair.server.log.sessions_up()[0];
    let now = bench.pair.now();
    bench
        .pair
        .server
        .input(key, Input::Trace { session, on: true }, now);
    bench.pair.close_all(Side::Client, TerminateCause::UserRequest);
    bench.run(seconds(10));
    let traced = bench
        .pair
        .server
        .log
        .count(|seen| matches!(seen, Seen::Event(Event::Traced { .. })));
    assert!(traced > 0);
}

#[test]
fn descriptions_tell_what_operators_ask() {
    let mut bench = Bench::good(LAC, LNS);
    bench.connect();
    let key = bench.pair.server.only_machine();
    let machine = bench.pair.server.machine(key);
    let info = machine.describe();
    assert_eq!((info.peer_name.as_str(), info.initiated), ("lac", false));
    let fact = |name: &str| {
        info.facts
            .iter()
            .find(|fact| fact.name == name)
            .map(|fact| fact.value.clone())
    };
    assert_eq!(fact("vendor_name").as_deref(), Some("Sluice"));
    assert_eq!(fact("state").as_deref(), Some("established"));
    let facts = machine.describe_session(bench.pair.server.log.sessions_up()[0]);
    let called = facts.iter().find(|fact| fact.name == "called_number").unwrap();
    assert_eq!(called.value, "5551234");
    assert!(machine.describe_session(LocalRef(0xffff_ffff)).is_empty());
}

#[test]
fn names_of_ended_sessions_find_nothing() {
    let (mut world, mut peer) = established("");
    let session = peer.call(&mut world, 5);
    let key = world.node.only_machine();
    peer.send(&mut world, session, &cdn(5));
    let now = world.clock.now();
    let old = LocalRef(1 << 16 | u32::from(session));
    for input in [
        Input::Terminate {
            session: old,
            cause: TerminateCause::AdminReset,
        },
        Input::PathFrame {
            session: old,
            frame: &[0xc0, 0x21],
        },
        Input::Admission {
            verifiable: Default::default(),
            session: old,
            verdict: Ok(()),
        },
        Input::PathState {
            session: old,
            state: &[1],
        },
    ] {
        world.node.input(key, input, now);
    }
    assert_eq!(world.node.log.sessions_down().len(), 1);
    assert_eq!(data(&world.answers()), 0);
}

#[test]
fn what_the_lac_has_done_is_handed_to_ppp() {
    let proxy = ProxyAvps {
        initial_received: Some(vec![5, 6, 1, 2, 3, 4]),
        last_sent: Some(vec![3, 4, 0xc0, 0x23, 5, 6, 9, 9, 9, 9]),
        last_received: Some(vec![5, 6, 1, 2, 3, 4]),
        auth_type: Some(3),
        name: Some(b"user".to_vec()),
        challenge: None,
        id: Some(7),
        response: Some(b"open-sesame".to_vec()),
    };
    for (policy, asks_at_once) in [("accept", true), ("ignore", false)] {
        let (mut world, mut peer) = established(&format!("[ppp]\nproxy_lcp = \"{policy}\"\n"));
        let answers = peer.ring(&mut world, 5);
        let Some(Message::Icrp(reply)) = messages(&answers).into_iter().next() else {
            panic!("{answers:?}")
        };
        let iccn = Message::Iccn(Connected {
            proxy: proxy.clone(),
            ..line()
        });
        peer.send(&mut world, reply.session_id, &iccn);
        let asked = world
            .node
            .log
            .events()
            .any(|event| matches!(event, Event::AuthRequested { .. }));
        assert_eq!(asked, asks_at_once, "{policy}");
    }
}
