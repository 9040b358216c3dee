//! Seeded randomness, virtual time, a scripted peer, and two links on an impaired path.

use crate::pair_chap::judge;
use bytes::BytesMut;
use sluice_auth::{AuthRequest, Grants, Verdict};
use sluice_ppp::wire::{Packet, describe};
use sluice_ppp::{Carrier, Login, Ppp, PppConfig, PppEvent, PppHeader, PppPath, Proxy, Role, protocol};
use sluice_spi::{Ended, Entropy, Fact};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A splitmix generator: the same seed gives the same trace.
#[derive(Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next() as u8;
        }
    }

    fn fork(&mut self) -> Box<dyn Entropy> {
        Box::new(Seeded(self.next()))
    }
}

pub(crate) fn carrier() -> Carrier {
    Carrier {
        protocol: "test",
        peer: Some("192.0.2.9:1701".parse().unwrap()),
        calling: Some("5551".to_owned()),
        called: Some("5552".to_owned()),
        mtu: 1460,
        verifiable: Default::default(),
    }
}

pub(crate) fn grants() -> Grants {
    Grants {
        ipv4: Some("10.64.0.7".parse().unwrap()),
        ipv4_gateway: Some("10.64.0.1".parse().unwrap()),
        ipv6_prefix: Some("2001:db8:64:7::/64".parse().unwrap()),
        dns4: vec!["10.64.0.53".parse().unwrap()],
        dns6: vec!["2001:db8::53".parse().unwrap()],
        nbns: Vec::new(),
        mtu: None,
    }
}

pub(crate) fn login() -> Role {
    Role::Client {
        login: Some(Login {
            name: "alice@example.net".to_owned(),
            password: sluice_auth::Secret::new("hunter2"),
        }),
    }
}

/// What one end has said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) asked: usize,
    pub(crate) links: usize,
    pub(crate) ups: usize,
    pub(crate) path: Option<PppPath>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) down: Option<Ended>,
    pub(crate) dropped: BTreeMap<&'static str, usize>,
    pub(crate) notices: Vec<String>,
    pub(crate) traced: Vec<String>,
}

impl Said {
    /// Notes an event and checks the order that the interface promises.
    pub(crate) fn note(&mut self, event: &PppEvent) {
        assert!(
            self.down.is_none()
                || matches!(
                    event,
                    PppEvent::Dropped(_) | PppEvent::Notice { .. } | PppEvent::Traced { .. }
                ),
            "{event:?} after Down"
        );
        match event {
            PppEvent::AuthRequested(_) => self.asked += 1,
            PppEvent::LinkUp { .. } => self.links += 1,
            PppEvent::Up { path, facts } => {
                self.ups += 1;
                assert_eq!(self.ups, 1, "Up comes once");
                self.path = Some(path.clone());
                self.facts.clone_from(facts);
            }
            PppEvent::PathChanged(path) => {
                assert_eq!(self.ups, 1, "PathChanged before Up");
                assert_ne!(&self.path, path, "PathChanged without a change");
                self.path.clone_from(path);
            }
            PppEvent::Down(ended) => {
                assert!(self.path.is_none(), "Down with a path");
                self.down = Some(ended.clone());
            }
            PppEvent::Dropped(reason) => *self.dropped.entry(reason.0).or_default() += 1,
            PppEvent::Notice { text, .. } => self.notices.push(text.clone()),
            PppEvent::Traced { text, .. } => self.traced.push(text.clone()),
        }
    }

    pub(crate) fn code(&self) -> Option<&'static str> {
        self.down.as_ref().map(|ended| ended.code)
    }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// One link whose peer is the test itself.
pub(crate) struct Script {
    pub(crate) link: Ppp,
    pub(crate) now: Instant,
    pub(crate) said: Said,
    /// Frames sent since last asked for.
    pub(crate) frames: Vec<(u16, Vec<u8>)>,
    /// Our last Configure-Request of each protocol: identifier and options.
    pub(crate) requests: BTreeMap<u16, (u8, Vec<u8>)>,
    /// Given to requests for a verdict, where there is one.
    pub(crate) verdict: Option<Verdict>,
    /// The password that proofs are checked against, in place of `verdict`.
    pub(crate) password: Option<&'static str>,
}

impl Script {
    pub(crate) fn new(role: Role, config: PppConfig) -> Self {
        Self::on(role, config, carrier())
    }

    pub(crate) fn on(role: Role, config: PppConfig, carrier: Carrier) -> Self {
        Self {
            link: Ppp::new(Arc::new(config), role, carrier, Box::new(Seeded(7))),
            now: Instant::now(),
            said: Said::default(),
            frames: Vec::new(),
            requests: BTreeMap::new(),
            verdict: Some(Verdict::accept(Box::new(grants()))),
            password: None,
        }
    }

    /// A server that has been started.
    pub(crate) fn server(config: PppConfig) -> Self {
        let mut script = Self::new(Role::Server, config);
        script.start(None);
        script
    }

    pub(crate) fn start(&mut self, proxy: Option<Proxy>) {
        self.link.start(proxy, self.now);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        let mut out = BytesMut::new();
        loop {
            let mut idle = true;
            while self.link.poll_frame(&mut out) {
                idle = false;
                let mut wire = BytesMut::new();
                assert!(self.link.header().seal_frame(&out, &mut wire));
                let (number, range) = PppHeader::open(&wire).unwrap();
                let information = wire[range].to_vec();
                if let Ok(Packet { code: 1, id, body }) = Packet::decode(&information)
                    && number != protocol::PAP
                {
                    self.requests.insert(number, (id, body.to_vec()));
                }
                self.frames.push((number, information));
                out.clear();
            }
            while let Some(event) = self.link.poll_event() {
                idle = false;
                self.said.note(&event);
                if let PppEvent::AuthRequested(request) = &event {
                    let judged = self.password.map(|password| judge(request, password));
                    if let Some(verdict) = judged.or_else(|| self.verdict.clone()) {
                        self.link.auth_verdict(verdict, self.now);
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    /// Gives the link a frame as it comes from the wire.
    pub(crate) fn wire(&mut self, bytes: &[u8]) {
        self.link.handle_frame(bytes, self.now);
        self.drain();
    }

    /// Gives the link a control packet.
    pub(crate) fn packet(&mut self, number: u16, code: u8, id: u8, body: &str) {
        let mut bytes = number.to_be_bytes().to_vec();
        let body = hex(body);
        Packet {
            code,
            id,
            body: &body,
        }
        .encode(&mut bytes);
        self.wire(&bytes);
    }

    /// The frames sent since last asked for, in words.
    pub(crate) fn sent(&mut self) -> Vec<String> {
        let frames = std::mem::take(&mut self.frames);
        frames
            .iter()
            .map(|(number, information)| describe(*number, information))
            .collect()
    }

    /// Forgets the frames sent until now.
    pub(crate) fn forget(&mut self) {
        self.frames.clear();
    }

    /// Lets time pass, handling timeouts on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.link.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.link.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Acknowledges our last Configure-Request of a protocol.
    pub(crate) fn acknowledge(&mut self, number: u16) {
        let (id, body) = self.requests[&number].clone();
        let mut bytes = number.to_be_bytes().to_vec();
        Packet {
            code: 2,
            id,
            body: &body,
        }
        .encode(&mut bytes);
        self.wire(&bytes);
    }

    /// Brings LCP up as pppd does.
    pub(crate) fn open_lcp(&mut self) {
        self.packet(protocol::LCP, 1, 1, "0206 00000000 0506 11223344 0702 0802");
        self.acknowledge(protocol::LCP);
        assert_eq!(self.said.links, 1);
    }

    /// Brings the link through authentication.
    pub(crate) fn authenticate(&mut self) {
        self.open_lcp();
        self.packet(protocol::PAP, 1, 1, "05 616c696365 07 68756e74657232");
    }

    /// Brings the link up with IPv4 and IPv6.
    pub(crate) fn establish(&mut self) {
        self.authenticate();
        self.packet(protocol::IPCP, 1, 1, "0306 0a400007");
        self.acknowledge(protocol::IPCP);
        self.packet(protocol::IPV6CP, 1, 1, "010a 0000000000000009");
        self.acknowledge(protocol::IPV6CP);
        assert!(self.said.path.is_some());
        self.forget();
    }
}

/// How a path treats frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Impairment {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    pub(crate) reordering: u64,
}

/// Two links with an impaired path between them.
pub(crate) struct Pair {
    pub(crate) links: [Ppp; 2],
    pub(crate) said: [Said; 2],
    pub(crate) now: Instant,
    pub(crate) started: Instant,
    pub(crate) verdict: Verdict,
    /// How long a verdict takes.
    pub(crate) thinking: Duration,
    pub(crate) impairment: Impairment,
    /// Everything sent, in words.
    pub(crate) trace: Vec<String>,
    random: Seeded,
    serial: u64,
    flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    verdicts: Vec<(Instant, Box<AuthRequest>)>,
    /// What a backend judges by; `None`: it gives `verdict`.
    pub(crate) password: Option<&'static str>,
    /// Challenges sent by the server.
    pub(crate) challenges: Vec<Vec<u8>>,
}

impl Pair {
    pub(crate) fn new(seed: u64, server: PppConfig, client: PppConfig, role: Role) -> Self {
        Self::on(seed, server, client, role, carrier())
    }

    pub(crate) fn on(seed: u64, server: PppConfig, client: PppConfig, role: Role, at: Carrier) -> Self {
        let now = Instant::now();
        let mut random = Seeded(seed);
        let links = [
            Ppp::new(Arc::new(server), Role::Server, at, random.fork()),
            Ppp::new(Arc::new(client), role, carrier(), random.fork()),
        ];
        Self {
            links,
            said: Default::default(),
            now,
            started: now,
            verdict: Verdict::accept(Box::new(grants())),
            thinking: Duration::from_millis(30),
            impairment: Impairment::default(),
            trace: Vec::new(),
            random,
            serial: 0,
            flight: BTreeMap::new(),
            verdicts: Vec::new(),
            password: None,
            challenges: Vec::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        for end in 0..2 {
            self.links[end].start(None, self.now);
            self.drain(end);
        }
    }

    fn launch(&mut self, to: usize, wire: Vec<u8>) {
        let copies = if self.random.chance(self.impairment.loss) {
            0
        } else if self.random.chance(self.impairment.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let late = if self.random.chance(self.impairment.reordering) {
                60
            } else {
                0
            };
            let delay = Duration::from_millis(10 + self.random.below(1 + late));
            self.serial += 1;
            self.flight
                .insert((self.now + delay, self.serial), (to, wire.clone()));
        }
    }

    pub(crate) fn drain(&mut self, end: usize) {
        let mut frame = BytesMut::new();
        loop {
            let mut idle = true;
            while self.links[end].poll_frame(&mut frame) {
                idle = false;
                if let [0xc2, 0x23, 1, _, _, _, value @ ..] = &frame[..] {
                    self.challenges.push(value.to_vec());
                }
                let name = ["server", "client"][end];
                let words = describe(u16::from_be_bytes([frame[0], frame[1]]), &frame[2..]);
                let at = self.now.duration_since(self.started).as_millis();
                self.trace.push(format!("{at} {name}: {words}"));
                let mut wire = BytesMut::new();
                self.links[end].header().seal_frame(&frame, &mut wire);
                frame.clear();
                self.launch(1 - end, wire.to_vec());
            }
            while let Some(event) = self.links[end].poll_event() {
                idle = false;
                self.said[end].note(&event);
                if let PppEvent::AuthRequested(request) = event {
                    self.verdicts.push((self.now + self.thinking, request));
                }
            }
            if idle {
                return;
            }
        }
    }

    /// The server goes on from its checkpoint.
    pub(crate) fn restart_server(&mut self) {
        let mut bytes = BytesMut::new();
        assert!(self.links[0].checkpoint(&mut bytes, self.now));
        let config = PppConfig {
            chap_rechallenge: true,
            ..PppConfig::default()
        };
        let mut reader = sluice_spi::wire::Reader::new(&bytes);
        let restored = Ppp::restore(
            &mut reader,
            Arc::new(config),
            carrier(),
            self.random.fork(),
            self.now,
        );
        self.links[0] = restored.unwrap();
    }

    fn next(&self) -> Option<Instant> {
        let flight = self.flight.keys().next().map(|(at, _)| *at);
        let verdict = self.verdicts.first().map(|(at, _)| *at);
        let timers = self.links.iter().filter_map(Ppp::poll_timeout);
        timers.chain(flight).chain(verdict).min()
    }

    /// Runs until `until` says so; false: that did not come within `time`.
    pub(crate) fn run(&mut self, time: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        let mut steps = 0;
        while !until(self) {
            let Some(at) = self.next().filter(|&at| at <= end) else {
                self.now = end;
                return until(self);
            };
            self.now = self.now.max(at);
            if let Some(entry) = self
                .flight
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let (to, wire) = entry.remove();
                self.links[to].handle_frame(&wire, self.now);
            }
            if self.verdicts.first().is_some_and(|(at, _)| *at <= self.now) {
                let (_, request) = self.verdicts.remove(0);
                let verdict = match self.password {
                    Some(password) => crate::pair_chap::judge(&request, password),
                    None => self.verdict.clone(),
                };
                self.links[0].auth_verdict(verdict, self.now);
            }
            for end in 0..2 {
                self.links[end].handle_timeout(self.now);
                self.drain(end);
            }
            steps += 1;
            assert!(steps < 20_000, "the pair does not come to rest:\n{}", self.tail());
        }
        true
    }

    /// The last things sent, for a failed test.
    pub(crate) fn tail(&self) -> String {
        let from = self.trace.len().saturating_sub(60);
        self.trace[from..].join("\n")
    }

    pub(crate) fn both_up(&self) -> bool {
        self.said
            .iter()
            .all(|said| said.path.as_ref().is_some_and(|path| path.filter.ipv4.is_some()))
    }

    pub(crate) fn both_down(&self) -> bool {
        self.links.iter().all(Ppp::is_closed)
    }
}
