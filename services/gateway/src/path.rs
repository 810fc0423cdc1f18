//! The hot path: one connection, one request after the other, top to bottom.
//!
//! A connection is one task. Between requests it holds its socket and a few words; buffers and the
//! request's own state come with the first byte and go with the last.

mod answer;
mod ask;
mod auth;
mod bandwidth;
mod body;
mod cache;
mod challenge;
mod client_address;
mod collect;
mod exchange;
mod files;
mod guard;
mod hands;
mod http2;
mod limited;
mod log;
pub(crate) mod open;
mod pace;
pub(crate) mod preface;
mod proxy;
mod queue;
mod relay;
mod request_id;
mod splice;
mod tunnel;
mod uptake;
mod waiting_room;
mod watch;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

pub(crate) use answer::phrase;
use sumun_config::checked::Name;
use sumun_engine::accept::Admitted;
use sumun_engine::access_log::KeptHeaders;
use sumun_engine::listening::Acceptor;
use sumun_engine::pace as engine;
use sumun_engine::pace::Both;
use sumun_engine::tls::Transport;
use sumun_engine::{Deadline, Lease, Worker};
use sumun_http::field::is_same_name;
use sumun_http::forward::Edits;
use sumun_http::scan::HeadScan;
use sumun_http::{Method, Reject, RequestHead, Version, target};
use sumun_traffic::pacer::Pacer;

use crate::client::ClientText;
use crate::control::Listening;
use crate::events::Reason;
use crate::heads::HeadLease;
use crate::io::{self, Security, Stopped, Stream};
use crate::limits::BUSY;
use crate::site::{Action, Question, Route, Site};
use crate::upstream::LocalPool;

pub(crate) use limited::Verifier;
pub(crate) use pace::Pace;

/// A client's connection and what it is allowed.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) worker: Rc<Worker>,
    /// The listener's newest routes: a reload puts others in here.
    pub(crate) site: Rc<std::cell::RefCell<Rc<Site>>>,
    /// Less than a `SocketAddr`, which is a fifth of what an idle connection holds.
    pub(crate) client: Option<(IpAddr, u16)>,
    pub(crate) deadline: Deadline,
    pub(crate) requests: u32,
    /// What it has of bandwidth for itself.
    pub(crate) pace: Option<Rc<Both<Pacer>>>,
    /// Counts this connection until it ends; `None` for a stream of one that is counted.
    #[expect(dead_code, reason = "it does what it is for when it is dropped")]
    pub(crate) admitted: Option<Admitted>,
}

/// What becomes of a connection after a burst of requests.
enum After {
    Idle,
    Close,
    /// It speaks HTTP/2 from its first byte on; these are here.
    Http2(Option<Box<Lease>>),
}

/// One request while it is served.
pub(crate) struct Exchange<'a> {
    pub(crate) stream: &'a mut Stream,
    pub(crate) deadline: &'a Deadline,
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) site: &'a Rc<Site>,
    pub(crate) client: Option<SocketAddr>,
    pub(crate) client_text: &'a ClientText,
    pub(crate) security: Option<&'a Security>,
    /// The client's forwarding fields are believed.
    pub(crate) trusted: bool,
    pub(crate) head: &'a RequestHead,
    /// The head's bytes.
    pub(crate) bytes: &'a [u8],
    /// What arrived behind the head.
    pub(crate) arrived: &'a [u8],
    /// Normalised.
    pub(crate) path: &'a [u8],
    /// When the whole request has to be answered, on the coarse clock.
    pub(crate) limit_ms: u64,
    /// The connection outlives this request.
    pub(crate) keep_alive: bool,
    pub(crate) record: Record,
    /// The next request's bytes that came with a chunked body.
    pub(crate) leftover: Option<Lease>,
    /// Bytes behind the head that were this request's.
    pub(crate) used: usize,
    /// Instead of the route's edits of the request: those, and what forward authentication adds.
    pub(crate) extra_edits: Option<Edits>,
    /// What it holds of the route and the pool while a server has it.
    pub(crate) places: queue::Places,
    /// What the connection has of bandwidth for itself.
    pub(crate) own_pace: Option<&'a Rc<Both<Pacer>>>,
    /// Whom the request shares bandwidths with; `None`: it goes as fast as it can.
    pub(crate) pace: Option<Rc<engine::Pace>>,
    /// The key that a request for a WebSocket needs in HTTP/1.1 and has not in HTTP/2.
    pub(crate) websocket_key: Option<[u8; 24]>,
    /// Whole field lines for whatever answer the client gets: `Set-Cookie` of the route's waiting room,
    /// `RateLimit` of its limits.
    pub(crate) own_fields: Vec<u8>,
}

/// What is known of a request when it ends. Times are those of the worker's clock, in microseconds;
/// the lengths of phases are 0 where there was nothing to wait for.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) start_us: u64,
    pub(crate) read_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) connect_us: u64,
    /// When the head of the server's answer was here.
    pub(crate) first_byte_at_us: u64,
    pub(crate) status: u16,
    /// Bytes of bodies.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) tries: u32,
    /// Who passed basic authentication.
    pub(crate) user: Option<Rc<str>>,
    /// Who was asked last.
    pub(crate) pool: Option<Rc<LocalPool>>,
    /// Kept for the access log only.
    pub(crate) server: Option<Name>,
    pub(crate) request_id: Option<[u8; 32]>,
    pub(crate) response_headers: Option<KeptHeaders>,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    /// The connection can carry another request.
    pub(crate) reusable: bool,
    /// The answer was cut short: the connection is broken off, so that nobody takes it for complete.
    pub(crate) abort: bool,
}

impl Ended {
    pub(crate) fn new(reason: Reason, reusable: bool) -> Self {
        Self { reason, reusable, abort: false }
    }

    pub(crate) fn closing(reason: Reason) -> Self {
        Self::new(reason, false)
    }

    pub(crate) fn aborted(reason: Reason) -> Self {
        Self { reason, reusable: false, abort: true }
    }
}

/// Serves a connection until it ends.
#[expect(clippy::manual_async_fn, reason = "an async fn moves its arguments and holds them twice; an idle client pays")]
fn serve(mut connection: Connection) -> impl Future<Output = ()> {
    async move {
        poll_fn(|context| {
            connection.deadline.wake(context.waker());
            Poll::Ready(())
        })
        .await;
        connection.deadline.set_idle(connection.site.borrow().config.bounds.header_timeout);
        while poll_fn(|context| connection.poll_bytes(context)).await {
            // Boxed, so that a connection that waits is a few hundred bytes and not a few thousand.
            let after = Box::pin(serve_busy(&mut connection)).await;
            match after {
                After::Close => return,
                After::Idle => {}
                After::Http2(first) => return Box::pin(http2::serve(&mut connection, first)).await,
            }
            // Who was let in and has asked nothing within the time for a header asks nothing.
            if connection.requests == 0 {
                break;
            }
            connection.deadline.set_idle(connection.site.borrow().config.bounds.idle);
        }
        connection.stream.say_goodbye();
    }
}

fn packed(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

/// Serves requests as long as they follow each other closely: who is busy keeps what it works with.
async fn serve_busy(connection: &mut Connection) -> After {
    if connection.stream.security().is_some_and(|security| security.is_http2) {
        return After::Http2(None);
    }
    let client_text = ClientText::of(connection.client.map(SocketAddr::from));
    loop {
        match serve_burst(connection, &client_text).await {
            After::Idle => {}
            end => return end,
        }
        connection.deadline.set(BUSY);
        if !poll_fn(|context| connection.poll_bytes(context)).await {
            if !connection.worker.closes_idle() {
                return After::Idle;
            }
            connection.stream.say_goodbye();
            return After::Close;
        }
    }
}

impl Connection {
    /// Waits, without a buffer, until bytes arrive. False: none did in time, or the worker is to end.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let is_unwanted = |this: &Self| this.worker.closes_idle() && this.requests > 0;
        match self.stream.poll_readable(context) {
            Poll::Pending if self.deadline.passed() || is_unwanted(self) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
        }
    }
}

/// Serves requests as long as their bytes are here.
async fn serve_burst(connection: &mut Connection, client_text: &ClientText) -> After {
    let mut input = Lease::small();
    let mut head = HeadLease::take();
    loop {
        let site = Rc::clone(&connection.site.borrow());
        let mut began_us = None;
        let length = match read_head(connection, &site, &mut input, &mut head, &mut began_us).await {
            Ok(length) => length,
            Err(HeadEnd::Closed) => {
                connection.stream.say_goodbye();
                return After::Close;
            }
            Err(HeadEnd::Nothing) => return After::Idle,
            Err(HeadEnd::Http2) => return After::Http2(Some(Box::new(input))),
            Err(HeadEnd::Refused(reason)) => return refuse(connection, client_text, &site, reason).await,
        };
        connection.requests += 1;
        let (bytes, arrived) = input.filled().split_at(length);
        let request = Request { head: &mut head, bytes, arrived, began_us };
        let (ended, used, leftover) = serve_request(connection, client_text, &site, request).await;
        if ended.abort {
            connection.stream.reset_on_close();
            return After::Close;
        }
        if !ended.reusable {
            io::close_gently(&mut connection.stream, &connection.deadline).await;
            return After::Close;
        }
        input.consume(length + used);
        if let Some(leftover) = leftover {
            // A chunked body ended inside a later read: what follows it is the next request.
            input = if input.is_empty() { leftover } else { return After::Close };
        }
        if input.is_empty() {
            return After::Idle;
        }
    }
}

/// Why there is no head.
enum HeadEnd {
    /// The wake-up was for nothing: no byte came.
    Nothing,
    Closed,
    /// What came is the preface of HTTP/2, known without asking (RFC 9113 section 3.3).
    Http2,
    Refused(Reason),
}

/// Reads until a whole head is in `input`, parses it and says how long it is, and when it began if it
/// came in pieces.
async fn read_head(
    connection: &mut Connection,
    site: &Site,
    input: &mut Lease,
    head: &mut RequestHead,
    began_us: &mut Option<u64>,
) -> Result<usize, HeadEnd> {
    let bounds = &site.config.bounds;
    let (line_max, head_max) = (bounds.request_line as usize, bounds.header as usize);
    let mut scan: Option<HeadScan> = None;
    let mut empty_lines = 0;
    let mut waiting = false;
    // Over TLS the first byte of a head may be known only when its whole record is here.
    let is_secure = connection.stream.security().is_some();
    if is_secure {
        connection.deadline.set(bounds.header_timeout);
    }
    loop {
        // RFC 9112 section 2.2: an empty line before the request line is forgiven.
        while scan.is_none() && input.filled().starts_with(b"\r\n") {
            empty_lines += 1;
            if empty_lines > sumun_http::limits::LEADING_EMPTY_LINES_MAX {
                return Err(HeadEnd::Refused(Reason::Rejected(Reject::LeadingEmptyLines)));
            }
            input.consume(2);
        }
        // A lone CR may be half of such a line: nothing is said of it before its LF is here.
        let may_be_empty_line = scan.is_none() && input.filled() == b"\r";
        // Over TLS it is agreed on in the handshake or not spoken (RFC 9113 section 3.2).
        let is_preface = connection.requests == 0 && !is_secure && may_be_preface(input.filled());
        if is_preface && input.len() >= sumun_http2::PREFACE.len() {
            return Err(HeadEnd::Http2);
        }
        if !input.is_empty() && !may_be_empty_line && !is_preface {
            match parse_head(input, head, &mut scan, line_max, head_max, bounds.headers as usize) {
                Ok(Some(length)) => return Ok(length),
                Ok(None) => {}
                Err(reject) => return Err(HeadEnd::Refused(Reason::Rejected(reject))),
            }
            if !waiting {
                waiting = true;
                *began_us = Some(connection.worker.clock.now_us());
                connection.deadline.set(bounds.header_timeout);
            }
        }
        make_room(input, head_max);
        match io::read(&mut connection.stream, &connection.deadline, input.spare()).await {
            Ok(0) if input.is_empty() => return Err(HeadEnd::Closed),
            Ok(0) => {
                site.cell.rejected.increment();
                return Err(HeadEnd::Closed);
            }
            Ok(count) => input.advance(count),
            Err(Stopped::Deadline) if input.is_empty() && !connection.stream.has_part_of_record() => {
                return Err(HeadEnd::Nothing);
            }
            Err(Stopped::Deadline) => return Err(HeadEnd::Refused(Reason::HeaderTimeout)),
            Err(Stopped::Broken) => return Err(HeadEnd::Closed),
        }
    }
}

/// The bytes are those that every HTTP/2 connection begins with, or fewer of them. No HTTP/1 method
/// begins like this for long.
fn may_be_preface(bytes: &[u8]) -> bool {
    let length = bytes.len().min(sumun_http2::PREFACE.len());
    bytes.get(..length) == sumun_http2::PREFACE.get(..length) && length > 0
}

/// Nearly every head is here in full at the first look. One that is not is scanned for its end as
/// it grows, and parsed once that has come.
fn parse_head(
    input: &mut Lease,
    head: &mut RequestHead,
    scan: &mut Option<HeadScan>,
    line_max: usize,
    head_max: usize,
    fields_max: usize,
) -> Result<Option<usize>, Reject> {
    if let Some(scan) = scan {
        let was_fresh = scan.is_fresh();
        let found = scan.advance(input.filled(), line_max, head_max)?;
        if found.is_none() {
            if was_fresh && !scan.is_fresh() {
                // The request line is here: what is wrong with it is said now and not when the rest has come.
                head.parse(input.filled(), fields_max)?;
            }
            return Ok(None);
        }
    }
    let Some(length) = head.parse(input.filled(), fields_max)? else {
        *scan = Some(HeadScan::default());
        return parse_head_start(input, scan, line_max, head_max);
    };
    if head.line_length() > line_max {
        return Err(Reject::RequestLineTooLong);
    }
    if length > head_max {
        return Err(Reject::HeadTooLarge);
    }
    Ok(Some(length))
}

/// The first scan of a head whose end is not here: it may break a bound already.
fn parse_head_start(
    input: &Lease,
    scan: &mut Option<HeadScan>,
    line_max: usize,
    head_max: usize,
) -> Result<Option<usize>, Reject> {
    let Some(scan) = scan else { return Ok(None) };
    scan.advance(input.filled(), line_max, head_max).map(|_| None)
}

/// A larger buffer where the head needs one, up to the bound on heads.
fn make_room(input: &mut Lease, head_max: usize) {
    if input.spare().is_empty() {
        input.compact();
        if input.spare().is_empty() {
            let larger = input.capacity().saturating_mul(4).min(head_max.max(input.capacity() + 1));
            *input = std::mem::replace(input, Lease::small()).grown(larger);
        }
    }
}

/// A parsed request.
struct Request<'a> {
    head: &'a mut RequestHead,
    /// The head's bytes.
    bytes: &'a [u8],
    /// What arrived behind the head.
    arrived: &'a [u8],
    /// When its head began, if it came in pieces.
    began_us: Option<u64>,
}

/// Serves one request. Gives how it ended, how many bytes behind the head were used, and what came
/// behind a chunked body.
async fn serve_request(
    connection: &mut Connection,
    client_text: &ClientText,
    site: &Rc<Site>,
    request: Request<'_>,
) -> (Ended, usize, Option<Lease>) {
    let Request { head, bytes, arrived, began_us } = request;
    let start_us = connection.worker.clock.now_us();
    for name in &*site.subject_headers {
        head.take_out(bytes, |found| is_same_name(found, name.as_bytes()));
    }
    let head = &*head;
    if let Some(pace) = &site.pace {
        pace.renew_own(&mut connection.pace);
    }
    let path = if head.path_is_plain {
        std::borrow::Cow::Borrowed(head.path.of_bytes(bytes))
    } else {
        target::normalize(head.path.of_bytes(bytes))
    };
    let security = connection.stream.security();
    let host = if site.matches_hosts { crate::site::canonical_host(head.host_value(bytes)) } else { Vec::new() };
    let last = u64::from(connection.requests) >= site.config.bounds.requests;
    let mut exchange = Exchange {
        trusted: connection.client.is_some_and(|(client, _)| site.trusts(client)),
        stream: &mut connection.stream,
        deadline: &connection.deadline,
        worker: &connection.worker,
        site,
        client: connection.client.map(SocketAddr::from),
        client_text,
        security: security.as_deref(),
        head,
        bytes,
        arrived,
        path: &path,
        limit_ms: u64::MAX,
        keep_alive: head.keep_alive && !last && !connection.worker.is_draining(),
        record: Record {
            start_us,
            read_us: began_us.map_or(0, |began| start_us.saturating_sub(began)),
            ..Record::default()
        },
        leftover: None,
        used: 0,
        extra_edits: None,
        places: queue::Places::default(),
        own_pace: connection.pace.as_ref(),
        pace: None,
        websocket_key: (head.websocket && head.version == Version::Http2).then(crate::http2::websocket::new_key),
        own_fields: Vec::new(),
    };
    let proof = site.proof(head.method, &path);
    let goes_elsewhere = proof.is_none() && exchange.must_come_over_tls();
    let question = Question { head, bytes, path: &path, host: &host };
    let blocked = if proof.is_none() { watch::block(&exchange) } else { None };
    let route =
        if proof.is_some() || goes_elsewhere || blocked.is_some() { None } else { site.route(&question).cloned() };
    let mut ended = match (&route, &proof) {
        (None, Some(proof)) => answer::proof(&mut exchange, proof).await,
        (None, None) if let Some(block) = blocked => watch::turn_away(&mut exchange, block).await,
        (None, None) if goes_elsewhere => answer::to_https(&mut exchange).await,
        (None, None) => answer::of_reason(&mut exchange, Reason::NoRoute).await,
        (Some(route), _) => serve_route(&mut exchange, route).await,
    };
    ended.reusable &= exchange.keep_alive;
    finish(&exchange, route.as_ref(), ended.reason);
    (ended, exchange.used, exchange.leftover)
}

/// The steps that every routed request takes.
async fn serve_route(exchange: &mut Exchange<'_>, route: &Rc<Route>) -> Ended {
    if exchange.worker.own_limits.refuses(route.config.priority) {
        // Its connection is one of those that are too many.
        exchange.keep_alive = false;
        return answer::of_reason(exchange, Reason::OwnLimits).await;
    }
    if let Some(limit) = route.config.deadline {
        exchange.limit_ms = exchange.deadline.now_ms() + limit.as_millis() as u64;
    }
    bandwidth::begin(exchange, route);
    if let Some(challenge) = &route.challenge
        && let Some(ended) = Box::pin(challenge::check(exchange, challenge)).await
    {
        return ended;
    }
    if let Some(ended) = guard::check(exchange, route).await {
        return ended;
    }
    // Boxed, as few routes have one and every request's future would be larger.
    if route.room.is_some()
        && let Some(ended) = Box::pin(waiting_room::check(exchange, route)).await
    {
        return ended;
    }
    match &route.action {
        Action::Proxy(pool) if let Some(caching) = &route.caching => cache::serve(exchange, route, pool, caching).await,
        Action::Proxy(pool) => proxy::serve(exchange, route, pool).await,
        Action::Files(root, cache) => files::serve(exchange, route, &Arc::clone(root), &Rc::clone(cache)).await,
        Action::Redirect => answer::redirect(exchange, route).await,
        Action::Respond => answer::respond(exchange, route).await,
    }
}

/// Counts the request and writes it to the access log.
fn finish(exchange: &Exchange<'_>, route: Option<&Rc<Route>>, reason: Reason) {
    let record = &exchange.record;
    let end_us = exchange.worker.clock.now_us();
    let cell = route.map_or(&exchange.site.unrouted, |route| &route.cell);
    let total_us = end_us.saturating_sub(record.start_us);
    cell.record(record.status, reason, record.bytes_in, record.bytes_out, total_us);
    exchange.site.cell.requests.increment();
    if let Some(pool) = &record.pool {
        pool.cell.latency.record(total_us);
    }
    watch::note(exchange, reason);
    if exchange.site.log.wants_line(&exchange.worker.own_limits) {
        log::write(exchange, route, reason, total_us);
    }
}

/// Answers what was not understood, and closes: where the next request begins is not known.
async fn refuse(connection: &mut Connection, client_text: &ClientText, site: &Rc<Site>, reason: Reason) -> After {
    site.cell.rejected.increment();
    if reason == Reason::HeaderTimeout {
        site.cell.timeouts.increment();
    }
    let head = RequestHead { method: Method::Get, version: Version::Http11, ..RequestHead::default() };
    let security = connection.stream.security();
    let mut exchange = Exchange {
        stream: &mut connection.stream,
        deadline: &connection.deadline,
        worker: &connection.worker,
        site,
        client: connection.client.map(SocketAddr::from),
        client_text,
        security: security.as_deref(),
        trusted: false,
        head: &head,
        bytes: b"",
        arrived: b"",
        path: b"",
        limit_ms: u64::MAX,
        keep_alive: false,
        record: Record { start_us: connection.worker.clock.now_us(), ..Record::default() },
        leftover: None,
        used: 0,
        extra_edits: None,
        places: queue::Places::default(),
        own_pace: None,
        pace: None,
        websocket_key: None,
        own_fields: Vec::new(),
    };
    answer::of_reason(&mut exchange, reason).await;
    finish(&exchange, None, reason);
    io::close_gently(&mut connection.stream, &connection.deadline).await;
    After::Close
}

/// A listener's accept loop on one worker.
pub(crate) async fn accept(listener: Listening, acceptor: Acceptor, worker: Rc<Worker>) {
    let failed = |error: &std::io::Error| {
        crate::events::Event::AcceptFailed { listener: &listener.name, error }.write();
    };
    acceptor.run(&worker, |transport, client| begin(transport, client, &listener, &worker), failed).await;
}

/// Decides whether a connection may be there, and starts its task.
fn begin(transport: Transport, client: Option<SocketAddr>, listener: &Listening, worker: &Rc<Worker>) {
    let now = Rc::clone(&listener.site.borrow());
    now.cell.accepted.increment();
    if now.admittance.is_beyond(&worker.own_limits, now.priority, &transport) {
        return;
    }
    // A proxy is let in for the client it names, once it has named it.
    let awaited = preface::is_awaited(&now, client);
    let is_shut_out = || watch::is_shut_out(&now, client, worker.clock.coarse_ms());
    if !awaited && (!guard::may_connect(&now, client) || is_shut_out()) {
        return;
    }
    let Ok(admitted) = now.admittance.admit(client.filter(|_| !awaited).map(|client| client.ip())) else { return };
    let connection = Connection {
        stream: transport.into(),
        worker: Rc::clone(worker),
        site: Rc::clone(&listener.site),
        client: client.map(packed),
        deadline: worker.deadlines.reserve(),
        requests: 0,
        pace: None,
        admitted: None,
    };
    let door = listener.door.borrow().clone();
    if now.config.proxy_protocol || door.is_some() {
        tokio::task::spawn_local(open::open(connection, admitted, now, door));
    } else {
        tokio::task::spawn_local(serve(Connection { admitted: Some(admitted), ..connection }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_bytes<F: Future>(_: impl FnOnce(Connection) -> F) -> usize {
        size_of::<F>()
    }

    /// What a client costs that waits for its next request. A bound, so that nobody makes it
    /// larger without seeing it: with 96 bytes of the runtime's own, a task lies in units of 128.
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = task_bytes(serve);
        assert!(bytes + 96 <= 256, "{bytes} bytes");
    }
}
