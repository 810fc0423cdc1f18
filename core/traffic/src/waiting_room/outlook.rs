//! What those who wait can expect, told by little enough to be read without the room.

use std::collections::VecDeque;

use super::Settings;
use crate::limits::{
    ROOM_PACE_STEP_MS, ROOM_PACE_STEPS, ROOM_POLL_LEAST_MS, ROOM_POLL_MOST_MS, ROOM_POLL_SOONEST_MS,
    ROOM_POLLS_PER_SECOND,
};

/// Of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlook {
    pub issued: u64,
    pub called: u64,
    /// At least 1.
    pub calls_per_million_s: u64,
    /// All places are taken, and none is free before this; 0: there are free ones.
    pub next_place_ms: u64,
}

impl Outlook {
    /// How many are called before this number's turn is over, itself included; 0: it has been called.
    #[must_use]
    pub fn place(&self, number: u64) -> u64 {
        number.saturating_sub(self.called)
    }

    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.issued.saturating_sub(self.called)
    }

    /// How long somebody in this place is likely to wait. Milliseconds.
    #[must_use]
    pub fn wait_ms(&self, place: u64, now_ms: u64) -> u64 {
        let by_pace = place.saturating_mul(1_000_000_000) / self.calls_per_million_s.max(1);
        if place == 0 { 0 } else { by_pace.max(self.next_place_ms.saturating_sub(now_ms)) }
    }

    /// When somebody who is likely to wait so long should ask again: more often as the turn comes near,
    /// and more seldom where very many wait, as far as the turn is not missed for it. Milliseconds.
    #[must_use]
    pub fn ask_again_ms(&self, wait_ms: u64) -> u64 {
        if wait_ms <= ROOM_POLL_LEAST_MS {
            // Just when it is time: all who are called come as evenly as they are called.
            return wait_ms.max(ROOM_POLL_SOONEST_MS);
        }
        let by_wait = (wait_ms / 4).clamp(ROOM_POLL_LEAST_MS, ROOM_POLL_MOST_MS);
        let by_load = (self.waiting() * 1000 / ROOM_POLLS_PER_SECOND).min(wait_ms / 4);
        by_wait.max(by_load)
    }
}

/// How fast numbers were called while somebody waited.
#[derive(Debug, Default)]
pub struct Pace {
    /// Time, and the number that had been called then.
    marks: VecDeque<(u64, u64)>,
    /// The newest state.
    now: (u64, u64),
}

impl Pace {
    pub fn note(&mut self, now_ms: u64, called: u64, somebody_waits: bool) {
        self.now = (now_ms, called);
        if !somebody_waits {
            self.marks.clear();
        } else if self.marks.back().is_none_or(|(at_ms, _)| at_ms + ROOM_PACE_STEP_MS <= now_ms) {
            if self.marks.len() > ROOM_PACE_STEPS {
                self.marks.pop_front();
            }
            self.marks.push_back(self.now);
        }
    }

    /// By what was seen, within what the settings make possible; before much was seen, by the settings.
    #[must_use]
    pub fn calls_per_million_s(&self, settings: &Settings) -> u64 {
        let asked_for = u64::from(settings.admit) * 1_000_000_000 / settings.period_ms;
        let (now_ms, called) = self.now;
        let seen = self.marks.front().filter(|(at_ms, _)| at_ms + ROOM_PACE_STEP_MS <= now_ms);
        let Some((at_ms, before)) = seen else { return asked_for.max(1) };
        // Places become free at this rate where everybody stays for one session.
        let by_sessions = u64::from(settings.active) * 1_000_000_000 / settings.session_ms;
        let by_pace = (called - before).saturating_mul(1_000_000_000) / (now_ms - at_ms);
        by_pace.max(by_sessions.min(asked_for)).min(2 * asked_for).max(1)
    }
}
