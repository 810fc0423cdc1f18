//! A disk that keeps the word of a disk and no more: what was not synced may be there after a loss of power,
//! or not, or some sectors of it, in whatever order.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard};

use super::device::lock;
use super::disk::Disk;
use super::layout::SECTOR;

#[derive(Debug)]
pub(crate) struct SimDisk {
    inner: Mutex<Inner>,
    /// Whoever writes waits as long as this is held.
    stalled: Mutex<()>,
    /// The same for whoever reads.
    reads_stalled: Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    /// What is there whatever happens.
    durable: Vec<u8>,
    /// What is read.
    seen: Vec<u8>,
    /// What was written since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
    /// Writes and syncs until they fail, with this error.
    fails_after: Option<(u64, i32)>,
    reads_fail: bool,
}

pub(crate) const EIO: i32 = 5;
/// Not an error, but a panic.
pub(crate) const PANIC: i32 = -1;
pub(crate) const ENOSPC: i32 = 28;

impl SimDisk {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let inner =
            Inner { seen: bytes.clone(), durable: bytes, pending: Vec::new(), fails_after: None, reads_fail: false };
        Self { inner: Mutex::new(inner), stalled: Mutex::default(), reads_stalled: Mutex::default() }
    }

    /// From so many writes and syncs on they fail.
    pub(crate) fn fail_after(&self, steps: u64, error: i32) {
        self.lock().fails_after = Some((steps, error));
    }

    pub(crate) fn fail_reads(&self) {
        self.lock().reads_fail = true;
    }

    /// Writes and syncs take as long as this is held.
    pub(crate) fn stall(&self) -> MutexGuard<'_, ()> {
        lock(&self.stalled)
    }

    /// Reads take as long as this is held.
    pub(crate) fn stall_reads(&self) -> MutexGuard<'_, ()> {
        lock(&self.reads_stalled)
    }

    /// It is larger from here on.
    pub(crate) fn grow(&self, size: u64) {
        let mut inner = self.lock();
        inner.seen.resize(size as usize, 0xaa);
        inner.durable.resize(size as usize, 0xaa);
    }

    /// What is found when the power is back.
    pub(crate) fn lose_power(&self, random: &mut fastrand::Rng) -> Self {
        let mut inner = self.lock();
        let mut pending = std::mem::take(&mut inner.pending);
        // Some of the time everything comes through, or nothing does.
        let (kept, torn) = [(100, 0), (0, 0), (50, 50), (80, 10)][random.usize(..4)];
        if random.bool() {
            random.shuffle(&mut pending);
        }
        for (at, bytes) in pending {
            let how = random.u32(..100);
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if how < kept || how < kept + torn && random.bool() {
                    let at = at + number * SECTOR;
                    inner.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Self::new(std::mem::take(&mut inner.durable))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Inner {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.fails_after {
            Some((0, PANIC)) => panic!("as told"),
            Some((0, error)) => Err(io::Error::from_raw_os_error(*error)),
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for SimDisk {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        drop(self.stall_reads());
        let inner = self.lock();
        if inner.reads_fail {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let at = at as usize;
        let bytes = inner.seen.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        drop(self.stall());
        let mut inner = self.lock();
        let at = at as usize;
        let is_done = inner.step();
        // What fails may have been done in part.
        let bytes = if is_done.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        inner.seen.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        inner.pending.push((at, bytes.to_vec()));
        is_done
    }

    fn sync(&self) -> io::Result<()> {
        drop(self.stall());
        let inner = &mut *self.lock();
        inner.step()?;
        for (at, bytes) in inner.pending.drain(..) {
            inner.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn detach(&self, at: u64, length: u64) -> io::Result<()> {
        self.write_at(&vec![0; length as usize], at)
    }

    fn size(&self) -> u64 {
        self.lock().seen.len() as u64
    }

    fn file(&self) -> Option<&File> {
        None
    }
}
