//! A relay between two processes: everything that the next one needs to go on with it, byte for byte.

use super::Timeouts;
use super::handle::Octets;
use super::pool::{BUFFER, MAX_PIPE};
use bytes::{BufMut, Bytes, BytesMut};
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::Reader;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The format of an encoded [`ParkedState`].
const FORMAT: u16 = 2;

/// Most bytes on their way in one direction: what a copying relay holds, or a pipe.
pub const MAX_UNSENT: usize = if MAX_PIPE > BUFFER { MAX_PIPE } else { BUFFER };

/// In the place of a duration: there is none.
const NO_DURATION: u64 = u64::MAX;
/// Longest duration accepted, in milliseconds: a hundred years.
const MAX_DURATION: u64 = 100 * 365 * 24 * 3600 * 1000;

const ENDED: u8 = 1;
const FINISHED: u8 = 2;

/// A relay that was stopped for a handover: its two connections, and all else.
#[derive(Debug)]
pub struct Parked {
    /// The client's socket.
    pub client: OwnedFd,
    /// The target's socket.
    pub target: OwnedFd,
    /// All else.
    pub state: ParkedState,
}

/// What there is of a relay beside its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedState {
    /// From the client to the target.
    pub up: ParkedFlow,
    /// From the target to the client.
    pub down: ParkedFlow,
    /// Its timeouts; they may be changed before the relay goes on.
    pub timeouts: Timeouts,
    /// How long no byte had moved.
    pub silent: Duration,
    /// How long there had been a relay.
    pub age: Duration,
}

/// One direction of a stopped relay.
#[derive(Clone, PartialEq, Eq)]
pub struct ParkedFlow {
    /// Bytes received and not yet delivered, at most [`MAX_UNSENT`].
    pub unsent: Vec<u8>,
    /// What was received and delivered.
    pub octets: Octets,
    /// The sender has ended its stream.
    pub ended: bool,
    /// And the receiver was told so, after all bytes.
    pub finished: bool,
}

impl fmt::Debug for ParkedFlow {
    /// Without the user's bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkedFlow")
            .field("unsent", &self.unsent.len())
            .field("octets", &self.octets)
            .field("ended", &self.ended)
            .field("finished", &self.finished)
            .finish()
    }
}

impl ParkedState {
    /// As bytes, with a format number and a checksum. They hold user data: they are for the next process only.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128 + self.up.unsent.len() + self.down.unsent.len());
        for flow in [&self.up, &self.down] {
            flow.encode(&mut out);
        }
        let Timeouts {
            idle,
            half_closed,
            lifetime,
        } = self.timeouts;
        for duration in [idle, half_closed, lifetime, Some(self.silent), Some(self.age)] {
            out.put_u64(duration.map_or(NO_DURATION, millis));
        }
        checkpoint::seal(FORMAT, &out)
    }

    /// From bytes.
    ///
    /// # Errors
    ///
    /// Where they are damaged, of another format, or hold what no relay can be in.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (format, mut body) = checkpoint::open(bytes)?;
        if format != FORMAT {
            return Err(CheckpointError::Format(format));
        }
        let state = Self {
            up: ParkedFlow::decode(&mut body)?,
            down: ParkedFlow::decode(&mut body)?,
            timeouts: Timeouts {
                idle: duration(&mut body)?,
                half_closed: duration(&mut body)?,
                lifetime: duration(&mut body)?,
            },
            silent: duration(&mut body)?.ok_or(CheckpointError::Invalid("silence"))?,
            age: duration(&mut body)?.ok_or(CheckpointError::Invalid("age"))?,
        };
        if !body.is_empty() {
            return Err(CheckpointError::Invalid("length"));
        }
        Ok(state)
    }
}

impl ParkedFlow {
    /// Whether a relay can be so.
    pub(super) fn is_sound(&self) -> bool {
        let held = self.octets.received.checked_sub(self.octets.delivered);
        self.unsent.len() <= MAX_UNSENT
            && held == Some(self.unsent.len() as u64)
            && (!self.finished || self.ended && self.unsent.is_empty())
    }

    fn encode(&self, out: &mut BytesMut) {
        let ended = if self.ended { ENDED } else { 0 };
        let finished = if self.finished { FINISHED } else { 0 };
        out.put_u8(ended | finished);
        out.put_u64(self.octets.received);
        out.put_u64(self.octets.delivered);
        out.put_u32(u32::try_from(self.unsent.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(&self.unsent);
    }

    fn decode(body: &mut Reader<'_>) -> Result<Self, CheckpointError> {
        let flags = body.u8()?;
        if flags & !(ENDED | FINISHED) != 0 {
            return Err(CheckpointError::Invalid("flags"));
        }
        let octets = Octets {
            received: body.u64()?,
            delivered: body.u64()?,
        };
        let length = usize::try_from(body.u32()?).unwrap_or(usize::MAX);
        let flow = Self {
            unsent: body.take(length)?.to_vec(),
            octets,
            ended: flags & ENDED != 0,
            finished: flags & FINISHED != 0,
        };
        if !flow.is_sound() {
            return Err(CheckpointError::Invalid("direction"));
        }
        Ok(flow)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(MAX_DURATION, |millis| millis.min(MAX_DURATION))
}

pub(super) fn duration(body: &mut Reader<'_>) -> Result<Option<Duration>, CheckpointError> {
    match body.u64()? {
        NO_DURATION => Ok(None),
        millis if millis <= MAX_DURATION => Ok(Some(Duration::from_millis(millis))),
        _ => Err(CheckpointError::Invalid("duration")),
    }
}
