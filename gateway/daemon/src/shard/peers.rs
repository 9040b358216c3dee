//! Whose machines a report of an unreachable peer concerns.

use super::Plane;
use super::driver::Driver;
use sluice_core::Now;
use sluice_spi::{Input, PeerAddr};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Machines that are told in a second at the most. Anybody can forge an ICMP message, a machine asks its peer for a
/// sign of life when it is told, and a peer that is gone is noticed by its silence anyway.
const MAX_TOLD: usize = 64;
const WINDOW: Duration = Duration::from_secs(1);

/// Where the peers of machines are.
pub(super) struct Peers {
    machines: BTreeSet<(usize, SocketAddr, u32)>,
    since: Instant,
    told: usize,
}

impl Peers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            machines: BTreeSet::new(),
            since: now,
            told: 0,
        }
    }

    /// A machine's peer is somewhere else now, or was not or will not be anywhere.
    pub(super) fn moved(
        &mut self,
        listener: usize,
        slot: u32,
        from: Option<SocketAddr>,
        to: Option<SocketAddr>,
    ) {
        if let Some(from) = from {
            self.machines.remove(&(listener, from, slot));
        }
        if let Some(to) = to {
            self.machines.insert((listener, to, slot));
        }
    }

    /// The machines with this peer, as many as may still be told.
    fn take_those(&mut self, listener: usize, remote: SocketAddr, now: Instant) -> Vec<u32> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.told) = (now, 0);
        }
        let all = (listener, remote, 0)..=(listener, remote, u32::MAX);
        let left = MAX_TOLD.saturating_sub(self.told);
        let slots: Vec<u32> = self
            .machines
            .range(all)
            .map(|&(_, _, slot)| slot)
            .take(left)
            .collect();
        self.told += slots.len();
        slots
    }
}

impl<P: Plane> Driver<P> {
    /// The network says that a peer of this listener cannot be reached. Never proof: anybody can say so.
    pub fn unreachable(&mut self, listener: usize, peer: PeerAddr, now: Now) {
        for slot in self.peers.take_those(listener, peer.remote, now.instant) {
            self.input(slot, Input::PeerUnreachable, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_of_the_peer_are_told_and_not_too_many_at_once() {
        let start = Instant::now();
        let [near, far]: [SocketAddr; 2] =
            ["192.0.2.1:1701", "192.0.2.2:1701"].map(|text| text.parse().unwrap());
        let mut peers = Peers::new(start);
        for slot in 0..3 {
            peers.moved(0, slot, None, Some(near));
        }
        peers.moved(0, 1, Some(near), Some(far));
        peers.moved(0, 2, Some(near), None);
        peers.moved(1, 7, None, Some(near));
        assert_eq!(peers.take_those(0, near, start), [0]);
        assert_eq!(peers.take_those(0, far, start), [1]);
        assert_eq!(peers.take_those(1, near, start), [7]);
        for slot in 0..200 {
            peers.moved(2, slot, None, Some(far));
        }
        assert_eq!(peers.take_those(2, far, start).len(), MAX_TOLD - 3);
        assert!(peers.take_those(2, far, start).is_empty());
        assert_eq!(peers.take_those(2, far, start + WINDOW).len(), MAX_TOLD);
    }
}
