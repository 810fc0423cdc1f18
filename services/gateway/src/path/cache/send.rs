//! Stored responses on their way to the client, and those that still come.

mod disk;
mod pages;
mod slices;

use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use sumun_engine::pace::DOWN;
use sumun_http::cache::Unstorable;
use sumun_http::cache::status::{CacheStatus, Forwarded};
use sumun_http::conditional::{self, Conditions, Decision};
use sumun_http::forward::{ConnectionLine, write_connection_line, write_hsts};
use sumun_http::range::{self, ByteRange, Multipart, Selection};
use sumun_http::{Known, Method, Version, chunked, date};
use sumun_store::{Ended as Over, Next};

use super::super::bandwidth::{self, Paced};
use super::super::uptake::Uptake;
use super::super::{Ended, Exchange, answer, proxy};
use crate::cache::{Caching, Content, Entry, Failed, Head, Reader, Response, Slot, Stored};
use crate::events::Reason;
use crate::http2::text;
use crate::io::Gone;
use crate::limits::{CACHE_RANGE_AHEAD, CACHE_READ_WAIT, COPY_BYTES};
use crate::site::Route;

pub(super) use slices::{Source, arriving as arriving_slices, stored as stored_slices};

/// Pieces handed to the kernel in one write.
const GATHER: usize = 16;

/// What of a response the client gets.
enum Part {
    /// The head alone.
    Nothing,
    Whole,
    One(ByteRange),
    Many(Vec<ByteRange>, Multipart, Vec<u8>),
}

/// How a response is given out.
struct Plan<'a> {
    status: u16,
    part: Part,
    /// Of the whole; `None`: not known yet.
    length: Option<u64>,
    /// `None`: it comes from the server right now.
    age_s: Option<u64>,
    cache_status: CacheStatus,
    /// For whoever asked, alone.
    asker_lines: &'a [u8],
}

impl<'a> Plan<'a> {
    /// What conditions and ranges leave of a response (RFC 9110 sections 13 and 14).
    fn of(
        exchange: &Exchange<'_>,
        response: Head<'_>,
        length: Option<u64>,
        cache_status: CacheStatus,
        age_s: Option<u64>,
    ) -> Self {
        let head = exchange.head;
        let whole = if head.method == Method::Head { Part::Nothing } else { Part::Whole };
        let mut plan = Self { status: response.status, part: whole, length, age_s, cache_status, asker_lines: b"" };
        // Conditions are about what would be a 2xx, ranges about a 200.
        if response.status != 200 || !has_conditions(exchange) {
            return plan;
        }
        match decide(exchange, response) {
            Decision::Proceed => {}
            Decision::NotModified => (plan.status, plan.part) = (304, Part::Nothing),
            Decision::PreconditionFailed => (plan.status, plan.part, plan.length) = (412, Part::Nothing, Some(0)),
        }
        if let (Part::Whole, Some(length)) = (&plan.part, length) {
            plan.select(exchange, response, length);
        }
        plan
    }

    /// What of the body comes in one piece.
    fn range(&self) -> Range<u64> {
        match &self.part {
            Part::Whole => 0..self.length.unwrap_or_default(),
            Part::One(range) => range.first..range.last + 1,
            Part::Nothing | Part::Many(..) => 0..0,
        }
    }

    fn select(&mut self, exchange: &Exchange<'_>, response: Head<'_>, length: u64) {
        let Some(value) = exchange.head.known(exchange.bytes, Known::Range) else { return };
        let now_s = exchange.worker.clock.unix_seconds();
        let if_range = exchange.head.known(exchange.bytes, Known::IfRange);
        if if_range.is_some_and(|value| !conditional::if_range_holds(value, &response.validators(), now_s)) {
            return;
        }
        match range::select(value, length) {
            Selection::Whole => {}
            Selection::One(one) => (self.status, self.part) = (206, Part::One(one)),
            Selection::Unsatisfiable => (self.status, self.part) = (416, Part::Nothing),
            Selection::Many(ranges) => {
                let boundary: Vec<u8> = std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(24).collect();
                let content_type = response.value("content-type").unwrap_or(b"application/octet-stream");
                let frames = range::multipart(&ranges, length, content_type, &boundary);
                (self.status, self.part) = (206, Part::Many(ranges, frames, boundary));
            }
        }
    }

    /// Appends the head. `is_chunked`: the body's end is not known.
    fn write_head(
        &self,
        output: &mut Vec<u8>,
        exchange: &Exchange<'_>,
        route: &Route,
        response: Head<'_>,
        is_chunked: bool,
    ) {
        let mut digits = itoa::Buffer::new();
        for part in
            [b"HTTP/1.1 ", digits.format(self.status).as_bytes(), b" ", answer::phrase(self.status).as_bytes(), b"\r\n"]
        {
            output.extend_from_slice(part);
        }
        let start = output.len();
        self.write_lines(output, response, exchange.hsts().is_some());
        output.extend_from_slice(self.asker_lines);
        if let Some(age_s) = self.age_s {
            for part in [b"Age: ", digits.format(age_s).as_bytes(), b"\r\n"] {
                output.extend_from_slice(part);
            }
        }
        output.extend_from_slice(b"Cache-Status: ");
        self.cache_status.write(output);
        output.extend_from_slice(b"\r\n");
        route.response_edits.apply(output, start);
        self.write_framing(output, exchange, is_chunked);
        output.extend_from_slice(&exchange.own_fields);
        write_hsts(output, exchange.hsts(), &route.response_edits);
        write_connection_line(output, ConnectionLine::of(exchange.keep_alive, exchange.head.version));
        output.extend_from_slice(b"\r\n");
    }

    fn write_lines(&self, output: &mut Vec<u8>, response: Head<'_>, has_own_hsts: bool) {
        // Others say what is here, or what the whole is.
        let is_left_out: fn(&[u8]) -> bool = match (self.status, &self.part) {
            _ if self.status == response.status && has_own_hsts && response.has_hsts => {
                |name| name.eq_ignore_ascii_case(b"strict-transport-security")
            }
            _ if self.status == response.status => {
                output.extend_from_slice(response.lines);
                return;
            }
            (206, Part::Many(..)) => |name| name.eq_ignore_ascii_case(b"content-type"),
            (304, _) => |name| {
                let is_of_content = name.len() > 8 && name[..8].eq_ignore_ascii_case(b"content-");
                is_of_content && !name.eq_ignore_ascii_case(b"content-location")
            },
            (412 | 416, _) => |name| !name.eq_ignore_ascii_case(b"date") && !name.eq_ignore_ascii_case(b"etag"),
            _ => |_| false,
        };
        for (name, value) in text::fields(response.lines).filter(|(name, _)| !is_left_out(name)) {
            for part in [name, b": ", value, b"\r\n"] {
                output.extend_from_slice(part);
            }
        }
    }

    fn write_framing(&self, output: &mut Vec<u8>, exchange: &Exchange<'_>, is_chunked: bool) {
        let length = match &self.part {
            Part::One(range) => {
                output.extend_from_slice(b"Content-Range: ");
                range::write_content_range(*range, self.length.unwrap_or_default(), output);
                output.extend_from_slice(b"\r\n");
                Some(range.length())
            }
            Part::Many(_, frames, boundary) => {
                output.extend_from_slice(b"Content-Type: multipart/byteranges; boundary=");
                output.extend_from_slice(boundary);
                output.extend_from_slice(b"\r\n");
                Some(frames.length)
            }
            Part::Nothing if self.status == 416 => {
                output.extend_from_slice(b"Content-Range: ");
                range::write_unsatisfied_range(self.length.unwrap_or_default(), output);
                output.extend_from_slice(b"\r\n");
                Some(0)
            }
            Part::Nothing if self.status == 304 => None,
            Part::Nothing | Part::Whole => self.length.filter(|_| !matches!(self.status, 204 | 304)),
        };
        if let Some(length) = length {
            for part in [b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"] {
                output.extend_from_slice(part);
            }
        } else if is_chunked && exchange.head.method != Method::Head {
            output.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
    }
}

fn has_conditions(exchange: &Exchange<'_>) -> bool {
    // Requests with others go past.
    const FIELDS: [Known; 3] = [Known::Range, Known::IfNoneMatch, Known::IfModifiedSince];
    FIELDS.iter().any(|known| exchange.head.has(*known))
}

fn decide(exchange: &Exchange<'_>, response: Head<'_>) -> Decision {
    let (head, bytes) = (exchange.head, exchange.bytes);
    let joined = |known: Known| {
        let values: Vec<&[u8]> =
            head.fields.iter().filter(|field| field.known == known).map(|field| field.value.of_bytes(bytes)).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    };
    let (if_match, if_none_match) = (joined(Known::IfMatch), joined(Known::IfNoneMatch));
    let conditions = Conditions {
        if_match: if_match.as_deref(),
        if_none_match: if_none_match.as_deref(),
        if_modified_since: head.known(bytes, Known::IfModifiedSince),
        if_unmodified_since: head.known(bytes, Known::IfUnmodifiedSince),
    };
    let mut validators = response.validators();
    if validators.last_modified.is_none() && head.has(Known::IfModifiedSince) {
        // RFC 9111 section 4.3.2.
        validators.last_modified = response.value("date").and_then(date::parse);
    }
    conditional::evaluate(head.method.as_str(), Some(&validators), &conditions)
}

/// Why nothing of what is stored was sent.
pub(super) enum NotSent {
    /// It is not there any more.
    Gone,
    /// The disk has too much to do.
    Late,
}

/// Gives out what is stored there.
pub(super) async fn stored(
    exchange: &mut Exchange<'_>,
    route: &Route,
    caching: &Caching,
    (slot, entry): (Slot, &Arc<Entry>),
    stored: &Stored,
) -> Result<Ended, NotSent> {
    let now_s = exchange.worker.clock.unix_seconds();
    let cache_status = CacheStatus::Hit { ttl_s: stored.validity.ttl_s(now_s) };
    let age_s = Some(stored.validity.age_s(now_s));
    let head = stored.head();
    let plan = Plan::of(exchange, head, Some(stored.length()), cache_status, age_s);
    let sent = match stored.content() {
        Content::Small(body) => send_whole(exchange, route, head, &plan, &[body]).await,
        Content::Pieces(pieces) => {
            let sent = send_whole(exchange, route, head, &plan, pieces).await;
            if sent.is_ok() && pages::is_moved(exchange, &plan.range()) {
                caching.cache.heat(slot.key, entry);
            }
            sent
        }
        Content::Pages(run) => pages::send_whole(exchange, route, head, &plan, run).await,
        Content::Disk(body) => Box::pin(disk::send_whole(exchange, route, head, &plan, body)).await?,
        // These have a way of their own.
        Content::Slices(_) => return Err(NotSent::Gone),
    };
    Ok(over(exchange, sent))
}

/// A request for a range is better sent to a server by itself than made to wait; and why its answer is not kept.
pub(super) fn is_better_asked_for(
    exchange: &Exchange<'_>,
    caching: &Caching,
    reader: &Reader,
    response: &Response,
) -> Option<Option<Unstorable>> {
    // What is not kept would be thrown away up to the part.
    if let Err(unstorable) = response.stored {
        return Some(Some(unstorable));
    }
    let length = response.length?;
    let mut plan = Plan {
        status: response.status,
        part: Part::Whole,
        length: None,
        age_s: None,
        cache_status: CacheStatus::Hit { ttl_s: 0 },
        asker_lines: b"",
    };
    plan.select(exchange, response.head(), length);
    let is_better = match &plan.part {
        Part::One(range) => range.first > reader.arrived() + CACHE_RANGE_AHEAD,
        // Parts in any order are put together in memory.
        Part::Many(..) => length > caching.cache.memory_max(),
        Part::Nothing | Part::Whole => false,
    };
    is_better.then_some(None)
}

fn over(exchange: &mut Exchange<'_>, sent: Result<(), Reason>) -> Ended {
    match sent {
        Ok(()) => Ended::new(Reason::Done, exchange.keep_alive),
        Err(reason) => Ended::aborted(reason),
    }
}

/// The head, and what the plan says of a body that is all here.
async fn send_whole<P: AsRef<[u8]>>(
    exchange: &mut Exchange<'_>,
    route: &Route,
    response: Head<'_>,
    plan: &Plan<'_>,
    body: &[P],
) -> Result<(), Reason> {
    begin(exchange, plan.status);
    let mut paced = Paced::new(exchange, DOWN);
    if let Part::Many(ranges, frames, _) = &plan.part {
        let mut head = Vec::new();
        plan.write_head(&mut head, exchange, route, response, false);
        bandwidth::write_all(exchange, &mut paced, &head, head.len()).await?;
        for (range, frame) in ranges.iter().zip(&frames.heads) {
            bandwidth::write_all(exchange, &mut paced, frame, 0).await?;
            for slice in slices(body, range.first..range.last + 1) {
                bandwidth::write_all(exchange, &mut paced, slice, 0).await?;
            }
        }
        return bandwidth::write_all(exchange, &mut paced, &frames.end, 0).await;
    }
    let range = plan.range();
    if paced.is_on() {
        let mut head = Vec::new();
        plan.write_head(&mut head, exchange, route, response, false);
        bandwidth::write_all(exchange, &mut paced, &head, head.len()).await?;
        for slice in slices(body, range) {
            bandwidth::write_all(exchange, &mut paced, slice, 0).await?;
        }
        return Ok(());
    }
    send_at_once(exchange, route, response, plan, body, range).await
}

/// Head and body in as few writes as the client takes; a small body is copied behind the head.
async fn send_at_once<P: AsRef<[u8]>>(
    exchange: &mut Exchange<'_>,
    route: &Route,
    response: Head<'_>,
    plan: &Plan<'_>,
    body: &[P],
    range: Range<u64>,
) -> Result<(), Reason> {
    let length = range.end - range.start;
    let copies = length <= COPY_BYTES as u64;
    // What is not sent yet of the head, once the first write has not taken all of it.
    let mut head: Option<Vec<u8>> = None;
    let mut sent = 0;
    let mut uptake: Option<Uptake> = None;
    poll_fn(|context| {
        loop {
            let (polled, total) = if let Some(head) = &head {
                let rest_of_head = head.get(sent..).unwrap_or_default();
                let of_body = (sent.saturating_sub(head.len())) as u64;
                let rest = if copies { 0..0 } else { range.start + of_body..range.end };
                let total = if copies { head.len() } else { head.len() + length as usize };
                (write_parts(exchange, context, rest_of_head, slices(body, rest)), total)
            } else {
                proxy::with_scratch(|scratch| {
                    plan.write_head(scratch, exchange, route, response, false);
                    let polled = if copies {
                        slices(body, range.clone()).for_each(|slice| scratch.extend_from_slice(slice));
                        exchange.stream.poll_write(context, scratch)
                    } else {
                        write_parts(exchange, context, scratch, slices(body, range.clone()))
                    };
                    let total = if copies { scratch.len() } else { scratch.len() + length as usize };
                    if !matches!(polled, Poll::Ready(Ok(count)) if count == total) {
                        head = Some(scratch.clone());
                    }
                    (polled, total)
                })
            };
            match polled {
                Poll::Ready(Ok(count)) if count > 0 => {
                    sent += count;
                    if sent >= total {
                        exchange.record.bytes_out += length;
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Err(Reason::ClientClosed)),
                Poll::Pending => {
                    let idle = exchange.site.config.bounds.idle;
                    let uptake = uptake.get_or_insert_with(|| Uptake::new(exchange, idle));
                    uptake.sent = sent as u64;
                    let goes_on = uptake.awaits_client(exchange) && !exchange.is_over_limit();
                    return if goes_on { Poll::Pending } else { Poll::Ready(Err(Reason::ClientStalled)) };
                }
            }
        }
    })
    .await
}

fn write_parts<'a>(
    exchange: &mut Exchange<'_>,
    context: &mut std::task::Context<'_>,
    head: &'a [u8],
    body: impl Iterator<Item = &'a [u8]>,
) -> Poll<std::io::Result<usize>> {
    let mut parts = [IoSlice::new(&[]); GATHER];
    let mut count = 0;
    let all = std::iter::once(head).filter(|head| !head.is_empty()).chain(body);
    for (part, bytes) in parts.iter_mut().zip(all) {
        *part = IoSlice::new(bytes);
        count += 1;
    }
    exchange.stream.poll_write_vectored(context, &parts[..count])
}

/// The bytes of a range, as they lie in the pieces.
fn slices<P: AsRef<[u8]>>(pieces: &[P], range: Range<u64>) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    pieces.iter().filter_map(move |piece| {
        let (begin, piece) = (at, piece.as_ref());
        at += piece.len() as u64;
        let from = range.start.max(begin).min(at) - begin;
        let to = range.end.max(begin).min(at) - begin;
        piece.get(from as usize..to as usize).filter(|slice| !slice.is_empty())
    })
}

fn begin(exchange: &mut Exchange<'_>, status: u16) {
    exchange.record.status = status;
    // A drain may have begun while the request waited (RFC 9112 section 9.6).
    exchange.keep_alive &= !exchange.worker.is_draining();
    exchange.set_deadline(exchange.site.config.bounds.idle);
}

/// Gives out what `reader` reads, as it comes.
pub(super) async fn arriving(
    exchange: &mut Exchange<'_>,
    route: &Route,
    reader: Reader,
    response: &Response,
    why: Forwarded,
) -> Ended {
    // For whoever asked it is as old as it was when it came.
    let now_s = if reader.is_asker() { response.answered_s } else { exchange.worker.clock.unix_seconds() };
    let age_s = Some(response.validity.age_s(now_s)).filter(|age_s| *age_s > 0);
    let cache_status = CacheStatus::Forwarded {
        why,
        status: response.server_status,
        stored: response.stored,
        collapsed: !reader.is_asker(),
    };
    let head = response.head();
    let mut plan = Plan::of(exchange, head, response.length, cache_status, age_s);
    if reader.is_asker() {
        plan.asker_lines = &response.asker_lines;
    }
    begin(exchange, plan.status);
    let (from, mut left) = match &plan.part {
        Part::Nothing => (0, Some(0)),
        Part::Whole => (0, plan.length),
        Part::One(range) => (range.first, Some(range.length())),
        Part::Many(..) => {
            // Parts in any order need all of it.
            let sent = match collect(exchange, &reader).await {
                Ok(body) => send_whole(exchange, route, head, &plan, &body).await,
                Err(reason) => return answer::of_reason(exchange, reason).await,
            };
            return over(exchange, sent);
        }
    };
    let is_chunked = left.is_none() && exchange.head.version != Version::Http10;
    if left.is_none() && !is_chunked {
        // A 1.0 client knows no chunks: the end of the connection is the end of the body.
        exchange.keep_alive = false;
    }
    let mut output = Vec::with_capacity(1024);
    plan.write_head(&mut output, exchange, route, head, is_chunked);
    if from > 0 {
        reader.skip_to(from);
    }
    let sent = copy(exchange, &reader, &mut output, &mut left, is_chunked).await;
    over(exchange, sent)
}

/// Writes `head`, and what comes, as much as is `left`.
async fn copy(
    exchange: &mut Exchange<'_>,
    reader: &Reader,
    output: &mut Vec<u8>,
    left: &mut Option<u64>,
    is_chunked: bool,
) -> Result<(), Reason> {
    let mut paced = Paced::new(exchange, DOWN);
    let mut head = output.len();
    while *left != Some(0) {
        // What is here goes out with the head, and waiting is for who has nothing to write.
        let Some(next) = next(exchange, reader, !output.is_empty()).await else {
            flush(exchange, &mut paced, output, &mut head).await?;
            continue;
        };
        let piece = match next {
            Next::Piece(piece) => piece,
            Next::OnDisk(body, at) => {
                flush(exchange, &mut paced, output, &mut head).await?;
                let piece = disk::read(&body, at, CACHE_READ_WAIT).await?;
                reader.skip_to(at + piece.len() as u64);
                piece
            }
            Next::Ended(Over::Complete) if left.is_none() => {
                if is_chunked {
                    head += 5;
                    output.extend_from_slice(b"0\r\n\r\n");
                }
                break;
            }
            Next::Ended(Over::Complete) => return Err(Reason::ServerCutShort),
            Next::Ended(Over::Failed(failed)) => {
                flush(exchange, &mut paced, output, &mut head).await.ok();
                return Err(failed.reason());
            }
        };
        let most = left.map_or(piece.len(), |left| piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let bytes = piece.get(..most).unwrap_or_default();
        if bytes.is_empty() {
            continue;
        }
        *left = left.map(|left| left - bytes.len() as u64);
        if is_chunked {
            let before = output.len();
            chunked::begin_chunk(output, bytes.len());
            head += output.len() - before + 2;
        }
        if output.len() + bytes.len() <= COPY_BYTES {
            output.extend_from_slice(bytes);
        } else {
            flush(exchange, &mut paced, output, &mut head).await?;
            bandwidth::write_all(exchange, &mut paced, bytes, 0).await?;
        }
        if is_chunked {
            output.extend_from_slice(b"\r\n");
        }
    }
    flush(exchange, &mut paced, output, &mut head).await
}

/// Writes what is put together; `head` bytes of it are none of the body.
async fn flush(
    exchange: &mut Exchange<'_>,
    paced: &mut Paced,
    output: &mut Vec<u8>,
    head: &mut usize,
) -> Result<(), Reason> {
    let framing = (*head).min(output.len());
    bandwidth::write_all(exchange, paced, output, framing).await?;
    output.clear();
    *head = 0;
    Ok(())
}

/// What comes next; `None`: nothing now, where `is_busy` says that there is something else to do.
async fn next(exchange: &mut Exchange<'_>, reader: &Reader, is_busy: bool) -> Option<Next<Failed>> {
    let mut watching = true;
    exchange.deadline.set_at(exchange.limit_ms);
    poll_fn(|context| match reader.poll_piece(context) {
        Poll::Ready(next) => Poll::Ready(Some(next)),
        Poll::Pending if is_busy => Poll::Ready(None),
        Poll::Pending => {
            if watching {
                match exchange.stream.poll_gone(context) {
                    Poll::Ready(Gone::Yes) => {
                        return Poll::Ready(Some(Next::Ended(Over::Failed(Failed::Reason(Reason::ClientClosed)))));
                    }
                    Poll::Ready(Gone::SendsNoMore | Gone::SentMore) => watching = false,
                    Poll::Pending => {}
                }
            }
            if exchange.is_over_limit() {
                return Poll::Ready(Some(Next::Ended(Over::Failed(Failed::Reason(Reason::Deadline)))));
            }
            Poll::Pending
        }
    })
    .await
}

/// All of a body.
async fn collect(exchange: &mut Exchange<'_>, reader: &Reader) -> Result<Vec<Bytes>, Reason> {
    let mut body = Vec::new();
    loop {
        match next(exchange, reader, false).await {
            Some(Next::Piece(piece)) => body.push(piece),
            Some(Next::OnDisk(disk, at)) => {
                let piece = disk::read(&disk, at, CACHE_READ_WAIT).await?;
                reader.skip_to(at + piece.len() as u64);
                body.push(piece);
            }
            Some(Next::Ended(Over::Complete)) | None => return Ok(body),
            Some(Next::Ended(Over::Failed(failed))) => return Err(failed.reason()),
        }
    }
}
