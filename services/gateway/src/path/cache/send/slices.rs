//! Bodies that are put together of slices: each from memory or from disk, or as it comes, and the next one
//! fetched while this one is sent. Nothing is mixed: once the resource has changed, who is in the middle of it is
//! cut off.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sumun_engine::pace::DOWN;
use sumun_http::cache::Unstorable;
use sumun_http::cache::status::{CacheStatus, Forwarded};
use sumun_http::range::ByteRange;
use sumun_store::First;

use super::super::super::bandwidth::Paced;
use super::super::super::uptake::Uptake;
use super::super::super::{Ended, Exchange, answer, bandwidth, proxy};
use super::super::{Asked, Waited, fetch, past, wait_for_first};
use super::{Part, Plan, begin, copy, disk, flush, over, pages, slices as bytes_of};
use crate::cache::{Caching, Content, Entry, Failed, Joined, Portion, Reader, Response, Slices, Slot, Stored};
use crate::events::{Reason, Side};
use crate::limits::{CACHE_SLICE_TRIES, CACHE_SLICES_LOOK, CACHE_TRIES, COPY_BYTES};
use crate::site::Route;
use crate::upstream::LocalPool;

/// Where slices come from that are not there.
pub(in super::super) struct Source<'a> {
    pub(in super::super) route: &'a Rc<Route>,
    pub(in super::super) pool: &'a Rc<LocalPool>,
    pub(in super::super) caching: &'a Rc<Caching>,
    pub(in super::super) asked: &'a Asked,
}

/// A slice that is there, or comes.
enum Got {
    Stored(Arc<Entry>),
    Coming(Reader),
}

/// Gives out a response whose head is stored. `None`: it has turned out to be another one, and nothing has been
/// sent.
pub(in super::super) async fn stored(
    exchange: &mut Exchange<'_>,
    source: &Source<'_>,
    stored: &Stored,
    slices: &Arc<Slices>,
) -> Option<Ended> {
    let now_s = exchange.worker.clock.unix_seconds();
    let ttl_s = stored.validity.ttl_s(now_s);
    let age_s = Some(stored.validity.age_s(now_s));
    let length = Some(slices.length);
    let response = source.caching.cache.again(stored, now_s);
    let mut plan = Plan::of(exchange, response.head(), length, CacheStatus::Hit { ttl_s }, age_s);
    let counts = &source.caching.cache.counts;
    let mut sending = Sending::new(source, &response, slices);
    let missing = sending.first_missing(&plan.part);
    let Some(number) = missing else {
        if ttl_s > 0 { &counts.hits } else { &counts.stale_hits }.fetch_add(1, Relaxed);
        return sending.send(exchange, &plan).await;
    };
    if source.asked.control.only_if_cached {
        return Some(answer::of_reason(exchange, Reason::NotCached).await);
    }
    if source.asked.control.no_store {
        let why = (Forwarded::Partial, Some(Unstorable::RequestNoStore));
        return Some(past(exchange, source.route, source.pool, why).await);
    }
    // It would wait for itself.
    if let Some(ended) = proxy::refuse_loop(exchange).await {
        return Some(ended);
    }
    if ranges_of(&plan.part, slices.length).first().is_some_and(|range| slices.number_at(range.first) == number) {
        sending.read_ahead(exchange, number);
    }
    let collapsed = sending.ahead.as_ref().is_some_and(|(_, reader)| !reader.is_asker());
    if collapsed { &counts.collapsed } else { &counts.misses }.fetch_add(1, Relaxed);
    plan.cache_status = CacheStatus::Forwarded { why: Forwarded::Partial, status: None, stored: Ok(()), collapsed };
    sending.send(exchange, &plan).await
}

/// Gives out a response whose head has just come, or been found to be right still. `from`: the slice that comes
/// behind it, and whose request it was.
pub(in super::super) async fn arriving(
    exchange: &mut Exchange<'_>,
    source: &Source<'_>,
    response: &Arc<Response>,
    slices: &Arc<Slices>,
    (from, is_asker, why): (Option<(u64, Reader)>, bool, Forwarded),
) -> Option<Ended> {
    let now_s = if is_asker { response.answered_s } else { exchange.worker.clock.unix_seconds() };
    let age_s = Some(response.validity.age_s(now_s)).filter(|age_s| *age_s > 0);
    let (status, stored) = (response.server_status, response.stored);
    let cache_status = CacheStatus::Forwarded { why, status, stored, collapsed: !is_asker };
    let mut plan = Plan::of(exchange, response.head(), Some(slices.length), cache_status, age_s);
    if is_asker {
        plan.asker_lines = &response.asker_lines;
    }
    let mut sending = Sending::new(source, response, slices);
    sending.ahead = from;
    sending.send(exchange, &plan).await
}

struct Sending<'a> {
    source: &'a Source<'a>,
    response: &'a Arc<Response>,
    slices: &'a Arc<Slices>,
    /// The slice that comes next, on its way.
    ahead: Option<(u64, Reader)>,
    paced: Paced,
    /// What goes before the next bytes of the body, and how much of it is none of the body.
    output: Vec<u8>,
    framing: usize,
}

impl<'a> Sending<'a> {
    fn new(source: &'a Source<'a>, response: &'a Arc<Response>, slices: &'a Arc<Slices>) -> Self {
        let (ahead, paced, output) = (None, Paced::default(), Vec::new());
        Self { source, response, slices, ahead, paced, output, framing: 0 }
    }

    /// `None`: the resource has changed, and nothing has been sent.
    async fn send(&mut self, exchange: &mut Exchange<'_>, plan: &Plan<'_>) -> Option<Ended> {
        let first = ranges_of(&plan.part, self.slices.length).first().map(|range| self.slices.number_at(range.first));
        self.ahead.take_if(|(ahead, _)| Some(*ahead) != first);
        // Before anything is said of it.
        let mut got = None;
        if let Some(number) = first {
            got = match self.get(exchange, number).await {
                Ok(got) => Some(got),
                Err(Waited::Again) => return None,
                Err(Waited::Alone) => {
                    let why = (Forwarded::Partial, None);
                    return Some(past(exchange, self.source.route, self.source.pool, why).await);
                }
                Err(Waited::Failed(reason)) => {
                    return Some(proxy::without_server(exchange, self.source.route, reason).await);
                }
            };
        }
        begin(exchange, plan.status);
        self.paced = Paced::new(exchange, DOWN);
        plan.write_head(&mut self.output, exchange, self.source.route, self.response.head(), false);
        self.framing = self.output.len();
        let sent = self.send_parts(exchange, plan, got).await;
        Some(over(exchange, sent))
    }

    async fn send_parts(
        &mut self,
        exchange: &mut Exchange<'_>,
        plan: &Plan<'_>,
        mut got: Option<Got>,
    ) -> Result<(), Reason> {
        let frames = match &plan.part {
            Part::Many(_, frames, _) => Some(frames),
            Part::Nothing | Part::Whole | Part::One(_) => None,
        };
        for (index, range) in ranges_of(&plan.part, self.slices.length).into_iter().enumerate() {
            if let Some(head) = frames.and_then(|frames| frames.heads.get(index)) {
                self.output.extend_from_slice(head);
            }
            for number in self.slices.number_at(range.first)..=self.slices.number_at(range.last) {
                self.send_slice(exchange, (number, range), got.take()).await?;
            }
        }
        if let Some(frames) = frames {
            self.output.extend_from_slice(&frames.end);
        }
        flush(exchange, &mut self.paced, &mut self.output, &mut self.framing).await
    }

    /// What a range needs of one slice. Where it breaks off, the rest comes from another request, as long as it
    /// is the same resource.
    async fn send_slice(
        &mut self,
        exchange: &mut Exchange<'_>,
        (number, range): (u64, ByteRange),
        mut got: Option<Got>,
    ) -> Result<(), Reason> {
        let Some(slice) = self.slices.range(number) else { return Ok(()) };
        let (mut at, end) = (range.first.max(slice.first) - slice.first, range.last.min(slice.last) + 1 - slice.first);
        let mut tries = 0;
        loop {
            let one = match got.take() {
                Some(got) => got,
                None => self.get(exchange, number).await.map_err(|waited| match waited {
                    Waited::Failed(reason) => reason,
                    Waited::Alone => Reason::ServerCutShort,
                    Waited::Again => Failed::Again.reason(),
                })?,
            };
            if range.last > slice.last {
                self.read_ahead(exchange, number + 1);
            }
            let before = exchange.record.bytes_out + (self.output.len() - self.framing) as u64;
            let sent = self.send_from(exchange, &one, at..end).await;
            let Err(reason) = sent else {
                if let Got::Stored(entry) = &one
                    && pages::is_moved(exchange, &(at..end))
                {
                    self.source.caching.cache.heat(self.key(number), entry);
                }
                return Ok(());
            };
            tries += 1;
            // That of the client, and what has turned out to be another resource, do not get better.
            let is_final = reason.side() == Side::Client || matches!(reason, Reason::Deadline | Reason::ServerProtocol);
            if is_final || tries >= CACHE_SLICE_TRIES {
                return Err(reason);
            }
            at += exchange.record.bytes_out.saturating_sub(before);
            if reason == Reason::DiskBusy {
                // It is there, and comes sooner from a server.
                self.ahead = self.join(exchange, number, false).map(|reader| (number, reader));
            } else if let Got::Stored(entry) = &one {
                let slot = Slot { key: self.key(number), generation: None };
                self.source.caching.cache.drop_entry(slot, entry);
            }
        }
    }

    async fn send_from(&mut self, exchange: &mut Exchange<'_>, got: &Got, part: Range<u64>) -> Result<(), Reason> {
        match got {
            Got::Coming(reader) => {
                // Body bytes that wait would count as none.
                if self.output.len() > self.framing {
                    flush(exchange, &mut self.paced, &mut self.output, &mut self.framing).await?;
                }
                reader.skip_to(part.start);
                self.framing = 0;
                copy(exchange, reader, &mut self.output, &mut Some(part.end - part.start), false).await
            }
            Got::Stored(entry) => match &**entry {
                Entry::Slice(slice) => self.send_stored(exchange, slice.content(), part).await,
                _ => Err(Reason::FileUnreadable),
            },
        }
    }

    async fn send_stored(
        &mut self,
        exchange: &mut Exchange<'_>,
        content: Content<'_>,
        part: Range<u64>,
    ) -> Result<(), Reason> {
        match content {
            Content::Pieces(pieces) => {
                for bytes in bytes_of(pieces, part) {
                    self.send_bytes(exchange, bytes).await?;
                }
                Ok(())
            }
            Content::Pages(run) if pages::is_moved(exchange, &part) => {
                flush(exchange, &mut self.paced, &mut self.output, &mut self.framing).await?;
                let mut uptake = Uptake::new(exchange, exchange.site.config.bounds.idle);
                pages::send(exchange, &mut uptake, run, part).await
            }
            Content::Pages(run) => {
                self.send_bytes(exchange, run.get(part.start as usize..part.end as usize).unwrap_or_default()).await
            }
            Content::Disk(body) => {
                // By itself: where the disk fails, what comes instead goes on behind it.
                flush(exchange, &mut self.paced, &mut self.output, &mut self.framing).await?;
                disk::Sending::new(exchange, body).send(exchange, part).await
            }
            Content::Small(_) | Content::Slices(_) => Err(Reason::FileUnreadable),
        }
    }

    async fn send_bytes(&mut self, exchange: &mut Exchange<'_>, bytes: &[u8]) -> Result<(), Reason> {
        if self.output.len() + bytes.len() <= COPY_BYTES {
            self.output.extend_from_slice(bytes);
            return Ok(());
        }
        flush(exchange, &mut self.paced, &mut self.output, &mut self.framing).await?;
        bandwidth::write_all(exchange, &mut self.paced, bytes, 0).await
    }

    /// A slice: from memory or from disk, or on its way with its head here.
    async fn get(&mut self, exchange: &mut Exchange<'_>, number: u64) -> Result<Got, Waited> {
        let caching = self.source.caching;
        let mut coming = self.ahead.take_if(|(ahead, _)| *ahead == number).map(|(_, reader)| reader);
        let (key, bytes) = (self.key(number), self.slices.range(number).map_or(0, |range| range.length()));
        'tries: for tried in 0..CACHE_TRIES {
            if coming.is_none() {
                if let Some(entry) = caching.cache.slice(caching.volume.as_ref(), key, bytes).await {
                    return Ok(Got::Stored(entry));
                }
                coming = self.join(exchange, number, tried == 0);
            }
            let Some(reader) = coming.take() else { continue };
            loop {
                match wait_for_first(exchange, &reader).await {
                    Ok(First::Interim(_)) => {}
                    Ok(First::Head(_)) => return Ok(Got::Coming(reader)),
                    // What somebody else is refused says nothing of this client.
                    Err(waited) if !reader.is_asker() && is_of_another(&waited) => continue 'tries,
                    Err(waited) => return Err(waited),
                }
            }
        }
        Err(Waited::Alone)
    }

    /// Has the next slice fetched while this one is sent.
    fn read_ahead(&mut self, exchange: &Exchange<'_>, number: u64) {
        if self.ahead.as_ref().is_none_or(|(ahead, _)| *ahead != number) {
            self.ahead = self.join(exchange, number, true).map(|reader| (number, reader));
        }
    }

    /// The fetch of a slice, that of another client or a new one. `None`: it is there, where that `counts`.
    fn join(&self, exchange: &Exchange<'_>, number: u64, counts: bool) -> Option<Reader> {
        let Source { route, pool, caching, asked } = self.source;
        let volume = caching.cache.volume(caching.volume.as_ref());
        let key = self.key(number);
        match caching.cache.join_slice(volume.as_ref(), key, counts)? {
            Joined::Alone => None,
            Joined::Waiting(reader, _) => Some(reader),
            Joined::Fetching(reader, writer) => {
                let portion = Portion::Slice(number, Arc::clone(self.slices), Arc::clone(self.response));
                let slot = Slot { key, generation: None };
                let wanted = fetch::part(exchange, route, caching, asked, (slot, portion));
                fetch::begin(exchange, route, pool, wanted, writer);
                Some(reader)
            }
        }
    }

    fn key(&self, number: u64) -> sumun_store::Key {
        self.source.caching.cache.slice_key(self.slices, number)
    }

    /// The first slice that is needed and not there. Of very many only those at the beginning are looked at.
    fn first_missing(&self, part: &Part) -> Option<u64> {
        let cache = &self.source.caching.cache;
        let volume = cache.volume(self.source.caching.volume.as_ref());
        let numbers = ranges_of(part, self.slices.length)
            .into_iter()
            .flat_map(|range| self.slices.number_at(range.first)..=self.slices.number_at(range.last));
        numbers.take(CACHE_SLICES_LOOK).find(|number| !cache.has_slice(volume.as_ref(), self.key(*number)))
    }
}

/// What came of a request says so much of another client's.
fn is_of_another(waited: &Waited) -> bool {
    match waited {
        Waited::Alone => true,
        Waited::Failed(reason) => reason.side() != Side::Client && *reason != Reason::Deadline,
        Waited::Again => false,
    }
}

/// The bytes that are sent, in their order.
fn ranges_of(part: &Part, length: u64) -> Vec<ByteRange> {
    match part {
        Part::Nothing => Vec::new(),
        Part::Whole => Vec::from_iter((length > 0).then(|| ByteRange { first: 0, last: length - 1 })),
        Part::One(range) => vec![*range],
        Part::Many(ranges, ..) => ranges.clone(),
    }
}
