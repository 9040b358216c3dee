//! What a relay does when it is woken: batches from the client, batches for it, decisions.

use super::drops::Reason;
use super::flows::{Found, MAX_PENDING, Place};
use super::handle::Meter;
use super::outer::ends;
use super::pool::{Flushed, Port, Queues, Work};
use super::sockets::{Family, canonical};
use super::{DatagramRelay, Decision, Limit, PATIENCE, Refusal, Verdict};
use crate::send::SendQueue;
use crate::sys::udp::Received;
use sluice_spi::ClientDatagram;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::task::JoinSet;

/// Batches of one direction before the other, and other tasks, have their turn.
const BATCHES: usize = 4;

/// How one direction came to a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The task is woken when it goes on.
    Waiting,
    /// There may be more to do.
    Busy,
    /// Nothing is allowed until then.
    Limited(Instant),
}

/// How all directions came to a stop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    /// In one there may be more to do.
    pub(super) busy: bool,
    /// When something is allowed again first, where a limit has stopped one.
    pub(super) allowed_at: Option<Instant>,
}

impl Turns {
    fn note(&mut self, turn: Turn) {
        match turn {
            Turn::Waiting => {}
            Turn::Busy => self.busy = true,
            Turn::Limited(until) => {
                self.allowed_at = Some(self.allowed_at.map_or(until, |first| first.min(until)));
            }
        }
    }
}

pub(super) fn count_up(meter: &Meter, sent: &Flushed) {
    meter.note(|stats| stats.up.delivered.add(sent.datagrams, sent.bytes));
    meter.note_drops(Reason::SendFailed, sent.failed);
}

pub(super) fn count_down(meter: &Meter, sent: &Flushed) {
    meter.note(|stats| stats.down.delivered.add(sent.datagrams, sent.bytes));
    meter.note_drops(Reason::SendFailed, sent.failed);
}

/// The datagrams of a train, which may be a single one, and empty.
fn datagrams<'a>(bytes: &'a [u8], received: &Received) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let each = match received.segment {
        0 => bytes.len(),
        segment => segment,
    };
    let empty = bytes.is_empty().then_some(bytes);
    bytes.chunks(each.max(1)).chain(empty)
}

/// Asks a limit for what may be read.
fn allowed(limit: &mut Option<Box<dyn Limit>>, want: usize, now: Instant) -> Result<usize, Turn> {
    let Some(limit) = limit else { return Ok(want) };
    let allowance = limit.allow(want, now);
    match allowance.bytes {
        0 => Err(Turn::Limited(allowance.retry_at)),
        bytes => Ok(bytes.min(want)),
    }
}

/// Receives a batch as far as a limit allows; gives its trains.
fn receive(
    port: &mut Port,
    limit: &mut Option<Box<dyn Limit>>,
    meter: &Meter,
    work: &mut Work,
    now: Instant,
    cx: &mut Context<'_>,
) -> Result<usize, Turn> {
    let bytes = allowed(limit, port.wanted(), now)?;
    let result = port.poll_receive(&mut work.arena, bytes, cx);
    let trains = match &result {
        Poll::Ready(Ok(trains)) => *trains,
        _ => 0,
    };
    let lengths = (0..trains).filter_map(|index| work.arena.train(index));
    let read = lengths.map(|(received, _)| received.length).sum();
    if let Some(limit) = limit {
        limit.spent(read, now);
    }
    match result {
        Poll::Pending => Err(Turn::Waiting),
        Poll::Ready(Err(_)) => {
            meter.note_drops(Reason::ReceiveFailed, 1);
            Err(Turn::Busy)
        }
        Poll::Ready(Ok(trains)) => {
            port.note_batch(trains, read);
            Ok(trains)
        }
    }
}

impl DatagramRelay {
    /// Moves what can be moved.
    pub(super) fn turns(&mut self, now: Instant, cx: &mut Context<'_>) -> Turns {
        let (pool, meter) = (&self.pool, &self.meter);
        self.inner.poll_rest(pool, cx, |sent| count_down(meter, &sent));
        self.outer.poll_rest(pool, meter, cx);
        let up = self.up_turn(now, cx);
        // After that which asks for decisions, so that the task is woken by them.
        self.take_decisions(now, cx);
        let mut turns = Turns::default();
        turns.note(up);
        for outlet in 0..self.outer.len() {
            turns.note(self.down_turn(outlet, now, cx));
        }
        turns
    }

    fn up_turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn {
        let pool = self.pool.clone();
        for _ in 0..BATCHES {
            if self.outer.is_blocked() {
                return Turn::Waiting;
            }
            if let Err(turn) = pool.with_work(|work| self.up_batch(work, now, cx)) {
                return turn;
            }
        }
        Turn::Busy
    }

    /// Relays a batch from the client.
    fn up_batch(&mut self, work: &mut Work, now: Instant, cx: &mut Context<'_>) -> Result<(), Turn> {
        let trains = receive(&mut self.inner, &mut self.up, &self.meter, work, now, cx)?;
        let Work { arena, queues } = work;
        let mut count = 0;
        for index in 0..trains {
            let Some((received, range)) = arena.train(index) else {
                continue;
            };
            let bytes = arena.bytes().get(range).unwrap_or_default();
            for datagram in datagrams(bytes, &received) {
                count += 1;
                self.relay_up(datagram, &received, queues, now);
            }
        }
        self.pool.note_received(count);
        self.outer.send(queues, &self.pool, &self.meter);
        Ok(())
    }

    pub(super) fn relay_up(
        &mut self,
        datagram: &[u8],
        received: &Received,
        queues: &mut Queues,
        now: Instant,
    ) {
        let Some(from) = received.remote.map(canonical).filter(|_| !received.truncated) else {
            return self.meter.note_drops(Reason::Truncated, 1);
        };
        if from.ip() != self.client.ip() || ![0, from.port()].contains(&self.client.port()) {
            return self.meter.note_drops(Reason::WrongSource, 1);
        }
        let opened = self.codec.open(datagram, now);
        if let ClientDatagram::Drop(reason) = opened {
            return self.meter.note(|stats| stats.drops.add_codec(reason));
        }
        self.client = from;
        self.meter.note(|stats| {
            stats.up.received.add(1, datagram.len() as u64);
            stats.client = from;
            stats.active = now;
        });
        let ClientDatagram::To { target, payload } = opened else {
            return;
        };
        let result = match self.flows.find(target, payload, &self.settings, now) {
            Found::Send(to) => self
                .outer
                .queue(to, payload, queues, &self.pool, &self.settings, now),
            Found::Drop(reason) => Err(reason),
            Found::Waits => Ok(()),
            Found::Unknown => {
                let (target, payload) = (target.into(), payload.into());
                return self.decide(target, payload, queues, now);
            }
        };
        if let Err(reason) = result {
            self.meter.note_drops(reason, 1);
        }
    }

    /// Asks about a target.
    fn decide(&mut self, octets: Box<[u8]>, payload: Box<[u8]>, queues: &mut Queues, now: Instant) {
        let target = match self.codec.target(&octets) {
            Ok(target) => target,
            Err(reason) => return self.meter.note(|stats| stats.drops.add_codec(reason)),
        };
        match self.resolve.decide(target) {
            Decision::Now(verdict) => self.settle(octets, verdict, Some(payload), queues, now),
            Decision::Later(verdict) => {
                if self.flows.pending() >= MAX_PENDING {
                    return self.meter.note_drops(Reason::Backlog, 1);
                }
                let decisions = self.decisions.get_or_insert_with(JoinSet::new);
                let decided = octets.clone();
                let task = decisions.spawn_local(async move {
                    let verdict = tokio::time::timeout(PATIENCE, verdict).await;
                    (decided, verdict.unwrap_or(Err(Refusal::Failed)))
                });
                if !self.flows.wait(octets, payload, task.id(), &self.settings) {
                    task.abort();
                    self.meter.note_drops(Reason::Backlog, 1);
                }
            }
        }
    }

    /// Does what was decided with what waited for it, and with a payload that did not have to wait.
    fn settle(
        &mut self,
        octets: Box<[u8]>,
        verdict: Verdict,
        payload: Option<Box<[u8]>>,
        queues: &mut Queues,
        now: Instant,
    ) {
        let place = self.place(verdict);
        let settled = self.flows.settle(octets, place, &self.settings, now);
        for payload in settled.datagrams.iter().chain(&payload) {
            let result = settled.to.and_then(|to| {
                let (pool, settings) = (&self.pool, &self.settings);
                self.outer.queue(to, payload, queues, pool, settings, now)
            });
            if let Err(reason) = result {
                self.meter.note_drops(reason, 1);
            }
        }
    }

    /// What a verdict means for this relay.
    fn place(&mut self, verdict: Verdict) -> Result<Place, Reason> {
        let reach = verdict.map_err(|refusal| match refusal {
            Refusal::Denied => Reason::Denied,
            Refusal::Upstream => Reason::Upstream,
            Refusal::Failed => Reason::Unresolved,
        })?;
        let outlet = self.outer.outlet(&reach.way, reach.to).ok_or(Reason::NoSocket)?;
        let idle = reach.idle.or(self.idle);
        // Where one may be silent for ever, so may all.
        self.patience = Some(
            self.patience
                .map_or(idle, |known| known.zip(idle).map(|(a, b)| a.max(b))),
        );
        Ok(Place { to: reach.to, outlet })
    }

    /// Takes the decisions that are there.
    fn take_decisions(&mut self, now: Instant, cx: &mut Context<'_>) {
        let pool = self.pool.clone();
        while let Some(decisions) = &mut self.decisions
            && !self.outer.is_blocked()
        {
            let (octets, verdict) = match decisions.poll_join_next(cx) {
                Poll::Pending => return,
                Poll::Ready(None) => {
                    self.decisions = None;
                    return;
                }
                Poll::Ready(Some(Ok(decided))) => decided,
                // Its owner's code has failed. One that was given up here has no target any more.
                Poll::Ready(Some(Err(error))) => match self.flows.target_of(error.id()) {
                    Some(octets) => (octets, Err(Refusal::Failed)),
                    None => continue,
                },
            };
            pool.with_work(|work| {
                self.settle(octets, verdict, None, &mut work.queues, now);
                self.outer.send(&mut work.queues, &self.pool, &self.meter);
            });
        }
    }

    fn down_turn(&mut self, outlet: usize, now: Instant, cx: &mut Context<'_>) -> Turn {
        let pool = self.pool.clone();
        for _ in 0..BATCHES {
            if self.inner.is_blocked() {
                return Turn::Waiting;
            }
            if let Err(turn) = pool.with_work(|work| self.down_batch(outlet, work, now, cx)) {
                return turn;
            }
        }
        Turn::Busy
    }

    /// Relays a batch for the client.
    fn down_batch(
        &mut self,
        outlet: usize,
        work: &mut Work,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(), Turn> {
        let port = self.outer.port(outlet).ok_or(Turn::Waiting)?;
        let trains = receive(port, &mut self.down, &self.meter, work, now, cx)?;
        let Work { arena, queues } = work;
        let [queue, ..] = queues;
        let mut count = 0;
        for index in 0..trains {
            let Some((received, range)) = arena.train(index) else {
                continue;
            };
            let bytes = arena.bytes().get(range).unwrap_or_default();
            count += datagrams(bytes, &received).count() as u64;
            self.relay_down(bytes, &received, queue, now);
        }
        self.pool.note_received(count);
        if queue.datagrams() > 0 {
            count_down(&self.meter, &self.inner.send(queue, &self.pool));
        }
        Ok(())
    }

    /// Takes a train from a target.
    pub(super) fn relay_down(
        &mut self,
        bytes: &[u8],
        received: &Received,
        queue: &mut SendQueue,
        now: Instant,
    ) {
        let packets = datagrams(bytes, received).count() as u64;
        let Some(from) = received.remote.map(canonical).filter(|_| !received.truncated) else {
            return self.meter.note_drops(Reason::Truncated, packets);
        };
        if !self.settings.full_cone && !self.flows.is_peer(from, &self.settings, now) {
            return self.meter.note_drops(Reason::NoFlow, packets);
        }
        self.meter.note(|stats| {
            stats.down.received.add(packets, bytes.len() as u64);
            stats.active = now;
        });
        let largest = Family::of(self.client).largest();
        for payload in datagrams(bytes, received) {
            let start = queue.len();
            if let Err(reason) = self.codec.seal(from, payload, queue.buffer()) {
                self.meter.note(|stats| stats.drops.add_codec(reason));
                continue;
            }
            if queue.len().saturating_sub(start) > largest {
                queue.discard(start);
                self.meter.note_drops(Reason::TooBig, 1);
            } else {
                queue.commit_any(start, ends(self.client));
            }
        }
    }
}
