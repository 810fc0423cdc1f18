//! Which server uses a connection id, for all workers of a process.
//!
//! A table of fixed size without locks. An id, of which only a keyed hash is kept, may stand in a handful
//! of places; where all of them are taken, the one that was in use the longest ago is forgotten. A place
//! that two threads write in the same moment may end up with the parts of two entries: its check then fits
//! neither, and it is free.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sumun_hello::limits::CONNECTION_ID_BYTES_MAX;

/// Places of an id.
const WAYS: usize = 16;

/// Stands for an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u64);

#[derive(Debug)]
pub(crate) struct Learnt {
    /// Nobody may choose which places an id has.
    hash: RandomState,
    sets: Box<[Set]>,
    /// Lengths of ids, a bit each: a short header does not say how long its id is.
    lengths: AtomicU32,
}

#[derive(Debug, Default)]
struct Set {
    /// Key and server, by exclusive or; of a free place 0, which is no key.
    checks: [AtomicU64; WAYS],
    servers: [AtomicU64; WAYS],
    seen_ms: [AtomicU64; WAYS],
}

impl Learnt {
    /// For about so many ids, 24 bytes each.
    pub(crate) fn new(ids: usize) -> Self {
        let sets = (ids / WAYS).max(1).next_power_of_two();
        Self {
            hash: RandomState::new(),
            sets: (0..sets).map(|_| Set::default()).collect(),
            lengths: AtomicU32::default(),
        }
    }

    /// A server uses this id, of 1 to 20 bytes.
    pub(crate) fn learn(&self, id: &[u8], server: u64, now_ms: u64) -> Key {
        let length = 1 << id.len().min(CONNECTION_ID_BYTES_MAX);
        // Mostly there already: reading does not take the cache line away from the others.
        if self.lengths.load(Relaxed) & length == 0 {
            self.lengths.fetch_or(length, Relaxed);
        }
        let key = self.key(id);
        self.keep(key, server, now_ms);
        key
    }

    /// An id is in use, at this server.
    pub(crate) fn keep(&self, key: Key, server: u64, now_ms: u64) {
        let set = self.set(key);
        let place = set.entry(key).map_or_else(|| set.oldest(), |(place, _)| place);
        set.seen_ms[place].store(now_ms, Relaxed);
        set.servers[place].store(server, Relaxed);
        set.checks[place].store(key.0 ^ server, Relaxed);
    }

    /// The server that has used this id since then.
    pub(crate) fn find(&self, id: &[u8], since_ms: u64) -> Option<(Key, u64)> {
        // Others are longer than any that was learnt.
        if id.len() > CONNECTION_ID_BYTES_MAX || self.lengths.load(Relaxed) & 1 << id.len() == 0 {
            return None;
        }
        let key = self.key(id);
        let set = self.set(key);
        let (place, server) = set.entry(key)?;
        (set.seen_ms[place].load(Relaxed) >= since_ms).then_some((key, server))
    }

    /// The same of the id that these bytes begin with, the longest one first.
    pub(crate) fn find_at_start(&self, bytes: &[u8], since_ms: u64) -> Option<(Key, u64)> {
        let longest = bytes.len().min(CONNECTION_ID_BYTES_MAX);
        (1..=longest).rev().find_map(|length| self.find(bytes.get(..length)?, since_ms))
    }

    fn key(&self, id: &[u8]) -> Key {
        Key(self.hash.hash_one(id).max(1))
    }

    fn set(&self, key: Key) -> &Set {
        // Within bounds: the number of sets is a power of two.
        &self.sets[key.0 as usize & (self.sets.len() - 1)]
    }
}

impl Set {
    /// Its place and its server, which are read together.
    fn entry(&self, key: Key) -> Option<(usize, u64)> {
        let servers = self.servers.iter().map(|server| server.load(Relaxed));
        let places = self.checks.iter().map(|check| check.load(Relaxed)).zip(servers).enumerate();
        places
            .map(|(place, (check, server))| (place, check ^ server, server))
            .find_map(|(place, found, server)| (found == key.0).then_some((place, server)))
    }

    /// A free place, or that of the one that was in use the longest ago.
    fn oldest(&self) -> usize {
        let taken = self.checks.iter().map(|check| check.load(Relaxed) != 0);
        let seen_ms = self.seen_ms.iter().map(|at| at.load(Relaxed));
        taken.zip(seen_ms).enumerate().min_by_key(|(_, age)| *age).map_or(0, |(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_id_is_found() {
        let learnt = Learnt::new(1024);
        assert_eq!(learnt.find_at_start(&[0; 40], 0), None);
        for (id, server) in [(&[1; 4][..], 1), (&[1; 8], 2), (&[2; 20], 3)] {
            learnt.learn(id, server, 5);
        }
        let server = |bytes: &[u8], since_ms| learnt.find_at_start(bytes, since_ms).map(|(_, server)| server);
        assert_eq!(server(&[1; 30], 5), Some(2));
        assert_eq!(server(&[1; 7], 5), Some(1));
        assert_eq!(server(&[1; 3], 5), None);
        assert_eq!(server(&[2; 20], 5), Some(3));
        assert_eq!(server(&[2; 19], 5), None);
        assert_eq!(server(&[1; 30], 6), None, "forgotten");
        assert_eq!(learnt.find(&[1; 8], 5).map(|(_, server)| server), Some(2));
        assert_eq!(learnt.find(&[1; 30], 5), None, "that is another id");
        // It changed hands.
        learnt.learn(&[1; 8], 9, 6);
        assert_eq!(server(&[1; 30], 6), Some(9));
    }

    #[test]
    fn the_oldest_go_first() {
        const IDS: u64 = 1024;
        let learnt = Learnt::new(IDS as usize);
        assert_eq!(learnt.sets.len() * WAYS, IDS as usize);
        for number in 0..100 * IDS {
            learnt.learn(&number.to_le_bytes(), number + 1, number);
        }
        let found = |number: u64| learnt.find(&number.to_le_bytes(), 0).map(|(_, server)| server);
        let known: Vec<u64> = (0..100 * IDS).filter(|&number| found(number).is_some()).collect();
        assert!(known.len() <= IDS as usize, "{}", known.len());
        assert!(known.iter().all(|&number| found(number) == Some(number + 1)));
        assert!((99 * IDS + IDS / 2..100 * IDS).filter(|&number| found(number).is_some()).count() > 400);
        assert!(known.iter().all(|&number| number > 95 * IDS), "those of long ago are gone");
    }

    /// Threads that write over each other may lose an entry, and never make one up.
    #[test]
    fn no_id_gets_the_server_of_another() {
        let learnt = Learnt::new(WAYS);
        let rounds = 20_000_u64;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let learnt = &learnt;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let number = thread * rounds + round;
                        learnt.learn(&number.to_le_bytes(), number + 1, number);
                        if let Some((_, server)) = learnt.find(&number.to_le_bytes(), 0) {
                            assert_eq!(server, number + 1);
                        }
                    }
                });
            }
        });
    }
}
