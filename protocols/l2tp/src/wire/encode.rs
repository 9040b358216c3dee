//! From a typed message to a body of AVPs.

use super::avp::{AVP_HEADER, MAX_AVP, attribute, kind};
use super::hidden;
use super::message::{Cdn, Connected, Icrq, Message, Ocrq, Reply, Start};
use super::result::ResultCode;
use bytes::{BufMut, BytesMut};
use sluice_auth::Secret;
use sluice_spi::wire::patch_u16;
use sluice_spi::{Entropy, random_bytes};

/// Hides the AVPs of one message.
pub struct Hider<'a> {
    /// The secret shared with the peer.
    pub secret: &'a Secret,
    /// Where random vector and padding come from.
    pub entropy: &'a mut dyn Entropy,
}

/// Encodes a message's body. With a `hider`, every AVP that may be hidden is.
pub fn encode(message: &Message, hider: Option<Hider<'_>>) -> BytesMut {
    let mut writer = Writer {
        out: BytesMut::with_capacity(128),
        hider: None,
        vector: [0; 16],
    };
    writer.u16(kind::MESSAGE_TYPE, message.number());
    if let Some(hider) = hider {
        writer.vector = random_bytes(hider.entropy);
        writer.avp(kind::RANDOM_VECTOR, &writer.vector.clone());
        writer.hider = Some(hider);
    }
    match message {
        Message::Sccrq(start) | Message::Sccrp(start) => writer.start(start),
        Message::Scccn(scccn) => writer.optional(kind::CHALLENGE_RESPONSE, scccn.response.as_ref()),
        Message::StopCcn(stop) => {
            writer.u16(kind::ASSIGNED_TUNNEL_ID, stop.tunnel_id);
            writer.result_code(&stop.result);
        }
        Message::Hello => {}
        Message::Ocrq(ocrq) => writer.ocrq(ocrq),
        Message::Ocrp(reply) | Message::Icrp(reply) => writer.reply(reply),
        Message::Icrq(icrq) => writer.icrq(icrq),
        Message::Iccn(connected) | Message::Occn(connected) => writer.connected(connected),
        Message::Cdn(cdn) => writer.cdn(cdn),
        Message::Wen(errors) => {
            let mut value = [0; 26];
            let (_, mut place) = value.split_at_mut(2);
            for count in [
                errors.crc,
                errors.framing,
                errors.hardware,
                errors.buffer,
                errors.timeouts,
                errors.alignment,
            ] {
                place.put_u32(count);
            }
            writer.avp(kind::CALL_ERRORS, &value);
        }
        Message::Sli(info) => {
            let mut value = [0; 10];
            let (_, mut place) = value.split_at_mut(2);
            place.put_u32(info.send);
            place.put_u32(info.receive);
            writer.avp(kind::ACCM, &value);
        }
    }
    writer.out
}

struct Writer<'a> {
    out: BytesMut,
    hider: Option<Hider<'a>>,
    vector: [u8; 16],
}

impl Writer<'_> {
    /// Appends one AVP with the bits RFC 2661 gives it; a value too long for one is cut.
    fn avp(&mut self, kind: u16, value: &[u8]) {
        let known = attribute(kind);
        let start = self.out.len();
        let mut bits = if known.is_some_and(|known| known.mandatory) {
            0x8000
        } else {
            0
        };
        self.out.put_u16(0);
        self.out.put_u16(0);
        self.out.put_u16(kind);
        match &mut self.hider {
            Some(hider) if known.is_some_and(|known| known.hideable) => {
                bits |= 0x4000;
                let Hider { secret, entropy } = hider;
                hidden::hide(kind, secret, &self.vector, value, &mut **entropy, &mut self.out);
            }
            _ => {
                let length = value.len().min(MAX_AVP - AVP_HEADER);
                self.out.extend_from_slice(&value[..length]);
            }
        }
        let length = u16::try_from(self.out.len() - start).unwrap_or_default();
        patch_u16(&mut self.out, start, bits | length);
    }

    fn u16(&mut self, kind: u16, value: u16) {
        self.avp(kind, &value.to_be_bytes());
    }

    fn u32(&mut self, kind: u16, value: u32) {
        self.avp(kind, &value.to_be_bytes());
    }

    fn optional(&mut self, kind: u16, value: Option<&impl AsRef<[u8]>>) {
        if let Some(value) = value {
            self.avp(kind, value.as_ref());
        }
    }

    fn optional_u16(&mut self, kind: u16, value: Option<u16>) {
        self.optional(kind, value.map(u16::to_be_bytes).as_ref());
    }

    fn optional_u32(&mut self, kind: u16, value: Option<u32>) {
        self.optional(kind, value.map(u32::to_be_bytes).as_ref());
    }

    fn start(&mut self, start: &Start) {
        self.u16(kind::PROTOCOL_VERSION, start.version);
        self.avp(kind::HOST_NAME, &start.host_name);
        self.u32(kind::FRAMING_CAPABILITIES, start.framing);
        self.u16(kind::ASSIGNED_TUNNEL_ID, start.tunnel_id);
        self.optional_u32(kind::BEARER_CAPABILITIES, start.bearer);
        self.optional_u16(kind::FIRMWARE_REVISION, start.firmware);
        self.optional(kind::VENDOR_NAME, start.vendor.as_ref());
        self.optional_u16(kind::RECEIVE_WINDOW_SIZE, start.window);
        self.optional(kind::TIE_BREAKER, start.tie_breaker.as_ref());
        self.optional(kind::CHALLENGE, start.challenge.as_ref());
        self.optional(kind::CHALLENGE_RESPONSE, start.response.as_ref());
    }

    fn icrq(&mut self, icrq: &Icrq) {
        self.u16(kind::ASSIGNED_SESSION_ID, icrq.session_id);
        self.u32(kind::CALL_SERIAL_NUMBER, icrq.serial);
        self.optional_u32(kind::BEARER_TYPE, icrq.bearer);
        self.optional_u32(kind::PHYSICAL_CHANNEL, icrq.channel);
        self.optional(kind::CALLING_NUMBER, icrq.calling.as_ref());
        self.optional(kind::CALLED_NUMBER, icrq.called.as_ref());
        self.optional(kind::SUB_ADDRESS, icrq.sub_address.as_ref());
    }

    fn ocrq(&mut self, ocrq: &Ocrq) {
        self.u16(kind::ASSIGNED_SESSION_ID, ocrq.session_id);
        self.u32(kind::CALL_SERIAL_NUMBER, ocrq.serial);
        self.u32(kind::MINIMUM_BPS, ocrq.minimum_bps);
        self.u32(kind::MAXIMUM_BPS, ocrq.maximum_bps);
        self.u32(kind::BEARER_TYPE, ocrq.bearer);
        self.u32(kind::FRAMING_TYPE, ocrq.framing);
        self.avp(kind::CALLED_NUMBER, &ocrq.called);
        self.optional(kind::SUB_ADDRESS, ocrq.sub_address.as_ref());
    }

    fn reply(&mut self, reply: &Reply) {
        self.u16(kind::ASSIGNED_SESSION_ID, reply.session_id);
        self.optional_u32(kind::PHYSICAL_CHANNEL, reply.channel);
    }

    fn connected(&mut self, connected: &Connected) {
        let proxy = &connected.proxy;
        self.u32(kind::TX_CONNECT_SPEED, connected.tx_speed);
        self.u32(kind::FRAMING_TYPE, connected.framing);
        self.optional(kind::INITIAL_RECEIVED_CONFREQ, proxy.initial_received.as_ref());
        self.optional(kind::LAST_SENT_CONFREQ, proxy.last_sent.as_ref());
        self.optional(kind::LAST_RECEIVED_CONFREQ, proxy.last_received.as_ref());
        self.optional_u16(kind::PROXY_AUTHEN_TYPE, proxy.auth_type);
        self.optional(kind::PROXY_AUTHEN_NAME, proxy.name.as_ref());
        self.optional(kind::PROXY_AUTHEN_CHALLENGE, proxy.challenge.as_ref());
        self.optional_u16(kind::PROXY_AUTHEN_ID, proxy.id);
        self.optional(kind::PROXY_AUTHEN_RESPONSE, proxy.response.as_ref());
        self.optional(kind::PRIVATE_GROUP, connected.private_group.as_ref());
        self.optional_u32(kind::RX_CONNECT_SPEED, connected.rx_speed);
        if connected.sequencing_required {
            self.avp(kind::SEQUENCING_REQUIRED, &[]);
        }
    }

    fn result_code(&mut self, result: &ResultCode) {
        let mut value = BytesMut::new();
        value.put_u16(result.result);
        if let Some(error) = result.error {
            value.put_u16(error);
            value.extend_from_slice(result.message.as_bytes());
        }
        self.avp(kind::RESULT_CODE, &value);
    }

    fn cdn(&mut self, cdn: &Cdn) {
        self.result_code(&cdn.result);
        self.u16(kind::ASSIGNED_SESSION_ID, cdn.session_id);
        if let Some(q931) = &cdn.q931 {
            let mut value = BytesMut::new();
            value.put_u16(q931.code);
            value.put_u8(q931.message);
            value.extend_from_slice(q931.advisory.as_bytes());
            self.avp(kind::Q931_CAUSE, &value);
        }
        if let Some(cause) = &cdn.disconnect {
            let mut value = BytesMut::new();
            value.put_u16(cause.code);
            value.put_u16(cause.protocol);
            value.put_u8(cause.direction);
            value.extend_from_slice(cause.message.as_bytes());
            self.avp(kind::PPP_DISCONNECT_CAUSE, &value);
        }
    }
}
