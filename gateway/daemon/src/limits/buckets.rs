//! Bandwidth that sessions share.
//!
//! All sessions of one user (or source) that are given the same rate draw from one bucket, on whatever shards they are:
//! what they get together is exact. Where rules give one user several rates, each rate has a bucket of its own. A bucket
//! outlives its last session until it is full, so that nobody gains by connecting anew.

use super::{Limits, Owner, Who, lock};
use sluice_auth::policy::{ByteRate, Effects, SharedLimits};
use sluice_dataplane::relay::{Bucket, SharedBucket, Shares};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Buckets that nobody draws from are looked for when there are so many, and then when there are twice as many as were
/// left.
const FIRST_SWEEP: usize = 1_024;

/// Buckets without sessions that are kept until they are full; some 250 bytes each.
const MAX_IDLE: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    Up,
    Down,
}

type Key = (Owner, Direction, ByteRate);

#[derive(Debug)]
struct Table {
    buckets: HashMap<Key, SharedBucket>,
    sweep_at: usize,
}

/// The buckets that are shared.
#[derive(Debug)]
pub(super) struct Buckets(Mutex<Table>);

impl Default for Buckets {
    fn default() -> Self {
        Self(Mutex::new(Table {
            buckets: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        }))
    }
}

fn bucket(rate: ByteRate, now: Instant) -> SharedBucket {
    let per_second = NonZeroU64::new(rate.per_second).unwrap_or(NonZeroU64::MIN);
    Bucket::new(per_second, rate.burst, now)
}

impl Buckets {
    /// The limits of a session's relay.
    pub(super) fn limits(&self, who: &Who, effects: &Effects, now: Instant) -> Limits {
        let of = |direction, own: Option<ByteRate>, rate: fn(&SharedLimits) -> Option<ByteRate>| {
            let shared = who.owners(effects).filter_map(|(owner, limits)| {
                let rate = rate(limits)?;
                Some(self.shared((owner, direction, rate), now))
            });
            Shares::of(own.map(|rate| bucket(rate, now)).into_iter().chain(shared))
        };
        (
            of(Direction::Up, effects.rate_up, |limits| limits.rate_up),
            of(Direction::Down, effects.rate_down, |limits| limits.rate_down),
        )
    }

    fn shared(&self, key: Key, now: Instant) -> SharedBucket {
        let mut table = lock(&self.0);
        if let Some(known) = table.buckets.get(&key) {
            return known.clone();
        }
        if table.buckets.len() >= table.sweep_at {
            table.sweep(now);
        }
        let new = bucket(key.2, now);
        table.buckets.insert(key, new.clone());
        new
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).buckets.len()
    }
}

impl Table {
    /// Forgets the buckets that nobody draws from and that are full, and where the others are too many, some of them.
    fn sweep(&mut self, now: Instant) {
        let mut idle = 0;
        self.buckets.retain(|_, bucket| {
            if Arc::strong_count(bucket) > 1 {
                return true;
            }
            let keeps = idle < MAX_IDLE && !lock(bucket).is_full(now);
            idle += usize::from(keeps);
            keeps
        });
        self.sweep_at = self.buckets.len().saturating_mul(2).max(FIRST_SWEEP);
    }
}
