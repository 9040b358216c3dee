//! The way out: what this host must do for packets of clients to reach the world and come back.
//!
//! [`apply`] brings the host from what it is to what is wanted: TUN device up with its MTU and the gateway's
//! addresses, routes for the pools, forwarding, and masquerading by an nftables table of our own. It looks first and
//! changes only what differs, so it can be called again after a restart of the worker (which changes nothing, as
//! the keeper kept the TUN device) and after a reload. [`plan`] tells what it would do; [`revert`] takes away what
//! is the gateway's own. Everything goes by netlink and /proc/sys; no program is run.
//!
//! All calls block for at most a few milliseconds of kernel time. They belong to the start, to a reload and to
//! the end, not to a shard thread.

mod netlink;
mod nft;
mod plan;
mod prefixes;
mod route;
mod sysctl;
#[cfg(test)]
mod tests;

use crate::config::{Forwarding, Network};
use nft::Nftables;
use route::Rtnetlink;
use rustix::thread::CapabilitySet;
use serde::Serialize;
use sluice_auth::IpPrefix;
use sluice_core::PoolConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

pub use nft::{Masquerade, MasqueradeCount};
pub use plan::plan;
pub use prefixes::{cover, merge};

/// The gateway's link-local address on the TUN device: the router of RFC 4291's first interface identifier, as
/// routers by custom have it.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What is wanted of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Name of the TUN device.
    pub tun: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The gateway's own addresses on the links of clients.
    pub gateways: Vec<IpAddr>,
    /// Blocks that lead to the TUN device.
    pub blocks: Vec<IpPrefix>,
    /// Those whose packets leave with this host's own address.
    pub masquerade: Vec<IpPrefix>,
    /// Interfaces that masquerading is limited to; empty: all but the TUN device.
    pub masquerade_interfaces: Vec<String>,
    /// What is done about forwarding.
    pub forwarding: Forwarding,
}

impl HostConfig {
    /// What the configuration wants. With masquerading on, all IPv4 blocks are masqueraded and those IPv6 blocks
    /// that nobody else can route back to: unique local ones (RFC 4193).
    pub fn new<'a>(network: &Network, pools: impl IntoIterator<Item = &'a PoolConfig>) -> Self {
        let (mut gateways, mut blocks) = (Vec::new(), Vec::new());
        for pool in pools {
            gateways.extend(pool.gateway().map(IpAddr::V4));
            for block in &pool.ipv4 {
                let (first, last) = block.bounds();
                blocks.extend(cover(first, last));
            }
            let v6 = |block: &sluice_auth::Ipv6Prefix| IpPrefix::new(block.address().into(), block.length());
            blocks.extend(pool.ipv6.iter().filter_map(v6));
        }
        gateways.sort();
        gateways.dedup();
        let blocks = merge(blocks);
        let private = |block: &&IpPrefix| match block.address() {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.is_unique_local(),
        };
        let masquerade = if network.masquerade {
            blocks.iter().filter(private).copied().collect()
        } else {
            Vec::new()
        };
        Self {
            tun: network.tun.clone(),
            mtu: network.mtu.into(),
            gateways,
            blocks,
            masquerade,
            masquerade_interfaces: network.masquerade_interfaces.clone(),
            forwarding: network.forwarding,
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub length: u8,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub prefix: IpPrefix,
    /// Number of the interface it leaves by; `None`: it drops.
    pub link: Option<u32>,
    /// Who made it, as the kernel numbers them (RTPROT_ in linux/rtnetlink.h).
    pub protocol: u8,
}

/// What the host is like now.
#[derive(Clone, Debug)]
pub struct HostState {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes of the main table.
    pub routes: Vec<Route>,
    /// Settings by their path under /proc/sys; one that is missing there is missing here.
    pub settings: BTreeMap<String, String>,
    /// Our nftables table: absent, there and as wanted (`true`) or otherwise, or why it cannot be seen.
    pub masquerade: Result<Option<bool>, String>,
    /// Chains of others that drop what is forwarded unless a rule says otherwise.
    pub dropping_forward_chains: Vec<String>,
}

impl HostState {
    fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    fn link_name(&self, index: u32) -> Option<&str> {
        self.links
            .iter()
            .find(|link| link.index == index)
            .map(|link| link.name.as_str())
    }

    fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }
}

/// One change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A setting under /proc/sys.
    Setting {
        /// Its path there.
        key: String,
        /// What it is.
        from: String,
        /// What it becomes.
        to: String,
        /// So that…
        why: &'static str,
    },
    /// The MTU of an interface.
    Mtu {
        /// Its name.
        link: String,
        /// What it is; `None`: the interface is not there yet.
        from: Option<u32>,
        /// What it becomes.
        to: u32,
    },
    /// An interface is switched on.
    Up {
        /// Its name.
        link: String,
    },
    /// An address is added.
    AddAddress {
        /// Name of the interface.
        link: String,
        /// The address.
        address: IpAddr,
        /// Length of its prefix in bits.
        length: u8,
    },
    /// An address is taken away.
    RemoveAddress {
        /// Name of the interface.
        link: String,
        /// The address.
        address: IpAddr,
        /// Length of its prefix in bits.
        length: u8,
    },
    /// A route is added.
    AddRoute {
        /// Name of the interface.
        link: String,
        /// Where it leads.
        prefix: IpPrefix,
    },
    /// A route is taken away.
    RemoveRoute {
        /// Name of the interface.
        link: String,
        /// Where it leads.
        prefix: IpPrefix,
    },
    /// Our nftables table is made, or replaced.
    Masquerade(Masquerade),
    /// Our nftables table is removed.
    RemoveMasquerade,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { key, from, to, why } => {
                write!(f, "set {} from {from} to {to}, so that {why}", sysctl::name(key))
            }
            Self::Mtu {
                link,
                from: Some(from),
                to,
            } => {
                write!(f, "set the MTU of {link} from {from} to {to} bytes")
            }
            Self::Mtu { link, from: None, to } => write!(f, "set the MTU of {link} to {to} bytes"),
            Self::Up { link } => write!(f, "switch {link} on"),
            Self::AddAddress {
                link,
                address,
                length,
            } => write!(f, "add the address {address}/{length} to {link}"),
            Self::RemoveAddress {
                link,
                address,
                length,
            } => {
                write!(f, "remove the address {address}/{length} from {link}")
            }
            Self::AddRoute { link, prefix } => write!(f, "route {prefix} to {link}"),
            Self::RemoveRoute { link, prefix } => write!(f, "remove the route for {prefix} to {link}"),
            Self::Masquerade(masquerade) => {
                let blocks: Vec<String> = masquerade.blocks.iter().map(IpPrefix::to_string).collect();
                write!(f, "masquerade {} ", blocks.join(", "))?;
                if masquerade.interfaces.is_empty() {
                    write!(f, "on all interfaces but {}", masquerade.tun)?;
                } else {
                    write!(f, "on {}", masquerade.interfaces.join(", "))?;
                }
                write!(f, ", by the nftables table inet {}", nft::TABLE)
            }
            Self::RemoveMasquerade => write!(f, "remove the nftables table inet {}", nft::TABLE),
        }
    }
}

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Forwarding between interfaces.
    Forwarding,
    /// The host's reverse-path filter.
    ReversePath,
    /// Firewall rules of others.
    Firewall,
    /// IPv6 on this host.
    Ipv6,
    /// Masquerading.
    Masquerade,
}

/// Something about the host that its operator should know: one line that says what is so and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// What it is about.
    pub topic: Topic,
    /// The line.
    pub text: String,
}

/// What has to change, in the order it is done, and what else is worth knowing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The changes. None: all is as wanted.
    pub changes: Vec<Change>,
    /// Remarks.
    pub notices: Vec<Notice>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes made.
    pub done: Vec<Change>,
    /// Changes that failed, each with the reason and, where there is one, a remedy. The others were made.
    pub failed: Vec<(Change, String)>,
    /// Remarks.
    pub notices: Vec<Notice>,
}

/// Why the host was left as it is.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Something on the host is in the way.
    #[error("{}", .0.join("; "))]
    Conflicts(Vec<String>),
    /// The kernel does not answer.
    #[error("cannot see this host's network: {0}")]
    Netlink(#[from] io::Error),
}

/// Why nothing of this module can work for this process: one line that says which services are off and what to
/// do. `None` if it can.
pub fn obstacle() -> Option<String> {
    let sets = rustix::thread::capabilities(None).ok();
    let capable = sets.is_some_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN));
    (!capable).then(|| {
        "no CAP_NET_ADMIN: the TUN device, its addresses and routes, forwarding and masquerading are off, so \
         clients can connect and log in but their packets lead nowhere; start as root, or give the program the \
         capability with `setcap cap_net_admin,cap_net_raw,cap_net_bind_service+ep`"
            .to_owned()
    })
}

/// All addresses of this host.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let addresses = Rtnetlink::open()?.addresses()?;
    Ok(addresses.into_iter().map(|address| address.address).collect())
}

/// Looks at the host. Needs no privilege, except to see nftables.
pub fn inspect(config: &HostConfig) -> Result<HostState, HostError> {
    let mut rtnetlink = Rtnetlink::open()?;
    let mut state = HostState {
        links: rtnetlink.links()?,
        addresses: rtnetlink.addresses()?,
        routes: rtnetlink.routes()?,
        settings: BTreeMap::new(),
        masquerade: Ok(None),
        dropping_forward_chains: Vec::new(),
    };
    let keys = plan::settings(config, &state);
    state.settings = keys
        .into_iter()
        .filter_map(|key| sysctl::read(&key).map(|value| (key, value)))
        .collect();
    match inspect_nftables(config) {
        Ok((masquerade, chains)) => {
            state.masquerade = Ok(masquerade);
            state.dropping_forward_chains = chains;
        }
        // Unseen for lack of privilege: the plan then shows the table that would be made.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => state.masquerade = Err(error.to_string()),
    }
    Ok(state)
}

fn inspect_nftables(config: &HostConfig) -> io::Result<(Option<bool>, Vec<String>)> {
    let mut nftables = Nftables::open()?;
    let masquerade = match (nftables.present()?, config.masquerade()) {
        (false, _) => None,
        (true, None) => Some(false),
        (true, Some(wanted)) => Some(nftables.matches(&wanted)?),
    };
    Ok((masquerade, nftables.dropping_forward_chains()?))
}

/// Brings the host to what is wanted. The TUN device must be there. Needs CAP_NET_ADMIN; see [`obstacle`].
pub fn apply(config: &HostConfig) -> Result<Outcome, HostError> {
    let plan = plan(config, &inspect(config)?)?;
    Ok(Outcome {
        notices: plan.notices,
        ..perform(plan.changes)?
    })
}

/// Takes away what is the gateway's own: its table, routes and addresses. For the end of the gateway, not for a
/// restart of the worker. Forwarding stays on: others may rely on it by now.
pub fn revert(config: &HostConfig) -> Result<Outcome, HostError> {
    perform(plan::removal(config, &inspect(config)?))
}

/// Counters of the masqueraded blocks; empty if there is no table.
pub fn masquerade_counts() -> io::Result<Vec<MasqueradeCount>> {
    Nftables::open()?.counts()
}

fn perform(changes: Vec<Change>) -> Result<Outcome, HostError> {
    let mut rtnetlink = Rtnetlink::open()?;
    let indices: BTreeMap<String, u32> = rtnetlink
        .links()?
        .into_iter()
        .map(|link| (link.name, link.index))
        .collect();
    let mut outcome = Outcome::default();
    for change in changes {
        match perform_one(&mut rtnetlink, &indices, &change) {
            Ok(()) => outcome.done.push(change),
            Err(error) => {
                let reason = explain(&change, &error);
                outcome.failed.push((change, reason));
            }
        }
    }
    Ok(outcome)
}

fn perform_one(
    rtnetlink: &mut Rtnetlink,
    indices: &BTreeMap<String, u32>,
    change: &Change,
) -> io::Result<()> {
    let index = |link: &String| {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {link}"));
        indices.get(link).copied().ok_or_else(missing)
    };
    match change {
        Change::Setting { key, to, .. } => sysctl::write(key, to),
        Change::Mtu { link, to, .. } => rtnetlink.set_mtu(index(link)?, *to),
        Change::Up { link } => rtnetlink.set_up(index(link)?),
        Change::AddAddress {
            link,
            address,
            length,
        } => rtnetlink.add_address(index(link)?, *address, *length),
        Change::RemoveAddress {
            link,
            address,
            length,
        } => rtnetlink.remove_address(index(link)?, *address, *length),
        Change::AddRoute { link, prefix } => rtnetlink.add_route(index(link)?, *prefix),
        Change::RemoveRoute { link, prefix } => rtnetlink.remove_route(index(link)?, *prefix),
        Change::Masquerade(masquerade) => Nftables::open()?.install(masquerade),
        Change::RemoveMasquerade => Nftables::open()?.remove(),
    }
}

/// A failure in plain words, with a remedy where one is known.
fn explain(change: &Change, error: &io::Error) -> String {
    match (change, error.raw_os_error()) {
        (Change::Setting { key, to, .. }, Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {
            let name = sysctl::name(key);
            format!("{error}; run `sysctl -w {name}={to}` on the host (in a container, where it is started)")
        }
        (_, Some(libc::EPERM)) => format!("{error}; this needs CAP_NET_ADMIN"),
        (Change::Masquerade(_), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) => {
            format!("{error}; this kernel has no nftables with masquerading (CONFIG_NFT_MASQ)")
        }
        _ => error.to_string(),
    }
}
