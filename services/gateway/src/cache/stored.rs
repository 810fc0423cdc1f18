//! A response as it lies in memory: all of its text in one piece, and a small body behind it.
//!
//! Most of what a cache holds are small responses, and there an allocation of its own for each part of one
//! would take as much as the part. So what only a fill needs is not here, and what is asked for seldom is
//! looked up in the text.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use sumun_host::pages::Run;
use sumun_http::cache::Validity;

use super::body::{Body, Pieces};
use super::disk::DiskBody;
use super::response::{Head, Held, says_hsts};
use super::{Entry, Response, Slices};
use crate::limits::CACHE_SMALL_BYTES;

/// A response, complete.
#[derive(Debug)]
pub(crate) struct Stored {
    /// One behind the other: its URL, field lines, names in `Vary`, what the request said to them, tags, and
    /// the body where that is small.
    text: Box<[u8]>,
    /// Where in `text` all but the last of these end. It is no longer than heads and small bodies are.
    ends: [u32; 5],
    status: u16,
    has_hsts: bool,
    pub(crate) validity: Validity,
    /// Purges up to this one do not hit it: at first those before its request went out.
    pub(super) passed: AtomicU64,
    place: Place,
}

/// Where the body is.
#[derive(Debug)]
enum Place {
    /// In `text`; its bytes count in this sum.
    Here(Arc<AtomicU64>),
    Apart(Body),
}

/// A body, to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    Small(&'a [u8]),
    Pieces(&'a [Bytes]),
    Pages(&'a Run),
    Disk(&'a DiskBody),
    Slices(&'a Arc<Slices>),
}

/// What it is made of.
pub(super) struct Parts<'a> {
    pub(super) url: &'a [u8],
    pub(super) status: u16,
    pub(super) lines: &'a [u8],
    pub(super) vary: &'a [u8],
    pub(super) selection: &'a [u8],
    pub(super) tags: &'a [u64],
    pub(super) validity: Validity,
    pub(super) passed: u64,
}

impl<'a> Parts<'a> {
    pub(super) fn of(url: &'a [u8], response: &'a Response, passed: u64) -> Self {
        let Response { status, lines, vary, selection, tags, validity, .. } = response;
        Self { url, status: *status, lines, vary, selection, tags, validity: *validity, passed }
    }
}

impl Stored {
    /// `held`: the sum of bytes of bodies that are in memory.
    pub(super) fn new(parts: &Parts<'_>, body: Body, held: &Arc<AtomicU64>) -> Self {
        let tags: Vec<u8> = parts.tags.iter().flat_map(|tag| tag.to_le_bytes()).collect();
        let all = [parts.url, parts.lines, parts.vary, parts.selection, &tags];
        let mut end = 0;
        let ends = all.map(|part| {
            end += part.len() as u32;
            end
        });
        let (small, place) = match body {
            Body::Memory(pieces) if pieces.length() <= CACHE_SMALL_BYTES => {
                held.fetch_add(pieces.length(), Relaxed);
                (Some(pieces), Place::Here(Arc::clone(held)))
            }
            body => (None, Place::Apart(body)),
        };
        // At once as long as it will be: to grow and shrink would leave holes that are too small for another.
        let mut text = Vec::with_capacity(end as usize + small.as_ref().map_or(0, |pieces| pieces.length() as usize));
        all.iter().for_each(|part| text.extend_from_slice(part));
        small.iter().flat_map(|pieces| pieces.iter()).for_each(|piece| text.extend_from_slice(piece));
        let (status, has_hsts) = (parts.status, says_hsts(parts.lines));
        let (validity, passed) = (parts.validity, AtomicU64::new(parts.passed));
        Self { text: text.into(), ends, status, has_hsts, validity, passed, place }
    }

    /// The same response, stale from `now_s` on, and looked at for purges up to `passed`.
    pub(super) fn expired(&self, now_s: u64, passed: u64) -> Self {
        let mut validity = self.validity;
        validity.expire(now_s);
        let place = match &self.place {
            Place::Here(held) => {
                held.fetch_add(self.small().len() as u64, Relaxed);
                Place::Here(Arc::clone(held))
            }
            Place::Apart(body) => Place::Apart(body.clone()),
        };
        let Self { ends, status, has_hsts, .. } = *self;
        Self { text: self.text.clone(), ends, status, has_hsts, validity, passed: AtomicU64::new(passed), place }
    }

    /// The same response, with its body in another place.
    pub(super) fn with(&self, body: Body) -> Self {
        let Self { ends, status, has_hsts, validity, .. } = *self;
        let passed = AtomicU64::new(self.passed.load(Relaxed));
        Self { text: self.text.clone(), ends, status, has_hsts, validity, passed, place: Place::Apart(body) }
    }

    /// The body, where it is in memory and apart.
    pub(super) fn in_memory(&self) -> Option<&Pieces> {
        match &self.place {
            Place::Here(_) => None,
            Place::Apart(body) => body.in_memory(),
        }
    }

    fn part(&self, number: usize) -> &[u8] {
        let end = |number: usize| self.ends.get(number).map_or(self.text.len(), |&end| end as usize);
        let start = number.checked_sub(1).map_or(0, end);
        self.text.get(start..end(number)).unwrap_or_default()
    }

    pub(super) fn url(&self) -> &[u8] {
        self.part(0)
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head { status: self.status, lines: self.part(1), has_hsts: self.has_hsts }
    }

    /// The names in `Vary`.
    pub(crate) fn vary(&self) -> &[u8] {
        self.part(2)
    }

    pub(super) fn selection(&self) -> &[u8] {
        self.part(3)
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = u64> {
        let (tags, _) = self.part(4).as_chunks();
        tags.iter().map(|tag| u64::from_le_bytes(*tag))
    }

    fn small(&self) -> &[u8] {
        self.part(5)
    }

    pub(crate) fn content(&self) -> Content<'_> {
        match &self.place {
            Place::Here(_) => Content::Small(self.small()),
            Place::Apart(body) => body.content(),
        }
    }

    /// Of the body.
    pub(crate) fn length(&self) -> u64 {
        match &self.place {
            Place::Here(_) => self.small().len() as u64,
            Place::Apart(body) => body.length(),
        }
    }

    /// The body, for another head.
    pub(super) fn body(&self) -> Body {
        match &self.place {
            Place::Here(all) => {
                let held = Arc::new(Held::new(all, self.length()));
                Body::Memory(Arc::new(Pieces::new(Box::new([Bytes::copy_from_slice(self.small())]), held)))
            }
            Place::Apart(body) => body.clone(),
        }
    }

    /// As far as can be told without reading it.
    pub(super) fn is_there(&self) -> bool {
        match &self.place {
            Place::Here(_) => true,
            Place::Apart(body) => body.is_there(),
        }
    }

    /// Bytes of memory that it takes, but for its place in the table.
    pub(super) fn bytes(&self) -> u64 {
        let of_body = match &self.place {
            Place::Here(_) => 0,
            Place::Apart(body) => body.bytes(),
        };
        shared(size_of::<Entry>()) + allocated(self.text.len()) + of_body
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Place::Here(held) = &self.place {
            held.fetch_sub(self.small().len() as u64, Relaxed);
        }
    }
}

/// What so many bytes take of memory: the C library's allocator puts their size before them and rounds up.
pub(super) fn allocated(bytes: usize) -> u64 {
    if bytes == 0 { 0 } else { (bytes as u64 + 8).next_multiple_of(16).max(32) }
}

/// The same where they are counted by how many have them.
pub(super) fn shared(bytes: usize) -> u64 {
    allocated(bytes + 2 * size_of::<usize>())
}

const _: () = assert!(size_of::<Entry>() <= 88, "one more is another 16 bytes for each response");

#[cfg(test)]
mod tests;
