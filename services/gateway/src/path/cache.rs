//! A request on a route that caches: what it gets from the table, whom it waits for, what goes past.

mod fetch;
mod send;

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use sumun_http::cache::status::{CacheStatus, Forwarded};
use sumun_http::cache::{Fields, RequestControl, Unstorable, Use, invalidates, same_origin_path};
use sumun_http::{Known, Method, ResponseHead, Version, target};
use sumun_store::{First, NoHead};

use self::send::NotSent;
use super::{Ended, Exchange, answer, proxy};
use crate::cache::{
    self, Arriving, Caching, Content, Entry, Failed, Found, Joined, Place, Reader, Response, Slot, Stored,
};
use crate::events::Reason;
use crate::io::{self, Gone};
use crate::limits::CACHE_TRIES;
use crate::site::Route;
use crate::upstream::LocalPool;

/// What is asked for, in the cache's terms.
struct Asked {
    whole: Place,
    /// Cut down to what counts, where the server has said that.
    cut: Option<Place>,
    control: RequestControl,
    /// Of slices, the first is asked for, whatever range the client wants.
    from_start: bool,
}

impl Asked {
    /// Where it is looked for.
    fn place(&self) -> &Place {
        self.cut.as_ref().unwrap_or(&self.whole)
    }
}

/// Serves one request from the cache, or from `pool` through it.
pub(super) async fn serve(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    caching: &Rc<Caching>,
) -> Ended {
    let asked = match ask(exchange, caching) {
        Ok(asked) => asked,
        Err(why) => return Box::pin(past(exchange, route, pool, (why, None))).await,
    };
    let mut found = find(exchange, caching, &asked);
    if let Found::Stored(slot, entry) = &found
        && let Some(stored) = given_out(exchange, route, pool, caching, (*slot, entry, &asked))
    {
        if let Content::Slices(slices) = stored.content() {
            let source = send::Source { route, pool, caching, asked: &asked };
            if let Some(ended) = Box::pin(send::stored_slices(exchange, &source, stored, slices)).await {
                return ended;
            }
            found = find(exchange, caching, &asked);
        } else {
            match send::stored(exchange, route, caching, (*slot, entry), stored).await {
                Ok(ended) => return ended,
                Err(NotSent::Late) => return Box::pin(past(exchange, route, pool, (Forwarded::UriMiss, None))).await,
                Err(NotSent::Gone) => caching.cache.drop_entry(*slot, entry),
            }
            found = Found::Nothing(*slot);
        }
    }
    // All else may take long. Boxed, as its future is large and most requests come no further.
    Box::pin(serve_through(exchange, route, pool, caching, (asked, found))).await
}

fn find(exchange: &Exchange<'_>, caching: &Caching, asked: &Asked) -> Found {
    let now_s = exchange.worker.clock.unix_seconds();
    let fields = Fields { bytes: exchange.bytes, fields: &exchange.head.fields };
    let find = |place: &Place| caching.cache.find(place.key, now_s, |names| cache::selection(caching, fields, names));
    let found = find(asked.place());
    if asked.cut.is_none() || !matches!(found, Found::Nothing(_)) {
        return found;
    }
    // What the word of the server does not hold for, such as an error.
    match find(&asked.whole) {
        Found::Stored(_, entry) if !entry.is_fresh(now_s) => found,
        Found::Nothing(_) => found,
        of_whole => of_whole,
    }
}

/// What disk has where memory has nothing.
async fn find_on_disk(exchange: &Exchange<'_>, caching: &Caching, slot: Slot) -> Found {
    let Some(volume) = &caching.volume else { return Found::Nothing(slot) };
    let now_s = exchange.worker.clock.unix_seconds();
    let fields = Fields { bytes: exchange.bytes, fields: &exchange.head.fields };
    caching.cache.find_on_disk(volume, slot, now_s, |names| cache::selection(caching, fields, names)).await
}

/// What is stored under a key, if it is given out as it is; where it is stale, it is fetched anew behind that.
fn given_out<'a>(
    exchange: &Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    caching: &Rc<Caching>,
    (slot, entry, asked): (Slot, &'a Arc<Entry>, &Asked),
) -> Option<&'a Stored> {
    let Entry::Stored(stored) = &**entry else { return None };
    // It is a hit if they are there.
    let is_sliced = matches!(stored.content(), Content::Slices(_));
    match stored.validity.use_now(exchange.worker.clock.unix_seconds()) {
        Use::Fresh => {
            if !is_sliced {
                caching.cache.counts.hits.fetch_add(1, Relaxed);
            }
            Some(stored)
        }
        Use::WhileRevalidating => {
            if !is_sliced {
                caching.cache.counts.stale_hits.fetch_add(1, Relaxed);
            }
            if let Some(writer) = caching.cache.renew(slot.key) {
                let wanted = fetch::wanted(exchange, route, caching, asked, slot, Some(Arc::clone(entry)));
                fetch::begin(exchange, route, pool, wanted, writer);
            }
            Some(stored)
        }
        Use::Revalidate => None,
    }
}

/// Waits for what is being fetched, or has it fetched, or goes past.
async fn serve_through(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    caching: &Rc<Caching>,
    (mut asked, first): (Asked, Found),
) -> Ended {
    // It would wait for itself.
    if let Some(ended) = proxy::refuse_loop(exchange).await {
        return ended;
    }
    let counts = &caching.cache.counts;
    let mut next = Some(first);
    for _ in 0..CACHE_TRIES {
        let found = next.take().unwrap_or_else(|| find(exchange, caching, &asked));
        let found = match found {
            Found::Nothing(slot) => find_on_disk(exchange, caching, slot).await,
            found => found,
        };
        let (slot, old, why) = match found {
            Found::Stored(slot, entry) => {
                if let Some(stored) = given_out(exchange, route, pool, caching, (slot, &entry, &asked)) {
                    if let Content::Slices(slices) = stored.content() {
                        let source = send::Source { route, pool, caching, asked: &asked };
                        match send::stored_slices(exchange, &source, stored, slices).await {
                            Some(ended) => return ended,
                            None => continue,
                        }
                    }
                    match send::stored(exchange, route, caching, (slot, &entry), stored).await {
                        Ok(ended) => return ended,
                        Err(NotSent::Late) => break,
                        Err(NotSent::Gone) => caching.cache.drop_entry(slot, &entry),
                    }
                    continue;
                }
                (slot, Some(entry), Forwarded::Stale)
            }
            // Those without credentials may get what all may have.
            Found::Pass(slot, Unstorable::Authorization) if !fetch::has_identity(exchange, route) => {
                (slot, None, Forwarded::UriMiss)
            }
            Found::Pass(_, why) => return past(exchange, route, pool, (Forwarded::UriMiss, Some(why))).await,
            Found::Nothing(slot) if slot.generation.is_some() => (slot, None, Forwarded::VaryMiss),
            Found::Nothing(slot) => (slot, None, Forwarded::UriMiss),
        };
        if asked.control.only_if_cached {
            // RFC 9111 section 5.2.1.7.
            return answer::of_reason(exchange, Reason::NotCached).await;
        }
        if exchange.head.method == Method::Head {
            return past(exchange, route, pool, (why, Some(Unstorable::Method))).await;
        }
        if asked.control.no_store {
            // Nobody is to wait for what is not stored.
            return past(exchange, route, pool, (why, Some(Unstorable::RequestNoStore))).await;
        }
        let (key, texts) = (slot.key, [&*asked.whole.text, &*asked.place().text]);
        let (reader, purged_since) = match caching.cache.join(key, texts) {
            Joined::Alone => break,
            Joined::Waiting(reader, since) => {
                counts.collapsed.fetch_add(1, Relaxed);
                (reader, since)
            }
            Joined::Fetching(reader, writer) => {
                counts.misses.fetch_add(1, Relaxed);
                let wanted = fetch::wanted(exchange, route, caching, &asked, slot, old);
                fetch::begin(exchange, route, pool, wanted, writer);
                (reader, None)
            }
        };
        match wait(exchange, &reader).await {
            Ok(arriving) => {
                let response = &arriving.response;
                if let Some(since) = purged_since {
                    let cut = caching.cache.cut(&caching.urls, &asked.whole.text);
                    let texts: [&[u8]; 2] = [&asked.whole.text, &cut.as_ref().unwrap_or(&asked.whole).text];
                    if caching.cache.lets_go_purged(key, &reader, (texts, since), response) {
                        asked.cut = cut;
                        continue;
                    }
                }
                if !reader.is_asker() && !is_for(exchange, caching, &asked, response) {
                    asked.cut = caching.cache.cut(&caching.urls, &asked.whole.text);
                    continue;
                }
                if let Some((slices, number)) = &arriving.sliced {
                    let source = send::Source { route, pool, caching, asked: &asked };
                    let is_asker = reader.is_asker();
                    if is_asker {
                        note_server(exchange, pool, response);
                    }
                    let from = number.map(|number| (number, reader));
                    match send::arriving_slices(exchange, &source, response, slices, (from, is_asker, why)).await {
                        Some(ended) => return ended,
                        None => continue,
                    }
                }
                // A part that is not kept: who wants one, or the whole, asks for that.
                if response.status == 206 && caching.slice.is_some() {
                    drop(reader);
                    return past(exchange, route, pool, (why, response.stored.err())).await;
                }
                if exchange.head.has(Known::Range)
                    && let Some(detail) = send::is_better_asked_for(exchange, caching, &reader, response)
                {
                    drop(reader);
                    return past(exchange, route, pool, (why, detail)).await;
                }
                if reader.is_asker() {
                    note_server(exchange, pool, response);
                }
                return send::arriving(exchange, route, reader, response, why).await;
            }
            Err(Waited::Alone) => break,
            Err(Waited::Again) => asked.from_start = true,
            Err(Waited::Failed(reason)) => return proxy::without_server(exchange, route, reason).await,
        }
    }
    past(exchange, route, pool, (Forwarded::UriMiss, None)).await
}

/// What a request asks the cache for; or why it goes past.
fn ask(exchange: &Exchange<'_>, caching: &Caching) -> Result<Asked, Forwarded> {
    let head = exchange.head;
    if !matches!(head.method, Method::Get | Method::Head) {
        return Err(Forwarded::Method);
    }
    let host = head.host_value(exchange.bytes);
    // These conditions guard a change, and are for the server (RFC 9111 section 4.3.2).
    let is_guarded = head.has(Known::IfMatch) || head.has(Known::IfUnmodifiedSince);
    // A body would count for the server, and not for the key.
    if is_guarded
        || head.has_body()
        || head.websocket
        || head.asterisk
        || host.is_empty()
        || is_bypassed(exchange, caching)
    {
        return Err(Forwarded::Bypass);
    }
    let url = url_text(exchange, caching, exchange.path, head.query.map(|span| span.of_bytes(exchange.bytes)));
    let fields = Fields { bytes: exchange.bytes, fields: &head.fields };
    let control = if head.has(Known::CacheControl) { RequestControl::of(fields) } else { RequestControl::default() };
    let cut = caching.cache.cut(&caching.urls, &url);
    let whole = Place { key: caching.urls.key(&caching.cache, &url), text: url };
    Ok(Asked { whole, cut, control, from_start: false })
}

fn url_text(exchange: &Exchange<'_>, caching: &Caching, path: &[u8], query: Option<&[u8]>) -> Vec<u8> {
    let host = exchange.host_for_servers();
    let mut url = Vec::with_capacity(16 + host.len() + path.len() + query.map_or(0, <[u8]>::len));
    caching.urls.write(exchange.scheme_for_servers(), &host, path, query, &mut url);
    url
}

fn is_bypassed(exchange: &Exchange<'_>, caching: &Caching) -> bool {
    let (head, bytes) = (exchange.head, exchange.bytes);
    if caching.bypass_headers.iter().any(|name| head.values(bytes, name.as_bytes()).next().is_some()) {
        return true;
    }
    caching.looks_at_cookies()
        && head.has(Known::Cookie)
        && head.values(bytes, b"cookie").flat_map(|line| line.split(|&byte| byte == b';')).any(|pair| {
            let name = pair.split(|&byte| byte == b'=').next().unwrap_or_default();
            caching.passes_cookie(name.trim_ascii())
        })
}

/// The response is what this request would have got, too.
fn is_for(exchange: &Exchange<'_>, caching: &Caching, asked: &Asked, response: &Response) -> bool {
    let is_cut_so = |cut| caching.cache.is_cut_by(&caching.urls, &asked.whole.text, cut, response);
    if !asked.cut.as_ref().is_none_or(is_cut_so) {
        return false;
    }
    let fields = Fields { bytes: exchange.bytes, fields: &exchange.head.fields };
    response.vary.is_empty() || cache::selection(caching, fields, &response.vary) == *response.selection
}

/// Goes to a server by itself, and says so.
async fn past(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    (why, detail): (Forwarded, Option<Unstorable>),
) -> Ended {
    if let Some(caching) = &route.caching {
        caching.cache.counts.passes.fetch_add(1, Relaxed);
    }
    // A switch of protocols is no answer.
    if !exchange.head.websocket {
        let status = CacheStatus::Past { why, detail };
        exchange.own_fields.extend_from_slice(b"Cache-Status: ");
        status.write(&mut exchange.own_fields);
        exchange.own_fields.extend_from_slice(b"\r\n");
    }
    proxy::serve(exchange, route, pool).await
}

/// The client's own request has been answered.
fn note_server(exchange: &mut Exchange<'_>, pool: &Rc<LocalPool>, response: &Response) {
    exchange.record.pool = Some(Rc::clone(pool));
    exchange.record.server.clone_from(&response.server);
    exchange.record.first_byte_at_us = exchange.worker.clock.now_us();
}

/// Why there is no response to wait for.
enum Waited {
    Alone,
    /// It is another one than was thought.
    Again,
    Failed(Reason),
}

/// Until the head of the response is here; what comes before it goes on (RFC 9110 section 15.2).
async fn wait(exchange: &mut Exchange<'_>, reader: &Reader) -> Result<Arc<Arriving>, Waited> {
    loop {
        match wait_for_first(exchange, reader).await? {
            First::Head(response) => return Ok(response),
            First::Interim(_) if exchange.head.version == Version::Http10 => {}
            First::Interim(text) => {
                exchange.set_deadline(exchange.site.config.bounds.idle);
                let passed = io::write_all(exchange.stream, exchange.deadline, &text).await;
                passed.map_err(|_| Waited::Failed(Reason::ClientClosed))?;
            }
        }
    }
}

async fn wait_for_first(exchange: &mut Exchange<'_>, reader: &Reader) -> Result<First<Arriving>, Waited> {
    let mut watching = true;
    exchange.deadline.set_at(exchange.limit_ms);
    poll_fn(|context| {
        match reader.poll_head(context) {
            Poll::Ready(Ok(first)) => return Poll::Ready(Ok(first)),
            Poll::Ready(Err(NoHead::Alone)) => return Poll::Ready(Err(Waited::Alone)),
            Poll::Ready(Err(NoHead::Failed(Failed::Again))) => return Poll::Ready(Err(Waited::Again)),
            Poll::Ready(Err(NoHead::Failed(Failed::Reason(reason)))) => {
                return Poll::Ready(Err(Waited::Failed(reason)));
            }
            Poll::Pending => {}
        }
        if watching {
            match exchange.stream.poll_gone(context) {
                Poll::Ready(Gone::Yes) => return Poll::Ready(Err(Waited::Failed(Reason::ClientClosed))),
                Poll::Ready(Gone::SendsNoMore | Gone::SentMore) => watching = false,
                Poll::Pending => {}
            }
        }
        if exchange.is_over_limit() { Poll::Ready(Err(Waited::Failed(Reason::Deadline))) } else { Poll::Pending }
    })
    .await
}

/// A server has answered a request that may have changed something (RFC 9111 section 4.4).
pub(super) fn note_change(exchange: &Exchange<'_>, response: &ResponseHead, bytes: &[u8]) {
    let Some(cache) = exchange.site.cache.as_ref().filter(|_| invalidates(exchange.head.method, response.status))
    else {
        return;
    };
    let (scheme, host) = (exchange.scheme_for_servers(), exchange.host_for_servers());
    let query = exchange.head.query.map(|span| span.of_bytes(exchange.bytes));
    cache.invalidate_url(scheme, &host, exchange.path, query);
    let scheme_text = std::str::from_utf8(scheme).unwrap_or_default();
    for name in [&b"location"[..], b"content-location"] {
        let reference = response.value(bytes, name);
        let found = reference.and_then(|reference| same_origin_path(reference, scheme_text, &host, exchange.path));
        if let Some(found) = found {
            let mut parts = found.splitn(2, |&byte| byte == b'?');
            let path = target::normalize(parts.next().unwrap_or_default());
            cache.invalidate_url(scheme, &host, &path, parts.next());
        }
    }
}
