//! The relay of bytes between two connected TCP streams, on the thread of the shard that owns them. It knows no
//! protocol and no policy.
//!
//! * [`Pool`] is what the relays of one thread share: one buffer, and a bounded number of pipes.
//! * [`Relay::run`] is the task of one relay. Small messages are copied through the thread's buffer: one read, one
//!   write. Bulk streams are spliced through a pipe of the pool, without a copy, as long as there is something to
//!   read and a pipe. A relay that waits holds neither; a rest that the receiver did not take is kept, at most
//!   [`BUFFER`] bytes or a pipe's, and until it is gone nothing more is read.
//! * Each direction ends by itself: the end of a stream (FIN) goes to the other side after the last byte. A reset
//!   (RST) stays a reset, so that no error looks like a good end.
//! * [`Handle`] is what the owner keeps: exact counters, and a way to end or pause the relay.
//! * [`Relay::pause`] takes a relay apart for a handover, and [`Relay::resume`] goes on with it in another process,
//!   byte for byte.
//! * A [`StreamCodec`] takes the payload out of what the client sends, and makes of payload what the client is sent.
//!   Counters are of payload, limits of what is read. Such a relay copies, and ends where it would be paused, as what its
//!   codec knows cannot be handed over.
//! * [`Limit`] bounds a direction's rate, with [`Bucket`] and [`Share`] for limits that several relays share.
//!
//! Urgent data (RFC 9293, 3.8.5) loses its urgency. The socket's owner may set `SO_OOBINLINE`, so that the urgent
//! byte itself is not lost.

mod coding;
pub mod datagrams;
mod flow;
mod handle;
mod limit;
mod parked;
mod pool;

#[cfg(test)]
mod tests;

pub use handle::{Change, Handle, Octets, Stats};
pub use limit::{Allowance, Bucket, Limit, MIN_BURST, Share, SharedBucket, Shares};
pub use parked::{MAX_UNSENT, Parked, ParkedFlow, ParkedState};
pub use pool::{BUFFER, MAX_PIPE, Pool, PoolConfig, PoolStats};

use self::coding::Coding;
use self::flow::{Flow, Route, Turn};
use self::handle::{Meter, Wish};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sluice_spi::{DropReason, StreamCodec};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How often a connection is looked at that nothing is read from or written to, because the other side takes
/// nothing or the stream has ended: only so is a reset of it seen.
const CHECK: Duration = Duration::from_secs(10);

/// When a relay ends by itself. `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// No byte has moved in either direction for so long.
    pub idle: Option<Duration>,
    /// One side has ended its stream, and since then no byte has moved for so long. Where this is `None`, `idle`
    /// holds on.
    pub half_closed: Option<Duration>,
    /// Since the relay began.
    pub lifetime: Option<Duration>,
}

/// How a relay begins.
#[derive(Default)]
pub struct Options {
    /// When it ends by itself.
    pub timeouts: Timeouts,
    /// Bytes that were read from the client before, for the target; at most [`BUFFER`].
    pub early_up: Vec<u8>,
    /// Bytes that were read from the target before, or are to be said before its own, for the client; at most
    /// [`BUFFER`].
    pub early_down: Vec<u8>,
    /// The limit of what is read from the client.
    pub up: Option<Box<dyn Limit>>,
    /// The limit of what is read from the target.
    pub down: Option<Box<dyn Limit>>,
    /// What the client's bytes go through, `early_up` included. `early_down` is sent as it is, and is no payload.
    pub codec: Option<Box<dyn StreamCodec>>,
}

/// A side of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to the gateway.
    Client,
    /// Whom the gateway connected to.
    Target,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides ended their streams, and all was delivered.
    FinBoth,
    /// The client reset its connection.
    ResetByClient,
    /// The target reset its connection.
    ResetByTarget,
    /// Nothing moved for [`Timeouts::idle`].
    Idle,
    /// Nothing moved for [`Timeouts::half_closed`] after one side had ended.
    HalfClosed,
    /// [`Timeouts::lifetime`] is over.
    Lifetime,
    /// The owner asked for it.
    Asked,
    /// The client's stream cannot go on: its codec says why.
    Codec(DropReason),
    /// A connection failed otherwise, such as by `TimedOut` where the peer does not answer any more.
    Error(Side, io::ErrorKind),
}

/// The end of a relay. Both connections are closed: by a reset towards a side for which something was on its way
/// or may have been, and orderly after [`Cause::FinBoth`] and after silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// What was moved.
    pub stats: Stats,
}

/// What a relay's task gives.
#[derive(Debug)]
pub enum Outcome {
    /// It is over.
    Ended(Ended),
    /// It was paused, as its owner asked.
    Parked(Box<Parked>),
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// More early bytes than [`BUFFER`].
    #[error("{0} bytes before the relay began are too many")]
    Early(usize),
    /// The codec could do nothing with the early bytes. Both connections were reset.
    #[error("the client's stream cannot go on: {}", .0.0)]
    Codec(DropReason),
    /// What was parked is in a state that no relay is in.
    #[error("the parked relay is not sound")]
    Unsound,
    /// The runtime took no socket.
    #[error("cannot use a socket: {0}")]
    Socket(#[from] io::Error),
}

/// A direction, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Client to target.
    Up,
    /// Target to client.
    Down,
}

/// Where something failed, seen from a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Sender,
    Receiver,
}

/// A connection failed.
#[derive(Clone, Copy, Debug)]
struct Failure {
    place: Place,
    kind: io::ErrorKind,
    /// What the codec said.
    reason: Option<DropReason>,
}

impl Failure {
    fn new(place: Place, error: io::Error) -> Self {
        Self {
            place,
            kind: error.kind(),
            reason: None,
        }
    }

    fn cause(self, direction: Direction) -> Cause {
        if let Some(reason) = self.reason {
            return Cause::Codec(reason);
        }
        let side = match (direction, self.place) {
            (Direction::Up, Place::Sender) | (Direction::Down, Place::Receiver) => Side::Client,
            (Direction::Up, Place::Receiver) | (Direction::Down, Place::Sender) => Side::Target,
        };
        side.failed(self.kind)
    }
}

impl Side {
    /// The cause of an end by an error of this side.
    fn failed(self, kind: io::ErrorKind) -> Cause {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match (kind, self) {
            // After the first sign of a reset, all others say that there is no connection.
            (ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected, Side::Client) => {
                Cause::ResetByClient
            }
            (ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected, Side::Target) => {
                Cause::ResetByTarget
            }
            (kind, side) => Cause::Error(side, kind),
        }
    }
}

/// How the running of a relay stopped.
enum Stop {
    Over(Cause),
    Pause,
}

/// A relay between a client and a target. Dropped instead of ended, it closes its connections as the kernel does,
/// which to the peers looks like a good end: [`Handle::end`] is the way to end one.
pub struct Relay {
    client: TcpStream,
    target: TcpStream,
    up: Flow,
    down: Flow,
    codec: Option<Box<dyn StreamCodec>>,
    pool: Rc<Pool>,
    meter: Rc<Meter>,
    timeouts: Timeouts,
    began: Instant,
    /// When connections are to be looked at that nothing is awaited from.
    check_at: Option<Instant>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.meter.stats();
        f.debug_struct("Relay")
            .field("stats", &stats)
            .finish_non_exhaustive()
    }
}

/// The present, which in tests may be virtual.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Relay {
    /// A relay between two connections of the runtime that runs on this thread. It moves nothing before
    /// [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// Where there are more early bytes than [`BUFFER`], or the codec can do nothing with them.
    pub fn new(
        client: TcpStream,
        target: TcpStream,
        pool: &Rc<Pool>,
        options: Options,
    ) -> Result<Self, RelayError> {
        let now = now();
        let meter = Meter::new(now);
        let is_coded = options.codec.is_some();
        let direction = |direction, early: Vec<u8>, mut limit: Option<Box<dyn Limit>>| {
            if early.len() > BUFFER {
                return Err(RelayError::Early(early.len()));
            }
            if !is_coded {
                meter.counts(direction).note_received(early.len());
            }
            if let Some(limit) = limit.as_mut().filter(|_| !early.is_empty()) {
                limit.spent(early.len(), now);
            }
            Ok(Flow::new(early, limit))
        };
        let mut up = direction(Direction::Up, options.early_up, options.up)?;
        let down = direction(Direction::Down, options.early_down, options.down)?;
        let mut codec = options.codec;
        if let Some(codec) = codec.as_deref_mut() {
            let early = std::mem::take(&mut up.rest);
            let counts = meter.counts(Direction::Up);
            if let Err(failure) = up.code(&mut Coding::Open(codec), &early, counts) {
                reset(&client);
                reset(&target);
                return Err(RelayError::Codec(failure.reason.unwrap_or(DropReason("codec"))));
            }
        }
        Ok(Self {
            client,
            target,
            up,
            down,
            codec,
            pool: pool.clone(),
            meter,
            timeouts: options.timeouts,
            began: now,
            check_at: None,
        })
    }

    /// Goes on with a relay that was paused, possibly by another process. The time between counts for none of its
    /// timeouts.
    ///
    /// # Errors
    ///
    /// Where the state is not sound, or a descriptor is no socket that the runtime takes. Both connections are closed
    /// then.
    pub fn resume(
        parked: Parked,
        pool: &Rc<Pool>,
        up: Option<Box<dyn Limit>>,
        down: Option<Box<dyn Limit>>,
    ) -> Result<Self, RelayError> {
        let state = parked.state;
        if !state.up.is_sound() || !state.down.is_sound() {
            return Err(RelayError::Unsound);
        }
        let now = now();
        let meter = Meter::new(now.checked_sub(state.silent).unwrap_or(now));
        meter.counts(Direction::Up).start(state.up.octets);
        meter.counts(Direction::Down).start(state.down.octets);
        Ok(Self {
            client: adopt(parked.client)?,
            target: adopt(parked.target)?,
            up: Flow::resume(state.up, up),
            down: Flow::resume(state.down, down),
            codec: None,
            pool: pool.clone(),
            meter,
            timeouts: state.timeouts,
            began: now.checked_sub(state.age).unwrap_or(now),
            check_at: None,
        })
    }

    /// What the owner keeps.
    pub fn handle(&self) -> Handle {
        Handle(self.meter.clone())
    }

    /// Takes the relay apart for a handover. Bytes in a pipe are taken out of it.
    ///
    /// # Errors
    ///
    /// Where bytes could not be saved, or the relay has a codec; it has ended then, with resets to both sides.
    pub fn pause(self) -> Result<Parked, Ended> {
        let now = now();
        let stats = self.meter.stats();
        if self.codec.is_some() {
            return Err(self.end(Cause::Asked));
        }
        let timeouts = self.timeouts;
        let up = self.up.park(self.meter.counts(Direction::Up));
        let down = self.down.park(self.meter.counts(Direction::Down));
        let (up, down) = match (up, down) {
            (Ok(up), Ok(down)) => (up, down),
            (Err(error), _) | (_, Err(error)) => {
                reset(&self.client);
                reset(&self.target);
                let cause = Cause::Error(Side::Client, error.kind());
                return Err(Ended { cause, stats });
            }
        };
        let state = ParkedState {
            up,
            down,
            timeouts,
            silent: now.saturating_duration_since(stats.active),
            age: now.saturating_duration_since(self.began),
        };
        let descriptors = release(self.client).and_then(|client| Ok((client, release(self.target)?)));
        match descriptors {
            Ok((client, target)) => Ok(Parked {
                client,
                target,
                state,
            }),
            Err(error) => Err(Ended {
                cause: Cause::Error(Side::Client, error.kind()),
                stats,
            }),
        }
    }

    /// Relays until it is over, or paused by its [`Handle`]. To be run on the thread whose pool it has; it gives way
    /// to other tasks often.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function would hold the relay twice"
    )]
    pub fn run(mut self) -> impl Future<Output = Outcome> {
        async move {
            let stop = {
                let mut timer = pin!(None);
                poll_fn(|cx| self.poll(timer.as_mut(), cx)).await
            };
            match stop {
                Stop::Over(cause) => Outcome::Ended(self.end(cause)),
                Stop::Pause => self
                    .pause()
                    .map_or_else(Outcome::Ended, |parked| Outcome::Parked(Box::new(parked))),
            }
        }
    }

    fn poll(&mut self, timer: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Stop> {
        match self.meter.poll_wish(cx) {
            None => {}
            Some(Wish::End) => return Poll::Ready(Stop::Over(Cause::Asked)),
            Some(Wish::Pause) if self.codec.is_some() => return Poll::Ready(Stop::Over(Cause::Asked)),
            Some(Wish::Pause) => return Poll::Ready(Stop::Pause),
        }
        if let Some(change) = self.meter.take_change() {
            self.timeouts = change.timeouts;
            self.up.set_limit(change.up);
            self.down.set_limit(change.down);
        }
        let now = now();
        let (up, down) = match self.turns(now, cx) {
            Ok((Turn::Finished, Turn::Finished)) => return Poll::Ready(Stop::Over(Cause::FinBoth)),
            Ok(turns) => turns,
            Err(cause) => return Poll::Ready(Stop::Over(cause)),
        };
        if let Some(cause) = self.check(up, down, now).or_else(|| self.overdue(now)) {
            return Poll::Ready(Stop::Over(cause));
        }
        let timer_is_due = match self.next_deadline(up, down) {
            Some(deadline) => poll_timer(timer, deadline, cx),
            None => false,
        };
        if timer_is_due || up == Turn::Busy || down == Turn::Busy {
            give_way(cx);
        }
        Poll::Pending
    }

    /// Moves what can be moved, first up and then down.
    fn turns(&mut self, now: Instant, cx: &mut Context<'_>) -> Result<(Turn, Turn), Cause> {
        let mut codec = self.codec.as_deref_mut();
        let before = (self.meter.stats(), self.up.is_ended(), self.down.is_ended());
        let up = self.up.turn(
            Route {
                from: &mut self.client,
                to: &mut self.target,
                pool: &self.pool,
                counts: self.meter.counts(Direction::Up),
                coding: match &mut codec {
                    Some(codec) => Coding::Open(&mut **codec),
                    None => Coding::Plain,
                },
                now,
            },
            cx,
        );
        let up = up.map_err(|failure| failure.cause(Direction::Up))?;
        let down = self.down.turn(
            Route {
                from: &mut self.target,
                to: &mut self.client,
                pool: &self.pool,
                counts: self.meter.counts(Direction::Down),
                coding: match codec {
                    Some(codec) => Coding::Seal(codec),
                    None => Coding::Plain,
                },
                now,
            },
            cx,
        );
        let down = down.map_err(|failure| failure.cause(Direction::Down))?;
        if (self.meter.stats(), self.up.is_ended(), self.down.is_ended()) != before {
            self.meter.note_active(now);
        }
        Ok((up, down))
    }

    /// Looks from time to time at connections that nothing is awaited from.
    fn check(&mut self, up: Turn, down: Turn, now: Instant) -> Option<Cause> {
        let is_watched = |sending: Turn, receiving: Turn| {
            matches!(sending, Turn::Waiting | Turn::Busy) || matches!(receiving, Turn::Stalled | Turn::Busy)
        };
        let client = (!is_watched(up, down)).then_some((Side::Client, &self.client));
        let target = (!is_watched(down, up)).then_some((Side::Target, &self.target));
        let mut unwatched = client.into_iter().chain(target).peekable();
        if unwatched.peek().is_none() {
            self.check_at = None;
            return None;
        }
        if self.check_at.is_some_and(|at| now < at) {
            return None;
        }
        let is_first = self.check_at.is_none();
        self.check_at = now.checked_add(CHECK);
        if is_first {
            return None;
        }
        unwatched.find_map(|(side, stream)| Some(side.failed(error_of(stream)?)))
    }

    /// The timeouts' clock: for how long there may be silence, and what follows.
    fn patience(&self) -> Option<(Duration, Cause)> {
        let is_half_closed = self.up.is_ended() || self.down.is_ended();
        let half_closed = self.timeouts.half_closed.filter(|_| is_half_closed);
        let idle = self.timeouts.idle.map(|time| (time, Cause::Idle));
        half_closed.map(|time| (time, Cause::HalfClosed)).or(idle)
    }

    fn lifetime_end(&self) -> Option<Instant> {
        self.began.checked_add(self.timeouts.lifetime?)
    }

    fn overdue(&self, now: Instant) -> Option<Cause> {
        if self.lifetime_end().is_some_and(|end| now >= end) {
            return Some(Cause::Lifetime);
        }
        let (patience, cause) = self.patience()?;
        let silent = now.saturating_duration_since(self.meter.active());
        (silent >= patience).then_some(cause)
    }

    fn next_deadline(&self, up: Turn, down: Turn) -> Option<Instant> {
        let silence = self.patience();
        let silence = silence.and_then(|(patience, _)| self.meter.active().checked_add(patience));
        let allowed = [up, down].map(|turn| match turn {
            Turn::Limited(until) => Some(until),
            _ => None,
        });
        let all = [silence, self.lifetime_end(), self.check_at];
        all.into_iter().chain(allowed).flatten().min()
    }

    /// Closes both connections.
    fn end(self, cause: Cause) -> Ended {
        let stats = self.meter.stats();
        let (to_client, to_target) = match cause {
            Cause::FinBoth => (false, false),
            Cause::ResetByClient => (false, true),
            Cause::ResetByTarget => (true, false),
            Cause::Idle | Cause::HalfClosed => (self.down.holds_bytes(), self.up.holds_bytes()),
            Cause::Lifetime | Cause::Asked | Cause::Codec(_) | Cause::Error(..) => (true, true),
        };
        if to_client {
            reset(&self.client);
        }
        if to_target {
            reset(&self.target);
        }
        Ended { cause, stats }
    }
}

/// Lets other tasks run and descriptors be looked at before this task goes on.
fn give_way(cx: &mut Context<'_>) {
    let yielding = pin!(tokio::task::yield_now());
    if yielding.poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

/// Has the task woken at a deadline. True: it has passed. A timer that would go off earlier is left as it is, so that
/// a relay whose deadline moves on with each byte does not set it each time.
fn poll_timer(mut timer: Pin<&mut Option<Sleep>>, deadline: Instant, cx: &mut Context<'_>) -> bool {
    let deadline = tokio::time::Instant::from_std(deadline);
    match timer.as_mut().as_pin_mut() {
        None => timer.set(Some(tokio::time::sleep_until(deadline))),
        Some(sleep) if sleep.is_elapsed() || sleep.deadline() > deadline => sleep.reset(deadline),
        Some(_) => {}
    }
    timer.as_pin_mut().is_some_and(|sleep| sleep.poll(cx).is_ready())
}

/// The error of a connection that has one. Waits for nothing and changes nothing else.
fn error_of(stream: &TcpStream) -> Option<io::ErrorKind> {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let no_time = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // Errors are told without having been asked for. `SO_ERROR` alone would also give what does not end a
    // connection, such as an ICMP message.
    poll(&mut fds, Some(&no_time)).ok()?;
    let [polled] = fds;
    if !polled.revents().contains(PollFlags::ERR) {
        return None;
    }
    stream.take_error().ok().flatten().map(|error| error.kind())
}

/// Ends a connection by a reset now, even where other processes hold its descriptor too: disconnecting sends one
/// (RFC 9293, 3.10.7.4 and its ABORT call), as closing with a linger time of 0 does for the last descriptor.
fn reset(stream: &TcpStream) {
    // A connection that is gone already needs none.
    let _ = rustix::net::connect_unspec(stream);
}

fn adopt(descriptor: OwnedFd) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(descriptor);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn release(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.into_std().map(OwnedFd::from)
}
