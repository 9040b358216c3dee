//! The largest TCP segment that a session's link carries, written into the SYN segments that cross it.

use crate::checksum::update;
use crate::packet::{IPV4_HEADER, IPV6_HEADER, Ip, TCP, TCP_HEADER, put, u16_at};

/// The flag of a SYN segment.
const SYN: u8 = 0x02;
/// TCP options (RFC 9293, 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT: u8 = 2;

/// The largest TCP payload without options in a packet of `mtu` octets.
pub(crate) fn limit(mtu: u16, v6: bool) -> u16 {
    let header = if v6 { IPV6_HEADER } else { IPV4_HEADER } + TCP_HEADER;
    mtu.saturating_sub(header as u16)
}

/// Lowers the Maximum Segment Size option of a SYN segment to what fits `mtu`; all else stays as it is.
pub(crate) fn clamp(packet: &mut [u8], ip: Ip, mtu: u16) {
    if ip.protocol != TCP || ip.later_fragment {
        return;
    }
    let Some(segment) = packet.get_mut(ip.transport..ip.total) else {
        return;
    };
    let Some(header) = segment.first_chunk::<TCP_HEADER>() else {
        return;
    };
    if header[13] & SYN == 0 {
        return;
    }
    let end = usize::from(header[12] >> 4) * 4;
    let limit = limit(mtu, ip.v6);
    let Some(place) = segment.get(..end).and_then(find_option) else {
        return;
    };
    let old = u16_at(segment, place);
    if old <= limit {
        return;
    }
    put(segment, place, &limit.to_be_bytes());
    // At an odd place the two octets count in two neighbouring words, with their weights exchanged.
    let swapped = place % 2 != 0;
    let weigh = |number: u16| if swapped { number.swap_bytes() } else { number };
    let checksum = update(u16_at(segment, 16), weigh(old), weigh(limit));
    put(segment, 16, &checksum.to_be_bytes());
}

/// Where the value of the Maximum Segment Size option is in a TCP header.
fn find_option(header: &[u8]) -> Option<usize> {
    let mut at = TCP_HEADER;
    loop {
        match *header.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if kind == MAXIMUM_SEGMENT && length == 4 {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples::*;
    use proptest::prelude::*;

    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        Sample {
            v6,
            flags: SYN,
            options: options.to_vec(),
            ..Sample::default()
        }
        .build()
    }

    #[test]
    fn lowers_large_values_and_keeps_the_checksum_right() {
        // Once at an even place, once after one NOP at an odd one.
        for options in [&[2, 4, 5, 180, 1, 1, 4, 2][..], &[1, 2, 4, 5, 180, 4, 2, 0][..]] {
            for (v6, expected) in [(false, 1360u16), (true, 1340)] {
                let mut packet = syn(v6, options);
                let ip = Ip::parse(&packet).unwrap();
                clamp(&mut packet, ip, 1400);
                let place = packet.windows(2).position(|pair| pair == [2, 4]).unwrap() + 2;
                assert_eq!(u16_at(&packet, place), expected);
                assert!(is_sound(&packet));
            }
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        let mut packets = vec![
            syn(false, &[2, 4, 2, 0]),
            syn(false, &[0, 2, 4, 5, 180, 0, 0, 0]),
            syn(false, &[2, 9, 5, 180]),
            syn(true, &[]),
            Sample {
                options: vec![2, 4, 5, 180],
                ..Sample::default()
            }
            .build(),
        ];
        for packet in &mut packets {
            let before = packet.clone();
            let ip = Ip::parse(packet).unwrap();
            clamp(packet, ip, 1400);
            assert_eq!(*packet, before);
        }
    }

    proptest! {
        #[test]
        fn any_options_are_safe(
            options in prop::collection::vec(0u8..6, 0..10),
            offset: u8,
            mtu in 0u16..2000,
            cut in 0usize..60,
        ) {
            let mut options = options;
            options.resize(options.len() & !3, 0);
            let mut packet = syn(false, &options);
            packet[IPV4_HEADER + 12] = offset;
            let kept = packet.len().saturating_sub(cut).max(IPV4_HEADER);
            packet.truncate(kept);
            put(&mut packet, 2, &(kept as u16).to_be_bytes());
            let ip = Ip::parse(&packet).unwrap();
            clamp(&mut packet, ip, mtu);
            prop_assert_eq!(packet.len(), kept);
        }
    }
}
