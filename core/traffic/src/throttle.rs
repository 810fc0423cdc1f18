//! Who of those that come is sent to servers which refuse most of what they get.
//!
//! A server that refuses pays for each refusal, and one that gets ten times what it can do may do nothing
//! else any more. So no more is sent than two times what was accepted lately: of the requests that come,
//! the share `max(0, (requests - 2 * accepts) / (requests + 1))` is turned away before a server sees it
//! (Beyer et al., "Site Reliability Engineering", 2016, chapter 21). There the window is two minutes and
//! each one draws for itself. Here it fades within seconds, because what was refused long ago would keep
//! the door shut behind an overload that has passed; and who goes is told by rank (`level`): the least
//! important first, and the same clients for a while.
//!
//! A request counts when it is about to be sent, and as accepted until it is known to be refused: servers
//! that are slow have refused nobody.

use crate::level::RANKS;
use crate::limits::{THROTTLE_FADE_MS, THROTTLE_LEAST, THROTTLE_PROBES, THROTTLE_RATIO};

/// Ranks below `rank` are sent, those behind it are not; of `rank` itself `share` in 65536 are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub rank: u16,
    pub share: u32,
}

/// All of a rank.
pub const WHOLE: u32 = 1 << 16;

impl Cut {
    /// Nobody is turned away.
    pub const NONE: Self = Self { rank: RANKS as u16, share: 0 };

    /// Whether a request of this very rank is sent: evenly spread, not drawn. `credit` is the sum of the
    /// shares of those before it.
    #[must_use]
    pub const fn takes(self, credit: u32) -> bool {
        credit % WHOLE + self.share >= WHOLE
    }
}

/// What came and what was refused in the last seconds.
#[derive(Debug)]
pub struct Throttle {
    arrived: [f64; RANKS],
    lost: f64,
    at_ms: u64,
}

impl Throttle {
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self { arrived: [0.0; RANKS], lost: 0.0, at_ms: now_ms }
    }

    /// Who is sent from now on, where `arrived` came of each rank since the last look, and `lost` of all
    /// were turned away or refused.
    pub fn look(&mut self, now_ms: u64, arrived: &[u32; RANKS], lost: u32) -> Cut {
        let passed_ms = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        let kept = (-(passed_ms as f64) / THROTTLE_FADE_MS as f64).exp();
        let mut requests = 0.0;
        for (sum, count) in self.arrived.iter_mut().zip(arrived) {
            *sum = *sum * kept + f64::from(*count);
            requests += *sum;
        }
        // Requests that began before anything was counted may be refused still.
        self.lost = (self.lost * kept + f64::from(lost)).min(requests);
        self.cut(requests)
    }

    fn cut(&self, requests: f64) -> Cut {
        let accepted = requests - self.lost;
        let sent = (THROTTLE_RATIO * accepted).max(THROTTLE_PROBES * requests) + 1.0;
        if requests < THROTTLE_LEAST || sent >= requests {
            return Cut::NONE;
        }
        let mut before = 0.0;
        for (rank, &count) in self.arrived.iter().enumerate() {
            if before + count > sent {
                // Between 0 and `WHOLE`; both are small.
                return Cut { rank: rank as u16, share: ((sent - before) / count * f64::from(WHOLE)) as u32 };
            }
            before += count;
        }
        Cut::NONE
    }

    /// Next to nothing was refused lately: there is no need to count.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lost < 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::rank;
    use crate::priority::Priority;

    const STEP_MS: u64 = 250;

    /// A service in virtual time: each step so many requests come of each rank, and the servers take so
    /// many of them, in the order in which they come.
    struct Service {
        throttle: Throttle,
        cut: Cut,
        now_ms: u64,
        arrived: [u32; RANKS],
        lost: u32,
        credit: u32,
    }

    #[derive(Debug, Default, Clone, PartialEq)]
    struct Step {
        sent: u32,
        accepted: u32,
        sent_by_rank: Vec<u32>,
    }

    impl Service {
        fn new() -> Self {
            Self { throttle: Throttle::new(0), cut: Cut::NONE, now_ms: 0, arrived: [0; RANKS], lost: 0, credit: 0 }
        }

        fn step(&mut self, offered: &[u32; RANKS], capacity: u32) -> Step {
            self.now_ms += STEP_MS;
            let sent_by_rank: Vec<u32> =
                offered.iter().enumerate().map(|(rank, count)| self.sent(rank, *count)).collect();
            let sent: u32 = sent_by_rank.iter().sum();
            let accepted = sent.min(capacity);
            self.arrived = *offered;
            self.lost = offered.iter().sum::<u32>() - accepted;
            self.cut = self.throttle.look(self.now_ms, &self.arrived, self.lost);
            Step { sent, accepted, sent_by_rank }
        }

        fn takes(&mut self) -> bool {
            let credit = self.credit;
            self.credit = credit.wrapping_add(self.cut.share);
            self.cut.takes(credit)
        }

        fn sent(&mut self, rank: usize, count: u32) -> u32 {
            match rank.cmp(&usize::from(self.cut.rank)) {
                std::cmp::Ordering::Less => count,
                std::cmp::Ordering::Equal => (0..count).filter(|_| self.takes()).count() as u32,
                std::cmp::Ordering::Greater => 0,
            }
        }
    }

    /// `count` requests of each rank of a priority.
    fn of(priority: Priority, count: u32) -> [u32; RANKS] {
        let mut offered = [0; RANKS];
        let size = crate::limits::LEVELS_PER_PRIORITY;
        offered[priority.index() * size..][..size].fill(count);
        offered
    }

    /// Steps of a quarter of a second until all are sent again.
    fn recovery(rate_per_step: u32, capacity_before: u32) -> u64 {
        let mut service = Service::new();
        let offered = of(Priority::Normal, rate_per_step / 128);
        for _ in 0..120 {
            service.step(&offered, capacity_before);
        }
        let all = offered.iter().sum::<u32>();
        let before = service.step(&offered, capacity_before).sent;
        assert!(before <= all / 40 + 2 * capacity_before + all / 100, "{before} of {all} were sent on");
        let start_ms = service.now_ms;
        while service.step(&offered, u32::MAX).sent < all {
            assert!(service.now_ms < start_ms + 60_000, "it stays shut");
        }
        service.now_ms - start_ms
    }

    #[test]
    fn behind_half_a_minute_of_refusals_all_are_back_within_seconds() {
        for rate in [128, 1280, 128_000] {
            let all_refused = recovery(rate, 0);

            assert!(all_refused <= 6_500, "{rate} a step: {all_refused} ms");
            let most_refused = recovery(rate, rate / 20);
            assert!(most_refused <= 4_000, "{rate} a step: {most_refused} ms");
        }
    }

    #[test]
    fn nothing_is_turned_away_while_half_is_accepted() {
        let mut service = Service::new();
        let offered = of(Priority::Normal, 10);
        for _ in 0..100 {
            let step = service.step(&offered, 640);
            assert_eq!(step.sent, 1280, "{step:?}");
        }
    }

    #[test]
    fn two_times_what_is_accepted_is_sent() {
        let mut service = Service::new();
        let offered = of(Priority::Normal, 10);
        for _ in 0..40 {
            service.step(&offered, 100);
        }
        for _ in 0..100 {
            let step = service.step(&offered, 100);
            assert_eq!(step.accepted, 100, "the servers have enough to do");
            assert!((190..=210).contains(&step.sent), "{}", step.sent);
        }
    }

    #[test]
    fn the_least_important_go_first_and_the_same_clients() {
        let mut service = Service::new();
        let mut offered = of(Priority::Normal, 1);
        for (rank, count) in of(Priority::Critical, 1).into_iter().enumerate() {
            offered[rank] += count;
        }
        for (rank, count) in of(Priority::Low, 1).into_iter().enumerate() {
            offered[rank] += count;
        }
        for _ in 0..40 {
            service.step(&offered, 100);
        }
        let steps: Vec<Step> = (0..20).map(|_| service.step(&offered, 100)).collect();
        let sent = |step: &Step, priority: Priority| -> u32 {
            step.sent_by_rank[priority.index() * 128..][..128].iter().sum()
        };
        for step in &steps {
            assert_eq!(sent(step, Priority::Critical), 128);
            assert!((60..=80).contains(&sent(step, Priority::Normal)), "{step:?}");
            assert_eq!(sent(step, Priority::Low), 0);
            let others = step.sent_by_rank.iter().zip(&steps[0].sent_by_rank).filter(|(now, first)| now != first);
            assert!(others.count() <= 4, "who is in stays in");
        }
        // Ranks are of clients.
        assert_eq!(rank(Priority::Low, 5, 1), rank(Priority::Low, 5, 1));
    }

    /// One client alone, such as another gateway, is not all in or all out.
    #[test]
    fn of_one_client_a_share_is_sent() {
        let mut service = Service::new();
        let mut offered = [0; RANKS];
        offered[300] = 1000;
        for _ in 0..40 {
            service.step(&offered, 100);
        }
        let step = service.step(&offered, 100);
        assert!((180..=220).contains(&step.sent), "{}", step.sent);
    }

    #[test]
    fn few_requests_are_never_turned_away_and_a_pause_forgets() {
        let mut service = Service::new();
        let mut offered = [0; RANKS];
        offered[0] = 1;
        for _ in 0..100 {
            assert_eq!(service.step(&offered, 0).sent, 1);
        }
        offered[0] = 100;
        for _ in 0..100 {
            service.step(&offered, 0);
        }
        assert!(!service.throttle.is_over());
        assert_ne!(service.cut, Cut::NONE);
        service.now_ms += 60_000;
        service.step(&[0; RANKS], 0);
        assert_eq!(service.cut, Cut::NONE);
        assert!(service.throttle.is_over());
    }
}
