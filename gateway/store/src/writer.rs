//! The thread that writes: many changes in one commit, and what is done when a commit fails.
//!
//! What a failed write left on the disk is unknown, and to try the same again would hide that. So nothing of it is
//! tried again. The database is closed, opened anew from time to time, and once it can be opened, checked and written,
//! all that lives is put in place of all that is in it.

use crate::database;
use crate::error::{Alarm, Failure, News, StoreError};
use crate::files;
use crate::queue::{Batch, Queue};
use crate::shared::{Shared, lock};
use sluice_core::Living;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Longest that a change waits for others to be committed with.
pub const COMMIT_AFTER: Duration = Duration::from_millis(20);
/// So many waiting changes are committed at once.
pub const COMMIT_CHANGES: usize = 256;
/// A store that failed tries to recover after this time, and after twice the time with each further attempt: what went
/// by itself is mended at once,
pub const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
/// but at most after this: an operator who has made room looks for it to be used, and to check a file of some hundred
/// megabytes takes some seconds.
pub const LAST_ATTEMPT: Duration = Duration::from_secs(30);

/// A store that fails again within this time goes on with longer and longer intervals: a disk that damages what is
/// written to it is not to be filled with files that were moved aside.
const STEADY: Duration = Duration::from_secs(600);

/// What is to be done next.
enum Task {
    Commit(Batch, u64),
    Recover(Outage),
    End,
}

/// When the store failed, and when it tries next to recover.
#[derive(Clone, Copy)]
struct Outage {
    since: Instant,
    next: Instant,
    wait: Duration,
}

impl Outage {
    /// `former`: the outage before, and when it was over.
    fn begin(now: Instant, former: Option<(Outage, Instant)>) -> Self {
        let former = former.filter(|(_, over)| now.saturating_duration_since(*over) < STEADY);
        let wait = former.map_or(FIRST_ATTEMPT, |(former, _)| (former.wait * 2).min(LAST_ATTEMPT));
        Self {
            since: now,
            next: now + wait,
            wait,
        }
    }

    fn go_on(&mut self, now: Instant) {
        self.wait = (self.wait * 2).min(LAST_ATTEMPT);
        self.next = now + self.wait;
    }
}

/// The writer: waits for changes, commits them together.
pub(crate) fn write(shared: &Shared) {
    let mut outage: Option<Outage> = None;
    let mut former = None;
    loop {
        match next_task(shared, outage) {
            Task::End => return,
            Task::Commit(batch, number) => {
                if let Err(error) = commit(shared, &batch, number) {
                    fail(shared, error, batch);
                    outage = Some(Outage::begin(Instant::now(), former));
                }
            }
            Task::Recover(mut after) => {
                match recover(shared, after.since) {
                    Ok(()) => {
                        outage = None;
                        former = Some((after, Instant::now()));
                    }
                    Err(error) => {
                        fail(shared, error, Batch::default());
                        after.go_on(Instant::now());
                        outage = Some(after);
                    }
                }
                lock(&shared.queue).end_attempt();
            }
        }
        shared.done.notify_all();
    }
}

fn next_task(shared: &Shared, outage: Option<Outage>) -> Task {
    let mut queue = lock(&shared.queue);
    loop {
        let now = Instant::now();
        let wait = match outage {
            Some(_) if queue.stopping => return Task::End,
            Some(outage) if queue.is_wanted() || outage.next <= now => {
                queue.begin_attempt();
                return Task::Recover(outage);
            }
            Some(outage) => Some(outage.next - now),
            None => match due(&mut queue, now) {
                Ok(task) => return task,
                Err(wait) => {
                    if wait.is_none() {
                        // Nothing waits: whoever is in a hurry has all it wants.
                        queue.hurry = false;
                        shared.done.notify_all();
                    }
                    wait
                }
            },
        };
        queue = match wait {
            None => shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            Some(wait) => {
                let waited = shared.work.wait_timeout(queue, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

/// What a store that works has to do, or after which time it has; `None`: once a change comes.
fn due(queue: &mut Queue, now: Instant) -> Result<Task, Option<Duration>> {
    let Some(since) = queue.since() else {
        return match queue.stopping {
            true => Ok(Task::End),
            false => Err(None),
        };
    };
    let left = COMMIT_AFTER.saturating_sub(now.saturating_duration_since(since));
    if queue.hurry || queue.stopping || queue.len() >= COMMIT_CHANGES || left.is_zero() {
        let (batch, number) = queue.take();
        return Ok(Task::Commit(batch, number));
    }
    Err(Some(left))
}

fn commit(shared: &Shared, batch: &Batch, number: u64) -> Result<(), String> {
    let start = Instant::now();
    let done = shared.with_database(|database| database::commit(database, batch));
    done.map_err(|failure| failure.while_running())?;
    shared.measure(batch.len(), start.elapsed());
    lock(&shared.queue).made_durable(number);
    Ok(())
}

/// Closes the database. All that waits is in what lives, and what lives is written anew later.
fn fail(shared: &Shared, error: String, lost: Batch) {
    let first = lock(&shared.queue).fail(error.clone(), lost);
    shared.close();
    if first {
        shared.count(|stats| stats.failures += 1);
        shared.tell(News::Alarm(Alarm::ReadOnly { error }));
    }
}

/// One attempt to go on.
fn recover(shared: &Shared, since: Instant) -> Result<(), String> {
    let living: Arc<dyn Living> = shared
        .living()
        .ok_or_else(|| "nobody says what is to be in it".to_owned())?;
    let wrong = |failure: Failure| failure.while_running();
    files::forget_cached(&shared.path).map_err(|error| wrong(Failure::Io(error)))?;
    let opened = files::open(&shared.directory, &shared.path, &mut |alarm| shared.raise(alarm));
    shared.set_database(opened.map_err(StoreError::while_running)?);
    shared.with_database(database::probe).map_err(wrong)?;
    // From here on changes go on top of what lives: none can be missing in both.
    let number = lock(&shared.queue).begin_rewriting();
    let start = Instant::now();
    let records = shared
        .with_database(|database| database::rewrite(database, living.as_ref()))
        .map_err(wrong)?;
    shared.measure(records, start.elapsed());
    lock(&shared.queue).recovered(number);
    shared.count(|stats| stats.recoveries += 1);
    shared.tell(News::Recovered {
        records,
        after: since.elapsed(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_at_longer_and_longer_intervals_up_to_a_bound() {
        let mut now = Instant::now();
        let mut outage = Outage::begin(now, None);
        let mut waits = Vec::new();
        for _ in 0..7 {
            waits.push((outage.next - now).as_secs());
            now = outage.next;
            outage.go_on(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_store_that_fails_soon_again_is_not_tried_sooner() {
        let now = Instant::now();
        let mut outage = Outage::begin(now, None);
        outage.go_on(now);
        for (steady, wait) in [(STEADY / 2, 4), (STEADY, 1)] {
            let next = Outage::begin(now + steady, Some((outage, now)));
            assert_eq!(next.wait, Duration::from_secs(wait));
        }
    }
}
