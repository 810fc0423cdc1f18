//! Traces in flight to a pool: a traceparent (W3C Trace Context) that comes a second time while
//! the first is still there is a call of the pool to itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{TRACE_SHARDS, TRACES_PER_SHARD_MAX};

/// Hashes of traces in flight, with how many requests have each.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    shards: [Mutex<HashMap<u64, u32>>; TRACE_SHARDS],
}

/// A trace in flight, until it is dropped.
#[derive(Debug)]
pub struct TraceGuard {
    traces: Arc<Traces>,
    /// `None` where the set had no room.
    hash: Option<u64>,
    already: bool,
}

impl TraceGuard {
    /// The same trace was in flight to this pool before.
    pub const fn already(&self) -> bool {
        self.already
    }
}

impl Traces {
    pub(crate) fn enter(self: &Arc<Self>, hash: u64) -> TraceGuard {
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let room = shard.len() < TRACES_PER_SHARD_MAX;
        let (hash, already) = match shard.get_mut(&hash) {
            Some(count) => {
                *count += 1;
                (Some(hash), true)
            }
            None if room => {
                shard.insert(hash, 1);
                (Some(hash), false)
            }
            None => (None, false),
        };
        drop(shard);
        TraceGuard { traces: Arc::clone(self), hash, already }
    }

    fn shard(&self, hash: u64) -> &Mutex<HashMap<u64, u32>> {
        &self.shards[hash as usize % TRACE_SHARDS]
    }
}

impl Drop for TraceGuard {
    fn drop(&mut self) {
        let Some(hash) = self.hash else { return };
        let mut shard = self.traces.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shard.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_seen_until_the_last_is_gone() {
        let traces = Arc::new(Traces::default());
        let first = traces.enter(7);
        assert!(!first.already());
        assert!(!traces.enter(8).already());
        let second = traces.enter(7);
        assert!(second.already());
        drop(first);
        assert!(traces.enter(7).already());
        drop(second);
        assert!(!traces.enter(7).already());
    }

    #[test]
    fn a_full_shard_forgets_new_ones() {
        let traces = Arc::new(Traces::default());
        let hashes = (0..TRACES_PER_SHARD_MAX as u64).map(|number| number * TRACE_SHARDS as u64);
        let guards: Vec<TraceGuard> = hashes.map(|hash| traces.enter(hash)).collect();
        let beyond = (TRACES_PER_SHARD_MAX * TRACE_SHARDS) as u64;
        let _first = traces.enter(beyond);
        assert!(!traces.enter(beyond).already());
        drop(guards);
        let _again = traces.enter(beyond);
        assert!(traces.enter(beyond).already());
    }
}
