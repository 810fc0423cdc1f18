//! What the gateway says of its cache, as the admin listener shows it.

use serde_json::{Value, json};
use sumun_admin::{CacheCommand, CacheScope};
use sumun_gateway::{Finding, Gateway, PurgeScope};

/// Does what an operator wants of the cache.
pub(crate) fn obey(gateway: &Gateway, command: CacheCommand) -> Result<Value, String> {
    match command {
        CacheCommand::Report => Ok(report(gateway)),
        CacheCommand::Get { url, headers } => {
            let found = gateway.cache_get(&url, &headers)?;
            Ok(found.into_iter().map(|(key, finding)| with_key(&key, &finding)).collect())
        }
        CacheCommand::Purge { scope, is_soft } => {
            let scope = match scope {
                CacheScope::Url(url) => PurgeScope::Url(url),
                CacheScope::Prefix(prefix) => PurgeScope::Prefix(prefix),
                CacheScope::Tag(tag) => PurgeScope::Tag(tag),
                CacheScope::All => PurgeScope::All,
            };
            gateway.cache_purge(&scope, is_soft)?;
            tracing::info!(?scope, soft = is_soft, "the cache was purged");
            Ok(json!({ "purged": true }))
        }
    }
}

fn report(gateway: &Gateway) -> Value {
    let report = gateway.cache_report();
    json!({
        "memory": { "room": report.room, "bytes": report.bytes, "entries": report.entries, "evicted": report.evicted },
        "requests": {
            "hit": report.hits,
            "stale": report.stale_hits,
            "miss": report.misses,
            "collapsed": report.collapsed,
            "pass": report.passes,
        },
        "stored": report.stored,
        "revalidated": report.revalidated,
    })
}

fn with_key(key: &str, finding: &Finding) -> Value {
    match finding {
        Finding::Nothing => json!({ "key": key, "state": "nothing" }),
        Finding::Arriving => json!({ "key": key, "state": "arriving" }),
        Finding::Passed { why } => json!({ "key": key, "state": "pass", "why": why }),
        Finding::Varies { names } => json!({ "key": key, "state": "varies", "vary": names }),
        Finding::Stored { status, age_s, ttl_s, bytes, state, etag, vary } => json!({
            "key": key,
            "state": state,
            "status": status,
            "age": age_s,
            "ttl": ttl_s,
            "bytes": bytes,
            "etag": etag,
            "vary": vary,
            "where": "memory",
        }),
    }
}
