//! The installed paths of one shard: found by listener and key for packets from peers, by slot for packets to
//! them.

use crate::ListenerId;
use crate::drops::ModuleIndex;
use crate::routes::{MAX_SLOTS, RouteError, Routes, Target};
use rustc_hash::FxHashMap;
use sluice_auth::Ipv6Prefix;
use sluice_spi::{
    AddressFilter, LocalRef, MachineKey, PathCodec, PathError, PathKey, PathRef, PathStats, PeerAddr, ShardId,
};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// What one path needs for every packet.
pub(crate) struct Path {
    pub peer: PeerAddr,
    /// Index of the socket that packets to the peer leave by.
    pub socket: usize,
    pub mtu: u16,
    pub listener: ListenerId,
    pub module: ModuleIndex,
    pub filter: AddressFilter,
    pub stats: PathStats,
    pub codec: Box<dyn PathCodec>,
    pub key: PathKey,
    pub machine: MachineKey,
    pub session: LocalRef,
    /// The codec holds packets, and the path is in the list of those.
    pub holds: bool,
    /// Copies of packets with frames are wanted.
    pub tapped: bool,
}

impl Path {
    /// Whether a packet's source belongs to the session.
    pub(crate) fn may_send_from(&self, source: IpAddr) -> bool {
        holds(&self.filter, source)
    }

    /// Whether a packet's destination belongs to the session.
    pub(crate) fn is_for(&self, destination: IpAddr) -> bool {
        holds(&self.filter, destination)
    }
}

fn holds(filter: &AddressFilter, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => filter.ipv4 == Some(address),
        IpAddr::V6(address) => filter.ipv6.is_some_and(|prefix| in_prefix(prefix, address)),
    }
}

fn in_prefix(prefix: Ipv6Prefix, address: Ipv6Addr) -> bool {
    let differing = u128::from(prefix.address()) ^ u128::from(address);
    differing.leading_zeros() >= u32::from(prefix.length())
}

/// Packets carry no flow label in the address that they are compared by.
pub(crate) fn normalised(peer: PeerAddr) -> PeerAddr {
    let clear = |address: SocketAddr| match address {
        SocketAddr::V6(mut address) => {
            address.set_flowinfo(0);
            SocketAddr::V6(address)
        }
        v4 => v4,
    };
    PeerAddr {
        remote: clear(peer.remote),
        local: clear(peer.local),
    }
}

struct Slot {
    generation: u32,
    path: Option<Path>,
}

/// The table.
pub(crate) struct Paths {
    shard: ShardId,
    capacity: usize,
    slots: Vec<Slot>,
    /// Freed slots, the one freed longest ago first.
    free: VecDeque<u32>,
    by_key: FxHashMap<u64, u32>,
    /// Bulk traffic comes in runs of one session.
    last: Option<(u64, u32)>,
    used: usize,
}

fn index_key(listener: ListenerId, key: PathKey) -> u64 {
    (u64::from(listener.0) << 32) | u64::from(key.0)
}

impl Paths {
    pub(crate) fn new(shard: ShardId, capacity: usize) -> Self {
        let capacity = capacity.min(MAX_SLOTS);
        Paths {
            shard,
            capacity,
            // Memory that is not touched is not used; so the table never has to be moved while it grows.
            slots: Vec::with_capacity(capacity),
            free: VecDeque::new(),
            by_key: FxHashMap::with_capacity_and_hasher(capacity, rustc_hash::FxBuildHasher),
            last: None,
            used: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    fn target(&self, slot: u32) -> Target {
        Target {
            shard: self.shard,
            slot,
        }
    }

    /// The slot of the path with a key.
    pub(crate) fn find(&mut self, listener: ListenerId, key: PathKey) -> Option<u32> {
        let key = index_key(listener, key);
        match self.last {
            Some((last, slot)) if last == key => Some(slot),
            _ => {
                let slot = *self.by_key.get(&key)?;
                self.last = Some((key, slot));
                Some(slot)
            }
        }
    }

    /// The path in a slot.
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut Path> {
        self.slots.get_mut(slot as usize)?.path.as_mut()
    }

    pub(crate) fn get(&self, path: PathRef) -> Option<&Path> {
        let slot = self.slots.get(path.slot as usize)?;
        slot.path.as_ref().filter(|_| slot.generation == path.generation)
    }

    pub(crate) fn get_mut(&mut self, path: PathRef) -> Option<&mut Path> {
        let slot = self.slots.get_mut(path.slot as usize)?;
        slot.path.as_mut().filter(|_| slot.generation == path.generation)
    }

    /// Puts a path into the table and claims its addresses.
    pub(crate) fn insert(&mut self, path: Path, routes: &Routes) -> Result<PathRef, PathError> {
        let key = index_key(path.listener, path.key);
        if self.by_key.contains_key(&key) {
            return Err(PathError::KeyTaken);
        }
        let slot = match self.free.front() {
            Some(&slot) => slot,
            None if self.slots.len() < self.capacity => self.slots.len() as u32,
            None => return Err(PathError::Full),
        };
        claim(routes, &path.filter, &AddressFilter::default(), self.target(slot))?;
        self.free.pop_front();
        if self.slots.len() <= slot as usize {
            self.slots.push(Slot {
                generation: 0,
                path: None,
            });
        }
        let place = self.slots.get_mut(slot as usize).ok_or(PathError::Full)?;
        place.generation = place.generation.wrapping_add(1);
        place.path = Some(path);
        self.by_key.insert(key, slot);
        self.used += 1;
        Ok(PathRef {
            slot,
            generation: place.generation,
        })
    }

    /// Takes a path out of the table and releases its addresses.
    pub(crate) fn remove(&mut self, path: PathRef, routes: &Routes) -> Option<Path> {
        self.get(path)?;
        let removed = self.slots.get_mut(path.slot as usize)?.path.take()?;
        self.by_key.remove(&index_key(removed.listener, removed.key));
        self.last = None;
        self.free.push_back(path.slot);
        self.used -= 1;
        release(
            routes,
            &removed.filter,
            &AddressFilter::default(),
            self.target(path.slot),
        );
        Some(removed)
    }

    /// Changes a path's addresses; on an error it keeps those it had.
    pub(crate) fn set_filter(
        &mut self,
        path: PathRef,
        filter: AddressFilter,
        routes: &Routes,
    ) -> Result<(), PathError> {
        let target = self.target(path.slot);
        let found = self.get_mut(path).ok_or(PathError::Unknown)?;
        claim(routes, &filter, &found.filter, target)?;
        release(routes, &found.filter, &filter, target);
        found.filter = filter;
        Ok(())
    }
}

/// Claims what is in `wanted` and not in `had`; all or nothing.
fn claim(
    routes: &Routes,
    wanted: &AddressFilter,
    had: &AddressFilter,
    target: Target,
) -> Result<(), PathError> {
    let error = |error, address: IpAddr| match error {
        RouteError::Taken => PathError::AddressTaken(address),
        RouteError::Full => PathError::Full,
    };
    let new_v4: Option<Ipv4Addr> = wanted.ipv4.filter(|_| wanted.ipv4 != had.ipv4);
    if let Some(address) = new_v4 {
        routes
            .claim_v4(address, target)
            .map_err(|refused| error(refused, address.into()))?;
    }
    if let Some(prefix) = wanted.ipv6.filter(|_| wanted.ipv6 != had.ipv6)
        && let Err(refused) = routes.claim_v6(prefix, target)
    {
        if let Some(address) = new_v4 {
            routes.release_v4(address, target);
        }
        return Err(error(refused, prefix.address().into()));
    }
    Ok(())
}

/// Releases what is in `had` and not in `kept`.
fn release(routes: &Routes, had: &AddressFilter, kept: &AddressFilter, target: Target) {
    if let Some(address) = had.ipv4.filter(|_| had.ipv4 != kept.ipv4) {
        routes.release_v4(address, target);
    }
    if let Some(prefix) = had.ipv6.filter(|_| had.ipv6 != kept.ipv6) {
        routes.release_v6(prefix, target);
    }
}

/// The paths whose codecs hold packets until others arrive. There are few at any time.
#[derive(Debug, Default)]
pub(crate) struct Held {
    slots: Vec<u32>,
    deadline: Option<Instant>,
}

impl Held {
    /// When the first wait of them is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Notes a path's new wait; `listed`: it is in the list already.
    pub(crate) fn note(&mut self, slot: u32, listed: bool, until: Instant) {
        if !listed {
            self.slots.push(slot);
        }
        self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
    }

    /// Takes the list, to be looked through and noted anew.
    pub(crate) fn take(&mut self) -> Vec<u32> {
        self.deadline = None;
        std::mem::take(&mut self.slots)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::drops::Drops;
    use bytes::BytesMut;
    use sluice_spi::{Descriptor, Opened, Payload, Released, Resumption, Transport};

    struct NoCodec;

    impl PathCodec for NoCodec {
        fn open(&mut self, _: &mut [u8], _: &PeerAddr, _: Instant) -> Opened {
            Opened::Consumed
        }
        fn release(&mut self, _: Instant) -> Option<Released> {
            None
        }
        fn held_until(&self) -> Option<Instant> {
            None
        }
        fn seal(&mut self, _: Payload<'_>, _: &mut BytesMut) -> bool {
            false
        }
        fn overhead(&self) -> usize {
            0
        }
        fn hot_state(&self) -> Vec<u8> {
            Vec::new()
        }
    }

    static NONE: Descriptor = Descriptor {
        name: "none",
        title: "None",
        transport: Transport::Udp,
        packets: None,
        default_port: 1,
        specifications: &[],
        resumption: Resumption::Checkpoint,
        drop_reasons: &[],
        counters: &[],
    };

    /// A path without a socket.
    pub(crate) fn path(key: u32, v4: Option<[u8; 4]>, v6: Option<&str>) -> Path {
        let address = ([192, 0, 2, 1], 1701).into();
        Path {
            peer: PeerAddr {
                remote: address,
                local: address,
            },
            socket: 0,
            mtu: 1400,
            listener: ListenerId(1),
            module: Drops::default().register(&NONE),
            filter: AddressFilter {
                ipv4: v4.map(Ipv4Addr::from),
                ipv6: v6.map(|text| text.parse().unwrap()),
            },
            stats: PathStats::default(),
            codec: Box::new(NoCodec),
            key: PathKey(key),
            machine: MachineKey(1),
            session: LocalRef(key),
            holds: false,
            tapped: false,
        }
    }

    #[test]
    fn a_stale_reference_misses() {
        let routes = Routes::new(8);
        let mut paths = Paths::new(ShardId(0), 1);
        let first = paths.insert(path(1, None, None), &routes).unwrap();
        assert!(matches!(
            paths.insert(path(2, None, None), &routes),
            Err(PathError::Full)
        ));
        assert!(paths.remove(first, &routes).is_some());
        let second = paths.insert(path(2, None, None), &routes).unwrap();
        assert_eq!(second.slot, first.slot);
        assert!(paths.get(first).is_none() && paths.remove(first, &routes).is_none());
        assert!(paths.get(second).is_some());
        assert_eq!(paths.find(ListenerId(1), PathKey(1)), None);
        assert_eq!(paths.find(ListenerId(1), PathKey(2)), Some(second.slot));
        assert_eq!(paths.find(ListenerId(2), PathKey(2)), None);
    }

    #[test]
    fn refused_addresses_leave_nothing_behind() {
        let routes = Routes::new(8);
        let mut paths = Paths::new(ShardId(0), 4);
        let prefix = "2001:db8::/64";
        let first = paths
            .insert(path(1, Some([10, 0, 0, 1]), Some(prefix)), &routes)
            .unwrap();
        assert!(matches!(
            paths.insert(path(1, None, None), &routes),
            Err(PathError::KeyTaken)
        ));
        assert!(matches!(
            paths.insert(path(2, Some([10, 0, 0, 2]), Some(prefix)), &routes),
            Err(PathError::AddressTaken(IpAddr::V6(_)))
        ));
        assert_eq!(routes.find(Ipv4Addr::new(10, 0, 0, 2).into()), None);
        let changed = AddressFilter {
            ipv4: Some(Ipv4Addr::new(10, 0, 0, 3)),
            ipv6: None,
        };
        paths.set_filter(first, changed, &routes).unwrap();
        assert_eq!(routes.find(Ipv4Addr::new(10, 0, 0, 1).into()), None);
        assert_eq!(routes.find("2001:db8::1".parse().unwrap()), None);
        assert!(routes.find(Ipv4Addr::new(10, 0, 0, 3).into()).is_some());
        assert!(paths.remove(first, &routes).is_some());
        assert_eq!(routes.find(Ipv4Addr::new(10, 0, 0, 3).into()), None);
        assert_eq!(paths.len(), 0);
    }

    #[test]
    fn prefixes_hold_their_addresses_only() {
        let prefix: Ipv6Prefix = "2001:db8:0:4::/62".parse().unwrap();
        for (address, inside) in [
            ("2001:db8:0:7:ffff::1", true),
            ("2001:db8:0:8::1", false),
            ("::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(in_prefix(prefix, address), inside);
            assert_eq!(prefix.contains(address), inside);
        }
    }
}
