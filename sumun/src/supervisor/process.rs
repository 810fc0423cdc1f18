//! One worker process, as the supervisor holds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use sumun_engine::lifecycle::{FromWorker, SupervisorEnd, ToWorker};
use sumun_host::process::{ProcessHandle, spawn_self};

use crate::limits::{BACKOFF_FIRST, BACKOFF_LONGEST, DRAIN_GRACE, HEALTHY_AFTER, START_TIMEOUT, STOP_GRACE};

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
    /// Was told to end at once.
    stopped: bool,
    child: Child,
    handle: ProcessHandle,
    /// `None` once it was closed or broke.
    channel: Option<SupervisorEnd>,
}

impl WorkerProcess {
    /// Starts the process and sends it its first message.
    pub(super) fn start(number: u64, first: ToWorker, now: Instant) -> io::Result<Self> {
        let (child, channel) = spawn_self("sumun", &["worker"])?;
        // Not reaped yet, so the id cannot mean another process.
        let handle = ProcessHandle::open(child.id())?;
        let channel = Some(SupervisorEnd::new(channel)?);
        let phase = Phase::Starting { until: now + START_TIMEOUT };
        let mut process = Self { number, phase, started: now, stopped: false, child, handle, channel };
        if let Err(error) = process.try_send(first) {
            process.kill();
            // It was killed, so the wait is short; without it a zombie would stay.
            process.child.wait()?;
            return Err(error);
        }
        Ok(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What to wait on: its end, and its channel while that is open.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.handle.as_fd()), self.channel.as_ref().map(AsFd::as_fd)].into_iter().flatten()
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

    /// Lets it finish what it began.
    pub(super) fn drain(&mut self, deadline: Duration, now: Instant) {
        self.phase = Phase::Ending { until: now + deadline + DRAIN_GRACE };
        self.send(ToWorker::Drain { deadline });
    }

    /// Ends it now, with a moment for its logs; asking again changes nothing.
    pub(super) fn stop(&mut self, now: Instant) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        self.phase = Phase::Ending { until: now + STOP_GRACE };
        self.send(ToWorker::Stop);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::warn!("worker process {}: cannot kill it: {error}", self.pid());
        }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { until } | Phase::Ending { until } => Some(until),
            Phase::Serving => None,
        }
    }

    fn try_send(&mut self, message: ToWorker) -> io::Result<()> {
        match &mut self.channel {
            Some(channel) => channel.send(message),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Pauses between starts of worker processes that die.
#[derive(Debug, Default)]
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
