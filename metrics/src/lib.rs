//! The metric registry: every family with its closed label sets, and the Prometheus text exposition.
//!
//! Names follow Prometheus' rules: prefix `sluice_`, base units, `_total` on counters. No label ever holds a user,
//! an address or a session: whatever a value is asked for that nobody listed goes to the one series `other`.

mod egress;
mod labels;
mod process;
mod protocol;
mod spec;

pub use labels::{Labelled, OTHER, Total};
pub use prometheus::{Gauge, Histogram, IntCounter, IntGauge};
pub use protocol::{ProtocolMetrics, Traffic};
pub use spec::{Labels, Phase, PoolUse, ProtocolLabels, RestoreResult};

use egress::EgressFamilies;
use labels::{child, registered};
use process::Process;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use protocol::ProtocolFamilies;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Media type of what [`Metrics::gather`] gives.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Most series of pools, whatever the configuration has: 8 of each pool with both families.
const MAX_POOL_SERIES: usize = 8 * 1000;

/// From a cache hit, some microseconds, to a check that waited for its deadline.
const AUTH_BUCKETS: [f64; 12] = [
    0.0001, 0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// From a fast disk to a failing one.
const DISK_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Fine below the 50 ms at which users notice.
const LAG_BUCKETS: [f64; 11] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// The result of an accepted authentication in the family's label.
const ACCEPTED: &str = "accepted";

/// The metrics could not be set up: two families or children have the same name.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Authentication by one backend.
pub struct BackendMetrics {
    results: HashMap<&'static str, Labelled<IntCounter>>,
    duration: Histogram,
}

impl BackendMetrics {
    /// Notes an answer: `rejected` is the reason, `None`: accepted. Unknown methods are not counted.
    pub fn answered(&self, method: &str, rejected: Option<&str>, took: Duration) {
        if let Some(results) = self.results.get(method) {
            results.get(rejected.unwrap_or(ACCEPTED)).inc();
        }
        self.duration.observe(took.as_secs_f64());
    }
}

/// All metrics of a gateway.
pub struct Metrics {
    registry: Registry,
    process: Process,
    protocols: HashMap<&'static str, ProtocolMetrics>,
    egress: EgressFamilies,
    backends: HashMap<&'static str, BackendMetrics>,
    /// Held while all pools are replaced, so that no scrape sees half of them.
    pools: Mutex<IntGaugeVec>,
    restored: Labelled<IntCounter>,
    /// Packets dropped before they belonged to a protocol, by reason.
    pub dataplane_drops: Labelled<IntCounter>,
    /// Passwords waiting to be hashed.
    pub auth_hash_queue_depth: IntGauge,
    /// Logins answered from the credential cache.
    pub auth_cache_hits: Total,
    /// Logins whose password had to be hashed.
    pub auth_cache_misses: Total,
    /// Cache entries that had to give way before their time.
    pub auth_cache_evictions: Total,
    /// How long the last restoration took, in seconds.
    pub restore_duration: Gauge,
    /// How long taking a checkpoint took, in seconds.
    pub checkpoint_duration: Histogram,
    /// How long commits of the store took, in seconds.
    pub store_commit_duration: Histogram,
    /// Changes waiting to be written to the store.
    pub store_queue_depth: IntGauge,
    /// 1 while the store takes no changes after a failure, 0 while it does.
    pub store_read_only: IntGauge,
    /// Times the store failed.
    pub store_failures: Total,
    /// Times the store recovered from a failure.
    pub store_recoveries: Total,
    /// Times the keeper started a worker again.
    pub worker_restarts: Total,
    /// How late shards come round, in seconds.
    pub shard_loop_lag: Histogram,
    /// First packets of masqueraded connections: the rule that counts them sees no others.
    pub nat_packets: Total,
    /// Bytes of those.
    pub nat_bytes: Total,
    reload_time: Gauge,
    reload_worked: IntGauge,
}

/// Makes and registers families without labels.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn int_gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        registered(self.0, IntGauge::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        registered(self.0, Gauge::new(name, help))
    }

    fn total(&self, name: &str, help: &str) -> prometheus::Result<Total> {
        registered(self.0, IntCounter::new(name, help)).map(Total::new)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        registered(self.0, Histogram::with_opts(options))
    }
}

fn register_build(registry: &Registry, labels: &Labels) -> prometheus::Result<()> {
    let options = Opts::new("sluice_build_info", "Always 1; the labels say what is running.");
    let family = registered(registry, IntGaugeVec::new(options, &["version", "revision"]))?;
    child(&family, &[&labels.version, &labels.revision]).set(1);
    Ok(())
}

fn register_backends(
    registry: &Registry,
    labels: &Labels,
) -> prometheus::Result<HashMap<&'static str, BackendMetrics>> {
    let options = Opts::new(
        "sluice_auth_requests_total",
        "Answers to authentication requests.",
    );
    let requests = registered(
        registry,
        IntCounterVec::new(options, &["backend", "method", "result"]),
    )?;
    let options = HistogramOpts::new(
        "sluice_auth_duration_seconds",
        "Time until an authentication request was decided, waiting included.",
    );
    let durations = registered(
        registry,
        HistogramVec::new(options.buckets(AUTH_BUCKETS.to_vec()), &["backend"]),
    )?;
    let backend = |backend: &'static str| {
        let of_method = |method: &'static str| {
            let requests = requests.clone();
            let results = labels.rejects.iter().copied().chain([ACCEPTED]);
            Labelled::new(results, move |result| {
                child(&requests, &[backend, method, result])
            })
        };
        BackendMetrics {
            results: labels
                .methods
                .iter()
                .map(|&method| (method, of_method(method)))
                .collect(),
            duration: child(&durations, &[backend]),
        }
    };
    Ok(labels
        .backends
        .iter()
        .map(|&name| (name, backend(name)))
        .collect())
}

impl Metrics {
    /// Registers every family, with a series at 0 for every listed label value.
    pub fn new(labels: &Labels) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let make = Maker(&registry);
        register_build(&registry, labels)?;
        let families = ProtocolFamilies::register(&registry)?;
        let protocols = labels
            .protocols
            .iter()
            .map(|protocol| (protocol.name, families.of(protocol, labels)));
        let restored = IntCounterVec::new(
            Opts::new(
                "sluice_restore_sessions_total",
                "Recorded sessions after a restart, by what became of them.",
            ),
            &["result"],
        );
        let restored = registered(&registry, restored)?;
        let pools = IntGaugeVec::new(
            Opts::new(
                "sluice_pool_addresses",
                "Addresses (IPv6: prefixes of 64 bits) of pools, by their state.",
            ),
            &["pool", "family", "state"],
        );
        Ok(Self {
            process: Process::register(&registry)?,
            protocols: protocols.collect(),
            egress: EgressFamilies::register(&registry, &labels.egress)?,
            backends: register_backends(&registry, labels)?,
            pools: Mutex::new(registered(&registry, pools)?),
            restored: Labelled::new(RestoreResult::ALL.map(RestoreResult::as_str), move |result| {
                child(&restored, &[result])
            }),
            dataplane_drops: families.dataplane_drops(labels),
            auth_hash_queue_depth: make
                .int_gauge("sluice_auth_hash_queue_depth", "Passwords waiting to be hashed.")?,
            auth_cache_hits: make.total(
                "sluice_auth_cache_hits_total",
                "Logins answered from the credential cache.",
            )?,
            auth_cache_misses: make.total(
                "sluice_auth_cache_misses_total",
                "Logins whose password had to be hashed.",
            )?,
            auth_cache_evictions: make.total(
                "sluice_auth_cache_evictions_total",
                "Credential cache entries that had to give way before their time.",
            )?,
            restore_duration: make.gauge(
                "sluice_restore_duration_seconds",
                "How long the last restoration took.",
            )?,
            checkpoint_duration: make.histogram(
                "sluice_checkpoint_duration_seconds",
                "How long taking a checkpoint took.",
                &DISK_BUCKETS,
            )?,
            store_commit_duration: make.histogram(
                "sluice_store_commit_duration_seconds",
                "How long commits of the store took.",
                &DISK_BUCKETS,
            )?,
            store_queue_depth: make.int_gauge(
                "sluice_store_queue_depth",
                "Changes waiting to be written to the store.",
            )?,
            store_read_only: make.int_gauge(
                "sluice_store_read_only",
                "1 while the store takes no changes after a failure.",
            )?,
            store_failures: make.total("sluice_store_failures_total", "Times the store failed.")?,
            store_recoveries: make.total(
                "sluice_store_recoveries_total",
                "Times the store recovered from a failure, with all that lives written anew.",
            )?,
            worker_restarts: make.total(
                "sluice_worker_restarts_total",
                "Times the keeper started a worker again.",
            )?,
            shard_loop_lag: make.histogram(
                "sluice_shard_loop_lag_seconds",
                "How late shards came round to what was due.",
                &LAG_BUCKETS,
            )?,
            nat_packets: make.total(
                "sluice_nat_packets_total",
                "First packets of masqueraded connections.",
            )?,
            nat_bytes: make.total(
                "sluice_nat_bytes_total",
                "Bytes of the first packets of masqueraded connections.",
            )?,
            reload_time: make.gauge(
                "sluice_config_reload_success_timestamp_seconds",
                "When the configuration in effect was read, since the epoch.",
            )?,
            reload_worked: make.int_gauge(
                "sluice_config_last_reload_successful",
                "Whether the last attempt to read the configuration worked.",
            )?,
            registry,
        })
    }

    /// A protocol's metrics; `None`: it was not listed.
    pub fn protocol(&self, name: &str) -> Option<&ProtocolMetrics> {
        self.protocols.get(name)
    }

    /// An authentication backend's metrics; `None`: it was not listed.
    pub fn backend(&self, name: &str) -> Option<&BackendMetrics> {
        self.backends.get(name)
    }

    /// Counts recorded sessions after a restart.
    pub fn restored(&self, result: RestoreResult, sessions: u64) {
        self.restored.get(result.as_str()).inc_by(sessions);
    }

    /// Shows the use of these pools, and of no others. The names come from the configuration; of more pools
    /// than the gateway could sensibly have, the last are not shown.
    pub fn set_pools(&self, pools: &[PoolUse]) {
        let family = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        family.reset();
        let states = |pool: &PoolUse| {
            [
                ("held", pool.held),
                ("kept", pool.kept),
                ("blocked", pool.blocked),
                ("free", pool.free),
            ]
        };
        let series = pools
            .iter()
            .flat_map(|pool| states(pool).map(|(state, count)| (pool, state, count)));
        for (pool, state, count) in series.take(MAX_POOL_SERIES) {
            let version = if pool.ipv6 { "ipv6" } else { "ipv4" };
            child(&family, &[&pool.pool, version, state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes an attempt to read the configuration.
    pub fn config_read(&self, worked: bool, at: SystemTime) {
        self.reload_worked.set(i64::from(worked));
        if worked {
            self.reload_time
                .set(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
    }

    /// A counter of the way to targets, by its owner's names of family and label; `None`: it was not listed.
    pub fn egress(&self, family: &'static str, label: &'static str) -> Option<&Total> {
        self.egress.get(family, label)
    }

    /// All metrics in the Prometheus text format, with what the process takes read anew.
    pub fn gather(&self) -> Result<String, MetricsError> {
        self.process.refresh();
        let _whole = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }
}

#[cfg(test)]
mod tests;
