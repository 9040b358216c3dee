//! One deadline for each machine of a shard, in a hashed wheel: arming and firing cost the same at any number of
//! machines.

use std::time::{Duration, Instant};

/// Resolution. The shortest protocol timer is the 200 ms hold of an acknowledgement.
const TICK: Duration = Duration::from_millis(10);
/// Buckets: one turn is 40.96 s, so that nearly every deadline fires in its first turn.
const BUCKETS: usize = 4096;
const WORDS: usize = BUCKETS / 64;

/// A hashed timing wheel of tokens, which are small numbers such as slab slots.
pub(super) struct Wheel {
    origin: Instant,
    /// All ticks up to this one have fired.
    tick: u64,
    buckets: Vec<Vec<(u32, u64)>>,
    occupied: [u64; WORDS],
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, Default)]
struct Token {
    /// When it is to fire.
    wanted: Option<u64>,
    /// The bucket entry that stands for it. It may be earlier than `wanted`: deadlines mostly move later, and
    /// the entry is moved only when it comes up.
    queued: Option<u64>,
}

impl Wheel {
    /// An empty wheel that starts now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            tick: 0,
            buckets: vec![Vec::new(); BUCKETS],
            occupied: [0; WORDS],
            tokens: Vec::new(),
        }
    }

    fn tick_at(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(elapsed.div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX)
    }

    /// Sets or clears the deadline of a token.
    pub(super) fn set(&mut self, token: u32, at: Option<Instant>) {
        let index = token as usize;
        if index >= self.tokens.len() {
            self.tokens.resize(index + 1, Token::default());
        }
        let wanted = at.map(|at| self.tick_at(at).max(self.tick + 1));
        let Some(entry) = self.tokens.get_mut(index) else {
            return;
        };
        entry.wanted = wanted;
        if let Some(tick) = wanted
            && entry.queued.is_none_or(|queued| tick < queued)
        {
            entry.queued = Some(tick);
            self.push(token, tick);
        }
    }

    fn push(&mut self, token: u32, tick: u64) {
        let bucket = (tick % BUCKETS as u64) as usize;
        if let (Some(entries), Some(word)) =
            (self.buckets.get_mut(bucket), self.occupied.get_mut(bucket / 64))
        {
            entries.push((token, tick));
            *word |= 1 << (bucket % 64);
        }
    }

    /// Appends the tokens whose time has come to `due`, each once.
    pub(super) fn advance(&mut self, now: Instant, due: &mut Vec<u32>) {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos() / TICK.as_nanos();
        let target = u64::try_from(elapsed).unwrap_or(u64::MAX);
        if target <= self.tick {
            return;
        }
        let steps = (target - self.tick).min(BUCKETS as u64);
        let first = self.tick + 1;
        self.tick = target;
        for step in 0..steps {
            self.fire_bucket(((first + step) % BUCKETS as u64) as usize, target, due);
        }
    }

    fn fire_bucket(&mut self, bucket: usize, target: u64, due: &mut Vec<u32>) {
        let Some(word) = self.occupied.get_mut(bucket / 64) else {
            return;
        };
        if *word & (1 << (bucket % 64)) == 0 {
            return;
        }
        *word &= !(1 << (bucket % 64));
        let entries = self
            .buckets
            .get_mut(bucket)
            .map(std::mem::take)
            .unwrap_or_default();
        for (token, tick) in entries {
            if tick > target {
                self.push(token, tick);
                continue;
            }
            let Some(entry) = self.tokens.get_mut(token as usize) else {
                continue;
            };
            if entry.queued != Some(tick) {
                continue; // An earlier entry took its place.
            }
            entry.queued = None;
            match entry.wanted {
                Some(wanted) if wanted <= target => {
                    entry.wanted = None;
                    due.push(token);
                }
                Some(wanted) => {
                    entry.queued = Some(wanted);
                    self.push(token, wanted);
                }
                None => {}
            }
        }
    }

    /// When to call [`Wheel::advance`] next; never later than the earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        let first = self.tick + 1;
        let start = (first % BUCKETS as u64) as usize;
        for step in 0..=WORDS {
            let index = (start / 64 + step) % WORDS;
            let mut word = self.occupied.get(index).copied().unwrap_or(0);
            if step == 0 {
                word &= u64::MAX << (start % 64);
            } else if step == WORDS {
                word &= !(u64::MAX << (start % 64));
            }
            if word != 0 {
                let bucket = (index * 64) as u64 + u64::from(word.trailing_zeros());
                let ahead = (bucket + BUCKETS as u64 - start as u64) % BUCKETS as u64;
                let millis = (first + ahead).saturating_mul(TICK.as_millis() as u64);
                return self.origin.checked_add(Duration::from_millis(millis));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn fires_each_deadline_once_and_never_early() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        let mut seed = 7_u64;
        let mut wanted = std::collections::BTreeMap::new();
        for token in 0..500_u32 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let ms = (seed >> 33) % 200_000;
            wheel.set(token, Some(at(start, ms)));
            wanted.insert(token, ms);
        }
        let mut fired = std::collections::BTreeMap::new();
        while let Some(next) = wheel.next() {
            let mut due = Vec::new();
            wheel.advance(next, &mut due);
            let ms = (next - start).as_millis() as u64;
            for token in due {
                assert!(fired.insert(token, ms).is_none());
            }
        }
        assert_eq!(fired.len(), 500);
        for (token, ms) in fired {
            assert!(
                ms >= wanted[&token] && ms < wanted[&token] + 20,
                "{token}: {ms} for {}",
                wanted[&token]
            );
        }
    }

    #[test]
    fn a_deadline_that_moves_fires_at_its_last_place() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        wheel.set(1, Some(at(start, 100)));
        wheel.set(1, Some(at(start, 5_000)));
        wheel.set(2, Some(at(start, 5_000)));
        wheel.set(2, Some(at(start, 50)));
        wheel.set(3, Some(at(start, 70)));
        wheel.set(3, None);
        let mut due = Vec::new();
        wheel.advance(at(start, 4_990), &mut due);
        assert_eq!(due, [2]);
        due.clear();
        wheel.advance(at(start, 5_010), &mut due);
        assert_eq!(due, [1]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for token in 0..100 {
            wheel.set(token, Some(at(start, u64::from(token) * 1_000)));
        }
        let mut due = Vec::new();
        wheel.advance(at(start, 3_600_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn entries_do_not_pile_up_when_a_deadline_keeps_moving_later() {
        let start = Instant::now();
        let mut wheel = Wheel::new(start);
        for step in 0..10_000 {
            wheel.set(1, Some(at(start, 1_000 + step)));
        }
        assert!(wheel.buckets.iter().map(Vec::len).sum::<usize>() <= 2);
    }
}
