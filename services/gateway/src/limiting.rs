//! Rate limits as the workers hold them: what is counted is shared by all, the rest is each worker's own.

use std::hash::RandomState;
use std::sync::Arc;

use sumun_config::checked::{self as config, Config, KeyPart, Name, RateWindow};
use sumun_engine::kept::{Table, lock};
use sumun_traffic::limiter::{Counted, Quota};
use sumun_traffic::sliding::{self, Window};
use sumun_traffic::token_bucket::Rate;

use crate::metrics::{LimitCell, Metrics};
use crate::path::Verifier;

const SECOND_NS: u64 = 1_000_000_000;

// What the config lets through has to fit.
const _: () = assert!(sumun_config::limits::SLIDING_COUNT == sliding::LIMIT_MAX);

/// What all workers of a process count, by limit and by what makes its counts comparable.
#[derive(Debug, Default)]
pub(crate) struct Limiting {
    counted: Table<(Name, Measure), Counted>,
    /// Makes keys of texts. Drawn at random, so that nobody can choose where a key comes to stand, or
    /// find one that stands for another.
    pub(crate) keys: RandomState,
}

/// What is counted how: where this stays the same, counts are worth keeping.
type Measure = String;

/// A limit as one worker asks it.
pub(crate) struct Limit {
    pub(crate) quota: Quota,
    pub(crate) counted: Arc<Counted>,
    pub(crate) key: Vec<Part>,
    pub(crate) name: Name,
    /// Its item of `RateLimit-Policy`.
    pub(crate) policy: Box<[u8]>,
    pub(crate) cell: Arc<LimitCell>,
}

/// A part of a key.
pub(crate) enum Part {
    Plain(KeyPart),
    Claim(Box<Verifier>),
}

impl Limiting {
    /// A config is about to come into force.
    pub(crate) fn follow(&self, config: &Config) {
        let mut counted = lock(&self.counted);
        counted.name(|(name, measure)| config.limits.get(name).is_some_and(|limit| measure_of(limit) == *measure));
        counted.let_go(|_| {});
    }

    pub(crate) fn limit(&self, limit: &config::Limit, metrics: &Metrics, worker: usize) -> Limit {
        let key = (Arc::clone(&limit.name), measure_of(limit));
        let keys = usize::try_from(limit.keys).unwrap_or(usize::MAX);
        let parts = limit.key.iter().map(|part| match part {
            KeyPart::Claim(jwt) => Part::Claim(Box::new(Verifier::new(jwt))),
            part => Part::Plain(part.clone()),
        });
        Limit {
            quota: quota(limit),
            counted: lock(&self.counted).value(key, 0, || Counted::new(keys)),
            key: parts.collect(),
            policy: policy(limit).into_bytes().into(),
            cell: metrics.limit(&limit.name, worker),
            name: Arc::clone(&limit.name),
        }
    }
}

/// Without the burst, which may change.
fn measure_of(limit: &config::Limit) -> Measure {
    format!("{:?}", (&limit.key, limit.rate, limit.window, limit.keys))
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
            policy(&config::Limit { name: "a".into(), key, rate, burst, window, keys: 1 })
        };
        assert_eq!(policy(50, 1, 100), "\"a\";q=100;w=2");
        assert_eq!(policy(1000, 60, 1000), "\"a\";q=1000;w=60");
        assert_eq!(policy(50, 1, 75), "\"a\";q=50;w=1");
        assert_eq!(policy(1, 3600, 2), "\"a\";q=2;w=7200");
    }
}
