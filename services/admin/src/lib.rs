//! The admin listener and the control socket: status page, API, metrics.
//!
//! ```text
//!   control thread's runtime
//!     Admin ──► accept task (one a socket) ──► serve task (one a connection, bounded)
//!                                                guard ──► routes ──► page, metrics, api
//! ```
//!
//! Nothing here runs on a worker. What it shows comes in as families and closures: it knows pools,
//! and no other service. The TCP listener is for browsers and scrapers and checks `Host`, `Origin`
//! and token; the control socket is for the command line, and whoever may open the file may all.

mod api;
mod guard;
pub mod limits;
mod metrics;
mod page;
mod respond;
mod routes;
mod serve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sumun_engine::telemetry::Family;
use sumun_pools::Pools;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use crate::guard::{Door, DoorLock, Key};
use crate::limits::CONNECTIONS;
use crate::page::Pages;

/// Gives the current values of one service.
pub type Families = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// Everything that the admin listener shows and does.
pub struct Inputs {
    /// Of the binary.
    pub version: &'static str,
    /// When the process started.
    pub started: Instant,
    /// The gateway's, the access log's and so on; those of the process and of the pools' servers
    /// are added here.
    pub families: Vec<Families>,
    /// What the config says now.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    pub pools: Arc<Pools>,
    /// Asks for a reload; what comes back is what changed, or the report that says why nothing did.
    pub reload: Box<dyn Fn() -> oneshot::Receiver<Result<String, String>> + Send + Sync>,
    /// Asks for an upgrade; what comes back is what became of it, or why nothing did.
    pub upgrade: Box<dyn Fn() -> oneshot::Receiver<Result<String, String>> + Send + Sync>,
    /// Asks who asks for what, most of all.
    pub traffic: Box<dyn Fn() -> oneshot::Receiver<Traffic> + Send + Sync>,
    /// Clients that are blocked now.
    pub blocks: Box<dyn Fn() -> Vec<BlockRow> + Send + Sync>,
    /// Ends a client's block; false: there is none.
    pub lift: Box<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Asks the cache, or has it forget; why not is said in words.
    pub cache: Box<dyn Fn(CacheCommand) -> CacheAnswer + Send + Sync>,
    /// The process takes no new connections any more.
    pub draining: Arc<AtomicBool>,
    /// Another process is about to take over what is known of servers: no operator changes it here.
    pub handing_over: Arc<AtomicBool>,
}

/// What the config says of this instance, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub workers: usize,
    /// What confines the process, in words.
    pub sandbox: String,
    pub listeners: Vec<ListenerRow>,
    pub waiting_rooms: Vec<RoomRow>,
    pub own_limits: OwnLimitsRow,
    /// Those that are obtained by ourselves.
    pub certificates: Vec<CertificateRow>,
}

/// Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    pub name: String,
    pub domains: Vec<String>,
    pub authority: String,
    /// `waiting`, `ordering`, `valid` or `expired`.
    pub state: &'static str,
    /// `None`: there is none yet.
    pub expires: Option<u64>,
    pub next_try: Option<u64>,
    /// Tries in a row that failed.
    pub failures: u32,
    /// Why the last one did.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerRow {
    pub name: Arc<str>,
    /// Addresses as text.
    pub bind: Vec<String>,
    /// It passes connections or datagrams on, and knows no requests.
    pub is_stream: bool,
}

/// A waiting room: who waits, who is inside now, and who came in so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRow {
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub waiting: u64,
    pub active: u64,
    pub admitted: u64,
}

/// How near the process is to its own limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnLimitsRow {
    /// Of each resource, in thousandths.
    pub used_permille: Vec<(&'static str, u32)>,
    /// What is given up for that, in words.
    pub given_up: Option<String>,
}

/// Requests of the last minutes, and the top of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    pub window: Duration,
    pub requests: u64,
    pub errors: u64,
    pub bytes_sent: u64,
    pub clients: Vec<TrafficRow>,
    pub networks: Vec<TrafficRow>,
    /// Autonomous systems, where there is a table of them.
    pub systems: Vec<TrafficRow>,
    pub paths: Vec<TrafficRow>,
    pub agents: Vec<TrafficRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficRow {
    pub name: String,
    /// At least as many as there were,
    pub count: u64,
    /// and at most so many too many.
    pub over: u64,
    /// Of `count - over`.
    pub errors: u64,
    pub bytes_sent: u64,
}

/// What the cache says, once it has done it; why not, in words.
pub type CacheAnswer = Pin<Box<dyn Future<Output = Result<serde_json::Value, String>> + Send>>;

/// What an operator wants of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheCommand {
    Report,
    /// What there is on disk.
    Volumes,
    /// What is there for a URL, where a request has these header fields.
    Get {
        url: String,
        headers: Vec<(String, String)>,
    },
    Purge {
        scope: CacheScope,
        /// It becomes stale, and is not gone.
        is_soft: bool,
    },
}

/// What is purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheScope {
    Url(String),
    Prefix(String),
    Tag(String),
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    pub client: String,
    pub reason: Arc<str>,
    pub left: Duration,
    /// Its connections are closed; it is refused otherwise.
    pub closes: bool,
}

/// The running admin listener. Its sockets close when it is dropped; connections end by themselves.
pub struct Admin {
    shared: Arc<Shared>,
    tcp: Entrance,
    control: Entrance,
    /// What opens the TCP sockets that are served now, and their addresses.
    lock: Mutex<(Vec<SocketAddr>, Arc<DoorLock>)>,
}

/// Where connections come in, whatever the sockets are at a time: those of sockets that a reload
/// has replaced still take their places.
struct Entrance {
    accepting: Mutex<Vec<AbortHandle>>,
    places: Arc<Semaphore>,
}

pub(crate) struct Shared {
    pub(crate) inputs: Inputs,
    pub(crate) pages: Pages,
    /// Requests whose answers are not written yet.
    answering: AtomicUsize,
}

/// A request whose answer is not written yet.
pub(crate) struct Answering<'a>(&'a AtomicUsize);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts without a socket.
#[must_use]
pub fn start(inputs: Inputs) -> Admin {
    Admin {
        shared: Arc::new(Shared { inputs, pages: Pages::new(), answering: AtomicUsize::new(0) }),
        tcp: Entrance::new(),
        // Places of its own: whoever fills up the admin listener does not lock the operator out.
        control: Entrance::new(),
        lock: Mutex::default(),
    }
}

impl Admin {
    /// Serves these sockets in place of the TCP ones before; none turns the admin listener off. A
    /// reload that changes the address or the token comes here: connections that are open need the
    /// new token from then on, and those of another address get no answers any more. Has to be
    /// called on a runtime.
    ///
    /// # Errors
    /// A socket cannot be used; those before go on.
    pub fn listen(&self, sockets: Vec<TcpListener>, token: Option<&str>) -> io::Result<()> {
        let sockets =
            sockets.into_iter().map(to_tokio(tokio::net::TcpListener::from_std, TcpListener::set_nonblocking));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let addresses =
            sockets.iter().map(tokio::net::TcpListener::local_addr).collect::<io::Result<Vec<SocketAddr>>>()?;
        let lock = self.change_lock(addresses, token.map_or(Key::Open, |token| Key::Token(token.into())));
        let tasks = sockets.into_iter().map(|socket| {
            let (shared, places, lock) = (Arc::clone(&self.shared), Arc::clone(&self.tcp.places), Arc::clone(&lock));
            tokio::spawn(serve::accept(shared, places, async move || {
                let (stream, _) = socket.accept().await?;
                let door = Door::Network { local: stream.local_addr()?.ip(), lock: Arc::clone(&lock) };
                Ok((stream, door))
            }))
        });
        self.tcp.replace(tasks.map(|task| task.abort_handle()).collect());
        Ok(())
    }

    fn change_lock(&self, addresses: Vec<SocketAddr>, key: Key) -> Arc<DoorLock> {
        let mut current = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == addresses {
            current.1.change(key);
        } else {
            current.1.change(Key::Closed);
            *current = (addresses, Arc::new(DoorLock::new(key)));
        }
        Arc::clone(&current.1)
    }

    /// Serves this control socket in place of the one before.
    ///
    /// # Errors
    /// The socket cannot be used; the one before goes on.
    pub fn listen_control(&self, socket: UnixListener) -> io::Result<()> {
        let socket = to_tokio(tokio::net::UnixListener::from_std, UnixListener::set_nonblocking)(socket)?;
        let places = Arc::clone(&self.control.places);
        let task = tokio::spawn(serve::accept(Arc::clone(&self.shared), places, async move || {
            let (stream, _) = socket.accept().await?;
            Ok((stream, Door::Control))
        }));
        self.control.replace(vec![task.abort_handle()]);
        Ok(())
    }
}

impl Admin {
    /// Somebody waits for an answer: a process that ends now owes it still.
    pub fn is_answering(&self) -> bool {
        self.shared.answering.load(Ordering::Relaxed) > 0
    }

    /// Takes no further connection, neither at the admin listener nor at the control socket: they are
    /// another process's. Those that are open end by themselves.
    pub fn leave(&self) {
        self.tcp.replace(Vec::new());
        self.control.replace(Vec::new());
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn begin_answer(&self) -> Answering<'_> {
        self.answering.fetch_add(1, Ordering::Relaxed);
        Answering(&self.answering)
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        self.inputs.handing_over.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inputs.draining.load(Ordering::Relaxed)
    }
}

fn to_tokio<Std, Tokio>(
    convert: fn(Std) -> io::Result<Tokio>,
    set_nonblocking: fn(&Std, bool) -> io::Result<()>,
) -> impl Fn(Std) -> io::Result<Tokio> {
    move |socket| {
        set_nonblocking(&socket, true)?;
        convert(socket)
    }
}

impl Entrance {
    fn new() -> Self {
        Self { accepting: Mutex::default(), places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    fn replace(&self, new: Vec<AbortHandle>) {
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *accepting, new).iter().for_each(AbortHandle::abort);
    }
}
