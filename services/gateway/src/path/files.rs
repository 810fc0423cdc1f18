//! A request that files of a root answer.

use std::future::poll_fn;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sumun_config::checked::PathMatch;
use sumun_engine::Lease;
use sumun_engine::pace::{DOWN, UP};
use sumun_http::forward::ConnectionLine;
use sumun_http::{Method, Version, chunked};

use super::bandwidth::{self, Paced};
use super::body::Body;
use super::uptake::Uptake;
use super::{Ended, Exchange, Pace, answer, proxy};
use crate::events::Reason;
use crate::files::{
    CompressedStream, FileAnswer, FileBody, FileCache, FileFields, FileRoot, FilesRequest, OpenFile, Part, Upload,
};
use crate::io;
use crate::limits::{COPY_BYTES, HEAD_WAITS_BYTES, SENDFILE_BYTES};
use crate::site::Route;

/// Serves one request from `root`.
pub(super) async fn serve(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    root: &Arc<FileRoot>,
    cache: &Rc<FileCache>,
) -> Ended {
    let head = exchange.head;
    let Some(request) = request_of(exchange, route) else {
        return answer::of_reason(exchange, Reason::NoRoute).await;
    };
    if root.takes_upload(head.method) {
        return match upload(exchange, route, root, cache, &request).await {
            Ok(answer) => send(exchange, route, answer).await,
            Err(reason) => answer::of_reason(exchange, reason).await,
        };
    }
    if head.has_body() {
        // Nobody reads it: what follows it on this connection cannot be found.
        exchange.keep_alive = false;
    }
    let answer = match cache.lookup(root, &request) {
        Some(answer) => answer,
        None => cache.answer(root, &request).await,
    };
    send(exchange, route, answer).await
}

/// Serves one request that no server has answered, because of `reason`, from the route's stand-in. `None`:
/// it has nothing for it.
pub(super) async fn stand_in(exchange: &mut Exchange<'_>, route: &Rc<Route>, reason: Reason) -> Option<Ended> {
    let (root, cache) = route.degrade.as_ref()?;
    let request = request_of(exchange, route)?;
    let answer = match cache.lookup(root, &request) {
        Some(answer) => answer,
        None => cache.answer(root, &request).await,
    };
    if matches!(answer.body, FileBody::ErrorPage) {
        return None;
    }
    if exchange.head.has_body() {
        exchange.keep_alive = false;
    }
    let ended = send(exchange, route, answer).await;
    Some(if ended.abort { ended } else { Ended { reason, ..ended } })
}

/// `None`: its path is no text, and no file has such a name.
fn request_of<'a>(exchange: &Exchange<'a>, route: &'a Route) -> Option<FilesRequest<'a>> {
    let (head, bytes) = (exchange.head, exchange.bytes);
    let url_path = std::str::from_utf8(exchange.path).ok()?;
    Some(FilesRequest {
        method: head.method,
        path: below(&route.config.path, url_path),
        url_path,
        query: head.query.and_then(|span| std::str::from_utf8(span.of_bytes(bytes)).ok()),
        fields: FileFields::collect(
            head.fields.iter().map(|field| (field.known, field.name.of_bytes(bytes), field.value.of_bytes(bytes))),
        ),
        now_unix_seconds: exchange.worker.clock.unix_seconds(),
    })
}

/// The path below the route's prefix, its slash included.
fn below<'a>(pattern: &PathMatch, path: &'a str) -> &'a str {
    match pattern {
        PathMatch::Prefix(prefix) => path.get(prefix.len() - 1..).unwrap_or_default(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => path,
    }
}

/// Takes a PUT's body in and puts it in place.
async fn upload(
    exchange: &mut Exchange<'_>,
    route: &Rc<Route>,
    root: &Arc<FileRoot>,
    cache: &Rc<FileCache>,
    request: &FilesRequest<'_>,
) -> Result<FileAnswer, Reason> {
    let bound = route.config.body.unwrap_or(exchange.site.config.bounds.body);
    let body = Body::begin(exchange.head.body, exchange.arrived, bound, &exchange.site.subject_headers)
        .map_err(|error| answer::body_reason(&error))?;
    let mut body = body.paced(Paced::new(exchange, UP));
    let upload = match Upload::begin(cache, root, request).await {
        Ok(upload) => upload,
        Err(answer) => {
            exchange.keep_alive = false;
            return Ok(answer);
        }
    };
    let result = take_body(exchange, &mut body, upload).await;
    exchange.used = body.used_early();
    exchange.leftover = body.leftover.take();
    exchange.record.bytes_in += body.received;
    result
}

/// Writes a body to where it belongs as it comes.
async fn take_body(exchange: &mut Exchange<'_>, body: &mut Body<'_>, mut upload: Upload) -> Result<FileAnswer, Reason> {
    if exchange.head.expect_continue && !body.is_complete() {
        let go_on = io::write_all(exchange.stream, exchange.deadline, b"HTTP/1.1 100 Continue\r\n\r\n").await;
        go_on.map_err(|_| Reason::ClientClosed)?;
    }
    let pace = Pace::begin(exchange);
    pace.progress(exchange.deadline, body.received);
    loop {
        let mut refused = None;
        for part in body.take_here() {
            if let Err(answer) = upload.write(&part).await {
                refused = Some(answer);
                break;
            }
        }
        if let Some(answer) = refused {
            exchange.keep_alive = false;
            return Ok(answer);
        }
        if body.is_complete() {
            break;
        }
        let (stream, deadline, limit_ms) = (&mut *exchange.stream, exchange.deadline, exchange.limit_ms);
        poll_fn(|context| match body.poll_collect(context, stream) {
            Poll::Pending if body.waits_for_share() && deadline.now_ms() < limit_ms => {
                pace.pause(deadline);
                Poll::Pending
            }
            Poll::Pending => {
                pace.go_on(deadline, body.received);
                if deadline.passed() { Poll::Ready(Err(Reason::BodyTimeout)) } else { Poll::Pending }
            }
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| answer::body_reason(&error))),
        })
        .await?;
        pace.progress(exchange.deadline, body.received);
    }
    Ok(upload.commit().await)
}

/// Sends what the files gave.
async fn send(exchange: &mut Exchange<'_>, route: &Rc<Route>, answer: FileAnswer) -> Ended {
    exchange.record.status = answer.status;
    exchange.keep_alive &= !exchange.worker.is_draining();
    let reason = reason_of(answer.status);
    if matches!(answer.body, FileBody::ErrorPage) {
        tracing::debug!(path = %String::from_utf8_lossy(exchange.path), status = answer.status, "{}", answer.reason);
        return answer::of_file_error(exchange, answer.status, &answer.head, reason).await;
    }
    let stream_chunked = matches!(answer.body, FileBody::Stream(_)) && exchange.head.version != Version::Http10;
    if matches!(answer.body, FileBody::Stream(_)) && !stream_chunked {
        exchange.keep_alive = false;
    }
    exchange.set_deadline(exchange.site.config.bounds.idle);
    let mut paced = Paced::new(exchange, DOWN);
    let result = match answer.body {
        FileBody::Memory { bytes, range } if paced.is_on() => {
            let body = bytes.get(range).unwrap_or_default();
            let mut all = HeadFacts::of(exchange, answer.status).to_vec(route, &answer.head, false);
            let head = all.len();
            all.extend_from_slice(body);
            bandwidth::write_all(exchange, &mut paced, &all, head).await
        }
        FileBody::Memory { bytes, range } => {
            let body = bytes.get(range).unwrap_or_default();
            send_memory(exchange, route, answer.status, &answer.head, body).await
        }
        FileBody::Empty | FileBody::ErrorPage => send_memory(exchange, route, answer.status, &answer.head, b"").await,
        FileBody::File { file, offset, length } => {
            let head = HeadFacts::of(exchange, answer.status).to_vec(route, &answer.head, false);
            send_file(exchange, &mut paced, head, &file, (offset, length)).await
        }
        FileBody::Parts(parts) => {
            let head = HeadFacts::of(exchange, answer.status).to_vec(route, &answer.head, false);
            send_parts(exchange, &mut paced, &head, parts).await
        }
        FileBody::Stream(stream) => {
            let head = HeadFacts::of(exchange, answer.status).to_vec(route, &answer.head, stream_chunked);
            send_stream(exchange, &mut paced, &head, stream, stream_chunked).await
        }
    };
    match result {
        Ok(()) => Ended::new(reason, true),
        Err(reason) => Ended::aborted(reason),
    }
}

/// Why files gave this status.
fn reason_of(status: u16) -> Reason {
    match status {
        403 => Reason::Denied,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        400..=499 => Reason::Refused,
        503 => Reason::DiskBusy,
        507 => Reason::DiskFull,
        500..=599 => Reason::FileUnreadable,
        _ => Reason::Done,
    }
}

/// What a head needs to know of its request.
struct HeadFacts<'a> {
    status: u16,
    date: [u8; 29],
    connection: ConnectionLine,
    hsts: Option<&'a [u8]>,
    own_fields: Vec<u8>,
}

impl<'a> HeadFacts<'a> {
    fn of(exchange: &Exchange<'a>, status: u16) -> Self {
        let connection = ConnectionLine::of(exchange.keep_alive, exchange.head.version);
        let own_fields = exchange.own_fields.clone();
        Self { status, date: exchange.worker.clock.date(), connection, hsts: exchange.hsts(), own_fields }
    }

    fn write(&self, output: &mut Vec<u8>, route: &Route, fields: &[u8], is_chunked: bool) {
        answer::write_status_line(output, self.status, &self.date, &route.response_edits);
        sumun_http::forward::write_hsts(output, self.hsts, &route.response_edits);
        route.response_edits.write_filtered(output, fields);
        output.extend_from_slice(&self.own_fields);
        if is_chunked {
            output.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        sumun_http::forward::write_connection_line(output, self.connection);
        output.extend_from_slice(b"\r\n");
    }

    fn to_vec(&self, route: &Route, fields: &[u8], is_chunked: bool) -> Vec<u8> {
        let mut output = Vec::with_capacity(512);
        self.write(&mut output, route, fields, is_chunked);
        output
    }
}

/// Head and body in one write; a small body is copied behind the head.
async fn send_memory(
    exchange: &mut Exchange<'_>,
    route: &Route,
    status: u16,
    fields: &[u8],
    body: &[u8],
) -> Result<(), Reason> {
    let mut sent = 0;
    let mut uptake: Option<Uptake> = None;
    let mut head: Option<Vec<u8>> = None;
    let copies = body.len() <= COPY_BYTES;
    let facts = HeadFacts::of(exchange, status);
    poll_fn(|context| {
        loop {
            let polled = match &head {
                None => proxy::with_scratch(|scratch| {
                    facts.write(scratch, route, fields, false);
                    let polled = if copies {
                        scratch.extend_from_slice(body);
                        exchange.stream.poll_write(context, scratch)
                    } else {
                        exchange.stream.poll_write_vectored(context, &[IoSlice::new(scratch), IoSlice::new(body)])
                    };
                    let total = if copies { scratch.len() } else { scratch.len() + body.len() };
                    if !matches!(polled, Poll::Ready(Ok(count)) if count == total) {
                        head = Some(scratch.clone());
                    }
                    (polled, total)
                }),
                Some(head) => {
                    let rest_of_head = head.get(sent..).unwrap_or_default();
                    let rest_of_body =
                        if copies { &[] } else { body.get(sent.saturating_sub(head.len())..).unwrap_or_default() };
                    let parts = [IoSlice::new(rest_of_head), IoSlice::new(rest_of_body)];
                    let total = if copies { head.len() } else { head.len() + body.len() };
                    (exchange.stream.poll_write_vectored(context, &parts), total)
                }
            };
            match polled {
                (Poll::Ready(Ok(count)), total) if count > 0 => {
                    sent += count;
                    if sent == total {
                        exchange.record.bytes_out += body.len() as u64;
                        return Poll::Ready(Ok(()));
                    }
                }
                (Poll::Ready(_), _) => return Poll::Ready(Err(Reason::ClientClosed)),
                (Poll::Pending, _) => {
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

/// Writes a head that so many bytes follow at once, which the kernel moves into the socket. It holds back a head
/// behind which nothing comes for 200 ms.
pub(super) async fn send_head(
    exchange: &mut Exchange<'_>,
    uptake: &mut Uptake,
    head: &[u8],
    behind: u64,
) -> Result<(), Reason> {
    if behind == 0 || behind > HEAD_WAITS_BYTES || !exchange.stream.is_socket() {
        return write_head(exchange, head).await;
    }
    let mut rest = head;
    while !rest.is_empty() {
        let send = |socket: BorrowedFd<'_>| sumun_host::sockets::send_more(socket, rest);
        let count = send_moved(exchange, uptake, send).await?;
        rest = rest.get(count..).unwrap_or_default();
    }
    uptake.pauses(exchange.deadline.now_ms());
    Ok(())
}

async fn write_head(exchange: &mut Exchange<'_>, head: &[u8]) -> Result<(), Reason> {
    io::write_all(exchange.stream, exchange.deadline, head).await.map_err(of_stop)
}

/// Writes a piece in which there are so many bytes of the body.
async fn write(exchange: &mut Exchange<'_>, paced: &mut Paced, bytes: &[u8], of_body: usize) -> Result<(), Reason> {
    bandwidth::write_all(exchange, paced, bytes, bytes.len() - of_body).await
}

fn of_stop(stopped: io::Stopped) -> Reason {
    match stopped {
        io::Stopped::Deadline => Reason::ClientStalled,
        io::Stopped::Broken => Reason::ClientClosed,
    }
}

/// The kernel moves the file's pages into the socket, behind the head if there is one. What is not in memory is read by the
/// blocking pool first: a disk never stops a worker.
async fn send_file(
    exchange: &mut Exchange<'_>,
    paced: &mut Paced,
    mut head: Vec<u8>,
    file: &Arc<OpenFile>,
    (mut offset, mut length): (u64, u64),
) -> Result<(), Reason> {
    let mut uptake = Uptake::new(exchange, exchange.site.config.bounds.idle);
    if length == 0 || exchange.stream.is_socket() || head.len() > COPY_BYTES {
        let follows = !head.is_empty()
            && (1..=HEAD_WAITS_BYTES).contains(&length)
            && !paced.is_on()
            && file.is_resident(offset, length.min(SENDFILE_BYTES), exchange.deadline.now_ms());
        let behind = if follows { length } else { 0 };
        send_head(exchange, &mut uptake, &std::mem::take(&mut head), behind).await?;
    }
    while length > 0 {
        let window = length.min(SENDFILE_BYTES);
        if !file.is_resident(offset, window, exchange.deadline.now_ms()) {
            let (file, start) = (Arc::clone(file), offset);
            let read = tokio::task::spawn_blocking(move || sumun_host::files::load(&file, start, window)).await;
            if !matches!(read, Ok(Ok(()))) {
                return Err(Reason::FileUnreadable);
            }
        }
        let end = offset + window;
        while offset < end {
            let most = if paced.is_on() { bandwidth::share(exchange, paced).await? } else { usize::MAX };
            let left = ((end - offset) as usize).min(most);
            let count = if exchange.stream.is_socket() {
                let send = |socket: BorrowedFd<'_>| {
                    let mut at = offset;
                    sumun_host::files::send_file(socket, &***file, &mut at, left)
                };
                send_moved(exchange, &mut uptake, send).await?
            } else {
                let read = |piece: &mut [u8]| file.read_at(piece, offset);
                send_copied(exchange, &mut uptake, &mut head, left, read).await?
            };
            offset += count as u64;
            uptake.pauses(exchange.deadline.now_ms());
            paced.note(count);
            exchange.record.bytes_out += count as u64;
            if count == 0 {
                // It has become shorter than its Content-Length.
                return Err(Reason::FileUnreadable);
            }
        }
        length -= window;
    }
    Ok(())
}

/// The next piece of a file, which is not copied through this process: `send` moves it into the socket.
pub(super) async fn send_moved(
    exchange: &mut Exchange<'_>,
    uptake: &mut Uptake,
    mut send: impl FnMut(BorrowedFd<'_>) -> std::io::Result<usize>,
) -> Result<usize, Reason> {
    poll_fn(|context| match exchange.stream.poll_writable_io(context, &mut send) {
        Poll::Ready(Ok(count)) => {
            uptake.sent += count as u64;
            Poll::Ready(Ok(count))
        }
        Poll::Ready(Err(error)) if is_of_disk(&error) => Poll::Ready(Err(Reason::FileUnreadable)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(Reason::ClientClosed)),
        Poll::Pending if uptake.awaits_client(exchange) && !exchange.is_over_limit() => Poll::Pending,
        Poll::Pending => Poll::Ready(Err(Reason::ClientStalled)),
    })
    .await
}

/// Which of the two that bytes are moved between has failed.
fn is_of_disk(error: &std::io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), None | Some(rustix::io::Errno::IO))
}

/// The next piece of a file to a client that the kernel cannot serve by itself: `read` brings it into
/// this process, for its bytes go into frames or records. The first one has the head before it. 0 is
/// the file's end.
pub(super) async fn send_copied(
    exchange: &mut Exchange<'_>,
    uptake: &mut Uptake,
    head: &mut Vec<u8>,
    left: usize,
    read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>,
) -> Result<usize, Reason> {
    let mut lease = Lease::large();
    lease.append(&std::mem::take(head));
    let room = exchange.stream.piece_bytes().saturating_sub(lease.len()).min(left);
    let piece = lease.spare().get_mut(..room).unwrap_or_default();
    let count = read(piece).map_err(|_| Reason::FileUnreadable)?;
    lease.advance(count);
    uptake.write_all(exchange, lease.filled()).await?;
    Ok(count)
}

async fn send_parts(
    exchange: &mut Exchange<'_>,
    paced: &mut Paced,
    head: &[u8],
    parts: Vec<Part>,
) -> Result<(), Reason> {
    write_head(exchange, head).await?;
    for part in parts {
        match part {
            // What stands between the ranges is of the body, too (RFC 9110 section 14.6).
            Part::Frame(bytes) => write(exchange, paced, &bytes, bytes.len()).await?,
            Part::Memory { bytes, range } => {
                let bytes = bytes.get(range).unwrap_or_default();
                write(exchange, paced, bytes, bytes.len()).await?;
            }
            Part::File { file, offset, length } => {
                send_file(exchange, paced, Vec::new(), &file, (offset, length)).await?
            }
        }
    }
    Ok(())
}

async fn send_stream(
    exchange: &mut Exchange<'_>,
    paced: &mut Paced,
    head: &[u8],
    mut stream: CompressedStream,
    is_chunked: bool,
) -> Result<(), Reason> {
    write_head(exchange, head).await?;
    if exchange.head.method == Method::Head {
        return Ok(());
    }
    let mut framed = Vec::new();
    while let Some(block) = stream.next().await.map_err(|_| Reason::FileUnreadable)? {
        if block.is_empty() {
            continue;
        }
        framed.clear();
        if is_chunked {
            chunked::begin_chunk(&mut framed, block.len());
        }
        framed.extend_from_slice(&block);
        if is_chunked {
            framed.extend_from_slice(b"\r\n");
        }
        write(exchange, paced, &framed, block.len()).await?;
    }
    if is_chunked { write(exchange, paced, b"0\r\n\r\n", 0).await } else { Ok(()) }
}
