//! The thread that writes one physical volume: a log for each volume that has a part of it.
//!
//! A log goes round its extents and takes over the oldest one when it needs room, never another: so what is
//! left of the past is always the newest part of it, and a removal is there as long as what it removed may
//! be. An extent is durable before the next one is begun, for the same reason.

mod keep;

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::device::{Device, Job, lock};
use super::directory::{Place, Tag};
use super::layout::SECTOR;
use super::record::{self, ChunkAt, HEADER, Head, Kind, Note};
use super::ticket::Ticket;
use crate::Key;
use crate::limits::{JOB_BYTES, PINNED_MS, REMOVALS_TOGETHER};

/// The log of one volume on this device.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Its extents, the oldest first; the last one is written to, if one is.
    pub(super) order: VecDeque<u32>,
    /// What each of them holds.
    pub(super) notes: HashMap<u32, Vec<Note>>,
    /// What is in it stays.
    pub(super) has_notes: bool,
    current: Option<Current>,
    /// The oldest extent, if there are no notes in it any more that have to stay.
    carried: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    extent: u32,
    generation: u64,
    /// Where the next record goes, in bytes from the extent's beginning.
    at: u64,
}

#[derive(Debug)]
pub(super) struct Thread {
    device: Arc<Device>,
    logs: Vec<Log>,
    next_generation: u64,
    /// Something was written that may not be durable.
    is_dirty: bool,
    /// Who waits for the next sync.
    waiting: Vec<SyncSender<bool>>,
    /// What was forgotten, and could not be removed yet.
    late: VecDeque<(usize, Key)>,
    /// It still cannot.
    is_behind: bool,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.device.is_at_work.store(false, Ordering::SeqCst);
    }
}

impl Thread {
    /// Generations of this start of the pool are above those of all starts before, on disk or lost.
    pub(super) fn new(device: Arc<Device>, logs: Vec<Log>, start: u64) -> Self {
        device.is_at_work.store(true, Ordering::SeqCst);
        Self {
            device,
            logs,
            next_generation: (start << 32) + 1,
            is_dirty: false,
            waiting: Vec::new(),
            late: VecDeque::new(),
            is_behind: false,
        }
    }

    /// Works until the device is stopped; if it ever panics, nobody waits for what it will not do any more.
    pub(super) fn run(self) {
        let device = Arc::clone(&self.device);
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            device.health.fail("its thread has panicked".into());
            device.stop();
            device.stripes.iter().for_each(|stripe| stripe.commits.give_up_all(device.uuid));
        }
    }

    /// Works until the device is stopped, and leaves it so that the next start has nothing to walk through.
    fn work(mut self) {
        let device = Arc::clone(&self.device);
        while let Some(jobs) = device.jobs() {
            for job in jobs {
                if !self.late.is_empty() {
                    self.catch_up();
                }
                let bytes = job.bytes();
                if self.step(job) {
                    device.is_done(bytes);
                }
                if self.waiting.len() >= REMOVALS_TOGETHER {
                    self.sync();
                }
            }
            self.answer();
        }
        self.catch_up();
        for volume in 0..self.logs.len() {
            self.seal(volume);
        }
        self.answer();
    }

    /// False: it is put off, and goes on to count as being in the queue.
    fn step(&mut self, job: Job) -> bool {
        match job {
            Job::Chunk { volume, key, ticket, bytes } => {
                if ticket.has_failed() {
                    return true;
                }
                match self.append(volume, Kind::Chunk, key, &bytes) {
                    Some((place, generation)) => {
                        self.device.lives.verify(place, generation);
                        ticket.is_written(ChunkAt { place, generation, length: bytes.len() as u32 });
                    }
                    None => self.give_up(&ticket),
                }
            }
            Job::Head { volume, key, ticket, meta, rest } => {
                self.store(volume, key, &ticket, meta, rest);
            }
            Job::Keep { volume, key, ticket, meta, done } => self.keep(volume, key, &ticket, meta, done),
            Job::Remove { volume, key, is_forgotten, done } => {
                let is_known = is_forgotten
                    || self.is_behind
                    || self.device.has_missed.load(Ordering::SeqCst)
                    || lock(&self.device.stripes[volume].directory).find(Tag::of(key)).is_some();
                // What is not there may still be on disk, in an extent whose taking over is not durable yet:
                // therefore who asks waits for a sync in either case.
                let is_written = !is_known || self.remove(volume, key);
                match done {
                    Some(done) if is_written => self.waiting.push(done),
                    Some(done) => answer(&done, false),
                    None => {}
                }
                if !is_written {
                    self.late.push_back((volume, key));
                    self.is_behind = true;
                    return false;
                }
            }
            Job::Flush { done } => self.waiting.push(done),
            Job::Exclude { shared } => {
                shared.is_excluding.store(false, Ordering::SeqCst);
                shared.exclude_failed(&mut lock(&shared.maps));
            }
        }
        true
    }

    /// False: it could not be written.
    fn store(&mut self, volume: usize, key: Key, ticket: &Arc<Ticket>, meta: Vec<u8>, rest: Vec<u8>) -> bool {
        let mut place = None;
        if !ticket.has_failed() {
            let head = Head { meta, chunks: ticket.chunks(), rest };
            place = self.append(volume, Kind::Head, key, &head.to_bytes()).map(|(place, _)| place);
            if place.is_none() {
                self.give_up(ticket);
            }
        }
        let stripe = &self.device.stripes[volume];
        stripe.commits.settle(key, ticket, || {
            if let Some(place) = place {
                lock(&stripe.directory).insert(Tag::of(key), place);
            }
        });
        place.is_some()
    }

    /// False: it could not be written.
    fn remove(&mut self, volume: usize, key: Key) -> bool {
        let is_written = self.resume(volume).is_some() && self.append(volume, Kind::Removed, key, &[]).is_some();
        self.carry_over(volume);
        lock(&self.device.stripes[volume].directory).remove(Tag::of(key));
        is_written
    }

    /// Removals that readers held up. Nothing else is written before they are: in the log they would undo
    /// what came after them.
    fn catch_up(&mut self) {
        self.is_behind = false;
        while let Some(&(volume, key)) = self.late.front() {
            if !self.remove(volume, key) {
                self.is_behind = true;
                return;
            }
            self.late.pop_front();
            self.device.is_done(JOB_BYTES);
        }
    }

    fn give_up(&self, ticket: &Ticket) {
        if ticket.give_up() {
            self.device.health.not_stored.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a record. None: it does not fit, or the device has failed or has its next extent held by readers.
    fn append(&mut self, volume: usize, kind: Kind, key: Key, payload: &[u8]) -> Option<(Place, u64)> {
        let layout = self.device.layout;
        // Nothing begins in the last unit.
        let room = layout.extent_bytes - layout.unit();
        let span = ((HEADER + payload.len()) as u64).next_multiple_of(layout.unit());
        // Heads are read, chunks are sent.
        let gap = |at| if kind == Kind::Chunk { record::gap(at, layout) } else { 0 };
        if gap(0) + span > room || self.is_behind {
            return None;
        }
        let current = match self.logs[volume].current {
            Some(current) if current.at + gap(current.at) + span <= room => current,
            _ => {
                self.seal(volume);
                self.take_over(volume)?
            }
        };
        let gap = gap(current.at);
        let begin = Place { extent: current.extent, slot: (current.at / layout.unit()) as u16 };
        let place = Place { slot: ((current.at + gap) / layout.unit()) as u16, ..begin };
        let device = Arc::clone(&self.device);
        let stripe = &device.stripes[volume];
        let bytes = record::write(kind, current.generation, key, stripe.seed, payload);
        self.is_dirty = true;
        if gap > 0 {
            let filler = record::write_filler(current.generation, stripe.seed, gap);
            device.health.watch("writing", || device.disk.write_at(&filler, layout.record_at(begin)))?;
        }
        device.health.watch("writing", || device.disk.write_at(&bytes, layout.record_at(place)))?;
        let log = &mut self.logs[volume];
        log.current = Some(Current { at: current.at + gap + span, ..current });
        let slot = match kind {
            Kind::Chunk => return Some((place, current.generation)),
            Kind::Head => Some(place.slot),
            Kind::Removed => None,
        };
        log.notes.entry(place.extent).or_default().push(Note::new(Tag::of(key), slot));
        Some((place, current.generation))
    }

    /// The extent that is written to is full: its contents go to its page, and all of it becomes durable.
    fn seal(&mut self, volume: usize) {
        let Some(Current { extent, generation, .. }) = self.logs[volume].current.take() else {
            return;
        };
        let device = Arc::clone(&self.device);
        let notes = self.logs[volume].notes.get(&extent).map(Vec::as_slice).unwrap_or_default();
        // A page that is too small for them stays as it was: the extent is walked through then.
        if let Some(contents) = record::write_contents(generation, device.stripes[volume].seed, notes, device.layout) {
            let at = device.layout.page_at(extent) + SECTOR as u64;
            device.health.watch("writing", || device.disk.write_at(&contents, at));
        }
        self.is_dirty = true;
        self.sync();
    }

    /// Begins a new life of the oldest extent.
    fn take_over(&mut self, volume: usize) -> Option<Current> {
        let device = Arc::clone(&self.device);
        let log = &mut self.logs[volume];
        let extent = *log.order.front()?;
        let life = &device.lives.generations[extent as usize];
        let before = life.swap(0, Ordering::SeqCst);
        if !is_unread(&device, extent) {
            life.store(before, Ordering::SeqCst);
            return None;
        }
        let stripe = &device.stripes[volume];
        {
            let mut directory = lock(&stripe.directory);
            for note in log.notes.remove(&extent).unwrap_or_default() {
                if let Some(slot) = note.slot() {
                    directory.remove_at(note.tag(), Place { extent, slot });
                }
            }
        }
        lock(&device.lives.verified).remove(&extent);
        self.is_dirty = true;
        // If the power goes before the new life is durable, what the old one had cannot be read any more. No
        // removal is missed then: what was removed in the oldest extent was in one that is gone.
        if device.lives.lent[extent as usize].swap(false, Ordering::SeqCst) {
            let detach = || device.disk.detach(device.layout.extent_at(extent), device.layout.extent_bytes);
            device.health.watch("letting go of pages", || {
                detach().or_else(|error| if device.can_send { Err(error) } else { Ok(()) })
            })?;
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let sector = record::write_life(generation, stripe.seed);
        device.health.watch("writing", || device.disk.write_at(&sector, device.layout.page_at(extent)))?;
        log.carried = None;
        log.order.rotate_left(1);
        life.store(generation, Ordering::SeqCst);
        let current = Current { extent, generation, at: 0 };
        log.current = Some(current);
        Some(current)
    }

    fn answer(&mut self) {
        if !self.waiting.is_empty() {
            self.sync();
        }
    }

    /// Makes durable what was written, and tells who waits for it.
    fn sync(&mut self) {
        let device = &self.device;
        let is_durable = if self.is_dirty {
            device.health.watch("making durable", || device.disk.sync()).is_some()
        } else {
            !device.health.has_failed()
        };
        self.is_dirty &= !is_durable;
        for done in self.waiting.drain(..) {
            answer(&done, is_durable);
        }
    }
}

fn answer(done: &SyncSender<bool>, is_done: bool) {
    // Who asked may have stopped waiting.
    done.try_send(is_done).ok();
}

/// Waits until nobody reads in the extent, within a bound.
fn is_unread(device: &Device, extent: u32) -> bool {
    let pins = &device.lives.pins[extent as usize];
    let until = Instant::now() + Duration::from_millis(PINNED_MS);
    while pins.load(Ordering::SeqCst) > 0 {
        if Instant::now() > until || device.health.has_failed() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
