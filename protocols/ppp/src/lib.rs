//! The Point-to-Point Protocol: LCP, PAP, IPCP, IPV6CP and session phases, whatever carries them.
//!
//! [`Ppp`] is one link, sans-IO, owned by its carrier's machine (an L2TP call, for one). The carrier
//!
//! 1. makes it with [`Ppp::new`] and calls [`Ppp::start`] once frames can be exchanged,
//! 2. gives it every frame with [`Ppp::handle_frame`], answers [`PppEvent::AuthRequested`] with
//!    [`Ppp::auth_verdict`], and tells of user traffic with [`Ppp::note_activity`],
//! 3. after each of these drains [`Ppp::poll_event`] and [`Ppp::poll_frame`] until both are empty, then arms
//!    [`Ppp::poll_timeout`] and calls [`Ppp::handle_timeout`] when that time has come,
//! 4. ends the call when [`PppEvent::Down`] came or [`Ppp::is_closed`] is true.
//!
//! A *frame* between [`Ppp`] and its carrier is the PPP protocol field in two octets and the information. What
//! is around it on the wire is [`PppHeader`]'s: `ppp.header().seal_frame(frame, out)`.

mod api;
mod codec;
mod config;
mod cp;
mod drops;
pub mod fsm;
mod header;
mod ipcp;
mod ipv6cp;
mod lcp;
mod limit;
mod link;
pub mod mppe;
mod neighbour;
mod output;
mod user_data;
pub mod wire;

pub use api::{Accm, Carrier, Login, PppEvent, PppPath, Proxy, Role};
pub use codec::{Encryption, PppCodec};
pub use config::{PppConfig, ProxyPolicy};
pub use drops::DROP_REASONS;
pub use header::{PppHeader, protocol};
pub use link::Ppp;
pub use user_data::UserData;
pub use wire::AuthProtocol;
