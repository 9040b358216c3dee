//! The messages of the GSS-API method (RFC 1961): tokens in frames.

use super::Parsed;
use sluice_spi::wire::{Reader, Truncated};

/// Version of the sub-negotiation (RFC 1961, 3.4).
pub const VERSION: u8 = 1;
/// Octets before a token.
pub const HEADER: usize = 4;
/// The longest message.
pub const LONGEST: usize = HEADER + u16::MAX as usize;
/// What refuses a client, or a server (RFC 1961, 3.8).
pub const ABORT: [u8; 2] = [VERSION, 0xff];

/// What a message brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token for the context (RFC 1961, 3.4).
    Context = 1,
    /// A protection level (RFC 1961, 4.3).
    Level = 2,
    /// A request, a reply or data (RFC 1961, 5).
    Data = 3,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A token of the kind that was expected.
    Token(&'a [u8]),
    /// The other side refuses to go on.
    Abort,
}

/// The octets are no message of the kind that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no GSS-API message of the kind expected")]
pub struct Unexpected;

/// Reads a message of one kind.
pub fn message(bytes: &[u8], kind: Kind) -> Result<Parsed<Message<'_>>, Unexpected> {
    match (bytes.first(), bytes.get(1)) {
        (Some(&version), _) if version != VERSION => Err(Unexpected),
        (Some(_), Some(0xff)) => Ok(Some((Message::Abort, ABORT.len()))),
        (Some(_), Some(&found)) if found != kind as u8 => Err(Unexpected),
        _ => Ok(token(bytes).ok()),
    }
}

fn token(bytes: &[u8]) -> Result<(Message<'_>, usize), Truncated> {
    let mut reader = Reader::new(bytes);
    reader.u16()?;
    let length = reader.u16()?;
    let token = reader.take(length.into())?;
    Ok((Message::Token(token), bytes.len() - reader.len()))
}

/// The octets before a token; `None`: it is too long for any message.
pub fn header(kind: Kind, length: usize) -> Option<[u8; HEADER]> {
    let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
    Some([VERSION, kind as u8, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_once_it_is_whole() {
        let whole = [1, 3, 0, 2, 7, 8, 9];
        for length in 0..6 {
            assert_eq!(message(&whole[..length], Kind::Data), Ok(None));
        }
        assert_eq!(
            message(&whole, Kind::Data),
            Ok(Some((Message::Token(&[7, 8]), 6)))
        );
        assert_eq!(
            message(&[1, 1, 0, 0, 5], Kind::Context),
            Ok(Some((Message::Token(&[]), 4)))
        );
        let longest = [&[1, 2, 0xff, 0xff][..], &[9; 0xffff]].concat();
        assert_eq!(longest.len(), LONGEST);
        assert_eq!(message(&longest[..LONGEST - 1], Kind::Level), Ok(None));
        let read = message(&longest, Kind::Level);
        assert_eq!(read, Ok(Some((Message::Token(&[9; 0xffff]), LONGEST))));
    }

    #[test]
    fn each_octet_is_judged_when_it_is_there() {
        assert_eq!(message(&[5], Kind::Data), Err(Unexpected));
        for kind in [Kind::Context, Kind::Level, Kind::Data] {
            assert_eq!(message(&[1], kind), Ok(None));
            assert_eq!(message(&ABORT, kind), Ok(Some((Message::Abort, 2))));
            assert_eq!(message(&[2, 0xff], kind), Err(Unexpected));
            for other in (0..0xffu8).filter(|other| *other != kind as u8) {
                assert_eq!(message(&[1, other], kind), Err(Unexpected));
            }
        }
    }

    #[test]
    fn a_header_says_the_length() {
        assert_eq!(header(Kind::Data, 0x1234), Some([1, 3, 0x12, 0x34]));
        assert_eq!(header(Kind::Context, 0xffff), Some([1, 1, 0xff, 0xff]));
        assert_eq!(header(Kind::Context, 0x1_0000), None);
    }
}
