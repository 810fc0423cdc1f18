//! What a physical volume lies on.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::label::{self, Found};

/// Places that can be read and written, and be made durable. Several threads read while one writes.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Fills the buffer from this place on, or fails.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of it. Durable only once [`sync`](Self::sync) has returned.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// What was written before is durable.
    fn sync(&self) -> io::Result<()>;
    /// What is written here from now on does not change what sendfile has taken from here: a socket holds the
    /// pages of the file itself until its peer has them, also when the process that sent is gone. What was
    /// here is lost. Multiples of 4096.
    fn detach(&self, at: u64, length: u64) -> io::Result<()>;
    /// Bytes there are.
    fn size(&self) -> u64;
    /// The file, for sendfile, where there is one.
    fn file(&self) -> Option<&File>;
}

/// A file or a block device that this process alone has open as a physical volume.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: AtomicU64,
}

impl FileDisk {
    /// Locks the file, which is open for reading and writing. A regular file with nothing in it that is shorter
    /// than `size` bytes grows to it; all others keep the size they have.
    ///
    /// # Errors
    /// It cannot be grown, or is locked by another open of the same file, by whomever
    /// ([`io::ErrorKind::WouldBlock`]).
    pub fn new(file: File, size: u64) -> io::Result<Self> {
        lock(&file)?;
        let disk = Self { size: AtomicU64::new(0), file };
        // Whoever has the same open file would keep others away from what is of no use.
        disk.prepare(size).inspect_err(|_| disk.unlock())?;
        Ok(disk)
    }

    fn prepare(&self, size: u64) -> io::Result<()> {
        self.size.store(length(&self.file)?, Ordering::Relaxed);
        if self.size() < size && label::find(self)? == Found::Empty {
            self.allocate(size)?;
        }
        Ok(())
    }

    /// It is larger than it was, or is to be so: a file that is a physical volume grows to `size` bytes, a block
    /// device has what it has by now. What was there stays, and the pool uses what is new once it is opened again.
    ///
    /// # Errors
    /// It cannot be grown, or not as far: no more than what its label has room for is used.
    pub fn grow(&self, size: u64) -> io::Result<()> {
        self.size.store(length(&self.file)?, Ordering::Relaxed);
        let wanted = size.max(self.size());
        let Found::Ours(label) = label::find(self)? else { return Ok(()) };
        let most = label.layout.size_max();
        if !self.is_device()? && self.size() < wanted.min(most) {
            self.allocate(wanted.min(most))?;
        }
        if label.layout.grown(wanted).has_all(wanted) {
            return Ok(());
        }
        Err(io::Error::other(format!("it was made with room for {} MiB, and nothing beyond is used", most >> 20)))
    }

    /// A block device is larger than it was when it was last looked at.
    pub fn has_grown(&self) -> bool {
        self.is_device().unwrap_or(false) && length(&self.file).is_ok_and(|length| length > self.size())
    }

    fn is_device(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.file_type().is_block_device())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        // Space that is there from the start cannot be missing in the middle of a write.
        match fallocate(&self.file, FallocateFlags::empty(), 0, size) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(size)?,
            other => other?,
        }
        self.file.sync_all()?;
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the lock again, before a pool is opened on it again.
    ///
    /// # Errors
    /// Another has it meanwhile ([`io::ErrorKind::WouldBlock`]).
    pub fn lock(&self) -> io::Result<()> {
        lock(&self.file)
    }

    /// Lets another process have it, once the pool is closed; who still reads goes on to.
    pub fn unlock(&self) {
        // Of a file that is open this does not fail.
        self.file.unlock().ok();
    }
}

/// Bytes of a file or a block device.
fn length(mut file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() { file.seek(SeekFrom::End(0)) } else { Ok(metadata.len()) }
}

fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::new(io::ErrorKind::WouldBlock, "another process uses it"),
        TryLockError::Error(error) => error,
    })
}

impl Disk for FileDisk {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn detach(&self, at: u64, length: u64) -> io::Result<()> {
        // Either lets go of the pages. The first keeps the space; tmpfs has the second alone.
        let flags =
            [FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE].map(|flag| flag | FallocateFlags::KEEP_SIZE);
        match fallocate(&self.file, flags[0], at, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(fallocate(&self.file, flags[1], at, length)?),
            other => Ok(other?),
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
