//! What routes cache.

use std::time::Duration;

use super::{Lower, Section, size_text};
use crate::checked::{CacheBypass, CacheKey, CacheQuery, CookieMatch, RouteCache, ValueMatch};
use crate::limits;
use crate::values::{self, http};

impl Lower<'_> {
    pub(super) fn route_cache(&mut self, route: Section<'_>) -> Option<RouteCache> {
        let node = route.given("cache")?;
        let cache = route.section("cache");
        if let Some(other) = ["files", "redirect", "respond"].into_iter().find(|key| route.given(key).is_some()) {
            let message = format!("`cache` on a route with `{other}`");
            self.error(node.place, message, "it keeps answers of servers: only a route with `proxy` has one");
        }
        let names = |section: Section<'_>, key: &str| -> Vec<String> {
            section.texts(key).into_iter().map(|(_, text)| text.to_owned()).collect()
        };
        let parts = names(cache, "key");
        let has = |part: &str| parts.is_empty() || parts.iter().any(|given| given == part);
        let key = CacheKey { host: has("host"), path: has("path"), query: has("query") };
        let query = cache.section("query");
        if let Some(node) = cache.given("query").filter(|_| !key.query) {
            self.error(
                node.place,
                "`query` says which parameters count, and `key` says that none does",
                "leave one out",
            );
        }
        if let Some(node) = cache.given("key").filter(|_| !key.path) {
            self.error(node.place, "without `path` every page would be the same one", "add `path` to the key");
        }
        if let Some(node) = query.given("except").filter(|_| query.given("only").is_some()) {
            self.error(node.place, "`except` beside `only`", "`only` leaves out all others already");
        }
        let bypass = cache.section("bypass");
        let volume = self.volume_of_route(node);
        Some(RouteCache {
            ttl: span(cache, "ttl"),
            default_ttl: span(cache, "default_ttl"),
            heuristic: cache.switch("heuristic"),
            negative_ttl: span(cache, "negative_ttl"),
            negative_most: span(cache, "negative_most"),
            stale_while_revalidate: span(cache, "stale_while_revalidate"),
            stale_if_error: span(cache, "stale_if_error"),
            key,
            query: CacheQuery {
                sort: query.switch("sort"),
                only: query.given("only").map(|_| names(query, "only")),
                except: query.given("except").map(|_| names(query, "except")),
            },
            bypass: CacheBypass {
                cookies: bypass.texts("cookie").into_iter().filter_map(|(_, text)| cookie(text)).collect(),
                headers: names(bypass, "header").into_iter().map(|name| name.to_ascii_lowercase()).collect(),
            },
            drops_cookies: cache.switch("drop_cookies"),
            drops_set_cookie: cache.switch("drop_set_cookie"),
            tags: cache.text("tags").map(str::to_ascii_lowercase),
            slice: self.slice(cache, volume.is_none()),
            volume,
        })
    }

    fn slice(&mut self, cache: Section<'_>, is_in_memory: bool) -> Option<u64> {
        let node = cache.given("slice")?;
        let bytes = values::size(cache.text("slice")?).ok()?;
        if !limits::SLICE_BYTES.contains(&bytes) {
            self.error(node.place, "a slice has from 64KiB to 64MiB", "4MiB suits most");
        } else if is_in_memory && bytes > self.cache_memory / limits::SLICE_MEMORY_PART {
            let most = size_text(self.cache_memory / limits::SLICE_MEMORY_PART);
            let message = format!("a slice in memory has at most {most}, a sixty-fourth of it");
            self.error(node.place, message, "make it smaller, or `memory` larger, or keep slices on a volume");
        }
        Some(bytes)
    }
}

fn span(section: Section<'_>, key: &str) -> Option<Duration> {
    section.text(key).and_then(|text| values::duration(text).ok())
}

/// A name, or a pattern of names.
fn cookie(text: &str) -> Option<CookieMatch> {
    match http::field_match(text).ok()? {
        ValueMatch::Regex(pattern) => Some(CookieMatch::Regex(pattern)),
        _ => Some(CookieMatch::Exact(text.to_owned())),
    }
}
