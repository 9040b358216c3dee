//! One gateway in virtual time: a driver, a data plane and an engine reduced to what the contract asks of them.

use crate::log::{Log, Seen};
use crate::{Clock, Policy, Seeded};
use bytes::{Bytes, BytesMut};
use sluice_auth::Verdict;
use sluice_spi::{
    Demux, Entropy, Event, Factory, Front, Input, LocalRef, Machine, MachineKey, Module, Open, OpenError,
    Opened, PathKey, PathSpec, PathStats, PathUpdate, Payload, PeerAddr, Refusal, Released, Route, ShardId,
    Shards, TerminateCause, Transmit, Via,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// Packets and events that one mutation may give at the most. A drain that goes on longer does not end.
pub const DRAIN_BOUND: usize = 100_000;

/// A packet on its way out of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Payload of the datagram.
    pub bytes: Vec<u8>,
}

/// A user packet that came out of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The machine of its session.
    pub machine: MachineKey,
    /// The session.
    pub session: LocalRef,
    /// The IP packet.
    pub packet: Vec<u8>,
}

type Classify = dyn Fn(&[u8]) -> Demux + Send;

struct Path {
    machine: MachineKey,
    session: LocalRef,
    spec: PathSpec,
    stats: PathStats,
}

enum Answer {
    Admission(Result<(), Refusal>),
    Verdict(Verdict),
}

/// A gateway or client with one listener and one shard.
pub struct Node {
    address: SocketAddr,
    /// What its engine answers.
    pub policy: Policy,
    /// What it saw and did.
    pub log: Log,
    /// User packets that came out of its paths.
    pub delivered: VecDeque<Delivered>,
    classify: Box<Classify>,
    front: Option<Box<dyn Front>>,
    machines: BTreeMap<MachineKey, Box<dyn Machine>>,
    paths: BTreeMap<PathKey, Path>,
    sessions: BTreeMap<(MachineKey, LocalRef), PathKey>,
    answers: BTreeMap<(Instant, u64), (MachineKey, LocalRef, Answer)>,
    asked: u64,
    out: VecDeque<Packet>,
    entropy: Seeded,
    clock: Clock,
}

impl Node {
    /// A node without a front: everything that is no user data goes to its only machine.
    pub fn bare(address: SocketAddr, seed: u64, clock: Clock) -> Self {
        Self {
            address,
            policy: Policy::accept_all(),
            log: Log::default(),
            delivered: VecDeque::new(),
            classify: Box::new(|_| Demux::Control),
            front: None,
            machines: BTreeMap::new(),
            paths: BTreeMap::new(),
            sessions: BTreeMap::new(),
            answers: BTreeMap::new(),
            asked: 0,
            out: VecDeque::new(),
            entropy: Seeded::new(seed),
            clock,
        }
    }

    /// A node with a module's front, made by `factory`, listening on `address`.
    pub fn new(
        module: &'static dyn Module,
        factory: &dyn Factory,
        address: SocketAddr,
        seed: u64,
        clock: Clock,
    ) -> Self {
        let mut node = Self::bare(address, seed, clock);
        node.classify = Box::new(move |packet| module.demux(packet));
        node.front = factory.front(ShardId(0), Shards::new(1), node.entropy.fork());
        node
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its front, for those that have one.
    pub fn front(&mut self) -> &mut dyn Front {
        self.front.as_deref_mut().expect("the node has a front")
    }

    /// Half-open peers of its front; none where it has no front.
    pub fn half_open(&self) -> usize {
        self.front.as_ref().map_or(0, |front| front.half_open())
    }

    /// A source of randomness of its own for something made for this node.
    pub fn entropy(&mut self) -> Box<dyn Entropy> {
        self.entropy.fork()
    }

    /// The keys of its machines.
    pub fn machines(&self) -> Vec<MachineKey> {
        self.machines.keys().copied().collect()
    }

    /// One of its machines.
    pub fn machine(&self, key: MachineKey) -> &dyn Machine {
        &**self.machines.get(&key).expect("the node has this machine")
    }

    /// Its only machine; panics where it has none or several.
    pub fn only_machine(&self) -> MachineKey {
        let keys = self.machines();
        assert_eq!(keys.len(), 1, "machines {keys:?}");
        keys[0]
    }

    /// The sessions of a machine that have a path.
    pub fn paths(&self, machine: MachineKey) -> Vec<LocalRef> {
        let of_machine = self.sessions.keys().filter(|(key, _)| *key == machine);
        of_machine.map(|&(_, session)| session).collect()
    }

    /// The counters of a session's path.
    pub fn path_stats(&self, machine: MachineKey, session: LocalRef) -> Option<PathStats> {
        Some(self.paths.get(self.sessions.get(&(machine, session))?)?.stats)
    }

    /// Hands the node a machine of the test's own making and drains it.
    pub fn insert(&mut self, machine: Box<dyn Machine>, now: Instant) -> MachineKey {
        let key = machine.key();
        let former = self.machines.insert(key, machine);
        assert!(former.is_none(), "two machines have the key {key:?}");
        self.drain(key, now);
        key
    }

    /// Opens a tunnel to `remote` with a machine made by `factory`.
    pub fn open(&mut self, factory: &dyn Factory, remote: SocketAddr, now: Instant) -> MachineKey {
        let key = self.front().mint(now).expect("a free key");
        let peer = PeerAddr {
            remote,
            local: self.address,
        };
        let entropy = self.entropy.fork();
        let machine = factory.machine(Open::Initiated { key, peer }, ShardId(0), entropy, now);
        self.insert(machine.expect("the module opens tunnels"), now)
    }

    /// Starts a machine from a checkpoint.
    pub fn restore(
        &mut self,
        factory: &dyn Factory,
        checkpoint: &[u8],
        now: Instant,
    ) -> Result<MachineKey, OpenError> {
        let entropy = self.entropy.fork();
        let machine = factory.machine(Open::Restored { checkpoint }, ShardId(0), entropy, now)?;
        if let Some(front) = &mut self.front {
            assert!(
                front.reserve(machine.key()),
                "the key of the restored machine is taken"
            );
        }
        Ok(self.insert(machine, now))
    }

    /// A machine's checkpoint, with the state of the codecs of its paths given to it first, as the driver does.
    pub fn checkpoint(&mut self, key: MachineKey, now: Instant) -> Option<Bytes> {
        for session in self.paths(key) {
            let path = self
                .sessions
                .get(&(key, session))
                .and_then(|key| self.paths.get(key));
            if let Some(state) = path.map(|path| path.spec.codec.hot_state()) {
                self.input(
                    key,
                    Input::PathState {
                        session,
                        state: &state,
                    },
                    now,
                );
            }
        }
        self.machines.get(&key)?.checkpoint(now)
    }

    /// What a crash of the worker does: machines, front, paths and unanswered questions are gone without a word.
    /// A new front comes from `factory`.
    pub fn crash(&mut self, factory: &dyn Factory) {
        self.machines.clear();
        self.paths.clear();
        self.sessions.clear();
        self.answers.clear();
        self.out.clear();
        if self.front.is_some() {
            self.front = factory.front(ShardId(0), Shards::new(1), self.entropy.fork());
        }
    }

    /// Gives a machine an input and drains it.
    pub fn input(&mut self, key: MachineKey, input: Input<'_>, now: Instant) {
        let Some(machine) = self.machines.get_mut(&key) else {
            return;
        };
        if let Err(fault) = machine.handle_input(input, now) {
            self.record(Some(key), Seen::Fault(fault.0));
            self.forget(key, now);
            return;
        }
        self.drain(key, now);
    }

    /// Closes a machine and drains it.
    pub fn close(&mut self, key: MachineKey, cause: TerminateCause, now: Instant) {
        if let Some(machine) = self.machines.get_mut(&key) {
            machine.close(cause, now);
            self.drain(key, now);
        }
    }

    /// Handles a datagram that arrived.
    pub fn receive(&mut self, from: PeerAddr, bytes: &[u8], now: Instant) {
        let received = Seen::Received {
            from,
            bytes: bytes.to_vec(),
        };
        match (self.classify)(bytes) {
            Demux::Drop(reason) => {
                self.record(None, received);
                self.record(None, Seen::Event(Event::Dropped(reason)));
            }
            Demux::Data(key) if self.paths.contains_key(&key) => {
                self.record(self.paths.get(&key).map(|path| path.machine), received);
                self.open_packet(key, from, bytes, now);
            }
            Demux::Data(_) | Demux::Control => {
                self.record(None, received);
                self.route(from, bytes, now);
            }
        }
    }

    fn route(&mut self, from: PeerAddr, packet: &[u8], now: Instant) {
        let Some(front) = &mut self.front else {
            let key = self.only_machine();
            return self.input(key, Input::Datagram { from, packet }, now);
        };
        let route = front.handle_datagram(from, packet, now);
        self.drain_front(now);
        match route {
            Route::Machine(key) => {
                assert!(
                    self.machines.contains_key(&key),
                    "the front routes to {key:?}, which is gone"
                );
                self.input(key, Input::Datagram { from, packet }, now);
            }
            Route::Accept(accepted) => {
                assert_eq!(accepted.key, accepted.machine.key());
                self.insert(accepted.machine, now);
            }
            Route::Done => {}
        }
    }

    fn open_packet(&mut self, key: PathKey, from: PeerAddr, bytes: &[u8], now: Instant) {
        let Some(path) = self.paths.get_mut(&key) else {
            return;
        };
        let (machine, session) = (path.machine, path.session);
        let mut buffer = bytes.to_vec();
        let mut frames = Vec::new();
        match path.spec.codec.open(&mut buffer, &from, now) {
            Opened::Ip(range) => {
                let packet = buffer[range].to_vec();
                path.stats.rx_packets += 1;
                path.stats.rx_bytes += packet.len() as u64;
                self.delivered.push_back(Delivered {
                    machine,
                    session,
                    packet,
                });
            }
            Opened::Frame(range) => frames.push(buffer[range].to_vec()),
            Opened::Held | Opened::Consumed => {}
            Opened::Drop(reason) => {
                path.stats.dropped += 1;
                self.record(Some(machine), Seen::Event(Event::Dropped(reason)));
            }
        }
        self.release_held(key, frames, now);
    }

    /// Takes what a codec had held back, then hands all frames to the machine.
    fn release_held(&mut self, key: PathKey, mut frames: Vec<Vec<u8>>, now: Instant) {
        let Some(path) = self.paths.get_mut(&key) else {
            return;
        };
        let (machine, session) = (path.machine, path.session);
        let mut released = 0;
        while let Some(held) = path.spec.codec.release(now) {
            released += 1;
            assert!(released < DRAIN_BOUND, "the release of held packets does not end");
            match held {
                Released::Ip(packet) => {
                    path.stats.rx_packets += 1;
                    path.stats.rx_bytes += packet.len() as u64;
                    self.delivered.push_back(Delivered {
                        machine,
                        session,
                        packet: packet.to_vec(),
                    });
                }
                Released::Frame(frame) => frames.push(frame.to_vec()),
            }
        }
        for frame in frames {
            self.input(
                machine,
                Input::PathFrame {
                    session,
                    frame: &frame,
                },
                now,
            );
        }
    }

    /// Sends a user packet through a session's path; false where it has none or may not send.
    pub fn send_ip(&mut self, machine: MachineKey, session: LocalRef, packet: &[u8], now: Instant) -> bool {
        let sent = self.seal(machine, session, Payload::Ip(packet));
        if let Some(path) = self
            .sessions
            .get(&(machine, session))
            .and_then(|key| self.paths.get_mut(key))
        {
            if sent {
                path.stats.tx_packets += 1;
                path.stats.tx_bytes += packet.len() as u64;
            } else {
                path.stats.dropped += 1;
            }
        }
        self.drain(machine, now);
        sent
    }

    fn seal(&mut self, machine: MachineKey, session: LocalRef, payload: Payload<'_>) -> bool {
        let Some(path) = self
            .sessions
            .get(&(machine, session))
            .and_then(|key| self.paths.get_mut(key))
        else {
            return false;
        };
        let mut out = BytesMut::new();
        if !path.spec.codec.seal(payload, &mut out) {
            assert!(out.is_empty(), "a codec appended to the buffer and refused");
            return false;
        }
        let peer = path.spec.peer;
        self.transmit(Some(machine), peer, out.to_vec());
        true
    }

    fn transmit(&mut self, machine: Option<MachineKey>, to: PeerAddr, bytes: Vec<u8>) {
        self.record(
            machine,
            Seen::Sent {
                to,
                bytes: bytes.clone(),
            },
        );
        self.out.push_back(Packet {
            from: to.local,
            to: to.remote,
            bytes,
        });
    }

    /// The next packet to put on the wire.
    pub fn pop_out(&mut self) -> Option<Packet> {
        self.out.pop_front()
    }

    /// When something is to be done without a packet arriving.
    pub fn next_timeout(&self) -> Option<Instant> {
        let machines = self
            .machines
            .values()
            .filter_map(|machine| machine.poll_timeout());
        let paths = self
            .paths
            .values()
            .filter_map(|path| path.spec.codec.held_until());
        let front = self.front.as_ref().and_then(|front| front.poll_timeout());
        let answers = self.answers.keys().next().map(|&(at, _)| at);
        machines.chain(paths).chain(front).chain(answers).min()
    }

    /// Sets the node's clock and does everything that is due.
    pub fn advance(&mut self, clock: Clock) {
        self.clock = clock;
        let now = clock.now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        while self.answers.keys().next().is_some_and(|&(at, _)| at <= now) {
            let Some((_, (machine, session, answer))) = self.answers.pop_first() else {
                break;
            };
            let input = match answer {
                Answer::Admission(verdict) => Input::Admission {
                    session,
                    verdict,
                    verifiable: Default::default(),
                },
                Answer::Verdict(verdict) => Input::AuthVerdict { session, verdict },
            };
            self.input(machine, input, now);
        }
        if let Some(front) = &mut self.front
            && due(front.poll_timeout())
        {
            front.handle_timeout(now);
            self.drain_front(now);
        }
        for key in self.machines() {
            if let Some(machine) = self.machines.get_mut(&key)
                && due(machine.poll_timeout())
            {
                machine.handle_timeout(now);
                self.drain(key, now);
            }
        }
        let held = self
            .paths
            .iter()
            .filter(|(_, path)| due(path.spec.codec.held_until()));
        let keys: Vec<PathKey> = held.map(|(&key, _)| key).collect();
        for key in keys {
            self.release_held(key, Vec::new(), now);
        }
    }

    /// The drain rule: packets and events in turn until neither is left.
    fn drain(&mut self, key: MachineKey, now: Instant) {
        let mut rounds = 0;
        loop {
            let Some(machine) = self.machines.get_mut(&key) else {
                return;
            };
            let mut out = BytesMut::new();
            let sent = machine.poll_transmit(now, &mut out);
            let event = machine.poll_event();
            if sent.is_none() && event.is_none() {
                break;
            }
            if let Some(transmit) = sent {
                self.carry_out(Some(key), transmit, &out);
            }
            if let Some(event) = event {
                self.handle_event(key, event, now);
            }
            rounds += 1;
            assert!(rounds < DRAIN_BOUND, "the drain of {key:?} does not end");
        }
        if self
            .machines
            .get(&key)
            .is_some_and(|machine| machine.is_drained())
        {
            self.record(Some(key), Seen::MachineGone);
            self.forget(key, now);
        }
    }

    fn drain_front(&mut self, now: Instant) {
        let mut rounds = 0;
        loop {
            let Some(front) = &mut self.front else {
                return;
            };
            let mut out = BytesMut::new();
            let sent = front.poll_transmit(now, &mut out);
            let event = front.poll_event();
            if sent.is_none() && event.is_none() {
                return;
            }
            if let Some(transmit) = sent {
                self.carry_out(None, transmit, &out);
            }
            if let Some(event) = event {
                let allowed = matches!(
                    event,
                    Event::Dropped(_) | Event::Counted(_) | Event::Notice { .. }
                );
                assert!(allowed, "a front may not give {event:?}");
                self.record(None, Seen::Event(event));
            }
            rounds += 1;
            assert!(rounds < DRAIN_BOUND, "the drain of the front does not end");
        }
    }

    fn carry_out(&mut self, machine: Option<MachineKey>, transmit: Transmit, out: &[u8]) {
        assert_eq!(
            transmit.length,
            out.len(),
            "the length of a transmit is not what was appended"
        );
        match transmit.via {
            Via::Socket(peer) => self.transmit(machine, peer, out.to_vec()),
            Via::Path(session) => {
                let machine = machine.expect("a front has no paths");
                assert!(
                    self.sessions.contains_key(&(machine, session)),
                    "{machine:?} sends through the path of {session:?}, which is not installed"
                );
                self.seal(machine, session, Payload::Frame(out));
            }
            Via::Channel(channel) => panic!("a machine of datagrams sends through {channel:?}"),
        }
    }

    fn handle_event(&mut self, machine: MachineKey, event: Event, now: Instant) {
        let seen = match event {
            Event::InstallPath { session, path } => self.install(machine, session, *path),
            Event::UpdatePath { session, update } => self.update(machine, session, update),
            Event::RemovePath { session } => {
                let key = self.sessions.remove(&(machine, session));
                let path = key
                    .and_then(|key| self.paths.remove(&key))
                    .expect("a path to remove");
                Seen::PathRemoved {
                    session,
                    stats: path.stats,
                }
            }
            Event::SessionOpening { session, call } => {
                let verdict = (self.policy.admit)(&call);
                if let Err(refusal) = verdict {
                    self.record(Some(machine), Seen::Refused { session, refusal });
                }
                self.answer(
                    machine,
                    session,
                    Answer::Admission(verdict),
                    now + self.policy.admission_delay,
                );
                Seen::Event(Event::SessionOpening { session, call })
            }
            Event::AuthRequested { session, request } => {
                let verdict = (self.policy.judge)(&request);
                self.answer(
                    machine,
                    session,
                    Answer::Verdict(verdict),
                    now + self.policy.judging_delay,
                );
                Seen::Event(Event::AuthRequested { session, request })
            }
            other => Seen::Event(other),
        };
        self.record(Some(machine), seen);
    }

    fn answer(&mut self, machine: MachineKey, session: LocalRef, answer: Answer, at: Instant) {
        self.asked += 1;
        self.answers.insert((at, self.asked), (machine, session, answer));
    }

    fn install(&mut self, machine: MachineKey, session: LocalRef, spec: PathSpec) -> Seen {
        let seen = Seen::PathInstalled {
            session,
            key: spec.key,
            peer: spec.peer,
            filter: spec.filter.clone(),
            mtu: spec.mtu,
        };
        let key = spec.key;
        let path = Path {
            machine,
            session,
            spec,
            stats: PathStats::default(),
        };
        assert!(
            self.paths.insert(key, path).is_none(),
            "two paths have the key {key:?}"
        );
        self.sessions.insert((machine, session), key);
        seen
    }

    fn update(&mut self, machine: MachineKey, session: LocalRef, update: PathUpdate) -> Seen {
        let key = self.sessions.get(&(machine, session));
        let path = key
            .and_then(|key| self.paths.get_mut(key))
            .expect("a path to update");
        match &update {
            PathUpdate::Filter(filter) => path.spec.filter = filter.clone(),
            PathUpdate::Mtu(mtu) => path.spec.mtu = *mtu,
            PathUpdate::Peer(peer) => {
                path.spec.peer = *peer;
                path.spec.codec.set_peer(*peer);
            }
            PathUpdate::Sequencing(on) => path.spec.codec.set_sequencing(*on),
        }
        Seen::PathUpdated { session, update }
    }

    fn forget(&mut self, key: MachineKey, now: Instant) {
        self.machines.remove(&key);
        self.answers.retain(|_, (machine, _, _)| *machine != key);
        self.paths.retain(|_, path| path.machine != key);
        self.sessions.retain(|(machine, _), _| *machine != key);
        if let Some(front) = &mut self.front {
            front.release(key, now);
        }
    }

    fn record(&mut self, machine: Option<MachineKey>, what: Seen) {
        self.log.push(self.clock.elapsed(), machine, what);
    }
}
