//! Destinations as clients write them: addresses, and names in one normal form.

use crate::policy::canonical;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest name, in bytes, without a dot at its end: a name on the wire has at most 255 octets with a length
/// before each label and an empty label at the end (RFC 1035, 2.3.4 and 3.1).
pub const MAX_DOMAIN: usize = 253;

/// Longest label of a name, in bytes (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// Longest text that is looked at, in bytes: the length of a name in SOCKS5 is one byte (RFC 1928, 5). Names
/// outside ASCII may be longer before they are normalised than after.
const MAX_TEXT: usize = 255;

/// Why some text names no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadHost {
    /// There is no text.
    #[error("an empty name")]
    Empty,
    /// Longer than a name can be.
    #[error("a name or a part of it is too long")]
    TooLong,
    /// Not a name of a host: an empty label, a byte that no host name has, or not UTF-8.
    #[error("not the name of a host")]
    NotAName,
    /// An IPv4 address in a spelling that programs read differently: `127.1`, `0x7f.1`, `2130706433`,
    /// `010.0.0.1`. It is neither a name, as no top-level domain is a number, nor safe to read.
    #[error("a number that some read as an address")]
    OddAddress,
    /// A colon or bracket, but not an IPv6 address. One with a zone counts as well: a zone is a matter of this
    /// host's interfaces and never the client's to choose (RFC 4007, 11.2).
    #[error("not an IPv6 address")]
    BadIpv6,
}

impl BadHost {
    /// A stable word for counters and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            BadHost::Empty => "empty",
            BadHost::TooLong => "too_long",
            BadHost::NotAName => "not_a_name",
            BadHost::OddAddress => "odd_address",
            BadHost::BadIpv6 => "bad_ipv6",
        }
    }
}

/// A domain name in normal form: ASCII (A-labels, RFC 5890), lower case, without a dot at its end, 1 to 253
/// bytes. It is what must be given to the resolver, so that what was checked is what is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Normalises a name. Names that are IP addresses, or read like one, are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadHost> {
        match Host::parse(bytes)? {
            Host::Name(name) => Ok(name),
            Host::Address(_) => Err(BadHost::NotAName),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        Self::parse(text.as_bytes())
    }
}

/// Where a client wants to go: an address or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; never an IPv4 address in IPv6's mapped form.
    Address(IpAddr),
    /// A name.
    Name(HostName),
}

impl From<IpAddr> for Host {
    /// An IPv4 address in IPv6's mapped form becomes the IPv4 address.
    fn from(address: IpAddr) -> Self {
        Host::Address(canonical(address))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port; 0 where none was given.
    pub port: u16,
}

impl Destination {
    /// Reads the name field of a request: see [`Host::parse`].
    pub fn parse_host(bytes: &[u8]) -> Result<Host, BadHost> {
        Host::parse(bytes)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

impl Host {
    /// Reads a name as a client sent it, before any rule sees it.
    ///
    /// IP addresses in their one standard spelling (`192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`) become
    /// addresses. Names are normalised: case, one dot at the end, and letters outside ASCII (UTS #46). Labels
    /// may have letters, digits, `-` and `_`.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadHost> {
        if bytes.is_empty() {
            return Err(BadHost::Empty);
        }
        if bytes.len() > MAX_TEXT {
            return Err(BadHost::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BadHost::NotAName)?;
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Host::Address(address.into()));
        }
        if text.contains(['[', ']', ':']) {
            return parse_ipv6(text).map(|address| Host::from(IpAddr::V6(address)));
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            let mapped = idna::domain_to_ascii_cow(bytes, idna::AsciiDenyList::EMPTY);
            mapped.map_err(|_| BadHost::NotAName)?.into_owned()
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_name(name)?;
        Ok(Host::Name(HostName(name.into())))
    }
}

fn parse_ipv6(text: &str) -> Result<Ipv6Addr, BadHost> {
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or(BadHost::BadIpv6)?,
        None => text,
    };
    inner.parse().map_err(|_| BadHost::BadIpv6)
}

fn check_name(name: &str) -> Result<(), BadHost> {
    if name.len() > MAX_DOMAIN {
        return Err(BadHost::TooLong);
    }
    for label in name.split('.') {
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if label.len() > MAX_LABEL {
            return Err(BadHost::TooLong);
        }
        if label.is_empty() || !label.bytes().all(fit) {
            return Err(BadHost::NotAName);
        }
    }
    match name.rsplit('.').next() {
        Some(last) if is_number(last) => Err(BadHost::OddAddress),
        _ => Ok(()),
    }
}

/// Whether `inet_aton` and its kin read a last label as part of an address: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x");
    hex.map_or_else(
        || label.bytes().all(|byte| byte.is_ascii_digit()),
        |digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, BadHost> {
        Host::parse(text.as_bytes()).map(|host| match host {
            Host::Address(address) => format!("={address}"),
            Host::Name(name) => name.to_string(),
        })
    }

    #[test]
    fn names_have_one_form() {
        for (text, normal) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("_sip._tcp.example.com", "_sip._tcp.example.com"),
            ("r3---sn-a.example", "r3---sn-a.example"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            // Other full stops and a soft hyphen (UTS #46).
            ("example。com", "example.com"),
            ("exam\u{ad}ple.com", "example.com"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0xyz", "0xyz"),
            ("a1", "a1"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(normal), "{text}");
        }
    }

    #[test]
    fn addresses_in_names_become_addresses() {
        for (text, address) in [
            ("127.0.0.1", "=127.0.0.1"),
            ("::1", "=::1"),
            ("[::1]", "=::1"),
            ("[2001:DB8::1]", "=2001:db8::1"),
            ("::ffff:127.0.0.1", "=127.0.0.1"),
            ("[::ffff:7f00:1]", "=127.0.0.1"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(address), "{text}");
        }
    }

    #[test]
    fn odd_spellings_of_addresses_are_refused() {
        for text in [
            "0x7f.1",
            "2130706433",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0X7F.0.0.1",
            "0177.0.0.1",
            "010.0.0.1",
            "127.0.0.1.",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "256.1.1.1",
            "0x",
            "foo.1",
            "１２７.０.０.１",
            "127。0。0。1",
        ] {
            assert_eq!(parse(text), Err(BadHost::OddAddress), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let label = "a".repeat(64);
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for (text, problem) in [
            ("", BadHost::Empty),
            (".", BadHost::NotAName),
            ("a..b", BadHost::NotAName),
            (".a", BadHost::NotAName),
            ("a.b..", BadHost::NotAName),
            ("a\0.example", BadHost::NotAName),
            ("a b", BadHost::NotAName),
            ("user@host", BadHost::NotAName),
            ("a/b", BadHost::NotAName),
            ("fe80::1%eth0", BadHost::BadIpv6),
            ("[::1", BadHost::BadIpv6),
            ("::1]", BadHost::BadIpv6),
            ("[127.0.0.1]", BadHost::BadIpv6),
            ("[]", BadHost::BadIpv6),
            ("host:80", BadHost::BadIpv6),
            (&label, BadHost::TooLong),
            (&long, BadHost::TooLong),
        ] {
            assert_eq!(parse(text), Err(problem), "{text:?}");
        }
        assert_eq!(Host::parse(&[b'a'; 256]), Err(BadHost::TooLong));
        assert_eq!(Host::parse(b"\xff.example"), Err(BadHost::NotAName));
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert_eq!(parse(&format!("{longest}.")).as_deref(), Ok(longest.as_str()));
    }

    #[test]
    fn a_destination_is_written_as_usual() {
        let shown = |text: &str| {
            let host = Destination::parse_host(text.as_bytes()).unwrap();
            Destination { host, port: 80 }.to_string()
        };
        assert_eq!(shown("::1"), "[::1]:80");
        assert_eq!(shown("192.0.2.1"), "192.0.2.1:80");
        assert_eq!(shown("A.example"), "a.example:80");
    }

    proptest! {
        /// No bytes panic, and what comes out is in normal form: read again it is the same.
        #[test]
        fn any_bytes_are_a_host_in_normal_form_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(host) = Host::parse(&bytes) {
                let text = host.to_string();
                prop_assert_eq!(Host::parse(text.as_bytes()), Ok(host));
            }
        }

        #[test]
        fn any_text_is_a_host_in_normal_form_or_refused(text in "[a-zA-Z0-9xX.:\\[\\]\u{ff0e}\u{3002}ß-]{0,40}") {
            if let Ok(host) = Host::parse(text.as_bytes()) {
                prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host.clone()));
                if let Host::Name(name) = host {
                    prop_assert!(name.as_str().parse::<IpAddr>().is_err());
                    prop_assert!(name.as_str().len() <= MAX_DOMAIN);
                }
            }
        }
    }
}
