//! What is happening, in sums.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use sumun_engine::counters::HistogramTotal;
use sumun_engine::telemetry::{Family, Sample, Value, names};

use super::pools::{in_flight, queued, state};
use crate::{CertificateRow, Shared, metrics};

/// Whose doing a failed request was.
const SIDES: [&str; 4] = ["client", "server", "config", "host"];

/// `GET /api/v1/status`
pub(crate) fn status(shared: &Shared) -> Json {
    let families = metrics::given(shared);
    let config = (shared.inputs.status)();
    let listeners: Vec<Json> = config
        .listeners
        .iter()
        .map(|listener| {
            let is_its = |sample: &Sample| label(sample, "listener") == &*listener.name;
            let mut row = json!({
                "name": &*listener.name,
                "bind": listener.bind,
                "connections": sum(&families, names::LISTENER_CONNECTIONS, is_its),
            });
            let (key, count) = if listener.is_stream {
                ("ended", sum(&families, names::STREAM_ENDED, is_its))
            } else {
                ("requests", sum(&families, names::HTTP_REQUESTS, is_its))
            };
            row[key] = count.into();
            row
        })
        .collect();
    let pools: Vec<Json> = shared
        .inputs
        .pools
        .status()
        .iter()
        .map(|pool| {
            let up = pool.servers.iter().filter(|server| state(server) == "up").count();
            json!({
                "name": &*pool.name,
                "servers_up": up,
                "servers": pool.servers.len(),
                "in_flight": in_flight(pool),
                "concurrency": pool.concurrency,
                "queued": queued(pool),
                "shed": pool.shed,
            })
        })
        .collect();
    let rooms = config.waiting_rooms.iter().map(|room| {
        json!({
            "listener": &*room.listener,
            "route": &*room.route,
            "waiting": room.waiting,
            "active": room.active,
            "admitted": room.admitted,
        })
    });
    let used = config.own_limits.used_permille.iter();
    let used = used.map(|(resource, permille)| ((*resource).to_owned(), (f64::from(*permille) / 1000.0).into()));
    let own_limits = json!({ "used": used.collect::<Map<_, _>>(), "given_up": config.own_limits.given_up });
    let certificates: Vec<Json> = config.certificates.iter().map(certificate).collect();
    json!({
        "version": shared.inputs.version,
        "pid": std::process::id(),
        "uptime_seconds": shared.inputs.started.elapsed().as_secs(),
        "workers": config.workers,
        "sandbox": config.sandbox,
        "draining": shared.is_draining(),
        "listeners": listeners,
        "pools": pools,
        "waiting_rooms": rooms.collect::<Json>(),
        "own_limits": own_limits,
        "certificates": certificates,
        "requests": sum(&families, names::HTTP_REQUESTS, |_| true),
        "errors": errors(&families, |_| true),
    })
}

fn certificate(row: &CertificateRow) -> Json {
    json!({
        "name": row.name,
        "domains": row.domains,
        "authority": row.authority,
        "state": row.state,
        "expires": row.expires,
        "next_try": row.next_try,
        "failures": row.failures,
        "error": row.error,
    })
}

/// `GET /api/v1/routes`
pub(crate) fn routes(shared: &Shared) -> Json {
    let families = metrics::given(shared);
    let mut latencies: BTreeMap<(&str, &str), &HistogramTotal> = BTreeMap::new();
    for sample in samples(&families, names::HTTP_SECONDS) {
        if let Value::Histogram(total) = &sample.value {
            latencies.insert((label(sample, "listener"), label(sample, "route")), total);
        }
    }
    let rows = latencies.into_iter().map(|((listener, route), latency)| {
        let is_its = |sample: &Sample| label(sample, "listener") == listener && label(sample, "route") == route;
        let mut statuses = Map::new();
        for sample in samples(&families, names::HTTP_REQUESTS).filter(|sample| is_its(sample)) {
            statuses.insert(label(sample, "status").to_owned(), integer(sample).into());
        }
        let milliseconds = |share: f64| latency.quantile_us(share) as f64 / 1000.0;
        json!({
            "listener": listener,
            "route": route,
            "requests": sum(&families, names::HTTP_REQUESTS, is_its),
            "statuses": statuses,
            "errors": errors(&families, is_its),
            "latency_ms": { "p50": milliseconds(0.5), "p95": milliseconds(0.95), "p99": milliseconds(0.99) },
        })
    });
    rows.collect()
}

fn errors(families: &[Family], is_meant: impl Fn(&Sample) -> bool) -> Json {
    let of_side =
        |side: &str| sum(families, names::HTTP_ENDED, |sample| label(sample, "side") == side && is_meant(sample));
    SIDES.iter().map(|side| ((*side).to_owned(), Json::from(of_side(side)))).collect::<Map<_, _>>().into()
}

fn sum(families: &[Family], name: &str, is_meant: impl Fn(&Sample) -> bool) -> u64 {
    samples(families, name).filter(|sample| is_meant(sample)).map(integer).sum()
}

fn samples<'a>(families: &'a [Family], name: &str) -> impl Iterator<Item = &'a Sample> {
    families.iter().filter(move |family| family.name == name).flat_map(|family| &family.samples)
}

fn label<'a>(sample: &'a Sample, name: &str) -> &'a str {
    sample.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
}

fn integer(sample: &Sample) -> u64 {
    match sample.value {
        Value::Integer(value) => value,
        Value::Number(_) | Value::Histogram(_) => 0,
    }
}
