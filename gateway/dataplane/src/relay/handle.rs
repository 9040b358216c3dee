//! What the owner of a running relay has of it: its counters, and a way to end or pause it.

use super::{Direction, Limit, Timeouts};
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

/// Bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Octets {
    /// Taken from the sender, early bytes included.
    pub received: u64,
    /// Given to the receiver's socket.
    pub delivered: u64,
}

/// What a relay has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// From the client to the target.
    pub up: Octets,
    /// From the target to the client.
    pub down: Octets,
    /// When a byte moved or a stream ended last, or the relay began; as exact as one turn of the thread.
    pub active: Instant,
}

/// The exact counters of one direction.
#[derive(Debug, Default)]
pub(super) struct Counts {
    received: Cell<u64>,
    delivered: Cell<u64>,
}

impl Counts {
    pub(super) fn start(&self, octets: Octets) {
        self.received.set(octets.received);
        self.delivered.set(octets.delivered);
    }

    pub(super) fn note_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    pub(super) fn note_delivered(&self, bytes: usize) {
        self.delivered.set(self.delivered.get() + bytes as u64);
    }

    pub(super) fn octets(&self) -> Octets {
        Octets {
            received: self.received.get(),
            delivered: self.delivered.get(),
        }
    }
}

/// What an owner asks of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    Pause,
}

/// The way by which an owner asks something of a relay's task.
#[derive(Default)]
pub(super) struct Wishes {
    wish: Cell<Option<Wish>>,
    waker: Cell<Option<Waker>>,
}

impl Wishes {
    /// What is asked for. The task is woken when something is.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Option<Wish> {
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        self.wish.get()
    }

    /// Asks for it.
    pub(super) fn ask(&self, wish: Wish) {
        // An end is final; a pause is not asked for over it.
        if self.wish.get() != Some(Wish::End) {
            self.wish.set(Some(wish));
        }
        self.wake();
    }

    /// Has the task look around.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What a running relay is given in place of what it had.
pub struct Change {
    /// When it ends by itself. Its silence and its age count as they are.
    pub timeouts: Timeouts,
    /// The limit of what is read from the client.
    pub up: Option<Box<dyn Limit>>,
    /// The limit of what is read from the target.
    pub down: Option<Box<dyn Limit>>,
}

/// What a relay and its owner share.
pub(super) struct Meter {
    up: Counts,
    down: Counts,
    active: Cell<Instant>,
    wishes: Wishes,
    change: Cell<Option<Box<Change>>>,
}

impl Meter {
    pub(super) fn new(active: Instant) -> Rc<Self> {
        Rc::new(Self {
            up: Counts::default(),
            down: Counts::default(),
            active: Cell::new(active),
            wishes: Wishes::default(),
            change: Cell::new(None),
        })
    }

    pub(super) fn counts(&self, direction: Direction) -> &Counts {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    pub(super) fn active(&self) -> Instant {
        self.active.get()
    }

    pub(super) fn note_active(&self, now: Instant) {
        self.active.set(now);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            up: self.up.octets(),
            down: self.down.octets(),
            active: self.active.get(),
        }
    }

    /// What is asked for. The task is woken when something is.
    pub(super) fn poll_wish(&self, cx: &Context<'_>) -> Option<Wish> {
        self.wishes.poll(cx)
    }

    /// What the relay is to be given; it is told once.
    pub(super) fn take_change(&self) -> Option<Box<Change>> {
        self.change.take()
    }
}

/// A relay as its owner has it while a task of the same thread runs it.
#[derive(Clone)]
pub struct Handle(pub(super) Rc<Meter>);

impl Handle {
    /// What the relay has moved until now, or had when it ended.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Gives the relay other timeouts and limits, from its next turn on.
    pub fn change(&self, change: Change) {
        self.0.change.set(Some(Box::new(change)));
        self.0.wishes.wake();
    }

    /// Asks the relay to end, with [`Cause::Asked`](super::Cause::Asked): its task gives
    /// [`Outcome::Ended`](super::Outcome::Ended) when it runs next. Too late where it has ended already.
    pub fn end(&self) {
        self.0.wishes.ask(Wish::End);
    }

    /// Asks the relay to stop for a handover: its task gives [`Outcome::Parked`](super::Outcome::Parked) when it
    /// runs next. Too late where it has ended already.
    pub fn pause(&self) {
        self.0.wishes.ask(Wish::Pause);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.stats()).finish()
    }
}
