//! Many configs, one after the other, on two workers: nothing is left of those that are gone.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sumun_engine::OwnLimits;
use sumun_engine::access_log::AccessLog;
use sumun_engine::tls::Tls;
use sumun_engine::worker;
use sumun_pools::external::ExternalChecks;
use sumun_pools::{health, resolve};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::*;

const WORKERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);

type Order = Box<dyn FnOnce(&mut LocalGateway) + Send>;

/// A gateway with its workers, as the worker process has it.
struct Running {
    pools: Arc<Pools>,
    gateway: Arc<Gateway>,
    workers: Vec<(UnboundedSender<Order>, JoinHandle<()>)>,
    control: Control,
    /// Where the listener that stays is, and the one that each config names anew.
    sockets: [TcpListener; 2],
    directory: PathBuf,
    _log: AccessLog,
}

/// Looks after the servers, on a thread of its own.
struct Control {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What one worker holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    sites: usize,
    pools: usize,
    accepting: usize,
    tasks: usize,
    deadlines: usize,
}

impl Running {
    fn start() -> Self {
        let started = Instant::now();
        let pools = Arc::new(Pools::new(started, b"key"));
        let rooms = Rooms::new([0; 32], Instant::now(), BTreeMap::new());
        let gateway = Gateway::new(Arc::clone(&pools), Tls::new(WORKERS), rooms, "0", [0; 16]);
        let log = AccessLog::start(WORKERS).unwrap();
        let workers = (0..WORKERS).map(|index| {
            let (orders, mut ordered) = unbounded_channel::<Order>();
            let (gateway, sender) = (Arc::clone(&gateway), log.sender(index));
            let serve = move |worker| async move {
                let mut local = LocalGateway::new(gateway, worker, Rc::new(sender));
                while let Some(order) = ordered.recv().await {
                    order(&mut local);
                }
            };
            (orders, worker::start(index, started, OwnLimits::new(1), serve).unwrap())
        });
        let directory = std::env::temp_dir().join(format!("sumun-reloads-{:032x}", fastrand::u128(..)));
        std::fs::create_dir(&directory).unwrap();
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let control = Control::start(&pools);
        Self { workers: workers.collect(), control, pools, gateway, sockets, directory, _log: log }
    }

    /// A config of which, but for what is called `stays`, nothing is in the one before.
    fn config(&self, number: usize) -> Arc<Config> {
        let [stays, changes] = self.sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let root = self.directory.display();
        let text = format!(
            "pools:
  stays: {{ servers: [\"127.0.0.1:9\"], health: {{ tcp: {{}} }} }}
  p{number}: {{ servers: [\"127.0.0.1:9\", \"s{number}.test:9\"], concurrency: 4, health: {{ tcp: {{}} }} }}
listeners:
  stays:
    bind: \"{stays}\"
    routes:
      - {{ path: /stays, respond: {{ body: stays }} }}
      - {{ path: /r{number}, proxy: p{number}, concurrency: 3 }}
      - {{ path: /f{number}/, files: {{ root: \"{root}\", index: [\"{number}.html\"] }} }}
      - {{ path: /, proxy: stays, concurrency: 2 }}
  l{number}:
    bind: \"{changes}\"
    routes: [{{ path: /, respond: {{ body: gone }}, concurrency: 1 }}]
"
        );
        let checked = sumun_config::check_text("test", &text);
        Arc::new(checked.unwrap_or_else(|report| panic!("{}", report.render(false))).config)
    }

    /// What the worker process does with a config.
    fn apply(&self, number: usize) -> Arc<Config> {
        let config = self.config(number);
        self.pools.apply(&config);
        self.gateway.prepare(&config);
        let new = if number == 0 { 0..2 } else { 1..2 };
        for index in 0..WORKERS {
            let socket = |socket: &TcpListener, listener: &str| Socket {
                listener: listener.into(),
                address: BindAddress::Tcp(socket.local_addr().unwrap()),
                descriptor: socket.try_clone().unwrap().into(),
            };
            let names = ["stays".to_owned(), format!("l{number}")];
            let sockets = new.clone().map(|place| socket(&self.sockets[place], &names[place])).collect();
            let config = Arc::clone(&config);
            self.on(index, move |local| {
                local.take(sockets).unwrap();
                local.apply(&config);
            });
        }
        config
    }

    /// Does something on a worker's thread.
    fn on<T: Send + 'static>(&self, worker: usize, order: impl FnOnce(&mut LocalGateway) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let order = Box::new(move |local: &mut LocalGateway| done.send(order(local)).unwrap());
        assert!(self.workers[worker].0.send(order).is_ok(), "the worker has ended");
        result.recv_timeout(PATIENCE).unwrap()
    }

    fn held(&self) -> Vec<Held> {
        let held = |local: &mut LocalGateway| Held {
            sites: local.sites.len(),
            pools: local.pools.borrow().len(),
            accepting: local.accepting.len(),
            tasks: Handle::current().metrics().num_alive_tasks(),
            deadlines: local.worker.deadlines.len(),
        };
        (0..WORKERS).map(|worker| self.on(worker, held)).collect()
    }

    fn connect(&self, socket: usize) -> TcpStream {
        let stream = TcpStream::connect(self.sockets[socket].local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn route_names(&self) -> BTreeSet<String> {
        self.gateway.metrics.routes().routes.iter().map(|row| format!("{} {}", row.listener, row.route)).collect()
    }

    fn bytes_out(&self) -> u64 {
        self.gateway.metrics.routes().bytes_out
    }
}

impl Control {
    fn start(pools: &Arc<Pools>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let pools = Arc::clone(pools);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                // Nobody answers there.
                let name_servers = resolve::NameServers::At(vec!["127.0.0.1:9".parse().unwrap()]);
                tokio::select! {
                    () = health::run(Arc::clone(&pools), Tls::new(WORKERS), ExternalChecks::of_nobody()) => {}
                    () = resolve::run(pools, name_servers) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { runtime: handle, stop: Some(stop), thread: Some(thread) }
    }

    fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking(), "the control thread panicked");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (orders, thread) in self.workers.drain(..) {
            drop(orders);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a worker panicked");
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// One request on a connection that is kept.
fn get(stream: &mut TcpStream, path: &str, body: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "closed after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&bytes[..count]);
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not seen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names<Value>(table: &Table<Name, Value>) -> Vec<String> {
    kept::lock(table).iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn a_thousand_configs_leave_nothing_but_the_last() {
    const CONFIGS: usize = 1000;
    const LAST: usize = CONFIGS - 1;
    /// A connection to this one's own listener outlives it.
    const LINGERS: usize = 10;

    let running = Running::start();
    let gateway = &running.gateway;
    let mut configs: Vec<Weak<Config>> = vec![Arc::downgrade(&running.apply(0))];
    let mut pools = vec![Arc::downgrade(&running.pools.pool("p0").unwrap())];
    let descriptors = sumun_host::usage::open_descriptors().unwrap();
    let mut stays = running.connect(0);
    let mut lingers = None;
    let mut requests = 0;
    for number in 1..CONFIGS {
        let config = running.apply(number);
        configs.push(Arc::downgrade(&config));
        pools.push(Arc::downgrade(&running.pools.pool(&format!("p{number}")).unwrap()));
        if number == LINGERS {
            get(lingers.insert(running.connect(1)), "/", "gone");
        }
        if number % 100 == LAST % 100 {
            get(&mut stays, "/stays", "stays");
            get(&mut running.connect(1), "/", "gone");
            requests += 1;
        }
    }
    let bytes = "gone".len() + requests * ("stays".len() + "gone".len());
    eventually("all bytes, those of routes that are gone among them", || running.bytes_out() == bytes as u64);

    let of_last = ["stays /stays", "stays /", "stays (none)"].map(str::to_owned).into_iter().chain([
        format!("stays /r{LAST}"),
        format!("stays /f{LAST}/"),
        format!("l{LAST} /"),
        format!("l{LAST} (none)"),
    ]);
    let of_last: BTreeSet<String> = of_last.collect();
    let lingering = [format!("l{LINGERS} /"), format!("l{LINGERS} (none)")];
    eventually("the last config's routes, and those that a connection holds", || {
        let seen = running.route_names();
        lingering.iter().all(|name| seen.contains(name)) && seen.len() == of_last.len() + lingering.len()
    });
    assert_eq!(gateway.connections().get(format!("l{LINGERS}").as_str()), Some(&1));
    get(lingers.as_mut().unwrap(), "/", "gone");
    drop(lingers);
    eventually("the last config's routes alone", || running.route_names() == of_last);
    assert_eq!(running.bytes_out(), bytes as u64 + 4, "a sum never falls");

    // What stayed has counted on.
    let totals = gateway.metrics.routes();
    let of_stays = totals.routes.iter().find(|row| &*row.route == "/stays").unwrap();
    assert_eq!(of_stays.requests(), requests as u64);
    assert_eq!(gateway.connections().get("stays"), Some(&1));
    drop(stays);

    let listeners = [format!("l{LAST}"), "stays".to_owned()];
    let of_pools = [format!("p{LAST}"), "stays".to_owned()];
    eventually("no connection is left", || gateway.connections().values().all(|count| *count == 0));
    gateway.prepare(&running.config(LAST));
    assert_eq!(names(&gateway.admittances), listeners);
    let limited = kept::lock(&gateway.admissions).iter().map(|((_, route), _)| route.to_string()).collect::<Vec<_>>();
    assert_eq!(limited, ["/".to_owned(), "/".to_owned(), format!("/r{LAST}")]);
    let seen: Vec<String> = gateway.metrics.listeners().iter().map(|row| row.listener.to_string()).collect();
    assert_eq!(seen, listeners);
    let seen: Vec<String> = gateway.metrics.pools().iter().map(|row| row.pool.to_string()).collect();
    assert_eq!(seen, of_pools);
    assert_eq!(running.pools.all().keys().map(|name| name.to_string()).collect::<Vec<_>>(), of_pools);
    assert_eq!(gateway.roots.lock().unwrap().len(), 1);
    assert!(gateway.pages.lock().unwrap().is_empty());

    // Of the worker, the files, the idle connections, who tells of traffic, and one that accepts for each
    // listener.
    let wanted = Held { sites: 2, pools: 2, accepting: 2, tasks: 6, deadlines: 2 };
    eventually("what the last config needs on each worker", || running.held().iter().all(|held| *held == wanted));
    // Two checks and a name, and what its lookup in progress has started.
    eventually("few tasks on the control thread", || running.control.tasks() < 3 + 3);
    let live = |number: &usize| configs[*number].strong_count() + pools[*number].strong_count() > 0;
    assert_eq!((0..CONFIGS).filter(live).collect::<Vec<_>>(), [LAST], "configs and pools that are still held");
    // Others may run in this process at the same time; a leak would be a thousand.
    let more = sumun_host::usage::open_descriptors().unwrap().saturating_sub(descriptors);
    assert!(more < CONFIGS / 2, "{more} more descriptors");
}

/// A config that cannot be taken over leaves nothing of it behind.
#[test]
fn sockets_that_cannot_be_taken_change_nothing() {
    let running = Running::start();
    running.apply(0);
    // Those that accept begin when their worker comes to it.
    eventually("all accept", || running.held().iter().all(|held| held.deadlines == held.accepting));
    let before = running.held();
    let descriptors = sumun_host::usage::open_descriptors().unwrap();
    for worker in 0..WORKERS {
        let socket = |descriptor: OwnedFd| Socket {
            listener: "l1".into(),
            address: BindAddress::Tcp(running.sockets[1].local_addr().unwrap()),
            descriptor,
        };
        let ours = || socket(running.sockets[1].try_clone().unwrap().into());
        // No event loop waits on a regular file, whether it blocks or not (O_NONBLOCK).
        let file = std::fs::File::options().read(true).custom_flags(0o4000).open("/etc/passwd");
        let file = socket(file.unwrap().into());
        let sockets = vec![ours(), file];
        assert!(running.on(worker, move |local| local.take(sockets).is_err()));
        assert!(running.on(worker, |local| local.taken.is_empty()));
        // What could be taken here is left again where another worker could not.
        let sockets = vec![ours()];
        running.on(worker, move |local| local.take(sockets).unwrap());
        running.on(worker, LocalGateway::leave);
    }
    assert_eq!(running.held(), before);
    // Others may run in this process at the same time, and hold some.
    eventually("nothing is held", || sumun_host::usage::open_descriptors().unwrap() <= descriptors);
    get(&mut running.connect(0), "/stays", "stays");
    get(&mut running.connect(1), "/", "gone");
}

/// A route that is taken out lives on in its last request: its counters, its place.
#[test]
fn a_removed_route_is_counted_to_its_end() {
    let running = Running::start();
    running.apply(0);
    let key = (Name::from("stays"), Name::from("/r0"));
    let cell = running.gateway.metrics.route(&key.0, &key.1, 1);
    let admission = kept::lock(&running.gateway.admissions).value(key, 0, || unreachable!());
    let permit = admission.try_acquire(sumun_pools::Caller::Client).unwrap();
    drop(admission);
    running.apply(1);
    running.gateway.prepare(&running.config(1));
    cell.record(200, crate::Reason::Done, 7, 8, 9);
    let of_route = |name: &str| {
        let totals = running.gateway.metrics.routes();
        totals.routes.iter().find(|row| &*row.route == name).map(crate::metrics::RouteTotal::requests)
    };
    let limited = || kept::lock(&running.gateway.admissions).iter().any(|((_, route), _)| &**route == "/r0");
    assert_eq!((of_route("/r0"), limited()), (Some(1), true));
    // It comes back, with its count, while the request lives; then goes again.
    running.apply(0);
    assert_eq!(of_route("/r0"), Some(1));
    running.apply(2);
    assert_eq!((of_route("/r0"), limited()), (Some(1), true));
    drop((cell, permit));
    assert_eq!(of_route("/r0"), None);
    running.gateway.prepare(&running.config(2));
    assert!(!limited());
    assert_eq!(running.bytes_out(), 8);
    // And begins anew.
    running.apply(0);
    assert_eq!(of_route("/r0"), Some(0));
}

/// A pool that went and came back while a worker did not look is another one.
#[test]
fn no_worker_stays_with_a_pool_that_is_gone() {
    let running = Running::start();
    running.apply(0);
    running.pools.apply(&running.config(1));
    running.apply(0);
    let pool = running.pools.pool("p0").unwrap();
    for worker in 0..WORKERS {
        let pool = Arc::clone(&pool);
        assert!(running.on(worker, move |local| Arc::ptr_eq(&local.pools.borrow()["p0"].pool, &pool)));
    }
}
