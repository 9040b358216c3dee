//! Virtual time.

use std::time::{Duration, Instant};

/// A clock that moves only when told to. The instants it gives are real [`Instant`]s counted from the one at
/// which it was made, so that machines cannot tell the difference; what tests compare is [`Clock::elapsed`].
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    now: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that has not moved yet.
    pub fn new() -> Self {
        let start = Instant::now();
        Self { start, now: start }
    }

    /// The virtual present.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the clock was made.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Time from the start of the clock to an instant it gave.
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    /// Moves on by a duration.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Moves on to an instant; does nothing where that is in the past.
    pub fn advance_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_forward_only() {
        let mut clock = Clock::new();
        let start = clock.now();
        clock.advance(Duration::from_secs(3));
        clock.advance_to(start);
        assert_eq!(clock.elapsed(), Duration::from_secs(3));
        assert_eq!(clock.since_start(start), Duration::ZERO);
    }
}
