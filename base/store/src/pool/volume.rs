//! A logical volume: objects by key, spread over the devices.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::device::{Device, Job, Ticket};
use super::layout::checksum;
use super::object::Handle;
use super::{Error, Shared};
use crate::Key;
use crate::limits::{CHUNK_BYTES, CHUNKS_MAX, INLINE_BYTES, META_BYTES, REMOVE_MS};

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
            let seed = device.stripes[self.number].seed;
            Some(Handle { device: Arc::clone(device), seed, key, place })
        })
    }

    /// Begins to store an object. None: the metadata is too large, or there is no device that works.
    #[must_use]
    pub fn writer(&self, key: Key, meta: Vec<u8>) -> Option<Writer> {
        let device = self.home(key).filter(|device| !device.health.has_failed() && meta.len() <= META_BYTES)?;
        Some(Writer {
            device: Arc::clone(device),
            volume: self.clone(),
            key,
            meta,
            ticket: Arc::default(),
            piece: Vec::new(),
            bytes: 0,
            chunks: 0,
        })
    }

    /// Takes an object out, and comes back when that is durable: it stays out, whatever happens. Waits for
    /// the disk. A writer that commits the key afterwards stores it again.
    ///
    /// # Errors
    /// [`Error::NotDurable`]: a device has failed, or is too slow, and there is no other that could note it.
    pub fn remove(&self, key: Key) -> Result<(), Error> {
        let mut is_durable = true;
        let mut waiting = Vec::new();
        for device in &self.shared.devices {
            let (done, told) = sync_channel(1);
            if device.ask(Job::Remove { volume: self.number, key, done: Some(done) }) {
                waiting.push((device, told));
            } else {
                is_durable &= device.health.has_failed();
            }
        }
        for (device, told) in waiting {
            // A device that has failed is excluded below; one that works has to have done it.
            let is_done = told.recv_timeout(Duration::from_millis(REMOVE_MS)) == Ok(true);
            is_durable &= is_done || device.health.has_failed();
        }
        if is_durable && self.shared.exclude_failed() { Ok(()) } else { Err(Error::NotDurable) }
    }

    /// Where a key belongs: rendezvous hashing (Thaler and Ravishankar, 1998), weighted by the size of the
    /// volume's part, so that a device that comes or goes moves only its share.
    fn home(&self, key: Key) -> Option<&Arc<Device>> {
        let rank = |device: &Device| rank(key, device.uuid.seed(), device.stripes[self.number].extents);
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
}

impl Writer {
    /// More of the body. Does not wait. False: it is not going to be stored, since the disk does not keep up,
    /// has failed, or the object is too large.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        // More than half of the log would come upon itself while the object is read.
        let layout = self.device.layout;
        let most = self.device.stripes[self.volume.number].extents * layout.extent_bytes / 2;
        if self.bytes > most {
            self.give_up();
        }
        while !bytes.is_empty() && !self.has_failed() {
            let size = CHUNK_BYTES.min(layout.extent_bytes as usize / 4);
            let (taken, rest) = bytes.split_at(bytes.len().min(size - self.piece.len()));
            self.piece.extend_from_slice(taken);
            bytes = rest;
            if self.piece.len() == size {
                self.send_piece();
            }
        }
        !self.has_failed()
    }

    /// The object is whole: it is found once it is written. Does not wait. False: it is not stored.
    pub fn commit(mut self) -> bool {
        if self.piece.len() > INLINE_BYTES {
            self.send_piece();
        }
        if self.has_failed() {
            return false;
        }
        let (volume, key, ticket) = (self.volume.number, self.key, Arc::clone(&self.ticket));
        let (meta, rest) = (std::mem::take(&mut self.meta), std::mem::take(&mut self.piece));
        if !self.device.ask(Job::Head { volume, key, ticket, meta, rest }) {
            self.give_up();
            return false;
        }
        // What another device has by this key from when it belonged there is older.
        for other in self.volume.shared.devices.iter().filter(|other| other.uuid != self.device.uuid) {
            if other.find(volume, key).is_some() {
                other.ask(Job::Remove { volume, key, done: None });
            }
        }
        true
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

    fn has_failed(&self) -> bool {
        self.ticket.has_failed.load(Ordering::Relaxed)
    }

    fn give_up(&mut self) {
        self.piece = Vec::new();
        if !self.ticket.has_failed.swap(true, Ordering::Relaxed) {
            self.device.health.not_stored.fetch_add(1, Ordering::Relaxed);
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
