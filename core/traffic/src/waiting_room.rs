//! A waiting room: so many visitors a second, so many at once, the others in the order in which they came.
//!
//! Who has to wait gets a number. Numbers are called in order; whoever holds a called number exchanges
//! it for a session, once. So what is kept of those who wait is two counters and one bit for each:
//!
//! ```text
//!   1 … passed │ passed+1 … called │ called+1 … issued │
//!   over       │ may come in, or   │ wait              │ not given yet
//!              │ did (their bit)   │                   │
//! ```
//!
//! A number that is not exchanged in time is passed over: its place inside and its turn go to those
//! behind it. Of those inside, of whom there are no more than `active`, the end of each session is kept.
//!
//! Numbers rise over all lives of a room. What is restored from a [`Snapshot`] may be a moment older
//! than the end of the life before, so each life signs its numbers with an epoch of its own: a number
//! that was given after the snapshot is not taken for the same number given again.
//!
//! Not here: tickets and cookies, who may ask how often, what a page looks like. To be shared by
//! several gateways, a room needs no more than these operations in one place.

mod claims;
mod outlook;
mod sessions;
mod snapshot;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use claims::Claims;
pub use outlook::{Outlook, Pace};
pub use sessions::Id;
use sessions::Sessions;
pub use snapshot::Snapshot;

use crate::limits::{ROOM_ACTIVE_MAX, ROOM_CLAIM_STEPS, ROOM_EPOCHS, ROOM_WAITING_MAX};

/// What an operator asks of a room. Every number counts as 1 where it is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// So many visitors are called
    pub admit: u32,
    /// in so much time.
    pub period_ms: u64,
    /// Visitors inside at once, those who were called and have not come yet among them.
    pub active: u32,
    /// A session ends so long after its last renewal.
    pub session_ms: u64,
    /// Who does not come so long after being called is passed over. So long is also the session of who came
    /// in without a number, until it is renewed.
    pub claim_ms: u64,
    /// Visitors who may wait.
    pub waiting: u32,
}

impl Settings {
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            admit: self.admit.max(1),
            period_ms: self.period_ms.max(1),
            active: self.active.clamp(1, ROOM_ACTIVE_MAX),
            session_ms: self.session_ms.max(1),
            claim_ms: self.claim_ms.max(1),
            waiting: self.waiting.clamp(1, ROOM_WAITING_MAX),
        }
    }

    /// Turns that may have added up while nobody took them: a second's worth, in units of which one turn
    /// costs `period_ms`.
    fn burst(self) -> u64 {
        (u64::from(self.admit) * 1000).max(self.period_ms)
    }

    /// Step in which the time to come in is counted.
    fn claim_step_ms(self) -> u64 {
        self.claim_ms.div_ceil(ROOM_CLAIM_STEPS).max(1)
    }
}

/// What becomes of a visitor without a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nobody waits, and there is a turn and a place: the visitor is inside.
    Admitted(Id),
    /// Waits, with this number.
    Waits(Id),
    /// As many wait as may.
    Full,
}

/// What becomes of a visitor with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Admitted,
    NotYet,
    /// It was exchanged before; `just_now`: a moment ago, so that the session may be on its way to the
    /// same visitor.
    Used {
        just_now: bool,
    },
    /// The visitor did not come in time, or the number was exchanged so long ago that it is forgotten.
    Passed,
    /// Nobody was given this number.
    Unknown,
}

/// What has happened in a room, from its beginning, and who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub waiting: u64,
    /// Inside, those who were called and have not come yet among them.
    pub active: u64,
    /// Sessions that began in this life of the room.
    pub admitted: u64,
    /// Visitors of this life who had to wait.
    pub issued: u64,
    /// Numbers of this life that were passed over.
    pub passed: u64,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    settings: Settings,
    /// Lives of the room by their first number, the newest last.
    epochs: Vec<(u32, u64)>,
    issued: u64,
    called: u64,
    passed: u64,
    claims: Claims,
    /// Numbers that were called and neither exchanged nor passed over.
    outstanding: u64,
    /// The step of time in which numbers up to this one were called, the oldest first.
    calls: VecDeque<(u64, u64)>,
    /// Turns that may be taken, in units of which one turn costs `period_ms`,
    credit: u64,
    /// and those of visitors who did not come.
    returned: u64,
    sessions: Sessions,
    pace: Pace,
    now_ms: u64,
    counts: Counts,
}

/// This number was given by one of these lives.
#[must_use]
pub fn gave(lives: &[(u32, u64)], issued: u64, id: Id) -> bool {
    let of_life = lives.iter().rev().find(|(_, first)| *first <= id.number);
    id.number <= issued && of_life.is_some_and(|(epoch, _)| *epoch == id.epoch)
}

/// A session that has just begun may not have reached its visitor yet.
const JUST_NOW_MS: u64 = 10_000;

impl Room {
    /// An empty room. No two lives of a room have the same `epoch`.
    #[must_use]
    pub fn new(settings: Settings, epoch: u32, now_ms: u64) -> Self {
        let settings = settings.bounded();
        Self {
            settings,
            epochs: vec![(epoch, 1)],
            issued: 0,
            called: 0,
            passed: 0,
            claims: Claims::default(),
            outstanding: 0,
            calls: VecDeque::new(),
            credit: settings.burst(),
            returned: 0,
            sessions: Sessions::default(),
            pace: Pace::default(),
            now_ms,
            counts: Counts::default(),
        }
    }

    /// Other settings, in place: who waits or is inside stays.
    pub fn change(&mut self, settings: Settings, now_ms: u64) {
        let settings = settings.bounded();
        if settings == self.settings {
            return;
        }
        self.advance(now_ms);
        let before = std::mem::replace(&mut self.settings, settings);
        if settings.claim_step_ms() != before.claim_step_ms() {
            // Steps of another length: who was called has the new time from now on.
            self.calls.clear();
            self.note_call();
        }
        if settings.period_ms != before.period_ms {
            (self.credit, self.returned) = (0, 0);
        }
        self.credit = self.credit.min(settings.burst());
        self.returned = self.returned.min(settings.burst());
        self.pace = Pace::default();
        self.check_invariants();
    }

    /// Brings the room up to date: sessions that end, visitors who did not come, numbers that are called.
    pub fn advance(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        self.sessions.expire(self.now_ms);
        self.pass_over();
        let burst = self.settings.burst();
        let earned = passed_ms.saturating_mul(u64::from(self.settings.admit)).min(burst);
        self.credit = (self.credit + earned).min(burst);
        if self.issued == self.called {
            // A turn that nobody wants is not kept.
            self.returned = 0;
        } else {
            // At most twice the rate, however many did not come.
            let again = self.returned.min(earned);
            let spent = self.call(self.credit + again);
            let of_credit = spent.min(self.credit);
            self.credit -= of_credit;
            self.returned -= spent - of_credit;
        }
        self.pace.note(self.now_ms, self.called, self.issued > self.called);
        self.check_invariants();
    }

    /// Calls as many as wait, have a place, and are paid for. Gives what it spent.
    fn call(&mut self, credit: u64) -> u64 {
        let free = u64::from(self.settings.active).saturating_sub(self.occupied());
        let count = (credit / self.settings.period_ms).min(self.issued - self.called).min(free);
        if count > 0 {
            self.called += count;
            self.outstanding += count;
            self.note_call();
        }
        count * self.settings.period_ms
    }

    fn note_call(&mut self) {
        let step = self.now_ms / self.settings.claim_step_ms();
        match self.calls.back_mut() {
            Some((last, called)) if *last == step => *called = self.called,
            _ => self.calls.push_back((step, self.called)),
        }
    }

    /// Passes over those who were called long enough ago.
    fn pass_over(&mut self) {
        let step_ms = self.settings.claim_step_ms();
        while let Some((step, called)) = self.calls.front().copied()
            && (step + 1) * step_ms + self.settings.claim_ms <= self.now_ms
        {
            self.calls.pop_front();
            let missing = self.claims.count_unset(self.passed, called);
            self.passed = called;
            self.claims.forget_up_to(called);
            self.outstanding -= missing;
            self.counts.passed += missing;
            self.returned = (self.returned + missing * self.settings.period_ms).min(self.settings.burst());
        }
    }

    /// A visitor without a number.
    pub fn arrive(&mut self, now_ms: u64) -> Arrival {
        self.advance(now_ms);
        if self.issued == self.called
            && self.credit >= self.settings.period_ms
            && self.occupied() < u64::from(self.settings.active)
        {
            self.credit -= self.settings.period_ms;
            let id = self.next_number();
            self.called = self.issued;
            self.note_call();
            self.begin_session(id, self.first_session_ms());
            self.check_invariants();
            return Arrival::Admitted(id);
        }
        if self.issued - self.called >= u64::from(self.settings.waiting) {
            return Arrival::Full;
        }
        let id = self.next_number();
        self.counts.issued += 1;
        self.check_invariants();
        Arrival::Waits(id)
    }

    fn next_number(&mut self) -> Id {
        self.issued += 1;
        self.claims.add(self.issued);
        Id { epoch: self.epoch(), number: self.issued }
    }

    fn begin_session(&mut self, id: Id, length_ms: u64) {
        self.claims.set(id.number);
        self.sessions.begin(id, self.now_ms, self.now_ms + length_ms);
        self.counts.admitted += 1;
    }

    /// A visitor with a number wants to come in.
    pub fn claim(&mut self, id: Id, now_ms: u64) -> Claim {
        self.advance(now_ms);
        if !gave(&self.epochs, self.issued, id) {
            return Claim::Unknown;
        }
        if id.number > self.called {
            return Claim::NotYet;
        }
        if id.number <= self.passed {
            return self.used_just_now(id).unwrap_or(Claim::Passed);
        }
        if self.claims.is_set(id.number) {
            return self.used_just_now(id).unwrap_or(Claim::Used { just_now: false });
        }
        self.outstanding -= 1;
        self.begin_session(id, self.settings.session_ms);
        self.check_invariants();
        Claim::Admitted
    }

    fn used_just_now(&self, id: Id) -> Option<Claim> {
        let began_ms = self.sessions.began_ms(id)?;
        Some(Claim::Used { just_now: began_ms + JUST_NOW_MS > self.now_ms })
    }

    /// A session that would have ended at `ends_ms` by what its visitor knows goes on from now. Gives its
    /// new end, or `None` where it has ended.
    ///
    /// One that is not known is one of a life before this, since none ends before what its visitor knows.
    pub fn renew(&mut self, id: Id, ends_ms: u64, now_ms: u64) -> Option<u64> {
        self.advance(now_ms);
        if ends_ms <= self.now_ms {
            return None;
        }
        let new_end_ms = self.now_ms + self.settings.session_ms;
        self.sessions.renew(id, ends_ms, self.now_ms, new_end_ms);
        self.check_invariants();
        Some(new_end_ms)
    }

    /// The lives of the room by their first number, the newest last. They stay the same as long as this
    /// one goes on.
    #[must_use]
    pub fn lives(&self) -> &[(u32, u64)] {
        &self.epochs
    }

    fn epoch(&self) -> u32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    /// Places inside that are taken.
    fn occupied(&self) -> u64 {
        self.sessions.len() + self.outstanding
    }

    /// How long the session of a number lasts that was exchanged.
    #[must_use]
    pub fn session_ms(&self) -> u64 {
        self.settings.session_ms
    }

    /// How long that of a visitor lasts who came in at once, unless it is renewed. Who has never shown what
    /// it was given may be somebody who keeps nothing, and begins a session with each request.
    #[must_use]
    pub fn first_session_ms(&self) -> u64 {
        self.settings.session_ms.min(self.settings.claim_ms)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { waiting: self.issued - self.called, active: self.occupied(), ..self.counts }
    }

    /// What those who wait can expect.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let is_full = self.occupied() >= u64::from(self.settings.active);
        Outlook {
            issued: self.issued,
            called: self.called,
            calls_per_million_s: self.pace.calls_per_million_s(&self.settings),
            next_place_ms: if is_full { self.sessions.first_end_ms().unwrap_or(0) } else { 0 },
        }
    }

    fn check_invariants(&self) {
        debug_assert!(self.passed <= self.called && self.called <= self.issued);
        // The count itself only where it is quick: simulations have a million visitors.
        debug_assert!(
            self.called - self.passed > 1024 || self.outstanding == self.claims.count_unset(self.passed, self.called)
        );
        debug_assert!(self.credit <= self.settings.burst() && self.returned <= self.settings.burst());
        debug_assert!(self.epochs.len() <= ROOM_EPOCHS && !self.epochs.is_empty());
        debug_assert!(self.calls.back().map_or(self.passed, |(_, called)| *called) == self.called);
        debug_assert!(self.calls.len() as u64 <= ROOM_CLAIM_STEPS + 2);
    }
}
