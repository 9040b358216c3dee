//! Whether a server of an upstream is worth a try.

use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which a server is left alone: one may be chance, a restart a second.
const PATIENCE: u32 = 3;

/// How long it is left alone at first. It doubles with each failure after that.
const FIRST_REST: Duration = Duration::from_secs(1);

/// How long it is left alone at the most.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How a server did lately.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Health {
    /// Whether it may be tried. After a rest one request tries it while the others still keep away.
    pub(crate) fn may(&mut self, now: Instant) -> bool {
        match self.rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.rests_until = Some(now + FIRST_REST);
                true
            }
        }
    }

    /// It did its part.
    pub(crate) fn works(&mut self) {
        *self = Self::default();
    }

    /// It did not.
    pub(crate) fn fails(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(more) = self.failures.checked_sub(PATIENCE) {
            let rest = FIRST_REST.saturating_mul(1 << more.min(16));
            self.rests_until = Some(now + rest.min(LONGEST_REST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_for_longer_and_longer() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for _ in 0..2 {
            health.fails(now);
            assert!(health.may(now));
        }
        for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.fails(now);
            let rest = Duration::from_secs(rest);
            assert!(!health.may(now + rest - Duration::from_millis(1)));
            now += rest;
            assert!(health.may(now), "one tries after {rest:?}");
            assert!(!health.may(now), "the others keep away meanwhile");
            assert!(health.may(now + FIRST_REST), "the one may have gone");
        }
        health.works();
        assert!(health.may(now) && health.may(now));
        health.fails(now);
        assert!(health.may(now));
    }
}
