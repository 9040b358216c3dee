//! A socket that the runtime watches.
#![allow(unsafe_code)]

use crate::udp::UdpSocket;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket of the runtime that runs on this thread. It is watched for what can be read only: the kernel would tell of
/// room to write after each datagram that has left, and the thread would be woken for nothing.
pub(super) struct Watched(AsyncFd<UdpSocket>);

impl Watched {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        // SAFETY: a `UdpSocket` owns its descriptor, names always the same one and closes it only when it is dropped.
        // It is given away here, and this type lends it out only unchangeably; `AsyncFd` drops it, or gives it back
        // when it does not watch it any more.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(registered?))
    }

    pub(super) fn get(&self) -> &UdpSocket {
        self.0.get_ref()
    }

    pub(super) fn into_socket(self) -> UdpSocket {
        self.0.into_inner()
    }

    /// Does something where there may be something to read. It says, besides its result, whether there may be more;
    /// where not, the next datagram makes the socket ready again.
    pub(super) fn poll_read<R>(
        &self,
        cx: &mut Context<'_>,
        step: impl FnOnce(&UdpSocket) -> (R, bool),
    ) -> Poll<io::Result<R>> {
        let mut guard = ready!(self.0.poll_read_ready(cx))?;
        let (result, more) = step(self.0.get_ref());
        if more {
            guard.retain_ready();
        } else {
            guard.clear_ready();
        }
        Poll::Ready(Ok(result))
    }
}

/// Watches a socket for room to write, for as long as this is needed.
pub(super) struct Room(AsyncFd<OwnedFd>);

impl Room {
    pub(super) fn new(socket: &UdpSocket) -> io::Result<Self> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` holds an open descriptor until it is dropped and names always the same one. It is given
        // away here, and this type neither gives it out nor replaces it.
        let registered = unsafe { AsyncFd::register_with_interest(duplicate, Interest::WRITABLE) };
        Ok(Self(registered?))
    }

    /// Does something where something may be written. It says, besides its result, whether more may be; where not,
    /// room makes the socket ready again.
    pub(super) fn poll_write<R>(
        &self,
        cx: &mut Context<'_>,
        step: impl FnOnce() -> (R, bool),
    ) -> Poll<io::Result<R>> {
        let mut guard = ready!(self.0.poll_write_ready(cx))?;
        let (result, more) = step();
        if more {
            guard.retain_ready();
        } else {
            guard.clear_ready();
        }
        Poll::Ready(Ok(result))
    }
}
