//! What others see of it: metrics, and a row for each certificate in the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sumun_engine::telemetry::Family;

use crate::fault::Side;

/// Read from any thread.
#[derive(Debug, Default)]
pub struct Shown(Mutex<BTreeMap<String, Entry>>);

#[derive(Debug, Clone, Default)]
struct Entry {
    row: Row,
    issued: u64,
    /// In the order of [`Side::ALL`].
    failed: [u64; Side::ALL.len()],
}

/// One certificate. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    pub name: String,
    pub domains: Vec<String>,
    pub authority: String,
    pub state: State,
    /// `None`: a stand-in is shown.
    pub expires: Option<u64>,
    /// When an order is begun or gone on with; `None` in a process that does not care for it.
    pub next_try: Option<u64>,
    /// Tries in a row that failed.
    pub failures: u32,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// There is none yet.
    #[default]
    Waiting,
    /// An order is in flight.
    Ordering,
    Valid,
    Expired,
}

impl State {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ordering => "ordering",
            Self::Valid => "valid",
            Self::Expired => "expired",
        }
    }
}

impl Shown {
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.lock().values().map(|entry| entry.row.clone()).collect()
    }

    pub(crate) fn put(&self, id: &str, row: Row) {
        self.lock().entry(id.to_owned()).or_default().row = row;
    }

    /// Leaves only these.
    pub(crate) fn keep(&self, is_wanted: impl Fn(&str) -> bool) {
        self.lock().retain(|id, _| is_wanted(id));
    }

    pub(crate) fn count(&self, id: &str, failed: Option<Side>) {
        let mut entries = self.lock();
        let entry = entries.entry(id.to_owned()).or_default();
        match failed.and_then(|side| Side::ALL.iter().position(|known| *known == side)) {
            None => entry.issued += 1,
            Some(index) => {
                if let Some(count) = entry.failed.get_mut(index) {
                    *count += 1;
                }
            }
        }
    }

    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let mut orders =
            Family::counter("sumun_acme_orders_total", "Tries to obtain a certificate, by how they ended.");
        let mut expires = Family::gauge(
            "sumun_acme_certificate_expires_seconds",
            "When the certificate that was obtained expires, in seconds since 1970; 0 while a stand-in is shown.",
        );
        let mut next = Family::gauge("sumun_acme_next_try_seconds", "When the next try begins, in seconds since 1970.");
        let mut failures = Family::gauge("sumun_acme_failures", "Tries in a row that failed.");
        for (id, entry) in &*self.lock() {
            let certificate: Arc<str> = id.as_str().into();
            let outcomes = Side::ALL.iter().map(|side| side.word()).zip(entry.failed);
            for (outcome, count) in std::iter::once(("issued", entry.issued)).chain(outcomes) {
                orders.push(&[("certificate", &certificate), ("outcome", &outcome.into())], count);
            }
            expires.push(&[("certificate", &certificate)], entry.row.expires.unwrap_or(0));
            failures.push(&[("certificate", &certificate)], u64::from(entry.row.failures));
            if let Some(at) = entry.row.next_try {
                next.push(&[("certificate", &certificate)], at);
            }
        }
        vec![orders, expires, next, failures]
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
