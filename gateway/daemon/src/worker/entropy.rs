//! Randomness from the kernel.

use sluice_spi::Entropy;

/// The kernel's generator.
pub(super) struct Kernel;

impl Entropy for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            // Identifiers and challenges that can be guessed are worse than a restart.
            tracing::error!("the kernel gives no randomness: {error}");
            std::process::abort();
        }
    }

    fn fork(&mut self) -> Box<dyn Entropy> {
        Box::new(Self)
    }
}

/// A random number.
pub(super) fn number() -> u32 {
    sluice_spi::random_u32(&mut Kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::random_bytes;

    #[test]
    fn gives_other_bytes_each_time() {
        let mut kernel = Kernel;
        let (first, second) = (random_bytes::<16>(&mut kernel), random_bytes::<16>(&mut kernel));
        assert_ne!(first, second);
        assert_ne!(random_bytes::<16>(kernel.fork().as_mut()), [0; 16]);
    }
}
