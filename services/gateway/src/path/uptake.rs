//! How fast a client takes its answer.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::Exchange;
use crate::events::Reason;

/// The least that a client takes while it is awaited (`bounds.answer_rate`).
///
/// It is looked at once in each idle time, so that neither large buffers nor a pause of a moment are held
/// against anybody. What the kernel has taken a client may never get: of a TCP connection it counts what
/// was acknowledged. Streams of HTTP/2 share a connection, and so they share the rate. Calls of gRPC have
/// none: whoever has a conversation may be silent.
pub(super) struct Uptake {
    bytes_per_second: u64,
    window_ms: u64,
    /// When the window ends, while the client is awaited; how much of it is left, while it is not.
    due_ms: Option<u64>,
    left_ms: u64,
    /// When the window began; `None`: nothing was looked at so far.
    taken_before: Option<u64>,
    /// Bytes that were written.
    pub(super) sent: u64,
}

impl Uptake {
    /// A client that takes nothing for `idle` takes too little in any case.
    pub(super) fn new(exchange: &Exchange<'_>, idle: Duration) -> Self {
        let window_ms = idle.as_millis() as u64;
        let bytes_per_second = if exchange.is_grpc() { 0 } else { exchange.site.config.bounds.answer_rate };
        Self { bytes_per_second, window_ms, due_ms: None, left_ms: window_ms, taken_before: None, sent: 0 }
    }

    /// The client is awaited: sets the deadline. False: it has taken too little for too long.
    pub(super) fn awaits_client(&mut self, exchange: &Exchange<'_>) -> bool {
        let now_ms = exchange.deadline.now_ms();
        let left_ms = self.left_ms;
        let mut due_ms = *self.due_ms.get_or_insert_with(|| now_ms.saturating_add(left_ms));
        if self.taken_before.is_none() || now_ms >= due_ms {
            let taken = exchange.stream.acknowledged().unwrap_or(self.sent);
            if self.taken_before.is_some_and(|before| !self.is_enough(taken.saturating_sub(before), exchange)) {
                return false;
            }
            self.taken_before = Some(taken);
            due_ms = now_ms.saturating_add(self.window_ms);
            self.due_ms = Some(due_ms);
        }
        exchange.deadline.set_at(due_ms.saturating_add(1).min(exchange.limit_ms));
        true
    }

    /// Something else is awaited.
    pub(super) fn pauses(&mut self, now_ms: u64) {
        if let Some(due_ms) = self.due_ms.take() {
            self.left_ms = due_ms.saturating_sub(now_ms);
        }
    }

    fn is_enough(&self, taken: u64, exchange: &Exchange<'_>) -> bool {
        let least =
            self.bytes_per_second.saturating_mul(self.window_ms) / 1000 / exchange.stream.siblings().max(1) as u64;
        taken >= least.max(1)
    }

    /// Writes everything.
    pub(super) async fn write_all(&mut self, exchange: &mut Exchange<'_>, mut bytes: &[u8]) -> Result<(), Reason> {
        poll_fn(|context| {
            while !bytes.is_empty() {
                match exchange.stream.poll_write(context, bytes) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        self.sent += count as u64;
                        bytes = bytes.get(count..).unwrap_or_default();
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(Reason::ClientClosed)),
                    Poll::Pending if self.awaits_client(exchange) && !exchange.is_over_limit() => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(Err(Reason::ClientStalled)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}
