//! A logical volume: objects by key, spread over the devices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::arriving::Arriving;
use super::device::{Device, Job};
use super::layout::checksum;
use super::object::{Handle, Object, Records};
use super::record::Head;
use super::ticket::{Commit, Commits, Ticket};
use super::{Error, Shared};
use crate::Key;
use crate::limits::{CHUNKS_MAX, INLINE_BYTES, META_BYTES, REMOVE_MS};

/// A part of the pool with a name and a size.
#[derive(Debug, Clone)]
pub struct Volume {
    pub(super) shared: Arc<Shared>,
    /// Its place in the config.
    pub(super) number: usize,
}

impl Volume {
    /// The object of this key, if the directory knows one. Reads nothing and does not wait for the disk.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<Handle> {
        let devices = &self.shared.devices;
        let first = self.home(key)?;
        // Where it belongs, and then where it may have belonged before a device came or went.
        let others = devices.iter().filter(|device| device.uuid != first.uuid);
        std::iter::once(first).chain(others).find_map(|device| {
            let place = device.find(self.number, key)?;
            Some(Handle { records: Records::of(device, self.number, key), place })
        })
    }

    /// Bytes that a body of this key may have.
    #[must_use]
    pub fn object_max(&self, key: Key) -> Option<u64> {
        self.home(key).map(|device| device.object_max(self.number))
    }

    /// Begins to store an object. None: the metadata is too large, or its device does not work.
    #[must_use]
    pub fn writer(&self, key: Key, meta: Vec<u8>) -> Option<Writer> {
        let device = self.home(key).filter(|device| device.health.is_working() && meta.len() <= META_BYTES)?;
        Some(Writer {
            device: Arc::clone(device),
            volume: self.clone(),
            key,
            meta,
            ticket: Arc::default(),
            piece: Vec::new(),
            bytes: 0,
            chunks: 0,
            is_committed: false,
        })
    }

    /// Stores other metadata for the object of this key, whose body stays where it is. Does not wait. None: it
    /// lies under another key, it belongs to another device by now, the metadata is too large, or the disk does
    /// not keep up.
    #[must_use]
    pub fn rewrite(&self, key: Key, object: &Object, meta: Vec<u8>) -> Option<Commit> {
        let device = object.device();
        let is_at_home = self.home(key).is_some_and(|home| home.uuid == device.uuid);
        if object.key() != key || !is_at_home || !device.health.is_working() || meta.len() > META_BYTES {
            return None;
        }
        let Head { chunks, rest, .. } = object.head.clone();
        let (volume, ticket) = (self.number, Arc::new(Ticket::with(chunks)));
        let asked = Arc::clone(&ticket);
        let is_queued = self.commits().queue(key, device.uuid, &ticket, |_| {
            let is_queued = device.ask(Job::Head { volume, key, ticket: asked, meta, rest });
            if is_queued {
                self.forget_elsewhere(device, key);
            }
            is_queued
        });
        is_queued.then_some(Commit { ticket })
    }

    /// What another device has by this key from when it belonged there is older.
    fn forget_elsewhere(&self, device: &Device, key: Key) {
        for other in self.shared.devices.iter().filter(|other| other.uuid != device.uuid) {
            other.forget(self.number, key, false, None);
        }
    }

    /// Takes an object out, and comes back when that is durable: it stays out, whatever happens. Waits for
    /// the disk. A writer that commits the key afterwards stores it again.
    ///
    /// # Errors
    /// [`Error::NotDurable`]: a device has failed, or is too slow, and there is no other that could note it.
    pub fn remove(&self, key: Key) -> Result<(), Error> {
        let asked = self.commits().forget(key, |queued| {
            self.ask_all(|device, done| device.forget(self.number, key, queued.contains(&device.uuid), Some(done)))
        });
        self.wait_for(asked)
    }

    /// Asks each device, which is told where to answer.
    pub(super) fn ask_all(&self, ask: impl Fn(&Arc<Device>, SyncSender<bool>) -> bool) -> Vec<Option<Receiver<bool>>> {
        let ask = |device| {
            let (done, told) = sync_channel(1);
            ask(device, done).then_some(told)
        };
        self.shared.devices.iter().map(ask).collect()
    }

    /// Until all devices that work have done it for good.
    pub(super) fn wait_for(&self, asked: Vec<Option<Receiver<bool>>>) -> Result<(), Error> {
        let mut is_durable = true;
        for (device, told) in self.shared.devices.iter().zip(asked) {
            let is_done = told.is_some_and(|told| told.recv_timeout(Duration::from_millis(REMOVE_MS)) == Ok(true));
            // A device that has failed is excluded below; one that works has to have done it.
            is_durable &= is_done || device.health.has_failed();
        }
        if is_durable && self.shared.exclude_failed_now() { Ok(()) } else { Err(Error::NotDurable) }
    }

    /// From now on nothing is found by this key of what was committed before, as long as the pool lives. On
    /// disk it is removed when its turn comes. Does not wait. False: there it stays, since the queue of a
    /// device is full, it has failed and there is no other to note that, or the pool is closed.
    pub fn forget(&self, key: Key) -> bool {
        let is_done = self.commits().forget(key, |queued| {
            let forget = |device: &Arc<Device>| {
                // One that has failed is excluded below.
                device.forget(self.number, key, queued.contains(&device.uuid), None) || device.health.has_failed()
            };
            self.shared.devices.iter().fold(true, |is_done, device| forget(device) & is_done)
        });
        is_done & self.shared.exclude_failed_soon()
    }

    pub(super) fn commits(&self) -> &Commits {
        &self.shared.devices[0].stripes[self.number].commits
    }

    /// Where a key belongs: rendezvous hashing (Thaler and Ravishankar, 1998), weighted by the size of the
    /// volume's part, so that a device that comes or goes moves only its share.
    fn home(&self, key: Key) -> Option<&Arc<Device>> {
        let rank = |device: &Device| rank(key, device.uuid.seed(), device.weight(self.number));
        self.shared.devices.iter().max_by(|one, other| rank(one).total_cmp(&rank(other)))
    }
}

/// The highest rank has the key.
fn rank(key: Key, device: u64, weight: u64) -> f64 {
    let hash = checksum(device, &key.to_le_bytes());
    // Between 0 and 1, and neither.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(weight as f64) / uniform.ln()
}

/// An object on its way in. Nothing of it is found before it is committed; dropped, it is given up.
#[derive(Debug)]
pub struct Writer {
    device: Arc<Device>,
    volume: Volume,
    key: Key,
    meta: Vec<u8>,
    ticket: Arc<Ticket>,
    piece: Vec<u8>,
    bytes: u64,
    chunks: usize,
    is_committed: bool,
}

impl Writer {
    /// More of the body. Does not wait. False: it is not going to be stored, since the disk does not keep up,
    /// has failed, or the object is too large.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        let layout = self.device.layout;
        if self.bytes > self.device.object_max(self.volume.number) {
            self.give_up();
        }
        while !bytes.is_empty() && !self.ticket.has_failed() {
            let size = layout.chunk_bytes();
            let (taken, rest) = bytes.split_at(bytes.len().min(size - self.piece.len()));
            self.piece.extend_from_slice(taken);
            bytes = rest;
            if self.piece.len() == size {
                self.send_piece();
            }
        }
        !self.ticket.has_failed()
    }

    /// What is on disk of it, for who wants it before it is whole.
    #[must_use]
    pub fn arriving(&self) -> Arriving {
        let records = Records::of(&self.device, self.volume.number, self.key);
        Arriving { records, ticket: Arc::clone(&self.ticket) }
    }

    /// The object is whole: it is found once it is written. Does not wait. None: it is not stored.
    pub fn commit(self) -> Option<Commit> {
        let (device, volume, key) = (Arc::clone(&self.device), self.volume.clone(), self.key);
        self.commit_with(|_| true, || volume.forget_elsewhere(&device, key))
    }

    /// The same, if it is wanted, told whether there is another one of this key in the queues. As one step.
    pub(super) fn commit_if(self, is_wanted: impl FnOnce(bool) -> bool) -> Option<Commit> {
        self.commit_with(is_wanted, || ())
    }

    fn commit_with(mut self, is_wanted: impl FnOnce(bool) -> bool, rest: impl FnOnce()) -> Option<Commit> {
        if self.piece.len() > INLINE_BYTES {
            self.send_piece();
        }
        if self.ticket.has_failed() {
            return None;
        }
        let (number, key, ticket) = (self.volume.number, self.key, Arc::clone(&self.ticket));
        let (meta, bytes) = (std::mem::take(&mut self.meta), std::mem::take(&mut self.piece));
        let mut is_refused = false;
        let is_queued = self.volume.commits().queue(key, self.device.uuid, &self.ticket, |is_queued| {
            if !is_wanted(is_queued) {
                return false;
            }
            is_refused = !self.device.ask(Job::Head { volume: number, key, ticket, meta, rest: bytes });
            if !is_refused {
                rest();
            }
            !is_refused
        });
        if is_refused {
            self.give_up();
        }
        if !is_queued {
            return None;
        }
        self.is_committed = true;
        Some(Commit { ticket: Arc::clone(&self.ticket) })
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    fn send_piece(&mut self) {
        let (volume, key, ticket) = (self.volume.number, self.key, Arc::clone(&self.ticket));
        let bytes = std::mem::take(&mut self.piece);
        self.chunks += 1;
        // The list of chunks has to go into one record.
        let most = CHUNKS_MAX.min(self.device.layout.extent_bytes as usize / 2 / 20);
        if self.chunks > most || !self.device.ask(Job::Chunk { volume, key, ticket, bytes }) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.piece = Vec::new();
        if self.ticket.give_up() {
            self.device.health.not_stored.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_committed {
            self.ticket.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_comes_takes_its_share_and_moves_nothing_else() {
        let home = |key: Key, devices: &[(u64, u64)]| {
            let at = |&(seed, weight): &(u64, u64)| rank(key, seed, weight);
            devices.iter().max_by(|one, other| at(one).total_cmp(&at(other))).map(|device| device.0)
        };
        let before = [(11, 100), (22, 200)];
        let after = [(11, 100), (22, 200), (33, 100)];
        let (mut first, mut moved) = (0, 0);
        for key in 0..40_000 {
            let (old, new) = (home(key, &before), home(key, &after));
            assert!(old == new || new == Some(33));
            first += u32::from(old == Some(11));
            moved += u32::from(new == Some(33));
        }
        assert!((12_900..13_800).contains(&first), "a third: {first}");
        assert!((9_600..10_400).contains(&moved), "a quarter: {moved}");
    }
}
