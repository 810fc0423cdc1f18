//! A stream of an HTTP/2 connection, in the form that the path knows: what an HTTP/1.1 connection
//! would carry.
//!
//! The path reads a client's body as it would come behind an HTTP/1 head, in chunks where its length
//! is not known, and writes a head and a body as text. To a server it writes a request as text, and
//! reads an answer as text. All of it is translated here, so that every rule of the gateway exists
//! once, whatever a client or a server speaks.
//!
//! ```text
//!   client ──► path/http2.rs ──► Mux ── machine (sumun_http2) ──► Http2Stream ──► path
//!          ◄──    (driver)   ◄──     ◄──────────────────────────  one a request ◄──
//!
//!   path ──► Http2Stream ──► Mux ── machine ──► link.rs ──► server
//!        ◄── one a request ◄──     ◄──────────  (driver) ◄──
//! ```
//!
//! A driver owns the socket; the tasks of the requests own a stream each. All of them run on one
//! worker and share the [`Mux`], which nobody holds over an await.

mod link;
mod sending;
mod stream;
pub(crate) mod text;
pub(crate) mod websocket;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use sumun_config::checked::Bounds;
use sumun_engine::{Lease, Worker};
use sumun_http::{ResponseHead, chunked};
use sumun_http2::{Cause, Connection as Machine, ConnectionError, ErrorCode, Event as Happened, Settings, StreamId};

use crate::io::Stream;
use crate::limits::{HEAD_KEPT_BYTES, LINGER};
use crate::number::NumberTable;

pub(crate) use link::{Links, adopt, open};
pub(crate) use stream::{Http2Stream, Wanted};

/// What the driver and the streams of one connection share.
pub(crate) struct Mux {
    pub(crate) machine: RefCell<Machine>,
    inboxes: RefCell<NumberTable<StreamId, Rc<Inbox>>>,
    /// Of the driver: it has to write.
    driver: RefCell<Option<Waker>>,
    worker: Rc<Worker>,
    /// A server is spoken to over TLS.
    is_secure: Cell<bool>,
    /// Requests to a server that were given this connection and have no stream yet.
    opening: Cell<usize>,
    /// Of those that wait for room to open theirs.
    openers: RefCell<Vec<Waker>>,
    /// Streams whose answer is complete, but for the frame that says so, and until when that is
    /// waited for; in order.
    ending: RefCell<VecDeque<(u64, StreamId)>>,
    /// Where heads are decoded to, and text is put together.
    head_bytes: RefCell<Vec<u8>>,
    scratch: RefCell<Vec<u8>>,
}

/// What has come for a stream and was not read yet.
#[derive(Default)]
struct Inbox {
    /// What HTTP/1 would carry.
    bytes: RefCell<VecDeque<Lease>>,
    /// How many bytes these are, and how many of the peer's window they hold: those that are data
    /// come back once no more than they can be among those that are left.
    length: Cell<usize>,
    window: Cell<usize>,
    /// The length of the body is not known before its end: it comes in chunks.
    is_chunked: Cell<bool>,
    /// A request for a head alone.
    is_head_request: Cell<bool>,
    /// `Sec-WebSocket-Accept` that belongs to the request for a WebSocket.
    websocket_accept: Cell<Option<[u8; 28]>>,
    /// Lines behind a body whose framing has no place for them.
    trailers: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    broken: Cell<Option<Broken>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// How a stream came to its end before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer has ended it.
    Gone,
    /// Its connection is gone.
    Lost,
    /// The server says that it has not even looked at the request (RFC 9113 section 8.7).
    Refused,
    /// What the peer sent is no HTTP.
    Malformed,
}

impl Broken {
    pub(crate) fn of(cause: Cause, code: ErrorCode) -> Self {
        match cause {
            Cause::GoAway => Self::Refused,
            Cause::Peer if code == ErrorCode::REFUSED_STREAM => Self::Refused,
            Cause::Malformed(_) | Cause::Fault(_) => Self::Malformed,
            Cause::Peer | Cause::Refused | Cause::Stalled => Self::Gone,
        }
    }
}

/// What a listener's bounds mean for a client's connection.
pub(crate) fn settings(bounds: &Bounds) -> Settings {
    Settings {
        head_bytes: bounds.header as usize,
        fields_max: bounds.headers as usize,
        stall_ms: bounds.idle.as_millis() as u64,
        head_ms: bounds.header_timeout.as_millis() as u64,
        settings_ack_ms: bounds.header_timeout.as_millis() as u64,
        ..Settings::default()
    }
}

impl Mux {
    pub(crate) fn new(machine: Machine, worker: &Rc<Worker>) -> Rc<Self> {
        Rc::new(Self {
            machine: RefCell::new(machine),
            inboxes: RefCell::default(),
            driver: RefCell::default(),
            worker: Rc::clone(worker),
            is_secure: Cell::default(),
            opening: Cell::default(),
            openers: RefCell::default(),
            ending: RefCell::default(),
            head_bytes: RefCell::default(),
            scratch: RefCell::default(),
        })
    }

    /// The worker's coarse clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.worker.clock.coarse_ms()
    }

    /// The driver is woken when there is something to write.
    pub(crate) fn drive(&self, context: &Context<'_>) {
        register(&self.driver, context);
    }

    /// A client's stream has begun. `is_chunked`: its body comes without a length.
    pub(crate) fn answer(self: &Rc<Self>, id: StreamId, is_chunked: bool, wanted: Wanted) -> Http2Stream {
        let inbox = Rc::new(Inbox::default());
        inbox.is_chunked.set(is_chunked);
        self.inboxes.borrow_mut().insert(id, Rc::clone(&inbox));
        Http2Stream::answering(Rc::clone(self), id, inbox, wanted)
    }

    /// Requests that are being served.
    pub(crate) fn open_streams(&self) -> usize {
        self.inboxes.borrow().len() + self.opening.get()
    }

    /// The head of an answer has come. `end`: and all of it.
    fn deliver_head(&self, id: StreamId, head: &ResponseHead, bytes: &[u8], end: bool) {
        let inboxes = self.inboxes.borrow();
        let Some(inbox) = inboxes.get(&id) else { return };
        let mut text = self.scratch.borrow_mut();
        text.clear();
        let accept = inbox.websocket_accept.get();
        let asked = text::Asked {
            is_head: inbox.is_head_request.get(),
            websocket_accept: accept.as_ref().map(<[u8; 28]>::as_slice),
        };
        let behind = text::write_response(&mut text, head, bytes, end, asked);
        inbox.append(&text);
        if behind != text::Behind::Head {
            inbox.is_chunked.set(behind == text::Behind::Chunked);
            if end {
                inbox.ended.set(true);
            }
        }
        text.shrink_to(HEAD_KEPT_BYTES);
        wake(&inbox.reader);
    }

    /// Body bytes have come. Who wants none of them any more has the window back at once.
    pub(crate) fn deliver(&self, id: StreamId, bytes: &[u8], end: bool) {
        let inboxes = self.inboxes.borrow();
        let Some(inbox) = inboxes.get(&id) else {
            drop(inboxes);
            self.machine.borrow_mut().release(id, bytes.len());
            return;
        };
        inbox.put(bytes);
        if end {
            inbox.end(b"");
        }
        wake(&inbox.reader);
    }

    /// The body has ended with these lines.
    pub(crate) fn deliver_trailers(&self, id: StreamId, lines: &[u8]) {
        if let Some(inbox) = self.inboxes.borrow().get(&id) {
            inbox.end(lines);
            wake(&inbox.reader);
        }
    }

    /// The stream is over before its time.
    pub(crate) fn break_off(&self, id: StreamId, how: Broken) {
        if let Some(inbox) = self.inboxes.borrow().get(&id) {
            inbox.break_off(how);
        }
    }

    /// The connection is gone, and all of its streams with it.
    pub(crate) fn break_all(&self, how: Broken) {
        for inbox in self.inboxes.borrow().values() {
            inbox.break_off(how);
        }
        self.wake_openers();
    }

    /// Wakes the streams that may write on.
    pub(crate) fn wake_writers(&self) {
        let mut machine = self.machine.borrow_mut();
        while let Some(id) = machine.next_writable() {
            if let Some(inbox) = self.inboxes.borrow().get(&id) {
                wake(&inbox.writer);
            }
        }
    }

    fn wake_openers(&self) {
        for waker in self.openers.take() {
            waker.wake();
        }
    }

    /// Writes until everything is out or the peer takes no more. `Err`: the peer is gone.
    pub(crate) fn poll_flush(&self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<Result<(), ()>> {
        loop {
            let mut machine = self.machine.borrow_mut();
            if machine.output().is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready!(stream.poll_write(context, machine.output())) {
                Ok(0) | Err(_) => return Poll::Ready(Err(())),
                Ok(count) => machine.consume(count),
            }
        }
    }

    /// Resets streams that should have ended by themselves, and says when to ask again.
    fn end_late(&self, now_ms: u64) -> Option<u64> {
        let mut ending = self.ending.borrow_mut();
        while let Some(&(due_ms, id)) = ending.front() {
            if due_ms > now_ms {
                return Some(due_ms);
            }
            ending.pop_front();
            self.machine.borrow_mut().reset(id, ErrorCode::CANCEL);
        }
        None
    }

    fn wants_writing(&self) {
        wake(&self.driver);
    }

    fn close(&self, id: StreamId, reset: Option<ErrorCode>) {
        self.inboxes.borrow_mut().remove(&id);
        if let Some(code) = reset {
            self.machine.borrow_mut().reset(id, code);
        }
        // Also where nothing is to be written: the last stream may end the connection.
        self.wants_writing();
    }

    /// All of the answer is here; its last frame may be on its way.
    fn close_soon(&self, id: StreamId) {
        self.inboxes.borrow_mut().remove(&id);
        let due_ms = self.now_ms().saturating_add(LINGER.as_millis() as u64);
        self.ending.borrow_mut().push_back((due_ms, id));
        self.wants_writing();
    }
}

impl Inbox {
    fn put(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.window.set(self.window.get() + bytes.len());
        if self.is_chunked.get() {
            let mut line = [0; CHUNK_LINE_BYTES];
            self.append(chunk_line(&mut line, bytes.len()));
            self.append(bytes);
            self.append(b"\r\n");
        } else {
            self.append(bytes);
        }
    }

    fn append(&self, mut bytes: &[u8]) {
        self.length.set(self.length.get() + bytes.len());
        let mut queue = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            let taken = queue.back_mut().map_or(0, |last| last.append(bytes));
            bytes = bytes.get(taken..).unwrap_or_default();
            if !bytes.is_empty() {
                queue.push_back(Lease::of(bytes.len()));
            }
        }
    }

    /// Takes bytes out, and says how many of the first and of the peer's window those are.
    fn take(&self, bytes: &mut [u8]) -> (usize, usize) {
        let mut queue = self.bytes.borrow_mut();
        let mut taken = 0;
        while let (Some(first), Some(rest)) =
            (queue.front_mut(), bytes.get_mut(taken..).filter(|rest| !rest.is_empty()))
        {
            let length = first.len().min(rest.len());
            rest[..length].copy_from_slice(&first.filled()[..length]);
            first.consume(length);
            taken += length;
            if first.is_empty() {
                queue.pop_front();
            }
        }
        self.length.set(self.length.get() - taken);
        // Lines of heads and chunks hold no window: who sends bytes one by one is not to get more
        // of it back than was read of them.
        let held = self.window.get().min(self.length.get());
        (taken, self.window.replace(held) - held)
    }

    fn end(&self, trailers: &[u8]) {
        if self.is_chunked.get() {
            let mut last = Vec::with_capacity(5 + trailers.len());
            chunked::end_body(&mut last, trailers);
            self.append(&last);
        } else if !trailers.is_empty() {
            self.trailers.replace(trailers.to_vec());
        }
        self.ended.set(true);
    }

    fn break_off(&self, how: Broken) {
        if self.broken.get().is_none() {
            self.broken.set(Some(how));
        }
        wake(&self.reader);
        wake(&self.writer);
    }
}

/// Does what the time asks for; `ended` hears of each stream that came to its end by it. `Err`: so did
/// the connection.
pub(crate) fn expire(mux: &Mux, now_ms: u64, ended: impl Fn(Cause)) -> Result<(), ConnectionError> {
    while mux.machine.borrow().deadline().is_some_and(|at_ms| at_ms <= now_ms) {
        let event = mux.machine.borrow_mut().expire(now_ms)?;
        match event {
            Some(Happened::Reset { stream, code, cause }) => {
                ended(cause);
                mux.break_off(stream, Broken::of(cause, code));
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

/// Eight digits and CRLF: a chunk here is one frame at most.
const CHUNK_LINE_BYTES: usize = 10;

/// The line before a chunk.
fn chunk_line(line: &mut [u8; CHUNK_LINE_BYTES], length: usize) -> &[u8] {
    let mut at = CHUNK_LINE_BYTES - 2;
    let mut rest = length as u32;
    line[at] = b'\r';
    line[at + 1] = b'\n';
    while rest > 0 && at > 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    &line[at..]
}

fn register(slot: &RefCell<Option<Waker>>, context: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    match &mut *slot {
        Some(waker) => waker.clone_from(context.waker()),
        None => *slot = Some(context.waker().clone()),
    }
}

fn wake(slot: &RefCell<Option<Waker>>) {
    if let Some(waker) = &*slot.borrow() {
        waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_before_chunks() {
        for (length, text) in [(1, "1\r\n"), (0x4000, "4000\r\n"), (0xabc_def0, "abcdef0\r\n")] {
            assert_eq!(chunk_line(&mut [0; CHUNK_LINE_BYTES], length), text.as_bytes());
        }
    }
}
