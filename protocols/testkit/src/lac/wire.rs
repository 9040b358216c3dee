//! L2TP messages as this LAC writes and reads them (RFC 2661, 3 and 4), by code of its own.

use md5::{Digest, Md5};

/// Control message types (RFC 2661, 3.2).
pub mod message {
    #![allow(missing_docs)]
    pub const SCCRQ: u16 = 1;
    pub const SCCRP: u16 = 2;
    pub const SCCCN: u16 = 3;
    pub const STOPCCN: u16 = 4;
    pub const HELLO: u16 = 6;
    pub const ICRQ: u16 = 10;
    pub const ICRP: u16 = 11;
    pub const ICCN: u16 = 12;
    pub const CDN: u16 = 14;
    pub const WEN: u16 = 15;
    pub const SLI: u16 = 16;
}

/// AVP types (RFC 2661, 4.4).
pub mod avp {
    #![allow(missing_docs)]
    pub const MESSAGE_TYPE: u16 = 0;
    pub const RESULT_CODE: u16 = 1;
    pub const PROTOCOL_VERSION: u16 = 2;
    pub const FRAMING_CAPABILITIES: u16 = 3;
    pub const BEARER_CAPABILITIES: u16 = 4;
    pub const HOST_NAME: u16 = 7;
    pub const VENDOR_NAME: u16 = 8;
    pub const ASSIGNED_TUNNEL_ID: u16 = 9;
    pub const RECEIVE_WINDOW_SIZE: u16 = 10;
    pub const CHALLENGE: u16 = 11;
    pub const CHALLENGE_RESPONSE: u16 = 13;
    pub const ASSIGNED_SESSION_ID: u16 = 14;
    pub const CALL_SERIAL_NUMBER: u16 = 15;
    pub const FRAMING_TYPE: u16 = 19;
    pub const CALLED_NUMBER: u16 = 21;
    pub const CALLING_NUMBER: u16 = 22;
    pub const TX_CONNECT_SPEED: u16 = 24;
    pub const RANDOM_VECTOR: u16 = 36;
}

/// Flags and version of every control message: T, L and S set, version 2.
const CONTROL: u16 = 0xc802;
/// Flags and version of the data messages sent: L set.
const DATA: u16 = 0x4002;
const TYPE_BIT: u16 = 0x8000;
const LENGTH_BIT: u16 = 0x4000;
const SEQUENCE_BIT: u16 = 0x0800;
const OFFSET_BIT: u16 = 0x0200;
const MANDATORY: u16 = 0x8000;
const HIDDEN: u16 = 0x4000;
const AVP_HEADER: usize = 6;
/// Bytes of a control header, which is a whole ZLB.
pub const CONTROL_HEADER: usize = 12;

/// A packet as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A control message.
    Control {
        /// Receiver's tunnel id.
        tunnel: u16,
        /// Receiver's session id; 0 for the tunnel itself.
        session: u16,
        /// Its sequence number.
        ns: u16,
        /// The sequence number its sender expects next.
        nr: u16,
        /// The AVPs; empty in a ZLB.
        body: &'a [u8],
    },
    /// A data message.
    Data {
        /// Receiver's tunnel id.
        tunnel: u16,
        /// Receiver's session id.
        session: u16,
        /// The PPP frame, with whatever header it came with.
        frame: &'a [u8],
    },
}

fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (taken, rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*taken))
}

/// Reads a packet; `None` for what is no L2TPv2 packet.
pub fn parse(packet: &[u8]) -> Option<Packet<'_>> {
    let mut rest = packet;
    let flags = take_u16(&mut rest)?;
    if flags & 0xf != 2 {
        return None;
    }
    if flags & LENGTH_BIT != 0 {
        let length = usize::from(take_u16(&mut rest)?);
        let read = packet.len() - rest.len();
        rest = rest.get(..length.checked_sub(read)?)?;
    }
    let (tunnel, session) = (take_u16(&mut rest)?, take_u16(&mut rest)?);
    let sequence = if flags & SEQUENCE_BIT != 0 {
        Some((take_u16(&mut rest)?, take_u16(&mut rest)?))
    } else {
        None
    };
    if flags & TYPE_BIT != 0 {
        let (ns, nr) = sequence.filter(|_| flags & LENGTH_BIT != 0)?;
        return Some(Packet::Control {
            tunnel,
            session,
            ns,
            nr,
            body: rest,
        });
    }
    if flags & OFFSET_BIT != 0 {
        let offset = usize::from(take_u16(&mut rest)?);
        rest = rest.get(offset..)?;
    }
    Some(Packet::Data {
        tunnel,
        session,
        frame: rest,
    })
}

/// Receiver's tunnel id of a packet, for finding whose it is.
pub fn tunnel_of(packet: &[u8]) -> Option<u16> {
    match parse(packet)? {
        Packet::Control { tunnel, .. } | Packet::Data { tunnel, .. } => Some(tunnel),
    }
}

/// A control message around `body`, which is the concatenation of its AVPs; empty for a ZLB.
pub fn control(tunnel: u16, session: u16, ns: u16, nr: u16, body: &[u8]) -> Vec<u8> {
    let length = (CONTROL_HEADER + body.len()) as u16;
    let mut out = Vec::with_capacity(usize::from(length));
    for field in [CONTROL, length, tunnel, session, ns, nr] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(body);
    out
}

/// A data message around a PPP frame.
pub fn data(tunnel: u16, session: u16, frame: &[u8]) -> Vec<u8> {
    let length = (8 + frame.len()) as u16;
    let mut out = Vec::with_capacity(usize::from(length));
    for field in [DATA, length, tunnel, session] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    out.extend_from_slice(frame);
    out
}

/// A message body in the making.
#[derive(Debug)]
pub struct Body(Vec<u8>);

impl Body {
    /// Starts with the message type.
    pub fn new(message: u16) -> Self {
        Self(Vec::new()).with(avp::MESSAGE_TYPE, &message.to_be_bytes())
    }

    /// Adds a mandatory AVP.
    pub fn with(self, kind: u16, value: &[u8]) -> Self {
        self.flagged(MANDATORY, kind, value)
    }

    /// Adds an AVP that the receiver may ignore.
    pub fn optional(self, kind: u16, value: &[u8]) -> Self {
        self.flagged(0, kind, value)
    }

    /// Adds a mandatory AVP whose value is hidden by `secret` and `vector` (RFC 2661, 4.3), with `padding` bytes
    /// of padding; the Random Vector itself must come before it.
    pub fn hidden(self, kind: u16, value: &[u8], secret: &[u8], vector: &[u8], padding: usize) -> Self {
        let mut plain = (value.len() as u16).to_be_bytes().to_vec();
        plain.extend_from_slice(value);
        plain.resize(plain.len() + padding, 0);
        let mut mask = digest(&[&kind.to_be_bytes(), secret, vector]);
        for block in plain.chunks_mut(16) {
            for (byte, mask) in block.iter_mut().zip(mask) {
                *byte ^= mask;
            }
            mask = digest(&[secret, block]);
        }
        self.flagged(MANDATORY | HIDDEN, kind, &plain)
    }

    fn flagged(mut self, flags: u16, kind: u16, value: &[u8]) -> Self {
        let length = (AVP_HEADER + value.len()) as u16 & 0x03ff;
        for field in [flags | length, 0, kind] {
            self.0.extend_from_slice(&field.to_be_bytes());
        }
        self.0.extend_from_slice(value);
        self
    }

    /// The finished body.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The AVPs of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Avps<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Avps<'a> {
    /// Reads them; `None` where the body is not well formed or holds a hidden AVP, which this LAC only sends.
    pub fn parse(mut body: &'a [u8]) -> Option<Self> {
        let mut avps = Vec::new();
        while !body.is_empty() {
            let mut rest = body;
            let flags = take_u16(&mut rest)?;
            let length = usize::from(flags & 0x03ff);
            let vendor = take_u16(&mut rest)?;
            let kind = take_u16(&mut rest)?;
            let value = body.get(AVP_HEADER..length)?;
            if flags & HIDDEN != 0 {
                return None;
            }
            if vendor == 0 {
                avps.push((kind, value));
            }
            body = body.get(length..)?;
        }
        Some(Self(avps))
    }

    /// The value of an AVP.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0
            .iter()
            .find(|(found, _)| *found == kind)
            .map(|&(_, value)| value)
    }

    /// The value of a 16-bit AVP.
    pub fn u16(&self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The message type, which must come first.
    pub fn message_type(&self) -> Option<u16> {
        self.0.first().filter(|(kind, _)| *kind == avp::MESSAGE_TYPE)?;
        self.u16(avp::MESSAGE_TYPE)
    }

    /// Result and error code of a StopCCN or CDN.
    pub fn result(&self) -> Option<(u16, u16)> {
        let mut value = self.get(avp::RESULT_CODE)?;
        let result = take_u16(&mut value)?;
        Some((result, take_u16(&mut value).unwrap_or(0)))
    }
}

/// MD5 over pieces.
fn digest(pieces: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for piece in pieces {
        md5.update(piece);
    }
    md5.finalize().into()
}

/// The answer to a tunnel challenge, in the message of type `message` (RFC 2661, 4.4.3).
pub fn challenge_response(message: u16, secret: &[u8], challenge: &[u8]) -> [u8; 16] {
    digest(&[&[message as u8], secret, challenge])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::hex;

    #[test]
    fn messages_are_laid_out_as_in_the_rfc() {
        // RFC 2661, 3.1 and 4.1, by hand: HELLO to tunnel 5 with Ns 2, Nr 3.
        let hello = control(5, 0, 2, 3, &Body::new(message::HELLO).finish());
        assert_eq!(
            hello,
            hex("c802 0014 0005 0000 0002 0003 8008 0000 0000 0006").unwrap()
        );
        assert_eq!(data(1, 2, &[0xff, 3]), hex("4002 000a 0001 0002 ff03").unwrap());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body = Body::new(message::ICRP)
            .with(avp::ASSIGNED_SESSION_ID, &[1, 2])
            .finish();
        let bytes = control(9, 8, 7, 6, &body);
        assert_eq!(
            parse(&bytes),
            Some(Packet::Control {
                tunnel: 9,
                session: 8,
                ns: 7,
                nr: 6,
                body: &body
            })
        );
        let avps = Avps::parse(&body).unwrap();
        assert_eq!(
            (avps.message_type(), avps.u16(avp::ASSIGNED_SESSION_ID)),
            (Some(11), Some(0x0102))
        );
        assert_eq!(tunnel_of(&data(3, 4, b"x")), Some(3));
    }

    #[test]
    fn all_shapes_of_data_headers_are_read() {
        for (text, frame) in [
            ("0002 0001 0002 aabb", "aabb"),
            ("4002 000a 0001 0002 aabb ffff", "aabb"),
            ("0802 0001 0002 0005 0006 aabb", "aabb"),
            ("0202 0001 0002 0003 000000 aabb", "aabb"),
            ("4a02 0012 0001 0002 0005 0006 0002 0000 aabb", "aabb"),
        ] {
            let bytes = hex(text).unwrap();
            let frame = hex(frame).unwrap();
            assert_eq!(
                parse(&bytes),
                Some(Packet::Data {
                    tunnel: 1,
                    session: 2,
                    frame: &frame
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn damage_never_panics() {
        let body = Body::new(1)
            .with(7, b"name")
            .hidden(9, &[0, 1], b"secret", b"vector", 3)
            .finish();
        let whole = control(1, 2, 3, 4, &body);
        for damaged in crate::mutate::all(&whole, 1, 2000) {
            if let Some(Packet::Control { body, .. }) = parse(&damaged) {
                let _ = Avps::parse(body).map(|avps| avps.result());
            }
        }
    }

    #[test]
    fn hiding_is_undone_by_the_same_key_stream() {
        let (secret, vector) = (b"tunnel secret", [7u8; 16]);
        let value: Vec<u8> = (0..40).collect();
        let body = Body(Vec::new()).hidden(9, &value, secret, &vector, 5).finish();
        assert_eq!(body.len(), 6 + 2 + 40 + 5);
        let mut open = Vec::new();
        let mut mask = digest(&[&[0, 9], secret, &vector]);
        for block in body[6..].chunks(16) {
            open.extend(block.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
            mask = digest(&[secret, block]);
        }
        assert_eq!((&open[..2], &open[2..42]), (&[0u8, 40][..], &value[..]));
    }
}
