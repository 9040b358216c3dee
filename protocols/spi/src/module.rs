//! What a protocol module is.

use crate::config::Section;
use crate::{Factory, PathKey, ShardId, Shards};

/// Transport a module listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP datagrams.
    Udp,
    /// TCP connections.
    Tcp,
}

/// How a module's sessions survive a restart of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resumption {
    /// From a checkpoint, without the peer noticing more than a pause.
    Checkpoint,
    /// With its connections, which the keeper holds: over a restart that was asked for, not over a crash.
    Connections,
}

/// Facts about a module that never change.
#[derive(Debug)]
pub struct Descriptor {
    /// Name in configuration, metrics and the API, such as `l2tp`.
    pub name: &'static str,
    /// Title for people.
    pub title: &'static str,
    /// Transport it listens on.
    pub transport: Transport,
    /// IP protocol whose packets carry the data of its sessions beside the transport, over IPv4; they come to its fronts
    /// and paths from their own header on. `None`: there is none.
    pub packets: Option<u8>,
    /// Port it listens on by default.
    pub default_port: u16,
    /// Documents it implements, such as `RFC 2661`.
    pub specifications: &'static [&'static str],
    /// How its sessions survive a restart.
    pub resumption: Resumption,
    /// Every reason by which its fronts, machines and codecs drop packets: a closed label set.
    pub drop_reasons: &'static [&'static str],
    /// Every name by which its machines count other things: a closed label set.
    pub counters: &'static [&'static str],
}

/// Why a packet was dropped: one of the module's or the data plane's closed set of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropReason(pub &'static str);

/// Whether a module recognises the first bytes of a datagram or stream as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It does.
    Mine,
    /// It does not.
    NotMine,
    /// It cannot say from so few bytes (streams only).
    NeedMore,
}

/// What a datagram is, as far as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demux {
    /// A control message: for the front.
    Control,
    /// User data of a path. Where no such path is installed it goes to the front as well.
    Data(PathKey),
    /// Neither; drop it under this reason.
    Drop(DropReason),
}

/// A protocol module.
pub trait Module: Send + Sync {
    /// Facts about it.
    fn descriptor(&self) -> &'static Descriptor;

    /// Whether the first bytes are this protocol's.
    fn classify(&self, first: &[u8]) -> Claim;

    /// The shard that owns a packet, from the identifiers we minted; `None`: whichever received it. Datagrams only.
    fn steer(&self, packet: &[u8], shards: Shards) -> Option<ShardId> {
        let _ = (packet, shards);
        None
    }

    /// What a datagram is. Called for every packet: cheap, no state, no allocation. Datagrams only.
    fn demux(&self, packet: &[u8]) -> Demux {
        let _ = packet;
        Demux::Control
    }

    /// Overwrites the passwords in a datagram, in place and without changing its length, before it is shown to a
    /// person. Whatever is not understood stays as it is. Datagrams only.
    fn conceal(&self, packet: &mut [u8]) {
        let _ = packet;
    }

    /// A classic BPF program for `SO_ATTACH_REUSEPORT_CBPF` that computes what [`Module::steer`] does, as
    /// (code, jt, jf, k); an out-of-range result falls back to the kernel's hash of the addresses. `None`: the
    /// hash alone is right.
    fn steering_program(&self, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        let _ = shards;
        None
    }

    /// A classic BPF program for the raw socket of a shard ([`Descriptor::packets`]) that takes the packets of the shard
    /// and no others, as (code, jt, jf, k). `None`: it has no such socket.
    fn packet_filter(&self, shard: ShardId, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        let _ = (shard, shards);
        None
    }

    /// Reads the module's part of a listener's configuration. Problems are reported into the section; the
    /// factory is only used where there were none.
    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory>;
}
