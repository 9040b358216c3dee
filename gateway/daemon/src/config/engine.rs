//! What the engine is told: `[limits]`, `[sessions]`, `[timeouts]` and the pools.

use super::pools::DEFAULT_POOL;
use super::sections::size;
use sluice_core::{
    DEFAULT_HISTORY, DEFAULT_OPENING, DEFAULT_OPENING_TIMEOUT, DEFAULT_OVERLOAD_FULL, DEFAULT_OVERLOAD_START,
    DEFAULT_SESSIONS, DEFAULT_TUNNELS, Defaults, EngineConfig, Limits, PoolConfig, SetupRate, WhenFull,
};
use sluice_spi::config::Section;
use std::time::Duration;

/// Most sessions or tunnels that can be configured: far above what was measured on one gateway.
const MAX_SESSIONS: u64 = 1_000_000;

/// Largest load that can be configured, in thousandths.
const MAX_LOAD: u64 = 10_000;

/// Smallest link MTU: what every IPv4 module must be able to forward (RFC 791).
const MIN_MTU: u64 = 68;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86400);

/// Reads all of the engine's configuration; `protocols` are the names of all modules.
pub(super) fn read(root: &Section<'_>, pools: Vec<PoolConfig>, protocols: &[&'static str]) -> EngineConfig {
    let limits = root.section("limits");
    EngineConfig {
        limits: read_limits(&limits),
        history: size(limits.integer("history", DEFAULT_HISTORY as u64, 0..=MAX_SESSIONS)),
        defaults: read_defaults(&root.section("sessions"), &root.section("timeouts"), &pools),
        pools,
        ..EngineConfig::new(protocols)
    }
}

fn read_limits(section: &Section<'_>) -> Limits {
    let number = |key, default: u32| {
        u32::try_from(section.integer(key, u64::from(default), 1..=MAX_SESSIONS)).unwrap_or(default)
    };
    let optional = |key| {
        let value = section.optional_integer(key, 1..=MAX_SESSIONS)?;
        u32::try_from(value).ok()
    };
    let load = |key, default: u16| {
        u16::try_from(section.integer(key, u64::from(default), 1..=MAX_LOAD)).unwrap_or(default)
    };
    let per_second = optional("setups_per_second");
    let burst = optional("setup_burst");
    if burst.is_some() && per_second.is_none() {
        section.report("setup_burst", "has no meaning without setups_per_second");
    }
    let limits = Limits {
        sessions: number("sessions", DEFAULT_SESSIONS),
        opening: number("opening", DEFAULT_OPENING),
        tunnels: number("tunnels", DEFAULT_TUNNELS),
        per_user: optional("per_user"),
        user_full: section.choice(
            "user_full",
            WhenFull::Deny,
            &[
                ("deny", WhenFull::Deny),
                ("replace_oldest", WhenFull::ReplaceOldest),
            ],
        ),
        per_peer: optional("per_peer"),
        tunnels_per_peer: optional("tunnels_per_peer"),
        setup_rate: per_second.map(|per_second| SetupRate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
        overload_start: load("overload_start", DEFAULT_OVERLOAD_START),
        overload_full: load("overload_full", DEFAULT_OVERLOAD_FULL),
    };
    if limits.overload_start > limits.overload_full {
        section.report("overload_start", "may not be over overload_full");
    }
    limits
}

fn read_defaults(sessions: &Section<'_>, timeouts: &Section<'_>, pools: &[PoolConfig]) -> Defaults {
    let pool = |key, has: fn(&PoolConfig) -> bool, what: &str| {
        let Some(name) = sessions.text(key) else {
            let default = pools.iter().find(|pool| pool.name == DEFAULT_POOL && has(pool));
            return default.map(|pool| pool.name.clone());
        };
        if !pools.iter().any(|pool| pool.name == name && has(pool)) {
            sessions.report(key, format!("there is no pool {name:?} with {what}"));
        }
        Some(name)
    };
    let mtu = sessions.optional_integer("mtu", MIN_MTU..=u64::from(u16::MAX));
    Defaults {
        ipv4_pool: pool("ipv4_pool", |pool| !pool.ipv4.is_empty(), "IPv4 addresses"),
        ipv6_pool: pool("ipv6_pool", |pool| !pool.ipv6.is_empty(), "IPv6 prefixes"),
        ipv4_gateway: sessions.parsed("ipv4_gateway", "an IPv4 address"),
        dns: sessions.list("dns", "an address such as \"192.0.2.53\""),
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
        opening_timeout: timeouts.duration("opening", DEFAULT_OPENING_TIMEOUT, SECOND..=HOUR),
        session_timeout: timeouts.optional_duration("session", 10 * SECOND..=YEAR),
        idle_timeout: timeouts.optional_duration("idle", 10 * SECOND..=YEAR),
    }
}
