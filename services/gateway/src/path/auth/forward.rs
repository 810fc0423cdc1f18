//! Forward authentication: another service is asked by a subrequest. With a 2xx the request passes;
//! any other answer is the client's.

use std::rc::Rc;
use std::time::Duration;

use sumun_config::checked::{ForwardAuth, HostHeader};
use sumun_engine::{Deadline, Lease};
use sumun_http::chunked::Decoder;
use sumun_http::field::is_same_name;
use sumun_http::forward::{self, ConnectionLine, Edits, Framing, ResponsePlan};
use sumun_http::{Known, Method, Received, ResponseBody, ResponseHead, ResponseReceiver, Version};
use sumun_pools::{Caller, Lease as ServerLease, Outcome, Permit, Priority, Tried};

use super::super::queue::Places;
use super::super::{Ended, Exchange, answer, proxy, queue};
use crate::events::{Event, Reason};
use crate::heads::ResponseLease;
use crate::io::{self, Stopped};
use crate::limits::{FORWARD_AUTH_BODY_BYTES, RESPONSE_HEAD_BYTES};
use crate::site::Route;
use crate::upstream::{self, LocalPool, ServerConnection};

/// What the service said.
struct Verdict {
    head: ResponseLease,
    /// What `head` was parsed from.
    bytes: Vec<u8>,
    body: Vec<u8>,
}

/// How one try failed.
struct Failure {
    reason: Reason,
    outcome: Outcome,
}

/// The time that the client's connection has, and the end of the whole request behind it.
#[derive(Clone, Copy)]
struct Patience<'a> {
    deadline: &'a Deadline,
    limit_ms: u64,
}

/// Asks. `Some`: the request does not pass and has been answered here.
pub(super) async fn check(exchange: &mut Exchange<'_>, route: &Rc<Route>, auth: &ForwardAuth) -> Option<Ended> {
    // Without the pool nobody can say that the request may pass.
    let Some(pool) = &route.forward_auth else { return Some(answer::of_reason(exchange, Reason::NoServer).await) };
    if exchange.head.has(Known::CdnLoop) && proxy::came_back(exchange) {
        Event::Loop { listener: &exchange.site.config.name, path: exchange.path }.write();
        return Some(answer::of_reason(exchange, Reason::Loop).await);
    }
    let passed = match ask(exchange, auth, pool).await {
        Ok(verdict) if (200..300).contains(&verdict.head.status) => {
            let request_id = exchange.site.config.request_id.as_bytes();
            let is_ours = |name: &str| {
                let ours = exchange.site.subject_headers.iter().map(|header| header.as_bytes());
                ours.chain([request_id]).any(|ours| is_same_name(name.as_bytes(), ours))
            };
            with_copied(route.request_edits(exchange.trusted), &auth.copy, is_ours, (&verdict.head, &verdict.bytes))
        }
        Ok(verdict) => return Some(pass_on(exchange, route, &verdict).await),
        Err(reason) => Err(reason),
    };
    match passed {
        Ok(edits) => {
            exchange.extra_edits = Some(edits);
            None
        }
        Err(reason) => Some(answer::of_reason(exchange, reason).await),
    }
}

/// One server after the other, until one answers or no other may be asked.
async fn ask(exchange: &mut Exchange<'_>, auth: &ForwardAuth, pool: &Rc<LocalPool>) -> Result<Verdict, Reason> {
    let mut places = Places::of_pool(enter(exchange, pool).await?);
    pool.cell.requests.increment();
    let patience = Patience { deadline: exchange.deadline, limit_ms: exchange.limit_ms };
    let id = exchange.request_id();
    let mut tried = Tried::default();
    let mut tries = 0;
    let mut failed = None;
    loop {
        let mut server = match proxy::pick(exchange, pool, Priority::High, &tried).await {
            Ok(server) => server,
            // There is no other server: how the one before failed says more.
            Err(Reason::NoServer) => return Err(failed.unwrap_or(Reason::NoServer)),
            Err(reason) => return Err(reason),
        };
        tries += 1;
        places.begin(&mut server, exchange.worker.clock.now_us());
        let request = compose(exchange, auth, pool, &server, id.bytes(exchange.bytes));
        let asked = queue::wait(exchange, converse(pool, &server, &request, patience)).await;
        let gone = |reason: &Reason| places.failed(*reason, exchange.worker.clock.now_us());
        let failure = match asked.inspect_err(gone)? {
            Ok(verdict) => {
                places.answered(verdict.head.status, exchange.worker.clock.now_us());
                server.report(Outcome::Status(verdict.head.status), exchange.worker.clock.coarse_ms());
                return Ok(verdict);
            }
            Err(failure) => failure,
        };
        let now_ms = exchange.worker.clock.coarse_ms();
        tried.insert(server.server());
        server.report(failure.outcome, now_ms);
        places.failed(failure.reason, exchange.worker.clock.now_us());
        drop(server);
        // A GET without a body may always be sent again; what the service may have seen counts
        // against the budget.
        let again = match failure.reason {
            Reason::ConnectFailed | Reason::ConnectTimeout | Reason::ServerHandshake => true,
            Reason::ServerClosed => pool.picker.borrow_mut().may_retry(now_ms),
            _ => false,
        };
        if !again || tries > pool.config.retries.tries || exchange.is_over_limit() {
            return Err(failure.reason);
        }
        failed = Some(failure.reason);
        pool.cell.retries.increment();
    }
}

/// A place in the pool's `concurrency`, waited for in its queue.
async fn enter(exchange: &mut Exchange<'_>, pool: &LocalPool) -> Result<Permit, Reason> {
    let admission = pool.pool.admission();
    if let Some(permit) = admission.try_acquire(Caller::Client).map_err(queue::reason)? {
        return Ok(permit);
    }
    let asker = queue::asker(exchange, Caller::Client, Priority::High);
    let waiting = admission.acquire(asker, pool.config.queue.timeout, queue::time_left(exchange));
    queue::wait(exchange, waiting).await?.map_err(queue::reason)
}

/// The subrequest. `X-Forwarded-Uri` is what the client asked for: its path as routes match it,
/// normalised, with its query. What the route makes of it for the server behind (`strip_prefix`,
/// `rewrite`, `request_headers`) does not count here. Nothing else of the client's goes along but
/// what proves who it is.
fn compose(
    exchange: &Exchange<'_>,
    auth: &ForwardAuth,
    pool: &LocalPool,
    server: &ServerLease,
    request_id: &[u8],
) -> Vec<u8> {
    let (head, bytes) = (exchange.head, exchange.bytes);
    let client_host = head.host_value(bytes);
    let host = match &pool.config.host {
        HostHeader::Keep => client_host,
        HostHeader::Server => server.server().name().as_bytes(),
        HostHeader::Fixed(text) => text.as_bytes(),
    };
    let before = |known| if exchange.trusted { head.known(bytes, known) } else { None };
    let mut output = Vec::with_capacity(1024);
    output.extend_from_slice(b"GET ");
    output.extend_from_slice(auth.path.as_bytes());
    output.extend_from_slice(b" HTTP/1.1\r\n");
    line(&mut output, b"Host", &[host]);
    line(&mut output, b"X-Forwarded-Method", &[head.method.as_str().as_bytes()]);
    let path: &[u8] = if head.asterisk { b"*" } else { exchange.path };
    match head.query {
        Some(query) => line(&mut output, b"X-Forwarded-Uri", &[path, b"?", query.of_bytes(bytes)]),
        None => line(&mut output, b"X-Forwarded-Uri", &[path]),
    }
    if !client_host.is_empty() {
        line(&mut output, b"X-Forwarded-Host", &[before(Known::XForwardedHost).unwrap_or(client_host)]);
    }
    line(&mut output, b"X-Forwarded-Proto", &[before(Known::XForwardedProto).unwrap_or_else(|| exchange.scheme())]);
    let own = exchange.client_text.plain();
    list_line(
        &mut output,
        b"X-Forwarded-For",
        exchange,
        if exchange.trusted { Some(Known::XForwardedFor) } else { None },
        own,
    );
    list_line(&mut output, b"CDN-Loop", exchange, Some(Known::CdnLoop), &exchange.site.loop_id);
    let via: &[u8] = match head.version {
        Version::Http10 => b"1.0 sumun",
        Version::Http11 => b"1.1 sumun",
        Version::Http2 => b"2.0 sumun",
    };
    list_line(&mut output, b"Via", exchange, Some(Known::Via), via);
    line(&mut output, exchange.site.config.request_id.as_bytes(), &[request_id]);
    if let Some((name, subject)) = exchange.client_subject() {
        line(&mut output, name, &[subject]);
    }
    for field in head.fields.iter().filter(|field| matches!(field.known, Known::Cookie | Known::Authorization)) {
        line(&mut output, field.name.of_bytes(bytes), &[field.value.of_bytes(bytes)]);
    }
    output.extend_from_slice(b"\r\n");
    output
}

fn line(output: &mut Vec<u8>, name: &[u8], parts: &[&[u8]]) {
    output.extend_from_slice(name);
    output.extend_from_slice(b": ");
    for part in parts {
        output.extend_from_slice(part);
    }
    output.extend_from_slice(b"\r\n");
}

/// The elements that came in, and our own behind them.
fn list_line(output: &mut Vec<u8>, name: &[u8], exchange: &Exchange<'_>, known: Option<Known>, own: &[u8]) {
    let mut value = Vec::new();
    for field in exchange.head.fields.iter().filter(|field| Some(field.known) == known && !field.value.is_empty()) {
        value.extend_from_slice(field.value.of_bytes(exchange.bytes));
        value.extend_from_slice(b", ");
    }
    line(output, name, &[&value, own]);
}

/// One server, on a kept connection or a new one. That it closed a kept one in this very moment is
/// no fault of its own.
async fn converse(
    pool: &Rc<LocalPool>,
    server: &ServerLease,
    request: &[u8],
    patience: Patience<'_>,
) -> Result<Verdict, Failure> {
    if let Some(connection) = pool.take_idle(server) {
        match talk(pool, server, connection, request, patience).await {
            Err(failure) if failure.reason == Reason::ServerClosed => {}
            result => return result,
        }
    }
    patience.set(pool.config.timeouts.connect);
    let connected = pool.connect(server, patience.deadline).await;
    let connection = connected.map_err(|error| Failure { reason: error.reason(), outcome: error.outcome() })?;
    talk(pool, server, connection, request, patience).await
}

/// Sends the request and takes the whole answer.
async fn talk(
    pool: &LocalPool,
    server: &ServerLease,
    mut connection: ServerConnection,
    request: &[u8],
    patience: Patience<'_>,
) -> Result<Verdict, Failure> {
    let mut head = ResponseLease::take();
    patience.set(pool.config.timeouts.first_byte);
    let asked = io::write_all(&mut connection.stream, patience.deadline, request).await;
    let answered = match asked {
        Ok(()) => receive_head(&mut connection, &mut head, patience).await,
        Err(stopped) => Err(patience.failure(&stopped)),
    };
    let (bytes, input) = match answered {
        Ok(answered) => answered,
        Err(failure) if failure.reason == Reason::ServerClosed => {
            let refusal = io::refusal(&mut connection.stream, patience.deadline).await;
            connection.stream.say_goodbye();
            return Err(refusal.map_or(failure, |refusal| {
                pool.note_handshake(server.server(), &refusal, patience.deadline.now_ms());
                Failure { reason: Reason::ServerHandshake, outcome: Outcome::ConnectFailed }
            }));
        }
        Err(failure) => {
            connection.stream.say_goodbye();
            return Err(failure);
        }
    };
    let received = receive_body(&mut connection, head.body, input, pool.config.timeouts.idle, patience).await;
    let body = match received {
        Ok((body, clean)) => {
            if clean && head.keep_alive {
                pool.give_back(server, connection, patience.deadline.now_ms());
            } else {
                connection.stream.say_goodbye();
            }
            body
        }
        Err(reason) => {
            connection.stream.say_goodbye();
            // Nobody reads the body of a 2xx.
            if !(200..300).contains(&head.status) {
                return Err(Failure { reason, outcome: Outcome::CutOff });
            }
            Vec::new()
        }
    };
    Ok(Verdict { head, bytes, body })
}

/// Reads the head of the final answer into `head`. Gives its bytes, and what came behind them.
async fn receive_head(
    connection: &mut ServerConnection,
    head: &mut ResponseHead,
    patience: Patience<'_>,
) -> Result<(Vec<u8>, Lease), Failure> {
    let mut input = Lease::small();
    let mut receiver = ResponseReceiver::default();
    loop {
        let received = receiver.receive(head, input.filled(), Method::Get, RESPONSE_HEAD_BYTES);
        match received.map_err(|_| protocol())? {
            // Nobody asked to switch.
            Received::Final(_) if head.status == 101 => return Err(protocol()),
            Received::Final(length) => {
                let bytes = input.filled().get(..length).unwrap_or_default().to_vec();
                input.consume(length);
                return Ok((bytes, input));
            }
            // The next head may be here already.
            Received::Interim(length) => {
                input.consume(length);
                continue;
            }
            Received::Partial => {}
        }
        upstream::make_room(&mut input);
        match io::read(&mut connection.stream, patience.deadline, input.spare()).await {
            Ok(0) if input.is_empty() => return Err(patience.failure(&Stopped::Broken)),
            Ok(0) => return Err(protocol()),
            Ok(count) => input.advance(count),
            Err(stopped) => return Err(patience.failure(&stopped)),
        }
    }
}

/// Reads the body. True: the connection can carry another request. A body over the bound is
/// refused: cut short it would be another answer than the service gave.
async fn receive_body(
    connection: &mut ServerConnection,
    length: ResponseBody,
    mut input: Lease,
    idle: Duration,
    patience: Patience<'_>,
) -> Result<(Vec<u8>, bool), Reason> {
    let mut body = Vec::new();
    let mut decoder = Decoder::default();
    loop {
        if take_in(length, &mut decoder, &mut input, &mut body)? {
            return Ok((body, input.is_empty()));
        }
        patience.set(idle);
        match io::read(&mut connection.stream, patience.deadline, input.spare()).await {
            Ok(0) if length == ResponseBody::UntilClose => return Ok((body, false)),
            Ok(0) | Err(_) => return Err(Reason::ServerCutShort),
            Ok(count) => input.advance(count),
        }
    }
}

/// Moves body bytes out of `input`, which is empty unless the body is complete (true).
fn take_in(length: ResponseBody, decoder: &mut Decoder, input: &mut Lease, body: &mut Vec<u8>) -> Result<bool, Reason> {
    let complete = match length {
        ResponseBody::None => true,
        ResponseBody::Length(length) => {
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= FORWARD_AUTH_BODY_BYTES)
                .ok_or(Reason::ServerProtocol)?;
            let part = (length - body.len()).min(input.len());
            body.extend_from_slice(input.filled().get(..part).unwrap_or_default());
            input.consume(part);
            body.len() == length
        }
        ResponseBody::Chunked => {
            while !input.is_empty() && !decoder.is_done() && body.len() <= FORWARD_AUTH_BODY_BYTES {
                let step = decoder.decode(input.filled()).map_err(|_| Reason::ServerProtocol)?;
                body.extend_from_slice(input.filled().get(step.data).unwrap_or_default());
                input.consume(step.consumed);
            }
            decoder.is_done()
        }
        ResponseBody::UntilClose => {
            body.extend_from_slice(input.filled());
            input.consume(input.len());
            false
        }
    };
    if body.len() > FORWARD_AUTH_BODY_BYTES { Err(Reason::ServerProtocol) } else { Ok(complete) }
}

impl Patience<'_> {
    /// The deadline of a phase, never behind that of the whole request.
    fn set(self, after: Duration) {
        let at_ms = self.deadline.now_ms().saturating_add(after.as_millis() as u64);
        self.deadline.set_at(at_ms.saturating_add(1).min(self.limit_ms));
    }

    fn failure(self, stopped: &Stopped) -> Failure {
        match stopped {
            Stopped::Broken => Failure { reason: Reason::ServerClosed, outcome: Outcome::CutOff },
            Stopped::Deadline if self.deadline.now_ms() >= self.limit_ms => {
                Failure { reason: Reason::Deadline, outcome: Outcome::Timeout }
            }
            Stopped::Deadline => Failure { reason: Reason::FirstByteTimeout, outcome: Outcome::Timeout },
        }
    }
}

fn protocol() -> Failure {
    Failure { reason: Reason::ServerProtocol, outcome: Outcome::CutOff }
}

/// The service's answer for the client.
async fn pass_on(exchange: &mut Exchange<'_>, route: &Route, verdict: &Verdict) -> Ended {
    if exchange.head.has_body() {
        // Nobody reads the body: where the next request begins is not known.
        exchange.keep_alive = false;
    }
    let status = verdict.head.status;
    let bodiless = matches!(status, 204 | 304);
    let date = exchange.worker.clock.date();
    let plan = ResponsePlan {
        framing: if bodiless { Framing::Silent } else { Framing::Length(verdict.body.len() as u64) },
        connection: ConnectionLine::of(exchange.keep_alive, exchange.head.version),
        date: &date,
        cookie: None,
        own_fields: &exchange.own_fields,
        hsts: exchange.hsts(),
        edits: &route.response_edits,
    };
    let mut output = Vec::with_capacity(512 + verdict.body.len());
    forward::write_response(&mut output, &verdict.head, &verdict.bytes, &plan);
    if exchange.head.method != Method::Head && !bodiless {
        output.extend_from_slice(&verdict.body);
        exchange.record.bytes_out += verdict.body.len() as u64;
    }
    exchange.record.status = status;
    exchange.set_deadline(exchange.site.config.bounds.idle);
    let sent = io::write_all(exchange.stream, exchange.deadline, &output).await.is_ok();
    Ended::new(if sent { Reason::Unauthorized } else { Reason::ClientClosed }, sent)
}

/// Fields that the gateway writes itself: a second one would contradict it, or change where the
/// message ends.
const OWNED: &[Known] = &[
    Known::Host,
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::Upgrade,
    Known::TransferEncoding,
    Known::ContentLength,
    Known::Expect,
    Known::Via,
    Known::CdnLoop,
    Known::MaxForwards,
    Known::Forwarded,
    Known::XForwardedFor,
    Known::XForwardedHost,
    Known::XForwardedProto,
];

/// The route's edits, and those that put the `copy` fields of the answer into the request. What the
/// client sent under these names is removed, whether the answer has them or not: it would be
/// believed. Fields that are ours (the request id, who the client proved to be) stay the gateway's.
fn with_copied(
    edits: &Edits,
    copy: &[String],
    is_ours: impl Fn(&str) -> bool,
    (head, bytes): (&ResponseHead, &[u8]),
) -> Result<Edits, Reason> {
    let mut edits = edits.clone();
    for name in copy {
        if OWNED.contains(&Known::alike(name.as_bytes())) || is_ours(name) {
            continue;
        }
        let set_by_route = edits.sets(name.as_bytes());
        edits.remove(name.clone());
        let nominated = head.nominated.iter().any(|span| span.of_bytes(bytes).eq_ignore_ascii_case(name.as_bytes()));
        if nominated || set_by_route {
            continue;
        }
        for field in head.fields.iter().filter(|field| field.name.of_bytes(bytes).eq_ignore_ascii_case(name.as_bytes()))
        {
            // Left out, the server behind would take the user for nobody.
            let value = std::str::from_utf8(field.value.of_bytes(bytes)).map_err(|_| Reason::ServerProtocol)?;
            edits.add(name.clone(), value.to_owned());
        }
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(edits: &Edits, copy: &[&str], answer: &[u8]) -> Result<Edits, Reason> {
        let mut response = ResponseHead::default();
        response.parse(answer, Method::Get).unwrap();
        let copy: Vec<String> = copy.iter().map(|name| (*name).to_owned()).collect();
        let is_ours = |name: &str| is_same_name(name.as_bytes(), b"X-Request-Id");
        with_copied(edits, &copy, is_ours, (&response, answer))
    }

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Edits {
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Edits::new(owned(set), owned(add), remove.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn named_fields_are_copied_and_the_clients_own_removed() {
        let route = edits(&[("X_Fixed", "1")], &[("X-More", "2")], &["X-Gone"]);
        let answer = b"HTTP/1.1 200 OK\r\nx-user: ann\r\nX-Group: a\r\nX-Other: o\r\nX-Group: b\r\nX-Fixed: no\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(
            copied(&route, &["X-User", "X-Group", "X-Tenant", "X-Fixed"], answer),
            Ok(edits(
                &[("X_Fixed", "1")],
                &[("X-More", "2"), ("X-User", "ann"), ("X-Group", "a"), ("X-Group", "b")],
                &["X-Gone", "X-User", "X-Group", "X-Tenant", "X-Fixed"],
            ))
        );
    }

    #[test]
    fn what_frames_the_request_is_never_copied() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nHost: b\r\nX-Hop: 1\r\nConnection: x-hop\r\nX-Request-Id: 7\r\nVia: x\r\nX_Forwarded_For: 6\r\n\r\n";
        let copy = ["Content-Length", "Host", "X-Hop", "connection", "X-REQUEST_ID", "Via", "X_Forwarded_For"];
        assert_eq!(copied(&Edits::NONE, &copy, answer), Ok(edits(&[], &[], &["X-Hop"])));
    }

    #[test]
    fn a_value_that_is_no_text_does_not_pass() {
        let refused = copied(&Edits::NONE, &["X-User"], b"HTTP/1.1 200 OK\r\nX-User: \xff\r\n\r\n");
        assert_eq!(refused, Err(Reason::ServerProtocol));
    }

    fn body(length: ResponseBody, parts: &[&[u8]]) -> Result<Option<(Vec<u8>, bool)>, Reason> {
        let (mut decoder, mut body) = (Decoder::default(), Vec::new());
        for part in parts {
            let mut input = Lease::of(part.len());
            input.append(part);
            if take_in(length, &mut decoder, &mut input, &mut body)? {
                return Ok(Some((body, input.is_empty())));
            }
            assert!(input.is_empty());
        }
        Ok(None)
    }

    #[test]
    fn bodies_of_all_kinds() {
        assert_eq!(body(ResponseBody::None, &[b""]), Ok(Some((vec![], true))));
        assert_eq!(body(ResponseBody::Length(4), &[b"ab", b"cd"]), Ok(Some((b"abcd".to_vec(), true))));
        assert_eq!(body(ResponseBody::Length(1), &[b"ab"]), Ok(Some((b"a".to_vec(), false))));
        assert_eq!(
            body(ResponseBody::Chunked, &[b"", b"2\r\nab\r", b"\n1\r\nc\r\n0\r\n\r\n"]),
            Ok(Some((b"abc".to_vec(), true)))
        );
        assert_eq!(body(ResponseBody::Chunked, &[b"x"]), Err(Reason::ServerProtocol));
        assert_eq!(body(ResponseBody::UntilClose, &[b"ab", b"c"]), Ok(None));
        let large = vec![b'x'; FORWARD_AUTH_BODY_BYTES];
        assert_eq!(body(ResponseBody::Length(1 + large.len() as u64), &[b""]), Err(Reason::ServerProtocol));
        assert_eq!(body(ResponseBody::UntilClose, &[&large]), Ok(None));
        assert_eq!(body(ResponseBody::UntilClose, &[&large, b"x"]), Err(Reason::ServerProtocol));
    }
}
