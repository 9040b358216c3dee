//! Everyone who is told what happens in the engine.

use super::kept::KeptText;
use crate::admin::Events;
use crate::logs::EventLog;
use crate::shard::Remote;
use sluice_core::{EngineEvent, Observer, Session, SessionId, Table};
use sluice_metrics::{Metrics, Phase, RestoreResult};
use sluice_spi::TerminateCause;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// What is kept for the next worker where new sessions are refused, and where they are not.
pub(super) const DRAINING: &str = "draining";
const ADMITTING: &str = "admitting";

/// When the steps of a session's set-up were taken.
#[derive(Clone, Copy)]
struct Steps {
    opened: Instant,
    asked: Option<Instant>,
    decided: Option<Instant>,
}

/// Passes the engine's events on: to the event stream, the log, the metrics, and the shard that has to act.
pub(super) struct Fanout {
    events: Arc<Events>,
    log: EventLog,
    metrics: Arc<Metrics>,
    shards: OnceLock<Vec<Remote>>,
    draining: KeptText,
    /// Sessions being set up; as many as the engine admits.
    setups: Mutex<HashMap<SessionId, Steps>>,
}

impl Fanout {
    /// `lines` is how many log lines a second a peer can cause; `draining` keeps for the next worker whether new
    /// sessions are refused.
    pub(super) fn new(events: Arc<Events>, metrics: Arc<Metrics>, lines: u32, draining: KeptText) -> Self {
        Self {
            events,
            log: EventLog::new(lines, Instant::now()),
            metrics,
            shards: OnceLock::new(),
            draining,
            setups: Mutex::default(),
        }
    }

    /// Tells where the shards are. Before that no session can be asked to end.
    pub(super) fn set_shards(&self, shards: Vec<Remote>) {
        let _ = self.shards.set(shards);
    }

    fn setups(&self) -> MutexGuard<'_, HashMap<SessionId, Steps>> {
        self.setups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, session: &Session) {
        let Some(steps) = self.setups().remove(&session.id) else {
            return;
        };
        let Some(metrics) = self.metrics.protocol(session.origin.protocol) else {
            return;
        };
        metrics.setups.inc();
        let now = Instant::now();
        metrics.setup_took(Phase::Total, now - steps.opened);
        if let Some(asked) = steps.asked {
            metrics.setup_took(Phase::Opening, asked - steps.opened);
            if let Some(decided) = steps.decided {
                metrics.setup_took(Phase::Authenticating, decided - asked);
                metrics.setup_took(Phase::Establishing, now - decided);
            }
        }
    }

    fn down(&self, session: &Session) {
        self.setups().remove(&session.id);
        let cause = session
            .end
            .as_ref()
            .map_or(TerminateCause::NasError, |end| end.cause);
        let Some(metrics) = self.metrics.protocol(session.origin.protocol) else {
            return;
        };
        metrics.terminations.get(cause.as_str()).inc();
        if session.established.is_none() {
            metrics.setup_failures.get(cause.as_str()).inc();
        }
    }

    fn measure(&self, event: &EngineEvent) {
        let now = Instant::now();
        match event {
            EngineEvent::SessionOpened(session) => {
                let steps = Steps {
                    opened: now,
                    asked: None,
                    decided: None,
                };
                self.setups().insert(session.id, steps);
            }
            EngineEvent::AuthRequested { session, .. } => {
                if let Some(steps) = self.setups().get_mut(session) {
                    steps.asked = steps.asked.or(Some(now));
                }
            }
            EngineEvent::AuthDecided { session, .. } => {
                if let Some(steps) = self.setups().get_mut(&session.id) {
                    steps.decided = Some(now);
                }
            }
            EngineEvent::SessionUp(session) => self.up(session),
            EngineEvent::SessionDown(session) => self.down(session),
            EngineEvent::SessionRefused { origin, reason, .. }
            | EngineEvent::TunnelRefused { origin, reason, .. } => {
                if let Some(metrics) = self.metrics.protocol(origin.protocol) {
                    metrics.refusals.get(reason.as_str()).inc();
                }
            }
            EngineEvent::TunnelRecovered { sessions, lost, .. }
            | EngineEvent::ConnectionsRecovered { sessions, lost } => {
                let count = |sessions: &usize| u64::try_from(*sessions).unwrap_or(u64::MAX);
                self.metrics.restored(RestoreResult::Recovered, count(sessions));
                self.metrics.restored(RestoreResult::Lost, count(lost));
            }
            EngineEvent::RecordSetAside {
                table: Table::Tunnels,
                ..
            } => self.metrics.restored(RestoreResult::SetAside, 1),
            _ => {}
        }
    }
}

impl Observer for Fanout {
    fn on_event(&self, event: &EngineEvent) {
        self.measure(event);
        self.log.on_event(event);
        self.events.on_event(event);
        if let EngineEvent::Draining(draining) = event
            && let Err(error) = self.draining.keep(if *draining { DRAINING } else { ADMITTING })
        {
            tracing::warn!("the next worker will not know whether new sessions are refused: {error}");
        }
        if let EngineEvent::EndRequested { shard, .. } = event {
            let shards = self.shards.get();
            if let Some(remote) = shards.and_then(|shards| shards.get(usize::from(shard.0))) {
                remote.wake();
            }
        }
    }
}
