//! Blocks of addresses, and which units of a pool's blocks are free.

use crate::model::Address;
use sluice_auth::Ipv6Prefix;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// IPv4 addresses of one pool at most: a /8.
pub const MAX_IPV4_UNITS: u64 = 1 << 24;
/// IPv6 prefixes of one pool at most: more than one gateway can have sessions. Of larger blocks the first ones are
/// used.
pub const MAX_IPV6_UNITS: u64 = 1 << 20;
/// Length of the IPv6 prefix that a session from a pool gets (RFC 4862: a prefix for autoconfiguration has 64 bits).
pub const IPV6_UNIT: u8 = 64;

/// A block of IPv4 addresses to give to users: a prefix or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ipv4Block {
    /// A prefix. Its network and broadcast addresses are given to nobody, unless it is a /31 (RFC 3021) or /32.
    Prefix {
        /// The first address, host bits zero.
        address: Ipv4Addr,
        /// Length in bits, 0 to 32.
        length: u8,
    },
    /// All addresses from one to another.
    Range {
        /// The first address.
        first: Ipv4Addr,
        /// The last address, not below the first.
        last: Ipv4Addr,
    },
}

impl Ipv4Block {
    /// A prefix. `None` where the length is over 32 or host bits are set.
    pub fn prefix(address: Ipv4Addr, length: u8) -> Option<Self> {
        let host_bits = 32u32.checked_sub(u32::from(length))?;
        let hosts = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        (host_bits == 0 || u32::from(address) & hosts == 0).then_some(Self::Prefix { address, length })
    }

    /// A range. `None` where the last address is below the first.
    pub fn range(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        (first <= last).then_some(Self::Range { first, last })
    }

    /// The first and the last address, whether or not they are given to users.
    pub fn bounds(self) -> (Ipv4Addr, Ipv4Addr) {
        match self {
            Self::Range { first, last } => (first, last),
            Self::Prefix { address, length } => {
                let hosts = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                (address, (u32::from(address) | hosts).into())
            }
        }
    }

    /// The first and the last address that may be given to users.
    pub fn usable(self) -> (Ipv4Addr, Ipv4Addr) {
        let (first, last) = self.bounds();
        match self {
            Self::Prefix { length, .. } if length < 31 => {
                let (first, last) = (u32::from(first), u32::from(last));
                (first.saturating_add(1).into(), last.saturating_sub(1).into())
            }
            _ => (first, last),
        }
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&address)
    }
}

impl fmt::Display for Ipv4Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { address, length } => write!(f, "{address}/{length}"),
            Self::Range { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// Text that is no block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a block such as 192.0.2.0/24 or 192.0.2.10-192.0.2.20")]
pub struct BlockError;

impl FromStr for Ipv4Block {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let address = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| BlockError);
        if let Some((start, length)) = text.split_once('/') {
            let length = length.parse().map_err(|_| BlockError)?;
            return Self::prefix(address(start)?, length).ok_or(BlockError);
        }
        let (first, last) = text.split_once('-').ok_or(BlockError)?;
        Self::range(address(first)?, address(last)?).ok_or(BlockError)
    }
}

/// A span of addresses of one family, as numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: u128,
    pub(crate) end: u128,
}

impl Span {
    pub(crate) fn of(address: Address) -> Self {
        match address {
            Address::V4(address) => Self {
                start: u128::from(u32::from(address)),
                end: u128::from(u32::from(address)),
            },
            Address::V6(prefix) => {
                let start = u128::from(prefix.address());
                let hosts = u128::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
                Self {
                    start,
                    end: start | hosts,
                }
            }
        }
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// A family of addresses and the size of what one session gets of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn shift(self) -> u32 {
        match self {
            Family::V4 => 0,
            Family::V6 => 128 - u32::from(IPV6_UNIT),
        }
    }

    /// The address at a unit's number.
    pub(crate) fn address(self, unit: u128) -> Option<Address> {
        let start = unit.checked_shl(self.shift())?;
        match self {
            Family::V4 => Some(Address::V4(Ipv4Addr::from(u32::try_from(start).ok()?))),
            Family::V6 => Ipv6Prefix::new(Ipv6Addr::from(start), IPV6_UNIT).map(Address::V6),
        }
    }

    /// The first and the last unit that a span touches.
    pub(crate) fn units(self, span: Span) -> (u128, u128) {
        (span.start >> self.shift(), span.end >> self.shift())
    }
}

/// A run of units of one block, and the index of its first unit in its pool.
#[derive(Clone, Copy, Debug)]
struct Run {
    index: u32,
    unit: u128,
    count: u32,
}

/// The units of one pool and family: which they are, and which are free.
#[derive(Debug)]
pub(crate) struct Space {
    family: Family,
    runs: Vec<Run>,
    free: FreeSet,
}

impl Space {
    pub(crate) fn ipv4(blocks: &[Ipv4Block]) -> Self {
        let spans = blocks.iter().map(|block| {
            let (first, last) = block.usable();
            Span {
                start: u128::from(u32::from(first)),
                end: u128::from(u32::from(last)),
            }
        });
        Self::new(Family::V4, spans, MAX_IPV4_UNITS)
    }

    /// Blocks longer than /64 hold no unit and are passed over.
    pub(crate) fn ipv6(blocks: &[Ipv6Prefix]) -> Self {
        let blocks = blocks.iter().filter(|block| block.length() <= IPV6_UNIT);
        let spans = blocks.map(|block| Span::of(Address::V6(*block)));
        Self::new(Family::V6, spans, MAX_IPV6_UNITS)
    }

    fn new(family: Family, spans: impl Iterator<Item = Span>, most: u64) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut size: u32 = 0;
        for span in spans {
            let (first, last) = family.units(span);
            let left = u128::from(most).saturating_sub(u128::from(size));
            let count = (last - first).saturating_add(1).min(left);
            let Ok(count) = u32::try_from(count) else { continue };
            if count > 0 {
                runs.push(Run {
                    index: size,
                    unit: first,
                    count,
                });
                size += count;
            }
        }
        Self {
            family,
            runs,
            free: FreeSet::full(size),
        }
    }

    pub(crate) fn size(&self) -> u32 {
        self.free.size
    }

    pub(crate) fn free(&self) -> u32 {
        self.free.count
    }

    fn unit(&self, index: u32) -> Option<u128> {
        let position = self.runs.partition_point(|run| run.index <= index);
        let run = self.runs.get(position.checked_sub(1)?)?;
        let offset = index - run.index;
        (offset < run.count).then(|| run.unit + u128::from(offset))
    }

    /// The addresses of the pool that a span touches.
    pub(crate) fn touched(&self, span: Span) -> Vec<(u32, Address)> {
        let (first, last) = self.family.units(span);
        let mut touched = Vec::new();
        for run in &self.runs {
            let end = run.unit + u128::from(run.count) - 1;
            let (from, to) = (first.max(run.unit), last.min(end));
            for unit in from..=to {
                let Ok(offset) = u32::try_from(unit - run.unit) else {
                    continue;
                };
                touched.extend(self.family.address(unit).map(|a| (run.index + offset, a)));
            }
        }
        touched
    }

    /// Whether the address is one that this pool gives.
    pub(crate) fn gives(&self, address: Address) -> bool {
        let touched = self.touched(Span::of(address));
        matches!(touched.as_slice(), [(_, given)] if *given == address)
    }

    pub(crate) fn set_free(&mut self, index: u32, free: bool) {
        self.free.set(index, free);
    }

    /// The free address at or after an index, going round.
    pub(crate) fn next_free(&self, from: u32) -> Option<(u32, Address)> {
        let index = self.free.next(from).or_else(|| self.free.next(0))?;
        let address = self.family.address(self.unit(index)?)?;
        Some((index, address))
    }
}

/// A set of numbers with the next member found in a few steps, however full or empty: a tree of 64-bit words.
#[derive(Debug)]
struct FreeSet {
    /// `levels[0]` has a bit for each number; each further level a bit for each word of the one before.
    levels: Vec<Vec<u64>>,
    size: u32,
    count: u32,
}

fn place(index: u32) -> (usize, u64) {
    (
        usize::try_from(index / 64).unwrap_or(usize::MAX),
        1 << (index % 64),
    )
}

impl FreeSet {
    fn full(size: u32) -> Self {
        let mut levels = Vec::new();
        let mut bits = size;
        while bits > 0 {
            let (words, last) = (bits / 64, bits % 64);
            let mut level = vec![u64::MAX; usize::try_from(words).unwrap_or(0)];
            if last > 0 {
                level.push((1 << last) - 1);
            }
            bits = if level.len() > 1 { bits.div_ceil(64) } else { 0 };
            levels.push(level);
        }
        Self {
            levels,
            size,
            count: size,
        }
    }

    fn set(&mut self, index: u32, member: bool) {
        if index >= self.size {
            return;
        }
        let mut at = index;
        for (depth, level) in self.levels.iter_mut().enumerate() {
            let (word, bit) = place(at);
            let Some(word) = level.get_mut(word) else { return };
            let was = *word & bit != 0;
            let empty_before = *word == 0;
            if was == member {
                return;
            }
            *word ^= bit;
            if depth == 0 {
                self.count = if member { self.count + 1 } else { self.count - 1 };
            }
            // The level above only says whether this word has a member at all.
            if empty_before == (*word == 0) {
                return;
            }
            at /= 64;
        }
    }

    /// The smallest member that is not below `from`.
    fn next(&self, from: u32) -> Option<u32> {
        let mut depth = 0;
        let mut at = from;
        // Up, until a word has a member at or after the place.
        loop {
            let (word, bit) = place(at);
            let level = self.levels.get(depth)?;
            let rest = level.get(word).map_or(0, |word| word & !(bit - 1));
            if rest != 0 {
                at = (at / 64) * 64 + rest.trailing_zeros();
                break;
            }
            at = at / 64 + 1;
            depth += 1;
        }
        // Down again, to the first member.
        while depth > 0 {
            depth -= 1;
            let (word, _) = place(at * 64);
            let word = self.levels.get(depth)?.get(word)?;
            at = at * 64 + word.trailing_zeros();
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn blocks_read_back_and_nonsense_is_refused() {
        for text in [
            "192.0.2.0/24",
            "0.0.0.0/0",
            "192.0.2.7/32",
            "192.0.2.10-192.0.2.20",
        ] {
            assert_eq!(text.parse::<Ipv4Block>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "192.0.2.1/24",
            "192.0.2.0/33",
            "192.0.2.9-192.0.2.8",
            "192.0.2.0",
            "a/8",
        ] {
            assert_eq!(text.parse::<Ipv4Block>(), Err(BlockError), "{text}");
        }
    }

    fn all(space: &Space) -> Vec<String> {
        let units = (0..space.size()).filter_map(|index| space.unit(index));
        units
            .filter_map(|unit| space.family.address(unit))
            .map(|a| a.to_string())
            .collect()
    }

    #[test]
    fn network_and_broadcast_are_given_to_nobody() {
        let blocks = [
            "192.0.2.0/30",
            "198.51.100.4/31",
            "203.0.113.9/32",
            "10.0.0.0-10.0.0.1",
        ];
        let space = Space::ipv4(&blocks.map(|text| text.parse().unwrap()));
        assert_eq!(
            all(&space),
            [
                "192.0.2.1",
                "192.0.2.2",
                "198.51.100.4",
                "198.51.100.5",
                "203.0.113.9",
                "10.0.0.0",
                "10.0.0.1"
            ]
        );
    }

    #[test]
    fn prefixes_of_64_bits_come_out_of_shorter_ones() {
        let blocks = ["2001:db8:0:fffe::/63", "2001:db8:7::/64", "2001:db8:8::/65"];
        let space = Space::ipv6(&blocks.map(|text| text.parse().unwrap()));
        assert_eq!(
            all(&space),
            ["2001:db8:0:fffe::/64", "2001:db8:0:ffff::/64", "2001:db8:7::/64"]
        );
        let huge = Space::ipv6(&["::/0".parse().unwrap()]);
        assert_eq!(u64::from(huge.size()), MAX_IPV6_UNITS);
        let huge = Space::ipv4(&["0.0.0.0/0".parse().unwrap()]);
        assert_eq!(u64::from(huge.size()), MAX_IPV4_UNITS);
    }

    #[test]
    fn a_longer_static_prefix_touches_its_unit() {
        let space = Space::ipv6(&["2001:db8::/56".parse().unwrap()]);
        let touched = |text: &str| space.touched(Span::of(Address::V6(text.parse().unwrap()))).len();
        assert_eq!(touched("2001:db8:0:1::5/128"), 1);
        assert_eq!(touched("2001:db8::/60"), 16);
        assert_eq!(touched("2001:db8::/32"), 256);
        assert_eq!(touched("2001:db9::/32"), 0);
        assert!(space.gives(Address::V6("2001:db8:0:1::/64".parse().unwrap())));
        assert!(!space.gives(Address::V6("2001:db8:0:1::/65".parse().unwrap())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_set_agrees_with_a_plain_one(
            size in 1u32..20_000,
            keep in 0usize..40,
            changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..300),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let mut set = FreeSet::full(size);
            // Begin nearly empty, so that the upper levels matter.
            let mut plain: BTreeSet<u32> = (0..size).step_by(size as usize / (keep + 1) + 1).collect();
            for index in 0..size {
                set.set(index, plain.contains(&index));
            }
            for (index, member) in changes {
                let index = index % size;
                set.set(index, member);
                if member { plain.insert(index); } else { plain.remove(&index); }
            }
            prop_assert_eq!(set.count as usize, plain.len());
            for probe in probes {
                let from = probe % (size + 70);
                prop_assert_eq!(set.next(from), plain.range(from..).next().copied());
            }
        }
    }
}
