//! The compiled rules against every rule tried in turn, over random rules and requests from a small world, in which
//! they meet often.

use super::*;
use crate::IpPrefix;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::SocketAddr;

const ADDRESSES: [&str; 24] = [
    "1.1.1.1",
    "1.1.2.1",
    "8.8.8.8",
    "9.9.9.9",
    "10.1.2.3",
    "10.9.9.9",
    "127.0.0.1",
    "169.254.1.1",
    "169.254.169.254",
    "192.168.1.1",
    "255.255.255.255",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:10.1.2.3",
    "::10.1.2.3",
    "64:ff9b::1.1.1.1",
    "64:ff9b::169.254.169.254",
    "2002:a01:203::1",
    "2001:0:808:808:0:0:fefe:fefe",
    "2001:0:a01:203:0:0:f7f7:f7f7",
    "2606:4700::1111",
    "fd00:ec2::254",
    "fe80::1",
];

const PREFIXES: [&str; 20] = [
    "0.0.0.0/0",
    "1.0.0.0/8",
    "1.1.1.0/24",
    "1.1.1.1",
    "8.0.0.0/6",
    "9.9.9.9",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.0.0.0/7",
    "127.0.0.1",
    "169.254.0.0/16",
    "169.254.169.254",
    "::/0",
    "::ffff:10.0.0.0/104",
    "::/96",
    "64:ff9b::/96",
    "2002::/16",
    "2001::/23",
    "fd00::/8",
    "fe80::/10",
];

const DOMAINS: [&str; 9] = [
    "*",
    "example.com",
    ".example.com",
    "*.example.com",
    "*.a.example.com",
    ".com",
    "a.example.com",
    ".org",
    "evil-example.com",
];

const NAMES: [&str; 7] = [
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "evil-example.com",
    "com",
    "x.org",
    "org.com",
];

const PORTS: [&str; 5] = ["80", "443", "1-1024", "1080", "1024-65535"];

/// Some of a list, and often none: a matcher that is not there.
fn some<T: Clone + std::fmt::Debug + 'static>(list: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let most = list.len().min(4);
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(list, 1..=most)]
}

fn read<T: std::str::FromStr>(words: &[&str]) -> Vec<T> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let who = (
        some(strings(&["a", "b"])),
        some(strings(&["socks", "l2tp"])),
        some(read::<IpPrefix>(&[
            "192.0.2.0/24",
            "192.0.2.1",
            "2001:db8::/32",
            "::ffff:192.0.0.0/106",
        ])),
        some(read::<UserPattern>(&[
            "*",
            "ann",
            "bob",
            "@isp.example",
            "@Home.example",
        ])),
        some(strings(&["staff", "boss"])),
        some(Command::ALL.to_vec()),
    );
    let what = (
        some(read::<IpPrefix>(&PREFIXES)),
        some(read::<DomainPattern>(&DOMAINS)),
        some(read::<PortRange>(&PORTS)),
        any::<bool>(),
    );
    let rule = (who, what).prop_map(
        |((listeners, protocols, clients, users, groups, commands), what)| {
            let (destinations, domains, ports, allow) = what;
            Rule {
                name: String::new(),
                line: 0,
                action: if allow { Action::Allow } else { Action::Deny },
                matchers: Matchers {
                    listeners,
                    protocols,
                    clients,
                    users,
                    groups,
                    commands,
                    destinations,
                    domains,
                    ports,
                },
                effects: Effects::default(),
            }
        },
    );
    proptest::collection::vec(rule, 0..80)
}

#[derive(Debug)]
struct Asked {
    command: Command,
    listener: &'static str,
    protocol: &'static str,
    client: Option<IpAddr>,
    user: Option<&'static str>,
    groups: Vec<String>,
    name: Option<HostName>,
    address: IpAddr,
    port: u16,
}

fn asked() -> impl Strategy<Value = Asked> {
    let who = (
        select(&Command::ALL[..]),
        select(vec!["a", "b", "c"]),
        select(vec!["socks", "l2tp"]),
        select(vec![
            None,
            Some("192.0.2.1"),
            Some("::ffff:192.0.2.9"),
            Some("2001:db8::1"),
            Some("1.2.3.4"),
        ]),
        select(vec![
            None,
            Some("ann"),
            Some("bob"),
            Some("eve@ISP.example"),
            Some("ann@home.example"),
        ]),
        subsequence(strings(&["staff", "boss", "other"]), 0..=3),
    );
    let what = (
        prop_oneof![Just(None), select(&NAMES[..]).prop_map(Some)],
        select(&ADDRESSES[..]),
        select(vec![0u16, 80, 443, 1024, 1080, 65535]),
    );
    (who, what).prop_map(
        |((command, listener, protocol, client, user, groups), (name, address, port))| Asked {
            command,
            listener,
            protocol,
            client: client.map(|text| text.parse().unwrap()),
            user,
            groups,
            name: name.map(|text| text.parse().unwrap()),
            address: address.parse().unwrap(),
            port,
        },
    )
}

impl Asked {
    fn request(&self) -> Request<'_> {
        let subject = |name: &'static str| Subject {
            name,
            realm: name.split_once('@').map(|(_, realm)| realm),
            groups: &self.groups,
        };
        Request {
            command: self.command,
            listener: self.listener,
            protocol: self.protocol,
            client: self.client,
            user: self.user.map(subject),
        }
    }
}

fn brief(decision: &Decision<'_>) -> String {
    format!(
        "{:?} {} {:?}",
        decision.action,
        decision.by.as_str(),
        decision.rule().map(|rule| rule.index)
    )
}

fn brief_early(early: &Early<'_>) -> String {
    match early {
        Early::Final(decision) => brief(decision),
        Early::Depends => "depends".to_owned(),
    }
}

fn own() -> Own {
    let listeners: [SocketAddr; 2] = ["0.0.0.0:1080", "127.0.0.1:443"].map(|text| text.parse().unwrap());
    Own::new(listeners, ["9.9.9.9".parse().unwrap()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn compiled_rules_decide_as_rules_tried_in_turn(
        rules in rules(),
        asked in proptest::collection::vec(asked(), 40),
        allow in any::<bool>(),
    ) {
        let connections = if allow { Action::Allow } else { Action::Deny };
        let defaults = Defaults { connections, ..Defaults::default() };
        let policy = Policy::new(rules, defaults).unwrap().with_own(own());
        for asked in &asked {
            let request = asked.request();
            let target = Target::Address(asked.name.as_ref(), asked.address, asked.port);
            let slow = policy.explain(&request, target).answer;
            if asked.command == Command::Session {
                prop_assert_eq!(brief(&policy.decide_session(&request)), brief_early(&slow), "{:?}", asked);
                continue;
            }
            let quick = policy.decide_address(&request, asked.name.as_ref(), asked.address, asked.port);
            prop_assert_eq!(brief(&quick), brief_early(&slow), "{:?}", asked);
            let unknown = policy.decide_unknown(&request);
            let slow = policy.explain(&request, Target::Unknown).answer;
            prop_assert_eq!(brief_early(&unknown), brief_early(&slow), "{:?}", asked);
            if let Early::Final(early) = unknown && !early.allowed() {
                prop_assert!(!quick.allowed(), "{:?}", asked);
            }
            let Some(name) = &asked.name else { continue };
            let by_name = policy.decide_name(&request, name, asked.port);
            let slow = policy.explain(&request, Target::Name(name, asked.port)).answer;
            prop_assert_eq!(brief_early(&by_name), brief_early(&slow), "{:?}", asked);
            // A final answer holds for every address that is not special.
            if let Early::Final(early) = by_name && (!early.allowed() || special(asked.address, asked.port, &own()).is_none()) {
                prop_assert_eq!(early.allowed(), quick.allowed(), "{:?}", asked);
            }
        }
    }

    /// Whatever the rules, what is special is allowed only by a rule that lists it.
    #[test]
    fn nothing_special_is_allowed_by_chance(mut rules in rules(), asked in proptest::collection::vec(asked(), 40)) {
        for rule in &mut rules {
            rule.matchers.destinations.retain(|prefix| ["0.0.0.0/0", "::/0", "1.0.0.0/8", "8.0.0.0/6", "10.0.0.0/7",
                "64:ff9b::/96", "2002::/16", "::/96"].iter().any(|wide| wide.parse() == Ok(*prefix)));
        }
        let defaults = Defaults { connections: Action::Allow, ..Defaults::default() };
        let policy = Policy::new(rules, defaults).unwrap().with_own(own());
        for asked in &asked {
            if special(asked.address, asked.port, &own()).is_some() && asked.command != Command::Session {
                let request = asked.request();
                let decision = policy.decide_address(&request, asked.name.as_ref(), asked.address, asked.port);
                prop_assert!(!decision.allowed(), "{:?}", asked);
            }
        }
    }
}
