//! What happens around the hot path: sockets come and go, routes are replaced, idle ends.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sumun_config::checked::{self as config, Bandwidth, BindAddress, Config, Name};
use sumun_engine::Worker;
use sumun_engine::accept::Admittance;
use sumun_engine::access_log::LogSender;
use sumun_engine::kept::{self, Table};
use sumun_engine::listening::{Acceptor, Socket};
use sumun_engine::pace::{Both, ListenerPace, pacers};
use sumun_engine::tls::{Tls, TlsConnector};
use sumun_pools::redis::{self, Redis};
use sumun_pools::{Admission, AdmissionLimits, Pools};
use sumun_traffic::pacer::Pacer;
use tokio::task::AbortHandle;

use crate::asn::AsnTables;
use crate::blocks::{Blocked, Blocks, Guard};
use crate::cache::{Cache, Caching};
use crate::events::Event;
use crate::files::{DiskGate, FileCache, FileRoot};
use crate::limiting::Limiting;
use crate::limits::{ERROR_PAGE_BYTES, FILES_SWEEP, IDLE_SWEEP};
use crate::metrics::{Metrics, NO_ROUTE};
use crate::path::{self, open::Door};
use crate::rooms::Rooms;
use crate::sharing::{self, Told};
use crate::site::{self, Action, Route, Site};
use crate::traffic::{Traffic, Watcher, Watchers};
use crate::upstream::LocalPool;

/// What the workers of one process share of the gateway.
#[derive(Debug)]
pub struct Gateway {
    pub metrics: Metrics,
    pub rooms: Rooms,
    pools: Arc<Pools>,
    tls: Arc<Tls>,
    /// This process's element of `CDN-Loop`.
    loop_id: String,
    admittances: Table<Name, Admittance>,
    /// Of routes with a `concurrency`, by listener and route.
    admissions: Table<(Name, Name), Admission>,
    /// Roots of files, opened once for all workers.
    roots: Mutex<Vec<(config::Files, Arc<FileRoot>)>>,
    /// Contents of error pages.
    pages: Mutex<BTreeMap<PathBuf, Arc<[u8]>>>,
    disk: Arc<DiskGate>,
    limiting: Limiting,
    pub(crate) redis: Arc<Redis>,
    /// Taken by who keeps it connected.
    link: Mutex<Option<redis::Link>>,
    pub(crate) told: Told,
    /// By their bandwidth, too: another one begins anew.
    listener_paces: Table<(Name, Bandwidth), ListenerPace>,
    route_paces: Table<(Name, Name, u64), Both<Pacer>>,
    pub(crate) blocks: Arc<Blocks>,
    watchers: Watchers,
    asn: Arc<AsnTables>,
    pub(crate) cache: Arc<Cache>,
    /// Of the hash tables that clients' texts go into, the same for all workers.
    seed: u64,
}

impl Gateway {
    /// `instance` tells this gateway from all others that speak to the same servers; with `cache_secret` keys of
    /// the cache are made, and what is on disk is found again by the one it was stored with.
    #[must_use]
    pub fn new(pools: Arc<Pools>, tls: Arc<Tls>, rooms: Rooms, instance: &str, cache_secret: [u8; 16]) -> Arc<Self> {
        let disk = DiskGate::new();
        let blocks = Arc::new(Blocks::new(pools.started()));
        let (redis, link) = Redis::new();
        Arc::new(Self {
            metrics: Metrics::default(),
            rooms,
            pools,
            tls,
            loop_id: format!("sumun-{instance}"),
            admittances: Mutex::default(),
            admissions: Mutex::default(),
            roots: Mutex::default(),
            pages: Mutex::default(),
            cache: Cache::new(0, cache_secret),
            disk,
            limiting: Limiting::default(),
            redis: Arc::new(redis),
            link: Mutex::new(Some(link)),
            told: Told::default(),
            listener_paces: Table::default(),
            route_paces: Table::default(),
            blocks,
            watchers: Watchers::default(),
            asn: Arc::default(),
            seed: fastrand::u64(..),
        })
    }

    /// Who asks for what, most of all, in the last one to two minutes.
    pub async fn traffic(&self) -> Traffic {
        self.watchers.ask(&self.asn).await
    }

    /// Clients that are blocked now, who is free first at the top.
    #[must_use]
    pub fn blocks(&self) -> Vec<Blocked> {
        self.blocks.list()
    }

    /// Ends the block of a client. False: it is not blocked.
    pub fn lift_block(&self, client: std::net::IpAddr) -> bool {
        self.blocks.lift(client)
    }

    /// Connections open now, by listener.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<Name, u32> {
        let mut table = kept::lock(&self.admittances);
        table.let_go(|_| {});
        let connections = |shared: &[Arc<Admittance>]| shared.iter().map(|one| one.connections()).sum();
        table.iter().map(|(name, shared)| (Arc::clone(name), connections(shared))).collect()
    }

    /// Listener, and connections refused by cause.
    pub(crate) fn refused_connections(&self) -> Vec<(Name, [(&'static str, u64); 5])> {
        let mut table = kept::lock(&self.admittances);
        table.let_go(|_| {});
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rows = table.iter().flat_map(|(name, shared)| shared.iter().map(move |admittance| (name, admittance)));
        let row = |(name, admittance): (&Name, &Arc<Admittance>)| {
            let causes = [
                ("full", read(&admittance.refused_full)),
                ("client", read(&admittance.refused_client)),
                ("rate", read(&admittance.refused_rate)),
                ("denied", read(&admittance.denied)),
                ("own_limits", read(&admittance.refused_own_limits)),
            ];
            (Arc::clone(name), causes)
        };
        rows.map(row).collect()
    }

    /// Does what a config needs from the disk: opens roots, reads error pages. For the control
    /// thread, before the workers apply the config; what is not needed any more is let go, at once
    /// or when its last connection or request has ended.
    pub fn prepare(&self, config: &Config) {
        self.metrics.follow(config);
        self.blocks.follow(config);
        self.asn.follow(&config.asn_table);
        self.cache.follow(config);
        self.follow(config);
        self.rooms.prepare(config, &self.redis);
        let routes = || config.listeners.values().flat_map(|listener| &listener.routes);
        let wanted = || routes().flat_map(|route| route.roots());
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        roots.retain(|(settings, _)| wanted().any(|files| files == settings));
        for files in wanted() {
            if roots.iter().all(|(settings, _)| settings != files) {
                match FileRoot::open(files) {
                    Ok(root) => roots.push((files.clone(), root)),
                    Err(error) => Event::RootUnreadable { root: &files.root, error: &error }.write(),
                }
            }
        }
        let mut pages = BTreeMap::new();
        for path in config.listeners.values().flat_map(|listener| listener.error_pages.values()) {
            match sumun_host::files::read_bounded(path, ERROR_PAGE_BYTES) {
                Ok(bytes) => drop(pages.insert(path.clone(), Arc::from(bytes))),
                Err(error) => Event::PageUnreadable { page: path, error: &error }.write(),
            }
        }
        *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = pages;
    }

    /// Shares with other gateways what the config says, for as long as it is polled. For the control thread.
    pub async fn share(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(link) = link {
            let connected = redis::run(link, Arc::clone(&self.pools), Arc::clone(&self.tls));
            let told = sharing::run(&self.limiting, &self.redis, &self.told, self.pools.started());
            tokio::join!(connected, told, self.rooms.look());
        }
    }

    fn follow(&self, config: &Config) {
        self.redis.follow(config.shared.as_ref());
        self.limiting.follow(config);
        let mut paces = kept::lock(&self.listener_paces);
        paces.name(|(name, bandwidth)| {
            config.listeners.get(name).is_some_and(|listener| listener.bandwidth == *bandwidth)
        });
        paces.let_go(|_| {});
        drop(paces);
        let mut paces = kept::lock(&self.route_paces);
        paces.name(|(listener, name, bandwidth)| {
            let mut routes = config.listeners.get(listener).into_iter().flat_map(|listener| &listener.routes);
            routes.any(|route| route.name == *name && route.bandwidth == *bandwidth)
        });
        paces.let_go(|_| {});
        drop(paces);
        let mut admittances = kept::lock(&self.admittances);
        admittances.name(|name| config.listeners.get(name).is_some_and(|listener| listener.stream.is_none()));
        admittances.let_go(|_| {});
        drop(admittances);
        let limited: BTreeSet<(&Name, &Name)> = config
            .listeners
            .values()
            .flat_map(|listener| listener.routes.iter().map(move |route| (&listener.name, route)))
            .filter(|(_, route)| route.concurrency != config::Concurrency::Unbounded)
            .map(|(listener, route)| (listener, &route.name))
            .collect();
        let mut admissions = kept::lock(&self.admissions);
        admissions.name(|(listener, route)| limited.contains(&(listener, route)));
        admissions.let_go(|_| {});
    }

    /// The root for these settings; `None` where `prepare` could not open it.
    fn root(&self, files: &config::Files) -> Option<Arc<FileRoot>> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        roots.iter().find(|(settings, _)| settings == files).map(|(_, root)| Arc::clone(root))
    }

    fn error_pages(&self, listener: &config::Listener) -> BTreeMap<u16, Arc<[u8]>> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = |(status, path): (&u16, &PathBuf)| Some((*status, Arc::clone(pages.get(path)?)));
        listener.error_pages.iter().filter_map(page).collect()
    }

    fn listener_pace(&self, listener: &config::Listener) -> Option<Arc<ListenerPace>> {
        let bandwidth = listener.bandwidth;
        let key = (Arc::clone(&listener.name), bandwidth);
        let has_any = bandwidth != Bandwidth::default();
        has_any.then(|| kept::lock(&self.listener_paces).value(key, 0, || ListenerPace::new(bandwidth)))
    }

    fn route_pace(&self, listener: &Name, route: &config::Route) -> Option<Arc<Both<Pacer>>> {
        let bandwidth = route.bandwidth;
        let key = (Arc::clone(listener), Arc::clone(&route.name), bandwidth);
        (bandwidth > 0).then(|| kept::lock(&self.route_paces).value(key, 0, || pacers(bandwidth)))
    }

    fn admission(&self, listener: &Name, route: &config::Route) -> Option<Arc<Admission>> {
        let concurrency = route.concurrency;
        if concurrency == config::Concurrency::Unbounded {
            return None;
        }
        let patience_ms = sumun_pools::patience_ms(route.queue.timeout);
        let limits = AdmissionLimits { concurrency, queue: route.queue.size, patience_ms, self_calls: None };
        let key = (Arc::clone(listener), Arc::clone(&route.name));
        let admission = kept::lock(&self.admissions).value(key, 0, || Admission::new(limits, self.pools.started()));
        admission.set_limits(limits);
        Some(admission)
    }

    /// What an address of a listener speaks, if it is TLS.
    fn door(&self, listener: &config::Listener, address: &BindAddress) -> Option<Door> {
        let tls = listener.tls.get(address)?;
        let subject_header = tls.client_auth.as_ref().map(|auth| Arc::from(auth.header.as_str()));
        Some(Door { tls: self.tls.listener(&listener.name, address)?, subject_header })
    }

    fn admittance(&self, listener: &config::Listener) -> Arc<Admittance> {
        let bounds = &listener.bounds;
        let (connections, per_client) = (bounds.connections, bounds.per_client);
        let make = || Admittance::new(connections, per_client);
        let admittance = kept::lock(&self.admittances).value(Arc::clone(&listener.name), 0, make);
        admittance.change(connections, per_client);
        admittance.change_rate(listener.bounds.connection_rate);
        admittance
    }
}

/// A socket that this worker can wait on, and does not accept from yet.
struct Taken {
    listener: Name,
    address: BindAddress,
    acceptor: Acceptor,
}

/// A task that accepts on one socket.
struct Accepting {
    listener: Name,
    address: BindAddress,
    task: AbortHandle,
    /// What it speaks may change while it accepts.
    door: DoorCell,
}

/// `None`: the address is plain.
type DoorCell = Rc<RefCell<Option<Door>>>;

/// The gateway on one worker.
pub struct LocalGateway {
    gateway: Arc<Gateway>,
    worker: Rc<Worker>,
    sites: HashMap<Name, Rc<RefCell<Rc<Site>>>>,
    pools: Rc<RefCell<HashMap<Name, Rc<LocalPool>>>>,
    accepting: Vec<Accepting>,
    /// For the next config.
    taken: Vec<Taken>,
    files: Rc<FileCache>,
    log: Rc<LogSender>,
    traffic: Rc<Watcher>,
}

impl LocalGateway {
    /// Starts with no listener.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, worker: Rc<Worker>, log: Rc<LogSender>) -> Self {
        let pools: Rc<RefCell<HashMap<Name, Rc<LocalPool>>>> = Rc::default();
        tokio::task::spawn_local(sweep_idle(Rc::clone(&pools), Rc::clone(&worker), Arc::clone(&gateway.blocks)));
        let files = FileCache::new(Arc::clone(&gateway.disk));
        tokio::task::spawn_local(expire_files(Rc::clone(&files), Rc::clone(&worker)));
        let traffic = Rc::new(Watcher::new(worker.clock.coarse_ms(), gateway.seed, &gateway.asn));
        gateway.watchers.enter(Rc::clone(&traffic), Rc::clone(&worker));
        let (sites, accepting, taken) = (HashMap::new(), Vec::new(), Vec::new());
        Self { gateway, worker, sites, pools, accepting, taken, files, log, traffic }
    }

    /// Takes the sockets that are new in the next config. All that can go wrong with it goes wrong here,
    /// where nothing has changed yet.
    ///
    /// # Errors
    /// A descriptor is no listening socket; none of them is kept.
    pub fn take(&mut self, sockets: Vec<Socket>) -> io::Result<()> {
        self.taken = sockets.into_iter().map(Taken::new).collect::<io::Result<Vec<Taken>>>()?;
        Ok(())
    }

    /// Lets go of what was taken: the config does not come.
    pub fn leave(&mut self) {
        self.taken.clear();
    }

    /// Takes over a checked config, and accepts from the sockets that were taken for it. What did not
    /// change is not touched: its connections, pools and counters live on.
    pub fn apply(&mut self, config: &Config) {
        self.apply_pools(config);
        let trusted: Rc<[ipnet::IpNet]> = config.trusted_proxies.clone().into();
        let subject_headers = subject_headers(config);
        let blocks = self.gateway.blocks.guard().map(Rc::new);
        for (name, listener) in config.listeners.iter().filter(|(_, listener)| listener.stream.is_none()) {
            let site = Rc::new(self.build_site(config, listener, &trusted, &subject_headers, blocks.as_ref()));
            match self.sites.get(name) {
                Some(cell) => *cell.borrow_mut() = site,
                None => {
                    self.sites.insert(Arc::clone(name), Rc::new(RefCell::new(site)));
                }
            }
        }
        let gateway = Arc::clone(&self.gateway);
        self.accepting.retain(|Accepting { listener: name, address, task, door }| {
            let is_ours =
                |listener: &&Arc<config::Listener>| listener.stream.is_none() && listener.bind.contains(address);
            let listener = config.listeners.get(name).filter(is_ours);
            match listener {
                Some(listener) => *door.borrow_mut() = gateway.door(listener, address),
                None => task.abort(),
            }
            listener.is_some()
        });
        self.sites.retain(|name, _| config.listeners.get(name).is_some_and(|listener| listener.stream.is_none()));
        for Taken { listener: name, address, acceptor } in std::mem::take(&mut self.taken) {
            let found = self.sites.get(&name).zip(config.listeners.get(&name));
            let Some((site, listener)) = found else { continue };
            let door = Rc::new(RefCell::new(self.gateway.door(listener, &address)));
            let (site, door_too) = (Rc::clone(site), Rc::clone(&door));
            let listening = Listening { name: Arc::clone(&name), site, door: door_too };
            let task =
                tokio::task::spawn_local(path::accept(listening, acceptor, Rc::clone(&self.worker))).abort_handle();
            self.accepting.push(Accepting { listener: name, address, task, door });
        }
    }

    fn apply_pools(&self, config: &Config) {
        let mut pools = self.pools.borrow_mut();
        let mut replaced = Vec::new();
        pools.retain(|name, local| {
            let is_same = config.pools.get(name).is_some_and(|pool| **pool == *local.config);
            // A config that was not taken over by all may have dropped the pool and another brought it back.
            let stays = is_same
                && self.gateway.pools.pool(name).is_some_and(|pool| Arc::ptr_eq(&pool, &local.pool))
                && local.speaks(self.gateway.tls.pool(name).as_ref());
            if !stays {
                local.retire();
                replaced.push(Rc::clone(local));
            }
            stays
        });
        for (name, pool_config) in &config.pools {
            if pools.contains_key(name) {
                continue;
            }
            if let Some(pool) = self.gateway.pools.pool(name) {
                let cell = self.gateway.metrics.pool(name, self.worker.index);
                let tls = self.gateway.tls.pool(name).map(|tls| TlsConnector::new(tls, self.worker.index));
                let local = LocalPool::new(&pool, pool_config, cell, &self.worker, tls);
                if let Some(before) = replaced.iter().find(|before| Arc::ptr_eq(&before.pool, &pool)) {
                    local.picker.borrow_mut().inherit(&before.picker.borrow());
                }
                pools.insert(Arc::clone(name), Rc::new(local));
            }
        }
    }

    fn build_site(
        &self,
        config: &Config,
        listener: &Arc<config::Listener>,
        trusted: &Rc<[ipnet::IpNet]>,
        subject_headers: &Rc<[Arc<str>]>,
        blocks: Option<&Rc<Guard>>,
    ) -> Site {
        let metrics = &self.gateway.metrics;
        let index = self.worker.index;
        let routes: Vec<Rc<Route>> = listener
            .routes
            .iter()
            .filter_map(|route| {
                let cell = metrics.route(&listener.name, &route.name, index);
                let action = self.build_action(route)?;
                let admission = self.gateway.admission(&listener.name, route);
                let pool = route.forward_auth.as_ref().map(|auth| &auth.pool);
                let forward_auth = pool.and_then(|pool| self.pools.borrow().get(pool).map(Rc::clone));
                let mut route = Route::new(route, action, cell, admission, forward_auth);
                let degrade = route.config.degrade.as_ref().and_then(|files| self.gateway.root(files));
                route.degrade = degrade.map(|root| (root, Rc::clone(&self.files)));
                let limits = route.config.limits.iter().filter_map(|name| config.limits.get(name));
                route.limits = limits.map(|limit| self.gateway.limiting.limit(limit, metrics, index)).collect();
                route.pace = self.gateway.route_pace(&listener.name, &route.config);
                let cache = &self.gateway.cache;
                route.caching = route.config.cache.as_ref().map(|cached| {
                    let copied = route.config.forward_auth.iter().flat_map(|auth| auth.copy.iter().cloned());
                    let subjects = subject_headers.iter().map(|name| name.to_string());
                    let own_names = copied.chain(subjects).chain([listener.request_id.to_string()]);
                    Rc::new(Caching::new(cache, (&listener.name, &route.config), cached, own_names))
                });
                let settings = route.config.waiting_room.as_ref();
                route.room = settings.map(|settings| {
                    let gateway = &self.gateway;
                    gateway.rooms.room((&listener.name, &route.config.name), settings, (config, &gateway.redis))
                });
                let settings = route.config.challenge.as_ref();
                route.challenge = settings.map(|settings| self.gateway.rooms.challenge(settings, config));
                Some(Rc::new(route))
            })
            .collect();
        let all_routes = || config.listeners.values().flat_map(|listener| &listener.routes);
        let has_cache = all_routes().any(|route| route.cache.is_some());
        Site {
            priority: routes.iter().map(|route| route.config.priority).min().unwrap_or_default(),
            matches_hosts: listener.routes.iter().any(|route| !route.hosts.is_empty()),
            routes,
            trusted_proxies: Rc::clone(trusted),
            log: Rc::clone(&self.log),
            admittance: self.gateway.admittance(listener),
            cell: metrics.listener(&listener.name, index),
            loop_id: self.gateway.loop_id.as_bytes().into(),
            error_pages: self.gateway.error_pages(listener),
            challenges: self.gateway.tls.challenges(),
            unrouted: metrics.route(&listener.name, &Arc::from(NO_ROUTE), index),
            hsts: listener.hsts.map(site::hsts_value),
            subject_headers: Rc::clone(subject_headers),
            pace: self.gateway.listener_pace(listener),
            traffic: Rc::clone(&self.traffic),
            blocks: blocks.map(Rc::clone),
            cache: has_cache.then(|| Arc::clone(&self.gateway.cache)),
            config: Arc::clone(listener),
        }
    }

    fn build_action(&self, route: &config::Route) -> Option<Action> {
        Some(match &route.action {
            config::Action::Proxy(name) => Action::Proxy(Rc::clone(self.pools.borrow().get(name)?)),
            config::Action::Redirect(_) => Action::Redirect,
            config::Action::Respond(_) => Action::Respond,
            config::Action::Files(files) => Action::Files(self.gateway.root(files)?, Rc::clone(&self.files)),
        })
    }
}

/// Every name that one of the listeners gives to who a client proved to be.
fn subject_headers(config: &Config) -> Rc<[Arc<str>]> {
    let tls = config.listeners.values().flat_map(|listener| listener.tls.values());
    let names: BTreeSet<&str> =
        tls.filter_map(|tls| tls.client_auth.as_ref()).map(|auth| auth.header.as_str()).collect();
    names.into_iter().map(Arc::from).collect()
}

/// Lets go of files that nobody asks for.
async fn expire_files(files: Rc<FileCache>, worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(FILES_SWEEP).await;
        files.expire(worker.clock.unix_seconds());
    }
}

/// Closes idle connections to servers in time; one of the workers frees the places of blocks that have
/// ended, too.
async fn sweep_idle(pools: Rc<RefCell<HashMap<Name, Rc<LocalPool>>>>, worker: Rc<Worker>, blocks: Arc<Blocks>) {
    loop {
        tokio::time::sleep(IDLE_SWEEP).await;
        let now_ms = worker.clock.coarse_ms();
        for pool in pools.borrow().values() {
            pool.sweep(now_ms);
        }
        if worker.index == 0 {
            blocks.sweep();
        }
    }
}

/// A socket that accepts for a listener.
pub(crate) struct Listening {
    pub(crate) name: Name,
    pub(crate) site: Rc<RefCell<Rc<Site>>>,
    pub(crate) door: DoorCell,
}

impl Taken {
    fn new(Socket { listener, address, descriptor }: Socket) -> io::Result<Self> {
        let acceptor = Acceptor::new(&address, descriptor)?;
        Ok(Self { listener, address, acceptor })
    }
}

#[cfg(test)]
mod tests;
