//! Deterministic randomness.

use sluice_spi::Entropy;

/// A seeded generator: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014). Each step adds the golden ratio to a 64-bit counter and mixes it; it passes the usual
/// statistical tests and is good for tests only, being no secret to anyone who has seen two outputs.
#[derive(Clone, Debug)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// A generator whose whole future follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where the bound is 0. The bias of the multiplication is below 2^-32 for all
    /// bounds a test uses.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// True with a probability from 0 to 1.
    pub fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits are as many as a double holds.
        ((self.next_u64() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    /// An independent generator, seeded by the next draw.
    pub fn split(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            for (place, byte) in chunk.iter_mut().zip(random) {
                *place = byte;
            }
        }
    }

    fn fork(&mut self) -> Box<dyn Entropy> {
        Box::new(self.split())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_published_sequence() {
        // First outputs of the reference implementation (splitmix64.c of S. Vigna) for seed 1234567.
        let mut seeded = Seeded::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| seeded.next_u64()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn chances_come_true_as_often_as_asked() {
        let mut seeded = Seeded::new(7);
        for asked in [0.0, 0.1, 0.5, 0.99, 1.0] {
            let hits = (0..20_000).filter(|_| seeded.chance(asked)).count();
            assert!((hits as f64 / 20_000.0 - asked).abs() < 0.015, "{asked}: {hits}");
        }
    }

    #[test]
    fn forks_are_repeatable_and_independent() {
        let (mut a, mut b) = (Seeded::new(1), Seeded::new(1));
        let (mut fork_a, mut fork_b) = (a.fork(), b.fork());
        let (mut bytes_a, mut bytes_b, mut own) = ([0; 20], [0; 20], [0; 20]);
        fork_a.fill(&mut bytes_a);
        fork_b.fill(&mut bytes_b);
        a.fill(&mut own);
        assert_eq!(bytes_a, bytes_b);
        assert_ne!(bytes_a, own);
    }

    #[test]
    fn bounded_numbers_cover_their_range() {
        let mut seeded = Seeded::new(3);
        let seen: std::collections::BTreeSet<usize> = (0..500).map(|_| seeded.below(10)).collect();
        assert_eq!(seen.len(), 10);
        assert_eq!(seeded.below(0), 0);
    }
}
