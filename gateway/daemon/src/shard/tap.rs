//! What is seen of traced sessions, for whoever looks for the cause of something.

use super::Plane;
use super::driver::Driver;
use sluice_core::{Now, SessionId};
use sluice_spi::{Demux, Direction, Input, LocalRef, MachineKey, PeerAddr};

/// A session whose trace is on. There are few at any time: [`crate::admin::Traces`] bounds them.
pub(super) struct Traced {
    pub(super) id: SessionId,
    slot: u32,
    local: LocalRef,
}

impl<P: Plane> Driver<P> {
    /// Switches the trace of a session; false: it is not one of this shard's.
    pub fn trace(&mut self, session: SessionId, on: bool, now: Now) -> bool {
        let Some(&(slot, local)) = self.by_session.get(&session) else {
            return false;
        };
        self.traced.retain(|traced| traced.id != session);
        if on {
            self.traced.push(Traced {
                id: session,
                slot,
                local,
            });
        }
        self.tap_path(slot, local);
        self.input(slot, Input::Trace { session: local, on }, now);
        true
    }

    /// Tells the data plane whether the packets with frames of a session's path are wanted.
    pub(super) fn tap_path(&mut self, slot: u32, local: LocalRef) {
        let entry = self
            .slots
            .get(slot)
            .and_then(|tunnel| tunnel.sessions.get(&local));
        if let Some(entry) = entry
            && let Some(path) = entry.path
        {
            let on = self.traced.iter().any(|traced| traced.id == entry.id);
            self.plane.tap(path, on);
        }
    }

    /// Captures a packet that brought or took a frame of an installed path; `slot` is what the path was installed
    /// under.
    pub fn tapped(
        &self,
        slot: MachineKey,
        session: LocalRef,
        direction: Direction,
        peer: PeerAddr,
        packet: &[u8],
        now: Now,
    ) {
        let own = |traced: &&Traced| traced.slot == slot.0 && traced.local == session;
        if let Some(traced) = self.traced.iter().find(own) {
            self.capture(traced, direction, peer, packet, now);
        }
    }

    /// Puts a packet into a trace, without the passwords in it.
    fn capture(&self, traced: &Traced, direction: Direction, peer: PeerAddr, packet: &[u8], now: Now) {
        let listener = self.slots.get(traced.slot).map(|tunnel| tunnel.listener);
        let Some(entry) = listener.and_then(|listener| self.listeners.get(listener)) else {
            return;
        };
        let mut packet = packet.to_vec();
        entry.module.conceal(&mut packet);
        self.traces
            .datagram(traced.id, direction, peer, &packet, now.instant, now.wall);
    }

    /// Captures a datagram of a machine: a control message for each traced session of it, and user data only for
    /// the session that it is of.
    pub(super) fn tap_datagram(
        &self,
        slot: u32,
        direction: Direction,
        peer: PeerAddr,
        packet: &[u8],
        now: Now,
    ) {
        for traced in self.traced.iter().filter(|traced| traced.slot == slot) {
            let Some(tunnel) = self.slots.get(slot) else {
                return;
            };
            let key = tunnel.sessions.get(&traced.local).and_then(|entry| entry.key);
            let module = self.listeners.get(tunnel.listener).map(|entry| entry.module);
            // What we send as user data has the peer's name of the session, which only its machine knows.
            let wanted = match module.map(|module| module.demux(packet)) {
                Some(Demux::Control) => true,
                Some(Demux::Data(found)) => direction == Direction::In && Some(found) == key,
                Some(Demux::Drop(_)) | None => false,
            };
            if wanted {
                self.capture(traced, direction, peer, packet, now);
            }
        }
    }
}
