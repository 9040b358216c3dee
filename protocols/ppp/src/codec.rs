//! The PPP half of a path's codec: header, and encryption where the link has it. A carrier puts its own header around.

use crate::drops;
use crate::header::{PppHeader, protocol};
use crate::mppe::{self, Decoder, Encoder, MppeState, Undecoded};
use crate::user_data::UserData;
use crate::wire::code;
use bytes::BytesMut;
use sluice_spi::DropReason;
use std::time::Instant;

/// How user data of a link is encrypted: see [`crate::PppPath`].
#[derive(Clone, Debug)]
pub struct Encryption {
    /// Where both directions begin.
    pub(crate) state: MppeState,
    /// Whether they go on where another process was.
    pub(crate) resumed: bool,
    /// Number of this agreement: no other of the link has it.
    pub(crate) agreement: u32,
}

impl PartialEq for Encryption {
    /// Whether it is the same agreement, however far it has gone.
    fn eq(&self, other: &Self) -> bool {
        self.agreement == other.agreement && self.state.modes() == other.state.modes()
    }
}

impl Eq for Encryption {}

/// The PPP half of a path's codec.
#[derive(Debug)]
pub struct PppCodec {
    header: PppHeader,
    mppe: Option<Box<Mppe>>,
}

#[derive(Debug)]
struct Mppe {
    encoder: Encoder,
    decoder: Decoder,
}

impl PppCodec {
    /// Most octets that [`PppCodec::seal`] adds to an IP packet.
    pub const MAX_OVERHEAD: usize = PppHeader::MAX + mppe::OVERHEAD;

    /// A codec for a path. From now on the keys of its encryption move on in it, and nowhere else.
    pub fn new(header: PppHeader, encryption: Option<&Encryption>) -> Self {
        let mppe = encryption.map(|encryption| {
            let (send, receive) = encryption.state.clone().split();
            Box::new(Mppe {
                encoder: Encoder::new(send, encryption.resumed),
                decoder: Decoder::new(receive, encryption.resumed),
            })
        });
        Self { header, mppe }
    }

    /// Whether user data is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.mppe.is_some()
    }

    /// Where encryption stands, for another process; `None`: there is none. It is a secret.
    pub fn state(&self) -> Option<MppeState> {
        let mppe = self.mppe.as_ref()?;
        Some(MppeState::join(mppe.encoder.state(), mppe.decoder.state()))
    }

    /// Octets that [`PppCodec::seal`] adds to an IP packet.
    pub fn overhead(&self) -> usize {
        match self.mppe {
            Some(_) => self.header.len(protocol::MPPE) + mppe::OVERHEAD,
            None => self.header.len(protocol::IPV4),
        }
    }

    /// Looks at a packet from the wire, with or without address and control, and decrypts it in place.
    ///
    /// A packet that cannot be decrypted, and means that no other can before the peer was told, is a frame of the
    /// protocol 0x00fd: the machine's link knows what to do then.
    ///
    /// # Errors
    ///
    /// Why it is dropped.
    #[inline]
    pub fn open(&mut self, packet: &mut [u8], now: Instant) -> Result<UserData, DropReason> {
        match &mut self.mppe {
            None => Ok(UserData::inspect(packet)),
            Some(mppe) => mppe.open(packet, now),
        }
    }

    /// Appends a packet as it goes on the wire, without the carrier's header.
    pub fn seal(&mut self, number: u16, information: &[u8], out: &mut BytesMut) -> bool {
        if let Some(mppe) = &mut self.mppe {
            if mppe::covers(number) {
                let before = out.len();
                self.header.seal(protocol::MPPE, out);
                let sealed = mppe.encoder.seal(number, information, out);
                if !sealed {
                    out.truncate(before);
                }
                return sealed;
            }
            // Our answer to a Reset-Request: what follows begins anew.
            if number == protocol::CCP && information.first() == Some(&code::RESET_ACK) {
                mppe.encoder.flush();
            }
        }
        self.header.seal(number, out);
        out.extend_from_slice(information);
        true
    }
}

impl Mppe {
    fn open(&mut self, packet: &mut [u8], now: Instant) -> Result<UserData, DropReason> {
        let Some((number, range)) = PppHeader::open(packet) else {
            return Ok(UserData::Bad);
        };
        if mppe::covers(number) {
            return Err(drops::MPPE_CLEAR);
        }
        if number != protocol::MPPE {
            return Ok(UserData::classify(number, range, packet));
        }
        let encrypted = packet.get_mut(range.clone()).unwrap_or_default();
        match self.decoder.open(encrypted, now) {
            Ok((inner, within)) => {
                let within = range.start + within.start..range.start + within.end;
                Ok(UserData::classify(inner, within, packet))
            }
            Err(Undecoded::Drop(reason)) => Err(reason),
            Err(Undecoded::Stuck) => Ok(UserData::Frame(number, range)),
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
