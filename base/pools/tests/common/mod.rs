//! Configs for the tests: everything off but what a test turns on.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sumun_config::checked::{
    Balance, CacheStore, Concurrency, Config, HashOn, HostHeader, Outlier, Pool, Protocol, Queue, Retries, Sandbox,
    Server, ServerAddress, Timeouts,
};
use sumun_pools::Pools;

/// A pool `app` with servers at these addresses.
pub(crate) fn pool(addresses: &[&str]) -> Pool {
    let second = Duration::from_secs(1);
    Pool {
        name: "app".into(),
        servers: addresses.iter().map(|address| server(address)).collect(),
        balance: Balance::P2c,
        hash: HashOn::Source,
        sticky: None,
        health: None,
        outlier: Outlier { failures: 0, eject: second, eject_max: second * 10, max_ejected_percent: 50 },
        timeouts: Timeouts { connect: second, first_byte: second, idle: second, keepalive: second },
        retries: Retries { tries: 2, budget_percent: 20, floor_per_second: 0, body: 0 },
        slow_start: Duration::ZERO,
        source: sumun_config::checked::Source::Own(Vec::new()),
        concurrency: Concurrency::Unbounded,
        queue: Queue { size: 1000, timeout: second },
        throttle: false,
        adaptive_servers: false,
        host: HostHeader::Keep,
        zone: None,
        keepalive: 1,
        tls: None,
        protocol: Protocol::Http1,
        proxy_protocol: None,
        bandwidth: 0,
    }
}

pub(crate) fn server(address: &str) -> Server {
    let parsed = match address.parse() {
        Ok(address) => ServerAddress::Ip(address),
        Err(_) => {
            let (host, port) = address.rsplit_once(':').unwrap();
            ServerAddress::Name { host: host.to_owned(), port: port.parse().unwrap() }
        }
    };
    Server {
        name: address.into(),
        address: parsed,
        weight: 1,
        max_connections: None,
        backup: false,
        zone: None,
        quic_id: None,
    }
}

pub(crate) fn config(pool: &Pool) -> Config {
    Config {
        workers: 1,
        admin: None,
        control: PathBuf::new(),
        trusted_proxies: Vec::new(),
        access_log: None,
        drain: Duration::ZERO,
        user: None,
        sandbox: Sandbox::Off,
        state: None,
        blocks: Vec::new(),
        shared: None,
        cache: CacheStore { memory: 0, group: None },
        asn_table: Vec::new(),
        pools: BTreeMap::from([(Arc::clone(&pool.name), Arc::new(pool.clone()))]),
        limits: BTreeMap::new(),
        listeners: BTreeMap::new(),
    }
}

pub(crate) fn pools(pool: &Pool) -> Arc<Pools> {
    let pools = Pools::new(Instant::now(), b"host secret");
    pools.apply(&config(pool));
    Arc::new(pools)
}

/// Waits until something that another task does has happened.
pub(crate) async fn until(mut happened: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if happened() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not happen");
}
