//! Scripted peers: IPCP, IPV6CP and the neighbour on the link.

use crate::harness::{Script, carrier, grants, hex, login};
use sluice_auth::{Grants, Verdict};
use sluice_ppp::{PppConfig, protocol};
use std::time::Duration;

const LCP: u16 = protocol::LCP;
const IPCP: u16 = protocol::IPCP;
const IPV6CP: u16 = protocol::IPV6CP;
const SECOND: Duration = Duration::from_secs(1);

fn authenticated_with(grants: Grants) -> Script {
    let mut script = Script::server(PppConfig::default());
    script.verdict = Some(Verdict::accept(Box::new(grants)));
    script.authenticate();
    script
}

fn authenticated() -> Script {
    let mut script = authenticated_with(grants());
    script.forget();
    script
}

fn only_ipv4() -> Grants {
    Grants {
        ipv6_prefix: None,
        ..grants()
    }
}

/// What pppd 2.4.9 says after authentication, with its defaults and `usepeerdns`.
#[test]
fn a_client_like_pppd_is_up_after_three_rounds() {
    let mut script = authenticated();
    script.packet(
        IPCP,
        1,
        1,
        "0206 002d0f01 0306 00000000 8106 00000000 8306 00000000",
    );
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Reject id=1 <compression 0x002d> <dns2 0.0.0.0>"]
    );
    script.packet(protocol::CCP, 1, 1, "1a04 7800 1804 7800 1503 2f");
    assert_eq!(script.sent(), ["LCP Protocol-Reject id=2 of 0x80fd"]);
    script.packet(IPCP, 1, 2, "0306 00000000 8106 00000000");
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Nak id=2 <address 10.64.0.7> <dns1 10.64.0.53>"]
    );
    script.packet(IPCP, 1, 3, "0306 0a400007 8106 0a400035");
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Ack id=3 <address 10.64.0.7> <dns1 10.64.0.53>"]
    );
    script.acknowledge(IPCP);
    let path = script.said.path.clone().unwrap();
    assert_eq!((path.filter.ipv4, path.filter.ipv6), (grants().ipv4, None));
    assert_eq!((path.mtu, path.local_ipv4), (1460, grants().ipv4_gateway));
    script.packet(IPV6CP, 1, 1, "010a c5a1b2c3d4e5f607");
    script.acknowledge(IPV6CP);
    assert_eq!(script.said.path.unwrap().filter.ipv6, grants().ipv6_prefix);
    assert_eq!(script.said.ups, 1);
}

#[test]
fn a_peer_without_an_address_option_is_served() {
    let mut script = authenticated();
    script.packet(IPCP, 1, 1, "");
    assert_eq!(script.sent(), ["IPCP Configure-Nak id=1 <address 10.64.0.7>"]);
    script.packet(IPCP, 1, 2, "");
    assert_eq!(script.sent(), ["IPCP Configure-Ack id=2"]);
    script.acknowledge(IPCP);
    assert_eq!(script.said.path.unwrap().filter.ipv4, grants().ipv4);
}

#[test]
fn only_the_assigned_address_is_accepted_however_often_another_is_asked_for() {
    let mut script = authenticated();
    for id in 1..=5 {
        script.packet(IPCP, 1, id, "0306 c0a80001");
        assert_eq!(
            script.sent(),
            [format!("IPCP Configure-Nak id={id} <address 10.64.0.7>")]
        );
    }
    script.packet(IPCP, 1, 6, "0306 c0a80001");
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Reject id=6 <address 192.168.0.1>"]
    );
    script.packet(IPCP, 1, 7, "");
    script.acknowledge(IPCP);
    assert_eq!(script.said.path.unwrap().filter.ipv4, grants().ipv4);
}

#[test]
fn servers_are_told_where_there_are_any_and_old_options_rejected() {
    let mut script = authenticated_with(Grants {
        dns4: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        nbns: vec!["192.0.2.3".parse().unwrap(), "192.0.2.4".parse().unwrap()],
        ..only_ipv4()
    });
    script.forget();
    script.packet(IPCP, 1, 1, "010a 00000000 00000000 9006 00000000");
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Reject id=1 <addresses> <option 144 00000000>"]
    );
    script.packet(
        IPCP,
        1,
        2,
        "0306 00000000 8106 00000000 8206 00000000 8306 08080808 8406 00000000",
    );
    assert_eq!(
        script.sent(),
        [
            "IPCP Configure-Nak id=2 <address 10.64.0.7> <dns1 192.0.2.1> <nbns1 192.0.2.3> <dns2 192.0.2.2> \
          <nbns2 192.0.2.4>"
        ]
    );
    let mut script = authenticated();
    script.packet(IPCP, 1, 1, "8206 00000000 8406 00000000 8105 000000");
    assert_eq!(
        script.sent(),
        ["IPCP Configure-Reject id=1 <nbns1 0.0.0.0> <nbns2 0.0.0.0> <option 129 of wrong length>"]
    );
}

#[test]
fn our_own_address_is_not_the_peers_to_choose_but_may_be_left_out() {
    let mut script = authenticated();
    script.packet(IPCP, 3, 1, "0306 01020304");
    assert_eq!(script.sent(), ["IPCP Configure-Request id=2 <address 10.64.0.1>"]);
    script.packet(IPCP, 4, 2, "0306 0a400001");
    assert_eq!(script.sent(), ["IPCP Configure-Request id=3"]);
    script.packet(IPCP, 2, 3, "");
    script.packet(IPCP, 1, 1, "0306 0a400007");
    let path = script.said.path.unwrap();
    assert_eq!((path.filter.ipv4, path.local_ipv4), (grants().ipv4, None));
}

#[test]
fn families_that_were_not_granted_are_not_spoken() {
    let mut script = authenticated_with(only_ipv4());
    script.forget();
    script.packet(IPV6CP, 1, 1, "010a 0000000000000009");
    assert_eq!(script.sent(), ["LCP Protocol-Reject id=2 of 0x8057"]);
    let mut script = authenticated_with(Grants {
        ipv4: None,
        ..grants()
    });
    script.forget();
    script.packet(IPCP, 1, 1, "0306 00000000");
    assert_eq!(script.sent(), ["LCP Protocol-Reject id=2 of 0x8021"]);
    let mut script = authenticated_with(Grants::default());
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("no_network_protocol"));
}

#[test]
fn no_ipv6_where_it_does_not_fit_or_is_switched_off() {
    let mut script = authenticated_with(Grants {
        mtu: Some(1200),
        ..grants()
    });
    assert!(!script.sent().iter().any(|line| line.starts_with("IPV6CP")));
    let mut script = Script::server(PppConfig {
        ipv6: false,
        ..PppConfig::default()
    });
    script.authenticate();
    assert!(!script.sent().iter().any(|line| line.starts_with("IPV6CP")));
}

#[test]
fn early_requests_are_answered_when_the_verdict_comes() {
    let mut script = Script::server(PppConfig::default());
    script.open_lcp();
    script.verdict = None;
    script.packet(protocol::PAP, 1, 1, "05 616c696365 07 68756e74657232");
    script.forget();
    script.packet(IPCP, 1, 1, "0306 00000000");
    script.packet(IPV6CP, 1, 1, "010a 0000000000000009");
    for id in 2..20 {
        script.packet(IPCP, 1, id, "0306 00000000");
    }
    assert_eq!((script.sent().len(), script.said.dropped["ppp_limit"]), (0, 12));
    script
        .link
        .auth_verdict(Verdict::accept(Box::new(grants())), script.now);
    script.drain();
    let sent = script.sent();
    let wanted = [
        "PAP Ack id=1 \"\"",
        "IPCP Configure-Request id=1 <address 10.64.0.1>",
        "IPV6CP Configure-Request id=1 <interface-id 0:0:0:1>",
        "IPCP Configure-Nak id=1 <address 10.64.0.7>",
        "IPV6CP Configure-Ack id=1 <interface-id 0:0:0:9>",
    ];
    assert_eq!(sent[..5], wanted);
}

#[test]
fn interface_identifiers_differ_and_are_never_zero() {
    let mut script = authenticated();
    script.packet(IPV6CP, 1, 1, "010a 0000000000000000 0204 004f");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Reject id=1 <compression 0x004f>"]
    );
    script.packet(IPV6CP, 1, 2, "010a 0000000000000000");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Nak id=2 <interface-id 0:0:0:2>"]
    );
    script.packet(IPV6CP, 1, 3, "010a 0000000000000001");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Nak id=3 <interface-id 0:0:0:2>"]
    );
    script.packet(IPV6CP, 1, 4, "0106 00000000");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Nak id=4 <interface-id 0:0:0:2>"]
    );
    // The peer is asked for an identifier once, and served without.
    let mut script = authenticated();
    script.packet(IPV6CP, 1, 1, "");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Nak id=1 <interface-id 0:0:0:2>"]
    );
    script.packet(IPV6CP, 1, 2, "");
    assert_eq!(script.sent(), ["IPV6CP Configure-Ack id=2"]);
}

#[test]
fn the_peers_suggestion_for_our_identifier_is_taken_if_it_is_of_use() {
    let mut script = authenticated();
    script.packet(IPV6CP, 3, 1, "010a 00000000000000aa");
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Request id=2 <interface-id 0:0:0:aa>"]
    );
    script.packet(IPV6CP, 1, 1, "010a 00000000000000aa");
    script.forget();
    // What we have just suggested to the peer cannot be ours.
    script.packet(IPV6CP, 3, 2, "010a 0000000000000002");
    let sent = script.sent();
    assert!(
        !sent[0].contains("0:0:0:2") && !sent[0].contains("0:0:0:aa"),
        "{sent:?}"
    );
    script.packet(IPV6CP, 4, 3, &sent_id(&script));
    assert_eq!(script.sent(), ["IPV6CP Configure-Request id=4"]);
}

/// Our interface identifier option as we sent it last.
fn sent_id(script: &Script) -> String {
    let local = script.requests[&IPV6CP].1.iter();
    local.map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn one_family_may_end_while_the_other_goes_on() {
    for (ended, other) in [(IPCP, IPV6CP), (IPV6CP, IPCP)] {
        let mut script = Script::server(PppConfig::default());
        script.establish();
        script.packet(ended, 5, 7, "");
        assert!(script.sent()[0].contains("Terminate-Ack id=7"));
        script.pass(60 * SECOND);
        let path = script.said.path.clone().unwrap();
        assert_eq!(path.filter.ipv4.is_some(), other == IPCP);
        assert_eq!(path.filter.ipv6.is_some(), other == IPV6CP);
        // It may come back.
        let request = if ended == IPCP {
            "0306 0a400007"
        } else {
            "010a 0000000000000009"
        };
        script.packet(ended, 1, 8, request);
        script.acknowledge(ended);
        let path = script.said.path.clone().unwrap();
        assert!(path.filter.ipv4.is_some() && path.filter.ipv6.is_some());
        assert_eq!(script.said.ups, 1);
    }
}

#[test]
fn a_link_without_any_family_ends_in_bounded_time() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(IPCP, 5, 7, "");
    script.packet(IPV6CP, 5, 7, "");
    assert!(script.said.path.is_none());
    script.pass(20 * SECOND);
    assert!(script.said.down.is_none());
    script.pass(20 * SECOND);
    assert_eq!(script.said.code(), Some("no_network_protocol"));
    // And a peer that never begins.
    let mut script = authenticated();
    script.pass(40 * SECOND);
    assert_eq!(script.said.code(), Some("no_network_protocol"));
}

#[test]
fn a_rejected_protocol_is_not_asked_for_again() {
    let mut script = authenticated();
    script.packet(LCP, 8, 1, "8057 01010004");
    script.pass(10 * SECOND);
    assert!(!script.sent().iter().any(|line| line.starts_with("IPV6CP")));
    script.packet(IPV6CP, 1, 1, "");
    assert_eq!(script.sent(), ["LCP Protocol-Reject id=2 of 0x8057"]);
    script.packet(LCP, 8, 2, "8021 01010004");
    assert!(script.sent()[0].starts_with("LCP Terminate-Request"));
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("no_network_protocol"));
}

#[test]
fn a_rejected_protocol_that_was_open_closes_its_path() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(LCP, 8, 1, "0057 60");
    let path = script.said.path.clone().unwrap();
    assert!(path.filter.ipv6.is_none() && path.filter.ipv4.is_some());
}

#[test]
fn a_repeated_request_does_not_take_down_what_is_open() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(IPCP, 1, 1, "0306 0a400007");
    assert_eq!(script.sent(), ["IPCP Configure-Ack id=1 <address 10.64.0.7>"]);
    // A peer that insists, or comes with it much later, has begun anew.
    script.packet(IPCP, 1, 1, "0306 0a400007");
    script.packet(IPCP, 1, 1, "0306 0a400007");
    script.forget();
    script.packet(IPCP, 1, 1, "0306 0a400007");
    assert!(script.sent()[0].starts_with("IPCP Configure-Request"));
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.pass(20 * SECOND);
    script.forget();
    script.packet(IPCP, 1, 1, "0306 0a400007");
    assert!(script.sent()[0].starts_with("IPCP Configure-Request"));
    assert!(script.said.path.clone().unwrap().filter.ipv4.is_none());
}

#[test]
fn a_straggler_of_the_negotiation_is_not_news() {
    let mut script = authenticated();
    script.packet(IPCP, 1, 1, "0306 00000000");
    script.packet(IPCP, 1, 2, "0306 0a400007");
    script.acknowledge(IPCP);
    script.forget();
    script.packet(IPCP, 1, 1, "0306 00000000");
    assert!(script.sent().is_empty());
    assert!(script.said.path.is_some());
}

#[test]
fn advertisements_come_in_a_burst_and_then_seldom() {
    let mut script = Script::server(PppConfig::default());
    script.authenticate();
    script.packet(IPV6CP, 1, 1, "010a 0000000000000009");
    script.forget();
    script.acknowledge(IPV6CP);
    assert_eq!(script.sent(), ["IPv6 fe80::1 > ff02::1 router advertisement"]);
    script.pass(9 * SECOND);
    let count = |script: &mut Script| {
        let sent = script.sent();
        sent.iter()
            .filter(|line| line.contains("router advertisement"))
            .count()
    };
    assert_eq!(count(&mut script), 2);
    script.pass(440 * SECOND);
    assert_eq!(count(&mut script), 0);
}

#[test]
fn solicitations_and_pings_are_answered_and_floods_are_not() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    // A router solicitation of fe80::9 to ff02::2.
    let solicitation = "0057 60000000 0008 3a ff fe800000000000000000000000000009 \
                        ff020000000000000000000000000002 8500 7d2e 00000000";
    script.wire(&hex(solicitation));
    assert_eq!(script.sent(), ["IPv6 fe80::1 > fe80::9 router advertisement"]);
    // A neighbour solicitation and an echo request for fe80::1.
    let neighbour = "0057 60000000 0018 3a ff fe800000000000000000000000000009 \
                     fe800000000000000000000000000001 8700 7d1f 00000000 fe800000000000000000000000000001";
    script.wire(&hex(neighbour));
    assert_eq!(script.sent(), ["IPv6 fe80::1 > fe80::9 neighbour advertisement"]);
    let ping = "0057 60000000 0008 3a 40 fe800000000000000000000000000009 \
                fe800000000000000000000000000001 8000 82ae 00010002";
    script.wire(&hex(ping));
    assert_eq!(script.sent(), ["IPv6 fe80::1 > fe80::9 echo reply"]);
    for _ in 0..1000 {
        script.wire(&hex(solicitation));
    }
    assert!(script.sent().len() <= 20);
    // Something else that stays on the link, user data, and IPv4, are for others.
    script.wire(&hex(
        "0057 60000000 0000 11 ff fe800000000000000000000000000009 ff0200000000000000000000000000fb",
    ));
    script.wire(&hex(
        "0057 60000000 0000 11 ff 20010db8006400070000000000000009 20010db8000000000000000000000001",
    ));
    script.wire(&hex("0021 45"));
    assert_eq!(
        (
            script.said.dropped["ppp_link_local"],
            script.said.dropped["ppp_user_data"]
        ),
        (1, 2)
    );
}

#[test]
fn user_data_before_its_protocol_is_open_is_dropped() {
    let mut script = authenticated();
    script.wire(&hex("0021 4500"));
    script.wire(&hex("0057 6000"));
    assert_eq!(
        (script.sent().len(), script.said.dropped["ppp_user_data"]),
        (0, 2)
    );
}

#[test]
fn the_mtu_is_the_smallest_of_all() {
    for (peer_mru, granted, mtu) in [
        ("", None, 1460),
        ("0104 0578", None, 1400),
        ("0104 05dc", Some(1300), 1300),
    ] {
        let mut script = Script::server(PppConfig::default());
        script.verdict = Some(Verdict::accept(Box::new(Grants {
            mtu: granted,
            ..grants()
        })));
        script.packet(LCP, 1, 1, peer_mru);
        script.acknowledge(LCP);
        script.packet(protocol::PAP, 1, 1, "05 616c696365 07 68756e74657232");
        script.packet(IPCP, 1, 1, "0306 0a400007");
        script.acknowledge(IPCP);
        assert_eq!(script.said.path.unwrap().mtu, mtu);
    }
    assert_eq!(carrier().mtu, 1460);
}

#[test]
fn as_the_client_addresses_are_taken_as_told() {
    let mut script = Script::new(login(), PppConfig::default());
    script.start(None);
    script.packet(LCP, 1, 1, "0506 11223344");
    script.acknowledge(LCP);
    let sent = script.sent();
    assert!(
        sent.contains(
            &"IPCP Configure-Request id=1 <address 0.0.0.0> <dns1 0.0.0.0> <dns2 0.0.0.0>".to_owned()
        )
    );
    script.packet(IPCP, 4, 1, "8306 00000000");
    script.packet(IPCP, 3, 2, "0306 0a000002 8106 0a000035");
    script.forget();
    script.packet(IPCP, 1, 1, "0306 0a000001 0206 002d0f01");
    assert_eq!(script.sent(), ["IPCP Configure-Reject id=1 <compression 0x002d>"]);
    script.packet(IPCP, 1, 2, "0306 0a000001");
    script.acknowledge(IPCP);
    let path = script.said.path.clone().unwrap();
    assert_eq!(path.local_ipv4, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(path.filter.ipv4, Some("10.0.0.1".parse().unwrap()));
    // An address of nowhere is none.
    let mut script = Script::new(login(), PppConfig::default());
    script.start(None);
    script.packet(LCP, 1, 1, "0506 11223344");
    script.acknowledge(LCP);
    script.packet(LCP, 8, 1, "8057");
    script.packet(IPCP, 4, 1, "0306 00000000");
    script.pass(10 * SECOND);
    assert_eq!(script.said.code(), Some("no_network_protocol"));
}
