//! The pcap file format, with IP and UDP headers made up around datagrams.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Packets begin with their IP header (LINKTYPE_RAW).
const LINKTYPE_RAW: u32 = 101;

/// The magic number of a little-endian file with microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;

/// Protocol numbers of UDP and of GRE, the one protocol without ports that sessions are carried by.
const UDP: u8 = 17;
const GRE: u8 = 47;

/// One captured packet.
pub(super) struct Packet {
    at: Duration,
    bytes: Vec<u8>,
}

impl Packet {
    /// Bytes it takes in a file.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + 16
    }

    /// A packet between two addresses: a UDP datagram, or a GRE packet over IPv4 where neither has a port. `None` where
    /// there can be no such packet.
    pub(super) fn between(at: SystemTime, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Self> {
        match (from.ip().to_canonical(), to.ip().to_canonical()) {
            (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) if from.port() == 0 && to.port() == 0 => {
                let total = u16::try_from(payload.len().checked_add(20)?).ok()?;
                let mut bytes = ipv4_header(from_ip, to_ip, GRE, total);
                bytes.extend(payload);
                let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(Self { at, bytes })
            }
            _ => Self::udp(at, from, to, payload),
        }
    }

    /// A UDP datagram. `None` where the addresses are of two families or the payload is too long for one.
    fn udp(at: SystemTime, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Self> {
        let length = u16::try_from(payload.len().checked_add(8)?).ok()?;
        let mut udp = Vec::with_capacity(usize::from(length));
        udp.extend(from.port().to_be_bytes());
        udp.extend(to.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let mut bytes = Vec::with_capacity(udp.len() + 40);
        match (from.ip().to_canonical(), to.ip().to_canonical()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // The UDP checksum may be zero over IPv4: none was computed (RFC 768).
                bytes = ipv4_header(from, to, UDP, length.checked_add(20)?);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let pseudo = [
                    &from.octets()[..],
                    &to.octets(),
                    &[0, 0],
                    &length.to_be_bytes(),
                    &[0, 0, 0, UDP],
                ];
                let pseudo = pseudo.concat();
                // Zero would mean that there is none, which IPv6 forbids (RFC 8200, 8.1).
                let sum = match checksum(&[&pseudo, &udp]) {
                    0 => 0xffff,
                    sum => sum,
                };
                udp.splice(6..8, sum.to_be_bytes());
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([UDP, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            _ => return None,
        }
        bytes.extend(udp);
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Self { at, bytes })
    }
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, total: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(total));
    bytes.extend([0x45, 0]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum = checksum(&[&bytes]);
    bytes.splice(10..12, sum.to_be_bytes());
    bytes
}

/// The Internet checksum of parts of even length, but for the last (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A pcap file of packets.
pub(super) fn file(packets: &VecDeque<Packet>) -> Vec<u8> {
    let mut file = Vec::with_capacity(24 + packets.iter().map(Packet::len).sum::<usize>());
    file.extend(MAGIC.to_le_bytes());
    file.extend(2u16.to_le_bytes());
    file.extend(4u16.to_le_bytes());
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(LINKTYPE_RAW.to_le_bytes());
    for packet in packets {
        let seconds = u32::try_from(packet.at.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
        file.extend(seconds.to_le_bytes());
        file.extend(packet.at.subsec_micros().to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(&packet.bytes);
    }
    file
}

/// RFC 3339 with microseconds.
pub(super) fn precise_time(at: SystemTime) -> String {
    let whole = crate::admin::views::time(at);
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_micros();
    match whole.strip_suffix('Z') {
        Some(whole) => format!("{whole}.{micros:06}Z"),
        None => whole,
    }
}
