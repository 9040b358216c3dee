//! The contract between the gateway and its protocol modules.
//!
//! A module is sans-IO: it sees bytes, time and answers as [`Input`]s and gives bytes ([`Transmit`]) and
//! [`Event`]s. It knows no socket, clock, randomness source, session table, metric or log of its own. The
//! *driver* is the only code that pumps a machine: after any mutation it alternates `poll_transmit` and
//! `poll_event` until both are empty, then reads `poll_timeout`.

mod cause;
mod channel;
pub mod checkpoint;
pub mod config;
mod entropy;
mod event;
mod identifiers;
mod ids;
mod machine;
mod module;
mod path;
pub mod pcap;
pub mod timer;
pub mod wire;

pub use cause::{Ended, TerminateCause};
pub use channel::{
    ChannelFailure, ChannelRef, ClientDatagram, Close, JoinEnd, RelayCodec, RelaySpec, StreamCodec,
    StreamEnd, Target,
};
pub use entropy::{Entropy, random_bytes, random_u16, random_u32, random_u64};
pub use event::{
    CallInfo, ContextRequest, Direction, Event, Fact, Input, Originate, Refusal, SessionKind, Severity,
    TunnelInfo,
};
pub use identifiers::Identifiers;
pub use ids::{LocalRef, MachineKey, PathKey, PathRef, PeerAddr, ShardId, Shards};
pub use machine::{Accepted, Factory, Fault, Front, Machine, Open, OpenError, Route, Transmit, Via};
pub use module::{Claim, Demux, Descriptor, DropReason, Module, Resumption, Transport};
pub use path::{
    AddressFilter, DataPath, Opened, PathCodec, PathError, PathSpec, PathStats, PathUpdate, Payload,
    Released, SlowFrame,
};
