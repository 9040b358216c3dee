//! What all relays of a thread share: the memory that datagrams lie in while they are worked on.

use super::super::BUFFER;
use super::outer::MAX_OUTLETS;
use super::watched::{Room, Watched};
use crate::drops::{Dropped, Drops};
use crate::receive::Arena;
use crate::send::{SendQueue, SendStats, Sent};
use crate::sys::udp::RECV_BATCH;
use crate::udp::UdpSocket;
use sluice_spi::Entropy;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// What the relays of a thread have done since its beginning, for the measure of their batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramPoolStats {
    /// Calls of `recvmmsg` that gave any.
    pub receive_calls: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Calls of `sendmmsg`.
    pub send_calls: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
}

/// What the relays of datagrams of one thread share. Make one for each thread, before its first relay. It takes up
/// to half a MiB for what is received and as much for what is sent, however many relays there are.
pub struct DatagramPool {
    work: RefCell<Work>,
    entropy: RefCell<Box<dyn Entropy>>,
    stats: Cell<DatagramPoolStats>,
}

/// The memory of one batch.
pub(super) struct Work {
    pub(super) arena: Arena,
    pub(super) queues: Queues,
}

/// What is to be sent by each socket of a relay, by the socket's number; empty between two turns.
pub(super) type Queues = [SendQueue; MAX_OUTLETS];

/// What became of a queue that was sent.
pub(super) struct Flushed {
    /// What the kernel took.
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    /// What it did not.
    pub(super) failed: u64,
    /// The rest waits in the queue.
    pub(super) blocked: bool,
}

impl Flushed {
    fn failed(datagrams: u64) -> Self {
        Self {
            datagrams: 0,
            bytes: 0,
            failed: datagrams,
            blocked: false,
        }
    }
}

impl DatagramPool {
    /// A pool. `entropy` chooses ports.
    pub fn new(entropy: Box<dyn Entropy>) -> Rc<Self> {
        Rc::new(Self {
            work: RefCell::new(Work {
                arena: Arena::new(),
                queues: Queues::default(),
            }),
            entropy: RefCell::new(entropy),
            stats: Cell::default(),
        })
    }

    /// What was done until now.
    pub fn stats(&self) -> DatagramPoolStats {
        self.stats.get()
    }

    /// Does something with the thread's memory.
    pub(super) fn with_work<R>(&self, work: impl FnOnce(&mut Work) -> R) -> R {
        work(&mut self.work.borrow_mut())
    }

    pub(super) fn with_entropy<R>(&self, work: impl FnOnce(&mut dyn Entropy) -> R) -> R {
        work(&mut **self.entropy.borrow_mut())
    }

    pub(super) fn note_received(&self, datagrams: u64) {
        let mut stats = self.stats.get();
        stats.receive_calls += 1;
        stats.datagrams_in += datagrams;
        self.stats.set(stats);
    }

    /// Sends what waits in a queue.
    pub(super) fn flush(&self, queue: &mut SendQueue, socket: &UdpSocket) -> Flushed {
        let (mut sends, mut drops) = (SendStats::default(), Drops::default());
        let sent = queue.flush(socket, &mut sends, &mut drops);
        let mut stats = self.stats.get();
        stats.send_calls += sends.calls;
        stats.datagrams_out += sends.datagrams;
        self.stats.set(stats);
        Flushed {
            datagrams: sends.datagrams,
            bytes: sends.bytes,
            failed: drops.count(Dropped::SendFailed),
            blocked: sent == Sent::Blocked,
        }
    }
}

impl fmt::Debug for DatagramPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatagramPool").field(&self.stats()).finish()
    }
}

/// A socket of the thread's runtime, and what it did not take yet.
pub(super) struct Port {
    socket: Watched,
    /// What waits for the socket to take it: the rest of one batch.
    rest: Option<Box<Rest>>,
    /// Octets of a train, as the last batch had them: how much a call is likely to read.
    train: usize,
}

/// The rest of a batch.
struct Rest {
    queue: SendQueue,
    /// Watches for when the socket takes more.
    room: Option<Room>,
}

/// Octets of a train before one is known: what an Ethernet frame carries.
const USUAL_TRAIN: usize = 1_500;

impl Port {
    /// The runtime has to run on this thread.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            socket: Watched::new(socket)?,
            rest: None,
            train: USUAL_TRAIN,
        })
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        self.socket.get()
    }

    pub(super) fn into_socket(self) -> UdpSocket {
        self.socket.into_socket()
    }

    /// Octets to ask a limit for: a full batch of what came last.
    pub(super) fn wanted(&self) -> usize {
        self.train.saturating_mul(RECV_BATCH).max(1)
    }

    /// Receives a batch into the thread's memory, of about `bytes` octets, and of one train at least; gives the
    /// number of trains.
    pub(super) fn poll_receive(
        &mut self,
        arena: &mut Arena,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let most = (bytes / self.train.max(1)).clamp(1, RECV_BATCH);
        loop {
            let step = |socket: &UdpSocket| {
                let result = arena.receive(socket, most);
                // Fewer than there is room for: there were no more. After an error nothing is tried at once, for one
                // that stays would keep the thread busy.
                let more = match &result {
                    Ok(trains) => *trains == most,
                    Err(error) => error.kind() == ErrorKind::Interrupted,
                };
                (result, more)
            };
            match ready!(self.socket.poll_read(cx, step))? {
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Learns from a batch.
    pub(super) fn note_batch(&mut self, trains: usize, bytes: usize) {
        self.train = bytes.checked_div(trains).unwrap_or(0).clamp(1, BUFFER);
    }

    /// Whether the socket still has to take what it was given.
    pub(super) fn is_blocked(&self) -> bool {
        self.rest.is_some()
    }

    /// Sends a queue, and keeps what the socket does not take now. Not to be called while it is blocked.
    pub(super) fn send(&mut self, queue: &mut SendQueue, pool: &DatagramPool) -> Flushed {
        let flushed = pool.flush(queue, self.socket.get());
        if flushed.blocked {
            self.hold(mem::take(queue));
        }
        flushed
    }

    fn hold(&mut self, queue: SendQueue) {
        self.rest = Some(Box::new(Rest { queue, room: None }));
    }

    /// Sends what waits as soon as the socket takes it. The task is woken then. What cannot be waited for, because
    /// there is no descriptor left, is given up.
    pub(super) fn poll_rest(
        &mut self,
        pool: &DatagramPool,
        cx: &mut Context<'_>,
        mut done: impl FnMut(Flushed),
    ) {
        let socket = self.socket.get();
        while let Some(rest) = &mut self.rest {
            let Rest { queue, room } = &mut **rest;
            let room = match room {
                Some(room) => room,
                None => match Room::new(socket) {
                    Ok(made) => room.insert(made),
                    Err(_) => {
                        done(Flushed::failed(queue.datagrams()));
                        self.rest = None;
                        return;
                    }
                },
            };
            let step = || {
                let flushed = pool.flush(queue, socket);
                let more = !flushed.blocked;
                (flushed, more)
            };
            let Poll::Ready(Ok(flushed)) = room.poll_write(cx, step) else {
                return;
            };
            if !flushed.blocked {
                self.rest = None;
            }
            done(flushed);
        }
    }

    /// Sends what waits, or gives it up; gives how many datagrams were given up.
    pub(super) fn give_up_rest(&mut self, pool: &DatagramPool, mut done: impl FnMut(Flushed)) -> u64 {
        let Some(mut rest) = self.rest.take() else {
            return 0;
        };
        done(pool.flush(&mut rest.queue, self.socket.get()));
        rest.queue.datagrams()
    }
}

#[cfg(test)]
mod tests {
    use super::super::outer::ends;
    use super::*;
    use sluice_testkit::Seeded;
    use std::future::poll_fn;
    use std::net::SocketAddr;

    /// A port that its socket did not take five datagrams of, to whom they go, and a pool.
    fn blocked() -> (Port, std::net::UdpSocket, Rc<DatagramPool>) {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let mut port = Port::new(socket).unwrap();
        let mut rest = SendQueue::default();
        for number in 0..5 {
            assert!(rest.push(ends(receiver.local_addr().unwrap()), &[number; 9], usize::MAX));
        }
        port.hold(rest);
        (port, receiver, DatagramPool::new(Box::new(Seeded::new(1))))
    }

    fn arrived(receiver: &std::net::UdpSocket) {
        for number in 0..5 {
            let mut buffer = [0; 20];
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 9);
            assert_eq!(buffer[..9], [number; 9]);
        }
    }

    #[tokio::test]
    async fn what_waits_for_its_socket_leaves_as_soon_as_that_takes_it() {
        let (mut port, receiver, pool) = blocked();
        let mut sent = 0;
        assert!(port.is_blocked());
        poll_fn(|cx| {
            port.poll_rest(&pool, cx, |flushed| sent += flushed.datagrams);
            if port.is_blocked() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        assert_eq!(sent, 5);
        arrived(&receiver);
        assert_eq!((pool.stats().datagrams_out, pool.stats().send_calls), (5, 1));
    }

    #[tokio::test]
    async fn what_waits_is_tried_once_more_before_it_is_given_up() {
        let (mut port, receiver, pool) = blocked();
        let mut sent = 0;
        assert_eq!(port.give_up_rest(&pool, |flushed| sent += flushed.datagrams), 0);
        assert_eq!((sent, port.is_blocked()), (5, false));
        arrived(&receiver);
    }

    #[tokio::test]
    async fn a_batch_is_as_large_as_what_came_last_makes_it_likely() {
        let (mut port, ..) = blocked();
        assert_eq!(port.wanted(), RECV_BATCH * USUAL_TRAIN);
        for (trains, bytes, train) in [(2, 100_000, 50_000), (1, 1 << 20, BUFFER), (3, 0, 1), (0, 0, 1)] {
            port.note_batch(trains, bytes);
            assert_eq!(port.wanted(), RECV_BATCH * train);
        }
    }
}
