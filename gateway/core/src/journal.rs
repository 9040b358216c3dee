//! What the engine asks of a store: keeping small records and giving them back after a restart.

use crate::TunnelId;
use bytes::Bytes;
use std::fmt;
use std::ops::ControlFlow;
use std::time::SystemTime;

/// A set of records of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// One record a tunnel with all its sessions.
    Tunnels,
    /// One record a session with its counters, written more often than the tunnel's.
    Counters,
    /// One record a user and pool with the address it had last.
    Leases,
    /// One record a quota and whose it is with what was used of it. The engine knows nothing of them.
    Quotas,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 4] = [Table::Tunnels, Table::Counters, Table::Leases, Table::Quotas];

    /// The table's name in the store and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Table::Tunnels => "tunnels",
            Table::Counters => "counters",
            Table::Leases => "leases",
            Table::Quotas => "quotas",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One stored record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Its table.
    pub table: Table,
    /// Its key, unique in the table.
    pub key: Bytes,
    /// What was put.
    pub value: Bytes,
}

/// A journal could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The queue of changes is full; the change was not taken.
    #[error("the store does not keep up: too many changes wait to be written")]
    Full,
    /// The store has failed and takes no changes until it has recovered; sessions go on without being kept.
    #[error("the store is read-only after an error: {0}")]
    ReadOnly(String),
    /// A tunnel's record would be larger than can be read again.
    #[error("the record of tunnel {0} is larger than a record may be")]
    TooLarge(TunnelId),
    /// The store could not be read.
    #[error("the store cannot be read: {0}")]
    Read(String),
}

/// All that is to be in a journal. A journal that has failed does not know what of the last changes it has, and was
/// told nothing of those that came meanwhile: it asks for everything, and what it is not given is to go.
pub trait Living: Send + Sync {
    /// Gives every record that is to be there, each once, in any order, and ends early where `put` breaks. A change
    /// that the journal takes before this is called may be in what is given or not; one that is made meanwhile too: the
    /// journal puts those it has taken on top. `clock` is the wall clock.
    fn records(&self, clock: &dyn Fn() -> SystemTime, put: &mut dyn FnMut(Record) -> ControlFlow<()>);
}

/// A store of records. Changes of one key are kept in the order they were made; a later one may replace an
/// earlier one that was not yet written.
pub trait Journal: Send + Sync {
    /// Puts a record in place of a former one with its key. Only queues: never waits for a disk.
    fn put(&self, table: Table, key: Bytes, value: Bytes) -> Result<(), JournalError>;

    /// Deletes a record, if there is one. Only queues: never waits for a disk.
    fn delete(&self, table: Table, key: Bytes) -> Result<(), JournalError>;

    /// Keeps a record that cannot be used out of the way, where no later `load` gives it but a person can look
    /// at it. Only queues: never waits for a disk.
    fn set_aside(&self, record: Record, reason: &str) -> Result<(), JournalError>;

    /// Waits until every change made before is durable. Blocks; never called on a shard.
    fn flush(&self) -> Result<(), JournalError>;

    /// All records, each once, by table and key. Blocks; called once at the start.
    fn load(&self) -> Result<Vec<Record>, JournalError>;
}
