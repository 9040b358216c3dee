//! BIND, with its two replies (RFC 1928, 6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_spi::{ChannelFailure, Event, JoinEnd, LocalRef, StreamEnd, TerminateCause};
use sluice_testkit::StreamNode;
use sluice_testkit::stream::{self, Outcome, Stage};
use std::time::Duration;

/// The second reply: 198.51.100.9:20.
const CALLED: &str = "05000001c63364090014";

fn bind(address: &[u8], port: u16) -> Vec<u8> {
    [HELLO, &request(2, address, port)].concat()
}

/// A node that waits for a connection that does not come by itself.
fn waiting(text: &str) -> StreamNode {
    let mut node = node(text);
    node.dialer = Box::new(|_| {
        let local = stream::OUTSIDE.into();
        vec![(Duration::ZERO, Outcome::Listening(local))]
    });
    node.give(CLIENT, &bind(SOMEWHERE, 20));
    node
}

#[test]
fn the_first_reply_says_where_and_the_second_who() {
    let mut node = node(TRUSTING);
    node.dialer = stream::reaches_everything(Duration::from_secs(1));
    node.give(CLIENT, &bind(SOMEWHERE, 20));
    node.pass(Duration::from_secs(1));
    assert_eq!(told(&node), format!("0500{GRANTED}"));
    assert_eq!(fact(&node, "state").as_deref(), Some("listening"));
    assert_eq!(node.log.sessions_up(), []);
    node.give(CLIENT, b"early");
    node.pass(Duration::from_secs(1));
    assert_eq!(told(&node), format!("0500{GRANTED}{CALLED}"));
    assert_eq!(
        (node.joined(), node.passed(CLIENT)),
        (vec![LocalRef(1)], &b"early"[..])
    );
    let facts = up_facts(&node);
    assert_eq!(value(&facts, "command").as_deref(), Some("bind"));
    assert_eq!(
        value(&facts, "remote_address").as_deref(),
        Some("198.51.100.9:20")
    );
    assert_eq!(node.next_timeout(), None);
    node.part(LocalRef(1), JoinEnd::Finished);
    is_over(&node);
}

#[test]
fn whom_it_expects_is_told_as_it_was_asked() {
    for (address, port, expected) in [
        (SOMEWHERE.to_vec(), 20, "198.51.100.9:20"),
        (SOMEWHERE.to_vec(), 0, "198.51.100.9:0"),
        (NOWHERE.to_vec(), 0, "0.0.0.0:0"),
        (named(b"Ftp.example"), 20, "ftp.example:20"),
    ] {
        let mut node = node(TRUSTING);
        say(&mut node, &bind(&address, port));
        assert_eq!(asked(&node).as_deref(), Some(expected));
    }
}

#[test]
fn no_port_and_no_permission_are_told_at_once() {
    for (failed, code) in [(ChannelFailure::Resources, 1), (ChannelFailure::Denied, 2)] {
        let mut node = failing(failed);
        say(&mut node, &bind(SOMEWHERE, 20));
        assert_eq!(told(&node), format!("0500{}", failure(code)));
        is_over(&node);
    }
}

#[test]
fn nobody_comes_in_time() {
    let mut node = waiting(TRUSTING);
    node.pass(Duration::from_millis(119_999));
    assert_eq!(told(&node), format!("0500{GRANTED}"));
    node.pass(Duration::from_millis(1));
    assert_eq!(told(&node), format!("0500{GRANTED}{}", failure(6)));
    assert_eq!(ended(&node).code, "bind_timeout");
    assert_eq!(node.log.counted("bind_timeout"), 1);
    is_over(&node);
    let mut node = waiting(&format!("{TRUSTING}bind_timeout = \"7s\"\n"));
    node.pass(Duration::from_secs(7));
    is_over(&node);
}

#[test]
fn a_wait_that_fails_is_told_by_the_second_reply() {
    let mut node = node(TRUSTING);
    node.dialer = Box::new(|_| {
        let local = stream::OUTSIDE.into();
        vec![
            (Duration::ZERO, Outcome::Listening(local)),
            (Duration::from_secs(1), Outcome::Failed(ChannelFailure::Resources)),
        ]
    });
    node.give(CLIENT, &bind(SOMEWHERE, 20));
    node.pass(Duration::from_secs(1));
    assert_eq!(told(&node), format!("0500{GRANTED}{}", failure(1)));
    is_over(&node);
}

#[test]
fn a_client_that_leaves_frees_the_port_at_once() {
    for end in [StreamEnd::Finished, StreamEnd::Reset] {
        let mut node = waiting(TRUSTING);
        // What it sent ahead does not matter: nobody may ever come to read it.
        node.give(CLIENT, b"early");
        assert_eq!(node.stage(OTHER), Some(Stage::Listening));
        node.end(CLIENT, end);
        assert_eq!(node.stage(OTHER), Some(Stage::Closed));
        assert_eq!(ended(&node).code, "client_gone");
        is_over(&node);
    }
}

#[test]
fn the_end_of_the_gateway_is_told_by_the_second_reply() {
    let mut node = waiting(TRUSTING);
    node.close(TerminateCause::AdminReboot);
    assert_eq!(told(&node), format!("0500{GRANTED}{}", failure(1)));
    let down = node
        .log
        .events()
        .filter(|event| matches!(event, Event::SessionDown { .. }));
    assert_eq!(down.count(), 1);
    is_over(&node);
}
