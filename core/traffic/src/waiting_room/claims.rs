//! One bit for each number from some number on.

use std::collections::VecDeque;

const WORD_BITS: u64 = 64;

/// Bits of the numbers that were added and not forgotten. All others read as not set.
#[derive(Debug, Default)]
pub(super) struct Claims {
    words: VecDeque<u64>,
    /// Of the first word: number / 64.
    first: u64,
}

impl Claims {
    /// Makes room up to this number.
    pub(super) fn add(&mut self, number: u64) {
        let word = number / WORD_BITS;
        if self.words.is_empty() {
            self.first = word;
        }
        while self.first + (self.words.len() as u64) <= word {
            self.words.push_back(0);
        }
    }

    /// Drops the words that lie below or at this number as a whole.
    pub(super) fn forget_up_to(&mut self, number: u64) {
        while (self.first + 1) * WORD_BITS <= number + 1 && self.words.pop_front().is_some() {
            self.first += 1;
        }
        if self.words.capacity() > 4 * self.words.len() + 1024 {
            self.words.shrink_to(2 * self.words.len());
        }
    }

    pub(super) fn set(&mut self, number: u64) {
        let place = (number / WORD_BITS).checked_sub(self.first);
        if let Some(word) = place.and_then(|place| self.words.get_mut(place as usize)) {
            *word |= 1 << (number % WORD_BITS);
        }
    }

    pub(super) fn is_set(&self, number: u64) -> bool {
        self.word(number / WORD_BITS) & 1 << (number % WORD_BITS) != 0
    }

    /// How many numbers above `low` and up to `high` are not set.
    pub(super) fn count_unset(&self, low: u64, high: u64) -> u64 {
        let set: u64 = (low / WORD_BITS..=high / WORD_BITS).map(|at| self.between(at, low, high)).map(ones).sum();
        high.saturating_sub(low) - set
    }

    /// The word at `at`, of the numbers above `low` and up to `high` alone.
    fn between(&self, at: u64, low: u64, high: u64) -> u64 {
        let above = |number: u64| u64::MAX.checked_shl(number.wrapping_add(1) as u32).unwrap_or(0);
        let mut word = self.word(at);
        if low / WORD_BITS == at {
            word &= above(low % WORD_BITS);
        }
        if high / WORD_BITS == at {
            word &= !above(high % WORD_BITS);
        }
        word
    }

    /// The words of the numbers above `low` and up to `high`, and of no others; the first one's place.
    pub(super) fn cut(&self, low: u64, high: u64) -> (u64, Vec<u64>) {
        let first = low / WORD_BITS;
        (first, (first..=high / WORD_BITS).map(|at| self.between(at, low, high)).collect())
    }

    /// What [`Self::cut`] gave.
    pub(super) fn from_cut(first: u64, words: &[u64]) -> Self {
        Self { words: words.iter().copied().collect(), first }
    }

    fn word(&self, at: u64) -> u64 {
        let place = at.checked_sub(self.first);
        place.and_then(|place| self.words.get(usize::try_from(place).ok()?)).copied().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

fn ones(word: u64) -> u64 {
    u64::from(word.count_ones())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_set(
            start in 0_u64..1000,
            steps in proptest::collection::vec((0_u64..40, any::<bool>(), 0_u64..80), 1..200),
        ) {
            let (mut claims, mut set) = (Claims::default(), BTreeSet::new());
            let (mut highest, mut forgotten) = (start, start);
            for (ahead, is_set, back) in steps {
                for number in highest + 1..=highest + ahead {
                    claims.add(number);
                }
                highest += ahead;
                if is_set && highest > forgotten {
                    let number = highest - back.min(highest - forgotten - 1);
                    claims.set(number);
                    set.insert(number);
                } else {
                    forgotten = forgotten.max(highest.saturating_sub(back));
                    claims.forget_up_to(forgotten);
                }
                for (low, high) in [(forgotten, highest), (highest.saturating_sub(back).max(forgotten), highest)] {
                    let unset = (low + 1..=high).filter(|number| !set.contains(number)).count() as u64;
                    prop_assert_eq!(claims.count_unset(low, high), unset);
                    let (first, words) = claims.cut(low, high);
                    let again = Claims::from_cut(first, &words);
                    prop_assert!((low + 1..=high).all(|number| again.is_set(number) == set.contains(&number)));
                    prop_assert!(!again.is_set(low));
                }
            }
        }
    }
}
