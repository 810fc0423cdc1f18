//! A sliding window whose whole state is one number, so that it can live in one atomic.
//!
//! Counted are this window and the one before it. Of the one before, so much counts as the window
//! that ends now still covers, as if it had been even. So any stretch that begins with a window sees at
//! most the limit; one that straddles two of them may see up to twice that in the worst case, of who
//! comes at the end of the one and at the end of the other.

use crate::token_bucket::Empty;

/// Largest limit: two counts and the number of a window have to fit one word.
pub const LIMIT_MAX: u32 = (1 << COUNT_BITS) - 1;

const COUNT_BITS: u32 = 22;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Windows are numbered up to here and then from 0 on again. A key that rests for that many windows, give
/// or take one, is once taken for one that has just been here.
const NUMBER_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// So many in any window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    limit: u64,
    /// In microseconds; at least 1.
    length_us: u64,
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    number: u64,
    now: u64,
    before: u64,
}

impl Counts {
    fn of(word: u64) -> Self {
        Self { number: word >> (2 * COUNT_BITS), now: (word >> COUNT_BITS) & COUNT_MASK, before: word & COUNT_MASK }
    }

    fn word(self) -> u64 {
        (self.number << (2 * COUNT_BITS)) | (self.now << COUNT_BITS) | self.before
    }
}

impl Window {
    /// `limit` in each `length_ns`; what is out of bounds counts as the bound.
    #[must_use]
    pub fn new(limit: u32, length_ns: u64) -> Self {
        Self { limit: limit.clamp(1, LIMIT_MAX).into(), length_us: (length_ns / 1000).max(1) }
    }

    /// Counts one more at `now_ns`. `word` is the state, zero for a key that is new; returns the new one.
    ///
    /// # Errors
    /// The window is full; the state stays as it is.
    pub fn take(&self, word: u64, now_ns: u64) -> Result<u64, Empty> {
        let (counts, into_us) = self.at(word, now_ns);
        if self.weighed(counts, into_us) < self.limit {
            return Ok(Counts { now: counts.now + 1, ..counts }.word());
        }
        let after_us = if counts.now < self.limit {
            self.leaves_room(counts.before, self.limit - 1 - counts.now).saturating_sub(into_us)
        } else {
            let left_us = self.length_us - into_us;
            left_us + self.leaves_room(counts.now, self.limit - 1)
        };
        Err(Empty { retry_after_ns: after_us.max(1).saturating_mul(1000) })
    }

    /// Takes back what [`Self::take`] has counted just now.
    #[must_use]
    pub fn give_back(&self, word: u64, now_ns: u64) -> u64 {
        let (counts, _) = self.at(word, now_ns);
        Counts { now: counts.now.saturating_sub(1), ..counts }.word()
    }

    /// How many more fit at `now_ns`.
    #[must_use]
    pub fn left(&self, word: u64, now_ns: u64) -> u64 {
        self.limit.saturating_sub(self.weight(word, now_ns))
    }

    /// How much counts now.
    #[must_use]
    pub fn weight(&self, word: u64, now_ns: u64) -> u64 {
        let (counts, into_us) = self.at(word, now_ns);
        self.weighed(counts, into_us)
    }

    /// The counts as of now, and how much of the window has gone.
    fn at(&self, word: u64, now_ns: u64) -> (Counts, u64) {
        let now_us = now_ns / 1000;
        let number = (now_us / self.length_us) & NUMBER_MASK;
        let counts = Counts::of(word);
        match number.wrapping_sub(counts.number) & NUMBER_MASK {
            0 => (counts, now_us % self.length_us),
            1 => (Counts { number, now: 0, before: counts.now }, now_us % self.length_us),
            // Another thread has read the clock a moment later and is in the next window already. Only the
            // next: whatever seems further ahead is old, as a key that was never seen is of window 0.
            NUMBER_MASK => (counts, 0),
            _ => (Counts { number, now: 0, before: 0 }, now_us % self.length_us),
        }
    }

    fn weighed(&self, counts: Counts, into_us: u64) -> u64 {
        // Below 2^22 and, with windows of an hour, 2^32.
        let before = (counts.before * (self.length_us - into_us)).div_ceil(self.length_us);
        counts.now + before
    }

    /// How far into a window one has to be until of `before` at most `room` count.
    fn leaves_room(&self, before: u64, room: u64) -> u64 {
        self.length_us - (room * self.length_us).checked_div(before).unwrap_or(self.length_us).min(self.length_us)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn the_window_before_fades() {
        let window = Window::new(10, SECOND_NS);
        let mut word = 0;
        let mut take = |at_ms: u64| {
            let taken = window.take(word, at_ms * 1_000_000);
            if let Ok(new) = taken {
                word = new;
            }
            taken.is_ok()
        };
        assert_eq!((0..20).filter(|_| take(5_000)).count(), 10);
        assert!(!take(6_000));
        // Half of the ten counts no more.
        assert_eq!((0..20).filter(|_| take(6_500)).count(), 5);
        assert_eq!((0..20).filter(|_| take(9_000)).count(), 10);
    }

    #[test]
    fn a_clock_that_was_read_before_the_window_began_empties_nothing() {
        let window = Window::new(2, SECOND_NS);
        let mut word = 0;
        for at_ns in [5 * SECOND_NS, 5 * SECOND_NS - 1000] {
            word = window.take(word, at_ns).unwrap();
        }
        assert!(window.take(word, 5 * SECOND_NS - 1000).is_err());
        assert!(window.take(word, 5 * SECOND_NS).is_err());
    }

    #[test]
    fn a_key_is_as_good_as_new_after_any_rest() {
        let window = Window::new(2, SECOND_NS);
        let full = (0..2).fold(0, |word, _| window.take(word, 5 * SECOND_NS).unwrap());
        for rest_s in [2, 1 << 18, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, (1 << 20) - 2] {
            for (word, since_s) in [(0, 0), (full, 5)] {
                let mut word = word;
                for at_ns in (0..3).map(|more_s| (since_s + rest_s + more_s) * SECOND_NS) {
                    word = window.take(word, at_ns).unwrap_or_else(|_| panic!("refused after {rest_s} s"));
                }
            }
        }
    }

    #[test]
    fn what_was_taken_can_be_given_back() {
        let window = Window::new(2, SECOND_NS);
        let word = window.take(0, SECOND_NS).unwrap();
        assert_eq!(window.weight(window.give_back(word, SECOND_NS), SECOND_NS), 0);
        assert_eq!(window.weight(window.give_back(0, SECOND_NS), SECOND_NS), 0);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_its_limit(
            limit in 1_u32..50, pauses_us in proptest::collection::vec(0_u64..100_000, 1..400),
        ) {
            let window = Window::new(limit, SECOND_NS);
            let (mut word, mut now_ns) = (0, 7 * SECOND_NS);
            let mut taken: Vec<u64> = Vec::new();
            for pause_us in pauses_us {
                now_ns += pause_us * 1000;
                if let Ok(new) = window.take(word, now_ns) {
                    word = new;
                    taken.push(now_ns);
                }
                let in_this = taken.iter().filter(|at| **at / SECOND_NS == now_ns / SECOND_NS).count();
                prop_assert!(in_this <= limit as usize);
                let in_last_second = taken.iter().filter(|at| **at + SECOND_NS > now_ns).count();
                prop_assert!(in_last_second <= 2 * limit as usize);
            }
        }

        #[test]
        fn who_waits_as_long_as_it_is_told_is_let_in(
            limit in 1_u32..60, before in 0_u32..60, into_us in 0_u64..1_000_000,
        ) {
            let window = Window::new(limit, SECOND_NS);
            let mut word = 0;
            for _ in 0..before {
                word = window.take(word, 8 * SECOND_NS - 1000).unwrap_or(word);
            }
            let now_ns = 8 * SECOND_NS + into_us * 1000;
            let refused = loop {
                match window.take(word, now_ns) {
                    Ok(new) => word = new,
                    Err(empty) => break empty,
                }
            };
            let at_ns = now_ns + refused.retry_after_ns;
            prop_assert!(window.take(word, at_ns).is_ok(), "{refused:?}");
            prop_assert!(refused.retry_after_ns == 1000 || window.take(word, at_ns - 2000).is_err(), "{refused:?}");
        }
    }
}
