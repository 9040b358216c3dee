//! The database file: its layout, one commit, reading all.

use crate::error::Failure;
use crate::queue::{Batch, Change};
use bytes::Bytes;
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};
use sluice_core::{Living, Record, Table};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::SystemTime;

type Bin = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const ASIDE: Bin = TableDefinition::new("aside");
/// The key of the layout's version in the table `meta`.
const SCHEMA_KEY: &str = "schema";
/// The version of the layout that this version writes.
pub(crate) const SCHEMA: u64 = 1;
/// The key in the table `meta` of how often a store that had failed was written to, to see whether that works.
const PROBES_KEY: &str = "probes";
/// Memory for pages of the database, in bytes: it is written much more than read.
const CACHE: usize = 16 << 20;
/// A file is compacted at the start where it is this many times larger than what it holds.
const COMPACT_FACTOR: u64 = 4;
/// Smaller files are not worth it, in bytes.
const COMPACT_FROM: u64 = 64 << 20;

fn definition(table: Table) -> Bin {
    TableDefinition::new(table.as_str())
}

/// Turns a panic of the database on a damaged file into an error.
fn guarded<T>(act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure::Damaged(
                text.unwrap_or_else(|| "the database panicked".to_owned()),
            ))
        }
    }
}

/// Opens the file, or makes it where it is missing or empty, checks every page of it and its layout.
pub(crate) fn open(path: &Path) -> Result<Database, Failure> {
    guarded(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        builder.set_check_integrity_on_open(true);
        let mut database = builder.create(path)?;
        match schema(&database)? {
            Some(SCHEMA) => complete(&database)?,
            Some(newer) if newer > SCHEMA => return Err(Failure::Newer(newer)),
            Some(other) => return Err(Failure::Damaged(format!("layout {other} was never written"))),
            None => make_tables(&database)?,
        }
        let size = std::fs::metadata(path).map_err(Failure::Io)?.len();
        if size >= COMPACT_FROM && size / COMPACT_FACTOR > live(&database)? {
            database
                .compact()
                .map_err(|error| Failure::Other(error.to_string()))?;
        }
        Ok(database)
    })
}

fn schema(database: &Database) -> Result<Option<u64>, Failure> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(meta.get(SCHEMA_KEY)?.map(|value| value.value()))
}

/// Makes the tables that the version which wrote the file did not have.
fn complete(database: &Database) -> Result<(), Failure> {
    let read = database.begin_read()?;
    for table in Table::ALL {
        match read.open_table(definition(table)) {
            Err(TableError::TableDoesNotExist(_)) => return make_tables(database),
            opened => drop(opened?),
        }
    }
    Ok(())
}

fn make_tables(database: &Database) -> Result<(), Failure> {
    let write = begin(database)?;
    write.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
    write.open_table(ASIDE)?;
    for table in Table::ALL {
        write.open_table(definition(table))?;
    }
    write.commit()?;
    Ok(())
}

/// Octets of what the file holds.
fn live(database: &Database) -> Result<u64, Failure> {
    let read = database.begin_read()?;
    let mut live = 0;
    for table in Table::ALL.map(definition).into_iter().chain([ASIDE]) {
        let stats = read.open_table(table)?.stats()?;
        live += stats.stored_bytes() + stats.metadata_bytes();
    }
    Ok(live)
}

fn begin(database: &Database) -> Result<WriteTransaction, Failure> {
    let mut write = database.begin_write()?;
    // The state of the allocator goes with each commit, so that opening after a crash needs no repair.
    write.set_quick_repair(true);
    Ok(write)
}

/// Makes a batch of changes durable, all or none.
pub(crate) fn commit(database: &Database, batch: &Batch) -> Result<(), Failure> {
    guarded(|| {
        let write = begin(database)?;
        for table in Table::ALL {
            let mut open = write.open_table(definition(table))?;
            for ((of, key), change) in &batch.changes {
                match change {
                    _ if *of != table => {}
                    Change::Put(value) => {
                        open.insert(key.as_ref(), value.as_ref())?;
                    }
                    Change::Delete => {
                        open.remove(key.as_ref())?;
                    }
                }
            }
        }
        if !batch.aside.is_empty() {
            let mut aside = write.open_table(ASIDE)?;
            let mut number = aside.last()?.map_or(0, |(key, _)| number_of(key.value()));
            for (record, reason) in &batch.aside {
                number = number.saturating_add(1);
                let key = aside_key(number, record);
                aside.insert(key.as_slice(), aside_value(record, reason).as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    })
}

/// Sees whether a commit works, without a change to what is kept.
pub(crate) fn probe(database: &Database) -> Result<(), Failure> {
    guarded(|| {
        let write = begin(database)?;
        {
            let mut meta = write.open_table(META)?;
            let probes = meta.get(PROBES_KEY)?.map_or(0, |value| value.value());
            meta.insert(PROBES_KEY, probes.saturating_add(1))?;
        }
        write.commit()?;
        Ok(())
    })
}

/// Puts all that lives in place of all records, in one commit: whatever happens meanwhile, what is there afterwards is
/// either the old or the new. How many records there are now.
pub(crate) fn rewrite(database: &Database, living: &dyn Living) -> Result<usize, Failure> {
    guarded(|| {
        let write = begin(database)?;
        let mut count = 0;
        {
            let open = |table| {
                write.delete_table(definition(table))?;
                write.open_table(definition(table))
            };
            let mut tunnels = open(Table::Tunnels)?;
            let mut counters = open(Table::Counters)?;
            let mut leases = open(Table::Leases)?;
            let mut quotas = open(Table::Quotas)?;
            let mut failed = None;
            living.records(&SystemTime::now, &mut |record| {
                let table = match record.table {
                    Table::Tunnels => &mut tunnels,
                    Table::Counters => &mut counters,
                    Table::Leases => &mut leases,
                    Table::Quotas => &mut quotas,
                };
                match table.insert(record.key.as_ref(), record.value.as_ref()) {
                    Ok(_) => {
                        count += 1;
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            });
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
        write.commit()?;
        Ok(count)
    })
}

fn number_of(key: &[u8]) -> u64 {
    let number = key.first_chunk::<8>();
    number.map_or(0, |number| u64::from_be_bytes(*number))
}

/// A running number, then the table and key the record had.
fn aside_key(number: u64, record: &Record) -> Vec<u8> {
    let table = record.table.as_str().as_bytes();
    [&number.to_be_bytes()[..], table, b"/", &record.key].concat()
}

/// The reason up to the first zero octet, then the record.
fn aside_value(record: &Record, reason: &str) -> Vec<u8> {
    let reason = reason.replace('\0', " ");
    [reason.as_bytes(), b"\0", &record.value].concat()
}

/// All records, by table and key.
pub(crate) fn read_all(database: &Database) -> Result<Vec<Record>, Failure> {
    guarded(|| {
        let read = database.begin_read()?;
        let mut records = Vec::new();
        for table in Table::ALL {
            let open = read.open_table(definition(table))?;
            for entry in open.iter()? {
                let (key, value) = entry?;
                records.push(Record {
                    table,
                    key: Bytes::copy_from_slice(key.value()),
                    value: Bytes::copy_from_slice(value.value()),
                });
            }
        }
        Ok(records)
    })
}

/// The reasons why records were set aside, the oldest first.
pub(crate) fn read_aside(database: &Database) -> Result<Vec<String>, Failure> {
    guarded(|| {
        let read = database.begin_read()?;
        let aside = read.open_table(ASIDE)?;
        let mut reasons = Vec::new();
        for entry in aside.iter()? {
            let (_, value) = entry?;
            let reason = value
                .value()
                .split(|&octet| octet == 0)
                .next()
                .unwrap_or_default();
            reasons.push(String::from_utf8_lossy(reason).into_owned());
        }
        Ok(reasons)
    })
}

#[cfg(test)]
pub(crate) fn set_schema(database: &Database, schema: u64) {
    let write = begin(database).unwrap();
    write
        .open_table(META)
        .unwrap()
        .insert(SCHEMA_KEY, schema)
        .unwrap();
    write.commit().unwrap();
}

#[cfg(test)]
pub(crate) fn drop_table(database: &Database, table: Table) {
    let write = begin(database).unwrap();
    write.delete_table(definition(table)).unwrap();
    write.commit().unwrap();
}
