//! What is asked of the gateway, who judges it, and by which way it goes.

use crate::proxy_protocol::Version;
use sluice_auth::HostName;
use sluice_spi::Target;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// By which way a target is reached. The default is the host's own: its routes and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The source address towards IPv4 addresses; `None`: as the routes say.
    pub source4: Option<Ipv4Addr>,
    /// The source address towards IPv6 addresses; `None`: as the routes say.
    pub source6: Option<Ipv6Addr>,
    /// The interface to leave by (SO_BINDTODEVICE).
    pub interface: Option<Arc<str>>,
    /// The mark of the packets (SO_MARK), for routing rules and firewalls.
    pub mark: Option<u32>,
    /// The name of the upstream to go through; `None`: straight to the target.
    pub upstream: Option<Arc<str>>,
    /// The PROXY protocol header that the target is sent first, to be told the client's address.
    pub header: Option<Version>,
    /// How long reaching an address may take; `None`: as the request says.
    pub timeout: Option<Duration>,
}

impl Way {
    /// The source address towards an address.
    pub(crate) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.source4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source6.map(IpAddr::V6),
        }
    }
}

/// The answer of a [`Judge`] to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// It may be looked up, and each of its addresses is asked for.
    Resolve,
    /// It may be handed to this way's upstream, which looks it up: its addresses are never known here. If the
    /// upstream does not take names, it is looked up here and each of its addresses is asked for.
    Forward(Way),
}

/// The client may not go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

/// Whether a client may go where it wants, and by which way. Addresses that were not asked for are never connected
/// to, so a name cannot lead where an address may not.
pub trait Judge {
    /// Judges a name, before anything is looked up. Not asked of addresses.
    fn name(&self, name: &HostName, port: u16) -> Result<Named, Denied>;

    /// Judges an address, whether the client gave it or a name has it. IPv4 addresses come as such, in whatever
    /// form they were written.
    fn address(&self, address: SocketAddr) -> Result<Way, Denied>;
}

/// The two ends of a client's connection to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The client's end.
    pub source: SocketAddr,
    /// The gateway's end.
    pub destination: SocketAddr,
}

/// How long the steps of one request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Looking up its name.
    pub resolve: Duration,
    /// Connecting to one address, where its way does not say. Towards an upstream that upstream's own time counts.
    pub connect: Duration,
    /// All of it.
    pub overall: Duration,
}

impl Timeouts {
    /// What a client should not have to wait for longer: two tries of a name server; the kernel's first four SYNs;
    /// what common clients wait for themselves.
    pub const DEFAULT: Timeouts = Timeouts {
        resolve: Duration::from_secs(10),
        connect: Duration::from_secs(15),
        overall: Duration::from_secs(30),
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A connection that a client wants.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Who says whether and how.
    pub judge: &'a dyn Judge,
    /// Who asks, as a number of the caller's choice, such as a hash of the user or of the client's address. Those
    /// who wait for look-ups take turns by it.
    pub asker: u64,
    /// The client's connection, for a PROXY protocol header; without it the header says nothing of the client.
    pub client: Option<Endpoints>,
    /// How long it may take.
    pub timeouts: Timeouts,
}
