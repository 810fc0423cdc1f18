//! The web server: files below a root, answered from a worker's cache where that is possible.
//!
//! ```text
//! request ─ FileCache::lookup ──────── found ──────────────► FileAnswer   (no wait, no disk)
//!                └─ not found ─ FileCache::answer ─ load on the blocking pool ─► FileAnswer
//! PUT ───── Upload::begin ─ write … ─ commit ──────────────► FileAnswer
//! ```
//!
//! One [`FileRoot`] a route, shared by the workers; one [`FileCache`] a worker; one [`DiskGate`] a
//! process. No disk call is made on a worker's thread, with one exception that is not ours to
//! avoid: whoever sends a [`FileBody::File`].
//!
//! An answer from the cache is at most [`limits::FRESH_SECONDS`] + [`limits::STALE_SECONDS`] older
//! than the disk; where the route allows writing, what was written through us is seen at once.
//! Refused whatever they lead to: names that begin with a dot, encoded slashes, backslashes,
//! control characters. Links are followed as long as they stay below the root; the kernel sees to
//! that while it resolves the path.

mod answer;
mod cache;
mod compress;
mod gate;
mod limits;
mod listing;
mod load;
mod name;
mod open_file;
mod root;
mod upload;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use sumun_http::conditional::Conditions;
use sumun_http::{Known, Method};

pub(crate) use self::cache::FileCache;
pub(crate) use self::compress::CompressedStream;
pub(crate) use self::gate::DiskGate;
pub(crate) use self::open_file::OpenFile;
pub(crate) use self::root::FileRoot;
pub(crate) use self::upload::Upload;

/// What a client asks of a root.
pub(crate) struct FilesRequest<'a> {
    pub(crate) method: Method,
    /// The raw path below the matched prefix: still percent-encoded, without the query. With or
    /// without a slash at its start.
    pub(crate) path: &'a str,
    /// The whole raw path as the client sees it: where a directory is, and what a listing shows.
    pub(crate) url_path: &'a str,
    /// Behind the `?`; kept when a directory's slash is added.
    pub(crate) query: Option<&'a str>,
    pub(crate) fields: FileFields<'a>,
    pub(crate) now_unix_seconds: u64,
}

/// The fields of a request that files look at.
#[derive(Debug, Default)]
pub(crate) struct FileFields<'a> {
    accept_encoding: Option<Cow<'a, [u8]>>,
    if_match: Option<Cow<'a, [u8]>>,
    if_none_match: Option<Cow<'a, [u8]>>,
    if_modified_since: Option<Cow<'a, [u8]>>,
    if_unmodified_since: Option<Cow<'a, [u8]>>,
    if_range: Option<Cow<'a, [u8]>>,
    range: Option<Cow<'a, [u8]>>,
    content_encoding: Option<Cow<'a, [u8]>>,
    has_content_range: bool,
}

/// The answer, but for the status line, `Date`, `Connection` and what the gateway adds anyway.
pub(crate) struct FileAnswer {
    pub(crate) status: u16,
    /// Header lines, each with its CRLF. `Content-Length` is among them unless the body is an
    /// [`FileBody::ErrorPage`] or a [`FileBody::Stream`], or the status has no content.
    pub(crate) head: Arc<[u8]>,
    pub(crate) body: FileBody,
    /// Why this is no success; for the log and the error page. Empty otherwise.
    pub(crate) reason: &'static str,
}

pub(crate) enum FileBody {
    /// Nothing follows the head: HEAD, 204, 304, or a `Content-Length` of zero.
    Empty,
    /// The gateway's own page for the status goes here, with its type and length.
    ErrorPage,
    Memory {
        bytes: Arc<[u8]>,
        range: Range<usize>,
    },
    /// `length` bytes from `offset`. A file that has shrunk since gives fewer: then the connection
    /// has to be cut.
    File {
        file: Arc<OpenFile>,
        offset: u64,
        length: u64,
    },
    /// Several ranges with their frames, in order.
    Parts(Vec<Part>),
    /// Of unknown length: chunked, or until close for HTTP/1.0.
    Stream(CompressedStream),
}

pub(crate) enum Part {
    Frame(Vec<u8>),
    Memory { bytes: Arc<[u8]>, range: Range<usize> },
    File { file: Arc<OpenFile>, offset: u64, length: u64 },
}

impl<'a> FileFields<'a> {
    /// Picks the fields out of a request: what each is, its name, its value.
    pub(crate) fn collect(fields: impl IntoIterator<Item = (Known, &'a [u8], &'a [u8])>) -> Self {
        let mut picked = Self::default();
        for (known, name, value) in fields {
            let slot = match known {
                Known::AcceptEncoding => &mut picked.accept_encoding,
                Known::IfMatch => &mut picked.if_match,
                Known::IfNoneMatch => &mut picked.if_none_match,
                Known::IfModifiedSince => &mut picked.if_modified_since,
                Known::IfUnmodifiedSince => &mut picked.if_unmodified_since,
                Known::IfRange => &mut picked.if_range,
                Known::Range => &mut picked.range,
                Known::ContentEncoding => &mut picked.content_encoding,
                Known::Other if name.eq_ignore_ascii_case(b"content-range") => {
                    picked.has_content_range = true;
                    continue;
                }
                _ => continue,
            };
            match slot {
                None => *slot = Some(Cow::Borrowed(value)),
                // RFC 9110 section 5.3. Joined, a date or a range is malformed, and so ignored.
                Some(before) => {
                    let before = before.to_mut();
                    before.extend_from_slice(b", ");
                    before.extend_from_slice(value);
                }
            }
        }
        picked
    }

    fn has_conditions(&self) -> bool {
        self.if_none_match.is_some()
            || self.if_modified_since.is_some()
            || self.if_match.is_some()
            || self.if_unmodified_since.is_some()
    }

    fn conditions(&self) -> Conditions<'_> {
        Conditions {
            if_match: self.if_match.as_deref(),
            if_none_match: self.if_none_match.as_deref(),
            if_modified_since: self.if_modified_since.as_deref(),
            if_unmodified_since: self.if_unmodified_since.as_deref(),
        }
    }
}

impl FileAnswer {
    /// An answer whose body is the gateway's page for the status.
    fn error(status: u16, reason: &'static str) -> Self {
        Self { status, head: Arc::from([]), body: FileBody::ErrorPage, reason }
    }
}
