//! Who may connect: bounds on connections in all and for each client address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use sumun_config::checked as config;
use sumun_traffic::Priority;
use sumun_traffic::rates::Rates;
use sumun_traffic::token_bucket::Rate;

use crate::OwnLimits;
use crate::limits::{CLIENT_SHARD_SPARE, CLIENT_TABLE_SHARDS, RATED_CLIENTS};
use crate::tls::Transport;

/// Connections of one listener, counted over all workers.
#[derive(Debug)]
pub struct Admittance {
    connections: AtomicU32,
    connections_max: AtomicU32,
    /// 0 is no bound: clients are then not counted one by one.
    per_client_max: AtomicU32,
    /// New connections of each client.
    rates: ArcSwapOption<Rates>,
    /// Who has a connection that is counted; so never more of them than connections.
    clients: [Mutex<HashMap<Client, u32>>; CLIENT_TABLE_SHARDS],
    pub refused_full: AtomicU64,
    pub refused_client: AtomicU64,
    pub refused_rate: AtomicU64,
    /// Counted by whoever asks [`crate::OwnLimits`].
    pub refused_own_limits: AtomicU64,
    /// Counted by whoever reads the listener's `allow` and `deny`.
    pub denied: AtomicU64,
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full,
    Client,
    Rate,
}

impl Admittance {
    /// `per_client_max` 0: as many as there are places in all.
    #[must_use]
    pub fn new(connections_max: u32, per_client_max: u32) -> Self {
        Self {
            connections: AtomicU32::new(0),
            connections_max: AtomicU32::new(connections_max),
            per_client_max: AtomicU32::new(per_client_max),
            rates: ArcSwapOption::empty(),
            clients: std::array::from_fn(|_| Mutex::default()),
            refused_full: AtomicU64::new(0),
            refused_client: AtomicU64::new(0),
            refused_rate: AtomicU64::new(0),
            refused_own_limits: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        }
    }

    /// New bounds after a reload; connections over them live on. What came while clients were not
    /// counted one by one is never held against its client.
    pub fn change(&self, connections_max: u32, per_client_max: u32) {
        self.connections_max.store(connections_max, Relaxed);
        self.per_client_max.store(per_client_max, Relaxed);
    }

    /// Another rate of new connections of each client, or none; one that stays knows who came.
    pub fn change_rate(&self, rate: Option<config::Rate>) {
        let wanted = rate.map(|rate| {
            let period_ns = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX);
            Rate::new(rate.count.into(), period_ns, rate.count.into())
        });
        if self.rates.load().as_ref().map(|rates| rates.rate()) != wanted {
            self.rates.store(wanted.map(|rate| Arc::new(Rates::new(rate, RATED_CLIENTS))));
        }
    }

    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// A new connection on which nothing more important than `priority` can come is not to be begun; the
    /// refusal is counted.
    pub fn is_beyond(&self, limits: &OwnLimits, priority: Priority, transport: &Transport) -> bool {
        let is_beyond = limits.refuses_connection(priority, transport.descriptor());
        if is_beyond {
            self.refused_own_limits.fetch_add(1, Relaxed);
        }
        is_beyond
    }

    /// Nobody else can come in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connections() >= self.connections_max.load(Relaxed)
    }

    /// Counts a connection in until the ticket is dropped. `client` is `None` for unix sockets.
    ///
    /// # Errors
    /// A bound has been reached; the refusal is counted.
    pub fn admit(self: &Arc<Self>, client: Option<IpAddr>) -> Result<Admitted, Refused> {
        if self.connections.fetch_add(1, Relaxed) >= self.connections_max.load(Relaxed) {
            self.connections.fetch_sub(1, Relaxed);
            self.refused_full.fetch_add(1, Relaxed);
            return Err(Refused::Full);
        }
        // Dropped when the client has too many: that takes the connection out of the count again.
        let mut admitted = Admitted { admittance: Arc::clone(self), client: None };
        if let Some(client) = client {
            admitted.count_for(client)?;
        }
        Ok(admitted)
    }

    /// `Ok(false)`: clients are not counted one by one.
    fn count_client(&self, client: Client) -> Result<bool, Refused> {
        let most = self.per_client_max.load(Relaxed);
        if most == 0 {
            return Ok(false);
        }
        match self.shard(client).entry(client) {
            Entry::Vacant(place) => drop(place.insert(1)),
            Entry::Occupied(mut count) if *count.get() < most => *count.get_mut() += 1,
            Entry::Occupied(_) => {
                self.refused_client.fetch_add(1, Relaxed);
                return Err(Refused::Client);
            }
        }
        Ok(true)
    }

    /// One more of this client is within its rate.
    fn take_token(&self, client: Client) -> Result<(), Refused> {
        let Some(rates) = &*self.rates.load() else { return Ok(()) };
        rates.take(client.key(), sumun_host::clock::monotonic_ns()).map_err(|_| {
            self.refused_rate.fetch_add(1, Relaxed);
            Refused::Rate
        })
    }

    fn discount_client(&self, client: Client) {
        let mut clients = self.shard(client);
        if let Entry::Occupied(mut count) = clients.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        // What a crowd took is given back once it has gone. The rest of it is moved, so not often.
        let kept = CLIENT_SHARD_SPARE.max(clients.len());
        if clients.capacity() / 8 > kept {
            clients.shrink_to(kept * 2);
        }
    }

    fn shard(&self, client: Client) -> std::sync::MutexGuard<'_, HashMap<Client, u32>> {
        let mix = match client {
            Client::V4(address) => u32::from_be_bytes(address),
            Client::V6(network) => {
                let bits = u64::from_be_bytes(network);
                bits as u32 ^ (bits >> 32) as u32
            }
        };
        let index = (mix.wrapping_mul(0x9e37_79b1) >> 16) as usize % CLIENT_TABLE_SHARDS;
        self.clients[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is counted as one: an IPv4 address, and the /64 that an IPv6 client owns at least. In bytes,
/// for every connection holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    V6([u8; 8]),
}

/// The key that stands for a client in tables of clients: an IPv6 client is the /64 it has at least.
#[must_use]
pub fn client_key(address: IpAddr) -> u64 {
    Client::of(address).key()
}

impl Client {
    fn key(self) -> u64 {
        match self {
            // The two do not meet: no /64 that is given out begins with zeros.
            Self::V4(address) => u32::from_be_bytes(address).into(),
            Self::V6(network) => u64::from_be_bytes(network),
        }
    }

    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(((u128::from(v6) >> 64) as u64).to_be_bytes()),
        }
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Admitted {
    admittance: Arc<Admittance>,
    client: Option<Client>,
}

impl Admitted {
    /// Counts the connection as this client's from now on: a proxy said who it is.
    ///
    /// # Errors
    /// The client has too many already; the refusal is counted, and the connection is no client's.
    pub fn count_for(&mut self, client: IpAddr) -> Result<(), Refused> {
        if let Some(before) = self.client.take() {
            self.admittance.discount_client(before);
        }
        let client = Client::of(client);
        self.admittance.take_token(client)?;
        if self.admittance.count_client(client)? {
            self.client = Some(client);
        }
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admittance.connections.fetch_sub(1, Relaxed);
        if let Some(client) = self.client {
            self.admittance.discount_client(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admittance(connections_max: u32, per_client_max: u32) -> Arc<Admittance> {
        Arc::new(Admittance::new(connections_max, per_client_max))
    }

    /// Client addresses in the table, and those it has room for.
    fn counted(admittance: &Admittance) -> (usize, usize) {
        let shards = admittance.clients.iter().map(|shard| shard.lock().unwrap());
        shards.fold((0, 0), |(count, room), shard| (count + shard.len(), room + shard.capacity()))
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    #[test]
    fn bounds_hold_and_are_given_back() {
        let admittance = admittance(3, 2);
        let client = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let first = admittance.admit(client(1)).unwrap();
        let _second = admittance.admit(client(1)).unwrap();
        assert_eq!(admittance.admit(client(1)).unwrap_err(), Refused::Client);
        let _third = admittance.admit(client(2)).unwrap();
        assert_eq!(admittance.admit(client(3)).unwrap_err(), Refused::Full);
        drop(first);
        assert!(admittance.admit(client(1)).is_ok());
    }

    #[test]
    fn a_connection_counts_for_whom_its_proxy_names() {
        let admittance = admittance(9, 1);
        let client = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut first = admittance.admit(None).unwrap();
        let mut second = admittance.admit(None).unwrap();
        first.count_for(client(1)).unwrap();
        assert_eq!(second.count_for(client(1)), Err(Refused::Client));
        first.count_for(client(2)).unwrap();
        second.count_for(client(1)).unwrap();
        assert_eq!(admittance.connections(), 2);
        drop((first, second));
        assert_eq!(admittance.connections(), 0);
        assert!(admittance.admit(Some(client(1))).is_ok());
    }

    #[test]
    fn a_v6_network_is_one_client() {
        let admittance = admittance(9, 1);
        let _first = admittance.admit("2001:db8::1".parse().ok()).unwrap();
        assert_eq!(admittance.admit("2001:db8::2".parse().ok()).unwrap_err(), Refused::Client);
        assert!(admittance.admit("2001:db8:0:1::2".parse().ok()).is_ok());
    }

    #[test]
    fn new_connections_of_a_client_have_a_rate() {
        let admittance = admittance(1000, 0);
        let rate = config::Rate { count: 3, period: std::time::Duration::from_secs(3600) };
        admittance.change_rate(Some(rate));
        let come = |number: u32| admittance.admit(Some(address(number))).map(drop);
        for _ in 0..3 {
            come(1).unwrap();
        }
        assert_eq!(come(1), Err(Refused::Rate));
        come(2).unwrap();
        assert_eq!((admittance.connections(), admittance.refused_rate.load(Relaxed)), (0, 1));
        // A reload that leaves the rate alone forgets nobody; another one, or none, does.
        admittance.change_rate(Some(rate));
        assert_eq!(come(1), Err(Refused::Rate));
        admittance.change_rate(None);
        come(1).unwrap();
    }

    #[test]
    fn without_a_bound_for_clients_none_is_written_down() {
        let admittance = admittance(1000, 0);
        let mut admitted: Vec<Admitted> =
            (0..500).map(|number| admittance.admit(Some(address(number % 7))).unwrap()).collect();
        admitted[0].count_for(address(9)).unwrap();
        assert_eq!((admittance.connections(), counted(&admittance).0), (500, 0));
        // A reload gives a bound: who came before is not counted, who comes now is.
        admittance.change(1000, 1);
        let newer = admittance.admit(Some(address(1))).unwrap();
        assert_eq!(admittance.admit(Some(address(1))).unwrap_err(), Refused::Client);
        admitted.clear();
        assert_eq!(counted(&admittance).0, 1);
        // And takes it away again.
        admittance.change(1000, 0);
        let more = admittance.admit(Some(address(1))).unwrap();
        drop((newer, more));
        assert_eq!((admittance.connections(), counted(&admittance).0), (0, 0));
    }

    #[test]
    fn clients_without_a_connection_are_forgotten() {
        let admittance = admittance(50_000, 2);
        for _ in 0..3 {
            let crowd: Vec<Admitted> =
                (0..40_000).map(|number| admittance.admit(Some(address(number))).unwrap()).collect();
            assert_eq!(counted(&admittance).0, 40_000);
            drop(crowd);
            let (count, room) = counted(&admittance);
            assert_eq!(count, 0);
            assert!(room <= CLIENT_TABLE_SHARDS * CLIENT_SHARD_SPARE * 16, "room for {room} is kept");
        }
        // Who is refused leaves nothing behind either.
        admittance.change(1, 2);
        let _one = admittance.admit(Some(address(1))).unwrap();
        for number in 2..100 {
            assert_eq!(admittance.admit(Some(address(number))).unwrap_err(), Refused::Full);
        }
        assert_eq!(counted(&admittance).0, 1);
    }
}
