//! Entries on disk: found where memory has none, and written where they are stored.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use sumun_config::checked::Name;
use sumun_store::pool::{self, Handle, Object, Volume};
use sumun_store::{Key, OnDisk};
use tokio::sync::{OnceCell, Semaphore};

use super::body::{Body, Pieces};
use super::response::Held;
use super::{Cache, Entry, Found, Index, Slot, kept};
use crate::limits::{CACHE_DISK_WAIT, CACHE_RESIDENT_MS};

/// A body that is sent from disk, or rather from the kernel's memory of it.
#[derive(Debug)]
pub(crate) struct DiskBody {
    pub(crate) disk: OnDisk,
    pub(super) object: Arc<Object>,
    /// When its only chunk was last seen in the kernel's memory, on the worker's coarse clock.
    seen_ms: AtomicU64,
}

impl DiskBody {
    fn new(object: Object) -> Self {
        let object = Arc::new(object);
        Self { disk: OnDisk::Whole(Arc::clone(&object)), object, seen_ms: AtomicU64::new(0) }
    }

    /// Writes another head for the same body, where the disk is not too busy for it.
    pub(super) fn rewrite(&self, volume: &Volume, key: Key, kept: Vec<u8>) {
        drop(volume.rewrite(key, &self.object, kept));
    }

    /// The chunk was in the kernel's memory a moment ago. Only of a body of one chunk this is remembered.
    pub(crate) fn was_seen(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms.load(Relaxed)) < CACHE_RESIDENT_MS
    }

    pub(crate) fn see(&self, now_ms: u64) {
        if self.object.chunks() == 1 {
            self.seen_ms.store(now_ms, Relaxed);
        }
    }
}

impl Cache {
    /// The volume of this name, while there is one.
    pub(crate) fn volume(&self, name: Option<&Name>) -> Option<Volume> {
        name.and_then(|name| self.storage.volume(name))
    }

    /// What disk has in a place that is empty in memory; what is found goes into memory. `select` as with
    /// [`Cache::find`].
    pub(crate) async fn find_on_disk(
        &self,
        volume: &Name,
        mut slot: Slot,
        now_s: u64,
        select: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Found {
        // The index, and the variant that it leads to.
        for _ in 0..2 {
            let Some(entry) = self.load(volume, slot.key).await else { break };
            // What varies is found by what it varies by.
            if matches!(&*entry, Entry::Stored(stored) if slot.generation.is_none() && !stored.vary().is_empty()) {
                break;
            }
            let Entry::Index(index) = &*entry else { return self.found(slot, entry, now_s) };
            if slot.generation.is_some() {
                break;
            }
            slot = Slot {
                key: self.variant_key(slot.key, index, &select(&index.names)),
                generation: Some(index.generation),
            };
            if let Some(entry) = self.memory.get(slot.key) {
                return self.found(slot, entry, now_s);
            }
        }
        Found::Nothing(slot)
    }

    /// Reads what disk has under a key, once for all who want it at the same time.
    pub(super) async fn load(&self, volume: &Name, key: Key) -> Option<Arc<Entry>> {
        let handle = self.storage.volume(volume)?.find(key)?;
        let load = Loading { cache: self, key, load: Arc::clone(self.loads().entry(key).or_default()) };
        load.load.get_or_init(|| self.load_alone(volume, key, handle)).await.clone()
    }

    async fn load_alone(&self, volume: &Name, key: Key, handle: Handle) -> Option<Arc<Entry>> {
        let memory_max = self.memory_max();
        let held = Arc::clone(&self.held);
        let read_from = handle.clone();
        let turns = Arc::clone(handle.turns());
        let reading = in_turn(&turns, move || read(&handle, memory_max, &held));
        // Who does not get it in time is better served by a server.
        let entry = Arc::new(tokio::time::timeout(CACHE_DISK_WAIT, reading).await.ok()???);
        self.counts.loaded.fetch_add(1, Relaxed);
        let bytes = entry.bytes();
        if let Some(newer) = self.memory.insert_new(key, Arc::clone(&entry), bytes) {
            return Some(newer);
        }
        // Whoever has changed it meanwhile has done so on disk first, and in memory perhaps before us; and the
        // pool may be another one by now.
        let found = self.storage.volume(volume).and_then(|volume| volume.find(key));
        if !found.is_some_and(|found| found.is(&read_from)) {
            // Also what others have made of this one.
            self.memory.remove(key);
            return None;
        }
        Some(entry)
    }

    /// Writes that the answers to a URL vary.
    pub(super) fn keep_index(&self, volume: &Volume, url: Key, index: &Index) {
        let writer = volume.writer(url, kept::write_index(index));
        // What was there is another index, or an answer that does not vary.
        if writer.and_then(pool::Writer::commit).is_none() {
            volume.forget(url);
        }
    }

    fn loads(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<Key, Load>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody reads it. `None`: it is not there, or not whole.
pub(super) type Load = Arc<OnceCell<Option<Arc<Entry>>>>;

/// One of those who wait for it. The last one clears it away, however it ends.
struct Loading<'a> {
    cache: &'a Cache,
    key: Key,
    load: Load,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut loads = self.cache.loads();
        // The table's own, and this one.
        if Arc::strong_count(&self.load) <= 2 {
            loads.remove(&self.key);
        }
    }
}

/// Does work that may block, once it is its turn: a device that hangs holds as many threads as there are turns,
/// and none that anybody else needs. `None`: it was lost.
pub(crate) async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let turn = Arc::clone(turns).acquire_owned().await.ok()?;
    // The turn goes with the work: who gives up waiting does not end it.
    let work = move || {
        let result = work();
        drop(turn);
        result
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// The entry, with its body where that is small. Waits for the disk.
fn read(handle: &Handle, memory_max: u64, held: &Arc<AtomicU64>) -> Option<Entry> {
    let mut object = handle.open().ok()?;
    let meta = object.take_meta();
    let size = object.size();
    let body = if size > memory_max {
        Body::Disk(Arc::new(DiskBody::new(object)))
    } else {
        let of_body = Arc::new(Held::new(held, size));
        let chunks: Result<Vec<Vec<u8>>, _> = (0..object.chunks()).map(|number| object.chunk(number)).collect();
        Body::Memory(Arc::new(Pieces::joined(chunks.ok()?, of_body)))
    };
    kept::read(&meta, body, held)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::sync::{Condvar, Mutex};

    use sumun_store::limits::READS_MAX;
    use sumun_store::pool::{Config, Disk, Pool, VolumeConfig};

    use super::*;

    /// A disk in memory, whose reads may hang.
    #[derive(Debug, Default)]
    struct Hanging {
        bytes: Mutex<Vec<u8>>,
        hangs: Mutex<bool>,
        let_go: Condvar,
        reading: AtomicUsize,
    }

    impl Disk for Hanging {
        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
            self.reading.fetch_add(1, Relaxed);
            drop(self.let_go.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
            self.reading.fetch_sub(1, Relaxed);
            buffer.copy_from_slice(&self.bytes.lock().unwrap()[at as usize..][..buffer.len()]);
            Ok(())
        }

        fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            self.bytes.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn detach(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn size(&self) -> u64 {
            self.bytes.lock().unwrap().len() as u64
        }

        fn file(&self) -> Option<&File> {
            None
        }
    }

    #[tokio::test]
    async fn a_device_that_hangs_holds_up_itself_alone() {
        let disks = [(); 2].map(|()| Arc::new(Hanging { bytes: Mutex::new(vec![0; 16 << 20]), ..Hanging::default() }));
        let volume = VolumeConfig { name: "a".into(), size: 16 << 20, formerly: None };
        let config = Config { physical_volumes: Vec::new(), extent_bytes: 1 << 20, volumes: vec![volume] };
        let named = disks.iter().zip(["one", "other"]).map(|(disk, path)| (path.into(), Arc::clone(disk) as _));
        let pool = Pool::open_on(named.collect(), &config).unwrap();
        let a = pool.volume("a").unwrap();
        let keys = (1..60).map(|number: Key| number << 64 | number);
        keys.clone().for_each(|key| drop(a.writer(key, Vec::new()).unwrap().commit().unwrap()));
        assert!(pool.flush());
        let handles: Vec<Handle> = keys.map(|key| a.find(key).unwrap()).collect();
        *disks[0].hangs.lock().unwrap() = true;
        let is_done: Vec<_> = handles.iter().map(|_| Arc::new(AtomicBool::new(false))).collect();
        for (handle, is_done) in handles.iter().zip(&is_done) {
            let (handle, is_done) = (handle.clone(), Arc::clone(is_done));
            let turns = Arc::clone(handle.turns());
            tokio::spawn(async move {
                is_done.store(in_turn(&turns, move || handle.open().is_ok()).await == Some(true), Relaxed);
            });
        }
        let done = || is_done.iter().filter(|is_done| is_done.load(Relaxed)).count();
        let on_other = || handles.iter().filter(|handle| handle.turns().available_permits() > 0).count();
        while disks[0].reading.load(Relaxed) < READS_MAX || done() == 0 || done() != on_other() {
            tokio::task::yield_now().await;
        }
        assert!(handles.len() - done() > READS_MAX, "the rest wait without a thread");
        assert_eq!(disks[0].reading.load(Relaxed), READS_MAX);
        *disks[0].hangs.lock().unwrap() = false;
        disks[0].let_go.notify_all();
        while done() < handles.len() {
            tokio::task::yield_now().await;
        }
    }
}
