//! A physical volume in use: what its readers share with the thread that writes it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::Shared;
use super::directory::{Directory, Place, Tag};
use super::disk::Disk;
use super::evacuate::Leaving;
use super::label::Uuid;
use super::layout::Layout;
use super::ticket::{Commits, Ticket};
use crate::Key;
use crate::limits::{
    HANG_MS, JOB_BYTES, PINNED_MS, QUEUE_BYTES, QUEUE_SPARE_BYTES, READ_ERRORS_MAX, READS_MAX, REMOVALS_BYTES, SLOW_MS,
    SLOW_READ_MS,
};

/// How a physical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Working,
    /// A write, sync or read takes too long, right now. What lies on it is not found meanwhile.
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
    /// It has pages that can be sent, and be let go of before others are written in their place.
    pub(super) can_send: bool,
    /// Nothing new goes there, and what it holds moves away.
    pub(super) leaving: Option<Leaving>,
    pub(super) health: Health,
    /// Something that was forgotten could not be queued: what the directory does not know may be on disk.
    pub(super) has_missed: AtomicBool,
    /// The maps of the others say that it does not belong to the group any more.
    pub(super) is_excluded: AtomicBool,
    /// Its thread has not ended.
    pub(super) is_at_work: AtomicBool,
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
    pub(super) is_leaving: bool,
}

/// What is going on in the extents of a device.
#[derive(Debug)]
pub(super) struct Lives {
    /// The life that each extent lives; 0 is one that nobody may read.
    pub(super) generations: Box<[AtomicU64]>,
    /// Who reads in each extent.
    pub(super) pins: Box<[AtomicU32]>,
    /// By extent: pages of it may be in a socket, from this process or from one before.
    pub(super) lent: Box<[AtomicBool]>,
    /// Somebody else may write there.
    pub(super) is_closed: AtomicBool,
    /// Chunks that were written, or were whole when somebody read them, by extent.
    pub(super) verified: Mutex<HashMap<u32, Vec<u16>>>,
    /// Whose turn it is to read.
    pub(super) turns: Arc<Semaphore>,
}

impl Lives {
    /// Of as many extents as there may ever be.
    pub(super) fn new(extents: u64) -> Self {
        Self {
            lent: (0..extents).map(|_| AtomicBool::new(true)).collect(),
            is_closed: AtomicBool::new(false),
            generations: (0..extents).map(|_| AtomicU64::new(0)).collect(),
            pins: (0..extents).map(|_| AtomicU32::new(0)).collect(),
            verified: Mutex::default(),
            turns: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    /// From here on nothing is lent. Waits until nobody reads, within a bound.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_millis(PINNED_MS);
        for pins in &self.pins {
            while pins.load(Ordering::SeqCst) > 0 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// What lies there is whole; as long as the extent lives this life, for what is verified is forgotten when
    /// that ends.
    pub(super) fn verify(&self, place: Place, generation: u64) {
        let mut verified = lock(&self.verified);
        if self.generations[place.extent as usize].load(Ordering::SeqCst) == generation {
            let slots = verified.entry(place.extent).or_default();
            if let Err(at) = slots.binary_search(&place.slot) {
                slots.insert(at, place.slot);
            }
        }
    }

    /// The extent lives this life.
    pub(super) fn is_alive(&self, place: Place, generation: u64) -> bool {
        self.generations.get(place.extent as usize).is_some_and(|life| life.load(Ordering::SeqCst) == generation)
    }

    pub(super) fn is_verified(&self, place: Place) -> bool {
        lock(&self.verified).get(&place.extent).is_some_and(|slots| slots.binary_search(&place.slot).is_ok())
    }
}

/// What a logical volume has of a physical one.
#[derive(Debug)]
pub(super) struct Stripe {
    /// What checksums of the volume's records begin with.
    pub(super) seed: u64,
    pub(super) extents: u64,
    pub(super) directory: Mutex<Directory>,
    /// Those of the volume, on whichever device.
    pub(super) commits: Arc<Commits>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    is_stopped: bool,
    /// Who waits for room.
    waiting: Vec<Waker>,
}

impl Queue {
    fn has_room(&self) -> bool {
        self.bytes + QUEUE_SPARE_BYTES <= QUEUE_BYTES
    }
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
    Remove {
        volume: usize,
        key: Key,
        /// It was there when it was asked for, and the directory does not know it any more.
        is_forgotten: bool,
        /// Told true once it is durable; false if it could not be made so.
        done: Option<SyncSender<bool>>,
    },
    /// A note: as a head, and told as with a removal.
    Keep {
        volume: usize,
        key: Key,
        ticket: Arc<Ticket>,
        meta: Vec<u8>,
        done: Option<SyncSender<bool>>,
    },
    /// Told true once everything before is durable.
    Flush {
        done: SyncSender<bool>,
    },
    /// Notes on the devices that work which ones have failed.
    Exclude {
        shared: Arc<Shared>,
    },
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Chunk { bytes, .. } => JOB_BYTES + bytes.len(),
            Self::Head { meta, rest, .. } => JOB_BYTES + meta.len() + rest.len(),
            Self::Keep { meta, .. } => JOB_BYTES + meta.len(),
            Self::Remove { .. } => JOB_BYTES,
            Self::Flush { .. } | Self::Exclude { .. } => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Health {
    started: Instant,
    /// Since when a write or sync is on its way, in milliseconds since the start and one more; 0 is none: of its own
    /// thread, and of who notes here that another device is excluded.
    writing_since: [AtomicU64; 2],
    /// The same of reads.
    reading_since: [AtomicU64; READS_MAX],
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
        can_send: bool,
        is_leaving: bool,
    ) -> Self {
        let objects = || stripes.iter().map(|stripe| lock(&stripe.directory).len() as u64).sum();
        let leaving = is_leaving.then(|| Leaving { left: AtomicU64::new(objects()), ..Leaving::default() });
        Self {
            uuid,
            path,
            disk,
            layout,
            stripes,
            lives,
            can_send,
            leaving,
            health: Health {
                started: Instant::now(),
                writing_since: Default::default(),
                reading_since: Default::default(),
                has_failed: AtomicBool::new(false),
                reason: Mutex::default(),
                read_errors: AtomicU64::new(0),
                slow_writes: AtomicU64::new(0),
                not_stored: AtomicU64::new(0),
            },
            has_missed: AtomicBool::new(false),
            is_excluded: AtomicBool::new(false),
            is_at_work: AtomicBool::new(false),
            queue: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// Puts a job into the queue. False: there is no room, or nobody will do it.
    pub(super) fn ask(&self, job: Job) -> bool {
        let mut queue = lock(&self.queue);
        let bytes = job.bytes();
        let most = if matches!(job, Job::Remove { .. }) { QUEUE_BYTES + REMOVALS_BYTES } else { QUEUE_BYTES };
        if queue.is_stopped || self.health.has_failed() || bytes > 0 && queue.bytes + bytes > most {
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
        let mut queue = lock(&self.queue);
        queue.bytes -= bytes;
        let waiting = if queue.has_room() { std::mem::take(&mut queue.waiting) } else { Vec::new() };
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// There is room for what can wait, or nothing to wait for; else the waker is woken once there is.
    pub(super) fn has_room(&self, waker: &Waker) -> bool {
        let mut queue = lock(&self.queue);
        let has_room = queue.has_room() || queue.is_stopped || self.health.has_failed();
        if !has_room && !queue.waiting.iter().any(|known| known.will_wake(waker)) {
            queue.waiting.push(waker.clone());
        }
        has_room
    }

    pub(super) fn queued_bytes(&self) -> usize {
        lock(&self.queue).bytes
    }

    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.queue).is_stopped
    }

    /// What is in the queue is still done, and nothing more comes into it.
    pub(super) fn stop(&self) {
        lock(&self.queue).is_stopped = true;
        self.arrived.notify_all();
    }

    /// Forgets what is there, and has it removed; where somebody is to be told, in any case. False: on disk it
    /// stays.
    pub(super) fn forget(&self, volume: usize, key: Key, is_queued: bool, done: Option<SyncSender<bool>>) -> bool {
        let is_forgotten = lock(&self.stripes[volume].directory).remove(Tag::of(key)) || is_queued;
        let is_needed = is_forgotten || done.is_some();
        let is_done = !is_needed || self.ask(Job::Remove { volume, key, is_forgotten, done });
        if !is_done {
            self.has_missed.store(true, Ordering::SeqCst);
        }
        is_done
    }

    /// More than half of the log would come upon itself while the object is read.
    pub(super) fn object_max(&self, volume: usize) -> u64 {
        self.stripes[volume].extents * self.layout.extent_bytes / 2
    }

    /// There is nothing on it that could be moved.
    pub(super) fn is_evacuated(&self) -> bool {
        let is_moved = self.leaving.as_ref().is_some_and(|leaving| leaving.is_done.load(Ordering::Acquire));
        is_moved || self.health.has_failed()
    }

    /// By how much it is preferred as the home of a key.
    pub(super) fn weight(&self, volume: usize) -> u64 {
        if self.leaving.is_some() { 0 } else { self.stripes[volume].extents }
    }

    pub(super) fn find(&self, volume: usize, key: Key) -> Option<Place> {
        if !self.health.is_working() {
            return None;
        }
        lock(&self.stripes[volume].directory).find(Tag::of(key))
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

    pub(super) fn is_working(&self) -> bool {
        !self.has_failed() && !self.is_slow()
    }

    fn is_slow(&self) -> bool {
        self.takes_longer(SLOW_MS, SLOW_READ_MS)
    }

    /// What was asked of it so long ago may never come back.
    pub(super) fn hangs(&self) -> bool {
        self.takes_longer(HANG_MS, HANG_MS)
    }

    fn takes_longer(&self, write_ms: u64, read_ms: u64) -> bool {
        let now_ms = self.now_ms();
        let is_long = |since: &AtomicU64, most_ms| {
            let since = since.load(Ordering::Relaxed);
            since > 0 && now_ms.saturating_sub(since) > most_ms
        };
        self.writing_since.iter().any(|since| is_long(since, write_ms))
            || self.reading_since.iter().any(|since| is_long(since, read_ms))
    }

    /// Somebody notes here that another device is excluded.
    pub(super) fn is_noting(&self) -> bool {
        self.writing_since[1].load(Ordering::SeqCst) > 0
    }

    /// Only the first reason is kept.
    pub(super) fn fail(&self, reason: String) {
        let mut kept = lock(&self.reason);
        if kept.is_empty() {
            *kept = reason;
        }
        self.has_failed.store(true, Ordering::Release);
    }

    /// Does something that reads, and sees how long it takes and whether it works. Beyond [`READS_MAX`] at a
    /// time nobody sees how long: those that are seen have hung before.
    pub(super) fn read<T>(&self, read: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        let now_ms = self.now_ms();
        let is_free =
            |since: &&AtomicU64| since.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let since = self.reading_since.iter().find(is_free);
        let result = read();
        if let Some(since) = since {
            since.store(0, Ordering::Relaxed);
        }
        let failed = |error: &std::io::Error| {
            if self.read_errors.fetch_add(1, Ordering::Relaxed) + 1 >= READ_ERRORS_MAX {
                self.fail(format!("reading: {error}"));
            }
        };
        result.inspect_err(failed).ok()
    }

    /// Does something that writes, on the device's own thread, and sees how long it takes and whether it works.
    pub(super) fn watch<T>(&self, what: &str, write: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        self.writes(0, what, write)
    }

    /// The same by who notes that another device is excluded, one at a time.
    pub(super) fn note<T>(&self, write: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        self.writes(1, "writing", write)
    }

    fn writes<T>(&self, who: usize, what: &str, write: impl FnOnce() -> std::io::Result<T>) -> Option<T> {
        if self.has_failed() {
            return None;
        }
        let since = self.now_ms();
        self.writing_since[who].store(since, Ordering::SeqCst);
        let result = write();
        self.writing_since[who].store(0, Ordering::SeqCst);
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
