//! What happens because time passed, and how a connection ends.

use super::control::DRAIN_PING;
use super::{Connection, Drain, Reading, Role};
use crate::Abuse;
use crate::error::{ConnectionError, ErrorCode, Fault};
use crate::event::{Cause, Event, StreamId};
use crate::frame::{self, IDENTIFIER_MASK, kind};
use crate::limits::DRAIN_PING_MS;
use crate::stream::Stream;

impl Connection {
    /// When `expire` has something to do, on the clock of `now_ms`.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.over {
            return None;
        }
        let stalled = match self.stalled {
            0 => None,
            _ => self.streams.iter().filter_map(|stream| stream.stalled_since_ms).min(),
        };
        let drain = match self.drain {
            Drain::Announced { until_ms } => Some(until_ms),
            _ => None,
        };
        [self.settings_due_ms, self.head_due_ms(), drain, stalled.map(|since| self.stall_ends_ms(since))]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; to be called until there is no event.
    ///
    /// # Errors
    /// The peer let a deadline pass that ends the connection: its GOAWAY lies in the output.
    pub fn expire(&mut self, now_ms: u64) -> Result<Option<Event<'static>>, ConnectionError> {
        if self.over {
            return Ok(None);
        }
        let event = self.expire_next(now_ms).inspect_err(|error| self.fail(*error))?;
        self.check_invariants();
        Ok(event)
    }

    fn expire_next(&mut self, now_ms: u64) -> Result<Option<Event<'static>>, ConnectionError> {
        if self.settings_due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(Fault::SettingsTimeout.into());
        }
        if self.head_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(Abuse::SlowHead.into());
        }
        if matches!(self.drain, Drain::Announced { until_ms } if until_ms <= now_ms) {
            self.finish_drain();
        }
        while let Some(stream) = self.next_stalled(now_ms) {
            if stream.send_window <= 0 {
                let (stream, code) = (stream.id, ErrorCode::CANCEL);
                self.drop_stream(stream, code);
                return Ok(Some(Event::Reset { stream, code, cause: Cause::Stalled }));
            }
            // It waits for the connection's window, or for its turn. That is slow for all streams
            // together, but goes on.
            stream.stalled_since_ms = Some(now_ms);
            if self.send_window <= 0 && self.stall_ends_ms(self.progress.since_ms) <= now_ms {
                return Err(Abuse::Stalled.into());
            }
        }
        Ok(None)
    }

    fn next_stalled(&mut self, now_ms: u64) -> Option<&mut Stream> {
        let stall_ms = self.settings.stall_ms;
        let is_due = |since_ms: u64| since_ms.saturating_add(stall_ms) <= now_ms;
        self.streams.iter_mut().find(|stream| stream.stalled_since_ms.is_some_and(is_due))
    }

    fn stall_ends_ms(&self, since_ms: u64) -> u64 {
        since_ms.saturating_add(self.settings.stall_ms)
    }

    /// When the header block that has begun has to be complete.
    fn head_due_ms(&self) -> Option<u64> {
        let has_begun = self.open_block.is_some()
            || matches!(self.reading, Reading::Payload(header) if header.kind == kind::HEADERS);
        has_begun.then(|| self.block_began_ms.saturating_add(self.settings.head_ms))
    }

    /// Begins a graceful end (RFC 9113 section 6.8). A server takes what its client sends until it
    /// knows of the end: a PING later, it names the last stream. `is_drained` says when all is done.
    pub fn shutdown(&mut self, now_ms: u64) {
        if self.over || self.is_draining() {
            return;
        }
        match self.role {
            Role::Server => {
                let frames = self.output.frames();
                frame::go_away(frames, IDENTIFIER_MASK, ErrorCode::NO_ERROR, "");
                frame::ping(frames, 0, DRAIN_PING);
                self.drain = Drain::Announced { until_ms: now_ms.saturating_add(DRAIN_PING_MS) };
            }
            // Its server opens no streams: there is nothing to wait for.
            Role::Client => self.finish_drain(),
        }
    }

    pub(super) fn finish_drain(&mut self) {
        let last = self.last_of_peer();
        frame::go_away(self.output.frames(), last, ErrorCode::NO_ERROR, "");
        self.drain = Drain::Last(last);
    }

    /// The highest stream of the peer's that we looked at.
    pub(super) fn last_of_peer(&self) -> StreamId {
        if self.role == Role::Server { self.highest } else { 0 }
    }

    /// Ends the connection at once, for reasons of ours. Streams are gone.
    pub fn close(&mut self, code: ErrorCode) {
        self.end(code, "");
    }
}
