//! How many sessions users and sources have.

use super::{Owner, Refused, Who, lock};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

/// Sessions by whose they are; no more entries than sessions have owners.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<Owner, u32>>);

/// A session that counts as long as this is there.
#[derive(Debug)]
pub(super) struct Counted {
    counts: Arc<Counts>,
    who: Who,
}

impl Counts {
    /// Whether a session may be, with those that there are; counts it where `counted` does not yet.
    pub(super) fn admit(
        self: &Arc<Self>,
        who: &Who,
        of_user: Option<u32>,
        of_source: Option<u32>,
        counted: &mut Option<Counted>,
    ) -> Result<(), Refused> {
        let mut counts = lock(&self.0);
        let own = u32::from(counted.is_some());
        let is_full = |owner: &Owner, limit: Option<u32>| {
            let others = counts.get(owner).copied().unwrap_or(0).saturating_sub(own);
            limit.is_some_and(|limit| others >= limit)
        };
        if let Some(user) = &who.user
            && is_full(&Owner::User(user.clone()), of_user)
        {
            return Err(Refused::UserSessions);
        }
        if is_full(&Owner::Source(who.source), of_source) {
            return Err(Refused::SourceSessions);
        }
        if counted.is_none() {
            count(&mut counts, who);
            *counted = Some(self.counted(who));
        }
        Ok(())
    }

    /// Counts a session, whatever the limits are.
    pub(super) fn enter(self: &Arc<Self>, who: &Who) -> Counted {
        count(&mut lock(&self.0), who);
        self.counted(who)
    }

    fn counted(self: &Arc<Self>, who: &Who) -> Counted {
        Counted {
            counts: self.clone(),
            who: who.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

fn count(counts: &mut HashMap<Owner, u32>, who: &Who) {
    let user = who.user.clone().map(Owner::User);
    for owner in user.into_iter().chain([Owner::Source(who.source)]) {
        let count = counts.entry(owner).or_default();
        *count = count.saturating_add(1);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts.0);
        let user = self.who.user.take().map(Owner::User);
        for owner in user.into_iter().chain([Owner::Source(self.who.source)]) {
            if let Entry::Occupied(mut entry) = counts.entry(owner) {
                *entry.get_mut() = entry.get().saturating_sub(1);
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }
}
