//! One request's place at a server.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::admission::Permit;
use crate::server::{Server, Target};

/// How a request ended, as far as the server is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// No connection, or none in time.
    ConnectFailed,
    /// Connected, but no answer in time.
    Timeout,
    /// Closed or reset before the answer was complete, or an answer that cannot be understood.
    CutOff,
    /// The status code of the answer: 502, 503 and 504 count as failures.
    Status(u16),
    /// Says nothing about the server: the client went away, or sent something wrong.
    Neutral,
}

/// A place at a server, freed on drop. May be sent to another thread.
#[derive(Debug)]
pub struct Lease {
    server: Arc<Server>,
    /// Where the server's concurrency is adaptive.
    place: Option<Permit>,
}

impl Lease {
    /// For a place that [`Server::try_enter`] has taken.
    #[inline]
    pub(super) fn of_taken_place(server: Arc<Server>, place: Option<Permit>) -> Self {
        Self { server, place }
    }

    /// What an adaptive concurrency of the server is told by: it is freed when the answer is here, long
    /// before the lease may be. Left here, it is freed with it.
    #[inline]
    pub fn take_place(&mut self) -> Option<Permit> {
        self.place.take()
    }

    #[inline]
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    #[inline]
    pub fn target(&self) -> &Target {
        self.server.target()
    }

    /// Tells the outlier detection. Each try is reported once, when its answer's head is here or
    /// cannot come any more; a `CutOff` may follow if the body then breaks.
    #[inline]
    pub fn report(&self, outcome: Outcome, now_ms: u64) {
        match outcome {
            Outcome::Success => self.server.note_success(),
            Outcome::Status(status) if !matches!(status, 502..=504) => self.server.note_success(),
            Outcome::Neutral => {}
            failure => self.failed(failure, now_ms),
        }
    }

    #[cold]
    fn failed(&self, outcome: Outcome, now_ms: u64) {
        let counters = &self.server.counters;
        let counter = match outcome {
            Outcome::ConnectFailed => &counters.connect_failed,
            Outcome::Timeout => &counters.timeouts,
            Outcome::CutOff => &counters.cut_off,
            Outcome::Status(_) => &counters.bad_status,
            Outcome::Success | Outcome::Neutral => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let in_row = self.server.note_failure();
        if let Some(pool) = self.server.pool.upgrade() {
            pool.consider_ejection(&self.server, in_row, outcome, now_ms);
        }
    }
}

impl Drop for Lease {
    #[inline]
    fn drop(&mut self) {
        self.place = None;
        self.server.leave();
        // After leaving: whoever joins the room before this look is seen, whoever joins after it
        // sees the free place (`capacity`).
        if self.server.room.waiting() != 0
            && let Some(pool) = self.server.pool.upgrade()
        {
            pool.serve_waiting();
        }
    }
}
