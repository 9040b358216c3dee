//! Looking through the sessions from time to time: counters for the engine, signs of life for machines.

use super::Plane;
use super::driver::Driver;
use super::standing::Shaken;
use sluice_core::Now;
use sluice_spi::{Input, LocalRef};
use std::ops::Bound;

/// Where the last look ended.
#[derive(Default)]
pub(super) struct Sweep {
    slot: u32,
    /// The last session of that slot that was looked at.
    after: Option<LocalRef>,
}

impl<P: Plane> Driver<P> {
    /// Number of sessions.
    pub fn sessions(&self) -> usize {
        self.by_session.len()
    }

    /// Looks at `count` sessions from where the last look ended, and begins anew behind the last one: the engine is
    /// given their counters, and machines are told which of them received something since.
    pub fn look_through(&mut self, count: usize, now: Now) {
        let mut left = count;
        while left > 0 {
            if self.slots.is_end(self.sweep.slot) {
                self.sweep = Sweep::default();
                return;
            }
            let slot = self.sweep.slot;
            let (seen, active, shaken) = self.look_at(slot, left, now);
            left -= seen;
            if left > 0 {
                self.sweep = Sweep {
                    slot: slot + 1,
                    after: None,
                };
            }
            self.settle_shaken(slot, shaken, now);
            if !active.is_empty() {
                for session in active {
                    self.give(slot, Input::PathActive { session }, now);
                }
                self.drain(slot, now);
            }
        }
    }

    /// Looks at up to `count` sessions of a slot, behind the last one. How many there were, and which received
    /// something, and for which policy, users or a quota are no longer what they were.
    fn look_at(&mut self, slot: u32, count: usize, now: Now) -> (usize, Vec<LocalRef>, Shaken) {
        let (mut seen, mut active, mut shaken) = (0, Vec::new(), Shaken::default());
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return (seen, active, shaken);
        };
        let generation = self.ledger.generation();
        let start = self.sweep.after.map_or(Bound::Unbounded, Bound::Excluded);
        for (&local, session) in tunnel.sessions.range_mut((start, Bound::Unbounded)).take(count) {
            seen += 1;
            self.sweep.after = Some(local);
            let stats = session.stats(&self.plane);
            if let Some(standing) = &session.standing {
                shaken.look_at(local, standing, stats.as_ref(), generation, now.wall);
            }
            let Some(stats) = stats else { continue };
            self.engine.update_counters(session.id, stats, now);
            // Machines of connections look after their own channels.
            if session.path.is_some() && stats.rx_packets != session.rx_packets {
                session.rx_packets = stats.rx_packets;
                active.push(local);
            }
        }
        (seen, active, shaken)
    }

    /// Looks at all sessions, for a restart.
    pub fn look_at_all(&mut self, now: Now) {
        self.sweep = Sweep::default();
        self.look_through(self.sessions().saturating_add(1), now);
    }
}
