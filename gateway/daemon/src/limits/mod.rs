//! What sessions share that have their user or their source in common: how many they are, how fast new ones come,
//! bandwidth, quotas. One ledger for all shards.
//!
//! * Sessions and new sessions are counted exactly, each under one short lock, and only while some rule limits them.
//! * Bandwidth is drawn from buckets that the relays of all shards share, exactly ([`buckets`]).
//! * Quotas are charged about once a second and at the end of each session, and journalled ([`quotas`]).
//!
//! The ledger also numbers what policy and users are: a session that was judged under a former number is judged again
//! when its shard looks through its sessions next, which is within a second.

mod buckets;
mod counts;
mod quotas;
mod refused;

#[cfg(test)]
mod tests;

pub use quotas::Account;
pub use refused::Refused;

use crate::config::Quotas;
use buckets::Buckets;
use counts::{Counted, Counts};
use quotas::Accounts;
use sluice_auth::Identity;
use sluice_auth::policy::{Effects, Newcomers, Policy, SharedLimits, TooMany, source_of};
use sluice_core::{Journal, Now, Record};
use sluice_dataplane::relay::Limit;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

/// Users, and as many sources, whose last new sessions are remembered: 10 MiB at the most.
const NEWCOMERS: usize = 16_384;

/// Who shares something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// All sessions of a user.
    User(Arc<str>),
    /// All sessions of a source: an IPv4 address, or the first of an IPv6 /64.
    Source(IpAddr),
}

/// Whose a session is.
#[derive(Clone, Debug)]
pub struct Who {
    /// The name that backends know its user by; `None`: nobody authenticated.
    pub user: Option<Arc<str>>,
    /// Where its client is.
    pub source: IpAddr,
}

impl Who {
    /// A session of a user at an address.
    pub fn new(user: Option<&Identity>, source: IpAddr) -> Self {
        Self {
            user: user.map(Identity::shared),
            source: source_of(source),
        }
    }

    /// Those that it shares something with, each with what they may have together.
    fn owners<'a>(&self, effects: &'a Effects) -> impl Iterator<Item = (Owner, &'a SharedLimits)> {
        let user = self
            .user
            .clone()
            .map(|user| (Owner::User(user), &effects.per_user));
        let source = (Owner::Source(self.source), &effects.per_source);
        user.into_iter().chain([source])
    }
}

/// What a session has of the ledger as long as it lives.
#[derive(Debug, Default)]
pub struct Held {
    counted: Option<Counted>,
    /// It has passed as a new session.
    is_known: bool,
}

/// The limits of both directions of a relay.
pub type Limits = (Option<Box<dyn Limit>>, Option<Box<dyn Limit>>);

/// All that sessions share.
pub struct Ledger {
    counts: Arc<Counts>,
    /// Some rule limits how many sessions there are.
    counts_sessions: AtomicBool,
    newcomers: Mutex<Newcomers>,
    buckets: Buckets,
    accounts: Accounts,
    generation: AtomicU64,
}

impl Default for Ledger {
    /// One for no rules and no quotas.
    fn default() -> Self {
        Self::new(&Policy::default(), &Quotas::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// An empty ledger for a policy and its quotas.
    pub fn new(policy: &Policy, quotas: &Quotas) -> Self {
        Self {
            counts: Arc::default(),
            counts_sessions: AtomicBool::new(limits_sessions(policy)),
            newcomers: Mutex::new(Newcomers::new(NEWCOMERS)),
            buckets: Buckets::default(),
            accounts: Accounts::new(quotas),
            // What was judged by a former worker was judged under none.
            generation: AtomicU64::new(1),
        }
    }

    /// The number of what policy and users are now. To be read before they are asked.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Policy or users have changed: to be told once whoever asks finds them so.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Another policy and other quotas hold. What was used of quotas that stay counts on.
    pub fn reconfigure(&self, policy: &Policy, quotas: &Quotas, wall: SystemTime) {
        self.counts_sessions
            .store(limits_sessions(policy), Ordering::Relaxed);
        self.accounts.reconfigure(quotas, wall);
        self.changed();
    }

    /// Whether nothing of what sessions share limits one that is given this.
    pub fn is_free(&self, effects: &Effects) -> bool {
        let is_free = |limits: &SharedLimits| {
            limits.sessions.is_none() && limits.new_sessions.is_none() && limits.quota.is_none()
        };
        let counts = self.counts_sessions.load(Ordering::Relaxed);
        !counts && is_free(&effects.per_user) && is_free(&effects.per_source)
    }

    /// Whether a session may be that is given this. It is counted from the first time on that it may, as long as `held`
    /// is there; asked again, as for another address of the same target, it is not counted twice.
    pub fn admit(&self, who: &Who, effects: &Effects, held: &mut Held, now: Now) -> Result<(), Refused> {
        let (user, source) = (&effects.per_user, &effects.per_source);
        for (owner, limits) in who.owners(effects) {
            if let Some(name) = &limits.quota
                && self.accounts.is_used_up(name, &owner, now.wall)
            {
                return Err(Refused::quota(&owner));
            }
        }
        let was_counted = held.counted.is_some();
        let has_rate = user.new_sessions.is_some() || source.new_sessions.is_some();
        if self.counts_sessions.load(Ordering::Relaxed) {
            self.counts
                .admit(who, user.sessions, source.sessions, &mut held.counted)?;
        }
        if has_rate && !std::mem::replace(&mut held.is_known, true) {
            let of_user = who.user.as_deref().zip(user.new_sessions);
            let of_source = source.new_sessions.map(|rate| (who.source, rate));
            if let Err(too_many) = lock(&self.newcomers).admit(of_user, of_source, now.instant) {
                held.is_known = false;
                if !was_counted {
                    held.counted = None;
                }
                return Err(match too_many {
                    TooMany::User => Refused::UserNewSessions,
                    TooMany::Source => Refused::SourceNewSessions,
                });
            }
        }
        Ok(())
    }

    /// Counts a session that is there already, whatever the limits are.
    pub fn take_in(&self, who: &Who, held: &mut Held) {
        held.is_known = true;
        if held.counted.is_none() && self.counts_sessions.load(Ordering::Relaxed) {
            held.counted = Some(self.counts.enter(who));
        }
    }

    /// What bounds the relay of a session: its own rates, its user's and its source's. Nothing is asked at each read
    /// where nothing is limited.
    pub fn limits(&self, who: &Who, effects: &Effects, now: Instant) -> Limits {
        self.buckets.limits(who, effects, now)
    }

    /// The quotas that a session's bytes count against.
    pub fn accounts(&self, who: &Who, effects: &Effects, wall: SystemTime) -> Vec<Arc<Account>> {
        who.owners(effects)
            .filter_map(|(owner, limits)| self.accounts.open(limits.quota.as_ref()?, owner, wall))
            .collect()
    }

    /// Takes back what was used of quotas from their records, and says how many records are of no use.
    pub fn load(&self, records: impl Iterator<Item = Record>, wall: SystemTime) -> usize {
        self.accounts.load(records, wall)
    }

    /// Journals what was used of quotas since the last time. What the journal does not take now is tried again.
    pub fn save(&self, journal: &dyn Journal) {
        self.accounts.save(journal);
    }

    /// Gives a record of each quota that is in use.
    pub fn records(&self, put: &mut dyn FnMut(Record) -> ControlFlow<()>) -> ControlFlow<()> {
        self.accounts.records(put)
    }
}

/// Whether some rule, or the defaults, limit how many sessions there may be.
fn limits_sessions(policy: &Policy) -> bool {
    let limits = |effects: &Effects| {
        effects
            .per_user
            .sessions
            .or(effects.per_source.sessions)
            .is_some()
    };
    limits(&policy.defaults().effects) || policy.rules().iter().any(|rule| limits(&rule.effects))
}
