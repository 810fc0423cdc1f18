//! When which client asks for what: fixed before the first request, by a seed.

use std::net::Ipv4Addr;

/// What a request is worth, told by its path as in the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Critical,
    Normal,
    Low,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Critical, Self::Normal, Self::Low];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Critical => "/checkout/cart",
            Self::Normal => "/api/items",
            Self::Low => "/page",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// How many of twenty requests are of which class.
pub(crate) type Mix = &'static [(Class, u32)];

/// A twentieth is critical.
pub(crate) const STORM_MIX: Mix = &[(Class::Critical, 1), (Class::Normal, 9), (Class::Low, 10)];
pub(crate) const API_MIX: Mix = &[(Class::Normal, 20)];

/// Clients with an address each, all of one /16 of the loopback network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clients {
    pub(crate) network: u8,
    pub(crate) count: u16,
}

impl Clients {
    pub(crate) fn address(self, client: u16) -> Ipv4Addr {
        let [high, low] = client.to_be_bytes();
        // Neither .0 nor .255 at the end, which look like networks to a person who reads a log.
        let number = u32::from(high) * 256 + u32::from(low);
        Ipv4Addr::new(127, self.network, (number / 250) as u8, (number % 250 + 1) as u8)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Arrival {
    /// Since the start.
    pub(crate) at_us: u64,
    pub(crate) client: u16,
    pub(crate) class: Class,
}

/// A Poisson process: each client comes when it likes, whatever became of the others. It never ends.
pub(crate) struct Schedule {
    random: fastrand::Rng,
    per_second: f64,
    clients: u16,
    mix: Mix,
    next_us: f64,
}

impl Schedule {
    pub(crate) fn new(per_second: f64, clients: u16, mix: Mix, seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), per_second, clients, mix, next_us: 0.0 }
    }

    fn class(&mut self) -> Class {
        let mut number = self.random.u32(0..self.mix.iter().map(|(_, weight)| weight).sum());
        for &(class, weight) in self.mix {
            match number.checked_sub(weight) {
                Some(rest) => number = rest,
                None => return class,
            }
        }
        Class::Low
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        // The gaps of a Poisson process are exponential; 1 - x is never zero.
        self.next_us += -(1.0 - self.random.f64()).ln() / self.per_second * 1e6;
        let (client, class) = (self.random.u16(0..self.clients), self.class());
        Some(Arrival { at_us: self.next_us as u64, client, class })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_schedule() {
        let take = |seed| Schedule::new(100.0, 200, STORM_MIX, seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn rate_clients_and_classes_are_as_asked() {
        let arrivals: Vec<Arrival> = Schedule::new(1_000.0, 200, STORM_MIX, 1).take(20_000).collect();
        let seconds = arrivals.last().expect("it never ends").at_us as f64 / 1e6;
        assert!((19.0..21.0).contains(&seconds), "{seconds} s for 20 s of requests");
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at_us));
        let of = |class| arrivals.iter().filter(|arrival| arrival.class == class).count();
        assert!((900..1_100).contains(&of(Class::Critical)), "{} critical", of(Class::Critical));
        assert!((8_700..9_300).contains(&of(Class::Normal)), "{} normal", of(Class::Normal));
        // The number of requests that come within a second swings by its root.
        let seconds = arrivals.chunk_by(|one, other| one.at_us / 1_000_000 == other.at_us / 1_000_000);
        let counts: Vec<f64> = seconds.map(|chunk| chunk.len() as f64).take(19).collect();
        let variance = counts.iter().map(|count| (count - 1_000.0).powi(2)).sum::<f64>() / 19.0;
        assert!((250.0..4_000.0).contains(&variance), "{variance}");
        assert!(arrivals.iter().all(|arrival| arrival.client < 200));
    }

    #[test]
    fn every_client_has_an_address() {
        let clients = Clients { network: 10, count: 600 };
        let addresses: std::collections::BTreeSet<Ipv4Addr> =
            (0..clients.count).map(|client| clients.address(client)).collect();
        assert_eq!(addresses.len(), 600);
        assert_eq!(clients.address(0), Ipv4Addr::new(127, 10, 0, 1));
        assert_eq!(clients.address(251), Ipv4Addr::new(127, 10, 1, 2));
    }
}
