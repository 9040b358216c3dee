//! Options of LCP, IPCP and IPV6CP as values.

use super::AuthProtocol;
use super::{RawOption, put_option};
use crate::header::protocol;
use std::net::Ipv4Addr;

/// What an Authentication-Protocol option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOffer {
    /// PAP (RFC 1334).
    Pap,
    /// CHAP with an algorithm (RFC 1994).
    Chap(u8),
    /// EAP (RFC 3748).
    Eap,
    /// Something else, by its protocol number.
    Other(u16),
}

impl AuthOffer {
    /// What is meant, where it is spoken here.
    pub fn spoken(self) -> Option<AuthProtocol> {
        match self {
            AuthOffer::Pap => Some(AuthProtocol::Pap),
            AuthOffer::Chap(algorithm) => AuthProtocol::of_algorithm(algorithm),
            AuthOffer::Eap => Some(AuthProtocol::Eap),
            AuthOffer::Other(_) => None,
        }
    }
}

impl From<AuthProtocol> for AuthOffer {
    fn from(protocol: AuthProtocol) -> Self {
        match (protocol, protocol.algorithm()) {
            (_, Some(algorithm)) => AuthOffer::Chap(algorithm),
            (AuthProtocol::Eap, None) => AuthOffer::Eap,
            (_, None) => AuthOffer::Pap,
        }
    }
}

/// An option of LCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LcpOption<'a> {
    /// Maximum-Receive-Unit (RFC 1661, 6.1).
    Mru(u16),
    /// Async-Control-Character-Map (RFC 1662, 7.1).
    Accm(u32),
    /// Authentication-Protocol (RFC 1661, 6.2).
    Auth(AuthOffer),
    /// Quality-Protocol (RFC 1661, 6.3).
    Quality(u16),
    /// Magic-Number (RFC 1661, 6.4).
    Magic(u32),
    /// Protocol-Field-Compression (RFC 1661, 6.5).
    Pfc,
    /// Address-and-Control-Field-Compression (RFC 1661, 6.6).
    Acfc,
    /// Callback (RFC 1570, 2.3).
    Callback(u8),
    /// Multilink MRRU (RFC 1990, 5.1.1).
    Mrru(u16),
    /// Multilink short sequence numbers (RFC 1990, 5.1.2).
    ShortSequence,
    /// Endpoint-Discriminator (RFC 1990, 5.1.3): class and address.
    Endpoint(u8, &'a [u8]),
    /// A type listed above with a length that is not its own.
    BadLength(u8),
    /// Any other type.
    Unknown(u8),
}

impl<'a> LcpOption<'a> {
    /// Type of MRU.
    pub const MRU: u8 = 1;
    /// Type of ACCM.
    pub const ACCM: u8 = 2;
    /// Type of Authentication-Protocol.
    pub const AUTH: u8 = 3;
    /// Type of Quality-Protocol.
    pub const QUALITY: u8 = 4;
    /// Type of Magic-Number.
    pub const MAGIC: u8 = 5;
    /// Type of Protocol-Field-Compression.
    pub const PFC: u8 = 7;
    /// Type of Address-and-Control-Field-Compression.
    pub const ACFC: u8 = 8;
    /// Type of Callback.
    pub const CALLBACK: u8 = 13;
    /// Type of MRRU.
    pub const MRRU: u8 = 17;
    /// Type of the short sequence number header format.
    pub const SHORT_SEQUENCE: u8 = 18;
    /// Type of Endpoint-Discriminator.
    pub const ENDPOINT: u8 = 19;

    /// Reads an option.
    pub fn decode(option: RawOption<'a>) -> Self {
        match (option.kind, option.data) {
            (Self::MRU, &[a, b]) => Self::Mru(u16::from_be_bytes([a, b])),
            (Self::ACCM, &[a, b, c, d]) => Self::Accm(u32::from_be_bytes([a, b, c, d])),
            (Self::AUTH, &[a, b, ref more @ ..]) => Self::auth(option.kind, u16::from_be_bytes([a, b]), more),
            (Self::QUALITY, &[a, b, ..]) => Self::Quality(u16::from_be_bytes([a, b])),
            (Self::MAGIC, &[a, b, c, d]) => Self::Magic(u32::from_be_bytes([a, b, c, d])),
            (Self::PFC, []) => Self::Pfc,
            (Self::ACFC, []) => Self::Acfc,
            (Self::CALLBACK, &[operation, ..]) => Self::Callback(operation),
            (Self::MRRU, &[a, b]) => Self::Mrru(u16::from_be_bytes([a, b])),
            (Self::SHORT_SEQUENCE, []) => Self::ShortSequence,
            (Self::ENDPOINT, [class, address @ ..]) => Self::Endpoint(*class, address),
            (
                kind @ (Self::MRU
                | Self::ACCM
                | Self::AUTH
                | Self::QUALITY
                | Self::MAGIC
                | Self::PFC
                | Self::ACFC
                | Self::CALLBACK
                | Self::MRRU
                | Self::SHORT_SEQUENCE
                | Self::ENDPOINT),
                _,
            ) => Self::BadLength(kind),
            (kind, _) => Self::Unknown(kind),
        }
    }

    fn auth(kind: u8, number: u16, more: &[u8]) -> Self {
        match (number, more) {
            (protocol::PAP, []) => Self::Auth(AuthOffer::Pap),
            (protocol::CHAP, &[algorithm]) => Self::Auth(AuthOffer::Chap(algorithm)),
            (protocol::EAP, []) => Self::Auth(AuthOffer::Eap),
            (protocol::PAP | protocol::CHAP | protocol::EAP, _) => Self::BadLength(kind),
            (other, _) => Self::Auth(AuthOffer::Other(other)),
        }
    }

    /// Appends the option. The forms that stand for what cannot be sent append nothing.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Mru(mru) => put_option(out, Self::MRU, &mru.to_be_bytes()),
            Self::Accm(accm) => put_option(out, Self::ACCM, &accm.to_be_bytes()),
            Self::Auth(AuthOffer::Pap) => put_option(out, Self::AUTH, &protocol::PAP.to_be_bytes()),
            Self::Auth(AuthOffer::Chap(algorithm)) => {
                let [a, b] = protocol::CHAP.to_be_bytes();
                put_option(out, Self::AUTH, &[a, b, algorithm]);
            }
            Self::Auth(AuthOffer::Eap) => put_option(out, Self::AUTH, &protocol::EAP.to_be_bytes()),
            Self::Auth(AuthOffer::Other(number)) => put_option(out, Self::AUTH, &number.to_be_bytes()),
            Self::Quality(number) => put_option(out, Self::QUALITY, &number.to_be_bytes()),
            Self::Magic(magic) => put_option(out, Self::MAGIC, &magic.to_be_bytes()),
            Self::Pfc => put_option(out, Self::PFC, &[]),
            Self::Acfc => put_option(out, Self::ACFC, &[]),
            Self::Callback(operation) => put_option(out, Self::CALLBACK, &[operation]),
            Self::Mrru(mrru) => put_option(out, Self::MRRU, &mrru.to_be_bytes()),
            Self::ShortSequence => put_option(out, Self::SHORT_SEQUENCE, &[]),
            Self::Endpoint(class, address) => {
                let mut data = vec![class];
                data.extend_from_slice(address);
                put_option(out, Self::ENDPOINT, &data);
            }
            Self::BadLength(_) | Self::Unknown(_) => {}
        }
    }
}

/// An option of IPCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpcpOption {
    /// IP-Addresses, deprecated (RFC 1332, 3.1).
    Addresses,
    /// IP-Compression-Protocol (RFC 1332, 3.2).
    Compression(u16),
    /// IP-Address (RFC 1332, 3.3).
    Address(Ipv4Addr),
    /// A server's address (RFC 1877), with the type that says which.
    Server(u8, Ipv4Addr),
    /// A type listed above with a length that is not its own.
    BadLength(u8),
    /// Any other type.
    Unknown(u8),
}

impl IpcpOption {
    /// Type of IP-Addresses.
    pub const ADDRESSES: u8 = 1;
    /// Type of IP-Compression-Protocol.
    pub const COMPRESSION: u8 = 2;
    /// Type of IP-Address.
    pub const ADDRESS: u8 = 3;
    /// Type of the primary DNS server.
    pub const DNS1: u8 = 129;
    /// Type of the primary NBNS server.
    pub const NBNS1: u8 = 130;
    /// Type of the secondary DNS server.
    pub const DNS2: u8 = 131;
    /// Type of the secondary NBNS server.
    pub const NBNS2: u8 = 132;

    /// Reads an option.
    pub fn decode(option: RawOption<'_>) -> Self {
        match (option.kind, option.data) {
            (Self::ADDRESSES, _) => Self::Addresses,
            (Self::COMPRESSION, &[a, b, ..]) => Self::Compression(u16::from_be_bytes([a, b])),
            (Self::ADDRESS, &[a, b, c, d]) => Self::Address(Ipv4Addr::new(a, b, c, d)),
            (kind @ Self::DNS1..=Self::NBNS2, &[a, b, c, d]) => Self::Server(kind, Ipv4Addr::new(a, b, c, d)),
            (kind @ (Self::COMPRESSION | Self::ADDRESS | Self::DNS1..=Self::NBNS2), _) => {
                Self::BadLength(kind)
            }
            (kind, _) => Self::Unknown(kind),
        }
    }

    /// Appends the option. The forms that stand for what is never sent append nothing.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Address(address) => put_option(out, Self::ADDRESS, &address.octets()),
            Self::Server(kind, address) => put_option(out, kind, &address.octets()),
            Self::Compression(number) => put_option(out, Self::COMPRESSION, &number.to_be_bytes()),
            Self::Addresses | Self::BadLength(_) | Self::Unknown(_) => {}
        }
    }
}

/// An option of IPV6CP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6cpOption {
    /// Interface-Identifier (RFC 5072, 4.1).
    InterfaceId(u64),
    /// IPv6-Compression-Protocol (RFC 5072, 4; RFC 5172).
    Compression(u16),
    /// A type listed above with a length that is not its own.
    BadLength(u8),
    /// Any other type.
    Unknown(u8),
}

impl Ipv6cpOption {
    /// Type of Interface-Identifier.
    pub const INTERFACE_ID: u8 = 1;
    /// Type of IPv6-Compression-Protocol.
    pub const COMPRESSION: u8 = 2;

    /// Reads an option.
    pub fn decode(option: RawOption<'_>) -> Self {
        match (option.kind, option.data) {
            (Self::INTERFACE_ID, data) => match <[u8; 8]>::try_from(data) {
                Ok(id) => Self::InterfaceId(u64::from_be_bytes(id)),
                Err(_) => Self::BadLength(option.kind),
            },
            (Self::COMPRESSION, &[a, b, ..]) => Self::Compression(u16::from_be_bytes([a, b])),
            (Self::COMPRESSION, _) => Self::BadLength(option.kind),
            (kind, _) => Self::Unknown(kind),
        }
    }

    /// Appends the option. The forms that stand for what is never sent append nothing.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::InterfaceId(id) => put_option(out, Self::INTERFACE_ID, &id.to_be_bytes()),
            Self::Compression(number) => put_option(out, Self::COMPRESSION, &number.to_be_bytes()),
            Self::BadLength(_) | Self::Unknown(_) => {}
        }
    }
}
