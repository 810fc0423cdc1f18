//! What a worker knows about the files it serves, and how it learns more without waiting for it
//! twice.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sumun_http::Method;
use sumun_http::negotiate::{self, CodingOrder};
use tokio::sync::{Notify, Semaphore};

use super::answer::{self, Streams};
use super::gate::{DiskGate, GateError};
use super::limits::{
    CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, CACHE_OPEN_FILES_MAX, CACHE_UNUSED_SECONDS, COMPRESSED_STREAMS_MAX,
    FRESH_SECONDS, LOADS_PER_REQUEST_MAX, STALE_SECONDS,
};
use super::load::{self, Loaded, Resource, Want};
use super::root::{FileRoot, OpenError};
use super::{FileAnswer, FileBody, FilesRequest, name, upload};

/// The files that one worker has served lately. All roots of the worker share its bounds.
pub(crate) struct FileCache {
    hasher: RandomState,
    table: RefCell<Table>,
    /// Looks at the disk that are under way.
    flights: RefCell<HashMap<FlightKey, Rc<Flight>>>,
    streams: Streams,
}

/// What an entry answers for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    root: u64,
    form: Form,
    path: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    File,
    /// The client's path ends in a slash.
    Directory,
    /// The path is the config's `fallback`, and is not percent-encoded.
    Fallback,
}

/// Hash of a key, and the root's generation: who comes after a write does not wait for a look that
/// began before it.
type FlightKey = (u64, u64);

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry, BuildHasherDefault<HashedAlready>>,
    /// Hashes of the entries; who comes to the front unused has to go.
    order: VecDeque<u64>,
    bytes: usize,
    files: usize,
}

struct Entry {
    root: u64,
    form: Form,
    path: Box<str>,
    resource: Arc<Resource>,
    /// When the look at the disk began.
    checked_unix_seconds: u64,
    generation: u64,
    /// Asked for since it was at the front last.
    is_used: Cell<bool>,
}

/// One look at the disk that any number of requests wait for.
struct Flight {
    landed: Notify,
    result: RefCell<Option<Loaded>>,
}

/// How old an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    /// To be given, and looked at again meanwhile.
    Stale,
    Old,
}

impl FileCache {
    pub(crate) fn new(gate: Arc<DiskGate>) -> Rc<Self> {
        Rc::new(Self {
            hasher: RandomState::new(),
            table: RefCell::default(),
            flights: RefCell::default(),
            streams: Streams { gate, places: Arc::new(Semaphore::new(COMPRESSED_STREAMS_MAX)) },
        })
    }

    /// The hot path: the answer to GET or HEAD from what is known. Waits for nothing, makes no
    /// system call, and for a plain 200 or 304 allocates nothing. `None`: use [`Self::answer`].
    ///
    /// Has to be called on the worker's runtime, for it may start a look at the disk.
    pub(crate) fn lookup(self: &Rc<Self>, root: &Arc<FileRoot>, request: &FilesRequest<'_>) -> Option<FileAnswer> {
        if !matches!(request.method, Method::Get | Method::Head) {
            return None;
        }
        let order = negotiate::codings(request.fields.accept_encoding.as_deref());
        self.lookup_key(root, asked_key(root, request), request, &order)
    }

    /// The slow path: any method but an upload, see [`FileRoot::takes_upload`].
    pub(crate) async fn answer(self: &Rc<Self>, root: &Arc<FileRoot>, request: &FilesRequest<'_>) -> FileAnswer {
        match request.method {
            Method::Get | Method::Head => self.read(root, request).await,
            Method::Delete if root.files.write => upload::delete(&self.streams.gate, root, request).await,
            Method::Options => FileAnswer { status: 204, head: root.allow().into(), body: FileBody::Empty, reason: "" },
            _ => FileAnswer {
                head: root.allow().into(),
                ..FileAnswer::error(405, "the method is not allowed for files")
            },
        }
    }

    /// Lets go of what nobody has asked for lately. For the worker's coarse tick, every few
    /// seconds.
    pub(crate) fn expire(&self, now_unix_seconds: u64) {
        let mut table = self.table.borrow_mut();
        for _ in 0..table.order.len() {
            let Some(hash) = table.order.pop_front() else {
                return;
            };
            let is_unused = table
                .entries
                .get(&hash)
                .is_none_or(|entry| entry.checked_unix_seconds + CACHE_UNUSED_SECONDS < now_unix_seconds);
            if is_unused {
                table.forget(hash);
            } else {
                table.order.push_back(hash);
            }
        }
    }

    pub(super) fn gate(&self) -> &Arc<DiskGate> {
        &self.streams.gate
    }

    async fn read(self: &Rc<Self>, root: &Arc<FileRoot>, request: &FilesRequest<'_>) -> FileAnswer {
        let order = negotiate::codings(request.fields.accept_encoding.as_deref());
        let name = match name::decode(request.path) {
            Ok(name) => name,
            // Not even the fallback: nobody but an attacker asks for these.
            Err(refusal) => return FileAnswer::error(404, refusal.reason()),
        };
        let mut key = asked_key(root, request);
        let mut name = Some(name);
        for _ in 0..LOADS_PER_REQUEST_MAX {
            if let Some(answer) = self.lookup_key(root, key, request, &order) {
                return answer;
            }
            let decoded = match &name {
                Some(name) => name.clone(),
                None => key.path.as_bytes().to_vec(),
            };
            let flight = self.start(root, key, decoded, request, &order);
            match flight.landing().await {
                // Another one's flight may have brought another coding: then once more.
                Loaded::File(resource) => {
                    if let Some(answer) = answer::file(&resource, &order, request, &self.streams) {
                        return answer;
                    }
                }
                Loaded::Directory => return answer::redirect_to_directory(request),
                Loaded::Listing(page) => return answer::listing(&page, request),
                Loaded::Error(error) => match (&root.files.fallback, error) {
                    (Some(fallback), OpenError::NotFound(_)) if key.form != Form::Fallback => {
                        key = Key { root: root.id, form: Form::Fallback, path: fallback };
                        name = None;
                    }
                    _ => return answer::error(error),
                },
            }
        }
        FileAnswer::error(503, "the file keeps changing")
    }

    fn lookup_key(
        self: &Rc<Self>,
        root: &Arc<FileRoot>,
        key: Key<'_>,
        request: &FilesRequest<'_>,
        order: &CodingOrder,
    ) -> Option<FileAnswer> {
        let hash = self.hasher.hash_one(key);
        let table = self.table.borrow();
        let entry = table.entries.get(&hash).filter(|entry| entry.is_for(key))?;
        let age = entry.age(root, request.now_unix_seconds);
        if age == Age::Old {
            return None;
        }
        entry.is_used.set(true);
        let answer = answer::file(&entry.resource, order, request, &self.streams)?;
        drop(table);
        if age == Age::Stale {
            self.refresh(root, key, request, order);
        }
        Some(answer)
    }

    fn refresh(self: &Rc<Self>, root: &Arc<FileRoot>, key: Key<'_>, request: &FilesRequest<'_>, order: &CodingOrder) {
        let name = match key.form {
            Form::Fallback => key.path.as_bytes().to_vec(),
            // It was decoded once already, else there were no entry.
            Form::File | Form::Directory => name::decode(key.path).unwrap_or_default(),
        };
        self.start(root, key, name, request, order);
    }

    /// Starts a look at the disk, or joins the one that is under way for the same key.
    fn start(
        self: &Rc<Self>,
        root: &Arc<FileRoot>,
        key: Key<'_>,
        name: Vec<u8>,
        request: &FilesRequest<'_>,
        order: &CodingOrder,
    ) -> Rc<Flight> {
        let hash = self.hasher.hash_one(key);
        let generation = root.generation.load(Ordering::Acquire);
        let flight_key = (hash, generation);
        if let Some(flight) = self.flights.borrow().get(&flight_key) {
            return Rc::clone(flight);
        }
        let flight = Rc::new(Flight { landed: Notify::new(), result: RefCell::new(None) });
        self.flights.borrow_mut().insert(flight_key, Rc::clone(&flight));
        let want = Want {
            name,
            is_directory: key.form == Form::Directory,
            url_path: request.url_path.to_owned(),
            order: *order,
            on_the_fly: answer::may_compress(request),
            now_unix_seconds: request.now_unix_seconds,
            previous: self.known(hash, key),
        };
        let (form, path) = (key.form, Box::<str>::from(key.path));
        let landing = Landing { cache: Rc::clone(self), key: flight_key, flight: Rc::clone(&flight) };
        let root = Arc::clone(root);
        let checked_unix_seconds = request.now_unix_seconds;
        // A task of its own: it goes on when the one who asked first goes away.
        tokio::task::spawn_local(async move {
            let root_id = root.id;
            let loaded = match landing.cache.gate().run(move || load::load(&root, &want)).await {
                Ok(loaded) => loaded,
                Err(GateError::Busy) => Loaded::Error(OpenError::Unavailable("too many wait for the disk")),
                Err(GateError::Lost) => Loaded::Error(OpenError::Failed("a disk operation was lost")),
            };
            let mut table = landing.cache.table.borrow_mut();
            match &loaded {
                Loaded::File(resource) => table.insert(
                    hash,
                    Entry {
                        root: root_id,
                        form,
                        path,
                        resource: Arc::clone(resource),
                        checked_unix_seconds,
                        generation,
                        is_used: Cell::new(false),
                    },
                ),
                // Gone or moved. When we are only short of something, the old one ages on.
                Loaded::Directory
                | Loaded::Listing(_)
                | Loaded::Error(OpenError::NotFound(_) | OpenError::Forbidden(_)) => {
                    table.remove(hash);
                }
                Loaded::Error(OpenError::Unavailable(_) | OpenError::Failed(_)) => {}
            }
            drop(table);
            *landing.flight.result.borrow_mut() = Some(loaded);
        });
        flight
    }

    fn known(&self, hash: u64, key: Key<'_>) -> Option<Arc<Resource>> {
        let table = self.table.borrow();
        let entry = table.entries.get(&hash).filter(|entry| entry.is_for(key))?;
        Some(Arc::clone(&entry.resource))
    }
}

fn asked_key<'a>(root: &FileRoot, request: &FilesRequest<'a>) -> Key<'a> {
    let form = if request.url_path.ends_with('/') { Form::Directory } else { Form::File };
    Key { root: root.id, form, path: request.path }
}

impl Entry {
    /// Two keys may have the same hash.
    fn is_for(&self, key: Key<'_>) -> bool {
        self.root == key.root && self.form == key.form && *self.path == *key.path
    }

    fn age(&self, root: &FileRoot, now_unix_seconds: u64) -> Age {
        if self.generation != root.generation.load(Ordering::Acquire) {
            return Age::Old;
        }
        match now_unix_seconds.checked_sub(self.checked_unix_seconds) {
            // In whole seconds, "less than one" is an age of zero.
            Some(age) if age < FRESH_SECONDS => Age::Fresh,
            Some(age) if age < FRESH_SECONDS + STALE_SECONDS => Age::Stale,
            // Older; or the clock was set back, and nothing is known about the age.
            _ => Age::Old,
        }
    }
}

impl Table {
    fn insert(&mut self, hash: u64, entry: Entry) {
        let (bytes, files) = entry.cost();
        self.bytes += bytes;
        self.files += files;
        let is_used = match self.entries.insert(hash, entry) {
            Some(before) => {
                let (bytes, files) = before.cost();
                self.bytes -= bytes;
                self.files -= files;
                before.is_used.get()
            }
            None => {
                self.order.push_back(hash);
                false
            }
        };
        if let Some(entry) = self.entries.get(&hash) {
            entry.is_used.set(is_used);
        }
        self.shrink();
        self.check_invariants();
    }

    fn remove(&mut self, hash: u64) {
        if self.forget(hash) {
            // Rare, and at most `CACHE_ENTRIES_MAX` long.
            self.order.retain(|&other| other != hash);
        }
        self.check_invariants();
    }

    /// Removes an entry that is not in the order any more.
    fn forget(&mut self, hash: u64) -> bool {
        let Some(entry) = self.entries.remove(&hash) else {
            return false;
        };
        let (bytes, files) = entry.cost();
        self.bytes -= bytes;
        self.files -= files;
        true
    }

    /// Removes entries until the bounds hold. One that was used since the last time gets another
    /// round, so this ends after two.
    fn shrink(&mut self) {
        while self.entries.len() > CACHE_ENTRIES_MAX
            || self.bytes > CACHE_BYTES_MAX
            || self.files > CACHE_OPEN_FILES_MAX
        {
            let Some(hash) = self.order.pop_front() else {
                return;
            };
            if self.entries.get(&hash).is_some_and(|entry| entry.is_used.replace(false)) {
                self.order.push_back(hash);
            } else {
                self.forget(hash);
            }
        }
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.entries.len(), self.order.len());
        debug_assert!(self.entries.len() <= CACHE_ENTRIES_MAX);
        debug_assert!(self.bytes <= CACHE_BYTES_MAX);
        debug_assert!(self.files <= CACHE_OPEN_FILES_MAX);
    }
}

impl Entry {
    fn cost(&self) -> (usize, usize) {
        let (bytes, files) = self.resource.cost();
        (bytes + self.path.len() + size_of::<Self>(), files)
    }
}

impl Flight {
    async fn landing(&self) -> Loaded {
        loop {
            // Made before the look, so that a landing in between is not missed.
            let landed = self.landed.notified();
            if let Some(loaded) = &*self.result.borrow() {
                return loaded.clone();
            }
            landed.await;
        }
    }
}

/// Ends a flight when it is dropped, whatever has become of it: nobody may wait for ever.
struct Landing {
    cache: Rc<FileCache>,
    key: FlightKey,
    flight: Rc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.cache.flights.borrow_mut().remove(&self.key);
        let lost = Loaded::Error(OpenError::Failed("a look at the disk was lost"));
        self.flight.result.borrow_mut().get_or_insert(lost);
        self.flight.landed.notify_waiters();
    }
}

/// The keys of the table are hashes with a secret already.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
impl FileCache {
    /// Entries, bytes and open files.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        let table = self.table.borrow();
        table.check_invariants();
        (table.entries.len(), table.bytes, table.files)
    }
}
