//! What a physical volume lies on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Places that can be read and written, and be made durable. Several threads read while one writes.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Fills the buffer from this place on, or fails.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of it. Durable only once [`sync`](Self::sync) has returned.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// What was written before is durable.
    fn sync(&self) -> io::Result<()>;
    /// Bytes there are.
    fn size(&self) -> u64;
    /// The file, for sendfile, where there is one.
    fn file(&self) -> Option<&File>;
}

/// A file or a block device that this process alone has open as a physical volume.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
}

impl FileDisk {
    /// Opens it and locks it. A file that is not there is made, and one that is shorter than `size` grows to
    /// it; a block device, and a longer file, keep the size they have.
    ///
    /// # Errors
    /// It cannot be opened or grown, or another process has it ([`io::ErrorKind::WouldBlock`]).
    pub fn open(path: &Path, size: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process uses it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let found = if file.metadata()?.file_type().is_block_device() {
            file.seek(SeekFrom::End(0))?
        } else {
            let found = file.metadata()?.len();
            if found < size {
                // Space that is there from the start cannot be missing in the middle of a write.
                fallocate(&file, FallocateFlags::empty(), 0, size)?;
                file.sync_all()?;
            }
            found.max(size)
        };
        Ok(Self { file, size: found })
    }
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

    fn size(&self) -> u64 {
        self.size
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
