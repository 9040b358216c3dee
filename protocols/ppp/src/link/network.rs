//! The Network phase: IPCP, IPV6CP, and the gateway as a neighbour on the link.

use super::{Phase, Ppp, parts};
use crate::api::{PppEvent, PppPath};
use crate::config::DEFAULT_MRU;
use crate::cp::{Cp, Options, Signals};
use crate::drops;
use crate::header::protocol;
use crate::ipcp::Ipcp;
use crate::ipv6cp::Ipv6cp;
use crate::neighbour::{self, MIN_MTU, Router, Schedule};
use crate::output::Env;
use crate::wire::{HEADER, Packet};
use sluice_auth::{Grants, Ipv6Prefix};
use sluice_spi::{AddressFilter, Ended, Severity, TerminateCause};
use std::time::Instant;

/// The network protocols of a link. There while LCP is open and authentication passed.
pub(super) struct Network {
    /// As the server what the peer was granted.
    pub(super) grants: Option<Box<Grants>>,
    /// `None`: not spoken on this link.
    pub(super) ipcp: Option<Cp<Ipcp>>,
    pub(super) ipv6cp: Option<Cp<Ipv6cp>>,
    pub(super) schedule: Schedule,
    /// When the link ends if no protocol is open by then.
    pub(super) deadline: Option<Instant>,
    /// What the carrier was told last.
    pub(super) path: Option<PppPath>,
}

impl Network {
    pub(super) fn timer(&self) -> Option<Instant> {
        let ipcp = self.ipcp.as_ref().and_then(Cp::timer);
        let ipv6cp = self.ipv6cp.as_ref().and_then(Cp::timer);
        [ipcp, ipv6cp, self.schedule.next, self.deadline]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn ipv6_is_open(&self) -> bool {
        self.ipv6cp.as_ref().is_some_and(Cp::is_open)
    }

    fn prefix(&self) -> Option<Ipv6Prefix> {
        self.grants.as_ref()?.ipv6_prefix
    }
}

/// Runs an expression on one of the control protocols, and acts on its signals.
macro_rules! with_ncp {
    ($link:ident, $field:ident, $now:expr, $cp:ident => $run:expr) => {
        if let Some(mut network) = $link.network.take() {
            let signals = match network.$field.as_mut() {
                Some($cp) => {
                    let signals = $run;
                    settle($cp, signals, parts!($link, $now))
                }
                None => Signals::default(),
            };
            $link.network = Some(network);
            $link.on_ncp(signals, $now);
        }
    };
}

/// A negotiation that cannot succeed closes its protocol, and only that.
fn settle<O: Options>(cp: &mut Cp<O>, signals: Signals, env: &mut Env<'_>) -> Signals {
    let Some(failure) = signals.failure else {
        return signals;
    };
    let name = protocol::name(O::PROTOCOL).unwrap_or("network protocol");
    env.out
        .notice(Severity::Warning, format!("{name} is given up: {failure:?}"));
    let closed = cp.close("negotiation does not converge", env);
    Signals {
        down: signals.down || closed.down,
        finished: true,
        ..Signals::default()
    }
}

impl Ppp {
    /// Largest IP packet towards the peer.
    pub(super) fn mtu(&self, grants: Option<&Grants>) -> u16 {
        let granted = grants.and_then(|grants| grants.mtu).unwrap_or(u16::MAX);
        self.peer_mru.min(self.carrier.mtu).min(granted)
    }

    /// Authentication passed: the network protocols begin.
    pub(super) fn enter_network(&mut self, grants: Option<Box<Grants>>, now: Instant) {
        self.phase = Phase::Network;
        let mtu = self.mtu(grants.as_deref());
        let ipcp = match &grants {
            Some(grants) => Ipcp::server(grants),
            None => Some(Ipcp::client()),
        };
        let has_prefix = grants.as_ref().is_none_or(|grants| grants.ipv6_prefix.is_some());
        let ipv6cp = (self.config.ipv6 && has_prefix && mtu >= MIN_MTU).then(|| match grants {
            Some(_) => Ipv6cp::server(),
            None => Ipv6cp::client(&mut *self.entropy),
        });
        self.network = Some(Box::new(Network {
            grants,
            ipcp: ipcp.map(Cp::new),
            ipv6cp: ipv6cp.map(Cp::new),
            schedule: Schedule::default(),
            deadline: Some(now + self.config.network_timeout),
            path: None,
        }));
        with_ncp!(self, ipcp, now, cp => { cp.open(parts!(self, now)); cp.up(parts!(self, now)) });
        with_ncp!(self, ipv6cp, now, cp => { cp.open(parts!(self, now)); cp.up(parts!(self, now)) });
        self.end_if_impossible(now);
        self.release_held(now);
    }

    /// LCP goes down, or the link ends: no user data may flow.
    pub(super) fn leave_network(&mut self) {
        if let Some(network) = self.network.take()
            && network.path.is_some()
        {
            self.out.event(PppEvent::PathChanged(None));
        }
    }

    pub(super) fn handle_ncp(&mut self, number: u16, information: &[u8], now: Instant) {
        let spoken = self.network.as_ref().is_some_and(|network| match number {
            protocol::IPCP => network.ipcp.is_some(),
            _ => network.ipv6cp.is_some(),
        });
        if !spoken {
            return self.reject_protocol(number, information, now);
        }
        let Ok(packet) = Packet::decode(information) else {
            return self.out.dropped(drops::MALFORMED);
        };
        if packet.body.len() + HEADER > usize::from(DEFAULT_MRU) {
            return self.out.dropped(drops::OVERSIZE);
        }
        if number == protocol::IPCP {
            with_ncp!(self, ipcp, now, cp => cp.handle(packet, parts!(self, now)));
        } else {
            with_ncp!(self, ipv6cp, now, cp => cp.handle(packet, parts!(self, now)));
        }
    }

    /// The peer does not speak one of our network protocols.
    pub(super) fn on_ncp_rejected(&mut self, number: u16, now: Instant) {
        let Some(network) = self.network.as_mut() else {
            return;
        };
        match number {
            protocol::IPCP | protocol::IPV4 => network.ipcp = None,
            _ => network.ipv6cp = None,
        }
        self.publish(now);
        self.end_if_impossible(now);
    }

    fn on_ncp(&mut self, signals: Signals, now: Instant) {
        if signals.up || signals.down {
            self.publish(now);
        }
        if signals.finished {
            self.end_if_impossible(now);
        }
    }

    /// Tells the carrier what may flow, if that changed.
    fn publish(&mut self, now: Instant) {
        let Some(network) = &self.network else { return };
        let path = self.current_path(network);
        let ipv6_is_open = network.ipv6_is_open();
        let Some(network) = self.network.as_mut() else {
            return;
        };
        if !ipv6_is_open {
            network.schedule = Schedule::default();
        } else if network.schedule.next.is_none() && network.prefix().is_some() {
            network.schedule.start(now);
        }
        network.deadline = match path {
            Some(_) => None,
            None => network.deadline.or(Some(now + self.config.network_timeout)),
        };
        if network.path == path {
            return;
        }
        network.path = path.clone();
        match path {
            Some(path) if !self.was_up => {
                self.was_up = true;
                let facts = self.facts();
                self.out.event(PppEvent::Up { path, facts });
            }
            path => self.out.event(PppEvent::PathChanged(path)),
        }
        self.advertise(now);
    }

    pub(super) fn current_path(&self, network: &Network) -> Option<PppPath> {
        let ipcp = network.ipcp.as_ref().filter(|cp| cp.is_open());
        let ipv6_is_open = network.ipv6_is_open();
        if ipcp.is_none() && !ipv6_is_open {
            return None;
        }
        Some(PppPath {
            filter: AddressFilter {
                ipv4: ipcp.and_then(|cp| cp.options.peer),
                ipv6: network.prefix().filter(|_| ipv6_is_open),
            },
            mtu: self.mtu(network.grants.as_deref()),
            header: self.header(),
            local_ipv4: ipcp
                .and_then(|cp| cp.options.local)
                .filter(|address| !address.is_unspecified()),
        })
    }

    /// Ends a link on which no network protocol is open, nor can become so.
    fn end_if_impossible(&mut self, now: Instant) {
        let Some(network) = &self.network else { return };
        let ipv4 = network.ipcp.as_ref().is_some_and(|cp| !cp.is_given_up());
        let ipv6 = network.ipv6cp.as_ref().is_some_and(|cp| !cp.is_given_up());
        if !ipv4 && !ipv6 {
            self.end_without_network("the two ends have no network protocol in common", now);
        }
    }

    fn end_without_network(&mut self, text: &str, now: Instant) {
        let ended = Ended::new(TerminateCause::ServiceUnavailable, "no_network_protocol", text);
        self.end(ended, now);
    }

    /// IPv6 that is not for the world beyond: solicitations and pings for the gateway itself.
    pub(super) fn handle_ipv6(&mut self, packet: &[u8], now: Instant) {
        let Some(network) = self.network.as_ref().filter(|network| network.ipv6_is_open()) else {
            return self.out.dropped(drops::USER_DATA);
        };
        if !is_link_local(packet) {
            return self.out.dropped(drops::USER_DATA);
        }
        let answer = self
            .router(network)
            .and_then(|router| neighbour::answer(packet, &router));
        match answer {
            None => self.out.dropped(drops::LINK_LOCAL),
            Some(_) if !self.limits.neighbour(now) => self.out.dropped(drops::LIMIT),
            Some(answer) => self.out.send(protocol::IPV6, &answer),
        }
    }

    fn router<'a>(&self, network: &'a Network) -> Option<Router<'a>> {
        let grants = network.grants.as_ref()?;
        Some(Router {
            address: network.ipv6cp.as_ref()?.options.local_address(),
            prefix: grants.ipv6_prefix?,
            dns: &grants.dns6,
            mtu: self.mtu(Some(grants)),
            interval: self.config.ra_interval,
        })
    }

    /// Sends the unsolicited router advertisement that is due.
    fn advertise(&mut self, now: Instant) {
        let Some(network) = self.network.as_mut() else {
            return;
        };
        if !network.schedule.is_due(&self.config, &mut *self.entropy, now) {
            return;
        }
        let Some(network) = &self.network else { return };
        if let Some(router) = self.router(network) {
            let packet = neighbour::unsolicited(&router);
            self.out.send(protocol::IPV6, &packet);
        }
    }

    pub(super) fn handle_network_timeout(&mut self, now: Instant) {
        with_ncp!(self, ipcp, now, cp => cp.handle_timeout(parts!(self, now)));
        with_ncp!(self, ipv6cp, now, cp => cp.handle_timeout(parts!(self, now)));
        self.advertise(now);
        let is_late = self
            .network
            .as_ref()
            .and_then(|network| network.deadline)
            .is_some_and(|deadline| deadline <= now);
        if is_late {
            self.end_without_network("no network protocol was opened in time", now);
        }
    }
}

/// Whether source or destination of an IPv6 packet is link-local or multicast: such packets stay on the link.
fn is_link_local(packet: &[u8]) -> bool {
    let stays = |first: usize| match packet.get(first..first + 2) {
        Some([0xff, _]) => true,
        Some([0xfe, second]) => second & 0xc0 == 0x80,
        _ => false,
    };
    let source_is_unspecified = packet
        .get(8..24)
        .is_some_and(|source| source.iter().all(|&b| b == 0));
    stays(8) || stays(24) || source_is_unspecified
}

#[cfg(test)]
mod tests {
    use super::Network;
    use crate::link::Ppp;

    /// What an open link takes: itself, its network part, grants and texts on the heap. Later there will be
    /// 100,000 of them, with 4 KiB for all of a session.
    #[test]
    fn an_open_link_takes_little_memory() {
        assert!(size_of::<Ppp>() <= 640, "{}", size_of::<Ppp>());
        assert!(size_of::<Network>() <= 512, "{}", size_of::<Network>());
    }
}
