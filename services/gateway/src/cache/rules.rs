//! What a route caches, as one worker sees it.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use sumun_config::checked::{CacheKey, CookieMatch, Name, Route, RouteCache};
use sumun_http::cache::Rules;
use sumun_http::cache::query::{Names, QueryRules};
use sumun_store::Key;

use super::Cache;

/// A route's rules, and the cache that they are for.
#[derive(Debug)]
pub(crate) struct Caching {
    pub(crate) cache: Arc<Cache>,
    pub(crate) rules: Rules,
    pub(crate) urls: UrlRules,
    pub(crate) drops_cookies: bool,
    /// Where on disk; `None`: in memory alone.
    pub(crate) volume: Option<Name>,
    /// Bytes of the slices in which it fetches what is large.
    pub(crate) slice: Option<u64>,
    /// In lower case.
    pub(crate) tags: Option<Box<str>>,
    /// In lower case.
    own_names: Vec<String>,
    bypass_cookies: Vec<CookieMatch>,
    pub(crate) bypass_headers: Vec<String>,
}

impl Caching {
    /// `own_names`: fields of requests that the gateway writes, besides those of forwarding.
    pub(crate) fn new(
        cache: &Arc<Cache>,
        (listener, route): (&Name, &Route),
        config: &RouteCache,
        own_names: impl Iterator<Item = String>,
    ) -> Self {
        Self {
            cache: Arc::clone(cache),
            rules: Rules {
                ttl: config.ttl.map(seconds),
                default_ttl: config.default_ttl.map(seconds),
                negative_ttl: config.negative_ttl.map(seconds),
                negative_most: config.negative_most.map(seconds),
                stale_while_revalidate: config.stale_while_revalidate.map(seconds),
                stale_if_error: config.stale_if_error.map(seconds),
                is_heuristic: config.heuristic,
                stores_set_cookie: config.drops_set_cookie,
            },
            urls: UrlRules::of(listener, route, config),
            own_names: own_names.map(|name| name.to_ascii_lowercase()).collect(),
            drops_cookies: config.drops_cookies,
            volume: config.volume.clone(),
            slice: config.slice,
            tags: config.tags.as_deref().map(Box::from),
            bypass_cookies: config.bypass.cookies.clone(),
            bypass_headers: config.bypass.headers.clone(),
        }
    }

    /// The server tells requests apart by what is not the client's to say and in no key, such as its address or
    /// who it has proved to be: what is stored could be for anybody.
    pub(crate) fn varies_by_own(&self, names: &[u8]) -> bool {
        const FORWARDING: [&[u8]; 5] = [b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via", b"x-forwarded-port"];
        names
            .split(|&byte| byte == b',')
            .any(|name| FORWARDING.contains(&name) || self.own_names.iter().any(|own| own.as_bytes() == name))
    }

    /// There are cookies whose bearers go past the cache.
    pub(crate) fn looks_at_cookies(&self) -> bool {
        !self.bypass_cookies.is_empty()
    }

    /// Whoever has a cookie of this name goes past the cache.
    pub(crate) fn passes_cookie(&self, name: &[u8]) -> bool {
        self.bypass_cookies.iter().any(|cookie| match cookie {
            CookieMatch::Exact(text) => name == text.as_bytes(),
            CookieMatch::Regex(pattern) => std::str::from_utf8(name).is_ok_and(|name| pattern.0.is_match(name)),
        })
    }
}

/// What tells answers apart: whose they are, and what of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlRules {
    /// The route, as far as what it answers hangs on it: another one, or this one behind another listener
    /// with other guards, has answers of its own.
    scope: u64,
    key: CacheKey,
    query: QueryRules,
}

impl Default for UrlRules {
    fn default() -> Self {
        Self { scope: 0, key: CacheKey { host: true, path: true, query: true }, query: QueryRules::default() }
    }
}

impl UrlRules {
    pub(crate) fn of(listener: &Name, route: &Route, config: &RouteCache) -> Self {
        let mut hasher = SipHasher13::new();
        // Numbers or a bound changed in the config leave what is stored alone.
        let conditions = (&route.hosts, &route.path, &route.methods, &route.headers, &route.query);
        let asked = (&route.action, route.strip_prefix, &route.rewrite, &route.request_headers);
        let guards = (&route.access, &route.basic_auth, &route.forward_auth);
        hasher.write(format!("{:?}", (listener, &route.name, conditions, asked, guards)).as_bytes());
        Self { scope: hasher.finish(), key: config.key, query: query_rules(config) }
    }

    /// The key of a URL whose text was written by these rules.
    pub(crate) fn key(&self, cache: &Cache, text: &[u8]) -> Key {
        cache.key_in(self.scope, text)
    }

    /// Appends the text that a URL's key is made of. `path` is normalised; `host` as the client wrote it.
    pub(crate) fn write(&self, scheme: &[u8], host: &[u8], path: &[u8], query: Option<&[u8]>, out: &mut Vec<u8>) {
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        if self.key.host {
            out.extend(host.iter().map(u8::to_ascii_lowercase));
        }
        out.extend_from_slice(path);
        self.write_query(query, out);
    }

    /// Appends what counts of a query, with its question mark.
    pub(crate) fn write_query(&self, query: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(query) = query.filter(|_| self.key.query) {
            self.query.write(query, out);
        }
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn query_rules(config: &RouteCache) -> QueryRules {
    let names = |names: &[String]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
    let names = match (&config.query.only, &config.query.except) {
        (Some(only), _) => Names::Only(names(only)),
        (None, Some(except)) => Names::AllBut(names(except)),
        (None, None) => Names::All,
    };
    QueryRules { ignores_order: config.query.sort, names }
}
