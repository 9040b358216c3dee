//! Destinations that no client reaches unless a rule names them: the classes of the built-in denial.

use super::own::Own;
use crate::IpPrefix;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why a destination is special.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    /// This host itself: 127.0.0.0/8 (RFC 1122, 3.2.1.3), ::1 (RFC 4291, 2.5.3).
    Loopback,
    /// No address, which connects to this host: 0.0.0.0/8 (RFC 1122, 3.2.1.3), :: (RFC 4291, 2.5.2).
    Unspecified,
    /// The neighbours on a link: 169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291, 2.5.6).
    LinkLocal,
    /// Where clouds give instances their credentials: see [`special_ranges`].
    Metadata,
    /// Private networks: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918), 100.64.0.0/10 (RFC 6598),
    /// fc00::/7 (RFC 4193), fec0::/10 (RFC 3879), and 64:ff9b:1::/48, whose translators are local (RFC 8215).
    Private,
    /// Groups: 224.0.0.0/4 (RFC 5771), ff00::/8 (RFC 4291, 2.7).
    Multicast,
    /// Everybody on a link: 255.255.255.255 (RFC 919).
    Broadcast,
    /// Documentation: 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 (RFC 5737), 2001:db8::/32 (RFC 3849),
    /// 3fff::/20 (RFC 9637).
    Documentation,
    /// Benchmarks: 198.18.0.0/15 (RFC 2544), 2001:2::/48 (RFC 5180).
    Benchmarking,
    /// Protocol assignments and what nobody has: 192.0.0.0/24 (RFC 6890), 192.88.99.0/24 (RFC 7526),
    /// 240.0.0.0/4 (RFC 1112), 2001::/23 (RFC 2928) without Teredo, and all of IPv6 outside 2000::/3 that is
    /// in no other class (RFC 4291, 2.4), such as the discard prefix 100::/64 (RFC 6666).
    Reserved,
    /// An address and port on which this gateway listens.
    OwnListener,
}

impl Special {
    /// A stable word for the API, logs and counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Special::Loopback => "loopback",
            Special::Unspecified => "unspecified",
            Special::LinkLocal => "link_local",
            Special::Metadata => "metadata",
            Special::Private => "private",
            Special::Multicast => "multicast",
            Special::Broadcast => "broadcast",
            Special::Documentation => "documentation",
            Special::Benchmarking => "benchmarking",
            Special::Reserved => "reserved",
            Special::OwnListener => "own_listener",
        }
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8, class: Option<Special>) -> Row {
    Row {
        address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        length,
        class,
    }
}

const fn v6(head: [u16; 4], tail: [u16; 4], length: u8, class: Option<Special>) -> Row {
    let ([a, b, c, d], [e, f, g, h]) = (head, tail);
    Row {
        address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
        length,
        class,
    }
}

/// A prefix and its class; `None`: not special by itself, in a wider prefix that is.
#[derive(Clone, Copy)]
struct Row {
    address: IpAddr,
    length: u8,
    class: Option<Special>,
}

const ZERO: [u16; 4] = [0; 4];

/// What is special, in no order: the longest prefix counts.
const TABLE: &[Row] = &[
    v4(0, 0, 0, 0, 8, Some(Special::Unspecified)),
    v4(10, 0, 0, 0, 8, Some(Special::Private)),
    v4(100, 64, 0, 0, 10, Some(Special::Private)),
    // Alibaba Cloud.
    v4(100, 100, 100, 200, 32, Some(Special::Metadata)),
    v4(127, 0, 0, 0, 8, Some(Special::Loopback)),
    // Azure's "wire server", a public address that answers on its hosts only.
    v4(168, 63, 129, 16, 32, Some(Special::Metadata)),
    v4(169, 254, 0, 0, 16, Some(Special::LinkLocal)),
    // AWS: credentials of containers (ECS) and of pods (EKS), and the name server beside them.
    v4(169, 254, 170, 2, 32, Some(Special::Metadata)),
    v4(169, 254, 170, 23, 32, Some(Special::Metadata)),
    v4(169, 254, 169, 253, 32, Some(Special::Metadata)),
    // AWS, Google Cloud, Azure, OpenStack and most others.
    v4(169, 254, 169, 254, 32, Some(Special::Metadata)),
    v4(172, 16, 0, 0, 12, Some(Special::Private)),
    v4(192, 0, 0, 0, 24, Some(Special::Reserved)),
    // Oracle Cloud, former form.
    v4(192, 0, 0, 192, 32, Some(Special::Metadata)),
    v4(192, 0, 2, 0, 24, Some(Special::Documentation)),
    v4(192, 88, 99, 0, 24, Some(Special::Reserved)),
    v4(192, 168, 0, 0, 16, Some(Special::Private)),
    v4(198, 18, 0, 0, 15, Some(Special::Benchmarking)),
    v4(198, 51, 100, 0, 24, Some(Special::Documentation)),
    v4(203, 0, 113, 0, 24, Some(Special::Documentation)),
    v4(224, 0, 0, 0, 4, Some(Special::Multicast)),
    v4(240, 0, 0, 0, 4, Some(Special::Reserved)),
    v4(255, 255, 255, 255, 32, Some(Special::Broadcast)),
    // Three prefixes are all of IPv6 but 2000::/3.
    v6(ZERO, ZERO, 3, Some(Special::Reserved)),
    v6([0x4000, 0, 0, 0], ZERO, 2, Some(Special::Reserved)),
    v6([0x8000, 0, 0, 0], ZERO, 1, Some(Special::Reserved)),
    v6(ZERO, ZERO, 96, None), // IPv4-compatible: judged by what it embeds.
    v6(ZERO, ZERO, 128, Some(Special::Unspecified)),
    v6(ZERO, [0, 0, 0, 1], 128, Some(Special::Loopback)),
    v6([0x64, 0xff9b, 0, 0], ZERO, 96, None), // NAT64: judged by what it embeds.
    v6([0x64, 0xff9b, 1, 0], ZERO, 48, Some(Special::Private)),
    v6([0x2001, 0, 0, 0], ZERO, 23, Some(Special::Reserved)),
    v6([0x2001, 0, 0, 0], ZERO, 32, None), // Teredo: judged by what it embeds.
    v6([0x2001, 2, 0, 0], ZERO, 48, Some(Special::Benchmarking)),
    v6([0x2001, 0xdb8, 0, 0], ZERO, 32, Some(Special::Documentation)),
    v6([0x3fff, 0, 0, 0], ZERO, 20, Some(Special::Documentation)),
    v6([0xfc00, 0, 0, 0], ZERO, 7, Some(Special::Private)),
    // AWS: instances, pods (EKS), and the name server beside them.
    v6(
        [0xfd00, 0xec2, 0, 0],
        [0, 0, 0, 0x254],
        128,
        Some(Special::Metadata),
    ),
    v6(
        [0xfd00, 0xec2, 0, 0],
        [0, 0, 0, 0x23],
        128,
        Some(Special::Metadata),
    ),
    v6(
        [0xfd00, 0xec2, 0, 0],
        [0, 0, 0, 0x253],
        128,
        Some(Special::Metadata),
    ),
    // Google Cloud.
    v6(
        [0xfd20, 0xce, 0, 0],
        [0, 0, 0, 0x254],
        128,
        Some(Special::Metadata),
    ),
    v6([0xfe80, 0, 0, 0], ZERO, 10, Some(Special::LinkLocal)),
    // OpenStack.
    v6(
        [0xfe80, 0, 0, 0],
        [0, 0, 0xa9fe, 0xa9fe],
        128,
        Some(Special::Metadata),
    ),
    v6([0xfec0, 0, 0, 0], ZERO, 10, Some(Special::Private)),
    v6([0xff00, 0, 0, 0], ZERO, 8, Some(Special::Multicast)),
];

/// The prefixes of the built-in denial with their classes, in no order; where two hold an address, the longer
/// one counts. `None`: not special by itself, though in a wider prefix that is: addresses that embed an IPv4
/// address are judged by it.
pub fn special_ranges() -> impl Iterator<Item = (IpPrefix, Option<Special>)> {
    TABLE
        .iter()
        .filter_map(|row| Some((IpPrefix::new(row.address, row.length)?, row.class)))
}

/// The address itself, or the IPv4 address that it is in IPv6's mapped form (::ffff:0:0/96, RFC 4291, 2.5.5.2).
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// What an address stands for: itself, and the IPv4 addresses that it embeds, to which the packets may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Faces {
    /// The address, unmapped.
    pub(super) own: IpAddr,
    /// The IPv4 host behind it: rules about that one hold for this one.
    pub(super) behind: Option<IpAddr>,
    /// Another IPv4 address that packets go to: a Teredo client's server. It may not be special, but no rule
    /// that allows it allows the client.
    pub(super) server: Option<IpAddr>,
}

impl Faces {
    pub(super) fn of(address: IpAddr) -> Self {
        let own = canonical(address);
        let (behind, server) = match own {
            IpAddr::V4(_) => (None, None),
            IpAddr::V6(v6) => embedded(v6),
        };
        Self { own, behind, server }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.own), self.behind, self.server].into_iter().flatten()
    }

    /// Those that rules about destinations may mean.
    pub(super) fn meant(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.own), self.behind].into_iter().flatten()
    }
}

/// The host behind an address and its server: of IPv4-compatible addresses (RFC 4291, 2.5.5.1), NAT64's well-known
/// prefix (RFC 6052, 2.1), 6to4 (RFC 3056, 2) and Teredo (RFC 4380, 4), which writes the client's address inverted.
fn embedded(address: Ipv6Addr) -> (Option<IpAddr>, Option<IpAddr>) {
    let v4 = |high: u16, low: u16| Some(IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))));
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => (None, None),
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (v4(high, low), None),
        [0x2002, high, low, ..] => (v4(high, low), None),
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            (v4(!high, !low), v4(server_high, server_low))
        }
        _ => (None, None),
    }
}

/// The longest prefix of the table that holds an address, and its class.
pub(super) fn class_of(address: IpAddr) -> Option<(IpPrefix, Special)> {
    let held = special_ranges().filter(|(prefix, _)| prefix.contains(address));
    let (prefix, class) = held.max_by_key(|(prefix, _)| prefix.length())?;
    Some((prefix, class?))
}

/// Whether an address is special, and why. What is embedded in it counts as well. `own` are this gateway's
/// listeners, and the first to be looked for.
pub fn special(address: IpAddr, port: u16, own: &Own) -> Option<Special> {
    let faces = Faces::of(address);
    if faces.all().any(|face| own.has(face, port)) {
        return Some(Special::OwnListener);
    }
    faces
        .all()
        .find_map(|face| class_of(face).map(|(_, class)| class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(text: &str) -> &'static str {
        special(text.parse().unwrap(), 80, &Own::default()).map_or("", Special::as_str)
    }

    #[test]
    fn every_class_has_its_first_and_last_addresses() {
        for (first, last, wanted) in [
            ("0.0.0.0", "0.255.255.255", "unspecified"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "private"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("169.254.0.0", "169.254.255.255", "link_local"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "reserved"),
            ("192.0.2.0", "192.0.2.255", "documentation"),
            ("192.88.99.0", "192.88.99.255", "reserved"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("198.18.0.0", "198.19.255.255", "benchmarking"),
            ("198.51.100.0", "198.51.100.255", "documentation"),
            ("203.0.113.0", "203.0.113.255", "documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.254", "reserved"),
            ("::2:0:0", "::fffe:ffff:ffff", "reserved"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "private"),
            ("100::", "100::ffff:ffff:ffff:ffff", "reserved"),
            ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking"),
            ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            (
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "documentation",
            ),
            (
                "3fff::",
                "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
                "documentation",
            ),
            ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private"),
            ("fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link_local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ] {
            assert_eq!((class(first), class(last)), (wanted, wanted), "{first} {last}");
        }
        assert_eq!(class("::"), "unspecified");
        assert_eq!(class("::1"), "loopback");
        assert_eq!(class("255.255.255.255"), "broadcast");
    }

    #[test]
    fn clouds_give_no_credentials() {
        for text in [
            "169.254.169.254",
            "169.254.169.253",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::253",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
        ] {
            assert_eq!(class(text), "metadata", "{text}");
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2000::",
            "2001:200::1",
            "2606:4700::1111",
            "2a00::1",
            "3ffe::1",
        ] {
            assert_eq!(class(text), "", "{text}");
        }
    }

    #[test]
    fn embedded_addresses_are_judged_by_what_they_embed() {
        for (text, wanted) in [
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:8.8.8.8", ""),
            ("::127.0.0.1", "loopback"),
            ("::8.8.8.8", ""),
            ("::0.0.0.2", "unspecified"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::8.8.8.8", ""),
            ("2002:7f00:1::", "loopback"),
            ("2002:a9fe:a9fe::1", "metadata"),
            ("2002:808:808::1", ""),
            // Teredo: the server at first, then flags and port, then the client inverted.
            ("2001:0:808:808:0:0:f7f7:f7f7", ""),
            ("2001:0:808:808:0:0:80ff:fffe", "loopback"),
            ("2001:0:7f00:1:0:0:f7f7:f7f7", "loopback"),
        ] {
            assert_eq!(class(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_teredo_server_is_not_what_a_rule_means() {
        let faces = Faces::of("2001:0:0102:0304:0:0:f7f7:f7f7".parse().unwrap());
        let meant: Vec<String> = faces.meant().map(|face| face.to_string()).collect();
        assert_eq!(meant, ["2001:0:102:304::f7f7:f7f7", "8.8.8.8"]);
        assert_eq!(faces.server, Some("1.2.3.4".parse().unwrap()));
    }

    proptest! {
        /// The standard library knows some classes on its own.
        #[test]
        fn what_the_standard_library_calls_special_is(bits in any::<u32>(), range in 0usize..10) {
            let bases = [0x7f00_0000u32, 0x0a00_0000, 0xac10_0000, 0xc0a8_0000, 0xa9fe_0000, 0xe000_0000,
                0xf000_0000, 0xc000_0200, 0, 0x6440_0000];
            let address = Ipv4Addr::from(bases[range] | bits >> (range % 5 * 4));
            let own = Own::default();
            let found = special(address.into(), 1, &own);
            if address.is_loopback() || address.is_private() || address.is_link_local() || address.is_multicast()
                || address.is_broadcast() || address.is_documentation() || address.is_unspecified() {
                prop_assert!(found.is_some(), "{}", address);
            }
            for embedding in [address.to_ipv6_mapped(), address.to_ipv6_compatible(),
                Ipv6Addr::from(0x64_ff9b << 96 | u128::from(u32::from(address))),
                Ipv6Addr::from(0x2002 << 112 | u128::from(u32::from(address)) << 80)] {
                let embedding_class = special(embedding.into(), 1, &own);
                if embedding != Ipv6Addr::LOCALHOST {
                    prop_assert_eq!(embedding_class, found, "{}", embedding);
                }
            }
        }
    }
}
