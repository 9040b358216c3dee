//! PPTP as clients see it that nobody here wrote: `pptp` and `pppd` in guests with real kernels, against the gateway
//! itself. What went over the wire is read by tshark, which must find nothing wrong in any of it.
//!
//! Each test makes its own namespaces, gateway and guests. They share the machine's processors, so run them one at a
//! time (`--test-threads=1`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod case;
mod connect;
mod hostile;
mod restart;
