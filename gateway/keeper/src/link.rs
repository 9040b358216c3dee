//! The worker's side.

use crate::channel::{self, Received};
use crate::wire::{Kind, Malformed, Refusal, StartReason, ToKeeper, ToWorker, VERSION, valid_name};
use crate::{ENVIRONMENT, MAX_MEMORY, MAX_PER_MESSAGE};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The kernel bounds the descriptors of one user that are under way between processes: how long to wait for the keeper
/// to take some, and how often to look.
const IN_FLIGHT: Duration = Duration::from_secs(1);
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(1);

/// What can go wrong between worker and keeper.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The process was not started by a keeper.
    #[error("this process was not started by a keeper; start the gateway instead of its worker")]
    NoKeeper,
    /// The keeper is of another release.
    #[error(
        "the running keeper speaks version {0} of its format and this worker speaks version {VERSION}; stop and start the gateway"
    )]
    Version(String),
    /// The keeper closed the link or died.
    #[error("the keeper is gone")]
    Gone,
    /// The keeper sent something unreadable or out of order.
    #[error("the keeper sent a bad message: {0}")]
    BadMessage(String),
    /// A name is empty, too long, or not printable ASCII.
    #[error("\"{0}\" cannot be a name: 1 to 64 printable ASCII characters without spaces")]
    BadName(String),
    /// No descriptor, or more than one message can carry.
    #[error("{0} descriptors under one name: between 1 and {MAX_PER_MESSAGE} are possible")]
    Count(usize),
    /// The keeper holds as many descriptors as it may.
    #[error("the keeper may hold {0} descriptors and they are used up")]
    Full(usize),
    /// A memory is of a size that is not possible.
    #[error("a memory of {0} octets: between 1 and {MAX_MEMORY} are possible")]
    Size(u64),
    /// A memory handed over is not what this release made: it could shrink while it is mapped.
    #[error("the memory \"{0}\" can shrink and is not used")]
    NotSealed(String),
    /// The name holds something of the other kind.
    #[error("\"{0}\" is in use for something else")]
    InUse(String),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for LinkError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            other => Self::Io(other.into()),
        }
    }
}

impl From<Malformed> for LinkError {
    fn from(error: Malformed) -> Self {
        Self::BadMessage(error.to_string())
    }
}

/// What the keeper handed to this worker.
#[derive(Debug)]
pub struct Adopted {
    /// Name and descriptor, in order of names; several of one name in the order they were stored. Those that are
    /// not wanted any more should be removed by name and dropped.
    pub descriptors: Vec<(String, OwnedFd)>,
    /// Workers started before this one.
    pub restarts: u32,
    /// Why this one was started.
    pub reason: StartReason,
}

/// What the keeper wants of the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again, then say [`Link::ready`].
    Reload,
    /// End in good order: say goodbye to peers, flush, exit with code 0 within the grace time.
    Shutdown,
    /// End now, with code 0: flush what must not be lost and nothing more.
    Stop,
    /// Something stored was not kept; it will be missing after a restart.
    Refused {
        /// Its name.
        name: String,
        /// Why.
        why: Refusal,
    },
    /// The keeper died. Write a checkpoint and exit: without it nobody would restart this worker, and a new
    /// gateway needs its ports.
    KeeperGone,
}

/// The worker's link to its keeper. All methods take `&self` and may be called from any thread; `store`,
/// `remove` and the notices wait only while the keeper's socket is full, which it empties at once.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit: usize,
    names: HashMap<String, (Kind, usize)>,
    memories: HashMap<String, OwnedFd>,
}

impl State {
    /// Notes what a name holds from now on, or refuses what the keeper would refuse.
    fn note(&mut self, name: &str, kind: Kind, count: usize) -> Result<(), LinkError> {
        if !valid_name(name) {
            return Err(LinkError::BadName(name.escape_debug().to_string()));
        }
        if !(1..=MAX_PER_MESSAGE).contains(&count) {
            return Err(LinkError::Count(count));
        }
        if self.names.get(name).is_some_and(|&(other, _)| other != kind) {
            return Err(LinkError::InUse(name.to_owned()));
        }
        let others = self
            .names
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(_, (_, n))| n);
        if others.sum::<usize>() + count > self.limit {
            return Err(LinkError::Full(self.limit));
        }
        self.names.insert(name.to_owned(), (kind, count));
        Ok(())
    }
}

impl Link {
    /// Takes the link from standard input, where the keeper put it, and leaves /dev/null there.
    pub fn connect() -> Result<Self, LinkError> {
        match std::env::var(ENVIRONMENT) {
            Ok(version) if version == VERSION.to_string() => {}
            Ok(version) => return Err(LinkError::Version(version.escape_debug().to_string())),
            Err(_) => return Err(LinkError::NoKeeper),
        }
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&socket) != Ok(SocketType::SEQPACKET) {
            return Err(LinkError::NoKeeper);
        }
        let null = rustix::fs::open(
            "/dev/null",
            OFlags::RDONLY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(Self::over(socket))
    }

    fn over(socket: OwnedFd) -> Self {
        Self {
            socket,
            state: Mutex::default(),
        }
    }

    /// Receives what the keeper holds. Call it once, first; orders come after.
    pub fn adopt(&self) -> Result<Adopted, LinkError> {
        let (message, _) = self.next(true)?.ok_or(LinkError::Gone)?;
        let ToWorker::Start {
            restarts,
            limit,
            reason,
        } = message
        else {
            return Err(LinkError::BadMessage("it does not begin with a start".into()));
        };
        let mut adopted = Adopted {
            descriptors: Vec::new(),
            restarts,
            reason,
        };
        let mut state = self.state();
        state.limit = limit as usize;
        loop {
            match self.next(true)?.ok_or(LinkError::Gone)? {
                (ToWorker::HeldEnd, _) => return Ok(adopted),
                (ToWorker::Held(batch), fds) => accept(&mut state, &mut adopted, batch, fds)?,
                _ => return Err(LinkError::BadMessage("an order amid the hand-over".into())),
            }
        }
    }

    /// Has the keeper hold descriptors under a name, in place of what it held there. Once this returns they
    /// outlive the worker, whatever happens to it. At most [`MAX_PER_MESSAGE`] under one name.
    pub fn store(&self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let mut state = self.state();
        let former = state.names.get(name).copied();
        state.note(name, Kind::Descriptors, fds.len())?;
        let message = ToKeeper::Store {
            kind: Kind::Descriptors,
            name: name.to_owned(),
            count: fds.len(),
        };
        let (message, until) = (message.encode(), Instant::now() + IN_FLIGHT);
        loop {
            match channel::send(self.socket.as_fd(), &message, fds, true) {
                // The keeper has not taken yet what was sent before.
                Err(Errno::TOOMANYREFS) if Instant::now() < until => std::thread::sleep(IN_FLIGHT_PAUSE),
                Err(error) => {
                    match former {
                        Some(former) => drop(state.names.insert(name.to_owned(), former)),
                        None => drop(state.names.remove(name)),
                    }
                    return Err(error.into());
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Descriptors that the keeper would take beside those it holds.
    pub fn room(&self) -> usize {
        let state = self.state();
        let held: usize = state.names.values().map(|(_, count)| count).sum();
        state.limit.saturating_sub(held)
    }

    /// Has the keeper let go of a name, a memory too. A name not held is no error.
    pub fn remove(&self, name: &str) -> Result<(), LinkError> {
        let mut state = self.state();
        if state.names.remove(name).is_none() {
            return Ok(());
        }
        state.memories.remove(name);
        self.tell(&ToKeeper::Remove {
            name: name.to_owned(),
        })
    }

    /// The memory of a name: what the worker before had, or a new one filled with zeros. It is at least `size`
    /// octets long, grown if it was shorter, and can never shrink, so that mapping `size` octets is safe. It lives
    /// as long as the keeper.
    pub fn memory(&self, name: &str, size: u64) -> Result<File, LinkError> {
        if !(1..=MAX_MEMORY).contains(&size) {
            return Err(LinkError::Size(size));
        }
        let mut state = self.state();
        if let Some(fd) = state.memories.get(name) {
            let file = File::from(fd.try_clone()?);
            if file.metadata()?.len() < size {
                file.set_len(size)?;
            }
            return Ok(file);
        }
        state.note(name, Kind::Memory, 1)?;
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::SEAL)?;
        let message = ToKeeper::Store {
            kind: Kind::Memory,
            name: name.to_owned(),
            count: 1,
        };
        channel::send(self.socket.as_fd(), &message.encode(), &[fd.as_fd()], true)?;
        let file = File::from(fd.try_clone()?);
        state.memories.insert(name.to_owned(), fd);
        Ok(file)
    }

    /// Names of the memories the keeper holds.
    pub fn memories(&self) -> Vec<String> {
        self.state().memories.keys().cloned().collect()
    }

    /// Says that the worker serves: after its start, and after each reload.
    pub fn ready(&self) -> Result<(), LinkError> {
        self.tell(&ToKeeper::Ready)
    }

    /// Asks for a new worker when this one exits with code 0. Only a worker that was ready is started again at
    /// once.
    pub fn request_restart(&self) -> Result<(), LinkError> {
        self.tell(&ToKeeper::Restart)
    }

    /// Says that the exit with code 0 to come is meant for good: the keeper exits too.
    pub fn request_stop(&self) -> Result<(), LinkError> {
        self.tell(&ToKeeper::Stop)
    }

    /// A line about the worker for the service manager, at most [`crate::MAX_STATUS`] octets.
    pub fn status(&self, text: &str) -> Result<(), LinkError> {
        self.tell(&ToKeeper::Status(text.to_owned()))
    }

    /// Says "alive, and you will hear this again within that time": otherwise the keeper kills and restarts the
    /// worker. Zero ends the watch.
    pub fn alive(&self, within: Duration) -> Result<(), LinkError> {
        self.tell(&ToKeeper::Alive(within))
    }

    /// Waits for the next order.
    pub fn recv(&self) -> Result<Order, LinkError> {
        loop {
            match self.order(true) {
                Ok(Some(order)) => return Ok(order),
                Ok(None) => continue,
                Err(error) => return Err(error),
            }
        }
    }

    /// The next order if there is one. The link is readable (`AsFd`) when there may be.
    pub fn try_recv(&self) -> Result<Option<Order>, LinkError> {
        self.order(false)
    }

    fn order(&self, wait: bool) -> Result<Option<Order>, LinkError> {
        let message = match self.next(wait) {
            Ok(None) => return Ok(None),
            Ok(Some((message, _))) => message,
            Err(LinkError::Gone) => return Ok(Some(Order::KeeperGone)),
            Err(error) => return Err(error),
        };
        Ok(Some(match message {
            ToWorker::Reload => Order::Reload,
            ToWorker::Shutdown => Order::Shutdown,
            ToWorker::Stop => Order::Stop,
            ToWorker::Refused { name, why } => {
                self.state().names.remove(&name);
                Order::Refused { name, why }
            }
            ToWorker::Start { .. } | ToWorker::Held(_) | ToWorker::HeldEnd => {
                return Err(LinkError::BadMessage("a hand-over out of turn".into()));
            }
        }))
    }

    /// The next message; `None` if there is none and `wait` is false.
    fn next(&self, wait: bool) -> Result<Option<(ToWorker, Vec<OwnedFd>)>, LinkError> {
        match channel::receive(self.socket.as_fd(), wait)? {
            Received::Nothing => Ok(None),
            Received::Closed => Err(LinkError::Gone),
            Received::Packet { cut: true, .. } => Err(LinkError::BadMessage("cut short".into())),
            Received::Packet {
                bytes, descriptors, ..
            } => Ok(Some((ToWorker::decode(&bytes)?, descriptors))),
        }
    }

    fn tell(&self, message: &ToKeeper) -> Result<(), LinkError> {
        Ok(channel::send(self.socket.as_fd(), &message.encode(), &[], true)?)
    }

    /// The state stays consistent at every step, so a panic elsewhere while it was locked is no reason to fail.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sorts one batch of the hand-over.
fn accept(
    state: &mut State,
    adopted: &mut Adopted,
    batch: Vec<(Kind, String, usize)>,
    fds: Vec<OwnedFd>,
) -> Result<(), LinkError> {
    if batch.iter().map(|(_, _, count)| count).sum::<usize>() != fds.len() {
        return Err(LinkError::BadMessage(
            "descriptors are missing; raise the limit of open files".into(),
        ));
    }
    let mut fds = fds.into_iter();
    for (kind, name, count) in batch {
        state.names.insert(name.clone(), (kind, count));
        for fd in fds.by_ref().take(count) {
            match kind {
                Kind::Descriptors => adopted.descriptors.push((name.clone(), fd)),
                Kind::Memory if rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) => {
                    state.memories.insert(name.clone(), fd);
                }
                Kind::Memory => return Err(LinkError::NotSealed(name)),
            }
        }
    }
    Ok(())
}
