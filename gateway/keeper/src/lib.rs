//! The parent process that holds descriptors and memory for the worker and restarts it.
//!
//! [`run`] is the parent: it starts the worker, keeps what the worker gave it to hold, hands everything to the
//! next worker, and tells an exit that was asked for from one that was not. It knows no protocol, does nothing
//! asynchronous, and believes nothing the worker says: a worker that lies or floods gets a log line.
//!
//! [`Link`] is the worker's side. The two speak over a `SOCK_SEQPACKET` pair; the worker finds its end as its
//! standard input, which needs no fixed descriptor number and no code between fork and exec.
//!
//! A message the worker has sent is safe whatever happens to the worker next: it lies in the keeper's end of the
//! socket, and the keeper reads that to its end before it starts another worker.

mod channel;
mod held;
mod link;
mod notify;
mod signals;
mod supervise;
mod wire;

pub use link::{Adopted, Link, LinkError, Order};
pub use supervise::{KeeperOptions, Log, Severity, run};
pub use wire::{Refusal, StartReason};

/// Exit code of a worker, and then of the keeper, whose configuration is wrong. It is not started again: nothing
/// would change.
pub const EXIT_CONFIGURATION: u8 = 2;

/// Exit code of a worker that cannot start and has said why (port in use, state directory not writable). If no
/// worker was ever ready the keeper exits with it too; later it counts as a crash, since the cause may pass.
pub const EXIT_CANNOT_START: u8 = 3;

/// Exit code of the keeper when it gives up: the worker crashed too often, or had to be killed at shutdown.
pub const EXIT_FAILED: u8 = 1;

/// Descriptors in one message, and so the most one name can hold: the kernel's `SCM_MAX_FD`.
pub const MAX_PER_MESSAGE: usize = 253;

/// Descriptors that a keeper holds at most where its limit of open files allows as many: the kernel's default for the
/// highest limit there can be (`fs.nr_open`). A connection has two, a relay of datagrams up to four.
pub const MAX_DESCRIPTORS: u32 = 1 << 20;

/// Descriptors of its own limit of open files that the keeper leaves for itself: signals, links, the log, and a message
/// that is being received.
pub const OWN_DESCRIPTORS: u32 = 64 + MAX_PER_MESSAGE as u32;

/// Length of a name in octets. Names are printable ASCII without spaces.
pub const MAX_NAME: usize = 64;

/// Length of a status text in octets; longer text is cut.
pub const MAX_STATUS: usize = 256;

/// Size of one named memory in octets: room for millions of hot-state records, yet a wrong figure cannot ask for
/// all the machine's memory at once.
pub const MAX_MEMORY: u64 = 1 << 32;

/// Tells the worker that its standard input is the keeper's socket; the value is the version of the wire format.
const ENVIRONMENT: &str = "SLUICE_KEEPER";
