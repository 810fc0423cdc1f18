//! Bandwidths: who shares them, and what of them one direction of a connection may have now.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use sumun_config::checked::Bandwidth;
use sumun_traffic::pacer::{Pacer, Pacers};

use crate::limits::PACED_CLIENTS;

/// Both directions: to the servers, to the clients.
pub(crate) type Both<T> = [T; 2];

/// What all connections of a listener share.
#[derive(Debug)]
pub(crate) struct ListenerPace {
    total: Option<Both<Pacer>>,
    client: Option<Both<Pacers>>,
    connection: u64,
}

impl ListenerPace {
    pub(crate) fn new(bandwidth: Bandwidth) -> Self {
        let Bandwidth { total, client, connection } = bandwidth;
        Self {
            total: both(total, || Pacer::new(total)),
            client: both(client, || Pacers::new(client, PACED_CLIENTS)),
            connection,
        }
    }
}

/// What all connections to a pool share.
pub(crate) fn pool_pace(bandwidth: u64) -> Option<Both<Pacer>> {
    both(bandwidth, || Pacer::new(bandwidth))
}

fn both<T>(bandwidth: u64, make: impl Fn() -> T) -> Option<Both<T>> {
    (bandwidth > 0).then(|| [make(), make()])
}

/// What holds for one connection or flow.
#[derive(Debug)]
pub(crate) struct Pace {
    listener: Option<Arc<ListenerPace>>,
    pool: Option<Arc<Both<Pacer>>>,
    own: Option<Both<Pacer>>,
    client: u64,
}

impl Pace {
    /// `None`: as fast as it comes.
    pub(crate) fn new(
        listener: Option<&Arc<ListenerPace>>,
        pool: Option<&Arc<Both<Pacer>>>,
        client: u64,
    ) -> Option<Rc<Self>> {
        (listener.is_some() || pool.is_some()).then(|| {
            let own = listener.and_then(|listener| pool_pace(listener.connection));
            Rc::new(Self { listener: listener.cloned(), pool: pool.cloned(), own, client })
        })
    }

    /// How many bytes may go in direction 0, to the server, or 1, to the client.
    pub(crate) fn allows(&self, direction: usize, now_ns: u64) -> u64 {
        let mut least = u64::MAX;
        for pacer in self.pacers(direction) {
            least = least.min(pacer.allows(now_ns));
        }
        if let Some(clients) = self.clients(direction) {
            least = least.min(clients.allows(self.client, now_ns));
        }
        least
    }

    /// So many bytes have gone.
    pub(crate) fn note(&self, direction: usize, bytes: u64, now_ns: u64) {
        for pacer in self.pacers(direction) {
            pacer.note(bytes, now_ns);
        }
        if let Some(clients) = self.clients(direction) {
            clients.note(self.client, bytes, now_ns);
        }
    }

    fn pacers(&self, direction: usize) -> impl Iterator<Item = &Pacer> {
        let total = self.listener.as_ref().and_then(|listener| listener.total.as_ref());
        [total, self.pool.as_deref(), self.own.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(move |both| both.get(direction))
    }

    fn clients(&self, direction: usize) -> Option<&Pacers> {
        self.listener.as_ref()?.client.as_ref()?.get(direction)
    }
}

/// One direction of it, with a note that somebody waits for its share.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pace: Option<Rc<Pace>>,
    direction: usize,
    waits: Cell<bool>,
}

impl Lane {
    pub(crate) fn new(pace: Option<&Rc<Pace>>, direction: usize) -> Self {
        Self { pace: pace.cloned(), direction, waits: Cell::new(false) }
    }

    /// At most so many bytes may go now; 0: it waits.
    pub(crate) fn allows(&self, now_ns: impl FnOnce() -> u64) -> usize {
        let Some(pace) = &self.pace else { return usize::MAX };
        let bytes = pace.allows(self.direction, now_ns());
        self.waits.set(bytes == 0);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    pub(crate) fn note(&self, bytes: usize, now_ns: impl FnOnce() -> u64) {
        if let Some(pace) = &self.pace {
            pace.note(self.direction, bytes as u64, now_ns());
        }
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits.get()
    }
}
