//! Connections over a restart, as the driver sees them: which are to be kept, what there is of each, and how the next
//! worker's driver takes it up.

use super::Plane;
use super::connections::{Ask, Connection, Outbox};
use super::driver::Driver;
use super::slots::Session;
use super::standing::Asked;
use bytes::Bytes;
use sluice_auth::Profile;
use sluice_core::{Now, Origin, RestoredTunnel, SessionId, TunnelId};
use sluice_spi::{ChannelRef, Ended, Input, LocalRef, Open, PeerAddr, TerminateCause};
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// All that there is of a connection between two workers.
#[derive(Debug)]
pub struct KeptConnection {
    /// The engine's record of its session.
    pub session: Bytes,
    /// All else, which only a shard reads. It holds bytes of the user; empty: it is lost.
    pub state: Bytes,
    /// Its sockets.
    pub descriptors: Vec<OwnedFd>,
}

impl KeptConnection {
    /// The connection of a tunnel, whose record in the store has all else.
    pub(super) fn of_tunnel(tunnel: TunnelId, connection: OwnedFd) -> Self {
        Self {
            session: Bytes::new(),
            state: Bytes::from(tunnel.to_string()),
            descriptors: vec![connection],
        }
    }

    /// Ends what nobody goes on with, so that neither side takes the middle of a stream for its end.
    pub fn abandon(self) {
        reset(&self.descriptors);
    }
}

/// A connection from the worker before, with its session in the engine.
#[derive(Debug)]
pub struct RestoredConnection {
    /// The listener's number.
    pub listener: usize,
    /// Its session.
    pub session: SessionId,
    /// What [`KeptConnection::state`] was.
    pub state: Bytes,
    /// Its sockets.
    pub descriptors: Vec<OwnedFd>,
}

/// How many connections of the worker before go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenUp {
    /// Those that do.
    pub went_on: usize,
    /// Those that could not be taken up.
    pub lost: usize,
}

/// Resets connections, also where another process holds their descriptors too. Of sockets of datagrams it takes the
/// peer.
pub fn reset(sockets: &[OwnedFd]) {
    for socket in sockets {
        // One that is gone already needs none.
        let _ = rustix::net::connect_unspec(socket);
    }
}

/// What the driver has of a connection that is handed over.
pub(super) struct Left {
    pub(super) local: LocalRef,
    pub(super) profile: Option<Rc<Profile>>,
    /// What was asked of policy.
    pub(super) asked: Asked,
    /// The machine's checkpoint.
    pub(super) checkpoint: Bytes,
    /// The engine's record of the session.
    pub(super) session: Bytes,
}

/// What the driver needs to go on with a connection.
pub(super) struct GoOn {
    pub(super) listener: usize,
    pub(super) session: SessionId,
    pub(super) local: LocalRef,
    pub(super) profile: Option<Profile>,
    pub(super) checkpoint: Bytes,
}

impl<P: Plane> Driver<P> {
    fn connections(&self) -> Vec<u32> {
        let slots = self.slots.indexes().into_iter();
        let is_connection = |slot: &u32| {
            self.slots
                .get(*slot)
                .is_some_and(|tunnel| tunnel.outbox.is_some())
        };
        slots.filter(is_connection).collect()
    }

    /// Connections that are there and were not left to the next worker.
    pub(super) fn connection_count(&self) -> usize {
        let all = self.connections().into_iter();
        all.filter(|&slot| self.slots.get(slot).is_some_and(|tunnel| !tunnel.left))
            .count()
    }

    /// Leaves the connection of a tunnel to the next worker. Its machine goes on until the shard stops, and nothing more
    /// may be read for it. `None`: it is no tunnel's, or nothing is established.
    pub(super) fn leave_tunnel(&mut self, connection: &Connection, now: Now) -> Option<TunnelId> {
        if !self.lives(connection) {
            return None;
        }
        let id = self.slots.get(connection.slot)?.id?;
        self.guarded(connection.slot, |machine| Ok(machine.checkpoint(now.instant)))??;
        self.slots.get_mut(connection.slot)?.left = true;
        Some(id)
    }

    /// Gives a machine back what it sent on its connection and nobody took, for its last checkpoint.
    pub(super) fn give_unsent(&mut self, slot: u32, now: Now) {
        let outbox = self.slots.get(slot).and_then(|tunnel| tunnel.outbox.clone());
        let Some(outbox) = outbox else { return };
        let channel = ChannelRef::FIRST;
        let bytes = outbox.take_unsent(channel);
        if !bytes.is_empty() {
            let bytes = &bytes[..];
            self.give(slot, Input::Unsent { channel, bytes }, now);
        }
    }

    /// Makes the machine of a tunnel's connection of the worker before. What it wants waits in the outbox.
    pub(super) fn restore_connection(
        &mut self,
        listener: usize,
        restored: &RestoredTunnel,
        now: Now,
    ) -> Option<(Connection, PeerAddr, Origin)> {
        let outbox = Rc::new(Outbox::default());
        let slot = self.restore(listener, restored, Some(outbox.clone()), now)?;
        let connection = self.connection(slot, outbox);
        let tunnel = self.slots.get(slot)?;
        let peer = tunnel.machine.describe().peer;
        Some((connection, peer, tunnel.origin.clone()))
    }

    /// Connections whose machines have nothing yet with which another process could go on.
    pub(super) fn unsettled(&mut self, now: Now) -> Vec<u32> {
        let all = self.connections();
        all.into_iter()
            .filter(|&slot| {
                if self
                    .slots
                    .get(slot)
                    .is_some_and(|tunnel| tunnel.machine.is_bound())
                {
                    return true;
                }
                // Of most it is known without a checkpoint, which takes longer.
                let mut sessions = self.slots.get(slot).map(|tunnel| tunnel.sessions.values());
                let carries = |session: &Session| session.carried.is_some();
                if sessions
                    .as_mut()
                    .is_some_and(|sessions| sessions.any(|session| carries(session)))
                {
                    return false;
                }
                let checkpoint = self.guarded(slot, |machine| Ok(machine.checkpoint(now.instant)));
                checkpoint.flatten().is_none()
            })
            .collect()
    }

    /// Ends the connections that cannot be handed over, with a word to their clients.
    pub(super) fn close_unsettled(&mut self, cause: TerminateCause, now: Now) {
        for slot in self.unsettled(now) {
            self.guarded(slot, |machine| {
                machine.close(cause, now.instant);
                Ok(())
            });
            self.drain(slot, now);
        }
    }

    /// Asks the tasks of all connections to stop and to say what there is of each.
    pub(super) fn ask_for_handover(&self) {
        for slot in self.connections() {
            if let Some(outbox) = self.slots.get(slot).and_then(|tunnel| tunnel.outbox.as_ref()) {
                outbox.push(Ask::HandOver);
            }
        }
    }

    /// Takes a connection's machine out, without a word to its client: another process goes on with it. `None`: it
    /// cannot be handed over, and lives on. `waits` is what was asked of policy where the connection stands on nothing yet,
    /// as its peer has not come.
    pub(super) fn leave(&mut self, connection: &Connection, waits: Option<Asked>, now: Now) -> Option<Left> {
        if !self.lives(connection) {
            return None;
        }
        let slot = connection.slot;
        let (&local, entry) = self.slots.get(slot)?.sessions.first_key_value()?;
        let (id, profile, stats) = (entry.id, entry.profile.clone(), entry.stats(&self.plane));
        let standing = entry.standing.clone();
        let asked = standing.as_ref().map(|standing| standing.asked.clone());
        let asked = asked.or(waits)?;
        if let Some(stats) = stats {
            Self::charge_last(standing.as_ref(), &stats, now);
            self.engine.update_counters(id, stats, now);
        }
        let checkpoint = self.guarded(slot, |machine| Ok(machine.checkpoint(now.instant)));
        let left = Left {
            local,
            profile,
            asked,
            checkpoint: checkpoint.flatten()?,
            session: self.engine.connection_record(id)?,
        };
        self.by_session.remove(&id);
        self.forget_machine(slot);
        Some(left)
    }

    /// Makes a machine of what there is of a connection. It asks at once for what it had.
    ///
    /// # Errors
    ///
    /// Where it cannot go on; its session has ended then.
    pub(super) fn go_on(&mut self, from: GoOn, now: Now) -> Result<(Connection, PeerAddr, Origin), String> {
        let id = from.session;
        let made = self.machine_again(from, now);
        if let Err(reason) = &made {
            self.end_lost(id, reason, now);
        }
        made
    }

    /// The session of a connection that does not go on ends.
    pub(super) fn end_lost(&mut self, id: SessionId, reason: &str, now: Now) {
        let ended = Ended::new(TerminateCause::NasReboot, "not_restored", reason);
        self.engine.session_down(id, &ended, Default::default(), now);
    }

    fn machine_again(&mut self, from: GoOn, now: Now) -> Result<(Connection, PeerAddr, Origin), String> {
        let entry = self
            .listeners
            .get(from.listener)
            .ok_or("its listener is not there")?;
        let open = Open::Restored {
            checkpoint: &from.checkpoint,
        };
        let machine = entry
            .factory
            .machine(open, self.shard, self.entropy.fork(), now.instant)
            .map_err(|error| error.to_string())?;
        let known = self.engine.session(from.session).ok_or("its session has ended")?;
        let (origin, key) = (entry.origin.clone(), machine.key());
        // Keys of connections are names for people; those of other shards may be the same.
        self.next_connection = self.next_connection.max(key.0.wrapping_add(1));
        let outbox = Rc::new(Outbox::default());
        let slot = self.insert_connection(from.listener, origin.clone(), key, machine, outbox.clone());
        let mut session = Session::new(from.session, known.peer, known.identity);
        session.profile = from.profile.map(Rc::new);
        if let Some(tunnel) = self.slots.get_mut(slot) {
            tunnel.sessions.insert(from.local, Box::new(session));
        }
        self.by_session.insert(from.session, (slot, from.local));
        let connection = self.connection(slot, outbox);
        self.drain(slot, now);
        match self.lives(&connection) {
            true => Ok((connection, known.peer, origin)),
            false => Err("its machine did not go on".to_owned()),
        }
    }

    /// The machine of a connection is at work again.
    pub(super) fn connection_recovered(&mut self, slot: u32, sessions: &[LocalRef], now: Now) {
        let Some(tunnel) = self.slots.get(slot).filter(|tunnel| tunnel.outbox.is_some()) else {
            return;
        };
        for local in sessions {
            if let Some(entry) = tunnel.sessions.get(local) {
                self.engine.connection_recovered(entry.id, now);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
