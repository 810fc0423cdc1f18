//! Weighted turns: in each cycle of as many turns as the weights add up to, everybody has exactly
//! as many as its weight, and they are spread evenly.
//!
//! The k-th turn of a candidate with weight w lies at (2k-1)/2w of the cycle; the earliest place
//! is next. That is apportionment by Webster's method, which favours neither large nor small
//! weights. Places are compared as fractions of whole numbers, so no error adds up.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

#[derive(Debug, Clone)]
pub(crate) struct Turns {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Equal { len: usize, next: usize },
    Weighted(BinaryHeap<Reverse<Place>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    cycle: u64,
    /// 2k-1 for the k-th turn of this cycle.
    odd: u64,
    weight: u64,
    index: usize,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cycle
            .cmp(&other.cycle)
            .then_with(|| (self.odd * other.weight).cmp(&(other.odd * self.weight)))
            .then_with(|| self.index.cmp(&other.index))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Turns {
    /// `weights` are positive and not empty.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let kind = if equal {
            Kind::Equal { len: weights.len(), next: 0 }
        } else {
            let divisor = weights.iter().fold(0, |divisor, weight| common_divisor(divisor, *weight)).max(1);
            let place = |(index, weight): (usize, &u32)| {
                Reverse(Place { cycle: 0, odd: 1, weight: u64::from(weight / divisor), index })
            };
            Kind::Weighted(weights.iter().enumerate().map(place).collect())
        };
        Self { kind }
    }

    /// Whose turn it is; the turn is then over. Constant for equal weights, else logarithmic.
    #[inline]
    pub(crate) fn take(&mut self) -> usize {
        match &mut self.kind {
            Kind::Equal { len, next } => {
                let index = *next;
                *next = if index + 1 >= *len { 0 } else { index + 1 };
                index
            }
            Kind::Weighted(places) => {
                let Some(mut first) = places.peek_mut() else {
                    return 0;
                };
                let Reverse(place) = &mut *first;
                let index = place.index;
                place.odd += 2;
                if place.odd > 2 * place.weight {
                    place.odd = 1;
                    place.cycle += 1;
                }
                index
            }
        }
    }
}

fn common_divisor(mut left: u32, mut right: u32) -> u32 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(weights: &[u32], count: usize) -> Vec<usize> {
        let mut turns = Turns::new(weights);
        (0..count).map(|_| turns.take()).collect()
    }

    #[test]
    fn heavy_one_is_not_served_in_a_row() {
        assert_eq!(sequence(&[4, 1, 1], 6), [0, 0, 1, 2, 0, 0]);
        assert_eq!(sequence(&[7, 7, 7], 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    proptest! {
        #[test]
        fn every_cycle_is_exact(weights in proptest::collection::vec(1_u32..=60, 1..12), cycles in 1_usize..4) {
            let divisor = weights.iter().fold(0, |divisor, weight| common_divisor(divisor, *weight));
            let cycle: u32 = weights.iter().sum::<u32>() / divisor;
            let all = sequence(&weights, cycle as usize * cycles);
            for turns in all.chunks(cycle as usize) {
                for (index, weight) in weights.iter().enumerate() {
                    let count = turns.iter().filter(|turn| **turn == index).count();
                    prop_assert_eq!(count as u32, weight / divisor);
                }
            }
        }

        /// After any number of turns, nobody is further from its fair share than a few turns.
        #[test]
        fn spread_is_even(weights in proptest::collection::vec(1_u32..=60, 2..12)) {
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0_i64; weights.len()];
            for (done, index) in sequence(&weights, total as usize).into_iter().enumerate() {
                counts[index] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let fair = (done as i64 + 1) * i64::from(*weight);
                    let distance = (count * i64::from(total) - fair).abs();
                    prop_assert!(distance <= i64::from(total) * weights.len() as i64 / 2 + i64::from(total));
                }
            }
        }
    }
}
