//! What the bytes of a relay's client go through, where they are not payload as they are.

use super::flow::Flow;
use super::handle::Counts;
use super::{BUFFER, Failure, Place};
use sluice_spi::{DropReason, StreamCodec};

/// What a direction does with the bytes that it reads.
pub(super) enum Coding<'a> {
    /// Nothing: they are payload.
    Plain,
    /// It takes the payload out of them, which is for the target.
    Open(&'a mut dyn StreamCodec),
    /// It makes of them, which are payload, what the client is sent.
    Seal(&'a mut dyn StreamCodec),
}

impl Coding<'_> {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Coding::Plain)
    }

    /// Whether bytes count as delivered when they are written, one by one.
    pub(super) fn counts_written(&self) -> bool {
        !matches!(self, Coding::Seal(_))
    }

    /// Whether bytes count as received when they are read.
    pub(super) fn counts_read(&self) -> bool {
        !matches!(self, Coding::Open(_))
    }

    /// Most bytes to read at once.
    pub(super) fn most(&self) -> usize {
        match self {
            Coding::Plain | Coding::Open(_) => BUFFER,
            Coding::Seal(codec) => codec.largest().clamp(1, BUFFER),
        }
    }

    /// The sender has ended its stream.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        match self {
            Coding::Open(codec) => codec.finish().map_err(|reason| broken(Place::Sender, reason)),
            Coding::Plain | Coding::Seal(_) => Ok(()),
        }
    }
}

/// The stream of the side at `place`, which is the client, cannot go on.
fn broken(place: Place, reason: DropReason) -> Failure {
    Failure {
        place,
        kind: std::io::ErrorKind::InvalidData,
        reason: Some(reason),
    }
}

impl Flow {
    /// Makes of what was read what the receiver is to have. Nothing else waits for it.
    pub(super) fn code(
        &mut self,
        coding: &mut Coding<'_>,
        bytes: &[u8],
        counts: &Counts,
    ) -> Result<(), Failure> {
        match coding {
            Coding::Plain => self.rest.extend_from_slice(bytes),
            Coding::Open(codec) => {
                let opened = codec.open(bytes, &mut self.rest);
                opened.map_err(|reason| broken(Place::Sender, reason))?;
                counts.note_received(self.rest.len());
            }
            Coding::Seal(codec) => {
                let sealed = codec.seal(bytes, &mut self.rest);
                sealed.map_err(|reason| broken(Place::Receiver, reason))?;
                self.sealed = bytes.len();
            }
        }
        Ok(())
    }
}
