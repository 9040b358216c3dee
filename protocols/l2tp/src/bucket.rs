//! Token buckets.

use crate::config::Rate;
use std::time::Instant;

/// A token bucket; tokens are counted in millionths so that slow rates do not round away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    millionths: u64,
    at: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    /// A full one.
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            millionths: u64::from(rate.burst) * TOKEN,
            at: now,
        }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(u64::from(rate.per_second));
        let most = u64::from(rate.burst) * TOKEN;
        self.millionths = self.millionths.saturating_add(more).min(most);
        self.at = now;
    }

    /// Takes a token; false where there is none.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let enough = self.millionths >= TOKEN;
        if enough {
            self.millionths -= TOKEN;
        }
        enough
    }

    /// Whether it is full again, so that forgetting it changes nothing.
    pub(crate) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.millionths == u64::from(rate.burst) * TOKEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let rate = Rate {
            per_second: 10,
            burst: 3,
        };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        let taken = |bucket: &mut Bucket, at| (0..100).filter(|_| bucket.take(rate, at)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(200)), 2);
        assert!(!bucket.is_full(rate, start + Duration::from_millis(300)));
        assert!(bucket.is_full(rate, start + Duration::from_secs(9)));
    }
}
