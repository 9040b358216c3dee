//! Messages of calls (RFC 2661, 7.4 and 7.5), both directions and both ends.

use super::channel::Priority;
use super::{Call, CallState, Kind, State, Timer, Tunnel, ended};
use crate::codec::{DataState, Sequencing};
use crate::config::{Role, SequencingPolicy};
use crate::machine::call::Dial;
use crate::names::{counts, drops};
use crate::wire::Refused;
use crate::wire::header::ControlHeader;
use crate::wire::message::{CallErrors, Cdn, Connected, FRAMING_SYNC, Icrq, Message, Ocrq, Reply, number};
use crate::wire::result::{ResultCode, cdn, cdn_cause, cdn_name, error, error_name};
use sluice_auth::Secret;
use sluice_auth::Verifiable;
use sluice_ppp::{Login, Proxy};
use sluice_spi::wire::display_text;
use sluice_spi::{CallInfo, Event, LocalRef, Originate, Refusal, SessionKind, Severity, TerminateCause};
use std::time::{Duration, Instant};

/// Speed named for a call without a line, in bits per second: that of the slowest Ethernet.
const LINE_SPEED: u32 = 10_000_000;
/// Shortest time between two WAN-Error-Notify of a call (RFC 2661, 6.13), less a second for their delays.
const WEN_INTERVAL: Duration = Duration::from_secs(59);

impl Tunnel {
    /// Makes a call with a fresh session id; `None`: there can be no more.
    fn new_call(&mut self, kind: Kind, state: CallState, now: Instant) -> Option<&mut Call> {
        if self.calls.len() >= self.config().limits.sessions {
            return None;
        }
        let sid = self.mint_session(now)?;
        self.generation = self.generation.wrapping_add(1);
        let local = LocalRef(u32::from(self.generation) << 16 | u32::from(sid));
        self.calls
            .insert(sid, Box::new(Call::new(local, sid, kind, state)));
        self.watch_empty(now);
        self.calls.get_mut(&sid).map(Box::as_mut)
    }

    fn announce(&mut self, sid: u16, now: Instant) {
        let peer = self.peer;
        let Some(call) = self.calls.get(&sid) else {
            return;
        };
        let opening = Event::SessionOpening {
            session: call.local,
            call: CallInfo {
                kind: SessionKind::Connection,
                peer,
                calling: call.calling.clone(),
                called: call.called.clone(),
                label: call.label.clone(),
            },
        };
        self.event(opening);
        let limit = self.config().call_timeout;
        self.timers.set(Timer::Setup(sid), now + limit);
    }

    /// A message of a call, in an established tunnel.
    pub(super) fn call_message(&mut self, header: &ControlHeader, message: Message, now: Instant) {
        match message {
            Message::Icrq(icrq) => return self.incoming(icrq, now),
            Message::Ocrq(ocrq) => return self.outgoing(ocrq, now),
            Message::Cdn(cdn) => return self.disconnected(header, cdn, now),
            _ => {}
        }
        let Some((local, kind, state)) = self
            .calls
            .get(&header.session)
            .map(|call| (call.local, call.kind, call.state))
        else {
            return self.unknown_call(header, &message);
        };
        let sid = header.session;
        match (message, kind, state) {
            (Message::Icrp(reply), Kind::IncomingLac, CallState::WaitReply) => {
                self.answered(sid, &reply);
                self.connect_incoming(sid, now);
            }
            (Message::Ocrp(reply), Kind::OutgoingLns, CallState::WaitReply) => {
                self.answered(sid, &reply);
                if let Some(call) = self.calls.get_mut(&sid) {
                    call.state = CallState::WaitConnect;
                }
            }
            (Message::Iccn(connected), Kind::IncomingLns, CallState::WaitConnect)
            | (Message::Occn(connected), Kind::OutgoingLns, CallState::WaitConnect) => {
                self.connected(sid, connected, now);
            }
            (Message::Wen(errors), _, CallState::Established) if kind.is_lns() => {
                self.wan_errors(sid, local, errors, now);
            }
            (Message::Sli(info), _, CallState::Established) if !kind.is_lns() => {
                if let Some(call) = self.calls.get_mut(&sid) {
                    call.accm = Some(sluice_ppp::Accm {
                        send: info.send,
                        receive: info.receive,
                    });
                }
            }
            (message, _, state) => {
                let name = number::name(message.number());
                self.count(counts::PROTOCOL_ERRORS);
                let text = format!("{name} in state {}", state.name());
                let result = ResultCode::with_error(cdn::ERROR, error::INVALID_SESSION, text.clone());
                self.end_call(
                    sid,
                    ended(TerminateCause::NasError, "state_machine", text),
                    Some(result),
                    now,
                );
            }
        }
    }

    /// A message of a call that we do not know (any more). It never ends the tunnel; where the peer says
    /// by which id it knows the call, it is told that there is none.
    fn unknown_call(&mut self, header: &ControlHeader, message: &Message) {
        self.dropped(drops::UNKNOWN_SESSION);
        if let Message::Icrp(reply) | Message::Ocrp(reply) = message {
            let session_id = if header.session == 0 {
                self.nobody()
            } else {
                header.session
            };
            self.disconnect(
                session_id,
                reply.session_id,
                ResultCode::with_error(cdn::ERROR, error::INVALID_SESSION, "no such call"),
            );
        }
    }

    /// Sends a CDN for a call that has ended, or never was.
    pub(super) fn disconnect(&mut self, session_id: u16, peer_sid: u16, result: ResultCode) {
        let message = Message::Cdn(Cdn {
            session_id,
            result,
            q931: None,
            disconnect: None,
        });
        self.send_for(session_id, peer_sid, &message, Priority::Urgent);
    }

    /// A message of a call that could not be decoded and must not be ignored.
    pub(super) fn refused_call(&mut self, header: &ControlHeader, refused: Refused, now: Instant) {
        let result = ResultCode::with_error(cdn::ERROR, refused.error, refused.message.clone());
        if self.calls.contains_key(&header.session) {
            let ended = ended(TerminateCause::NasError, "protocol_error", refused.message);
            return self.end_call(header.session, ended, Some(result), now);
        }
        match (refused.number, refused.assigned_session) {
            (number::ICRQ | number::OCRQ, Some(peer_sid)) => {
                self.count(counts::CALLS_REFUSED);
                let nobody = self.nobody();
                self.disconnect(nobody, peer_sid, result);
            }
            _ => self.dropped(drops::UNKNOWN_SESSION),
        }
    }

    /// Refuses a call before there is one.
    fn refuse_call(&mut self, peer_sid: u16, result: ResultCode) {
        self.count(counts::CALLS_REFUSED);
        let nobody = self.nobody();
        self.disconnect(nobody, peer_sid, result);
    }

    /// A session id that the peer uses already: it has forgotten the former call (7.4.2).
    fn drop_former(&mut self, peer_sid: u16, name: &str, now: Instant) -> bool {
        let Some(&sid) = self.by_peer.get(&peer_sid) else {
            return false;
        };
        let text = format!("{name} for a call that exists");
        let result = ResultCode::with_error(cdn::ERROR, error::INVALID_SESSION, text.clone());
        let ended = ended(TerminateCause::NasError, "state_machine", text);
        self.end_call(sid, ended, Some(result), now);
        true
    }

    fn incoming(&mut self, icrq: Icrq, now: Instant) {
        if self.drop_former(icrq.session_id, "ICRQ", now) {
            return;
        }
        if self.state != State::Established {
            let result = ResultCode::with_error(cdn::ERROR, error::TRY_ANOTHER, "shutting down");
            return self.refuse_call(icrq.session_id, result);
        }
        let text = |octets: Option<Vec<u8>>| octets.map(|octets| display_text(&octets));
        let Some(call) = self.new_call(Kind::IncomingLns, CallState::Admission, now) else {
            return self.refuse_call(icrq.session_id, ResultCode::plain(cdn::NO_FACILITIES));
        };
        call.peer_sid = icrq.session_id;
        call.serial = icrq.serial;
        call.bearer = icrq.bearer;
        call.physical_channel = icrq.channel;
        call.calling = text(icrq.calling);
        call.called = text(icrq.called);
        call.sub_address = text(icrq.sub_address);
        let sid = call.sid;
        self.by_peer.insert(icrq.session_id, sid);
        self.announce(sid, now);
    }

    fn outgoing(&mut self, ocrq: Ocrq, now: Instant) {
        if self.drop_former(ocrq.session_id, "OCRQ", now) {
            return;
        }
        if !self.config().answer_outgoing {
            return self.refuse_call(ocrq.session_id, ResultCode::plain(cdn::NO_FACILITIES_EVER));
        }
        if ocrq.minimum_bps > ocrq.maximum_bps || ocrq.framing & 3 == 0 || ocrq.bearer & 3 == 0 {
            let result = ResultCode::with_error(cdn::ERROR, error::OUT_OF_RANGE, "no such call is possible");
            return self.refuse_call(ocrq.session_id, result);
        }
        let login = self.config().answer_login.clone();
        let full = self.state != State::Established;
        let call = (!full)
            .then(|| self.new_call(Kind::OutgoingLac, CallState::Admission, now))
            .flatten();
        let Some(call) = call else {
            return self.refuse_call(ocrq.session_id, ResultCode::plain(cdn::NO_FACILITIES));
        };
        call.peer_sid = ocrq.session_id;
        call.serial = ocrq.serial;
        call.bearer = Some(ocrq.bearer);
        call.framing = ocrq.framing;
        call.called = Some(display_text(&ocrq.called));
        call.sub_address = ocrq.sub_address.map(|octets| display_text(&octets));
        call.tx_speed = ocrq.maximum_bps;
        call.login = login;
        let sid = call.sid;
        self.by_peer.insert(ocrq.session_id, sid);
        self.announce(sid, now);
    }

    /// Places a call of ours.
    pub(super) fn originate(&mut self, originate: &Originate, now: Instant) {
        let kind = match self.config().role {
            Role::Lns => Kind::OutgoingLns,
            Role::Lac => Kind::IncomingLac,
        };
        let possible = matches!(self.state, State::WaitReply | State::Established);
        let Some(call) = self.new_call(kind, CallState::Admission, now) else {
            let text = format!("call {} cannot be placed: no session is free", originate.label);
            return self.notice(None, Severity::Warning, text);
        };
        call.label = Some(originate.label.clone());
        call.called = Some(display_text(originate.called.as_bytes()));
        call.login = originate
            .login
            .as_ref()
            .map(|(name, password): &(String, Secret)| Login {
                name: name.clone(),
                password: password.clone(),
            });
        call.dial = Some(Dial {
            called: originate.called.clone().into_bytes(),
            sub_address: originate.sub_address.clone().into_bytes(),
            speed: originate.speed,
        });
        let sid = call.sid;
        self.announce(sid, now);
        if !possible {
            let ended = ended(
                TerminateCause::ServiceUnavailable,
                "tunnel_closed",
                "the tunnel is closing",
            );
            self.end_call(sid, ended, None, now);
        }
    }

    /// The engine's answer to [`Event::SessionOpening`].
    pub(super) fn admitted(
        &mut self,
        session: LocalRef,
        verdict: Result<(), Refusal>,
        verifiable: Verifiable,
        now: Instant,
    ) {
        let Some(sid) = self.find(session) else { return };
        let Some((kind, peer_sid)) = self
            .calls
            .get(&sid)
            .filter(|call| call.state == CallState::Admission)
            .map(|call| (call.kind, call.peer_sid))
        else {
            return;
        };
        if let Err(refusal) = verdict {
            self.count(counts::CALLS_REFUSED);
            let text = format!("not admitted: {}", refusal.as_str());
            let ended = ended(TerminateCause::ServiceUnavailable, refusal.as_str(), text);
            return self.end_call(sid, ended, Some(refusal_result(refusal)), now);
        }
        if let Some(call) = self.calls.get_mut(&sid) {
            call.verifiable = verifiable;
        }
        match kind {
            Kind::IncomingLns => {
                self.set_state(sid, CallState::WaitConnect);
                let reply = Message::Icrp(Reply {
                    session_id: sid,
                    channel: None,
                });
                self.send_for(sid, peer_sid, &reply, Priority::Normal);
            }
            Kind::OutgoingLac => {
                let reply = Message::Ocrp(Reply {
                    session_id: sid,
                    channel: None,
                });
                self.send_for(sid, peer_sid, &reply, Priority::Normal);
                // There is no line to wait for.
                self.connect_outgoing(sid, now);
            }
            Kind::IncomingLac | Kind::OutgoingLns if self.state == State::Established => {
                self.place(sid, now);
            }
            Kind::IncomingLac | Kind::OutgoingLns => self.set_state(sid, CallState::WaitTunnel),
        }
    }

    fn set_state(&mut self, sid: u16, state: CallState) {
        if let Some(call) = self.calls.get_mut(&sid) {
            call.state = state;
        }
    }

    /// The tunnel is up: calls that waited for it go out.
    pub(super) fn place_waiting(&mut self, now: Instant) {
        let waiting: Vec<u16> = self
            .calls
            .values()
            .filter(|call| call.state == CallState::WaitTunnel)
            .map(|call| call.sid)
            .collect();
        for sid in waiting {
            self.place(sid, now);
        }
    }

    /// Sends ICRQ or OCRQ.
    fn place(&mut self, sid: u16, now: Instant) {
        let bearer = self.remote.bearer.unwrap_or_default() & 3;
        let framing = self.remote.framing & 3;
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        call.state = CallState::WaitReply;
        call.serial = serial;
        let Some(dial) = call.dial.clone() else { return };
        let sub_address = Some(dial.sub_address).filter(|octets| !octets.is_empty());
        let message = if call.kind == Kind::IncomingLac {
            Message::Icrq(Icrq {
                session_id: sid,
                serial,
                bearer: None,
                channel: None,
                calling: None,
                called: Some(dial.called).filter(|octets| !octets.is_empty()),
                sub_address,
            })
        } else {
            if bearer == 0 || framing == 0 {
                // Without Bearer Capabilities the peer cannot place calls (6.9).
                let ended = ended(
                    TerminateCause::ServiceUnavailable,
                    "peer_places_no_calls",
                    "the peer has not said that it can place calls",
                );
                return self.end_call(sid, ended, None, now);
            }
            call.bearer = Some(bearer);
            Message::Ocrq(Ocrq {
                session_id: sid,
                serial,
                minimum_bps: dial.speed.0,
                maximum_bps: dial.speed.1,
                bearer,
                framing,
                called: dial.called,
                sub_address,
            })
        };
        self.send_for(sid, 0, &message, Priority::Normal);
    }

    /// The peer has named its session id.
    fn answered(&mut self, sid: u16, reply: &Reply) {
        if let Some(call) = self.calls.get_mut(&sid) {
            call.peer_sid = reply.session_id;
            call.physical_channel = reply.channel;
            self.by_peer.insert(reply.session_id, sid);
        }
    }

    /// What we tell the LNS of a call that we have.
    fn line(&self, tx_speed: u32) -> Connected {
        Connected {
            tx_speed,
            framing: FRAMING_SYNC,
            sequencing_required: self.rule().sequencing == SequencingPolicy::Required,
            ..Connected::default()
        }
    }

    fn connect_incoming(&mut self, sid: u16, now: Instant) {
        let connected = self.line(LINE_SPEED);
        self.connect_as_lac(sid, Message::Iccn(connected.clone()), &connected, now);
    }

    fn connect_outgoing(&mut self, sid: u16, now: Instant) {
        let speed = self.calls.get(&sid).map_or(LINE_SPEED, |call| call.tx_speed);
        let connected = self.line(speed);
        self.connect_as_lac(sid, Message::Occn(connected.clone()), &connected, now);
    }

    fn connect_as_lac(&mut self, sid: u16, message: Message, connected: &Connected, now: Instant) {
        let Some(peer_sid) = self.calls.get(&sid).map(|call| call.peer_sid) else {
            return;
        };
        self.send_for(sid, peer_sid, &message, Priority::Normal);
        self.line_is_up(sid, connected);
        self.start_link(sid, None, now);
    }

    /// ICCN or OCCN of the LAC.
    fn connected(&mut self, sid: u16, connected: Connected, now: Instant) {
        self.line_is_up(sid, &connected);
        let proxy = (!connected.proxy.is_empty()).then(|| {
            let proxy = connected.proxy;
            Proxy {
                initial_received: proxy.initial_received,
                last_sent: proxy.last_sent,
                last_received: proxy.last_received,
                auth_type: proxy.auth_type,
                name: proxy.name,
                challenge: proxy.challenge,
                id: proxy.id.map(|id| id.to_be_bytes()[1]),
                response: proxy.response.map(Secret::new),
            }
        });
        self.start_link(sid, proxy, now);
    }

    /// Notes the line's properties: data may flow.
    fn line_is_up(&mut self, sid: u16, connected: &Connected) {
        let policy = self.rule().sequencing;
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        call.state = CallState::Established;
        call.tx_speed = connected.tx_speed;
        call.rx_speed = connected.rx_speed;
        call.framing = connected.framing;
        call.private_group = connected
            .private_group
            .as_ref()
            .map(|octets| display_text(octets));
        call.sequencing = Sequencing::new(policy, connected.sequencing_required);
        call.data = DataState::new(call.sequencing);
        self.timers.clear(Timer::Setup(sid));
    }

    fn wan_errors(&mut self, sid: u16, local: LocalRef, errors: CallErrors, now: Instant) {
        let Some(call) = self.calls.get_mut(&sid) else {
            return;
        };
        let too_soon = call
            .errors_at
            .is_some_and(|at| now.saturating_duration_since(at) < WEN_INTERVAL);
        if too_soon {
            return self.dropped(drops::WEN_RATE);
        }
        call.errors = errors;
        call.errors_at = Some(now);
        self.count(counts::WAN_ERRORS);
        let text = format!(
            "line errors: {} checksums, {} framing, {} hardware overruns, {} buffer overruns, {} timeouts, \
             {} alignment",
            errors.crc, errors.framing, errors.hardware, errors.buffer, errors.timeouts, errors.alignment
        );
        self.notice(Some(local), Severity::Info, text);
    }

    /// A CDN. The assigned id must be the one the peer is known by, or names a call whose id we could not know
    /// otherwise.
    fn disconnected(&mut self, header: &ControlHeader, cdn: Cdn, now: Instant) {
        let sid = match header.session {
            0 => self.by_peer.get(&cdn.session_id).copied(),
            sid => Some(sid).filter(|sid| self.calls.contains_key(sid)),
        };
        let Some(sid) = sid else {
            return self.dropped(drops::UNKNOWN_SESSION);
        };
        let known = self.calls.get(&sid).map_or(0, |call| call.peer_sid);
        if known != 0 && known != cdn.session_id {
            return self.dropped(drops::WRONG_ID);
        }
        let mut text = format!("the peer ended the call: {}", cdn_name(cdn.result.result));
        if let Some(code) = cdn.result.error.filter(|&code| code != error::NONE) {
            text.push_str(&format!(": {}", error_name(code)));
        }
        if !cdn.result.message.is_empty() {
            text.push_str(&format!(" ({})", cdn.result.message));
        }
        if let Some(q931) = &cdn.q931 {
            text.push_str(&format!("; Q.931 cause {} {}", q931.code & 0x7f, q931.advisory));
        }
        if let Some(cause) = &cdn.disconnect {
            text.push_str(&format!(
                "; PPP disconnect cause {} {}",
                cause.code, cause.message
            ));
        }
        let cause = cdn_cause(cdn.result.result);
        self.end_call(sid, ended(cause, "call_ended_by_peer", text), None, now);
    }
}

/// The CDN for a call that the engine does not admit.
fn refusal_result(refusal: Refusal) -> ResultCode {
    match refusal {
        Refusal::TooManySessions | Refusal::TooManyOpening | Refusal::PeerLimit => {
            ResultCode::plain(cdn::NO_FACILITIES)
        }
        Refusal::Draining => ResultCode::with_error(cdn::ERROR, error::TRY_ANOTHER, "draining"),
        Refusal::Overload => ResultCode::with_error(cdn::ERROR, error::NO_RESOURCES, "overloaded"),
    }
}
