//! A seeded source of randomness for tests.

use sluice_spi::Entropy;

/// Sebastiano Vigna's splitmix64: enough to spread choices in tests.
pub(crate) struct SeededEntropy(u64);

impl SeededEntropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            for (place, byte) in chunk.iter_mut().zip(random) {
                *place = byte;
            }
        }
    }

    fn fork(&mut self) -> Box<dyn Entropy> {
        Box::new(Self(self.next()))
    }
}
