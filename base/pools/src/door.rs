//! The door of an overloaded pool: who comes to its queue at all, see `sumun_traffic::level`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sumun_traffic::level::{self, EVERYBODY, RANKS};

use crate::limits::{ERA_MS, LEVEL_EVERY_MS, LEVEL_MEMORY_MS, LEVEL_SERVED_LEAST};

#[derive(Debug)]
pub(crate) struct Door {
    /// Ranks up to this one are let in.
    level: AtomicU32,
    /// How many came of each rank; made when the first one has to wait.
    arrived: OnceLock<Box<[AtomicU32]>>,
    /// How many were served from the queue.
    served: AtomicU32,
    next_ms: AtomicU64,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            level: AtomicU32::new(EVERYBODY),
            arrived: OnceLock::new(),
            served: AtomicU32::new(0),
            next_ms: AtomicU64::new(0),
        }
    }
}

impl Door {
    /// One who finds no free place comes. True: it may join the queue. `is_overloaded` is asked now and
    /// then.
    pub(crate) fn lets_in(
        &self,
        priority: sumun_traffic::Priority,
        client: u64,
        now_ms: u64,
        is_overloaded: impl FnOnce() -> bool,
    ) -> bool {
        let rank = level::rank(priority, client, now_ms / ERA_MS);
        let arrived = self.arrived.get_or_init(|| (0..RANKS).map(|_| AtomicU32::new(0)).collect());
        if let Some(count) = arrived.get(rank as usize) {
            count.fetch_add(1, Relaxed);
        }
        let next_ms = self.next_ms.load(Relaxed);
        if now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, now_ms + LEVEL_EVERY_MS, Relaxed, Relaxed).is_ok()
        {
            // After a pause the counts are of another time.
            let is_old = now_ms >= next_ms.saturating_add(LEVEL_MEMORY_MS);
            let is_overloaded = !is_old && is_overloaded();
            // Of a few that were served nothing follows for those who come. But a queue that empties
            // refuses nobody for long, however few go through it.
            if !is_overloaded || self.served.load(Relaxed) >= LEVEL_SERVED_LEAST {
                self.turn(arrived, is_overloaded);
            }
        }
        rank <= self.level.load(Relaxed)
    }

    /// Somebody is refused.
    pub(crate) fn is_shedding(&self) -> bool {
        self.level.load(Relaxed) < EVERYBODY
    }

    fn turn(&self, arrived: &[AtomicU32], is_overloaded: bool) {
        let mut counts = [0; RANKS];
        for (count, shared) in counts.iter_mut().zip(arrived) {
            *count = shared.swap(0, Relaxed);
        }
        let served = self.served.swap(0, Relaxed);
        self.level.store(level::next(self.level.load(Relaxed), &counts, served, is_overloaded), Relaxed);
    }

    /// Somebody was served from the queue.
    pub(crate) fn note_served(&self) {
        self.served.fetch_add(1, Relaxed);
    }

    /// The share of the ranks that is let in, in thousandths.
    pub(crate) fn level_permille(&self) -> u32 {
        (self.level.load(Relaxed) + 1) * 1000 / RANKS as u32
    }
}
