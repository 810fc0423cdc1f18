//! A draw by weight in two table reads: Walker's alias method ("An Efficient Method for
//! Generating Discrete Random Variables with General Distributions", 1977), built in linear time
//! as M. D. Vose showed in 1991; in whole numbers, so that nothing is lost to rounding.

use crate::key::scale;

/// Weighted draw over `0..len`.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    len: usize,
    /// Empty where all weights are equal.
    columns: Vec<Column>,
    total_weight: u32,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// A coin in `0..total_weight` below this keeps the column, else the alias is taken.
    keep: u32,
    alias: u32,
}

impl Draw {
    /// `weights` are positive, and add up within 32 bits.
    pub(crate) fn new(weights: &[u32]) -> Self {
        let total_weight = weights.iter().sum();
        let len = weights.len();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        if equal {
            return Self { len, columns: Vec::new(), total_weight };
        }
        let mut columns = vec![Column { keep: total_weight, alias: 0 }; len];
        let mut shares: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * len as u64).collect();
        let full = u64::from(total_weight);
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..len).partition(|index| shares[*index] < full);
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            columns[poor] = Column { keep: shares[poor] as u32, alias: rich as u32 };
            shares[rich] -= full - shares[poor];
            if shares[rich] < full {
                large.pop();
                small.push(rich);
            }
        }
        Self { len, columns, total_weight }
    }

    /// An index; the high half of `random` chooses the column, the low half throws the coin.
    #[inline]
    pub(crate) fn take(&self, random: u64) -> usize {
        let index = scale(random, self.len);
        let Some(column) = self.columns.get(index) else {
            return index;
        };
        let coin = ((random & 0xffff_ffff) * u64::from(self.total_weight)) >> 32;
        if coin < u64::from(column.keep) { index } else { column.alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each index owns exactly its share of all columns and coins.
        #[test]
        fn shares_are_exact(weights in proptest::collection::vec(1_u32..=1000, 1..40)) {
            let draw = Draw::new(&weights);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut owned = vec![0_u64; weights.len()];
            for index in 0..weights.len() {
                match draw.columns.get(index) {
                    Some(column) => {
                        owned[index] += u64::from(column.keep);
                        owned[column.alias as usize] += total - u64::from(column.keep);
                    }
                    None => owned[index] += total,
                }
            }
            let count = weights.len() as u64;
            for (own, weight) in owned.iter().zip(&weights) {
                prop_assert_eq!(*own, u64::from(*weight) * count);
            }
        }

        #[test]
        fn stays_inside(weights in proptest::collection::vec(1_u32..=100_000, 1..40), random: u64) {
            prop_assert!(Draw::new(&weights).take(random) < weights.len());
        }
    }
}
