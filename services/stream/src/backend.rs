//! A worker's side of a pool: its picker, and new connections to its servers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use sumun_config::checked::{self as config, Name};
use sumun_engine::Deadline;
use sumun_engine::tls::{Failure, Offer, TlsConnector};
use sumun_pools::{DialError, Dialer, Picker, Pool, Server};
use sumun_traffic::pacer::Pacer;

use crate::end::End;
use crate::events::{Event, Reason};
use crate::limits::HANDSHAKE_LOG_PAUSE;
use crate::metrics::PoolCell;
use sumun_engine::pace::Both;

/// Pools by name, as one worker has them.
pub(crate) type Backends = HashMap<Name, Rc<Backend>>;

/// What one worker has of one pool.
pub(crate) struct Backend {
    pub(crate) pool: Arc<Pool>,
    pub(crate) config: Arc<config::Pool>,
    pub(crate) picker: RefCell<Picker>,
    pub(crate) dialer: Dialer,
    pub(crate) cell: Arc<PoolCell>,
    pub(crate) pace: Option<Arc<Both<Pacer>>>,
    /// When a failed handshake may be logged again: there may be one for each connection.
    quiet_until_ms: Cell<u64>,
}

impl Backend {
    pub(crate) fn new(
        pool: &Arc<Pool>,
        config: &Arc<config::Pool>,
        cell: Arc<PoolCell>,
        pace: Option<Arc<Both<Pacer>>>,
        tls: Option<TlsConnector>,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            config: Arc::clone(config),
            picker: RefCell::new(Picker::new(Arc::clone(pool))),
            dialer: Dialer::new(pool, tls),
            cell,
            pace,
            quiet_until_ms: Cell::new(0),
        }
    }

    /// A new connection to a server for this client; the server is told `first` before everything else.
    pub(crate) async fn connect(
        &self,
        server: &Server,
        (client, first): (Option<SocketAddr>, &[u8]),
        deadline: &Deadline,
    ) -> Result<End, Reason> {
        self.cell.connects.increment();
        deadline.set(self.config.timeouts.connect);
        let dialed = self.dialer.dial(server, (client, first), Offer::Nothing, deadline).await;
        dialed.map(End::from).map_err(|error| match error {
            DialError::Timeout => Reason::ConnectTimeout,
            DialError::Failed => Reason::ConnectFailed,
            DialError::Host => Reason::OwnLimits,
            DialError::NoSource => Reason::NoSource,
            DialError::HandshakeTimeout(failure) => {
                self.note_handshake(server, &failure, deadline.now_ms());
                Reason::ConnectTimeout
            }
            DialError::Handshake(failure) => {
                self.note_handshake(server, &failure, deadline.now_ms());
                Reason::ServerHandshake
            }
        })
    }

    /// The operator is told: a certificate that is not valid does not mend itself.
    fn note_handshake(&self, server: &Server, failure: &Failure, now_ms: u64) {
        if now_ms >= self.quiet_until_ms.get() {
            self.quiet_until_ms.set(now_ms + HANDSHAKE_LOG_PAUSE.as_millis() as u64);
            Event::ServerHandshakeFailed { pool: &self.config.name, server: server.name(), failure }.write();
        }
    }
}
