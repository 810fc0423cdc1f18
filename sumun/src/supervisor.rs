//! `sumun run`: the supervisor.
//!
//! One thread and one poll loop. It opens what needs privileges, starts the worker process, hands
//! it config and descriptors, and from then on only reacts: to signals, to messages of its own
//! worker processes, to their end. It reads nothing from the network.
//!
//! ```text
//!            reload: Apply, or where it cannot be applied, a second process
//!   Starting ──Ready──► Serving ──drain/replaced──► Ending ──► gone
//!      └────────────────────┴── died: started again after a pause, sockets stay open
//! ```
//!
//! The number of workers cannot be changed in a running process: a reload that changes it starts a
//! new worker process with the same sockets and drains the old one. Fewer workers take several
//! sockets each, because closing a socket would reset the connections in its queue.

mod descriptors;
mod process;
mod reload;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sumun_config::Sources;
use sumun_config::checked::{BindAddress, Config};
use sumun_engine::lifecycle::{FromWorker, Start, ToWorker};
use sumun_host::signals::{Signal, Signals};
use sumun_host::wait::wait_readable;

use crate::limits::{DRAINING_PROCESSES, STOP_GRACE};
use descriptors::Descriptors;
use process::{Backoff, Phase, WorkerProcess};
use reload::{Pending, Requester};

/// Runs until told to end. Exit 2: the config is wrong; 1: it could not start.
pub(crate) fn run(path: PathBuf) -> ExitCode {
    crate::log::start();
    let (sources, checked) = match crate::checked::load(&path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{}", report.render(crate::log::coloured(&io::stderr())));
            return ExitCode::from(2);
        }
    };
    log_lines(tracing::Level::WARN, &checked.warnings.render(false));
    let begun = Supervisor::begin(path, sources, checked.config);
    match begun.and_then(Supervisor::supervise) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log_lines(tracing::Level::ERROR, &why);
            ExitCode::FAILURE
        }
    }
}

struct Supervisor {
    path: PathBuf,
    /// What runs, or is started next.
    sources: Sources,
    config: Config,
    descriptors: Descriptors,
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
    stopping: bool,
    /// Why it cannot go on, if so.
    failure: Option<String>,
}

impl Supervisor {
    fn begin(path: PathBuf, sources: Sources, config: Config) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let signals = Signals::catch().map_err(text)?;
        sumun_host::process::name_thread("sumun").map_err(text)?;
        sumun_host::process::raise_open_files_limit().map_err(text)?;
        let instance = crate::state::instance().map_err(text)?;
        let state_key = crate::state::host_key().map_err(text)?;
        let descriptors = Descriptors::default().open_missing(&config)?;
        let mut supervisor = Self {
            path,
            sources,
            config,
            descriptors,
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
            self.next_reload(now);
        };
        // After an error of ours processes may be left; they drain once their channel is closed.
        self.descriptors.remove_files();
        if result.is_ok() {
            tracing::info!("ended");
        }
        result
    }

    fn wait(&self) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> =
            self.signals.descriptors().chain(self.processes.iter().flat_map(WorkerProcess::descriptors)).collect();
        let deadlines = self.processes.iter().filter_map(WorkerProcess::deadline);
        let next = deadlines.chain(self.start_again).chain(self.reload.as_ref().map(|reload| reload.until)).min();
        let timeout = next.map(|next| next.saturating_duration_since(Instant::now()));
        wait_readable(&descriptors, timeout).map(|_| ())
    }

    fn signalled(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Hangup => self.ask_for_reload(Requester::Signal),
            Signal::User1 => self.reopen_logs(),
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
                FromWorker::Ready => self.became_ready(number, now),
                FromWorker::Refused { id: 0, why } => self.start_refused(number, why),
                FromWorker::Applied { id } => self.applied(number, id, Ok(()), now),
                FromWorker::Refused { id, why } => self.applied(number, id, Err(why), now),
                FromWorker::ReloadRequested { id } => {
                    self.ask_for_reload(Requester::Process { number, id });
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
        let pid = process.pid();
        self.was_ready = true;
        if self.reload.as_ref().is_some_and(|reload| reload.new_process == Some(number)) {
            self.finish_reload(Ok(()), now);
        }
        tracing::info!(
            "ready: {}; {} {}, worker process {pid}",
            places(&self.config),
            self.config.workers,
            if self.config.workers == 1 { "worker" } else { "workers" }
        );
    }

    fn start_refused(&mut self, number: u64, why: String) {
        if let Some(reload) = &mut self.reload
            && reload.new_process == Some(number)
        {
            reload.refused = Some(why);
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
            let process = self.processes.remove(index);
            for message in late {
                if let FromWorker::Refused { id: 0, why } = message {
                    self.start_refused(process.number, why);
                }
            }
            self.process_gone(&process, status, now);
        }
    }

    fn process_gone(&mut self, process: &WorkerProcess, status: std::process::ExitStatus, now: Instant) {
        let pid = process.pid();
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
        let draining = |process: &WorkerProcess| matches!(process.phase, Phase::Ending { .. }) && !process.is_stopped();
        let count = self.processes.iter().filter(|process| draining(process)).count();
        if count > DRAINING_PROCESSES
            && let Some(oldest) = self.processes.iter_mut().find(|process| draining(process))
        {
            tracing::warn!("{count} worker processes drain at once; the oldest is stopped");
            oldest.stop(now);
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
            if !matches!(process.phase, Phase::Ending { .. }) {
                process.drain(deadline, now);
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
        let first = ToWorker::Start(Start {
            sources: self.sources.to_json().to_string(),
            descriptors: self.descriptors.copies(&Descriptors::default(), &self.config, None)?,
            instance: self.instance.clone(),
            state_key: self.state_key,
        });
        self.start_process(first)
    }

    fn start_process(&mut self, first: ToWorker) -> io::Result<u64> {
        self.started_count += 1;
        let number = self.started_count;
        self.processes.push(WorkerProcess::start(number, first, Instant::now())?);
        Ok(number)
    }

    fn process(&mut self, number: u64) -> Option<&mut WorkerProcess> {
        self.processes.iter_mut().find(|process| process.number == number)
    }

    /// The process that serves or is about to, and not one that a reload is still waiting for.
    fn current(&mut self) -> Option<&mut WorkerProcess> {
        let new = self.reload.as_ref().and_then(|reload| reload.new_process);
        self.processes
            .iter_mut()
            .find(|process| !matches!(process.phase, Phase::Ending { .. }) && Some(process.number) != new)
    }
}

/// `web on 0.0.0.0:80, admin on 127.0.0.1:9900`.
fn places(config: &Config) -> String {
    let binds = config.listeners.values().flat_map(|listener| {
        listener.bind.iter().map(|bind| match bind {
            BindAddress::Tcp(address) => format!("{} on {address}", listener.name),
            BindAddress::Unix(path) => format!("{} on unix:{}", listener.name, path.display()),
        })
    });
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
