//! Machines of connections: what they want of whoever moves their bytes, and what they hear from there.
//!
//! The driver pumps them like any other machine; it knows no socket. What a machine asks for goes into its
//! [`Outbox`], which the task of its connection empties.

use super::Plane;
use super::driver::Driver;
use super::standing::{Ending, Standing};
use crate::limits::Refused;
use bytes::Bytes;
use sluice_auth::{Profile, RejectReason};
use sluice_core::{Now, SessionId};
use sluice_spi::{
    ChannelRef, Close, Event, Input, LocalRef, MachineKey, Open, OpenError, PathStats, PeerAddr, RelaySpec,
    StreamCodec, Target, TerminateCause,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// What joined channels have carried so far.
pub type Carried = Rc<dyn Fn() -> PathStats>;

/// What the machine of a connection wants.
#[derive(Debug)]
pub enum Ask {
    /// Bytes to send on a channel, in order.
    Send(ChannelRef, Bytes),
    /// A channel to a target.
    Open {
        /// For whom.
        session: SessionId,
        /// Whose the session is; `None`: nobody authenticated.
        profile: Option<Rc<Profile>>,
        /// The new channel.
        channel: ChannelRef,
        /// Where to.
        target: Target,
    },
    /// A channel that waits for one connection.
    Listen {
        /// For whom.
        session: SessionId,
        /// Whose the session is; `None`: nobody authenticated.
        profile: Option<Rc<Profile>>,
        /// The new channel.
        channel: ChannelRef,
        /// Whom it expects.
        from: Target,
    },
    /// A relay of datagrams.
    Relay {
        /// For whom.
        session: SessionId,
        /// The machine's name of the session.
        local: LocalRef,
        /// Whose the session is; `None`: nobody authenticated.
        profile: Option<Rc<Profile>>,
        /// The new channel.
        channel: ChannelRef,
        /// What the data plane needs.
        relay: Box<RelaySpec>,
    },
    /// The end of a channel, after what was sent on it.
    Close(ChannelRef, Close),
    /// To stop where it is, for another process to go on.
    HandOver,
    /// Two channels to be joined.
    Join {
        /// For whom.
        session: SessionId,
        /// The machine's name of the session.
        local: LocalRef,
        /// Whose the session is; `None`: nobody authenticated.
        profile: Option<Rc<Profile>>,
        /// One channel.
        first: ChannelRef,
        /// The other.
        second: ChannelRef,
        /// What came in on the first for the second.
        early: Bytes,
        /// What the bytes of the first go through, `early` included.
        codec: Option<Box<dyn StreamCodec>>,
    },
}

/// What a machine wants and nobody has done yet.
#[derive(Default)]
pub struct Outbox {
    asks: RefCell<VecDeque<Ask>>,
    waker: Cell<Option<Waker>>,
    closed: Cell<bool>,
}

impl Outbox {
    pub(super) fn push(&self, ask: Ask) {
        self.asks.borrow_mut().push_back(ask);
        self.wake();
    }

    /// Nothing more will come: the machine is gone.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next thing wanted; `None`: the machine is gone.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Option<Ask>> {
        if let Some(ask) = self.pop() {
            return Poll::Ready(Some(ask));
        }
        if self.closed.get() {
            return Poll::Ready(None);
        }
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }

    /// Gives back the room for what was wanted before.
    pub(super) fn shrink(&self) {
        self.asks.borrow_mut().shrink_to_fit();
    }

    /// Takes what was to be sent on a channel and was not.
    pub(super) fn take_unsent(&self, channel: ChannelRef) -> Vec<u8> {
        let mut unsent = Vec::new();
        self.asks.borrow_mut().retain(|ask| match ask {
            Ask::Send(of, bytes) if *of == channel => {
                unsent.extend_from_slice(bytes);
                false
            }
            _ => true,
        });
        unsent
    }

    /// The next thing wanted, if there is one now.
    pub fn pop(&self) -> Option<Ask> {
        self.asks.borrow_mut().pop_front()
    }

    /// Whether the machine is gone and all it wanted was taken.
    pub fn is_over(&self) -> bool {
        self.closed.get() && self.asks.borrow().is_empty()
    }
}

/// A connection's machine as the connection's task names it. Once the machine is gone, what is told to it is lost.
#[derive(Clone)]
pub struct Connection {
    pub(super) slot: u32,
    generation: u32,
    /// What the machine wants.
    pub outbox: Rc<Outbox>,
}

impl<P: Plane> Driver<P> {
    /// A peer connected to a listener of streams, and its first bytes are of the listener's protocol.
    pub fn connected(&mut self, listener: usize, peer: PeerAddr, now: Now) -> Result<Connection, OpenError> {
        let counted = MachineKey(self.next_connection);
        self.next_connection = self.next_connection.wrapping_add(1);
        let entry = self.listeners.get_mut(listener).ok_or(OpenError::Transport)?;
        // The front of a protocol of tunnels names them, as it has to find them.
        let key = match &mut entry.front {
            Some(front) => front.mint(now.instant).ok_or(OpenError::Full)?,
            None => counted,
        };
        let open = Open::Accepted { key, peer };
        let mut machine = entry
            .factory
            .machine(open, self.shard, self.entropy.fork(), now.instant)?;
        let (origin, of_tunnels) = (entry.origin.clone(), entry.front.is_some());
        if of_tunnels && self.engine.tunnel_opening(&origin, peer, now).is_err() {
            machine.close(TerminateCause::ServiceUnavailable, now.instant);
        }
        let outbox = Rc::new(Outbox::default());
        let slot = self.insert_connection(listener, origin, key, machine, outbox.clone());
        if of_tunnels {
            self.name(listener, key, slot);
        }
        let connection = self.connection(slot, outbox);
        self.drain(slot, now);
        Ok(connection)
    }

    pub(super) fn connection(&self, slot: u32, outbox: Rc<Outbox>) -> Connection {
        let generation = self.slots.generation(slot);
        Connection {
            slot,
            generation,
            outbox,
        }
    }

    pub(super) fn lives(&self, connection: &Connection) -> bool {
        self.slots.generation(connection.slot) == connection.generation && !connection.outbox.closed.get()
    }

    /// Tells a connection's machine something.
    pub fn tell(&mut self, connection: &Connection, input: Input<'_>, now: Now) {
        if self.lives(connection) {
            self.input(connection.slot, input, now);
        }
    }

    /// Whether a connection's machine wants more bytes of a channel.
    pub fn wants_bytes(&mut self, connection: &Connection, channel: ChannelRef) -> bool {
        let lives = self.lives(connection);
        let tunnel = self.slots.get(connection.slot).filter(|_| lives);
        tunnel.is_some_and(|tunnel| tunnel.broken.is_none() && tunnel.machine.wants_bytes(channel))
    }

    /// Says where the counters of a session's joined channels are.
    pub fn set_carried(&mut self, connection: &Connection, session: LocalRef, carried: Carried) {
        if !self.lives(connection) {
            return;
        }
        let tunnel = self.slots.get_mut(connection.slot);
        if let Some(entry) = tunnel.and_then(|tunnel| tunnel.sessions.get_mut(&session)) {
            entry.carried = Some(carried);
        }
    }

    /// Says what a session stands on: it is judged again when policy or users change.
    pub fn set_standing(&mut self, connection: &Connection, session: LocalRef, standing: Rc<Standing>) {
        if !self.lives(connection) {
            return;
        }
        let tunnel = self.slots.get_mut(connection.slot);
        if let Some(entry) = tunnel.and_then(|tunnel| tunnel.sessions.get_mut(&session)) {
            entry.standing = Some(standing);
        }
    }

    /// Says which limit refuses what a connection asked for, before its machine hears that it is refused.
    pub fn explain_refusal(&mut self, connection: &Connection, limit: Refused) {
        if !self.lives(connection) {
            return;
        }
        let tunnel = self.slots.get_mut(connection.slot);
        let sessions = tunnel.into_iter().flat_map(|tunnel| tunnel.sessions.values_mut());
        for entry in sessions {
            entry.ending = Some(Box::new(Ending {
                cause: TerminateCause::NasRequest,
                code: limit.as_str(),
                text: format!("the request was denied: {limit}"),
            }));
        }
    }

    /// Keeps what is known of a connection's user: what it may do is asked for each time.
    pub(super) fn note_profile(
        &mut self,
        slot: u32,
        local: LocalRef,
        answer: &Result<Profile, RejectReason>,
    ) {
        let tunnel = self
            .slots
            .get_mut(slot)
            .filter(|tunnel| tunnel.is_bare_connection());
        if let Ok(profile) = answer
            && let Some(entry) = tunnel.and_then(|tunnel| tunnel.sessions.get_mut(&local))
        {
            entry.profile = Some(Rc::new(profile.clone()));
        }
    }

    fn outbox(&self, slot: u32) -> Option<Rc<Outbox>> {
        self.slots.get(slot)?.outbox.clone()
    }

    pub(super) fn send_on_channel(&mut self, slot: u32, channel: ChannelRef, bytes: &[u8]) {
        match self.outbox(slot) {
            Some(outbox) => outbox.push(Ask::Send(channel, Bytes::copy_from_slice(bytes))),
            None => self.without_channels(slot),
        }
    }

    /// A machine of datagrams asked for something that only connections have.
    fn without_channels(&mut self, slot: u32) {
        self.guarded(slot, |_| {
            Err::<(), _>("a machine of datagrams asked for a channel".to_owned())
        });
    }

    pub(super) fn channel_event(&mut self, slot: u32, event: Event) {
        let Some(outbox) = self.outbox(slot) else {
            return self.without_channels(slot);
        };
        let of = |session| {
            let entry = self.slots.get(slot)?.sessions.get(&session)?;
            Some((entry.id, entry.profile.clone()))
        };
        let ask = match event {
            Event::OpenChannel {
                session,
                channel,
                target,
            } => of(session).map(|(session, profile)| Ask::Open {
                session,
                profile,
                channel,
                target,
            }),
            Event::ListenChannel {
                session,
                channel,
                from,
            } => of(session).map(|(session, profile)| {
                self.engine.waits_for_peer(session);
                Ask::Listen {
                    session,
                    profile,
                    channel,
                    from,
                }
            }),
            Event::OpenRelay {
                session: local,
                channel,
                relay,
            } => of(local).map(|(session, profile)| Ask::Relay {
                session,
                local,
                profile,
                channel,
                relay,
            }),
            Event::CloseChannel { channel, close } => Some(Ask::Close(channel, close)),
            Event::Join {
                session: local,
                first,
                second,
                early,
                codec,
            } => of(local).map(|(session, profile)| Ask::Join {
                session,
                local,
                profile,
                first,
                second,
                early,
                codec,
            }),
            _ => None,
        };
        match ask {
            Some(ask) => outbox.push(ask),
            // It must not wait for an answer that never comes.
            None => {
                self.guarded(slot, |_| {
                    Err::<(), _>("a machine asked for a session it does not have".to_owned())
                });
            }
        }
    }
}
