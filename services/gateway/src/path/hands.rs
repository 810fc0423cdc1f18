//! Tasks that serve the requests of HTTP/2 connections, one after the other.
//!
//! A request there is a task, since all of a connection's go on at once. To make one for each, move
//! its whole state to where it stays and throw it away again costs a sixth of what serving it does;
//! so a task that has served a request waits a moment for the next one, whosever it is.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use sumun_engine::{Deadline, Worker};

use super::http2::{Work, answer};
use crate::limits::{HAND_PATIENCE, HEAD_KEPT_BYTES, IDLE_HANDS};

thread_local! {
    /// Those of this worker that have nothing to do.
    static IDLE: RefCell<Vec<Rc<Hand>>> = const { RefCell::new(Vec::new()) };
}

/// One such task, as others see it.
#[derive(Default)]
pub(super) struct Hand {
    work: Cell<Option<Work>>,
    /// Of the task; empty until it runs.
    waker: OnceCell<Waker>,
    /// Where the next request's head is decoded to.
    bytes: Cell<Vec<u8>>,
}

impl Hand {
    /// One that has nothing to do, the last to have had.
    pub(super) fn take() -> Rc<Self> {
        IDLE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// An empty buffer, for the head of the work that this one is given.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.take()
    }

    /// Has `work` done.
    pub(super) fn give(self: Rc<Self>, worker: &Rc<Worker>, work: Work) {
        self.work.set(Some(work));
        match self.waker.get() {
            Some(waker) => waker.wake_by_ref(),
            None => drop(tokio::task::spawn_local(run(self, Rc::clone(worker)))),
        }
    }

    /// Lies idle from now on, unless too many do.
    fn rest(self: &Rc<Self>, deadline: &Deadline, mut bytes: Vec<u8>) -> bool {
        bytes.clear();
        bytes.shrink_to(HEAD_KEPT_BYTES);
        self.bytes.set(bytes);
        deadline.set(HAND_PATIENCE);
        IDLE.with_borrow_mut(|idle| {
            let has_room = idle.len() < IDLE_HANDS;
            if has_room {
                idle.push(Rc::clone(self));
            }
            has_room
        })
    }

    /// The next work; `None`: there has been none for a while, or the worker is to end.
    async fn next(self: &Rc<Self>, deadline: &Deadline, worker: &Worker) -> Option<Work> {
        poll_fn(|_| match self.work.take() {
            Some(work) => Poll::Ready(Some(work)),
            None if deadline.passed() || worker.is_draining() => Poll::Ready(None),
            None => Poll::Pending,
        })
        .await
    }
}

/// Whoever ends, for whatever reason, is not idle any more.
struct Present<'a>(&'a Rc<Hand>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        // The thread may be ending, and the list gone already.
        IDLE.try_with(|idle| idle.borrow_mut().retain(|other| !Rc::ptr_eq(other, self.0))).ok();
    }
}

async fn run(hand: Rc<Hand>, worker: Rc<Worker>) {
    let _present = Present(&hand);
    let mut deadline = worker.deadlines.enter().await;
    poll_fn(|context| {
        hand.waker.get_or_init(|| context.waker().clone());
        Poll::Ready(())
    })
    .await;
    while let Some(work) = hand.next(&deadline, &worker).await {
        let bytes;
        (deadline, bytes) = answer(work, deadline).await;
        if !hand.rest(&deadline, bytes) {
            return;
        }
    }
}
