//! Changing the engine's settings while it runs.

use super::Engine;
use crate::config::{EngineConfig, ReconfigureReport};
use crate::event::EngineEvent;
use crate::model::Address;
use crate::pools::PoolConfig;
use crate::table::lock;
use std::sync::{Arc, PoisonError};

impl Engine {
    /// Lets nobody new in, or lets them in again. Sessions that are there stay.
    pub fn set_draining(&self, draining: bool) {
        if lock(&self.admission).set_draining(draining) {
            self.tell(EngineEvent::Draining(draining));
        }
    }

    /// Sets the static addresses of all users: no pool gives them to anybody else. Whoever holds one by a pool
    /// keeps it until its session ends.
    pub fn set_static_addresses(&self, addresses: &[Address]) {
        let mut leases = lock(&self.leases);
        leases.set_statics(addresses);
        let changes = leases.take_changes();
        drop(leases);
        self.save_sticky(changes);
    }

    /// Sets a new configuration. No session ends by it: limits are felt by those who ask from now on, and whoever
    /// holds an address keeps it.
    pub fn reconfigure(&self, config: EngineConfig) -> ReconfigureReport {
        let config = Arc::new(config);
        let former = {
            let mut place = self.config.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, config.clone())
        };
        lock(&self.admission).configure(config.limits.clone());
        lock(&self.history).resize(config.history);
        let mut report = differences(&former, &config);
        let mut leases = lock(&self.leases);
        if former.pools != config.pools || former.sticky_count != config.sticky_count {
            leases.configure(&config.pools, config.sticky_count);
        }
        for orphan in leases.orphans() {
            report.orphans += 1;
            if report.orphan_examples.len() < ReconfigureReport::EXAMPLES {
                report.orphan_examples.push(orphan);
            }
        }
        let changes = leases.take_changes();
        drop(leases);
        self.save_sticky(changes);
        self.tell(EngineEvent::Reconfigured(report.clone()));
        report
    }
}

fn differences(former: &EngineConfig, config: &EngineConfig) -> ReconfigureReport {
    let mut report = ReconfigureReport::default();
    let mut note = |changed: bool, what: &str| {
        if changed {
            report.now.push(what.to_owned());
        }
    };
    note(former.history != config.history, "size of the history");
    note(
        former.sticky_count != config.sticky_count,
        "number of kept addresses",
    );
    note(
        former.counter_interval != config.counter_interval,
        "interval of counters",
    );
    if former.limits != config.limits {
        report.new_sessions.push("limits".to_owned());
    }
    if former.defaults != config.defaults {
        report.new_sessions.push("defaults of sessions".to_owned());
    }
    let find = |config: &EngineConfig, pool: &PoolConfig| {
        let mut pools = config.pools.iter();
        pools.find(|other| other.name == pool.name).cloned()
    };
    for pool in &config.pools {
        match find(former, pool) {
            None => report.new_sessions.push(format!("new pool {}", pool.name)),
            Some(before) if before != *pool => report.new_sessions.push(format!("pool {}", pool.name)),
            Some(_) => {}
        }
    }
    for pool in &former.pools {
        if find(config, pool).is_none() {
            report.new_sessions.push(format!("removed pool {}", pool.name));
        }
    }
    report
}
