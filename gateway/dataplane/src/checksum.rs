//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept in the machine's own byte order: a one's complement sum of swapped words is the swapped sum, so
//! the result is right when it is stored in that order too.

/// A running one's complement sum.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes. Only the last bytes added to a sum may be of odd number.
    pub(crate) fn add(self, bytes: &[u8]) -> Sum {
        // Four sums side by side, so that the compiler can use wide registers.
        let mut lanes = [0u64; 4];
        let mut blocks = bytes.chunks_exact(16);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(native_u32(word));
            }
        }
        let mut sum = fold(self.0) + lanes.into_iter().map(fold).sum::<u64>();
        let mut words = blocks.remainder().chunks_exact(2);
        for word in &mut words {
            sum += u64::from(native_u16(word));
        }
        if let [last] = *words.remainder() {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        Sum(sum)
    }

    /// Adds a number as it stands in a header.
    pub(crate) fn add_u16(self, number: u16) -> Sum {
        Sum(self.0 + u64::from(number.to_be()))
    }

    /// The sum in 16 bits, as it is stored.
    pub(crate) fn folded(self) -> [u8; 2] {
        (fold(self.0) as u16).to_ne_bytes()
    }

    /// The checksum: the complement of the sum, as it is stored.
    pub(crate) fn complement(self) -> [u8; 2] {
        (!(fold(self.0) as u16)).to_ne_bytes()
    }

    /// Whether a sum over data with its checksum says that nothing was changed.
    pub(crate) fn is_valid(self) -> bool {
        fold(self.0) == 0xffff
    }
}

fn native_u32(word: &[u8]) -> u32 {
    word.first_chunk().map_or(0, |&word| u32::from_ne_bytes(word))
}

fn native_u16(word: &[u8]) -> u16 {
    word.first_chunk().map_or(0, |&word| u16::from_ne_bytes(word))
}

/// Brings a sum down to 16 bits.
fn fold(sum: u64) -> u64 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

/// The sum of the pseudo-header of TCP and UDP: `addresses` are source and destination as they stand in the IP
/// header, `length` that of the TCP or UDP header with its payload.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Sum {
    let length = length as u32;
    Sum::default()
        .add(addresses)
        .add_u16(u16::from(protocol))
        .add_u16((length >> 16) as u16)
        .add_u16(length as u16)
}

/// The checksum after a 16-bit word it covers changed from `old` to `new` (RFC 1624, equation 3).
pub(crate) fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 to the letter.
    fn plain(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn the_corner_case_of_the_update_equation() {
        // RFC 1624, section 4: with equation 2 this gives 0xffff in place of 0.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_two_parts(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            let sum = Sum::default().add(head).add(tail);
            prop_assert_eq!(sum.complement(), plain(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(words in prop::collection::vec(1u16.., 2..20), new in 1u16..) {
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
            let before = u16::from_be_bytes(plain(&bytes(&words)));
            let mut changed = words.clone();
            changed[0] = new;
            let after = u16::from_be_bytes(plain(&bytes(&changed)));
            prop_assert_eq!(update(before, words[0], new), after);
        }
    }
}
