//! A look at an IP packet: enough to check, route, clamp, join and cut it, and no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Length of an IPv4 header without options.
pub(crate) const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header.
pub(crate) const IPV6_HEADER: usize = 40;
/// Length of a TCP header without options.
pub(crate) const TCP_HEADER: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP_HEADER: usize = 8;

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// Extension headers of IPv6 that are passed over on the way to TCP and UDP.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Most extension headers passed over in one packet; more than anyone sends.
const MAX_EXTENSIONS: usize = 8;

/// Bits of the IPv4 word with flags and fragment offset.
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A 16-bit number at an offset; 0 where the bytes end before it.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |&pair| u16::from_be_bytes(pair))
}

/// A 32-bit number at an offset; 0 where the bytes end before it.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |&word| u32::from_be_bytes(word))
}

/// Sets bytes at an offset; does nothing where there is no room.
pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes
        .get_mut(offset..)
        .and_then(|rest| rest.get_mut(..value.len()))
    {
        place.copy_from_slice(value);
    }
}

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// IPv6, or IPv4.
    pub v6: bool,
    /// Length of the packet by its header; never more than the bytes there are.
    pub total: usize,
    /// Where the transport header begins (or would, in a later fragment).
    pub transport: usize,
    /// The transport protocol.
    pub protocol: u8,
    /// It is a part of a fragmented packet.
    pub fragment: bool,
    /// It is a part other than the first, so there is no transport header.
    pub later_fragment: bool,
    /// It has options (IPv4) or extension headers (IPv6).
    pub options: bool,
}

impl Ip {
    /// Reads the header of a packet. `None`: not an IP packet, or cut short.
    pub(crate) fn parse(packet: &[u8]) -> Option<Ip> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Ip> {
        let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
        let transport = usize::from(header[0] & 15) * 4;
        let total = usize::from(u16_at(header, 2));
        if transport < IPV4_HEADER || total < transport || total > packet.len() {
            return None;
        }
        let flags = u16_at(header, 6);
        Some(Ip {
            v6: false,
            total,
            transport,
            protocol: header[9],
            fragment: flags & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            later_fragment: flags & FRAGMENT_OFFSET != 0,
            options: transport > IPV4_HEADER,
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Ip> {
        let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
        let total = IPV6_HEADER + usize::from(u16_at(header, 4));
        let mut ip = Ip {
            v6: true,
            total,
            transport: IPV6_HEADER,
            protocol: header[6],
            fragment: false,
            later_fragment: false,
            options: false,
        };
        let packet = packet.get(..total)?;
        for _ in 0..MAX_EXTENSIONS {
            let length = match ip.protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 * (usize::from(*packet.get(ip.transport + 1)?) + 1),
                FRAGMENT => {
                    ip.fragment = true;
                    ip.later_fragment |= u16_at(packet, ip.transport + 2) >> 3 != 0;
                    8
                }
                _ => return Some(ip),
            };
            ip.options = true;
            ip.protocol = *packet.get(ip.transport)?;
            ip.transport = ip.transport.checked_add(length).filter(|&end| end <= total)?;
            if ip.later_fragment {
                return Some(ip);
            }
        }
        // So many headers: the packet may pass, but nobody looks further into it.
        ip.later_fragment = true;
        Some(ip)
    }

    /// Where the source and destination addresses are.
    pub(crate) fn addresses(self) -> Range<usize> {
        if self.v6 { 8..IPV6_HEADER } else { 12..IPV4_HEADER }
    }

    /// The source address.
    pub(crate) fn source(self, packet: &[u8]) -> Option<IpAddr> {
        if self.v6 {
            address_v6(packet, 8)
        } else {
            address_v4(packet, 12)
        }
    }

    /// The destination address.
    pub(crate) fn destination(self, packet: &[u8]) -> Option<IpAddr> {
        if self.v6 {
            address_v6(packet, 24)
        } else {
            address_v4(packet, 16)
        }
    }

    /// Whether an IPv4 packet must not be fragmented; IPv6 packets never may.
    pub(crate) fn dont_fragment(self, packet: &[u8]) -> bool {
        self.v6 || u16_at(packet, 6) & DONT_FRAGMENT != 0
    }
}

fn address_v4(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = *packet.get(offset..)?.first_chunk()?;
    Some(Ipv4Addr::from(octets).into())
}

fn address_v6(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = *packet.get(offset..)?.first_chunk()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
pub(crate) mod samples {
    //! Packets for tests.

    use super::*;
    use crate::checksum::{Sum, pseudo_header};

    /// A packet to be built.
    #[derive(Clone, Debug)]
    pub(crate) struct Sample {
        pub v6: bool,
        pub protocol: u8,
        pub ports: (u16, u16),
        pub seq: u32,
        pub ack: u32,
        pub flags: u8,
        pub options: Vec<u8>,
        pub id: u16,
        pub dont_fragment: bool,
        pub payload: Vec<u8>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Sample {
                v6: false,
                protocol: TCP,
                ports: (40000, 80),
                seq: 1000,
                ack: 7,
                flags: 0x10,
                options: Vec::new(),
                id: 1,
                dont_fragment: true,
                payload: Vec::new(),
            }
        }
    }

    impl Sample {
        fn transport(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend(self.ports.0.to_be_bytes());
            bytes.extend(self.ports.1.to_be_bytes());
            if self.protocol == TCP {
                assert_eq!(self.options.len() % 4, 0);
                bytes.extend(self.seq.to_be_bytes());
                bytes.extend(self.ack.to_be_bytes());
                bytes.push((((TCP_HEADER + self.options.len()) / 4) << 4) as u8);
                bytes.push(self.flags);
                bytes.extend([0x20, 0, 0, 0, 0, 0]);
                bytes.extend(&self.options);
            } else {
                bytes.extend(((UDP_HEADER + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
            }
            bytes.extend(&self.payload);
            bytes
        }

        /// The packet, with all checksums right.
        pub(crate) fn build(&self) -> Vec<u8> {
            let transport = self.transport();
            let mut packet = if self.v6 {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend((transport.len() as u16).to_be_bytes());
                header.extend([self.protocol, 64]);
                header.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
                header.extend("2001:db8:1::2".parse::<Ipv6Addr>().unwrap().octets());
                header
            } else {
                let mut header = vec![0x45, 0];
                header.extend(((IPV4_HEADER + transport.len()) as u16).to_be_bytes());
                header.extend(self.id.to_be_bytes());
                header.extend(if self.dont_fragment { [0x40, 0] } else { [0, 0] });
                header.extend([64, self.protocol, 0, 0, 10, 0, 0, 9, 198, 51, 100, 7]);
                header
            };
            packet.extend(&transport);
            let ip = Ip::parse(&packet).unwrap();
            finish(&mut packet, ip);
            packet
        }
    }

    /// Computes the checksums of a packet anew.
    pub(crate) fn finish(packet: &mut [u8], ip: Ip) {
        if !ip.v6 {
            put(packet, 10, &[0, 0]);
            let sum = Sum::default().add(&packet[..ip.transport]).complement();
            put(packet, 10, &sum);
        }
        let at = ip.transport + if ip.protocol == TCP { 16 } else { 6 };
        put(packet, at, &[0, 0]);
        let mut sum = transport_sum(packet, ip).complement();
        if ip.protocol == UDP && sum == [0, 0] {
            sum = [0xff, 0xff];
        }
        put(packet, at, &sum);
    }

    fn transport_sum(packet: &[u8], ip: Ip) -> Sum {
        pseudo_header(&packet[ip.addresses()], ip.protocol, ip.total - ip.transport)
            .add(&packet[ip.transport..ip.total])
    }

    /// Whether all checksums of a packet are right.
    pub(crate) fn is_sound(packet: &[u8]) -> bool {
        let ip = Ip::parse(packet).unwrap();
        let header = ip.v6 || Sum::default().add(&packet[..ip.transport]).is_valid();
        header && ip.total == packet.len() && transport_sum(packet, ip).is_valid()
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_versions() {
        for v6 in [false, true] {
            let sample = Sample {
                v6,
                payload: vec![1, 2, 3],
                ..Sample::default()
            };
            let packet = sample.build();
            let ip = Ip::parse(&packet).unwrap();
            assert_eq!((ip.v6, ip.total, ip.protocol), (v6, packet.len(), TCP));
            assert!(!ip.fragment && !ip.options && is_sound(&packet));
        }
    }

    #[test]
    fn passes_over_extension_headers_and_stops_at_later_fragments() {
        let mut packet = Sample {
            v6: true,
            protocol: UDP,
            payload: vec![0; 20],
            ..Sample::default()
        }
        .build();
        let udp = packet.split_off(IPV6_HEADER);
        packet[6] = HOP_BY_HOP;
        packet.extend([FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([UDP, 0, 0, 1, 0, 0, 0, 9]);
        packet.extend(udp);
        let length = (packet.len() - IPV6_HEADER) as u16;
        put(&mut packet, 4, &length.to_be_bytes());
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!((ip.transport, ip.protocol), (IPV6_HEADER + 16, UDP));
        assert!(ip.fragment && ip.options && !ip.later_fragment);
        packet[IPV6_HEADER + 8 + 3] = 8;
        assert!(Ip::parse(&packet).unwrap().later_fragment);
    }

    #[test]
    fn refuses_every_truncation() {
        for v6 in [false, true] {
            let packet = Sample {
                v6,
                ..Sample::default()
            }
            .build();
            for length in 0..packet.len() {
                assert_eq!(Ip::parse(&packet[..length]), None);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(mut bytes in prop::collection::vec(any::<u8>(), 0..120), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | (*first & 15) };
            }
            if let Some(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.transport <= ip.total && ip.total <= bytes.len());
                prop_assert!(ip.source(&bytes).is_some() && ip.destination(&bytes).is_some());
            }
        }
    }
}
