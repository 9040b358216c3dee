//! What the tests of this crate share: one connection to a gateway in virtual time.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use sluice_auth::{Credentials, RejectReason, Verdict};
use sluice_socks::SocksFactory;
use sluice_socks::config::Config;
use sluice_spi::{ChannelFailure, ChannelRef, Ended, Event, Fact, PeerAddr, SessionKind, config};
use sluice_testkit::policy::grants;
use sluice_testkit::stream::{self, Stage};
use sluice_testkit::vectors::{find, load, to_hex};
use sluice_testkit::{Seeded, StreamNode};
use std::time::Duration;

/// The client's connection.
pub const CLIENT: ChannelRef = ChannelRef::FIRST;
/// What the client asked for.
pub const OTHER: ChannelRef = ChannelRef(1);
/// Configuration that lets the client in without a password.
pub const TRUSTING: &str = "no_auth_from = [\"192.0.2.0/24\"]\n";
/// A greeting that offers no authentication.
pub const HELLO: &[u8] = &[5, 1, 0];
/// A greeting that offers a name and password.
pub const HELLO_LOGIN: &[u8] = &[5, 1, 2];

/// A factory with the configuration in `text`.
pub fn factory(text: &str) -> SocksFactory {
    SocksFactory::new(config::read("test", text, Config::from_section).expect("a configuration"))
}

/// The ends of the client's connection.
pub fn peer() -> PeerAddr {
    PeerAddr {
        remote: "192.0.2.50:50000".parse().unwrap(),
        local: "192.0.2.1:1080".parse().unwrap(),
    }
}

/// A connection to a gateway with the configuration in `text`, where bob's password is `hunter22`, and carol has as many
/// sessions as she may have.
pub fn node(text: &str) -> StreamNode {
    node_from(text, peer())
}

/// The same from elsewhere.
pub fn node_from(text: &str, peer: PeerAddr) -> StreamNode {
    let mut node = StreamNode::accept(&factory(text), peer);
    node.policy.judge = Box::new(|request| {
        assert_eq!(request.protocol, "socks");
        assert!(request.peer.is_some() && request.calling.is_none() && request.called.is_none());
        let (identity, password) = match &request.credentials {
            Credentials::Pap { identity, password } => (identity, password.expose()),
            Credentials::Gssapi { identity } => {
                let proven = identity.as_str().strip_suffix("@REALM");
                return match proven {
                    Some("bob") => Verdict::accept(Box::new(grants(1))),
                    Some("carol") => Verdict::Reject(RejectReason::TooManySessions),
                    Some("dave") => Verdict::Reject(RejectReason::Disabled),
                    _ => Verdict::Reject(RejectReason::BadCredentials),
                };
            }
            other => panic!("asked by {:?}", other.method()),
        };
        match (identity.as_str(), password) {
            ("bob", b"hunter22") => Verdict::accept(Box::new(grants(1))),
            ("carol", b"hunter22") => Verdict::Reject(RejectReason::TooManySessions),
            ("dave", b"hunter22") => Verdict::Reject(RejectReason::Disabled),
            ("erin", b"hunter22") => Verdict::Reject(RejectReason::Unavailable),
            _ => Verdict::Reject(RejectReason::BadCredentials),
        }
    });
    node.policy.admit = Box::new(|call| {
        assert_eq!(call.kind, SessionKind::Connection);
        Ok(())
    });
    node
}

/// A connection whose channels come to nothing.
pub fn failing(failure: ChannelFailure) -> StreamNode {
    let mut node = node(TRUSTING);
    node.dialer = stream::reaches_nothing(failure);
    node
}

/// Bytes come from the client, and a second passes.
pub fn say(node: &mut StreamNode, bytes: &[u8]) {
    node.give(CLIENT, bytes);
    node.pass(Duration::from_secs(1));
}

/// What the client was told so far, in hexadecimal digits.
pub fn told(node: &StreamNode) -> String {
    to_hex(node.sent(CLIENT))
}

/// What the client was told of `bytes`, on a new connection.
pub fn answer(text: &str, bytes: &[u8]) -> String {
    let mut node = node(text);
    say(&mut node, bytes);
    told(&node)
}

/// A name and a password.
pub fn login(name: &[u8], password: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    [&[1, length(name)], name, &[length(password)], password].concat()
}

/// A request of SOCKS5 after its version.
pub fn request(command: u8, address: &[u8], port: u16) -> Vec<u8> {
    [&[5, command, 0], address, &port.to_be_bytes()].concat()
}

/// ATYP and address of 198.51.100.9.
pub const SOMEWHERE: &[u8] = &[1, 198, 51, 100, 9];
/// ATYP and an address of all zeros.
pub const NOWHERE: &[u8] = &[1, 0, 0, 0, 0];

/// ATYP and a name.
pub fn named(name: &[u8]) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()], name].concat()
}

/// The reply of a failure, in hexadecimal digits.
pub fn failure(code: u8) -> String {
    format!("05{code:02x}0001000000000000")
}

/// What a good reply tells: 203.0.113.1:40000.
pub const GRANTED: &str = "05000001cb0071019c40";

/// How the session ended; panics where it has not.
pub fn ended(node: &StreamNode) -> &Ended {
    let ended = node.log.events().find_map(|event| match event {
        Event::SessionDown { ended, .. } => Some(ended),
        _ => None,
    });
    ended.unwrap_or_else(|| panic!("no end:\n{}", node.log.text()))
}

/// The target of the channel asked for, as text; `None`: none was.
pub fn asked(node: &StreamNode) -> Option<String> {
    node.log.events().find_map(|event| match event {
        Event::OpenChannel { target, .. } | Event::ListenChannel { from: target, .. } => {
            Some(target.to_string())
        }
        _ => None,
    })
}

/// What a session's description says by a name.
pub fn fact(node: &StreamNode, name: &str) -> Option<String> {
    let machine = node.machine()?;
    let facts = machine.describe_session(sluice_spi::LocalRef(1));
    value(&facts, name)
}

/// The value of a fact.
pub fn value(facts: &[Fact], name: &str) -> Option<String> {
    facts
        .iter()
        .find(|fact| fact.name == name)
        .map(|fact| fact.value.clone())
}

/// The facts given as the session came up.
pub fn up_facts(node: &StreamNode) -> Vec<Fact> {
    let facts = node.log.events().find_map(|event| match event {
        Event::SessionUp { facts, .. } => Some(facts.clone()),
        _ => None,
    });
    facts.expect("the session came up")
}

/// Looks that a connection is over, that its session, if there was one, ended once, and that nothing is left.
pub fn is_over(node: &StreamNode) {
    assert!(node.is_gone(), "something is left:\n{}", node.log.text());
    assert_eq!(node.stage(CLIENT), Some(Stage::Closed));
    node.log.check_order(true);
}

/// Whole conversations by their names.
pub fn vector(name: &str) -> Vec<u8> {
    find(&load(include_str!("../vectors/clients.txt")), name).to_vec()
}

/// All of them.
pub fn corpus() -> Vec<Vec<u8>> {
    let vectors = load(include_str!("../vectors/clients.txt"));
    vectors.into_iter().map(|vector| vector.bytes).collect()
}

/// A seed for cutting.
pub fn seeded(seed: u64) -> Seeded {
    Seeded::new(seed)
}
