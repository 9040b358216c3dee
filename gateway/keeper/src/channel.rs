//! One end of the socket pair: packets with descriptors beside them.

use crate::MAX_PER_MESSAGE;
use crate::wire::MAX_MESSAGE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A packet as it came.
pub(crate) enum Received {
    /// Nothing there now (only of a read that does not wait).
    Nothing,
    /// The other end is closed.
    Closed,
    /// A packet with its descriptors.
    Packet {
        bytes: Vec<u8>,
        descriptors: Vec<OwnedFd>,
        /// The packet was longer than any message may be, or descriptors were lost on the way.
        cut: bool,
    },
}

/// Both ends of a new channel, closed on exec.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Sends one packet. With `wait` false it fails with `AGAIN` rather than wait for room.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > MAX_PER_MESSAGE {
        return Err(Errno::MSGSIZE);
    }
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL
        | if wait {
            SendFlags::empty()
        } else {
            SendFlags::DONTWAIT
        };
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
    }
}

/// Receives one packet.
pub(crate) fn receive(socket: BorrowedFd<'_>, wait: bool) -> Result<Received, Errno> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_PER_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC
        | if wait {
            RecvFlags::empty()
        } else {
            RecvFlags::DONTWAIT
        };
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(error),
        }
    };
    let mut descriptors = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            descriptors.extend(rights);
        }
    }
    if message.bytes == 0 && descriptors.is_empty() && hung_up(socket) {
        return Ok(Received::Closed);
    }
    bytes.truncate(message.bytes);
    let cut = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received::Packet {
        bytes,
        descriptors,
        cut,
    })
}

/// Whether the other end is closed; an empty packet alone does not mean that.
fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => {
            let [fd] = fds;
            fd.revents()
                .intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_packet_is_not_the_end() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"", &[], true).unwrap();
        assert!(matches!(receive(b.as_fd(), false), Ok(Received::Packet { bytes, .. }) if bytes.is_empty()));
        assert!(matches!(receive(b.as_fd(), false), Ok(Received::Nothing)));
        drop(a);
        assert!(matches!(receive(b.as_fd(), false), Ok(Received::Closed)));
    }

    #[test]
    fn an_overlong_packet_is_marked_as_cut() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &vec![1; MAX_MESSAGE + 1], &[], true).unwrap();
        assert!(matches!(
            receive(b.as_fd(), true),
            Ok(Received::Packet { cut: true, .. })
        ));
    }

    #[test]
    fn a_full_batch_of_descriptors_passes_and_one_more_is_refused() {
        let (a, b) = pair().unwrap();
        let fds = vec![a.as_fd(); MAX_PER_MESSAGE];
        send(a.as_fd(), b"x", &fds, true).unwrap();
        let Ok(Received::Packet { descriptors, cut, .. }) = receive(b.as_fd(), true) else {
            panic!("no packet")
        };
        assert_eq!((descriptors.len(), cut), (MAX_PER_MESSAGE, false));
        let fds = vec![a.as_fd(); MAX_PER_MESSAGE + 1];
        assert_eq!(send(a.as_fd(), b"x", &fds, true), Err(Errno::MSGSIZE));
    }
}
