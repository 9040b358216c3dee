//! Who holds which address of one family. The one rule: what a session holds is held by no other, whatever pool,
//! profile or record it came from.

use crate::SessionId;
use crate::blocks::{Family, Space, Span};
use crate::model::Address;
use crate::pools::{Allocation, PoolConfig};
use crate::query::PoolUse;
use std::collections::{BTreeMap, BTreeSet};

/// Why no address was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAddress {
    /// No pool of the family has that name.
    NoPool,
    /// Nothing is left in the pool.
    Exhausted {
        /// Whether this is the first time since something was left.
        news: bool,
    },
    /// The static address is somebody else's now, or our own.
    Taken,
}

/// An address held by a session.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) address: Address,
    pub(crate) session: SessionId,
    pub(crate) user: String,
    /// `None`: a static address.
    pub(crate) pool: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) since: u64,
}

/// User and pool: whose last address.
pub(crate) type StickyKey = (String, String);

/// A change to the record of somebody's last address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StickyChange {
    Put {
        key: StickyKey,
        address: Address,
        until: u64,
    },
    Delete {
        key: StickyKey,
        family: Family,
    },
}

struct PoolSpace {
    space: Space,
    allocation: Allocation,
    sticky: u64,
    hold_down: u64,
    next: u32,
    held: u64,
    kept: BTreeSet<(u64, Address)>,
    exhausted: u64,
    /// The last request found nothing.
    told: bool,
}

pub(crate) struct FamilyLeases {
    family: Family,
    pools: BTreeMap<String, PoolSpace>,
    held: BTreeMap<u128, Held>,
    kept: BTreeMap<StickyKey, (Address, u64)>,
    kept_by_address: BTreeMap<Address, StickyKey>,
    kept_until: BTreeSet<(u64, Address)>,
    most_kept: usize,
    /// Until when nobody but the user gets an address.
    resting: BTreeMap<Address, (u64, String)>,
    resting_until: BTreeSet<(u64, Address)>,
    /// Users' static addresses: sorted, not touching each other.
    statics: Vec<Span>,
    gateways: Vec<Span>,
    pub(crate) changes: Vec<StickyChange>,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl FamilyLeases {
    pub(crate) fn new(family: Family, most_kept: usize) -> Self {
        Self {
            family,
            pools: BTreeMap::new(),
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_by_address: BTreeMap::new(),
            kept_until: BTreeSet::new(),
            most_kept,
            resting: BTreeMap::new(),
            resting_until: BTreeSet::new(),
            statics: Vec::new(),
            gateways: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Sets the pools. Whoever holds an address keeps it.
    pub(crate) fn configure(&mut self, pools: &[PoolConfig], gateways: Vec<Span>, most_kept: usize) {
        self.gateways = gateways;
        self.most_kept = most_kept;
        let mut former = std::mem::take(&mut self.pools);
        for pool in pools {
            let space = match self.family {
                Family::V4 => Space::ipv4(&pool.ipv4),
                Family::V6 => Space::ipv6(&pool.ipv6),
            };
            if space.size() == 0 {
                continue;
            }
            let former = former.remove(&pool.name);
            let entry = PoolSpace {
                space,
                allocation: pool.allocation,
                sticky: millis(pool.sticky),
                hold_down: millis(pool.hold_down),
                next: former.as_ref().map_or(0, |former| former.next),
                held: 0,
                kept: BTreeSet::new(),
                exhausted: former.as_ref().map_or(0, |former| former.exhausted),
                told: false,
            };
            self.pools.insert(pool.name.clone(), entry);
        }
        let kept: Vec<_> = self
            .kept
            .iter()
            .map(|(k, (a, until))| (k.clone(), *a, *until))
            .collect();
        for (key, address, until) in kept {
            match self
                .pools
                .get_mut(&key.1)
                .filter(|pool| pool.space.gives(address))
            {
                Some(pool) => {
                    pool.kept.insert((until, address));
                }
                None => self.forget(&key),
            }
        }
        for held in self.held.values() {
            if let Some(pool) = held.pool.as_ref().and_then(|name| self.pools.get_mut(name))
                && pool.space.gives(held.address)
            {
                pool.held += 1;
            }
        }
        self.forget_fixed();
        self.refresh_all();
    }

    /// Sets the static addresses of all users: no pool gives them to anybody.
    pub(crate) fn set_statics(&mut self, addresses: impl Iterator<Item = Address>) {
        let before = std::mem::take(&mut self.statics);
        let mut spans: Vec<Span> = addresses.map(Span::of).collect();
        spans.sort();
        for span in spans {
            match self.statics.last_mut() {
                Some(last) if last.overlaps(span) => last.end = last.end.max(span.end),
                _ => self.statics.push(span),
            }
        }
        self.forget_fixed();
        let after = self.statics.clone();
        for span in before.into_iter().chain(after) {
            self.refresh(span);
        }
    }

    /// Forgets last addresses that have become somebody's static one or our own.
    fn forget_fixed(&mut self) {
        let kept = self.kept_by_address.iter();
        let fixed: Vec<StickyKey> = kept
            .filter(|(address, _)| !self.is_allowed(**address))
            .map(|(_, key)| key.clone())
            .collect();
        for key in fixed {
            self.forget(&key);
        }
    }

    fn refresh_all(&mut self) {
        let mut spans: Vec<Span> = self.gateways.clone();
        spans.extend(&self.statics);
        spans.extend(self.held.values().map(|held| Span::of(held.address)));
        spans.extend(self.kept_by_address.keys().copied().map(Span::of));
        spans.extend(self.resting.keys().copied().map(Span::of));
        for span in spans {
            self.refresh(span);
        }
    }

    /// Works out anew which of a span's addresses are free.
    fn refresh(&mut self, span: Span) {
        // Whether an address is free does not depend on pools.
        let mut pools = std::mem::take(&mut self.pools);
        for pool in pools.values_mut() {
            for (index, address) in pool.space.touched(span) {
                pool.space.set_free(index, self.is_free(address));
            }
        }
        self.pools = pools;
    }

    fn is_free(&self, address: Address) -> bool {
        self.is_allowed(address)
            && !self.kept_by_address.contains_key(&address)
            && !self.resting.contains_key(&address)
    }

    /// Whether the address is neither held nor somebody's static one nor our own.
    fn is_allowed(&self, address: Address) -> bool {
        let span = Span::of(address);
        let after = self.statics.partition_point(|other| other.end < span.start);
        let fixed = self.statics.get(after).is_some_and(|other| other.overlaps(span));
        !fixed && self.holder(span).is_none() && !self.is_gateway(span)
    }

    fn is_gateway(&self, span: Span) -> bool {
        self.gateways.iter().any(|gateway| gateway.overlaps(span))
    }

    /// Who holds any part of a span.
    pub(crate) fn holder(&self, span: Span) -> Option<&Held> {
        let (_, held) = self.held.range(..=span.end).next_back()?;
        Span::of(held.address).overlaps(span).then_some(held)
    }

    /// Lets addresses go whose time of being kept or of rest is over.
    pub(crate) fn expire(&mut self, now: u64) {
        while let Some(&(until, address)) = self.kept_until.first() {
            if until > now {
                break;
            }
            match self.kept_by_address.get(&address).cloned() {
                Some(key) => self.forget(&key),
                None => {
                    self.kept_until.remove(&(until, address));
                }
            }
            self.refresh(Span::of(address));
        }
        while let Some(&(until, address)) = self.resting_until.first() {
            if until > now {
                break;
            }
            self.resting_until.remove(&(until, address));
            self.resting.remove(&address);
            self.refresh(Span::of(address));
        }
    }

    /// Takes a last address out of all indexes and its record out of the journal.
    fn forget(&mut self, key: &StickyKey) {
        if self.unkeep(key).is_some() {
            self.changes.push(StickyChange::Delete {
                key: key.clone(),
                family: self.family,
            });
        }
    }

    fn unkeep(&mut self, key: &StickyKey) -> Option<Address> {
        let (address, until) = self.kept.remove(key)?;
        self.kept_by_address.remove(&address);
        self.kept_until.remove(&(until, address));
        if let Some(pool) = self.pools.get_mut(&key.1) {
            pool.kept.remove(&(until, address));
        }
        Some(address)
    }

    /// Keeps an address for its user. The caller has made sure that nobody holds it.
    pub(crate) fn keep(&mut self, key: StickyKey, address: Address, until: u64) -> bool {
        let gives = self
            .pools
            .get(&key.1)
            .is_some_and(|pool| pool.space.gives(address));
        if !gives || !self.is_allowed(address) || self.kept_by_address.contains_key(&address) {
            return false;
        }
        if let Some(former) = self.unkeep(&key) {
            self.refresh(Span::of(former));
        }
        if self.kept.len() >= self.most_kept
            && let Some(&(_, oldest)) = self.kept_until.first()
            && let Some(key) = self.kept_by_address.get(&oldest).cloned()
        {
            self.forget(&key);
            self.refresh(Span::of(oldest));
        }
        if let Some(pool) = self.pools.get_mut(&key.1) {
            pool.kept.insert((until, address));
        }
        self.kept_until.insert((until, address));
        self.kept_by_address.insert(address, key.clone());
        self.kept.insert(key, (address, until));
        self.refresh(Span::of(address));
        true
    }

    /// Gives a session an address from a pool: the user's last one, else a free one, else the one that has been
    /// kept for somebody for the longest time.
    pub(crate) fn allocate(
        &mut self,
        pool: &str,
        user: &str,
        session: SessionId,
        now: u64,
        random: u64,
    ) -> Result<Address, NoAddress> {
        self.expire(now);
        let key = (user.to_owned(), pool.to_owned());
        let last = self.kept.get(&key).map(|(address, _)| *address);
        let last = last.filter(|address| self.is_allowed(*address));
        let entry = self.pools.get_mut(pool).ok_or(NoAddress::NoPool)?;
        let found = if last.is_some() {
            self.unkeep(&key);
            last
        } else if let Some((index, address)) = entry.space.next_free(start(entry, random)) {
            entry.next = (index + 1) % entry.space.size().max(1);
            Some(address)
        } else {
            self.evict(pool)
        };
        let Some(address) = found else {
            return Err(self.exhausted(pool));
        };
        if let Some((until, _)) = self.resting.remove(&address) {
            self.resting_until.remove(&(until, address));
        }
        if let Some(entry) = self.pools.get_mut(pool) {
            entry.told = false;
        }
        self.hold(address, Some(pool), user, session, now);
        Ok(address)
    }

    fn exhausted(&mut self, pool: &str) -> NoAddress {
        let Some(entry) = self.pools.get_mut(pool) else {
            return NoAddress::NoPool;
        };
        entry.exhausted += 1;
        let news = !std::mem::replace(&mut entry.told, true);
        NoAddress::Exhausted { news }
    }

    /// Takes the longest kept address of a pool away from its user. Those kept longest have rested longest, so
    /// that where the first still rests, all do.
    fn evict(&mut self, pool: &str) -> Option<Address> {
        let entry = self.pools.get(pool)?;
        let &(_, address) = entry.kept.first()?;
        if self.resting.contains_key(&address) || !self.is_allowed(address) {
            return None;
        }
        let key = self.kept_by_address.get(&address).cloned()?;
        self.forget(&key);
        Some(address)
    }

    /// Gives a session a certain address, whatever pools say.
    pub(crate) fn take(
        &mut self,
        address: Address,
        user: &str,
        session: SessionId,
        now: u64,
    ) -> Result<(), NoAddress> {
        self.expire(now);
        let span = Span::of(address);
        let rests = self.resting.range(self.from(span)..);
        let mut rests = rests.take_while(|(address, _)| Span::of(**address).start <= span.end);
        if self.is_gateway(span) || rests.any(|(_, (_, former))| former != user) {
            return Err(NoAddress::Taken);
        }
        self.retake(address, None, user, session, now)
    }

    /// The address of the first unit that a span touches: no kept or resting one before it does.
    fn from(&self, span: Span) -> Address {
        let first = self.family.address(self.family.units(span).0);
        first.unwrap_or(Address::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// Gives a session an address that it had before a restart. That the configuration has changed since is no
    /// reason to take it away: only who holds it counts.
    pub(crate) fn retake(
        &mut self,
        address: Address,
        pool: Option<&str>,
        user: &str,
        session: SessionId,
        now: u64,
    ) -> Result<(), NoAddress> {
        let span = Span::of(address);
        if self.holder(span).is_some() {
            return Err(NoAddress::Taken);
        }
        let kept = self.kept_by_address.range(self.from(span)..);
        let kept = kept.take_while(|(address, _)| Span::of(**address).start <= span.end);
        let kept: Vec<StickyKey> = kept.map(|(_, key)| key.clone()).collect();
        for key in kept {
            self.forget(&key);
        }
        self.hold(address, pool, user, session, now);
        Ok(())
    }

    fn hold(&mut self, address: Address, pool: Option<&str>, user: &str, session: SessionId, now: u64) {
        if let Some(pool) = pool.and_then(|name| self.pools.get_mut(name))
            && pool.space.gives(address)
        {
            pool.held += 1;
        }
        let held = Held {
            address,
            session,
            user: user.to_owned(),
            pool: pool.map(str::to_owned),
            since: now,
        };
        let span = Span::of(address);
        self.held.insert(span.start, held);
        self.refresh(span);
    }

    /// Takes an address out of the session's hands; `None` where that session does not hold it. Gives with it for
    /// how long its pool, if it has one, keeps it and holds it down.
    fn unhold(&mut self, address: Address, session: SessionId) -> Option<(Held, Option<(u64, u64)>)> {
        let start = Span::of(address).start;
        let held = self.held.get(&start)?;
        if held.session != session || held.address != address {
            return None;
        }
        let held = self.held.remove(&start)?;
        let pool = held.pool.as_ref().and_then(|name| self.pools.get_mut(name));
        let pool = pool.filter(|pool| pool.space.gives(address)).map(|pool| {
            pool.held = pool.held.saturating_sub(1);
            (pool.sticky, pool.hold_down)
        });
        Some((held, pool))
    }

    /// Undoes [`FamilyLeases::retake`]: the address is not kept for anybody.
    pub(crate) fn untake(&mut self, address: Address, session: SessionId) {
        if self.unhold(address, session).is_some() {
            self.refresh(Span::of(address));
        }
    }

    /// Takes an address back from the session that holds it; false where that session does not hold it.
    pub(crate) fn release(&mut self, address: Address, session: SessionId, now: u64) -> bool {
        let Some((held, pool)) = self.unhold(address, session) else {
            return false;
        };
        if let Some((sticky, hold_down)) = pool {
            self.leave(&held, sticky, hold_down, now);
        } else if let Some(name) = held.pool {
            // The pool no longer has the address: there is nothing to come back to.
            let key = (held.user, name);
            if !self.kept.contains_key(&key) {
                self.changes.push(StickyChange::Delete {
                    key,
                    family: self.family,
                });
            }
        }
        self.refresh(Span::of(address));
        true
    }

    fn leave(&mut self, held: &Held, sticky: u64, hold_down: u64, now: u64) {
        let (address, key) = (
            held.address,
            (held.user.clone(), held.pool.clone().unwrap_or_default()),
        );
        if hold_down > 0 {
            let until = now.saturating_add(hold_down);
            self.resting.insert(address, (until, held.user.clone()));
            self.resting_until.insert((until, address));
        }
        let until = now.saturating_add(sticky);
        if sticky > 0 && self.keep(key.clone(), address, until) {
            self.changes.push(StickyChange::Put { key, address, until });
        } else if !self.kept.contains_key(&key) {
            self.changes.push(StickyChange::Delete {
                key,
                family: self.family,
            });
        }
    }

    pub(crate) fn is_kept(&self, address: Address) -> bool {
        self.kept_by_address.contains_key(&address)
    }

    /// Whether a pool gives this address.
    pub(crate) fn gives(&self, pool: &str, address: Address) -> bool {
        self.pools.get(pool).is_some_and(|pool| pool.space.gives(address))
    }

    /// Held addresses that came from a pool which no longer has them, or that are our own now.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = &Held> {
        self.held.values().filter(|held| {
            let gone = |pool| !self.gives(pool, held.address);
            held.pool.as_deref().is_some_and(gone) || self.is_gateway(Span::of(held.address))
        })
    }

    pub(crate) fn held_from(&self, after: Option<u128>) -> impl Iterator<Item = &Held> {
        let from = after.map_or(Some(0), |after| after.checked_add(1));
        from.into_iter()
            .flat_map(|from| self.held.range(from..).map(|(_, held)| held))
    }

    pub(crate) fn kept_from(
        &self,
        after: Option<Address>,
    ) -> impl Iterator<Item = (Address, &StickyKey, u64)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.kept_by_address
            .range((from, Unbounded))
            .map(|(address, key)| {
                let until = self.kept.get(key).map_or(0, |(_, until)| *until);
                (*address, key, until)
            })
    }

    pub(crate) fn usage(&self, pool: &str) -> Option<PoolUse> {
        let pool = self.pools.get(pool)?;
        let (size, free) = (u64::from(pool.space.size()), u64::from(pool.space.free()));
        let kept = u64::try_from(pool.kept.len()).unwrap_or(u64::MAX);
        Some(PoolUse {
            size,
            held: pool.held,
            kept,
            free,
            blocked: size.saturating_sub(free + pool.held + kept),
            exhausted: pool.exhausted,
        })
    }
}

fn start(pool: &PoolSpace, random: u64) -> u32 {
    match pool.allocation {
        Allocation::Next => pool.next,
        Allocation::Random => {
            let size = u64::from(pool.space.size().max(1));
            u32::try_from(random % size).unwrap_or(0)
        }
    }
}
