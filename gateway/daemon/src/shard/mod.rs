//! A shard: one thread's share of fronts, machines, paths and timers.
//!
//! The [`Driver`] is the only code that pumps machines. It knows no socket and no protocol: packets leave by a
//! [`Plane`], credentials are checked by an [`Authority`], and what is to be counted goes to [`Counters`].

mod connections;
mod contexts;
mod desk;
mod driver;
mod events;
mod handover;
mod peers;
mod plane;
mod remote;
mod report;
mod requests;
mod runner;
mod slots;
mod standing;
mod streams;
mod sweep;
mod tap;
mod wheel;

#[cfg(test)]
mod tests;

pub use connections::{Ask, Carried, Connection, Outbox};
pub use contexts::{Acceptance, ContextAnswer};
pub use desk::{Answer, Answered, Desk, MAX_OPEN, VERDICT_TIME};
pub use driver::{Driver, Listener, Parts};
pub use handover::{KeptConnection, RestoredConnection, TakenUp, reset};
pub use remote::{ANSWER_TIME, FREEZE_TIME, INBOX, Inbox, Remote, Silent, Status, inbox};
pub use runner::{ListenerSetup, Restored, Setup, start};
pub use slots::Ticket;
pub use standing::{Again, Asked, Ending, KnownRealm, Limited, Standing};
pub use streams::{ACCEPT_FAILED, Reach};

use sluice_auth::{AuthRequest, Profile, RejectReason, Verifiable};
use sluice_core::Now;
use sluice_spi::{ContextRequest, DataPath, PeerAddr};

/// Where packets leave: the data plane with the shard's sockets.
pub trait Plane: DataPath {
    /// Sends a control packet of a listener from `peer.local` to `peer.remote`, before any user data that waits.
    fn send(&mut self, listener: usize, peer: PeerAddr, packet: &[u8]);
}

/// Who checks credentials.
pub trait Authority: Send {
    /// The methods that can be offered to a peer at present.
    fn verifiable(&self) -> Verifiable;

    /// The answer where it can be given on this thread at once.
    fn try_cached(&self, request: &AuthRequest, now: Now) -> Option<Result<Profile, RejectReason>>;

    /// What is known now of a user that authenticated before. `realm` is the one it was looked up in; `None`: nobody
    /// remembers. Quick, and without waiting.
    fn again(&self, _user: &str, _realm: Option<Option<&str>>, _protocol: &str, _now: Now) -> Again {
        Again::Unknown
    }

    /// Asks for an answer that comes back later by [`Driver::answer`] with this ticket. False: too many
    /// questions are open already.
    fn ask(&self, ticket: Ticket, request: Box<AuthRequest>) -> bool;

    /// Asks what the token of a listener's client leads to; the answer comes back later by [`Driver::answer`] with this
    /// ticket. False: too many questions are open already.
    fn accept(&self, ticket: Ticket, listener: usize, request: Box<ContextRequest>) -> bool;
}

/// What is counted, by the closed names of a module's descriptor.
pub trait Counters: Send {
    /// A packet or message was refused.
    fn dropped(&self, protocol: &'static str, reason: &'static str);

    /// Something else that a module counts.
    fn counted(&self, protocol: &'static str, name: &'static str);

    /// A session was refused by a limit.
    fn limited(&self, protocol: &'static str, reason: &'static str);

    /// A session is ended by what has changed around it.
    fn revoked(&self, protocol: &'static str, reason: &'static str);
}
