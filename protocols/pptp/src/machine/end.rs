//! Every way in which calls and control connections end.

use super::{CallState, Control, Kind, State, Timer, ended};
use crate::names::drops;
use crate::wire::code::{disconnect, disconnect_for, stop_for};
use crate::wire::message::Message;
use sluice_spi::{ChannelRef, Close, Ended, Event, LocalRef, TerminateCause};
use std::time::Instant;

impl Control {
    /// Ends one call: its path, the peer by a Call-Disconnect-Notify with this result or a Call-Clear-Request, then
    /// the engine. Where PPP was ending already, that is why the call ends.
    pub(super) fn end_call(&mut self, id: u16, ended: Ended, result: Option<u8>, now: Instant) {
        self.remove_path(id);
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        self.by_peer.remove(&call.peer_id);
        self.shared.release_call(id, now);
        for timer in [Timer::Setup(id), Timer::Ppp(id), Timer::Acknowledge(id)] {
            self.timers.clear(timer);
        }
        let ending = call.ppp.as_ref().and_then(|ppp| ppp.ending().cloned());
        match (result, call.kind) {
            (None, _) => {}
            (Some(result), Kind::Outgoing) => self.notify(id, result),
            (Some(_), Kind::Incoming) => self.send(&Message::ClearRequest(id)),
        }
        self.event(Event::SessionDown {
            session: call.local,
            ended: ending.unwrap_or(ended),
        });
        self.checkpoint_due |= call.up && self.state == State::Established;
        self.watch_empty(now);
        self.maybe_stop(now);
    }

    /// PPP of a call is over.
    pub(super) fn link_down(&mut self, id: u16, ended: Ended, now: Instant) {
        // What PPP still has to say goes out before the call does.
        self.keep_last_frames(id);
        let result = disconnect_for(ended.cause);
        self.end_call(id, ended, Some(result), now);
    }

    /// Ends one session by order of the engine.
    pub(super) fn terminate(&mut self, session: LocalRef, cause: TerminateCause, now: Instant) {
        if let Some(id) = self.find(session) {
            self.end_link(id, cause, now);
        }
    }

    /// Lets PPP of a call say goodbye; without PPP the call ends at once.
    fn end_link(&mut self, id: u16, cause: TerminateCause, now: Instant) {
        match self.calls.get_mut(&id).and_then(|call| call.ppp.as_mut()) {
            Some(ppp) => {
                ppp.close(cause, now);
                self.pump(id, now);
            }
            None => {
                let ended = ended(cause, "terminated", format!("ended: {cause}"));
                self.end_call(id, ended, Some(disconnect_for(cause)), now);
            }
        }
    }

    /// Begins to end the connection: PPP of each call, then the calls, then the connection, all in bounded time.
    pub(super) fn begin_close(&mut self, cause: TerminateCause, now: Instant) {
        match self.state {
            // It is told so when it says who it is; the timer is set already.
            State::Idle if cause == TerminateCause::ServiceUnavailable => self.refused = true,
            State::Idle => self.shut(Close::Finish),
            State::Established => {
                self.state = State::Closing;
                self.close_cause = Some(cause);
                self.timers.clear(Timer::Empty);
                let limit = self.config().close_timeout;
                self.timers.set(Timer::Close, now + limit);
                let calls: Vec<u16> = self.calls.keys().copied().collect();
                for id in calls {
                    self.end_link(id, cause, now);
                }
                self.maybe_stop(now);
            }
            State::Closing | State::WaitStopReply | State::Gone => {}
        }
    }

    /// Asks for the end of a closing connection once its calls are gone.
    fn maybe_stop(&mut self, now: Instant) {
        if self.state == State::Closing
            && self.calls.is_empty()
            && let Some(cause) = self.close_cause
        {
            self.stop(cause, now);
        }
    }

    fn stop(&mut self, cause: TerminateCause, now: Instant) {
        self.retire(ended(cause, "closed", format!("closed: {cause}")), now);
        self.send(&Message::StopRequest(stop_for(cause)));
        self.state = State::WaitStopReply;
        let limit = self.config().close_timeout;
        self.timers.set(Timer::Close, now + limit);
    }

    /// The connection is over for the engine: all calls, without a message of their own, and the tunnel. The state is
    /// `Gone` after it.
    pub(super) fn retire(&mut self, ended: Ended, now: Instant) {
        if matches!(self.state, State::WaitStopReply | State::Gone) {
            return;
        }
        // The state comes first, so that the end of the last call does not begin another end.
        self.state = State::Gone;
        let calls: Vec<u16> = self.calls.keys().copied().collect();
        for id in calls {
            self.end_call(id, ended.clone(), None, now);
        }
        self.timers = Default::default();
        self.ready.clear();
        self.checkpoint_due = false;
        self.place = None;
        self.tell_unborn(ended.text.clone());
        if self.was_up {
            self.event(Event::TunnelDown(ended));
        }
    }

    /// Closes the channel; nothing is left then.
    pub(super) fn shut(&mut self, close: Close) {
        self.state = State::Gone;
        self.timers = Default::default();
        self.place = None;
        if close == Close::Reset {
            self.output.clear();
        }
        if std::mem::take(&mut self.has_channel) {
            let channel = ChannelRef::FIRST;
            self.event(Event::CloseChannel { channel, close });
        }
    }

    /// The TCP connection is over: all its calls are (RFC 2637, 3.1).
    pub(super) fn lost(&mut self, code: &'static str, text: &str, now: Instant) {
        if self.state == State::Gone {
            return;
        }
        self.retire(ended(TerminateCause::LostCarrier, code, text), now);
        self.shut(Close::Reset);
    }

    /// Everything whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Start => {
                    self.dropped(drops::START_TIMEOUT);
                    self.shut(Close::Finish);
                }
                Timer::Echo => self.echo_due(now),
                Timer::EchoReply => {
                    self.lost("control_timeout", "the peer does not answer Echo-Request", now)
                }
                Timer::Close => self.close_due(now),
                Timer::Empty => self.begin_close(TerminateCause::PortUnneeded, now),
                Timer::Setup(id) => self.setup_due(id, now),
                Timer::Ppp(id) => self.link_timeout(id, now),
                Timer::Acknowledge(id) => self.acknowledge(id),
            }
        }
    }

    fn close_due(&mut self, now: Instant) {
        match (self.state, self.close_cause) {
            (State::Closing, Some(cause)) => self.stop(cause, now),
            _ => self.shut(Close::Finish),
        }
    }

    /// A call was not established in time.
    fn setup_due(&mut self, id: u16, now: Instant) {
        let Some(call) = self.calls.get(&id) else { return };
        let state = match call.state {
            CallState::Admission => "admission",
            CallState::WaitConnect => "wait-connect",
            CallState::Established => "established",
        };
        let text = format!("not established in time, in state {state}");
        let ended = ended(TerminateCause::LostCarrier, "call_timeout", text);
        self.end_call(id, ended, Some(disconnect::LOST_CARRIER), now);
    }
}
