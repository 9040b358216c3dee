//! Two nodes on an impaired link, in virtual time.

use crate::link::{Impairment, Link};
use crate::node::{Node, Packet};
use crate::{Clock, Seeded};
use bytes::BytesMut;
use sluice_spi::{Factory, LocalRef, MachineKey, PeerAddr, TerminateCause, pcap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Steps that may happen without time moving on. More means that timers are set to the past for ever.
const STILL_BOUND: u32 = 10_000;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The node that usually opens the tunnel.
    Client,
    /// The node that usually is the gateway.
    Server,
}

/// What a tap does with a packet about to enter the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Lets it go on as it is.
    Pass,
    /// Takes it off the wire.
    Drop,
    /// Puts these on the wire in its place.
    Replace(Vec<Packet>),
}

type Tapped = dyn FnMut(Side, &Packet) -> Tap + Send;

/// Two nodes and the link between them. Every packet sent by one arrives at the other.
pub struct Pair {
    /// The clock of both.
    pub clock: Clock,
    /// The node that usually opens the tunnel.
    pub client: Node,
    /// The node that usually is the gateway.
    pub server: Node,
    /// The link from client to server.
    pub up: Link<Packet>,
    /// The link from server to client.
    pub down: Link<Packet>,
    tap: Option<Box<Tapped>>,
    capture: BytesMut,
}

impl Pair {
    /// Puts two nodes on a link. `seed` decides the link's faults.
    pub fn new(clock: Clock, client: Node, server: Node, impairment: Impairment, seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let mut capture = BytesMut::new();
        pcap::put_header(pcap::LinkType::Raw, &mut capture);
        Self {
            clock,
            client,
            server,
            up: Link::new(impairment, random.next_u64()),
            down: Link::new(impairment, random.next_u64()),
            tap: None,
            capture,
        }
    }

    /// Where client and server listen in the tests that have no reason to differ.
    pub fn addresses() -> (SocketAddr, SocketAddr) {
        (
            SocketAddr::from(([192, 0, 2, 2], 1701)),
            SocketAddr::from(([192, 0, 2, 1], 1701)),
        )
    }

    /// Looks at every packet before it enters the link; the side is that of the sender.
    pub fn set_tap(&mut self, tap: impl FnMut(Side, &Packet) -> Tap + Send + 'static) {
        self.tap = Some(Box::new(tap));
    }

    /// Lets all packets pass again.
    pub fn clear_tap(&mut self) {
        self.tap = None;
    }

    /// Changes both directions of the link.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.up.set_impairment(impairment);
        self.down.set_impairment(impairment);
    }

    /// One of the nodes.
    pub fn node(&mut self, side: Side) -> &mut Node {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// The virtual present.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The client opens a tunnel to the server.
    pub fn dial(&mut self, factory: &dyn Factory) -> MachineKey {
        let (now, remote) = (self.clock.now(), self.server.address());
        self.client.open(factory, remote, now)
    }

    /// Hands a node a packet that no link carried, such as a forged one.
    pub fn inject(&mut self, side: Side, from: SocketAddr, bytes: &[u8]) {
        let now = self.clock.now();
        let node = self.node(side);
        let local = node.address();
        node.receive(PeerAddr { remote: from, local }, bytes, now);
    }

    /// Sends a user packet; false where the session has no path.
    pub fn send_ip(&mut self, side: Side, machine: MachineKey, session: LocalRef, packet: &[u8]) -> bool {
        let now = self.clock.now();
        self.node(side).send_ip(machine, session, packet, now)
    }

    /// Closes every machine of a node.
    pub fn close_all(&mut self, side: Side, cause: TerminateCause) {
        let now = self.clock.now();
        let node = self.node(side);
        for key in node.machines() {
            node.close(key, cause, now);
        }
    }

    /// Whether a node crashed and came back: every established machine of `side` goes on from its checkpoint in
    /// place of the original. Gives the keys that live on.
    pub fn restart(&mut self, side: Side, factory: &dyn Factory) -> Vec<MachineKey> {
        let now = self.clock.now();
        let node = self.node(side);
        let machines = node.machines();
        let checkpoints: Vec<_> = machines
            .into_iter()
            .filter_map(|key| node.checkpoint(key, now))
            .collect();
        node.crash(factory);
        let restored = checkpoints
            .iter()
            .map(|checkpoint| node.restore(factory, checkpoint, now));
        restored
            .map(|key| key.expect("a checkpoint just made is usable"))
            .collect()
    }

    /// Puts what the nodes sent on the link.
    fn pump(&mut self) {
        let now = self.clock.now();
        for side in [Side::Client, Side::Server] {
            while let Some(packet) = self.node(side).pop_out() {
                let tapped = self.tap.as_mut().map_or(Tap::Pass, |tap| tap(side, &packet));
                match tapped {
                    Tap::Pass => self.carry(side, packet, now),
                    Tap::Drop => {}
                    Tap::Replace(packets) => {
                        packets
                            .into_iter()
                            .for_each(|packet| self.carry(side, packet, now));
                    }
                }
            }
        }
    }

    fn carry(&mut self, side: Side, packet: Packet, now: Instant) {
        pcap::put_udp(
            self.clock.elapsed(),
            packet.from,
            packet.to,
            &packet.bytes,
            &mut self.capture,
        );
        let length = packet.bytes.len();
        match side {
            Side::Client => self.up.send(packet, length, now),
            Side::Server => self.down.send(packet, length, now),
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let links = self.up.next_arrival().into_iter().chain(self.down.next_arrival());
        links
            .chain(self.client.next_timeout())
            .chain(self.server.next_timeout())
            .min()
    }

    /// Does what is due now.
    fn work(&mut self) {
        let now = self.clock.now();
        while let Some(packet) = self.up.receive(now) {
            let from = PeerAddr {
                remote: packet.from,
                local: packet.to,
            };
            self.server.receive(from, &packet.bytes, now);
        }
        while let Some(packet) = self.down.receive(now) {
            let from = PeerAddr {
                remote: packet.from,
                local: packet.to,
            };
            self.client.receive(from, &packet.bytes, now);
        }
        self.client.advance(self.clock);
        self.server.advance(self.clock);
    }

    /// Lets time pass until `done` says so, for `limit` at most. Whether `done` came true.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.clock.now() + limit;
        let mut still = 0;
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
            still = if next > self.clock.now() { 0 } else { still + 1 };
            assert!(
                still < STILL_BOUND,
                "time does not move on from {:?}",
                self.clock.elapsed()
            );
            self.clock.advance_to(next);
            self.work();
        }
    }

    /// Lets a span of time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Lets time pass until nothing is left to happen, for `limit` at most. Whether it came to that.
    pub fn run_to_rest(&mut self, limit: Duration) -> bool {
        self.run_until(limit, |pair| pair.next().is_none())
    }

    /// The logs of both nodes as text; equal for equal runs.
    pub fn trace(&self) -> String {
        format!(
            "client\n{}server\n{}",
            self.client.log.text(),
            self.server.log.text()
        )
    }

    /// A capture of every packet that entered the link, in the libpcap format with virtual time stamps.
    pub fn capture(&self) -> &[u8] {
        &self.capture
    }
}
