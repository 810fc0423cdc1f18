//! Rate limits of very many keys: how much is allowed, and what has been counted.
//!
//! The two are apart: a limit may allow more or less from now on, and what was counted stays counted.

use std::sync::atomic::Ordering::Relaxed;

use crate::keyed::Words;
use crate::sliding::Window;
use crate::token_bucket::{Empty, Rate};

/// What one key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    Bucket(Rate),
    Sliding(Window),
}

/// What was counted, in a table of fixed size. Quotas that share one have the same rate or window.
#[derive(Debug)]
pub struct Counted(Words);

impl Counted {
    /// For `keys` keys at once, 21 bytes each as they come.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self(Words::new(keys))
    }
}

impl Quota {
    /// Counts one more of this key.
    ///
    /// # Errors
    /// It has had its share: nothing is counted.
    pub fn take(&self, counted: &Counted, key: u64, now_ns: u64) -> Result<(), Empty> {
        let mut result = Ok(());
        let step = |word| match self.step(word, now_ns) {
            Ok(next) => Some(next),
            Err(empty) => {
                result = Err(empty);
                None
            }
        };
        let word = counted.0.of(key, |word| self.weight(word, now_ns));
        if word.fetch_update(Relaxed, Relaxed, step).is_ok() { Ok(()) } else { result }
    }

    /// Whether one more of this key would be counted; counts nothing.
    ///
    /// # Errors
    /// It has had its share.
    pub fn look(&self, counted: &Counted, key: u64, now_ns: u64) -> Result<(), Empty> {
        counted.0.known(key).map_or(Ok(()), |word| self.step(word.load(Relaxed), now_ns).map(drop))
    }

    /// How many more of this key would be counted now.
    pub fn left(&self, counted: &Counted, key: u64, now_ns: u64) -> u64 {
        let word = counted.0.known(key).map_or(0, |word| word.load(Relaxed));
        match self {
            Self::Bucket(rate) => rate.left(word, now_ns),
            Self::Sliding(window) => window.left(word, now_ns),
        }
    }

    /// Takes back what [`Self::take`] has counted just now.
    pub fn give_back(&self, counted: &Counted, key: u64, now_ns: u64) {
        let back = |word| match self {
            Self::Bucket(rate) => rate.give_back(word),
            Self::Sliding(window) => window.give_back(word, now_ns),
        };
        if let Some(word) = counted.0.known(key) {
            // It never refuses.
            word.fetch_update(Relaxed, Relaxed, |word| Some(back(word))).ok();
        }
    }

    /// Others have taken of a bucket, too: it is full again in `level_ns` at the earliest. `key` is one of
    /// [`Usage::most`]. May lie behind what its burst allows: nobody takes anything until it is paid back.
    pub fn raise(&self, counted: &Counted, key: Hashed, level_ns: u64, now_ns: u64) {
        if matches!(self, Self::Bucket(_)) {
            let word = counted.0.of_hashed(key.0, |word| self.weight(word, now_ns));
            word.fetch_max(now_ns.saturating_add(level_ns), Relaxed);
        }
    }

    fn step(&self, word: u64, now_ns: u64) -> Result<u64, Empty> {
        match self {
            Self::Bucket(rate) => rate.take(word, now_ns),
            Self::Sliding(window) => window.take(word, now_ns),
        }
    }

    fn weight(&self, word: u64, now_ns: u64) -> u64 {
        match self {
            Self::Bucket(_) => word.saturating_sub(now_ns),
            Self::Sliding(window) => window.weight(word, now_ns),
        }
    }
}

/// A key as tables have it: one-to-one, so as good as the key itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hashed(pub u64);

/// What was taken of a limit that others share, and was not told to them yet. Where more keys are active
/// than it is for, those are forgotten that took least.
#[derive(Debug)]
pub struct Usage(Words);

impl Usage {
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self(Words::new(keys))
    }

    /// One was taken.
    pub fn add(&self, key: u64) {
        self.0.of(key, |word| word).fetch_add(1, Relaxed);
    }

    /// What was taken since [`Self::most`] told of it.
    #[must_use]
    pub fn untold(&self, key: Hashed) -> u64 {
        self.0.of_hashed(key.0, |word| word).load(Relaxed)
    }

    /// Those who took most, at most so many of them, and how much; they begin anew.
    #[must_use]
    pub fn most(&self, count: usize) -> Vec<(Hashed, u64)> {
        let active = self.0.entries().map(|(key, word)| (key, word, word.load(Relaxed)));
        let mut active: Vec<_> = active.filter(|(_, _, taken)| *taken > 0).collect();
        if active.len() > count {
            active.select_nth_unstable_by_key(count, |(_, _, taken)| std::cmp::Reverse(*taken));
            active.truncate(count);
        }
        active.into_iter().map(|(key, word, _)| (Hashed(key), word.swap(0, Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn bucket(tokens: u64, burst: u64) -> Quota {
        Quota::Bucket(Rate::new(tokens, SECOND_NS, burst))
    }

    fn both(count: u32) -> [Quota; 2] {
        [bucket(count.into(), count.into()), Quota::Sliding(Window::new(count, SECOND_NS))]
    }

    #[test]
    fn each_key_has_its_own() {
        for quota in both(3) {
            let counted = Counted::new(1000);
            for key in 0..100 {
                let taken = (0..9).filter(|_| quota.take(&counted, key, SECOND_NS).is_ok()).count();
                assert_eq!(taken, 3, "key {key}");
            }
        }
    }

    #[test]
    fn a_flood_of_keys_does_not_let_go_of_who_is_refused() {
        for quota in both(5) {
            let counted = Counted::new(1000);
            while quota.take(&counted, u64::MAX, SECOND_NS).is_ok() {}
            for key in 0..100_000 {
                assert!(quota.take(&counted, key, SECOND_NS).is_ok(), "a key that comes once is never refused");
            }
            assert!(quota.take(&counted, u64::MAX, SECOND_NS).is_err());
        }
    }

    #[test]
    fn a_million_keys_are_held_to_their_limits() {
        for quota in both(1) {
            let counted = Counted::new(1_000_000);
            let round = || (0..1_000_000_u64).filter(|key| quota.take(&counted, *key, SECOND_NS).is_ok()).count();
            assert_eq!(round(), 1_000_000);
            let again = round();
            assert!(again < 1000, "{again} were forgotten");
        }
    }

    #[test]
    fn a_burst_may_change_and_what_was_counted_stays() {
        let counted = Counted::new(10);
        assert_eq!((0..99).filter(|_| bucket(1, 5).take(&counted, 1, SECOND_NS).is_ok()).count(), 5);
        assert!(bucket(1, 5).take(&counted, 1, SECOND_NS).is_err());
        assert_eq!((0..99).filter(|_| bucket(1, 8).take(&counted, 1, SECOND_NS).is_ok()).count(), 3);
        assert!(bucket(1, 2).take(&counted, 1, SECOND_NS).is_err());
    }

    /// Threads that all want as much as they can get get at most five in a hundred more than is allowed.
    #[test]
    fn threads_share_one_limit() {
        for quota in both(1000) {
            for threads in [1_u64, 2, 4, 8] {
                let counted = Counted::new(65_536);
                let clock = AtomicU64::new(0);
                let turns = 40_000 / threads;
                let passed = std::thread::scope(|scope| {
                    // Other keys come and go meanwhile.
                    let run = |thread: u64| {
                        let (counted, clock) = (&counted, &clock);
                        scope.spawn(move || {
                            let mut passed = 0;
                            for turn in 0..turns {
                                // Two seconds in all.
                                let now_ns = SECOND_NS + clock.fetch_add(50_000, Relaxed);
                                passed += usize::from(quota.take(counted, 7, now_ns).is_ok());
                                quota.take(counted, 1000 + thread * 100_000 + turn, now_ns).ok();
                            }
                            passed
                        })
                    };
                    let running: Vec<_> = (0..threads).map(run).collect();
                    running.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
                });
                let allowed = if matches!(quota, Quota::Bucket(_)) { 3000 } else { 2000 };
                assert!(passed <= allowed + allowed / 20, "{threads} threads: {passed}, {quota:?}");
                assert!(passed >= 1900, "{threads} threads: {passed}, {quota:?}");
            }
        }
    }

    #[test]
    fn who_took_most_is_told_of_first() {
        let usage = Usage::new(1000);
        for key in 0..100 {
            (0..=key).for_each(|_| usage.add(key));
        }
        let most = usage.most(10);
        let taken = |told: &[(Hashed, u64)]| told.iter().map(|(_, taken)| *taken).collect::<Vec<_>>();
        let mut counts = taken(&most);
        counts.sort_unstable();
        assert_eq!(counts, (91..=100).collect::<Vec<u64>>());
        assert!(most.iter().all(|(key, _)| usage.untold(*key) == 0));
        assert_eq!(taken(&usage.most(1000)).iter().sum::<u64>(), (1..=90).sum::<u64>());
        assert_eq!(usage.most(1000), []);
    }

    /// Each of several holds its own bucket, and all learn ten times a second what the others took.
    #[test]
    fn several_that_tell_each_other_keep_one_rate() {
        for (gateways, burst) in [(2, 1), (2, 100), (5, 10), (16, 1)] {
            let rate = Rate::new(100, SECOND_NS, burst);
            let quota = Quota::Bucket(rate);
            let all: Vec<_> = (0..gateways).map(|_| (Counted::new(10), Usage::new(10))).collect();
            let (mut full_at_ns, mut passed) = (0_u64, 0);
            for now_ms in 1000..61_000_u64 {
                let now_ns = now_ms * 1_000_000;
                for (index, (counted, usage)) in all.iter().enumerate() {
                    if quota.take(counted, 7, now_ns).is_ok() {
                        usage.add(7);
                        passed += 1;
                    }
                    // Not all at once.
                    if now_ms % 100 == (index as u64 * 13) % 100 {
                        for (key, taken) in usage.most(10) {
                            // Taken since it was told the last time, and not all just now.
                            full_at_ns = full_at_ns.max(now_ns - SECOND_NS / 10) + rate.time_of(taken);
                            quota.raise(counted, key, full_at_ns.saturating_sub(now_ns), now_ns);
                        }
                    }
                }
            }
            // Besides the bursts, what each takes before it hears of the others.
            let (least, most) = (5900, 6000 + gateways * (burst + 20));
            assert!((least..=most).contains(&passed), "{gateways} gateways, burst {burst}: {passed}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_can_be_taken(count in 1_u32..20, pauses_ms in proptest::collection::vec(0_u64..200, 1..50)) {
            for quota in both(count) {
                let counted = Counted::new(10);
                let mut now_ns = SECOND_NS;
                for pause_ms in &pauses_ms {
                    now_ns += pause_ms * 1_000_000;
                    let left = quota.left(&counted, 1, now_ns);
                    prop_assert_eq!(left > 0, quota.take(&counted, 1, now_ns).is_ok());
                    prop_assert_eq!(quota.left(&counted, 1, now_ns), left.saturating_sub(1));
                }
            }
        }

        /// Looking counts nothing, and says what taking would.
        #[test]
        fn a_look_is_not_counted(count in 1_u32..20, pauses_ms in proptest::collection::vec(0_u64..200, 1..100)) {
            for quota in both(count) {
                let counted = Counted::new(10);
                let mut now_ns = SECOND_NS;
                for pause_ms in &pauses_ms {
                    now_ns += pause_ms * 1_000_000;
                    let looked = quota.look(&counted, 1, now_ns);
                    prop_assert_eq!(looked, quota.look(&counted, 1, now_ns));
                    prop_assert_eq!(looked, quota.take(&counted, 1, now_ns));
                }
            }
        }

        /// What is given back was never taken.
        #[test]
        fn what_is_given_back_can_be_taken_again(count in 1_u32..20, times in 1_usize..50) {
            for quota in both(count) {
                let counted = Counted::new(10);
                for _ in 0..times {
                    quota.take(&counted, 1, SECOND_NS).unwrap();
                    quota.give_back(&counted, 1, SECOND_NS);
                }
                let taken = (0..99).filter(|_| quota.take(&counted, 1, SECOND_NS).is_ok()).count();
                prop_assert_eq!(taken, count as usize);
            }
        }
    }
}
