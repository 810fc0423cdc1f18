//! The answer on its way to the client: taken from the server as fast as it comes, within bounds,
//! given to the client as fast as it reads.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

use sumun_engine::pace::DOWN;
use sumun_engine::{Lease, buffers};
use sumun_http::ResponseBody;
use sumun_http::chunked::{self, Decoder};
use sumun_http::forward::{self, Edits, ResponsePlan};
use sumun_pools::{Lease as ServerLease, Outcome};

use super::bandwidth::{Paced, wake_at_next_tick};
use super::body::{Body, Upload, UploadError};
use super::splice::Splice;
use super::uptake::Uptake;
use super::{Ended, Exchange, Pace, answer, proxy};
use crate::events::Reason;
use crate::heads::ResponseLease;
use crate::io::{Gone, Stream};
use crate::limits::{AHEAD_BYTES, AHEAD_BYTES_CONNECTION, AHEAD_BYTES_SCARCE, COPY_BYTES, SPLICE_LEAST_BYTES};
use crate::site::Route;
use crate::upstream::{LocalPool, ServerConnection};

/// Buffers handed to the kernel in one write.
const GATHER: usize = 8;

/// A server's answer whose head is here.
pub(super) struct Answered {
    pub(super) connection: ServerConnection,
    pub(super) response: ResponseLease,
    /// The head and what came behind it.
    pub(super) input: Lease,
    pub(super) head_length: usize,
    pub(super) upload: Upload,
}

/// What is still to come from the server.
enum Source {
    Complete,
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
}

/// Bytes on their way to the client.
#[derive(Default)]
struct Output {
    queue: VecDeque<Lease>,
    /// Of the buffers in the queue, however full they are.
    capacity: usize,
    sent: u64,
    /// Bytes that were put in between those of the body.
    framing: u64,
}

/// How the pump ended.
enum Pumped {
    Complete,
    ClientClosed,
    ClientStalled,
    ServerCut,
    Deadline,
    BodyBroken(Reason),
}

/// Relays one answer.
pub(super) async fn run(
    exchange: &mut Exchange<'_>,
    route: &Route,
    pool: &Rc<LocalPool>,
    body: &mut Body<'_>,
    server: ServerLease,
    answered: Answered,
) -> Ended {
    let Answered { mut connection, response, mut input, head_length, mut upload } = answered;
    let mut uploading = !body.is_complete() || upload.waits_for_server();
    if uploading && response.status >= 300 {
        // The server has decided without the rest of the body: the client should stop sending it.
        exchange.keep_alive = false;
    }
    let (framing, line, rechunk) = proxy::response_framing(exchange, &response);
    exchange.record.status = response.status;
    let date = exchange.worker.clock.date();
    let mut output = Output::default();
    let mut source = match response.body {
        ResponseBody::None => Source::Complete,
        ResponseBody::Length(length) => Source::Length(length),
        ResponseBody::Chunked => Source::Chunked(Box::default()),
        ResponseBody::UntilClose => Source::UntilClose,
    };
    let is_fill = exchange.stream.is_fill();
    let cookie = if is_fill { None } else { new_cookie(exchange, pool, &server) };
    let plan = ResponsePlan {
        framing,
        connection: line,
        date: &date,
        cookie: cookie.as_deref(),
        own_fields: &exchange.own_fields,
        hsts: if is_fill { None } else { exchange.hsts() },
        // What is stored is what the server said: each client gets it as its route says.
        edits: if is_fill { &Edits::NONE } else { &route.response_edits },
    };
    let mut paced = Paced::new(exchange, DOWN);
    let mut clean = true;
    let mut awaits_trailers = response.content_length == Some(0) && hold(exchange.stream, &connection.stream);
    let mut head_bytes = 0;
    let begun = poll_fn(|context| {
        Poll::Ready(proxy::with_scratch(|scratch| {
            let (head, behind) = input.filled().split_at(head_length);
            forward::write_response(scratch, &response, head, &plan);
            head_bytes = scratch.len() as u64;
            // Body bytes of known length go out with the head, in one write from where they lie;
            // few of them are copied, which costs less than a second piece.
            let here = if let Source::Length(left) = &mut source {
                let here = behind.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                clean = here == behind.len();
                *left -= here as u64;
                if *left == 0 {
                    source = Source::Complete;
                    awaits_trailers = hold(exchange.stream, &connection.stream);
                }
                here
            } else {
                0
            };
            let now = here.min(paced.allows());
            let copied = if now <= COPY_BYTES { now } else { 0 };
            scratch.extend_from_slice(behind.get(..copied).unwrap_or_default());
            let rest = behind.get(copied..now).unwrap_or_default();
            let result = output.send_first(context, exchange.stream, scratch, rest);
            paced.note(now);
            output.push_bytes(behind.get(now..here).unwrap_or_default());
            input.consume(head_length + here);
            result
        }))
    })
    .await;
    if begun && !input.is_empty() {
        match take_in(&mut source, input, rechunk, &mut output) {
            Some(quiet) => clean &= quiet,
            None => {
                connection.stream.say_goodbye();
                server.report(Outcome::CutOff, exchange.worker.clock.coarse_ms());
                return Ended::aborted(Reason::ServerCutShort);
            }
        }
    } else {
        drop(input);
    }
    if !begun {
        connection.stream.say_goodbye();
        return Ended::aborted(Reason::ClientClosed);
    }

    let mut server_side = Some((connection, server));
    let keep_server = response.keep_alive;
    let idle = pool.config.timeouts.idle;
    let pace = Pace::begin(exchange).towards(exchange, idle).in_answer(exchange);
    let mut splice: Option<Splice> = None;
    let mut uptake = Uptake::new(exchange, idle);
    let mut watching = true;
    let mut paused = false;
    // Until here it was the time for the first byte.
    exchange.set_deadline(idle);
    let pumped = poll_fn(|context| {
        loop {
            let mut moved = false;
            if uploading && let Some((connection, _)) = &mut server_side {
                match upload.poll(context, body, exchange.stream, &mut connection.stream, exchange.deadline, &pace) {
                    Poll::Ready(Ok(())) => uploading = false,
                    Poll::Ready(Err(UploadError::Server)) => {
                        uploading = false;
                        exchange.keep_alive = false;
                        clean = false;
                    }
                    Poll::Ready(Err(UploadError::Body(error))) => {
                        return Poll::Ready(Pumped::BodyBroken(answer::body_reason(&error)));
                    }
                    Poll::Pending => {}
                }
            }
            if awaits_trailers
                && let (Stream::Http2(client), Some((connection, _))) = (&mut *exchange.stream, &server_side)
                && let Stream::Http2(server) = &connection.stream
                && let Poll::Ready(lines) = server.poll_trailers(context)
            {
                client.hold(lines);
                awaits_trailers = false;
            }
            if matches!(source, Source::Complete)
                && let Some((mut connection, server)) = server_side.take_if(|_| !uploading && !awaits_trailers)
            {
                // The server is free for the next request, however slow this client reads.
                exchange.places.server_is_free();
                if keep_server && clean {
                    pool.give_back(&server, connection, exchange.deadline.now_ms());
                } else {
                    connection.stream.say_goodbye();
                }
            }
            // What is in the pipe came first and goes first.
            let mut blocked = false;
            if let Some(moving) = splice.as_mut().filter(|moving| moving.held() > 0) {
                match moving.poll_empty(context, exchange.stream) {
                    Poll::Ready(Ok(count)) => {
                        output.sent += count as u64;
                        moved = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Pumped::ClientClosed),
                    Poll::Pending => blocked = true,
                }
                blocked |= moving.held() > 0;
            }
            if !blocked {
                match output.poll_flush(context, exchange.stream, &mut paced) {
                    Poll::Ready(Ok(count)) => moved |= count > 0,
                    Poll::Ready(Err(_)) => return Poll::Ready(Pumped::ClientClosed),
                    Poll::Pending => {}
                }
                blocked = !output.queue.is_empty();
            }
            match (&mut source, &mut server_side) {
                (Source::Complete, _) | (_, None) if !blocked && !awaits_trailers => {
                    return Poll::Ready(Pumped::Complete);
                }
                (Source::Complete, _) | (_, None) => {}
                (Source::Length(left), Some((connection, _)))
                    if !blocked
                        && !uploading
                        && !paced.is_on()
                        && can_splice(&mut splice, exchange.stream, &connection.stream, *left) =>
                {
                    let Some(moving) = &mut splice else { return Poll::Ready(Pumped::ServerCut) };
                    match moving.poll_fill(context, &connection.stream, left) {
                        Poll::Ready(Ok(())) => moved = true,
                        Poll::Ready(Err(_)) => return Poll::Ready(Pumped::ServerCut),
                        Poll::Pending => {}
                    }
                    if *left == 0 {
                        source = Source::Complete;
                    }
                }
                // Ahead of a slow client only what lets the server go.
                (Source::Length(left), _) if blocked && *left > AHEAD_BYTES as u64 => {}
                (_, Some((connection, _))) if output.capacity < ahead_bytes(exchange.stream) => {
                    let mut lease = if ahead_bytes(exchange.stream) < AHEAD_BYTES_SCARCE {
                        Lease::medium()
                    } else {
                        Lease::large()
                    };
                    match read_some(&source, &mut connection.stream, context, &mut lease) {
                        Poll::Ready(Ok(0)) => match source {
                            Source::UntilClose => {
                                source = Source::Complete;
                                if rechunk {
                                    output.push_framing(b"0\r\n\r\n");
                                }
                                moved = true;
                            }
                            _ => return Poll::Ready(Pumped::ServerCut),
                        },
                        Poll::Ready(Ok(_)) => {
                            let has_length = matches!(source, Source::Length(_));
                            match take_in(&mut source, lease, rechunk, &mut output) {
                                Some(quiet) => clean &= quiet,
                                None => return Poll::Ready(Pumped::ServerCut),
                            }
                            awaits_trailers = has_length
                                && matches!(source, Source::Complete)
                                && hold(exchange.stream, &connection.stream);
                            moved = true;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(Pumped::ServerCut),
                        Poll::Pending => {}
                    }
                }
                _ => {}
            }
            if !moved {
                break;
            }
            exchange.set_deadline(idle);
        }
        let waits_for_server = output.queue.is_empty() && splice.as_ref().is_none_or(|moving| moving.held() == 0);
        // A client that left an event stream would otherwise be noticed at the next event only.
        if watching && waits_for_server && !uploading && body.is_complete() {
            match exchange.stream.poll_gone(context) {
                Poll::Ready(Gone::Yes) => return Poll::Ready(Pumped::ClientClosed),
                // It may have ended its direction and still want the rest of its answer.
                Poll::Ready(Gone::SendsNoMore | Gone::SentMore) => watching = false,
                Poll::Pending => {}
            }
        }
        if paced.waits() || (uploading && body.waits_for_share()) {
            // That is our doing: nobody is idle.
            paused = true;
            uptake.pauses(exchange.deadline.now_ms());
            if exchange.is_over_limit() {
                return Poll::Ready(Pumped::Deadline);
            }
            wake_at_next_tick(exchange.deadline, exchange.limit_ms);
            return Poll::Pending;
        }
        if std::mem::take(&mut paused) {
            exchange.set_deadline(idle);
        }
        if waits_for_server || uploading {
            uptake.pauses(exchange.deadline.now_ms());
        } else if !exchange.is_over_limit() {
            uptake.sent = output.sent;
            return if uptake.awaits_client(exchange) { Poll::Pending } else { Poll::Ready(Pumped::ClientStalled) };
        }
        if !exchange.deadline.passed() {
            return Poll::Pending;
        }
        Poll::Ready(match waits_for_server {
            _ if exchange.is_over_limit() => Pumped::Deadline,
            _ if uploading && !upload.waits_for_server() => Pumped::BodyBroken(Reason::BodyTimeout),
            // All that was promised is here; nobody waits longer for what may not come.
            true if awaits_trailers => Pumped::Complete,
            true => Pumped::ServerCut,
            false => Pumped::ClientStalled,
        })
    })
    .await;

    exchange.record.bytes_out += output.sent.saturating_sub(head_bytes + output.framing);
    let (reason, outcome) = match pumped {
        Pumped::Complete => {
            return Ended::new(Reason::Done, !uploading && body.is_complete());
        }
        Pumped::ClientClosed => (Reason::ClientClosed, Outcome::Neutral),
        Pumped::ClientStalled => (Reason::ClientStalled, Outcome::Neutral),
        Pumped::BodyBroken(reason) => (reason, Outcome::Neutral),
        Pumped::Deadline => (Reason::Deadline, Outcome::Timeout),
        Pumped::ServerCut => (Reason::ServerCutShort, Outcome::CutOff),
    };
    if let Some((mut connection, server)) = server_side {
        connection.stream.say_goodbye();
        server.report(outcome, exchange.worker.clock.coarse_ms());
    }
    Ended::aborted(reason)
}

/// The body of known length is here in full: has its end put off, where both sides can have trailers
/// behind it and none are ruled out.
fn hold(client: &mut Stream, server: &Stream) -> bool {
    match (client, server) {
        (Stream::Http2(client), Stream::Http2(server)) if server.may_have_trailers() => {
            client.hold(Vec::new());
            true
        }
        _ => false,
    }
}

/// The cookie that keeps the client at this server, unless it has it already.
fn new_cookie(exchange: &Exchange<'_>, pool: &LocalPool, server: &ServerLease) -> Option<Vec<u8>> {
    let sticky = pool.config.sticky.as_ref()?;
    let picker = pool.picker.borrow();
    let value = picker.cookie_for(server.server())?;
    if proxy::sticky_cookie(exchange, pool) == Some(value.as_bytes()) {
        return None;
    }
    Some([sticky.cookie.as_bytes(), b"=", value.as_bytes(), b"; Path=/; HttpOnly; SameSite=Lax"].concat())
}

/// How far a response is taken from its server ahead of this client.
fn ahead_bytes(client: &Stream) -> usize {
    let most = if buffers::within_budget() { AHEAD_BYTES } else { AHEAD_BYTES_SCARCE };
    most.min(AHEAD_BYTES_CONNECTION / client.siblings().max(1))
}

/// So much is left that it pays to have the kernel move it, and there is a pipe.
fn can_splice(splice: &mut Option<Splice>, client: &Stream, server: &Stream, left: u64) -> bool {
    if left < SPLICE_LEAST_BYTES || !client.is_socket() || !server.is_socket() {
        return false;
    }
    if splice.is_none() {
        *splice = Splice::take();
    }
    splice.is_some()
}

/// One read, never past the end of a body of known length.
fn read_some(
    source: &Source,
    server: &mut Stream,
    context: &mut Context<'_>,
    lease: &mut Lease,
) -> Poll<io::Result<usize>> {
    let spare = lease.spare();
    let room = match source {
        Source::Length(left) => spare.len().min(usize::try_from(*left).unwrap_or(usize::MAX)),
        _ => spare.len(),
    };
    let polled = server.poll_read(context, &mut spare[..room]);
    if let Poll::Ready(Ok(count)) = polled {
        lease.advance(count);
    }
    polled
}

/// Puts body bytes from the server into the output. `Some(false)`: the server sent more than its
/// own framing said, its connection cannot be used again. `None`: broken chunks.
fn take_in(source: &mut Source, mut lease: Lease, rechunk: bool, output: &mut Output) -> Option<bool> {
    let mut clean = true;
    match source {
        Source::Complete => clean = lease.is_empty(),
        Source::Length(left) => {
            if lease.len() as u64 > *left {
                lease.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                clean = false;
            }
            *left -= lease.len() as u64;
            if *left == 0 {
                *source = Source::Complete;
            }
            output.push(lease);
        }
        Source::UntilClose => output.push_body(lease, rechunk),
        Source::Chunked(decoder) => {
            let mut at = 0;
            let bytes = lease.filled();
            let mut framed = Vec::with_capacity(bytes.len() + 32);
            let mut of_body = 0;
            while at < bytes.len() && !decoder.is_done() {
                let rest = &bytes[at..];
                let step = decoder.decode(rest).ok()?;
                let data = &rest[step.data.clone()];
                at += step.consumed;
                if data.is_empty() {
                    continue;
                }
                if rechunk {
                    chunked::begin_chunk(&mut framed, data.len());
                }
                framed.extend_from_slice(data);
                of_body += data.len();
                if rechunk {
                    framed.extend_from_slice(b"\r\n");
                }
            }
            if decoder.is_done() {
                clean = at == bytes.len();
                if rechunk {
                    chunked::end_body(&mut framed, decoder.trailers());
                }
                *source = Source::Complete;
            }
            drop(lease);
            output.framing += (framed.len() - of_body) as u64;
            output.push_bytes(&framed);
        }
    }
    Some(clean)
}

impl Output {
    fn push(&mut self, lease: Lease) {
        // Few bytes go where there is room: a server that drips must not cost a buffer a drop.
        if lease.len() <= COPY_BYTES
            && let Some(last) = self.queue.back_mut()
            && last.spare().len() >= lease.len()
        {
            last.append(lease.filled());
        } else if !lease.is_empty() {
            self.capacity += lease.capacity();
            self.queue.push_back(lease);
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        let taken = self.queue.back_mut().map_or(0, |last| last.append(bytes));
        let rest = bytes.get(taken..).unwrap_or_default();
        if !rest.is_empty() {
            let mut lease = Lease::of(rest.len());
            lease.append(rest);
            self.push(lease);
        }
    }

    fn push_framing(&mut self, bytes: &[u8]) {
        self.framing += bytes.len() as u64;
        self.push_bytes(bytes);
    }

    fn push_body(&mut self, lease: Lease, rechunk: bool) {
        if rechunk {
            let mut line = Vec::with_capacity(18);
            chunked::begin_chunk(&mut line, lease.len());
            self.push_framing(&line);
            self.push(lease);
            self.push_framing(b"\r\n");
        } else {
            self.push(lease);
        }
    }

    /// Writes the head, and body bytes behind it, before anything else has been written; what the
    /// socket does not take is kept. False: the client is gone.
    fn send_first(&mut self, context: &mut Context<'_>, client: &mut Stream, head: &[u8], body: &[u8]) -> bool {
        let polled = if body.is_empty() {
            client.poll_write(context, head)
        } else {
            client.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(body)])
        };
        let written = match polled {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(_)) => return false,
            Poll::Pending => 0,
        };
        self.sent += written as u64;
        self.push_bytes(head.get(written..).unwrap_or_default());
        self.push_bytes(body.get(written.saturating_sub(head.len())..).unwrap_or_default());
        true
    }

    /// Writes until everything is out or the client takes no more. Gives the bytes written now.
    fn poll_flush(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        paced: &mut Paced,
    ) -> Poll<io::Result<usize>> {
        let mut total = 0;
        while let Some(first) = self.queue.front() {
            // What a write that is pending was of comes first again.
            let most = paced.allows().max(client.owed());
            if most == 0 {
                return if total > 0 { Poll::Ready(Ok(total)) } else { Poll::Pending };
            }
            let polled = if self.queue.len() == 1 || first.len() >= most {
                let first = first.filled();
                client.poll_write(context, first.get(..most).unwrap_or(first))
            } else {
                let mut parts = [IoSlice::new(&[]); GATHER];
                let mut count = 0;
                let mut left = most;
                for (part, lease) in parts.iter_mut().zip(&self.queue) {
                    if left == 0 {
                        break;
                    }
                    let bytes = lease.filled();
                    let bytes = bytes.get(..left).unwrap_or(bytes);
                    left -= bytes.len();
                    *part = IoSlice::new(bytes);
                    count += 1;
                }
                client.poll_write_vectored(context, &parts[..count])
            };
            match polled {
                Poll::Pending => return if total > 0 { Poll::Ready(Ok(total)) } else { Poll::Pending },
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(written)) => {
                    total += written;
                    paced.note(written);
                    self.consume(written);
                }
            }
        }
        Poll::Ready(Ok(total))
    }

    fn consume(&mut self, mut written: usize) {
        self.sent += written as u64;
        while let Some(first) = self.queue.front_mut() {
            let part = written.min(first.len());
            first.consume(part);
            written -= part;
            if !first.is_empty() {
                break;
            }
            self.capacity -= first.capacity();
            self.queue.pop_front();
            if written == 0 {
                break;
            }
        }
    }
}
