//! The attributes of one message, gathered before the message is put together from them.

use super::avp::{Avp, Avps, WalkError, attribute, kind};
use super::hidden;
use sluice_auth::Secret;
use std::borrow::Cow;

/// What was wrong with an AVP that had the M bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The walk failed.
    Walk(WalkError),
    /// The attribute is not known, or a reserved bit is set.
    Unknown { vendor: u16, kind: u16 },
    /// The value has a length it cannot have.
    Length(u16),
    /// The value is hidden though it may not be, or cannot be revealed.
    Hidden(u16),
}

/// The values of the known attributes of one message, first come first served.
pub(super) struct Fields<'a> {
    values: Vec<(u16, Cow<'a, [u8]>)>,
}

impl<'a> Fields<'a> {
    /// Gathers what a body holds. Returns what could be read together with the first fault that must not be
    /// ignored; AVPs without the M bit that are unknown or malformed are passed over (RFC 2661, 4.1 and 7.1).
    pub(super) fn gather(body: &'a [u8], secret: Option<&Secret>) -> (Self, Option<Fault>) {
        let mut fields = Self { values: Vec::new() };
        let mut fault = None;
        let mut vector: Option<&[u8]> = None;
        for step in Avps::new(body) {
            let avp = match step {
                Ok(avp) => avp,
                Err(error) => return (fields, fault.or(Some(Fault::Walk(error)))),
            };
            match fields.take(avp, secret, vector) {
                Ok(()) if avp.kind == kind::RANDOM_VECTOR && avp.vendor == 0 && !avp.reserved => {
                    vector = Some(avp.value);
                }
                Ok(()) => {}
                Err(found) => fault = fault.or(avp.mandatory.then_some(found)),
            }
        }
        (fields, fault)
    }

    fn take(&mut self, avp: Avp<'a>, secret: Option<&Secret>, vector: Option<&[u8]>) -> Result<(), Fault> {
        let unknown = Fault::Unknown {
            vendor: avp.vendor,
            kind: avp.kind,
        };
        if avp.reserved || avp.vendor != 0 {
            return Err(unknown);
        }
        let known = attribute(avp.kind).ok_or(unknown)?;
        let value = if avp.hidden {
            if !known.hideable {
                return Err(Fault::Hidden(avp.kind));
            }
            let (secret, vector) = secret.zip(vector).ok_or(Fault::Hidden(avp.kind))?;
            let plain = hidden::reveal(avp.kind, secret, vector, avp.value);
            Cow::Owned(plain.ok_or(Fault::Hidden(avp.kind))?)
        } else {
            Cow::Borrowed(avp.value)
        };
        if !known.size.fits(value.len()) {
            return Err(Fault::Length(avp.kind));
        }
        if avp.kind != kind::RANDOM_VECTOR && self.get(avp.kind).is_none() {
            self.values.push((avp.kind, value));
        }
        Ok(())
    }

    /// The value of an attribute.
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        let found = self.values.iter().find(|(number, _)| *number == kind);
        found.map(|(_, value)| value.as_ref())
    }

    /// A copy of a value of any length.
    pub(super) fn bytes(&self, kind: u16) -> Option<Vec<u8>> {
        self.get(kind).map(<[u8]>::to_vec)
    }

    /// A copy of a string, cut at what is kept of a peer's strings.
    pub(super) fn string(&self, kind: u16) -> Option<Vec<u8>> {
        self.get(kind)
            .map(|value| value.get(..sluice_spi::wire::MAX_TEXT).unwrap_or(value).to_vec())
    }

    /// A value of a fixed size; the sizes were checked when it was gathered.
    pub(super) fn array<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.get(kind)?.try_into().ok()
    }

    /// A 16-bit number.
    pub(super) fn u16(&self, kind: u16) -> Option<u16> {
        self.array(kind).map(u16::from_be_bytes)
    }

    /// A 32-bit number.
    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        self.array(kind).map(u32::from_be_bytes)
    }
}
