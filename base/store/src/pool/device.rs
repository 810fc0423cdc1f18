//! A physical volume in use: what its readers share with the thread that writes it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::directory::{Directory, Place};
use super::disk::Disk;
use super::label::Uuid;
use super::layout::Layout;
use super::record::ChunkAt;
use crate::Key;
use crate::limits::{QUEUE_BYTES, READ_ERRORS_MAX, SLOW_MS};

/// How a physical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Working,
    /// A write or sync takes too long, right now. What lies on it is not found meanwhile.
    Slow,
    /// It has failed, with the words of the host. What lies on it is not found, until the pool is opened again.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) uuid: Uuid,
    pub(super) path: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    /// One for each volume of the pool, in the order of its config.
    pub(super) stripes: Box<[Stripe]>,
    pub(super) lives: Arc<Lives>,
    pub(super) health: Health,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

/// Where a device comes from: the same lives go on when the pool is opened by another config, so that who
/// reads is not disturbed.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) lives: Option<Arc<Lives>>,
}

/// What is going on in the extents of a device.
#[derive(Debug)]
pub(super) struct Lives {
    /// The life that each extent lives; 0 is one that nobody may read.
    pub(super) generations: Box<[AtomicU64]>,
    /// Who reads in each extent.
    pub(super) pins: Box<[AtomicU32]>,
    /// Chunks that were whole when somebody read them, by extent.
    pub(super) verified: Mutex<HashMap<u32, Vec<u16>>>,
}

impl Lives {
    pub(super) fn new(extents: u64) -> Self {
        Self {
            generations: (0..extents).map(|_| AtomicU64::new(0)).collect(),
            pins: (0..extents).map(|_| AtomicU32::new(0)).collect(),
            verified: Mutex::default(),
        }
    }
}

/// What a logical volume has of a physical one.
#[derive(Debug)]
pub(super) struct Stripe {
    /// What checksums of the volume's records begin with.
    pub(super) seed: u64,
    pub(super) extents: u64,
    pub(super) directory: Mutex<Directory>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    is_stopped: bool,
}

/// What the thread that writes is asked to do, in this order.
#[derive(Debug)]
pub(super) enum Job {
    Chunk {
        volume: usize,
        key: Key,
        ticket: Arc<Ticket>,
        bytes: Vec<u8>,
    },
    Head {
        volume: usize,
        key: Key,
        ticket: Arc<Ticket>,
        meta: Vec<u8>,
        rest: Vec<u8>,
    },
    /// Told true once it is durable; false if it could not be made so.
    Remove {
        volume: usize,
        key: Key,
        done: Option<SyncSender<bool>>,
    },
    /// Told true once everything before is durable.
    Flush {
        done: SyncSender<bool>,
    },
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Chunk { bytes, .. } => bytes.len(),
            Self::Head { meta, rest, .. } => meta.len() + rest.len(),
            Self::Remove { .. } | Self::Flush { .. } => 0,
        }
    }
}

/// An object on its way to disk.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    pub(super) has_failed: AtomicBool,
    pub(super) chunks: Mutex<Vec<ChunkAt>>,
}

#[derive(Debug)]
pub(super) struct Health {
    started: Instant,
    /// Since when a write or sync is on its way, in milliseconds since the start and one more; 0 is none.
    writing_since: AtomicU64,
    has_failed: AtomicBool,
    reason: Mutex<String>,
    pub(super) read_errors: AtomicU64,
    pub(super) slow_writes: AtomicU64,
    /// Objects that were not stored, since the queue was full, the device failed or readers held it up.
    pub(super) not_stored: AtomicU64,
}

impl Device {
    pub(super) fn new(
        (uuid, path): (Uuid, PathBuf),
        disk: Arc<dyn Disk>,
        layout: Layout,
        stripes: Box<[Stripe]>,
        lives: Arc<Lives>,
    ) -> Self {
        Self {
            uuid,
            path,
            disk,
            layout,
            stripes,
            lives,
            health: Health {
                started: Instant::now(),
                writing_since: AtomicU64::new(0),
                has_failed: AtomicBool::new(false),
                reason: Mutex::default(),
                read_errors: AtomicU64::new(0),
                slow_writes: AtomicU64::new(0),
                not_stored: AtomicU64::new(0),
            },
            queue: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// Puts a job into the queue. False: there is no room, or nobody will do it.
    pub(super) fn ask(&self, job: Job) -> bool {
        let mut queue = lock(&self.queue);
        let bytes = job.bytes();
        if queue.is_stopped || self.health.has_failed() || bytes > 0 && queue.bytes + bytes > QUEUE_BYTES {
            return false;
        }
        queue.bytes += bytes;
        queue.jobs.push_back(job);
        self.arrived.notify_one();
        true
    }

    /// All jobs there are, once there are any; none when it is over.
    pub(super) fn jobs(&self) -> Option<VecDeque<Job>> {
        let mut queue = lock(&self.queue);
        while queue.jobs.is_empty() {
            if queue.is_stopped {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut queue.jobs))
    }

    pub(super) fn is_done(&self, bytes: usize) {
        lock(&self.queue).bytes -= bytes;
    }

    /// What is in the queue is still done, and nothing more comes into it.
    pub(super) fn stop(&self) {
        lock(&self.queue).is_stopped = true;
        self.arrived.notify_all();
    }

    pub(super) fn find(&self, volume: usize, key: Key) -> Option<Place> {
        if !self.health.is_working() {
            return None;
        }
        lock(&self.stripes[volume].directory).find(super::directory::Tag::of(key))
    }
}

impl Health {
    pub(super) fn state(&self) -> State {
        if self.has_failed() {
            return State::Failed(lock(&self.reason).clone());
        }
        if self.is_slow() { State::Slow } else { State::Working }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    fn is_working(&self) -> bool {
        !self.has_failed() && !self.is_slow()
    }

    fn is_slow(&self) -> bool {
        let since = self.writing_since.load(Ordering::Relaxed);
        since > 0 && self.now_ms().saturating_sub(since) > SLOW_MS
    }

    /// Only the first reason is kept.
    pub(super) fn fail(&self, reason: String) {
        let mut kept = lock(&self.reason);
        if kept.is_empty() {
            *kept = reason;
        }
        self.has_failed.store(true, Ordering::Release);
    }

    /// A read has failed.
    pub(super) fn read_failed(&self, error: &std::io::Error) {
        if self.read_errors.fetch_add(1, Ordering::Relaxed) + 1 >= READ_ERRORS_MAX {
            self.fail(format!("reading: {error}"));
        }
    }

    /// Does something that writes, and sees how long it takes and whether it works.
    pub(super) fn watch<T>(&self, what: &str, write: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        if self.has_failed() {
            return None;
        }
        let since = self.now_ms();
        self.writing_since.store(since, Ordering::Relaxed);
        let result = write();
        self.writing_since.store(0, Ordering::Relaxed);
        if self.now_ms() - since > SLOW_MS {
            self.slow_writes.fetch_add(1, Ordering::Relaxed);
        }
        result.inspect_err(|error| self.fail(format!("{what}: {error}"))).ok()
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
