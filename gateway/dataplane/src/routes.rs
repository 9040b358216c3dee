//! Which session an address belongs to, for all shards: written when paths come and go, read for every packet.
//!
//! Addresses of the configured pools are in flat arrays, one cell an address (IPv4) or a /64 (IPv6); all others,
//! such as a user's own static address or a /56, are in one open-addressed table. A reader takes no lock and
//! writes nothing; the table is guarded by a sequence count, so that a reader notices a change under its hands.
//! An answer may be stale by the time it is used: the owner of the slot compares the packet's destination with
//! the addresses of the path it finds there.

use sluice_auth::Ipv6Prefix;
use sluice_spi::ShardId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Most pool blocks of each family; further ones are served from the table.
pub const MAX_BLOCKS: usize = 64;
/// Most cells of one block (4 MiB); addresses of larger pools are served from the table.
pub const MAX_BLOCK_CELLS: u64 = 1 << 20;
/// Most slots of a shard's path table that a route can name.
pub const MAX_SLOTS: usize = 1 << 27;
/// Looks at a table that is being changed before a reader waits for the writer instead.
const READ_ATTEMPTS: usize = 64;
/// The mark of an IPv4 entry in the table, where IPv6 entries have their prefix length.
const IPV4: u8 = 255;

/// A path of some shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The shard that owns the path.
    pub shard: ShardId,
    /// Its slot there.
    pub slot: u32,
}

impl Target {
    const SLOT_BITS: u32 = MAX_SLOTS.trailing_zeros();

    /// As a cell's value; 0 means none.
    fn pack(self) -> u32 {
        let slot = self.slot & ((1 << Self::SLOT_BITS) - 1);
        ((u32::from(self.shard.0 & 15) << Self::SLOT_BITS) | slot) + 1
    }

    fn unpack(value: u32) -> Option<Target> {
        let value = value.checked_sub(1)?;
        Some(Target {
            shard: ShardId((value >> Self::SLOT_BITS) as u16),
            slot: value & ((1 << Self::SLOT_BITS) - 1),
        })
    }
}

/// One pool: `key - base` is the index of a cell.
struct Block {
    base: u64,
    cells: Box<[AtomicU32]>,
}

impl Block {
    fn cell(&self, key: u64) -> Option<&AtomicU32> {
        let index = usize::try_from(key.checked_sub(self.base)?).ok()?;
        self.cells.get(index)
    }
}

/// The pools of one family. Filled from the front, never emptied.
struct Blocks([OnceLock<Block>; MAX_BLOCKS]);

impl Blocks {
    fn cells(&self, key: u64) -> impl Iterator<Item = &AtomicU32> {
        let filled = self.0.iter().map_while(OnceLock::get);
        filled.filter_map(move |block| block.cell(key))
    }

    fn find(&self, key: u64) -> Option<Target> {
        self.cells(key)
            .find_map(|cell| Target::unpack(cell.load(Ordering::Relaxed)))
    }

    /// Adds a block; false where there is no room. Called with the writer's lock held.
    fn add(&self, base: u64, cells: u64) -> bool {
        let covered =
            |block: &Block| block.base <= base && base - block.base + cells <= block.cells.len() as u64;
        if self.0.iter().map_while(OnceLock::get).any(covered) {
            return true;
        }
        let Some(place) = self.0.iter().find(|place| place.get().is_none()) else {
            return false;
        };
        place
            .set(Block {
                base,
                cells: (0..cells).map(|_| AtomicU32::new(0)).collect(),
            })
            .is_ok()
    }
}

/// An address or prefix with the mark of its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    high: u64,
    low: u64,
    kind: u8,
}

impl Key {
    fn v4(address: Ipv4Addr) -> Key {
        Key {
            high: 0,
            low: u64::from(u32::from(address)),
            kind: IPV4,
        }
    }

    /// The first `length` bits of an address.
    fn v6(address: Ipv6Addr, length: u8) -> Key {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(length.min(128)))
            .unwrap_or(0);
        let bits = u128::from(address) & mask;
        Key {
            high: (bits >> 64) as u64,
            low: bits as u64,
            kind: length,
        }
    }

    fn hash(self) -> u64 {
        const K: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.high.rotate_left(23) ^ self.low ^ u64::from(self.kind)).wrapping_mul(K);
        mixed ^ (mixed >> 29)
    }
}

#[derive(Default)]
struct Entry {
    high: AtomicU64,
    low: AtomicU64,
    /// Kind of the key in the upper half and packed target in the lower; 0: empty.
    value: AtomicU64,
}

impl Entry {
    fn load(&self) -> Option<(Key, u32)> {
        let value = self.value.load(Ordering::Relaxed);
        if value == 0 {
            return None;
        }
        let key = Key {
            high: self.high.load(Ordering::Relaxed),
            low: self.low.load(Ordering::Relaxed),
            kind: (value >> 32) as u8,
        };
        Some((key, value as u32))
    }

    fn store(&self, entry: Option<(Key, u32)>) {
        let Some((key, target)) = entry else {
            self.value.store(0, Ordering::Relaxed);
            return;
        };
        self.high.store(key.high, Ordering::Relaxed);
        self.low.store(key.low, Ordering::Relaxed);
        let value = (u64::from(key.kind) << 32) | u64::from(target);
        self.value.store(value, Ordering::Relaxed);
    }
}

/// The table for all that is in no block. At most half of it is used, so that probes are short.
struct Exact {
    /// Odd while the table is being changed.
    version: AtomicU64,
    used: AtomicUsize,
    /// A power of two of them.
    entries: Box<[Entry]>,
}

impl Exact {
    fn new(capacity: usize) -> Exact {
        let size = capacity.max(1).saturating_mul(2).next_power_of_two();
        Exact {
            version: AtomicU64::new(0),
            used: AtomicUsize::new(0),
            entries: (0..size).map(|_| Entry::default()).collect(),
        }
    }

    /// Where a key is, or the empty place where it would be. `None` only if a reader sees a torn table.
    fn probe(&self, key: Key) -> Option<(usize, u32)> {
        let mask = self.entries.len() - 1;
        let start = key.hash() as usize & mask;
        for step in 0..self.entries.len() {
            let index = (start + step) & mask;
            match self.entries.get(index)?.load() {
                None => return Some((index, 0)),
                Some((found, target)) if found == key => return Some((index, target)),
                Some(_) => {}
            }
        }
        None
    }

    /// What a key leads to; `Err`: the table changed meanwhile.
    fn try_find(&self, key: Key) -> Result<Option<Target>, ()> {
        let before = self.version.load(Ordering::Acquire);
        if before & 1 != 0 {
            return Err(());
        }
        let found = self.probe(key);
        fence(Ordering::Acquire);
        if self.version.load(Ordering::Relaxed) != before {
            return Err(());
        }
        Ok(found.and_then(|(_, target)| Target::unpack(target)))
    }

    fn is_empty(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0
    }

    /// Lets readers notice what `change` does. Called with the writer's lock held.
    fn write(&self, change: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    fn insert(&self, key: Key, target: u32) -> Result<(), RouteError> {
        let used = self.used.load(Ordering::Relaxed);
        match self.probe(key) {
            Some((_, found)) if found != 0 => Err(RouteError::Taken),
            Some((index, _)) if used < self.entries.len() / 2 => {
                self.write(|| {
                    if let Some(entry) = self.entries.get(index) {
                        entry.store(Some((key, target)));
                    }
                });
                self.used.store(used + 1, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(RouteError::Full),
        }
    }

    fn remove(&self, key: Key, target: u32) -> bool {
        let Some((index, found)) = self.probe(key) else {
            return false;
        };
        if found != target {
            return false;
        }
        self.write(|| self.close_gap(index));
        let used = self.used.load(Ordering::Relaxed);
        self.used.store(used.saturating_sub(1), Ordering::Relaxed);
        true
    }

    /// Empties a place, and moves later entries back whose probe passes it, so that no probe ends early.
    fn close_gap(&self, mut gap: usize) {
        let mask = self.entries.len() - 1;
        let mut index = gap;
        loop {
            index = (index + 1) & mask;
            let Some(moved) = self.entries.get(index).and_then(Entry::load) else {
                break;
            };
            let home = moved.0.hash() as usize & mask;
            let distance = |from: usize, to: usize| to.wrapping_sub(from) & mask;
            if distance(home, index) >= distance(gap, index) {
                if let Some(entry) = self.entries.get(gap) {
                    entry.store(Some(moved));
                }
                gap = index;
            }
        }
        if let Some(entry) = self.entries.get(gap) {
            entry.store(None);
        }
    }
}

/// An address could not be given to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteError {
    /// Another path has it.
    Taken,
    /// The table is full.
    Full,
}

/// How many prefixes of each length are in the table.
struct Lengths([u32; 129]);

/// The routes of all shards.
pub struct Routes {
    v4: Blocks,
    v6: Blocks,
    exact: Exact,
    /// One bit for each IPv6 prefix length in the table.
    lengths: [AtomicU64; 3],
    writer: Mutex<Lengths>,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes")
            .field("outside_pools", &self.exact.used.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Routes {
    /// No routes yet, with room for `outside_pools` addresses and prefixes that are in no pool (24 octets each,
    /// twice).
    pub fn new(outside_pools: usize) -> Routes {
        Routes {
            v4: Blocks([const { OnceLock::new() }; MAX_BLOCKS]),
            v6: Blocks([const { OnceLock::new() }; MAX_BLOCKS]),
            exact: Exact::new(outside_pools),
            lengths: [const { AtomicU64::new(0) }; 3],
            writer: Mutex::new(Lengths([0; 129])),
        }
    }

    fn write(&self) -> MutexGuard<'_, Lengths> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a pool's addresses an array. May be called at any time, also again for the same pool. False: the
    /// pool is too large, or there are too many; its addresses work all the same, from the table.
    pub fn add_ipv4_pool(&self, addresses: RangeInclusive<Ipv4Addr>) -> bool {
        let first = u64::from(u32::from(*addresses.start()));
        let last = u64::from(u32::from(*addresses.end()));
        let Some(cells) = last.checked_sub(first).map(|span| span + 1) else {
            return false;
        };
        let _lock = self.write();
        cells <= MAX_BLOCK_CELLS && self.v4.add(first, cells)
    }

    /// Gives the /64 prefixes of a pool an array; see [`Routes::add_ipv4_pool`].
    pub fn add_ipv6_pool(&self, pool: Ipv6Prefix) -> bool {
        let Some(bits) = 64u8.checked_sub(pool.length()) else {
            return false;
        };
        let cells = 1u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
        let base = Key::v6(pool.address(), 64).high;
        let _lock = self.write();
        cells <= MAX_BLOCK_CELLS && self.v6.add(base, cells)
    }

    /// The path that an address belongs to.
    pub fn find(&self, address: IpAddr) -> Option<Target> {
        match address {
            IpAddr::V4(address) => self.find_v4(address),
            IpAddr::V6(address) => self.find_v6(address),
        }
    }

    /// The path that an IPv4 address belongs to.
    pub(crate) fn find_v4(&self, address: Ipv4Addr) -> Option<Target> {
        let in_pool = self.v4.find(u64::from(u32::from(address)));
        in_pool.or_else(|| self.find_exact(Key::v4(address)))
    }

    /// The path whose prefix holds an IPv6 address; of several, the longest.
    pub(crate) fn find_v6(&self, address: Ipv6Addr) -> Option<Target> {
        self.find_prefix(address, 65..=128)
            .or_else(|| self.v6.find(Key::v6(address, 64).high))
            .or_else(|| self.find_prefix(address, 0..=64))
    }

    fn find_prefix(&self, address: Ipv6Addr, lengths: RangeInclusive<u8>) -> Option<Target> {
        if self.exact.is_empty() {
            return None;
        }
        for (word, bits) in self.lengths.iter().enumerate().rev() {
            let mut bits = bits.load(Ordering::Relaxed);
            while bits != 0 {
                let top = 63 - bits.leading_zeros();
                bits &= !(1 << top);
                let length = (word as u32 * 64 + top) as u8;
                if !lengths.contains(&length) {
                    continue;
                }
                if let Some(target) = self.find_exact(Key::v6(address, length)) {
                    return Some(target);
                }
            }
        }
        None
    }

    fn find_exact(&self, key: Key) -> Option<Target> {
        if self.exact.is_empty() {
            return None;
        }
        for _ in 0..READ_ATTEMPTS {
            if let Ok(found) = self.exact.try_find(key) {
                return found;
            }
            std::hint::spin_loop();
        }
        let _lock = self.write();
        self.exact
            .probe(key)
            .and_then(|(_, target)| Target::unpack(target))
    }

    /// Gives an IPv4 address to a path.
    pub(crate) fn claim_v4(&self, address: Ipv4Addr, target: Target) -> Result<(), RouteError> {
        let _lock = self.write();
        let key = Key::v4(address);
        self.claim(&self.v4, Some(key.low), key, target)
    }

    /// Gives an IPv6 prefix to a path.
    pub(crate) fn claim_v6(&self, prefix: Ipv6Prefix, target: Target) -> Result<(), RouteError> {
        let mut lengths = self.write();
        let key = Key::v6(prefix.address(), prefix.length());
        let in_pools = (prefix.length() == 64).then_some(key.high);
        self.claim(&self.v6, in_pools, key, target)?;
        if self.exact.probe(key).is_some_and(|(_, found)| found != 0) {
            self.count_length(&mut lengths, prefix.length(), true);
        }
        Ok(())
    }

    fn claim(
        &self,
        blocks: &Blocks,
        in_pools: Option<u64>,
        key: Key,
        target: Target,
    ) -> Result<(), RouteError> {
        let taken_in_pool = in_pools.and_then(|index| blocks.find(index));
        let taken = self.exact.probe(key).is_some_and(|(_, found)| found != 0);
        if taken || taken_in_pool.is_some() {
            return Err(RouteError::Taken);
        }
        match in_pools.and_then(|index| blocks.cells(index).next()) {
            Some(cell) => {
                cell.store(target.pack(), Ordering::Relaxed);
                Ok(())
            }
            None => self.exact.insert(key, target.pack()),
        }
    }

    /// Takes an IPv4 address from a path; nothing happens where the path does not have it.
    pub(crate) fn release_v4(&self, address: Ipv4Addr, target: Target) {
        let _lock = self.write();
        let key = Key::v4(address);
        self.release(&self.v4, Some(key.low), key, target);
    }

    /// Takes an IPv6 prefix from a path; nothing happens where the path does not have it.
    pub(crate) fn release_v6(&self, prefix: Ipv6Prefix, target: Target) {
        let mut lengths = self.write();
        let key = Key::v6(prefix.address(), prefix.length());
        let in_pools = (prefix.length() == 64).then_some(key.high);
        if self.release(&self.v6, in_pools, key, target) {
            self.count_length(&mut lengths, prefix.length(), false);
        }
    }

    /// Whether it was in the table.
    fn release(&self, blocks: &Blocks, in_pools: Option<u64>, key: Key, target: Target) -> bool {
        let packed = target.pack();
        for cell in in_pools.into_iter().flat_map(|index| blocks.cells(index)) {
            if cell.load(Ordering::Relaxed) == packed {
                cell.store(0, Ordering::Relaxed);
            }
        }
        self.exact.remove(key, packed)
    }

    fn count_length(&self, Lengths(counts): &mut Lengths, length: u8, added: bool) {
        let Some(count) = counts.get_mut(usize::from(length)) else {
            return;
        };
        *count = if added {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        if let Some(word) = self.lengths.get(usize::from(length / 64)) {
            let bit = 1 << (length % 64);
            let bits = word.load(Ordering::Relaxed);
            let bits = if *count > 0 { bits | bit } else { bits & !bit };
            word.store(bits, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn target(slot: u32) -> Target {
        Target {
            shard: ShardId((slot % 16) as u16),
            slot,
        }
    }

    #[test]
    fn targets_survive_packing() {
        for slot in [0, 1, 15, 70_000, MAX_SLOTS as u32 - 1] {
            for shard in 0..16 {
                let target = Target {
                    shard: ShardId(shard),
                    slot,
                };
                assert_eq!(Target::unpack(target.pack()), Some(target));
            }
        }
        assert_eq!(Target::unpack(0), None);
    }

    #[test]
    fn serves_pools_and_others_and_refuses_what_is_taken() {
        let routes = Routes::new(4);
        let in_pool = Ipv4Addr::new(10, 0, 0, 9);
        let outside = Ipv4Addr::new(192, 0, 2, 1);
        assert!(routes.add_ipv4_pool(Ipv4Addr::new(10, 0, 0, 0)..=Ipv4Addr::new(10, 0, 0, 255)));
        for (slot, address) in [(3, in_pool), (4, outside)] {
            assert_eq!(routes.find(address.into()), None);
            routes.claim_v4(address, target(slot)).unwrap();
            assert_eq!(routes.find(address.into()), Some(target(slot)));
            assert_eq!(routes.claim_v4(address, target(9)), Err(RouteError::Taken));
            routes.release_v4(address, target(9));
            assert_eq!(routes.find(address.into()), Some(target(slot)));
            routes.release_v4(address, target(slot));
            assert_eq!(routes.find(address.into()), None);
        }
    }

    #[test]
    fn a_pool_added_later_keeps_the_addresses_in_use() {
        let routes = Routes::new(4);
        let address = Ipv4Addr::new(10, 0, 0, 9);
        routes.claim_v4(address, target(1)).unwrap();
        assert!(routes.add_ipv4_pool(address..=address));
        assert_eq!(routes.find(address.into()), Some(target(1)));
        assert_eq!(routes.claim_v4(address, target(2)), Err(RouteError::Taken));
        routes.release_v4(address, target(1));
        assert_eq!(routes.find(address.into()), None);
        routes.claim_v4(address, target(2)).unwrap();
        assert_eq!(routes.find(address.into()), Some(target(2)));
    }

    #[test]
    fn the_longest_prefix_wins() {
        let routes = Routes::new(16);
        routes.add_ipv6_pool("2001:db8::/48".parse().unwrap());
        let prefixes = ["2001:db8::/40", "2001:db8:0:1::/64", "2001:db8:0:1::5/128"];
        for (slot, prefix) in prefixes.iter().enumerate() {
            routes
                .claim_v6(prefix.parse().unwrap(), target(slot as u32))
                .unwrap();
        }
        let find = |text: &str| routes.find(text.parse().unwrap()).map(|found| found.slot);
        assert_eq!(find("2001:db8:0:1::5"), Some(2));
        assert_eq!(find("2001:db8:0:1::6"), Some(1));
        assert_eq!(find("2001:db8:0:2::6"), Some(0));
        assert_eq!(find("2001:db9::1"), None);
        routes.release_v6("2001:db8:0:1::5/128".parse().unwrap(), target(2));
        assert_eq!(find("2001:db8:0:1::5"), Some(1));
        routes.release_v6("2001:db8::/40".parse().unwrap(), target(0));
        assert_eq!(find("2001:db8:0:2::6"), None);
    }

    #[test]
    fn a_full_table_says_so() {
        let routes = Routes::new(1);
        routes.claim_v4(Ipv4Addr::new(192, 0, 2, 1), target(1)).unwrap();
        assert_eq!(
            routes.claim_v4(Ipv4Addr::new(192, 0, 2, 2), target(2)),
            Err(RouteError::Full)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_table_behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0u8..40), 1..300)) {
            let routes = Routes::new(32);
            let mut model: BTreeMap<u8, u32> = BTreeMap::new();
            for (index, (add, host)) in steps.into_iter().enumerate() {
                let address = Ipv4Addr::new(192, 0, 2, host);
                let slot = index as u32;
                if add {
                    let expected = if model.contains_key(&host) {
                        Err(RouteError::Taken)
                    } else if model.len() == 32 {
                        Err(RouteError::Full)
                    } else {
                        model.insert(host, slot);
                        Ok(())
                    };
                    prop_assert_eq!(routes.claim_v4(address, target(slot)), expected);
                } else if let Some(slot) = model.remove(&host) {
                    routes.release_v4(address, target(slot));
                }
                for host in 0..40 {
                    let found = routes.find(Ipv4Addr::new(192, 0, 2, host).into());
                    prop_assert_eq!(found, model.get(&host).map(|&slot| target(slot)));
                }
            }
        }
    }

    #[test]
    fn readers_always_see_what_stays() {
        let routes = Arc::new(Routes::new(64));
        let fixed: Vec<Ipv4Addr> = (0..30).map(|host| Ipv4Addr::new(198, 51, 100, host)).collect();
        for (slot, &address) in fixed.iter().enumerate() {
            routes.claim_v4(address, target(slot as u32)).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (routes, fixed, stop) = (routes.clone(), fixed.clone(), stop.clone());
            move || {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) || rounds == 0 {
                    for (slot, &address) in fixed.iter().enumerate() {
                        assert_eq!(routes.find(address.into()), Some(target(slot as u32)));
                    }
                    rounds += 1;
                }
            }
        });
        for round in 0..20_000u32 {
            let address = Ipv4Addr::new(203, 0, 113, (round % 30) as u8);
            routes.claim_v4(address, target(round)).unwrap();
            routes.release_v4(address, target(round));
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    }
}
