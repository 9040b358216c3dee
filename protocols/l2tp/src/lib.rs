//! L2TPv2 (RFC 2661): wire format, tunnel and call machines, and the data path codec.
//!
//! [`L2tp`] is the module. Its fronts keep peers that have proven nothing yet in small records; its machines are
//! tunnels with their calls, each with its PPP link inside; its codecs carry user data. `SPEC.md` beside this
//! crate says clause by clause what is done where.

mod bucket;
mod checkpoint;
mod codec;
pub mod config;
mod front;
mod machine;
mod module;
mod names;
mod steering;
mod ties;
pub mod wire;

pub use machine::Retransmit;
pub use module::{L2tp, L2tpFactory, PORT};
