//! What the tests of this crate share: pairs of gateways in virtual time, one as LAC and one as LNS.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod world;

use sluice_auth::Secret;
use sluice_l2tp::config::Config;
use sluice_l2tp::wire::message::Message;
use sluice_l2tp::{L2tp, L2tpFactory};
use sluice_spi::{Event, Input, MachineKey, Originate, config};
use sluice_testkit::log::Seen;
use sluice_testkit::{Clock, Impairment, Node, Pair, Side};
use std::time::Duration;

/// A factory with the configuration in `text`.
pub fn factory(text: &str) -> L2tpFactory {
    L2tpFactory::new(config::read("test", text, Config::from_section).expect("a configuration"))
}

/// Configuration of a LAC without anything else.
pub const LAC: &str = "host_name = \"lac\"\nrole = \"lac\"\n";
/// Configuration of an LNS without anything else.
pub const LNS: &str = "host_name = \"lns\"\n";
/// Configuration of a LAC that answers outgoing calls.
pub const DIALS: &str = "host_name = \"lac\"\nrole = \"lac\"\nanswer_outgoing = true\nanswer_login = \"line\"\n\
                         answer_password = \"line-password\"\n";

/// A pair with factories for both ends.
pub struct Bench {
    /// The two nodes: the client is the LAC.
    pub pair: Pair,
    /// Makes the client's machines.
    pub lac: L2tpFactory,
    /// Makes the server's machines.
    pub lns: L2tpFactory,
}

impl Bench {
    /// A LAC and an LNS on a link.
    pub fn new(lac: &str, lns: &str, impairment: Impairment, seed: u64) -> Self {
        let (lac, lns) = (factory(lac), factory(lns));
        let clock = Clock::new();
        let (client, server) = Pair::addresses();
        let client = Node::new(&L2tp, &lac, client, seed.wrapping_mul(2), clock);
        let server = Node::new(&L2tp, &lns, server, seed.wrapping_mul(2) + 1, clock);
        Self {
            pair: Pair::new(clock, client, server, impairment, seed),
            lac,
            lns,
        }
    }

    /// A LAC and an LNS on a good link.
    pub fn good(lac: &str, lns: &str) -> Self {
        Self::new(lac, lns, Impairment::NONE, 1)
    }

    /// The LAC opens a tunnel.
    pub fn dial(&mut self) -> MachineKey {
        let factory = self.lac.clone();
        self.pair.dial(&factory)
    }

    /// The LNS opens a tunnel.
    pub fn dial_from_lns(&mut self) -> MachineKey {
        let (now, remote) = (self.pair.now(), self.pair.client.address());
        let factory = self.lns.clone();
        self.pair.server.open(&factory, remote, now)
    }

    /// Places a call on a tunnel of a side, as `user`.
    pub fn call(&mut self, side: Side, key: MachineKey, label: &str, login: bool) {
        let call = originate(label, login);
        let now = self.pair.now();
        self.pair
            .node(side)
            .input(key, Input::Originate { call: &call }, now);
    }

    /// Opens a tunnel with one incoming call, and waits until both ends are up.
    pub fn connect(&mut self) -> MachineKey {
        let key = self.dial();
        self.call(Side::Client, key, "one", true);
        assert!(
            self.wait(Duration::from_secs(120), |pair| {
                pair.client.log.sessions_up().len() == 1 && pair.server.log.sessions_up().len() == 1
            }),
            "not up:\n{}",
            self.pair.trace()
        );
        key
    }

    /// Lets time pass until something holds.
    pub fn wait(&mut self, limit: Duration, done: impl FnMut(&Pair) -> bool) -> bool {
        self.pair.run_until(limit, done)
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        self.pair.run_for(span);
    }
}

/// A call to be placed.
pub fn originate(label: &str, login: bool) -> Originate {
    Originate {
        label: label.to_owned(),
        called: "5551234".to_owned(),
        sub_address: String::new(),
        speed: (9_600, 1_000_000),
        login: login.then(|| ("user".to_owned(), Secret::new("open-sesame"))),
    }
}

/// Control messages that a node has sent, in order, without those it sent again and bare acknowledgements.
pub fn sent_messages(node: &Node, secret: Option<&Secret>) -> Vec<Message> {
    let mut seen = std::collections::HashSet::new();
    node.log
        .sent()
        .filter_map(|packet| {
            let (header, body) = sluice_l2tp::wire::header::ControlHeader::decode(packet).ok()?;
            seen.insert((header.ns, body.to_vec()))
                .then(|| sluice_l2tp::wire::decode(body, secret).ok())?
        })
        .collect()
}

/// The ends of tunnels with their words.
pub fn tunnel_ends(node: &Node) -> Vec<String> {
    node.log
        .events()
        .filter_map(|event| match event {
            Event::TunnelDown(ended) => Some(format!("{}: {}", ended.code, ended.text)),
            _ => None,
        })
        .collect()
}

/// How often a node has sent a control message of a type.
pub fn count_sent(node: &Node, number: u16) -> usize {
    node.log
        .sent()
        .filter_map(|packet| sluice_l2tp::wire::header::ControlHeader::decode(packet).ok())
        .filter(|(_, body)| sluice_l2tp::wire::message_type(body).is_some_and(|(found, _)| found == number))
        .count()
}

/// Number of received packets in a node's log.
pub fn received(node: &Node) -> usize {
    node.log.count(|seen| matches!(seen, Seen::Received { .. }))
}
