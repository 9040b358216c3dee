//! Handing changes to the journal, and what to do when it does not take them.

use crate::journal::{Journal, JournalError, Record, Table};
use crate::table::lock;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Changes kept for a journal whose queue is full, one a key; more are lost and counted.
pub(crate) const MAX_BACKLOG: usize = 200_000;
/// Changes of the backlog tried at once.
const RETRIES: usize = 256;

#[derive(Default)]
struct State {
    /// Changes that found the queue full: the last one of each key; `None`: delete it.
    backlog: BTreeMap<(Table, Bytes), Option<Bytes>>,
    failing: Option<JournalError>,
}

/// The journal began or ceased to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// What it said before; `None`: it worked.
    pub(crate) before: Option<JournalError>,
    /// What it says now; `None`: it works again.
    pub(crate) error: Option<JournalError>,
}

pub(crate) struct Saver {
    journal: Arc<dyn Journal>,
    state: Mutex<State>,
    failures: AtomicU64,
}

impl Saver {
    pub(crate) fn new(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn put(&self, table: Table, key: Bytes, value: Bytes) -> Option<Turn> {
        self.change(table, key, Some(value))
    }

    pub(crate) fn delete(&self, table: Table, key: Bytes) -> Option<Turn> {
        self.change(table, key, None)
    }

    fn change(&self, table: Table, key: Bytes, value: Option<Bytes>) -> Option<Turn> {
        let mut state = lock(&self.state);
        let before = state.failing.clone();
        // A change may not overtake an earlier one of its key.
        if !state.backlog.is_empty() {
            self.retry_locked(&mut state);
            if state.backlog.contains_key(&(table, key.clone())) {
                state.backlog.insert((table, key), value);
                return turn(before, &state);
            }
        }
        let result = self.apply(table, &key, &value);
        self.note(&mut state, &result);
        if result == Err(JournalError::Full) {
            self.postpone(&mut state, (table, key), value);
        }
        turn(before, &state)
    }

    fn postpone(&self, state: &mut State, key: (Table, Bytes), value: Option<Bytes>) {
        if state.backlog.len() < MAX_BACKLOG {
            state.backlog.insert(key, value);
        }
    }

    fn apply(&self, table: Table, key: &Bytes, value: &Option<Bytes>) -> Result<(), JournalError> {
        match value {
            Some(value) => self.journal.put(table, key.clone(), value.clone()),
            None => self.journal.delete(table, key.clone()),
        }
    }

    fn note(&self, state: &mut State, result: &Result<(), JournalError>) {
        state.failing = result.as_ref().err().cloned();
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn retry_locked(&self, state: &mut State) {
        for _ in 0..RETRIES {
            let Some(((table, key), value)) = state.backlog.pop_first() else {
                return;
            };
            let result = self.apply(table, &key, &value);
            if result == Err(JournalError::Full) {
                state.backlog.insert((table, key), value);
                return;
            }
            self.note(state, &result);
        }
    }

    /// Tries again what found the queue full.
    pub(crate) fn retry(&self) -> Option<Turn> {
        let mut state = lock(&self.state);
        if state.backlog.is_empty() {
            return None;
        }
        let before = state.failing.clone();
        self.retry_locked(&mut state);
        turn(before, &state)
    }

    pub(crate) fn set_aside(&self, record: Record, reason: &str) -> Option<Turn> {
        let mut state = lock(&self.state);
        let before = state.failing.clone();
        let result = self.journal.set_aside(record, reason);
        self.note(&mut state, &result);
        turn(before, &state)
    }
}

fn turn(before: Option<JournalError>, state: &State) -> Option<Turn> {
    let error = state.failing.clone();
    (before.is_some() != error.is_some()).then_some(Turn { before, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryJournal;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn a_full_queue_delays_changes_without_reordering_them() {
        let journal = Arc::new(MemoryJournal::new());
        let saver = Saver::new(journal.clone());
        saver.put(Table::Tunnels, key("gone"), key("1"));
        journal.fail_with(Some(JournalError::Full));
        let turn = saver.put(Table::Tunnels, key("a"), key("1"));
        let full = Some(JournalError::Full);
        assert_eq!(
            turn,
            Some(Turn {
                before: None,
                error: full.clone()
            })
        );
        assert_eq!(saver.put(Table::Tunnels, key("a"), key("2")), None);
        assert_eq!(saver.delete(Table::Tunnels, key("gone")), None);
        assert!(saver.failures() >= 2);
        journal.fail_with(None);
        assert_eq!(
            saver.retry(),
            Some(Turn {
                before: full,
                error: None
            })
        );
        let records = journal.load().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!((&records[0].key, &records[0].value), (&key("a"), &key("2")));
        assert_eq!(saver.retry(), None);
    }

    #[test]
    fn a_store_that_failed_is_not_tried_with_old_changes() {
        let journal = Arc::new(MemoryJournal::new());
        let saver = Saver::new(journal.clone());
        journal.fail_with(Some(JournalError::ReadOnly("disk error".into())));
        let turn = saver.put(Table::Leases, key("a"), key("1")).unwrap();
        assert!(turn.error.is_some(), "{turn:?}");
        journal.fail_with(None);
        assert_eq!(saver.retry(), None, "nothing was kept");
        let turn = saver.put(Table::Leases, key("b"), key("1")).unwrap();
        assert_eq!(turn.error, None);
        assert_eq!(journal.load().unwrap().len(), 1);
    }
}
