//! Values by key, within a number of bytes.

mod shard;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::SHARDS;
use shard::Shard;

/// Names an entry: a keyed hash of what the entry is for, so that nobody can choose two that collide.
pub type Key = u128;

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub entries: u64,
    pub bytes: u64,
    /// Entries that had to go for others since the start.
    pub evicted: u64,
}

/// Shared by all workers. An entry is found in one short lock of a part of the table.
#[derive(Debug)]
pub struct Memory<V> {
    shards: Box<[Mutex<Shard<V>>]>,
}

impl<V> Memory<V> {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new(bytes / SHARDS as u64))).collect();
        Self { shards }
    }

    /// The value, which counts as asked for.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<Arc<V>> {
        self.lock(key).get(key)
    }

    /// The same, without counting: for those who only look.
    #[must_use]
    pub fn peek(&self, key: Key) -> Option<Arc<V>> {
        self.lock(key).peek(key)
    }

    /// Puts a value in, in place of the one before it. `bytes` is what it holds, all told. False: it is too
    /// big to be kept; what was there is gone all the same, since it is older. Gives what had to go besides, for
    /// large values are better let go outside of all locks.
    pub fn insert(&self, key: Key, value: Arc<V>, bytes: u64) -> (bool, Vec<Arc<V>>) {
        self.lock(key).insert(key, value, bytes)
    }

    /// Puts a value in where there is none; else the one that is there.
    pub fn insert_new(&self, key: Key, value: Arc<V>, bytes: u64) -> Option<Arc<V>> {
        let mut shard = self.lock(key);
        if let Some(found) = shard.peek(key) {
            return Some(found);
        }
        let (_, gone) = shard.insert(key, value, bytes);
        drop(shard);
        drop(gone);
        None
    }

    /// Takes a value out.
    pub fn remove(&self, key: Key) -> Option<Arc<V>> {
        self.lock(key).remove(key)
    }

    /// Takes a value out, if it is still this one: another may have taken its place meanwhile.
    pub fn remove_this(&self, key: Key, value: &Arc<V>) -> bool {
        let mut shard = self.lock(key);
        shard.peek(key).is_some_and(|found| Arc::ptr_eq(&found, value)) && shard.remove(key).is_some()
    }

    /// Puts a value in the place of this one, if it is still there.
    pub fn replace(&self, key: Key, before: &Arc<V>, value: Arc<V>, bytes: u64) -> bool {
        let mut shard = self.lock(key);
        if !shard.peek(key).is_some_and(|found| Arc::ptr_eq(&found, before)) {
            return false;
        }
        let (is_kept, gone) = shard.insert(key, value, bytes);
        drop(shard);
        drop(gone);
        is_kept
    }

    /// Changes the room; what does not fit any more goes.
    pub fn resize(&self, bytes: u64) {
        for shard in &self.shards {
            let gone = lock(shard).resize(bytes / SHARDS as u64);
            drop(gone);
        }
    }

    #[must_use]
    pub fn usage(&self) -> Usage {
        self.shards.iter().fold(Usage::default(), |sum, shard| {
            let one = lock(shard).usage();
            Usage {
                entries: sum.entries + one.entries,
                bytes: sum.bytes + one.bytes,
                evicted: sum.evicted + one.evicted,
            }
        })
    }

    fn lock(&self, key: Key) -> MutexGuard<'_, Shard<V>> {
        // The low bits choose the place in the table of the shard.
        let index = (key >> 64) as usize % SHARDS;
        lock(&self.shards[index])
    }
}

fn lock<V>(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
