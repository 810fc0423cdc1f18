//! A time for each of very many keys, in a table of fixed size: whose time is the earliest is forgotten
//! first.
//!
//! A key has a handful of places where it may stand. Where another key needs one of them, it gets the
//! one with the earliest time: where times say until when a key is to be remembered, that forgets what
//! is forgotten with the least harm. Threads share the table without a lock; two that enter the same
//! new key in the same moment may enter it twice, and count it twice until one of the two is forgotten.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::key::mix;

/// Places of a key: one cache line of keys and one of times.
const WAYS: usize = 8;

/// A number for each key, 0 for one that is new.
#[derive(Debug)]
pub(crate) struct Times {
    sets: Box<[Set]>,
}

#[derive(Debug, Default)]
struct Set {
    /// 0 is nobody.
    keys: [AtomicU64; WAYS],
    times: [AtomicU64; WAYS],
}

impl Times {
    /// For about `keys` keys, 16 bytes each.
    pub(crate) fn new(keys: usize) -> Self {
        let sets = (keys / WAYS).max(1).next_power_of_two();
        Self { sets: (0..sets).map(|_| Set::default()).collect() }
    }

    /// Keys that there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// The time of a key.
    pub(crate) fn of(&self, key: u64) -> &AtomicU64 {
        // Anybody may choose their address, but not where its hash puts them among the sets.
        let hash = mix(key).max(1);
        // Both are within bounds: the number of sets is a power of two, the places are those of a set.
        let set = &self.sets[(hash >> 32) as usize & (self.sets.len() - 1)];
        let place = set.find(hash).unwrap_or_else(|| set.replace(hash));
        &set.times[place]
    }
}

impl Set {
    fn find(&self, hash: u64) -> Option<usize> {
        self.keys.iter().position(|key| key.load(Relaxed) == hash)
    }

    /// Gives the key the place of the one that is missed least.
    fn replace(&self, hash: u64) -> usize {
        let times = self.times.iter().map(|at| at.load(Relaxed));
        let place = times.enumerate().min_by_key(|(_, at)| *at).map_or(0, |(place, _)| place);
        self.keys[place].store(hash, Relaxed);
        self.times[place].store(0, Relaxed);
        place
    }
}
