//! Happy eyeballs: which address is tried when (RFC 8305). No clock and no socket: the time is given.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Least time between the starts of two attempts that reach the network (RFC 8305, 5).
const LEAST_DELAY: Duration = Duration::from_millis(10);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            IpFamily::V4 => IpFamily::V6,
            IpFamily::V6 => IpFamily::V4,
        }
    }
}

/// The pace of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eyeballs {
    /// The family tried first.
    pub first: IpFamily,
    /// How many addresses of that family are tried before one of the other ("First Address Family Count").
    pub first_count: u8,
    /// How long addresses of the other family wait for those of the first to be looked up ("Resolution Delay").
    pub resolution_delay: Duration,
    /// How long an attempt is alone before the next one starts ("Connection Attempt Delay"); 10 ms at least.
    pub attempt_delay: Duration,
}

impl Eyeballs {
    /// What RFC 8305, 8 recommends.
    pub const DEFAULT: Eyeballs = Eyeballs {
        first: IpFamily::V6,
        first_count: 1,
        resolution_delay: Duration::from_millis(50),
        attempt_delay: Duration::from_millis(250),
    };
}

impl Default for Eyeballs {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a race wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    /// Start an attempt now.
    Start(T),
    /// Wait for a look-up, an attempt, or this time.
    Wait(Option<Instant>),
    /// There is nothing left: no address, no look-up, no attempt.
    Exhausted,
}

/// The candidates of one family.
struct Side<T> {
    looking_up: bool,
    left: VecDeque<T>,
}

/// One race between a name's addresses.
pub(crate) struct Race<T> {
    pace: Eyeballs,
    first: Side<T>,
    other: Side<T>,
    /// When the other family's addresses were known.
    other_since: Option<Instant>,
    last_start: Option<Instant>,
    /// How long after the last start the next may be.
    gap: Duration,
    running: usize,
    /// Attempts in a row with an address of the first family; the other family's turn resets it.
    in_a_row: u8,
    /// Whether the other family has had a turn: from then on they alternate.
    mixed: bool,
}

impl<T> Race<T> {
    /// A race whose look-ups of the given families have started.
    pub(crate) fn new(pace: Eyeballs, looking_up: impl Fn(IpFamily) -> bool) -> Self {
        let side = |family| Side {
            looking_up: looking_up(family),
            left: VecDeque::new(),
        };
        Self {
            pace,
            first: side(pace.first),
            other: side(pace.first.other()),
            other_since: None,
            last_start: None,
            gap: Duration::ZERO,
            running: 0,
            in_a_row: 0,
            mixed: false,
        }
    }

    /// A look-up ended, with these candidates.
    pub(crate) fn answer(&mut self, family: IpFamily, candidates: impl IntoIterator<Item = T>, now: Instant) {
        let side = if family == self.pace.first {
            &mut self.first
        } else {
            self.other_since = Some(now);
            &mut self.other
        };
        side.looking_up = false;
        side.left.extend(candidates);
    }

    /// An attempt failed. `local`: without a packet, so that nobody is burdened by the next one.
    pub(crate) fn failed(&mut self, local: bool) {
        self.running = self.running.saturating_sub(1);
        self.gap = self.gap.min(if local { Duration::ZERO } else { LEAST_DELAY });
    }

    /// What to do now.
    pub(crate) fn poll(&mut self, now: Instant) -> Step<T> {
        if self.first.left.is_empty() && self.other.left.is_empty() {
            let over = self.running == 0 && !self.first.looking_up && !self.other.looking_up;
            return if over { Step::Exhausted } else { Step::Wait(None) };
        }
        let at = match self.last_start {
            Some(last) => last + self.gap,
            // Only the other family is known yet: the first has some time to come.
            None if self.first.left.is_empty() && self.first.looking_up => {
                self.other_since.unwrap_or(now) + self.pace.resolution_delay
            }
            None => now,
        };
        if at > now {
            return Step::Wait(Some(at));
        }
        match self.next() {
            Some(candidate) => {
                self.last_start = Some(now);
                self.gap = self.pace.attempt_delay.max(LEAST_DELAY);
                self.running += 1;
                Step::Start(candidate)
            }
            None => Step::Wait(None),
        }
    }

    /// The next candidate by the order of section 4: first the first family's share, then alternating.
    fn next(&mut self) -> Option<T> {
        let share = if self.mixed {
            1
        } else {
            self.pace.first_count.max(1)
        };
        if self.in_a_row < share
            && let Some(candidate) = self.first.left.pop_front()
        {
            self.in_a_row += 1;
            return Some(candidate);
        }
        if let Some(candidate) = self.other.left.pop_front() {
            self.mixed = true;
            self.in_a_row = 0;
            return Some(candidate);
        }
        self.first.left.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn race() -> (Race<u32>, Instant) {
        (Race::new(Eyeballs::DEFAULT, |_| true), Instant::now())
    }

    #[test]
    fn ipv6_starts_at_once_and_ipv4_follows_after_the_attempt_delay() {
        let (mut race, t) = race();
        assert_eq!(race.poll(t), Step::Wait(None));
        race.answer(IpFamily::V6, [6, 66], t);
        assert_eq!(race.poll(t), Step::Start(6));
        race.answer(IpFamily::V4, [4, 44], t + 5 * MS);
        assert_eq!(race.poll(t + 5 * MS), Step::Wait(Some(t + 250 * MS)));
        assert_eq!(race.poll(t + 250 * MS), Step::Start(4));
        assert_eq!(race.poll(t + 499 * MS), Step::Wait(Some(t + 500 * MS)));
        assert_eq!(race.poll(t + 500 * MS), Step::Start(66));
        assert_eq!(race.poll(t + 750 * MS), Step::Start(44));
        assert_eq!(race.poll(t + 1000 * MS), Step::Wait(None));
    }

    #[test]
    fn ipv4_waits_for_ipv6_for_the_resolution_delay_only() {
        let (mut race, t) = race();
        race.answer(IpFamily::V4, [4], t);
        assert_eq!(race.poll(t), Step::Wait(Some(t + 50 * MS)));
        race.answer(IpFamily::V6, [6], t + 20 * MS);
        assert_eq!(race.poll(t + 20 * MS), Step::Start(6));

        let (mut race, t) = self::race();
        race.answer(IpFamily::V4, [4], t);
        race.answer(IpFamily::V6, [], t + 20 * MS);
        assert_eq!(race.poll(t + 20 * MS), Step::Start(4));

        let (mut race, t) = self::race();
        race.answer(IpFamily::V4, [4, 44], t);
        assert_eq!(race.poll(t + 50 * MS), Step::Start(4));
        // What comes later is taken into the list.
        race.answer(IpFamily::V6, [6], t + 60 * MS);
        assert_eq!(race.poll(t + 300 * MS), Step::Start(6));
        assert_eq!(race.poll(t + 550 * MS), Step::Start(44));
    }

    #[test]
    fn a_failure_lets_the_next_one_start_but_not_within_ten_milliseconds() {
        let (mut race, t) = race();
        race.answer(IpFamily::V6, [1, 2, 3], t);
        race.answer(IpFamily::V4, [], t);
        assert_eq!(race.poll(t), Step::Start(1));
        race.failed(false);
        assert_eq!(race.poll(t + MS), Step::Wait(Some(t + 10 * MS)));
        assert_eq!(race.poll(t + 10 * MS), Step::Start(2));
        race.failed(true);
        assert_eq!(race.poll(t + 10 * MS), Step::Start(3));
        race.failed(true);
        assert_eq!(race.poll(t + 10 * MS), Step::Exhausted);
    }

    #[test]
    fn the_first_familys_share_comes_first_and_then_they_alternate() {
        let pace = Eyeballs {
            first_count: 2,
            ..Eyeballs::DEFAULT
        };
        let (mut race, t) = (Race::new(pace, |_| true), Instant::now());
        race.answer(IpFamily::V4, [41, 42], t);
        race.answer(IpFamily::V6, [61, 62, 63, 64, 65], t);
        let mut order = Vec::new();
        while let Step::Start(candidate) = race.poll(t) {
            order.push(candidate);
            race.failed(true);
        }
        assert_eq!(order, [61, 62, 41, 63, 42, 64, 65]);
    }

    #[test]
    fn without_a_look_up_there_is_nothing_to_wait_for() {
        let mut race: Race<u32> = Race::new(Eyeballs::DEFAULT, |family| family == IpFamily::V4);
        let t = Instant::now();
        assert_eq!(race.poll(t), Step::Wait(None));
        race.answer(IpFamily::V4, [4], t);
        assert_eq!(race.poll(t), Step::Start(4));
        race.failed(false);
        assert_eq!(race.poll(t), Step::Exhausted);
    }

    proptest! {
        /// Whatever happens when: each candidate is started once, never two within 10 ms unless nothing was sent,
        /// and the race ends.
        #[test]
        fn every_candidate_gets_its_turn_once(
            v4 in 0u32..6, v6 in 0u32..6, at4 in 0u32..400, at6 in 0u32..400, fail in 0u32..600,
        ) {
            let (mut race, t) = race();
            let mut started: Vec<(u32, Instant)> = Vec::new();
            let mut failing = VecDeque::new();
            let mut over = false;
            for ms in 0..10_000 {
                let now = t + ms * MS;
                if ms == at4 { race.answer(IpFamily::V4, 0..v4, now); }
                if ms == at6 { race.answer(IpFamily::V6, 10..10 + v6, now); }
                while failing.front().is_some_and(|at| *at <= now) {
                    failing.pop_front();
                    race.failed(false);
                }
                match race.poll(now) {
                    Step::Start(candidate) => {
                        started.push((candidate, now));
                        failing.push_back(now + fail * MS);
                    }
                    Step::Wait(at) => prop_assert!(at.is_none_or(|at| at > now)),
                    Step::Exhausted => { over = true; break; }
                }
            }
            prop_assert!(over);
            prop_assert!(started.windows(2).all(|two| two[1].1 - two[0].1 >= LEAST_DELAY));
            let mut all: Vec<u32> = started.iter().map(|(candidate, _)| *candidate).collect();
            all.sort_unstable();
            let wanted: Vec<u32> = (0..v4).chain(10..10 + v6).collect();
            prop_assert_eq!(all, wanted);
        }
    }
}
