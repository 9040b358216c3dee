//! Getting on the network, and off it.

use crate::case::{Case, config, dial, ping};
use sluice_tests::rig::{Guest, Lab, Namespace, Pptp, Xl2tpd, wait_for};
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn a_client_gets_addresses_and_both_families_work() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    let mut guest = case.guest(50);
    let link = dial("alice").connect(&mut guest);
    assert_eq!(link.local.octets()[..3], [10, 64, 0]);
    ping(&mut guest, &link.remote.to_string());
    link.wait_ipv6(&mut guest, 10);
    let address = link.wait_advertised(&mut guest, 10);
    let session = case.gateway.wait_session();
    assert_eq!(session["user"], "alice");
    assert_eq!(session["protocol"], "pptp");
    let prefix = session["grants"]["ipv6_prefix"].as_str().unwrap();
    assert!(
        address
            .to_string()
            .starts_with(prefix.split("::").next().unwrap()),
        "{address} {prefix}"
    );
    // The largest packet that fits is not fragmented, and comes back.
    let mtu = guest.must(&format!("cat /sys/class/net/{}/mtu", link.interface));
    let mtu: u32 = mtu.trim().parse().unwrap();
    ping(&mut guest, &format!("-M do -s {} {}", mtu - 28, link.remote));

    // Shown as any other session is.
    let id = session["id"].as_str().unwrap();
    let shown = case.gateway.json(&["sessions", "show", id]);
    assert_eq!(shown["facts"]["call_role"], "pac", "{shown}");
    let token = case.gateway.token(&["read"]);
    let established = "sluice_sessions{protocol=\"pptp\",state=\"established\"}";
    wait_for("the session in the metrics", Duration::from_secs(10), || {
        (case.gateway.metric(&token, established) == 1.0).then_some(())
    });
    wait_for("traffic in the metrics", Duration::from_secs(15), || {
        let bytes = case
            .gateway
            .metric(&token, "sluice_rx_bytes_total{protocol=\"pptp\"}");
        (bytes >= 3.0 * 1300.0).then_some(())
    });

    Pptp::hang_up(&mut guest);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["cause"], "user-request", "{ended}");
    let found = case.end(&[
        "pptp.control_message_type == 7",
        "pptp.control_message_type == 8",
        "pap.code == 2",
    ]);
    assert!(found.iter().all(|packets| packets.len() == 1), "{found:?}");
}

#[test]
fn a_wrong_password_gets_nowhere_and_sessions_end_from_both_sides() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    let mut guest = case.guest(50);
    let wrong = Pptp::new(Lab::GATEWAY, "alice", "wrong");
    wrong.start(&mut guest);
    Xl2tpd::wait_hung_up(&mut guest, 30);
    assert!(guest.read("pppd.log").contains("PAP authentication failed"));
    assert!(case.gateway.sessions().is_empty());
    // Nothing of it stands in the way of who knows it.
    let link = dial("alice").connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());

    // The gateway ends the session, and the client hears of it.
    let session = case.gateway.wait_session();
    case.gateway
        .must(&["sessions", "end", session["id"].as_str().unwrap()]);
    Xl2tpd::wait_hung_up(&mut guest, 20);
    let ended = case.gateway.wait_ended(&session);
    assert_eq!(ended["end"]["cause"], "admin-reset", "{ended}");

    // A client that is killed ends with its connection.
    dial("bob").connect(&mut guest);
    let session = case.gateway.wait_session();
    guest.run("pkill -KILL pptp; pkill -KILL pppd");
    case.gateway.wait_ended(&session);
    case.end(&[]);
}

/// A home network 192.168.77.0/24 whose router has the address 10.99.0.60 on the gateway's network, and tells PPTP
/// clients apart by their call ids, as routers do.
fn home(lab: &Lab) -> Namespace {
    let home = Namespace::new("home");
    home.join("out", &lab.edge, "home");
    lab.edge.ip("link set home master br0");
    home.ip("addr add 10.99.0.60/24 dev out");
    home.ip("link add br0 type bridge forward_delay 0");
    home.ip("addr add 192.168.77.1/24 dev br0");
    home.ip("link set br0 up");
    home.forward();
    home.nft(
        "add table ip home; add ct helper ip home pptp { type \"pptp\" protocol tcp; }; \
         add chain ip home in { type filter hook prerouting priority 0; }; \
         add rule ip home in tcp dport 1723 ct helper set \"pptp\"; \
         add chain ip home out { type nat hook postrouting priority srcnat; }; \
         add rule ip home out oifname out masquerade",
    );
    home
}

#[test]
fn two_clients_behind_one_address_are_told_apart() {
    let Some(mut case) = Case::start(&config("")) else {
        return;
    };
    let home = home(&case.lab);
    case.capture(&home, "out");
    let boot = |host| Guest::boot(&home, "br0", "192.168.77", host, Some("192.168.77.1"));
    let (mut first, mut second) = (boot(61), boot(62));
    let one = dial("alice").connect(&mut first);
    let two = dial("bob").connect(&mut second);
    assert_ne!(one.local, two.local);
    let sessions = case.gateway.sessions();
    let peers: BTreeSet<&str> = sessions
        .iter()
        .map(|session| session["peer"].as_str().unwrap())
        .collect();
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert!(
        peers.iter().all(|peer| peer.starts_with("10.99.0.60:")),
        "{peers:?}"
    );
    ping(&mut first, &one.remote.to_string());
    ping(&mut second, &two.remote.to_string());
    first.must(&format!("ip route add 10.64.0.0/24 dev {}", one.interface));
    second.must(&format!("ip route add 10.64.0.0/24 dev {}", two.interface));
    ping(&mut first, &two.local.to_string());
    Pptp::hang_up(&mut first);
    ping(&mut second, &two.remote.to_string());
    Pptp::hang_up(&mut second);
    case.end(&[]);
}
