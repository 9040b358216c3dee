//! What others ask of a shard's machines.

use super::Plane;
use super::driver::Driver;
use sluice_core::{Now, SessionId, TunnelId};
use sluice_spi::{Fact, Input, Open, OpenError, Originate, PeerAddr, TerminateCause};

impl<P: Plane> Driver<P> {
    /// Ends a session; false: it is not (any more) one of this shard's.
    pub fn terminate(&mut self, session: SessionId, cause: TerminateCause, now: Now) -> bool {
        let Some(&(slot, session)) = self.by_session.get(&session) else {
            return false;
        };
        self.input(slot, Input::Terminate { session, cause }, now);
        true
    }

    /// Places a call in a tunnel; false: it is not one of this shard's.
    pub fn call(&mut self, tunnel: TunnelId, call: &Originate, now: Now) -> bool {
        let Some(&slot) = self.by_tunnel.get(&tunnel) else {
            return false;
        };
        self.originate(slot, call, now);
        true
    }

    /// Has a machine place a call, and sees to it that somebody hears what becomes of it.
    fn originate(&mut self, slot: u32, call: &Originate, now: Now) {
        if let Some(tunnel) = self.slots.get_mut(slot) {
            tunnel.calls.push(call.label.clone());
        }
        self.input(slot, Input::Originate { call }, now);
    }

    /// Opens a tunnel to a peer and places a call in it.
    pub fn dial(
        &mut self,
        listener: usize,
        peer: PeerAddr,
        call: &Originate,
        now: Now,
    ) -> Result<(), OpenError> {
        let entry = self.listeners.get_mut(listener).ok_or(OpenError::NotSupported)?;
        let front = entry.front.as_mut().ok_or(OpenError::NotSupported)?;
        let key = front.mint(now.instant).ok_or(OpenError::NotSupported)?;
        let open = Open::Initiated { key, peer };
        match entry
            .factory
            .machine(open, self.shard, self.entropy.fork(), now.instant)
        {
            Ok(machine) => {
                let origin = entry.origin.clone();
                let slot = self.insert(listener, origin, key, machine);
                self.originate(slot, call, now);
                Ok(())
            }
            Err(error) => {
                front.release(key, now.instant);
                Err(error)
            }
        }
    }

    /// What the machine of a session knows of it, with the engine's counters brought up to date; `None`: it is not
    /// one of this shard's.
    pub fn describe_session(&mut self, session: SessionId, now: Now) -> Option<Vec<Fact>> {
        let &(slot, local) = self.by_session.get(&session)?;
        let entry = self.slots.get(slot)?.sessions.get(&local)?;
        if let Some(stats) = entry.stats(&self.plane) {
            self.engine.update_counters(session, stats, now);
        }
        let facts = self.guarded(slot, |machine| Ok(machine.describe_session(local)));
        self.settle(slot, now);
        facts
    }

    /// What the machine of a tunnel knows of it; `None`: it is not one of this shard's.
    pub fn describe_tunnel(&mut self, tunnel: TunnelId, now: Now) -> Option<Vec<Fact>> {
        let &slot = self.by_tunnel.get(&tunnel)?;
        let info = self.guarded(slot, |machine| Ok(machine.describe()));
        self.settle(slot, now);
        Some(info?.facts)
    }

    /// Ends all tunnels, telling their peers. They drain over the next seconds.
    pub fn close_all(&mut self, cause: TerminateCause, now: Now) {
        for slot in self.slots.indexes() {
            self.guarded(slot, |machine| {
                machine.close(cause, now.instant);
                Ok(())
            });
            self.drain(slot, now);
        }
    }
}
