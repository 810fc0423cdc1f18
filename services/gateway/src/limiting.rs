//! Rate limits as the workers hold them: what is counted is shared by all, the rest is each worker's own.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use siphasher::sip::SipHasher13;
use sumun_config::checked::{self as config, Config, KeyPart, Name, RateWindow, SharedThrough};
use sumun_engine::kept::{Table, lock};
use sumun_traffic::limiter::{Counted, Quota, Usage};
use sumun_traffic::sliding::{self, Window};
use sumun_traffic::token_bucket::Rate;

use crate::limits::SHARED_KEYS;
use crate::metrics::{LimitCell, Metrics};
use crate::path::Verifier;

const SECOND_NS: u64 = 1_000_000_000;

// What the config lets through has to fit.
const _: () = assert!(sumun_config::limits::SLIDING_COUNT == sliding::LIMIT_MAX);

/// What all workers of a process count, by limit and by what makes its counts comparable.
#[derive(Debug)]
pub(crate) struct Limiting {
    counted: Table<(Name, Measure), Counted>,
    usage: Table<(Name, Measure), Usage>,
    /// Makes keys of texts. Drawn at random, so that nobody can choose where a key comes to stand, or
    /// find one that stands for another.
    own: SipHasher13,
    /// The same of limits that other gateways share.
    shared_keys: Mutex<Option<SipHasher13>>,
    /// Those limits.
    shared: Mutex<Vec<SharedLimit>>,
}

impl Default for Limiting {
    fn default() -> Self {
        let random = RandomState::new();
        Self {
            counted: Table::default(),
            usage: Table::default(),
            own: SipHasher13::new_with_keys(random.hash_one(0), random.hash_one(1)),
            shared_keys: Mutex::default(),
            shared: Mutex::default(),
        }
    }
}

/// A limit as it is told to other gateways.
#[derive(Debug, Clone)]
pub(crate) struct SharedLimit {
    pub(crate) name: Name,
    pub(crate) rate: Rate,
    pub(crate) counted: Arc<Counted>,
    pub(crate) usage: Arc<Usage>,
}

/// What is counted how: where this stays the same, counts are worth keeping.
type Measure = String;

/// A limit as one worker asks it.
pub(crate) struct Limit {
    pub(crate) quota: Quota,
    pub(crate) counted: Arc<Counted>,
    pub(crate) key: Vec<Part>,
    pub(crate) hasher: SipHasher13,
    /// What other gateways are to be told.
    usage: Option<Arc<Usage>>,
    pub(crate) name: Name,
    /// Its item of `RateLimit-Policy`.
    pub(crate) policy: Box<[u8]>,
    pub(crate) tells_always: bool,
    pub(crate) cell: Arc<LimitCell>,
}

impl Limit {
    /// One more has passed.
    #[inline]
    pub(crate) fn note(&self, key: u64) {
        if let Some(usage) = &self.usage {
            usage.add(key);
        }
    }
}

/// A part of a key.
pub(crate) enum Part {
    Plain(KeyPart),
    Claim(Box<Verifier>),
}

impl Limiting {
    /// A config is about to come into force.
    pub(crate) fn follow(&self, config: &Config) {
        let is_named = |(name, measure): &(Name, Measure)| {
            config.limits.get(name).is_some_and(|limit| measure_of(limit) == *measure)
        };
        lock(&self.counted).name(is_named);
        lock(&self.counted).let_go(|_| {});
        lock(&self.usage).name(is_named);
        lock(&self.usage).let_go(|_| {});
        *self.shared_keys.lock().unwrap_or_else(PoisonError::into_inner) = config.shared.as_ref().map(hasher_of);
        let shared = config.limits.values().filter(|limit| limit.shared);
        let shared = shared.filter_map(|limit| match quota(limit) {
            Quota::Bucket(rate) => {
                let name = Arc::clone(&limit.name);
                Some(SharedLimit { name, rate, counted: self.counted(limit), usage: self.usage(limit) })
            }
            Quota::Sliding(_) => None,
        });
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = shared.collect();
    }

    /// What other gateways are told of.
    pub(crate) fn shared(&self) -> Vec<SharedLimit> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counted(&self, limit: &config::Limit) -> Arc<Counted> {
        let keys = usize::try_from(limit.keys).unwrap_or(usize::MAX);
        lock(&self.counted).value((Arc::clone(&limit.name), measure_of(limit)), 0, || Counted::new(keys))
    }

    fn usage(&self, limit: &config::Limit) -> Arc<Usage> {
        let keys = usize::try_from(limit.keys).unwrap_or(usize::MAX).min(SHARED_KEYS);
        lock(&self.usage).value((Arc::clone(&limit.name), measure_of(limit)), 0, || Usage::new(keys))
    }

    pub(crate) fn limit(&self, limit: &config::Limit, metrics: &Metrics, worker: usize) -> Limit {
        let shared_keys = *self.shared_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let hasher = shared_keys.filter(|_| limit.shared).unwrap_or(self.own);
        let parts = limit.key.iter().map(|part| match part {
            KeyPart::Claim(jwt) => Part::Claim(Box::new(Verifier::new(jwt, hasher))),
            part => Part::Plain(part.clone()),
        });
        Limit {
            quota: quota(limit),
            counted: self.counted(limit),
            usage: limit.shared.then(|| self.usage(limit)),
            hasher,
            key: parts.collect(),
            policy: policy(limit).into_bytes().into(),
            tells_always: limit.tells_always,
            cell: metrics.limit(&limit.name, worker),
            name: Arc::clone(&limit.name),
        }
    }
}

/// Without the burst, which may change.
fn measure_of(limit: &config::Limit) -> Measure {
    format!("{:?}", (&limit.key, limit.rate, limit.window, limit.keys, limit.shared))
}

/// The same in all gateways. Who has the numbers in the server's keys and not the secret can neither find
/// out what they stand for nor which other texts come to the same.
fn hasher_of(shared: &SharedThrough) -> SipHasher13 {
    let made = sign(&Key::new(HMAC_SHA256, &shared.secret.0), b"keys of limits");
    let mut key = [0; 16];
    key.iter_mut().zip(made.as_ref()).for_each(|(into, from)| *into = *from);
    SipHasher13::new_with_key(&key)
}

fn quota(limit: &config::Limit) -> Quota {
    let period_ns = limit.rate.period.as_secs().saturating_mul(SECOND_NS);
    match limit.window {
        RateWindow::Bucket => Quota::Bucket(Rate::new(limit.rate.count.into(), period_ns, limit.burst.into())),
        RateWindow::Sliding => Quota::Sliding(Window::new(limit.rate.count, period_ns)),
    }
}

/// What a client may do: so many within so many seconds. A burst is said where it fills in whole
/// seconds, which is what the field has units for; else the rate is.
fn policy(limit: &config::Limit) -> String {
    let (count, burst, period) = (u64::from(limit.rate.count), u64::from(limit.burst), limit.rate.period.as_secs());
    let (quota, seconds) = match burst * period {
        full if full % count == 0 => (burst, full / count),
        _ => (count, period),
    };
    format!("\"{}\";q={quota};w={seconds}", limit.name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn policies() {
        let policy = |count, period, burst| {
            let rate = config::Rate { count, period: Duration::from_secs(period) };
            let (key, window) = (vec![KeyPart::Client], RateWindow::Bucket);
            policy(&config::Limit {
                name: "a".into(),
                key,
                rate,
                burst,
                window,
                keys: 1,
                shared: false,
                tells_always: false,
            })
        };
        assert_eq!(policy(50, 1, 100), "\"a\";q=100;w=2");
        assert_eq!(policy(1000, 60, 1000), "\"a\";q=1000;w=60");
        assert_eq!(policy(50, 1, 75), "\"a\";q=50;w=1");
        assert_eq!(policy(1, 3600, 2), "\"a\";q=2;w=7200");
    }
}
