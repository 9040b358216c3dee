//! Families with closed label sets. Every child is made before it is used, so that counters start at 0 and a
//! series cannot appear that nobody listed.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{IntCounter, Registry};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The label value that stands for all values that nobody listed. Its series appears only where that happens,
/// which is a mistake in the gateway, and stays one series.
pub const OTHER: &str = "other";

type Maker<M> = Box<dyn Fn(&'static str) -> M + Send + Sync>;

/// The children of one family that differ in one label.
pub struct Labelled<M> {
    children: HashMap<&'static str, M>,
    other: OnceLock<M>,
    make: Maker<M>,
}

impl<M> Labelled<M> {
    /// Makes a child for each value.
    pub(crate) fn new(
        values: impl IntoIterator<Item = &'static str>,
        make: impl Fn(&'static str) -> M + Send + Sync + 'static,
    ) -> Self {
        Self {
            children: values.into_iter().map(|value| (value, make(value))).collect(),
            other: OnceLock::new(),
            make: Box::new(make),
        }
    }

    /// The child with a label value; that of [`OTHER`] where the value was not listed.
    pub fn get(&self, value: &str) -> &M {
        match self.children.get(value) {
            Some(child) => child,
            None => self.other.get_or_init(|| (self.make)(OTHER)),
        }
    }

    /// All listed children with their label values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &M)> {
        self.children.iter().map(|(value, child)| (*value, child))
    }
}

/// A counter whose owner counts by itself, such as the kernel or a pool, and gives totals.
#[derive(Clone, Debug)]
pub struct Total {
    counter: IntCounter,
    last: Arc<AtomicU64>,
}

impl Total {
    pub(crate) fn new(counter: IntCounter) -> Self {
        Self {
            counter,
            last: Arc::default(),
        }
    }

    /// Takes over the owner's total. Where it is smaller than before, the owner started anew, and what it
    /// counted since then is added.
    pub fn observe(&self, total: u64) {
        let last = self.last.swap(total, Ordering::Relaxed);
        self.counter.inc_by(total.checked_sub(last).unwrap_or(total));
    }

    /// The value shown.
    pub fn get(&self) -> u64 {
        self.counter.get()
    }
}

/// Registers a collector and gives it back.
pub(crate) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// One child of a family, by all its label values.
pub(crate) fn child<B: MetricVecBuilder>(family: &MetricVec<B>, values: &[&str]) -> B::M {
    family.with_label_values(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_goes_on_after_its_owner_started_anew() {
        let total = Total::new(IntCounter::new("a_total", "A.").unwrap());
        for (given, shown) in [(5, 5), (5, 5), (9, 9), (2, 11), (3, 12)] {
            total.observe(given);
            assert_eq!(total.get(), shown);
        }
    }
}
