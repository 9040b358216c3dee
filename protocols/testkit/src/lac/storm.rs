//! Thousands of clients at once over real sockets, from one thread.

use super::{CallId, Lac, LacConfig, LacEvent, Learned, echo, wire};
use crate::Seeded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Datagrams read from one socket before timers and the other sockets have their turn.
const READ_BUDGET: usize = 256;
/// Asked of the kernel for each socket, so that a burst of answers is not lost on our side.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Longest sleep: an upper bound on the error of the limits.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// Time allowed for closing all tunnels.
const CLOSING: Duration = Duration::from_secs(10);
/// Largest datagram read.
const DATAGRAM: usize = 65_536;
/// Pauses before a client that failed dials again: the first, which doubles from there, and the longest.
const REDIAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// Echo requests to a client's own session before it counts as not served, and the time for each answer.
const CHECKS: (usize, Duration) = (3, Duration::from_secs(1));
/// Echo requests of a check that may wait for their answers at once, and how long for: the queue of a TUN device holds
/// 500 packets, and what comes in one burst beyond that is lost on the server's side.
const CHECK_WINDOW: (usize, Duration) = (256, Duration::from_millis(20));
/// Identifiers of echo requests, by their purpose.
const PROBE: u16 = 1;
const CHECK: u16 = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct StormConfig {
    /// Address of the LNS.
    pub server: SocketAddr,
    /// Tunnels; each has [`LacConfig::calls`] calls.
    pub tunnels: u16,
    /// Sockets, each with a port of its own, over which the tunnels are spread.
    pub sockets: usize,
    /// Local address; `None`: the kernel's choice.
    pub local: Option<IpAddr>,
    /// Time over which the tunnels are started evenly; zero: all at once.
    pub ramp: Duration,
    /// Longest time until all calls must be up or failed, from the start.
    pub limit: Duration,
    /// How long the calls are held before they are ended.
    pub hold: Duration,
    /// Whether tunnels are ended by StopCCN; otherwise they just fall silent.
    pub close: bool,
    /// Seed of identifiers and challenges.
    pub seed: u64,
    /// How each LAC behaves; [`LacConfig::first_call`] is moved on for each tunnel.
    pub lac: LacConfig,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StormReport {
    /// Calls asked for.
    pub calls: usize,
    /// Calls that came up.
    pub up: usize,
    /// Calls that did not come up, by reason.
    pub failed: BTreeMap<String, usize>,
    /// Attempts that failed and were followed by another, by reason.
    pub redialled: BTreeMap<String, usize>,
    /// Calls that were up and ended before they were told to, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Tunnels ended at the end that the LNS acknowledged.
    pub closed: usize,
    /// Time from the start of its tunnel to its being up, for each call that came up, ascending.
    pub times: Vec<Duration>,
    /// Time from the start of the first tunnel until the last call was up.
    pub elapsed: Duration,
    /// Datagrams sent and received until then.
    pub datagrams: (u64, u64),
    /// Control messages sent more than once.
    pub retransmissions: u64,
    /// Datagrams that the kernel refused to send.
    pub send_errors: u64,
    /// IP packets that clients received.
    pub ip_packets: u64,
}

impl StormReport {
    /// Calls that came up for each second of [`StormReport::elapsed`].
    pub fn rate(&self) -> f64 {
        if self.elapsed.is_zero() {
            0.0
        } else {
            self.up as f64 / self.elapsed.as_secs_f64()
        }
    }

    /// The time within which this share of the calls, 0 to 1, came up; zero where none did.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = (share * self.times.len() as f64).ceil() as usize;
        self.times
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }
}

/// What came of probing one client while it was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// Echo requests sent.
    pub sent: u64,
    /// Those that were answered.
    pub answered: u64,
    /// The longest time without an answer.
    pub longest_gap: Duration,
}

struct Probing {
    report: ProbeReport,
    /// When the last answer came.
    heard: Instant,
}

/// What is known of one call.
#[derive(Clone, Default)]
struct Note {
    /// It came up at some time.
    was_up: bool,
    /// Its own address and that of the gateway, while it is up.
    addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Its last echo request was answered.
    answered: bool,
}

struct Slot {
    lac: Lac,
    socket: usize,
    started: Instant,
    calls: Vec<Note>,
    attempts: u16,
    /// It failed, and dials again once the tunnel has ended.
    again: bool,
    redial_at: Option<Instant>,
    /// The earliest entry of this slot among the timers.
    armed: Option<Instant>,
}

/// The clients and their sockets: [`Storm::set_up`], [`Storm::hold`] or [`Storm::hold_probing`], [`Storm::check`] and
/// [`Storm::end`] are called in turn, so that the server can be measured in between.
pub struct Storm {
    config: StormConfig,
    sockets: Vec<UdpSocket>,
    /// For packets of a script that are to come from another port.
    stray: UdpSocket,
    /// By tunnel id less one.
    slots: Vec<Slot>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    report: StormReport,
    finished: usize,
    over: usize,
    is_set_up: bool,
    ending: bool,
    last_up: Instant,
    buffer: Vec<u8>,
    redials: u16,
    probing: Option<Probing>,
    /// Echo requests of a check that wait for their answers.
    unanswered: usize,
}

/// Runs a storm to its end.
pub fn run(config: StormConfig) -> io::Result<StormReport> {
    let mut storm = Storm::new(config)?;
    storm.set_up()?;
    storm.hold()?;
    storm.end()
}

fn open_socket(config: &StormConfig) -> io::Result<UdpSocket> {
    let any: IpAddr = match config.server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((config.local.unwrap_or(any), 0))?;
    socket.connect(config.server)?;
    socket.set_nonblocking(true)?;
    grow_buffer(&socket);
    Ok(socket)
}

/// Asks for a large receive buffer: beyond the kernel's limit where we may (CAP_NET_ADMIN), up to it elsewhere. A
/// burst that finds it too small anyway shows in the report as retransmissions and times of over 3 s.
pub fn grow_buffer(socket: &UdpSocket) {
    if sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
    }
}

impl Storm {
    /// Opens the sockets.
    pub fn new(config: StormConfig) -> io::Result<Self> {
        let sockets: Vec<UdpSocket> = (0..config.sockets.max(1))
            .map(|_| open_socket(&config))
            .collect::<io::Result<_>>()?;
        let calls = usize::from(config.tunnels) * config.lac.calls;
        Ok(Self {
            stray: open_socket(&config)?,
            sockets,
            slots: Vec::with_capacity(usize::from(config.tunnels)),
            timers: BinaryHeap::new(),
            report: StormReport {
                calls,
                ..StormReport::default()
            },
            finished: 0,
            over: 0,
            is_set_up: false,
            ending: false,
            last_up: Instant::now(),
            buffer: vec![0; DATAGRAM],
            redials: 0,
            probing: None,
            unanswered: 0,
            config,
        })
    }

    /// Lets clients that fail dial again up to so many times, as real ones do. It is for tunnels of one call: the
    /// tunnel is ended, and another takes its place.
    pub fn redial(&mut self, times: u16) {
        self.redials = times;
    }

    /// Starts all clients and waits until each is up or has failed, or the limit is over.
    pub fn set_up(&mut self) -> io::Result<()> {
        let start = Instant::now();
        self.last_up = start;
        let limit = start + self.config.limit;
        let tunnels = usize::from(self.config.tunnels);
        while self.finished < self.report.calls {
            let now = Instant::now();
            if now >= limit {
                break;
            }
            let elapsed = (now - start).as_secs_f64();
            let due = match self.config.ramp.as_secs_f64() {
                ramp if ramp > 0.0 => ((elapsed / ramp * tunnels as f64) as usize + 1).min(tunnels),
                _ => tunnels,
            };
            // A few at a time, so that answers are read while others are still being started.
            let due = due.min(self.slots.len() + 32);
            let more = due < tunnels && self.config.ramp.is_zero();
            while self.slots.len() < due {
                self.start_one(Instant::now());
            }
            let ramp_step = self.config.ramp / u32::from(self.config.tunnels.max(1));
            let sleep = if more {
                Duration::ZERO
            } else if due < tunnels {
                ramp_step.min(MAX_SLEEP)
            } else {
                MAX_SLEEP.min(limit.saturating_duration_since(now))
            };
            self.turn(sleep)?;
        }
        self.is_set_up = true;
        self.report.elapsed = self.last_up - start;
        self.report.times.sort();
        let unfinished = self.report.calls - self.finished;
        if unfinished > 0 {
            *self.report.failed.entry("not_up_in_time".into()).or_default() += unfinished;
        }
        Ok(())
    }

    fn start_one(&mut self, now: Instant) {
        let number = self.slots.len();
        let lac = self.dial(number, 0, now);
        let socket = number % self.sockets.len();
        self.slots.push(Slot {
            lac,
            socket,
            started: now,
            calls: vec![Note::default(); self.config.lac.calls],
            attempts: 0,
            again: false,
            redial_at: None,
            armed: None,
        });
        self.after(number);
    }

    /// Each attempt has a tunnel id of its own.
    fn dial(&self, number: usize, attempt: u16, now: Instant) -> Lac {
        let mut config = self.config.lac.clone();
        config.first_call += number * config.calls;
        let tunnel = self.config.tunnels * attempt + number as u16 + 1;
        let mut random = Seeded::new(self.config.seed.wrapping_add(u64::from(tunnel)));
        Lac::dial(Arc::new(config), tunnel, random.split(), now)
    }

    fn may_redial(&self, attempts: u16) -> bool {
        let ids = self.config.tunnels.checked_mul(attempts + 2);
        attempts < self.redials && self.config.lac.calls == 1 && ids.is_some()
    }

    fn dial_again(&mut self, number: usize, now: Instant) {
        let attempt = self.slots[number].attempts + 1;
        let lac = self.dial(number, attempt, now);
        let slot = &mut self.slots[number];
        self.report.retransmissions += slot.lac.retransmissions();
        slot.lac = lac;
        slot.attempts = attempt;
        (slot.again, slot.redial_at) = (false, None);
    }

    /// Keeps the calls up for as long as configured.
    pub fn hold(&mut self) -> io::Result<()> {
        let until = Instant::now() + self.config.hold;
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            self.turn(left.min(MAX_SLEEP))?;
        }
        Ok(())
    }

    /// Keeps the calls up for as long as configured, while the first client that is up sends an echo request to the
    /// gateway each `interval`.
    pub fn hold_probing(&mut self, interval: Duration) -> io::Result<ProbeReport> {
        let start = Instant::now();
        let until = start + self.config.hold;
        self.probing = Some(Probing {
            report: ProbeReport::default(),
            heard: start,
        });
        let mut next = start;
        loop {
            let now = Instant::now();
            if now >= until {
                break;
            }
            if now >= next {
                self.probe(now);
                // A request that could not leave in time is left out.
                next = (next + interval).max(now);
            }
            self.turn(next.min(until).saturating_duration_since(now))?;
        }
        let probing = self.probing.take();
        let mut report = probing.as_ref().map(|probing| probing.report).unwrap_or_default();
        if let Some(probing) = probing {
            report.longest_gap = report
                .longest_gap
                .max(until.saturating_duration_since(probing.heard));
        }
        Ok(report)
    }

    fn probe(&mut self, now: Instant) {
        let first = self
            .slots
            .iter()
            .position(|slot| slot.calls.iter().any(|call| call.addresses.is_some()));
        let Some(number) = first else { return };
        let call = self.slots[number]
            .calls
            .iter()
            .position(|call| call.addresses.is_some());
        let Some(probing) = &mut self.probing else { return };
        let sequence = probing.report.sent as u16;
        probing.report.sent += 1;
        self.send_echo(number, call.unwrap_or_default(), PROBE, sequence, now);
    }

    fn send_echo(&mut self, number: usize, call: usize, identifier: u16, sequence: u16, now: Instant) {
        let slot = &mut self.slots[number];
        if let Some((own, gateway)) = slot.calls[call].addresses {
            let packet = echo::request(own, gateway, identifier, sequence);
            slot.lac.send_ip(CallId(call), &packet, now);
        }
        self.after(number);
    }

    /// Has each client that is up send an echo request to the gateway, and again where no answer comes; how many got
    /// one.
    pub fn check(&mut self) -> io::Result<usize> {
        let (tries, patience) = CHECKS;
        for _ in 0..tries {
            for number in 0..self.slots.len() {
                for call in 0..self.slots[number].calls.len() {
                    let note = &self.slots[number].calls[call];
                    if note.addresses.is_some() && !note.answered {
                        self.wait_for_room()?;
                        self.unanswered += 1;
                        self.send_echo(number, call, CHECK, 0, Instant::now());
                    }
                }
                if number % 32 == 31 {
                    self.turn(Duration::ZERO)?;
                }
            }
            let until = Instant::now() + patience;
            while self.served() < self.up_now() && Instant::now() < until {
                self.turn(MAX_SLEEP)?;
            }
        }
        Ok(self.served())
    }

    /// Waits until fewer echo requests wait for their answers; those that waited long are taken for lost.
    fn wait_for_room(&mut self) -> io::Result<()> {
        let (window, patience) = CHECK_WINDOW;
        let until = Instant::now() + patience;
        while self.unanswered >= window {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.unanswered = 0;
            } else {
                self.turn(left)?;
            }
        }
        Ok(())
    }

    fn served(&self) -> usize {
        let calls = self.slots.iter().flat_map(|slot| &slot.calls);
        calls.filter(|call| call.answered).count()
    }

    fn up_now(&self) -> usize {
        let calls = self.slots.iter().flat_map(|slot| &slot.calls);
        calls.filter(|call| call.addresses.is_some()).count()
    }

    fn echoed(&mut self, number: usize, call: usize, identifier: u16) {
        match (identifier, &mut self.probing) {
            (PROBE, Some(probing)) => {
                let now = Instant::now();
                let gap = now - probing.heard;
                probing.report.longest_gap = probing.report.longest_gap.max(gap);
                probing.report.answered += 1;
                probing.heard = now;
            }
            (CHECK, _) => {
                self.slots[number].calls[call].answered = true;
                self.unanswered = self.unanswered.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// Calls up until now.
    pub fn up(&self) -> usize {
        self.report.up
    }

    /// Ends all tunnels, where that is configured, and gives the report.
    pub fn end(mut self) -> io::Result<StormReport> {
        self.ending = true;
        self.report.retransmissions += self
            .slots
            .iter()
            .map(|slot| slot.lac.retransmissions())
            .sum::<u64>();
        if !self.config.close {
            return Ok(self.report);
        }
        let already_over = self.over;
        let until = Instant::now() + CLOSING;
        for number in 0..self.slots.len() {
            self.slots[number].lac.close(Instant::now());
            self.after(number);
            if number % 32 == 31 {
                self.turn(Duration::ZERO)?;
            }
        }
        while self.over < self.slots.len() && Instant::now() < until {
            self.turn(MAX_SLEEP)?;
        }
        self.report.closed = self.over - already_over;
        Ok(self.report)
    }

    /// Waits for packets for `sleep` or until the next timer, and works on what came.
    fn turn(&mut self, sleep: Duration) -> io::Result<()> {
        let now = Instant::now();
        let timer = self
            .timers
            .peek()
            .map(|&Reverse((at, _))| at.saturating_duration_since(now));
        let sleep = timer.map_or(sleep, |timer| timer.min(sleep));
        let timeout = Timespec {
            tv_sec: sleep.as_secs() as i64,
            tv_nsec: i64::from(sleep.subsec_nanos()),
        };
        let ready: Vec<usize> = {
            let mut fds: Vec<PollFd<'_>> = self
                .sockets
                .iter()
                .map(|socket| PollFd::new(socket, PollFlags::IN))
                .collect();
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            (0..fds.len())
                .filter(|&at| !fds[at].revents().is_empty())
                .collect()
        };
        for socket in ready {
            self.read(socket)?;
        }
        let now = Instant::now();
        while let Some(&Reverse((at, number))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            let slot = &mut self.slots[number];
            if slot.armed == Some(at) {
                slot.armed = None;
            }
            if slot.redial_at.is_some_and(|at| at <= now) {
                self.dial_again(number, now);
            }
            let slot = &mut self.slots[number];
            // Its timer may have moved on since it was armed.
            if slot.lac.poll_timeout().is_some_and(|at| at <= now) {
                slot.lac.handle_timeout(now);
            }
            self.after(number);
        }
        Ok(())
    }

    fn read(&mut self, socket: usize) -> io::Result<()> {
        for _ in 0..READ_BUDGET {
            let length = match self.sockets[socket].recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // ICMP port unreachable: the server is not there yet, or not any more. Timers deal with it.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            self.report.datagrams.1 += u64::from(!self.is_set_up);
            let Some(tunnel) = self.buffer.get(..length).and_then(wire::tunnel_of) else {
                continue;
            };
            let Some(number) = tunnel.checked_sub(1) else {
                continue;
            };
            let number = usize::from(number % self.config.tunnels.max(1));
            let Some(slot) = self.slots.get_mut(number).filter(|slot| slot.socket == socket) else {
                continue;
            };
            slot.lac.handle_datagram(&self.buffer[..length], Instant::now());
            self.after(number);
        }
        Ok(())
    }

    /// Sends what a LAC has to send, books its events and arms its timer.
    fn after(&mut self, number: usize) {
        self.transmit(number);
        while let Some(event) = self.slots[number].lac.poll_event() {
            self.book(number, event);
        }
        if self.slots[number].again {
            self.slots[number].lac.close(Instant::now());
            self.transmit(number);
        }
        let slot = &mut self.slots[number];
        let next = [slot.lac.poll_timeout(), slot.redial_at]
            .into_iter()
            .flatten()
            .min();
        if let Some(at) = next.filter(|&at| slot.armed.is_none_or(|armed| at < armed)) {
            slot.armed = Some(at);
            self.timers.push(Reverse((at, number)));
        }
    }

    fn transmit(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        while let Some(packet) = slot.lac.poll_transmit() {
            let socket = if packet.other_port {
                &self.stray
            } else {
                &self.sockets[slot.socket]
            };
            self.report.datagrams.0 += u64::from(!self.is_set_up);
            self.report.send_errors += u64::from(socket.send(&packet.bytes).is_err());
        }
    }

    fn book(&mut self, number: usize, event: LacEvent) {
        let slot = &mut self.slots[number];
        match event {
            LacEvent::CallUp {
                call: CallId(call),
                learned,
            } => {
                slot.calls[call].was_up = true;
                slot.calls[call].addresses = addresses(&learned);
                self.finished += 1;
                self.report.up += 1;
                self.last_up = Instant::now();
                self.report.times.push(self.last_up - slot.started);
            }
            LacEvent::CallDown { .. } if self.ending => {}
            LacEvent::CallDown {
                call: CallId(call),
                reason,
            } if slot.calls[call].was_up => {
                slot.calls[call] = Note {
                    was_up: true,
                    ..Note::default()
                };
                *self.report.lost.entry(reason).or_default() += 1;
            }
            LacEvent::CallDown { reason, .. } => self.failed(number, reason),
            LacEvent::TunnelDown { .. } if slot.again && !self.ending => {
                let pause = REDIAL.0.saturating_mul(1 << slot.attempts.min(8)).min(REDIAL.1);
                slot.redial_at = Some(Instant::now() + pause);
            }
            LacEvent::TunnelDown { .. } => self.over += 1,
            LacEvent::Ip {
                call: CallId(call),
                packet,
            } => {
                self.report.ip_packets += 1;
                if let Some((identifier, _)) = echo::reply(&packet) {
                    self.echoed(number, call, identifier);
                }
            }
            LacEvent::TunnelUp => {}
        }
    }

    fn failed(&mut self, number: usize, reason: String) {
        if self.may_redial(self.slots[number].attempts) {
            self.slots[number].again = true;
            *self.report.redialled.entry(reason).or_default() += 1;
        } else {
            self.finished += 1;
            *self.report.failed.entry(reason).or_default() += 1;
        }
    }
}

fn addresses(learned: &Learned) -> Option<(Ipv4Addr, Ipv4Addr)> {
    learned.ipv4.zip(learned.gateway)
}
