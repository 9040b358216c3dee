//! Targets for what a PPP link does with packets, answers and time in any order, and for what is told of passwords.

use bytes::BytesMut;
use sluice_auth::{RejectReason, Verdict};
use sluice_ppp::wire::{Packet, describe, pap};
use sluice_ppp::{Carrier, Ppp, PppConfig, PppEvent, PppHeader, Role, protocol};
use sluice_spi::TerminateCause;
use sluice_testkit::policy::grants;
use sluice_testkit::{Clock, Seeded};
use std::sync::Arc;
use std::time::Duration;

/// Frames and events that one step may give at the most.
const MAX_BURST: usize = 100;
/// Virtual time after which a link whose peer fell silent must be over.
const SILENCE: Duration = Duration::from_secs(3600);

/// PAP: requests are read again from what is written of them, and no description depends on a password.
pub fn ppp_pap(data: &[u8]) {
    let Ok(packet) = Packet::decode(data) else {
        return;
    };
    let _ = pap::message(packet.body);
    if let Ok(request) = pap::Request::decode(packet.body) {
        let mut out = Vec::new();
        request.encode(packet.id, &mut out);
        let decoded = Packet::decode(&out).expect("what was written");
        assert_eq!(pap::Request::decode(decoded.body).ok(), Some(request.clone()));
        // A description tells nothing of the password: it is the same for another one.
        let mut other = Vec::new();
        let password = sluice_auth::Secret::new(vec![b'x'; request.password.expose().len()]);
        pap::Request { password, ..request }.encode(packet.id, &mut other);
        assert_eq!(describe(protocol::PAP, &out), describe(protocol::PAP, &other));
    }
}

/// One link, driven by a program.
struct Link {
    ppp: Ppp,
    clock: Clock,
    asked: bool,
    was_up: bool,
    is_down: bool,
    /// The last Configure-Request of each protocol that came out.
    requests: Vec<(u16, Vec<u8>)>,
}

/// Takes bytes off a program; zeros once it is over.
pub(super) struct Program<'a>(pub(super) &'a [u8]);

impl Program<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    /// Up to 63 bytes, their number first.
    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte() % 64).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// A link fed with packets in any order, answers that come or do not, and time: no panic, no endless output, at
/// most one `Up`, one `Down` in the end, and nothing but traces after it.
pub fn ppp_program(data: &[u8]) {
    run(data);
}

/// Whether the link was up in its life.
fn run(data: &[u8]) -> bool {
    let mut program = Program(data);
    let first = program.byte();
    let role = if first & 1 == 0 {
        Role::Server
    } else {
        Role::Client { login: None }
    };
    let carrier = Carrier {
        protocol: "fuzz",
        peer: None,
        calling: None,
        called: None,
        mtu: 1400,
        verifiable: Default::default(),
    };
    let ppp = Ppp::new(
        Arc::new(PppConfig::default()),
        role,
        carrier,
        Box::new(Seeded::new(u64::from(first))),
    );
    let mut link = Link {
        ppp,
        clock: Clock::new(),
        asked: false,
        was_up: false,
        is_down: false,
        requests: Vec::new(),
    };
    link.ppp.set_trace(first & 2 != 0);
    link.ppp.start(None, link.clock.now());
    link.drain();
    while !program.is_over() {
        link.step(&mut program);
        link.drain();
    }
    let end = link.clock.elapsed() + SILENCE;
    while let Some(at) = link.ppp.poll_timeout() {
        link.clock.advance_to(at);
        assert!(
            link.clock.elapsed() < end,
            "a link whose peer is silent does not end"
        );
        link.ppp.handle_timeout(link.clock.now());
        link.answer(Verdict::Reject(RejectReason::BadCredentials));
        link.drain();
    }
    assert!(
        link.is_down && link.ppp.is_closed(),
        "no timer is left, and the link is not over"
    );
    link.was_up
}

impl Link {
    fn step(&mut self, program: &mut Program<'_>) {
        let now = self.clock.now();
        let op = program.byte();
        match op % 10 {
            0 => {
                self.clock
                    .advance(Duration::from_millis(u64::from(program.byte()) * 50));
                self.ppp.handle_timeout(self.clock.now());
            }
            1 => self.answer(Verdict::accept(Box::new(grants(7)))),
            2 if op & 0x70 == 0x70 => self.ppp.close(TerminateCause::AdminReset, now),
            3 => self.ppp.handle_frame(&program.bytes(), now),
            4 | 5 => {
                // Acknowledge, refuse or reject what the link asked for last.
                let pick = usize::from(program.byte());
                if let Some((number, request)) = self.requests.get(pick % self.requests.len().max(1)) {
                    let mut packet = request.clone();
                    if let Some(code) = packet.first_mut() {
                        *code = 2 + op / 10 % 3;
                    }
                    let frame = [&number.to_be_bytes()[..], &packet].concat();
                    self.ppp.handle_frame(&frame, now);
                }
            }
            _ => {
                let numbers = [
                    protocol::LCP,
                    protocol::LCP,
                    protocol::PAP,
                    protocol::IPCP,
                    protocol::IPV6CP,
                    protocol::IPV6,
                    protocol::CHAP,
                    protocol::CCP,
                ];
                let number = numbers[usize::from(op / 10) % numbers.len()];
                let (code, id, body) = (program.byte() % 16, program.byte(), program.bytes());
                let mut frame = number.to_be_bytes().to_vec();
                Packet {
                    code,
                    id,
                    body: &body,
                }
                .encode(&mut frame);
                self.ppp.handle_frame(&frame, now);
            }
        }
    }

    fn answer(&mut self, verdict: Verdict) {
        if std::mem::take(&mut self.asked) {
            self.ppp.auth_verdict(verdict, self.clock.now());
        }
    }

    fn drain(&mut self) {
        for _ in 0..MAX_BURST {
            let mut out = BytesMut::new();
            let sent = self.ppp.poll_frame(&mut out);
            if sent {
                self.check_frame(&out);
            }
            let event = self.ppp.poll_event();
            if !sent && event.is_none() {
                return;
            }
            match event {
                Some(PppEvent::Up { .. }) => {
                    assert!(!self.was_up && !self.is_down);
                    self.was_up = true;
                }
                Some(PppEvent::Down(_)) => {
                    assert!(!self.is_down, "it went down twice");
                    self.is_down = true;
                }
                Some(PppEvent::AuthRequested(_)) => {
                    assert!(
                        !self.asked && !self.is_down,
                        "asked again before the first was answered"
                    );
                    self.asked = true;
                }
                Some(PppEvent::PathChanged(_)) => assert!(self.was_up && !self.is_down),
                _ => {}
            }
        }
        panic!("the drain does not end");
    }

    fn check_frame(&mut self, frame: &[u8]) {
        let (number, range) = PppHeader::open(frame).expect("a frame has a protocol");
        let information = frame.get(range).unwrap_or_default();
        if number == protocol::IPV6 {
            return;
        }
        let packet = Packet::decode(information).expect("a control packet is well formed");
        if packet.code == 1 && number != protocol::PAP {
            self.requests.retain(|(found, _)| *found != number);
            self.requests.push((number, information.to_vec()));
        }
    }
}

/// PAP packets.
pub(super) fn pap_packets() -> Vec<Vec<u8>> {
    let mut packets = vec![Vec::new(), Vec::new()];
    let password = sluice_auth::Secret::new("a long password");
    pap::Request {
        name: b"somebody",
        password,
    }
    .encode(1, &mut packets[0]);
    pap::encode_answer(pap::NAK, 2, "no", &mut packets[1]);
    packets
}

/// Programs that bring a link up, and some that do not.
pub(super) fn programs() -> Vec<Vec<u8>> {
    // Operations: 4 acknowledges, 16 sends LCP, 26 PAP, 36 IPCP, 46 IPV6CP, 1 answers, 0 lets time pass.
    let lcp = [6, 1, 9, 6, 5, 6, 1, 2, 3, 4];
    let pap = [26, 1, 4, 6, 1, b'u', 3, b'p', b'a', b's'];
    let ipcp = [36, 1, 5, 6, 3, 6, 10, 0, 0, 7];
    let up = [&[0][..], &lcp, &[4, 0], &pap, &[1], &ipcp, &[4, 1, 4, 2, 4, 0]].concat();
    let address = [36, 3, 1, 6, 3, 6, 10, 0, 0, 9];
    let client = [&[1][..], &[4, 0], &lcp, &ipcp, &address, &[4, 1, 4, 2]].concat();
    vec![
        up.clone(),
        [&up[..], &[0, 255, 0, 255, 6, 5, 1, 0]].concat(),
        client,
        vec![2, 3, 6, 0xff, 3, 0xc0, 0x21],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_reach_an_open_link() {
        let ups: Vec<bool> = programs().iter().map(|program| run(program)).collect();
        assert_eq!(ups, [true, true, true, false]);
    }
}
