//! The system interfaces that need `unsafe`, one module each. Everything above them is safe code.

pub(crate) mod tun;
pub(crate) mod udp;
