//! What the gateway counts. Each worker has its own cells; reading sums them.

mod families;
mod storage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumun_config::checked::Config;
use sumun_engine::counters::HistogramTotal;
use sumun_engine::kept::{Table, lock};
use sumun_engine::{Counter, Histogram};
use sumun_http2::{Cause, ConnectionError, REASONS};

use crate::events::{Reason, Side};

/// One worker's counters of one route.
#[derive(Debug, Default)]
pub struct RouteCell {
    /// Responses by the first digit of their status; index 0 is for requests that got none.
    pub statuses: [Counter; 6],
    pub ends: [Counter; 5],
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub latency: Histogram,
}

impl RouteCell {
    #[inline]
    pub(crate) fn record(&self, status: u16, reason: Reason, bytes_in: u64, bytes_out: u64, latency_us: u64) {
        let class = usize::from(status / 100);
        self.statuses[if class < 6 { class } else { 0 }].increment();
        self.ends[reason.side() as usize].increment();
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
        self.latency.record(latency_us);
    }
}

/// Why HTTP/2 connections and streams came to an end before their time, each by its reason.
#[derive(Debug)]
pub struct Http2Ends {
    connections: [Counter; REASONS.len()],
    streams: [Counter; REASONS.len()],
}

impl Default for Http2Ends {
    fn default() -> Self {
        Self {
            connections: std::array::from_fn(|_| Counter::default()),
            streams: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Http2Ends {
    pub(crate) fn connection(&self, error: ConnectionError) {
        increment(&self.connections, error.fault.reason());
    }

    pub(crate) fn stream(&self, cause: Cause) {
        increment(&self.streams, cause.reason());
    }
}

/// Seldom called, so that a search is good enough.
fn increment(counters: &[Counter], reason: &str) {
    if let Some(counter) = REASONS.iter().position(|other| *other == reason).and_then(|index| counters.get(index)) {
        counter.increment();
    }
}

/// The same, summed; reasons that never came are left out.
#[derive(Debug, Clone, Default)]
pub struct Http2EndTotals {
    pub connections: Vec<(&'static str, u64)>,
    pub streams: Vec<(&'static str, u64)>,
}

fn http2_ends<Cell>(cells: &[Arc<Cell>], ends: impl Fn(&Cell) -> &Http2Ends) -> Http2EndTotals {
    let totals = |counters: fn(&Http2Ends) -> &[Counter; REASONS.len()]| {
        let total = |index: usize| cells.iter().map(|cell| counters(ends(cell))[index].value()).sum::<u64>();
        let all = REASONS.iter().enumerate().map(|(index, reason)| (*reason, total(index)));
        all.filter(|(_, count)| *count > 0).collect()
    };
    Http2EndTotals { connections: totals(|ends| &ends.connections), streams: totals(|ends| &ends.streams) }
}

/// One worker's counters of one pool, as this gateway uses it.
#[derive(Debug, Default)]
pub struct PoolCell {
    pub requests: Counter,
    pub retries: Counter,
    pub connects: Counter,
    pub reused: Counter,
    pub latency: Histogram,
    pub http2: Http2Ends,
}

/// One worker's counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerCell {
    pub accepted: Counter,
    pub requests: Counter,
    pub rejected: Counter,
    pub timeouts: Counter,
    pub tunnels: Counter,
    pub http2_connections: Counter,
    pub http2: Http2Ends,
}

/// One worker's counters of one rate limit.
#[derive(Debug, Default)]
pub struct LimitCell {
    pub refused: Counter,
}

/// Stands for a route where none took the request.
pub(crate) const NO_ROUTE: &str = "(none)";

/// All cells by name, one a worker. They live on over reloads, and beyond the config that names
/// them for as long as a request or a connection counts with them.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: Table<(Arc<str>, Arc<str>), RouteCell>,
    pools: Table<Arc<str>, PoolCell>,
    listeners: Table<Arc<str>, ListenerCell>,
    limits: Table<Arc<str>, LimitCell>,
    /// Bytes of routes that are gone: a sum over all routes never falls.
    gone_bytes_in: AtomicU64,
    gone_bytes_out: AtomicU64,
}

/// All routes, and the bytes of bodies of these and of those that are gone.
#[derive(Debug, Clone)]
pub struct RouteTotals {
    pub routes: Vec<RouteTotal>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A route's counters, summed.
#[derive(Debug, Clone)]
pub struct RouteTotal {
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub statuses: [u64; 6],
    pub ends: [u64; 5],
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub latency: HistogramTotal,
}

impl RouteTotal {
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.statuses.iter().sum()
    }

    /// Requests that ended by the doing of this side.
    #[must_use]
    pub fn ended_by(&self, side: Side) -> u64 {
        self.ends[side as usize]
    }
}

#[derive(Debug, Clone)]
pub struct PoolTotal {
    pub pool: Arc<str>,
    pub requests: u64,
    pub retries: u64,
    pub connects: u64,
    pub reused: u64,
    pub latency: HistogramTotal,
    pub http2: Http2EndTotals,
}

#[derive(Debug, Clone)]
pub struct ListenerTotal {
    pub listener: Arc<str>,
    pub accepted: u64,
    pub requests: u64,
    pub rejected: u64,
    pub timeouts: u64,
    pub tunnels: u64,
    pub http2_connections: u64,
    pub http2: Http2EndTotals,
}

fn sum<Cell>(cells: &[Arc<Cell>], value: impl Fn(&Cell) -> &Counter) -> u64 {
    cells.iter().map(|cell| value(cell).value()).sum()
}

impl Metrics {
    pub(crate) fn route(&self, listener: &Arc<str>, route: &Arc<str>, worker: usize) -> Arc<RouteCell> {
        lock(&self.routes).value((Arc::clone(listener), Arc::clone(route)), worker, RouteCell::default)
    }

    pub(crate) fn pool(&self, pool: &Arc<str>, worker: usize) -> Arc<PoolCell> {
        lock(&self.pools).value(Arc::clone(pool), worker, PoolCell::default)
    }

    pub(crate) fn listener(&self, listener: &Arc<str>, worker: usize) -> Arc<ListenerCell> {
        lock(&self.listeners).value(Arc::clone(listener), worker, ListenerCell::default)
    }

    pub(crate) fn limit(&self, limit: &Arc<str>, worker: usize) -> Arc<LimitCell> {
        lock(&self.limits).value(Arc::clone(limit), worker, LimitCell::default)
    }

    /// A config comes into force: what it does not name goes as soon as nothing counts with it.
    pub(crate) fn follow(&self, config: &Config) {
        let named: BTreeSet<(&str, &str)> = config
            .listeners
            .values()
            .flat_map(|listener| {
                let routes = listener.routes.iter().map(|route| &*route.name);
                routes.chain([NO_ROUTE]).map(|route| (&*listener.name, route))
            })
            .collect();
        lock(&self.routes).name(|(listener, route)| named.contains(&(&**listener, &**route)));
        lock(&self.pools).name(|pool| config.pools.contains_key(pool));
        lock(&self.listeners).name(|listener| config.listeners.contains_key(listener));
        lock(&self.limits).name(|limit| config.limits.contains_key(limit));
        lock(&self.limits).let_go(|_| {});
        lock(&self.routes).let_go(|cell| self.note_gone(cell));
        lock(&self.pools).let_go(|_| {});
        lock(&self.listeners).let_go(|_| {});
    }

    fn note_gone(&self, cell: &RouteCell) {
        self.gone_bytes_in.fetch_add(cell.bytes_in.value(), Ordering::Relaxed);
        self.gone_bytes_out.fetch_add(cell.bytes_out.value(), Ordering::Relaxed);
    }

    #[must_use]
    pub fn routes(&self) -> RouteTotals {
        let mut table = lock(&self.routes);
        table.let_go(|cell| self.note_gone(cell));
        let rows = table.iter().map(|((listener, route), cells)| {
            let mut latency = HistogramTotal::default();
            for cell in cells {
                cell.latency.add_to(&mut latency);
            }
            RouteTotal {
                listener: Arc::clone(listener),
                route: Arc::clone(route),
                statuses: std::array::from_fn(|class| sum(cells, |cell| &cell.statuses[class])),
                ends: std::array::from_fn(|side| sum(cells, |cell| &cell.ends[side])),
                bytes_in: sum(cells, |cell| &cell.bytes_in),
                bytes_out: sum(cells, |cell| &cell.bytes_out),
                latency,
            }
        });
        let routes: Vec<RouteTotal> = rows.collect();
        // Under the lock: no route is counted here and there.
        let gone = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        RouteTotals {
            bytes_in: gone(&self.gone_bytes_in) + routes.iter().map(|route| route.bytes_in).sum::<u64>(),
            bytes_out: gone(&self.gone_bytes_out) + routes.iter().map(|route| route.bytes_out).sum::<u64>(),
            routes,
        }
    }

    /// Requests that each limit has refused.
    #[must_use]
    pub fn limits(&self) -> Vec<(Arc<str>, u64)> {
        let mut table = lock(&self.limits);
        table.let_go(|_| {});
        table.iter().map(|(limit, cells)| (Arc::clone(limit), sum(cells, |cell| &cell.refused))).collect()
    }

    #[must_use]
    pub fn pools(&self) -> Vec<PoolTotal> {
        let mut table = lock(&self.pools);
        table.let_go(|_| {});
        let row = |(pool, cells): (&Arc<str>, &[Arc<PoolCell>])| {
            let mut latency = HistogramTotal::default();
            for cell in cells {
                cell.latency.add_to(&mut latency);
            }
            PoolTotal {
                pool: Arc::clone(pool),
                requests: sum(cells, |cell| &cell.requests),
                retries: sum(cells, |cell| &cell.retries),
                connects: sum(cells, |cell| &cell.connects),
                reused: sum(cells, |cell| &cell.reused),
                latency,
                http2: http2_ends(cells, |cell| &cell.http2),
            }
        };
        table.iter().map(row).collect()
    }

    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerTotal> {
        let mut table = lock(&self.listeners);
        table.let_go(|_| {});
        let row = |(listener, cells): (&Arc<str>, &[Arc<ListenerCell>])| ListenerTotal {
            listener: Arc::clone(listener),
            accepted: sum(cells, |cell| &cell.accepted),
            requests: sum(cells, |cell| &cell.requests),
            rejected: sum(cells, |cell| &cell.rejected),
            timeouts: sum(cells, |cell| &cell.timeouts),
            tunnels: sum(cells, |cell| &cell.tunnels),
            http2_connections: sum(cells, |cell| &cell.http2_connections),
            http2: http2_ends(cells, |cell| &cell.http2),
        };
        table.iter().map(row).collect()
    }
}
