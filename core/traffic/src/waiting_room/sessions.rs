//! Who is inside, and until when.
//!
//! A visitor asks for many things at once, all of them with the same cookie, so a renewal has to mean
//! the same however often it is asked for: sessions are kept by their number. Those of a life before
//! are known by how many end when; one that turns up is taken out of that count.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{ROOM_ACTIVE_MAX, ROOM_SNAPSHOT_GROUPS};

/// A number, and the life of the room that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub epoch: u32,
    pub number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    began_ms: u64,
    ends_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: BTreeMap<Id, Session>,
    /// When each of them is looked at: not behind its end, which may have moved since.
    looks: BTreeSet<(u64, Id)>,
    /// How many of them end when, up to a bucket later: a snapshot does not look at each.
    ends: BTreeMap<u64, u32>,
    /// Sessions by their end, of lives before this one.
    unseen: BTreeMap<u64, u32>,
    unseen_count: u64,
}

/// Length of a bucket of ends. Milliseconds.
const BUCKET_MS: u64 = 1024;

fn bucket(ends_ms: u64) -> u64 {
    ends_ms.next_multiple_of(BUCKET_MS)
}

impl Sessions {
    pub(super) fn begin(&mut self, id: Id, now_ms: u64, ends_ms: u64) {
        if let Some(before) = self.known.insert(id, Session { began_ms: now_ms, ends_ms }) {
            take_one(&mut self.ends, bucket(before.ends_ms));
        }
        self.looks.insert((ends_ms, id));
        *self.ends.entry(bucket(ends_ms)).or_default() += 1;
    }

    /// `knew_ms`: the end that its visitor knows of.
    pub(super) fn renew(&mut self, id: Id, knew_ms: u64, now_ms: u64, ends_ms: u64) {
        if let Some(session) = self.known.get_mut(&id) {
            let (before_ms, after_ms) = (session.ends_ms, session.ends_ms.max(ends_ms));
            session.ends_ms = after_ms;
            take_one(&mut self.ends, bucket(before_ms));
            *self.ends.entry(bucket(after_ms)).or_default() += 1;
        } else if self.known.len() < 2 * ROOM_ACTIVE_MAX as usize {
            self.see(knew_ms);
            // It began long ago.
            let began_ms = now_ms.saturating_sub(ends_ms.saturating_sub(now_ms));
            self.begin(id, began_ms, ends_ms);
        }
    }

    /// One of those that were only counted has turned up: it ends when its visitor says, or later.
    fn see(&mut self, knew_ms: u64) {
        let found = self.unseen.range(knew_ms..).next().or_else(|| self.unseen.last_key_value());
        if let Some(end_ms) = found.map(|(end_ms, _)| *end_ms) {
            take_one(&mut self.unseen, end_ms);
            self.unseen_count -= 1;
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((look_ms, id)) = self.looks.first().copied().filter(|(look_ms, _)| *look_ms <= now_ms) {
            self.looks.remove(&(look_ms, id));
            match self.known.get(&id).map(|session| session.ends_ms) {
                Some(ends_ms) if ends_ms > now_ms => drop(self.looks.insert((ends_ms, id))),
                Some(ends_ms) => {
                    self.known.remove(&id);
                    take_one(&mut self.ends, bucket(ends_ms));
                }
                None => {}
            }
        }
        while let Some(entry) = self.unseen.first_entry().filter(|entry| *entry.key() <= now_ms) {
            self.unseen_count -= u64::from(entry.remove());
        }
    }

    pub(super) fn began_ms(&self, id: Id) -> Option<u64> {
        self.known.get(&id).map(|session| session.began_ms)
    }

    pub(super) fn len(&self) -> u64 {
        self.known.len() as u64 + self.unseen_count
    }

    /// No session ends before this.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        let known = self.looks.first().map(|(look_ms, _)| *look_ms);
        let unseen = self.unseen.first_key_value().map(|(end_ms, _)| *end_ms);
        known.into_iter().chain(unseen).min()
    }

    /// How many end when, in few groups: those of a group end together with the last of them. As long as
    /// none comes, goes or is renewed, the groups are the same.
    pub(super) fn groups(&self) -> Vec<(u64, u32)> {
        let ends = || self.ends.iter().chain(&self.unseen).map(|(end_ms, count)| (*end_ms, *count));
        let first_ms = ends().map(|(end_ms, _)| end_ms).min().unwrap_or(0);
        let last_ms = ends().map(|(end_ms, _)| end_ms).max().unwrap_or(0);
        let step_ms = ((last_ms - first_ms) / (ROOM_SNAPSHOT_GROUPS as u64 - 1)).max(BUCKET_MS).next_power_of_two();
        let mut groups: BTreeMap<u64, u32> = BTreeMap::new();
        for (end_ms, count) in ends() {
            let sum = groups.entry(end_ms.next_multiple_of(step_ms)).or_default();
            *sum = sum.saturating_add(count);
        }
        groups.into_iter().collect()
    }

    /// What [`Self::groups`] gave; none ends behind `latest_ms`.
    pub(super) fn from_groups(groups: &[(u64, u32)], latest_ms: u64) -> Self {
        let mut sessions = Self::default();
        for (end_ms, count) in groups.iter().take(ROOM_SNAPSHOT_GROUPS + 1).filter(|(_, count)| *count > 0) {
            let sum = sessions.unseen.entry((*end_ms).min(latest_ms)).or_default();
            *sum = sum.saturating_add(*count);
        }
        sessions.unseen_count = sessions.unseen.values().map(|count| u64::from(*count)).sum();
        sessions
    }
}

fn take_one(counts: &mut BTreeMap<u64, u32>, key: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_hold_all_and_end_none_too_soon(
            steps in proptest::collection::vec((0_u64..40, 0_u64..3000, 1_u64..200_000), 1..200),
        ) {
            let (mut sessions, mut now_ms) = (Sessions::default(), 1_700_000_000_000);
            for (number, pause_ms, length_ms) in steps {
                now_ms += pause_ms;
                sessions.expire(now_ms);
                let id = Id { epoch: 1, number };
                match sessions.known.get(&id).map(|session| session.ends_ms) {
                    Some(ends_ms) => sessions.renew(id, ends_ms, now_ms, now_ms + length_ms),
                    None => sessions.begin(id, now_ms, now_ms + length_ms),
                }
                let groups = sessions.groups();
                prop_assert!(groups.len() <= ROOM_SNAPSHOT_GROUPS + 1, "{}", groups.len());
                prop_assert_eq!(groups.iter().map(|(_, count)| u64::from(*count)).sum::<u64>(), sessions.len());
                let last_ms = sessions.known.values().map(|session| session.ends_ms).max();
                prop_assert!(groups.last().map(|(end_ms, _)| *end_ms) >= last_ms);
                let again = Sessions::from_groups(&groups, u64::MAX);
                prop_assert_eq!(again.len(), sessions.len());
            }
        }
    }
}
