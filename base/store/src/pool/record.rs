//! What lies in an extent: records, each with a checksum of its own, one behind the other.
//!
//! A record belongs to one life of its extent by the extent's generation, and to its volume by the seed of
//! the checksums; so what an earlier life has left behind is never taken for a part of this one.

use super::directory::{Place, Tag};
use super::label::Reader;
use super::layout::{Layout, SECTOR, checksum};
use crate::Key;
use crate::limits::{CHUNKS_MAX, INLINE_BYTES, META_BYTES};

/// Bytes of a record before its payload.
pub(super) const HEADER: usize = 64;
const MAGIC: u32 = 0x6364_7273;

/// Of a file in the kernel's memory, in bytes, or a part of one.
const PAGE: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of a body.
    Chunk = 1,
    /// An object: metadata, where its chunks are, and its last piece.
    Head = 2,
    /// The object of this key is gone.
    Removed = 3,
}

/// The front of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) generation: u64,
    pub(super) key: Key,
    /// Bytes of the payload.
    pub(super) length: u32,
    pub(super) payload_sum: u64,
}

impl Header {
    /// Bytes from this record to the next.
    pub(super) fn span(&self, layout: Layout) -> u64 {
        (HEADER as u64 + u64::from(self.length)).next_multiple_of(layout.unit())
    }

    fn write(&self, out: &mut Vec<u8>, seed: u64) {
        let begin = out.len();
        out.extend(MAGIC.to_le_bytes());
        out.extend((self.kind as u32).to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.key.to_le_bytes());
        out.extend(self.length.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.payload_sum.to_le_bytes());
        out.extend([0; 8]);
        let sum = checksum(seed, &out[begin..]);
        out.extend(sum.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8], seed: u64) -> Option<Self> {
        let mut from = Reader(bytes.get(..HEADER)?);
        if from.u32()? != MAGIC {
            return None;
        }
        let kind = match from.u32()? {
            1 => Kind::Chunk,
            2 => Kind::Head,
            3 => Kind::Removed,
            _ => return None,
        };
        let (generation, key) = (from.u64()?, from.take().map(Key::from_le_bytes)?);
        let (length, _, payload_sum, _) = (from.u32()?, from.u32()?, from.u64()?, from.u64()?);
        (from.u64()? == checksum(seed, &bytes[..HEADER - 8])).then_some(Self {
            kind,
            generation,
            key,
            length,
            payload_sum,
        })
    }
}

/// A record, ready to be written.
pub(super) fn write(kind: Kind, generation: u64, key: Key, seed: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    let (length, payload_sum) = (payload.len() as u32, checksum(seed, payload));
    Header { kind, generation, key, length, payload_sum }.write(&mut bytes, seed);
    bytes.extend(payload);
    bytes
}

/// What stands before a gap of so many bytes, for whoever walks the extent: the front of a chunk that no head has.
pub(super) fn write_filler(generation: u64, seed: u64, bytes: u64) -> Vec<u8> {
    let mut front = Vec::with_capacity(HEADER);
    let length = (bytes as u32).saturating_sub(HEADER as u32);
    Header { kind: Kind::Chunk, generation, key: 0, length, payload_sum: 0 }.write(&mut front, seed);
    front
}

/// Bytes to leave out at this byte of an extent, so that the payload of a record behind them begins a page. To send
/// whole pages costs half of what it costs when each is cut in two. Where records have to begin at multiples of
/// more than [`HEADER`] bytes (extents of 8 MiB and more), there is no such place.
pub(super) fn gap(at: u64, layout: Layout) -> u64 {
    let gap = (at + HEADER as u64).next_multiple_of(PAGE) - HEADER as u64 - at;
    if gap.is_multiple_of(layout.unit()) { gap } else { 0 }
}

/// Where a chunk of an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkAt {
    pub(super) place: Place,
    pub(super) generation: u64,
    pub(super) length: u32,
}

/// The payload of a head.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) meta: Vec<u8>,
    pub(super) chunks: Vec<ChunkAt>,
    /// What is behind the last chunk.
    pub(super) rest: Vec<u8>,
}

impl Head {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12 + self.meta.len() + self.chunks.len() * 20 + self.rest.len());
        for length in [self.meta.len(), self.chunks.len(), self.rest.len()] {
            bytes.extend((length as u32).to_le_bytes());
        }
        for chunk in &self.chunks {
            bytes.extend(chunk.place.extent.to_le_bytes());
            bytes.extend(u32::from(chunk.place.slot).to_le_bytes());
            bytes.extend(chunk.generation.to_le_bytes());
            bytes.extend(chunk.length.to_le_bytes());
        }
        bytes.extend(&self.meta);
        bytes.extend(&self.rest);
        bytes
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let [meta, chunks, rest] = [from.u32()? as usize, from.u32()? as usize, from.u32()? as usize];
        if meta > META_BYTES || chunks > CHUNKS_MAX || rest > INLINE_BYTES {
            return None;
        }
        let chunks = (0..chunks)
            .map(|_| {
                let place = Place { extent: from.u32()?, slot: u16::try_from(from.u32()?).ok()? };
                Some(ChunkAt { place, generation: from.u64()?, length: from.u32()? })
            })
            .collect::<Option<_>>()?;
        Some(Self { meta: from.bytes(meta)?.to_vec(), chunks, rest: from.bytes(rest)?.to_vec() })
    }
}

/// What an extent holds that the directory wants to know: a head or a removal, in 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    tag: [u8; 6],
    slot: [u8; 2],
}

impl Note {
    /// Of a head there; without a place, of a removal.
    pub(super) fn new(tag: Tag, slot: Option<u16>) -> Self {
        Self { tag: tag.to_bytes(), slot: slot.unwrap_or(NO_SLOT).to_le_bytes() }
    }

    pub(super) fn tag(self) -> Tag {
        Tag::from_bytes(self.tag)
    }

    pub(super) fn slot(self) -> Option<u16> {
        Some(u16::from_le_bytes(self.slot)).filter(|&slot| slot != NO_SLOT)
    }
}

/// Stands for a removal: no record begins in the last unit of an extent.
const NO_SLOT: u16 = u16::MAX;

const PAGE_MAGIC: u64 = 0x6567_6170_6e75_6d73;

/// The first sector of a page of contents: the extent lives this life now.
pub(super) fn write_life(generation: u64, seed: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..8].copy_from_slice(&PAGE_MAGIC.to_le_bytes());
    sector[8..16].copy_from_slice(&generation.to_le_bytes());
    let sum = checksum(seed, &sector[..16]);
    sector[16..24].copy_from_slice(&sum.to_le_bytes());
    sector
}

/// The generation that it is in; none if it is not this volume's, or has not been used.
pub(super) fn read_life(page: &[u8], seed: u64) -> Option<u64> {
    let mut from = Reader(page);
    let (magic, generation, sum) = (from.u64()?, from.u64()?, from.u64()?);
    (magic == PAGE_MAGIC && sum == checksum(seed, page.get(..16)?) && generation > 0).then_some(generation)
}

/// What comes behind the first sector when the extent is full; none if it does not fit.
pub(super) fn write_contents(generation: u64, seed: u64, notes: &[Note], layout: Layout) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(32 + notes.len() * 8);
    bytes.extend(generation.to_le_bytes());
    bytes.extend((notes.len() as u64).to_le_bytes());
    for note in notes {
        bytes.extend(note.tag);
        bytes.extend(note.slot);
    }
    let sum = checksum(seed, &bytes);
    bytes.extend(sum.to_le_bytes());
    ((SECTOR + bytes.len()) as u64 <= layout.page_bytes()).then_some(bytes)
}

/// The contents, if they are there and of this life.
pub(super) fn read_contents(page: &[u8], generation: u64, seed: u64) -> Option<Vec<Note>> {
    let bytes = page.get(SECTOR..)?;
    let mut from = Reader(bytes);
    if from.u64()? != generation {
        return None;
    }
    let count = usize::try_from(from.u64()?).ok().filter(|&count| count <= page.len() / 8)?;
    let sum = checksum(seed, bytes.get(..16 + count * 8)?);
    let notes = (0..count).map(|_| Some(Note { tag: from.take()?, slot: from.take()? })).collect::<Option<_>>()?;
    (from.u64()? == sum).then_some(notes)
}

/// What an extent holds, by walking it, up to where a record is not of this life, and where that is.
pub(super) fn walk(extent: &[u8], generation: u64, seed: u64, layout: Layout) -> (Vec<Note>, u64) {
    let mut notes = Vec::new();
    let mut at = 0_u64;
    while let Some(header) = extent.get(at as usize..).and_then(|bytes| Header::read(bytes, seed))
        && header.generation == generation
    {
        let slot = (at / layout.unit()) as u16;
        match header.kind {
            Kind::Chunk => {}
            Kind::Head => notes.push(Note::new(Tag::of(header.key), Some(slot))),
            Kind::Removed => notes.push(Note::new(Tag::of(header.key), None)),
        }
        at += header.span(layout);
    }
    (notes, at.min(extent.len() as u64))
}
