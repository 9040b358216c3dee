//! A machine's own timers. The driver arms only the earliest of them.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// A table of named timers with the earliest at hand. Each name has one deadline at most.
#[derive(Debug)]
pub struct Timers<K> {
    by_key: HashMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Eq + Hash + Ord> Default for Timers<K> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }
}

impl<K: Copy + Eq + Hash + Ord> Timers<K> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a timer, replacing its former deadline.
    pub fn set(&mut self, key: K, at: Instant) {
        if let Some(former) = self.by_key.insert(key, at) {
            self.by_time.remove(&(former, key));
        }
        self.by_time.insert((at, key));
    }

    /// Clears a timer; whether it was set.
    pub fn clear(&mut self, key: K) -> bool {
        match self.by_key.remove(&key) {
            Some(at) => self.by_time.remove(&(at, key)),
            None => false,
        }
    }

    /// The deadline of a timer.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.by_key.get(&key).copied()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes the earliest timer whose time has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(at, key) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.remove(&(at, key));
        self.by_key.remove(&key);
        Some(key)
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;
    use std::time::{Duration, Instant};

    #[test]
    fn fires_in_order_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        timers.set("b", at(20));
        timers.set("a", at(10));
        timers.set("b", at(5));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop_due(at(4)), None);
        assert_eq!(timers.pop_due(at(10)), Some("b"));
        assert_eq!(timers.pop_due(at(10)), Some("a"));
        assert_eq!(timers.pop_due(at(100)), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn cleared_timers_never_fire() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.set(1, start);
        assert!(timers.clear(1));
        assert!(!timers.clear(1));
        assert_eq!(timers.pop_due(start), None);
    }
}
