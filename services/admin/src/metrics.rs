//! All families of the process.

use std::sync::Arc;

use sumun_engine::telemetry::{self, Family};
use sumun_pools::Pools;

use crate::Shared;
use crate::api::pools::{queued, state};

/// What the services give; what two of them give under one name is one family.
pub(crate) fn given(shared: &Shared) -> Vec<Family> {
    let mut all: Vec<Family> = Vec::new();
    for family in shared.inputs.families.iter().flat_map(|families| families()) {
        match all.iter_mut().find(|other| other.name == family.name) {
            Some(other) => other.samples.extend(family.samples),
            None => all.push(family),
        }
    }
    all
}

/// What is scraped: that of the services, of the pools' servers, and of the process itself.
pub(crate) fn all(shared: &Shared) -> Vec<Family> {
    let mut build = Family::gauge("sumun_build_info", "1, with the version as a label.");
    build.push(&[("version", &shared.inputs.version.into())], 1);
    let uptime = Family::gauge("sumun_uptime_seconds", "Since the process started.");
    let draining = Family::gauge("sumun_draining", "1 while the process takes no new connections.");
    let mut families = vec![
        build,
        uptime.with(shared.inputs.started.elapsed().as_secs_f64()),
        draining.with(u64::from(shared.is_draining())),
    ];
    families.extend(given(shared));
    families.extend(of_pools(&shared.inputs.pools));
    families.extend(telemetry::process_families());
    families
}

fn of_pools(pools: &Pools) -> impl Iterator<Item = Family> {
    let reasons = ["connect", "timeout", "cut_off", "status"].map(Arc::<str>::from);
    let mut waiting = Family::gauge("sumun_pool_queued", "Requests that wait for the pool or for a place at a server.");
    let mut places = Family::gauge(
        "sumun_pool_concurrency",
        "Requests that may be in flight to the pool now, where that is bounded.",
    );
    let mut base = Family::gauge(
        "sumun_pool_answer_seconds",
        "Time of an answer when nobody waits inside the servers, as an adaptive concurrency has found it out.",
    );
    let mut shed = Family::counter("sumun_pool_shed_total", "Requests that were refused because of overload.");
    let mut throttled = Family::counter(
        "sumun_pool_throttled_total",
        "Requests that were turned away because the servers refuse most of what they get.",
    );
    let mut level = Family::gauge(
        "sumun_pool_let_in_ratio",
        "The share of priorities and clients that is let in to the queue; less than 1 while the pool is overloaded.",
    );
    let mut up = Family::gauge("sumun_server_up", "1 if new requests may come.");
    let mut weight = Family::gauge("sumun_server_weight", "Weight of the server.");
    let mut in_flight = Family::gauge("sumun_server_in_flight", "Requests that are at the server now.");
    let mut server_places = Family::gauge(
        "sumun_server_concurrency",
        "Requests that may wait for an answer of the server now, where that is adaptive.",
    );
    let mut server_base = Family::gauge(
        "sumun_server_answer_seconds",
        "Time of an answer of the server when nobody waits inside it, as its adaptive concurrency has found it out.",
    );
    let mut requests = Family::counter("sumun_server_requests_total", "Requests since the server joined the pool.");
    let mut failures = Family::counter("sumun_server_failures_total", "Live requests that the server failed, by how.");
    let mut ejections =
        Family::counter("sumun_server_ejections_total", "Times that the server was ejected for failing.");
    let mut checks = Family::counter("sumun_server_checks_total", "Health checks by their result.");
    for pool in pools.status() {
        waiting.push(&[("pool", &pool.name)], u64::from(queued(&pool)));
        throttled.push(&[("pool", &pool.name)], pool.throttled);
        if let Some(now) = pool.concurrency {
            places.push(&[("pool", &pool.name)], u64::from(now));
            shed.push(&[("pool", &pool.name)], pool.shed);
            level.push(&[("pool", &pool.name)], f64::from(pool.level_permille) / 1000.0);
        }
        if let Some(base_us) = pool.base_us {
            base.push(&[("pool", &pool.name)], base_us as f64 / 1e6);
        }
        for server in &pool.servers {
            let [of_pool, of_server] = [("pool", &pool.name), ("server", &server.name)];
            let labels = [of_pool, of_server];
            let counts = &server.counts;
            up.push(&labels, u64::from(state(server) == "up"));
            weight.push(&labels, u64::from(server.weight));
            in_flight.push(&labels, u64::from(server.in_flight));
            if let Some((places, base_us)) = server.adaptive {
                server_places.push(&labels, u64::from(places));
                server_base.push(&labels, base_us as f64 / 1e6);
            }
            requests.push(&labels, counts.requests);
            ejections.push(&labels, counts.ejections);
            let by_reason = [counts.connect_failed, counts.timeouts, counts.cut_off, counts.bad_status];
            for (reason, count) in reasons.iter().zip(by_reason) {
                failures.push(&[of_pool, of_server, ("reason", reason)], count);
            }
            checks.push(
                &[of_pool, of_server, ("result", &"good".into())],
                counts.checks.saturating_sub(counts.checks_failed),
            );
            checks.push(&[of_pool, of_server, ("result", &"bad".into())], counts.checks_failed);
        }
    }
    let of_pool = [waiting, places, base, shed, throttled, level];
    let of_server = [up, weight, in_flight, server_places, server_base, requests, failures, ejections, checks];
    of_pool.into_iter().chain(of_server)
}
