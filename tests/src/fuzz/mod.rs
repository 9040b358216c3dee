//! What the fuzz targets in `tests/fuzz` do with their bytes. The bodies are here so that a plain test runs each of
//! them over seeded inputs as well.
//!
//! Each function panics where the code under test is wrong, and returns for whatever a peer may send.

mod chap;
mod l2tp;
mod link;
mod ppp;
mod pptp;
mod socks;
mod socks_gssapi;
mod tunnel;

pub use chap::ppp_chap;
pub use l2tp::{l2tp_avps, l2tp_header, l2tp_hidden, l2tp_message};
pub use link::{ppp_pap, ppp_program};
pub use ppp::{ppp_frame, ppp_link, ppp_options};
pub use pptp::{pptp_control, pptp_gre};
pub use socks::{socks_connection, socks_datagram};
pub use socks_gssapi::socks_gssapi;
pub use tunnel::l2tp_tunnel;

/// A fuzz target: its name, its body, and inputs to start from.
pub struct Target {
    /// Name of the file in `tests/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Good inputs, from which mutations start.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "l2tp_header",
        run: l2tp_header,
        seeds: l2tp::packets,
    },
    Target {
        name: "l2tp_avps",
        run: l2tp_avps,
        seeds: l2tp::bodies,
    },
    Target {
        name: "l2tp_hidden",
        run: l2tp_hidden,
        seeds: l2tp::hidden_values,
    },
    Target {
        name: "l2tp_message",
        run: l2tp_message,
        seeds: l2tp::bodies,
    },
    Target {
        name: "ppp_frame",
        run: ppp_frame,
        seeds: ppp::frames,
    },
    Target {
        name: "ppp_options",
        run: ppp_options,
        seeds: ppp::options,
    },
    Target {
        name: "ppp_link",
        run: ppp_link,
        seeds: ppp::conversations,
    },
    Target {
        name: "ppp_pap",
        run: ppp_pap,
        seeds: link::pap_packets,
    },
    Target {
        name: "ppp_chap",
        run: ppp_chap,
        seeds: chap::packets,
    },
    Target {
        name: "ppp_program",
        run: ppp_program,
        seeds: link::programs,
    },
    Target {
        name: "l2tp_tunnel",
        run: l2tp_tunnel,
        seeds: tunnel::programs,
    },
    Target {
        name: "pptp_control",
        run: pptp_control,
        seeds: pptp::streams,
    },
    Target {
        name: "pptp_gre",
        run: pptp_gre,
        seeds: pptp::packets,
    },
    Target {
        name: "socks_connection",
        run: socks_connection,
        seeds: socks::programs,
    },
    Target {
        name: "socks_datagram",
        run: socks_datagram,
        seeds: socks::datagrams,
    },
    Target {
        name: "socks_gssapi",
        run: socks_gssapi,
        seeds: socks_gssapi::programs,
    },
];
