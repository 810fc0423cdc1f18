//! A pool: what its servers share, and what all workers share of it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sumun_config::checked::{self as config, Name};
use sumun_traffic::queue::Offer;
use sumun_traffic::{Method, Priority, outlier, retry_budget, self_calls};

use crate::admission::{Admission, AdmissionLimits, NotAdmitted};
use crate::capacity::{Manner, Room};
use crate::lease::{Lease, Outcome};
use crate::limits::{NEWS_MAX, PATIENCE_LEAST_MS};
use crate::picker::rank_of;
use crate::roster::Roster;
use crate::server::{AdminState, Server};
use crate::set::ServerSet;
use crate::throttle::Throttle;
use crate::trace::{TraceGuard, Traces};
use crate::tried::Tried;

/// A named group of servers. Lives on through reloads as long as its name is in the config.
#[derive(Debug)]
pub struct Pool {
    name: Name,
    started: Instant,
    /// Counts everything that a picker has to look at again.
    pub(crate) generation: AtomicU64,
    pub(crate) room: Arc<Room>,
    settings: ArcSwap<config::Pool>,
    set: ArcSwap<ServerSet>,
    admission: Arc<Admission>,
    throttle: Arc<Throttle>,
    traces: Arc<Traces>,
    /// See `retry_budget::take_floor`.
    retry_floor: AtomicU64,
    /// One ejection at a time, so that the share is kept.
    ejecting: Mutex<()>,
    roster: Mutex<Roster>,
    news: Mutex<VecDeque<News>>,
    itself: Weak<Self>,
}

/// What happened on a worker, to be written down by the control thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Ejected { server: Name, for_ms: u64, count: u32, outcome: Outcome },
}

impl Pool {
    pub(crate) fn new(settings: &Arc<config::Pool>, secret: &Arc<[u8]>, started: Instant) -> Arc<Self> {
        let pool = Arc::new_cyclic(|itself| Self {
            name: Arc::clone(&settings.name),
            started,
            generation: AtomicU64::new(1),
            room: Arc::default(),
            settings: ArcSwap::new(Arc::clone(settings)),
            set: ArcSwap::default(),
            admission: Arc::new(Admission::new(AdmissionLimits::default(), started)),
            throttle: Arc::default(),
            traces: Arc::default(),
            retry_floor: AtomicU64::new(0),
            ejecting: Mutex::new(()),
            roster: Mutex::new(Roster::new(settings, secret)),
            news: Mutex::default(),
            itself: Weak::clone(itself),
        });
        pool.change_servers(|_| {});
        pool
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What the config says of this pool now. A picker has it without an atomic operation.
    pub fn settings(&self) -> Arc<config::Pool> {
        self.settings.load_full()
    }

    /// Another number whenever something about its servers has changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Its servers now.
    pub fn servers(&self) -> Arc<ServerSet> {
        self.set.load_full()
    }

    /// Its `concurrency` and queue.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Who is sent to its servers while they refuse; asked where the settings say `throttle`.
    pub fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// A request from this address comes from one of the pool's own servers.
    pub fn is_own_server(&self, address: IpAddr) -> bool {
        self.set.load().has_address(address)
    }

    /// Notes a trace (a hash of the traceparent's trace id) and whose it is for as long as the
    /// guard lives. `None` is a client without an address.
    pub fn enter_trace(&self, hash: u64, client: Option<IpAddr>) -> TraceGuard {
        self.traces.enter(hash, client)
    }

    /// Waits until a server that was not tried has a place, behind those who go first. For a request
    /// that was refused as `AtCapacity`.
    ///
    /// # Errors
    /// `Full`, `Shed` or `TimedOut`.
    pub async fn wait_for_place(
        self: &Arc<Self>,
        tried: &Tried,
        priority: Priority,
        timeout: Duration,
    ) -> Result<Lease, NotAdmitted> {
        let queue = &self.settings.load().queue;
        let now_ms = self.now_ms();
        let patience_ms = self.look_at_servers().unwrap_or_else(|| patience_ms(queue.timeout));
        let manner = Manner { priority, size: queue.size, patience_ms, is_shedding: false, now_ms };
        let waiting = self.room.join(*tried, manner, |tried| self.offer(tried, now_ms))?;
        tokio::time::timeout(timeout, waiting).await.map_err(|_| NotAdmitted::TimedOut)?
    }

    /// Lets adaptive servers look at what was gathered, which answers alone do elsewhere, and says how
    /// patient who waits for one of them has to be.
    fn look_at_servers(&self) -> Option<u64> {
        let set = self.set.load();
        let adaptive = set.members().iter().map(|member| &member.server).filter(|server| server.is_adaptive());
        adaptive.map(|server| server.admission().look_now_and_then()).max()
    }

    /// Requests that wait for a place at a server.
    pub fn waiting_for_place(&self) -> u32 {
        self.room.waiting()
    }

    /// Milliseconds since the process started: the time that all of `now_ms` means.
    pub fn now_ms(&self) -> u64 {
        milliseconds(self.started.elapsed())
    }

    /// Gives free places to who waits for them.
    #[cold]
    pub(crate) fn serve_waiting(&self) {
        let now_ms = self.now_ms();
        self.room.serve(now_ms, |tried| self.offer(tried, now_ms));
    }

    /// The least loaded server of the first tier that has a place; where nobody can be picked, of the
    /// last resort, as a [`crate::Picker`] has it.
    fn offer(&self, tried: &Tried, now_ms: u64) -> Offer<Lease> {
        let set = self.set.load();
        let is_left = |server: &Server| server.is_eligible(now_ms) && !tried.contains(server.id());
        let found = self.offer_among(&set, tried, |server| server.is_eligible(now_ms));
        if matches!(found, Offer::Take(_)) || set.members().iter().any(|member| is_left(&member.server)) {
            return found;
        }
        match self.offer_among(&set, tried, |server| server.is_last_resort(now_ms)) {
            Offer::Nobody => found,
            other => other,
        }
    }

    fn offer_among(&self, set: &ServerSet, tried: &Tried, belongs: impl Fn(&Server) -> bool) -> Offer<Lease> {
        let settings = self.settings.load();
        loop {
            let free = set
                .members()
                .iter()
                .filter(|member| member.server.has_place(member.max_connections) && belongs(&member.server));
            let mut suits_others = false;
            let untried = free.filter(|member| {
                let is_tried = tried.contains(member.server.id());
                suits_others |= is_tried;
                !is_tried
            });
            // Per mille of a place, so that weights count.
            let load = |server: &Server| u64::from(server.in_flight()) * 1000 / u64::from(server.weight().max(1));
            let Some(best) = untried.min_by_key(|member| (rank_of(member, &settings), load(&member.server))) else {
                return if suits_others { Offer::NotThis } else { Offer::Nobody };
            };
            if let Some(lease) = best.server.try_enter(best.max_connections) {
                return Offer::Take(lease);
            }
        }
    }

    /// One of the retries that are allowed in every second.
    pub(crate) fn take_retry_floor(&self, now_ms: u64, floor_per_second: u32) -> bool {
        let take = |state: u64| retry_budget::take_floor(state, now_ms, floor_per_second);
        self.retry_floor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// A server has failed `in_row` live requests in a row.
    pub(crate) fn consider_ejection(&self, server: &Arc<Server>, in_row: u32, outcome: Outcome, now_ms: u64) {
        let settings = self.settings.load();
        let rules = outlier::Rules {
            failures: settings.outlier.failures,
            eject_ms: milliseconds(settings.outlier.eject),
            eject_max_ms: milliseconds(settings.outlier.eject_max),
            max_ejected_percent: settings.outlier.max_ejected_percent,
        };
        if rules.failures == 0 || in_row < rules.failures {
            return;
        }
        let one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if server.ejected_until_ms() > now_ms {
            // A request that was on its way when the server was ejected says nothing new.
            server.note_success();
            return;
        }
        let set = self.set.load();
        let ejected = set.members().iter().filter(|member| member.server.ejected_until_ms() > now_ms).count();
        let others = set.members().iter().filter(|member| member.server.id() != server.id());
        let others_usable = others.filter(|member| member.server.is_eligible(now_ms)).count();
        if !outlier::may_eject(ejected, set.members().len(), others_usable, rules.max_ejected_percent) {
            return;
        }
        let mut about = server.about();
        let until_ms = about.ejections.eject(now_ms, &rules);
        let count = about.ejections.count();
        about.reason = format!("ejected after {in_row} failures in a row, the last: {}", in_words(outcome));
        drop(about);
        server.set_ejected_until(until_ms);
        server.begin_ramp(until_ms);
        server.counters.ejections.fetch_add(1, Ordering::Relaxed);
        drop(one_at_a_time);
        self.tell(News::Ejected { server: Arc::clone(server.name()), for_ms: until_ms - now_ms, count, outcome });
        self.touch();
    }

    /// Something that decides who can be picked has changed.
    pub(crate) fn touch(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        if self.room.waiting() != 0 {
            self.serve_waiting();
        }
    }

    /// Changes what the servers are made of, and takes the servers over that stay.
    pub(crate) fn change_servers<T>(&self, change: impl FnOnce(&mut Roster) -> T) -> T {
        self.replace_servers(false, change)
    }

    /// The same before the first request, with all servers as the first ones of the pool.
    pub(crate) fn restart_servers<T>(&self, change: impl FnOnce(&mut Roster) -> T) -> T {
        self.replace_servers(true, change)
    }

    fn replace_servers<T>(&self, anew: bool, change: impl FnOnce(&mut Roster) -> T) -> T {
        let mut roster = self.roster();
        let result = change(&mut roster);
        let settings = Arc::clone(roster.settings());
        let before = if anew { Arc::default() } else { self.set.load_full() };
        let set = Arc::new(roster.build(&before, &self.room, &self.itself, self.started));
        let bounds = set.members().iter().map(|member| member.max_connections);
        self.admission.set_limits(AdmissionLimits {
            concurrency: settings.concurrency,
            queue: settings.queue.size,
            patience_ms: patience_ms(settings.queue.timeout),
            self_calls: self_calls::self_calls_max(settings.concurrency.fixed(), bounds),
        });
        self.settings.store(settings);
        self.set.store(set);
        drop(roster);
        self.touch();
        result
    }

    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the operator asks for; the slow start begins when a server comes back.
    pub(crate) fn set_admin(&self, server: &Server, state: AdminState) {
        let before = server.admin_state();
        server.set_admin(state);
        if before == AdminState::Disabled && state == AdminState::Enabled {
            server.begin_ramp(self.now_ms());
        }
        self.touch();
    }

    fn tell(&self, news: News) {
        let mut queue = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == NEWS_MAX {
            queue.pop_front();
        }
        queue.push_back(news);
    }

    pub(crate) fn take_news(&self) -> VecDeque<News> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn in_words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success | Outcome::Neutral => "none".to_owned(),
        Outcome::ConnectFailed => "no connection".to_owned(),
        Outcome::Timeout => "no answer in time".to_owned(),
        Outcome::CutOff => "closed before the answer was complete".to_owned(),
        Outcome::Status(status) => format!("status {status}"),
    }
}

pub(crate) const fn method_of(balance: config::Balance) -> Method {
    match balance {
        config::Balance::P2c => Method::P2c,
        config::Balance::RoundRobin => Method::RoundRobin,
        config::Balance::LeastRequest => Method::LeastRequest,
        config::Balance::Random => Method::Random,
        config::Balance::Hash => Method::Hash,
        config::Balance::Maglev => Method::Maglev,
        config::Balance::First => Method::First,
    }
}

/// How long one waits in a queue that does not empty before newcomers may push it out: a tenth of the
/// time that it may wait at all.
#[must_use]
pub fn patience_ms(timeout: Duration) -> u64 {
    (milliseconds(timeout) / 10).max(PATIENCE_LEAST_MS)
}

/// Whole milliseconds; more than 584 million years are cut.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::pools::Pools;

    /// One of two bounds holds and the other does not: what is given back then is given back under the lock
    /// of the queue, and must not take it once more.
    #[tokio::test]
    async fn who_serves_the_queue_does_not_serve_it_again() {
        let text = "pools: { app: { servers: [{ address: \"192.0.2.1:80\", max_connections: 1 }], \
                                    concurrency: { per_server: adaptive } } }\n\
                    listeners: { web: { bind: \"127.0.0.1:80\", routes: [{ path: /, proxy: app }] } }\n";
        let checked =
            sumun_config::check_text("test", text).unwrap_or_else(|report| panic!("{}", report.render(false)));
        let pools = Pools::new(Instant::now(), b"secret");
        pools.apply(&checked.config);
        let pool = pools.pool("app").expect("it is there");
        let members = pool.servers();
        let server = &members.members()[0].server;
        let held = server.try_enter(Some(1)).expect("it is free");
        let tried = Tried::default();
        let mut waiting = pin!(pool.wait_for_place(&tried, Priority::Normal, Duration::from_secs(600)));
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err());
        pool.room.serve(0, |_| {
            assert!(server.try_enter(Some(1)).is_none());
            Offer::<Lease>::Nobody
        });
        assert_eq!((server.in_flight(), server.requests()), (1, 1));
        drop(held);
        let lease = waiting.await.expect("it is handed over");
        assert_eq!((lease.server().in_flight(), server.requests()), (1, 2));
    }
}
