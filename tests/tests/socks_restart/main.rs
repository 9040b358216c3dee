//! SOCKS connections go on over a planned restart of the worker, byte for byte: real clients and a gateway in a
//! namespace of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod case;
mod kinds;
mod many;
mod transfer;
