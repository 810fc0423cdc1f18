//! What is in the cache, and purges.

use serde_json::{Map, Value};

use super::pools::{bad, object, only};
use crate::respond::Response;
use crate::serve::Request;
use crate::{CacheCommand, CacheScope, Shared};

/// `GET /api/v1/cache`
pub(crate) async fn report(shared: &Shared) -> Response {
    answer(shared, CacheCommand::Report).await
}

/// `GET /api/v1/volumes`
pub(crate) async fn volumes(shared: &Shared) -> Response {
    answer(shared, CacheCommand::Volumes).await
}

/// `POST /api/v1/cache/get`: `{"url": "https://…", "headers": {"Accept-Encoding": "gzip"}}`
pub(crate) async fn get(shared: &Shared, request: &Request<'_>) -> Response {
    match read_get(request) {
        Ok(command) => answer(shared, command).await,
        Err(response) => response,
    }
}

/// `POST /api/v1/cache/purge`: one of `url`, `prefix`, `tag` and `"all": true`, and `"soft": true`.
pub(crate) async fn purge(shared: &Shared, request: &Request<'_>) -> Response {
    match read_purge(request) {
        Ok(command) => answer(shared, command).await,
        Err(response) => response,
    }
}

async fn answer(shared: &Shared, command: CacheCommand) -> Response {
    match (shared.inputs.cache)(command).await {
        Ok(body) => Response::json(&body),
        Err(why) => bad(&why),
    }
}

fn read_get(request: &Request<'_>) -> Result<CacheCommand, Response> {
    let body = object(request)?;
    only(&body, &["url", "headers"])?;
    let url = text(&body, "url")?.ok_or_else(|| bad("`url` is missing"))?;
    let headers = match body.get("headers") {
        None => Vec::new(),
        Some(Value::Object(fields)) => {
            let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
            fields.iter().map(pair).collect::<Option<_>>().ok_or_else(|| bad("a value in `headers` is no text"))?
        }
        Some(_) => return Err(bad("`headers` is not an object")),
    };
    Ok(CacheCommand::Get { url, headers })
}

fn read_purge(request: &Request<'_>) -> Result<CacheCommand, Response> {
    let body = object(request)?;
    only(&body, &["url", "prefix", "tag", "all", "soft"])?;
    let flag = |key: &str| match body.get(key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(bad(&format!("`{key}` is not true or false"))),
    };
    let all = flag("all")?.then_some(CacheScope::All);
    let scopes = [
        text(&body, "url")?.map(CacheScope::Url),
        text(&body, "prefix")?.map(CacheScope::Prefix),
        text(&body, "tag")?.map(CacheScope::Tag),
        all,
    ];
    let mut scopes = scopes.into_iter().flatten();
    let (Some(scope), None) = (scopes.next(), scopes.next()) else {
        return Err(bad("exactly one of `url`, `prefix`, `tag` and `all` is purged"));
    };
    Ok(CacheCommand::Purge { scope, is_soft: flag("soft")? })
}

fn text(body: &Map<String, Value>, key: &str) -> Result<Option<String>, Response> {
    match body.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(bad(&format!("`{key}` is no text"))),
    }
}
