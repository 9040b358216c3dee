//! The wire format of L2TPv2: headers, attribute-value pairs, and typed control messages.

pub mod avp;
mod conceal;
mod decode;
mod encode;
mod fields;
pub mod header;
pub mod hidden;
pub mod message;
pub mod result;

pub(crate) use conceal::conceal;
pub use decode::{DecodeError, Refused, Scope, decode, host_name, message_type};
pub use encode::{Hider, encode};
