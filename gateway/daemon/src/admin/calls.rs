//! Calls that were placed through the API, by their labels.

use sluice_core::EngineEvent;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Calls remembered; the oldest is forgotten first.
const MAX_CALLS: usize = 1000;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Call {
    /// Its label.
    pub(crate) label: String,
    /// `placed`: nothing heard yet; `opening`: it has a session; `up`; `ended`.
    pub(crate) state: &'static str,
    /// Its session.
    pub(crate) session: Option<String>,
    /// How it ended, in words.
    pub(crate) end: Option<String>,
}

#[derive(Default)]
struct Table {
    by_label: HashMap<String, Call>,
    order: VecDeque<String>,
}

/// The table of calls.
#[derive(Default)]
pub(crate) struct Calls(Mutex<Table>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a call was placed. False where its label is known already.
    pub(crate) fn placed(&self, label: &str) -> bool {
        let mut table = self.lock();
        if table.by_label.contains_key(label) {
            return false;
        }
        if table.order.len() >= MAX_CALLS
            && let Some(oldest) = table.order.pop_front()
        {
            table.by_label.remove(&oldest);
        }
        let call = Call {
            label: label.to_owned(),
            state: "placed",
            session: None,
            end: None,
        };
        table.order.push_back(label.to_owned());
        table.by_label.insert(label.to_owned(), call);
        true
    }

    /// Forgets a call that nobody took.
    pub(crate) fn refused(&self, label: &str) {
        let mut table = self.lock();
        table.by_label.remove(label);
        table.order.retain(|known| known != label);
    }

    /// A call.
    pub(crate) fn get(&self, label: &str) -> Option<Call> {
        self.lock().by_label.get(label).cloned()
    }

    /// Looks whether an event is about a placed call.
    pub(super) fn note(&self, event: &EngineEvent) {
        if let EngineEvent::CallFailed { label, reason } = event {
            if let Some(call) = self.lock().by_label.get_mut(label) {
                call.state = "ended";
                call.end = Some(reason.clone());
            }
            return;
        }
        let (session, state) = match event {
            EngineEvent::SessionOpened(session) => (session, "opening"),
            EngineEvent::SessionUp(session) => (session, "up"),
            EngineEvent::SessionDown(session) => (session, "ended"),
            _ => return,
        };
        let Some(label) = &session.label else { return };
        if let Some(call) = self.lock().by_label.get_mut(label) {
            call.state = state;
            call.session = Some(session.id.to_string());
            call.end = session.end.as_ref().map(|end| end.text.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_came_to_nothing_is_over() {
        let calls = Calls::default();
        calls.placed("a");
        let (label, reason) = ("a".to_owned(), "nobody answers".to_owned());
        calls.note(&EngineEvent::CallFailed { label, reason });
        let call = calls.get("a").unwrap();
        assert_eq!(
            (call.state, call.end.as_deref()),
            ("ended", Some("nobody answers"))
        );
    }

    #[test]
    fn a_label_is_taken_once_and_memory_is_bounded() {
        let calls = Calls::default();
        assert!(calls.placed("a"));
        assert!(!calls.placed("a"));
        for number in 0..MAX_CALLS {
            assert!(calls.placed(&number.to_string()));
        }
        assert_eq!(calls.get("a"), None);
        assert_eq!(calls.lock().by_label.len(), MAX_CALLS);
        assert_eq!(calls.get("5").unwrap().state, "placed");
        calls.refused("5");
        assert_eq!(calls.get("5"), None);
        assert_eq!(calls.lock().order.len(), MAX_CALLS - 1);
    }
}
