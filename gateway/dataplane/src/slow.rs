//! What is not for the data plane: control messages, data of sessions without a path, and frames for machines.
//!
//! One queue, in the order of arrival, because a session's first data follows its control messages and must not
//! overtake them or be overtaken. Each kind has a quota of its own, so that no flood of data displaces a control
//! message. The quotas are as large as what one poll can bring, and the driver empties the queue after each.

use crate::ListenerId;
use crate::paths::Path;
use bytes::BytesMut;
use sluice_spi::{Direction, LocalRef, MachineKey, PeerAddr, SlowFrame};
use std::collections::VecDeque;

/// Control messages that may wait.
pub const CONTROL_QUOTA: usize = 2048;
/// Data packets without a path that may wait.
pub const DATA_QUOTA: usize = 1024;
/// Frames of installed paths that may wait.
pub const FRAME_QUOTA: usize = 1024;
/// Reports of unreachable peers that may wait.
pub const REPORT_QUOTA: usize = 64;
/// Copies for traces that may wait. Traces are few, and what finds no room is only missing in them.
pub const TAP_QUOTA: usize = 256;

/// An item for the driver.
#[derive(Debug)]
pub enum Slow {
    /// A datagram for the listener's front.
    Datagram {
        /// The listener.
        listener: ListenerId,
        /// Where it came from and where it came to.
        from: PeerAddr,
        /// The bytes.
        packet: BytesMut,
    },
    /// A frame of an installed path, for its machine.
    Frame {
        /// The listener of the machine.
        listener: ListenerId,
        /// The frame.
        frame: SlowFrame,
    },
    /// The network reported (ICMP) that a peer is unreachable. Never proof.
    Unreachable {
        /// The listener.
        listener: ListenerId,
        /// The peer, and our address that was used towards it.
        peer: PeerAddr,
    },
    /// A copy of a packet with a frame, of a path that [`sluice_spi::DataPath::tap`] was switched on for.
    Tapped {
        /// The machine of the path.
        machine: MachineKey,
        /// The session of the path.
        session: LocalRef,
        /// Which way the packet went.
        direction: Direction,
        /// The peer, and our address.
        peer: PeerAddr,
        /// The whole packet, as its codec left it.
        packet: BytesMut,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Control,
    Data,
    Frame,
    Report,
    Tap,
}

const KINDS: usize = 5;

impl Kind {
    fn quota(self) -> usize {
        match self {
            Kind::Control => CONTROL_QUOTA,
            Kind::Data => DATA_QUOTA,
            Kind::Frame => FRAME_QUOTA,
            Kind::Report => REPORT_QUOTA,
            Kind::Tap => TAP_QUOTA,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct SlowQueue {
    items: VecDeque<(Kind, Slow)>,
    waiting: [usize; KINDS],
}

impl SlowQueue {
    /// Whether another of a kind may wait. Asked before a packet is copied.
    pub(crate) fn has_room(&self, kind: Kind) -> bool {
        self.waiting
            .get(kind as usize)
            .is_some_and(|&count| count < kind.quota())
    }

    /// Lets an item wait; false: its kind's quota is used up.
    pub(crate) fn push(&mut self, kind: Kind, item: Slow) -> bool {
        if !self.has_room(kind) {
            return false;
        }
        if let Some(count) = self.waiting.get_mut(kind as usize) {
            *count += 1;
        }
        self.items.push_back((kind, item));
        true
    }

    /// Lets the copy of a path's packet wait, before what waits since there were `at` items: the frames that it
    /// brought may end its session.
    pub(crate) fn tap(
        &mut self,
        at: usize,
        path: &Path,
        direction: Direction,
        peer: PeerAddr,
        packet: &[u8],
    ) {
        if self.has_room(Kind::Tap) {
            let item = Slow::Tapped {
                machine: path.machine,
                session: path.session,
                direction,
                peer,
                packet: BytesMut::from(packet),
            };
            self.push(Kind::Tap, item);
            if let Some(last) = self.items.pop_back() {
                self.items.insert(at.min(self.items.len()), last);
            }
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Slow> {
        let (kind, item) = self.items.pop_front()?;
        if let Some(count) = self.waiting.get_mut(kind as usize) {
            *count = count.saturating_sub(1);
        }
        Some(item)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(byte: u8) -> Slow {
        let address = ([192, 0, 2, 1], 1701).into();
        Slow::Datagram {
            listener: ListenerId(0),
            from: PeerAddr {
                remote: address,
                local: address,
            },
            packet: BytesMut::from(&[byte][..]),
        }
    }

    #[test]
    fn a_flood_of_data_leaves_room_for_control_and_order_is_kept() {
        let mut queue = SlowQueue::default();
        assert!(queue.push(Kind::Control, datagram(1)));
        for _ in 0..DATA_QUOTA {
            assert!(queue.push(Kind::Data, datagram(2)));
        }
        assert!(!queue.push(Kind::Data, datagram(2)));
        assert!(queue.push(Kind::Control, datagram(3)));
        let mut order = Vec::new();
        while let Some(Slow::Datagram { packet, .. }) = queue.pop() {
            order.push(packet[0]);
        }
        assert_eq!(order.len(), DATA_QUOTA + 2);
        assert_eq!((order[0], order[1], order[DATA_QUOTA + 1]), (1, 2, 3));
        assert!(queue.has_room(Kind::Data));
    }
}
