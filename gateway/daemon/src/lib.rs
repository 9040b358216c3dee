//! Sluice: a multi-protocol session gateway and tunnel concentrator.
pub mod admin;
pub mod cli;
pub mod config;
pub mod host;
pub mod limits;
pub mod logs;
pub mod run;
pub mod sandbox;
pub mod shard;
pub mod worker;
