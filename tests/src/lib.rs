//! What the tests across crates share: the rig that runs real clients against a real gateway.

pub mod rig;
