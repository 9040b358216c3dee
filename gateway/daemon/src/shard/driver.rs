//! Pumping fronts and machines.

use super::connections::Outbox;
use super::peers::Peers;
use super::slots::{Slots, Ticket, Tunnel};
use super::sweep::Sweep;
use super::tap::Traced;
use super::wheel::Wheel;
use super::{Answer, Authority, Counters, Plane};
use crate::admin::Traces;
use crate::limits::Ledger;
use crate::logs::Limiter;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use sluice_auth::policy::Policy;
use sluice_auth::{Profile, RejectReason, Verdict};
use sluice_core::{Engine, Now, Origin, RestoredTunnel, SessionId, TunnelId};
use sluice_spi::{
    Accepted, Direction, Entropy, Event, Factory, Front, Input, LocalRef, Machine, MachineKey, Module, Open,
    PeerAddr, Route, Severity, ShardId, TerminateCause, Via,
};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Rounds of a drain, besides those for its sessions. A machine that still has something to say after so many is
/// broken.
pub(super) const MAX_ROUNDS: usize = 10_000;
/// Rounds of a drain for each session: what the end, or the installation, of all of a tunnel's calls at once takes.
const SESSION_ROUNDS: usize = 16;

/// Lines a second of one listener about peers that have proven nothing.
const FRONT_LINES: u32 = 5;

/// Lines a second of machines of one peer address, and addresses counted apart.
const NOTICES: u32 = 5;
const NOTICE_PEERS: usize = 1024;

/// One listener as a shard sees it.
pub struct Listener {
    /// Where its sessions come from, for the engine.
    pub origin: Origin,
    /// Its protocol.
    pub module: &'static dyn Module,
    /// Makes its machines.
    pub factory: Arc<dyn Factory>,
    /// Its half-open peers; `None`: a protocol of streams has none.
    pub front: Option<Box<dyn Front>>,
}

/// What a driver is made of.
pub struct Parts<P> {
    /// Which shard it is.
    pub shard: ShardId,
    /// The sessions of all shards.
    pub engine: Arc<Engine>,
    /// The data plane.
    pub plane: P,
    /// Who checks credentials.
    pub authority: Box<dyn Authority>,
    /// What is counted.
    pub counters: Box<dyn Counters>,
    /// Randomness for machines.
    pub entropy: Box<dyn Entropy>,
    /// Where what is seen of traced sessions goes.
    pub traces: Arc<Traces>,
    /// Who may do what.
    pub policy: Arc<ArcSwap<Policy>>,
    /// What sessions share.
    pub ledger: Arc<Ledger>,
    /// The listeners.
    pub listeners: Vec<Listener>,
}

/// The driver of one shard.
pub struct Driver<P> {
    pub(super) shard: ShardId,
    pub(super) engine: Arc<Engine>,
    pub(super) plane: P,
    pub(super) authority: Box<dyn Authority>,
    pub(super) counters: Box<dyn Counters>,
    pub(super) entropy: Box<dyn Entropy>,
    pub(super) traces: Arc<Traces>,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) listeners: Vec<Listener>,
    pub(super) slots: Slots,
    by_key: HashMap<(usize, MachineKey), u32>,
    pub(super) by_tunnel: HashMap<TunnelId, u32>,
    pub(super) by_session: HashMap<SessionId, (u32, LocalRef)>,
    pub(super) peers: Peers,
    pub(super) traced: Vec<Traced>,
    pub(super) sweep: Sweep,
    wheel: Wheel,
    dirty: VecDeque<u32>,
    buffer: BytesMut,
    lines: Limiter<usize>,
    /// The key of the next connection's machine.
    pub(super) next_connection: u32,
    pub(super) notices: Limiter<Option<IpAddr>>,
}

impl<P: Plane> Driver<P> {
    /// A driver with no machines yet.
    pub fn new(parts: Parts<P>, now: Now) -> Self {
        let lines = Limiter::new(FRONT_LINES, parts.listeners.len(), now.instant);
        Self {
            shard: parts.shard,
            engine: parts.engine,
            plane: parts.plane,
            authority: parts.authority,
            counters: parts.counters,
            entropy: parts.entropy,
            traces: parts.traces,
            policy: parts.policy,
            ledger: parts.ledger,
            listeners: parts.listeners,
            slots: Slots::default(),
            by_key: HashMap::new(),
            by_tunnel: HashMap::new(),
            by_session: HashMap::new(),
            peers: Peers::new(now.instant),
            traced: Vec::new(),
            sweep: Sweep::default(),
            wheel: Wheel::new(now.instant),
            dirty: VecDeque::new(),
            buffer: BytesMut::new(),
            lines,
            next_connection: 0,
            notices: Limiter::new(NOTICES, NOTICE_PEERS, now.instant),
        }
    }

    /// The data plane, for its owner to read and flush.
    pub fn plane(&mut self) -> &mut P {
        &mut self.plane
    }

    /// Number of machines.
    pub fn machines(&self) -> usize {
        self.slots.len()
    }

    /// Half-open peers, by listener.
    pub fn half_open(&self) -> Vec<usize> {
        let fronts = self.listeners.iter().map(|listener| listener.front.as_ref());
        fronts
            .map(|front| front.map_or(0, |front| front.half_open()))
            .collect()
    }

    /// A datagram of a listener that the data plane did not consume.
    pub fn datagram(&mut self, listener: usize, from: PeerAddr, packet: &[u8], now: Now) {
        let Some(entry) = self.listeners.get_mut(listener) else {
            return;
        };
        let Some(front) = entry.front.as_mut() else {
            return;
        };
        // A front that panics over one datagram still serves everybody else.
        let route = catch_unwind(AssertUnwindSafe(|| {
            front.handle_datagram(from, packet, now.instant)
        }));
        let route = route.unwrap_or_else(|_| {
            let (listener, peer) = (&*entry.origin.listener, from.remote);
            tracing::error!(listener, %peer, "a front panicked; please report this with the lines above");
            Route::Done
        });
        match route {
            Route::Machine(key) => {
                if let Some(&slot) = self.by_key.get(&(listener, key)) {
                    self.tap_datagram(slot, Direction::In, from, packet, now);
                    self.input(slot, Input::Datagram { from, packet }, now);
                }
            }
            Route::Accept(Accepted { key, machine }) => self.accept(listener, from, key, machine, now),
            Route::Done => {}
        }
        self.drain_front(listener, now);
    }

    /// A frame of a path that is for its machine; `slot` is what the path was installed under.
    pub fn frame(&mut self, slot: MachineKey, session: LocalRef, frame: &[u8], now: Now) {
        self.input(slot.0, Input::PathFrame { session, frame }, now);
    }

    /// The answer to a question that [`Authority::ask`] or [`Authority::accept`] took.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer, now: Now) {
        match answer {
            Answer::Profile(result) => self.judged(ticket, result, now),
            Answer::Context(answer) => self.context_answered(ticket, answer, now),
        }
    }

    /// Whether whoever asked is still there.
    pub(super) fn awaits(&self, ticket: &Ticket) -> bool {
        self.slots.generation(ticket.slot) == ticket.generation
            && self.by_session.get(&ticket.session) == Some(&(ticket.slot, ticket.local))
    }

    fn judged(&mut self, ticket: Ticket, result: Result<Profile, RejectReason>, now: Now) {
        if self.awaits(&ticket) {
            let verdict = self.authorize(ticket.slot, ticket.local, ticket.session, result, now);
            self.input(
                ticket.slot,
                Input::AuthVerdict {
                    session: ticket.local,
                    verdict,
                },
                now,
            );
        }
    }

    /// What a session is told about its peer's credentials: the backend's answer, if policy lets the user in.
    pub(super) fn authorize(
        &mut self,
        slot: u32,
        local: LocalRef,
        session: SessionId,
        answer: Result<Profile, RejectReason>,
        now: Now,
    ) -> Verdict {
        let admitted = match &answer {
            Ok(profile) => self.admit(slot, local, profile.clone(), now),
            Err(reason) => Err(*reason),
        };
        if admitted.is_ok() {
            self.note_profile(slot, local, &answer);
        }
        let verdict = self.engine.authorize(session, admitted, now);
        if let Verdict::Reject(_) = verdict {
            self.stand_down(slot, local);
        }
        verdict
    }

    /// Takes a tunnel's machine from its checkpoint. One that cannot be used is set aside by the engine. `outbox` is of
    /// the connection that it goes on with, if it is a protocol of streams. `None`: it does not go on.
    pub(super) fn restore(
        &mut self,
        listener: usize,
        restored: &RestoredTunnel,
        outbox: Option<Rc<Outbox>>,
        now: Now,
    ) -> Option<u32> {
        let entry = self.listeners.get_mut(listener)?;
        let open = Open::Restored {
            checkpoint: &restored.checkpoint,
        };
        let made = match entry
            .factory
            .machine(open, self.shard, self.entropy.fork(), now.instant)
        {
            Ok(machine) if machine.key() != restored.key => Err("it is another tunnel's".to_owned()),
            Ok(_)
                if !entry
                    .front
                    .as_mut()
                    .is_some_and(|front| front.reserve(restored.key)) =>
            {
                Err("its identifier is in use".to_owned())
            }
            Ok(machine) => Ok(machine),
            Err(error) => Err(error.to_string()),
        };
        match made {
            Ok(machine) => {
                let origin = entry.origin.clone();
                let slot = self.insert(listener, origin, restored.key, machine);
                if let Some(tunnel) = self.slots.get_mut(slot) {
                    tunnel.id = Some(restored.tunnel);
                    tunnel.outbox = outbox;
                    self.by_tunnel.insert(restored.tunnel, slot);
                }
                self.adopt_sessions(slot, restored);
                self.drain(slot, now);
                Some(slot)
            }
            Err(reason) => {
                self.engine.forget(restored.tunnel, &reason, now);
                None
            }
        }
    }

    fn accept(
        &mut self,
        listener: usize,
        from: PeerAddr,
        key: MachineKey,
        machine: Box<dyn Machine>,
        now: Now,
    ) {
        let Some(entry) = self.listeners.get(listener) else {
            return;
        };
        let origin = entry.origin.clone();
        let refused = self.engine.tunnel_opening(&origin, from, now).is_err();
        let slot = self.insert(listener, origin, key, machine);
        if refused && let Some(tunnel) = self.slots.get_mut(slot) {
            tunnel
                .machine
                .close(TerminateCause::ServiceUnavailable, now.instant);
        }
        self.drain(slot, now);
    }

    pub(super) fn insert(
        &mut self,
        listener: usize,
        origin: Origin,
        key: MachineKey,
        machine: Box<dyn Machine>,
    ) -> u32 {
        let slot = self.slots.insert(Tunnel::new(listener, origin, key, machine));
        self.name(listener, key, slot);
        slot
    }

    /// Has a machine found by its key.
    pub(super) fn name(&mut self, listener: usize, key: MachineKey, slot: u32) {
        self.by_key.insert((listener, key), slot);
    }

    /// Takes in the machine of a connection, which is found by its slot alone.
    pub(super) fn insert_connection(
        &mut self,
        listener: usize,
        origin: Origin,
        key: MachineKey,
        machine: Box<dyn Machine>,
        outbox: Rc<Outbox>,
    ) -> u32 {
        let tunnel = Tunnel {
            outbox: Some(outbox),
            ..Tunnel::new(listener, origin, key, machine)
        };
        self.slots.insert(tunnel)
    }

    /// Gives a machine an input and drains it.
    pub(super) fn input(&mut self, slot: u32, input: Input<'_>, now: Now) {
        self.give(slot, input, now);
        self.drain(slot, now);
    }

    /// Gives a machine an input without draining it, from within its drain.
    pub(super) fn give(&mut self, slot: u32, input: Input<'_>, now: Now) {
        self.guarded(slot, |machine| {
            machine.handle_input(input, now.instant).map_err(|fault| fault.0)
        });
    }

    /// Runs one step of a machine. A fault or a panic ends its tunnel and nobody else's.
    pub(super) fn guarded<R>(
        &mut self,
        slot: u32,
        step: impl FnOnce(&mut dyn Machine) -> Result<R, String>,
    ) -> Option<R> {
        let tunnel = self.slots.get_mut(slot)?;
        if tunnel.broken.is_some() {
            return None;
        }
        let machine = tunnel.machine.as_mut();
        let result = catch_unwind(AssertUnwindSafe(|| step(machine)));
        match result {
            Ok(Ok(value)) => Some(value),
            Ok(Err(fault)) => {
                tunnel.broken = Some(fault);
                None
            }
            Err(_) => {
                tunnel.broken =
                    Some("a machine panicked; please report this with the lines above".to_owned());
                None
            }
        }
    }

    /// Takes out of a machine all that it has to say, then arms its timer; removes it where it is done.
    pub(super) fn drain(&mut self, slot: u32, now: Now) {
        let sessions = self.slots.get(slot).map_or(0, |tunnel| tunnel.sessions.len());
        let rounds = MAX_ROUNDS.saturating_add(sessions.saturating_mul(SESSION_ROUNDS));
        for round in 0.. {
            let sent = self.drain_transmits(slot, now);
            let event = self.guarded(slot, |machine| Ok(machine.poll_event())).flatten();
            match event {
                Some(event) => self.event(slot, event, now),
                None if !sent => break,
                None => {}
            }
            if round >= rounds {
                self.guarded(slot, |_| {
                    Err::<(), _>("a machine did not come to rest".to_owned())
                });
            }
        }
        self.settle(slot, now);
    }

    fn drain_transmits(&mut self, slot: u32, now: Now) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut any = false;
        for _ in 0..MAX_ROUNDS {
            buffer.clear();
            let transmit = self.guarded(
                slot,
                |machine| Ok(machine.poll_transmit(now.instant, &mut buffer)),
            );
            let Some(transmit) = transmit.flatten() else { break };
            any = true;
            match transmit.via {
                Via::Socket(peer) => self.send(slot, peer, &buffer, now),
                Via::Path(local) => {
                    let path = self.slots.get(slot).and_then(|t| t.sessions.get(&local)?.path);
                    if let Some(path) = path {
                        self.plane.send_frame(path, &buffer);
                    }
                }
                Via::Channel(channel) => self.send_on_channel(slot, channel, &buffer),
            }
        }
        self.buffer = buffer;
        any
    }

    /// Sends a machine's packet, and notes where the machine's peer is.
    fn send(&mut self, slot: u32, peer: PeerAddr, packet: &[u8], now: Now) {
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        let listener = tunnel.listener;
        if tunnel.peer != Some(peer.remote) {
            let former = tunnel.peer.replace(peer.remote);
            self.peers.moved(listener, slot, former, Some(peer.remote));
        }
        self.tap_datagram(slot, Direction::Out, peer, packet, now);
        self.plane.send(listener, peer, packet);
    }

    pub(super) fn settle(&mut self, slot: u32, now: Now) {
        let Some(tunnel) = self.slots.get(slot) else {
            return;
        };
        if tunnel.broken.is_none() && !tunnel.machine.is_drained() {
            let deadline = tunnel.machine.poll_timeout();
            self.wheel.set(slot, deadline);
            return;
        }
        self.bury(slot, now);
    }

    /// Removes a machine that is done or broken, and ends what it did not end itself.
    fn bury(&mut self, slot: u32, now: Now) {
        self.end_rest(slot, now);
        let Some(tunnel) = self.forget_machine(slot) else {
            return;
        };
        self.by_key.remove(&(tunnel.listener, tunnel.key));
        self.peers.moved(tunnel.listener, slot, tunnel.peer, None);
        if let Some(listener) = self.listeners.get_mut(tunnel.listener)
            && let Some(front) = &mut listener.front
        {
            front.release(tunnel.key, now.instant);
        }
    }

    /// Takes a machine out of its slot.
    pub(super) fn forget_machine(&mut self, slot: u32) -> Option<Tunnel> {
        self.wheel.set(slot, None);
        let tunnel = self.slots.remove(slot)?;
        if let Some(outbox) = &tunnel.outbox {
            outbox.close();
        }
        Some(tunnel)
    }

    fn drain_front(&mut self, listener: usize, now: Now) {
        let Some(entry) = self.listeners.get_mut(listener) else {
            return;
        };
        let Some(front) = &mut entry.front else {
            return;
        };
        let protocol = entry.origin.protocol;
        for _ in 0..MAX_ROUNDS {
            self.buffer.clear();
            let transmit = front.poll_transmit(now.instant, &mut self.buffer);
            if let Some(transmit) = transmit
                && let Via::Socket(peer) = transmit.via
            {
                self.plane.send(listener, peer, &self.buffer);
            }
            match front.poll_event() {
                Some(Event::Dropped(reason)) => self.counters.dropped(protocol, reason.0),
                Some(Event::Counted(name)) => self.counters.counted(protocol, name),
                Some(Event::Notice { severity, text, .. }) => {
                    if let Some(permit) = self.lines.permit(listener, now.instant) {
                        front_notice(&entry.origin.listener, severity, &text, permit.held_back);
                    }
                }
                Some(_) => {}
                None if transmit.is_none() => break,
                None => {}
            }
        }
    }

    /// Runs what is due: timers of machines and fronts, and sessions whose time is over.
    pub fn timeout(&mut self, now: Now) {
        let mut due = Vec::new();
        self.wheel.advance(now.instant, &mut due);
        for slot in due {
            self.guarded(slot, |machine| {
                machine.handle_timeout(now.instant);
                Ok(())
            });
            self.drain(slot, now);
        }
        for listener in 0..self.listeners.len() {
            let Some(entry) = self.listeners.get_mut(listener) else {
                continue;
            };
            let Some(front) = &mut entry.front else {
                continue;
            };
            if front.poll_timeout().is_some_and(|at| at <= now.instant) {
                front.handle_timeout(now.instant);
                self.drain_front(listener, now);
            }
        }
        for (session, cause) in self.engine.due(self.shard, now) {
            self.terminate(session, cause, now);
        }
    }

    /// When [`Driver::timeout`] wants to be called.
    pub fn next_timeout(&self, now: Now) -> Option<Instant> {
        let fronts = self
            .listeners
            .iter()
            .filter_map(|listener| listener.front.as_ref()?.poll_timeout());
        fronts
            .chain(self.wheel.next())
            .chain(self.engine.next_due(self.shard, now))
            .min()
    }

    pub(super) fn mark_dirty(&mut self, slot: u32) {
        if let Some(tunnel) = self.slots.get_mut(slot)
            && !tunnel.dirty
        {
            tunnel.dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Whether [`Driver::checkpoint_changed`] would journal anything.
    pub fn has_changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Journals tunnels that changed since the last time, those that changed first before the others, until about
    /// `budget` sessions are in their records: more is left for the next call. Called a few times a second rather
    /// than at each change, since a record is a whole tunnel.
    pub fn checkpoint_changed(&mut self, budget: usize, now: Now) {
        let mut cost = 0;
        while cost < budget
            && let Some(slot) = self.dirty.pop_front()
        {
            cost += 1 + self.slots.get(slot).map_or(0, |tunnel| tunnel.sessions.len());
            self.checkpoint(slot, now);
        }
    }

    /// Journals all tunnels, for a restart.
    pub fn checkpoint_all(&mut self, now: Now) {
        for slot in self.slots.indexes() {
            self.give_unsent(slot, now);
            self.checkpoint(slot, now);
        }
    }

    fn checkpoint(&mut self, slot: u32, now: Now) {
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        tunnel.dirty = false;
        let Some(id) = tunnel.id else { return };
        let paths: Vec<_> = tunnel
            .sessions
            .iter()
            .filter_map(|(&local, s)| Some((local, s.path?)))
            .collect();
        for (session, path) in paths {
            if let Some(state) = self.plane.hot_state(path) {
                self.give(
                    slot,
                    Input::PathState {
                        session,
                        state: &state,
                    },
                    now,
                );
            }
        }
        if let Some(checkpoint) = self.guarded(slot, |machine| Ok(machine.checkpoint(now.instant))) {
            self.engine.checkpoint(id, checkpoint, now);
        }
    }
}

fn front_notice(listener: &str, severity: Severity, text: &str, left_out: u64) {
    match severity {
        Severity::Debug => tracing::debug!(listener, left_out, "{text}"),
        Severity::Info => tracing::info!(listener, left_out, "{text}"),
        Severity::Warning => tracing::warn!(listener, left_out, "{text}"),
    }
}
