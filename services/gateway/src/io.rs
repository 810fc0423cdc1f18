//! Sockets of clients and servers, and waiting on them under a deadline.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sumun_engine::limits::LARGE_BUFFER_BYTES;
use sumun_engine::socket::Socket;
use sumun_engine::tls::limits::WRITE_BYTES;
use sumun_engine::tls::{Failure, Peer, TlsStream, Transport};
use sumun_engine::{Deadline, Lease};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::cache::FillStream;
use crate::http2::{Broken, Http2Stream};

/// A connection of either family.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    /// Boxed: a few bytes less in every TCP connection, of which there are so many more.
    Unix(Box<UnixStream>),
    /// Either of the two, over TLS.
    Tls(Box<Secured>),
    /// A request's stream of an HTTP/2 connection, which reads and writes like HTTP/1.
    Http2(Box<Http2Stream>),
    /// What a server answers goes into the cache.
    Fill(Box<FillStream>),
}

/// A connection over TLS.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) tls: TlsStream,
    /// What is known of a client; of a server nothing is asked here.
    pub(crate) security: Option<Rc<Security>>,
}

/// What a client's handshake came to.
#[derive(Debug)]
pub(crate) struct Security {
    /// HTTP/2 was agreed on.
    pub(crate) is_http2: bool,
    /// Field and value that tell servers of the client's certificate, which has been verified.
    pub(crate) subject: Option<(Arc<str>, String)>,
}

/// Why waiting ended without bytes.
#[derive(Debug)]
pub(crate) enum Stopped {
    Deadline,
    Broken,
}

impl Stream {
    /// Reads once. A short read tells the runtime that nothing is left, so the next wait costs no
    /// system call that only says "would block".
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        let result = match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Self::Unix(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
            Self::Tls(stream) => return stream.tls.poll_read(context, bytes),
            Self::Http2(stream) => return stream.poll_read(context, bytes),
            Self::Fill(_) => return Poll::Pending,
        };
        result.map_ok(|()| buffer.filled().len())
    }

    /// While it is pending, the same bytes have to come first again: over TLS some of them may be
    /// encrypted already.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
            Self::Tls(stream) => stream.tls.poll_write(context, bytes),
            Self::Http2(stream) => stream.poll_write(context, bytes),
            Self::Fill(stream) => stream.poll_write(context, bytes),
        }
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Unix(stream) => Pin::new(&mut **stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => stream.tls.poll_write_vectored(context, parts),
            Self::Http2(stream) => stream.poll_write_vectored(context, parts),
            Self::Fill(stream) => stream.poll_write_vectored(context, parts),
        }
    }

    /// A system call on a socket that has bytes.
    pub(crate) fn poll_readable_io(
        &self,
        context: &mut Context<'_>,
        call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        match self.socket() {
            Some(socket) => socket.poll_readable_io(context, call),
            None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// A system call on a socket that takes bytes.
    pub(crate) fn poll_writable_io(
        &self,
        context: &mut Context<'_>,
        call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        match self.socket() {
            Some(socket) => socket.poll_writable_io(context, call),
            None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// There are bytes, an end or an error to be read. May be wrong once after a full read, and over
    /// TLS where what came is for TLS alone.
    pub(crate) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
            Self::Tls(stream) => stream.tls.poll_readable(context),
            Self::Http2(stream) => stream.poll_readable(context),
            Self::Fill(_) => Poll::Pending,
        }
    }

    /// Reads without waiting and without registering interest.
    pub(crate) fn try_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(bytes),
            Self::Unix(stream) => stream.try_read(bytes),
            Self::Tls(stream) => stream.tls.try_read(bytes),
            Self::Http2(_) | Self::Fill(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Of a server's connection that has ended or takes no more: how it refused us over TLS, if that
    /// is all it said.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<Option<Failure>> {
        match self {
            Self::Tls(stream) => stream.tls.poll_refusal(context),
            Self::Tcp(_) | Self::Unix(_) | Self::Http2(_) | Self::Fill(_) => Poll::Ready(None),
        }
    }

    /// A stream of HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// It goes into the cache.
    pub(crate) fn is_fill(&self) -> bool {
        matches!(self, Self::Fill(_))
    }

    /// A connection over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Both sides of a TLS handshake want HTTP/2.
    pub(crate) fn has_agreed_on_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.tls.is_http2())
    }

    /// A server can be asked for a WebSocket here.
    pub(crate) fn takes_websockets(&self) -> bool {
        match self {
            Self::Http2(stream) => stream.takes_websockets(),
            _ => true,
        }
    }

    /// How a stream of HTTP/2 came to its end before its time, if it did.
    pub(crate) fn broken(&self) -> Option<Broken> {
        match self {
            Self::Http2(stream) => stream.broken(),
            _ => None,
        }
    }

    /// Streams of the same connection that are open, this one among them.
    pub(crate) fn siblings(&self) -> usize {
        match self {
            Self::Http2(stream) => stream.siblings(),
            _ => 1,
        }
    }

    /// Bytes that the other end of its TCP connection has acknowledged, where they are all its own.
    pub(crate) fn acknowledged(&self) -> Option<u64> {
        let socket = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => match stream.tls.transport() {
                Transport::Tcp(stream) => stream,
                Transport::Unix(_) => return None,
            },
            Self::Unix(_) | Self::Http2(_) | Self::Fill(_) => return None,
        };
        sumun_host::sockets::bytes_acknowledged(socket).ok()
    }

    /// It came over TLS, itself or the connection that it is a stream of.
    pub(crate) fn security(&self) -> Option<Rc<Security>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) | Self::Fill(_) => None,
            Self::Tls(stream) => stream.security.clone(),
            Self::Http2(stream) => stream.security.clone(),
        }
    }

    /// Over TLS: a record has begun and its end is not here.
    pub(crate) fn has_part_of_record(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.tls.has_part_of_record())
    }

    /// So much is best written at once.
    pub(crate) fn piece_bytes(&self) -> usize {
        match self {
            Self::Tls(_) => WRITE_BYTES,
            Self::Tcp(_) | Self::Unix(_) | Self::Http2(_) | Self::Fill(_) => LARGE_BUFFER_BYTES,
        }
    }

    /// Bytes of a write that has not come back, or has failed, may be with the other side already: over
    /// TLS a write comes back when all of it is with the kernel.
    pub(crate) fn has_sent_part(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.tls.has_sent_part())
    }

    /// Bytes of a write that is pending: they have to come first again.
    pub(crate) fn owed(&self) -> usize {
        match self {
            Self::Tls(stream) => stream.tls.owed(),
            _ => 0,
        }
    }

    /// Its socket, where its bytes are those of the connection.
    pub(crate) fn socket(&self) -> Option<Socket<'_>> {
        match self {
            Self::Tcp(stream) => Some(Socket::Tcp(stream)),
            Self::Unix(stream) => Some(Socket::Unix(stream)),
            Self::Tls(_) | Self::Http2(_) | Self::Fill(_) => None,
        }
    }

    /// The kernel can move bytes in and out by itself.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Whether the client has gone while it should wait. Bytes that wait are kept for a read.
    pub(crate) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Unix(_) => return Poll::Pending,
            Self::Tls(stream) => {
                return stream.tls.poll_gone(context).map(|peer| match peer {
                    Peer::Gone => Gone::Yes,
                    Peer::SendsNoMore => Gone::SendsNoMore,
                    Peer::SentMore => Gone::SentMore,
                });
            }
            Self::Http2(stream) => return stream.poll_gone(context),
            Self::Fill(stream) => return stream.poll_gone(context),
        };
        let mut byte = [0];
        match ready!(stream.poll_peek(context, &mut ReadBuf::new(&mut byte))) {
            Err(_) => Poll::Ready(Gone::Yes),
            Ok(0) => Poll::Ready(Gone::SendsNoMore),
            Ok(_) => Poll::Ready(Gone::SentMore),
        }
    }

    /// Closing this connection will reset it, so that what it carried is not taken for complete.
    pub(crate) fn reset_on_close(&self) {
        match self {
            // Where the option cannot be set, the connection is gone already.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            // Whether it is complete is said when the path is done with it.
            Self::Unix(_) | Self::Fill(_) => {}
            Self::Tls(stream) => stream.tls.reset_on_close(),
            Self::Http2(stream) => stream.reset_on_close(),
        }
    }

    /// Tells the other side, before an idle connection is dropped, that this is no accident; where
    /// TCP says so by itself, there is nothing to do.
    pub(crate) fn say_goodbye(&mut self) {
        if let Self::Tls(stream) = self {
            stream.tls.say_goodbye();
        }
    }

    /// Ends our direction.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            Self::Tls(stream) => stream.tls.poll_shutdown(context),
            Self::Http2(stream) => stream.poll_shutdown(context),
            Self::Fill(_) => Poll::Ready(Ok(())),
        }
    }
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp(stream) => Self::Tcp(stream),
            Transport::Unix(stream) => Self::Unix(Box::new(stream)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The connection is broken.
    Yes,
    /// It has ended its direction. It may still want its answer (RFC 9112 section 9.6).
    SendsNoMore,
    /// Not gone: it has sent the next request already.
    SentMore,
}

/// Why a server ended a new connection before it said anything, where it is TLS that says it. A server
/// of TLS 1.3 looks at our certificate when the handshake is over for us.
pub(crate) async fn refusal(stream: &mut Stream, deadline: &Deadline) -> Option<Failure> {
    poll_fn(|context| match stream.poll_refusal(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(None),
        other => other,
    })
    .await
}

/// Reads once, or stops at the deadline.
pub(crate) async fn read(stream: &mut Stream, deadline: &Deadline, bytes: &mut [u8]) -> Result<usize, Stopped> {
    poll_fn(|context| match stream.poll_read(context, bytes) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(Stopped::Deadline)),
        other => other.map_err(|_| Stopped::Broken),
    })
    .await
}

/// Writes everything, or stops at the deadline.
pub(crate) async fn write_all(stream: &mut Stream, deadline: &Deadline, bytes: &[u8]) -> Result<(), Stopped> {
    let mut written = 0;
    poll_fn(|context| {
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match stream.poll_write(context, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Stopped::Broken)),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stopped::Broken)),
                Poll::Pending if deadline.passed() => return Poll::Ready(Err(Stopped::Deadline)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// Closes so that the last response arrives: our direction ends, what the client still sends is
/// read and thrown away until it ends too (RFC 9112 section 9.6). A close with unread bytes would
/// reset the connection and take the response with it.
pub(crate) async fn close_gently(stream: &mut Stream, deadline: &Deadline) {
    deadline.set(crate::limits::LINGER);
    let mut thrown_away = 0;
    let ended = poll_fn(|context| match stream.poll_shutdown(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(Stopped::Deadline)),
        other => other.map_err(|_| Stopped::Broken),
    });
    if ended.await.is_err() {
        return;
    }
    while thrown_away < crate::limits::LINGER_BYTES {
        if poll_fn(|context| match stream.poll_readable(context) {
            Poll::Pending if deadline.passed() => Poll::Ready(Err(())),
            other => other.map_err(drop),
        })
        .await
        .is_err()
        {
            return;
        }
        // Leased for this read alone. Who floods has sent much: a few large reads.
        let mut lease = Lease::large();
        match read(stream, deadline, lease.spare()).await {
            Ok(0) | Err(_) => return,
            Ok(count) => thrown_away += count,
        }
    }
}
