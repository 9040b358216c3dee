//! The metrics: their labels, and what is read when they are asked for.

use crate::admin::Configs;
use crate::shard::{ACCEPT_FAILED, Reach, Remote};
use crate::{host, limits};
use arc_swap::ArcSwap;
use sluice_auth::{Method, RejectReason};
use sluice_auth_backends::{AuthObserver, LocalUsers, NO_BACKEND};
use sluice_core::{Engine, PoolStatus, Refused, State};
use sluice_dataplane::Dropped;
use sluice_dataplane::relay::datagrams::Reason;
use sluice_egress::Counter;
use sluice_egress::proxy_protocol::NoHeader;
use sluice_metrics::{Labels, Metrics, PoolUse, ProtocolLabels};
use sluice_registry::MODULES;
use sluice_spi::{Descriptor, TerminateCause, Transport};
use sluice_store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// All label sets of this build.
pub(super) fn labels() -> Labels {
    let protocols = MODULES.iter().map(|module| {
        let descriptor = module.descriptor();
        ProtocolLabels {
            name: descriptor.name,
            drop_reasons: drop_reasons(descriptor),
            events: descriptor.counters,
        }
    });
    let causes: Vec<&'static str> = TerminateCause::ALL.iter().map(|cause| cause.as_str()).collect();
    let shown = State::ALL.into_iter().filter(|state| *state != State::Closed);
    Labels {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("SLUICE_REVISION").unwrap_or_default().to_owned(),
        protocols: protocols.collect(),
        dataplane_drop_reasons: Dropped::ALL.iter().map(|reason| reason.as_str()).collect(),
        states: shown.map(State::as_str).collect(),
        causes: causes.clone(),
        refusals: Refused::ALL.into_iter().map(Refused::as_str).collect(),
        limits: limits::Refused::ALL
            .into_iter()
            .map(limits::Refused::as_str)
            .collect(),
        revocations: vec!["denied", "quota_used_up", "user_changed"],
        setup_failures: causes,
        egress: Counter::ALL
            .iter()
            .map(|counter| (counter.family(), counter.label()))
            .collect(),
        backends: vec![LocalUsers::NAME, NO_BACKEND],
        methods: Method::ALL.map(Method::as_str).to_vec(),
        rejects: RejectReason::ALL.into_iter().map(RejectReason::as_str).collect(),
    }
}

/// Reasons of the module's own, and of what the gateway does for modules of its kind.
fn drop_reasons(descriptor: &Descriptor) -> Vec<&'static str> {
    let mut reasons = descriptor.drop_reasons.to_vec();
    if descriptor.transport == Transport::Tcp {
        reasons.push(ACCEPT_FAILED);
        reasons.extend(NoHeader::ALL.map(NoHeader::as_str));
        reasons.extend(Reason::ALL.iter().map(|reason| reason.as_str()));
    }
    reasons
}

/// Counts answers of the authentication.
pub(super) struct Answers(pub(super) Arc<Metrics>);

impl AuthObserver for Answers {
    fn answered(
        &self,
        backend: &'static str,
        method: Method,
        result: Result<(), RejectReason>,
        took: Duration,
    ) {
        if let Some(metrics) = self.0.backend(backend) {
            let rejected = result.err().map(RejectReason::as_str);
            metrics.answered(method.as_str(), rejected, took);
        }
    }
}

/// What is read when somebody asks for metrics.
pub(super) struct Sources {
    pub(super) metrics: Arc<Metrics>,
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<Store>,
    pub(super) reach: Arc<ArcSwap<Reach>>,
    pub(super) users: Arc<LocalUsers>,
    pub(super) shards: Vec<Remote>,
    pub(super) configs: Arc<Configs>,
    /// The protocol of each listener.
    pub(super) protocols: Vec<&'static str>,
    pub(super) masquerade: bool,
}

impl Sources {
    /// All metrics as text.
    pub(super) fn text(&self) -> String {
        self.table();
        self.half_open();
        self.metrics.set_pools(&pools(&self.engine.pools()));
        self.store();
        self.egress();
        if let Some((at, worked)) = self.configs.last_attempt() {
            self.metrics.config_read(worked, at);
        }
        let cache = self.users.cache_stats();
        self.metrics.auth_cache_hits.observe(cache.hits);
        self.metrics.auth_cache_misses.observe(cache.misses);
        self.metrics.auth_cache_evictions.observe(cache.evictions);
        self.metrics
            .auth_hash_queue_depth
            .set(gauge(self.users.hash_queue_depth()));
        if self.masquerade {
            self.masquerading();
        }
        self.metrics.gather().unwrap_or_else(|error| {
            tracing::error!("the metrics cannot be written: {error}");
            String::new()
        })
    }

    fn table(&self) {
        let totals = self.engine.totals();
        for module in MODULES {
            let name = module.descriptor().name;
            let Some(metrics) = self.metrics.protocol(name) else {
                continue;
            };
            let count = |counts: &BTreeMap<(&'static str, State), u64>, state| {
                let count = counts.get(&(name, state)).copied().unwrap_or(0);
                i64::try_from(count).unwrap_or(i64::MAX)
            };
            for state in State::ALL.into_iter().filter(|state| *state != State::Closed) {
                metrics
                    .sessions
                    .get(state.as_str())
                    .set(count(&totals.sessions, state));
                metrics
                    .tunnels
                    .get(state.as_str())
                    .set(count(&totals.tunnels, state));
            }
        }
    }

    fn half_open(&self) {
        let mut by_protocol: BTreeMap<&'static str, usize> = BTreeMap::new();
        for shard in &self.shards {
            for (protocol, half_open) in self.protocols.iter().zip(shard.status().half_open) {
                *by_protocol.entry(protocol).or_default() += half_open;
            }
        }
        for (protocol, half_open) in by_protocol {
            if let Some(metrics) = self.metrics.protocol(protocol) {
                metrics.half_open.set(gauge(half_open));
            }
        }
    }

    fn store(&self) {
        let stats = self.store.stats();
        self.metrics.store_queue_depth.set(gauge(stats.queued));
        self.metrics.store_read_only.set(i64::from(stats.read_only));
        self.metrics.store_failures.observe(stats.failures);
        self.metrics.store_recoveries.observe(stats.recoveries);
        for took in self.store.take_commit_durations() {
            self.metrics.store_commit_duration.observe(took.as_secs_f64());
        }
    }

    fn egress(&self) {
        let reach = self.reach.load();
        let counters = reach.egress.counters();
        for &counter in Counter::ALL {
            if let Some(total) = self.metrics.egress(counter.family(), counter.label()) {
                total.observe(counters.get(counter));
            }
        }
    }

    fn masquerading(&self) {
        // A table that somebody else removed has no counters; the next start makes it again.
        let Ok(counts) = host::masquerade_counts() else {
            return;
        };
        self.metrics
            .nat_packets
            .observe(counts.iter().map(|count| count.packets).sum());
        self.metrics
            .nat_bytes
            .observe(counts.iter().map(|count| count.bytes).sum());
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn pools(statuses: &[PoolStatus]) -> Vec<PoolUse> {
    let mut all = Vec::new();
    for status in statuses {
        for (ipv6, used) in [(false, status.ipv4), (true, status.ipv6)] {
            if let Some(used) = used {
                all.push(PoolUse {
                    pool: status.name.clone(),
                    ipv6,
                    held: used.held,
                    kept: used.kept,
                    blocked: used.blocked,
                    free: used.free,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_of_this_build_has_its_series() {
        let metrics = Metrics::new(&labels()).unwrap();
        let text = metrics.gather().unwrap();
        for module in MODULES {
            let descriptor = module.descriptor();
            for reason in drop_reasons(descriptor) {
                let series = format!("protocol=\"{}\",reason=\"{reason}\"", descriptor.name);
                assert!(text.contains(&series), "{series}");
            }
        }
        for counter in Counter::ALL {
            let total = metrics.egress(counter.family(), counter.label());
            assert!(total.is_some(), "{counter:?}");
        }
        Answers(Arc::new(metrics)).answered(NO_BACKEND, Method::Pap, Ok(()), Duration::ZERO);
    }
}
