//! What an address pool is.

use crate::blocks::Ipv4Block;
use sluice_auth::Ipv6Prefix;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How long a user's last address is kept for it, by default.
pub const DEFAULT_STICKY: Duration = Duration::from_secs(24 * 3600);

/// How a pool chooses among its free addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// Any: an outsider cannot guess who is where.
    #[default]
    Random,
    /// The one after the last one given.
    Next,
}

/// One address pool. Blocks of pools should not overlap; where they do, an address is still given only once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name, unique among pools.
    pub name: String,
    /// IPv4 blocks, one address for each session.
    pub ipv4: Vec<Ipv4Block>,
    /// Our own IPv4 address on the links; `None`: the first usable address of the first block.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// IPv6 blocks of /64 or shorter, one /64 for each session.
    pub ipv6: Vec<Ipv6Prefix>,
    /// Name servers for IPCP.
    pub dns4: Vec<Ipv4Addr>,
    /// Name servers for router advertisements.
    pub dns6: Vec<Ipv6Addr>,
    /// NetBIOS name servers for IPCP.
    pub nbns: Vec<Ipv4Addr>,
    /// How it chooses.
    pub allocation: Allocation,
    /// How long the address of a user who left is kept for the same user; zero: not at all. Where nothing else
    /// is left, the address kept for the longest time goes to somebody else.
    pub sticky: Duration,
    /// How long nobody but the same user gets an address that was used; zero: it is free at once.
    pub hold_down: Duration,
}

impl PoolConfig {
    /// An empty pool with defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ipv4: Vec::new(),
            ipv4_gateway: None,
            ipv6: Vec::new(),
            dns4: Vec::new(),
            dns6: Vec::new(),
            nbns: Vec::new(),
            allocation: Allocation::default(),
            sticky: DEFAULT_STICKY,
            hold_down: Duration::ZERO,
        }
    }

    /// Our own IPv4 address on the links of the pool's sessions; `None` where it has no IPv4 blocks.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let first = self.ipv4.first().map(|block| block.usable().0);
        first.map(|first| self.ipv4_gateway.unwrap_or(first))
    }
}
