//! The relay of datagrams between one client and its targets, on the thread of the shard that owns it. It knows no
//! protocol and no policy.
//!
//! * [`DatagramPool`] is what the relays of one thread share: the memory that datagrams lie in while they are worked
//!   on. A relay that waits holds none of it.
//! * [`DatagramRelay::open`] makes the client's side: a socket that takes datagrams only from the client's address,
//!   and from one port of it: the one that was stated, or that of the first datagram that can be read.
//! * [`DatagramRelay::run`] is the task of one relay. Batches are received by one call (`recvmmsg`, `UDP_GRO`), and
//!   runs of datagrams with one length and one receiver are sent as one (`sendmmsg`, `UDP_SEGMENT`).
//! * All targets of one family that are reached by one way are sent to from one socket, so that a target's view of the
//!   client does not depend on others (a mapping that is endpoint-independent: RFC 4787, 4.1). It is made when it is
//!   needed first.
//! * [`Resolve`] is asked for each new target, not for each datagram: what it decides is remembered as long as the
//!   client goes on sending there.
//! * Answers are taken from addresses and ports that the client has sent to, and have their real source in the header.
//! * [`Handle`] is what the owner keeps: exact counters, and a way to end or pause the relay, or to have it forget
//!   what was decided. [`DatagramRelay::pause`] takes it apart for a handover, and [`DatagramRelay::resume`] goes on.
//!
//! A [`Limit`] delays: while nothing is allowed, nothing is read, and datagrams wait in the socket's receive buffer,
//! where the kernel drops those that have no room. So a burst within that buffer is shaped and not torn, and a sender
//! that heeds loss or delay is slowed. As the length of a datagram is known only when it was read, a batch may take
//! more than was allowed; that is a debt, for which the limit lets nothing pass until it is paid.
//!
//! What the network reports about datagrams (ICMP) is not asked for, so it ends nothing; whether a target is there
//! the client learns as it would without a relay, by silence.

mod drops;
mod flows;
mod handle;
mod options;
mod outer;
mod parked;
mod pool;
mod sockets;
mod turns;
mod watched;

#[cfg(test)]
mod tests;

pub use drops::{Drops, Reason};
pub use handle::{Change, Handle, Stats, Traffic, Volume};
pub use options::{Decision, MAX_FLOWS, Options, Ports, Reach, Refusal, Resolve, Settings, Verdict, Way};
pub use parked::{Parked, ParkedState};
pub use pool::{DatagramPool, DatagramPoolStats};

use self::flows::Flows;
use self::handle::Meter;
use self::outer::Outer;
use self::pool::Port;
use self::sockets::canonical;
use self::turns::Turns;
use super::handle::Wish;
use super::{Limit, give_way, now, poll_timer};
use sluice_auth::Host;
use sluice_spi::{RelayCodec, RelaySpec, Target};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::Sleep;

/// How long a decision may take ([`Decision::Later`]). An owner should be quicker itself.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was received for [`Options::idle`].
    Idle,
    /// [`Options::lifetime`] is over.
    Lifetime,
    /// The owner asked for it.
    Asked,
}

/// The end of a relay. Its sockets are closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// What it has done.
    pub stats: Stats,
}

/// What a relay's task gives.
#[derive(Debug)]
pub enum Outcome {
    /// It is over.
    Ended(Box<Ended>),
    /// It was paused, as its owner asked.
    Parked(Box<Parked>),
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// The client's address and ours are not of one family.
    #[error("a client with the address {0} cannot send to {1}")]
    Family(IpAddr, IpAddr),
    /// What was parked is in a state that no relay is in.
    #[error("the parked relay is not sound")]
    Unsound,
    /// There is no socket, or no port for it ([`io::ErrorKind::AddrInUse`]).
    #[error("cannot use a socket: {0}")]
    Socket(#[from] io::Error),
}

/// How the running of a relay stopped.
enum Stop {
    Over(Cause),
    Pause,
}

/// What was decided about the target with these octets.
type Decided = (Box<[u8]>, Verdict);

/// A relay of the datagrams of one client.
pub struct DatagramRelay {
    /// The client's side.
    inner: Port,
    outer: Outer,
    /// Where the client sends from; port 0: not known yet.
    client: SocketAddr,
    codec: Box<dyn RelayCodec>,
    resolve: Rc<dyn Resolve>,
    flows: Flows,
    decisions: Option<JoinSet<Decided>>,
    /// When flows are looked through for those that are over.
    sweep_at: Option<Instant>,
    pool: Rc<DatagramPool>,
    meter: Rc<Meter>,
    settings: Rc<Settings>,
    up: Option<Box<dyn Limit>>,
    down: Option<Box<dyn Limit>>,
    /// How long it may be silent before anything was decided.
    idle: Option<Duration>,
    /// What its targets say of that.
    patience: Option<Option<Duration>>,
    began: Instant,
    lifetime: Option<Duration>,
}

impl fmt::Debug for DatagramRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.meter.stats();
        f.debug_struct("DatagramRelay")
            .field("local", &self.local_addr())
            .field("stats", &stats)
            .finish_non_exhaustive()
    }
}

impl DatagramRelay {
    /// A relay for a client that sends to our address `local`, in the runtime that runs on this thread. Gives the
    /// address to tell the client too, for an owner that does not know a better one. It moves nothing before
    /// [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// Where the client cannot send there, or there is no socket or no port.
    pub fn open(
        spec: RelaySpec,
        local: IpAddr,
        pool: &Rc<DatagramPool>,
        resolve: Rc<dyn Resolve>,
        options: Options,
    ) -> Result<(Self, SocketAddr), DatagramError> {
        let (client, local) = (canonical(spec.client), local.to_canonical());
        if client.is_ipv4() != local.is_ipv4() {
            return Err(DatagramError::Family(client.ip(), local));
        }
        let socket = pool.with_entropy(|entropy| sockets::for_client(local, &options.settings, entropy))?;
        let now = now();
        let meter = Meter::new(client, Traffic::default(), Traffic::default(), now);
        let relay = Self {
            inner: Port::new(socket)?,
            outer: Outer::default(),
            client,
            codec: spec.codec,
            resolve,
            flows: Flows::default(),
            decisions: None,
            sweep_at: None,
            pool: pool.clone(),
            meter,
            settings: options.settings,
            up: options.up,
            down: options.down,
            idle: options.idle,
            patience: None,
            began: now,
            lifetime: options.lifetime,
        };
        let local = relay.local_addr();
        Ok((relay, local))
    }

    /// Goes on with a relay that was paused, possibly by another process, with a new codec for the same client. The
    /// time between does not count. Addresses that the client has sent to may answer, in full; targets are decided
    /// about anew.
    ///
    /// # Errors
    ///
    /// Where the state is not sound, or a descriptor is no socket that the runtime takes.
    pub fn resume(
        parked: Parked,
        codec: Box<dyn RelayCodec>,
        pool: &Rc<DatagramPool>,
        resolve: Rc<dyn Resolve>,
        options: Options,
    ) -> Result<Self, DatagramError> {
        let (state, now) = (parked.state, now());
        let settings = options.settings;
        let inner = Port::new(sockets::adopt(parked.client, &settings)?)?;
        if inner.socket().local_addr().is_ipv4() != state.client.is_ipv4() {
            return Err(DatagramError::Unsound);
        }
        let mut outer = Outer::default();
        for descriptor in parked.targets {
            if !outer.adopt(sockets::adopt(descriptor, &settings)?)? {
                return Err(DatagramError::Unsound);
            }
        }
        let mut flows = Flows::default();
        for peer in state.peers {
            flows.note_peer(peer, &settings, now);
        }
        let active = now.checked_sub(state.silent).unwrap_or(now);
        Ok(Self {
            inner,
            outer,
            client: state.client,
            codec,
            resolve,
            sweep_at: (!flows.is_empty()).then_some(now),
            flows,
            decisions: None,
            pool: pool.clone(),
            meter: Meter::new(state.client, state.up, state.down, active),
            settings,
            up: options.up,
            down: options.down,
            idle: options.idle,
            patience: None,
            began: now.checked_sub(state.age).unwrap_or(now),
            lifetime: options.lifetime,
        })
    }

    /// Where the client sends to.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.socket().local_addr()
    }

    /// What the owner keeps.
    pub fn handle(&self) -> Handle {
        Handle(self.meter.clone())
    }

    /// Takes the relay apart for a handover. What waits for a decision is dropped.
    pub fn pause(mut self) -> Parked {
        let now = now();
        let peers = self.flows.peers(&self.settings, now).collect();
        self.give_up();
        let stats = self.meter.stats();
        Parked {
            client: self.inner.into_socket().into(),
            targets: self.outer.into_descriptors(),
            state: ParkedState {
                client: self.client,
                up: stats.up,
                down: stats.down,
                peers,
                silent: now.saturating_duration_since(stats.active),
                age: now.saturating_duration_since(self.began),
            },
        }
    }

    /// Relays until it is over, or paused by its [`Handle`]. To be run on the thread whose pool it has, within a
    /// [`LocalSet`](tokio::task::LocalSet); it gives way to other tasks often.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function would hold the relay twice"
    )]
    pub fn run(mut self) -> impl Future<Output = Outcome> {
        async move {
            let stop = {
                let mut timer = pin!(None);
                std::future::poll_fn(|cx| self.poll(timer.as_mut(), cx)).await
            };
            match stop {
                Stop::Over(cause) => Outcome::Ended(Box::new(self.end(cause))),
                Stop::Pause => Outcome::Parked(Box::new(self.pause())),
            }
        }
    }

    fn poll(&mut self, timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Stop> {
        match self.meter.poll_wish(cx) {
            None => {}
            Some(Wish::End) => return Poll::Ready(Stop::Over(Cause::Asked)),
            Some(Wish::Pause) => return Poll::Ready(Stop::Pause),
        }
        if let Some(change) = self.meter.take_change() {
            (self.idle, self.lifetime) = (change.idle, change.lifetime);
            (self.up, self.down) = (change.up, change.down);
        }
        let now = now();
        self.tidy(now);
        let turns = self.turns(now, cx);
        if let Some(cause) = self.overdue(now) {
            return Poll::Ready(Stop::Over(cause));
        }
        let timer_is_due = match self.next_deadline(turns) {
            Some(deadline) => poll_timer(timer, deadline, cx),
            None => false,
        };
        if timer_is_due || turns.busy {
            give_way(cx);
        }
        Poll::Pending
    }

    /// Forgets what is asked to be forgotten, or over.
    fn tidy(&mut self, now: Instant) {
        if self.meter.take_forget() {
            self.decisions = None;
            let resolve = &self.resolve;
            // Who may still be sent to may go on answering; a peer that only its name makes so has to wait.
            let may_stay = |peer: SocketAddr| {
                let host = Host::Address(peer.ip());
                let decision = resolve.decide(Target {
                    host,
                    port: peer.port(),
                });
                matches!(decision, Decision::Now(Ok(_)))
            };
            let waited = self.flows.forget(may_stay);
            self.meter.note_drops(Reason::Backlog, waited);
        }
        if self.codec.held_until().is_some_and(|until| until <= now) {
            let parts = self.codec.expire(now);
            self.meter.note_drops(Reason::Fragment, parts as u64);
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.flows.sweep(&self.settings, now);
            self.sweep_at = None;
        }
        if self.sweep_at.is_none() && !self.flows.is_empty() {
            // Twice within the time, so that what is over takes no memory for long.
            let pause = (self.settings.flow_idle / 2).max(MIN_SWEEP);
            self.sweep_at = now.checked_add(pause);
        }
    }

    fn overdue(&self, now: Instant) -> Option<Cause> {
        let is_over = |since: Instant, time: Option<Duration>| {
            time.is_some_and(|time| now.saturating_duration_since(since) >= time)
        };
        if is_over(self.began, self.lifetime) {
            return Some(Cause::Lifetime);
        }
        is_over(self.meter.active(), self.idle()).then_some(Cause::Idle)
    }

    /// How long it may be silent.
    fn idle(&self) -> Option<Duration> {
        self.patience.unwrap_or(self.idle)
    }

    fn next_deadline(&self, turns: Turns) -> Option<Instant> {
        let after = |since: Instant, time: Option<Duration>| since.checked_add(time?);
        let all = [
            after(self.meter.active(), self.idle()),
            after(self.began, self.lifetime),
            self.codec.held_until(),
            self.sweep_at,
            turns.allowed_at,
        ];
        all.into_iter().flatten().min()
    }

    /// Gives up what waits.
    fn give_up(&mut self) {
        self.decisions = None;
        let mut lost = self.flows.clear();
        let (pool, meter) = (&self.pool, &self.meter);
        lost += self
            .inner
            .give_up_rest(pool, |sent| turns::count_down(meter, &sent));
        lost += self.outer.give_up_rest(pool, meter);
        self.meter.note_drops(Reason::Backlog, lost);
    }

    fn end(mut self, cause: Cause) -> Ended {
        self.give_up();
        Ended {
            cause,
            stats: self.meter.stats(),
        }
    }
}

/// Shortest time between two looks through the flows of a relay.
const MIN_SWEEP: Duration = Duration::from_secs(1);
