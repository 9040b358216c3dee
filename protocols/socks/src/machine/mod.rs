//! One connection of a client, with its session.
//!
//! `mod.rs` holds the state and the contract's face; `handshake.rs` what the client says and is told until its request
//! is known, `channels.rs` what becomes of the request, `end.rs` every way things end, `describe.rs` what operators
//! see, `gss.rs` what the GSS-API method has of its own, `output.rs` the messages that wait to be sent.

mod channels;
mod describe;
mod end;
mod gss;
mod handshake;
mod output;

use crate::config::{AuthMethod, Config};
use crate::wire::{self, Command, Reply};
use bytes::{Bytes, BytesMut};
use gss::Gss;
use output::Output;
use sluice_auth::{RejectReason, Verdict};
use sluice_spi::{
    ChannelRef, Event, Fact, Fault, Input, LocalRef, Machine, MachineKey, PeerAddr, Refusal, StreamEnd,
    Target, TerminateCause, Transmit, TunnelInfo, Via,
};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The session of a connection; there is one.
pub(crate) const SESSION: LocalRef = LocalRef(1);
/// The client's connection.
const CLIENT: ChannelRef = ChannelRef::FIRST;
/// The connection or relay that the client asked for.
const OTHER: ChannelRef = ChannelRef(1);

/// What one read of the gateway may bring beyond what a machine wants: [`Machine::wants_bytes`] is asked after it.
const ONE_READ: usize = 64 << 10;

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The greeting of SOCKS5, or the request of SOCKS4, is not whole.
    Greeting,
    /// A SOCKS5 client is to say its name and password.
    Login,
    /// A client is to send a token for its context.
    Token,
    /// It is being accepted.
    Context,
    /// A name, with a password or proven, is being judged.
    Verdict,
    /// A client is to say how its context is to protect it.
    Level,
    /// A SOCKS5 client is to say what it wants.
    Request,
    /// A SOCKS4 client has said so, and is not admitted yet.
    Admission,
    /// The other channel is being opened.
    Opening,
    /// BIND: the other channel waits for its connection.
    Listening,
    /// Client and target are joined.
    Joined,
    /// The client's datagrams are relayed.
    Relaying,
    /// Nothing is left to do.
    Over,
}

/// Whether the engine admits the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// It was not asked, or has not answered.
    Pending,
    /// It has answered.
    Answered,
}

/// A request will be refused whatever it is, by a limit: the handshake goes on until that can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denial {
    reply: Reply,
    code: &'static str,
}

/// What is known of a client and its request once there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Established {
    pub(crate) version: Version,
    pub(crate) method: AuthMethod,
    pub(crate) command: Command,
    /// Where the client wants to go, or whom it expects; for relays, where it will send from.
    pub(crate) target: Target,
    /// The name that it gave, escaped.
    pub(crate) user: Option<Box<str>>,
    /// Our end of the other channel.
    pub(crate) local: Option<SocketAddr>,
    /// The other end of it.
    pub(crate) remote: Option<SocketAddr>,
    /// A BIND whose peer has not come yet.
    pub(crate) wait: Option<Wait>,
}

/// What there is of a BIND that waits for its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// How long it may still take.
    pub(crate) left: Duration,
    /// What the client has sent ahead.
    pub(crate) early: Vec<u8>,
}

/// One connection.
pub(crate) struct Connection {
    config: Arc<Config>,
    pub(crate) key: MachineKey,
    pub(crate) peer: PeerAddr,
    pub(crate) phase: Phase,
    version: Option<Version>,
    method: AuthMethod,
    command: Command,
    admission: Admission,
    denied: Option<Denial>,
    /// Whether `SessionOpening` was given and `SessionDown` was not.
    has_session: bool,
    /// Whether the client's connection is not closed.
    has_client: bool,
    /// Whether the other channel was asked for and is not closed.
    has_other: bool,
    /// Whether the client has sent its last octet.
    finished: bool,
    trace: bool,
    /// The end of the handshake, or of BIND's wait.
    deadline: Option<Instant>,
    user: Option<Box<str>>,
    /// What the GSS-API method has more; boxed, as most have it not.
    gss: Option<Box<Gss>>,
    target: Option<Target>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    /// What the client sent and was not read yet: the beginning of a message, or what is for the target.
    input: Vec<u8>,
    output: Output,
    events: VecDeque<Event>,
}

impl Connection {
    fn new(config: Arc<Config>, key: MachineKey, peer: PeerAddr) -> Self {
        Self {
            config,
            key,
            peer,
            phase: Phase::Greeting,
            version: None,
            method: AuthMethod::None,
            command: Command::Connect,
            admission: Admission::Pending,
            denied: None,
            has_session: false,
            has_client: true,
            has_other: false,
            finished: false,
            trace: false,
            deadline: None,
            user: None,
            gss: None,
            target: None,
            local: None,
            remote: None,
            input: Vec::new(),
            output: Output::default(),
            events: VecDeque::new(),
        }
    }

    /// A connection that was just accepted.
    pub(crate) fn accepted(config: Arc<Config>, key: MachineKey, peer: PeerAddr, now: Instant) -> Self {
        let mut connection = Self::new(config, key, peer);
        connection.deadline = Some(now + connection.config.handshake_timeout);
        connection
    }

    /// What a restart must not forget; `None` where nothing is established, and nobody is waited for.
    pub(crate) fn established(&self, now: Instant) -> Option<Established> {
        if self.has_keys() {
            return None;
        }
        let wait = match self.phase {
            Phase::Joined | Phase::Relaying => None,
            Phase::Listening => Some(Wait {
                left: self.deadline?.saturating_duration_since(now),
                early: self.input.clone(),
            }),
            _ => return None,
        };
        Some(Established {
            version: self.version?,
            method: self.method,
            command: self.command,
            target: self.target.clone()?,
            user: self.user.clone(),
            local: self.local,
            remote: self.remote,
            wait,
        })
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    fn count(&mut self, name: &'static str) {
        self.event(Event::Counted(name));
    }

    /// Octets came from the client. They are read where they are; only what cannot be read yet is copied.
    fn stream(&mut self, bytes: &[u8]) {
        if self.phase == Phase::Over || self.phase == Phase::Relaying {
            // The control connection of a relay has nothing to say but that it lives (RFC 1928, 6).
            return;
        }
        if self.input.is_empty() {
            let used = self.consume(bytes);
            self.keep(bytes.get(used..).unwrap_or_default());
        } else {
            self.input.extend_from_slice(bytes);
            self.resume();
        }
        // A message of the GSS-API method may be longer than all that others say.
        let message = self.gss.as_ref().map_or(0, |_| wire::gssapi::LONGEST);
        if self.phase != Phase::Over && self.input.len() > self.config.early_bytes + ONE_READ + message {
            self.overflow();
        }
        self.notice_gone();
    }

    fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() && self.phase != Phase::Over {
            self.input = rest.to_vec();
        }
    }

    /// Reads on in what is there already.
    fn resume(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        let used = self.consume(&input);
        if self.phase != Phase::Over && self.phase != Phase::Relaying {
            input.drain(..used.min(input.len()));
            self.input = input;
        }
        self.notice_gone();
    }

    /// The answer to `SessionOpening`.
    fn admitted(&mut self, verdict: Result<(), Refusal>) {
        if self.admission != Admission::Pending || !self.has_session {
            return;
        }
        self.admission = Admission::Answered;
        if let Err(refusal) = verdict {
            // By a limit of the client's own: not allowed. By the gateway's state: another time.
            let reply = match refusal {
                Refusal::PeerLimit => Reply::NotAllowed,
                _ => Reply::GeneralFailure,
            };
            self.denied = Some(Denial {
                reply,
                code: refusal.as_str(),
            });
        }
        match self.phase {
            Phase::Admission => self.start(),
            Phase::Login | Phase::Token | Phase::Request => return self.resume(),
            _ => {}
        }
        self.notice_gone();
    }

    /// The answer to `AuthRequested`.
    fn judged(&mut self, verdict: &Verdict) {
        if self.phase != Phase::Verdict {
            return;
        }
        match verdict {
            Verdict::Accept { .. } => {}
            // The password was right; it is the request that is refused.
            Verdict::Reject(RejectReason::TooManySessions) => {
                self.denied = Some(Denial {
                    reply: Reply::NotAllowed,
                    code: RejectReason::TooManySessions.as_str(),
                });
            }
            Verdict::Reject(reason) => return self.auth_failed(*reason),
        }
        self.accept_login();
        self.resume();
    }
}

impl Machine for Connection {
    fn key(&self) -> MachineKey {
        self.key
    }

    fn handle_input(&mut self, input: Input<'_>, now: Instant) -> Result<(), Fault> {
        match input {
            Input::Stream { channel, bytes } if channel == CLIENT => self.stream(bytes),
            Input::StreamEnded { channel, end } if channel == CLIENT => match end {
                StreamEnd::Finished => {
                    self.finished = true;
                    self.notice_gone();
                }
                StreamEnd::Reset => self.client_reset(),
            },
            Input::ChannelOpened {
                channel,
                local,
                remote,
            } if channel == OTHER => self.opened(local, remote),
            Input::ChannelListening { channel, local } if channel == OTHER => self.listening(local, now),
            Input::ChannelFailed { channel, failure } => self.failed(channel, failure),
            // What comes of a channel that was closed meanwhile.
            Input::Stream { .. }
            | Input::StreamEnded { .. }
            | Input::ChannelOpened { .. }
            | Input::ChannelListening { .. } => {}
            Input::JoinEnded { session, end } if session == SESSION => self.parted(end),
            Input::Admission { session, verdict, .. } if session == SESSION => self.admitted(verdict),
            Input::AuthVerdict { session, verdict } if session == SESSION => self.judged(&verdict),
            Input::ContextAnswered { session, answer } if session == SESSION => {
                self.context_answered(answer, now);
            }
            Input::Terminate { session, cause } if session == SESSION => self.terminate(cause, "terminated"),
            Input::Trace { session, on } if session == SESSION => self.trace = on,
            // Of a session that there is not.
            Input::JoinEnded { .. }
            | Input::Admission { .. }
            | Input::AuthVerdict { .. }
            | Input::ContextAnswered { .. }
            | Input::Terminate { .. }
            | Input::Trace { .. } => {}
            Input::Datagram { .. }
            | Input::PathFrame { .. }
            | Input::PathState { .. }
            | Input::Unsent { .. }
            | Input::PathActive { .. }
            | Input::PeerUnreachable
            | Input::Originate { .. } => {
                return Err(Fault("a connection has no tunnel and no paths".to_owned()));
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.expired();
        }
    }

    fn wants_bytes(&self, channel: ChannelRef) -> bool {
        let waits = match self.phase {
            Phase::Login | Phase::Token | Phase::Level | Phase::Request => {
                self.admission == Admission::Pending
            }
            Phase::Context | Phase::Verdict | Phase::Admission | Phase::Opening | Phase::Listening => true,
            Phase::Greeting | Phase::Joined | Phase::Relaying | Phase::Over => false,
        };
        // What comes from the other channel is for the join, however early it comes.
        channel == CLIENT && (!waits || self.input.len() < self.config.early_bytes)
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut BytesMut) -> Option<Transmit> {
        let gss = self.gss.as_mut();
        let length = self.output.take(out).or_else(|| gss?.take(out))?;
        Some(Transmit {
            via: Via::Channel(CLIENT),
            length,
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        let lasts = matches!(self.phase, Phase::Joined | Phase::Relaying | Phase::Listening);
        if lasts && event.is_some() && self.events.is_empty() {
            // This may be all for hours.
            self.events = VecDeque::new();
        }
        event
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn checkpoint(&self, now: Instant) -> Option<Bytes> {
        crate::checkpoint::write(self, now)
    }

    fn close(&mut self, cause: TerminateCause, _: Instant) {
        self.terminate(cause, "closed");
    }

    fn is_bound(&self) -> bool {
        self.has_keys()
    }

    fn is_drained(&self) -> bool {
        let is_quiet = self.output.is_empty() && self.gss.as_ref().is_none_or(|gss| gss.is_quiet());
        self.phase == Phase::Over && self.events.is_empty() && is_quiet
    }

    fn describe(&self) -> TunnelInfo {
        self.info()
    }

    fn describe_session(&self, session: LocalRef) -> Vec<Fact> {
        if session == SESSION && self.has_session {
            self.facts()
        } else {
            Vec::new()
        }
    }
}
