//! One stream: reads like the body of an HTTP/1 request, takes an HTTP/1 response.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};

use sumun_http::chunked::Decoder;
use sumun_http2::{ErrorCode, SendError, StreamId};

use super::{Inbox, Mux, register};
use crate::io::{Gone, Security};

/// So much is given to the machine in one go: streams share the connection fairly.
const PIECE_BYTES: usize = 16 * 1024;

/// A request's end of a stream. Dropped before its answer was complete, it resets the stream.
pub(crate) struct Http2Stream {
    mux: Rc<Mux>,
    id: StreamId,
    inbox: Rc<Inbox>,
    is_head_request: bool,
    sending: Sending,
    /// Of the connection.
    pub(crate) security: Option<Rc<Security>>,
}

/// Where the answer is.
enum Sending {
    /// The head of the answer comes next, or another one behind an interim one.
    Head,
    /// So many bytes of the body are to come.
    Length(u64),
    /// In chunks, which are taken apart; so many body bytes at the front of the next write the
    /// decoder has seen and the machine has not.
    Chunked { decoder: Box<Decoder>, undelivered: usize },
    /// The body is sent, these lines behind it are not.
    Trailers(Box<Decoder>),
    /// Until the stream is shut down.
    UntilEnd,
    /// Everything was said.
    Ended,
}

/// What the first bytes of a write say.
struct Head<'a> {
    status: u16,
    lines: &'a [u8],
    length: usize,
}

impl std::fmt::Debug for Http2Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Http2Stream({})", self.id)
    }
}

impl Http2Stream {
    pub(super) fn new(mux: Rc<Mux>, id: StreamId, inbox: Rc<Inbox>, is_head_request: bool) -> Self {
        Self { mux, id, inbox, is_head_request, sending: Sending::Head, security: None }
    }

    /// Takes bytes of the request's body; 0 is its end.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut queue = self.inbox.bytes.borrow_mut();
        let mut taken = 0;
        while let Some(first) = queue.front_mut()
            && taken < bytes.len()
        {
            let rest = &mut bytes[taken..];
            let length = first.len().min(rest.len());
            rest[..length].copy_from_slice(&first.filled()[..length]);
            first.consume(length);
            taken += length;
            if first.is_empty() {
                queue.pop_front();
            }
        }
        drop(queue);
        if taken > 0 {
            self.mux.machine.borrow_mut().release(self.id, taken);
            if !self.mux.machine.borrow().output().is_empty() {
                self.mux.wants_writing();
            }
            return Poll::Ready(Ok(taken));
        }
        if self.inbox.gone.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.inbox.ended.get() || bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        register(&self.inbox.reader, context);
        Poll::Pending
    }

    /// There are bytes, an end or an error to be read.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbox.gone.get() || self.inbox.ended.get() || !self.inbox.bytes.borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        register(&self.inbox.reader, context);
        Poll::Pending
    }

    /// Whether the client has given this request up.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<Gone> {
        if self.inbox.gone.get() {
            return Poll::Ready(Gone::Yes);
        }
        register(&self.inbox.reader, context);
        Poll::Pending
    }

    /// Takes the text of an answer. Its head has to be in one write, in full.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let step = match &self.sending {
                Sending::Head => self.send_head(rest),
                _ => self.send_body(rest),
            };
            match step {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(SendError::Busy) => break,
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
        register(&self.inbox.writer, context);
        Poll::Pending
    }

    /// Takes the text of an answer in parts; the first one has the head.
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

    fn send_head(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let Some(head) = Head::parse(bytes) else { return Err(SendError::Gone) };
        let is_interim = (100..200).contains(&head.status);
        let next = if is_interim {
            Sending::Head
        } else if self.is_head_request || matches!(head.status, 204 | 304) {
            Sending::Ended
        } else if let Some(length) = head.content_length() {
            if length == 0 { Sending::Ended } else { Sending::Length(length) }
        } else if head.is_chunked() {
            Sending::Chunked { decoder: Box::default(), undelivered: 0 }
        } else {
            Sending::UntilEnd
        };
        let end = matches!(next, Sending::Ended);
        self.mux
            .machine
            .borrow_mut()
            .send_response(self.id, head.status, end, |fields| fields.add_lines(head.lines))?;
        self.sending = next;
        Ok(head.length)
    }

    /// Gives the machine what it takes of `bytes`, and says how many of them are done with.
    fn send_body(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let now_ms = self.mux.now_ms.get();
        let mut machine = self.mux.machine.borrow_mut();
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        match &mut self.sending {
            Sending::Head | Sending::Trailers(_) | Sending::Ended => Err(SendError::Gone),
            Sending::UntilEnd => machine.send_data(now_ms, self.id, piece, false),
            Sending::Length(left) => {
                let piece = &piece[..piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
                let end = piece.len() as u64 == *left;
                let taken = machine.send_data(now_ms, self.id, piece, end)?;
                *left -= taken as u64;
                if *left == 0 {
                    self.sending = Sending::Ended;
                }
                Ok(taken)
            }
            Sending::Chunked { decoder, undelivered } => {
                let mut at = 0;
                if *undelivered == 0 {
                    // What the gateway wrote itself is not malformed.
                    let step = decoder.decode(bytes).map_err(|_| SendError::Gone)?;
                    if decoder.is_done() {
                        self.sending = Sending::Trailers(std::mem::take(decoder));
                        drop(machine);
                        return self.send_end().map(|()| step.consumed);
                    }
                    if step.data.is_empty() {
                        return Ok(step.consumed);
                    }
                    at = step.data.start;
                    *undelivered = step.data.len();
                }
                let data = bytes.get(at..).unwrap_or_default();
                let data = &data[..data.len().min(*undelivered).min(PIECE_BYTES)];
                let taken = machine.send_data(now_ms, self.id, data, false)?;
                *undelivered -= taken;
                Ok(at + taken)
            }
        }
    }

    /// Sends what stands behind the body. Where the machine is busy, the shutdown tries again.
    fn send_end(&mut self) -> Result<(), SendError> {
        let mut machine = self.mux.machine.borrow_mut();
        let sent = match &self.sending {
            Sending::Trailers(decoder) if !decoder.trailers().is_empty() => {
                machine.send_trailers(self.id, |fields| fields.add_lines(decoder.trailers()))
            }
            Sending::Trailers(_) | Sending::UntilEnd => {
                machine.send_data(self.mux.now_ms.get(), self.id, b"", true).map(drop)
            }
            _ => return Ok(()),
        };
        match sent {
            Ok(()) => self.sending = Sending::Ended,
            Err(SendError::Busy) => {}
            Err(gone) => return Err(gone),
        }
        Ok(())
    }

    /// Ends the answer. What was cut short is reset when the stream is dropped.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.send_end().is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.mux.wants_writing();
        if matches!(self.sending, Sending::Trailers(_)) {
            register(&self.inbox.writer, context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// The stream's end will not be taken for the answer's.
    pub(crate) fn reset_on_close(&self) {
        self.mux.machine.borrow_mut().reset(self.id, ErrorCode::INTERNAL_ERROR);
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let code = match self.sending {
            // RFC 9113 section 8.1: the rest of the request is not wanted.
            Sending::Ended if !self.inbox.ended.get() => Some(ErrorCode::NO_ERROR),
            Sending::Ended => None,
            _ => Some(ErrorCode::INTERNAL_ERROR),
        };
        self.mux.close(self.id, code);
    }
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 2;
        let line_end = memchr::memchr(b'\n', bytes)? + 1;
        let digits = bytes.get(9..12)?;
        let status = digits
            .iter()
            .try_fold(0_u16, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))?;
        Some(Self { status, lines: bytes.get(line_end..end).unwrap_or_default(), length: end + 2 })
    }

    fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.lines.split(|&byte| byte == b'\n').find_map(|line| {
            let (found, value) = line.split_at_checked(name.len())?;
            if found.eq_ignore_ascii_case(name) { value.strip_prefix(b":").map(<[u8]>::trim_ascii) } else { None }
        })
    }

    fn content_length(&self) -> Option<u64> {
        std::str::from_utf8(self.value(b"content-length")?).ok()?.parse().ok()
    }

    fn is_chunked(&self) -> bool {
        self.value(b"transfer-encoding").is_some()
    }
}
