//! The session store on an embedded database.
//!
//! [`Store`] is a [`sluice_core::Journal`] on one redb file in the state directory. Changes are queued without
//! waiting and written by one thread, many in one durable commit. A store that cannot be trusted never keeps the
//! gateway from starting: a damaged file, or one of a newer version, is moved out of the way, never deleted, and a
//! fresh one takes its place, with an [`Alarm`]. A store that fails while the gateway runs becomes read-only with
//! an alarm, and the gateway goes on without it; once the file can be written again, all that lives is written anew.

mod database;
mod error;
mod files;
mod queue;
mod shared;
mod store;
mod writer;

pub use error::{Alarm, News, StoreError};
pub use files::FILE_NAME;
pub use queue::{MAX_QUEUED_BYTES, MAX_QUEUED_CHANGES};
pub use shared::StoreStats;
pub use store::Store;
pub use writer::{COMMIT_AFTER, COMMIT_CHANGES, FIRST_ATTEMPT, LAST_ATTEMPT};
