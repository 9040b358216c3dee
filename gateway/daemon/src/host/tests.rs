use super::*;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

fn config() -> HostConfig {
    let blocks = ["10.64.0.0/16", "fdc6:51a3:9e07::/48"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    HostConfig {
        tun: "sl0".into(),
        mtu: 1400,
        gateways: vec!["10.64.0.1".parse().unwrap()],
        masquerade: blocks.clone(),
        blocks,
        masquerade_interfaces: Vec::new(),
        forwarding: Forwarding::Enable,
    }
}

/// A host with one way out and nothing of ours but the TUN device.
fn state() -> HostState {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mtu: 1500,
        up: index != 7,
    };
    let settings = [
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv6/conf/sl0/disable_ipv6", "0"),
        ("net/ipv6/conf/sl0/accept_ra", "1"),
        ("net/ipv6/conf/sl0/addr_gen_mode", "0"),
        ("net/ipv6/conf/eth0/accept_ra", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
    ];
    HostState {
        links: vec![link(1, "lo"), link(2, "eth0"), link(7, "sl0")],
        addresses: vec![address(2, "192.0.2.10", 24)],
        routes: vec![route("0.0.0.0/0", Some(2), 3), route("192.0.2.0/24", Some(2), 2)],
        settings: settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        masquerade: Ok(None),
        dropping_forward_chains: Vec::new(),
    }
}

fn address(link: u32, text: &str, length: u8) -> Address {
    Address {
        link,
        address: text.parse().unwrap(),
        length,
    }
}

fn route(prefix: &str, link: Option<u32>, protocol: u8) -> Route {
    Route {
        prefix: prefix.parse().unwrap(),
        link,
        protocol,
    }
}

fn words(config: &HostConfig, state: &HostState) -> Vec<String> {
    plan(config, state)
        .unwrap()
        .changes
        .iter()
        .map(Change::to_string)
        .collect()
}

fn notices(config: &HostConfig, state: &HostState) -> Vec<(Topic, String)> {
    plan(config, state)
        .unwrap()
        .notices
        .into_iter()
        .map(|notice| (notice.topic, notice.text))
        .collect()
}

#[test]
fn a_plan_says_in_plain_words_what_would_change() {
    assert_eq!(
        words(&config(), &state()),
        [
            "set net.ipv6.conf.sl0.addr_gen_mode from 0 to 1, so that its link-local address is the gateway's",
            "set net.ipv6.conf.sl0.accept_ra from 1 to 0, so that clients are no routers for this host",
            "set the MTU of sl0 from 1500 to 1400 bytes",
            "switch sl0 on",
            "add the address 10.64.0.1/32 to sl0",
            "add the address fe80::1/64 to sl0",
            "route 10.64.0.0/16 to sl0",
            "route fdc6:51a3:9e07::/48 to sl0",
            "set net.ipv4.ip_forward from 0 to 1, so that packets of clients are forwarded",
            "set net.ipv6.conf.all.forwarding from 0 to 1, so that packets of clients are forwarded",
            "masquerade 10.64.0.0/16, fdc6:51a3:9e07::/48 on all interfaces but sl0, by the nftables table inet sluice",
        ]
    );
    assert_eq!(notices(&config(), &state()), []);
}

#[test]
fn only_what_differs_is_changed() {
    let mut state = state();
    state.links[2] = Link {
        index: 7,
        name: "sl0".into(),
        mtu: 1400,
        up: true,
    };
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/sl0/accept_ra", "0"),
        ("net/ipv6/conf/sl0/addr_gen_mode", "1"),
    ] {
        state.settings.insert(key.into(), value.into());
    }
    state.addresses.push(address(7, "10.64.0.1", 32));
    state.addresses.push(address(7, "fe80::1", 64));
    state.routes.push(route("10.64.0.0/16", Some(7), plan_protocol()));
    state
        .routes
        .push(route("fdc6:51a3:9e07::/48", Some(7), plan_protocol()));
    state.masquerade = Ok(Some(true));
    assert_eq!(words(&config(), &state), [] as [&str; 0]);

    // What a former configuration left on the device goes; what others put there stays.
    state.addresses.push(address(7, "10.65.0.1", 32));
    state.routes.push(route("10.65.0.0/16", Some(7), plan_protocol()));
    state.routes.push(route("10.66.0.0/16", Some(7), 3));
    state.masquerade = Ok(Some(false));
    let mut config = config();
    config.masquerade.clear();
    assert_eq!(
        words(&config, &state),
        [
            "remove the address 10.65.0.1/32 from sl0",
            "remove the route for 10.65.0.0/16 to sl0",
            "remove the nftables table inet sluice",
        ]
    );
}

fn plan_protocol() -> u8 {
    route::OUR_PROTOCOL
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut state = state();
    state.addresses.push(address(2, "10.64.0.1", 24));
    state.addresses.push(address(2, "10.64.9.9", 32));
    state.routes.push(route("10.64.3.0/24", Some(2), 3));
    state.routes.push(route("fdc6:51a3:9e07::/48", None, 3));
    // A wider route of others is no conflict: ours is more specific.
    state.routes.push(route("10.0.0.0/8", Some(2), 3));
    let Err(HostError::Conflicts(conflicts)) = plan(&config(), &state) else {
        panic!("no conflict")
    };
    assert_eq!(
        conflicts,
        [
            "10.64.9.9 on eth0 lies in the pool's block 10.64.0.0/16; choose another block",
            "the gateway's address 10.64.0.1 is already on eth0; choose another for its pool",
            "the host has a route for 10.64.3.0/24 by eth0, which lies in the pool's block 10.64.0.0/16; remove the \
             route or choose another block",
            "the host has a route for fdc6:51a3:9e07::/48 to nowhere, which lies in the pool's block \
             fdc6:51a3:9e07::/48; remove the route or choose another block",
        ]
    );
}

#[test]
fn what_the_operator_should_know_is_said() {
    let mut config = config();
    config.forwarding = Forwarding::Check;
    let mut state = state();
    state
        .settings
        .insert("net/ipv4/conf/all/rp_filter".into(), "1".into());
    state.links.push(Link {
        index: 3,
        name: "eth1".into(),
        mtu: 1500,
        up: true,
    });
    state.routes.push(route("0.0.0.0/0", Some(3), 16));
    state.dropping_forward_chains.push("ip filter FORWARD".into());
    state.masquerade = Err("Protocol not supported".into());
    let said = notices(&config, &state);
    let topics: Vec<Topic> = said.iter().map(|(topic, _)| *topic).collect();
    assert_eq!(
        topics,
        [
            Topic::Forwarding,
            Topic::Forwarding,
            Topic::ReversePath,
            Topic::ReversePath,
            Topic::ReversePath,
            Topic::Masquerade,
            Topic::Firewall
        ],
        "{said:#?}"
    );
    assert!(said[0].1.contains("sysctl -w net.ipv4.ip_forward=1"));
    assert!(said[2].1.contains("sysctl -w net.ipv4.conf.sl0.rp_filter=2"));
    assert!(said[3].1.contains("eth0 is strict and this host has 2 ways out"));
    assert!(said[6].1.contains("ip filter FORWARD"));
    // Loose filters, even on one interface only, let everything through.
    state
        .settings
        .insert("net/ipv4/conf/eth0/rp_filter".into(), "2".into());
    assert_eq!(notices(&config, &state).len(), 6);
}

#[test]
fn forwarding_keeps_the_advertised_default_route() {
    let mut state = state();
    state.routes.push(route("::/0", Some(2), 9));
    let keep = "set net.ipv6.conf.eth0.accept_ra from 1 to 2, so that this host keeps its advertised default route \
                while it forwards";
    let changes = words(&config(), &state);
    let kept = changes.iter().position(|change| change == keep).unwrap();
    let forwards = changes
        .iter()
        .position(|change| change.contains("ipv6.conf.all.forwarding"))
        .unwrap();
    assert!(kept < forwards);
}

#[test]
fn a_host_without_ipv6_gets_none() {
    let mut state = state();
    state.settings.retain(|key, _| !key.contains("ipv6"));
    let changes = words(&config(), &state).join("\n");
    assert!(
        !changes.contains("fe80") && !changes.contains("route fdc6"),
        "{changes}"
    );
    assert_eq!(notices(&config(), &state)[0].0, Topic::Ipv6);
}

#[test]
fn the_configuration_gives_few_blocks_and_spares_global_addresses() {
    let mut pool = PoolConfig::new("a");
    pool.ipv4 = vec!["10.64.0.0/17".parse().unwrap(), "10.64.128.0/17".parse().unwrap()];
    pool.ipv6 = vec!["2001:db8:5::/48".parse().unwrap(), "fd00:1::/48".parse().unwrap()];
    let network = Network {
        tun: "sl0".into(),
        mtu: 1500,
        forwarding: Forwarding::Enable,
        masquerade: true,
        masquerade_interfaces: Vec::new(),
    };
    let config = HostConfig::new(&network, [&pool]);
    let texts = |blocks: &[IpPrefix]| blocks.iter().map(IpPrefix::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(&config.blocks),
        ["10.64.0.0/16", "2001:db8:5::/48", "fd00:1::/48"]
    );
    assert_eq!(texts(&config.masquerade), ["10.64.0.0/16", "fd00:1::/48"]);
    assert_eq!(config.gateways, [pool.gateway().map(IpAddr::V4).unwrap()]);
}

// ---- on a real kernel, in network namespaces of their own ----

/// Runs the calling test again in a network and mount namespace of its own, where this gives `true`.
fn in_namespace(test: &str) -> bool {
    const INSIDE: &str = "SLUICE_HOST_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: namespaces need root");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("host::tests::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: &str) -> Value {
    serde_json::from_str(&shell(command)).unwrap()
}

fn succeeds(command: &str) -> bool {
    Command::new("sh")
        .args(["-c", command])
        .output()
        .unwrap()
        .status
        .success()
}

/// A gateway between a client and the world, each in a namespace. What is the TUN device elsewhere is one end of a
/// veth pair here, so that the client can be a real one.
fn lay_out() {
    shell(
        "mkdir -p /run/netns; mount -t tmpfs sluice-keeper /run/netns
         ip link set lo up
         for n in client world; do
             ip netns add sluice-keeper-$n
             ip netns exec sluice-keeper-$n sysctl -qw net.ipv6.conf.default.accept_dad=0
             ip -n sluice-keeper-$n link set lo up
         done
         sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
         ip link add sl0 type veth peer cl0 netns sluice-keeper-client
         ip link add out0 type veth peer w0 netns sluice-keeper-world
         ip addr add 192.0.2.1/24 dev out0; ip addr add 2001:db8:1::1/64 dev out0 nodad; ip link set out0 up
         ip -n sluice-keeper-world addr add 192.0.2.2/24 dev w0
         ip -n sluice-keeper-world addr add 2001:db8:1::2/64 dev w0 nodad
         ip -n sluice-keeper-world link set w0 up
         ip -n sluice-keeper-client link set cl0 up
         ip -n sluice-keeper-client addr add 10.64.0.2/32 dev cl0
         ip -n sluice-keeper-client addr add fdc6:51a3:9e07::2/128 dev cl0 nodad
         ip -n sluice-keeper-client route add 10.64.0.1 dev cl0
         ip -n sluice-keeper-client route add default via 10.64.0.1
         ip -n sluice-keeper-client route add default via fe80::1 dev cl0",
    );
}

/// Whether one answer to an echo request comes within `seconds`.
fn ping(address: &str, seconds: u32) -> bool {
    succeeds(&format!(
        "ip netns exec sluice-keeper-client ping -n -c 1 -W {seconds} {address}"
    ))
}

/// Whether an address answers in the end: the kernel takes packets to an IPv6 address only some time after it was
/// added.
fn answers(address: &str) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !ping(address, 5) {
        if Instant::now() > end {
            return false;
        }
    }
    true
}

#[test]
fn a_client_reaches_the_world_through_a_masquerading_host() {
    if !in_namespace("a_client_reaches_the_world_through_a_masquerading_host") {
        return;
    }
    lay_out();
    let mut config = config();
    config.masquerade.clear();
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(answers("10.64.0.1"), "the gateway answers");
    assert!(!ping("192.0.2.2", 2), "the world knows no way back");

    // With masquerading the world sees the host's own address.
    config.masquerade = config.blocks.clone();
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(
        matches!(outcome.done.as_slice(), [Change::Masquerade(_)]),
        "{outcome:?}"
    );
    assert!(answers("192.0.2.2"));
    assert!(answers("2001:db8:1::2"));
    let counts = masquerade_counts().unwrap();
    let seen: Vec<(&str, bool)> = counts
        .iter()
        .map(|count| (count.block.as_str(), count.packets > 0))
        .collect();
    assert_eq!(seen, [("10.64.0.0/16", true), ("fdc6:51a3:9e07::/48", true)]);

    // A restart of the worker applies again: nothing changes, and the counters go on.
    assert!(apply(&config).unwrap().done.is_empty());
    assert_eq!(masquerade_counts().unwrap(), counts);

    let outcome = revert(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(!ping("192.0.2.2", 2));
    assert_eq!(shell("nft list ruleset"), "");
    assert_eq!(json("ip -j route show dev sl0"), Value::Array(Vec::new()));
    assert_eq!(masquerade_counts().unwrap(), []);
    assert!(
        revert(&config).unwrap().done.is_empty(),
        "nothing is left to take away"
    );
}

#[test]
fn the_host_looks_as_its_own_tools_see_it() {
    if !in_namespace("the_host_looks_as_its_own_tools_see_it") {
        return;
    }
    lay_out();
    // A table of ours that a crash left behind is replaced, and another's is left alone.
    shell("nft add table inet sluice; nft add chain inet sluice old; nft add table ip other");
    let mut config = config();
    config.masquerade_interfaces = vec!["out0".into(), "out1".into()];
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");

    let link = &json("ip -j addr show sl0")[0];
    assert_eq!(link["mtu"], 1400);
    assert!(link["flags"].as_array().unwrap().contains(&"UP".into()));
    let addresses: Vec<String> = link["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    assert_eq!(addresses, ["10.64.0.1/32", "fe80::1/64"]);
    let routes = json("ip -j route show dev sl0 proto 83");
    assert_eq!(
        (routes[0]["dst"].as_str(), routes.as_array().unwrap().len()),
        (Some("10.64.0.0/16"), 1)
    );
    assert_eq!(
        json("ip -j -6 route show dev sl0 proto 83")[0]["dst"],
        "fdc6:51a3:9e07::/48"
    );
    assert_eq!(
        shell("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding"),
        "1\n1\n"
    );

    let table = shell("nft -s list table inet sluice");
    let expected = [
        "type nat hook postrouting priority srcnat; policy accept;",
        "oifname \"out0\" jump clients comment \"out0\"",
        "oifname \"out1\" jump clients comment \"out1\"",
        "ip saddr 10.64.0.0/16 counter masquerade comment \"10.64.0.0/16\"",
        "ip6 saddr fdc6:51a3:9e07::/48 counter masquerade comment \"fdc6:51a3:9e07::/48\"",
    ];
    for line in expected {
        assert!(table.contains(line), "{line}\n{table}");
    }
    assert!(!table.contains("old"));
    let parsed = json("nft -j list table inet sluice");
    let rules = parsed["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item.get("rule").is_some());
    assert_eq!(rules.count(), 4);

    // Any prefix length, and as many rules as are allowed, go in one transaction.
    config.masquerade = (0..nft::MAX_RULES - 2)
        .map(|i| IpPrefix::new(Ipv4Addr::new(10, (i >> 8) as u8, i as u8, 0).into(), 25).unwrap())
        .collect();
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed[0].1);
    assert_eq!(masquerade_counts().unwrap().len(), nft::MAX_RULES - 2);
    assert!(shell("nft list table inet sluice").contains("ip saddr 10.3.253.0/25 "));
    config.masquerade.push("10.200.0.0/16".parse().unwrap());
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed[0].1.contains("use fewer blocks"), "{outcome:?}");
    assert_eq!(
        masquerade_counts().unwrap().len(),
        nft::MAX_RULES - 2,
        "the table there is untouched"
    );

    revert(&config).unwrap();
    assert_eq!(shell("nft list ruleset"), "table ip other {\n}\n");
}

#[test]
fn the_state_of_a_real_host_is_read() {
    if !in_namespace("the_state_of_a_real_host_is_read") {
        return;
    }
    lay_out();
    shell(
        "ip route add default via 192.0.2.2; ip route add blackhole 10.64.7.0/24
         sysctl -qw net.ipv4.conf.all.rp_filter=1
         nft add table ip filter
         nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
         nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'",
    );
    let config = config();
    let Err(HostError::Conflicts(conflicts)) = apply(&config) else {
        panic!("no conflict")
    };
    assert!(conflicts[0].contains("10.64.7.0/24 to nowhere"), "{conflicts:?}");
    shell("ip route del blackhole 10.64.7.0/24; ip addr add 10.64.0.1/32 dev out0");
    let Err(HostError::Conflicts(conflicts)) = apply(&config) else {
        panic!("no conflict")
    };
    assert!(
        conflicts[0].contains("10.64.0.1 is already on out0"),
        "{conflicts:?}"
    );
    shell("ip addr del 10.64.0.1/32 dev out0");
    let outcome = apply(&config).unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    assert!(
        outcome.notices[0].text.contains("ip filter FORWARD"),
        "{outcome:?}"
    );
    assert_eq!(outcome.notices.len(), 1);
    assert_eq!(shell("sysctl -n net.ipv4.conf.sl0.rp_filter"), "2\n");

    // Where settings cannot be written, the failure says what to run.
    shell("sysctl -qw net.ipv4.ip_forward=0; mount -o bind,ro /proc/sys /proc/sys");
    let outcome = apply(&config).unwrap();
    assert!(
        outcome.failed[0]
            .1
            .contains("run `sysctl -w net.ipv4.ip_forward=1`"),
        "{outcome:?}"
    );

    // Without the TUN device each change that needs it says so, and the rest is done.
    let mut other = config.clone();
    other.tun = "none0".into();
    shell("ip link del sl0");
    let outcome = apply(&other).unwrap();
    assert!(
        outcome
            .failed
            .iter()
            .any(|(_, reason)| reason == "there is no interface none0")
    );
    assert!(
        outcome
            .done
            .iter()
            .any(|change| matches!(change, Change::Masquerade(_)))
    );
}

#[test]
fn without_the_capability_one_line_says_so() {
    if !in_namespace("without_the_capability_one_line_says_so") {
        return;
    }
    assert_eq!(obstacle(), None);
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_ADMIN);
    rustix::thread::set_capabilities(None, sets).unwrap();
    assert!(obstacle().unwrap().starts_with("no CAP_NET_ADMIN: "));
    // A dry run still shows what would be done.
    let plan = plan(&config(), &inspect(&config()).unwrap()).unwrap();
    assert!(
        plan.changes
            .iter()
            .any(|change| matches!(change, Change::Masquerade(_)))
    );
    assert!(
        plan.changes
            .iter()
            .any(|change| matches!(change, Change::AddRoute { .. }))
    );
}
