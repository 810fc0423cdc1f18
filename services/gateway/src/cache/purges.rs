//! What was purged. A purge is noted, not carried out: a stored response is looked at when it is asked for
//! the next time, and only once for each purge. So a purge of a million responses costs as much as that of
//! one, and holds for all workers when the call returns.
//!
//! What is on disk outlives the process, and so have purges to: each is a [`Note`] as well, which is read again
//! when the pool is opened. Numbers grow with the time, so that those of this life are above all before it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sumun_store::Key;

use crate::limits::CACHE_PURGES;

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
    /// The number of the newest purge that is noted, or about to be.
    last_noted: u64,
}

/// Numbers of the last purges; 0: none.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    soft: u64,
    hard: u64,
}

/// A purge, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    #[serde(skip)]
    number: u64,
    /// The number of the note before it; 0: there was none.
    previous: u64,
    is_soft: bool,
    what: What,
}

/// What is purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    All,
    /// By the key of its text.
    Url(Key),
    Tag(u64),
    Prefix(Box<[u8]>),
}

/// Of the bytes of a note.
const NOTE_VERSION: u8 = 1;

impl Note {
    /// Its number is its key: milliseconds since 1970, which go into 48 bits for some thousand years.
    pub(super) fn key(&self) -> Key {
        Key::from(self.number)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Into memory, and of no type that it does not know: this cannot fail.
        postcard::to_extend(self, vec![NOTE_VERSION]).unwrap_or_default()
    }

    /// What was noted by this key. What cannot be read, or not be understood, may have been anything.
    pub(super) fn from_bytes(key: Key, bytes: Option<&[u8]>) -> Self {
        let number = u64::try_from(key).unwrap_or(u64::MAX);
        let note: Option<Self> = bytes
            .and_then(<[u8]>::split_first)
            .filter(|(version, _)| **version == NOTE_VERSION)
            .and_then(|(_, rest)| postcard::from_bytes(rest).ok());
        let unknown = Self { number, previous: 0, is_soft: false, what: What::All };
        note.map_or(unknown, |note| Self { number, ..note })
    }
}

impl Purges {
    /// The number of the newest purge: who asks a server now is behind it.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// A purge that holds for as long as this process lives.
    pub(super) fn add(&self, is_soft: bool, what: What) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        self.make(&mut made, is_soft, what);
    }

    /// One that the caller has to see noted: a note that is missing later makes all before it count as purged.
    pub(super) fn add_noted(&self, is_soft: bool, what: What) -> Note {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let mut note = self.make(&mut made, is_soft, what);
        note.previous = std::mem::replace(&mut made.last_noted, note.number);
        note
    }

    /// One whose note says that all before it is purged, which is true of those before it, too.
    pub(super) fn add_for_all(&self, is_soft: bool, what: What) -> Note {
        Note { is_soft: false, what: What::All, ..self.add_noted(is_soft, what) }
    }

    /// A note that all before it is purged, for those who come after us: we know better.
    pub(super) fn note_for_all(&self) -> Note {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let note = self.next(false, What::All);
        self.newest.store(note.number, Ordering::Release);
        Note { previous: std::mem::replace(&mut made.last_noted, note.number), ..note }
    }

    fn make(&self, made: &mut Made, is_soft: bool, what: What) -> Note {
        let note = self.next(is_soft, what);
        made.mark(&note);
        // Whoever sees the number finds the purge.
        self.newest.store(note.number, Ordering::Release);
        note
    }

    /// With a number above all others; by who may change what was made.
    fn next(&self, is_soft: bool, what: What) -> Note {
        let newest = self.newest.load(Ordering::Relaxed);
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
        Note { number: now_ms.max(newest + 1), previous: 0, is_soft, what }
    }

    /// Takes over what another life of the cache has noted, in the order of numbers. Where one is missing,
    /// what is older than it counts as purged.
    pub(super) fn load(&self, notes: impl Iterator<Item = Note>) {
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let mut newest = self.newest.load(Ordering::Relaxed);
        let mut last = 0;
        for note in notes {
            if note.previous > last {
                made.floor = made.floor.max(note.previous);
            }
            made.mark(&note);
            last = note.number;
        }
        made.last_noted = made.last_noted.max(last);
        newest = newest.max(last);
        self.newest.store(newest, Ordering::Release);
    }

    /// What has hit a response that was asked for when purge `serial` was the newest.
    pub(super) fn judge(&self, url: &[u8], key: Key, tags: impl IntoIterator<Item = u64>, serial: u64) -> Purge {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if serial < made.floor {
            return Purge::Hard;
        }
        let prefixes = made.prefixes.iter().filter(|(prefix, _)| url.starts_with(prefix)).map(|(_, marks)| marks);
        let of_tags = tags.into_iter().filter_map(|tag| made.tags.get(&tag));
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
    fn mark(&mut self, note: &Note) {
        self.make_room();
        let marks = match &note.what {
            What::All => &mut self.all,
            What::Url(url) => self.urls.entry(*url).or_default(),
            What::Tag(tag) => self.tags.entry(*tag).or_default(),
            What::Prefix(prefix) => match self.prefixes.iter().position(|(known, _)| known == prefix) {
                Some(at) => &mut self.prefixes[at].1,
                None => &mut self.prefixes.push_mut((prefix.clone(), Marks::default())).1,
            },
        };
        let mark = if note.is_soft { &mut marks.soft } else { &mut marks.hard };
        *mark = (*mark).max(note.number);
    }

    /// Of too many the older ones go, and with them what is as old and was not asked for since.
    fn make_room(&mut self) {
        if self.urls.len() + self.tags.len() + self.prefixes.len() < CACHE_PURGES {
            return;
        }
        let newest_of = |marks: &Marks| marks.soft.max(marks.hard);
        let all = self.urls.values().chain(self.tags.values()).chain(self.prefixes.iter().map(|(_, marks)| marks));
        let mut numbers: Vec<u64> = all.map(newest_of).collect();
        let middle = numbers.len() / 2;
        let floor = *numbers.select_nth_unstable(middle).1;
        let is_newer = |marks: &Marks| newest_of(marks) > floor;
        self.urls.retain(|_, marks| is_newer(marks));
        self.tags.retain(|_, marks| is_newer(marks));
        self.prefixes.retain(|(_, marks)| is_newer(marks));
        self.floor = self.floor.max(floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hit() {
        let purges = Purges::default();
        let judge = |serial| purges.judge(b"http://a/b/c", 7, [1, 2], serial);
        assert_eq!(judge(0), Purge::None);
        purges.add_noted(false, What::Tag(3));
        purges.add_noted(false, What::Prefix((*b"http://a/c").into()));
        let other = purges.add_noted(false, What::Url(8)).number;
        assert_eq!((judge(0), purges.newest()), (Purge::None, other));
        let soft = purges.add_noted(true, What::Tag(2)).number;
        assert_eq!((judge(0), judge(soft)), (Purge::Soft, Purge::None));
        let hard = purges.add_noted(false, What::Prefix((*b"http://a/b").into())).number;
        assert_eq!((judge(soft), judge(hard)), (Purge::Hard, Purge::None));
        let soft = purges.add_noted(true, What::Url(7)).number;
        let all = purges.add_noted(false, What::All).number;
        assert_eq!((judge(hard), judge(soft), judge(all)), (Purge::Hard, Purge::Hard, Purge::None));
    }

    #[test]
    fn what_was_forgotten_hits_all_that_is_as_old() {
        let purges = Purges::default();
        purges.add_noted(false, What::Tag(1));
        for tag in 0..CACHE_PURGES as u64 {
            purges.add_noted(false, What::Tag(tag + 10));
        }
        let made = purges.made.read().unwrap();
        assert!(made.tags.len() <= CACHE_PURGES && made.floor > 1);
        drop(made);
        assert_eq!(purges.judge(b"", 0, [1], 0), Purge::Hard);
        assert_eq!(purges.judge(b"", 0, [1], purges.newest()), Purge::None);
    }
    #[test]
    fn another_life_knows_what_was_purged() {
        let before = Purges::default();
        let mut notes = vec![
            before.add_noted(false, What::Tag(1)),
            before.add_noted(true, What::Prefix((*b"http://a/").into())),
            before.add_noted(false, What::Url(9)),
        ];
        notes.push(before.add_noted(true, What::All));
        let again = |notes: &[Note]| {
            let purges = Purges::default();
            let read = notes.iter().map(|note| Note::from_bytes(note.key(), Some(&note.to_bytes())));
            purges.load(read);
            purges
        };
        let after = again(&notes);
        assert_eq!(after.newest(), before.newest());
        for (url, key, tags) in [(&b"http://a/x"[..], 1, &[][..]), (b"http://b/", 9, &[]), (b"http://b/", 1, &[1])] {
            for serial in [0, notes[0].number, notes[1].number, notes[3].number] {
                let judged = |purges: &Purges| purges.judge(url, key, tags.iter().copied(), serial);
                assert_eq!(judged(&after), judged(&before));
            }
        }
        assert!(after.add_noted(false, What::All).number > notes[3].number);
        // The oldest was overtaken: nobody knows what it was.
        let without = again(&notes[1..]);
        assert_eq!(without.judge(b"", 0, [], 0), Purge::Hard);
        assert_eq!(without.judge(b"", 0, [], notes[0].number), Purge::Soft);
        for unknown in [None, Some(&b""[..]), Some(&[9, 1, 2]), Some(&[NOTE_VERSION])] {
            let note = Note::from_bytes(5, unknown);
            assert_eq!((note.number, note.what), (5, What::All), "it may have been anything");
        }
    }

    #[test]
    fn what_is_not_noted_leaves_no_hole() {
        let before = Purges::default();
        let first = before.add_noted(false, What::Tag(1));
        before.add(false, What::Url(9));
        let second = before.add_noted(false, What::Tag(2));
        let after = Purges::default();
        after.load([&first, &second].map(|note| Note::from_bytes(note.key(), Some(&note.to_bytes()))).into_iter());
        assert_eq!(after.judge(b"", 9, [3], 0), Purge::None, "neither of the two is about it");
        assert_eq!(after.judge(b"", 9, [2], 0), Purge::Hard);
        // What was missed is noted for those who come after, who do not know what it was.
        let missed = before.note_for_all();
        assert_eq!(before.judge(b"", 8, [3], 0), Purge::None);
        let last = Purges::default();
        let notes = [&first, &second, &missed];
        last.load(notes.map(|note| Note::from_bytes(note.key(), Some(&note.to_bytes()))).into_iter());
        assert_eq!(last.judge(b"", 8, [3], second.number), Purge::Hard);
        assert_eq!(last.judge(b"", 8, [3], missed.number), Purge::None);
        let third = after.add_noted(false, What::All);
        assert_eq!(third.previous, second.number);
    }
}
