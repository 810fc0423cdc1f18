//! Counters that one worker writes and anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts up. Only its worker may call `add`: a load and a store are then enough, and cost as
/// little as a plain integer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// For gauges that go down too.
    #[inline]
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of a latency histogram: two an octave, from 64 microseconds to 90 seconds.
pub const BUCKETS: usize = 42;
const FIRST_OCTAVE: u32 = 6;

/// Latencies in microseconds, in logarithmic buckets (an error of at most a third).
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Histogram {
    #[inline]
    pub fn record(&self, microseconds: u64) {
        self.buckets[bucket(microseconds)].increment();
        self.sum_us.add(microseconds);
    }

    /// Adds what has been counted to `total`.
    pub fn add_to(&self, total: &mut HistogramTotal) {
        for (sum, counter) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += counter.value();
        }
        total.sum_us += self.sum_us.value();
    }
}

/// The sum over workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramTotal {
    pub buckets: [u64; BUCKETS],
    pub sum_us: u64,
}

impl Default for HistogramTotal {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_us: 0 }
    }
}

impl HistogramTotal {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Upper bound, in microseconds, of the bucket that holds this share (0..=1) of all values.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper_bound_us(index);
            }
        }
        0
    }
}

#[inline]
fn bucket(microseconds: u64) -> usize {
    let octave = 63 - (microseconds | 1).leading_zeros();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let half = (microseconds >> (octave - 1)) & 1;
    (1 + (octave - FIRST_OCTAVE) as usize * 2 + half as usize).min(BUCKETS - 1)
}

/// Values of a bucket are below this many microseconds; the last bucket has no bound.
#[must_use]
pub fn upper_bound_us(index: usize) -> u64 {
    if index == 0 {
        return 1 << FIRST_OCTAVE;
    }
    let octave = FIRST_OCTAVE + ((index - 1) / 2) as u32;
    if (index - 1).is_multiple_of(2) { (1 << octave) + (1 << (octave - 1)) } else { 1 << (octave + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..2_000).chain((11..27).map(|power| 3 << power)) {
            let index = bucket(value);
            assert!(value < upper_bound_us(index) || index == BUCKETS - 1, "{value}");
            assert!(index == 0 || value >= upper_bound_us(index - 1), "{value}");
        }
    }

    #[test]
    fn quantiles() {
        let histogram = Histogram::default();
        for _ in 0..99 {
            histogram.record(100);
        }
        histogram.record(1_000_000);
        let mut total = HistogramTotal::default();
        histogram.add_to(&mut total);
        assert_eq!(total.count(), 100);
        assert_eq!(total.quantile_us(0.5), 128);
        assert!(total.quantile_us(1.0) > 1_000_000);
    }
}
