//! Addresses of SOCKS5 (RFC 1928, 5).

use sluice_auth::{BadHost, Host};
use sluice_spi::wire::{Reader, Truncated};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// ATYP of an IPv4 address.
const IPV4: u8 = 1;
/// ATYP of a name: an octet of length, and the name.
const NAME: u8 = 3;
/// ATYP of an IPv6 address.
const IPV6: u8 = 4;
/// Octets of the longest encoded address: ATYP, IPv6 address, port.
pub(super) const LONGEST: usize = 1 + 16 + 2;

/// An address as a client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// The octets of a name; what they name, [`Address::host`] says.
    Name(&'a [u8]),
}

/// Octets are no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// They end too early.
    #[error("truncated address")]
    Truncated,
    /// The address type is none of RFC 1928's.
    #[error("address type {0:#04x}")]
    Type(u8),
}

impl From<Truncated> for AddressError {
    fn from(_: Truncated) -> Self {
        AddressError::Truncated
    }
}

impl<'a> Address<'a> {
    /// Takes ATYP, address and port.
    pub fn decode(reader: &mut Reader<'a>) -> Result<(Self, u16), AddressError> {
        let address = match reader.u8()? {
            IPV4 => Address::V4(reader.array()?.into()),
            IPV6 => Address::V6(reader.array()?.into()),
            NAME => {
                let length = reader.u8()?;
                Address::Name(reader.take(length.into())?)
            }
            other => return Err(AddressError::Type(other)),
        };
        Ok((address, reader.u16()?))
    }

    /// The host meant. An IPv4 address in IPv6's mapped form, written as such or as text, is the IPv4 address.
    pub fn host(self) -> Result<Host, BadHost> {
        Ok(match self {
            Address::V4(address) => Host::Address(address.into()),
            Address::V6(address) => Host::Address(IpAddr::V6(address).to_canonical()),
            Address::Name(octets) => match Host::parse(octets)? {
                Host::Address(address) => Host::Address(address.to_canonical()),
                name => name,
            },
        })
    }
}

/// ATYP, address and port of a socket, and how many octets they are.
pub(super) fn encode(address: SocketAddr) -> ([u8; LONGEST], usize) {
    let mut out = [0; LONGEST];
    let [p0, p1] = address.port().to_be_bytes();
    let length = match address.ip().to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            let short = [IPV4, a, b, c, d, p0, p1];
            for (place, octet) in out.iter_mut().zip(short) {
                *place = octet;
            }
            short.len()
        }
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let all = [IPV6].into_iter().chain(octets).chain([p0, p1]);
            for (place, octet) in out.iter_mut().zip(all) {
                *place = octet;
            }
            LONGEST
        }
    };
    (out, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(address: Address<'_>) -> String {
        address
            .host()
            .map_or_else(|error| format!("{error:?}"), |host| host.to_string())
    }

    #[test]
    fn mapped_addresses_are_ipv4_however_they_are_written() {
        let mapped: Ipv6Addr = "::ffff:192.0.2.7".parse().unwrap();
        for address in [
            Address::V4([192, 0, 2, 7].into()),
            Address::V6(mapped),
            Address::Name(b"192.0.2.7"),
            Address::Name(b"::ffff:192.0.2.7"),
            Address::Name(b"[::ffff:c000:207]"),
        ] {
            assert_eq!(host(address), "192.0.2.7");
        }
        assert_eq!(host(Address::Name(b"[2001:db8::1]")), "2001:db8::1");
        assert_eq!(host(Address::Name(b"Example.COM.")), "example.com");
    }

    #[test]
    fn what_is_no_host_is_not_resolved() {
        let long = [b'a'; 255];
        for name in [&b""[..], b"a\0b", b"0x7f.1", b"2130706433", &long] {
            assert!(Address::Name(name).host().is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_was_encoded_is_read_again() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            let (octets, length) = encode(address);
            let mut reader = Reader::new(&octets[..length]);
            let (read, port) = Address::decode(&mut reader).unwrap();
            assert!(reader.is_empty());
            assert_eq!(read.host(), Ok(Host::Address(address.ip().to_canonical())));
            assert_eq!(port, address.port());
        }
    }
}
