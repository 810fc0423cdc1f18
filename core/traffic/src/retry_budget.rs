//! How many retries the requests of the last seconds have earned.
//!
//! Two parts, so that they can live in different places: the share of requests is counted by each
//! worker for itself (what holds for each, holds for the sum), the floor per second is one number
//! that all workers share.

use crate::limits::RETRY_WINDOW_S;

/// Retries as a share of the requests of the last ten seconds.
#[derive(Debug, Clone, Default)]
pub struct RetryShare {
    /// One bucket a second; `second % RETRY_WINDOW_S` is its place.
    buckets: [Bucket; RETRY_WINDOW_S],
    second: u64,
    requests: u64,
    retries: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    requests: u32,
    retries: u32,
}

impl RetryShare {
    /// Counts one request (its first try).
    #[inline]
    pub fn note_request(&mut self, now_ms: u64) {
        let bucket = self.bucket(now_ms);
        bucket.requests = bucket.requests.saturating_add(1);
        self.requests += 1;
        self.check_invariants();
    }

    /// Takes one retry if the requests of the window have earned it.
    pub fn take_retry(&mut self, now_ms: u64, percent: u8) -> bool {
        self.bucket(now_ms);
        if (self.retries + 1) * 100 > self.requests * u64::from(percent) {
            return false;
        }
        let bucket = self.bucket(now_ms);
        bucket.retries = bucket.retries.saturating_add(1);
        self.retries += 1;
        self.check_invariants();
        true
    }

    /// The bucket of this second; what is older than the window is forgotten on the way.
    #[inline]
    fn bucket(&mut self, now_ms: u64) -> &mut Bucket {
        let second = now_ms / 1000;
        if second > self.second {
            self.advance(second);
        }
        &mut self.buckets[(self.second % RETRY_WINDOW_S as u64) as usize]
    }

    #[cold]
    fn advance(&mut self, second: u64) {
        let passed = (second - self.second).min(RETRY_WINDOW_S as u64);
        for step in 1..=passed {
            let place = ((self.second + step) % RETRY_WINDOW_S as u64) as usize;
            self.buckets[place] = Bucket::default();
        }
        self.second = second;
        self.requests = self.buckets.iter().map(|bucket| u64::from(bucket.requests)).sum();
        self.retries = self.buckets.iter().map(|bucket| u64::from(bucket.retries)).sum();
    }

    fn check_invariants(&self) {
        debug_assert!(self.buckets.iter().map(|bucket| u64::from(bucket.retries)).sum::<u64>() <= self.retries);
        debug_assert!(self.buckets.iter().map(|bucket| u64::from(bucket.requests)).sum::<u64>() <= self.requests);
    }
}

/// The floor: `state` is the second (upper half) and the retries taken in it (lower half), zero
/// before the first. Returns the state after one more retry, `None` if this second has no more.
/// Made for a compare-and-swap loop on one shared word.
pub fn take_floor(state: u64, now_ms: u64, floor_per_second: u32) -> Option<u64> {
    let second = (now_ms / 1000) & 0xffff_ffff;
    let (state_second, taken) = (state >> 32, state & 0xffff_ffff);
    let taken = if state_second == second { taken } else { 0 };
    (taken < u64::from(floor_per_second)).then_some((second << 32) | (taken + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_requests() {
        let mut share = RetryShare::default();
        assert!(!share.take_retry(1_000, 20));
        for _ in 0..10 {
            share.note_request(1_000);
        }
        assert!(share.take_retry(1_500, 20));
        assert!(share.take_retry(10_900, 20));
        assert!(!share.take_retry(10_900, 20));
        // The requests are too old now.
        assert!(!share.take_retry(11_000, 20));
    }

    #[test]
    fn floor_is_per_second() {
        let mut state = 0;
        for _ in 0..3 {
            state = take_floor(state, 5_999, 3).unwrap();
        }
        assert_eq!(take_floor(state, 5_999, 3), None);
        assert!(take_floor(state, 6_000, 3).is_some());
        assert_eq!(take_floor(0, 0, 0), None);
    }

    proptest! {
        /// Whatever comes when, the window never holds more retries than it has earned.
        #[test]
        fn never_exceeded(
            events in proptest::collection::vec((0_u64..900, any::<bool>()), 1..400),
            percent in 0_u8..=100,
        ) {
            let mut share = RetryShare::default();
            let mut now_ms = 0;
            let mut log: Vec<(u64, bool)> = Vec::new();
            for (pause_ms, is_retry) in events {
                now_ms += pause_ms;
                if is_retry {
                    if share.take_retry(now_ms, percent) {
                        log.push((now_ms / 1000, true));
                        let window = log.iter().filter(|(second, _)| second + RETRY_WINDOW_S as u64 > now_ms / 1000);
                        let (retries, requests): (Vec<_>, Vec<_>) = window.copied().partition(|(_, retry): &(u64, bool)| *retry);
                        prop_assert!(retries.len() * 100 <= requests.len() * usize::from(percent));
                    }
                } else {
                    share.note_request(now_ms);
                    log.push((now_ms / 1000, false));
                }
            }
        }
    }
}
