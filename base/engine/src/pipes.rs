//! Pipes on loan: through them the kernel moves bytes from one socket to another.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;

use sumun_host::pipes::Pipe;

use crate::limits::SPARE_PIPES;

thread_local! {
    static SPARES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe on loan from the worker, given back when it is dropped.
#[derive(Debug)]
pub struct PipeLease(Option<Pipe>);

impl PipeLease {
    /// `None` where the kernel has no pipe for us: the bytes are then copied.
    #[must_use]
    pub fn take() -> Option<Self> {
        let pipe = SPARES.with_borrow_mut(Vec::pop).map_or_else(Pipe::new, Ok).ok()?;
        Some(Self(Some(pipe)))
    }

    /// Bytes that went in and have not come out.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.as_ref().map_or(0, Pipe::held)
    }

    /// See [`Pipe::fill`].
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn fill(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        self.pipe()?.fill(socket, most)
    }

    /// See [`Pipe::empty`].
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn empty(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.pipe()?.empty(socket)
    }

    /// It has a pipe until it is dropped.
    fn pipe(&mut self) -> io::Result<&mut Pipe> {
        self.0.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for PipeLease {
    fn drop(&mut self) {
        // A pipe with bytes in it would give them to another client.
        if let Some(pipe) = self.0.take().filter(|pipe| pipe.held() == 0) {
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
