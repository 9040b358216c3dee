//! Randomness from the kernel.

use sluice_spi::Entropy;
use std::cell::RefCell;
use zeroize::{Zeroize, Zeroizing};

/// Bytes asked of the kernel at once: most who ask want a few.
const STOCK: usize = 256;

thread_local! {
    /// What a thread has in stock. Bytes are wiped as they are given, so that none is given twice.
    static STOCKS: RefCell<Stock> = RefCell::new(Stock { bytes: Zeroizing::new([0; STOCK]), left: 0 });
}

struct Stock {
    bytes: Zeroizing<[u8; STOCK]>,
    /// So many are at its beginning.
    left: usize,
}

impl Stock {
    fn give(&mut self, bytes: &mut [u8]) {
        if self.left < bytes.len() {
            ask(self.bytes.as_mut_slice());
            self.left = STOCK;
        }
        let start = self.left.saturating_sub(bytes.len());
        if let Some(given) = self.bytes.get_mut(start..self.left)
            && given.len() == bytes.len()
        {
            bytes.copy_from_slice(given);
            given.zeroize();
            self.left = start;
        } else {
            ask(bytes);
        }
    }
}

fn ask(bytes: &mut [u8]) {
    if let Err(error) = getrandom::fill(bytes) {
        // Identifiers and challenges that can be guessed are worse than a restart.
        tracing::error!("the kernel gives no randomness: {error}");
        std::process::abort();
    }
}

/// The kernel's generator.
pub(super) struct Kernel;

impl Entropy for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) {
        // A thread that ends may have no stock any more.
        let given = STOCKS.try_with(|stock| stock.borrow_mut().give(bytes));
        if given.is_err() {
            ask(bytes);
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
    fn no_byte_is_given_twice_however_many_are_wanted() {
        let mut kernel = Kernel;
        let mut given = std::collections::HashSet::new();
        for length in [8, 16, 100, 255, 256, 257, 1000, 0, 8, 248, 8].repeat(20) {
            let mut bytes = vec![0; length];
            kernel.fill(&mut bytes);
            for eight in bytes.chunks_exact(8) {
                assert!(given.insert(eight.to_vec()), "{eight:?} of {length}");
            }
        }
        STOCKS.with_borrow(|stock| assert!(stock.bytes.iter().skip(stock.left).all(|byte| *byte == 0)));
    }

    #[test]
    fn gives_other_bytes_each_time() {
        let mut kernel = Kernel;
        let (first, second) = (random_bytes::<16>(&mut kernel), random_bytes::<16>(&mut kernel));
        assert_ne!(first, second);
        assert_ne!(random_bytes::<16>(kernel.fork().as_mut()), [0; 16]);
    }
}
