//! Changes on their way to the disk.

use bytes::Bytes;
use sluice_core::{JournalError, Record, Table};
use std::collections::HashMap;
use std::time::Instant;

/// Changes that may wait at once, each of another key.
pub const MAX_QUEUED_CHANGES: usize = 65_536;
/// Octets that may wait at once.
pub const MAX_QUEUED_BYTES: usize = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Bytes),
    Delete,
}

impl Change {
    fn size(&self) -> usize {
        match self {
            Change::Put(value) => value.len(),
            Change::Delete => 0,
        }
    }
}

/// What goes into one commit. Of each key only the last change is there.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) changes: HashMap<(Table, Bytes), Change>,
    pub(crate) aside: Vec<(Record, String)>,
}

impl Batch {
    pub(crate) fn len(&self) -> usize {
        self.changes.len() + self.aside.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    batch: Batch,
    bytes: usize,
    /// When the first change of the batch came.
    since: Option<Instant>,
    /// Number of the last change taken in.
    accepted: u64,
    /// Number of the last change that is durable.
    durable: u64,
    /// Somebody waits for what is in the batch.
    pub(crate) hurry: bool,
    pub(crate) stopping: bool,
    failed: Option<String>,
    /// The store has failed, and what lives is being written anew: changes go on top of it.
    rewriting: bool,
    /// Attempts to recover that have begun.
    begun: u64,
    /// Attempts to recover that have come to an end.
    pub(crate) ended: u64,
    /// This attempt is to begin at once.
    wanted: u64,
}

impl Queue {
    fn room(&self, more: usize, new: bool) -> Result<(), JournalError> {
        if let Some(error) = self.refused() {
            return Err(error);
        }
        self.fits(more, new)
    }

    fn fits(&self, more: usize, new: bool) -> Result<(), JournalError> {
        let changes = self.batch.len() + usize::from(new);
        if changes > MAX_QUEUED_CHANGES || self.bytes.saturating_add(more) > MAX_QUEUED_BYTES {
            return Err(JournalError::Full);
        }
        Ok(())
    }

    fn accept(&mut self) {
        self.since.get_or_insert_with(Instant::now);
        self.accepted += 1;
    }

    pub(crate) fn push(&mut self, table: Table, key: Bytes, change: Change) -> Result<(), JournalError> {
        let key = (table, key);
        let former = self.batch.changes.get(&key).map(Change::size);
        let size = change.size();
        self.room(size.saturating_sub(former.unwrap_or(0)), former.is_none())?;
        self.bytes = self.bytes.saturating_sub(former.unwrap_or(0)) + size;
        self.batch.changes.insert(key, change);
        self.accept();
        Ok(())
    }

    /// The record leaves its table, and is kept for a person, in one commit. A store that has failed keeps it until it
    /// has recovered, though it does not say so: nobody else has that record.
    pub(crate) fn set_aside(&mut self, record: Record, reason: String) -> Result<(), JournalError> {
        let size = record.value.len();
        self.fits(size, true)?;
        let pushed = self.push(record.table, record.key.clone(), Change::Delete);
        if pushed != Err(JournalError::Full) {
            self.bytes += size;
            self.batch.aside.push((record, reason));
        }
        pushed
    }

    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Takes all that waits, with the number of its last change.
    pub(crate) fn take(&mut self) -> (Batch, u64) {
        self.bytes = 0;
        self.since = None;
        self.hurry = false;
        (std::mem::take(&mut self.batch), self.accepted)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(crate) fn is_durable(&self, number: u64) -> bool {
        self.durable >= number
    }

    pub(crate) fn made_durable(&mut self, number: u64) {
        self.durable = self.durable.max(number);
    }

    /// Why no change is taken, if none is.
    pub(crate) fn refused(&self) -> Option<JournalError> {
        let error = self.failed.as_ref().filter(|_| !self.rewriting)?;
        Some(JournalError::ReadOnly(error.clone()))
    }

    /// What is wrong, from the failure until the store has recovered.
    pub(crate) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Nothing is taken any more, and of what waits only that which was set aside is kept; `lost` is the batch that
    /// was being written. True: the store has not failed before.
    pub(crate) fn fail(&mut self, error: String, lost: Batch) -> bool {
        let (waiting, _) = self.take();
        self.batch.aside = lost.aside;
        self.batch.aside.extend(waiting.aside);
        self.batch.aside.truncate(MAX_QUEUED_CHANGES);
        self.bytes = self
            .batch
            .aside
            .iter()
            .map(|(record, _)| record.value.len())
            .sum();
        self.rewriting = false;
        self.failed.replace(error).is_none()
    }

    /// Wants an attempt to recover that begins after this moment, at once; gives its number.
    pub(crate) fn want_attempt(&mut self) -> u64 {
        self.wanted = self.begun + 1;
        self.wanted
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted > self.begun
    }

    pub(crate) fn begin_attempt(&mut self) {
        self.begun += 1;
    }

    pub(crate) fn end_attempt(&mut self) {
        self.ended = self.begun;
    }

    /// From now on changes are taken again, to be written on top of what lives. Gives the number of the last one before.
    pub(crate) fn begin_rewriting(&mut self) -> u64 {
        self.rewriting = true;
        self.accepted
    }

    /// What lives is durable, up to the change of this number.
    pub(crate) fn recovered(&mut self, number: u64) {
        self.made_durable(number);
        self.rewriting = false;
        self.failed = None;
        self.wanted = 0;
        if !self.batch.aside.is_empty() {
            self.accept();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(number.to_string())
    }

    #[test]
    fn the_last_change_of_a_key_wins_and_takes_no_more_room() {
        let mut queue = Queue::default();
        for size in [100, 10, 1000] {
            let value = Change::Put(Bytes::from(vec![0; size]));
            queue.push(Table::Leases, key(1), value).unwrap();
        }
        assert_eq!((queue.len(), queue.bytes()), (1, 1000));
        queue.push(Table::Leases, key(1), Change::Delete).unwrap();
        assert_eq!((queue.len(), queue.bytes()), (1, 0));
        let (batch, number) = queue.take();
        assert_eq!(batch.changes.get(&(Table::Leases, key(1))), Some(&Change::Delete));
        assert_eq!(number, 4);
        assert_eq!((queue.len(), queue.bytes(), queue.since()), (0, 0, None));
    }

    #[test]
    fn the_queue_is_bounded_in_changes_and_in_octets() {
        let mut queue = Queue::default();
        for number in 0..MAX_QUEUED_CHANGES {
            queue.push(Table::Counters, key(number), Change::Delete).unwrap();
        }
        let more = queue.push(Table::Counters, key(usize::MAX), Change::Delete);
        assert_eq!(more, Err(JournalError::Full));
        let same = queue.push(Table::Counters, key(0), Change::Put(Bytes::from_static(b"x")));
        assert_eq!(same, Ok(()), "a key that waits may change");
        queue.take();
        let large = Bytes::from(vec![0; MAX_QUEUED_BYTES / 2]);
        queue
            .push(Table::Tunnels, key(1), Change::Put(large.clone()))
            .unwrap();
        queue
            .push(Table::Tunnels, key(2), Change::Put(large.clone()))
            .unwrap();
        let more = queue.push(Table::Tunnels, key(3), Change::Put(Bytes::from_static(b"x")));
        assert_eq!(more, Err(JournalError::Full));
        queue.push(Table::Tunnels, key(1), Change::Put(large)).unwrap();
    }

    #[test]
    fn a_failed_queue_takes_nothing() {
        let mut queue = Queue::default();
        queue.push(Table::Tunnels, key(1), Change::Delete).unwrap();
        assert!(queue.fail("first".into(), Batch::default()));
        assert!(!queue.fail("second".into(), Batch::default()));
        assert_eq!(queue.len(), 0);
        let refused = queue.push(Table::Tunnels, key(1), Change::Delete);
        assert_eq!(refused, Err(JournalError::ReadOnly("second".into())));
    }

    #[test]
    fn what_was_set_aside_outlives_a_failure_and_all_else_is_taken_anew() {
        let mut queue = Queue::default();
        let record = |number| Record {
            table: Table::Tunnels,
            key: key(number),
            value: Bytes::from_static(b"bad"),
        };
        queue.set_aside(record(1), "one".into()).unwrap();
        let (lost, _) = queue.take();
        queue.set_aside(record(2), "two".into()).unwrap();
        queue.push(Table::Leases, key(9), Change::Delete).unwrap();
        queue.fail("full".into(), lost);
        let refused = queue.set_aside(record(3), "three".into());
        assert_eq!(refused, Err(JournalError::ReadOnly("full".into())));
        assert_eq!((queue.len(), queue.bytes(), queue.since()), (3, 9, None));
        let number = queue.begin_rewriting();
        queue.push(Table::Leases, key(4), Change::Delete).unwrap();
        assert!(queue.failed().is_some() && !queue.is_durable(number));
        queue.recovered(number);
        assert!(queue.failed().is_none() && queue.since().is_some());
        assert!(queue.is_durable(number) && !queue.is_durable(number + 1));
        let (batch, _) = queue.take();
        let reasons: Vec<&str> = batch.aside.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons, ["one", "two", "three"]);
        let changed: Vec<_> = batch.changes.into_keys().collect();
        assert_eq!(changed, [(Table::Leases, key(4))]);
    }
}
