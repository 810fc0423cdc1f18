//! One part of the memory, and who has to go.
//!
//! Three queues, first in first out (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023): whoever comes is on *probation* in a small one; who is asked for there goes on to the
//! main one, the others leave a *ghost*, their key without their bytes; a ghost that comes back goes to
//! the main queue at once. In the main queue who was asked for goes round once more. So a crawler that
//! reads everything once passes through the small queue and moves nothing else, and a hit changes one
//! small number and no order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{Key, Usage};
use crate::limits::{ASKED_MOST, ENTRY_BYTES, PROBATION_PERCENT};

#[derive(Debug)]
pub(super) struct Shard<V> {
    entries: HashMap<Key, Entry<V>, BuildHasherDefault<AsItIs>>,
    probation: VecDeque<Ticket>,
    main: VecDeque<Ticket>,
    ghosts: VecDeque<Key>,
    is_ghost: HashSet<Key, BuildHasherDefault<AsItIs>>,
    probation_bytes: u64,
    bytes: u64,
    room: u64,
    next_serial: u32,
    evicted: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: u64,
    /// Of its ticket: others of the same key are of entries that are gone.
    serial: u32,
    asked: u8,
    is_on_probation: bool,
}

/// A place in a queue.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    key: Key,
    serial: u32,
}

/// Keys are hashes already.
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

    fn write_u128(&mut self, key: u128) {
        // The low half; the high one has chosen the shard.
        self.0 = key as u64;
    }
}

/// What had to go.
type Gone<V> = Vec<Arc<V>>;

impl<V> Shard<V> {
    pub(super) fn new(room: u64) -> Self {
        Self {
            entries: HashMap::default(),
            probation: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            is_ghost: HashSet::default(),
            probation_bytes: 0,
            bytes: 0,
            room,
            next_serial: 0,
            evicted: 0,
        }
    }

    pub(super) fn get(&mut self, key: Key) -> Option<Arc<V>> {
        let entry = self.entries.get_mut(&key)?;
        entry.asked = (entry.asked + 1).min(ASKED_MOST);
        Some(Arc::clone(&entry.value))
    }

    pub(super) fn peek(&self, key: Key) -> Option<Arc<V>> {
        self.entries.get(&key).map(|entry| Arc::clone(&entry.value))
    }

    pub(super) fn insert(&mut self, key: Key, value: Arc<V>, bytes: u64) -> (bool, Gone<V>) {
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        let before = self.take(key);
        let mut gone: Gone<V> = Vec::new();
        let (asked, is_on_probation) = match before {
            Some(before) => {
                let kept = (before.asked, before.is_on_probation);
                gone.push(before.value);
                kept
            }
            None => (0, !self.is_ghost.remove(&key)),
        };
        if bytes > self.room {
            return (false, gone);
        }
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let ticket = Ticket { key, serial };
        if is_on_probation {
            self.probation.push_back(ticket);
            self.probation_bytes += bytes;
        } else {
            self.main.push_back(ticket);
        }
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, serial, asked, is_on_probation });
        self.evict(&mut gone);
        self.drop_stale_tickets();
        self.check_invariants();
        // Among those on probation it may be the one that has to go.
        (self.entries.contains_key(&key), gone)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Arc<V>> {
        let entry = self.take(key)?;
        self.drop_stale_tickets();
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

    /// Out of the table; its ticket stays in its queue and means nothing any more.
    fn take(&mut self, key: Key) -> Option<Entry<V>> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes;
        if entry.is_on_probation {
            self.probation_bytes -= entry.bytes;
        }
        Some(entry)
    }

    fn evict(&mut self, gone: &mut Gone<V>) {
        while self.bytes > self.room {
            let from_probation = self.probation_bytes > self.room * PROBATION_PERCENT / 100 || self.main.is_empty();
            let evicted = if from_probation { self.turn_probation() } else { self.turn_main() };
            gone.extend(evicted);
        }
    }

    /// The oldest on probation goes on, or goes.
    fn turn_probation(&mut self) -> Option<Arc<V>> {
        let ticket = self.probation.pop_front()?;
        let entry = self.entries.get_mut(&ticket.key).filter(|entry| entry.serial == ticket.serial)?;
        if entry.asked > 0 {
            entry.asked = 0;
            entry.is_on_probation = false;
            self.probation_bytes -= entry.bytes;
            self.main.push_back(ticket);
            return None;
        }
        self.remember(ticket.key);
        self.evicted += 1;
        self.take(ticket.key).map(|entry| entry.value)
    }

    /// The oldest of the main queue goes round, or goes.
    fn turn_main(&mut self) -> Option<Arc<V>> {
        let ticket = self.main.pop_front()?;
        let entry = self.entries.get_mut(&ticket.key).filter(|entry| entry.serial == ticket.serial)?;
        if entry.asked > 0 {
            entry.asked -= 1;
            self.main.push_back(ticket);
            return None;
        }
        self.evicted += 1;
        self.take(ticket.key).map(|entry| entry.value)
    }

    /// As many ghosts as there are entries.
    fn remember(&mut self, key: Key) {
        if self.is_ghost.insert(key) {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.entries.len().max(1) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.is_ghost.remove(&oldest);
            }
        }
    }

    /// Tickets of entries that were taken out in another way than by their turn are cleared away once
    /// they are more than the others.
    fn drop_stale_tickets(&mut self) {
        if self.probation.len() + self.main.len() <= 2 * self.entries.len() + 16 {
            return;
        }
        let entries = &self.entries;
        let is_live = |ticket: &Ticket| entries.get(&ticket.key).is_some_and(|entry| entry.serial == ticket.serial);
        self.probation.retain(is_live);
        self.main.retain(is_live);
    }

    fn check_invariants(&self) {
        debug_assert!(self.bytes <= self.room, "{} of {}", self.bytes, self.room);
        debug_assert!(self.probation_bytes <= self.bytes);
        debug_assert!(self.is_ghost.len() <= self.ghosts.len());
        debug_assert!(self.probation.len() + self.main.len() >= self.entries.len());
    }
}
