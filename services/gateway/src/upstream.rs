//! A worker's side of a pool: its picker, its idle connections to the servers, and new ones.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use sumun_config::checked as config;
use sumun_engine::tls::{Failure, Offer, TlsConnector, TlsPool};
use sumun_engine::{Deadline, Lease, Worker};
use sumun_pools::{DialError, Dialed, Dialer, Lease as ServerLease, Outcome, Picker, Pool, Server};

use crate::events::{Event, Reason};
use crate::http2::{self, Links};
use crate::io::{Secured, Stream};
use crate::limits::{HANDSHAKE_LOG_PAUSE, IDLE_CONNECTIONS, RESPONSE_HEAD_BYTES};
use crate::metrics::PoolCell;
use crate::number::NumberTable;

/// What one worker has of one pool.
pub(crate) struct LocalPool {
    pub(crate) pool: Arc<Pool>,
    pub(crate) config: Arc<config::Pool>,
    pub(crate) picker: RefCell<Picker>,
    pub(crate) cell: Arc<PoolCell>,
    pub(crate) worker: Rc<Worker>,
    /// Connections that carry many requests at once.
    pub(crate) links: Links,
    idle: RefCell<IdleTable>,
    idle_count: Cell<usize>,
    /// A reload has put another in its place: it serves what it has begun and keeps nothing.
    retired: Cell<bool>,
    dialer: Dialer,
    /// When a failed handshake may be logged again: there may be one for each request.
    quiet_until_ms: Cell<u64>,
}

/// Keyed by the server's own number.
type IdleTable = NumberTable<u64, Vec<Idle>>;

struct Idle {
    stream: Stream,
    since_ms: u64,
}

/// A connection to a server, for one request.
pub(crate) struct ServerConnection {
    pub(crate) stream: Stream,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectError {
    Timeout,
    Failed,
    /// This host has no descriptor or no memory left for it.
    Host,
    /// It is connected, and not the server it should be, or it speaks no TLS that we do.
    Handshake,
    /// The server does not speak what it should.
    Protocol,
}

impl ConnectError {
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Timeout => Reason::ConnectTimeout,
            Self::Failed => Reason::ConnectFailed,
            Self::Host => Reason::OwnLimits,
            Self::Handshake => Reason::ServerHandshake,
            Self::Protocol => Reason::ServerProtocol,
        }
    }

    /// What it says of the server.
    pub(crate) fn outcome(self) -> Outcome {
        if self == Self::Host { Outcome::Neutral } else { Outcome::ConnectFailed }
    }
}

impl LocalPool {
    pub(crate) fn new(
        pool: &Arc<Pool>,
        config: &Arc<config::Pool>,
        cell: Arc<PoolCell>,
        worker: &Rc<Worker>,
        tls: Option<TlsConnector>,
    ) -> Self {
        Self {
            picker: RefCell::new(Picker::new(Arc::clone(pool))),
            pool: Arc::clone(pool),
            config: Arc::clone(config),
            cell,
            worker: Rc::clone(worker),
            links: Links::default(),
            idle: RefCell::default(),
            idle_count: Cell::new(0),
            retired: Cell::new(false),
            dialer: Dialer::new(pool, tls),
            quiet_until_ms: Cell::new(0),
        }
    }

    /// It speaks this with its servers.
    pub(crate) fn speaks(&self, tls: Option<&Arc<TlsPool>>) -> bool {
        self.dialer.speaks(tls)
    }

    /// A connection that is there: an idle one that the server has not closed, the one used last
    /// first; or a stream on one that is shared.
    pub(crate) fn take_idle(&self, server: &ServerLease) -> Option<ServerConnection> {
        if self.config.protocol != config::Protocol::Http1
            && let Some(stream) = self.links.take(server.server().id())
        {
            self.cell.reused.increment();
            return Some(ServerConnection { stream: Stream::Http2(Box::new(stream)) });
        }
        let mut table = self.idle.borrow_mut();
        let list = table.get_mut(&server.server().id())?;
        while let Some(mut idle) = list.pop() {
            self.idle_count.set(self.idle_count.get() - 1);
            if is_quiet(&mut idle.stream) {
                self.cell.reused.increment();
                return Some(ServerConnection { stream: idle.stream });
            }
            idle.stream.say_goodbye();
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give_back(&self, server: &ServerLease, mut connection: ServerConnection, now_ms: u64) {
        if let Stream::Http2(stream) = connection.stream {
            return stream.finish();
        }
        if self.retired.get() || self.idle_count.get() >= IDLE_CONNECTIONS || !server.server().may_be_asked() {
            return connection.stream.say_goodbye();
        }
        let mut table = self.idle.borrow_mut();
        let list = table.entry(server.server().id()).or_default();
        if list.len() < self.config.keepalive as usize {
            list.push(Idle { stream: connection.stream, since_ms: now_ms });
            self.idle_count.set(self.idle_count.get() + 1);
        } else {
            connection.stream.say_goodbye();
        }
    }

    /// Closes all idle connections and keeps none from now on.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        for mut idle in self.idle.borrow_mut().drain().flat_map(|(_, list)| list) {
            idle.stream.say_goodbye();
        }
        self.idle_count.set(0);
        self.links.retire(true);
    }

    /// Closes what the server closed and what has been idle for too long.
    pub(crate) fn sweep(&self, now_ms: u64) {
        self.links.retire(false);
        let keep_ms = self.worker.own_limits.shortened(self.config.timeouts.keepalive).as_millis() as u64;
        let mut count = 0;
        self.idle.borrow_mut().retain(|_, list| {
            list.retain_mut(|idle| {
                // The waker of the task that used it last holds that task's memory, for which there
                // may be no client any more; this one takes its place.
                drop(idle.stream.poll_readable(&mut Context::from_waker(Waker::noop())));
                let stays = idle.since_ms + keep_ms > now_ms && is_quiet(&mut idle.stream);
                if !stays {
                    idle.stream.say_goodbye();
                }
                stays
            });
            count += list.len();
            !list.is_empty()
        });
        self.idle_count.set(count);
    }

    /// Connects anew; where connections are shared, to one that others may be waiting for too.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        server: &ServerLease,
        deadline: &Deadline,
    ) -> Result<ServerConnection, ConnectError> {
        let server = server.server();
        let shares = match self.config.protocol {
            config::Protocol::Http1 => false,
            config::Protocol::Http2 => true,
            config::Protocol::Auto => self.links.has_agreed(server.id()),
        };
        if shares {
            match http2::open(self, server, deadline).await {
                Ok(stream) => return Ok(ServerConnection { stream: Stream::Http2(Box::new(stream)) }),
                // It has come to agree on something else since.
                Err(ConnectError::Protocol) if self.config.protocol == config::Protocol::Auto => {}
                Err(error) => return Err(error),
            }
        }
        let stream = self.dial(server, deadline).await?;
        if self.config.protocol == config::Protocol::Auto && stream.has_agreed_on_http2() {
            let stream = http2::adopt(self, server, stream, deadline).await?;
            return Ok(ServerConnection { stream: Stream::Http2(Box::new(stream)) });
        }
        Ok(ServerConnection { stream })
    }

    /// A socket of our own that is connected to a server.
    pub(crate) async fn dial(&self, server: &Arc<Server>, deadline: &Deadline) -> Result<Stream, ConnectError> {
        self.cell.connects.increment();
        match self.dialer.dial(server, (None, b""), Offer::of(self.config.protocol), deadline).await {
            Ok(Dialed::Plain(transport)) => Ok(transport.into()),
            Ok(Dialed::Tls(mut tls)) if self.config.protocol == config::Protocol::Http2 && !tls.is_http2() => {
                tls.say_goodbye();
                Err(ConnectError::Protocol)
            }
            Ok(Dialed::Tls(tls)) => Ok(Stream::Tls(Box::new(Secured { tls: *tls, security: None }))),
            Err(DialError::Timeout) => Err(ConnectError::Timeout),
            Err(DialError::Failed | DialError::NoSource) => Err(ConnectError::Failed),
            Err(DialError::Host) => Err(ConnectError::Host),
            Err(DialError::HandshakeTimeout(failure)) => {
                self.note_handshake(server, &failure, deadline.now_ms());
                Err(ConnectError::Timeout)
            }
            Err(DialError::Handshake(failure)) => {
                self.note_handshake(server, &failure, deadline.now_ms());
                Err(ConnectError::Handshake)
            }
        }
    }

    /// The operator is told: a certificate that is not valid does not mend itself.
    pub(crate) fn note_handshake(&self, server: &Arc<Server>, failure: &Failure, now_ms: u64) {
        if now_ms >= self.quiet_until_ms.get() {
            self.quiet_until_ms.set(now_ms + HANDSHAKE_LOG_PAUSE.as_millis() as u64);
            let (pool, server) = (&self.config.name, server.name());
            Event::ServerHandshakeFailed { pool, server, failure }.write();
        }
    }
}

/// Nothing to read on an idle connection: no end, no bytes that nobody asked for. What came before
/// a request is never taken for its answer (RFC 9112 section 6.3): it was meant for another client.
/// Over TLS that holds for a record of which a part is here: its rest would come with the answer.
///
/// A try and not a poll: the poll of a task whose budget is used up (`tokio::task::coop`) finds
/// nothing, whatever lies there. It costs a system call only when the event loop has seen
/// something, or when the last read filled its buffer.
///
/// What came since the loop last asked the kernel is not seen. A read of our own before each
/// request would see it, for a quarter more system calls, but not what is on its way through the
/// network at that moment: nothing in HTTP/1 tells that from the answer to the request that it
/// crosses. The gap would be smaller and still there, so it is left. Into it falls a server that
/// answers twice, or says 408 before it closes an idle connection, at that very moment.
fn is_quiet(stream: &mut Stream) -> bool {
    let is_silent = matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    is_silent && !stream.has_part_of_record()
}

/// Room behind what has arrived of a response's head: a larger buffer, up to the bound on heads.
pub(crate) fn make_room(input: &mut Lease) {
    if input.spare().is_empty() {
        input.compact();
        if input.spare().is_empty() {
            *input = std::mem::replace(input, Lease::small()).grown(RESPONSE_HEAD_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::task::Poll;

    use tokio::net::UnixStream;

    use super::*;

    /// A stream with one byte in it that the event loop has seen.
    async fn loud() -> (Stream, std::os::unix::net::UnixStream) {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = UnixStream::from_std(ours).unwrap();
        theirs.write_all(b"x").unwrap();
        ours.readable().await.unwrap();
        (Stream::Unix(Box::new(ours)), theirs)
    }

    #[tokio::test]
    async fn bytes_nobody_asked_for_are_seen_by_a_task_without_budget() {
        let (mut stream, _peer) = loud().await;
        poll_fn(|context| {
            // So many looks at it, until the runtime has the task believe that there is nothing.
            while stream.poll_readable(context).is_ready() {}
            assert!(!tokio::task::coop::has_budget_remaining());
            assert!(!is_quiet(&mut stream));
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn an_end_is_no_quiet_and_silence_is() {
        let (mut stream, peer) = loud().await;
        assert!(!is_quiet(&mut stream));
        assert!(is_quiet(&mut stream), "the byte was read");
        drop(peer);
        poll_fn(|context| stream.poll_readable(context)).await.unwrap();
        assert!(!is_quiet(&mut stream));
    }
}
