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
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sumun_engine::telemetry::Family;
use sumun_pools::Pools;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use crate::guard::Door;
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
    /// The process takes no new connections any more.
    pub draining: Arc<AtomicBool>,
}

/// What the config says of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub workers: usize,
    pub listeners: Vec<ListenerRow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerRow {
    pub name: Arc<str>,
    /// Addresses as text.
    pub bind: Vec<String>,
}

/// The running admin listener. Its sockets close when it is dropped; connections end by themselves.
pub struct Admin {
    shared: Arc<Shared>,
    tcp: Mutex<Vec<AbortHandle>>,
    control: Mutex<Vec<AbortHandle>>,
}

pub(crate) struct Shared {
    pub(crate) inputs: Inputs,
    pub(crate) pages: Pages,
}

/// Starts without a socket.
#[must_use]
pub fn start(inputs: Inputs) -> Admin {
    Admin { shared: Arc::new(Shared { inputs, pages: Pages::new() }), tcp: Mutex::default(), control: Mutex::default() }
}

impl Admin {
    /// Serves these sockets in place of the TCP ones before; none turns the admin listener off. A
    /// reload that changes the address or the token comes here. Has to be called on a runtime.
    ///
    /// # Errors
    /// A socket cannot be used; those before go on.
    pub fn listen(&self, sockets: Vec<TcpListener>, token: Option<&str>) -> io::Result<()> {
        let sockets =
            sockets.into_iter().map(to_tokio(tokio::net::TcpListener::from_std, TcpListener::set_nonblocking));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let token: Option<Arc<str>> = token.map(Into::into);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = sockets.into_iter().map(|socket| {
            let (shared, places, token) = (Arc::clone(&self.shared), Arc::clone(&places), token.clone());
            tokio::spawn(serve::accept(shared, places, async move || {
                let (stream, _) = socket.accept().await?;
                let door = Door::Network { local: stream.local_addr()?.ip(), token: token.clone() };
                Ok((stream, door))
            }))
        });
        replace(&self.tcp, tasks.map(|task| task.abort_handle()).collect());
        Ok(())
    }

    /// Serves this control socket in place of the one before.
    ///
    /// # Errors
    /// The socket cannot be used; the one before goes on.
    pub fn listen_control(&self, socket: UnixListener) -> io::Result<()> {
        let socket = to_tokio(tokio::net::UnixListener::from_std, UnixListener::set_nonblocking)(socket)?;
        // Places of its own: whoever fills up the admin listener does not lock the operator out.
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let task = tokio::spawn(serve::accept(Arc::clone(&self.shared), places, async move || {
            let (stream, _) = socket.accept().await?;
            Ok((stream, Door::Control))
        }));
        replace(&self.control, vec![task.abort_handle()]);
        Ok(())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        replace(&self.tcp, Vec::new());
        replace(&self.control, Vec::new());
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Shared {
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

fn replace(tasks: &Mutex<Vec<AbortHandle>>, new: Vec<AbortHandle>) {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *tasks, new).iter().for_each(AbortHandle::abort);
}
