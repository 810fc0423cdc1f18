//! What happens around the hot path: sockets come and go, listeners and pools are replaced.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumun_config::checked::{self as config, Bandwidth, BindAddress, Config, Listener, Name, Quic, Stream};
use sumun_engine::Worker;
use sumun_engine::accept::Admittance;
use sumun_engine::access_log::LogSender;
use sumun_engine::kept::{Table, lock};
use sumun_engine::listening::{Acceptor, Socket};
use sumun_engine::telemetry::{Family, names};
use sumun_engine::tls::{Tls, TlsConnector};
use sumun_pools::Pools;
use sumun_traffic::pacer::Pacer;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::backend::{Backend, Backends};
use crate::events::Event;
use crate::front::{Front, Way};
use crate::limits::{CONNECTION_IDS, ID_IDLE_TIMES};
use crate::metrics::Metrics;
use crate::path::datagrams::Desk;
use crate::path::{self, open::Door};
use crate::quic::{Learnt, Router};
use sumun_engine::pace::{Both, ListenerPace, pacers};

/// What the workers of one process share of the switch.
#[derive(Debug)]
pub struct Switch {
    metrics: Metrics,
    pools: Arc<Pools>,
    tls: Arc<Tls>,
    admittances: Table<Name, Admittance>,
    /// By their bandwidth, too: another one begins anew, and connections keep what they began with.
    listener_paces: Table<(Name, Bandwidth), ListenerPace>,
    pool_paces: Table<(Name, u64), Both<Pacer>>,
    /// Connection ids of QUIC; workers share them, since a client that moves may come to any of them.
    learnt: Table<Name, Learnt>,
}

impl Switch {
    #[must_use]
    pub fn new(pools: Arc<Pools>, tls: Arc<Tls>) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::default(),
            pools,
            tls,
            admittances: Table::default(),
            listener_paces: Table::default(),
            pool_paces: Table::default(),
            learnt: Table::default(),
        })
    }

    /// A config is about to be applied by the workers; for the control thread.
    pub fn prepare(&self, config: &Config) {
        self.metrics.follow(config);
        let mut admittances = lock(&self.admittances);
        admittances.name(|name| config.listeners.get(name).is_some_and(|listener| listener.stream.is_some()));
        admittances.let_go(|_| {});
        drop(admittances);
        let mut paces = lock(&self.listener_paces);
        paces.name(|(name, bandwidth)| {
            config.listeners.get(name).is_some_and(|listener| listener.bandwidth == *bandwidth)
        });
        paces.let_go(|_| {});
        drop(paces);
        let mut paces = lock(&self.pool_paces);
        paces.name(|(name, bandwidth)| config.pools.get(name).is_some_and(|pool| pool.bandwidth == *bandwidth));
        paces.let_go(|_| {});
        drop(paces);
        let mut learnt = lock(&self.learnt);
        learnt.name(|name| config.listeners.get(name).is_some_and(|listener| quic_of(listener).is_some()));
        learnt.let_go(|_| {});
    }

    fn listener_pace(&self, listener: &Listener) -> Option<Arc<ListenerPace>> {
        let bandwidth = listener.bandwidth;
        let key = (Arc::clone(&listener.name), bandwidth);
        let has_any = bandwidth != Bandwidth::default();
        has_any.then(|| lock(&self.listener_paces).value(key, 0, || ListenerPace::new(bandwidth)))
    }

    fn pool_pace(&self, pool: &config::Pool) -> Option<Arc<Both<Pacer>>> {
        let bandwidth = pool.bandwidth;
        let key = (Arc::clone(&pool.name), bandwidth);
        (bandwidth > 0).then(|| lock(&self.pool_paces).value(key, 0, || pacers(bandwidth)))
    }

    fn router(&self, listener: &Listener) -> Option<Rc<Router>> {
        let quic = quic_of(listener)?;
        let learnt = lock(&self.learnt).value(Arc::clone(&listener.name), 0, || Learnt::new(CONNECTION_IDS));
        let lifetime_ms = ID_IDLE_TIMES.saturating_mul(listener.bounds.idle.as_millis() as u64);
        Some(Rc::new(Router::new(learnt, quic.server_id.as_ref(), lifetime_ms)))
    }

    /// All counters, and the connections that are open now.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut connections = Family::gauge(names::LISTENER_CONNECTIONS, "Connections of clients that are open now.");
        let mut refused = Family::counter(
            names::LISTENER_REFUSED,
            "Connections that were closed unanswered: a bound in all (full), for one client (client), its rate (rate), allow and deny (denied), or own limits (own_limits).",
        );
        let mut table = lock(&self.admittances);
        table.let_go(|_| {});
        for (name, shared) in table.iter() {
            let sum = |counter: &dyn Fn(&Admittance) -> &AtomicU64| {
                shared.iter().map(|one| counter(one).load(Ordering::Relaxed)).sum::<u64>()
            };
            let open = shared.iter().map(|one| u64::from(one.connections())).sum::<u64>();
            connections.push(&[("listener", name)], open);
            for (cause, count) in [
                ("full", sum(&|one| &one.refused_full)),
                ("client", sum(&|one| &one.refused_client)),
                ("rate", sum(&|one| &one.refused_rate)),
                ("denied", sum(&|one| &one.denied)),
                ("own_limits", sum(&|one| &one.refused_own_limits)),
            ] {
                refused.push(&[("listener", name), ("cause", &cause.into())], count);
            }
        }
        drop(table);
        let mut families = self.metrics.families();
        families.push(connections);
        families.push(refused);
        families
    }

    fn admittance(&self, listener: &Listener) -> Arc<Admittance> {
        let (connections, per_client) = (listener.bounds.connections, listener.bounds.per_client);
        let make = || Admittance::new(connections, per_client);
        let admittance = lock(&self.admittances).value(Arc::clone(&listener.name), 0, make);
        admittance.change(connections, per_client);
        admittance.change_rate(listener.bounds.connection_rate);
        admittance
    }
}

/// A socket that this worker can wait on, and does not accept from yet.
struct Taken {
    listener: Name,
    address: BindAddress,
    at: At,
}

/// Where a listener is reached.
enum At {
    Connections(Acceptor),
    Datagrams(UdpSocket),
}

impl At {
    fn new(address: &BindAddress, descriptor: OwnedFd) -> io::Result<Self> {
        match address {
            BindAddress::Udp(_) => UdpSocket::from_std(descriptor.into()).map(Self::Datagrams),
            BindAddress::Tcp(_) | BindAddress::Unix(_) => Acceptor::new(address, descriptor).map(Self::Connections),
        }
    }
}

/// A task that accepts on one socket.
struct Accepting {
    listener: Name,
    address: BindAddress,
    task: AbortHandle,
    /// What it speaks may change while it accepts.
    door: Rc<RefCell<Door>>,
}

/// A socket that accepts for a listener.
pub(crate) struct Listening {
    /// The listener's newest settings: a reload puts others in here.
    pub(crate) front: Rc<RefCell<Rc<Front>>>,
    pub(crate) door: Rc<RefCell<Door>>,
}

/// The switch on one worker.
pub struct LocalStream {
    switch: Arc<Switch>,
    worker: Rc<Worker>,
    fronts: HashMap<Name, Rc<RefCell<Rc<Front>>>>,
    backends: Backends,
    accepting: Vec<Accepting>,
    /// For the next config.
    taken: Vec<Taken>,
    /// Made with the first socket for datagrams.
    desk: Option<Rc<RefCell<Desk>>>,
    log: Rc<LogSender>,
}

impl LocalStream {
    /// Starts with no listener.
    #[must_use]
    pub fn new(switch: Arc<Switch>, worker: Rc<Worker>, log: Rc<LogSender>) -> Self {
        Self {
            switch,
            worker,
            fronts: HashMap::new(),
            backends: Backends::new(),
            accepting: Vec::new(),
            taken: Vec::new(),
            desk: None,
            log,
        }
    }

    /// Takes the sockets that are new in the next config. All that can go wrong with it goes wrong here,
    /// where nothing has changed yet.
    ///
    /// # Errors
    /// A descriptor is no socket of its kind; none of them is kept.
    pub fn take(&mut self, sockets: Vec<Socket>) -> io::Result<()> {
        let taken = sockets.into_iter().map(|Socket { listener, address, descriptor }| {
            let at = At::new(&address, descriptor)?;
            Ok(Taken { listener, address, at })
        });
        self.taken = taken.collect::<io::Result<Vec<Taken>>>()?;
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
        let mut wanted = HashMap::new();
        for (name, listener) in &config.listeners {
            let Some(stream) = &listener.stream else { continue };
            let Some(way) = self.way(stream) else { continue };
            wanted.insert(Arc::clone(name), Arc::clone(listener));
            let front = Rc::new(Front {
                config: Arc::clone(listener),
                way,
                trusted_proxies: Rc::clone(&trusted),
                admittance: self.switch.admittance(listener),
                cell: self.switch.metrics.listener(name, self.worker.index),
                pace: self.switch.listener_pace(listener),
                quic: self.switch.router(listener),
                newcomers: self.fronts.get(name).map(|front| Rc::clone(&front.borrow().newcomers)).unwrap_or_default(),
                log: Rc::clone(&self.log),
            });
            match self.fronts.get(name) {
                Some(cell) => *cell.borrow_mut() = front,
                None => drop(self.fronts.insert(Arc::clone(name), Rc::new(RefCell::new(front)))),
            }
        }
        self.fronts.retain(|name, _| wanted.contains_key(name));
        let tls = Arc::clone(&self.switch.tls);
        self.accepting.retain(|Accepting { listener: name, address, task, door }| {
            let stays = wanted.get(name).is_some_and(|listener| listener.bind.contains(address));
            if stays {
                *door.borrow_mut() = tls.listener(name, address);
            } else {
                task.abort();
            }
            stays
        });
        for Taken { listener: name, address, at } in std::mem::take(&mut self.taken) {
            let Some(front) = self.fronts.get(&name) else { continue };
            let door = Rc::new(RefCell::new(tls.listener(&name, &address)));
            let listening = Listening { front: Rc::clone(front), door: Rc::clone(&door) };
            let worker = Rc::clone(&self.worker);
            let task = match at {
                At::Connections(acceptor) => tokio::task::spawn_local(accept(listening, acceptor, worker)),
                At::Datagrams(socket) => {
                    let desk = Rc::clone(self.desk.get_or_insert_with(Rc::default));
                    tokio::task::spawn_local(path::datagrams::receive(listening, socket, desk, worker))
                }
            };
            let task = task.abort_handle();
            self.accepting.push(Accepting { listener: name, address, task, door });
        }
    }

    fn way(&self, stream: &Stream) -> Option<Way> {
        match stream {
            Stream::Tcp(pool) => self.backends.get(pool).cloned().map(Way::To),
            Stream::Udp(udp) => self.backends.get(&udp.pool).map(|to| Way::Datagrams(Rc::clone(to), udp.clone())),
            Stream::Sni(sni) => {
                let to = |name: &Name| Some((Arc::clone(name), Rc::clone(self.backends.get(name)?)));
                Some(Way::ByName(sni.clone(), sni.pools().filter_map(to).collect()))
            }
        }
    }

    fn apply_pools(&mut self, config: &Config) {
        let used: Vec<&Name> =
            config.listeners.values().flat_map(|listener| &listener.stream).flat_map(Stream::pools).collect();
        let (switch, worker) = (&self.switch, self.worker.index);
        let before = std::mem::take(&mut self.backends);
        for name in used {
            if self.backends.contains_key(name) {
                continue;
            }
            let Some((pool, settings)) = switch.pools.pool(name).zip(config.pools.get(name)) else { continue };
            let tls = switch.tls.pool(name);
            let there = before.get(name).filter(|backend| Arc::ptr_eq(&backend.pool, &pool));
            let same = there.filter(|there| there.config == *settings && there.dialer.speaks(tls.as_ref()));
            let backend = same.map(Rc::clone).unwrap_or_else(|| {
                let tls = tls.map(|tls| TlsConnector::new(tls, worker));
                let (cell, pace) = (switch.metrics.pool(name, worker), switch.pool_pace(settings));
                let backend = Backend::new(&pool, settings, cell, pace, tls);
                if let Some(there) = there {
                    backend.picker.borrow_mut().inherit(&there.picker.borrow());
                }
                Rc::new(backend)
            });
            self.backends.insert(Arc::clone(name), backend);
        }
    }
}

fn quic_of(listener: &Listener) -> Option<&Quic> {
    match &listener.stream {
        Some(Stream::Udp(udp)) => udp.quic.as_ref(),
        _ => None,
    }
}

/// A listener's accept loop on one worker.
async fn accept(listening: Listening, acceptor: Acceptor, worker: Rc<Worker>) {
    let failed = |error: &io::Error| {
        Event::AcceptFailed { listener: &listening.front.borrow().config.name, error }.write();
    };
    acceptor.run(&worker, |transport, peer| path::begin(transport, peer, &listening, &worker), failed).await;
}
