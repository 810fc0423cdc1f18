//! What the admin API reads and does while running.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumun_config::checked::{self as config, Name, ServerAddress};
use sumun_config::quic_id as quic_id_of;
use sumun_traffic::health::Health;

use crate::limits::{ADDED_SERVERS_MAX, WEIGHTS};
use crate::pool::Pool;
use crate::pools::Pools;
use crate::server::{AdminState, Server};
use crate::set::Member;

/// A pool as of now.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolStatus {
    pub name: Name,
    pub balance: config::Balance,
    /// Places now; `None` is unbounded.
    pub concurrency: Option<u32>,
    /// Where `concurrency` is adaptive: microseconds of an answer without waiting, 0 while unknown.
    pub base_us: Option<u64>,
    /// The share of clients and priorities that is let in to the queue, in thousandths.
    pub level_permille: u32,
    /// Requests that were refused because of overload.
    pub shed: u64,
    /// Requests that were turned away because the servers refuse most of what they get.
    pub throttled: u64,
    /// Requests admitted; counted only where `concurrency` is set.
    pub inside: u32,
    /// Requests that wait to be admitted.
    pub waiting: u32,
    /// Requests that wait for a place at a server.
    pub waiting_for_place: u32,
    /// Requests of the pool's own servers that are inside or wait.
    pub self_calls: u32,
    /// Names of servers that have never been resolved yet.
    pub unresolved: Vec<String>,
    pub servers: Vec<ServerStatus>,
}

/// A server as of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    pub name: Name,
    /// Where it is reached: an address with its TCP port, or `unix:/path`.
    pub address: String,
    pub weight: u32,
    /// What is left of the weight while the slow start lasts, in percent.
    pub weight_percent: u32,
    pub backup: bool,
    pub zone: Option<Name>,
    pub max_connections: Option<u32>,
    /// Where the server's concurrency is adaptive: places now, and microseconds of an answer without
    /// waiting, 0 while unknown.
    pub adaptive: Option<(u32, u64)>,
    pub state: AdminState,
    pub health: Health,
    /// Time until an ejection ends; 0 for none.
    pub ejected_ms: u64,
    /// New requests may come.
    pub usable: bool,
    /// Why health or ejection are as they are; empty where nothing happened.
    pub reason: String,
    /// What the last health check found; empty before the first.
    pub last_check: String,
    pub in_flight: u32,
    pub counts: ServerCounts,
}

/// Events since the server joined the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerCounts {
    pub requests: u64,
    pub connect_failed: u64,
    pub timeouts: u64,
    pub cut_off: u64,
    /// Answers with 502, 503 or 504.
    pub bad_status: u64,
    pub connects: u64,
    pub retries: u64,
    pub ejections: u64,
    pub checks: u64,
    pub checks_failed: u64,
}

/// Why an operation was not done; the text is for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationError {
    NoPool(String),
    NoServer(String),
    /// Not `address:port`, `name:port` or `unix:/path`.
    BadAddress(String),
    BadWeight(u32),
    /// Not 1 to 15 bytes in hexadecimal.
    BadQuicId(String),
    /// This server has it.
    QuicIdTaken(Name),
    AlreadyThere(String),
    TooManyServers,
    /// One address of a name goes only together with its name.
    PartOfName(String),
    /// The sandbox lets this process connect to the TCP ports of the config file alone.
    OutOfReach(u16),
}

impl fmt::Display for OperationError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool(name) => write!(formatter, "there is no pool `{name}`"),
            Self::NoServer(name) => write!(formatter, "there is no server `{name}` in this pool"),
            Self::BadAddress(text) => {
                write!(formatter, "`{text}` is not an address: `10.0.0.1:80`, `[::1]:80`, `name:80` or `unix:/path`")
            }
            Self::BadWeight(weight) => {
                write!(formatter, "a weight is {} to {}, not {weight}", WEIGHTS.start(), WEIGHTS.end())
            }
            Self::BadQuicId(text) => write!(formatter, "`{text}` is no `quic_id`: 1 to 15 bytes, two digits each"),
            Self::QuicIdTaken(name) => write!(formatter, "the server `{name}` has this `quic_id`"),
            Self::AlreadyThere(name) => {
                write!(formatter, "server `{name}` is in this pool already")
            }
            Self::TooManyServers => write!(formatter, "at most {ADDED_SERVERS_MAX} servers can be added to a pool"),
            Self::PartOfName(name) => write!(formatter, "`{name}` is one address of a name: remove the name"),
            Self::OutOfReach(port) => write!(
                formatter,
                "the sandbox allows no connections to TCP port {port}: no server of the config file has it; add the \
                 server there and reload"
            ),
        }
    }
}

impl std::error::Error for OperationError {}

impl Pools {
    /// All pools and servers as of now, pools by name, servers in the order of the file.
    pub fn status(&self) -> Vec<PoolStatus> {
        self.all().values().map(|pool| pool.status()).collect()
    }

    /// Names of servers, in any pool, that have never been resolved yet.
    pub fn unresolved(&self) -> Vec<String> {
        self.all().values().flat_map(|pool| pool.roster().unresolved()).collect()
    }

    /// Enables, drains or disables a server. The name of a server with several addresses means
    /// all of them.
    ///
    /// # Errors
    /// There is no such pool or server.
    pub fn set_state(&self, pool: &str, server: &str, state: AdminState) -> Result<(), OperationError> {
        let pool = self.existing(pool)?;
        for server in named(&pool, server)? {
            pool.set_admin(&server, state);
            tracing::info!(pool = &**pool.name(), server = &**server.name(), state = ?state, "server state set");
        }
        self.note_operation();
        Ok(())
    }

    /// Sets a weight until the config file gives the server another one.
    ///
    /// # Errors
    /// There is no such pool or server, or the weight is out of its range.
    pub fn set_weight(&self, pool: &str, server: &str, weight: u32) -> Result<(), OperationError> {
        if !WEIGHTS.contains(&weight) {
            return Err(OperationError::BadWeight(weight));
        }
        let pool = self.existing(pool)?;
        for server in named(&pool, server)? {
            server.set_weight(weight);
            tracing::info!(pool = &**pool.name(), server = &**server.name(), weight, "server weight set");
        }
        pool.touch();
        self.note_operation();
        Ok(())
    }

    /// Adds a server of weight 1, or brings back one that was removed; it stays until it is
    /// removed or the process ends. Returns its name.
    ///
    /// # Errors
    /// There is no such pool, the address cannot be read, it is there, or the sandbox lets us not
    /// connect to it.
    pub fn add_server(&self, pool: &str, address: &str, quic_id: Option<&str>) -> Result<Name, OperationError> {
        let pool = self.existing(pool)?;
        let id = quic_id.map(|text| quic_id_of(text).ok_or_else(|| OperationError::BadQuicId(text.to_owned())));
        let id = id.transpose()?;
        let server = added_server(&pool.settings(), address, id)
            .ok_or_else(|| OperationError::BadAddress(address.to_owned()))?;
        let name = Arc::clone(&server.name);
        if let Some(port) = port_of(&server.address).filter(|port| !self.can_reach(*port)) {
            return Err(OperationError::OutOfReach(port));
        }
        pool.change_servers(|roster| {
            if roster.added_count() >= ADDED_SERVERS_MAX {
                return Err(OperationError::TooManyServers);
            }
            let holder = |id| pool.servers().by_quic_id(id).map(|member| Arc::clone(member.server.name()));
            if let Some(name) = id.and_then(holder) {
                return Err(OperationError::QuicIdTaken(name));
            }
            roster.add(server).then_some(()).ok_or_else(|| OperationError::AlreadyThere(address.to_owned()))
        })?;
        self.note_change();
        self.note_operation();
        tracing::info!(pool = &**pool.name(), server = address, "server added");
        Ok(name)
    }

    /// Removes a server; requests that it has are finished. A server of the file stays away until
    /// it is added again or the file no longer has it.
    ///
    /// # Errors
    /// There is no such pool or server.
    pub fn remove_server(&self, pool: &str, server: &str) -> Result<(), OperationError> {
        let pool = self.existing(pool)?;
        if !pool.change_servers(|roster| roster.remove(server)) {
            return Err(match pool.servers().by_name(server) {
                Some(_) => OperationError::PartOfName(server.to_owned()),
                None => OperationError::NoServer(server.to_owned()),
            });
        }
        self.note_change();
        self.note_operation();
        tracing::info!(pool = &**pool.name(), server, "server removed");
        Ok(())
    }

    /// Whether a server that was added to the process before this one can be reached from this one.
    pub(crate) fn can_reach_added(&self, pool: &str, address: &str) -> bool {
        let port = parse_address(address).and_then(|address| port_of(&address));
        let reached = port.is_none_or(|port| self.can_reach(port));
        if !reached {
            tracing::warn!(pool, server = address, "the sandbox allows no connections to it any more: not added again");
        }
        reached
    }

    fn existing(&self, pool: &str) -> Result<Arc<Pool>, OperationError> {
        self.pool(pool).ok_or_else(|| OperationError::NoPool(pool.to_owned()))
    }
}

impl Pool {
    /// This pool and its servers as of now.
    pub fn status(&self) -> PoolStatus {
        let (settings, set, now_ms) = (self.settings(), self.servers(), self.now_ms());
        let ramp_ms = crate::pool::milliseconds(settings.slow_start);
        PoolStatus {
            name: Arc::clone(self.name()),
            balance: settings.balance,
            concurrency: self.admission().places(),
            base_us: self.admission().found_out().map(|(_, base_us)| base_us),
            level_permille: self.admission().level_permille(),
            shed: self.admission().shed(),
            throttled: self.throttle().turned_away(),
            inside: self.admission().inside(),
            waiting: self.admission().waiting(),
            waiting_for_place: self.waiting_for_place(),
            self_calls: self.admission().self_calls(),
            unresolved: self.roster().unresolved(),
            servers: set.members().iter().map(|member| server_status(member, now_ms, ramp_ms)).collect(),
        }
    }
}

fn server_status(member: &Member, now_ms: u64, ramp_ms: u64) -> ServerStatus {
    let server = &member.server;
    let about = server.about();
    let (reason, last_check) = (about.reason.clone(), about.last_check.clone());
    drop(about);
    let weight = server.weight();
    ServerStatus {
        name: Arc::clone(server.name()),
        address: server.target().to_string(),
        weight,
        weight_percent: server.weight_hundredths(now_ms, ramp_ms).0 / weight.max(1),
        backup: member.backup,
        zone: member.zone.clone(),
        max_connections: member.max_connections,
        adaptive: server.admission().found_out(),
        state: server.admin_state(),
        health: server.health(),
        ejected_ms: server.ejected_until_ms().saturating_sub(now_ms),
        usable: server.is_eligible(now_ms),
        reason,
        last_check,
        in_flight: server.in_flight(),
        counts: server_counts(server),
    }
}

fn server_counts(server: &Server) -> ServerCounts {
    let counters = &server.counters;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    ServerCounts {
        requests: server.requests(),
        connect_failed: read(&counters.connect_failed),
        timeouts: read(&counters.timeouts),
        cut_off: read(&counters.cut_off),
        bad_status: read(&counters.bad_status),
        connects: read(&counters.connects),
        retries: read(&counters.retries),
        ejections: read(&counters.ejections),
        checks: read(&counters.checks),
        checks_failed: read(&counters.checks_failed),
    }
}

/// The servers that a name means: one, or all addresses of a name.
fn named(pool: &Pool, name: &str) -> Result<Vec<Arc<Server>>, OperationError> {
    let is_meant = |server: &Server| match server.name().strip_prefix(name) {
        Some(rest) => rest.is_empty() || rest.starts_with('@'),
        None => false,
    };
    let set = pool.servers();
    let servers: Vec<Arc<Server>> =
        set.members().iter().map(|member| &member.server).filter(|server| is_meant(server)).cloned().collect();
    if servers.is_empty() { Err(OperationError::NoServer(name.to_owned())) } else { Ok(servers) }
}

/// A server as it is added at run time: named by its address. `None`: it is none.
pub(crate) fn added_server(
    settings: &config::Pool,
    address: &str,
    quic_id: Option<config::ServerId>,
) -> Option<config::Server> {
    Some(config::Server {
        name: address.into(),
        address: parse_address(address)?,
        weight: 1,
        max_connections: None,
        backup: false,
        zone: settings.zone.clone(),
        quic_id,
    })
}

fn port_of(address: &ServerAddress) -> Option<u16> {
    match address {
        ServerAddress::Ip(address) => Some(address.port()),
        ServerAddress::Name { port, .. } => Some(*port),
        ServerAddress::Unix(_) => None,
    }
}

fn parse_address(text: &str) -> Option<ServerAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return path.starts_with('/').then(|| ServerAddress::Unix(PathBuf::from(path)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(ServerAddress::Ip(address));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    // RFC 1123 section 2.1: letters, digits, hyphens, in labels of 1 to 63; the last one is not a
    // number, or it would be a wrong address.
    let labels = host.split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = labels.clone().next_back()?.bytes().all(|byte| byte.is_ascii_digit());
    let valid = host.len() <= 253 && labels.clone().all(is_label) && !last_is_number;
    valid.then(|| ServerAddress::Name { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(matches!(parse_address("10.0.0.1:80"), Some(ServerAddress::Ip(_))));
        assert!(matches!(parse_address("[::1]:80"), Some(ServerAddress::Ip(_))));
        assert!(matches!(parse_address("app-1.internal:80"), Some(ServerAddress::Name { .. })));
        assert!(matches!(parse_address("unix:/run/app.sock"), Some(ServerAddress::Unix(_))));
        for wrong in
            ["", "10.0.0.1", "10.0.0:80", "10.0.0.1:0", "a:b:80", "::1:80", "app:", "unix:app", "-a:80", "a..b:80"]
        {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }
}
