//! Echo requests of clients (RFC 792), to see whether user data passes.

use std::net::Ipv4Addr;

const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
const TTL: u8 = 64;

/// An IPv4 packet with an echo request that carries no data.
pub(super) fn request(from: Ipv4Addr, to: Ipv4Addr, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0; IP_HEADER + ICMP_HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((IP_HEADER + ICMP_HEADER) as u16).to_be_bytes());
    packet[8] = TTL;
    packet[9] = ICMP;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&packet[..IP_HEADER]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20] = ECHO_REQUEST;
    packet[24..26].copy_from_slice(&identifier.to_be_bytes());
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet[IP_HEADER..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Identifier and sequence number of an echo reply.
pub(super) fn reply(packet: &[u8]) -> Option<(u16, u16)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    if packet.first()? >> 4 != 4 || packet.get(9) != Some(&ICMP) {
        return None;
    }
    match packet.get(header..header + ICMP_HEADER)? {
        [ECHO_REPLY, 0, _, _, a, b, c, d] => {
            Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => None,
    }
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_another_stack_makes_it() {
        let packet = request(
            Ipv4Addr::new(10, 64, 0, 9),
            Ipv4Addr::new(10, 64, 0, 1),
            0x1234,
            5,
        );
        let expected = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0x66, 0x58, 10, 64, 0, 9, 10, 64, 0, 1, 8, 0, 0xe5, 0xc6,
            0x12, 0x34, 0, 5,
        ];
        assert_eq!(packet, expected);
        assert_eq!(reply(&packet), None);
        let mut answer = packet;
        answer[20] = ECHO_REPLY;
        assert_eq!(reply(&answer), Some((0x1234, 5)));
        assert_eq!(reply(&answer[..27]), None);
        assert_eq!(reply(&[]), None);
    }
}
