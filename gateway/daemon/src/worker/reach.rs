//! What connections may reach and how, as the shards share it.

use super::CannotStart;
use crate::config::Config;
use crate::host;
use sluice_auth::policy::{Own, Policy};
use sluice_egress::Egress;
use std::net::SocketAddr;
use std::sync::Arc;

/// The way to targets.
pub(super) fn egress(config: &Config) -> Result<Arc<Egress>, CannotStart> {
    Egress::new(config.egress.config.clone(), None).map_err(|bad| {
        // The configuration was checked for this already.
        CannotStart::configuration(format!("the upstreams cannot be used: {bad:?}"))
    })
}

/// The policy of a gateway that listens where this one does: its own listeners are behind a wall of their own.
pub(super) fn policy(config: &Config, listening: impl Iterator<Item = SocketAddr>) -> Policy {
    let listeners: Vec<SocketAddr> = listening
        .chain(config.admin.listen)
        .chain(config.metrics.listen)
        .collect();
    let addresses = host::addresses().unwrap_or_else(|error| {
        tracing::warn!(
            "this host's own addresses are not known, and not kept from clients by themselves: {error}"
        );
        Vec::new()
    });
    config.policy.clone().with_own(Own::new(listeners, addresses))
}
