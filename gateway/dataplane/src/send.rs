//! What waits to leave by one socket: datagrams back to back in one buffer, grouped into trains that the kernel
//! cuts (`UDP_SEGMENT`), and sent many trains a call.

use crate::drops::{Dropped, Drops};
use crate::sys::udp::{self, Outgoing, SEND_BATCH};
use crate::udp::UdpSocket;
use bytes::BytesMut;
use sluice_spi::PeerAddr;
use std::io;

/// Most datagrams of a train (`UDP_MAX_SEGMENTS` of older kernels; newer ones take 128).
pub(crate) const MAX_TRAIN: u16 = 64;
/// Most octets of a train: the largest IPv4 datagram, without IP and UDP headers, for which no header is missed.
const MAX_TRAIN_BYTES: usize = 65_507 - 8;
/// Octets that may wait in a data queue while its socket takes nothing.
pub(crate) const DATA_BACKLOG: usize = 1 << 20;
/// Octets that may wait besides, for frames of machines.
pub(crate) const FRAME_RESERVE: usize = 64 << 10;
/// Octets that may wait in a control queue.
pub(crate) const CONTROL_BACKLOG: usize = 1 << 20;
/// Tries of a train before it is dropped: one may report an error of an earlier datagram.
const TRIES: u32 = 3;

/// A train of datagrams to one peer, or a single one.
#[derive(Clone, Copy, Debug)]
struct Train {
    start: usize,
    length: usize,
    /// Length of each datagram; the last may be shorter.
    segment: usize,
    count: u16,
    /// Nothing can be added.
    closed: bool,
    peer: PeerAddr,
}

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing waits.
    All,
    /// The socket takes nothing more for now.
    Blocked,
}

/// Counters of sending.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SendStats {
    pub calls: u64,
    /// Datagrams that the kernel took, and their octets.
    pub datagrams: u64,
    pub bytes: u64,
}

/// A queue of one socket.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    bytes: BytesMut,
    trains: Vec<Train>,
    /// Trains before this one have left.
    head: usize,
}

impl SendQueue {
    /// Octets in the buffer.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The buffer, to append one datagram to, which [`SendQueue::commit`] then makes part of the queue.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Takes back what was appended to the buffer since it was `start` long.
    pub(crate) fn discard(&mut self, start: usize) {
        self.bytes.truncate(start);
    }

    /// Datagrams that wait.
    pub(crate) fn datagrams(&self) -> u64 {
        let waiting = self.trains.get(self.head..).unwrap_or_default();
        waiting.iter().map(|train| u64::from(train.count)).sum()
    }

    /// Queues what was appended to the buffer since it was `start` long. Nothing happens where nothing was.
    pub(crate) fn commit(&mut self, start: usize, peer: PeerAddr) {
        if self.bytes.len() > start {
            self.commit_any(start, peer);
        }
    }

    /// The same, but where nothing was appended, an empty datagram is queued.
    pub(crate) fn commit_any(&mut self, start: usize, peer: PeerAddr) {
        let length = self.bytes.len().saturating_sub(start);
        let is_last_unsent = self.trains.len() > self.head;
        if let Some(last) = self.trains.last_mut().filter(|last| {
            is_last_unsent
                && !last.closed
                && last.peer == peer
                && length > 0
                && length <= last.segment
                && last.count < MAX_TRAIN
                && last.length + length <= MAX_TRAIN_BYTES
        }) {
            last.length += length;
            last.count += 1;
            last.closed = length < last.segment;
            return;
        }
        self.trains.push(Train {
            start,
            length,
            segment: length,
            count: 1,
            closed: length == 0,
            peer,
        });
    }

    /// Queues a finished datagram; false: no room.
    pub(crate) fn push(&mut self, peer: PeerAddr, datagram: &[u8], limit: usize) -> bool {
        if self.bytes.len() + datagram.len() > limit {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.commit(start, peer);
        true
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, socket: &UdpSocket, stats: &mut SendStats, drops: &mut Drops) -> Sent {
        while self.head < self.trains.len() {
            let result = if socket.segments() {
                self.send_trains(socket, stats)
            } else {
                self.send_singly(socket, stats)
            };
            if let Err(error) = result
                && self.recover(socket, stats, drops, &error) == Sent::Blocked
            {
                return Sent::Blocked;
            }
        }
        self.trains.clear();
        self.head = 0;
        self.bytes.clear();
        Sent::All
    }

    fn send_trains(&mut self, socket: &UdpSocket, stats: &mut SendStats) -> io::Result<()> {
        let waiting = self.trains.get(self.head..).unwrap_or_default();
        let outgoing = |train: &Train| Outgoing {
            bytes: self
                .bytes
                .get(train.start..train.start + train.length)
                .unwrap_or_default(),
            segment: if train.count > 1 { train.segment as u16 } else { 0 },
            remote: train.peer.remote,
            local: train.peer.local,
        };
        stats.calls += 1;
        let (sent, count) = match waiting {
            // Often there is but one, and room for more need not be cleared.
            [only] => (udp::send(socket.as_fd(), &[outgoing(only)])?, 1),
            _ => {
                let mut batch = [NOTHING; SEND_BATCH];
                let mut count = 0;
                for (place, train) in batch.iter_mut().zip(waiting) {
                    *place = outgoing(train);
                    count += 1;
                }
                let batch = batch.get(..count).unwrap_or_default();
                (udp::send(socket.as_fd(), batch)?, count)
            }
        };
        for train in waiting.iter().take(sent) {
            stats.datagrams += u64::from(train.count);
            stats.bytes += train.length as u64;
        }
        self.head += sent.max(1).min(count);
        Ok(())
    }

    /// Sends the first train's datagrams one by one, and leaves in it what did not go out.
    fn send_singly(&mut self, socket: &UdpSocket, stats: &mut SendStats) -> io::Result<()> {
        let Some(train) = self.trains.get_mut(self.head) else {
            return Ok(());
        };
        let bytes = self
            .bytes
            .get(train.start..train.start + train.length)
            .unwrap_or_default();
        let mut batch = [NOTHING; SEND_BATCH];
        let mut count = 0;
        // An empty datagram is no piece of its bytes.
        let empty = bytes.is_empty().then_some(bytes);
        let datagrams = bytes.chunks(train.segment.max(1)).chain(empty);
        for (place, datagram) in batch.iter_mut().zip(datagrams) {
            *place = Outgoing {
                bytes: datagram,
                segment: 0,
                remote: train.peer.remote,
                local: train.peer.local,
            };
            count += 1;
        }
        stats.calls += 1;
        let sent = udp::send(socket.as_fd(), batch.get(..count).unwrap_or_default())?;
        stats.datagrams += sent as u64;
        let sent = sent.max(1);
        let skipped: usize = batch.iter().take(sent).map(|out| out.bytes.len()).sum();
        stats.bytes += skipped as u64;
        train.closed = true;
        train.start += skipped;
        train.length -= skipped.min(train.length);
        train.count = train.count.saturating_sub(sent as u16);
        if train.count == 0 {
            self.head += 1;
        }
        Ok(())
    }

    /// Deals with an error about the first train.
    fn recover(
        &mut self,
        socket: &UdpSocket,
        stats: &mut SendStats,
        drops: &mut Drops,
        error: &io::Error,
    ) -> Sent {
        let Some(train) = self.trains.get(self.head).copied() else {
            return Sent::All;
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return Sent::Blocked,
            Some(libc::EINTR) => return Sent::All,
            // The egress device computes no checksums, so the kernel cannot cut trains for it.
            Some(libc::EIO) if train.count > 1 => socket.disable_segmentation(),
            _ => socket.note_error(),
        }
        // One by one: either the train is too large for the path now, or the error is of an earlier datagram,
        // or of one of these.
        let (failed, mut tries) = (self.head, 0);
        while self.head == failed {
            match self.send_singly(socket, stats) {
                Ok(()) => tries = 0,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Sent::Blocked,
                Err(_) if tries + 1 < TRIES => tries += 1,
                Err(_) => {
                    drops.one(Dropped::SendFailed);
                    self.skip_datagram();
                    tries = 0;
                }
            }
        }
        Sent::All
    }

    /// Gives up the first datagram that waits.
    fn skip_datagram(&mut self) {
        let Some(train) = self.trains.get_mut(self.head) else {
            return;
        };
        let skipped = train.segment.min(train.length);
        train.closed = true;
        train.start += skipped;
        train.length -= skipped;
        train.count = train.count.saturating_sub(1);
        if train.count == 0 {
            self.head += 1;
        }
    }
}

/// A place in a batch that is not used.
const NOTHING: Outgoing<'static> = Outgoing {
    bytes: &[],
    segment: 0,
    remote: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    local: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
};

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> PeerAddr {
        PeerAddr {
            remote: ([192, 0, 2, 1], port).into(),
            local: ([192, 0, 2, 2], 1701).into(),
        }
    }

    fn trains(datagrams: &[(u16, usize)]) -> Vec<(usize, u16)> {
        let mut queue = SendQueue::default();
        for &(port, length) in datagrams {
            assert!(queue.push(peer(port), &vec![0; length], usize::MAX));
        }
        queue
            .trains
            .iter()
            .map(|train| (train.length, train.count))
            .collect()
    }

    #[test]
    fn equal_datagrams_to_one_peer_make_a_train() {
        assert_eq!(
            trains(&[(1, 100), (1, 100), (1, 60), (1, 60)]),
            [(260, 3), (60, 1)]
        );
        assert_eq!(trains(&[(1, 100), (1, 120)]), [(100, 1), (120, 1)]);
        assert_eq!(
            trains(&[(1, 100), (2, 100), (1, 100)]),
            [(100, 1), (100, 1), (100, 1)]
        );
    }

    #[test]
    fn trains_end_at_their_limits() {
        let many = vec![(1, 10); usize::from(MAX_TRAIN) + 1];
        assert_eq!(trains(&many), [(640, 64), (10, 1)]);
        let large = vec![(1, 1400); 47];
        assert_eq!(trains(&large), [(1400 * 46, 46), (1400, 1)]);
    }

    #[test]
    fn an_empty_datagram_is_queued_only_where_it_is_meant() {
        let mut queue = SendQueue::default();
        queue.commit(0, peer(1));
        assert_eq!(queue.datagrams(), 0);
        assert!(queue.push(peer(1), &[0; 10], 100));
        for _ in 0..2 {
            queue.commit_any(queue.len(), peer(1));
        }
        assert!(queue.push(peer(1), &[0; 10], 100));
        let made: Vec<_> = queue
            .trains
            .iter()
            .map(|train| (train.length, train.count))
            .collect();
        assert_eq!(made, [(10, 1), (0, 1), (0, 1), (10, 1)]);
        assert_eq!(queue.datagrams(), 4);
    }

    #[test]
    fn empty_datagrams_arrive_and_where_they_cannot_are_counted() {
        for trains in [true, false] {
            let (socket, receiver, ends) = sockets();
            if !trains {
                socket.disable_segmentation();
            }
            let (mut queue, mut stats, mut drops): (SendQueue, SendStats, Drops) = Default::default();
            let unusable = PeerAddr {
                remote: ([255, 255, 255, 255], 9).into(),
                ..ends
            };
            queue.commit_any(0, unusable);
            queue.commit_any(0, ends);
            fill(&mut queue, ends, 1);
            assert_eq!(queue.flush(&socket, &mut stats, &mut drops), Sent::All);
            assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 0);
            received(&receiver, 1);
            assert_eq!((stats.datagrams, stats.bytes), (2, 199));
            assert_eq!(drops.count(Dropped::SendFailed), 1);
        }
    }

    #[test]
    fn a_full_queue_refuses() {
        let mut queue = SendQueue::default();
        assert!(queue.push(peer(1), &[0; 60], 100));
        assert!(!queue.push(peer(1), &[0; 60], 100));
    }

    /// A socket, one that it sends to, and both ends.
    fn sockets() -> (UdpSocket, std::net::UdpSocket, PeerAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let ends = PeerAddr {
            remote: receiver.local_addr().unwrap(),
            local: socket.local_addr(),
        };
        (socket, receiver, ends)
    }

    fn received(receiver: &std::net::UdpSocket, count: u8) {
        let mut buffer = [0; 1000];
        for number in 0..count {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(
                (buffer[0], length),
                (number, 200 - usize::from(number == count - 1))
            );
        }
        receiver.set_nonblocking(true).unwrap();
        assert!(receiver.recv(&mut buffer).is_err());
    }

    fn fill(queue: &mut SendQueue, ends: PeerAddr, count: u8) {
        for number in 0..count {
            let length = 200 - usize::from(number == count - 1);
            assert!(queue.push(ends, &vec![number; length], usize::MAX));
        }
    }

    #[test]
    fn trains_and_single_datagrams_arrive_alike() {
        for trains in [true, false] {
            let (socket, receiver, ends) = sockets();
            if !trains {
                socket.disable_segmentation();
            }
            let (mut queue, mut stats, mut drops) = Default::default();
            fill(&mut queue, ends, 100);
            assert_eq!(queue.flush(&socket, &mut stats, &mut drops), Sent::All);
            received(&receiver, 100);
            assert_eq!(stats.datagrams, 100);
            assert_eq!(stats.calls == 1, trains);
            assert_eq!(queue.len(), 0);
        }
    }

    #[test]
    fn a_device_without_checksums_ends_trains_for_good() {
        let (socket, receiver, ends) = sockets();
        let (mut queue, mut stats, mut drops): (SendQueue, _, _) = Default::default();
        fill(&mut queue, ends, 50);
        let error = io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(queue.recover(&socket, &mut stats, &mut drops, &error), Sent::All);
        received(&receiver, 50);
        assert!(!socket.segments());
        assert_eq!(queue.flush(&socket, &mut stats, &mut drops), Sent::All);
        assert_eq!((stats.datagrams, drops.count(Dropped::SendFailed)), (50, 0));
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_does_not_keep_the_rest() {
        let (socket, receiver, ends) = sockets();
        let (mut queue, mut stats, mut drops) = Default::default();
        let unusable = PeerAddr {
            remote: ([255, 255, 255, 255], 9).into(),
            ..ends
        };
        for length in [10, 10, 5] {
            assert!(SendQueue::push(
                &mut queue,
                unusable,
                &vec![0; length],
                usize::MAX
            ));
        }
        fill(&mut queue, ends, 3);
        assert_eq!(queue.flush(&socket, &mut stats, &mut drops), Sent::All);
        received(&receiver, 3);
        assert_eq!((stats.datagrams, drops.count(Dropped::SendFailed)), (3, 3));
        assert!(socket.segments());
    }
}
