//! Names of things, as newtypes so that they cannot be mixed up.

use std::net::SocketAddr;

/// A module's own name of one session within its machine. Core mints the public session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalRef(pub u32);

/// A module's own name of one machine on its listener and shard, such as the local L2TP tunnel id. It is what
/// a front reads from a datagram to say whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineKey(pub u32);

/// What identifies a path in a data packet that arrives on a listener, such as local tunnel and session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathKey(pub u32);

/// A slot of the data plane's path table with its generation: a stale one misses safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathRef {
    /// Index into the table.
    pub slot: u32,
    /// Incremented each time the slot is given anew.
    pub generation: u32,
}

/// One shard: a thread with its own sockets, sessions and timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// How identifiers name shards. They carry a *virtual* shard in their low bits, so that the number of real
/// shards may change over a restart while identifiers on the wire stay valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    count: u16,
}

impl Shards {
    /// Number of virtual shards: fixed in every stored identifier. 16 leaves 12 random bits in a 16-bit id.
    pub const VIRTUAL: u16 = 16;

    /// A gateway with `count` shards, between 1 and [`Shards::VIRTUAL`].
    pub fn new(count: u16) -> Self {
        Self {
            count: count.clamp(1, Self::VIRTUAL),
        }
    }

    /// Number of real shards.
    pub fn count(self) -> u16 {
        self.count
    }

    /// The shard that owns an identifier.
    pub fn of_id(self, id: u16) -> ShardId {
        ShardId((id % Self::VIRTUAL) % self.count)
    }

    /// Turns 16 random bits into an identifier owned by `shard`. May give 0, which callers redraw.
    pub fn mint(self, shard: ShardId, random: u16) -> u16 {
        // The virtual shards of this shard are shard, shard + count, …: choose among them by the low bits.
        let choices = (Self::VIRTUAL - shard.0 % self.count).div_ceil(self.count);
        let virtual_shard = shard.0 % self.count + (random % choices) * self.count;
        ((random / Self::VIRTUAL) * Self::VIRTUAL) | virtual_shard
    }
}

/// Both ends of a datagram or connection as the gateway sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr {
    /// The other end.
    pub remote: SocketAddr,
    /// Our end: the address and port the packet came to and answers must leave from.
    pub local: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::{ShardId, Shards};

    #[test]
    fn minted_ids_belong_to_their_shard() {
        for count in 1..=Shards::VIRTUAL {
            let shards = Shards::new(count);
            for shard in 0..count {
                for random in (0..=u16::MAX).step_by(7) {
                    assert_eq!(shards.of_id(shards.mint(ShardId(shard), random)), ShardId(shard));
                }
            }
        }
    }

    #[test]
    fn minted_ids_use_all_their_random_bits() {
        let shards = Shards::new(2);
        let ids: std::collections::BTreeSet<u16> = (0..=u16::MAX)
            .map(|random| shards.mint(ShardId(1), random))
            .collect();
        assert_eq!(ids.len(), 32768);
    }
}
