//! How relays of datagrams behave, and who decides where they may send to.

use super::super::Limit;
use sluice_spi::Target;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The ports that a socket may be bound to. The default is the kernel's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports(Option<(u16, u16)>);

impl Ports {
    /// The kernel's choice.
    pub const ANY: Ports = Ports(None);

    /// From `first` to `last`. `None`: these are no ports.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1..=last).contains(&first).then_some(Self(Some((first, last))))
    }

    pub(super) fn bounds(self) -> Option<(u16, u16)> {
        self.0
    }
}

/// By which way datagrams go to a target. The default is the host's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The source address towards IPv4 targets; `None`: as the routes say.
    pub source4: Option<Ipv4Addr>,
    /// The source address towards IPv6 targets; `None`: as the routes say.
    pub source6: Option<Ipv6Addr>,
    /// The interface to leave by (SO_BINDTODEVICE).
    pub interface: Option<Arc<str>>,
    /// The mark of the packets (SO_MARK).
    pub mark: Option<u32>,
}

/// What many relays have in common, such as those of one listener and one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ports of the sockets that clients send to.
    pub client_ports: Ports,
    /// Ports of the sockets that send to targets.
    pub source_ports: Ports,
    /// Octets asked for the receive buffer of each socket (SO_RCVBUF). Without CAP_NET_ADMIN the limit of
    /// `net.core.rmem_max` holds.
    pub receive_buffer: usize,
    /// Take answers from anybody who sends to the address that the client's datagrams come from (filtering that is
    /// endpoint-independent: RFC 4787, 5), instead of only from addresses and ports that the client has sent to.
    pub full_cone: bool,
    /// Most targets that a relay remembers, and most addresses that it takes answers from, each from 1 to
    /// [`MAX_FLOWS`]; other values are taken as the nearest of these. Those that were silent longest make room.
    pub flows: usize,
    /// A target that the client has not sent to for so long is forgotten, and so is an address with which nothing
    /// was exchanged for so long.
    pub flow_idle: Duration,
    /// How long it is remembered that a target is denied.
    pub denied_for: Duration,
    /// How long it is remembered that a target was not found.
    pub failed_for: Duration,
}

/// Most flows of one relay.
pub const MAX_FLOWS: usize = 16_384;

impl Default for Settings {
    /// The receive buffer holds a burst of 700 full datagrams. The idle time is what RFC 4787, 4.3 recommends, five
    /// minutes. 1,024 flows take about 200 KiB, and are enough for a client with many peers.
    fn default() -> Self {
        Self {
            client_ports: Ports::ANY,
            source_ports: Ports::ANY,
            receive_buffer: 1 << 20,
            full_cone: false,
            flows: 1_024,
            flow_idle: Duration::from_secs(300),
            denied_for: Duration::from_secs(10),
            failed_for: Duration::from_secs(2),
        }
    }
}

/// How one relay begins or goes on.
#[derive(Default)]
pub struct Options {
    /// What it has in common with others.
    pub settings: Rc<Settings>,
    /// It ends when nothing was taken from the client or for it for so long, as long as its targets do not say
    /// otherwise ([`Reach::idle`]). `None`: never.
    pub idle: Option<Duration>,
    /// It ends so long after it began. `None`: never.
    pub lifetime: Option<Duration>,
    /// The limit of what is read from the client.
    pub up: Option<Box<dyn Limit>>,
    /// The limit of what is read from targets.
    pub down: Option<Box<dyn Limit>>,
}

/// Why a client's datagrams do not go to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// They may not.
    Denied,
    /// They would have to go through an upstream proxy, and none takes datagrams.
    Upstream,
    /// The target was not found: its name has no address, or none of a family that may be used.
    Failed,
}

/// A target that may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its address.
    pub to: SocketAddr,
    /// By which way.
    pub way: Way,
    /// How long the relay may be silent for the sake of this target. What the most patient of its targets says counts.
    /// `None`: as long as [`Options::idle`].
    pub idle: Option<Duration>,
}

impl From<SocketAddr> for Reach {
    /// By the host's own way.
    fn from(to: SocketAddr) -> Self {
        Self {
            to,
            way: Way::default(),
            idle: None,
        }
    }
}

/// What may be sent to, or why nothing.
pub type Verdict = Result<Reach, Refusal>;

/// What becomes of a target.
pub enum Decision {
    /// This.
    Now(Verdict),
    /// What this gives, at the latest after [`PATIENCE`](super::PATIENCE). It is dropped when the relay ends.
    Later(Pin<Box<dyn Future<Output = Verdict>>>),
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Now(verdict) => f.debug_tuple("Now").field(verdict).finish(),
            Decision::Later(_) => f.write_str("Later"),
        }
    }
}

/// Who decides where a relay may send to: its owner, who has the policy and looks names up.
pub trait Resolve {
    /// A client sends to a target that is not known (any more). It is not asked again for this target while the
    /// client goes on sending there, until [`Handle::forget_flows`](super::Handle::forget_flows).
    fn decide(&self, target: Target) -> Decision;
}
