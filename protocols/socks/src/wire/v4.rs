//! SOCKS4 and SOCKS4a: requests and reply codes, after the notes "SOCKS: A protocol for TCP proxy across firewalls" and
//! "SOCKS 4A" by Ying-Da Lee, which no RFC replaced.

use super::{Command, Parsed};
use sluice_spi::wire::{Reader, Truncated};
use std::net::Ipv4Addr;

/// Longest USERID and longest name in octets. The notes set no limit; SOCKS5 has this one for both.
const MAX_STRING: usize = 255;

/// What a client is told of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// It was done.
    Granted = 90,
    /// It was not.
    Rejected = 91,
}

/// A request that can be no right one, whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The command is none of SOCKS4's.
    #[error("command {0}")]
    Command(u8),
    /// A string does not end within [`MAX_STRING`] octets.
    #[error("a string of more than {MAX_STRING} octets")]
    TooLong,
}

/// Where a client wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// DSTIP.
    Address(Ipv4Addr),
    /// The name after a DSTIP of 0.0.0.x, x not being 0 (SOCKS4a).
    Name(&'a [u8]),
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What is asked for; never [`Command::UdpAssociate`].
    pub command: Command,
    /// Where to.
    pub destination: Destination<'a>,
    /// DSTPORT.
    pub port: u16,
    /// The name that the client says its user has. Nothing proves it.
    pub user: &'a [u8],
}

/// Reads a request; its first octet, the version, was looked at before.
pub fn request(bytes: &[u8]) -> Result<Parsed<Request<'_>>, BadRequest> {
    let mut reader = Reader::new(bytes);
    match read(&mut reader) {
        Ok(request) => Ok(Some((request, bytes.len() - reader.len()))),
        Err(Stop::Truncated) => Ok(None),
        Err(Stop::Bad(bad)) => Err(bad),
    }
}

enum Stop {
    Truncated,
    Bad(BadRequest),
}

impl From<Truncated> for Stop {
    fn from(_: Truncated) -> Self {
        Stop::Truncated
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, Stop> {
    reader.u8()?;
    let number = reader.u8()?;
    let command = Command::from_number(number).filter(|command| *command != Command::UdpAssociate);
    let command = command.ok_or(Stop::Bad(BadRequest::Command(number)))?;
    let port = reader.u16()?;
    let address = Ipv4Addr::from(reader.array::<4>()?);
    let user = string(reader)?;
    let destination = match address.octets() {
        [0, 0, 0, last] if last != 0 => Destination::Name(string(reader)?),
        _ => Destination::Address(address),
    };
    Ok(Request {
        command,
        destination,
        port,
        user,
    })
}

/// Takes octets up to a NUL, and the NUL.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Stop> {
    let window = reader.rest().iter().take(MAX_STRING + 1);
    match window.clone().position(|&octet| octet == 0) {
        Some(length) => {
            let string = reader.take(length)?;
            reader.u8()?;
            Ok(string)
        }
        None if window.len() > MAX_STRING => Err(Stop::Bad(BadRequest::TooLong)),
        None => Err(Stop::Truncated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_within_their_limit() {
        let with = |user: &[u8]| [&[4, 1, 0, 80, 192, 0, 2, 1], user].concat();
        let most = with(&[&[b'u'; 255][..], &[0]].concat());
        let (read, length) = request(&most).unwrap().unwrap();
        assert_eq!((read.user.len(), length), (255, most.len()));
        assert_eq!(request(&with(&[b'u'; 255])), Ok(None));
        assert_eq!(request(&with(&[b'u'; 256])), Err(BadRequest::TooLong));
        let named = |name: &[u8]| [&[4, 1, 0, 80, 0, 0, 0, 1, 0], name].concat();
        assert_eq!(request(&named(&[b'n'; 255])), Ok(None));
        assert_eq!(request(&named(&[b'n'; 256])), Err(BadRequest::TooLong));
    }

    #[test]
    fn a_name_follows_only_the_addresses_made_for_it() {
        for (address, named) in [
            ([0, 0, 0, 1], true),
            ([0, 0, 0, 255], true),
            ([0, 0, 0, 0], false),
            ([0, 0, 1, 1], false),
        ] {
            let bytes = [&[4, 1, 0, 80], &address[..], b"\0name\0rest"].concat();
            let (read, length) = request(&bytes).unwrap().unwrap();
            let expected = if named {
                (Destination::Name(b"name"), 14)
            } else {
                (Destination::Address(address.into()), 9)
            };
            assert_eq!((read.destination, length), expected);
        }
    }

    #[test]
    fn a_wrong_command_is_known_when_it_is_there() {
        for number in (0..=255u8).filter(|number| ![1, 2].contains(number)) {
            assert_eq!(request(&[4, number]), Err(BadRequest::Command(number)));
        }
    }
}
