//! What is sent (RFC 3078, 3 to 8).

use super::key::Key;
use super::{COUNT, DirectionState, ENCRYPTED, FLAG, FLUSHED, Mode};
use bytes::{BufMut, BytesMut};
use rc4::{Rc4, StreamCipher};
use std::fmt;

/// Encrypts one direction of a link.
pub(crate) struct Encoder {
    mode: Mode,
    pub(super) key: Key,
    /// Count of the last packet.
    pub(super) count: u16,
    /// In stateful mode the tables that go on from packet to packet.
    pub(super) tables: Option<Box<Rc4>>,
    /// The next packet begins with fresh tables, as the peer has asked for it.
    flush: bool,
}

impl Encoder {
    /// Begins with fresh keys; or goes on where another process was, whose tables are lost.
    pub(crate) fn new(state: DirectionState, resumed: bool) -> Self {
        let tables = if state.mode.stateless {
            None
        } else {
            state.key.cipher().map(Box::new)
        };
        Self {
            mode: state.mode,
            key: state.key,
            count: state.count,
            tables,
            flush: resumed,
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

    /// The peer has lost step and asks for fresh tables (RFC 3078, 8.2).
    pub(crate) fn flush(&mut self) {
        self.flush = true;
    }

    /// The key and the flags of the next packet.
    ///
    /// RFC 3078 has the tables initialised anew with the key in use after a Reset-Request, and so does Windows; others,
    /// Linux among them, change the key too. A packet whose count says that the key changes is the same for both, so
    /// fresh tables begin with the next such packet: the counts between seem lost to the peer, which waits for fresh
    /// tables anyway.
    fn advance(&mut self) -> u16 {
        self.count = (self.count + 1) & COUNT;
        if self.mode.stateless {
            self.key.change();
            return FLUSHED | ENCRYPTED | self.count;
        }
        if std::mem::take(&mut self.flush) {
            self.count |= FLAG;
        }
        if self.count & FLAG != FLAG {
            return ENCRYPTED | self.count;
        }
        self.key.change();
        if let (Some(tables), Some(fresh)) = (&mut self.tables, self.key.cipher()) {
            **tables = fresh;
        }
        FLUSHED | ENCRYPTED | self.count
    }

    /// Appends a packet of a protocol, encrypted: what follows the protocol field 0x00fd. False, and nothing appended,
    /// where there are no tables, which never comes.
    pub(crate) fn seal(&mut self, protocol: u16, information: &[u8], out: &mut BytesMut) -> bool {
        let header = self.advance();
        let mut fresh = if self.mode.stateless {
            self.key.cipher()
        } else {
            None
        };
        let Some(tables) = self.tables.as_deref_mut().or(fresh.as_mut()) else {
            return false;
        };
        out.put_u16(header);
        let start = out.len();
        out.put_u16(protocol);
        out.extend_from_slice(information);
        tables.apply_keystream(out.get_mut(start..).unwrap_or_default());
        true
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
