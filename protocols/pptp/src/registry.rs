//! What all fronts and machines of a listener share: identifiers, whose call an identifier is, and how many control
//! connections there are.

use crate::config::{Config, Limits};
use crate::names::drops;
use sluice_spi::{DropReason, Identifiers, MachineKey, ShardId, Shards};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bits of an identifier that say which virtual shard it is of ([`Shards::VIRTUAL`]).
const SHARD_BITS: u16 = Shards::VIRTUAL - 1;

/// What all parts of a listener share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    keys: Identifiers,
    calls: Identifiers,
    owners: HashMap<u16, MachineKey>,
    sources: HashMap<IpAddr, Source>,
    connections: usize,
    half_open: usize,
}

#[derive(Debug, Default)]
struct Source {
    connections: usize,
    half_open: usize,
}

/// One control connection's place among those that there may be; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
    half_open: bool,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            registry: Mutex::default(),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key for a machine of a shard.
    pub(crate) fn mint_key(
        &self,
        shard: ShardId,
        shards: Shards,
        random: impl FnMut() -> u16,
        now: Instant,
    ) -> Option<u16> {
        self.registry()
            .keys
            .mint(now, random, |id| shards.mint(shard, id))
    }

    pub(crate) fn reserve_key(&self, key: u16) -> bool {
        self.registry().keys.reserve(key)
    }

    pub(crate) fn release_key(&self, key: u16, now: Instant) {
        self.registry().keys.release(key, now);
    }

    /// An identifier for a call of a machine. It is of the same virtual shard as the machine's key.
    pub(crate) fn mint_call(&self, key: u16, random: impl FnMut() -> u16, now: Instant) -> Option<u16> {
        let mut registry = self.registry();
        let draw = |id: u16| id & !SHARD_BITS | key & SHARD_BITS;
        let call = registry.calls.mint(now, random, draw)?;
        registry.owners.insert(call, MachineKey(key.into()));
        Some(call)
    }

    /// Takes the identifier of a restored call; false: it is taken.
    pub(crate) fn reserve_call(&self, key: u16, call: u16) -> bool {
        let mut registry = self.registry();
        let is_free = registry.calls.reserve(call);
        if is_free {
            registry.owners.insert(call, MachineKey(key.into()));
        }
        is_free
    }

    pub(crate) fn release_call(&self, call: u16, now: Instant) {
        let mut registry = self.registry();
        registry.owners.remove(&call);
        registry.calls.release(call, now);
    }

    /// The machine that a call belongs to.
    pub(crate) fn owner(&self, call: u16) -> Option<MachineKey> {
        self.registry().owners.get(&call).copied()
    }

    /// Control connections that are not established.
    pub(crate) fn half_open(&self) -> usize {
        self.registry().half_open
    }
}

impl Registry {
    fn check(&self, source: IpAddr, limits: &Limits) -> Result<(), DropReason> {
        let of_source = self.sources.get(&source);
        let (connections, half_open) = of_source.map_or((0, 0), |one| (one.connections, one.half_open));
        if self.connections >= limits.connections {
            Err(drops::CONNECTION_LIMIT)
        } else if connections >= limits.connections_per_source {
            Err(drops::SOURCE_LIMIT)
        } else if self.half_open >= limits.half_open || half_open >= limits.half_open_per_source {
            Err(drops::HALF_OPEN)
        } else {
            Ok(())
        }
    }
}

impl Place {
    /// A place for a control connection that was just accepted.
    pub(crate) fn take(shared: &Arc<Shared>, source: IpAddr) -> Result<Self, DropReason> {
        let mut registry = shared.registry();
        registry.check(source, &shared.config.limits)?;
        registry.connections += 1;
        registry.half_open += 1;
        let one = registry.sources.entry(source).or_default();
        one.connections += 1;
        one.half_open += 1;
        drop(registry);
        Ok(Self {
            shared: Arc::clone(shared),
            source,
            half_open: true,
        })
    }

    /// A place for one that goes on after a restart, which is over no limit.
    pub(crate) fn again(shared: &Arc<Shared>, source: IpAddr) -> Self {
        let mut registry = shared.registry();
        registry.connections += 1;
        registry.sources.entry(source).or_default().connections += 1;
        drop(registry);
        Self {
            shared: Arc::clone(shared),
            source,
            half_open: false,
        }
    }

    /// It is established.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.half_open) {
            let mut registry = self.shared.registry();
            registry.half_open = registry.half_open.saturating_sub(1);
            if let Some(one) = registry.sources.get_mut(&self.source) {
                one.half_open = one.half_open.saturating_sub(1);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        let mut registry = self.shared.registry();
        registry.connections = registry.connections.saturating_sub(1);
        let left = registry.sources.get_mut(&self.source).map(|one| {
            one.connections = one.connections.saturating_sub(1);
            one.connections
        });
        if left == Some(0) {
            registry.sources.remove(&self.source);
        }
    }
}
