//! What the tests across crates share: the rig that runs real clients against a real gateway.
//!
//! It is a part of tests only, so it panics where a test is to fail.
#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used)]

pub mod disk;
pub mod field;
pub mod fuzz;
pub mod load;
pub mod results;
pub mod rig;
pub mod socks_load;
pub mod usage;
