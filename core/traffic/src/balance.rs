//! Which candidate takes the next request.
//!
//! A [`Balancer`] is made for a list of candidates and thrown away when the list changes. What
//! changes with every request, the load, is asked for through a function: it returns the requests
//! in flight of a candidate, or `None` where the candidate must not be taken this time (tried
//! before, or full). A candidate for which it returns `None` is never picked.

use crate::draw::Draw;
use crate::key::{mix, scale};
use crate::limits::{CANDIDATES_MAX, DRAWS_MAX, MAGLEV_LOOKUPS_MAX, START_TURNS_MAX, WEIGHT_HUNDREDTHS_MAX};
use crate::maglev::Table;
use crate::rendezvous;
use crate::turns::Turns;

/// How a pool spreads requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The less loaded of two drawn ones (Mitzenmacher, "The Power of Two Choices in Randomized
    /// Load Balancing", 2001).
    P2c,
    /// In turn, by weight.
    RoundRobin,
    /// The least loaded of all; linear in the candidates.
    LeastRequest,
    /// Drawn by weight.
    Random,
    /// By key, with a bound of load; linear in the candidates.
    Hash,
    /// By key, through a lookup table.
    Maglev,
    /// The first one that can be taken.
    First,
}

impl Method {
    /// The pick depends on a key.
    pub const fn wants_key(self) -> bool {
        matches!(self, Self::Hash | Self::Maglev)
    }

    /// A candidate's weight may be lowered for a while. Not where the same key has to come to the
    /// same server, nor where the weight is not looked at.
    pub const fn follows_slow_start(self) -> bool {
        matches!(self, Self::P2c | Self::RoundRobin | Self::LeastRequest | Self::Random)
    }
}

/// One server, as far as balancing is concerned; named by its index in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Weight times 100, so that a slow start has steps to take. Zero counts as one.
    pub weight_hundredths: u32,
    /// What keys are bound to: a hash of the server's name ([`crate::key::key_of`]), the same in
    /// every gateway.
    pub identity: u64,
}

/// Picks by one method from one list of candidates.
#[derive(Debug, Clone)]
pub struct Balancer {
    candidates: Vec<Candidate>,
    total_weight: u64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    P2c(Draw),
    RoundRobin(Turns),
    LeastRequest(Draw),
    Random(Draw),
    Hash(Draw),
    Maglev(Table, Draw),
    First,
}

impl Balancer {
    /// `siblings` is how many candidates there are when all servers can be taken (it fixes the
    /// size of maglev's table); `start` makes round-robin begin somewhere, so that workers do not
    /// begin in step. At most [`CANDIDATES_MAX`] candidates are looked at.
    pub fn new(method: Method, candidates: &[Candidate], siblings: usize, start: u32) -> Self {
        let usable = candidates.get(..CANDIDATES_MAX).unwrap_or(candidates);
        let candidates: Vec<Candidate> = usable
            .iter()
            .map(|candidate| Candidate {
                weight_hundredths: candidate.weight_hundredths.clamp(1, WEIGHT_HUNDREDTHS_MAX),
                identity: candidate.identity,
            })
            .collect();
        let weights: Vec<u32> = candidates.iter().map(|candidate| candidate.weight_hundredths).collect();
        let kind = match method {
            Method::P2c => Kind::P2c(Draw::new(&weights)),
            Method::RoundRobin => Kind::RoundRobin(turns_from(&weights, start)),
            Method::LeastRequest => Kind::LeastRequest(Draw::new(&weights)),
            Method::Random => Kind::Random(Draw::new(&weights)),
            Method::Hash => Kind::Hash(Draw::new(&weights)),
            Method::Maglev => {
                let siblings = siblings.min(CANDIDATES_MAX);
                Kind::Maglev(Table::new(&candidates, siblings), Draw::new(&weights))
            }
            Method::First => Kind::First,
        };
        Self { total_weight: weights.iter().map(|weight| u64::from(*weight)).sum(), candidates, kind }
    }

    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The index of the candidate to take, `None` if none can be taken. A method that wants a key
    /// and gets none draws at random.
    #[inline]
    pub fn pick(
        &mut self,
        key: Option<u64>,
        random: &mut impl FnMut() -> u64,
        load: impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        let candidates = self.candidates.as_slice();
        if candidates.len() < 2 {
            return first(candidates.len(), 0, &load);
        }
        match (&mut self.kind, key) {
            (Kind::P2c(draw), _) => p2c(candidates, draw, random, &load),
            (Kind::RoundRobin(turns), _) => round_robin(candidates.len(), turns, &load),
            (Kind::LeastRequest(draw), _) => least_request(candidates, draw, random(), &load),
            (Kind::Hash(_), Some(key)) => rendezvous::pick(candidates, self.total_weight, key, load),
            (Kind::Maglev(table, _), Some(key)) => maglev(candidates.len(), table, key, &load),
            (Kind::Random(draw) | Kind::Hash(draw) | Kind::Maglev(_, draw), _) => {
                drawn(candidates.len(), draw, random, &load)
            }
            (Kind::First, _) => first(candidates.len(), 0, &load),
        }
    }
}

/// Of two loads per weight, whether the left is the better one. Half a request is added to both:
/// a server with twice the weight then gets twice the requests also when there are few of them.
#[inline]
fn lighter(left: (u32, u32), right: (u32, u32)) -> bool {
    let scaled = |load: u32, other_weight: u32| (2 * u64::from(load) + 1) * u64::from(other_weight);
    scaled(left.0, right.1) < scaled(right.0, left.1)
}

#[inline]
fn p2c(
    candidates: &[Candidate],
    draw: &Draw,
    random: &mut impl FnMut() -> u64,
    load: &impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let one = draw.take(random());
    // Any other one, each as likely as the next: the comparison takes care of the weights.
    let step = 1 + scale(random(), candidates.len() - 1);
    let other = if one + step >= candidates.len() { one + step - candidates.len() } else { one + step };
    match (load(one), load(other)) {
        // An idle one stays: the draw was by weight, a comparison would always favour the heavy.
        (Some(0), _) => Some(one),
        (Some(load_one), Some(load_other)) => {
            let weight = |index: usize| candidates[index].weight_hundredths;
            let swap = lighter((load_other, weight(other)), (load_one, weight(one)));
            Some(if swap { other } else { one })
        }
        (Some(_), None) => Some(one),
        (None, Some(_)) => Some(other),
        (None, None) => least_loaded(candidates, other, load),
    }
}

fn round_robin(len: usize, turns: &mut Turns, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let mut index = 0;
    // A server that cannot take its turn loses it: it would else get them all at once later.
    for _ in 0..len {
        index = turns.take();
        if load(index).is_some() {
            return Some(index);
        }
    }
    first(len, index, load)
}

fn least_request(
    candidates: &[Candidate],
    draw: &Draw,
    random: u64,
    load: &impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let drawn = draw.take(random);
    if load(drawn) == Some(0) {
        return Some(drawn);
    }
    least_loaded(candidates, drawn, load)
}

/// The lightest usable candidate; of equals, the first one from `start` on.
fn least_loaded(candidates: &[Candidate], start: usize, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let mut best: Option<(usize, (u32, u32))> = None;
    for index in (start..candidates.len()).chain(0..start) {
        let Some(own) = load(index) else { continue };
        let own = (own, candidates[index].weight_hundredths);
        if best.is_none_or(|(_, lightest)| lighter(own, lightest)) {
            best = Some((index, own));
        }
    }
    best.map(|(index, _)| index)
}

fn drawn(
    len: usize,
    draw: &Draw,
    random: &mut impl FnMut() -> u64,
    load: &impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    for _ in 0..DRAWS_MAX {
        let index = draw.take(random());
        if load(index).is_some() {
            return Some(index);
        }
    }
    first(len, scale(random(), len), load)
}

fn maglev(len: usize, table: &Table, key: u64, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let mut key = key;
    for _ in 0..MAGLEV_LOOKUPS_MAX {
        let index = table.look_up(key);
        if load(index).is_some() {
            return Some(index);
        }
        key = mix(key.wrapping_add(1));
    }
    first(len, scale(key, len), load)
}

/// The first usable one from `start` on, around the end.
fn first(len: usize, start: usize, load: &impl Fn(usize) -> Option<u32>) -> Option<usize> {
    (start..len).chain(0..start.min(len)).find(|index| load(*index).is_some())
}

fn turns_from(weights: &[u32], start: u32) -> Turns {
    let mut turns = Turns::new(weights);
    if !weights.is_empty() {
        for _ in 0..start % START_TURNS_MAX {
            turns.take();
        }
    }
    turns
}
