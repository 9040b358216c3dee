//! Microsoft Point-to-Point Encryption (RFC 3078), with keys that begin as RFC 3079 has it. Pure: bytes in, bytes out.
//!
//! RC4 without any check of integrity is no protection by today's measure; the threat model says what that means.

mod decoder;
mod encoder;
mod key;

pub(crate) use decoder::{Decoder, Undecoded};
pub(crate) use encoder::Encoder;

use key::{KEY, Key};
use sluice_spi::wire::Reader;
use zeroize::Zeroizing;

/// Octets that encryption adds to a packet: its own header, and the protocol field that moves inside.
pub const OVERHEAD: usize = HEADER + 2;
/// Flags and coherency count (RFC 3078, 3.1).
const HEADER: usize = 2;
/// The tables were initialised before this packet (RFC 3078, 3.1: bit A).
const FLUSHED: u16 = 0x8000;
/// The packet is encrypted (RFC 3078, 3.1: bit D).
const ENCRYPTED: u16 = 0x1000;
/// The coherency count has 12 bits (RFC 3078, 3.1).
const COUNT: u16 = 0x0fff;
/// In stateful mode the key changes at each count with this low octet (RFC 3078, 7.2).
const FLAG: u16 = 0xff;
/// Format of [`MppeState`].
const STATE_FORMAT: u8 = 1;

/// Whether packets of a protocol are encrypted (RFC 3078, 3): those of network protocols, and none that negotiate.
pub fn covers(protocol: u16) -> bool {
    (0x0021..=0x00fa).contains(&protocol)
}

/// How strong session keys are (RFC 3078, 2), the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// 40 bits.
    Bits40,
    /// 56 bits.
    Bits56,
    /// 128 bits.
    Bits128,
}

impl Strength {
    /// All strengths, the strongest first.
    pub const ALL: [Strength; 3] = [Strength::Bits128, Strength::Bits56, Strength::Bits40];

    /// How many bits of a key are secret.
    pub fn bits(self) -> u8 {
        match self {
            Strength::Bits40 => 40,
            Strength::Bits56 => 56,
            Strength::Bits128 => 128,
        }
    }

    /// Octets of a session key (RFC 3078, 7.3).
    fn key_length(self) -> usize {
        match self {
            Strength::Bits40 | Strength::Bits56 => 8,
            Strength::Bits128 => KEY,
        }
    }

    /// What the first octets of a weak key are set to (RFC 3078, 7.3).
    fn known_octets(self) -> &'static [u8] {
        match self {
            Strength::Bits40 => &[0xd1, 0x26, 0x9e],
            Strength::Bits56 => &[0xd1],
            Strength::Bits128 => &[],
        }
    }
}

/// How one direction of a link is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Of its keys.
    pub strength: Strength,
    /// Whether the key changes with each packet (RFC 3078, 7.1), so that no packet needs those before it.
    pub stateless: bool,
}

impl Mode {
    fn number(self) -> u8 {
        self.strength.bits() | u8::from(self.stateless)
    }

    fn of_number(number: u8) -> Option<Self> {
        let mut strengths = Strength::ALL.into_iter();
        Some(Self {
            strength: strengths.find(|strength| strength.bits() == number & !1)?,
            stateless: number & 1 == 1,
        })
    }
}

/// Where the two directions of an encrypted link stand: with it another process goes on. Neither shown nor kept on a
/// disk.
#[derive(Clone)]
pub struct MppeState {
    send: DirectionState,
    receive: DirectionState,
}

/// Where one direction stands.
#[derive(Clone)]
pub(crate) struct DirectionState {
    mode: Mode,
    /// Count of the last packet.
    count: u16,
    key: Key,
}

impl MppeState {
    /// Octets of [`MppeState::put`].
    pub const SIZE: usize = 1 + 2 * (3 + 2 * KEY);

    /// The beginning: from the master keys of both directions.
    pub fn begin((send, send_key): (Mode, &[u8]), (receive, receive_key): (Mode, &[u8])) -> Self {
        let direction = |mode: Mode, master: &[u8]| DirectionState {
            mode,
            count: COUNT,
            key: Key::new(master, mode.strength),
        };
        Self {
            send: direction(send, send_key),
            receive: direction(receive, receive_key),
        }
    }

    /// Of what is sent and of what is received.
    pub(crate) fn split(self) -> (DirectionState, DirectionState) {
        (self.send, self.receive)
    }

    pub(crate) fn join(send: DirectionState, receive: DirectionState) -> Self {
        Self { send, receive }
    }

    /// The modes, of what is sent and of what is received.
    pub fn modes(&self) -> [Mode; 2] {
        [self.send.mode, self.receive.mode]
    }

    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(STATE_FORMAT);
        for direction in [&self.send, &self.receive] {
            out.push(direction.mode.number());
            out.extend_from_slice(&direction.count.to_be_bytes());
            direction.key.put(out);
        }
    }

    /// Reads it back; `None` where it is not whole or has an unknown format.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        (reader.u8().ok()? == STATE_FORMAT).then_some(())?;
        let mut direction = || {
            let mode = Mode::of_number(reader.u8().ok()?)?;
            let count = reader.u16().ok().filter(|count| *count <= COUNT)?;
            let start = Zeroizing::new(reader.array::<KEY>().ok()?);
            let session = Zeroizing::new(reader.array::<KEY>().ok()?);
            let key = Key::resume(&start, &session, mode.strength);
            Some(DirectionState { mode, count, key })
        };
        Some(Self {
            send: direction()?,
            receive: direction()?,
        })
    }
}

impl std::fmt::Debug for MppeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MppeState")
            .field("modes", &self.modes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
