//! Turning requests away before servers that refuse most of them: see `sumun_traffic::throttle`.
//!
//! Nothing is counted until a server refuses. From then on each request adds one to the count of its rank,
//! and whoever finds that it is time looks at the counts of all workers; nobody waits for the lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use sumun_traffic::level::{self, RANKS};
use sumun_traffic::throttle::Cut;

use crate::admission::Asker;
use crate::limits::{ERA_MS, THROTTLE_EVERY_MS};

/// What a pool's servers refused, shared by all workers.
#[derive(Debug)]
pub struct Throttle {
    is_counting: AtomicBool,
    next_ms: AtomicU64,
    /// The rank in the upper half, the share in the lower one.
    cut: AtomicU64,
    credit: AtomicU32,
    /// Made when a server refuses for the first time.
    counts: OnceLock<Box<Counts>>,
    turned_away: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    arrived: [AtomicU32; RANKS],
    lost: AtomicU32,
    machine: Mutex<sumun_traffic::throttle::Throttle>,
}

/// A request that is sent to a server. On drop it counts as refused if that is what it was last.
#[derive(Debug)]
pub struct Sent {
    throttle: Arc<Throttle>,
    pub is_refused: bool,
}

impl Drop for Sent {
    #[inline]
    fn drop(&mut self) {
        if self.is_refused {
            self.throttle.note_refused();
        }
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            is_counting: AtomicBool::new(false),
            next_ms: AtomicU64::new(0),
            cut: AtomicU64::new(pack(Cut::NONE)),
            credit: AtomicU32::new(0),
            counts: OnceLock::new(),
            turned_away: AtomicU64::new(0),
        }
    }
}

impl Throttle {
    /// A request is about to be sent; `None`: it is not to be.
    #[inline]
    pub fn send(self: &Arc<Self>, asker: Asker, now_ms: u64) -> Option<Sent> {
        let is_sent = !self.is_counting.load(Relaxed) || self.lets_through(asker, now_ms);
        is_sent.then(|| Sent { throttle: Arc::clone(self), is_refused: false })
    }

    /// Requests that were turned away since the process started.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    #[cold]
    fn lets_through(&self, asker: Asker, now_ms: u64) -> bool {
        let Some(counts) = self.counts.get() else { return true };
        let next_ms = self.next_ms.load(Relaxed);
        if now_ms >= next_ms
            && self.next_ms.compare_exchange(next_ms, now_ms + THROTTLE_EVERY_MS, Relaxed, Relaxed).is_ok()
        {
            self.look(counts, now_ms);
        }
        let rank = level::rank(asker.priority, asker.client, now_ms / ERA_MS);
        if let Some(count) = counts.arrived.get(rank as usize) {
            count.fetch_add(1, Relaxed);
        }
        let cut = unpack(self.cut.load(Relaxed));
        let is_sent = match rank.cmp(&u32::from(cut.rank)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => cut.takes(self.credit.fetch_add(cut.share, Relaxed)),
            std::cmp::Ordering::Greater => false,
        };
        if !is_sent {
            counts.lost.fetch_add(1, Relaxed);
            self.turned_away.fetch_add(1, Relaxed);
        }
        is_sent
    }

    fn look(&self, counts: &Counts, now_ms: u64) {
        let Ok(mut machine) = counts.machine.try_lock() else { return };
        let mut arrived = [0; RANKS];
        for (count, shared) in arrived.iter_mut().zip(&counts.arrived) {
            *count = shared.swap(0, Relaxed);
        }
        let cut = machine.look(now_ms, &arrived, counts.lost.swap(0, Relaxed));
        self.cut.store(pack(cut), Relaxed);
        if machine.is_over() {
            self.is_counting.store(false, Relaxed);
        }
    }

    #[cold]
    fn note_refused(&self) {
        let counts = self.counts.get_or_init(|| {
            Box::new(Counts {
                arrived: std::array::from_fn(|_| AtomicU32::new(0)),
                lost: AtomicU32::new(0),
                machine: Mutex::new(sumun_traffic::throttle::Throttle::new(0)),
            })
        });
        counts.lost.fetch_add(1, Relaxed);
        self.is_counting.store(true, Relaxed);
    }
}

const fn pack(cut: Cut) -> u64 {
    ((cut.rank as u64) << 32) | cut.share as u64
}

const fn unpack(packed: u64) -> Cut {
    Cut { rank: (packed >> 32) as u16, share: packed as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Caller;
    use sumun_traffic::Priority;

    fn asker(priority: Priority, client: u64) -> Asker {
        Asker { caller: Caller::Client, priority, client }
    }

    /// A hundred clients of a priority each send one: how many went out.
    fn send_all(throttle: &Arc<Throttle>, priority: Priority, now_ms: u64, is_refused: bool) -> usize {
        let sent = |client: &u64| {
            throttle.send(asker(priority, *client), now_ms).map(|mut sent| sent.is_refused = is_refused).is_some()
        };
        (0..100).filter(sent).count()
    }

    #[test]
    fn refusals_shut_the_door_and_answers_open_it() {
        let throttle = Arc::new(Throttle::default());
        assert_eq!(send_all(&throttle, Priority::Normal, 1000, false), 100);
        assert!(!throttle.is_counting.load(Relaxed), "nothing is counted where nothing is refused");
        for step in 0..20 {
            send_all(&throttle, Priority::Normal, 2000 + step * 250, true);
        }
        let sent = send_all(&throttle, Priority::Normal, 7000, true);
        assert!((1..10).contains(&sent), "{sent}");
        assert!(throttle.turned_away() > 1500, "{}", throttle.turned_away());
        for step in 0..80 {
            send_all(&throttle, Priority::Normal, 7250 + step * 250, false);
        }
        assert_eq!(send_all(&throttle, Priority::Normal, 27_250, false), 100);
        assert!(!throttle.is_counting.load(Relaxed), "it is over");
    }

    #[test]
    fn critical_ones_go_last() {
        let throttle = Arc::new(Throttle::default());
        let mut sent = (0, 0);
        for step in 0..40 {
            let now_ms = 1000 + step * 250;
            sent = (
                send_all(&throttle, Priority::Critical, now_ms, false),
                send_all(&throttle, Priority::Low, now_ms, true) + send_all(&throttle, Priority::Low, now_ms, true),
            );
        }
        assert_eq!(sent.0, 100);
        assert!((80..120).contains(&sent.1), "two times 100 that are accepted: {sent:?}");
    }
}
