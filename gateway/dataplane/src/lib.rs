//! The data plane of one shard in user space: it moves user data between the UDP sockets of listeners and one
//! queue of a shared TUN device, and hands everything else to the driver.
//!
//! * [`UserPath`] ties all together and implements [`sluice_spi::DataPath`]. It owns its descriptors and waits for
//!   nothing: the driver calls it on readiness.
//! * Towards the network: a batch of trains is received (`recvmmsg`, `UDP_GRO`), each datagram is given to its
//!   path's codec, checked, and joined with others of its flow into super-packets for the TUN device.
//! * Towards the clients: super-packets from the TUN device are cut, sealed by the codec of the path that has the
//!   destination address, and sent as trains (`sendmmsg`, `UDP_SEGMENT`).
//! * [`Routes`] says which shard's path an address belongs to; [`mesh`] joins the shards for the rare packet that
//!   came to the wrong one.
//! * [`relay`] joins two TCP streams, and [`relay::datagrams`] a client and its targets, on tasks of the shard's
//!   runtime.
//!
//! Per packet nothing is allocated, logged or locked, and nothing shared is written. Counters are plain numbers of
//! the shard, read by the driver from time to time. No packet, however malformed, can cause a panic.

mod checksum;
mod coalesce;
mod downlink;
mod drops;
mod fragment;
mod icmp;
mod mesh;
mod mss;
mod packet;
mod paths;
mod receive;
pub mod relay;
mod routes;
mod segment;
mod send;
mod slow;
mod sys;
mod tun;
mod udp;
mod uplink;
mod user_path;
mod vnet;

pub use drops::{Dropped, Drops};
pub use mesh::{MeshPort, RING, Waker, mesh};
pub use routes::{MAX_BLOCK_CELLS, MAX_BLOCKS, MAX_SLOTS, Routes, Target};
pub use slow::{CONTROL_QUOTA, DATA_QUOTA, FRAME_QUOTA, REPORT_QUOTA, Slow, TAP_QUOTA};
pub use tun::{MAX_QUEUES, Offloads, Tun, TunError, TunQueue};
pub use udp::{SOCKET_BUFFER, UdpSocket};
pub use user_path::{Carried, Progress, SocketId, Totals, UserPath};

/// A listener as the driver numbers them, the same on all shards. Path keys are unique within one; it may have
/// several sockets, such as one for IPv4 and one for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);
