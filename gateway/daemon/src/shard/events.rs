//! What machines' events mean for the engine and the data plane.

use super::Plane;
use super::driver::Driver;
use super::slots::{Session, Ticket};
use sluice_auth::{AuthRequest, Identity, RejectReason};
use sluice_core::{Now, RestoredTunnel, SessionId};
use sluice_spi::{
    AddressFilter, CallInfo, Ended, Event, Input, LocalRef, MachineKey, PathSpec, PathStats, PathUpdate,
    Refusal, Severity, TerminateCause, TunnelInfo,
};

/// A refusal in words.
fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::TooManySessions => "the gateway has as many sessions as it may have",
        Refusal::TooManyOpening => "too many sessions are being set up at once",
        Refusal::PeerLimit => "the peer has as many sessions as it may have",
        Refusal::Draining => "the gateway is draining",
        Refusal::Overload => "the gateway is overloaded",
    }
}

impl<P: Plane> Driver<P> {
    pub(super) fn event(&mut self, slot: u32, event: Event, now: Now) {
        match event {
            Event::TunnelUp(info) => self.tunnel_up(slot, &info, now),
            Event::TunnelDown(ended) => self.tunnel_down(slot, &ended, now),
            Event::SessionOpening { session, call } => self.session_opening(slot, session, &call, now),
            Event::AuthRequested { session, request } => self.auth_requested(slot, session, request, now),
            Event::ContextRequested { session, request } => {
                self.context_requested(slot, session, request, now);
            }
            Event::SessionUp { session, facts } => {
                if let Some(entry) = self.session(slot, session) {
                    let id = entry.id;
                    self.engine.session_up(id, &facts, now);
                }
            }
            Event::SessionDown { session, ended } => self.session_down(slot, session, &ended, now),
            Event::InstallPath { session, path } => self.install_path(slot, session, *path, now),
            Event::UpdatePath { session, update } => self.update_path(slot, session, update, now),
            Event::RemovePath { session } => self.remove_path(slot, session, now),
            Event::CheckpointDue => self.mark_dirty(slot),
            Event::OpenChannel { .. }
            | Event::ListenChannel { .. }
            | Event::OpenRelay { .. }
            | Event::CloseChannel { .. }
            | Event::Join { .. } => self.channel_event(slot, event),
            Event::Recovered { tunnel, sessions } => self.recovered(slot, &tunnel, &sessions, now),
            Event::Dropped(reason) => self.counters.dropped(self.protocol(slot), reason.0),
            Event::Counted(name) => self.counters.counted(self.protocol(slot), name),
            Event::Notice {
                session,
                severity,
                text,
            } => self.notice(slot, session, severity, &text, now),
            Event::Traced {
                session,
                direction,
                text,
            } => {
                if let Some(entry) = self.session(slot, session) {
                    let id = entry.id;
                    tracing::debug!(target: "sluice::trace", session = %id, ?direction, "{text}");
                    self.traces.line(id, direction, text, now.instant, now.wall);
                }
            }
        }
    }

    fn session(&self, slot: u32, local: LocalRef) -> Option<&Session> {
        self.slots.get(slot)?.sessions.get(&local).map(Box::as_ref)
    }

    fn protocol(&self, slot: u32) -> &'static str {
        self.slots.get(slot).map_or("", |tunnel| tunnel.origin.protocol)
    }

    fn tunnel_up(&mut self, slot: u32, info: &TunnelInfo, now: Now) {
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        match self.engine.tunnel_up(&tunnel.origin, info, now) {
            Ok(id) => {
                tunnel.id = Some(id);
                self.by_tunnel.insert(id, slot);
            }
            Err(_) => tunnel
                .machine
                .close(TerminateCause::ServiceUnavailable, now.instant),
        }
    }

    fn tunnel_down(&mut self, slot: u32, ended: &Ended, now: Now) {
        let tunnel = self.slots.get_mut(slot);
        let (id, calls) = tunnel.map_or((None, Vec::new()), |tunnel| {
            (tunnel.id.take(), std::mem::take(&mut tunnel.calls))
        });
        for label in calls {
            self.engine.call_failed(&label, &ended.text);
        }
        if let Some(id) = id {
            self.by_tunnel.remove(&id);
            self.engine.tunnel_down(id, ended, now);
        }
    }

    fn session_opening(&mut self, slot: u32, local: LocalRef, call: &CallInfo, now: Now) {
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        // A session in a tunnel that was refused goes the way of its tunnel. A connection has none.
        if tunnel.id.is_none() && tunnel.outbox.is_none() {
            return;
        }
        let placed = call.label.as_ref();
        if let Some(at) = placed.and_then(|label| tunnel.calls.iter().position(|known| known == label)) {
            tunnel.calls.swap_remove(at);
        }
        let verdict = match self
            .engine
            .session_opening(&tunnel.origin, tunnel.id, local, call, now)
        {
            Ok(id) => {
                tunnel
                    .sessions
                    .insert(local, Box::new(Session::new(id, call.peer, None)));
                self.by_session.insert(id, (slot, local));
                Ok(())
            }
            Err(refusal) => {
                if let Some(label) = placed {
                    self.engine.call_failed(label, refused(refusal));
                }
                Err(refusal)
            }
        };
        self.give(
            slot,
            Input::Admission {
                session: local,
                verdict,
                verifiable: self.authority.verifiable(),
            },
            now,
        );
    }

    fn auth_requested(&mut self, slot: u32, local: LocalRef, request: Box<AuthRequest>, now: Now) {
        let generation = self.slots.generation(slot);
        let Some(entry) = self
            .slots
            .get_mut(slot)
            .and_then(|tunnel| tunnel.sessions.get_mut(&local))
        else {
            return;
        };
        entry.user = Some(request.credentials.identity().clone());
        let session = entry.id;
        self.engine.auth_requested(session, &request);
        let result = match self.authority.try_cached(&request, now) {
            Some(result) => result,
            None if self.authority.ask(
                Ticket {
                    slot,
                    generation,
                    local,
                    session,
                },
                request,
            ) =>
            {
                return;
            }
            None => Err(RejectReason::Unavailable),
        };
        let verdict = self.authorize(slot, local, session, result, now);
        self.give(
            slot,
            Input::AuthVerdict {
                session: local,
                verdict,
            },
            now,
        );
    }

    fn session_down(&mut self, slot: u32, local: LocalRef, ended: &Ended, now: Now) {
        let path = self.take_path(slot, local).map(|(_, stats, _)| stats);
        let entry = self
            .slots
            .get_mut(slot)
            .and_then(|tunnel| tunnel.sessions.remove(&local));
        if let Some(entry) = entry {
            let joined = entry.carried.as_ref().map(|carried| carried());
            let stats = path.or(joined).unwrap_or_default();
            Self::charge_last(entry.standing.as_ref(), &stats, now);
            self.forget_session(entry.id, now);
            let explained = entry.ending.as_ref().and_then(|ending| ending.explain(ended));
            self.engine
                .session_down(entry.id, explained.as_ref().unwrap_or(ended), stats, now);
        }
        self.mark_dirty(slot);
    }

    /// Forgets a session that is gone.
    fn forget_session(&mut self, id: SessionId, now: Now) {
        self.by_session.remove(&id);
        if self.traced.iter().any(|traced| traced.id == id) {
            self.traced.retain(|traced| traced.id != id);
            self.traces.stop(id, now.instant);
        }
    }

    fn install_path(&mut self, slot: u32, local: LocalRef, path: PathSpec, now: Now) {
        if self.session(slot, local).is_none() {
            return;
        }
        let key = path.key;
        match self.plane.install(MachineKey(slot), local, path) {
            Ok(path) => {
                let entry = self
                    .slots
                    .get_mut(slot)
                    .and_then(|tunnel| tunnel.sessions.get_mut(&local));
                if let Some(entry) = entry {
                    entry.path = Some(path);
                    entry.key = Some(key);
                    entry.rx_packets = 0;
                }
                self.tap_path(slot, local);
            }
            Err(error) => {
                self.notice(
                    slot,
                    Some(local),
                    Severity::Warning,
                    &format!("no data path: {error}"),
                    now,
                );
                let cause = TerminateCause::NasError;
                self.give(
                    slot,
                    Input::Terminate {
                        session: local,
                        cause,
                    },
                    now,
                );
            }
        }
    }

    /// Changes a path. Where it carries other addresses from now on, that was negotiated, so the engine is told what
    /// is agreed on now. A path that carries none any more is one that ends: what was agreed on is kept.
    fn update_path(&mut self, slot: u32, local: LocalRef, update: PathUpdate, now: Now) {
        let Some(&Session {
            id, path: Some(path), ..
        }) = self.session(slot, local)
        else {
            return;
        };
        let negotiated = matches!(&update, PathUpdate::Filter(filter) if *filter != AddressFilter::default());
        if negotiated && let Some(facts) = self.guarded(slot, |machine| Ok(machine.describe_session(local))) {
            self.engine.session_changed(id, &facts);
        }
        if let Err(error) = self.plane.update(path, update) {
            self.notice(
                slot,
                Some(local),
                Severity::Warning,
                &format!("the data path was not changed: {error}"),
                now,
            );
        }
    }

    /// Removes the path of a session that goes on, and tells the engine what it has carried.
    fn remove_path(&mut self, slot: u32, local: LocalRef, now: Now) {
        if let Some((id, stats, state)) = self.take_path(slot, local) {
            let state = Input::PathState {
                session: local,
                state: &state,
            };
            self.give(slot, state, now);
            let entry = self.session(slot, local);
            if let Some(standing) = entry.and_then(|entry| entry.standing.as_ref()) {
                Self::charge_last(Some(standing), &stats, now);
                standing.set_charged(0);
            }
            self.engine.update_counters(id, stats, now);
        }
    }

    /// Takes a session's path out of the data plane and gives its last counters and its codec's last state.
    fn take_path(&mut self, slot: u32, local: LocalRef) -> Option<(SessionId, PathStats, Vec<u8>)> {
        let tunnel = self.slots.get_mut(slot)?;
        let entry = tunnel.sessions.get_mut(&local)?;
        let (stats, state) = self.plane.remove(entry.path.take()?)?;
        Some((entry.id, stats, state))
    }

    /// Takes over the engine's names of a restored tunnel's sessions.
    pub(super) fn adopt_sessions(&mut self, slot: u32, restored: &RestoredTunnel) {
        for &(local, id) in &restored.sessions {
            let Some(known) = self.engine.session(id) else {
                continue;
            };
            let user = known.identity.as_ref();
            let standing = user.map(|user| self.standing_again(user, known.peer.remote.ip()));
            let Some(tunnel) = self.slots.get_mut(slot) else {
                return;
            };
            let mut session = Session::new(id, known.peer, known.identity);
            session.standing = standing;
            tunnel.sessions.insert(local, Box::new(session));
            self.by_session.insert(id, (slot, local));
        }
    }

    fn recovered(&mut self, slot: u32, info: &TunnelInfo, sessions: &[LocalRef], now: Now) {
        let Some(id) = self.slots.get(slot).and_then(|tunnel| tunnel.id) else {
            return self.connection_recovered(slot, sessions, now);
        };
        let unknown = self.engine.recovered(id, info, sessions, now);
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        let lost: Vec<LocalRef> = tunnel
            .sessions
            .keys()
            .copied()
            .filter(|local| !sessions.contains(local))
            .collect();
        let lost: Vec<Box<Session>> = lost
            .iter()
            .filter_map(|local| tunnel.sessions.remove(local))
            .collect();
        for entry in lost {
            self.forget_session(entry.id, now);
        }
        for session in unknown {
            self.give(
                slot,
                Input::Terminate {
                    session,
                    cause: TerminateCause::NasError,
                },
                now,
            );
        }
    }

    /// Ends in the engine what a machine that is gone did not end itself.
    pub(super) fn end_rest(&mut self, slot: u32, now: Now) {
        let Some(tunnel) = self.slots.get(slot) else {
            return;
        };
        let text = tunnel
            .broken
            .clone()
            .unwrap_or_else(|| "the machine went without a word".to_owned());
        let (origin, rest) = (
            tunnel.origin.clone(),
            tunnel.sessions.keys().copied().collect::<Vec<_>>(),
        );
        if tunnel.broken.is_some() {
            tracing::error!(
                listener = &*origin.listener,
                protocol = origin.protocol,
                "a tunnel broke: {text}"
            );
        }
        let ended = Ended::new(TerminateCause::NasError, "fault", text);
        for local in rest {
            self.session_down(slot, local, &ended, now);
        }
        self.tunnel_down(slot, &ended, now);
    }

    fn notice(&mut self, slot: u32, local: Option<LocalRef>, severity: Severity, text: &str, now: Now) {
        let Some(tunnel) = self.slots.get(slot) else {
            return;
        };
        let mut left_out = None;
        // What the network can cause at will is bounded, and the next line says how much was left out.
        if severity != Severity::Debug {
            let address = tunnel.peer.map(|peer| peer.ip());
            match self.notices.permit(address, now.instant) {
                Some(permit) => left_out = (permit.held_back > 0).then_some(permit.held_back),
                None => return,
            }
        }
        let entry = local.and_then(|local| tunnel.sessions.get(&local));
        let session = entry.map(|entry| entry.id.to_string());
        let peer = tunnel.peer.map(|peer| peer.to_string());
        let peer = entry.map_or(peer, |entry| Some(entry.peer.to_string()));
        let user = entry.and_then(|entry| entry.user.as_ref()).map(Identity::as_str);
        let id = tunnel.id.map(|id| id.to_string());
        match severity {
            Severity::Debug => tracing::debug!(tunnel = id, session, peer, user, left_out, "{text}"),
            Severity::Info => tracing::info!(tunnel = id, session, peer, user, left_out, "{text}"),
            Severity::Warning => tracing::warn!(tunnel = id, session, peer, user, left_out, "{text}"),
        }
    }
}
