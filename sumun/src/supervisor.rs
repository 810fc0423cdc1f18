//! `sumun run`: the supervisor.
//!
//! One thread and one poll loop. It opens what needs privileges, starts the worker process, hands
//! it config and descriptors, and from then on only reacts: to signals, to messages of its own
//! worker processes, to their end. It reads nothing from the network.
//!
//! ```text
//!            reload: Apply, or where it cannot be applied, a second process; upgrade: a second process
//!   Starting ──Ready──► Serving ──drain/replaced──► Ending ──► gone
//!      └────────────────────┴── died: started again after a pause, sockets stay open
//! ```
//!
//! A second process begins with what the first one knows of its servers. An upgrade ends with this
//! process becoming the new program, in which it goes on where it was (`upgrade.rs`, `takeover.rs`).
//!
//! The number of workers cannot be changed in a running process: a reload that changes it starts a
//! new worker process with the same sockets and drains the old one. For more workers it has new sockets
//! beside those, which listen once it is prepared: before, connections would wait in them. Fewer workers take several
//! sockets each, because closing a socket would reset the connections in its queue. The same is done
//! for a config that the sandbox of the running process would forbid.

mod acme;
mod certificates;
mod checks;
mod descriptors;
mod devices;
mod given;
mod host_files;
mod life;
mod process;
mod reload;
mod rooms;
mod service_manager;
mod takeover;
mod upgrade;

pub(crate) use takeover::rehearse;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sumun_config::Sources;
use sumun_config::checked::Config;
use sumun_engine::lifecycle::{FromWorker, Passed, Start, ToWorker};
use sumun_engine::rooms::KeptRooms;
use sumun_host::image;
use sumun_host::program::{self, THIS_PROGRAM};
use sumun_host::signals::{Signal, Signals};
use sumun_host::wait::wait_readable;

use crate::limits::{DRAINING_PROCESSES, STOP_GRACE};
use crate::sandbox::Allowed;
use certificates::Certificates;
use checks::Checks;
use descriptors::Descriptors;
use process::{Backoff, Phase, WorkerProcess};
use reload::{Pending, Requester};
use service_manager::ServiceManager;
use upgrade::Upgrade;

/// Runs until told to end. Exit 2: the config is wrong; 1: it could not start.
pub(crate) fn run(path: PathBuf) -> ExitCode {
    if takeover::is_expected() {
        crate::log::start();
        let supervisor = takeover::take_over();
        return conclude(supervisor.and_then(Supervisor::supervise));
    }
    // Before anything else is open in this process.
    let given = given::take();
    crate::log::start();
    let (sources, checked) = match crate::checked::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{}", report.render(crate::log::coloured(&io::stderr())));
            return ExitCode::from(2);
        }
    };
    log_lines(tracing::Level::WARN, &checked.warnings.render(false));
    conclude(
        given.and_then(|given| Supervisor::begin(path, sources, checked.config, given)).and_then(Supervisor::supervise),
    )
}

fn conclude(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log_lines(tracing::Level::ERROR, &why);
            ExitCode::FAILURE
        }
    }
}

struct Supervisor {
    path: PathBuf,
    /// Where the program of the next upgrade is looked for.
    program: PathBuf,
    /// What runs, or is started next.
    sources: Sources,
    config: Config,
    descriptors: Descriptors,
    certificates: Certificates,
    signals: Signals,
    instance: String,
    state_key: [u8; 32],
    /// At most one that is not `Ending`, and one more during a reload that needs a new process.
    processes: Vec<WorkerProcess>,
    started_count: u64,
    backoff: Backoff,
    start_again: Option<Instant>,
    was_ready: bool,
    reload: Option<Pending>,
    waiting: VecDeque<Requester>,
    upgrade: Option<Upgrade>,
    /// Who wants an upgrade that has not begun.
    upgrade_wanted: Option<Requester>,
    /// What a worker process said last of its servers.
    runtime: Option<String>,
    /// The worker process that obtains certificates.
    cares: Option<u64>,
    /// It obtained one while a config was on its way.
    untold: bool,
    /// What that process said last of its waiting rooms,
    rooms: KeptRooms,
    /// and the disk did not take it.
    rooms_unwritten: bool,
    service_manager: ServiceManager,
    checks: Checks,
    stopping: bool,
    /// Why it cannot go on, if so.
    failure: Option<String>,
}

impl Supervisor {
    fn begin(path: PathBuf, sources: Sources, config: Config, given: Vec<given::Socket>) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let signals = Signals::catch().map_err(text)?;
        sumun_host::process::name_thread("sumun").map_err(text)?;
        sumun_host::process::raise_open_files_limit().map_err(text)?;
        let instance = crate::state::instance().map_err(text)?;
        let state_key = crate::state::host_key(config.state.as_deref()).map_err(text)?;
        let program = program::path_as_started().map_err(text)?;
        let service_manager = ServiceManager::find();
        let certificates = Certificates::read(&config, None, Instant::now())?;
        let rooms = rooms::read(&config);
        let mut descriptors = given::sort(given, &config)?;
        // They listen before anybody accepts: a connection waits for this start as for every later one.
        let opened = descriptors.open_listening(&config)?;
        descriptors.adopt(opened);
        let mut supervisor = Self {
            path,
            program,
            sources,
            config,
            descriptors,
            certificates,
            signals,
            instance,
            state_key,
            processes: Vec::new(),
            started_count: 0,
            backoff: Backoff::default(),
            start_again: None,
            was_ready: false,
            reload: None,
            waiting: VecDeque::new(),
            upgrade: None,
            upgrade_wanted: None,
            runtime: None,
            cares: None,
            untold: false,
            rooms,
            rooms_unwritten: false,
            service_manager,
            checks: Checks::default(),
            stopping: false,
            failure: None,
        };
        if let Err(error) = supervisor.start_current() {
            supervisor.descriptors.remove_files();
            return Err(format!("cannot start the worker process: {error}"));
        }
        Ok(supervisor)
    }

    fn supervise(mut self) -> Result<(), String> {
        let result = loop {
            if self.processes.is_empty() && (self.stopping || self.failure.is_some()) {
                break self.failure.take().map_or(Ok(()), Err);
            }
            if let Err(error) = self.wait() {
                break Err(format!("cannot wait for events: {error}"));
            }
            let now = Instant::now();
            for signal in self.signals.take() {
                self.signalled(signal, now);
            }
            self.hear_processes(now);
            self.bury_processes(now);
            self.keep_deadlines(now);
            self.look_at_checks(now);
            self.next_reload(now);
            self.next_upgrade(now);
            self.look_at_certificates(now);
            self.ask_for_life(now);
            self.show_life(now);
        };
        self.checks.give_up_all();
        // After an error of ours processes may be left; they drain once their channel is closed.
        self.descriptors.remove_files();
        if result.is_ok() {
            tracing::info!("ended");
        }
        result
    }

    fn wait(&self) -> io::Result<()> {
        let descriptors = self.signals.descriptors().chain(self.processes.iter().flat_map(WorkerProcess::descriptors));
        let descriptors = descriptors.chain(self.upgrade.iter().flat_map(Upgrade::descriptors));
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.chain(self.checks.descriptors()).collect();
        let deadlines = self.processes.iter().filter_map(WorkerProcess::deadline);
        let next = deadlines
            .chain(self.start_again)
            .chain(self.reload.as_ref().map(|reload| reload.until))
            .chain(self.upgrade.as_ref().and_then(Upgrade::deadline))
            .chain(self.service_manager.deadline())
            .chain(self.processes.iter().filter_map(WorkerProcess::next_question))
            .chain(self.certificates_deadline())
            .chain(self.checks.deadline())
            .min();
        let timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
        wait_readable(&descriptors, timeout).map(|_| ())
    }

    fn signalled(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Hangup => self.ask_for_reload(Requester::Signal),
            Signal::User1 => self.reopen_logs(),
            Signal::User2 => self.ask_for_upgrade(Requester::Signal),
            Signal::Interrupt if self.stopping => self.stop_at_once(now),
            Signal::Terminate | Signal::Interrupt => self.begin_stop(now),
        }
    }

    fn hear_processes(&mut self, now: Instant) {
        let heard: Vec<(u64, FromWorker)> = self
            .processes
            .iter_mut()
            .flat_map(|process| {
                let number = process.number;
                process.receive(now).into_iter().map(move |message| (number, message))
            })
            .collect();
        for (number, message) in heard {
            match message {
                FromWorker::Prepared => self.is_prepared(number, now),
                FromWorker::Ready => self.became_ready(number, now),
                FromWorker::Refused { id: 0, why } => self.start_refused(number, why),
                FromWorker::Applied { id } => self.applied(number, id, Ok(()), now),
                FromWorker::Refused { id, why } => self.applied(number, id, Err(why), now),
                FromWorker::ReloadRequested { id } => {
                    self.ask_for_reload(Requester::Process { number, id });
                }
                FromWorker::UpgradeRequested { id } => {
                    self.ask_for_upgrade(Requester::Process { number, id });
                }
                FromWorker::RuntimeState { piece, is_last } => self.runtime_state(number, &piece, is_last, now),
                FromWorker::Pong { .. } => self.answered(number),
                FromWorker::Keep { entry, content } => self.keep(number, entry, content),
                FromWorker::KeepRoom { room, state } => self.keep_room(number, room, state),
                FromWorker::HostFilesWanted => self.host_files_wanted(number),
                FromWorker::CheckWanted { id, pool, server, address } => {
                    self.check_wanted(number, id, (&pool, &server, &address), now);
                }
                FromWorker::StopRequested => self.begin_stop(now),
                FromWorker::Drained => tracing::debug!("worker process has drained"),
            }
        }
    }

    fn became_ready(&mut self, number: u64, now: Instant) {
        let Some(process) = self.process(number) else {
            return;
        };
        if !matches!(process.phase, Phase::Starting { .. }) {
            return;
        }
        process.phase = Phase::Serving;
        self.was_ready = true;
        if self.reload.as_ref().is_some_and(|reload| reload.new_process == Some(number)) {
            self.finish_reload(Ok(()), now);
        } else {
            self.say_ready(number);
        }
        if !self.new_program_is_ready(number) {
            let status = self.serving();
            self.service_manager.ready(&status);
            self.let_care(number);
        }
        image::forget_what_was_used();
    }

    fn say_ready(&self, number: u64) {
        if let Some(process) = self.processes.iter().find(|process| process.number == number) {
            tracing::info!("ready: {}, worker process {}", self.serving(), process.pid());
        }
    }

    /// `web on 0.0.0.0:80; 2 workers`.
    fn serving(&self) -> String {
        let workers = self.config.workers;
        format!("{}; {workers} {}", places(&self.config), if workers == 1 { "worker" } else { "workers" })
    }

    /// A worker process said what it knows of its servers.
    fn runtime_state(&mut self, number: u64, piece: &str, is_last: bool, now: Instant) {
        let Some(process) = self.process(number) else {
            return;
        };
        // What one that is on its way out says late is older than what its successor knows.
        let counts = !matches!(process.phase, Phase::Ending { .. });
        if let Some(whole) = process.gather(piece, is_last)
            && counts
        {
            self.runtime = Some(whole);
        }
        if is_last {
            self.handed_over(number, now);
        }
    }

    /// A worker process has said what the next one has to know, or is gone.
    fn handed_over(&mut self, number: u64, now: Instant) {
        if self.reload.as_ref().is_some_and(|reload| reload.handed_over_by == Some(number)) {
            self.reload_with_new_process(now);
        }
        self.upgrade_handed_over(number, now);
    }

    /// Asks a worker process to say that, and to change nothing of it until it is told that nobody
    /// takes over.
    fn ask_to_hand_over(&mut self, number: u64) {
        if let Some(process) = self.process(number) {
            process.send(ToWorker::HandOver);
        }
    }

    fn start_refused(&mut self, number: u64, why: String) {
        if let Some(reload) = &mut self.reload
            && reload.new_process == Some(number)
        {
            reload.refused = Some(why);
        } else if let Some(upgrade) = &mut self.upgrade
            && upgrade.is_started_as(number)
        {
            upgrade.refused = Some(why);
        } else if !self.was_ready {
            self.failure = Some(why);
        }
        // Otherwise the process has said it in the log; its end brings the next try.
    }

    fn bury_processes(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(process) = self.processes.get_mut(index) {
            let Some(status) = process.ended() else {
                index += 1;
                continue;
            };
            // Its last words may have come after this round's reading.
            let late = process.receive(now);
            let number = process.number;
            for message in late {
                match message {
                    FromWorker::Refused { id: 0, why } => self.start_refused(number, why),
                    FromWorker::RuntimeState { piece, is_last } => self.runtime_state(number, &piece, is_last, now),
                    FromWorker::Keep { entry, content } => self.keep(number, entry, content),
                    FromWorker::KeepRoom { room, state } => self.keep_room(number, room, state),
                    _ => {}
                }
            }
            let process = self.processes.remove(index);
            self.checks.give_up(process.number);
            self.process_gone(&process, status, now);
        }
    }

    fn process_gone(&mut self, process: &WorkerProcess, status: std::process::ExitStatus, now: Instant) {
        let pid = process.pid();
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_started_as(process.number)) {
            return self.new_program_ended(status);
        }
        if let Some(reload) = &self.reload {
            if reload.new_process == Some(process.number) {
                let why = reload.refused.clone();
                let why = why.unwrap_or_else(|| format!("the new worker process ended: {status}"));
                self.finish_reload(Err(why), now);
                return;
            }
            if reload.applied_by == Some(process.number) {
                self.finish_reload(Err(format!("the worker process ended: {status}")), now);
            }
        }
        self.handed_over(process.number, now);
        let goes_on = self.current().is_some() || self.start_again.is_some();
        if self.stopping || goes_on || self.failure.is_some() {
            tracing::info!("worker process {pid} has ended ({status})");
            return;
        }
        if !self.was_ready {
            self.failure = Some(format!("the worker process ended before it was ready ({status})"));
            return;
        }
        let pause = self.backoff.after(now.saturating_duration_since(process.started));
        tracing::error!(
            "worker process {pid} died ({status}); a new one starts in {} ms, connections wait meanwhile",
            pause.as_millis()
        );
        self.start_again = Some(now + pause);
    }

    fn keep_deadlines(&mut self, now: Instant) {
        if self.start_again.is_some_and(|at| at <= now) {
            self.start_again = None;
            match self.descriptors.open_listening(&self.config) {
                Ok(opened) => self.descriptors.adopt(opened),
                // Only what a program before this one did not know of: no reason to give up the rest.
                Err(problems) => log_lines(tracing::Level::ERROR, &problems),
            }
            if let Err(error) = self.start_current() {
                let pause = self.backoff.after(Duration::ZERO);
                tracing::error!("cannot start the worker process: {error}");
                self.start_again = Some(now + pause);
            }
        }
        for process in &mut self.processes {
            if process.deadline().is_some_and(|until| until <= now) {
                let pid = process.pid();
                match process.phase {
                    Phase::Starting { .. } => {
                        tracing::error!("worker process {pid} did not become ready in time: killed");
                        if let Some(upgrade) = &mut self.upgrade {
                            upgrade.note_late(process.number);
                        }
                    }
                    Phase::Ending { .. } | Phase::Serving => {
                        tracing::warn!("worker process {pid} did not end in time: killed");
                    }
                }
                process.kill();
                // Dead any moment; not to be killed in every round until then.
                process.phase = Phase::Ending { until: now + STOP_GRACE };
            }
        }
        if self.reload.as_ref().is_some_and(|reload| reload.until <= now) {
            self.reload_timed_out(now);
        }
        self.keep_upgrade_deadline(now);
        self.bound_draining(now);
    }

    /// Ends the oldest drain where there are too many: a process that an upgrade leaves behind holds
    /// memory and connections to servers for as long as one WebSocket lives.
    fn bound_draining(&mut self, now: Instant) {
        let draining =
            |process: &WorkerProcess| matches!(process.phase, Phase::Ending { .. }) && !process.is_ending_soon();
        let count = self.processes.iter().filter(|process| draining(process)).count();
        if count > DRAINING_PROCESSES
            && let Some(oldest) = self.processes.iter_mut().find(|process| draining(process))
        {
            tracing::warn!(
                "{count} worker processes drain at once, at most {DRAINING_PROCESSES} may: worker process {} \
                 ends now what it has left",
                oldest.pid()
            );
            oldest.hurry(now);
        }
    }

    fn begin_stop(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.start_again = None;
        let deadline = self.config.drain;
        tracing::info!("ending: connections have {} s to finish", deadline.as_secs_f32());
        self.service_manager.stopping();
        self.cancel_upgrade("the instance is ending");
        if self.reload.is_some() {
            self.finish_reload(Err("the instance is ending".to_owned()), now);
        }
        while let Some(requester) = self.waiting.pop_front() {
            self.answer(requester, false, "the instance is ending".to_owned());
        }
        // The worker process empties the queues; with our copies gone, closing its own then
        // refuses newcomers instead of letting them wait for nobody.
        self.descriptors.close();
        for process in &mut self.processes {
            match process.phase {
                // Its successor ends, too.
                Phase::Ending { .. } => process.hold_nothing_up(deadline),
                Phase::Starting { .. } | Phase::Serving => process.drain(deadline, false, now),
            }
        }
    }

    fn stop_at_once(&mut self, now: Instant) {
        tracing::info!("ending at once");
        for process in &mut self.processes {
            process.stop(now);
        }
    }

    fn reopen_logs(&mut self) {
        match self.descriptors.reopen_log(&self.config, self.processes.len()) {
            Ok(copies) if copies.is_empty() => tracing::info!("no log file to open again"),
            Ok(copies) => {
                for (process, descriptor) in self.processes.iter_mut().zip(copies) {
                    process.send(ToWorker::ReopenLogs { descriptor });
                }
                tracing::info!("the access log was opened again");
            }
            Err(error) => {
                tracing::error!("cannot open the access log again ({error}); the old file is kept");
            }
        }
    }

    /// Starts a worker process with the config that runs.
    fn start_current(&mut self) -> io::Result<u64> {
        self.start_with_running_config(Path::new(THIS_PROGRAM))
    }

    fn start_with_running_config(&mut self, program: &Path) -> io::Result<u64> {
        let mut descriptors = self.descriptors.copies(&Descriptors::default(), &self.config, None)?;
        descriptors.extend(devices::open(&self.config));
        let first = self.first_message(&self.sources, descriptors, true, &self.certificates);
        self.start_process(program, first, Allowed::by(&self.config))
    }

    fn first_message(
        &self,
        sources: &Sources,
        descriptors: Vec<Passed>,
        listening: bool,
        certificates: &Certificates,
    ) -> ToWorker {
        ToWorker::Start(Start {
            sources: sources.to_json().to_string(),
            descriptors,
            listening,
            instance: self.instance.clone(),
            state_key: self.state_key,
            runtime: self.runtime.clone(),
            tls: certificates.material(),
            rooms: self.rooms.clone(),
        })
    }

    fn start_process(&mut self, program: &Path, first: ToWorker, allowed: Allowed) -> io::Result<u64> {
        self.started_count += 1;
        let number = self.started_count;
        self.processes.push(WorkerProcess::start(program, number, first, allowed, Instant::now())?);
        Ok(number)
    }

    fn process(&mut self, number: u64) -> Option<&mut WorkerProcess> {
        self.processes.iter_mut().find(|process| process.number == number)
    }

    /// The process that serves or is about to, and not one that a reload or an upgrade is still
    /// waiting for.
    fn current(&mut self) -> Option<&mut WorkerProcess> {
        let reload = self.reload.as_ref().and_then(|reload| reload.new_process);
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::new_process);
        self.processes.iter_mut().find(|process| {
            let new = [reload, upgrade].contains(&Some(process.number));
            !matches!(process.phase, Phase::Ending { .. }) && !new
        })
    }
}

/// `web on 0.0.0.0:80, admin on 127.0.0.1:9900`.
fn places(config: &Config) -> String {
    let binds = config
        .listeners
        .values()
        .flat_map(|listener| listener.bind.iter().map(|bind| format!("{} on {bind}", listener.name)));
    let admin = config.admin.iter().map(|admin| format!("admin on {}", admin.address));
    binds.chain(admin).collect::<Vec<String>>().join(", ")
}

/// A text of several lines as as many lines of the log.
fn log_lines(level: tracing::Level, text: &str) {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match level {
            tracing::Level::ERROR => tracing::error!("{line}"),
            tracing::Level::WARN => tracing::warn!("{line}"),
            _ => tracing::info!("{line}"),
        }
    }
}
