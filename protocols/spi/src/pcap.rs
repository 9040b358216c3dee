//! Writing captures in the libpcap file format (draft-ietf-opsawg-pcap), so that any analyser can read what a
//! machine sent and received. Pure: it appends bytes to a buffer that its caller stores or streams.

use bytes::{BufMut, BytesMut};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Magic number of a file whose time stamps count nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
/// Bytes of each packet that are kept at the most: the largest IP packet.
pub const SNAP_LENGTH: u32 = 65_535;
/// Bytes of the file header.
pub const HEADER_LENGTH: usize = 24;
/// Bytes before each packet.
pub const RECORD_LENGTH: usize = 16;

const UDP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const PROTOCOL_UDP: u8 = 17;
/// Hop limit and time to live of synthesised headers: the value hosts use by default.
const HOPS: u8 = 64;

/// What the packets of a capture start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LinkType {
    /// An IPv4 or IPv6 header, told apart by its first nibble (LINKTYPE_RAW).
    Raw = 101,
    /// One octet, 0 for received and 1 for sent, then a PPP frame with or without address and control
    /// (LINKTYPE_PPP_WITH_DIR).
    PppWithDirection = 204,
}

/// Appends the header of a file.
pub fn put_header(link: LinkType, out: &mut BytesMut) {
    out.put_u32(MAGIC_NANOSECONDS);
    out.put_u16(VERSION.0);
    out.put_u16(VERSION.1);
    out.put_u32(0); // time zone: UTC
    out.put_u32(0); // accuracy of time stamps: always 0
    out.put_u32(SNAP_LENGTH);
    out.put_u32(link as u32);
}

/// Appends one packet, cut at [`SNAP_LENGTH`]. `at` is the time since 1970-01-01 UTC; seconds beyond 2106 wrap.
pub fn put_packet(at: Duration, packet: &[u8], out: &mut BytesMut) {
    let kept = packet.len().min(SNAP_LENGTH as usize);
    out.put_u32((at.as_secs() & u64::from(u32::MAX)) as u32);
    out.put_u32(at.subsec_nanos());
    out.put_u32(kept as u32);
    out.put_u32(u32::try_from(packet.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(packet.get(..kept).unwrap_or(packet));
}

/// Appends a PPP frame to a capture of [`LinkType::PppWithDirection`]. `frame` is protocol field and
/// information; address and control are added so that every analyser recognises it.
pub fn put_ppp(at: Duration, sent: bool, frame: &[u8], out: &mut BytesMut) {
    let mut packet = BytesMut::with_capacity(3 + frame.len());
    packet.put_u8(u8::from(sent));
    packet.put_u16(0xff03);
    packet.extend_from_slice(frame);
    put_packet(at, &packet, out);
}

/// Appends a datagram to a capture of [`LinkType::Raw`], with IP and UDP headers made for it. False, and nothing
/// is appended, where the addresses are of different families or the payload fits no datagram.
pub fn put_udp(at: Duration, from: SocketAddr, to: SocketAddr, payload: &[u8], out: &mut BytesMut) -> bool {
    let mut packet = BytesMut::with_capacity(40 + UDP_HEADER + payload.len());
    let made = udp_packet(from, to, payload, &mut packet);
    if made {
        put_packet(at, &packet, out);
    }
    made
}

/// Appends an IP packet with one UDP datagram and right checksums. False, and nothing is appended, where the
/// addresses are of different families or the payload fits no datagram.
pub fn udp_packet(from: SocketAddr, to: SocketAddr, payload: &[u8], out: &mut BytesMut) -> bool {
    let Ok(udp_length) = u16::try_from(UDP_HEADER + payload.len()) else {
        return false;
    };
    let mut sum = Checksum::default();
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let Some(total) = udp_length.checked_add(IPV4_HEADER as u16) else {
                return false;
            };
            let mut header = [0u8; IPV4_HEADER];
            let fields = [
                &[0x45, 0][..],
                &total.to_be_bytes(),
                &[0, 0, 0x40, 0, HOPS, PROTOCOL_UDP, 0, 0],
                &source.octets(),
                &target.octets(),
            ];
            for (place, byte) in header.iter_mut().zip(fields.into_iter().flatten()) {
                *place = *byte;
            }
            let mut header_sum = Checksum::default();
            header_sum.add(&header);
            header[10..12].copy_from_slice(&header_sum.finish().to_be_bytes());
            out.extend_from_slice(&header);
            sum.add(&source.octets());
            sum.add(&target.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            out.put_u32(0x6000_0000);
            out.put_u16(udp_length);
            out.put_u8(PROTOCOL_UDP);
            out.put_u8(HOPS);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&target.octets());
            sum.add(&source.octets());
            sum.add(&target.octets());
        }
        _ => return false,
    }
    let mut header = [0u8; UDP_HEADER];
    header[0..2].copy_from_slice(&from.port().to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[4..6].copy_from_slice(&udp_length.to_be_bytes());
    sum.add(&[0, PROTOCOL_UDP]);
    sum.add(&udp_length.to_be_bytes());
    sum.add(&header);
    sum.add(payload);
    // RFC 768: a computed checksum of zero is sent as all ones.
    let checksum = match sum.finish() {
        0 => u16::MAX,
        sum => sum,
    };
    header[6..8].copy_from_slice(&checksum.to_be_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    true
}

/// The Internet checksum (RFC 1071). Only the last piece added may have an odd length.
#[derive(Default)]
struct Checksum(u32);

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            self.0 += u32::from(u16::from_be_bytes([high, low]));
            self.0 = (self.0 & 0xffff) + (self.0 >> 16);
        }
    }

    fn finish(&self) -> u16 {
        !(((self.0 & 0xffff) + (self.0 >> 16)) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn checksum_of(bytes: &[u8]) -> u16 {
        let mut sum = Checksum::default();
        sum.add(bytes);
        sum.finish()
    }

    #[test]
    fn a_capture_has_the_layout_of_the_format() {
        let mut out = BytesMut::new();
        put_header(LinkType::Raw, &mut out);
        assert_eq!(out.len(), HEADER_LENGTH);
        assert_eq!(&out[..8], &[0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4]);
        assert_eq!(&out[20..], &[0, 0, 0, 101]);
        put_packet(Duration::new(5, 7), b"abc", &mut out);
        assert_eq!(
            &out[HEADER_LENGTH..],
            &[0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 3, b'a', b'b', b'c']
        );
    }

    #[test]
    fn ipv4_and_udp_checksums_verify_to_zero() {
        let mut out = BytesMut::new();
        assert!(udp_packet(
            addr("192.0.2.1:1701"),
            addr("198.51.100.2:5000"),
            b"odd",
            &mut out
        ));
        assert_eq!(out.len(), 31);
        assert_eq!(checksum_of(&out[..20]), 0);
        let pseudo = [&out[12..20], &[0, 17, 0, 11], &out[20..]].concat();
        assert_eq!(checksum_of(&pseudo), 0);
    }

    #[test]
    fn ipv6_checksums_verify_to_zero() {
        let mut out = BytesMut::new();
        assert!(udp_packet(
            addr("[2001:db8::1]:1701"),
            addr("[2001:db8::2]:9"),
            &[0xff; 600],
            &mut out
        ));
        let length = u16::from_be_bytes([out[4], out[5]]);
        assert_eq!(usize::from(length), out.len() - 40);
        let pseudo = [&out[8..40], &length.to_be_bytes(), &[0, 17], &out[40..]].concat();
        assert_eq!(checksum_of(&pseudo), 0);
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_mixed_families_are_refused() {
        let mut out = BytesMut::new();
        assert!(udp_packet(
            addr("[::ffff:192.0.2.1]:1"),
            addr("192.0.2.2:2"),
            b"",
            &mut out
        ));
        assert_eq!(out[0] >> 4, 4);
        out.clear();
        assert!(!udp_packet(
            addr("[2001:db8::1]:1"),
            addr("192.0.2.2:2"),
            b"",
            &mut out
        ));
        assert!(!udp_packet(
            addr("192.0.2.1:1"),
            addr("192.0.2.2:2"),
            &[0; 65_520],
            &mut out
        ));
        assert!(out.is_empty());
    }

    #[test]
    fn oversized_packets_are_cut_but_keep_their_length() {
        let mut out = BytesMut::new();
        put_packet(Duration::ZERO, &[0; 70_000], &mut out);
        assert_eq!(out.len(), RECORD_LENGTH + 65_535);
        assert_eq!(&out[8..16], &[0, 0, 0xff, 0xff, 0, 1, 0x11, 0x70]);
    }
}
