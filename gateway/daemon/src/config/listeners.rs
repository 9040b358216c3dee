//! Listeners: `[[listener]]`.

use super::Modules;
use sluice_auth::IpPrefix;
use sluice_spi::config::Section;
use sluice_spi::{Factory, Module, Transport};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Most addresses of one listener: each costs a socket on each shard.
pub(super) const MAX_ADDRESSES: usize = 64;

/// Most listeners.
pub(super) const MAX_LISTENERS: usize = 256;

/// Longest name of a listener, pool and the like, in bytes: names are labels of metrics.
pub(super) const MAX_NAME: usize = 64;

/// One listener: a protocol on some addresses, with that protocol's configuration.
#[derive(Clone)]
pub struct Listener {
    /// Its name, unique among listeners.
    pub name: String,
    /// The protocol's module.
    pub module: &'static dyn Module,
    /// What it listens on, without duplicates.
    pub addresses: Vec<SocketAddr>,
    /// Makes its fronts and machines.
    pub factory: Arc<dyn Factory>,
    /// How its connections are taken in; protocols of datagrams have none.
    pub intake: Intake,
}

/// Most prefixes of proxies that are trusted.
const MAX_TRUSTED: usize = 256;

/// How long a header may take to be there: as long as the handshake of the protocols behind it.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// How the connections of a listener are taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The proxies in front of it, whose connections begin with a PROXY protocol header. Nobody else's has one.
    pub trusted: Arc<[IpPrefix]>,
    /// How long that may take.
    pub header_time: Duration,
    /// Whether first bytes are taken with the SYN (RFC 7413).
    pub fast_open: bool,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            trusted: Arc::default(),
            header_time: HEADER_TIME,
            fast_open: false,
        }
    }
}

impl Intake {
    /// Whether a connection from an address begins with a header.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|prefix| prefix.contains(address))
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("name", &self.name)
            .field("protocol", &self.module.descriptor().name)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// An address to listen on: `192.0.2.1`, `192.0.2.1:1701`, `2001:db8::1` or `[2001:db8::1]:1701`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    ip: IpAddr,
    port: Option<u16>,
}

impl ListenAddress {
    /// The socket address, with a port for those that were written without one.
    pub fn with_port(self, default: u16) -> SocketAddr {
        SocketAddr::new(self.ip, self.port.unwrap_or(default))
    }
}

impl FromStr for ListenAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self {
                ip: address.ip(),
                port: Some(address.port()),
            });
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let ip = bare.unwrap_or(text).parse()?;
        Ok(Self { ip, port: None })
    }
}

/// Whether a name is fit for listeners, pools and the like.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
}

/// What a gateway says that was built without the Kerberos library.
const WITHOUT_GSSAPI: &str =
    "this gateway was built without GSS-API: build it with the cargo feature gssapi, or leave the key out";

/// What [`is_name`] accepts, in words.
pub(super) const NAME_RULE: &str = "must be 1 to 64 of the characters a-z, 0-9, - and _";

/// Reads all listeners.
pub(super) fn read(root: &Section<'_>, modules: Modules<'_>) -> Vec<Listener> {
    let sections = root.sections("listener");
    if sections.is_empty() {
        root.report(
            "listener",
            "is missing: without a [[listener]] there is nothing to do",
        );
    }
    if sections.len() > MAX_LISTENERS {
        root.report("listener", format!("there may be {MAX_LISTENERS} at most"));
    }
    let mut names = HashSet::new();
    let mut bound = HashSet::new();
    let mut listeners = Vec::new();
    for section in &sections {
        if let Some(listener) = read_one(section, modules, &mut names, &mut bound) {
            listeners.push(listener);
        }
    }
    listeners
}

type Bound = HashSet<(std::mem::Discriminant<sluice_spi::Transport>, SocketAddr)>;

fn read_one(
    section: &Section<'_>,
    modules: Modules<'_>,
    names: &mut HashSet<String>,
    bound: &mut Bound,
) -> Option<Listener> {
    let protocol = section.required_text("protocol");
    let name = section.text_or("name", &protocol);
    if !name.is_empty() && !is_name(&name) {
        section.report("name", NAME_RULE);
    } else if !name.is_empty() && !names.insert(name.clone()) {
        section.report("name", format!("another listener is called {name:?}"));
    }
    let addresses: Vec<ListenAddress> = section.list(
        "addresses",
        "an address such as \"0.0.0.0\", \"192.0.2.1:1701\" or \"[::]:1701\"",
    );
    let module = modules.iter().find(|module| module.descriptor().name == protocol);
    let Some(module) = module else {
        if !protocol.is_empty() {
            let known: Vec<&str> = modules.iter().map(|module| module.descriptor().name).collect();
            let message = format!(
                "there is no protocol {protocol:?}; there are: {}",
                known.join(", ")
            );
            section.report("protocol", message);
        }
        // What the unknown protocol's own table would hold cannot be told.
        section.has(&protocol);
        return None;
    };
    let descriptor = module.descriptor();
    let own = section.section(descriptor.name);
    let factory = module.configure(&own);
    if factory.context_keys().is_some() && !cfg!(feature = "gssapi") {
        own.report("gssapi_keytab", WITHOUT_GSSAPI);
    }
    if addresses.is_empty() && !section.has("addresses") {
        section.report(
            "addresses",
            "is missing: say where to listen, such as [\"0.0.0.0\", \"::\"]",
        );
    }
    if addresses.len() > MAX_ADDRESSES {
        section.report("addresses", format!("there may be {MAX_ADDRESSES} at most"));
    }
    let intake = match descriptor.transport {
        Transport::Tcp => read_intake(section),
        Transport::Udp => Intake::default(),
    };
    let transport = std::mem::discriminant(&descriptor.transport);
    let mut taken = Vec::new();
    for address in addresses {
        let address = address.with_port(descriptor.default_port);
        if descriptor.packets.is_some() && address.is_ipv6() {
            section.report("addresses", format!("{address}: {protocol} runs over IPv4 only"));
        }
        if bound.insert((transport, address)) {
            taken.push(address);
        } else {
            section.report("addresses", format!("{address} is listened on already"));
        }
    }
    Some(Listener {
        name,
        module: *module,
        addresses: taken,
        factory: Arc::from(factory),
        intake,
    })
}

fn read_intake(section: &Section<'_>) -> Intake {
    let default = Intake::default();
    let trusted: Vec<IpPrefix> = section.non_empty_list(
        "proxy_protocol_from",
        "an address or a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"",
    );
    if trusted.len() > MAX_TRUSTED {
        section.report(
            "proxy_protocol_from",
            format!("there may be {MAX_TRUSTED} at most"),
        );
    }
    if section.has("proxy_protocol_timeout") && !section.has("proxy_protocol_from") {
        section.report(
            "proxy_protocol_timeout",
            "has no meaning without proxy_protocol_from",
        );
    }
    let range = Duration::from_millis(100)..=Duration::from_secs(60);
    Intake {
        trusted: trusted.into(),
        header_time: section.duration("proxy_protocol_timeout", default.header_time, range),
        fast_open: section.boolean("fast_open", default.fast_open),
    }
}
