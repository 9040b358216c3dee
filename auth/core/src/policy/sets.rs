//! Sets of rules, and maps from values to the set of rules that hold there.

use crate::IpPrefix;
use rustc_hash::FxHashMap;
use std::net::IpAddr;

/// Most rules of a policy. Sets of them are then 128 bytes at most.
pub const MAX_RULES: usize = 1024;

const WORDS: usize = MAX_RULES / 64;

/// How many words the sets of a policy need: a decision looks at no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(usize);

impl Size {
    pub(super) fn of(rules: usize) -> Self {
        Self(rules.div_ceil(64))
    }
}

/// A set of rules, by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RuleSet([u64; WORDS]);

impl RuleSet {
    pub(super) const EMPTY: Self = Self([0; WORDS]);

    fn word(&mut self, rule: usize) -> Option<&mut u64> {
        self.0.get_mut(rule / 64)
    }

    pub(super) fn insert(&mut self, rule: usize) {
        if let Some(word) = self.word(rule) {
            *word |= 1 << (rule % 64);
        }
    }

    fn remove(&mut self, rule: usize) {
        if let Some(word) = self.word(rule) {
            *word &= !(1 << (rule % 64));
        }
    }

    fn join(&mut self, other: &Self, size: Size, join: impl Fn(u64, u64) -> u64) {
        for (word, other) in self.0.iter_mut().zip(&other.0).take(size.0) {
            *word = join(*word, *other);
        }
    }

    /// Keeps the rules that are in the other set too.
    pub(super) fn keep(&mut self, other: &Self, size: Size) {
        self.join(other, size, |a, b| a & b);
    }

    /// Adds the rules of the other set.
    pub(super) fn add(&mut self, other: &Self, size: Size) {
        self.join(other, size, |a, b| a | b);
    }

    /// Takes the rules of the other set out.
    pub(super) fn drop(&mut self, other: &Self, size: Size) {
        self.join(other, size, |a, b| a & !b);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first rule of the set.
    pub(super) fn first(&self) -> Option<usize> {
        self.iter().next()
    }

    /// The rules, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// The rules before one, in order.
    pub(super) fn iter_before(&self, end: usize) -> impl Iterator<Item = usize> {
        self.iter().take_while(move |rule| *rule < end)
    }
}

impl FromIterator<usize> for RuleSet {
    fn from_iter<I: IntoIterator<Item = usize>>(rules: I) -> Self {
        let mut set = Self::EMPTY;
        rules.into_iter().for_each(|rule| set.insert(rule));
        set
    }
}

/// Values that lie in ranges.
pub(super) trait Key: Copy + Ord {
    const MIN: Self;
    /// The next value; `None` behind the last.
    fn next(self) -> Option<Self>;
    /// The value before; `None` before the first.
    fn previous(self) -> Option<Self>;
}

macro_rules! key {
    ($($type:ty),*) => {$(
        impl Key for $type {
            const MIN: Self = <$type>::MIN;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}
key!(u16, u32, u128);

/// Inclusive ranges of values and the rule each belongs to; may overlap.
pub(super) type Listed<K> = Vec<(usize, K, K)>;

/// For every value the rules whose ranges hold it: one binary search.
#[derive(Clone, Debug)]
pub(super) struct Ranges<K> {
    /// Where another set begins; the first is the lowest value.
    starts: Vec<K>,
    /// Which set begins there.
    which: Vec<u32>,
    /// All different sets.
    sets: Vec<RuleSet>,
}

impl<K: Key> Ranges<K> {
    pub(super) fn new(listed: Listed<K>) -> Self {
        // Where a rule starts to hold and where it no longer does.
        let mut steps: Vec<(K, usize, bool)> = Vec::new();
        for (rule, first, last) in merged(listed) {
            steps.push((first, rule, true));
            if let Some(after) = last.next() {
                steps.push((after, rule, false));
            }
        }
        steps.sort_unstable();
        let mut ranges = Self {
            starts: Vec::new(),
            which: Vec::new(),
            sets: Vec::new(),
        };
        let mut known = FxHashMap::default();
        let mut current = RuleSet::EMPTY;
        let mut at = K::MIN;
        for (value, rule, starts) in steps {
            if value != at {
                ranges.push(at, current, &mut known);
                at = value;
            }
            if starts {
                current.insert(rule);
            } else {
                current.remove(rule);
            }
        }
        ranges.push(at, current, &mut known);
        ranges
    }

    fn push(&mut self, start: K, set: RuleSet, known: &mut FxHashMap<RuleSet, u32>) {
        let which = *known.entry(set).or_insert_with(|| {
            self.sets.push(set);
            u32::try_from(self.sets.len() - 1).unwrap_or(u32::MAX)
        });
        self.starts.push(start);
        self.which.push(which);
    }

    pub(super) fn get(&self, value: K) -> &RuleSet {
        let behind = self.starts.partition_point(|start| *start <= value);
        let which = behind.checked_sub(1).and_then(|index| self.which.get(index));
        let set = which.and_then(|which| self.sets.get(usize::try_from(*which).ok()?));
        set.unwrap_or(&RuleSet::EMPTY)
    }
}

/// The same ranges, those of one rule joined where they overlap or touch.
fn merged<K: Key>(mut listed: Listed<K>) -> Listed<K> {
    listed.sort_unstable();
    let mut joined: Listed<K> = Vec::with_capacity(listed.len());
    for (rule, first, last) in listed {
        match joined.last_mut() {
            Some((former, _, end)) if *former == rule && end.next().is_none_or(|next| first <= next) => {
                *end = last.max(*end);
            }
            _ => joined.push((rule, first, last)),
        }
    }
    joined
}

/// First and last address of a prefix, of either family.
pub(super) enum Span {
    V4(u32, u32),
    V6(u128, u128),
}

pub(super) fn span(prefix: IpPrefix) -> Span {
    let length = u32::from(prefix.length());
    match prefix.address() {
        IpAddr::V4(v4) => Span::V4(
            v4.into(),
            u32::from(v4) | u32::MAX.checked_shr(length).unwrap_or(0),
        ),
        IpAddr::V6(v6) => Span::V6(
            v6.into(),
            u128::from(v6) | u128::MAX.checked_shr(length).unwrap_or(0),
        ),
    }
}

/// For every address the rules that hold there.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Spans of addresses and the rule each belongs to.
#[derive(Default)]
pub(super) struct ListedAddresses {
    pub(super) v4: Listed<u32>,
    pub(super) v6: Listed<u128>,
}

impl ListedAddresses {
    pub(super) fn push(&mut self, rule: usize, span: Span) {
        match span {
            Span::V4(first, last) => self.v4.push((rule, first, last)),
            Span::V6(first, last) => self.v6.push((rule, first, last)),
        }
    }
}

impl Addresses {
    pub(super) fn new(listed: ListedAddresses) -> Self {
        Self {
            v4: Ranges::new(listed.v4),
            v6: Ranges::new(listed.v6),
        }
    }

    /// `address` is not a mapped one.
    pub(super) fn get(&self, address: IpAddr) -> &RuleSet {
        match address {
            IpAddr::V4(v4) => self.v4.get(v4.into()),
            IpAddr::V6(v6) => self.v6.get(v6.into()),
        }
    }
}

/// For every word the rules that name it. Only the configuration adds words, so that a quick hash will do.
#[derive(Clone, Debug, Default)]
pub(super) struct Words(FxHashMap<Box<str>, RuleSet>);

impl Words {
    pub(super) fn insert(&mut self, word: &str, rule: usize) {
        self.0.entry(word.into()).or_insert(RuleSet::EMPTY).insert(rule);
    }

    /// `None`: no rule names it.
    pub(super) fn get(&self, word: &str) -> Option<&RuleSet> {
        self.0.get(word)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sets_are_walked_in_order() {
        let set: RuleSet = [1023, 5, 64, 63, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [5, 63, 64, 1023]);
        assert_eq!(set.first(), Some(5));
        assert_eq!(RuleSet::EMPTY.first(), None);
    }

    #[test]
    fn spans_of_prefixes_reach_to_both_ends() {
        let ends = |text: &str| match span(text.parse().unwrap()) {
            Span::V4(first, last) => (u128::from(first), u128::from(last)),
            Span::V6(first, last) => (first, last),
        };
        assert_eq!(ends("0.0.0.0/0"), (0, u128::from(u32::MAX)));
        assert_eq!(
            ends("255.255.255.255"),
            (u128::from(u32::MAX), u128::from(u32::MAX))
        );
        assert_eq!(ends("::/0"), (0, u128::MAX));
        assert_eq!(ends("::1"), (1, 1));
        assert_eq!(ends("10.0.0.0/8"), (0x0a00_0000, 0x0aff_ffff));
    }

    proptest! {
        #[test]
        fn ranges_say_the_same_as_a_search_through_all(
            listed in proptest::collection::vec((0usize..70, any::<u16>(), 0u16..3000), 0..60),
            edges in proptest::collection::vec(any::<u16>(), 20),
        ) {
            let listed: Listed<u16> = listed
                .into_iter()
                .map(|(rule, first, length)| (rule, first, first.saturating_add(length)))
                .collect();
            let ranges = Ranges::new(listed.clone());
            let near = listed.iter().flat_map(|(_, first, last)| {
                [first.wrapping_sub(1), *first, *last, last.wrapping_add(1)]
            });
            for value in near.chain(edges).chain([0, u16::MAX]) {
                let wanted: RuleSet = listed
                    .iter()
                    .filter(|(_, first, last)| (*first..=*last).contains(&value))
                    .map(|(rule, ..)| *rule)
                    .collect();
                prop_assert_eq!(ranges.get(value), &wanted, "{}", value);
            }
        }
    }
}
