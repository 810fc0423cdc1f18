//! Reading: everything that comes out of here has been checked against its checksum and the whole key.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::Error;
use super::device::Device;
use super::directory::Place;
use super::record::{ChunkAt, HEADER, Head, Header, Kind};
use crate::Key;

/// Read at once, in the hope that it is all there is of a head.
const FIRST_READ: u64 = 16 << 10;

/// An object that the directory knows. Nothing of it has been read yet.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) records: Records,
    pub(super) place: Place,
}

/// An object whose head has been read.
#[derive(Debug, Clone)]
pub struct Object {
    records: Records,
    pub(super) head: Head,
}

/// What one key has in one volume on one device.
#[derive(Debug, Clone)]
pub(super) struct Records {
    pub(super) device: Arc<Device>,
    pub(super) seed: u64,
    pub(super) key: Key,
}

/// A chunk that is whole, as a range of a file, which nobody writes over as long as this is held. Hold it for
/// a send, not for a client: who writes waits for [`crate::limits::PINNED_MS`] at most before he gives up.
#[derive(Debug)]
pub struct Range {
    pin: Pin,
    /// Bytes from the beginning of the file.
    pub at: u64,
    pub length: u64,
}

impl Handle {
    /// The same object, and not another one that has come in its place.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let is_same_place = self.place == other.place && Arc::ptr_eq(&self.records.device, &other.records.device);
        is_same_place && self.records.key == other.records.key
    }

    /// Whose turn it is to read on its device: [`READS_MAX`](crate::limits::READS_MAX) at a time. Whoever reads
    /// holds one, and waits for it where that holds up nobody else.
    #[must_use]
    pub fn turns(&self) -> &Arc<Semaphore> {
        self.records.turns()
    }

    /// Reads the head: metadata, and with a small object the body as well. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it was overtaken, or is not the object of this key, or not whole.
    pub fn open(&self) -> Result<Object, Error> {
        let payload = self.records.read(self.place, None, Kind::Head)?;
        let head = Head::read(&payload).ok_or(Error::Gone)?;
        // Chunks may be older than their head.
        let is_whole =
            head.chunks.iter().all(|chunk| self.records.device.lives.is_alive(chunk.place, chunk.generation));
        if is_whole { Ok(Object { records: self.records.clone(), head }) } else { Err(Error::Gone) }
    }
}

impl Records {
    pub(super) fn of(device: &Arc<Device>, volume: usize, key: Key) -> Self {
        Self { device: Arc::clone(device), seed: device.stripes[volume].seed, key }
    }

    /// Whose head lies there.
    pub(super) fn key_at(device: &Arc<Device>, volume: usize, place: Place) -> Option<Key> {
        let pin = Pin::new(device, place.extent).ok()?;
        let mut bytes = [0; HEADER];
        device.health.read(|| device.disk.read_at(&mut bytes, device.layout.record_at(place)))?;
        let header = Header::read(&bytes, device.stripes[volume].seed)?;
        (header.kind == Kind::Head && header.generation == pin.generation).then_some(header.key)
    }

    pub(super) fn turns(&self) -> &Arc<Semaphore> {
        &self.device.lives.turns
    }

    fn read(&self, place: Place, generation: Option<u64>, kind: Kind) -> Result<Vec<u8>, Error> {
        let layout = self.device.layout;
        let offset = u64::from(place.slot) * layout.unit();
        let room = layout.extent_bytes.saturating_sub(offset);
        let pin = Pin::new(&self.device, place.extent)?;
        if generation.is_some_and(|wanted| wanted != pin.generation) || room < HEADER as u64 {
            return Err(Error::Gone);
        }
        let at = layout.record_at(place);
        let mut bytes = vec![0; FIRST_READ.min(room) as usize];
        self.fill(&mut bytes, at)?;
        let header = Header::read(&bytes, self.seed).ok_or(Error::Gone)?;
        let length = HEADER + header.length as usize;
        let is_it = header.kind == kind && header.key == self.key && header.generation == pin.generation;
        if !is_it || length as u64 > room {
            return Err(Error::Gone);
        }
        let have = bytes.len();
        bytes.resize(length, 0);
        if have < length {
            self.fill(&mut bytes[have..], at + have as u64)?;
        }
        drop(pin);
        bytes.drain(..HEADER);
        let is_whole = super::layout::checksum(self.seed, &bytes) == header.payload_sum;
        if is_whole { Ok(bytes) } else { Err(Error::Gone) }
    }

    pub(super) fn chunk(&self, ChunkAt { place, generation, length }: ChunkAt) -> Result<Vec<u8>, Error> {
        let bytes = self.read(place, Some(generation), Kind::Chunk)?;
        if bytes.len() != length as usize {
            return Err(Error::Gone);
        }
        self.device.lives.verify(place, generation);
        Ok(bytes)
    }

    pub(super) fn range(&self, chunk: ChunkAt) -> Option<Range> {
        let device = &self.device;
        let (lives, extent) = (&device.lives, chunk.place.extent);
        let pin = Pin::new(device, extent).ok().filter(|pin| pin.generation == chunk.generation)?;
        // While it is pinned, so that who closes or takes over waits, and sees it.
        let is_closed = !device.can_send || lives.is_closed.load(Ordering::SeqCst);
        // Of a page that could not be written the kernel may have forgotten what was in it.
        if is_closed || device.health.has_failed() || !lives.is_verified(chunk.place) {
            return None;
        }
        lives.lent[extent as usize].store(true, Ordering::SeqCst);
        let at = device.layout.record_at(chunk.place) + HEADER as u64;
        Some(Range { pin, at, length: u64::from(chunk.length) })
    }

    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        self.device.health.read(|| self.device.disk.read_at(bytes, at)).ok_or(Error::Gone)
    }
}

impl Object {
    /// The metadata it was stored with.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.head.meta
    }

    /// The same, which it does without from now on.
    pub fn take_meta(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head.meta)
    }

    /// Bytes of memory that it takes itself.
    #[must_use]
    pub fn bytes_of_memory(&self) -> u64 {
        let Head { meta, chunks, rest } = &self.head;
        (size_of::<Self>() + meta.len() + rest.len() + chunks.len() * size_of::<ChunkAt>()) as u64
    }

    /// As [`Handle::turns`].
    #[must_use]
    pub fn turns(&self) -> &Arc<Semaphore> {
        self.records.turns()
    }

    pub(super) fn key(&self) -> Key {
        self.records.key
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.records.device
    }

    /// Bytes of the body.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.head.chunks.iter().map(|chunk| u64::from(chunk.length)).sum::<u64>() + self.head.rest.len() as u64
    }

    /// Bytes of each piece of the body but the last.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        let first = self.head.chunks.first().map(|chunk| u64::from(chunk.length));
        first.unwrap_or_else(|| self.records.device.layout.chunk_bytes() as u64).max(1)
    }

    /// Its device works, and what is oldest of it, which goes first, has not been overtaken.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let Records { device, .. } = &self.records;
        let oldest = self.head.chunks.first();
        device.health.is_working() && oldest.is_none_or(|chunk| device.lives.is_alive(chunk.place, chunk.generation))
    }

    /// In how many pieces the body comes, each but the last of [`chunk_bytes`](Self::chunk_bytes).
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.head.chunks.len() + usize::from(!self.head.rest.is_empty())
    }

    /// A piece of the body; nothing behind the last one. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it was overtaken meanwhile, or is not whole.
    pub fn chunk(&self, number: usize) -> Result<Vec<u8>, Error> {
        let Some(&chunk) = self.head.chunks.get(number) else {
            return Ok(if number == self.head.chunks.len() { self.head.rest.clone() } else { Vec::new() });
        };
        self.records.chunk(chunk)
    }

    /// A piece of the body as a range of the device, if it has been read and was whole, or was written, since
    /// the start; none
    /// for the last piece where that lies with the head, and for what has not been read yet.
    #[must_use]
    pub fn range(&self, number: usize) -> Option<Range> {
        self.records.range(*self.head.chunks.get(number)?)
    }
}

impl Range {
    /// The device, for sendfile.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.pin.device.disk.file()
    }
}

/// As long as it is held, the extent lives this life.
#[derive(Debug)]
struct Pin {
    device: Arc<Device>,
    extent: u32,
    generation: u64,
}

impl Pin {
    fn new(device: &Arc<Device>, extent: u32) -> Result<Self, Error> {
        let (Some(pins), Some(life)) =
            (device.lives.pins.get(extent as usize), device.lives.generations.get(extent as usize))
        else {
            return Err(Error::Gone);
        };
        // In this order, and the writer in the other: at least one of the two sees the other.
        pins.fetch_add(1, Ordering::SeqCst);
        let pin = Self { device: Arc::clone(device), extent, generation: life.load(Ordering::SeqCst) };
        if pin.generation == 0 { Err(Error::Gone) } else { Ok(pin) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.device.lives.pins[self.extent as usize].fetch_sub(1, Ordering::SeqCst);
    }
}
