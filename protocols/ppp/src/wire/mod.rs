//! Decoding and encoding of PPP control packets.

mod auth_protocol;
pub mod chap;
mod describe;
pub mod eap;
mod option;
mod options;
pub mod pap;

pub use auth_protocol::AuthProtocol;
pub use describe::describe;
pub use option::{OptionWalk, RawOption, put_option};
pub use options::{AuthOffer, IpcpOption, Ipv6cpOption, LcpOption};

use sluice_spi::wire::Reader;

/// Codes of LCP, most of them shared by all control protocols (RFC 1661, 5; RFC 1570, 1).
pub mod code {
    /// Configure-Request.
    pub const CONFIGURE_REQUEST: u8 = 1;
    /// Configure-Ack.
    pub const CONFIGURE_ACK: u8 = 2;
    /// Configure-Nak.
    pub const CONFIGURE_NAK: u8 = 3;
    /// Configure-Reject.
    pub const CONFIGURE_REJECT: u8 = 4;
    /// Terminate-Request.
    pub const TERMINATE_REQUEST: u8 = 5;
    /// Terminate-Ack.
    pub const TERMINATE_ACK: u8 = 6;
    /// Code-Reject.
    pub const CODE_REJECT: u8 = 7;
    /// Protocol-Reject (LCP only).
    pub const PROTOCOL_REJECT: u8 = 8;
    /// Echo-Request (LCP only).
    pub const ECHO_REQUEST: u8 = 9;
    /// Echo-Reply (LCP only).
    pub const ECHO_REPLY: u8 = 10;
    /// Discard-Request (LCP only).
    pub const DISCARD_REQUEST: u8 = 11;
    /// Identification (LCP only).
    pub const IDENTIFICATION: u8 = 12;
    /// Time-Remaining (LCP only).
    pub const TIME_REMAINING: u8 = 13;
    /// Reset-Request, of CCP only (RFC 1962, 3).
    pub const RESET_REQUEST: u8 = 14;
    /// Reset-Ack, of CCP only.
    pub const RESET_ACK: u8 = 15;
}

/// Length of the header of a control packet: code, identifier, length.
pub const HEADER: usize = 4;

/// A packet cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

impl From<sluice_spi::wire::Truncated> for Malformed {
    fn from(_: sluice_spi::wire::Truncated) -> Self {
        Malformed
    }
}

/// A control packet: the common form of LCP, the NCPs and PAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What kind of packet it is; see [`code`].
    pub code: u8,
    /// Identifier that matches requests and answers.
    pub id: u8,
    /// What follows the header, without padding.
    pub body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the information field of a frame. Octets beyond the length field are padding and are ignored; a
    /// length below the header's or above what is there is refused (RFC 1661, 5).
    pub fn decode(information: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(information);
        let (code, id, length) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let body = usize::from(length).checked_sub(HEADER).ok_or(Malformed)?;
        Ok(Self {
            code,
            id,
            body: reader.take(body)?,
        })
    }

    /// Appends the packet. A body that is too long for the length field is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let body = self.body.get(..MAX_BODY).unwrap_or(self.body);
        let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[self.code, self.id]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(body);
    }

    /// The options of a Configure packet.
    pub fn options(&self) -> OptionWalk<'a> {
        OptionWalk::new(self.body)
    }

    /// The magic number and what follows it, in Echo, Discard, Identification and Time-Remaining.
    pub fn magic(&self) -> Result<(u32, &'a [u8]), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((reader.u32()?, reader.rest()))
    }

    /// The protocol and information of a Protocol-Reject. The information may be cut short.
    pub fn rejected_protocol(&self) -> Result<(u16, &'a [u8]), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((reader.u16()?, reader.rest()))
    }

    /// The code of the packet in a Code-Reject, of which there may be no more than that.
    pub fn rejected_code(&self) -> Result<u8, Malformed> {
        Ok(Reader::new(self.body).u8()?)
    }
}

/// Largest body that the length field allows.
const MAX_BODY: usize = u16::MAX as usize - HEADER;
