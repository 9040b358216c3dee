//! What the writer and whoever has the store share.

use crate::error::{Alarm, Failure, News};
use crate::queue::Queue;
use redb::Database;
use sluice_core::Living;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

/// Durations of commits kept for metrics until they are asked for.
const MAX_DURATIONS: usize = 4096;
/// Alarms kept: a disk that damages file after file is known by the first ones.
const MAX_ALARMS: usize = 32;
/// News kept until they are asked for: a store that fails and recovers all the time makes two in a second.
const MAX_NEWS: usize = 256;

/// What a store has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Changes that wait to be written.
    pub queued: usize,
    /// Octets that wait to be written.
    pub queued_bytes: usize,
    /// Commits.
    pub commits: u64,
    /// Changes in them.
    pub changes: u64,
    /// How long the last commit took.
    pub last_commit: Duration,
    /// How long the longest commit took.
    pub longest_commit: Duration,
    /// Whether it has failed, and not recovered since.
    pub read_only: bool,
    /// How often it failed; an attempt to recover that fails does not count.
    pub failures: u64,
    /// How often it recovered.
    pub recoveries: u64,
}

#[derive(Debug, Default)]
struct Measures {
    stats: StoreStats,
    durations: VecDeque<Duration>,
}

pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) queue: Mutex<Queue>,
    /// Something for the writer to do.
    pub(crate) work: Condvar,
    /// Something became durable, or failed, or an attempt to recover has come to an end.
    pub(crate) done: Condvar,
    /// Alarms of files that were moved aside.
    pub(crate) alarms: Mutex<Vec<Alarm>>,
    measures: Mutex<Measures>,
    news: Mutex<VecDeque<News>>,
    /// `None`: closed, because it failed.
    database: RwLock<Option<Database>>,
    /// Whom to ask for all that lives.
    living: OnceLock<Weak<dyn Living>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(directory: PathBuf, path: PathBuf, database: Database) -> Self {
        Self {
            directory,
            path,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            alarms: Mutex::default(),
            measures: Mutex::default(),
            news: Mutex::default(),
            database: RwLock::new(Some(database)),
            living: OnceLock::new(),
        }
    }

    /// Works with the database; an error where it is closed.
    pub(crate) fn with_database<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match database.as_ref() {
            Some(database) => act(database),
            None => Err(Failure::Other("the store is closed after a failure".to_owned())),
        }
    }

    pub(crate) fn set_database(&self, database: Database) {
        let mut place = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(database);
    }

    /// Closes the database, whatever state it is in.
    pub(crate) fn close(&self) {
        let mut place = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = place.take();
        // A panic on a damaged file was reported by the panic hook, and the file is checked when it is opened next.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    pub(crate) fn set_living(&self, living: Weak<dyn Living>) {
        // It is set once, after the engine was made.
        let _ = self.living.set(living);
    }

    pub(crate) fn living(&self) -> Option<Arc<dyn Living>> {
        self.living.get()?.upgrade()
    }

    /// A file was moved aside.
    pub(crate) fn raise(&self, alarm: Alarm) {
        let mut alarms = lock(&self.alarms);
        if alarms.len() < MAX_ALARMS {
            alarms.push(alarm.clone());
        }
        drop(alarms);
        self.tell(News::Alarm(alarm));
    }

    pub(crate) fn tell(&self, news: News) {
        let mut all = lock(&self.news);
        if all.len() >= MAX_NEWS {
            all.pop_front();
        }
        all.push_back(news);
    }

    pub(crate) fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut *lock(&self.news)).into()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut StoreStats)) {
        change(&mut lock(&self.measures).stats);
    }

    pub(crate) fn measure(&self, changes: usize, took: Duration) {
        let mut measures = lock(&self.measures);
        let stats = &mut measures.stats;
        stats.commits += 1;
        stats.changes += u64::try_from(changes).unwrap_or(u64::MAX);
        stats.last_commit = took;
        stats.longest_commit = stats.longest_commit.max(took);
        if measures.durations.len() >= MAX_DURATIONS {
            measures.durations.pop_front();
        }
        measures.durations.push_back(took);
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let queue = lock(&self.queue);
        let (queued, queued_bytes) = (queue.len(), queue.bytes());
        let read_only = queue.failed().is_some();
        drop(queue);
        StoreStats {
            queued,
            queued_bytes,
            read_only,
            ..lock(&self.measures).stats
        }
    }

    pub(crate) fn take_durations(&self) -> Vec<Duration> {
        std::mem::take(&mut lock(&self.measures).durations).into()
    }
}
