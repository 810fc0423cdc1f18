//! Reading: everything that comes out of here has been checked against its checksum and the whole key.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Error;
use super::device::{Device, lock};
use super::directory::Place;
use super::record::{ChunkAt, HEADER, Head, Header, Kind};
use crate::Key;

/// Read at once, in the hope that it is all there is of a head.
const FIRST_READ: u64 = 16 << 10;

/// An object that the directory knows. Nothing of it has been read yet.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) device: Arc<Device>,
    pub(super) seed: u64,
    pub(super) key: Key,
    pub(super) place: Place,
}

/// An object whose head has been read.
#[derive(Debug, Clone)]
pub struct Object {
    handle: Handle,
    head: Head,
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
    /// Reads the head: metadata, and with a small object the body as well. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it was overtaken, or is not the object of this key, or not whole.
    pub fn open(&self) -> Result<Object, Error> {
        let (_, payload) = self.read(self.place, None, Kind::Head)?;
        let head = Head::read(&payload).ok_or(Error::Gone)?;
        Ok(Object { handle: self.clone(), head })
    }

    fn read(&self, place: Place, generation: Option<u64>, kind: Kind) -> Result<(Header, Vec<u8>), Error> {
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
        if is_whole { Ok((header, bytes)) } else { Err(Error::Gone) }
    }

    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        self.device.disk.read_at(bytes, at).map_err(|error| {
            self.device.health.read_failed(&error);
            Error::Gone
        })
    }
}

impl Object {
    /// The metadata it was stored with.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.head.meta
    }

    /// Bytes of the body.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.head.chunks.iter().map(|chunk| u64::from(chunk.length)).sum::<u64>() + self.head.rest.len() as u64
    }

    /// In how many pieces the body comes; each but the last is [`crate::limits::CHUNK_BYTES`] long.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.head.chunks.len() + usize::from(!self.head.rest.is_empty())
    }

    /// A piece of the body; nothing behind the last one. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::Gone`]: it was overtaken meanwhile, or is not whole.
    pub fn chunk(&self, number: usize) -> Result<Vec<u8>, Error> {
        let Some(&ChunkAt { place, generation, length }) = self.head.chunks.get(number) else {
            return Ok(if number == self.head.chunks.len() { self.head.rest.clone() } else { Vec::new() });
        };
        let device = &self.handle.device;
        let (_, bytes) = self.handle.read(place, Some(generation), Kind::Chunk)?;
        if bytes.len() != length as usize {
            return Err(Error::Gone);
        }
        let mut verified = lock(&device.lives.verified);
        // Only while the extent lives this life: what is verified is forgotten when that ends.
        if device.lives.generations[place.extent as usize].load(Ordering::SeqCst) == generation {
            let slots = verified.entry(place.extent).or_default();
            if let Err(at) = slots.binary_search(&place.slot) {
                slots.insert(at, place.slot);
            }
        }
        Ok(bytes)
    }

    /// A piece of the body as a range of the device, if it has been read and was whole since the start; none
    /// for the last piece where that lies with the head, and for what has not been read yet.
    #[must_use]
    pub fn range(&self, number: usize) -> Option<Range> {
        let chunk = self.head.chunks.get(number)?;
        let device = &self.handle.device;
        device.disk.file()?;
        let pin = Pin::new(device, chunk.place.extent).ok().filter(|pin| pin.generation == chunk.generation)?;
        let is_verified = lock(&device.lives.verified)
            .get(&chunk.place.extent)
            .is_some_and(|slots| slots.binary_search(&chunk.place.slot).is_ok());
        let at = device.layout.record_at(chunk.place) + HEADER as u64;
        is_verified.then_some(Range { pin, at, length: u64::from(chunk.length) })
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
