//! Control connections and calls, message by message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::BytesMut;
use common::{World, factory, peer, request};
use sluice_pptp::wire::message::*;
use sluice_pptp::wire::{encode, gre};
use sluice_spi::{
    Close, Event, Factory, Input, MachineKey, PeerAddr, Refusal, Route, ShardId, Shards, TerminateCause,
};
use sluice_testkit::Seeded;
use std::time::Duration;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn established() -> World {
    let mut world = World::new(&factory(""), 5, peer(7, 4000));
    world.start();
    world
}

fn gre_peer(host: u8) -> PeerAddr {
    PeerAddr {
        remote: ([192, 0, 2, host], 0).into(),
        local: ([192, 0, 2, 1], 0).into(),
    }
}

fn packet(call: u16, number: u32, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let start = gre::put(call, Some(number), None, &mut out);
    out.extend_from_slice(payload);
    gre::finish(start, 1, &mut out);
    out
}

#[test]
fn a_connection_begins_and_ends_as_the_rfc_says() {
    let mut world = World::new(&factory("host_name = \"gate\"\n"), 5, peer(7, 4000));
    let answers = world.start();
    let [Message::StartReply(start, outcome)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (start.version, &start.host[..], outcome.result),
        (VERSION, &b"gate"[..], 1)
    );
    assert!(matches!(
        world.events[..],
        [Event::TunnelUp(_), Event::CheckpointDue]
    ));
    assert_eq!(
        world.say(&Message::EchoRequest(77)),
        [Message::EchoReply(77, Outcome::plain(1))]
    );
    assert_eq!(
        world.say(&Message::StopRequest(1)),
        [Message::StopReply(Outcome::plain(1))]
    );
    assert_eq!(world.closed, Some(Close::Finish));
    assert!(world.machine.is_drained());
}

#[test]
fn r27_whoever_does_not_speak_is_closed_in_time() {
    let mut world = World::new(&factory(""), 5, peer(7, 4000));
    world.pass(seconds(9));
    assert_eq!(world.closed, None);
    world.pass(seconds(1));
    assert_eq!(
        (world.closed, world.dropped("start_timeout")),
        (Some(Close::Finish), 1)
    );
    let mut other = World::new(&factory(""), 5, peer(7, 4000));
    other.octets(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        (other.closed, other.dropped("malformed")),
        (Some(Close::Finish), 1)
    );
}

#[test]
fn r27_unknown_messages_are_passed_over() {
    let mut world = established();
    let mut unknown = BytesMut::new();
    encode(&Message::EchoRequest(1), &mut unknown);
    unknown[9] = 99;
    world.octets(&unknown);
    assert_eq!(world.dropped("ignored_message_type"), 1);
    assert_eq!(world.say(&Message::EchoRequest(2)).len(), 1);
}

#[test]
fn a_version_that_is_too_old_is_told_so() {
    let mut world = World::new(&factory(""), 5, peer(7, 4000));
    let answers = world.say(&Message::StartRequest(Start::default()));
    assert!(matches!(&answers[..], [Message::StartReply(_, outcome)] if outcome.result == 5));
    assert_eq!(world.closed, Some(Close::Finish));
}

#[test]
fn silence_is_asked_about_and_then_the_end() {
    let mut world = World::new(&factory("empty_timeout = \"0s\"\n"), 5, peer(7, 4000));
    world.start();
    world.call(1);
    world.pass(seconds(59));
    world.messages.clear();
    world.pass(seconds(1));
    let echo = world.messages.iter().find_map(|message| match message {
        Message::EchoRequest(identifier) => Some(*identifier),
        _ => None,
    });
    // Another identifier is no answer.
    world.say(&Message::EchoReply(
        echo.unwrap().wrapping_add(1),
        Outcome::plain(1),
    ));
    world.pass(seconds(30));
    world.say(&Message::EchoReply(echo.unwrap(), Outcome::plain(1)));
    world.pass(seconds(100));
    assert_eq!(world.closed, None);
    world.pass(seconds(21));
    assert_eq!(world.closed, Some(Close::Reset));
    let end = world.events.iter().rev().find_map(|event| match event {
        Event::TunnelDown(ended) => Some(ended.code),
        _ => None,
    });
    assert_eq!(end, Some("control_timeout"));
}

#[test]
fn half_open_connections_are_bounded() {
    let factory =
        factory("max_half_open_per_source = 2\nmax_half_open = 3\nmax_connections_per_source = 3\n");
    let mut first = World::new(&factory, 1, peer(7, 1));
    let _second = World::new(&factory, 2, peer(7, 2));
    let third = World::new(&factory, 3, peer(7, 3));
    assert_eq!(
        (third.closed, third.dropped("half_open_limit")),
        (Some(Close::Reset), 1)
    );
    // Others have their own share, up to that of all.
    let fourth = World::new(&factory, 4, peer(8, 4));
    assert_eq!(fourth.closed, None);
    assert_eq!(World::new(&factory, 5, peer(9, 5)).dropped("half_open_limit"), 1);
    first.start();
    let mut sixth = World::new(&factory, 6, peer(7, 6));
    sixth.start();
    assert_eq!(World::new(&factory, 7, peer(7, 7)).dropped("source_limit"), 1);
    // An end makes room.
    drop(sixth);
    assert_eq!(World::new(&factory, 8, peer(7, 8)).closed, None);
}

#[test]
fn calls_that_cannot_be_are_refused_with_their_codes() {
    let refused = |config: &str, admission, request: Message| {
        let mut world = World::new(&factory(config), 5, peer(7, 4000));
        world.start();
        world.admission = admission;
        match world.say(&request).pop() {
            Some(Message::OutgoingReply(reply)) => (reply.outcome.result, reply.outcome.error),
            Some(Message::IncomingReply(reply)) => (reply.outcome.result, reply.outcome.error),
            other => panic!("{other:?}"),
        }
    };
    let incoming = Message::IncomingRequest(IncomingRequest {
        call_id: 9,
        bearer: 1,
        ..IncomingRequest::default()
    });
    let bad = Message::OutgoingRequest(OutgoingRequest {
        call_id: 1,
        ..OutgoingRequest::default()
    });
    assert_eq!(refused("accept_outgoing = false\n", Ok(()), request(1)), (7, 0));
    assert_eq!(
        refused("accept_incoming = false\n", Ok(()), incoming.clone()),
        (3, 0)
    );
    assert_eq!(refused("", Ok(()), bad), (2, 3));
    assert_eq!(refused("", Err(Refusal::Draining), request(1)), (2, 4));
    assert_eq!(refused("", Err(Refusal::PeerLimit), request(1)), (7, 0));
    assert_eq!(refused("", Err(Refusal::PeerLimit), incoming), (3, 0));
    // A name that is in use, one call too many, and before there is a connection.
    let mut world = World::new(&factory("max_calls = 1\n"), 5, peer(7, 4000));
    let outcome = |answers: Vec<Message>| match &answers[..] {
        [Message::OutgoingReply(reply)] => (reply.outcome.result, reply.outcome.error),
        other => panic!("{other:?}"),
    };
    assert_eq!(outcome(world.say(&request(1))), (2, 1));
    world.start();
    world.call(1);
    assert_eq!(outcome(world.say(&request(1))), (2, 5));
    assert_eq!(outcome(world.say(&request(2))), (2, 4));
}

#[test]
fn an_incoming_call_is_connected_in_three_messages() {
    let mut world = established();
    let answers = world.say(&Message::IncomingRequest(IncomingRequest {
        call_id: 9,
        bearer: 2,
        dialed: b"100".to_vec(),
        dialing: b"200".to_vec(),
        ..IncomingRequest::default()
    }));
    let [Message::IncomingReply(reply)] = answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (reply.peer_call_id, reply.outcome.result, reply.window),
        (9, 1, 64)
    );
    assert!(world.packets.is_empty());
    world.say(&Message::IncomingConnected(IncomingConnected {
        peer_call_id: reply.call_id,
        speed: 64_000,
        framing: 2,
        ..IncomingConnected::default()
    }));
    // PPP has begun, towards the peer's name of the call.
    assert_eq!(gre::call_id(&world.packets[0]), Some(9));
    let errors = Message::WanError(WanError {
        peer_call_id: reply.call_id,
        crc: 1,
        ..WanError::default()
    });
    world.say(&errors);
    world.say(&errors);
    assert_eq!(world.dropped("wan_error_rate"), 1);
    world.say(&Message::DisconnectNotify(Disconnect {
        call_id: 9,
        outcome: Outcome::plain(1),
        ..Disconnect::default()
    }));
    assert_eq!(world.downs()[0].1, "call_ended_by_peer");
}

#[test]
fn a_call_that_is_never_connected_is_cleared() {
    let mut world = established();
    world.say(&Message::IncomingRequest(IncomingRequest {
        call_id: 9,
        bearer: 2,
        ..IncomingRequest::default()
    }));
    world.messages.clear();
    world.pass(seconds(60));
    assert!(
        world
            .messages
            .iter()
            .any(|message| matches!(message, Message::ClearRequest(_)))
    );
    assert_eq!(world.downs()[0].1, "call_timeout");
}

#[test]
fn a_cleared_call_is_notified_and_the_connection_lives_on() {
    let mut world = World::new(&factory("empty_timeout = \"50s\"\n"), 5, peer(7, 4000));
    world.start();
    let id = world.call(1);
    let answers = world.say(&Message::ClearRequest(1));
    assert!(matches!(&answers[..], [Message::DisconnectNotify(notify)]
        if notify.call_id == id && notify.outcome.result == 4));
    assert_eq!(world.downs()[0].1, "call_ended_by_peer");
    world.say(&Message::ClearRequest(1));
    assert_eq!(world.dropped("unknown_call"), 1);
    world.pass(seconds(49));
    assert_eq!(world.closed, None);
    // Without a call for long, it is asked to stop.
    world.messages.clear();
    world.pass(seconds(1));
    assert_eq!(world.messages, [Message::StopRequest(1)]);
    world.say(&Message::StopReply(Outcome::plain(1)));
    assert_eq!(world.closed, Some(Close::Finish));
}

#[test]
fn the_gateway_ends_a_connection_in_bounded_time() {
    let mut world = established();
    world.call(1);
    world.messages.clear();
    world.machine.close(TerminateCause::NasReboot, world.clock.now());
    world.drain();
    world.pass(seconds(6));
    let reasons: Vec<_> = world.messages.iter().map(Message::number).collect();
    assert!(reasons.ends_with(&[number::STOP_REQUEST]), "{reasons:?}");
    assert_eq!(world.messages.last(), Some(&Message::StopRequest(3)));
    assert!(world.closed.is_some() && world.machine.is_drained());
}

#[test]
fn r28_data_is_taken_from_the_peer_alone_and_found_by_call_id() {
    let factory = factory("");
    let mut front = factory
        .front(ShardId(0), Shards::new(1), Box::new(Seeded::new(1)))
        .unwrap();
    // Two clients behind one address, each with a call of the same name.
    let (mut one, mut two) = (
        World::new(&factory, 1, peer(7, 1)),
        World::new(&factory, 2, peer(7, 2)),
    );
    one.start();
    two.start();
    let (first, second) = (one.call(1), two.call(1));
    assert_ne!(first, second);
    let now = one.clock.now();
    for (call, key) in [(first, 1), (second, 2)] {
        let route = front.handle_datagram(gre_peer(7), &packet(call, 0, b"x"), now);
        assert!(matches!(route, Route::Machine(MachineKey(found)) if found == key));
    }
    let unknown = (0..=u16::MAX).find(|id| ![first, second].contains(id)).unwrap();
    front.handle_datagram(gre_peer(7), &packet(unknown, 0, b"x"), now);
    assert!(matches!(front.poll_event(), Some(Event::Dropped(reason)) if reason.0 == "unknown_call"));
    one.input(Input::Datagram {
        from: gre_peer(8),
        packet: &packet(first, 0, &[0xc0, 0x21, 9, 1, 0, 8, 0, 0, 0, 0]),
    });
    assert_eq!(one.dropped("wrong_peer"), 1);
    drop(two);
    front.handle_datagram(gre_peer(7), &packet(second, 0, b"x"), now);
    assert!(matches!(front.poll_event(), Some(Event::Dropped(reason)) if reason.0 == "unknown_call"));
}

#[test]
fn r31_what_comes_before_the_path_is_acknowledged_and_never_late() {
    let mut world = established();
    let id = world.call(1);
    world.packets.clear();
    let request = [0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 4];
    for number in [0, 2, 1] {
        let packet = packet(id, number, &request);
        world.input(Input::Datagram {
            from: gre_peer(7),
            packet: &packet,
        });
    }
    assert_eq!(world.dropped("sequence_old"), 1);
    let headers: Vec<_> = world
        .packets
        .iter()
        .filter_map(|packet| gre::Header::decode(packet))
        .collect();
    assert_eq!(headers.last().and_then(|header| header.acknowledged), Some(2));
    let numbers: Vec<_> = headers.iter().filter_map(|header| header.sequence).collect();
    assert!(numbers.is_sorted());
    // What nothing is said to is acknowledged alone.
    world.packets.clear();
    let packet = packet(id, 3, &[0xff, 0x03, 0xc0, 0x21, 11, 1, 0, 8, 0, 0, 0, 0]);
    world.input(Input::Datagram {
        from: gre_peer(7),
        packet: &packet,
    });
    world.pass(Duration::from_millis(500));
    let last = world
        .packets
        .iter()
        .filter_map(|packet| gre::Header::decode(packet))
        .next();
    assert_eq!(last.and_then(|header| header.acknowledged), Some(3));
}

#[test]
fn a_restored_connection_goes_on_in_the_middle_of_a_message() {
    let (before, after) = (factory(""), factory(""));
    let mut world = World::new(&before, 5, peer(7, 4000));
    world.start();
    let mut echo = BytesMut::new();
    encode(&Message::EchoRequest(7), &mut echo);
    world.octets(&echo[..9]);
    // What had not left is sent first.
    let mut reply = BytesMut::new();
    encode(&Message::EchoReply(6, Outcome::plain(1)), &mut reply);
    let channel = sluice_spi::ChannelRef::FIRST;
    let unsent = Input::Unsent {
        channel,
        bytes: &reply,
    };
    world.machine.handle_input(unsent, world.clock.now()).unwrap();
    let checkpoint = world.machine.checkpoint(world.clock.now()).unwrap();
    for length in 0..checkpoint.len() {
        let open = sluice_spi::Open::Restored {
            checkpoint: &checkpoint[..length],
        };
        let made = after.machine(open, ShardId(0), Box::new(Seeded::new(1)), world.clock.now());
        assert!(made.is_err());
    }
    let mut again = World::restored(&after, &checkpoint, world.clock);
    assert!(matches!(&again.events[0], Event::Recovered { sessions, .. } if sessions.is_empty()));
    again.octets(&echo[9..]);
    let ok = Outcome::plain(1);
    assert_eq!(
        again.messages,
        [Message::EchoReply(6, ok), Message::EchoReply(7, ok)]
    );
    again.call(1);
}

#[test]
fn r01_messages_in_any_order_come_to_an_end() {
    for seed in 0..300 {
        let mut random = Seeded::new(seed);
        let mut world = World::new(
            &factory("call_timeout = \"10s\"\nempty_timeout = \"20s\"\n"),
            5,
            peer(7, 4000),
        );
        if random.chance(0.8) {
            world.start();
        }
        let mut known = vec![0u16];
        for _ in 0..40 {
            if world.closed.is_some() {
                break;
            }
            let id = random.below(4) as u16;
            let mine = known[random.below(known.len())];
            let message = match random.below(14) {
                0 => Message::EchoRequest(1),
                1 => Message::EchoReply(1, Outcome::plain(1)),
                2..=4 => request(id),
                5 | 6 => Message::IncomingRequest(IncomingRequest {
                    call_id: id,
                    bearer: 1,
                    ..IncomingRequest::default()
                }),
                7 | 8 => Message::IncomingConnected(IncomingConnected {
                    peer_call_id: mine,
                    framing: 1,
                    ..IncomingConnected::default()
                }),
                9 => Message::ClearRequest(id),
                10 => Message::DisconnectNotify(Disconnect {
                    call_id: id,
                    ..Disconnect::default()
                }),
                11 => Message::LinkInfo(LinkInfo {
                    peer_call_id: mine,
                    ..LinkInfo::default()
                }),
                12 => Message::WanError(WanError::default()),
                _ if random.chance(0.1) => Message::StopRequest(1),
                _ => Message::IncomingReply(IncomingReply::default()),
            };
            for answer in world.say(&message) {
                match answer {
                    Message::OutgoingReply(reply) => known.push(reply.call_id),
                    Message::IncomingReply(reply) => known.push(reply.call_id),
                    _ => {}
                }
            }
            let payload = random.bytes(12);
            let call = known[random.below(known.len())];
            world.input(Input::Datagram {
                from: gre_peer(7),
                packet: &packet(call, random.below(30) as u32, &payload),
            });
            world.pass(Duration::from_millis(random.below(3000) as u64));
        }
        world.pass(seconds(600));
        assert!(world.machine.is_drained(), "seed {seed}");
        let opened = world
            .events
            .iter()
            .filter(|event| matches!(event, Event::SessionOpening { .. }))
            .count();
        assert_eq!(opened, world.downs().len(), "seed {seed}");
    }
}
