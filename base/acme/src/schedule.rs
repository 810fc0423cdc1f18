//! When what is to be done. Pure: the time and the dice are the caller's.
//!
//! Times are seconds since 1970, spans are seconds. A certificate is renewed after two thirds of
//! its lifetime and a little more, so that many that were obtained together do not come back
//! together; or when the authority suggests to (RFC 9773). What fails is tried again after pauses
//! that grow, longer ones where the authority had work with it. The pause is taken before the try,
//! so that a process that dies in the middle of one does not begin at once again.

use serde::{Deserialize, Serialize};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// First and longest pause after a try that did not reach the authority; it doubles.
pub const UNREACHED_FIRST: u64 = 10;
pub const UNREACHED_LONGEST: u64 = HOUR;

/// First and longest pause after an order that the authority refused; it triples. Public ones let
/// an account fail five times an hour with one name.
pub const REFUSED_FIRST: u64 = 2 * MINUTE;
pub const REFUSED_LONGEST: u64 = 12 * HOUR;

/// An authority that asks for a longer pause than this is asked again after this.
pub const RETRY_AFTER_LONGEST: u64 = DAY;

/// Pauses are longer by up to this part of them, by the dice.
const PAUSE_JITTER: u64 = 4;

/// An order that is in flight is looked at again after this; it doubles up to the longest.
pub const RESUME_FIRST: u64 = 10;
pub const RESUME_LONGEST: u64 = 10 * MINUTE;

/// An order that was taken up again so often, or is so old, counts as failed.
pub const RESUMES: u32 = 12;
pub const ORDER_AGE: u64 = DAY;

/// Of two orders for the same certificate the second comes after a tenth of its lifetime at least,
/// within these: whatever clocks and authorities say.
pub const ORDERS_APART_LEAST: u64 = 10;
pub const ORDERS_APART_MOST: u64 = 6 * HOUR;

/// Renewal comes later by up to this part of the lifetime, by the dice.
const RENEWAL_JITTER: u64 = 30;

/// Authorities are asked when to renew no more and no less often than this.
pub const WINDOW_LOOK_LEAST: u64 = HOUR;
pub const WINDOW_LOOK_MOST: u64 = DAY;

/// Where the answer did not come, or there is none to be had.
pub const WINDOW_LOOK_FAILED: u64 = 6 * HOUR;
pub const WINDOW_LOOK_UNKNOWN: u64 = 7 * DAY;

/// For certificates of a shorter life they are not asked.
const WINDOW_LIFETIME: u64 = 2 * DAY;

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: u64,
    pub not_after: u64,
}

impl Validity {
    fn lifetime(self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }
}

/// How a try ended, as far as the next one depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The authority has hardly noticed.
    Unreached,
    /// It had work.
    Refused,
}

/// What is remembered, over restarts too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// When the last order was begun.
    pub last_try: Option<u64>,
    /// Tries in a row that failed.
    pub failures: u32,
    /// No order before this.
    pub not_before: u64,
    /// The order that is with the authority.
    pub in_flight: Option<InFlight>,
    /// Drawn for each certificate: where in its span the renewal lies.
    pub draw: u32,
    /// When the authority would have the certificate renewed.
    pub window: Option<Window>,
    /// When it is asked that again.
    pub window_look: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    pub begun: u64,
    /// When it was worked on last.
    pub touched: u64,
    pub resumed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start: u64,
    pub end: u64,
}

/// What is to be done, and not before when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub at: u64,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Order,
    /// Go on with the order that is in flight.
    Resume,
    /// Ask the authority when to renew.
    Look,
}

/// What comes next. `validity` is that of the certificate that is there for all wanted names.
#[must_use]
pub fn next(timing: &Timing, validity: Option<Validity>, now: u64) -> Next {
    if let Some(order) = timing.in_flight {
        let pause = grown(RESUME_FIRST, 2, order.resumed, RESUME_LONGEST);
        // A clock that was set back makes nobody wait for its old time.
        let at = if order.touched > now { now } else { order.touched + pause };
        return Next { at, what: What::Resume };
    }
    let due = validity.map_or(0, |validity| renewal(timing, validity));
    let order = Next { at: due.max(earliest(timing, validity, now)), what: What::Order };
    match validity {
        Some(validity) if validity.lifetime() >= WINDOW_LIFETIME => {
            let at = timing.window_look.min(now + WINDOW_LOOK_UNKNOWN);
            let look = Next { at, what: What::Look };
            if look.at < order.at { look } else { order }
        }
        _ => order,
    }
}

/// When the certificate is to be renewed, if nothing stands against it.
#[must_use]
pub fn renewal(timing: &Timing, validity: Validity) -> u64 {
    let lifetime = validity.lifetime();
    let of_span = |span: u64| ((u128::from(span) * u128::from(timing.draw)) >> 32) as u64;
    let usual = validity.not_before + lifetime / 3 * 2 + of_span(lifetime / RENEWAL_JITTER);
    match timing.window {
        // It may bring the renewal forward as it likes, and not put it off to the last moment.
        Some(window) if window.start < window.end => {
            let suggested = window.start.saturating_add(of_span(window.end - window.start));
            suggested.min(validity.not_before + lifetime / 10 * 9)
        }
        _ => usual,
    }
}

/// No order before this.
fn earliest(timing: &Timing, validity: Option<Validity>, now: u64) -> u64 {
    let Some(last) = timing.last_try.filter(|last| *last <= now) else {
        // Never, or by a clock that was wrong: all times that came from it are.
        return 0;
    };
    let lifetime = validity.map_or(0, Validity::lifetime);
    let apart = (lifetime / 10).clamp(ORDERS_APART_LEAST, ORDERS_APART_MOST);
    timing.not_before.max(last + apart)
}

impl Timing {
    /// An order is about to begin: until it is known to have gone well it counts as failed.
    pub fn begin(&mut self, now: u64, dice: u32) {
        self.last_try = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + pause(Failed::Unreached, self.failures, None, dice);
    }

    /// The authority has an order of ours.
    pub fn placed(&mut self, now: u64) {
        self.in_flight = Some(InFlight { begun: now, touched: now, resumed: 0 });
    }

    /// Goes on with the order in flight; false: it is given up, which counts as refused.
    pub fn resume(&mut self, now: u64, dice: u32) -> bool {
        let Some(order) = &mut self.in_flight else { return false };
        if order.resumed >= RESUMES || now.abs_diff(order.begun) > ORDER_AGE {
            self.failed(Failed::Refused, None, now, dice);
            return false;
        }
        order.resumed += 1;
        order.touched = now;
        true
    }

    /// The try that was begun has failed. `retry_after`: what the authority asked for, seconds.
    pub fn failed(&mut self, how: Failed, retry_after: Option<u64>, now: u64, dice: u32) {
        self.in_flight = None;
        self.not_before = now + pause(how, self.failures.max(1), retry_after, dice);
    }

    /// The try that was begun brought a certificate.
    pub fn obtained(&mut self, validity: Validity, now: u64, dice: u32) {
        let is_sound = validity.not_before <= now + DAY && validity.not_after > now;
        *self = Self {
            last_try: self.last_try,
            draw: dice,
            window_look: now + WINDOW_LOOK_LEAST,
            // Of a certificate that is over already there is more to come: not at full speed.
            failures: if is_sound { 0 } else { self.failures },
            not_before: if is_sound { 0 } else { now + pause(Failed::Refused, self.failures, None, dice) },
            ..Self::default()
        };
    }

    /// The authority said when it would have the certificate renewed, and when to ask again.
    pub fn looked(&mut self, window: Option<Window>, again_in: u64, now: u64) {
        self.window = window;
        self.window_look = now + again_in;
    }
}

/// After the n-th try in a row that failed.
fn pause(how: Failed, failures: u32, retry_after: Option<u64>, dice: u32) -> u64 {
    let before = failures.saturating_sub(1);
    let pause = match how {
        Failed::Unreached => grown(UNREACHED_FIRST, 2, before, UNREACHED_LONGEST),
        Failed::Refused => grown(REFUSED_FIRST, 3, before, REFUSED_LONGEST),
    };
    let jitter = (pause / PAUSE_JITTER * u64::from(dice)) >> 32;
    (pause + jitter).max(retry_after.unwrap_or(0).min(RETRY_AFTER_LONGEST))
}

fn grown(first: u64, factor: u64, times: u32, longest: u64) -> u64 {
    factor.saturating_pow(times).saturating_mul(first).min(longest)
}

#[cfg(test)]
mod tests;
