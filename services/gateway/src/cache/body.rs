//! Where the bodies of stored answers lie.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use sumun_host::pages::{Pages, Run, bytes_of_pages};
use sumun_store::Key;

use super::disk::DiskBody;
use super::response::Held;
use super::stored::{allocated, shared};
use super::{Cache, Content, Entry, Slice, Slices};
use crate::events::Event;
use crate::limits::{CACHE_ADDRESSES, CACHE_HOT_HITS, CACHE_MOVED_BYTES, CACHE_PIECE_BYTES};

/// Where a body is that does not lie with its head.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Memory(Arc<Pieces>),
    Disk(Arc<DiskBody>),
    Slices(Arc<Slices>),
}

/// A body in memory.
#[derive(Debug)]
pub(super) struct Pieces {
    kept: Kept,
    /// Since it came, as long as it is apart.
    hits: AtomicU32,
    /// Counts them as long as anybody has them.
    _held: Arc<Held>,
}

#[derive(Debug)]
enum Kept {
    Apart(Box<[Bytes]>),
    /// In pages of its own, which the kernel sends without a copy.
    InPages(Run),
}

/// A body in pages, for whoever still sends it.
struct Shared(Arc<Pieces>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.iter().next().unwrap_or_default()
    }
}

/// For a cache of so many bytes. `None`: there is nothing to send, or the host has none, and all is copied.
pub(super) fn pages(memory: u64) -> Option<Arc<Pages>> {
    if memory == 0 {
        return None;
    }
    let pages = Pages::new(memory.saturating_mul(CACHE_ADDRESSES));
    pages.inspect_err(|error| Event::NoPages { error }.write()).ok()
}

impl Pieces {
    pub(super) fn new(pieces: Box<[Bytes]>, held: Arc<Held>) -> Self {
        Self { kept: Kept::Apart(pieces), hits: AtomicU32::new(0), _held: held }
    }

    /// A body in as few pieces as is worth it.
    pub(super) fn joined<P>(pieces: Vec<P>, held: Arc<Held>) -> Self
    where
        P: AsRef<[u8]> + Into<Bytes>,
    {
        let bytes: u64 = pieces.iter().map(|piece| piece.as_ref().len() as u64).sum();
        if pieces.len() <= 1 || bytes > CACHE_PIECE_BYTES {
            return Self::new(pieces.into_iter().map(Into::into).collect(), held);
        }
        let all: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
        Self::new(Box::new([all.concat().into()]), held)
    }

    /// It is asked for, and often enough now that pages are worth what it costs to fill them.
    fn gets_hot(&self) -> bool {
        let Kept::Apart(pieces) = &self.kept else { return false };
        let is_moved_well = pieces.len() == 1 && CACHE_MOVED_BYTES.contains(&self.length());
        // Should it fail, it is tried again.
        is_moved_well && (self.hits.fetch_add(1, Relaxed) + 1).is_multiple_of(CACHE_HOT_HITS)
    }

    /// A copy in pages, which counts by itself.
    fn copied(&self, pages: &Arc<Pages>, held: &Arc<AtomicU64>) -> Option<Self> {
        let parts: Vec<&[u8]> = self.iter().collect();
        let run = pages.keep(&parts).ok()?;
        let held = Arc::new(Held::new(held, run.len() as u64));
        Some(Self { kept: Kept::InPages(run), hits: AtomicU32::new(0), _held: held })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let (apart, in_pages) = match &self.kept {
            Kept::Apart(pieces) => (&pieces[..], None),
            Kept::InPages(run) => (&[][..], Some(&**run)),
        };
        apart.iter().map(|piece| &**piece).chain(in_pages)
    }

    pub(super) fn length(&self) -> u64 {
        self.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The same, to be sent by others.
    pub(super) fn shared(self: &Arc<Self>) -> Vec<Bytes> {
        match &self.kept {
            Kept::Apart(pieces) => pieces.to_vec(),
            Kept::InPages(_) => vec![Bytes::from_owner(Shared(Arc::clone(self)))],
        }
    }

    /// Bytes of memory.
    fn bytes(&self) -> u64 {
        let of_content = match &self.kept {
            Kept::Apart(pieces) => {
                // What counts who has it, too.
                let one = |piece: &Bytes| allocated(piece.len()) + allocated(3 * size_of::<usize>());
                pieces.iter().map(one).sum::<u64>() + allocated(size_of_val(&pieces[..]))
            }
            Kept::InPages(run) => bytes_of_pages(run.len() as u64),
        };
        of_content + shared(size_of::<Self>()) + shared(size_of::<Held>())
    }
}

impl Body {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(pieces) => pieces.length(),
            Self::Disk(body) => body.object.size(),
            Self::Slices(slices) => slices.length,
        }
    }

    pub(super) fn content(&self) -> Content<'_> {
        match self {
            Self::Memory(pieces) => match &pieces.kept {
                Kept::Apart(pieces) => Content::Pieces(pieces),
                Kept::InPages(run) => Content::Pages(run),
            },
            Self::Disk(body) => Content::Disk(body),
            Self::Slices(slices) => Content::Slices(slices),
        }
    }

    pub(super) fn in_memory(&self) -> Option<&Pieces> {
        match self {
            Self::Memory(pieces) => Some(pieces),
            Self::Disk(_) | Self::Slices(_) => None,
        }
    }

    /// As far as can be told without reading it.
    pub(super) fn is_there(&self) -> bool {
        match self {
            Self::Memory(_) | Self::Slices(_) => true,
            Self::Disk(body) => body.object.is_there(),
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(pieces) => pieces.bytes(),
            Self::Disk(body) => body.object.bytes_of_memory() + shared(size_of::<DiskBody>()),
            Self::Slices(_) => shared(size_of::<Slices>()),
        }
    }
}

impl Cache {
    /// What is given out to somebody whom the kernel could send it counts as asked for. Where that makes it hot,
    /// its body goes into pages, and the entry that has it there takes the place of the other.
    pub(crate) fn heat(&self, key: Key, entry: &Arc<Entry>) {
        let pieces = match &**entry {
            Entry::Stored(stored) => stored.in_memory(),
            Entry::Slice(slice) => slice.body.in_memory(),
            _ => None,
        };
        let Some(pieces) = pieces.filter(|pieces| pieces.gets_hot()) else { return };
        // It takes whole pages then, and is there twice as long as others still send it.
        let fits = entry.bytes() + 2 * bytes_of_pages(1) <= self.answer_max() && !self.is_crowded();
        let is_there = || self.memory.peek(key).is_some_and(|found| Arc::ptr_eq(&found, entry));
        if !fits || !is_there() {
            return;
        }
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hot) = pages.and_then(|pages| pieces.copied(&pages, &self.held)) else { return };
        let body = Body::Memory(Arc::new(hot));
        let hot = match &**entry {
            Entry::Stored(stored) => Entry::Stored(stored.with(body)),
            _ => Entry::Slice(Slice { body }),
        };
        let bytes = hot.bytes();
        self.memory.replace(key, entry, Arc::new(hot), bytes);
    }
}

#[cfg(test)]
mod tests {
    use sumun_http::cache::Validity;

    use super::super::stored::Parts;
    use super::super::{Found, Stored};
    use super::*;

    const VALIDITY: Validity = Validity {
        born_s: 100,
        lifetime_s: 60,
        while_revalidate_s: 0,
        if_error_s: 0,
        no_cache: false,
        must_revalidate: false,
    };

    fn stored(url: &[u8], pieces: Vec<Vec<u8>>, cache: &Cache) -> Stored {
        let (lines, vary, selection, tags, passed) = (&b"ETag: \"a\"\r\n"[..], &b""[..], &b""[..], &[3][..], 0);
        let parts = Parts { url, status: 200, lines, vary, selection, tags, validity: VALIDITY, passed };
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let body = Pieces::joined(pieces, Arc::new(Held::new(&cache.held, length)));
        Stored::new(&parts, Body::Memory(Arc::new(body)), &cache.held)
    }

    fn found(cache: &Cache, key: Key) -> Arc<Entry> {
        match cache.find(key, 110, |_| Vec::new()) {
            Found::Stored(slot, entry) => {
                cache.heat(slot.key, &entry);
                entry
            }
            _ => panic!("it is there"),
        }
    }

    fn content(entry: &Entry) -> (Vec<u8>, bool) {
        let Entry::Stored(stored) = entry else { panic!("a response") };
        assert_eq!((stored.url(), stored.head().etag()), (&b"u"[..], &b"\"a\""[..]));
        match stored.content() {
            Content::Small(body) => (body.to_vec(), false),
            Content::Pieces(pieces) => (pieces.concat(), false),
            Content::Pages(run) => (run.to_vec(), true),
            Content::Disk(_) | Content::Slices(_) => unreachable!(),
        }
    }

    #[test]
    fn what_is_asked_for_often_goes_into_pages_where_that_is_worth_it() {
        let cache = Cache::new(256 << 20, [0; 16]);
        for (length, is_worth_it) in
            [(100, false), (20_000, false), (32_768, true), (65_537, true), (1 << 20, true), (3 << 20, false)]
        {
            let body: Vec<u8> = (0..length).map(|at| (at % 253) as u8).collect();
            let (front, back) = body.split_at(length / 3);
            cache.insert(9, stored(b"u", vec![front.into(), back.into()], &cache));
            for hit in 0..CACHE_HOT_HITS + 2 {
                let entry = found(&cache, 9);
                assert_eq!(content(&entry), (body.clone(), is_worth_it && hit >= CACHE_HOT_HITS), "{length}, {hit}");
            }
            assert_eq!(cache.held.load(Relaxed), length as u64, "it is counted once");
            let Entry::Stored(stored) = &*found(&cache, 9) else { panic!("a response") };
            assert!(stored.bytes() < length as u64 + 8192 && stored.bytes() >= length as u64);
            // As it is now, and as others give it out.
            let stale = stored.expired(110, 0);
            assert_eq!(content(&Entry::Stored(stale)).1, is_worth_it);
            if let Body::Memory(pieces) = stored.body() {
                assert!(pieces.shared().concat() == body);
            }
        }
    }

    #[test]
    fn without_pages_it_stays_where_it_is() {
        let cache = Cache::new(64 << 20, [0; 16]);
        *cache.pages.lock().unwrap() = None;
        cache.insert(9, stored(b"u", vec![vec![7; 40_000]], &cache));
        for _ in 0..CACHE_HOT_HITS * 2 {
            assert_eq!(content(&found(&cache, 9)), (vec![7; 40_000], false));
        }
    }

    #[test]
    fn another_size_of_the_cache_has_pages_of_its_own_and_none_for_nothing() {
        let cache = Cache::new(0, [0; 16]);
        assert!(cache.pages.lock().unwrap().is_none());
        cache.resize(64 << 20);
        cache.insert(9, stored(b"u", vec![vec![7; 40_000]], &cache));
        (0..CACHE_HOT_HITS).for_each(|_| drop(found(&cache, 9)));
        let hot = found(&cache, 9);
        cache.resize(32 << 20);
        assert_eq!(content(&hot), (vec![7; 40_000], true));
        assert_eq!(content(&found(&cache, 9)), (vec![7; 40_000], true), "it is not thrown away");
        cache.resize(0);
        assert!(cache.pages.lock().unwrap().is_none());
        assert_eq!(content(&hot), (vec![7; 40_000], true));
    }
}
