//! Waiting for a place, first come, first served, across workers.
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

use sumun_traffic::queue::{Offer, Queue, Ticket};

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
    Taken,
}

/// The queue had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

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

    /// Joins the end of the queue, and serves whoever can be served by then: maybe itself.
    pub(crate) fn join(
        self: &Arc<Self>,
        wish: Wish,
        size: u32,
        offer: impl FnMut(&Wish) -> Offer<Grant>,
    ) -> Result<Waiting<Grant, Wish>, QueueFull> {
        let waiter = Arc::new(Waiter { wish, state: Mutex::new(State::Waiting(None)) });
        let mut queue = self.lock();
        // No deadline: each waiter has its own timer, and leaves when it rings.
        let ticket = queue.push(Arc::clone(&waiter), u64::MAX, size as usize).map_err(|_| QueueFull)?;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(queue);
        self.serve(offer);
        Ok(Waiting { room: Arc::clone(self), waiter, ticket })
    }

    /// Gives places to waiters, in their order, until there is no place or nobody who wants one.
    pub(crate) fn serve(&self, mut offer: impl FnMut(&Wish) -> Offer<Grant>) {
        loop {
            let mut queue = self.lock();
            let Some((waiter, grant)) = queue.take_first(|waiter| offer(&waiter.wish)) else {
                return;
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(queue);
            let before = std::mem::replace(&mut *waiter.lock(), State::Granted(grant));
            if let State::Waiting(Some(waker)) = before {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Arc<Waiter<Grant, Wish>>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Grant, Wish> Waiter<Grant, Wish> {
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
    type Output = Grant;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Grant> {
        let mut state = self.waiter.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Granted(grant) => Poll::Ready(grant),
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
