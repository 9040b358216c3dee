//! Greeting and login (RFC 1928, 3; RFC 1929).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_auth::Credentials;
use sluice_spi::{Event, Refusal, StreamEnd, TerminateCause};
use std::time::Duration;

const BOTH: &[u8] = &[5, 2, 0, 2];

#[test]
fn only_its_versions_are_answered() {
    for first in (0..=255u8).filter(|first| ![4, 5].contains(first)) {
        let mut node = node(TRUSTING);
        say(&mut node, &[first, 1, 0]);
        assert_eq!(told(&node), "");
        assert_eq!(node.log.dropped("bad_version"), 1);
        is_over(&node);
    }
    for (versions, bytes) in [("\"5\"", vector("v4_connect")), ("\"4\"", HELLO.to_vec())] {
        let text = format!("{TRUSTING}versions = [{versions}]\n");
        let mut node = node(&text);
        say(&mut node, &bytes);
        assert_eq!((told(&node), node.log.dropped("bad_version")), (String::new(), 1));
        is_over(&node);
    }
}

#[test]
fn no_method_and_none_that_may_be_used_are_refused() {
    let all_but_ours: Vec<u8> = [&[5, 253][..], &(3..=255u8).collect::<Vec<_>>()].concat();
    for greeting in [
        &[5, 0][..],
        &[5, 1, 1],
        &[5, 1, 0x80],
        &[5, 3, 9, 9, 9],
        &all_but_ours,
    ] {
        let mut node = node(TRUSTING);
        say(&mut node, greeting);
        assert_eq!(told(&node), "05ff", "{greeting:?}");
        assert_eq!(node.log.counted("no_acceptable_method"), 1);
        is_over(&node);
    }
}

#[test]
fn the_method_is_the_best_that_is_offered_and_allowed() {
    let elsewhere = "no_auth_from = [\"198.51.100.0/24\"]\n";
    let prefers_none = format!("methods = [\"none\", \"password\"]\n{TRUSTING}");
    let only_password = "methods = [\"password\"]\n";
    for (text, greeting, method) in [
        (TRUSTING, BOTH, "0502"),
        (TRUSTING, HELLO, "0500"),
        (TRUSTING, HELLO_LOGIN, "0502"),
        (&prefers_none, BOTH, "0500"),
        (&prefers_none, HELLO_LOGIN, "0502"),
        (elsewhere, BOTH, "0502"),
        (elsewhere, HELLO, "05ff"),
        (only_password, HELLO, "05ff"),
        (only_password, &[5, 4, 1, 2, 2, 0], "0502"),
        // GSSAPI is never selected, even where it is offered with others.
        (TRUSTING, &[5, 3, 1, 0, 2], "0502"),
    ] {
        assert_eq!(answer(text, greeting), method, "{text}{greeting:?}");
    }
}

#[test]
fn a_good_login_leads_to_the_request() {
    let mut node = node("");
    say(&mut node, HELLO_LOGIN);
    say(&mut node, &login(b"bob", b"hunter22"));
    assert_eq!(told(&node), "05020100");
    assert_eq!(fact(&node, "auth_method").as_deref(), Some("password"));
    assert_eq!(node.machine().unwrap().describe().peer_name, "bob");
    say(&mut node, &request(1, SOMEWHERE, 80));
    assert_eq!(told(&node), format!("05020100{GRANTED}"));
    let credentials = node.log.events().find_map(|event| match event {
        Event::AuthRequested { request, .. } => Some(request.credentials.clone()),
        _ => None,
    });
    let Some(Credentials::Pap { identity, password }) = credentials else {
        panic!("nobody was asked")
    };
    assert_eq!((identity.as_str(), password.expose()), ("bob", &b"hunter22"[..]));
}

#[test]
fn a_bad_login_is_refused_without_saying_why() {
    let long = [b'x'; 255];
    for (name, password, cause) in [
        (&b"bob"[..], &b"hunter23"[..], TerminateCause::UserError),
        (b"mallory", b"hunter22", TerminateCause::UserError),
        (b"dave", b"hunter22", TerminateCause::UserError),
        (b"erin", b"hunter22", TerminateCause::ServiceUnavailable),
        (b"", b"hunter22", TerminateCause::UserError),
        (b"bob", b"", TerminateCause::UserError),
        (b"", b"", TerminateCause::UserError),
        (b"\xff\xfe", b"hunter22", TerminateCause::UserError),
        (b"bo\nb", b"hunter22", TerminateCause::UserError),
        (&long, &long, TerminateCause::UserError),
    ] {
        let mut node = node(TRUSTING);
        say(&mut node, HELLO_LOGIN);
        say(&mut node, &login(name, password));
        assert_eq!(told(&node), "05020101", "{name:?}");
        assert_eq!((ended(&node).code, ended(&node).cause), ("auth_rejected", cause));
        assert_eq!(node.log.counted("auth_failed"), 1);
        is_over(&node);
    }
}

#[test]
fn a_login_of_another_version_is_refused() {
    for version in (0..=255u8).filter(|version| *version != 1) {
        let mut node = node("");
        say(&mut node, &[5, 1, 2, version]);
        assert_eq!(told(&node), "05020101");
        is_over(&node);
    }
}

#[test]
fn a_user_with_too_many_sessions_hears_so_after_the_request() {
    let mut node = node("");
    say(&mut node, HELLO_LOGIN);
    say(&mut node, &login(b"carol", b"hunter22"));
    assert_eq!(told(&node), "05020100");
    say(&mut node, &request(1, SOMEWHERE, 80));
    assert_eq!(told(&node), format!("05020100{}", failure(2)));
    assert_eq!(ended(&node).code, "too_many_sessions");
    assert_eq!(asked(&node), None);
    is_over(&node);
}

#[test]
fn who_is_not_admitted_hears_so_after_the_request() {
    for (refusal, code) in [
        (Refusal::TooManySessions, 1),
        (Refusal::TooManyOpening, 1),
        (Refusal::PeerLimit, 2),
        (Refusal::Draining, 1),
        (Refusal::Overload, 1),
    ] {
        for (greeting, begin) in [(HELLO, "0500"), (HELLO_LOGIN, "05020100")] {
            let mut node = node(TRUSTING);
            node.policy.admit = Box::new(move |_| Err(refusal));
            say(&mut node, greeting);
            if greeting == HELLO_LOGIN {
                say(&mut node, &login(b"anybody", b"whatever"));
            }
            say(&mut node, &request(1, SOMEWHERE, 80));
            assert_eq!(told(&node), format!("{begin}{}", failure(code)), "{refusal:?}");
            assert_eq!(ended(&node).code, refusal.as_str());
            let asks =
                |event: &&Event| matches!(event, Event::AuthRequested { .. } | Event::OpenChannel { .. });
            assert_eq!(
                node.log.events().filter(asks).count(),
                0,
                "nobody is asked for it"
            );
            is_over(&node);
        }
    }
}

#[test]
fn the_handshake_is_bounded_in_time() {
    let whole = vector("connect_login");
    for length in 0..30 {
        let mut node = node("");
        node.give(CLIENT, &whole[..length]);
        node.pass(Duration::from_millis(9_999));
        assert!(!node.is_gone());
        node.pass(Duration::from_millis(1));
        assert_eq!(node.log.counted("handshake_timeout"), 1, "{length}");
        is_over(&node);
    }
    // One octet after the other wins no time.
    let mut node = node("");
    for octet in &whole[..10] {
        node.give(CLIENT, &[*octet]);
        node.pass(Duration::from_millis(1_100));
    }
    assert_eq!(ended(&node).code, "handshake_timeout");
    is_over(&node);
}

#[test]
fn a_verdict_that_does_not_come_refuses_the_login() {
    let mut node = node("");
    node.policy.judging_delay = Duration::from_secs(3600);
    say(&mut node, &vector("connect_login"));
    node.pass(Duration::from_secs(10));
    assert_eq!(told(&node), "05020101");
    assert_eq!(ended(&node).code, "auth_timeout");
    is_over(&node);
}

#[test]
fn a_client_that_leaves_is_no_event_for_the_log() {
    let whole = vector("connect_login");
    for length in 0..30 {
        for (end, cause) in [
            (StreamEnd::Finished, TerminateCause::UserRequest),
            (StreamEnd::Reset, TerminateCause::LostCarrier),
        ] {
            let mut node = node("");
            node.give(CLIENT, &whole[..length]);
            node.end(CLIENT, end);
            assert_eq!(node.log.counted("client_gone"), 1);
            let notices = |event: &&Event| matches!(event, Event::Notice { .. });
            assert_eq!(node.log.events().filter(notices).count(), 0);
            if length >= 5 {
                assert_eq!((ended(&node).code, ended(&node).cause), ("client_gone", cause));
            }
            is_over(&node);
        }
    }
}

#[test]
fn a_whole_conversation_with_its_end_is_served_while_the_password_is_checked() {
    let mut node = node("");
    node.policy.judging_delay = Duration::from_millis(300);
    node.policy.admission_delay = Duration::from_millis(300);
    node.give(CLIENT, &vector("connect_login"));
    node.end(CLIENT, StreamEnd::Finished);
    node.pass(Duration::from_secs(1));
    assert_eq!(told(&node), format!("05020100{GRANTED}"));
    assert_eq!(node.passed(CLIENT), [0x16, 3, 1, 0]);
}

#[test]
fn a_client_that_leaves_while_its_password_is_checked_is_gone() {
    let mut node = node("");
    node.policy.judging_delay = Duration::from_secs(5);
    node.give(CLIENT, &vector("connect_login")[..19]);
    node.end(CLIENT, StreamEnd::Finished);
    assert_eq!(ended(&node).code, "client_gone");
    is_over(&node);
}
