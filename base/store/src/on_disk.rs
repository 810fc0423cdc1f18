//! A body on disk, complete or still being written.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::Semaphore;

use crate::pool::{Arriving, Error, Object, Range};

/// Where a body is read in chunks.
#[derive(Debug, Clone)]
pub enum OnDisk {
    /// As far as it is written.
    Arriving(Arriving),
    Whole(Arc<Object>),
}

impl OnDisk {
    /// Bytes of each chunk but the last.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        match self {
            Self::Arriving(arriving) => arriving.chunk_bytes(),
            Self::Whole(object) => object.chunk_bytes(),
        }
    }

    /// Bytes from the beginning that can be read.
    #[must_use]
    pub fn written(&self) -> u64 {
        match self {
            Self::Arriving(arriving) => arriving.written(),
            Self::Whole(object) => object.size(),
        }
    }

    /// Whose turn it is to read there, as [`Handle::turns`](crate::pool::Handle::turns).
    #[must_use]
    pub fn turns(&self) -> &Arc<Semaphore> {
        match self {
            Self::Arriving(arriving) => arriving.turns(),
            Self::Whole(object) => object.turns(),
        }
    }

    /// A chunk that is written. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it is not there, or not any more.
    pub fn chunk(&self, number: usize) -> Result<Vec<u8>, Error> {
        match self {
            Self::Arriving(arriving) => arriving.chunk(number),
            Self::Whole(object) => object.chunk(number),
        }
    }

    /// The same as a range of a file, where it is known to be whole.
    #[must_use]
    pub fn range(&self, number: usize) -> Option<Range> {
        match self {
            Self::Arriving(arriving) => arriving.range(number),
            Self::Whole(object) => object.range(number),
        }
    }

    /// It is not written any more, or never was all.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self, Self::Arriving(arriving) if arriving.has_failed())
    }

    /// More of it can be written; else the waker is woken once it can.
    pub(crate) fn has_room(&self, waker: &Waker) -> bool {
        match self {
            Self::Arriving(arriving) => arriving.has_room(waker),
            Self::Whole(_) => true,
        }
    }

    /// Wakes when more is written.
    pub(crate) fn wake(&self, waker: &Waker) {
        if let Self::Arriving(arriving) = self {
            arriving.wake(waker);
        }
    }
}
