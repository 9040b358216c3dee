//! The way out of the gateway and the proxies in front of it, with programs that others wrote.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod case;

use case::{BASE, Case, LIMIT, OWN_WEB, connect};
use sluice_tests::rig::{sh, wait_for};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

/// A client's greeting and request for the file, and the rest that follows a good header.
const REQUEST: &[u8] = b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x40GET /file HTTP/1.0\r\n\r\n";

/// A header of version 2 for 203.0.113.7:4000, with a TLV of no meaning.
const VERSION_2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\xcb\x00\x71\x07\x7f\x00\x00\x01\x0f\xa0\x04\x38\xee\x00\x01x";

#[test]
fn the_client_that_a_trusted_proxy_names_is_the_client() {
    let rules = r#"
[[rule]]
name = "friends"
action = "allow"
clients = ["203.0.113.7", "127.0.0.20"]
destinations = ["127.0.0.1"]
ports = ["8000"]
"#;
    let Some(case) = Case::start(rules) else { return };
    let token = case.gateway.token(&["read"]);
    let served = |told: &[u8]| told.ends_with(b"hello");
    let pieces: Vec<&[u8]> = VERSION_2.chunks(1).chain(REQUEST.chunks(1)).collect();
    let at_once = [VERSION_2, REQUEST].concat();
    let version_1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 4000 1080\r\n";
    for said in [pieces, vec![&at_once[..]], vec![&version_1[..], REQUEST]] {
        let told = case.say("127.0.0.20", &said);
        assert!(served(&told), "{told:?}\n{}", case.gateway.log());
        assert_eq!(case.last()["peer"], "203.0.113.7:4000", "{}", case.last());
    }
    // Those who speak for themselves.
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        assert!(served(&case.say("127.0.0.20", &[header, REQUEST])));
        assert!(
            case.last()["peer"].as_str().unwrap().starts_with("127.0.0.20:"),
            "{}",
            case.last()
        );
    }
    // Another client that the proxy names may not.
    let other = b"PROXY TCP4 203.0.113.8 127.0.0.1 4000 1080\r\n";
    let told = case.say("127.0.0.20", &[other, REQUEST]);
    assert_eq!(told.get(..4), Some(&b"\x05\x00\x05\x02"[..]));
    // Nobody else may name anybody, and who must do so has to.
    assert!(case.say("127.0.0.21", &[VERSION_2, REQUEST]).is_empty());
    assert!(case.say("127.0.0.20", &[REQUEST]).is_empty());
    assert!(
        case.say("127.0.0.20", &[b"PROXY TCP4 203.0.113.7\r\n", REQUEST])
            .is_empty()
    );
    let drops = |reason| {
        case.metric(
            &token,
            &format!("sluice_packets_dropped_total{{protocol=\"socks\",reason=\"{reason}\"}}"),
        )
    };
    assert_eq!(drops("bad_version"), 1.0);
    assert_eq!(drops("proxy_header_signature"), 1.0);
    assert_eq!(drops("proxy_header_line"), 1.0);
    // One that says nothing has its time.
    let silent = case
        .namespace
        .inside(|| connect("127.0.0.20:0".parse().unwrap(), "127.0.0.1:1080".parse().unwrap()));
    wait_for("a header to be late", LIMIT, || {
        (drops("proxy_header_timeout") == 1.0).then_some(())
    });
    drop(silent);
}

#[test]
fn haproxy_in_front_tells_who_the_client_is() {
    let Some(case) = Case::start(OWN_WEB) else { return };
    for (version, port) in [("send-proxy", 1081), ("send-proxy-v2", 1082)] {
        let config = case.write(
            &format!("haproxy-{port}.cfg"),
            &format!(
                "global\n  log stdout local0 err\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  \
                 timeout server 20s\nlisten socks\n  bind 127.0.0.1:{port}\n  server gateway 127.0.0.1:1080 \
                 {version} source 127.0.0.20\n"
            ),
        );
        let _haproxy = case.serve(port, "haproxy", &["-f", &config]);
        let proxy = format!("socks5h://127.0.0.1:{port}");
        let (code, text, said) = case.curl(&[
            "--interface",
            "127.0.0.77",
            "-x",
            &proxy,
            "http://web.test:8000/file",
        ]);
        assert_eq!(
            (code, text.as_str()),
            (0, "hello"),
            "{said}\n{}",
            case.gateway.log()
        );
        let peer = case.last()["peer"].as_str().unwrap().to_owned();
        assert!(peer.starts_with("127.0.0.77:"), "{peer}");
    }
}

#[test]
fn destinations_are_told_who_the_client_is() {
    let rules = r#"
[[rule]]
name = "told"
action = "allow"
destinations = ["127.0.0.1"]
ports = ["9000"]
send_proxy = "v1"
connect_timeout = "3s"
"#;
    let Some(case) = Case::start(rules) else { return };
    let target = case
        .namespace
        .inside(|| TcpListener::bind("127.0.0.1:9000").unwrap());
    let request = b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x23\x28early";
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| case.say("127.0.0.50", &[request]));
        let (mut stream, _) = target.accept().unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        stream.write_all(b"bye").unwrap();
        drop(stream);
        assert!(asked.join().unwrap().ends_with(b"bye"));
        said
    });
    let (header, rest) = answer.split_once("\r\n").unwrap();
    assert!(header.starts_with("PROXY TCP4 127.0.0.50 127.0.0.1 "), "{header}");
    assert!(header.ends_with(" 1080"), "{header}");
    assert_eq!(rest, "early");
}

/// Names that the gateway itself does not know go to these upstreams.
const UPSTREAMS: &str = r#"
[[upstream]]
name = "microsocks"
protocol = "socks5"
servers = ["127.0.0.1:1090"]
user = "me"
password = "secret"

[[upstream]]
name = "tinyproxy"
protocol = "http"
servers = ["127.0.0.1:1091"]

[[upstream]]
name = "chain"
protocol = "http"
servers = ["127.0.0.1:1091"]
through = "microsocks"

[[upstream]]
name = "dante"
protocol = "socks5"
servers = ["127.0.0.1:1092"]
remote_names = false

[[upstream]]
name = "gone"
protocol = "socks5"
servers = ["127.0.0.1:1099"]

[[rule]]
name = "by-tinyproxy"
action = "allow"
clients = ["127.0.0.51"]
domains = ["localhost"]
upstream = "tinyproxy"

[[rule]]
name = "by-both"
action = "allow"
clients = ["127.0.0.52"]
domains = ["localhost"]
upstream = "chain"

[[rule]]
name = "by-microsocks"
action = "allow"
commands = ["connect"]
domains = ["localhost"]
ports = ["8000", "9"]
upstream = "microsocks"

[[rule]]
name = "by-dante"
action = "allow"
domains = ["web.test"]
destinations = ["127.0.0.1"]
upstream = "dante"

[[rule]]
name = "by-none"
action = "allow"
domains = ["gone.test"]
upstream = "gone"
"#;

#[test]
fn upstreams_are_given_names_and_what_they_say_is_passed_on() {
    let Some(case) = Case::start(UPSTREAMS) else {
        return;
    };
    let token = case.gateway.token(&["read"]);
    // Each looks names up by the host's own file.
    let _microsocks = case.serve(
        1090,
        "microsocks",
        &["-i", "127.0.0.1", "-p", "1090", "-u", "me", "-P", "secret"],
    );
    let tinyproxy = case.write(
        "tinyproxy.conf",
        "Port 1091\nListen 127.0.0.1\nTimeout 20\nAllow 127.0.0.1\nConnectPort 8000\n",
    );
    let _tinyproxy = case.serve(1091, "tinyproxy", &["-d", "-c", &tinyproxy]);
    let dante = case.write(
        "danted.conf",
        "internal: 127.0.0.1 port = 1092\nexternal: 127.0.0.1\nclientmethod: none\nsocksmethod: none\n\
         user.privileged: root\nuser.unprivileged: nobody\n\
         client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n\
         socks block { from: 0.0.0.0/0 to: 0.0.0.0/0 port = 9 }\n\
         socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n",
    );
    let _dante = case.serve(1092, "danted", &["-f", &dante]);
    // Had the gateway looked it up, it would have found a loopback address, which no rule opens.
    let url = "http://localhost:8000/file";
    case.must_get(url);
    for client in ["127.0.0.51", "127.0.0.52"] {
        let (code, text, said) = case.curl(&["--interface", client, "-x", "socks5h://127.0.0.1:1080", url]);
        assert_eq!(
            (code, text.as_str()),
            (0, "hello"),
            "{client}: {said}\n{}",
            case.gateway.log()
        );
    }
    case.must_get("http://web.test:8000/file");
    let connects = |result| {
        case.metric(
            &token,
            &format!("sluice_egress_connects_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!(connects("ok"), 4.0);
    // curl names the code in its message: 5 from microsocks, 2 from Dante, and 1 where nobody is there.
    assert_eq!(case.refused("http://localhost:9/"), "5");
    assert_eq!(case.refused("http://web.test:9/"), "2");
    assert_eq!(case.refused("http://gone.test/"), "1");
    assert_eq!(connects("upstream"), 1.0);
    let fault = "sluice_egress_upstream_faults_total{reason=\"upstream_unreachable\"}";
    assert_eq!(case.metric(&token, fault), 1.0);
    // What no rule leads to an upstream by its own words has its addresses checked.
    assert_eq!(case.refused("http://127.0.0.1:8000/file"), "2");
}

#[test]
fn a_changed_way_out_is_taken_without_a_restart() {
    let Some(case) = Case::start(OWN_WEB) else { return };
    case.must_get("http://web.test:8000/file");
    assert_eq!(case.refused("http://other.test:8000/file"), "4");
    // Connections stay as they are.
    let mut kept = case.namespace.inside(|| {
        let mut stream = connect("127.0.0.1:0".parse().unwrap(), "127.0.0.1:1080".parse().unwrap());
        stream.write_all(&REQUEST[..13]).unwrap();
        let mut told = [0; 12];
        stream.read_exact(&mut told).unwrap();
        assert_eq!(told[..4], [5, 0, 5, 0]);
        stream
    });
    std::fs::create_dir(case.gateway.directory().join("state/other")).unwrap();
    case.write("state/other/hosts", "127.0.0.1 other.test\n");
    let config = format!("{BASE}{OWN_WEB}").replace("{dir}/names/hosts", "{dir}/state/other/hosts");
    let _microsocks = case.serve(1090, "microsocks", &["-i", "127.0.0.1", "-p", "1090"]);
    let upstream = "\n[[upstream]]\nname = \"up\"\nprotocol = \"socks5\"\nservers = [\"127.0.0.1:1090\"]\n\
                    [[rule]]\nname = \"up\"\naction = \"allow\"\ndomains = [\"localhost\"]\nupstream = \"up\"\n";
    case.gateway.configure(&format!("{config}{upstream}"));
    let said = case.gateway.must(&["reload"]);
    assert!(!said.contains("restart"), "{said}");
    case.must_get("http://other.test:8000/file");
    case.must_get("http://localhost:8000/file");
    assert_eq!(case.refused("http://web.test:8000/file"), "4");
    kept.write_all(&REQUEST[13..]).unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    // A file that the sandbox keeps away is left for the next worker.
    let beyond = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(beyond.path().join("hosts"), "127.0.0.1 beyond.test\n").unwrap();
    let path = beyond.path().join("hosts").display().to_string();
    case.gateway
        .configure(&format!("{BASE}{OWN_WEB}").replace("{dir}/names/hosts", &path));
    let said = case.gateway.cli(&["reload"]).unwrap_or_else(|error| error);
    let confined = case.gateway.json(&["status"])["sandbox"]
        .as_array()
        .is_some_and(|layers| {
            layers
                .iter()
                .any(|layer| layer["name"] == "landlock" && layer["on"] == true)
        });
    if confined {
        assert!(said.contains("until a restart"), "{said}");
        case.must_get("http://other.test:8000/file");
    } else {
        case.must_get("http://beyond.test:8000/file");
    }
}

#[test]
fn names_are_read_anew_when_their_file_is_replaced() {
    let Some(mut case) = Case::start(OWN_WEB) else {
        return;
    };
    case.must_get("http://web.test:8000/file");
    case.write("names/new", "127.0.0.1 new.test\n");
    let names = case.gateway.directory().join("names");
    std::fs::rename(names.join("new"), names.join("hosts")).unwrap();
    let get = |case: &Case| {
        let (code, text, _) = case.curl(&["-x", "socks5h://127.0.0.1:1080", "http://new.test:8000/file"]);
        (code == 0 && text == "hello").then_some(())
    };
    wait_for("the new name", LIMIT, || get(&case));
    // As the sandbox of the next worker has it too.
    case.gateway.restart();
    case.must_get("http://new.test:8000/file");
}

#[test]
fn datagrams_go_by_the_way_of_their_rule_and_never_past_an_upstream() {
    let rules = r#"
[[upstream]]
name = "up"
protocol = "socks5"
servers = ["127.0.0.1:1090"]

[[rule]]
name = "one"
action = "allow"
commands = ["udp"]
destinations = ["127.0.0.1"]
ports = ["5001"]
source_ipv4 = "127.0.0.61"
idle_timeout = "2s"

[[rule]]
name = "two"
action = "allow"
commands = ["udp"]
destinations = ["127.0.0.1"]
ports = ["5002"]
source_ipv4 = "127.0.0.62"
interface = "lo"
fwmark = 7
idle_timeout = "1s"

[[rule]]
name = "through"
action = "allow"
commands = ["udp"]
destinations = ["127.0.0.1"]
ports = ["5003"]
upstream = "up"
"#;
    let Some(case) = Case::start(rules) else { return };
    let token = case.gateway.token(&["read"]);
    case.namespace.inside(|| {
        let targets = [5001, 5002, 5003].map(|port| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        });
        let mut control = connect("127.0.0.1:0".parse().unwrap(), "127.0.0.1:1080".parse().unwrap());
        control
            .write_all(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0")
            .unwrap();
        let mut told = [0; 12];
        control.read_exact(&mut told).unwrap();
        assert_eq!(told[..6], [5, 0, 5, 0, 0, 1]);
        let port = u16::from_be_bytes([told[10], told[11]]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        let send = |port: u16| {
            let packet = [&[0, 0, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes(), b"x"].concat();
            client.send(&packet).unwrap();
        };
        let drops = || {
            let series = "sluice_packets_dropped_total{protocol=\"socks\",reason=\"upstream\"}";
            case.metric(&token, series)
        };
        send(5003);
        let mut buffer = [0; 10];
        for (target, source) in targets.iter().zip(["127.0.0.61", "127.0.0.62"]) {
            send(target.local_addr().unwrap().port());
            let (length, from) = target.recv_from(&mut buffer).unwrap();
            assert_eq!(
                (&buffer[..length], from.ip().to_string().as_str()),
                (&b"x"[..], source)
            );
        }
        // The association ends by the idle time of its most patient rule, and its connection with it.
        let mut rest = Vec::new();
        assert_eq!(control.read_to_end(&mut rest).unwrap(), 0);
        let ended = case.last();
        assert_eq!(ended["end"]["cause"], "idle-timeout", "{ended}");
        assert_eq!(ended["counters"]["rx_packets"], 2, "{ended}");
        wait_for("the drop to be counted", LIMIT, || (drops() == 1.0).then_some(()));
        targets[2].set_nonblocking(true).unwrap();
        assert!(
            targets[2].recv(&mut buffer).is_err(),
            "it was sent past the upstream"
        );
    });
    let bytes = "sluice_rx_bytes_total{protocol=\"socks\"}";
    assert_eq!(case.metric(&token, bytes), 2.0);
}

#[test]
fn a_client_whose_datagrams_all_belong_to_an_upstream_gets_no_relay() {
    let rules = r#"
[[upstream]]
name = "up"
protocol = "socks5"
servers = ["127.0.0.1:1090"]

[[rule]]
name = "all"
action = "allow"
upstream = "up"
"#;
    let Some(case) = Case::start(rules) else { return };
    for command in [2, 3] {
        let told = case.say(
            "127.0.0.1",
            &[b"\x05\x01\x00\x05", &[command], b"\x00\x01\0\0\0\0\0\0"],
        );
        assert_eq!(
            told.get(..4),
            Some(&[5, 0, 5, 2][..]),
            "command {command}: {told:?}"
        );
    }
}

#[test]
fn first_bytes_go_with_the_syn_where_that_is_wanted() {
    let rules = r#"
[[listener]]
name = "inner"
protocol = "socks"
addresses = ["127.0.0.1:1081"]
fast_open = true
[listener.socks]
methods = ["none"]
no_auth_from = ["127.0.0.0/8"]

[[upstream]]
name = "inner"
protocol = "socks5"
servers = ["127.0.0.1:1081"]
fast_open = true

[[rule]]
name = "out"
action = "allow"
listeners = ["inner"]
destinations = ["127.0.0.1"]
ports = ["8000"]

[[rule]]
name = "in"
action = "allow"
listeners = ["socks"]
domains = ["web.test"]
upstream = "inner"
"#;
    let Some(case) = Case::start(rules) else { return };
    case.namespace.sh("sysctl -qw net.ipv4.tcp_fastopen=3").unwrap();
    let counted = |name: &str| {
        let text = case.namespace.sh("cat /proc/net/netstat").unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut both = names.split(' ').zip(values.split(' '));
        both.find(|(known, _)| *known == name)
            .unwrap()
            .1
            .parse::<u64>()
            .unwrap()
    };
    // The first connection brings the cookie that the others need.
    for _ in 0..3 {
        case.must_get("http://web.test:8000/file");
    }
    assert_eq!(
        (counted("TCPFastOpenActive"), counted("TCPFastOpenPassive")),
        (2, 2)
    );
}

#[test]
fn a_gateway_without_descriptors_left_says_so_and_goes_on_later() {
    let Some(case) = Case::start(OWN_WEB) else { return };
    let token = case.gateway.token(&["read"]);
    let keeper = case.gateway.pid();
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    let worker = children.split_whitespace().next().unwrap().to_owned();
    let open = || std::fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
    let before = open();
    let limit = |limit: usize| {
        sh(&format!("prlimit --pid {worker} --nofile={limit}:")).unwrap();
    };
    limit(before + 4);
    let to = "127.0.0.1:1080".parse().unwrap();
    let held: Vec<_> = case.namespace.inside(|| {
        (0..20)
            .map(|_| connect("127.0.0.1:0".parse().unwrap(), to))
            .collect()
    });
    wait_for("all descriptors to be in use", LIMIT, || {
        case.gateway
            .log()
            .contains("no connection is accepted for now")
            .then_some(())
    });
    // Those that wait are served as soon as there is room: none is lost.
    limit(4096);
    for mut stream in held {
        stream.write_all(REQUEST).unwrap();
        let mut told = Vec::new();
        stream.read_to_end(&mut told).unwrap();
        assert!(told.ends_with(b"hello"), "{told:?}");
    }
    let failed = "sluice_packets_dropped_total{protocol=\"socks\",reason=\"accept_failed\"}";
    assert!(case.metric(&token, failed) >= 1.0);
    case.must_get("http://web.test:8000/file");
}
