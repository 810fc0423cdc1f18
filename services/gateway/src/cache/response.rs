//! What is kept of a response besides its body.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use siphasher::sip::SipHasher13;
use sumun_config::checked::Name;
use sumun_http::cache::{Fields, Unstorable, Validity, merge};
use sumun_http::conditional::{EntityTag, Validators};
use sumun_http::field::{Field, list};
use sumun_http::{Method, ResponseHead, date};

use super::Stored;
use crate::http2::text;
use crate::limits::CACHE_TAGS;

/// The head of a response, as it is given out.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Whole field lines, for everybody.
    pub(crate) lines: Box<[u8]>,
    /// Those for whoever asked, alone: cookies, and what the server named in `private` or `no-cache`.
    pub(crate) asker_lines: Box<[u8]>,
    /// Of the body; `None`: known at its end.
    pub(crate) length: Option<u64>,
    pub(crate) validity: Validity,
    /// When it came, in seconds since 1970.
    pub(crate) answered_s: u64,
    pub(crate) stored: Result<(), Unstorable>,
    /// The names in `Vary`, and what the request that it answers says to them.
    pub(crate) vary: Box<[u8]>,
    pub(crate) selection: Box<[u8]>,
    pub(crate) tags: Box<[u64]>,
    /// What the server said, where this is not what it said.
    pub(crate) server_status: Option<u16>,
    /// Who was asked.
    pub(crate) server: Option<Name>,
    /// The server says `Strict-Transport-Security`.
    pub(crate) has_hsts: bool,
    /// Bytes of its body that are held for as long as anybody has it.
    pub(super) held: Arc<Held>,
}

/// What everybody gets of the head of a response, stored or on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    /// Whole field lines.
    pub(crate) lines: &'a [u8],
    pub(crate) has_hsts: bool,
}

/// Counts bytes in a sum until it goes.
#[derive(Debug)]
pub(super) struct Held {
    all: Arc<AtomicU64>,
    own: AtomicU64,
}

impl Held {
    pub(super) fn new(all: &Arc<AtomicU64>, bytes: u64) -> Self {
        all.fetch_add(bytes, Relaxed);
        Self { all: Arc::clone(all), own: AtomicU64::new(bytes) }
    }

    pub(super) fn add(&self, bytes: u64) {
        self.own.fetch_add(bytes, Relaxed);
        self.all.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(*self.own.get_mut(), Relaxed);
    }
}

/// Field lines of a response, parted.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) kept: Vec<u8>,
    pub(super) for_asker: Vec<u8>,
    pub(super) tags: Vec<u64>,
}

impl Lines {
    /// Parts the fields of a head that the gateway wrote. `tags`: the field that has tags.
    pub(super) fn of(response: Fields<'_>, tags: Option<&str>) -> Self {
        let mut lines = Self::default();
        for field in response.fields {
            let name = field.name.of_bytes(response.bytes);
            if tags.is_some_and(|tags| name.eq_ignore_ascii_case(tags.as_bytes())) {
                let of_field = field.value.of_bytes(response.bytes).split(|byte| matches!(byte, b',' | b' '));
                let of_field = of_field.map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()).map(tag_of);
                lines.tags.extend(of_field.take(CACHE_TAGS.saturating_sub(lines.tags.len())));
            } else if merge::is_kept(response, name) {
                write_field(response.bytes, field, &mut lines.kept);
            } else if is_for_asker(response, name) {
                write_field(response.bytes, field, &mut lines.for_asker);
            }
        }
        lines
    }

    /// The lines of a stored response, as a 304 changes them.
    pub(super) fn merged(stored: &Stored, newer: Fields<'_>, tags: Option<&str>) -> Self {
        let mut lines = Self { tags: stored.tags().collect(), ..Self::default() };
        let is_newer = |name: &[u8]| {
            let is_same = |field: &Field| field.name.of_bytes(newer.bytes).eq_ignore_ascii_case(name);
            merge::is_updated(newer, name) && newer.fields.iter().any(is_same)
        };
        for (name, value) in text::fields(stored.head().lines) {
            if !is_newer(name) {
                write_line(name, value, &mut lines.kept);
            }
        }
        for field in newer.fields {
            let name = field.name.of_bytes(newer.bytes);
            if tags.is_some_and(|tags| name.eq_ignore_ascii_case(tags.as_bytes())) {
                continue;
            }
            if merge::is_updated(newer, name) {
                write_field(newer.bytes, field, &mut lines.kept);
            } else if is_for_asker(newer, name) {
                write_field(newer.bytes, field, &mut lines.for_asker);
            }
        }
        lines
    }
}

impl<'a> Head<'a> {
    pub(crate) fn validators(&self) -> Validators<'a> {
        let last_modified = self.value("last-modified").and_then(date::parse);
        Validators { etag: EntityTag::parse(self.etag()), last_modified }
    }

    /// Empty: there is none.
    pub(crate) fn etag(&self) -> &'a [u8] {
        self.value("etag").unwrap_or_default()
    }

    pub(crate) fn value(&self, name: &str) -> Option<&'a [u8]> {
        text::fields(self.lines).find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

pub(super) fn says_hsts(lines: &[u8]) -> bool {
    text::fields(lines).any(|(name, _)| name.eq_ignore_ascii_case(b"strict-transport-security"))
}

impl Response {
    pub(crate) fn head(&self) -> Head<'_> {
        Head { status: self.status, lines: &self.lines, has_hsts: self.has_hsts }
    }

    pub(super) fn new(
        status: u16,
        lines: Lines,
        (validity, answered_s): (Validity, u64),
        stored: Result<(), Unstorable>,
        held: Held,
    ) -> Self {
        Self {
            status,
            has_hsts: says_hsts(&lines.kept),
            lines: lines.kept.into(),
            asker_lines: lines.for_asker.into(),
            length: None,
            validity,
            answered_s,
            stored,
            vary: Box::default(),
            selection: Box::default(),
            tags: lines.tags.into(),
            server_status: None,
            server: None,
            held: Arc::new(held),
        }
    }

    /// What is stored, given out because the server failed or did not answer.
    pub(super) fn again(stored: &Stored, now_s: u64, held: Held) -> Self {
        let lines = Lines { kept: stored.head().lines.to_vec(), ..Lines::default() };
        Self {
            length: Some(stored.length()),
            vary: stored.vary().into(),
            selection: stored.selection().into(),
            tags: stored.tags().collect(),
            ..Self::new(stored.head().status, lines, (stored.validity, now_s), Ok(()), held)
        }
    }
}

/// Lines as a head that can be looked at by name.
pub(super) fn parsed(lines: &[u8]) -> Option<(Vec<u8>, ResponseHead)> {
    let bytes = [b"HTTP/1.1 200 \r\n", lines, b"\r\n"].concat();
    let mut head = ResponseHead::default();
    head.parse(&bytes, Method::Head).ok().flatten()?;
    Some((bytes, head))
}

/// A number for a tag. No one's secret: who knows two that meet purges too much.
pub(super) fn tag_of(tag: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(tag);
    hasher.finish()
}

/// It is not kept, and whoever asked gets it all the same.
fn is_for_asker(response: Fields<'_>, name: &[u8]) -> bool {
    const FRAMING: [&str; 5] = ["connection", "content-length", "transfer-encoding", "keep-alive", "age"];
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    !merge::is_kept(response, name)
        && !FRAMING.iter().any(|framing| is(framing.as_bytes()))
        && !response.values("connection").flat_map(list).any(is)
}

fn write_field(bytes: &[u8], field: &Field, out: &mut Vec<u8>) {
    write_line(field.name.of_bytes(bytes), field.value.of_bytes(bytes), out);
}

pub(super) fn write_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}
