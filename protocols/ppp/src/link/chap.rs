//! The Authenticate phase by CHAP with MD5 (RFC 1994) and MS-CHAPv2 (RFC 2759), from either side.

use super::Ppp;
use super::auth::{Given, Step};
use crate::drops;
use crate::header::protocol;
use crate::wire::{AuthProtocol, Packet, chap};
use sluice_auth::chap::{
    MSCHAP_CHALLENGE, authenticator_response, chap_response, nt_hash, nt_hash_hash, nt_response,
};
use sluice_auth::{MsChapExchange, Proof, RejectReason, SessionKeys};
use sluice_spi::wire::display_text;
use sluice_spi::{Ended, TerminateCause, random_u16};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Answers of ours that are remembered, for the Success of a challenge that another one overtook.
const MAX_ANSWERS: usize = 4;
/// A peer is challenged again after this time at the earliest, and after twice that at the latest.
const RECHALLENGE: Duration = Duration::from_secs(300);

/// CHAP on one link.
#[derive(Default)]
pub(super) struct Chap {
    /// As the server: the challenge that is out. It is never used twice.
    challenge: [u8; MSCHAP_CHALLENGE],
    /// As the server: challenges sent since the last answer.
    sent: u8,
    /// As the server: what the latest answer was told, code and message, so that its repetition is told the same.
    told: Option<(u8, String)>,
    /// As the server: when to challenge again.
    pub(super) again: Option<Instant>,
    /// As the client: our latest answers.
    answers: VecDeque<Answer>,
}

/// An answer of ours to a challenge.
struct Answer {
    id: u8,
    challenge: Vec<u8>,
    packet: Vec<u8>,
    /// What the Success of an authenticator begins with that knows the password too, and the keys.
    proof: Proof,
}

impl Ppp {
    /// Sends a challenge that was never sent before, under an identifier of its own (RFC 1994, 4.1).
    pub(super) fn send_challenge(&mut self, now: Instant) {
        let chap = self.auth.chap.get_or_insert_default();
        self.entropy.fill(&mut chap.challenge);
        chap.sent = chap.sent.saturating_add(1);
        chap.told = None;
        self.auth.id = self.auth.id.wrapping_add(1);
        self.auth.resend = Some(now + self.config.restart_interval);
        let challenge = chap::Valued {
            value: &chap.challenge,
            name: self.config.auth_name.as_bytes(),
        };
        let mut packet = Vec::new();
        challenge.encode(chap::CHALLENGE, self.auth.id, &mut packet);
        self.out.send(protocol::CHAP, &packet);
    }

    /// No answer came in time.
    pub(super) fn repeat_challenge(&mut self, now: Instant) {
        if self.auth.chap().sent < self.config.max_configure {
            self.send_challenge(now);
        }
    }

    /// A peer that is up has to prove itself again.
    pub(super) fn challenge_again(&mut self, now: Instant) {
        self.auth.chap().again = None;
        self.auth.chap().sent = 0;
        self.auth.step = Step::Waiting;
        self.auth.deadline = Some(now + self.config.auth_timeout);
        self.send_challenge(now);
    }

    /// Decides when the peer is challenged next, if ever.
    pub(super) fn arm_challenge(&mut self, now: Instant) {
        if self.config.chap_rechallenge {
            let spread = RECHALLENGE * u32::from(random_u16(&mut *self.entropy)) / u32::from(u16::MAX);
            self.auth.chap().again = Some(now + RECHALLENGE + spread);
        }
    }

    pub(super) fn handle_chap(&mut self, information: &[u8], method: AuthProtocol, now: Instant) {
        let Ok(packet) = Packet::decode(information) else {
            return self.out.dropped(drops::MALFORMED);
        };
        match packet.code {
            chap::RESPONSE if self.server => self.handle_response(packet, method, now),
            chap::CHANGE_PASSWORD if self.server && method == AuthProtocol::MsChapV2 => {
                self.refuse_change(packet.id);
            }
            chap::CHALLENGE if !self.server => self.handle_challenge(packet, method, now),
            chap::SUCCESS | chap::FAILURE if !self.server => self.handle_result(packet, now),
            _ => self.out.dropped(drops::PHASE),
        }
    }

    fn handle_response(&mut self, packet: Packet<'_>, method: AuthProtocol, now: Instant) {
        if packet.id != self.auth.id {
            return self.out.dropped(drops::STALE);
        }
        match (self.auth.step, self.auth.chap().told.clone()) {
            (Step::Waiting, _) => {}
            (Step::Done, Some((code, message))) => {
                return self
                    .out
                    .send_packet(protocol::CHAP, code, packet.id, message.as_bytes());
            }
            (Step::Done | Step::Asked, _) => return self.out.dropped(drops::STALE),
            (Step::Idle, _) => return self.out.dropped(drops::PHASE),
        }
        let Ok(answer) = chap::Valued::decode(packet.body) else {
            return self.out.dropped(drops::MALFORMED);
        };
        let challenge = self.auth.chap().challenge;
        let Some(given) = Given::by_chap(method, packet.id, &challenge, answer.value) else {
            return self.out.dropped(drops::MALFORMED);
        };
        self.auth.resend = None;
        self.auth.answers = true;
        self.ask(answer.name, given, now);
    }

    /// Tells the peer that it is in; false: what its method needs for that is missing.
    pub(super) fn tell_success(&mut self, method: AuthProtocol, proof: &Proof, now: Instant) -> bool {
        let message = match (method, &proof.authenticator_response) {
            (AuthProtocol::MsChapV2, None) => return false,
            (AuthProtocol::MsChapV2, Some(response)) => format!("{response} M=Welcome"),
            _ => String::new(),
        };
        let id = self.auth.id;
        self.out
            .send_packet(protocol::CHAP, chap::SUCCESS, id, message.as_bytes());
        self.auth.chap().told = Some((chap::SUCCESS, message));
        self.auth.chap().sent = 0;
        self.arm_challenge(now);
        true
    }

    /// Tells the peer that it is not let in.
    pub(super) fn tell_failure(&mut self, method: AuthProtocol, reason: RejectReason, words: &str) {
        let message = match method {
            AuthProtocol::MsChapV2 => self.mschap_failure(chap::error_code(reason), words),
            _ => words.to_owned(),
        };
        self.out
            .send_packet(protocol::CHAP, chap::FAILURE, self.auth.id, message.as_bytes());
    }

    pub(super) fn mschap_failure(&mut self, error: u16, words: &str) -> String {
        let mut unused = [0; MSCHAP_CHALLENGE];
        self.entropy.fill(&mut unused);
        chap::failure_message(error, unused, words)
    }

    /// Passwords are not changed over a link (RFC 2759, 7).
    fn refuse_change(&mut self, id: u8) {
        let message = self.mschap_failure(chap::CHANGE_REFUSED, "Passwords are not changed here");
        self.out
            .send_packet(protocol::CHAP, chap::FAILURE, id, message.as_bytes());
    }

    fn handle_challenge(&mut self, packet: Packet<'_>, method: AuthProtocol, now: Instant) {
        if self.auth.step == Step::Idle {
            return self.out.dropped(drops::PHASE);
        }
        let Ok(challenge) = chap::Valued::decode(packet.body) else {
            return self.out.dropped(drops::MALFORMED);
        };
        let answers = &mut self.auth.chap().answers;
        let known = answers
            .iter()
            .position(|answer| answer.id == packet.id && answer.challenge == challenge.value);
        let answer = match known.and_then(|at| answers.remove(at)) {
            // The same challenge has the same answer, or the Success to the first would not fit the second.
            Some(answer) => answer,
            None => match self.answer_to(packet.id, challenge.value, method) {
                Some(answer) => answer,
                None => return self.out.dropped(drops::MALFORMED),
            },
        };
        self.out.send(protocol::CHAP, &answer.packet);
        let answers = &mut self.auth.chap().answers;
        answers.truncate(MAX_ANSWERS - 1);
        answers.push_front(answer);
        self.auth.step = Step::Waiting;
        self.auth.tries = 1;
        self.auth.resend = Some(now + self.config.restart_interval);
    }

    fn answer_to(&mut self, id: u8, challenge: &[u8], method: AuthProtocol) -> Option<Answer> {
        let (value, proof) = self.answer_value(id, challenge, method)?;
        let name = self.login.as_deref()?.name.as_bytes();
        let mut packet = Vec::new();
        chap::Valued { value: &value, name }.encode(chap::RESPONSE, id, &mut packet);
        Some(Answer {
            id,
            challenge: challenge.to_vec(),
            packet,
            proof,
        })
    }

    /// The value of our answer to a challenge, and what an authenticator answers that knows the password too.
    pub(super) fn answer_value(
        &mut self,
        id: u8,
        challenge: &[u8],
        method: AuthProtocol,
    ) -> Option<(Vec<u8>, Proof)> {
        let login = self.login.as_deref()?;
        if method != AuthProtocol::MsChapV2 {
            let value = chap_response(id, &login.password, challenge).to_vec();
            return Some((value, Proof::default()));
        }
        let name = login.name.as_bytes();
        let challenge = <[u8; MSCHAP_CHALLENGE]>::try_from(challenge).ok()?;
        let mut peer_challenge = [0; MSCHAP_CHALLENGE];
        self.entropy.fill(&mut peer_challenge);
        let hash = nt_hash(&login.password)?;
        let exchange = MsChapExchange {
            challenge,
            peer_challenge,
            nt_response: nt_response(&hash, &peer_challenge, &challenge, name),
        };
        let hash_hash = nt_hash_hash(&hash);
        let response = &exchange.nt_response;
        let expected = authenticator_response(&hash_hash, response, &peer_challenge, &challenge, name);
        let keys = SessionKeys::of_mschap(&hash_hash, response).of_peer();
        let proof = Proof {
            authenticator_response: Some(expected),
            keys: Some(Box::new(keys)),
        };
        Some((chap::encode_mschap(&exchange), proof))
    }

    /// The authenticator says nothing: its Success may be lost, and it answers our repeated answer alike.
    pub(super) fn repeat_answer(&mut self, now: Instant) {
        if let Some(answer) = self.auth.chap.as_ref().and_then(|chap| chap.answers.front())
            && self.auth.tries < self.config.max_configure
        {
            self.auth.tries += 1;
            self.auth.resend = Some(now + self.config.restart_interval);
            self.out.send(protocol::CHAP, &answer.packet);
        }
    }

    fn handle_result(&mut self, packet: Packet<'_>, now: Instant) {
        let answers = &self.auth.chap.get_or_insert_default().answers;
        let Some(answer) = answers
            .iter()
            .find(|answer| answer.id == packet.id)
            .filter(|_| self.auth.step == Step::Waiting)
        else {
            return self.out.dropped(drops::STALE);
        };
        if packet.code == chap::FAILURE {
            let text = format!("the peer refused our login: \"{}\"", display_text(packet.body));
            return self.end(Ended::new(TerminateCause::UserError, "login_rejected", text), now);
        }
        // Who does not know the password is not the gateway that we want (RFC 2759, 5).
        let expected = &answer.proof.authenticator_response;
        let genuine = expected
            .as_ref()
            .is_none_or(|expected| packet.body.starts_with(expected.as_bytes()));
        if !genuine {
            return self.not_genuine(now);
        }
        self.auth.keys = answer.proof.keys.clone();
        self.let_in(now);
    }

    /// The authenticator does not know our password.
    pub(super) fn not_genuine(&mut self, now: Instant) {
        let text = "the peer does not know our password";
        self.end(
            Ended::new(TerminateCause::UserError, "peer_not_genuine", text),
            now,
        );
    }
}
