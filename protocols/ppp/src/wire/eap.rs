//! EAP packets (RFC 3748, 4 and 5), and those of EAP's MS-CHAPv2 (draft-kamath-pppext-eap-mschapv2-02).

use super::pap::CONCEALED;
use super::{Malformed, Packet, chap};
use sluice_auth::{Coverage, Method, Verifiable};
use sluice_spi::wire::Reader;

/// Code of Request.
pub const REQUEST: u8 = 1;
/// Code of Response.
pub const RESPONSE: u8 = 2;
/// Code of Success.
pub const SUCCESS: u8 = 3;
/// Code of Failure.
pub const FAILURE: u8 = 4;

/// Type of Identity.
pub const IDENTITY: u8 = 1;
/// Type of Notification.
pub const NOTIFICATION: u8 = 2;
/// Type of Nak, which is only in Responses.
pub const NAK: u8 = 3;
/// Type of MD5-Challenge.
pub const MD5: u8 = 4;
/// Type of EAP-TLS (RFC 5216).
pub const TLS: u8 = 13;
/// Flag of EAP-TLS: the length of the whole message follows.
pub const TLS_LENGTH: u8 = 0x80;
/// Flag of EAP-TLS: more fragments follow.
pub const TLS_MORE: u8 = 0x40;
/// Flag of EAP-TLS: the handshake begins.
pub const TLS_START: u8 = 0x20;
/// Type of MS-CHAPv2.
pub const MSCHAP_V2: u8 = 26;
/// Expanded types (RFC 3748, 5.7), of which none is spoken.
pub const EXPANDED: u8 = 254;

/// Ways to prove who one is by EAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EapMethod {
    /// A certificate, by TLS (RFC 5216). Only as the server.
    Tls,
    /// MS-CHAPv2 inside EAP.
    MsChapV2,
    /// MD5-Challenge (RFC 3748, 5.4).
    Md5,
}

impl EapMethod {
    /// All of them, the strongest first.
    pub const ALL: [EapMethod; 3] = [EapMethod::Tls, EapMethod::MsChapV2, EapMethod::Md5];

    /// The name used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            EapMethod::Tls => "tls",
            EapMethod::MsChapV2 => "mschapv2",
            EapMethod::Md5 => "md5",
        }
    }

    /// Its type in packets.
    pub fn kind(self) -> u8 {
        match self {
            EapMethod::Tls => TLS,
            EapMethod::MsChapV2 => MSCHAP_V2,
            EapMethod::Md5 => MD5,
        }
    }

    /// Whom it can be checked for.
    pub fn coverage(self, verifiable: &Verifiable) -> Coverage {
        match self {
            EapMethod::Tls if verifiable.tls().is_none() => Coverage::None,
            EapMethod::Tls => verifiable.coverage(Method::Certificate),
            EapMethod::MsChapV2 => verifiable.coverage(Method::MsChapV2),
            EapMethod::Md5 => verifiable.coverage(Method::Chap),
        }
    }
}

/// The body of a Request or Response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Typed<'a> {
    /// What it is.
    pub kind: u8,
    /// What belongs to the type.
    pub data: &'a [u8],
}

impl<'a> Typed<'a> {
    /// Reads the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let (&kind, data) = body.split_first().ok_or(Malformed)?;
        Ok(Self { kind, data })
    }

    /// A whole packet.
    pub fn encode(&self, code: u8, id: u8) -> Vec<u8> {
        let body = [&[self.kind], self.data].concat();
        let mut out = Vec::new();
        let body = &body;
        Packet { code, id, body }.encode(&mut out);
        out
    }
}

/// A packet of MS-CHAPv2 inside EAP. Operations are those of CHAP's codes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MsChap<'a> {
    /// Operation: [`chap::CHALLENGE`] to [`chap::FAILURE`].
    pub op: u8,
    /// Identifier of the exchange; 0 where there is none, as in the answers to Success and Failure.
    pub id: u8,
    /// Challenge, response or message.
    pub body: &'a [u8],
}

impl<'a> MsChap<'a> {
    /// Reads what belongs to type 26. Its own length must be what there is.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        if let &[op @ (chap::SUCCESS | chap::FAILURE)] = data {
            return Ok(Self { op, id: 0, body: &[] });
        }
        let mut reader = Reader::new(data);
        let (op, id, length) = (reader.u8()?, reader.u8()?, reader.u16()?);
        if usize::from(length) != data.len() {
            return Err(Malformed);
        }
        let body = reader.rest();
        Ok(Self { op, id, body })
    }

    /// What belongs to type 26.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        let (code, id, body) = (self.op, self.id, self.body);
        Packet { code, id, body }.encode(&mut data);
        data
    }
}

/// The value and the name of MD5-Challenge and MS-CHAPv2, the value's length first.
pub fn valued(value: &[u8], name: &[u8]) -> Vec<u8> {
    let value = value.get(..255).unwrap_or(value);
    let mut data = vec![u8::try_from(value.len()).unwrap_or(u8::MAX)];
    data.extend_from_slice(value);
    data.extend_from_slice(name);
    data
}

/// Overwrites the answer to a challenge in the information field of an EAP packet. What is cut short is overwritten as far
/// as it is there.
pub fn conceal(information: &mut [u8]) {
    let Some((&mut [RESPONSE, ..], body)) = information.split_first_chunk_mut::<4>() else {
        return;
    };
    let answer = match body {
        [MD5, answer @ ..] | [MSCHAP_V2, chap::RESPONSE, _, _, _, answer @ ..] => answer,
        // A new password.
        [MSCHAP_V2, chap::CHANGE_PASSWORD, rest @ ..] => return rest.fill(CONCEALED),
        _ => return,
    };
    if let Some((&mut length, rest)) = answer.split_first_mut() {
        let present = rest.len().min(usize::from(length));
        if let Some(value) = rest.get_mut(..present) {
            value.fill(CONCEALED);
        }
    }
}
