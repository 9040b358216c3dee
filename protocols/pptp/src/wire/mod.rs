//! The wire format: control messages over TCP (RFC 2637, 1.4 and 2) and enhanced GRE (4.1).

pub mod code;
mod decode;
mod encode;
pub mod gre;
pub mod message;
mod stream;

pub use decode::{Decoded, decode};
pub use encode::encode;
pub use stream::{Malformed, Stream};
