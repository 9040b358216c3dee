//! One PPP link: phases (RFC 1661, 3), and what reaches which protocol in which of them.

mod auth;
mod chap;
mod control;
mod eap;
mod eap_tls;
mod facts;
mod network;
mod proxy;
mod restore;

use crate::api::{Carrier, Login, PppEvent, PppPath, Proxy, Role};
use crate::config::{DEFAULT_MRU, PppConfig};
use crate::cp::Cp;
use crate::drops;
use crate::fsm::State;
use crate::header::{PppHeader, protocol};
use crate::lcp::Lcp;
use crate::limit::Limits;
use crate::output::{Env, Output};
use crate::wire::AuthProtocol;
use auth::Auth;
use bytes::BytesMut;
use control::Echo;
use network::Network;
use sluice_spi::{Direction, Ended, Entropy, TerminateCause};
use std::sync::Arc;
use std::time::Instant;

/// Frames kept that came before their time. A client's first burst after authentication has three or four.
const MAX_HELD: usize = 8;
/// Largest frame kept so, in octets: first control packets are well below 100.
const MAX_HELD_LENGTH: usize = 512;

/// Phases of a link (RFC 1661, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started.
    Dead,
    /// LCP is being negotiated.
    Establish,
    /// LCP is open, one side has still to prove who it is.
    Authenticate,
    /// Network protocols are negotiated or open.
    Network,
    /// We or the peer are ending the link.
    Terminate,
    /// Over.
    Closed,
}

/// One PPP link.
pub struct Ppp {
    config: Arc<PppConfig>,
    carrier: Box<Carrier>,
    entropy: Box<dyn Entropy>,
    out: Output,
    limits: Limits,
    phase: Phase,
    server: bool,
    login: Option<Box<Login>>,
    lcp: Cp<Lcp>,
    echo: Echo,
    auth: Auth,
    network: Option<Box<Network>>,
    held: Vec<(u16, Box<[u8]>)>,
    /// Largest information field that the peer takes.
    peer_mru: u16,
    /// Whether `Up` was said.
    was_up: bool,
    /// How the link ends, once that is decided.
    ended: Option<Box<Ended>>,
    /// What the peer calls itself, escaped.
    peer_identification: Option<Box<str>>,
}

/// The parts of a link that all of its protocols work with.
macro_rules! parts {
    ($link:ident, $now:expr) => {
        &mut Env {
            config: &$link.config,
            entropy: &mut *$link.entropy,
            out: &mut $link.out,
            limits: &mut $link.limits,
            peer_mru: $link.peer_mru,
            now: $now,
        }
    };
}
use parts;

impl Ppp {
    /// A link that is not started yet. Frames given to it before it is are kept, a few of them.
    pub fn new(config: Arc<PppConfig>, role: Role, carrier: Carrier, entropy: Box<dyn Entropy>) -> Self {
        let (server, login) = match role {
            Role::Server => (true, None),
            Role::Client { login } => (false, login.map(Box::new)),
        };
        let lcp = Cp::new(Lcp::new(&config, server, login.is_some(), &carrier));
        Self {
            config,
            carrier: Box::new(carrier),
            entropy,
            out: Output::default(),
            limits: Limits::default(),
            phase: Phase::Dead,
            server,
            login,
            lcp,
            echo: Echo::default(),
            auth: Auth::default(),
            network: None,
            held: Vec::new(),
            peer_mru: DEFAULT_MRU,
            was_up: false,
            ended: None,
            peer_identification: None,
        }
    }

    /// Frames can be exchanged: the negotiation begins, or goes on from where a LAC got to.
    pub fn start(&mut self, proxy: Option<Proxy>, now: Instant) {
        if self.phase != Phase::Dead {
            return;
        }
        self.phase = Phase::Establish;
        if !proxy.is_some_and(|proxy| self.start_from_proxy(proxy, now)) {
            self.lcp.open(parts!(self, now));
            let signals = self.lcp.up(parts!(self, now));
            self.on_lcp(signals, now);
        }
        self.release_held(now);
    }

    /// A packet came: as it was on the wire, with or without address and control, or a frame from a path's codec.
    pub fn handle_frame(&mut self, packet: &[u8], now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        let Some((number, range)) = PppHeader::open(packet) else {
            return self.out.dropped(drops::SHORT);
        };
        self.note_activity(now);
        self.dispatch(number, packet.get(range).unwrap_or(&[]), now);
    }

    fn dispatch(&mut self, number: u16, information: &[u8], now: Instant) {
        match self.admit(number) {
            Admission::Now => {}
            Admission::Later => return self.hold(number, information),
            Admission::Never => return self.out.dropped(drops::PHASE),
        }
        if number != protocol::IPV4 {
            self.out.traced(Direction::In, number, information);
        }
        match number {
            protocol::LCP => self.handle_lcp(information, now),
            protocol::PAP | protocol::CHAP => match self.auth_method() {
                Some(AuthProtocol::Pap) if number == protocol::PAP => self.handle_pap(information, now),
                Some(method @ (AuthProtocol::Chap | AuthProtocol::MsChapV2)) if number == protocol::CHAP => {
                    self.handle_chap(information, method, now);
                }
                _ => self.reject_protocol(number, information, now),
            },
            protocol::EAP => match self.auth_method() {
                Some(AuthProtocol::Eap) => self.handle_eap(information, now),
                _ => self.reject_protocol(number, information, now),
            },
            protocol::IPCP | protocol::IPV6CP => self.handle_ncp(number, information, now),
            protocol::IPV6 => self.handle_ipv6(information, now),
            protocol::IPV4 => self.out.dropped(drops::USER_DATA),
            _ => self.reject_protocol(number, information, now),
        }
    }

    /// Whether it is the time of a protocol (RFC 1661, 3.4 to 3.7). Nothing is parsed before its time; what a
    /// peer may have sent in time but overtook something else is kept.
    fn admit(&self, number: u16) -> Admission {
        let is_ncp = (0x8000..=0xbfff).contains(&number);
        match self.phase {
            Phase::Dead => Admission::Later,
            Phase::Closed => Admission::Never,
            _ if number == protocol::LCP => Admission::Now,
            // Having acknowledged the peer's request, we wait for its Configure-Ack. The peer may be open
            // already, and on a path that reorders its next protocol may come first.
            Phase::Establish
                if self.lcp.state() == State::AckSent
                    && (is_ncp || matches!(number, protocol::PAP | protocol::CHAP | protocol::EAP)) =>
            {
                Admission::Later
            }
            Phase::Establish | Phase::Terminate => Admission::Never,
            Phase::Authenticate if self.is_auth_protocol(number) => Admission::Now,
            Phase::Authenticate if is_ncp => Admission::Later,
            Phase::Authenticate => Admission::Never,
            Phase::Network => Admission::Now,
        }
    }

    fn hold(&mut self, number: u16, information: &[u8]) {
        if self.held.len() < MAX_HELD && information.len() <= MAX_HELD_LENGTH {
            self.held.push((number, information.into()));
        } else {
            self.out.dropped(drops::LIMIT);
        }
    }

    /// Gives the frames kept to their protocols; those whose time has still not come are kept on.
    fn release_held(&mut self, now: Instant) {
        for (number, information) in std::mem::take(&mut self.held) {
            self.dispatch(number, &information, now);
        }
    }

    /// User data came from the peer, or went to it and was answered: no sign of life need be asked for.
    pub fn note_activity(&mut self, now: Instant) {
        self.echo.note_activity(now);
    }

    /// The time of [`Ppp::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let signals = self.lcp.handle_timeout(parts!(self, now));
        self.on_lcp(signals, now);
        self.handle_auth_timeout(now);
        self.handle_network_timeout(now);
        self.handle_echo_timeout(now);
    }

    /// When [`Ppp::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        [self.lcp.timer(), self.auth.timer(), self.echo.timer()]
            .into_iter()
            .chain(self.network.iter().map(|network| network.timer()))
            .flatten()
            .min()
    }

    /// Appends the next frame for the peer: protocol in two octets and information. [`PppHeader::seal_frame`] of
    /// [`Ppp::header`] makes it what goes on the wire.
    pub fn poll_frame(&mut self, out: &mut BytesMut) -> bool {
        self.out.poll_frame(out)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<PppEvent> {
        self.out.poll_event()
    }

    /// Ends the link, telling the peer. [`PppEvent::Down`] follows when the peer has answered, or has not for
    /// long enough.
    pub fn close(&mut self, cause: TerminateCause, now: Instant) {
        let (code, text) = match cause {
            TerminateCause::UserRequest => ("user_request", "ended by request of the user"),
            TerminateCause::IdleTimeout => ("idle_timeout", "no traffic for too long"),
            TerminateCause::SessionTimeout => ("session_timeout", "longest session time is over"),
            TerminateCause::AdminReset => ("admin_reset", "ended by an operator"),
            TerminateCause::AdminReboot => ("admin_reboot", "the gateway is taken out of service"),
            TerminateCause::LostCarrier => ("lost_carrier", "the carrier is gone"),
            TerminateCause::ServiceUnavailable => ("service_unavailable", "the service cannot be given"),
            other => ("closed", other.as_str()),
        };
        self.end(Ended::new(cause, code, text), now);
    }

    /// Decides how the link ends, if that is not decided yet, and begins to end it.
    fn end(&mut self, ended: Ended, now: Instant) {
        if matches!(self.phase, Phase::Terminate | Phase::Closed) {
            return;
        }
        let farewell = match ended.code {
            "auth_rejected" => "Authentication failed",
            "auth_unavailable" => "Try again later",
            code => code,
        };
        self.ended = Some(Box::new(ended));
        if self.phase == Phase::Dead || !self.lcp.state().is_up() {
            return self.finish();
        }
        self.phase = Phase::Terminate;
        self.leave_network();
        let signals = self.lcp.close(farewell, parts!(self, now));
        if !self.lcp.state().has_timer() {
            return self.finish();
        }
        self.on_lcp(signals, now);
    }

    /// The link is over.
    fn finish(&mut self) {
        if self.phase == Phase::Closed {
            return;
        }
        self.phase = Phase::Closed;
        self.network = None;
        self.auth = Auth::default();
        self.echo = Echo::default();
        self.held = Vec::new();
        let ended = self.ended.take().map_or_else(
            || {
                Ended::new(
                    TerminateCause::LostCarrier,
                    "lcp_timeout",
                    "the peer does not answer LCP",
                )
            },
            |ended| *ended,
        );
        self.out.event(PppEvent::Down(ended));
    }

    /// How the link ends, where that is decided: by us, or by a Terminate-Request of the peer. `None` once
    /// [`PppEvent::Down`] was said.
    pub fn ending(&self) -> Option<&Ended> {
        self.ended.as_deref()
    }

    /// Whether the link is over.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// How frames towards the peer are to be wrapped now.
    pub fn header(&self) -> PppHeader {
        if !self.lcp.is_open() {
            return PppHeader::default();
        }
        let peer = &self.lcp.options.peer;
        PppHeader {
            acfc: peer.acfc && self.config.acfc,
            pfc: peer.pfc && self.config.pfc,
        }
    }

    /// The path for user data, while there is one.
    pub fn path(&self) -> Option<PppPath> {
        self.network.as_ref()?.path.clone()
    }

    /// Switches [`PppEvent::Traced`] on or off.
    pub fn set_trace(&mut self, on: bool) {
        self.out.trace = on;
    }
}

enum Admission {
    Now,
    Later,
    Never,
}
