//! Channels: the byte streams of a machine, and its relays of datagrams.
//!
//! The machine of a stream protocol is made for one accepted connection, its channel [`ChannelRef::FIRST`]. It may
//! ask for others: connect to a target ([`crate::Event::OpenChannel`]), wait for a connection
//! ([`crate::Event::ListenChannel`]), relay datagrams ([`crate::Event::OpenRelay`]). Whether it may, under which
//! address and by which way is the gateway's business: names are resolved, policy asked and addresses tried in one
//! step, and the machine hears what came of it. When it has nothing more to say, it joins two channels
//! ([`crate::Event::Join`]), and their bytes pass it by.

use crate::DropReason;
use bytes::BytesMut;
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

/// A machine's own name of one of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelRef(pub u32);

impl ChannelRef {
    /// The connection that the machine was made for.
    pub const FIRST: ChannelRef = ChannelRef(0);
}

/// Where a client wants to go, or whom it expects. The port is 0 only where it does not matter.
pub use sluice_auth::Destination as Target;

/// How a channel's other end stopped sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// In order (FIN). The other direction may go on.
    Finished,
    /// The connection is gone (RST, or a failure of the network).
    Reset,
}

/// Why a channel was not opened. The order is that of preference where several addresses failed in different ways:
/// the last is what the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChannelFailure {
    /// Nobody answered in time, or nobody came.
    TimedOut,
    /// No way to the network.
    NetworkUnreachable,
    /// No way to the host, or its name is not known.
    HostUnreachable,
    /// The host said no.
    Refused,
    /// The host has no address of a family that the gateway may use.
    Family,
    /// An upstream proxy does not do what it was asked for.
    UpstreamCommand,
    /// An upstream proxy does not take addresses of the kind that it was given.
    UpstreamAddress,
    /// A way that the gateway has to take (an upstream proxy) failed.
    Upstream,
    /// The gateway has no descriptor, port or memory left, or is ending.
    Resources,
    /// Policy or a limit says no.
    Denied,
}

impl ChannelFailure {
    /// All failures, for closed metric label sets.
    pub const ALL: [ChannelFailure; 10] = [
        ChannelFailure::TimedOut,
        ChannelFailure::NetworkUnreachable,
        ChannelFailure::HostUnreachable,
        ChannelFailure::Refused,
        ChannelFailure::Family,
        ChannelFailure::UpstreamCommand,
        ChannelFailure::UpstreamAddress,
        ChannelFailure::Upstream,
        ChannelFailure::Resources,
        ChannelFailure::Denied,
    ];

    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ChannelFailure::TimedOut => "timed_out",
            ChannelFailure::NetworkUnreachable => "network_unreachable",
            ChannelFailure::HostUnreachable => "host_unreachable",
            ChannelFailure::Refused => "refused",
            ChannelFailure::Family => "family",
            ChannelFailure::UpstreamCommand => "upstream_command",
            ChannelFailure::UpstreamAddress => "upstream_address",
            ChannelFailure::Upstream => "upstream",
            ChannelFailure::Resources => "resources",
            ChannelFailure::Denied => "denied",
        }
    }
}

/// How a machine ends a channel. What it transmitted before is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Close {
    /// In order: the peer reads everything, then the end.
    Finish,
    /// At once (RST).
    Reset,
}

/// How two joined channels came apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinEnd {
    /// Both sides sent their end.
    Finished,
    /// The first channel's connection was reset.
    FirstReset,
    /// The second channel's connection was reset.
    SecondReset,
    /// Nothing went either way for as long as that may be.
    Idle,
    /// One side had ended, and the other did not for as long as that may be.
    HalfClosed,
    /// It lasted as long as it may.
    Lifetime,
    /// The gateway was told to end it.
    Asked,
    /// The codec of the first channel could not go on, for this reason; both connections were reset.
    Codec(DropReason),
}

/// Both directions of the bytes that a client exchanges with the gateway on a channel, where they are not payload as
/// they are. Owned by the data plane and called with `&mut`.
pub trait StreamCodec: Send {
    /// Takes bytes from the client, cut anywhere, and appends the payload that is whole by now. What was given to an
    /// earlier owner and is payload comes first, so that it may be called without bytes.
    ///
    /// # Errors
    ///
    /// Where the stream cannot go on.
    fn open(&mut self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), DropReason>;

    /// Whether the client may end its stream now; an error is why not.
    ///
    /// # Errors
    ///
    /// Where something was begun and is not whole.
    fn finish(&self) -> Result<(), DropReason>;

    /// Appends what the client is sent for a payload of 1 to [`StreamCodec::largest`] bytes.
    ///
    /// # Errors
    ///
    /// Where the stream cannot go on.
    fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason>;

    /// Most bytes that `seal` takes at once, at least 1.
    fn largest(&self) -> usize;
}

impl fmt::Debug for dyn StreamCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamCodec")
    }
}

/// A datagram from a client, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientDatagram<'a> {
    /// A payload for a target. `target` is the target as the client wrote it: [`RelayCodec::target`] reads it, and
    /// the same octets mean the same target, so that it need not be read again for each datagram.
    To {
        /// The target's octets.
        target: &'a [u8],
        /// What to send there.
        payload: &'a [u8],
    },
    /// A part; nothing to send yet.
    Held,
    /// Dropped.
    Drop(DropReason),
}

/// Both directions of the datagrams that a client exchanges with its relay. Owned by the data plane and called with
/// `&mut`: no lock, and no allocation per datagram.
pub trait RelayCodec: Send {
    /// Takes a client's datagram apart.
    fn open<'a>(&'a mut self, packet: &'a [u8], now: Instant) -> ClientDatagram<'a>;

    /// Reads a target's octets.
    fn target(&self, octets: &[u8]) -> Result<Target, DropReason>;

    /// Appends what the client is sent for a payload from a target.
    ///
    /// # Errors
    ///
    /// Where nothing can be sent for it; nothing was appended then.
    fn seal(&mut self, from: SocketAddr, payload: &[u8], out: &mut BytesMut) -> Result<(), DropReason>;

    /// Octets that `seal` adds at the most.
    fn overhead(&self) -> usize;

    /// When something held is given up; `None`: nothing is held.
    fn held_until(&self) -> Option<Instant>;

    /// Gives up what is held for too long, and says how many datagrams that were.
    fn expire(&mut self, now: Instant) -> usize;
}

/// A relay of datagrams to open.
pub struct RelaySpec {
    /// Where the client says it will send from; port 0: any of its address.
    pub client: SocketAddr,
    /// Its codec.
    pub codec: Box<dyn RelayCodec>,
}

impl fmt::Debug for RelaySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelaySpec")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
