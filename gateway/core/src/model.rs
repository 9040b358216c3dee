//! Sessions and tunnels as the gateway knows them.

use crate::blocks::Family;
use crate::facts::Facts;
use crate::{SessionId, TunnelId};
use sluice_auth::{Grants, Identity, Ipv6Prefix, RejectReason};
use sluice_spi::{Ended, LocalRef, MachineKey, PathStats, PeerAddr, SessionKind, ShardId};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where a session or tunnel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Its peer asked for it; nothing is proven.
    Opening,
    /// Its peer's credentials are being checked.
    Authenticating,
    /// Its peer is known; addresses and options are being agreed.
    Establishing,
    /// User data flows.
    Established,
    /// Kept without its carrier, until the peer comes back.
    Suspended,
    /// Restored from a record; its machine has not yet proven that the peer still knows it.
    Recovering,
    /// Being ended; its peer has not yet confirmed.
    Closing,
    /// Gone; only in the history.
    Closed,
}

impl State {
    /// All states, for closed metric label sets.
    pub const ALL: [State; 8] = [
        State::Opening,
        State::Authenticating,
        State::Establishing,
        State::Established,
        State::Suspended,
        State::Recovering,
        State::Closing,
        State::Closed,
    ];

    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Authenticating => "authenticating",
            State::Establishing => "establishing",
            State::Established => "established",
            State::Suspended => "suspended",
            State::Recovering => "recovering",
            State::Closing => "closing",
            State::Closed => "closed",
        }
    }

    /// Whether the session still waits to be established for the first time.
    pub fn is_opening(self) -> bool {
        matches!(self, State::Opening | State::Authenticating | State::Establishing)
    }

    /// Whether the step to `next` is a legal one. Staying is always legal.
    pub fn may_become(self, next: State) -> bool {
        use State::*;
        match (self, next) {
            (from, to) if from == to => true,
            (Closed, _) | (_, Opening) => false,
            (_, Closing | Closed) => true,
            (Closing, _) => false,
            // A peer that renegotiates its link proves itself again.
            (Opening | Establishing, Authenticating) => true,
            // Some listeners ask for no authentication.
            (Opening | Authenticating, Establishing) => true,
            (Opening | Authenticating | Establishing, Established) => true,
            (Established | Recovering, Suspended) => true,
            (Suspended | Recovering, Established) => true,
            // A client that waits for its peer goes on to wait.
            (Recovering, Establishing) => true,
            (Suspended | Established, Recovering) => true,
            _ => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("no session state is called {text:?}"))
    }
}

/// Where a tunnel or session came in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The protocol module's name.
    pub protocol: &'static str,
    /// The listener's name in the configuration; shared, as all its sessions and their snapshots have it.
    pub listener: Arc<str>,
    /// The shard that owns it.
    pub shard: ShardId,
}

/// One address or prefix that a session may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// One IPv6 prefix.
    V6(Ipv6Prefix),
}

impl Address {
    pub(crate) fn family(self) -> Family {
        match self {
            Address::V4(_) => Family::V4,
            Address::V6(_) => Family::V6,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::V4(address) => address.fmt(f),
            Address::V6(prefix) => prefix.fmt(f),
        }
    }
}

/// What bounds a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionLimits {
    /// Longest life, from `established`; `None`: without end.
    pub session_timeout: Option<Duration>,
    /// Longest silence in both directions; `None`: without end.
    pub idle_timeout: Option<Duration>,
}

/// A session: the unit of authentication, accounting, policy and restoration. A snapshot; it does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Public name.
    pub id: SessionId,
    /// Where it stands.
    pub state: State,
    /// Kind of session.
    pub kind: SessionKind,
    /// Where it came in.
    pub origin: Origin,
    /// The tunnel that carries it; `None`: its protocol has none.
    pub tunnel: Option<TunnelId>,
    /// Its machine's own name of it.
    pub local: LocalRef,
    /// Both ends of what carries it.
    pub peer: PeerAddr,
    /// The user: as claimed while it authenticates, then as the backend names it.
    pub identity: Option<Identity>,
    /// Why its last authentication was refused.
    pub rejected: Option<RejectReason>,
    /// Calling number, escaped.
    pub calling: Option<String>,
    /// Called number, escaped.
    pub called: Option<String>,
    /// The label of the call we placed.
    pub label: Option<String>,
    /// What it was given, once authorized.
    pub grants: Option<Grants>,
    /// The pool that its IPv4 address came from; `None`: a static one, or none.
    pub ipv4_pool: Option<String>,
    /// The pool that its IPv6 prefix came from; `None`: a static one, or none.
    pub ipv6_pool: Option<String>,
    /// What was negotiated.
    pub facts: Facts,
    /// What bounds it.
    pub limits: SessionLimits,
    /// What it has carried over its whole life, restarts included.
    pub counters: PathStats,
    /// When it was opened.
    pub created: SystemTime,
    /// When it was established.
    pub established: Option<SystemTime>,
    /// When user data was last seen to flow.
    pub last_activity: SystemTime,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// How it ended.
    pub end: Option<Ended>,
    /// How often it went on after a restart of the gateway.
    pub restored: u32,
}

impl Session {
    /// The addresses it holds.
    pub fn addresses(&self) -> Vec<Address> {
        self.grants.as_ref().map(Self::addresses_of).unwrap_or_default()
    }

    pub(crate) fn addresses_of(grants: &Grants) -> Vec<Address> {
        let ipv4 = grants.ipv4.map(Address::V4);
        let ipv6 = grants.ipv6_prefix.map(Address::V6);
        ipv4.into_iter().chain(ipv6).collect()
    }

    /// The user's whole name, where one is known.
    pub fn user(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::as_str)
    }
}

/// A tunnel: a control relation with one peer. A snapshot; it does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Public name.
    pub id: TunnelId,
    /// [`State::Established`], [`State::Recovering`], or in the last event about it [`State::Closed`].
    pub state: State,
    /// Where it came in.
    pub origin: Origin,
    /// Its machine's key on the listener and shard.
    pub key: MachineKey,
    /// Both ends.
    pub peer: PeerAddr,
    /// The name the peer gave itself, escaped.
    pub peer_name: String,
    /// Whether we opened it.
    pub initiated: bool,
    /// Everything else worth showing.
    pub facts: Facts,
    /// When it was established.
    pub created: SystemTime,
    /// Number of its sessions.
    pub sessions: usize,
    /// How often it went on after a restart of the gateway.
    pub restored: u32,
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn states_have_names_that_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("up".parse::<State>().is_err());
    }

    #[test]
    fn an_ended_session_never_comes_back() {
        for next in State::ALL {
            assert_eq!(State::Closed.may_become(next), next == State::Closed);
            let stays_ended = matches!(next, State::Closing | State::Closed);
            assert_eq!(State::Closing.may_become(next), stays_ended);
            assert!(next.may_become(State::Closed));
            assert_eq!(next.may_become(State::Opening), next == State::Opening);
        }
    }

    #[test]
    fn only_known_steps_lead_to_established() {
        let from: Vec<State> = State::ALL
            .into_iter()
            .filter(|state| state.may_become(State::Established))
            .collect();
        use State::*;
        assert_eq!(
            from,
            [
                Opening,
                Authenticating,
                Establishing,
                Established,
                Suspended,
                Recovering
            ]
        );
    }
}
