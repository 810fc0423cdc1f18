//! A worker's side of a pool: its picker, its idle connections to the servers, and new ones.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sumun_config::checked as config;
use sumun_engine::Deadline;
use sumun_pools::{Lease as ServerLease, Picker, Pool, Target};
use tokio::net::{TcpStream, UnixStream};

use crate::io::Stream;
use crate::limits::IDLE_CONNECTIONS;
use crate::metrics::PoolCell;

/// What one worker has of one pool.
pub(crate) struct LocalPool {
    pub(crate) pool: Arc<Pool>,
    pub(crate) config: Arc<config::Pool>,
    pub(crate) picker: RefCell<Picker>,
    pub(crate) cell: Arc<PoolCell>,
    idle: RefCell<IdleTable>,
    idle_count: Cell<usize>,
    /// A reload has put another in its place: it serves what it has begun and keeps nothing.
    retired: Cell<bool>,
    /// Which source address comes next.
    next_source: Cell<usize>,
}

/// Keyed by the server's own number, which needs no hashing.
type IdleTable = HashMap<u64, Vec<Idle>, BuildHasherDefault<NumberHasher>>;

#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct Idle {
    stream: Stream,
    since_ms: u64,
}

/// A connection to a server, for one request.
pub(crate) struct ServerConnection {
    pub(crate) stream: Stream,
}

/// Why there is no connection.
pub(crate) enum ConnectError {
    Timeout,
    Failed,
}

impl LocalPool {
    pub(crate) fn new(pool: &Arc<Pool>, config: &Arc<config::Pool>, cell: Arc<PoolCell>) -> Self {
        Self {
            picker: RefCell::new(Picker::new(Arc::clone(pool))),
            pool: Arc::clone(pool),
            config: Arc::clone(config),
            cell,
            idle: RefCell::default(),
            idle_count: Cell::new(0),
            retired: Cell::new(false),
            next_source: Cell::new(0),
        }
    }

    /// An idle connection that the server has not closed, the one used last first.
    pub(crate) fn take_idle(&self, server: &ServerLease) -> Option<ServerConnection> {
        let mut table = self.idle.borrow_mut();
        let list = table.get_mut(&server.server().id())?;
        while let Some(idle) = list.pop() {
            self.idle_count.set(self.idle_count.get() - 1);
            if is_quiet(&idle.stream) {
                self.cell.reused.increment();
                return Some(ServerConnection { stream: idle.stream });
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give_back(&self, server: &ServerLease, connection: ServerConnection, now_ms: u64) {
        if self.retired.get() || self.idle_count.get() >= IDLE_CONNECTIONS || !server.server().accepts() {
            return;
        }
        let mut table = self.idle.borrow_mut();
        let list = table.entry(server.server().id()).or_default();
        if list.len() < self.config.keepalive as usize {
            list.push(Idle { stream: connection.stream, since_ms: now_ms });
            self.idle_count.set(self.idle_count.get() + 1);
        }
    }

    /// Closes all idle connections and keeps none from now on.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.idle_count.set(0);
    }

    /// Closes what the server closed and what has been idle for too long.
    pub(crate) fn sweep(&self, now_ms: u64) {
        let keep_ms = self.config.timeouts.keepalive.as_millis() as u64;
        let mut count = 0;
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| idle.since_ms + keep_ms > now_ms && is_quiet(&idle.stream));
            count += list.len();
            !list.is_empty()
        });
        self.idle_count.set(count);
    }

    /// Connects anew.
    pub(crate) async fn connect(
        &self,
        server: &ServerLease,
        deadline: &Deadline,
    ) -> Result<ServerConnection, ConnectError> {
        self.cell.connects.increment();
        let stream = match server.target() {
            Target::Tcp(address) => {
                let stream = sumun_host::connect::start_connect(*address, self.source_for(address.ip()))
                    .map_err(|_| ConnectError::Failed)?;
                let stream = TcpStream::from_std(stream).map_err(|_| ConnectError::Failed)?;
                wait_connected(&stream, deadline).await?;
                Stream::Tcp(stream)
            }
            Target::Unix(path) => Stream::Unix(UnixStream::connect(path).await.map_err(|_| ConnectError::Failed)?),
        };
        Ok(ServerConnection { stream })
    }

    /// The next source address of the destination's family.
    fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let count = self.config.source.len();
        (0..count).find_map(|_| {
            let index = self.next_source.get();
            self.next_source.set((index + 1) % count);
            Some(self.config.source[index]).filter(|source| source.is_ipv4() == destination.is_ipv4())
        })
    }
}

async fn wait_connected(stream: &TcpStream, deadline: &Deadline) -> Result<(), ConnectError> {
    poll_fn(|context| match stream.poll_write_ready(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(ConnectError::Timeout)),
        other => other.map_err(|_| ConnectError::Failed),
    })
    .await?;
    match stream.take_error() {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(ConnectError::Failed),
    }
}

/// Nothing to read on an idle connection: no end, no bytes that nobody asked for. Costs a system
/// call only when the event loop has seen something.
fn is_quiet(stream: &Stream) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    if stream.poll_readable(&mut context).is_pending() {
        return true;
    }
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
