//! Identifiers in use, with a hold time before one is given again.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Random draws before the identifiers are searched one by one.
const DRAWS: u32 = 64;

/// A set of 16-bit identifiers that are not to be guessed.
#[derive(Debug, Default)]
pub struct Identifiers {
    taken: HashSet<u16>,
    held: VecDeque<(Instant, u16)>,
}

impl Identifiers {
    /// How long an identifier rests after it was in use: longer than the 31 s for which an L2TP peer may still send to
    /// it (RFC 2661, 5.7).
    pub const HOLD: Duration = Duration::from_secs(40);

    /// Takes a free identifier. `draw` turns 16 random bits into a candidate, which may be 0; it is called with
    /// every number in turn where luck does not help. `None`: all are taken or held.
    pub fn mint(
        &mut self,
        now: Instant,
        mut random: impl FnMut() -> u16,
        draw: impl Fn(u16) -> u16,
    ) -> Option<u16> {
        self.expire(now);
        let first = random();
        let drawn = std::iter::once(first)
            .chain(std::iter::from_fn(|| Some(random())).take(DRAWS as usize))
            .map(&draw)
            .find(|id| *id != 0 && !self.taken.contains(id));
        let id = drawn.or_else(|| {
            (0..=u16::MAX)
                .map(|step| draw(first.wrapping_add(step)))
                .find(|id| *id != 0 && !self.taken.contains(id))
        })?;
        self.taken.insert(id);
        Some(id)
    }

    /// Takes this identifier; false where it is taken.
    pub fn reserve(&mut self, id: u16) -> bool {
        self.taken.insert(id)
    }

    /// Gives an identifier back after use: it rests for [`Identifiers::HOLD`].
    pub fn release(&mut self, id: u16, now: Instant) {
        if self.taken.contains(&id) {
            self.held.push_back((now, id));
        }
    }

    /// Gives an identifier back that no peer has proven to know: it may be given again at once, so that a flood
    /// of requests cannot use all of them up. A late message to it fails at the sender's address.
    pub fn forget(&mut self, id: u16) {
        self.taken.remove(&id);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.held.front() {
            if now.saturating_duration_since(at) < Self::HOLD {
                break;
            }
            self.held.pop_front();
            self.taken.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn r17_identifiers_rest_before_they_are_given_again() {
        let mut ids = Identifiers::default();
        let start = Instant::now();
        let only_seven = |_| 7;
        assert_eq!(ids.mint(start, || 1, only_seven), Some(7));
        assert_eq!(ids.mint(start, || 1, only_seven), None);
        ids.release(7, start);
        assert!(Identifiers::HOLD > Duration::from_secs(31));
        assert_eq!(ids.mint(start + Duration::from_secs(31), || 1, only_seven), None);
        assert_eq!(ids.mint(start + Identifiers::HOLD, || 1, only_seven), Some(7));
        ids.forget(7);
        assert_eq!(ids.mint(start + Identifiers::HOLD, || 1, only_seven), Some(7));
    }

    #[test]
    fn all_identifiers_can_be_had_and_zero_never() {
        let mut ids = Identifiers::default();
        let start = Instant::now();
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u16
        };
        let got: BTreeSet<u16> = (0..4095)
            .map(|_| ids.mint(start, &mut random, |id| id & 0x0fff).unwrap())
            .collect();
        assert_eq!((got.len(), got.first()), (4095, Some(&1)));
        assert_eq!(ids.mint(start, random, |id| id & 0x0fff), None);
    }
}
