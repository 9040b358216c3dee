//! How targets are reached for clients: `[egress]`, `[egress.resolver]` and `[[upstream]]`.

use super::listeners::{NAME_RULE, is_name};
use super::sections::{INTERFACE_RULE, is_interface, size};
use sluice_auth::Host;
use sluice_auth::policy::{Policy, Upstream as Taken};
use sluice_egress::proxy_protocol::Version;
use sluice_egress::{
    EgressConfig, Eyeballs, IpFamily, Login, NameServers, ResolverConfig, Speaks, Timeouts, Upstream, Way,
    Wrong, check,
};
use sluice_spi::Target;
use sluice_spi::config::Section;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Longest that a client can be let wait for anything.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Most upstreams.
const MAX_UPSTREAMS: usize = 256;

/// Most name servers that can be listed. A look-up asks two at once.
const MAX_NAME_SERVERS: usize = 8;

/// Most names that can be remembered: some hundred bytes each.
const MAX_CACHE: u64 = 4 << 20;

/// How targets are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Families, names and upstreams.
    pub config: EgressConfig,
    /// How long the steps may take, where policy does not say otherwise.
    pub timeouts: Timeouts,
    /// The IPv4 address that clients and their peers are told, in place of that of the socket.
    pub external_ipv4: Option<Ipv4Addr>,
    /// The IPv6 address that clients and their peers are told, in place of that of the socket.
    pub external_ipv6: Option<Ipv6Addr>,
    /// The ports that wait for connections of peers; `None`: whatever the system gives.
    pub bind_ports: Option<Ports>,
    /// The ports that clients send datagrams to; `None`: whatever the system gives.
    pub udp_ports: Option<Ports>,
}

/// A range of ports: `40000-49999`, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| match text.parse() {
            Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(()),
        };
        let ports = port(first)?..=port(last)?;
        if ports.is_empty() {
            Err(())
        } else {
            Ok(Self(ports))
        }
    }
}

const PORTS: &str = "a range of ports such as \"40000-49999\"";

/// A server of an upstream: `proxy.example:1080`, `192.0.2.1:1080` or `[2001:db8::1]:1080`.
struct Server(Target);

impl FromStr for Server {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        // Without brackets nobody can tell where an IPv6 address ends.
        if host.contains(':') && !host.starts_with('[') {
            return Err(());
        }
        let host = Host::parse(host.as_bytes()).map_err(|_| ())?;
        let port = port.parse().map_err(|_| ())?;
        if port == 0 {
            Err(())
        } else {
            Ok(Self(Target { host, port }))
        }
    }
}

/// A name server: an address, with or without a port.
struct NameServer(SocketAddr);

impl FromStr for NameServer {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        const DNS: u16 = 53;
        let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS));
        bare.or_else(|_| text.parse()).map(Self).map_err(|_| ())
    }
}

/// Reads all tables. `policy` is what may name the upstreams.
pub(super) fn read(root: &Section<'_>, policy: &Policy) -> Egress {
    let section = root.section("egress");
    let (ipv4, ipv6) = (section.boolean("ipv4", true), section.boolean("ipv6", true));
    if !ipv4 && !ipv6 {
        section.report(
            "ipv4",
            "must be true where ipv6 is false: there is no way out otherwise",
        );
    }
    let upstreams = read_upstreams(root);
    report_unknown(root, policy, &upstreams);
    Egress {
        timeouts: read_timeouts(&section),
        external_ipv4: section.parsed("external_ipv4", "an IPv4 address"),
        external_ipv6: section.parsed("external_ipv6", "an IPv6 address"),
        bind_ports: section.parsed("bind_ports", PORTS),
        udp_ports: section.parsed("udp_ports", PORTS),
        config: EgressConfig {
            ipv4,
            ipv6,
            eyeballs: read_eyeballs(&section),
            resolver: read_resolver(&section.section("resolver")),
            upstreams,
        },
    }
}

fn read_timeouts(section: &Section<'_>) -> Timeouts {
    let default = Timeouts::DEFAULT;
    let timeout = |key, default| section.duration(key, default, 100 * MS..=LONGEST_WAIT);
    Timeouts {
        resolve: timeout("resolve_timeout", default.resolve),
        connect: timeout("connect_timeout", default.connect),
        overall: timeout("overall_timeout", default.overall),
    }
}

fn read_eyeballs(section: &Section<'_>) -> Eyeballs {
    let default = Eyeballs::DEFAULT;
    let count = section.integer("first_family_count", u64::from(default.first_count), 1..=8);
    Eyeballs {
        first: section.choice(
            "prefer",
            default.first,
            &[("ipv6", IpFamily::V6), ("ipv4", IpFamily::V4)],
        ),
        first_count: u8::try_from(count).unwrap_or(default.first_count),
        resolution_delay: section.duration(
            "resolution_delay",
            default.resolution_delay,
            Duration::ZERO..=2 * SECOND,
        ),
        // RFC 8305, 5: never below 10 ms, and 2 seconds at the most.
        attempt_delay: section.duration("attempt_delay", default.attempt_delay, 10 * MS..=2 * SECOND),
    }
}

fn read_resolver(section: &Section<'_>) -> ResolverConfig {
    let default = ResolverConfig::default();
    let servers: Vec<NameServer> = section.non_empty_list(
        "servers",
        "an address such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"",
    );
    if servers.len() > MAX_NAME_SERVERS {
        section.report("servers", format!("there may be {MAX_NAME_SERVERS} at most"));
    }
    let file = section.text_or("resolv_conf", "/etc/resolv.conf");
    if section.has("servers") && section.has("resolv_conf") {
        section.report("resolv_conf", "has no meaning beside servers");
    }
    let hosts = section.boolean("hosts", true);
    let hosts_file = section.text_or("hosts_file", "/etc/hosts");
    let count = |key, default: usize, range| size(section.integer(key, default as u64, range));
    let ttl = |key, default| section.duration(key, default, Duration::ZERO..=24 * HOUR);
    let config = ResolverConfig {
        servers: if section.has("servers") {
            NameServers::Listed(servers.into_iter().map(|NameServer(server)| server).collect())
        } else {
            NameServers::File(file.into())
        },
        hosts: hosts.then(|| hosts_file.into()),
        timeout: section.duration("timeout", default.timeout, 100 * MS..=60 * SECOND),
        tries: u8::try_from(section.integer("tries", u64::from(default.tries), 1..=5))
            .unwrap_or(default.tries),
        cache: count("cache", default.cache, 0..=MAX_CACHE),
        negative_cache: count("negative_cache", default.negative_cache, 0..=MAX_CACHE),
        least_ttl: ttl("least_ttl", default.least_ttl),
        longest_ttl: ttl("longest_ttl", default.longest_ttl),
        longest_negative_ttl: ttl("longest_negative_ttl", default.longest_negative_ttl),
        at_once: count("at_once", default.at_once, 1..=4096),
        waiting: count("waiting", default.waiting, 0..=65536),
    };
    if config.least_ttl > config.longest_ttl {
        section.report("least_ttl", "may not be over longest_ttl");
    }
    config
}

fn read_upstreams(root: &Section<'_>) -> Vec<Upstream> {
    let sections = root.sections("upstream");
    if sections.len() > MAX_UPSTREAMS {
        root.report("upstream", format!("there may be {MAX_UPSTREAMS} at most"));
    }
    let upstreams: Vec<Upstream> = sections.iter().map(read_upstream).collect();
    for bad in check(&upstreams) {
        let Some(section) = sections.get(bad.index) else {
            continue;
        };
        let key = match bad.wrong {
            Wrong::Name => "name",
            // A list that is missing, empty or unreadable is reported where it is read.
            Wrong::Servers
                if upstreams
                    .get(bad.index)
                    .is_some_and(|upstream| upstream.servers.is_empty()) =>
            {
                continue;
            }
            Wrong::Servers => "servers",
            Wrong::Through(_) | Wrong::Chain => "through",
            Wrong::Login => "user",
        };
        section.report(key, bad.wrong.to_string());
    }
    upstreams
}

fn read_upstream(section: &Section<'_>) -> Upstream {
    let name = section.required_text("name");
    if section.has("name") && !is_name(&name) {
        section.report("name", NAME_RULE);
    }
    if name == "direct" {
        section.report("name", "must not be \"direct\", which stands for no upstream");
    }
    if !section.has("protocol") {
        section.report("protocol", "is missing: say \"socks5\" or \"http\"");
    }
    let speaks = section.choice(
        "protocol",
        Speaks::Socks5,
        &[("socks5", Speaks::Socks5), ("http", Speaks::Http)],
    );
    let servers = section.non_empty_list::<Server>(
        "servers",
        "a server with its port such as \"proxy.example:1080\" or \"[2001:db8::1]:1080\"",
    );
    if !section.has("servers") {
        section.report(
            "servers",
            "is missing: say where it is, such as [\"proxy.example:1080\"]",
        );
    }
    let timeout = |key, default| section.duration(key, default, 100 * MS..=LONGEST_WAIT);
    Upstream {
        name: name.into(),
        speaks,
        servers: servers.into_iter().map(|Server(server)| server).collect(),
        login: read_login(section),
        through: section.text("through").map(Into::into),
        remote_names: section.boolean("remote_names", true),
        way: read_way(section),
        fast_open: section.boolean("fast_open", false),
        connect_timeout: timeout("connect_timeout", Upstream::CONNECT_TIMEOUT),
        reply_timeout: timeout("reply_timeout", Upstream::REPLY_TIMEOUT),
    }
}

fn read_login(section: &Section<'_>) -> Option<Login> {
    match (section.text("user"), section.secret("password")) {
        (Some(user), Some(password)) => Some(Login { user, password }),
        (None, None) => None,
        (Some(_), None) => {
            // A file that could not be read is reported already.
            if !section.has("password_file") {
                section.report("user", "needs password or password_file as well");
            }
            None
        }
        (None, Some(_)) => {
            section.report("password", "needs user as well");
            None
        }
    }
}

fn read_way(section: &Section<'_>) -> Way {
    let interface = section.text("interface");
    if interface.as_ref().is_some_and(|name| !is_interface(name)) {
        section.report("interface", INTERFACE_RULE);
    }
    let mark = section.optional_integer("fwmark", 1..=u64::from(u32::MAX));
    let header = section.choice(
        "send_proxy",
        None,
        &[
            ("off", None),
            ("v1", Some(Version::V1)),
            ("v2", Some(Version::V2)),
        ],
    );
    Way {
        source4: section.parsed("source_ipv4", "an IPv4 address"),
        source6: section.parsed("source_ipv6", "an IPv6 address"),
        interface: interface.map(Into::into),
        mark: mark.and_then(|mark| u32::try_from(mark).ok()),
        upstream: None,
        header,
        timeout: None,
    }
}

/// Reports upstreams that the policy names and that there are not. What is no name at all is reported where it is read.
fn report_unknown(root: &Section<'_>, policy: &Policy, upstreams: &[Upstream]) {
    let unknown = |taken: &Option<Taken>| match taken {
        Some(Taken::Named(name)) if is_name(name) => {
            let known = upstreams.iter().any(|upstream| upstream.name == *name);
            (!known).then(|| name.clone())
        }
        _ => None,
    };
    for rule in policy.rules() {
        if let Some(name) = unknown(&rule.effects.upstream) {
            let line = rule.line;
            root.report(
                "rule",
                format!("the one in line {line} names an upstream that there is not: {name:?}"),
            );
        }
    }
    if let Some(name) = unknown(&policy.defaults().effects.upstream) {
        root.report("policy", format!("names an upstream that there is not: {name:?}"));
    }
}

#[cfg(test)]
mod tests;
