//! How many bytes may go now: a bandwidth that several share, smooth over a tenth of a second.
//!
//! The state is one number, the time at which all that has gone would have gone at the bandwidth; so it
//! lives in one atomic and needs no lock (the generic cell rate algorithm, as `token_bucket`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::keyed::Words;

/// What may go at once after a rest: as much as goes in this time.
const BURST_NS: u64 = 100_000_000;

/// Less than what goes in this time is not worth going for: it would be a system call for a few bytes.
const LEAST_NS: u64 = BURST_NS / 4;

const SECOND_NS: u64 = 1_000_000_000;

/// A bandwidth in bytes a second.
#[derive(Debug)]
pub struct Pacer {
    bandwidth: Bandwidth,
    /// When what has gone is paid for.
    paid_at_ns: AtomicU64,
}

/// The same bandwidth for each of many keys, in a table of fixed size.
#[derive(Debug)]
pub struct Pacers {
    bandwidth: Bandwidth,
    paid_at_ns: Words,
}

/// Bytes a second, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bandwidth(u64);

impl Bandwidth {
    fn allows(self, paid_at_ns: u64, now_ns: u64) -> u64 {
        let owed_ns = paid_at_ns.saturating_sub(now_ns);
        let free_ns = BURST_NS.saturating_sub(owed_ns);
        if free_ns < LEAST_NS {
            return 0;
        }
        let bytes = u128::from(free_ns) * u128::from(self.0) / u128::from(SECOND_NS);
        // At least one byte a burst, however slow.
        let least = u64::from(free_ns == BURST_NS);
        u64::try_from(bytes).unwrap_or(u64::MAX).max(least)
    }

    fn note(self, paid_at_ns: &AtomicU64, bytes: u64, now_ns: u64) {
        let cost = (u128::from(bytes) * u128::from(SECOND_NS)).div_ceil(u128::from(self.0));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let pay = |paid_at: u64| Some(paid_at.max(now_ns).saturating_add(cost));
        // It never refuses.
        paid_at_ns.fetch_update(Relaxed, Relaxed, pay).ok();
    }
}

impl Pacer {
    /// 0 counts as 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bandwidth: Bandwidth(bytes_per_second.max(1)), paid_at_ns: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bandwidth.0
    }

    /// How many bytes may go now; 0: none before some of those that went are paid for.
    #[must_use]
    pub fn allows(&self, now_ns: u64) -> u64 {
        self.bandwidth.allows(self.paid_at_ns.load(Relaxed), now_ns)
    }

    /// So many bytes have gone. More than was allowed is paid for later.
    pub fn note(&self, bytes: u64, now_ns: u64) {
        self.bandwidth.note(&self.paid_at_ns, bytes, now_ns);
    }
}

impl Pacers {
    /// For `keys` keys at once; 21 bytes each as they come. 0 bytes count as 1.
    #[must_use]
    pub fn new(bytes_per_second: u64, keys: usize) -> Self {
        Self { bandwidth: Bandwidth(bytes_per_second.max(1)), paid_at_ns: Words::new(keys) }
    }

    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bandwidth.0
    }

    /// As [`Pacer::allows`], of one key.
    #[must_use]
    pub fn allows(&self, key: u64, now_ns: u64) -> u64 {
        let paid_at_ns = self.paid_at_ns.known(key).map_or(0, |paid_at_ns| paid_at_ns.load(Relaxed));
        self.bandwidth.allows(paid_at_ns, now_ns)
    }

    /// As [`Pacer::note`], of one key.
    pub fn note(&self, key: u64, bytes: u64, now_ns: u64) {
        let paid_at_ns = self.paid_at_ns.of(key, |paid_at_ns| paid_at_ns.saturating_sub(now_ns));
        self.bandwidth.note(paid_at_ns, bytes, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tenth_of_a_second_at_once() {
        let pacer = Pacer::new(1000);
        assert_eq!(pacer.allows(SECOND_NS), 100);
        pacer.note(100, SECOND_NS);
        assert_eq!(pacer.allows(SECOND_NS), 0);
        assert_eq!(pacer.allows(SECOND_NS + SECOND_NS / 20), 50);
        pacer.note(1000, SECOND_NS);
        assert_eq!(pacer.allows(2 * SECOND_NS), 0);
        assert_eq!(pacer.allows(9 * SECOND_NS), 100);
        assert_eq!(Pacer::new(1).allows(SECOND_NS), 1);
    }

    proptest! {
        /// Whoever takes what is allowed gets the bandwidth, within one burst.
        #[test]
        fn the_bandwidth_is_kept(
            bytes_per_second in 100_u64..1_000_000_000, pauses_ms in proptest::collection::vec(1_u64..200, 10..200),
        ) {
            let pacer = Pacer::new(bytes_per_second);
            let (mut now_ns, mut gone) = (SECOND_NS, 0_u64);
            for pause_ms in pauses_ms {
                let bytes = pacer.allows(now_ns);
                pacer.note(bytes, now_ns);
                gone += bytes;
                let most = (now_ns - SECOND_NS + BURST_NS) as u128 * u128::from(bytes_per_second) / u128::from(SECOND_NS);
                prop_assert!(u128::from(gone) <= most + 1, "{gone} of {most}");
                now_ns += pause_ms * 1_000_000;
            }
        }
    }
}
