//! Addresses of sessions: pools, static addresses, last addresses kept for their users.

mod family;
#[cfg(test)]
mod tests;

use crate::SessionId;
use crate::blocks::{Family, Span};
use crate::model::Address;
use crate::pools::PoolConfig;
use crate::query::{Lease, LeaseQuery, LeaseStatus, Page, PoolStatus, page_size};
use crate::time::from_millis;
use family::{FamilyLeases, Held};
pub(crate) use family::{NoAddress, StickyChange, StickyKey};
use sluice_auth::Ipv6Prefix;
use std::net::IpAddr;
use std::time::UNIX_EPOCH;

/// Leases looked at for one page: what is between two pages of a filtered list, so that no shard waits long for
/// the lock.
const MAX_SCAN: usize = 10_000;

pub(crate) struct Leases {
    pools: Vec<PoolConfig>,
    ipv4: FamilyLeases,
    ipv6: FamilyLeases,
}

/// For whom an address is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct For<'a> {
    pub(crate) user: &'a str,
    pub(crate) session: SessionId,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

impl Leases {
    pub(crate) fn new(pools: &[PoolConfig], most_kept: usize) -> Self {
        let mut leases = Self {
            pools: Vec::new(),
            ipv4: FamilyLeases::new(Family::V4, most_kept),
            ipv6: FamilyLeases::new(Family::V6, most_kept),
        };
        leases.configure(pools, most_kept);
        leases
    }

    pub(crate) fn configure(&mut self, pools: &[PoolConfig], most_kept: usize) {
        let gateways = pools.iter().filter_map(PoolConfig::gateway);
        let gateways = gateways.map(|gateway| Span::of(Address::V4(gateway))).collect();
        self.pools = pools.to_vec();
        self.ipv4.configure(pools, gateways, most_kept);
        self.ipv6.configure(pools, Vec::new(), most_kept);
    }

    pub(crate) fn set_statics(&mut self, addresses: &[Address]) {
        let of = |v4: bool| {
            let wanted = move |address: &&Address| matches!(address, Address::V4(_)) == v4;
            addresses.iter().filter(wanted).copied()
        };
        self.ipv4.set_statics(of(true));
        self.ipv6.set_statics(of(false));
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    fn family_of(&mut self, address: Address) -> &mut FamilyLeases {
        match address {
            Address::V4(_) => &mut self.ipv4,
            Address::V6(_) => &mut self.ipv6,
        }
    }

    pub(crate) fn allocate(
        &mut self,
        family: Family,
        pool: &str,
        wanted: For<'_>,
        random: u64,
    ) -> Result<Address, NoAddress> {
        let For { user, session, now } = wanted;
        let family = match family {
            Family::V4 => &mut self.ipv4,
            Family::V6 => &mut self.ipv6,
        };
        family.allocate(pool, user, session, now, random)
    }

    pub(crate) fn take(&mut self, address: Address, wanted: For<'_>) -> Result<(), NoAddress> {
        let For { user, session, now } = wanted;
        self.family_of(address).take(address, user, session, now)
    }

    /// Gives a restored session what it had.
    pub(crate) fn retake(
        &mut self,
        address: Address,
        pool: Option<&str>,
        wanted: For<'_>,
    ) -> Result<(), NoAddress> {
        let For { user, session, now } = wanted;
        self.family_of(address).retake(address, pool, user, session, now)
    }

    pub(crate) fn release(&mut self, address: Address, session: SessionId, now: u64) -> bool {
        self.family_of(address).release(address, session, now)
    }

    /// Undoes [`Leases::retake`], as if it had never been.
    pub(crate) fn untake(&mut self, address: Address, session: SessionId) {
        self.family_of(address).untake(address, session);
    }

    /// A last address from the journal; false where it cannot be kept (any more).
    pub(crate) fn restore_kept(&mut self, key: StickyKey, address: Address, until: u64) -> bool {
        self.family_of(address).keep(key, address, until)
    }

    /// The changes to records of last addresses since this was last asked.
    pub(crate) fn take_changes(&mut self) -> Vec<StickyChange> {
        let mut changes = std::mem::take(&mut self.ipv4.changes);
        changes.append(&mut self.ipv6.changes);
        changes
    }

    /// Up to `most` last addresses of a family that are kept for their users, after a cursor, with until when.
    pub(crate) fn kept(
        &self,
        family: Family,
        after: Option<Address>,
        most: usize,
    ) -> Vec<(Address, StickyKey, u64)> {
        let family = match family {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        };
        let kept = family.kept_from(after).take(most);
        kept.map(|(address, key, until)| (address, key.clone(), until))
            .collect()
    }

    /// The session that holds an address.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<SessionId> {
        let held = match address {
            IpAddr::V4(address) => self.ipv4.holder(Span::of(Address::V4(address))),
            IpAddr::V6(address) => {
                let start = u128::from(address);
                self.ipv6.holder(Span { start, end: start })
            }
        };
        held.map(|held| held.session)
    }

    /// The user whose session holds any part of an address.
    pub(crate) fn user_of(&self, address: Address) -> Option<&str> {
        let family = match address {
            Address::V4(_) => &self.ipv4,
            Address::V6(_) => &self.ipv6,
        };
        family.holder(Span::of(address)).map(|held| held.user.as_str())
    }

    /// Whether an address is kept for somebody.
    pub(crate) fn is_kept(&self, address: Address) -> bool {
        match address {
            Address::V4(_) => self.ipv4.is_kept(address),
            Address::V6(_) => self.ipv6.is_kept(address),
        }
    }

    /// The pool whose blocks an address lies in.
    pub(crate) fn pool_around(&self, address: Address) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| match address {
            Address::V4(address) => pool.ipv4.iter().any(|block| block.contains(address)),
            Address::V6(prefix) => {
                let inside = |block: &&Ipv6Prefix| block.length() <= prefix.length();
                let mut blocks = pool.ipv6.iter().filter(inside);
                blocks.any(|block| block.contains(prefix.address()))
            }
        })
    }

    pub(crate) fn orphans(&self) -> impl Iterator<Item = (Address, SessionId)> {
        let both = self.ipv4.orphans().chain(self.ipv6.orphans());
        both.map(|held| (held.address, held.session))
    }

    pub(crate) fn status(&self) -> Vec<PoolStatus> {
        let status = |pool: &PoolConfig| PoolStatus {
            name: pool.name.clone(),
            ipv4_gateway: pool.gateway(),
            ipv4: self.ipv4.usage(&pool.name),
            ipv6: self.ipv6.usage(&pool.name),
        };
        self.pools.iter().map(status).collect()
    }

    pub(crate) fn page(&self, query: &LeaseQuery) -> Page<Lease, Address> {
        let limit = page_size(query.limit);
        let mut page = Page {
            items: Vec::new(),
            next: None,
        };
        for (scanned, lease) in self.merged(query.after).enumerate() {
            if page.items.len() >= limit || scanned >= MAX_SCAN {
                return page;
            }
            page.next = Some(lease.address());
            if lease.matches(query) {
                page.items.push(lease.shown());
            }
        }
        page.next = None;
        page
    }

    /// Held and kept addresses of both families after a cursor, in order.
    fn merged(&self, after: Option<Address>) -> impl Iterator<Item = Entry<'_>> {
        let is_v6 = matches!(after, Some(Address::V6(_)));
        let ipv4 = (!is_v6).then(|| merge(&self.ipv4, after));
        let ipv6 = merge(&self.ipv6, after.filter(|_| is_v6));
        ipv4.into_iter().flatten().chain(ipv6)
    }
}

fn merge(family: &FamilyLeases, after: Option<Address>) -> impl Iterator<Item = Entry<'_>> {
    let mut held = family
        .held_from(after.map(|after| Span::of(after).start))
        .peekable();
    let mut kept = family.kept_from(after).peekable();
    std::iter::from_fn(move || {
        let held_first = match (held.peek(), kept.peek()) {
            (Some(held), Some((address, _, _))) => held.address <= *address,
            (held, _) => held.is_some(),
        };
        if held_first {
            held.next().map(Entry::Held)
        } else {
            kept.next()
                .map(|(address, key, until)| Entry::Kept(address, key, until))
        }
    })
}

enum Entry<'a> {
    Held(&'a Held),
    Kept(Address, &'a StickyKey, u64),
}

impl Entry<'_> {
    fn address(&self) -> Address {
        match self {
            Entry::Held(held) => held.address,
            Entry::Kept(address, _, _) => *address,
        }
    }

    fn matches(&self, query: &LeaseQuery) -> bool {
        let (user, pool) = match self {
            Entry::Held(held) => (&held.user, held.pool.as_ref()),
            Entry::Kept(_, (user, pool), _) => (user, Some(pool)),
        };
        query.user.as_ref().is_none_or(|wanted| wanted == user)
            && query.pool.as_ref().is_none_or(|wanted| pool == Some(wanted))
    }

    fn shown(&self) -> Lease {
        let time = |millis| from_millis(millis).unwrap_or(UNIX_EPOCH);
        match self {
            Entry::Held(held) => Lease {
                address: held.address,
                pool: held.pool.clone(),
                user: held.user.clone(),
                status: LeaseStatus::Held {
                    session: held.session,
                    since: time(held.since),
                },
            },
            Entry::Kept(address, (user, pool), until) => Lease {
                address: *address,
                pool: Some(pool.clone()),
                user: user.clone(),
                status: LeaseStatus::Kept { until: time(*until) },
            },
        }
    }
}
