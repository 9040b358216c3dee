//! The header before each packet of a TUN queue (`struct virtio_net_hdr`, 10 octets, little endian): which
//! checksum is unfinished, and how a super-packet is to be cut.

/// Length of the header in octets.
pub(crate) const VNET_HEADER: usize = 10;

/// The checksum from `checksum_start` on is still to be computed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(crate) const NEEDS_CHECKSUM: u8 = 1;

const KIND_NONE: u8 = 0;
const KIND_TCP4: u8 = 1;
const KIND_TCP6: u8 = 4;
const KIND_UDP: u8 = 5;
/// Beside a TCP kind: the first segment alone carries CWR (RFC 3168).
const KIND_ECN: u8 = 0x80;

/// What a super-packet is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Super {
    /// It is none: one packet.
    None,
    /// A TCP segment longer than the link allows.
    Tcp,
    /// Several UDP datagrams of one flow.
    Udp,
}

/// The header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    /// [`NEEDS_CHECKSUM`] or 0.
    pub flags: u8,
    /// What the packet is made of.
    pub kind: Super,
    /// Octets of headers before the payload.
    pub header_length: u16,
    /// Octets of payload in each segment; the last may have fewer.
    pub segment: u16,
    /// Where the checksum begins.
    pub checksum_start: u16,
    /// Where it is stored, counted from its beginning.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// One finished packet.
    pub(crate) const PLAIN: VnetHeader = VnetHeader {
        flags: 0,
        kind: Super::None,
        header_length: 0,
        segment: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Reads the header in front of a packet; `None`: too short, or a kind we never asked for.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(VnetHeader, &[u8])> {
        let (header, packet) = bytes.split_first_chunk::<VNET_HEADER>()?;
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = *header;
        let kind = match kind & !KIND_ECN {
            KIND_NONE => Super::None,
            KIND_TCP4 | KIND_TCP6 => Super::Tcp,
            KIND_UDP => Super::Udp,
            _ => return None,
        };
        let header = VnetHeader {
            flags,
            kind,
            header_length: u16::from_le_bytes([h0, h1]),
            segment: u16::from_le_bytes([s0, s1]),
            checksum_start: u16::from_le_bytes([c0, c1]),
            checksum_offset: u16::from_le_bytes([o0, o1]),
        };
        Some((header, packet))
    }

    /// Writes the header of a packet that is IPv6 or not.
    pub(crate) fn encode(self, ipv6: bool) -> [u8; VNET_HEADER] {
        let kind = match (self.kind, ipv6) {
            (Super::None, _) => KIND_NONE,
            (Super::Tcp, false) => KIND_TCP4,
            (Super::Tcp, true) => KIND_TCP6,
            (Super::Udp, _) => KIND_UDP,
        };
        let [h0, h1] = self.header_length.to_le_bytes();
        let [s0, s1] = self.segment.to_le_bytes();
        let [c0, c1] = self.checksum_start.to_le_bytes();
        let [o0, o1] = self.checksum_offset.to_le_bytes();
        [self.flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encoded() {
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            kind: Super::Tcp,
            header_length: 60,
            segment: 1400,
            checksum_start: 40,
            checksum_offset: 16,
        };
        for ipv6 in [false, true] {
            let mut bytes = header.encode(ipv6).to_vec();
            bytes.push(7);
            assert_eq!(VnetHeader::decode(&bytes), Some((header, &[7][..])));
        }
    }

    #[test]
    fn refuses_short_and_unknown_headers() {
        assert_eq!(VnetHeader::decode(&[0; VNET_HEADER - 1]), None);
        let mut fragmented_udp = [0; VNET_HEADER];
        fragmented_udp[1] = 3;
        assert_eq!(VnetHeader::decode(&fragmented_udp), None);
    }

    #[test]
    fn notices_the_mark_of_explicit_congestion_notification() {
        let mut bytes = [0; VNET_HEADER];
        bytes[1] = KIND_TCP4 | KIND_ECN;
        assert_eq!(VnetHeader::decode(&bytes).unwrap().0.kind, Super::Tcp);
    }
}
