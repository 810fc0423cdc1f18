//! The worker's side.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::Thread;

use super::batch::Place;
use super::entry::{Entry, KeptHeaders, Needs};
use super::limits::{PLACE_TRIES, WAKE_LINES};
use super::plan::Plan;
use super::{Shared, lock};
use crate::counters::Counter;
use crate::limits::LOG_SAMPLE;
use crate::own_limits::OwnLimits;

/// A worker's two places for lines: the writer holds at most one of them, so the other is free.
#[derive(Debug)]
pub(super) struct Lane {
    places: [Mutex<Place>; 2],
    lost: Counter,
    left_out: Counter,
}

impl Lane {
    pub(super) fn new(plan: &Arc<Plan>) -> Self {
        Self {
            places: [Mutex::new(Place::new(plan)), Mutex::new(Place::new(plan))],
            lost: Counter::default(),
            left_out: Counter::default(),
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.value()
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out.value()
    }

    /// For the writer, which may wait.
    pub(super) fn places(&self) -> impl Iterator<Item = MutexGuard<'_, Place>> {
        self.places.iter().map(lock)
    }

    /// For the worker, which never waits.
    fn free_place(&self) -> Option<MutexGuard<'_, Place>> {
        self.places.iter().cycle().take(PLACE_TRIES).find_map(|place| match place.try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::Poisoned(place)) => Some(place.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }
}

/// What one worker writes with.
#[derive(Debug)]
pub struct LogSender {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    writer: Thread,
    /// The newest plan that this worker has seen.
    plan: RefCell<Arc<Plan>>,
    generation: Cell<u64>,
    /// Lines until the next one that is written while the log is cut down.
    until_sample: Cell<u32>,
}

impl LogSender {
    pub(super) fn new(shared: Arc<Shared>, lane: Arc<Lane>, writer: Thread) -> Self {
        let generation = shared.generation.load(Ordering::Acquire);
        let plan = Arc::clone(&lock(&shared.plan));
        Self {
            shared,
            lane,
            writer,
            plan: RefCell::new(plan),
            generation: Cell::new(generation),
            until_sample: Cell::new(0),
        }
    }

    /// There is a log to write: one relaxed look, for the case that there is none.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.look();
        self.plan.borrow().form.is_some()
    }

    /// A line is to be written now: there is a log, and it is not cut down or this is one of those that are
    /// written still. Ask once for a line.
    #[inline]
    #[must_use]
    pub fn wants_line(&self, limits: &OwnLimits) -> bool {
        self.is_on() && (!limits.cuts_log() || self.is_sample())
    }

    #[cold]
    fn is_sample(&self) -> bool {
        let left = self.until_sample.get();
        self.until_sample.set(left.checked_sub(1).unwrap_or(LOG_SAMPLE - 1));
        if left > 0 {
            self.lane.left_out.increment();
        }
        left == 0
    }

    /// What has to be looked up for a line.
    #[inline]
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.look();
        self.plan.borrow().needs
    }

    /// Keeps what the format wants of a request's header fields; names are in lower case.
    pub fn keep_request_headers<'a>(&self, value: impl Fn(&str) -> Option<&'a [u8]>) -> KeptHeaders {
        self.look();
        let plan = self.plan.borrow();
        KeptHeaders::collect(plan.id, &plan.request_headers, value)
    }

    /// Keeps what the format wants of a response's header fields; call it while they are there.
    pub fn keep_response_headers<'a>(&self, value: impl Fn(&str) -> Option<&'a [u8]>) -> KeptHeaders {
        self.look();
        let plan = self.plan.borrow();
        KeptHeaders::collect(plan.id, &plan.response_headers, value)
    }

    /// Copies the line into the queue; a line that finds no room is lost and counted. Nothing
    /// happens while the log is off.
    #[inline]
    pub fn write(&self, entry: &Entry<'_>) {
        self.look();
        let plan = self.plan.borrow();
        if plan.form.is_some() {
            self.write_as(&plan, entry);
        }
    }

    fn write_as(&self, plan: &Arc<Plan>, entry: &Entry<'_>) {
        let pushed = self.lane.free_place().map(|mut place| place.push(plan, entry));
        match pushed {
            Some(Ok(WAKE_LINES)) => self.writer.unpark(),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.lane.lost.increment(),
        }
    }

    /// Takes over what a reload changed.
    #[inline]
    fn look(&self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation.get() {
            self.take_plan(generation);
        }
    }

    /// The one lock that a worker waits for, once after a reload and for the length of a clone.
    #[cold]
    fn take_plan(&self, generation: u64) {
        *self.plan.borrow_mut() = Arc::clone(&lock(&self.shared.plan));
        self.generation.set(generation);
    }
}
