//! The worker process's insides: joins config, pools, gateway, log and admin, and obeys the
//! supervisor.
//!
//! ```text
//!   supervisor ◄─messages─► control thread (this file): pools' health and names, admin, log
//!                              │ Command (one channel a worker)
//!                              ▼
//!                           worker threads: LocalGateway each
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sumun_acme::Acme;
use sumun_config::checked::{Config, LogFormat, Name};
use sumun_engine::access_log::AccessLog;
use sumun_engine::lifecycle::{FromWorker, HostFiles, Label, Passed, ToWorker, WorkerSender};
use sumun_engine::listening::Socket;
use sumun_engine::rooms::RoomName;
use sumun_engine::tls::{Material, Tls};
use sumun_engine::{OwnLimits, Worker, own_limits, worker};
use sumun_gateway::{Gateway, LocalGateway, Rooms, rooms};
use sumun_pools::external::{ExternalChecks, Wanted};
use sumun_pools::resolve::{Copies, NameServers};
use sumun_pools::{Pools, health, resolve};
use sumun_stream::{LocalStream, Switch};
use tokio::sync::{mpsc, oneshot};

use crate::control::Control;
use crate::storage::{self, Leaving};
use crate::worker::Beginning;

/// Servers that are named wait for their first addresses for so long; then the gateway starts
/// without them.
const FIRST_NAMES: Duration = Duration::from_secs(3);

/// Orders that may wait for a worker.
const COMMANDS: usize = 16;

/// How often a draining worker looks whether its last connection is gone.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Operators' changes within this long are told to the supervisor at once.
const RUNTIME_STATE_PAUSE: Duration = Duration::from_millis(100);

/// The host's files about names are asked for no more often, however many names are looked up.
const HOST_FILES_PAUSE: Duration = Duration::from_secs(1);

/// Worker threads have this long to stop accepting before others are told that they did.
const ORDER_PATIENCE: Duration = Duration::from_secs(1);

/// Answers of the API that are on their way when the last connection ends have this long.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Behind the end of the drain, connections that can say goodbye in their protocol have this long to.
const FAREWELL: Duration = Duration::from_secs(3);

/// The last lines of the access log get this long to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What a worker thread is told.
enum Command {
    /// Take the sockets that are new in the next config: this can fail, and changes nothing.
    Take {
        config: Arc<Config>,
        sockets: Vec<Socket>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The config that they were taken for does not come.
    Leave,
    Apply {
        config: Arc<Config>,
        done: oneshot::Sender<()>,
    },
    /// `done` once no connection is accepted any more.
    Drain {
        deadline: Duration,
        successor: bool,
        done: oneshot::Sender<()>,
    },
    Ping {
        done: oneshot::Sender<()>,
    },
}

/// Serves until it is told to end; an error is why it could not begin.
pub(crate) fn serve(beginning: Beginning) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| error.to_string())?;
    runtime.block_on(run(beginning))
}

async fn run(mut beginning: Beginning) -> Result<(), String> {
    let process_start = Instant::now();
    let pools = Arc::new(Pools::new(process_start, &beginning.state_key));
    pools.apply(&beginning.config);
    if let Some(ports) = beginning.sandbox.ports.take() {
        pools.limit_ports(ports);
    }
    if let Some(Err(why)) = beginning.runtime.take().map(|text| pools.carry_in(&text)) {
        tracing::warn!("what the worker process before this one said of its servers is not understood: {why}");
    }
    let tls = Tls::new(beginning.config.workers);
    tls.apply(&beginning.config, &beginning.tls)?;
    let host_files = beginning.sandbox.host_files.take().map(|files| copies(files, &beginning.supervisor));
    let name_servers = host_files.clone().map_or(NameServers::System, NameServers::Copies);
    tokio::spawn(resolve::run(Arc::clone(&pools), name_servers.clone()));
    let external = Arc::new(external_checks(&beginning.supervisor));
    tokio::spawn(health::run(Arc::clone(&pools), Arc::clone(&tls), Arc::clone(&external)));
    if tokio::time::timeout(FIRST_NAMES, resolve::settled(&pools)).await.is_err() {
        tracing::warn!("some names of servers have no address yet: {}", pools.unresolved().join(", "));
    }

    let keeper = beginning.supervisor.clone();
    let acme = Acme::new(sumun_acme::Inputs {
        tls: Arc::clone(&tls),
        name_servers,
        keep: Box::new(move |entry, content| keeper.send(FromWorker::Keep { entry, content })),
    });
    acme.apply(&beginning.config, &std::mem::take(&mut beginning.tls));
    let mut cares = false;
    let rooms = Rooms::new(beginning.state_key, process_start, std::mem::take(&mut beginning.rooms));
    let cache_secret = crate::state::cache_secret(&beginning.state_key);
    let gateway = Gateway::new(Arc::clone(&pools), Arc::clone(&tls), rooms, &beginning.instance, cache_secret);
    let switch = Switch::new(Arc::clone(&pools), Arc::clone(&tls));
    let own_limits = OwnLimits::new(beginning.config.workers);
    tokio::spawn(own_limits::run(Arc::clone(&own_limits), std::mem::take(&mut beginning.memory)));
    let services = Services { gateway: Arc::clone(&gateway), switch: Arc::clone(&switch), own_limits };
    services.prepare(&beginning.config);
    let mut descriptors = std::mem::take(&mut beginning.descriptors);
    storage::open(&gateway, &beginning.config, storage::devices(&mut descriptors)).await;
    let sharing = Arc::clone(&gateway);
    tokio::task::spawn_local(async move { sharing.share().await });
    let log = AccessLog::start(beginning.config.workers).map_err(|error| format!("access log: {error}"))?;
    let mut format = format_of(&beginning.config);
    log.change(format.as_ref());
    let log = Arc::new(log);
    let workers = Workers::start(&services, &log, beginning.config.workers, process_start)?;
    let mut control = Control::new(
        &beginning,
        process_start,
        Arc::clone(&pools),
        services.clone(),
        Arc::clone(&log),
        Arc::clone(&tls),
        acme.shown(),
    );

    let gone = |error: std::io::Error| format!("the supervisor cannot be told: {error}");
    // What waits until the sockets listen.
    let mut bound = Vec::new();
    if beginning.listening {
        let sockets = sort(descriptors, &mut control, &log);
        workers.take(&beginning.config, sockets).await?;
        workers.apply(&beginning.config).await?;
        beginning.supervisor.send(FromWorker::Ready).map_err(gone)?;
    } else {
        // Not the log's, which may be replaced meanwhile.
        let is_log = |passed: &mut Passed| passed.label == Label::AccessLog;
        bound = descriptors;
        sort(bound.extract_if(.., is_log).collect(), &mut control, &log);
        workers.apply(&beginning.config).await?;
        beginning.supervisor.send(FromWorker::Prepared).map_err(gone)?;
    }
    sumun_host::image::forget_what_was_used();
    // On this thread as everything that sends it, so that its pieces stay together.
    let telling = tokio::task::spawn_local(tell_operations(Arc::clone(&pools), beginning.supervisor.clone()));

    let mut leaving = Leaving::default();
    let (deadline, successor) = loop {
        match beginning.messages.recv().await {
            Some(ToWorker::Apply(apply)) => {
                let id = apply.id;
                let mut others = apply.added;
                let devices = storage::devices(&mut others);
                let is_listener = |passed: &mut Passed| matches!(passed.label, Label::Listener { .. });
                let sockets = sort(others.extract_if(.., is_listener).collect(), &mut control, &log);
                // Whatever may fail comes first, so that a refusal leaves the config before it whole.
                let answer = match prepare(&apply.sources, &apply.tls, sockets, &workers, &tls).await {
                    Err(why) => {
                        workers.leave().await;
                        FromWorker::Refused { id, why }
                    }
                    Ok(config) => {
                        pools.apply(&config);
                        services.prepare(&config);
                        gateway.store_on(&config, devices);
                        if format != format_of(&config) {
                            format = format_of(&config);
                            log.change(format.as_ref());
                        }
                        sort(others, &mut control, &log);
                        control.apply(&config);
                        // Only a worker thread that is gone is an error here: another process serves
                        // better than half of this one.
                        workers.apply(&config).await?;
                        beginning.config = config;
                        FromWorker::Applied { id }
                    }
                };
                let is_applied = matches!(answer, FromWorker::Applied { .. });
                beginning.supervisor.send(answer).map_err(gone)?;
                if is_applied {
                    // Afterwards: what is kept of the new config is refused by who has the old one.
                    acme.apply(&beginning.config, &apply.tls);
                }
            }
            Some(ToWorker::ReloadResult { id, ok, text }) => control.reload_ended(id, ok, text),
            Some(ToWorker::ReopenLogs { descriptor }) => log.reopen(descriptor.descriptor),
            Some(ToWorker::CheckEnded { id, verdict, words }) => external.answered(id, verdict, words),
            Some(ToWorker::Certificates(material)) => {
                if let Err(why) = tls.apply(&beginning.config, &material) {
                    tracing::error!("{why}; the certificates before go on");
                }
                acme.change_keys(&material);
            }
            Some(ToWorker::HostFiles(files)) => {
                if let Some(copies) = &host_files {
                    copies.replace(files.resolv_conf, files.hosts);
                }
            }
            Some(ToWorker::Drain { deadline, successor }) => break (deadline, successor),
            Some(ToWorker::CareForCertificates) => {
                if !cares {
                    tokio::task::spawn_local(keep_rooms(Arc::clone(&gateway), beginning.supervisor.clone()));
                }
                cares = true;
                acme.care();
            }
            Some(ToWorker::HandOver) => {
                control.set_handing_over(true);
                acme.leave();
                leaving.wait(&gateway, storage::LEAVE_PATIENCE).await;
                // Before the word that ends the handing over.
                tell_rooms(gateway.rooms.hand_over(), &beginning.supervisor);
                beginning.supervisor.send_runtime_state(&pools.carry_out()).map_err(gone)?;
            }
            Some(ToWorker::GoOn) => {
                control.set_handing_over(false);
                gateway.rooms.go_on();
                leaving.take_back(&gateway);
                if cares {
                    acme.care();
                }
            }
            Some(ToWorker::Accept) => {
                let sockets = sort(std::mem::take(&mut bound), &mut control, &log);
                workers.take(&beginning.config, sockets).await?;
                workers.apply(&beginning.config).await?;
                beginning.supervisor.send(FromWorker::Ready).map_err(gone)?;
            }
            Some(ToWorker::Ping { id }) => workers.answer_ping(id, &beginning.supervisor),
            Some(ToWorker::Stop) => {
                leaving.wait(&gateway, storage::LEAVE_AT_ONCE).await;
                return Ok(());
            }
            Some(ToWorker::Start(_)) => {}
            // The supervisor is gone: nobody would start another one of us.
            None => break (beginning.config.drain, false),
        }
    };
    telling.abort();
    acme.leave();
    if successor {
        control.leave();
        // Where it was not asked before: the other one has begun from what was kept.
        gateway.rooms.hand_over();
    }
    control.drain();
    let until = Instant::now() + deadline + storage::LEAVE_PATIENCE;
    // Who comes after needs the devices now; where nobody does, they are used to the end.
    if successor {
        leaving.begin(&gateway);
    }
    let stopped = workers.drain((deadline, successor), &mut beginning.messages, &control, &log, &external).await;
    if !log.flush(LOG_PATIENCE) {
        tracing::warn!("the last lines of the access log were not written in time");
    }
    tell_rooms(gateway.rooms.last_words(), &beginning.supervisor);
    // Within what the supervisor gives beyond the drain.
    let left = until.saturating_duration_since(Instant::now()).min(storage::LEAVE_PATIENCE);
    leaving.wait(&gateway, if stopped { storage::LEAVE_AT_ONCE } else { left }).await;
    if beginning.supervisor.send(FromWorker::Drained).is_err() {
        tracing::debug!("the supervisor is gone already");
    }
    Ok(())
}

/// What of a new config can be refused, without a change where it is: its certificates come last, which
/// are in force at once, and for addresses and pools of the config before they are as good.
async fn prepare(
    sources: &str,
    material: &Material,
    sockets: BTreeMap<usize, Vec<Socket>>,
    workers: &Workers,
    tls: &Tls,
) -> Result<Arc<Config>, String> {
    let config = Arc::new(crate::checked::received(sources)?.config);
    workers.take(&config, sockets).await?;
    tls.apply(&config, material)?;
    Ok(config)
}

/// Tells the supervisor what the next process has to know, whenever an operator has changed it: this
/// process may not live to be asked.
async fn tell_operations(pools: Arc<Pools>, supervisor: WorkerSender) {
    let mut operations = pools.operations();
    while operations.changed().await.is_ok() {
        tokio::time::sleep(RUNTIME_STATE_PAUSE).await;
        operations.mark_unchanged();
        if supervisor.send_runtime_state(&pools.carry_out()).is_err() {
            return;
        }
    }
}

/// Keeps the time of waiting rooms, and tells the supervisor how they stand.
async fn keep_rooms(gateway: Arc<Gateway>, supervisor: WorkerSender) {
    rooms::run(&gateway.rooms, Box::new(move |room, state| tell_rooms(vec![(room, state)], &supervisor))).await;
}

fn tell_rooms(rooms: Vec<(RoomName, String)>, supervisor: &WorkerSender) {
    for (room, state) in rooms {
        // Without a supervisor there will be no next process.
        supervisor.send(FromWorker::KeepRoom { room, state }).unwrap_or_default();
    }
}

/// Commands that check servers, which the supervisor runs.
fn external_checks(supervisor: &WorkerSender) -> ExternalChecks {
    let supervisor = supervisor.clone();
    ExternalChecks::new(move |Wanted { id, pool, server, address }| {
        supervisor.send(FromWorker::CheckWanted { id, pool, server, address })
    })
}

/// The host's files about names, which the supervisor is asked for before each lookup.
fn copies(files: HostFiles, supervisor: &WorkerSender) -> Copies {
    let (supervisor, asked) = (supervisor.clone(), Mutex::new(None::<Instant>));
    let ask = move || {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|asked| asked.elapsed() >= HOST_FILES_PAUSE) {
            *asked = Some(Instant::now());
            // Without a supervisor the files stay what they are.
            supervisor.send(FromWorker::HostFilesWanted).unwrap_or_default();
        }
    };
    Copies::new(files.resolv_conf, files.hosts, ask)
}

/// `None`: there is no access log.
fn format_of(config: &Config) -> Option<LogFormat> {
    config.access_log.as_ref().map(|log| log.format.clone())
}

/// Gives each descriptor to who needs it; what is left are the workers' sockets.
fn sort(descriptors: Vec<Passed>, control: &mut Control, log: &AccessLog) -> BTreeMap<usize, Vec<Socket>> {
    let mut sockets: BTreeMap<usize, Vec<Socket>> = BTreeMap::new();
    for Passed { label, descriptor } in descriptors {
        match label {
            Label::Listener { listener, bind, worker } => {
                let socket = Socket { listener: Name::from(listener), address: bind, descriptor };
                sockets.entry(worker).or_default().push(socket);
            }
            Label::Admin => control.listen_admin(descriptor),
            Label::Control => control.listen_control(descriptor),
            Label::AccessLog => log.reopen(descriptor),
            // The gateway has been given these.
            Label::PhysicalVolume { .. } => {}
        }
    }
    sockets
}

/// The worker threads.
struct Workers {
    threads: Vec<(mpsc::Sender<Command>, JoinHandle<()>)>,
}

impl Workers {
    fn start(services: &Services, log: &Arc<AccessLog>, count: usize, process_start: Instant) -> Result<Self, String> {
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, commands) = mpsc::channel(COMMANDS);
            let (services, log) = (services.clone(), Arc::clone(log));
            let own_limits = Arc::clone(&services.own_limits);
            let body = move |worker| serve_worker(worker, services, log, commands);
            let thread = worker::start(index, process_start, own_limits, body)
                .map_err(|error| format!("worker thread {index}: {error}"))?;
            threads.push((sender, thread));
        }
        Ok(Self { threads })
    }

    /// Gives each worker its sockets for the next config; after an error, [`Self::leave`].
    async fn take(&self, config: &Arc<Config>, mut sockets: BTreeMap<usize, Vec<Socket>>) -> Result<(), String> {
        let taken = self.tell_all(|index, done| {
            let sockets = sockets.remove(&index).unwrap_or_default();
            Command::Take { config: Arc::clone(config), sockets, done }
        });
        taken.await?.into_iter().collect()
    }

    async fn leave(&self) {
        for (sender, _) in &self.threads {
            // One that has ended holds nothing.
            sender.send(Command::Leave).await.ok();
        }
    }

    /// Gives all workers the config, and returns once it is in force in each.
    async fn apply(&self, config: &Arc<Config>) -> Result<(), String> {
        let applied = self.tell_all(|_, done| Command::Apply { config: Arc::clone(config), done });
        applied.await.map(drop)
    }

    /// What each of them answers. An error: one of them is gone.
    async fn tell_all<T>(
        &self,
        mut command: impl FnMut(usize, oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<T>, String> {
        let gone = |index: usize| format!("worker thread {index} is gone");
        let mut answers = Vec::with_capacity(self.threads.len());
        for (index, (sender, _)) in self.threads.iter().enumerate() {
            let (done, answer) = oneshot::channel();
            sender.send(command(index, done)).await.map_err(|_| gone(index))?;
            answers.push(answer);
        }
        let mut all = Vec::with_capacity(answers.len());
        for (index, answer) in answers.into_iter().enumerate() {
            all.push(answer.await.map_err(|_| gone(index))?);
        }
        Ok(all)
    }

    /// Answers once every worker has: an event loop that hangs is not taken for one that lives.
    fn answer_ping(&self, id: u64, supervisor: &WorkerSender) {
        let mut answers = Vec::with_capacity(self.threads.len());
        for (sender, _) in &self.threads {
            let (done, answer) = oneshot::channel();
            // One whose queue is full lets its sender go: there will be no answer.
            sender.try_send(Command::Ping { done }).ok();
            answers.push(answer);
        }
        let supervisor = supervisor.clone();
        tokio::task::spawn_local(async move {
            for answer in answers {
                if answer.await.is_err() {
                    return;
                }
            }
            // Without a supervisor nobody asks.
            supervisor.send(FromWorker::Pong { id }).ok();
        });
    }

    /// Returns once none of them takes a connection any more, or after `ORDER_PATIENCE`.
    async fn tell_drain(&self, deadline: Duration, successor: bool) {
        let mut answers = Vec::with_capacity(self.threads.len());
        for (sender, _) in &self.threads {
            let (done, answer) = oneshot::channel();
            if sender.send(Command::Drain { deadline, successor, done }).await.is_err() {
                tracing::debug!("a worker thread has ended already");
            }
            answers.push(answer);
        }
        let all = async {
            for answer in answers {
                // One that has ended accepts nothing.
                answer.await.ok();
            }
        };
        if tokio::time::timeout(ORDER_PATIENCE, all).await.is_err() {
            tracing::warn!("a worker thread is slow to stop accepting");
        }
    }

    /// Waits until every worker has ended, or is told to stop at once; says whether it was.
    async fn drain(
        self,
        (deadline, successor): (Duration, bool),
        messages: &mut mpsc::Receiver<ToWorker>,
        control: &Control,
        log: &AccessLog,
        external: &ExternalChecks,
    ) -> bool {
        self.tell_drain(deadline, successor).await;
        let mut supervised = true;
        let mut until = None;
        loop {
            if self.threads.iter().all(|(_, thread)| thread.is_finished()) {
                // Who asked over the API for what is ending this process gets an answer.
                let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + ANSWER_PATIENCE);
                if !control.is_answering() || tokio::time::Instant::now() >= until {
                    return false;
                }
            }
            tokio::select! {
                message = messages.recv(), if supervised => match message {
                    Some(ToWorker::Stop) => return true,
                    Some(ToWorker::ReloadResult { id, ok, text }) => control.reload_ended(id, ok, text),
                    Some(ToWorker::ReopenLogs { descriptor }) => log.reopen(descriptor.descriptor),
                    Some(ToWorker::CheckEnded { id, verdict, words }) => external.answered(id, verdict, words),
                    Some(ToWorker::Drain { deadline, successor }) => self.tell_drain(deadline, successor).await,
                    Some(_) => {}
                    None => {
                        supervised = false;
                        control.supervisor_is_gone();
                    }
                },
                () = tokio::time::sleep(DRAIN_LOOK) => {}
            }
        }
    }
}

/// What listeners can be.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) own_limits: Arc<OwnLimits>,
}

impl Services {
    /// Before the workers apply a config.
    fn prepare(&self, config: &Config) {
        self.gateway.prepare(config);
        self.switch.prepare(config);
    }
}

/// The services on one worker.
struct Local {
    gateway: LocalGateway,
    stream: LocalStream,
}

impl Local {
    fn take(&mut self, config: &Config, sockets: Vec<Socket>) -> Result<(), String> {
        let is_stream =
            |socket: &Socket| config.listeners.get(&socket.listener).is_some_and(|listener| listener.stream.is_some());
        let (streams, others) = sockets.into_iter().partition(is_stream);
        let taken = self.gateway.take(others).and_then(|()| self.stream.take(streams));
        taken.map_err(|error| format!("a listening socket: {error}"))
    }

    fn leave(&mut self) {
        self.gateway.leave();
        self.stream.leave();
    }

    fn apply(&mut self, config: &Config) {
        self.gateway.apply(config);
        self.stream.apply(config);
    }
}

/// A worker thread's life.
async fn serve_worker(
    worker: Rc<Worker>,
    services: Services,
    log: Arc<AccessLog>,
    mut commands: mpsc::Receiver<Command>,
) {
    let log = Rc::new(log.sender(worker.index));
    let mut local = Local {
        gateway: LocalGateway::new(services.gateway, Rc::clone(&worker), Rc::clone(&log)),
        stream: LocalStream::new(services.switch, Rc::clone(&worker), log),
    };
    while let Some(command) = commands.recv().await {
        match command {
            Command::Take { config, sockets, done } => {
                done.send(local.take(&config, sockets)).unwrap_or_default();
            }
            Command::Leave => local.leave(),
            Command::Apply { config, done } => {
                local.apply(&config);
                done.send(()).unwrap_or_default();
            }
            // Nobody waits any more where the other end is gone.
            Command::Ping { done } => done.send(()).unwrap_or_default(),
            Command::Drain { deadline, successor, done } => {
                worker.drain(successor);
                // Each task that accepts has been woken before this one goes on.
                tokio::task::yield_now().await;
                done.send(()).unwrap_or_default();
                return drain(&worker, deadline, &mut commands).await;
            }
        }
    }
}

/// Waits until the last connection is gone, at most for `deadline`, which may be shortened.
async fn drain(worker: &Worker, deadline: Duration, commands: &mut mpsc::Receiver<Command>) {
    let now = tokio::time::Instant::now;
    let mut until = now() + deadline;
    while !worker.deadlines.is_empty() && now() < until {
        tokio::time::sleep(DRAIN_LOOK).await;
        while let Ok(command) = commands.try_recv() {
            if let Command::Drain { deadline, successor, done } = command {
                worker.drain(successor);
                done.send(()).unwrap_or_default();
                until = until.min(now() + deadline);
            }
        }
    }
    if worker.deadlines.is_empty() {
        return;
    }
    worker.end_drain();
    // One look at least, in which those that can say goodbye have begun to.
    tokio::time::sleep(DRAIN_LOOK).await;
    let until = now() + FAREWELL;
    while worker.farewells() > 0 && now() < until {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    if !worker.deadlines.is_empty() {
        tracing::info!(
            "worker {}: {} connections are cut off at the end of the drain",
            worker.index,
            worker.deadlines.len()
        );
    }
}
