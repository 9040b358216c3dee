//! Taking a header off a connection.

use super::{Decoded, Header, MAX_V2, Malformed, decode};
use crate::wire::take;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How much of a connection is looked at at once: more than common headers have.
const LOOK: usize = 512;

/// Why a connection has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoHeader {
    /// What it begins with is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It ended before its first octet, as checks do that only look whether somebody listens.
    #[error("it ended without a word")]
    Nothing,
    /// It ended within the header.
    #[error("it ended within the header")]
    Ended,
    /// The header was not there in time.
    #[error("the header was not there in time")]
    Timeout,
}

impl NoHeader {
    /// All of them, for closed label sets.
    pub const ALL: [NoHeader; 10] = [
        NoHeader::Malformed(Malformed::Signature),
        NoHeader::Malformed(Malformed::TooLong),
        NoHeader::Malformed(Malformed::Line),
        NoHeader::Malformed(Malformed::Command),
        NoHeader::Malformed(Malformed::Family),
        NoHeader::Malformed(Malformed::Short),
        NoHeader::Malformed(Malformed::Checksum),
        NoHeader::Nothing,
        NoHeader::Ended,
        NoHeader::Timeout,
    ];

    /// The stable code used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            NoHeader::Malformed(Malformed::Signature) => "proxy_header_signature",
            NoHeader::Malformed(Malformed::TooLong) => "proxy_header_length",
            NoHeader::Malformed(Malformed::Line) => "proxy_header_line",
            NoHeader::Malformed(Malformed::Command) => "proxy_header_command",
            NoHeader::Malformed(Malformed::Family) => "proxy_header_family",
            NoHeader::Malformed(Malformed::Short) => "proxy_header_short",
            NoHeader::Malformed(Malformed::Checksum) => "proxy_header_checksum",
            NoHeader::Nothing => "proxy_header_none",
            NoHeader::Ended => "proxy_header_ended",
            NoHeader::Timeout => "proxy_header_timeout",
        }
    }
}

/// Reads the header that a connection begins with, and not an octet more: what follows is left in the connection.
pub async fn read(stream: &TcpStream, timeout: Duration) -> Result<Header, NoHeader> {
    match tokio::time::timeout(timeout, read_unlimited(stream)).await {
        Ok(result) => result,
        Err(_) => Err(NoHeader::Timeout),
    }
}

async fn read_unlimited(stream: &TcpStream) -> Result<Header, NoHeader> {
    let mut known = Vec::new();
    let mut look = [0; LOOK];
    // Each turn takes an octet at least, and no header is longer.
    while known.len() <= MAX_V2 {
        let had = known.len();
        let ended = |_: io::Error| match had {
            0 => NoHeader::Nothing,
            _ => NoHeader::Ended,
        };
        let seen = stream.peek(&mut look).await.map_err(ended)?;
        if seen == 0 {
            return Err(ended(io::ErrorKind::UnexpectedEof.into()));
        }
        known.extend_from_slice(look.get(..seen).unwrap_or_default());
        match decode(&known)? {
            Decoded::Header(header, length) => {
                let rest = length.saturating_sub(had);
                take(stream, &mut look, rest).await.map_err(ended)?;
                return Ok(header);
            }
            Decoded::More => take(stream, &mut look, seen).await.map_err(ended)?,
        }
    }
    Err(Malformed::TooLong.into())
}

#[cfg(test)]
mod tests {
    use super::super::{Version, encode};
    use super::*;
    use crate::request::Endpoints;
    use std::collections::HashSet;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TIME: Duration = Duration::from_secs(5);

    /// The two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (far, near) = tokio::join!(far, listener.accept());
        (far.unwrap(), near.unwrap().0)
    }

    fn endpoints() -> Endpoints {
        Endpoints {
            source: "192.0.2.7:4000".parse().unwrap(),
            destination: "[2001:db8::1]:1080".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_header_is_taken_and_what_follows_is_left() {
        for version in [Version::V1, Version::V2] {
            for pieces in [1, 7, 10_000] {
                let (mut far, mut near) = pair().await;
                let mut said = Vec::new();
                encode(version, Some(endpoints()), &mut said);
                said.extend_from_slice(b"\x05\x01\x00");
                far.set_nodelay(true).unwrap();
                let send = async {
                    for piece in said.chunks(pieces) {
                        far.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    far.shutdown().await.unwrap();
                };
                let (header, ()) = tokio::join!(read(&near, TIME), send);
                assert_eq!(header, Ok(Header::Proxied(endpoints())));
                let mut rest = Vec::new();
                near.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"\x05\x01\x00", "{version:?} in pieces of {pieces}");
            }
        }
    }

    #[tokio::test]
    async fn the_longest_header_is_taken() {
        let (mut far, mut near) = pair().await;
        // LOCAL with as many octets as may follow.
        let mut said = vec![0; MAX_V2];
        said[..16].copy_from_slice(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x0f\xf0");
        said.extend_from_slice(b"rest");
        far.write_all(&said).await.unwrap();
        assert_eq!(read(&near, TIME).await, Ok(Header::Own));
        let mut rest = [0; 4];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    }

    #[tokio::test]
    async fn without_a_header_the_reason_is_told() {
        for (said, reason) in [
            (&b""[..], NoHeader::Nothing),
            (b"PROXY TC", NoHeader::Ended),
            (b"\x05\x01\x00", Malformed::Signature.into()),
            (b"PROXY TCP4 1.2.3.4\r\n", Malformed::Line.into()),
            (
                &[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
                Malformed::TooLong.into(),
            ),
        ] {
            let (mut far, near) = pair().await;
            far.write_all(said).await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(read(&near, TIME).await, Err(reason), "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_has_its_time_however_slowly_it_comes() {
        let (mut far, near) = pair().await;
        far.write_all(b"PROXY ").await.unwrap();
        assert_eq!(read(&near, TIME).await, Err(NoHeader::Timeout));
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let names: HashSet<_> = NoHeader::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), NoHeader::ALL.len());
    }
}
