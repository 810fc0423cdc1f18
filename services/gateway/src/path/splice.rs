//! Large bodies of known length: the kernel moves them from the server's socket to the client's,
//! and no byte of them comes into this process.

use std::io;
use std::task::{Context, Poll, ready};

use sumun_engine::pipes::PipeLease;

use crate::io::Stream;
use crate::limits::SPLICE_BYTES;

/// A body on its way through a pipe.
pub(super) struct Splice {
    pipe: PipeLease,
}

/// Which side ended a body before its time.
pub(super) enum Broken {
    Server,
    Client,
}

impl Splice {
    /// `None` where the kernel has no pipe for us: the body is then copied.
    pub(super) fn take() -> Option<Self> {
        Some(Self { pipe: PipeLease::take()? })
    }

    /// Bytes of the body that have left the server and not reached the client.
    pub(super) fn held(&self) -> usize {
        self.pipe.held()
    }

    /// Takes up to `left` bytes from the server. Only when nothing is held.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        server: &Stream,
        left: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        let most = SPLICE_BYTES.min(usize::try_from(*left).unwrap_or(usize::MAX));
        match ready!(server.poll_readable_io(context, |socket| self.pipe.fill(socket, most))) {
            Ok(0) | Err(_) => Poll::Ready(Err(Broken::Server)),
            Ok(count) => {
                *left -= count as u64;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Gives what is held to the client, and says how much that was.
    pub(super) fn poll_empty(&mut self, context: &mut Context<'_>, client: &Stream) -> Poll<Result<usize, Broken>> {
        let polled = client.poll_writable_io(context, |socket| self.pipe.empty(socket));
        Poll::Ready(ready!(polled).map_err(|_: io::Error| Broken::Client))
    }
}
