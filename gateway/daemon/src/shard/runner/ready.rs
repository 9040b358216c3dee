//! Waiting for descriptors that the data plane owns.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the runtime watches. It is a duplicate, so that neither side can close it under the other:
/// both are names of one open file, and readiness is the file's.
pub(super) struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches a descriptor of the runtime that is entered.
    pub(super) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let duplicate = fd.try_clone_to_owned()?;
        // SAFETY: `OwnedFd` holds an open descriptor until it is dropped and always names the same one. It is given
        // away here, and this type neither gives it out nor replaces it; it is closed by `AsyncFd`'s own drop.
        let registered = unsafe { AsyncFd::register(duplicate) };
        Ok(Self(registered?))
    }

    /// Whether there may be something to read.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|_| ())
    }

    /// Whether something may be written.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_write_ready(cx).map(|_| ())
    }

    /// Does something where there may be something to read, or `anyway`. It says whether there may be more; where
    /// not, the next packet makes the descriptor ready again.
    pub(super) fn read(&self, anyway: bool, step: impl FnOnce() -> bool) {
        let mut step = Some(step);
        self.attempt(Interest::READABLE, || step.take().is_some_and(|step| step()));
        if let Some(step) = step.filter(|_| anyway) {
            // It was not ready. Whatever comes from now on makes it so.
            step();
        }
    }

    /// Does something where something may be written. It says whether more may be written; where not, room makes
    /// the descriptor ready again.
    pub(super) fn write(&self, step: impl FnOnce() -> bool) {
        self.attempt(Interest::WRITABLE, step);
    }

    fn attempt(&self, interest: Interest, step: impl FnOnce() -> bool) {
        // The only error there is says that the descriptor is not ready.
        let _: io::Result<()> = self.0.try_io(interest, |_| {
            if step() {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
    }
}
