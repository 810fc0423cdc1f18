//! Large bodies of known length: the kernel moves them from the server's socket to the client's,
//! and no byte of them comes into this process.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use sumun_host::pipes::Pipe;

use crate::io::Stream;
use crate::limits::{SPARE_PIPES, SPLICE_BYTES};

thread_local! {
    static SPARES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe on loan from the worker.
pub(super) struct Splice {
    pipe: Option<Pipe>,
}

/// Which side ended a body before its time.
pub(super) enum Broken {
    Server,
    Client,
}

impl Splice {
    /// `None` where the kernel has no pipe for us: the body is then copied.
    pub(super) fn take() -> Option<Self> {
        let pipe = SPARES.with_borrow_mut(Vec::pop).map_or_else(Pipe::new, Ok).ok()?;
        Some(Self { pipe: Some(pipe) })
    }

    /// Bytes of the body that have left the server and not reached the client.
    pub(super) fn held(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Takes up to `left` bytes from the server. Only when nothing is held.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        server: &Stream,
        left: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Err(Broken::Server)) };
        let most = SPLICE_BYTES.min(usize::try_from(*left).unwrap_or(usize::MAX));
        match ready!(server.poll_readable_io(context, |socket| pipe.fill(socket, most))) {
            Ok(0) | Err(_) => Poll::Ready(Err(Broken::Server)),
            Ok(count) => {
                *left -= count as u64;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Gives what is held to the client, and says how much that was.
    pub(super) fn poll_empty(&mut self, context: &mut Context<'_>, client: &Stream) -> Poll<Result<usize, Broken>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Err(Broken::Client)) };
        let polled = client.poll_writable_io(context, |socket| pipe.empty(socket));
        Poll::Ready(ready!(polled).map_err(|_: io::Error| Broken::Client))
    }
}

impl Drop for Splice {
    fn drop(&mut self) {
        // A pipe with bytes in it would give them to another client.
        if let Some(pipe) = self.pipe.take().filter(|pipe| pipe.held() == 0) {
            SPARES
                .try_with(|spares| {
                    if let Ok(mut spares) = spares.try_borrow_mut()
                        && spares.len() < SPARE_PIPES
                    {
                        spares.push(pipe);
                    }
                })
                .ok();
        }
    }
}
