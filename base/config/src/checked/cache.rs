//! What is cached, and how.

use std::path::PathBuf;
use std::time::Duration;

use super::{Name, Pattern};

/// The cache of the whole process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStore {
    /// Bytes of memory that answers may take, all told.
    pub memory: u64,
    /// What is kept on disk; `None`: memory alone.
    pub group: Option<CacheGroup>,
}

/// Physical volumes, and the volumes that come out of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroup {
    /// At least one, and no path twice.
    pub physical_volumes: Vec<PhysicalVolume>,
    /// Bytes of an extent of a physical volume that is new; a power of two.
    pub extent: u64,
    /// At least one, in the order of the file; no name twice.
    pub volumes: Vec<CacheVolume>,
}

/// A file or a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// Absolute.
    pub path: PathBuf,
    /// Bytes of a file; `None`: a block device, all of it.
    pub size: Option<u64>,
}

/// A named part of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheVolume {
    pub name: Name,
    /// Bytes, over all physical volumes.
    pub size: u64,
    /// The name that it had before; no volume has it now.
    pub formerly: Option<Name>,
}

/// What a route caches.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteCache {
    /// Fresh for so long, whatever the server says.
    pub ttl: Option<Duration>,
    /// Fresh for so long where the server says nothing.
    pub default_ttl: Option<Duration>,
    /// Where nobody says anything, a tenth of the time since the last change.
    pub heuristic: bool,
    /// The same of answers that there is nothing (404, 410 and others), and of failures.
    pub negative_ttl: Option<Duration>,
    /// At most, of these.
    pub negative_most: Option<Duration>,
    /// Where the server does not say it.
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    pub key: CacheKey,
    pub query: CacheQuery,
    pub bypass: CacheBypass,
    /// The server gets no cookies in requests whose answer may be stored.
    pub drops_cookies: bool,
    /// Answers that set a cookie are stored without it; only who asked first gets it.
    pub drops_set_cookie: bool,
    /// The field in which servers name what an answer is about, for purges.
    pub tags: Option<String>,
    /// One that is there; `None`: memory alone.
    pub volume: Option<Name>,
    /// Bytes of the slices in which large answers are fetched and stored; `None`: whole.
    pub slice: Option<u64>,
}

/// Which parts of a URL tell answers apart, besides the scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey {
    pub host: bool,
    pub path: bool,
    pub query: bool,
}

/// Which parameters of a query count, where the query does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheQuery {
    /// Parameters are put in order by name.
    pub sort: bool,
    /// Only these; `None`: all.
    pub only: Option<Vec<String>>,
    /// All but these.
    pub except: Option<Vec<String>>,
}

/// Requests that go past the cache.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CacheBypass {
    /// Those with one of these cookies; a pattern is matched against names.
    pub cookies: Vec<CookieMatch>,
    /// In lower case.
    pub headers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CookieMatch {
    Exact(String),
    Regex(Pattern),
}
