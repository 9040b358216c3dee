//! What connections carry and lose, added to their protocol's metrics.

use super::{Source, Streams};
use sluice_dataplane::relay::datagrams::Drops;
use sluice_metrics::{IntCounter, ProtocolMetrics};
use sluice_spi::PathStats;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What of one session is in the metrics.
pub(super) struct Tally {
    streams: Rc<Streams>,
    protocol: &'static str,
    carried: Cell<PathStats>,
    dropped: RefCell<Vec<(&'static str, u64)>>,
}

impl Tally {
    /// For a session that has carried this much already, in a worker before.
    pub(super) fn new(streams: &Rc<Streams>, source: &Source, carried: PathStats) -> Self {
        Self {
            streams: streams.clone(),
            protocol: source.origin.protocol,
            carried: Cell::new(carried),
            dropped: RefCell::default(),
        }
    }

    fn metrics(&self) -> Option<&ProtocolMetrics> {
        self.streams.metrics.protocol(self.protocol)
    }

    /// Adds what a session has carried since the last time, and gives it back.
    pub(super) fn carried(&self, now: PathStats) -> PathStats {
        let last = self.carried.replace(now);
        if let Some(metrics) = self.metrics() {
            let add = |counter: &IntCounter, now: u64, last: u64| counter.inc_by(now.saturating_sub(last));
            add(&metrics.rx.packets, now.rx_packets, last.rx_packets);
            add(&metrics.rx.bytes, now.rx_bytes, last.rx_bytes);
            add(&metrics.tx.packets, now.tx_packets, last.tx_packets);
            add(&metrics.tx.bytes, now.tx_bytes, last.tx_bytes);
        }
        now
    }

    /// Adds what a relay has dropped since the last time.
    pub(super) fn dropped(&self, drops: &Drops) {
        let Some(metrics) = self.metrics() else { return };
        let mut known = self.dropped.borrow_mut();
        for (reason, count) in drops.iter() {
            let last = match known.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, last)) => std::mem::replace(last, count),
                None => {
                    known.push((reason, count));
                    0
                }
            };
            metrics.dropped.get(reason).inc_by(count.saturating_sub(last));
        }
    }
}
