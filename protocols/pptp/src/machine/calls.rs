//! Messages of calls (RFC 2637, 3.2), as PAC for those that the peer has us place and as PNS for those that it has.

use super::{Call, CallState, Control, Kind, PathStage, State, Timer, ended};
use crate::codec::DataState;
use crate::names::{counts, drops};
use crate::wire::code::{disconnect, disconnect_cause, error, incoming, outgoing};
use crate::wire::message::{
    Disconnect, IncomingConnected, IncomingReply, IncomingRequest, LinkInfo, Message, Outcome, OutgoingReply,
    OutgoingRequest, WanError, number,
};
use sluice_auth::Verifiable;
use sluice_ppp::{Accm, PppHeader};
use sluice_spi::wire::display_text;
use sluice_spi::{CallInfo, Event, LocalRef, Refusal, SessionKind, Severity, TerminateCause};
use std::time::{Duration, Instant};

/// Shortest time between two WAN-Error-Notify of a call (2.14), less a second for their delays.
const WAN_ERROR_INTERVAL: Duration = Duration::from_secs(59);
/// Fastest speed told of a call without a line, in bits per second: that of a fast Ethernet.
const LINE_SPEED: u32 = 100_000_000;

/// A number of the peer's for display; `None`: it gave none.
fn shown(octets: &[u8]) -> Option<String> {
    (!octets.is_empty()).then(|| display_text(octets))
}

impl Control {
    /// A message of a call, on an established connection.
    pub(super) fn call_message(&mut self, message: Message, now: Instant) {
        match message {
            Message::OutgoingRequest(request) => self.outgoing_request(&request, now),
            Message::IncomingRequest(request) => self.incoming_request(&request, now),
            Message::IncomingConnected(connected) => self.connected(connected, now),
            Message::ClearRequest(peer_id) => self.cleared(peer_id, now),
            Message::DisconnectNotify(notify) => self.disconnected(&notify, now),
            Message::WanError(errors) => self.wan_errors(errors, now),
            Message::LinkInfo(info) => self.link_info(info),
            // Answers to requests that we never make.
            _ => self.dropped(drops::UNKNOWN_CALL),
        }
    }

    fn outgoing_request(&mut self, request: &OutgoingRequest, now: Instant) {
        let impossible =
            request.minimum_bps > request.maximum_bps || request.framing & 3 == 0 || request.bearer & 3 == 0;
        let wanted = self.config().accept_outgoing;
        let Some(call) = self.new_call(
            number::OUTGOING_REQUEST,
            Kind::Outgoing,
            request.call_id,
            wanted,
            impossible,
            now,
        ) else {
            return;
        };
        call.serial = request.serial;
        call.called = shown(&request.phone);
        call.framing = request.framing;
        call.window = request.window;
        call.speed = request.maximum_bps.min(LINE_SPEED).max(request.minimum_bps);
        let id = call.id;
        self.announce(id, now);
    }

    fn incoming_request(&mut self, request: &IncomingRequest, now: Instant) {
        let wanted = self.config().accept_incoming;
        let impossible = request.bearer & 3 == 0;
        let Some(call) = self.new_call(
            number::INCOMING_REQUEST,
            Kind::Incoming,
            request.call_id,
            wanted,
            impossible,
            now,
        ) else {
            return;
        };
        call.serial = request.serial;
        call.called = shown(&request.dialed);
        call.calling = shown(&request.dialing);
        let id = call.id;
        self.announce(id, now);
    }

    /// Makes a call that the peer asks for; `None`: it was refused.
    fn new_call(
        &mut self,
        request: u16,
        kind: Kind,
        peer_id: u16,
        wanted: bool,
        impossible: bool,
        now: Instant,
    ) -> Option<&mut Call> {
        let full = self.calls.len() >= self.config().limits.calls || self.state != State::Established;
        let refusal = if !wanted {
            Some(Self::not_accepted(request))
        } else if impossible {
            Some(Outcome::error(error::BAD_VALUE))
        } else if self.by_peer.contains_key(&peer_id) {
            Some(Outcome::error(error::BAD_CALL_ID))
        } else if full {
            Some(Outcome::error(error::NO_RESOURCE))
        } else {
            None
        };
        let id = match refusal {
            None => self.mint_call(now),
            Some(_) => None,
        };
        let Some(id) = id else {
            let outcome = refusal.unwrap_or(Outcome::error(error::NO_RESOURCE));
            self.refuse_call(request, peer_id, outcome);
            return None;
        };
        self.generation = self.generation.wrapping_add(1);
        let local = LocalRef(u32::from(self.generation) << 16 | u32::from(id));
        self.by_peer.insert(peer_id, id);
        self.timers.clear(Timer::Empty);
        let call = self
            .calls
            .entry(id)
            .or_insert_with(|| Box::new(Call::new(local, id, peer_id, kind)));
        Some(call)
    }

    fn announce(&mut self, id: u16, now: Instant) {
        let peer = self.peer;
        let Some(call) = self.calls.get(&id) else { return };
        let opening = Event::SessionOpening {
            session: call.local,
            call: CallInfo {
                kind: SessionKind::Connection,
                peer,
                calling: call.calling.clone(),
                called: call.called.clone(),
                label: None,
            },
        };
        self.event(opening);
        let limit = self.config().call_timeout;
        self.timers.set(Timer::Setup(id), now + limit);
    }

    /// The engine's answer to [`Event::SessionOpening`].
    pub(super) fn admitted(
        &mut self,
        session: LocalRef,
        verdict: Result<(), Refusal>,
        verifiable: Verifiable,
        now: Instant,
    ) {
        let Some(id) = self.find(session) else { return };
        let (window, speed) = (self.config().window, LINE_SPEED);
        let Some(call) = self
            .calls
            .get_mut(&id)
            .filter(|call| call.state == CallState::Admission)
        else {
            return;
        };
        let (kind, peer_id) = (call.kind, call.peer_id);
        if let Err(refusal) = verdict {
            let request = match kind {
                Kind::Outgoing => number::OUTGOING_REQUEST,
                Kind::Incoming => number::INCOMING_REQUEST,
            };
            let outcome = match refusal {
                Refusal::PeerLimit => Self::not_accepted(request),
                _ => Outcome::error(error::NO_RESOURCE),
            };
            self.refuse_call(request, peer_id, outcome);
            let text = format!("not admitted: {}", refusal.as_str());
            let ended = ended(TerminateCause::ServiceUnavailable, refusal.as_str(), text);
            return self.end_call(id, ended, None, now);
        }
        call.verifiable = verifiable;
        match kind {
            Kind::Outgoing => {
                // There is no line to wait for.
                call.state = CallState::Established;
                let speed = if call.speed == 0 { speed } else { call.speed };
                self.timers.clear(Timer::Setup(id));
                self.send(&Message::OutgoingReply(OutgoingReply {
                    call_id: id,
                    peer_call_id: peer_id,
                    outcome: Outcome::plain(outgoing::CONNECTED),
                    speed,
                    window,
                    ..OutgoingReply::default()
                }));
                self.start_link(id, now);
            }
            Kind::Incoming => {
                call.state = CallState::WaitConnect;
                self.send(&Message::IncomingReply(IncomingReply {
                    call_id: id,
                    peer_call_id: peer_id,
                    outcome: Outcome::plain(incoming::CONNECT),
                    window,
                    delay: 0,
                }));
            }
        }
    }

    fn connected(&mut self, connected: IncomingConnected, now: Instant) {
        let id = connected.peer_call_id;
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.kind == Kind::Incoming) else {
            return self.dropped(drops::UNKNOWN_CALL);
        };
        if call.state != CallState::WaitConnect {
            self.count(counts::PROTOCOL_ERRORS);
            let text = "Incoming-Call-Connected out of place";
            let ended = ended(TerminateCause::NasError, "state_machine", text);
            return self.end_call(id, ended, Some(disconnect::ERROR), now);
        }
        call.state = CallState::Established;
        call.speed = connected.speed;
        call.framing = connected.framing;
        call.window = connected.window;
        self.timers.clear(Timer::Setup(id));
        self.start_link(id, now);
    }

    /// Call-Clear-Request of a PNS.
    fn cleared(&mut self, peer_id: u16, now: Instant) {
        let found = self.by_peer.get(&peer_id).copied();
        let Some(id) = found.filter(|id| self.calls.get(id).is_some_and(|call| call.kind == Kind::Outgoing))
        else {
            return self.dropped(drops::UNKNOWN_CALL);
        };
        let text = "the peer cleared the call";
        let ended = ended(TerminateCause::UserRequest, "call_ended_by_peer", text);
        self.end_call(id, ended, Some(disconnect::REQUESTED), now);
    }

    /// Call-Disconnect-Notify. It is meant for a PAC's calls; some clients end their own by it, and are understood.
    fn disconnected(&mut self, notify: &Disconnect, now: Instant) {
        let Some(&id) = self.by_peer.get(&notify.call_id) else {
            return self.dropped(drops::UNKNOWN_CALL);
        };
        let (cause, name) = disconnect_cause(notify.outcome.result);
        let mut text = format!("the peer ended the call: {name}");
        if notify.outcome.result == disconnect::ERROR {
            text.push_str(&format!(": {}", error::name(notify.outcome.error)));
        }
        if notify.cause != 0 {
            text.push_str(&format!("; cause {}", notify.cause));
        }
        self.end_call(id, ended(cause, "call_ended_by_peer", text), None, now);
    }

    fn wan_errors(&mut self, errors: WanError, now: Instant) {
        let Some(call) = self
            .calls
            .get_mut(&errors.peer_call_id)
            .filter(|call| call.kind == Kind::Incoming)
        else {
            return self.dropped(drops::UNKNOWN_CALL);
        };
        let too_soon = call
            .errors
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < WAN_ERROR_INTERVAL);
        if too_soon {
            return self.dropped(drops::WAN_ERROR_RATE);
        }
        call.errors = Some((errors, now));
        let local = call.local;
        self.count(counts::WAN_ERRORS);
        let text = format!(
            "line errors: {} checksums, {} framing, {} hardware overruns, {} buffer overruns, {} timeouts, {} alignment",
            errors.crc, errors.framing, errors.hardware, errors.buffer, errors.timeouts, errors.alignment
        );
        self.notice(Some(local), Severity::Info, text);
    }

    /// Set-Link-Info: of no use without a line, and shown.
    fn link_info(&mut self, info: LinkInfo) {
        match self.calls.get_mut(&info.peer_call_id) {
            Some(call) if call.kind == Kind::Outgoing => {
                call.accm = Some(Accm {
                    send: info.send,
                    receive: info.receive,
                });
            }
            _ => self.dropped(drops::UNKNOWN_CALL),
        }
    }
}

impl Call {
    pub(crate) fn new(local: LocalRef, id: u16, peer_id: u16, kind: Kind) -> Self {
        Self {
            local,
            id,
            peer_id,
            kind,
            state: CallState::Admission,
            serial: 0,
            calling: None,
            called: None,
            framing: 0,
            speed: 0,
            window: 0,
            verifiable: Verifiable::default(),
            data: DataState::default(),
            ppp: None,
            path: PathStage::default(),
            header: PppHeader::default(),
            next_path: None,
            up: false,
            errors: None,
            accm: None,
            trace: false,
        }
    }
}
