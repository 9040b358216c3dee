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

//!
//! ```text
//! Ppp::new(Arc<PppConfig>, Role, Carrier, Box<dyn Entropy>) -> Ppp
//! start(&mut self, Option<Proxy>, now: Instant)
//! handle_frame(&mut self, packet: &[u8], now: Instant)      // from the wire, or a codec's frame
//! handle_timeout(&mut self, now: Instant);  poll_timeout(&self) -> Option<Instant>
//! poll_frame(&mut self, out: &mut BytesMut) -> bool
//! poll_event(&mut self) -> Option<PppEvent>
//! auth_verdict(&mut self, Verdict, now: Instant);  note_activity(&mut self, now: Instant)
//! close(&mut self, TerminateCause, now: Instant);  is_closed(&self) -> bool
//! header(&self) -> PppHeader;  path(&self) -> Option<PppPath>;  facts(&self) -> Vec<Fact>
//! set_trace(&mut self, on: bool)
//! checkpoint(&self, out: &mut BytesMut, now: Instant) -> bool
//! Ppp::restore(&mut Reader<'_>, Arc<PppConfig>, Carrier, Box<dyn Entropy>, now: Instant)
//!     -> Result<Ppp, CheckpointError>
//! ```

mod api;
#[allow(dead_code)]
mod config;
#[allow(dead_code)]
mod drops;
mod header;

pub use api::{Accm, Carrier, Login, PppEvent, PppPath, Proxy, Role};
pub use config::{PppConfig, ProxyPolicy};
pub use drops::DROP_REASONS;
pub use header::{PppHeader, protocol};
