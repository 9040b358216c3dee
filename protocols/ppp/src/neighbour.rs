//! The gateway as an IPv6 router on the link: router advertisements of the peer's prefix, and answers to
//! solicitations and pings of our link-local address (RFC 4861, RFC 4443, RFC 8106). Nothing is kept of the
//! neighbour: there is only one.

use crate::config::PppConfig;
use sluice_auth::Ipv6Prefix;
use sluice_spi::{Entropy, random_u16};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

const HEADER: usize = 40;
const ICMPV6: u8 = 58;
/// Hop limit of neighbour discovery: proof that no router passed it on (RFC 4861, 6.1 and 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// Hop limit of other packets, also told to the peer (IANA's recommended default).
const HOP_LIMIT: u8 = 64;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Smallest MTU of a link that carries IPv6 (RFC 8200, 5).
pub(crate) const MIN_MTU: u16 = 1280;
/// Advertisements sent in short succession when the link comes up (RFC 4861, 10:
/// MAX_INITIAL_RTR_ADVERTISEMENTS).
pub(crate) const INITIAL_ADVERTISEMENTS: u8 = 3;
/// Time between these: no less than MIN_DELAY_BETWEEN_RAS, no more than MAX_INITIAL_RTR_ADVERT_INTERVAL
/// (RFC 4861, 10).
const INITIAL_INTERVAL: Duration = Duration::from_secs(4);
/// Lifetimes of the prefix in seconds (RFC 4861, 6.2.1: AdvValidLifetime, AdvPreferredLifetime).
const VALID_LIFETIME: u32 = 2_592_000;
const PREFERRED_LIFETIME: u32 = 604_800;
/// Longest router lifetime in seconds (RFC 4861, 6.2.1: AdvDefaultLifetime).
const MAX_ROUTER_LIFETIME: u64 = 9000;
/// Name servers announced at most: what resolvers use (RFC 8106, 5.3.1).
const MAX_RDNSS: usize = 3;

/// What a router tells on the link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Router<'a> {
    /// Our link-local address.
    pub(crate) address: Ipv6Addr,
    /// The peer's prefix; only a /64 is fit for address autoconfiguration.
    pub(crate) prefix: Ipv6Prefix,
    /// Name servers.
    pub(crate) dns: &'a [Ipv6Addr],
    /// Largest packet towards the peer.
    pub(crate) mtu: u16,
    /// Longest time between two advertisements.
    pub(crate) interval: Duration,
}

/// When the next unsolicited advertisement is due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    /// How many of the initial ones are still to be sent.
    pub(crate) initial_left: u8,
    /// `None`: none, IPv6 is not up.
    pub(crate) next: Option<Instant>,
}

impl Schedule {
    /// IPv6 came up.
    pub(crate) fn start(&mut self, now: Instant) {
        self.initial_left = INITIAL_ADVERTISEMENTS;
        self.next = Some(now);
    }

    /// Whether one is due now; then the next one is scheduled, at a random time between 75 and 100 % of the
    /// interval (RFC 4861, 6.2.4).
    pub(crate) fn is_due(&mut self, config: &PppConfig, entropy: &mut dyn Entropy, now: Instant) -> bool {
        if self.next.is_none_or(|at| at > now) {
            return false;
        }
        self.initial_left = self.initial_left.saturating_sub(1);
        let interval = if self.initial_left > 0 {
            INITIAL_INTERVAL.min(config.ra_interval)
        } else {
            let quarter = config.ra_interval / 4;
            quarter * 3 + quarter * u32::from(random_u16(entropy)) / u32::from(u16::MAX)
        };
        self.next = Some(now + interval);
        true
    }
}

/// The answer to a packet for the router, if it deserves one.
pub(crate) fn answer(packet: &[u8], router: &Router<'_>) -> Option<Vec<u8>> {
    let packet = Received::decode(packet)?;
    match packet.kind {
        ECHO_REQUEST if packet.to == router.address => answer_echo(&packet, router),
        ROUTER_SOLICITATION if packet.is_discovery(8) => {
            let for_us = packet.to == ALL_ROUTERS || packet.to == router.address;
            let to = if packet.from.is_unspecified() {
                ALL_NODES
            } else {
                packet.from
            };
            let sound = packet.is_from_link() && !packet.names_nobody(8);
            (for_us && sound).then(|| advertisement(router, to))
        }
        NEIGHBOUR_SOLICITATION if packet.is_discovery(24) => answer_neighbour(&packet, router),
        _ => None,
    }
}

/// An ICMPv6 packet with a right checksum.
struct Received<'a> {
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
    kind: u8,
    code: u8,
    message: &'a [u8],
}

impl<'a> Received<'a> {
    fn decode(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let [
            first,
            _,
            _,
            _,
            length_high,
            length_low,
            next_header,
            hop_limit,
            addresses @ ..,
        ] = header;
        if first >> 4 != 6 || *next_header != ICMPV6 {
            return None;
        }
        let message = rest.get(..usize::from(u16::from_be_bytes([*length_high, *length_low])))?;
        let (from, to) = addresses.split_first_chunk::<16>()?;
        let (from, to) = (
            Ipv6Addr::from(*from),
            Ipv6Addr::from(<[u8; 16]>::try_from(to).ok()?),
        );
        let [kind, code, _, _, _, _, _, _, ..] = *message else {
            return None;
        };
        (checksum(from, to, message) == 0).then_some(Self {
            from,
            to,
            hop_limit: *hop_limit,
            kind,
            code,
            message,
        })
    }

    /// The validity rules that all of neighbour discovery shares (RFC 4861, 6.1.1 and 7.1.1).
    fn is_discovery(&self, minimum: usize) -> bool {
        self.hop_limit == ND_HOP_LIMIT
            && self.code == 0
            && self.message.len() >= minimum
            && self.options_are_sound(minimum)
    }

    /// No option has length zero, and all end where the packet does.
    fn options_are_sound(&self, start: usize) -> bool {
        let mut rest = self.message.get(start..).unwrap_or(&[]);
        while let [_, units, ..] = *rest {
            match rest.get(usize::from(units) * 8..) {
                Some(after) if units > 0 => rest = after,
                _ => return false,
            }
        }
        rest.is_empty()
    }

    /// Whether the unspecified address claims a link-layer address, which makes no sense (RFC 4861, 6.1.1 and 7.1.1).
    fn names_nobody(&self, options: usize) -> bool {
        const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
        let mut rest = self.message.get(options..).unwrap_or(&[]);
        while let [kind, units, ..] = *rest {
            if kind == SOURCE_LINK_LAYER_ADDRESS {
                return self.from.is_unspecified();
            }
            rest = rest.get(usize::from(units.max(1)) * 8..).unwrap_or(&[]);
        }
        false
    }

    fn is_from_link(&self) -> bool {
        self.from.is_unspecified() || self.from.is_unicast_link_local()
    }
}

/// The group that is asked for the owner of an address (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const GROUP: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUP | address.to_bits() & 0xff_ffff)
}

fn answer_echo(packet: &Received<'_>, router: &Router<'_>) -> Option<Vec<u8>> {
    let from_peer = packet.from.is_unicast_link_local() || router.prefix.contains(packet.from);
    if !from_peer || packet.code != 0 || packet.from == router.address {
        return None;
    }
    let mut message = packet.message.to_vec();
    if let [kind, _, sum_high, sum_low, ..] = message.as_mut_slice() {
        (*kind, *sum_high, *sum_low) = (ECHO_REPLY, 0, 0);
    }
    let fits = HEADER + message.len() <= usize::from(router.mtu);
    fits.then(|| wrap(router.address, packet.from, HOP_LIMIT, message))
}

fn answer_neighbour(packet: &Received<'_>, router: &Router<'_>) -> Option<Vec<u8>> {
    let target: [u8; 16] = packet.message.get(8..24)?.try_into().ok()?;
    let from_peer = packet.is_from_link() || router.prefix.contains(packet.from);
    if Ipv6Addr::from(target) != router.address || !from_peer || packet.names_nobody(24) {
        return None;
    }
    // A node that checks for duplicates has no address yet, and asks a solicited-node group (RFC 4861, 7.1.1).
    if packet.from.is_unspecified() && packet.to != solicited_node(router.address) {
        return None;
    }
    // To the unspecified address of a node that checks for duplicates the answer goes to all nodes, and is not
    // called solicited (RFC 4861, 7.2.4). There is no link-layer address to tell.
    let (to, solicited) = if packet.from.is_unspecified() {
        (ALL_NODES, 0)
    } else {
        (packet.from, 0x40)
    };
    const ROUTER_OVERRIDE: u8 = 0x80 | 0x20;
    let mut message = vec![
        NEIGHBOUR_ADVERTISEMENT,
        0,
        0,
        0,
        ROUTER_OVERRIDE | solicited,
        0,
        0,
        0,
    ];
    message.extend_from_slice(&target);
    Some(wrap(router.address, to, ND_HOP_LIMIT, message))
}

/// An unsolicited router advertisement.
pub(crate) fn unsolicited(router: &Router<'_>) -> Vec<u8> {
    advertisement(router, ALL_NODES)
}

/// A router advertisement (RFC 4861, 4.2) with prefix, MTU and name servers.
fn advertisement(router: &Router<'_>, to: Ipv6Addr) -> Vec<u8> {
    let lifetime = (router.interval.as_secs().max(1) * 3).min(MAX_ROUTER_LIFETIME);
    let router_lifetime = u16::try_from(lifetime).unwrap_or(u16::MAX);
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, HOP_LIMIT, 0];
    message.extend_from_slice(&router_lifetime.to_be_bytes());
    // Reachable time and retransmission timer: unspecified.
    message.extend_from_slice(&[0; 8]);

    const ON_LINK: u8 = 0x80;
    const AUTONOMOUS: u8 = 0x40;
    let autonomous = if router.prefix.length() == 64 {
        AUTONOMOUS
    } else {
        0
    };
    message.extend_from_slice(&[3, 4, router.prefix.length(), ON_LINK | autonomous]);
    message.extend_from_slice(&VALID_LIFETIME.to_be_bytes());
    message.extend_from_slice(&PREFERRED_LIFETIME.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&router.prefix.address().octets());

    message.extend_from_slice(&[5, 1, 0, 0]);
    message.extend_from_slice(&u32::from(router.mtu).to_be_bytes());

    let dns = router.dns.get(..MAX_RDNSS).unwrap_or(router.dns);
    if !dns.is_empty() {
        let units = u8::try_from(1 + 2 * dns.len()).unwrap_or(1);
        message.extend_from_slice(&[25, units, 0, 0]);
        message.extend_from_slice(&u32::from(router_lifetime).to_be_bytes());
        for server in dns {
            message.extend_from_slice(&server.octets());
        }
    }
    wrap(router.address, to, ND_HOP_LIMIT, message)
}

/// Puts an IPv6 header before an ICMPv6 message whose checksum field is zero, and fills in the checksum.
fn wrap(from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &message).to_be_bytes();
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum);
    }
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(HEADER + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, hop_limit]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&message);
    packet
}

/// The ICMPv6 checksum over pseudo-header and message (RFC 4443, 2.3): what belongs into the field where that is
/// zero, or zero where the field is right.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [
        &from.octets()[..],
        &to.octets(),
        &length,
        &[0, 0, 0, ICMPV6],
        message,
    ];
    let mut sum: u64 = 0;
    for part in pseudo {
        for pair in part.chunks(2) {
            let (high, low) = (
                pair.first().copied().unwrap_or(0),
                pair.get(1).copied().unwrap_or(0),
            );
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv6cp::link_local;

    fn router(dns: &[Ipv6Addr]) -> Router<'_> {
        Router {
            address: link_local(1),
            prefix: "2001:db8:7::/64".parse().unwrap(),
            dns,
            mtu: 1400,
            interval: Duration::from_secs(600),
        }
    }

    fn solicitation(from: Ipv6Addr, to: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
        wrap(
            from,
            to,
            hop_limit,
            vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    fn neighbour(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&target.octets());
        wrap(from, target, 255, message)
    }

    // Checked by hand against the layouts of RFC 4861, 4.2, 4.6 and RFC 8106, 5.1.
    #[test]
    fn an_advertisement_has_prefix_mtu_and_name_servers() {
        let dns = ["2001:db8::53".parse().unwrap()];
        let packet = unsolicited(&router(&dns));
        let received = Received::decode(&packet).expect("checksum");
        assert_eq!((received.from, received.to), (link_local(1), ALL_NODES));
        assert!(received.is_discovery(16));
        let message = received.message;
        assert_eq!(message[4..8], [64, 0, 0x07, 0x08]);
        assert_eq!(message[16..20], [3, 4, 64, 0xc0]);
        assert_eq!(message[20..24], 2_592_000_u32.to_be_bytes());
        assert_eq!(
            message[32..48],
            "2001:db8:7::".parse::<Ipv6Addr>().unwrap().octets()
        );
        assert_eq!(message[48..56], [5, 1, 0, 0, 0, 0, 0x05, 0x78]);
        assert_eq!(message[56..60], [25, 3, 0, 0]);
        assert_eq!(message[64..80], dns[0].octets());
        assert_eq!(message.len(), 80);
    }

    #[test]
    fn a_checksum_known_from_a_capture_is_right() {
        // An echo request from ::1 to ::1, identifier 1, sequence 1, no data: 0x8000 + 1 + 1 + 1 + 1 + 8 + 58.
        let loopback = Ipv6Addr::LOCALHOST;
        let message = [128, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(checksum(loopback, loopback, &message), !(0x8000 + 4 + 8 + 58));
    }

    #[test]
    fn solicitations_are_answered_to_whom_they_came_from() {
        let peer = link_local(2);
        let to =
            |packet: Vec<u8>| answer(&packet, &router(&[])).map(|reply| Received::decode(&reply).unwrap().to);
        assert_eq!(to(solicitation(peer, ALL_ROUTERS, 255)), Some(peer));
        assert_eq!(
            to(solicitation(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, 255)),
            Some(ALL_NODES)
        );
        assert_eq!(to(solicitation(peer, ALL_ROUTERS, 64)), None);
        assert_eq!(
            to(solicitation("2001:db8:9::1".parse().unwrap(), ALL_ROUTERS, 255)),
            None
        );
    }

    #[test]
    fn solicitations_of_nobody_name_no_link_layer_address() {
        let solicit = |from| {
            let message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0];
            answer(&wrap(from, ALL_ROUTERS, 255, message), &router(&[]))
        };
        assert!(solicit(Ipv6Addr::UNSPECIFIED).is_none());
        assert!(solicit(link_local(2)).is_some());
    }

    #[test]
    fn neighbours_learn_that_we_are_here() {
        let reply = answer(&neighbour(link_local(2), link_local(1)), &router(&[])).unwrap();
        let reply = Received::decode(&reply).unwrap();
        assert_eq!(
            (reply.kind, reply.to, reply.message[4]),
            (NEIGHBOUR_ADVERTISEMENT, link_local(2), 0xe0)
        );
        let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&link_local(1).octets());
        let group = "ff02::1:ff00:1".parse().unwrap();
        let probe = wrap(Ipv6Addr::UNSPECIFIED, group, 255, message.clone());
        let reply = answer(&probe, &router(&[])).unwrap();
        let reply = Received::decode(&reply).unwrap();
        assert_eq!((reply.to, reply.message[4]), (ALL_NODES, 0xa0));
        assert!(answer(&neighbour(link_local(2), link_local(9)), &router(&[])).is_none());
        // Not to the group of the address, or with a link-layer address of nobody.
        assert!(answer(&neighbour(Ipv6Addr::UNSPECIFIED, link_local(1)), &router(&[])).is_none());
        message.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
        let probe = |from| wrap(from, group, 255, message.clone());
        assert!(answer(&probe(Ipv6Addr::UNSPECIFIED), &router(&[])).is_none());
        assert!(answer(&probe(link_local(2)), &router(&[])).is_some());
    }

    #[test]
    fn pings_are_answered_where_they_may_come_from() {
        let ping = |from: &str| {
            let message = vec![ECHO_REQUEST, 0, 0, 0, 1, 2, 3, 4, b'x'];
            wrap(from.parse().unwrap(), link_local(1), 64, message)
        };
        for from in ["fe80::2", "2001:db8:7::5"] {
            let reply = answer(&ping(from), &router(&[])).unwrap();
            let reply = Received::decode(&reply).unwrap();
            assert_eq!(
                (reply.kind, reply.message[4..].to_vec()),
                (ECHO_REPLY, vec![1, 2, 3, 4, b'x'])
            );
        }
        assert!(answer(&ping("2001:db8:8::5"), &router(&[])).is_none());
        let mut wrong = ping("fe80::2");
        wrong[45] ^= 1;
        assert!(answer(&wrong, &router(&[])).is_none());
    }

    #[test]
    fn nothing_that_is_cut_or_changed_is_answered_wrongly() {
        for packet in [
            solicitation(link_local(2), ALL_ROUTERS, 255),
            neighbour(link_local(2), link_local(1)),
        ] {
            for length in 0..packet.len() {
                assert!(answer(&packet[..length], &router(&[])).is_none());
            }
        }
        let mut message = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let zero_length = wrap(link_local(2), ALL_ROUTERS, 255, message);
        assert!(answer(&zero_length, &router(&[])).is_none());
    }
}
