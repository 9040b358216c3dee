//! Bounded rings between shards, for the rare packet that one shard receives and another owns: a first packet
//! towards a client that the TUN device gave to the wrong queue, or a datagram in a train of several tunnels.
//! A packet crosses once; the shard it comes to does not pass it on.

use crate::ListenerId;
use sluice_spi::{PeerAddr, ShardId, Shards};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Packets that may wait for one shard.
pub const RING: usize = 512;
/// Emptied buffers kept for the next packets to cross.
const SPARE: usize = 64;

/// Tells a shard's driver, from another thread, that [`crate::UserPath::poll_mesh`] has work.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What a crossing packet is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cargo {
    /// A datagram that a listener received.
    Datagram(ListenerId, PeerAddr),
    /// What a TUN queue gave, with its header.
    Tun,
}

/// A packet on its way.
#[derive(Debug)]
pub(crate) struct Crossing {
    pub cargo: Cargo,
    pub bytes: Vec<u8>,
    /// Where the buffer goes back to.
    home: usize,
}

struct Peer {
    inbox: SyncSender<Crossing>,
    spare: SyncSender<Vec<u8>>,
    wake: Waker,
    /// Something was put into its ring since it was last woken.
    woken: bool,
}

/// One shard's end of the rings.
pub struct MeshPort {
    shard: ShardId,
    shards: Shards,
    inbox: Receiver<Crossing>,
    spare: Receiver<Vec<u8>>,
    peers: Vec<Peer>,
}

impl fmt::Debug for MeshPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshPort")
            .field("shard", &self.shard)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}

/// Joins the shards whose wakers are given, in their order; at most [`Shards::VIRTUAL`].
pub fn mesh(wakers: Vec<Waker>) -> Vec<MeshPort> {
    let shards = Shards::new(u16::try_from(wakers.len()).unwrap_or(u16::MAX));
    let rings: Vec<_> = wakers
        .into_iter()
        .take(usize::from(shards.count()))
        .map(|wake| (sync_channel(RING), sync_channel(SPARE), wake))
        .collect();
    let senders: Vec<_> = rings
        .iter()
        .map(|((inbox, _), (spare, _), wake)| (inbox.clone(), spare.clone(), wake.clone()))
        .collect();
    rings
        .into_iter()
        .zip(0..)
        .map(|(((_, inbox), (_, spare), _), shard)| MeshPort {
            shard: ShardId(shard),
            shards,
            inbox,
            spare,
            peers: senders
                .iter()
                .map(|(inbox, spare, wake)| Peer {
                    inbox: inbox.clone(),
                    spare: spare.clone(),
                    wake: wake.clone(),
                    woken: false,
                })
                .collect(),
        })
        .collect()
}

impl MeshPort {
    /// The shard whose end this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> Shards {
        self.shards
    }

    /// Sends a packet to another shard; false: its ring is full, or there is no such shard.
    pub(crate) fn cross(&mut self, to: ShardId, cargo: Cargo, packet: &[u8]) -> bool {
        let home = usize::from(self.shard.0);
        let Some(peer) = self.peers.get_mut(usize::from(to.0)) else {
            return false;
        };
        let mut bytes = self.spare.try_recv().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(packet);
        let sent = peer.inbox.try_send(Crossing { cargo, bytes, home }).is_ok();
        peer.woken |= sent;
        sent
    }

    /// Wakes the shards that were sent something.
    pub(crate) fn wake(&mut self) {
        for peer in &mut self.peers {
            if std::mem::take(&mut peer.woken) {
                (peer.wake)();
            }
        }
    }

    /// The next packet from another shard.
    pub(crate) fn receive(&mut self) -> Option<Crossing> {
        self.inbox.try_recv().ok()
    }

    /// Gives a packet's buffer back to the shard that filled it; where that has enough, it is freed.
    pub(crate) fn give_back(&mut self, crossing: Crossing) {
        if let Some(peer) = self.peers.get(crossing.home) {
            let _ = peer.spare.try_send(crossing.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn packets_cross_wake_once_and_give_their_buffers_back() {
        let woken = Arc::new(AtomicUsize::new(0));
        let waker: Waker = Arc::new({
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut ports = mesh(vec![waker.clone(), waker]);
        let mut second = ports.pop().unwrap();
        let mut first = ports.pop().unwrap();
        for byte in 0..3 {
            assert!(first.cross(ShardId(1), Cargo::Tun, &[byte]));
        }
        first.wake();
        first.wake();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        for byte in 0..3 {
            let crossing = second.receive().unwrap();
            assert_eq!(crossing.bytes, [byte]);
            second.give_back(crossing);
        }
        assert!(second.receive().is_none());
        assert_eq!(first.spare.try_iter().count(), 3);
        assert!(!first.cross(ShardId(2), Cargo::Tun, &[]));
    }

    #[test]
    fn a_full_ring_refuses() {
        let waker: Waker = Arc::new(|| {});
        let mut ports = mesh(vec![waker.clone(), waker]);
        for _ in 0..RING {
            assert!(ports[0].cross(ShardId(1), Cargo::Tun, b"x"));
        }
        assert!(!ports[0].cross(ShardId(1), Cargo::Tun, b"x"));
        assert!(ports[1].cross(ShardId(0), Cargo::Tun, b"x"));
    }
}
