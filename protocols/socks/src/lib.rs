//! SOCKS5 (RFC 1928, RFC 1929, RFC 1961), SOCKS4 and SOCKS4a: wire format, connection machine, and the datagram codec.
//!
//! [`Socks`] is the module; one serves all versions on a port. Its machines are connections, each with one session: a
//! connection to a target, one from a target, or a relay of datagrams. `SPEC.md` beside this crate says clause by
//! clause what is done where.

mod checkpoint;
mod codec;
pub mod config;
mod machine;
mod module;
mod names;
mod protection;
pub mod wire;

pub use module::{PORT, Socks, SocksFactory};
