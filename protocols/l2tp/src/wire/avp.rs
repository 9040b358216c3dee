//! Attribute-value pairs (RFC 2661, 4.1): the walk over a message's body, and what is known of each attribute.

use sluice_spi::wire::Reader;

/// Octets before an AVP's value.
pub const AVP_HEADER: usize = 6;
/// Longest AVP, by its ten-bit length field.
pub const MAX_AVP: usize = 1023;
/// Most AVPs of one message. RFC 2661 knows 40 attributes, and none repeats usefully.
pub const MAX_AVPS: usize = 64;

/// Attribute types of vendor 0, and their properties.
pub mod kind {
    #![allow(missing_docs)]
    pub const MESSAGE_TYPE: u16 = 0;
    pub const RESULT_CODE: u16 = 1;
    pub const PROTOCOL_VERSION: u16 = 2;
    pub const FRAMING_CAPABILITIES: u16 = 3;
    pub const BEARER_CAPABILITIES: u16 = 4;
    pub const TIE_BREAKER: u16 = 5;
    pub const FIRMWARE_REVISION: u16 = 6;
    pub const HOST_NAME: u16 = 7;
    pub const VENDOR_NAME: u16 = 8;
    pub const ASSIGNED_TUNNEL_ID: u16 = 9;
    pub const RECEIVE_WINDOW_SIZE: u16 = 10;
    pub const CHALLENGE: u16 = 11;
    pub const Q931_CAUSE: u16 = 12;
    pub const CHALLENGE_RESPONSE: u16 = 13;
    pub const ASSIGNED_SESSION_ID: u16 = 14;
    pub const CALL_SERIAL_NUMBER: u16 = 15;
    pub const MINIMUM_BPS: u16 = 16;
    pub const MAXIMUM_BPS: u16 = 17;
    pub const BEARER_TYPE: u16 = 18;
    pub const FRAMING_TYPE: u16 = 19;
    pub const CALLED_NUMBER: u16 = 21;
    pub const CALLING_NUMBER: u16 = 22;
    pub const SUB_ADDRESS: u16 = 23;
    pub const TX_CONNECT_SPEED: u16 = 24;
    pub const PHYSICAL_CHANNEL: u16 = 25;
    pub const INITIAL_RECEIVED_CONFREQ: u16 = 26;
    pub const LAST_SENT_CONFREQ: u16 = 27;
    pub const LAST_RECEIVED_CONFREQ: u16 = 28;
    pub const PROXY_AUTHEN_TYPE: u16 = 29;
    pub const PROXY_AUTHEN_NAME: u16 = 30;
    pub const PROXY_AUTHEN_CHALLENGE: u16 = 31;
    pub const PROXY_AUTHEN_ID: u16 = 32;
    pub const PROXY_AUTHEN_RESPONSE: u16 = 33;
    pub const CALL_ERRORS: u16 = 34;
    pub const ACCM: u16 = 35;
    pub const RANDOM_VECTOR: u16 = 36;
    pub const PRIVATE_GROUP: u16 = 37;
    pub const RX_CONNECT_SPEED: u16 = 38;
    pub const SEQUENCING_REQUIRED: u16 = 39;
    /// PPP Disconnect Cause (RFC 3145).
    pub const PPP_DISCONNECT_CAUSE: u16 = 46;
}

/// What the values of an attribute look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Exactly so many octets.
    Exactly(usize),
    /// So many octets or more.
    AtLeast(usize),
}

impl Size {
    /// Whether a value of `length` octets is one.
    pub fn fits(self, length: usize) -> bool {
        match self {
            Size::Exactly(size) => length == size,
            Size::AtLeast(size) => length >= size,
        }
    }
}

/// What RFC 2661, 4.4 says of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Whether it is sent with the M bit.
    pub mandatory: bool,
    /// Whether it may be hidden.
    pub hideable: bool,
    /// Size of its value before hiding.
    pub size: Size,
}

/// The properties of an attribute of vendor 0; `None`: not known to this implementation.
pub fn attribute(number: u16) -> Option<Attribute> {
    use Size::{AtLeast, Exactly};
    let (mandatory, hideable, size) = match number {
        kind::MESSAGE_TYPE => (true, false, Exactly(2)),
        kind::RESULT_CODE => (true, false, AtLeast(2)),
        kind::PROTOCOL_VERSION => (true, false, Exactly(2)),
        kind::FRAMING_CAPABILITIES | kind::BEARER_CAPABILITIES => (true, true, Exactly(4)),
        kind::TIE_BREAKER => (false, false, Exactly(8)),
        kind::FIRMWARE_REVISION => (false, true, Exactly(2)),
        kind::HOST_NAME => (true, false, AtLeast(1)),
        kind::VENDOR_NAME => (false, true, AtLeast(0)),
        kind::ASSIGNED_TUNNEL_ID => (true, true, Exactly(2)),
        kind::RECEIVE_WINDOW_SIZE => (true, false, Exactly(2)),
        kind::CHALLENGE => (true, true, AtLeast(1)),
        kind::Q931_CAUSE => (true, false, AtLeast(3)),
        kind::CHALLENGE_RESPONSE => (true, true, Exactly(16)),
        kind::ASSIGNED_SESSION_ID => (true, true, Exactly(2)),
        kind::CALL_SERIAL_NUMBER | kind::MINIMUM_BPS | kind::MAXIMUM_BPS => (true, true, Exactly(4)),
        kind::BEARER_TYPE | kind::FRAMING_TYPE | kind::TX_CONNECT_SPEED => (true, true, Exactly(4)),
        kind::CALLED_NUMBER | kind::CALLING_NUMBER | kind::SUB_ADDRESS => (true, true, AtLeast(0)),
        kind::PHYSICAL_CHANNEL | kind::RX_CONNECT_SPEED => (false, true, Exactly(4)),
        kind::INITIAL_RECEIVED_CONFREQ | kind::LAST_SENT_CONFREQ | kind::LAST_RECEIVED_CONFREQ => {
            (false, true, AtLeast(0))
        }
        kind::PROXY_AUTHEN_TYPE | kind::PROXY_AUTHEN_ID => (false, true, Exactly(2)),
        kind::PROXY_AUTHEN_NAME | kind::PROXY_AUTHEN_RESPONSE => (false, true, AtLeast(0)),
        kind::PROXY_AUTHEN_CHALLENGE => (false, true, AtLeast(1)),
        kind::CALL_ERRORS => (true, true, Exactly(26)),
        kind::ACCM => (true, true, Exactly(10)),
        kind::RANDOM_VECTOR => (true, false, AtLeast(0)),
        kind::PRIVATE_GROUP => (false, true, AtLeast(0)),
        kind::SEQUENCING_REQUIRED => (true, false, Exactly(0)),
        kind::PPP_DISCONNECT_CAUSE => (false, true, AtLeast(5)),
        _ => return None,
    };
    Some(Attribute {
        mandatory,
        hideable,
        size,
    })
}

/// One AVP as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avp<'a> {
    /// The M bit.
    pub mandatory: bool,
    /// The H bit.
    pub hidden: bool,
    /// Whether one of the reserved bits is set: such an AVP counts as unknown.
    pub reserved: bool,
    /// Vendor; 0 for those of the standards.
    pub vendor: u16,
    /// Attribute type.
    pub kind: u16,
    /// The value, still hidden where it is.
    pub value: &'a [u8],
}

/// The AVPs of a message cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// An AVP is shorter than its header or longer than what is left.
    #[error("AVP with a wrong length")]
    Length,
    /// There are more than [`MAX_AVPS`].
    #[error("too many AVPs")]
    TooMany,
}

/// Walks the AVPs of a body. Each step consumes at least six octets; after an error it ends.
#[derive(Clone, Debug)]
pub struct Avps<'a> {
    rest: Reader<'a>,
    count: usize,
}

impl<'a> Avps<'a> {
    /// Starts at the first AVP.
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            rest: Reader::new(body),
            count: 0,
        }
    }

    fn step(&mut self) -> Result<Avp<'a>, WalkError> {
        if self.count == MAX_AVPS {
            return Err(WalkError::TooMany);
        }
        self.count += 1;
        let wrong = |_| WalkError::Length;
        let bits = self.rest.u16().map_err(wrong)?;
        let vendor = self.rest.u16().map_err(wrong)?;
        let kind = self.rest.u16().map_err(wrong)?;
        let length = usize::from(bits & 0x03ff)
            .checked_sub(AVP_HEADER)
            .ok_or(WalkError::Length)?;
        let value = self.rest.take(length).map_err(wrong)?;
        Ok(Avp {
            mandatory: bits & 0x8000 != 0,
            hidden: bits & 0x4000 != 0,
            reserved: bits & 0x3c00 != 0,
            vendor,
            kind,
            value,
        })
    }
}

impl<'a> Iterator for Avps<'a> {
    type Item = Result<Avp<'a>, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r02_a_walk_always_ends() {
        for length in 0..6u8 {
            let body = [0x80, length, 0, 0, 0, 0, 0x80, 6, 0, 0, 0, 39];
            let walked: Vec<_> = Avps::new(&body).collect();
            assert_eq!(walked, [Err(WalkError::Length)], "length {length}");
        }
        let body = [0x80, 6, 0, 0, 0, 39].repeat(65);
        let walked: Vec<_> = Avps::new(&body).collect();
        assert_eq!(walked.len(), 65);
        assert_eq!(walked.last(), Some(&Err(WalkError::TooMany)));
    }

    #[test]
    fn bits_are_told_apart() {
        let avp = |bits: [u8; 2]| {
            let body = [bits[0], bits[1], 0, 9, 0, 7];
            let avp = Avps::new(&body).next().unwrap().unwrap();
            (avp.mandatory, avp.hidden, avp.reserved, avp.vendor, avp.kind)
        };
        assert_eq!(avp([0x80, 6]), (true, false, false, 9, 7));
        assert_eq!(avp([0x40, 6]), (false, true, false, 9, 7));
        for bit in [0x20, 0x10, 0x08, 0x04] {
            assert_eq!(avp([bit, 6]), (false, false, true, 9, 7));
        }
    }
}
