//! The access log, off the hot path.
//!
//! ```text
//!   worker (each)                                          writer (one thread)
//!   LogSender::write ── copies what the format needs ──►  Place, Place ──► every 100 ms, or when a
//!                       into one of two places of its      swapped        thousand lines wait: formats,
//!                       own; never waits, never wakes      for empty      one write for up to 256 KiB
//!                       anybody for a single line          ones
//! ```
//!
//! A worker that finds no room loses the line and counts it; a disk that is full, or a reader that
//! is gone, never holds up a request. Whatever a client sent, a line stays one line: each format
//! escapes what could end it.

mod batch;
mod entry;
mod escape;
mod format;
pub mod limits;
mod plan;
mod sender;
#[cfg(test)]
mod tests;
mod time;
mod writer;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use sumun_config::checked::LogFormat;

pub use entry::{Entry, KeptHeaders, Needs};
pub use sender::LogSender;

use crate::telemetry::Family;
use plan::Plan;
use sender::Lane;

/// The access log of a process. Ends its thread, after a last round, when it is dropped.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
}

/// What the control side, the workers and the writer share.
#[derive(Debug)]
struct Shared {
    /// Raised with each new plan, so that a worker looks at the lock only then.
    generation: AtomicU64,
    plan: Mutex<Arc<Plan>>,
    lanes: Vec<Arc<Lane>>,
    orders: Mutex<Orders>,
    done: Condvar,
    /// Lines that could not be written.
    unwritten: AtomicU64,
    write_errors: AtomicU64,
}

/// What the writer is to do in its next round.
#[derive(Debug, Default)]
struct Orders {
    descriptor: Option<OwnedFd>,
    /// Counts calls of `flush`, and those that have been served.
    flush_asked: u64,
    flush_done: u64,
    stop: bool,
}

impl AccessLog {
    /// Off, until `change` gives a format and `reopen` a descriptor.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn start(workers: usize) -> io::Result<Self> {
        // Before any sandbox: the zone is a file.
        Self::start_in(workers, TimeZone::system())
    }

    fn start_in(workers: usize, zone: TimeZone) -> io::Result<Self> {
        let plan = Arc::new(Plan::off());
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(1),
            lanes: (0..workers).map(|_| Arc::new(Lane::new(&plan))).collect(),
            plan: Mutex::new(plan),
            orders: Mutex::default(),
            done: Condvar::new(),
            unwritten: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
        });
        let for_writer = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer::run(&for_writer, zone))?;
        Ok(Self { shared, writer: thread.thread().clone() })
    }

    /// What this worker writes with. One for each worker: two senders of one worker index would
    /// take each other's place.
    ///
    /// # Panics
    /// There is no such worker.
    #[must_use]
    pub fn sender(&self, worker: usize) -> LogSender {
        LogSender::new(Arc::clone(&self.shared), Arc::clone(&self.shared.lanes[worker]), self.writer.clone())
    }

    /// Lines that begin from now on have this format; `None` turns the log off.
    pub fn change(&self, format: Option<&LogFormat>) {
        let plan = Arc::new(format.map_or_else(Plan::off, Plan::new));
        *lock(&self.shared.plan) = plan;
        self.shared.generation.fetch_add(1, Ordering::Release);
        self.writer.unpark();
    }

    /// Writes to this descriptor, once what waits has gone to the one before.
    pub fn reopen(&self, descriptor: OwnedFd) {
        lock(&self.shared.orders).descriptor = Some(descriptor);
        self.writer.unpark();
    }

    /// Waits until everything that was sent before is written (or lost and counted). False: it took
    /// longer than `patience`.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut orders = lock(&self.shared.orders);
        orders.flush_asked += 1;
        let mine = orders.flush_asked;
        self.writer.unpark();
        while orders.flush_done < mine {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            orders = self.shared.done.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lines that no place was found for: the writer was too slow.
    #[must_use]
    pub fn lost_in_queue(&self) -> u64 {
        self.shared.lanes.iter().map(|lane| lane.lost()).sum()
    }

    /// Lines that could not be written.
    #[must_use]
    pub fn lost_in_writing(&self) -> u64 {
        self.shared.unwritten.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut lost = Family::counter(
            "sumun_log_lines_lost_total",
            "Lines of the access log that were lost, or left out to stay within own limits, by cause.",
        );
        lost.push(&[("cause", &"queue".into())], self.lost_in_queue());
        lost.push(&[("cause", &"write".into())], self.lost_in_writing());
        let left_out = self.shared.lanes.iter().map(|lane| lane.left_out()).sum::<u64>();
        lost.push(&[("cause", &"own_limits".into())], left_out);
        let errors = Family::counter("sumun_log_write_errors_total", "Writes of the access log that failed.");
        vec![lost, errors.with(self.shared.write_errors.load(Ordering::Relaxed))]
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        lock(&self.shared.orders).stop = true;
        self.writer.unpark();
    }
}

/// A panic elsewhere leaves these values whole: they are only assigned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
