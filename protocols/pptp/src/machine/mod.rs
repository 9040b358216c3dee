//! One control connection with its calls.
//!
//! `mod.rs` holds the state and the contract's face; `control.rs` the messages of the connection, `calls.rs` those of
//! calls, `link.rs` PPP and user data, `end.rs` every way things end, `describe.rs` what operators see, `restore.rs`
//! how it goes on after a restart.

mod calls;
mod control;
mod describe;
mod end;
mod link;
mod restore;

use crate::codec::DataState;
use crate::config::Config;
use crate::names::drops;
use crate::registry::{Place, Shared};
use crate::wire::message::{FRAMING_ASYNC, FRAMING_SYNC, Message, Start, VERSION, WanError};
use crate::wire::{Stream, encode};
use bytes::{Buf, Bytes, BytesMut};
use sluice_auth::Verifiable;
use sluice_ppp::{Accm, Ppp, PppHeader, PppPath};
use sluice_spi::timer::Timers;
use sluice_spi::{
    ChannelRef, Close, DropReason, Ended, Entropy, Event, Fact, Fault, Input, LocalRef, Machine, MachineKey,
    PeerAddr, Severity, TerminateCause, Transmit, TunnelInfo, Via, random_u16,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Our firmware revision: version 0.1 of this module.
const FIRMWARE: u16 = 0x0001;

/// Which of the two state tables a call follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The peer asked us to place a call: we are its PAC (RFC 2637, 3.2.4.1).
    Outgoing,
    /// The peer has a call for us: we are its PNS (3.2.3.2).
    Incoming,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallState {
    /// The engine was asked whether it may be.
    Admission,
    /// Incoming-Call-Reply sent.
    WaitConnect,
    /// Data flows.
    Established,
}

/// Where the data plane stands with a call's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathStage {
    /// We have asked for it.
    pub(crate) wanted: bool,
    /// The driver has taken our request.
    pub(crate) live: bool,
}

/// One call.
pub(crate) struct Call {
    pub(crate) local: LocalRef,
    pub(crate) id: u16,
    pub(crate) peer_id: u16,
    pub(crate) kind: Kind,
    pub(crate) state: CallState,
    pub(crate) serial: u16,
    pub(crate) calling: Option<String>,
    pub(crate) called: Option<String>,
    pub(crate) framing: u32,
    pub(crate) speed: u32,
    /// The receive window that the peer told.
    pub(crate) window: u16,
    pub(crate) verifiable: Verifiable,
    pub(crate) data: DataState,
    pub(crate) ppp: Option<Box<Ppp>>,
    pub(crate) path: PathStage,
    /// PPP header of the path.
    pub(crate) header: PppHeader,
    /// The path to install once the one before is gone.
    pub(crate) next_path: Option<PppPath>,
    pub(crate) up: bool,
    pub(crate) errors: Option<(WanError, Instant)>,
    pub(crate) accm: Option<Accm>,
    pub(crate) trace: bool,
}

/// State of a control connection (RFC 2637, 3.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for Start-Control-Connection-Request.
    Idle,
    /// Calls may be made.
    Established,
    /// Our calls are being ended before the connection is.
    Closing,
    /// Stop-Control-Connection-Request sent.
    WaitStopReply,
    /// Over.
    Gone,
}

/// Timers of a control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// It was to be established by now.
    Start,
    /// The peer was silent for long.
    Echo,
    /// The peer was to answer an Echo-Request by now.
    EchoReply,
    /// PPP links have had their time to end, or the peer its time to answer our end.
    Close,
    /// There was no call for long.
    Empty,
    /// A call has had its time to be established.
    Setup(u16),
    /// PPP of a call wants time.
    Ppp(u16),
    /// An acknowledgement of a call waits for nothing any more.
    Acknowledge(u16),
}

/// One control connection.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    entropy: Box<dyn Entropy>,
    pub(crate) key: u16,
    pub(crate) peer: PeerAddr,
    place: Option<Place>,
    pub(crate) state: State,
    /// What the peer said of itself.
    pub(crate) remote: Start,
    pub(crate) stream: Stream,
    /// Octets for the peer.
    pub(crate) output: BytesMut,
    /// What was given back, as it had not left ([`Input::Unsent`]).
    pub(crate) unsent: Vec<u8>,
    /// Whether the connection is not closed.
    has_channel: bool,
    /// Boxed: most connections carry one call, and a node of the map has room for eleven.
    pub(crate) calls: BTreeMap<u16, Box<Call>>,
    by_peer: HashMap<u16, u16>,
    pub(crate) generation: u16,
    timers: Timers<Timer>,
    last_heard: Instant,
    /// The identifier of an Echo-Request without a reply.
    echo: Option<u32>,
    wrong_peers: u64,
    events: VecDeque<Event>,
    /// Calls whose PPP may have frames to send.
    ready: VecDeque<u16>,
    /// What is sent before all else: the last words of calls that end.
    farewell: VecDeque<Farewell>,
    /// The gateway has no room for it: it is told so when it says who it is.
    refused: bool,
    close_cause: Option<TerminateCause>,
    was_up: bool,
    checkpoint_due: bool,
}

/// Last words of a call.
enum Farewell {
    /// A whole packet.
    Packet(BytesMut),
    /// A frame for a path that is there until its end is told.
    OnPath(LocalRef, BytesMut),
}

/// An address without its port: GRE has none.
fn bare(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), 0)
}

impl Control {
    fn new(shared: Arc<Shared>, key: u16, peer: PeerAddr, entropy: Box<dyn Entropy>, now: Instant) -> Self {
        Self {
            shared,
            entropy,
            key,
            peer,
            place: None,
            state: State::Idle,
            remote: Start::default(),
            stream: Stream::default(),
            output: BytesMut::new(),
            unsent: Vec::new(),
            has_channel: true,
            calls: BTreeMap::new(),
            by_peer: HashMap::new(),
            generation: 0,
            timers: Timers::new(),
            last_heard: now,
            echo: None,
            wrong_peers: 0,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            farewell: VecDeque::new(),
            refused: false,
            close_cause: None,
            was_up: false,
            checkpoint_due: false,
        }
    }

    /// A connection that was just accepted. Where there may be no more of them, it is closed without a word.
    pub(crate) fn accepted(
        shared: Arc<Shared>,
        key: u16,
        peer: PeerAddr,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        let mut control = Self::new(shared, key, peer, entropy, now);
        match Place::take(&control.shared, peer.remote.ip().to_canonical()) {
            Ok(place) => {
                control.place = Some(place);
                let limit = control.config().start_timeout;
                control.timers.set(Timer::Start, now + limit);
            }
            Err(reason) => {
                control.dropped(reason);
                control.shut(Close::Reset);
            }
        }
        control
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Where GRE packets of this connection's calls go and come from.
    pub(crate) fn data_peer(&self) -> PeerAddr {
        PeerAddr {
            remote: bare(self.peer.remote),
            local: bare(self.peer.local),
        }
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    fn dropped(&mut self, reason: DropReason) {
        self.event(Event::Dropped(reason));
    }

    fn count(&mut self, name: &'static str) {
        self.event(Event::Counted(name));
    }

    fn notice(&mut self, session: Option<LocalRef>, severity: Severity, text: String) {
        self.event(Event::Notice {
            session,
            severity,
            text,
        });
    }

    fn send(&mut self, message: &Message) {
        if self.has_channel {
            encode(message, &mut self.output);
        }
    }

    /// What we say of ourselves.
    fn introduction(&self) -> Start {
        let config = self.config();
        Start {
            version: VERSION,
            framing: FRAMING_ASYNC | FRAMING_SYNC,
            bearer: crate::wire::message::BEARER_ANALOG | crate::wire::message::BEARER_DIGITAL,
            channels: u16::try_from(config.limits.calls).unwrap_or(u16::MAX),
            firmware: FIRMWARE,
            host: config.host_name.clone(),
            vendor: config.vendor_name.clone(),
        }
    }

    fn mint_call(&mut self, now: Instant) -> Option<u16> {
        let entropy = &mut *self.entropy;
        self.shared.mint_call(self.key, || random_u16(entropy), now)
    }

    /// The call that a name of ours belongs to; names of calls that are over find nothing.
    fn find(&self, session: LocalRef) -> Option<u16> {
        let [_, _, high, low] = session.0.to_be_bytes();
        let id = u16::from_be_bytes([high, low]);
        self.calls
            .get(&id)
            .filter(|call| call.local == session)
            .map(|call| call.id)
    }

    /// Octets came from the peer.
    fn octets(&mut self, mut bytes: &[u8], now: Instant) {
        while self.state != State::Gone {
            match self.stream.next(&mut bytes) {
                Ok(Some(decoded)) => self.decoded(decoded, now),
                Ok(None) => return,
                Err(malformed) => return self.malformed(malformed, now),
            }
        }
    }
}

impl Machine for Control {
    fn key(&self) -> MachineKey {
        MachineKey(self.key.into())
    }

    fn handle_input(&mut self, input: Input<'_>, now: Instant) -> Result<(), Fault> {
        match input {
            Input::Stream { bytes, .. } => self.octets(bytes, now),
            Input::StreamEnded { .. } => {
                self.lost("connection_closed", "the peer closed the connection", now)
            }
            Input::ChannelFailed { .. } => self.lost("connection_lost", "the connection is gone", now),
            Input::Unsent { bytes, .. } => self.unsent.extend_from_slice(bytes),
            Input::Datagram { from, packet } => self.datagram(from, packet, now),
            Input::PathFrame { session, frame } => self.path_frame(session, frame, now),
            Input::Admission {
                session,
                verdict,
                verifiable,
            } => self.admitted(session, verdict, verifiable, now),
            Input::AuthVerdict { session, verdict } => self.judged(session, verdict, now),
            Input::Originate { call } => {
                let text = format!(
                    "call {} cannot be placed: this listener only answers calls",
                    call.label
                );
                self.notice(None, Severity::Warning, text);
            }
            Input::Terminate { session, cause } => self.terminate(session, cause, now),
            Input::PathState { session, state } => self.path_state(session, state, now),
            Input::Trace { session, on } => self.trace(session, on),
            Input::PathActive { session } => self.path_active(session, now),
            // GRE has no ports: what ICMP says of it may be anybody's. The control connection finds out by itself.
            Input::PeerUnreachable => {}
            Input::ChannelOpened { .. } | Input::ChannelListening { .. } | Input::JoinEnded { .. } => {
                return Err(Fault("a control connection has one channel".to_owned()));
            }
            Input::ContextAnswered { .. } => {
                return Err(Fault("a control connection has no contexts".to_owned()));
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut BytesMut) -> Option<Transmit> {
        if let Some(last) = pop(&mut self.farewell) {
            let (via, bytes) = match last {
                Farewell::Packet(packet) => (Via::Socket(self.data_peer()), packet),
                Farewell::OnPath(session, frame) => (Via::Path(session), frame),
            };
            out.extend_from_slice(&bytes);
            let length = bytes.len();
            return Some(Transmit { via, length });
        }
        let unsent = std::mem::take(&mut self.unsent);
        let output = std::mem::take(&mut self.output);
        if unsent.is_empty() && output.is_empty() {
            return self.transmit_frame(out);
        }
        out.extend_from_slice(&unsent);
        out.extend_from_slice(&output);
        Some(Transmit {
            via: Via::Channel(ChannelRef::FIRST),
            length: unsent.len() + output.len(),
        })
    }

    fn poll_event(&mut self) -> Option<Event> {
        let Some(event) = pop(&mut self.events) else {
            return std::mem::take(&mut self.checkpoint_due).then_some(Event::CheckpointDue);
        };
        match &event {
            Event::InstallPath { session, .. } => self.path_is_live(*session, true),
            Event::RemovePath { session } => self.path_is_live(*session, false),
            _ => {}
        }
        Some(event)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn checkpoint(&self, now: Instant) -> Option<Bytes> {
        (self.state == State::Established).then(|| crate::checkpoint::write(self, now))
    }

    fn close(&mut self, cause: TerminateCause, now: Instant) {
        self.begin_close(cause, now);
    }

    fn is_drained(&self) -> bool {
        self.state == State::Gone
            && self.events.is_empty()
            && self.farewell.is_empty()
            && !self.output.has_remaining()
    }

    fn describe(&self) -> TunnelInfo {
        self.info()
    }

    fn describe_session(&self, session: LocalRef) -> Vec<Fact> {
        self.find(session)
            .and_then(|id| self.calls.get(&id))
            .map(|call| self.call_facts(call))
            .unwrap_or_default()
    }
}

impl Drop for Control {
    /// Where it broke, its calls' identifiers are given back all the same.
    fn drop(&mut self) {
        for &id in self.calls.keys() {
            self.shared.release_call(id, self.last_heard);
        }
    }
}

/// Takes the first of a queue. An empty queue gives its memory back: most connections are silent for most of their life.
fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    first
}

/// An end in the words of this module.
fn ended(cause: TerminateCause, code: &'static str, text: impl Into<String>) -> Ended {
    Ended::new(cause, code, text)
}

/// What is dropped and counted of GRE packets from elsewhere.
impl Control {
    fn wrong_peer(&mut self) {
        self.wrong_peers = self.wrong_peers.saturating_add(1);
        self.dropped(drops::WRONG_PEER);
    }
}
