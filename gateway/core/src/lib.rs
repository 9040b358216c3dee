//! Sessions, admission, address pools, terminate causes and restoration: the engine under every protocol.
//!
//! [`Engine`] is shared by all shards and the admin plane. Its methods are quick and never wait for a disk or a
//! peer; time and randomness are given to it. What it must not forget it puts into a [`Journal`], what happens it
//! tells an [`Observer`].

mod admission;
mod blocks;
mod clock;
mod config;
mod engine;
mod event;
mod facts;
mod history;
mod ids;
mod journal;
mod leases;
mod memory;
mod model;
mod pools;
mod query;
mod record;
mod saver;
mod table;
mod time;

pub use admission::Refused;
pub use blocks::{BlockError, IPV6_UNIT, Ipv4Block, MAX_IPV4_UNITS, MAX_IPV6_UNITS};
pub use config::{
    DEFAULT_COUNTER_INTERVAL, DEFAULT_HISTORY, DEFAULT_OPENING, DEFAULT_OPENING_TIMEOUT,
    DEFAULT_OVERLOAD_FULL, DEFAULT_OVERLOAD_START, DEFAULT_SESSIONS, DEFAULT_STICKY_COUNT, DEFAULT_TUNNELS,
    Defaults, EngineConfig, Limits, ReconfigureReport, SetupRate, WhenFull,
};
pub use engine::{Engine, IDLE_GRACE, Loaded, MAX_DUE, RestoredTunnel};
pub use event::{EngineEvent, Observer};
pub use facts::Facts;
pub use ids::{ID_TEXT, IdError, SessionId, TunnelId};
pub use journal::{Journal, JournalError, Living, Record, Table};
pub use memory::MemoryJournal;
pub use model::{Address, Origin, Session, SessionLimits, State, Tunnel};
pub use pools::{Allocation, DEFAULT_STICKY, PoolConfig};
pub use query::{
    Lease, LeaseQuery, LeaseStatus, MAX_PAGE, Order, Owner, Page, PoolStatus, PoolUse, SessionFilter,
    SessionQuery, Totals, TunnelQuery,
};
pub use time::Now;
