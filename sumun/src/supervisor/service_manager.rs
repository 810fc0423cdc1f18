//! What the service manager is told (systemd's `Type=notify`).

use std::time::{Duration, Instant};

use sumun_host::clock::monotonic_ns;
use sumun_host::notify::{Notifier, State, watchdog};

#[derive(Debug)]
pub(super) struct ServiceManager {
    /// `None`: nobody wants to know.
    notifier: Option<Notifier>,
    /// It waits four times as long for a sign of life: an answer that is late is no end yet.
    every: Option<Duration>,
    next: Instant,
    /// The last question to the worker process,
    ping: u64,
    /// and whether there was an answer since, if only to one before it.
    answered: bool,
    reloading: bool,
}

impl ServiceManager {
    /// As the environment says; also in the next program, which has the same.
    pub(super) fn find() -> Self {
        let notifier = Notifier::from_environment().unwrap_or_else(|error| {
            tracing::warn!("NOTIFY_SOCKET: {error}; the service manager is told nothing");
            None
        });
        let every = notifier.as_ref().and_then(|_| watchdog()).map(|limit| limit / 4);
        Self { notifier, every, next: Instant::now(), ping: 0, answered: true, reloading: false }
    }

    /// When a sign of life is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|next| next <= now)
    }

    /// Gives a sign of life, unless the last question was not answered; returns the next question.
    pub(super) fn show_life(&mut self, now: Instant) -> u64 {
        if let Some(every) = self.every {
            self.next = now + every;
        }
        if self.answered {
            self.say(&[State::Watchdog]);
        } else {
            tracing::error!("the worker process does not answer: the service manager gets no sign of life");
        }
        self.ping += 1;
        self.answered = false;
        self.ping
    }

    /// The worker process answered a question, or there is none that could.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// `status` is a line for people.
    pub(super) fn ready(&mut self, status: &str) {
        self.reloading = false;
        // Who has become ready is alive, whatever became of the one that was asked.
        self.answered = true;
        self.say(&[State::Ready, State::Status(status)]);
    }

    pub(super) fn reloading(&mut self) {
        self.reloading = true;
        self.say(&[State::Reloading { monotonic_us: monotonic_ns() / 1000 }]);
    }

    /// Whatever became of it.
    pub(super) fn reloaded(&mut self, status: &str) {
        if self.reloading {
            self.ready(status);
        }
    }

    pub(super) fn stopping(&mut self) {
        self.reloading = false;
        self.say(&[State::Stopping, State::Status("ending: connections finish what they began")]);
    }

    fn say(&self, states: &[State<'_>]) {
        if let Some(notifier) = &self.notifier
            && let Err(error) = notifier.say(states)
        {
            tracing::warn!("the service manager cannot be told: {error}");
        }
    }
}
