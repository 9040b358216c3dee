//! UDP ASSOCIATE (RFC 1928, 6 and 7).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::BytesMut;
use common::*;
use sluice_spi::{
    ChannelFailure, ClientDatagram, Input, JoinEnd, LocalRef, PeerAddr, StreamEnd, TerminateCause,
};
use sluice_testkit::StreamNode;
use sluice_testkit::stream::{Outcome, Stage, reaches_everything};
use std::time::Duration;

const STRICT: &str = "no_auth_from = [\"192.0.2.0/24\"]\nudp_strict_client = true\n";
/// The client's own address.
const OWN: &[u8] = &[1, 192, 0, 2, 50];

fn associate(address: &[u8], port: u16) -> Vec<u8> {
    [HELLO, &request(3, address, port)].concat()
}

fn relaying() -> StreamNode {
    let mut node = node(TRUSTING);
    say(&mut node, &associate(NOWHERE, 0));
    assert_eq!(node.stage(OTHER), Some(Stage::Listening));
    node
}

#[test]
fn the_reply_says_where_to_send() {
    let node = relaying();
    assert_eq!(told(&node), format!("0500{GRANTED}"));
    assert_eq!(node.log.sessions_up(), [LocalRef(1)]);
    let facts = up_facts(&node);
    assert_eq!(value(&facts, "command").as_deref(), Some("udp_associate"));
    assert_eq!(value(&facts, "client_source").as_deref(), Some("192.0.2.50:0"));
    assert_eq!(fact(&node, "bound_address").as_deref(), Some("203.0.113.1:40000"));
    assert_eq!(fact(&node, "state").as_deref(), Some("relaying"));
    assert_eq!(node.next_timeout(), None);
}

#[test]
fn the_client_is_bound_to_its_address_and_to_the_port_that_it_can_know() {
    let mapped = [&[4][..], &[0; 10], &[255, 255, 192, 0, 2, 50]].concat();
    for (text, address, port, client) in [
        (TRUSTING, NOWHERE, 0, Some("192.0.2.50:0")),
        // Behind a translator the port that it says is not the one that arrives.
        (TRUSTING, NOWHERE, 7000, Some("192.0.2.50:0")),
        (TRUSTING, OWN, 7000, Some("192.0.2.50:7000")),
        (TRUSTING, OWN, 0, Some("192.0.2.50:0")),
        (TRUSTING, &mapped, 7000, Some("192.0.2.50:7000")),
        (TRUSTING, &[1, 10, 0, 0, 7], 7000, Some("192.0.2.50:0")),
        (TRUSTING, &named(b"client.example"), 7000, Some("192.0.2.50:0")),
        // PySocks says so for nowhere.
        (TRUSTING, &named(b"0"), 0, Some("192.0.2.50:0")),
        (STRICT, &named(b"0"), 0, Some("192.0.2.50:0")),
        (STRICT, NOWHERE, 0, Some("192.0.2.50:0")),
        (STRICT, NOWHERE, 7000, Some("192.0.2.50:7000")),
        (STRICT, OWN, 7000, Some("192.0.2.50:7000")),
        (STRICT, &[1, 10, 0, 0, 7], 7000, None),
        (STRICT, &named(b"client.example"), 7000, None),
    ] {
        let mut node = node(text);
        say(&mut node, &associate(address, port));
        match client {
            Some(client) => assert_eq!(node.relay(OTHER).client.to_string(), client),
            None => {
                assert_eq!(told(&node), format!("0500{}", failure(2)));
                is_over(&node);
            }
        }
    }
}

#[test]
fn a_client_on_a_socket_of_both_families_is_bound_to_its_ipv4_address() {
    let both = PeerAddr {
        remote: "[::ffff:192.0.2.50]:50000".parse().unwrap(),
        local: "[::ffff:192.0.2.1]:1080".parse().unwrap(),
    };
    let mut node = node_from(TRUSTING, both);
    say(&mut node, &associate(OWN, 9));
    assert_eq!(node.relay(OTHER).client.to_string(), "192.0.2.50:9");
}

#[test]
fn the_association_ends_with_its_connection() {
    for (end, code, cause) in [
        (StreamEnd::Finished, "finished", TerminateCause::UserRequest),
        (StreamEnd::Reset, "client_reset", TerminateCause::LostCarrier),
    ] {
        let mut node = relaying();
        node.pass(Duration::from_secs(100_000));
        assert!(!node.is_gone());
        node.end(CLIENT, end);
        assert_eq!(node.stage(OTHER), Some(Stage::Closed));
        assert_eq!((ended(&node).code, ended(&node).cause), (code, cause));
        is_over(&node);
    }
}

#[test]
fn the_connection_ends_with_its_association() {
    for (end, code, cause) in [
        (JoinEnd::Idle, "idle", TerminateCause::IdleTimeout),
        (JoinEnd::Lifetime, "lifetime", TerminateCause::SessionTimeout),
        (JoinEnd::Asked, "asked", TerminateCause::NasRequest),
    ] {
        let mut node = relaying();
        node.end_relay(LocalRef(1), OTHER, end);
        assert_eq!(told(&node), format!("0500{GRANTED}"));
        assert_eq!((ended(&node).code, ended(&node).cause), (code, cause));
        is_over(&node);
    }
}

#[test]
fn what_comes_on_the_control_connection_is_ignored_and_not_kept() {
    let mut node = relaying();
    for _ in 0..100 {
        node.give(CLIENT, &[7; 50_000]);
    }
    assert_eq!((node.unread(CLIENT), node.is_gone()), (0, false));
    assert_eq!(told(&node), format!("0500{GRANTED}"));
}

#[test]
fn a_connection_that_ended_before_its_relay_was_there_has_none() {
    let mut node = node(TRUSTING);
    node.dialer = reaches_everything(Duration::from_secs(1));
    node.give(CLIENT, &[&associate(NOWHERE, 0)[..], b"something"].concat());
    node.end(CLIENT, StreamEnd::Finished);
    assert_eq!(ended(&node).code, "client_gone");
    is_over(&node);
}

#[test]
fn a_relay_that_cannot_be_is_told() {
    for (failed, code) in [(ChannelFailure::Resources, 1), (ChannelFailure::Denied, 2)] {
        let mut node = failing(failed);
        say(&mut node, &associate(NOWHERE, 0));
        assert_eq!(told(&node), format!("0500{}", failure(code)));
        is_over(&node);
    }
}

#[test]
fn a_relay_that_fails_later_ends_the_session() {
    let mut node = node(TRUSTING);
    node.dialer = Box::new(|_| {
        let local = "192.0.2.1:5000".parse().unwrap();
        vec![
            (Duration::ZERO, Outcome::Listening(local)),
            (Duration::from_secs(9), Outcome::Failed(ChannelFailure::Resources)),
        ]
    });
    say(&mut node, &associate(NOWHERE, 0));
    node.pass(Duration::from_secs(9));
    assert_eq!(
        (ended(&node).code, ended(&node).cause),
        ("relay_failed", TerminateCause::PortError)
    );
    is_over(&node);
}

#[test]
fn idle_associations_end_by_order() {
    let mut node = relaying();
    node.input(Input::Terminate {
        session: LocalRef(1),
        cause: TerminateCause::IdleTimeout,
    });
    assert_eq!(
        (ended(&node).code, ended(&node).cause),
        ("terminated", TerminateCause::IdleTimeout)
    );
    is_over(&node);
}

#[test]
fn the_relay_has_a_codec_as_the_listener_says() {
    let now = std::time::Instant::now();
    let part = [0, 0, 1, 1, 192, 0, 2, 1, 0, 53, b'x'];
    let mut node = relaying();
    let codec = &mut node.relay(OTHER).codec;
    assert!(matches!(codec.open(&part, now), ClientDatagram::Drop(reason) if reason.0 == "udp_fragment"));
    let mut out = BytesMut::new();
    codec
        .seal("192.0.2.1:53".parse().unwrap(), b"x", &mut out)
        .unwrap();
    assert_eq!(out[..], [0, 0, 0, 1, 192, 0, 2, 1, 0, 53, b'x']);
    let mut node = common::node(&format!("{TRUSTING}udp_fragments = true\n"));
    say(&mut node, &associate(NOWHERE, 0));
    let codec = &mut node.relay(OTHER).codec;
    assert_eq!(codec.open(&part, now), ClientDatagram::Held);
}
