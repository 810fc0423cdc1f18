//! The body of a message on its way into the machine: out of the framing of HTTP/1, into data and
//! trailers.

use sumun_http::chunked::Decoder;
use sumun_http2::{Connection as Machine, SendError, StreamId};

/// So much is given to the machine in one go: streams share the connection fairly.
const PIECE_BYTES: usize = 16 * 1024;

/// Where a message is.
pub(super) enum Sending {
    /// Its head comes next, or another one behind an interim one.
    Head,
    /// So many bytes of the body are to come.
    Length(u64),
    /// In chunks, which are taken apart; so many body bytes at the front of the next write the
    /// decoder has seen and the machine has not.
    Chunked { decoder: Box<Decoder>, undelivered: usize },
    /// The body is sent, and what stands behind it is not: so many bytes at the front of the next
    /// write, which the decoder has seen.
    Trailers { decoder: Box<Decoder>, undelivered: usize },
    /// The body is sent, and whether trailers follow is not known before the stream is shut down.
    Held,
    /// Until the stream is shut down.
    UntilEnd,
    /// Everything was said.
    Ended,
}

impl Sending {
    pub(super) fn chunked() -> Self {
        Self::Chunked { decoder: Box::default(), undelivered: 0 }
    }

    /// Gives the machine what it takes of `bytes`, and says how many of them are done with. `holds`: a
    /// body of known length is not the end.
    ///
    /// # Errors
    /// `Busy`: none of them now.
    pub(super) fn send(
        &mut self,
        machine: &mut Machine,
        now_ms: u64,
        id: StreamId,
        bytes: &[u8],
        holds: bool,
    ) -> Result<usize, SendError> {
        let piece = bytes.get(..PIECE_BYTES).unwrap_or(bytes);
        match self {
            Self::Head | Self::Held | Self::Ended => Err(SendError::Gone),
            Self::UntilEnd => machine.send_data(now_ms, id, piece, false),
            Self::Length(left) => {
                let piece = piece.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(piece);
                let end = piece.len() as u64 == *left && !holds;
                let taken = machine.send_data(now_ms, id, piece, end)?;
                *left -= taken as u64;
                if *left == 0 {
                    *self = if holds { Self::Held } else { Self::Ended };
                }
                Ok(taken)
            }
            Self::Chunked { decoder, undelivered } => {
                let mut at = 0;
                if *undelivered == 0 {
                    // What the gateway wrote itself is not malformed.
                    let step = decoder.decode(bytes).map_err(|_| SendError::Gone)?;
                    if decoder.is_done() {
                        *self = Self::Trailers { decoder: std::mem::take(decoder), undelivered: step.consumed };
                        return self.finish(machine, now_ms, id, b"").map(|()| step.consumed);
                    }
                    if step.data.is_empty() {
                        return Ok(step.consumed);
                    }
                    at = step.data.start;
                    *undelivered = step.data.len();
                }
                let data = bytes.get(at..).unwrap_or_default();
                let data = data.get(..PIECE_BYTES.min(*undelivered)).unwrap_or(data);
                let taken = machine.send_data(now_ms, id, data, false)?;
                *undelivered -= taken;
                Ok(at + taken)
            }
            Self::Trailers { undelivered, .. } => {
                let undelivered = *undelivered;
                self.finish(machine, now_ms, id, b"").map(|()| undelivered)
            }
        }
    }

    /// Says what stands behind the body, where it has come to that: its own trailers, or `held` ones.
    ///
    /// # Errors
    /// `Busy`: not now.
    pub(super) fn finish(
        &mut self,
        machine: &mut Machine,
        now_ms: u64,
        id: StreamId,
        held: &[u8],
    ) -> Result<(), SendError> {
        match self {
            Self::Trailers { decoder, .. } if !decoder.trailers().is_empty() => {
                machine.send_trailers(id, |fields| fields.add_lines(decoder.trailers()))?;
            }
            Self::Held if !held.is_empty() => machine.send_trailers(id, |fields| fields.add_lines(held))?,
            Self::Trailers { .. } | Self::Held | Self::UntilEnd => drop(machine.send_data(now_ms, id, b"", true)?),
            _ => return Ok(()),
        }
        *self = Self::Ended;
        Ok(())
    }
}
