//! A stream of an HTTP/2 connection, in the form that the path knows: what an HTTP/1.1 connection
//! would carry.
//!
//! The path reads a body as it would come behind an HTTP/1 head, in chunks where its length is not
//! known, and writes a head and a body as text. Both are translated here, so that every rule of the
//! gateway exists once, whatever a client speaks.
//!
//! ```text
//!   socket ──► path/http2.rs ──► Mux ── machine (sumun_http2) ──► Http2Stream ──► path
//!   socket ◄── path/http2.rs ◄── Mux ◄───────────────────────────  one a request
//! ```
//!
//! The driver in `path/http2.rs` owns the socket; the tasks of the requests own a stream each. All
//! of them run on one worker and share the [`Mux`], which nobody holds over an await.

mod stream;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use sumun_config::checked::Bounds;
use sumun_engine::Lease;
use sumun_http::chunked;
use sumun_http2::{Connection, ErrorCode, Settings, StreamId};

pub(crate) use stream::Http2Stream;

/// What the driver and the streams of one connection share.
pub(crate) struct Mux {
    pub(crate) machine: RefCell<Connection>,
    inboxes: RefCell<HashMap<StreamId, Rc<Inbox>>>,
    /// Of the driver: it has to write.
    driver: RefCell<Option<Waker>>,
    now_ms: Cell<u64>,
}

/// What has come for a stream and was not read yet.
#[derive(Default)]
struct Inbox {
    /// A body as HTTP/1 would carry it.
    bytes: RefCell<std::collections::VecDeque<Lease>>,
    /// The length of the body is not known before its end: it comes in chunks.
    is_chunked: bool,
    ended: Cell<bool>,
    /// The peer or the machine has ended the stream before its time.
    gone: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// What a listener's bounds mean for a client's connection.
pub(crate) fn settings(bounds: &Bounds) -> Settings {
    Settings {
        head_bytes: bounds.header as usize,
        fields_max: bounds.headers as usize,
        stall_ms: bounds.idle.as_millis() as u64,
        head_ms: bounds.header_timeout.as_millis() as u64,
        settings_ack_ms: bounds.header_timeout.as_millis() as u64,
        extended_connect: false,
        ..Settings::default()
    }
}

impl Mux {
    pub(crate) fn new(machine: Connection, now_ms: u64) -> Rc<Self> {
        Rc::new(Self {
            machine: RefCell::new(machine),
            inboxes: RefCell::default(),
            driver: RefCell::default(),
            now_ms: Cell::new(now_ms),
        })
    }

    /// The worker's coarse clock, as of the driver's last round.
    pub(crate) fn set_now(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
    }

    /// The driver is woken when there is something to write.
    pub(crate) fn drive(&self, context: &Context<'_>) {
        register(&self.driver, context);
    }

    /// A stream has begun. `is_chunked`: its body comes without a length.
    pub(crate) fn open(self: &Rc<Self>, id: StreamId, is_chunked: bool, is_head_request: bool) -> Http2Stream {
        let inbox = Rc::new(Inbox { is_chunked, ..Inbox::default() });
        self.inboxes.borrow_mut().insert(id, Rc::clone(&inbox));
        Http2Stream::new(Rc::clone(self), id, inbox, is_head_request)
    }

    /// Requests that are being served.
    pub(crate) fn open_streams(&self) -> usize {
        self.inboxes.borrow().len()
    }

    /// Body bytes have come. Who wants none of them any more has the window back at once.
    pub(crate) fn deliver(&self, id: StreamId, bytes: &[u8], end: bool) {
        let inboxes = self.inboxes.borrow();
        let Some(inbox) = inboxes.get(&id) else {
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
    pub(crate) fn break_off(&self, id: StreamId) {
        if let Some(inbox) = self.inboxes.borrow().get(&id) {
            inbox.break_off();
        }
    }

    /// The connection is gone, and all of its streams with it.
    pub(crate) fn break_all(&self) {
        for inbox in self.inboxes.borrow().values() {
            inbox.break_off();
        }
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
}

impl Inbox {
    fn put(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_chunked {
            let mut line = Vec::with_capacity(18);
            chunked::begin_chunk(&mut line, bytes.len());
            self.append(&line);
            self.append(bytes);
            self.append(b"\r\n");
        } else {
            self.append(bytes);
        }
    }

    fn append(&self, mut bytes: &[u8]) {
        let mut queue = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            let taken = queue.back_mut().map_or(0, |last| last.append(bytes));
            bytes = bytes.get(taken..).unwrap_or_default();
            if !bytes.is_empty() {
                queue.push_back(Lease::of(bytes.len()));
            }
        }
    }

    fn end(&self, trailers: &[u8]) {
        if self.is_chunked {
            let mut last = Vec::with_capacity(5 + trailers.len());
            chunked::end_body(&mut last, trailers);
            self.append(&last);
        }
        self.ended.set(true);
    }

    fn break_off(&self) {
        self.gone.set(true);
        wake(&self.reader);
        wake(&self.writer);
    }
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
