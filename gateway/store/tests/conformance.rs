//! What every journal must do: one suite for the memory journal and the store.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use sluice_core::{Journal, MemoryJournal, Record, Table};
use sluice_store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A journal, and how to have it anew as after a restart.
trait Kept {
    fn journal(&self) -> &dyn Journal;
    fn reopen(self: Box<Self>) -> Box<dyn Kept>;
    /// Reasons of the records set aside.
    fn aside(&self) -> Vec<String>;
}

struct InMemory(Arc<MemoryJournal>);

impl Kept for InMemory {
    fn journal(&self) -> &dyn Journal {
        self.0.as_ref()
    }

    fn reopen(self: Box<Self>) -> Box<dyn Kept> {
        self
    }

    fn aside(&self) -> Vec<String> {
        self.0.aside().into_iter().map(|(_, reason)| reason).collect()
    }
}

struct OnDisk {
    store: Store,
    directory: tempfile::TempDir,
}

impl OnDisk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        Self { store, directory }
    }
}

impl Kept for OnDisk {
    fn journal(&self) -> &dyn Journal {
        &self.store
    }

    fn reopen(self: Box<Self>) -> Box<dyn Kept> {
        let Self { store, directory } = *self;
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.alarms(), []);
        Box::new(Self { store, directory })
    }

    fn aside(&self) -> Vec<String> {
        self.store.aside().unwrap()
    }
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn record(table: Table, name: &str, value: &str) -> Record {
    Record {
        table,
        key: key(name),
        value: key(value),
    }
}

fn put(journal: &dyn Journal, record: &Record) {
    journal
        .put(record.table, record.key.clone(), record.value.clone())
        .unwrap();
}

fn gives_back_what_was_put_by_table_and_key(kept: Box<dyn Kept>) {
    let records = [
        record(Table::Tunnels, "a", "1"),
        record(Table::Tunnels, "b", ""),
        record(Table::Counters, "a", "2"),
        record(Table::Leases, "\u{0}\u{ff}", "3"),
    ];
    for record in records.iter().rev() {
        put(kept.journal(), record);
    }
    kept.journal().flush().unwrap();
    assert_eq!(kept.journal().load().unwrap(), records);
    let kept = kept.reopen();
    assert_eq!(kept.journal().load().unwrap(), records);
}

fn the_last_change_of_a_key_counts(kept: Box<dyn Kept>) {
    let journal = kept.journal();
    for value in ["1", "2", "3"] {
        put(journal, &record(Table::Tunnels, "a", value));
    }
    put(journal, &record(Table::Tunnels, "gone", "1"));
    journal.delete(Table::Tunnels, key("gone")).unwrap();
    journal.delete(Table::Tunnels, key("never there")).unwrap();
    journal.delete(Table::Leases, key("back")).unwrap();
    put(journal, &record(Table::Leases, "back", "1"));
    journal.flush().unwrap();
    put(journal, &record(Table::Tunnels, "a", "4"));
    journal.flush().unwrap();
    let expected = [
        record(Table::Tunnels, "a", "4"),
        record(Table::Leases, "back", "1"),
    ];
    assert_eq!(kept.reopen().journal().load().unwrap(), expected);
}

fn a_record_set_aside_is_out_of_the_way_and_not_lost(kept: Box<dyn Kept>) {
    let journal = kept.journal();
    let bad = record(Table::Tunnels, "bad", "x");
    put(journal, &bad);
    put(journal, &record(Table::Tunnels, "good", "y"));
    journal.flush().unwrap();
    for reason in ["checksum mismatch", "truncated"] {
        journal.set_aside(bad.clone(), reason).unwrap();
        journal.flush().unwrap();
    }
    let kept = kept.reopen();
    let good = [record(Table::Tunnels, "good", "y")];
    assert_eq!(kept.journal().load().unwrap(), good);
    assert_eq!(kept.aside(), ["checksum mismatch", "truncated"]);
    // Its key may be used again.
    put(kept.journal(), &bad);
    kept.journal().flush().unwrap();
    assert_eq!(kept.journal().load().unwrap().len(), 2);
}

fn closing_writes_what_waits(kept: Box<dyn Kept>) {
    put(kept.journal(), &record(Table::Leases, "a", "1"));
    let kept = kept.reopen();
    assert_eq!(kept.journal().load().unwrap().len(), 1);
}

fn flush_with_nothing_to_do_returns(kept: Box<dyn Kept>) {
    for _ in 0..3 {
        kept.journal().flush().unwrap();
    }
}

fn large_records_and_many_of_them(kept: Box<dyn Kept>) {
    let large = Record {
        table: Table::Tunnels,
        key: key("large"),
        value: Bytes::from(vec![0x5a; 5 << 20]),
    };
    put(kept.journal(), &large);
    let mut expected = BTreeMap::from([((large.table, large.key.clone()), large.value.clone())]);
    for number in 0..3000u32 {
        let small = Record {
            table: Table::ALL[number as usize % 3],
            key: Bytes::copy_from_slice(&number.to_be_bytes()),
            value: Bytes::from(vec![number as u8; 300]),
        };
        put(kept.journal(), &small);
        expected.insert((small.table, small.key), small.value);
    }
    kept.journal().flush().unwrap();
    let records = kept.reopen().journal().load().unwrap();
    let found: BTreeMap<_, _> = records
        .into_iter()
        .map(|record| ((record.table, record.key), record.value))
        .collect();
    assert_eq!(found, expected);
}

fn threads_share_it(kept: Box<dyn Kept>) {
    let journal = kept.journal();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || {
                for number in 0..250u8 {
                    let key = Bytes::from(vec![thread, number % 50]);
                    let value = Bytes::from(vec![number]);
                    journal.put(Table::Counters, key, value).unwrap();
                    if number % 100 == 0 {
                        journal.flush().unwrap();
                    }
                }
                journal.flush().unwrap();
            });
        }
    });
    let records = kept.reopen().journal().load().unwrap();
    assert_eq!(records.len(), 200);
    for record in records {
        assert_eq!(record.value[0], 200 + record.key[1], "the last of its thread");
    }
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod memory {
            $(#[test] fn $test() { super::$test(Box::new(super::InMemory(Default::default()))) })*
        }
        mod store {
            $(#[test] fn $test() { super::$test(Box::new(super::OnDisk::new())) })*
        }
    };
}

suite! {
    gives_back_what_was_put_by_table_and_key
    the_last_change_of_a_key_counts
    a_record_set_aside_is_out_of_the_way_and_not_lost
    closing_writes_what_waits
    flush_with_nothing_to_do_returns
    large_records_and_many_of_them
    threads_share_it
}
