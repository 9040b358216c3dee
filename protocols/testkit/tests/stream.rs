//! The node and the contract tests of streams, tried on a toy protocol that is right and on ones that are wrong: one
//! octet of length, then a name; the machine answers `!`, opens a channel to the name and joins it.
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use sluice_auth::Host;
use sluice_spi::*;
use sluice_testkit::contract::stream as contract;
use sluice_testkit::stream::{self, Stage};
use sluice_testkit::{Seeded, StreamNode};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

sluice_testkit::count_memory!();

const SESSION: LocalRef = LocalRef(1);
const OTHER: ChannelRef = ChannelRef(1);
const SCRIPT: &[u8] = b"\x07exampleand more";
const HELD: Duration = Duration::from_secs(5);

/// What is wrong with a machine on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Takes the first piece for the whole message.
    NeedsWhole,
    /// Forgets what came with the request.
    LosesEarly,
    /// Leaves its channels open.
    LeavesOpen,
    /// Says nothing of its session's end.
    SilentEnd,
    /// Keeps far more than it needs.
    Hoards,
    /// Sends into the join.
    Interferes,
}

struct Toy(Flaw);

impl Factory for Toy {
    fn front(&self, _: ShardId, _: Shards, _: Box<dyn Entropy>) -> Option<Box<dyn Front>> {
        None
    }

    fn machine(
        &self,
        open: Open<'_>,
        _: ShardId,
        _: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Box<dyn Machine>, OpenError> {
        let Open::Accepted { key, peer } = open else {
            return Err(OpenError::NotSupported);
        };
        let hoard = if self.0 == Flaw::Hoards { 100_000 } else { 0 };
        Ok(Box::new(ToyMachine {
            flaw: self.0,
            key,
            peer,
            input: Vec::with_capacity(hoard),
            stage: 0,
            out: Vec::new(),
            until: Some(now + HELD),
            events: VecDeque::new(),
        }))
    }
}

struct ToyMachine {
    flaw: Flaw,
    key: MachineKey,
    peer: PeerAddr,
    input: Vec<u8>,
    /// 0: reads; 1: opens; 2: joined; 3: over.
    stage: u8,
    out: Vec<u8>,
    until: Option<Instant>,
    events: VecDeque<Event>,
}

impl ToyMachine {
    fn read(&mut self) {
        let Some((&length, rest)) = self.input.split_first() else {
            return;
        };
        let Some((name, rest)) = rest.split_at_checked(length.into()) else {
            if self.flaw == Flaw::NeedsWhole {
                self.end();
            }
            return;
        };
        let host = Host::parse(name);
        self.input = rest.to_vec();
        let Ok(host) = host else { return self.end() };
        self.stage = 1;
        self.until = None;
        self.out.push(b'!');
        let call = CallInfo {
            kind: SessionKind::Connection,
            peer: self.peer,
            calling: None,
            called: None,
            label: None,
        };
        self.events.extend([
            Event::SessionOpening {
                session: SESSION,
                call,
            },
            Event::OpenChannel {
                session: SESSION,
                channel: OTHER,
                target: Target { host, port: 7 },
            },
        ]);
    }

    fn end(&mut self) {
        let channels: &[_] = match self.stage {
            0 => &[ChannelRef::FIRST],
            1 => &[ChannelRef::FIRST, OTHER],
            _ => &[],
        };
        if self.flaw != Flaw::LeavesOpen {
            let close = Close::Finish;
            let closes = channels
                .iter()
                .map(|&channel| Event::CloseChannel { channel, close });
            self.events.extend(closes);
        }
        if (1..=2).contains(&self.stage) && self.flaw != Flaw::SilentEnd {
            let ended = Ended::new(TerminateCause::UserRequest, "over", "");
            self.events.push_back(Event::SessionDown {
                session: SESSION,
                ended,
            });
        }
        self.stage = 3;
        self.until = None;
        self.input = Vec::new();
    }
}

impl Machine for ToyMachine {
    fn key(&self) -> MachineKey {
        self.key
    }
    fn handle_input(&mut self, input: Input<'_>, _: Instant) -> Result<(), Fault> {
        match input {
            Input::Stream { bytes, .. } if self.stage < 2 => {
                self.input.extend_from_slice(bytes);
                if self.stage == 0 {
                    self.read();
                }
            }
            Input::StreamEnded { .. } if self.stage < 2 => self.end(),
            Input::ChannelOpened { .. } if self.stage == 1 => {
                self.stage = 2;
                let mut early = std::mem::take(&mut self.input);
                if self.flaw == Flaw::LosesEarly {
                    early.clear();
                }
                self.events.extend([
                    Event::SessionUp {
                        session: SESSION,
                        facts: Vec::new(),
                    },
                    Event::Join {
                        session: SESSION,
                        first: ChannelRef::FIRST,
                        second: OTHER,
                        early: early.into(),
                        codec: None,
                    },
                ]);
            }
            Input::JoinEnded { .. } => self.end(),
            _ => {}
        }
        Ok(())
    }
    fn handle_timeout(&mut self, _: Instant) {
        self.end();
    }
    fn wants_bytes(&self, _: ChannelRef) -> bool {
        self.stage == 0 || self.input.len() < 10
    }
    fn poll_transmit(&mut self, _: Instant, out: &mut BytesMut) -> Option<Transmit> {
        let joined = self.stage == 2 && self.events.is_empty() && self.flaw == Flaw::Interferes;
        if self.out.is_empty() && !joined {
            return None;
        }
        out.extend_from_slice(b"!");
        self.out.clear();
        Some(Transmit {
            via: Via::Channel(ChannelRef::FIRST),
            length: 1,
        })
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }
    fn checkpoint(&self, _: Instant) -> Option<Bytes> {
        None
    }
    fn close(&mut self, _: TerminateCause, _: Instant) {
        if self.stage == 2 {
            let close = Close::Reset;
            let both = [ChannelRef::FIRST, OTHER];
            let closes = both.map(|channel| Event::CloseChannel { channel, close });
            self.events.extend(closes);
        }
        self.end();
    }
    fn is_drained(&self) -> bool {
        self.stage == 3 && self.events.is_empty() && self.out.is_empty()
    }
    fn describe(&self) -> TunnelInfo {
        TunnelInfo {
            key: self.key,
            peer: self.peer,
            peer_name: String::new(),
            initiated: false,
            facts: Vec::new(),
        }
    }
    fn describe_session(&self, _: LocalRef) -> Vec<Fact> {
        Vec::new()
    }
}

fn node(flaw: Flaw) -> StreamNode {
    let peer = PeerAddr {
        remote: "192.0.2.50:5000".parse().unwrap(),
        local: "192.0.2.1:7".parse().unwrap(),
    };
    let mut node = StreamNode::accept(&Toy(flaw), peer);
    node.dialer = stream::reaches_everything(Duration::from_millis(20));
    node
}

#[test]
fn bytes_come_and_go_in_order_and_wait_where_nobody_wants_them() {
    let mut node = node(Flaw::None);
    node.give(ChannelRef::FIRST, SCRIPT);
    assert_eq!(
        (node.sent(ChannelRef::FIRST), node.stage(OTHER)),
        (&b"!"[..], Some(Stage::Wished))
    );
    node.give(ChannelRef::FIRST, b", and some");
    node.give(ChannelRef::FIRST, b", and yet some");
    assert_eq!(node.unread(ChannelRef::FIRST), 14, "the machine has enough");
    node.pass(Duration::from_millis(20));
    assert_eq!(
        node.passed(ChannelRef::FIRST),
        b"and more, and some, and yet some"
    );
    assert_eq!(node.joined(), [SESSION]);
    node.part(SESSION, JoinEnd::Finished);
    assert!(node.is_gone());
    node.log.check_order(true);
}

#[test]
fn timers_fire_when_they_are_due() {
    let mut node = node(Flaw::None);
    node.pass(HELD - Duration::from_millis(1));
    assert!(!node.is_gone());
    node.pass(Duration::from_millis(1));
    assert!(node.is_gone());
}

#[test]
fn a_machine_that_is_right_passes() {
    let make = || node(Flaw::None);
    contract::any_chunking_same_result(make, SCRIPT, 10);
    contract::ends_anywhere(make, SCRIPT);
    contract::closes_anywhere(make, SCRIPT);
    contract::any_bytes(make, &[SCRIPT.to_vec()], 1, 50, 2000);
    let mut up = make();
    up.give_cut(SCRIPT, &mut Seeded::new(1), Duration::from_millis(1));
    up.pass(Duration::from_secs(1));
    contract::is_small(up, 1000);
}

#[test]
#[should_panic(expected = "octet by octet")]
fn one_that_needs_its_message_whole_is_found() {
    contract::any_chunking_same_result(|| node(Flaw::NeedsWhole), SCRIPT, 3);
}

#[test]
#[should_panic(expected = "octet by octet")]
fn one_that_loses_what_came_early_is_found() {
    // It shows where the target answers at once: what comes later is not lost.
    let make = || {
        let mut node = node(Flaw::LosesEarly);
        node.dialer = stream::reaches_everything(Duration::ZERO);
        node
    };
    contract::any_chunking_same_result(make, SCRIPT, 3);
}

#[test]
#[should_panic(expected = "leaves channels")]
fn one_that_leaves_its_channels_is_found() {
    contract::ends_anywhere(|| node(Flaw::LeavesOpen), SCRIPT);
}

#[test]
#[should_panic(expected = "ended with sessions")]
fn one_that_forgets_its_session_is_found() {
    contract::closes_anywhere(|| node(Flaw::SilentEnd), SCRIPT);
}

#[test]
#[should_panic(expected = "bytes are held")]
fn one_that_hoards_is_found() {
    contract::any_bytes(|| node(Flaw::Hoards), &[SCRIPT.to_vec()], 1, 10, 2000);
}

#[test]
#[should_panic(expected = "it sends through")]
fn one_that_sends_into_a_join_is_found() {
    let mut node = node(Flaw::Interferes);
    node.give(ChannelRef::FIRST, SCRIPT);
    node.pass(Duration::from_secs(1));
}
