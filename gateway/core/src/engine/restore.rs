//! Going on after a restart. A record is one witness among others: what cannot be right is set aside for a person
//! to look at, what contradicts a newer record or a living session too, and nothing counts as established before
//! its machine says so.

use super::Engine;
use crate::clock::Limit;
use crate::event::EngineEvent;
use crate::facts::Facts;
use crate::journal::{Record, Table as JournalTable};
use crate::leases::For;
use crate::model::{Address, Origin, Session, State};
use crate::record::{self, CountersRecord, StickyRecord, TunnelRecord};
use crate::table::{LiveSession, LiveTunnel, lock};
use crate::time::{Now, between, to_millis};
use crate::{SessionId, TunnelId};
use bytes::Bytes;
use sluice_spi::{Ended, LocalRef, MachineKey, PathStats, PeerAddr, ShardId, TerminateCause, TunnelInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time that a restored session has at least to show traffic, however long it was idle before: while the gateway
/// was away its user could not.
pub const IDLE_GRACE: Duration = Duration::from_secs(60);

/// A tunnel from a record: make a machine from its checkpoint, and then say [`Engine::recovered`],
/// [`Engine::tunnel_down`] or [`Engine::forget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTunnel {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Where it came in, with the shard that owns it now.
    pub origin: Origin,
    /// The machine's key.
    pub key: MachineKey,
    /// Both ends.
    pub peer: PeerAddr,
    /// What the machine gave.
    pub checkpoint: Bytes,
    /// Its established sessions.
    pub sessions: Vec<(LocalRef, SessionId)>,
}

/// What came out of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The tunnels, the newest record first.
    pub tunnels: Vec<RestoredTunnel>,
    /// Their sessions.
    pub sessions: usize,
    /// Last addresses kept for their users.
    pub kept: usize,
    /// Records deleted because their time is over or what they belong to is gone.
    pub outdated: usize,
    /// Records set aside.
    pub set_aside: usize,
}

/// All records of a journal by what they are.
#[derive(Default)]
struct Sorted {
    tunnels: Vec<(Record, TunnelRecord)>,
    counters: BTreeMap<SessionId, (Record, CountersRecord)>,
    sticky: Vec<(Record, StickyRecord)>,
    bad: Vec<(Record, String)>,
}

fn sort(
    records: Vec<Record>,
    protocols: &[&'static str],
    shard_of: &dyn Fn(MachineKey) -> ShardId,
) -> Sorted {
    let mut sorted = Sorted::default();
    for record in records {
        let problem = match record.table {
            JournalTable::Tunnels => match record::decode_tunnel(&record, protocols, shard_of) {
                Ok(decoded) => {
                    sorted.tunnels.push((record, decoded));
                    continue;
                }
                Err(problem) => problem,
            },
            JournalTable::Counters => match record::decode_counters(&record) {
                Ok(decoded) => {
                    sorted.counters.insert(decoded.session, (record, decoded));
                    continue;
                }
                Err(problem) => problem,
            },
            JournalTable::Leases => match record::decode_sticky(&record) {
                Ok(decoded) => {
                    sorted.sticky.push((record, decoded));
                    continue;
                }
                Err(problem) => problem,
            },
            // They are of whoever counts.
            JournalTable::Quotas => continue,
        };
        sorted.bad.push((record, problem.to_string()));
    }
    // Where records contradict each other, the newer one is right; and when there are more last addresses than
    // may be kept, those that were left last stay.
    sorted
        .tunnels
        .sort_by_key(|(_, tunnel)| (std::cmp::Reverse(tunnel.written), tunnel.tunnel.id));
    sorted.sticky.sort_by_key(|(_, sticky)| sticky.until);
    sorted
}

impl Engine {
    /// Takes in what a journal gave, before anything else happens. `shard_of` says which shard owns a machine now.
    /// Tunnels and sessions from records are recovering until their machine is at work, and hold their addresses
    /// from now on.
    pub fn load(&self, records: Vec<Record>, shard_of: &dyn Fn(MachineKey) -> ShardId, now: Now) -> Loaded {
        let config = self.config();
        let mut sorted = sort(records, &config.protocols, shard_of);
        let mut loaded = Loaded::default();
        let mut machines = BTreeSet::new();
        for (record, tunnel) in std::mem::take(&mut sorted.tunnels) {
            let machine = (
                tunnel.tunnel.origin.protocol,
                tunnel.tunnel.origin.listener.clone(),
                tunnel.tunnel.key,
            );
            if !machines.insert(machine) {
                let reason = "another tunnel has its key".to_owned();
                sorted.bad.push((record, reason));
                continue;
            }
            match self.take_in(record.clone(), tunnel, &mut sorted.counters, now) {
                Ok(restored) => {
                    loaded.sessions += restored.sessions.len();
                    loaded.tunnels.push(restored);
                }
                Err(reason) => sorted.bad.push((record, reason)),
            }
        }
        for (_, (record, _)) in std::mem::take(&mut sorted.counters) {
            loaded.outdated += 1;
            self.tell_turn(self.saver.delete(record.table, record.key));
        }
        for (record, sticky) in std::mem::take(&mut sorted.sticky) {
            self.take_in_sticky(record, sticky, &mut loaded, &mut sorted.bad, now);
        }
        loaded.set_aside = sorted.bad.len();
        for (record, reason) in sorted.bad {
            self.put_aside(record, reason);
        }
        loaded
    }

    fn put_aside(&self, record: Record, reason: String) {
        let table = record.table;
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        self.tell_turn(self.saver.set_aside(record, &reason));
        self.tell(EngineEvent::RecordSetAside { table, reason });
    }

    /// Takes in one tunnel with all its sessions, or says why nothing of it.
    fn take_in(
        &self,
        record: Record,
        decoded: TunnelRecord,
        counters: &mut BTreeMap<SessionId, (Record, CountersRecord)>,
        now: Now,
    ) -> Result<RestoredTunnel, String> {
        let TunnelRecord {
            tunnel,
            checkpoint,
            mut sessions,
            ..
        } = decoded;
        if self.tunnel(tunnel.id).is_some() {
            return Err(format!("tunnel {} is at work", tunnel.id));
        }
        self.check_names(&sessions)?;
        self.take_addresses(&sessions)?;
        for session in &mut sessions {
            if let Some((_, counters)) = counters.remove(&session.id) {
                session.counters = larger(session.counters, counters.counters);
                session.last_activity = session.last_activity.max(counters.last_activity);
            }
        }
        let restored = RestoredTunnel {
            tunnel: tunnel.id,
            origin: tunnel.origin.clone(),
            key: tunnel.key,
            peer: tunnel.peer,
            checkpoint: checkpoint.clone(),
            sessions: sessions
                .iter()
                .map(|session| (session.local, session.id))
                .collect(),
        };
        lock(&self.admission).add_tunnel(tunnel.peer.remote.ip());
        lock(&self.mint).seen(tunnel.id.value());
        self.table.insert_tunnel(LiveTunnel {
            tunnel,
            sessions: BTreeMap::new(),
            checkpoint: Some(checkpoint),
            checkpoints: 0,
            record: Some(record),
        });
        for session in sessions {
            self.take_in_session(session, now.instant);
        }
        Ok(restored)
    }

    pub(super) fn take_in_session(&self, session: Session, now: Instant) {
        let (id, user) = (session.id, session.user().map(str::to_owned));
        lock(&self.mint).seen(id.value());
        lock(&self.admission).add_session(session.peer.remote.ip(), session.established.is_none());
        let counters = session.counters;
        let is_connection = session.tunnel.is_none();
        let mut live = LiveSession::new(session, now);
        if is_connection {
            // What it carries goes on to count from there, where a new path of a tunnel's session begins at nought.
            live.path = counters;
        } else {
            live.base = counters;
            live.known_since = Some(0);
        }
        // Names were checked, so that this cannot fail.
        let inserted = self.table.insert(live);
        debug_assert!(inserted.is_ok());
        if let Some(user) = user {
            // It was admitted when it was opened: limits do not apply again.
            let joined = self.table.join_user(&user, id, None, Default::default());
            debug_assert_eq!(joined, Ok(Vec::new()));
        }
    }

    /// No session may be there twice, in the record or in the table.
    pub(super) fn check_names(&self, sessions: &[Session]) -> Result<(), String> {
        let (mut ids, mut locals) = (BTreeSet::new(), BTreeSet::new());
        for session in sessions {
            if !ids.insert(session.id) || !locals.insert(session.local) {
                return Err(format!("session {} is in it twice", session.id));
            }
            if self.table.snapshot(session.id).is_some() {
                return Err(format!("session {} is in another record too", session.id));
            }
        }
        Ok(())
    }

    /// Takes the addresses of all sessions, or none.
    fn take_addresses(&self, sessions: &[Session]) -> Result<(), String> {
        let mut leases = lock(&self.leases);
        let mut taken: Vec<(Address, SessionId)> = Vec::new();
        let mut conflict = None;
        for session in sessions {
            for address in session.addresses() {
                let pool = match address {
                    Address::V4(_) => session.ipv4_pool.as_deref(),
                    Address::V6(_) => session.ipv6_pool.as_deref(),
                };
                let wanted = For {
                    user: session.user().unwrap_or_default(),
                    session: session.id,
                    now: to_millis(session.established.unwrap_or(session.created)),
                };
                match leases.retake(address, pool, wanted) {
                    Ok(()) => taken.push((address, session.id)),
                    Err(_) => {
                        let id = session.id;
                        conflict.get_or_insert(format!("the address {address} of session {id} is in use"));
                    }
                }
            }
        }
        if let Some(conflict) = conflict {
            for (address, session) in taken {
                leases.untake(address, session);
            }
            return Err(conflict);
        }
        Ok(())
    }

    fn take_in_sticky(
        &self,
        record: Record,
        sticky: StickyRecord,
        loaded: &mut Loaded,
        bad: &mut Vec<(Record, String)>,
        now: Now,
    ) {
        let StickyRecord {
            user,
            pool,
            address,
            until,
        } = sticky;
        let mut leases = lock(&self.leases);
        // The user has it now; when it leaves, the record is written anew.
        if leases.user_of(address).is_some_and(|holder| holder == user) {
            return;
        }
        let taken = leases.is_kept(address);
        let kept = until > to_millis(now.wall) && leases.restore_kept((user, pool), address, until);
        let changes = leases.take_changes();
        drop(leases);
        self.save_sticky(changes);
        if kept {
            loaded.kept += 1;
        } else if taken {
            bad.push((record, format!("the address {address} is kept for two users")));
        } else {
            loaded.outdated += 1;
            self.tell_turn(self.saver.delete(record.table, record.key));
        }
    }

    /// A machine made from a record is at work again with these sessions. Those of the record that are not among
    /// them end here. Gives the sessions that no record knows: the machine is to end them.
    pub fn recovered(
        &self,
        id: TunnelId,
        info: &TunnelInfo,
        sessions: &[LocalRef],
        now: Now,
    ) -> Vec<LocalRef> {
        let known = self.table.tunnel(id, |live| {
            let tunnel = &mut live.tunnel;
            tunnel.peer_name.clone_from(&info.peer_name);
            tunnel.facts = Facts::from(&info.facts[..]);
            if tunnel.state.may_become(State::Established) {
                tunnel.state = State::Established;
            }
            live.record = None;
            live.sessions.clone()
        });
        let Some(known) = known else {
            return sessions.to_vec();
        };
        let alive: BTreeSet<LocalRef> = sessions.iter().copied().collect();
        let (mut went_on, mut lost) = (0, 0);
        for (local, session) in &known {
            if alive.contains(local) {
                went_on += usize::from(self.go_on(*session, now));
            } else {
                let text = "its tunnel went on without it after a restart";
                let ended = Ended::new(TerminateCause::LostCarrier, "not_recovered", text);
                lost += usize::from(self.session_down(*session, &ended, PathStats::default(), now));
            }
        }
        if let Some(tunnel) = self.tunnel(id) {
            self.tell(EngineEvent::TunnelRecovered {
                tunnel: Arc::new(tunnel),
                sessions: went_on,
                lost,
            });
        }
        let unknown = alive.into_iter().filter(|local| !known.contains_key(local));
        unknown.collect()
    }

    /// A restored session is established again, with what is left of its timeouts.
    pub(super) fn go_on(&self, id: SessionId, now: Now) -> bool {
        let session = self.table.session(id, |live| {
            let waits = live.session.established.is_none();
            let former = if waits {
                State::Establishing
            } else {
                State::Established
            };
            if live.session.state != State::Recovering || !live.become_state(former) {
                return None;
            }
            if waits {
                return Some(None);
            }
            if let Some(timeout) = live.session.limits.idle_timeout {
                let silence = between(live.session.last_activity, now.wall);
                let silence = silence.min(timeout.saturating_sub(IDLE_GRACE));
                live.active = now.instant.checked_sub(silence).unwrap_or(now.instant);
            }
            let silence = now.instant.saturating_duration_since(live.active);
            Some(Some((live.session.clone(), silence)))
        });
        let Some(went_on) = session.flatten() else {
            return false;
        };
        self.recovered.fetch_add(1, Ordering::Relaxed);
        let Some((session, silence)) = went_on else {
            return true;
        };
        let (shard, limits) = (session.origin.shard, session.limits);
        let age = between(session.established.unwrap_or(session.created), now.wall);
        let left = |timeout: Option<Duration>, gone: Duration| {
            let left = timeout?.saturating_sub(gone);
            now.instant.checked_add(left)
        };
        self.clocks
            .set(shard, id, Limit::Session, left(limits.session_timeout, age));
        self.clocks
            .set(shard, id, Limit::Idle, left(limits.idle_timeout, silence));
        true
    }

    /// No machine could be made from a restored tunnel's checkpoint: its record is set aside, and its sessions end.
    /// False where the tunnel is no restored one that waits for its machine.
    pub fn forget(&self, id: TunnelId, reason: &str, now: Now) -> bool {
        let record = self.table.tunnel(id, |live| live.record.take()).flatten();
        let Some(record) = record else { return false };
        // The record is kept, out of the way: not to be deleted with the tunnel.
        self.table.tunnel(id, |live| live.checkpoint = None);
        self.put_aside(record, reason.to_owned());
        let ended = Ended::new(TerminateCause::NasReboot, "not_restored", reason);
        self.tunnel_down(id, &ended, now)
    }
}

fn larger(a: PathStats, b: PathStats) -> PathStats {
    PathStats {
        rx_packets: a.rx_packets.max(b.rx_packets),
        rx_bytes: a.rx_bytes.max(b.rx_bytes),
        tx_packets: a.tx_packets.max(b.tx_packets),
        tx_bytes: a.tx_bytes.max(b.tx_bytes),
        dropped: a.dropped.max(b.dropped),
    }
}
