//! Traces of single sessions: decoded messages and a packet capture, bounded in time and memory.
//!
//! Shards put in what they see while [`Traces::is_on`]; the API starts, reads and ends traces.

mod capture;

use self::capture::Packet;
use sluice_core::SessionId;
use sluice_spi::{Direction, PeerAddr};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Traces kept at once, running or ended.
pub(crate) const MAX_TRACES: usize = 16;
/// Lines kept of one trace; the newest are left out once there are so many, as the start tells most.
pub(crate) const MAX_LINES: usize = 10_000;
/// Bytes of packets kept of one trace.
pub(crate) const MAX_CAPTURE: usize = 8 << 20;
/// Longest time a trace may run.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(3600);
/// How long a trace runs where nothing is said.
pub(crate) const DEFAULT_TIME: Duration = Duration::from_secs(300);
/// How long the result of a trace that ended is kept.
pub(crate) const KEPT: Duration = Duration::from_secs(3600);

struct Line {
    at: SystemTime,
    direction: Direction,
    text: String,
}

struct Trace {
    started: SystemTime,
    until: Instant,
    stopped: bool,
    packets_wanted: bool,
    lines: Vec<Line>,
    packets: VecDeque<Packet>,
    bytes: usize,
    left_out: u64,
}

impl Trace {
    fn running(&self, now: Instant) -> bool {
        !self.stopped && now < self.until
    }
}

/// All traces.
#[derive(Default)]
pub struct Traces {
    /// Traces that may be running: lets a shard see without a lock that there is none.
    running: AtomicUsize,
    traces: Mutex<HashMap<SessionId, Trace>>,
}

/// A trace could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TraceError {
    /// The session has one that runs.
    #[error("a trace of this session is running already")]
    Running,
    /// There are too many.
    #[error("there are {MAX_TRACES} traces already: delete one that you need no more")]
    TooMany,
}

/// One decoded message.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct TraceLine {
    /// Its place in the trace, from 0.
    number: usize,
    /// When, RFC 3339 with microseconds.
    time: String,
    /// `in`: from the peer; `out`: to it.
    direction: &'static str,
    /// The message in words, without secrets.
    text: String,
}

/// A trace as far as it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Trace)]
pub(crate) struct TraceView {
    session: String,
    /// `running` or `ended`.
    state: &'static str,
    started: String,
    /// Seconds left.
    remaining: u64,
    /// Lines and packets that found no room.
    left_out: u64,
    /// Packets captured.
    packets: usize,
    /// Decoded messages from the one asked for on.
    lines: Vec<TraceLine>,
    /// The `after` to ask with for what comes next.
    next: usize,
}

impl Traces {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Trace>> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, traces: &mut HashMap<SessionId, Trace>, now: Instant) {
        traces.retain(|_, trace| now < trace.until + KEPT);
        let running = traces.values().filter(|trace| trace.running(now)).count();
        self.running.store(running, Ordering::Relaxed);
    }

    /// Whether a session is traced: cheap where none is.
    pub fn is_on(&self, session: SessionId, now: Instant) -> bool {
        self.running.load(Ordering::Relaxed) > 0
            && self.lock().get(&session).is_some_and(|trace| trace.running(now))
    }

    /// Starts a trace. A former one of the session is replaced.
    pub(crate) fn start(
        &self,
        session: SessionId,
        time: Duration,
        packets: bool,
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), TraceError> {
        let mut traces = self.lock();
        self.count(&mut traces, now);
        match traces.get(&session) {
            Some(trace) if trace.running(now) => return Err(TraceError::Running),
            None if traces.len() >= MAX_TRACES => return Err(TraceError::TooMany),
            _ => {}
        }
        let trace = Trace {
            started: wall,
            until: now + time.min(MAX_TIME),
            stopped: false,
            packets_wanted: packets,
            lines: Vec::new(),
            packets: VecDeque::new(),
            bytes: 0,
            left_out: 0,
        };
        traces.insert(session, trace);
        self.count(&mut traces, now);
        Ok(())
    }

    /// Ends a trace; its result stays. Whether there was one.
    pub(crate) fn stop(&self, session: SessionId, now: Instant) -> bool {
        let mut traces = self.lock();
        let found = traces.get_mut(&session).map(|trace| trace.stopped = true);
        self.count(&mut traces, now);
        found.is_some()
    }

    /// Forgets a trace with its result. Whether there was one.
    pub(crate) fn delete(&self, session: SessionId, now: Instant) -> bool {
        let mut traces = self.lock();
        let found = traces.remove(&session);
        self.count(&mut traces, now);
        found.is_some()
    }

    /// Takes a decoded message of a session, which holds no secret.
    pub fn line(&self, session: SessionId, direction: Direction, text: String, now: Instant, at: SystemTime) {
        if let Some(trace) = self.lock().get_mut(&session).filter(|trace| trace.running(now)) {
            if trace.lines.len() < MAX_LINES {
                trace.lines.push(Line { at, direction, text });
            } else {
                trace.left_out = trace.left_out.saturating_add(1);
            }
        }
    }

    /// Takes a UDP datagram that belongs to a session, or to the tunnel that carries it. It is captured with IP
    /// and UDP headers made from the addresses, so that any packet analyser decodes it.
    pub fn datagram(
        &self,
        session: SessionId,
        direction: Direction,
        peer: PeerAddr,
        payload: &[u8],
        now: Instant,
        at: SystemTime,
    ) {
        let mut traces = self.lock();
        let Some(trace) = traces.get_mut(&session) else {
            return;
        };
        if !trace.running(now) || !trace.packets_wanted {
            return;
        }
        let (from, to) = match direction {
            Direction::In => (peer.remote, peer.local),
            Direction::Out => (peer.local, peer.remote),
        };
        match Packet::between(at, from, to, payload) {
            Some(packet) if trace.bytes + packet.len() <= MAX_CAPTURE => {
                trace.bytes += packet.len();
                trace.packets.push_back(packet);
            }
            _ => trace.left_out = trace.left_out.saturating_add(1),
        }
    }

    /// A trace with its lines from `after` on.
    pub(crate) fn view(
        &self,
        session: SessionId,
        after: usize,
        limit: usize,
        now: Instant,
    ) -> Option<TraceView> {
        let traces = self.lock();
        let trace = traces.get(&session)?;
        let lines: Vec<TraceLine> = trace
            .lines
            .iter()
            .enumerate()
            .skip(after)
            .take(limit)
            .map(|(number, line)| TraceLine {
                number,
                time: capture::precise_time(line.at),
                direction: match line.direction {
                    Direction::In => "in",
                    Direction::Out => "out",
                },
                text: line.text.clone(),
            })
            .collect();
        let running = trace.running(now);
        Some(TraceView {
            session: session.to_string(),
            state: if running { "running" } else { "ended" },
            started: super::views::time(trace.started),
            remaining: if running { (trace.until - now).as_secs() } else { 0 },
            left_out: trace.left_out,
            packets: trace.packets.len(),
            next: after.min(trace.lines.len()) + lines.len(),
            lines,
        })
    }

    /// The packets of a trace as a pcap file.
    pub(crate) fn capture(&self, session: SessionId) -> Option<Vec<u8>> {
        let traces = self.lock();
        Some(capture::file(&traces.get(&session)?.packets))
    }
}

#[cfg(test)]
mod tests;
