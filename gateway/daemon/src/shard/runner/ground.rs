//! What a shard's loop and the tasks of its connections share.

use super::super::Driver;
use super::clock;
use sluice_core::Now;
use sluice_dataplane::UserPath;
use std::cell::{Cell, RefCell, RefMut};
use std::task::{Context, Waker};
use std::time::Instant;

/// The driver, and a bell for the loop. Nobody holds the driver over an await.
pub(crate) struct Ground {
    driver: RefCell<Driver<UserPath>>,
    /// When the loop wakes by itself.
    armed: Cell<Option<Instant>>,
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Ground {
    pub(super) fn new(driver: Driver<UserPath>) -> Self {
        Self {
            driver: RefCell::new(driver),
            armed: Cell::new(None),
            rung: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    pub(super) fn driver(&self) -> RefMut<'_, Driver<UserPath>> {
        self.driver.borrow_mut()
    }

    pub(super) fn arm(&self, at: Instant) {
        self.armed.set(Some(at));
    }

    /// Whether a task has something for the loop; if not, the loop is woken when one has.
    pub(super) fn is_rung(&self, cx: &Context<'_>) -> bool {
        if self.rung.replace(false) {
            return true;
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }

    /// Gives a task the driver for a moment, for what changes no timer and asks nothing of the loop.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Driver<UserPath>) -> R) -> R {
        look(&mut self.driver.borrow_mut())
    }

    /// Gives a task the driver for a moment, and sees to it that the loop keeps to what came of it.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Driver<UserPath>, Now) -> R) -> R {
        let now = clock();
        let (result, next) = {
            let mut driver = self.driver.borrow_mut();
            let result = act(&mut driver, now);
            (result, driver.next_timeout(now))
        };
        let is_earlier = next.is_some_and(|next| self.armed.get().is_none_or(|armed| next < armed));
        if is_earlier
            && !self.rung.replace(true)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
        result
    }
}
