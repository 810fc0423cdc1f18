//! One root and what the config says about it; the only place that opens files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sumun_config::checked::Files;
use sumun_http::Method;
use sumun_http::media_type;

use super::limits::RESOLVE_TRIES_MAX;
use super::name::{glob_matches, last_segment};

/// The files of one route. Shared by all workers: that is how a write through one of them is seen
/// by the others.
#[derive(Debug)]
pub(crate) struct FileRoot {
    /// Tells roots apart in the workers' caches; never used again in this process.
    pub(super) id: u64,
    directory: OwnedFd,
    pub(super) files: Files,
    /// Goes up with each write through us; what was cached before is looked at again.
    pub(super) generation: AtomicU64,
    /// Held while conditions are weighed for the last time and the file is replaced or removed, so
    /// that of two clients who edit the same state one is refused.
    pub(super) writing: Mutex<()>,
}

/// Why a file cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenError {
    NotFound(&'static str),
    Forbidden(&'static str),
    /// Our host is short of something; may work later.
    Unavailable(&'static str),
    Failed(&'static str),
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, u64),
    changed: (i64, u64),
}

static NEXT_ROOT: AtomicU64 = AtomicU64::new(0);

impl FileRoot {
    /// Opens the root. Fails where it is no directory, or the kernel has no openat2 (before 5.6).
    pub(crate) fn open(files: &Files) -> io::Result<Arc<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&files.root, flags, Mode::empty())?;
        // A first try, so that a kernel that cannot do it is found at start.
        rustix::fs::openat2(&directory, ".", flags, Mode::empty(), RESOLVE)?;
        Ok(Arc::new(Self {
            id: NEXT_ROOT.fetch_add(1, Ordering::Relaxed),
            directory,
            files: files.clone(),
            generation: AtomicU64::new(0),
            writing: Mutex::new(()),
        }))
    }

    /// Whether a request is for [`super::Upload::begin`]; all others are for the cache.
    pub(crate) fn takes_upload(&self, method: Method) -> bool {
        method == Method::Put && self.files.write
    }

    /// The methods for `Allow`.
    pub(super) fn allow(&self) -> &'static [u8] {
        if self.files.write { b"Allow: GET, HEAD, PUT, DELETE, OPTIONS\r\n" } else { b"Allow: GET, HEAD, OPTIONS\r\n" }
    }

    /// Opens what a decoded name leads to, for reading. Blocks.
    ///
    /// A FIFO does not make us wait and a terminal does not become ours; the caller serves nothing
    /// but regular files and directories all the same.
    pub(super) fn open_beneath(&self, name: &[u8]) -> Result<(File, Stat), OpenError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = self.resolve(name, flags)?;
        let stat = rustix::fs::fstat(&file).map_err(OpenError::from_errno)?;
        Ok((File::from(file), stat))
    }

    /// Finds what a decoded name leads to without opening it. Blocks.
    pub(super) fn stat_beneath(&self, name: &[u8]) -> Result<Stat, OpenError> {
        let file = self.resolve(name, OFlags::PATH | OFlags::CLOEXEC)?;
        rustix::fs::fstat(&file).map_err(OpenError::from_errno)
    }

    /// Opens a directory, to work in it. Blocks.
    pub(super) fn open_directory(&self, name: &[u8]) -> Result<OwnedFd, OpenError> {
        self.resolve(name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    fn resolve(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, OpenError> {
        let name = if name.is_empty() { b"." } else { name };
        for _ in 0..RESOLVE_TRIES_MAX {
            match rustix::fs::openat2(&self.directory, name, flags, Mode::empty(), RESOLVE) {
                Ok(file) => return Ok(file),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(OpenError::from_errno(errno)),
            }
        }
        Err(OpenError::Unavailable("the directory tree keeps changing"))
    }

    /// The media type of a file name, by the config's table and then ours.
    pub(super) fn media_type(&self, name: &[u8]) -> &str {
        let own = media_type::extension(name)
            .and_then(|extension| std::str::from_utf8(extension).ok())
            .and_then(|extension| self.files.types.get(extension.to_ascii_lowercase().as_str()));
        match own {
            Some(own) => own,
            None => media_type::of_name(name).unwrap_or(media_type::UNKNOWN),
        }
    }

    /// The value of `Cache-Control` for a file name.
    pub(super) fn cache_control(&self, name: &[u8]) -> Option<&str> {
        let name = last_segment(name);
        let patterns = self.files.cache_control.iter();
        let mut values = patterns.filter(|(glob, _)| glob_matches(glob.0.as_bytes(), name));
        values.next().map(|(_, value)| value.as_str())
    }
}

/// The kernel refuses to leave the root at any point of the way, and to pass through the links of
/// /proc that are none.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl OpenError {
    pub(super) fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound("no such file"),
            Errno::NAMETOOLONG => Self::NotFound("name too long"),
            // RESOLVE_BENEATH says EXDEV. Not told apart from a missing file for the client.
            Errno::XDEV => Self::NotFound("a link that leaves the root"),
            Errno::LOOP => Self::NotFound("links in a circle"),
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NotFound("no regular file"),
            Errno::ACCESS | Errno::PERM => Self::Forbidden("no permission to read the file"),
            Errno::MFILE | Errno::NFILE => Self::Unavailable("too many open files"),
            Errno::NOMEM => Self::Unavailable("out of memory"),
            _ => Self::Failed("the disk failed"),
        }
    }
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The entity tag, with quotes: time of change and size in hexadecimal. `suffix` keeps the
    /// codings of one file apart.
    pub(super) fn etag(&self, weak: bool, suffix: &str) -> String {
        let (seconds, nanoseconds) = self.modified;
        let time = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let weak = if weak { "W/" } else { "" };
        format!("{weak}\"{time:x}-{:x}{suffix}\"", self.size)
    }

    /// For `Last-Modified`. Never later than now (RFC 9110 section 8.8.2.1); `None` before 1970.
    pub(super) fn last_modified(&self, now_unix_seconds: u64) -> Option<u64> {
        u64::try_from(self.modified.0).ok().map(|modified| modified.min(now_unix_seconds))
    }
}
