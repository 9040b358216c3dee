//! Rate limits: how much a relay may read, and when again.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An answer of a [`Limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Bytes that may be read now. More than were asked for is taken as what was asked for.
    pub bytes: usize,
    /// Where none may be read, when to ask again. It is not looked at otherwise.
    pub retry_at: Instant,
}

/// A limit of one direction of a relay.
///
/// The relay asks when there may be something to read, reads at most what is allowed, and says at once how much it was:
/// nothing comes between [`allow`](Self::allow) and [`spent`](Self::spent). It waits until `retry_at` where nothing
/// is allowed, and reads nothing meanwhile, so that the sender is slowed by its window.
pub trait Limit {
    /// How many of `want` bytes, at least 1, may be read now.
    fn allow(&mut self, want: usize, now: Instant) -> Allowance;

    /// So many bytes were read, at most what was allowed; possibly none. Bytes that the relay was given at its start
    /// are told here without having been asked for, and a relay of datagrams, whose lengths are known only when they
    /// were read, may have read more: both are a debt.
    fn spent(&mut self, bytes: usize, now: Instant);
}

/// Smallest burst of a [`Bucket`], in bytes: less makes more system calls than bytes are worth.
pub const MIN_BURST: u64 = 4 << 10;

/// A relay that has to wait does so for what flows in this time, so that few wake-ups are needed and nobody waits
/// long for a turn.
const TURN: Duration = Duration::from_millis(20);

/// Least and most bytes that a relay waits for.
const MIN_TURN: u64 = 1 << 10;
const MAX_TURN: u64 = super::BUFFER as u64;

const NANOS: u128 = 1_000_000_000;

/// Any number of limits that all hold, such as a session's own, its user's and its source address's.
#[derive(Debug)]
pub struct Shares(Vec<Share>);

impl Shares {
    /// What takes from all of these buckets; `None` where there are none, so that nothing is asked for each read.
    pub fn of(buckets: impl IntoIterator<Item = SharedBucket>) -> Option<Box<dyn Limit>> {
        let mut shares: Vec<Share> = buckets.into_iter().map(|bucket| Share::new(&bucket)).collect();
        match shares.len() {
            0 => None,
            1 => shares.pop().map(|share| Box::new(share) as Box<dyn Limit>),
            _ => Some(Box::new(Self(shares))),
        }
    }
}

impl Limit for Shares {
    fn allow(&mut self, want: usize, now: Instant) -> Allowance {
        let mut allowance = Allowance {
            bytes: want,
            retry_at: now,
        };
        for share in &mut self.0 {
            let next = share.allow(allowance.bytes, now);
            if next.bytes == 0 {
                return next;
            }
            allowance.bytes = allowance.bytes.min(next.bytes);
        }
        allowance
    }

    fn spent(&mut self, bytes: usize, now: Instant) {
        for share in &mut self.0 {
            share.spent(bytes, now);
        }
    }
}

/// A bucket that the relays of all threads take from. It is locked for some nanoseconds at each read of a relay that it
/// limits, so that what they take together is exact.
pub type SharedBucket = Arc<Mutex<Bucket>>;

fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket: so many bytes a second, and so many at once. Any number of relays take from it, on any threads, each
/// by a [`Share`].
#[derive(Debug)]
pub struct Bucket {
    rate: NonZeroU64,
    burst: u64,
    /// Bytes that may pass; below 0, so many were promised to relays that wait for their turns.
    level: i128,
    /// Billionths of a byte on top.
    fraction: u128,
    filled: Instant,
}

impl Bucket {
    /// A full bucket of `rate` bytes a second, from which at most `burst` bytes come at once. To reach the rate, the
    /// burst should be what flows in some milliseconds; it is at least [`MIN_BURST`].
    pub fn new(rate: NonZeroU64, burst: u64, now: Instant) -> SharedBucket {
        let burst = burst.max(MIN_BURST);
        Arc::new(Mutex::new(Self {
            rate,
            burst,
            level: i128::from(burst),
            fraction: 0,
            filled: now,
        }))
    }

    /// Changes the limit from now on.
    pub fn change(&mut self, rate: NonZeroU64, burst: u64, now: Instant) {
        self.fill(now);
        self.rate = rate;
        self.burst = burst.max(MIN_BURST);
        self.add(0);
    }

    /// Whether it holds its burst: nothing that was drawn from it before counts any more.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level >= i128::from(self.burst)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        let gained = passed.as_nanos().saturating_mul(u128::from(self.rate.get()));
        let gained = gained.saturating_add(self.fraction);
        self.fraction = gained % NANOS;
        self.add(i128::try_from(gained / NANOS).unwrap_or(i128::MAX));
    }

    fn add(&mut self, bytes: i128) {
        self.level = self.level.saturating_add(bytes);
        if self.level >= i128::from(self.burst) {
            self.level = i128::from(self.burst);
            self.fraction = 0;
        }
    }

    /// What a relay waits for that wants `want` bytes.
    fn turn(&self, want: u64) -> u64 {
        let flowing = u128::from(self.rate.get()).saturating_mul(TURN.as_nanos()) / NANOS;
        let flowing = u64::try_from(flowing).unwrap_or(u64::MAX);
        flowing.clamp(MIN_TURN, MAX_TURN).min(self.burst).min(want)
    }

    /// When the level is no longer below 0.
    fn due(&self) -> Instant {
        let missing = self.level.min(0).unsigned_abs().saturating_mul(NANOS);
        let nanos = missing
            .saturating_sub(self.fraction)
            .div_ceil(u128::from(self.rate.get()));
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.filled.checked_add(wait).unwrap_or(self.filled)
    }
}

/// A promise to a relay that waits.
#[derive(Clone, Copy, Debug)]
struct Turn {
    bytes: u64,
    at: Instant,
}

/// A relay's part in a [`Bucket`]. Relays that have to wait get turns in the order in which they came, so that each
/// of them gets as much as the others.
pub struct Share {
    bucket: SharedBucket,
    turn: Option<Turn>,
}

impl Share {
    /// A part in a bucket, for one direction of one relay.
    pub fn new(bucket: &SharedBucket) -> Self {
        Self {
            bucket: bucket.clone(),
            turn: None,
        }
    }
}

impl Limit for Share {
    fn allow(&mut self, want: usize, now: Instant) -> Allowance {
        let mut bucket = lock(&self.bucket);
        bucket.fill(now);
        let want = want as u64;
        let turn = bucket.turn(want);
        let bytes = match self.turn {
            Some(promised) if now >= promised.at => promised.bytes.min(want),
            Some(_) => 0,
            None if bucket.level >= i128::from(turn) => {
                want.min(u64::try_from(bucket.level).unwrap_or(u64::MAX))
            }
            None => {
                bucket.level -= i128::from(turn);
                let at = bucket.due();
                self.turn = Some(Turn { bytes: turn, at });
                0
            }
        };
        Allowance {
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            retry_at: self.turn.map_or(now, |turn| turn.at),
        }
    }

    fn spent(&mut self, bytes: usize, now: Instant) {
        let promised = self.turn.take().map_or(0, |turn| turn.bytes);
        let mut bucket = lock(&self.bucket);
        bucket.fill(now);
        bucket.add(i128::from(promised) - bytes as i128);
    }
}

impl Drop for Share {
    /// What was promised is for others.
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            lock(&self.bucket).add(i128::from(turn.bytes));
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(rate: u64, burst: u64, now: Instant) -> SharedBucket {
        Bucket::new(NonZeroU64::new(rate).unwrap(), burst, now)
    }

    /// Takes all that it may for so long, waiting where it is told to; gives how much that was.
    fn drink(shares: &mut [Share], from: Instant, time: Duration) -> Vec<u64> {
        let mut next: Vec<Instant> = shares.iter().map(|_| from).collect();
        let mut taken = vec![0; shares.len()];
        loop {
            let (index, &now) = next.iter().enumerate().min_by_key(|(_, at)| **at).unwrap();
            if now >= from + time {
                return taken;
            }
            let allowance = shares[index].allow(10_000, now);
            if allowance.bytes == 0 {
                assert!(allowance.retry_at > now);
                next[index] = allowance.retry_at;
            } else {
                shares[index].spent(allowance.bytes, now);
                taken[index] += allowance.bytes as u64;
            }
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let now = Instant::now();
        let bucket = bucket(100_000, 30_000, now);
        let taken = drink(&mut [Share::new(&bucket)], now, 10 * SECOND);
        assert!((1_027_000..=1_030_000).contains(&taken[0]), "{taken:?}");
    }

    #[test]
    fn relays_that_wait_get_equal_parts() {
        let now = Instant::now();
        let bucket = bucket(70_000, 5_000, now);
        let mut shares: Vec<Share> = (0..7).map(|_| Share::new(&bucket)).collect();
        let taken = drink(&mut shares, now, 100 * SECOND);
        let sum: u64 = taken.iter().sum();
        assert!((6_995_000..=7_005_000).contains(&sum), "{taken:?}");
        for part in &taken {
            assert!((990_000..1_010_000).contains(part), "{taken:?}");
        }
    }

    #[test]
    fn what_is_not_spent_is_not_lost() {
        let now = Instant::now();
        let bucket = bucket(10_000, 10_000, now);
        let mut share = Share::new(&bucket);
        assert_eq!(share.allow(50_000, now).bytes, 10_000);
        share.spent(9_999, now);
        let refused = share.allow(50_000, now);
        assert_eq!(refused.bytes, 0);
        // The turn is 1,024 bytes, of which one is there.
        let wait = refused.retry_at - now;
        assert_eq!(wait, Duration::from_micros(102_300));
        assert_eq!(
            share.allow(50_000, now + wait / 2).bytes,
            0,
            "it is not asked twice"
        );
        assert_eq!(share.allow(50_000, now + wait).bytes, 1_024);
        share.spent(0, now + wait);
        assert_eq!(lock(&bucket).level, 1_024);
        assert_eq!(share.allow(50_000, now + wait).bytes, 1_024);
        share.spent(1_024, now + wait);
        share.allow(50_000, now + wait);
        assert_eq!(lock(&bucket).level, -1_024);
        drop(share);
        assert_eq!(lock(&bucket).level, 0, "the turn is given up");
    }

    #[test]
    fn early_bytes_are_a_debt() {
        let now = Instant::now();
        let bucket = bucket(1_000, 4_096, now);
        let mut share = Share::new(&bucket);
        share.spent(6_096, now);
        let refused = share.allow(1, now);
        assert_eq!(
            (refused.bytes, refused.retry_at - now),
            (0, Duration::from_millis(2_001))
        );
    }

    #[test]
    fn two_limits_both_hold() {
        let now = Instant::now();
        let (slow, fast) = (bucket(10_000, 5_000, now), bucket(1_000_000, 100_000, now));
        let mut both = Shares::of([fast.clone(), slow.clone()]).unwrap();
        assert_eq!(both.allow(50_000, now).bytes, 5_000);
        both.spent(5_000, now);
        assert_eq!(both.allow(50_000, now).bytes, 0);
        assert_eq!((lock(&fast).level, lock(&slow).level), (95_000, -1_024));
    }

    #[test]
    fn a_limit_can_change_and_extremes_do_no_harm() {
        let now = Instant::now();
        let bucket = bucket(u64::MAX, u64::MAX, now);
        let mut share = Share::new(&bucket);
        assert_eq!(share.allow(1_000_000, now).bytes, 1_000_000);
        share.spent(1_000_000, now);
        lock(&bucket).change(NonZeroU64::MIN, 0, now);
        assert_eq!(share.allow(1_000_000, now).bytes, MIN_BURST as usize);
        share.spent(MIN_BURST as usize, now);
        let refused = share.allow(1_000_000, now);
        assert_eq!((refused.bytes, refused.retry_at - now), (0, 1_024 * SECOND));
    }
}
