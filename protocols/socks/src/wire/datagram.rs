//! Datagrams between a client and its relay (RFC 1928, 7).

use super::{Address, AddressError, address};
use bytes::BytesMut;
use sluice_spi::wire::Reader;
use std::net::SocketAddr;

/// Bit of FRAG that ends a sequence.
const LAST: u8 = 0x80;

/// Octets that [`encode`] adds at the most.
pub const OVERHEAD: usize = 3 + address::LONGEST;

/// A datagram from a client, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// FRAG.
    pub fragment: Fragment,
    /// ATYP, DST.ADDR and DST.PORT as they stand there; [`target`] reads them.
    pub target: &'a [u8],
    /// DST.PORT.
    pub port: u16,
    /// DATA.
    pub payload: &'a [u8],
}

/// What FRAG says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// A whole datagram.
    Whole,
    /// A part.
    Part {
        /// Its place in the sequence, 1 to 127; 0 is no right place.
        position: u8,
        /// Whether it is the last.
        last: bool,
    },
}

/// A datagram cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDatagram {
    /// It ends within its header.
    #[error("truncated header")]
    Truncated,
    /// RSV is not 0.
    #[error("reserved octets are not 0")]
    Reserved,
    /// The address type is none of RFC 1928's.
    #[error("unknown address type")]
    AddressType,
}

impl From<AddressError> for BadDatagram {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Truncated => BadDatagram::Truncated,
            AddressError::Type(_) => BadDatagram::AddressType,
        }
    }
}

/// Takes a client's datagram apart.
pub fn decode(packet: &[u8]) -> Result<Datagram<'_>, BadDatagram> {
    let mut reader = Reader::new(packet);
    let Ok([reserved0, reserved1, fragment]) = reader.array() else {
        return Err(BadDatagram::Truncated);
    };
    if [reserved0, reserved1] != [0, 0] {
        return Err(BadDatagram::Reserved);
    }
    let from_target = reader.rest();
    let (_, port) = Address::decode(&mut reader)?;
    let payload = reader.rest();
    let target = from_target
        .get(..from_target.len() - payload.len())
        .unwrap_or_default();
    let fragment = match fragment {
        0 => Fragment::Whole,
        fragment => Fragment::Part {
            position: fragment & !LAST,
            last: fragment & LAST != 0,
        },
    };
    Ok(Datagram {
        fragment,
        target,
        port,
        payload,
    })
}

/// Reads a datagram's target: all of the octets, no more and no less.
pub fn target(octets: &[u8]) -> Result<(Address<'_>, u16), AddressError> {
    let mut reader = Reader::new(octets);
    let target = Address::decode(&mut reader)?;
    if reader.is_empty() {
        Ok(target)
    } else {
        Err(AddressError::Truncated)
    }
}

/// Appends what a client is sent for a payload that came from `from`.
pub fn encode(from: SocketAddr, payload: &[u8], out: &mut BytesMut) {
    let (octets, length) = address::encode(from);
    out.reserve(OVERHEAD + payload.len());
    out.extend_from_slice(&[0, 0, 0]);
    out.extend_from_slice(octets.get(..length).unwrap_or_default());
    out.extend_from_slice(payload);
}
