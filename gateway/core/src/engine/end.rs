//! How sessions and tunnels end.

use super::{Engine, elapsed};
use crate::clock::Limit;
use crate::event::EngineEvent;
use crate::journal::Table as JournalTable;
use crate::model::State;
use crate::record;
use crate::table::{LiveSession, lock};
use crate::time::{Now, rounded, to_millis};
use crate::{SessionId, TunnelId};
use sluice_spi::{Ended, PathStats, ShardId, TerminateCause};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Sessions that [`Engine::due`] gives at once at most: a bound on a shard's work between two looks at its sockets.
pub const MAX_DUE: usize = 256;

/// Timers that [`Engine::due`] looks at at once at most: idle timers mostly find that there was traffic.
const MAX_TIMERS: usize = 4 * MAX_DUE;

impl Engine {
    /// A session is gone, with the last counters of its path. Its addresses are free for others from now on.
    /// False where there is no such session (any more).
    pub fn session_down(&self, id: SessionId, ended: &Ended, path: PathStats, now: Now) -> bool {
        let Some(live) = self.table.remove(id) else {
            return false;
        };
        self.finish(live, ended, path, now);
        true
    }

    /// What is to be done about a session that was taken out of the table.
    fn finish(&self, mut live: Box<LiveSession>, ended: &Ended, path: PathStats, now: Now) {
        live.count(path);
        let mut session = live.session;
        let was_opening = session.established.is_none();
        session.state = State::Closed;
        session.ended = Some(rounded(now.wall));
        session.end = Some(ended.clone());
        self.clocks.clear(session.origin.shard, session.id);
        let mut leases = lock(&self.leases);
        for address in session.addresses() {
            leases.release(address, session.id, to_millis(now.wall));
        }
        let changes = leases.take_changes();
        drop(leases);
        lock(&self.admission).session_gone(session.peer.remote.ip(), was_opening);
        self.save_sticky(changes);
        // Only sessions of tunnels have such records.
        if live.saved.is_some() || session.restored > 0 && session.tunnel.is_some() {
            let key = record::counters_key(session.id);
            self.tell_turn(self.saver.delete(JournalTable::Counters, key));
        }
        let session = Arc::new(session);
        lock(&self.history).push(session.clone());
        self.closed.fetch_add(1, Ordering::Relaxed);
        self.tell(EngineEvent::SessionDown(session));
    }

    /// A tunnel is gone. Its sessions should be down before; those that are not, end with it. False where there is
    /// no such tunnel (any more).
    pub fn tunnel_down(&self, id: TunnelId, ended: &Ended, now: Now) -> bool {
        let Some(live) = self.table.remove_tunnel(id) else {
            return false;
        };
        for session in live.sessions.values() {
            self.session_down(*session, ended, PathStats::default(), now);
        }
        lock(&self.admission).tunnel_gone(live.tunnel.peer.remote.ip());
        if live.checkpoint.is_some() || live.record.is_some() {
            let key = record::tunnel_key(id);
            self.tell_turn(self.saver.delete(JournalTable::Tunnels, key));
        }
        let mut tunnel = live.tunnel;
        tunnel.state = State::Closed;
        self.tell(EngineEvent::TunnelDown {
            tunnel: Arc::new(tunnel),
            ended: ended.clone(),
        });
        true
    }

    /// Asks for the end of a session: its shard finds it in [`Engine::due`]. False where there is no such session,
    /// or its end was asked for before.
    pub fn end_session(&self, id: SessionId, cause: TerminateCause) -> bool {
        let shard = self.table.session(id, |live| {
            let news = live.ending.is_none() && live.session.state != State::Closing;
            news.then(|| {
                live.ending = Some(cause);
                live.session.origin.shard
            })
        });
        let Some(shard) = shard.flatten() else {
            return false;
        };
        self.clocks.ask_end(shard, id, cause);
        self.tell(EngineEvent::EndRequested {
            session: id,
            shard,
            cause,
        });
        true
    }

    /// Asks for the end of all sessions of a user, also of those whose credentials are just being checked: for
    /// users that were disabled or deleted. How many there were.
    pub fn end_user(&self, user: &str, cause: TerminateCause) -> usize {
        let sessions = self.table.user_sessions(user).into_iter();
        sessions.filter(|id| self.end_session(*id, cause)).count()
    }

    /// The sessions of a shard that are to be ended now, each once: by timeouts, or because somebody asked. At most
    /// [`MAX_DUE`]; ask again when there were so many. Each is closing from now on.
    pub fn due(&self, shard: ShardId, now: Now) -> Vec<(SessionId, TerminateCause)> {
        self.tell_turn(self.saver.retry());
        let mut due = Vec::new();
        while due.len() < MAX_DUE {
            let Some((id, cause)) = self.clocks.next_asked(shard) else {
                break;
            };
            due.extend(self.close(id).then_some((id, cause)));
        }
        for _ in 0..MAX_TIMERS {
            if due.len() >= MAX_DUE {
                break;
            }
            let Some((id, limit)) = self.clocks.next_due(shard, now.instant) else {
                break;
            };
            let cause = self.ran_out(shard, id, limit, now);
            due.extend(cause.filter(|_| self.close(id)).map(|cause| (id, cause)));
        }
        due
    }

    /// When [`Engine::due`] has something for a shard; `None`: not before something else happens.
    pub fn next_due(&self, shard: ShardId, now: Now) -> Option<Instant> {
        self.clocks.deadline(shard, now.instant)
    }

    /// Marks a session as closing; false where it is gone or was so before.
    fn close(&self, id: SessionId) -> bool {
        let closed = self.table.session(id, |live| {
            live.session.state != State::Closing && live.become_state(State::Closing)
        });
        closed == Some(true)
    }

    fn ran_out(&self, shard: ShardId, id: SessionId, limit: Limit, now: Now) -> Option<TerminateCause> {
        match limit {
            Limit::Opening => return Some(TerminateCause::LostCarrier),
            Limit::Session => return Some(TerminateCause::SessionTimeout),
            Limit::Idle => {}
        }
        let left = self.table.session(id, |live| {
            let timeout = live.session.limits.idle_timeout?;
            let silence = elapsed(live.active, now.instant);
            Some(timeout.saturating_sub(silence))
        });
        match left.flatten()? {
            Duration::ZERO => Some(TerminateCause::IdleTimeout),
            left => {
                let at = now.instant.checked_add(left);
                self.clocks.set(shard, id, Limit::Idle, at);
                None
            }
        }
    }
}
