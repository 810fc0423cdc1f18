//! The lookup table of "Maglev: A Fast and Reliable Software Network Load Balancer" (Eisenbud et
//! al., NSDI 2016, section 3.4), with weights: a candidate with half of the largest weight takes
//! a turn in every second round.

use crate::balance::Candidate;
use crate::key::{mix, scale};
use crate::limits::{MAGLEV_ENTRIES_PER_CANDIDATE, MAGLEV_SIZES};

const SKIP_SALT: u64 = 0x9e37_79b9_7f4a_7c15;
const EMPTY: u16 = u16::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Table {
    entries: Vec<u16>,
}

/// One candidate while the table is filled: where in its permutation it is, and its turns so far.
struct Filler {
    index: u16,
    weight: u64,
    position: usize,
    skip: usize,
    turns: u64,
}

impl Table {
    /// `size_for` is the number of candidates that the table's size is chosen by: all that may
    /// ever come and go, so that a candidate that is away does not change the size, which would
    /// move most keys.
    pub(crate) fn new(candidates: &[Candidate], size_for: usize) -> Self {
        let wanted = size_for.max(candidates.len()) * MAGLEV_ENTRIES_PER_CANDIDATE;
        let largest = MAGLEV_SIZES[MAGLEV_SIZES.len() - 1];
        let size = MAGLEV_SIZES.iter().copied().find(|size| *size >= wanted).unwrap_or(largest);
        let mut fillers: Vec<Filler> =
            candidates.iter().enumerate().map(|(index, candidate)| filler(index, candidate, size)).collect();
        // The order of turns must not depend on the order in the file, so that gateways agree.
        fillers.sort_by_key(|filler| candidates[usize::from(filler.index)].identity);
        Self { entries: fill(&mut fillers, size) }
    }

    /// The candidate's index for `key`.
    #[inline]
    pub(crate) fn look_up(&self, key: u64) -> usize {
        self.entries.get(scale(key, self.entries.len())).map_or(0, |entry| usize::from(*entry))
    }

    #[cfg(test)]
    fn entries(&self) -> &[u16] {
        &self.entries
    }
}

fn filler(index: usize, candidate: &Candidate, size: usize) -> Filler {
    let offset = mix(candidate.identity) % size as u64;
    let skip = mix(candidate.identity ^ SKIP_SALT) % (size as u64 - 1) + 1;
    Filler {
        index: index as u16,
        weight: u64::from(candidate.weight_hundredths),
        position: offset as usize,
        skip: skip as usize,
        turns: 0,
    }
}

fn fill(fillers: &mut [Filler], size: usize) -> Vec<u16> {
    let mut entries = vec![EMPTY; size];
    let heaviest = fillers.iter().map(|filler| filler.weight).max().unwrap_or_default();
    if heaviest == 0 {
        return Vec::new();
    }
    let mut filled = 0;
    // Each round gives the heaviest candidate a turn, so there are at most `size` rounds.
    for round in 1_u64.. {
        for filler in fillers.iter_mut() {
            if round * filler.weight < (filler.turns + 1) * heaviest {
                continue;
            }
            filler.turns += 1;
            // The size is prime, so the steps visit every entry, and one is still empty.
            while entries[filler.position] != EMPTY {
                filler.position = step(filler.position, filler.skip, size);
            }
            entries[filler.position] = filler.index;
            filled += 1;
            if filled == size {
                return entries;
            }
        }
    }
    entries
}

fn step(position: usize, skip: usize, size: usize) -> usize {
    let next = position + skip;
    if next >= size { next - size } else { next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::key_of;

    fn candidate(name: &str, weight: u32) -> Candidate {
        Candidate { weight_hundredths: weight * 100, identity: key_of(name.as_bytes()) }
    }

    fn candidates(weights: &[u32], seed: u32) -> Vec<Candidate> {
        let named = |(number, weight): (usize, &u32)| candidate(&format!("10.{seed}.0.{number}:80"), *weight);
        weights.iter().enumerate().map(named).collect()
    }

    fn count(table: &Table, index: usize) -> usize {
        table.entries().iter().filter(|entry| usize::from(**entry) == index).count()
    }

    #[test]
    fn sizes_are_primes() {
        for size in MAGLEV_SIZES {
            assert!((2..size).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0));
        }
    }

    #[test]
    fn order_in_the_file_does_not_matter() {
        let mut servers = candidates(&[3, 1, 2, 2], 0);
        let table = Table::new(&servers, 4);
        let before: Vec<u64> = (0..1000).map(|key| servers[table.look_up(mix(key))].identity).collect();
        servers.reverse();
        let table = Table::new(&servers, 4);
        let after: Vec<u64> = (0..1000).map(|key| servers[table.look_up(mix(key))].identity).collect();
        assert_eq!(before, after);
    }

    proptest! {
        #[test]
        fn equal_weights_differ_by_one_entry(number in 1_usize..60, seed in 0_u32..200) {
            let servers = candidates(&vec![1; number], seed);
            let table = Table::new(&servers, number);
            let counts: Vec<usize> = (0..number).map(|index| count(&table, index)).collect();
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            prop_assert!(spread <= 1);
        }

        #[test]
        fn weights_are_kept(weights in proptest::collection::vec(1_u32..=10, 1..20), seed in 0_u32..200) {
            let servers = candidates(&weights, seed);
            let table = Table::new(&servers, weights.len());
            let total: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let fair = table.entries().len() as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((count(&table, index) as f64 - fair).abs() <= 2.0 + fair * 0.01);
            }
        }
    }

    /// The share of entries, in percent, that move between two servers that both stay when the
    /// server `gone` leaves.
    fn moved_percent(number: usize, gone: usize, seed: u32) -> usize {
        let servers = candidates(&vec![1; number], seed);
        let full = Table::new(&servers, number);
        let mut rest = servers.clone();
        rest.remove(gone);
        let less = Table::new(&rest, number);
        let both = full.entries().iter().zip(less.entries());
        let moved = both.filter(|(before, after)| {
            let (before, after) = (usize::from(**before), usize::from(**after));
            before != gone && servers[before].identity != rest[after].identity
        });
        moved.count() * 100 / full.entries().len()
    }

    /// A server that leaves moves its own keys and few others. Two permutations whose skips are in
    /// a simple ratio collide often, so a single pool may fare worse than most.
    #[test]
    fn disruption_is_small() {
        for number in [2, 3, 4, 10, 40] {
            let each: Vec<usize> = (0..200).map(|seed| moved_percent(number, seed as usize % number, seed)).collect();
            let mean = each.iter().sum::<usize>() / each.len();
            let worst = each.iter().max().copied().unwrap_or_default();
            assert!(mean <= 4 && worst <= 25, "{number} servers: mean {mean} %, worst {worst} %");
        }
    }

    /// The bounds of the Maglev paper (section 5.3) from one server to a thousand.
    #[test]
    fn balance_and_disruption_hold_up_to_a_thousand_servers() {
        for number in (1..=1000_usize).step_by(27).chain([1000]) {
            let servers = candidates(&vec![1; number], number as u32);
            let table = Table::new(&servers, number);
            let mut counts = vec![0_usize; number];
            table.entries().iter().for_each(|entry| counts[usize::from(*entry)] += 1);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{number} servers: {least} to {most} entries");
            if number > 1 {
                let each: Vec<usize> =
                    (0..8).map(|seed| moved_percent(number, seed as usize * 131 % number, seed)).collect();
                let mean = each.iter().sum::<usize>() / each.len();
                assert!(mean <= 4, "{number} servers: {each:?} %");
            }
        }
    }
}
