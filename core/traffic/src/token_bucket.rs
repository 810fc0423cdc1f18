//! A token bucket whose whole state is one number, so that it can live in one atomic: the time
//! when the bucket will be full again (the generic cell rate algorithm, ITU-T I.371).

/// So many tokens in a period, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time for one token, in nanoseconds; at least 1.
    token_ns: u64,
    /// Size of the bucket, as the time it takes to fill it.
    burst_ns: u64,
}

/// One request more than the bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// After this time there is a token, if nobody else takes it.
    pub retry_after_ns: u64,
}

impl Rate {
    /// `tokens` each `period_ns`, at most `burst` at once; zeros count as one.
    pub fn new(tokens: u64, period_ns: u64, burst: u64) -> Self {
        let token_ns = (period_ns / tokens.max(1)).max(1);
        Self { token_ns, burst_ns: token_ns.saturating_mul(burst.max(1)) }
    }

    /// Takes one token at `now_ns`. `full_at_ns` is the state, zero for a full bucket; returns
    /// the new state.
    ///
    /// # Errors
    /// The bucket is empty; the state stays as it is.
    pub fn take(&self, full_at_ns: u64, now_ns: u64) -> Result<u64, Empty> {
        let full_at_ns = full_at_ns.max(now_ns).saturating_add(self.token_ns);
        let missing_ns = full_at_ns - now_ns;
        if missing_ns > self.burst_ns {
            return Err(Empty { retry_after_ns: missing_ns - self.burst_ns });
        }
        Ok(full_at_ns)
    }

    /// How long it takes to earn so many tokens, in nanoseconds.
    #[must_use]
    pub fn time_of(&self, tokens: u64) -> u64 {
        self.token_ns.saturating_mul(tokens)
    }

    /// How long an empty bucket takes to fill, in nanoseconds.
    #[must_use]
    pub fn burst_ns(&self) -> u64 {
        self.burst_ns
    }

    /// Tokens that are there at `now_ns`.
    #[must_use]
    pub fn left(&self, full_at_ns: u64, now_ns: u64) -> u64 {
        self.burst_ns.saturating_sub(full_at_ns.saturating_sub(now_ns)) / self.token_ns
    }

    /// Takes back one token that [`Self::take`] has taken just now.
    #[must_use]
    pub fn give_back(&self, full_at_ns: u64) -> u64 {
        full_at_ns.saturating_sub(self.token_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn burst_then_rate() {
        let rate = Rate::new(10, SECOND_NS, 3);
        let mut state = 0;
        for _ in 0..3 {
            state = rate.take(state, SECOND_NS).unwrap();
        }
        assert_eq!(rate.take(state, SECOND_NS), Err(Empty { retry_after_ns: SECOND_NS / 10 }));
        assert!(rate.take(state, SECOND_NS + SECOND_NS / 10).is_ok());
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            tokens in 1_u64..50, burst in 1_u64..20,
            pauses_ns in proptest::collection::vec(0_u64..SECOND_NS / 5, 1..300),
        ) {
            let rate = Rate::new(tokens, SECOND_NS, burst);
            let (mut state, mut now_ns, mut taken) = (0, SECOND_NS, 0_u64);
            for pause_ns in pauses_ns {
                now_ns += pause_ns;
                if let Ok(new) = rate.take(state, now_ns) {
                    state = new;
                    taken += 1;
                }
                let earned = burst + (now_ns - SECOND_NS) / (SECOND_NS / tokens);
                prop_assert!(taken <= earned);
            }
        }
    }
}
