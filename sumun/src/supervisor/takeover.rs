//! The supervisor's life in the next program of the same process.
//!
//! Everything that it needs to go on is written down: values as JSON in a file in memory, which
//! travels with the descriptors in the queue of a socket, which is the next program's standard
//! input. So nothing but that one descriptor survives the execve(2), and in a program that does not
//! know what to do with it, everything is closed with it.
//!
//! The place of a descriptor in the queue stands for it in the JSON. First comes the file in memory
//! itself, then the running program's file for the way back, then what was standard input before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sumun_config::Sources;
use sumun_config::checked::Config;
use sumun_engine::lifecycle;
use sumun_engine::rooms::KeptRooms;
use sumun_engine::tls::Material;
use sumun_host::pass::{queue_descriptors, receive_descriptors};
use sumun_host::process;
use sumun_host::program::{
    TAKEOVER, TAKEOVER_REFUSED, become_held_program, become_program, hold_this_program, memory_file, read_memory_file,
    set_standard_input, standard_input,
};
use sumun_host::signals::{self, Signals};
use zeroize::Zeroizing;

use super::Supervisor;
use super::certificates::Certificates;
use super::checks::{Checks, WrittenCheck};
use super::descriptors::{Descriptors, WrittenDescriptors};
use super::process::{Backoff, Phase, WorkerProcess, WrittenProcess};
use super::reload::Requester;
use super::service_manager::ServiceManager;
use crate::limits::STATE_BYTES;

/// The form of [`Written`]. A program reads its own and refuses every other: it is raised when a
/// field gets another meaning or one comes that has no default.
const FORMAT: u32 = 1;

/// Places of descriptors that always are there.
const STATE: usize = 0;
const WAY_BACK: usize = 1;
const STANDARD_INPUT: usize = 2;
const FIRST: usize = 3;

/// What a program says that could take over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rehearsed {
    pub(super) version: String,
    /// `lifecycle::VERSION`.
    pub(super) messages: u32,
}

/// The state. Times are from the moment it was written.
#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    /// Of the program that wrote it.
    version: String,
    path: PathBuf,
    program: PathBuf,
    sources: serde_json::Value,
    instance: String,
    state_key: [u8; 32],
    started_count: u64,
    backoff: Backoff,
    start_again: Option<Duration>,
    was_ready: bool,
    runtime: Option<String>,
    /// What was read of certificates, and the keys of session tickets.
    #[serde(default)]
    tls: Material,
    descriptors: Vec<WrittenDescriptors>,
    processes: Vec<WrittenProcess>,
    waiting: Vec<Requester>,
    /// Commands that run. A config that has none is the only one that a program takes which does not know
    /// of them.
    #[serde(default)]
    checks: Vec<WrittenCheck>,
    /// Of waiting rooms.
    #[serde(default)]
    rooms: KeptRooms,
    /// Who wants to know how the upgrade goes, and the worker process that it is for.
    requester: Requester,
    new_process: u64,
}

impl Written {
    /// There are keys in it. So its length is counted first: a buffer that grew while it is written would
    /// leave copies of what it held in memory that is free.
    fn to_json(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        struct Counted(usize);
        impl io::Write for Counted {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut length = Counted(0);
        serde_json::to_writer(&mut length, self)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *bytes, self)?;
        Ok(bytes)
    }

    fn read(bytes: &[u8]) -> Result<(Self, Sources, Config), String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            version: String,
        }
        let broken = |error: serde_json::Error| format!("the state of the running program cannot be read: {error}");
        let head: Head = serde_json::from_slice(bytes).map_err(broken)?;
        if head.format != FORMAT {
            return Err(format!(
                "sumun {} writes its state in another form ({} and not {FORMAT}): it has to be stopped and started",
                head.version, head.format
            ));
        }
        let written: Self = serde_json::from_slice(bytes).map_err(broken)?;
        let sources = Sources::from_json(&written.sources)?;
        let config = crate::checked::of(&sources)?.config;
        Ok((written, sources, config))
    }
}

/// The hidden subcommand `takeover`: reads a state from standard input as the program would after an
/// upgrade, and says whether it could go on with it.
pub(crate) fn rehearse() -> ExitCode {
    let read = standard_input()
        .and_then(|descriptor| read_memory_file(descriptor, STATE_BYTES))
        .map_err(|error| format!("{error}; this subcommand is started by `sumun upgrade`, not by hand"));
    match read.map(Zeroizing::new).and_then(|bytes| Written::read(&bytes)) {
        Ok(_) => {
            let said = Rehearsed { version: env!("CARGO_PKG_VERSION").to_owned(), messages: lifecycle::VERSION };
            let said = serde_json::json!(said);
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{}", why.trim_end());
            ExitCode::FAILURE
        }
    }
}

impl Supervisor {
    /// What the next program has to know, and the descriptors that go along, without the state's own.
    pub(super) fn state(
        &self,
        requester: Requester,
        new_process: u64,
        now: Instant,
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>), String> {
        let mut along: Vec<BorrowedFd<'_>> = Vec::new();
        let mut place = |descriptor| {
            along.push(descriptor);
            FIRST + along.len() - 1
        };
        let written = Written {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            path: self.path.clone(),
            program: self.program.clone(),
            sources: self.sources.to_json(),
            instance: self.instance.clone(),
            state_key: self.state_key,
            started_count: self.started_count,
            backoff: self.backoff,
            start_again: self.start_again.map(|at| at.saturating_duration_since(now)),
            was_ready: self.was_ready,
            runtime: self.runtime.clone(),
            tls: self.certificates.material(),
            descriptors: self.descriptors.to_written(&mut place),
            processes: self.processes.iter().map(|process| process.to_written(now, &mut place)).collect(),
            waiting: self.waiting.iter().copied().collect(),
            checks: self.checks.to_written(now, &mut place),
            rooms: self.rooms.clone(),
            requester,
            new_process,
        };
        let bytes = written.to_json().map_err(|error| format!("the state cannot be written: {error}"))?;
        if bytes.len() as u64 > STATE_BYTES {
            return Err(format!("the state has {} bytes, at most {STATE_BYTES} can be handed over", bytes.len()));
        }
        Ok((bytes, along))
    }

    /// Becomes `program`; comes back with the reason why that could not be. Signals are blocked.
    pub(super) fn execute(&self, program: &Path, requester: Requester, new_process: u64, now: Instant) -> String {
        let text = |error: io::Error| error.to_string();
        let prepared = self.state(requester, new_process, now).and_then(|(bytes, along)| {
            let state = memory_file("sumun-state", &bytes).map_err(text)?;
            let way_back = hold_this_program().map_err(text)?;
            let input = standard_input().map_err(text)?;
            let mut all = vec![state.as_fd(), way_back.as_fd(), input.as_fd()];
            all.extend(along);
            Ok((queue_descriptors(&all).map_err(text)?, all.len(), input.try_clone().map_err(text)?))
        });
        let (queue, count, input) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => return why,
        };
        let error = become_program(program, &[(TAKEOVER, Some(&count.to_string())), (TAKEOVER_REFUSED, None)], queue);
        if let Err(error) = set_standard_input(input) {
            tracing::error!("standard input cannot be put back: {error}");
        }
        error.to_string()
    }
}

/// What came through the execve.
struct Inherited {
    /// By their place.
    descriptors: Vec<OwnedFd>,
}

/// Whether another program in this process has left its state to this one.
pub(super) fn is_expected() -> bool {
    std::env::var_os(TAKEOVER).is_some()
}

/// The supervisor that another program in this process left. An error is final: there is nothing to
/// go on with.
pub(super) fn take_over() -> Result<Supervisor, String> {
    let count = std::env::var(TAKEOVER).unwrap_or_default();
    let inherited = Inherited::receive(&count)?;
    let refused = std::env::var(TAKEOVER_REFUSED).ok();
    match (inherited.rebuild(), refused) {
        (Ok((mut supervisor, outcome)), refused) => {
            match refused {
                None => supervisor.took_over(&outcome, Instant::now()),
                Some(why) => supervisor.came_back(&outcome, why),
            }
            Ok(supervisor)
        }
        (Err(why), None) => Err(inherited.go_back(&why)),
        (Err(why), Some(before)) => Err(format!("{before}; and the program before cannot go on either: {why}")),
    }
}

/// What was asked for, and by whom.
struct Outcome {
    requester: Requester,
    new_process: u64,
    /// Of the program before.
    version: String,
}

impl Inherited {
    fn receive(count: &str) -> Result<Self, String> {
        let broken = |why: &str| format!("what another program left to this process cannot be taken: {why}");
        let count: usize = count.parse().map_err(|_| broken("no number of descriptors"))?;
        if count < FIRST {
            return Err(broken("descriptors are missing"));
        }
        let received = process::raise_open_files_limit()
            .and_then(|_| standard_input())
            .and_then(|queue| receive_descriptors(UnixStream::from(queue), count));
        let descriptors = received.map_err(|error| broken(&error.to_string()))?;
        Ok(Self { descriptors })
    }

    /// Everything that can fail, done with copies: what was inherited is whole for the way back.
    fn rebuild(&self) -> Result<(Supervisor, Outcome), String> {
        let text = |error: io::Error| error.to_string();
        let now = Instant::now();
        let mut take = |place: usize| match self.descriptors.get(place) {
            Some(descriptor) => descriptor.try_clone(),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("there is no descriptor {place}"))),
        };
        let bytes = take(STATE).and_then(|state| read_memory_file(state, STATE_BYTES)).map_err(text)?;
        let bytes = Zeroizing::new(bytes);
        let (written, sources, config) = Written::read(&bytes)?;
        let certificates = Certificates::from_material(&config, written.tls, now)?;
        let descriptors = Descriptors::from_written(written.descriptors, &mut take).map_err(text)?;
        let processes =
            written.processes.into_iter().map(|written| WorkerProcess::from_written(written, now, &mut take));
        let processes = processes.collect::<io::Result<Vec<WorkerProcess>>>().map_err(text)?;
        let checks = Checks::from_written(written.checks, now, &mut take).map_err(text)?;
        process::name_thread("sumun").map_err(text)?;
        let signals = Signals::catch().map_err(text)?;
        set_standard_input(take(STANDARD_INPUT).map_err(text)?).map_err(text)?;
        // From here on it can be taken for done: what came meanwhile is heard in the first round.
        signals::unblock().map_err(text)?;
        let supervisor = Supervisor {
            path: written.path,
            program: written.program,
            sources,
            config,
            descriptors,
            certificates,
            signals,
            instance: written.instance,
            state_key: written.state_key,
            processes,
            started_count: written.started_count,
            backoff: written.backoff,
            start_again: written.start_again.map(|left| now + left),
            was_ready: written.was_ready,
            reload: None,
            waiting: written.waiting.into(),
            upgrade: None,
            upgrade_wanted: None,
            runtime: written.runtime,
            cares: None,
            untold: false,
            rooms: written.rooms,
            rooms_unwritten: false,
            service_manager: ServiceManager::find(),
            checks,
            stopping: false,
            failure: None,
        };
        let Written { requester, new_process, version, .. } = written;
        Ok((supervisor, Outcome { requester, new_process, version }))
    }

    /// Executes the program before this one again, with all that it left; comes back with an error.
    fn go_back(&self, why: &str) -> String {
        tracing::error!(
            "this program cannot go on from where the one before left off ({why}): it gets everything back"
        );
        let all: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let count = all.len().to_string();
        let gone_back = match (queue_descriptors(&all), self.descriptors.get(WAY_BACK)) {
            (Ok(queue), Some(program)) => {
                become_held_program(program, &[(TAKEOVER, Some(&count)), (TAKEOVER_REFUSED, Some(why))], queue)
            }
            (Err(error), _) => error,
            (_, None) => io::ErrorKind::NotFound.into(),
        };
        format!("{why}; and the program before cannot be executed again: {gone_back}")
    }
}

impl Supervisor {
    /// This is the new program: the worker process that it brought is the one that serves.
    fn took_over(&mut self, outcome: &Outcome, now: Instant) {
        self.start_again = None;
        let deadline = self.config.drain;
        let is_new = |process: &WorkerProcess| process.number == outcome.new_process;
        let new = self.processes.iter().find(|process| is_new(process)).map(WorkerProcess::pid);
        let old = |process: &WorkerProcess| !is_new(process) && !matches!(process.phase, Phase::Ending { .. });
        let ending = self.processes.iter().filter(|process| old(process)).map(|process| process.pid().to_string());
        let ending: Vec<String> = ending.collect();
        let ending = match ending.as_slice() {
            [] => String::new(),
            some => format!(", {} has {} s to finish", some.join(", "), deadline.as_secs_f32()),
        };
        let text = format!(
            "upgraded from {} to {}: worker process {}{ending}",
            outcome.version,
            env!("CARGO_PKG_VERSION"),
            new.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
        );
        self.service_manager.reloading();
        // Before the answer, which comes from the old worker process once it accepts nothing more: who
        // has it finds the new program.
        for process in self.processes.iter_mut().filter(|process| old(process)) {
            process.drain(deadline, true, now);
        }
        self.answer_upgrade(outcome.requester, Ok(text));
        self.let_care(outcome.new_process);
        self.bound_draining(now);
    }

    /// This is the program before: the new one could not take over.
    fn came_back(&mut self, outcome: &Outcome, why: String) {
        self.service_manager.reloading();
        self.stay(outcome.requester, Some(outcome.new_process), why);
        if let Some(number) = self.current().map(|process| process.number) {
            self.let_care(number);
        }
    }
}
