//! The TUN device and what the host is told about it.

use super::held::{Held, forget, store};
use crate::admin::{HostChange, ServiceStatus};
use crate::config::Config;
use crate::host::{self, HostConfig, Notice, Outcome};
use sluice_core::PoolConfig;
use sluice_dataplane::{Tun, TunQueue};
use sluice_keeper::Link;
use sluice_spi::Shards;
use std::os::fd::BorrowedFd;

const TUN: &str = "tun";

/// The way of user data, as far as there is one.
pub(super) struct Network {
    /// One queue for each shard; empty: user data leads nowhere.
    pub(super) queues: Vec<TunQueue>,
    /// The device as a service.
    pub(super) device: ServiceStatus,
    /// Addresses, routes and the rest as a service.
    pub(super) host: ServiceStatus,
    /// What was changed on the host, and what could not be.
    pub(super) changes: Vec<HostChange>,
}

fn off(name: &'static str, detail: impl Into<String>) -> ServiceStatus {
    ServiceStatus {
        name,
        on: false,
        detail: detail.into(),
    }
}

/// Opens the device and tells the host about it. Where that cannot be, one line says so and the rest is served.
pub(super) fn open(config: &Config, shards: Shards, link: &Link, held: &mut Held) -> Network {
    let without = |reason: String| {
        tracing::warn!("{reason}");
        Network {
            queues: Vec::new(),
            device: off("data_plane", reason),
            host: off("host_network", "there is no TUN device"),
            changes: Vec::new(),
        }
    };
    if let Some(obstacle) = host::obstacle() {
        return without(obstacle);
    }
    let tun = match device(config, usize::from(shards.count()), link, held) {
        Ok(tun) => tun,
        Err(reason) => return without(reason),
    };
    let device = ServiceStatus {
        name: "data_plane",
        on: true,
        detail: describe(&tun),
    };
    let (host, changes) = apply(&HostConfig::new(&config.network, &config.engine.pools));
    Network {
        queues: tun.into_queues(),
        device,
        host,
        changes,
    }
}

fn describe(tun: &Tun) -> String {
    let offloads = tun.offloads();
    let with = match (offloads.tcp, offloads.udp) {
        (true, true) => "TCP and UDP segments cross as one",
        (true, false) => "TCP segments cross as one",
        _ => "without offloads",
    };
    format!("TUN device {}, {with}", tun.name())
}

fn device(config: &Config, queues: usize, link: &Link, held: &mut Held) -> Result<Tun, String> {
    let taken = held.take(TUN);
    let had = !taken.is_empty();
    let adopted = match had {
        true => Tun::adopt(taken, queues).map_err(|error| error.to_string()),
        false => Err(String::new()),
    };
    let tun = match adopted {
        Ok(tun) if tun.name() == config.network.tun => tun,
        other => {
            if let (true, Err(error)) = (had, &other) {
                tracing::warn!("the TUN device is made anew: {error}");
            }
            if had {
                drop(other);
                forget(link, TUN);
            }
            Tun::create(Some(&config.network.tun), queues).map_err(|error| {
                format!(
                    "{error}: clients can connect and log in but their packets lead nowhere; load the module tun, \
                     and see that /dev/net/tun is there and no other program has {}",
                    config.network.tun
                )
            })?
        }
    };
    let descriptors: Vec<BorrowedFd<'_>> = tun.descriptors().collect();
    store(link, TUN, &descriptors);
    Ok(tun)
}

/// Brings the host to what is wanted.
pub(super) fn apply(wanted: &HostConfig) -> (ServiceStatus, Vec<HostChange>) {
    match host::apply(wanted) {
        Ok(outcome) => report(&outcome),
        Err(error) => {
            let text =
                format!("the host's network was left as it is, so clients' packets lead nowhere: {error}");
            tracing::error!("{text}");
            (off("host_network", text), Vec::new())
        }
    }
}

fn report(outcome: &Outcome) -> (ServiceStatus, Vec<HostChange>) {
    let mut changes = Vec::new();
    for done in &outcome.done {
        tracing::info!("on this host: {done}");
        changes.push(HostChange {
            what: done.to_string(),
            done: true,
            detail: String::new(),
        });
    }
    for (failed, reason) in &outcome.failed {
        tracing::warn!("on this host: could not {failed}: {reason}");
        changes.push(HostChange {
            what: failed.to_string(),
            done: false,
            detail: reason.clone(),
        });
    }
    for Notice { text, .. } in &outcome.notices {
        tracing::warn!("on this host: {text}");
    }
    let missing: Vec<String> = outcome
        .failed
        .iter()
        .map(|(change, _)| change.to_string())
        .collect();
    let service = ServiceStatus {
        name: "host_network",
        on: missing.is_empty(),
        detail: match missing.is_empty() {
            true => String::new(),
            false => format!("not done: {}", missing.join("; ")),
        },
    };
    (service, changes)
}

/// What a gateway with this configuration would change on the host.
pub fn dry_run(config: &Config) -> Result<Vec<HostChange>, String> {
    let wanted = HostConfig::new(&config.network, &config.engine.pools);
    let state = host::inspect(&wanted).map_err(|error| error.to_string())?;
    let plan = host::plan(&wanted, &state).map_err(|error| error.to_string())?;
    for notice in &plan.notices {
        eprintln!("note: {}", notice.text);
    }
    let change = |change: &host::Change| HostChange {
        what: change.to_string(),
        done: false,
        detail: String::new(),
    };
    Ok(plan.changes.iter().map(change).collect())
}

/// Takes the gateway's own changes back, at its end.
pub(super) fn revert(wanted: &HostConfig) {
    match host::revert(wanted) {
        Ok(outcome) => {
            for (failed, reason) in &outcome.failed {
                tracing::warn!("on this host: could not {failed}: {reason}");
            }
        }
        Err(error) => tracing::warn!("the host's network could not be put back: {error}"),
    }
}

/// What is wanted of the host after a change of the pools. Those of before stay until a restart: sessions may
/// still have addresses of theirs.
pub(super) fn with_pools(config: &Config, former: &[PoolConfig]) -> HostConfig {
    let gone = former.iter().filter(|pool| !config.engine.pools.contains(pool));
    HostConfig::new(&config.network, config.engine.pools.iter().chain(gone))
}
