//! What the switch counts. Each worker has its own cells; reading sums them.

use std::sync::Arc;

use sumun_config::checked::{Config, Name};
use sumun_engine::Counter;
use sumun_engine::kept::{Table, lock};
use sumun_engine::telemetry::{Family, names};
use sumun_pools::Named;

use crate::events::Reason;

/// One worker's counters of one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerCell {
    pub(crate) accepted: Counter,
    ends: [Counter; Reason::ALL.len()],
    /// Datagrams that were lost here: no server, no room, or longer than what is passed on.
    pub(crate) dropped: Counter,
    /// Flows of QUIC by how their server was found, as in [`FOUND`].
    found: [Counter; FOUND.len()],
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
}

/// Why a flow of QUIC is at its server.
const FOUND: [&str; 3] = ["balanced", "learnt", "server_id"];

impl ListenerCell {
    /// A flow of QUIC has its server, which it named.
    pub(crate) fn quic_found(&self, named: Option<Named>) {
        let found = match named {
            None => 0,
            Some(Named::Id(_)) => 1,
            Some(Named::QuicId(_)) => 2,
        };
        self.found[found].increment();
    }

    pub(crate) fn ended(&self, reason: Reason) {
        self.ends[reason as usize].increment();
    }
}

/// One worker's counters of one pool, as the switch uses it.
#[derive(Debug, Default)]
pub(crate) struct PoolCell {
    pub(crate) connects: Counter,
    pub(crate) retries: Counter,
}

/// All cells by name, one a worker. They live on over reloads, and beyond the config that names
/// them for as long as a connection counts with them.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    listeners: Table<Name, ListenerCell>,
    pools: Table<Name, PoolCell>,
}

impl Metrics {
    pub(crate) fn listener(&self, name: &Name, worker: usize) -> Arc<ListenerCell> {
        lock(&self.listeners).value(Arc::clone(name), worker, ListenerCell::default)
    }

    pub(crate) fn pool(&self, name: &Name, worker: usize) -> Arc<PoolCell> {
        lock(&self.pools).value(Arc::clone(name), worker, PoolCell::default)
    }

    /// A config has come.
    pub(crate) fn follow(&self, config: &Config) {
        let mut listeners = lock(&self.listeners);
        listeners.name(|name| config.listeners.get(name).is_some_and(|listener| listener.stream.is_some()));
        listeners.let_go(|_| {});
        drop(listeners);
        let used: Vec<&Name> =
            config.listeners.values().flat_map(|listener| &listener.stream).flat_map(|stream| stream.pools()).collect();
        let mut pools = lock(&self.pools);
        pools.name(|name| used.contains(&name));
        pools.let_go(|_| {});
    }

    /// All counters, summed over the workers.
    pub(crate) fn families(&self) -> Vec<Family> {
        let mut accepted = Family::counter("sumun_listener_accepted_total", "Connections that were accepted.");
        let mut ended = Family::counter(
            names::STREAM_ENDED,
            "Connections and flows of `tcp`, `sni` and `udp` that have ended, by why.",
        );
        let mut bytes = Family::counter(
            "sumun_stream_bytes_total",
            "Bytes that were passed on; in goes to the servers, out to the clients.",
        );
        let mut dropped = Family::counter(
            "sumun_stream_datagrams_dropped_total",
            "Datagrams that came and were not passed on: no server, no room in a queue, a bound on flows.",
        );
        let mut found = Family::counter(
            "sumun_stream_quic_flows_total",
            "Flows of QUIC by how their server was found: balanced, by a connection id that was learnt (learnt), or that names it (server_id).",
        );
        for (name, cells) in lock(&self.listeners).iter() {
            let sum = |value: &dyn Fn(&ListenerCell) -> u64| cells.iter().map(|cell| value(cell)).sum::<u64>();
            let of_listener = ("listener", name);
            accepted.push(&[of_listener], sum(&|cell| cell.accepted.value()));
            dropped.push(&[of_listener], sum(&|cell| cell.dropped.value()));
            for reason in Reason::ALL {
                let count = sum(&|cell| cell.ends[reason as usize].value());
                if count > 0 {
                    let (reason, side) = (Arc::from(reason.as_str()), Arc::from(reason.side().as_str()));
                    ended.push(&[of_listener, ("reason", &reason), ("side", &side)], count);
                }
            }
            for (at, how) in FOUND.into_iter().enumerate() {
                let count = sum(&|cell| cell.found[at].value());
                if count > 0 {
                    found.push(&[of_listener, ("found", &how.into())], count);
                }
            }
            bytes.push(&[of_listener, ("direction", &"in".into())], sum(&|cell| cell.bytes_in.value()));
            bytes.push(&[of_listener, ("direction", &"out".into())], sum(&|cell| cell.bytes_out.value()));
        }
        let mut connects =
            Family::counter("sumun_stream_connects_total", "Connections that were begun to servers of a pool.");
        let mut retries = Family::counter("sumun_stream_retries_total", "Further tries on other servers of a pool.");
        for (name, cells) in lock(&self.pools).iter() {
            connects.push(&[("pool", name)], cells.iter().map(|cell| cell.connects.value()).sum::<u64>());
            retries.push(&[("pool", name)], cells.iter().map(|cell| cell.retries.value()).sum::<u64>());
        }
        vec![accepted, ended, bytes, dropped, found, connects, retries]
    }
}
