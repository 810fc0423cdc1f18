//! Sockets that somebody else owns: system calls on them when they are ready, and a look at their
//! first bytes before anybody takes them.
//!
//! What the first bytes are decides who the connection is for, and all of them belong to whom it is
//! for.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::Deadline;
use crate::buffers::Lease;
use crate::tls::Transport;

/// A connected socket that somebody else owns.
#[derive(Debug, Clone, Copy)]
pub enum Socket<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

/// Why the first bytes did not become what they had to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// The peer ended, or broke off.
    Ended,
    TimedOut,
    /// As many as there is room for, and not enough.
    TooMany,
}

impl<'a> From<&'a Transport> for Socket<'a> {
    fn from(transport: &'a Transport) -> Self {
        match transport {
            Transport::Tcp(stream) => Self::Tcp(stream),
            Transport::Unix(stream) => Self::Unix(stream),
        }
    }
}

impl Socket<'_> {
    /// Returns when the other end has broken the connection off, whatever lies in it to be read. Of a
    /// Unix socket, which knows no such thing, never.
    pub async fn broken(self) {
        let told = match self {
            Self::Tcp(stream) => stream.ready(Interest::ERROR).await,
            Self::Unix(_) => std::future::pending().await,
        };
        // There is no event loop any more: nobody waits for anything.
        told.ok();
    }

    /// A system call on a socket that has bytes.
    ///
    /// # Errors
    /// Those of the call, but for "would block".
    pub fn poll_readable_io(
        self,
        context: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let result = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(context))?;
                    stream.try_io(Interest::READABLE, || call(stream.as_fd()))
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(context))?;
                    stream.try_io(Interest::READABLE, || call(stream.as_fd()))
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// A system call on a socket that takes bytes.
    ///
    /// # Errors
    /// Those of the call, but for "would block".
    pub fn poll_writable_io(
        self,
        context: &mut Context<'_>,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let result = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(context))?;
                    stream.try_io(Interest::WRITABLE, || call(stream.as_fd()))
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(context))?;
                    stream.try_io(Interest::WRITABLE, || call(stream.as_fd()))
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// Waits until `understand` makes something of the first bytes, of which it sees `most`, and leaves them
/// where they are: while it waits it holds no buffer.
///
/// # Errors
/// It cannot come to that any more.
pub async fn look<T>(
    socket: Socket<'_>,
    deadline: &Deadline,
    most: usize,
    mut understand: impl FnMut(&[u8]) -> Option<T>,
) -> Result<T, Unseen> {
    loop {
        let ready = readable(socket, deadline).await?;
        let (mut understood, mut is_full) = (None, false);
        let peeked = try_read_io(socket, |socket| {
            let mut lease = Lease::of(most);
            let buffer = lease.spare();
            let (_, count) = rustix::net::recv(socket, &mut *buffer, RecvFlags::PEEK)?;
            understood = understand(buffer.get(..count).unwrap_or_default());
            is_full = count == buffer.len();
            if count > 0 && understood.is_none() && !is_full {
                // What is here is known: the next wait has to be for what is not here yet.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match peeked {
            Ok(0) => return Err(Unseen::Ended),
            Ok(_) => return understood.ok_or(Unseen::TooMany),
            // No more will come, and waiting would not wait: an end stays ready for ever.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            Err(_) => return Err(Unseen::Ended),
        }
    }
}

/// Takes as many bytes as fit into `buffer`, which were seen before.
///
/// # Errors
/// The connection has broken since.
pub fn take(socket: Socket<'_>, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let taken = try_read_io(socket, |socket| Ok(rustix::net::recv(socket, &mut *rest, RecvFlags::empty())?.1));
        match taken? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(())
}

async fn readable(socket: Socket<'_>, deadline: &Deadline) -> Result<Ready, Unseen> {
    let mut ready = pin!(async {
        match socket {
            Socket::Tcp(stream) => stream.ready(Interest::READABLE).await,
            Socket::Unix(stream) => stream.ready(Interest::READABLE).await,
        }
    });
    poll_fn(|context| match ready.as_mut().poll(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(Unseen::TimedOut)),
        other => other.map_err(|_| Unseen::Ended),
    })
    .await
}

fn try_read_io(socket: Socket<'_>, call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>) -> io::Result<usize> {
    match socket {
        Socket::Tcp(stream) => stream.try_io(Interest::READABLE, || call(stream.as_fd())),
        Socket::Unix(stream) => stream.try_io(Interest::READABLE, || call(stream.as_fd())),
    }
}
