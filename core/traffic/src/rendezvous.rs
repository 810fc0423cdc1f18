//! Rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates",
//! 1998) with weights, and within a bound of load (Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent Hashing with Bounded Loads", 2018).
//!
//! Each key gives each candidate a score; the highest wins. A candidate that leaves gives up its
//! own keys and moves no other. Linear in the candidates, without a table to build.

use crate::balance::Candidate;
use crate::key::mix;
use crate::limits::{HASH_LOAD_FLOOR, HASH_LOAD_PERCENT};

/// The best candidate for `key` that may take more load; else the best usable one.
pub(crate) fn pick(
    candidates: &[Candidate],
    total_weight: u64,
    key: u64,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let in_flight: u64 = (0..candidates.len()).filter_map(&load).map(u64::from).sum();
    let mut within: Option<(f64, usize)> = None;
    let mut beyond: Option<(f64, usize)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let Some(own) = load(index) else { continue };
        let score = score(key, candidate);
        let share = (in_flight + 1) * u64::from(candidate.weight_hundredths) * HASH_LOAD_PERCENT;
        let bound = share.div_ceil(total_weight * 100).max(HASH_LOAD_FLOOR);
        let best = if u64::from(own) < bound { &mut within } else { &mut beyond };
        if best.is_none_or(|(highest, _)| score > highest) {
            *best = Some((score, index));
        }
    }
    within.or(beyond).map(|(_, index)| index)
}

/// An exponentially distributed number with the weight as its rate, negated: the chance to be
/// the highest is the share of the weight.
fn score(key: u64, candidate: &Candidate) -> f64 {
    let hash = mix(key ^ candidate.identity);
    // 53 bits, and a half so that the logarithm never sees zero.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    uniform.ln() / f64::from(candidate.weight_hundredths)
}
