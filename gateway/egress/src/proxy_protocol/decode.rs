//! Reading a header.

use super::{MAX_V1, MAX_V2, SIGNATURE, V2_FIXED};
use crate::request::Endpoints;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The type of a TLV that holds a CRC-32C of the header (section 2.2.3).
const TLV_CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection that is passed on. Addresses of IPv4 come as such, in whatever form they were written.
    Proxied(Endpoints),
    /// Nothing: a check of the sender's own (LOCAL), or a connection without IP addresses. That of the sender itself
    /// counts.
    Own,
}

/// What there is of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A header, and its length in octets: what follows is the connection's own.
    Header(Header, usize),
    /// The start of one.
    More,
}

/// Why octets are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Neither version starts so.
    #[error("no PROXY protocol header")]
    Signature,
    /// A line of version 1 without an end, or a version 2 header that says so, is longer than may be.
    #[error("the header is too long")]
    TooLong,
    /// A line of version 1 that is not written as it has to be.
    #[error("the line is malformed")]
    Line,
    /// Neither LOCAL nor PROXY, or no version that there is.
    #[error("the version or command is not known")]
    Command,
    /// A family or transport that there is not, or none of a stream.
    #[error("the family or transport is not known, or no stream's")]
    Family,
    /// Too short for its addresses, or for one of its TLVs.
    #[error("the header is shorter than its content")]
    Short,
    /// Its checksum, which it need not have, is not that of its octets, or no checksum.
    #[error("the checksum is wrong")]
    Checksum,
}

/// Reads a header from the first octets of a connection. Feed it all octets there are, again with each that comes.
pub fn decode(octets: &[u8]) -> Result<Decoded, Malformed> {
    let (binary, text) = (starts(octets, &SIGNATURE), starts(octets, b"PROXY "));
    match (binary, text) {
        (Start::Whole, _) => decode_v2(octets),
        (_, Start::Whole) => decode_v1(octets),
        (Start::Part, _) | (_, Start::Part) => Ok(Decoded::More),
        _ => Err(Malformed::Signature),
    }
}

enum Start {
    Whole,
    Part,
    Other,
}

fn starts(octets: &[u8], with: &[u8]) -> Start {
    if octets.starts_with(with) {
        Start::Whole
    } else if with.starts_with(octets) {
        Start::Part
    } else {
        Start::Other
    }
}

fn decode_v1(octets: &[u8]) -> Result<Decoded, Malformed> {
    let within = octets.get(..MAX_V1).unwrap_or(octets);
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if octets.len() >= MAX_V1 {
            Err(Malformed::TooLong)
        } else {
            Ok(Decoded::More)
        };
    };
    let line = within
        .get(..end)
        .and_then(|line| str::from_utf8(line).ok())
        .ok_or(Malformed::Line)?;
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // What follows is to be ignored (section 2.1).
        Some("UNKNOWN") => Header::Own,
        Some("TCP4") => line_endpoints::<Ipv4Addr>(words)?,
        Some("TCP6") => line_endpoints::<Ipv6Addr>(words)?,
        _ => return Err(Malformed::Line),
    };
    Ok(Decoded::Header(header, end + 2))
}

fn line_endpoints<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<Header, Malformed> {
    let mut word = || words.next().ok_or(Malformed::Line);
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed::Line);
    }
    let endpoint = |address: &str, port: &str| {
        let address: A = address.parse().map_err(|_| Malformed::Line)?;
        Ok(SocketAddr::new(address.into().to_canonical(), line_port(port)?))
    };
    Ok(Header::Proxied(Endpoints {
        source: endpoint(source, source_port)?,
        destination: endpoint(destination, destination_port)?,
    }))
}

/// A port in decimal digits without leading zeros (section 2.1).
fn line_port(word: &str) -> Result<u16, Malformed> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    let port = if plain { word.parse().ok() } else { None };
    port.ok_or(Malformed::Line)
}

fn decode_v2(octets: &[u8]) -> Result<Decoded, Malformed> {
    let Some([command, family, high, low]) = octets.get(SIGNATURE.len()..).and_then(<[u8]>::first_chunk)
    else {
        return Ok(Decoded::More);
    };
    let (command, family) = (*command, *family);
    if command >> 4 != 2 || command & 0x0f > 1 {
        return Err(Malformed::Command);
    }
    let total = V2_FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if total > MAX_V2 {
        return Err(Malformed::TooLong);
    }
    let Some(content) = octets.get(V2_FIXED..total) else {
        return Ok(Decoded::More);
    };
    // A check of the sender's own: what it says of addresses is to be ignored (section 2.2).
    let header = if command & 0x0f == 0 {
        Header::Own
    } else {
        let (header, tlvs) = addresses(family, content)?;
        check_tlvs(octets.get(..total).unwrap_or(octets), tlvs)?;
        header
    };
    Ok(Decoded::Header(header, total))
}

/// The addresses of a PROXY command, by the family (high half) and transport (low half) they are of, and what follows
/// them.
fn addresses(family: u8, content: &[u8]) -> Result<(Header, &[u8]), Malformed> {
    match family {
        0x00 => Ok((Header::Own, content)),
        0x11 => endpoints::<4>(content),
        0x21 => endpoints::<16>(content),
        // A UNIX stream: two paths of 108 octets.
        0x31 => Ok((Header::Own, content.get(216..).ok_or(Malformed::Short)?)),
        _ => Err(Malformed::Family),
    }
}

fn endpoints<const N: usize>(content: &[u8]) -> Result<(Header, &[u8]), Malformed>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = content.split_first_chunk::<N>().ok_or(Malformed::Short)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(Malformed::Short)?;
    let (source_port, rest) = rest.split_first_chunk::<2>().ok_or(Malformed::Short)?;
    let (destination_port, rest) = rest.split_first_chunk::<2>().ok_or(Malformed::Short)?;
    let endpoint = |address: [u8; N], port: [u8; 2]| {
        SocketAddr::new(IpAddr::from(address).to_canonical(), u16::from_be_bytes(port))
    };
    let header = Header::Proxied(Endpoints {
        source: endpoint(*source, *source_port),
        destination: endpoint(*destination, *destination_port),
    });
    Ok((header, rest))
}

/// Type, length in two octets, value: they have to fill the rest (section 2.2.1). A checksum among them has to be right
/// (section 2.2.3).
fn check_tlvs(whole: &[u8], mut rest: &[u8]) -> Result<(), Malformed> {
    while !rest.is_empty() {
        let ([kind, high, low], after) = rest.split_first_chunk().ok_or(Malformed::Short)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after.split_at_checked(length).ok_or(Malformed::Short)?;
        if *kind == TLV_CRC32C {
            check_sum(whole, value, next.len())?;
        }
        rest = next;
    }
    Ok(())
}

/// Whether the value of a checksum, with `after` octets of the header behind it, is that of the whole header with zeros
/// in its place.
fn check_sum(whole: &[u8], value: &[u8], after: usize) -> Result<(), Malformed> {
    let stated: [u8; 4] = value.try_into().map_err(|_| Malformed::Checksum)?;
    let end = whole.len().checked_sub(after).ok_or(Malformed::Checksum)?;
    let start = end.checked_sub(stated.len()).ok_or(Malformed::Checksum)?;
    let (Some(before), Some(behind)) = (whole.get(..start), whole.get(end..)) else {
        return Err(Malformed::Checksum);
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    match crc32c::crc32c_append(sum, behind) == u32::from_be_bytes(stated) {
        true => Ok(()),
        false => Err(Malformed::Checksum),
    }
}
