//! Tests of the PPP link from outside: against the RFC's table, vectors, scripted peers, a second link on an
//! impaired path, and noise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod automaton;
mod chap_wire;
mod harness;
mod noise;
mod pair;
mod pair_chap;
mod pair_eap;
mod restart;
mod script;
mod script_auth;
mod script_chap;
mod script_network;
mod vectors;
