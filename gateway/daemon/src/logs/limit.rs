//! A bound on log lines that the network can cause.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The window in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Lets a few lines a second through for each cause, and counts what it held back. Memory is bounded: with too
/// many causes at once, the new ones share one budget.
#[derive(Debug)]
pub struct Limiter<K> {
    lines: u32,
    capacity: usize,
    pub(super) causes: HashMap<K, Budget>,
    others: Budget,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    since: Instant,
    lines: u32,
    held_back: u64,
}

impl Budget {
    fn take(&mut self, limit: u32, now: Instant) -> Option<Permit> {
        let mut held_back = 0;
        if now.saturating_duration_since(self.since) >= WINDOW {
            held_back = self.held_back;
            *self = Self::new(now);
        }
        if self.lines < limit {
            self.lines += 1;
            return Some(Permit { held_back });
        }
        self.held_back = self.held_back.saturating_add(1);
        None
    }

    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            held_back: 0,
        }
    }
}

/// Leave to write one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// Lines of the same cause that were held back since the last one: worth saying in this one.
    pub held_back: u64,
}

impl<K: Eq + Hash> Limiter<K> {
    /// At most `lines` lines a second for each of at most `capacity` causes.
    pub fn new(lines: u32, capacity: usize, now: Instant) -> Self {
        Self {
            lines,
            capacity,
            causes: HashMap::new(),
            others: Budget::new(now),
        }
    }

    /// Asks for leave to write a line about `cause`.
    pub fn permit(&mut self, cause: K, now: Instant) -> Option<Permit> {
        if let Some(budget) = self.causes.get_mut(&cause) {
            return budget.take(self.lines, now);
        }
        if self.causes.len() >= self.capacity {
            self.causes.retain(|_, budget| {
                now.saturating_duration_since(budget.since) < WINDOW || budget.held_back > 0
            });
        }
        if self.causes.len() >= self.capacity {
            // Still full of busy causes: those whose count nobody came back for make room after ten windows.
            self.causes
                .retain(|_, budget| now.saturating_duration_since(budget.since) < WINDOW * 10);
        }
        if self.causes.len() >= self.capacity {
            return self.others.take(self.lines, now);
        }
        self.causes
            .entry(cause)
            .or_insert(Budget::new(now))
            .take(self.lines, now)
    }
}
