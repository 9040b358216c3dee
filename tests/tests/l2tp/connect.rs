//! Getting on the network.

use crate::case::{Case, POOL, config, dial, ping};
use serde_json::Value;
use sluice_tests::rig::{Lab, Xl2tpd, wait_for};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Whether an IPv6 address is in the prefix of 64 bits that a session was given.
fn in_prefix(address: Ipv6Addr, session: &Value) -> bool {
    let prefix = session["grants"]["ipv6_prefix"].as_str().unwrap();
    let (network, length) = prefix.split_once('/').unwrap();
    let network: Ipv6Addr = network.parse().unwrap();
    length == "64" && network.octets()[..8] == address.octets()[..8]
}

#[test]
fn a_client_gets_addresses_and_both_families_work() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    case.lab.route_back("2001:db8:64::/48");
    let mut guest = case.guest(50);
    let link = case.alice(&mut guest);
    assert_eq!(link.local.octets()[..3], [10, 64, 0]);
    assert_eq!(link.remote, Ipv4Addr::new(10, 64, 0, 1));
    assert_eq!(
        link.dns,
        [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)]
    );
    ping(&mut guest, &link.remote.to_string());
    let [_, router] = link.wait_ipv6(&mut guest, 10);
    ping(&mut guest, &format!("-6 {router}%{}", link.interface));
    let address = link.wait_advertised(&mut guest, 10);
    let session = case.gateway.wait_session();
    assert!(in_prefix(address, &session), "{address} {session}");
    // The route to the world is the one that the router advertisement gave.
    ping(&mut guest, &format!("-6 -I {address} {}", Lab::WORLD6));
    // The largest packet that fits is not fragmented, and comes back.
    let mtu: u32 = guest
        .must(&format!("cat /sys/class/net/{}/mtu", link.interface))
        .trim()
        .parse()
        .unwrap();
    ping(&mut guest, &format!("-M do -s {} {}", mtu - 28, link.remote));

    shown_everywhere(&case, &session, link.local);

    Xl2tpd::hang_up(&mut guest);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["cause"], "user-request", "{ended}");
    Xl2tpd::stop(&mut guest);
    // What is remembered was agreed on in the end, not when the first address family was up.
    let shown = case
        .gateway
        .json(&["sessions", "show", ended["id"].as_str().unwrap()]);
    for name in ["ipcp_state", "ipv6cp_state"] {
        assert_eq!(shown["facts"][name], "Opened", "{shown}");
    }
    assert!(case.gateway.sessions().is_empty());
    let recorded = case.end();
    // Nothing was sent twice, and nothing waited for a timer: each message of the set-up once.
    for kind in [1, 2, 3, 10, 11, 12] {
        let found = recorded.must(0, &format!("l2tp.avp.message_type == {kind}"));
        assert_eq!(found.len(), 1, "{found:?}");
    }
    recorded.must(0, "icmpv6.type == 134");
    recorded.must(0, "pap.code == 2");
}

/// The session is told of alike by command line, REST over TCP and metrics, and its counters advance.
fn shown_everywhere(case: &Case, session: &Value, local: Ipv4Addr) {
    let gateway = &case.gateway;
    let id = session["id"].as_str().unwrap();
    assert_eq!(session["user"], "alice");
    assert_eq!(session["protocol"], "l2tp");
    assert_eq!(session["peer"], "10.99.0.50:1701");
    assert_eq!(session["grants"]["ipv4"], local.to_string());

    let shown = gateway.must(&["sessions", "show", id]);
    assert!(shown.contains(&local.to_string()), "{shown}");

    let token = gateway.token(&["read"]);
    assert_eq!(gateway.rest(None, "GET", "/v1/sessions", None).0, 401);
    let path = format!("/v1/sessions/{id}");
    let rest = gateway.rest_json(&token, "GET", &path, None, 200);
    assert_eq!(rest["state"], "established");
    assert_eq!(rest["grants"], session["grants"]);
    assert!(
        rest["facts"].as_object().is_some_and(|facts| facts.len() >= 4),
        "{rest}"
    );
    let refused = gateway.rest(Some(&token), "POST", &format!("{path}:terminate"), None);
    assert_eq!(refused.0, 403, "a token to read ended a session: {}", refused.1);

    let established = "sluice_sessions{protocol=\"l2tp\",state=\"established\"}";
    wait_for("the session in the metrics", Duration::from_secs(10), || {
        (gateway.metric(&token, established) == 1.0).then_some(())
    });
    // At least the pings of both families, as full as they can be; the echo replies went the other way.
    wait_for("the counters to advance", Duration::from_secs(10), || {
        let counters = &gateway.rest_json(&token, "GET", &path, None, 200)["counters"];
        let count = |name: &str| counters[name].as_u64().unwrap();
        let enough = count("rx_packets") >= 9 && count("tx_packets") >= 9;
        (enough && count("rx_bytes") >= 3 * 1400 && count("tx_bytes") >= 3 * 1400).then_some(())
    });
    wait_for("traffic in the metrics", Duration::from_secs(15), || {
        let bytes = gateway.metric(&token, "sluice_rx_bytes_total{protocol=\"l2tp\"}");
        (bytes >= 3.0 * 1400.0).then_some(())
    });
}

#[test]
fn who_comes_back_gets_the_same_address() {
    let pool = POOL.replace(
        "10.64.0.0/24",
        "10.64.0.0/24\"]\nallocation = \"next\"\nnbns = [\"192.0.2.55",
    );
    let Some(mut case) = Case::start(&config("", &pool)) else {
        return;
    };
    let mut guest = case.guest(50);
    let first = case.alice(&mut guest);
    let session = case.gateway.wait_session();
    Xl2tpd::shut_down(&mut guest);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["code"], "stopped_by_peer", "{ended}");

    // Somebody else gets another one, although that of alice is free.
    let other = dial("bob").connect(&mut guest);
    assert_ne!(other.local, first.local);
    let others = case.gateway.wait_session();
    assert_eq!(others["user"], "bob");
    Xl2tpd::stop(&mut guest);
    case.gateway.wait_ended(&others);

    let again = case.alice(&mut guest);
    assert_eq!(again.local, first.local);
    let after = case.gateway.wait_session();
    assert_ne!(after["id"], session["id"]);
    assert_eq!(after["grants"]["ipv6_prefix"], session["grants"]["ipv6_prefix"]);
    ping(&mut guest, &again.remote.to_string());
    Xl2tpd::stop(&mut guest);
    case.end();
}
