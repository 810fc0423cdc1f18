//! A worker's way to a server: the hot path of this crate.
//!
//! One `Picker` for each pool and worker. It keeps the list of servers that can be taken, ready
//! for the pool's way of balancing, and makes it anew only when somebody says that something has
//! changed (the pool's generation) or when a time has come (the end of an ejection, the next step
//! of a slow start). A pick by p2c is two random numbers, a comparison and the atomic additions
//! that take the place.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sumun_config::checked as config;
use sumun_hello::quic_lb::ServerId;
use sumun_traffic::retry_budget::RetryShare;
use sumun_traffic::{Balancer, Candidate};

use crate::lease::Lease;
use crate::limits::SLOW_START_STEP_MS;
use crate::pool::{Pool, method_of, milliseconds};
use crate::server::Server;
use crate::set::{Member, ServerSet};
use crate::tried::Tried;

/// What a request says about where it wants to go. Only what [`Picker::wants`] names is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PickKey<'a> {
    /// Hash of what the pool's `hash` names ([`crate::key_of`]); without it, hash and maglev draw.
    pub hash: Option<u64>,
    /// Value of the sticky cookie.
    pub sticky: Option<&'a [u8]>,
}

/// What of a [`PickKey`] this pool looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    pub hash: bool,
    pub sticky: bool,
}

/// One server, as those know it who are with it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// [`Server::id`].
    Id(u64),
    /// By the connection ids of QUIC that it makes.
    QuicId(ServerId),
}

/// Why there is no server for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// None is up and enabled; or all of those were tried.
    NoServer,
    /// Each has as many connections as it may have; waiting may help ([`Pool::wait_for_place`]).
    AtCapacity,
}

/// Picks servers of one pool for one worker.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    settings: Arc<config::Pool>,
    set: Arc<ServerSet>,
    /// The pool's generation when the tiers were made.
    generation: u64,
    /// From then on the tiers are out of date.
    valid_until_ms: u64,
    /// Servers of our zone, other servers, backups; the empty ones left out.
    tiers: Vec<Tier>,
    /// Servers that are ejected, and those down whose checks have begun to be good: where there are
    /// no others, or a request has tried them all, they are better than nobody.
    last_resort: Option<Tier>,
    wants: Wants,
    random: fastrand::Rng,
    retries: RetryShare,
}

/// Servers among which load is spread; the next tier is taken where none of this one can be.
#[derive(Debug)]
struct Tier {
    balancer: Balancer,
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    server: Arc<Server>,
    id: u64,
    bound: Option<u32>,
}

impl Picker {
    pub fn new(pool: Arc<Pool>) -> Self {
        let mut picker = Self {
            settings: pool.settings(),
            set: pool.servers(),
            pool,
            generation: 0,
            valid_until_ms: 0,
            tiers: Vec::new(),
            last_resort: None,
            wants: Wants::default(),
            random: fastrand::Rng::new(),
            retries: RetryShare::default(),
        };
        picker.wants = wants_of(&picker.settings);
        picker
    }

    /// Goes on with what the requests of the last seconds have earned in retries: one that starts with
    /// none has nothing for a server that dies right behind a reload.
    pub fn inherit(&mut self, before: &Self) {
        self.retries = before.retries.clone();
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The pool's settings as of the last pick.
    pub fn settings(&self) -> &Arc<config::Pool> {
        &self.settings
    }

    /// What [`Picker::pick`] wants to know of a request.
    #[inline]
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// The value of the sticky cookie that names `server`.
    pub fn cookie_for(&self, server: &Server) -> Option<&str> {
        self.set.by_id(server.id())?.cookie.as_deref()
    }

    /// Takes a place at a server. `now_ms` is the pools' time ([`crate::Pools::new`]).
    ///
    /// A server that the sticky cookie names comes first. A request that finds it gone, full or
    /// tried goes where any other would.
    ///
    /// # Errors
    /// There is no server, or no place.
    #[inline]
    pub fn pick(&mut self, now_ms: u64, key: PickKey<'_>, tried: &Tried) -> Result<Lease, Refused> {
        self.keep_up(now_ms);
        if tried.is_empty() {
            self.retries.note_request(now_ms);
        }
        // Who waits longer comes first.
        if self.set.is_bounded() && self.pool.room.waiting() != 0 {
            let nobody = self.tiers.is_empty() && self.last_resort.is_none();
            return Err(if nobody { Refused::NoServer } else { Refused::AtCapacity });
        }
        if self.wants.sticky
            && let Some(lease) = key.sticky.and_then(|cookie| self.pick_sticky(cookie, now_ms, tried))
        {
            return Ok(lease);
        }
        for tier in &mut self.tiers {
            if let Some(lease) = tier.pick(key.hash, tried, &mut self.random) {
                return Ok(lease);
            }
        }
        if self.tiers.iter().any(|tier| tier.has_untried(tried)) {
            return Err(Refused::AtCapacity);
        }
        let Some(tier) = &mut self.last_resort else { return Err(Refused::NoServer) };
        match tier.pick(key.hash, tried, &mut self.random) {
            Some(lease) => Ok(lease),
            None if tier.has_untried(tried) => Err(Refused::AtCapacity),
            None => Err(Refused::NoServer),
        }
    }

    /// A place at this very server, for who is with it already and would be a stranger to the others:
    /// `None` where it is not there, down, disabled or full. Those who wait for a place are overtaken.
    pub fn pick_named(&mut self, server: Named, now_ms: u64) -> Option<Lease> {
        self.keep_up(now_ms);
        let member = match server {
            Named::Id(id) => self.set.by_id(id),
            Named::QuicId(id) => self.set.by_quic_id(id),
        }?;
        if member.server.keeps_sessions() { member.server.try_enter(member.max_connections) } else { None }
    }

    /// Whether the retry budget allows one more try of a request that a server may have seen; if
    /// so, it is taken from the budget.
    pub fn may_retry(&mut self, now_ms: u64) -> bool {
        let retries = &self.settings.retries;
        retries.tries > 0
            && (self.retries.take_retry(now_ms, retries.budget_percent)
                || self.pool.take_retry_floor(now_ms, retries.floor_per_second))
    }

    fn pick_sticky(&self, cookie: &[u8], now_ms: u64, tried: &Tried) -> Option<Lease> {
        let member = self.set.by_cookie(cookie)?;
        let server = &member.server;
        let usable = server.is_eligible_for_sticky(now_ms) && !tried.contains(server.id());
        if usable { server.try_enter(member.max_connections) } else { None }
    }

    #[inline]
    fn keep_up(&mut self, now_ms: u64) {
        if now_ms >= self.valid_until_ms || self.pool.generation.load(Ordering::Acquire) != self.generation {
            self.look_again(now_ms);
        }
    }

    #[cold]
    fn look_again(&mut self, now_ms: u64) {
        // Read before the states are: a change in between is seen at the next pick.
        self.generation = self.pool.generation.load(Ordering::Acquire);
        self.settings = self.pool.settings();
        self.set = self.pool.servers();
        self.wants = wants_of(&self.settings);
        self.valid_until_ms = u64::MAX;
        self.tiers.clear();
        let start = self.random.u32(..);
        let (set, settings) = (Arc::clone(&self.set), Arc::clone(&self.settings));
        for rank in 0..TIERS {
            let tier = self.tier(&set, &settings, now_ms, start, |member| {
                rank_of(member, &settings) == rank && member.server.is_eligible(now_ms)
            });
            self.tiers.extend(tier);
        }
        self.last_resort = self.tier(&set, &settings, now_ms, start, |member| member.server.is_last_resort(now_ms));
        let ends = set.members().iter().map(|member| member.server.ejected_until_ms()).filter(|&until| until > now_ms);
        self.valid_until_ms = ends.fold(self.valid_until_ms, u64::min);
        // A place may have come free that no request has left.
        if self.pool.room.waiting() != 0 {
            self.pool.serve_waiting();
        }
    }

    /// The servers that `belongs` names, as one tier; none is no tier.
    fn tier(
        &mut self,
        set: &ServerSet,
        settings: &config::Pool,
        now_ms: u64,
        start: u32,
        belongs: impl Fn(&Member) -> bool,
    ) -> Option<Tier> {
        let (mut places, mut candidates) = (Vec::new(), Vec::new());
        for member in set.members().iter().filter(|member| belongs(member)) {
            candidates.push(self.candidate(&member.server, now_ms));
            let server = Arc::clone(&member.server);
            places.push(Place { id: server.id(), server, bound: member.max_connections });
        }
        let rank = rank_of(set.members().iter().find(|member| belongs(member))?, settings);
        let siblings = set.members().iter().filter(|member| rank_of(member, settings) == rank).count();
        let balancer = Balancer::new(method_of(settings.balance), &candidates, siblings, start);
        Some(Tier { balancer, places })
    }

    fn candidate(&mut self, server: &Server, now_ms: u64) -> Candidate {
        let ramps = method_of(self.settings.balance).follows_slow_start();
        let ramp_ms = if ramps { milliseconds(self.settings.slow_start) } else { 0 };
        let (weight_hundredths, rising) = server.weight_hundredths(now_ms, ramp_ms);
        if rising {
            self.valid_until_ms = self.valid_until_ms.min(now_ms + SLOW_START_STEP_MS);
        }
        Candidate { weight_hundredths, identity: server.identity() }
    }
}

impl Tier {
    fn has_untried(&self, tried: &Tried) -> bool {
        self.places.iter().any(|place| !tried.contains(place.id))
    }

    #[inline]
    fn pick(&mut self, key: Option<u64>, tried: &Tried, random: &mut fastrand::Rng) -> Option<Lease> {
        let places = self.places.as_slice();
        let load = |index: usize| {
            let place: &Place = &places[index];
            let load = place.server.in_flight();
            let has_place = place.bound.is_none_or(|bound| load < bound)
                && (!place.server.is_adaptive() || place.server.admission().has_place());
            let usable = has_place && !tried.contains(place.id);
            usable.then_some(load)
        };
        // Another worker may take the last place first; it does so at most once for each server
        // before the load shows it full.
        for _ in 0..=places.len() {
            let index = self.balancer.pick(key, &mut || random.u64(..), load)?;
            let place = &places[index];
            if let Some(lease) = place.server.try_enter(place.bound) {
                return Some(lease);
            }
        }
        None
    }
}

/// Ranks of servers: 0 is taken first.
const TIERS: u8 = 3;

pub(crate) fn rank_of(member: &Member, settings: &config::Pool) -> u8 {
    if member.backup {
        2
    } else if settings.zone.is_some() && member.zone != settings.zone {
        1
    } else {
        0
    }
}

fn wants_of(settings: &config::Pool) -> Wants {
    Wants { hash: method_of(settings.balance).wants_key(), sticky: settings.sticky.is_some() }
}
