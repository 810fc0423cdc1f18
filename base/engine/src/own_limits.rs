//! How near this process is to its own limits, as all its workers see it.
//!
//! ```text
//!   worker (each, 200 ms): its CPU time, its accept queues ──┐
//!   control thread (250 ms): descriptors, memory ────────────┴─► core/traffic/pressure ──► one word
//!   hot path: reads that word, once a connection and once a request
//! ```
//!
//! Of descriptors a new connection tells itself: the kernel gives the lowest number that is free, so that
//! all below it are in use. A crowd between two readings is refused as exactly as one that lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use sumun_host::memory::{Bounds, Fill};
use sumun_host::{process, usage};
use sumun_traffic::Priority;
use sumun_traffic::pressure::{FULL, Measures, Pressure, Readings, Resource};

use crate::limits::{IDLE_LEAST, LIMITS_LOOK, MEMORY_LOOKS};
use crate::telemetry::Family;

/// See above.
#[derive(Debug)]
pub struct OwnLimits {
    /// [`Measures`] as [`pack`] writes them.
    measures: AtomicU32,
    readings: [AtomicU32; Resource::ALL.len()],
    descriptors_max: u64,
    memory_max: AtomicU64,
    /// A connection whose descriptor has this number or a higher one comes too late for its priority.
    descriptor_bounds: [u64; Priority::ALL.len()],
    workers: Box<[WorkerLoad]>,
}

/// What one worker has read last, in thousandths.
#[derive(Debug, Default)]
pub(crate) struct WorkerLoad {
    pub(crate) cpu: AtomicU32,
    pub(crate) accept_queue: AtomicU32,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub readings: Readings,
    pub measures: Measures,
}

impl OwnLimits {
    /// For so many workers, with the limit of descriptors as it is now.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        let most = process::open_files_limit();
        let bound = |priority| {
            let permille = Resource::Descriptors.refuses(priority);
            permille.map_or(u64::MAX, |permille| most.saturating_mul(permille.into()) / u64::from(FULL))
        };
        Arc::new(Self {
            measures: AtomicU32::new(0),
            readings: Default::default(),
            descriptors_max: most,
            memory_max: AtomicU64::new(0),
            descriptor_bounds: Priority::ALL.map(bound),
            workers: (0..workers).map(|_| WorkerLoad::default()).collect(),
        })
    }

    /// Requests of this priority are refused now.
    #[inline]
    #[must_use]
    pub fn refuses(&self, priority: Priority) -> bool {
        unpack(self.measures.load(Relaxed)).refuses(priority)
    }

    /// A new connection is refused on which nothing more important than `priority` can come.
    #[inline]
    #[must_use]
    pub fn refuses_connection(&self, priority: Priority, descriptor: u64) -> bool {
        descriptor >= self.descriptor_bounds[priority.index()] || self.refuses(priority)
    }

    /// Not every line of the access log is to be written.
    #[must_use]
    pub fn cuts_log(&self) -> bool {
        unpack(self.measures.load(Relaxed)).cuts_log
    }

    /// What is left of the time that a connection is kept idle.
    #[must_use]
    pub fn shortened(&self, idle: Duration) -> Duration {
        idle - spare(idle) * unpack(self.measures.load(Relaxed)).shortening / FULL
    }

    pub(crate) fn shortening(&self) -> u32 {
        unpack(self.measures.load(Relaxed)).shortening
    }

    /// As if this had been found.
    #[cfg(test)]
    pub(crate) fn set(&self, measures: Measures) {
        self.measures.store(pack(measures), Relaxed);
    }

    pub(crate) fn worker(&self, index: usize) -> Option<&WorkerLoad> {
        self.workers.get(index)
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        let readings = std::array::from_fn(|at| self.readings[at].load(Relaxed));
        Standing { readings, measures: unpack(self.measures.load(Relaxed)) }
    }

    #[must_use]
    pub fn families(&self) -> [Family; 5] {
        let standing = self.standing();
        let share = |permille: u32| f64::from(permille) / f64::from(FULL);
        let mut pressure = Family::gauge(
            "sumun_own_limits_pressure_ratio",
            "The share that is used of what the worker process has: descriptors, memory, room in the fullest accept queue, time of the busiest worker (cpu).",
        );
        for (resource, permille) in Resource::ALL.into_iter().zip(standing.readings) {
            pressure.push(&[("resource", &resource.as_str().into())], share(permille));
        }
        let mut limit = Family::gauge("sumun_own_limits_limit", "What of it there is: a number, or bytes.");
        limit.push(&[("resource", &Resource::Descriptors.as_str().into())], self.descriptors_max);
        limit.push(&[("resource", &Resource::Memory.as_str().into())], self.memory_max.load(Relaxed));
        let mut refused =
            Family::gauge("sumun_own_limits_refuses", "1 while this priority is refused to stay within own limits.");
        for priority in Priority::ALL {
            let is_refused = standing.measures.refuses(priority);
            refused.push(&[("priority", &priority.as_str().into())], u64::from(is_refused));
        }
        let keep_alive = Family::gauge(
            "sumun_own_limits_keep_alive_ratio",
            "What is left of the time that idle connections are kept; 1 while nothing is short.",
        );
        let cut = Family::gauge("sumun_own_limits_log_cut", "1 while not every line of the access log is written.");
        [
            pressure,
            limit,
            refused,
            keep_alive.with(1.0 - share(standing.measures.shortening)),
            cut.with(u64::from(standing.measures.cuts_log)),
        ]
    }
}

/// Reads and switches, for as long as the process serves; for the control thread.
pub async fn run(limits: Arc<OwnLimits>, memory: Bounds) {
    let (started, mut pressure, mut looks) = (Instant::now(), Pressure::default(), 0_u32);
    let mut fill = None;
    loop {
        if looks.is_multiple_of(MEMORY_LOOKS) {
            fill = memory.fill().ok();
            limits.memory_max.store(fill.map_or(0, |fill| fill.limit), Relaxed);
        }
        looks = looks.wrapping_add(1);
        let readings = limits.read(fill);
        for (cell, permille) in limits.readings.iter().zip(readings) {
            cell.store(permille, Relaxed);
        }
        let before = pressure.measures();
        let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let measures = pressure.update(now_ms, &readings);
        limits.measures.store(pack(measures), Relaxed);
        say(&Standing { readings, measures: before }, &Standing { readings, measures });
        tokio::time::sleep(LIMITS_LOOK).await;
    }
}

impl OwnLimits {
    fn read(&self, memory: Option<Fill>) -> Readings {
        let used = usage::open_descriptors().unwrap_or(0);
        let descriptors = Fill { used: used as u64, limit: self.descriptors_max }.permille();
        let most = |of: fn(&WorkerLoad) -> &AtomicU32| {
            self.workers.iter().map(|worker| of(worker).load(Relaxed)).max().unwrap_or(0)
        };
        Resource::ALL.map(|resource| match resource {
            Resource::Descriptors => descriptors,
            Resource::Memory => memory.map_or(0, Fill::permille),
            Resource::AcceptQueue => most(|worker| &worker.accept_queue),
            Resource::Cpu => most(|worker| &worker.cpu),
        })
    }
}

/// The operator is told of what is switched. How much time idle connections have left changes all the
/// time: of that only whether it is all of it.
fn say(before: &Standing, now: &Standing) {
    let (old, new) = (before.measures, now.measures);
    let is_shortened = |measures: Measures| measures.shortening > 0;
    if (old.refused, old.cuts_log, is_shortened(old)) == (new.refused, new.cuts_log, is_shortened(new)) {
        return;
    }
    if new.is_calm() {
        tracing::info!("own limits: nothing is short any more ({})", used(now));
    } else {
        tracing::warn!("own limits: {} ({})", in_words(&new), used(now));
    }
}

/// `descriptors 83 %, memory 4 %, accept_queue 0 %, cpu 12 %`.
fn used(standing: &Standing) -> String {
    let parts = Resource::ALL.into_iter().zip(standing.readings);
    let parts = parts.map(|(resource, permille)| format!("{} {} %", resource.as_str(), permille / 10));
    parts.collect::<Vec<_>>().join(", ")
}

/// What is given up.
#[must_use]
pub fn in_words(measures: &Measures) -> String {
    let mut parts = Vec::new();
    if measures.shortening > 0 {
        parts.push("idle connections are kept for less long".to_owned());
    }
    if measures.cuts_log {
        parts.push("the access log is cut down".to_owned());
    }
    if let Some(priority) = measures.refused {
        let others = if priority == Priority::Low { "" } else { " and below" };
        parts.push(format!("priority {}{others} is refused", priority.as_str()));
    }
    parts.join(", ")
}

/// As much of it can be taken away at most.
pub(crate) fn spare(idle: Duration) -> Duration {
    idle.saturating_sub(IDLE_LEAST)
}

const SHORTENING_BITS: u32 = 10;
const CUTS_LOG: u32 = 1 << SHORTENING_BITS;
const REFUSED_SHIFT: u32 = SHORTENING_BITS + 1;

const _: () = assert!(FULL < 1 << SHORTENING_BITS);

fn pack(measures: Measures) -> u32 {
    let refused = measures.refused.map_or(0, |priority| priority.index() as u32 + 1);
    measures.shortening.min(FULL) | (u32::from(measures.cuts_log) << SHORTENING_BITS) | (refused << REFUSED_SHIFT)
}

#[inline]
fn unpack(word: u32) -> Measures {
    let refused = (word >> REFUSED_SHIFT).checked_sub(1);
    Measures {
        shortening: word & (CUTS_LOG - 1),
        cuts_log: word & CUTS_LOG != 0,
        refused: refused.and_then(|index| Priority::ALL.get(index as usize).copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_measures() -> impl Iterator<Item = Measures> {
        let refused = [None].into_iter().chain(Priority::ALL.map(Some));
        refused.flat_map(|refused| {
            [0, 1, 999, FULL]
                .into_iter()
                .flat_map(move |shortening| [false, true].map(|cuts_log| Measures { shortening, cuts_log, refused }))
        })
    }

    #[test]
    fn a_word_holds_what_is_given_up() {
        for measures in all_measures() {
            assert_eq!(unpack(pack(measures)), measures);
            assert_eq!(in_words(&measures).is_empty(), measures.is_calm());
        }
    }

    #[test]
    fn a_descriptor_tells_how_many_there_are() {
        let limits = OwnLimits::new(1);
        let most = limits.descriptors_max;
        assert!(!limits.refuses_connection(Priority::Low, most * 8 / 10 - 1));
        assert!(limits.refuses_connection(Priority::Low, most * 8 / 10));
        assert!(!limits.refuses_connection(Priority::Normal, most * 8 / 10));
        assert!(!limits.refuses_connection(Priority::Critical, most));
        limits.set(Measures { refused: Some(Priority::High), ..Measures::default() });
        assert!(limits.refuses_connection(Priority::High, 5) && limits.refuses(Priority::Low));
        assert!(!limits.refuses_connection(Priority::Critical, 5));
    }

    #[test]
    fn idle_connections_keep_a_second() {
        let limits = OwnLimits::new(1);
        let idle = Duration::from_secs(61);
        for (shortening, left_s) in [(0, 61), (500, 31), (FULL, 1)] {
            limits.set(Measures { shortening, ..Measures::default() });
            assert_eq!(limits.shortened(idle), Duration::from_secs(left_s));
        }
        assert_eq!(limits.shortened(Duration::from_millis(300)), Duration::from_millis(300));
    }
}
