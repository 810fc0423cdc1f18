//! The request body on its way: what has come, what is held for a second try, what is still to come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use sumun_engine::limits::{LARGE_BUFFER_BYTES, MEDIUM_BUFFER_BYTES};
use sumun_engine::{Deadline, Lease, buffers};
use sumun_http::chunked::{self, Decoder};
use sumun_http::field::is_same_name;
use sumun_http::forward::Framing;
use sumun_http::limits::TRAILER_BYTES_MAX;
use sumun_http::{BodyLength, Reject};

use crate::io::Stream;
use crate::limits::COLLECT_BYTES;
use crate::path::bandwidth::Paced;

/// The longest line before a chunk: 16 hexadecimal digits and CRLF.
const CHUNK_LINE_BYTES: usize = 18;

// What `pass` makes of one read: the chunk with its framing, the last chunk and the trailers.
const _: () = assert!(MEDIUM_BUFFER_BYTES + CHUNK_LINE_BYTES + 2 + 5 + TRAILER_BYTES_MAX <= LARGE_BUFFER_BYTES);

/// A request body.
pub(crate) struct Body<'a> {
    /// Body bytes that came with the head and are sent as they are (length framing only).
    early: &'a [u8],
    /// Decoded bytes that came later, or out of chunks.
    held: VecDeque<Lease>,
    held_bytes: usize,
    rest: Rest,
    /// Raw bytes behind the head that belong to this request.
    used_early: usize,
    /// What came behind the end of a chunked body: the next request.
    pub(crate) leftover: Option<Lease>,
    /// Body bytes received so far.
    pub(crate) received: u64,
    bound: u64,
    /// Something is no longer held: a second try is impossible.
    streamed: bool,
    /// Names that no trailer of a client may have.
    ours: &'a [Arc<str>],
    paced: Paced,
}

enum Rest {
    Complete,
    Length(u64),
    Chunked(Box<Decoder>),
}

/// What is wrong with a body.
#[derive(Debug)]
pub(crate) enum BodyError {
    Rejected(Reject),
    TooLarge,
    /// The client closed, or its connection broke, inside the body.
    Closed,
}

impl From<Reject> for BodyError {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

impl<'a> Body<'a> {
    /// `arrived` is what came behind the head; `ours` are names that only the gateway may use.
    pub(crate) fn begin(
        length: BodyLength,
        arrived: &'a [u8],
        bound: u64,
        ours: &'a [Arc<str>],
    ) -> Result<Self, BodyError> {
        let mut body = Self {
            early: &[],
            held: VecDeque::new(),
            held_bytes: 0,
            rest: Rest::Complete,
            used_early: 0,
            leftover: None,
            received: 0,
            bound,
            streamed: false,
            ours,
            paced: Paced::default(),
        };
        match length {
            BodyLength::None | BodyLength::Length(0) => {}
            BodyLength::Length(length) => {
                if length > bound {
                    return Err(BodyError::TooLarge);
                }
                let here = arrived.len().min(usize::try_from(length).unwrap_or(usize::MAX));
                body.early = &arrived[..here];
                body.used_early = here;
                body.received = here as u64;
                let left = length - here as u64;
                body.rest = if left == 0 { Rest::Complete } else { Rest::Length(left) };
            }
            BodyLength::Chunked => {
                body.rest = Rest::Chunked(Box::default());
                body.used_early = body.hold(arrived)?;
            }
        }
        Ok(body)
    }

    /// From now on it comes no faster than this lets it.
    pub(crate) fn paced(mut self, mut paced: Paced) -> Self {
        paced.note(usize::try_from(self.received).unwrap_or(usize::MAX));
        self.paced = paced;
        self
    }

    /// What is pending is its share of a bandwidth, and not the client.
    pub(crate) fn waits_for_share(&mut self) -> bool {
        self.paced.waits()
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.rest, Rest::Complete) || matches!(&self.rest, Rest::Chunked(decoder) if decoder.is_done())
    }

    /// Bytes behind the head that this request has used up.
    pub(crate) fn used_early(&self) -> usize {
        self.used_early
    }

    /// Everything that has come is still here, and nothing is to come.
    pub(crate) fn can_be_sent_again(&self, bound: u64) -> bool {
        !self.streamed && self.is_complete() && self.received <= bound
    }

    /// Nothing of what has come was let go of: all of it can be sent once more, and what is still to
    /// come behind it.
    pub(crate) fn is_whole(&self) -> bool {
        !self.streamed
    }

    /// How the server is told where the body ends. A chunked body that is here in full goes on
    /// with its length, unless trailers follow it.
    pub(crate) fn framing(&self, length: BodyLength) -> Framing {
        match (length, &self.rest) {
            (BodyLength::None, _) => Framing::Silent,
            (BodyLength::Length(length), _) => Framing::Length(length),
            (BodyLength::Chunked, Rest::Chunked(decoder)) if decoder.is_done() && decoder.trailers().is_empty() => {
                Framing::Length(self.held_bytes as u64)
            }
            (BodyLength::Chunked, _) => Framing::Chunked,
        }
    }

    /// More may be collected before a server is asked.
    pub(crate) fn wants_collecting(&self) -> bool {
        !self.is_complete() && self.early.len() + self.held_bytes < COLLECT_BYTES && buffers::within_budget()
    }

    /// Appends what is here to `output`, framed as `framing` says. It stays here for another try.
    pub(crate) fn append_to(&self, output: &mut Vec<u8>, framing: Framing) {
        match framing {
            Framing::Silent => {}
            Framing::Length(_) => {
                output.extend_from_slice(self.early);
                for lease in &self.held {
                    output.extend_from_slice(lease.filled());
                }
            }
            Framing::Chunked => {
                if self.held_bytes > 0 {
                    chunked::begin_chunk(output, self.held_bytes);
                    for lease in &self.held {
                        output.extend_from_slice(lease.filled());
                    }
                    output.extend_from_slice(b"\r\n");
                }
                if let Rest::Chunked(decoder) = &self.rest
                    && decoder.is_done()
                {
                    chunked::end_body(output, decoder.trailers());
                }
            }
        }
    }

    /// What has come and has not been taken yet; for who takes a body in and sends it nowhere.
    pub(crate) fn take_here(&mut self) -> Vec<Vec<u8>> {
        self.streamed = true;
        self.held_bytes = 0;
        let early = std::mem::take(&mut self.early);
        let held = self.held.drain(..).map(|lease| lease.filled().to_vec());
        std::iter::once(early.to_vec()).filter(|part| !part.is_empty()).chain(held).collect()
    }

    /// Bytes pass through and are not kept: those before them are of no use any more.
    fn let_go(&mut self) {
        self.streamed = true;
        self.held.clear();
        self.held_bytes = 0;
        self.early = &[];
    }

    /// Reads once from the client and holds what came.
    pub(crate) fn poll_collect(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
    ) -> Poll<Result<(), BodyError>> {
        let mut lease = match self.held.pop_back() {
            Some(last) if matches!(self.rest, Rest::Length(_)) && last.len() < last.capacity() => last,
            Some(last) => {
                self.held.push_back(last);
                Lease::large()
            }
            None => Lease::large(),
        };
        let before = lease.len();
        let polled = self.poll_fill(context, client, &mut lease);
        let count = lease.len() - before;
        if let Rest::Chunked(_) = self.rest {
            let result = match polled {
                Poll::Ready(Ok(())) => self.hold(lease.filled()).map(|used| {
                    if used < lease.len() {
                        lease.consume(used);
                        self.leftover = Some(lease);
                    }
                }),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(result);
        }
        self.held_bytes += count;
        if !lease.is_empty() {
            self.held.push_back(fitting(lease));
        }
        polled
    }

    /// Reads once from the client into `output`, an empty large buffer, framed for the server: the
    /// streaming way. Still empty after `Ready`: only framing came.
    pub(crate) fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        output: &mut Lease,
    ) -> Poll<Result<(), BodyError>> {
        let is_framed = matches!(self.rest, Rest::Length(_));
        let mut raw = if is_framed { Lease::of(0) } else { Lease::medium() };
        match self.poll_fill(context, client, if is_framed { output } else { &mut raw }) {
            Poll::Ready(Ok(())) => self.let_go(),
            other => return other,
        }
        if is_framed {
            return Poll::Ready(Ok(()));
        }
        let used = match self.pass(raw.filled(), output) {
            Ok(used) => used,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if used < raw.len() {
            raw.consume(used);
            self.leftover = Some(raw);
        }
        Poll::Ready(Ok(()))
    }

    /// Decodes chunked bytes into one chunk in `output`, an empty buffer, and says how many belong
    /// to the body.
    fn pass(&mut self, input: &[u8], output: &mut Lease) -> Result<usize, BodyError> {
        // The data are copied once, behind room for the line that says how many they are.
        output.advance(CHUNK_LINE_BYTES);
        let used = self.decode(input, |data| {
            output.append(data);
        })?;
        let length = output.len() - CHUNK_LINE_BYTES;
        let mut line = Vec::with_capacity(CHUNK_LINE_BYTES);
        if length > 0 {
            chunked::begin_chunk(&mut line, length);
            output.append(b"\r\n");
        }
        output.consume(CHUNK_LINE_BYTES - line.len());
        if let Some(place) = output.filled_mut().get_mut(..line.len()) {
            place.copy_from_slice(&line);
        }
        if let Rest::Chunked(decoder) = &self.rest
            && decoder.is_done()
        {
            let mut end = Vec::new();
            chunked::end_body(&mut end, decoder.trailers());
            output.append(&end);
        }
        Ok(used)
    }

    /// One read. For length framing never past the end of the body.
    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        client: &mut Stream,
        lease: &mut Lease,
    ) -> Poll<Result<(), BodyError>> {
        let most = self.paced.allows();
        if most == 0 {
            return Poll::Pending;
        }
        let spare = lease.spare();
        let room = spare.len().min(most);
        let room = match self.rest {
            Rest::Length(left) => room.min(usize::try_from(left).unwrap_or(usize::MAX)),
            _ => room,
        };
        match client.poll_read(context, &mut spare[..room]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(BodyError::Closed)),
            Poll::Ready(Ok(count)) => {
                lease.advance(count);
                self.paced.note(count);
                if let Rest::Length(left) = &mut self.rest {
                    *left -= count as u64;
                    self.received += count as u64;
                    if *left == 0 {
                        self.rest = Rest::Complete;
                    }
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Decodes chunked bytes into `held` and says how many belong to the body.
    fn hold(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let mut held = std::mem::take(&mut self.held);
        let mut held_bytes = 0;
        let used = self.decode(input, |mut data| {
            while !data.is_empty() {
                if held.back().is_none_or(|last| last.len() == last.capacity()) {
                    held.push_back(Lease::of(data.len()));
                }
                if let Some(last) = held.back_mut() {
                    let taken = last.append(data);
                    held_bytes += taken;
                    data = &data[taken..];
                }
            }
        });
        self.held = held;
        self.held_bytes += held_bytes;
        used
    }

    /// Gives the data in chunked bytes to `take`, and says how many of the bytes belong to the body.
    fn decode(&mut self, input: &[u8], mut take: impl FnMut(&[u8])) -> Result<usize, BodyError> {
        let Rest::Chunked(decoder) = &mut self.rest else { return Ok(0) };
        let mut at = 0;
        while at < input.len() && !decoder.is_done() {
            let rest = &input[at..];
            let step = decoder.decode(rest)?;
            let data = &rest[step.data.clone()];
            at += step.consumed;
            self.received += data.len() as u64;
            // A chunk that announces too much is refused before it comes.
            if self.received.saturating_add(decoder.chunk_remaining()) > self.bound {
                return Err(BodyError::TooLarge);
            }
            take(data);
        }
        if !self.ours.is_empty() {
            decoder.take_out(|name| self.ours.iter().any(|ours| is_same_name(name, ours.as_bytes())));
        }
        Ok(at)
    }
}

/// The same in a buffer that is not much larger: a body that trickles in is held for long.
fn fitting(lease: Lease) -> Lease {
    if lease.len() <= MEDIUM_BUFFER_BYTES && lease.capacity() > MEDIUM_BUFFER_BYTES {
        let mut smaller = Lease::of(lease.len());
        smaller.append(lease.filled());
        smaller
    } else {
        lease
    }
}

/// Pumps the rest of a request body to the server, while the response may already come.
#[derive(Default)]
pub(crate) struct Upload {
    output: Option<Lease>,
    /// The server takes no more for now, and its time for that runs.
    blocked: bool,
    /// Bytes of the body have come since the server is asked.
    begun: bool,
}

/// Which side broke while a body was pumped.
#[derive(Debug)]
pub(crate) enum UploadError {
    Body(BodyError),
    Server,
}

impl Upload {
    /// Moves what can be moved now. `Ready(Ok)`: the body has been sent in full.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        body: &mut Body<'_>,
        client: &mut Stream,
        server: &mut Stream,
        deadline: &Deadline,
        pace: &crate::path::Pace,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            if let Some(lease) = &mut self.output {
                match server.poll_write(context, lease.filled()) {
                    Poll::Pending => {
                        if !self.blocked {
                            self.blocked = true;
                            pace.wait_for_server(deadline);
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(UploadError::Server)),
                    Poll::Ready(Ok(count)) => {
                        if std::mem::take(&mut self.blocked) {
                            pace.progress(deadline, body.received);
                        }
                        lease.consume(count);
                        if lease.is_empty() {
                            self.output = None;
                        }
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(UploadError::Server)),
                }
                continue;
            }
            if body.is_complete() {
                return Poll::Ready(Ok(()));
            }
            let mut lease = Lease::large();
            match body.poll_stream(context, client, &mut lease) {
                Poll::Pending if body.waits_for_share() => {
                    pace.pause(deadline);
                    return Poll::Pending;
                }
                Poll::Pending => {
                    pace.go_on(deadline, body.received);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UploadError::Body(error))),
                Poll::Ready(Ok(())) => {
                    self.begun = true;
                    pace.progress(deadline, body.received);
                    if !lease.is_empty() {
                        self.output = Some(lease);
                    }
                }
            }
        }
    }

    /// The client has sent something of its body since the server is asked.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Bytes wait for the server: it is the slow side.
    pub(crate) fn waits_for_server(&self) -> bool {
        self.output.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_become_one_for_each_read() {
        let mut body = Body::begin(BodyLength::Chunked, b"", 1000, &[]).unwrap();
        let mut passed = |bytes: &[u8]| {
            let mut output = Lease::large();
            let used = body.pass(bytes, &mut output).unwrap();
            (String::from_utf8_lossy(output.filled()).into_owned(), used)
        };
        assert_eq!(passed(b"3\r\nabc\r\nd;x=y\r\n0123456"), ("a\r\nabc0123456\r\n".into(), 22));
        assert_eq!(passed(b"789abc\r\n"), ("6\r\n789abc\r\n".into(), 8));
        assert_eq!(passed(b"0"), (String::new(), 1));
        assert_eq!(passed(b"\r\nX-Sum: 1\r\n\r\nGET /next"), ("0\r\nX-Sum: 1\r\n\r\n".into(), 14));
        assert_eq!(body.received, 16);

        let mut body = Body::begin(BodyLength::Chunked, b"", 1000, &[]).unwrap();
        let mut output = Lease::large();
        body.pass(b"1\r\nx\r\n0\r\n\r\n", &mut output).unwrap();
        assert_eq!(output.filled(), b"1\r\nx\r\n0\r\n\r\n");
    }

    #[test]
    fn a_body_that_trickles_in_is_held_in_little() {
        let fitted = |length: usize| {
            let mut lease = Lease::large();
            lease.append(&vec![b'x'; length]);
            let lease = fitting(lease);
            assert_eq!(lease.filled(), vec![b'x'; length]);
            lease.capacity()
        };
        assert_eq!([1, 5_000, 60_000].map(fitted), [4 * 1024, MEDIUM_BUFFER_BYTES, LARGE_BUFFER_BYTES]);
    }

    #[test]
    fn the_largest_read_fits() {
        let data = vec![b'x'; MEDIUM_BUFFER_BYTES];
        let line = format!("{:x}\r\n", data.len());
        let mut body = Body::begin(BodyLength::Chunked, line.as_bytes(), u64::MAX, &[]).unwrap();
        let mut output = Lease::large();
        assert_eq!(body.pass(&data, &mut output).unwrap(), data.len());
        assert_eq!(output.len(), data.len() + "4000\r\n\r\n".len());
    }
}
