//! The contract tests that every module passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_spi::{ChannelFailure, JoinEnd, StreamEnd};
use sluice_testkit::StreamNode;
use sluice_testkit::contract::stream as contract;
use sluice_testkit::stream::reaches_everything;
use std::time::Duration;

sluice_testkit::count_memory!();

/// Gateways that answer at once, after a while, and with refusals.
fn gateways() -> Vec<Box<dyn Fn() -> StreamNode>> {
    vec![
        Box::new(|| node(TRUSTING)),
        Box::new(|| {
            let mut node = node(TRUSTING);
            node.policy.admission_delay = Duration::from_millis(7);
            node.policy.judging_delay = Duration::from_millis(20);
            node.dialer = reaches_everything(Duration::from_millis(40));
            node
        }),
        Box::new(|| node("udp_fragments = true\n")),
        Box::new(|| failing(ChannelFailure::Refused)),
    ]
}

#[test]
fn any_chunking_has_the_same_result() {
    let mut scripts = corpus();
    for bad in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[5, 0],
        &[5, 1, 9],
        &[&[5, 1, 0][..], &request(9, SOMEWHERE, 80)].concat(),
        &[&[5, 1, 0][..], &[5, 1, 0, 9, 1, 2, 3]].concat(),
        &[
            &[5, 1, 2][..],
            &login(b"bob", b"wrong"),
            &request(1, SOMEWHERE, 80),
        ]
        .concat(),
        &[
            &[5, 1, 2][..],
            &login(b"carol", b"hunter22"),
            &request(1, SOMEWHERE, 80),
        ]
        .concat(),
        &[4, 9, 1, 1],
    ] {
        scripts.push(bad.to_vec());
    }
    for make in gateways() {
        for script in &scripts {
            contract::any_chunking_same_result(&make, script, 20);
        }
    }
}

/// Scripts of which every beginning is tried. A greeting of 255 methods has no more kinds of beginning than one of three.
fn short_corpus() -> Vec<Vec<u8>> {
    corpus().into_iter().filter(|script| script.len() < 200).collect()
}

#[test]
fn a_client_may_end_anywhere() {
    for make in gateways() {
        for script in short_corpus() {
            contract::ends_anywhere(&make, &script);
        }
    }
}

#[test]
fn the_gateway_may_end_anywhere() {
    for make in gateways() {
        for script in short_corpus() {
            contract::closes_anywhere(&make, &script);
        }
    }
}

#[test]
fn any_bytes_end_and_hold_little() {
    // A machine with its largest incomplete message, or what a client of a test sends ahead.
    contract::any_bytes(|| node(TRUSTING), &short_corpus(), 3, 100, 3000);
}

#[test]
fn every_octet_may_be_any_other() {
    for name in ["connect_login", "v4a_connect"] {
        let script = vector(name);
        for at in 0..script.len() {
            for octet in 0..=255u8 {
                let mut changed = script.clone();
                changed[at] = octet;
                let mut node = node(TRUSTING);
                node.give(CLIENT, &changed);
                match node.joined()[..] {
                    [session] => node.part(session, JoinEnd::FirstReset),
                    _ => node.end(CLIENT, StreamEnd::Reset),
                }
                is_over(&node);
            }
        }
    }
}

/// Bytes of an established connection, with its client's and its target's names: a million of them are 400 MB.
const ESTABLISHED: isize = 400;

#[test]
fn an_established_connection_is_small() {
    // What all connections share is not counted as long as it lives here.
    let factory = factory(TRUSTING);
    for name in ["connect_ipv4", "connect_login", "v4a_connect", "udp_associate"] {
        let mut node = StreamNode::accept(&factory, peer());
        say(&mut node, &vector(name));
        contract::is_small(node, ESTABLISHED);
    }
}
