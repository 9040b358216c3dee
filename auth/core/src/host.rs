//! Where a client wants to go: an address, or a name that is one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest host name in octets, without its final dot (RFC 1035, 2.3.4: 255 with all lengths).
pub const MAX_HOST_NAME: usize = 253;

/// Longest label of a host name in octets (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// A host as a client names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name to be resolved.
    Name(HostName),
}

/// A host name: letters, digits, hyphens and underscores in labels, in lower case, without a final dot, and nothing
/// that a resolver or another program might take for an address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(Box<str>);

/// Why octets are no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadHost {
    /// There are none.
    #[error("the host name is empty")]
    Empty,
    /// There are too many.
    #[error("the host name is longer than {MAX_HOST_NAME} octets, or a part of it than {MAX_LABEL}")]
    TooLong,
    /// One of them has no place in a host name.
    #[error("the host name has an octet that host names do not have, or an empty part")]
    Character,
    /// A spelling of an address that programs read differently, such as `127.1` or `0x7f000001`.
    #[error("the host name is an odd spelling of an address")]
    OddAddress,
}

impl Host {
    /// Reads a host as a client wrote it: a name, or an address as text, in brackets or not. What means an address is
    /// one, so that rules about addresses apply to it.
    pub fn parse(octets: &[u8]) -> Result<Self, BadHost> {
        let text = str::from_utf8(octets).map_err(|_| BadHost::Character)?;
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(Host::Address(address.into()));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Host::Address(address.into()));
        }
        HostName::new(text).map(Host::Name)
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

impl HostName {
    /// Checks a name that is no address; a final dot is taken off before.
    fn new(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Err(BadHost::Empty);
        }
        if text.len() > MAX_HOST_NAME {
            return Err(BadHost::TooLong);
        }
        for label in text.split('.') {
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            match label.len() {
                0 => return Err(BadHost::Character),
                1..=MAX_LABEL if label.bytes().all(fit) => {}
                1..=MAX_LABEL => return Err(BadHost::Character),
                _ => return Err(BadHost::TooLong),
            }
        }
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(BadHost::OddAddress);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a last label is one that the classic functions (inet_aton) read as a number. No top-level domain is one
/// (RFC 3696, 2).
fn is_number(label: &str) -> bool {
    let lower = label.to_ascii_lowercase();
    match lower.strip_prefix("0x") {
        Some(rest) => rest.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => lower.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<String, BadHost> {
        Host::parse(text.as_bytes()).map(|host| match host {
            Host::Address(address) => format!("address {address}"),
            Host::Name(name) => format!("name {name}"),
        })
    }

    #[test]
    fn addresses_in_any_proper_spelling_are_addresses() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            assert_eq!(read(text), Ok(format!("address {address}")), "{text}");
        }
    }

    #[test]
    fn odd_spellings_of_addresses_are_refused() {
        for text in [
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0X7F.0.0.0x1",
            "0177.0.0.1",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.0x",
        ] {
            assert_eq!(read(text), Err(BadHost::OddAddress), "{text}");
        }
    }

    #[test]
    fn names_are_in_lower_case_and_without_a_final_dot() {
        assert_eq!(read("WWW.Example.COM."), Ok("name www.example.com".to_owned()));
        assert_eq!(read("_srv.a-b.x1"), Ok("name _srv.a-b.x1".to_owned()));
        assert_eq!(read(&"a".repeat(63)), Ok(format!("name {}", "a".repeat(63))));
        for (text, error) in [
            ("", BadHost::Empty),
            (".", BadHost::Empty),
            ("a..b", BadHost::Character),
            (".a", BadHost::Character),
            ("a b", BadHost::Character),
            ("a\0b", BadHost::Character),
            ("[::1", BadHost::Character),
            ("fe80::1%eth0", BadHost::Character),
            ("ä.example", BadHost::Character),
            (&"a".repeat(64), BadHost::TooLong),
            (&"a.".repeat(128), BadHost::TooLong),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
        assert_eq!(Host::parse(&[0xff]), Err(BadHost::Character));
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_the_same_again(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(host) = Host::parse(&octets) {
                prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host));
            }
        }
    }
}
