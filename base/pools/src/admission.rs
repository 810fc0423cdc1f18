//! So many at once, and a queue for the others: of a pool, or of a route.
//!
//! Shared by all workers. While there are free places, coming in is one atomic operation and going
//! out is another; the lock of the waiting room is touched only at the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sumun_traffic::queue::Offer;

use crate::capacity::WaitingRoom;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Client,
    /// One of the pool's own servers: see `sumun_traffic::self_calls`.
    OwnServer,
}

/// Why a request may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// All places and the queue are taken.
    Full,
    /// No place came free in time.
    TimedOut,
    /// The pool's own servers hold as many places as they may.
    SelfCall,
}

/// Places at once, `None` is unbounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdmissionLimits {
    pub concurrency: Option<u32>,
    /// Requests that may wait.
    pub queue: u32,
    pub self_calls: Option<u32>,
}

/// Counts who is inside.
#[derive(Debug)]
pub struct Admission {
    inside: AtomicU32,
    /// `UNBOUNDED` for no limit.
    limit: AtomicU32,
    self_calls: AtomicU32,
    self_calls_limit: AtomicU32,
    queue: AtomicU32,
    room: Arc<WaitingRoom<Place, ()>>,
}

const UNBOUNDED: u32 = u32::MAX;

/// The right to be inside, given back on drop. Costs nothing where there is no limit.
#[derive(Debug)]
pub struct Permit {
    /// Dropped before the self call is uncounted; the order does not matter.
    _place: Option<Place>,
    _self_call: Option<SelfCall>,
}

#[derive(Debug)]
struct Place(Arc<Admission>);

#[derive(Debug)]
struct SelfCall(Arc<Admission>);

impl Admission {
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            inside: AtomicU32::new(0),
            limit: AtomicU32::new(limits.concurrency.unwrap_or(UNBOUNDED)),
            self_calls: AtomicU32::new(0),
            self_calls_limit: AtomicU32::new(limits.self_calls.unwrap_or(UNBOUNDED)),
            queue: AtomicU32::new(limits.queue),
            room: Arc::default(),
        }
    }

    /// Changes the limits. A higher one lets waiters in at once; a lower one asks nobody to leave.
    pub fn set_limits(self: &Arc<Self>, limits: AdmissionLimits) {
        self.limit.store(limits.concurrency.unwrap_or(UNBOUNDED), Ordering::SeqCst);
        self.self_calls_limit.store(limits.self_calls.unwrap_or(UNBOUNDED), Ordering::Relaxed);
        self.queue.store(limits.queue, Ordering::Relaxed);
        self.serve();
    }

    /// Requests inside; not counted while there is no limit.
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Requests that wait to come in.
    pub fn waiting(&self) -> u32 {
        self.room.waiting()
    }

    /// Calls of own servers that are inside or wait.
    pub fn self_calls(&self) -> u32 {
        self.self_calls.load(Ordering::Relaxed)
    }

    /// Comes in if there is a place and nobody waits for it; `Ok(None)` if it would have to wait.
    ///
    /// # Errors
    /// `SelfCall` only.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>, caller: Caller) -> Result<Option<Permit>, NotAdmitted> {
        let self_call = self.enter_self_call(caller)?;
        Ok(self.try_place().map(|place| Permit { _place: place, _self_call: self_call }))
    }

    /// Comes in, or waits for a place, first come, first served. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// See [`NotAdmitted`].
    pub async fn acquire(self: &Arc<Self>, caller: Caller, timeout: Duration) -> Result<Permit, NotAdmitted> {
        let self_call = self.enter_self_call(caller)?;
        if let Some(place) = self.try_place() {
            return Ok(Permit { _place: place, _self_call: self_call });
        }
        let queue = self.queue.load(Ordering::Relaxed);
        let waiting = self.room.join((), queue, |()| self.offer()).map_err(|_| NotAdmitted::Full)?;
        match tokio::time::timeout(timeout, waiting).await {
            Ok(place) => Ok(Permit { _place: Some(place), _self_call: self_call }),
            Err(_) => Err(NotAdmitted::TimedOut),
        }
    }

    /// `Some(None)` is a place that needs no counting.
    #[inline]
    fn try_place(self: &Arc<Self>) -> Option<Option<Place>> {
        if self.limit.load(Ordering::Relaxed) == UNBOUNDED {
            return Some(None);
        }
        (self.room.waiting() == 0 && self.enter()).then(|| Some(Place(Arc::clone(self))))
    }

    #[inline]
    fn enter(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let more = |inside: u32| (inside < limit).then_some(inside + 1);
        self.inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn offer(self: &Arc<Self>) -> Offer<Place> {
        if self.enter() { Offer::Take(Place(Arc::clone(self))) } else { Offer::Nobody }
    }

    #[cold]
    fn serve(self: &Arc<Self>) {
        self.room.serve(|()| self.offer());
    }

    #[inline]
    fn enter_self_call(self: &Arc<Self>, caller: Caller) -> Result<Option<SelfCall>, NotAdmitted> {
        if caller == Caller::Client {
            return Ok(None);
        }
        let limit = self.self_calls_limit.load(Ordering::Relaxed);
        let more = |inside: u32| (inside < limit).then_some(inside + 1);
        match self.self_calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Some(SelfCall(Arc::clone(self)))),
            Err(_) => Err(NotAdmitted::SelfCall),
        }
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        // In this order, see `capacity`.
        if self.0.room.waiting() != 0 {
            self.0.serve();
        }
    }
}

impl Drop for SelfCall {
    fn drop(&mut self) {
        self.0.self_calls.fetch_sub(1, Ordering::Relaxed);
    }
}
