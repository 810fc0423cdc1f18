//! A word of state for each of very many keys, in a table of fixed size: who weighs least is forgotten
//! first.
//!
//! A key may stand in either of two sets of places. One that is new takes a place that nobody needs, in
//! the set where more of them are free, so that the table is nearly full before anybody has to go. Where
//! all places are needed it gets that of the key that weighs least: forgetting that one does the least
//! harm. Threads share the table without a lock. Two that enter the same new key in the same moment agree on
//! one place as a rule; where they do not, the key stands there twice, and the second one is forgotten as nobody
//! asks for it. A key that has not been counted yet is the first to go for another. Either costs a count.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};

use crate::key::{mix, scale};

/// Places of a set: a cache line of keys, and behind it one of words.
const WAYS: usize = 8;
const SET_WORDS: usize = 2 * WAYS;

/// A cache line, in words.
const LINE_WORDS: usize = 8;

/// Spreads the second set of a key from its first one (the golden ratio in 64 bits).
const SECOND: u64 = 0x9e37_79b9_7f4a_7c15;

/// A word for each key, 0 for one that is new.
#[derive(Debug)]
pub(crate) struct Words {
    /// Zeroed by the kernel as pages are touched: a table costs what is used of it.
    memory: Box<[AtomicU64]>,
    /// The first set begins a cache line.
    first: usize,
    sets: usize,
}

impl Words {
    /// For `keys` keys at once, of which next to none has to go: a third more places than that, of 16
    /// bytes each.
    pub(crate) fn new(keys: usize) -> Self {
        let sets = keys.saturating_mul(4).div_ceil(3 * WAYS).max(1);
        let memory: Box<[AtomicU64]> = bytemuck::zeroed_slice_box(sets * SET_WORDS + LINE_WORDS);
        let first = (memory.as_ptr().addr() / size_of::<u64>()).wrapping_neg() % LINE_WORDS;
        Self { memory, first, sets }
    }

    /// Places of the table.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.sets * WAYS
    }

    /// The word of a key, entered if it is not there. What a word weighs now says `weight`; one of no
    /// weight is as good as none.
    pub(crate) fn of(&self, key: u64, weight: impl Fn(u64) -> u64) -> &AtomicU64 {
        self.of_hashed(hash(key), weight)
    }

    /// The same for a key as [`Self::entries`] gives it.
    pub(crate) fn of_hashed(&self, hash: u64, weight: impl Fn(u64) -> u64) -> &AtomicU64 {
        let sets = self.homes(hash);
        let found = sets.iter().find_map(|set| set.find(hash));
        found.unwrap_or_else(|| enter(&sets, hash, weight))
    }

    /// The word of a key that is there.
    pub(crate) fn known(&self, key: u64) -> Option<&AtomicU64> {
        let hash = hash(key);
        self.homes(hash).iter().find_map(|set| set.find(hash))
    }

    /// All keys that are there, hashed, with their words.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &AtomicU64)> {
        let places = self.memory.get(self.first..self.first + self.sets * SET_WORDS).unwrap_or_default();
        let pairs = places.chunks_exact(SET_WORDS).flat_map(|set| {
            let (keys, words) = set.split_at(WAYS);
            keys.iter().zip(words)
        });
        pairs.map(|(key, word)| (key.load(Relaxed), word)).filter(|(key, _)| *key != 0)
    }

    fn homes(&self, hash: u64) -> [Set<'_>; 2] {
        [hash, mix(hash ^ SECOND)].map(|hash| {
            let start = self.first + scale(hash, self.sets) * SET_WORDS;
            let words = self.memory.get(start..start + SET_WORDS).unwrap_or_default();
            let (keys, words) = words.split_at(words.len() / 2);
            Set { keys, words }
        })
    }
}

/// 0 is nobody.
fn hash(key: u64) -> u64 {
    mix(key).max(1)
}

struct Set<'a> {
    keys: &'a [AtomicU64],
    words: &'a [AtomicU64],
}

impl<'a> Set<'a> {
    #[inline]
    fn find(&self, hash: u64) -> Option<&'a AtomicU64> {
        let place = self.keys.iter().position(|key| key.load(Relaxed) == hash)?;
        // What the word was for who had the place before is not seen any more.
        fence(Acquire);
        self.words.get(place)
    }
}

/// Gives the key the place of one that is missed least. Whoever finds that another thread has changed the
/// place meanwhile looks again.
fn enter<'a>(sets: &[Set<'a>; 2], hash: u64, weight: impl Fn(u64) -> u64) -> &'a AtomicU64 {
    let lightest = |set: &Set<'a>| {
        let (mut free, mut least, mut found) = (0, u64::MAX, (0, 0, 0));
        for (place, (key, word)) in set.keys.iter().zip(set.words).enumerate() {
            // The key first: one that enters behind this is noticed by its key.
            let (key, word) = (key.load(Acquire), word.load(Relaxed));
            let weight = weight(word);
            free += usize::from(weight == 0);
            if place == 0 || weight < least {
                (least, found) = (weight, (place, key, word));
            }
        }
        (free, least, found)
    };
    loop {
        let (here, there) = (lightest(&sets[0]), lightest(&sets[1]));
        // Behind the look at the places: who entered it before has counted there, who does so from now on
        // takes the place that is taken here.
        if let Some(found) = sets.iter().find_map(|set| set.find(hash)) {
            return found;
        }
        let is_there = if here.0 + there.0 > 0 { there.0 > here.0 } else { there.1 < here.1 };
        let (set, (_, _, found)) = if is_there { (&sets[1], there) } else { (&sets[0], here) };
        let (place, had_key, had_word) = found;
        // Both are of the set that `place` was found in.
        let (key, word) = (&set.keys[place], &set.words[place]);
        if word.compare_exchange(had_word, 0, Relaxed, Relaxed).is_ok()
            && key.compare_exchange(had_key, hash, Release, Relaxed).is_ok()
        {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(word: u64) -> u64 {
        word
    }

    #[test]
    fn as_many_keys_as_it_is_for_are_remembered() {
        let keys = 1_000_000;
        let words = Words::new(keys);
        for key in 0..keys as u64 {
            words.of(key, alive).store(key + 1, Relaxed);
        }
        let known =
            (0..keys as u64).filter(|key| words.known(*key).is_some_and(|word| word.load(Relaxed) == key + 1)).count();
        assert!(known >= keys - keys / 1000, "{known} of {keys}");
    }

    #[test]
    fn who_weighs_nothing_goes_first_and_who_weighs_most_last() {
        let words = Words::new(6);
        assert_eq!(words.capacity(), WAYS);
        words.of(1, alive).store(100, Relaxed);
        for key in 2..1000 {
            words.of(key, alive).store(1, Relaxed);
        }
        assert_eq!(words.known(1).map(|word| word.load(Relaxed)), Some(100));
        let is_known = |key: &u64| words.known(*key).is_some();
        assert_eq!((0..1000).filter(is_known).count(), WAYS);
        // Nothing weighs anything any more.
        words.of(1000, |_| 0);
        assert_eq!(words.known(1000).map(|word| word.load(Relaxed)), Some(0));
    }

    #[test]
    fn threads_that_enter_the_same_key_at_once_count_it_together() {
        const KEYS: u64 = 20_000;
        let words = Words::new(2 * KEYS as usize);
        let at = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for key in 1..=KEYS {
                        // Both go on to the next key at the same moment.
                        at.fetch_add(1, Relaxed);
                        while at.load(Relaxed) < 2 * key {
                            std::hint::spin_loop();
                        }
                        words.of(key, alive).fetch_add(1, Relaxed);
                    }
                });
            }
        });
        let wrong = (1..=KEYS).filter(|key| words.known(*key).map(|word| word.load(Relaxed)) != Some(2));
        assert_eq!(wrong.count(), 0);
    }

    #[test]
    fn the_largest_table_is_made_at_once() {
        // 16 Mi keys: were its 340 MiB touched, this would take a while.
        let words = Words::new(16 << 20);
        words.of(1, alive).store(1, Relaxed);
        assert_eq!(words.known(1).map(|word| word.load(Relaxed)), Some(1));
    }
}
