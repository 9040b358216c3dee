//! What a shard counts, into the gateway's metrics.

use super::Counters;
use sluice_dataplane::{Carried, UserPath};
use sluice_metrics::{IntCounter, Metrics};
use std::collections::HashMap;
use std::sync::Arc;

/// Counts what machines and fronts report.
pub(super) struct Counted(pub(super) Arc<Metrics>);

impl Counters for Counted {
    fn dropped(&self, protocol: &'static str, reason: &'static str) {
        if let Some(protocol) = self.0.protocol(protocol) {
            protocol.dropped.get(reason).inc();
        }
    }

    fn counted(&self, protocol: &'static str, name: &'static str) {
        if let Some(protocol) = self.0.protocol(protocol) {
            protocol.events.get(name).inc();
        }
    }

    fn limited(&self, protocol: &'static str, reason: &'static str) {
        if let Some(protocol) = self.0.protocol(protocol) {
            protocol.limited.get(reason).inc();
        }
    }

    fn revoked(&self, protocol: &'static str, reason: &'static str) {
        if let Some(protocol) = self.0.protocol(protocol) {
            protocol.revoked.get(reason).inc();
        }
    }
}

/// Takes over what the data plane counted since the last time.
pub(super) struct Report {
    metrics: Arc<Metrics>,
    drops: HashMap<(Option<&'static str>, &'static str), u64>,
    carried: HashMap<&'static str, Carried>,
}

impl Report {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            drops: HashMap::new(),
            carried: HashMap::new(),
        }
    }

    pub(super) fn take(&mut self, plane: &UserPath) {
        for (protocol, reason, total) in plane.drops().iter() {
            let last = self.drops.entry((protocol, reason)).or_default();
            let counter = match protocol {
                None => Some(self.metrics.dataplane_drops.get(reason)),
                Some(name) => self.metrics.protocol(name).map(|found| found.dropped.get(reason)),
            };
            if let Some(counter) = counter {
                add(counter, last, total);
            }
        }
        for (protocol, carried) in plane.carried() {
            let last = self.carried.entry(protocol).or_default();
            if let Some(found) = self.metrics.protocol(protocol) {
                add(&found.rx.packets, &mut last.rx_packets, carried.rx_packets);
                add(&found.rx.bytes, &mut last.rx_bytes, carried.rx_bytes);
                add(&found.tx.packets, &mut last.tx_packets, carried.tx_packets);
                add(&found.tx.bytes, &mut last.tx_bytes, carried.tx_bytes);
            }
        }
    }
}

/// Adds what a total grew by since it was last taken over.
fn add(counter: &IntCounter, last: &mut u64, total: u64) {
    counter.inc_by(total.saturating_sub(*last));
    *last = total;
}
