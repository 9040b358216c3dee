//! Quotas: who has used how much in the present period.
//!
//! Sessions are charged about once a second and when they end, so that each overdraws a quota by at most what it carries
//! in a second. What was used is journalled every few seconds and at an orderly end: a planned restart loses nothing of
//! it, a crash what was used since the last time.

use super::{Owner, lock};
use crate::config::Quotas;
use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use sluice_auth::policy::{Quota, QuotaUse, source_of};
use sluice_core::{Journal, Record, Table};
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::{Reader, put_string16};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Accounts at most; some 300 bytes each. Where there are more users and sources with quotas, those make room that no
/// session has now and that have used least.
const MAX_ACCOUNTS: usize = 131_072;

/// One part in so many makes room at once, so that it is seldom done.
const MAKE_ROOM: usize = 8;

/// The format of a record.
const FORMAT: u16 = 1;

const USER: u8 = 1;
const SOURCE: u8 = 2;

/// What a user or a source has used of a quota.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    owner: Owner,
    quota: Mutex<Quota>,
    is_dirty: AtomicBool,
}

impl Account {
    fn new(name: Arc<str>, owner: Owner, quota: Quota) -> Arc<Self> {
        Arc::new(Self {
            name,
            owner,
            quota: Mutex::new(quota),
            is_dirty: AtomicBool::new(false),
        })
    }

    /// Counts bytes that passed, and gives whether there are more.
    pub fn charge(&self, bytes: u64, wall: SystemTime) -> bool {
        let mut quota = lock(&self.quota);
        if bytes > 0 {
            self.is_dirty.store(true, Ordering::Relaxed);
        }
        quota.charge(bytes, wall)
    }

    /// The quota's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that may still pass in this period.
    fn left(&self, wall: SystemTime) -> u64 {
        lock(&self.quota).left(wall)
    }

    fn used(&self) -> u64 {
        lock(&self.quota).usage().used
    }

    fn record(&self) -> Record {
        let usage = lock(&self.quota).usage();
        Record {
            table: Table::Quotas,
            key: key(&self.name, &self.owner),
            value: encode(&self.name, &self.owner, usage),
        }
    }
}

type Key = (Arc<str>, Owner);

#[derive(Debug, Default)]
struct Open {
    accounts: HashMap<Key, Arc<Account>>,
    /// Keys of records that are to go.
    gone: Vec<Bytes>,
}

/// All accounts.
#[derive(Debug)]
pub(super) struct Accounts {
    limits: ArcSwap<Quotas>,
    open: Mutex<Open>,
}

impl Accounts {
    pub(super) fn new(quotas: &Quotas) -> Self {
        Self {
            limits: ArcSwap::from_pointee(quotas.clone()),
            open: Mutex::default(),
        }
    }

    /// Other quotas hold: accounts of those that are gone go, the others have the new limits and periods.
    pub(super) fn reconfigure(&self, quotas: &Quotas, wall: SystemTime) {
        self.limits.store(Arc::new(quotas.clone()));
        let mut open = lock(&self.open);
        let Open { accounts, gone } = &mut *open;
        accounts.retain(|_, account| {
            let Some(limit) = quotas.get(&*account.name) else {
                gone.push(key(&account.name, &account.owner));
                return false;
            };
            let mut quota = lock(&account.quota);
            let usage = quota.usage();
            *quota = Quota::restore(limit.bytes, limit.period, usage, wall);
            true
        });
    }

    /// The account of a quota's owner. `None`: there is no such quota.
    pub(super) fn open(&self, name: &Arc<str>, owner: Owner, wall: SystemTime) -> Option<Arc<Account>> {
        let limit = *self.limits.load().get(&**name)?;
        let mut open = lock(&self.open);
        let key = (name.clone(), owner);
        if let Some(known) = open.accounts.get(&key) {
            return Some(known.clone());
        }
        if open.accounts.len() >= MAX_ACCOUNTS {
            open.make_room(MAX_ACCOUNTS - MAX_ACCOUNTS / MAKE_ROOM, wall);
        }
        let quota = Quota::new(limit.bytes, limit.period, wall);
        let account = Account::new(name.clone(), key.1.clone(), quota);
        open.accounts.insert(key, account.clone());
        Some(account)
    }

    /// Whether nothing is left of a quota.
    pub(super) fn is_used_up(&self, name: &Arc<str>, owner: &Owner, wall: SystemTime) -> bool {
        let key = (name.clone(), owner.clone());
        let account = lock(&self.open).accounts.get(&key).cloned();
        account.is_some_and(|account| account.left(wall) == 0)
    }

    /// Takes in records of a former process; how many are of no use. Those go.
    pub(super) fn load(&self, records: impl Iterator<Item = Record>, wall: SystemTime) -> usize {
        let (limits, mut useless) = (self.limits.load_full(), 0);
        let mut open = lock(&self.open);
        for record in records {
            let known = decode(&record.value).ok().and_then(|(name, owner, usage)| {
                let limit = limits.get(&*name)?;
                let quota = Quota::restore(limit.bytes, limit.period, usage, wall);
                (quota.usage().used > 0).then_some((name, owner, quota))
            });
            match known {
                Some((name, owner, quota)) if open.accounts.len() < MAX_ACCOUNTS => {
                    let account = Account::new(name.clone(), owner.clone(), quota);
                    open.accounts.insert((name, owner), account);
                }
                _ => {
                    useless += 1;
                    open.gone.push(record.key);
                }
            }
        }
        useless
    }

    /// Journals what changed. What the journal does not take stays to be journalled.
    pub(super) fn save(&self, journal: &dyn Journal) {
        let (accounts, gone): (Vec<_>, _) = {
            let mut open = lock(&self.open);
            let all = open.accounts.values();
            let dirty = all.filter(|account| account.is_dirty.load(Ordering::Relaxed));
            (dirty.cloned().collect(), std::mem::take(&mut open.gone))
        };
        for key in gone {
            // A record that stays is found to be of no use at the next start.
            let _ = journal.delete(Table::Quotas, key);
        }
        for account in accounts {
            account.is_dirty.store(false, Ordering::Relaxed);
            let Record { table, key, value } = account.record();
            if journal.put(table, key, value).is_err() {
                account.is_dirty.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Gives a record of each account in which something was used.
    pub(super) fn records(&self, put: &mut dyn FnMut(Record) -> ControlFlow<()>) -> ControlFlow<()> {
        // The lock is not held while `put` waits for a disk.
        let accounts: Vec<_> = lock(&self.open).accounts.values().cloned().collect();
        let mut used = accounts.into_iter().filter(|account| account.used() > 0);
        used.try_for_each(|account| put(account.record()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.open).accounts.len()
    }
}

impl Open {
    /// Closes accounts that no session has and in which nothing was used in this period, and where more than so many are
    /// left, those that have used least.
    fn make_room(&mut self, most: usize, wall: SystemTime) {
        let is_idle = |account: &Arc<Account>| Arc::strong_count(account) == 1;
        let Self { accounts, gone } = self;
        accounts.retain(|_, account| {
            // Asking begins the period that it is now.
            account.left(wall);
            let goes = is_idle(account) && account.used() == 0;
            if goes {
                gone.push(key(&account.name, &account.owner));
            }
            !goes
        });
        let excess = accounts.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let idle = accounts.iter().filter(|(_, account)| is_idle(account));
        let mut idle: Vec<(u64, Key)> = idle.map(|(key, account)| (account.used(), key.clone())).collect();
        idle.sort_unstable();
        for (_, name) in idle.into_iter().take(excess) {
            accounts.remove(&name);
            gone.push(key(&name.0, &name.1));
        }
    }
}

fn put_names(out: &mut BytesMut, name: &str, owner: &Owner) {
    put_string16(out, name.as_bytes());
    match owner {
        Owner::User(user) => {
            out.put_u8(USER);
            put_string16(out, user.as_bytes());
        }
        Owner::Source(source) => {
            out.put_u8(SOURCE);
            put_string16(out, source.to_string().as_bytes());
        }
    }
}

/// The key of a record: which quota, and whose.
fn key(name: &str, owner: &Owner) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    put_names(&mut out, name, owner);
    out.freeze()
}

fn encode(name: &str, owner: &Owner, usage: QuotaUse) -> Bytes {
    let mut out = BytesMut::with_capacity(96);
    put_names(&mut out, name, owner);
    let since = usage.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.put_u64(since.as_secs());
    out.put_u64(usage.used);
    checkpoint::seal(FORMAT, &out)
}

fn text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, CheckpointError> {
    let length = reader.u16()?;
    str::from_utf8(reader.take(length.into())?).map_err(|_| CheckpointError::Invalid("text"))
}

fn decode(from: &[u8]) -> Result<(Arc<str>, Owner, QuotaUse), CheckpointError> {
    let (format, mut reader) = checkpoint::open(from)?;
    if format != FORMAT {
        return Err(CheckpointError::Format(format));
    }
    let name = Arc::from(text(&mut reader)?);
    let owner = match (reader.u8()?, text(&mut reader)?) {
        (USER, user) => Owner::User(user.into()),
        (SOURCE, source) => {
            let source: Result<IpAddr, _> = source.parse();
            Owner::Source(source_of(source.map_err(|_| CheckpointError::Invalid("source"))?))
        }
        _ => return Err(CheckpointError::Invalid("owner")),
    };
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(reader.u64()?));
    let usage = QuotaUse {
        since: since.ok_or(CheckpointError::Invalid("time"))?,
        used: reader.u64()?,
    };
    match reader.is_empty() {
        true => Ok((name, owner, usage)),
        false => Err(CheckpointError::Invalid("length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QuotaLimit;
    use sluice_auth::policy::Period;
    use sluice_testkit::mutate;

    fn owners() -> [Owner; 2] {
        let source: IpAddr = "2001:db8::".parse().unwrap();
        [Owner::User("bob@home".into()), Owner::Source(source)]
    }

    #[test]
    fn records_read_back_and_damaged_ones_are_refused() {
        for owner in owners() {
            let usage = QuotaUse {
                since: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                used: 1 << 40,
            };
            let whole = encode("month", &owner, usage);
            assert_eq!(decode(&whole).unwrap(), ("month".into(), owner, usage));
            for damaged in mutate::all(&whole, 3, 200) {
                assert!(damaged == whole || decode(&damaged).is_err());
            }
            let (format, body) = checkpoint::open(&whole).unwrap();
            let newer = checkpoint::seal(format + 1, body.rest());
            assert_eq!(decode(&newer), Err(CheckpointError::Format(format + 1)));
            // With a right checksum around wrong contents it is refused, or can be.
            for damaged in mutate::all(body.rest(), 4, 200) {
                let _ = decode(&checkpoint::seal(format, &damaged));
            }
        }
    }

    #[test]
    fn those_make_room_that_use_least_and_have_no_session() {
        let limit = QuotaLimit {
            bytes: 1_000,
            period: Period::Day,
        };
        let accounts = Accounts::new(&[("day".to_owned(), limit)].into());
        let (name, wall) = (Arc::from("day"), SystemTime::now());
        let open = |user: u64| {
            let owner = Owner::User(user.to_string().into());
            accounts.open(&name, owner, wall).unwrap()
        };
        for user in 0..10 {
            open(user).charge(user, wall);
        }
        let held = open(1);
        lock(&accounts.open).make_room(4, wall);
        let left = |user: u64| {
            lock(&accounts.open)
                .accounts
                .values()
                .any(|one| one.used() == user)
        };
        assert_eq!(
            (0..10).map(left).collect::<Vec<_>>(),
            [false, true, false, false, false, false, false, true, true, true]
        );
        assert_eq!(lock(&accounts.open).gone.len(), 6);
        drop(held);
    }
}
