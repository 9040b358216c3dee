//! The Authenticate phase: PAP (RFC 1334) from either side.

use super::chap::Chap;
use super::eap::Eap;
use super::{Phase, Ppp};
use crate::api::PppEvent;
use crate::drops;
use crate::header::protocol;
use crate::wire::{AuthProtocol, Packet, chap, eap, pap};
use sluice_auth::chap::CHAP_RESPONSE;
use sluice_auth::{
    AuthRequest, Credentials, Grants, Identity, MsChapExchange, Proof, RejectReason, Secret, SessionKeys,
    Verdict,
};
use sluice_spi::wire::display_text;
use sluice_spi::{Ended, Severity, TerminateCause};
use std::time::Instant;

/// What a refused peer is told, whatever the reason.
const REFUSED: &str = "Login incorrect";

/// How far authentication is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not the time, or nobody has to prove anything.
    #[default]
    Idle,
    /// As the server, a request of the peer is awaited; as the client, the answer to ours.
    Waiting,
    /// As the server, the verdict is awaited.
    Asked,
    /// Passed.
    Done,
}

/// What a peer gave to be checked, beside its name.
pub(super) enum Given {
    Password(Secret),
    Md5 {
        id: u8,
        challenge: Vec<u8>,
        response: Box<[u8; CHAP_RESPONSE]>,
    },
    MsChap(Box<MsChapExchange>),
    Certificate,
}

impl Given {
    /// The answer to a challenge; `None`: it is malformed.
    pub(super) fn by_chap(method: AuthProtocol, id: u8, challenge: &[u8], value: &[u8]) -> Option<Self> {
        match method {
            AuthProtocol::MsChapV2 => {
                let challenge = challenge.try_into().ok()?;
                let exchange = chap::decode_mschap(value, challenge).ok()?;
                Some(Given::MsChap(Box::new(exchange)))
            }
            AuthProtocol::Chap => Some(Given::Md5 {
                id,
                challenge: challenge.to_vec(),
                response: Box::new(value.try_into().ok()?),
            }),
            AuthProtocol::Pap | AuthProtocol::Eap => None,
        }
    }

    fn of(self, identity: Identity) -> Credentials {
        match self {
            Given::Password(password) => Credentials::Pap { identity, password },
            Given::Md5 {
                id,
                challenge,
                response,
            } => Credentials::Chap {
                identity,
                id,
                challenge,
                response,
            },
            Given::MsChap(exchange) => Credentials::MsChapV2 { identity, exchange },
            Given::Certificate => Credentials::Certificate { identity },
        }
    }
}

/// Authentication of one link.
#[derive(Default)]
pub(super) struct Auth {
    pub(super) step: Step,
    /// Identifier of the peer's latest request, or of ours.
    pub(super) id: u8,
    /// As the server wrong passwords, as the client requests sent.
    pub(super) tries: u8,
    /// A verdict was asked for and has not come. It may be about a negotiation that is over.
    outstanding: bool,
    /// Whether the peer waits for an answer by PAP.
    pub(super) answers: bool,
    /// Who the request awaiting a verdict claims to be.
    claimed: Option<Box<str>>,
    /// Who has been authenticated on this link. Nobody else may be after that.
    pub(super) identity: Option<Box<str>>,
    /// When it takes too long.
    pub(super) deadline: Option<Instant>,
    /// When the client repeats its request.
    pub(super) resend: Option<Instant>,
    /// What the latest authentication left for encryption.
    pub(super) keys: Option<Box<SessionKeys>>,
    /// What CHAP keeps.
    pub(super) chap: Option<Box<Chap>>,
    /// What EAP keeps.
    pub(super) eap: Option<Box<Eap>>,
}

impl Auth {
    pub(super) fn timer(&self) -> Option<Instant> {
        [self.deadline, self.resend, self.again()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What CHAP keeps; nothing by other methods.
    pub(super) fn chap(&mut self) -> &mut Chap {
        self.chap.get_or_insert_default()
    }

    /// When the peer is to be challenged again after a restart. A challenge that is out is one that was lost.
    pub(super) fn next_challenge(&self, now: Instant) -> Option<Instant> {
        let is_out = self.step != Step::Done && self.chap.is_some();
        if is_out { Some(now) } else { self.again() }
    }

    fn again(&self) -> Option<Instant> {
        self.chap.as_ref()?.again
    }

    /// Goes on after a restart with a peer that was authenticated before.
    pub(super) fn resumed(identity: Option<Box<str>>) -> Self {
        Self {
            step: Step::Done,
            answers: true,
            identity,
            ..Self::default()
        }
    }
}

impl Ppp {
    /// LCP is open: whoever has to prove who it is begins.
    pub(super) fn begin_auth(&mut self, now: Instant) {
        self.phase = Phase::Authenticate;
        self.auth.tries = 0;
        let Some(method) = self.auth_method() else {
            if self.server {
                let text = "the peer was not asked to authenticate itself";
                return self.end(Ended::new(TerminateCause::NasError, "auth_refused", text), now);
            }
            self.auth.step = Step::Done;
            return self.enter_network(None, now);
        };
        self.auth.step = Step::Waiting;
        self.auth.deadline = Some(now + self.config.auth_timeout);
        match (method, self.server) {
            (AuthProtocol::Pap, true) => {}
            (AuthProtocol::Pap, false) => self.send_login(now),
            (AuthProtocol::Chap | AuthProtocol::MsChapV2, true) => self.send_challenge(now),
            (AuthProtocol::Eap, true) => self.begin_eap(now),
            (AuthProtocol::Chap | AuthProtocol::MsChapV2 | AuthProtocol::Eap, false) => {}
        }
    }

    /// The method by which one end proves to the other who it is.
    pub(super) fn auth_method(&self) -> Option<AuthProtocol> {
        let lcp = &self.lcp.options;
        if self.server { lcp.ours.auth } else { lcp.peer.auth }
    }

    /// Whether a protocol is the one by which the peer proves who it is, or we do.
    pub(super) fn is_auth_protocol(&self, number: u16) -> bool {
        self.auth_method().is_some_and(|method| method.number() == number)
    }

    /// LCP went down: what was proved counts no more, and a verdict still to come is about the past.
    pub(super) fn leave_auth(&mut self) {
        self.auth = Auth {
            outstanding: self.auth.outstanding,
            id: self.auth.id,
            identity: self.auth.identity.take(),
            ..Auth::default()
        };
    }

    pub(super) fn handle_pap(&mut self, information: &[u8], now: Instant) {
        let Ok(packet) = Packet::decode(information) else {
            return self.out.dropped(drops::MALFORMED);
        };
        match packet.code {
            pap::REQUEST if self.server => self.handle_login(packet, now),
            pap::ACK | pap::NAK if !self.server => self.handle_login_answer(packet, now),
            _ => self.out.dropped(drops::PHASE),
        }
    }

    fn handle_login(&mut self, packet: Packet<'_>, now: Instant) {
        match self.auth.step {
            // Only that the request came is of interest: the answer stays the same (RFC 1334, 2.2.1).
            Step::Done => self.answer_login(pap::ACK, packet.id, ""),
            Step::Asked => self.auth.id = packet.id,
            Step::Idle => self.out.dropped(drops::PHASE),
            Step::Waiting => match pap::Request::decode(packet.body) {
                Ok(request) => {
                    self.auth.id = packet.id;
                    self.auth.answers = true;
                    self.ask(request.name, Given::Password(request.password), now);
                }
                Err(_) => self.out.dropped(drops::MALFORMED),
            },
        }
    }

    /// Asks for a verdict on a name and what proves it.
    pub(super) fn ask(&mut self, name: &[u8], given: Given, now: Instant) {
        if self.auth.outstanding {
            // The verdict on an earlier negotiation's request has not come: the peer asks again in a moment.
            return self.out.dropped(drops::PHASE);
        }
        let Some(identity) = Identity::parse(name) else {
            return self.refuse(RejectReason::BadCredentials, now);
        };
        if let Some(former) = &self.auth.identity
            && **former != *identity.as_str()
        {
            self.out.notice(
                Severity::Warning,
                "the peer wants to become another user on a link that is up",
            );
            return self.refuse(RejectReason::NotPermitted, now);
        }
        self.auth.step = Step::Asked;
        self.auth.outstanding = true;
        self.auth.claimed = Some(identity.as_str().into());
        self.out.event(PppEvent::AuthRequested(Box::new(AuthRequest {
            protocol: self.carrier.protocol,
            credentials: given.of(identity),
            peer: self.carrier.peer,
            calling: self.carrier.calling.clone(),
            called: self.carrier.called.clone(),
        })));
    }

    /// Goes on in the Authenticate phase without LCP packets: with what a LAC has collected, which the peer awaits an
    /// answer to if `answer_to` is its packet's identifier.
    pub(super) fn begin_proxy_auth(
        &mut self,
        name: &[u8],
        given: Given,
        answer_to: Option<u8>,
        now: Instant,
    ) {
        self.phase = Phase::Authenticate;
        self.auth.deadline = Some(now + self.config.auth_timeout);
        self.auth.id = answer_to.unwrap_or(0);
        self.auth.answers = answer_to.is_some();
        self.ask(name, given, now);
    }

    /// The answer to [`PppEvent::AuthRequested`].
    pub fn auth_verdict(&mut self, verdict: Verdict, now: Instant) {
        if !std::mem::take(&mut self.auth.outstanding) || self.auth.step != Step::Asked {
            return;
        }
        match verdict {
            Verdict::Accept { grants, proof } => match self.tell_accepted(grants, proof, now) {
                Ok(Some((grants, proof))) => self.passed(grants, proof, now),
                Ok(None) => {}
                Err(()) => self.refuse(RejectReason::Unavailable, now),
            },
            Verdict::Reject(reason) => self.refuse(reason, now),
        }
    }

    /// The peer is in.
    pub(super) fn passed(&mut self, grants: Box<Grants>, proof: Proof, now: Instant) {
        self.auth.step = Step::Done;
        self.auth.deadline = None;
        self.auth.resend = None;
        self.auth.identity = self.auth.claimed.take();
        self.auth.keys = proof.keys;
        // One that proves itself again keeps what it has.
        if self.network.is_none() {
            self.enter_network(Some(grants), now);
        }
    }

    /// As the client: we are in.
    pub(super) fn let_in(&mut self, now: Instant) {
        self.auth.resend = None;
        self.auth.deadline = None;
        self.auth.step = Step::Done;
        if self.network.is_none() {
            self.enter_network(None, now);
        }
    }

    /// Tells the peer that it is in. Gives back what it gets now; nothing where it has to confirm first. `Err`: the backend
    /// gave nothing that it could be told.
    fn tell_accepted(
        &mut self,
        grants: Box<Grants>,
        proof: Proof,
        now: Instant,
    ) -> Result<Option<(Box<Grants>, Proof)>, ()> {
        match self.auth_method() {
            Some(AuthProtocol::Eap) => return self.accept_eap(grants, proof, now),
            Some(method @ (AuthProtocol::Chap | AuthProtocol::MsChapV2)) => {
                if !self.tell_success(method, &proof, now) {
                    return Err(());
                }
            }
            Some(AuthProtocol::Pap) | None => {
                if self.auth.answers {
                    self.answer_login(pap::ACK, self.auth.id, "");
                }
            }
        }
        Ok(Some((grants, proof)))
    }

    /// What the latest authentication left for encryption of the link: nothing by most methods.
    pub fn session_keys(&self) -> Option<&SessionKeys> {
        self.auth.keys.as_deref()
    }

    /// The peer is refused: it may try again if it has tries left, else the link ends (RFC 1334, 2.2.2).
    pub(super) fn refuse(&mut self, reason: RejectReason, now: Instant) {
        let is_pap = matches!(self.auth_method(), Some(AuthProtocol::Pap) | None);
        let passing = matches!(reason, RejectReason::Unavailable | RejectReason::Throttled);
        if self.network.is_some() && passing {
            // Who was let in before does not fall because nobody can judge it now, or others guess at its name.
            self.auth.step = Step::Done;
            self.auth.deadline = None;
            return self.arm_challenge(now);
        }
        self.auth.step = Step::Waiting;
        self.auth.claimed = None;
        self.auth.tries = self.auth.tries.saturating_add(1);
        // Where nobody could judge the login, a Nak would say that it is wrong, and people would be asked for another
        // password. The end of the link alone has them try again.
        let judged = reason != RejectReason::Unavailable;
        if self.auth.answers && judged {
            match self.auth_method() {
                Some(AuthProtocol::Eap) if self.explain_refusal(reason, REFUSED, now) => return,
                Some(AuthProtocol::Eap) => {
                    self.out
                        .send_packet(protocol::EAP, eap::FAILURE, self.auth.id, &[])
                }
                Some(method @ (AuthProtocol::Chap | AuthProtocol::MsChapV2)) => {
                    self.tell_failure(method, reason, REFUSED)
                }
                Some(AuthProtocol::Pap) | None => self.answer_login(pap::NAK, self.auth.id, REFUSED),
            }
        }
        let may_try_again = is_pap && reason == RejectReason::BadCredentials && self.auth.answers;
        if may_try_again && self.auth.tries < self.config.auth_attempts {
            return;
        }
        let cause = match reason {
            RejectReason::BadCredentials
            | RejectReason::NoVerifier
            | RejectReason::Disabled
            | RejectReason::Expired
            | RejectReason::UnknownRealm
            | RejectReason::NotPermitted
            | RejectReason::Throttled
            | RejectReason::TooManySessions => TerminateCause::UserError,
            RejectReason::NoAddress | RejectReason::Unavailable => TerminateCause::ServiceUnavailable,
        };
        let code = if judged {
            "auth_rejected"
        } else {
            "auth_unavailable"
        };
        let text = format!("authentication refused: {}", reason.as_str());
        self.end(Ended::new(cause, code, text), now);
    }

    fn answer_login(&mut self, code: u8, id: u8, message: &str) {
        let mut packet = Vec::new();
        pap::encode_answer(code, id, message, &mut packet);
        self.out.send(protocol::PAP, &packet);
    }

    fn send_login(&mut self, now: Instant) {
        let Some(login) = &self.login else { return };
        self.auth.tries = self.auth.tries.saturating_add(1);
        self.auth.id = self.auth.id.wrapping_add(1);
        self.auth.resend = Some(now + self.config.restart_interval);
        let request = pap::Request {
            name: login.name.as_bytes(),
            password: login.password.clone(),
        };
        let mut packet = Vec::new();
        request.encode(self.auth.id, &mut packet);
        self.out.send(protocol::PAP, &packet);
    }

    fn handle_login_answer(&mut self, packet: Packet<'_>, now: Instant) {
        // The answer to an earlier one of our requests is as good: all of them say the same.
        let is_ours = (1..=self.auth.tries).any(|back| self.auth.id.wrapping_sub(back - 1) == packet.id);
        if self.auth.step != Step::Waiting || !is_ours {
            return self.out.dropped(drops::STALE);
        }
        if packet.code == pap::ACK {
            return self.let_in(now);
        }
        self.auth.resend = None;
        self.auth.deadline = None;
        let text = format!(
            "the peer refused our login: \"{}\"",
            display_text(pap::message(packet.body))
        );
        self.end(Ended::new(TerminateCause::UserError, "login_rejected", text), now);
    }

    pub(super) fn handle_auth_timeout(&mut self, now: Instant) {
        if self.auth.resend.is_some_and(|at| at <= now) {
            self.auth.resend = None;
            match (self.server, self.auth_method()) {
                (_, Some(AuthProtocol::Eap)) => self.repeat_eap(now),
                (true, _) => self.repeat_challenge(now),
                (false, Some(AuthProtocol::Pap) | None) if self.auth.tries < self.config.max_configure => {
                    self.send_login(now);
                }
                (false, Some(AuthProtocol::Pap) | None) => {}
                (false, Some(AuthProtocol::Chap | AuthProtocol::MsChapV2)) => self.repeat_answer(now),
            }
        }
        if self.auth.again().is_some_and(|at| at <= now) && self.auth.step == Step::Done {
            self.challenge_again(now);
        }
        if self.auth.deadline.is_some_and(|at| at <= now) {
            self.auth.deadline = None;
            if self.auth.step == Step::Asked {
                self.refuse(RejectReason::Unavailable, now);
            } else {
                let text = "authentication took too long";
                self.end(Ended::new(TerminateCause::LostCarrier, "auth_timeout", text), now);
            }
        }
    }
}
