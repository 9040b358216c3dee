//! What can go wrong, in words that say what to do.

use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The store cannot be opened, and somebody must do something about it. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory, or the file in it, cannot be written.
    #[error(
        "the state directory {path} is not writable ({error}): give it to the user the gateway runs as, or set another one"
    )]
    NotWritable {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no room for the store.
    #[error("no room for the session store {path} ({error}): free some space and start again")]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has the store open.
    #[error(
        "the session store {path} is in use: another gateway runs with this state directory; stop it, or set another one"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A damaged or newer file could not be moved out of the way.
    #[error(
        "the session store {path} is not usable ({reason}) and cannot be moved aside ({error}): move it away and start again"
    )]
    NotMoved {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the system said.
        error: io::Error,
    },
    /// Anything else.
    #[error(
        "the session store {path} cannot be opened ({reason}): look at the disk, or set another state directory"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// In words, for a store that was at work.
    pub(crate) fn while_running(self) -> String {
        match self {
            StoreError::DiskFull { error, .. } => Failure::Io(error).while_running(),
            other => other.to_string(),
        }
    }
}

/// Something an operator must know about a store that works nevertheless, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The file was damaged. It was moved aside, and the store began empty.
    Corrupted {
        /// Where it is now.
        moved_to: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a newer version. It was moved aside, and the store began empty.
    Newer {
        /// Where it is now.
        moved_to: PathBuf,
        /// The version of its layout.
        schema: u64,
    },
    /// Writing failed. Nothing is kept until the store has recovered.
    ReadOnly {
        /// What is wrong and what to do.
        error: String,
    },
}

/// Something that happened to a store, to be told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// There is something an operator must know.
    Alarm(Alarm),
    /// A store that had failed keeps everything again: [`Alarm::ReadOnly`] is over.
    Recovered {
        /// Records that were written anew: all that live.
        records: usize,
        /// Time since it failed.
        after: Duration,
    },
}

impl Alarm {
    /// The stable code used in metrics, logs and the API.
    pub fn code(&self) -> &'static str {
        match self {
            Alarm::Corrupted { .. } => "store_corrupted",
            Alarm::Newer { .. } => "store_newer",
            Alarm::ReadOnly { .. } => "store_read_only",
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alarm::Corrupted { moved_to, reason } => write!(
                f,
                "the session store was damaged ({reason}) and was moved to {}: sessions from before are lost; \
                 keep the file for an analysis, or delete it",
                moved_to.display()
            ),
            Alarm::Newer { moved_to, schema } => write!(
                f,
                "the session store has the newer layout {schema} and was moved to {}: sessions from before are \
                 lost; go back to the newer version to use it",
                moved_to.display()
            ),
            Alarm::ReadOnly { error } => write!(
                f,
                "the session store takes no more changes: {error}. Sessions go on, and the store recovers by itself \
                 as soon as it can be written; a restart before that would lose what changed since"
            ),
        }
    }
}

/// What came of an attempt to work with the database.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file is damaged.
    Damaged(String),
    /// The file has a newer layout.
    Newer(u64),
    /// Another process has it.
    InUse,
    /// The system refused something.
    Io(io::Error),
    /// Anything else.
    Other(String),
}

impl Failure {
    /// Whether the system said that there is no room: the disk, a quota, or a limit on the size of files.
    pub(crate) fn is_full(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// In words, for a store that was at work.
    pub(crate) fn while_running(&self) -> String {
        match self {
            Failure::Io(error) if Self::is_full(error) => {
                format!("no room on the disk ({error}): free some space")
            }
            Failure::Io(error) => format!("{error}: look at the disk"),
            Failure::Damaged(reason) => format!("damaged ({reason}): look at the disk"),
            Failure::Newer(schema) => format!("it has the newer layout {schema}"),
            Failure::InUse => "another process uses it".to_owned(),
            Failure::Other(reason) => format!("{reason}: look at the disk"),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupted(reason) => Failure::Damaged(reason),
            // A file that is none of the database's is reported as invalid data.
            StorageError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Failure::Damaged(error.to_string())
            }
            StorageError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Failure::Damaged(error.to_string())
            }
            StorageError::Io(error) => Failure::Io(error),
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Failure::InUse,
            DatabaseError::Storage(error) => error.into(),
            DatabaseError::RepairAborted | DatabaseError::UpgradeRequired(_) => {
                Failure::Damaged(error.to_string())
            }
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            error => Failure::Other(error.to_string()),
        }
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            // The tables are ours: others of their name, or of another type, are not.
            error => Failure::Damaged(error.to_string()),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            error => Failure::Other(error.to_string()),
        }
    }
}
