//! One tunnel of the LAC with its calls.

use super::LacConfig;
use super::channel::Channel;
use super::ppp::{self, Learned, Ppp, PppEvent};
use super::script::{Outgoing, Player};
use super::wire::{self, Avps, Body, Packet, avp, message};
use crate::Seeded;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers to ICRQ are waited for this long.
const CALL_SETUP: Duration = Duration::from_secs(30);
/// Protocol version 1, revision 0 (RFC 2661, 4.4.2).
const VERSION: [u8; 2] = [1, 0];
const RECEIVE_WINDOW: u16 = 16;

/// A call of a LAC, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub usize);

/// What a LAC reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LacEvent {
    /// The tunnel is established.
    TunnelUp,
    /// A client is on the network.
    CallUp {
        /// The call.
        call: CallId,
        /// What it learned.
        learned: Learned,
    },
    /// A call ended, whether or not it was ever up. Given once for each call.
    CallDown {
        /// The call.
        call: CallId,
        /// Stable code of the reason.
        reason: String,
    },
    /// The tunnel is over; all its calls were reported before. Nothing follows.
    TunnelDown {
        /// Stable code of the reason.
        reason: String,
    },
    /// An IP packet for a client.
    Ip {
        /// The call.
        call: CallId,
        /// The packet.
        packet: Vec<u8>,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    WaitReply,
    Up,
    Closing,
    Over,
}

#[derive(Debug)]
enum CallState {
    WaitReply(Instant),
    Up(Box<Ppp>),
    Over,
}

#[derive(Debug)]
struct Call {
    state: CallState,
    peer_session: u16,
    /// Sequence number of its ICCN: no data leaves before that.
    iccn: u16,
}

impl Call {
    fn new(until: Instant) -> Self {
        Self {
            state: CallState::WaitReply(until),
            peer_session: 0,
            iccn: 0,
        }
    }
}

/// One tunnel with its calls.
pub struct Lac {
    config: Arc<LacConfig>,
    random: Seeded,
    tunnel: u16,
    peer_tunnel: u16,
    state: State,
    channel: Channel,
    challenge: [u8; 16],
    calls: Vec<Call>,
    quiet_since: Instant,
    reason: String,
    player: Player,
    out: VecDeque<Outgoing>,
    events: VecDeque<LacEvent>,
}

impl Lac {
    /// A tunnel whose own identifier is `tunnel`, which sends its SCCRQ at once.
    pub fn dial(config: Arc<LacConfig>, tunnel: u16, mut random: Seeded, now: Instant) -> Self {
        let mut challenge = [0; 16];
        for (place, byte) in challenge.iter_mut().zip(random.bytes(16)) {
            *place = byte;
        }
        let mut lac = Self {
            channel: Channel::new(config.retransmit, config.tries),
            player: Player::new(config.script.clone()),
            config,
            random,
            tunnel,
            peer_tunnel: 0,
            state: State::WaitReply,
            challenge,
            calls: Vec::new(),
            quiet_since: now,
            reason: String::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
        };
        let request = lac.sccrq();
        lac.channel.send(0, request);
        lac.flush(now);
        lac
    }

    fn sccrq(&mut self) -> Vec<u8> {
        let both = [0, 0, 0, 3];
        let mut body = Body::new(message::SCCRQ)
            .with(avp::PROTOCOL_VERSION, &VERSION)
            .with(avp::HOST_NAME, self.config.host_name.as_bytes())
            .with(avp::FRAMING_CAPABILITIES, &both)
            .with(avp::BEARER_CAPABILITIES, &both)
            .with(avp::RECEIVE_WINDOW_SIZE, &RECEIVE_WINDOW.to_be_bytes());
        let tunnel = self.tunnel.to_be_bytes();
        body = match &self.config.secret {
            Some(secret) if self.config.hide => {
                let vector = self.random.bytes(16);
                body.with(avp::RANDOM_VECTOR, &vector).hidden(
                    avp::ASSIGNED_TUNNEL_ID,
                    &tunnel,
                    secret,
                    &vector,
                    6,
                )
            }
            _ => body.with(avp::ASSIGNED_TUNNEL_ID, &tunnel),
        };
        if self.config.secret.is_some() {
            body = body.with(avp::CHALLENGE, &self.challenge);
        }
        body.finish()
    }

    /// Our own tunnel id.
    pub fn tunnel(&self) -> u16 {
        self.tunnel
    }

    /// The peer's tunnel id; 0 while it is not known.
    pub fn peer_tunnel(&self) -> u16 {
        self.peer_tunnel
    }

    /// Calls it was told to place.
    pub fn calls(&self) -> usize {
        self.config.calls
    }

    /// Whether nothing will happen any more.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Control messages sent more than once.
    pub fn retransmissions(&self) -> u64 {
        self.channel.retransmissions
    }

    /// Handles a datagram for this tunnel.
    pub fn handle_datagram(&mut self, bytes: &[u8], now: Instant) {
        if self.state == State::Over {
            return;
        }
        match wire::parse(bytes) {
            Some(Packet::Control {
                tunnel,
                session,
                ns,
                nr,
                body,
            }) if tunnel == self.tunnel => {
                self.quiet_since = now;
                let ordered = self.channel.receive(session, ns, nr, body);
                for (session, body) in ordered.ready {
                    self.handle_message(session, &body, now);
                }
            }
            Some(Packet::Data {
                tunnel,
                session,
                frame,
            }) if tunnel == self.tunnel => {
                self.handle_data(session, frame, now);
            }
            _ => {}
        }
        self.flush(now);
    }

    fn handle_message(&mut self, session: u16, body: &[u8], now: Instant) {
        let Some(avps) = Avps::parse(body) else {
            return self.stop("malformed_message");
        };
        match avps.message_type() {
            Some(message::SCCRP) if self.state == State::WaitReply => self.handle_sccrp(&avps, now),
            Some(message::ICRP) => self.handle_icrp(session, &avps, now),
            Some(message::CDN) => {
                let reason = cause("cdn", &avps);
                if let Some(call) = self.call_of(session) {
                    self.end_call(call, &reason);
                }
            }
            Some(message::STOPCCN) => {
                let reason = cause("stopccn", &avps);
                self.end_all(&reason);
                // The acknowledgement still leaves by the flush that follows.
                self.state = State::Closing;
            }
            _ => {}
        }
    }

    fn handle_sccrp(&mut self, avps: &Avps<'_>, now: Instant) {
        let Some(peer) = avps.u16(avp::ASSIGNED_TUNNEL_ID).filter(|&peer| peer != 0) else {
            return self.stop("sccrp_without_tunnel_id");
        };
        self.peer_tunnel = peer;
        self.channel
            .set_window(avps.u16(avp::RECEIVE_WINDOW_SIZE).unwrap_or(4));
        let mut body = Body::new(message::SCCCN);
        if let Some(secret) = &self.config.secret {
            let wanted = wire::challenge_response(message::SCCRP, secret, &self.challenge);
            if avps.get(avp::CHALLENGE_RESPONSE) != Some(&wanted[..]) {
                return self.stop("wrong_challenge_response");
            }
        }
        if let Some(challenge) = avps.get(avp::CHALLENGE) {
            let secret = self.config.secret.as_deref().unwrap_or_default();
            let response = wire::challenge_response(message::SCCCN, secret, challenge);
            body = body.with(avp::CHALLENGE_RESPONSE, &response);
        }
        self.channel.send(0, body.finish());
        self.state = State::Up;
        self.events.push_back(LacEvent::TunnelUp);
        for number in 0..self.config.calls {
            let serial = (number as u32 + 1).to_be_bytes();
            let mut body = Body::new(message::ICRQ)
                .with(avp::ASSIGNED_SESSION_ID, &session_id(number).to_be_bytes())
                .with(avp::CALL_SERIAL_NUMBER, &serial);
            if !self.config.calling.is_empty() {
                body = body.with(avp::CALLING_NUMBER, self.config.calling.as_bytes());
            }
            self.channel.send(0, body.finish());
            self.calls.push(Call::new(now + CALL_SETUP));
        }
    }

    fn handle_icrp(&mut self, session: u16, avps: &Avps<'_>, now: Instant) {
        let Some(id) = self.call_of(session) else {
            return;
        };
        let credentials = (
            self.config.user_name(id.0).into_bytes(),
            self.config.password.clone(),
        );
        let Some(call) = self.calls.get_mut(id.0) else {
            return;
        };
        if !matches!(call.state, CallState::WaitReply(_)) {
            return;
        }
        let Some(peer) = avps.u16(avp::ASSIGNED_SESSION_ID).filter(|&peer| peer != 0) else {
            return self.end_call(id, "icrp_without_session_id");
        };
        call.peer_session = peer;
        let body = Body::new(message::ICCN)
            .with(avp::TX_CONNECT_SPEED, &10_000_000u32.to_be_bytes())
            .with(avp::FRAMING_TYPE, &1u32.to_be_bytes());
        call.iccn = self.channel.send(peer, body.finish());
        // The client talks as soon as ICCN has left: real ones do so within 90 µs.
        call.state = CallState::Up(Box::new(Ppp::start(
            &self.config,
            credentials,
            &mut self.random,
            now,
        )));
    }

    fn handle_data(&mut self, session: u16, frame: &[u8], now: Instant) {
        let Some(id) = self.call_of(session) else {
            return;
        };
        if let Some(Call {
            state: CallState::Up(ppp),
            ..
        }) = self.calls.get_mut(id.0)
        {
            ppp.handle_frame(frame, now);
        }
    }

    fn call_of(&self, session: u16) -> Option<CallId> {
        let number = usize::from(session).checked_sub(1)?;
        (number < self.calls.len()).then_some(CallId(number))
    }

    /// Sends an IP packet of a client's; false where it is not up.
    pub fn send_ip(&mut self, call: CallId, ip: &[u8], now: Instant) -> bool {
        let Some(Call {
            state: CallState::Up(_),
            peer_session,
            ..
        }) = self.calls.get(call.0)
        else {
            return false;
        };
        let Some(protocol) = ppp::protocol_of(ip) else {
            return false;
        };
        let frame = [&[0xff, 3], &protocol.to_be_bytes()[..], ip].concat();
        let packet = wire::data(self.peer_tunnel, *peer_session, &frame);
        self.player.play(packet, &mut self.out);
        self.flush(now);
        true
    }

    /// The client hangs up by PPP: LCP Terminate-Request, then CDN when that was answered.
    pub fn hang_up(&mut self, call: CallId, now: Instant) {
        if let Some(Call {
            state: CallState::Up(ppp),
            ..
        }) = self.calls.get_mut(call.0)
        {
            ppp.terminate();
        }
        self.flush(now);
    }

    /// Ends the tunnel with StopCCN.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, State::WaitReply | State::Up) {
            self.stop("closed");
        }
        self.flush(now);
    }

    /// Sends StopCCN (result 1, general request to clear) and ends everything for `reason`.
    fn stop(&mut self, reason: &str) {
        if !matches!(self.state, State::WaitReply | State::Up) {
            return;
        }
        let body = Body::new(message::STOPCCN)
            .with(avp::ASSIGNED_TUNNEL_ID, &self.tunnel.to_be_bytes())
            .with(avp::RESULT_CODE, &[0, 1]);
        self.channel.send(0, body.finish());
        self.end_all(reason);
        self.state = State::Closing;
    }

    fn end_all(&mut self, reason: &str) {
        if self.reason.is_empty() {
            reason.clone_into(&mut self.reason);
        }
        // Calls that were never placed because the tunnel failed are calls that failed.
        while self.calls.len() < self.config.calls {
            self.calls.push(Call::new(self.quiet_since));
        }
        for number in 0..self.calls.len() {
            self.end_call(CallId(number), reason);
        }
    }

    fn end_call(&mut self, id: CallId, reason: &str) {
        if let Some(call) = self.calls.get_mut(id.0)
            && !matches!(call.state, CallState::Over)
        {
            call.state = CallState::Over;
            self.events.push_back(LacEvent::CallDown {
                call: id,
                reason: reason.to_owned(),
            });
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.calls.iter().filter_map(|call| match &call.state {
            CallState::WaitReply(until) => Some(*until),
            CallState::Up(ppp) => ppp.poll_timeout(),
            CallState::Over => None,
        });
        let hello = self
            .config
            .hello
            .filter(|_| self.state == State::Up && self.channel.is_idle());
        calls
            .chain(self.channel.poll_timeout())
            .chain(hello.map(|hello| self.quiet_since + hello))
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut repeated = Vec::new();
        if !self.channel.handle_timeout(self.peer_tunnel, now, &mut repeated) {
            self.end_all(if self.state == State::WaitReply {
                "no_answer"
            } else {
                "control_timeout"
            });
            self.over();
            return;
        }
        repeated
            .into_iter()
            .for_each(|bytes| self.player.play(bytes, &mut self.out));
        let mut late = Vec::new();
        for (number, call) in self.calls.iter_mut().enumerate() {
            match &mut call.state {
                CallState::WaitReply(until) if *until <= now => late.push(CallId(number)),
                CallState::Up(ppp) => ppp.handle_timeout(now),
                _ => {}
            }
        }
        late.into_iter().for_each(|id| self.end_call(id, "no_icrp"));
        if let Some(hello) = self.config.hello
            && self.state == State::Up
            && self.channel.is_idle()
            && self.quiet_since + hello <= now
        {
            self.quiet_since = now;
            self.channel.send(0, Body::new(message::HELLO).finish());
        }
        self.flush(now);
    }

    /// Collects what PPP and the control channel have to send, control first.
    fn flush(&mut self, now: Instant) {
        let mut packets = Vec::new();
        self.channel.transmit(self.peer_tunnel, now, &mut packets);
        for number in 0..self.calls.len() {
            self.drain_call(CallId(number), &mut packets);
        }
        // What the clients did may have ended calls.
        self.channel.transmit(self.peer_tunnel, now, &mut packets);
        for bytes in packets {
            self.player.play(bytes, &mut self.out);
        }
        if self.state == State::Closing && self.channel.is_idle() {
            self.over();
        }
    }

    fn over(&mut self) {
        if self.state != State::Over {
            self.state = State::Over;
            self.events.push_back(LacEvent::TunnelDown {
                reason: self.reason.clone(),
            });
        }
    }

    fn drain_call(&mut self, id: CallId, frames: &mut Vec<Vec<u8>>) {
        let Some(Call {
            state: CallState::Up(ppp),
            peer_session,
            iccn,
        }) = self.calls.get_mut(id.0)
        else {
            return;
        };
        if !self.channel.was_sent(*iccn) {
            return;
        }
        let peer_session = *peer_session;
        while let Some(frame) = ppp.poll_frame() {
            frames.push(wire::data(
                self.peer_tunnel,
                peer_session,
                &[&[0xff, 3][..], &frame].concat(),
            ));
        }
        let mut ended = None;
        while let Some(event) = ppp.poll_event() {
            match event {
                PppEvent::Up => {
                    let learned = ppp.learned().clone();
                    self.events.push_back(LacEvent::CallUp { call: id, learned });
                }
                PppEvent::Ip(packet) => self.events.push_back(LacEvent::Ip { call: id, packet }),
                PppEvent::Down(reason) => ended = Some(reason),
            }
        }
        if let Some(reason) = ended {
            let body = Body::new(message::CDN)
                .with(avp::RESULT_CODE, &[0, 3])
                .with(avp::ASSIGNED_SESSION_ID, &session_id(id.0).to_be_bytes());
            self.channel.send(peer_session, body.finish());
            self.end_call(id, reason);
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<LacEvent> {
        self.events.pop_front()
    }
}

fn session_id(call: usize) -> u16 {
    call as u16 + 1
}

/// A stable code such as `cdn_2_4` from result and error code.
fn cause(message: &str, avps: &Avps<'_>) -> String {
    match avps.result() {
        Some((result, 0)) => format!("{message}_{result}"),
        Some((result, error)) => format!("{message}_{result}_{error}"),
        None => format!("{message}_without_result"),
    }
}
