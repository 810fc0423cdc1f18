//! All pools of the process, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use sumun_config::checked::{Config, Name};
use tokio::sync::watch;

use crate::pool::Pool;

/// All pools. Made once, then changed by difference.
#[derive(Debug)]
pub struct Pools {
    by_name: ArcSwap<BTreeMap<Name, Arc<Pool>>>,
    started: Instant,
    /// Signs sticky cookies of pools that name no secret of their own.
    host_secret: Arc<[u8]>,
    /// One change at a time.
    changing: Mutex<()>,
    /// Counts changes of pools and servers: whom the control tasks look after.
    changes: watch::Sender<u64>,
    /// Counts what operators did.
    operations: watch::Sender<u64>,
    /// The TCP ports that this process can connect to; any where nobody said.
    ports: OnceLock<BTreeSet<u16>>,
}

impl Pools {
    /// No pools yet. `started` is the zero of all times in milliseconds, the same that the
    /// workers' clocks have. `host_secret` is the key that this host keeps for sticky cookies.
    pub fn new(started: Instant, host_secret: &[u8]) -> Self {
        Self {
            by_name: ArcSwap::default(),
            started,
            host_secret: host_secret.into(),
            changing: Mutex::new(()),
            changes: watch::channel(0).0,
            operations: watch::channel(0).0,
            ports: OnceLock::new(),
        }
    }

    /// This process can connect to no other TCP ports than these for as long as it lives: servers at
    /// others cannot be added. The first word holds.
    pub fn limit_ports(&self, ports: BTreeSet<u16>) {
        if self.ports.set(ports).is_err() {
            tracing::debug!("the TCP ports were limited before");
        }
    }

    /// Whether this process can connect to this TCP port.
    pub(crate) fn can_reach(&self, port: u16) -> bool {
        self.ports.get().is_none_or(|ports| ports.contains(&port))
    }

    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.by_name.load().get(name).cloned()
    }

    pub fn all(&self) -> Arc<BTreeMap<Name, Arc<Pool>>> {
        self.by_name.load_full()
    }

    /// Makes the pools what `config` says: a pool that is in both lives on, and in it the servers
    /// whose name and address stayed. Leases of what went away stay good until they are dropped.
    pub fn apply(&self, config: &Config) {
        let one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.by_name.load_full();
        let mut after = BTreeMap::new();
        for (name, settings) in &config.pools {
            let pool = match before.get(name) {
                Some(pool) => {
                    if *pool.settings() != **settings {
                        pool.change_servers(|roster| roster.set_settings(settings, &self.host_secret));
                    }
                    Arc::clone(pool)
                }
                None => Pool::new(settings, &self.host_secret, self.started),
            };
            after.insert(Arc::clone(name), pool);
        }
        self.by_name.store(Arc::new(after));
        drop(one_at_a_time);
        self.note_change();
    }

    /// The zero of all times.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Milliseconds since the process started.
    pub fn now_ms(&self) -> u64 {
        crate::pool::milliseconds(self.started.elapsed())
    }

    /// Wakes the control tasks: servers came or went.
    pub(crate) fn note_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Told whenever an operator changed a server: what the next process has to know has changed.
    pub fn operations(&self) -> watch::Receiver<u64> {
        self.operations.subscribe()
    }

    pub(crate) fn note_operation(&self) {
        self.operations.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
