//! What clients are told.

use super::{LOGIN_VERSION, Reply, VERSION5, address, v4};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Octets of the longest message: a reply with an IPv6 address.
const LONGEST: usize = 3 + address::LONGEST;

/// A message to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Message {
    fn new(parts: [&[u8]; 2]) -> Self {
        let mut message = Self {
            bytes: [0; LONGEST],
            length: 0,
        };
        for (place, octet) in message.bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *octet;
            message.length += 1;
        }
        message
    }

    /// The method selected (RFC 1928, 3).
    pub fn method(method: u8) -> Self {
        Self::new([&[VERSION5, method], &[]])
    }

    /// Whether a name and a password were right (RFC 1929, 2). Why not is not said.
    pub fn status(accepted: bool) -> Self {
        Self::new([&[LOGIN_VERSION, u8::from(!accepted)], &[]])
    }

    /// A reply (RFC 1928, 6). IPv4 addresses in IPv6's mapped form are told as IPv4 addresses.
    pub fn reply(reply: Reply, bound: SocketAddr) -> Self {
        let (octets, length) = address::encode(bound);
        let bound = octets.get(..length).unwrap_or_default();
        Self::new([&[VERSION5, reply as u8, 0], bound])
    }

    /// A reply of a failure: BND.ADDR and BND.PORT say nothing.
    pub fn failure(reply: Reply) -> Self {
        Self::reply(reply, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// A reply of SOCKS4. An IPv6 address cannot be told: 0.0.0.0 stands for it.
    pub fn v4(code: v4::Code, bound: SocketAddr) -> Self {
        let ip = match bound.ip().to_canonical() {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        let [p0, p1] = bound.port().to_be_bytes();
        Self::new([&[0, code as u8, p0, p1], &ip.octets()])
    }

    /// Its octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
