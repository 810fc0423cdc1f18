//! The pace of a request body on its way.

use std::time::Duration;

use sumun_engine::Deadline;
use sumun_http::BodyLength;

use super::Exchange;

/// How fast a request body has to come (`bounds.body_rate`).
pub(crate) struct Pace {
    start_ms: u64,
    grace_ms: u64,
    bytes_per_second: u64,
    /// How long the server may take nothing.
    server_ms: u64,
    limit_ms: u64,
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

    /// Moves the deadline on by what `received` bytes have earned.
    pub(crate) fn progress(&self, deadline: &Deadline, received: u64) {
        deadline.set_at(self.due_ms(deadline, received));
    }

    /// When the next bytes have to be here, with `received` of them.
    pub(crate) fn due_ms(&self, deadline: &Deadline, received: u64) -> u64 {
        let now_ms = deadline.now_ms();
        let earned_ms = match self.bytes_per_second {
            0 => u64::MAX,
            rate => self.start_ms + self.grace_ms + received.saturating_mul(1000) / rate,
        };
        // A fast start earns no right to fall silent.
        earned_ms.min(now_ms + self.grace_ms).min(self.limit_ms)
    }
}
