//! Token buckets of very many keys in a table of fixed size.

use crate::limiter::{Counted, Quota};
use crate::token_bucket::{Empty, Rate};

/// Buckets by key, all with the same rate. Threads share them without a lock.
#[derive(Debug)]
pub struct Rates {
    rate: Rate,
    counted: Counted,
}

impl Rates {
    /// For `keys` keys at once; 21 bytes each as they come.
    #[must_use]
    pub fn new(rate: Rate, keys: usize) -> Self {
        Self { rate, counted: Counted::new(keys) }
    }

    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token of this key.
    ///
    /// # Errors
    /// Its bucket is empty.
    pub fn take(&self, key: u64, now_ns: u64) -> Result<(), Empty> {
        Quota::Bucket(self.rate).take(&self.counted, key, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn each_key_has_its_own_bucket() {
        let rates = Rates::new(Rate::new(10, SECOND_NS, 3), 1000);
        for key in 0..100 {
            let taken = (0..9).filter(|_| rates.take(key, SECOND_NS).is_ok()).count();
            assert_eq!(taken, 3, "key {key}");
        }
        assert!(rates.take(1, SECOND_NS + SECOND_NS / 10).is_ok());
    }

    #[test]
    fn the_least_active_is_forgotten_first() {
        let rates = Rates::new(Rate::new(1, SECOND_NS, 5), 1);
        // Nine keys in eight places; the first one has taken the most, so it stays known.
        for _ in 0..5 {
            rates.take(1, SECOND_NS).unwrap();
        }
        for key in 2..=9 {
            rates.take(key, SECOND_NS).unwrap();
        }
        assert!(rates.take(1, SECOND_NS).is_err());
    }

    #[test]
    fn threads_do_not_let_much_more_through() {
        let rates = Rates::new(Rate::new(1000, SECOND_NS, 1000), 4096);
        let passed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| rates.take(7, SECOND_NS).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert!((1000..=1050).contains(&passed), "{passed}");
    }
}
