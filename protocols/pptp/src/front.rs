//! The front of a listener's shard: whose a GRE packet is that no path takes, and keys for machines. What peers have
//! proven nothing yet is bounded where machines take their places ([`crate::registry::Place`]).

use crate::names::drops;
use crate::registry::Shared;
use crate::wire::gre;
use bytes::BytesMut;
use sluice_spi::{
    DropReason, Entropy, Event, Front, MachineKey, PeerAddr, Route, ShardId, Shards, Transmit, random_u16,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

pub(crate) struct PptpFront {
    shared: Arc<Shared>,
    shard: ShardId,
    shards: Shards,
    entropy: Box<dyn Entropy>,
    dropped: VecDeque<DropReason>,
}

impl PptpFront {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shard: ShardId,
        shards: Shards,
        entropy: Box<dyn Entropy>,
    ) -> Self {
        Self {
            shared,
            shard,
            shards,
            entropy,
            dropped: VecDeque::new(),
        }
    }
}

impl Front for PptpFront {
    fn handle_datagram(&mut self, _: PeerAddr, packet: &[u8], _: Instant) -> Route {
        let Some(call) = gre::call_id(packet) else {
            self.dropped.push_back(drops::HEADER);
            return Route::Done;
        };
        match self.shared.owner(call) {
            // It looks at the sender itself.
            Some(key) => Route::Machine(key),
            None => {
                self.dropped.push_back(drops::UNKNOWN_CALL);
                Route::Done
            }
        }
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self, _: Instant, _: &mut BytesMut) -> Option<Transmit> {
        None
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.dropped.pop_front().map(Event::Dropped)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn mint(&mut self, now: Instant) -> Option<MachineKey> {
        let entropy = &mut *self.entropy;
        let key = self
            .shared
            .mint_key(self.shard, self.shards, || random_u16(entropy), now)?;
        Some(MachineKey(key.into()))
    }

    fn reserve(&mut self, key: MachineKey) -> bool {
        u16::try_from(key.0).is_ok_and(|key| self.shared.reserve_key(key))
    }

    fn release(&mut self, key: MachineKey, now: Instant) {
        if let Ok(key) = u16::try_from(key.0) {
            self.shared.release_key(key, now);
        }
    }

    fn half_open(&self) -> usize {
        // All shards share one table; each says its part, so that the sum is right.
        let (all, count) = (self.shared.half_open(), usize::from(self.shards.count()));
        all / count + usize::from(usize::from(self.shard.0) < all % count)
    }
}
