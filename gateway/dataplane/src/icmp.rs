//! Answers to senders of packets that are too large for a session's link: ICMP Fragmentation Needed (RFC 792,
//! RFC 1191) and ICMPv6 Packet Too Big (RFC 4443, 3.2).
//!
//! They leave through the TUN device as if the session's own host had sent them: an address of the gateway as
//! source would be dropped by its kernel as martian.

use crate::checksum::{Sum, pseudo_header};
use crate::packet::{ICMP, ICMPV6, IPV4_HEADER, IPV6_HEADER, Ip, put};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most octets of an answer over IPv4 (RFC 1812, 4.3.2.3).
const LARGEST_V4: usize = 576;
/// Most octets of an answer over IPv6: the smallest MTU (RFC 4443, 2.4 c).
const LARGEST_V6: usize = 1280;
/// Length of the ICMP header of both.
const HEADER: usize = 8;
/// Hop limit of the answers.
const HOPS: u8 = 64;

/// Answers a second and shard: what path MTU discovery of many flows needs, and no amplifier.
const RATE: u32 = 200;
/// Answers at once.
const BURST: u32 = 50;

/// A bucket of permissions, filled over time.
#[derive(Debug)]
pub(crate) struct RateLimit {
    tokens: u32,
    filled: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new() -> Self {
        RateLimit {
            tokens: BURST,
            filled: None,
        }
    }

    /// Takes a permission, if there is one.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let filled = *self.filled.get_or_insert(now);
        let interval = Duration::from_secs(1) / RATE;
        let elapsed = now.saturating_duration_since(filled);
        let earned = (elapsed.as_nanos() / interval.as_nanos()).min(u128::from(BURST)) as u32;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(BURST);
            self.filled = Some(if earned == BURST {
                now
            } else {
                filled + interval * earned
            });
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// Builds the answer to a packet larger than `mtu` in `out`. False: this packet must not be answered.
pub(crate) fn too_big(packet: &[u8], ip: Ip, mtu: u16, out: &mut Vec<u8>) -> bool {
    if ip.later_fragment || is_error(packet, ip) {
        return false;
    }
    match (ip.source(packet), ip.destination(packet)) {
        (Some(IpAddr::V4(source)), Some(IpAddr::V4(destination))) => {
            let unusable = source.is_multicast() || source.is_broadcast() || source.is_unspecified();
            if unusable || source.is_loopback() || destination.is_multicast() || destination.is_broadcast() {
                return false;
            }
            build_v4(packet, mtu, (destination.octets(), source.octets()), out);
            true
        }
        (Some(IpAddr::V6(source)), Some(IpAddr::V6(destination))) => {
            if source.is_multicast() || source.is_unspecified() || source.is_loopback() {
                return false;
            }
            if destination.is_multicast() {
                return false;
            }
            build_v6(packet, mtu, (destination.octets(), source.octets()), out);
            true
        }
        _ => false,
    }
}

/// ICMP errors are never answered (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
fn is_error(packet: &[u8], ip: Ip) -> bool {
    let kind = packet.get(ip.transport).copied();
    match ip.protocol {
        ICMP if !ip.v6 => !matches!(kind, Some(0 | 8 | 13 | 14)),
        ICMPV6 if ip.v6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

fn quoted(packet: &[u8], limit: usize) -> &[u8] {
    packet.get(..limit).unwrap_or(packet)
}

fn build_v4(packet: &[u8], mtu: u16, (from, to): ([u8; 4], [u8; 4]), out: &mut Vec<u8>) {
    let quoted = quoted(packet, LARGEST_V4 - IPV4_HEADER - HEADER);
    let total = (IPV4_HEADER + HEADER + quoted.len()) as u16;
    out.clear();
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0, HOPS, ICMP, 0, 0]);
    out.extend_from_slice(&from);
    out.extend_from_slice(&to);
    let sum = Sum::default().add(out).complement();
    put(out, 10, &sum);
    // Destination Unreachable, fragmentation needed and DF set, with the next hop's MTU.
    out.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
    out.extend_from_slice(&mtu.to_be_bytes());
    out.extend_from_slice(quoted);
    let sum = Sum::default()
        .add(out.get(IPV4_HEADER..).unwrap_or_default())
        .complement();
    put(out, IPV4_HEADER + 2, &sum);
}

fn build_v6(packet: &[u8], mtu: u16, (from, to): ([u8; 16], [u8; 16]), out: &mut Vec<u8>) {
    let quoted = quoted(packet, LARGEST_V6 - IPV6_HEADER - HEADER);
    let length = HEADER + quoted.len();
    out.clear();
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&(length as u16).to_be_bytes());
    out.extend_from_slice(&[ICMPV6, HOPS]);
    out.extend_from_slice(&from);
    out.extend_from_slice(&to);
    // Packet Too Big.
    out.extend_from_slice(&[2, 0, 0, 0]);
    out.extend_from_slice(&u32::from(mtu).to_be_bytes());
    out.extend_from_slice(quoted);
    let addresses = out.get(8..IPV6_HEADER).unwrap_or_default();
    let sum = pseudo_header(addresses, ICMPV6, length)
        .add(out.get(IPV6_HEADER..).unwrap_or_default())
        .complement();
    put(out, IPV6_HEADER + 2, &sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples::*;
    use crate::packet::{u16_at, u32_at};

    fn answer(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        too_big(packet, Ip::parse(packet).unwrap(), mtu, &mut out).then_some(out)
    }

    #[test]
    fn answers_in_both_versions_with_right_checksums() {
        for v6 in [false, true] {
            let packet = Sample {
                v6,
                payload: vec![5; 1400],
                ..Sample::default()
            }
            .build();
            let asked = Ip::parse(&packet).unwrap();
            let out = answer(&packet, 1300).unwrap();
            let ip = Ip::parse(&out).unwrap();
            assert_eq!(ip.total, out.len());
            assert_eq!(ip.destination(&out), asked.source(&packet));
            let icmp = &out[ip.transport..];
            if v6 {
                assert_eq!((icmp[0], u32_at(icmp, 4), out.len()), (2, 1300, LARGEST_V6));
                let sum = pseudo_header(&out[ip.addresses()], ICMPV6, icmp.len());
                assert!(sum.add(icmp).is_valid());
            } else {
                assert_eq!(
                    (icmp[0], icmp[1], u16_at(icmp, 6), out.len()),
                    (3, 4, 1300, LARGEST_V4)
                );
                assert!(Sum::default().add(&out[..IPV4_HEADER]).is_valid());
                assert!(Sum::default().add(icmp).is_valid());
            }
            assert!(packet.starts_with(&icmp[HEADER..]));
        }
    }

    #[test]
    fn never_answers_errors_fragments_or_groups() {
        let packet = Sample::default().build();
        let mut error = answer(&packet, 1000).unwrap();
        assert!(answer(&error, 100).is_none());
        error[IPV4_HEADER] = 8;
        assert!(answer(&error, 100).is_some());
        let mut later = packet.clone();
        later[7] = 1;
        assert!(answer(&later, 100).is_none());
        let mut group = packet;
        group[16] = 224;
        assert!(answer(&group, 100).is_none());
    }

    #[test]
    fn the_rate_is_limited_and_recovers() {
        let start = Instant::now();
        let mut limit = RateLimit::new();
        let allowed = |limit: &mut RateLimit, now| (0..1000).filter(|_| limit.allow(now)).count();
        assert_eq!(allowed(&mut limit, start), BURST as usize);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(10)), 2);
        assert_eq!(
            allowed(&mut limit, start + Duration::from_secs(60)),
            BURST as usize
        );
        assert_eq!(allowed(&mut limit, start), 0);
    }
}
