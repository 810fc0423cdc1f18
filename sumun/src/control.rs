//! The control thread's ears: admin listener, control socket, and reloads and upgrades on their way to
//! the supervisor.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sumun_acme::Shown;
use sumun_admin::{Admin, CertificateRow, Inputs, ListenerRow, OwnLimitsRow, RoomRow, Status};
use sumun_config::checked::Config;
use sumun_engine::access_log::AccessLog;
use sumun_engine::lifecycle::FromWorker;
use sumun_engine::tls::Tls;
use sumun_engine::{OwnLimits, own_limits};
use sumun_gateway::RoomTotal;
use sumun_pools::Pools;
use sumun_traffic::pressure::Resource;
use tokio::sync::oneshot;

use crate::cache;
use crate::limits::PENDING_RELOADS;
use crate::traffic;
use crate::wiring::Services;
use crate::worker::Beginning;

/// What changed, or the report that says why nothing did.
type ReloadResult = Result<String, String>;

/// Who waits for the result of a reload or an upgrade, by its number, and the last number. An entry
/// goes with its result, with who waits for it, or with the supervisor.
#[derive(Debug, Clone, Default)]
struct Reloads(Arc<Mutex<BTreeMap<u64, oneshot::Sender<ReloadResult>>>>, Arc<AtomicU64>);

/// See above.
pub(crate) struct Control {
    admin: Admin,
    config: Arc<Mutex<Arc<Config>>>,
    reloads: Reloads,
    draining: Arc<AtomicBool>,
    handing_over: Arc<AtomicBool>,
    /// The admin listener's socket, kept for a change of token.
    admin_socket: Option<TcpListener>,
}

impl Control {
    pub(crate) fn new(
        beginning: &Beginning,
        started: Instant,
        pools: Arc<Pools>,
        services: Services,
        log: Arc<AccessLog>,
        tls: Arc<Tls>,
        acme: Arc<Shown>,
    ) -> Self {
        let config = Arc::new(Mutex::new(Arc::clone(&beginning.config)));
        let reloads = Reloads::default();
        let draining = Arc::new(AtomicBool::new(false));
        let shown = Arc::clone(&config);
        let sandbox = beginning.sandbox.state.clone();
        let certificates = Arc::clone(&acme);
        let shown_too = services.clone();
        let handing_over = Arc::new(AtomicBool::new(false));
        let (supervisor, supervisor_too) = (beginning.supervisor.clone(), beginning.supervisor.clone());
        let [asked, listed, lifted, cached] = std::array::from_fn(|_| Arc::clone(&services.gateway));
        let admin = sumun_admin::start(Inputs {
            version: env!("CARGO_PKG_VERSION"),
            started,
            families: vec![
                Box::new(move || services.gateway.families()),
                Box::new(move || services.switch.families()),
                Box::new(move || log.families()),
                Box::new(move || tls.families()),
                Box::new(move || acme.families()),
                Box::new(move || services.own_limits.families().into()),
            ],
            status: Box::new(move || {
                let config = Arc::clone(&shown.lock().unwrap_or_else(PoisonError::into_inner));
                Status {
                    own_limits: own_limits_row(&shown_too.own_limits),
                    waiting_rooms: shown_too.gateway.rooms.totals().iter().map(room_row).collect(),
                    ..status_of(&config, &sandbox, &certificates.rows())
                }
            }),
            pools,
            reload: asks_for_reload(move |id| supervisor.send(FromWorker::ReloadRequested { id }), reloads.clone()),
            upgrade: asks_for_reload(
                move |id| supervisor_too.send(FromWorker::UpgradeRequested { id }),
                reloads.clone(),
            ),
            traffic: Box::new(move || traffic::ask(&asked)),
            blocks: Box::new(move || traffic::blocks(&listed)),
            lift: Box::new(move |client| lifted.lift_block(client)),
            cache: Box::new(move |command| Box::pin(cache::obey(Arc::clone(&cached), command))),
            draining: Arc::clone(&draining),
            handing_over: Arc::clone(&handing_over),
        });
        Self { admin, config, reloads, draining, handing_over, admin_socket: None }
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

    /// Tells who asked for a reload or an upgrade how it went.
    pub(crate) fn reload_ended(&self, id: u64, ok: bool, text: String) {
        if let Some(waiting) = self.reloads.leave(id)
            && waiting.send(if ok { Ok(text) } else { Err(text) }).is_err()
        {
            tracing::debug!("whoever asked for the reload is gone");
        }
    }

    /// No reload will end any more: who waits for one learns it.
    pub(crate) fn supervisor_is_gone(&self) {
        self.reloads.lock().clear();
    }

    /// `/readyz` says no from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether another process is about to take over: no operator changes servers meanwhile.
    pub(crate) fn set_handing_over(&self, handing_over: bool) {
        self.handing_over.store(handing_over, Ordering::Relaxed);
    }

    /// Somebody waits for an answer of the API.
    pub(crate) fn is_answering(&self) -> bool {
        self.admin.is_answering()
    }

    /// Admin listener and control socket are another process's.
    pub(crate) fn leave(&mut self) {
        self.set_handing_over(true);
        self.admin_socket = None;
        self.admin.leave();
    }

    fn open_admin(&self) {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let token = config.admin.as_ref().and_then(|admin| admin.token.as_deref());
        let sockets: io::Result<Vec<TcpListener>> = self.admin_socket.iter().map(TcpListener::try_clone).collect();
        if let Err(error) = sockets.and_then(|sockets| self.admin.listen(sockets, token)) {
            tracing::error!("admin listener: {error}");
        }
    }
}

/// `ask` tells the supervisor the number of the reload or upgrade.
fn asks_for_reload(
    ask: impl Fn(u64) -> io::Result<()> + Send + Sync + 'static,
    reloads: Reloads,
) -> Box<dyn Fn() -> oneshot::Receiver<ReloadResult> + Send + Sync> {
    Box::new(move || {
        let id = reloads.1.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, result) = oneshot::channel();
        // Entered before it is asked for, since the result may be here before `ask` is back. To ask
        // may take a while, in which nobody is to wait for the table.
        if reloads.enter(id, sender) && ask(id).is_err() {
            // Dropped: the receiver then says that nothing will come.
            reloads.leave(id);
        }
        result
    })
}

impl Reloads {
    /// False: too many wait already, and this one has been told.
    fn enter(&self, id: u64, sender: oneshot::Sender<ReloadResult>) -> bool {
        let mut waiting = self.lock();
        waiting.retain(|_, sender| !sender.is_closed());
        if waiting.len() < PENDING_RELOADS {
            waiting.insert(id, sender);
            return true;
        }
        drop(waiting);
        // Whoever asked holds the other end at this moment.
        sender.send(Err("too many reloads are waiting".to_owned())).ok();
        false
    }

    fn leave(&self, id: u64) -> Option<oneshot::Sender<ReloadResult>> {
        self.lock().remove(&id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<ReloadResult>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status_of(config: &Config, sandbox: &str, certificates: &[sumun_acme::Row]) -> Status {
    Status {
        workers: config.workers,
        sandbox: sandbox.to_owned(),
        listeners: config
            .listeners
            .values()
            .map(|listener| ListenerRow {
                name: Arc::clone(&listener.name),
                bind: listener.bind.iter().map(ToString::to_string).collect(),
                is_stream: listener.stream.is_some(),
            })
            .collect(),
        certificates: certificates.iter().map(certificate).collect(),
        ..Status::default()
    }
}

fn own_limits_row(limits: &OwnLimits) -> OwnLimitsRow {
    let standing = limits.standing();
    let used = Resource::ALL.into_iter().zip(standing.readings);
    OwnLimitsRow {
        used_permille: used.map(|(resource, permille)| (resource.as_str(), permille)).collect(),
        given_up: (!standing.measures.is_calm()).then(|| own_limits::in_words(&standing.measures)),
    }
}

fn room_row(room: &RoomTotal) -> RoomRow {
    let counts = &room.counts;
    RoomRow {
        listener: Arc::clone(&room.listener),
        route: Arc::clone(&room.route),
        waiting: counts.waiting,
        active: counts.active,
        admitted: counts.admitted,
    }
}

fn certificate(row: &sumun_acme::Row) -> CertificateRow {
    CertificateRow {
        name: row.name.clone(),
        domains: row.domains.clone(),
        authority: row.authority.clone(),
        state: row.state.word(),
        expires: row.expires,
        next_try: row.next_try,
        failures: row.failures,
        error: row.error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn a_result_that_nobody_waits_for_leaves_nothing_behind() {
        let reloads = Reloads::default();
        let ask = asks_for_reload(|_| Ok(()), reloads.clone());
        for _ in 0..1000 {
            drop(ask());
        }
        assert!(reloads.lock().len() <= 1, "{} entries", reloads.lock().len());
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let reloads = Reloads::default();
        let ask = asks_for_reload(|_| Ok(()), reloads.clone());
        let mut waiting: Vec<_> = (0..PENDING_RELOADS).map(|_| ask()).collect();
        let refused = ask().try_recv().expect("an answer at once");
        assert!(refused.is_err_and(|why| why.contains("too many")));
        assert!(waiting.iter_mut().all(|result| result.try_recv() == Err(TryRecvError::Empty)));
        assert_eq!(reloads.lock().len(), PENDING_RELOADS);
        // The first has its result; the second has given up.
        reloads.leave(1).expect("it waits").send(Ok("done".to_owned())).expect("it waits");
        assert_eq!(waiting[0].try_recv(), Ok(Ok("done".to_owned())));
        drop(waiting.remove(1));
        let (mut third, mut fourth) = (ask(), ask());
        assert_eq!((third.try_recv(), fourth.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Empty)));
        assert_eq!(reloads.lock().len(), PENDING_RELOADS);
    }

    #[test]
    fn a_supervisor_that_is_gone_is_not_waited_for() {
        let reloads = Reloads::default();
        let ask = asks_for_reload(|_| Err(io::ErrorKind::BrokenPipe.into()), reloads.clone());
        assert_eq!(ask().try_recv(), Err(TryRecvError::Closed));
        assert_eq!(reloads.lock().len(), 0);
    }

    /// The supervisor may answer, and others may ask, while one is still asking.
    #[test]
    fn asking_holds_nobody_up() {
        let reloads = Reloads::default();
        let seen = reloads.clone();
        let answers_at_once = move |id| {
            let waiting = seen.0.try_lock().expect("nobody holds the table").remove(&id).expect("it waits already");
            waiting.send(Ok("nothing changed".to_owned())).expect("it waits");
            Ok(())
        };
        assert_eq!(asks_for_reload(answers_at_once, reloads)().try_recv(), Ok(Ok("nothing changed".to_owned())));
    }
}
