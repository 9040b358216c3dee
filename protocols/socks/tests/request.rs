//! CONNECT: requests, replies, and what comes after (RFC 1928, 4 to 6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_spi::{ChannelFailure, Close, Event, JoinEnd, LocalRef, StreamEnd, TerminateCause};
use sluice_testkit::stream::{self, Outcome, Stage};
use std::time::Duration;

const SESSION: LocalRef = LocalRef(1);

/// What the client is told of a request, after `0500`.
fn reply(bytes: &[u8]) -> (String, Option<String>) {
    let mut node = node(TRUSTING);
    say(&mut node, &[HELLO, bytes].concat());
    let told = told(&node);
    (
        told.strip_prefix("0500").expect("a method").to_owned(),
        asked(&node),
    )
}

#[test]
fn requests_that_are_none_are_refused_with_their_code() {
    let v6 = [&[4][..], &[0; 15], &[1]].concat();
    for (bytes, code) in [
        // Not SOCKS5.
        (vec![4, 1, 0, 1], 1),
        (vec![0], 1),
        // No port.
        (request(1, SOMEWHERE, 0), 1),
        (request(1, &v6, 0), 1),
        (request(1, &named(b"example.com"), 0), 1),
        // Not a host.
        (request(1, &named(b""), 80), 4),
        (request(1, &named(b"a\0b"), 80), 4),
        (request(1, &named(b"exa mple"), 80), 4),
        (request(1, &named(&[b'a'; 255]), 80), 4),
        (
            request(1, &named(&[&[b'a'; 63][..], b"."].concat().repeat(4)[..255]), 80),
            4,
        ),
        (request(1, &named(b"0x7f.1"), 80), 4),
        (request(1, &named(b"2130706433"), 80), 4),
        (request(1, &named(b"127.1"), 80), 4),
        (request(1, &named(b"\xff"), 80), 4),
    ] {
        assert_eq!(reply(&bytes), (failure(code), None), "{bytes:?}");
    }
    for command in (0..=255u8).filter(|command| !(1..=3).contains(command)) {
        assert_eq!(reply(&request(command, SOMEWHERE, 80)), (failure(7), None));
    }
    for kind in (0..=255u8).filter(|kind| ![1, 3, 4].contains(kind)) {
        assert_eq!(reply(&[5, 1, 0, kind]), (failure(8), None));
    }
}

#[test]
fn a_refused_request_ends_the_session_in_order() {
    let mut node = node(TRUSTING);
    say(&mut node, &[HELLO, &request(9, SOMEWHERE, 80)].concat());
    assert_eq!(ended(&node).code, "command_not_supported");
    assert_eq!(ended(&node).cause, TerminateCause::UserError);
    assert_eq!(node.log.counted("reply_07"), 1);
    let close = node.log.events().find_map(|event| match event {
        Event::CloseChannel { close, .. } => Some(*close),
        _ => None,
    });
    assert_eq!(close, Some(Close::Finish));
    is_over(&node);
}

#[test]
fn targets_are_what_they_mean() {
    let mapped = [&[4][..], &[0; 10], &[255, 255, 127, 0, 0, 1]].concat();
    let longest = [
        &[b'a'; 63][..],
        b".",
        &[b'b'; 63],
        b".",
        &[b'c'; 63],
        b".",
        &[b'd'; 61],
    ]
    .concat();
    for (address, target) in [
        (SOMEWHERE.to_vec(), "198.51.100.9:80".to_owned()),
        (mapped, "127.0.0.1:80".to_owned()),
        (named(b"127.0.0.1"), "127.0.0.1:80".to_owned()),
        (named(b"::1"), "[::1]:80".to_owned()),
        (named(b"[::1]"), "[::1]:80".to_owned()),
        (named(b"::ffff:127.0.0.1"), "127.0.0.1:80".to_owned()),
        (named(b"WWW.Example.COM."), "www.example.com:80".to_owned()),
        (
            named(&longest),
            format!("{}:80", String::from_utf8(longest.clone()).unwrap()),
        ),
    ] {
        let (told, asked) = reply(&request(1, &address, 80));
        assert_eq!((told.as_str(), asked), (GRANTED, Some(target)));
    }
}

#[test]
fn the_reserved_octet_may_be_anything() {
    let mut bytes = request(1, SOMEWHERE, 80);
    bytes[2] = 1;
    assert_eq!(reply(&bytes).0, GRANTED);
}

#[test]
fn a_command_that_is_switched_off_is_not_supported() {
    for (command, word) in [(1, "connect"), (2, "bind"), (3, "udp_associate")] {
        let others: Vec<_> = ["connect", "bind", "udp_associate"]
            .into_iter()
            .filter(|other| *other != word)
            .map(|other| format!("\"{other}\""))
            .collect();
        let text = format!("{TRUSTING}commands = [{}]\n", others.join(", "));
        let told = answer(&text, &[HELLO, &request(command, SOMEWHERE, 80)].concat());
        assert_eq!(told, format!("0500{}", failure(7)), "{word}");
    }
}

#[test]
fn each_failure_has_its_code() {
    use ChannelFailure::*;
    let v6 = [&[4][..], &[0x20, 1, 0xd, 0xb8], &[0; 12]].concat();
    for (failed, address, code, cause) in [
        (TimedOut, SOMEWHERE, 6, TerminateCause::ServiceUnavailable),
        (
            NetworkUnreachable,
            SOMEWHERE,
            3,
            TerminateCause::ServiceUnavailable,
        ),
        (HostUnreachable, SOMEWHERE, 4, TerminateCause::ServiceUnavailable),
        (Refused, SOMEWHERE, 5, TerminateCause::HostRequest),
        (Family, &v6, 8, TerminateCause::ServiceUnavailable),
        (
            Family,
            &named(b"v6.example"),
            3,
            TerminateCause::ServiceUnavailable,
        ),
        (UpstreamCommand, SOMEWHERE, 7, TerminateCause::ServiceUnavailable),
        (
            UpstreamAddress,
            &named(b"v6.example"),
            8,
            TerminateCause::ServiceUnavailable,
        ),
        (Upstream, SOMEWHERE, 1, TerminateCause::ServiceUnavailable),
        (Resources, SOMEWHERE, 1, TerminateCause::PortError),
        (Denied, SOMEWHERE, 2, TerminateCause::NasRequest),
    ] {
        let mut node = failing(failed);
        say(&mut node, &[HELLO, &request(1, address, 80), b"early"].concat());
        assert_eq!(told(&node), format!("0500{}", failure(code)), "{failed:?}");
        assert_eq!((ended(&node).code, ended(&node).cause), (failed.as_str(), cause));
        assert!(
            ended(&node).text.contains(":80"),
            "the target is named: {}",
            ended(&node).text
        );
        is_over(&node);
    }
}

#[test]
fn success_tells_the_bound_address_by_its_family() {
    for (local, told_as) in [
        ("192.0.2.9:1000", "05000001c000020903e8"),
        (
            "[2001:db8::9]:1000",
            "0500000420010db800000000000000000000000903e8",
        ),
        ("[::ffff:192.0.2.9]:1000", "05000001c000020903e8"),
    ] {
        let mut node = node(TRUSTING);
        let local = local.parse().unwrap();
        node.dialer = Box::new(move |_| {
            let remote = "[2001:db8::1]:80".parse().unwrap();
            vec![(Duration::ZERO, Outcome::Opened { local, remote })]
        });
        say(
            &mut node,
            &[HELLO, &request(1, &named(b"Example.com"), 80)].concat(),
        );
        assert_eq!(told(&node), format!("0500{told_as}"));
        let facts = up_facts(&node);
        assert_eq!(value(&facts, "command").as_deref(), Some("connect"));
        assert_eq!(value(&facts, "target").as_deref(), Some("example.com:80"));
        assert_eq!(
            value(&facts, "remote_address").as_deref(),
            Some("[2001:db8::1]:80")
        );
        assert_eq!(fact(&node, "bound_address"), Some(local.to_string()));
        assert_eq!(fact(&node, "state").as_deref(), Some("joined"));
        assert_eq!(fact(&node, "socks_version").as_deref(), Some("5"));
    }
}

#[test]
fn what_a_client_sends_ahead_reaches_the_target() {
    let mut node = node(TRUSTING);
    node.dialer = stream::reaches_everything(Duration::from_millis(50));
    node.give(CLIENT, &[HELLO, &request(1, SOMEWHERE, 80), b"early "].concat());
    node.give(CLIENT, b"and later ");
    node.pass(Duration::from_secs(1));
    node.give(CLIENT, b"and joined");
    assert_eq!(node.passed(CLIENT), b"early and later and joined");
    assert_eq!(told(&node), format!("0500{GRANTED}"));
}

#[test]
fn a_client_that_sends_much_ahead_is_slowed_down_and_loses_nothing() {
    let mut node = node(&format!("{TRUSTING}early_bytes = 1000\n"));
    node.dialer = stream::reaches_everything(Duration::from_secs(3));
    let payload: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    node.give(CLIENT, &[HELLO, &request(1, SOMEWHERE, 80)].concat());
    for piece in payload.chunks(600) {
        node.give(CLIENT, piece);
    }
    assert_eq!(
        node.unread(CLIENT),
        payload.len() - 1200,
        "the rest is the kernel's"
    );
    node.pass(Duration::from_secs(3));
    assert_eq!(node.passed(CLIENT), payload);
}

#[test]
fn a_driver_that_brings_too_much_is_stopped() {
    let mut node = node(&format!("{TRUSTING}early_bytes = 1000\n"));
    node.dialer = Box::new(|_| Vec::new());
    node.give(CLIENT, &[HELLO, &request(1, SOMEWHERE, 80)].concat());
    let bytes = vec![0; 66_537];
    node.input(sluice_spi::Input::Stream {
        channel: CLIENT,
        bytes: &bytes,
    });
    assert_eq!(ended(&node).code, "early_overflow");
    is_over(&node);
}

#[test]
fn a_client_that_ended_its_sending_gets_its_answer() {
    let mut node = node(TRUSTING);
    node.dialer = stream::reaches_everything(Duration::from_millis(50));
    node.give(
        CLIENT,
        &[HELLO, &request(1, SOMEWHERE, 80), b"all of it"].concat(),
    );
    node.end(CLIENT, StreamEnd::Finished);
    node.pass(Duration::from_secs(1));
    assert_eq!(
        (node.stage(CLIENT), node.passed(CLIENT)),
        (Some(Stage::Joined), &b"all of it"[..])
    );
}

#[test]
fn a_client_that_leaves_meanwhile_ends_the_attempt() {
    for (end, early, cause) in [
        (StreamEnd::Finished, &b""[..], TerminateCause::UserRequest),
        (StreamEnd::Reset, b"", TerminateCause::LostCarrier),
        (StreamEnd::Reset, b"early", TerminateCause::LostCarrier),
    ] {
        let mut node = node(TRUSTING);
        node.dialer = Box::new(|_| Vec::new());
        node.give(CLIENT, &[HELLO, &request(1, SOMEWHERE, 80), early].concat());
        assert_eq!(node.stage(OTHER), Some(Stage::Wished));
        node.end(CLIENT, end);
        assert_eq!(node.stage(OTHER), Some(Stage::Closed), "the attempt goes on");
        assert_eq!((ended(&node).code, ended(&node).cause), ("client_gone", cause));
        is_over(&node);
    }
}

#[test]
fn joined_channels_come_apart_for_many_reasons() {
    for (end, code, cause) in [
        (JoinEnd::Finished, "finished", TerminateCause::UserRequest),
        (JoinEnd::FirstReset, "client_reset", TerminateCause::LostCarrier),
        (JoinEnd::SecondReset, "target_reset", TerminateCause::HostRequest),
        (JoinEnd::Idle, "idle", TerminateCause::IdleTimeout),
        (JoinEnd::HalfClosed, "half_closed", TerminateCause::IdleTimeout),
        (JoinEnd::Lifetime, "lifetime", TerminateCause::SessionTimeout),
        (JoinEnd::Asked, "asked", TerminateCause::NasRequest),
    ] {
        let mut node = node(TRUSTING);
        say(&mut node, &vector("connect_ipv4"));
        assert_eq!(node.joined(), [SESSION]);
        node.pass(Duration::from_secs(100_000));
        assert_eq!(node.next_timeout(), None, "a served client has no timer here");
        node.part(SESSION, end);
        assert_eq!((ended(&node).code, ended(&node).cause), (code, cause));
        is_over(&node);
    }
}
