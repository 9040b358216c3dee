//! What connections may reach and how, as the shards share it.

use super::CannotStart;
use crate::config::Config;
use crate::host;
use crate::shard::Reach;
use sluice_auth::policy::{Own, Policy};
use sluice_egress::{Egress, NameServers, ResolverConfig};
use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The way to targets at the start.
pub(super) fn start(config: &Config) -> Result<Reach, CannotStart> {
    make(config.egress.clone(), None).map_err(CannotStart::configuration)
}

fn make(config: crate::config::Egress, former: Option<&Reach>) -> Result<Reach, String> {
    let former = former.map(|former| &*former.egress);
    // The configuration was checked for this already.
    let egress = Egress::new(config.config.clone(), former)
        .map_err(|bad| format!("the upstreams cannot be used: {bad:?}"))?;
    Ok(Reach { egress, config })
}

/// The way to targets that another configuration says, with what is known of names and upstreams where that still
/// holds; `None`: it is the same. With it comes what does not take effect yet.
pub(super) fn renewed(config: &Config, former: &Reach) -> Result<(Option<Reach>, Option<String>), String> {
    let mut wanted = config.egress.clone();
    let unreadable = out_of_reach(&wanted.config.resolver);
    let note = unreadable.map(|file| {
        wanted.config.resolver = former.config.config.resolver.clone();
        format!(
            "names are looked up as before until a restart: the sandbox keeps {} out of reach",
            file.display()
        )
    });
    if wanted == former.config {
        return Ok((None, note));
    }
    Ok((Some(make(wanted, Some(former))?), note))
}

/// A file of the resolver that this process may not read, such as one of a directory that the sandbox did not know of.
fn out_of_reach(config: &ResolverConfig) -> Option<PathBuf> {
    let servers = match &config.servers {
        NameServers::File(path) => Some(path),
        NameServers::Listed(_) => None,
    };
    let mut files = servers.into_iter().chain(&config.hosts);
    let denied =
        |path: &&PathBuf| File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    files.find(denied).cloned()
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
