//! Fronts and machines: the sans-IO objects a module gives.

use crate::checkpoint::CheckpointError;
use crate::{
    ChannelRef, DropReason, Entropy, Event, Fact, Input, LocalRef, MachineKey, PeerAddr, ShardId, Shards,
    TerminateCause, TunnelInfo,
};
use bytes::{Bytes, BytesMut};
use sluice_auth::gss::ContextKeys;
use std::time::Instant;

/// Where a transmitted packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Out of the listener's socket, to this peer.
    Socket(PeerAddr),
    /// Through the installed path of a session, whose codec adds the carrier's header.
    Path(LocalRef),
    /// Out of a channel, in order.
    Channel(ChannelRef),
}

/// A packet whose bytes `poll_transmit` appended to its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub via: Via,
    /// How many bytes were appended.
    pub length: usize,
}

/// A machine's state is such that it cannot go on. The driver ends it, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// One per listener and shard of a protocol with packets: the cheap state of peers that have proven nothing yet,
/// and the look-up of whose a packet is. It holds no tunnel's state. Of a protocol whose machines have connections and
/// packets beside them ([`crate::Descriptor::packets`]) it names the machines and finds them.
pub trait Front: Send {
    /// Looks at a datagram that the data plane did not consume and says whose it is.
    fn handle_datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) -> Route;

    /// Lets half-open peers expire.
    fn handle_timeout(&mut self, now: Instant);

    /// Appends the next packet to send, if any.
    fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<Transmit>;

    /// The next event: only [`Event::Dropped`], [`Event::Counted`] and [`Event::Notice`].
    fn poll_event(&mut self) -> Option<Event>;

    /// When `handle_timeout` wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;

    /// A fresh key for a machine that the gateway opens itself; `None`: none is free.
    fn mint(&mut self, now: Instant) -> Option<MachineKey>;

    /// Takes the key of a restored machine; false where it is taken already.
    fn reserve(&mut self, key: MachineKey) -> bool;

    /// Gives a machine's key back. It is held for a while before it is used again.
    fn release(&mut self, key: MachineKey, now: Instant);

    /// Number of half-open peers.
    fn half_open(&self) -> usize;
}

/// Whose a datagram is.
pub enum Route {
    /// An existing machine's: hand it over as [`Input::Datagram`].
    Machine(MachineKey),
    /// A peer proved itself: this is its machine. The datagram is consumed; drain the machine.
    Accept(Accepted),
    /// Dealt with: answered, or dropped and counted.
    Done,
}

/// A machine made by a front.
pub struct Accepted {
    /// Its key.
    pub key: MachineKey,
    /// The machine.
    pub machine: Box<dyn Machine>,
}

/// Makes fronts and machines with one listener's configuration.
pub trait Factory: Send + Sync {
    /// The front for one shard of `shards`, which its identifiers name ([`Shards::mint`]); `None` for protocols of
    /// streams alone.
    fn front(&self, shard: ShardId, shards: Shards, entropy: Box<dyn Entropy>) -> Option<Box<dyn Front>>;

    /// With which keys the security contexts of its machines are accepted ([`Event::ContextRequested`]); `None`: they
    /// ask for none.
    fn context_keys(&self) -> Option<&ContextKeys> {
        None
    }

    /// A machine that does not come from a front.
    fn machine(
        &self,
        open: Open<'_>,
        shard: ShardId,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError>;
}

/// How a machine comes to be, other than through a front.
#[derive(Clone, Copy, Debug)]
pub enum Open<'a> {
    /// The gateway opens a tunnel to a peer.
    Initiated {
        /// Its key, from [`Front::mint`].
        key: MachineKey,
        /// The peer, and the address to send from.
        peer: PeerAddr,
    },
    /// A peer connected, and its first bytes are this protocol's. They follow as [`Input::Stream`] on
    /// [`ChannelRef::FIRST`].
    Accepted {
        /// Its key, from [`Front::mint`] where there is a front, else any that no other machine of the shard has.
        key: MachineKey,
        /// Both ends.
        peer: PeerAddr,
    },
    /// A machine goes on from its checkpoint.
    Restored {
        /// What [`Machine::checkpoint`] gave.
        checkpoint: &'a [u8],
    },
}

/// A machine could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The checkpoint is not usable.
    #[error("checkpoint not usable: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The module does not open tunnels by itself.
    #[error("this protocol does not open tunnels by itself")]
    NotSupported,
    /// No identifier is free.
    #[error("no identifier is free")]
    Full,
    /// The module has no machines for this transport.
    #[error("this protocol does not run over such a transport")]
    Transport,
}

/// One per tunnel or connection, with all its sessions.
pub trait Machine: Send {
    /// The key by which its front knows it.
    fn key(&self) -> MachineKey;

    /// Something happened.
    fn handle_input(&mut self, input: Input<'_>, now: Instant) -> Result<(), Fault>;

    /// The time given by `poll_timeout` has come.
    fn handle_timeout(&mut self, now: Instant);

    /// Whether the machine wants more bytes of a channel. While it does not, the driver leaves them with the kernel,
    /// so that a peer that sends ahead is slowed down and loses nothing. Asked after each drain.
    fn wants_bytes(&self, channel: ChannelRef) -> bool {
        let _ = channel;
        true
    }

    /// Appends the next packet to send, if any.
    fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<Transmit>;

    /// The next event, if any.
    fn poll_event(&mut self) -> Option<Event>;

    /// When `handle_timeout` wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;

    /// All that is needed to go on after a restart, in the envelope of [`crate::checkpoint`]; `None` while
    /// nothing is established. Times are stored as what remains, never as instants.
    fn checkpoint(&self, now: Instant) -> Option<Bytes>;

    /// Whether nothing that could be kept of it would let another process go on, as it has keys that cannot leave
    /// this one. It ends with the worker.
    fn is_bound(&self) -> bool {
        false
    }

    /// End the tunnel with all its sessions, telling the peer.
    fn close(&mut self, cause: TerminateCause, now: Instant);

    /// Whether the machine has nothing left to do and may be dropped.
    fn is_drained(&self) -> bool;

    /// What is known of the tunnel, for operators.
    fn describe(&self) -> TunnelInfo;

    /// What is known of a session, for operators: negotiated options, identifiers, states.
    fn describe_session(&self, session: LocalRef) -> Vec<Fact>;
}

/// Shorthand for fronts and machines that report a refused packet.
impl From<DropReason> for Event {
    fn from(reason: DropReason) -> Self {
        Event::Dropped(reason)
    }
}
