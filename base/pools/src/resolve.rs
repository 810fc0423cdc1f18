//! Names of servers to addresses, again and again by the time to live of their records.
//!
//! Runs on the control thread, one small task for each name. Follows /etc/hosts and
//! /etc/resolv.conf as they are at the time of each lookup. When a lookup fails, whatever the
//! reason, the last good answer stays: a broken name server must not take a working service down.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use sumun_config::checked::Name;
use tokio::time::Instant;

use crate::limits::{ADDRESSES_PER_NAME_MAX, RESOLVE_MAX_MS, RESOLVE_MIN_MS, RESOLVE_RETRY_MS, RESOLVE_TIMEOUT_MS};
use crate::pools::Pools;
use crate::tasks::Tasks;

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum NameServers {
    /// /etc/hosts, then the name servers of /etc/resolv.conf.
    System,
    /// The same, by what somebody else read there.
    Copies(Copies),
    /// These, and no file.
    At(Vec<SocketAddr>),
}

/// /etc/resolv.conf and /etc/hosts for a process that may not open them: an editor or a DHCP client
/// puts other files in their place, to which rights on the old ones say nothing.
#[derive(Clone)]
pub struct Copies {
    /// The texts of the two.
    files: Arc<Mutex<(String, String)>>,
    ask: Arc<dyn Fn() + Send + Sync>,
}

impl Copies {
    /// `ask` is called before each lookup, and must not wait: [`Self::replace`] with what is new then
    /// is for the next one.
    pub fn new(resolv_conf: String, hosts: String, ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self { files: Arc::new(Mutex::new((resolv_conf, hosts))), ask: Arc::new(ask) }
    }

    pub fn replace(&self, resolv_conf: String, hosts: String) {
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = (resolv_conf, hosts);
    }

    fn current(&self) -> (String, String) {
        (self.ask)();
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Copies").finish_non_exhaustive()
    }
}

/// A good answer.
struct Answer {
    /// Sorted, without doubles, at least one.
    addresses: Vec<IpAddr>,
    valid: Duration,
}

/// Keeps the addresses of all names in all pools up to date for as long as it is polled.
pub async fn run(pools: Arc<Pools>, name_servers: NameServers) {
    let mut changes = pools.changes();
    // The job is which pools want the name: when one joins, it is looked up at once.
    let mut tasks: Tasks<String, BTreeSet<Name>> = Tasks::new();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        let mut wanted: HashMap<String, BTreeSet<Name>> = HashMap::new();
        for (name, pool) in &*pools.all() {
            let hosts = pool.roster().hosts();
            for host in hosts {
                wanted.entry(host).or_default().insert(Arc::clone(name));
            }
        }
        tasks.follow(wanted, |host, _| {
            tokio::spawn(resolve_again_and_again(Arc::clone(&pools), host.clone(), name_servers.clone()))
        });
    }
}

/// Waits until every name in all pools has had a good answer, while [`run`] works elsewhere. For
/// a start or a reload that wants its servers before its first request; put a time limit on it.
pub async fn settled(pools: &Pools) {
    let mut changes = pools.changes();
    while !pools.unresolved().is_empty() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn resolve_again_and_again(pools: Arc<Pools>, host: String, name_servers: NameServers) {
    let mut failing = false;
    loop {
        let limit = Duration::from_millis(RESOLVE_TIMEOUT_MS);
        let found = tokio::time::timeout(limit, look_up(&host, &name_servers)).await;
        let wait = match found.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(answer) => {
                if failing {
                    tracing::info!(name = host, "name resolves again");
                }
                failing = false;
                spread(&pools, &host, &answer.addresses);
                answer.valid
            }
            Err(reason) => {
                if !failing {
                    tracing::warn!(name = host, reason, "name does not resolve: the last good answer stays");
                }
                failing = true;
                Duration::from_millis(RESOLVE_RETRY_MS)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Tells every pool that has the name.
fn spread(pools: &Pools, host: &str, addresses: &[IpAddr]) {
    for pool in pools.all().values() {
        // Asked first: a change makes every picker look again.
        let is_news = pool.roster().set_resolved(host, addresses.to_vec());
        if is_news {
            pool.change_servers(|_| {});
            pools.note_change();
            tracing::info!(pool = &**pool.name(), name = host, addresses = ?addresses, "name resolved");
        }
    }
}

/// Looks up a name that no pool has, once.
///
/// # Errors
/// It has no address, or nobody told one in time; a text for the operator.
pub async fn addresses(host: &str, name_servers: &NameServers) -> Result<Vec<IpAddr>, String> {
    let limit = Duration::from_millis(RESOLVE_TIMEOUT_MS);
    let found = tokio::time::timeout(limit, look_up(host, name_servers)).await;
    found.unwrap_or_else(|_| Err("no answer in time".to_owned())).map(|answer| answer.addresses)
}

async fn look_up(host: &str, name_servers: &NameServers) -> Result<Answer, String> {
    let resolver = resolver(name_servers)?;
    let found = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    if addresses.len() > ADDRESSES_PER_NAME_MAX {
        let left_out = addresses.len() - ADDRESSES_PER_NAME_MAX;
        tracing::warn!(name = host, left_out, "more addresses than one name may have: the last are left out");
        addresses.truncate(ADDRESSES_PER_NAME_MAX);
    }
    let valid = found.valid_until().saturating_duration_since(Instant::now().into_std());
    let (least, most) = (Duration::from_millis(RESOLVE_MIN_MS), Duration::from_millis(RESOLVE_MAX_MS));
    Ok(Answer { addresses, valid: valid.clamp(least, most) })
}

/// A new one for each lookup: it reads the system's files as they are now, and has no cache, so
/// that the time to live is kept in one place.
fn resolver(name_servers: &NameServers) -> Result<TokioResolver, String> {
    let mut known = None;
    let mut builder = match name_servers {
        NameServers::System => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        NameServers::Copies(copies) => {
            let (resolv_conf, hosts) = copies.current();
            known = Some(static_hosts(&hosts)?);
            let (config, options) = parse_resolv_conf(resolv_conf).map_err(|error| error.to_string())?;
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options;
            builder
        }
        NameServers::At(addresses) => {
            let servers = addresses.iter().map(|address| name_server(*address)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    if !matches!(name_servers, NameServers::System) {
        options.use_hosts_file = ResolveHosts::Never;
    }
    let mut resolver = builder.build().map_err(|error| error.to_string())?;
    if let Some(known) = known {
        resolver.set_hosts(Arc::new(known));
    }
    Ok(resolver)
}

fn static_hosts(text: &str) -> Result<Hosts, String> {
    let mut hosts = Hosts::default();
    hosts.read_hosts_conf(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(hosts)
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connection = |protocol: ProtocolConfig| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
    NameServerConfig::new(address.ip(), true, connections)
}
