//! What a packet on a link is for the data plane.

use crate::header::{PppHeader, protocol};
use std::ops::Range;

/// What a PPP packet from the wire is for the data plane. Ranges are places in the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserData {
    /// User data: an IP packet.
    Ip(Range<usize>),
    /// A frame for the link itself: its protocol number and its information.
    Frame(u16, Range<usize>),
    /// No PPP, or an IP packet that is none.
    Bad,
}

impl UserData {
    /// Looks at a packet. IPv6 that never leaves the link is the link's own: it answers router and neighbour
    /// solicitations itself.
    #[inline]
    pub fn inspect(packet: &[u8]) -> Self {
        let Some((number, range)) = PppHeader::open(packet) else {
            return UserData::Bad;
        };
        Self::classify(number, range, packet)
    }

    /// Looks at the information of a protocol.
    #[inline]
    pub(crate) fn classify(number: u16, range: Range<usize>, packet: &[u8]) -> Self {
        let information = packet.get(range.clone()).unwrap_or_default();
        let version = information.first().map(|first| first >> 4);
        match (number, version) {
            (protocol::IPV4, Some(4)) => UserData::Ip(range),
            (protocol::IPV6, Some(6)) if is_local(information) => UserData::Frame(number, range),
            (protocol::IPV6, Some(6)) => UserData::Ip(range),
            (protocol::IPV4 | protocol::IPV6, _) => UserData::Bad,
            _ => UserData::Frame(number, range),
        }
    }
}

/// Whether an IPv6 packet never leaves the link.
#[inline]
fn is_local(packet: &[u8]) -> bool {
    let link_local =
        |address: Option<&[u8]>| matches!(address, Some([0xfe, second, ..]) if second & 0xc0 == 0x80);
    let destination = packet.get(24..40);
    link_local(packet.get(8..24)) || link_local(destination) || matches!(destination, Some([0xff, ..]))
}
