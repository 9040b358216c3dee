//! The Authenticate phase by EAP (RFC 3748), from either side: Identity, MD5-Challenge and MS-CHAPv2.

use super::Ppp;
use super::auth::{Given, Step};
use super::eap_tls::Tls;
use crate::drops;
use crate::header::protocol;
use crate::wire::eap::{self, EapMethod, MsChap, Typed};
use crate::wire::{AuthProtocol, Packet, chap};
use sluice_auth::chap::MSCHAP_CHALLENGE;
use sluice_auth::{Coverage, Grants, Proof, RejectReason};
use sluice_spi::wire::display_text;
use sluice_spi::{Ended, Severity, TerminateCause};
use std::collections::VecDeque;
use std::time::Instant;

/// Longest name taken from an Identity: what [`sluice_auth::Identity`] has room for.
const MAX_NAME: usize = 255;

/// Requests of the server that are remembered: a late copy of one must not begin anew what is under way.
const MAX_REQUESTS: usize = 4;

/// EAP on one link.
#[derive(Default)]
pub(super) struct Eap {
    /// How far it is.
    stage: Stage,
    /// As the server the latest request, as the client the latest response; both for their repetition.
    packet: Vec<u8>,
    /// Times that was sent.
    sent: u8,
    /// As the server: who the peer says it is.
    pub(super) name: Vec<u8>,
    /// As the server: the handshake of EAP-TLS.
    pub(super) tls: Option<Tls>,
    /// As the server: what a handshake has left that is over.
    pub(super) shown: Option<Proof>,
    /// As the server: methods that the peer was asked for.
    tried: Vec<EapMethod>,
    /// As the server: the challenge that is out.
    challenge: [u8; MSCHAP_CHALLENGE],
    /// As the server: the identifier of the MS-CHAPv2 exchange, which is that of its first request.
    exchange: u8,
    /// As the server: what the peer gets once it has confirmed that it knows us.
    accepted: Option<(Box<Grants>, Proof)>,
    /// As the client: the latest requests, identifier first; the last one of all at the front.
    requests: VecDeque<Vec<u8>>,
    /// As the client: what a server says that knows the password too, and the keys.
    expected: Option<Proof>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The Identity is awaited; as the client, a request.
    #[default]
    Identity,
    /// The answer to a challenge is awaited.
    Challenged(EapMethod),
    /// As the server: the peer has to say that it believes us.
    Confirming,
    /// As the server: the peer has to say that it has read why it is refused.
    Refusing(RejectReason),
    /// As the client: our part is done, and Success may come.
    Answered,
}

impl Ppp {
    fn eap(&mut self) -> &mut Eap {
        self.auth.eap.get_or_insert_default()
    }

    /// The server begins.
    pub(super) fn begin_eap(&mut self, now: Instant) {
        self.send_request(eap::IDENTITY, &[], now);
    }

    pub(super) fn send_request(&mut self, kind: u8, data: &[u8], now: Instant) {
        self.auth.id = self.auth.id.wrapping_add(1);
        self.auth.step = Step::Waiting;
        self.auth.resend = Some(now + self.config.restart_interval);
        let packet = Typed { kind, data }.encode(eap::REQUEST, self.auth.id);
        self.out.send(protocol::EAP, &packet);
        let eap = self.eap();
        (eap.packet, eap.sent) = (packet, 1);
    }

    /// No answer came in time: the request is sent again as it was (RFC 3748, 4.1). A peer that does not read why it is
    /// refused is refused all the same.
    pub(super) fn repeat_eap(&mut self, now: Instant) {
        if let Stage::Refusing(reason) = self.eap().stage {
            return self.fail_eap(reason, now);
        }
        let most = self.config.max_configure;
        let eap = self.auth.eap.get_or_insert_default();
        if eap.sent < most && !eap.packet.is_empty() {
            eap.sent += 1;
            self.out.send(protocol::EAP, &eap.packet);
            self.auth.resend = Some(now + self.config.restart_interval);
        }
    }

    pub(super) fn handle_eap(&mut self, information: &[u8], now: Instant) {
        let Ok(packet) = Packet::decode(information) else {
            return self.out.dropped(drops::MALFORMED);
        };
        match (packet.code, self.server) {
            (eap::RESPONSE, true) => self.handle_eap_response(packet, now),
            (eap::REQUEST, false) => self.handle_eap_request(packet, now),
            (eap::SUCCESS | eap::FAILURE, false) => self.handle_eap_result(packet, now),
            _ => self.out.dropped(drops::PHASE),
        }
    }

    fn handle_eap_response(&mut self, packet: Packet<'_>, now: Instant) {
        if packet.id != self.auth.id {
            return self.out.dropped(drops::STALE);
        }
        match self.auth.step {
            Step::Waiting => {}
            // Success is never repeated by itself; who asks once more has not got it.
            Step::Done => return self.out.send_packet(protocol::EAP, eap::SUCCESS, packet.id, &[]),
            Step::Asked => return self.out.dropped(drops::STALE),
            Step::Idle => return self.out.dropped(drops::PHASE),
        }
        let Ok(response) = Typed::decode(packet.body) else {
            return self.out.dropped(drops::MALFORMED);
        };
        match (self.eap().stage, response.kind) {
            (Stage::Identity, eap::IDENTITY) if response.data.len() <= MAX_NAME => {
                self.eap().name = response.data.to_vec();
                self.ask_for_method(&[], now);
            }
            (Stage::Challenged(_), eap::NAK) => self.ask_for_method(response.data, now),
            // None of an expanded Nak's types is one that we speak.
            (Stage::Challenged(_), eap::EXPANDED) => self.ask_for_method(&[0], now),
            (Stage::Challenged(EapMethod::Tls), eap::TLS) => self.handle_tls(response.data, now),
            (Stage::Challenged(method), kind) if kind == method.kind() => {
                self.handle_eap_answer(method, packet.id, response.data, now);
            }
            (Stage::Confirming | Stage::Refusing(_), eap::MSCHAP_V2) => {
                self.handle_confirmation(response.data, now);
            }
            _ => self.out.dropped(drops::PHASE),
        }
    }

    /// Asks for the next method: one of those the peer names, where it does. There is no second time for any.
    fn ask_for_method(&mut self, named: &[u8], now: Instant) {
        let verifiable = &self.carrier.verifiable;
        let tried = &self.auth.eap.get_or_insert_default().tried;
        let allowed = self
            .config
            .eap_methods
            .iter()
            .copied()
            .filter(|method| !tried.contains(method) && method.coverage(verifiable) != Coverage::None);
        let mut wanted = allowed.filter(|method| named.is_empty() || named.contains(&method.kind()));
        let Some(method) = wanted.next() else {
            let text = "the two ends have no method of EAP in common";
            self.out
                .send_packet(protocol::EAP, eap::FAILURE, self.auth.id, &[]);
            return self.end(Ended::new(TerminateCause::UserError, "auth_refused", text), now);
        };
        let acceptor = verifiable.tls().filter(|_| method == EapMethod::Tls);
        let exchange = acceptor.and_then(|acceptor| acceptor.accept());
        let mut challenge = [0; MSCHAP_CHALLENGE];
        self.entropy.fill(&mut challenge);
        let eap = self.eap();
        eap.challenge = challenge;
        eap.tried.push(method);
        eap.stage = Stage::Challenged(method);
        eap.tls = exchange.map(Tls::new);
        let body = eap::valued(&challenge, self.config.auth_name.as_bytes());
        let data = match method {
            EapMethod::Tls => vec![eap::TLS_START],
            EapMethod::Md5 => body,
            EapMethod::MsChapV2 => {
                self.eap().exchange = self.auth.id.wrapping_add(1);
                self.mschap_data(chap::CHALLENGE, &body)
            }
        };
        self.send_request(method.kind(), &data, now);
    }

    /// A packet of MS-CHAPv2 for the next request.
    fn mschap_data(&mut self, op: u8, body: &[u8]) -> Vec<u8> {
        let id = self.eap().exchange;
        MsChap { op, id, body }.encode()
    }

    fn handle_eap_answer(&mut self, method: EapMethod, id: u8, data: &[u8], now: Instant) {
        let (challenge, exchange) = (self.eap().challenge, self.eap().exchange);
        let (by, id, body) = match method {
            EapMethod::Tls => return self.out.dropped(drops::PHASE),
            EapMethod::Md5 => (AuthProtocol::Chap, id, data),
            EapMethod::MsChapV2 => match MsChap::decode(data) {
                Ok(answer) if answer.op == chap::RESPONSE && answer.id == exchange => {
                    (AuthProtocol::MsChapV2, answer.id, answer.body)
                }
                _ => return self.out.dropped(drops::MALFORMED),
            },
        };
        let answer = chap::Valued::decode(body);
        let Some((given, answer)) = answer
            .ok()
            .and_then(|answer| Some((Given::by_chap(by, id, &challenge, answer.value)?, answer)))
        else {
            return self.out.dropped(drops::MALFORMED);
        };
        // MS-CHAPv2 proves the name that it carries; MD5 proves a password, of whom the Identity said.
        let name = match method {
            EapMethod::MsChapV2 => answer.name.to_vec(),
            EapMethod::Md5 | EapMethod::Tls => std::mem::take(&mut self.eap().name),
        };
        self.auth.resend = None;
        self.auth.answers = true;
        self.ask(&name, given, now);
    }

    /// Tells a peer that was accepted so: at once, or by MS-CHAPv2 when it has said that it believes us. Gives back what
    /// it gets at once. `Err`: the backend gave nothing that it could be told.
    pub(super) fn accept_eap(
        &mut self,
        grants: Box<Grants>,
        proof: Proof,
        now: Instant,
    ) -> Result<Option<(Box<Grants>, Proof)>, ()> {
        if self.eap().stage != Stage::Challenged(EapMethod::MsChapV2) {
            self.out
                .send_packet(protocol::EAP, eap::SUCCESS, self.auth.id, &[]);
            let proof = self.eap().shown.take().unwrap_or(proof);
            return Ok(Some((grants, proof)));
        }
        let response = proof.authenticator_response.as_ref().ok_or(())?;
        let message = format!("{response} M=Welcome");
        let data = self.mschap_data(chap::SUCCESS, message.as_bytes());
        self.eap().stage = Stage::Confirming;
        self.eap().accepted = Some((grants, proof));
        self.send_request(eap::MSCHAP_V2, &data, now);
        Ok(None)
    }

    /// Tells a peer why it is refused, where the method has words for that. False: it is told nothing but Failure.
    pub(super) fn explain_refusal(&mut self, reason: RejectReason, words: &str, now: Instant) -> bool {
        if self.eap().stage != Stage::Challenged(EapMethod::MsChapV2) {
            return false;
        }
        let message = self.mschap_failure(chap::error_code(reason), words);
        let data = self.mschap_data(chap::FAILURE, message.as_bytes());
        self.eap().stage = Stage::Refusing(reason);
        self.send_request(eap::MSCHAP_V2, &data, now);
        true
    }

    fn fail_eap(&mut self, reason: RejectReason, now: Instant) {
        self.eap().stage = Stage::Identity;
        self.refuse(reason, now);
    }

    fn handle_confirmation(&mut self, data: &[u8], now: Instant) {
        match (self.eap().stage, MsChap::decode(data)) {
            (
                Stage::Confirming,
                Ok(MsChap {
                    op: chap::SUCCESS, ..
                }),
            ) => {
                if let Some((grants, proof)) = self.eap().accepted.take() {
                    self.out
                        .send_packet(protocol::EAP, eap::SUCCESS, self.auth.id, &[]);
                    self.passed(grants, proof, now);
                }
            }
            (
                Stage::Confirming,
                Ok(MsChap {
                    op: chap::FAILURE, ..
                }),
            ) => {
                self.eap().accepted = None;
                self.fail_eap(RejectReason::BadCredentials, now);
            }
            (Stage::Refusing(reason), Ok(_)) => self.fail_eap(reason, now),
            _ => self.out.dropped(drops::MALFORMED),
        }
    }

    fn handle_eap_request(&mut self, packet: Packet<'_>, now: Instant) {
        if self.auth.step == Step::Idle {
            return self.out.dropped(drops::PHASE);
        }
        // The same request has the same answer: the server has not got it (RFC 3748, 4.1).
        let eap = self.auth.eap.get_or_insert_default();
        let copy = [&[packet.id], packet.body].concat();
        match eap.requests.iter().position(|request| *request == copy) {
            Some(0) => return self.out.send(protocol::EAP, &eap.packet),
            Some(_) => return self.out.dropped(drops::STALE),
            None => {}
        }
        let answer = Typed::decode(packet.body)
            .ok()
            .and_then(|request| self.answer_eap(packet.id, request, now));
        let Some((kind, data)) = answer else {
            return self.out.dropped(drops::MALFORMED);
        };
        let response = Typed { kind, data: &data }.encode(eap::RESPONSE, packet.id);
        self.out.send(protocol::EAP, &response);
        self.auth.id = packet.id;
        let eap = self.eap();
        (eap.packet, eap.sent) = (response, 1);
        eap.requests.truncate(MAX_REQUESTS - 1);
        eap.requests.push_front(copy);
    }

    /// Type and data of our answer to a request; `None`: there is none.
    fn answer_eap(&mut self, id: u8, request: Typed<'_>, now: Instant) -> Option<(u8, Vec<u8>)> {
        let name = self.login.as_deref()?.name.clone();
        let speaks = |method: EapMethod| self.config.eap_methods.contains(&method);
        let data = match request.kind {
            eap::IDENTITY => {
                self.eap().stage = Stage::Identity;
                name.into_bytes()
            }
            eap::NOTIFICATION => {
                let words = format!("the peer says \"{}\"", display_text(request.data));
                self.out.notice(Severity::Info, words);
                Vec::new()
            }
            eap::MD5 if speaks(EapMethod::Md5) => {
                let challenge = chap::Valued::decode(request.data).ok()?;
                let (value, proof) = self.answer_value(id, challenge.value, AuthProtocol::Chap)?;
                self.done_by_eap(proof, now);
                eap::valued(&value, name.as_bytes())
            }
            eap::MSCHAP_V2 if speaks(EapMethod::MsChapV2) => {
                self.answer_mschap(request.data, name.as_bytes(), now)?
            }
            _ => {
                let spoken = self.config.eap_methods.iter();
                let kinds = spoken
                    .filter(|&&method| method != EapMethod::Tls)
                    .map(|method| method.kind());
                return Some((eap::NAK, kinds.collect()));
            }
        };
        Some((request.kind, data))
    }

    /// Our part is done. Success is not repeated by itself: our response asks for it again.
    fn done_by_eap(&mut self, proof: Proof, now: Instant) {
        self.eap().stage = Stage::Answered;
        self.eap().expected = Some(proof);
        self.auth.resend = Some(now + self.config.restart_interval);
    }

    fn answer_mschap(&mut self, data: &[u8], name: &[u8], now: Instant) -> Option<Vec<u8>> {
        let packet = MsChap::decode(data).ok()?;
        match packet.op {
            chap::CHALLENGE => {
                let challenge = chap::Valued::decode(packet.body).ok()?;
                let (value, proof) = self.answer_value(packet.id, challenge.value, AuthProtocol::MsChapV2)?;
                self.eap().stage = Stage::Challenged(EapMethod::MsChapV2);
                self.eap().expected = Some(proof);
                let (op, id, body) = (chap::RESPONSE, packet.id, eap::valued(&value, name));
                let body = &body;
                Some(MsChap { op, id, body }.encode())
            }
            chap::SUCCESS if self.eap().stage == Stage::Challenged(EapMethod::MsChapV2) => {
                let proof = self.eap().expected.take().unwrap_or_default();
                let expected = proof.authenticator_response.as_deref();
                // Who does not know the password is not the gateway that we want (RFC 2759, 5).
                if !expected.is_some_and(|expected| packet.body.starts_with(expected.as_bytes())) {
                    self.not_genuine(now);
                    return None;
                }
                self.done_by_eap(proof, now);
                Some(vec![chap::SUCCESS])
            }
            chap::FAILURE => {
                let words = format!("the peer refused our login: \"{}\"", display_text(packet.body));
                self.out.notice(Severity::Warning, words);
                Some(vec![chap::FAILURE])
            }
            _ => None,
        }
    }

    fn handle_eap_result(&mut self, packet: Packet<'_>, now: Instant) {
        if self.auth.step != Step::Waiting {
            return self.out.dropped(drops::STALE);
        }
        if packet.code == eap::FAILURE {
            let text = "the peer refused our login";
            return self.end(Ended::new(TerminateCause::UserError, "login_rejected", text), now);
        }
        // A Success before its time proves nothing (RFC 3748, 4.2).
        if self.eap().stage != Stage::Answered || packet.id != self.auth.id {
            return self.out.dropped(drops::STALE);
        }
        self.auth.keys = self.eap().expected.take().and_then(|proof| proof.keys);
        self.let_in(now);
    }
}
