//! What an authenticated user may have, and what a session was given.

use crate::{Identity, Proof};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// An IPv6 prefix, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Ipv6Prefix {
    /// Makes a prefix, clearing host bits. `None` where `length` is over 128.
    pub fn new(address: Ipv6Addr, length: u8) -> Option<Self> {
        let mask = match length {
            0 => 0,
            1..=128 => u128::MAX << (128 - u32::from(length)),
            _ => return None,
        };
        Some(Self {
            address: Ipv6Addr::from(u128::from(address) & mask),
            length,
        })
    }

    /// The first address of the prefix.
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Length in bits, 0 to 128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        Self::new(address, self.length).is_some_and(|p| p.address == self.address)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Text that is no IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv6 prefix such as 2001:db8::/64")]
pub struct PrefixError;

impl FromStr for Ipv6Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError)?;
        let address = address.parse().map_err(|_| PrefixError)?;
        Self::new(address, length.parse().map_err(|_| PrefixError)?).ok_or(PrefixError)
    }
}

/// Where one of a user's addresses comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressRule<T> {
    /// From the default pool.
    #[default]
    DefaultPool,
    /// From a pool by name.
    Pool(String),
    /// Always this one.
    Static(T),
    /// The user gets no address of this family.
    None,
}

/// Text that is no address rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither \"pool\", \"pool:NAME\", \"none\" nor an address")]
pub struct AddressRuleError;

impl<T: FromStr> FromStr for AddressRule<T> {
    type Err = AddressRuleError;

    fn from_str(text: &str) -> Result<Self, AddressRuleError> {
        match (text, text.strip_prefix("pool:")) {
            ("pool", _) => Ok(AddressRule::DefaultPool),
            ("none", _) => Ok(AddressRule::None),
            (_, Some("")) => Err(AddressRuleError),
            (_, Some(pool)) => Ok(AddressRule::Pool(pool.to_owned())),
            (_, None) => text
                .parse()
                .map(AddressRule::Static)
                .map_err(|_| AddressRuleError),
        }
    }
}

impl<T: fmt::Display> fmt::Display for AddressRule<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressRule::DefaultPool => f.write_str("pool"),
            AddressRule::Pool(pool) => write!(f, "pool:{pool}"),
            AddressRule::Static(address) => address.fmt(f),
            AddressRule::None => f.write_str("none"),
        }
    }
}

/// What a backend knows of an authenticated user: the input of admission and address allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The user, as the backend names it.
    pub identity: Identity,
    /// The listed realm that its name was looked up in, in lower case. By stripping it may be gone from
    /// `identity`.
    pub realm: Option<String>,
    /// The groups it is in, by name, for the rules of the policy.
    pub groups: Vec<String>,
    /// Where its IPv4 address comes from.
    pub ipv4: AddressRule<Ipv4Addr>,
    /// Where its IPv6 prefix comes from.
    pub ipv6: AddressRule<Ipv6Prefix>,
    /// Name servers for this user; empty: the gateway's own default.
    pub dns: Vec<IpAddr>,
    /// Largest IP packet towards the user, in bytes; `None`: from the path.
    pub mtu: Option<u16>,
    /// Simultaneous sessions of the user; `None`: the gateway's default.
    pub max_sessions: Option<u32>,
    /// Longest life of a session; `None`: the gateway's default.
    pub session_timeout: Option<Duration>,
    /// Longest silence of a session; `None`: the gateway's default.
    pub idle_timeout: Option<Duration>,
    /// What the protocol answers its peer with. Belongs to one login, not to the user.
    pub proof: Proof,
}

impl Profile {
    /// A profile with nothing but defaults.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            realm: None,
            groups: Vec::new(),
            ipv4: AddressRule::DefaultPool,
            ipv6: AddressRule::DefaultPool,
            dns: Vec::new(),
            mtu: None,
            max_sessions: None,
            session_timeout: None,
            idle_timeout: None,
            proof: Proof::default(),
        }
    }
}

/// What one session was given: concrete addresses and limits.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Grants {
    /// The peer's IPv4 address; `None`: IPCP is refused.
    pub ipv4: Option<Ipv4Addr>,
    /// Our own IPv4 address on the link.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// The peer's IPv6 prefix, announced by router advertisement; `None`: IPV6CP is refused.
    pub ipv6_prefix: Option<Ipv6Prefix>,
    /// Name servers offered by IPCP (RFC 1877); at most two are used.
    pub dns4: Vec<Ipv4Addr>,
    /// Name servers announced by router advertisement (RFC 8106).
    pub dns6: Vec<Ipv6Addr>,
    /// NetBIOS name servers offered by IPCP (RFC 1877); at most two are used.
    pub nbns: Vec<Ipv4Addr>,
    /// Largest IP packet towards the peer, in bytes; `None`: from the path.
    pub mtu: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_rules_read_back_as_written() {
        for text in ["pool", "pool:gold", "none", "192.0.2.7"] {
            let rule: AddressRule<Ipv4Addr> = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        let rule: AddressRule<Ipv6Prefix> = "2001:db8:0:7::9/64".parse().unwrap();
        assert_eq!(rule.to_string(), "2001:db8:0:7::/64");
    }

    #[test]
    fn nonsense_is_no_address_rule() {
        for text in ["", "pool:", "Pool", "300.0.0.1", "2001:db8::/64"] {
            assert!(text.parse::<AddressRule<Ipv4Addr>>().is_err(), "{text}");
        }
        assert!("2001:db8::1".parse::<AddressRule<Ipv6Prefix>>().is_err());
    }
}
