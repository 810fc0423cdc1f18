//! Deadlines of connections, swept by the worker's tick.
//!
//! A timer of the runtime for each read would cost more than the read's own bookkeeping. Here
//! setting a deadline is one store; the tick walks the table and wakes the tasks whose time has
//! come.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;
use sumun_traffic::pressure::FULL;

use crate::own_limits::spare;

const NEVER: u64 = u64::MAX;

/// So much further on the next sweep begins: a prime, so that it comes to all of them.
const SWEEP_STEP: usize = 7919;

struct Entry {
    at_ms: u64,
    /// So much earlier it may pass where descriptors or memory are short.
    spare_ms: u32,
    waker: Waker,
}

impl Entry {
    fn is_due(&self, now_ms: u64, shortening: u32) -> bool {
        let earlier_ms = u64::from(self.spare_ms) * u64::from(shortening) / u64::from(FULL);
        self.at_ms.saturating_sub(earlier_ms) <= now_ms
    }
}

/// The table of one worker.
#[derive(Default)]
pub struct Deadlines {
    entries: RefCell<Slab<Entry>>,
    /// The clock of the last sweep.
    now_ms: Cell<u64>,
    /// How much of the time to spare is taken away, in thousandths.
    shortening: Cell<u32>,
    /// Which entry is woken first in the next one.
    first: Cell<usize>,
}

impl std::fmt::Debug for Deadlines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Deadlines({} entries)", self.entries.borrow().len())
    }
}

impl Deadlines {
    /// Enters the current task. The deadline is off until it is set.
    pub async fn enter(self: &Rc<Self>) -> Deadline {
        let deadline = self.reserve();
        deadline.wake_this_task().await;
        deadline
    }

    /// A deadline for a task that is still to be started. It wakes nobody until that task has
    /// called [`Deadline::wake_this_task`].
    #[must_use]
    pub fn reserve(self: &Rc<Self>) -> Deadline {
        let key = self.entries.borrow_mut().insert(Entry { at_ms: NEVER, spare_ms: 0, waker: Waker::noop().clone() });
        Deadline { key: key as u32, table: Rc::clone(self) }
    }

    /// Wakes every task whose deadline is not after `now_ms`, where so many thousandths of what deadlines
    /// have to spare are taken away.
    pub fn sweep(&self, now_ms: u64, shortening: u32) {
        self.now_ms.set(now_ms);
        self.shortening.set(shortening);
        let entries = self.entries.borrow();
        // Each time another one comes first: they may wait for the same thing, of which there is not
        // enough for all.
        let first = self.first.get() % entries.capacity().max(1);
        self.first.set(first.wrapping_add(SWEEP_STEP));
        let is_due = |(_, entry): &(usize, &Entry)| entry.is_due(now_ms, shortening);
        let (behind, before) = (|(key, _): &(usize, &Entry)| *key >= first, |(key, _): &(usize, &Entry)| *key < first);
        for (_, entry) in entries.iter().filter(behind).chain(entries.iter().filter(before)).filter(is_due) {
            entry.waker.wake_by_ref();
        }
    }

    /// Wakes every task: something concerns them all, such as a drain.
    pub fn wake_all(&self) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.waker.wake_by_ref();
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The one deadline of a task. A task that awaits anything looks at `passed` whenever it is woken.
#[derive(Debug)]
pub struct Deadline {
    key: u32,
    table: Rc<Deadlines>,
}

impl Deadline {
    /// From now on the current task is woken when the deadline has passed.
    pub async fn wake_this_task(&self) {
        poll_fn(|context| {
            self.wake(context.waker());
            Poll::Ready(())
        })
        .await;
    }

    /// From now on this one is woken when the deadline has passed.
    pub fn wake(&self, waker: &Waker) {
        if let Some(entry) = self.table.entries.borrow_mut().get_mut(self.key as usize) {
            entry.waker.clone_from(waker);
        }
    }

    /// Wakes the task that this one belongs to: something else concerns it.
    pub fn wake_task(&self) {
        if let Some(entry) = self.table.entries.borrow().get(self.key as usize) {
            entry.waker.wake_by_ref();
        }
    }

    /// Passes `after` from now, at the next tick behind that.
    pub fn set(&self, after: Duration) {
        let at_ms = self.table.now_ms.get().saturating_add(after.as_millis() as u64).saturating_add(1);
        self.set_at(at_ms);
    }

    /// The same of a connection that is idle: sooner where descriptors or memory are short.
    pub fn set_idle(&self, after: Duration) {
        self.set_idle_at(self.table.now_ms.get().saturating_add(after.as_millis() as u64).saturating_add(1), after);
    }

    /// The same, at this time of the worker's coarse clock, which ends an idle time of `idle`.
    pub fn set_idle_at(&self, at_ms: u64, idle: Duration) {
        self.enter_at(at_ms, u32::try_from(spare(idle).as_millis()).unwrap_or(u32::MAX));
    }

    /// Passes at this time of the worker's coarse clock.
    pub fn set_at(&self, at_ms: u64) {
        self.enter_at(at_ms, 0);
    }

    fn enter_at(&self, at_ms: u64, spare_ms: u32) {
        if let Some(entry) = self.table.entries.borrow_mut().get_mut(self.key as usize) {
            entry.at_ms = at_ms;
            entry.spare_ms = spare_ms;
        }
    }

    pub fn clear(&self) {
        self.set_at(NEVER);
    }

    #[must_use]
    pub fn passed(&self) -> bool {
        let (now_ms, shortening) = (self.table.now_ms.get(), self.table.shortening.get());
        self.table.entries.borrow().get(self.key as usize).is_some_and(|entry| entry.is_due(now_ms, shortening))
    }

    /// Milliseconds of the coarse clock that this table counts by.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.table.now_ms.get()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().try_remove(self.key as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_end_sooner_where_something_is_short() {
        let table = Rc::new(Deadlines::default());
        let (idle, other) = (table.reserve(), table.reserve());
        idle.set_idle(Duration::from_secs(61));
        other.set(Duration::from_secs(61));
        table.sweep(1_500, 0);
        assert!(!idle.passed() && !other.passed());
        table.sweep(1_500, FULL);
        assert!(idle.passed() && !other.passed());
        table.sweep(1_500, FULL / 2);
        assert!(!idle.passed());
        table.sweep(31_500, FULL / 2);
        assert!(idle.passed() && !other.passed());
        // What is set anew has nothing to spare.
        idle.set(Duration::from_secs(61));
        table.sweep(40_000, FULL);
        assert!(!idle.passed());
        table.sweep(61_500, 0);
        assert!(other.passed());
    }
}
