//! What is in force: built on the control thread, taken up by the workers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sumun_config::checked::{self, BindAddress, Config, Name};

use super::client::{self, TlsPool};
use super::limits::MATERIAL_BYTES;
use super::material::Material;
use super::metrics::{self, Counts};
use super::server::{self, Making, TlsListener};
use super::tickets::Ticketer;
use crate::acme::{self, Challenges};
use crate::telemetry::Family;

/// TLS of all listeners and pools of the process.
#[derive(Debug)]
pub struct Tls {
    workers: usize,
    ticketer: Arc<Ticketer>,
    making: Mutex<Making>,
    slots: Mutex<Slots>,
}

/// Reached by the control thread, and by a worker that takes up another config.
#[derive(Debug, Default)]
struct Slots {
    listeners: BTreeMap<(Name, BindAddress), Arc<TlsListener>>,
    pools: BTreeMap<Name, Arc<TlsPool>>,
    /// How authorities of ACME are spoken to, by the file of those that their certificates may come
    /// from.
    directories: BTreeMap<Option<PathBuf>, Arc<TlsPool>>,
    expiries: Vec<(&'static str, Arc<str>, Arc<str>, u64)>,
}

impl Tls {
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers, ticketer: Ticketer::new(), making: Mutex::default(), slots: Mutex::default() })
    }

    /// Everything that the config and the files say, from the next connection on. Connections that
    /// are open are not touched; sessions with servers are kept where nothing changed.
    ///
    /// # Errors
    /// Nothing was changed; a text for the operator, which names the file.
    pub fn apply(&self, config: &Config, material: &Material) -> Result<(), String> {
        if material.bytes() > MATERIAL_BYTES {
            return Err(format!("certificates and authorities of more than {} MiB", MATERIAL_BYTES / (1024 * 1024)));
        }
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = self.build(config, material, &mut making);
        if applied.is_err() {
            // Keys of a config that was refused are not to stay.
            making.pairs.begin();
        }
        applied
    }

    fn build(&self, config: &Config, material: &Material, making: &mut Making) -> Result<(), String> {
        making.pairs.begin();
        let mut built_listeners = Vec::new();
        let mut same: Vec<(&checked::ListenerTls, Arc<server::Built>)> = Vec::new();
        for listener in config.listeners.values() {
            for (address, tls) in &listener.tls {
                let known = same.iter().find(|(known, _)| *known == &**tls).map(|(_, built)| Arc::clone(built));
                let built = match known {
                    Some(built) => built,
                    None => {
                        let before = self.listener(&listener.name, address).map(|listener| listener.current());
                        let built = server::build(tls, material, &self.ticketer, making, before);
                        let built = built.map_err(|why| format!("listener {}: {why}", listener.name))?;
                        same.push((tls, Arc::clone(&built)));
                        built
                    }
                };
                built_listeners.push(((Arc::clone(&listener.name), address.clone()), built));
            }
        }
        let mut built_pools = Vec::new();
        for (name, pool) in &config.pools {
            if let Some(tls) = &pool.tls {
                let before = self.pool(name).map(|pool| pool.current());
                let built = client::build(tls, material, &mut making.pairs, before);
                let built = built.map_err(|why| format!("pool {name}: {why}"))?;
                built_pools.push((Arc::clone(name), built));
            }
        }
        let mut directories = BTreeMap::new();
        for (names, acme) in acme::all(config).into_values().filter(|(_, acme)| acme.directory.is_secure) {
            let before = self.directory(acme.ca.as_deref()).map(|directory| directory.current());
            let built = client::build(&tls_of_directory(acme), material, &mut making.pairs, before);
            let built = built.map_err(|why| format!("certificate {}: {why}", names.id))?;
            directories.insert(acme.ca.clone(), built);
        }
        making.pairs.settle();
        self.ticketer.change(&material.tickets);
        self.swap(built_listeners, built_pools, directories);
        Ok(())
    }

    fn swap(
        &self,
        built_listeners: Vec<((Name, BindAddress), Arc<server::Built>)>,
        built_pools: Vec<(Name, Arc<client::Built>)>,
        built_directories: BTreeMap<Option<PathBuf>, Arc<client::Built>>,
    ) {
        let mut slots = self.lock();
        let mut expiries: Vec<(&'static str, Arc<str>, Arc<str>, u64)> = Vec::new();
        let mut listeners: BTreeMap<(Name, BindAddress), Arc<TlsListener>> = BTreeMap::new();
        for (key, built) in built_listeners {
            for (name, seconds) in &built.expiries {
                expiries.push(("listener", Arc::clone(&key.0), Arc::clone(name), *seconds));
            }
            let slot = match slots.listeners.get(&key) {
                Some(slot) => {
                    slot.change(built);
                    Arc::clone(slot)
                }
                None => {
                    // Addresses of one listener are counted together.
                    let sibling = |slots: &BTreeMap<(Name, BindAddress), Arc<TlsListener>>| {
                        slots.iter().find(|(other, _)| other.0 == key.0).map(|(_, slot)| Arc::clone(slot.counts()))
                    };
                    let counts = sibling(&listeners).or_else(|| sibling(&slots.listeners));
                    TlsListener::new(built, counts.unwrap_or_else(|| Counts::new(self.workers)))
                }
            };
            listeners.insert(key, slot);
        }
        let mut pools = BTreeMap::new();
        for (name, built) in built_pools {
            if let Some((title, seconds)) = &built.expiry {
                expiries.push(("pool", Arc::clone(&name), Arc::clone(title), *seconds));
            }
            let slot = match slots.pools.get(&name) {
                Some(slot) => {
                    slot.change(built);
                    Arc::clone(slot)
                }
                None => TlsPool::new(built, Counts::new(self.workers)),
            };
            pools.insert(name, slot);
        }
        let slot = |(ca, built): (Option<PathBuf>, Arc<client::Built>)| {
            let slot = match slots.directories.get(&ca) {
                Some(slot) => {
                    slot.change(built);
                    Arc::clone(slot)
                }
                None => TlsPool::new(built, Counts::new(self.workers)),
            };
            (ca, slot)
        };
        let directories = built_directories.into_iter().map(slot).collect();
        expiries.sort();
        // The same certificate on several addresses, or for several kinds of key: the one that
        // expires first is what matters.
        expiries.dedup_by(|next, kept| (next.0, &next.1, &next.2) == (kept.0, &kept.1, &kept.2));
        *slots = Slots { listeners, pools, directories, expiries };
    }

    /// `None`: the address is plain.
    #[must_use]
    pub fn listener(&self, name: &Name, address: &BindAddress) -> Option<Arc<TlsListener>> {
        self.lock().listeners.get(&(Arc::clone(name), address.clone())).cloned()
    }

    /// `None`: its servers are spoken to without TLS.
    #[must_use]
    pub fn pool(&self, name: &Name) -> Option<Arc<TlsPool>> {
        self.lock().pools.get(name).cloned()
    }

    /// How authorities of ACME are spoken to whose certificates may come from those in this file, or
    /// from the host's.
    #[must_use]
    pub fn directory(&self, ca: Option<&Path>) -> Option<Arc<TlsPool>> {
        self.lock().directories.get(&ca.map(Path::to_owned)).cloned()
    }

    /// What authorities look for while an order is in flight.
    #[must_use]
    pub fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.making.lock().unwrap_or_else(PoisonError::into_inner).obtained.challenges)
    }

    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let slots = self.lock();
        let mut listeners: Vec<(Arc<str>, metrics::HandshakeCounts)> = Vec::new();
        for ((name, _), slot) in &slots.listeners {
            if listeners.last().is_none_or(|(last, _)| last != name) {
                listeners.push((Arc::clone(name), slot.counts().sum()));
            }
        }
        let pools: Vec<_> = slots.pools.iter().map(|(name, slot)| (Arc::clone(name), slot.counts().sum())).collect();
        metrics::families(&listeners, &pools, &slots.expiries)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An authority is verified, whatever it says of itself.
fn tls_of_directory(acme: &checked::Acme) -> checked::PoolTls {
    checked::PoolTls {
        verify: true,
        ca: acme.ca.clone(),
        sni: None,
        identity: None,
        min_version: checked::TlsVersion::V1_2,
    }
}
