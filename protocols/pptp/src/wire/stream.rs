//! Finding messages in the octets of a TCP connection, however it is cut.

use super::decode::{Decoded, decode};
use super::message::{CONTROL, HEADER, LONGEST, MAGIC, number};
use sluice_spi::wire::Reader;

/// The octets are no PPTP: nothing that follows can be made sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length that no message has, or not this one.
    #[error("a message with a length of {0} octets")]
    Length(u16),
    /// Another Magic Cookie.
    #[error("a message without the magic cookie")]
    Magic,
}

/// The beginning of a message that is not whole yet, at most [`LONGEST`] octets.
#[derive(Debug, Default)]
pub struct Stream {
    held: Vec<u8>,
}

impl Stream {
    /// Goes on from a beginning that was held before; `None`: it cannot be one.
    pub fn resume(held: &[u8]) -> Option<Self> {
        let wanted = check(held).ok()?;
        (held.len() < wanted).then(|| Self { held: held.to_vec() })
    }

    /// What is held.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Takes the next message from the front of `input`; `None`: all of it was taken, and more is needed.
    ///
    /// # Errors
    ///
    /// Where the octets are no PPTP. Found as soon as the header says so.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Decoded>, Malformed> {
        loop {
            let wanted = check(&self.held)?;
            if self.held.len() == wanted {
                let decoded = decode(&self.held);
                self.held.clear();
                // Its length was right, so that it is not too short.
                return Ok(decoded);
            }
            if input.is_empty() {
                self.held.shrink_to_fit();
                return Ok(None);
            }
            let missing = (wanted - self.held.len()).min(input.len());
            let (taken, rest) = input.split_at(missing);
            self.held.extend_from_slice(taken);
            *input = rest;
        }
    }
}

/// Octets that a message needs that begins so: those of its header until that is whole.
fn check(held: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(held);
    let Ok(length) = reader.u16() else {
        return Ok(HEADER);
    };
    let wanted = usize::from(length);
    if !(HEADER..=LONGEST).contains(&wanted) {
        return Err(Malformed::Length(length));
    }
    let Ok(kind) = reader.u16() else {
        return Ok(HEADER);
    };
    match reader.u32() {
        Ok(MAGIC) => {}
        Ok(_) => return Err(Malformed::Magic),
        Err(_) => return Ok(HEADER),
    }
    let Ok(control) = reader.u16() else {
        return Ok(HEADER);
    };
    match number::length(control).filter(|_| kind == CONTROL) {
        Some(right) if right != wanted => Err(Malformed::Length(length)),
        _ if held.len() < HEADER => Ok(HEADER),
        _ => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::super::message::Message;
    use super::*;
    use bytes::BytesMut;

    fn echo(identifier: u32) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&Message::EchoRequest(identifier), &mut out);
        out
    }

    #[test]
    fn r27_messages_are_found_however_they_are_cut() {
        let mut unknown = echo(0);
        unknown[9] = 77;
        let mut management = echo(0);
        management[3] = 2;
        let octets = [&echo(1)[..], &unknown, &management, &echo(2)].concat();
        let expected = [
            Decoded::Message(Message::EchoRequest(1)),
            Decoded::Unknown(1, 77),
            Decoded::Unknown(2, 5),
            Decoded::Message(Message::EchoRequest(2)),
        ];
        for size in 1..=octets.len() {
            let mut stream = Stream::default();
            let mut found = Vec::new();
            for mut piece in octets.chunks(size) {
                while let Some(decoded) = stream.next(&mut piece).unwrap() {
                    found.push(decoded);
                    assert!(stream.held().is_empty());
                }
                assert!(piece.is_empty() && stream.held().len() < LONGEST);
                let again = Stream::resume(stream.held()).unwrap();
                assert_eq!(again.held(), stream.held());
            }
            assert_eq!(found, expected, "pieces of {size}");
        }
    }

    #[test]
    fn r27_bad_magic_and_length_are_found_at_once() {
        let first = |bytes: &[u8]| Stream::default().next(&mut &bytes[..]);
        for length in [0, 1, 11, 221, 65_535u16] {
            assert_eq!(first(&length.to_be_bytes()), Err(Malformed::Length(length)));
        }
        assert_eq!(
            first(&[0, 16, 0, 1, 0x1a, 0x2b, 0x3c, 0x4e]),
            Err(Malformed::Magic)
        );
        assert_eq!(first(&[0, 16, 0, 1, 0x1a, 0x2b, 0x3c]), Ok(None));
        // Sixteen octets are no Start-Control-Connection-Request.
        let mut wrong = echo(1);
        wrong[9] = 1;
        assert_eq!(first(&wrong[..10]), Err(Malformed::Length(16)));
        assert_eq!(first(b"GET / HTTP/1.1\r\n"), Err(Malformed::Length(0x4745)));
        assert!(Stream::resume(&echo(1)).is_none());
        assert!(Stream::resume(b"GET").is_none());
    }
}
