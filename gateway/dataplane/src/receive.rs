//! The memory that received packets lie in while they are worked on: one buffer for each train of datagrams of a
//! batch, and a stash behind them for packets that come from elsewhere. Packets are named by their range in it,
//! so that they need neither be copied nor borrowed until they are written out.

use crate::sys::udp::{self, RECV_BATCH, Received};
use crate::udp::UdpSocket;
use std::io;
use std::ops::Range;

/// Octets of one buffer: the largest train.
const BUFFER: usize = 64 << 10;
/// Octets of the stash.
const STASH: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Arena {
    bytes: Box<[u8]>,
    stashed: usize,
    received: [Received; RECV_BATCH],
}

impl Arena {
    const STASH_START: usize = RECV_BATCH * BUFFER;

    pub(crate) fn new() -> Self {
        Arena {
            bytes: vec![0; Self::STASH_START + STASH].into_boxed_slice(),
            stashed: 0,
            received: [Received::NONE; RECV_BATCH],
        }
    }

    /// Receives a batch of at most `most` trains, from 1 to [`RECV_BATCH`]; gives their number.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, most: usize) -> io::Result<usize> {
        let (buffers, _) = self
            .bytes
            .split_at_mut_checked(most.clamp(1, RECV_BATCH) * BUFFER)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        udp::receive(socket.as_fd(), buffers, BUFFER, &mut self.received)
    }

    /// What was received into buffer `index`, and the range it lies in.
    pub(crate) fn train(&self, index: usize) -> Option<(Received, Range<usize>)> {
        let received = *self.received.get(index)?;
        let start = index * BUFFER;
        Some((received, start..start + received.length.min(BUFFER)))
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Copies a packet behind the others; `None`: there is no room until [`Arena::clear_stash`].
    pub(crate) fn stash(&mut self, packet: &[u8]) -> Option<Range<usize>> {
        let start = Self::STASH_START + self.stashed;
        let range = start..start + packet.len();
        self.bytes.get_mut(range.clone())?.copy_from_slice(packet);
        self.stashed += packet.len();
        Some(range)
    }

    /// Forgets all stashed packets. Nothing may name them any more.
    pub(crate) fn clear_stash(&mut self) {
        self.stashed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stash_is_bounded_and_lies_behind_the_buffers() {
        let mut arena = Arena::new();
        let packet = vec![7; 60_000];
        let ranges: Vec<_> = std::iter::from_fn(|| arena.stash(&packet)).collect();
        assert_eq!(ranges.len(), STASH / packet.len());
        for (index, range) in ranges.iter().enumerate() {
            assert_eq!(range.start, RECV_BATCH * BUFFER + index * packet.len());
            assert_eq!(arena.bytes()[range.clone()], packet[..]);
        }
        arena.clear_stash();
        assert_eq!(arena.stash(&packet), Some(ranges[0].clone()));
    }
}
