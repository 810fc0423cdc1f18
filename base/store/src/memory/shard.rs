//! One part of the memory, and who has to go.
//!
//! Three queues, first in first out (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023): whoever comes is on *probation* in a small one; who is asked for there goes on to the
//! main one, the others leave a *ghost*, their key without their bytes; a ghost that comes back goes to
//! the main queue at once. In the main queue who was asked for goes round once more. So a crawler that
//! reads everything once passes through the small queue and moves nothing else, and a hit changes one
//! small number and no order.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::{Key, Usage};
use crate::limits::{ASKED_MOST, ENTRY_BYTES, PROBATION_PERCENT};

#[derive(Debug)]
pub(super) struct Shard<V> {
    entries: Slab<Entry<V>>,
    /// Where in `entries` each key is. A table has to have room to spare, so there is little in this one.
    places: HashTable<u32>,
    probation: Queue,
    main: Queue,
    ghosts: VecDeque<u64>,
    is_ghost: HashSet<u64, BuildHasherDefault<AsItIs>>,
    probation_bytes: u64,
    bytes: u64,
    room: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Entry<V> {
    key: Key,
    value: Arc<V>,
    bytes: u64,
    /// Its neighbours in its queue.
    older: u32,
    newer: u32,
    asked: u8,
    is_on_probation: bool,
}

/// The ends of a queue of entries.
#[derive(Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
}

/// No entry is there.
const NOWHERE: u32 = u32::MAX;

const EMPTY: Queue = Queue { oldest: NOWHERE, newest: NOWHERE };

/// The hash of a key, which is one already: the low half; of the high one comes the shard.
fn hash(key: Key) -> u64 {
    key as u64
}

/// Hashes are hashes already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What had to go.
type Gone<V> = Vec<Arc<V>>;

impl<V> Shard<V> {
    pub(super) fn new(room: u64) -> Self {
        Self {
            entries: Slab::new(),
            places: HashTable::new(),
            probation: EMPTY,
            main: EMPTY,
            ghosts: VecDeque::new(),
            is_ghost: HashSet::default(),
            probation_bytes: 0,
            bytes: 0,
            room,
            evicted: 0,
        }
    }

    pub(super) fn get(&mut self, key: Key) -> Option<Arc<V>> {
        let place = self.find(key)?;
        let entry = self.entries.get_mut(place as usize)?;
        entry.asked = (entry.asked + 1).min(ASKED_MOST);
        Some(Arc::clone(&entry.value))
    }

    pub(super) fn peek(&self, key: Key) -> Option<Arc<V>> {
        let entry = self.entries.get(self.find(key)? as usize)?;
        Some(Arc::clone(&entry.value))
    }

    pub(super) fn insert(&mut self, key: Key, value: Arc<V>, bytes: u64) -> (bool, Gone<V>) {
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        let before = self.find(key).and_then(|place| self.take(place));
        let mut gone: Gone<V> = Vec::new();
        let (asked, is_on_probation) = match before {
            Some(before) => {
                let kept = (before.asked, before.is_on_probation);
                gone.push(before.value);
                kept
            }
            None => (0, !self.is_ghost.remove(&hash(key))),
        };
        // So many that there is no number for one more cost more memory than there is.
        let place = u32::try_from(self.entries.vacant_key()).unwrap_or(NOWHERE);
        if bytes > self.room || place == NOWHERE {
            return (false, gone);
        }
        self.entries.insert(Entry { key, value, bytes, older: NOWHERE, newer: NOWHERE, asked, is_on_probation });
        let entries = &self.entries;
        let hash_of = |&place: &u32| entries.get(place as usize).map_or(0, |entry| hash(entry.key));
        self.places.insert_unique(hash(key), place, hash_of);
        self.bytes += bytes;
        self.probation_bytes += if is_on_probation { bytes } else { 0 };
        self.append(place);
        self.evict(&mut gone);
        self.check_invariants();
        // Among those on probation it may be the one that has to go.
        (self.find(key).is_some(), gone)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Arc<V>> {
        let place = self.find(key)?;
        let entry = self.take(place)?;
        self.check_invariants();
        Some(entry.value)
    }

    pub(super) fn resize(&mut self, room: u64) -> Gone<V> {
        self.room = room;
        let mut gone = Vec::new();
        self.evict(&mut gone);
        self.check_invariants();
        gone
    }

    pub(super) fn usage(&self) -> Usage {
        Usage { entries: self.entries.len() as u64, bytes: self.bytes, evicted: self.evicted }
    }

    fn find(&self, key: Key) -> Option<u32> {
        let is_it = |&place: &u32| self.entries.get(place as usize).is_some_and(|entry| entry.key == key);
        self.places.find(hash(key), is_it).copied()
    }

    /// Out of the table and its queue.
    fn take(&mut self, place: u32) -> Option<Entry<V>> {
        self.unlink(place);
        let entry = self.entries.try_remove(place as usize)?;
        if let Ok(found) = self.places.find_entry(hash(entry.key), |&found| found == place) {
            found.remove();
        }
        self.bytes -= entry.bytes;
        if entry.is_on_probation {
            self.probation_bytes -= entry.bytes;
        }
        Some(entry)
    }

    fn evict(&mut self, gone: &mut Gone<V>) {
        while self.bytes > self.room {
            let is_main_empty = self.main.oldest == NOWHERE;
            let from_probation = self.probation_bytes > self.room * PROBATION_PERCENT / 100 || is_main_empty;
            let evicted = if from_probation { self.turn_probation() } else { self.turn_main() };
            gone.extend(evicted);
        }
    }

    /// The oldest on probation goes on, or goes.
    fn turn_probation(&mut self) -> Option<Arc<V>> {
        let place = self.probation.oldest;
        let entry = self.entries.get(place as usize)?;
        if entry.asked == 0 {
            self.remember(hash(entry.key));
            self.evicted += 1;
            return self.take(place).map(|entry| entry.value);
        }
        self.unlink(place);
        let entry = self.entries.get_mut(place as usize)?;
        entry.asked = 0;
        entry.is_on_probation = false;
        self.probation_bytes -= entry.bytes;
        self.append(place);
        None
    }

    /// The oldest of the main queue goes round, or goes.
    fn turn_main(&mut self) -> Option<Arc<V>> {
        let place = self.main.oldest;
        let entry = self.entries.get_mut(place as usize)?;
        if entry.asked == 0 {
            self.evicted += 1;
            return self.take(place).map(|entry| entry.value);
        }
        entry.asked -= 1;
        self.unlink(place);
        self.append(place);
        None
    }

    /// As many ghosts as there are entries.
    fn remember(&mut self, hash: u64) {
        if self.is_ghost.insert(hash) {
            self.ghosts.push_back(hash);
        }
        while self.ghosts.len() > self.entries.len().max(1) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.is_ghost.remove(&oldest);
            }
        }
    }

    /// To the new end of its queue.
    fn append(&mut self, place: u32) {
        let Some(entry) = self.entries.get_mut(place as usize) else { return };
        let queue = if entry.is_on_probation { &mut self.probation } else { &mut self.main };
        let before = std::mem::replace(&mut queue.newest, place);
        (entry.older, entry.newer) = (before, NOWHERE);
        match self.entries.get_mut(before as usize) {
            Some(before) => before.newer = place,
            None => queue.oldest = place,
        }
    }

    /// Out of its queue.
    fn unlink(&mut self, place: u32) {
        let Some(entry) = self.entries.get(place as usize) else { return };
        let (older, newer) = (entry.older, entry.newer);
        let queue = if entry.is_on_probation { &mut self.probation } else { &mut self.main };
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => queue.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => queue.newest = older,
        }
    }

    fn check_invariants(&self) {
        debug_assert!(self.bytes <= self.room, "{} of {}", self.bytes, self.room);
        debug_assert!(self.probation_bytes <= self.bytes);
        debug_assert!(self.is_ghost.len() <= self.ghosts.len());
        debug_assert_eq!(self.places.len(), self.entries.len());
        for end in [&self.probation, &self.main] {
            debug_assert_eq!(end.oldest == NOWHERE, end.newest == NOWHERE);
        }
    }
}

const _: () = assert!(size_of::<Entry<()>>() == 48, "what ENTRY_BYTES counts on");
