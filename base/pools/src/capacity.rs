//! Waiting for a place, in the order of `sumun_traffic::queue`, across workers.
//!
//! Nobody comes here while there are places. A [`Room`] holds those who found none; whoever frees
//! a place sees that somebody waits and *serves* the room: under its lock, the first waiter that
//! can be given a place gets it. The place is handed over, not announced: nobody can snatch it
//! away in between, and a waiter that is gone hands it on.
//!
//! No wake-up is lost: who joins first says so (`waiting`) and then looks for a free place once
//! more; who leaves first frees the place and then looks at `waiting`. All four are sequentially
//! consistent, so at least one of the two sees the other.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use sumun_traffic::Priority;
use sumun_traffic::queue::{Offer, Queue, Ticket};

use crate::admission::NotAdmitted;
use crate::lease::Lease;
use crate::tried::Tried;

/// Requests that wait for a place at a server of a pool.
pub(crate) type Room = WaitingRoom<Lease, Tried>;

/// `Grant` is what a waiter gets; dropping it frees the place. `Wish` is what a waiter asks for.
#[derive(Debug)]
pub(crate) struct WaitingRoom<Grant, Wish> {
    waiting: AtomicU32,
    queue: Mutex<Queue<Arc<Waiter<Grant, Wish>>>>,
}

#[derive(Debug)]
pub(crate) struct Waiter<Grant, Wish> {
    wish: Wish,
    state: Mutex<State<Grant>>,
}

#[derive(Debug)]
enum State<Grant> {
    Waiting(Option<Waker>),
    Granted(Grant),
    /// Others go first, and there are too many of them.
    Ousted,
    Taken,
}

/// How somebody waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) priority: Priority,
    /// As many may wait, this one counted.
    pub(crate) size: u32,
    /// Who has waited for so long may be pushed out by newcomers, see `Queue::give_up`.
    pub(crate) patience_ms: u64,
    /// Others are refused at the door.
    pub(crate) is_shedding: bool,
    pub(crate) now_ms: u64,
}

/// Who joins may push out as many: one for the place it needs, one so that a queue of hopeless ones
/// gets shorter.
const PUSHED_OUT: usize = 2;

impl<Grant, Wish> Default for WaitingRoom<Grant, Wish> {
    fn default() -> Self {
        Self { waiting: AtomicU32::new(0), queue: Mutex::default() }
    }
}

impl<Grant, Wish> WaitingRoom<Grant, Wish> {
    /// How many wait. Newcomers that see anybody wait as well.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The queue does not empty any more.
    pub(crate) fn is_overloaded(&self, now_ms: u64) -> bool {
        self.lock().is_overloaded(Priority::Low, now_ms)
    }

    /// Joins the queue, and serves whoever can be served by then: maybe itself.
    pub(crate) fn join(
        self: &Arc<Self>,
        wish: Wish,
        manner: Manner,
        offer: impl FnMut(&Wish) -> Offer<Grant>,
    ) -> Result<Waiting<Grant, Wish>, NotAdmitted> {
        let Manner { priority, size, patience_ms, is_shedding, now_ms } = manner;
        let waiter = Arc::new(Waiter { wish, state: Mutex::new(State::Waiting(None)) });
        let mut queue = self.lock();
        let (ticket, displaced) =
            queue.push(Arc::clone(&waiter), priority, now_ms, size as usize).map_err(|_| NotAdmitted::Full)?;
        let mut ousted: [Option<Arc<Waiter<Grant, Wish>>>; PUSHED_OUT] = [displaced, None];
        for place in &mut ousted {
            if place.is_none() {
                *place = queue.give_up(now_ms, patience_ms, is_shedding);
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let gone = ousted.iter().flatten().count();
        // At most PUSHED_OUT.
        self.waiting.fetch_sub(gone as u32, Ordering::SeqCst);
        drop(queue);
        for waiter in ousted.into_iter().flatten() {
            waiter.tell(State::Ousted);
        }
        self.serve(now_ms, offer);
        Ok(Waiting { room: Arc::clone(self), waiter, ticket })
    }

    /// Gives places to waiters, in their order, until there is no place or nobody who wants one.
    pub(crate) fn serve(&self, now_ms: u64, mut offer: impl FnMut(&Wish) -> Offer<Grant>) {
        loop {
            let mut queue = self.lock();
            let Some((waiter, grant)) = queue.take_first(now_ms, |waiter| offer(&waiter.wish)) else {
                return;
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(queue);
            waiter.tell(State::Granted(grant));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Arc<Waiter<Grant, Wish>>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Grant, Wish> Waiter<Grant, Wish> {
    /// What became of its waiting. It is not in the queue any more.
    fn tell(&self, state: State<Grant>) {
        let before = std::mem::replace(&mut *self.lock(), state);
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<Grant>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; resolves when it is served, leaves the queue when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<Grant, Wish> {
    room: Arc<WaitingRoom<Grant, Wish>>,
    waiter: Arc<Waiter<Grant, Wish>>,
    ticket: Ticket,
}

impl<Grant, Wish> Future for Waiting<Grant, Wish> {
    type Output = Result<Grant, NotAdmitted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.waiter.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Granted(grant) => Poll::Ready(Ok(grant)),
            State::Ousted => Poll::Ready(Err(NotAdmitted::Shed)),
            State::Waiting(old) => {
                let waker = old.filter(|old| old.will_wake(context.waker()));
                *state = State::Waiting(Some(waker.unwrap_or_else(|| context.waker().clone())));
                Poll::Pending
            }
            // Polled after it was ready: nobody will ever come.
            State::Taken => Poll::Pending,
        }
    }
}

impl<Grant, Wish> Drop for Waiting<Grant, Wish> {
    fn drop(&mut self) {
        if matches!(*self.waiter.lock(), State::Taken) {
            return;
        }
        let mut queue = self.room.lock();
        if queue.remove(self.ticket).is_some() {
            self.room.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        drop(queue);
        // Granted in the meantime: the grant goes, outside of all locks, and serves the next one.
        let state = std::mem::replace(&mut *self.waiter.lock(), State::Taken);
        drop(state);
    }
}
