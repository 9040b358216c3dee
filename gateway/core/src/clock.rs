//! When sessions are due: one clock for each shard.

use crate::SessionId;
use crate::table::lock;
use sluice_spi::timer::Timers;
use sluice_spi::{ShardId, Shards, TerminateCause};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

/// What runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Limit {
    Opening,
    Session,
    Idle,
}

#[derive(Debug, Default)]
struct Clock {
    timers: Timers<(SessionId, Limit)>,
    /// Sessions whose end was asked for, which their shard has not yet been told.
    asked: VecDeque<(SessionId, TerminateCause)>,
}

#[derive(Debug)]
pub(crate) struct Clocks {
    shards: Vec<Mutex<Clock>>,
}

impl Clocks {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..Shards::VIRTUAL).map(|_| Mutex::default()).collect(),
        }
    }

    fn with<R: Default>(&self, shard: ShardId, act: impl FnOnce(&mut Clock) -> R) -> R {
        let clock = self.shards.get(usize::from(shard.0 % Shards::VIRTUAL));
        clock.map(|clock| act(&mut lock(clock))).unwrap_or_default()
    }

    pub(crate) fn set(&self, shard: ShardId, id: SessionId, limit: Limit, at: Option<Instant>) {
        self.with(shard, |clock| match at {
            Some(at) => clock.timers.set((id, limit), at),
            None => {
                clock.timers.clear((id, limit));
            }
        });
    }

    pub(crate) fn clear(&self, shard: ShardId, id: SessionId) {
        self.with(shard, |clock| {
            for limit in [Limit::Opening, Limit::Session, Limit::Idle] {
                clock.timers.clear((id, limit));
            }
        });
    }

    pub(crate) fn ask_end(&self, shard: ShardId, id: SessionId, cause: TerminateCause) {
        self.with(shard, |clock| clock.asked.push_back((id, cause)));
    }

    pub(crate) fn next_asked(&self, shard: ShardId) -> Option<(SessionId, TerminateCause)> {
        self.with(shard, |clock| clock.asked.pop_front())
    }

    pub(crate) fn next_due(&self, shard: ShardId, now: Instant) -> Option<(SessionId, Limit)> {
        self.with(shard, |clock| clock.timers.pop_due(now))
    }

    /// When the shard should ask next.
    pub(crate) fn deadline(&self, shard: ShardId, now: Instant) -> Option<Instant> {
        self.with(shard, |clock| match clock.asked.is_empty() {
            false => Some(now),
            true => clock.timers.next(),
        })
    }
}
