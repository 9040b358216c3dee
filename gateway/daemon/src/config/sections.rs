//! The single tables of the configuration: `[gateway]`, `[admin]`, `[limits]` and so on.

use super::resolve;
use sluice_spi::Shards;
use sluice_spi::config::Section;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Longest name of the gateway, in bytes: it is the Host Name of L2TP, and a DNS label is no longer.
const MAX_GATEWAY_NAME: usize = 63;

/// Longest name of a network interface (IFNAMSIZ without its final zero).
const MAX_INTERFACE: usize = 15;

/// `[gateway]`: who the gateway is and where it keeps its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The name it gives itself towards peers, in logs and in the API.
    pub name: String,
    /// The directory of everything it must not forget; relative to the working directory.
    pub state_dir: PathBuf,
    /// Number of shards; `None`: one for each core, at most [`Shards::VIRTUAL`].
    pub shards: Option<u16>,
}

pub(super) fn gateway(section: &Section<'_>) -> Gateway {
    let name = section.text_or("name", "sluice");
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_GATEWAY_NAME || !name.bytes().all(fit) {
        section.report(
            "name",
            "must be 1 to 63 letters, digits and any of - _ . as in a host name",
        );
    }
    let state_dir = section.text_or("state_dir", "sluice-state");
    if state_dir.is_empty() {
        section.report("state_dir", "must name a directory");
    }
    let shards = section.optional_integer("shards", 1..=u64::from(Shards::VIRTUAL));
    Gateway {
        name,
        state_dir: PathBuf::from(state_dir),
        shards: shards.and_then(|shards| u16::try_from(shards).ok()),
    }
}

/// Certificate and key of the admin plane, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[admin]`: the admin plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where the API listens on TCP; `None`: on the UNIX socket alone.
    pub listen: Option<SocketAddr>,
    /// The UNIX socket of local clients.
    pub socket: PathBuf,
    /// TLS; required off the loopback interface.
    pub tls: Option<Tls>,
    /// The file of the tokens' hashes.
    pub tokens_file: PathBuf,
    /// The append-only audit log.
    pub audit_file: PathBuf,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Most connections at once, event streams included.
    pub max_connections: usize,
    /// Longest time to send a request's header, and the longest time an answer may take to start.
    pub request_timeout: Duration,
}

pub(super) fn admin(section: &Section<'_>, state_dir: &Path) -> Admin {
    let enabled = section.boolean("tcp", true);
    let listen = section
        .parsed("listen", "an address with its port, such as \"127.0.0.1:8701\"")
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8701)));
    let admin = Admin {
        listen: enabled.then_some(listen),
        socket: resolve(state_dir, &section.text_or("socket", "admin.sock")),
        tls: tls(section),
        tokens_file: resolve(state_dir, &section.text_or("tokens_file", "tokens.json")),
        audit_file: resolve(state_dir, &section.text_or("audit_file", "audit.jsonl")),
        max_body: size(section.integer("max_body", 256 << 10, 1 << 10..=16 << 20)),
        max_connections: size(section.integer("max_connections", 256, 4..=65536)),
        request_timeout: section.duration("request_timeout", 10 * SECOND, SECOND..=120 * SECOND),
    };
    if admin.tls.is_none() && admin.listen.is_some_and(|listen| !listen.ip().is_loopback()) {
        section.report(
            "listen",
            "is not on the loopback interface: give tls_certificate and tls_key as well, because tokens and \
             passwords must not cross a network in clear",
        );
    }
    admin
}

fn tls(section: &Section<'_>) -> Option<Tls> {
    match (section.text("tls_certificate"), section.text("tls_key")) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: PathBuf::from(certificate),
            key: PathBuf::from(key),
        }),
        (None, None) => None,
        (Some(_), None) => {
            section.report("tls_certificate", "needs tls_key as well");
            None
        }
        (None, Some(_)) => {
            section.report("tls_key", "needs tls_certificate as well");
            None
        }
    }
}

/// `[metrics]`: a listener of its own for `/metrics`, without tokens. It is off where no address is given;
/// `/metrics` of the admin plane is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where it listens.
    pub listen: Option<SocketAddr>,
}

pub(super) fn metrics(section: &Section<'_>) -> Metrics {
    let listen: Option<SocketAddr> =
        section.parsed("listen", "an address with its port, such as \"127.0.0.1:9701\"");
    let remote = section.boolean("allow_remote", false);
    if listen.is_some_and(|listen| !listen.ip().is_loopback()) && !remote {
        section.report(
            "listen",
            "is not on the loopback interface: anyone who reaches it may read the metrics; set allow_remote = \
             true if that is meant",
        );
    }
    Metrics { listen }
}

/// What is done about the host's IP forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It is switched on at start where it is off.
    Enable,
    /// Only a log line says what to set.
    Check,
}

/// `[network]`: what the host is told about the clients' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Name of the TUN device.
    pub tun: String,
    /// MTU of the TUN device, in bytes.
    pub mtu: u16,
    /// What is done about forwarding.
    pub forwarding: Forwarding,
    /// Whether the clients' packets leave the host with its own address as source: IPv4, and IPv6 from unique
    /// local prefixes (RFC 4193), which nobody else could answer.
    pub masquerade: bool,
    /// Interfaces that masquerading is limited to; empty: all but the TUN device.
    pub masquerade_interfaces: Vec<String>,
}

pub(super) fn network(section: &Section<'_>) -> Network {
    let network = Network {
        tun: section.text_or("tun", "sluice0"),
        mtu: u16::try_from(section.integer("mtu", 1500, 1280..=65535)).unwrap_or(1500),
        forwarding: section.choice(
            "forwarding",
            Forwarding::Check,
            &[("enable", Forwarding::Enable), ("check", Forwarding::Check)],
        ),
        masquerade: section.boolean("masquerade", false),
        masquerade_interfaces: section.list("masquerade_interfaces", "the name of an interface"),
    };
    if !is_interface(&network.tun) {
        section.report("tun", INTERFACE_RULE);
    }
    if !network
        .masquerade_interfaces
        .iter()
        .all(|name| is_interface(name))
    {
        section.report("masquerade_interfaces", format!("each {INTERFACE_RULE}"));
    }
    network
}

pub(super) const INTERFACE_RULE: &str =
    "must be 1 to 15 letters, digits and any of - _ . as in the name of an interface";

pub(super) fn is_interface(name: &str) -> bool {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= MAX_INTERFACE && name.bytes().all(fit) && name != "." && name != ".."
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives such as `info,sluice::admin=debug`.
    pub level: String,
    /// The form of the lines.
    pub format: LogFormat,
    /// Lines a second that one cause in the network (a peer, a drop reason) may produce.
    pub network_lines: u32,
}

pub(super) fn log(section: &Section<'_>) -> Log {
    let level = section.text_or("level", "info");
    if let Err(problem) = crate::logs::check_level(&level) {
        section.report("level", problem);
    }
    Log {
        level,
        format: section.choice(
            "format",
            LogFormat::Auto,
            &[
                ("auto", LogFormat::Auto),
                ("human", LogFormat::Human),
                ("json", LogFormat::Json),
            ],
        ),
        network_lines: u32::try_from(section.integer("network_lines", 5, 1..=1000)).unwrap_or(5),
    }
}

/// Whether a protection is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Where the kernel has it.
    Auto,
    /// The gateway does not start without it.
    Required,
    /// Not at all.
    Off,
}

/// `[sandbox]`: what the worker gives up after its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Capabilities it needs no more, and the way to new ones (no_new_privs).
    pub capabilities: Demand,
    /// The file system outside the state directory (Landlock).
    pub landlock: Demand,
    /// System calls it never makes (seccomp).
    pub seccomp: Demand,
}

pub(super) fn sandbox(section: &Section<'_>) -> Sandbox {
    let demand = |key: &str| {
        let choices = [
            ("auto", Demand::Auto),
            ("required", Demand::Required),
            ("off", Demand::Off),
        ];
        section.choice(key, Demand::Auto, &choices)
    };
    Sandbox {
        capabilities: demand("capabilities"),
        landlock: demand("landlock"),
        seccomp: demand("seccomp"),
    }
}

/// A number that was checked to be far below what a `usize` holds.
pub(super) fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
