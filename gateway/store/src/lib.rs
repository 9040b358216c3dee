//! The session store on an embedded database.
//!
//! [`Store`] is a [`sluice_core::Journal`] on one redb file in the state directory. Changes are queued without
//! waiting and written by one thread, many in one durable commit. A store that cannot be trusted never keeps the
//! gateway from starting: a damaged file, or one of a newer version, is moved out of the way, never deleted, and a
//! fresh one takes its place, with an [`Alarm`]. A store that fails while the gateway runs becomes read-only with
//! an alarm, and the gateway goes on without it.

mod database;
mod error;
mod queue;
mod store;

pub use error::{Alarm, StoreError};
pub use queue::{MAX_QUEUED_BYTES, MAX_QUEUED_CHANGES};
pub use store::{COMMIT_AFTER, COMMIT_CHANGES, FILE_NAME, Store, StoreStats};
