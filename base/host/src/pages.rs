//! Memory in pages that the kernel can put into a socket as they are, without a copy.
//!
//! It is a file that lies in memory alone (memfd_create(2)), for sendfile, and is mapped, for whoever has to
//! see its bytes. There are many more addresses than bytes may ever be there: a page costs memory once
//! something is written to it, and its addresses are used again only after it was cut out of the file. A
//! socket that still holds such a page keeps it as it was. A part of a larger page cannot be cut out: it is
//! zeroed where it is, also for the socket. So the mapping says that it wants none, whatever the host gives to
//! such files, or makes of their pages later (khugepaged); and where writing would get some (`always`,
//! `within_size` or `force` in `/sys/kernel/mm/transparent_hugepage/shmem_enabled`), nothing is kept here.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Of all of this process, in bytes.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// Pages, handed out in runs.
#[derive(Debug)]
pub struct Pages {
    file: File,
    map: MmapRaw,
    free: Mutex<Free>,
}

/// Addresses that nobody has, in bytes from the beginning.
#[derive(Debug)]
struct Free {
    /// Given back, by size: a run has a power of two of pages of addresses.
    runs: [Vec<u64>; u64::BITS as usize],
    /// From here on nothing was ever handed out.
    untouched: u64,
}

/// Bytes that lie in pages one behind the other. They never change, and go when this goes.
#[derive(Debug)]
pub struct Run {
    pages: Arc<Pages>,
    at: u64,
    length: usize,
}

impl Pages {
    /// So many bytes of addresses, without any memory yet.
    ///
    /// # Errors
    /// The kernel has no such files, or not so many addresses for this process; or its address space is limited
    /// at all: others need that more.
    pub fn new(addresses: u64) -> io::Result<Arc<Self>> {
        // To go beyond the first one is death by a signal.
        let is_too_long = getrlimit(Resource::Fsize).current.is_some_and(|most| most < addresses);
        if is_too_long || getrlimit(Resource::As).current.is_some() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create("sumun", flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3.
            Err(Errno::INVAL) => memfd_create("sumun", flags)?,
            other => other?,
        };
        let file = File::from(file);
        file.set_len(addresses)?;
        // What is mapped stays within the file.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // Where nothing can be cut out, nothing would ever be given back.
        cut(&file, 0, rustix::param::page_size() as u64)?;
        let length = usize::try_from(addresses).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(length).map_raw_read_only(&file)?;
        // A dump of the process would fill all addresses with memory.
        map.advise(Advice::DontDump)?;
        match map.advise(Advice::NoHugePage) {
            // The kernel has no larger pages.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            other => other?,
        }
        let free = Mutex::new(Free { runs: std::array::from_fn(|_| Vec::new()), untouched: 0 });
        Ok(Arc::new(Self { file, map, free }))
    }

    /// Writes these parts one behind the other into pages of their own.
    ///
    /// # Errors
    /// No addresses are left for so many, or no memory; or the pages would be larger ones.
    pub fn keep<P: AsRef<[u8]>>(self: &Arc<Self>, parts: &[P]) -> io::Result<Run> {
        let length = parts.iter().map(|part| part.as_ref().len()).sum();
        // The size of pages that it would get now.
        if self.file.metadata()?.blksize() > rustix::param::page_size() as u64 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let at = self.take(length).ok_or(io::ErrorKind::OutOfMemory)?;
        IN_USE.fetch_add(bytes_of_pages(length as u64), Relaxed);
        let run = Run { pages: Arc::clone(self), at, length };
        let mut at = run.at;
        for part in parts {
            self.file.write_all_at(part.as_ref(), at)?;
            at += part.as_ref().len() as u64;
        }
        Ok(run)
    }

    fn take(&self, length: usize) -> Option<u64> {
        let size = size_of_run(length)?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = free.runs[size.ilog2() as usize].pop() {
            return Some(at);
        }
        let at = free.untouched;
        free.untouched = at.checked_add(size).filter(|end| *end <= self.map.len() as u64)?;
        Some(at)
    }
}

/// Bytes of addresses for so many of content.
fn size_of_run(length: usize) -> Option<u64> {
    (length as u64).max(rustix::param::page_size() as u64).checked_next_power_of_two()
}

/// From here on there is nothing in the file, and what was there belongs to whoever still has it.
fn cut(file: &File, at: u64, length: u64) -> rustix::io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::io::retry_on_intr(|| fallocate(file, flags, at, length))
}

/// Bytes of memory that all runs of this process take.
#[must_use]
pub fn bytes_in_use() -> u64 {
    IN_USE.load(Relaxed)
}

/// Bytes of memory that so many take.
#[must_use]
pub fn bytes_of_pages(length: u64) -> u64 {
    length.next_multiple_of(rustix::param::page_size() as u64)
}

impl Run {
    /// Where they can be sent from, [`at`](Self::at) this byte on.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.pages.file
    }

    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }
}

impl Deref for Run {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `at + length` lies within the mapping, which is there as long as `pages`, and the file
        // cannot shrink. All of it was written before there was a `Run` to be had. From then on nobody writes
        // there: these addresses are handed out again only when it is dropped, which this borrow outlives
        // by no means, and the file is this process's alone.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.pages.map.as_ptr().add(self.at as usize), self.length)
        }
    }
}

impl AsRef<[u8]> for Run {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        IN_USE.fetch_sub(bytes_of_pages(self.length as u64), Relaxed);
        let Some(size) = size_of_run(self.length) else { return };
        // Where that fails, the addresses are lost: what may be in a socket must not be written to.
        if cut(&self.pages.file, self.at, size).is_ok() {
            let mut free = self.pages.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.runs[size.ilog2() as usize].push(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn body(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8 ^ seed).collect()
    }

    #[test]
    fn what_was_written_is_there_as_long_as_it_is_held() {
        let pages = Pages::new(1 << 30).unwrap();
        let mut held: Vec<(u8, usize, Run)> = Vec::new();
        for round in 0..200_u8 {
            let length = [1, 4096, 4097, 40_000, 65_536, 300_000][usize::from(round) % 6];
            let content = body(round, length);
            let (front, back) = content.split_at(length / 3);
            held.push((round, length, pages.keep(&[front, back]).unwrap()));
            if held.len() > 20 {
                held.swap_remove(usize::from(round) * 7 % 20);
            }
            assert!(held.iter().all(|(seed, length, run)| **run == *body(*seed, *length)));
        }
        let untouched = pages.free.lock().unwrap().untouched;
        assert!(untouched < 20 << 20, "addresses are used again: {untouched}");
        drop(held);
        assert_eq!(pages.file.metadata().unwrap().blocks(), 0, "all memory was given back");
    }

    #[test]
    fn what_a_socket_holds_does_not_change() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.set_nonblocking(true).unwrap();
        let pages = Pages::new(1 << 30).unwrap();
        let old = body(1, 200_000);
        let run = pages.keep(&[&old]).unwrap();
        let mut at = run.at();
        let sent = crate::files::send_file(&sender, run.file(), &mut at, old.len()).unwrap();
        assert!(sent > 60_000, "{sent} bytes");
        let before = run.at();
        drop(run);
        let other = pages.keep(&[body(2, 200_000)]).unwrap();
        assert_eq!(other.at(), before, "the same addresses");
        drop(sender);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert!(received == old[..sent]);
    }

    #[test]
    fn where_there_is_no_room_nothing_is_kept() {
        let pages = Pages::new(1 << 20).unwrap();
        let runs: Vec<Run> = std::iter::from_fn(|| pages.keep(&[[7; 100_000]]).ok()).collect();
        assert_eq!(runs.len(), 8);
        assert!(runs.iter().all(|run| **run == [7; 100_000]));
        drop(runs);
        assert!(pages.keep(&[vec![7; 100_000]]).is_ok());
        assert!(pages.keep(&[vec![7; 2 << 20]]).is_err());
        assert!(Pages::new(u64::MAX).is_err());
    }

    #[test]
    fn threads_do_not_get_in_each_others_way() {
        let pages = Pages::new(1 << 30).unwrap();
        std::thread::scope(|scope| {
            for seed in 1..=4 {
                let pages = &pages;
                scope.spawn(move || {
                    for round in 0..500 {
                        let content = body(seed, 1000 + round * 37);
                        let run = pages.keep(&[&content]).unwrap();
                        assert!(*run == *content);
                    }
                });
            }
        });
    }
}
