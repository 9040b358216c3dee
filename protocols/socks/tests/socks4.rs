//! SOCKS4 and SOCKS4a.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_spi::{ChannelFailure, Event, LocalRef, Refusal, StreamEnd, TerminateCause};
use sluice_testkit::stream::{OUTSIDE, Outcome, Stage, reaches_everything};
use std::time::Duration;

const REJECTED: &str = "005b000000000000";
/// 203.0.113.1:40000.
const GRANTED4: &str = "005a9c40cb007101";

/// A request with `rest` after its port.
fn request4(command: u8, port: u16, rest: &[u8]) -> Vec<u8> {
    [&[4, command], &port.to_be_bytes()[..], rest].concat()
}

#[test]
fn a_connection_is_granted_and_joined() {
    let mut node = node(TRUSTING);
    say(&mut node, &vector("v4_connect"));
    assert_eq!(told(&node), GRANTED4);
    assert_eq!(asked(&node).as_deref(), Some("198.51.100.9:80"));
    assert_eq!(
        (node.joined(), node.passed(CLIENT)),
        (vec![LocalRef(1)], &b"GET"[..])
    );
    assert_eq!(fact(&node, "socks_version").as_deref(), Some("4"));
    assert_eq!(fact(&node, "socks4_user_id").as_deref(), Some("bob"));
    assert_eq!(fact(&node, "auth_method"), None);
    let asked = |event: &&Event| matches!(event, Event::AuthRequested { .. });
    assert_eq!(
        node.log.events().filter(asked).count(),
        0,
        "what is said there proves nothing"
    );
    assert_eq!(node.log.counted("reply_5a"), 1);
}

#[test]
fn names_follow_an_address_that_is_none() {
    for (name, target) in [
        (&b"WWW.Example.com"[..], Some("www.example.com:80")),
        (b"127.0.0.1", Some("127.0.0.1:80")),
        (b"::ffff:127.0.0.1", Some("127.0.0.1:80")),
        (b"[2001:db8::1]", Some("[2001:db8::1]:80")),
        (b"", None),
        (b"0x7f.1", None),
        (b"a b", None),
        (&[b'a'; 254], None),
    ] {
        let mut node = node(TRUSTING);
        say(
            &mut node,
            &request4(1, 80, &[&[0, 0, 0, 7, 0], name, &[0]].concat()),
        );
        assert_eq!(asked(&node).as_deref(), target);
        assert_eq!(told(&node), if target.is_some() { GRANTED4 } else { REJECTED });
    }
}

#[test]
fn requests_that_are_none_are_rejected() {
    for bytes in [
        request4(3, 80, &[198, 51, 100, 9, 0]),
        request4(0, 80, &[198, 51, 100, 9, 0]),
        request4(1, 80, &[0, 0, 0, 0, 0]),
        request4(1, 0, &[198, 51, 100, 9, 0]),
        request4(1, 80, &[&[198, 51, 100, 9][..], &[b'u'; 256], &[0]].concat()),
        request4(1, 80, &[&[0, 0, 0, 1, 0][..], &[b'n'; 256], &[0]].concat()),
    ] {
        let mut node = node(TRUSTING);
        say(&mut node, &bytes);
        assert_eq!(told(&node), REJECTED, "{bytes:?}");
        assert_eq!(node.log.counted("reply_5b"), 1);
        is_over(&node);
    }
    // A string that does not end is not waited for longer than it may be.
    let mut node = node(TRUSTING);
    say(
        &mut node,
        &request4(1, 80, &[&[198, 51, 100, 9][..], &[b'u'; 255]].concat()),
    );
    assert_eq!(told(&node), "");
    say(&mut node, b"u");
    assert_eq!(told(&node), REJECTED);
}

#[test]
fn a_request_that_is_not_whole_in_time_is_rejected() {
    let whole = vector("v4a_connect");
    for length in 1..whole.len() {
        let mut node = node(TRUSTING);
        node.give(CLIENT, &whole[..length]);
        node.pass(Duration::from_secs(10));
        assert_eq!(
            (told(&node).as_str(), node.log.counted("handshake_timeout")),
            (REJECTED, 1)
        );
        is_over(&node);
    }
    let mut node = node(TRUSTING);
    node.policy.admission_delay = Duration::from_secs(11);
    node.give(CLIENT, &whole);
    node.pass(Duration::from_secs(10));
    assert_eq!(told(&node), REJECTED);
    is_over(&node);
}

#[test]
fn who_would_have_to_authenticate_is_rejected() {
    for text in [
        "",
        "methods = [\"password\"]\n",
        "no_auth_from = [\"10.0.0.0/8\"]\n",
    ] {
        let mut node = node(text);
        say(&mut node, &vector("v4_connect"));
        assert_eq!(told(&node), REJECTED);
        assert_eq!(node.log.counted("socks4_auth_required"), 1);
        is_over(&node);
    }
}

#[test]
fn who_is_not_admitted_is_rejected() {
    for refusal in Refusal::ALL {
        let mut node = node(TRUSTING);
        node.policy.admit = Box::new(move |_| Err(refusal));
        say(&mut node, &vector("v4_connect"));
        assert_eq!(told(&node), REJECTED);
        assert_eq!(ended(&node).code, refusal.as_str());
        is_over(&node);
    }
}

#[test]
fn all_failures_are_one_to_it() {
    for failed in ChannelFailure::ALL {
        let mut node = failing(failed);
        say(&mut node, &vector("v4a_connect"));
        assert_eq!(told(&node), REJECTED);
        assert_eq!(ended(&node).code, failed.as_str());
        is_over(&node);
    }
    let text = format!("{TRUSTING}commands = [\"bind\"]\n");
    assert_eq!(answer(&text, &vector("v4_connect")), REJECTED);
}

#[test]
fn bind_has_two_replies_and_two_minutes() {
    let mut bench = node(TRUSTING);
    bench.dialer = reaches_everything(Duration::from_secs(1));
    bench.give(CLIENT, &vector("v4_bind"));
    bench.pass(Duration::from_secs(1));
    assert_eq!(told(&bench), GRANTED4);
    bench.pass(Duration::from_secs(1));
    assert_eq!(told(&bench), format!("{GRANTED4}005a0014c6336409"));
    assert_eq!(bench.stage(CLIENT), Some(Stage::Joined));

    let mut bench = node(TRUSTING);
    bench.dialer = Box::new(|_| vec![(Duration::ZERO, Outcome::Listening(OUTSIDE.into()))]);
    bench.give(CLIENT, &vector("v4_bind"));
    bench.pass(Duration::from_secs(120));
    assert_eq!(told(&bench), format!("{GRANTED4}{REJECTED}"));
    is_over(&bench);
    // Whoever comes may be waited for.
    assert_eq!(
        answer(TRUSTING, &request4(2, 0, &[0, 0, 0, 0, 0]))[..16],
        *GRANTED4
    );
}

#[test]
fn addresses_that_it_cannot_be_told_are_zero() {
    let mut node = node(TRUSTING);
    node.dialer = Box::new(|_| {
        let local = "[2001:db8::1]:1000".parse().unwrap();
        let remote = "[2001:db8::9]:80".parse().unwrap();
        vec![(Duration::ZERO, Outcome::Opened { local, remote })]
    });
    say(&mut node, &vector("v4a_connect"));
    assert_eq!(told(&node), "005a03e800000000");
}

#[test]
fn a_client_that_leaves_is_let_go() {
    let whole = vector("v4a_connect");
    for length in 1..whole.len() {
        let mut node = node(TRUSTING);
        node.give(CLIENT, &whole[..length]);
        node.end(CLIENT, StreamEnd::Finished);
        assert_eq!((told(&node), node.log.counted("client_gone")), (String::new(), 1));
        is_over(&node);
    }
}

#[test]
fn the_gateway_ends_it_with_a_rejection() {
    let mut node = node(TRUSTING);
    node.dialer = Box::new(|_| Vec::new());
    node.give(CLIENT, &vector("v4_connect"));
    node.close(TerminateCause::AdminReboot);
    assert_eq!(told(&node), REJECTED);
    is_over(&node);
}
