//! Sessions without a tunnel over a restart. What keeps them is not the journal: without its sockets such a session is
//! worth nothing, so whoever keeps the sockets keeps its record beside them.

use super::Engine;
use crate::SessionId;
use crate::clock::Limit;
use crate::event::EngineEvent;
use crate::model::{Session, State};
use crate::record;
use crate::time::Now;
use bytes::Bytes;
use sluice_spi::ShardId;

impl Engine {
    /// Somebody whom nobody can hurry is waited for, such as the peer of a BIND: how long is bounded by the session's
    /// machine from now on, and no longer by the time that sessions have to be established.
    pub fn waits_for_peer(&self, id: SessionId) {
        let shard = self.table.session(id, |live| live.session.origin.shard);
        if let Some(shard) = shard {
            self.clocks.set(shard, id, Limit::Opening, None);
        }
    }

    /// The record of a session without a tunnel that is established, or waits for its peer
    /// ([`Engine::waits_for_peer`]), for [`Engine::take_in_connection`] of the next process; `None`: it is none, or not
    /// (any more) to be kept.
    pub fn connection_record(&self, id: SessionId) -> Option<Bytes> {
        let session = self.table.session(id, |live| {
            let state = live.session.state;
            let kept = (state == State::Established || state.is_opening()) && live.ending.is_none();
            (kept && live.session.tunnel.is_none()).then(|| live.session.clone())
        });
        session.flatten().as_ref().map(record::encode_connection)
    }

    /// Takes in a session from its record; `shard` has it from now on. It is recovering until
    /// [`Engine::connection_recovered`], and [`Engine::session_down`] is called once for it, sooner or later. Its
    /// counters go on from where they were: what is counted further is to include that.
    ///
    /// # Errors
    ///
    /// Where the record is damaged, of another version or of a protocol that there is not, or the session is there
    /// already; in words.
    pub fn take_in_connection(&self, record: &[u8], shard: ShardId, now: Now) -> Result<Session, String> {
        let protocols = &self.config().protocols;
        let session =
            record::decode_connection(record, protocols, shard).map_err(|error| error.to_string())?;
        self.check_names(std::slice::from_ref(&session))?;
        self.take_in_session(session.clone(), now.instant);
        Ok(session)
    }

    /// A session from a record is as it was: established, with what is left of its timeouts, or waiting for its peer.
    /// False where it is no such one.
    pub fn connection_recovered(&self, id: SessionId, now: Now) -> bool {
        self.go_on(id, now)
    }

    /// All sessions from records have gone on or ended.
    pub fn connections_recovered(&self, sessions: usize, lost: usize) {
        self.tell(EngineEvent::ConnectionsRecovered { sessions, lost });
    }
}
