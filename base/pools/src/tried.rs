//! The servers that one request has tried.

use crate::limits::TRIED_MAX;
use crate::server::Server;

/// A small set of servers; empty by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    ids: [u64; TRIED_MAX],
    len: usize,
}

impl Tried {
    /// Adds a server; beyond [`TRIED_MAX`] the one that was tried first is forgotten.
    pub fn insert(&mut self, server: &Server) {
        if self.contains(server.id()) {
            return;
        }
        self.ids[self.len % TRIED_MAX] = server.id();
        self.len += 1;
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many tries were noted.
    pub const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.ids.iter().take(self.len).any(|tried| *tried == id)
    }
}
