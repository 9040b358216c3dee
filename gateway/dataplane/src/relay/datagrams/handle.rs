//! What the owner of a running relay has of it: its counters, and a way to end or pause it.

use super::super::Limit;
use super::super::handle::{Wish, Wishes};
use super::drops::{Drops, Reason};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

/// Datagrams and their octets, as they crossed a socket: at the client's side with the protocol's header, at the
/// targets' side without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Datagrams.
    pub packets: u64,
    /// Their octets, from the end of the UDP header on.
    pub bytes: u64,
}

impl Volume {
    pub(super) fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// One direction of a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Taken from the sender: what came from the client and could be read, or from an address that may answer.
    pub received: Volume,
    /// Taken by the kernel for the receiver.
    pub delivered: Volume,
}

/// What a relay has done. The payload that was relayed is what `up` has delivered and `down` has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// From the client to targets.
    pub up: Traffic,
    /// From targets to the client.
    pub down: Traffic,
    /// What was dropped, in both directions.
    pub drops: Drops,
    /// Where the client sends from; the port is 0 as long as it is not known.
    pub client: SocketAddr,
    /// When something was received last, or the relay began; as exact as one turn of the thread.
    pub active: Instant,
}

/// What a running relay is given in place of what it had.
pub struct Change {
    /// It ends when nothing was taken from the client or for it for so long. `None`: never.
    pub idle: Option<Duration>,
    /// It ends so long after it began. `None`: never.
    pub lifetime: Option<Duration>,
    /// The limit of what is read from the client.
    pub up: Option<Box<dyn Limit>>,
    /// The limit of what is read from targets.
    pub down: Option<Box<dyn Limit>>,
}

/// What a relay and its owner share.
pub(super) struct Meter {
    stats: RefCell<Stats>,
    forget: Cell<bool>,
    change: Cell<Option<Box<Change>>>,
    wishes: Wishes,
}

impl Meter {
    pub(super) fn new(client: SocketAddr, up: Traffic, down: Traffic, active: Instant) -> Rc<Self> {
        Rc::new(Self {
            stats: RefCell::new(Stats {
                up,
                down,
                drops: Drops::default(),
                client,
                active,
            }),
            forget: Cell::new(false),
            change: Cell::new(None),
            wishes: Wishes::default(),
        })
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats.borrow().clone()
    }

    pub(super) fn active(&self) -> Instant {
        self.stats.borrow().active
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Stats)) {
        note(&mut self.stats.borrow_mut());
    }

    pub(super) fn note_drops(&self, reason: Reason, count: u64) {
        self.stats.borrow_mut().drops.add(reason, count);
    }

    pub(super) fn poll_wish(&self, cx: &Context<'_>) -> Option<Wish> {
        self.wishes.poll(cx)
    }

    /// What the relay is to be given; it is told once.
    pub(super) fn take_change(&self) -> Option<Box<Change>> {
        self.change.take()
    }

    /// Whether the flows are to be forgotten; it is told once.
    pub(super) fn take_forget(&self) -> bool {
        self.forget.take()
    }
}

/// A relay as its owner has it while a task of the same thread runs it.
#[derive(Clone)]
pub struct Handle(pub(super) Rc<Meter>);

impl Handle {
    /// What the relay has done until now, or had when it ended.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Gives the relay other timeouts and limits, from its next turn on.
    pub fn change(&self, change: Change) {
        self.0.change.set(Some(Box::new(change)));
        self.0.wishes.wake();
    }

    /// Has the relay forget what was decided about targets, such as when the policy has changed: its owner is asked
    /// again for each that the client sends to. It is asked at once about the addresses that may answer, and nothing is
    /// taken any more from those that it does not allow there and then. Datagrams that wait for a decision are dropped.
    pub fn forget_flows(&self) {
        self.0.forget.set(true);
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
