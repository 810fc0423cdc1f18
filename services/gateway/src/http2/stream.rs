//! One stream: reads and writes like an HTTP/1.1 connection with one request.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

use sumun_http2::{ErrorCode, RequestLine, SendError, StreamId};

use super::sending::Sending;
use super::text::{self, RequestText, ResponseText};
use super::{Broken, Inbox, Mux, register, websocket};
use crate::io::{Gone, Security};

/// A request's end of a stream. Dropped before all was said, it resets the stream.
pub(crate) struct Http2Stream {
    mux: Rc<Mux>,
    /// 0 until a request to a server is sent.
    id: StreamId,
    inbox: Rc<Inbox>,
    end: End,
    sending: Sending,
    /// What ends an answer of known length that is not ended by its last byte.
    held: Option<Vec<u8>>,
    /// Of the connection.
    pub(crate) security: Option<Rc<Security>>,
}

/// Which end of the connection this is.
enum End {
    /// A client is answered.
    Answer(Wanted),
    /// A server is asked. `is_done`: its answer was taken in full.
    Ask { is_done: bool },
}

/// What a client wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// The head alone.
    Head,
    /// A tunnel for a WebSocket (RFC 8441): any 2xx would open it.
    WebSocket,
}

/// What a client gets that wanted a WebSocket, from who knows nothing of one.
const NO_WEBSOCKET: u16 = 501;

impl std::fmt::Debug for Http2Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Http2Stream({})", self.id)
    }
}

impl Http2Stream {
    pub(super) fn answering(mux: Rc<Mux>, id: StreamId, inbox: Rc<Inbox>, wanted: Wanted) -> Self {
        Self { mux, id, inbox, end: End::Answer(wanted), sending: Sending::Head, held: None, security: None }
    }

    /// For the next request to a server.
    pub(super) fn asking(mux: Rc<Mux>) -> Self {
        mux.opening.set(mux.opening.get() + 1);
        Self {
            mux,
            id: 0,
            inbox: Rc::default(),
            end: End::Ask { is_done: false },
            sending: Sending::Head,
            held: None,
            security: None,
        }
    }

    /// Takes bytes of a client's body, or of a server's answer; 0 is the end.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let (taken, released) = self.inbox.take(bytes);
        if taken > 0 {
            let mut machine = self.mux.machine.borrow_mut();
            machine.release(self.id, released);
            let speaks = !machine.output().is_empty();
            drop(machine);
            if speaks {
                self.mux.wants_writing();
            }
            return Poll::Ready(Ok(taken));
        }
        match self.inbox.broken.get() {
            // An answer that is complete stays so, whatever comes behind it.
            Some(_) if self.is_asking() && self.inbox.ended.get() => {}
            Some(Broken::Malformed) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Some(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {}
        }
        if self.inbox.ended.get() || bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        register(&self.inbox.reader, context);
        Poll::Pending
    }

    /// There are bytes, an end or an error to be read.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inbox = &self.inbox;
        if inbox.broken.get().is_some() || inbox.ended.get() || !inbox.bytes.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        register(&inbox.reader, context);
        Poll::Pending
    }

    /// Whether the client has given this request up.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<Gone> {
        if self.inbox.broken.get().is_some() {
            return Poll::Ready(Gone::Yes);
        }
        register(&self.inbox.reader, context);
        Poll::Pending
    }

    /// How the stream came to its end before its time, if it did.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.inbox.broken.get()
    }

    /// Takes the text of an answer or of a request. The head has to be in one write, in full.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Where the connection is gone, no window opens any more.
        if self.inbox.broken.get().is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let step = match (&self.sending, &self.end) {
                (Sending::Head, End::Answer(_)) => self.send_answer(rest),
                (Sending::Head, End::Ask { .. }) => self.send_request(rest),
                _ => {
                    let holds = self.held.is_some();
                    self.sending.send(&mut self.mux.machine.borrow_mut(), self.mux.now_ms(), self.id, rest, holds)
                }
            };
            match step {
                Ok(0) | Err(SendError::Busy) => break,
                Ok(count) => taken += count,
                Err(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        if taken > 0 {
            self.mux.wants_writing();
            return Poll::Ready(Ok(taken));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.id == 0 {
            self.mux.openers.borrow_mut().push(context.waker().clone());
        } else {
            register(&self.inbox.writer, context);
        }
        Poll::Pending
    }

    /// Takes text in parts; the first one has the head.
    pub(crate) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match self.poll_write(context, part) {
                Poll::Ready(Ok(count)) => {
                    taken += count;
                    if count < part.len() {
                        break;
                    }
                }
                Poll::Pending if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn send_answer(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let Some(head) = ResponseText::parse(bytes) else { return Err(SendError::Gone) };
        let End::Answer(wanted) = self.end else { return Err(SendError::Gone) };
        let opens_tunnel = head.status == 101 && wanted == Wanted::WebSocket;
        let status = match head.status {
            101 if opens_tunnel => 200,
            200..300 if wanted == Wanted::WebSocket => NO_WEBSOCKET,
            status => status,
        };
        let next = if opens_tunnel {
            Sending::UntilEnd
        } else if status < 200 {
            Sending::Head
        } else if wanted == Wanted::Head || matches!(status, 204 | 304) {
            Sending::Ended
        } else {
            match head.facts.content_length {
                Some(0) if self.held.is_some() => Sending::Held,
                Some(0) => Sending::Ended,
                Some(length) => Sending::Length(length),
                None if head.facts.is_chunked => Sending::chunked(),
                None => Sending::UntilEnd,
            }
        };
        let end = matches!(next, Sending::Ended);
        self.mux.machine.borrow_mut().send_response(self.id, status, end, |fields| {
            for (name, value) in text::fields(head.lines) {
                if !(opens_tunnel && name.eq_ignore_ascii_case(b"sec-websocket-accept")) {
                    fields.add(name, value);
                }
            }
        })?;
        self.sending = next;
        Ok(head.length)
    }

    fn send_request(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let Some(head) = RequestText::parse(bytes) else { return Err(SendError::Gone) };
        let facts = &head.facts;
        let next = match facts.content_length {
            _ if facts.websocket => Sending::UntilEnd,
            Some(0) => Sending::Ended,
            Some(length) => Sending::Length(length),
            None if facts.is_chunked => Sending::chunked(),
            None => Sending::Ended,
        };
        let line = RequestLine {
            method: if facts.websocket { b"CONNECT" } else { head.method },
            scheme: if self.mux.is_secure.get() { b"https" } else { b"http" },
            authority: facts.host,
            path: head.target,
            protocol: facts.websocket.then_some(b"websocket"),
        };
        let end = matches!(next, Sending::Ended);
        let opened = self.mux.machine.borrow_mut().send_request(&line, end, |fields| {
            for (name, value) in text::fields(head.lines) {
                let is_left_out = match name.len() {
                    // The authority says it, and twice is once too often.
                    4 => name.eq_ignore_ascii_case(b"host"),
                    17 => facts.websocket && name.eq_ignore_ascii_case(b"sec-websocket-key"),
                    _ => false,
                };
                if !is_left_out {
                    fields.add(name, value);
                }
            }
        });
        self.id = opened?;
        self.inbox.is_head_request.set(head.method == b"HEAD");
        self.inbox.websocket_accept.set(facts.websocket.then(|| websocket::accept(facts.websocket_key)));
        self.mux.opening.set(self.mux.opening.get() - 1);
        self.mux.inboxes.borrow_mut().insert(self.id, Rc::clone(&self.inbox));
        self.sending = next;
        Ok(head.length)
    }

    /// Streams of this connection that are open.
    pub(crate) fn siblings(&self) -> usize {
        self.mux.open_streams()
    }

    /// A server takes WebSockets on this connection (RFC 8441 section 3).
    pub(crate) fn takes_websockets(&self) -> bool {
        self.mux.machine.borrow().allows_extended_connect()
    }

    /// Ends what we send. What was cut short is reset when the stream is dropped.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbox.broken.get().is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let held = self.held.as_deref().unwrap_or_default();
        let sent = self.sending.finish(&mut self.mux.machine.borrow_mut(), self.mux.now_ms(), self.id, held);
        self.mux.wants_writing();
        match sent {
            Ok(()) => Poll::Ready(Ok(())),
            Err(SendError::Busy) => {
                register(&self.inbox.writer, context);
                Poll::Pending
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Of a server's answer of known length: trailers may stand behind its last byte, or do.
    pub(crate) fn may_have_trailers(&self) -> bool {
        let inbox = &self.inbox;
        inbox.broken.get().is_none() && !(inbox.ended.get() && inbox.trailers.borrow().is_empty())
    }

    /// The trailers of such an answer, once it is known whether there are any.
    pub(crate) fn poll_trailers(&self, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        let inbox = &self.inbox;
        if inbox.ended.get() || inbox.broken.get().is_some() {
            return Poll::Ready(inbox.trailers.take());
        }
        register(&inbox.reader, context);
        Poll::Pending
    }

    /// An answer of known length ends with these trailers, and not by itself. Said again before the
    /// end, where they were not known yet.
    pub(crate) fn hold(&mut self, trailers: Vec<u8>) {
        self.held = Some(trailers);
    }

    /// The stream's end will not be taken for the answer's.
    pub(crate) fn reset_on_close(&self) {
        self.mux.machine.borrow_mut().reset(self.id, ErrorCode::INTERNAL_ERROR);
    }

    /// The server's answer was taken in full.
    pub(crate) fn finish(mut self) {
        if let End::Ask { is_done } = &mut self.end {
            *is_done = true;
        }
    }

    fn is_asking(&self) -> bool {
        matches!(self.end, End::Ask { .. })
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let has_sent = matches!(self.sending, Sending::Ended);
        let has_received = self.inbox.ended.get();
        let code = match self.end {
            End::Ask { .. } if self.id == 0 => {
                self.mux.opening.set(self.mux.opening.get().saturating_sub(1));
                self.mux.wants_writing();
                return;
            }
            _ if has_sent && has_received => None,
            // The frame that says so is on its way: a server counts resets, and rightly so.
            End::Ask { is_done: true } if has_sent => return self.mux.close_soon(self.id),
            End::Ask { .. } => Some(ErrorCode::CANCEL),
            // RFC 9113 section 8.1: the rest of the request is not wanted.
            End::Answer(_) if has_sent => Some(ErrorCode::NO_ERROR),
            End::Answer(_) => Some(ErrorCode::INTERNAL_ERROR),
        };
        self.mux.close(self.id, code);
    }
}
