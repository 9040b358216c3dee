//! The engine: joins what machines report with the session table, admission, addresses and the journal.

mod authorize;
mod connections;
mod end;
mod living;
mod query;
mod restore;
mod settings;
#[cfg(test)]
mod tests;

pub use end::MAX_DUE;
pub use restore::{IDLE_GRACE, Loaded, RestoredTunnel};

use crate::admission::{Admission, Asking, Refused};
use crate::clock::{Clocks, Limit};
use crate::config::EngineConfig;
use crate::event::{EngineEvent, Observer};
use crate::facts::Facts;
use crate::history::History;
use crate::ids::Mint;
use crate::journal::{Journal, JournalError, Table as JournalTable};
use crate::leases::{Leases, StickyChange};
use crate::model::{Origin, Session, SessionLimits, State, Tunnel};
use crate::record;
use crate::saver::{Saver, Turn};
use crate::table::{LiveSession, LiveTunnel, Table, lock};
use crate::time::{Now, rounded};
use crate::{SessionId, TunnelId};
use bytes::Bytes;
use sluice_auth::AuthRequest;
use sluice_spi::{
    CallInfo, Entropy, Fact, LocalRef, PathStats, PeerAddr, Refusal, ShardId, Shards, TunnelInfo, random_u16,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The engine. Shared by all shards and the admin plane; every method is quick and may be called from any thread.
/// What happens to one session comes from the shard that owns it, in order.
pub struct Engine {
    config: RwLock<Arc<EngineConfig>>,
    table: Table,
    admission: Mutex<Admission>,
    leases: Mutex<Leases>,
    history: Mutex<History>,
    clocks: Clocks,
    mint: Mutex<Mint>,
    dice: Mutex<Box<dyn Entropy>>,
    saver: Saver,
    observer: Arc<dyn Observer>,
    /// Load of each virtual shard in thousandths, and last that of what all shards share.
    loads: Vec<AtomicU16>,
    opened: AtomicU64,
    closed: AtomicU64,
    recovered: AtomicU64,
    set_aside: AtomicU64,
}

impl Engine {
    /// An engine with no session. `entropy` gives identifiers and choices.
    pub fn new(
        config: EngineConfig,
        journal: Arc<dyn Journal>,
        observer: Arc<dyn Observer>,
        mut entropy: Box<dyn Entropy>,
    ) -> Self {
        let dice = entropy.fork();
        Self {
            table: Table::default(),
            admission: Mutex::new(Admission::new(config.limits.clone())),
            leases: Mutex::new(Leases::new(&config.pools, config.sticky_count)),
            history: Mutex::new(History::new(config.history)),
            clocks: Clocks::new(),
            mint: Mutex::new(Mint::new(entropy)),
            dice: Mutex::new(dice),
            saver: Saver::new(journal),
            observer,
            loads: (0..=Shards::VIRTUAL).map(|_| AtomicU16::new(0)).collect(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            set_aside: AtomicU64::new(0),
            config: RwLock::new(Arc::new(config)),
        }
    }

    fn config(&self) -> Arc<EngineConfig> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        config.clone()
    }

    fn tell(&self, event: EngineEvent) {
        self.observer.on_event(&event);
    }

    /// A call that was to be placed came to nothing before it had a session.
    pub fn call_failed(&self, label: &str, reason: &str) {
        let (label, reason) = (label.to_owned(), reason.to_owned());
        self.tell(EngineEvent::CallFailed { label, reason });
    }

    fn tell_turn(&self, turn: Option<Turn>) {
        if let Some(Turn { before, error }) = turn {
            self.tell(EngineEvent::JournalFailing { error, before });
        }
    }

    /// Journals what changed about users' last addresses.
    fn save_sticky(&self, changes: Vec<StickyChange>) {
        for change in changes {
            let turn = match change {
                StickyChange::Put {
                    key: (user, pool),
                    address,
                    until,
                } => {
                    let key = record::sticky_key(address.family(), &user, &pool);
                    let value = record::encode_sticky(&user, &pool, address, until);
                    self.saver.put(JournalTable::Leases, key, value)
                }
                StickyChange::Delete {
                    key: (user, pool),
                    family,
                } => {
                    let key = record::sticky_key(family, &user, &pool);
                    self.saver.delete(JournalTable::Leases, key)
                }
            };
            self.tell_turn(turn);
        }
    }

    /// Says how loaded a shard is, in thousandths of what it can bear: how long its queues make work wait.
    pub fn set_load(&self, shard: ShardId, thousandths: u16) {
        if let Some(load) = self.loads.get(usize::from(shard.0 % Shards::VIRTUAL)) {
            load.store(thousandths, Ordering::Relaxed);
        }
    }

    /// Says how loaded that is which all shards share, such as the authentication backends, in thousandths.
    pub fn set_shared_load(&self, thousandths: u16) {
        if let Some(load) = self.loads.last() {
            load.store(thousandths, Ordering::Relaxed);
        }
    }

    fn asking(&self, shard: ShardId, peer: IpAddr, now: Now) -> Asking {
        let own = self.loads.get(usize::from(shard.0 % Shards::VIRTUAL));
        let load = own.into_iter().chain(self.loads.last());
        let load = load.map(|load| load.load(Ordering::Relaxed)).max().unwrap_or(0);
        Asking {
            peer,
            load,
            random: random_u16(lock(&self.dice).as_mut()),
            now: now.instant,
        }
    }

    /// Whether a tunnel from this peer may be set up now. Ask before any state is made for it; a refusal is
    /// counted.
    pub fn tunnel_opening(&self, origin: &Origin, peer: PeerAddr, now: Now) -> Result<(), Refusal> {
        let asking = self.asking(origin.shard, peer.remote.ip(), now);
        let result = lock(&self.admission).tunnel_may_open(&asking);
        result.map_err(|reason| self.refuse_tunnel(origin, peer, reason))
    }

    fn refuse_tunnel(&self, origin: &Origin, peer: PeerAddr, reason: Refused) -> Refusal {
        self.tell(EngineEvent::TunnelRefused {
            origin: origin.clone(),
            peer,
            reason,
        });
        reason.refusal()
    }

    /// A tunnel is established. Over a limit it is refused: close its machine. On `Ok`, [`Engine::tunnel_down`] is
    /// called once for it, sooner or later.
    pub fn tunnel_up(&self, origin: &Origin, info: &TunnelInfo, now: Now) -> Result<TunnelId, Refusal> {
        let admitted = lock(&self.admission).tunnel(info.peer.remote.ip());
        admitted.map_err(|reason| self.refuse_tunnel(origin, info.peer, reason))?;
        let id = lock(&self.mint).tunnel(now.wall);
        let tunnel = Tunnel {
            id,
            state: State::Established,
            origin: origin.clone(),
            key: info.key,
            peer: info.peer,
            peer_name: info.peer_name.clone(),
            initiated: info.initiated,
            facts: Facts::from(&info.facts[..]),
            created: rounded(now.wall),
            sessions: 0,
            restored: 0,
        };
        self.table.insert_tunnel(LiveTunnel {
            tunnel: tunnel.clone(),
            sessions: BTreeMap::new(),
            checkpoint: None,
            checkpoints: 0,
            record: None,
        });
        self.tell(EngineEvent::TunnelUp(Arc::new(tunnel)));
        Ok(id)
    }

    /// A session starts, in a tunnel or, where its protocol has none, by itself: admission. On `Ok`, [`Engine::session_down`] is called once for it, sooner or later.
    pub fn session_opening(
        &self,
        origin: &Origin,
        tunnel: Option<TunnelId>,
        local: LocalRef,
        call: &CallInfo,
        now: Now,
    ) -> Result<SessionId, Refusal> {
        let peer = call.peer.remote.ip();
        let asking = self.asking(origin.shard, peer, now);
        let admitted = lock(&self.admission).session(&asking);
        admitted.map_err(|reason| self.refuse_session(origin, tunnel, call, reason))?;
        let id = lock(&self.mint).session(now.wall);
        let config = self.config();
        let limits = SessionLimits {
            session_timeout: config.defaults.session_timeout,
            idle_timeout: config.defaults.idle_timeout,
        };
        let session = Session {
            limits,
            ..opening_session(id, origin, tunnel, local, call, now)
        };
        let inserted = self.table.insert(LiveSession::new(session.clone(), now.instant));
        if inserted.is_err() {
            let mut admission = lock(&self.admission);
            admission.session_gone(peer, true);
            let reason = admission.count(Refused::NoTunnel);
            drop(admission);
            return Err(self.refuse_session(origin, tunnel, call, reason));
        }
        let until = now.instant.checked_add(config.defaults.opening_timeout);
        self.clocks.set(origin.shard, id, Limit::Opening, until);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.tell(EngineEvent::SessionOpened(Arc::new(session)));
        Ok(id)
    }

    fn refuse_session(
        &self,
        origin: &Origin,
        tunnel: Option<TunnelId>,
        call: &CallInfo,
        reason: Refused,
    ) -> Refusal {
        self.tell(EngineEvent::SessionRefused {
            origin: origin.clone(),
            tunnel,
            peer: call.peer,
            reason,
        });
        reason.refusal()
    }

    /// A session's peer claims to be somebody; a backend is being asked. False where there is no such session.
    pub fn auth_requested(&self, id: SessionId, request: &AuthRequest) -> bool {
        let identity = request.credentials.identity().clone();
        let former = self.table.session(id, |live| {
            let session = &mut live.session;
            session.calling = session.calling.take().or_else(|| request.calling.clone());
            session.called = session.called.take().or_else(|| request.called.clone());
            // What is authorized stays so while the peer proves itself again.
            if session.grants.is_some() {
                return None;
            }
            let former = session.identity.replace(identity.clone());
            live.become_state(State::Authenticating);
            Some(former)
        });
        let Some(former) = former else { return false };
        if let Some(former) = former {
            if let Some(former) = former.filter(|former| *former != identity) {
                self.table.leave_user(former.as_str(), id);
            }
            self.enter(id, &identity);
        }
        self.tell(EngineEvent::AuthRequested {
            session: id,
            identity,
            method: request.credentials.method(),
        });
        true
    }

    /// A session is established, with what was negotiated. False where there is no such session, it was
    /// established before, or it is being ended.
    pub fn session_up(&self, id: SessionId, facts: &[Fact], now: Now) -> bool {
        let up = self.table.session(id, |live| {
            let was_opening = live.session.state.is_opening();
            live.session.facts = Facts::from(facts);
            if !was_opening || !live.become_state(State::Established) {
                return None;
            }
            live.session.established = Some(rounded(now.wall));
            live.session.last_activity = rounded(now.wall);
            live.active = now.instant;
            Some(live.session.clone())
        });
        let Some(session) = up.flatten() else { return false };
        lock(&self.admission).session_established(session.peer.remote.ip());
        let (shard, limits) = (session.origin.shard, session.limits);
        self.clocks.set(shard, id, Limit::Opening, None);
        self.clocks
            .set(shard, id, Limit::Session, after(now, limits.session_timeout));
        self.clocks
            .set(shard, id, Limit::Idle, after(now, limits.idle_timeout));
        self.tell(EngineEvent::SessionUp(Arc::new(session)));
        true
    }

    /// What was negotiated for a session has changed since it was established, such as by a second address family.
    pub fn session_changed(&self, id: SessionId, facts: &[Fact]) {
        self.table.session(id, |live| {
            live.session.facts = Facts::from(facts);
        });
    }

    /// What a session's present path has carried. Counters that fell are those of a new path: what the former one
    /// carried is kept. False where there is no such session.
    pub fn update_counters(&self, id: SessionId, path: PathStats, now: Now) -> bool {
        let interval = self.config().counter_interval;
        let changed = self.table.session(id, |live| {
            let before = live.session.counters;
            if live.count(path) {
                live.active = now.instant;
                live.session.last_activity = rounded(now.wall);
            }
            live.unsaved |= live.session.counters != before;
            let waited = |saved| elapsed(saved, now.instant) >= interval;
            let due = live.unsaved && live.saved.is_none_or(waited);
            let tunnel = live.session.tunnel;
            tunnel.filter(|_| due && live.session.state == State::Established)
        });
        let Some(due) = changed else { return false };
        if let Some(tunnel) = due {
            self.save_counters(id, tunnel, now);
        }
        true
    }

    /// Counters are of use only to a session that has a record to go on from.
    fn save_counters(&self, id: SessionId, tunnel: TunnelId, now: Now) {
        let kept = self.table.tunnel(tunnel, |tunnel| tunnel.checkpoint.is_some());
        if kept != Some(true) {
            return;
        }
        let value = self.table.session(id, |live| {
            live.saved = Some(now.instant);
            live.unsaved = false;
            record::encode_counters(&live.session)
        });
        if let Some(value) = value {
            let key = record::counters_key(id);
            self.tell_turn(self.saver.put(JournalTable::Counters, key, value));
        }
    }

    /// Journals a tunnel with its established sessions and its machine's checkpoint; `None`: the machine has
    /// nothing that could go on, and the tunnel's record is deleted. False where there is no such tunnel.
    pub fn checkpoint(&self, id: TunnelId, checkpoint: Option<Bytes>, now: Now) -> bool {
        let live = self.table.tunnel(id, |live| {
            let had = live.checkpoint.is_some() || live.record.is_some();
            live.checkpoint.clone_from(&checkpoint);
            live.checkpoints += 1;
            live.record = None;
            let sessions: Vec<SessionId> = live.sessions.values().copied().collect();
            (live.tunnel.clone(), live.checkpoints, sessions, had)
        });
        let Some((tunnel, number, sessions, had)) = live else {
            return false;
        };
        let key = record::tunnel_key(id);
        let Some(checkpoint) = checkpoint else {
            if had {
                self.tell_turn(self.saver.delete(JournalTable::Tunnels, key));
            }
            return true;
        };
        let known = |id| {
            let known = self.table.session(id, |live| {
                live.is_kept().then(|| {
                    live.known_since.get_or_insert(number);
                    live.session.clone()
                })
            });
            known.flatten()
        };
        let snapshots: Vec<Session> = sessions.into_iter().filter_map(known).collect();
        match record::encode_tunnel(now.wall, &tunnel, &checkpoint, &snapshots) {
            Some(value) => self.tell_turn(self.saver.put(JournalTable::Tunnels, key, value)),
            None => self.tell(EngineEvent::JournalFailing {
                error: Some(JournalError::TooLarge(id)),
                before: None,
            }),
        }
        true
    }
}

fn opening_session(
    id: SessionId,
    origin: &Origin,
    tunnel: Option<TunnelId>,
    local: LocalRef,
    call: &CallInfo,
    now: Now,
) -> Session {
    Session {
        id,
        state: State::Opening,
        kind: call.kind,
        origin: origin.clone(),
        tunnel,
        local,
        peer: call.peer,
        identity: None,
        rejected: None,
        calling: call.calling.clone(),
        called: call.called.clone(),
        label: call.label.clone(),
        grants: None,
        ipv4_pool: None,
        ipv6_pool: None,
        facts: Facts::default(),
        limits: SessionLimits::default(),
        counters: PathStats::default(),
        created: rounded(now.wall),
        established: None,
        last_activity: rounded(now.wall),
        ended: None,
        end: None,
        restored: 0,
    }
}

/// The end of a timeout that starts now; `None`: it never ends.
fn after(now: Now, timeout: Option<Duration>) -> Option<Instant> {
    now.instant.checked_add(timeout?)
}

fn elapsed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}
