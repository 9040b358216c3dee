//! A journal that forgets everything when it is dropped: for tests, and for a gateway told to keep no state.

use crate::journal::{Journal, JournalError, Living, Record, Table};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<(Table, Bytes), Bytes>,
    aside: Vec<(Record, String)>,
    failed: Option<JournalError>,
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records set aside, with the reasons.
    pub fn aside(&self) -> Vec<(Record, String)> {
        self.inner().aside.clone()
    }

    /// Makes every later change fail with this error, or none again.
    pub fn fail_with(&self, error: Option<JournalError>) {
        self.inner().failed = error;
    }

    /// Works again, with all that lives in place of what was there: what a store does that recovers from a failure.
    pub fn recover(&self, living: &dyn Living, clock: &dyn Fn() -> SystemTime) {
        self.fail_with(None);
        let mut records = BTreeMap::new();
        living.records(clock, &mut |record| {
            records.insert((record.table, record.key), record.value);
            ControlFlow::Continue(())
        });
        self.inner().records = records;
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) -> Result<(), JournalError> {
        let mut inner = self.inner();
        match &inner.failed {
            Some(error) => Err(error.clone()),
            None => {
                change(&mut inner);
                Ok(())
            }
        }
    }
}

impl Journal for MemoryJournal {
    fn put(&self, table: Table, key: Bytes, value: Bytes) -> Result<(), JournalError> {
        self.change(|inner| {
            inner.records.insert((table, key), value);
        })
    }

    fn delete(&self, table: Table, key: Bytes) -> Result<(), JournalError> {
        self.change(|inner| {
            inner.records.remove(&(table, key));
        })
    }

    fn set_aside(&self, record: Record, reason: &str) -> Result<(), JournalError> {
        self.change(|inner| {
            inner.records.remove(&(record.table, record.key.clone()));
            inner.aside.push((record, reason.to_owned()));
        })
    }

    fn flush(&self) -> Result<(), JournalError> {
        self.change(|_| {})
    }

    fn load(&self) -> Result<Vec<Record>, JournalError> {
        Ok(self
            .inner()
            .records
            .iter()
            .map(|((table, key), value)| Record {
                table: *table,
                key: key.clone(),
                value: value.clone(),
            })
            .collect())
    }
}
