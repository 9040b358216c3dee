//! The table of sessions and tunnels. The only place that knows dashmap: no guard leaves it, and whatever runs
//! under one touches nothing but the entry it was given.

use crate::config::WhenFull;
use crate::journal::Record;
use crate::model::{Session, State, Tunnel};
use crate::query::{Order, SessionFilter};
use crate::{SessionId, TunnelId};
use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use sluice_spi::{LocalRef, PathStats, TerminateCause};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// Identifiers read under one lock, so that no shard waits long.
const CHUNK: usize = 256;

/// Locks also where another thread panicked under the lock: what is under ours is whole after each statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session with what only the engine needs to know.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) session: Session,
    /// What it carried on former paths, and before restarts.
    pub(crate) base: PathStats,
    /// What its present path last said.
    pub(crate) path: PathStats,
    /// When user data was last seen, for the idle timeout.
    pub(crate) active: Instant,
    /// When the end was asked for, and why.
    pub(crate) ending: Option<TerminateCause>,
    /// When its counters were last journalled.
    pub(crate) saved: Option<Instant>,
    /// Whether they have changed since.
    pub(crate) unsaved: bool,
    /// The first of its tunnel's checkpoints that knows it; `None`: none does yet.
    pub(crate) known_since: Option<u64>,
}

impl LiveSession {
    pub(crate) fn new(session: Session, now: Instant) -> Box<Self> {
        Box::new(Self {
            session,
            base: PathStats::default(),
            path: PathStats::default(),
            active: now,
            ending: None,
            saved: None,
            unsaved: false,
            known_since: None,
        })
    }

    /// Whether it is in its tunnel's record: what is not established has nothing to go on with, and what is being ended
    /// does not go on.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.session.state;
        matches!(state, State::Established | State::Suspended | State::Recovering)
    }

    /// Goes to another state where that is legal.
    pub(crate) fn become_state(&mut self, next: State) -> bool {
        let legal = self.session.state.may_become(next);
        if legal {
            self.session.state = next;
        }
        legal
    }

    /// Takes a path's counters; whether any user data flowed since. A path that has counted less than it had is a
    /// new one.
    pub(crate) fn count(&mut self, path: PathStats) -> bool {
        let before = self.session.counters;
        let fell = path.rx_packets < self.path.rx_packets
            || path.rx_bytes < self.path.rx_bytes
            || path.tx_packets < self.path.tx_packets
            || path.tx_bytes < self.path.tx_bytes
            || path.dropped < self.path.dropped;
        if fell {
            self.base = self.session.counters;
        }
        self.path = path;
        self.session.counters = PathStats {
            rx_packets: self.base.rx_packets.saturating_add(path.rx_packets),
            rx_bytes: self.base.rx_bytes.saturating_add(path.rx_bytes),
            tx_packets: self.base.tx_packets.saturating_add(path.tx_packets),
            tx_bytes: self.base.tx_bytes.saturating_add(path.tx_bytes),
            dropped: self.base.dropped.saturating_add(path.dropped),
        };
        let after = &self.session.counters;
        // Streams have no packets to count.
        (after.rx_packets, after.rx_bytes) != (before.rx_packets, before.rx_bytes)
            || (after.tx_packets, after.tx_bytes) != (before.tx_packets, before.tx_bytes)
    }
}

/// A tunnel with what only the engine needs to know.
#[derive(Debug)]
pub(crate) struct LiveTunnel {
    pub(crate) tunnel: Tunnel,
    pub(crate) sessions: BTreeMap<LocalRef, SessionId>,
    /// The machine's last checkpoint, where it has a record.
    pub(crate) checkpoint: Option<Bytes>,
    /// Checkpoints so far; the last one has this number.
    pub(crate) checkpoints: u64,
    /// The record it came from, until it is at work again.
    pub(crate) record: Option<Record>,
}

impl LiveTunnel {
    pub(crate) fn snapshot(&self) -> Tunnel {
        Tunnel {
            sessions: self.sessions.len(),
            ..self.tunnel.clone()
        }
    }
}

#[derive(Debug, Default)]
struct User {
    /// Its sessions, and whether each counts towards its limit.
    sessions: BTreeMap<SessionId, bool>,
    counting: u32,
}

/// The user has as many sessions as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserFull;

type Counts = BTreeMap<(&'static str, State), u64>;

#[derive(Default)]
pub(crate) struct Table {
    /// Boxed: a session is some hundred octets, and a growing map would move them and leave as much room again.
    sessions: DashMap<SessionId, Box<LiveSession>>,
    tunnels: DashMap<TunnelId, LiveTunnel>,
    users: DashMap<String, User>,
    peers: DashMap<IpAddr, BTreeSet<SessionId>>,
    /// All identifiers in order, for pages.
    session_order: RwLock<BTreeSet<SessionId>>,
    tunnel_order: RwLock<BTreeSet<TunnelId>>,
    session_counts: Mutex<Counts>,
    tunnel_counts: Mutex<Counts>,
}

fn recount(counts: &Mutex<Counts>, protocol: &'static str, from: Option<State>, to: Option<State>) {
    if from == to {
        return;
    }
    let mut counts = lock(counts);
    if let Some(to) = to {
        *counts.entry((protocol, to)).or_default() += 1;
    }
    if let Some(from) = from
        && let Some(count) = counts.get_mut(&(protocol, from))
    {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&(protocol, from));
        }
    }
}

fn next_of<T: Ord + Copy>(set: &BTreeSet<T>, after: Option<T>, order: Order, most: usize) -> Vec<T> {
    let bound = after.map_or(Unbounded, Excluded);
    match order {
        Order::OldestFirst => set.range((bound, Unbounded)).take(most).copied().collect(),
        Order::NewestFirst => set.range((Unbounded, bound)).rev().take(most).copied().collect(),
    }
}

impl Table {
    pub(crate) fn insert_tunnel(&self, live: LiveTunnel) {
        let (id, protocol, state) = (live.tunnel.id, live.tunnel.origin.protocol, live.tunnel.state);
        if self.tunnels.insert(id, live).is_none() {
            recount(&self.tunnel_counts, protocol, None, Some(state));
            let mut order = self.tunnel_order.write().unwrap_or_else(PoisonError::into_inner);
            order.insert(id);
        }
    }

    /// Changes or reads a tunnel; `None` where there is no such one.
    pub(crate) fn tunnel<R>(&self, id: TunnelId, change: impl FnOnce(&mut LiveTunnel) -> R) -> Option<R> {
        let mut live = self.tunnels.get_mut(&id)?;
        let (protocol, before) = (live.tunnel.origin.protocol, live.tunnel.state);
        let result = change(&mut live);
        recount(
            &self.tunnel_counts,
            protocol,
            Some(before),
            Some(live.tunnel.state),
        );
        Some(result)
    }

    pub(crate) fn remove_tunnel(&self, id: TunnelId) -> Option<LiveTunnel> {
        let (_, live) = self.tunnels.remove(&id)?;
        let mut order = self.tunnel_order.write().unwrap_or_else(PoisonError::into_inner);
        order.remove(&id);
        drop(order);
        let protocol = live.tunnel.origin.protocol;
        recount(&self.tunnel_counts, protocol, Some(live.tunnel.state), None);
        Some(live)
    }

    /// Up to `most` tunnels after a cursor.
    pub(crate) fn tunnel_ids(&self, after: Option<TunnelId>) -> Vec<TunnelId> {
        let order = self.tunnel_order.read().unwrap_or_else(PoisonError::into_inner);
        next_of(&order, after, Order::OldestFirst, CHUNK)
    }

    /// Takes a session in; gives it back where its tunnel is gone, or the tunnel has one of that name, or there
    /// is one with its identifier.
    pub(crate) fn insert(&self, live: Box<LiveSession>) -> Result<(), Box<LiveSession>> {
        let session = &live.session;
        let (id, local, tunnel) = (session.id, session.local, session.tunnel);
        let (peer, protocol, state) = (session.peer.remote.ip(), session.origin.protocol, session.state);
        match self.sessions.entry(id) {
            Entry::Occupied(_) => return Err(live),
            Entry::Vacant(vacant) => {
                vacant.insert(live);
            }
        }
        let joined = tunnel.is_none_or(|tunnel| self.join_tunnel(tunnel, local, id));
        if !joined {
            return match self.sessions.remove(&id) {
                Some((_, live)) => Err(live),
                None => Ok(()),
            };
        }
        recount(&self.session_counts, protocol, None, Some(state));
        self.peers.entry(peer).or_default().insert(id);
        let mut order = self.session_order.write().unwrap_or_else(PoisonError::into_inner);
        order.insert(id);
        Ok(())
    }

    /// False: the tunnel is gone, or has a session of that name.
    fn join_tunnel(&self, tunnel: TunnelId, local: LocalRef, id: SessionId) -> bool {
        let joined = self.tunnel(tunnel, |tunnel| {
            let vacant = !tunnel.sessions.contains_key(&local);
            if vacant {
                tunnel.sessions.insert(local, id);
            }
            vacant
        });
        joined == Some(true)
    }

    /// Changes a session; `None` where there is no such one.
    pub(crate) fn session<R>(&self, id: SessionId, change: impl FnOnce(&mut LiveSession) -> R) -> Option<R> {
        let mut live = self.sessions.get_mut(&id)?;
        let (protocol, before) = (live.session.origin.protocol, live.session.state);
        let result = change(&mut live);
        recount(
            &self.session_counts,
            protocol,
            Some(before),
            Some(live.session.state),
        );
        Some(result)
    }

    pub(crate) fn snapshot(&self, id: SessionId) -> Option<Session> {
        self.sessions.get(&id).map(|live| live.session.clone())
    }

    /// Takes a session out of the table and all its indexes. Only one caller gets it.
    pub(crate) fn remove(&self, id: SessionId) -> Option<Box<LiveSession>> {
        let (_, live) = self.sessions.remove(&id)?;
        let session = &live.session;
        recount(
            &self.session_counts,
            session.origin.protocol,
            Some(session.state),
            None,
        );
        let mut order = self.session_order.write().unwrap_or_else(PoisonError::into_inner);
        order.remove(&id);
        drop(order);
        if let Entry::Occupied(mut peer) = self.peers.entry(session.peer.remote.ip()) {
            peer.get_mut().remove(&id);
            if peer.get().is_empty() {
                peer.remove();
            }
        }
        if let Some(user) = session.user() {
            self.leave_user(user, id);
        }
        let local = session.local;
        if let Some(tunnel) = session.tunnel {
            self.tunnel(tunnel, |tunnel| {
                if tunnel.sessions.get(&local) == Some(&id) {
                    tunnel.sessions.remove(&local);
                }
            });
        }
        Some(live)
    }

    /// Notes that a session claims to be a user's, without counting it.
    pub(crate) fn claim_user(&self, user: &str, id: SessionId) {
        let mut user = self.users.entry(user.to_owned()).or_default();
        user.sessions.entry(id).or_insert(false);
    }

    /// Counts a session as the user's, until [`Table::leave_user`]. Over the limit either the new one is refused, or the oldest ones no longer
    /// count, and are given to be ended.
    pub(crate) fn join_user(
        &self,
        user: &str,
        id: SessionId,
        limit: Option<u32>,
        when_full: WhenFull,
    ) -> Result<Vec<SessionId>, UserFull> {
        let limit = limit.unwrap_or(u32::MAX);
        let mut replaced = Vec::new();
        let mut entry = self.users.entry(user.to_owned()).or_default();
        let user = entry.value_mut();
        let counts = *user.sessions.entry(id).or_insert(false);
        if counts {
            return Ok(replaced);
        }
        if limit == 0 || (user.counting >= limit && when_full == WhenFull::Deny) {
            return Err(UserFull);
        }
        if user.counting >= limit {
            for (id, counts) in &mut user.sessions {
                if *counts && user.counting >= limit {
                    *counts = false;
                    user.counting -= 1;
                    replaced.push(*id);
                }
            }
        }
        user.sessions.insert(id, true);
        user.counting += 1;
        Ok(replaced)
    }

    pub(crate) fn leave_user(&self, user: &str, id: SessionId) {
        if let Entry::Occupied(mut entry) = self.users.entry(user.to_owned()) {
            let user = entry.get_mut();
            if user.sessions.remove(&id) == Some(true) {
                user.counting = user.counting.saturating_sub(1);
            }
            if user.sessions.is_empty() {
                entry.remove();
            }
        }
    }

    /// All sessions of a user, proven or claimed.
    pub(crate) fn user_sessions(&self, user: &str) -> Vec<SessionId> {
        let user = self.users.get(user);
        user.map(|user| user.sessions.keys().copied().collect())
            .unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn user_counting(&self, user: &str) -> u32 {
        self.users.get(user).map_or(0, |user| user.counting)
    }

    /// Numbers of entries in all indexes: all zero when nothing is left.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [usize; 6] {
        [
            self.sessions.len(),
            self.tunnels.len(),
            self.users.len(),
            self.peers.len(),
            self.session_order.read().unwrap().len(),
            self.tunnel_order.read().unwrap().len(),
        ]
    }

    /// The next sessions that may match a filter, from the narrowest index that serves it.
    pub(crate) fn candidates(
        &self,
        filter: &SessionFilter,
        after: Option<SessionId>,
        order: Order,
    ) -> Vec<SessionId> {
        if let Some(tunnel) = filter.tunnel {
            let tunnel = self.tunnels.get(&tunnel);
            let ids: BTreeSet<SessionId> = tunnel
                .map(|tunnel| tunnel.sessions.values().copied().collect())
                .unwrap_or_default();
            return next_of(&ids, after, order, ids.len());
        }
        if let Some(user) = &filter.user {
            let ids = self.user_sessions(user).into_iter().collect();
            return next_of(&ids, after, order, ids.len());
        }
        if let Some(peer) = filter.peer {
            let peer = self.peers.get(&peer);
            return peer
                .map(|ids| next_of(&ids, after, order, CHUNK))
                .unwrap_or_default();
        }
        let ids = self.session_order.read().unwrap_or_else(PoisonError::into_inner);
        next_of(&ids, after, order, CHUNK)
    }

    pub(crate) fn session_counts(&self) -> Counts {
        lock(&self.session_counts).clone()
    }

    pub(crate) fn tunnel_counts(&self) -> Counts {
        lock(&self.tunnel_counts).clone()
    }
}
