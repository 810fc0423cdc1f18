//! What a shared cache may keep, how long, and for whom (RFC 9111), without a store and without a clock.
//!
//! A response passes through here three times: [`storable`] says whether it may be kept, [`Validity`]
//! says from then on what its age is and what may be done with it, and [`merge`](merge::is_updated) says
//! which fields a later 304 replaces. A request is matched to what is kept by [`vary`] and
//! [`query`]. Besides: RFC 5861 (stale-while-revalidate, stale-if-error), RFC 8246 (immutable),
//! RFC 9211 (Cache-Status), RFC 9213 (targeted cache control), No-Vary-Search.
//!
//! Requests' own directives are advice (RFC 9111 section 5.2.1), and a gateway that follows them lets
//! everybody past the cache: only `no-store` and `only-if-cached` count here. What the server does not say is
//! guessed only where the operator wants it.
//!
//! Not here: where responses lie, who fetches them, what a purge is.

mod directives;
mod freshness;
mod invalidate;
pub mod merge;
pub mod query;
pub mod slices;
pub mod status;
mod storable;
pub mod vary;

pub use directives::{Qualified, RequestControl, ResponseControl};
pub use freshness::{Rules, Use, Validity};
pub use invalidate::{invalidates, same_origin_path};
pub use storable::{Request, Unstorable, storable};

use crate::field::{Field, list};

/// The fields of a head, and the bytes that they are in.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    pub bytes: &'a [u8],
    pub fields: &'a [Field],
}

impl<'a> Fields<'a> {
    /// The values of all lines of this name, which is in lower case.
    pub fn values(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self
            .fields
            .iter()
            .filter(move |field| field.name.of_bytes(self.bytes).eq_ignore_ascii_case(name.as_bytes()));
        lines.map(move |field| field.value.of_bytes(self.bytes))
    }

    /// The elements of all lines of this name.
    pub fn list(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.values(name).flat_map(list)
    }

    /// All lines of this name as one value (RFC 9110 section 5.3).
    #[must_use]
    pub fn joined(self, name: &'static str) -> Option<Vec<u8>> {
        let values: Vec<&[u8]> = self.values(name).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    #[must_use]
    pub fn has(self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }

    /// The value where there is one line of this name.
    #[must_use]
    pub fn only(self, name: &'static str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

#[cfg(test)]
mod tests;
