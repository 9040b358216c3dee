//! A PPP client that asks for an address (RFC 1661, 1332, 1334, 5072), by code of its own.

use super::LacConfig;
use crate::Seeded;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const LCP: u16 = 0xc021;
const PAP: u16 = 0xc023;
const IPCP: u16 = 0x8021;
const IPV6CP: u16 = 0x8057;
const IPV4: u16 = 0x0021;
const IPV6: u16 = 0x0057;

const CONF_REQ: u8 = 1;
const CONF_ACK: u8 = 2;
const CONF_NAK: u8 = 3;
const CONF_REJ: u8 = 4;
const TERM_REQ: u8 = 5;
const TERM_ACK: u8 = 6;
const PROTOCOL_REJ: u8 = 8;
const ECHO_REQ: u8 = 9;
const ECHO_REP: u8 = 10;

const OPTION_MRU: u8 = 1;
const OPTION_ACCM: u8 = 2;
const OPTION_AUTH: u8 = 3;
const OPTION_MAGIC: u8 = 5;
const OPTION_PFC: u8 = 7;
const OPTION_ACFC: u8 = 8;
const OPTION_ADDRESS: u8 = 3;
const OPTION_DNS1: u8 = 129;
const OPTION_DNS2: u8 = 131;
const OPTION_INTERFACE: u8 = 1;

/// Restart timer (RFC 1661, 4.6: 3 seconds).
const RESTART: Duration = Duration::from_secs(3);
/// Requests without an answer before giving up (RFC 1661, 4.6: 10).
const MAX_TRIES: u8 = 10;

/// What a PPP client learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Our address.
    pub ipv4: Option<Ipv4Addr>,
    /// The gateway's address.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Our IPv6 interface identifier, once IPV6CP is open.
    pub interface: Option<u64>,
    /// Largest packet the other end receives.
    pub mru: Option<u16>,
}

/// What comes out of a PPP client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PppEvent {
    /// Every network protocol asked for is open or refused, and one at least is open.
    Up,
    /// It is over, for this reason.
    Down(&'static str),
    /// An IP packet arrived.
    Ip(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Establish,
    Authenticate,
    Network,
    Ended,
}

/// One configuration protocol: LCP, IPCP or IPV6CP.
#[derive(Debug)]
struct Negotiation {
    protocol: u16,
    options: Vec<(u8, Vec<u8>)>,
    wanted: bool,
    acked: bool,
    theirs: bool,
    identifier: u8,
    tries: u8,
}

impl Negotiation {
    fn new(protocol: u16, wanted: bool, options: Vec<(u8, Vec<u8>)>) -> Self {
        Self {
            protocol,
            options,
            wanted,
            acked: false,
            theirs: false,
            identifier: 0,
            tries: 0,
        }
    }

    fn is_open(&self) -> bool {
        self.acked && self.theirs
    }

    fn request(&mut self) -> Vec<u8> {
        self.identifier = self.identifier.wrapping_add(1);
        self.tries += 1;
        let mut options = Vec::new();
        for (kind, value) in &self.options {
            options.extend_from_slice(&[*kind, value.len() as u8 + 2]);
            options.extend_from_slice(value);
        }
        packet(self.protocol, CONF_REQ, self.identifier, &options)
    }

    fn value(&self, kind: u8) -> Option<&[u8]> {
        self.options
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| &value[..])
    }

    /// Takes a Nak or Reject of our request.
    fn amend(&mut self, code: u8, refused: &[(u8, &[u8])]) {
        if code == CONF_REJ {
            self.options
                .retain(|(kind, _)| !refused.iter().any(|(rejected, _)| rejected == kind));
            return;
        }
        for (kind, value) in &mut self.options {
            if let Some((_, hint)) = refused.iter().find(|(naked, _)| naked == kind) {
                *value = hint.to_vec();
            }
        }
    }
}

/// A frame: protocol, code, identifier, length, data.
fn packet(protocol: u16, code: u8, identifier: u8, data: &[u8]) -> Vec<u8> {
    let mut out = protocol.to_be_bytes().to_vec();
    out.extend_from_slice(&[code, identifier]);
    out.extend_from_slice(&(data.len() as u16 + 4).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// Splits options; `None` where a length is wrong.
fn options(mut data: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let [kind, length, ..] = *data {
        found.push((kind, data.get(2..usize::from(length))?));
        data = &data[usize::from(length)..];
    }
    data.is_empty().then_some(found)
}

fn join(options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let parts = options
        .iter()
        .map(|(kind, value)| [&[*kind, value.len() as u8 + 2], &value[..]].concat());
    parts.collect::<Vec<_>>().concat()
}

/// The client of one call.
#[derive(Debug)]
pub(super) struct Ppp {
    phase: Phase,
    lcp: Negotiation,
    ipcp: Negotiation,
    ipv6cp: Negotiation,
    must_authenticate: bool,
    pap_identifier: u8,
    pap_tries: u8,
    credentials: (Vec<u8>, Vec<u8>),
    magic: [u8; 4],
    learned: Learned,
    eager: bool,
    is_up: bool,
    deadline: Option<Instant>,
    frames: VecDeque<Vec<u8>>,
    events: VecDeque<PppEvent>,
}

impl Ppp {
    /// A client that sends its first request at once.
    pub(super) fn start(
        config: &LacConfig,
        credentials: (Vec<u8>, Vec<u8>),
        random: &mut Seeded,
        now: Instant,
    ) -> Self {
        let magic = (random.next_u64() as u32).to_be_bytes();
        // The universal bit of the identifier is 0: it is made up (RFC 5072, 4.1).
        let interface = random.next_u64() & !(1 << 57) | 1;
        let zero = || vec![0; 4];
        let mut lcp_options = vec![
            (OPTION_MRU, config.mru.to_be_bytes().to_vec()),
            (OPTION_MAGIC, magic.to_vec()),
        ];
        if config.compression {
            lcp_options.extend([(OPTION_PFC, Vec::new()), (OPTION_ACFC, Vec::new())]);
        }
        let mut ipcp_options = Vec::new();
        if config.ask_address {
            ipcp_options.extend([
                (OPTION_ADDRESS, zero()),
                (OPTION_DNS1, zero()),
                (OPTION_DNS2, zero()),
            ]);
        }
        let interface = interface.to_be_bytes().to_vec();
        let mut ppp = Self {
            phase: Phase::Establish,
            lcp: Negotiation::new(LCP, true, lcp_options),
            ipcp: Negotiation::new(IPCP, config.ipv4, ipcp_options),
            ipv6cp: Negotiation::new(IPV6CP, config.ipv6, vec![(OPTION_INTERFACE, interface)]),
            must_authenticate: false,
            pap_identifier: 0,
            pap_tries: 0,
            credentials,
            magic,
            learned: Learned::default(),
            eager: config.eager_ncp,
            is_up: false,
            deadline: None,
            frames: VecDeque::new(),
            events: VecDeque::new(),
        };
        let request = ppp.lcp.request();
        ppp.send(request, now);
        ppp
    }

    /// Sends a request that wants an answer.
    fn send(&mut self, frame: Vec<u8>, now: Instant) {
        self.frames.push_back(frame);
        self.deadline = Some(now + RESTART);
    }

    pub(super) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<PppEvent> {
        self.events.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Ends it from our side.
    pub(super) fn terminate(&mut self) {
        if self.phase != Phase::Ended {
            self.frames.push_back(packet(LCP, TERM_REQ, 99, b""));
        }
    }

    fn end(&mut self, reason: &'static str) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            self.deadline = None;
            self.events.push_back(PppEvent::Down(reason));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        self.deadline = None;
        match self.phase {
            Phase::Establish if self.lcp.tries >= MAX_TRIES => self.end("lcp_timeout"),
            Phase::Establish => {
                let request = self.lcp.request();
                self.send(request, now);
            }
            Phase::Authenticate if self.pap_tries >= MAX_TRIES => self.end("pap_timeout"),
            Phase::Authenticate => self.send_pap(now),
            Phase::Network => self.repeat_ncps(now),
            Phase::Ended => {}
        }
    }

    fn repeat_ncps(&mut self, now: Instant) {
        let waiting = |ncp: &Negotiation| ncp.wanted && !ncp.is_open();
        if [&self.ipcp, &self.ipv6cp]
            .into_iter()
            .any(|ncp| waiting(ncp) && ncp.tries >= MAX_TRIES)
        {
            return self.end("ncp_timeout");
        }
        for ncp in [&mut self.ipcp, &mut self.ipv6cp] {
            if ncp.wanted && !ncp.is_open() {
                ncp.acked = false;
                self.frames.push_back(ncp.request());
                self.deadline = Some(now + RESTART);
            }
        }
    }

    fn send_pap(&mut self, now: Instant) {
        self.pap_identifier = self.pap_identifier.wrapping_add(1);
        self.pap_tries += 1;
        let (name, password) = &self.credentials;
        let data = [&[name.len() as u8], &name[..], &[password.len() as u8], password].concat();
        let request = packet(PAP, 1, self.pap_identifier, &data);
        self.send(request, now);
        if self.eager && self.ipcp.tries == 0 && self.ipcp.wanted {
            let request = self.ipcp.request();
            self.frames.push_back(request);
        }
    }

    /// Handles a frame as it came off the tunnel.
    pub(super) fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        let Some((protocol, data)) = unwrap(frame) else {
            return;
        };
        if matches!(protocol, IPV4 | IPV6) {
            if self.phase == Phase::Network {
                self.events.push_back(PppEvent::Ip(data.to_vec()));
            }
            return;
        }
        let [code, identifier, high, low, ..] = *data else {
            return;
        };
        let Some(body) = data.get(4..usize::from(u16::from_be_bytes([high, low]))) else {
            return;
        };
        match protocol {
            LCP => self.handle_lcp(code, identifier, body, now),
            PAP if self.phase == Phase::Authenticate => self.handle_pap(code, now),
            IPCP | IPV6CP if self.phase >= Phase::Authenticate => {
                self.handle_ncp(protocol, code, identifier, body, now)
            }
            _ => {}
        }
    }

    fn handle_lcp(&mut self, code: u8, identifier: u8, body: &[u8], now: Instant) {
        match code {
            CONF_REQ => self.handle_lcp_request(identifier, body, now),
            CONF_ACK if identifier == self.lcp.identifier => self.lcp.acked = true,
            CONF_NAK | CONF_REJ if identifier == self.lcp.identifier => {
                if let Some(refused) = options(body) {
                    self.lcp.amend(code, &refused);
                    let request = self.lcp.request();
                    self.send(request, now);
                }
            }
            TERM_REQ => {
                self.frames.push_back(packet(LCP, TERM_ACK, identifier, b""));
                self.end("terminated_by_peer");
            }
            TERM_ACK => self.end("terminated"),
            ECHO_REQ if body.len() >= 4 => {
                let reply = [&self.magic[..], &body[4..]].concat();
                self.frames.push_back(packet(LCP, ECHO_REP, identifier, &reply));
            }
            PROTOCOL_REJ => {
                for ncp in [&mut self.ipcp, &mut self.ipv6cp] {
                    if body.starts_with(&ncp.protocol.to_be_bytes()) {
                        ncp.wanted = false;
                    }
                }
                self.check_up();
            }
            _ => {}
        }
        if self.phase == Phase::Establish && self.lcp.is_open() {
            self.deadline = None;
            if self.must_authenticate {
                self.phase = Phase::Authenticate;
                self.send_pap(now);
            } else {
                self.start_ncps(now);
            }
        }
    }

    fn handle_lcp_request(&mut self, identifier: u8, body: &[u8], now: Instant) {
        let Some(asked) = options(body) else {
            return;
        };
        if matches!(self.phase, Phase::Authenticate | Phase::Network) {
            // The peer starts again: so do we.
            self.phase = Phase::Establish;
            self.lcp.acked = false;
            for ncp in [&mut self.ipcp, &mut self.ipv6cp] {
                (ncp.acked, ncp.theirs, ncp.tries) = (false, false, 0);
            }
            let request = self.lcp.request();
            self.send(request, now);
        }
        let (mut rejected, mut naked) = (Vec::new(), Vec::new());
        self.must_authenticate = false;
        for (kind, value) in asked {
            match (kind, value) {
                (OPTION_MRU, [high, low]) => self.learned.mru = Some(u16::from_be_bytes([*high, *low])),
                (OPTION_ACCM, [_, _, _, _]) | (OPTION_MAGIC, [_, _, _, _]) => {}
                (OPTION_PFC | OPTION_ACFC, []) => {}
                (OPTION_AUTH, [0xc0, 0x23]) => self.must_authenticate = true,
                (OPTION_AUTH, _) => naked.push((OPTION_AUTH, vec![0xc0, 0x23])),
                _ => rejected.push((kind, value.to_vec())),
            }
        }
        self.reply(LCP, identifier, body, &rejected, &naked);
        self.lcp.theirs = rejected.is_empty() && naked.is_empty();
    }

    fn reply(
        &mut self,
        protocol: u16,
        identifier: u8,
        body: &[u8],
        rejected: &[(u8, Vec<u8>)],
        naked: &[(u8, Vec<u8>)],
    ) {
        let reply = if !rejected.is_empty() {
            packet(protocol, CONF_REJ, identifier, &join(rejected))
        } else if !naked.is_empty() {
            packet(protocol, CONF_NAK, identifier, &join(naked))
        } else {
            packet(protocol, CONF_ACK, identifier, body)
        };
        self.frames.push_back(reply);
    }

    fn handle_pap(&mut self, code: u8, now: Instant) {
        match code {
            2 => self.start_ncps(now),
            3 => self.end("auth_rejected"),
            _ => {}
        }
    }

    fn start_ncps(&mut self, now: Instant) {
        self.phase = Phase::Network;
        self.deadline = None;
        for ncp in [&mut self.ipcp, &mut self.ipv6cp] {
            if ncp.wanted && ncp.tries == 0 {
                self.frames.push_back(ncp.request());
            }
        }
        self.deadline = Some(now + RESTART);
    }

    fn handle_ncp(&mut self, protocol: u16, code: u8, identifier: u8, body: &[u8], now: Instant) {
        let ncp = if protocol == IPCP {
            &mut self.ipcp
        } else {
            &mut self.ipv6cp
        };
        if !ncp.wanted {
            let whole = [
                &protocol.to_be_bytes()[..],
                &packet(protocol, code, identifier, body)[2..],
            ]
            .concat();
            self.frames
                .push_back(packet(LCP, PROTOCOL_REJ, identifier, &whole));
            return;
        }
        match code {
            CONF_REQ => self.handle_ncp_request(protocol, identifier, body),
            CONF_ACK if identifier == ncp.identifier => ncp.acked = true,
            CONF_NAK | CONF_REJ if identifier == ncp.identifier => {
                if let Some(refused) = options(body) {
                    ncp.amend(code, &refused);
                    let request = ncp.request();
                    self.send(request, now);
                }
            }
            TERM_REQ => {
                ncp.wanted = false;
                self.frames.push_back(packet(protocol, TERM_ACK, identifier, b""));
            }
            _ => {}
        }
        self.check_up();
    }

    fn handle_ncp_request(&mut self, protocol: u16, identifier: u8, body: &[u8]) {
        let Some(asked) = options(body) else {
            return;
        };
        let mut rejected = Vec::new();
        for (kind, value) in asked {
            match (protocol, kind, value) {
                (IPCP, OPTION_ADDRESS, [a, b, c, d]) => {
                    self.learned.gateway = Some(Ipv4Addr::new(*a, *b, *c, *d));
                }
                (IPV6CP, OPTION_INTERFACE, value) if value.len() == 8 => {}
                _ => rejected.push((kind, value.to_vec())),
            }
        }
        let accepted = rejected.is_empty();
        self.reply(protocol, identifier, body, &rejected, &[]);
        let ncp = if protocol == IPCP {
            &mut self.ipcp
        } else {
            &mut self.ipv6cp
        };
        ncp.theirs = accepted;
    }

    fn check_up(&mut self) {
        if self.is_up || self.phase != Phase::Network {
            return;
        }
        let wanted = [&self.ipcp, &self.ipv6cp].into_iter().filter(|ncp| ncp.wanted);
        let (open, waiting): (Vec<_>, Vec<_>) = wanted.partition(|ncp| ncp.is_open());
        if !waiting.is_empty() {
            return;
        }
        if open.is_empty() {
            return self.end("no_network_protocol");
        }
        let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.ipcp.value(kind)?).ok()?));
        if self.ipcp.is_open() {
            self.learned.ipv4 = address(OPTION_ADDRESS);
            self.learned.dns = [OPTION_DNS1, OPTION_DNS2]
                .into_iter()
                .filter_map(address)
                .collect();
        }
        let interface = self
            .ipv6cp
            .value(OPTION_INTERFACE)
            .and_then(|value| value.try_into().ok());
        self.learned.interface = interface
            .map(u64::from_be_bytes)
            .filter(|_| self.ipv6cp.is_open());
        self.is_up = true;
        self.deadline = None;
        self.events.push_back(PppEvent::Up);
    }
}

/// Takes address, control and protocol off a frame, compressed or not.
fn unwrap(frame: &[u8]) -> Option<(u16, &[u8])> {
    let frame = frame.strip_prefix(&[0xff, 3]).unwrap_or(frame);
    match *frame {
        [low, ref rest @ ..] if low & 1 == 1 => Some((u16::from(low), rest)),
        [high, low, ref rest @ ..] => Some((u16::from_be_bytes([high, low]), rest)),
        _ => None,
    }
}

/// The protocol field for an IP packet.
pub(super) fn protocol_of(ip: &[u8]) -> Option<u16> {
    match ip.first()? >> 4 {
        4 => Some(IPV4),
        6 => Some(IPV6),
        _ => None,
    }
}
