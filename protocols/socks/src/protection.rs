//! The protection of messages (RFC 1961, 4 and 5): what was agreed on, and both directions of it, for the handshake,
//! for streams and for datagrams.

use crate::codec::Codec;
use crate::config::Minimum;
use crate::names::drops;
use crate::wire::gssapi::{self, HEADER, Kind, Message};
use bytes::BytesMut;
use sluice_auth::gss::{ContextReason, MAX_TOKEN, Order, SecurityContext};
use sluice_spi::{ClientDatagram, DropReason, RelayCodec, StreamCodec, Target};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most payload in one message to a client: half of what a token may have, so that what comes from targets goes on
/// without waiting for more.
const LARGEST: usize = 32 << 10;

/// What both sides agree on (RFC 1961, 4.2). The first is none of the RFC's, but what clients ask for that only
/// authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing is protected, and nothing has a frame.
    None = 0,
    /// Messages cannot be changed.
    Integrity = 1,
    /// And not be read.
    Confidentiality = 2,
    /// Each as its sender wants it. Here all that is sent cannot be read; what comes may be either.
    Selective = 3,
}

impl Level {
    /// The answer to what a client asks for; `None`: it cannot be had.
    pub(crate) fn agree(asked: u8, minimum: Minimum, integrity: bool, confidentiality: bool) -> Option<Self> {
        let level = match (asked, confidentiality) {
            (0, _) => Level::None,
            (1, _) => Level::Integrity,
            (2, true) => Level::Confidentiality,
            (3, true) if minimum == Minimum::Confidentiality => Level::Confidentiality,
            (3, true) => Level::Selective,
            (3, false) => Level::Integrity,
            _ => return None,
        };
        let enough = match level {
            Level::None => minimum == Minimum::None,
            Level::Integrity | Level::Selective => integrity && minimum <= Minimum::Integrity,
            Level::Confidentiality => integrity,
        };
        enough.then_some(level)
    }

    /// Whether what is sent can be read by nobody else.
    fn seals(self) -> bool {
        matches!(self, Level::Confidentiality | Level::Selective)
    }

    /// The name for operators.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Integrity => "integrity",
            Level::Confidentiality => "confidentiality",
            Level::Selective => "selective",
        }
    }
}

/// A context and what it protects. A relay of datagrams has it together with its connection, which says little; so
/// nobody ever waits for the other.
#[derive(Clone)]
pub(crate) struct Protection {
    context: Arc<Mutex<Box<dyn SecurityContext>>>,
    level: Level,
}

impl Protection {
    /// `None`: the context has no room for a message.
    pub(crate) fn new(context: Box<dyn SecurityContext>, level: Level) -> Option<Self> {
        let fits = context.longest_message(level.seals(), MAX_TOKEN) > 0;
        fits.then(|| Self {
            context: Arc::new(Mutex::new(context)),
            level,
        })
    }

    fn context(&self) -> MutexGuard<'_, Box<dyn SecurityContext>> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest message that one token can hold.
    fn longest(&self) -> usize {
        self.context().longest_message(self.level.seals(), MAX_TOKEN)
    }

    /// Appends the frame of a message.
    pub(crate) fn seal(&self, message: &[u8], put: &mut dyn FnMut(&[u8])) -> Result<(), DropReason> {
        let mut result = Err(drops::GSSAPI_TOKEN);
        let wrapped = self
            .context()
            .wrap(self.level.seals(), message, &mut |token: &[u8]| {
                if let Some(header) = gssapi::header(Kind::Data, token.len()) {
                    put(&header);
                    put(token);
                    result = Ok(());
                }
            });
        wrapped.map_err(|failure| reason(failure.reason))?;
        result
    }

    /// Appends the message of a token.
    fn open(&self, token: &[u8], message: &mut Vec<u8>) -> Result<Order, DropReason> {
        let start = message.len();
        let opened = self
            .context()
            .unwrap(token, &mut |octets: &[u8]| message.extend_from_slice(octets));
        let opened = opened.map_err(|failure| reason(failure.reason))?;
        if self.level == Level::Confidentiality && !opened.confidential {
            message.truncate(start);
            return Err(drops::GSSAPI_PROTECTION);
        }
        Ok(opened.order)
    }

    /// The same for a token of a stream, which must come in its turn.
    pub(crate) fn open_next(&self, token: &[u8], message: &mut Vec<u8>) -> Result<(), DropReason> {
        let start = message.len();
        match self.open(token, message)? {
            Order::InOrder => Ok(()),
            Order::OutOfOrder | Order::Repeated => {
                message.truncate(start);
                Err(drops::GSSAPI_ORDER)
            }
        }
    }
}

fn reason(reason: ContextReason) -> DropReason {
    match reason {
        ContextReason::Expired => drops::GSSAPI_EXPIRED,
        _ => drops::GSSAPI_TOKEN,
    }
}

/// The bytes of a joined client.
pub(crate) struct Stream {
    protection: Protection,
    largest: usize,
    /// Payload that came with the request.
    ready: Vec<u8>,
    /// The beginning of a frame.
    held: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(protection: Protection, ready: Vec<u8>) -> Self {
        Self {
            largest: protection.longest().min(LARGEST),
            protection,
            ready,
            held: Vec::new(),
        }
    }

    /// Opens all frames that are whole; gives how many octets they were.
    fn frames(&self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<usize, DropReason> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match gssapi::message(rest, Kind::Data) {
                Err(gssapi::Unexpected) => return Err(drops::GSSAPI_FRAME),
                Ok(None) => return Ok(used),
                Ok(Some((Message::Abort, _))) => return Err(drops::GSSAPI_ABORT),
                Ok(Some((Message::Token(token), length))) => {
                    self.protection.open_next(token, payload)?;
                    used += length;
                }
            }
        }
    }
}

impl StreamCodec for Stream {
    fn open(&mut self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), DropReason> {
        payload.append(&mut self.ready);
        self.ready = Vec::new();
        if self.held.is_empty() {
            let used = self.frames(bytes, payload)?;
            self.held = bytes.get(used..).unwrap_or_default().to_vec();
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let used = self.frames(&held, payload)?;
        // What is left waits for more; a client that waits itself costs nothing.
        if used < held.len() {
            held.drain(..used);
            self.held = held;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), DropReason> {
        if self.held.is_empty() {
            Ok(())
        } else {
            Err(drops::GSSAPI_CUT)
        }
    }

    fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        self.protection
            .seal(payload, &mut |octets| out.extend_from_slice(octets))
    }

    fn largest(&self) -> usize {
        self.largest.max(1)
    }
}

/// The datagrams of a client, each with its header in one frame (RFC 1961, 5; RFC 1928, 7).
pub(crate) struct Datagrams {
    codec: Codec,
    protection: Protection,
    overhead: usize,
    /// The datagram of the client's that was opened last.
    clear: Vec<u8>,
    /// Where a datagram for the client gets its header.
    plain: BytesMut,
}

impl Datagrams {
    pub(crate) fn new(codec: Codec, protection: Protection) -> Self {
        let wrapping = MAX_TOKEN.saturating_sub(protection.longest());
        Self {
            overhead: codec.overhead() + HEADER + wrapping,
            codec,
            protection,
            clear: Vec::new(),
            plain: BytesMut::new(),
        }
    }
}

impl RelayCodec for Datagrams {
    fn open<'a>(&'a mut self, packet: &'a [u8], now: Instant) -> ClientDatagram<'a> {
        let token = match gssapi::message(packet, Kind::Data) {
            Ok(Some((Message::Token(token), length))) if length == packet.len() => token,
            _ => return ClientDatagram::Drop(drops::GSSAPI_FRAME),
        };
        self.clear.clear();
        match self.protection.open(token, &mut self.clear) {
            // The network repeats datagrams; whoever else does is kept out as well. It also loses and reorders them.
            Ok(Order::Repeated) => ClientDatagram::Drop(drops::GSSAPI_ORDER),
            Ok(Order::InOrder | Order::OutOfOrder) => self.codec.open(&self.clear, now),
            Err(reason) => ClientDatagram::Drop(reason),
        }
    }

    fn target(&self, octets: &[u8]) -> Result<Target, DropReason> {
        self.codec.target(octets)
    }

    fn seal(&mut self, from: SocketAddr, payload: &[u8], out: &mut BytesMut) -> Result<(), DropReason> {
        self.plain.clear();
        self.codec.seal(from, payload, &mut self.plain)?;
        self.protection
            .seal(&self.plain, &mut |octets| out.extend_from_slice(octets))
    }

    fn overhead(&self) -> usize {
        self.overhead
    }

    fn held_until(&self) -> Option<Instant> {
        self.codec.held_until()
    }

    fn expire(&mut self, now: Instant) -> usize {
        self.codec.expire(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_what_the_client_asks_for_where_that_is_enough() {
        use Level::{Confidentiality, Integrity, None as Plain, Selective};
        let all = |minimum, integrity, confidentiality| {
            [0, 1, 2, 3, 4, 255].map(|asked| Level::agree(asked, minimum, integrity, confidentiality))
        };
        assert_eq!(
            all(Minimum::None, true, true),
            [
                Some(Plain),
                Some(Integrity),
                Some(Confidentiality),
                Some(Selective),
                None,
                None
            ]
        );
        assert_eq!(
            all(Minimum::Integrity, true, true),
            [
                None,
                Some(Integrity),
                Some(Confidentiality),
                Some(Selective),
                None,
                None
            ]
        );
        assert_eq!(
            all(Minimum::Confidentiality, true, true),
            [
                None,
                None,
                Some(Confidentiality),
                Some(Confidentiality),
                None,
                None
            ]
        );
        assert_eq!(
            all(Minimum::Integrity, true, false),
            [None, Some(Integrity), None, Some(Integrity), None, None]
        );
        assert_eq!(all(Minimum::Confidentiality, true, false), [None; 6]);
        assert_eq!(
            all(Minimum::None, false, false),
            [Some(Plain), None, None, None, None, None]
        );
    }
}
