//! A tunnel that goes on from its checkpoint.

use super::{Call, Channel, State, Timer, Tunnel, channel_config};
use crate::checkpoint::{SavedCall, SavedTunnel};
use crate::module::Shared;
use sluice_ppp::Ppp;
use sluice_spi::checkpoint::CheckpointError;
use sluice_spi::wire::Reader;
use sluice_spi::{Entropy, Event, LocalRef, Severity};
use std::sync::Arc;
use std::time::Instant;

impl Tunnel {
    /// Builds the tunnel that was saved. What was not acknowledged is sent again at once; paths are installed
    /// anew.
    pub(crate) fn restored(
        shared: Arc<Shared>,
        saved: SavedTunnel,
        entropy: Box<dyn Entropy>,
        now: Instant,
    ) -> Result<Self, CheckpointError> {
        // The rule that the tunnel began with, where it still is: what is kept of the peer's name may be cut.
        let (host_name, source) = &saved.rule;
        let rule = shared
            .config
            .same_rule(host_name.as_deref(), source.as_deref())
            .unwrap_or_else(|| {
                let address = saved.peer.remote.ip();
                shared.config.find_peer(&saved.remote.host_name, address)
            });
        let channel = Channel::restore(channel_config(&shared.config), saved.channel, now);
        let mut tunnel = Self::new(shared, saved.key, saved.peer, rule, channel, entropy, now);
        tunnel.peer_tunnel = saved.peer_tunnel;
        tunnel.initiated = saved.initiated;
        tunnel.remote = saved.remote;
        tunnel.generation = saved.generation;
        tunnel.serial = saved.serial;
        tunnel.state = State::Established;
        tunnel.was_up = true;
        tunnel.timers.set(Timer::Hello, now + saved.hello_in);
        for call in saved.calls {
            tunnel.restore_call(call, now)?;
        }
        let sessions: Vec<LocalRef> = tunnel.calls.values().map(|call| call.local).collect();
        let recovered = Event::Recovered {
            tunnel: tunnel.info(),
            sessions,
        };
        // Nothing of a session may come before this.
        tunnel.events.push_front(recovered);
        tunnel.start_restored(now);
        tunnel.watch_empty(now);
        tunnel.channel.take_changed();
        Ok(tunnel)
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
        let taken = !self.ids.reserve(call.sid) || self.by_peer.insert(call.peer_sid, call.sid).is_some();
        if taken {
            return Err(CheckpointError::Invalid("session id"));
        }
        self.calls.insert(call.sid, Box::new(call));
        Ok(())
    }

    fn start_restored(&mut self, now: Instant) {
        let calls: Vec<u16> = self.calls.keys().copied().collect();
        for sid in calls {
            let Some(call) = self.calls.get(&sid) else {
                continue;
            };
            let session = call.local;
            match call.ppp.as_ref().and_then(|ppp| ppp.path()) {
                Some(path) => self.install(sid, path),
                None => self.notice(
                    Some(session),
                    Severity::Debug,
                    "restored while its link was being negotiated".to_owned(),
                ),
            }
            self.pump(sid, now);
        }
    }
}
