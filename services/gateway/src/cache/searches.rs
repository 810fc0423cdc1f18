//! What servers say of queries in `No-Vary-Search` (draft-ietf-httpbis-no-vary-search): by the path, so that a
//! request for another query finds the answer before it is known which one that is.
//!
//! The word of the last good answer holds for a path. What is stored by a word is found by that word alone: its
//! key has the word's number in it. What was stored without one lies under the URL as it was asked for. A word
//! that is forgotten, as all are at the end of the process, takes what was stored by it along: what purges and
//! changes make invalid meanwhile, they could not find.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use sumun_http::cache::Fields;
use sumun_http::cache::query::{Names, QueryRules};
use sumun_store::Key;

use super::rules::UrlRules;
use super::{Cache, Response};
use crate::http2::text;
use crate::limits::{CACHE_SEARCH_BYTES, CACHE_SEARCH_NAMES, CACHE_SEARCHES};

/// What a key is made of, and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) text: Vec<u8>,
    pub(crate) key: Key,
}

/// By the key of a URL without its query.
#[derive(Debug, Default)]
pub(super) struct Searches {
    /// Else nobody has to look.
    is_used: AtomicBool,
    paths: RwLock<HashMap<Key, Search>>,
    /// How often something of a path was made invalid; some paths share one.
    changes: [AtomicU64; CHANGES],
}

const CHANGES: usize = 32;

impl Searches {
    pub(super) fn note_change(&self, path: Key) {
        self.changes[path as usize % CHANGES].fetch_add(1, Relaxed);
    }
}

/// The word of a server.
#[derive(Debug, Clone)]
struct Search {
    rules: Arc<QueryRules>,
    number: u64,
}

impl Cache {
    /// Where a URL is looked for whose server has said what of its query counts. `None`: under itself.
    pub(crate) fn cut(&self, urls: &UrlRules, text: &[u8]) -> Option<Place> {
        if !self.searches.is_used.load(Relaxed) {
            return None;
        }
        self.search(urls, text).map(|search| self.cut_by(urls, text, &search))
    }

    /// A response to another URL that was cut in this way is one to this URL, too.
    pub(crate) fn is_cut_by(&self, urls: &UrlRules, text: &[u8], cut: &Place, response: &Response) -> bool {
        let said = said(text::fields(&response.lines));
        let search = self.search(urls, text).filter(|search| said.as_ref() == Some(&*search.rules));
        search.is_some_and(|search| self.cut_by(urls, text, &search) == *cut)
    }

    /// All places where there may be answers to a URL.
    pub(super) fn places(&self, urls: &UrlRules, text: Vec<u8>) -> impl Iterator<Item = Place> {
        let cut = self.cut(urls, &text);
        [Place { key: urls.key(self, &text), text }].into_iter().chain(cut)
    }

    /// How often something of the path of a URL was made invalid.
    pub(super) fn changes(&self, text: &[u8]) -> u64 {
        self.searches.changes[self.key(path_of(text)) as usize % CHANGES].load(Relaxed)
    }

    /// Takes in what a response says, and gives the place that it is stored at.
    pub(super) fn note_search(&self, urls: &UrlRules, text: &[u8], status: u16, fields: Fields<'_>) -> Place {
        let lines = fields.fields.iter();
        let said = said(lines.map(|field| (field.name.of_bytes(fields.bytes), field.value.of_bytes(fields.bytes))))
            .filter(|_| !text.contains(&b';'));
        let mut known = self.search(urls, text);
        // An error says nothing of the others.
        if status < 400 && !text.contains(&b';') && said.as_ref() != known.as_ref().map(|known| &*known.rules) {
            known = said.clone().map(|rules| Search { rules: Arc::new(rules), number: fastrand::u64(..) });
            self.set_search(urls.key(self, path_of(text)), known.clone());
        }
        let known = known.filter(|known| said.as_ref() == Some(&*known.rules));
        known.map_or_else(
            || Place { key: urls.key(self, text), text: text.to_vec() },
            |known| self.cut_by(urls, text, &known),
        )
    }

    fn search(&self, urls: &UrlRules, text: &[u8]) -> Option<Search> {
        // Some servers part queries there, too.
        if text.contains(&b';') {
            return None;
        }
        let paths = self.searches.paths.read().unwrap_or_else(PoisonError::into_inner);
        paths.get(&urls.key(self, path_of(text))).cloned()
    }

    fn set_search(&self, path: Key, search: Option<Search>) {
        let mut paths = self.searches.paths.write().unwrap_or_else(PoisonError::into_inner);
        let Some(search) = search else {
            paths.remove(&path);
            return;
        };
        if paths.len() >= CACHE_SEARCHES
            && let Some(&any) = paths.keys().next()
        {
            paths.remove(&any);
        }
        paths.insert(path, search);
        self.searches.is_used.store(true, Relaxed);
    }

    fn cut_by(&self, urls: &UrlRules, text: &[u8], search: &Search) -> Place {
        let path = path_of(text);
        let mut cut = path.to_vec();
        search.rules.write(text.get(path.len() + 1..).unwrap_or_default(), &mut cut);
        // No URL has an end of a line in it.
        let key = urls.key(self, &[&cut, &b"\n"[..], &search.number.to_le_bytes()].concat());
        Place { text: cut, key }
    }
}

pub(super) fn path_of(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == b'?').next().unwrap_or_default()
}

fn said<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<QueryRules> {
    let values: Vec<&[u8]> =
        fields.filter_map(|(name, value)| name.eq_ignore_ascii_case(b"no-vary-search").then_some(value)).collect();
    let value = values.join(&b", "[..]);
    let is_short = |rules: &QueryRules| match &rules.names {
        Names::Only(names) | Names::AllBut(names) => names.len() <= CACHE_SEARCH_NAMES,
        Names::All | Names::None => true,
    };
    if value.is_empty() || value.len() > CACHE_SEARCH_BYTES {
        return None;
    }
    QueryRules::parse(&value).filter(is_short)
}
