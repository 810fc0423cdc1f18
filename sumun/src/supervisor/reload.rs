//! Reload: read, check, open what is new, apply, close what is gone. Anything that fails on the
//! way leaves everything as it was.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sumun_config::Sources;
use sumun_config::checked::Config;
use sumun_engine::lifecycle::{Apply, ToWorker};
use sumun_host::program::THIS_PROGRAM;

use super::certificates::Certificates;
use super::descriptors::Descriptors;
use super::process::Phase;
use super::{Supervisor, devices, log_lines};
use crate::limits::{APPLY_TIMEOUT, RUNTIME_STATE_TIMEOUT, START_TIMEOUT, WAITING_RELOADS};
use crate::sandbox::Allowed;

/// Who wants to know how it went; the log does in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Requester {
    Signal,
    /// The API, in the worker process of this number, which gave the request this id.
    Process {
        number: u64,
        id: u64,
    },
}

/// A reload that waits for a worker process.
pub(super) struct Pending {
    id: u64,
    requester: Requester,
    sources: Sources,
    pub(super) config: Config,
    /// Opened for it; closed again if it fails.
    added: Descriptors,
    pub(super) certificates: Certificates,
    pub(super) until: Instant,
    /// The process that applies it, or
    pub(super) applied_by: Option<u64>,
    /// the process that is to hand over to one that begins with it, and
    pub(super) handed_over_by: Option<u64>,
    /// that one.
    pub(super) new_process: Option<u64>,
    /// What the new process said before it ended.
    pub(super) refused: Option<String>,
}

/// A listener that both configs have goes from HTTP to TCP or back.
fn has_moving_listener(before: &Config, after: &Config) -> bool {
    before
        .listeners
        .iter()
        .any(|(name, old)| after.listeners.get(name).is_some_and(|new| old.stream.is_some() != new.stream.is_some()))
}

impl Supervisor {
    pub(super) fn ask_for_reload(&mut self, requester: Requester) {
        if self.stopping {
            self.answer(requester, false, "the instance is ending".to_owned());
        } else if requester == Requester::Signal && self.waiting.contains(&requester) {
            // Nobody waits for its answer, and the one that waits will read what this one would.
        } else if self.waiting.len() >= WAITING_RELOADS {
            self.answer(requester, false, "too many reloads are waiting".to_owned());
        } else {
            self.waiting.push_back(requester);
        }
    }

    /// Begins the next reload once nothing is in its way.
    pub(super) fn next_reload(&mut self, now: Instant) {
        // An upgrade that is wanted comes first: the next program does the reloads that wait.
        let is_free = |this: &Self| this.upgrade.is_none() && this.upgrade_wanted.is_none() && this.reload.is_none();
        while is_free(self) && self.failure.is_none() {
            let starting = self.processes.iter().any(|process| matches!(process.phase, Phase::Starting { .. }));
            if starting {
                return;
            }
            let Some(requester) = self.waiting.pop_front() else {
                return;
            };
            self.begin_reload(requester, now);
        }
    }

    fn begin_reload(&mut self, requester: Requester, now: Instant) {
        self.service_manager.reloading();
        let (sources, checked) = match crate::checked::load(&self.path) {
            Ok(loaded) => loaded,
            Err(report) => return self.answer(requester, false, report.render(false)),
        };
        log_lines(tracing::Level::WARN, &checked.warnings.render(false));
        let config = checked.config;
        let certificates = match Certificates::read(&config, Some(&self.certificates), now) {
            Ok(certificates) => certificates,
            Err(problems) => return self.answer(requester, false, problems),
        };
        let added = match self.descriptors.open_missing(&config) {
            Ok(added) => added,
            Err(problems) => return self.answer(requester, false, problems),
        };
        self.started_count += 1;
        let mut pending = Pending {
            id: self.started_count,
            requester,
            sources,
            config,
            added,
            certificates,
            until: now + APPLY_TIMEOUT,
            applied_by: None,
            handed_over_by: None,
            new_process: None,
            refused: None,
        };
        let current = self.current().map(|process| (process.number, process.allowed.clone()));
        let Some((current, allowed)) = current else {
            // Between two worker processes: the next one begins with it, and connections wait for it.
            let listens = pending.added.listen();
            self.reload = Some(pending);
            return self.finish_reload(listens, now);
        };
        let forbidden = allowed.forbids(&self.config, &pending.config);
        if let Some(why) = &forbidden {
            tracing::info!("the sandbox of the worker process forbids this config ({why}): a new one starts");
        }
        // More workers, or what the program that started this process did not know of.
        let lacks = pending.added.are_needed_by(&self.config);
        // Its socket is with the service that it leaves.
        let moves = has_moving_listener(&self.config, &pending.config);
        let sent = if pending.config.workers == self.config.workers && forbidden.is_none() && !lacks && !moves {
            pending.applied_by = Some(current);
            self.send_apply(current, &pending)
        } else {
            pending.until = now + RUNTIME_STATE_TIMEOUT;
            pending.handed_over_by = Some(current);
            self.ask_to_hand_over(current);
            pending.added.listen_beside(&self.descriptors)
        };
        self.reload = Some(pending);
        if let Err(why) = sent {
            self.finish_reload(Err(why), now);
        }
    }

    /// The process that is to hand over has said what it knows, or never will: the new one starts.
    pub(super) fn reload_with_new_process(&mut self, now: Instant) {
        let Some(mut pending) = self.reload.take() else {
            return;
        };
        pending.handed_over_by = None;
        pending.until = now + START_TIMEOUT;
        let started = self.start_with(&pending);
        pending.new_process = started.as_ref().ok().copied();
        self.reload = Some(pending);
        if let Err(why) = started {
            self.finish_reload(Err(why), now);
        }
    }

    fn send_apply(&mut self, number: u64, pending: &Pending) -> Result<(), String> {
        // Nobody listens at these addresses yet: who comes before the answer would else be refused.
        pending.added.listen()?;
        // A name that is new gets its descriptors, also where the socket itself is not new.
        let mut added = self
            .descriptors
            .copies(&pending.added, &pending.config, Some(&self.config))
            .map_err(|error| error.to_string())?;
        added.extend(devices::open(&pending.config));
        let tls = pending.certificates.material();
        let apply = Apply { id: pending.id, sources: pending.sources.to_json().to_string(), added, tls };
        let sent = self.process(number).is_some_and(|process| process.send(ToWorker::Apply(apply)));
        if sent { Ok(()) } else { Err("the worker process cannot be reached".to_owned()) }
    }

    fn start_with(&mut self, pending: &Pending) -> Result<u64, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut descriptors = self.descriptors.copies(&pending.added, &pending.config, None).map_err(text)?;
        descriptors.extend(devices::open(&pending.config));
        let listening = pending.added.is_listening();
        let first = self.first_message(&pending.sources, descriptors, listening, &pending.certificates);
        self.start_process(Path::new(THIS_PROGRAM), first, Allowed::by(&pending.config)).map_err(text)
    }

    /// A new worker process waits for its sockets to listen: nothing else can go wrong any more, so a
    /// connection that comes to them is accepted at once.
    pub(super) fn is_prepared(&mut self, number: u64, now: Instant) {
        let Some(pending) = self.reload.as_ref().filter(|reload| reload.new_process == Some(number)) else {
            // The reload that it was started for has failed, and it has been told to end.
            return;
        };
        match pending.added.listen() {
            Ok(()) => {
                if let Some(process) = self.process(number) {
                    process.send(ToWorker::Accept);
                }
            }
            Err(why) => self.finish_reload(Err(why), now),
        }
    }

    /// The worker process took the new config, or did not.
    pub(super) fn applied(&mut self, number: u64, id: u64, result: Result<(), String>, now: Instant) {
        let awaited = self.reload.as_ref().is_some_and(|reload| reload.id == id && reload.applied_by == Some(number));
        if awaited {
            self.finish_reload(result, now);
        }
    }

    pub(super) fn reload_timed_out(&mut self, now: Instant) {
        if self.reload.as_ref().is_some_and(|reload| reload.handed_over_by.is_some()) {
            tracing::warn!("the worker process does not say what it knows of servers: what it said last is used");
            return self.reload_with_new_process(now);
        }
        let hangs = self.reload.as_ref().and_then(|reload| reload.applied_by);
        self.finish_reload(Err("the worker process did not answer in time".to_owned()), now);
        // Whatever it does now, it does not listen: another one takes over, with what ran before. Where
        // its silence has been noticed already, that one is on its way.
        let deadline = self.config.drain;
        let hangs = hangs.and_then(|number| self.process(number));
        if let Some(process) = hangs.filter(|process| process.phase == Phase::Serving) {
            tracing::error!("worker process {} does not answer: it is replaced", process.pid());
            process.drain(deadline, true, now);
            self.start_again = Some(now);
        }
    }

    /// Ends the reload in progress: for good, or as if it had never been.
    pub(super) fn finish_reload(&mut self, result: Result<(), String>, now: Instant) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        let Pending { requester, sources, config, added, certificates, new_process, .. } = reload;
        if let Err(why) = result {
            added.remove_files();
            drop(added);
            let deadline = self.config.drain;
            if let Some(process) = new_process.and_then(|number| self.process(number)) {
                process.drain(deadline, true, now);
            }
            if let Some(current) = self.current() {
                current.send(ToWorker::GoOn);
            }
            self.tell_what_waited();
            return self.answer(requester, false, why);
        }
        let changes = sumun_config::diff(&self.config, &config).to_string();
        let deadline = self.config.drain;
        self.descriptors.adopt(added);
        self.descriptors.keep_only(&config);
        self.certificates = certificates;
        self.sources = sources;
        let before = std::mem::replace(&mut self.config, config);
        self.forget_rooms(&before);
        if let Some(new) = new_process {
            // Before the answer: who has that may look for this.
            self.say_ready(new);
            // Also one that replaces a process that died meanwhile: it has the old config.
            self.start_again = None;
            for process in &mut self.processes {
                let ending = matches!(process.phase, Phase::Ending { .. });
                if process.number != new && !ending {
                    process.drain(deadline, true, now);
                }
            }
        }
        self.tell_what_waited();
        // It comes from a process that is drained only once that one accepts nothing more.
        self.answer(requester, true, changes);
    }

    pub(super) fn answer(&mut self, requester: Requester, ok: bool, text: String) {
        if ok {
            tracing::info!("reload: {text}");
        } else {
            tracing::error!("reload refused, everything stays as it was:");
            log_lines(tracing::Level::ERROR, &text);
        }
        let status = self.serving();
        self.service_manager.reloaded(&status);
        self.tell(requester, ok, text);
    }

    /// Tells who asked for it over the API.
    pub(super) fn tell(&mut self, requester: Requester, ok: bool, text: String) {
        if let Requester::Process { number, id } = requester
            && let Some(process) = self.process(number)
        {
            process.send(ToWorker::ReloadResult { id, ok, text });
        }
    }
}
