//! What is written to disk of an entry, besides a body, so that another life of the cache can go on with it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};
use sumun_http::cache::Validity;

use super::body::Body;
use super::stored::Parts;
use super::{Entry, Index, Slice, Slices, Stored};

/// Of all that is written here. What has another one is not understood, and so is not there.
const VERSION: u8 = 2;

#[derive(Debug, Serialize, Deserialize)]
enum Kept<'a> {
    Stored(#[serde(borrow)] Head<'a>),
    Index { names: &'a [u8], generation: u64 },
    Slice,
    Sliced { head: Head<'a>, key: u128, incarnation: u64, length: u64, slice_bytes: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    url: &'a [u8],
    status: u16,
    lines: &'a [u8],
    vary: &'a [u8],
    selection: &'a [u8],
    tags: Vec<u64>,
    passed: u64,
    born_s: u64,
    lifetime_s: u32,
    while_revalidate_s: u32,
    if_error_s: u32,
    no_cache: bool,
    must_revalidate: bool,
}

/// A response. `slices`: its body is put together of these.
pub(super) fn write_stored(parts: &Parts<'_>, slices: Option<&Slices>) -> Vec<u8> {
    let Parts { url, status, lines, vary, selection, tags, validity, passed } = *parts;
    let Validity { born_s, lifetime_s, while_revalidate_s, if_error_s, no_cache, must_revalidate } = validity;
    let head = Head {
        url,
        status,
        lines,
        vary,
        selection,
        tags: tags.to_vec(),
        passed,
        born_s,
        lifetime_s,
        while_revalidate_s,
        if_error_s,
        no_cache,
        must_revalidate,
    };
    write(&match slices {
        None => Kept::Stored(head),
        Some(&Slices { head: key, incarnation, length, slice_bytes }) => {
            Kept::Sliced { head, key, incarnation, length, slice_bytes }
        }
    })
}

pub(super) fn write_slice() -> Vec<u8> {
    write(&Kept::Slice)
}

pub(super) fn write_index(index: &Index) -> Vec<u8> {
    write(&Kept::Index { names: &index.names, generation: index.generation })
}

/// The entry; `None`: it is not understood. `held`: as in [`Stored::new`].
pub(super) fn read(bytes: &[u8], body: Body, held: &Arc<AtomicU64>) -> Option<Entry> {
    let (&VERSION, bytes) = bytes.split_first()? else { return None };
    Some(match postcard::from_bytes(bytes).ok()? {
        Kept::Index { names, generation } => Entry::Index(Index { names: names.into(), generation }),
        Kept::Stored(head) => Entry::Stored(head.with(body, held)),
        Kept::Slice => Entry::Slice(Slice { body }),
        // A number that would be divided by.
        Kept::Sliced { slice_bytes: 0, .. } => return None,
        Kept::Sliced { head, key, incarnation, length, slice_bytes } => {
            let slices = Slices { head: key, incarnation, length, slice_bytes };
            Entry::Stored(head.with(Body::Slices(Arc::new(slices)), held))
        }
    })
}

fn write(kept: &Kept<'_>) -> Vec<u8> {
    // Into memory, and of no type that it does not know: this cannot fail.
    postcard::to_extend(kept, vec![VERSION]).unwrap_or_default()
}

impl Head<'_> {
    fn with(self, body: Body, held: &Arc<AtomicU64>) -> Stored {
        let validity = Validity {
            born_s: self.born_s,
            lifetime_s: self.lifetime_s,
            while_revalidate_s: self.while_revalidate_s,
            if_error_s: self.if_error_s,
            no_cache: self.no_cache,
            must_revalidate: self.must_revalidate,
        };
        let Self { url, status, lines, vary, selection, ref tags, passed, .. } = self;
        Stored::new(&Parts { url, status, lines, vary, selection, tags, validity, passed }, body, held)
    }
}
