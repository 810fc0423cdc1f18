//! A response on its way into the cache, as the path writes it for a client.
//!
//! Who fetches is a request like any other, with its retries, limits and queues; only its client is this
//! stream. It takes the text apart, asks the law what may be done with the response, and hands the body to
//! all who wait.

mod slice;
mod stream;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sumun_config::checked::Name;
use sumun_engine::Worker;
use sumun_http::cache::{self as law, Fields, RequestControl, ResponseControl, Unstorable, Validity, storable, vary};
use sumun_http::field::Field;
use sumun_http::{Method, ResponseBody, ResponseHead};
use sumun_store::limits::FILL_DISK_BYTES;
use sumun_store::pool::{self, Volume};
use sumun_store::{Ended, Key, OnDisk, Writer};

use super::body::{Body, Pieces};
use super::response::{Held, Lines, parsed, write_line};
use super::stored::Parts;
use super::{
    Arriving, Cache, Caching, Entry, Failed, Fills, Place, Portion, Purge, Response, Slice, Slot, Stored, kept,
};
use crate::events::Reason;
use crate::limits::CACHE_COMMIT_WAIT;
pub(crate) use stream::FillStream;

use slice::Taken;
use stream::{Phase, body_of};

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) caching: Rc<Caching>,
    pub(crate) worker: Rc<Worker>,
    /// The text that its key is made of, and the key.
    pub(crate) url: Arc<[u8]>,
    pub(crate) url_key: Key,
    /// The same, whatever the server has said of queries.
    pub(crate) whole_url: Box<[u8]>,
    /// Where the fill stands.
    pub(crate) slot: Slot,
    /// The fields of the client's request.
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    /// The request carries what says who the client is.
    pub(crate) has_identity: bool,
    /// What is stored, and stale.
    pub(crate) old: Option<Arc<Entry>>,
    pub(crate) portion: Portion,
}

/// A response on its way.
pub(crate) struct Filling {
    wanted: Wanted,
    writer: Writer<Arriving, Failed>,
    /// Where it is written as it comes: it is too large for memory; and what of it is in memory on its way.
    on_disk: Option<pool::Writer>,
    waiting: Option<Held>,
    /// It is a slice.
    part: Option<slice::Part>,
    /// Of the body so far, and of all of it where a part has told that.
    bytes: u64,
    expected: Option<u64>,
    /// What is to be stored once it is complete.
    response: Option<Arc<Response>>,
    /// Readers may have the head, and what of the body came behind it: nothing else can take its place.
    has_head: bool,
    /// On the worker's clock.
    asked_us: u64,
    /// Of the newest purge when the server was asked.
    serial: u64,
    /// How often its path had been changed by then.
    changes: u64,
    server: Option<Name>,
}

/// What a request says to the names in `Vary`. Cookies that servers do not get tell nothing apart.
pub(crate) fn selection(caching: &Caching, request: Fields<'_>, names: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if caching.drops_cookies {
        let names: Vec<&[u8]> = names.split(|&byte| byte == b',').filter(|name| *name != b"cookie").collect();
        vary::write_selection(request, &names.join(&b','), &mut out);
    } else {
        vary::write_selection(request, names, &mut out);
    }
    out
}

impl Filling {
    pub(crate) fn new(mut wanted: Wanted, writer: Writer<Arriving, Failed>) -> Self {
        let cache = &wanted.caching.cache;
        let (serial, changes) = (cache.purges.newest(), cache.changes(&wanted.whole_url));
        // What was found before it was purged may not stand in for what others ask for after that.
        let old = wanted.old.take_if(|old| matches!(&**old, Entry::Stored(old) if cache.judge(old).0 != Purge::Hard));
        wanted.old = old;
        let asked_us = wanted.worker.clock.now_us();
        Self {
            wanted,
            writer,
            on_disk: None,
            waiting: None,
            part: None,
            bytes: 0,
            expected: None,
            response: None,
            has_head: false,
            asked_us,
            serial,
            changes,
            server: None,
        }
    }

    pub(crate) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    fn cache(&self) -> &Cache {
        &self.wanted.caching.cache
    }

    /// Of the route, while it can be used. The pool may be opened anew at any time.
    fn volume(&self) -> Option<Volume> {
        self.cache().volume(self.wanted.caching.volume.as_ref())
    }

    fn old(&self) -> Option<&Stored> {
        match self.wanted.old.as_deref() {
            Some(Entry::Stored(old)) => Some(old),
            _ => None,
        }
    }

    fn select(&self, names: &[u8]) -> Vec<u8> {
        let request = Fields { bytes: &self.wanted.bytes, fields: &self.wanted.fields };
        selection(&self.wanted.caching, request, names)
    }

    /// The head is here. Gives what is to be done with the body.
    fn begin(&mut self, head: &ResponseHead, bytes: &[u8]) -> Phase {
        self.has_head = true;
        let now_s = self.wanted.worker.clock.unix_seconds();
        let newer = Fields { bytes, fields: &head.fields };
        let whole;
        let (status, newer, length) = match self.take_part(head, newer, now_s) {
            Taken::Done(phase) => return phase,
            Taken::Whole(fields, length) => {
                whole = fields;
                self.expected = Some(length);
                (200, Fields { bytes, fields: &whole }, Some(length))
            }
            Taken::Other => (head.status, newer, None),
        };
        if let Some(old) = self.old() {
            if status == 304 {
                return self.refresh(newer, now_s);
            }
            let has_failed = matches!(status, 500 | 502..=504);
            if has_failed && old.validity.covers_errors(now_s) {
                self.stand_in(Some(status));
                return Phase::Swallow;
            }
        }
        let lines = Lines::of(newer, self.wanted.caching.tags.as_deref());
        let mut response = self.judge(status, newer, lines, now_s);
        response.length = match head.body {
            ResponseBody::Length(length) => Some(length),
            ResponseBody::None => Some(0),
            ResponseBody::Chunked | ResponseBody::UntilClose => length,
        };
        let is_too_large = response.length.is_some_and(|length| length > self.bytes_max());
        self.check_room(&mut response, is_too_large);
        match response.stored {
            Ok(()) => self.settle(status, newer, &response.vary),
            Err(why) => self.not_kept(why, is_too_large, status, now_s),
        }
        let is_shared = response.stored.is_ok();
        let is_large = response.length.is_some_and(|length| length > self.cache().memory_max());
        let response = Arc::new(response);
        self.response = Some(Arc::clone(&response));
        self.writer.begin(Arriving::whole(response), is_shared, is_shared);
        if is_shared && is_large {
            self.move_to_disk();
        }
        body_of(head)
    }

    /// What there is no room for is not kept.
    fn check_room(&self, response: &mut Response, is_too_large: bool) {
        if response.stored.is_ok() && (is_too_large || self.cache().is_crowded()) {
            response.stored = Err(Unstorable::Size);
        }
    }

    fn not_kept(&self, why: Unstorable, is_too_large: bool, status: u16, now_s: u64) {
        match why {
            // That there is no room now says nothing of the next one, nor does a failure; and what is stored
            // may still be of use.
            Unstorable::Size if !is_too_large => drop(self.leave()),
            Unstorable::NoLifetime if status >= 500 => drop(self.leave()),
            // What is wrong with one request says nothing of what others have, nor of other queries.
            _ if status >= 400 && (self.wanted.old.is_some() || *self.wanted.url != *self.wanted.whole_url) => {
                self.leave();
            }
            why => self.pass(why, now_s),
        }
    }

    /// What the law says to a response with these fields.
    fn judge(&self, status: u16, fields: Fields<'_>, lines: Lines, now_s: u64) -> Response {
        let rules = &self.wanted.caching.rules;
        let control = ResponseControl::of(fields);
        // In whole seconds of waiting, not in those that began meanwhile.
        let waited_s = self.wanted.worker.clock.now_us().saturating_sub(self.asked_us) / 1_000_000;
        let validity = Validity::of(status, fields, &control, rules, now_s.saturating_sub(waited_s), now_s);
        let client = Fields { bytes: &self.wanted.bytes, fields: &self.wanted.fields };
        let request = law::Request {
            method: Method::Get,
            control: RequestControl::of(client),
            has_authorization: self.wanted.has_identity,
        };
        let stored = storable(&request, status, fields, &control, rules, &validity);
        let mut names = vary::names(fields);
        if self.wanted.caching.slice.is_some() {
            // All of these requests say the same.
            let others: Vec<&[u8]> =
                names.split(|&byte| byte == b',').filter(|name| *name != b"accept-encoding").collect();
            names = others.join(&b',');
        }
        let stored = match stored {
            Ok(()) if self.wanted.caching.varies_by_own(&names) => Err(Unstorable::VaryAny),
            stored => stored,
        };
        let held = Held::new(&self.cache().held, 0);
        let mut response = Response::new(status, lines, (validity, now_s), stored, held);
        response.vary = names.into();
        response.selection = self.select(&response.vary).into();
        response.server.clone_from(&self.server);
        response
    }

    /// The server says that what is stored is still right (RFC 9111 section 4.3.4).
    fn refresh(&mut self, newer: Fields<'_>, now_s: u64) -> Phase {
        let Some(old) = self.old() else { return Phase::Swallow };
        let lines = Lines::merged(old, newer, self.wanted.caching.tags.as_deref());
        let (status, body) = (old.head().status, old.body());
        if let Body::Slices(slices) = &body
            && has_other_date(old.head(), newer)
        {
            // Slices of what has the other date would be put beside those that are here.
            self.cache().drop_sliced(slices);
            self.leave();
            self.writer.end(Ended::Failed(Failed::Again));
            return Phase::Refuse;
        }
        // Its own age counts, and is not kept.
        let mut judged = lines.kept.clone();
        if let Some(age) = newer.joined("age") {
            write_line(b"Age", &age, &mut judged);
        }
        let Some((bytes, head)) = parsed(&judged) else { return Phase::Swallow };
        let merged = Fields { bytes: &bytes, fields: &head.fields };
        let mut response = self.judge(status, merged, lines, now_s);
        response.length = Some(body.length());
        response.server_status = Some(304);
        self.cache().counts.revalidated.fetch_add(1, Relaxed);
        let response = Arc::new(response);
        match response.stored {
            Ok(()) => self.settle(status, merged, &response.vary),
            Err(why) => self.pass(why, now_s),
        }
        if matches!(&body, Body::Slices(slices) if slices.head != self.wanted.slot.key) {
            // It is dropped where its slices say that it is, and nowhere else.
            self.leave();
        }
        self.writer.begin(Arriving::with(Arc::clone(&response), &body), response.stored.is_ok(), true);
        self.end_with(&body);
        if response.stored.is_ok() {
            self.store(&response, body);
        }
        Phase::Swallow
    }

    /// Gives out what is stored, stale as it is (RFC 5861 section 4).
    fn stand_in(&mut self, server_status: Option<u16>) {
        let Some(old) = self.old() else { return };
        let now_s = self.wanted.worker.clock.unix_seconds();
        let held = Held::new(&self.cache().held, 0);
        let mut response = Response::again(old, now_s, held);
        response.server_status = server_status;
        response.server.clone_from(&self.server);
        let (response, body) = (Arc::new(response), old.body());
        self.writer.begin(Arriving::with(Arc::clone(&response), &body), true, true);
        self.end_with(&body);
        self.response = Some(response);
        self.leave();
    }

    fn end_with(&self, body: &Body) {
        match body {
            Body::Memory(pieces) => self.writer.end_with(pieces.shared()),
            Body::Disk(body) => self.writer.end_on_disk(body.disk.clone()),
            Body::Slices(_) => drop(self.writer.end(Ended::Complete)),
        }
    }

    /// Bytes that a body may have to be kept, in memory or on disk.
    fn bytes_max(&self) -> u64 {
        let on_disk = self.volume().and_then(|volume| volume.object_max(self.wanted.slot.key));
        on_disk.unwrap_or(0).max(self.cache().answer_max())
    }

    /// From here on the body is written to disk as it comes, if there is one that takes it.
    fn move_to_disk(&mut self) {
        let (Some(volume), Some(response)) = (self.volume(), &self.response) else { return };
        let Some(mut writer) = volume.writer(self.wanted.slot.key, self.kept(response)) else { return };
        if let Some(pieces) = self.writer.move_to_disk(OnDisk::Arriving(writer.arriving())) {
            let most = self.part.as_ref().map(|part| part.bytes).or(response.length);
            let most = most.map_or(FILL_DISK_BYTES, |bytes| bytes.min(FILL_DISK_BYTES));
            self.waiting = Some(Held::new(&self.wanted.caching.cache.held, most));
            for piece in &pieces {
                writer.push(piece);
            }
            self.on_disk = Some(writer);
        }
    }

    fn leave(&self) -> bool {
        self.cache().leave(self.wanted.slot.key, self.writer.fill())
    }

    /// Now that it is known what the response varies by, the fill goes where requests look that are alike.
    fn settle(&mut self, status: u16, fields: Fields<'_>, names: &[u8]) {
        let cache = Arc::clone(&self.wanted.caching.cache);
        let (asked, generation) = (self.wanted.url_key, self.wanted.slot.generation);
        let (urls, whole) = (&self.wanted.caching.urls, &self.wanted.whole_url);
        let Place { text, key } = cache.note_search(urls, whole, status, fields);
        let is_other = key != asked;
        // Made invalid since it was asked for: as one of the variants, or by another name of the same.
        if !cache.is_current(asked, generation) || is_other && cache.changes(whole) != self.changes {
            self.leave();
            return;
        }
        if is_other {
            if !cache.move_fill(self.wanted.slot.key, key, self.writer.fill()) {
                return;
            }
            self.wanted.slot = Slot { key, generation: None };
            (self.wanted.url, self.wanted.url_key) = (text.into(), key);
        }
        let place = cache.place(self.volume().as_ref(), self.wanted.url_key, names, |names| self.select(names));
        let Some(place) = place else {
            self.leave();
            return;
        };
        if place != self.wanted.slot && cache.move_fill(self.wanted.slot.key, place.key, self.writer.fill()) {
            self.wanted.slot = place;
        }
        // A change that came in between has looked where it was.
        if place.generation.is_none() && !cache.is_current(asked, generation) {
            self.leave();
        }
    }

    /// Others do not wait for what is not for them.
    fn pass(&self, why: Unstorable, now_s: u64) {
        let is_there = self.leave() && self.part.is_none();
        // Of the request alone, or not: only the latter holds for the next one. What is stored is worth more
        // than to know that those with credentials have to ask by themselves.
        let is_of_request = matches!(why, Unstorable::RequestNoStore | Unstorable::Method)
            || (why == Unstorable::Authorization && self.wanted.old.is_some());
        if is_there && !is_of_request {
            self.cache().pass(self.wanted.slot.key, self.volume().as_ref(), now_s, why);
        }
    }

    /// How it ended, when the path is done with it.
    pub(crate) async fn finish(mut self, ended: Result<(), Reason>) {
        let now_s = self.wanted.worker.clock.unix_seconds();
        match ended {
            Err(reason) if !self.has_head => {
                if self.old().is_some_and(|old| old.validity.covers_errors(now_s)) {
                    self.stand_in(None);
                } else {
                    self.writer.end(Ended::Failed(Failed::Reason(reason)));
                }
            }
            Err(reason) => drop(self.writer.end(Ended::Failed(Failed::Reason(reason)))),
            Ok(()) if self.part.as_ref().is_some_and(|part| part.bytes != self.bytes) => {
                self.look_again(true, now_s);
            }
            Ok(()) if self.expected.is_some_and(|bytes| bytes != self.bytes) => {
                drop(self.writer.end(Ended::Failed(Failed::default())))
            }
            Ok(()) => {
                let response = self.response.take().filter(|response| response.stored.is_ok());
                let pieces = self.writer.end(Ended::Complete);
                match (response, self.on_disk.take(), pieces) {
                    (Some(_), Some(writer), _) => self.commit(writer).await,
                    (Some(response), None, Some(pieces)) => {
                        let pieces = Pieces::joined(pieces, Arc::clone(self.held(&response)));
                        self.store(&response, Body::Memory(Arc::new(pieces)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Puts a complete response where requests find it, and then takes the fill away.
    fn store(&mut self, response: &Response, body: Body) {
        let key = self.wanted.slot.key;
        let volume = self.volume();
        let writer = volume.as_ref().and_then(|volume| self.written(volume, response, &body));
        let Some(mut fills) = self.current() else { return };
        match (writer, &body, &volume) {
            (Some(writer), ..) => drop(writer.commit()),
            // Only the head is new.
            (None, Body::Disk(body), Some(volume)) => body.rewrite(volume, key, self.kept(response)),
            // What disk has is older.
            (None, Body::Memory(_) | Body::Slices(_), Some(volume)) => drop(volume.forget(key)),
            (None, _, None) => {}
        }
        let gone = if self.part.is_some() {
            self.cache().insert_slice(key, Slice { body })
        } else {
            self.cache().insert(key, Stored::new(&self.parts(response), body, &self.cache().held))
        };
        fills.remove(&key);
        drop(fills);
        drop(gone);
    }

    /// All but the commit of what is on disk besides memory; `None`: the disk is too busy for it, or has the
    /// body already.
    fn written(&self, volume: &Volume, response: &Response, body: &Body) -> Option<pool::Writer> {
        let (pieces, kept) = match body {
            Body::Memory(pieces) => (Some(pieces), self.kept(response)),
            Body::Slices(slices) => (None, kept::write_stored(&self.parts(response), Some(slices))),
            Body::Disk(_) => return None,
        };
        let mut writer = volume.writer(self.wanted.slot.key, kept)?;
        pieces.iter().flat_map(|pieces| pieces.iter()).all(|piece| writer.push(piece)).then_some(writer)
    }

    fn kept(&self, response: &Response) -> Vec<u8> {
        match &self.part {
            Some(_) => kept::write_slice(),
            None => kept::write_stored(&self.parts(response), None),
        }
    }

    fn parts<'a>(&'a self, response: &'a Response) -> Parts<'a> {
        Parts::of(&self.wanted.url, response, self.serial)
    }

    /// It is found on disk from now on. Until it is, the fill has it.
    async fn commit(&self, writer: pool::Writer) {
        let commit = self.current().and_then(|_fills| writer.commit());
        let Some(commit) = commit else { return };
        if self.part.is_none() {
            self.cache().counts.stored.fetch_add(1, Relaxed);
        }
        let written = std::future::poll_fn(|context| commit.poll(context));
        // What takes longer is found when it is there.
        tokio::time::timeout(CACHE_COMMIT_WAIT, written).await.ok();
        // What memory has by this key is older.
        self.cache().memory.remove(self.wanted.slot.key);
    }

    /// The fills, where this one is among them. It, or the index, is gone where somebody has changed the
    /// resource since.
    fn current(&self) -> Option<Fills<'_>> {
        let (cache, key) = (self.cache(), self.wanted.slot.key);
        let fills = cache.fills(key);
        let is_there = fills.get(&key).is_some_and(|flight| Arc::ptr_eq(&flight.fill, self.writer.fill()));
        (is_there && cache.is_current(self.wanted.url_key, self.wanted.slot.generation)).then_some(fills)
    }

    /// A piece of the body.
    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        if self.part.as_ref().is_some_and(|part| self.bytes > part.bytes) {
            self.look_again(true, self.wanted.worker.clock.unix_seconds());
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.keep(piece);
        Ok(())
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.response.as_ref().is_none_or(|response| response.stored.is_err()) {
            self.writer.push(piece);
            return;
        }
        if self.on_disk.is_none() && self.bytes > self.cache().memory_max() {
            self.move_to_disk();
        }
        if let Some(writer) = &mut self.on_disk {
            let is_taken = writer.push(piece);
            self.writer.push(piece);
            if !is_taken {
                self.give_up_keeping();
            }
            return;
        }
        if let Some(response) = &self.response {
            self.held(response).add(piece.len() as u64);
        }
        if !self.writer.push(piece) {
            // It has turned out to be too large: others need not find that out again.
            self.response = None;
            self.pass(Unstorable::Size, self.wanted.worker.clock.unix_seconds());
        } else if self.cache().is_crowded() {
            self.give_up_keeping();
        }
    }

    /// Counts the bytes of the body.
    fn held<'a>(&'a self, response: &'a Response) -> &'a Arc<Held> {
        self.part.as_ref().map_or(&response.held, |part| &part.held)
    }

    fn give_up_keeping(&mut self) {
        self.on_disk = None;
        self.waiting = None;
        self.response = None;
        self.leave();
        self.writer.give_up_keeping();
    }
}

/// However it ends, it is not found any more.
impl Drop for Filling {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What has no tag is told by its date, and this is another one.
fn has_other_date(old: super::Head<'_>, newer: Fields<'_>) -> bool {
    old.etag().is_empty() && newer.only("last-modified").is_some_and(|date| old.value("last-modified") != Some(date))
}
