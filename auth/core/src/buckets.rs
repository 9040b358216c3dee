//! Token buckets by key, in tables of bounded size.

use crate::IpPrefix;
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// IPv6 sources are told apart by this many bits: a single line has a /64 at least, so that longer prefixes
/// would let one host be 2^64 sources (RFC 6177).
const IPV6_SOURCE_BITS: u8 = 64;

/// The address that stands for all of its source: an IPv4 address for itself, an IPv6 address for its /64, of which it
/// is the first.
pub fn source_key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        v6 => IpPrefix::new(v6, IPV6_SOURCE_BITS).map_or(v6, |prefix| prefix.address()),
    }
}

/// How large a bucket is, and how soon it has one token more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Tokens of a full bucket; 0 counts as 1.
    pub(crate) burst: u32,
    /// Time until a bucket has one token more.
    pub(crate) interval: Duration,
}

/// Buckets by key. A bucket is only the time at which it will be full again; full ones need no entry.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    capacity: usize,
    full_at: HashMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Ord + Hash> Buckets<K> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            full_at: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Whether one token at least is left.
    pub(crate) fn allows<Q: Hash + Eq + ?Sized>(&self, key: &Q, pace: Pace, now: Instant) -> bool
    where
        K: Borrow<Q>,
    {
        let missing = self
            .full_at
            .get(key)
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        missing <= pace.interval * (pace.burst.max(1) - 1)
    }

    /// Takes a token, as far as there is one.
    pub(crate) fn take(&mut self, key: &K, pace: Pace, now: Instant) {
        let former = self.full_at.get(key).copied();
        let start = former.unwrap_or(now).max(now);
        let empty = now + pace.interval * pace.burst.max(1);
        // An empty bucket stays as it is: `now` may be older than that of the failure before.
        let full_at = (start + pace.interval).min(empty.max(start));
        match former {
            Some(former) => {
                self.by_time.remove(&(former, key.clone()));
            }
            None => self.make_room(now),
        }
        self.full_at.insert(key.clone(), full_at);
        self.by_time.insert((full_at, key.clone()));
    }

    /// Drops buckets that are full, and where that is not enough the one that is full the soonest. So a flood of
    /// new keys with one failure each drives out its own kind, and not a bucket that was emptied by guessing.
    fn make_room(&mut self, now: Instant) {
        while let Some((at, _)) = self.by_time.first() {
            if *at > now && self.full_at.len() < self.capacity {
                break;
            }
            if let Some((_, key)) = self.by_time.pop_first() {
                self.full_at.remove(&key);
            }
        }
    }

    /// Buckets remembered at present.
    pub(crate) fn len(&self) -> usize {
        debug_assert_eq!(self.full_at.len(), self.by_time.len());
        self.full_at.len()
    }
}
