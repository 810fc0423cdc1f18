//! What operators ask the cache, and have it forget.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use sumun_config::checked::{Config, Name};
use sumun_http::cache::{Fields, Use, Validity};
use sumun_http::field::Field;
use sumun_http::{Method, ResponseHead, target};
use sumun_store::Key;

use super::purges::What;
use super::response::tag_of;
use super::rules::UrlRules;
use super::searches::path_of;
use super::{Cache, Content, Entry, Place, Purge, StorageReport, Stored};
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
    /// Answers that were read from disk into memory, the larger ones without their bodies.
    pub loaded: u64,
    /// Slices of large answers that were fetched.
    pub slices: u64,
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
        /// `memory`, `disk`, `memory and disk`; `slices`: those that were asked for.
        place: &'static str,
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
    pub async fn cache_get(&self, url: &str, headers: &[(String, String)]) -> Result<Vec<(String, Finding)>, String> {
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.cache.get(url, headers, now_s).await
    }

    /// Purges, hard or soft; whoever asks after this gets nothing of it any more, nor does anybody after a
    /// restart.
    ///
    /// # Errors
    /// That is no URL; or it holds for now, and could not be made durable.
    pub async fn cache_purge(&self, scope: &PurgeScope, is_soft: bool) -> Result<(), String> {
        self.cache.purge_by_operator(scope, is_soft).await
    }

    /// Opens, changes or closes the pool on disk as the config says, with the devices that are new; in the
    /// background. What goes wrong is logged and reported.
    pub fn store_on(&self, config: &Config, devices: Vec<(PathBuf, File)>) {
        self.cache.storage.follow(config.cache.group.clone(), devices);
    }

    /// Resolves once the pool is open, or cannot be opened.
    pub async fn storage_settled(&self) {
        self.cache.storage.settled().await;
    }

    /// Makes everything durable and lets go of the devices, so that another process may have them. Reading
    /// goes on.
    pub async fn leave_storage(&self) {
        self.cache.storage.leave().await;
    }

    /// Takes the devices back: the other process does not come.
    pub fn return_to_storage(&self) {
        self.cache.storage.go_back();
    }

    /// How the pool on disk is; `None`: the config has none.
    #[must_use]
    pub fn volumes(&self) -> Option<StorageReport> {
        self.cache.storage.report()
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
        let mut rules = Vec::new();
        for one in
            caches().map(|(listener, route, cache)| (UrlRules::of(&listener.name, route, cache), cache.volume.clone()))
        {
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
            loaded: counts.loaded.load(Relaxed),
            slices: counts.slices.load(Relaxed),
        }
    }

    /// The texts that keys of this URL are made of, and the keys.
    fn places_of(&self, url: &str) -> Result<Vec<(Place, Option<Name>)>, String> {
        let parts = parsed(url)?;
        let rules = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        let places = |(rules, volume): &(UrlRules, Option<Name>)| {
            let volume = volume.clone();
            self.places(rules, parts.text(rules)).map(move |place| (place, volume.clone())).collect::<Vec<_>>()
        };
        Ok(rules.iter().flat_map(places).collect())
    }

    fn note_change_of(&self, url: &str) -> Result<(), String> {
        let parts = parsed(url)?;
        for (rules, _) in &*self.urls.lock().unwrap_or_else(PoisonError::into_inner) {
            self.searches.note_change(self.key(path_of(&parts.text(rules))));
        }
        Ok(())
    }

    /// What begins so. Where the server has said what of queries counts, those of the path are written in another
    /// way than they were asked for: all of them are meant by a prefix that has one.
    fn of_prefix(&self, prefix: &str) -> Result<Vec<What>, String> {
        let parts = parsed(prefix)?;
        let rules = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        let whats = |(rules, _): &(UrlRules, Option<Name>)| {
            let text = parts.text(rules);
            let path = path_of(&text);
            if path.len() == text.len() || self.cut(rules, &text).is_none() {
                return vec![What::Prefix(text.into())];
            }
            vec![What::Url(self.key(path)), What::Prefix([path, b"?"].concat().into())]
        };
        Ok(rules.iter().flat_map(whats).collect())
    }

    async fn get(&self, url: &str, headers: &[(String, String)], now_s: u64) -> Result<Vec<(String, Finding)>, String> {
        let (bytes, fields) = request_of(headers)?;
        let request = Fields { bytes: &bytes, fields: &fields };
        let mut found = Vec::new();
        for (place, volume) in self.places_of(url)? {
            let finding = self.look(&place, volume.as_ref(), now_s, request).await;
            found.push((String::from_utf8_lossy(&place.text).into_owned(), finding));
        }
        Ok(found)
    }

    async fn look(&self, place: &Place, volume: Option<&Name>, now_s: u64, request: Fields<'_>) -> Finding {
        let url = self.peek(volume, place.key).await;
        let Some(Entry::Index(index)) = url.as_deref() else {
            return url
                .map_or_else(|| self.arriving(place.key), |entry| self.describe(volume, place.key, &entry, now_s));
        };
        let mut selection = Vec::new();
        sumun_http::cache::vary::write_selection(request, &index.names, &mut selection);
        let key = self.variant_key(place.key, index, &selection);
        match self.peek(volume, key).await {
            Some(entry) => self.describe(volume, key, &entry, now_s),
            None if self.arriving(key) == Finding::Arriving => Finding::Arriving,
            None => Finding::Varies { names: String::from_utf8_lossy(&index.names).into_owned() },
        }
    }

    /// Memory's entry, or disk's.
    async fn peek(&self, volume: Option<&Name>, key: Key) -> Option<Arc<Entry>> {
        match (self.memory.peek(key), volume) {
            (None, Some(volume)) => self.load(volume, key).await,
            (entry, _) => entry,
        }
    }

    fn arriving(&self, key: Key) -> Finding {
        if self.fills(key).contains_key(&key) { Finding::Arriving } else { Finding::Nothing }
    }

    fn describe(&self, volume: Option<&Name>, key: Key, entry: &Entry, now_s: u64) -> Finding {
        let is_on_disk = self.volume(volume).is_some_and(|volume| volume.find(key).is_some());
        match entry {
            Entry::Pass(pass) if pass.until_s > now_s => Finding::Passed { why: pass.why.as_str() },
            Entry::Pass(_) | Entry::Index(_) | Entry::Slice(_) | Entry::Whole { .. } => Finding::Nothing,
            Entry::Stored(stored) => match self.judge(stored) {
                (Purge::Hard, _) => Finding::Nothing,
                (purge, _) => described(stored, is_on_disk, purge == Purge::Soft, now_s),
            },
        }
    }

    async fn purge_by_operator(&self, scope: &PurgeScope, is_soft: bool) -> Result<(), String> {
        match scope {
            PurgeScope::Url(url) => {
                // All of them, whether or not the first is durable.
                let mut purged = Ok(());
                // What is on its way is not cut after we have looked where it is.
                self.note_change_of(url)?;
                for (Place { text, key }, _) in self.places_of(url)? {
                    let one = self.storage.purge(is_soft, What::Url(self.key(&text))).await;
                    if is_soft {
                        self.searches.note_change(self.key(path_of(&text)));
                    } else {
                        self.invalidate(key, &text);
                    }
                    purged = purged.and(one);
                }
                purged
            }
            PurgeScope::Prefix(prefix) => {
                let mut purged = Ok(());
                // What is on its way may turn out to be cut so that a prefix with a query is not seen to be about it:
                // before we look, and after the last one, for that may take its time.
                self.note_change_of(prefix)?;
                for what in self.of_prefix(prefix)? {
                    purged = purged.and(self.storage.purge(is_soft, what).await);
                }
                self.note_change_of(prefix)?;
                purged
            }
            PurgeScope::Tag(tag) => self.storage.purge(is_soft, What::Tag(tag_of(tag.as_bytes()))).await,
            PurgeScope::All => self.storage.purge(is_soft, What::All).await,
        }
    }
}

fn described(stored: &Stored, is_on_disk: bool, is_purged: bool, now_s: u64) -> Finding {
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
        status: stored.head().status,
        age_s: validity.age_s(now_s),
        ttl_s: validity.ttl_s(now_s),
        bytes: stored.length(),
        place: match stored.content() {
            Content::Disk(_) => "disk",
            Content::Slices(_) => "slices",
            Content::Small(_) | Content::Pieces(_) | Content::Pages(_) if is_on_disk => "memory and disk",
            Content::Small(_) | Content::Pieces(_) | Content::Pages(_) => "memory",
        },
        state,
        etag: text(stored.head().etag()),
        vary: text(stored.vary()),
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

fn parsed(url: &str) -> Result<Parts<'_>, String> {
    parts_of(url).ok_or_else(|| format!("{url} is no URL such as https://www.example.com/path"))
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
