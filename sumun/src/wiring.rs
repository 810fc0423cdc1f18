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
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sumun_config::checked::{Config, Name};
use sumun_engine::access_log::AccessLog;
use sumun_engine::lifecycle::{FromWorker, Label, Passed, ToWorker};
use sumun_engine::{Worker, worker};
use sumun_gateway::{Gateway, LocalGateway, Socket};
use sumun_pools::{Pools, health, resolve};
use tokio::sync::{mpsc, oneshot};

use crate::control::Control;
use crate::worker::Beginning;

/// Servers that are named wait for their first addresses for so long; then the gateway starts
/// without them.
const FIRST_NAMES: Duration = Duration::from_secs(3);

/// Orders that may wait for a worker.
const COMMANDS: usize = 16;

/// How often a draining worker looks whether its last connection is gone.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The last lines of the access log get this long to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What a worker thread is told.
enum Command {
    Apply { config: Arc<Config>, sockets: Vec<Socket>, done: oneshot::Sender<Result<(), String>> },
    Drain { deadline: Duration },
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
    tokio::spawn(resolve::run(Arc::clone(&pools), resolve::NameServers::System));
    tokio::spawn(health::run(Arc::clone(&pools)));
    if tokio::time::timeout(FIRST_NAMES, resolve::settled(&pools)).await.is_err() {
        tracing::warn!("some names of servers have no address yet: {}", pools.unresolved().join(", "));
    }

    let gateway = Gateway::new(Arc::clone(&pools), &beginning.instance);
    gateway.prepare(&beginning.config);
    let log = AccessLog::start(beginning.config.workers).map_err(|error| format!("access log: {error}"))?;
    log.change(beginning.config.access_log.as_ref().map(|log| &log.format));
    let log = Arc::new(log);
    let workers = Workers::start(&gateway, &log, beginning.config.workers, process_start)?;
    let mut control =
        Control::new(&beginning, process_start, Arc::clone(&pools), Arc::clone(&gateway), Arc::clone(&log));

    let descriptors = std::mem::take(&mut beginning.descriptors);
    let sockets = sort(descriptors, &mut control, &log);
    workers.apply(&beginning.config, sockets).await?;
    let gone = |error: std::io::Error| format!("the supervisor cannot be told: {error}");
    beginning.supervisor.send(FromWorker::Ready).map_err(gone)?;

    let deadline = loop {
        match beginning.messages.recv().await {
            Some(ToWorker::Apply(apply)) => {
                let id = apply.id;
                let answer = match crate::checked::received(&apply.sources) {
                    Err(why) => FromWorker::Refused { id, why },
                    Ok(checked) => {
                        let config = Arc::new(checked.config);
                        pools.apply(&config);
                        gateway.prepare(&config);
                        log.change(config.access_log.as_ref().map(|log| &log.format));
                        let sockets = sort(apply.added, &mut control, &log);
                        control.apply(&config);
                        match workers.apply(&config, sockets).await {
                            Ok(()) => {
                                beginning.config = config;
                                FromWorker::Applied { id }
                            }
                            Err(why) => FromWorker::Refused { id, why },
                        }
                    }
                };
                beginning.supervisor.send(answer).map_err(gone)?;
            }
            Some(ToWorker::ReloadResult { id, ok, text }) => control.reload_ended(id, ok, text),
            Some(ToWorker::ReopenLogs { descriptor }) => log.reopen(descriptor.descriptor),
            Some(ToWorker::Drain { deadline }) => break deadline,
            Some(ToWorker::Stop) => return Ok(()),
            Some(ToWorker::Start(_)) => {}
            // The supervisor is gone: nobody would start another one of us.
            None => break beginning.config.drain,
        }
    };
    control.drain();
    workers.drain(deadline, &mut beginning.messages).await;
    if !log.flush(LOG_PATIENCE) {
        tracing::warn!("the last lines of the access log were not written in time");
    }
    if beginning.supervisor.send(FromWorker::Drained).is_err() {
        tracing::debug!("the supervisor is gone already");
    }
    Ok(())
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
        }
    }
    sockets
}

/// The worker threads.
struct Workers {
    threads: Vec<(mpsc::Sender<Command>, JoinHandle<()>)>,
}

impl Workers {
    fn start(
        gateway: &Arc<Gateway>,
        log: &Arc<AccessLog>,
        count: usize,
        process_start: Instant,
    ) -> Result<Self, String> {
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, commands) = mpsc::channel(COMMANDS);
            let (gateway, log) = (Arc::clone(gateway), Arc::clone(log));
            let thread =
                worker::start(index, process_start, move |worker| serve_worker(worker, gateway, log, commands))
                    .map_err(|error| format!("worker thread {index}: {error}"))?;
            threads.push((sender, thread));
        }
        Ok(Self { threads })
    }

    /// Gives all workers the config, and returns once it is in force in each.
    async fn apply(&self, config: &Arc<Config>, mut sockets: BTreeMap<usize, Vec<Socket>>) -> Result<(), String> {
        let mut answers = Vec::with_capacity(self.threads.len());
        for (index, (sender, _)) in self.threads.iter().enumerate() {
            let (done, answer) = oneshot::channel();
            let sockets = sockets.remove(&index).unwrap_or_default();
            let command = Command::Apply { config: Arc::clone(config), sockets, done };
            sender.send(command).await.map_err(|_| format!("worker thread {index} is gone"))?;
            answers.push(answer);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            answer.await.map_err(|_| format!("worker thread {index} is gone"))??;
        }
        Ok(())
    }

    /// Waits until every worker has ended, or is told to stop at once.
    async fn drain(self, deadline: Duration, messages: &mut mpsc::Receiver<ToWorker>) {
        for (sender, _) in &self.threads {
            if sender.send(Command::Drain { deadline }).await.is_err() {
                tracing::debug!("a worker thread has ended already");
            }
        }
        let mut supervised = true;
        while self.threads.iter().any(|(_, thread)| !thread.is_finished()) {
            tokio::select! {
                message = messages.recv(), if supervised => match message {
                    Some(ToWorker::Stop) => return,
                    Some(_) => {}
                    None => supervised = false,
                },
                () = tokio::time::sleep(DRAIN_LOOK) => {}
            }
        }
    }
}

/// A worker thread's life.
async fn serve_worker(
    worker: Rc<Worker>,
    gateway: Arc<Gateway>,
    log: Arc<AccessLog>,
    mut commands: mpsc::Receiver<Command>,
) {
    let sender = log.sender(worker.index);
    let mut local = LocalGateway::new(gateway, Rc::clone(&worker), sender);
    while let Some(command) = commands.recv().await {
        match command {
            Command::Apply { config, sockets, done } => {
                let result = local.apply(&config, sockets).map_err(|error| error.to_string());
                if done.send(result).is_err() {
                    tracing::debug!("nobody waits for this config any more");
                }
            }
            Command::Drain { deadline } => return drain(&worker, deadline).await,
        }
    }
}

/// Waits until the last connection is gone, at most for `deadline`.
async fn drain(worker: &Worker, deadline: Duration) {
    worker.drain();
    let until = tokio::time::Instant::now() + deadline;
    while !worker.deadlines.is_empty() && tokio::time::Instant::now() < until {
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
