//! An object on its way to disk: what its writer, those who read it meanwhile and the thread that writes it
//! share. And which of them are in the queues, so that what is forgotten does not come up after all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::device::lock;
use super::label::Uuid;
use super::record::ChunkAt;
use crate::Key;
use crate::limits::READERS_MAX;

const ARRIVING: u8 = 0;
const STORED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// An object on its way.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    state: AtomicU8,
    /// Those that are written, from the first on.
    chunks: Mutex<Vec<ChunkAt>>,
    /// Bytes of them.
    written: AtomicU64,
    /// Who wants to know of the next step.
    wakers: Mutex<Vec<Waker>>,
}

impl Ticket {
    /// Of an object whose chunks are there already.
    pub(super) fn with(chunks: Vec<ChunkAt>) -> Self {
        Self { chunks: Mutex::new(chunks), ..Self::default() }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.load(Ordering::Acquire) == GIVEN_UP
    }

    /// It is not going to be stored. True: that is new, and it was not stored before.
    pub(super) fn give_up(&self) -> bool {
        let is_new = self.leave(GIVEN_UP);
        self.tell();
        is_new
    }

    fn leave(&self, state: u8) -> bool {
        self.state.compare_exchange(ARRIVING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn is_written(&self, chunk: ChunkAt) {
        lock(&self.chunks).push(chunk);
        self.written.fetch_add(u64::from(chunk.length), Ordering::Release);
        self.tell();
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn chunk(&self, number: usize) -> Option<ChunkAt> {
        lock(&self.chunks).get(number).copied()
    }

    pub(super) fn chunks(&self) -> Vec<ChunkAt> {
        lock(&self.chunks).clone()
    }

    /// Wakes it after the next step. Whoever asks looks at the state afterwards, or may miss that step.
    pub(super) fn wake(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if wakers.len() >= READERS_MAX {
            waker.wake_by_ref();
        } else if wakers.last().is_none_or(|known| !known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    fn tell(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// An object that is whole and has its place in the queue. Dropping this changes nothing.
#[derive(Debug)]
pub struct Commit {
    pub(super) ticket: Arc<Ticket>,
}

impl Commit {
    /// True once the object is found, which is before it is durable; false if it is not stored, or was
    /// forgotten before it was found.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<bool> {
        self.ticket.wake(context.waker());
        match self.ticket.state.load(Ordering::Acquire) {
            ARRIVING => Poll::Pending,
            state => Poll::Ready(state == STORED),
        }
    }
}

/// A head that is in the queue of this device.
type Queued = (Uuid, Arc<Ticket>);

/// The heads of one volume that are in the queues, by key.
#[derive(Debug, Default)]
pub(super) struct Commits {
    queued: Mutex<HashMap<Key, Vec<Queued>>>,
}

impl Commits {
    /// Queues a head, and does what belongs to that, as one step towards others of this table. It is told
    /// whether there is one of the key already.
    pub(super) fn queue(&self, key: Key, device: Uuid, ticket: &Arc<Ticket>, ask: impl FnOnce(bool) -> bool) -> bool {
        let mut queued = lock(&self.queued);
        if !ask(queued.contains_key(&key)) {
            return false;
        }
        queued.entry(key).or_default().push((device, Arc::clone(ticket)));
        true
    }

    /// Does something as one step towards others of this table.
    pub(super) fn hold<T>(&self, step: impl FnOnce() -> T) -> T {
        let _queued = lock(&self.queued);
        step()
    }

    /// None of the heads in the queues comes up. Then does what belongs to that, told on which devices one
    /// would have.
    pub(super) fn forget<T>(&self, key: Key, rest: impl FnOnce(&[Uuid]) -> T) -> T {
        let queued = lock(&self.queued);
        let given_up = queued.get(&key).into_iter().flatten().filter(|(_, ticket)| ticket.give_up());
        let on: Vec<Uuid> = given_up.map(|&(device, _)| device).collect();
        rest(&on)
    }

    /// Nobody works off the queue of this device any more.
    pub(super) fn give_up_all(&self, device: Uuid) {
        let mut queued = lock(&self.queued);
        queued.values_mut().flatten().filter(|(on, _)| *on == device).for_each(|(_, ticket)| {
            ticket.give_up();
        });
    }

    /// A head has left the queue. If it may come up it is told to the directory.
    pub(super) fn settle(&self, key: Key, ticket: &Arc<Ticket>, come_up: impl FnOnce()) {
        let mut queued = lock(&self.queued);
        if let Some(tickets) = queued.get_mut(&key) {
            tickets.retain(|(_, other)| !Arc::ptr_eq(other, ticket));
            if tickets.is_empty() {
                queued.remove(&key);
            }
        }
        if !ticket.has_failed() {
            come_up();
            ticket.leave(STORED);
        }
        drop(queued);
        ticket.tell();
    }
}
