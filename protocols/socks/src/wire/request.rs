//! Requests and reply codes of SOCKS5 (RFC 1928, 4 and 6).

use super::{Address, AddressError, Parsed, VERSION5};
use sluice_spi::wire::Reader;

/// What a client asks for. The numbers are the same in SOCKS5 and, as far as it goes, in SOCKS4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// A connection to a target.
    Connect = 1,
    /// A connection from a target.
    Bind = 2,
    /// A relay of datagrams (SOCKS5 only).
    UdpAssociate = 3,
}

impl Command {
    /// All commands.
    pub const ALL: [Command; 3] = [Command::Connect, Command::Bind, Command::UdpAssociate];

    /// The command with a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|command| *command as u8 == number)
    }

    /// The name used in configuration, counters and descriptions.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Connect => "connect",
            Command::Bind => "bind",
            Command::UdpAssociate => "udp_associate",
        }
    }
}

/// What a client is told of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reply {
    /// It was done.
    Succeeded = 0,
    /// General failure.
    GeneralFailure = 1,
    /// Not allowed by the rules.
    NotAllowed = 2,
    /// Network unreachable.
    NetworkUnreachable = 3,
    /// Host unreachable.
    HostUnreachable = 4,
    /// Connection refused.
    ConnectionRefused = 5,
    /// TTL expired; also said where nobody answered in time.
    TtlExpired = 6,
    /// Command not supported.
    CommandNotSupported = 7,
    /// Address type not supported.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// All replies.
    pub const ALL: [Reply; 9] = [
        Reply::Succeeded,
        Reply::GeneralFailure,
        Reply::NotAllowed,
        Reply::NetworkUnreachable,
        Reply::HostUnreachable,
        Reply::ConnectionRefused,
        Reply::TtlExpired,
        Reply::CommandNotSupported,
        Reply::AddressTypeNotSupported,
    ];

    /// The name used in descriptions and as the code of a session's end.
    pub fn as_str(self) -> &'static str {
        match self {
            Reply::Succeeded => "succeeded",
            Reply::GeneralFailure => "general_failure",
            Reply::NotAllowed => "not_allowed",
            Reply::NetworkUnreachable => "network_unreachable",
            Reply::HostUnreachable => "host_unreachable",
            Reply::ConnectionRefused => "connection_refused",
            Reply::TtlExpired => "ttl_expired",
            Reply::CommandNotSupported => "command_not_supported",
            Reply::AddressTypeNotSupported => "address_type_not_supported",
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for.
    pub command: Command,
    /// DST.ADDR.
    pub address: Address<'a>,
    /// DST.PORT.
    pub port: u16,
}

/// Reads a request. `Err` is the reply to one that can be no right one, whatever follows. RSV may be anything: there
/// are clients that send what they should not, and nothing hangs on it.
pub fn request(bytes: &[u8]) -> Result<Parsed<Request<'_>>, Reply> {
    let mut reader = Reader::new(bytes);
    let Ok(version) = reader.u8() else {
        return Ok(None);
    };
    if version != VERSION5 {
        return Err(Reply::GeneralFailure);
    }
    let Ok(number) = reader.u8() else {
        return Ok(None);
    };
    let command = Command::from_number(number).ok_or(Reply::CommandNotSupported)?;
    if reader.u8().is_err() {
        return Ok(None);
    }
    match Address::decode(&mut reader) {
        Ok((address, port)) => {
            let request = Request {
                command,
                address,
                port,
            };
            Ok(Some((request, bytes.len() - reader.len())))
        }
        Err(AddressError::Truncated) => Ok(None),
        Err(AddressError::Type(_)) => Err(Reply::AddressTypeNotSupported),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_rfc() {
        for (number, reply) in Reply::ALL.into_iter().enumerate() {
            assert_eq!(reply as usize, number);
        }
        for number in 0..=255u8 {
            let command = Command::from_number(number);
            assert_eq!(command.is_some(), (1..=3).contains(&number));
            assert!(command.is_none_or(|command| command as u8 == number));
        }
    }

    #[test]
    fn a_wrong_octet_is_known_when_it_is_there() {
        assert_eq!(request(&[]), Ok(None));
        assert_eq!(request(&[4]), Err(Reply::GeneralFailure));
        for number in (0..=255u8).filter(|number| !(1..=3).contains(number)) {
            assert_eq!(request(&[5, number]), Err(Reply::CommandNotSupported), "{number}");
        }
        assert_eq!(request(&[5, 1, 0]), Ok(None));
        for kind in (0..=255u8).filter(|kind| ![1, 3, 4].contains(kind)) {
            assert_eq!(
                request(&[5, 1, 0, kind]),
                Err(Reply::AddressTypeNotSupported),
                "{kind}"
            );
        }
    }

    #[test]
    fn the_reserved_octet_may_be_anything() {
        for reserved in 0..=255u8 {
            let bytes = [5, 1, reserved, 1, 192, 0, 2, 1, 0, 80, 9];
            let (read, length) = request(&bytes).unwrap().unwrap();
            assert_eq!((read.port, length), (80, 10));
            assert_eq!(read.address, Address::V4([192, 0, 2, 1].into()));
        }
    }
}
