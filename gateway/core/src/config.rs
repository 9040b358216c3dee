//! The engine's configuration: limits, what sessions get by default, and pools.

use crate::Address;
use crate::SessionId;
use crate::pools::PoolConfig;
use sluice_auth::Ipv6Prefix;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Sessions at most, by default: what one gateway is built and measured for.
pub const DEFAULT_SESSIONS: u32 = 100_000;
/// Sessions being set up at once at most, by default: a storm of some thousand peers may wait for the hashing
/// pool; more would all time out together. One source alone gets half of them.
pub const DEFAULT_OPENING: u32 = 20_000;
/// Tunnels at most, by default.
pub const DEFAULT_TUNNELS: u32 = 65_535;
/// From a session's opening until it is established, by default: room for a slow peer's ten Configure-Requests
/// 3 s apart (RFC 1661, 4.6) and its authentication, and an end for a peer that stalls.
pub const DEFAULT_OPENING_TIMEOUT: Duration = Duration::from_secs(60);
/// Closed sessions kept for operators, by default.
pub const DEFAULT_HISTORY: usize = 10_000;
/// Last addresses kept at most.
pub const DEFAULT_STICKY_COUNT: usize = 100_000;
/// How often a session's changed counters are journalled, by default.
pub const DEFAULT_COUNTER_INTERVAL: Duration = Duration::from_secs(5);
/// Load in thousandths from which new sessions are refused at random, by default.
pub const DEFAULT_OVERLOAD_START: u16 = 700;
/// Load in thousandths from which every new session is refused, by default.
pub const DEFAULT_OVERLOAD_FULL: u16 = 1000;

/// What to do where a user has as many sessions as it may have and opens one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse the new one.
    #[default]
    Deny,
    /// End the oldest.
    ReplaceOldest,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetupRate {
    /// Set-ups a second in the long run, from 1.
    pub per_second: u32,
    /// Set-ups that may come at once, from 1.
    pub burst: u32,
}

/// Who is let in. Over a limit the answer is a refusal that the protocol tells its peer, not silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions in any state.
    pub sessions: u32,
    /// Sessions not yet established.
    pub opening: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Sessions of one user, where its profile gives no number; `None`: any number.
    pub per_user: Option<u32>,
    /// What to do over the limit of a user.
    pub user_full: WhenFull,
    /// Sessions of one peer address (IPv6: one /64); `None`: any number. A LAC or NAT gateway is one peer with many users.
    pub per_peer: Option<u32>,
    /// Tunnels of one peer address (IPv6: one /64); `None`: as many as are left for all others.
    pub tunnels_per_peer: Option<u32>,
    /// Set-ups of sessions over time; `None`: as fast as they come.
    pub setup_rate: Option<SetupRate>,
    /// Load in thousandths from which new sessions are refused at random.
    pub overload_start: u16,
    /// Load in thousandths from which all new sessions are refused.
    pub overload_full: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: DEFAULT_SESSIONS,
            opening: DEFAULT_OPENING,
            tunnels: DEFAULT_TUNNELS,
            per_user: None,
            user_full: WhenFull::Deny,
            per_peer: None,
            tunnels_per_peer: None,
            setup_rate: None,
            overload_start: DEFAULT_OVERLOAD_START,
            overload_full: DEFAULT_OVERLOAD_FULL,
        }
    }
}

/// What sessions get where the user's profile says nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Pool of IPv4 addresses; `None`: no IPv4.
    pub ipv4_pool: Option<String>,
    /// Pool of IPv6 prefixes; `None`: no IPv6.
    pub ipv6_pool: Option<String>,
    /// Our address on the link of a session whose address comes from no pool.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// Name servers, either family, of a session whose address comes from no pool.
    pub dns: Vec<IpAddr>,
    /// Largest IP packet towards the peer, in bytes; `None`: from the path.
    pub mtu: Option<u16>,
    /// From a session's opening until it is established.
    pub opening_timeout: Duration,
    /// Longest life of a session; `None`: without end.
    pub session_timeout: Option<Duration>,
    /// Longest silence of a session; `None`: without end.
    pub idle_timeout: Option<Duration>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            ipv4_pool: None,
            ipv6_pool: None,
            ipv4_gateway: None,
            dns: Vec::new(),
            mtu: None,
            opening_timeout: DEFAULT_OPENING_TIMEOUT,
            session_timeout: None,
            idle_timeout: None,
        }
    }
}

/// All of the engine's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The names of all protocol modules: records of others are set aside.
    pub protocols: Vec<&'static str>,
    /// Who is let in.
    pub limits: Limits,
    /// What sessions get.
    pub defaults: Defaults,
    /// The pools.
    pub pools: Vec<PoolConfig>,
    /// Closed sessions kept in the history.
    pub history: usize,
    /// Users' last addresses kept at most, for each family; the oldest go first.
    pub sticky_count: usize,
    /// How often a session's changed counters are journalled.
    pub counter_interval: Duration,
}

impl EngineConfig {
    /// Defaults with no pool.
    pub fn new(protocols: &[&'static str]) -> Self {
        Self {
            protocols: protocols.to_vec(),
            limits: Limits::default(),
            defaults: Defaults::default(),
            pools: Vec::new(),
            history: DEFAULT_HISTORY,
            sticky_count: DEFAULT_STICKY_COUNT,
            counter_interval: DEFAULT_COUNTER_INTERVAL,
        }
    }

    /// All blocks from which addresses are given: what is routed to the sessions.
    pub fn blocks(&self) -> (Vec<crate::Ipv4Block>, Vec<Ipv6Prefix>) {
        let ipv4 = self.pools.iter().flat_map(|pool| pool.ipv4.iter().copied());
        let ipv6 = self.pools.iter().flat_map(|pool| pool.ipv6.iter().copied());
        (ipv4.collect(), ipv6.collect())
    }
}

/// What a change of the configuration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconfigureReport {
    /// What applies to everything at once.
    pub now: Vec<String>,
    /// What applies to sessions that are opened from now on.
    pub new_sessions: Vec<String>,
    /// Number of sessions that keep an address which no pool has any more.
    pub orphans: usize,
    /// The first of those, at most [`ReconfigureReport::EXAMPLES`].
    pub orphan_examples: Vec<(Address, SessionId)>,
}

impl ReconfigureReport {
    /// Most orphans named in a report.
    pub const EXAMPLES: usize = 100;
}
