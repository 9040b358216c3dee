//! What is counted about the way to targets.

use crate::labels::{Total, child, registered};
use prometheus::{IntCounterVec, Opts, Registry};
use std::collections::HashMap;

/// What its owner calls a family, its name, what it is about, and its label.
const FAMILIES: [(&str, &str, &str, &str); 6] = [
    (
        "connects",
        "sluice_egress_connects_total",
        "Connections that clients asked for, by what became of them.",
        "result",
    ),
    (
        "lookups",
        "sluice_egress_lookups_total",
        "Names that were looked up, by where the answer was found.",
        "result",
    ),
    (
        "lookup_failures",
        "sluice_egress_lookup_failures_total",
        "Names that were not found out.",
        "reason",
    ),
    (
        "races",
        "sluice_egress_races_total",
        "Names that were connected to, by the family of the address that won.",
        "family",
    ),
    (
        "upstream_faults",
        "sluice_egress_upstream_faults_total",
        "Upstream proxies that did not do their part.",
        "reason",
    ),
    (
        "binds",
        "sluice_egress_binds_total",
        "Waits for peers' connections, and connections that came, by what became of them.",
        "result",
    ),
];

/// The counters of the way to targets, by family and label as their owner has them.
pub(crate) struct EgressFamilies(HashMap<(&'static str, &'static str), Total>);

impl EgressFamilies {
    /// Registers the families with a series for each label that is listed.
    pub(crate) fn register(
        registry: &Registry,
        listed: &[(&'static str, &'static str)],
    ) -> prometheus::Result<Self> {
        let mut totals = HashMap::new();
        for (key, name, help, label) in FAMILIES {
            let family = registered(registry, IntCounterVec::new(Opts::new(name, help), &[label]))?;
            let labels = listed.iter().filter(|(of, _)| *of == key);
            totals.extend(labels.map(|&(of, value)| ((of, value), Total::new(child(&family, &[value])))));
        }
        Ok(Self(totals))
    }

    pub(crate) fn get(&self, family: &'static str, label: &'static str) -> Option<&Total> {
        self.0.get(&(family, label))
    }
}
