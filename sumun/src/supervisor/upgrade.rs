//! Upgrade: from the running program to the one that lies in its place by now, without a gap.
//!
//! ```text
//!   Rehearsal ──► RuntimeState ──► Start ──► Ready ──► this process is the new program
//!   the new       the worker       a worker  execve     takes over, drains the old
//!   program       process says     process              worker process
//!   reads our     what it knows    of the new
//!   state                          program
//! ```
//!
//! The order leaves no gap and always a way back. The listening sockets stay open in this process
//! through all of it. Up to `Ready` nothing has changed: a new program that does not start, does not
//! understand our state or speaks other messages, a worker process that refuses the config or does
//! not become ready in time, is ended, and its reason is the answer. From `Ready` on both worker
//! processes serve. The execve either fails, and then this program goes on with the old worker
//! process; or the new program begins with a state that it has read once already, in the rehearsal.
//! Should it still not be able to take over, it executes this program again, whose file is held open
//! for that (`takeover.rs`), and this one goes on with the old worker process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::time::Instant;

use sumun_engine::lifecycle::{self, ToWorker};
use sumun_host::child::ChildProcess;
use sumun_host::pass::read_available;
use sumun_host::program::{Program, memory_file};
use sumun_host::signals;

use super::process::Phase;
use super::reload::Requester;
use super::takeover::Rehearsed;
use super::{Supervisor, log_lines};
use crate::limits::{REHEARSAL_BYTES, REHEARSAL_TIMEOUT, RUNTIME_STATE_TIMEOUT};

/// An upgrade in progress.
pub(super) struct Upgrade {
    requester: Requester,
    /// The file that everything of it is started from.
    program: Program,
    stage: Stage,
    /// What the new worker process said before it ended.
    pub(super) refused: Option<String>,
}

enum Stage {
    /// The new program reads our state and says whether it could go on with it.
    /// `output` is there until the child has said all.
    Rehearsal { child: ChildProcess, output: Option<UnixStream>, said: Vec<u8>, until: Instant },
    /// The worker process says what the next one has to know.
    RuntimeState { asked: u64, until: Instant },
    /// A worker process of the new program starts.
    Start { number: u64 },
    /// It serves since then, and this process is to become the new program.
    Ready { number: u64, since: Instant },
}

impl Upgrade {
    /// What to wait on besides the worker processes.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let both = match &self.stage {
            Stage::Rehearsal { child, output, said, .. } => {
                // What is too long is not read, and who waits for that is ended in time.
                let output = output.as_ref().filter(|_| said.len() < REHEARSAL_BYTES).map(AsFd::as_fd);
                [Some(child.as_fd()), output]
            }
            Stage::RuntimeState { .. } | Stage::Start { .. } | Stage::Ready { .. } => [None, None],
        };
        both.into_iter().flatten()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Rehearsal { until, .. } | Stage::RuntimeState { until, .. } => Some(*until),
            // A worker process that starts has a deadline of its own.
            Stage::Start { .. } => None,
            // Due at once, also after a round in which signals came first.
            Stage::Ready { since, .. } => Some(*since),
        }
    }

    /// The worker process of the new program.
    pub(super) fn new_process(&self) -> Option<u64> {
        match &self.stage {
            Stage::Start { number } | Stage::Ready { number, .. } => Some(*number),
            Stage::Rehearsal { .. } | Stage::RuntimeState { .. } => None,
        }
    }

    pub(super) fn is_started_as(&self, number: u64) -> bool {
        self.new_process() == Some(number)
    }

    /// A worker process is ended because it was not ready in time.
    pub(super) fn note_late(&mut self, number: u64) {
        if self.is_started_as(number) {
            self.refused = Some("the worker process of the new program did not become ready in time".to_owned());
        }
    }
}

impl Supervisor {
    pub(super) fn ask_for_upgrade(&mut self, requester: Requester) {
        if self.stopping {
            self.answer_upgrade(requester, Err("the instance is ending".to_owned()));
        } else if self.upgrade.is_some() || self.upgrade_wanted.is_some() {
            self.answer_upgrade(requester, Err("an upgrade is in progress already".to_owned()));
        } else {
            self.upgrade_wanted = Some(requester);
        }
    }

    /// Begins an upgrade once nothing is in its way, and leads the one in progress on.
    pub(super) fn next_upgrade(&mut self, now: Instant) {
        let starting = self.processes.iter().any(|process| matches!(process.phase, Phase::Starting { .. }));
        if self.upgrade.is_none()
            && self.reload.is_none()
            && !starting
            && self.failure.is_none()
            && let Some(requester) = self.upgrade_wanted.take()
        {
            self.service_manager.reloading();
            if let Err(why) = self.begin_upgrade(requester, now) {
                self.answer_upgrade(requester, Err(why));
            }
        }
        match self.upgrade.as_ref().map(|upgrade| &upgrade.stage) {
            Some(Stage::Rehearsal { .. }) => self.hear_rehearsal(now),
            Some(Stage::Ready { number, .. }) => self.become_new_program(*number, now),
            _ => {}
        }
    }

    fn begin_upgrade(&mut self, requester: Requester, now: Instant) -> Result<(), String> {
        let path = self.program.display();
        let program = Program::look(&self.program).map_err(|error| format!("{path}: {error}"))?;
        tracing::info!("upgrade to {path}");
        let (state, _) = self.state(requester, 0, now)?;
        let failed = |error: io::Error| format!("{path} cannot be started: {error}");
        let input = memory_file("sumun-state", &state).map_err(failed)?;
        let (child, output) = ChildProcess::ask(&program.path, "sumun", &["takeover"], input).map_err(failed)?;
        let stage = Stage::Rehearsal { child, output: Some(output), said: Vec::new(), until: now + REHEARSAL_TIMEOUT };
        self.upgrade = Some(Upgrade { requester, program, stage, refused: None });
        Ok(())
    }

    fn hear_rehearsal(&mut self, now: Instant) {
        let Some(Upgrade { stage: Stage::Rehearsal { child, output, said, .. }, .. }) = &mut self.upgrade else {
            return;
        };
        let ended = child.ended();
        // After its end, so that nothing it said is missed.
        let goes_on = match output {
            None => false,
            Some(output) => read_available(&*output, said, REHEARSAL_BYTES).unwrap_or_else(|error| {
                tracing::warn!("what the new program says cannot be read: {error}");
                false
            }),
        };
        if !goes_on {
            *output = None;
        }
        let Some(status) = ended else {
            return;
        };
        let said = String::from_utf8_lossy(said).into_owned();
        match judge(status, &said) {
            Ok(version) => {
                tracing::info!("the new program is sumun {version}, and could go on from here");
                self.ask_for_runtime_state(now);
            }
            Err(why) => self.end_upgrade(why),
        }
    }

    fn ask_for_runtime_state(&mut self, now: Instant) {
        let current = self.current().map(|process| process.number);
        let Some(upgrade) = &mut self.upgrade else {
            return;
        };
        match current {
            Some(asked) => {
                upgrade.stage = Stage::RuntimeState { asked, until: now + RUNTIME_STATE_TIMEOUT };
                self.ask_to_hand_over(asked);
            }
            None => self.start_new_program(),
        }
    }

    /// A worker process has said what the next one has to know, or is gone.
    pub(super) fn upgrade_handed_over(&mut self, number: u64, _now: Instant) {
        if let Some(Upgrade { stage: Stage::RuntimeState { asked, .. }, .. }) = &self.upgrade
            && *asked == number
        {
            self.start_new_program();
        }
    }

    fn start_new_program(&mut self) {
        let Some(upgrade) = &self.upgrade else {
            return;
        };
        let path = upgrade.program.path.clone();
        let started = match upgrade.program.is_unchanged() {
            true => self.start_with_running_config(&path).map_err(|error| error.to_string()),
            false => Err("the file was replaced meanwhile".to_owned()),
        };
        match (started, &mut self.upgrade) {
            (Ok(number), Some(upgrade)) => upgrade.stage = Stage::Start { number },
            (Err(why), _) => self.end_upgrade(format!("{}: {why}", path.display())),
            (Ok(_), None) => {}
        }
    }

    /// Whether the worker process that became ready is the one of the new program.
    pub(super) fn new_program_is_ready(&mut self, number: u64) -> bool {
        match &mut self.upgrade {
            Some(upgrade) if upgrade.is_started_as(number) => {
                upgrade.stage = Stage::Ready { number, since: Instant::now() };
                true
            }
            _ => false,
        }
    }

    /// The worker process of the new program is gone.
    pub(super) fn new_program_ended(&mut self, status: ExitStatus) {
        let why = self.upgrade.as_mut().and_then(|upgrade| upgrade.refused.take());
        self.end_upgrade(why.unwrap_or_else(|| format!("the worker process of the new program ended: {status}")));
    }

    pub(super) fn keep_upgrade_deadline(&mut self, now: Instant) {
        if self.upgrade.as_ref().and_then(Upgrade::deadline).is_none_or(|until| until > now) {
            return;
        }
        match self.upgrade.as_ref().map(|upgrade| &upgrade.stage) {
            Some(Stage::Rehearsal { .. }) => {
                let seconds = REHEARSAL_TIMEOUT.as_secs();
                self.end_upgrade(format!("the new program did not say in {seconds} s whether it can go on from here"));
            }
            Some(Stage::RuntimeState { .. }) => {
                tracing::warn!("the worker process does not say what it knows of servers: what it said last is used");
                self.start_new_program();
            }
            _ => {}
        }
    }

    pub(super) fn cancel_upgrade(&mut self, why: &str) {
        if let Some(requester) = self.upgrade_wanted.take() {
            self.answer_upgrade(requester, Err(why.to_owned()));
        }
        self.end_upgrade(why.to_owned());
    }

    /// Ends the upgrade in progress as if it had never been.
    pub(super) fn end_upgrade(&mut self, why: String) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        if let Stage::Rehearsal { child, .. } = &upgrade.stage {
            if let Err(error) = child.kill() {
                tracing::warn!("the new program cannot be ended: {error}");
            }
            // Killed, or gone already: the wait is short.
            child.wait_for_end();
        }
        self.stay(upgrade.requester, upgrade.new_process(), why);
    }

    /// This program goes on, with the worker process that was there before `new_process`.
    pub(super) fn stay(&mut self, requester: Requester, new_process: Option<u64>, why: String) {
        let (deadline, now) = (self.config.drain, Instant::now());
        if let Some(process) = new_process.and_then(|number| self.process(number)) {
            process.drain(deadline, true, now);
        }
        if let Some(current) = self.current() {
            current.send(ToWorker::GoOn);
        }
        self.answer_upgrade(requester, Err(why));
    }

    /// Becomes the new program, or stays this one.
    fn become_new_program(&mut self, number: u64, now: Instant) {
        // It may be on its way out since it said that it is ready: the old one is not given up for that.
        self.hear_processes(now);
        self.bury_processes(now);
        let Some(upgrade) = &self.upgrade else {
            return;
        };
        let serves = self.processes.iter().any(|process| process.number == number && process.is_serving());
        if !serves {
            let why = upgrade.refused.clone();
            let why = why.unwrap_or_else(|| "the worker process of the new program does not serve any more".to_owned());
            return self.end_upgrade(why);
        }
        let (requester, program) = (upgrade.requester, upgrade.program.clone());
        if !program.is_unchanged() {
            return self.end_upgrade(format!("{}: the file was replaced meanwhile", program.path.display()));
        }
        if let Err(error) = signals::block() {
            return self.end_upgrade(format!("signals cannot be held back: {error}"));
        }
        let came = self.signals.take();
        let why = if came.is_empty() {
            // From here to the new program's first wait a signal waits.
            Some(self.execute(&program.path, requester, number, now))
        } else {
            None
        };
        if let Err(error) = signals::unblock() {
            tracing::error!("signals cannot be let through again: {error}");
        }
        match why {
            Some(why) => self.end_upgrade(format!("{}: {why}", program.path.display())),
            // One of them may be a reason to stay; if not, the next round comes here again.
            None => came.into_iter().for_each(|signal| self.signalled(signal, now)),
        }
    }

    pub(super) fn answer_upgrade(&mut self, requester: Requester, result: Result<String, String>) {
        let ok = result.is_ok();
        let text = match result {
            Ok(text) => {
                tracing::info!("{text}");
                text
            }
            Err(why) => {
                tracing::error!("upgrade refused, the running program goes on:");
                log_lines(tracing::Level::ERROR, &why);
                why
            }
        };
        let status = self.serving();
        self.service_manager.reloaded(&status);
        self.tell(requester, ok, text);
    }
}

/// What the rehearsal came to: the new program's version.
fn judge(status: ExitStatus, said: &str) -> Result<String, String> {
    if !status.success() {
        let said = said.trim();
        let reason = if said.is_empty() { String::new() } else { format!(":\n{said}") };
        return Err(format!("the new program cannot go on from here ({status}){reason}"));
    }
    let rehearsed: Rehearsed = serde_json::from_str(said.trim())
        .map_err(|_| "what lies in the place of the program is no sumun that can go on from here".to_owned())?;
    if rehearsed.messages != lifecycle::VERSION {
        return Err(format!(
            "the new program, sumun {}, speaks other messages ({} and not {}): it has to be stopped and started",
            rehearsed.version,
            rehearsed.messages,
            lifecycle::VERSION
        ));
    }
    Ok(rehearsed.version)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_rehearsal_is_judged_by_its_end_and_its_words() {
        let good = ExitStatus::from_raw(0);
        let (version, messages) = ("9.9.9".to_owned(), lifecycle::VERSION);
        let said = serde_json::to_string(&Rehearsed { version: version.clone(), messages }).unwrap();
        assert_eq!(judge(good, &said), Ok(version.clone()));
        let other = serde_json::to_string(&Rehearsed { version, messages: messages + 1 }).unwrap();
        assert!(judge(good, &other).unwrap_err().contains("other messages"));
        assert!(judge(good, "hello").unwrap_err().contains("no sumun"));
        let text = judge(ExitStatus::from_raw(2 << 8), "error: unrecognized subcommand\n").unwrap_err();
        assert!(text.contains("exit status: 2") && text.contains("unrecognized subcommand"), "{text}");
        assert!(judge(ExitStatus::from_raw(11), &said).unwrap_err().contains("SIGSEGV"));
    }
}
