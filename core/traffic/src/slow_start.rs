//! A server that came back gets its weight little by little: caches are cold, pools are empty.

use crate::limits::SLOW_START_FLOOR_PERCENT;

/// The share of its weight that a server has `age_ms` after it came back, in percent: from
/// [`SLOW_START_FLOOR_PERCENT`], rising evenly, to 100 after `ramp_ms`. A ramp of zero is over at once.
pub fn weight_percent(age_ms: u64, ramp_ms: u64) -> u32 {
    if age_ms >= ramp_ms {
        return 100;
    }
    let rise = u64::from(100 - SLOW_START_FLOOR_PERCENT);
    // Below 100, because the age is below the ramp.
    SLOW_START_FLOOR_PERCENT + (u128::from(rise) * u128::from(age_ms) / u128::from(ramp_ms)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn from_a_tenth_to_all() {
        assert_eq!(weight_percent(0, 30_000), 10);
        assert_eq!(weight_percent(15_000, 30_000), 55);
        assert_eq!(weight_percent(30_000, 30_000), 100);
        assert_eq!(weight_percent(0, 0), 100);
    }

    proptest! {
        #[test]
        fn never_falls(age_ms: u64, more_ms: u64, ramp_ms: u64) {
            let later = weight_percent(age_ms.saturating_add(more_ms), ramp_ms);
            prop_assert!(weight_percent(age_ms, ramp_ms) <= later && later <= 100);
        }
    }
}
