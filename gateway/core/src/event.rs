//! What the engine tells the rest of the gateway.

use crate::admission::Refused;
use crate::config::ReconfigureReport;
use crate::journal::{JournalError, Table};
use crate::model::{Session, Tunnel};
use crate::{Origin, SessionId, TunnelId};
use sluice_auth::{Identity, Method, RejectReason};
use sluice_spi::{Ended, PeerAddr, ShardId, TerminateCause};
use std::sync::Arc;

/// Something that happened, for the event stream, the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A tunnel was established.
    TunnelUp(Arc<Tunnel>),
    /// A tunnel is gone.
    TunnelDown {
        /// The tunnel, closed.
        tunnel: Arc<Tunnel>,
        /// How it ended.
        ended: Ended,
    },
    /// A tunnel was not admitted.
    TunnelRefused {
        /// Where it came in.
        origin: Origin,
        /// Who asked.
        peer: PeerAddr,
        /// Why not.
        reason: Refused,
    },
    /// A session was admitted.
    SessionOpened(Arc<Session>),
    /// A session was not admitted.
    SessionRefused {
        /// Where it came in.
        origin: Origin,
        /// The tunnel it would have been in; `None`: its protocol has none.
        tunnel: Option<TunnelId>,
        /// Who asked.
        peer: PeerAddr,
        /// Why not.
        reason: Refused,
    },
    /// A session asked for its peer's credentials to be checked.
    AuthRequested {
        /// The session.
        session: SessionId,
        /// The name the peer claims.
        identity: Identity,
        /// How it proves it.
        method: Method,
    },
    /// A session's peer was accepted or refused.
    AuthDecided {
        /// The session.
        session: Arc<Session>,
        /// `Ok`: accepted.
        result: Result<(), RejectReason>,
    },
    /// A session was established.
    SessionUp(Arc<Session>),
    /// A session is gone. Told once for each `SessionOpened`, or for each session that came from a record.
    SessionDown(Arc<Session>),
    /// A call that was to be placed came to nothing before it had a session.
    CallFailed {
        /// Its label.
        label: String,
        /// Why, in words.
        reason: String,
    },
    /// A session is to be ended; its shard finds it in [`crate::Engine::due`].
    EndRequested {
        /// The session.
        session: SessionId,
        /// The shard that owns it.
        shard: ShardId,
        /// Why.
        cause: TerminateCause,
    },
    /// A tunnel from a record is at work again.
    TunnelRecovered {
        /// The tunnel.
        tunnel: Arc<Tunnel>,
        /// Its sessions that go on.
        sessions: usize,
        /// Its sessions that do not; each has its own `SessionDown`.
        lost: usize,
    },
    /// Sessions without a tunnel were taken up after a restart. Told once, where there were any.
    ConnectionsRecovered {
        /// Those that go on.
        sessions: usize,
        /// Those that do not; each that could be read has its own `SessionDown`.
        lost: usize,
    },
    /// A record could not be used and was set aside.
    RecordSetAside {
        /// Its table.
        table: Table,
        /// What is wrong with it.
        reason: String,
    },
    /// A pool has no address free; told again only after one was.
    PoolExhausted {
        /// The pool.
        pool: String,
    },
    /// A user's profile names a pool that there is not.
    PoolUnknown {
        /// The pool.
        pool: String,
        /// The user.
        identity: Identity,
    },
    /// The store does not take changes (any more), or takes them again. Sessions go on either way.
    JournalFailing {
        /// What the store says; `None`: it works again.
        error: Option<JournalError>,
        /// What it said before; `None`: it worked.
        before: Option<JournalError>,
    },
    /// New sessions are refused, or admitted again.
    Draining(bool),
    /// The configuration changed.
    Reconfigured(ReconfigureReport),
}

/// Names all events: each variant has one, and the list of all is complete.
macro_rules! names {
    ($($pattern:pat => $name:literal,)*) => {
        impl EngineEvent {
            /// The names of all events.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The stable name used in the event stream.
            pub fn name(&self) -> &'static str {
                match self {
                    $($pattern => $name,)*
                }
            }
        }
    };
}

names! {
    EngineEvent::TunnelUp(_) => "tunnel_up",
    EngineEvent::TunnelDown { .. } => "tunnel_down",
    EngineEvent::TunnelRefused { .. } => "tunnel_refused",
    EngineEvent::SessionOpened(_) => "session_opened",
    EngineEvent::SessionRefused { .. } => "session_refused",
    EngineEvent::AuthRequested { .. } => "auth_requested",
    EngineEvent::AuthDecided { .. } => "auth_decided",
    EngineEvent::SessionUp(_) => "session_up",
    EngineEvent::SessionDown(_) => "session_down",
    EngineEvent::CallFailed { .. } => "call_failed",
    EngineEvent::EndRequested { .. } => "end_requested",
    EngineEvent::TunnelRecovered { .. } => "tunnel_recovered",
    EngineEvent::ConnectionsRecovered { .. } => "connections_recovered",
    EngineEvent::RecordSetAside { .. } => "record_set_aside",
    EngineEvent::PoolExhausted { .. } => "pool_exhausted",
    EngineEvent::PoolUnknown { .. } => "pool_unknown",
    EngineEvent::JournalFailing { .. } => "journal_failing",
    EngineEvent::Draining(_) => "draining",
    EngineEvent::Reconfigured(_) => "reconfigured",
}

/// Listens to the engine. Called on the thread that did the change, with no lock held: it must be quick.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn on_event(&self, event: &EngineEvent);
}
