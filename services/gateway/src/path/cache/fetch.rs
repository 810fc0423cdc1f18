//! The request that fetches a response into the cache: a task of its own, so that it outlives whoever asked
//! first and is slowed down by nobody.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use sumun_engine::Worker;
use sumun_http::cache::Fields;
use sumun_http::field::Span;
use sumun_http::forward::Edits;
use sumun_http::limits::FIELDS_MAX;
use sumun_http::range::first_byte;
use sumun_http::{BodyLength, Field, Known};
use sumun_store::Writer;

use super::super::body::Body;
use super::super::{Exchange, Record, proxy, queue};
use super::Asked;
use crate::cache::{Arriving, Caching, Content, Entry, Failed, FillStream, Filling, Portion, Slot, Stored, Wanted};
use crate::client::ClientText;
use crate::events::Reason;
use crate::heads::HeadLease;
use crate::io::{Security, Stream};
use crate::site::{Route, Site};
use crate::upstream::LocalPool;

/// All that such a task needs.
struct Work {
    worker: Rc<Worker>,
    site: Rc<Site>,
    route: Rc<Route>,
    pool: Rc<LocalPool>,
    client: Option<SocketAddr>,
    client_text: ClientText,
    security: Option<Rc<Security>>,
    trusted: bool,
    extra_edits: Option<Edits>,
    /// The head of the request as it is to be asked.
    bytes: Vec<u8>,
    path: Vec<u8>,
    limit_ms: u64,
    filling: Filling,
}

/// What the request is to bring.
pub(super) fn wanted(
    exchange: &Exchange<'_>,
    route: &Route,
    caching: &Rc<Caching>,
    asked: &Asked,
    slot: Slot,
    old: Option<Arc<Entry>>,
) -> Wanted {
    // What is coded is not asked for any more where there are slices: it would be taken for what is not.
    let is_coded = |old: &Stored| {
        old.vary().split(|&byte| byte == b',').any(|name| name == b"accept-encoding")
            || old.head().value("content-encoding").is_some()
    };
    let is_usable =
        |old: &Arc<Entry>| !matches!(&**old, Entry::Stored(old) if caching.slice.is_some() && is_coded(old));
    let old = old.filter(is_usable);
    let portion = portion(exchange, caching, asked, slot, old.as_deref());
    Wanted { portion, old, ..part(exchange, route, caching, asked, (slot, Portion::Whole)) }
}

/// How much of what is there, if it is to be fetched in slices: the one that the client needs first.
fn portion(exchange: &Exchange<'_>, caching: &Caching, asked: &Asked, slot: Slot, old: Option<&Entry>) -> Portion {
    let Some(slice_bytes) = caching.slice else { return Portion::Whole };
    let is_large_whole = matches!(
        old, Some(Entry::Stored(old)) if !matches!(old.content(), Content::Slices(_)) && old.length() > slice_bytes
    );
    if is_large_whole || caching.cache.asks_whole(slot.key, exchange.worker.clock.unix_seconds()) {
        return Portion::Whole;
    }
    let range = exchange.head.known(exchange.bytes, Known::Range).filter(|_| !asked.from_start);
    Portion::First(range.and_then(first_byte).unwrap_or(0) / slice_bytes, slice_bytes)
}

/// What the request for one slice is to bring, in its own slot.
pub(super) fn part(
    exchange: &Exchange<'_>,
    route: &Route,
    caching: &Rc<Caching>,
    asked: &Asked,
    (slot, portion): (Slot, Portion),
) -> Wanted {
    // What ends here the server does not see: its answer is that for those who do not send it.
    let fields: Vec<Field> =
        exchange.head.fields.iter().filter(|field| !is_nominated(exchange, field)).cloned().collect();
    Wanted {
        caching: Rc::clone(caching),
        worker: Rc::clone(exchange.worker),
        url: asked.place().text.as_slice().into(),
        url_key: asked.place().key,
        whole_url: asked.whole.text.as_slice().into(),
        slot,
        bytes: exchange.bytes.to_vec(),
        fields,
        has_identity: has_identity(exchange, route),
        old: None,
        portion,
    }
}

/// The client has said that it is for the next one on the way alone (RFC 9110 section 7.6.1).
fn is_nominated(exchange: &Exchange<'_>, field: &Field) -> bool {
    let name = |span: &Span| span.of_bytes(exchange.bytes);
    exchange.head.nominated.iter().any(|nominated| name(nominated).eq_ignore_ascii_case(name(&field.name)))
}

/// The request carries who the client is, or what forward authentication or a certificate has told about it.
pub(super) fn has_identity(exchange: &Exchange<'_>, route: &Route) -> bool {
    exchange.head.has(Known::Authorization)
        || route.config.forward_auth.as_ref().is_some_and(|auth| !auth.copy.is_empty())
        || exchange.client_subject().is_some()
}

/// Has a response fetched, within all the time that the route has: who waits for it has a limit of its own.
pub(super) fn begin(
    exchange: &Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    wanted: Wanted,
    writer: Writer<Arriving, Failed>,
) {
    let of_route =
        route.config.deadline.map_or(u64::MAX, |limit| exchange.deadline.now_ms() + limit.as_millis() as u64);
    let filling = Filling::new(wanted, writer);
    let work = Work {
        worker: Rc::clone(exchange.worker),
        site: Rc::clone(exchange.site),
        route: Rc::clone(route),
        pool: Rc::clone(pool),
        client: exchange.client,
        client_text: *exchange.client_text,
        security: exchange.stream.security(),
        trusted: exchange.trusted,
        extra_edits: exchange.extra_edits.clone(),
        bytes: write_head(exchange, filling.wanted()),
        path: exchange.path.to_vec(),
        limit_ms: of_route,
        filling,
    };
    tokio::task::spawn_local(run(work));
}

/// The client's request, for what is wanted of what it names: without its conditions and ranges, with those of
/// what is stored.
fn write_head(exchange: &Exchange<'_>, wanted: &Wanted) -> Vec<u8> {
    let caching = &wanted.caching;
    let mut out = Vec::with_capacity(exchange.bytes.len() + 128);
    out.extend_from_slice(b"GET ");
    out.extend_from_slice(exchange.path);
    caching.urls.write_query(exchange.head.query.map(|span| span.of_bytes(exchange.bytes)), &mut out);
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend(exchange.head.host_value(exchange.bytes).iter().map(u8::to_ascii_lowercase));
    out.extend_from_slice(b"\r\n");
    let range = wanted.portion.range();
    // What is coded on the way differs from one answer to the next: its parts do not fit together.
    let has_identity_coding = range.is_some() || caching.slice.is_some();
    let is_dropped = |known: Known| match known {
        Known::Host
        | Known::Range
        | Known::IfRange
        | Known::IfMatch
        | Known::IfNoneMatch
        | Known::IfModifiedSince
        | Known::IfUnmodifiedSince
        | Known::Expect
        | Known::Te
        | Known::ContentLength
        | Known::TransferEncoding
        | Known::Connection
        | Known::KeepAlive
        | Known::ProxyConnection
        | Known::Upgrade
        | Known::Trailer
        | Known::SecWebSocketKey => true,
        Known::Cookie => caching.drops_cookies,
        Known::AcceptEncoding => has_identity_coding,
        _ => false,
    };
    let fields = Fields { bytes: exchange.bytes, fields: &exchange.head.fields };
    let is_passed_on =
        |field: &&Field| !field.name.is_empty() && !is_dropped(field.known) && !is_nominated(exchange, field);
    for field in fields.fields.iter().filter(is_passed_on) {
        for part in [field.name.of_bytes(fields.bytes), b": ", field.value.of_bytes(fields.bytes), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    let mut write = |name: &[u8], value: &[u8]| {
        if !value.is_empty() {
            for part in [name, value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    };
    if has_identity_coding {
        write(b"Accept-Encoding: ", b"identity");
    }
    if let Some(range) = range {
        let mut digits = itoa::Buffer::new();
        let first = digits.format(range.first).as_bytes().to_vec();
        write(b"Range: bytes=", &[&first, &b"-"[..], digits.format(range.last).as_bytes()].concat());
    }
    if let Portion::Slice(_, _, response) = &wanted.portion {
        let response = response.head();
        let tag = Some(response.etag()).filter(|tag| !tag.is_empty());
        write(b"If-Range: ", tag.or_else(|| response.value("last-modified")).unwrap_or_default());
    }
    if let Some(Entry::Stored(old)) = wanted.old.as_deref() {
        let (old, modified) = (old.head(), old.head().value("last-modified"));
        for (name, value) in
            [(&b"If-None-Match: "[..], old.etag()), (b"If-Modified-Since: ", modified.unwrap_or_default())]
        {
            write(name, value);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

async fn run(work: Work) {
    let Work {
        worker,
        site,
        route,
        pool,
        client,
        client_text,
        security,
        trusted,
        extra_edits,
        bytes,
        path,
        limit_ms,
        filling,
    } = work;
    let deadline = worker.deadlines.enter().await;
    let mut head = HeadLease::take();
    if !matches!(head.parse(&bytes, FIELDS_MAX), Ok(Some(_))) {
        return filling.finish(Err(Reason::ServerProtocol)).await;
    }
    let mut stream = Stream::Fill(Box::new(FillStream::new(filling)));
    let mut exchange = Exchange {
        stream: &mut stream,
        deadline: &deadline,
        worker: &worker,
        site: &site,
        client,
        client_text: &client_text,
        security: security.as_deref(),
        trusted,
        head: &head,
        bytes: &bytes,
        arrived: b"",
        path: &path,
        limit_ms,
        keep_alive: true,
        record: Record { start_us: worker.clock.now_us(), ..Record::default() },
        leftover: None,
        used: 0,
        extra_edits,
        places: queue::Places::default(),
        own_pace: None,
        pace: None,
        websocket_key: None,
        own_fields: Vec::new(),
    };
    let asked = match Body::begin(BodyLength::None, b"", 0, &[]) {
        Ok(mut body) => proxy::ask(&mut exchange, &route, &pool, &mut body).await,
        Err(_) => Err(Reason::ServerProtocol),
    };
    let ended = match asked {
        Ok(ended) if ended.reason == Reason::Done => Ok(()),
        Ok(ended) => Err(ended.reason),
        Err(reason) => Err(reason),
    };
    drop(exchange);
    if let Stream::Fill(fill) = stream {
        fill.into_filling().finish(ended).await;
    }
}
