//! Bandwidths: who shares them, and what of them one direction of a connection may have now.

use std::rc::Rc;
use std::sync::Arc;

use sumun_config::checked::Bandwidth;
use sumun_traffic::pacer::{Pacer, Pacers};

use crate::limits::PACED_CLIENTS;

/// Both directions: to the servers, to the clients.
pub type Both<T> = [T; 2];

pub const UP: usize = 0;
pub const DOWN: usize = 1;

/// What all connections of a listener share.
#[derive(Debug)]
pub struct ListenerPace {
    total: Option<Both<Pacer>>,
    client: Option<Both<Pacers>>,
    connection: u64,
}

impl ListenerPace {
    #[must_use]
    pub fn new(bandwidth: Bandwidth) -> Self {
        let Bandwidth { total, client, connection } = bandwidth;
        Self {
            total: both(total, || Pacer::new(total)),
            client: both(client, || Pacers::new(client, PACED_CLIENTS)),
            connection,
        }
    }

    /// What one connection has for itself.
    #[must_use]
    pub fn own(&self) -> Option<Rc<Both<Pacer>>> {
        both(self.connection, || Pacer::new(self.connection)).map(Rc::new)
    }

    /// The same again where a reload has left it alone, so that what has gone stays paid for.
    pub fn renew_own(&self, own: &mut Option<Rc<Both<Pacer>>>) {
        if own.as_ref().map_or(0, |own| own[0].bytes_per_second()) != self.connection {
            *own = self.own();
        }
    }
}

/// A bandwidth for each direction.
#[must_use]
pub fn pacers(bytes_per_second: u64) -> Both<Pacer> {
    [Pacer::new(bytes_per_second), Pacer::new(bytes_per_second)]
}

fn both<T>(bandwidth: u64, make: impl Fn() -> T) -> Option<Both<T>> {
    (bandwidth > 0).then(|| [make(), make()])
}

/// What holds for one connection or flow.
#[derive(Debug)]
pub struct Pace {
    listener: Option<Arc<ListenerPace>>,
    part: Option<Arc<Both<Pacer>>>,
    own: Option<Rc<Both<Pacer>>>,
    client: u64,
}

impl Pace {
    /// Of what a listener has, a pool or a route, and a connection. `client` is the key of the client that
    /// shares with itself. `None`: as fast as it comes.
    #[must_use]
    pub fn new(
        listener: Option<&Arc<ListenerPace>>,
        part: Option<&Arc<Both<Pacer>>>,
        own: Option<&Rc<Both<Pacer>>>,
        client: u64,
    ) -> Option<Rc<Self>> {
        (listener.is_some() || part.is_some())
            .then(|| Rc::new(Self { listener: listener.cloned(), part: part.cloned(), own: own.cloned(), client }))
    }

    /// How many bytes may go in direction [`UP`] or [`DOWN`].
    #[must_use]
    pub fn allows(&self, direction: usize, now_ns: u64) -> u64 {
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
    pub fn note(&self, direction: usize, bytes: u64, now_ns: u64) {
        for pacer in self.pacers(direction) {
            pacer.note(bytes, now_ns);
        }
        if let Some(clients) = self.clients(direction) {
            clients.note(self.client, bytes, now_ns);
        }
    }

    fn pacers(&self, direction: usize) -> impl Iterator<Item = &Pacer> {
        let total = self.listener.as_ref().and_then(|listener| listener.total.as_ref());
        [total, self.part.as_deref(), self.own.as_deref()]
            .into_iter()
            .flatten()
            .filter_map(move |both| both.get(direction))
    }

    fn clients(&self, direction: usize) -> Option<&Pacers> {
        self.listener.as_ref()?.client.as_ref()?.get(direction)
    }
}

/// One direction of it. A tick of the worker's clock brings one piece, so that others of whom somebody
/// shares the bandwidth get theirs.
#[derive(Debug, Default)]
pub struct Lane {
    pace: Option<Rc<Pace>>,
    direction: usize,
    tick: u64,
    /// What is left of this tick's piece; `None`: it has not been asked for.
    left: Option<u64>,
}

impl Lane {
    #[must_use]
    pub fn new(pace: Option<&Rc<Pace>>, direction: usize) -> Self {
        Self { pace: pace.cloned(), direction, tick: u64::MAX, left: None }
    }

    /// The time goes on.
    pub fn begin(&mut self, tick: u64) {
        if self.tick != tick {
            self.tick = tick;
            self.left = None;
        }
    }

    /// At most so many bytes may go now; 0: none in this tick.
    pub fn allows(&mut self, now_ns: impl FnOnce() -> u64) -> usize {
        let Some(pace) = &self.pace else { return usize::MAX };
        // Two thirds of what there is, which is all that a tick brings where nobody else takes of it.
        let piece = || {
            let bytes = pace.allows(self.direction, now_ns());
            bytes.div_ceil(3).saturating_mul(2).min(bytes)
        };
        let left = *self.left.get_or_insert_with(piece);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    pub fn note(&mut self, bytes: usize, now_ns: impl FnOnce() -> u64) {
        if let Some(pace) = &self.pace {
            pace.note(self.direction, bytes as u64, now_ns());
            self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
        }
    }

    /// It has had its piece, and waits for that of the next tick.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.left == Some(0)
    }
}
