//! What an adaptive limit is fed with: the times of answers, gathered from all workers.
//!
//! A request adds to a few atomic sums when its answer comes. Whoever finds that it is time to look
//! hands the sums to the limiter; nobody waits for the lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sumun_traffic::adaptive::{self, Limiter, Step, Times, Window};

/// Fixed point: so many parts of one.
const PARTS: f64 = 65_536.0;

#[derive(Debug)]
pub(crate) struct Meter {
    limiter: Mutex<Limiter>,
    phase: AtomicU32,
    next_us: AtomicU64,
    base_us: AtomicU64,
    slow_us: AtomicU64,
    usual: Sums,
    slow: Sums,
    faults: AtomicU32,
    most_inside: AtomicU32,
}

/// `sumun_traffic::adaptive::Times` in fixed point.
#[derive(Debug, Default)]
struct Sums {
    samples: AtomicU32,
    log_sum: AtomicU64,
    log_square_sum: AtomicU64,
    inside_sum: AtomicU64,
}

/// What was read of [`Sums`].
#[derive(Debug, Clone, Copy)]
struct Reading {
    samples: u32,
    log_sum: u64,
    log_square_sum: u64,
    inside_sum: u64,
}

impl Sums {
    fn add(&self, took_us: u64, inside: u32) {
        let logarithm = adaptive::logarithm(took_us);
        // Positive, and far below the range: no time has more than 64 bits.
        self.log_sum.fetch_add((logarithm * PARTS) as u64, Relaxed);
        self.log_square_sum.fetch_add((logarithm * logarithm * PARTS) as u64, Relaxed);
        self.inside_sum.fetch_add(u64::from(inside), Relaxed);
        self.samples.fetch_add(1, Relaxed);
    }

    fn read(&self) -> Reading {
        Reading {
            samples: self.samples.load(Relaxed),
            log_sum: self.log_sum.load(Relaxed),
            log_square_sum: self.log_square_sum.load(Relaxed),
            inside_sum: self.inside_sum.load(Relaxed),
        }
    }

    /// What came since it was read stays.
    fn take_off(&self, read: Reading) {
        self.samples.fetch_sub(read.samples, Relaxed);
        self.log_sum.fetch_sub(read.log_sum, Relaxed);
        self.log_square_sum.fetch_sub(read.log_square_sum, Relaxed);
        self.inside_sum.fetch_sub(read.inside_sum, Relaxed);
    }
}

impl From<Reading> for Times {
    fn from(read: Reading) -> Self {
        Self {
            samples: read.samples,
            log_sum: read.log_sum as f64 / PARTS,
            log_square_sum: read.log_square_sum as f64 / PARTS,
            inside_sum: read.inside_sum as f64,
        }
    }
}

/// What a request remembers of its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Beginning {
    at_us: u64,
    phase: u32,
    inside: u32,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new(Limiter::default())
    }
}

impl Meter {
    fn new(limiter: Limiter) -> Self {
        Self {
            base_us: AtomicU64::new(limiter.base_us()),
            slow_us: AtomicU64::new(limiter.slow_us()),
            limiter: Mutex::new(limiter),
            phase: AtomicU32::new(0),
            next_us: AtomicU64::new(0),
            usual: Sums::default(),
            slow: Sums::default(),
            faults: AtomicU32::new(0),
            most_inside: AtomicU32::new(0),
        }
    }

    /// Microseconds of an answer when nobody waits inside the servers; 0: not known.
    pub(crate) fn base_us(&self) -> u64 {
        self.base_us.load(Relaxed)
    }

    /// A request goes to a server now, as one of `inside`.
    #[inline]
    pub(crate) fn begin(&self, at_us: u64, inside: u32) -> Beginning {
        if inside > self.most_inside.load(Relaxed) {
            // Who is lost in a race was as many but a few.
            self.most_inside.store(inside, Relaxed);
        }
        Beginning { at_us, phase: self.phase.load(Relaxed), inside }
    }

    /// The head of its answer is here.
    pub(crate) fn answered(&self, beginning: Beginning, now_us: u64) {
        if beginning.phase != self.phase.load(Relaxed) {
            return;
        }
        let took_us = now_us.saturating_sub(beginning.at_us);
        let sums = if took_us >= self.slow_us.load(Relaxed) { &self.slow } else { &self.usual };
        sums.add(took_us, beginning.inside);
    }

    /// No answer came in time, or the server refused.
    pub(crate) fn failed(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    /// The client gave up. Long after an answer should have come, that is the server's fault.
    pub(crate) fn abandoned(&self, beginning: Beginning, now_us: u64) {
        let base_us = self.base_us();
        if base_us > 0 && now_us.saturating_sub(beginning.at_us) > base_us.saturating_mul(4) {
            self.failed();
        }
    }

    /// Looks at what was gathered, if it is time. `None`: it is not, or another worker does.
    #[inline]
    pub(crate) fn look(&self, now_us: u64, inside: u32) -> Option<Step> {
        if now_us < self.next_us.load(Relaxed) { None } else { self.look_now(now_us, inside) }
    }

    #[cold]
    fn look_now(&self, now_us: u64, inside: u32) -> Option<Step> {
        let mut limiter = self.limiter.try_lock().ok()?;
        let (usual, slow, faults) = (self.usual.read(), self.slow.read(), self.faults.load(Relaxed));
        let window = Window {
            usual: usual.into(),
            slow: slow.into(),
            faults,
            most_inside: self.most_inside.load(Relaxed).max(inside),
            inside,
        };
        let step = limiter.look(now_us, &window);
        if !step.keeps_window {
            self.usual.take_off(usual);
            self.slow.take_off(slow);
            self.faults.fetch_sub(faults, Relaxed);
            self.most_inside.store(inside, Relaxed);
        }
        self.base_us.store(if limiter.is_settled() { limiter.base_us() } else { 0 }, Relaxed);
        self.slow_us.store(step.slow_us, Relaxed);
        self.phase.store(step.phase, Relaxed);
        self.next_us.store(step.next_us, Relaxed);
        Some(step)
    }

    /// Requests at once, as found out so far.
    pub(crate) fn limit(&self) -> u32 {
        self.limiter.lock().unwrap_or_else(std::sync::PoisonError::into_inner).limit()
    }

    /// Goes on from what another process found out.
    pub(crate) fn restore(&self, limit: u32, base_us: u64) {
        let mut limiter = self.limiter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *limiter = Limiter::from_known(limit, base_us);
        self.slow_us.store(limiter.slow_us(), Relaxed);
        self.base_us.store(base_us, Relaxed);
    }
}
