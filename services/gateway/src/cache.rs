//! What the workers of one process share of the cache: responses by key, and those that are on their way.
//!
//! The law of caching is `sumun_http::cache`, memory and waiting are `sumun_store`. Here they come together:
//! what a key is, what is in the table, what a response becomes when it is stored. What a request makes of
//! it is `path/cache.rs`.
//!
//! ```text
//!   request ─► key of the URL ─► Stored                  its answer does not vary
//!                             ─► Index ─► key of the     it does, by these fields of requests
//!                                         variant ─► Stored
//!                             ─► Whole                   it is not to be had in slices
//!                             ─► Pass                    nobody waits for what is not shared
//!                             ─► a Fill                  somebody fetches it
//! ```
//!
//! A key is a SipHash of 128 bits with a secret key: nobody can make two URLs meet, and chance does not.
//!
//! Where the route has a volume, the same entries are on disk under the same keys (`disk.rs`), and what memory
//! has not is looked for there. Large bodies are on disk alone.
//!
//! Where the route has slices, a Stored may be the head of many of them (`slices.rs`).

mod body;
mod disk;
mod filling;
mod kept;
mod operate;
mod purges;
mod response;
mod rules;
mod searches;
mod slices;
mod storage;
mod stored;

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher13};
use sumun_config::checked::Name;
use sumun_host::pages::Pages;
use sumun_http::cache::{Unstorable, Use};
use sumun_store::pool::Volume;
use sumun_store::{Key, Memory, Writer};

use crate::events::Reason;
use crate::limits::{CACHE_DISK_BYTES, CACHE_ENTRY_PART, CACHE_PASS_S, CACHE_PROBE_S};

pub use operate::{CacheReport, Finding, PurgeScope};
pub use storage::{PhysicalVolumeReport, StorageReport, VolumeReport};

pub(crate) use disk::{DiskBody, in_turn};
pub(crate) use filling::{FillStream, Filling, Wanted, selection};
pub(crate) use purges::Purge;
pub(crate) use response::{Head, Response};
pub(crate) use rules::{Caching, UrlRules};
pub(crate) use searches::Place;
pub(crate) use slices::{Arriving, Portion, Slice, Slices};
pub(crate) use stored::{Content, Stored};

/// Why a response that was waited for did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    Reason(Reason),
    /// The resource is another one than was thought: who has sent nothing of it looks again.
    Again,
}

impl Default for Failed {
    fn default() -> Self {
        Self::Reason(Reason::ServerCutShort)
    }
}

impl Failed {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Reason(reason) => reason,
            Self::Again => Reason::ServerProtocol,
        }
    }
}

pub(crate) type Fill = sumun_store::Fill<Arriving, Failed>;
pub(crate) type Reader = sumun_store::Reader<Arriving, Failed>;

/// What stands in the table under a key.
#[derive(Debug)]
pub(crate) enum Entry {
    Stored(Stored),
    Index(Index),
    Pass(Pass),
    Slice(Slice),
    /// It is asked for as on routes without slices.
    Whole {
        until_s: u64,
    },
}

/// Responses to a URL are told apart by these fields of requests.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) names: Box<[u8]>,
    /// Part of the variants' keys: with another one they are not found any more.
    generation: u64,
}

/// The last response was for who asked alone: until then requests go to the server side by side.
#[derive(Debug)]
pub(crate) struct Pass {
    until_s: u64,
    /// From then on one request finds out whether it still is so, while the others go on.
    probe_at_s: AtomicU64,
    pub(crate) why: Unstorable,
}

impl Pass {
    /// Nobody else finds out.
    fn claim_probe(&self, now_s: u64) -> bool {
        let at_s = self.probe_at_s.load(Relaxed);
        now_s >= at_s && self.probe_at_s.compare_exchange(at_s, now_s + CACHE_PROBE_S, Relaxed, Relaxed).is_ok()
    }
}

/// The cache of one process.
#[derive(Debug)]
pub(crate) struct Cache {
    memory: Memory<Entry>,
    fills: [Mutex<HashMap<Key, Flight>>; FILL_SHARDS],
    purges: Arc<purges::Purges>,
    searches: searches::Searches,
    storage: storage::Storage,
    /// Where bodies lie that are hot and of some size.
    pages: Mutex<Option<Arc<Pages>>>,
    /// What is being read from disk.
    loads: Mutex<HashMap<Key, disk::Load>>,
    /// Bytes of bodies that anybody holds: the table, fills, and clients that are slow.
    held: Arc<AtomicU64>,
    /// Bytes in all, and of one answer.
    room: AtomicU64,
    answer_max: AtomicU64,
    /// The ways in which routes make keys of URLs, and where they keep what they stand for.
    urls: Mutex<Vec<(UrlRules, Option<Name>)>>,
    secret: [u8; 16],
    pub(crate) counts: Counts,
}

/// What has become of requests, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) stale_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) passes: AtomicU64,
    pub(crate) collapsed: AtomicU64,
    pub(crate) revalidated: AtomicU64,
    pub(crate) stored: AtomicU64,
    /// From disk into memory.
    pub(crate) loaded: AtomicU64,
    /// Slices that were fetched.
    pub(crate) slices: AtomicU64,
}

const FILL_SHARDS: usize = 16;

type Fills<'a> = MutexGuard<'a, HashMap<Key, Flight>>;

/// A fill that goes on.
#[derive(Debug, Clone)]
struct Flight {
    fill: Arc<Fill>,
    /// The newest purge when it began.
    serial: u64,
}

/// What the table has for a request.
pub(crate) enum Found {
    Stored(Slot, Arc<Entry>),
    Pass(Slot, Unstorable),
    Nothing(Slot),
}

/// Where in the table a response to a request is, or will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    /// Of the index that says so: there are other variants.
    pub(crate) generation: Option<u64>,
}

/// Somebody fetches it, or this request is to.
pub(crate) enum Joined {
    /// And the newest purge when it was begun, where there was one since: its tags are not known before its head is.
    Waiting(Reader, Option<u64>),
    Fetching(Reader, Writer<Arriving, Failed>),
    /// It is there and not for others.
    Alone,
}

impl Cache {
    /// Room for so many bytes. `secret`: of the keys; what is on disk is found by the one that it was stored with.
    pub(crate) fn new(memory: u64, secret: [u8; 16]) -> Arc<Self> {
        let purges = Arc::default();
        Arc::new(Self {
            memory: Memory::new(memory),
            fills: std::array::from_fn(|_| Mutex::default()),
            storage: storage::Storage::new(&purges),
            purges,
            searches: searches::Searches::default(),
            pages: Mutex::new(body::pages(memory)),
            loads: Mutex::default(),
            held: Arc::default(),
            room: AtomicU64::new(memory),
            answer_max: AtomicU64::new(memory / CACHE_ENTRY_PART),
            urls: Mutex::default(),
            secret,
            counts: Counts::default(),
        })
    }

    fn resize(&self, memory: u64) {
        let before = self.room.swap(memory, Relaxed);
        self.answer_max.store(memory / CACHE_ENTRY_PART, Relaxed);
        if before != memory {
            // What lies in those before stays there.
            *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = body::pages(memory);
        }
        self.memory.resize(memory);
    }

    /// Bytes that a body may have to be kept.
    pub(crate) fn answer_max(&self) -> u64 {
        self.answer_max.load(Relaxed)
    }

    /// Bytes of a body that is in memory, where there is a disk for larger ones.
    pub(crate) fn memory_max(&self) -> u64 {
        self.answer_max().min(CACHE_DISK_BYTES)
    }

    /// So much is held besides what is in the table that nothing more is kept for now.
    fn is_crowded(&self) -> bool {
        let room = self.room.load(Relaxed);
        self.held.load(Relaxed) > room + room / 2
    }

    pub(crate) fn key(&self, text: &[u8]) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write(text);
        hasher.finish128().as_u128()
    }

    fn key_in(&self, scope: u64, text: &[u8]) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write_u64(scope);
        hasher.write(text);
        hasher.finish128().as_u128()
    }

    fn variant_key(&self, url: Key, index: &Index, selection: &[u8]) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write_u128(url);
        hasher.write_u64(index.generation);
        hasher.write(selection);
        hasher.finish128().as_u128()
    }

    /// What is there for a URL. `select` writes what a request says to the names it is given.
    pub(crate) fn find(&self, url: Key, now_s: u64, select: impl Fn(&[u8]) -> Vec<u8>) -> Found {
        let whole = Slot { key: url, generation: None };
        let Some(entry) = self.memory.get(url) else { return Found::Nothing(whole) };
        let Entry::Index(index) = &*entry else { return self.found(whole, entry, now_s) };
        let key = self.variant_key(url, index, &select(&index.names));
        let slot = Slot { key, generation: Some(index.generation) };
        match self.memory.get(key) {
            Some(entry) => self.found(slot, entry, now_s),
            None => Found::Nothing(slot),
        }
    }

    fn found(&self, slot: Slot, entry: Arc<Entry>, now_s: u64) -> Found {
        match &*entry {
            Entry::Pass(pass) if pass.until_s > now_s && !pass.claim_probe(now_s) => Found::Pass(slot, pass.why),
            // What lies on disk goes when its turn comes, however often it is asked for.
            Entry::Stored(stored) if !stored.is_there() => {
                self.memory.remove_this(slot.key, &entry);
                Found::Nothing(slot)
            }
            Entry::Stored(stored) => match self.judge(stored) {
                (Purge::None, _) => Found::Stored(slot, entry),
                (Purge::Soft, newest) => match self.expire(slot.key, &entry, stored, (now_s, newest)) {
                    Some(entry) => Found::Stored(slot, entry),
                    None => Found::Nothing(slot),
                },
                (Purge::Hard, _) => {
                    self.memory.remove_this(slot.key, &entry);
                    Found::Nothing(slot)
                }
            },
            Entry::Pass(_) | Entry::Index(_) | Entry::Slice(_) | Entry::Whole { .. } => Found::Nothing(slot),
        }
    }

    /// What purges say that it was not looked at for yet, up to the newest one.
    fn judge(&self, stored: &Stored) -> (Purge, u64) {
        let newest = self.purges.newest();
        let passed = stored.passed.load(Relaxed);
        if passed >= newest {
            return (Purge::None, newest);
        }
        let verdict = self.purges.judge(stored.url(), self.key(stored.url()), stored.tags(), passed);
        if verdict == Purge::None {
            stored.passed.fetch_max(newest, Relaxed);
        }
        (verdict, newest)
    }

    /// The same response, stale from now on.
    fn expire(&self, key: Key, entry: &Arc<Entry>, stored: &Stored, (now_s, newest): (u64, u64)) -> Option<Arc<Entry>> {
        let stale = stored.expired(now_s, newest);
        let bytes = stale.bytes();
        let stale = Arc::new(Entry::Stored(stale));
        self.memory.replace(key, entry, Arc::clone(&stale), bytes).then_some(stale)
    }

    /// The fill of this key: one that goes on, or a new one that the caller has to see to. `texts`: of its URL, as it
    /// was asked for and as it is looked for.
    pub(crate) fn join(&self, key: Key, texts: [&[u8]; 2]) -> Joined {
        let mut fills = self.fills(key);
        let newest = self.purges.newest();
        // What was asked for before its purge is not for those who come after it.
        if let Some(flight) = fills.get(&key).filter(|flight| !self.is_purged(texts, &[], flight.serial)) {
            let since = Some(flight.serial).filter(|serial| *serial < newest);
            return flight.fill.join(false).map_or(Joined::Alone, |reader| Joined::Waiting(reader, since));
        }
        let (fill, writer) = Fill::begin(self.answer_max(), false);
        let Some(reader) = fill.join(true) else { return Joined::Alone };
        fills.insert(key, Flight { fill, serial: newest });
        Joined::Fetching(reader, writer)
    }

    /// A purge behind that number is about it. `texts`: of its URL, whole and cut; they may be the same.
    fn is_purged(&self, texts: [&[u8]; 2], tags: &[u64], serial: u64) -> bool {
        let is_hit = |text| self.purges.judge(text, self.key(text), tags.iter().copied(), serial) != Purge::None;
        let [whole, cut] = texts;
        serial < self.purges.newest() && (is_hit(whole) || whole != cut && is_hit(cut))
    }

    /// The head that has come is one that was purged since, now that its tags are known, and what counts of its URL:
    /// whoever waits for it after that, and all that come now, ask again.
    pub(crate) fn lets_go_purged(
        &self,
        key: Key,
        reader: &Reader,
        (texts, since): ([&[u8]; 2], u64),
        response: &Response,
    ) -> bool {
        let is_purged = self.is_purged(texts, &response.tags, since);
        let mut fills = self.fills(key);
        if is_purged && fills.get(&key).is_some_and(|flight| reader.is_of(&flight.fill)) {
            fills.remove(&key);
        }
        is_purged
    }

    /// A new fill that nobody waits for; `None`: there is one.
    pub(crate) fn renew(&self, key: Key) -> Option<Writer<Arriving, Failed>> {
        let mut fills = self.fills(key);
        if fills.contains_key(&key) {
            return None;
        }
        let (fill, writer) = Fill::begin(self.answer_max(), true);
        fills.insert(key, Flight { fill, serial: self.purges.newest() });
        Some(writer)
    }

    /// The fill is over, or not for others. False: what was stored for its URL was made invalid meanwhile.
    fn leave(&self, key: Key, fill: &Arc<Fill>) -> bool {
        self.take_flight(key, fill).is_some()
    }

    fn take_flight(&self, key: Key, fill: &Arc<Fill>) -> Option<Flight> {
        let mut fills = self.fills(key);
        let is_there = fills.get(&key).is_some_and(|found| Arc::ptr_eq(&found.fill, fill));
        if is_there { fills.remove(&key) } else { None }
    }

    /// The fill is found under another key from now on. False: what was stored for its URL was made invalid.
    fn move_fill(&self, from: Key, to: Key, fill: &Arc<Fill>) -> bool {
        let Some(flight) = self.fills(from).get(&from).filter(|flight| Arc::ptr_eq(&flight.fill, fill)).cloned() else {
            return false;
        };
        // In this order: who makes it invalid finds it in one of the two.
        self.fills(to).entry(to).or_insert(flight);
        let was_there = self.take_flight(from, fill).is_some();
        if !was_there {
            self.leave(to, fill);
        }
        was_there
    }

    /// Takes a response in, and gives what had to go for it: to be dropped outside of all locks.
    fn insert(&self, key: Key, stored: Stored) -> Vec<Arc<Entry>> {
        let bytes = stored.bytes();
        self.counts.stored.fetch_add(1, Relaxed);
        self.memory.insert(key, Arc::new(Entry::Stored(stored)), bytes).1
    }

    fn insert_slice(&self, key: Key, slice: Slice) -> Vec<Arc<Entry>> {
        let entry = Entry::Slice(slice);
        let bytes = entry.bytes();
        self.memory.insert(key, Arc::new(entry), bytes).1
    }

    /// It cannot be given out after all: neither from here nor from disk.
    pub(crate) fn drop_entry(&self, slot: Slot, entry: &Arc<Entry>) {
        if self.memory.remove_this(slot.key, entry) {
            for volume in self.storage.volumes() {
                volume.forget(slot.key);
            }
        }
    }

    /// The index of a URL is still the one that it was, or there was none.
    fn is_current(&self, url: Key, generation: Option<u64>) -> bool {
        let Some(generation) = generation else { return true };
        matches!(self.memory.peek(url).as_deref(), Some(Entry::Index(index)) if index.generation == generation)
    }

    /// Where a response to this URL is stored that varies by `names`: under the URL's own key where these
    /// are none, else under a key of its own, once the index says so. `None`: somebody has made all of them invalid
    /// just now.
    fn place(
        &self,
        volume: Option<&Volume>,
        url: Key,
        names: &[u8],
        select: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Option<Slot> {
        if names.is_empty() {
            return Some(Slot { key: url, generation: None });
        }
        let before = self.memory.peek(url);
        let known = match before.as_deref() {
            Some(Entry::Index(index)) => Some(index),
            _ => None,
        };
        let slot = |index: &Index| Slot {
            key: self.variant_key(url, index, &select(&index.names)),
            generation: Some(index.generation),
        };
        if let Some(index) = known
            && has_all(&index.names, names)
        {
            // Disk may have lost it since, and without it nothing of the variants is found after a restart.
            if let Some(volume) = volume.filter(|volume| volume.find(url).is_none()) {
                self.keep_index(volume, url, index);
                if !self.is_current(url, Some(index.generation)) {
                    volume.forget(url);
                }
            }
            return Some(slot(index));
        }
        // Names that only some of the responses list count for all of them.
        let names = known.map_or_else(|| names.to_vec(), |index| union(&index.names, names));
        // Of another life of the cache there may be variants on disk that this index does not stand for.
        let index = Index { names: names.into(), generation: fastrand::u64(..) };
        let slot = slot(&index);
        if let Some(volume) = volume {
            self.keep_index(volume, url, &index);
        }
        let entry = Entry::Index(index);
        let bytes = entry.bytes();
        if let (Some(_), Some(before)) = (known, &before) {
            let is_replaced = self.memory.replace(url, before, Arc::new(entry), bytes);
            if let Some(volume) = volume.filter(|_| !is_replaced) {
                volume.forget(url);
            }
            return is_replaced.then_some(slot);
        }
        self.memory.insert(url, Arc::new(entry), bytes);
        Some(slot)
    }

    fn pass(&self, key: Key, volume: Option<&Volume>, now_s: u64, why: Unstorable) {
        // Else it would be there again once this has been forgotten.
        if let Some(volume) = volume {
            volume.forget(key);
        }
        let pass = Pass { until_s: now_s + CACHE_PASS_S, probe_at_s: AtomicU64::new(now_s + CACHE_PROBE_S), why };
        self.memory.insert(key, Arc::new(Entry::Pass(pass)), stored::shared(size_of::<Entry>()));
    }

    /// What is stored under a URL's key is wrong from now on, and so is what is on its way: that first, or it
    /// could come in behind us. Variants are not found without their index, and stored no more without it.
    fn invalidate(&self, url: Key, text: &[u8]) {
        self.searches.note_change(self.key(searches::path_of(text)));
        self.fills(url).remove(&url);
        // Before and after: who finds it in memory writes it to disk again.
        self.memory.remove(url);
        let is_forgotten = self.storage.volumes().iter().fold(true, |is_all, volume| volume.forget(url) & is_all);
        if !is_forgotten || self.storage.is_out_of_reach() {
            self.storage.purge_for_now(purges::What::Url(self.key(text)));
        }
        self.memory.remove(url);
    }

    /// The same for all keys that routes make of a URL, as clients ask for it.
    pub(crate) fn invalidate_url(&self, scheme: &[u8], host: &[u8], path: &[u8], query: Option<&[u8]>) {
        for (rules, _) in &*self.urls.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut text = Vec::new();
            rules.write(scheme, host, path, query, &mut text);
            // Before it is looked up where it is.
            self.searches.note_change(self.key(searches::path_of(&text)));
            for Place { text, key } in self.places(rules, text) {
                self.invalidate(key, &text);
            }
        }
    }

    fn fills(&self, key: Key) -> Fills<'_> {
        self.fills[key as usize % FILL_SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn is_fresh(&self, now_s: u64) -> bool {
        matches!(self, Self::Stored(stored) if matches!(stored.validity.use_now(now_s), Use::Fresh))
    }

    /// All that it holds in memory.
    fn bytes(&self) -> u64 {
        let parts = match self {
            Self::Pass(_) | Self::Whole { .. } => 0,
            Self::Index(index) => stored::allocated(index.names.len()),
            Self::Slice(slice) => slice.body.bytes(),
            Self::Stored(stored) => return stored.bytes(),
        };
        stored::shared(size_of::<Self>()) + parts
    }
}

/// All of `names` are among `known`; both are lists of lower-case names.
fn has_all(known: &[u8], names: &[u8]) -> bool {
    let known_names = || known.split(|&byte| byte == b',');
    names.split(|&byte| byte == b',').all(|name| known_names().any(|other| other == name))
}

fn union(one: &[u8], other: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = one.split(|&byte| byte == b',').chain(other.split(|&byte| byte == b',')).collect();
    names.sort_unstable();
    names.dedup();
    names.join(&b',')
}
