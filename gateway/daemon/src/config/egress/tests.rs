use super::*;
use crate::config::testing::MODULES;
use crate::config::{Config, Problem, changes};

const SMALL: &str = "[[listener]]\nprotocol = \"echo\"\naddresses = [\"127.0.0.1\"]\n";

fn parse(text: &str) -> Config {
    Config::parse("a.toml", &format!("{SMALL}{text}"), MODULES).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems of a text that begins behind line 3.
fn problems(text: &str) -> Vec<String> {
    let error = Config::parse("a.toml", &format!("{SMALL}{text}"), MODULES).unwrap_err();
    error.problems().iter().map(Problem::to_string).collect()
}

#[test]
fn nothing_said_is_the_default() {
    let egress = parse("").egress;
    assert_eq!(egress.config, EgressConfig::default());
    assert_eq!(egress.timeouts, Timeouts::DEFAULT);
    assert_eq!((egress.bind_ports, egress.external_ipv4), (None, None));
}

#[test]
fn everything_said_is_read() {
    let egress = parse(
        r#"[egress]
ipv6 = false
prefer = "ipv4"
attempt_delay = "100ms"
overall_timeout = "20s"
external_ipv4 = "192.0.2.1"
bind_ports = "40000-40009"
udp_ports = "5000"
[egress.resolver]
servers = ["192.0.2.53", "2001:db8::53", "[2001:db8::53]:5353"]
hosts = false
cache = 10
[[upstream]]
name = "a"
protocol = "http"
servers = ["proxy.example:3128", "192.0.2.1:8080", "[2001:db8::1]:8080"]
user = "me"
password = "secret"
through = "b"
remote_names = false
source_ipv4 = "192.0.2.9"
interface = "eth0"
fwmark = 7
send_proxy = "v2"
fast_open = true
reply_timeout = "10s"
[[upstream]]
name = "b"
protocol = "socks5"
servers = ["192.0.2.2:1080"]
[[rule]]
name = "all"
action = "allow"
upstream = "a"
"#,
    )
    .egress;
    assert!(egress.config.ipv4 && !egress.config.ipv6);
    assert_eq!(egress.config.eyeballs.first, IpFamily::V4);
    assert_eq!(egress.config.eyeballs.attempt_delay, 100 * MS);
    assert_eq!(egress.timeouts.overall, 20 * SECOND);
    assert_eq!(egress.external_ipv4, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(egress.bind_ports, Some(Ports(40000..=40009)));
    assert_eq!(egress.udp_ports, Some(Ports(5000..=5000)));
    let servers = ["192.0.2.53:53", "[2001:db8::53]:53", "[2001:db8::53]:5353"];
    let servers = servers.map(|server| server.parse().unwrap()).to_vec();
    assert_eq!(egress.config.resolver.servers, NameServers::Listed(servers));
    assert_eq!(
        (egress.config.resolver.hosts, egress.config.resolver.cache),
        (None, 10)
    );
    let [a, b] = egress.config.upstreams.as_slice() else {
        panic!()
    };
    let hosts: Vec<String> = a.servers.iter().map(ToString::to_string).collect();
    assert_eq!(
        hosts,
        ["proxy.example:3128", "192.0.2.1:8080", "[2001:db8::1]:8080"]
    );
    assert_eq!(a.speaks, Speaks::Http);
    assert_eq!(a.login.as_ref().map(|login| login.user.as_str()), Some("me"));
    assert_eq!(a.through.as_deref(), Some("b"));
    assert!(!a.remote_names && a.fast_open);
    assert_eq!((a.way.mark, a.way.header), (Some(7), Some(Version::V2)));
    assert_eq!(a.reply_timeout, 10 * SECOND);
    assert_eq!(
        (b.speaks, b.remote_names, b.login.is_none()),
        (Speaks::Socks5, true, true)
    );
}

#[test]
fn all_problems_are_listed_at_once() {
    let found = problems(
        r#"[policy]
upstream = "gone"
[egress]
ipv4 = false
ipv6 = false
attempt_delay = "5ms"
bind_ports = "9-1"
udp_ports = "0-9"
external_ipv4 = "::1"
atempt_delay = "1s"
[egress.resolver]
servers = []
least_ttl = "2h"
[[upstream]]
name = "direct"
protocol = "http"
servers = ["2001:db8::1:80", "a.example", "0x7f.1:80", "a.example:0"]
user = "a:b"
password = "x"
[[upstream]]
name = "a"
protocol = "gopher"
servers = ["192.0.2.1:1"]
user = "me"
through = "a"
interface = "much too long a name"
[[upstream]]
name = "a"
servers = ["192.0.2.1:1"]
protocol = "http"
through = "nobody"
password = "x"
[[upstream]]
[[rule]]
name = "r"
action = "allow"
upstream = "lost"
"#,
    );
    let wanted = [
        "a.toml:4:1: policy: names an upstream that there is not: \"gone\"",
        "a.toml:7:8: egress.ipv4: must be true where ipv6 is false: there is no way out otherwise",
        "a.toml:9:17: egress.attempt_delay: must be a duration such as \"5s\" from 10ms to 2s, not \"5ms\"",
        "a.toml:10:14: egress.bind_ports: must be a range of ports such as \"40000-49999\", not \"9-1\"",
        "a.toml:11:13: egress.udp_ports: must be a range of ports such as \"40000-49999\", not \"0-9\"",
        "a.toml:12:17: egress.external_ipv4: must be an IPv4 address, not \"::1\"",
        "a.toml:13:1: egress.atempt_delay: is not a key of this table; did you mean attempt_delay?",
    ];
    assert_eq!(found[..wanted.len()], wanted);
    for part in [
        "egress.resolver.servers: must not be empty",
        "egress.resolver.least_ttl: may not be over longest_ttl",
        "upstream[0].name: must not be \"direct\"",
        "upstream[0].servers: must be a server with its port such as \"proxy.example:1080\" or \"[2001:db8::1]:1080\", not \"2001:db8::1:80\"",
        "not \"a.example\"",
        "not \"0x7f.1:80\"",
        "not \"a.example:0\"",
        "upstream[0].user: user and password must be",
        "upstream[1].protocol: must be one of socks5, http, not \"gopher\"",
        "upstream[1].user: needs password",
        "upstream[1].through: it is reached through itself",
        "upstream[1].interface: must be 1 to 15",
        "upstream[2].name: another upstream has this name",
        "upstream[2].through: there is no upstream \"nobody\"",
        "upstream[2].password: needs user as well",
        "upstream[3].name: is missing",
        "upstream[3].protocol: is missing",
        "upstream[3].servers: is missing",
        "rule: the one in line 37 names an upstream that there is not: \"lost\"",
    ] {
        assert!(
            found.iter().any(|problem| problem.contains(part)),
            "{part}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), wanted.len() + 19, "{found:#?}");
}

#[test]
fn the_order_of_upstreams_makes_no_difference() {
    let table = |name: &str, port: u16| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nprotocol = \"http\"\nservers = [\"192.0.2.1:{port}\"]\npassword = \"p\"\nuser = \"u\"\n"
        )
    };
    let (one, other) = (table("a", 1) + &table("b", 2), table("b", 2) + &table("a", 1));
    assert!(changes(&parse(&one), &parse(&other)).is_empty());
    let moved = changes(&parse(&one), &parse(&(table("a", 1) + &table("b", 3))));
    let keys: Vec<&str> = moved.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["upstream.b.servers"]);
    assert!(!format!("{:?}", parse(&one).egress).contains("\"p\""));
}
