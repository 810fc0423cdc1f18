//! One end of a connection that is passed on: a client's or a server's.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use sumun_engine::socket::Socket;
use sumun_engine::tls::{TlsStream, Transport};
use sumun_pools::Dialed;

/// A connected socket, in plain or over TLS.
#[derive(Debug)]
pub(crate) enum End {
    Plain(Transport),
    Tls(Box<TlsStream>),
}

impl From<Dialed> for End {
    fn from(dialed: Dialed) -> Self {
        match dialed {
            Dialed::Plain(transport) => Self::Plain(transport),
            Dialed::Tls(stream) => Self::Tls(stream),
        }
    }
}

impl End {
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(transport) => transport.poll_read(context, bytes),
            Self::Tls(stream) => stream.poll_read(context, bytes),
        }
    }

    /// While it is pending, the same bytes have to come first again: over TLS some of them may be
    /// encrypted already.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(transport) => transport.poll_write(context, bytes),
            Self::Tls(stream) => stream.poll_write(context, bytes),
        }
    }

    /// There are bytes, an end or an error to be read. May be wrong once after a full read.
    pub(crate) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(transport) => transport.poll_readable(context),
            Self::Tls(stream) => stream.poll_readable(context),
        }
    }

    /// Ends our direction.
    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(transport) => transport.poll_shutdown(context),
            Self::Tls(stream) => stream.poll_shutdown(context),
        }
    }

    /// Its socket, where the bytes on it are those that are passed on.
    pub(crate) fn socket(&self) -> Option<Socket<'_>> {
        match self {
            Self::Plain(transport) => Some(transport.into()),
            Self::Tls(_) => None,
        }
    }

    /// The socket below, whatever is spoken on it.
    pub(crate) fn transport_socket(&self) -> Socket<'_> {
        match self {
            Self::Plain(transport) => transport.into(),
            Self::Tls(stream) => stream.transport().into(),
        }
    }

    /// Which address of ours it is connected with; `None` for a Unix socket.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(transport) => transport.local_address(),
            Self::Tls(stream) => stream.transport().local_address(),
        }
    }

    /// Has TCP ask from now on whether the other end still lives, whenever nothing comes from it.
    pub(crate) fn watch(&self) {
        let transport = match self {
            Self::Plain(transport) => transport,
            Self::Tls(stream) => stream.transport(),
        };
        if let Transport::Tcp(stream) = transport {
            // A socket without probes is no worse than it was.
            sumun_host::connect::keep_alive(stream).ok();
        }
    }

    /// Closing this connection will reset it: what it carried is not to be taken for complete.
    pub(crate) fn reset_on_close(&self) {
        match self {
            Self::Plain(transport) => transport.reset_on_close(),
            Self::Tls(stream) => stream.reset_on_close(),
        }
    }
}
