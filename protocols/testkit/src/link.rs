//! A link that loses, doubles, delays and reorders packets, as its seed decides.

use crate::Seeded;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a link does to its packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// Probability that a packet is lost, 0 to 1.
    pub loss: f64,
    /// Probability that a packet arrives twice, 0 to 1.
    pub duplicate: f64,
    /// Probability that a packet is held back by [`Impairment::reorder_by`], 0 to 1, so that later ones
    /// overtake it.
    pub reorder: f64,
    /// How long a packet chosen for reordering is held back.
    pub reorder_by: Duration,
    /// Time every packet takes.
    pub delay: Duration,
    /// Random time of up to this much on top, for each packet by itself. More than the distance between two
    /// packets reorders them.
    pub jitter: Duration,
    /// Largest packet that passes, in bytes of payload; larger ones are lost.
    pub mtu: usize,
    /// Most packets on their way; more are lost, as in a full queue.
    pub queue: usize,
}

impl Impairment {
    /// Packets on the way at most, where a test does not say otherwise.
    pub const QUEUE: usize = 10_000;

    /// A link without faults and with 1 ms of delay.
    pub const NONE: Impairment = Impairment {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        reorder_by: Duration::from_millis(20),
        delay: Duration::from_millis(1),
        jitter: Duration::ZERO,
        mtu: 65_535,
        queue: Self::QUEUE,
    };

    /// A link on which loss, duplication and reordering each happen with probability `faults`.
    pub fn all(faults: f64) -> Self {
        Self {
            loss: faults,
            duplicate: faults,
            reorder: faults,
            ..Self::NONE
        }
    }
}

/// What became of the packets given to a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets given.
    pub offered: u64,
    /// Packets lost at random.
    pub lost: u64,
    /// Packets larger than the link's MTU.
    pub oversized: u64,
    /// Packets that found the queue full.
    pub overflowed: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Packets held back.
    pub reordered: u64,
    /// Packets that came out.
    pub delivered: u64,
}

/// One direction of a link, carrying packets of type `T`.
#[derive(Debug)]
pub struct Link<T> {
    impairment: Impairment,
    random: Seeded,
    flying: BTreeMap<(Instant, u64), T>,
    sent: u64,
    stats: LinkStats,
}

impl<T: Clone> Link<T> {
    /// A link whose faults follow from `seed`.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: Seeded::new(seed),
            flying: BTreeMap::new(),
            sent: 0,
            stats: LinkStats::default(),
        }
    }

    /// Changes what the link does to packets sent from now on.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Takes a packet of `length` bytes.
    pub fn send(&mut self, packet: T, length: usize, now: Instant) {
        self.stats.offered += 1;
        // Every fault is drawn for every packet: so one setting does not shift the luck of the others.
        let lost = self.random.chance(self.impairment.loss);
        let doubled = self.random.chance(self.impairment.duplicate);
        let held = self.random.chance(self.impairment.reorder);
        if length > self.impairment.mtu {
            self.stats.oversized += 1;
            return;
        }
        if lost {
            self.stats.lost += 1;
            return;
        }
        if doubled {
            self.stats.duplicated += 1;
            self.enqueue(packet.clone(), false, now);
        }
        self.enqueue(packet, held, now);
    }

    fn enqueue(&mut self, packet: T, held: bool, now: Instant) {
        if self.flying.len() >= self.impairment.queue {
            self.stats.overflowed += 1;
            return;
        }
        let jitter = usize::try_from(self.impairment.jitter.as_nanos()).unwrap_or(usize::MAX);
        let mut at = now + self.impairment.delay + Duration::from_nanos(self.random.below(jitter) as u64);
        if held {
            self.stats.reordered += 1;
            at += self.impairment.reorder_by;
        }
        self.sent += 1;
        self.flying.insert((at, self.sent), packet);
    }

    /// The next packet that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<T> {
        let entry = self.flying.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        self.stats.delivered += 1;
        Some(entry.remove())
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flying.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Packets on their way.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// What became of all packets so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(impairment: Impairment, seed: u64, count: u32) -> (Vec<u32>, LinkStats) {
        let start = Instant::now();
        let mut link = Link::new(impairment, seed);
        let mut arrived = Vec::new();
        for number in 0..count {
            let now = start + Duration::from_millis(u64::from(number));
            link.send(number, 100, now);
            arrived.extend(std::iter::from_fn(|| link.receive(now)));
        }
        let end = start + Duration::from_secs(3600);
        arrived.extend(std::iter::from_fn(|| link.receive(end)));
        assert_eq!(link.in_flight(), 0);
        (arrived, link.stats())
    }

    #[test]
    fn a_sound_link_delivers_everything_in_order_after_its_delay() {
        let (arrived, stats) = carry(Impairment::NONE, 1, 1000);
        assert_eq!(arrived, (0..1000).collect::<Vec<u32>>());
        assert_eq!((stats.offered, stats.delivered), (1000, 1000));

        let start = Instant::now();
        let mut link = Link::new(
            Impairment {
                delay: Duration::from_millis(40),
                ..Impairment::NONE
            },
            1,
        );
        link.send((), 1, start);
        assert_eq!(link.next_arrival(), Some(start + Duration::from_millis(40)));
        assert_eq!(link.receive(start + Duration::from_millis(39)), None);
        assert_eq!(link.receive(start + Duration::from_millis(40)), Some(()));
    }

    #[test]
    fn faults_happen_as_often_as_asked_and_are_accounted_for() {
        let (arrived, stats) = carry(Impairment::all(0.3), 42, 10_000);
        for (name, count, of) in [
            ("lost", stats.lost, 10_000),
            ("duplicated", stats.duplicated, stats.offered - stats.lost),
            ("reordered", stats.reordered, stats.offered - stats.lost),
        ] {
            let share = count as f64 / of as f64;
            assert!((share - 0.3).abs() < 0.02, "{name}: {share}");
        }
        assert_eq!(stats.delivered, stats.offered - stats.lost + stats.duplicated);
        assert_eq!(arrived.len() as u64, stats.delivered);
        assert!(!arrived.is_sorted());
    }

    #[test]
    fn the_same_seed_has_the_same_faults() {
        assert_eq!(
            carry(Impairment::all(0.2), 5, 500),
            carry(Impairment::all(0.2), 5, 500)
        );
        assert_ne!(
            carry(Impairment::all(0.2), 5, 500).0,
            carry(Impairment::all(0.2), 6, 500).0
        );
    }

    #[test]
    fn large_packets_and_full_queues_lose() {
        let now = Instant::now();
        let mut link = Link::new(
            Impairment {
                mtu: 100,
                queue: 3,
                ..Impairment::NONE
            },
            1,
        );
        link.send(0, 101, now);
        for number in 1..=5 {
            link.send(number, 100, now);
        }
        assert_eq!(
            (link.stats().oversized, link.stats().overflowed, link.in_flight()),
            (1, 2, 3)
        );
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let now = Instant::now();
        let jitter = Duration::from_millis(10);
        let mut link = Link::new(
            Impairment {
                jitter,
                ..Impairment::NONE
            },
            9,
        );
        for number in 0..1000 {
            link.send(number, 1, now);
        }
        assert_eq!(link.receive(now + Duration::from_micros(999)), None);
        let end = now + Duration::from_millis(11);
        assert_eq!(std::iter::from_fn(|| link.receive(end)).count(), 1000);
    }
}
