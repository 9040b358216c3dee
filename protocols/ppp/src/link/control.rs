//! LCP at work: what its states mean for the link, its own packet types, and the watch over the peer's life.

use super::{Phase, Ppp, parts};
use crate::api::{Accm, PppEvent};
use crate::config::DEFAULT_MRU;
use crate::cp::{Failure, Signals};
use crate::drops;
use crate::fsm::State;
use crate::header::protocol;
use crate::lcp::{DEFAULT_ACCM, MAX_COLLISIONS};
use crate::output::Env;
use crate::wire::{HEADER, Packet, code};
use sluice_spi::wire::display_text;
use sluice_spi::{Ended, Entropy, Severity, TerminateCause, random_u16};
use std::time::{Duration, Instant};

/// Largest control packet looked at: the MRU that everybody has before anything is negotiated. What is larger
/// could not be answered.
const MAX_CONTROL: usize = DEFAULT_MRU as usize;
/// Magic number and what it adds to the header of an Echo packet.
const MAGIC: usize = 4;

/// Watches whether the peer is alive, without asking while it is heard anyway.
#[derive(Debug, Default)]
pub(super) struct Echo {
    /// When to look next; `None`: not open, or never.
    pub(super) at: Option<Instant>,
    /// When the peer was last heard.
    activity: Option<Instant>,
    /// Echo-Requests since then.
    unanswered: u8,
    /// The peer does not know Echo-Request.
    pub(super) refused: bool,
    /// Packets with our own magic number since one with another.
    looped: u8,
}

impl Echo {
    /// The watch goes on after a restart: the time of the next look, and whether the peer knows Echo-Request.
    pub(super) fn resumed(at: Option<Instant>, refused: bool) -> Self {
        Self {
            at,
            refused,
            ..Self::default()
        }
    }

    pub(super) fn note_activity(&mut self, now: Instant) {
        self.activity = Some(now);
        self.unanswered = 0;
    }

    pub(super) fn timer(&self) -> Option<Instant> {
        self.at
    }

    /// Looks again after the interval, give or take a tenth: links that came up together don't ask together.
    pub(super) fn arm(&mut self, interval: Duration, entropy: &mut dyn Entropy, from: Instant) {
        self.at = None;
        if !interval.is_zero() && !self.refused {
            let spread = interval / 5 * u32::from(random_u16(entropy)) / u32::from(u16::MAX);
            self.at = Some(from + interval - interval / 10 + spread);
        }
    }
}

impl Ppp {
    /// Acts on what LCP's automaton says.
    pub(super) fn on_lcp(&mut self, signals: Signals, now: Instant) {
        if signals.down {
            self.on_lcp_down();
        }
        if signals.up {
            self.on_lcp_up(now);
        }
        if let Some(failure) = signals.failure {
            let (cause, code, text) = match failure {
                Failure::Loopback => (
                    TerminateCause::LostCarrier,
                    "loopback",
                    "the link loops back to ourselves",
                ),
                Failure::AuthRefused => (
                    TerminateCause::UserError,
                    "auth_refused",
                    "the two ends have no way to authenticate in common",
                ),
                Failure::NotConverging | Failure::NoAddress => (
                    TerminateCause::NasError,
                    "lcp_not_converging",
                    "LCP finds no options that both ends accept",
                ),
            };
            self.end(Ended::new(cause, code, text), now);
        }
        if signals.finished {
            if self.lcp.peer_left() {
                self.ended.get_or_insert_with(|| {
                    Box::new(Ended::new(
                        TerminateCause::UserRequest,
                        "peer_refused",
                        "the peer gave up while LCP was negotiated",
                    ))
                });
            }
            self.finish();
        }
    }

    fn on_lcp_down(&mut self) {
        self.leave_network();
        self.leave_auth();
        self.held.clear();
        self.echo.at = None;
        self.peer_mru = DEFAULT_MRU;
        if self.phase != Phase::Closed {
            let is_ending = matches!(self.lcp.state(), State::Closing | State::Stopping);
            self.phase = if is_ending {
                Phase::Terminate
            } else {
                Phase::Establish
            };
        }
    }

    pub(super) fn on_lcp_up(&mut self, now: Instant) {
        self.announce_link(now);
        self.begin_auth(now);
        self.release_held(now);
    }

    /// LCP is open: what it agreed on applies, and the watch over the peer begins.
    pub(super) fn announce_link(&mut self, now: Instant) {
        let lcp = &self.lcp.options;
        self.peer_mru = lcp.peer.mru();
        let accm = Accm {
            send: lcp.peer.accm.unwrap_or(DEFAULT_ACCM),
            receive: lcp.ours.accm.unwrap_or(DEFAULT_ACCM),
        };
        self.echo = Echo::default();
        self.echo.arm(self.config.echo_interval, &mut *self.entropy, now);
        let facts = self.link_facts();
        self.out.event(PppEvent::LinkUp { facts, accm });
        self.identify();
    }

    /// Tells the peer who we are, where that is configured (RFC 1570, 1.1).
    fn identify(&mut self) {
        if self.config.identification.is_empty() {
            return;
        }
        let mut body = self.lcp.options.ours.magic.to_be_bytes().to_vec();
        body.extend_from_slice(self.config.identification.as_bytes());
        let id = self.lcp.take_id();
        self.out
            .send_packet(protocol::LCP, code::IDENTIFICATION, id, &body);
    }

    pub(super) fn handle_lcp(&mut self, information: &[u8], now: Instant) {
        let Ok(packet) = Packet::decode(information) else {
            return self.out.dropped(drops::MALFORMED);
        };
        if packet.body.len() + HEADER > MAX_CONTROL && packet.code != code::ECHO_REQUEST {
            return self.out.dropped(drops::OVERSIZE);
        }
        match packet.code {
            code::PROTOCOL_REJECT => self.handle_protocol_reject(packet, now),
            code::ECHO_REQUEST..=code::TIME_REMAINING => self.handle_link_packet(packet, now),
            _ => {
                self.note_terminate_request(packet);
                if packet.code == code::CODE_REJECT && packet.rejected_code() == Ok(code::ECHO_REQUEST) {
                    self.echo.refused = true;
                    self.echo.at = None;
                }
                let signals = self.lcp.handle(packet, parts!(self, now));
                self.on_lcp(signals, now);
            }
        }
    }

    /// The peer ends an open link: remember how, before the automaton acts on it.
    fn note_terminate_request(&mut self, packet: Packet<'_>) {
        if packet.code == code::TERMINATE_REQUEST && self.lcp.is_open() && self.ended.is_none() {
            let text = match display_text(packet.body) {
                reason if reason.is_empty() => "ended by the peer".to_owned(),
                reason => format!("ended by the peer: {reason}"),
            };
            let ended = Ended::new(TerminateCause::UserRequest, "peer_request", text);
            self.ended = Some(Box::new(ended));
        }
        if packet.code == code::CODE_REJECT
            && self.ended.is_none()
            && matches!(
                packet.rejected_code(),
                Ok(code::CONFIGURE_REQUEST..=code::CODE_REJECT)
            )
        {
            let ended = Ended::new(
                TerminateCause::NasError,
                "code_rejected",
                "the peer does not know a packet type that nobody can do without",
            );
            self.ended = Some(Box::new(ended));
        }
    }

    /// Echo, Discard, Identification and Time-Remaining (RFC 1661, 5.8 and 5.9; RFC 1570, 1).
    fn handle_link_packet(&mut self, packet: Packet<'_>, now: Instant) {
        let Ok((magic, data)) = packet.magic() else {
            return self.out.dropped(drops::MALFORMED);
        };
        // Identification may come at any time, the others only while LCP is open.
        if !self.lcp.is_open() && packet.code != code::IDENTIFICATION {
            return self.out.dropped(drops::PHASE);
        }
        let ours = self.lcp.options.ours.magic;
        if self.lcp.is_open() && magic == ours && ours != 0 {
            return self.on_looped(now);
        }
        self.echo.looped = 0;
        match packet.code {
            code::ECHO_REQUEST => {
                let mut body = ours.to_be_bytes().to_vec();
                let room = usize::from(self.peer_mru).saturating_sub(HEADER + MAGIC);
                body.extend_from_slice(data.get(..room).unwrap_or(data));
                self.out
                    .send_packet(protocol::LCP, code::ECHO_REPLY, packet.id, &body);
            }
            code::IDENTIFICATION => self.on_identification(data, now),
            code::TIME_REMAINING => self.on_time_remaining(data, now),
            // An Echo-Reply has done its work by arriving; a Discard-Request is discarded.
            _ => {}
        }
    }

    /// A packet with our own magic number came back (RFC 1661, 6.4).
    fn on_looped(&mut self, now: Instant) {
        self.out.dropped(drops::LOOPED);
        self.echo.looped = self.echo.looped.saturating_add(1);
        if self.echo.looped >= MAX_COLLISIONS {
            let text = "the link loops back to ourselves";
            self.end(Ended::new(TerminateCause::LostCarrier, "loopback", text), now);
        }
    }

    fn on_identification(&mut self, message: &[u8], now: Instant) {
        let text = display_text(message);
        if self.limits.remark(now) {
            self.out.notice(
                Severity::Info,
                format!("the peer identifies itself as \"{text}\""),
            );
        }
        self.peer_identification = Some(text.into());
    }

    fn on_time_remaining(&mut self, data: &[u8], now: Instant) {
        let &[a, b, c, d, ref message @ ..] = data else {
            return self.out.dropped(drops::MALFORMED);
        };
        if self.limits.remark(now) {
            let seconds = u32::from_be_bytes([a, b, c, d]);
            let text = display_text(message);
            self.out.notice(
                Severity::Info,
                format!("the peer ends the session in {seconds} s: \"{text}\""),
            );
        }
    }

    /// The peer does not speak a protocol of ours (RFC 1661, 5.7).
    fn handle_protocol_reject(&mut self, packet: Packet<'_>, now: Instant) {
        let Ok((number, _)) = packet.rejected_protocol() else {
            return self.out.dropped(drops::MALFORMED);
        };
        if !self.lcp.is_open() {
            return self.out.dropped(drops::PHASE);
        }
        match number {
            protocol::LCP => {
                let text = "the peer says that it does not speak LCP";
                let ended = Ended::new(TerminateCause::NasError, "lcp_rejected", text);
                self.ended = Some(Box::new(ended));
                let signals = self.lcp.refused(parts!(self, now));
                self.on_lcp(signals, now);
            }
            number if self.phase == Phase::Authenticate && self.is_auth_protocol(number) => {
                let text = "the peer agreed to a way to authenticate but does not speak it";
                self.end(Ended::new(TerminateCause::UserError, "auth_refused", text), now);
            }
            protocol::IPCP | protocol::IPV4 | protocol::IPV6CP | protocol::IPV6 => {
                self.on_ncp_rejected(number, now);
            }
            _ => {}
        }
    }

    /// We don't speak a protocol of the peer's. Never said before LCP is open, never for LCP itself.
    pub(super) fn reject_protocol(&mut self, number: u16, information: &[u8], now: Instant) {
        self.out.dropped(drops::PROTOCOL);
        if !self.lcp.is_open() || !self.limits.reject(now) {
            return;
        }
        let mut body = number.to_be_bytes().to_vec();
        let room = usize::from(self.peer_mru).saturating_sub(HEADER + 2);
        body.extend_from_slice(information.get(..room).unwrap_or(information));
        let id = self.lcp.take_id();
        self.out
            .send_packet(protocol::LCP, code::PROTOCOL_REJECT, id, &body);
    }

    pub(super) fn handle_echo_timeout(&mut self, now: Instant) {
        if self.echo.at.is_none_or(|at| at > now) || !self.lcp.is_open() {
            return;
        }
        let interval = self.config.echo_interval;
        if let Some(heard) = self.echo.activity
            && now.saturating_duration_since(heard) < interval - interval / 10
        {
            return self.echo.arm(interval, &mut *self.entropy, heard);
        }
        if self.echo.unanswered >= self.config.echo_failures {
            let text = format!("no sign of life after {} Echo-Requests", self.echo.unanswered);
            return self.end(
                Ended::new(TerminateCause::LostCarrier, "lcp_echo_timeout", text),
                now,
            );
        }
        self.echo.unanswered += 1;
        let id = self.lcp.take_id();
        let body = self.lcp.options.ours.magic.to_be_bytes();
        self.out.send_packet(protocol::LCP, code::ECHO_REQUEST, id, &body);
        self.echo.arm(interval, &mut *self.entropy, now);
    }
}
