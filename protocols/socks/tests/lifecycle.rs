//! Orders of the gateway, traces, and what operators see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use sluice_socks::Socks;
use sluice_spi::{
    Close, Entropy, Event, Factory, Input, LocalRef, MachineKey, Module, Open, OpenError, Resumption,
    ShardId, Shards, TerminateCause, Transport,
};
use sluice_testkit::stream::Stage;
use sluice_testkit::{Seeded, StreamNode};
use std::time::{Duration, Instant};

fn terminate(node: &mut StreamNode) {
    node.input(Input::Terminate {
        session: LocalRef(1),
        cause: TerminateCause::AdminReset,
    });
}

#[test]
fn an_order_to_end_is_told_as_far_as_it_can_be() {
    let whole = [
        HELLO_LOGIN,
        &login(b"bob", b"hunter22"),
        &request(1, SOMEWHERE, 80),
    ]
    .concat();
    for (length, judged, expected) in [
        (3, true, "0502".to_owned()),
        (10, true, "0502".to_owned()),
        (17, false, "05020101".to_owned()),
        (17, true, "05020100".to_owned()),
        (whole.len(), true, format!("05020100{}", failure(1))),
    ] {
        let mut node = node("");
        node.dialer = Box::new(|_| Vec::new());
        if !judged {
            node.policy.judging_delay = Duration::from_secs(5);
        }
        say(&mut node, &whole[..length]);
        terminate(&mut node);
        assert_eq!(told(&node), expected, "after {length}");
        assert_eq!(
            (ended(&node).code, ended(&node).cause),
            ("terminated", TerminateCause::AdminReset)
        );
        is_over(&node);
    }
}

#[test]
fn a_stream_that_is_ended_by_order_is_reset_on_both_sides() {
    let mut node = node(TRUSTING);
    say(&mut node, &vector("connect_ipv4"));
    terminate(&mut node);
    let closes: Vec<_> = node
        .log
        .events()
        .filter_map(|event| match event {
            Event::CloseChannel { channel, close } => Some((*channel, *close)),
            _ => None,
        })
        .collect();
    assert_eq!(closes, [(OTHER, Close::Reset), (CLIENT, Close::Reset)]);
    is_over(&node);
}

#[test]
fn orders_for_other_sessions_and_channels_change_nothing() {
    let mut node = node(TRUSTING);
    say(&mut node, &vector("connect_ipv4"));
    let before = node.summary();
    let (local, session) = ("192.0.2.1:1".parse().unwrap(), LocalRef(2));
    for input in [
        Input::Terminate {
            session,
            cause: TerminateCause::AdminReset,
        },
        Input::JoinEnded {
            session,
            end: sluice_spi::JoinEnd::Finished,
        },
        Input::ChannelListening {
            channel: OTHER,
            local,
        },
        Input::ChannelOpened {
            channel: sluice_spi::ChannelRef(7),
            local,
            remote: local,
        },
        Input::Admission {
            verifiable: Default::default(),
            session: LocalRef(1),
            verdict: Ok(()),
        },
    ] {
        node.input(input);
    }
    assert_eq!(node.summary(), before);
}

#[test]
fn what_no_stream_has_is_a_fault() {
    let mut node = node(TRUSTING);
    node.input(Input::PeerUnreachable);
    assert!(node.is_gone());
    assert!(node.log.text().contains("Fault"));
}

#[test]
fn a_trace_shows_the_messages_and_no_password() {
    let mut node = node("");
    say(&mut node, HELLO_LOGIN);
    node.input(Input::Trace {
        session: LocalRef(1),
        on: true,
    });
    say(&mut node, &login(b"bob", b"hunter22"));
    say(&mut node, &request(1, &named(b"Example.com"), 80));
    let traced: Vec<String> = node
        .log
        .events()
        .filter_map(|event| match event {
            Event::Traced { direction, text, .. } => Some(format!("{direction:?} {text}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        traced,
        [
            "In SOCKS5 login of \"bob\"",
            "Out SOCKS5 login accepted",
            "In SOCKS5 request connect example.com:80",
            "Out SOCKS5 granted, 203.0.113.1:40000",
        ]
    );
    let shown = format!("{}{:?}", node.log.text(), node.machine().unwrap().describe());
    let of_client = |line: &&str| !line.contains("In ChannelRef");
    let shown: Vec<&str> = shown.lines().filter(of_client).collect();
    assert!(!shown.concat().contains("hunter22"));
    let checkpoint = node.checkpoint().unwrap();
    assert!(!checkpoint.windows(8).any(|window| window == b"hunter22"));
}

#[test]
fn a_name_is_escaped_wherever_it_is_shown() {
    let mut node = node("");
    say(&mut node, HELLO_LOGIN);
    node.input(Input::Trace {
        session: LocalRef(1),
        on: true,
    });
    node.policy.judging_delay = Duration::from_secs(5);
    say(&mut node, &login(b"a\"b\\c", b"hunter22"));
    assert_eq!(node.machine().unwrap().describe().peer_name, "a\\\"b\\\\c");
    assert!(node.log.text().contains("login of"));
}

#[test]
fn facts_of_the_module() {
    let descriptor = Socks.descriptor();
    assert_eq!((descriptor.name, descriptor.default_port), ("socks", 1080));
    assert_eq!(descriptor.transport, Transport::Tcp);
    assert_eq!(descriptor.resumption, Resumption::Connections);
    let entropy = || Box::new(Seeded::new(1)) as Box<dyn Entropy>;
    let factory = factory("");
    assert!(factory.front(ShardId(0), Shards::new(1), entropy()).is_none());
    let open = Open::Initiated {
        key: MachineKey(1),
        peer: peer(),
    };
    let refused = factory.machine(open, ShardId(0), entropy(), Instant::now());
    assert!(matches!(refused, Err(OpenError::NotSupported)));
}

#[test]
fn everything_that_is_counted_or_dropped_has_a_name_in_the_descriptor() {
    let descriptor = Socks.descriptor();
    for script in corpus() {
        for text in [TRUSTING, ""] {
            let mut node = node(text);
            say(&mut node, &script);
            node.end(CLIENT, sluice_spi::StreamEnd::Reset);
            for event in node.log.events() {
                match event {
                    Event::Counted(name) => assert!(descriptor.counters.contains(name), "{name}"),
                    Event::Dropped(reason) => assert!(descriptor.drop_reasons.contains(&reason.0)),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_connection_is_described_before_it_says_anything() {
    let node = node("");
    let machine = node.machine().unwrap();
    assert_eq!(machine.describe_session(LocalRef(1)), []);
    let info = machine.describe();
    assert_eq!(
        (info.peer, value(&info.facts, "state").as_deref()),
        (peer(), Some("greeting"))
    );
    assert_eq!(node.stage(CLIENT), Some(Stage::Open));
}
