//! What is in the cache, and purges.

use serde_json::{Value, json};

use super::Fixture;
use crate::{CacheCommand, CacheScope};

pub(super) fn cache(command: CacheCommand) -> Result<Value, String> {
    match command {
        CacheCommand::Report => Ok(json!({ "entries": 3 })),
        CacheCommand::Volumes => Ok(json!({ "group": null })),
        CacheCommand::Get { url, headers } if url == "http://a/" => Ok(json!(headers.len())),
        CacheCommand::Get { url, .. } => Err(format!("{url} is no URL")),
        CacheCommand::Purge { scope, is_soft } => Ok(json!({ "purged": format!("{scope:?}"), "soft": is_soft })),
    }
}

#[tokio::test]
async fn the_cache_is_asked_and_purged() {
    let fixture = Fixture::new(None);
    assert_eq!(fixture.get("/api/v1/cache").await.json()["entries"], 3);
    assert_eq!(fixture.get("/api/v1/volumes").await.json(), json!({ "group": null }));
    assert_eq!(fixture.send("POST", "/api/v1/volumes", "{}").await.status, 405);
    let get = async |body: &str| fixture.send("POST", "/api/v1/cache/get", body).await;
    assert_eq!(get(r#"{"url": "http://a/", "headers": {"Accept": "b"}}"#).await.json(), 1);
    for wrong in [
        r#"{"url": "c"}"#,
        "{}",
        r#"{"url": "http://a/", "headers": {"a": 1}}"#,
        r#"{"url": "http://a/", "x": 1}"#,
        "[",
    ] {
        assert_eq!(get(wrong).await.status, 400, "{wrong}");
    }
    let purge = async |body: &str| fixture.send("POST", "/api/v1/cache/purge", body).await;
    let soft = purge(r#"{"tag": "news", "soft": true}"#).await.json();
    assert_eq!(
        (&soft["purged"], &soft["soft"]),
        (&json!(format!("{:?}", CacheScope::Tag("news".into()))), &json!(true))
    );
    assert_eq!(purge(r#"{"all": true}"#).await.json()["purged"], "All");
    for wrong in
        ["{}", r#"{"all": false}"#, r#"{"all": 1}"#, r#"{"url": "", "all": true}"#, r#"{"tag": "a", "prefix": "b"}"#]
    {
        assert_eq!(purge(wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(fixture.get("/api/v1/cache/purge").await.field("Allow"), Some("POST"));
}
