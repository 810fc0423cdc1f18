//! Answers of the gateway's own: errors, redirects, fixed texts, TRACE and OPTIONS.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sumun_engine::pace::DOWN;
use sumun_http::forward::{ConnectionLine, Edits, write_hsts};
use sumun_http::{BodyLength, Known, Method, Reject};

use super::bandwidth::{self, Paced};
use super::body::BodyError;
use super::{Ended, Exchange, proxy};
use crate::events::Reason;
use crate::io;
use crate::site::Route;

/// TCP port that a URL with https means (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// An answer that is made here.
struct Answer<'a> {
    status: u16,
    content_type: &'a str,
    body: &'a [u8],
    /// Whole field lines, CRLF included.
    fields: &'a [u8],
    /// The route's, where the answer is a route's.
    edits: &'a Edits,
}

/// The answer to a request that ended by `reason`.
pub(super) async fn of_reason(exchange: &mut Exchange<'_>, reason: Reason) -> Ended {
    if matches!(reason, Reason::ClientClosed | Reason::ClientStalled) {
        exchange.record.status = reason.status();
        return Ended::closing(reason);
    }
    let status = reason.status();
    if ends_connection(exchange, reason) {
        exchange.keep_alive = false;
    }
    let fields: &[u8] = match reason {
        Reason::MethodNotAllowed => b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n",
        Reason::NoServer
        | Reason::QueueFull
        | Reason::QueueTimeout
        | Reason::Shed
        | Reason::OwnLimits
        | Reason::Throttled
        | Reason::SelfCall
        | Reason::AuthBusy => b"Retry-After: 1\r\n",
        _ => b"",
    };
    let sent = send_page(exchange, status, reason, |output| output.extend_from_slice(fields)).await;
    Ended::new(reason, sent)
}

/// The same, with whole field lines that `write_fields` adds.
pub(super) async fn refuse(exchange: &mut Exchange<'_>, reason: Reason, write_fields: impl Fn(&mut Vec<u8>)) -> Ended {
    if ends_connection(exchange, reason) {
        exchange.keep_alive = false;
    }
    let sent = send_page(exchange, reason.status(), reason, write_fields).await;
    Ended::new(reason, sent)
}

/// What those are told who wait, or who were refused a place; `fields` are whole field lines.
pub(super) async fn of_waiting_room(
    exchange: &mut Exchange<'_>,
    (status, reason): (u16, Reason),
    content_type: &str,
    body: &[u8],
    fields: &[u8],
) -> Ended {
    // Nobody reads the body: where the next request begins is not known.
    exchange.keep_alive &= !exchange.head.has_body();
    let answer = Answer { status, content_type, body, fields, edits: &Edits::NONE };
    let sent = send(exchange, &answer).await;
    Ended::new(if sent { reason } else { Reason::ClientClosed }, sent)
}

/// The page for a status that files gave; `fields` are whole field lines.
pub(super) async fn of_file_error(exchange: &mut Exchange<'_>, status: u16, fields: &[u8], reason: Reason) -> Ended {
    let sent = send_page(exchange, status, reason, |output| output.extend_from_slice(fields)).await;
    Ended::new(reason, sent)
}

/// Writes an error and its page. While we are flooded most answers are such ones: they are put together
/// where heads are, and nothing is allocated for them. False: the client did not take it.
async fn send_page(
    exchange: &mut Exchange<'_>,
    status: u16,
    reason: Reason,
    write_fields: impl Fn(&mut Vec<u8>),
) -> bool {
    let id = exchange.request_id();
    exchange.record.status = status;
    // A drain may have begun while the request waited in a queue (RFC 9112 section 9.6).
    exchange.keep_alive &= !exchange.worker.is_draining();
    exchange.set_deadline(exchange.site.config.bounds.idle);
    // What the client did not take at once; `None`: it is gone.
    let rest = poll_fn(|context| {
        Poll::Ready(proxy::with_scratch(|output| {
            let of_body = write_page(exchange, output, status, reason, id.bytes(exchange.bytes), &write_fields);
            exchange.record.bytes_out += of_body as u64;
            let written = match exchange.stream.poll_write(context, output) {
                Poll::Ready(Ok(count)) if count > 0 => count,
                Poll::Ready(_) => return None,
                Poll::Pending => 0,
            };
            Some(output.get(written..).unwrap_or_default().to_vec())
        }))
    });
    match rest.await {
        None => false,
        Some(rest) if rest.is_empty() => true,
        Some(rest) => io::write_all(exchange.stream, exchange.deadline, &rest).await.is_ok(),
    }
}

/// Puts an error together, and says how long its body is. Short HTML, or JSON for who prefers it; the
/// operator's own page where there is one.
fn write_page(
    exchange: &Exchange<'_>,
    output: &mut Vec<u8>,
    status: u16,
    reason: Reason,
    id: &[u8],
    write_fields: impl Fn(&mut Vec<u8>),
) -> usize {
    let mut digits = itoa::Buffer::new();
    let number = digits.format(status).as_bytes();
    let (phrase, reason) = (phrase(status).as_bytes(), reason.as_str().as_bytes());
    let own = exchange.site.error_pages.get(&status);
    let wants_json = || {
        let accept = exchange.head.known(exchange.bytes, Known::Accept);
        sumun_http::negotiate::page_form(accept) == sumun_http::negotiate::PageForm::Json
    };
    let (content_type, body): (&[u8], &[&[u8]]) = if let Some(own) = own {
        (b"text/html; charset=utf-8", &[own])
    } else if wants_json() {
        (
            b"application/json",
            &[
                b"{\"status\":",
                number,
                b",\"error\":\"",
                phrase,
                b"\",\"reason\":\"",
                reason,
                b"\",\"request_id\":\"",
                id,
                b"\"}",
            ],
        )
    } else {
        (
            b"text/html; charset=utf-8",
            &[
                b"<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>",
                number,
                b" ",
                phrase,
                b"</title></head><body><h1>",
                number,
                b" ",
                phrase,
                b"</h1><p>Reason: ",
                reason,
                b". Request: ",
                id,
                b"</p></body></html>\n",
            ],
        )
    };
    let length = body.iter().map(|part| part.len()).sum();
    write_status_line(output, status, &exchange.worker.clock.date(), &Edits::NONE);
    for part in [b"Content-Type: ", content_type, b"\r\nContent-Length: "] {
        output.extend_from_slice(part);
    }
    output.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    output.extend_from_slice(b"\r\n");
    write_hsts(output, exchange.hsts(), &Edits::NONE);
    write_fields(output);
    output.extend_from_slice(&exchange.own_fields);
    for part in [exchange.site.config.request_id.as_bytes(), b": ", id, b"\r\n"] {
        output.extend_from_slice(part);
    }
    let connection = ConnectionLine::of(exchange.keep_alive, exchange.head.version);
    sumun_http::forward::write_connection_line(output, connection);
    output.extend_from_slice(b"\r\n");
    if exchange.head.method == Method::Head {
        return 0;
    }
    for part in body {
        output.extend_from_slice(part);
    }
    length
}

/// Status line and `Date`, unless `edits` replace that.
pub(super) fn write_status_line(output: &mut Vec<u8>, status: u16, date: &[u8], edits: &Edits) {
    output.extend_from_slice(b"HTTP/1.1 ");
    output.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    output.push(b' ');
    output.extend_from_slice(phrase(status).as_bytes());
    if !edits.replaces(Known::Date) {
        output.extend_from_slice(b"\r\nDate: ");
        output.extend_from_slice(date);
    }
    output.extend_from_slice(b"\r\n");
}

/// After these the next request's first byte is not known, or nobody wants to know it. A body that came
/// with its head is passed over, and ends nothing.
fn ends_connection(exchange: &mut Exchange<'_>, reason: Reason) -> bool {
    let is_here = match exchange.head.body {
        BodyLength::None => true,
        BodyLength::Length(length) => {
            let here = usize::try_from(length).ok().filter(|length| *length <= exchange.arrived.len());
            exchange.used = here.unwrap_or(exchange.used);
            here.is_some()
        }
        BodyLength::Chunked => false,
    };
    !is_here
        || matches!(reason, Reason::Rejected(_) | Reason::BodyTooLarge | Reason::HeaderTimeout | Reason::BodyTimeout)
}

/// What a broken request body means.
pub(super) fn body_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Rejected(reject) => Reason::Rejected(*reject),
        BodyError::TooLarge => Reason::BodyTooLarge,
        BodyError::Closed => Reason::ClientClosed,
    }
}

pub(super) async fn of_body_error(exchange: &mut Exchange<'_>, error: &BodyError) -> Ended {
    of_reason(exchange, body_reason(error)).await
}

/// The listener's `redirect_https`: the same URL, with https.
pub(super) async fn to_https(exchange: &mut Exchange<'_>) -> Ended {
    let Some(redirect) = exchange.site.config.redirect_https else {
        return of_reason(exchange, Reason::NoRoute).await;
    };
    let (host, _) = sumun_http::target::split_port(exchange.head.host_value(exchange.bytes));
    if host.is_empty() {
        // A 1.0 client that names nobody: there is no URL to send it to.
        return of_reason(exchange, Reason::Rejected(Reject::HostMissing)).await;
    }
    let mut fields = b"Location: https://".to_vec();
    fields.extend_from_slice(host);
    if redirect.port != HTTPS_PORT {
        fields.push(b':');
        fields.extend_from_slice(itoa::Buffer::new().format(redirect.port).as_bytes());
    }
    if !exchange.head.asterisk {
        fields.extend_from_slice(exchange.path);
    }
    if let Some(query) = exchange.head.query {
        fields.push(b'?');
        fields.extend_from_slice(query.of_bytes(exchange.bytes));
    }
    fields.extend_from_slice(b"\r\n");
    let answer = Answer {
        status: redirect.status,
        content_type: "text/plain; charset=utf-8",
        body: b"",
        fields: &fields,
        edits: &Edits::NONE,
    };
    finish(exchange, &answer).await
}

/// A route's `redirect`.
pub(super) async fn redirect(exchange: &mut Exchange<'_>, route: &Rc<Route>) -> Ended {
    let sumun_config::checked::Action::Redirect(redirect) = &route.config.action else {
        return of_reason(exchange, Reason::NoRoute).await;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let query = exchange.head.query.map_or_else(String::new, |span| text(span.of_bytes(exchange.bytes)));
    let question = if query.is_empty() { String::new() } else { format!("?{query}") };
    let host = text(exchange.head.host_value(exchange.bytes));
    let path = text(exchange.path);
    let to = fill(&redirect.to, &[("{host}", &host), ("{path}", &path), ("{query}", &query), ("{?query}", &question)]);
    let fields = format!("Location: {to}\r\n");
    let answer = Answer {
        status: redirect.status,
        content_type: "text/plain; charset=utf-8",
        body: b"",
        fields: fields.as_bytes(),
        edits: &route.response_edits,
    };
    finish(exchange, &answer).await
}

/// Puts values in place of names, in one pass: what a client sent is never looked at for names.
fn fill(pattern: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(pattern.len() + 64);
    let mut rest = pattern;
    while !rest.is_empty() {
        let found = values.iter().find_map(|(name, value)| Some((rest.strip_prefix(name)?, *value)));
        if let Some((behind, value)) = found {
            filled.push_str(value);
            rest = behind;
        } else {
            let mut characters = rest.chars();
            filled.extend(characters.next());
            rest = characters.as_str();
        }
    }
    filled
}

/// A route's `respond`.
pub(super) async fn respond(exchange: &mut Exchange<'_>, route: &Rc<Route>) -> Ended {
    let sumun_config::checked::Action::Respond(respond) = &route.config.action else {
        return of_reason(exchange, Reason::NoRoute).await;
    };
    let answer = Answer {
        status: respond.status,
        content_type: &respond.content_type,
        body: respond.body.as_bytes(),
        fields: b"",
        edits: &route.response_edits,
    };
    finish(exchange, &answer).await
}

/// What an authority looks for (RFC 8555 section 8.3).
pub(super) async fn proof(exchange: &mut Exchange<'_>, key_authorization: &[u8]) -> Ended {
    let content_type = "application/octet-stream";
    let answer = Answer { status: 200, content_type, body: key_authorization, fields: b"", edits: &Edits::NONE };
    finish(exchange, &answer).await
}

/// RFC 9110 section 9.3.8: the request as it was received, without what could be a secret.
pub(super) async fn trace(exchange: &mut Exchange<'_>) -> Ended {
    let mut body = Vec::new();
    let line_end = memchr::memchr(b'\n', exchange.bytes).map_or(0, |end| end + 1);
    body.extend_from_slice(&exchange.bytes[..line_end]);
    for field in &exchange.head.fields {
        let is_taken_out = field.name.is_empty();
        if is_taken_out || matches!(field.known, Known::Authorization | Known::Cookie | Known::ProxyAuthorization) {
            continue;
        }
        body.extend_from_slice(field.name.of_bytes(exchange.bytes));
        body.extend_from_slice(b": ");
        body.extend_from_slice(field.value.of_bytes(exchange.bytes));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"\r\n");
    let answer = Answer { status: 200, content_type: "message/http", body: &body, fields: b"", edits: &Edits::NONE };
    finish(exchange, &answer).await
}

/// RFC 9110 section 9.3.7: what the gateway as a whole can do.
pub(super) async fn options(exchange: &mut Exchange<'_>) -> Ended {
    let fields: &[u8] = if exchange.site.config.trace {
        b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE\r\n"
    } else {
        b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n"
    };
    finish(exchange, &Answer { status: 204, content_type: "", body: b"", fields, edits: &Edits::NONE }).await
}

async fn finish(exchange: &mut Exchange<'_>, answer: &Answer<'_>) -> Ended {
    if exchange.head.has_body() {
        exchange.keep_alive = false;
    }
    let sent = send(exchange, answer).await;
    Ended::new(if sent { Reason::Done } else { Reason::ClientClosed }, sent)
}

/// Writes the answer. False: the client did not take it.
async fn send(exchange: &mut Exchange<'_>, answer: &Answer<'_>) -> bool {
    exchange.record.status = answer.status;
    // A drain may have begun while the request waited in a queue (RFC 9112 section 9.6).
    exchange.keep_alive &= !exchange.worker.is_draining();
    let mut output = Vec::with_capacity(512 + answer.body.len());
    write_status_line(&mut output, answer.status, &exchange.worker.clock.date(), answer.edits);
    if answer.status != 204 && answer.status != 304 {
        if !answer.content_type.is_empty() && !answer.edits.replaces(Known::ContentType) {
            output.extend_from_slice(b"Content-Type: ");
            output.extend_from_slice(answer.content_type.as_bytes());
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b"Content-Length: ");
        output.extend_from_slice(itoa::Buffer::new().format(answer.body.len()).as_bytes());
        output.extend_from_slice(b"\r\n");
    }
    write_hsts(&mut output, exchange.hsts(), answer.edits);
    answer.edits.write_filtered(&mut output, answer.fields);
    output.extend_from_slice(&exchange.own_fields);
    let connection = ConnectionLine::of(exchange.keep_alive, exchange.head.version);
    sumun_http::forward::write_connection_line(&mut output, connection);
    output.extend_from_slice(b"\r\n");
    if exchange.head.method != Method::Head {
        output.extend_from_slice(answer.body);
    }
    let of_body = if exchange.head.method == Method::Head { 0 } else { answer.body.len() };
    let mut paced = Paced::new(exchange, DOWN);
    bandwidth::write_all(exchange, &mut paced, &output, output.len() - of_body).await.is_ok()
}

/// Reason phrase of a status (RFC 9110 section 15, RFC 6585, RFC 5842).
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn what_a_client_sent_is_not_filled_again() {
        let values = [("{host}", "h"), ("{path}", "/{query}{host}"), ("{query}", "q"), ("{?query}", "?q")];
        assert_eq!(fill("https://{host}{path}{?query}#\u{e9}{x}", &values), "https://h/{query}{host}?q#\u{e9}{x}");
    }
}
