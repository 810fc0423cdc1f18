//! Clocks.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds: never steps, counts from boot. Costs about 20 ns (vDSO).
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CLOCK_MONOTONIC as of the last timer tick, in nanoseconds: 1 to 4 ms old, about a quarter of
/// the price. For deadlines, not for latencies.
pub fn monotonic_coarse_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::MonotonicCoarse))
}

/// Milliseconds of CLOCK_MONOTONIC.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// Nanoseconds since 1970-01-01 UTC; steps when somebody sets the clock.
pub fn wall_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// A time before the clock's zero counts as zero; 2^64 ns are 584 years.
fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_the_coarse_clock_is_behind() {
        let coarse = monotonic_coarse_ns();
        let first = monotonic_ns();
        let second = monotonic_ns();
        assert!(coarse <= first && first <= second);
        assert!(monotonic_ms() >= first / 1_000_000);
    }

    #[test]
    fn wall_time_is_after_this_was_written() {
        assert!(wall_ns() > 1_700_000_000 * 1_000_000_000);
    }
}
