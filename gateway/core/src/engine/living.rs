//! Everything that is to be in the journal, for one that has failed and does not know what it has.

use super::Engine;
use crate::blocks::Family;
use crate::journal::{Living, Record, Table as JournalTable};
use crate::model::Session;
use crate::record;
use crate::table::lock;
use crate::{SessionId, TunnelId};
use std::ops::ControlFlow;
use std::time::SystemTime;

/// Last addresses copied under one lock, so that no shard waits long.
const CHUNK: usize = 256;

type Put<'a> = &'a mut dyn FnMut(Record) -> ControlFlow<()>;

/// No lock is held while `put` is at work: it may wait for a disk.
impl Living for Engine {
    fn records(&self, clock: &dyn Fn() -> SystemTime, put: &mut dyn FnMut(Record) -> ControlFlow<()>) {
        let _ended_early = self.living_tunnels(clock, put).is_break()
            || [Family::V4, Family::V6]
                .into_iter()
                .any(|family| self.kept_addresses(family, put).is_break());
    }
}

impl Engine {
    fn living_tunnels(&self, clock: &dyn Fn() -> SystemTime, put: Put<'_>) -> ControlFlow<()> {
        let mut cursor = None;
        loop {
            let ids = self.table.tunnel_ids(cursor);
            if ids.is_empty() {
                return ControlFlow::Continue(());
            }
            for id in ids {
                cursor = Some(id);
                self.living_tunnel(id, clock, put)?;
            }
        }
    }

    /// A tunnel's record, where it has one. The machine's last checkpoint is written with those of the sessions it
    /// knows that are still there: one that came since may have the name of one that went, and would be taken for it.
    /// Whatever changed since is journalled by its shard within a moment.
    fn living_tunnel(&self, id: TunnelId, clock: &dyn Fn() -> SystemTime, put: Put<'_>) -> ControlFlow<()> {
        let live = self.table.tunnel(id, |live| {
            let sessions: Vec<SessionId> = live.sessions.values().copied().collect();
            let (checkpoint, record) = (live.checkpoint.clone(), live.record.clone());
            (
                live.tunnel.clone(),
                checkpoint,
                live.checkpoints,
                record,
                sessions,
            )
        });
        let Some((tunnel, Some(checkpoint), number, record, sessions)) = live else {
            return ControlFlow::Continue(());
        };
        if let Some(record) = record {
            // Its machine is not at work again: it stays as it was, and what it lacks of counters goes beside it.
            put(record)?;
            for session in sessions.into_iter().filter_map(|id| self.table.snapshot(id)) {
                put(Record {
                    table: JournalTable::Counters,
                    key: record::counters_key(session.id),
                    value: record::encode_counters(&session),
                })?;
            }
            return ControlFlow::Continue(());
        }
        let known = |id| {
            let known = self.table.session(id, |live| {
                let known = live.known_since.is_some_and(|since| since <= number);
                (known && live.is_kept()).then(|| live.session.clone())
            });
            known.flatten()
        };
        let sessions: Vec<Session> = sessions.into_iter().filter_map(known).collect();
        // That a record is too large is told when it is made first.
        match record::encode_tunnel(clock(), &tunnel, &checkpoint, &sessions) {
            Some(value) => put(Record {
                table: JournalTable::Tunnels,
                key: record::tunnel_key(id),
                value,
            }),
            None => ControlFlow::Continue(()),
        }
    }

    fn kept_addresses(&self, family: Family, put: Put<'_>) -> ControlFlow<()> {
        let mut cursor = None;
        loop {
            let kept = lock(&self.leases).kept(family, cursor, CHUNK);
            if kept.is_empty() {
                return ControlFlow::Continue(());
            }
            for (address, (user, pool), until) in kept {
                cursor = Some(address);
                put(Record {
                    table: JournalTable::Leases,
                    key: record::sticky_key(family, &user, &pool),
                    value: record::encode_sticky(&user, &pool, address, until),
                })?;
            }
        }
    }
}
