//! The networks before and behind the gateway: NAT, the world beyond, IPv6 as outer transport.

use crate::case::{Case, PASSWORD, POOL, config, dial, ping};
use sluice_tests::rig::{Capture, Guest, Lab, Namespace, Running, Xl2tpd, wait_for};
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

/// A home network 192.168.77.0/24 whose router has the address 10.99.0.60 on the gateway's network.
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
        "add table ip home; add chain ip home out { type nat hook postrouting priority srcnat; }; \
         add rule ip home out oifname out masquerade",
    );
    home
}

#[test]
fn two_clients_behind_one_address_are_told_apart() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    let home = home(&case.lab);
    case.capture(&home, "out");
    let boot = |host| Guest::boot(&home, "br0", "192.168.77", host, Some("192.168.77.1"));
    let (mut first, mut second) = (boot(61), boot(62));
    dial("alice").start(&mut first);
    dial("bob").start(&mut second);
    let one = Xl2tpd::wait_up(&mut first, 30);
    let two = Xl2tpd::wait_up(&mut second, 30);
    assert_ne!(one.local, two.local);

    let sessions = wait_for("two established sessions", Duration::from_secs(10), || {
        let sessions = case.gateway.sessions();
        let up = sessions
            .iter()
            .filter(|session| session["state"] == "established");
        (up.count() == 2).then_some(sessions)
    });
    let peers: BTreeSet<&str> = sessions
        .iter()
        .map(|session| session["peer"].as_str().unwrap())
        .collect();
    assert_eq!(peers.len(), 2, "{peers:?}");
    assert!(
        peers.iter().all(|peer| peer.starts_with("10.99.0.60:")),
        "{peers:?}"
    );

    // Both at once, and from one to the other.
    let pings = |remote: &str| format!("ping -n -c 10 -i 0.2 -W 3 {remote}");
    let gateway = one.remote.to_string();
    let (a, b) = (first.start(&pings(&gateway)), second.start(&pings(&gateway)));
    for answer in [first.answer(a), second.answer(b)] {
        assert_eq!(answer.code, 0, "{}", answer.output);
        assert!(answer.output.contains(" 0% packet loss"), "{}", answer.output);
    }
    for (guest, link) in [(&mut first, &one), (&mut second, &two)] {
        guest.must(&format!("ip route add 10.64.0.0/24 dev {}", link.interface));
    }
    ping(&mut first, &two.local.to_string());

    Xl2tpd::stop(&mut first);
    wait_for("one session", Duration::from_secs(10), || {
        (case.gateway.sessions().len() == 1).then_some(())
    });
    ping(&mut second, &gateway);
    assert_eq!(case.gateway.wait_session()["user"], "bob");
    Xl2tpd::stop(&mut second);
    let recorded = case.end();
    let requests = recorded.must(0, "l2tp.avp.message_type == 1 && ip.src == 10.99.0.60");
    assert_eq!(requests.len(), 2, "{requests:?}");
}

/// What a host beyond the gateway sees of the pings of a client: its capture, ended.
fn seen_beyond(case: &Case, guest: &mut Guest, name: &str) -> std::path::PathBuf {
    let file = case.file(name);
    let capture = Capture::start(&case.lab.world, "up0", "icmp", &file);
    ping(guest, Lab::WORLD);
    capture.stop()
}

/// Routes of the gateway's namespace that lead to its TUN device, and its nftables.
fn left_on_host(lab: &Lab) -> String {
    let routes = lab.edge.ip("route show") + &lab.edge.ip("-6 route show");
    let ours = routes
        .lines()
        .filter(|line| line.contains("sluice0") || line.contains("10.64."));
    ours.collect::<Vec<_>>().join("\n") + &lab.edge.sh("nft list tables").unwrap()
}

#[test]
fn the_world_sees_a_clients_own_address() {
    let Some(mut case) = Case::start(&config("", POOL)) else {
        return;
    };
    case.lab.route_back("10.64.0.0/24");
    let mut guest = case.guest(50);
    let link = case.alice(&mut guest);
    guest.must(&format!("ip route add {} dev {}", Lab::WORLD, link.interface));
    let file = seen_beyond(&case, &mut guest, "world");
    let own = Capture::filter(&file, &format!("icmp.type == 8 && ip.src == {}", link.local));
    assert!(own.len() >= 3, "{own:?}");
    assert!(Capture::filter(&file, "icmp && ip.src == 198.51.100.1").is_empty());

    // What is not the client's own address goes nowhere.
    let session = case.gateway.wait_session();
    guest.must(&format!("ip addr add 10.64.0.250/32 dev {}", link.interface));
    let file = case.file("spoofed");
    let capture = Capture::start(&case.lab.world, "up0", "icmp", &file);
    let spoofed = guest.run(&format!("ping -n -c 3 -i 0.1 -W 1 -I 10.64.0.250 {}", Lab::WORLD));
    assert_ne!(spoofed.code, 0, "{}", spoofed.output);
    ping(&mut guest, Lab::WORLD);
    let file = capture.stop();
    assert!(Capture::filter(&file, "ip.src == 10.64.0.250").is_empty());
    let id = session["id"].as_str().unwrap();
    wait_for("the drops to be counted", Duration::from_secs(10), || {
        let shown = case.gateway.json(&["sessions", "show", id]);
        (shown["counters"]["dropped"].as_u64() >= Some(3)).then_some(())
    });

    Xl2tpd::stop(&mut guest);
    case.gateway.stop();
    assert_eq!(left_on_host(&case.lab), "");
}

#[test]
fn masquerade_shows_the_world_the_gateways_address() {
    // The table [network] is the last one of the common part.
    let tables = format!("masquerade = true\n{POOL}");
    let Some(mut case) = Case::start(&config("", &tables)) else {
        return;
    };
    let token = case.gateway.token(&["read"]);
    let mut guest = case.guest(50);
    let link = case.alice(&mut guest);
    guest.must(&format!("ip route add {} dev {}", Lab::WORLD, link.interface));
    let file = seen_beyond(&case, &mut guest, "world");
    let gateways = Capture::filter(&file, "icmp.type == 8 && ip.src == 198.51.100.1");
    assert!(gateways.len() >= 3, "{gateways:?}");
    assert!(Capture::filter(&file, "ip.src == 10.64.0.0/24").is_empty());
    wait_for(
        "masqueraded packets to be counted",
        Duration::from_secs(20),
        || (case.gateway.metric(&token, "sluice_nat_packets_total") >= 1.0).then_some(()),
    );
    Xl2tpd::stop(&mut guest);
    case.gateway.stop();
    assert_eq!(left_on_host(&case.lab), "");
}

#[test]
fn ipv6_carries_a_tunnel() {
    let only_ipv6 = config("", POOL).replace("\"10.99.0.1\", ", "");
    let Some(mut case) = Case::start(&only_ipv6) else {
        return;
    };
    // xl2tpd knows IPv4 alone, so a relay speaks IPv6 for it.
    case.lab.edge.ip("addr add 10.99.0.9/24 dev br0");
    let mut relay = case.lab.edge.command(env!("CARGO_BIN_EXE_relay"));
    relay
        .args(["udp", "10.99.0.9:1701", &format!("[{}]:1701", Lab::GATEWAY6)])
        .stdout(Stdio::null());
    let mut relay = Running::start(&mut relay, None);
    let mut guest = case.guest(50);
    let loopback = case.file("lo");
    let capture = Capture::start(&case.lab.edge, "lo", "ip6 and udp port 1701", &loopback);
    let link = Xl2tpd::new("10.99.0.9", "alice", PASSWORD).connect(&mut guest);
    ping(&mut guest, &link.remote.to_string());
    let [_, router] = link.wait_ipv6(&mut guest, 10);
    ping(&mut guest, &format!("-6 {router}%{}", link.interface));
    let session = case.gateway.wait_session();
    let local = session["local"].as_str().unwrap();
    assert_eq!(local, format!("[{}]:1701", Lab::GATEWAY6));
    assert!(relay.is_running());
    Xl2tpd::stop(&mut guest);
    case.gateway.wait_ended(&session);
    let file = capture.stop();
    Capture::assert_clean(&file);
    assert!(!Capture::filter(&file, "ipv6 && l2tp.avp.message_type == 2 && udp.checksum != 0").is_empty());
    case.end();
}
