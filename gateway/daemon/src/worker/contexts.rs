//! Who accepts the security contexts of each listener.

use super::CannotStart;
use crate::config::{Config, Listener};
use crate::shard::Acceptance;
use sluice_auth::gss::Contexts;
use sluice_auth_backends::ContextPool;
use std::path::Path;
use std::sync::Arc;

/// Those of all listeners; `None`: none has keys.
pub(super) fn acceptance(config: &Config) -> Result<Option<Arc<Acceptance>>, CannotStart> {
    let state = &config.gateway.state_dir;
    let listeners = config.listeners.iter().map(|listener| contexts(listener, state));
    let listeners: Vec<_> = listeners.collect();
    if listeners.iter().all(Option::is_none) {
        return Ok(None);
    }
    let pool = ContextPool::start()
        .map_err(|error| CannotStart::because(format!("the threads that accept contexts: {error}")))?;
    Ok(Some(Arc::new(Acceptance::new(pool, listeners))))
}

/// A listener's. Keys that are not there are looked for again for each client, so that a keytab may come later.
#[cfg(feature = "gssapi")]
fn contexts(listener: &Listener, state: &Path) -> Option<Arc<dyn Contexts>> {
    let keys = listener.factory.context_keys()?;
    let keytab = sluice_auth_backends::gssapi::Keytab::new(keys.clone(), state);
    if let Err(failure) = keytab.check() {
        tracing::warn!(
            listener = listener.name,
            "no client can authenticate by GSS-API for now: {failure}"
        );
    }
    Some(Arc::new(keytab))
}

/// The configuration was refused where it has keys.
#[cfg(not(feature = "gssapi"))]
fn contexts(_: &Listener, _: &Path) -> Option<Arc<dyn Contexts>> {
    None
}
