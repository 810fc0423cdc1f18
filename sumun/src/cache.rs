//! What the gateway says of its cache, as the admin listener shows it.

use std::sync::Arc;

use serde_json::{Value, json};
use sumun_admin::{CacheCommand, CacheScope};
use sumun_gateway::{Finding, Gateway, PhysicalVolumeReport, PurgeScope, StorageReport, VolumeReport};

/// Does what an operator wants of the cache.
pub(crate) async fn obey(gateway: Arc<Gateway>, command: CacheCommand) -> Result<Value, String> {
    match command {
        CacheCommand::Report => Ok(report(&gateway)),
        CacheCommand::Volumes => Ok(volumes(gateway.volumes())),
        CacheCommand::Get { url, headers } => {
            let found = gateway.cache_get(&url, &headers).await?;
            Ok(found.into_iter().map(|(key, finding)| with_key(&key, &finding)).collect())
        }
        CacheCommand::Purge { scope, is_soft } => {
            let scope = match scope {
                CacheScope::Url(url) => PurgeScope::Url(url),
                CacheScope::Prefix(prefix) => PurgeScope::Prefix(prefix),
                CacheScope::Tag(tag) => PurgeScope::Tag(tag),
                CacheScope::All => PurgeScope::All,
            };
            gateway.cache_purge(&scope, is_soft).await?;
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
        "loaded": report.loaded,
        "slices": report.slices,
        "revalidated": report.revalidated,
    })
}

/// `group` is null where everything is in memory.
fn volumes(report: Option<StorageReport>) -> Value {
    let Some(report) = report else {
        return json!({ "group": null, "physical_volumes": [], "volumes": [] });
    };
    let physical = |volume: &PhysicalVolumeReport| {
        json!({
            "path": volume.path.display().to_string(),
            "uuid": volume.uuid,
            "state": volume.state,
            "problem": volume.problem,
            "extent_bytes": volume.extent_bytes,
            "extents": volume.extents,
            "free_extents": volume.free_extents,
            "read_errors": volume.read_errors,
            "slow_writes": volume.slow_writes,
            "not_stored": volume.not_stored,
        })
    };
    let logical =
        |volume: &VolumeReport| json!({ "name": volume.name, "bytes": volume.bytes, "objects": volume.objects });
    json!({
        "group": { "id": report.group, "state": report.state, "problem": report.problem },
        "physical_volumes": report.physical_volumes.iter().map(physical).collect::<Vec<_>>(),
        "volumes": report.volumes.iter().map(logical).collect::<Vec<_>>(),
    })
}

fn with_key(key: &str, finding: &Finding) -> Value {
    match finding {
        Finding::Nothing => json!({ "key": key, "state": "nothing" }),
        Finding::Arriving => json!({ "key": key, "state": "arriving" }),
        Finding::Passed { why } => json!({ "key": key, "state": "pass", "why": why }),
        Finding::Varies { names } => json!({ "key": key, "state": "varies", "vary": names }),
        Finding::Stored { status, age_s, ttl_s, bytes, place, state, etag, vary } => json!({
            "key": key,
            "state": state,
            "status": status,
            "age": age_s,
            "ttl": ttl_s,
            "bytes": bytes,
            "etag": etag,
            "vary": vary,
            "where": place,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn volumes_have_their_figures() {
        let physical = PhysicalVolumeReport {
            path: PathBuf::from("/var/cache/sumun/a"),
            uuid: "u".to_owned(),
            state: "slow",
            problem: Some("a write took 6 s".to_owned()),
            extent_bytes: 1 << 20,
            extents: 100,
            free_extents: 20,
            read_errors: 1,
            slow_writes: 2,
            not_stored: 3,
        };
        let body = volumes(Some(StorageReport {
            group: "g".to_owned(),
            state: "open",
            problem: None,
            physical_volumes: vec![physical],
            volumes: vec![VolumeReport { name: "pages".to_owned(), bytes: 80 << 20, objects: 7 }],
        }));
        assert_eq!(body["group"], json!({ "id": "g", "state": "open", "problem": null }));
        assert_eq!(body["physical_volumes"][0]["path"], "/var/cache/sumun/a");
        assert_eq!(body["physical_volumes"][0]["not_stored"], 3);
        assert_eq!(body["volumes"], json!([{ "name": "pages", "bytes": 80 << 20, "objects": 7 }]));
        assert_eq!(volumes(None)["group"], Value::Null);
    }
}
