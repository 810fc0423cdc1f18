//! What the admin listener is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sumun_config::checked::{self as config, Config};

/// One pool `app`.
pub(super) fn config_with(servers: &[&str]) -> Config {
    let second = Duration::from_secs(1);
    let server = |address: &&str| config::Server {
        name: (*address).into(),
        address: config::ServerAddress::Ip(address.parse().unwrap()),
        weight: 1,
        max_connections: None,
        backup: false,
        zone: None,
        quic_id: None,
    };
    let pool = config::Pool {
        name: "app".into(),
        servers: servers.iter().map(server).collect(),
        balance: config::Balance::RoundRobin,
        hash: config::HashOn::Source,
        sticky: None,
        health: None,
        outlier: config::Outlier { failures: 0, eject: second, eject_max: second, max_ejected_percent: 50 },
        timeouts: config::Timeouts { connect: second, first_byte: second, idle: second, keepalive: second },
        retries: config::Retries { tries: 1, budget_percent: 20, floor_per_second: 10, body: 0 },
        slow_start: Duration::ZERO,
        source: config::Source::Own(Vec::new()),
        concurrency: config::Concurrency::Unbounded,
        queue: config::Queue { size: 1, timeout: second },
        throttle: false,
        adaptive_servers: false,
        host: config::HostHeader::Keep,
        zone: None,
        keepalive: 1,
        tls: None,
        protocol: config::Protocol::Http1,
        proxy_protocol: None,
        bandwidth: 0,
    };
    Config {
        workers: 1,
        admin: None,
        control: PathBuf::new(),
        trusted_proxies: Vec::new(),
        access_log: None,
        drain: second,
        user: None,
        sandbox: config::Sandbox::Off,
        state: None,
        blocks: Vec::new(),
        asn_table: Vec::new(),
        shared: None,
        cache: sumun_config::checked::CacheStore { memory: 0, group: None },
        pools: BTreeMap::from([("app".into(), Arc::new(pool))]),
        limits: BTreeMap::new(),
        listeners: BTreeMap::new(),
    }
}
