//! Enhanced GRE: version 1, with an acknowledgement number (RFC 2637, 4.1).

use bytes::{BufMut, BytesMut};
use sluice_spi::wire::Reader;
use std::ops::Range;

/// The number of GRE among IP protocols.
pub const IP_PROTOCOL: u8 = 47;
/// Octets of the longest header.
pub const MAX_HEADER: usize = 16;
/// The protocol type of PPP.
pub const PROTOCOL: u16 = 0x880b;

const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const ACKNOWLEDGEMENT: u16 = 0x0080;
const VERSION: u16 = 0x0001;
/// The bits that are always the same: all but the two that say which numbers there are.
pub(crate) const FIXED: u16 = !(SEQUENCE | ACKNOWLEDGEMENT);

/// What [`FIXED`] leaves of the flags of a packet that is ours.
pub(crate) const FLAGS: u16 = KEY | VERSION;

/// A header, and where its payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The receiver's name of the call.
    pub call_id: u16,
    /// The number of the payload; `None`: there is none.
    pub sequence: Option<u32>,
    /// The highest number that the sender has received.
    pub acknowledged: Option<u32>,
    /// The payload's place in the packet.
    pub payload: Range<usize>,
}

/// The call that a packet belongs to; `None`: it is no packet of PPTP.
#[inline]
pub fn call_id(packet: &[u8]) -> Option<u16> {
    let [f0, f1, p0, p1, _, _, c0, c1] = *packet.first_chunk::<8>()?;
    let ours = u16::from_be_bytes([f0, f1]) & FIXED == FLAGS && u16::from_be_bytes([p0, p1]) == PROTOCOL;
    ours.then(|| u16::from_be_bytes([c0, c1]))
}

impl Header {
    /// Decodes the header of a packet. `None`: bits are set that must not be, the payload is longer than the packet,
    /// or it has no number, or a number has no payload. What follows the payload is not looked at.
    #[inline]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let call_id = call_id(packet)?;
        let mut reader = Reader::new(packet);
        let flags = reader.u16().ok()?;
        reader.u16().ok()?;
        let length = usize::from(reader.u16().ok()?);
        reader.u16().ok()?;
        let number = |reader: &mut Reader<'_>, flag: u16| match flags & flag {
            0 => Some(None),
            _ => reader.u32().ok().map(Some),
        };
        let sequence = number(&mut reader, SEQUENCE)?;
        let acknowledged = number(&mut reader, ACKNOWLEDGEMENT)?;
        let start = packet.len() - reader.len();
        let whole = length <= reader.len() && sequence.is_some() == (length > 0);
        whole.then(|| Self {
            call_id,
            sequence,
            acknowledged,
            payload: start..start + length,
        })
    }
}

/// Appends a header for a payload that is to follow; gives where it begins, for [`finish`].
#[inline]
pub fn put(call_id: u16, sequence: Option<u32>, acknowledged: Option<u32>, out: &mut BytesMut) -> usize {
    let start = out.len();
    let has = |number: Option<u32>, flag| if number.is_some() { flag } else { 0 };
    out.put_u16(KEY | VERSION | has(sequence, SEQUENCE) | has(acknowledged, ACKNOWLEDGEMENT));
    out.put_u16(PROTOCOL);
    out.put_u16(0);
    out.put_u16(call_id);
    for number in [sequence, acknowledged].into_iter().flatten() {
        out.put_u32(number);
    }
    start
}

/// Sets the payload's length, once it follows a header that begins at `start` and has `numbers` numbers.
#[inline]
pub fn finish(start: usize, numbers: usize, out: &mut BytesMut) {
    let length = out.len().saturating_sub(start + 8 + 4 * numbers);
    sluice_spi::wire::patch_u16(out, start + 4, u16::try_from(length).unwrap_or(u16::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: Option<u32>, acknowledged: Option<u32>, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::from(&b"before"[..]);
        let start = put(0x1234, sequence, acknowledged, &mut out);
        out.extend_from_slice(payload);
        let numbers = [sequence, acknowledged].into_iter().flatten().count();
        finish(start, numbers, &mut out);
        out.split_off(start)
    }

    #[test]
    fn every_mix_of_numbers() {
        let bytes = packet(Some(7), Some(9), b"ab");
        assert_eq!(
            bytes[..],
            [
                0x30, 0x81, 0x88, 0x0b, 0, 2, 0x12, 0x34, 0, 0, 0, 7, 0, 0, 0, 9, b'a', b'b'
            ]
        );
        for (sequence, acknowledged, payload) in [
            (Some(7), Some(9), &b"ab"[..]),
            (Some(u32::MAX), None, b"x"),
            (None, Some(3), b""),
            (None, None, b""),
        ] {
            let bytes = packet(sequence, acknowledged, payload);
            let header = Header::decode(&bytes).unwrap();
            assert_eq!(
                (header.call_id, header.sequence, header.acknowledged),
                (0x1234, sequence, acknowledged)
            );
            assert_eq!(&bytes[header.payload], payload);
            assert_eq!(call_id(&bytes), Some(0x1234));
        }
    }

    #[test]
    fn r29_only_what_the_rfc_allows_is_taken() {
        let good = packet(Some(7), None, b"ab");
        assert!(Header::decode(&good).is_some());
        for bit in 0..32 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 0x80 >> (bit % 8);
            // Sequence and acknowledgement may be there or not; their absence makes this packet wrong all the same.
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(Header::decode(&good[..length]), None, "{length} octets");
        }
        // Longer than its payload: padding of the link below.
        let longer = [&good[..], &[0; 20]].concat();
        assert_eq!(Header::decode(&longer).unwrap().payload, 12..14);
        assert_eq!(Header::decode(&packet(Some(1), None, b"")), None);
        assert_eq!(Header::decode(&packet(None, Some(1), b"x")), None);
    }
}
