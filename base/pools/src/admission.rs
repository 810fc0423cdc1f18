//! So many at once, and a queue for the others: of a pool, or of a route.
//!
//! Shared by all workers. While there are free places, coming in is one atomic operation and going
//! out is another; the lock of the waiting room is touched only at the limit.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use sumun_config::checked::Concurrency;
use sumun_traffic::Priority;
use sumun_traffic::adaptive::Step;
use sumun_traffic::queue::Offer;
use sumun_traffic::self_calls;

use crate::capacity::{Manner, Room, WaitingRoom};
use crate::door::Door;
use crate::limits::{PATIENCE_LEAST_MS, PATIENCE_MOST_MS};
use crate::meter::{Beginning, Meter};
use crate::pool::{Pool, milliseconds};

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Client,
    /// One of the pool's own servers: see `sumun_traffic::self_calls`.
    OwnServer,
}

/// Who asks for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub caller: Caller,
    pub priority: Priority,
    /// A hash of who sent it: one is in or out for a while, see `sumun_traffic::level`.
    pub client: u64,
}

/// Drawn by each process anew: nobody can choose an address that is let in.
static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Asker {
    /// `client` is any number that stands for who sent it.
    #[must_use]
    pub fn new(caller: Caller, priority: Priority, client: u64) -> Self {
        Self { caller, priority, client: SECRET.hash_one(client) }
    }
}

/// Why a request may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// All places and the queue are taken.
    Full,
    /// Overload: others go first, or it could not be answered in time.
    Shed,
    /// No place came free in time.
    TimedOut,
    /// The pool's own servers hold as many places as they may.
    SelfCall,
}

/// Places at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    pub concurrency: Concurrency,
    /// Requests that may wait.
    pub queue: u32,
    /// Who has waited for so long in a queue that does not empty may be pushed out by newcomers;
    /// where the concurrency is adaptive, the time of an answer if that is less, and half of it while
    /// others are refused.
    pub patience_ms: u64,
    /// Where the concurrency is adaptive, half of it.
    pub self_calls: Option<u32>,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { concurrency: Concurrency::Unbounded, queue: 0, patience_ms: u64::MAX, self_calls: None }
    }
}

/// Counts who is inside.
#[derive(Debug)]
pub struct Admission {
    started: Instant,
    inside: AtomicU32,
    /// `UNBOUNDED` for no limit.
    limit: AtomicU32,
    self_calls: AtomicU32,
    self_calls_limit: AtomicU32,
    queue: AtomicU32,
    patience_ms: AtomicU64,
    is_adaptive: AtomicBool,
    /// Held for a moment by who stores limits: what a worker has just found out is not to come over what
    /// an operator has set meanwhile.
    storing: Mutex<()>,
    meter: Meter,
    door: Door,
    room: Arc<WaitingRoom<Place, ()>>,
    /// Of a server: where those wait who find no place at any of the pool's.
    outside: Option<(Arc<Room>, Weak<Pool>)>,
    /// Requests that were told to go since the process started.
    shed: AtomicU64,
}

const UNBOUNDED: u32 = u32::MAX;

/// The right to be inside, given back on drop. Costs nothing where there is no limit.
#[derive(Debug)]
pub struct Permit {
    place: Option<Place>,
    self_call: Option<SelfCall>,
}

#[derive(Debug)]
struct Place {
    admission: Arc<Admission>,
    beginning: Beginning,
}

#[derive(Debug)]
struct SelfCall(Arc<Admission>);

impl Admission {
    /// `started` is the zero of the workers' clocks.
    #[must_use]
    pub fn new(limits: AdmissionLimits, started: Instant) -> Self {
        let admission = Self {
            started,
            inside: AtomicU32::new(0),
            limit: AtomicU32::new(UNBOUNDED),
            self_calls: AtomicU32::new(0),
            self_calls_limit: AtomicU32::new(UNBOUNDED),
            queue: AtomicU32::new(0),
            patience_ms: AtomicU64::new(u64::MAX),
            is_adaptive: AtomicBool::new(false),
            storing: Mutex::default(),
            meter: Meter::default(),
            door: Door::default(),
            room: Arc::default(),
            outside: None,
            shed: AtomicU64::new(0),
        };
        admission.store_limits(limits);
        admission
    }

    /// Of one server of a pool: nobody waits here, but in the pool's room.
    pub(crate) fn of_server(room: &Arc<Room>, pool: &Weak<Pool>, started: Instant) -> Self {
        let outside = Some((Arc::clone(room), Weak::clone(pool)));
        Self { outside, ..Self::new(AdmissionLimits::default(), started) }
    }

    /// Changes the limits. A higher one lets waiters in at once; a lower one asks nobody to leave. What
    /// an adaptive one has found out it keeps.
    pub fn set_limits(self: &Arc<Self>, limits: AdmissionLimits) {
        self.store_limits(limits);
        self.serve();
    }

    fn store_limits(&self, limits: AdmissionLimits) {
        let _storing = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, self_calls) = match limits.concurrency {
            Concurrency::Unbounded => (UNBOUNDED, limits.self_calls),
            Concurrency::Fixed(places) => (places, limits.self_calls),
            Concurrency::Adaptive => {
                let places = self.meter.limit();
                (places, self_calls::self_calls_max(Some(places), std::iter::empty()))
            }
        };
        self.is_adaptive.store(limits.concurrency == Concurrency::Adaptive, Relaxed);
        self.limit.store(limit, Ordering::SeqCst);
        self.self_calls_limit.store(self_calls.unwrap_or(UNBOUNDED), Relaxed);
        self.queue.store(limits.queue, Relaxed);
        self.patience_ms.store(limits.patience_ms, Relaxed);
    }

    /// Whether one could come in; in one order with who leaves, so that a waiter misses none.
    pub(crate) fn has_place(&self) -> bool {
        self.inside.load(Ordering::SeqCst) < self.limit.load(Ordering::SeqCst)
    }

    /// Requests inside; not counted while there is no limit.
    pub fn inside(&self) -> u32 {
        self.inside.load(Relaxed)
    }

    /// Requests that wait to come in.
    pub fn waiting(&self) -> u32 {
        self.room.waiting()
    }

    /// Calls of own servers that are inside or wait.
    pub fn self_calls(&self) -> u32 {
        self.self_calls.load(Relaxed)
    }

    /// Places now; `None`: no limit.
    pub fn places(&self) -> Option<u32> {
        Some(self.limit.load(Relaxed)).filter(|&limit| limit != UNBOUNDED)
    }

    /// What an adaptive limit has found out: places, and microseconds of an answer without waiting (0:
    /// nothing yet). `None` where it is not adaptive.
    pub fn found_out(&self) -> Option<(u32, u64)> {
        self.is_adaptive.load(Relaxed).then(|| (self.meter.limit(), self.meter.base_us()))
    }

    /// Goes on from what another process found out.
    pub(crate) fn restore(&self, places: u32, base_us: u64) {
        let _storing = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_adaptive.load(Relaxed) && base_us > 0 {
            self.meter.restore(places, base_us);
            self.limit.store(self.meter.limit(), Ordering::SeqCst);
        }
    }

    /// The share of clients and priorities that is let in to the queue, in thousandths.
    pub fn level_permille(&self) -> u32 {
        self.door.level_permille()
    }

    /// Requests that were refused because of overload.
    pub fn shed(&self) -> u64 {
        self.shed.load(Relaxed)
    }

    /// Comes in if there is a place and nobody waits for it; `Ok(None)` if it would have to wait.
    ///
    /// # Errors
    /// `SelfCall` only.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>, caller: Caller) -> Result<Option<Permit>, NotAdmitted> {
        let self_call = self.enter_self_call(caller)?;
        Ok(self.try_place().map(|place| Permit { place, self_call }))
    }

    /// Comes in, or waits for a place, in the order of `sumun_traffic::queue`, for at most `timeout`.
    /// One that could not be answered within `deadline` does not wait. Dropping the future leaves the
    /// queue.
    ///
    /// # Errors
    /// See [`NotAdmitted`].
    pub async fn acquire(
        self: &Arc<Self>,
        asker: Asker,
        timeout: Duration,
        deadline: Option<Duration>,
    ) -> Result<Permit, NotAdmitted> {
        let result = self.wait(asker, timeout, deadline).await;
        if matches!(result, Err(NotAdmitted::Shed | NotAdmitted::Full)) {
            self.shed.fetch_add(1, Relaxed);
        }
        result
    }

    async fn wait(
        self: &Arc<Self>,
        asker: Asker,
        mut timeout: Duration,
        deadline: Option<Duration>,
    ) -> Result<Permit, NotAdmitted> {
        let self_call = self.enter_self_call(asker.caller)?;
        if let Some(place) = self.try_place() {
            return Ok(Permit { place, self_call });
        }
        let now_us = self.now_us();
        let now_ms = now_us / 1000;
        // The queue is where everybody comes while nothing else does.
        self.look(now_us);
        let base_us = if self.is_adaptive.load(Relaxed) { self.meter.base_us() } else { 0 };
        if let Some(deadline) = deadline {
            let left = deadline.checked_sub(Duration::from_micros(base_us)).ok_or(NotAdmitted::Shed)?;
            timeout = timeout.min(left);
        }
        if !self.door.lets_in(asker.priority, asker.client, now_ms, || self.room.is_overloaded(now_ms)) {
            return Err(NotAdmitted::Shed);
        }
        let is_shedding = self.door.is_shedding();
        let manner = Manner {
            priority: asker.priority,
            size: self.queue.load(Relaxed),
            patience_ms: self.patience_ms(base_us, is_shedding),
            is_shedding,
            now_ms,
        };
        let waiting = self.room.join((), manner, |()| self.offer())?;
        match tokio::time::timeout(timeout, waiting).await {
            Ok(place) => Ok(Permit { place: Some(place?), self_call }),
            Err(_) => Err(NotAdmitted::TimedOut),
        }
    }

    /// While an adaptive limit has found out nothing, nobody is pushed out: it is about to grow. Where others
    /// are refused at the door there is always somebody who has just come.
    fn patience_ms(&self, base_us: u64, is_shedding: bool) -> u64 {
        let patience_ms = self.patience_ms.load(Relaxed);
        match (self.is_adaptive.load(Relaxed), base_us) {
            (false, _) => patience_ms,
            (true, 0) => u64::MAX,
            (true, _) => {
                let answer_ms = base_us / if is_shedding { 2000 } else { 1000 };
                answer_ms.clamp(PATIENCE_LEAST_MS, PATIENCE_MOST_MS).min(patience_ms)
            }
        }
    }

    /// `Some(None)` is a place that needs no counting.
    #[inline]
    fn try_place(self: &Arc<Self>) -> Option<Option<Place>> {
        if self.limit.load(Relaxed) == UNBOUNDED {
            return Some(None);
        }
        (self.room.waiting() == 0 && self.enter()).then(|| Some(self.place()))
    }

    fn place(self: &Arc<Self>) -> Place {
        Place { admission: Arc::clone(self), beginning: Beginning::default() }
    }

    #[inline]
    fn enter(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let more = |inside: u32| (inside < limit).then_some(inside + 1);
        self.inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn offer(self: &Arc<Self>) -> Offer<Place> {
        if !self.enter() {
            return Offer::Nobody;
        }
        self.door.note_served();
        Offer::Take(self.place())
    }

    /// There may be a place for who waits: see `capacity`.
    #[inline]
    fn serve_waiting(self: &Arc<Self>) {
        if self.room.waiting() != 0 {
            self.serve();
        }
        if let Some((room, pool)) = &self.outside
            && room.waiting() != 0
            && let Some(pool) = pool.upgrade()
        {
            pool.serve_waiting();
        }
    }

    #[cold]
    fn serve(self: &Arc<Self>) {
        self.room.serve(milliseconds(self.started.elapsed()), |()| self.offer());
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Where nobody waits here: lets an adaptive limit look, and says how patient those outside have to be.
    pub(crate) fn look_now_and_then(self: &Arc<Self>) -> u64 {
        self.look(self.now_us());
        self.patience_ms(self.meter.base_us(), false)
    }

    /// Lets an adaptive limit look at what was gathered.
    #[inline]
    fn look(self: &Arc<Self>, now_us: u64) {
        if self.is_adaptive.load(Relaxed)
            && let Some(step) = self.meter.look(now_us, self.inside.load(Relaxed))
        {
            self.follow(step);
        }
    }

    #[cold]
    fn follow(self: &Arc<Self>, step: Step) {
        let storing = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_adaptive.load(Relaxed) {
            return;
        }
        let self_calls = self_calls::self_calls_max(Some(step.limit), std::iter::empty());
        self.self_calls_limit.store(self_calls.unwrap_or(UNBOUNDED), Relaxed);
        let before = self.limit.swap(step.limit, Ordering::SeqCst);
        drop(storing);
        if step.limit > before {
            self.serve_waiting();
        }
    }

    #[inline]
    fn enter_self_call(self: &Arc<Self>, caller: Caller) -> Result<Option<SelfCall>, NotAdmitted> {
        if caller == Caller::Client {
            return Ok(None);
        }
        let limit = self.self_calls_limit.load(Relaxed);
        let more = |inside: u32| (inside < limit).then_some(inside + 1);
        match self.self_calls.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Ok(Some(SelfCall(Arc::clone(self)))),
            Err(_) => Err(NotAdmitted::SelfCall),
        }
    }
}

impl Permit {
    /// A server is asked now. `now_us` is the time of [`Admission::new`]'s `started`.
    #[inline]
    pub fn begin(&mut self, now_us: u64) {
        if let Some(place) = self.measured() {
            place.beginning = place.admission.meter.begin(now_us, place.admission.inside.load(Relaxed));
        }
    }

    /// The head of the answer is here. An adaptive limit counts those who wait for one: this one is out.
    #[inline]
    pub fn answered(&mut self, now_us: u64) {
        if let Some(place) = self.measured() {
            place.admission.meter.answered(place.beginning, now_us);
            self.leave(now_us);
        }
    }

    /// The server did not answer in time, or refused to.
    pub fn failed(&mut self, now_us: u64) {
        if let Some(place) = self.measured() {
            place.admission.meter.failed();
            place.admission.look(now_us);
        }
    }

    /// The client has gone before there was an answer.
    pub fn abandoned(&mut self, now_us: u64) {
        if let Some(place) = self.measured() {
            place.admission.meter.abandoned(place.beginning, now_us);
            self.leave(now_us);
        }
    }

    /// The server is free again, whatever the client still has to read.
    pub fn release(&mut self) {
        self.place = None;
        self.self_call = None;
    }

    #[inline]
    fn measured(&mut self) -> Option<&mut Place> {
        self.place.as_mut().filter(|place| place.admission.is_adaptive.load(Relaxed))
    }

    /// Out first, so that the look counts those who are inside.
    fn leave(&mut self, now_us: u64) {
        if let Some(place) = self.place.take() {
            let admission = Arc::clone(&place.admission);
            drop(place);
            admission.look(now_us);
        }
    }
}

impl Drop for Place {
    #[inline]
    fn drop(&mut self) {
        self.admission.inside.fetch_sub(1, Ordering::SeqCst);
        // In this order, see `capacity`.
        self.admission.serve_waiting();
    }
}

impl Drop for SelfCall {
    fn drop(&mut self) {
        self.0.self_calls.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker looks, and before it follows what it found, a reload sets a number.
    #[test]
    fn a_number_that_is_set_stays() {
        let limits = |concurrency| AdmissionLimits { concurrency, ..AdmissionLimits::default() };
        let admission = Arc::new(Admission::new(limits(Concurrency::Adaptive), Instant::now()));
        let step = admission.meter.look(1_000_000, 1).expect("it is time");
        for (concurrency, places) in [(Concurrency::Fixed(3), Some(3)), (Concurrency::Unbounded, None)] {
            admission.set_limits(limits(concurrency));
            admission.follow(step);
            assert_eq!(admission.places(), places);
        }
    }

    #[test]
    fn nobody_can_choose_its_draw() {
        let asker = |client| Asker::new(Caller::Client, Priority::Low, client);
        let rank = |client| sumun_traffic::level::rank(Priority::Low, client, 3);
        assert_eq!(asker(7), asker(7), "the same for all workers, routes and pools");
        let as_foreseen = (0..1000).filter(|&client| rank(asker(client).client) == rank(client)).count();
        assert!(as_foreseen < 100, "{as_foreseen}");
    }
}
