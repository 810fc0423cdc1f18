//! Pools and their servers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::process::Use;
use super::{Lower, Section};
use crate::checked::{
    Balance, Concurrency, HashOn, HostHeader, Name, Outlier, Pool, Protocol, ProxyProtocol, Queue, Retries, Server,
    ServerAddress, ServerId, Source, Sticky, Timeouts,
};
use crate::limits;
use crate::node::{Entry, Node, Place};
use crate::report::quoted;
use crate::table;
use crate::values;
use crate::values::address::{self, ServerAt};
use crate::values::quic;

impl Lower<'_> {
    pub(super) fn all_pools(&mut self) -> BTreeMap<Name, Arc<Pool>> {
        let entries = self.pools;
        entries.iter().map(|entry| (Name::from(entry.key.as_str()), Arc::new(self.pool(entry)))).collect()
    }

    fn pool(&mut self, entry: &Entry) -> Pool {
        let pool = Section::of(&entry.value, &table::POOL);
        let timeouts = pool.section("timeouts");
        let servers = self.servers(pool);
        Pool {
            name: Name::from(entry.key.as_str()),
            balance: balance(pool),
            hash: hash_on(pool),
            sticky: pool.given("sticky").map(|_| sticky(pool.section("sticky"))),
            health: self.health(pool, &servers),
            outlier: self.outlier(pool),
            timeouts: Timeouts {
                connect: timeouts.duration("connect"),
                first_byte: timeouts.duration("first_byte"),
                idle: timeouts.duration("idle"),
                keepalive: timeouts.duration("keepalive"),
            },
            retries: retries(pool),
            slow_start: pool.duration("slow_start"),
            source: self.source(pool),
            concurrency: concurrency(pool),
            adaptive_servers: pool.section("concurrency").text("per_server").is_some(),
            queue: queue(pool),
            throttle: pool.switch("throttle"),
            host: host_header(pool),
            zone: name(pool, "zone"),
            keepalive: pool.number("keepalive"),
            tls: self.pool_tls(pool, &servers),
            protocol: protocol(pool),
            bandwidth: pool.speed("bandwidth"),
            proxy_protocol: match pool.text("proxy_protocol") {
                Some("v1") => Some(ProxyProtocol::V1),
                Some("v2") => Some(ProxyProtocol::V2),
                _ => None,
            },
            servers,
        }
    }

    fn source(&mut self, pool: Section<'_>) -> Source {
        let Some(node) = pool.given("source").filter(|_| pool.text("source") == Some("client")) else {
            return Source::Own(pool.ips("source"));
        };
        self.probe_transparency(node.place);
        Source::Client
    }

    fn servers(&mut self, pool: Section<'_>) -> Vec<Server> {
        let mut servers = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        let mut ids: HashMap<ServerId, Name> = HashMap::new();
        let mut refused = false;
        for node in pool.given("servers").map(Node::one_or_list).unwrap_or_default() {
            let long = Section::of(node, &table::SERVER);
            let written = if node.scalar().is_some() { Some(node) } else { long.given("address") };
            let Some(written) = written else { continue };
            let Some(scalar) = written.scalar().filter(|scalar| !scalar.broken) else {
                continue;
            };
            let Ok(found) = address::server(&scalar.text) else {
                continue;
            };
            for (text, at) in found {
                if let Some(first) = seen.insert(text.to_ascii_lowercase(), written.place) {
                    let message =
                        format!("the server {} is already in this pool, on line {}", quoted(&text), first.line);
                    self.error(written.place, message, "name it once; its share is set by `weight`");
                    break;
                }
                if servers.len() >= limits::SERVERS {
                    if !refused {
                        let message = format!("this pool has more than {} servers", limits::SERVERS);
                        self.error(written.place, message, "is the range of TCP ports right?");
                    }
                    refused = true;
                    break;
                }
                let name_of_server = Name::from(text);
                let quic_id = long.value("quic_id", quic::server_id);
                if let Some((id, node)) = quic_id.zip(long.given("quic_id"))
                    && let Some(other) = ids.insert(id, Arc::clone(&name_of_server))
                {
                    let message = format!("the server {} has this `quic_id`, too", quoted(&other));
                    let help = "each server has one of its own; those of a range are written one by one";
                    self.error(node.place, message, help);
                }
                servers.push(Server {
                    name: name_of_server,
                    address: self.server_address(written, at),
                    weight: long.number("weight"),
                    max_connections: long.optional_number("max_connections"),
                    backup: long.switch("backup"),
                    zone: name(long, "zone"),
                    quic_id,
                });
            }
        }
        servers
    }

    fn server_address(&mut self, node: &Node, at: ServerAt) -> ServerAddress {
        match at {
            ServerAt::Ip(address) => ServerAddress::Ip(address),
            ServerAt::Name(host, port) => ServerAddress::Name { host, port },
            ServerAt::Unix(text) => {
                let path = self.path(node, &text);
                self.socket_length(node, &path);
                self.probe_as_user(node.place, &path, Use::ConnectTo);
                ServerAddress::Unix(path)
            }
        }
    }

    fn outlier(&mut self, pool: Section<'_>) -> Outlier {
        let outlier = pool.section("outlier");
        let off = pool.text("outlier").is_some_and(|text| values::off(text).is_ok());
        let found = Outlier {
            failures: if off { 0 } else { outlier.number("failures") },
            eject: outlier.duration("eject"),
            eject_max: outlier.duration("eject_max"),
            max_ejected_percent: outlier.percent("max_ejected"),
        };
        if found.eject > found.eject_max
            && let Some(node) = outlier.given("eject_max").or_else(|| outlier.given("eject"))
        {
            let message =
                format!("`eject` is {} and longer than `eject_max`, {}", span(found.eject), span(found.eject_max));
            self.error(node.place, message, "make `eject_max` the longer one");
        }
        found
    }
}

fn balance(pool: Section<'_>) -> Balance {
    match pool.text("balance") {
        Some("round-robin") => Balance::RoundRobin,
        Some("least-request") => Balance::LeastRequest,
        Some("random") => Balance::Random,
        Some("hash") => Balance::Hash,
        Some("maglev") => Balance::Maglev,
        Some("first") => Balance::First,
        _ => Balance::P2c,
    }
}

fn protocol(pool: Section<'_>) -> Protocol {
    match pool.text("protocol") {
        Some("http2") => Protocol::Http2,
        Some("auto") => Protocol::Auto,
        _ => Protocol::Http1,
    }
}

pub(super) fn hash_on(pool: Section<'_>) -> HashOn {
    let hash = pool.section("hash");
    match (pool.text("hash"), hash.text("header"), hash.text("cookie")) {
        (Some("path"), _, _) => HashOn::Path,
        (_, Some(header), _) => HashOn::Header(header.to_ascii_lowercase()),
        (_, _, Some(cookie)) => HashOn::Cookie(cookie.to_owned()),
        _ => HashOn::Source,
    }
}

fn sticky(sticky: Section<'_>) -> Sticky {
    Sticky {
        cookie: sticky.value("cookie", |text| Ok(text.to_owned())).unwrap_or_default(),
        secret: sticky.text("secret").map(str::to_owned),
    }
}

fn retries(pool: Section<'_>) -> Retries {
    let retries = pool.section("retries");
    let tries = match pool.text("retries") {
        Some(text) if values::off(text).is_ok() => 0,
        Some(text) => text.parse().unwrap_or_default(),
        None => retries.number("tries"),
    };
    Retries {
        tries,
        budget_percent: retries.percent("budget"),
        floor_per_second: retries.number("floor"),
        body: retries.size("body"),
    }
}

fn host_header(pool: Section<'_>) -> HostHeader {
    match pool.text("host") {
        None | Some("keep") => HostHeader::Keep,
        Some("server") => HostHeader::Server,
        Some(text) => HostHeader::Fixed(text.to_owned()),
    }
}

fn name(section: Section<'_>, key: &str) -> Option<Name> {
    section.text(key).map(Name::from)
}

/// The `queue` of a pool or a route.
pub(super) fn concurrency(section: Section<'_>) -> Concurrency {
    match section.text("concurrency") {
        Some("adaptive") => Concurrency::Adaptive,
        _ => section.optional_number("concurrency").map_or(Concurrency::Unbounded, Concurrency::Fixed),
    }
}

pub(super) fn queue(section: Section<'_>) -> Queue {
    let queue = section.section("queue");
    Queue { size: queue.number("size"), timeout: queue.duration("timeout") }
}

/// A duration as a config would write it.
pub(super) fn span(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}
