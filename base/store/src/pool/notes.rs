//! Notes: what has to be there again after any start, such as what was purged. Each is on all devices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::device::{Device, Job, lock};
use super::directory::Tag;
use super::object::{Handle, Records};
use super::{Error, Volume};
use crate::Key;
use crate::limits::META_BYTES;

impl Volume {
    /// Notes something by a key below 2^48, in place of what was noted by it before, and comes back when that
    /// is durable on all devices that work. Waits for the disk. The volume is for notes alone; so many of
    /// them stay as go into half an extent, however often there is a new one, and of more the newest.
    ///
    /// # Errors
    /// [`Error::NotDurable`]: as with [`remove`](Self::remove); it may be there all the same.
    /// [`Error::Config`]: the key or the metadata is too large.
    pub fn keep(&self, key: Key, meta: &[u8]) -> Result<(), Error> {
        if key >> 48 != 0 || meta.len() > META_BYTES {
            return Err(Error::Config("a note has a key of at most 48 bits and at most 64 KiB"));
        }
        self.wait_for(self.ask_all(|device, done| self.keep_on(device, key, meta, Some(done), |_| true)))
    }

    /// All notes of the volume, by key; nothing for one that is there and cannot be read. Waits for the disk.
    #[must_use]
    pub fn kept(&self) -> Vec<(Key, Option<Vec<u8>>)> {
        self.read_notes().into_iter().collect()
    }

    fn read_notes(&self) -> BTreeMap<Key, Option<Vec<u8>>> {
        let mut found: BTreeMap<Key, Option<Vec<u8>>> = BTreeMap::new();
        for device in self.shared.devices.iter().filter(|device| !device.health.has_failed()) {
            let places = lock(&device.stripes[self.number].directory).all();
            for (tag, place) in places {
                let key = tag.key();
                let note = found.entry(key).or_default();
                if note.is_none() {
                    let handle = Handle { records: Records::of(device, self.number, key), place };
                    *note = handle.open().ok().map(|object| object.head.meta);
                }
            }
        }
        found
    }

    /// A device that does not have some of the notes, since it has come or come back, is given them. False: each
    /// has all.
    pub(super) fn give_notes(&self) -> bool {
        let devices = || self.shared.devices.iter().filter(|device| !device.health.has_failed());
        let is_there =
            |device: &Arc<Device>, key| lock(&device.stripes[self.number].directory).find(Tag::of(key)).is_some();
        let mut is_any = false;
        let notes = self.read_notes().into_iter().filter_map(|(key, meta)| Some((key, meta?)));
        for (key, meta) in notes {
            for device in devices().filter(|device| device.leaving.is_none() && !is_there(device, key)) {
                // What is new, or was forgotten meanwhile, stays so.
                is_any |= self.keep_on(device, key, &meta, None, |is_queued| {
                    !is_queued && !is_there(device, key) && devices().any(|other| is_there(other, key))
                });
            }
        }
        is_any
    }

    fn keep_on(
        &self,
        device: &Arc<Device>,
        key: Key,
        meta: &[u8],
        done: Option<SyncSender<bool>>,
        is_wanted: impl FnOnce(bool) -> bool,
    ) -> bool {
        let (ticket, volume, meta) = (Arc::default(), self.number, meta.to_vec());
        self.commits().queue(key, device.uuid, &ticket, |is_queued| {
            let ticket = Arc::clone(&ticket);
            is_wanted(is_queued) && device.ask(Job::Keep { volume, key, ticket, meta, done })
        })
    }
}
