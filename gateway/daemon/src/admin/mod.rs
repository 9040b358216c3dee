//! The admin plane: the REST API with its event stream and metrics, on its own listeners.
//!
//! It reads and changes the engine's tables directly and asks everything else of [`Control`]. It knows no
//! protocol: what a protocol has to say comes as facts. Nothing that goes out holds a secret.

mod api;
mod audit;
mod call;
mod calls;
mod configs;
mod control;
mod events;
mod files;
mod openapi;
mod operations;
mod problem;
mod routes;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod tokens;
mod trace;
mod views;

pub(crate) use call::escape;

pub use api::static_addresses;
pub use audit::Audit;
pub use configs::{Configs, Reload, ReloadError};
pub use control::{
    Answer, Applied, Control, ControlError, HostChange, ListenerStatus, PlaceCall, Reason, RuntimeStatus,
    ServiceStatus, ShardStatus,
};
pub use events::Events;
pub use openapi::{document as openapi_document, text as openapi_text};
pub use server::{Certificate, Listeners, StartError};
pub use tokens::{Opened, Scope, Token, TokenError, Tokens};
pub use trace::Traces;

use sluice_auth_backends::LocalUsers;
use sluice_core::Engine;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Gives all metrics in Prometheus' text format.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What the admin plane is made of.
pub struct Parts {
    /// Sessions, tunnels, pools.
    pub engine: Arc<Engine>,
    /// The rest of the running gateway.
    pub control: Arc<dyn Control>,
    /// Users.
    pub users: Arc<LocalUsers>,
    /// What happened lately: also an observer of the engine.
    pub events: Arc<Events>,
    /// Traces: also fed by the shards.
    pub traces: Arc<Traces>,
    /// Metrics.
    pub metrics: MetricsText,
    /// The configuration in use.
    pub configs: Arc<Configs>,
    /// Tokens.
    pub tokens: Tokens,
    /// The audit log.
    pub audit: Audit,
    /// What the API on TCP is served with; `None`: without TLS.
    pub certificate: Option<Certificate>,
}

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    pub(crate) max_body: usize,
    pub(crate) max_connections: usize,
    pub(crate) request_timeout: Duration,
}

/// The admin plane.
pub struct Plane {
    parts: Parts,
    limits: ClientLimits,
    certificate: Option<Arc<Certificate>>,
    /// What was wrong with the users file when it was last read.
    users_complaint: Mutex<Option<String>>,
    /// A random name of this run, and a count: together they name a request.
    run: u32,
    requests: AtomicU64,
    stop: watch::Sender<bool>,
}

impl Plane {
    /// Puts the admin plane together.
    pub fn new(mut parts: Parts, run: u32) -> Arc<Self> {
        let config = parts.configs.current();
        let admin = &config.admin;
        Arc::new(Self {
            limits: ClientLimits {
                max_body: admin.max_body,
                max_connections: admin.max_connections,
                request_timeout: admin.request_timeout,
            },
            certificate: parts.certificate.take().map(Arc::new),
            parts,
            users_complaint: Mutex::default(),
            run,
            requests: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// Serves on `listeners` until [`Plane::stop`].
    pub async fn serve(self: Arc<Self>, listeners: Listeners) -> std::io::Result<()> {
        let stop = self.stop.subscribe();
        server::serve(self, listeners, stop).await
    }

    /// Ends serving: requests under way are answered, event streams end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Reads the users file anew, and ends the sessions of users that are gone, disabled, or have another password.
    /// Where the file cannot be used the users stay as they are. Also to be called when the file has changed.
    pub async fn reload_users(&self) -> Result<(), String> {
        let users = self.parts.users.clone();
        let read = tokio::task::spawn_blocking(move || users.reload()).await;
        let read = read.map_err(|error| error.to_string());
        let read = read.and_then(|read| read.map_err(|error| error.to_string()));
        *self.complaint() = read.as_ref().err().cloned();
        api::take_effect(self, &read?, "");
        Ok(())
    }

    fn complaint(&self) -> MutexGuard<'_, Option<String>> {
        self.users_complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What was wrong with the users file when it was last read.
    pub(crate) fn users_complaint(&self) -> Option<String> {
        self.complaint().clone()
    }

    /// Reads configuration, certificate and users anew, puts them into effect, and logs what that changed: for
    /// SIGHUP and `POST /v1/config:reload`.
    pub async fn reload(&self) -> Result<Reload, ReloadError> {
        let reload = self.read_again().await;
        match &reload {
            Ok(reload) => {
                for change in &reload.changes {
                    tracing::info!(applies = %change.applies, "configuration: {} changed", change.key);
                }
                for note in &reload.applied.notes {
                    tracing::warn!("{note}");
                }
                tracing::info!(changes = reload.changes.len(), "configuration read again");
            }
            Err(error) => tracing::error!("{error}"),
        }
        reload
    }

    async fn read_again(&self) -> Result<Reload, ReloadError> {
        let mut reload = self.configs().reload(self.control()).await?;
        if let Some(certificate) = &self.certificate
            && let Err(error) = certificate.reload()
        {
            reload
                .applied
                .notes
                .push(format!("{error}; the former certificate stays in use"));
        }
        if let Err(error) = self.reload_users().await {
            let note = format!("the users stay as they were: {error}");
            reload.applied.notes.push(note);
        }
        Ok(reload)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.parts.engine
    }

    pub(crate) fn control(&self) -> &dyn Control {
        self.parts.control.as_ref()
    }

    pub(crate) fn users(&self) -> &Arc<LocalUsers> {
        &self.parts.users
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.parts.events
    }

    pub(crate) fn traces(&self) -> &Arc<Traces> {
        &self.parts.traces
    }

    pub(crate) fn metrics(&self) -> String {
        (self.parts.metrics)()
    }

    pub(crate) fn configs(&self) -> &Arc<Configs> {
        &self.parts.configs
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.parts.tokens
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.parts.audit
    }

    pub(crate) fn limits(&self) -> ClientLimits {
        self.limits
    }

    pub(crate) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.clone()
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{:08x}-{number}", self.run)
    }
}

#[cfg(test)]
mod tests;
