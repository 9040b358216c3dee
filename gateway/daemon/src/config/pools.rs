//! Address pools: `[pools.NAME]`.

use super::listeners::{NAME_RULE, is_name};
use sluice_auth::Ipv6Prefix;
use sluice_core::{Allocation, DEFAULT_STICKY, Ipv4Block, MAX_IPV4_UNITS, PoolConfig};
use sluice_spi::config::Section;
use std::net::IpAddr;
use std::time::Duration;

/// The pool that users get their addresses from where nothing else is said.
pub const DEFAULT_POOL: &str = "default";

/// Most pools: each is a label of the pool metrics.
pub(super) const MAX_POOLS: usize = 256;

/// Most blocks of one pool.
pub(super) const MAX_BLOCKS: usize = 256;

/// Most DNS servers of one pool: IPCP carries two (RFC 1877), a router advertisement a few more (RFC 8106).
pub(super) const MAX_DNS: usize = 8;

/// Reads all pools.
pub(super) fn read(root: &Section<'_>) -> Vec<PoolConfig> {
    let sections = root.named_sections("pools");
    if sections.len() > MAX_POOLS {
        root.report("pools", format!("there may be {MAX_POOLS} at most"));
    }
    let mut pools: Vec<PoolConfig> = Vec::new();
    for (name, section) in &sections {
        let pool = read_one(name, section);
        for other in &pools {
            report_overlaps(section, &pool, other);
        }
        pools.push(pool);
    }
    pools
}

fn read_one(name: &str, section: &Section<'_>) -> PoolConfig {
    if !is_name(name) {
        section.report("", format!("the name of a pool {NAME_RULE}"));
    }
    let dns: Vec<IpAddr> = section.list("dns", "an address such as \"192.0.2.53\"");
    let day = Duration::from_secs(86400);
    let pool = PoolConfig {
        ipv4: section.list(
            "ipv4",
            "an IPv4 block with zero host bits or a range, such as \"10.64.0.0/16\" or \"10.64.0.10-10.64.0.99\"",
        ),
        ipv4_gateway: section.parsed("ipv4_gateway", "an IPv4 address"),
        ipv6: section.list("ipv6", "an IPv6 block of /64 or shorter, such as \"2001:db8::/48\""),
        dns4: dns.iter().filter_map(|ip| ipv4(*ip)).collect(),
        dns6: dns.iter().filter_map(|ip| ipv6(*ip)).collect(),
        nbns: section.list("nbns", "an IPv4 address"),
        allocation: section.choice(
            "allocation",
            Allocation::Random,
            &[("random", Allocation::Random), ("next", Allocation::Next)],
        ),
        sticky: section.duration("sticky", DEFAULT_STICKY, Duration::ZERO..=365 * day),
        hold_down: section.duration("hold_down", Duration::ZERO, Duration::ZERO..=day),
        ..PoolConfig::new(name)
    };
    if dns.len() > MAX_DNS {
        section.report("dns", format!("there may be {MAX_DNS} at most"));
    }
    if pool.nbns.len() > 2 {
        section.report(
            "nbns",
            "there may be 2 at most, as IPCP carries no more (RFC 1877)",
        );
    }
    check_blocks(section, &pool);
    pool
}

fn ipv4(ip: IpAddr) -> Option<std::net::Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(ip: IpAddr) -> Option<std::net::Ipv6Addr> {
    match ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    }
}

fn overlap4(a: Ipv4Block, b: Ipv4Block) -> bool {
    let ((a_first, a_last), (b_first, b_last)) = (a.bounds(), b.bounds());
    a_first <= b_last && b_first <= a_last
}

fn check_blocks(section: &Section<'_>, pool: &PoolConfig) {
    if pool.ipv4.len() > MAX_BLOCKS {
        section.report("ipv4", format!("there may be {MAX_BLOCKS} blocks at most"));
    }
    if pool.ipv6.len() > MAX_BLOCKS {
        section.report("ipv6", format!("there may be {MAX_BLOCKS} blocks at most"));
    }
    for (index, block) in pool.ipv4.iter().enumerate() {
        let (first, last) = block.bounds();
        if u64::from(u32::from(last).saturating_sub(u32::from(first))) >= MAX_IPV4_UNITS {
            section.report("ipv4", format!("{block} is larger than a /8"));
        }
        if pool.ipv4.iter().take(index).any(|other| overlap4(*other, *block)) {
            section.report("ipv4", format!("{block} overlaps another block of this pool"));
        }
    }
    for (index, block) in pool.ipv6.iter().enumerate() {
        if !(16..=64).contains(&block.length()) {
            section.report(
                "ipv6",
                format!("{block} must be a /16 to a /64: each session gets a /64"),
            );
        }
        if pool.ipv6.iter().take(index).any(|other| overlap6(other, block)) {
            section.report("ipv6", format!("{block} overlaps another block of this pool"));
        }
    }
    if pool
        .ipv4_gateway
        .is_some_and(|gateway| gateway.is_unspecified() || gateway.is_multicast())
    {
        section.report("ipv4_gateway", "must be an address a host can have");
    }
}

fn overlap6(a: &Ipv6Prefix, b: &Ipv6Prefix) -> bool {
    a.contains(b.address()) || b.contains(a.address())
}

fn report_overlaps(section: &Section<'_>, pool: &PoolConfig, other: &PoolConfig) {
    let name = &other.name;
    for block in &pool.ipv4 {
        if other.ipv4.iter().any(|theirs| overlap4(*theirs, *block)) {
            section.report("ipv4", format!("{block} overlaps a block of the pool {name}"));
        }
    }
    for block in &pool.ipv6 {
        if other.ipv6.iter().any(|theirs| overlap6(theirs, block)) {
            section.report("ipv6", format!("{block} overlaps a block of the pool {name}"));
        }
    }
}
