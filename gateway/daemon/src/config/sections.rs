//! The single tables of the configuration: `[gateway]`, `[admin]`, `[limits]` and so on.

use super::pools::Pool;
use super::resolve;
use sluice_spi::Shards;
use sluice_spi::config::Section;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
const YEAR: Duration = Duration::from_secs(365 * 86400);

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

/// `[limits]`: bounds on sessions. What is over a bound is refused, and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions being set up at once.
    pub opening: usize,
    /// Sessions at once of one user, where the user's entry says nothing; `None`: no bound.
    pub per_user: Option<u32>,
    /// Sessions at once from one peer address; `None`: no bound.
    pub per_peer: Option<u32>,
    /// Ended sessions that are remembered.
    pub history: usize,
}

pub(super) fn limits(section: &Section<'_>) -> Limits {
    let each = 1..=1_000_000;
    let optional = |key: &str| {
        let limit = section.optional_integer(key, each.clone());
        limit.and_then(|limit| u32::try_from(limit).ok())
    };
    Limits {
        sessions: size(section.integer("sessions", 100_000, each.clone())),
        opening: size(section.integer("opening", 4096, each.clone())),
        per_user: optional("per_user"),
        per_peer: optional("per_peer"),
        history: size(section.integer("history", 10_000, 0..=1_000_000)),
    }
}

/// `[timeouts]`: how long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From a session's first message until it is established.
    pub opening: Duration,
    /// An authentication backend's answer.
    pub authentication: Duration,
    /// Silence of a session's user data, where the user's entry says nothing; `None`: any.
    pub idle: Option<Duration>,
    /// Life of a session, where the user's entry says nothing; `None`: any.
    pub session: Option<Duration>,
}

pub(super) fn timeouts(section: &Section<'_>) -> Timeouts {
    Timeouts {
        opening: section.duration("opening", 60 * SECOND, SECOND..=HOUR),
        authentication: section.duration("authentication", 10 * SECOND, SECOND..=120 * SECOND),
        idle: section.optional_duration("idle", 10 * SECOND..=YEAR),
        session: section.optional_duration("session", 10 * SECOND..=YEAR),
    }
}

/// `[users]` and `[realms.NAME]`: where users are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// The users file.
    pub file: PathBuf,
    /// Threads that hash passwords; `None`: as many as there are cores, less one.
    pub hash_threads: Option<usize>,
    /// Password checks that may wait for those threads; more are refused as unavailable.
    pub hash_queue: usize,
    /// How long a password that was right is taken without hashing it again; zero: never.
    pub cache_time: Duration,
    /// Most users in that cache.
    pub cache_size: usize,
    /// Wrong passwords of one user or source within a minute before it has to wait.
    pub failures: u32,
    /// Realms with rules of their own.
    pub realms: Vec<Realm>,
}

/// One realm, the part after the `@` of a user's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// The realm, in lower case.
    pub name: String,
    /// Whether its users are looked up without the realm.
    pub strip: bool,
    /// Whether its users are served at all.
    pub enabled: bool,
    /// The pool of its users, where their own entries say nothing.
    pub pool: Option<String>,
}

pub(super) fn users(section: &Section<'_>, root: &Section<'_>, state_dir: &Path, pools: &[Pool]) -> Users {
    Users {
        file: resolve(state_dir, &section.text_or("file", "users.toml")),
        hash_threads: section.optional_integer("hash_threads", 1..=64).map(size),
        hash_queue: size(section.integer("hash_queue", 4096, 1..=1_000_000)),
        cache_time: section.duration("cache_time", DAY, Duration::ZERO..=30 * DAY),
        cache_size: size(section.integer("cache_size", 100_000, 0..=1_000_000)),
        failures: u32::try_from(section.integer("failures", 20, 1..=10_000)).unwrap_or(u32::MAX),
        realms: root
            .named_sections("realms")
            .iter()
            .map(|(name, section)| realm(name, section, pools))
            .collect(),
    }
}

fn realm(name: &str, section: &Section<'_>, pools: &[Pool]) -> Realm {
    let fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if name.is_empty() || !name.bytes().all(fit) {
        section.report(
            "",
            "the name of a realm must be of the characters a-z, 0-9, - and .",
        );
    }
    let pool = section.text("pool");
    if let Some(pool) = &pool
        && !pools.iter().any(|known| known.name == *pool)
    {
        section.report("pool", format!("there is no pool {pool:?}"));
    }
    Realm {
        name: name.to_owned(),
        strip: section.boolean("strip", false),
        enabled: section.boolean("enabled", true),
        pool,
    }
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
    /// Whether the clients' IPv4 packets leave the host with its own address as source.
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

const INTERFACE_RULE: &str =
    "must be 1 to 15 letters, digits and any of - _ . as in the name of an interface";

fn is_interface(name: &str) -> bool {
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
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
