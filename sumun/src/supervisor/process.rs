//! One worker process, as the supervisor holds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sumun_engine::lifecycle::limits::RUNTIME_STATE_BYTES;
use sumun_engine::lifecycle::{FromWorker, SupervisorEnd, ToWorker};
use sumun_host::child::ChildProcess;
use sumun_host::wait::wait_readable;

use super::host_files::Stamp;
use super::life::Questions;
use crate::limits::{BACKOFF_FIRST, BACKOFF_LONGEST, DRAIN_GRACE, HEALTHY_AFTER, START_TIMEOUT, STOP_GRACE};
use crate::sandbox::Allowed;

/// Where a worker process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ready yet; ended at `until`.
    Starting {
        until: Instant,
    },
    Serving,
    /// Finishes what it began; killed at `until`.
    Ending {
        until: Instant,
    },
}

#[derive(Debug)]
pub(super) struct WorkerProcess {
    /// Counts up; never used again.
    pub(super) number: u64,
    pub(super) phase: Phase,
    pub(super) started: Instant,
    /// Was told to end what it has left,
    hurried: bool,
    /// and to end at once.
    stopped: bool,
    child: ChildProcess,
    /// `None` once it was closed or broke.
    channel: Option<SupervisorEnd>,
    /// What came of its runtime state; `None` once that was too much.
    gathered: Option<String>,
    /// What its sandbox allows.
    pub(super) allowed: Allowed,
    /// The state of the host's files that it was told last.
    pub(super) host_files: Option<Stamp>,
    /// Whether it lives.
    pub(super) questions: Questions,
}

/// A worker process as it is handed to the next program in this process. Times are from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WrittenProcess {
    pub(super) number: u64,
    pub(super) pid: u32,
    phase: WrittenPhase,
    age: Duration,
    hurried: bool,
    stopped: bool,
    /// The place of its channel among the descriptors, and what was read of a message.
    channel: Option<usize>,
    unread: Vec<u8>,
    gathered: Option<String>,
    /// Where another program did not write it, nothing is known to be allowed.
    #[serde(default)]
    allowed: Allowed,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum WrittenPhase {
    Starting { left: Duration },
    Serving,
    Ending { left: Duration },
}

impl WorkerProcess {
    /// Starts the process from this program and sends it its first message.
    pub(super) fn start(
        program: &Path,
        number: u64,
        first: ToWorker,
        allowed: Allowed,
        now: Instant,
    ) -> io::Result<Self> {
        let (child, channel) = ChildProcess::start(program, "sumun", &["worker"])?;
        let channel = Some(SupervisorEnd::new(channel)?);
        let phase = Phase::Starting { until: now + START_TIMEOUT };
        let gathered = Some(String::new());
        let (started, hurried, stopped, host_files) = (now, false, false, None);
        let questions = Questions::from(now);
        let mut process =
            Self { number, phase, started, hurried, stopped, child, channel, gathered, allowed, host_files, questions };
        process.try_send(first).map_err(|error| process.give_up(error))?;
        Ok(process)
    }

    /// Its first message could not be sent: most likely it has ended, and how says more.
    fn give_up(&self, error: io::Error) -> io::Error {
        // Where it has not, it is ended here: either way it is waited for, or a zombie would stay.
        if wait_readable(&[self.child.as_fd()], Some(STOP_GRACE)).is_ok_and(|ended| !ended.contains(&true)) {
            self.kill();
        }
        match self.child.wait_for_end() {
            Some(status) => io::Error::new(error.kind(), format!("its worker process ended at once: {status}")),
            None => error,
        }
    }

    /// For the next program. `place` gives a descriptor its place among those that go along.
    pub(super) fn to_written<'a>(
        &'a self,
        now: Instant,
        mut place: impl FnMut(BorrowedFd<'a>) -> usize,
    ) -> WrittenProcess {
        let parts = self.channel.as_ref().map(SupervisorEnd::parts);
        WrittenProcess {
            number: self.number,
            pid: self.pid(),
            phase: match self.phase {
                Phase::Starting { until } => WrittenPhase::Starting { left: until.saturating_duration_since(now) },
                Phase::Serving => WrittenPhase::Serving,
                Phase::Ending { until } => WrittenPhase::Ending { left: until.saturating_duration_since(now) },
            },
            age: now.saturating_duration_since(self.started),
            hurried: self.hurried,
            stopped: self.stopped,
            channel: parts.map(|(descriptor, _)| place(descriptor)),
            unread: parts.map(|(_, unread)| unread.to_vec()).unwrap_or_default(),
            gathered: self.gathered.clone(),
            allowed: self.allowed.clone(),
        }
    }

    /// Takes over what the program before this one wrote of a child that is ours still.
    pub(super) fn from_written(
        written: WrittenProcess,
        now: Instant,
        take: &mut impl FnMut(usize) -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let channel = match written.channel {
            Some(place) => Some(SupervisorEnd::from_parts(take(place)?.into(), written.unread)?),
            None => None,
        };
        Ok(Self {
            number: written.number,
            phase: match written.phase {
                WrittenPhase::Starting { left } => Phase::Starting { until: now + left },
                WrittenPhase::Serving => Phase::Serving,
                WrittenPhase::Ending { left } => Phase::Ending { until: now + left },
            },
            started: now.checked_sub(written.age).unwrap_or(now),
            hurried: written.hurried,
            stopped: written.stopped,
            child: ChildProcess::adopt(written.pid)?,
            channel,
            gathered: written.gathered,
            allowed: written.allowed,
            host_files: None,
            questions: Questions::from(now),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// It is ready, and can be talked to.
    pub(super) fn is_serving(&self) -> bool {
        self.phase == Phase::Serving && self.channel.is_some()
    }

    /// What to wait on: its end, and its channel while that is open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.child.as_fd()), self.channel.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    /// Sends, or ends a process that cannot be talked to. `false` when it did not go out.
    pub(super) fn send(&mut self, message: ToWorker) -> bool {
        match self.try_send(message) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("worker process {}: cannot send to it: {error}", self.pid());
                self.channel = None;
                self.kill();
                false
            }
        }
    }

    /// What it said since the last call.
    pub(super) fn receive(&mut self, now: Instant) -> Vec<FromWorker> {
        let Some(channel) = &mut self.channel else {
            return Vec::new();
        };
        match channel.receive() {
            Ok(messages) => messages,
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::error!("worker process {}: {error}", self.pid());
                }
                // It is about to end, or out of its mind; either way not for long.
                self.channel = None;
                let until = now + DRAIN_GRACE;
                self.phase = match self.phase {
                    Phase::Ending { until: sooner } => Phase::Ending { until: sooner.min(until) },
                    Phase::Starting { .. } | Phase::Serving => Phase::Ending { until },
                };
                Vec::new()
            }
        }
    }

    /// A piece of its runtime state came; the whole of it with the last one.
    pub(super) fn gather(&mut self, piece: &str, is_last: bool) -> Option<String> {
        if let Some(gathered) = &mut self.gathered {
            if gathered.len() + piece.len() > RUNTIME_STATE_BYTES {
                tracing::warn!("worker process {} says too much of its servers: it is not kept", self.pid());
                self.gathered = None;
            } else {
                gathered.push_str(piece);
            }
        }
        if is_last { self.gathered.replace(String::new()) } else { None }
    }

    /// Lets it finish what it began; `successor`: another one serves already.
    pub(super) fn drain(&mut self, deadline: Duration, successor: bool, now: Instant) {
        self.phase = Phase::Ending { until: now + deadline + DRAIN_GRACE };
        self.send(ToWorker::Drain { deadline, successor });
    }

    /// Ends its drain before its time: what lives is told that it ends, as at the end of the drain.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.hurried, true) {
            self.drain(Duration::ZERO, true, now);
        }
    }

    /// It drains already, and has no successor any more: idle connections are not to hold the end up.
    pub(super) fn hold_nothing_up(&mut self, deadline: Duration) {
        if !self.stopped && self.channel.is_some() {
            self.send(ToWorker::Drain { deadline, successor: false });
        }
    }

    /// Ends it now, with a moment for its logs; asking again changes nothing.
    pub(super) fn stop(&mut self, now: Instant) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        self.phase = Phase::Ending { until: now + STOP_GRACE };
        self.send(ToWorker::Stop);
    }

    pub(super) fn is_ending_soon(&self) -> bool {
        self.hurried || self.stopped
    }

    pub(super) fn kill(&self) {
        if let Err(error) = self.child.kill() {
            tracing::warn!("worker process {}: cannot kill it: {error}", self.pid());
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.child.ended()
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { until } | Phase::Ending { until } => Some(until),
            Phase::Serving => None,
        }
    }

    /// When it is asked next whether it lives.
    pub(super) fn next_question(&self) -> Option<Instant> {
        (self.phase == Phase::Serving).then(|| self.questions.next())
    }

    fn try_send(&mut self, message: ToWorker) -> io::Result<()> {
        match &mut self.channel {
            Some(channel) => channel.send(message),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Pauses between starts of worker processes that die.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause after a process that lived for `lived`.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if lived < HEALTHY_AFTER => (last * 2).min(BACKOFF_LONGEST),
            _ => BACKOFF_FIRST,
        };
        self.last = Some(pause);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_health() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..9).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.after(HEALTHY_AFTER).as_millis(), 100);
        assert_eq!(backoff.after(Duration::from_secs(59)).as_millis(), 200);
    }
}
