//! The families that every protocol has.

use crate::labels::{Labelled, child, registered};
use crate::spec::{Labels, Phase, ProtocolLabels};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// Setup takes milliseconds in a quiet network, and seconds where a packet was lost; 30 s is where peers give up.
const SETUP_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The result of a setup in the family's label.
const ESTABLISHED: &str = "established";
const FAILED: &str = "failed";

/// The reason of a setup that did not fail.
const NO_REASON: &str = "none";

/// Protocol in the label of drops that happen before a packet belongs to a protocol.
pub(crate) const NO_PROTOCOL: &str = "none";

/// User data in one direction.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// IP packets; of proxies, datagrams.
    pub packets: IntCounter,
    /// Bytes of IP packets; of proxies, payload.
    pub bytes: IntCounter,
}

/// One protocol's metrics.
pub struct ProtocolMetrics {
    /// Sessions by state.
    pub sessions: Labelled<IntGauge>,
    /// Tunnels by state.
    pub tunnels: Labelled<IntGauge>,
    /// Peers that have proven nothing yet.
    pub half_open: IntGauge,
    /// Sessions that were established.
    pub setups: IntCounter,
    /// Sessions that were admitted and never established, by reason.
    pub setup_failures: Labelled<IntCounter>,
    /// Sessions that ended, by cause.
    pub terminations: Labelled<IntCounter>,
    /// Sessions and tunnels that were not admitted, by reason.
    pub refusals: Labelled<IntCounter>,
    /// Sessions that a limit of policy refused, by the limit.
    pub limited: Labelled<IntCounter>,
    /// Sessions that were ended because policy, users or what is left of a quota changed, by what changed.
    pub revoked: Labelled<IntCounter>,
    /// From the peers.
    pub rx: Traffic,
    /// To the peers.
    pub tx: Traffic,
    /// Packets that were refused, by reason.
    pub dropped: Labelled<IntCounter>,
    /// What else the module counts, by its names.
    pub events: Labelled<IntCounter>,
    durations: [Histogram; Phase::ALL.len()],
}

impl ProtocolMetrics {
    /// Notes how long a phase of a setup took.
    pub fn setup_took(&self, phase: Phase, duration: Duration) {
        let at = Phase::ALL.iter().position(|one| *one == phase);
        if let Some(histogram) = at.and_then(|at| self.durations.get(at)) {
            histogram.observe(duration.as_secs_f64());
        }
    }
}

/// The families before they are divided among protocols.
pub(crate) struct ProtocolFamilies {
    sessions: IntGaugeVec,
    tunnels: IntGaugeVec,
    half_open: IntGaugeVec,
    setups: IntCounterVec,
    durations: HistogramVec,
    terminations: IntCounterVec,
    refusals: IntCounterVec,
    limited: IntCounterVec,
    revoked: IntCounterVec,
    rx_packets: IntCounterVec,
    rx_bytes: IntCounterVec,
    tx_packets: IntCounterVec,
    tx_bytes: IntCounterVec,
    dropped: IntCounterVec,
    events: IntCounterVec,
}

impl ProtocolFamilies {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let durations = HistogramOpts::new(
            "sluice_session_setup_duration_seconds",
            "Time that sessions took to be set up, by phase; only of those that were established.",
        );
        Ok(Self {
            sessions: gauge("sluice_sessions", "Sessions, by state.", &["protocol", "state"])?,
            tunnels: gauge("sluice_tunnels", "Tunnels, by state.", &["protocol", "state"])?,
            half_open: gauge(
                "sluice_half_open_peers",
                "Peers that have proven nothing yet.",
                &["protocol"],
            )?,
            setups: counter(
                "sluice_session_setups_total",
                "Session setups that are over, by result and reason of failure.",
                &["protocol", "result", "reason"],
            )?,
            durations: registered(
                registry,
                HistogramVec::new(durations.buckets(SETUP_BUCKETS.to_vec()), &["protocol", "phase"]),
            )?,
            terminations: counter(
                "sluice_session_terminations_total",
                "Sessions that ended, by terminate cause (RFC 2866).",
                &["protocol", "cause"],
            )?,
            refusals: counter(
                "sluice_refusals_total",
                "Sessions and tunnels that were not admitted.",
                &["protocol", "reason"],
            )?,
            limited: counter(
                "sluice_policy_refusals_total",
                "Sessions that a limit of policy refused.",
                &["protocol", "reason"],
            )?,
            revoked: counter(
                "sluice_policy_terminations_total",
                "Live sessions that were ended because policy, users or what is left of a quota changed.",
                &["protocol", "reason"],
            )?,
            rx_packets: counter(
                "sluice_rx_packets_total",
                "IP packets, and datagrams of proxies, from peers.",
                &["protocol"],
            )?,
            rx_bytes: counter(
                "sluice_rx_bytes_total",
                "Bytes of IP packets, and payload of proxies, from peers.",
                &["protocol"],
            )?,
            tx_packets: counter(
                "sluice_tx_packets_total",
                "IP packets, and datagrams of proxies, to peers.",
                &["protocol"],
            )?,
            tx_bytes: counter(
                "sluice_tx_bytes_total",
                "Bytes of IP packets, and payload of proxies, to peers.",
                &["protocol"],
            )?,
            dropped: counter(
                "sluice_packets_dropped_total",
                "Packets that were refused, by reason; protocol none: before one was known.",
                &["protocol", "reason"],
            )?,
            events: counter(
                "sluice_protocol_events_total",
                "What protocol modules count besides, such as retransmissions.",
                &["protocol", "event"],
            )?,
        })
    }

    /// The children of one protocol.
    pub(crate) fn of(&self, protocol: &ProtocolLabels, labels: &Labels) -> ProtocolMetrics {
        let name = protocol.name;
        let gauges = |family: &IntGaugeVec| {
            let family = family.clone();
            Labelled::new(labels.states.iter().copied(), move |state| {
                child(&family, &[name, state])
            })
        };
        let setups = self.setups.clone();
        ProtocolMetrics {
            sessions: gauges(&self.sessions),
            tunnels: gauges(&self.tunnels),
            half_open: child(&self.half_open, &[name]),
            setups: child(&self.setups, &[name, ESTABLISHED, NO_REASON]),
            setup_failures: Labelled::new(labels.setup_failures.iter().copied(), move |reason| {
                child(&setups, &[name, FAILED, reason])
            }),
            terminations: counters(&self.terminations, name, &labels.causes),
            refusals: counters(&self.refusals, name, &labels.refusals),
            limited: counters(&self.limited, name, &labels.limits),
            revoked: counters(&self.revoked, name, &labels.revocations),
            rx: Traffic {
                packets: child(&self.rx_packets, &[name]),
                bytes: child(&self.rx_bytes, &[name]),
            },
            tx: Traffic {
                packets: child(&self.tx_packets, &[name]),
                bytes: child(&self.tx_bytes, &[name]),
            },
            dropped: counters(&self.dropped, name, &protocol.drop_reasons),
            events: counters(&self.events, name, protocol.events),
            durations: Phase::ALL.map(|phase| child(&self.durations, &[name, phase.as_str()])),
        }
    }

    /// Drops that belong to no protocol.
    pub(crate) fn dataplane_drops(&self, labels: &Labels) -> Labelled<IntCounter> {
        counters(&self.dropped, NO_PROTOCOL, &labels.dataplane_drop_reasons)
    }
}

fn counters(family: &IntCounterVec, protocol: &'static str, values: &[&'static str]) -> Labelled<IntCounter> {
    let family = family.clone();
    Labelled::new(values.iter().copied(), move |value| {
        child(&family, &[protocol, value])
    })
}
