//! Fragments of IPv4 packets that are too large for a session's link and may be cut (RFC 791, 3.2).

use crate::checksum::Sum;
use crate::packet::{DONT_FRAGMENT, FRAGMENT_OFFSET, IPV4_HEADER, Ip, MORE_FRAGMENTS, put, u16_at};

/// Longest IPv4 header.
const LONGEST_HEADER: usize = 60;
/// Largest packet built here: that of a link's largest MTU would do, but a packet is never larger than this.
const LARGEST: usize = 65_535;

/// Cuts a packet into fragments of at most `mtu` octets and hands each to `emit`, in order. `scratch` is a buffer to
/// build them in. False: the packet cannot be cut so, and nothing was emitted.
pub(crate) fn fragment(
    packet: &[u8],
    ip: Ip,
    mtu: usize,
    scratch: &mut Vec<u8>,
    mut emit: impl FnMut(&mut [u8]),
) -> bool {
    let Some((header, payload)) = packet
        .get(..ip.total)
        .and_then(|packet| packet.split_at_checked(ip.transport))
    else {
        return false;
    };
    let flags = u16_at(header, 6);
    let room = mtu.min(LARGEST).saturating_sub(header.len()) & !7;
    let first_offset = usize::from(flags & FRAGMENT_OFFSET);
    let beyond = first_offset + payload.len() / 8 > usize::from(FRAGMENT_OFFSET);
    if ip.v6 || flags & DONT_FRAGMENT != 0 || room == 0 || payload.is_empty() || beyond {
        return false;
    }
    let mut done = 0;
    while let Some(rest) = payload.get(done..).filter(|rest| !rest.is_empty()) {
        scratch.clear();
        if done == 0 {
            scratch.extend_from_slice(header);
        } else {
            put_later_header(header, scratch);
        }
        let header_length = scratch.len();
        let room = mtu.min(LARGEST).saturating_sub(header_length) & !7;
        let part = rest.get(..room).unwrap_or(rest);
        scratch.extend_from_slice(part);
        let more = part.len() < rest.len() || flags & MORE_FRAGMENTS != 0;
        let offset = (first_offset + done / 8) as u16 & FRAGMENT_OFFSET;
        let word = offset | if more { MORE_FRAGMENTS } else { 0 };
        let total = scratch.len() as u16;
        put(scratch, 2, &total.to_be_bytes());
        put(scratch, 6, &word.to_be_bytes());
        put(scratch, 10, &[0, 0]);
        let sum = Sum::default()
            .add(scratch.get(..header_length).unwrap_or_default())
            .complement();
        put(scratch, 10, &sum);
        done += part.len();
        emit(scratch);
    }
    true
}

/// Writes the header of all fragments but the first: only options whose "copied" flag is set stay (RFC 791, 3.1).
fn put_later_header(header: &[u8], out: &mut Vec<u8>) {
    let (fixed, mut options) = header.split_at_checked(IPV4_HEADER).unwrap_or((header, &[]));
    out.extend_from_slice(fixed);
    while let Some(&kind) = options.first() {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(0)),
        };
        let Some((option, rest)) = options.split_at_checked(length).filter(|_| length > 0) else {
            break;
        };
        if kind & 0x80 != 0 {
            out.extend_from_slice(option);
        }
        options = rest;
    }
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
    out.truncate(LONGEST_HEADER);
    let words = (out.len() / 4) as u8;
    put(out, 0, &[0x40 | words]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::UDP;
    use crate::packet::samples::*;
    use proptest::prelude::*;

    fn fragments(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        let ip = Ip::parse(packet).unwrap();
        fragment(packet, ip, mtu, &mut Vec::new(), |part| found.push(part.to_vec())).then_some(found)
    }

    fn sample(length: usize) -> Vec<u8> {
        Sample {
            protocol: UDP,
            dont_fragment: false,
            payload: (0..length).map(|byte| byte as u8).collect(),
            ..Sample::default()
        }
        .build()
    }

    #[test]
    fn copies_only_the_options_that_say_so() {
        let mut packet = sample(100);
        let payload = packet.split_off(IPV4_HEADER);
        packet[0] = 0x48;
        // A copied option of 4 octets, one not copied of 3, a NOP, and the end.
        packet.extend([0x88, 4, 1, 2, 7, 3, 4, 1, 0, 0, 0, 0]);
        packet.extend(payload);
        let total = packet.len() as u16;
        put(&mut packet, 2, &total.to_be_bytes());
        let parts = fragments(&packet, 80).unwrap();
        assert_eq!(parts[0][0], 0x48);
        assert_eq!(parts[1][0], 0x46);
        assert_eq!(parts[1][IPV4_HEADER..IPV4_HEADER + 4], [0x88, 4, 1, 2]);
    }

    #[test]
    fn refuses_what_must_stay_whole() {
        let mut packet = sample(2000);
        assert!(fragments(&packet, 27).is_none());
        packet[6] |= 0x40;
        assert!(fragments(&packet, 1400).is_none());
    }

    proptest! {
        #[test]
        fn the_parts_make_up_the_whole(length in 1usize..4000, mtu in 28usize..1600, more: bool, offset in 0u16..100) {
            let mut packet = sample(length);
            let word = offset | if more { MORE_FRAGMENTS } else { 0 };
            put(&mut packet, 6, &word.to_be_bytes());
            let parts = fragments(&packet, mtu).unwrap();
            let mut joined = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let ip = Ip::parse(part).unwrap();
                prop_assert!(part.len() <= mtu && ip.total == part.len());
                prop_assert!(Sum::default().add(&part[..IPV4_HEADER]).is_valid());
                let word = u16_at(part, 6);
                let at = usize::from(word & FRAGMENT_OFFSET) - usize::from(offset);
                prop_assert_eq!(at * 8, joined.len());
                let last = index + 1 == parts.len();
                prop_assert_eq!(word & MORE_FRAGMENTS != 0, !last || more);
                joined.extend_from_slice(&part[IPV4_HEADER..]);
            }
            prop_assert_eq!(&joined[..], &packet[IPV4_HEADER..]);
        }
    }
}
