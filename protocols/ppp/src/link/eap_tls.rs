//! EAP-TLS as the server (RFC 5216): a TLS handshake in pieces, each of which the other end acknowledges.

use super::Ppp;
use crate::drops;
use crate::wire::eap;
use sluice_auth::tls::{Handshake, TlsExchange, TlsPeer};
use sluice_auth::{Proof, RejectReason};
use sluice_spi::Severity;
use sluice_spi::wire::{Reader, display_text};
use std::time::Instant;

/// Longest message of a handshake that is taken, in octets: several times a chain of certificates (RFC 5216, 3.1 bounds
/// nothing but by 4 octets of length).
const MAX_MESSAGE: usize = 32 << 10;
/// Most octets of a handshake in one request. PPP links have room for that in any tunnel.
const MAX_FRAGMENT: usize = 1000;
/// What is around a fragment: EAP's header, type, flags and length.
const OVERHEAD: usize = 10;

/// How TLS goes on after a response.
pub(super) enum Next {
    /// The next request has this in it.
    Ask(Vec<u8>),
    /// The handshake is over, and right.
    Done,
    /// It failed.
    Failed,
    /// The response was of no use.
    Drop,
}

/// A handshake of a peer.
pub(super) struct Tls {
    exchange: Box<dyn TlsExchange>,
    /// The peer's message as far as it has come, and how long the peer says it is.
    incoming: Vec<u8>,
    announced: Option<usize>,
    /// Our message, and how much of it has gone out.
    outgoing: Vec<u8>,
    gone: usize,
    /// How it ended.
    ended: Option<Result<TlsPeer, String>>,
}

impl Tls {
    pub(super) fn new(exchange: Box<dyn TlsExchange>) -> Self {
        Self {
            exchange,
            incoming: Vec::new(),
            announced: None,
            outgoing: Vec::new(),
            gone: 0,
            ended: None,
        }
    }

    /// Takes the peer's response, and says how to go on. A fragment has `most` octets.
    fn take(&mut self, data: &[u8], most: usize) -> Next {
        let mut reader = Reader::new(data);
        let Ok(flags) = reader.u8() else {
            return Next::Drop;
        };
        let length = match flags & eap::TLS_LENGTH {
            0 => None,
            _ => match reader.u32() {
                Ok(length) => usize::try_from(length).ok(),
                Err(_) => return Next::Drop,
            },
        };
        let octets = reader.rest();
        if self.gone < self.outgoing.len() {
            // The acknowledgement of a fragment has nothing in it (RFC 5216, 2.1.5).
            return match octets {
                [] => Next::Ask(self.fragment(most)),
                _ => Next::Drop,
            };
        }
        match (&self.ended, octets) {
            (Some(Ok(_)), []) => return Next::Done,
            (Some(Err(_)), _) => return Next::Failed,
            (Some(Ok(_)), _) | (None, []) => return Next::Drop,
            (None, _) => {}
        }
        self.announced = length.or(self.announced);
        let room = self.announced.unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE);
        if self.incoming.len() + octets.len() > room {
            self.ended = Some(Err("a message longer than it may be".to_owned()));
            return Next::Failed;
        }
        self.incoming.extend_from_slice(octets);
        if flags & eap::TLS_MORE != 0 {
            return Next::Ask(vec![0]);
        }
        self.announced = None;
        self.advance(most)
    }

    /// The peer's message is there.
    fn advance(&mut self, most: usize) -> Next {
        (self.outgoing, self.gone) = (Vec::new(), 0);
        let message = std::mem::take(&mut self.incoming);
        match self.exchange.take(&message, &mut self.outgoing) {
            Ok(Handshake::Going) if self.outgoing.is_empty() => {
                self.ended = Some(Err("the handshake does not go on".to_owned()));
                return Next::Failed;
            }
            Ok(Handshake::Going) => {}
            Ok(Handshake::Done(peer)) => self.ended = Some(Ok(peer)),
            Err(failed) => self.ended = Some(Err(failed.0)),
        }
        match (&self.ended, self.outgoing.is_empty()) {
            (Some(Ok(_)), true) => Next::Done,
            (Some(Err(_)), true) => Next::Failed,
            _ => Next::Ask(self.fragment(most)),
        }
    }

    /// The next part of our message, with its flags; of the first one the length of all.
    fn fragment(&mut self, most: usize) -> Vec<u8> {
        let rest = self.outgoing.get(self.gone..).unwrap_or_default();
        let part = rest.get(..most).unwrap_or(rest);
        let more = if part.len() < rest.len() { eap::TLS_MORE } else { 0 };
        let mut data = Vec::with_capacity(5 + part.len());
        if self.gone == 0 {
            data.push(more | eap::TLS_LENGTH);
            let length = u32::try_from(self.outgoing.len()).unwrap_or(u32::MAX);
            data.extend_from_slice(&length.to_be_bytes());
        } else {
            data.push(more);
        }
        data.extend_from_slice(part);
        self.gone += part.len();
        data
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.ended.as_ref()?.as_ref().err().map(String::as_str)
    }
}

impl Ppp {
    /// Takes a response of type EAP-TLS.
    pub(super) fn handle_tls(&mut self, data: &[u8], now: Instant) {
        let most = usize::from(self.peer_mru)
            .saturating_sub(OVERHEAD)
            .min(MAX_FRAGMENT);
        let Some(tls) = self.auth.eap.as_mut().and_then(|eap| eap.tls.as_mut()) else {
            return self.out.dropped(drops::PHASE);
        };
        match tls.take(data, most) {
            Next::Ask(data) => self.send_request(eap::TLS, &data, now),
            Next::Done => self.shown(now),
            Next::Failed => {
                let why = display_text(tls.failure().unwrap_or_default().as_bytes());
                self.out.notice(
                    Severity::Info,
                    format!("the peer's certificate is refused: {why}"),
                );
                self.auth.answers = true;
                self.refuse(RejectReason::BadCredentials, now);
            }
            Next::Drop => self.out.dropped(drops::MALFORMED),
        }
    }

    /// The peer has shown a certificate that is right: who it says it is must be in it.
    fn shown(&mut self, now: Instant) {
        let Some(eap) = self.auth.eap.as_mut() else { return };
        let Some(Ok(peer)) = eap.tls.take().and_then(|tls| tls.ended) else {
            return;
        };
        let name = std::mem::take(&mut eap.name);
        eap.shown = Some(Proof {
            authenticator_response: None,
            keys: Some(Box::new(peer.keys)),
        });
        self.auth.resend = None;
        self.auth.answers = true;
        if !peer.names.iter().any(|known| known.as_bytes() == name) {
            let words = "the peer says it is somebody who is not in its certificate";
            self.out.notice(Severity::Warning, words);
            return self.refuse(RejectReason::BadCredentials, now);
        }
        self.ask(&name, super::auth::Given::Certificate, now);
    }
}
