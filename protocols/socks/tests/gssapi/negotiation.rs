//! Until the request: methods, tokens, accounts, levels, and every way in which a client is refused.

use super::*;
use sluice_auth::Credentials;
use sluice_spi::{Event, Refusal, Severity, StreamEnd, TerminateCause};
use sluice_testkit::log::Seen;
use std::time::Duration;

#[test]
fn the_method_is_selected_with_a_keytab_only_and_by_preference() {
    let offer = |text: &str, methods: &[u8]| {
        let count = u8::try_from(methods.len()).unwrap();
        answer(text, &[&[5, count], methods].concat())
    };
    let keytab = "gssapi_keytab = \"/keytab\"\n";
    let trusting = format!("{keytab}{TRUSTING}");
    // What curl offers, with a password and without.
    assert_eq!(offer("", &[0, 1, 2]), "0502");
    assert_eq!(offer("", &[0, 1]), "05ff");
    assert_eq!(offer(keytab, &[0, 1, 2]), "0502");
    assert_eq!(offer(keytab, &[0, 1]), "0501");
    assert_eq!(offer(&trusting, &[0, 1]), "0500");
    let first = format!("{trusting}methods = [\"gssapi\", \"password\", \"none\"]\n");
    assert_eq!(offer(&first, &[0, 1, 2]), "0501");
    assert_eq!(offer(&first, &[0, 2]), "0502");
    assert_eq!(offer(KEYTAB, &[0, 2]), "05ff");
}

#[test]
fn tokens_go_to_and_fro_until_the_context_stands() {
    let mut client = Client::new("");
    assert_eq!(client.hears(2), [5, 1]);
    client.say(Kind::Context, b"more");
    assert_eq!(client.token(Kind::Context), b"and what else");
    client.say(Kind::Context, b"");
    assert_eq!(client.token(Kind::Context), b"", "a token may be empty");
    client.say(Kind::Context, b"bob@REALM");
    assert_eq!(client.token(Kind::Context), b"welcome");
    let asked = client.node.log.events().find_map(|event| match event {
        Event::AuthRequested { request, .. } => Some(request.credentials.clone()),
        _ => None,
    });
    let Some(Credentials::Gssapi { identity }) = asked else {
        panic!("nobody was asked")
    };
    assert_eq!((identity.user(), identity.realm()), ("bob", Some("REALM")));
}

#[test]
fn an_empty_last_token_is_sent_too() {
    let mut client = Client::new("");
    client.say(Kind::Context, b"ice:bob@REALM");
    assert_eq!(client.hears(2), [5, 1]);
    assert_eq!(client.hears(4), [1, 1, 0, 0], "RFC 1961, 3.6");
}

#[test]
fn the_longest_token_is_taken_however_it_is_cut() {
    let mut token = b"bob@REALM".to_vec();
    token.resize(0xffff, 0);
    let whole = frame(Kind::Context, &token);
    for (pieces, text) in [(whole.len(), ""), (1000, ""), (16_384, "early_bytes = 1\n")] {
        let mut client = Client::new(text);
        for piece in whole.chunks(pieces) {
            client.node.give(CLIENT, piece);
        }
        client.node.pass(Duration::from_secs(1));
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.token(Kind::Context), b"welcome");
        let mut entries = client.node.log.entries().iter();
        let given = entries.find_map(|entry| match &entry.what {
            Seen::ContextRequested { token, .. } => Some(token.len()),
            _ => None,
        });
        assert_eq!(given, Some(0xffff));
    }
}

#[test]
fn a_client_that_sends_tokens_without_end_is_refused() {
    let mut client = Client::new("");
    for _ in 0..16 {
        client.node.give(CLIENT, &frame(Kind::Context, b"more"));
        assert!(!client.node.is_gone());
    }
    client.say(Kind::Context, b"more");
    is_over(&client.node);
    assert_eq!(ended(&client.node).code, "gssapi_message");
    assert_eq!(client.node.sent(CLIENT).strip_suffix(ABORT).map(|_| ()), Some(()));
}

#[test]
fn each_failure_of_the_library_is_counted_and_told_to_operators() {
    for (token, code, cause, severity) in [
        (
            &b"!skew"[..],
            "gssapi_clock_skew",
            TerminateCause::UserError,
            Severity::Warning,
        ),
        (
            b"!replay",
            "gssapi_replay",
            TerminateCause::UserError,
            Severity::Warning,
        ),
        (
            b"!expired",
            "gssapi_expired",
            TerminateCause::UserError,
            Severity::Info,
        ),
        (
            b"!key",
            "gssapi_no_key",
            TerminateCause::ServiceUnavailable,
            Severity::Warning,
        ),
        (
            b"!token",
            "gssapi_token",
            TerminateCause::UserError,
            Severity::Info,
        ),
        (
            b"!other",
            "gssapi_other",
            TerminateCause::UserError,
            Severity::Warning,
        ),
    ] {
        let mut client = Client::new("");
        client.say(Kind::Context, token);
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.is_refused(), code);
        assert_eq!(ended(&client.node).cause, cause);
        assert_eq!(client.node.log.counted(code), 1);
        let notice = client.node.log.events().find_map(|event| match event {
            Event::Notice { severity, text, .. } => Some((*severity, text.clone())),
            _ => None,
        });
        let (said, text) = notice.expect("a word to operators");
        assert!(said == severity && text.starts_with("GSS-API: the "), "{text}");
    }
}

#[test]
fn messages_that_are_none_are_refused() {
    for bytes in [&[2][..], &[1, 2], &[1, 3], &[1, 0], &[5, 1]] {
        let mut client = Client::new("");
        say(&mut client.node, bytes);
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.is_refused(), "gssapi_message", "{bytes:?}");
    }
    let mut client = Client::known("", b"bob@REALM");
    say(&mut client.node, &[1, 1]);
    assert_eq!(client.is_refused(), "gssapi_message");
    let mut client = Client::agreed("", 1);
    say(&mut client.node, &[5, 1]);
    assert_eq!(client.is_refused(), "gssapi_message");
}

#[test]
fn a_client_may_refuse_at_any_step() {
    for client in [
        Client::new(""),
        Client::known("", b"bob@REALM"),
        Client::agreed("", 2),
    ] {
        let mut client = client;
        let before = client.node.sent(CLIENT).len();
        say(&mut client.node, ABORT);
        assert_eq!(client.node.sent(CLIENT).len(), before, "it is told nothing");
        assert_eq!(ended(&client.node).code, "gssapi_client_abort");
        assert_eq!(client.node.log.counted("gssapi_client_abort"), 1);
        is_over(&client.node);
    }
}

#[test]
fn a_principal_needs_an_account() {
    for token in [
        &b"mallory@REALM"[..],
        b"bob@ELSEWHERE",
        b"bob/admin@REALM",
        b"bob\\@REALM@REALM",
        b"dave@REALM",
        b"bob\xff@REALM",
        b"ic:",
    ] {
        let mut client = Client::new("");
        client.say(Kind::Context, token);
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.is_refused(), "auth_rejected", "{token:?}");
        assert_eq!(client.node.log.counted("auth_failed"), 1);
    }
}

#[test]
fn a_user_with_too_many_sessions_hears_so_under_protection() {
    let mut client = Client::known("", b"carol@REALM");
    client.ask_level(2);
    assert_eq!(client.level(), 2);
    client.send(true, &request(1, SOMEWHERE, 80));
    assert_eq!(to_hex(&client.receive(true)), failure(2));
    assert_eq!(ended(&client.node).code, "too_many_sessions");
    is_over(&client.node);
}

#[test]
fn who_is_not_admitted_is_refused_without_its_token_being_looked_at() {
    for delay in [Duration::ZERO, Duration::from_secs(2)] {
        let mut node = node(KEYTAB);
        node.policy.admission_delay = delay;
        node.policy.admit = Box::new(|_| Err(Refusal::Overload));
        let mut client = Client::of(node);
        client.say(Kind::Context, b"bob@REALM");
        client.node.pass(delay);
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.is_refused(), "overload");
        assert!(!client.node.log.text().contains("ContextRequested"));
    }
}

#[test]
fn the_level_is_agreed_on_or_refused() {
    for (text, token, asked, answer) in [
        ("", &b"bob@REALM"[..], 1, Some(1)),
        ("", b"bob@REALM", 2, Some(2)),
        ("", b"bob@REALM", 3, Some(3)),
        ("", b"i:bob@REALM", 3, Some(1)),
        ("", b"i:bob@REALM", 2, None),
        ("", b"bob@REALM", 0, None),
        ("", b"bob@REALM", 4, None),
        ("gssapi_protection = \"none\"\n", b"bob@REALM", 0, Some(0)),
        ("gssapi_protection = \"confidentiality\"\n", b"bob@REALM", 1, None),
        (
            "gssapi_protection = \"confidentiality\"\n",
            b"bob@REALM",
            3,
            Some(2),
        ),
    ] {
        let mut client = Client::known(text, token);
        client.ask_level(asked);
        match answer {
            Some(level) => assert_eq!(client.level(), level, "{text} {asked}"),
            None => {
                assert_eq!(client.is_refused(), "gssapi_level", "{text} {asked}");
                assert_eq!(client.node.log.counted("gssapi_level"), 1);
            }
        }
    }
}

#[test]
fn a_level_must_be_one_octet_of_the_context() {
    let mut context = Context::client();
    for (token, code) in [
        (context.token(false, &[1, 1]), "gssapi_level"),
        (Context::client().token(false, &[]), "gssapi_level"),
        (b"anything".to_vec(), "gssapi_token"),
        (Vec::new(), "gssapi_token"),
        (vec![1], "gssapi_token"),
    ] {
        let mut client = Client::known("", b"bob@REALM");
        client.say(Kind::Level, &token);
        assert_eq!(client.is_refused(), code, "{token:?}");
    }
}

#[test]
fn a_bare_level_is_taken_where_that_is_configured() {
    let mut client = Client::known("gssapi_nec = true\n", b"bob@REALM");
    client.say(Kind::Level, &[2]);
    assert_eq!(client.token(Kind::Level), [2], "and answered so");
    client.send(true, &request(1, SOMEWHERE, 80));
    assert_eq!(to_hex(&client.receive(true)), GRANTED);
    // Others go on as ever.
    let client = Client::agreed("gssapi_nec = true\n", 1);
    assert!(!client.node.is_gone());
    let mut weak = Client::known("gssapi_nec = true\n", b"bob@REALM");
    weak.say(Kind::Level, &[0]);
    assert_eq!(weak.is_refused(), "gssapi_level");
}

#[test]
fn an_answer_that_does_not_come_refuses_the_client() {
    let mut node = node(KEYTAB);
    node.policy.judging_delay = Duration::from_secs(3600);
    let mut client = Client::of(node);
    client.say(Kind::Context, b"bob@REALM");
    client.node.pass(Duration::from_secs(10));
    assert_eq!(client.hears(2), [5, 1]);
    assert_eq!(client.is_refused(), "auth_timeout");
}

#[test]
fn a_client_that_leaves_is_no_event_for_the_log() {
    let whole = conversation(1, &request(1, SOMEWHERE, 80));
    for length in 3..50 {
        for end in [StreamEnd::Finished, StreamEnd::Reset] {
            let mut node = node(KEYTAB);
            node.give(CLIENT, &whole[..length]);
            node.end(CLIENT, end);
            assert_eq!(node.log.counted("client_gone"), 1, "{length}");
            let notices = |event: &&Event| matches!(event, Event::Notice { .. });
            assert_eq!(node.log.events().filter(notices).count(), 0);
            is_over(&node);
        }
    }
}

#[test]
fn a_trace_shows_steps_and_no_tokens() {
    let mut client = Client::new("");
    client.node.input(sluice_spi::Input::Trace {
        session: sluice_spi::LocalRef(1),
        on: true,
    });
    client.say(Kind::Context, b"bob@REALM");
    client.read = 2;
    client.token(Kind::Context);
    client.ask_level(2);
    client.send(true, &request(1, SOMEWHERE, 80));
    let traced: Vec<String> = client
        .node
        .log
        .events()
        .filter_map(|event| match event {
            Event::Traced { text, .. } => Some(text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(
        traced,
        [
            "SOCKS5 GSS-API token of 9 octets",
            "SOCKS5 GSS-API token of 7 octets",
            "SOCKS5 protection: confidentiality",
            "SOCKS5 request connect 198.51.100.9:80",
            "SOCKS5 granted, 203.0.113.1:40000"
        ]
    );
}
