//! The L2TP header (RFC 2661, 3.1) of control and data messages.

use bytes::{BufMut, BytesMut};
use sluice_spi::wire::{Reader, Truncated, patch_u16};
use std::ops::Range;

/// Octets of every control header: flags, length, tunnel id, session id, Ns, Nr.
pub const CONTROL_HEADER: usize = 12;
/// Longest control message accepted, in octets. The longest that means anything, an ICCN with every proxy AVP,
/// is far below; the limit bounds what an out-of-order queue can hold.
pub const MAX_CONTROL: usize = 8192;

const FLAG_CONTROL: u16 = 0x8000;
/// Flag of a header with a length field.
pub const FLAG_LENGTH: u16 = 0x4000;
/// Flag of a header with sequence numbers.
pub const FLAG_SEQUENCE: u16 = 0x0800;
/// Flag of a header with an offset field.
pub const FLAG_OFFSET: u16 = 0x0200;
const FLAG_PRIORITY: u16 = 0x0100;
const VERSION_MASK: u16 = 0x000f;
/// Version nibble of L2TPv2.
pub const VERSION: u16 = 2;
const CONTROL_FLAGS: u16 = FLAG_CONTROL | FLAG_LENGTH | FLAG_SEQUENCE | VERSION;
const CONTROL_CHECKED: u16 = CONTROL_FLAGS | FLAG_OFFSET | FLAG_PRIORITY | VERSION_MASK;

/// Which of the protocols that share UDP port 1701 a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A control message of L2TPv2.
    Control,
    /// A data message of L2TPv2.
    Data,
    /// L2F (RFC 2341), whose version has three bits.
    L2f,
    /// L2TPv3 (RFC 3931).
    L2tpV3,
    /// None of them.
    Unknown,
}

/// Tells the protocols apart by the version in the first two octets.
pub fn family(packet: &[u8]) -> Family {
    let Some(&[high, low]) = packet.first_chunk::<2>() else {
        return Family::Unknown;
    };
    match u16::from(low) & VERSION_MASK {
        VERSION if high & 0x80 != 0 => Family::Control,
        VERSION => Family::Data,
        3 => Family::L2tpV3,
        _ if low & 0x07 == 1 => Family::L2f,
        _ => Family::Unknown,
    }
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The packet is shorter than its header says.
    #[error("truncated header")]
    Truncated,
    /// The flags are not those of such a message.
    #[error("flags not allowed")]
    Flags,
    /// The length field contradicts the packet.
    #[error("wrong length")]
    Length,
    /// The offset points behind the end.
    #[error("offset behind the end")]
    Offset,
}

impl From<Truncated> for HeaderError {
    fn from(_: Truncated) -> Self {
        HeaderError::Truncated
    }
}

/// The header of a control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlHeader {
    /// The receiver's tunnel id; 0 before it is known.
    pub tunnel: u16,
    /// The receiver's session id; 0 for messages of the tunnel, or before it is known.
    pub session: u16,
    /// Number of this message.
    pub ns: u16,
    /// Number of the message expected next from the receiver.
    pub nr: u16,
}

impl ControlHeader {
    /// Reads the header of a control message and gives it with the AVPs behind it; octets behind the stated
    /// length are ignored. The flags must be exactly those of a control message, reserved bits aside.
    pub fn decode(packet: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let mut reader = Reader::new(packet);
        let flags = reader.u16()?;
        if flags & CONTROL_CHECKED != CONTROL_FLAGS {
            return Err(HeaderError::Flags);
        }
        let length = usize::from(reader.u16()?);
        if !(CONTROL_HEADER..=MAX_CONTROL).contains(&length) || length > packet.len() {
            return Err(HeaderError::Length);
        }
        let header = Self {
            tunnel: reader.u16()?,
            session: reader.u16()?,
            ns: reader.u16()?,
            nr: reader.u16()?,
        };
        let body = reader.take(length - CONTROL_HEADER)?;
        Ok((header, body))
    }

    /// Appends the header and `body` to `out`, and says how many octets that were.
    pub fn encode(&self, body: &[u8], out: &mut BytesMut) -> usize {
        let length = CONTROL_HEADER + body.len();
        out.reserve(length);
        out.put_u16(CONTROL_FLAGS);
        out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
        out.put_u16(self.tunnel);
        out.put_u16(self.session);
        out.put_u16(self.ns);
        out.put_u16(self.nr);
        out.extend_from_slice(body);
        length
    }
}

/// The header of a data message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The receiver's tunnel id.
    pub tunnel: u16,
    /// The receiver's session id.
    pub session: u16,
    /// Number of the message, where it has one. Nr is reserved in data messages and never looked at.
    pub ns: Option<u16>,
    /// Where the payload is.
    pub payload: Range<usize>,
}

impl DataHeader {
    /// Reads the header of a data message, with length, sequence and offset in any mix.
    #[inline]
    pub fn decode(packet: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(packet);
        let flags = reader.u16()?;
        if flags & (FLAG_CONTROL | VERSION_MASK) != VERSION {
            return Err(HeaderError::Flags);
        }
        let end = if flags & FLAG_LENGTH != 0 {
            usize::from(reader.u16()?)
        } else {
            packet.len()
        };
        if end > packet.len() {
            return Err(HeaderError::Length);
        }
        let tunnel = reader.u16()?;
        let session = reader.u16()?;
        let mut ns = None;
        if flags & FLAG_SEQUENCE != 0 {
            ns = Some(reader.u16()?);
            reader.u16()?;
        }
        let mut pad = 0;
        if flags & FLAG_OFFSET != 0 {
            pad = usize::from(reader.u16()?);
        }
        let header = packet.len() - reader.len();
        // A length that does not even cover the header is wrong, whatever follows.
        let left = end.checked_sub(header).ok_or(HeaderError::Length)?;
        if pad > left {
            return Err(HeaderError::Offset);
        }
        Ok(Self {
            tunnel,
            session,
            ns,
            payload: header + pad..end,
        })
    }
}

/// Tunnel and session id of a data message, without looking at the rest.
#[inline]
pub fn data_ids(packet: &[u8]) -> Option<(u16, u16)> {
    let mut reader = Reader::new(packet);
    if reader.u16().ok()? & FLAG_LENGTH != 0 {
        reader.u16().ok()?;
    }
    Some((reader.u16().ok()?, reader.u16().ok()?))
}

/// Writes headers of data messages towards one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataTemplate {
    tunnel: u16,
    session: u16,
    with_length: bool,
}

/// Most octets that [`DataTemplate::put`] appends.
pub const MAX_DATA_HEADER: usize = 12;

impl DataTemplate {
    /// A template for the peer's tunnel and session id, with or without the optional length field.
    pub fn new(tunnel: u16, session: u16, with_length: bool) -> Self {
        Self {
            tunnel,
            session,
            with_length,
        }
    }

    /// Size of a header without sequence numbers, in octets.
    pub fn size(&self) -> usize {
        if self.with_length { 8 } else { 6 }
    }

    /// Appends a header, with sequence numbers where `ns` is given, and gives what [`DataTemplate::finish`]
    /// wants.
    #[inline]
    pub fn put(&self, ns: Option<u16>, out: &mut BytesMut) -> usize {
        let start = out.len();
        let mut header = [0u8; MAX_DATA_HEADER];
        let mut place = &mut header[..];
        let mut flags = VERSION;
        if self.with_length {
            flags |= FLAG_LENGTH;
        }
        if ns.is_some() {
            flags |= FLAG_SEQUENCE;
        }
        place.put_u16(flags);
        if self.with_length {
            place.put_u16(0);
        }
        place.put_u16(self.tunnel);
        place.put_u16(self.session);
        if let Some(ns) = ns {
            place.put_u16(ns);
            place.put_u16(0);
        }
        let unused = place.len();
        out.extend_from_slice(header.split_at(MAX_DATA_HEADER - unused).0);
        start
    }

    /// Fills in the length once the payload follows the header that began at `start`.
    #[inline]
    pub fn finish(&self, start: usize, out: &mut BytesMut) {
        if self.with_length {
            let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
            patch_u16(out, start + 2, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_header_round_trip() {
        let header = ControlHeader {
            tunnel: 5,
            session: 6,
            ns: 7,
            nr: 8,
        };
        let mut out = BytesMut::new();
        assert_eq!(header.encode(b"body", &mut out), 16);
        assert_eq!(ControlHeader::decode(&out), Ok((header, &b"body"[..])));
    }

    #[test]
    fn r06_control_flags_are_strict_and_reserved_bits_ignored() {
        let good = [0xc8, 0x02, 0, 12, 0, 1, 0, 0, 0, 0, 0, 0];
        assert!(ControlHeader::decode(&good).is_ok());
        for bit in 0..16 {
            let mut packet = good;
            let flag = 1u16 << bit;
            let flags = u16::from_be_bytes([packet[0], packet[1]]) ^ flag;
            packet[..2].copy_from_slice(&flags.to_be_bytes());
            let reserved = flag & 0x34f0 != 0;
            assert_eq!(ControlHeader::decode(&packet).is_ok(), reserved, "bit {bit}");
        }
    }

    #[test]
    fn r03_lengths_are_compared_with_what_is_there() {
        let mut packet = vec![0xc8, 0x02, 0, 12, 0, 1, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb];
        assert_eq!(ControlHeader::decode(&packet).unwrap().1, b"");
        packet[3] = 11;
        assert_eq!(ControlHeader::decode(&packet), Err(HeaderError::Length));
        packet[3] = 15;
        assert_eq!(ControlHeader::decode(&packet), Err(HeaderError::Length));
        for length in 0..12 {
            assert!(ControlHeader::decode(&packet[..length]).is_err());
        }
    }

    #[test]
    fn data_header_in_every_mix() {
        for mix in 0..8u16 {
            let (length, sequence, offset) = (mix & 1 != 0, mix & 2 != 0, mix & 4 != 0);
            let mut packet = BytesMut::new();
            let mut flags = VERSION | FLAG_PRIORITY;
            flags |= if length { FLAG_LENGTH } else { 0 };
            flags |= if sequence { FLAG_SEQUENCE } else { 0 };
            flags |= if offset { FLAG_OFFSET } else { 0 };
            packet.put_u16(flags);
            if length {
                packet.put_u16(0);
            }
            packet.put_u32(0x0011_0022);
            if sequence {
                packet.put_u32(0x0007_ffff);
            }
            if offset {
                packet.put_u16(3);
                packet.put_slice(b"pad");
            }
            packet.put_slice(b"payload");
            let total = u16::try_from(packet.len()).unwrap();
            if length {
                patch_u16(&mut packet, 2, total);
                packet.put_slice(b"trailer");
            }
            let header = DataHeader::decode(&packet).unwrap();
            assert_eq!((header.tunnel, header.session), (0x11, 0x22));
            assert_eq!(header.ns, sequence.then_some(7));
            assert_eq!(&packet[header.payload], b"payload", "mix {mix}");
            assert_eq!(data_ids(&packet), Some((0x11, 0x22)));
        }
    }

    #[test]
    fn offset_is_compared_with_what_is_left_after_the_header() {
        // 8 octets of header, 4 behind it: an offset of 5 still lies inside the packet as a whole.
        let packet = [0x02, 0x02, 0, 1, 0, 1, 0, 5, 1, 2, 3, 4];
        assert_eq!(DataHeader::decode(&packet), Err(HeaderError::Offset));
        let exact = [0x02, 0x02, 0, 1, 0, 1, 0, 4, 1, 2, 3, 4];
        assert_eq!(DataHeader::decode(&exact).unwrap().payload, 12..12);
    }

    #[test]
    fn templates_decode_back() {
        for with_length in [false, true] {
            for ns in [None, Some(9)] {
                let template = DataTemplate::new(3, 4, with_length);
                let mut out = BytesMut::from(&b"before"[..]);
                let start = template.put(ns, &mut out);
                out.extend_from_slice(b"ppp");
                template.finish(start, &mut out);
                let packet = &out[start..];
                let header = DataHeader::decode(packet).unwrap();
                assert_eq!((header.tunnel, header.session, header.ns), (3, 4, ns));
                assert_eq!(&packet[header.payload], b"ppp");
            }
        }
    }

    #[test]
    fn versions_on_one_port_are_told_apart() {
        assert_eq!(family(&[0xc8, 0x02]), Family::Control);
        assert_eq!(family(&[0x40, 0x02]), Family::Data);
        assert_eq!(family(&[0xc8, 0x03]), Family::L2tpV3);
        assert_eq!(family(&[0x00, 0x03]), Family::L2tpV3);
        assert_eq!(family(&[0xd0, 0x01]), Family::L2f);
        assert_eq!(family(&[0xd0, 0x09]), Family::L2f);
        assert_eq!(family(&[0x80, 0x00]), Family::Unknown);
        assert_eq!(family(&[0x80]), Family::Unknown);
    }
}
