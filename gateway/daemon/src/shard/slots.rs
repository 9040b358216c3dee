//! The machines of a shard and their sessions.

use super::connections::{Carried, Outbox};
use super::standing::{Ending, Standing};
use sluice_auth::{Identity, Profile};
use sluice_core::{Origin, SessionId, TunnelId};
use sluice_spi::{DataPath, LocalRef, Machine, MachineKey, PathKey, PathRef, PathStats, PeerAddr};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// A machine with what the engine and the data plane know of it.
pub(super) struct Tunnel {
    pub(super) listener: usize,
    pub(super) key: MachineKey,
    pub(super) machine: Box<dyn Machine>,
    /// The engine's name, once the tunnel is up.
    pub(super) id: Option<TunnelId>,
    pub(super) origin: Origin,
    /// Boxed: most tunnels carry one, and a node of the map has room for eleven.
    pub(super) sessions: BTreeMap<LocalRef, Box<Session>>,
    /// Labels of calls that are to be placed and have no session yet.
    pub(super) calls: Vec<String>,
    /// What it wants of whoever moves its bytes; `None`: its packets come and go by the data plane.
    pub(super) outbox: Option<Rc<Outbox>>,
    /// Its connection was left to the next worker, and it goes on until its checkpoint is taken.
    pub(super) left: bool,
    /// Where its last packet went.
    pub(super) peer: Option<SocketAddr>,
    /// Its checkpoint is no longer what it would be now.
    pub(super) dirty: bool,
    /// It broke: nothing more goes into it or comes out of it.
    pub(super) broken: Option<String>,
}

impl Tunnel {
    /// Whether it is a connection without a tunnel: what its session may do is asked for each time.
    pub(super) fn is_bare_connection(&self) -> bool {
        self.outbox.is_some() && self.id.is_none()
    }

    /// A machine that has said nothing yet.
    pub(super) fn new(listener: usize, origin: Origin, key: MachineKey, machine: Box<dyn Machine>) -> Self {
        Self {
            listener,
            key,
            machine,
            id: None,
            origin,
            sessions: BTreeMap::new(),
            calls: Vec::new(),
            outbox: None,
            left: false,
            peer: None,
            dirty: false,
            broken: None,
        }
    }
}

/// A session of a machine.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) path: Option<PathRef>,
    /// Whose it is, where its protocol has no tunnels: what it may do is asked for each time.
    pub(super) profile: Option<Rc<Profile>>,
    /// What it stands on, once policy has let it be.
    pub(super) standing: Option<Rc<Standing>>,
    /// Why it is to end, in more exact words than its machine has.
    pub(super) ending: Option<Box<Ending>>,
    /// What its joined channels carry.
    pub(super) carried: Option<Carried>,
    /// Packets from the peer at the last sweep.
    pub(super) rx_packets: u64,
    /// What names its packets on the listener, once it had a path.
    pub(super) key: Option<PathKey>,
    /// What is at the other end.
    pub(super) peer: SocketAddr,
    pub(super) user: Option<Identity>,
}

impl Session {
    pub(super) fn new(id: SessionId, peer: PeerAddr, user: Option<Identity>) -> Self {
        Self {
            id,
            path: None,
            profile: None,
            standing: None,
            ending: None,
            carried: None,
            rx_packets: 0,
            key: None,
            peer: peer.remote,
            user,
        }
    }
}

impl Session {
    /// What it has carried since it has a path or joined channels.
    pub(super) fn stats(&self, plane: &impl DataPath) -> Option<PathStats> {
        match (self.path, &self.carried) {
            (Some(path), _) => plane.stats(path),
            (None, Some(carried)) => Some(carried()),
            (None, None) => None,
        }
    }
}

/// Names one question of one session, so that a late answer misses what took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) local: LocalRef,
    /// The session that asks.
    pub session: SessionId,
}

struct Slot {
    generation: u32,
    tunnel: Option<Tunnel>,
}

/// A slab of tunnels; a slot's generation changes each time it is emptied.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn insert(&mut self, tunnel: Tunnel) -> u32 {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.tunnel = Some(tunnel);
            return index;
        }
        self.slots.push(Slot {
            generation: 0,
            tunnel: Some(tunnel),
        });
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Tunnel> {
        self.slots.get(index as usize)?.tunnel.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Tunnel> {
        self.slots.get_mut(index as usize)?.tunnel.as_mut()
    }

    pub(super) fn generation(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |slot| slot.generation)
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<Tunnel> {
        let slot = self.slots.get_mut(index as usize)?;
        let tunnel = slot.tunnel.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(tunnel)
    }

    /// The slots in use.
    pub(super) fn indexes(&self) -> Vec<u32> {
        let used = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.tunnel.is_some());
        used.filter_map(|(index, _)| u32::try_from(index).ok()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is no slot from this index on.
    pub(super) fn is_end(&self, index: u32) -> bool {
        index as usize >= self.slots.len()
    }
}
