//! Token buckets for bytes.

use super::effects::ByteRate;
use std::time::{Duration, Instant};

/// Longest time that a caller is told to wait for. A slow bucket is asked again and gives a little each time, so
/// that bytes flow evenly instead of once in a long time.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

const NANOS: u128 = 1_000_000_000;

/// What a bucket gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes that may pass now.
    pub bytes: u64,
    /// Time until it is worth asking again; zero where all was given.
    pub wait: Duration,
}

/// A bucket that fills at a rate up to a size, and from which bytes are taken. It knows no clock: time is given.
///
/// Over any span of time it gives no more than its size and what came in by the rate, to the byte. Time that goes
/// back counts as no time; a long pause fills it, and no more. Rate and size of 0 count as 1.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: ByteRate,
    /// Bytes in it.
    level: u64,
    /// What came in of the next byte, in billionths.
    fraction: u64,
    at: Instant,
}

fn at_least_one(rate: ByteRate) -> ByteRate {
    ByteRate {
        per_second: rate.per_second.max(1),
        burst: rate.burst.max(1),
    }
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: ByteRate, now: Instant) -> Self {
        let rate = at_least_one(rate);
        Self {
            rate,
            level: rate.burst,
            fraction: 0,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        if elapsed.is_zero() {
            return;
        }
        self.at = now;
        let room = self.rate.burst - self.level;
        // 2^64 bytes a second for 2^63 seconds are more than 128 bits of billionths hold.
        let came_in = u128::from(self.rate.per_second)
            .saturating_mul(elapsed.as_nanos())
            .saturating_add(u128::from(self.fraction));
        match u64::try_from(came_in / NANOS) {
            Ok(bytes) if bytes < room => {
                self.level += bytes;
                self.fraction = u64::try_from(came_in % NANOS).unwrap_or(0);
            }
            _ => {
                self.level = self.rate.burst;
                self.fraction = 0;
            }
        }
    }

    /// Takes `wanted` bytes or as many as there are.
    pub fn take_up_to(&mut self, wanted: u64, now: Instant) -> Taken {
        self.fill(now);
        let bytes = wanted.min(self.level);
        self.level -= bytes;
        Taken {
            bytes,
            wait: self.wait_for(wanted - bytes),
        }
    }

    /// Takes all of `wanted` bytes or none, as for a datagram. More than the bucket's size is never given.
    pub fn take_whole(&mut self, wanted: u64, now: Instant) -> bool {
        self.fill(now);
        let enough = wanted <= self.level;
        if enough {
            self.level -= wanted;
        }
        enough
    }

    /// Gives bytes back that were taken and did not pass after all.
    pub fn give_back(&mut self, bytes: u64) {
        self.level = self.level.saturating_add(bytes).min(self.rate.burst);
    }

    /// Changes rate and size. What is in it stays, as far as the size allows.
    pub fn set_rate(&mut self, rate: ByteRate, now: Instant) {
        self.fill(now);
        self.rate = at_least_one(rate);
        self.level = self.level.min(self.rate.burst);
    }

    /// Its rate and size.
    pub fn rate(&self) -> ByteRate {
        self.rate
    }

    /// Time until `missing` bytes have come in, or as many as come in the longest wait, but one at least.
    fn wait_for(&self, missing: u64) -> Duration {
        if missing == 0 {
            return Duration::ZERO;
        }
        let first = u128::from(missing)
            .saturating_mul(NANOS)
            .saturating_sub(self.fraction.into())
            .div_ceil(self.rate.per_second.into());
        let one = (NANOS - u128::from(self.fraction)).div_ceil(self.rate.per_second.into());
        let nanos = first.min(one.max(LONGEST_WAIT.as_nanos()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(per_second: u64, burst: u64, now: Instant) -> TokenBucket {
        TokenBucket::new(ByteRate { per_second, burst }, now)
    }

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn gives_its_size_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = bucket(1000, 500, start);
        assert_eq!(
            bucket.take_up_to(800, start),
            Taken {
                bytes: 500,
                wait: 100 * MILLI
            }
        );
        assert_eq!(bucket.take_up_to(1, start).bytes, 0);
        assert_eq!(bucket.take_up_to(1, start).wait, MILLI);
        assert_eq!(bucket.take_up_to(800, start + 100 * MILLI).bytes, 100);
        let taken = bucket.take_up_to(50, start + 150 * MILLI);
        assert_eq!((taken.bytes, taken.wait), (50, Duration::ZERO));
    }

    #[test]
    fn a_long_pause_fills_it_and_no_more() {
        let start = Instant::now();
        let mut bucket = bucket(u64::MAX, 10, start);
        assert_eq!(bucket.take_up_to(10, start).bytes, 10);
        let later = start + Duration::from_secs(100 * 365 * 86_400);
        assert_eq!(bucket.take_up_to(u64::MAX, later).bytes, 10);
    }

    #[test]
    fn time_that_goes_back_gives_nothing_and_takes_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let mut bucket = bucket(10, 100, start);
        assert_eq!(bucket.take_up_to(100, later).bytes, 100);
        assert_eq!(bucket.take_up_to(100, start).bytes, 0);
        assert_eq!(bucket.take_up_to(100, later).bytes, 0);
        assert_eq!(bucket.take_up_to(100, later + Duration::from_secs(1)).bytes, 10);
    }

    #[test]
    fn a_datagram_passes_whole_or_not_at_all() {
        let start = Instant::now();
        let mut bucket = bucket(1000, 1500, start);
        assert!(bucket.take_whole(1000, start));
        assert!(!bucket.take_whole(501, start));
        assert!(bucket.take_whole(500, start));
        assert!(!bucket.take_whole(1501, start + Duration::from_secs(60)));
    }

    #[test]
    fn what_did_not_pass_is_given_back_but_never_more_than_its_size() {
        let start = Instant::now();
        let mut bucket = bucket(1, 100, start);
        assert_eq!(bucket.take_up_to(80, start).bytes, 80);
        bucket.give_back(30);
        assert_eq!(bucket.take_up_to(100, start).bytes, 50);
        bucket.give_back(u64::MAX);
        assert_eq!(bucket.take_up_to(200, start).bytes, 100);
    }

    #[test]
    fn a_new_rate_holds_at_once() {
        let start = Instant::now();
        let mut bucket = bucket(1000, 1000, start);
        let narrow = ByteRate {
            per_second: 0,
            burst: 0,
        };
        bucket.set_rate(narrow, start);
        assert_eq!(bucket.take_up_to(1000, start).bytes, 1);
        assert_eq!(bucket.take_up_to(1000, start).wait, Duration::from_secs(1));
        assert_eq!(bucket.take_up_to(1000, start + Duration::from_secs(9)).bytes, 1);
    }

    proptest! {
        /// However it is asked, it gives at most its size and the rate's bytes; and asked often, nearly that.
        #[test]
        fn never_more_than_the_rate_and_nearly_all_of_it(
            per_second in 1u64..10_000_000,
            burst in 1u64..1_000_000,
            steps in proptest::collection::vec((0u64..50_000_000, 0u64..200_000), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = bucket(per_second, burst, start);
            let (mut now, mut given, mut refused) = (start, 0u128, false);
            for (nanos, wanted) in steps {
                now += Duration::from_nanos(nanos);
                let taken = bucket.take_up_to(wanted, now);
                prop_assert!(taken.bytes <= wanted);
                prop_assert_eq!(taken.wait.is_zero(), taken.bytes == wanted);
                given += u128::from(taken.bytes);
                refused |= taken.bytes < wanted;
                let came_in = u128::from(per_second) * (now - start).as_nanos() / NANOS;
                prop_assert!(given <= u128::from(burst) + came_in);
                prop_assert!(refused || given + u128::from(bucket.level) <= u128::from(burst) + came_in);
            }
        }

        /// Whoever waits as long as told gets something, and gets the rate over all.
        #[test]
        fn waiting_as_told_gives_the_whole_rate(per_second in 1u64..100_000_000, burst in 1u64..100_000) {
            let start = Instant::now();
            let mut bucket = bucket(per_second, burst, start);
            bucket.take_up_to(burst, start);
            let (mut now, mut given, mut waited) = (start, 0u128, false);
            for _ in 0..50 {
                let taken = bucket.take_up_to(16_384, now);
                prop_assert!(!waited || taken.bytes > 0);
                given += u128::from(taken.bytes);
                waited = !taken.wait.is_zero();
                now += taken.wait;
            }
            let elapsed = (now - start).as_nanos();
            let came_in = u128::from(per_second) * elapsed / NANOS;
            prop_assert!(given <= came_in);
            // A bucket smaller than what comes in between two questions loses the rest.
            if burst > per_second / 5 {
                prop_assert!(given + u128::from(per_second) / 5 + 16_384 >= came_in);
            }
        }
    }
}
