//! What can be asked about sessions, tunnels, pools and leases.

use crate::admission::Refused;
use crate::model::{Address, Session, State, Tunnel};
use crate::{SessionId, TunnelId};
use sluice_spi::{LocalRef, ShardId};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

/// Most items of one page.
pub const MAX_PAGE: usize = 1000;

/// Which sessions are wanted: those that match everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The protocol's name.
    pub protocol: Option<String>,
    /// The listener's name.
    pub listener: Option<String>,
    /// Where it stands.
    pub state: Option<State>,
    /// The user's whole name.
    pub user: Option<String>,
    /// The realm of the user's name.
    pub realm: Option<String>,
    /// The peer's outer address.
    pub peer: Option<IpAddr>,
    /// An address the session holds, or one inside its prefix.
    pub address: Option<IpAddr>,
    /// The tunnel that carries it.
    pub tunnel: Option<TunnelId>,
}

impl SessionFilter {
    /// Whether a session is wanted.
    pub fn matches(&self, session: &Session) -> bool {
        fn same<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        }
        let text = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        let realm = session.identity.as_ref().and_then(|identity| identity.realm());
        text(&self.protocol, Some(session.origin.protocol))
            && text(&self.listener, Some(&session.origin.listener))
            && same(&self.state, &session.state)
            && text(&self.user, session.user())
            && text(&self.realm, realm)
            && same(&self.peer, &session.peer.remote.ip())
            && (self.tunnel.is_none() || self.tunnel == session.tunnel)
            && self.address.is_none_or(|wanted| holds(session, wanted))
    }
}

fn holds(session: &Session, wanted: IpAddr) -> bool {
    session.addresses().iter().any(|address| match (address, wanted) {
        (Address::V4(address), IpAddr::V4(wanted)) => *address == wanted,
        (Address::V6(prefix), IpAddr::V6(wanted)) => prefix.contains(wanted),
        _ => false,
    })
}

/// In which order pages go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    OldestFirst,
    /// The newest first.
    NewestFirst,
}

/// A page of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Which sessions.
    pub filter: SessionFilter,
    /// In which order, by identifier and so by time of opening.
    pub order: Order,
    /// The cursor: only sessions that come after this one, whether or not it still exists.
    pub after: Option<SessionId>,
    /// Most sessions wanted, 1 to [`MAX_PAGE`]; 0 counts as [`MAX_PAGE`].
    pub limit: usize,
}

/// A page of tunnels, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelQuery {
    /// The protocol's name.
    pub protocol: Option<String>,
    /// The listener's name.
    pub listener: Option<String>,
    /// The peer's outer address.
    pub peer: Option<IpAddr>,
    /// The cursor.
    pub after: Option<TunnelId>,
    /// Most tunnels wanted, 1 to [`MAX_PAGE`]; 0 counts as [`MAX_PAGE`].
    pub limit: usize,
}

impl TunnelQuery {
    pub(crate) fn matches(&self, tunnel: &Tunnel) -> bool {
        let origin = &tunnel.origin;
        let same =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        same(&self.protocol, origin.protocol)
            && same(&self.listener, &origin.listener)
            && self.peer.is_none_or(|wanted| wanted == tunnel.peer.remote.ip())
    }
}

/// A page of leases: IPv4 by address, then IPv6 by prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseQuery {
    /// The pool's name.
    pub pool: Option<String>,
    /// The user's whole name.
    pub user: Option<String>,
    /// The cursor.
    pub after: Option<Address>,
    /// Most leases wanted, 1 to [`MAX_PAGE`]; 0 counts as [`MAX_PAGE`].
    pub limit: usize,
}

/// One page of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, C> {
    /// What was found.
    pub items: Vec<T>,
    /// Give this as `after` for the next page; `None`: this was the last.
    pub next: Option<C>,
}

pub(crate) fn page_size(limit: usize) -> usize {
    match limit {
        0 => MAX_PAGE,
        limit => limit.min(MAX_PAGE),
    }
}

/// Whom to tell something about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The shard.
    pub shard: ShardId,
    /// The tunnel; `None`: its protocol has none.
    pub tunnel: Option<TunnelId>,
    /// The machine's own name of the session.
    pub local: LocalRef,
}

/// An address in use, or kept for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Address,
    /// The pool it came from; `None`: a static address.
    pub pool: Option<String>,
    /// The user.
    pub user: String,
    /// What it is.
    pub status: LeaseStatus,
}

/// What a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// A session holds it.
    Held {
        /// The session.
        session: SessionId,
        /// Since when.
        since: SystemTime,
    },
    /// No session holds it, but its user gets it again until then.
    Kept {
        /// Until when.
        until: SystemTime,
    },
}

/// A pool's use in one family of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    /// Addresses it can give.
    pub size: u64,
    /// Held by sessions.
    pub held: u64,
    /// Not held, but kept for the users that had them last; given to others when nothing else is left.
    pub kept: u64,
    /// Not to be given to anybody: gateway addresses, users' static addresses, addresses held down.
    pub blocked: u64,
    /// Free.
    pub free: u64,
    /// Requests refused because nothing was left.
    pub exhausted: u64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Our address on the links of its IPv4 sessions.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// IPv4 addresses; `None`: it has none.
    pub ipv4: Option<PoolUse>,
    /// IPv6 prefixes of 64 bits; `None`: it has none.
    pub ipv6: Option<PoolUse>,
}

/// Numbers of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions by protocol and state; combinations without any are not there.
    pub sessions: BTreeMap<(&'static str, State), u64>,
    /// Tunnels by protocol and state.
    pub tunnels: BTreeMap<(&'static str, State), u64>,
    /// Refusals of sessions and tunnels since the start.
    pub refused: BTreeMap<Refused, u64>,
    /// Sessions opened since the start, those from records not counted.
    pub opened: u64,
    /// Sessions that ended since the start.
    pub closed: u64,
    /// Sessions from records that went on.
    pub recovered: u64,
    /// Records set aside.
    pub set_aside: u64,
    /// Changes that the journal did not take.
    pub journal_failures: u64,
    /// Whether new sessions are refused.
    pub draining: bool,
}

impl Totals {
    /// All sessions of all protocols that are in a state.
    pub fn in_state(&self, state: State) -> u64 {
        let of_state = self.sessions.iter().filter(|((_, s), _)| *s == state);
        of_state.map(|(_, count)| count).sum()
    }
}
