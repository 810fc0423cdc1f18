//! The request on its way to a server: its head, and the body bytes that are here behind it.

use std::future::poll_fn;
use std::task::Poll;

use sumun_engine::Lease;
use sumun_http::Known;
use sumun_http::forward::{self, Framing, RequestPlan};
use sumun_pools::{Lease as ServerLease, Outcome};

use super::body::Body;
use super::proxy::{Failure, closed, with_scratch};
use super::{Exchange, guard};
use crate::events::Reason;
use crate::http2::Broken;
use crate::io::Stream;
use crate::site::Route;
use crate::upstream::{LocalPool, ServerConnection};

/// Who is asked, and how.
#[derive(Clone, Copy)]
struct Asking<'a> {
    route: &'a Route,
    pool: &'a LocalPool,
    server: &'a ServerLease,
    framing: Framing,
    is_http2: bool,
}

/// Writes the request's head, with the body bytes that are here behind it.
fn compose(scratch: &mut Vec<u8>, exchange: &mut Exchange<'_>, asking: Asking<'_>, body: &Body<'_>) {
    let Asking { route, pool, server, framing, is_http2 } = asking;
    let head = exchange.head;
    let client_host = head.host_value(exchange.bytes);
    let host = match &pool.config.host {
        sumun_config::checked::HostHeader::Keep if !client_host.is_empty() => client_host,
        // A 1.0 client need not name a host, but the 1.1 request that it becomes must (RFC 9112
        // section 3.2), and many servers refuse an empty one.
        sumun_config::checked::HostHeader::Keep | sumun_config::checked::HostHeader::Server => {
            server.server().name().as_bytes()
        }
        sumun_config::checked::HostHeader::Fixed(text) => text.as_bytes(),
    };
    let id = exchange.request_id();
    let rewritten = guard::rewrite_path(route, exchange.path);
    let plan = RequestPlan {
        path: if head.asterisk { b"*" } else { rewritten.as_deref().unwrap_or(exchange.path) },
        query: head.query.map(|span| span.of_bytes(exchange.bytes)),
        host,
        client_host,
        client: exchange.client_text.plain(),
        client_node: exchange.client_text.node(),
        scheme: exchange.scheme(),
        trusted: exchange.trusted,
        request_id: (exchange.site.config.request_id.as_bytes(), id.bytes(exchange.bytes)),
        client_subject: exchange.client_subject(),
        loop_id: &exchange.site.loop_id,
        framing,
        websocket: head.websocket,
        websocket_key: exchange.websocket_key.as_ref().map(<[u8; 24]>::as_slice),
        // Trailers of an answer reach the client in any case; only servers of HTTP/2, gRPC among
        // them, make theirs hang on being asked.
        te_trailers: is_http2 && wants_trailers(exchange),
        expect_continue: head.expect_continue && !body.is_complete(),
        max_forwards: guard::max_forwards(exchange),
        edits: exchange.extra_edits.as_ref().unwrap_or_else(|| route.request_edits(exchange.trusted)),
    };
    forward::write_request(scratch, head, exchange.bytes, &plan);
    body.append_to(scratch, framing);
}

/// RFC 9110 section 10.1.4.
fn wants_trailers(exchange: &Exchange<'_>) -> bool {
    exchange.head.has(Known::Te)
        && exchange
            .head
            .values(exchange.bytes, b"te")
            .any(|value| sumun_http::field::list(value).any(|option| option.eq_ignore_ascii_case(b"trailers")))
}

/// The server cannot have read a byte: none was written, and none of a write that did not come back.
fn is_untouched(any: bool, stream: &Stream) -> bool {
    !any && !stream.has_sent_part()
}

/// Sends what `compose` writes. Nearly always the socket takes it at once, out of the worker's
/// scratch space; only what it does not take needs a buffer of its own.
pub(super) async fn send_start(
    exchange: &mut Exchange<'_>,
    route: &Route,
    pool: &LocalPool,
    server: &ServerLease,
    body: &Body<'_>,
    framing: Framing,
    connection: &mut ServerConnection,
) -> Result<(), Failure> {
    let deadline = exchange.deadline;
    let stream = &mut connection.stream;
    let asking = Asking { route, pool, server, framing, is_http2: stream.is_http2() };
    let mut unsent: Option<Lease> = None;
    let mut any = false;
    poll_fn(|context| {
        if unsent.is_none() {
            let polled = with_scratch(|scratch| {
                compose(scratch, exchange, asking, body);
                let polled = stream.poll_write(context, scratch);
                let written = if let Poll::Ready(Ok(count)) = polled { count } else { 0 };
                let mut rest = Lease::of(if written < scratch.len() { scratch.len() - written } else { 0 });
                rest.append(scratch.get(written..).unwrap_or_default());
                unsent = Some(rest);
                polled
            });
            match polled {
                Poll::Ready(Ok(count)) if count > 0 => any = true,
                Poll::Ready(_) => return Poll::Ready(Err(closed(!stream.has_sent_part()))),
                Poll::Pending => {}
            }
        }
        let Some(rest) = &mut unsent else { return Poll::Pending };
        while !rest.is_empty() {
            match stream.poll_write(context, rest.filled()) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    any = true;
                    rest.consume(count);
                }
                Poll::Ready(_) => {
                    let untouched = is_untouched(any, stream) || stream.broken() == Some(Broken::Refused);
                    return Poll::Ready(Err(closed(untouched)));
                }
                Poll::Pending if deadline.passed() => {
                    return Poll::Ready(Err(Failure {
                        reason: Reason::FirstByteTimeout,
                        outcome: Outcome::Timeout,
                        untouched: is_untouched(any, stream),
                    }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}
