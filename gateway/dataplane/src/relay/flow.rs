//! One direction of a relay: from one socket to the other, by copying or by splicing.

use super::coding::Coding;
use super::handle::Counts;
use super::limit::Limit;
use super::parked::ParkedFlow;
use super::pool::{Lease, Pool};
use super::{Failure, Place};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A read of at least so many bytes is one of a bulk stream.
const BULK_READ: usize = 32 << 10;
/// So many of those in a row, and the stream is spliced.
const BULK_READS: u8 = 2;
/// A stream that moved less than so many bytes by splicing before it had to wait is copied again; one that moved as
/// many goes on to be spliced from its next byte.
const BULK_BURST: usize = 64 << 10;

/// Most bytes read in one turn, so that one stream does not hold up a thread.
const TURN_BYTES: usize = 256 << 10;
/// Most steps in one turn.
const TURN_STEPS: usize = 32;

/// How far a direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Bytes may come.
    Open,
    /// The sender has ended, and not all is delivered.
    Ended,
    /// All is delivered, and the end too.
    Finished,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The sender has nothing; the task is woken when it has.
    Waiting,
    /// The receiver takes nothing; the task is woken when it does.
    Stalled,
    /// The limit allows nothing until then.
    Limited(Instant),
    /// There is more to do after others have had their turns.
    Busy,
    /// The direction is finished.
    Finished,
}

/// What a direction runs between, and what it shares.
pub(super) struct Route<'a> {
    pub(super) from: &'a mut TcpStream,
    pub(super) to: &'a mut TcpStream,
    pub(super) pool: &'a Rc<Pool>,
    pub(super) counts: &'a Counts,
    pub(super) coding: Coding<'a>,
    pub(super) now: Instant,
}

/// Whether a step of a turn is followed by another.
enum Next {
    Go(usize),
    Stop(Turn),
}

impl Next {
    const AGAIN: Self = Next::Go(0);
}

/// One direction. At most one of `rest` and `lease` holds bytes, and nothing is read while one does.
pub(super) struct Flow {
    /// Bytes read and not yet delivered, and how many of them are.
    pub(super) rest: Vec<u8>,
    sent: usize,
    /// Payload that `rest` stands for where it is not payload itself.
    pub(super) sealed: usize,
    /// A pipe that holds bytes; within a turn also an empty one.
    lease: Option<Lease>,
    stage: Stage,
    /// Reads of at least [`BULK_READ`] in a row.
    streak: u8,
    /// Bytes spliced since the sender last had nothing.
    burst: usize,
    limit: Option<Box<dyn Limit>>,
}

impl Flow {
    /// A direction that begins with `early` bytes.
    pub(super) fn new(early: Vec<u8>, limit: Option<Box<dyn Limit>>) -> Self {
        Self {
            rest: early,
            sent: 0,
            sealed: 0,
            lease: None,
            stage: Stage::Open,
            streak: 0,
            burst: 0,
            limit,
        }
    }

    /// A direction that goes on.
    pub(super) fn resume(parked: ParkedFlow, limit: Option<Box<dyn Limit>>) -> Self {
        let stage = match (parked.ended, parked.finished) {
            (_, true) => Stage::Finished,
            (true, false) => Stage::Ended,
            (false, false) => Stage::Open,
        };
        Self {
            stage,
            ..Self::new(parked.unsent, limit)
        }
    }

    /// Everything that another process needs to go on. After an error, bytes are lost.
    pub(super) fn park(mut self, counts: &Counts) -> io::Result<ParkedFlow> {
        let mut unsent = std::mem::take(&mut self.rest);
        unsent.drain(..self.sent.min(unsent.len()));
        if let Some(lease) = self.lease.take() {
            unsent.append(&mut lease.into_bytes()?);
        }
        Ok(ParkedFlow {
            unsent,
            octets: counts.octets(),
            ended: self.stage != Stage::Open,
            finished: self.stage == Stage::Finished,
        })
    }

    /// Changes the limit of what is read from now on.
    pub(super) fn set_limit(&mut self, limit: Option<Box<dyn Limit>>) {
        self.limit = limit;
    }

    /// Whether the sender has ended.
    pub(super) fn is_ended(&self) -> bool {
        self.stage != Stage::Open
    }

    /// Whether bytes wait here for the receiver.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.rest.is_empty() || self.lease.as_ref().is_some_and(|lease| lease.held() > 0)
    }

    /// Moves what can be moved now.
    pub(super) fn turn(&mut self, mut route: Route<'_>, cx: &mut Context<'_>) -> Result<Turn, Failure> {
        let mut left = TURN_BYTES;
        let mut turn = Ok(Turn::Busy);
        for _ in 0..TURN_STEPS {
            // What was read is delivered in the same turn where it can be.
            if left == 0 && !self.holds_bytes() {
                break;
            }
            match self.step(&mut route, cx) {
                Ok(Next::Go(read)) => left = left.saturating_sub(read),
                Ok(Next::Stop(end)) => {
                    turn = Ok(end);
                    break;
                }
                Err(failure) => {
                    turn = Err(failure);
                    break;
                }
            }
        }
        // An empty pipe is for others while this direction waits.
        if self.lease.as_ref().is_some_and(|lease| lease.held() == 0) {
            self.lease = None;
        }
        turn
    }

    fn step(&mut self, route: &mut Route<'_>, cx: &mut Context<'_>) -> Result<Next, Failure> {
        if !self.rest.is_empty() {
            return self.send_rest(route, cx);
        }
        if let Some(lease) = self.lease.as_mut().filter(|lease| lease.held() > 0) {
            return drain(lease, route, cx);
        }
        match self.stage {
            Stage::Open => self.pull(route, cx),
            Stage::Ended => {
                let to = socket2::SockRef::from(&*route.to);
                to.shutdown(Shutdown::Write)
                    .map_err(|error| Failure::new(Place::Receiver, error))?;
                self.stage = Stage::Finished;
                Ok(Next::Stop(Turn::Finished))
            }
            Stage::Finished => Ok(Next::Stop(Turn::Finished)),
        }
    }

    fn send_rest(&mut self, route: &mut Route<'_>, cx: &mut Context<'_>) -> Result<Next, Failure> {
        let bytes = self.rest.get(self.sent..).unwrap_or_default();
        match send(route, cx, bytes)? {
            Poll::Pending => Ok(Next::Stop(Turn::Stalled)),
            Poll::Ready(sent) => {
                self.sent += sent;
                if self.sent >= self.rest.len() {
                    self.rest = Vec::new();
                    self.sent = 0;
                    route.counts.note_delivered(std::mem::take(&mut self.sealed));
                }
                Ok(Next::AGAIN)
            }
        }
    }

    /// Reads, with all before delivered.
    fn pull(&mut self, route: &mut Route<'_>, cx: &mut Context<'_>) -> Result<Next, Failure> {
        let is_bulk = route.coding.is_plain() && self.streak >= BULK_READS && self.has_pipe(route);
        let want = if is_bulk {
            route.pool.pipe_size()
        } else {
            route.coding.most()
        };
        let allowed = match self.allowed(want, route, cx)? {
            Ok(allowed) => allowed,
            Err(turn) => return Ok(Next::Stop(self.pause_reading(turn))),
        };
        let read = match self.lease.as_mut() {
            Some(lease) if is_bulk => fill(lease, allowed, route, cx)?,
            _ => self.copy(allowed, route, cx)?,
        };
        if let Some(limit) = &mut self.limit {
            limit.spent(if let Poll::Ready(read) = read { read } else { 0 }, route.now);
        }
        match read {
            Poll::Pending => Ok(Next::Stop(self.pause_reading(Turn::Waiting))),
            Poll::Ready(0) => {
                route.coding.finish()?;
                self.stage = Stage::Ended;
                Ok(Next::AGAIN)
            }
            Poll::Ready(read) => {
                if is_bulk {
                    self.burst = self.burst.saturating_add(read);
                    route.pool.note_spliced(read);
                } else {
                    self.streak = if read >= BULK_READ {
                        self.streak.saturating_add(1)
                    } else {
                        0
                    };
                    route.pool.note_copied(read);
                }
                if route.coding.counts_read() {
                    route.counts.note_received(read);
                }
                Ok(Next::Go(read))
            }
        }
    }

    /// Whether there is a pipe to splice through.
    fn has_pipe(&mut self, route: &Route<'_>) -> bool {
        if self.lease.is_none() {
            self.lease = route.pool.lend();
            if self.lease.is_none() && self.streak == BULK_READS {
                // The next read makes it more than that: a stream is counted once.
                route.pool.note_refused();
            }
        }
        self.lease.is_some()
    }

    /// How much of `want` the limit allows; an error is the reason to wait. The limit is asked only when there may
    /// be something to read, so that a silent relay takes nobody's turn.
    fn allowed(
        &mut self,
        want: usize,
        route: &Route<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Result<usize, Turn>, Failure> {
        let Some(limit) = &mut self.limit else {
            return Ok(Ok(want));
        };
        match route.from.poll_read_ready(cx) {
            Poll::Pending => return Ok(Err(Turn::Waiting)),
            Poll::Ready(ready) => ready.map_err(|error| Failure::new(Place::Sender, error))?,
        }
        let allowance = limit.allow(want, route.now);
        Ok(match allowance.bytes {
            0 => Err(Turn::Limited(allowance.retry_at)),
            bytes => Ok(bytes.min(want)),
        })
    }

    /// Decides whether reading goes on by splicing.
    fn pause_reading(&mut self, turn: Turn) -> Turn {
        if turn == Turn::Waiting {
            if (1..BULK_BURST).contains(&self.burst) {
                self.streak = 0;
            }
            self.burst = 0;
        }
        turn
    }

    /// Reads into the thread's buffer and sends at once; what the receiver does not take is kept. Gives the bytes
    /// read.
    fn copy(
        &mut self,
        allowed: usize,
        route: &mut Route<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Poll<usize>, Failure> {
        let pool = route.pool.clone();
        pool.with_buffer(|buffer| {
            let room = allowed.min(buffer.len());
            let mut buffer = ReadBuf::new(buffer.get_mut(..room).unwrap_or_default());
            match Pin::new(&mut *route.from).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(result) => result.map_err(|error| Failure::new(Place::Sender, error))?,
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Ok(Poll::Ready(0));
            }
            if !route.coding.is_plain() {
                self.code(&mut route.coding, bytes, route.counts)?;
                return Ok(Poll::Ready(bytes.len()));
            }
            let sent = match send(route, cx, bytes)? {
                Poll::Pending => 0,
                Poll::Ready(sent) => sent,
            };
            self.rest = bytes.get(sent..).unwrap_or_default().to_vec();
            Ok(Poll::Ready(bytes.len()))
        })
    }
}

/// Gives bytes, which are not none, to the receiver's socket.
fn send(route: &mut Route<'_>, cx: &mut Context<'_>, bytes: &[u8]) -> Result<Poll<usize>, Failure> {
    match Pin::new(&mut *route.to).poll_write(cx, bytes) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(Ok(0)) => Err(Failure::new(Place::Receiver, io::ErrorKind::WriteZero.into())),
        Poll::Ready(Ok(sent)) => {
            if route.coding.counts_written() {
                route.counts.note_delivered(sent);
            }
            Ok(Poll::Ready(sent))
        }
        Poll::Ready(Err(error)) => Err(Failure::new(Place::Receiver, error)),
    }
}

/// Fills an empty pipe from the sender's socket. Gives the bytes read; 0: the sender has ended.
fn fill(
    lease: &mut Lease,
    allowed: usize,
    route: &Route<'_>,
    cx: &mut Context<'_>,
) -> Result<Poll<usize>, Failure> {
    let failed = |error| Failure::new(Place::Sender, error);
    let from = &*route.from;
    // Where the socket turns out not to be ready, the second round leaves the waker behind.
    loop {
        match from.poll_read_ready(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready.map_err(failed)?,
        }
        match from.try_io(Interest::READABLE, || lease.fill(from.as_fd(), allowed)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.map(Poll::Ready).map_err(failed),
        }
    }
}

/// Empties a pipe that holds bytes into the receiver's socket.
fn drain(lease: &mut Lease, route: &Route<'_>, cx: &mut Context<'_>) -> Result<Next, Failure> {
    let failed = |error| Failure::new(Place::Receiver, error);
    let to = &*route.to;
    loop {
        match to.poll_write_ready(cx) {
            Poll::Pending => return Ok(Next::Stop(Turn::Stalled)),
            Poll::Ready(ready) => ready.map_err(failed)?,
        }
        match to.try_io(Interest::WRITABLE, || lease.drain(to.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Err(failed(io::ErrorKind::WriteZero.into())),
            Ok(moved) => {
                route.counts.note_delivered(moved);
                return Ok(Next::AGAIN);
            }
            Err(error) => return Err(failed(error)),
        }
    }
}
