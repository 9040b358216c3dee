//! How the gateway reaches targets for its clients.
//!
//! [`Connector::connect`] takes a target and a [`Judge`], looks names up, asks the judge for the name and for each of
//! its addresses, races the allowed ones (RFC 8305), goes through upstream proxies where the judge's [`Way`] says so,
//! and gives a connection or the most meaningful failure. [`Connector::bind`] waits for a peer's connection.
//!
//! The crate knows no protocol of clients and no policy. It is used from the shards' own threads: [`Egress`] is shared
//! by them, and each has a [`Connector`] of its own.

mod bind;
mod connector;
mod counters;
mod dial;
mod eyeballs;
mod failure;
pub mod proxy_protocol;
mod race;
mod request;
mod resolver;
mod sys;
mod upstream;
mod wire;

pub use bind::{BindSpec, ParkedWait, Waiting};
pub use connector::{Connected, Connector, Egress, EgressConfig};
pub use counters::{Counter, Counters};
pub use failure::{Cause, Failed};
pub use race::{Eyeballs, IpFamily};
pub use request::{Denied, Endpoints, Judge, Named, Request, Timeouts, Way};
pub use resolver::{Addresses, LookupFailure, MAX_ADDRESSES, NameServers, Names, Resolver, ResolverConfig};
pub use sys::accept_with_first_bytes;
pub use upstream::{
    BadUpstream, Fault, Login, MAX_CHAIN, MAX_LOGIN, MAX_SERVERS, Speaks, Upstream, Wrong, check,
};
