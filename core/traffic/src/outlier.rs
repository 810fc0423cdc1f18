//! Passive outlier detection: a server that fails live requests in a row is ejected for a while.

use crate::limits::EJECTIONS_MAX;

/// When and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row until ejection; 0 turns it off.
    pub failures: u32,
    /// The n-th ejection lasts n times this long.
    pub eject_ms: u64,
    pub eject_max_ms: u64,
    /// At most this share of the servers is ejected at once.
    pub max_ejected_percent: u8,
}

/// The ejections of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejections {
    /// How many are held against it.
    count: u32,
    until_ms: u64,
}

impl Ejections {
    /// Ejects from `now_ms` on; returns until when. Each full `eject_ms` since the end of the last
    /// ejection has taken one off the count.
    pub fn eject(&mut self, now_ms: u64, rules: &Rules) -> u64 {
        let good_ms = now_ms.saturating_sub(self.until_ms);
        let forgiven = good_ms.checked_div(rules.eject_ms).unwrap_or(u64::MAX);
        let count = u64::from(self.count).saturating_sub(forgiven) as u32;
        self.count = (count + 1).min(EJECTIONS_MAX);
        let length_ms =
            rules.eject_ms.saturating_mul(u64::from(self.count)).min(rules.eject_max_ms.max(rules.eject_ms));
        self.until_ms = now_ms.saturating_add(length_ms);
        self.until_ms
    }

    /// Goes on from what another process knew: how many are held against it, and when the last one
    /// ends or has ended.
    pub const fn resumed(count: u32, until_ms: u64) -> Self {
        Self { count: if count < EJECTIONS_MAX { count } else { EJECTIONS_MAX }, until_ms }
    }

    pub const fn count(&self) -> u32 {
        self.count
    }
}

/// Whether one more of `servers` may be ejected when `ejected` are, and `others_usable` besides it
/// could take its requests. One may always be, if the share is not zero; the last usable one never:
/// a server that often fails is better than none.
pub fn may_eject(ejected: usize, servers: usize, others_usable: usize, max_ejected_percent: u8) -> bool {
    if max_ejected_percent == 0 || others_usable == 0 {
        return false;
    }
    let most = (servers * usize::from(max_ejected_percent) / 100).max(1);
    ejected < most
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { failures: 5, eject_ms: 1000, eject_max_ms: 3500, max_ejected_percent: 50 };

    #[test]
    fn time_grows_to_a_maximum_and_is_forgiven() {
        let mut ejections = Ejections::default();
        assert_eq!(ejections.eject(10_000, &RULES), 11_000);
        assert_eq!(ejections.eject(11_000, &RULES), 13_000);
        assert_eq!(ejections.eject(13_500, &RULES), 16_500);
        assert_eq!(ejections.eject(16_500, &RULES), 20_000);
        assert_eq!(ejections.count(), 4);
        // Two good periods take two off, the new one adds one.
        assert_eq!(ejections.eject(22_100, &RULES), 25_100);
        assert_eq!(ejections.eject(90_000, &RULES), 91_000);
    }

    #[test]
    fn share_is_kept_and_the_last_one_stays() {
        assert!(may_eject(0, 2, 1, 10));
        assert!(!may_eject(1, 4, 3, 25));
        assert!(may_eject(1, 4, 3, 50));
        assert!(!may_eject(0, 1, 0, 100));
        assert!(!may_eject(1, 2, 0, 100));
        assert!(!may_eject(0, 9, 8, 0));
    }
}
