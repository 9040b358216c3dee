//! What sessions share, over restarts: what was used of quotas.

use super::now;
use crate::config::Config;
use crate::limits::Ledger;
use sluice_auth::policy::Policy;
use sluice_core::{Engine, Living, Record, Table};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

/// Makes the ledger with what is on record for it, and gives back all other records.
pub(super) fn recall(policy: &Policy, config: &Config, records: Vec<Record>) -> (Arc<Ledger>, Vec<Record>) {
    let is_used = |record: &Record| record.table == Table::Quotas;
    let (used, others): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_used);
    let ledger = Ledger::new(policy, &config.quotas);
    let (count, useless) = (used.len(), ledger.load(used.into_iter(), now().wall));
    if useless > 0 {
        tracing::info!(
            count,
            useless,
            "what was used of quotas is known again, but for those that are damaged, over or configured no more"
        );
    }
    (Arc::new(ledger), others)
}

/// All that is to be in the store.
pub(super) struct Everything {
    pub(super) engine: Arc<Engine>,
    pub(super) ledger: Arc<Ledger>,
}

impl Living for Everything {
    fn records(&self, clock: &dyn Fn() -> SystemTime, put: &mut dyn FnMut(Record) -> ControlFlow<()>) {
        let mut broke = false;
        self.engine.records(clock, &mut |record| {
            let flow = put(record);
            broke |= flow.is_break();
            flow
        });
        if !broke {
            // Whoever breaks it knows that.
            let _ = self.ledger.records(put);
        }
    }
}
