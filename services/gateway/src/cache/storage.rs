//! The pool on disk: opened, changed and let go of by a thread of its own, since all of that waits for disks.
//!
//! ```text
//!   config, devices ─► orders ─► keeper (a thread) ─► Pool ─► volumes by name ─► requests
//!   purges ─────────────────────────────────────────► journal, a volume of its own
//! ```

mod keeper;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sumun_config::checked::{CacheGroup, Name};
use sumun_store::pool::{self, Pool, PoolUsage, Volume};
use tokio::sync::{oneshot, watch};

use super::purges::{Note, Purges, What};
use crate::limits::{CACHE_PURGES, CACHE_SETTLE};

/// The pool and whoever keeps it.
#[derive(Debug)]
pub(super) struct Storage {
    shared: Arc<Shared>,
    /// To the keeper; `None`: no config had a group so far.
    orders: Mutex<Option<Sender<Order>>>,
}

#[derive(Debug)]
struct Shared {
    purges: Arc<Purges>,
    /// Purges that are not durable yet. Of too many the oldest are dropped: what is older counts as purged then.
    unnoted: Mutex<VecDeque<Note>>,
    /// Something was purged while there was no pool, of which there is no note.
    has_missed: AtomicBool,
    /// What routes use, and the purges' journal.
    volumes: RwLock<Volumes>,
    pool: Mutex<Option<Pool>>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct Volumes {
    by_name: HashMap<Name, Volume>,
    journal: Option<Volume>,
}

/// How the pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The config has none.
    Off,
    Opening,
    /// Another process has its devices.
    Waiting,
    /// And why it is not what the config says, where it is not.
    Open(Option<String>),
    /// Why it cannot be opened.
    Failed(String),
    /// Another process may have it.
    Left,
}

enum Order {
    Follow { group: Option<CacheGroup>, devices: Vec<(PathBuf, File)> },
    Leave { done: oneshot::Sender<()> },
    Return,
}

/// How the pool on disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageReport {
    /// Its UUID; empty while it is not open.
    pub group: String,
    /// `open`, `opening`, `waiting` (another process has the devices), `left` or `failed`.
    pub state: &'static str,
    pub problem: Option<String>,
    pub physical_volumes: Vec<PhysicalVolumeReport>,
    pub volumes: Vec<VolumeReport>,
}

/// A file or device that the pool lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolumeReport {
    pub path: PathBuf,
    pub uuid: String,
    /// `working`, `slow`, `failed` or `leaving`.
    pub state: &'static str,
    pub problem: Option<String>,
    pub extent_bytes: u64,
    pub extents: u64,
    /// That no volume has.
    pub free_extents: u64,
    pub read_errors: u64,
    pub slow_writes: u64,
    /// Objects that it was too busy for, or has failed to write.
    pub not_stored: u64,
}

/// A volume that routes name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    pub name: String,
    pub bytes: u64,
    pub objects: u64,
}

impl Storage {
    pub(super) fn new(purges: &Arc<Purges>) -> Self {
        let shared = Arc::new(Shared {
            purges: Arc::clone(purges),
            unnoted: Mutex::default(),
            has_missed: AtomicBool::new(false),
            volumes: RwLock::default(),
            pool: Mutex::default(),
            state: watch::Sender::new(State::Off),
        });
        Self { shared, orders: Mutex::default() }
    }

    /// The volume of this name, while it can be used.
    pub(super) fn volume(&self, name: &Name) -> Option<Volume> {
        self.shared.volumes().by_name.get(name).cloned()
    }

    /// Opens, changes or closes the pool, in the background.
    pub(super) fn follow(&self, group: Option<CacheGroup>, devices: Vec<(PathBuf, File)>) {
        let mut orders = lock(&self.orders);
        if orders.is_none() && group.is_none() {
            return;
        }
        if orders.is_none() {
            let (sender, receiver) = channel();
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("cache-storage".to_owned());
            if let Err(error) = thread.spawn(move || keeper::run(&shared, &receiver)) {
                self.shared.is_now(State::Failed(format!("no thread for it: {error}")));
                return;
            }
            *orders = Some(sender);
        }
        if group.is_some() {
            self.shared.state.send_if_modified(|state| {
                let is_new = *state == State::Off;
                if is_new {
                    *state = State::Opening;
                }
                is_new
            });
        }
        send(orders.as_ref(), Order::Follow { group, devices });
    }

    /// Resolves once the pool is open, or cannot be opened.
    pub(super) async fn settled(&self) {
        let mut state = self.shared.state.subscribe();
        // It lives as long as we do.
        state.wait_for(|state| !matches!(state, State::Opening | State::Waiting)).await.ok();
    }

    /// Makes everything durable and lets go of the devices. Reading goes on.
    pub(super) async fn leave(&self) {
        let (done, told) = oneshot::channel();
        send(lock(&self.orders).as_ref(), Order::Leave { done });
        // Without a keeper there is nothing to let go of.
        told.await.ok();
    }

    pub(super) fn go_back(&self) {
        send(lock(&self.orders).as_ref(), Order::Return);
    }

    /// Makes a purge, which holds at once, and makes it durable where there is a pool: what is on disk outlives
    /// the mark in memory.
    pub(super) async fn purge(&self, is_soft: bool, what: What) -> Result<(), String> {
        let state = self.shared.state.borrow().clone();
        let is_reached = !matches!(state, State::Opening | State::Waiting);
        if state == State::Off {
            // A group that comes back has missed it.
            *lock(&self.shared.unnoted) = [self.shared.purges.add_for_all(is_soft, what)].into();
            return Ok(());
        }
        if !is_reached {
            self.shared.purges.add(is_soft, what.clone());
        }
        let for_now = |why: &str| format!("purged, but not for good: {why}; after a restart it may be there again");
        if !is_reached && tokio::time::timeout(CACHE_SETTLE, self.settled()).await.is_err() {
            return Err(for_now("the storage of the cache is not open yet"));
        }
        // The number of a note has to be above those that were found there.
        self.shared.is_to_note(self.shared.purges.add_noted(is_soft, what));
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || shared.write_notes()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(for_now(&why)),
            Err(lost) => Err(for_now(&lost.to_string())),
        }
    }

    /// The same, without waiting, and only for as long as this process lives. Where there is no pool that it could
    /// be noted in, those after it take all that is older to be purged.
    pub(super) fn purge_for_now(&self, what: What) {
        if matches!(*self.shared.state.borrow(), State::Failed(_)) {
            self.shared.has_missed.store(true, Ordering::SeqCst);
        }
        self.shared.purges.add(false, what);
    }

    /// All volumes of the pool: a route may have had another one before.
    pub(super) fn volumes(&self) -> Vec<Volume> {
        self.shared.volumes().by_name.values().cloned().collect()
    }

    /// There is a pool, or will be, and what is in it cannot be said.
    pub(super) fn is_out_of_reach(&self) -> bool {
        !matches!(*self.shared.state.borrow(), State::Off | State::Open(_))
    }

    /// `None`: the config has no pool.
    pub(super) fn report(&self) -> Option<StorageReport> {
        let (state, problem) = match &*self.shared.state.borrow() {
            State::Off => return None,
            State::Opening => ("opening", None),
            State::Waiting => ("waiting", None),
            State::Open(problem) => ("open", problem.clone()),
            State::Failed(why) => ("failed", Some(why.clone())),
            State::Left => ("left", None),
        };
        let mut report = StorageReport { state, problem, ..StorageReport::empty() };
        if let Some(usage) = lock(&self.shared.pool).as_ref().map(Pool::usage) {
            report.fill_in(usage);
        }
        Some(report)
    }
}

impl Shared {
    fn volumes(&self) -> std::sync::RwLockReadGuard<'_, Volumes> {
        self.volumes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_to_note(&self, note: Note) {
        let mut unnoted = lock(&self.unnoted);
        unnoted.push_back(note);
        if unnoted.len() > CACHE_PURGES {
            unnoted.pop_front();
        }
    }

    /// Makes durable what is not, the oldest first. What cannot be stays for the next time.
    fn write_notes(&self) -> Result<(), String> {
        if self.has_missed.swap(false, Ordering::SeqCst) {
            self.is_to_note(self.purges.note_for_all());
        }
        let Some(journal) = self.volumes().journal.clone() else {
            return Err("the storage of the cache is not open".to_owned());
        };
        let notes: Vec<Note> = lock(&self.unnoted).iter().cloned().collect();
        for note in notes {
            journal.keep(note.key(), &note.to_bytes()).map_err(|error| error.to_string())?;
            lock(&self.unnoted).retain(|other| *other != note);
        }
        Ok(())
    }

    fn publish(&self, volumes: Volumes) {
        *self.volumes.write().unwrap_or_else(PoisonError::into_inner) = volumes;
    }

    fn is_now(&self, state: State) {
        self.state.send_if_modified(|before| {
            let has_changed = *before != state;
            *before = state;
            has_changed
        });
    }
}

impl StorageReport {
    fn empty() -> Self {
        let group = String::new();
        Self { group, state: "", problem: None, physical_volumes: Vec::new(), volumes: Vec::new() }
    }

    fn fill_in(&mut self, usage: PoolUsage) {
        self.group = usage.group.to_string();
        let physical = usage.physical_volumes.into_iter().map(|one| {
            let (state, problem) = match (one.state, one.leaving) {
                (pool::State::Failed(why), _) => ("failed", Some(why)),
                (_, Some(left)) => ("leaving", Some(format!("answers that have to move yet: {left}"))),
                (pool::State::Working, None) => ("working", None),
                (pool::State::Slow, None) => ("slow", None),
            };
            PhysicalVolumeReport {
                path: one.path,
                uuid: one.uuid.to_string(),
                state,
                problem,
                extent_bytes: one.extent_bytes,
                extents: one.extents,
                free_extents: one.free_extents,
                read_errors: one.read_errors,
                slow_writes: one.slow_writes,
                not_stored: one.not_stored,
            }
        });
        self.physical_volumes = physical.collect();
        let volumes = usage.volumes.into_iter().filter(|volume| volume.name != keeper::JOURNAL);
        let report = |volume: pool::VolumeUsage| VolumeReport {
            name: volume.name,
            bytes: volume.bytes,
            objects: volume.objects,
        };
        self.volumes = volumes.map(report).collect();
    }
}

fn send(orders: Option<&Sender<Order>>, order: Order) {
    if let Some(orders) = orders {
        // A keeper that has ended has nothing.
        orders.send(order).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
