//! Independent LACs against the gateway's own L2TP, in virtual time on impaired links.

use bytes::BytesMut;
use sluice_l2tp::config::Config;
use sluice_l2tp::{L2tp, L2tpFactory};
use sluice_spi::{PeerAddr, config, pcap};
use sluice_testkit::lac::wire::tunnel_of;
use sluice_testkit::lac::{Lac, LacConfig, LacEvent};
use sluice_testkit::{Clock, Impairment, Link, Node, Packet, Seeded};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One LAC with its link.
pub struct Site {
    /// Where its packets come from, as the LNS sees it.
    pub address: SocketAddr,
    /// The LAC.
    pub lac: Lac,
    /// What it reported, in order.
    pub events: Vec<LacEvent>,
    up: Link<Packet>,
    down: Link<Packet>,
}

impl Site {
    /// Calls that came up.
    pub fn ups(&self) -> usize {
        self.events
            .iter()
            .filter(|event| matches!(event, LacEvent::CallUp { .. }))
            .count()
    }

    /// Reasons of calls that ended, in order.
    pub fn reasons(&self) -> Vec<&str> {
        let reasons = self.events.iter().filter_map(|event| match event {
            LacEvent::CallDown { reason, .. } => Some(reason.as_str()),
            _ => None,
        });
        reasons.collect()
    }
}

/// A gateway and LACs around it.
pub struct Field {
    /// The clock of all.
    pub clock: Clock,
    /// The gateway.
    pub server: Node,
    /// Makes the gateway's machines.
    pub factory: L2tpFactory,
    /// The LACs.
    pub sites: Vec<Site>,
    random: Seeded,
    capture: BytesMut,
}

impl Field {
    /// A gateway whose listener has the configuration in `text`; all randomness follows from `seed`.
    pub fn new(text: &str, seed: u64) -> Self {
        let read = config::read("test", text, Config::from_section);
        let factory = L2tpFactory::new(read.expect("a configuration"));
        let mut capture = BytesMut::new();
        pcap::put_header(pcap::LinkType::Raw, &mut capture);
        let clock = Clock::new();
        let address = SocketAddr::from(([192, 0, 2, 1], 1701));
        Self {
            server: Node::new(&L2tp, &factory, address, seed, clock),
            factory,
            clock,
            sites: Vec::new(),
            random: Seeded::new(seed ^ 0x1ac),
            capture,
        }
    }

    /// A LAC at 198.51.100.1 dials over a link without faults.
    pub fn one(text: &str, lac: LacConfig) -> Self {
        let mut field = Self::new(text, 1);
        field.dial(lac, SocketAddr::from(([198, 51, 100, 1], 1701)), Impairment::NONE);
        field
    }

    /// A LAC dials from `address`. Its tunnel id is its number, from 1.
    pub fn dial(&mut self, config: LacConfig, address: SocketAddr, impairment: Impairment) {
        let tunnel = u16::try_from(self.sites.len() + 1).expect("at most 65,535 LACs");
        self.sites.push(Site {
            address,
            lac: Lac::dial(Arc::new(config), tunnel, self.random.split(), self.clock.now()),
            events: Vec::new(),
            up: Link::new(impairment, self.random.next_u64()),
            down: Link::new(impairment, self.random.next_u64()),
        });
    }

    fn pump(&mut self) {
        let now = self.clock.now();
        let to = self.server.address();
        for site in &mut self.sites {
            while let Some(packet) = site.lac.poll_transmit() {
                let mut from = site.address;
                from.set_port(from.port() + u16::from(packet.other_port));
                let length = packet.bytes.len();
                pcap::put_udp(self.clock.elapsed(), from, to, &packet.bytes, &mut self.capture);
                site.up.send(
                    Packet {
                        from,
                        to,
                        bytes: packet.bytes,
                    },
                    length,
                    now,
                );
            }
            site.events.extend(std::iter::from_fn(|| site.lac.poll_event()));
        }
        while let Some(packet) = self.server.pop_out() {
            pcap::put_udp(
                self.clock.elapsed(),
                packet.from,
                packet.to,
                &packet.bytes,
                &mut self.capture,
            );
            let tunnel = tunnel_of(&packet.bytes);
            // Several may share an address and even a port, as behind some NATs: the tunnel id tells them apart.
            let site = self
                .sites
                .iter_mut()
                .find(|site| site.address.ip() == packet.to.ip() && Some(site.lac.tunnel()) == tunnel);
            if let Some(site) = site {
                let length = packet.bytes.len();
                site.down.send(packet, length, now);
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let sites = self.sites.iter().flat_map(|site| {
            [
                site.up.next_arrival(),
                site.down.next_arrival(),
                site.lac.poll_timeout(),
            ]
        });
        sites.flatten().chain(self.server.next_timeout()).min()
    }

    fn work(&mut self) {
        let now = self.clock.now();
        for site in &mut self.sites {
            while let Some(packet) = site.up.receive(now) {
                let from = PeerAddr {
                    remote: packet.from,
                    local: packet.to,
                };
                self.server.receive(from, &packet.bytes, now);
            }
            while let Some(packet) = site.down.receive(now) {
                site.lac.handle_datagram(&packet.bytes, now);
            }
            if site.lac.poll_timeout().is_some_and(|at| at <= now) {
                site.lac.handle_timeout(now);
            }
        }
        self.server.advance(self.clock);
    }

    /// Lets time pass until `done` says so, for `limit` at most. Whether it came true.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.clock.now() + limit;
        loop {
            self.pump();
            if done(self) {
                return true;
            }
            let Some(next) = self.next().filter(|&next| next <= end) else {
                self.clock.advance_to(end);
                self.work();
                self.pump();
                return done(self);
            };
            self.clock.advance_to(next);
            self.work();
        }
    }

    /// Lets a span of time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Waits until every call of every LAC is up or has failed; false where that takes longer than `limit`.
    pub fn settle(&mut self, limit: Duration) -> bool {
        self.run_until(limit, |field| {
            field
                .sites
                .iter()
                .all(|site| site.lac.is_over() || site.ups() + site.reasons().len() >= site.lac.calls())
        })
    }

    /// A capture of every packet sent so far, in the libpcap format with virtual time stamps.
    pub fn capture(&self) -> &[u8] {
        &self.capture
    }

    /// All LACs end their tunnels; waits until nothing is left of them on the gateway, and checks that every
    /// session ended once. Panics where something is left after `limit`.
    pub fn end(mut self, limit: Duration) {
        let now = self.clock.now();
        for site in &mut self.sites {
            site.lac.close(now);
        }
        let empty = self.run_until(limit, |field| {
            field.server.machines().is_empty() && field.server.half_open() == 0
        });
        let left = (self.server.machines(), self.server.half_open());
        assert!(empty, "tunnels and half-open peers are left: {left:?}");
        self.server.log.check_order(true);
    }
}
