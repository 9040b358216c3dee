//! CHAP packets (RFC 1994, 4) and what MS-CHAPv2 puts into them (RFC 2759, 3 to 7).

use super::pap::CONCEALED;
use super::{Malformed, Packet};
use sluice_auth::chap::{MSCHAP_CHALLENGE, NT_RESPONSE};
use sluice_auth::{MsChapExchange, RejectReason};
use sluice_spi::wire::Reader;
use std::fmt::Write;

/// Algorithm of CHAP with MD5 (RFC 1994, 3).
pub const MD5: u8 = 5;
/// Algorithm of MS-CHAPv2 (RFC 2759, 2).
pub const MSCHAP_V2: u8 = 0x81;

/// Code of Challenge.
pub const CHALLENGE: u8 = 1;
/// Code of Response.
pub const RESPONSE: u8 = 2;
/// Code of Success.
pub const SUCCESS: u8 = 3;
/// Code of Failure.
pub const FAILURE: u8 = 4;
/// Code of Change-Password (RFC 2759, 7).
pub const CHANGE_PASSWORD: u8 = 7;

/// ERROR_ACCT_DISABLED (RFC 2759, 6).
const DISABLED: u16 = 647;
/// ERROR_NO_DIALIN_PERMISSION (RFC 2759, 6).
const NO_PERMISSION: u16 = 649;
/// ERROR_AUTHENTICATION_FAILURE (RFC 2759, 6).
const WRONG: u16 = 691;
/// ERROR_CHANGING_PASSWORD (RFC 2759, 6).
pub const CHANGE_REFUSED: u16 = 709;

/// The body of a Challenge or Response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Valued<'a> {
    /// The challenge, or the answer to one: 1 to 255 octets.
    pub value: &'a [u8],
    /// Who sends it.
    pub name: &'a [u8],
}

impl<'a> Valued<'a> {
    /// Reads the body. There is no value of no octets (RFC 1994, 4.1).
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let length = usize::from(reader.u8()?);
        let value = reader.take(length)?;
        if value.is_empty() {
            return Err(Malformed);
        }
        Ok(Self {
            value,
            name: reader.rest(),
        })
    }

    /// Appends a whole packet. A value over 255 octets is cut.
    pub fn encode(&self, code: u8, id: u8, out: &mut Vec<u8>) {
        let value = self.value.get(..255).unwrap_or(self.value);
        let mut body = vec![u8::try_from(value.len()).unwrap_or(u8::MAX)];
        body.extend_from_slice(value);
        body.extend_from_slice(self.name);
        Packet {
            code,
            id,
            body: &body,
        }
        .encode(out);
    }
}

/// Overwrites the answer in the information field of a CHAP packet, by which the password can be guessed, and all of a
/// Change-Password. What is cut short is overwritten as far as it is there.
pub fn conceal(information: &mut [u8]) {
    let Some((&mut [code, ..], body)) = information.split_first_chunk_mut::<4>() else {
        return;
    };
    match (code, body.split_first_mut()) {
        (RESPONSE, Some((&mut length, rest))) => {
            let present = rest.len().min(usize::from(length));
            if let Some(value) = rest.get_mut(..present) {
                value.fill(CONCEALED);
            }
        }
        (CHANGE_PASSWORD, _) => body.fill(CONCEALED),
        _ => {}
    }
}

/// Length of the value of MS-CHAPv2's Response: peer's challenge, 8 reserved octets, answer, flags.
const MSCHAP_VALUE: usize = MSCHAP_CHALLENGE + 8 + NT_RESPONSE + 1;

/// Reads the value of MS-CHAPv2's Response to a challenge. Reserved octets and flags say nothing (RFC 2759, 4).
pub fn decode_mschap(value: &[u8], challenge: [u8; MSCHAP_CHALLENGE]) -> Result<MsChapExchange, Malformed> {
    if value.len() != MSCHAP_VALUE {
        return Err(Malformed);
    }
    let mut reader = Reader::new(value);
    let peer_challenge = reader.array()?;
    reader.take(8)?;
    Ok(MsChapExchange {
        challenge,
        peer_challenge,
        nt_response: reader.array()?,
    })
}

/// The value of MS-CHAPv2's Response.
pub fn encode_mschap(exchange: &MsChapExchange) -> Vec<u8> {
    let mut value = exchange.peer_challenge.to_vec();
    value.extend_from_slice(&[0; 8]);
    value.extend_from_slice(&exchange.nt_response);
    value.push(0);
    value
}

/// What MS-CHAPv2's Failure says of a refusal. Only who has given the right password learns that it was right.
pub fn error_code(reason: RejectReason) -> u16 {
    match reason {
        RejectReason::Disabled | RejectReason::Expired => DISABLED,
        RejectReason::NotPermitted | RejectReason::TooManySessions | RejectReason::NoAddress => NO_PERMISSION,
        RejectReason::BadCredentials
        | RejectReason::NoVerifier
        | RejectReason::UnknownRealm
        | RejectReason::Throttled
        | RejectReason::Unavailable => WRONG,
    }
}

/// The message of MS-CHAPv2's Failure (RFC 2759, 6): no retry, a challenge that is never used, version 3.
pub fn failure_message(error: u16, unused: [u8; MSCHAP_CHALLENGE], words: &str) -> String {
    let mut text = format!("E={error} R=0 C=");
    for octet in unused {
        // Writing into a `String` cannot fail.
        let _ = write!(text, "{octet:02X}");
    }
    text.push_str(" V=3 M=");
    text.push_str(words);
    text
}

/// The error of MS-CHAPv2's Failure, where it has one.
pub fn failure_code(message: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(message).ok()?;
    let code = text.split(' ').find_map(|word| word.strip_prefix("E="))?;
    code.parse().ok()
}
