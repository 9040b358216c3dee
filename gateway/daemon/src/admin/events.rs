//! The event stream: a ring of what happened lately, and readers that follow it.

use super::views;
use crate::admin::calls::Calls;
use serde_json::json;
use sluice_core::{EngineEvent, Observer, SessionId};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// Events kept for readers that come back with `Last-Event-ID`.
pub(crate) const RING: usize = 10_000;

#[derive(Clone)]
struct Kept {
    number: u64,
    at: SystemTime,
    event: EngineEvent,
}

struct Ring {
    kept: VecDeque<Kept>,
    next: u64,
}

/// What happened lately. Events are put in by the shards; writing them as JSON is left to the readers.
pub struct Events {
    /// A random name of this ring: an event id of another run of the worker must not be taken for one of ours.
    run: u32,
    capacity: usize,
    ring: Mutex<Ring>,
    news: watch::Sender<u64>,
    calls: Calls,
}

/// Which events a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventFilter {
    /// Their types; empty: all.
    pub(crate) types: Vec<String>,
    /// Only those about this session.
    pub(crate) session: Option<SessionId>,
}

impl EventFilter {
    fn matches(&self, event: &EngineEvent) -> bool {
        let wanted = self.types.is_empty() || self.types.iter().any(|name| name == event.name());
        let about = |session| views::event_session(event) == Some(session);
        wanted && self.session.is_none_or(about)
    }
}

/// One event as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The id to come back with.
    pub(crate) id: String,
    /// The type.
    pub(crate) name: &'static str,
    /// The event as JSON, on one line.
    pub(crate) data: String,
}

/// A place in the stream.
pub(crate) struct Cursor {
    next: u64,
    news: watch::Receiver<u64>,
    filter: EventFilter,
    /// Told once at the start: what the reader missed cannot be given any more.
    lost: bool,
}

impl Events {
    /// An empty ring; `run` is random.
    pub fn new(run: u32) -> Self {
        Self::with_capacity(run, RING)
    }

    fn with_capacity(run: u32, capacity: usize) -> Self {
        let ring = Ring {
            kept: VecDeque::new(),
            next: 0,
        };
        Self {
            run,
            capacity,
            ring: Mutex::new(ring),
            news: watch::Sender::new(0),
            calls: Calls::default(),
        }
    }

    /// The calls that were placed, and what became of them.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: EngineEvent, at: SystemTime) {
        let (next, _gone) = {
            let mut ring = self.lock();
            let number = ring.next;
            ring.next += 1;
            let full = ring.kept.len() >= self.capacity;
            let gone = full.then(|| ring.kept.pop_front());
            ring.kept.push_back(Kept { number, at, event });
            (ring.next, gone)
        };
        // Whoever subscribes after this looks into the ring before it waits.
        if self.news.receiver_count() > 0 {
            self.news.send_replace(next);
        }
    }

    /// Readers that follow the stream now.
    #[cfg(test)]
    pub(crate) fn followers(&self) -> usize {
        self.news.receiver_count()
    }

    /// A reader's place: after the event it saw last, or, where it names none, after all there were.
    pub(crate) fn follow(&self, last: Option<&str>, filter: EventFilter) -> Cursor {
        let next = self.lock().next;
        let mut cursor = Cursor {
            next,
            news: self.news.subscribe(),
            filter,
            lost: false,
        };
        if let Some(last) = last {
            let seen = self.number_of(last).filter(|seen| *seen < next);
            cursor.next = seen.map_or(0, |seen| seen + 1);
            cursor.lost = seen.is_none();
        }
        cursor
    }

    fn number_of(&self, id: &str) -> Option<u64> {
        let (run, number) = id.split_once('-')?;
        let ours = u32::from_str_radix(run, 16) == Ok(self.run);
        number.parse().ok().filter(|_| ours)
    }

    /// The next event for a reader; `None`: it has them all.
    fn next(&self, cursor: &mut Cursor) -> Option<Sent> {
        loop {
            let kept = {
                let ring = self.lock();
                let first = ring.kept.front().map_or(ring.next, |kept| kept.number);
                if cursor.next < first {
                    cursor.lost = true;
                    cursor.next = first;
                }
                if std::mem::take(&mut cursor.lost) {
                    return Some(self.lost_before(cursor.next));
                }
                let index = usize::try_from(cursor.next - first).ok()?;
                ring.kept.get(index)?.clone()
            };
            cursor.next += 1;
            if cursor.filter.matches(&kept.event) {
                return Some(self.sent(&kept));
            }
        }
    }

    fn sent(&self, kept: &Kept) -> Sent {
        let mut data = views::event_data(&kept.event);
        let name = kept.event.name();
        if let Some(object) = data.as_object_mut() {
            object.insert("type".to_owned(), json!(name));
            object.insert("time".to_owned(), json!(views::time(kept.at)));
        }
        Sent {
            id: format!("{:08x}-{}", self.run, kept.number),
            name,
            data: data.to_string(),
        }
    }

    /// Tells a reader that events before a place are gone: it has to ask for the state anew.
    fn lost_before(&self, next: u64) -> Sent {
        // The id names no event, so that a reader which comes back with it gets everything from `next`.
        let id = match next.checked_sub(1) {
            Some(before) => format!("{:08x}-{before}", self.run),
            None => String::new(),
        };
        Sent {
            id,
            name: "events_lost",
            data: json!({ "type": "events_lost" }).to_string(),
        }
    }

    /// Waits for the next event for a reader. `None`: the gateway ends.
    pub(crate) async fn wait(&self, cursor: &mut Cursor) -> Option<Sent> {
        loop {
            cursor.news.borrow_and_update();
            if let Some(sent) = self.next(cursor) {
                return Some(sent);
            }
            cursor.news.changed().await.ok()?;
        }
    }
}

impl Observer for Events {
    fn on_event(&self, event: &EngineEvent) {
        self.calls.note(event);
        self.push(event.clone(), SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(events: &Events, draining: bool) {
        events.push(EngineEvent::Draining(draining), SystemTime::UNIX_EPOCH);
    }

    fn ids(events: &Events, cursor: &mut Cursor) -> Vec<String> {
        std::iter::from_fn(|| events.next(cursor))
            .map(|sent| format!("{} {}", sent.name, sent.id))
            .collect()
    }

    #[test]
    fn a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice() {
        let events = Events::with_capacity(0xab, 10);
        (0..5).for_each(|_| push(&events, true));
        let mut cursor = events.follow(Some("000000ab-2"), EventFilter::default());
        assert_eq!(
            ids(&events, &mut cursor),
            ["draining 000000ab-3", "draining 000000ab-4"]
        );
        push(&events, false);
        assert_eq!(ids(&events, &mut cursor), ["draining 000000ab-5"]);
        let mut fresh = events.follow(None, EventFilter::default());
        assert!(ids(&events, &mut fresh).is_empty());
    }

    #[test]
    fn a_reader_is_told_when_events_are_gone() {
        let events = Events::with_capacity(1, 3);
        (0..10).for_each(|_| push(&events, true));
        let gone = ["events_lost 00000001-6", "draining 00000001-7"];
        for last in ["00000001-2", "00000002-9", "00000001-99", "nonsense", ""] {
            let mut cursor = events.follow(Some(last), EventFilter::default());
            assert_eq!(ids(&events, &mut cursor)[..2], gone, "{last}");
        }
        let mut slow = events.follow(None, EventFilter::default());
        (0..10).for_each(|_| push(&events, true));
        assert_eq!(ids(&events, &mut slow)[0], "events_lost 00000001-16");
    }

    #[test]
    fn only_wanted_types_are_sent() {
        let events = Events::with_capacity(1, 10);
        let filter = EventFilter {
            types: vec!["pool_exhausted".to_owned()],
            session: None,
        };
        let mut cursor = events.follow(None, filter);
        push(&events, true);
        let pool = "home".to_owned();
        events.push(EngineEvent::PoolExhausted { pool }, SystemTime::UNIX_EPOCH);
        let sent = events.next(&mut cursor).unwrap();
        assert_eq!(
            sent.data,
            r#"{"pool":"home","time":"1970-01-01T00:00:00Z","type":"pool_exhausted"}"#
        );
        assert!(events.next(&mut cursor).is_none());
    }
}
