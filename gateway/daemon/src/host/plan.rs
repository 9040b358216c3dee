//! What has to change on the host, worked out from what is wanted and what is there.

use super::nft::Masquerade;
use super::prefixes::{covers, host};
use super::route::OUR_PROTOCOL;
use super::sysctl::{name, of_link};
use super::{Address, Change, HostConfig, HostError, HostState, LINK_LOCAL, Notice, Plan, Topic};
use crate::config::Forwarding;
use sluice_auth::IpPrefix;
use std::collections::BTreeSet;
use std::net::IpAddr;

const IPV4_FORWARD: &str = "net/ipv4/ip_forward";
const IPV6_FORWARD: &str = "net/ipv6/conf/all/forwarding";
/// Origin of routes learned from router advertisements (RTPROT_RA in linux/rtnetlink.h).
const FROM_ADVERTISEMENTS: u8 = 9;
const STRICT: &str = "1";
const LOOSE: &str = "2";

/// Works out what has to change. It fails if something on the host is in the way.
pub fn plan(config: &HostConfig, state: &HostState) -> Result<Plan, HostError> {
    let conflicts = conflicts(config, state);
    if !conflicts.is_empty() {
        return Err(HostError::Conflicts(conflicts));
    }
    let mut planner = Planner {
        config,
        state,
        plan: Plan::default(),
    };
    planner.link();
    planner.addresses();
    planner.routes();
    planner.forwarding();
    planner.reverse_path();
    planner.masquerade();
    planner.firewall();
    Ok(planner.plan)
}

/// The settings a plan depends on.
pub(super) fn settings(config: &HostConfig, state: &HostState) -> BTreeSet<String> {
    let mut keys: BTreeSet<String> = [IPV4_FORWARD, IPV6_FORWARD].map(str::to_owned).into();
    for setting in ["disable_ipv6", "accept_ra", "addr_gen_mode"] {
        keys.insert(of_link("ipv6", &config.tun, setting));
        keys.insert(of_link("ipv6", "default", setting));
    }
    for link in ["all", "default", &config.tun] {
        keys.insert(of_link("ipv4", link, "rp_filter"));
    }
    for exit in exits(config, state) {
        keys.insert(of_link("ipv4", exit, "rp_filter"));
        keys.insert(of_link("ipv6", exit, "accept_ra"));
    }
    keys
}

/// Names of the interfaces that default routes leave by.
fn exits<'a>(config: &HostConfig, state: &'a HostState) -> BTreeSet<&'a str> {
    let defaults = state.routes.iter().filter(|route| route.prefix.length() == 0);
    defaults
        .filter_map(|route| state.link_name(route.link?))
        .filter(|name| *name != config.tun)
        .collect()
}

/// Everything on the host that is in the way of the pools, in plain words.
fn conflicts(config: &HostConfig, state: &HostState) -> Vec<String> {
    let tun = state.link_named(&config.tun).map(|link| link.index);
    let mut conflicts = Vec::new();
    let elsewhere = |address: &&Address| Some(address.link) != tun;
    for address in state.addresses.iter().filter(elsewhere) {
        let on = state.link_name(address.link).unwrap_or("another interface");
        let own = address.address;
        if config.gateways.contains(&own) {
            conflicts.push(format!(
                "the gateway's address {own} is already on {on}; choose another for its pool"
            ));
        } else if let Some(block) = config.blocks.iter().find(|block| block.contains(own)) {
            conflicts.push(format!(
                "{own} on {on} lies in the pool's block {block}; choose another block"
            ));
        }
    }
    let others = state
        .routes
        .iter()
        .filter(|route| route.link.is_none() || route.link != tun);
    for route in others {
        if let Some(block) = config.blocks.iter().find(|block| covers(block, &route.prefix)) {
            let by = route.link.and_then(|link| state.link_name(link));
            let by = by.map_or_else(|| "to nowhere".to_owned(), |name| format!("by {name}"));
            conflicts.push(format!(
                "the host has a route for {} {by}, which lies in the pool's block {block}; remove the route or \
                 choose another block",
                route.prefix
            ));
        }
    }
    conflicts.sort();
    conflicts.dedup();
    conflicts
}

struct Planner<'a> {
    config: &'a HostConfig,
    state: &'a HostState,
    plan: Plan,
}

impl Planner<'_> {
    fn notice(&mut self, topic: Topic, text: String) {
        self.plan.notices.push(Notice { topic, text });
    }

    fn wants(&self, v4: bool) -> bool {
        let blocks = self.config.blocks.iter().map(|block| block.address());
        blocks
            .chain(self.config.gateways.iter().copied())
            .any(|address| address.is_ipv4() == v4)
    }

    /// Whether addresses of a family can be set on the TUN device. IPv6 can be switched off on a host.
    fn usable(&self, v4: bool) -> bool {
        v4 || self
            .tun_setting("ipv6", "disable_ipv6")
            .is_some_and(|value| value == "0")
    }

    /// A setting of the TUN device, or what it will begin with.
    fn tun_setting(&self, family: &str, setting: &str) -> Option<&str> {
        let own = self.state.setting(&of_link(family, &self.config.tun, setting));
        own.or_else(|| self.state.setting(&of_link(family, "default", setting)))
    }

    fn set(&mut self, key: String, from: &str, to: &str, why: &'static str) {
        let change = Change::Setting {
            key,
            from: from.to_owned(),
            to: to.to_owned(),
            why,
        };
        self.plan.changes.push(change);
    }

    fn link(&mut self) {
        let (tun, mtu) = (self.config.tun.clone(), self.config.mtu);
        let link = self.state.link_named(&tun);
        if self.wants(false) && self.usable(false) {
            for (setting, value, why) in [
                ("addr_gen_mode", "1", "its link-local address is the gateway's"),
                ("accept_ra", "0", "clients are no routers for this host"),
            ] {
                if let Some(from) = self.tun_setting("ipv6", setting).map(str::to_owned)
                    && from != value
                {
                    self.set(of_link("ipv6", &tun, setting), &from, value, why);
                }
            }
        }
        if link.is_none_or(|link| link.mtu != mtu) {
            self.plan.changes.push(Change::Mtu {
                link: tun.clone(),
                from: link.map(|link| link.mtu),
                to: mtu,
            });
        }
        if !link.is_some_and(|link| link.up) {
            self.plan.changes.push(Change::Up { link: tun });
        }
    }

    fn addresses(&mut self) {
        let mut wanted = self.config.gateways.clone();
        if self.wants(false) {
            wanted.push(IpAddr::V6(LINK_LOCAL));
            if !self.usable(false) {
                let text = "IPv6 is switched off on this host: IPv6 pools lead nowhere; set \
                            net.ipv6.conf.default.disable_ipv6 = 0, or give the pools no IPv6 blocks";
                self.notice(Topic::Ipv6, text.to_owned());
            }
        }
        wanted.retain(|address| self.usable(address.is_ipv4()));
        wanted.sort();
        wanted.dedup();
        let tun = self.state.link_named(&self.config.tun).map(|link| link.index);
        let present: Vec<&Address> = self
            .state
            .addresses
            .iter()
            .filter(|address| Some(address.link) == tun)
            .collect();
        let link = &self.config.tun;
        for address in &present {
            let right = host(address.address).map(|prefix| prefix.length()) == Some(address.length)
                || address.address == IpAddr::V6(LINK_LOCAL);
            if !(right && wanted.contains(&address.address)) {
                let change = Change::RemoveAddress {
                    link: link.clone(),
                    address: address.address,
                    length: address.length,
                };
                self.plan.changes.push(change);
            }
        }
        for address in wanted {
            let length = match address {
                IpAddr::V6(LINK_LOCAL) => 64,
                IpAddr::V6(_) => 128,
                IpAddr::V4(_) => 32,
            };
            if !present
                .iter()
                .any(|there| there.address == address && there.length == length)
            {
                self.plan.changes.push(Change::AddAddress {
                    link: link.clone(),
                    address,
                    length,
                });
            }
        }
    }

    fn routes(&mut self) {
        let tun = self.state.link_named(&self.config.tun).map(|link| link.index);
        let link = &self.config.tun;
        let present = |prefix: &IpPrefix| {
            self.state
                .routes
                .iter()
                .any(|route| route.link.is_some() && route.link == tun && route.prefix == *prefix)
        };
        for route in &self.state.routes {
            let ours = route.protocol == OUR_PROTOCOL && route.link.is_some() && route.link == tun;
            if ours && !self.config.blocks.contains(&route.prefix) {
                let change = Change::RemoveRoute {
                    link: link.clone(),
                    prefix: route.prefix,
                };
                self.plan.changes.push(change);
            }
        }
        for &prefix in &self.config.blocks {
            if self.usable(prefix.address().is_ipv4()) && !present(&prefix) {
                self.plan.changes.push(Change::AddRoute {
                    link: link.clone(),
                    prefix,
                });
            }
        }
    }

    fn forwarding(&mut self) {
        if self.wants(true) {
            self.forward(IPV4_FORWARD, "IPv4");
        }
        if self.wants(false) && self.usable(false) {
            if self.config.forwarding == Forwarding::Enable && self.state.setting(IPV6_FORWARD) == Some("0") {
                self.keep_advertised_routes();
            }
            self.forward(IPV6_FORWARD, "IPv6");
        }
    }

    fn forward(&mut self, key: &str, family: &str) {
        let value = self.state.setting(key).map(str::to_owned);
        match (value.as_deref(), self.config.forwarding) {
            (Some("0"), Forwarding::Enable) => {
                self.set(key.to_owned(), "0", "1", "packets of clients are forwarded");
            }
            (Some("0"), Forwarding::Check) => {
                let text = format!(
                    "this host does not forward {family}: clients reach the gateway and nothing else; run \
                     `sysctl -w {}=1`, or set network.forwarding = \"enable\"",
                    name(key)
                );
                self.notice(Topic::Forwarding, text);
            }
            _ => {}
        }
    }

    /// A host that forwards IPv6 stops listening to router advertisements, and would lose the default route it
    /// got from one, unless `accept_ra` is 2.
    fn keep_advertised_routes(&mut self) {
        let advertised = |link: u32| {
            let mut routes = self.state.routes.iter();
            routes.any(|route| {
                let v6_default = route.prefix.length() == 0 && route.prefix.address().is_ipv6();
                v6_default && route.link == Some(link) && route.protocol == FROM_ADVERTISEMENTS
            })
        };
        let links: Vec<String> = self
            .state
            .links
            .iter()
            .filter(|link| advertised(link.index))
            .map(|link| link.name.clone())
            .collect();
        for link in links {
            let key = of_link("ipv6", &link, "accept_ra");
            if self.state.setting(&key) == Some("1") {
                self.set(
                    key,
                    "1",
                    "2",
                    "this host keeps its advertised default route while it forwards",
                );
            }
        }
    }

    /// Reverse-path filters of the host drop packets silently, so each that may is named.
    fn reverse_path(&mut self) {
        if !self.wants(true) {
            return;
        }
        let of = |link: &str| {
            self.state
                .setting(&of_link("ipv4", link, "rp_filter"))
                .unwrap_or("0")
                .to_owned()
        };
        // The kernel uses the larger of the two (ip-sysctl.rst).
        let effective = |link: &str| of("all").max(of(link));
        let tun = self.config.tun.clone();
        let own = self.tun_setting("ipv4", "rp_filter").unwrap_or("0").to_owned();
        if of("all").max(own.clone()) == STRICT {
            if self.config.forwarding == Forwarding::Enable {
                let why =
                    "addresses of users outside the pools are not dropped; the gateway checks sources itself";
                self.set(of_link("ipv4", &tun, "rp_filter"), &own, LOOSE, why);
            } else {
                let text = format!(
                    "the reverse-path filter of {tun} is strict: packets of users whose address lies in no pool are \
                     dropped by the host; run `sysctl -w {}=2` if there are any",
                    name(&of_link("ipv4", &tun, "rp_filter"))
                );
                self.notice(Topic::ReversePath, text);
            }
        }
        let exits: Vec<String> = exits(self.config, self.state)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if exits.len() > 1 {
            for exit in exits.iter().filter(|exit| effective(exit) == STRICT) {
                let text = format!(
                    "the reverse-path filter of {exit} is strict and this host has {} ways out: answers to clients \
                     that come back another way are dropped; run `sysctl -w {}=2`",
                    exits.len(),
                    name(&of_link("ipv4", exit, "rp_filter"))
                );
                self.notice(Topic::ReversePath, text);
            }
        }
    }

    fn masquerade(&mut self) {
        let wanted = self.config.masquerade();
        match (&wanted, &self.state.masquerade) {
            (_, Err(reason)) if wanted.is_some() => {
                let text = format!("masquerading is off: this host's nftables do not answer ({reason})");
                self.notice(Topic::Masquerade, text);
            }
            (Some(wanted), Ok(Some(false) | None)) => {
                self.plan.changes.push(Change::Masquerade(wanted.clone()));
            }
            (None, Ok(Some(_))) => self.plan.changes.push(Change::RemoveMasquerade),
            _ => {}
        }
    }

    fn firewall(&mut self) {
        for chain in self.state.dropping_forward_chains.clone() {
            let tun = &self.config.tun;
            let text = format!(
                "the firewall chain {chain} drops what is forwarded unless one of its rules says otherwise: let it \
                 accept packets from and to {tun}"
            );
            self.notice(Topic::Firewall, text);
        }
    }
}

/// What is left to take away when the gateway ends for good. Settings stay: others may rely on them by then.
pub(super) fn removal(config: &HostConfig, state: &HostState) -> Vec<Change> {
    let mut changes = Vec::new();
    if !matches!(state.masquerade, Ok(None)) {
        changes.push(Change::RemoveMasquerade);
    }
    let Some(tun) = state.link_named(&config.tun) else {
        return changes;
    };
    let link = || config.tun.clone();
    for route in &state.routes {
        if route.link == Some(tun.index) && route.protocol == OUR_PROTOCOL {
            changes.push(Change::RemoveRoute {
                link: link(),
                prefix: route.prefix,
            });
        }
    }
    for address in state.addresses.iter().filter(|address| address.link == tun.index) {
        let Address { address, length, .. } = *address;
        changes.push(Change::RemoveAddress {
            link: link(),
            address,
            length,
        });
    }
    changes
}

impl HostConfig {
    /// The table wanted, if any.
    pub(super) fn masquerade(&self) -> Option<Masquerade> {
        (!self.masquerade.is_empty()).then(|| Masquerade {
            blocks: self.masquerade.clone(),
            interfaces: self.masquerade_interfaces.clone(),
            tun: self.tun.clone(),
        })
    }
}
