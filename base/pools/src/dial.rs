//! A new connection to a server, over TLS where its pool speaks it.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use sumun_config::checked as config;
use sumun_engine::Deadline;
use sumun_engine::tls::{Failure, Offer, TlsConnector, TlsPool, TlsStream, Transport, server_name};
use sumun_host::connect::{Source, start_connect};
use tokio::net::{TcpStream, UnixStream};

use crate::pool::Pool;
use crate::server::{Server, Target};

/// Connects to the servers of one pool, for one worker.
#[derive(Debug)]
pub struct Dialer {
    pool: Arc<Pool>,
    /// `None`: its servers are spoken to without TLS.
    tls: Option<TlsConnector>,
    source: config::Source,
    /// Which source address comes next.
    next_source: Cell<usize>,
}

/// A connection to a server.
#[derive(Debug)]
pub enum Dialed {
    Plain(Transport),
    Tls(Box<TlsStream>),
}

/// Why there is none.
#[derive(Debug)]
pub enum DialError {
    /// Nobody answered within the time.
    Timeout,
    Failed,
    /// This host has no descriptor or no memory left for it: nothing is said of the server.
    Host,
    /// There is no address or TCP port to connect from.
    NoSource,
    /// It is connected, and not the server it should be, or it speaks no TLS that we do.
    Handshake(Failure),
    /// Connected, and the handshake took too long.
    HandshakeTimeout(Failure),
}

impl Dialer {
    #[must_use]
    pub fn new(pool: &Arc<Pool>, tls: Option<TlsConnector>) -> Self {
        let source = pool.settings().source.clone();
        Self { pool: Arc::clone(pool), tls, source, next_source: Cell::new(0) }
    }

    /// It speaks this with its servers.
    #[must_use]
    pub fn speaks(&self, tls: Option<&Arc<TlsPool>>) -> bool {
        match (&self.tls, tls) {
            (Some(own), Some(tls)) => own.is_of(tls),
            (own, tls) => own.is_none() && tls.is_none(),
        }
    }

    /// Connects within `deadline`, for `client` where it is one's own connection. `first` is said before
    /// everything else, TLS among it.
    ///
    /// # Errors
    /// The server is not there, or not what it should be.
    pub async fn dial(
        &self,
        server: &Server,
        (client, first): (Option<SocketAddr>, &[u8]),
        offer: Offer,
        deadline: &Deadline,
    ) -> Result<Dialed, DialError> {
        let mut transport = match server.target() {
            Target::Tcp(address) => {
                let stream = start_connect(*address, self.source_for(address.ip(), client)).map_err(of_start)?;
                let stream = TcpStream::from_std(stream).map_err(|_| DialError::Failed)?;
                wait_connected(&stream, deadline).await?;
                Transport::Tcp(stream)
            }
            Target::Unix(path) => Transport::Unix(UnixStream::connect(path).await.map_err(|error| not_made(&error))?),
        };
        write_all(&mut transport, first, deadline).await?;
        match &self.tls {
            None => Ok(Dialed::Plain(transport)),
            Some(tls) => self.secure(tls, transport, server, offer, deadline).await,
        }
    }

    /// Does the handshake, which verifies whom we are connected with.
    async fn secure(
        &self,
        tls: &TlsConnector,
        transport: Transport,
        server: &Server,
        offer: Offer,
        deadline: &Deadline,
    ) -> Result<Dialed, DialError> {
        let name = server_name(&server.address());
        let servers = self.pool.servers().members().len();
        let mut stream = Box::new(tls.connect(transport, &name, offer, servers).map_err(|_| DialError::Failed)?);
        let opened = poll_fn(|context| match stream.poll_handshake(context) {
            Poll::Pending if deadline.passed() => Poll::Ready(Err(None)),
            other => other.map(|result| result.map_err(Some)),
        });
        match opened.await {
            Ok(_) => Ok(Dialed::Tls(stream)),
            Err(None) => Err(DialError::HandshakeTimeout(stream.give_up())),
            Err(Some(failure)) => Err(DialError::Handshake(failure)),
        }
    }

    /// The next source address of the destination's family, or the client's where it is of that family.
    pub fn source_for(&self, destination: IpAddr, client: Option<SocketAddr>) -> Option<Source> {
        let is_of_family = |source: &IpAddr| source.is_ipv4() == destination.is_ipv4();
        let own = match &self.source {
            config::Source::Own(own) => own,
            config::Source::Client => {
                return client.map(|client| client.ip().to_canonical()).filter(is_of_family).map(Source::Foreign);
            }
        };
        let count = own.len();
        let next = (0..count).find_map(|_| {
            let index = self.next_source.get();
            self.next_source.set((index + 1) % count);
            own.get(index).copied().filter(is_of_family)
        });
        next.map(Source::Own)
    }
}

/// What the kernel says at once is about this end, but for a server of this host that refuses.
fn of_start(error: io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::AddrInUse
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::PermissionDenied => DialError::NoSource,
        _ => not_made(&error),
    }
}

async fn write_all(transport: &mut Transport, bytes: &[u8], deadline: &Deadline) -> Result<(), DialError> {
    let mut written = 0;
    poll_fn(|context| {
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match transport.poll_write(context, rest) {
                Poll::Pending if deadline.passed() => return Poll::Ready(Err(DialError::Timeout)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(DialError::Failed)),
                Poll::Ready(Ok(count)) => written += count,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn not_made(error: &io::Error) -> DialError {
    if sumun_host::connect::is_shortage(error) { DialError::Host } else { DialError::Failed }
}

async fn wait_connected(stream: &TcpStream, deadline: &Deadline) -> Result<(), DialError> {
    poll_fn(|context| match stream.poll_write_ready(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(DialError::Timeout)),
        other => other.map_err(|_| DialError::Failed),
    })
    .await?;
    match stream.take_error() {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(DialError::Failed),
    }
}
