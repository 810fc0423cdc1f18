//! Pools and their servers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Health, Name, PoolTls, ServerId};

/// A named group of servers that do the same job.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: Name,
    pub servers: Vec<Server>,
    pub balance: Balance,
    /// What `balance: hash` and `balance: maglev` look at.
    pub hash: HashOn,
    pub sticky: Option<Sticky>,
    pub health: Option<Health>,
    pub outlier: Outlier,
    pub timeouts: Timeouts,
    pub retries: Retries,
    /// A server that came back reaches its full weight after this long; zero turns it off.
    pub slow_start: Duration,
    pub source: Source,
    /// Requests in flight to the whole pool.
    pub concurrency: Concurrency,
    /// So is the number of those that wait for an answer of each server, adapted to that one.
    pub adaptive_servers: bool,
    pub queue: Queue,
    /// Servers that refuse most requests are sent no more than two times what they accept.
    pub throttle: bool,
    /// The Host header that servers see.
    pub host: HostHeader,
    /// Servers of this zone are taken first.
    pub zone: Option<Name>,
    /// Idle connections kept to each server by each worker.
    pub keepalive: u32,
    /// TLS towards the servers; `None` speaks plain.
    pub tls: Option<PoolTls>,
    pub protocol: Protocol,
    /// Servers are told who a connection is for; of streams alone.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Bytes a second in each direction, of streams alone; 0 is no bound.
    pub bandwidth: u64,
}

/// Where connections to servers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These addresses in turn; none lets the kernel choose.
    Own(Vec<IpAddr>),
    /// The client's own address; of streams alone.
    Client,
}

impl Source {
    /// Addresses of this host.
    #[must_use]
    pub fn own(&self) -> &[IpAddr] {
        match self {
            Self::Own(addresses) => addresses,
            Self::Client => &[],
        }
    }
}

/// Requests in flight at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    Unbounded,
    Fixed(u32),
    /// As many as the servers work on best, see `sumun_traffic::adaptive`.
    Adaptive,
}

impl Concurrency {
    /// The bound, where it is a number.
    #[must_use]
    pub const fn fixed(self) -> Option<u32> {
        match self {
            Self::Fixed(places) => Some(places),
            Self::Unbounded | Self::Adaptive => None,
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// What is spoken to the servers of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// Known beforehand in plain text (RFC 9113 section 3.3); over TLS agreed on, or the server is
    /// not spoken to.
    Http2,
    /// Over TLS what both sides agree on; HTTP/1.1 in plain text.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As it was written; the server's name in the API and in metrics. A range gives one
    /// server for each TCP port.
    pub name: Name,
    pub address: ServerAddress,
    /// 1..=1000.
    pub weight: u32,
    /// Connections at once, `None` is unbounded.
    pub max_connections: Option<u32>,
    /// Taken only when no server that is not a backup can be.
    pub backup: bool,
    pub zone: Option<Name>,
    /// What it is called in connection ids of QUIC; no other server of the pool is.
    pub quic_id: Option<ServerId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    Ip(SocketAddr),
    /// Resolved again by the TTL of its records; every address becomes a target.
    Name {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    P2c,
    RoundRobin,
    LeastRequest,
    Random,
    Hash,
    Maglev,
    First,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    Source,
    Path,
    Header(String),
    Cookie(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    pub cookie: String,
    /// Signing key; several gateways share their sessions by sharing it. `None`: the key that
    /// this host keeps in its state directory.
    pub secret: Option<String>,
}

/// Passive detection of servers that fail live requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row (no connection, cut off, timeout, 502, 503, 504) until ejection; 0 turns it off.
    pub failures: u32,
    /// First ejection; the n-th lasts n times as long.
    pub eject: Duration,
    pub eject_max: Duration,
    /// At most this share of a pool is ejected, in percent.
    pub max_ejected_percent: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the end of the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two bytes of a body or a tunnel.
    pub idle: Duration,
    /// An unused connection to a server is closed after this.
    pub keepalive: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Further tries after the first; 0 turns retries off.
    pub tries: u32,
    /// Retries may be this share of the requests, in percent.
    pub budget_percent: u8,
    /// This many retries a second are always allowed.
    pub floor_per_second: u32,
    /// A request body is kept for replay up to this size, in bytes.
    pub body: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait for a place.
    pub size: u32,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it.
    Keep,
    /// The server's own address or name.
    Server,
    Fixed(String),
}
