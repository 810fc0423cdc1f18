//! Buffers that a connection holds only while there are bytes to hold.
//!
//! Each worker thread keeps spare buffers of three sizes. A `Lease` gives its buffer back when it
//! is dropped, so an idle connection costs no buffer at all.

use std::cell::{Cell, RefCell};

use crate::limits::{
    BUFFER_BUDGET_BYTES, LARGE_BUFFER_BYTES, MEDIUM_BUFFER_BYTES, SMALL_BUFFER_BYTES, SPARE_LARGE_BUFFERS,
    SPARE_MEDIUM_BUFFERS, SPARE_SMALL_BUFFERS,
};

struct Spares {
    small: Vec<Box<[u8]>>,
    medium: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares { small: Vec::new(), medium: Vec::new(), large: Vec::new() }) };
    static LEASED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of all buffers that this worker has leased out.
#[must_use]
pub fn leased_bytes() -> usize {
    LEASED_BYTES.get()
}

/// There is room to buffer ahead for slow clients.
#[must_use]
pub fn within_budget() -> bool {
    LEASED_BYTES.get() < BUFFER_BUDGET_BYTES
}

/// A buffer with a filled part: bytes are appended at the end and consumed at the start.
#[derive(Debug)]
pub struct Lease {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Lease {
    #[must_use]
    pub fn small() -> Self {
        Self::take(SMALL_BUFFER_BYTES)
    }

    #[must_use]
    pub fn medium() -> Self {
        Self::take(MEDIUM_BUFFER_BYTES)
    }

    #[must_use]
    pub fn large() -> Self {
        Self::take(LARGE_BUFFER_BYTES)
    }

    /// A buffer of at least `bytes`: one of the three sizes, or one made for this lease alone.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        let sizes = [SMALL_BUFFER_BYTES, MEDIUM_BUFFER_BYTES, LARGE_BUFFER_BYTES];
        Self::take(sizes.into_iter().find(|&size| bytes <= size).unwrap_or(bytes))
    }

    fn take(bytes: usize) -> Self {
        let spare = SPARES.with_borrow_mut(|spares| spares.class(bytes).and_then(|(list, _)| list.pop()));
        LEASED_BYTES.set(LEASED_BYTES.get() + bytes);
        Self { data: spare.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()), start: 0, end: 0 }
    }

    /// What is filled and not consumed.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    pub fn filled_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Room behind the filled part.
    pub fn spare(&mut self) -> &mut [u8] {
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    /// `bytes` more of the spare part have been filled.
    pub fn advance(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.data.len());
    }

    /// The first `bytes` of the filled part are done with.
    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Only the first `bytes` of the filled part stay.
    pub fn truncate(&mut self, bytes: usize) {
        self.end = self.end.min(self.start + bytes);
    }

    /// Appends as much of `bytes` as fits and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let spare = self.spare();
        let length = bytes.len().min(spare.len());
        spare[..length].copy_from_slice(&bytes[..length]);
        self.advance(length);
        length
    }

    /// Moves the filled part to the front, so that `spare` is as large as can be.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// A larger buffer with the same filled part.
    #[must_use]
    pub fn grown(self, bytes: usize) -> Self {
        let mut larger = Self::of(bytes.max(self.len()));
        larger.append(self.filled());
        larger
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.len()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        // Both are gone while the thread itself ends; the buffer is then simply freed.
        let counted = LEASED_BYTES.try_with(|leased| leased.set(leased.get().saturating_sub(data.len())));
        if counted.is_ok() {
            SPARES
                .try_with(|spares| {
                    if let Ok(mut spares) = spares.try_borrow_mut()
                        && let Some((list, most)) = spares.class(data.len())
                        && list.len() < most
                    {
                        list.push(data);
                    }
                })
                .ok();
        }
    }
}

impl Spares {
    fn class(&mut self, bytes: usize) -> Option<(&mut Vec<Box<[u8]>>, usize)> {
        match bytes {
            SMALL_BUFFER_BYTES => Some((&mut self.small, SPARE_SMALL_BUFFERS)),
            MEDIUM_BUFFER_BYTES => Some((&mut self.medium, SPARE_MEDIUM_BUFFERS)),
            LARGE_BUFFER_BYTES => Some((&mut self.large, SPARE_LARGE_BUFFERS)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_and_returns() {
        let before = leased_bytes();
        let mut lease = Lease::small();
        assert_eq!(leased_bytes(), before + SMALL_BUFFER_BYTES);
        assert_eq!(lease.append(b"hello"), 5);
        lease.consume(2);
        assert_eq!(lease.filled(), b"llo");
        let lease = lease.grown(10_000);
        assert_eq!(lease.filled(), b"llo");
        assert_eq!(lease.capacity(), MEDIUM_BUFFER_BYTES);
        drop(lease);
        assert_eq!(leased_bytes(), before);
    }
}
