//! PPTP (RFC 2637): control connection, calls in both directions, and the data path over enhanced GRE.
//!
//! [`Pptp`] is the module. Its machines are control connections with their calls, each with its PPP link inside; its
//! fronts know which machine a GRE packet belongs to that no path takes; its codecs carry user data. `SPEC.md` beside
//! this crate says clause by clause what is done where.

mod checkpoint;
mod codec;
pub mod config;
mod filter;
mod front;
mod machine;
mod module;
mod names;
mod registry;
pub mod wire;

pub use module::{PORT, Pptp, PptpFactory};
