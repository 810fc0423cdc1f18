//! The stream that stands in a client's place: it takes the text of a response apart for its [`Filling`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use sumun_config::checked::Name;
use sumun_http::chunked::Decoder;
use sumun_http::{Method, ResponseBody, ResponseHead};
use sumun_store::Unwanted;

use super::super::Portion;
use super::Filling;
use crate::io::Gone;
use crate::limits::CACHE_ROOM_WAIT;

/// The stream that the path writes to.
pub(crate) struct FillStream {
    filling: Filling,
    phase: Phase,
    /// Until when a disk may hold it up.
    patience: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// How the body is taken apart.
pub(super) enum Phase {
    Head,
    Length(u64),
    Chunked(Box<Decoder>),
    UntilEnd,
    /// The rest is nobody's business.
    Swallow,
    /// Nor worth waiting for.
    Refuse,
}

impl std::fmt::Debug for FillStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FillStream")
    }
}

impl FillStream {
    pub(crate) fn new(filling: Filling) -> Self {
        Self { filling, phase: Phase::Head, patience: None }
    }

    pub(crate) fn into_filling(self) -> Filling {
        self.filling
    }

    /// Who is asked.
    pub(crate) fn note_server(&mut self, server: &Name) {
        self.filling.server = Some(Arc::clone(server));
    }

    /// Takes the text of a response; the head has to be in one write, in full.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            if let Phase::Head = self.phase {
                taken += self.take_head(rest)?;
                continue;
            }
            match self.poll_room(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Poll::Pending if taken > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
            taken += self.take_body(rest)?;
        }
        Poll::Ready(Ok(taken))
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        for part in parts {
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

    /// Readers that are slow hold up what is not kept; a disk holds up nobody for long.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Unwanted>> {
        let polled = self.filling.writer.poll_room(context);
        if polled.is_ready() || self.filling.on_disk.is_none() {
            self.patience = None;
            return polled;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(CACHE_ROOM_WAIT)));
        ready!(patience.as_mut().poll(context));
        self.filling.give_up_keeping();
        self.patience = None;
        self.filling.writer.poll_room(context)
    }

    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut head = ResponseHead::default();
        let parsed = head.parse(bytes, Method::Get).ok().flatten();
        let length = parsed.ok_or(io::ErrorKind::InvalidData)?;
        let text = bytes.get(..length).unwrap_or_default();
        if head.status >= 200 {
            self.phase = self.filling.begin(&head, text);
        } else if !matches!(self.filling.wanted.portion, Portion::Slice(..)) {
            self.filling.writer.interim(Bytes::copy_from_slice(text));
        }
        Ok(length)
    }

    fn take_body(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.phase {
            Phase::Head => Ok(0),
            Phase::Swallow => Ok(bytes.len()),
            Phase::Refuse => Err(io::ErrorKind::BrokenPipe.into()),
            Phase::UntilEnd => {
                self.filling.push(bytes)?;
                Ok(bytes.len())
            }
            Phase::Length(left) => {
                let piece = bytes.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(bytes);
                self.filling.push(piece)?;
                *left -= piece.len() as u64;
                if *left == 0 {
                    self.phase = Phase::Swallow;
                }
                Ok(piece.len())
            }
            Phase::Chunked(decoder) => {
                let step = decoder.decode(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
                self.filling.push(bytes.get(step.data).unwrap_or_default())?;
                if decoder.is_done() {
                    self.phase = Phase::Swallow;
                }
                Ok(step.consumed)
            }
        }
    }

    /// Nobody wants what comes.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<Gone> {
        ready!(self.filling.writer.poll_unwanted(context));
        Poll::Ready(Gone::Yes)
    }
}

/// By what the head says.
pub(super) fn body_of(head: &ResponseHead) -> Phase {
    match head.body {
        ResponseBody::None => Phase::Swallow,
        ResponseBody::Length(length) => Phase::Length(length),
        ResponseBody::Chunked => Phase::Chunked(Box::default()),
        ResponseBody::UntilClose => Phase::UntilEnd,
    }
}
