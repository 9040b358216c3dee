//! Damaged versions of good messages.

use crate::Seeded;

/// Values that break length fields and counters most often.
const NASTY_U16: [u16; 10] = [0, 1, 2, 5, 6, 0x00ff, 0x03ff, 0x7fff, 0x8000, 0xffff];
const NASTY_U8: [u8; 7] = [0, 1, 2, 3, 0x7f, 0x80, 0xff];

/// Every proper prefix of `bytes`, the empty one included.
pub fn truncations(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len()).map(|length| bytes[..length].to_vec())
}

/// Every version with one single bit flipped.
pub fn single_flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        damaged
    })
}

/// `count` versions with one to eight random changes each: flipped bits, replaced, doubled and removed bytes,
/// and pieces copied over others.
pub fn seeded(bytes: &[u8], seed: u64, count: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut random = Seeded::new(seed);
    (0..count).map(move |_| {
        let mut damaged = bytes.to_vec();
        for _ in 0..=random.below(8) {
            change(&mut damaged, &mut random);
        }
        damaged
    })
}

fn change(bytes: &mut Vec<u8>, random: &mut Seeded) {
    if bytes.is_empty() {
        bytes.push(random.next_u64() as u8);
        return;
    }
    let at = random.below(bytes.len());
    match random.below(6) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next_u64() as u8,
        3 => bytes.insert(at, bytes[at]),
        4 => drop(bytes.remove(at)),
        _ => {
            let length = random.below(bytes.len() - at).min(16);
            let from = random.below(bytes.len() - length);
            bytes.copy_within(from..from + length, at);
        }
    }
}

/// At every offset, the byte and the 16-bit number there replaced by values that break length fields: the nasty
/// ones, and those one and two off what was there and off what is left of the message.
pub fn length_tampering(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len()).flat_map(move |at| {
        let left = bytes.len() - at;
        let bytewise = near(u16::from(bytes[at]))
            .into_iter()
            .chain(near(left.min(255) as u16))
            .map(|value| value as u8)
            .chain(NASTY_U8)
            .map(move |value| with(bytes, at, &[value]));
        let pair = bytes
            .get(at..at + 2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let wordwise = pair.into_iter().flat_map(move |old| {
            near(old)
                .into_iter()
                .chain(near(left.min(65_535) as u16))
                .chain(NASTY_U16)
                .map(move |value| with(bytes, at, &value.to_be_bytes()))
        });
        bytewise.chain(wordwise)
    })
}

fn near(value: u16) -> [u16; 5] {
    [-2i16, -1, 0, 1, 2].map(|step| value.wrapping_add_signed(step))
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + new.len()].copy_from_slice(new);
    changed
}

/// All truncations, all single flips, all length tampering, and `count` seeded mutations.
pub fn all(bytes: &[u8], seed: u64, count: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
    truncations(bytes)
        .chain(single_flips(bytes))
        .chain(length_tampering(bytes))
        .chain(seeded(bytes, seed, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_what_they_should_be() {
        let bytes = [1, 2, 3, 4];
        assert_eq!(truncations(&bytes).count(), 4);
        assert_eq!(single_flips(&bytes).count(), 32);
        assert_eq!(length_tampering(&bytes).count(), 4 * 17 + 3 * 20);
        assert_eq!(seeded(&bytes, 1, 50).count(), 50);
        assert_eq!(all(&[], 1, 5).count(), 5);
    }

    #[test]
    fn tampering_reaches_the_classic_off_by_one() {
        // A length field that says 4 of 4 bytes: 3, 5 and 65,535 must be among what is tried.
        let bytes = [0, 4, 9, 9];
        for wanted in [3u16, 5, 65_535] {
            assert!(length_tampering(&bytes).any(|damaged| damaged[..2] == wanted.to_be_bytes()));
        }
    }

    #[test]
    fn the_same_seed_does_the_same_damage() {
        let bytes: Vec<u8> = (0..60).collect();
        assert!(seeded(&bytes, 4, 100).eq(seeded(&bytes, 4, 100)));
        assert!(!seeded(&bytes, 4, 100).eq(seeded(&bytes, 5, 100)));
    }
}
