//! What all relays of a thread share: one buffer to copy through, and a bounded number of pipes to splice
//! through.

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Length of the buffer of a thread, and so the most that one read by copying takes, in bytes.
pub const BUFFER: usize = 64 << 10;

/// Smallest pipe worth splicing through, in bytes: the kernel's default. A smaller one, which the kernel gives to
/// a user over `fs.pipe-user-pages-soft`, costs more than copying.
const MIN_PIPE: usize = 64 << 10;

/// Largest pipe asked for, in bytes: the kernel's default for `fs.pipe-max-size`.
pub const MAX_PIPE: usize = 1 << 20;

/// Where the kernel gave no pipe, this many requests are refused before it is asked again.
const PAUSE_AFTER_FAILURE: u32 = 1_000;

/// The pipes of a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Pipes open at the same time, in use and idle. 0: all is copied.
    pub pipes: usize,
    /// Capacity of each, in bytes, from 64 KiB to [`MAX_PIPE`]; other values are taken as the nearest of these.
    pub pipe_size: usize,
}

impl Default for PoolConfig {
    /// 64 pipes of 256 KiB. Four threads with these stay within the 64 MiB that `fs.pipe-user-pages-soft` gives an
    /// unprivileged user.
    fn default() -> Self {
        Self {
            pipes: 64,
            pipe_size: 256 << 10,
        }
    }
}

/// How a [`Pool`] is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Pipes that hold bytes.
    pub pipes_in_use: usize,
    /// Empty pipes kept for later.
    pub pipes_idle: usize,
    /// Capacity of new pipes in bytes: less than configured where the kernel refused so much.
    pub pipe_size: usize,
    /// Times that a bulk stream found no pipe and went on by copying.
    pub refused: u64,
    /// Bytes that came in by copying.
    pub copied: u64,
    /// Bytes that came in by splicing.
    pub spliced: u64,
}

/// What the relays of one thread share. Make one for each thread, before its first relay.
#[derive(Debug)]
pub struct Pool {
    buffer: RefCell<Box<[u8]>>,
    idle: RefCell<Vec<Pipe>>,
    /// Pipes open, in use and idle.
    open: Cell<usize>,
    most: usize,
    size: Cell<usize>,
    pause: Cell<u32>,
    refused: Cell<u64>,
    copied: Cell<u64>,
    spliced: Cell<u64>,
}

impl Pool {
    /// A pool without any pipe yet; they are opened when they are needed.
    pub fn new(config: PoolConfig) -> Rc<Self> {
        Rc::new(Self {
            buffer: RefCell::new(vec![0; BUFFER].into_boxed_slice()),
            idle: RefCell::default(),
            open: Cell::new(0),
            most: config.pipes,
            size: Cell::new(config.pipe_size.clamp(MIN_PIPE, MAX_PIPE)),
            pause: Cell::new(0),
            refused: Cell::new(0),
            copied: Cell::new(0),
            spliced: Cell::new(0),
        })
    }

    /// How it is used now, and was since its beginning.
    pub fn stats(&self) -> PoolStats {
        let idle = self.idle.borrow().len();
        PoolStats {
            pipes_in_use: self.open.get().saturating_sub(idle),
            pipes_idle: idle,
            pipe_size: self.size.get(),
            refused: self.refused.get(),
            copied: self.copied.get(),
            spliced: self.spliced.get(),
        }
    }

    /// Does something with the thread's buffer.
    pub(super) fn with_buffer<R>(&self, work: impl FnOnce(&mut [u8]) -> R) -> R {
        work(&mut self.buffer.borrow_mut())
    }

    pub(super) fn pipe_size(&self) -> usize {
        self.size.get()
    }

    pub(super) fn note_refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(super) fn note_copied(&self, bytes: usize) {
        self.copied.set(self.copied.get() + bytes as u64);
    }

    pub(super) fn note_spliced(&self, bytes: usize) {
        self.spliced.set(self.spliced.get() + bytes as u64);
    }

    /// Lends an empty pipe, where there is one.
    pub(super) fn lend(self: &Rc<Self>) -> Option<Lease> {
        let idle = self.idle.borrow_mut().pop();
        let pipe = match idle {
            Some(pipe) => pipe,
            None => self.open()?,
        };
        Some(Lease {
            pipe: Some(pipe),
            held: 0,
            pool: self.clone(),
        })
    }

    fn open(&self) -> Option<Pipe> {
        if self.open.get() >= self.most {
            return None;
        }
        if let Some(left) = self.pause.get().checked_sub(1) {
            self.pause.set(left);
            return None;
        }
        let opened = Pipe::open(self.size.get());
        match opened {
            Ok((pipe, size)) => {
                self.size.set(size);
                self.open.set(self.open.get() + 1);
                Some(pipe)
            }
            Err(_) => {
                self.pause.set(PAUSE_AFTER_FAILURE);
                None
            }
        }
    }
}

/// A pipe and how much is in it. When this is dropped, an empty pipe goes back to its pool, and one that holds
/// bytes is closed: nothing of one stream may ever come out in another.
#[derive(Debug)]
pub(super) struct Lease {
    pipe: Option<Pipe>,
    held: usize,
    pool: Rc<Pool>,
}

impl Lease {
    /// Bytes in the pipe.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `most` bytes from a socket into the pipe, which is to be empty: so `WouldBlock` speaks of the
    /// socket. 0: the stream has ended.
    pub(super) fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let moved = self.pipe()?.fill(from, most)?;
        self.held += moved;
        Ok(moved)
    }

    /// Moves as much as it takes from the pipe, which is not to be empty, into a socket.
    pub(super) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let moved = self.pipe()?.drain(to, self.held)?;
        self.held = self.held.saturating_sub(moved);
        Ok(moved)
    }

    /// Takes everything out of the pipe. After an error, what was in the pipe is lost.
    pub(super) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let taken = retry_on_intr(|| match &self.pipe {
                Some(pipe) => rustix::io::read(&pipe.out, &mut *rest),
                None => Ok(0),
            })?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.held = self.held.saturating_sub(taken);
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
        Ok(bytes)
    }

    fn pipe(&self) -> io::Result<&Pipe> {
        self.pipe.as_ref().ok_or(io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.pipe.take() {
            Some(pipe) if self.held == 0 => self.pool.idle.borrow_mut().push(pipe),
            _ => self.pool.open.set(self.pool.open.get().saturating_sub(1)),
        }
    }
}

#[derive(Debug)]
struct Pipe {
    into: OwnedFd,
    out: OwnedFd,
}

impl Pipe {
    /// Opens a pipe with this capacity, or with what the kernel gives instead; gives its capacity too.
    fn open(size: usize) -> io::Result<(Self, usize)> {
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let mut asked = size;
        // EPERM: the user has as much as `fs.pipe-user-pages-soft` allows.
        while asked > MIN_PIPE && fcntl_setpipe_size(&into, asked).is_err() {
            asked /= 2;
        }
        let size = fcntl_getpipe_size(&into)?;
        if size < MIN_PIPE {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok((Self { into, out }, size.min(MAX_PIPE)))
    }

    fn fill(&self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        move_pages(from, &self.into, most)
    }

    fn drain(&self, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        move_pages(&self.out, to, most)
    }
}

/// Splices without waiting. `SPLICE_F_MORE` is never given: it holds back the end of a message.
fn move_pages(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let (from, to) = (from.as_fd(), to.as_fd());
    retry_on_intr(|| splice(from, None, to, None, most, flags)).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn config(pipes: usize) -> PoolConfig {
        PoolConfig {
            pipes,
            ..PoolConfig::default()
        }
    }

    #[test]
    fn pipes_are_bounded_and_come_back_when_empty() {
        let pool = Pool::new(config(2));
        let (first, second) = (pool.lend().unwrap(), pool.lend().unwrap());
        assert!(pool.lend().is_none());
        assert_eq!((pool.stats().pipes_in_use, pool.stats().pipes_idle), (2, 0));
        drop(first);
        assert_eq!((pool.stats().pipes_in_use, pool.stats().pipes_idle), (1, 1));
        drop((pool.lend().unwrap(), second));
        assert_eq!((pool.stats().pipes_in_use, pool.stats().pipes_idle), (0, 2));
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_never_used_again() {
        let pool = Pool::new(config(1));
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"secret").unwrap();
        let mut lease = pool.lend().unwrap();
        assert_eq!(lease.fill(far.as_fd(), 4).unwrap(), 4);
        assert_eq!(lease.held(), 4);
        drop(lease);
        assert_eq!((pool.stats().pipes_in_use, pool.stats().pipes_idle), (0, 0));
        assert!(pool.lend().is_some(), "and does not count any more");
    }

    #[test]
    fn what_is_in_a_pipe_goes_on_or_comes_out_as_bytes() {
        let pool = Pool::new(config(1));
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"0123456789").unwrap();
        let mut lease = pool.lend().unwrap();
        assert_eq!(lease.fill(far.as_fd(), 7).unwrap(), 7);
        assert_eq!(lease.into_bytes().unwrap(), b"0123456");
        assert_eq!(pool.stats().pipes_idle, 1, "it is empty and good");
        let mut lease = pool.lend().unwrap();
        assert_eq!(lease.fill(far.as_fd(), 7).unwrap(), 3);
        assert_eq!(lease.drain(far.as_fd()).unwrap(), 3);
        let mut back = [0; 3];
        near.read_exact(&mut back).unwrap();
        assert_eq!((&back, lease.held()), (b"789", 0));
    }

    #[test]
    fn odd_sizes_are_taken_as_the_nearest_good_ones() {
        for (asked, given) in [(0, MIN_PIPE), (usize::MAX, MAX_PIPE), (128 << 10, 128 << 10)] {
            let pool = Pool::new(PoolConfig {
                pipes: 1,
                pipe_size: asked,
            });
            assert_eq!(pool.stats().pipe_size, given);
            drop(pool.lend());
            assert!(pool.stats().pipe_size <= given);
        }
        assert!(Pool::new(config(0)).lend().is_none());
    }
}
