//! What goes into a machine and what comes out of it, besides bytes.

use crate::{
    ChannelFailure, ChannelRef, Close, DropReason, Ended, JoinEnd, LocalRef, MachineKey, PathSpec,
    PathUpdate, PeerAddr, RelaySpec, StreamCodec, StreamEnd, Target, TerminateCause,
};
use bytes::Bytes;
use sluice_auth::gss::{ContextFailure, ContextStep, Negotiation};
use sluice_auth::{AuthRequest, Secret, Verdict, Verifiable};
use std::fmt;
use std::net::SocketAddr;

/// Something that happened to a machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram of this machine's tunnel that the data plane did not consume.
    Datagram {
        /// Where it came from and where it came to.
        from: PeerAddr,
        /// The bytes.
        packet: &'a [u8],
    },
    /// A frame that a path's codec opened but that is no user data, such as an LCP packet.
    PathFrame {
        /// The session of the path.
        session: LocalRef,
        /// The frame, without the carrier's header.
        frame: &'a [u8],
    },
    /// The answer to [`Event::SessionOpening`].
    Admission {
        /// The session that asked.
        session: LocalRef,
        /// Whether it may go on.
        verdict: Result<(), Refusal>,
        /// The ways to authenticate that can be offered to its peer at present.
        verifiable: Verifiable,
    },
    /// The answer to [`Event::AuthRequested`].
    AuthVerdict {
        /// The session that asked.
        session: LocalRef,
        /// The answer.
        verdict: Verdict,
    },
    /// The answer to [`Event::ContextRequested`].
    ContextAnswered {
        /// The session that asked.
        session: LocalRef,
        /// What the token led to.
        answer: Result<ContextStep, ContextFailure>,
    },
    /// Place a call to the peer of this tunnel.
    Originate {
        /// The request.
        call: &'a Originate,
    },
    /// End one session.
    Terminate {
        /// The session.
        session: LocalRef,
        /// Why.
        cause: TerminateCause,
    },
    /// The state of an installed path's codec ([`crate::PathCodec::hot_state`]), given right before a checkpoint
    /// so that it is part of it, and when the path of a session that goes on was removed.
    PathState {
        /// The session of the path.
        session: LocalRef,
        /// The state, in the codec's own format.
        state: &'a [u8],
    },
    /// Switch the decoded trace of one session on or off.
    Trace {
        /// The session.
        session: LocalRef,
        /// On or off.
        on: bool,
    },
    /// User data came from the peer through an installed path, some time in the last seconds: a sign of life.
    PathActive {
        /// The session of the path.
        session: LocalRef,
    },
    /// The network said that the peer is unreachable (ICMP). Never proof: see the module's rules.
    PeerUnreachable,
    /// Bytes came in on a channel, in order, cut anywhere. The machine takes all of them.
    Stream {
        /// The channel.
        channel: ChannelRef,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// What was transmitted on a channel and has not left, given right before the last checkpoint so that it is part of
    /// it.
    Unsent {
        /// The channel.
        channel: ChannelRef,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Nothing more comes in on a channel.
    StreamEnded {
        /// The channel.
        channel: ChannelRef,
        /// How it ended.
        end: StreamEnd,
    },
    /// A channel is connected: [`Event::OpenChannel`] led there, or somebody came to [`Event::ListenChannel`].
    ChannelOpened {
        /// The channel.
        channel: ChannelRef,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
    /// A channel waits for its connection ([`Event::ListenChannel`]), or relays datagrams ([`Event::OpenRelay`]),
    /// at an address that its client can reach.
    ChannelListening {
        /// The channel.
        channel: ChannelRef,
        /// The address.
        local: SocketAddr,
    },
    /// A channel that was asked for is not there, or not any more.
    ChannelFailed {
        /// The channel.
        channel: ChannelRef,
        /// Why.
        failure: ChannelFailure,
    },
    /// Joined channels came apart, and both are closed; or a relay of datagrams ended by itself, and its channel is
    /// closed.
    JoinEnded {
        /// The session.
        session: LocalRef,
        /// How.
        end: JoinEnd,
    },
}

/// A call to be placed by the gateway (L2TP: an outgoing call, OCRQ).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originate {
    /// Name that the caller of the API gave this call, for its own correlation.
    pub label: String,
    /// Number to be called.
    pub called: String,
    /// Sub-address, empty where there is none.
    pub sub_address: String,
    /// Slowest and fastest acceptable line speed in bits per second.
    pub speed: (u32, u32),
    /// Name to authenticate as where the answering side asks us; `None`: we only ask.
    pub login: Option<(String, Secret)>,
}

/// Why the engine did not admit a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The gateway has as many sessions as it may have; come back later.
    TooManySessions,
    /// Too many sessions are being set up at once; come back later.
    TooManyOpening,
    /// This peer has as many sessions as it may have.
    PeerLimit,
    /// The gateway is draining; try another.
    Draining,
    /// The gateway is overloaded; come back later.
    Overload,
}

impl Refusal {
    /// All refusals, for closed metric label sets.
    pub const ALL: [Refusal; 5] = [
        Refusal::TooManySessions,
        Refusal::TooManyOpening,
        Refusal::PeerLimit,
        Refusal::Draining,
        Refusal::Overload,
    ];

    /// The stable code used in metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::TooManySessions => "too_many_sessions",
            Refusal::TooManyOpening => "too_many_opening",
            Refusal::PeerLimit => "peer_limit",
            Refusal::Draining => "draining",
            Refusal::Overload => "overload",
        }
    }
}

/// A token for a security context (GSS-API, RFC 2743), for whoever has the keys of [`crate::Factory::context_keys`].
pub struct ContextRequest {
    /// What came of the tokens before; `None`: it is the first.
    pub negotiation: Option<Box<dyn Negotiation>>,
    /// The token, at most [`sluice_auth::gss::MAX_TOKEN`] octets.
    pub token: Vec<u8>,
}

impl fmt::Debug for ContextRequest {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextRequest")
            .field("token", &self.token.len())
            .finish_non_exhaustive()
    }
}

/// Kinds of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A connection: a PPP session, a relayed stream.
    Connection,
}

/// One thing worth showing about a tunnel or session: a stable name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Stable name in `snake_case`.
    pub name: &'static str,
    /// Value, already escaped for display.
    pub value: String,
}

impl Fact {
    /// Puts the two together.
    pub fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self {
            name,
            value: value.into(),
        }
    }
}

/// What is known of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelInfo {
    /// The machine's key.
    pub key: MachineKey,
    /// Both ends.
    pub peer: PeerAddr,
    /// The name the peer gave itself (L2TP Host Name), escaped.
    pub peer_name: String,
    /// Whether we opened it.
    pub initiated: bool,
    /// Everything else worth showing.
    pub facts: Vec<Fact>,
}

/// What is known of a session when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallInfo {
    /// Kind of session.
    pub kind: SessionKind,
    /// Both ends of what carries it.
    pub peer: PeerAddr,
    /// Calling number, escaped.
    pub calling: Option<String>,
    /// Called number, escaped.
    pub called: Option<String>,
    /// The label of the [`Originate`] that caused it, for calls we placed.
    pub label: Option<String>,
}

/// How much an operator should care about a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Of use when looking for the cause of something.
    Debug,
    /// A normal step.
    Info,
    /// Something is wrong with a peer or its configuration.
    Warning,
}

/// Direction of a traced message, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Something that a machine wants the engine to know or do.
#[derive(Debug)]
pub enum Event {
    /// The tunnel is established.
    TunnelUp(TunnelInfo),
    /// The tunnel is gone; all its sessions were reported down before.
    TunnelDown(Ended),
    /// A session starts; answer with [`Input::Admission`].
    SessionOpening {
        /// The new session.
        session: LocalRef,
        /// What is known of it.
        call: CallInfo,
    },
    /// A session wants to know whether its peer is who it says; answer with [`Input::AuthVerdict`].
    AuthRequested {
        /// The session.
        session: LocalRef,
        /// The question.
        request: Box<AuthRequest>,
    },
    /// A session's peer has sent a token for its security context; answer with [`Input::ContextAnswered`].
    ContextRequested {
        /// The session.
        session: LocalRef,
        /// The token.
        request: Box<ContextRequest>,
    },
    /// A session is established. Sent once in its life.
    SessionUp {
        /// The session.
        session: LocalRef,
        /// What was negotiated.
        facts: Vec<Fact>,
    },
    /// A session is gone; sent once for each `SessionOpening`, whether or not it was ever up.
    SessionDown {
        /// The session.
        session: LocalRef,
        /// How it ended.
        ended: Ended,
    },
    /// User data of the session may flow from now on.
    InstallPath {
        /// The session.
        session: LocalRef,
        /// All the data plane needs.
        path: Box<PathSpec>,
    },
    /// Something about the path changed.
    UpdatePath {
        /// The session.
        session: LocalRef,
        /// What changed.
        update: PathUpdate,
    },
    /// No user data of the session may flow any more.
    RemovePath {
        /// The session.
        session: LocalRef,
    },
    /// Connect to a target; answer with [`Input::ChannelOpened`] or [`Input::ChannelFailed`].
    OpenChannel {
        /// The session that wants it.
        session: LocalRef,
        /// The new channel.
        channel: ChannelRef,
        /// Where to.
        target: Target,
    },
    /// Wait for one connection from a target's address (any, where it is unspecified); answer with
    /// [`Input::ChannelListening`] and then [`Input::ChannelOpened`], or with [`Input::ChannelFailed`].
    ListenChannel {
        /// The session that wants it.
        session: LocalRef,
        /// The new channel.
        channel: ChannelRef,
        /// Whom it expects.
        from: Target,
    },
    /// Relay a client's datagrams; answer with [`Input::ChannelListening`] or [`Input::ChannelFailed`]. It goes on
    /// until the machine closes the channel.
    OpenRelay {
        /// The session that wants it.
        session: LocalRef,
        /// The new channel.
        channel: ChannelRef,
        /// All the data plane needs.
        relay: Box<RelaySpec>,
    },
    /// End a channel.
    CloseChannel {
        /// The channel.
        channel: ChannelRef,
        /// How.
        close: Close,
    },
    /// Pass the bytes of two channels to each other from now on, until [`Input::JoinEnded`]. A channel on which nothing
    /// more comes in ([`StreamEnd::Finished`]) may be joined: its end follows what came before.
    Join {
        /// The session.
        session: LocalRef,
        /// One channel.
        first: ChannelRef,
        /// The other.
        second: ChannelRef,
        /// What came in on the first channel already and is for the second.
        early: Bytes,
        /// What the bytes of the first channel go through, `early` included; `None`: they are payload as they are.
        codec: Option<Box<dyn StreamCodec>>,
    },
    /// Established state changed in a way a restart must not forget: ask [`crate::Machine::checkpoint`].
    CheckpointDue,
    /// A machine made from a checkpoint is at work again with these sessions; their paths follow as
    /// `InstallPath`. No `TunnelUp`, `SessionOpening` or `SessionUp` is repeated.
    Recovered {
        /// The tunnel.
        tunnel: TunnelInfo,
        /// The sessions that live on.
        sessions: Vec<LocalRef>,
    },
    /// A packet or message was refused.
    Dropped(DropReason),
    /// Something to count that is no drop, by a name of the module's descriptor.
    Counted(&'static str),
    /// A line for the log.
    Notice {
        /// The session it is about; `None`: the tunnel.
        session: Option<LocalRef>,
        /// How much it matters.
        severity: Severity,
        /// The words. Text that came from the peer is already escaped.
        text: String,
    },
    /// A decoded message of a session whose trace is on.
    Traced {
        /// The session.
        session: LocalRef,
        /// Which way it went.
        direction: Direction,
        /// The message in words, without secrets.
        text: String,
    },
}
