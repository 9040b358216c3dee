//! SOCKS as programs speak it that know nothing of this gateway: each in a network from which nothing but the gateway
//! is reached, with a server beyond it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod browser;
mod case;
mod datagrams;
mod files;
mod shell;
