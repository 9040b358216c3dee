//! IP prefixes of either family, for rules about sources.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An IPv4 or IPv6 prefix, host bits zero. A single address is a prefix of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// Text that is no IP prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address or prefix such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct IpPrefixError;

/// Clears all bits of an address behind the first `length`; `None` where the family has no so long a prefix.
fn masked(address: IpAddr, length: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let shift = 32u32.checked_sub(u32::from(length))?;
            let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
            Some(IpAddr::V4((u32::from(v4) & mask).into()))
        }
        IpAddr::V6(v6) => {
            let shift = 128u32.checked_sub(u32::from(length))?;
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            Some(IpAddr::V6((u128::from(v6) & mask).into()))
        }
    }
}

impl IpPrefix {
    /// Makes a prefix, clearing host bits. `None` where `length` is over 32 or 128. An IPv4 address mapped into
    /// IPv6 stays what it is here; [`IpPrefix::contains`] sees through it.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        Some(Self {
            address: masked(address, length)?,
            length,
        })
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length in bits, 0 to 32 or 128.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies inside. An IPv4 address in IPv6's mapped form counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == Some(self.address)
    }

    /// Whether every address of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == Some(self.address)
    }

    /// Whether it is one address.
    pub fn is_single(&self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    fn from_str(text: &str) -> Result<Self, IpPrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| IpPrefixError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| IpPrefixError)?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, length.unwrap_or(full)).ok_or(IpPrefixError)
    }
}

#[cfg(test)]
mod tests {
    use super::IpPrefix;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn contains_its_addresses_and_no_others() {
        let net = prefix("192.0.2.77/25");
        assert_eq!(net.to_string(), "192.0.2.0/25");
        assert!(net.contains("192.0.2.127".parse().unwrap()));
        assert!(!net.contains("192.0.2.128".parse().unwrap()));
        assert!(net.contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert!(prefix("0.0.0.0/0").contains("203.0.113.9".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("2001:db8::1".parse().unwrap()));
        assert!(prefix("::/0").contains("2001:db8::1".parse().unwrap()));
        assert!(prefix("2001:db8::1").contains("2001:db8::1".parse().unwrap()));
        assert!(!prefix("2001:db8::1").contains("2001:db8::2".parse().unwrap()));
    }

    #[test]
    fn covers_what_lies_inside_as_a_whole() {
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.0.0.0/8")));
        assert!(prefix("10.0.0.0/8").covers(&prefix("10.9.0.0/16")));
        assert!(!prefix("10.9.0.0/16").covers(&prefix("10.0.0.0/8")));
        assert!(!prefix("10.0.0.0/8").covers(&prefix("11.0.0.0/16")));
        assert!(!prefix("0.0.0.0/0").covers(&prefix("::/8")));
        assert!(!prefix("::/0").covers(&prefix("10.0.0.0/8")));
        assert!(prefix("10.0.0.1").is_single() && prefix("::1").is_single());
        assert!(!prefix("::/32").is_single() && !prefix("10.0.0.0/31").is_single());
    }

    #[test]
    fn nonsense_is_no_prefix() {
        for text in [
            "",
            "/8",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/-1",
            "x/8",
        ] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
    }
}
