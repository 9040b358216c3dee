//! Decoding control messages.

use super::message::{
    CONTROL, Disconnect, HEADER, IncomingConnected, IncomingReply, IncomingRequest, LinkInfo, Message,
    Outcome, OutgoingReply, OutgoingRequest, STATISTICS, Start, TEXT, WanError, number,
};
use sluice_spi::wire::{Reader, Truncated};

/// What a whole message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A control message.
    Message(Message),
    /// A message that is not defined: its PPTP Message Type and Control Message Type. It is passed over.
    Unknown(u16, u16),
    /// A request for a call with a number longer than its field: its Control Message Type and Call ID.
    BadValue(u16, u16),
}

/// Decodes a message of the length that its type has; `None` where it is shorter. Reserved fields are not looked at.
pub fn decode(message: &[u8]) -> Option<Decoded> {
    let mut reader = Reader::new(message);
    read(&mut reader).ok()
}

fn read(reader: &mut Reader<'_>) -> Result<Decoded, Truncated> {
    let mut header = reader.sub(HEADER)?;
    header.u16()?;
    let kind = header.u16()?;
    header.u32()?;
    let number = header.u16()?;
    if kind != CONTROL || number::length(number).is_none() {
        return Ok(Decoded::Unknown(kind, number));
    }
    let message = match number {
        number::START_REQUEST => {
            let version = reader.u16()?;
            reader.u16()?;
            Message::StartRequest(start(version, reader)?)
        }
        number::START_REPLY => {
            let (version, outcome) = (reader.u16()?, outcome(reader)?);
            Message::StartReply(start(version, reader)?, outcome)
        }
        number::STOP_REQUEST => Message::StopRequest(reader.u8()?),
        number::STOP_REPLY => Message::StopReply(outcome(reader)?),
        number::ECHO_REQUEST => Message::EchoRequest(reader.u32()?),
        number::ECHO_REPLY => Message::EchoReply(reader.u32()?, outcome(reader)?),
        number::OUTGOING_REQUEST => return outgoing_request(reader),
        number::OUTGOING_REPLY => Message::OutgoingReply(outgoing_reply(reader)?),
        number::INCOMING_REQUEST => return incoming_request(reader),
        number::INCOMING_REPLY => Message::IncomingReply(incoming_reply(reader)?),
        number::INCOMING_CONNECTED => Message::IncomingConnected(incoming_connected(reader)?),
        number::CLEAR_REQUEST => Message::ClearRequest(reader.u16()?),
        number::DISCONNECT_NOTIFY => Message::DisconnectNotify(disconnect(reader)?),
        number::WAN_ERROR => Message::WanError(wan_error(reader)?),
        _ => Message::LinkInfo(link_info(reader)?),
    };
    Ok(Decoded::Message(message))
}

fn outcome(reader: &mut Reader<'_>) -> Result<Outcome, Truncated> {
    Ok(Outcome {
        result: reader.u8()?,
        error: reader.u8()?,
    })
}

/// A text that is filled up with zeroes.
fn text(reader: &mut Reader<'_>, size: usize) -> Result<Vec<u8>, Truncated> {
    let field = reader.take(size)?;
    let text = field.split(|&octet| octet == 0).next();
    Ok(text.unwrap_or_default().to_vec())
}

/// A number with its length elsewhere; `None`: it cannot be so long.
fn counted(reader: &mut Reader<'_>, length: u16) -> Result<Option<Vec<u8>>, Truncated> {
    let field = reader.take(TEXT)?;
    Ok(field.get(..usize::from(length)).map(<[u8]>::to_vec))
}

fn start(version: u16, reader: &mut Reader<'_>) -> Result<Start, Truncated> {
    Ok(Start {
        version,
        framing: reader.u32()?,
        bearer: reader.u32()?,
        channels: reader.u16()?,
        firmware: reader.u16()?,
        host: text(reader, TEXT)?,
        vendor: text(reader, TEXT)?,
    })
}

fn outgoing_request(reader: &mut Reader<'_>) -> Result<Decoded, Truncated> {
    let mut request = OutgoingRequest {
        call_id: reader.u16()?,
        serial: reader.u16()?,
        minimum_bps: reader.u32()?,
        maximum_bps: reader.u32()?,
        bearer: reader.u32()?,
        framing: reader.u32()?,
        window: reader.u16()?,
        delay: reader.u16()?,
        ..OutgoingRequest::default()
    };
    let length = reader.u16()?;
    reader.u16()?;
    let phone = counted(reader, length)?;
    request.sub_address = text(reader, TEXT)?;
    let Some(phone) = phone else {
        return Ok(Decoded::BadValue(number::OUTGOING_REQUEST, request.call_id));
    };
    request.phone = phone;
    Ok(Decoded::Message(Message::OutgoingRequest(request)))
}

fn outgoing_reply(reader: &mut Reader<'_>) -> Result<OutgoingReply, Truncated> {
    Ok(OutgoingReply {
        call_id: reader.u16()?,
        peer_call_id: reader.u16()?,
        outcome: outcome(reader)?,
        cause: reader.u16()?,
        speed: reader.u32()?,
        window: reader.u16()?,
        delay: reader.u16()?,
        channel: reader.u32()?,
    })
}

fn incoming_request(reader: &mut Reader<'_>) -> Result<Decoded, Truncated> {
    let mut request = IncomingRequest {
        call_id: reader.u16()?,
        serial: reader.u16()?,
        bearer: reader.u32()?,
        channel: reader.u32()?,
        ..IncomingRequest::default()
    };
    let (dialed, dialing) = (reader.u16()?, reader.u16()?);
    let numbers = (counted(reader, dialed)?, counted(reader, dialing)?);
    request.sub_address = text(reader, TEXT)?;
    let (Some(dialed), Some(dialing)) = numbers else {
        return Ok(Decoded::BadValue(number::INCOMING_REQUEST, request.call_id));
    };
    (request.dialed, request.dialing) = (dialed, dialing);
    Ok(Decoded::Message(Message::IncomingRequest(request)))
}

fn incoming_reply(reader: &mut Reader<'_>) -> Result<IncomingReply, Truncated> {
    Ok(IncomingReply {
        call_id: reader.u16()?,
        peer_call_id: reader.u16()?,
        outcome: outcome(reader)?,
        window: reader.u16()?,
        delay: reader.u16()?,
    })
}

fn incoming_connected(reader: &mut Reader<'_>) -> Result<IncomingConnected, Truncated> {
    let peer_call_id = reader.u16()?;
    reader.u16()?;
    Ok(IncomingConnected {
        peer_call_id,
        speed: reader.u32()?,
        window: reader.u16()?,
        delay: reader.u16()?,
        framing: reader.u32()?,
    })
}

fn disconnect(reader: &mut Reader<'_>) -> Result<Disconnect, Truncated> {
    let (call_id, outcome, cause) = (reader.u16()?, outcome(reader)?, reader.u16()?);
    reader.u16()?;
    Ok(Disconnect {
        call_id,
        outcome,
        cause,
        statistics: text(reader, STATISTICS)?,
    })
}

fn wan_error(reader: &mut Reader<'_>) -> Result<WanError, Truncated> {
    let peer_call_id = reader.u16()?;
    reader.u16()?;
    Ok(WanError {
        peer_call_id,
        crc: reader.u32()?,
        framing: reader.u32()?,
        hardware: reader.u32()?,
        buffer: reader.u32()?,
        timeouts: reader.u32()?,
        alignment: reader.u32()?,
    })
}

fn link_info(reader: &mut Reader<'_>) -> Result<LinkInfo, Truncated> {
    let peer_call_id = reader.u16()?;
    reader.u16()?;
    Ok(LinkInfo {
        peer_call_id,
        send: reader.u32()?,
        receive: reader.u32()?,
    })
}
