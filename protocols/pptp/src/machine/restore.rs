//! A control connection that goes on from its checkpoint, on the TCP connection that it had.

use super::{Call, Control, State, Timer};
use crate::checkpoint::{Saved, SavedCall};
use crate::registry::{Place, Shared};
use sluice_ppp::Ppp;
use sluice_spi::checkpoint::CheckpointError;
use sluice_spi::wire::Reader;
use sluice_spi::{Entropy, Event, LocalRef};
use std::sync::Arc;
use std::time::Instant;

impl Control {
    /// Builds the connection that was saved; paths are installed anew.
    pub(crate) fn restored(
        shared: Arc<Shared>,
        saved: Saved,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Self, CheckpointError> {
        let mut control = Self::new(shared, saved.key, saved.peer, entropy, now);
        control.place = Some(Place::again(
            &control.shared,
            saved.peer.remote.ip().to_canonical(),
        ));
        control.state = State::Established;
        control.was_up = true;
        control.remote = saved.remote;
        control.stream = saved.stream;
        control.unsent = saved.unsent;
        control.generation = saved.generation;
        let interval = control.config().echo_interval;
        control.timers.set(Timer::Echo, now + interval);
        for call in saved.calls {
            control.restore_call(call, now)?;
        }
        let sessions: Vec<LocalRef> = control.calls.values().map(|call| call.local).collect();
        // Nothing of a session may come before this.
        let tunnel = control.info();
        control.event(Event::Recovered { tunnel, sessions });
        let calls: Vec<u16> = control.calls.keys().copied().collect();
        for id in calls {
            let ppp = control.calls.get(&id).and_then(|call| call.ppp.as_ref());
            if let Some(path) = ppp.and_then(|ppp| ppp.path()) {
                control.install(id, path, now);
            }
            control.pump(id, now);
        }
        control.watch_empty(now);
        Ok(control)
    }

    fn restore_call(&mut self, saved: SavedCall, now: Instant) -> Result<(), CheckpointError> {
        let mut call: Call = saved.call;
        let entropy = self.entropy.fork();
        let mut reader = Reader::new(&saved.ppp);
        let config = Arc::clone(&self.config().ppp);
        let ppp = Ppp::restore(&mut reader, config, self.carrier(&call), entropy, now)?;
        if !reader.is_empty() {
            return Err(CheckpointError::Invalid("length of a PPP checkpoint"));
        }
        call.ppp = Some(Box::new(ppp));
        let is_free = !self.by_peer.contains_key(&call.peer_id);
        if !is_free || !self.shared.reserve_call(self.key, call.id) {
            return Err(CheckpointError::Invalid("call id"));
        }
        self.by_peer.insert(call.peer_id, call.id);
        self.calls.insert(call.id, Box::new(call));
        Ok(())
    }
}
