//! The contract between protocol modules and the data plane.

use crate::{DropReason, LocalRef, MachineKey, PathKey, PathRef, PeerAddr};
use bytes::BytesMut;
use sluice_auth::Ipv6Prefix;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

/// What a codec made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// User data: the IP packet in this range of the buffer.
    Ip(Range<usize>),
    /// A frame for the machine (for PPP: protocol field and information) in this range of the buffer.
    Frame(Range<usize>),
    /// Kept until packets before it arrive or its wait is over; comes out of [`PathCodec::release`].
    Held,
    /// Consumed without user data, such as an acknowledgement.
    Consumed,
    /// Dropped.
    Drop(DropReason),
}

/// A held packet that may go on now.
#[derive(Debug)]
pub enum Released {
    /// User data.
    Ip(BytesMut),
    /// A frame for the machine.
    Frame(BytesMut),
}

/// What a codec is to wrap.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// An IP packet; its version is in its first nibble.
    Ip(&'a [u8]),
    /// A frame of the machine's (for PPP: protocol field and information, without address and control).
    Frame(&'a [u8]),
}

/// Both directions of one session's user data. Owned by the data plane and called with `&mut`: no lock, and no
/// allocation per packet.
pub trait PathCodec: Send {
    /// Unwraps a packet that arrived for this path. It has checked that the packet comes from the bound peer.
    fn open(&mut self, packet: &mut [u8], from: &PeerAddr, now: Instant) -> Opened;

    /// The next held packet whose turn has come. Called after `open` said [`Opened::Held`], after any packet
    /// while [`PathCodec::held_until`] is set, and when that time has come.
    fn release(&mut self, now: Instant) -> Option<Released>;

    /// When the oldest held packet's wait is over; `None`: nothing is held.
    fn held_until(&self) -> Option<Instant>;

    /// Appends the wrapped payload to `out`; false: it may not be sent now, and nothing was appended.
    fn seal(&mut self, payload: Payload<'_>, out: &mut BytesMut) -> bool;

    /// When a packet of the codec's own is due, such as an acknowledgement that nothing was sent with; `None`: none is.
    /// Looked at after each packet that comes.
    fn speaks_at(&self) -> Option<Instant> {
        None
    }

    /// Appends that packet once its time has come; false: nothing was appended.
    fn speak(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        let _ = (now, out);
        false
    }

    /// Send with or without sequence numbers from now on ([`PathUpdate::Sequencing`]). Codecs whose packets
    /// always or never have them leave this as it is.
    fn set_sequencing(&mut self, on: bool) {
        let _ = on;
    }

    /// Take packets from this peer and no other from now on ([`PathUpdate::Peer`]). Codecs that leave the check
    /// of the sender to the data plane leave this as it is.
    fn set_peer(&mut self, peer: PeerAddr) {
        let _ = peer;
    }

    /// Bytes that `seal` adds to an IP packet at the most.
    fn overhead(&self) -> usize;

    /// State that a restart must not lose, such as sequence numbers, in the codec's own format. The driver
    /// gives it to the machine as `Input::PathState` before a checkpoint; the restored machine installs a codec
    /// that goes on from it.
    fn hot_state(&self) -> Vec<u8>;
}

/// The addresses a session may use as source, and to which its user data is routed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressFilter {
    /// The one IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 prefix.
    pub ipv6: Option<Ipv6Prefix>,
}

/// A path to install.
pub struct PathSpec {
    /// What identifies its packets on the listener.
    pub key: PathKey,
    /// The bound peer: outgoing packets go there.
    pub peer: PeerAddr,
    /// Its codec.
    pub codec: Box<dyn PathCodec>,
    /// Its addresses.
    pub filter: AddressFilter,
    /// Largest IP packet towards the peer, in bytes.
    pub mtu: u16,
}

impl fmt::Debug for PathSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSpec")
            .field("key", &self.key)
            .field("peer", &self.peer)
            .field("filter", &self.filter)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

/// A change to an installed path.
#[derive(Debug, PartialEq, Eq)]
pub enum PathUpdate {
    /// Its addresses changed.
    Filter(AddressFilter),
    /// Its largest IP packet changed.
    Mtu(u16),
    /// The peer moved (floating port, or a proven NAT rebinding).
    Peer(PeerAddr),
    /// The machine wants the path to send with or without sequence numbers from now on.
    Sequencing(bool),
}

/// What a path has carried. Bytes are those of the IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Packets from the peer.
    pub rx_packets: u64,
    /// Bytes from the peer.
    pub rx_bytes: u64,
    /// Packets to the peer.
    pub tx_packets: u64,
    /// Bytes to the peer.
    pub tx_bytes: u64,
    /// Packets of this session that were dropped, either way.
    pub dropped: u64,
}

/// A frame of an installed path that is for its machine.
#[derive(Debug)]
pub struct SlowFrame {
    /// The machine.
    pub machine: MachineKey,
    /// The session.
    pub session: LocalRef,
    /// Protocol field and information.
    pub frame: BytesMut,
}

/// A path could not be installed or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Another path has the key.
    #[error("another path has this key")]
    KeyTaken,
    /// Another path has the address.
    #[error("another path has the address {0}")]
    AddressTaken(IpAddr),
    /// The table is full.
    #[error("the path table is full")]
    Full,
    /// No socket of this data plane is bound to the path's local address.
    #[error("no socket is bound to {0}")]
    NoSocket(SocketAddr),
    /// There is no such path (any more).
    #[error("there is no such path")]
    Unknown,
}

/// A data plane: user space here, the kernel's in another implementation.
pub trait DataPath {
    /// Lets user data of a session flow.
    fn install(
        &mut self,
        machine: MachineKey,
        session: LocalRef,
        spec: PathSpec,
    ) -> Result<PathRef, PathError>;

    /// Changes an installed path.
    fn update(&mut self, path: PathRef, update: PathUpdate) -> Result<(), PathError>;

    /// Stops a session's user data and gives its last counters and its codec's hot state.
    fn remove(&mut self, path: PathRef) -> Option<(PathStats, Vec<u8>)>;

    /// A path's counters.
    fn stats(&self, path: PathRef) -> Option<PathStats>;

    /// A path's codec state, for a checkpoint.
    fn hot_state(&self, path: PathRef) -> Option<Vec<u8>>;

    /// Sends a frame of the machine's through a path.
    fn send_frame(&mut self, path: PathRef, frame: &[u8]);

    /// Whether copies of the packets that bring and take a path's frames are wanted, for a trace. Packets with user
    /// data are never copied.
    fn tap(&mut self, path: PathRef, on: bool);
}
