//! The tunnel's own messages (RFC 2661, 7.2) and the way of every control message to its place.

use super::channel::{Priority, Received};
use super::{Channel, Pending, Remote, State, Timer, Tunnel, channel_config, ended, introduction};
use crate::module::Shared;
use crate::names::{counts, drops};
use crate::wire::header::ControlHeader;
use crate::wire::message::{DEFAULT_WINDOW, Message, PROTOCOL_VERSION, Scccn, Start, StopCcn, number};
use crate::wire::result::{ResultCode, error, stop, stop_cause, stop_name};
use crate::wire::{self, DecodeError, Refused, Scope, hidden, message_type};
use sluice_spi::{Entropy, Event, PeerAddr, Severity, TerminateCause, random_bytes, random_u16, random_u32};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Tunnel {
    /// A tunnel that we open.
    pub(crate) fn initiated(
        shared: Arc<Shared>,
        key: u16,
        peer: PeerAddr,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Self {
        let rule = shared.config.find_address(peer.remote.ip());
        let channel = Channel::new(channel_config(&shared.config));
        let mut tunnel = Self::new(shared, key, peer, rule, channel, entropy, now);
        tunnel.initiated = true;
        tunnel.challenge = tunnel
            .secret()
            .is_some()
            .then_some(())
            .map(|()| random_bytes(&mut *tunnel.entropy));
        let tie_breaker = tunnel
            .config()
            .tie_breaker
            .then_some(())
            .map(|()| random_bytes(&mut *tunnel.entropy));
        tunnel.tie = Some(tunnel.shared.ties.enter(peer.remote.ip(), tie_breaker));
        let request = Start {
            challenge: tunnel.challenge.map(|challenge| challenge.to_vec()),
            tie_breaker,
            ..introduction(tunnel.config(), key)
        };
        tunnel.send(&Message::Sccrq(request), Priority::Normal);
        tunnel
    }

    /// Takes the SCCCN that the front has found valid.
    pub(crate) fn note_connected(&mut self, header: &ControlHeader, body: &[u8], now: Instant) {
        self.channel.receive(header, body, now);
        // A peer that goes step by step waits for this before it asks for a call.
        self.channel.acknowledge_again(now);
        self.established(now);
        self.channel.take_changed();
    }

    /// The tunnel is established.
    fn established(&mut self, now: Instant) {
        self.state = State::Established;
        self.tie = None;
        self.channel.set_established();
        self.was_up = true;
        self.event(Event::TunnelUp(self.info()));
        self.checkpoint_due = true;
        self.arm_hello(now);
        self.watch_empty(now);
        self.place_waiting(now);
    }

    /// Sets the timer for the next HELLO, up to a tenth earlier or later than configured so that many tunnels do
    /// not speak at once.
    pub(crate) fn arm_hello(&mut self, from: Instant) {
        let interval = self.config().hello_interval;
        let tenth = u32::try_from((interval / 10).as_millis()).unwrap_or(u32::MAX);
        let jitter = random_u32(&mut *self.entropy) % (2 * tenth).max(1);
        let wait = interval - interval / 10 + Duration::from_millis(jitter.into());
        self.timers.set(Timer::Hello, from + wait);
    }

    /// Starts or stops the clock of a tunnel without calls.
    pub(crate) fn watch_empty(&mut self, now: Instant) {
        let limit = self.config().empty_timeout;
        if self.calls.is_empty() && self.state == State::Established && !limit.is_zero() {
            self.timers.set(Timer::Empty, now + limit);
        } else {
            self.timers.clear(Timer::Empty);
        }
    }

    /// The HELLO timer has fired: the peer was silent for the whole interval, or the timer starts anew.
    pub(crate) fn hello_due(&mut self, now: Instant) {
        let interval = self.config().hello_interval;
        if now.saturating_duration_since(self.last_heard) >= interval - interval / 10 {
            self.ask_for_life();
            self.arm_hello(now);
        } else {
            self.arm_hello(self.last_heard);
        }
    }

    /// Sends a HELLO where nothing else is on its way that the peer must acknowledge.
    fn ask_for_life(&mut self) {
        if self.state == State::Established && self.channel.is_idle() {
            self.count(counts::HELLOS);
            self.send(&Message::Hello, Priority::Urgent);
        }
    }

    /// The network says that the peer is unreachable. It is never proof: it shortens what is left of the
    /// retransmissions, and makes us ask.
    pub(crate) fn unreachable(&mut self) {
        self.channel.note_unreachable();
        self.ask_for_life();
    }

    /// Whether the peer of an unanswered SCCRQ may be who answers now: its first reply may come from another
    /// port, and where configured another address (RFC 2661, 8.1).
    fn may_float(&self, from: &PeerAddr, body: &[u8]) -> bool {
        self.state == State::WaitReply
            && self.peer_tunnel == 0
            && (from.remote.ip() == self.peer.remote.ip() || self.config().float_address)
            && matches!(message_type(body), Some((number::SCCRP | number::STOPCCN, _)))
    }

    /// A packet for this tunnel that did not come from its peer.
    pub(crate) fn wrong_peer(&mut self) {
        self.wrong_peers = self.wrong_peers.saturating_add(1);
        self.dropped(drops::WRONG_PEER);
    }

    /// A control message for this tunnel.
    pub(crate) fn control(&mut self, from: PeerAddr, header: &ControlHeader, body: &[u8], now: Instant) {
        if self.state == State::Gone {
            return self.dropped(drops::CLOSED);
        }
        if from.remote != self.peer.remote {
            if self.may_float(&from, body) && header.nr == 1 {
                self.peer.remote = from.remote;
            } else if !self.follow(from, header, body) {
                return self.wrong_peer();
            }
        }
        if header.tunnel != self.key {
            // A late copy of the SCCRQ that this tunnel began with.
            return self.channel.acknowledge_again(now);
        }
        if !body.is_empty() && message_type(body).is_none() {
            return self.dropped(drops::NO_TYPE);
        }
        let received = self.channel.receive(header, body, now);
        if received != Received::WrongNr {
            self.last_heard = now;
        }
        if self.candidate.is_some() && !self.channel.has_probe() {
            self.candidate = None;
        }
        match received {
            Received::InOrder => {
                self.message(header, body, now);
                while let Some((header, body)) = self.channel.pop_ready() {
                    self.message(&header, &body, now);
                }
            }
            Received::Acknowledgement | Received::Queued => {}
            Received::Duplicate => self.dropped(drops::DUPLICATE),
            Received::OutsideWindow => self.dropped(drops::OUTSIDE_WINDOW),
            Received::WrongNr => self.dropped(drops::WRONG_NR),
        }
    }

    /// A message in its turn.
    fn message(&mut self, header: &ControlHeader, body: &[u8], now: Instant) {
        if self.state == State::Stopped {
            return self.dropped(drops::CLOSED);
        }
        if self.state == State::WaitReply
            && let Some(name) = wire::host_name(body)
        {
            self.rule = self.config().find_peer(name, self.peer.remote.ip());
        }
        match wire::decode(body, self.secret()) {
            Ok(message) => {
                self.trace_message(header, &message);
                self.dispatch(header, message, now);
            }
            Err(DecodeError::NoType) => self.dropped(drops::NO_TYPE),
            Err(DecodeError::Ignored(_)) => self.dropped(drops::IGNORED_TYPE),
            Err(DecodeError::Refused(refused)) => self.refused(header, refused, now),
        }
    }

    /// A message that must be answered by ending what it is about (RFC 2661, 4.1 and 7.1).
    fn refused(&mut self, header: &ControlHeader, refused: Refused, now: Instant) {
        self.count(counts::PROTOCOL_ERRORS);
        self.notice(None, Severity::Warning, format!("refused {refused}"));
        let result = ResultCode::with_error(stop::ERROR, refused.error, refused.message.clone());
        match refused.scope {
            Scope::Tunnel => {
                if let Some(id) = refused.assigned_tunnel.filter(|_| self.peer_tunnel == 0) {
                    self.peer_tunnel = id;
                }
                let ended = ended(TerminateCause::NasError, "protocol_error", refused.message);
                self.stop(result, ended, now);
            }
            Scope::Session => self.refused_call(header, refused, now),
        }
    }

    fn dispatch(&mut self, header: &ControlHeader, message: Message, now: Instant) {
        match message {
            Message::Sccrp(reply) if self.state == State::WaitReply => self.reply(&reply, now),
            Message::Sccrq(_) | Message::Sccrp(_) | Message::Scccn(_) => {
                let name = number::name(message.number());
                self.count(counts::PROTOCOL_ERRORS);
                let ended = ended(
                    TerminateCause::NasError,
                    "state_machine",
                    format!("{name} in the wrong state"),
                );
                self.stop(ResultCode::plain(stop::STATE_MACHINE), ended, now);
            }
            Message::StopCcn(stop) => self.stop_received(stop, now),
            Message::Hello => {}
            _ if self.state == State::WaitReply => self.dropped(drops::HALF_OPEN),
            message => self.call_message(header, message, now),
        }
    }

    /// The answer to our SCCRQ.
    fn reply(&mut self, reply: &Start, now: Instant) {
        self.peer_tunnel = reply.tunnel_id;
        self.remote = Remote {
            framing: reply.framing,
            bearer: reply.bearer,
            firmware: reply.firmware,
            host_name: reply.host_name.clone(),
            vendor: reply.vendor.clone().unwrap_or_default(),
        };
        self.channel
            .set_peer_window(reply.window.unwrap_or(DEFAULT_WINDOW));
        if reply.version >> 8 != PROTOCOL_VERSION >> 8 {
            let result = ResultCode {
                result: stop::VERSION,
                error: Some(PROTOCOL_VERSION),
                message: String::new(),
            };
            let text = format!("the peer speaks version {:#06x}", reply.version);
            return self.stop(result, ended(TerminateCause::NasError, "version", text), now);
        }
        if let Err(text) = self.check_reply(reply) {
            self.count(counts::AUTH_FAILED);
            let ended = ended(TerminateCause::NasError, "tunnel_auth", text);
            return self.stop(ResultCode::plain(stop::NOT_AUTHORIZED), ended, now);
        }
        let response = self
            .secret()
            .zip(reply.challenge.as_ref())
            .map(|(secret, challenge)| hidden::challenge_response(number::SCCCN, secret, challenge));
        self.send(&Message::Scccn(Scccn { response }), Priority::Normal);
        self.established(now);
    }

    /// Whether the peer has proven to know the secret, where there is one.
    fn check_reply(&self, reply: &Start) -> Result<(), &'static str> {
        let Some(secret) = self.secret() else {
            let wanted = self.challenge.is_some() || reply.challenge.is_some();
            if wanted || !self.config().allow_no_secret {
                return Err("there is no secret for the peer");
            }
            return Ok(());
        };
        // A secret may be known only by the peer's name; then our SCCRQ had no challenge.
        let Some(challenge) = &self.challenge else {
            return Ok(());
        };
        let right = reply
            .response
            .is_some_and(|response| hidden::response_matches(number::SCCRP, secret, challenge, &response));
        right.then_some(()).ok_or("the peer does not know the secret")
    }

    fn stop_received(&mut self, stop: StopCcn, now: Instant) {
        if self.peer_tunnel != 0 && stop.tunnel_id != self.peer_tunnel {
            return self.dropped(drops::WRONG_ID);
        }
        if self.peer_tunnel == 0 {
            self.peer_tunnel = stop.tunnel_id;
        }
        let mut text = format!("the peer stopped the tunnel: {}", stop_name(stop.result.result));
        if let Some(code) = stop.result.error.filter(|&code| code != error::NONE) {
            text.push_str(": ");
            if stop.result.result == stop::VERSION {
                text.push_str(&format!("highest is {code:#06x}"));
            } else {
                text.push_str(wire::result::error_name(code));
            }
        }
        if !stop.result.message.is_empty() {
            text.push_str(&format!(" ({})", stop.result.message));
        }
        let cause = stop_cause(stop.result.result);
        self.stopped_by_peer(ended(cause, "stopped_by_peer", text), now);
    }

    /// Looks at a message from an address that is not the peer's. True: the peer has moved there, and the
    /// message is its.
    fn follow(&mut self, from: PeerAddr, header: &ControlHeader, body: &[u8]) -> bool {
        if !self.config().strict_follow
            || self.state != State::Established
            || header.tunnel != self.key
            || !self.channel.could_be_next(header)
        {
            return false;
        }
        if self.candidate == Some(from) && self.channel.answers_probe(header) {
            self.candidate = None;
            self.move_to(from);
            return true;
        }
        if !body.is_empty() && self.candidate.is_none() {
            self.candidate = Some(from);
            if !self.channel.probe_with_oldest() {
                self.count(counts::HELLOS);
                let body = self.encode(&Message::Hello);
                let probe = Pending {
                    session: 0,
                    owner: 0,
                    probe: true,
                    body,
                };
                self.channel.send(probe, Priority::Urgent);
            }
        }
        false
    }

    fn move_to(&mut self, peer: PeerAddr) {
        self.count(counts::PEER_MOVED);
        let text = format!("the peer has moved from {} to {}", self.peer.remote, peer.remote);
        self.notice(None, Severity::Warning, text);
        self.peer = peer;
        self.checkpoint_due = true;
        self.move_paths();
    }

    /// A session id that is nobody's, for messages about calls that do not exist: a peer that looks calls up by it
    /// must not find another one.
    pub(crate) fn nobody(&mut self) -> u16 {
        let start = random_u16(&mut *self.entropy);
        (0..=u16::MAX)
            .map(|step| start.wrapping_add(step))
            .find(|id| *id != 0 && !self.calls.contains_key(id))
            .unwrap_or(u16::MAX)
    }
}
