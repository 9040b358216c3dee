//! Established tunnels, requirement by requirement, against peers written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::world::{Peer, alive, cdn, cdns, established, line, messages, stops};
use common::{Bench, LAC, LNS, tunnel_ends};
use sluice_l2tp::wire::encode;
use sluice_l2tp::wire::message::*;
use sluice_l2tp::wire::result::{ResultCode, cdn as cdn_codes, error, stop};
use sluice_spi::{Event, Input, TerminateCause};
use sluice_testkit::{Impairment, Side, Tap};
use std::time::Duration;

const LCP_REQUEST: [u8; 8] = [0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 4];

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn r17_packets_from_elsewhere_are_counted_for_their_tunnel() {
    let (mut world, mut peer) = established("");
    let session = peer.call(&mut world, 5);
    let hello = peer.packet(0, &Message::Hello);
    let stranger = "198.51.100.66:1701".parse().unwrap();
    world.give(stranger, &hello);
    let data = peer.data(session, &LCP_REQUEST);
    world.give(stranger, &data);
    assert_eq!(world.dropped("wrong_peer"), 2);
    let key = world.node.only_machine();
    let facts = world.node.machine(key).describe().facts;
    let count = facts
        .iter()
        .find(|fact| fact.name == "packets_from_others")
        .unwrap();
    assert_eq!(count.value, "2");
}

#[test]
fn r23_a_tunnel_that_the_gateway_has_no_place_for_is_told_to_come_back() {
    let (mut world, _) = established("");
    let key = world.node.only_machine();
    let now = world.clock.now();
    world.node.close(key, TerminateCause::ServiceUnavailable, now);
    let answers = world.pass(Duration::from_millis(1));
    assert_eq!(stops(&answers), [(stop::ERROR, Some(error::NO_RESOURCES))]);
}

#[test]
fn r14_a_stopccn_or_cdn_with_another_id_is_acknowledged_counted_and_ignored() {
    let (mut world, mut peer) = established("");
    let session = peer.call(&mut world, 5);
    let wrong = Message::StopCcn(StopCcn {
        tunnel_id: 78,
        result: ResultCode::plain(1),
    });
    peer.send(&mut world, 0, &wrong);
    peer.send(&mut world, session, &cdn(6));
    assert_eq!(world.dropped("wrong_assigned_id"), 2);
    let answers = world.pass(Duration::from_millis(200));
    assert_eq!(answers.last().unwrap().header.unwrap().nr, peer.ns);
    assert!(alive(&world) && world.node.log.sessions_down().is_empty());
    peer.send(&mut world, session, &cdn(5));
    assert_eq!(world.node.log.sessions_down(), ["call_ended_by_peer"]);
    let right = peer.stop(1);
    peer.send(&mut world, 0, &right);
    assert_eq!(world.node.log.tunnels_down(), ["stopped_by_peer"]);
}

#[test]
fn r13_a_stopped_tunnel_is_acknowledged_for_31_seconds() {
    let (mut world, mut peer) = established("");
    let stop = peer.stop(6);
    let packet = peer.packet(0, &stop);
    let answers = peer.send(&mut world, 0, &stop);
    assert_eq!(answers.len(), 1, "acknowledged at once");
    assert_eq!(answers[0].header.unwrap().nr, peer.ns);
    for _ in 0..30 {
        world.pass(seconds(1));
        assert_eq!(world.give(peer.address, &packet).len(), 1);
    }
    // No session work any more.
    assert!(cdns(&peer.ring(&mut world, 5)).is_empty());
    world.pass(seconds(2));
    assert!(world.node.machines().is_empty());
    assert!(world.give(peer.address, &packet).is_empty());
    assert_eq!(world.dropped("unknown_tunnel"), 1);
}

#[test]
fn r13_our_stopccn_names_our_id_and_is_sent_until_it_is_acknowledged() {
    let (mut world, mut peer) = established("");
    let key = world.node.only_machine();
    let now = world.clock.now();
    world.node.close(key, TerminateCause::AdminReboot, now);
    let answers = world.pass(seconds(4));
    let stops: Vec<_> = messages(&answers);
    assert_eq!(stops.len(), 3, "sent again after 1 and 2 s");
    for message in stops {
        let Message::StopCcn(stop) = message else {
            panic!("{message:?}")
        };
        assert_eq!(
            (stop.tunnel_id, stop.result.result),
            (peer.remote, stop::SHUTTING_DOWN)
        );
    }
    peer.nr += 1;
    peer.acknowledge(&mut world);
    assert!(messages(&world.pass(seconds(30))).is_empty());
    assert!(!world.node.machines().is_empty(), "kept for a full cycle");
    world.pass(seconds(2));
    assert!(world.node.machines().is_empty());
}

#[test]
fn r15_a_session_message_in_the_wrong_state_ends_that_session_only() {
    let (mut world, mut peer) = established("");
    let first = peer.call(&mut world, 5);
    peer.call(&mut world, 6);
    let answers = peer.send(&mut world, first, &Message::Iccn(line()));
    assert_eq!(cdns(&answers), [(cdn_codes::ERROR, Some(error::INVALID_SESSION))]);
    assert_eq!(world.node.log.sessions_down(), ["state_machine"]);
    assert!(alive(&world));
    // An ICRQ for a call that exists: the peer has forgotten it.
    let answers = peer.ring(&mut world, 6);
    assert_eq!(cdns(&answers), [(cdn_codes::ERROR, Some(error::INVALID_SESSION))]);
    assert_eq!(world.node.log.sessions_down().len(), 2);
    assert!(alive(&world));
}

#[test]
fn r15_a_tunnel_message_in_the_wrong_state_ends_the_tunnel() {
    for message in [
        Message::Sccrq(Peer::new("0.0.0.0:1", 5).start()),
        Message::Sccrp(Peer::new("0.0.0.0:1", 5).start()),
        Message::Scccn(Scccn::default()),
    ] {
        let (mut world, mut peer) = established("");
        peer.call(&mut world, 5);
        let answers = peer.send(&mut world, 0, &message);
        assert_eq!(stops(&answers), [(stop::STATE_MACHINE, None)]);
        assert_eq!(world.node.log.tunnels_down(), ["state_machine"]);
        assert_eq!(world.node.log.sessions_down(), ["state_machine"]);
        world.node.log.check_order(false);
    }
}

#[test]
fn r15_an_unknown_session_never_ends_the_tunnel() {
    let (mut world, mut peer) = established("");
    let reply = Reply {
        session_id: 9,
        channel: None,
    };
    for message in [
        Message::Iccn(line()),
        Message::Occn(line()),
        cdn(9),
        Message::Wen(CallErrors::default()),
        Message::Sli(LinkInfo { send: 0, receive: 0 }),
    ] {
        assert!(cdns(&peer.send(&mut world, 4242, &message)).is_empty());
    }
    // Who says by which id it knows the call is told that there is none (7.4.2, 7.5.1).
    for message in [Message::Icrp(reply.clone()), Message::Ocrp(reply)] {
        let answers = peer.send(&mut world, 4242, &message);
        assert_eq!(cdns(&answers), [(cdn_codes::ERROR, Some(error::INVALID_SESSION))]);
        assert_eq!(answers.iter().find_map(|a| a.header).unwrap().session, 9);
        peer.acknowledge(&mut world);
    }
    assert_eq!(world.dropped("unknown_session"), 7);
    assert!(alive(&world));
}

#[test]
fn r15_unknown_mandatory_avps_end_what_they_are_about() {
    let unknown = [0x80, 7, 0, 0, 0, 99, 1];
    let (mut world, mut peer) = established("");
    let mut icrq = encode(
        &Message::Icrq(Icrq {
            session_id: 5,
            serial: 1,
            ..Icrq::default()
        }),
        None,
    );
    icrq.extend_from_slice(&unknown);
    let answers = peer.send_raw(&mut world, 0, &icrq);
    assert_eq!(
        cdns(&answers),
        [(cdn_codes::ERROR, Some(error::UNKNOWN_MANDATORY))]
    );
    assert!(alive(&world));
    peer.acknowledge(&mut world);
    let session = peer.call(&mut world, 6);
    let mut iccn = encode(&Message::Wen(CallErrors::default()), None);
    iccn.extend_from_slice(&unknown);
    let answers = peer.send_raw(&mut world, session, &iccn);
    assert_eq!(
        cdns(&answers),
        [(cdn_codes::ERROR, Some(error::UNKNOWN_MANDATORY))]
    );
    assert!(alive(&world));
    peer.acknowledge(&mut world);
    let mut hello = encode(&Message::Hello, None);
    hello.extend_from_slice(&unknown);
    let answers = peer.send_raw(&mut world, 0, &hello);
    assert_eq!(stops(&answers), [(stop::ERROR, Some(error::UNKNOWN_MANDATORY))]);
    assert!(format!("{answers:?}").contains("attribute 99"));
}

#[test]
fn r15_unknown_message_types_by_their_m_bit() {
    let (mut world, mut peer) = established("");
    peer.send_raw(&mut world, 0, &[0x00, 8, 0, 0, 0, 0, 0, 99]);
    assert_eq!(world.dropped("ignored_message_type"), 1);
    let answers = world.pass(Duration::from_millis(200));
    assert_eq!(
        answers.last().unwrap().header.unwrap().nr,
        peer.ns,
        "acknowledged"
    );
    let answers = peer.send_raw(&mut world, 0, &[0x80, 8, 0, 0, 0, 0, 0, 99]);
    assert_eq!(stops(&answers).len(), 1);
    assert_eq!(world.node.log.tunnels_down(), ["protocol_error"]);
}

#[test]
fn r16_unreachable_asks_but_does_not_kill() {
    let (mut world, mut peer) = established("");
    let key = world.node.only_machine();
    let now = world.clock.now();
    world.node.input(key, Input::PeerUnreachable, now);
    let answers = world.answers();
    assert_eq!(messages(&answers), [Message::Hello]);
    peer.nr += 1;
    peer.acknowledge(&mut world);
    world.pass(seconds(40));
    assert!(alive(&world));
    let now = world.clock.now();
    world.node.input(key, Input::PeerUnreachable, now);
    world.pass(seconds(14));
    assert!(alive(&world));
    world.pass(seconds(2));
    assert_eq!(
        world.node.log.tunnels_down(),
        ["control_timeout"],
        "after 15 s in place of 31"
    );
}

#[test]
fn r09_a_silent_peer_costs_the_tunnel_and_all_its_sessions() {
    let (mut world, mut peer) = established("hello_interval = \"10s\"\n");
    peer.call(&mut world, 5);
    world.pass(seconds(60));
    assert_eq!(world.node.log.tunnels_down(), ["control_timeout"]);
    assert_eq!(world.node.log.sessions_down().len(), 1);
    assert!(world.node.machines().is_empty());
    world.node.log.check_order(true);
}

#[test]
fn hello_is_sent_after_silence_and_any_traffic_counts_as_life() {
    let (mut world, mut peer) = established("hello_interval = \"10s\"\n");
    let session = peer.call(&mut world, 5);
    peer.pass(&mut world, seconds(1));
    for _ in 0..30 {
        world.give(
            peer.address,
            &peer.data(session, &[0xff, 3, 0xc0, 0x21, 9, 1, 0, 8, 0, 0, 0, 0]),
        );
        let answers = peer.pass(&mut world, seconds(1));
        assert!(!messages(&answers).contains(&Message::Hello));
    }
    let mut hellos = Vec::new();
    for second in 0..25 {
        if messages(&world.pass(seconds(1))).contains(&Message::Hello) {
            hellos.push(second);
            peer.nr += 1;
            peer.acknowledge(&mut world);
        }
    }
    assert_eq!(hellos.len(), 2, "{hellos:?}");
    assert!((8..=11).contains(&hellos[0]), "{hellos:?}");
    assert!(alive(&world));
}

#[test]
fn r17_control_and_data_from_elsewhere_are_dropped_and_counted() {
    let (mut world, mut peer) = established("");
    let session = peer.call(&mut world, 5);
    for thief in ["198.51.100.7:1702", "198.51.100.8:1701"] {
        let thief = thief.parse().unwrap();
        let stop = peer.packet(0, &peer.stop(1));
        assert!(world.give(thief, &stop).is_empty());
        assert!(world.give(thief, &peer.data(session, &LCP_REQUEST)).is_empty());
    }
    assert_eq!(world.dropped("wrong_peer"), 4);
    assert!(alive(&world));
}

#[test]
fn r18_a_moved_peer_is_dropped_by_default_and_followed_once_proven_where_configured() {
    for strict_follow in [false, true] {
        let (mut world, mut peer) = established(&format!("strict_follow = {strict_follow}\n"));
        peer.pass(&mut world, seconds(1));
        let old = peer.address;
        peer.address = "198.51.100.7:40000".parse().unwrap();
        // A bare acknowledgement or a wrong number proves nothing.
        assert!(peer.acknowledge(&mut world).is_empty());
        peer.ns += 5;
        assert!(peer.acknowledge(&mut world).is_empty());
        peer.ns -= 5;
        let hello = peer.packet(0, &Message::Hello);
        let answers = world.give(peer.address, &hello);
        if !strict_follow {
            assert!(answers.is_empty());
            continue;
        }
        assert_eq!(messages(&answers), [Message::Hello]);
        assert_eq!(answers[0].to, peer.address, "the new address is asked");
        peer.nr += 1;
        // The acknowledgement from the old address would mean that the peer has not moved.
        peer.acknowledge(&mut world);
        assert_eq!(world.node.log.counted("peer_moved"), 1);
        let answers = peer.ring(&mut world, 9);
        assert!(answers.iter().all(|answer| answer.to == peer.address));
        assert!(matches!(messages(&answers)[..], [Message::Icrp(_)]));
        let key = world.node.only_machine();
        assert_eq!(world.node.machine(key).describe().peer.remote, peer.address);
        assert!(world.give(old, &peer.packet(0, &Message::Hello)).len() <= 1);
    }
}

#[test]
fn r18_user_data_follows_a_peer_that_has_moved() {
    let mut bench = Bench::good(LAC, &format!("{LNS}strict_follow = true\n"));
    bench.connect();
    bench.run(seconds(5));
    let port = |port: u16| move |address: std::net::SocketAddr| (address.ip(), port).into();
    let (seen, real) = (port(40_000), port(1701));
    // A new binding in a NAT: the gateway sees another port from now on.
    bench.pair.set_tap(move |side, packet| {
        let mut packet = packet.clone();
        match side {
            Side::Client => packet.from = seen(packet.from),
            // What goes to the former binding is lost.
            Side::Server if packet.to.port() == 1701 => return Tap::Drop,
            Side::Server => packet.to = real(packet.to),
        }
        Tap::Replace(vec![packet])
    });
    let moved = bench.wait(seconds(200), |pair| pair.server.log.counted("peer_moved") == 1);
    assert!(moved, "{}", bench.pair.trace());
    bench.run(seconds(20));
    sluice_testkit::contract::user_packets_flow(&mut bench.pair);
    assert!(bench.pair.client.log.sessions_down().is_empty());
}

#[test]
fn r18_a_forged_move_does_not_cost_the_tunnel() {
    let (mut world, mut peer) = established("strict_follow = true\n");
    peer.pass(&mut world, seconds(1));
    let thief = "203.0.113.66:1701".parse().unwrap();
    let forged = peer.packet(0, &Message::Hello);
    world.give(thief, &forged);
    // The probe reaches the real peer as well, which acknowledges it.
    for _ in 0..40 {
        for answer in world.pass(seconds(1)) {
            if answer.to == peer.address && answer.message == Some(Message::Hello) {
                peer.nr = answer.header.unwrap().ns + 1;
            }
        }
        peer.acknowledge(&mut world);
    }
    assert!(alive(&world));
    assert_eq!(world.node.log.counted("peer_moved"), 0);
    assert!(matches!(
        messages(&peer.ring(&mut world, 9))[..],
        [Message::Icrp(_)]
    ));
}

#[test]
fn r18_the_reply_to_our_request_may_come_from_another_port_once() {
    for (address, float_address, up) in [
        ("192.0.2.1:50000", false, true),
        ("192.0.2.99:1701", false, false),
        ("192.0.2.99:1701", true, true),
    ] {
        let mut bench = Bench::good(&format!("{LAC}float_address = {float_address}\n"), LNS);
        bench.pair.set_tap(move |side, packet| {
            let mut packet = packet.clone();
            if side == Side::Server {
                packet.from = address.parse().unwrap();
            }
            Tap::Replace(vec![packet])
        });
        let key = bench.dial();
        bench.run(seconds(5));
        let info = bench.pair.client.machine(key).describe();
        let is_up = bench
            .pair
            .client
            .log
            .events()
            .any(|event| matches!(event, Event::TunnelUp(_)));
        assert_eq!(is_up, up, "{address}");
        assert_eq!(info.peer.remote == address.parse().unwrap(), up);
    }
}

#[test]
fn a_tunnel_without_calls_is_closed_after_a_while() {
    let (mut world, mut peer) = established("empty_timeout = \"20s\"\n");
    let session = peer.call(&mut world, 5);
    let answers = peer.pass(&mut world, seconds(25));
    assert!(stops(&answers).is_empty());
    peer.send(&mut world, session, &cdn(5));
    let answers = peer.pass(&mut world, Duration::from_millis(20_500));
    assert_eq!(stops(&answers), [(stop::GENERAL, None)]);
}

#[test]
fn tunnel_authentication_of_the_one_who_answers() {
    // The LNS has another secret: the LAC does not believe its SCCRP.
    let mut bench = Bench::good(
        &format!("{LAC}secret = \"one-secret\"\n"),
        &format!("{LNS}secret = \"other-secret\"\n"),
    );
    let key = bench.dial();
    bench.call(Side::Client, key, "x", true);
    bench.run(seconds(60));
    assert_eq!(bench.pair.client.log.tunnels_down(), ["tunnel_auth"]);
    assert_eq!(bench.pair.client.log.sessions_down(), ["tunnel_auth"]);
    assert!(bench.pair.server.machines().is_empty());
    // The LNS has none: it refuses the challenge.
    let mut bench = Bench::good(&format!("{LAC}secret = \"one-secret\"\n"), LNS);
    bench.dial();
    bench.run(seconds(40));
    assert!(
        tunnel_ends(&bench.pair.client)[0].contains("not authorized"),
        "{:?}",
        tunnel_ends(&bench.pair.client)
    );
}

#[test]
fn tie_breakers_leave_one_tunnel() {
    let tie = "tie_breaker = true\n";
    for (lac_tie, lns_tie, tunnels) in [("", "", 2), (tie, "", 1), ("", tie, 1), (tie, tie, 1)] {
        let mut bench = Bench::good(&format!("{LAC}{lac_tie}"), &format!("{LNS}{lns_tie}"));
        bench.dial();
        bench.dial_from_lns();
        bench.run(seconds(20));
        for side in [Side::Client, Side::Server] {
            let node = bench.pair.node(side);
            let up = node.machines().len();
            assert_eq!(up, tunnels, "{side:?} with {lac_tie:?} {lns_tie:?}");
        }
        let lost = [Side::Client, Side::Server]
            .into_iter()
            .flat_map(|side| bench.pair.node(side).log.tunnels_down())
            .filter(|code| *code == "tie_breaker_lost")
            .count();
        assert_eq!(lost, 2 - tunnels);
    }
}

#[test]
fn a_peer_that_never_acknowledges_is_not_served_without_end() {
    let (mut world, mut peer) = established("");
    let nr = peer.nr;
    for number in 0..6000u32 {
        if !alive(&world) {
            break;
        }
        // Every request is refused, and none of the refusals is acknowledged.
        let ocrq = Ocrq {
            session_id: (number % 60_000) as u16 + 1,
            bearer: 1,
            framing: 1,
            ..Ocrq::default()
        };
        peer.send(&mut world, 0, &Message::Ocrq(ocrq));
        peer.nr = nr;
    }
    assert_eq!(world.node.log.tunnels_down(), ["overrun"]);
}

#[test]
fn r26_many_clients_at_once_are_all_up_soon() {
    let mut bench = Bench::new(LAC, LNS, Impairment::all(0.02), 3);
    let mut last = 0u16;
    bench.pair.server.policy.judge = Box::new(move |_| {
        last += 1;
        let mut grants = sluice_testkit::policy::grants(1);
        let [high, low] = last.to_be_bytes();
        grants.ipv4 = Some([10, 1, high, low].into());
        sluice_auth::Verdict::accept(Box::new(grants))
    });
    for number in 0..300 {
        let key = bench.dial();
        bench.call(Side::Client, key, &format!("client {number}"), true);
    }
    let up = bench.wait(seconds(30), |pair| pair.server.log.sessions_up().len() == 300);
    assert!(up, "{} of 300", bench.pair.server.log.sessions_up().len());
}
