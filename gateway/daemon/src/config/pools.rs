//! Address pools: `[pools.NAME]`.

use super::listeners::{NAME_RULE, is_name};
use sluice_auth::Ipv6Prefix;
use sluice_spi::config::Section;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// The pool that users get their addresses from where nothing else is said.
pub const DEFAULT_POOL: &str = "default";

/// Most pools: each is a label of the pool metrics.
pub(super) const MAX_POOLS: usize = 256;

/// Most blocks of one pool.
pub(super) const MAX_BLOCKS: usize = 256;

/// Most DNS servers of one pool: IPCP carries two (RFC 1877), a router advertisement a few more (RFC 8106).
pub(super) const MAX_DNS: usize = 8;

/// An IPv4 block in CIDR notation, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Block {
    address: Ipv4Addr,
    length: u8,
}

impl Ipv4Block {
    /// The first address of the block.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of the prefix in bits, 0 to 32.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.length) == u32::from(self.address)
    }

    fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl fmt::Display for Ipv4Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Text that is no IPv4 block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 block such as 192.0.2.0/24")]
pub struct BlockError;

impl FromStr for Ipv4Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let (address, length) = text.split_once('/').ok_or(BlockError)?;
        let address: Ipv4Addr = address.parse().map_err(|_| BlockError)?;
        let length: u8 = length.parse().map_err(|_| BlockError)?;
        if length > 32 || u32::from(address) & !mask(length) != 0 {
            return Err(BlockError);
        }
        Ok(Self { address, length })
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

/// One pool of addresses with what its users are told besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name, unique among pools.
    pub name: String,
    /// IPv4 blocks given to users, one address each.
    pub ipv4: Vec<Ipv4Block>,
    /// Our own IPv4 address on the links; `None`: the first usable address of the first block.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// IPv6 blocks given to users, one /64 each.
    pub ipv6: Vec<Ipv6Prefix>,
    /// DNS servers for IPCP.
    pub dns4: Vec<Ipv4Addr>,
    /// DNS servers for router advertisements.
    pub dns6: Vec<Ipv6Addr>,
    /// NetBIOS name servers for IPCP.
    pub nbns: Vec<Ipv4Addr>,
    /// How long the address of a user who left is kept for the same user.
    pub sticky: Duration,
}

/// Reads all pools.
pub(super) fn read(root: &Section<'_>) -> Vec<Pool> {
    let sections = root.named_sections("pools");
    if sections.len() > MAX_POOLS {
        root.report("pools", format!("there may be {MAX_POOLS} at most"));
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (name, section) in &sections {
        let pool = read_one(name, section);
        for other in &pools {
            report_overlaps(section, &pool, other);
        }
        pools.push(pool);
    }
    pools
}

fn read_one(name: &str, section: &Section<'_>) -> Pool {
    if !is_name(name) {
        section.report("", format!("the name of a pool {NAME_RULE}"));
    }
    let dns: Vec<std::net::IpAddr> = section.list("dns", "an address such as \"192.0.2.53\"");
    let pool = Pool {
        name: name.to_owned(),
        ipv4: section.list(
            "ipv4",
            "an IPv4 block with zero host bits, such as \"10.64.0.0/16\"",
        ),
        ipv4_gateway: section.parsed("ipv4_gateway", "an IPv4 address"),
        ipv6: section.list(
            "ipv6",
            "an IPv6 block of /64 or shorter, such as \"2001:db8::/48\"",
        ),
        dns4: dns
            .iter()
            .filter_map(|ip| match ip {
                std::net::IpAddr::V4(ip) => Some(*ip),
                std::net::IpAddr::V6(_) => None,
            })
            .collect(),
        dns6: dns
            .iter()
            .filter_map(|ip| match ip {
                std::net::IpAddr::V6(ip) => Some(*ip),
                std::net::IpAddr::V4(_) => None,
            })
            .collect(),
        nbns: section.list("nbns", "an IPv4 address"),
        sticky: section.duration(
            "sticky",
            Duration::from_secs(24 * 3600),
            Duration::ZERO..=Duration::from_secs(365 * 86400),
        ),
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

fn check_blocks(section: &Section<'_>, pool: &Pool) {
    if pool.ipv4.len() > MAX_BLOCKS {
        section.report("ipv4", format!("there may be {MAX_BLOCKS} blocks at most"));
    }
    if pool.ipv6.len() > MAX_BLOCKS {
        section.report("ipv6", format!("there may be {MAX_BLOCKS} blocks at most"));
    }
    for (index, block) in pool.ipv4.iter().enumerate() {
        if block.length() < 8 {
            section.report("ipv4", format!("{block} is larger than a /8"));
        }
        if pool.ipv4.iter().take(index).any(|other| other.overlaps(*block)) {
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

fn report_overlaps(section: &Section<'_>, pool: &Pool, other: &Pool) {
    let name = &other.name;
    for block in &pool.ipv4 {
        if other.ipv4.iter().any(|theirs| theirs.overlaps(*block)) {
            section.report("ipv4", format!("{block} overlaps a block of the pool {name}"));
        }
    }
    for block in &pool.ipv6 {
        if other.ipv6.iter().any(|theirs| overlap6(theirs, block)) {
            section.report("ipv6", format!("{block} overlaps a block of the pool {name}"));
        }
    }
}
