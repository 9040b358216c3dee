//! One machine of a stream protocol in virtual time: a driver, its channels and an engine reduced to what the contract
//! asks of them.
//!
//! The node watches that the machine keeps the contract: it sends only through channels that are open and not joined,
//! names each channel once, closes each once, leaves none open when it is drained, and every drain ends.

mod joins;

use crate::log::{Log, Seen};
use crate::node::DRAIN_BOUND;
use crate::vectors::to_hex;
use crate::{Clock, Policy, Seeded, memory};
use bytes::{Bytes, BytesMut};
use sluice_auth::Verdict;
use sluice_auth::gss::{ContextFailure, ContextStep};
use sluice_spi::{
    ChannelFailure, ChannelRef, Direction, Event, Factory, Input, JoinEnd, LocalRef, Machine, MachineKey,
    Open, OpenError, PeerAddr, Refusal, RelaySpec, ShardId, StreamCodec, StreamEnd, Target, TerminateCause,
    Via,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Octets that the driver reads at once.
pub const READ: usize = 64 << 10;
/// Steps that one call may take at the most.
const MAX_STEPS: usize = 10_000;

/// A channel that a machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A connection to a target.
    Open(Target),
    /// A connection from one.
    Listen(Target),
    /// A relay of datagrams for a client.
    Relay(SocketAddr),
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is connected.
    Opened {
        /// Our end.
        local: SocketAddr,
        /// The other.
        remote: SocketAddr,
    },
    /// It waits, or relays.
    Listening(SocketAddr),
    /// It is not there, or not any more.
    Failed(ChannelFailure),
}

/// Says what becomes of a wish, step by step, each with the time since the wish.
pub type Dialer = dyn FnMut(&Wish) -> Vec<(Duration, Outcome)> + Send;

/// Where the node's own ends of channels are.
pub const OUTSIDE: ([u8; 4], u16) = ([203, 0, 113, 1], 40_000);
/// Where targets are, and who comes to what listens.
pub const TARGET: [u8; 4] = [198, 51, 100, 9];

/// A dialer with which everything goes well, `delay` after the wish; what listens is called after twice that.
pub fn reaches_everything(delay: Duration) -> Box<Dialer> {
    let local = SocketAddr::from(OUTSIDE);
    Box::new(move |wish| match wish {
        Wish::Open(target) => {
            let remote = SocketAddr::from((TARGET, target.port));
            vec![(delay, Outcome::Opened { local, remote })]
        }
        Wish::Listen(_) => {
            let remote = SocketAddr::from((TARGET, 20));
            vec![
                (delay, Outcome::Listening(local)),
                (delay * 2, Outcome::Opened { local, remote }),
            ]
        }
        Wish::Relay(_) => vec![(delay, Outcome::Listening(local))],
    })
}

/// A dialer that reaches nothing.
pub fn reaches_nothing(failure: ChannelFailure) -> Box<Dialer> {
    Box::new(move |_| vec![(Duration::ZERO, Outcome::Failed(failure))])
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It was asked for.
    Wished,
    /// It waits, or relays.
    Listening,
    /// It is connected.
    Open,
    /// It is joined to another.
    Joined,
    /// It is closed, by the machine or by what happened.
    Closed,
}

struct Channel {
    stage: Stage,
    /// What came and was not read yet.
    unread: VecDeque<u8>,
    /// Whether and how the other end stopped sending.
    ended: Option<StreamEnd>,
    told: bool,
    /// What the machine sent.
    sent: Vec<u8>,
    /// What came in while it was joined, and what was given to the join.
    passed: Vec<u8>,
    relay: Option<Box<RelaySpec>>,
    /// Whether it waited when its machine was restored: the new one asks for it again.
    kept: bool,
}

impl Channel {
    fn new(stage: Stage) -> Self {
        Self {
            stage,
            unread: VecDeque::new(),
            ended: None,
            told: false,
            sent: Vec::new(),
            passed: Vec::new(),
            relay: None,
            kept: false,
        }
    }
}

enum Answer {
    Admission(LocalRef, Result<(), Refusal>),
    Verdict(LocalRef, Verdict),
    Context(LocalRef, Result<ContextStep, ContextFailure>),
    Channel(ChannelRef, Outcome),
}

/// One machine with its channels.
pub struct StreamNode {
    /// What its engine answers.
    pub policy: Policy,
    /// What becomes of the channels that it asks for.
    pub dialer: Box<Dialer>,
    /// What it saw and did.
    pub log: Log,
    /// Virtual time.
    pub clock: Clock,
    key: MachineKey,
    machine: Option<Box<dyn Machine>>,
    channels: BTreeMap<ChannelRef, Channel>,
    joins: BTreeMap<LocalRef, (ChannelRef, ChannelRef)>,
    /// What the bytes of joined channels go through.
    codecs: BTreeMap<ChannelRef, Box<dyn StreamCodec>>,
    /// What was given to a join and was not passed yet.
    early: Option<(ChannelRef, Bytes)>,
    answers: BTreeMap<(Instant, u64), Answer>,
    asked: u64,
}

impl StreamNode {
    /// A node with one connection, which was just accepted.
    pub fn accept(factory: &dyn Factory, peer: PeerAddr) -> Self {
        let (key, clock) = (MachineKey(1), Clock::new());
        let open = Open::Accepted { key, peer };
        let machine = factory.machine(open, ShardId(0), Box::new(Seeded::new(1)), clock.now());
        let machine = machine.expect("the module takes connections");
        assert_eq!(machine.key(), key);
        let mut node = Self {
            policy: Policy::accept_all(),
            dialer: reaches_everything(Duration::ZERO),
            log: Log::default(),
            clock,
            key,
            machine: Some(machine),
            channels: BTreeMap::from([(ChannelRef::FIRST, Channel::new(Stage::Open))]),
            joins: BTreeMap::new(),
            codecs: BTreeMap::new(),
            early: None,
            answers: BTreeMap::new(),
            asked: 0,
        };
        node.policy.judging_delay = Duration::ZERO;
        node.settle();
        node
    }

    /// Its machine; `None`: it was drained and dropped.
    pub fn machine(&self) -> Option<&dyn Machine> {
        self.machine.as_deref()
    }

    /// Whether its machine was drained and dropped.
    pub fn is_gone(&self) -> bool {
        self.machine.is_none()
    }

    /// How far a channel has come; `None`: there is none of this name.
    pub fn stage(&self, channel: ChannelRef) -> Option<Stage> {
        self.channels.get(&channel).map(|channel| channel.stage)
    }

    /// What the machine sent through a channel so far.
    pub fn sent(&self, channel: ChannelRef) -> &[u8] {
        self.channels.get(&channel).map_or(&[], |channel| &channel.sent)
    }

    /// What a channel brought for the one it was joined to.
    pub fn passed(&self, channel: ChannelRef) -> &[u8] {
        self.channels.get(&channel).map_or(&[], |channel| &channel.passed)
    }

    /// The octets that came on a channel and that the machine has not taken.
    pub fn unread(&self, channel: ChannelRef) -> usize {
        self.channels
            .get(&channel)
            .map_or(0, |channel| channel.unread.len())
    }

    /// Whether the other end of a channel has stopped sending.
    pub fn has_ended(&self, channel: ChannelRef) -> bool {
        self.channels
            .get(&channel)
            .is_some_and(|channel| channel.ended.is_some())
    }

    /// The relay that a channel is.
    pub fn relay(&mut self, channel: ChannelRef) -> &mut RelaySpec {
        let relay = self
            .channels
            .get_mut(&channel)
            .and_then(|channel| channel.relay.as_mut());
        relay.expect("the channel is a relay")
    }

    /// The sessions that are joined.
    pub fn joined(&self) -> Vec<LocalRef> {
        self.joins.keys().copied().collect()
    }

    /// Bytes come in on a channel.
    pub fn give(&mut self, channel: ChannelRef, bytes: &[u8]) {
        let entry = self.channels.get_mut(&channel).expect("a channel");
        assert_eq!(entry.ended, None, "bytes after the end of {channel:?}");
        entry.unread.extend(bytes);
        self.settle();
    }

    /// Bytes come in on the first channel, cut by a seed; with `pause`, so much time passes after each piece.
    pub fn give_cut(&mut self, bytes: &[u8], random: &mut Seeded, pause: Duration) {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Small pieces find more than large ones.
            let most = if random.chance(0.5) { 3 } else { rest.len() };
            let (piece, later) = rest.split_at(random.below(most.min(rest.len())) + 1);
            self.give(ChannelRef::FIRST, piece);
            self.pass(pause);
            rest = later;
        }
    }

    /// The other end of a channel stops sending.
    pub fn end(&mut self, channel: ChannelRef, end: StreamEnd) {
        let entry = self.channels.get_mut(&channel).expect("a channel");
        entry.ended = Some(end);
        if end == StreamEnd::Reset {
            entry.unread.clear();
        }
        self.settle();
    }

    /// A joined session comes apart.
    pub fn part(&mut self, session: LocalRef, end: JoinEnd) {
        self.separate(session);
        self.input(Input::JoinEnded { session, end });
    }

    /// The relay of datagrams that is a session's channel ends by itself.
    pub fn end_relay(&mut self, session: LocalRef, channel: ChannelRef, end: JoinEnd) {
        self.channels.get_mut(&channel).expect("a channel").stage = Stage::Closed;
        self.input(Input::JoinEnded { session, end });
    }

    /// A channel is not there any more, as after a restart over which its socket was lost.
    pub fn lose(&mut self, channel: ChannelRef, failure: ChannelFailure) {
        self.channels.get_mut(&channel).expect("a channel").stage = Stage::Closed;
        self.joins
            .retain(|_, (first, second)| *first != channel && *second != channel);
        self.input(Input::ChannelFailed { channel, failure });
    }

    /// Gives the machine any input.
    pub fn input(&mut self, input: Input<'_>) {
        let now = self.clock.now();
        if let Some(machine) = &mut self.machine
            && let Err(fault) = machine.handle_input(input, now)
        {
            self.record(Seen::Fault(fault.0));
            self.machine = None;
            return;
        }
        self.drain();
        self.settle();
    }

    /// Ends the machine.
    pub fn close(&mut self, cause: TerminateCause) {
        let now = self.clock.now();
        if let Some(machine) = &mut self.machine {
            machine.close(cause, now);
        }
        self.drain();
        self.settle();
    }

    /// When something is to be done without anything coming in.
    pub fn next_timeout(&self) -> Option<Instant> {
        let machine = self.machine.as_ref().and_then(|machine| machine.poll_timeout());
        let answer = self.answers.keys().next().map(|&(at, _)| at);
        machine.into_iter().chain(answer).min()
    }

    /// Lets time pass, step by step.
    pub fn pass(&mut self, span: Duration) {
        let end = self.clock.now() + span;
        for _ in 0..MAX_STEPS {
            match self.next_timeout() {
                Some(at) if at <= end => self.clock.advance_to(at),
                _ => {
                    self.clock.advance_to(end);
                    return;
                }
            }
            let now = self.clock.now();
            if let Some(machine) = &mut self.machine
                && machine.poll_timeout().is_some_and(|at| at <= now)
            {
                machine.handle_timeout(now);
                let again = machine.poll_timeout();
                assert!(again.is_none_or(|at| at > now), "a timer fires without end");
                self.drain();
            }
            self.settle();
        }
        panic!("time does not pass");
    }

    /// Its checkpoint.
    pub fn checkpoint(&self) -> Option<Bytes> {
        self.machine.as_ref()?.checkpoint(self.clock.now())
    }

    /// Drops the machine and starts one from its checkpoint. Its channels live on; its join is for the new machine to
    /// ask for.
    pub fn restart(&mut self, factory: &dyn Factory) -> Result<(), OpenError> {
        let checkpoint = self.checkpoint().expect("something is established");
        self.machine = None;
        self.answers.clear();
        for channel in self.channels.values_mut() {
            channel.kept = channel.stage == Stage::Listening;
        }
        for (first, second) in std::mem::take(&mut self.joins).into_values() {
            for channel in [first, second] {
                self.channels.get_mut(&channel).expect("a channel").stage = Stage::Open;
            }
        }
        let open = Open::Restored {
            checkpoint: &checkpoint,
        };
        let machine = factory.machine(open, ShardId(0), Box::new(Seeded::new(2)), self.clock.now())?;
        assert_eq!(machine.key(), self.key);
        self.machine = Some(machine);
        self.drain();
        self.settle();
        Ok(())
    }

    /// Drops the machine and says how many bytes of memory it held. The test binary must install
    /// [`memory::CountingAllocator`].
    pub fn into_machine_size(mut self) -> isize {
        let before = memory::live();
        drop(self.machine.take());
        before - memory::live()
    }

    /// What happened as text, without times and without how streams were cut: the events, then what was sent and
    /// passed by each channel.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for entry in self.log.entries() {
            let _ = match &entry.what {
                Seen::Event(Event::Join {
                    session,
                    first,
                    second,
                    ..
                }) => writeln!(text, "Join {session:?} {first:?} {second:?}"),
                Seen::Event(event) => writeln!(text, "{event:?}"),
                Seen::ContextRequested { token, .. } => {
                    writeln!(text, "ContextRequested {}", to_hex(token))
                }
                Seen::RelayOpened { client, .. } => writeln!(text, "OpenRelay {client}"),
                _ => Ok(()),
            };
        }
        for (name, channel) in &self.channels {
            let (sent, passed) = (to_hex(&channel.sent), to_hex(&channel.passed));
            let _ = writeln!(text, "{name:?} {:?} sent {sent} passed {passed}", channel.stage);
        }
        text
    }

    /// Carries out everything that is due now: answers, bytes that the machine wants, ends of streams.
    fn settle(&mut self) {
        for _ in 0..MAX_STEPS {
            if !self.answer() && !self.read() && !self.pass_joined() {
                return;
            }
        }
        panic!("the node does not come to rest");
    }

    fn answer(&mut self) -> bool {
        let now = self.clock.now();
        if self.answers.keys().next().is_none_or(|&(at, _)| at > now) {
            return false;
        }
        let Some((_, answer)) = self.answers.pop_first() else {
            return false;
        };
        let input = match answer {
            Answer::Admission(session, verdict) => Input::Admission {
                session,
                verdict,
                verifiable: Default::default(),
            },
            Answer::Verdict(session, verdict) => Input::AuthVerdict { session, verdict },
            Answer::Context(session, answer) => Input::ContextAnswered { session, answer },
            Answer::Channel(channel, outcome) => {
                let entry = self.channels.get_mut(&channel).expect("a channel");
                match (entry.stage, outcome) {
                    (Stage::Closed, _) => return true,
                    (_, Outcome::Opened { local, remote }) => {
                        entry.stage = Stage::Open;
                        Input::ChannelOpened {
                            channel,
                            local,
                            remote,
                        }
                    }
                    (_, Outcome::Listening(local)) => {
                        entry.stage = Stage::Listening;
                        Input::ChannelListening { channel, local }
                    }
                    (_, Outcome::Failed(failure)) => {
                        entry.stage = Stage::Closed;
                        Input::ChannelFailed { channel, failure }
                    }
                }
            }
        };
        let machine = self.machine.as_mut().expect("answers go with their machine");
        machine
            .handle_input(input, now)
            .expect("an answer that was asked for");
        self.drain();
        true
    }

    /// Reads one channel, as the driver would; false where there is nothing to read or nobody wants it.
    fn read(&mut self) -> bool {
        let now = self.clock.now();
        let Some(machine) = &mut self.machine else {
            return false;
        };
        for (&name, channel) in &mut self.channels {
            let take = channel.unread.len().min(READ);
            if channel.stage != Stage::Open
                || !machine.wants_bytes(name) && channel.ended != Some(StreamEnd::Reset)
            {
                continue;
            }
            let result = if take > 0 {
                let bytes: Vec<u8> = channel.unread.drain(..take).collect();
                let result = machine.handle_input(
                    Input::Stream {
                        channel: name,
                        bytes: &bytes,
                    },
                    now,
                );
                let direction = Direction::In;
                let seen = Seen::Stream {
                    channel: name,
                    direction,
                    bytes,
                };
                self.log.push(self.clock.elapsed(), Some(self.key), seen);
                result
            } else {
                match channel.ended.filter(|_| !channel.told) {
                    Some(end) => {
                        channel.told = true;
                        machine.handle_input(Input::StreamEnded { channel: name, end }, now)
                    }
                    None => continue,
                }
            };
            result.expect("a machine of streams takes bytes and their end");
            self.drain();
            return true;
        }
        false
    }

    /// The drain rule: packets and events in turn until neither is left.
    fn drain(&mut self) {
        for _ in 0..DRAIN_BOUND {
            let Some(machine) = &mut self.machine else {
                return;
            };
            let mut out = BytesMut::new();
            let sent = machine.poll_transmit(self.clock.now(), &mut out);
            let event = machine.poll_event();
            if sent.is_none() && event.is_none() {
                return self.drop_drained();
            }
            if let Some(transmit) = sent {
                assert_eq!(transmit.length, out.len(), "the length is not what was appended");
                self.carry_out(transmit.via, out.to_vec());
            }
            if let Some(event) = event {
                self.handle_event(event);
            }
        }
        panic!("the drain does not end");
    }

    fn drop_drained(&mut self) {
        if !self.machine.as_ref().is_some_and(|machine| machine.is_drained()) {
            return;
        }
        let open = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.stage != Stage::Closed);
        let open: Vec<_> = open.map(|(name, channel)| (name, channel.stage)).collect();
        assert!(open.is_empty(), "a drained machine leaves channels: {open:?}");
        self.record(Seen::MachineGone);
        self.machine = None;
        self.answers.clear();
    }

    fn carry_out(&mut self, via: Via, bytes: Vec<u8>) {
        let Via::Channel(channel) = via else {
            panic!("a machine of streams sends to {via:?}");
        };
        let entry = self
            .channels
            .get_mut(&channel)
            .expect("it sends through a channel that it has");
        assert_eq!(entry.stage, Stage::Open, "it sends through {channel:?}");
        entry.sent.extend_from_slice(&bytes);
        self.record(Seen::Stream {
            channel,
            direction: Direction::Out,
            bytes,
        });
    }

    fn handle_event(&mut self, event: Event) {
        let now = self.clock.now();
        let event = match event {
            Event::OpenRelay {
                session,
                channel,
                relay,
            } => {
                let client = relay.client;
                self.wish(channel, Wish::Relay(client));
                // The log keeps the event; the relay itself goes to the channel.
                self.channels.get_mut(&channel).expect("a channel").relay = Some(relay);
                self.record(Seen::RelayOpened {
                    session,
                    channel,
                    client,
                });
                return;
            }
            Event::ContextRequested { session, request } => {
                return self.context_requested(session, *request);
            }
            Event::Join {
                session,
                first,
                second,
                early,
                codec,
            } => {
                self.join(session, first, second, &early, codec);
                Event::Join {
                    session,
                    first,
                    second,
                    early,
                    codec: None,
                }
            }
            event => event,
        };
        match &event {
            Event::SessionOpening { session, call } => {
                let verdict = (self.policy.admit)(call);
                if let Err(refusal) = verdict {
                    self.record(Seen::Refused {
                        session: *session,
                        refusal,
                    });
                }
                let at = now + self.policy.admission_delay;
                self.later(at, Answer::Admission(*session, verdict));
            }
            Event::AuthRequested { session, request } => {
                let verdict = (self.policy.judge)(request);
                let at = now + self.policy.judging_delay;
                self.later(at, Answer::Verdict(*session, verdict));
            }
            Event::OpenChannel { channel, target, .. } => self.wish(*channel, Wish::Open(target.clone())),
            Event::ListenChannel { channel, from, .. } => self.wish(*channel, Wish::Listen(from.clone())),
            Event::CloseChannel { channel, .. } => {
                let entry = self
                    .channels
                    .get_mut(channel)
                    .expect("it closes a channel that it has");
                assert_ne!(entry.stage, Stage::Closed, "it closes {channel:?} twice");
                entry.stage = Stage::Closed;
                self.joins
                    .retain(|_, (first, second)| first != channel && second != channel);
            }
            Event::InstallPath { .. } | Event::UpdatePath { .. } | Event::RemovePath { .. } => {
                panic!("this node has no paths: {event:?}");
            }
            _ => {}
        }
        self.record(Seen::Event(event));
    }

    fn wish(&mut self, channel: ChannelRef, wish: Wish) {
        let again = self.channels.get(&channel).is_some_and(|former| former.kept);
        assert!(
            again || !self.channels.contains_key(&channel),
            "{channel:?} is asked for twice"
        );
        self.channels.insert(channel, Channel::new(Stage::Wished));
        let now = self.clock.now();
        for (delay, outcome) in (self.dialer)(&wish) {
            self.later(now + delay, Answer::Channel(channel, outcome));
        }
    }

    fn later(&mut self, at: Instant, answer: Answer) {
        self.asked += 1;
        self.answers.insert((at, self.asked), answer);
    }

    fn record(&mut self, what: Seen) {
        self.log.push(self.clock.elapsed(), Some(self.key), what);
    }
}
