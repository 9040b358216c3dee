//! Security contexts without a library: tokens that can be read, and messages that are changed and numbered.
//!
//! An initiator's token is a text: `more…` asks for another; `!skew`, `!replay`, `!expired`, `!key`, `!token` and
//! `!other` fail for that reason; an empty token is answered with an empty one, and asks for another; everything else
//! makes the context stand. Then it is `FLAGS:NAME`, up to the first octet 0, with flags `i` and `c` for what can be
//! protected, `t` for a life of [`LIFETIME`], and `e` for an empty reply; without flags it is `ic`.

use sluice_auth::gss::{
    ContextFailure, ContextReason, ContextStep, Established, Negotiation, Order, SecurityContext, Unwrapped,
};
use std::time::Duration;

/// How long a context with the flag `t` is good for.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Octets that a wrapped message is longer.
pub const OVERHEAD: usize = 5;

const CLIENT: u8 = b'c';
const SERVER: u8 = b's';

/// A context that does not stand yet.
#[derive(Debug)]
pub struct Begun;

impl Negotiation for Begun {
    fn accept(self: Box<Self>, token: &[u8]) -> Result<ContextStep, ContextFailure> {
        let failed = |reason| Err(ContextFailure::new(reason, "as the test says"));
        match token {
            b"" => go_on(b""),
            b"!skew" => failed(ContextReason::ClockSkew),
            b"!replay" => failed(ContextReason::Replay),
            b"!expired" => failed(ContextReason::Expired),
            b"!key" => failed(ContextReason::NoKey),
            b"!token" => failed(ContextReason::Token),
            b"!other" => failed(ContextReason::Other),
            token if token.starts_with(b"more") => go_on(b"and what else"),
            token => Ok(ContextStep::Established(Box::new(established(token)))),
        }
    }
}

fn go_on(reply: &[u8]) -> Result<ContextStep, ContextFailure> {
    Ok(ContextStep::Continue {
        reply: reply.to_vec(),
        negotiation: Box::new(Begun),
    })
}

fn established(token: &[u8]) -> Established {
    let text = token.split(|octet| *octet == 0).next().unwrap_or_default();
    let colon = text.iter().position(|octet| *octet == b':');
    let (flags, name) = match colon {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (&b"ic"[..], text),
    };
    Established {
        reply: if flags.contains(&b'e') {
            Vec::new()
        } else {
            b"welcome".to_vec()
        },
        initiator: name.to_vec(),
        integrity: flags.contains(&b'i'),
        confidentiality: flags.contains(&b'c'),
        lifetime: flags.contains(&b't').then_some(LIFETIME),
        context: Box::new(Context::server()),
    }
}

/// A context that stands, of either side.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    own: u8,
    other: u8,
    sent: u16,
    expected: u16,
}

impl Context {
    fn server() -> Self {
        Self {
            own: SERVER,
            other: CLIENT,
            sent: 0,
            expected: 0,
        }
    }

    /// The initiator's.
    pub fn client() -> Self {
        Self {
            own: CLIENT,
            other: SERVER,
            ..Self::server()
        }
    }

    /// The token of a message.
    pub fn token(&mut self, confidential: bool, message: &[u8]) -> Vec<u8> {
        let mut token = Vec::new();
        let wrapped = self.wrap(confidential, message, &mut |octets| {
            token.extend_from_slice(octets)
        });
        wrapped.expect("it wraps everything");
        token
    }

    /// The message of a token, which must be good and in order, and whether it was confidential.
    pub fn message(&mut self, token: &[u8]) -> (Vec<u8>, bool) {
        let mut message = Vec::new();
        let unwrapped = self.unwrap(token, &mut |octets| message.extend_from_slice(octets));
        let unwrapped = unwrapped.expect("a token of the other side");
        assert_eq!(unwrapped.order, Order::InOrder);
        (message, unwrapped.confidential)
    }

    /// Leaves out a number, as if a message was lost.
    pub fn skip(&mut self) {
        self.sent = self.sent.wrapping_add(1);
    }
}

fn sum(octets: &[u8]) -> u8 {
    octets.iter().fold(0x17, |sum, octet| sum.rotate_left(1) ^ octet)
}

impl SecurityContext for Context {
    fn wrap(
        &mut self,
        confidential: bool,
        message: &[u8],
        put: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ContextFailure> {
        let [high, low] = self.sent.to_be_bytes();
        self.sent = self.sent.wrapping_add(1);
        let mut token = vec![self.own, u8::from(confidential), high, low, sum(message)];
        token.extend(message.iter().map(|octet| octet ^ 0x5a));
        put(&token);
        Ok(())
    }

    fn unwrap(&mut self, token: &[u8], put: &mut dyn FnMut(&[u8])) -> Result<Unwrapped, ContextFailure> {
        let bad = || ContextFailure::new(ContextReason::Token, "it is none of the other side's");
        let (&[side, confidential, high, low, check], rest) = token.split_first_chunk().ok_or_else(bad)?;
        let message: Vec<u8> = rest.iter().map(|octet| octet ^ 0x5a).collect();
        if side != self.other || confidential > 1 || check != sum(&message) {
            return Err(bad());
        }
        let number = u16::from_be_bytes([high, low]);
        let order = match number.cmp(&self.expected) {
            std::cmp::Ordering::Equal => Order::InOrder,
            std::cmp::Ordering::Less => Order::Repeated,
            std::cmp::Ordering::Greater => Order::OutOfOrder,
        };
        self.expected = self.expected.max(number.wrapping_add(1));
        put(&message);
        Ok(Unwrapped {
            confidential: confidential == 1,
            order,
        })
    }

    fn longest_message(&self, _: bool, token: usize) -> usize {
        token.saturating_sub(OVERHEAD)
    }
}
