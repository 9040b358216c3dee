//! How late a shard's loop comes round.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds that [`Lag::worst`] looks back.
const SECONDS: usize = 10;

/// A delay that no user notices, and less than the shortest timer of a protocol: no load at all.
const NO_LOAD: Duration = Duration::from_millis(5);
/// A delay at which peers begin to send again what only waits (a second after the first time, RFC 2661, 5.8), once
/// the way there and back and what waits elsewhere are added: all that the shard can bear.
const FULL_LOAD: Duration = Duration::from_millis(500);
/// Full load in the engine's terms.
const FULL: u128 = 1000;

/// The worst delays.
#[derive(Default)]
pub(super) struct Lag {
    now: Duration,
    seconds: VecDeque<Duration>,
}

impl Lag {
    /// Notes a delay.
    pub(super) fn note(&mut self, delay: Duration) {
        self.now = self.now.max(delay);
    }

    /// Ends a second, and gives its worst delay.
    pub(super) fn turn_over(&mut self) -> Duration {
        let worst = std::mem::take(&mut self.now);
        self.seconds.truncate(SECONDS - 1);
        self.seconds.push_front(worst);
        worst
    }

    /// The delay that lasts: the smaller one of the worst of the last two seconds. A single hiccup is over by the time
    /// that anybody could be refused for it.
    pub(super) fn lasting(&self) -> Duration {
        let last = self.seconds.iter().take(2);
        if last.len() < 2 {
            return Duration::ZERO;
        }
        last.min().copied().unwrap_or_default()
    }

    /// The worst delay of the last ten seconds.
    pub(super) fn worst(&self) -> Duration {
        self.seconds
            .iter()
            .copied()
            .max()
            .unwrap_or_default()
            .max(self.now)
    }
}

/// A delay as load, in thousandths.
pub(super) fn load(delay: Duration) -> u16 {
    let over = delay.saturating_sub(NO_LOAD).as_micros();
    let share = over * FULL / (FULL_LOAD - NO_LOAD).as_micros();
    u16::try_from(share.min(FULL)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_delay_is_forgotten_after_ten_seconds() {
        let mut lag = Lag::default();
        let millis = Duration::from_millis;
        lag.note(millis(30));
        lag.note(millis(20));
        assert_eq!(lag.worst(), millis(30));
        assert_eq!(lag.turn_over(), millis(30));
        for _ in 0..SECONDS - 1 {
            assert_eq!(lag.worst(), millis(30));
            assert_eq!(lag.turn_over(), Duration::ZERO);
        }
        lag.turn_over();
        assert_eq!(lag.worst(), Duration::ZERO);
    }

    #[test]
    fn one_hiccup_is_no_load_and_two_bad_seconds_are() {
        let mut lag = Lag::default();
        let millis = Duration::from_millis;
        let mut second = |delay| {
            lag.note(millis(delay));
            lag.turn_over();
            lag.lasting()
        };
        let seconds = [600, 0, 300, 400, 500, 1].map(&mut second);
        assert_eq!(seconds, [0, 0, 0, 300, 400, 1].map(millis));
    }

    #[test]
    fn load_rises_from_nothing_to_all() {
        let loads = [0, 5, 252, 500, 60_000].map(|millis| load(Duration::from_millis(millis)));
        assert_eq!(loads, [0, 0, 498, 1000, 1000]);
        assert_eq!(load(Duration::MAX), 1000);
    }
}
