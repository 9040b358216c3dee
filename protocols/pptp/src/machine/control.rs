//! Messages of the control connection (RFC 2637, 3.1).

use super::{Control, State, Timer, ended};
use crate::names::{counts, drops};
use crate::wire::code::{error, incoming, outgoing, reply, start, stop_name};
use crate::wire::message::{Disconnect, IncomingReply};
use crate::wire::message::{Message, Outcome, OutgoingReply, Start, VERSION, number};
use crate::wire::{Decoded, Malformed};
use sluice_spi::{Close, Event, Severity, TerminateCause, random_u32};
use std::time::Instant;

impl Control {
    /// A whole message.
    pub(super) fn decoded(&mut self, decoded: Decoded, now: Instant) {
        self.heard(now);
        match decoded {
            Decoded::Message(message) => self.message(message, now),
            Decoded::Unknown(..) => self.dropped(drops::IGNORED_TYPE),
            Decoded::BadValue(number, call_id) => {
                self.count(counts::PROTOCOL_ERRORS);
                self.refuse_call(number, call_id, Outcome::error(error::BAD_VALUE));
            }
        }
    }

    /// A sign of life: the next Echo-Request is due a while after it (3.1.4).
    fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if self.state == State::Established && self.echo.is_none() {
            let interval = self.config().echo_interval;
            self.timers.set(Timer::Echo, now + interval);
        }
    }

    fn message(&mut self, message: Message, now: Instant) {
        match (message, self.state) {
            (Message::StopRequest(reason), State::Idle | State::Established | State::Closing) => {
                self.stopped_by_peer(reason, now);
            }
            // Both ends have asked: the answer ends it for the peer, and its own request for us.
            (Message::StopRequest(_), State::WaitStopReply) => {
                self.send(&Message::StopReply(Outcome::plain(reply::OK)));
                self.shut(Close::Finish);
            }
            (Message::StopReply(_), State::WaitStopReply) => self.shut(Close::Finish),
            (Message::StartRequest(start), State::Idle) => self.start_request(start, now),
            (Message::OutgoingRequest(request), State::Idle) => {
                let outcome = Outcome::error(error::NOT_CONNECTED);
                self.refuse_call(number::OUTGOING_REQUEST, request.call_id, outcome);
            }
            (Message::IncomingRequest(request), State::Idle) => {
                let outcome = Outcome::error(error::NOT_CONNECTED);
                self.refuse_call(number::INCOMING_REQUEST, request.call_id, outcome);
            }
            (Message::EchoRequest(identifier), State::Established | State::Closing) => {
                self.send(&Message::EchoReply(identifier, Outcome::plain(reply::OK)));
            }
            (Message::EchoReply(identifier, _), State::Established | State::Closing) => {
                if self.echo == Some(identifier) {
                    self.echo = None;
                    self.timers.clear(Timer::EchoReply);
                    self.heard(now);
                }
            }
            (
                message @ (Message::StartRequest(_) | Message::StartReply(..) | Message::StopReply(_)),
                State::Established | State::Closing,
            ) => {
                // The figure of 3.1.2: Stop-Control-Connection-Reply, and the end.
                self.send(&Message::StopReply(Outcome::error(error::BAD_VALUE)));
                self.out_of_place(message.name(), now);
            }
            (message, State::Established | State::Closing) => self.call_message(message, now),
            (message, State::Idle) => self.out_of_place(message.name(), now),
            (_, State::WaitStopReply | State::Gone) => {}
        }
    }

    /// A message that has no place in this state.
    fn out_of_place(&mut self, name: &str, now: Instant) {
        self.count(counts::PROTOCOL_ERRORS);
        let text = format!("{name} out of place");
        self.retire(ended(TerminateCause::NasError, "state_machine", text), now);
        self.shut(Close::Finish);
    }

    fn start_request(&mut self, start: Start, now: Instant) {
        let outcome = if start.version < VERSION {
            Outcome::plain(start::VERSION)
        } else if self.refused {
            Outcome::error(error::NO_RESOURCE)
        } else {
            Outcome::plain(start::OK)
        };
        self.remote = start;
        let introduction = self.introduction();
        self.send(&Message::StartReply(introduction, outcome));
        if outcome.result != start::OK {
            self.count(counts::REFUSED);
            return self.shut(Close::Finish);
        }
        self.timers.clear(Timer::Start);
        if let Some(place) = &mut self.place {
            place.settle();
        }
        self.state = State::Established;
        self.was_up = true;
        let info = self.info();
        self.event(Event::TunnelUp(info));
        self.checkpoint_due = true;
        self.heard(now);
        self.watch_empty(now);
    }

    /// Refuses a call that there is not.
    pub(super) fn refuse_call(&mut self, request: u16, peer_call_id: u16, outcome: Outcome) {
        self.count(counts::CALLS_REFUSED);
        let message = if request == number::OUTGOING_REQUEST {
            Message::OutgoingReply(OutgoingReply {
                peer_call_id,
                outcome,
                ..OutgoingReply::default()
            })
        } else {
            Message::IncomingReply(IncomingReply {
                peer_call_id,
                outcome,
                ..IncomingReply::default()
            })
        };
        self.send(&message);
    }

    /// The Result Code by which a request of this kind is refused by policy.
    pub(super) fn not_accepted(request: u16) -> Outcome {
        match request {
            number::OUTGOING_REQUEST => Outcome::plain(outgoing::NOT_ACCEPTED),
            _ => Outcome::plain(incoming::NOT_ACCEPTED),
        }
    }

    /// Tells the peer that a call of which we are the PAC is over.
    pub(super) fn notify(&mut self, call_id: u16, result: u8) {
        self.send(&Message::DisconnectNotify(Disconnect {
            call_id,
            outcome: Outcome::plain(result),
            ..Disconnect::default()
        }));
    }

    pub(super) fn malformed(&mut self, malformed: Malformed, now: Instant) {
        self.dropped(drops::MALFORMED);
        let text = format!("the peer sent {malformed}");
        self.retire(ended(TerminateCause::NasError, "protocol_error", text), now);
        self.shut(Close::Finish);
    }

    fn stopped_by_peer(&mut self, reason: u8, now: Instant) {
        self.send(&Message::StopReply(Outcome::plain(reply::OK)));
        let text = format!("the peer ended the control connection: {}", stop_name(reason));
        self.retire(ended(TerminateCause::UserRequest, "stopped_by_peer", text), now);
        self.shut(Close::Finish);
    }

    /// The peer was silent for long: it is asked whether it is there.
    pub(super) fn echo_due(&mut self, now: Instant) {
        if self.state != State::Established {
            return;
        }
        let identifier = random_u32(&mut *self.entropy);
        self.echo = Some(identifier);
        self.count(counts::ECHOES);
        self.send(&Message::EchoRequest(identifier));
        let limit = self.config().echo_timeout;
        self.timers.set(Timer::EchoReply, now + limit);
    }

    /// Without a call for long, a control connection ends.
    pub(super) fn watch_empty(&mut self, now: Instant) {
        let limit = self.config().empty_timeout;
        if self.state != State::Established || !self.calls.is_empty() || limit.is_zero() {
            self.timers.clear(Timer::Empty);
        } else if self.timers.get(Timer::Empty).is_none() {
            self.timers.set(Timer::Empty, now + limit);
        }
    }

    /// Says something to operators where nobody else does: of a connection that never was up.
    pub(super) fn tell_unborn(&mut self, text: String) {
        if !self.was_up {
            self.notice(None, Severity::Info, text);
        }
    }
}
