//! Every way in which calls and tunnels end.

use super::channel::Priority;
use super::{Call, CallState, HOLD, State, Timer, Tunnel, ended};
use crate::names::counts;
use crate::wire::message::{Message, StopCcn};
use crate::wire::result::{ResultCode, cdn_for, error, stop};
use sluice_spi::{Ended, Event, LocalRef, Severity, TerminateCause};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Tunnel {
    /// Ends one call: its path, the peer by a CDN where `result` says so and the peer can know of the call, then
    /// the engine. Where PPP was ending already, that is why the call ends: a client that hangs up ends its link
    /// first, and its LAC the call in consequence.
    pub(super) fn end_call(&mut self, sid: u16, ended: Ended, result: Option<ResultCode>, now: Instant) {
        self.remove_path(sid);
        let Some(call) = self.calls.remove(&sid) else {
            return;
        };
        if self.by_peer.get(&call.peer_sid) == Some(&sid) {
            self.by_peer.remove(&call.peer_sid);
        }
        self.ids.release(sid, now);
        self.timers.clear(Timer::Setup(sid));
        self.timers.clear(Timer::Ppp(sid));
        let unsent = self.channel.cancel(sid);
        let ending = call.ppp.as_ref().and_then(|ppp| ppp.ending().cloned());
        let ended = ending.unwrap_or(ended);
        if let Some(result) = result
            && self.peer_knows(&call, unsent)
        {
            self.disconnect(sid, call.peer_sid, result);
        }
        self.event(Event::SessionDown {
            session: call.local,
            ended,
        });
        self.checkpoint_due |= call.up && self.state == State::Established;
        self.watch_empty(now);
        self.maybe_stop(now);
    }

    /// Whether the peer can know of a call: it asked for it, or our request was sent.
    fn peer_knows(&self, call: &Call, unsent: bool) -> bool {
        let asked = !call.kind.is_placed();
        let sent = !matches!(call.state, CallState::Admission | CallState::WaitTunnel) && !unsent;
        asked || sent || call.peer_sid != 0
    }

    /// PPP of a call is over.
    pub(super) fn link_down(&mut self, sid: u16, ended: Ended, now: Instant) {
        // What PPP still has to say goes out before the call does.
        let last = self.last_frames(sid);
        let result = cdn_for(ended.cause);
        self.end_call(sid, ended, Some(result), now);
        self.farewell.extend(last);
    }

    /// Ends one session by order of the engine.
    pub(super) fn terminate(&mut self, session: LocalRef, cause: TerminateCause, now: Instant) {
        let Some(sid) = self.find(session) else { return };
        self.end_link(sid, cause, now);
    }

    /// Lets PPP of a call say goodbye; without PPP the call ends at once.
    fn end_link(&mut self, sid: u16, cause: TerminateCause, now: Instant) {
        match self.calls.get_mut(&sid).and_then(|call| call.ppp.as_mut()) {
            Some(ppp) => {
                ppp.close(cause, now);
                self.pump(sid, now);
            }
            None => {
                let text = format!("ended: {cause}");
                let ended = ended(cause, "terminated", text);
                self.end_call(sid, ended, Some(cdn_for(cause)), now);
            }
        }
    }

    /// Begins to end the tunnel: PPP of each call, then the calls, then the tunnel, all in bounded time.
    pub(super) fn begin_close(&mut self, cause: TerminateCause, now: Instant) {
        match self.state {
            State::WaitReply => self.stop_for(cause, now),
            State::Established => {
                self.state = State::Closing;
                self.close_cause = Some(cause);
                self.timers.clear(Timer::Empty);
                let limit = self.config().close_timeout;
                self.timers.set(Timer::Close, now + limit);
                let calls: Vec<u16> = self.calls.keys().copied().collect();
                for sid in calls {
                    self.end_link(sid, cause, now);
                }
                self.maybe_stop(now);
            }
            State::Closing | State::Stopped | State::Gone => {}
        }
    }

    /// Stops a closing tunnel once its calls are gone.
    fn maybe_stop(&mut self, now: Instant) {
        if self.state == State::Closing
            && self.calls.is_empty()
            && let Some(cause) = self.close_cause
        {
            self.stop_for(cause, now);
        }
    }

    fn stop_for(&mut self, cause: TerminateCause, now: Instant) {
        let result = match cause {
            TerminateCause::AdminReboot | TerminateCause::NasReboot => ResultCode::plain(stop::SHUTTING_DOWN),
            // Over a limit: the peer is to come back later.
            TerminateCause::ServiceUnavailable => {
                ResultCode::with_error(stop::ERROR, error::NO_RESOURCES, "no tunnel is free for now")
            }
            _ => ResultCode::plain(stop::GENERAL),
        };
        let ended = ended(cause, "closed", format!("closed: {cause}"));
        self.stop(result, ended, now);
    }

    /// Ends all calls without a message of their own: the StopCCN ends them.
    fn end_all_calls(&mut self, ended: &Ended, now: Instant) {
        let calls: Vec<u16> = self.calls.keys().copied().collect();
        for sid in calls {
            self.end_call(sid, ended.clone(), None, now);
        }
    }

    /// The tunnel is over on our side; what remains is the channel.
    fn retire(&mut self, ended: Ended, now: Instant) {
        if matches!(self.state, State::Stopped | State::Gone) {
            return;
        }
        // The state comes first, so that the end of the last call does not begin another end.
        self.state = State::Stopped;
        self.tie = None;
        self.candidate = None;
        self.checkpoint_due = false;
        self.end_all_calls(&ended, now);
        for timer in [Timer::Hello, Timer::Close, Timer::Empty] {
            self.timers.clear(timer);
        }
        self.ready.clear();
        self.event(Event::TunnelDown(ended));
    }

    /// Ends the tunnel with a StopCCN.
    pub(super) fn stop(&mut self, result: ResultCode, ended: Ended, now: Instant) {
        if matches!(self.state, State::Stopped | State::Gone) {
            return;
        }
        self.retire(ended, now);
        self.channel.cancel_all();
        let message = Message::StopCcn(StopCcn {
            tunnel_id: self.key,
            result,
        });
        self.send(&message, Priority::Urgent);
    }

    /// The peer has ended the tunnel.
    pub(super) fn stopped_by_peer(&mut self, ended: Ended, now: Instant) {
        if self.state != State::Established {
            // Nobody else hears of a tunnel that never was up.
            self.notice(None, Severity::Info, ended.text.clone());
        }
        self.retire(ended, now);
        self.channel.silence();
        self.channel.acknowledge_again(now);
        self.timers.set(Timer::Hold, now + HOLD);
    }

    /// Once our StopCCN is acknowledged, only late messages of the peer are waited for.
    pub(super) fn after_stop(&mut self, now: Instant) {
        if self.state == State::Stopped && self.channel.is_idle() && self.timers.get(Timer::Hold).is_none() {
            self.timers.set(Timer::Hold, now + HOLD);
        }
    }

    /// The peer does not answer any more.
    fn lost(&mut self, now: Instant) {
        if self.state != State::Stopped {
            let ended = ended(
                TerminateCause::LostCarrier,
                "control_timeout",
                "the peer does not answer control messages",
            );
            self.retire(ended, now);
        }
        self.gone();
    }

    fn gone(&mut self) {
        self.state = State::Gone;
        self.channel.silence();
        self.farewell.clear();
        self.timers.clear(Timer::Hold);
    }

    /// The peer asks for more than it acknowledges answers.
    pub(super) fn overrun(&mut self, now: Instant) {
        self.count(counts::PROTOCOL_ERRORS);
        let text = "the peer does not acknowledge the answers to its requests";
        let result = ResultCode::with_error(stop::ERROR, error::NO_RESOURCES, text);
        self.stop(result, ended(TerminateCause::NasError, "overrun", text), now);
    }

    /// Whether the peer has begun another tunnel with the id of this one.
    pub(super) fn is_superseded(&self) -> bool {
        self.state != State::Gone && self.superseded.load(Ordering::Acquire)
    }

    /// Everything whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.tie.as_ref().is_some_and(|tie| tie.is_lost()) {
            // The peer's own request goes on; this one vanishes without a word (RFC 2661, 4.4.3).
            let text = "the peer's own request for a tunnel goes on";
            self.retire(ended(TerminateCause::NasRequest, "tie_breaker_lost", text), now);
            return self.gone();
        }
        if self.is_superseded() {
            // Whatever we sent would be taken for the new tunnel's, which has the same id.
            let text = "the peer has started anew and does not know this tunnel any more";
            self.retire(ended(TerminateCause::LostCarrier, "peer_restarted", text), now);
            return self.gone();
        }
        if self.channel.retransmits_at(now) {
            self.count(counts::RETRANSMITS);
            if !self.channel.handle_timeout(now) {
                return self.lost(now);
            }
        }
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Hello => self.hello_due(now),
                Timer::Close => self.close_due(now),
                Timer::Hold => return self.gone(),
                Timer::Empty => self.begin_close(TerminateCause::PortUnneeded, now),
                Timer::Setup(sid) => self.setup_due(sid, now),
                Timer::Ppp(sid) => self.link_timeout(sid, now),
            }
        }
    }

    fn close_due(&mut self, now: Instant) {
        if let Some(cause) = self.close_cause.filter(|_| self.state == State::Closing) {
            self.stop_for(cause, now);
        }
    }

    /// A call was not established in time.
    fn setup_due(&mut self, sid: u16, now: Instant) {
        let Some(call) = self.calls.get(&sid) else { return };
        let text = format!("not established in time, in state {}", call.state.name());
        let result = if call.kind.is_lns() {
            ResultCode::with_error(crate::wire::result::cdn::ERROR, error::NONE, text.clone())
        } else {
            ResultCode::plain(crate::wire::result::cdn::TIMED_OUT)
        };
        let ended = ended(TerminateCause::LostCarrier, "call_timeout", text);
        self.end_call(sid, ended, Some(result), now);
    }
}
