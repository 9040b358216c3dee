//! The store: opening it, giving it changes, asking how it is.

use crate::database;
use crate::error::{Alarm, Failure, News, StoreError};
use crate::files::{self, FILE_NAME};
use crate::queue::{Batch, Change};
use crate::shared::{Shared, StoreStats, lock};
use crate::writer;
use bytes::Bytes;
use sluice_core::{Journal, JournalError, Living, Record, Table};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A journal on an embedded database. Dropping it writes what waits.
pub struct Store {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.shared.path)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a state directory, making both where they are missing. Blocks until every page is
    /// checked. A damaged file or one with a newer layout is moved aside: see [`Store::alarms`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let mut alarms = Vec::new();
        let database = files::open(directory, &path, &mut |alarm| alarms.push(alarm))?;
        let shared = Arc::new(Shared::new(directory.to_owned(), path, database));
        alarms.into_iter().for_each(|alarm| shared.raise(alarm));
        let writer = {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("store".to_owned());
            thread.spawn(move || writer::write(&shared))
        };
        let failed = |error: std::io::Error| files::opening(&shared.path, Failure::Other(error.to_string()));
        let writer = writer.map_err(failed)?;
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }

    /// Says whom to ask for all that lives when the store recovers from a failure; without, it never does. Said once,
    /// when all records of [`Journal::load`] have been taken in or refused.
    pub fn set_living(&self, living: Weak<dyn Living>) {
        self.shared.set_living(living);
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What an operator must know now, the oldest first. [`Alarm::ReadOnly`] goes when the store has recovered.
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut alarms = lock(&self.shared.alarms).clone();
        let error = lock(&self.shared.queue).failed().map(str::to_owned);
        alarms.extend(error.map(|error| Alarm::ReadOnly { error }));
        alarms
    }

    /// What happened since this was last asked, the oldest first.
    pub fn take_news(&self) -> Vec<News> {
        self.shared.take_news()
    }

    /// Has a store that has failed try at once to recover, and waits for what comes of it, at most for so long. Blocks.
    /// `Ok`: it works, or had not failed.
    ///
    /// # Errors
    ///
    /// What is wrong, where it has not recovered.
    pub fn recover(&self, limit: Duration) -> Result<(), String> {
        let until = Instant::now().checked_add(limit);
        let mut queue = lock(&self.shared.queue);
        if queue.failed().is_none() {
            return Ok(());
        }
        // One that is under way may have found what was mended since.
        let attempt = queue.want_attempt();
        self.shared.work.notify_one();
        while let Some(error) = queue.failed() {
            let left = until.map_or(Duration::MAX, |until| {
                until.saturating_duration_since(Instant::now())
            });
            if queue.ended >= attempt || left.is_zero() {
                return Err(error.to_owned());
            }
            let waited = self.shared.done.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    /// How long each commit took since this was last asked, the last 4,096 at most, for a histogram.
    pub fn take_commit_durations(&self) -> Vec<Duration> {
        self.shared.take_durations()
    }

    /// Why the records that were set aside were, the oldest first. Blocks.
    pub fn aside(&self) -> Result<Vec<String>, JournalError> {
        let aside = self.shared.with_database(database::read_aside);
        aside.map_err(unreadable)
    }

    fn push(&self, table: Table, key: Bytes, change: Change) -> Result<(), JournalError> {
        lock(&self.shared.queue).push(table, key, change)?;
        self.shared.work.notify_one();
        Ok(())
    }
}

fn unreadable(failure: Failure) -> JournalError {
    JournalError::Read(failure.while_running())
}

impl Journal for Store {
    fn put(&self, table: Table, key: Bytes, value: Bytes) -> Result<(), JournalError> {
        self.push(table, key, Change::Put(value))
    }

    fn delete(&self, table: Table, key: Bytes) -> Result<(), JournalError> {
        self.push(table, key, Change::Delete)
    }

    fn set_aside(&self, record: Record, reason: &str) -> Result<(), JournalError> {
        lock(&self.shared.queue).set_aside(record, reason.to_owned())?;
        self.shared.work.notify_one();
        Ok(())
    }

    fn flush(&self) -> Result<(), JournalError> {
        let mut queue = lock(&self.shared.queue);
        let number = queue.accepted();
        queue.hurry = true;
        self.shared.work.notify_one();
        loop {
            if let Some(error) = queue.refused() {
                return Err(error);
            }
            if queue.is_durable(number) {
                return Ok(());
            }
            queue = self
                .shared
                .done
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn load(&self) -> Result<Vec<Record>, JournalError> {
        let records = self.shared.with_database(database::read_all);
        records.map_err(unreadable)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        lock(&self.shared.queue).stopping = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            // Its panic was reported by the panic hook; there is nothing more to write.
            lock(&self.shared.queue).fail("the writer panicked".to_owned(), Batch::default());
        }
    }
}

#[cfg(test)]
mod tests;
