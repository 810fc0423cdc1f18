//! A waiting room that several gateways share: all of it lies in a Redis or Valkey, and each step is one
//! script there (`far.lua`), so that there is one queue, one rate, and one exchange of a ticket.
//!
//! While it is away the queue stands still: who has a ticket keeps the place, and who is inside stays
//! inside. Where nobody waited, each gateway lets newcomers in at its share of the rate, up to its share of
//! the places that were free.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sumun_config::checked::SharedThrough;
use sumun_engine::rooms::RoomName;
use sumun_pools::redis::{Redis, Reply};
use sumun_traffic::token_bucket::Rate;
use sumun_traffic::waiting_room::{Arrival, Claim, Counts, Id, Outlook, Pace, Settings};

use crate::limits::{ROOM_PATIENCE, SHARED_PATIENCE, UNHEARD_MAX};

const SCRIPT: &str = include_str!("far.lua");

/// The room, as one gateway sees it.
#[derive(Debug)]
pub(super) struct FarRoom {
    redis: Arc<Redis>,
    keys: Vec<String>,
    /// Tells this process from others.
    gateway: String,
    /// Of those whom this gateway lets in alone.
    epoch: u32,
    settings: Mutex<Settings>,
    seen: Mutex<Seen>,
}

/// What was heard of it last, and what has happened here.
#[derive(Debug, Default)]
struct Seen {
    /// `None`: nothing yet.
    epoch: Option<u32>,
    outlook: Outlook,
    occupied: u64,
    /// At least 1 once anything was heard.
    gateways: u64,
    pace: Pace,
    counts: Counts,
    /// While it is away: the state of a bucket, who was let in since, and over all.
    alone_word: u64,
    alone_since: u64,
    alone_number: u64,
    /// Numbers that asked to come in and were not answered in time.
    unheard: HashSet<u64>,
}

struct Answer {
    verdict: u64,
    number: u64,
}

/// Of steps that are no visitor's with a number.
const NOBODY: Id = Id { epoch: 0, number: 0 };

/// Largest number of a script: what doubles count exactly.
const NUMBER_MAX: u64 = 1 << 53;

impl FarRoom {
    pub(super) fn new(
        redis: &Arc<Redis>,
        shared: &SharedThrough,
        name: &RoomName,
        settings: Settings,
        epoch: u32,
    ) -> Self {
        let key = |what: &str| format!("{}:room:{}:{what}", shared.prefix, name.as_str());
        Self {
            redis: Arc::clone(redis),
            keys: ["counters", "called", "inside", "gateways"].map(key).into(),
            gateway: format!("{epoch:08x}"),
            epoch,
            settings: Mutex::new(settings.bounded()),
            seen: Mutex::default(),
        }
    }

    pub(super) fn change(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings.bounded();
    }

    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is known of it yet.
    pub(super) fn is_unseen(&self) -> bool {
        self.seen().epoch.is_none()
    }

    /// The signature says that one of the gateways gave it, and this that no room was lost since. Its number
    /// may be one that was not heard of yet.
    pub(super) fn gave(&self, id: Id) -> bool {
        self.seen().epoch == Some(id.epoch)
    }

    pub(super) fn outlook(&self) -> Outlook {
        self.seen().outlook
    }

    pub(super) fn counts(&self) -> Counts {
        let seen = self.seen();
        Counts { waiting: seen.outlook.waiting(), active: seen.occupied, ..seen.counts }
    }

    /// Brings it up to date, and hears how it stands.
    pub(super) async fn look(&self) {
        self.step("look", NOBODY).await;
    }

    /// `None`: it is away, and nobody can be let in.
    pub(super) async fn arrive(&self, now_ms: u64) -> Option<Arrival> {
        let Some(answer) = self.step("arrive", NOBODY).await else {
            // One that answers late may have given a number.
            return if self.redis.is_up() { None } else { self.arrive_alone(now_ms) };
        };
        let mut seen = self.seen();
        let id = Id { epoch: seen.epoch?, number: answer.number };
        Some(match answer.verdict {
            1 => {
                seen.counts.admitted += 1;
                Arrival::Admitted(id)
            }
            2 => {
                seen.counts.issued += 1;
                Arrival::Waits(id)
            }
            3 => Arrival::Full,
            _ => return None,
        })
    }

    fn arrive_alone(&self, now_ms: u64) -> Option<Arrival> {
        let (settings, mut seen) = (self.settings(), self.seen());
        let gateways = seen.gateways.max(1);
        let free = u64::from(settings.active).saturating_sub(seen.occupied) / gateways;
        if seen.epoch.is_none() || seen.outlook.waiting() > 0 || seen.alone_since >= free {
            return None;
        }
        let period_ns = settings.period_ms.saturating_mul(1_000_000).saturating_mul(gateways);
        let rate = Rate::new(settings.admit.into(), period_ns, 1);
        seen.alone_word = rate.take(seen.alone_word, now_ms.saturating_mul(1_000_000)).ok()?;
        seen.alone_since += 1;
        seen.alone_number += 1;
        seen.counts.admitted += 1;
        Some(Arrival::Admitted(Id { epoch: self.epoch, number: seen.alone_number }))
    }

    /// `None`: it is away.
    pub(super) async fn claim(&self, id: Id) -> Option<Claim> {
        let Some(answer) = self.step("claim", id).await else {
            // The answer may only be late: then the place is taken, and the visitor has not heard of it.
            let mut seen = self.seen();
            if seen.unheard.len() < UNHEARD_MAX {
                seen.unheard.insert(id.number);
            }
            return None;
        };
        let is_unheard = self.seen().unheard.remove(&id.number);
        Some(match answer.verdict {
            5 | 6 if is_unheard => Claim::Admitted,
            1 => {
                self.seen().counts.admitted += 1;
                Claim::Admitted
            }
            4 => Claim::NotYet,
            5 => Claim::Used { just_now: true },
            6 => Claim::Used { just_now: false },
            7 => Claim::Passed,
            8 => Claim::Unknown,
            _ => return None,
        })
    }

    /// A session goes on; also while it is away.
    pub(super) async fn renew(&self, id: Id) {
        self.step("renew", id).await;
    }

    pub(super) fn session_ms(&self) -> u64 {
        self.settings().session_ms
    }

    /// As `Room::first_session_ms`.
    pub(super) fn first_session_ms(&self) -> u64 {
        let Settings { session_ms, claim_ms, .. } = self.settings();
        session_ms.min(claim_ms)
    }

    async fn step(&self, step: &str, id: Id) -> Option<Answer> {
        let Settings { admit, period_ms, active, session_ms, claim_ms, waiting } = self.settings();
        let mut words = vec![step.to_owned(), self.gateway.clone()];
        let numbers = [
            admit.into(),
            period_ms,
            active.into(),
            session_ms,
            claim_ms,
            waiting.into(),
            // Should it begin anew: another life each time.
            fastrand::u32(1..).into(),
            id.epoch.into(),
            id.number,
        ];
        words.extend(numbers.map(|number| number.to_string()));
        // Nobody waits for a look.
        let patience = if step == "look" { SHARED_PATIENCE } else { ROOM_PATIENCE };
        let reply = self.redis.eval(SCRIPT, &self.keys, &words, patience).await;
        let Some(Reply::Numbers(numbers)) = reply else { return None };
        let numbers: Vec<u64> =
            numbers.iter().map(|number| u64::try_from(*number).unwrap_or(0).min(NUMBER_MAX)).collect();
        let [verdict, number, epoch, issued, called, occupied, first_end_ms, missed, gateways] =
            *<&[u64; 9]>::try_from(&*numbers).ok()?;
        let mut seen = self.seen();
        if seen.epoch != u32::try_from(epoch).ok() {
            *seen = Seen { counts: seen.counts, alone_number: seen.alone_number, ..Seen::default() };
            seen.epoch = u32::try_from(epoch).ok();
        }
        // Answers come in the order of the steps, and those who wait for them may be woken in another.
        seen.outlook.issued = seen.outlook.issued.max(issued);
        seen.outlook.called = seen.outlook.called.max(called.min(issued));
        seen.outlook.next_place_ms = first_end_ms;
        seen.occupied = occupied;
        seen.alone_since = 0;
        seen.counts.passed = seen.counts.passed.saturating_add(missed);
        if gateways > 0 {
            seen.gateways = gateways;
        }
        Some(Answer { verdict, number })
    }

    /// How fast numbers are called, for what those who wait are told.
    pub(super) fn note_pace(&self, now_ms: u64) {
        let settings = self.settings();
        let mut seen = self.seen();
        let Outlook { called, .. } = seen.outlook;
        let somebody_waits = seen.outlook.waiting() > 0;
        seen.pace.note(now_ms, called, somebody_waits);
        seen.outlook.calls_per_million_s = seen.pace.calls_per_million_s(&settings);
    }
}
