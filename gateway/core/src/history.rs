//! Sessions that have ended, the last ones only.

use crate::SessionId;
use crate::model::Session;
use crate::query::Order;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

/// Sessions read under one lock.
const CHUNK: usize = 256;

#[derive(Debug)]
pub(crate) struct History {
    by_id: BTreeMap<SessionId, Arc<Session>>,
    by_end: VecDeque<SessionId>,
    most: usize,
}

impl History {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            by_id: BTreeMap::new(),
            by_end: VecDeque::new(),
            most,
        }
    }

    pub(crate) fn resize(&mut self, most: usize) {
        self.most = most;
        self.trim();
    }

    pub(crate) fn push(&mut self, session: Arc<Session>) {
        let id = session.id;
        if self.by_id.insert(id, session).is_none() {
            self.by_end.push_back(id);
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.by_end.len() > self.most {
            if let Some(oldest) = self.by_end.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.by_id.get(&id).cloned()
    }

    pub(crate) fn next(&self, after: Option<SessionId>, order: Order) -> Vec<Arc<Session>> {
        let bound = after.map_or(Unbounded, Excluded);
        match order {
            Order::OldestFirst => self
                .by_id
                .range((bound, Unbounded))
                .take(CHUNK)
                .map(|(_, s)| s.clone())
                .collect(),
            Order::NewestFirst => self
                .by_id
                .range((Unbounded, bound))
                .rev()
                .take(CHUNK)
                .map(|(_, s)| s.clone())
                .collect(),
        }
    }
}
