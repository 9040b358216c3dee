//! Randomness as an input.

/// A source of random bytes handed to a machine by its driver. In the gateway it is the kernel's generator; in
/// tests it is seeded, so that the same seed gives the same trace.
pub trait Entropy: Send {
    /// Fills `bytes` with random data.
    fn fill(&mut self, bytes: &mut [u8]);

    /// An independent source for a machine that this one's owner creates.
    fn fork(&mut self) -> Box<dyn Entropy>;
}

/// `N` random bytes.
pub fn random_bytes<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// 16 random bits.
pub fn random_u16(entropy: &mut dyn Entropy) -> u16 {
    u16::from_le_bytes(random_bytes(entropy))
}

/// 32 random bits.
pub fn random_u32(entropy: &mut dyn Entropy) -> u32 {
    u32::from_le_bytes(random_bytes(entropy))
}

/// 64 random bits.
pub fn random_u64(entropy: &mut dyn Entropy) -> u64 {
    u64::from_le_bytes(random_bytes(entropy))
}
