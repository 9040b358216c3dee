//! What policies decide, case by case.

use super::*;
use std::net::SocketAddr;

fn list<T: std::str::FromStr>(words: &[&str]) -> Vec<T> {
    let read = |word: &&str| word.parse().unwrap_or_else(|_| panic!("{word}"));
    words.iter().map(read).collect()
}

fn rule(action: Action, matchers: Matchers) -> Rule {
    Rule {
        name: String::new(),
        line: 0,
        action,
        matchers,
        effects: Effects::default(),
    }
}

fn allow(matchers: Matchers) -> Rule {
    rule(Action::Allow, matchers)
}

fn deny(matchers: Matchers) -> Rule {
    rule(Action::Deny, matchers)
}

fn to(destinations: &[&str]) -> Matchers {
    Matchers {
        destinations: list(destinations),
        ..Matchers::default()
    }
}

fn named(domains: &[&str]) -> Matchers {
    Matchers {
        domains: list(domains),
        ..Matchers::default()
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy::new(rules, Defaults::default()).unwrap()
}

const CONNECT: Request<'static> = Request {
    command: Command::Connect,
    listener: "socks",
    protocol: "socks",
    client: None,
    user: None,
};

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// What decides on an address: the number of a rule, or a word.
fn address(policy: &Policy, address: &str) -> String {
    shown(&policy.decide_address(&CONNECT, None, address.parse().unwrap(), 80))
}

fn shown(decision: &Decision<'_>) -> String {
    let by = decision
        .rule()
        .map_or_else(|| decision.by.as_str().to_owned(), |rule| rule.index.to_string());
    format!("{} {by}", decision.action.as_str())
}

fn early(early: &Early<'_>) -> String {
    match early {
        Early::Final(decision) => shown(decision),
        Early::Depends => "depends".to_owned(),
    }
}

#[test]
fn without_rules_no_connection_is_allowed_and_every_session_is() {
    let policy = policy(Vec::new());
    assert_eq!(address(&policy, "1.1.1.1"), "deny default");
    assert_eq!(address(&policy, "10.0.0.1"), "deny private");
    assert_eq!(
        early(&policy.decide_name(&CONNECT, &name("example.com"), 80)),
        "deny default"
    );
    assert_eq!(early(&policy.decide_unknown(&CONNECT)), "deny default");
    assert_eq!(shown(&policy.decide_session(&CONNECT)), "allow default");
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(vec![
        deny(to(&["1.1.1.0/24"])),
        allow(to(&["1.1.0.0/16"])),
        deny(Matchers::default()),
    ]);
    assert_eq!(address(&policy, "1.1.1.1"), "deny 0");
    assert_eq!(address(&policy, "1.1.2.1"), "allow 1");
    assert_eq!(address(&policy, "1.2.0.1"), "deny 2");
    assert_eq!(address(&policy, "::ffff:1.1.2.1"), "allow 1");
    assert_eq!(address(&policy, "64:ff9b::1.1.1.1"), "deny 0");
}

#[test]
fn all_matchers_must_hold_and_their_values_are_alternatives() {
    let policy = policy(vec![allow(Matchers {
        listeners: vec!["socks".into(), "other".into()],
        protocols: vec!["socks".into()],
        clients: list(&["192.0.2.0/24", "2001:db8::/32"]),
        users: list(&["ann", "@isp.example"]),
        groups: vec!["staff".into(), "boss".into()],
        commands: vec![Command::Connect, Command::Udp],
        ports: list(&["80", "8000-8080"]),
        ..Matchers::default()
    })]);
    let groups = ["x".to_owned(), "staff".to_owned()];
    let ann = Subject {
        name: "ann",
        realm: None,
        groups: &groups,
    };
    let good = Request {
        client: Some("::ffff:192.0.2.7".parse().unwrap()),
        user: Some(ann),
        ..CONNECT
    };
    let ask = |request: &Request<'_>, port| {
        let decision = policy.decide_address(request, None, "1.1.1.1".parse().unwrap(), port);
        decision.allowed()
    };
    assert!(ask(&good, 80) && ask(&good, 8000) && ask(&good, 8080));
    assert!(!ask(&good, 81) && !ask(&good, 8081) && !ask(&good, 0));
    let bob = Subject { name: "bob", ..ann };
    let of_realm = Subject {
        realm: Some("ISP.example"),
        ..bob
    };
    let loner = Subject { groups: &[], ..ann };
    for (request, wanted) in [
        (
            Request {
                listener: "other",
                ..good
            },
            true,
        ),
        (
            Request {
                listener: "third",
                ..good
            },
            false,
        ),
        (
            Request {
                protocol: "l2tp",
                ..good
            },
            false,
        ),
        (Request { client: None, ..good }, false),
        (
            Request {
                client: Some("192.0.3.1".parse().unwrap()),
                ..good
            },
            false,
        ),
        (
            Request {
                client: Some("2001:db8::5".parse().unwrap()),
                ..good
            },
            true,
        ),
        (Request { user: None, ..good }, false),
        (
            Request {
                user: Some(bob),
                ..good
            },
            false,
        ),
        (
            Request {
                user: Some(of_realm),
                ..good
            },
            true,
        ),
        (
            Request {
                user: Some(loner),
                ..good
            },
            false,
        ),
        (
            Request {
                command: Command::Udp,
                ..good
            },
            true,
        ),
        (
            Request {
                command: Command::Bind,
                ..good
            },
            false,
        ),
    ] {
        assert_eq!(ask(&request, 80), wanted, "{request:?}");
    }
}

#[test]
fn special_destinations_open_only_to_what_lists_them() {
    let policy = policy(vec![
        allow(to(&["10.1.0.0/16", "169.254.0.0/16", "fd00::/8", "127.0.0.1"])),
        allow(to(&["0.0.0.0/0", "::/0"])),
        allow(Matchers::default()),
    ]);
    for (destination, wanted) in [
        ("10.1.2.3", "allow 0"),
        ("10.2.0.1", "deny private"),
        ("169.254.1.1", "allow 0"),
        ("169.254.169.254", "deny metadata"),
        ("169.254.170.2", "deny metadata"),
        ("fd12::1", "allow 0"),
        ("fd00:ec2::254", "deny metadata"),
        ("127.0.0.1", "allow 0"),
        ("127.0.0.2", "deny loopback"),
        ("0.0.0.0", "deny unspecified"),
        ("::", "deny unspecified"),
        ("fe80::1", "deny link_local"),
        ("224.0.0.1", "deny multicast"),
        ("64:ff9b::10.1.2.3", "allow 0"),
        ("64:ff9b::10.2.0.1", "deny private"),
        ("2002:a01:203::1", "allow 0"),
        ("1.1.1.1", "allow 1"),
        ("2606:4700::1111", "allow 1"),
        ("64:ff9b::1.1.1.1", "allow 1"),
    ] {
        assert_eq!(address(&policy, destination), wanted, "{destination}");
    }
}

#[test]
fn what_embeds_a_special_address_is_not_opened_by_its_own_prefix() {
    let policy = policy(vec![allow(to(&[
        "64:ff9b::/96",
        "2002::/16",
        "2001::/32",
        "::/96",
    ]))]);
    for (destination, wanted) in [
        ("64:ff9b::127.0.0.1", "deny loopback"),
        ("2002:7f00:1::", "deny loopback"),
        ("::10.0.0.1", "deny private"),
        ("2001:0:808:808:0:0:80ff:fffe", "deny loopback"),
        ("2001:0:7f00:1:0:0:f7f7:f7f7", "deny loopback"),
        ("64:ff9b::1.1.1.1", "allow 0"),
        ("2001:0:808:808:0:0:f7f7:f7f7", "allow 0"),
    ] {
        assert_eq!(address(&policy, destination), wanted, "{destination}");
    }
}

#[test]
fn a_teredo_client_is_not_allowed_by_its_servers_prefix() {
    let policy = policy(vec![allow(to(&["8.8.8.0/24"]))]);
    // Server 8.8.8.8, client 1.1.1.1; and the other way round.
    assert_eq!(address(&policy, "2001:0:808:808:0:0:fefe:fefe"), "deny default");
    assert_eq!(address(&policy, "2001:0:101:101:0:0:f7f7:f7f7"), "allow 0");
}

#[test]
fn the_default_to_allow_opens_nothing_special() {
    let defaults = Defaults {
        connections: Action::Allow,
        ..Defaults::default()
    };
    let policy = Policy::new(Vec::new(), defaults).unwrap();
    assert_eq!(address(&policy, "1.1.1.1"), "allow default");
    assert_eq!(address(&policy, "192.168.1.1"), "deny private");
    assert_eq!(address(&policy, "::1"), "deny loopback");
}

#[test]
fn own_listeners_open_only_to_their_address_with_ports() {
    let listeners: [SocketAddr; 3] =
        ["0.0.0.0:1080", "127.0.0.1:8701", "9.9.9.9:1080"].map(|text| text.parse().unwrap());
    let own = Own::new(listeners, ["9.9.9.8".parse().unwrap()]);
    let at = |policy: &Policy, host: &str, port| {
        shown(&policy.decide_address(&CONNECT, None, host.parse().unwrap(), port))
    };
    let wide = policy(vec![allow(to(&["127.0.0.0/8"])), allow(Matchers::default())]).with_own(own.clone());
    assert_eq!(at(&wide, "127.0.0.1", 80), "allow 0");
    assert_eq!(at(&wide, "127.0.0.1", 8701), "deny own_listener");
    assert_eq!(at(&wide, "127.1.1.1", 1080), "deny own_listener");
    assert_eq!(at(&wide, "9.9.9.9", 1080), "deny own_listener");
    assert_eq!(at(&wide, "9.9.9.8", 1080), "deny own_listener");
    assert_eq!(at(&wide, "64:ff9b::9.9.9.8", 1080), "deny own_listener");
    assert_eq!(at(&wide, "9.9.9.8", 1081), "allow 1");

    let single = |ports: &[&str]| {
        let matchers = Matchers {
            ports: list(ports),
            ..to(&["127.0.0.1", "9.9.9.8"])
        };
        policy(vec![allow(matchers)]).with_own(own.clone())
    };
    assert_eq!(at(&single(&["8701", "1080"]), "127.0.0.1", 8701), "allow 0");
    assert_eq!(at(&single(&["8701", "1080"]), "9.9.9.8", 1080), "allow 0");
    assert_eq!(at(&single(&["8701"]), "9.9.9.8", 1080), "deny own_listener");
    assert_eq!(at(&single(&[]), "127.0.0.1", 8701), "deny own_listener");
}

#[test]
fn a_name_is_decided_before_and_after_it_is_resolved() {
    let policy = policy(vec![
        deny(named(&[".bad.example"])),
        deny(to(&["1.1.1.1"])),
        allow(named(&[".good.example"])),
        allow(Matchers {
            domains: list(&["intranet.example"]),
            destinations: list(&["10.0.0.0/8"]),
            ..Matchers::default()
        }),
    ]);
    let before = |text: &str| early(&policy.decide_name(&CONNECT, &name(text), 443));
    assert_eq!(before("www.bad.example"), "deny 0");
    assert_eq!(before("www.good.example"), "depends");
    assert_eq!(before("intranet.example"), "depends");
    assert_eq!(before("other.example"), "deny default");
    assert_eq!(before("verybad.example"), "deny default");

    let after = |text: &str, address: &str| {
        shown(&policy.decide_address(&CONNECT, Some(&name(text)), address.parse().unwrap(), 443))
    };
    assert_eq!(after("www.good.example", "8.8.8.8"), "allow 2");
    assert_eq!(after("www.good.example", "1.1.1.1"), "deny 1");
    // Rebinding: the name is allowed, what it resolves to is not.
    assert_eq!(after("www.good.example", "127.0.0.1"), "deny loopback");
    assert_eq!(after("www.good.example", "169.254.169.254"), "deny metadata");
    assert_eq!(after("www.good.example", "10.0.0.1"), "deny private");
    assert_eq!(after("www.good.example", "::ffff:10.0.0.1"), "deny private");
    assert_eq!(after("intranet.example", "10.0.0.1"), "allow 3");
    assert_eq!(after("intranet.example", "192.168.0.1"), "deny private");
    assert_eq!(after("intranet.example", "8.8.8.8"), "deny default");
    // An address alone has no name.
    assert_eq!(address(&policy, "8.8.8.8"), "deny default");
}

#[test]
fn a_name_that_no_address_changes_is_final() {
    let policy = policy(vec![
        allow(named(&["a.example"])),
        deny(to(&["1.1.1.1"])),
        allow(named(&["*"])),
    ]);
    let before = |text: &str| early(&policy.decide_name(&CONNECT, &name(text), 443));
    assert_eq!(before("a.example"), "allow 0");
    assert_eq!(before("b.example"), "depends");
    assert!(
        policy
            .decide_name(&CONNECT, &name("b.example"), 443)
            .denied()
            .is_none()
    );
}

#[test]
fn an_association_may_start_where_some_datagram_would_be_allowed() {
    let udp = Request {
        command: Command::Udp,
        ..CONNECT
    };
    let dns = Matchers {
        commands: vec![Command::Udp],
        ports: list(&["53"]),
        ..Matchers::default()
    };
    let some = policy(vec![deny(to(&["1.1.1.1"])), allow(dns)]);
    assert_eq!(early(&some.decide_unknown(&udp)), "depends");
    assert_eq!(early(&some.decide_unknown(&CONNECT)), "deny default");
    let none = policy(vec![deny(Matchers::default()), allow(to(&["1.1.1.1"]))]);
    assert_eq!(early(&none.decide_unknown(&udp)), "deny 0");
    let all = policy(vec![allow(Matchers::default())]);
    assert_eq!(early(&all.decide_unknown(&udp)), "allow 0");
}

#[test]
fn rules_about_destinations_are_not_about_sessions() {
    let policy = policy(vec![
        deny(to(&["0.0.0.0/0"])),
        deny(Matchers {
            users: list(&["eve"]),
            ..Matchers::default()
        }),
        allow(Matchers {
            users: list(&["*"]),
            commands: vec![Command::Session],
            ..Matchers::default()
        }),
    ]);
    let of = |name| Request {
        user: Some(Subject {
            name,
            realm: None,
            groups: &[],
        }),
        command: Command::Session,
        ..CONNECT
    };
    assert_eq!(shown(&policy.decide_session(&of("eve"))), "deny 1");
    assert_eq!(shown(&policy.decide_session(&of("ann"))), "allow 2");
    assert_eq!(shown(&policy.decide_session(&CONNECT)), "allow default");
}

#[test]
fn effects_come_from_rule_then_profile_then_defaults() {
    let mut permissive = allow(Matchers::default());
    permissive.effects.fwmark = Some(7);
    permissive.effects.lifetime = Some(std::time::Duration::from_secs(5));
    let defaults = Defaults {
        effects: Effects {
            fwmark: Some(1),
            interface: Some("eth0".into()),
            lifetime: Some(std::time::Duration::from_secs(1)),
            ..Effects::default()
        },
        ..Defaults::default()
    };
    let policy = Policy::new(vec![permissive], defaults).unwrap();
    let profile = Effects {
        interface: Some("eth9".into()),
        lifetime: Some(std::time::Duration::from_secs(9)),
        ..Effects::default()
    };
    let decision = policy.decide_address(&CONNECT, None, "1.1.1.1".parse().unwrap(), 80);
    let effects = decision.effects(Some(&profile));
    assert_eq!(
        (effects.fwmark, effects.interface.as_deref()),
        (Some(7), Some("eth9"))
    );
    assert_eq!(effects.lifetime, Some(std::time::Duration::from_secs(5)));
    assert_eq!(decision.effects(None).interface.as_deref(), Some("eth0"));
}

#[test]
fn an_explanation_names_the_rule_and_why_those_before_did_not_decide() {
    let mut last = allow(to(&["10.0.0.0/8"]));
    last.name = "inside".into();
    last.line = 42;
    let policy = policy(vec![
        deny(Matchers {
            users: list(&["eve"]),
            ..Matchers::default()
        }),
        allow(Matchers {
            commands: vec![Command::Udp],
            ..Matchers::default()
        }),
        allow(named(&["x.example"])),
        allow(Matchers {
            ports: list(&["443"]),
            ..to(&["0.0.0.0/0"])
        }),
        allow(Matchers::default()),
        last,
    ]);
    let target = "10.0.0.1".parse().unwrap();
    let explanation = policy.explain(&CONNECT, Target::Address(None, target, 80));
    let passed: Vec<_> = explanation
        .passed
        .iter()
        .map(|(rule, why)| (rule.index, *why))
        .collect();
    let wanted = [
        Matcher::User,
        Matcher::Command,
        Matcher::Domain,
        Matcher::Port,
        Matcher::Special,
    ];
    assert_eq!(
        passed,
        wanted
            .map(Passed::Failed)
            .into_iter()
            .enumerate()
            .collect::<Vec<_>>()
    );
    assert_eq!(explanation.special, Some(Special::Private));
    let Early::Final(decision) = explanation.answer else {
        panic!("an address leaves nothing open");
    };
    let by = decision.rule().unwrap();
    assert_eq!((by.index, by.rule.name.as_str(), by.rule.line), (5, "inside", 42));

    let wanted = name("x.example");
    let explanation = policy.explain(&CONNECT, Target::Name(&wanted, 443));
    assert_eq!(early(&explanation.answer), "allow 2");
    let other = name("y.example");
    let explanation = policy.explain(&CONNECT, Target::Name(&other, 443));
    assert_eq!(explanation.passed[3].1, Passed::Unknown(Matcher::Destination));
    assert_eq!(early(&explanation.answer), "depends");
    let explanation = policy.explain(&CONNECT, Target::Address(None, "127.0.0.1".parse().unwrap(), 80));
    assert_eq!(early(&explanation.answer), "deny loopback");
    assert_eq!(explanation.passed.len(), 6);
}

#[test]
fn there_is_a_most_of_rules() {
    let rules = vec![deny(Matchers::default()); MAX_RULES + 1];
    assert_eq!(Policy::new(rules, Defaults::default()).unwrap_err(), TooManyRules);
    let mut rules = vec![deny(to(&["9.9.9.9"])); MAX_RULES];
    rules[MAX_RULES - 1] = allow(to(&["1.1.1.1"]));
    let policy = policy(rules);
    assert_eq!(address(&policy, "1.1.1.1"), "allow 1023");
}
