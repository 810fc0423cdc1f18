//! What is counted.

use std::sync::Arc;

use super::failure::Reason;
use crate::counters::Counter;
use crate::telemetry::Family;

/// Handshakes of one listener, or with the servers of one pool, by worker.
#[derive(Debug)]
pub(super) struct Counts {
    cells: Box<[Cell]>,
}

/// Written by one worker.
#[derive(Debug, Default)]
struct Cell {
    full: Counter,
    resumed: Counter,
    failed: [Counter; Reason::ALL.len()],
}

/// The sum over workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandshakeCounts {
    pub full: u64,
    pub resumed: u64,
    /// In the order of [`Reason::ALL`].
    pub failed: [u64; Reason::ALL.len()],
}

impl Counts {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { cells: (0..workers).map(|_| Cell::default()).collect() })
    }

    pub(super) fn done(&self, worker: usize, resumed: bool) {
        if let Some(cell) = self.cells.get(worker) {
            if resumed { cell.resumed.increment() } else { cell.full.increment() }
        }
    }

    pub(super) fn failed(&self, worker: usize, reason: Reason) {
        let index = Reason::ALL.iter().position(|known| *known == reason);
        let counter = self.cells.get(worker).zip(index).and_then(|(cell, index)| cell.failed.get(index));
        if let Some(counter) = counter {
            counter.increment();
        }
    }

    pub(super) fn sum(&self) -> HandshakeCounts {
        let mut sum = HandshakeCounts::default();
        for cell in &self.cells {
            sum.full += cell.full.value();
            sum.resumed += cell.resumed.value();
            for (total, counter) in sum.failed.iter_mut().zip(&cell.failed) {
                *total += counter.value();
            }
        }
        sum
    }
}

/// The handshake of one connection, which is counted once.
#[derive(Debug)]
pub(super) struct Tally {
    counts: Arc<Counts>,
    worker: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Opening,
    /// Done as far as we know. The other side's first word may be that it refuses us; whoever lets go
    /// of the connection before that has had it open.
    Unconfirmed {
        resumed: bool,
    },
    Counted,
}

impl Tally {
    pub(super) fn new(counts: Arc<Counts>, worker: usize) -> Self {
        Self { counts, worker, state: State::Opening }
    }

    /// Done on our side; `is_final`: on the other one, too.
    pub(super) fn done(&mut self, resumed: bool, is_final: bool) {
        if let State::Opening = self.state {
            self.state = State::Unconfirmed { resumed };
            if is_final {
                self.confirm();
            }
        }
    }

    pub(super) fn confirm(&mut self) {
        if let State::Unconfirmed { resumed } = self.state {
            self.state = State::Counted;
            self.counts.done(self.worker, resumed);
        }
    }

    pub(super) fn failed(&mut self, reason: Reason) {
        if !matches!(std::mem::replace(&mut self.state, State::Counted), State::Counted) {
            self.counts.failed(self.worker, reason);
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening)
    }

    pub(super) fn is_unconfirmed(&self) -> bool {
        matches!(self.state, State::Unconfirmed { .. })
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.confirm();
    }
}

/// What one family of handshakes is about: the name of its label, and where the values come from.
type Rows = [(Arc<str>, HandshakeCounts)];

/// The families of all listeners and pools.
pub(super) fn families(
    listeners: &Rows,
    pools: &Rows,
    expiries: &[(&'static str, Arc<str>, Arc<str>, u64)],
) -> Vec<Family> {
    let mut expiry =
        Family::gauge("sumun_tls_certificate_expires_seconds", "When the certificate expires, in seconds since 1970.");
    for (kind, owner, name, seconds) in expiries {
        expiry.push(&[(*kind, owner), ("name", name)], *seconds);
    }
    let mut families = vec![expiry];
    families.extend(handshakes(
        "listener",
        listeners,
        Family::counter("sumun_tls_handshakes_total", "Handshakes with clients that were completed."),
        Family::counter("sumun_tls_handshake_failures_total", "Handshakes with clients that failed, by why."),
    ));
    families.extend(handshakes(
        "pool",
        pools,
        Family::counter("sumun_tls_server_handshakes_total", "Handshakes with servers that were completed."),
        Family::counter("sumun_tls_server_handshake_failures_total", "Handshakes with servers that failed, by why."),
    ));
    families
}

fn handshakes(label: &'static str, rows: &Rows, mut done: Family, mut failed: Family) -> [Family; 2] {
    for (owner, counts) in rows {
        done.push(&[(label, owner), ("resumed", &"no".into())], counts.full);
        done.push(&[(label, owner), ("resumed", &"yes".into())], counts.resumed);
        for (reason, count) in Reason::ALL.iter().zip(counts.failed) {
            failed.push(&[(label, owner), ("reason", &reason.word().into())], count);
        }
    }
    [done, failed]
}
