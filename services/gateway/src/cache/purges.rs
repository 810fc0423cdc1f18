//! What was purged. A purge is noted, not carried out: a stored response is looked at when it is asked for
//! the next time, and only once for each purge. So a purge of a million responses costs as much as that of
//! one, and holds for all workers when the call returns.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use sumun_store::Key;

use crate::limits::CACHE_PURGES;

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The text that its key is made of.
    Url(Vec<u8>),
    Prefix(Vec<u8>),
    Tag(Vec<u8>),
    All,
}

/// What a purge means for a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purge {
    None,
    /// It is stale.
    Soft,
    /// It is gone.
    Hard,
}

/// Those that were made, each with its number in the order of purges and requests to servers.
#[derive(Debug, Default)]
pub(super) struct Purges {
    /// Of the newest purge.
    newest: AtomicU64,
    made: RwLock<Made>,
}

#[derive(Debug, Default)]
struct Made {
    all: Marks,
    urls: HashMap<Key, Marks>,
    tags: HashMap<u64, Marks>,
    prefixes: Vec<(Box<[u8]>, Marks)>,
    /// What is older and was not looked at since is taken to be purged: its purge may be forgotten.
    floor: u64,
}

/// Numbers of the last purges; 0: none.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    soft: u64,
    hard: u64,
}

impl Purges {
    /// The number of the newest purge: who asks a server now is behind it.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    pub(super) fn add_all(&self, is_soft: bool) {
        self.add(is_soft, |made| Some(&mut made.all));
    }

    pub(super) fn add_url(&self, url: Key, is_soft: bool) {
        self.add(is_soft, |made| Some(made.urls.entry(url).or_default()));
    }

    pub(super) fn add_tag(&self, tag: u64, is_soft: bool) {
        self.add(is_soft, |made| Some(made.tags.entry(tag).or_default()));
    }

    pub(super) fn add_prefix(&self, prefix: &[u8], is_soft: bool) {
        self.add(is_soft, |made| {
            if made.prefixes.iter().all(|(known, _)| **known != *prefix) {
                made.prefixes.push((prefix.into(), Marks::default()));
            }
            made.prefixes.iter_mut().find(|(known, _)| **known == *prefix).map(|(_, marks)| marks)
        });
    }

    fn add(&self, is_soft: bool, marks: impl FnOnce(&mut Made) -> Option<&mut Marks>) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let number = self.newest.load(Ordering::Relaxed) + 1;
        made.make_room(number);
        if let Some(marks) = marks(&mut made) {
            if is_soft {
                marks.soft = number;
            } else {
                marks.hard = number;
            }
        }
        // Whoever sees the number finds the purge.
        self.newest.store(number, Ordering::Release);
    }

    /// What has hit a response that was asked for when purge `serial` was the newest.
    pub(super) fn judge(&self, url: &[u8], key: Key, tags: &[u64], serial: u64) -> Purge {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if serial < made.floor {
            return Purge::Hard;
        }
        let prefixes = made.prefixes.iter().filter(|(prefix, _)| url.starts_with(prefix)).map(|(_, marks)| marks);
        let of_tags = tags.iter().filter_map(|tag| made.tags.get(tag));
        let marks = [&made.all].into_iter().chain(made.urls.get(&key)).chain(of_tags).chain(prefixes);
        let (soft, hard) = marks.fold((0, 0), |(soft, hard), marks| (soft.max(marks.soft), hard.max(marks.hard)));
        if hard > serial {
            Purge::Hard
        } else if soft > serial {
            Purge::Soft
        } else {
            Purge::None
        }
    }
}

impl Made {
    /// Of too many the older ones go, and with them what is as old and was not asked for since.
    fn make_room(&mut self, number: u64) {
        if self.urls.len() + self.tags.len() + self.prefixes.len() < CACHE_PURGES {
            return;
        }
        let floor = number.saturating_sub(CACHE_PURGES as u64 / 2);
        let is_newer = |marks: &Marks| marks.soft.max(marks.hard) > floor;
        self.urls.retain(|_, marks| is_newer(marks));
        self.tags.retain(|_, marks| is_newer(marks));
        self.prefixes.retain(|(_, marks)| is_newer(marks));
        self.floor = floor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hit() {
        let purges = Purges::default();
        let judge = |serial| purges.judge(b"http://a/b/c", 7, &[1, 2], serial);
        assert_eq!(judge(0), Purge::None);
        purges.add_tag(3, false);
        purges.add_prefix(b"http://a/c", false);
        purges.add_url(8, false);
        assert_eq!((judge(0), purges.newest()), (Purge::None, 3));
        purges.add_tag(2, true);
        assert_eq!((judge(0), judge(4)), (Purge::Soft, Purge::None));
        purges.add_prefix(b"http://a/b", false);
        assert_eq!((judge(4), judge(5)), (Purge::Hard, Purge::None));
        purges.add_url(7, true);
        purges.add_all(false);
        assert_eq!((judge(5), judge(6), judge(7)), (Purge::Hard, Purge::Hard, Purge::None));
    }

    #[test]
    fn what_was_forgotten_hits_all_that_is_as_old() {
        let purges = Purges::default();
        purges.add_tag(1, false);
        for tag in 0..CACHE_PURGES as u64 {
            purges.add_tag(tag + 10, false);
        }
        let made = purges.made.read().unwrap();
        assert!(made.tags.len() <= CACHE_PURGES && made.floor > 1);
        drop(made);
        assert_eq!(purges.judge(b"", 0, &[1], 0), Purge::Hard);
        assert_eq!(purges.judge(b"", 0, &[1], purges.newest()), Purge::None);
    }
}
