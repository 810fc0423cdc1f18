//! Which path is answered by whom.

use std::borrow::Cow;

use sumun_engine::telemetry;
use sumun_http::Method;

use crate::respond::Response;
use crate::serve::Request;
use crate::{Shared, api, guard, metrics};

/// What a path means; names are percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place<'a> {
    Page,
    Script,
    Style,
    Healthy,
    Ready,
    Metrics,
    Status,
    Routes,
    Pools,
    Pool(Cow<'a, str>),
    Servers(Cow<'a, str>),
    Server(Cow<'a, str>, Cow<'a, str>),
    Traffic,
    Blocks,
    Block(Cow<'a, str>),
    Cache,
    CacheGet,
    CachePurge,
    Volumes,
    Reload,
    Upgrade,
}

/// Methods of a place, as `Allow` lists them.
const READ: &str = "GET, HEAD";
const POST: &str = "POST";
const CHANGE: &str = "PATCH, DELETE";
const DELETE: &str = "DELETE";

/// Answers one request.
pub(crate) async fn answer(shared: &Shared, door: &guard::Door, request: &Request<'_>) -> Response {
    let place = find(request.head.path.of_bytes(request.bytes));
    let is_public = matches!(place, Ok(Place::Page | Place::Script | Place::Style | Place::Healthy | Place::Ready));
    if let Err(refused) = guard::check(door, request, is_public) {
        return refused;
    }
    let place = match place {
        Ok(place) => place,
        Err(response) => return response,
    };
    let allow = place.methods();
    if !allow.split(", ").any(|method| method == request.head.method.as_str()) {
        return Response::error(405, &format!("only {allow} here")).with("Allow", allow);
    }
    let changes_servers = matches!(place, Place::Servers(_) | Place::Server(..));
    if changes_servers && shared.is_handing_over() {
        // RFC 9110 section 10.2.3. What was changed here now would be lost.
        return Response::error(503, "another process takes over: ask again").with("Retry-After", "1");
    }
    match place {
        Place::Page => shared.pages.page(request),
        Place::Script => shared.pages.script(),
        Place::Style => shared.pages.style(),
        Place::Healthy => Response::text("ok\n"),
        Place::Ready if shared.is_draining() => Response::text("draining\n").with_status(503),
        Place::Ready => Response::text("ready\n"),
        Place::Metrics => Response::new(telemetry::TEXT_FORMAT, telemetry::render(&metrics::all(shared))),
        Place::Status => Response::json(&api::status::status(shared)),
        Place::Routes => Response::json(&api::status::routes(shared)),
        Place::Pools => api::pools::list(&shared.inputs.pools),
        Place::Pool(pool) => api::pools::one(&shared.inputs.pools, &pool),
        Place::Servers(pool) => api::pools::add(&shared.inputs.pools, &pool, request),
        Place::Server(pool, server) if request.head.method == Method::Delete => {
            api::pools::remove(&shared.inputs.pools, &pool, &server)
        }
        Place::Server(pool, server) => api::pools::change(&shared.inputs.pools, &pool, &server, request),
        Place::Traffic => api::traffic::traffic(shared).await,
        Place::Blocks => Response::json(&api::traffic::blocks(shared)),
        Place::Block(client) => api::traffic::lift(shared, &client),
        Place::Cache => api::cache::report(shared).await,
        Place::CacheGet => api::cache::get(shared, request).await,
        Place::CachePurge => api::cache::purge(shared, request).await,
        Place::Volumes => api::cache::volumes(shared).await,
        Place::Reload => api::reload::reload(shared).await,
        Place::Upgrade => api::reload::upgrade(shared).await,
    }
}

impl Place<'_> {
    fn methods(&self) -> &'static str {
        match self {
            Self::Servers(_) | Self::Reload | Self::Upgrade | Self::CacheGet | Self::CachePurge => POST,
            Self::Server(..) => CHANGE,
            Self::Block(_) => DELETE,
            _ => READ,
        }
    }
}

fn find(path: &[u8]) -> Result<Place<'_>, Response> {
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let name = |segment| {
        decode(segment).ok_or_else(|| Response::error(400, "a name in the path is not percent-encoded UTF-8"))
    };
    Ok(match segments.as_slice() {
        [b"", b""] => Place::Page,
        [b"", b"app.js"] => Place::Script,
        [b"", b"app.css"] => Place::Style,
        [b"", b"healthz"] => Place::Healthy,
        [b"", b"readyz"] => Place::Ready,
        [b"", b"metrics"] => Place::Metrics,
        [b"", b"api", b"v1", rest @ ..] => match rest {
            [b"status"] => Place::Status,
            [b"routes"] => Place::Routes,
            [b"traffic"] => Place::Traffic,
            [b"blocks"] => Place::Blocks,
            [b"blocks", client] if !client.is_empty() => Place::Block(name(client)?),
            [b"cache"] => Place::Cache,
            [b"cache", b"get"] => Place::CacheGet,
            [b"cache", b"purge"] => Place::CachePurge,
            [b"volumes"] => Place::Volumes,
            [b"reload"] => Place::Reload,
            [b"upgrade"] => Place::Upgrade,
            [b"pools"] => Place::Pools,
            [b"pools", pool] if !pool.is_empty() => Place::Pool(name(pool)?),
            [b"pools", pool, b"servers"] => Place::Servers(name(pool)?),
            [b"pools", pool, b"servers", server] if !server.is_empty() => Place::Server(name(pool)?, name(server)?),
            _ => return Err(nothing_here()),
        },
        _ => return Err(nothing_here()),
    })
}

fn nothing_here() -> Response {
    Response::error(404, "there is nothing here")
}

/// RFC 3986 section 2.1; `None` for a `%` without two digits, and for what is not UTF-8.
fn decode(segment: &[u8]) -> Option<Cow<'_, str>> {
    if !segment.contains(&b'%') {
        return std::str::from_utf8(segment).ok().map(Cow::Borrowed);
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
            rest = behind;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let found =
            |path: &str| find(path.as_bytes()).map_err(|response| response.status).map(|place| format!("{place:?}"));
        assert_eq!(found("/"), Ok("Page".into()));
        assert_eq!(found("/api/v1/pools/a%20b/servers"), Ok("Servers(\"a b\")".into()));
        assert_eq!(found("/api/v1/pools/a%2Fb/servers/%5B%3A%3A1%5D%3A80"), Ok("Server(\"a/b\", \"[::1]:80\")".into()));
        assert_eq!(found("/api/v1/blocks/2001:db8::%2F64"), Ok("Block(\"2001:db8::/64\")".into()));
        assert_eq!(found("/api/v1/pools/%EC%95%B1"), Ok("Pool(\"앱\")".into()));
        for path in [
            "",
            "//",
            "/index.html",
            "/api",
            "/api/v1/pools/",
            "/api/v1/pools/a/servers/",
            "/api/v1/pools/a/servers/b/c",
            "/%61pp.js",
        ] {
            assert_eq!(found(path), Err(404), "{path}");
        }
        for path in
            ["/api/v1/pools/%", "/api/v1/pools/%2", "/api/v1/pools/%zz", "/api/v1/pools/%ff", "/api/v1/pools/%+1"]
        {
            assert_eq!(found(path), Err(400), "{path}");
        }
    }
}
