//! A request that a server of a pool answers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sumun_config::checked::HashOn;
use sumun_engine::Lease;
use sumun_engine::access_log::Needs;
use sumun_engine::pace::UP;
use sumun_engine::tls::Alert;
use sumun_http::forward::{self, ConnectionLine, Framing, ResponsePlan};
use sumun_http::{Known, Method, Received, ResponseBody, ResponseHead, ResponseReceiver, Version};
use sumun_pools::{Lease as ServerLease, Outcome, PickKey, Priority, Refused, Tried};

use super::bandwidth::Paced;
use super::body::{Body, BodyError, Upload, UploadError};
use super::queue::Places;
use super::{Ended, Exchange, Pace, answer, ask as request, cache, collect, files, queue, relay, tunnel};
use crate::events::{Event, Reason, Side};
use crate::heads::ResponseLease;
use crate::http2::{Broken, websocket};
use crate::io::{self, Gone, Stream};
use crate::limits::{RESPONSE_HEAD_BYTES, SCRATCH_BYTES};
use crate::site::Route;
use crate::upstream::{self, ConnectError, LocalPool, ServerConnection};

thread_local! {
    /// Where heads are written. Used between two awaits only.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves one request from `pool`.
pub(super) async fn serve(exchange: &mut Exchange<'_>, route: &Rc<Route>, pool: &Rc<LocalPool>) -> Ended {
    if let Some(ended) = refuse_loop(exchange).await {
        return ended;
    }
    let bound = route.config.body.unwrap_or(exchange.site.config.bounds.body);
    let mut body = match Body::begin(exchange.head.body, exchange.arrived, bound, &exchange.site.subject_headers) {
        Ok(body) => body.paced(Paced::new(exchange, UP)),
        Err(error) => return answer::of_body_error(exchange, &error).await,
    };
    if !body.is_complete()
        && !exchange.head.expect_continue
        && let Err(ended) = collect::whole(exchange, &mut body).await
    {
        exchange.record.bytes_in += body.received;
        return ended;
    }
    // Whoever reads a page or a stand-in slowly holds no place of a server that may be back.
    let ended = match ask(exchange, route, pool, &mut body).await {
        Ok(ended) => ended,
        Err(reason) => without_server(exchange, route, reason).await,
    };
    exchange.used = body.used_early();
    exchange.leftover = body.leftover.take();
    exchange.record.bytes_in += body.received;
    ended
}

/// Has a server of `pool` answer; `Err`: none has, and the client has not been told anything.
pub(super) async fn ask(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
) -> Result<Ended, Reason> {
    exchange.places = queue::enter(exchange, route, pool).await?;
    pool.cell.requests.increment();
    exchange.record.pool = Some(Rc::clone(pool));
    let answered = try_servers(exchange, route, pool, body).await;
    exchange.places = Places::default();
    answered
}

/// Ends a request that has been here before (RFC 8586 section 2).
pub(super) async fn refuse_loop(exchange: &mut Exchange<'_>) -> Option<Ended> {
    if !exchange.head.has(Known::CdnLoop) || !came_back(exchange) {
        return None;
    }
    Event::Loop { listener: &exchange.site.config.name, path: exchange.path }.write();
    Some(answer::of_reason(exchange, Reason::Loop).await)
}

/// The answer to a request that no server has answered: the route's stand-in, or what went wrong.
pub(super) async fn without_server(exchange: &mut Exchange<'_>, route: &Rc<Route>, reason: Reason) -> Ended {
    let may_stand_in = route.degrade.is_some()
        && matches!(exchange.head.method, Method::Get | Method::Head)
        && reason.side() == Side::Server
        && reason != Reason::Loop;
    if may_stand_in && let Some(ended) = Box::pin(files::stand_in(exchange, route, reason)).await {
        return ended;
    }
    answer::of_reason(exchange, reason).await
}

/// This gateway is named in the request's `CDN-Loop` (RFC 8586 section 2).
pub(super) fn came_back(exchange: &Exchange<'_>) -> bool {
    exchange.head.values(exchange.bytes, b"cdn-loop").any(|value| {
        sumun_http::field::list(value).any(|element| {
            let id = element.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
            id == &*exchange.site.loop_id
        })
    })
}

/// What `balance: hash` and `maglev` look at.
fn pool_key(exchange: &Exchange<'_>, pool: &LocalPool) -> Option<u64> {
    let bytes = match &pool.config.hash {
        HashOn::Source => exchange.client_text.plain(),
        HashOn::Path => exchange.path,
        HashOn::Header(name) => exchange.head.values(exchange.bytes, name.as_bytes()).next()?,
        HashOn::Cookie(name) => cookie(exchange, name)?,
    };
    Some(sumun_pools::key_of(bytes))
}

pub(super) fn sticky_cookie<'a>(exchange: &Exchange<'a>, pool: &LocalPool) -> Option<&'a [u8]> {
    cookie(exchange, &pool.config.sticky.as_ref()?.cookie)
}

/// Value of a cookie (RFC 6265 section 4.2.1).
pub(super) fn cookie<'a>(exchange: &Exchange<'a>, name: &str) -> Option<&'a [u8]> {
    cookies(exchange, name).next()
}

/// Values of a cookie, which may come several times for several paths.
pub(super) fn cookies<'a>(exchange: &Exchange<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = exchange.head.values(exchange.bytes, b"cookie").flat_map(|line| line.split(|&byte| byte == b';'));
    pairs.filter_map(|pair| {
        let (found, value) = pair.trim_ascii().split_at_checked(name.len())?;
        if found == name.as_bytes() { value.strip_prefix(b"=") } else { None }
    })
}

/// How one try failed, and what may be done about it.
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) outcome: Outcome,
    /// No byte of the request can have been read by the server.
    pub(super) untouched: bool,
}

/// Asks one server after the other until one answers, as far as the rules of retries allow, or says why
/// none has.
async fn try_servers(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
) -> Result<Ended, Reason> {
    let mut tried = Tried::default();
    let mut last_failure = None;
    loop {
        let mut server = match pick(exchange, pool, route.config.priority, &tried).await {
            Ok(server) => server,
            // Nobody is left to ask: what the last one did is the answer.
            Err(Reason::NoServer) => return Err(last_failure.unwrap_or(Reason::NoServer)),
            Err(reason) => return Err(reason),
        };
        exchange.record.tries += 1;
        exchange.places.begin(&mut server, exchange.worker.clock.now_us());
        let (failure, server) = match try_server(exchange, route, pool, body, server).await {
            Ok(ended) => return Ok(ended),
            Err(failed) => failed,
        };
        tried.insert(server.server());
        server.report(failure.outcome, exchange.deadline.now_ms());
        exchange.places.failed(failure.reason, exchange.worker.clock.now_us());
        drop(server);
        if !may_try_again(exchange, pool, body, &failure) {
            return Err(failure.reason);
        }
        last_failure = Some(failure.reason);
        pool.cell.retries.increment();
    }
}

/// A place at a server, waited for where all of them are at their `max_connections`.
pub(super) async fn pick(
    exchange: &mut Exchange<'_>,
    pool: &Rc<LocalPool>,
    priority: Priority,
    tried: &Tried,
) -> Result<ServerLease, Reason> {
    let wants = pool.picker.borrow().wants();
    let key = PickKey {
        hash: if wants.hash { pool_key(exchange, pool) } else { None },
        sticky: if wants.sticky { sticky_cookie(exchange, pool) } else { None },
    };
    let picked = pool.picker.borrow_mut().pick(exchange.worker.clock.coarse_ms(), key, tried);
    match picked {
        Ok(server) => Ok(server),
        Err(Refused::NoServer) => Err(Reason::NoServer),
        Err(Refused::AtCapacity) => {
            let waiting = pool.pool.wait_for_place(tried, priority, pool.config.queue.timeout);
            queue::wait(exchange, waiting).await?.map_err(queue::reason)
        }
    }
}

/// Where the server cannot have seen anything, any request may go to another one, at no cost.
/// Where it may have, only one that has the same effect twice (RFC 9110 section 9.2.2), whose body
/// is still here, and within the budget.
fn may_try_again(exchange: &Exchange<'_>, pool: &LocalPool, body: &Body<'_>, failure: &Failure) -> bool {
    let retries = &pool.config.retries;
    if exchange.record.tries > retries.tries || exchange.is_over_limit() {
        return false;
    }
    failure.untouched
        || (exchange.head.method.is_idempotent()
            && body.can_be_sent_again(retries.body)
            && matches!(failure.reason, Reason::ServerClosed | Reason::ServerHandshake)
            && pool.picker.borrow_mut().may_retry(exchange.worker.clock.coarse_ms()))
}

/// One server, on a kept connection or a new one. A kept connection that the server closed in
/// this very moment is no fault of the server's: a new one is made at once.
async fn try_server(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
    server: ServerLease,
) -> Result<Ended, (Failure, ServerLease)> {
    let mut heard = None;
    if let Some(connection) = pool.take_idle(&server) {
        match converse(exchange, route, pool, body, &server, connection).await {
            Ok(answer) => heard = Some(answer),
            Err(failure) if may_reconnect(exchange, body, &failure) => {}
            Err(failure) => return Err((failure, server)),
        }
    }
    let heard = match heard {
        Some(heard) => heard,
        None => {
            exchange.set_deadline(pool.config.timeouts.connect);
            let began_us = exchange.worker.clock.now_us();
            let connected = pool.connect(&server, exchange.deadline).await;
            exchange.record.connect_us += exchange.worker.clock.now_us().saturating_sub(began_us);
            let connection = match connected {
                Ok(connection) => connection,
                Err(error) => return Err((connect_failure(&error), server)),
            };
            match converse(exchange, route, pool, body, &server, connection).await {
                Ok(heard) => heard,
                Err(failure) => return Err((failure, server)),
            }
        }
    };
    Ok(match heard {
        Conversation::Answered(answered) => relay::run(exchange, route, pool, body, server, answered).await,
        Conversation::Switched { response, input, head_length, connection } => {
            tunnel::begin(exchange, route, pool, &response, input, head_length, connection).await
        }
    })
}

/// What the access log wants to know of the answer, while it is here.
fn note_for_log(exchange: &mut Exchange<'_>, server: &ServerLease, response: &ResponseHead, bytes: &[u8]) {
    let log = &exchange.site.log;
    if !log.is_on() {
        return;
    }
    if let Stream::Fill(fill) = exchange.stream {
        return fill.note_server(server.server().name());
    }
    exchange.record.first_byte_at_us = exchange.worker.clock.now_us();
    exchange.record.server = Some(std::sync::Arc::clone(server.server().name()));
    if log.needs().contains(Needs::RESPONSE_HEADERS) {
        exchange.record.response_headers =
            Some(log.keep_response_headers(|name| response.value(bytes, name.as_bytes())));
    }
}

fn may_reconnect(exchange: &Exchange<'_>, body: &Body<'_>, failure: &Failure) -> bool {
    failure.reason == Reason::ServerClosed
        && (failure.untouched || (exchange.head.method.is_idempotent() && body.can_be_sent_again(u64::MAX)))
}

fn connect_failure(error: &ConnectError) -> Failure {
    // What this host has not for one server it has not for another either.
    Failure { reason: error.reason(), outcome: error.outcome(), untouched: *error != ConnectError::Host }
}

/// What a server said.
enum Conversation {
    Answered(relay::Answered),
    /// 101: the connection is a tunnel from here on.
    Switched {
        response: ResponseLease,
        input: Lease,
        head_length: usize,
        connection: ServerConnection,
    },
}

/// What comes from a server until the head of its answer is here.
struct Incoming {
    receiver: ResponseReceiver,
    response: ResponseLease,
    /// Held only while there are bytes in it.
    input: Option<Lease>,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1), and it is for
    /// the server to give it.
    awaits_continue: bool,
}

/// A head that is the last one of its kind.
struct Final {
    response: ResponseLease,
    input: Lease,
    head_length: usize,
    upload: Upload,
    /// It is a 101.
    switched: bool,
}

/// Sends the request and takes the head of the answer.
async fn converse(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
    server: &ServerLease,
    mut connection: ServerConnection,
) -> Result<Conversation, Failure> {
    match hear(exchange, route, pool, body, server, &mut connection).await {
        Ok(Final { response, input, head_length, switched: true, .. }) => {
            Ok(Conversation::Switched { response, input, head_length, connection })
        }
        Ok(Final { response, input, head_length, upload, .. }) => {
            Ok(Conversation::Answered(relay::Answered { connection, response, input, head_length, upload }))
        }
        Err(failure) if failure.reason == Reason::ServerClosed => {
            let refusal = io::refusal(&mut connection.stream, exchange.deadline).await;
            connection.stream.say_goodbye();
            Err(refusal.map_or(failure, |refusal| {
                pool.note_handshake(server.server(), &refusal, exchange.deadline.now_ms());
                let untouched = refusal.alert == Some(Alert::Identity) && body.is_whole();
                Failure { reason: Reason::ServerHandshake, outcome: Outcome::ConnectFailed, untouched }
            }))
        }
        Err(failure) => {
            connection.stream.say_goodbye();
            Err(failure)
        }
    }
}

async fn hear(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
    server: &ServerLease,
    connection: &mut ServerConnection,
) -> Result<Final, Failure> {
    if exchange.head.websocket && !connection.stream.takes_websockets() {
        return Err(Failure { reason: Reason::ServerProtocol, outcome: Outcome::Neutral, untouched: true });
    }
    let framing = body.framing(exchange.head.body);
    let mut upload = Upload::default();
    exchange.set_deadline(pool.config.timeouts.first_byte);
    request::send_start(exchange, route, pool, server, body, framing, connection).await?;
    let mut incoming = Incoming {
        receiver: ResponseReceiver::default(),
        response: ResponseLease::take(),
        input: None,
        // One that sends its body without being told to does not wait.
        awaits_continue: exchange.head.expect_continue && !body.is_complete() && body.used_early() == 0,
    };
    loop {
        let received = receive_head(exchange, pool, body, &mut upload, connection, &mut incoming).await?;
        let Some(mut lease) = incoming.input.take() else { return Err(protocol()) };
        let response = &incoming.response;
        match received {
            Received::Final(head_length) if response.status == 101 => {
                if !(exchange.head.websocket && response.upgraded && accepts(exchange, response, &lease)) {
                    return Err(protocol());
                }
                server.report(Outcome::Success, exchange.worker.clock.coarse_ms());
                exchange.places.answered(response.status, exchange.worker.clock.now_us());
                let response = incoming.response;
                return Ok(Final { response, input: lease, head_length, upload, switched: true });
            }
            // HTTP/2 tells a WebSocket from an answer by nothing but the status.
            Received::Final(_) if exchange.websocket_key.is_some() && (200..300).contains(&response.status) => {
                return Err(protocol());
            }
            Received::Final(head_length) => {
                let head_bytes = lease.filled().get(..head_length).unwrap_or_default();
                note_for_log(exchange, server, response, head_bytes);
                cache::note_change(exchange, response, head_bytes);
                server.report(Outcome::Status(response.status), exchange.worker.clock.coarse_ms());
                exchange.places.answered(response.status, exchange.worker.clock.now_us());
                let response = incoming.response;
                return Ok(Final { response, input: lease, head_length, upload, switched: false });
            }
            Received::Interim(head_length) => {
                let head_bytes = lease.filled().get(..head_length).unwrap_or_default();
                // RFC 9110 section 15.2: a 1.0 client does not know 1xx; a 100 goes to who waits for it.
                let goes_on = response.status == 100;
                if exchange.head.version != Version::Http10 && (!goes_on || exchange.head.expect_continue) {
                    pass_interim(exchange, route, response, head_bytes).await?;
                }
                incoming.awaits_continue &= !goes_on;
                lease.consume(head_length);
                incoming.input = Some(lease).filter(|lease| !lease.is_empty());
            }
            Received::Partial => incoming.input = Some(lease),
        }
    }
}

/// The server has understood the key that we made; one of a client's own is for the client to check.
fn accepts(exchange: &Exchange<'_>, response: &ResponseHead, bytes: &Lease) -> bool {
    let accepted = response.value(bytes.filled(), b"sec-websocket-accept");
    exchange.websocket_key.is_none_or(|key| accepted == Some(websocket::accept(&key).as_slice()))
}

fn protocol() -> Failure {
    Failure { reason: Reason::ServerProtocol, outcome: Outcome::CutOff, untouched: false }
}

/// The server closed before it answered.
pub(super) fn closed(untouched: bool) -> Failure {
    Failure { reason: Reason::ServerClosed, outcome: Outcome::CutOff, untouched }
}

/// What woke `receive_head` up.
enum Heard {
    Bytes(usize),
    ServerEnded,
    ClientGone,
    TimedOut,
    BodyBroken(BodyError),
}

/// Reads until a whole response head is in `incoming`, pumping the rest of the request body
/// meanwhile and watching whether the client is still there. Never gives `Partial`.
async fn receive_head(
    exchange: &mut Exchange<'_>,
    pool: &LocalPool,
    body: &mut Body<'_>,
    upload: &mut Upload,
    connection: &mut ServerConnection,
    incoming: &mut Incoming,
) -> Result<Received, Failure> {
    let Incoming { receiver, response, input, awaits_continue } = incoming;
    let mut pace = Pace::begin(exchange).towards(exchange, pool.config.timeouts.idle);
    let mut uploading = !body.is_complete() || upload.waits_for_server();
    let mut watching = true;
    if uploading && !*awaits_continue {
        pace.progress(exchange.deadline, body.received);
    }
    loop {
        if let Some(lease) = input {
            match receiver.receive(response, lease.filled(), exchange.head.method, RESPONSE_HEAD_BYTES) {
                Ok(Received::Partial) => upstream::make_room(lease),
                Ok(received) => return Ok(received),
                Err(_) => return Err(protocol()),
            }
        }
        let heard = poll_fn(|context| {
            if uploading {
                if *awaits_continue {
                    // Its time for the body begins when it begins to send it, not before.
                    pace = Pace::begin(exchange).towards(exchange, pool.config.timeouts.idle);
                }
                match upload.poll(context, body, exchange.stream, &mut connection.stream, exchange.deadline, &pace) {
                    Poll::Ready(Ok(())) => {
                        uploading = false;
                        exchange.set_deadline(pool.config.timeouts.first_byte);
                    }
                    Poll::Ready(Err(UploadError::Body(error))) => return Poll::Ready(Heard::BodyBroken(error)),
                    // The server may have answered before it closed: its answer is read first.
                    Poll::Ready(Err(UploadError::Server)) => {
                        uploading = false;
                        exchange.set_deadline(pool.config.timeouts.first_byte);
                    }
                    Poll::Pending => {}
                }
                *awaits_continue &= !upload.has_begun();
            }
            let lease = input.get_or_insert_with(Lease::medium);
            match connection.stream.poll_read(context, lease.spare()) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Heard::ServerEnded),
                Poll::Ready(Ok(count)) => return Poll::Ready(Heard::Bytes(count)),
                Poll::Pending => {}
            }
            if lease.is_empty() {
                // Thousands of requests may wait for servers: none of them holds a buffer for the answer.
                *input = None;
            }
            if watching && !uploading && body.is_complete() {
                match exchange.stream.poll_gone(context) {
                    Poll::Ready(Gone::Yes) => return Poll::Ready(Heard::ClientGone),
                    // The server works on it already, and who has ended its direction may wait for the
                    // answer, and for those to requests that it sent together with this one. Should it
                    // break its connection later, the write of the answer will tell: an end stays
                    // readable, so that waiting for more behind it needs a second kind of waiting in
                    // every request, and who just closes sends nothing more before we write.
                    Poll::Ready(Gone::SendsNoMore | Gone::SentMore) => watching = false,
                    Poll::Pending => {}
                }
            }
            if exchange.deadline.passed() { Poll::Ready(Heard::TimedOut) } else { Poll::Pending }
        })
        .await;
        match heard {
            Heard::Bytes(count) => {
                if let Some(lease) = input {
                    lease.advance(count);
                }
            }
            Heard::ServerEnded => {
                let cut = input.as_ref().is_some_and(|lease| !lease.is_empty());
                let broken = connection.stream.broken();
                let refused = broken == Some(Broken::Refused);
                let reason = match broken {
                    Some(Broken::Malformed) => Reason::ServerProtocol,
                    _ if cut => Reason::ServerProtocol,
                    _ => Reason::ServerClosed,
                };
                return Err(Failure { reason, outcome: Outcome::CutOff, untouched: refused && body.is_whole() });
            }
            Heard::ClientGone => return Err(ended_by_client(Reason::ClientClosed)),
            Heard::BodyBroken(error) => return Err(ended_by_client(answer::body_reason(&error))),
            Heard::TimedOut if uploading && !*awaits_continue && !upload.waits_for_server() => {
                return Err(ended_by_client(Reason::BodyTimeout));
            }
            Heard::TimedOut => {
                let reason = if exchange.is_over_limit() { Reason::Deadline } else { Reason::FirstByteTimeout };
                return Err(Failure { reason, outcome: Outcome::Timeout, untouched: false });
            }
        }
    }
}

/// The client's doing is never held against the server.
fn ended_by_client(reason: Reason) -> Failure {
    Failure { reason, outcome: Outcome::Neutral, untouched: false }
}

/// Passes a 1xx on (RFC 9110 section 15.2).
async fn pass_interim(
    exchange: &mut Exchange<'_>,
    route: &Route,
    response: &ResponseHead,
    bytes: &[u8],
) -> Result<(), Failure> {
    let mut output = Vec::new();
    let plan = ResponsePlan {
        framing: Framing::Silent,
        connection: ConnectionLine::Silent,
        date: b"",
        cookie: None,
        own_fields: b"",
        hsts: None,
        edits: &route.response_edits,
    };
    forward::write_response(&mut output, response, bytes, &plan);
    io::write_all(exchange.stream, exchange.deadline, &output).await.map_err(|_| ended_by_client(Reason::ClientClosed))
}

/// What the head for the client says about framing and connection.
pub(super) fn response_framing(
    exchange: &mut Exchange<'_>,
    response: &ResponseHead,
) -> (Framing, ConnectionLine, bool) {
    let old_client = exchange.head.version == Version::Http10;
    // A drain may have begun while the server worked: the client is told before it sends another
    // request on this connection (RFC 9112 section 9.6).
    exchange.keep_alive &= !exchange.worker.is_draining();
    let mut rechunk = false;
    let framing = match response.body {
        ResponseBody::Length(length) => Framing::Length(length),
        ResponseBody::Chunked | ResponseBody::UntilClose if old_client => {
            // A 1.0 client knows no chunks: the end of the connection is the end of the body.
            exchange.keep_alive = false;
            Framing::Silent
        }
        ResponseBody::Chunked | ResponseBody::UntilClose => {
            rechunk = true;
            Framing::Chunked
        }
        // HEAD and 304 say the length of what they would have had; 204 and 1xx none.
        ResponseBody::None => match response.content_length {
            Some(length) if response.status != 204 => Framing::Length(length),
            None if exchange.head.method != Method::Head && !matches!(response.status, 204 | 304) => Framing::Length(0),
            _ => Framing::Silent,
        },
    };
    (framing, ConnectionLine::of(exchange.keep_alive, exchange.head.version), rechunk)
}

/// Runs `write` on the worker's scratch space, which is empty and given back when it grew large.
pub(super) fn with_scratch<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        let result = write(scratch);
        if scratch.capacity() > SCRATCH_BYTES {
            *scratch = Vec::new();
        }
        result
    })
}
