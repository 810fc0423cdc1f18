//! Active health checks of all servers, and what is said about their state.
//!
//! Runs on the control thread. One small task for each server that is to be checked; they follow
//! the config, the names and the API by the difference, so a reload does not restart them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sumun_config::checked as config;
use sumun_engine::tls::{Tls, server_name};
use sumun_traffic::health::{Checks, Health};
use sumun_traffic::key::mix;
use tokio::time::{Instant, MissedTickBehavior};

use crate::check::{self, Way};
use crate::external::{ExternalChecks, Found};
use crate::limits::{CHECK_SPREAD_MS, CONTROL_TICK_MS};
use crate::pool::{News, Pool, in_words, milliseconds};
use crate::pools::Pools;
use crate::server::{Server, Target};
use crate::tasks::Tasks;

/// How one server is checked.
#[derive(Clone, PartialEq)]
struct Job {
    health: config::Health,
    protocol: config::Protocol,
    /// A PROXY protocol header that names nobody, where the servers want one.
    first: Vec<u8>,
    source: Option<IpAddr>,
}

/// Checks servers for as long as it is polled, and writes news about servers down. `tls` is what the
/// pools speak with their servers, `external` has commands run.
pub async fn run(pools: Arc<Pools>, tls: Arc<Tls>, external: Arc<ExternalChecks>) {
    let mut changes = pools.changes();
    let mut tasks: Tasks<u64, Job> = Tasks::new();
    let mut tick = tokio::time::interval(Duration::from_millis(CONTROL_TICK_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    changes.mark_changed();
    loop {
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = all_servers(&pools);
                let wanted = now.iter().filter_map(|(id, (pool, server))| Some((*id, job_of(pool, server)?))).collect();
                let ended = tasks.follow(wanted, |id, job| {
                    let (pool, server) = &now[id];
                    let means = (Arc::clone(&tls), Arc::clone(&external));
                    tokio::spawn(check_again_and_again(Arc::clone(pool), Arc::clone(server), job.clone(), means))
                });
                for (pool, server) in ended.iter().filter_map(|id| now.get(id)) {
                    forget(pool, server);
                }
            }
            _ = tick.tick() => {
                look_after(&pools);
            }
        }
    }
}

fn all_servers(pools: &Pools) -> HashMap<u64, (Arc<Pool>, Arc<Server>)> {
    let mut all = HashMap::new();
    for pool in pools.all().values() {
        for member in pool.servers().members() {
            all.insert(member.server.id(), (Arc::clone(pool), Arc::clone(&member.server)));
        }
    }
    all
}

fn job_of(pool: &Pool, server: &Server) -> Option<Job> {
    let settings = pool.settings();
    let health = settings.health.clone()?;
    let source = match server.target() {
        Target::Tcp(address) => {
            settings.source.own().iter().copied().find(|source| source.is_ipv4() == address.is_ipv4())
        }
        Target::Unix(_) => None,
    };
    Some(Job { health, protocol: settings.protocol, first: preface(settings.proxy_protocol), source })
}

fn preface(version: Option<config::ProxyProtocol>) -> Vec<u8> {
    let mut bytes = Vec::new();
    match version {
        None => {}
        Some(config::ProxyProtocol::V1) => sumun_preface::write_v1(&mut bytes, None),
        Some(config::ProxyProtocol::V2) => sumun_preface::write_v2(&mut bytes, sumun_preface::Transport::Stream, None),
    }
    bytes
}

async fn check_again_and_again(
    pool: Arc<Pool>,
    server: Arc<Server>,
    job: Job,
    (tls, external): (Arc<Tls>, Arc<ExternalChecks>),
) {
    let every_ms = milliseconds(job.health.every).max(1);
    // The same place in the interval each time, another one for each server.
    let spread_ms = mix(server.identity()) % every_ms.min(CHECK_SPREAD_MS);
    let first = Instant::now() + Duration::from_millis(spread_ms);
    let mut times = tokio::time::interval_at(first, Duration::from_millis(every_ms));
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checks = Checks::starting_at(server.health());
    loop {
        times.tick().await;
        let found = match &job.health.check {
            config::Check::Exec { .. } => external.run(&pool, &server, job.health.timeout).await,
            _ => {
                let way = Way {
                    target: server.target(),
                    source: job.source,
                    name: server_name(&server.address()),
                    tls: tls.pool(pool.name()),
                    protocol: job.protocol,
                    first: &job.first,
                };
                check::run(&job.health, way).await.into()
            }
        };
        note(&pool, &server, &job.health, &mut checks, found);
    }
}

fn note(pool: &Pool, server: &Server, rules: &config::Health, checks: &mut Checks, found: Found) {
    let (good, words) = match found {
        Found::Good(words) => (true, words),
        Found::Bad(words) => (false, words),
        Found::Nothing(why) => {
            server.about().last_check = why;
            return;
        }
    };
    server.counters.checks.fetch_add(1, Ordering::Relaxed);
    if !good {
        server.counters.checks_failed.fetch_add(1, Ordering::Relaxed);
    }
    let before = checks.health();
    let changed = checks.note(good, rules.rise, rules.fall);
    let mut about = server.about();
    about.last_check.clone_from(&words);
    if changed.is_some() {
        about.reason = format!("health check: {words}");
    }
    drop(about);
    let (pool_name, name) = (&**pool.name(), &**server.name());
    let rises = server.set_rising(checks.is_rising());
    match changed {
        None if rises => return pool.touch(),
        None => return,
        Some(Health::Down) => tracing::warn!(pool = pool_name, server = name, reason = words, "server is down"),
        Some(_) if before == Health::Down => {
            server.begin_ramp(pool.now_ms());
            tracing::info!(pool = pool_name, server = name, reason = words, "server is up again");
        }
        Some(_) => tracing::info!(pool = pool_name, server = name, reason = words, "server is up"),
    }
    server.set_health(checks.health());
    if checks.health() == Health::Up {
        // It was down and answers again: what live requests found before is out of date.
        server.set_ejected_until(0);
    }
    pool.touch();
}

/// The server is not checked any more: nothing is known about it.
fn forget(pool: &Pool, server: &Server) {
    server.set_health(Health::Unknown);
    server.set_rising(false);
    let mut about = server.about();
    about.last_check.clear();
    about.reason.clear();
    drop(about);
    pool.touch();
}

/// Writes down what happened on workers, and serves who waits for a place that came free by time
/// (the end of an ejection) and not by a request's leaving.
fn look_after(pools: &Pools) {
    for pool in pools.all().values() {
        for News::Ejected { server, for_ms, count, outcome } in pool.take_news() {
            tracing::warn!(
                pool = &**pool.name(),
                server = &*server,
                for_ms,
                count,
                last = in_words(outcome),
                "server is ejected: it failed live requests in a row"
            );
        }
        if pool.waiting_for_place() != 0 {
            pool.serve_waiting();
        }
    }
}
