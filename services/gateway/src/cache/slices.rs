//! Large answers in slices, each fetched and stored by itself when it is asked for.
//!
//! What stands in the slot of a URL or variant is the head of the whole, with [`Slices`] for a body; freshness,
//! validators and purges are its own. Slices are found by the head's key, a number and an incarnation, which is
//! another one with each new head: what is purged or has changed leads to no slice of before.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher13};
use sumun_config::checked::Name;
use sumun_http::cache::slices::range_of;
use sumun_http::range::ByteRange;
use sumun_store::pool::Volume;
use sumun_store::{Fill, Key};

use super::body::Body;
use super::response::Held;
use super::{Cache, Content, Entry, Flight, Joined, Response, Stored};
use crate::limits::CACHE_PASS_S;

/// A body that is put together of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slices {
    /// Where the head stands.
    pub(super) head: Key,
    pub(super) incarnation: u64,
    /// Of the whole, in bytes, and of each slice but the last.
    pub(crate) length: u64,
    pub(crate) slice_bytes: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(super) body: Body,
}

/// What is known of a response before its body.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) response: Arc<Response>,
    /// It is put together of slices; and which one of them comes behind this.
    pub(crate) sliced: Option<(Arc<Slices>, Option<u64>)>,
    /// What of a slice is here counts for as long as anybody reads it.
    pub(super) _held: Option<Arc<Held>>,
}

/// How much of a resource a server is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Portion {
    Whole,
    /// The slice of this number, of so many bytes, of something that nothing is known of yet.
    First(u64, u64),
    /// One of those that belong to this head.
    Slice(u64, Arc<Slices>, Arc<Response>),
}

impl Slices {
    /// The bytes of one. `None`: it lies behind the end.
    pub(crate) fn range(&self, number: u64) -> Option<ByteRange> {
        range_of(number, self.slice_bytes, self.length)
    }

    /// The one that has this byte.
    pub(crate) fn number_at(&self, byte: u64) -> u64 {
        byte / self.slice_bytes.max(1)
    }
}

impl Slice {
    pub(crate) fn content(&self) -> Content<'_> {
        self.body.content()
    }
}

impl Portion {
    /// The bytes that are asked for; `None`: all of them.
    pub(crate) fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Whole => None,
            Self::First(number, slice_bytes) => range_of(*number, *slice_bytes, u64::MAX),
            Self::Slice(number, slices, _) => slices.range(*number),
        }
    }
}

impl Arriving {
    /// Its body comes as it is.
    pub(super) fn whole(response: Arc<Response>) -> Arc<Self> {
        Arc::new(Self { response, sliced: None, _held: None })
    }

    /// All of its body is there, or is put together of what is.
    pub(super) fn with(response: Arc<Response>, body: &Body) -> Arc<Self> {
        let sliced = match body {
            Body::Slices(slices) => Some((Arc::clone(slices), None)),
            Body::Memory(_) | Body::Disk(_) => None,
        };
        Arc::new(Self { response, sliced, _held: None })
    }
}

impl Cache {
    pub(crate) fn slice_key(&self, slices: &Slices, number: u64) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write_u128(slices.head);
        hasher.write_u64(slices.incarnation);
        hasher.write_u64(number);
        hasher.finish128().as_u128()
    }

    /// The head of what is stored, for those that are on their way.
    pub(crate) fn again(&self, stored: &Stored, now_s: u64) -> Arc<Response> {
        Arc::new(Response::again(stored, now_s, Held::new(&self.held, 0)))
    }

    /// A slice from memory, or from disk.
    pub(crate) async fn slice(&self, volume: Option<&Name>, key: Key, bytes: u64) -> Option<Arc<Entry>> {
        let fits = |entry: &Arc<Entry>| matches!(&**entry, Entry::Slice(slice) if slice.body.is_there() && slice.body.length() == bytes);
        if let Some(entry) = self.memory.get(key) {
            if fits(&entry) {
                return Some(entry);
            }
            self.memory.remove_this(key, &entry);
        }
        self.load(volume?, key).await.filter(fits)
    }

    /// A slice is there, as far as can be told without reading it.
    pub(crate) fn has_slice(&self, volume: Option<&Volume>, key: Key) -> bool {
        let in_memory = self.memory.peek(key);
        in_memory.is_some_and(|entry| matches!(&*entry, Entry::Slice(slice) if slice.body.is_there()))
            || volume.is_some_and(|volume| volume.find(key).is_some())
    }

    /// The fill of a slice, as [`Cache::join`] has it; purges are the head's business. `None`: the slice is there,
    /// where that `counts`.
    pub(crate) fn join_slice(&self, volume: Option<&Volume>, key: Key, counts: bool) -> Option<Joined> {
        let mut fills = self.fills(key);
        let sent = fills.get(&key).map(|flight| flight.fill.join(false));
        if let Some(Some(reader)) = sent {
            return Some(Joined::Waiting(reader, None));
        }
        // It is stored before its fill goes, under this lock.
        if counts && self.has_slice(volume, key) {
            return None;
        }
        let (fill, writer) = Fill::begin(self.answer_max(), false);
        let Some(reader) = fill.join(true) else { return Some(Joined::Alone) };
        // One that is not for others is left to who reads it.
        if sent.is_none() {
            fills.insert(key, Flight::of_slice(fill));
        }
        Some(Joined::Fetching(reader, writer))
    }

    /// The resource has changed: its head, if it still is this one, is not found any more, and so are its slices.
    /// False: another one is there.
    pub(crate) fn drop_sliced(&self, slices: &Slices) -> bool {
        let found = self.memory.peek(slices.head);
        let is_another = found.as_deref().is_some_and(
            |entry| !matches!(entry, Entry::Stored(stored) if matches!(stored.content(), Content::Slices(own) if **own == *slices)),
        );
        if is_another {
            return false;
        }
        for volume in self.storage.volumes() {
            volume.forget(slices.head);
        }
        if let Some(entry) = found {
            self.memory.remove_this(slices.head, &entry);
        }
        true
    }

    /// What its server says of parts is of no use: for a while it is asked for the whole.
    pub(super) fn ask_whole(&self, key: Key, now_s: u64) {
        let entry = Entry::Whole { until_s: now_s + CACHE_PASS_S };
        let bytes = entry.bytes();
        self.memory.insert(key, Arc::new(entry), bytes);
    }

    pub(crate) fn asks_whole(&self, key: Key, now_s: u64) -> bool {
        matches!(self.memory.peek(key).as_deref(), Some(Entry::Whole { until_s }) if *until_s > now_s)
    }
}

impl Flight {
    /// No purge is about it.
    pub(super) fn of_slice(fill: Arc<super::Fill>) -> Self {
        Self { fill, serial: u64::MAX }
    }
}
