//! The pace of a request body on its way.

use std::cell::Cell;
use std::time::Duration;

use sumun_engine::Deadline;
use sumun_engine::limits::TICK;
use sumun_http::BodyLength;

use super::Exchange;
use super::bandwidth::wake_at_next_tick;

/// How fast a request body has to come (`bounds.body_rate`).
pub(crate) struct Pace {
    start_ms: u64,
    grace_ms: u64,
    bytes_per_second: u64,
    /// How long the server may take nothing.
    server_ms: u64,
    limit_ms: u64,
    /// How long the body has waited for its share of a bandwidth, and the last tick in which it did.
    paused_ms: Cell<u64>,
    paused_at_ms: Cell<Option<u64>>,
}

impl Pace {
    pub(crate) fn begin(exchange: &Exchange<'_>) -> Self {
        let bounds = &exchange.site.config.bounds;
        Self {
            start_ms: exchange.deadline.now_ms(),
            grace_ms: bounds.header_timeout.as_millis() as u64,
            bytes_per_second: bounds.body_rate,
            server_ms: bounds.idle.as_millis() as u64,
            limit_ms: exchange.limit_ms,
            paused_ms: Cell::new(0),
            paused_at_ms: Cell::new(None),
        }
    }

    /// The body goes to a server that may pause for so long. So may a client that has a conversation
    /// with it.
    pub(crate) fn towards(mut self, exchange: &Exchange<'_>, idle: Duration) -> Self {
        self.server_ms = idle.as_millis() as u64;
        if exchange.is_grpc() { self.of_conversation() } else { self }
    }

    /// The server answers already: a body that has no length and goes on is half of a conversation.
    pub(crate) fn in_answer(self, exchange: &Exchange<'_>) -> Self {
        if matches!(exchange.head.body, BodyLength::Chunked) { self.of_conversation() } else { self }
    }

    /// Whoever speaks next, the other one waits for: neither has a pace, both have the same patience.
    fn of_conversation(mut self) -> Self {
        self.grace_ms = self.server_ms;
        self.bytes_per_second = 0;
        self
    }

    /// From now on the server has to take bytes, not the client to send them.
    pub(crate) fn wait_for_server(&self, deadline: &Deadline) {
        deadline.set_at((deadline.now_ms() + self.server_ms).min(self.limit_ms));
    }

    /// The body waits for its share of a bandwidth, until the next tick: that is not the client's doing.
    pub(crate) fn pause(&self, deadline: &Deadline) {
        let now_ms = deadline.now_ms();
        if self.paused_at_ms.replace(Some(now_ms)) != Some(now_ms) {
            self.paused_ms.set(self.paused_ms.get() + TICK.as_millis() as u64);
        }
        wake_at_next_tick(deadline, self.limit_ms);
    }

    /// It waits for the client again, with `received` bytes. True: it had paused.
    pub(crate) fn go_on(&self, deadline: &Deadline, received: u64) -> bool {
        let had_paused = self.paused_at_ms.take().is_some();
        if had_paused {
            self.progress(deadline, received);
        }
        had_paused
    }

    /// Moves the deadline on by what `received` bytes have earned.
    pub(crate) fn progress(&self, deadline: &Deadline, received: u64) {
        deadline.set_at(self.due_ms(deadline, received));
    }

    /// When the next bytes have to be here, with `received` of them.
    pub(crate) fn due_ms(&self, deadline: &Deadline, received: u64) -> u64 {
        let now_ms = deadline.now_ms();
        let earned_ms = match self.bytes_per_second {
            0 => u64::MAX,
            rate => self.start_ms + self.grace_ms + self.paused_ms.get() + received.saturating_mul(1000) / rate,
        };
        // A fast start earns no right to fall silent.
        earned_ms.min(now_ms + self.grace_ms).min(self.limit_ms)
    }
}
