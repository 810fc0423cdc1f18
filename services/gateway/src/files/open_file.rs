//! An open file, and what was found out about where its bytes are.

use std::fs::File;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::limits::RESIDENT_MS;

/// A file that is sent from its descriptor.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    /// Bytes from the start that were found in memory, above [`TIME_BITS`] of when that was.
    /// A look costs a system call for each 128 KiB; a file that everybody asks for is looked at
    /// now and then. What leaves memory in between makes a worker wait for the disk, once.
    resident: AtomicU64,
}

/// Milliseconds of some thirty years.
const TIME_BITS: u32 = 40;

impl OpenFile {
    pub(crate) fn new(file: File) -> Self {
        Self { file, resident: AtomicU64::new(0) }
    }

    /// Whether these bytes seem to be in memory. `now_ms` is the worker's coarse clock.
    pub(crate) fn is_resident(&self, offset: u64, length: u64, now_ms: u64) -> bool {
        let is_start = offset == 0 && length < 1 << (u64::BITS - TIME_BITS);
        let now_ms = now_ms & ((1 << TIME_BITS) - 1);
        if is_start {
            let known = self.resident.load(Relaxed);
            let (bytes, when_ms) = (known >> TIME_BITS, known & ((1 << TIME_BITS) - 1));
            if length <= bytes && now_ms.abs_diff(when_ms) < RESIDENT_MS {
                return true;
            }
        }
        let found = sumun_host::files::is_resident(&self.file, offset, length);
        if found && is_start {
            self.resident.store(length << TIME_BITS | now_ms, Relaxed);
        }
        found
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}
