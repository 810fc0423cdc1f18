//! What the gateway counts. Each worker has its own cells; reading sums them.

mod families;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sumun_engine::counters::HistogramTotal;
use sumun_engine::{Counter, Histogram};

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

/// One worker's counters of one pool, as this gateway uses it.
#[derive(Debug, Default)]
pub struct PoolCell {
    pub requests: Counter,
    pub retries: Counter,
    pub connects: Counter,
    pub reused: Counter,
    pub latency: Histogram,
}

/// One worker's counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerCell {
    pub accepted: Counter,
    pub requests: Counter,
    pub rejected: Counter,
    pub timeouts: Counter,
    pub tunnels: Counter,
}

/// By name, one cell a worker.
type Cells<Key, Cell> = Mutex<BTreeMap<Key, Vec<Arc<Cell>>>>;

/// All cells, by name; they live on over reloads.
#[derive(Debug, Default)]
pub struct Metrics {
    routes: Cells<(Arc<str>, Arc<str>), RouteCell>,
    pools: Cells<Arc<str>, PoolCell>,
    listeners: Cells<Arc<str>, ListenerCell>,
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
}

#[derive(Debug, Clone)]
pub struct ListenerTotal {
    pub listener: Arc<str>,
    pub accepted: u64,
    pub requests: u64,
    pub rejected: u64,
    pub timeouts: u64,
    pub tunnels: u64,
}

fn cell<Key: Ord, Cell: Default>(table: &Cells<Key, Cell>, key: Key, worker: usize) -> Arc<Cell> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let cells = table.entry(key).or_default();
    while cells.len() <= worker {
        cells.push(Arc::default());
    }
    Arc::clone(&cells[worker])
}

fn sum<Cell>(cells: &[Arc<Cell>], value: impl Fn(&Cell) -> &Counter) -> u64 {
    cells.iter().map(|cell| value(cell).value()).sum()
}

impl Metrics {
    pub(crate) fn route(&self, listener: &Arc<str>, route: &Arc<str>, worker: usize) -> Arc<RouteCell> {
        cell(&self.routes, (Arc::clone(listener), Arc::clone(route)), worker)
    }

    pub(crate) fn pool(&self, pool: &Arc<str>, worker: usize) -> Arc<PoolCell> {
        cell(&self.pools, Arc::clone(pool), worker)
    }

    pub(crate) fn listener(&self, listener: &Arc<str>, worker: usize) -> Arc<ListenerCell> {
        cell(&self.listeners, Arc::clone(listener), worker)
    }

    #[must_use]
    pub fn routes(&self) -> Vec<RouteTotal> {
        let table = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter()
            .map(|((listener, route), cells)| {
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
            })
            .collect()
    }

    #[must_use]
    pub fn pools(&self) -> Vec<PoolTotal> {
        let table = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter()
            .map(|(pool, cells)| {
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
                }
            })
            .collect()
    }

    #[must_use]
    pub fn listeners(&self) -> Vec<ListenerTotal> {
        let table = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter()
            .map(|(listener, cells)| ListenerTotal {
                listener: Arc::clone(listener),
                accepted: sum(cells, |cell| &cell.accepted),
                requests: sum(cells, |cell| &cell.requests),
                rejected: sum(cells, |cell| &cell.rejected),
                timeouts: sum(cells, |cell| &cell.timeouts),
                tunnels: sum(cells, |cell| &cell.tunnels),
            })
            .collect()
    }
}
