//! What protocol modules and the gateway are tested with: virtual time, seeded randomness, impaired links, pairs
//! of machines, wire vectors, damaged messages, contract tests, and an independent scriptable LAC.
//!
//! Everything in virtual time is deterministic: the same seed gives the same trace. The crate is a dependency of
//! tests only, so it panics where a test is to fail.
#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used)]

mod clock;
pub mod contract;
pub mod gss;
pub mod lac;
pub mod link;
pub mod log;
pub mod memory;
pub mod mutate;
pub mod node;
pub mod pair;
pub mod policy;
pub mod relay;
mod seed;
pub mod stream;
pub mod vectors;

pub use clock::Clock;
pub use link::{Impairment, Link};
pub use node::{Node, Packet};
pub use pair::{Pair, Side, Tap};
pub use policy::Policy;
pub use seed::Seeded;
pub use stream::StreamNode;

#[cfg(test)]
crate::count_memory!();
