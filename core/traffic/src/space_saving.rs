//! Who comes most often, of very many, with bounded memory: the Space-Saving algorithm (Metwally, Agrawal
//! and El Abbadi, "Efficient computation of frequent and top-k elements in data streams", 2005).
//!
//! So many keys are counted as there are places. A key that has none takes the place of the one with the
//! least count, and that count with it: it is how much the new one may be overestimated. So, of `N` counted
//! over `k` places, no count is too small, none is too large by more than `N/k`, and every key with more
//! than `N/k` has a place.
//!
//! The places are a heap by count, found by an open hash table. To count takes a look at the table and
//! a step or two in the heap, a new key at most one step for each doubling of the places; nothing is
//! allocated after [`SpaceSaving::new`].

use crate::key::mix;
use crate::limits::TOP_PLACES_MAX;

/// Of the hash table; no place has this number.
const NOBODY: u16 = u16::MAX;

const _: () = assert!(TOP_PLACES_MAX < NOBODY as usize);

/// Counts by key.
#[derive(Debug, Clone)]
pub struct SpaceSaving {
    places: Box<[Place]>,
    /// Those that are taken: a heap with the least count first. Counts stand here and not in the places,
    /// so that a step in the heap reads one line of memory.
    heap: Vec<Ranked>,
    /// Places by hash of the key, twice as many as there are places.
    table: Box<[u16]>,
    seed: u64,
    total: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ranked {
    count: u64,
    place: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    key: u64,
    over: u64,
    errors: u64,
    bytes: u64,
    /// Where it stands in the heap.
    rank: u16,
}

/// What is counted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// How many it stands for; more than one where only some are looked at.
    pub weight: u32,
    pub is_error: bool,
    pub bytes: u64,
}

/// A key and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub key: u64,
    /// No less than it really was.
    pub count: u64,
    /// It was no less than `count - over`.
    pub over: u64,
    /// Of those that were seen since the key has its place, `count - over`.
    pub errors: u64,
    pub bytes: u64,
    /// Stays the same as long as the key has a place.
    pub place: usize,
}

impl SpaceSaving {
    /// With so many places, within [`TOP_PLACES_MAX`]. `seed` keeps clients from choosing keys that meet in
    /// the hash table.
    #[must_use]
    pub fn new(places: usize, seed: u64) -> Self {
        let places = places.clamp(1, TOP_PLACES_MAX);
        Self {
            places: vec![Place::default(); places].into(),
            heap: Vec::with_capacity(places),
            table: vec![NOBODY; (places * 2).next_power_of_two()].into(),
            seed,
            total: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.heap.clear();
        self.table.fill(NOBODY);
        self.total = 0;
    }

    /// Counts a key. `Some`: it has taken this place just now, and whatever somebody keeps about who had
    /// it before is not this key's.
    pub fn add(&mut self, key: u64, hit: Hit) -> Option<usize> {
        let weight = u64::from(hit.weight);
        self.total = self.total.saturating_add(weight);
        let slot = self.slot_of(key);
        let (place, is_new) = match self.table[slot] {
            NOBODY => (self.take(key, slot), true),
            place => (place, false),
        };
        let known = &mut self.places[usize::from(place)];
        known.bytes = known.bytes.saturating_add(hit.bytes.saturating_mul(weight));
        if hit.is_error {
            known.errors = known.errors.saturating_add(weight);
        }
        let rank = usize::from(known.rank);
        self.heap[rank].count = self.heap[rank].count.saturating_add(weight);
        self.sink(rank);
        is_new.then_some(usize::from(place))
    }

    /// All that was counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// No key without a place has a greater count.
    #[must_use]
    pub fn least(&self) -> u64 {
        if self.heap.len() < self.places.len() { 0 } else { self.heap.first().map_or(0, |least| least.count) }
    }

    /// Those with a place, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Counted> {
        self.heap.iter().map(|Ranked { count, place }| {
            let place = usize::from(*place);
            let Place { key, over, errors, bytes, .. } = self.places[place];
            Counted { key, count: *count, over, errors, bytes, place }
        })
    }

    /// Gives a key that has none a place, with the count of who had it; `slot` is where the table has
    /// room for it.
    fn take(&mut self, key: u64, slot: usize) -> u16 {
        if self.heap.len() < self.places.len() {
            let new = self.heap.len() as u16;
            self.places[usize::from(new)] = Place { key, rank: new, ..Place::default() };
            self.heap.push(Ranked { count: 0, place: new });
            self.table[slot] = new;
            self.rise(usize::from(new));
            return new;
        }
        let Ranked { count, place } = self.heap[0];
        self.forget(self.places[usize::from(place)].key);
        self.places[usize::from(place)] = Place { key, over: count, ..Place::default() };
        // Where there is room for it may have moved.
        let slot = self.slot_of(key);
        self.table[slot] = place;
        place
    }

    /// Where the table has a key, or room for it. It is never full.
    fn slot_of(&self, key: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = self.home(key);
        loop {
            match self.table[slot] {
                NOBODY => return slot,
                place if self.places[usize::from(place)].key == key => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn home(&self, key: u64) -> usize {
        mix(key ^ self.seed) as usize & (self.table.len() - 1)
    }

    /// Takes a key out of the table, and moves those up that had to make way for it.
    fn forget(&mut self, key: u64) {
        let mask = self.table.len() - 1;
        let mut free = self.slot_of(key);
        let mut next = free;
        loop {
            next = (next + 1) & mask;
            let place = self.table[next];
            if place == NOBODY {
                break;
            }
            let home = self.home(self.places[usize::from(place)].key);
            // It may stand at `free` unless its home lies behind that.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(free) & mask) {
                self.table[free] = place;
                free = next;
            }
        }
        self.table[free] = NOBODY;
    }

    /// Down to where those below it have no less.
    fn sink(&mut self, mut rank: usize) {
        let moved = self.heap[rank];
        loop {
            let left = rank * 2 + 1;
            let Some(first) = self.heap.get(left).copied() else { break };
            let second = self.heap.get(left + 1).copied();
            let (below, least) = match second {
                Some(second) if second.count < first.count => (left + 1, second),
                _ => (left, first),
            };
            if least.count >= moved.count {
                break;
            }
            self.put(rank, least);
            rank = below;
        }
        self.put(rank, moved);
    }

    /// Up to where the one above it has no more.
    fn rise(&mut self, mut rank: usize) {
        let moved = self.heap[rank];
        while rank > 0 {
            let above = (rank - 1) / 2;
            if self.heap[above].count <= moved.count {
                break;
            }
            self.put(rank, self.heap[above]);
            rank = above;
        }
        self.put(rank, moved);
    }

    fn put(&mut self, rank: usize, ranked: Ranked) {
        self.heap[rank] = ranked;
        self.places[usize::from(ranked.place)].rank = rank as u16;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const ONE: Hit = Hit { weight: 1, is_error: false, bytes: 0 };

    fn check_invariants(sketch: &SpaceSaving) {
        for (rank, ranked) in sketch.heap.iter().enumerate() {
            assert_eq!(usize::from(sketch.places[usize::from(ranked.place)].rank), rank);
            assert!(rank == 0 || sketch.heap[(rank - 1) / 2].count <= ranked.count, "the heap is out of order");
            let slot = sketch.slot_of(sketch.places[usize::from(ranked.place)].key);
            assert_eq!(sketch.table[slot], ranked.place, "the table finds another place");
        }
        let listed = sketch.table.iter().filter(|place| **place != NOBODY).count();
        assert_eq!(listed, sketch.heap.len());
        let different: BTreeSet<u64> = sketch.iter().map(|counted| counted.key).collect();
        assert_eq!(different.len(), sketch.heap.len());
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut sketch = SpaceSaving::new(4, 1);
        assert_eq!(sketch.add(7, Hit { weight: 1, is_error: true, bytes: 10 }), Some(0));
        assert_eq!(sketch.add(8, ONE), Some(1));
        assert_eq!(sketch.add(7, Hit { weight: 8, is_error: false, bytes: 10 }), None);
        let mut all: Vec<Counted> = sketch.iter().collect();
        all.sort_by_key(|counted| counted.key);
        assert_eq!(all[0], Counted { key: 7, count: 9, over: 0, errors: 1, bytes: 90, place: 0 });
        assert_eq!(all[1], Counted { key: 8, count: 1, over: 0, errors: 0, bytes: 0, place: 1 });
        assert_eq!((sketch.total(), sketch.least()), (10, 0));
        sketch.clear();
        assert_eq!((sketch.iter().count(), sketch.total()), (0, 0));
        assert_eq!(sketch.add(8, ONE), Some(0));
    }

    #[test]
    fn the_heavy_one_among_very_many_stays() {
        let mut sketch = SpaceSaving::new(64, 1);
        for number in 0..100_000_u64 {
            sketch.add(number + 1000, ONE);
            if number % 20 == 0 {
                sketch.add(7, ONE);
            }
        }
        check_invariants(&sketch);
        let top = sketch.iter().max_by_key(|counted| counted.count).unwrap();
        assert_eq!(top.key, 7);
        assert!(top.count >= 5000 && top.count - top.over <= 5000, "{top:?}");
    }

    proptest! {
        /// Exact counts are what the sketch is held against: streams with few and with many keys, some of
        /// them heavy, looked at one by one or some for all.
        #[test]
        fn the_bounds_of_the_paper_hold(
            places in 1_usize..40,
            seed in any::<u64>(),
            stream in prop::collection::vec((0_u64..200, 0_u64..4, 1_u32..5, any::<bool>()), 0..2000),
        ) {
            let mut sketch = SpaceSaving::new(places, seed);
            let mut exact: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            let mut total = 0;
            for (key, spread, weight, is_error) in stream {
                // Three in four are one of few.
                let key = if spread == 0 { key } else { key % 5 };
                sketch.add(key, Hit { weight, is_error, bytes: 1 });
                let count = exact.entry(key).or_default();
                count.0 += u64::from(weight);
                count.1 += u64::from(weight) * u64::from(is_error);
                total += u64::from(weight);
            }
            check_invariants(&sketch);
            prop_assert_eq!(sketch.total(), total);
            prop_assert!(sketch.iter().count() <= places);
            let most_over = total / places as u64;
            let found: BTreeMap<u64, Counted> = sketch.iter().map(|counted| (counted.key, counted)).collect();
            for counted in found.values() {
                let (count, errors) = exact[&counted.key];
                prop_assert!(counted.count >= count && counted.count - counted.over <= count, "{counted:?} {count}");
                prop_assert!(counted.over <= most_over, "{counted:?} {most_over}");
                prop_assert!(counted.errors <= errors && counted.errors <= counted.count - counted.over);
                prop_assert_eq!(counted.bytes, counted.count - counted.over);
            }
            for (key, (count, _)) in &exact {
                prop_assert!(*count <= most_over || found.contains_key(key), "{key} with {count} of {total}");
                prop_assert!(found.contains_key(key) || *count <= sketch.least());
            }
        }
    }
}
