//! From a body of AVPs to a typed message.

use super::avp::{Avps, kind};
use super::fields::{Fault, Fields};
use super::message::{
    CallErrors, Cdn, Connected, DisconnectCause, Icrq, LinkInfo, Message, Ocrq, ProxyAvps, Q931Cause, Reply,
    Scccn, Start, StopCcn, number,
};
use super::result::{ResultCode, error};
use sluice_auth::Secret;
use sluice_spi::wire::{Reader, display_text};

/// What a message is about, and so what ends when it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole tunnel.
    Tunnel,
    /// One session.
    Session,
}

/// Why a body was not decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Its first AVP is no Message Type AVP: the message is dropped as if it had not arrived.
    #[error("no message type")]
    NoType,
    /// The message type is not known, and may be ignored.
    #[error("message type {0} is not known")]
    Ignored(u16),
    /// The message must be answered by ending what it is about.
    #[error("{0}")]
    Refused(Refused),
}

/// A message that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What ends.
    pub scope: Scope,
    /// Number of the message type.
    pub number: u16,
    /// General error code for the answer.
    pub error: u16,
    /// Words for the answer and the log.
    pub message: String,
    /// The session id that the peer assigned in this message, where that could be read.
    pub assigned_session: Option<u16>,
    /// The tunnel id that the peer assigned in this message, where that could be read.
    pub assigned_tunnel: Option<u16>,
}

/// The number of a body's message type and its M bit, where its first AVP is a Message Type AVP.
pub fn message_type(body: &[u8]) -> Option<(u16, bool)> {
    let first = Avps::new(body).next()?.ok()?;
    let sound = first.vendor == 0 && first.kind == kind::MESSAGE_TYPE && !first.hidden && !first.reserved;
    let number = u16::from_be_bytes(first.value.try_into().ok()?);
    sound.then_some((number, first.mandatory))
}

/// The Host Name of a body. It is never hidden, and it is needed to know the secret for those that are.
pub fn host_name(body: &[u8]) -> Option<&[u8]> {
    Avps::new(body)
        .map_while(Result::ok)
        .find(|avp| avp.vendor == 0 && avp.kind == kind::HOST_NAME && !avp.hidden && !avp.reserved)
        .map(|avp| avp.value)
}

fn scope(number: u16) -> Scope {
    match number {
        number::OCRQ..=number::ICCN | number::CDN..=number::SLI => Scope::Session,
        _ => Scope::Tunnel,
    }
}

/// Decodes a body; hidden AVPs are revealed with `secret`.
pub fn decode(body: &[u8], secret: Option<&Secret>) -> Result<Message, DecodeError> {
    let (number, mandatory) = message_type(body).ok_or(DecodeError::NoType)?;
    if number::name(number) == "unknown" {
        if !mandatory {
            return Err(DecodeError::Ignored(number));
        }
        return Err(DecodeError::Refused(Refused {
            scope: Scope::Tunnel,
            number,
            error: error::UNKNOWN_MANDATORY,
            message: format!("message type {number} is not known"),
            assigned_session: None,
            assigned_tunnel: None,
        }));
    }
    let (fields, fault) = Fields::gather(body, secret);
    let refuse = |(error, message): (u16, String)| {
        DecodeError::Refused(Refused {
            scope: scope(number),
            number,
            error,
            message: format!("{}: {message}", number::name(number)),
            assigned_session: fields.u16(kind::ASSIGNED_SESSION_ID).filter(|&id| id != 0),
            assigned_tunnel: fields.u16(kind::ASSIGNED_TUNNEL_ID).filter(|&id| id != 0),
        })
    };
    if let Some(fault) = fault {
        return Err(refuse(describe(fault)));
    }
    build(number, &fields).map_err(|wrong| {
        refuse(match wrong {
            Wrong::Missing(kind) => (error::OUT_OF_RANGE, format!("attribute {kind} is missing")),
            Wrong::Value(kind) => (
                error::OUT_OF_RANGE,
                format!("attribute {kind} has a value out of range"),
            ),
        })
    })
}

fn describe(fault: Fault) -> (u16, String) {
    match fault {
        Fault::Walk(problem) => (error::WRONG_LENGTH, problem.to_string()),
        Fault::Unknown { vendor: 0, kind } => (
            error::UNKNOWN_MANDATORY,
            format!("mandatory attribute {kind} is not known"),
        ),
        Fault::Unknown { vendor, kind } => (
            error::UNKNOWN_MANDATORY,
            format!("mandatory attribute {kind} of vendor {vendor} is not known"),
        ),
        Fault::Length(kind) => (
            error::WRONG_LENGTH,
            format!("attribute {kind} has a wrong length"),
        ),
        Fault::Hidden(kind) => (
            error::OUT_OF_RANGE,
            format!("hidden attribute {kind} cannot be read"),
        ),
    }
}

/// Why a message could not be put together.
enum Wrong {
    Missing(u16),
    Value(u16),
}

fn need<T>(value: Option<T>, kind: u16) -> Result<T, Wrong> {
    value.ok_or(Wrong::Missing(kind))
}

/// An identifier, which is never 0.
fn need_id(fields: &Fields<'_>, kind: u16) -> Result<u16, Wrong> {
    match need(fields.u16(kind), kind)? {
        0 => Err(Wrong::Value(kind)),
        id => Ok(id),
    }
}

fn build(number: u16, fields: &Fields<'_>) -> Result<Message, Wrong> {
    Ok(match number {
        number::SCCRQ => Message::Sccrq(start(fields)?),
        number::SCCRP => Message::Sccrp(start(fields)?),
        number::SCCCN => Message::Scccn(Scccn {
            response: fields.array(kind::CHALLENGE_RESPONSE),
        }),
        number::STOPCCN => Message::StopCcn(StopCcn {
            tunnel_id: need_id(fields, kind::ASSIGNED_TUNNEL_ID)?,
            result: result_code(fields)?,
        }),
        number::OCRQ => Message::Ocrq(ocrq(fields)?),
        number::OCRP => Message::Ocrp(reply(fields)?),
        number::OCCN => Message::Occn(connected(fields)?),
        number::ICRQ => Message::Icrq(icrq(fields)?),
        number::ICRP => Message::Icrp(reply(fields)?),
        number::ICCN => Message::Iccn(connected(fields)?),
        number::CDN => Message::Cdn(Cdn {
            session_id: need_id(fields, kind::ASSIGNED_SESSION_ID)?,
            result: result_code(fields)?,
            q931: fields.get(kind::Q931_CAUSE).and_then(q931),
            disconnect: fields.get(kind::PPP_DISCONNECT_CAUSE).and_then(disconnect),
        }),
        number::WEN => Message::Wen(need(
            fields.get(kind::CALL_ERRORS).and_then(call_errors),
            kind::CALL_ERRORS,
        )?),
        number::SLI => Message::Sli(need(fields.get(kind::ACCM).and_then(link_info), kind::ACCM)?),
        _ => Message::Hello,
    })
}

fn start(fields: &Fields<'_>) -> Result<Start, Wrong> {
    let window = fields.u16(kind::RECEIVE_WINDOW_SIZE);
    if window == Some(0) {
        return Err(Wrong::Value(kind::RECEIVE_WINDOW_SIZE));
    }
    Ok(Start {
        version: need(fields.u16(kind::PROTOCOL_VERSION), kind::PROTOCOL_VERSION)?,
        host_name: need(fields.string(kind::HOST_NAME), kind::HOST_NAME)?,
        framing: need(fields.u32(kind::FRAMING_CAPABILITIES), kind::FRAMING_CAPABILITIES)?,
        tunnel_id: need_id(fields, kind::ASSIGNED_TUNNEL_ID)?,
        bearer: fields.u32(kind::BEARER_CAPABILITIES),
        window,
        challenge: fields.bytes(kind::CHALLENGE),
        response: fields.array(kind::CHALLENGE_RESPONSE),
        tie_breaker: fields.array(kind::TIE_BREAKER),
        firmware: fields.u16(kind::FIRMWARE_REVISION),
        vendor: fields.string(kind::VENDOR_NAME),
    })
}

fn icrq(fields: &Fields<'_>) -> Result<Icrq, Wrong> {
    Ok(Icrq {
        session_id: need_id(fields, kind::ASSIGNED_SESSION_ID)?,
        serial: need(fields.u32(kind::CALL_SERIAL_NUMBER), kind::CALL_SERIAL_NUMBER)?,
        bearer: fields.u32(kind::BEARER_TYPE),
        channel: fields.u32(kind::PHYSICAL_CHANNEL),
        calling: fields.string(kind::CALLING_NUMBER),
        called: fields.string(kind::CALLED_NUMBER),
        sub_address: fields.string(kind::SUB_ADDRESS),
    })
}

fn ocrq(fields: &Fields<'_>) -> Result<Ocrq, Wrong> {
    let number = |kind| need(fields.u32(kind), kind);
    Ok(Ocrq {
        session_id: need_id(fields, kind::ASSIGNED_SESSION_ID)?,
        serial: number(kind::CALL_SERIAL_NUMBER)?,
        minimum_bps: number(kind::MINIMUM_BPS)?,
        maximum_bps: number(kind::MAXIMUM_BPS)?,
        bearer: number(kind::BEARER_TYPE)?,
        framing: number(kind::FRAMING_TYPE)?,
        called: need(fields.string(kind::CALLED_NUMBER), kind::CALLED_NUMBER)?,
        sub_address: fields.string(kind::SUB_ADDRESS),
    })
}

fn reply(fields: &Fields<'_>) -> Result<Reply, Wrong> {
    Ok(Reply {
        session_id: need_id(fields, kind::ASSIGNED_SESSION_ID)?,
        channel: fields.u32(kind::PHYSICAL_CHANNEL),
    })
}

fn connected(fields: &Fields<'_>) -> Result<Connected, Wrong> {
    Ok(Connected {
        tx_speed: need(fields.u32(kind::TX_CONNECT_SPEED), kind::TX_CONNECT_SPEED)?,
        framing: need(fields.u32(kind::FRAMING_TYPE), kind::FRAMING_TYPE)?,
        rx_speed: fields.u32(kind::RX_CONNECT_SPEED),
        sequencing_required: fields.get(kind::SEQUENCING_REQUIRED).is_some(),
        private_group: fields.string(kind::PRIVATE_GROUP),
        proxy: ProxyAvps {
            initial_received: fields.bytes(kind::INITIAL_RECEIVED_CONFREQ),
            last_sent: fields.bytes(kind::LAST_SENT_CONFREQ),
            last_received: fields.bytes(kind::LAST_RECEIVED_CONFREQ),
            auth_type: fields.u16(kind::PROXY_AUTHEN_TYPE),
            name: fields.bytes(kind::PROXY_AUTHEN_NAME),
            challenge: fields.bytes(kind::PROXY_AUTHEN_CHALLENGE),
            id: fields.u16(kind::PROXY_AUTHEN_ID),
            response: fields.bytes(kind::PROXY_AUTHEN_RESPONSE),
        },
    })
}

/// A Result Code AVP may end after the result, after the error code, or go on with words. An odd octet where an
/// error code would be is passed over.
fn result_code(fields: &Fields<'_>) -> Result<ResultCode, Wrong> {
    let mut reader = Reader::new(need(fields.get(kind::RESULT_CODE), kind::RESULT_CODE)?);
    let result = reader.u16().map_err(|_| Wrong::Value(kind::RESULT_CODE))?;
    let error = reader.u16().ok();
    let message = match error {
        Some(_) => display_text(reader.rest()),
        None => String::new(),
    };
    Ok(ResultCode {
        result,
        error,
        message,
    })
}

fn q931(value: &[u8]) -> Option<Q931Cause> {
    let mut reader = Reader::new(value);
    Some(Q931Cause {
        code: reader.u16().ok()?,
        message: reader.u8().ok()?,
        advisory: display_text(reader.rest()),
    })
}

fn disconnect(value: &[u8]) -> Option<DisconnectCause> {
    let mut reader = Reader::new(value);
    Some(DisconnectCause {
        code: reader.u16().ok()?,
        protocol: reader.u16().ok()?,
        direction: reader.u8().ok()?,
        message: display_text(reader.rest()),
    })
}

fn call_errors(value: &[u8]) -> Option<CallErrors> {
    let mut reader = Reader::new(value);
    reader.u16().ok()?;
    let mut next = || reader.u32().ok();
    Some(CallErrors {
        crc: next()?,
        framing: next()?,
        hardware: next()?,
        buffer: next()?,
        timeouts: next()?,
        alignment: next()?,
    })
}

fn link_info(value: &[u8]) -> Option<LinkInfo> {
    let mut reader = Reader::new(value);
    reader.u16().ok()?;
    Some(LinkInfo {
        send: reader.u32().ok()?,
        receive: reader.u32().ok()?,
    })
}
