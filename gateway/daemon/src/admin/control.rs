//! What the admin plane asks of the running gateway besides the engine's tables.

use crate::config::{Change, Config};
use sluice_auth::policy::Policy;
use sluice_core::{SessionId, TunnelId};
use sluice_spi::{Fact, Originate, ShardId};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An answer that takes a while, such as that of a shard.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The running gateway as the admin plane sees it. What only reads or changes the engine's own tables (listing,
/// ending sessions, draining) goes to [`sluice_core::Engine`] directly.
///
/// Nothing here may wait without end: a shard that does not answer in time is [`ControlError::Unavailable`].
pub trait Control: Send + Sync {
    /// How the parts of the gateway are.
    fn status(&self) -> Answer<'_, RuntimeStatus>;

    /// Why the gateway is not ready for new sessions; empty: it is. Quick, never waits.
    fn not_ready(&self) -> Vec<Reason>;

    /// What is wrong besides, but keeps no session out. Quick, never waits.
    fn warnings(&self) -> Vec<Reason>;

    /// What is listened on, each address of each listener.
    fn listeners(&self) -> Vec<ListenerStatus>;

    /// The policy in force.
    fn policy(&self) -> Arc<Policy>;

    /// Users have changed: live sessions are judged again.
    fn users_changed(&self);

    /// What its machine knows of a session now, with the engine's counters of it brought up to date before.
    /// `None`: there is no such session any more.
    fn describe_session(&self, session: SessionId) -> Answer<'_, Option<Vec<Fact>>>;

    /// What its machine knows of a tunnel now. `None`: there is no such tunnel any more.
    fn describe_tunnel(&self, tunnel: TunnelId) -> Answer<'_, Option<Vec<Fact>>>;

    /// Places a call. `Ok`: a machine has taken it; what becomes of it is told by events under its label.
    fn place_call(&self, call: PlaceCall) -> Answer<'_, Result<(), ControlError>>;

    /// Switches the trace of a session on or off. Lines and packets go to [`super::Traces`].
    fn set_trace(&self, session: SessionId, on: bool) -> Answer<'_, Result<(), ControlError>>;

    /// Puts a checked configuration into effect, as far as its changes need no restart.
    fn apply(&self, config: Arc<Config>, changes: Vec<Change>) -> Answer<'_, Result<Applied, ControlError>>;

    /// Restarts the worker under its keeper; sessions stay. Refused while that would lose sessions, unless
    /// `lose_sessions` says that it may. `Ok`: the restart has begun.
    fn restart(&self, lose_sessions: bool) -> Answer<'_, Result<(), ControlError>>;

    /// What would be, or was, changed on the host for the current configuration.
    fn host_changes(&self) -> Answer<'_, Vec<HostChange>>;
}

/// Why the gateway did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// What is meant is not there (any more).
    #[error("{0}")]
    NotFound(String),
    /// It cannot be done in the present state.
    #[error("{0}")]
    Conflict(String),
    /// A part of the gateway cannot answer now, or is off.
    #[error("{0}")]
    Unavailable(String),
    /// The request itself is wrong: the member of the body that is meant, and what is wrong with it.
    #[error("{member}: {message}")]
    Invalid {
        /// The member, such as `peer`.
        member: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// Something that keeps the gateway from doing all its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A stable code in `snake_case`.
    pub code: &'static str,
    /// What is the matter and what to do, in words.
    pub text: String,
}

/// How the parts of the running gateway are.
#[derive(Clone, Debug)]
pub struct RuntimeStatus {
    /// When the keeper, and with it the gateway, was started.
    pub started: SystemTime,
    /// When this worker was started.
    pub worker_started: SystemTime,
    /// How often the keeper has started a worker anew.
    pub restarts: u64,
    /// The shards.
    pub shards: Vec<ShardStatus>,
    /// Services that may be on or off, such as the data plane.
    pub services: Vec<ServiceStatus>,
    /// What was given up after the start, such as capabilities.
    pub sandbox: Vec<ServiceStatus>,
    /// The store of what must not be forgotten.
    pub store: ServiceStatus,
}

/// One shard.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Which.
    pub shard: ShardId,
    /// Machines it runs.
    pub machines: usize,
    /// Installed paths.
    pub paths: usize,
    /// How late its loop was at worst in the last ten seconds.
    pub lag: Duration,
}

/// One part that may be on or off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceStatus {
    /// A stable name in `snake_case`.
    pub name: &'static str,
    /// Whether it works.
    pub on: bool,
    /// Why not, or in which way it does; may be empty where it is on.
    pub detail: String,
}

/// One address of one listener.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: String,
    /// Its protocol.
    pub protocol: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// `None`: it is listened on; otherwise why not.
    pub off: Option<String>,
    /// Peers that have not proven anything yet, over all shards.
    pub half_open: usize,
}

/// A call to be placed.
#[derive(Clone, Debug)]
pub struct PlaceCall {
    /// The listener to call from.
    pub listener: String,
    /// The tunnel to use; `None`: one to `peer`, opened where there is none.
    pub tunnel: Option<TunnelId>,
    /// The peer, where no tunnel is given.
    pub peer: Option<SocketAddr>,
    /// The call itself.
    pub call: Originate,
}

/// What became of a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Sessions that keep an address which no pool has any more.
    pub orphans: usize,
    /// What did not take effect, and why.
    pub notes: Vec<String>,
}

/// One thing that is changed on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChange {
    /// What it is, such as `route 10.64.0.0/16 dev sluice0`.
    pub what: String,
    /// Whether it is in effect.
    pub done: bool,
    /// Why not, or in which way; may be empty.
    pub detail: String,
}
