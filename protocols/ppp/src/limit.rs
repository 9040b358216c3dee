//! How often a peer may make us do certain things.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Tokens at the time of `stamp`.
    tokens: u8,
    /// `None`: never used yet, full.
    stamp: Option<Instant>,
}

impl Bucket {
    const FULL: Bucket = Bucket {
        tokens: 0,
        stamp: None,
    };

    /// Takes a token; false: none is left. The bucket holds `burst` and gains one each `period`.
    fn take(&mut self, now: Instant, burst: u8, period: Duration) -> bool {
        match self.stamp {
            None => {
                self.tokens = burst;
                self.stamp = Some(now);
            }
            Some(stamp) => {
                let elapsed = now.saturating_duration_since(stamp);
                let gained = elapsed.as_millis() / period.as_millis().max(1);
                if gained >= u128::from(burst) {
                    self.tokens = burst;
                    self.stamp = Some(now);
                } else if let Ok(gained) = u8::try_from(gained) {
                    self.tokens = self.tokens.saturating_add(gained).min(burst);
                    self.stamp = Some(stamp + period * u32::from(gained));
                }
            }
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

/// The buckets of one link. None of the limits is met by a peer in working order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    reject: Bucket,
    renegotiation: Bucket,
    neighbour: Bucket,
    remark: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reject: Bucket::FULL,
            renegotiation: Bucket::FULL,
            neighbour: Bucket::FULL,
            remark: Bucket::FULL,
        }
    }
}

impl Limits {
    /// A Protocol-Reject or Code-Reject: a client tries a handful of protocols when it starts, then rests.
    pub(crate) fn reject(&mut self, now: Instant) -> bool {
        self.reject.take(now, 8, Duration::from_secs(1))
    }

    /// A Configure-Request that takes down what was open. Each may cost a new authentication.
    pub(crate) fn renegotiation(&mut self, now: Instant) -> bool {
        self.renegotiation.take(now, 10, Duration::from_secs(30))
    }

    /// An answer to a solicitation or ping of our link-local address.
    pub(crate) fn neighbour(&mut self, now: Instant) -> bool {
        self.neighbour.take(now, 20, Duration::from_millis(100))
    }

    /// A line in the log that the peer can cause at will.
    pub(crate) fn remark(&mut self, now: Instant) -> bool {
        self.remark.take(now, 4, Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::FULL;
        let mut taken = |at: Instant, tries: usize| (0..tries).filter(|_| bucket.take(at, 3, second)).count();
        assert_eq!(taken(start, 10), 3);
        assert_eq!(taken(start + second / 2, 10), 0);
        assert_eq!(taken(start + second, 10), 1);
        assert_eq!(taken(start + second * 5 / 2, 10), 1);
        assert_eq!(taken(start + second * 3, 10), 1);
        assert_eq!(taken(start + second * 500, 10), 3);
    }
}
