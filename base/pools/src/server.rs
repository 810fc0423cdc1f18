//! One member of a pool: where it is, and what everybody knows about it.
//!
//! A `Server` outlives reloads as long as its name and its target stay the same, and with it its
//! state and its counters. Everything that changes is an atomic.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use sumun_config::checked::{Concurrency, Name, ServerAddress};
use sumun_traffic::health::Health;
use sumun_traffic::key::key_of;
use sumun_traffic::outlier::Ejections;
use sumun_traffic::slow_start;

use crate::admission::{Admission, AdmissionLimits, Caller};
use crate::capacity::Room;
use crate::lease::Lease;
use crate::pool::Pool;

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// What the operator wants of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdminState {
    Enabled,
    /// No new requests, except those whose sticky cookie names it.
    Draining,
    /// No new requests at all.
    Disabled,
}

/// One member of a pool.
#[derive(Debug)]
pub struct Server {
    // What every request touches lies together.
    in_flight: AtomicU32,
    failures_in_row: AtomicU32,
    requests: AtomicU64,
    is_adaptive: AtomicBool,
    pub(crate) room: Arc<Room>,
    pub(crate) pool: Weak<Pool>,
    /// Who waits for an answer's head, where that has an adaptive bound; who finds no place waits in the
    /// pool's room.
    admission: Arc<Admission>,

    id: u64,
    name: Name,
    identity: u64,
    target: Target,
    weight: AtomicU32,
    admin: AtomicU8,
    health: AtomicU8,
    /// Down by its checks, the last of which was good.
    is_rising: AtomicBool,
    ejected_until_ms: AtomicU64,
    /// When the slow start begins; 0 for none. May lie in the future (the end of an ejection).
    ramp_from_ms: AtomicU64,
    pub(crate) counters: Counters,
    about: Mutex<About>,
}

/// Events since the server joined the pool.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connect_failed: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) bad_status: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) checks: AtomicU64,
    pub(crate) checks_failed: AtomicU64,
}

/// What only the control side and rare events touch.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) last_check: String,
    pub(crate) reason: String,
    pub(crate) ejections: Ejections,
}

/// What a new server is made of.
pub(crate) struct NewServer {
    pub(crate) name: Name,
    pub(crate) target: Target,
    pub(crate) weight: u32,
    /// Slow start begins at this time; 0 for none.
    pub(crate) ramp_from_ms: u64,
    /// The zero of the workers' clocks.
    pub(crate) started: Instant,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Server {
    pub(crate) fn new(new: NewServer, room: &Arc<Room>, pool: &Weak<Pool>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            failures_in_row: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            is_adaptive: AtomicBool::new(false),
            admission: Arc::new(Admission::of_server(room, pool, new.started)),
            room: Arc::clone(room),
            pool: Weak::clone(pool),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            identity: key_of(new.name.as_bytes()),
            name: new.name,
            target: new.target,
            weight: AtomicU32::new(new.weight),
            admin: AtomicU8::new(AdminState::Enabled as u8),
            health: AtomicU8::new(Health::Unknown as u8),
            is_rising: AtomicBool::new(false),
            ejected_until_ms: AtomicU64::new(0),
            ramp_from_ms: AtomicU64::new(new.ramp_from_ms),
            counters: Counters::default(),
            about: Mutex::default(),
        }
    }

    /// Never given to another server while this process lives.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// As it was written; an address that came from a name is `name:port@address`.
    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The address as the operator wrote it: what the server's certificate has to be for.
    pub fn address(&self) -> ServerAddress {
        match &self.target {
            Target::Unix(path) => ServerAddress::Unix(path.clone()),
            Target::Tcp(address) => {
                let written = self.name.rsplit_once('@').and_then(|(written, _)| written.rsplit_once(':'));
                match written {
                    Some((host, _)) => ServerAddress::Name { host: host.to_owned(), port: address.port() },
                    None => ServerAddress::Ip(*address),
                }
            }
        }
    }

    /// Requests that are at this server now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests since it joined the pool.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub fn admin_state(&self) -> AdminState {
        match self.admin.load(Ordering::Relaxed) {
            0 => AdminState::Enabled,
            1 => AdminState::Draining,
            _ => AdminState::Disabled,
        }
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Unknown,
            1 => Health::Up,
            _ => Health::Down,
        }
    }

    /// It is ejected before this time; 0 if it never was.
    pub fn ejected_until_ms(&self) -> u64 {
        self.ejected_until_ms.load(Ordering::Relaxed)
    }

    /// New requests may come as far as the operator and the checks are concerned.
    pub fn accepts(&self) -> bool {
        self.admin_state() == AdminState::Enabled && self.health() != Health::Down
    }

    /// The same, or it is on its way up: it may be asked where there is nobody else, and connections
    /// to it are worth keeping.
    pub fn may_be_asked(&self) -> bool {
        self.accepts() || (self.admin_state() == AdminState::Enabled && self.is_rising.load(Ordering::Relaxed))
    }

    /// Who is with it may stay, though others may not come.
    pub fn keeps_sessions(&self) -> bool {
        self.admin_state() != AdminState::Disabled && self.health() != Health::Down
    }

    /// A connection to it was made.
    pub fn note_connect(&self) {
        self.counters.connects.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that failed here goes to another server.
    pub fn note_retry(&self) {
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// What keys of hash and maglev are bound to.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    pub(crate) fn is_eligible(&self, now_ms: u64) -> bool {
        self.accepts() && now_ms >= self.ejected_until_ms()
    }

    /// Not one to be picked, but better than nobody: it is ejected, which is a guess that others do
    /// better, or on its way up.
    pub(crate) fn is_last_resort(&self, now_ms: u64) -> bool {
        self.may_be_asked() && !self.is_eligible(now_ms)
    }

    /// A request whose cookie names this server may come.
    pub(crate) fn is_eligible_for_sticky(&self, now_ms: u64) -> bool {
        self.keeps_sessions() && now_ms >= self.ejected_until_ms()
    }

    /// The weight as of now, in hundredths, and whether it is still rising.
    pub(crate) fn weight_hundredths(&self, now_ms: u64, ramp_ms: u64) -> (u32, bool) {
        let weight = self.weight();
        let from_ms = self.ramp_from_ms.load(Ordering::Relaxed);
        if from_ms == 0 || ramp_ms == 0 || now_ms >= from_ms.saturating_add(ramp_ms) {
            return (weight * 100, false);
        }
        let percent = slow_start::weight_percent(now_ms.saturating_sub(from_ms), ramp_ms);
        ((weight * percent).max(1), true)
    }

    /// Takes a place if there is one; `bound` is its `max_connections`.
    ///
    /// Who is called under the lock of the queue must not serve it. So what may have to be given back is the
    /// connection, which serves nobody, and not the place. Whoever missed it meanwhile is served by those
    /// who hold the places.
    #[inline]
    pub(crate) fn try_enter(self: &Arc<Self>, bound: Option<u32>) -> Option<Lease> {
        if !self.try_connection(bound) {
            return None;
        }
        let mut place = None;
        if self.is_adaptive() {
            place = self.admission.try_acquire(Caller::Client).ok().flatten();
            if place.is_none() {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
                return None;
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(Lease::of_taken_place(Arc::clone(self), place))
    }

    #[inline]
    fn try_connection(&self, bound: Option<u32>) -> bool {
        match bound {
            None => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                true
            }
            Some(bound) => {
                let more = |load: u32| (load < bound).then_some(load + 1);
                // In one order with `leave` and with who waits: see `capacity`.
                self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
            }
        }
    }

    /// Whether there is a place; in one order with `leave`, so that a waiter misses none.
    pub(crate) fn has_place(&self, bound: Option<u32>) -> bool {
        bound.is_none_or(|bound| self.in_flight.load(Ordering::SeqCst) < bound)
            && (!self.is_adaptive() || self.admission.has_place())
    }

    /// Its concurrency is adaptive.
    #[inline]
    pub(crate) fn is_adaptive(&self) -> bool {
        self.is_adaptive.load(Ordering::Relaxed)
    }

    /// Who waits for its answers.
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn set_adaptive(&self, is_adaptive: bool) {
        let concurrency = if is_adaptive { Concurrency::Adaptive } else { Concurrency::Unbounded };
        self.admission.set_limits(AdmissionLimits { concurrency, ..AdmissionLimits::default() });
        self.is_adaptive.store(is_adaptive, Ordering::Relaxed);
    }

    /// Gives a place back.
    #[inline]
    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// A request went well.
    #[inline]
    pub(crate) fn note_success(&self) {
        // Mostly zero already: reading does not take the cache line away from the others.
        if self.failures_in_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_row.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed; returns how many did in a row.
    pub(crate) fn note_failure(&self) -> u32 {
        self.failures_in_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    pub(crate) fn set_admin(&self, state: AdminState) {
        self.admin.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    /// Gives whether that is new.
    pub(crate) fn set_rising(&self, rising: bool) -> bool {
        self.is_rising.swap(rising, Ordering::Relaxed) != rising
    }

    pub(crate) fn set_ejected_until(&self, until_ms: u64) {
        self.ejected_until_ms.store(until_ms, Ordering::Relaxed);
        self.failures_in_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn begin_ramp(&self, from_ms: u64) {
        // Zero means none; a server that comes back in the first millisecond loses one.
        self.ramp_from_ms.store(from_ms.max(1), Ordering::Relaxed);
    }

    /// Held for the length of a few assignments. A panic elsewhere leaves only texts behind.
    pub(crate) fn about(&self) -> MutexGuard<'_, About> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
