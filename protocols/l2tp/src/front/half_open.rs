//! Peers that asked for a tunnel and have not proven yet that they receive our answer: small records in bounded
//! tables, with shares for sources and prefixes and random eviction.

use crate::config::{Limits, PeerIndex};
use sluice_spi::PeerAddr;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// Octets of a Host Name kept until the tunnel is established.
const NAME: usize = 32;
/// Octets of a Vendor Name kept until the tunnel is established.
const VENDOR: usize = 16;

/// A socket address in 24 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    address: [u8; 16],
    scope: u32,
    port: u16,
    v6: bool,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let (octets, scope, v6) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped().octets(), 0, false),
            SocketAddr::V6(v6) => (v6.ip().octets(), v6.scope_id(), true),
        };
        Self {
            address: octets,
            scope,
            port: address.port(),
            v6,
        }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        let v6 = Ipv6Addr::from(endpoint.address);
        if endpoint.v6 {
            return SocketAddrV6::new(v6, endpoint.port, 0, endpoint.scope).into();
        }
        let v4 = v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
        SocketAddr::new(v4.into(), endpoint.port)
    }
}

/// A string cut to what the record has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Short<const N: usize> {
    octets: [u8; N],
    length: u8,
}

impl<const N: usize> Short<N> {
    fn new(text: &[u8]) -> Self {
        let mut octets = [0; N];
        let kept = text.len().min(N);
        octets[..kept].copy_from_slice(&text[..kept]);
        Self {
            octets,
            length: u8::try_from(kept).unwrap_or(u8::MAX),
        }
    }

    fn get(&self) -> &[u8] {
        self.octets
            .get(..usize::from(self.length))
            .unwrap_or(&self.octets)
    }
}

/// What is kept of a peer until its SCCCN.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfOpen {
    /// The peer.
    pub(super) remote: Endpoint,
    /// Our address that it wrote to.
    pub(super) local: Endpoint,
    /// Milliseconds since the table's epoch at which the record goes.
    expires: u32,
    /// The id we assigned.
    pub(super) tunnel: u16,
    /// The id the peer assigned.
    pub(super) peer_tunnel: u16,
    /// The rule for the peer.
    pub(super) rule: PeerIndex,
    /// The peer's receive window.
    pub(super) window: u16,
    /// The peer's firmware revision; 0: it said none.
    pub(super) firmware: u16,
    /// The peer's framing capabilities.
    pub(super) framing: u8,
    /// The peer's bearer capabilities, with [`HalfOpen::HAS_BEARER`] where it named any.
    pub(super) bearer: u8,
    /// The peer failed: every further message of it is refused.
    pub(super) refused: bool,
    host_name: Short<NAME>,
    vendor: Short<VENDOR>,
}

impl HalfOpen {
    /// Bit of `bearer`: the peer sent the AVP.
    pub(super) const HAS_BEARER: u8 = 0x80;

    /// The record of a request.
    pub(super) fn new(
        from: &PeerAddr,
        tunnel: u16,
        rule: PeerIndex,
        start: &crate::wire::message::Start,
    ) -> Self {
        let low = |mask: u32| u8::try_from(mask & 3).unwrap_or_default();
        Self {
            remote: from.remote.into(),
            local: from.local.into(),
            expires: 0,
            tunnel,
            peer_tunnel: start.tunnel_id,
            rule,
            window: start.window.unwrap_or(crate::wire::message::DEFAULT_WINDOW),
            firmware: start.firmware.unwrap_or_default(),
            framing: low(start.framing),
            bearer: start.bearer.map_or(0, |mask| low(mask) | Self::HAS_BEARER),
            refused: false,
            host_name: Short::new(&start.host_name),
            vendor: Short::new(start.vendor.as_deref().unwrap_or_default()),
        }
    }

    /// The peer's Host Name, at most 32 octets of it.
    pub(super) fn host_name(&self) -> &[u8] {
        self.host_name.get()
    }

    /// The peer's Vendor Name, at most 16 octets of it.
    pub(super) fn vendor(&self) -> &[u8] {
        self.vendor.get()
    }

    /// Both ends.
    pub(super) fn peer(&self) -> PeerAddr {
        PeerAddr {
            remote: self.remote.into(),
            local: self.local.into(),
        }
    }
}

/// Whether the share of a source is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is room.
    Free,
    /// Its address or prefix has as many records as it may have.
    Share,
    /// The table of peers with a rule is full; it is never evicted from.
    Full,
}

/// The records of one shard. Those of peers with a rule have a table of their own, so that a flood from others
/// cannot push them out.
#[derive(Debug, Default)]
pub(super) struct HalfOpenTable {
    tables: [Vec<HalfOpen>; 2],
    places: HashMap<u16, (usize, usize)>,
    by_peer: HashMap<(Endpoint, u16), u16>,
    sources: HashMap<[u8; 16], usize>,
    prefixes: HashMap<[u8; 16], usize>,
    order: VecDeque<(u32, u16)>,
    /// When the table was last empty; expiry times count from there.
    epoch: Option<Instant>,
}

/// The prefix that shares are counted by: /24 of IPv4, /56 of IPv6.
fn prefix(endpoint: &Endpoint) -> [u8; 16] {
    let mut address = endpoint.address;
    let kept = if endpoint.v6 { 7 } else { 15 };
    address.iter_mut().skip(kept).for_each(|octet| *octet = 0);
    address
}

fn count_down(counts: &mut HashMap<[u8; 16], usize>, key: [u8; 16]) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl HalfOpenTable {
    /// Number of records.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The record of one of our ids.
    pub(super) fn get(&self, tunnel: u16) -> Option<&HalfOpen> {
        let &(table, place) = self.places.get(&tunnel)?;
        self.tables.get(table)?.get(place)
    }

    /// Marks a peer as refused.
    pub(super) fn refuse(&mut self, tunnel: u16) {
        if let Some(&(table, place)) = self.places.get(&tunnel)
            && let Some(record) = self.tables.get_mut(table).and_then(|table| table.get_mut(place))
        {
            record.refused = true;
        }
    }

    /// Our id for a peer's id.
    pub(super) fn find(&self, remote: SocketAddr, peer_tunnel: u16) -> Option<u16> {
        self.by_peer.get(&(remote.into(), peer_tunnel)).copied()
    }

    /// Whether a peer may have one record more.
    pub(super) fn room(&self, remote: SocketAddr, known: bool, limits: &Limits) -> Room {
        let remote = Endpoint::from(remote);
        let used = |counts: &HashMap<_, usize>, key| counts.get(&key).copied().unwrap_or_default();
        if used(&self.sources, remote.address) >= limits.half_open_per_source
            || used(&self.prefixes, prefix(&remote)) >= limits.half_open_per_prefix
        {
            return Room::Share;
        }
        let [_, known_table] = &self.tables;
        if known && known_table.len() >= limits.known_half_open {
            return Room::Full;
        }
        Room::Free
    }

    /// Adds a record that lives for `life`. Where the table of peers without a rule is full, `random` chooses
    /// the one that goes; its id is returned.
    pub(super) fn insert(
        &mut self,
        mut record: HalfOpen,
        known: bool,
        limits: &Limits,
        random: u32,
        life: Duration,
        now: Instant,
    ) -> Option<u16> {
        let [unknown_table, _] = &self.tables;
        let evicted = if !known && unknown_table.len() >= limits.half_open {
            let place = random as usize % unknown_table.len().max(1);
            unknown_table.get(place).map(|record| record.tunnel)
        } else {
            None
        };
        if let Some(evicted) = evicted {
            self.remove(evicted);
        }
        if self.places.is_empty() && self.order.is_empty() {
            self.epoch = Some(now);
        }
        record.expires = self.millis(now + life);
        let table = usize::from(known);
        if let Some(records) = self.tables.get_mut(table) {
            self.places.insert(record.tunnel, (table, records.len()));
            records.push(record);
        }
        self.by_peer
            .insert((record.remote, record.peer_tunnel), record.tunnel);
        *self.sources.entry(record.remote.address).or_default() += 1;
        *self.prefixes.entry(prefix(&record.remote)).or_default() += 1;
        self.order.push_back((record.expires, record.tunnel));
        if self.order.len() > 64 + 4 * self.places.len() {
            let places = &self.places;
            self.order.retain(|(_, tunnel)| places.contains_key(tunnel));
        }
        evicted
    }

    /// Removes and gives a record.
    pub(super) fn remove(&mut self, tunnel: u16) -> Option<HalfOpen> {
        let (table, place) = self.places.remove(&tunnel)?;
        let records = self.tables.get_mut(table)?;
        if place >= records.len() {
            return None;
        }
        let record = records.swap_remove(place);
        if let Some(moved) = records.get(place) {
            self.places.insert(moved.tunnel, (table, place));
        }
        self.by_peer.remove(&(record.remote, record.peer_tunnel));
        count_down(&mut self.sources, record.remote.address);
        count_down(&mut self.prefixes, prefix(&record.remote));
        Some(record)
    }

    /// Takes one record whose time is over, and gives its id.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u16> {
        let now = self.millis(now);
        while let Some(&(expires, tunnel)) = self.order.front() {
            if expires > now {
                return None;
            }
            self.order.pop_front();
            // The id may have been given to a later record meanwhile.
            if self.get(tunnel).is_some_and(|record| record.expires == expires) {
                self.remove(tunnel);
                return Some(tunnel);
            }
        }
        None
    }

    /// When the next record's time is over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let &(expires, _) = self.order.front()?;
        Some(self.epoch? + Duration::from_millis(u64::from(expires)))
    }

    /// Milliseconds from the epoch. They last for 49 days from the last time the table was empty.
    fn millis(&self, at: Instant) -> u32 {
        let passed = self
            .epoch
            .map_or(Duration::ZERO, |epoch| at.saturating_duration_since(epoch));
        u32::try_from(passed.as_millis()).unwrap_or(u32::MAX)
    }

    /// The address that shares and rates are counted by.
    pub(super) fn source(remote: SocketAddr) -> IpAddr {
        remote.ip().to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r20_a_record_takes_128_bytes_at_most() {
        assert!(size_of::<HalfOpen>() <= 128, "{}", size_of::<HalfOpen>());
    }

    #[test]
    fn endpoints_keep_addresses() {
        for text in [
            "192.0.2.1:1701",
            "[2001:db8::1]:65535",
            "[fe80::1%3]:9",
            "[::ffff:192.0.2.1]:7",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Endpoint::from(address)), address, "{text}");
        }
    }
}
