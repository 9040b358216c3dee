//! What is around a PPP packet on a link without HDLC framing: address and control (RFC 1662, 3.1) and the
//! protocol field (RFC 1661, 2).

use bytes::{BufMut, BytesMut};
use std::ops::Range;

/// PPP protocol numbers.
pub mod protocol {
    /// Internet Protocol version 4 (RFC 1332).
    pub const IPV4: u16 = 0x0021;
    /// Internet Protocol version 6 (RFC 5072).
    pub const IPV6: u16 = 0x0057;
    /// Compressed or encrypted datagrams (RFC 1962, 4; RFC 3078, 3).
    pub const MPPE: u16 = 0x00fd;
    /// IP Control Protocol (RFC 1332).
    pub const IPCP: u16 = 0x8021;
    /// IPv6 Control Protocol (RFC 5072).
    pub const IPV6CP: u16 = 0x8057;
    /// Compression Control Protocol (RFC 1962).
    pub const CCP: u16 = 0x80fd;
    /// Link Control Protocol (RFC 1661).
    pub const LCP: u16 = 0xc021;
    /// Password Authentication Protocol (RFC 1334).
    pub const PAP: u16 = 0xc023;
    /// Challenge Handshake Authentication Protocol (RFC 1994).
    pub const CHAP: u16 = 0xc223;
    /// Extensible Authentication Protocol (RFC 3748).
    pub const EAP: u16 = 0xc227;

    /// A protocol's short name, where it is one of those above.
    pub fn name(protocol: u16) -> Option<&'static str> {
        Some(match protocol {
            IPV4 => "IP",
            IPV6 => "IPv6",
            MPPE => "MPPE",
            IPCP => "IPCP",
            IPV6CP => "IPV6CP",
            CCP => "CCP",
            LCP => "LCP",
            PAP => "PAP",
            CHAP => "CHAP",
            EAP => "EAP",
            _ => return None,
        })
    }
}

/// Address "all stations" and control "unnumbered information" (RFC 1662, 3.1).
const ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];

/// How packets *towards the peer* are wrapped. What comes from the peer is understood in every form, whether or
/// not it was negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PppHeader {
    /// Address and control are left out (RFC 1661, 6.6).
    pub acfc: bool,
    /// Protocol numbers below 256 take one octet (RFC 1661, 6.5).
    pub pfc: bool,
}

impl PppHeader {
    /// Largest size of a header, in octets.
    pub const MAX: usize = 4;

    /// Size of the header of a packet of this protocol, in octets.
    pub fn len(self, protocol: u16) -> usize {
        let address = if self.leaves_out_address(protocol) { 0 } else { 2 };
        address + if self.shortens(protocol) { 1 } else { 2 }
    }

    /// LCP packets are always sent as if nothing had been negotiated, so that they are understood in any state
    /// of the peer (RFC 1661, 6.5 and 6.6).
    fn leaves_out_address(self, protocol: u16) -> bool {
        self.acfc && protocol != protocol::LCP
    }

    fn shortens(self, protocol: u16) -> bool {
        self.pfc && protocol < 0x100
    }

    /// Overwrites the password in a packet from the wire, or what it could be guessed by, where it holds one.
    pub fn conceal(packet: &mut [u8]) {
        let Some((number, information)) = Self::open(packet) else {
            return;
        };
        let information = packet.get_mut(information).unwrap_or_default();
        match number {
            protocol::PAP => crate::wire::pap::conceal(information),
            protocol::CHAP => crate::wire::chap::conceal(information),
            protocol::EAP => crate::wire::eap::conceal(information),
            _ => {}
        }
    }

    /// Finds protocol number and information of a packet from the wire, with or without address and control,
    /// with a protocol field of one octet or two. `None`: too short. A number that breaks the rules for protocol
    /// fields (an even low octet) is given as it is: nobody speaks that protocol.
    pub fn open(packet: &[u8]) -> Option<(u16, Range<usize>)> {
        let start = if packet.starts_with(&ADDRESS_CONTROL) {
            2
        } else {
            0
        };
        let &high = packet.get(start)?;
        if high & 1 == 1 {
            return Some((u16::from(high), start + 1..packet.len()));
        }
        let &low = packet.get(start + 1)?;
        Some((u16::from_be_bytes([high, low]), start + 2..packet.len()))
    }

    /// Appends the header of a packet of this protocol; its information is to follow.
    pub fn seal(self, protocol: u16, out: &mut BytesMut) {
        if !self.leaves_out_address(protocol) {
            out.extend_from_slice(&ADDRESS_CONTROL);
        }
        if self.shortens(protocol) {
            out.put_u8(protocol.to_be_bytes()[1]);
        } else {
            out.put_u16(protocol);
        }
    }

    /// Appends a frame (protocol in two octets, information) as it goes on the wire; false and nothing where
    /// the frame is too short to be one.
    pub fn seal_frame(self, frame: &[u8], out: &mut BytesMut) -> bool {
        let Some((number, information)) = frame.split_first_chunk::<2>() else {
            return false;
        };
        self.seal(u16::from_be_bytes(*number), out);
        out.extend_from_slice(information);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(header: PppHeader, frame: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        assert!(header.seal_frame(frame, &mut out));
        out.to_vec()
    }

    #[test]
    fn lcp_is_never_compressed() {
        let header = PppHeader {
            acfc: true,
            pfc: true,
        };
        assert_eq!(sealed(header, &[0xc0, 0x21, 9]), [0xff, 0x03, 0xc0, 0x21, 9]);
        assert_eq!(sealed(header, &[0x80, 0x21, 9]), [0x80, 0x21, 9]);
        assert_eq!(sealed(header, &[0x00, 0x21, 9]), [0x21, 9]);
        assert_eq!(
            sealed(PppHeader::default(), &[0x00, 0x21, 9]),
            [0xff, 0x03, 0x00, 0x21, 9]
        );
    }

    #[test]
    fn every_form_is_understood_and_sized_right() {
        for acfc in [false, true] {
            for pfc in [false, true] {
                for number in [protocol::LCP, protocol::IPCP, protocol::IPV4, protocol::IPV6] {
                    let header = PppHeader { acfc, pfc };
                    let mut out = BytesMut::new();
                    header.seal(number, &mut out);
                    assert_eq!(out.len(), header.len(number));
                    assert!(out.len() <= PppHeader::MAX);
                    out.put_u8(0x45);
                    let (protocol, range) = PppHeader::open(&out).unwrap();
                    assert_eq!((protocol, &out[range]), (number, &[0x45][..]));
                }
            }
        }
    }

    #[test]
    fn too_short_is_nothing() {
        for packet in [&[][..], &[0xff, 0x03], &[0xff, 0x03, 0xc0], &[0x00]] {
            assert_eq!(PppHeader::open(packet), None, "{packet:?}");
        }
        assert!(!PppHeader::default().seal_frame(&[0xc0], &mut BytesMut::new()));
        assert_eq!(PppHeader::open(&[0x00, 0x20, 1]), Some((0x0020, 2..3)));
    }
}
