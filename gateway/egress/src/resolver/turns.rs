//! Whose look-up is next: so many at once, so many waiting, and those who wait take turns by who asks, so that one
//! who asks for a thousand names delays the others by one look-up each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What part of all turns and places one asker has at the most.
const SHARE: usize = 4;

/// A turn. It ends when it is dropped, and the next one begins.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    asker: u64,
    ended: bool,
}

/// How one enters.
pub(crate) enum Entered {
    /// It is one's turn.
    Now(Turn),
    /// One waits.
    Later(oneshot::Receiver<Turn>),
}

/// All turns.
pub(crate) struct Turns(Arc<Shared>);

struct Shared {
    at_once: usize,
    most_waiting: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    waiting: usize,
    askers: HashMap<u64, Asker>,
    /// Those with somebody waiting, the next first.
    order: VecDeque<u64>,
}

#[derive(Default)]
struct Asker {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

impl Turns {
    /// So many at once, and so many waiting.
    pub(crate) fn new(at_once: usize, most_waiting: usize) -> Self {
        Self(Arc::new(Shared {
            at_once: at_once.max(1),
            most_waiting,
            state: Mutex::default(),
        }))
    }

    /// Takes a turn or a place; `None`: there is none.
    pub(crate) fn enter(&self, asker: u64) -> Option<Entered> {
        let shared = &self.0;
        let mut state = shared.lock();
        let own = state.askers.get(&asker);
        let (running, waiting) = own.map_or((0, 0), |own| (own.running, own.waiting.len()));
        if state.running < shared.at_once && running < shared.share(shared.at_once) {
            state.running += 1;
            state.askers.entry(asker).or_default().running += 1;
            return Some(Entered::Now(shared.turn(asker)));
        }
        if state.waiting >= shared.most_waiting || waiting >= shared.share(shared.most_waiting) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting += 1;
        if waiting == 0 {
            state.order.push_back(asker);
        }
        state.askers.entry(asker).or_default().waiting.push_back(sender);
        Some(Entered::Later(receiver))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if anything did, the numbers would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, all: usize) -> usize {
        all.div_ceil(SHARE)
    }

    fn turn(self: &Arc<Self>, asker: u64) -> Turn {
        Turn {
            shared: self.clone(),
            asker,
            ended: false,
        }
    }

    /// Ends a turn, and says whose is next.
    fn end(self: &Arc<Self>, asker: u64) -> Option<(oneshot::Sender<Turn>, Turn)> {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if let Some(own) = state.askers.get_mut(&asker) {
            own.running = own.running.saturating_sub(1);
        }
        state.tidy(asker);
        if state.running >= self.at_once {
            return None;
        }
        let share = self.share(self.at_once);
        let may = |asker: &u64| state.askers.get(asker).is_some_and(|own| own.running < share);
        let place = state.order.iter().position(may)?;
        let next = state.order.remove(place)?;
        let own = state.askers.get_mut(&next)?;
        let sender = own.waiting.pop_front()?;
        own.running += 1;
        let more = !own.waiting.is_empty();
        state.running += 1;
        state.waiting = state.waiting.saturating_sub(1);
        if more {
            state.order.push_back(next);
        }
        Some((sender, self.turn(next)))
    }
}

impl State {
    fn tidy(&mut self, asker: u64) {
        let own = self.askers.get(&asker);
        if own.is_some_and(|own| own.running == 0 && own.waiting.is_empty()) {
            self.askers.remove(&asker);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut ending = self.asker;
        // Who does not wait any more gives the turn on.
        while let Some((sender, turn)) = self.shared.end(ending) {
            let Err(mut unwanted) = sender.send(turn) else {
                break;
            };
            unwanted.ended = true;
            ending = unwanted.asker;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(turns: &Turns, asker: u64) -> Turn {
        match turns.enter(asker) {
            Some(Entered::Now(turn)) => turn,
            Some(Entered::Later(_)) => panic!("{asker} waits"),
            None => panic!("{asker} has no place"),
        }
    }

    fn later(turns: &Turns, asker: u64) -> oneshot::Receiver<Turn> {
        match turns.enter(asker) {
            Some(Entered::Later(receiver)) => receiver,
            _ => panic!("{asker} does not wait"),
        }
    }

    #[test]
    fn those_who_wait_take_turns_by_who_asks() {
        let turns = Turns::new(1, 40);
        let first = now(&turns, 1);
        let mut greedy: Vec<_> = (0..10).map(|_| later(&turns, 1)).collect();
        assert!(
            turns.enter(1).is_none(),
            "a quarter of the places is one asker's share"
        );
        let mut modest = later(&turns, 2);
        drop(first);
        let turn = greedy[0].try_recv().unwrap();
        assert!(modest.try_recv().is_err());
        drop(turn);
        let turn = modest.try_recv().unwrap();
        drop(turn);
        for waiting in &mut greedy[1..] {
            drop(waiting.try_recv().unwrap());
        }
        assert!(turns.0.lock().askers.is_empty());
        let state = turns.0.lock();
        assert_eq!((state.running, state.waiting), (0, 0));
    }

    #[test]
    fn one_asker_has_a_quarter_of_all_turns() {
        let turns = Turns::new(8, 8);
        let held = [now(&turns, 1), now(&turns, 1)];
        let mut third = later(&turns, 1);
        let others: Vec<_> = (2..8).map(|asker| now(&turns, asker)).collect();
        let mut late = later(&turns, 9);
        drop(others);
        assert!(third.try_recv().is_err(), "its share is used up");
        assert!(late.try_recv().is_ok());
        drop(held);
        assert!(third.try_recv().is_ok());
    }

    #[test]
    fn who_is_gone_gives_the_turn_on() {
        let turns = Turns::new(1, 100);
        let first = now(&turns, 1);
        (0..10).for_each(|_| drop(later(&turns, 1)));
        let mut last = later(&turns, 2);
        drop(later(&turns, 3));
        drop(first);
        assert!(last.try_recv().is_ok());
        assert!(turns.0.lock().askers.is_empty());
        drop(now(&turns, 4));
    }

    #[test]
    fn places_are_bounded() {
        let turns = Turns::new(1, 8);
        let _first = now(&turns, 0);
        let _waiting: Vec<_> = (0..8).map(|asker| later(&turns, asker)).collect();
        assert!(turns.enter(99).is_none());
    }
}
