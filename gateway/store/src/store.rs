//! The store: opening it, and the thread that writes.

use crate::database;
use crate::error::{Alarm, Failure, StoreError};
use crate::queue::{Batch, Change, Queue};
use bytes::Bytes;
use redb::Database;
use sluice_core::{Journal, JournalError, Record, Table};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Name of the store's file in the state directory.
pub const FILE_NAME: &str = "sessions.redb";
/// Longest that a change waits for others to be committed with.
pub const COMMIT_AFTER: Duration = Duration::from_millis(20);
/// So many waiting changes are committed at once.
pub const COMMIT_CHANGES: usize = 256;
/// Durations of commits kept for metrics until they are asked for.
const MAX_DURATIONS: usize = 4096;
/// Names tried for a file that is moved aside within one second.
const MAX_NAMES: u32 = 1000;

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
}

#[derive(Debug, Default)]
struct Measures {
    stats: StoreStats,
    durations: VecDeque<Duration>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something for the writer to do.
    work: Condvar,
    /// Something became durable, or failed.
    done: Condvar,
    measures: Mutex<Measures>,
    alarms: Mutex<Vec<Alarm>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A journal on an embedded database. Dropping it writes what waits.
#[derive(Debug)]
pub struct Store {
    database: Arc<Database>,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl Store {
    /// Opens the store in a state directory, making both where they are missing. Blocks until every page is
    /// checked. A damaged file or one with a newer layout is moved aside: see [`Store::alarms`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        prepare(directory, &path).map_err(|error| refused(directory, error))?;
        let mut alarms = Vec::new();
        let database = match database::open(&path) {
            Ok(database) => database,
            Err(Failure::Damaged(reason)) => {
                let moved_to = move_aside(directory, &path, "corrupt", &reason)?;
                alarms.push(Alarm::Corrupted { moved_to, reason });
                open_fresh(directory, &path)?
            }
            Err(Failure::Newer(schema)) => {
                let reason = format!("layout {schema}");
                let moved_to = move_aside(directory, &path, "newer", &reason)?;
                alarms.push(Alarm::Newer { moved_to, schema });
                open_fresh(directory, &path)?
            }
            Err(failure) => return Err(opening(&path, failure)),
        };
        let database = Arc::new(database);
        let shared = Arc::new(Shared {
            alarms: Mutex::new(alarms),
            ..Shared::default()
        });
        let writer = {
            let (database, shared) = (database.clone(), shared.clone());
            let thread = std::thread::Builder::new().name("store".to_owned());
            thread.spawn(move || write(&database, &shared))
        };
        let writer = writer.map_err(|error| opening(&path, Failure::Other(error.to_string())))?;
        Ok(Self {
            database,
            shared,
            writer: Some(writer),
            path,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an operator must know, the oldest first.
    pub fn alarms(&self) -> Vec<Alarm> {
        lock(&self.shared.alarms).clone()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> StoreStats {
        let (queued, queued_bytes) = {
            let queue = lock(&self.shared.queue);
            (queue.len(), queue.bytes())
        };
        StoreStats {
            queued,
            queued_bytes,
            ..lock(&self.shared.measures).stats
        }
    }

    /// How long each commit took since this was last asked, the last 4,096 at most, for a histogram.
    pub fn take_commit_durations(&self) -> Vec<Duration> {
        std::mem::take(&mut lock(&self.shared.measures).durations).into()
    }

    /// Why the records that were set aside were, the oldest first. Blocks.
    pub fn aside(&self) -> Result<Vec<String>, JournalError> {
        database::read_aside(&self.database).map_err(unreadable)
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
            if let Some(error) = &queue.failed {
                return Err(JournalError::ReadOnly(error.clone()));
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
        database::read_all(&self.database).map_err(unreadable)
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
            lock(&self.shared.queue).fail("the writer panicked".to_owned());
        }
    }
}

/// The writer: waits for changes, commits them together.
fn write(database: &Database, shared: &Shared) {
    while let Some((batch, number)) = next_batch(shared) {
        let start = Instant::now();
        let result = database::commit(database, &batch);
        let took = start.elapsed();
        let mut queue = lock(&shared.queue);
        match result {
            Ok(()) => {
                queue.made_durable(number);
                measure(shared, &batch, took);
            }
            Err(failure) => {
                // What a failed sync left on the disk is unknown, and trying again would hide it: no more writing.
                let error = failure.while_running();
                queue.fail(error.clone());
                lock(&shared.alarms).push(Alarm::ReadOnly { error });
            }
        }
        let failed = queue.failed.is_some();
        drop(queue);
        shared.done.notify_all();
        if failed {
            return;
        }
    }
}

/// Waits for the next batch; `None`: there is none any more.
fn next_batch(shared: &Shared) -> Option<(Batch, u64)> {
    let mut queue = lock(&shared.queue);
    loop {
        let Some(since) = queue.since() else {
            if queue.stopping {
                return None;
            }
            // Nothing waits: whoever is in a hurry has all it wants.
            queue.hurry = false;
            shared.done.notify_all();
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = COMMIT_AFTER.saturating_sub(since.elapsed());
        if queue.hurry || queue.stopping || queue.len() >= COMMIT_CHANGES || left.is_zero() {
            return Some(queue.take());
        }
        let waited = shared.work.wait_timeout(queue, left);
        queue = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn measure(shared: &Shared, batch: &Batch, took: Duration) {
    let mut measures = lock(&shared.measures);
    let stats = &mut measures.stats;
    stats.commits += 1;
    stats.changes += u64::try_from(batch.len()).unwrap_or(u64::MAX);
    stats.last_commit = took;
    stats.longest_commit = stats.longest_commit.max(took);
    if measures.durations.len() >= MAX_DURATIONS {
        measures.durations.pop_front();
    }
    measures.durations.push_back(took);
}

/// Makes the directory and the file, readable by nobody else: they name users and peers.
fn prepare(directory: &Path, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.open(path).map(|_| ())
}

fn refused(path: &Path, error: io::Error) -> StoreError {
    let path = path.to_owned();
    match Failure::is_full(&error) {
        true => StoreError::DiskFull { path, error },
        false => StoreError::NotWritable { path, error },
    }
}

fn opening(path: &Path, failure: Failure) -> StoreError {
    let path = path.to_owned();
    match failure {
        Failure::InUse => StoreError::InUse { path },
        Failure::Io(error) if Failure::is_full(&error) => StoreError::DiskFull { path, error },
        Failure::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            StoreError::NotWritable { path, error }
        }
        Failure::Io(error) => StoreError::Other {
            path,
            reason: error.to_string(),
        },
        Failure::Damaged(reason) | Failure::Other(reason) => StoreError::Other { path, reason },
        Failure::Newer(schema) => StoreError::Other {
            path,
            reason: format!("layout {schema}"),
        },
    }
}

fn open_fresh(directory: &Path, path: &Path) -> Result<Database, StoreError> {
    prepare(directory, path).map_err(|error| refused(directory, error))?;
    database::open(path).map_err(|failure| opening(path, failure))
}

/// Renames the file to a name that says why and when, without replacing one that is there.
fn move_aside(directory: &Path, path: &Path, why: &str, reason: &str) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs();
    let moved = (0..MAX_NAMES).find_map(|number| {
        let name = match number {
            0 => format!("{FILE_NAME}.{why}-{seconds}"),
            number => format!("{FILE_NAME}.{why}-{seconds}-{number}"),
        };
        let target = directory.join(name);
        // A second name for the file, made only where there is none; then the first one goes.
        match std::fs::hard_link(path, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => Some(Err(error)),
            Ok(()) => Some(std::fs::remove_file(path).map(|()| target)),
        }
    });
    let moved = moved.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
    let moved = moved.and_then(|target| File::open(directory)?.sync_all().map(|()| target));
    moved.map_err(|error| StoreError::NotMoved {
        path: path.to_owned(),
        reason: reason.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
