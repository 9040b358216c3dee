//! The GSS-API method (RFC 1961): tokens until the context stands, the client's account, the protection level, and
//! then everything in frames.
//!
//! The gateway accepts the tokens elsewhere and answers later, as it does with passwords. The last token goes back once
//! the account is known: until then a client can still be refused (RFC 1961, 3.8).

use super::{Connection, Phase, SESSION};
use crate::module::NAME;
use crate::names::{counts, drops};
use crate::protection::{Level, Protection, Stream};
use crate::wire::Message;
use crate::wire::gssapi::{self, ABORT, Kind};
use bytes::{Bytes, BytesMut};
use sluice_auth::gss::{ContextFailure, ContextReason, ContextStep, Established, MAX_TOKEN, Negotiation};
use sluice_auth::{AuthRequest, Credentials, Identity, RejectReason};
use sluice_spi::wire::display_text;
use sluice_spi::{Close, ContextRequest, Direction, Ended, Event, Severity, StreamCodec, TerminateCause};
use std::time::Instant;

/// Most tokens of a client: Kerberos needs one or two.
const MAX_TOKENS: u8 = 16;

/// What a connection of this method has more than others.
#[derive(Default)]
pub(super) struct Gss {
    negotiation: Option<Box<dyn Negotiation>>,
    tokens: u8,
    /// The context, until it is known what it protects.
    standing: Option<Box<Established>>,
    /// What everything is protected by; `None`: nothing is, or not yet.
    protection: Option<Protection>,
    level: Option<Level>,
    /// When the context is over.
    expires: Option<Instant>,
    /// What was unwrapped and not read.
    clear: Vec<u8>,
    output: Vec<u8>,
}

impl Gss {
    /// Moves what the client is to be sent to `out`; `None`: nothing.
    pub(super) fn take(&mut self, out: &mut BytesMut) -> Option<usize> {
        let output = std::mem::take(&mut self.output);
        out.extend_from_slice(&output);
        (!output.is_empty()).then_some(output.len())
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.output.is_empty()
    }

    /// What was agreed on.
    pub(super) fn level(&self) -> Option<Level> {
        self.level
    }

    /// Whether everything is in frames.
    pub(super) fn protects(&self) -> bool {
        self.protection.is_some()
    }

    fn token(&mut self, kind: Kind, token: &[u8]) -> bool {
        let header = gssapi::header(kind, token.len());
        if let Some(header) = header {
            self.output.extend_from_slice(&header);
            self.output.extend_from_slice(token);
        }
        header.is_some()
    }
}

impl Connection {
    /// Tells the client something, in the form that it expects by now.
    pub(super) fn say(&mut self, message: &Message) {
        let Some(gss) = &mut self.gss else {
            return self.output.push(message);
        };
        let Gss {
            protection, output, ..
        } = &mut **gss;
        let mut put = |octets: &[u8]| output.extend_from_slice(octets);
        match protection {
            // A context that is over has no last words.
            Some(protection) => drop(protection.seal(message.as_bytes(), &mut put)),
            None => put(message.as_bytes()),
        }
    }

    /// The client has chosen this method.
    pub(super) fn begin_gssapi(&mut self) {
        self.gss = Some(Box::default());
        self.phase = Phase::Token;
    }

    /// Reads a message of one kind, and gives its token with the length of all.
    fn gss_message<'a>(&mut self, bytes: &'a [u8], kind: Kind) -> Option<(&'a [u8], usize)> {
        match gssapi::message(bytes, kind) {
            Ok(read) => match read? {
                (gssapi::Message::Token(token), length) => Some((token, length)),
                (gssapi::Message::Abort, _) => {
                    self.count(counts::GSSAPI_CLIENT_ABORT);
                    self.traced(Direction::In, || "GSS-API refused".to_owned());
                    let text = "the client refused the context";
                    let ended = Ended::new(TerminateCause::UserRequest, counts::GSSAPI_CLIENT_ABORT, text);
                    self.end(Close::Finish, ended);
                    None
                }
            },
            Err(unexpected) => {
                self.traced(Direction::In, || unexpected.to_string());
                self.gss_refuse(counts::GSSAPI_MESSAGE, unexpected.to_string());
                None
            }
        }
    }

    /// A token for the context.
    pub(super) fn context_token(&mut self, bytes: &[u8]) -> Option<usize> {
        let (token, length) = self.gss_message(bytes, Kind::Context)?;
        self.traced(Direction::In, || {
            format!("GSS-API token of {} octets", token.len())
        });
        if let Some(denied) = self.denied {
            // It costs more to tell it under protection than it is worth.
            let text = format!("not admitted: {}", denied.code);
            self.gss_abort(Ended::new(TerminateCause::ServiceUnavailable, denied.code, text));
            return None;
        }
        let gss = self.gss.as_mut()?;
        gss.tokens += 1;
        if gss.tokens > MAX_TOKENS {
            self.gss_refuse(
                counts::GSSAPI_MESSAGE,
                format!("more than {MAX_TOKENS} tokens, and no context"),
            );
            return None;
        }
        let request = ContextRequest {
            negotiation: gss.negotiation.take(),
            token: token.to_vec(),
        };
        self.phase = Phase::Context;
        self.event(Event::ContextRequested {
            session: SESSION,
            request: Box::new(request),
        });
        Some(length)
    }

    /// The answer to `ContextRequested`.
    pub(super) fn context_answered(&mut self, answer: Result<ContextStep, ContextFailure>, now: Instant) {
        if self.phase != Phase::Context {
            return;
        }
        match answer {
            Err(failure) => {
                self.notice(&failure);
                self.gss_refuse(counter(failure.reason), failure.reason.to_string());
            }
            Ok(ContextStep::Continue { reply, negotiation }) => {
                if let Some(gss) = &mut self.gss {
                    gss.negotiation = Some(negotiation);
                }
                self.phase = Phase::Token;
                self.send_token(&reply);
                self.resume();
            }
            Ok(ContextStep::Established(established)) => self.ask_for_account(established, now),
        }
    }

    fn send_token(&mut self, token: &[u8]) {
        self.traced(Direction::Out, || {
            format!("GSS-API token of {} octets", token.len())
        });
        if !self
            .gss
            .as_mut()
            .is_some_and(|gss| gss.token(Kind::Context, token))
        {
            self.gss_refuse(
                counts::GSSAPI_OTHER,
                format!("a token of more than {MAX_TOKEN} octets"),
            );
        }
    }

    /// The context stands, and its name is proven; now for what it may do.
    fn ask_for_account(&mut self, established: Box<Established>, now: Instant) {
        let name = display_text(&established.initiator);
        self.user = Some(name.as_str().into());
        // A name with characters that had to be escaped could be mistaken for another.
        let plain = !established.initiator.contains(&b'\\');
        let identity = Identity::parse(&established.initiator).filter(|_| plain);
        if let Some(gss) = &mut self.gss {
            gss.expires = established
                .lifetime
                .and_then(|lifetime| now.checked_add(lifetime));
            gss.standing = Some(established);
        }
        let Some(identity) = identity else {
            return self.auth_failed(RejectReason::BadCredentials);
        };
        let request = AuthRequest {
            protocol: NAME,
            credentials: Credentials::Gssapi { identity },
            peer: Some(self.peer.remote),
            calling: None,
            called: None,
        };
        self.phase = Phase::Verdict;
        self.event(Event::AuthRequested {
            session: SESSION,
            request: Box::new(request),
        });
    }

    /// The client has an account: the last token of the context, which may be empty (RFC 1961, 3.6).
    pub(super) fn accept_context(&mut self) {
        let standing = self.gss.as_mut().and_then(|gss| gss.standing.as_mut());
        let reply = standing.map(|standing| std::mem::take(&mut standing.reply));
        self.phase = Phase::Level;
        self.send_token(&reply.unwrap_or_default());
    }

    /// The protection level that the client asks for.
    pub(super) fn protection_level(&mut self, bytes: &[u8]) -> Option<usize> {
        let (token, length) = self.gss_message(bytes, Kind::Level)?;
        let (nec, minimum) = self
            .config
            .gssapi
            .as_ref()
            .map(|gssapi| (gssapi.nec, gssapi.minimum))?;
        let mut standing = self.gss.as_mut()?.standing.take()?;
        // No wrapped message is as short as that.
        let bare = token.len() == 1 && nec;
        let mut asked = Vec::new();
        let opened = if bare {
            asked.extend_from_slice(token);
            Ok(())
        } else {
            let opened = standing
                .context
                .unwrap(token, &mut |octets| asked.extend_from_slice(octets));
            opened.map(drop)
        };
        if let Err(failure) = opened {
            self.notice(&failure);
            self.gss_refuse(counter(failure.reason), failure.reason.to_string());
            return None;
        }
        let level = match asked[..] {
            [asked] => Level::agree(asked, minimum, standing.integrity, standing.confidentiality),
            _ => None,
        };
        let Some(level) = level else {
            self.refuse_level(&asked);
            return None;
        };
        self.answer_level(*standing, level, bare);
        (self.phase != Phase::Over).then_some(length)
    }

    fn answer_level(&mut self, standing: Established, level: Level, bare: bool) {
        let mut context = standing.context;
        let mut token = Vec::new();
        let wrapped = match bare {
            true => {
                token.push(level as u8);
                Ok(())
            }
            false => context.wrap(false, &[level as u8], &mut |octets| {
                token.extend_from_slice(octets)
            }),
        };
        if let Err(failure) = wrapped {
            self.notice(&failure);
            return self.gss_refuse(counter(failure.reason), failure.reason.to_string());
        }
        self.traced(Direction::Out, || format!("protection: {}", level.as_str()));
        let Some(gss) = &mut self.gss else { return };
        gss.level = Some(level);
        if level == Level::None {
            gss.expires = None;
        } else {
            gss.protection = Protection::new(context, level);
        }
        let is_good = level == Level::None || gss.protection.is_some();
        if !(is_good && gss.token(Kind::Level, &token)) {
            return self.gss_refuse(
                counts::GSSAPI_OTHER,
                "the context has no room for messages".to_owned(),
            );
        }
        self.phase = Phase::Request;
    }

    fn refuse_level(&mut self, asked: &[u8]) {
        let text = match asked {
            [0] => "the client wants no protection, as curl does, which gssapi_protection = \"none\" would let it"
                .to_owned(),
            [level] => format!("protection level {level} is less than is needed, or cannot be had"),
            _ => format!("a protection level of {} octets", asked.len()),
        };
        self.gss_refuse(counts::GSSAPI_LEVEL, text);
    }

    /// A frame with the request, or a part of it.
    pub(super) fn wrapped_request(&mut self, bytes: &[u8]) -> Option<usize> {
        let (token, length) = self.gss_message(bytes, Kind::Data)?;
        let gss = self.gss.as_mut()?;
        let mut clear = std::mem::take(&mut gss.clear);
        let opened = gss.protection.as_ref()?.open_next(token, &mut clear);
        if let Err(reason) = opened {
            let name = match reason {
                drops::GSSAPI_PROTECTION => counts::GSSAPI_PROTECTION,
                drops::GSSAPI_ORDER => counts::GSSAPI_ORDER,
                drops::GSSAPI_EXPIRED => counts::GSSAPI_EXPIRED,
                _ => counts::GSSAPI_TOKEN,
            };
            self.gss_refuse(name, "the request is not protected as it should be".to_owned());
            return None;
        }
        let used = self.request(&clear).unwrap_or(0);
        if self.phase == Phase::Over {
            return None;
        }
        clear.drain(..used.min(clear.len()));
        if let Some(gss) = &mut self.gss {
            gss.clear = clear;
        }
        Some(length)
    }

    /// What the client's bytes go through once it is joined, and what is for the target already.
    pub(super) fn stream_codec(&mut self) -> (Bytes, Option<Box<dyn StreamCodec>>) {
        let early = Bytes::from(std::mem::take(&mut self.input));
        let Some(gss) = &mut self.gss else {
            return (early, None);
        };
        let clear = std::mem::take(&mut gss.clear);
        let codec = gss.protection.clone().map(|protection| {
            let codec: Box<dyn StreamCodec> = Box::new(Stream::new(protection, clear));
            codec
        });
        self.deadline = gss.expires;
        (early, codec)
    }

    /// What a client's datagrams are protected by, and until when.
    pub(super) fn datagram_protection(&self) -> (Option<Protection>, Option<Instant>) {
        let gss = self.gss.as_ref();
        let protection = gss.and_then(|gss| gss.protection.clone());
        (protection, gss.and_then(|gss| gss.expires))
    }

    /// Whether it has keys that no other process can have.
    pub(super) fn has_keys(&self) -> bool {
        self.gss.as_ref().is_some_and(|gss| gss.protects())
    }

    /// The context of a client that is served is over.
    pub(super) fn context_over(&mut self) {
        let text = "the client's ticket has expired";
        let ended = Ended::new(TerminateCause::SessionTimeout, counts::GSSAPI_EXPIRED, text);
        self.count(counts::GSSAPI_EXPIRED);
        self.end(Close::Reset, ended);
    }

    fn notice(&mut self, failure: &ContextFailure) {
        let severity = match failure.reason {
            ContextReason::Token | ContextReason::Expired => Severity::Info,
            _ => Severity::Warning,
        };
        self.event(Event::Notice {
            session: Some(SESSION),
            severity,
            text: format!("GSS-API: {failure}"),
        });
    }

    /// Refuses the client for what it sent.
    fn gss_refuse(&mut self, name: &'static str, text: String) {
        self.count(name);
        let cause = match name {
            counts::GSSAPI_UNAVAILABLE | counts::GSSAPI_NO_KEY => TerminateCause::ServiceUnavailable,
            _ => TerminateCause::UserError,
        };
        self.gss_abort(Ended::new(cause, name, text));
    }

    /// Refuses the client (RFC 1961, 3.8).
    pub(super) fn gss_abort(&mut self, ended: Ended) {
        self.traced(Direction::Out, || "GSS-API refused".to_owned());
        if let Some(gss) = &mut self.gss {
            gss.output.extend_from_slice(&ABORT);
        }
        self.end(Close::Finish, ended);
    }
}

fn counter(reason: ContextReason) -> &'static str {
    match reason {
        ContextReason::Token => counts::GSSAPI_TOKEN,
        ContextReason::ClockSkew => counts::GSSAPI_CLOCK_SKEW,
        ContextReason::Replay => counts::GSSAPI_REPLAY,
        ContextReason::Expired => counts::GSSAPI_EXPIRED,
        ContextReason::NoKey => counts::GSSAPI_NO_KEY,
        ContextReason::Unavailable => counts::GSSAPI_UNAVAILABLE,
        ContextReason::Other => counts::GSSAPI_OTHER,
    }
}
