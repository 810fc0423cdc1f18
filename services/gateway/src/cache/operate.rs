//! What operators ask the cache, and have it forget.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use sumun_config::checked::Config;
use sumun_http::cache::{Fields, Use, Validity};
use sumun_http::field::Field;
use sumun_http::{Method, ResponseHead, target};
use sumun_store::Key;

use super::rules::UrlRules;
use super::{Cache, Entry, Purge, Scope, Stored};
use crate::control::Gateway;

/// How the cache stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheReport {
    /// Bytes that answers may take, and do.
    pub room: u64,
    pub bytes: u64,
    pub entries: u64,
    /// Those that had to go for others, since the start; so are all below.
    pub evicted: u64,
    /// Requests that were answered with what was stored and fresh, and stale.
    pub hits: u64,
    pub stale_hits: u64,
    /// Requests that fetched an answer for the cache, and that waited for such a one.
    pub misses: u64,
    pub collapsed: u64,
    /// Requests that went past.
    pub passes: u64,
    /// Answers that servers said are still right.
    pub revalidated: u64,
    /// Answers that were stored.
    pub stored: u64,
}

/// What is there for a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Nothing,
    /// It is being fetched.
    Arriving,
    /// The last answer was not for everybody, and why.
    Passed {
        why: &'static str,
    },
    /// Answers differ by these fields of requests, and there is none for those that were given.
    Varies {
        names: String,
    },
    Stored {
        status: u16,
        age_s: u64,
        /// Negative: stale for so long.
        ttl_s: i64,
        bytes: u64,
        /// `fresh`, `stale-while-revalidate` or `stale`.
        state: &'static str,
        etag: String,
        /// The names in `Vary`.
        vary: String,
    },
}

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    Url(String),
    /// URLs that begin so.
    Prefix(String),
    /// Answers that servers gave this tag.
    Tag(String),
    All,
}

impl Gateway {
    #[must_use]
    pub fn cache_report(&self) -> CacheReport {
        self.cache.report()
    }

    /// What is there for a URL, for each way in which routes make keys of one: the text that its key is made
    /// of, and what was found. `headers` are those of the request that would ask.
    ///
    /// # Errors
    /// That is no URL, or no header field.
    pub fn cache_get(&self, url: &str, headers: &[(String, String)]) -> Result<Vec<(String, Finding)>, String> {
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.cache.get(url, headers, now_s)
    }

    /// Purges, hard or soft; whoever asks after this gets nothing of it any more.
    ///
    /// # Errors
    /// That is no URL.
    pub fn cache_purge(&self, scope: &PurgeScope, is_soft: bool) -> Result<(), String> {
        self.cache.purge_by_operator(scope, is_soft)
    }
}

impl Cache {
    /// Takes over what a config says.
    pub(crate) fn follow(&self, config: &Config) {
        let caches = || {
            let routes = config
                .listeners
                .values()
                .flat_map(|listener| listener.routes.iter().map(move |route| (listener, route)));
            routes.filter_map(|(listener, route)| Some((listener, route, route.cache.as_ref()?)))
        };
        self.resize(if caches().next().is_some() { config.cache.memory } else { 0 });
        let mut rules: Vec<UrlRules> = Vec::new();
        for one in caches().map(|(listener, route, cache)| UrlRules::of(&listener.name, route, cache)) {
            if !rules.contains(&one) {
                rules.push(one);
            }
        }
        *self.urls.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    pub(crate) fn report(&self) -> CacheReport {
        let usage = self.memory.usage();
        let counts = &self.counts;
        CacheReport {
            room: self.room.load(Relaxed),
            bytes: usage.bytes,
            entries: usage.entries,
            evicted: usage.evicted,
            hits: counts.hits.load(Relaxed),
            stale_hits: counts.stale_hits.load(Relaxed),
            misses: counts.misses.load(Relaxed),
            collapsed: counts.collapsed.load(Relaxed),
            passes: counts.passes.load(Relaxed),
            revalidated: counts.revalidated.load(Relaxed),
            stored: counts.stored.load(Relaxed),
        }
    }

    /// The texts that keys of this URL are made of, and the keys.
    fn texts(&self, url: &str) -> Result<Vec<(Vec<u8>, Key)>, String> {
        let parts = parts_of(url).ok_or_else(|| format!("{url} is no URL such as https://www.example.com/path"))?;
        let rules = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        let with_key = |rules: &UrlRules| {
            let text = parts.text(rules);
            let key = rules.key(self, &text);
            (text, key)
        };
        Ok(rules.iter().map(with_key).collect())
    }

    fn get(&self, url: &str, headers: &[(String, String)], now_s: u64) -> Result<Vec<(String, Finding)>, String> {
        let (bytes, fields) = request_of(headers)?;
        let request = Fields { bytes: &bytes, fields: &fields };
        let found = self.texts(url)?.into_iter().map(|(text, key)| {
            let finding = self.look(key, now_s, request);
            (String::from_utf8_lossy(&text).into_owned(), finding)
        });
        Ok(found.collect())
    }

    fn look(&self, url: Key, now_s: u64, request: Fields<'_>) -> Finding {
        let arriving = |key| if self.fills(key).contains_key(&key) { Finding::Arriving } else { Finding::Nothing };
        match self.memory.peek(url).as_deref() {
            None => arriving(url),
            Some(Entry::Index(index)) => {
                let mut selection = Vec::new();
                sumun_http::cache::vary::write_selection(request, &index.names, &mut selection);
                let key = self.variant_key(url, index, &selection);
                match self.memory.peek(key).as_deref() {
                    Some(entry) => self.describe(entry, now_s),
                    None if arriving(key) == Finding::Arriving => Finding::Arriving,
                    None => Finding::Varies { names: String::from_utf8_lossy(&index.names).into_owned() },
                }
            }
            Some(entry) => self.describe(entry, now_s),
        }
    }

    fn describe(&self, entry: &Entry, now_s: u64) -> Finding {
        match entry {
            Entry::Pass(pass) if pass.until_s > now_s => Finding::Passed { why: pass.why.as_str() },
            Entry::Pass(_) | Entry::Index(_) => Finding::Nothing,
            Entry::Stored(stored) => match self.judge(stored) {
                (Purge::Hard, _) => Finding::Nothing,
                (purge, _) => described(stored, purge == Purge::Soft, now_s),
            },
        }
    }

    fn purge_by_operator(&self, scope: &PurgeScope, is_soft: bool) -> Result<(), String> {
        match scope {
            PurgeScope::Url(url) => {
                for (text, key) in self.texts(url)? {
                    self.purge(&Scope::Url(text), is_soft);
                    if !is_soft {
                        self.invalidate(key);
                    }
                }
            }
            PurgeScope::Prefix(prefix) => {
                for (text, _) in self.texts(prefix)? {
                    self.purge(&Scope::Prefix(text), is_soft);
                }
            }
            PurgeScope::Tag(tag) => self.purge(&Scope::Tag(tag.as_bytes().to_vec()), is_soft),
            PurgeScope::All => self.purge(&Scope::All, is_soft),
        }
        Ok(())
    }
}

fn described(stored: &Stored, is_purged: bool, now_s: u64) -> Finding {
    let mut validity: Validity = stored.validity;
    if is_purged {
        validity.expire(now_s);
    }
    let state = match validity.use_now(now_s) {
        Use::Fresh => "fresh",
        Use::WhileRevalidating => "stale-while-revalidate",
        Use::Revalidate => "stale",
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finding::Stored {
        status: stored.response.status,
        age_s: validity.age_s(now_s),
        ttl_s: validity.ttl_s(now_s),
        bytes: stored.length,
        state,
        etag: text(stored.response.etag()),
        vary: text(&stored.response.vary),
    }
}

/// A URL, taken apart and normalised as a request's would be.
struct Parts<'a> {
    scheme: String,
    host: &'a [u8],
    path: Vec<u8>,
    query: Option<&'a [u8]>,
}

impl Parts<'_> {
    fn text(&self, rules: &UrlRules) -> Vec<u8> {
        let mut text = Vec::new();
        rules.write(self.scheme.as_bytes(), self.host, &self.path, self.query, &mut text);
        text
    }
}

fn parts_of(url: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.split('#').next().unwrap_or_default();
    let is_url = matches!(scheme.as_str(), "http" | "https") && rest.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_url {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, behind) = rest.split_at(end);
    let (path, query) = match behind.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (behind, None),
    };
    let path = if path.is_empty() { b"/".to_vec() } else { target::normalize(path.as_bytes()).into_owned() };
    Some(Parts { scheme, host: host.as_bytes(), path, query })
}

/// Header fields as those of a request.
fn request_of(headers: &[(String, String)]) -> Result<(Vec<u8>, Vec<Field>), String> {
    let mut bytes = b"HTTP/1.1 200 \r\n".to_vec();
    for (name, value) in headers {
        super::response::write_line(name.as_bytes(), value.as_bytes(), &mut bytes);
    }
    bytes.extend_from_slice(b"\r\n");
    let mut head = ResponseHead::default();
    // Any head will do: it is the fields that are wanted.
    match head.parse(&bytes, Method::Head) {
        Ok(Some(length)) if length == bytes.len() => Ok((bytes, head.fields)),
        _ => Err("that is no header field".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_requests_are() {
        let rules = UrlRules::default();
        let text = |url: &str| parts_of(url).map(|parts| String::from_utf8(parts.text(&rules)).unwrap());
        assert_eq!(text("HTTP://A.example:81/x/../%7ey?b#c").as_deref(), Some("http://a.example:81/~y?b"));
        assert_eq!(text("https://a").as_deref(), Some("https://a/"));
        assert_eq!(text("https://a?b").as_deref(), Some("https://a/?b"));
        for wrong in ["", "/a", "a.example/", "ftp://a/", "http://a/ b", "http://a/\u{e9}"] {
            assert!(parts_of(wrong).is_none(), "{wrong}");
        }
    }
}
