//! What gateways tell each other of their limits, through a Redis or Valkey.
//!
//! No request waits for it. Each gateway counts and decides by its own table at once. A task of the control
//! thread tells, ten times a second, what was taken since, of the keys that took most; and hears how full
//! the bucket of all is by now, which its own then is at least. So the rate is that of all together, and
//! what a gateway takes before it hears of the others is paid back by all.
//!
//! Kept there is one number a key, the time when its bucket is full again, for no longer than until then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sumun_config::checked::SharedThrough;
use sumun_pools::redis::{Redis, Reply};
use sumun_traffic::limiter::{Hashed, Quota};

use crate::limiting::{Limiting, SharedLimit};
use crate::limits::{SHARED_CHUNK, SHARED_DEBT, SHARED_PATIENCE, SHARED_ROUND, SHARED_ROUND_KEYS};

/// KEYS: buckets. ARGV: microseconds that count as just now; then for each key what was taken, and what
/// may be owed at most, both as times in microseconds. Answers how long each takes to be full again.
const SCRIPT: &str = "\
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local recent = tonumber(ARGV[1])
local levels = {}
for i, key in ipairs(KEYS) do
  local full = tonumber(redis.pcall('GET', key) or now) or now
  full = math.max(full, now - recent) + ARGV[2 * i]
  full = math.min(full, now + ARGV[2 * i + 1])
  redis.call('SET', key, string.format('%.0f', full), 'PX', math.max(1, math.ceil((full - now + recent) / 1000)))
  levels[i] = math.max(0, math.ceil(full - now))
end
return levels";

/// What came of it, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Keys that were told of, and keys that were not since the server was away.
    pub(crate) keys: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// Tells and hears for as long as it is polled. `start` is that of the workers' clocks.
pub(crate) async fn run(limiting: &Limiting, redis: &Redis, told: &Told, start: Instant) {
    let mut ticks = tokio::time::interval(SHARED_ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = redis.settings() else { continue };
        for limit in limiting.shared() {
            // Also where nobody hears of it: what was taken long ago is nobody's debt.
            let most = limit.usage.most(SHARED_ROUND_KEYS);
            for keys in most.chunks(SHARED_CHUNK) {
                let count = keys.len() as u64;
                if exchange(&limit, keys, &shared, redis, start).await.is_some() {
                    told.keys.fetch_add(count, Ordering::Relaxed);
                } else {
                    told.lost.fetch_add(count, Ordering::Relaxed);
                }
            }
        }
    }
}

async fn exchange(
    limit: &SharedLimit,
    keys: &[(Hashed, u64)],
    shared: &SharedThrough,
    redis: &Redis,
    start: Instant,
) -> Option<()> {
    let debt_ns = limit.rate.burst_ns().saturating_add(nanoseconds(SHARED_DEBT)).saturating_mul(16);
    let microseconds = |time_ns: u64| time_ns.div_ceil(1000).to_string();
    let (prefix, name) = (&shared.prefix, &limit.name);
    let names: Vec<String> = keys.iter().map(|(key, _)| format!("{prefix}:limit:{name}:{:016x}", key.0)).collect();
    let mut words = vec![SHARED_ROUND.as_micros().to_string()];
    for (_, taken) in keys {
        words.push(microseconds(limit.rate.time_of(*taken)));
        words.push(microseconds(debt_ns));
    }
    let Reply::Numbers(levels) = redis.eval(SCRIPT, &names, &words, SHARED_PATIENCE).await? else { return None };
    let now_ns = nanoseconds(start.elapsed());
    for ((key, _), level_us) in keys.iter().zip(levels) {
        let level_ns = u64::try_from(level_us).unwrap_or(0).saturating_mul(1000).min(debt_ns);
        let since_ns = limit.rate.time_of(limit.usage.untold(*key));
        Quota::Bucket(limit.rate).raise(&limit.counted, *key, level_ns.saturating_add(since_ns), now_ns);
    }
    Some(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
