//! Reading an object while it is written.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::Semaphore;

use super::Error;
use super::object::{Range, Records};
use super::ticket::Ticket;

/// What has come so far of an object that is on its way to disk: chunks from the first on, each of
/// [`chunk_bytes`](Self::chunk_bytes) but the last. What is behind the last chunk, if it is short, lies with
/// the head, and is read by [`super::Volume::find`] once the object is committed.
#[derive(Debug, Clone)]
pub struct Arriving {
    pub(super) records: Records,
    pub(super) ticket: Arc<Ticket>,
}

impl Arriving {
    /// Bytes of each chunk but the last.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        self.records.device.layout.chunk_bytes() as u64
    }

    /// Bytes from the beginning that can be read: those of whole chunks.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.ticket.written()
    }

    /// As [`Handle::turns`](super::Handle::turns).
    #[must_use]
    pub fn turns(&self) -> &Arc<Semaphore> {
        self.records.turns()
    }

    /// A chunk. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it is not written yet, was overtaken meanwhile, or is not whole.
    pub fn chunk(&self, number: usize) -> Result<Vec<u8>, Error> {
        self.records.chunk(self.ticket.chunk(number).ok_or(Error::Gone)?)
    }

    /// A chunk as a range of the device; none if it is not written yet, or there is no file to send from.
    #[must_use]
    pub fn range(&self, number: usize) -> Option<Range> {
        self.records.range(self.ticket.chunk(number)?)
    }

    /// Wakes it once after the next chunk is written, or the object is found or given up. Look at
    /// [`written`](Self::written) and [`has_failed`](Self::has_failed) after this, or that step is missed.
    pub fn wake(&self, waker: &Waker) {
        self.ticket.wake(waker);
    }

    /// Its device has room for more of it; else the waker is woken once it has.
    pub(crate) fn has_room(&self, waker: &Waker) -> bool {
        self.records.device.has_room(waker)
    }

    /// It is not going to be stored: no more comes. What is written can be read until it is overtaken.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.ticket.has_failed()
    }
}
