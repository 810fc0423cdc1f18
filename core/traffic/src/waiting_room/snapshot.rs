//! What the next life of a room has to know.

use super::claims::Claims;
use super::sessions::Sessions;
use super::{Room, Settings};
use crate::limits::{ROOM_EPOCHS, ROOM_SNAPSHOT_WORDS, ROOM_WAITING_MAX};

/// Small, however many wait. Times are on the clock of whoever keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Lives by their first number, the newest last.
    pub epochs: Vec<(u32, u64)>,
    pub issued: u64,
    pub called: u64,
    pub passed: u64,
    /// Claim bits above `passed` and up to `called`, number / 64 of the first word.
    pub first_word: u64,
    pub words: Vec<u64>,
    /// How many sessions end when, in milliseconds.
    pub sessions: Vec<(u64, u32)>,
}

impl Room {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let passed = self.passed.max(self.called.saturating_sub(64 * (ROOM_SNAPSHOT_WORDS as u64 - 1)));
        let (first_word, words) = self.claims.cut(passed, self.called);
        Snapshot {
            epochs: self.epochs.clone(),
            issued: self.issued,
            called: self.called,
            passed,
            first_word,
            words,
            sessions: self.sessions.groups(),
        }
    }

    /// Goes on as another life of the room. Who had been called has the whole time to come in again, since
    /// nobody could while there was no room. A snapshot that no room can have given begins an empty room,
    /// whose numbers are none that were given before.
    #[must_use]
    pub fn restore(settings: Settings, snapshot: &Snapshot, epoch: u32, now_ms: u64) -> Self {
        let mut room = Self::new(settings, epoch, now_ms);
        let Snapshot { epochs, issued, called, passed, first_word, words, sessions } = snapshot;
        let waiting = issued.checked_sub(*called);
        let is_whole = waiting.is_some_and(|waiting| waiting <= ROOM_WAITING_MAX.into())
            && passed <= called
            && *issued < u64::MAX / 2
            && *first_word == passed / 64
            && words.len() <= ROOM_SNAPSHOT_WORDS
            && first_word + words.len() as u64 == called / 64 + 1
            && epochs.iter().all(|(known, _)| *known != epoch);
        if !is_whole {
            return room;
        }
        // Lives whose numbers are all over, or that gave none, are forgotten.
        let ends = epochs.iter().skip(1).map(|(_, first)| *first).chain([issued + 1]);
        room.epochs = epochs
            .iter()
            .zip(ends)
            .filter(|((_, first), end)| first < end && *end > passed + 1)
            .map(|(life, _)| *life)
            .collect();
        let surplus = (room.epochs.len() + 1).saturating_sub(ROOM_EPOCHS);
        room.epochs.drain(..surplus);
        room.epochs.push((epoch, issued + 1));
        (room.issued, room.called, room.passed) = (*issued, *called, *passed);
        room.claims = Claims::from_cut(*first_word, words);
        room.claims.add(*issued);
        room.outstanding = room.claims.count_unset(room.passed, room.called);
        // Beginning anew earns nobody a turn.
        room.credit = 0;
        room.sessions = Sessions::from_groups(sessions, now_ms + room.settings.session_ms);
        if room.called > room.passed {
            room.note_call();
        }
        room.advance(now_ms);
        room
    }
}
