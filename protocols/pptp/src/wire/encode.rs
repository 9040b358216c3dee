//! Encoding control messages.

use super::message::{
    CONTROL, Disconnect, IncomingConnected, IncomingReply, IncomingRequest, MAGIC, Message, Outcome,
    OutgoingReply, OutgoingRequest, STATISTICS, Start, TEXT,
};
use bytes::{BufMut, BytesMut};
use sluice_spi::wire::patch_u16;

/// Appends a message. Texts that are too long are cut.
pub fn encode(message: &Message, out: &mut BytesMut) {
    let start = out.len();
    out.put_u16(0);
    out.put_u16(CONTROL);
    out.put_u32(MAGIC);
    out.put_u16(message.number());
    out.put_u16(0);
    body(message, out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    patch_u16(out, start, length);
}

fn body(message: &Message, out: &mut BytesMut) {
    match message {
        Message::StartRequest(start) => {
            out.put_u16(start.version);
            out.put_u16(0);
            put_start(start, out);
        }
        Message::StartReply(start, outcome) => {
            out.put_u16(start.version);
            put_outcome(*outcome, out);
            put_start(start, out);
        }
        Message::StopRequest(reason) => {
            out.put_u8(*reason);
            out.put_bytes(0, 3);
        }
        Message::StopReply(outcome) => {
            put_outcome(*outcome, out);
            out.put_u16(0);
        }
        Message::EchoRequest(identifier) => out.put_u32(*identifier),
        Message::EchoReply(identifier, outcome) => {
            out.put_u32(*identifier);
            put_outcome(*outcome, out);
            out.put_u16(0);
        }
        Message::OutgoingRequest(request) => outgoing_request(request, out),
        Message::OutgoingReply(reply) => outgoing_reply(reply, out),
        Message::IncomingRequest(request) => incoming_request(request, out),
        Message::IncomingReply(reply) => incoming_reply(reply, out),
        Message::IncomingConnected(connected) => incoming_connected(connected, out),
        Message::ClearRequest(call_id) => {
            out.put_u16(*call_id);
            out.put_u16(0);
        }
        Message::DisconnectNotify(notify) => disconnect(notify, out),
        Message::WanError(errors) => {
            out.put_u16(errors.peer_call_id);
            out.put_u16(0);
            for count in [
                errors.crc,
                errors.framing,
                errors.hardware,
                errors.buffer,
                errors.timeouts,
                errors.alignment,
            ] {
                out.put_u32(count);
            }
        }
        Message::LinkInfo(info) => {
            out.put_u16(info.peer_call_id);
            out.put_u16(0);
            out.put_u32(info.send);
            out.put_u32(info.receive);
        }
    }
}

fn put_outcome(outcome: Outcome, out: &mut BytesMut) {
    out.put_u8(outcome.result);
    out.put_u8(outcome.error);
}

fn put_text(text: &[u8], size: usize, out: &mut BytesMut) {
    let text = text.get(..size).unwrap_or(text);
    out.extend_from_slice(text);
    out.put_bytes(0, size - text.len());
}

/// The length of a number as it is encoded.
fn length(text: &[u8]) -> u16 {
    u16::try_from(text.len().min(TEXT)).unwrap_or_default()
}

fn put_start(start: &Start, out: &mut BytesMut) {
    out.put_u32(start.framing);
    out.put_u32(start.bearer);
    out.put_u16(start.channels);
    out.put_u16(start.firmware);
    put_text(&start.host, TEXT, out);
    put_text(&start.vendor, TEXT, out);
}

fn outgoing_request(request: &OutgoingRequest, out: &mut BytesMut) {
    out.put_u16(request.call_id);
    out.put_u16(request.serial);
    out.put_u32(request.minimum_bps);
    out.put_u32(request.maximum_bps);
    out.put_u32(request.bearer);
    out.put_u32(request.framing);
    out.put_u16(request.window);
    out.put_u16(request.delay);
    out.put_u16(length(&request.phone));
    out.put_u16(0);
    put_text(&request.phone, TEXT, out);
    put_text(&request.sub_address, TEXT, out);
}

fn outgoing_reply(reply: &OutgoingReply, out: &mut BytesMut) {
    out.put_u16(reply.call_id);
    out.put_u16(reply.peer_call_id);
    put_outcome(reply.outcome, out);
    out.put_u16(reply.cause);
    out.put_u32(reply.speed);
    out.put_u16(reply.window);
    out.put_u16(reply.delay);
    out.put_u32(reply.channel);
}

fn incoming_request(request: &IncomingRequest, out: &mut BytesMut) {
    out.put_u16(request.call_id);
    out.put_u16(request.serial);
    out.put_u32(request.bearer);
    out.put_u32(request.channel);
    out.put_u16(length(&request.dialed));
    out.put_u16(length(&request.dialing));
    put_text(&request.dialed, TEXT, out);
    put_text(&request.dialing, TEXT, out);
    put_text(&request.sub_address, TEXT, out);
}

fn incoming_reply(reply: &IncomingReply, out: &mut BytesMut) {
    out.put_u16(reply.call_id);
    out.put_u16(reply.peer_call_id);
    put_outcome(reply.outcome, out);
    out.put_u16(reply.window);
    out.put_u16(reply.delay);
    out.put_u16(0);
}

fn incoming_connected(connected: &IncomingConnected, out: &mut BytesMut) {
    out.put_u16(connected.peer_call_id);
    out.put_u16(0);
    out.put_u32(connected.speed);
    out.put_u16(connected.window);
    out.put_u16(connected.delay);
    out.put_u32(connected.framing);
}

fn disconnect(notify: &Disconnect, out: &mut BytesMut) {
    out.put_u16(notify.call_id);
    put_outcome(notify.outcome, out);
    out.put_u16(notify.cause);
    out.put_u16(0);
    put_text(&notify.statistics, STATISTICS, out);
}
