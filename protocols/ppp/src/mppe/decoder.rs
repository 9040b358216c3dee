//! What is received (RFC 3078, 3 to 8), from a peer that may be gone, behind, ahead, or somebody else.
//!
//! MPPE checks nothing by itself. What makes up for a little of it here: a packet that decrypts to nothing sensible
//! leaves keys and count as they were, so that whoever forges packets without the keys does not bring the link out of
//! step.

use super::key::Key;
use super::{COUNT, DirectionState, ENCRYPTED, FLAG, FLUSHED, HEADER, Mode};
use crate::drops;
use crate::header::protocol;
use rc4::{Rc4, StreamCipher};
use sluice_spi::DropReason;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Half of the count's space: what seems further ahead is behind. So it is also the most key changes for one packet.
pub(super) const HALF: u16 = 2048;
/// Key changes for one packet that are never withheld: packets lost on a path in working order.
pub(super) const NEAR: u16 = 128;
/// After a packet that was far ahead and nonsense others that are far ahead are dropped unseen for so long. Changing a
/// key 2,048 times takes some milliseconds.
pub(super) const BAR: Duration = Duration::from_millis(50);
/// While fresh tables are waited for, they are asked for again after so long.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(300);
/// So many packets in a row that make no sense, with none between that does, mean that the link is out of step.
pub(super) const OUT_OF_STEP: u16 = 256;
/// Fresh tables that were lost, each with a change of its key, that can be made up for: see [`Decoder::refresh`].
const MAX_CHANGES: u8 = 8;
/// Octets decrypted to see whether a packet makes sense.
const LOOK: usize = 3;

/// Why a packet was not decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped too, and nothing more can be decrypted until the peer was told: in stateful mode by a
    /// Reset-Request; in stateless mode the link is out of step for good.
    Stuck,
}

/// Decrypts one direction of a link.
pub(crate) struct Decoder {
    mode: Mode,
    key: Key,
    /// Count of the last packet.
    count: u16,
    /// In stateful mode the tables that go on from packet to packet.
    tables: Option<Box<Rc4>>,
    /// In stateful mode: packets are missing, and fresh tables are waited for. When they were asked for last; `None`:
    /// not yet.
    waiting: Option<Option<Instant>>,
    /// In stateful mode: whether the peer was seen to change its key for fresh tables.
    changes: bool,
    /// Packets in a row that made no sense.
    nonsense: u16,
    /// Until when packets that are far ahead are dropped unseen.
    barred: Option<Instant>,
}

impl Decoder {
    /// Begins with fresh keys; or goes on where another process was, whose tables are lost.
    pub(crate) fn new(state: DirectionState, resumed: bool) -> Self {
        let tables = if state.mode.stateless {
            None
        } else {
            state.key.cipher().map(Box::new)
        };
        Self {
            mode: state.mode,
            waiting: (resumed && !state.mode.stateless).then_some(None),
            key: state.key,
            count: state.count,
            tables,
            changes: false,
            nonsense: 0,
            barred: None,
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> DirectionState {
        DirectionState {
            mode: self.mode,
            count: self.count,
            key: self.key.clone(),
        }
    }

    /// Decrypts, in place, what follows the protocol field 0x00fd. Gives the protocol of the packet within and where its
    /// information is; there are always [`HEADER`] octets and more before that.
    pub(crate) fn open(&mut self, packet: &mut [u8], now: Instant) -> Result<(u16, Range<usize>), Undecoded> {
        let Some((&mut [high, low], inner)) = packet.split_first_chunk_mut::<HEADER>() else {
            return Err(Undecoded::Drop(drops::MPPE_HEADER));
        };
        let header = u16::from_be_bytes([high, low]);
        let (flushed, count) = (header & FLUSHED != 0, header & COUNT);
        if header & ENCRYPTED == 0 || inner.is_empty() || (self.mode.stateless && !flushed) {
            return Err(Undecoded::Drop(drops::MPPE_HEADER));
        }
        let ahead = count.wrapping_sub(self.count) & COUNT;
        let opened = if self.mode.stateless {
            self.open_stateless(ahead, inner, now)
        } else {
            self.open_stateful(ahead, flushed, inner)
        };
        let Err(reason) = opened else {
            self.nonsense = 0;
            self.count = count;
            let (protocol, start) = inner_header(inner).ok_or(Undecoded::Drop(drops::MPPE_GARBLED))?;
            return Ok((protocol, HEADER + start..packet.len()));
        };
        Err(self.refuse(reason, now))
    }

    /// Notes a packet that was not decrypted.
    fn refuse(&mut self, reason: DropReason, now: Instant) -> Undecoded {
        if reason == drops::MPPE_LOST {
            let due = |asked: Instant| now.saturating_duration_since(asked) >= ASK_AGAIN;
            if let Some(asked) = &mut self.waiting
                && asked.is_none_or(due)
            {
                *asked = Some(now);
                return Undecoded::Stuck;
            }
            return Undecoded::Drop(reason);
        }
        // Repetitions say nothing of the keys: whoever repeats packets ends no link with that.
        if reason == drops::MPPE_GARBLED || !self.mode.stateless {
            self.nonsense = self.nonsense.saturating_add(1);
        }
        if self.nonsense < OUT_OF_STEP {
            return Undecoded::Drop(reason);
        }
        self.nonsense = 0;
        if !self.mode.stateless {
            self.waiting = Some(Some(now));
        }
        Undecoded::Stuck
    }

    /// Each packet has a key of its own; those of lost packets are passed over (RFC 3078, 8.1).
    fn open_stateless(&mut self, ahead: u16, inner: &mut [u8], now: Instant) -> Result<(), DropReason> {
        if ahead == 0 || ahead > HALF {
            return Err(drops::MPPE_OLD);
        }
        if ahead > NEAR && self.barred.is_some_and(|until| now < until) {
            return Err(drops::MPPE_FAR);
        }
        let mut key = self.key.clone();
        for _ in 0..ahead {
            key.change();
        }
        let mut tables = key.cipher().ok_or(drops::MPPE_GARBLED)?;
        tables.apply_keystream(inner);
        if !makes_sense(inner) {
            if ahead > NEAR {
                self.barred = Some(now + BAR);
            }
            return Err(drops::MPPE_GARBLED);
        }
        self.key = key;
        Ok(())
    }

    /// The tables go on from packet to packet (RFC 3078, 8.2).
    fn open_stateful(&mut self, ahead: u16, flushed: bool, inner: &mut [u8]) -> Result<(), DropReason> {
        if self.waiting.is_none() && (ahead == 0 || ahead > HALF) {
            // A duplicate, or a straggler that was given up. What it would tell is known.
            return Err(drops::MPPE_OLD);
        }
        if flushed {
            return self.refresh(ahead, inner);
        }
        if self.waiting.is_some() {
            return Err(drops::MPPE_LOST);
        }
        if ahead != 1 {
            self.waiting = Some(None);
            return Err(drops::MPPE_LOST);
        }
        if self.count.wrapping_add(1) & FLAG == FLAG {
            self.key.change();
            self.renew_tables();
        }
        let tables = self.tables.as_deref_mut().ok_or(drops::MPPE_GARBLED)?;
        tables.apply_keystream(inner);
        if makes_sense(inner) {
            return Ok(());
        }
        // The tables have gone on by a packet that was none.
        self.waiting = Some(None);
        Err(drops::MPPE_LOST)
    }

    fn renew_tables(&mut self) {
        if let (Some(tables), Some(fresh)) = (&mut self.tables, self.key.cipher()) {
            **tables = fresh;
        }
    }

    /// A packet that begins with fresh tables.
    ///
    /// The key has changed with each count that ends in 0xff, of lost packets too. Beside that, RFC 3078 leaves it as it
    /// is, but some peers change it whenever they make fresh tables, also for those packets that were lost then. So it
    /// is tried which key decrypts to something sensible, first the one that did so before.
    fn refresh(&mut self, ahead: u16, inner: &mut [u8]) -> Result<(), DropReason> {
        let from = u32::from(self.count) + 1;
        let flags = ((from + u32::from(ahead)) >> 8) - (from >> 8);
        let is_flag = (from + u32::from(ahead)).trailing_zeros() >= 8;
        let mut key = self.key.clone();
        for _ in 0..flags {
            key.change();
        }
        let usual = (self.changes && !is_flag).then(|| {
            let mut changed = key.clone();
            changed.change();
            changed
        });
        let mut changes = 1;
        let found = match usual.filter(|key| opens(key, inner)) {
            Some(usual) => Some(usual),
            None => {
                changes = 0;
                while changes < MAX_CHANGES && !opens(&key, inner) {
                    key.change();
                    changes += 1;
                }
                (changes < MAX_CHANGES).then_some(key)
            }
        };
        self.key = found.ok_or(if self.waiting.is_some() {
            drops::MPPE_LOST
        } else {
            drops::MPPE_GARBLED
        })?;
        if !is_flag {
            self.changes = changes > 0;
        }
        self.waiting = None;
        self.renew_tables();
        let tables = self.tables.as_deref_mut().ok_or(drops::MPPE_GARBLED)?;
        tables.apply_keystream(inner);
        Ok(())
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("mode", &self.mode)
            .field("waiting", &self.waiting.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether a packet that begins with fresh tables of this key makes sense.
fn opens(key: &Key, inner: &[u8]) -> bool {
    let mut look = [0; LOOK];
    let length = inner.len().min(LOOK);
    let Some(mut tables) = key.cipher() else {
        return false;
    };
    look.iter_mut().zip(inner).for_each(|(to, from)| *to = *from);
    tables.apply_keystream(&mut look);
    makes_sense(look.get(..length).unwrap_or_default())
}

/// The protocol of a decrypted packet, with a field of one octet or two, and where its information begins.
fn inner_header(inner: &[u8]) -> Option<(u16, usize)> {
    match *inner {
        [high, ..] if high & 1 == 1 => Some((u16::from(high), 1)),
        [high, low, ..] => Some((u16::from_be_bytes([high, low]), 2)),
        _ => None,
    }
}

/// Whether decrypted octets may be the beginning of a packet: IP of the right version, since no other protocol that is
/// encrypted is ever agreed on. Of random octets one in some thousand passes.
fn makes_sense(inner: &[u8]) -> bool {
    let Some((number, start)) = inner_header(inner) else {
        return false;
    };
    match (number, inner.get(start)) {
        (protocol::IPV4, Some(first)) => (0x45..=0x4f).contains(first),
        (protocol::IPV6, Some(first)) => first >> 4 == 6,
        _ => false,
    }
}
