//! Connections that go on after a restart, and what is not believed of a checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_spi::checkpoint::{CheckpointError, open, seal};
use sluice_spi::{
    ChannelFailure, Entropy, Factory, JoinEnd, LocalRef, Open, OpenError, PeerAddr, ShardId, StreamEnd,
};
use sluice_testkit::stream::{self, Outcome, Stage};
use sluice_testkit::{Seeded, StreamNode, contract, mutate};
use std::time::{Duration, Instant};

fn up(name: &str) -> StreamNode {
    let mut node = node(TRUSTING);
    say(&mut node, &vector(name));
    node
}

fn read(checkpoint: &[u8]) -> Result<(), OpenError> {
    let entropy: Box<dyn Entropy> = Box::new(Seeded::new(1));
    let open = Open::Restored { checkpoint };
    factory("")
        .machine(open, ShardId(0), entropy, Instant::now())
        .map(|_| ())
}

#[test]
fn relayed_streams_go_on() {
    for name in [
        "connect_ipv4",
        "connect_ipv6",
        "connect_login",
        "bind",
        "v4_connect",
        "v4_bind",
        "v4a_connect",
    ] {
        let mut node = up(name);
        let facts = node.machine().unwrap().describe();
        contract::stream::restored_goes_on(&mut node, &factory(TRUSTING));
        assert_eq!(node.machine().unwrap().describe(), facts, "{name}");
        node.part(LocalRef(1), JoinEnd::Finished);
        assert_eq!(ended(&node).code, "finished");
        is_over_with_recovery(&node);
    }
}

fn is_over_with_recovery(node: &StreamNode) {
    assert!(node.is_gone());
    let down = node.log.sessions_down();
    assert_eq!(down.len(), 1, "{down:?}");
}

#[test]
fn relays_of_datagrams_go_on() {
    let mut node = up("udp_associate");
    contract::stream::restored_goes_on(&mut node, &factory(TRUSTING));
    assert_eq!(node.stage(OTHER), Some(Stage::Listening));
    assert_eq!(node.relay(OTHER).client.to_string(), "192.0.2.50:0");
    node.end(CLIENT, StreamEnd::Finished);
    assert_eq!(ended(&node).code, "finished");
    is_over_with_recovery(&node);
}

#[test]
fn a_restored_connection_restores_again() {
    let mut node = up("connect_login");
    for _ in 0..3 {
        contract::stream::restored_goes_on(&mut node, &factory(TRUSTING));
    }
    assert_eq!(node.machine().unwrap().describe().peer_name, "bob");
}

#[test]
fn nothing_is_kept_of_what_is_not_established() {
    let whole = vector("connect_login");
    for length in 0..whole.len() - 5 {
        let mut node = node("");
        say(&mut node, &whole[..length]);
        assert_eq!(node.checkpoint(), None, "{length}");
    }
    let mut node = node(TRUSTING);
    node.dialer = Box::new(|_| Vec::new());
    say(&mut node, &vector("bind"));
    assert_eq!(node.checkpoint(), None);
}

/// A node whose client waits for a peer that comes only after a restart, and has sent something ahead.
fn waiting(text: &str, vector_name: &str) -> StreamNode {
    let mut node = node(text);
    node.dialer = Box::new(|_| {
        let local = stream::OUTSIDE.into();
        vec![(Duration::ZERO, Outcome::Listening(local))]
    });
    say(&mut node, &vector(vector_name));
    node.give(CLIENT, b"early");
    assert_eq!(fact(&node, "state").as_deref(), Some("listening"));
    node
}

#[test]
fn a_bind_goes_on_to_wait_for_its_peer() {
    for name in ["bind", "v4_bind"] {
        let mut node = waiting(TRUSTING, name);
        let told = node.sent(CLIENT).len();
        node.pass(Duration::from_secs(100));
        for _ in 0..3 {
            let (before, facts) = (node.checkpoint().unwrap(), node.machine().unwrap().describe());
            node.restart(&factory(TRUSTING)).unwrap();
            assert_eq!(node.checkpoint().unwrap(), before);
            assert_eq!(node.machine().unwrap().describe(), facts);
            assert_eq!(node.stage(OTHER), Some(Stage::Listening));
            assert_eq!(node.sent(CLIENT).len(), told, "the first reply comes again");
        }
        node.dialer = stream::reaches_everything(Duration::from_secs(1));
        node.restart(&factory(TRUSTING)).unwrap();
        node.give(CLIENT, b" bird");
        node.pass(Duration::from_secs(2));
        assert!(node.sent(CLIENT).len() > told, "there is no second reply");
        assert_eq!(node.joined(), [LocalRef(1)]);
        assert_eq!(node.log.sessions_up(), [LocalRef(1)]);
        node.part(LocalRef(1), JoinEnd::Finished);
        assert_eq!(node.passed(CLIENT), b"early bird");
        is_over_with_recovery(&node);
    }
}

#[test]
fn a_bind_waits_no_longer_for_having_been_restored() {
    let mut node = waiting(TRUSTING, "bind");
    node.pass(Duration::from_secs(100));
    let end = node.next_timeout().unwrap();
    node.restart(&factory(TRUSTING)).unwrap();
    assert_eq!(node.next_timeout(), Some(end));
    node.pass(end - node.clock.now());
    assert_eq!(ended(&node).code, "bind_timeout");
    is_over_with_recovery(&node);
    // A shorter wait that is configured meanwhile holds.
    let mut node = waiting(TRUSTING, "bind");
    let shorter = format!("{TRUSTING}bind_timeout = \"7s\"\n");
    node.restart(&factory(&shorter)).unwrap();
    node.pass(Duration::from_secs(7));
    assert_eq!(ended(&node).code, "bind_timeout");
}

#[test]
fn a_bind_that_lost_its_socket_is_told_by_the_second_reply() {
    let mut node = waiting(TRUSTING, "bind");
    node.restart(&factory(TRUSTING)).unwrap();
    node.lose(OTHER, ChannelFailure::Resources);
    assert!(node.sent(CLIENT).ends_with(&[5, 1, 0, 1, 0, 0, 0, 0, 0, 0]));
    is_over_with_recovery(&node);
    let mut node = waiting(TRUSTING, "bind");
    node.restart(&factory(TRUSTING)).unwrap();
    node.end(CLIENT, StreamEnd::Finished);
    assert_eq!(ended(&node).code, "client_gone");
    assert_eq!(node.stage(OTHER), Some(Stage::Closed));
    is_over_with_recovery(&node);
}

#[test]
fn a_socket_that_is_lost_ends_the_session() {
    for (channel, code) in [(OTHER, "not_resumed"), (CLIENT, "client_reset")] {
        let mut node = up("connect_ipv4");
        node.restart(&factory(TRUSTING)).unwrap();
        node.lose(channel, ChannelFailure::Resources);
        assert!(node.is_gone());
        assert_eq!(ended(&node).code, code);
    }
}

#[test]
fn addresses_of_both_families_are_kept() {
    let peer = PeerAddr {
        remote: "[2001:db8::50]:50000".parse().unwrap(),
        local: "[2001:db8::1]:1080".parse().unwrap(),
    };
    let mut node = node_from("no_auth_from = [\"::/0\"]\n", peer);
    say(&mut node, &vector("connect_ipv6"));
    contract::stream::restored_goes_on(&mut node, &factory(""));
    assert_eq!(node.machine().unwrap().describe().peer, peer);
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let waits = waiting(TRUSTING, "bind");
    for node in [up("connect_login"), up("udp_associate"), up("v4a_connect"), waits] {
        let good = node.checkpoint().unwrap();
        assert!(read(&good).is_ok());
        for damaged in mutate::all(&good, 1, 200) {
            if damaged != good {
                assert!(matches!(read(&damaged), Err(OpenError::Checkpoint(_))));
            }
        }
        let (format, body) = open(&good).unwrap();
        assert!(matches!(
            read(&seal(format + 1, body.rest())),
            Err(OpenError::Checkpoint(CheckpointError::Format(_)))
        ));
        // With a right checksum around wrong contents: refused, or read to something that can be written again.
        for damaged in mutate::all(body.rest(), 2, 500) {
            let _ = read(&seal(format, &damaged));
        }
    }
}

#[test]
fn contents_that_cannot_be_are_refused() {
    let good = up("udp_associate").checkpoint().unwrap();
    let (format, body) = open(&good).unwrap();
    // Key, two IPv4 addresses, version, method, command, then the target.
    let at = 4 + 2 * 7;
    for (offset, value) in [(at, 4), (at, 6), (at + 1, 3), (at + 2, 9), (at + 2, 0), (4, 5)] {
        let mut bytes = body.rest().to_vec();
        bytes[offset] = value;
        let refused = read(&seal(format, &bytes));
        assert!(
            matches!(refused, Err(OpenError::Checkpoint(CheckpointError::Invalid(_)))),
            "{offset} {value}: {refused:?}"
        );
    }
    let mut longer = body.rest().to_vec();
    longer.push(0);
    assert!(read(&seal(format, &longer)).is_err());
}
