//! One tunnel with its calls.
//!
//! `mod.rs` holds the state and the contract's face; `control.rs` the tunnel's own messages, `calls.rs` those of
//! calls, `link.rs` PPP and user data, `end.rs` every way things end, `describe.rs` what operators see.

mod call;
mod calls;
mod channel;
mod control;
mod describe;
mod end;
mod link;
mod restore;

pub(crate) use call::{Call, CallState, Kind};
pub use channel::Retransmit;
pub(crate) use channel::{Channel, ChannelConfig, ChannelState, Pending};

use crate::config::{Config, Peer, PeerIndex};
use crate::module::Shared;
use crate::names::drops;
use crate::ties::Tie;
use crate::wire::header::{ControlHeader, Family, family};
use crate::wire::message::{
    BEARER_ANALOG, BEARER_DIGITAL, FRAMING_ASYNC, FRAMING_SYNC, Message, PROTOCOL_VERSION, Start,
};
use crate::wire::{self, Hider};
use bytes::{Bytes, BytesMut};
use channel::Priority;
use sluice_auth::Secret;
use sluice_spi::timer::Timers;
use sluice_spi::{
    DropReason, Ended, Entropy, Event, Fact, Fault, Identifiers, Input, LocalRef, Machine, MachineKey,
    PeerAddr, Severity, TerminateCause, Transmit, TunnelInfo, Via, random_u16,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How long a tunnel's end is kept to acknowledge what the peer sends again: a full retransmission cycle
/// (RFC 2661, 5.7).
pub(crate) const HOLD: Duration = Duration::from_secs(31);
/// Our firmware revision: version 0.1 of this module.
const FIRMWARE: u16 = 0x0001;

/// What a front knows of a peer whose SCCCN has come.
#[derive(Debug)]
pub(crate) struct Accept {
    pub(crate) tunnel: u16,
    pub(crate) peer_tunnel: u16,
    pub(crate) peer: PeerAddr,
    pub(crate) rule: PeerIndex,
    pub(crate) window: u16,
    pub(crate) framing: u32,
    pub(crate) bearer: Option<u32>,
    pub(crate) firmware: Option<u16>,
    pub(crate) host_name: Vec<u8>,
    pub(crate) vendor: Vec<u8>,
    pub(crate) superseded: Arc<AtomicBool>,
}

/// What the peer said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) framing: u32,
    pub(crate) bearer: Option<u32>,
    pub(crate) firmware: Option<u16>,
    pub(crate) host_name: Vec<u8>,
    pub(crate) vendor: Vec<u8>,
}

/// State of a tunnel (RFC 2661, 7.2). The responder's wait-ctl-conn is spent in the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// SCCRQ sent.
    WaitReply,
    /// Calls may be made.
    Established,
    /// Our calls are being ended before the tunnel is.
    Closing,
    /// Over; messages are still acknowledged, and our StopCCN is still delivered.
    Stopped,
    /// Over in every respect.
    Gone,
}

/// Timers of a tunnel besides those of its control channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The peer was silent for long.
    Hello,
    /// PPP links have had their time to end.
    Close,
    /// The hold time after the end is over.
    Hold,
    /// There was no call for long.
    Empty,
    /// A call has had its time to be established.
    Setup(u16),
    /// PPP of a call wants time.
    Ppp(u16),
}

/// One tunnel.
pub(crate) struct Tunnel {
    pub(crate) shared: Arc<Shared>,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) key: u16,
    pub(crate) peer_tunnel: u16,
    pub(crate) peer: PeerAddr,
    pub(crate) rule: PeerIndex,
    pub(crate) initiated: bool,
    pub(crate) state: State,
    pub(crate) remote: Remote,
    pub(crate) channel: Channel,
    /// The challenge in our SCCRQ.
    pub(crate) challenge: Option<[u8; 16]>,
    pub(crate) tie: Option<Arc<Tie>>,
    /// Set by the front once the peer has forgotten this tunnel and begun another with its id.
    pub(crate) superseded: Arc<AtomicBool>,
    /// An address from which the peer may be sending now, until it is proven or not.
    pub(crate) candidate: Option<PeerAddr>,
    /// Boxed: most tunnels carry one call, and a node of the map has room for eleven.
    pub(crate) calls: BTreeMap<u16, Box<Call>>,
    pub(crate) by_peer: HashMap<u16, u16>,
    pub(crate) ids: Identifiers,
    pub(crate) generation: u16,
    pub(crate) serial: u32,
    pub(crate) timers: Timers<Timer>,
    pub(crate) last_heard: Instant,
    /// Packets for this tunnel that did not come from its peer, besides those that its paths refused.
    pub(crate) wrong_peers: u64,
    pub(crate) events: VecDeque<Event>,
    /// Calls whose PPP may have frames to send.
    pub(crate) ready: VecDeque<u16>,
    /// Last frames of calls that have ended: whole packets, which leave before the CDN.
    pub(crate) farewell: VecDeque<BytesMut>,
    pub(crate) close_cause: Option<TerminateCause>,
    pub(crate) was_up: bool,
    pub(crate) checkpoint_due: bool,
}

/// What we say of ourselves in SCCRQ and SCCRP.
pub(crate) fn introduction(config: &Config, tunnel: u16) -> Start {
    Start {
        version: PROTOCOL_VERSION,
        host_name: config.host_name.clone(),
        framing: FRAMING_SYNC | FRAMING_ASYNC,
        tunnel_id: tunnel,
        bearer: config.answer_outgoing.then_some(BEARER_DIGITAL | BEARER_ANALOG),
        window: Some(config.window),
        firmware: Some(FIRMWARE),
        vendor: Some(config.vendor_name.clone()).filter(|name| !name.is_empty()),
        ..Start::default()
    }
}

/// The control channel's part of a configuration.
pub(crate) fn channel_config(config: &Config) -> ChannelConfig {
    ChannelConfig {
        window: config.window,
        ack_delay: config.ack_delay,
        setup: config.setup_retransmit,
        established: config.retransmit,
    }
}

impl Tunnel {
    pub(crate) fn new(
        shared: Arc<Shared>,
        key: u16,
        peer: PeerAddr,
        rule: PeerIndex,
        channel: Channel,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        Self {
            shared,
            entropy,
            key,
            peer_tunnel: 0,
            peer,
            rule,
            initiated: false,
            state: State::WaitReply,
            remote: Remote::default(),
            channel,
            challenge: None,
            tie: None,
            superseded: Arc::default(),
            candidate: None,
            calls: BTreeMap::new(),
            by_peer: HashMap::new(),
            ids: Identifiers::default(),
            generation: 0,
            serial: 0,
            timers: Timers::new(),
            last_heard: now,
            wrong_peers: 0,
            events: VecDeque::new(),
            ready: VecDeque::new(),
            farewell: VecDeque::new(),
            close_cause: None,
            was_up: false,
            checkpoint_due: false,
        }
    }

    /// A tunnel whose peer has proven itself to a front.
    pub(crate) fn accepted(
        shared: Arc<Shared>,
        accept: Accept,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        let channel = Channel::after_exchange(channel_config(&shared.config), accept.window);
        let mut tunnel = Self::new(
            shared,
            accept.tunnel,
            accept.peer,
            accept.rule,
            channel,
            entropy,
            now,
        );
        tunnel.peer_tunnel = accept.peer_tunnel;
        tunnel.superseded = accept.superseded;
        tunnel.remote = Remote {
            framing: accept.framing,
            bearer: accept.bearer,
            firmware: accept.firmware,
            host_name: accept.host_name,
            vendor: accept.vendor,
        };
        tunnel
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(crate) fn rule(&self) -> &Peer {
        self.shared.config.peer(self.rule)
    }

    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.rule().secret.as_ref()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.event(Event::Dropped(reason));
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        self.event(Event::Counted(name));
    }

    pub(crate) fn notice(&mut self, session: Option<LocalRef>, severity: Severity, text: String) {
        self.event(Event::Notice {
            session,
            severity,
            text,
        });
    }

    /// Encodes a message for this peer, hidden where its rule says so.
    fn encode(&mut self, message: &Message) -> Bytes {
        let shared = Arc::clone(&self.shared);
        let rule = shared.config.peer(self.rule);
        let secret = rule.secret.as_ref().filter(|_| rule.hide_avps);
        let hider = secret.map(|secret| Hider {
            secret,
            entropy: &mut *self.entropy,
        });
        wire::encode(message, hider).freeze()
    }

    /// Queues a message of the tunnel.
    pub(crate) fn send(&mut self, message: &Message, priority: Priority) {
        let body = self.encode(message);
        let pending = Pending {
            session: 0,
            owner: 0,
            probe: false,
            body,
        };
        self.channel.send(pending, priority);
    }

    /// Queues a message of one of our sessions, for the peer's session id.
    pub(crate) fn send_for(&mut self, owner: u16, session: u16, message: &Message, priority: Priority) {
        let body = self.encode(message);
        let pending = Pending {
            session,
            owner,
            probe: false,
            body,
        };
        self.channel.send(pending, priority);
    }

    pub(crate) fn mint_session(&mut self, now: Instant) -> Option<u16> {
        let entropy = &mut *self.entropy;
        self.ids.mint(now, || random_u16(entropy), |random| random)
    }

    /// The call that a name of ours belongs to; names of calls that are over find nothing.
    pub(crate) fn find(&self, session: LocalRef) -> Option<u16> {
        let [_, _, high, low] = session.0.to_be_bytes();
        let sid = u16::from_be_bytes([high, low]);
        self.calls
            .get(&sid)
            .filter(|call| call.local == session)
            .map(|call| call.sid)
    }

    fn datagram(&mut self, from: PeerAddr, packet: &[u8], now: Instant) {
        match family(packet) {
            Family::Control => match ControlHeader::decode(packet) {
                Ok((header, body)) => self.control(from, &header, body, now),
                Err(_) => self.dropped(drops::HEADER),
            },
            Family::Data => self.data(from, packet, now),
            _ => self.dropped(drops::VERSION),
        }
    }

    /// What is to be done after anything happened: notice what a restart must not forget, and guard the queue.
    fn settle(&mut self, now: Instant) {
        if self.channel.is_overrun() && self.state == State::Established {
            self.overrun(now);
        }
        if self.channel.take_changed() && self.state == State::Established {
            self.checkpoint_due = true;
        }
        self.after_stop(now);
    }

    fn transmit_control(&mut self, now: Instant, out: &mut BytesMut) -> Option<Transmit> {
        let outgoing = self.channel.poll(now)?;
        let to = self
            .candidate
            .filter(|_| outgoing.to_candidate)
            .unwrap_or(self.peer);
        let length = outgoing.encode(self.peer_tunnel, out);
        Some(Transmit {
            via: Via::Socket(to),
            length,
        })
    }
}

impl Machine for Tunnel {
    fn key(&self) -> MachineKey {
        MachineKey(self.key.into())
    }

    fn handle_input(&mut self, input: Input<'_>, now: Instant) -> Result<(), Fault> {
        match input {
            Input::Datagram { from, packet } => self.datagram(from, packet, now),
            Input::PathFrame { session, frame } => self.path_frame(session, frame, now),
            Input::Admission {
                session,
                verdict,
                verifiable,
            } => self.admitted(session, verdict, verifiable, now),
            Input::AuthVerdict { session, verdict } => self.judged(session, verdict, now),
            Input::Originate { call } => self.originate(call, now),
            Input::Terminate { session, cause } => self.terminate(session, cause, now),
            Input::PathState { session, state } => self.path_state(session, state),
            Input::Trace { session, on } => self.trace(session, on),
            Input::PathActive { session } => self.path_active(session, now),
            Input::PeerUnreachable => self.unreachable(),
            Input::Stream { .. }
            | Input::Unsent { .. }
            | Input::StreamEnded { .. }
            | Input::ChannelOpened { .. }
            | Input::ChannelListening { .. }
            | Input::ChannelFailed { .. }
            | Input::JoinEnded { .. } => return Err(Fault("a tunnel has no channels".to_owned())),
            Input::ContextAnswered { .. } => return Err(Fault("a tunnel has no contexts".to_owned())),
        }
        self.settle(now);
        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.settle(now);
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut) -> Option<Transmit> {
        if self.state == State::Gone || self.is_superseded() {
            return None;
        }
        if let Some(packet) = pop(&mut self.farewell) {
            out.extend_from_slice(&packet);
            return Some(Transmit {
                via: Via::Socket(self.peer),
                length: packet.len(),
            });
        }
        // Control goes before data: a tunnel must not die of the traffic in it.
        self.transmit_control(now, out)
            .or_else(|| self.transmit_frame(out))
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
        if self.state == State::Gone {
            return None;
        }
        self.timers
            .next()
            .into_iter()
            .chain(self.channel.deadline())
            .min()
    }

    fn checkpoint(&self, now: Instant) -> Option<Bytes> {
        (self.state == State::Established).then(|| crate::checkpoint::write(self, now))
    }

    fn close(&mut self, cause: TerminateCause, now: Instant) {
        self.begin_close(cause, now);
        self.settle(now);
    }

    fn is_drained(&self) -> bool {
        self.state == State::Gone && self.events.is_empty()
    }

    fn describe(&self) -> TunnelInfo {
        self.info()
    }

    fn describe_session(&self, session: LocalRef) -> Vec<Fact> {
        self.find(session)
            .and_then(|sid| self.calls.get(&sid))
            .map(|call| self.call_facts(call))
            .unwrap_or_default()
    }
}

/// Takes the first of a queue. An empty queue gives its memory back: most tunnels are silent for most of their life.
pub(crate) fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    first
}

/// An end in the words of this module.
pub(crate) fn ended(cause: TerminateCause, code: &'static str, text: impl Into<String>) -> Ended {
    Ended::new(cause, code, text)
}
