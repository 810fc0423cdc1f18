//! The control thread's ears: admin listener, control socket, and reloads on their way to the
//! supervisor.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use sumun_admin::{Admin, Inputs, ListenerRow, Status};
use sumun_config::checked::{BindAddress, Config};
use sumun_engine::access_log::AccessLog;
use sumun_engine::lifecycle::{FromWorker, WorkerSender};
use sumun_gateway::Gateway;
use sumun_pools::Pools;
use tokio::sync::oneshot;

use crate::worker::Beginning;

/// Who waits for the result of a reload, by its number.
type Reloads = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<String, String>>>>>;

/// See above.
pub(crate) struct Control {
    admin: Admin,
    config: Arc<Mutex<Arc<Config>>>,
    reloads: Reloads,
    draining: Arc<AtomicBool>,
    /// The admin listener's socket, kept for a change of token.
    admin_socket: Option<TcpListener>,
}

impl Control {
    pub(crate) fn new(
        beginning: &Beginning,
        started: Instant,
        pools: Arc<Pools>,
        gateway: Arc<Gateway>,
        log: Arc<AccessLog>,
    ) -> Self {
        let config = Arc::new(Mutex::new(Arc::clone(&beginning.config)));
        let reloads = Reloads::default();
        let draining = Arc::new(AtomicBool::new(false));
        let shown = Arc::clone(&config);
        let admin = sumun_admin::start(Inputs {
            version: env!("CARGO_PKG_VERSION"),
            started,
            families: vec![Box::new(move || gateway.families()), Box::new(move || log.families())],
            status: Box::new(move || status_of(&shown.lock().unwrap_or_else(PoisonError::into_inner))),
            pools,
            reload: asks_for_reload(beginning.supervisor.clone(), Arc::clone(&reloads)),
            draining: Arc::clone(&draining),
        });
        Self { admin, config, reloads, draining, admin_socket: None }
    }

    pub(crate) fn listen_admin(&mut self, descriptor: OwnedFd) {
        self.admin_socket = Some(descriptor.into());
        self.open_admin();
    }

    pub(crate) fn listen_control(&mut self, descriptor: OwnedFd) {
        if let Err(error) = self.admin.listen_control(UnixListener::from(descriptor)) {
            tracing::error!("control socket: {error}");
        }
    }

    /// Shows and obeys the new config.
    pub(crate) fn apply(&mut self, config: &Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(config);
        if config.admin.is_none() {
            self.admin_socket = None;
        }
        self.open_admin();
    }

    /// Tells who asked for a reload how it went.
    pub(crate) fn reload_ended(&self, id: u64, ok: bool, text: String) {
        let waiting = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(waiting) = waiting
            && waiting.send(if ok { Ok(text) } else { Err(text) }).is_err()
        {
            tracing::debug!("whoever asked for the reload is gone");
        }
    }

    /// `/readyz` says no from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn open_admin(&self) {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let token = config.admin.as_ref().and_then(|admin| admin.token.as_deref());
        let sockets: std::io::Result<Vec<TcpListener>> = self.admin_socket.iter().map(TcpListener::try_clone).collect();
        if let Err(error) = sockets.and_then(|sockets| self.admin.listen(sockets, token)) {
            tracing::error!("admin listener: {error}");
        }
    }
}

fn asks_for_reload(
    supervisor: WorkerSender,
    reloads: Reloads,
) -> Box<dyn Fn() -> oneshot::Receiver<Result<String, String>> + Send + Sync> {
    let next = AtomicU64::new(1);
    Box::new(move || {
        let (sender, result) = oneshot::channel();
        let id = next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = reloads.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropped where the supervisor cannot be asked: the receiver then says so.
        if supervisor.send(FromWorker::ReloadRequested { id }).is_ok() {
            waiting.insert(id, sender);
        }
        result
    })
}

fn status_of(config: &Config) -> Status {
    let address = |bind: &BindAddress| match bind {
        BindAddress::Tcp(address) => address.to_string(),
        BindAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    Status {
        workers: config.workers,
        listeners: config
            .listeners
            .values()
            .map(|listener| ListenerRow {
                name: Arc::clone(&listener.name),
                bind: listener.bind.iter().map(address).collect(),
            })
            .collect(),
    }
}
