//! PAP packets (RFC 1334, 2.2).

use super::{Malformed, Packet};
use sluice_auth::Secret;
use sluice_spi::wire::Reader;

/// Code of Authenticate-Request.
pub const REQUEST: u8 = 1;
/// Code of Authenticate-Ack.
pub const ACK: u8 = 2;
/// Code of Authenticate-Nak.
pub const NAK: u8 = 3;

/// What a concealed password is overwritten with.
pub const CONCEALED: u8 = b'*';

/// The body of an Authenticate-Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Who the peer says it is.
    pub name: &'a [u8],
    /// Its password.
    pub password: Secret,
}

impl<'a> Request<'a> {
    /// Reads the body; what follows the password is ignored.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let name = short_string(&mut reader)?;
        let password = Secret::new(short_string(&mut reader)?);
        Ok(Self { name, password })
    }

    /// Appends a whole request packet; strings over 255 octets are cut.
    pub fn encode(&self, id: u8, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(2 + self.name.len() + self.password.expose().len());
        put_short_string(&mut body, self.name);
        put_short_string(&mut body, self.password.expose());
        let code = REQUEST;
        Packet {
            code,
            id,
            body: &body,
        }
        .encode(out);
        zeroize_body(body);
    }
}

/// The buffer held a password: hand it to the type that wipes it.
fn zeroize_body(body: Vec<u8>) {
    drop(Secret::new(body));
}

/// Overwrites the password in the information field of a PAP packet. What is cut short is overwritten as far as it
/// is there.
pub fn conceal(information: &mut [u8]) {
    let Some((header, body)) = information.split_first_chunk_mut::<4>() else {
        return;
    };
    if let ([REQUEST, ..], Some((&mut name, rest))) = (header, body.split_first_mut())
        && let Some([_, password @ ..]) = rest.get_mut(usize::from(name)..)
    {
        password.fill(CONCEALED);
    }
}

/// The message of an Ack or Nak. Peers that leave it out altogether, without even a length, are understood.
pub fn message(body: &[u8]) -> &[u8] {
    short_string(&mut Reader::new(body)).unwrap_or(&[])
}

/// Appends a whole Ack or Nak.
pub fn encode_answer(code: u8, id: u8, message: &str, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(1 + message.len());
    put_short_string(&mut body, message.as_bytes());
    Packet {
        code,
        id,
        body: &body,
    }
    .encode(out);
}

fn short_string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = reader.u8()?;
    Ok(reader.take(usize::from(length))?)
}

fn put_short_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..255).unwrap_or(bytes);
    out.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(bytes);
}
