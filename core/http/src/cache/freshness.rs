//! How old a stored response is, and what may be done with it (RFC 9111 section 4.2, RFC 5861).

use super::Fields;
use super::directives::{Qualified, ResponseControl, parse_seconds};
use crate::date;
use crate::limits::CLOCKS_APART_S;

/// What the operator says instead of, or besides, the server. Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Fresh for so long, whatever the server says.
    pub ttl: Option<u32>,
    /// Fresh for so long where the server says nothing.
    pub default_ttl: Option<u32>,
    /// The same of 404, 410 and other answers that there is nothing; they are not stored where neither
    /// says anything.
    pub negative_ttl: Option<u32>,
    /// At most, of answers that there is nothing.
    pub negative_most: Option<u32>,
    /// Where the server does not say it.
    pub stale_while_revalidate: Option<u32>,
    pub stale_if_error: Option<u32>,
    /// Where nobody says anything, it is guessed from the time of the last change.
    pub is_heuristic: bool,
    /// A response with Set-Cookie may be stored; the cookie is not.
    pub stores_set_cookie: bool,
}

/// What is remembered of a stored response to tell its age and use. Times are seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When its age was 0: the time of the response less the age that it came with.
    pub born_s: u64,
    /// Fresh below this age.
    pub lifetime_s: u32,
    /// Beyond that, given out while it is fetched anew.
    pub while_revalidate_s: u32,
    /// Beyond that, given out where the server fails.
    pub if_error_s: u32,
    /// Never given out without asking.
    pub no_cache: bool,
    /// Never given out stale.
    pub must_revalidate: bool,
}

/// What a stored response is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Given out as it is.
    Fresh,
    /// Given out as it is, and fetched anew behind it.
    WhileRevalidating,
    /// The server is asked first. If it fails, see [`Validity::covers_errors`].
    Revalidate,
}

impl Validity {
    /// `asked_s` and `answered_s` are when the request went to the server and its answer came.
    #[must_use]
    pub fn of(
        status: u16,
        response: Fields<'_>,
        control: &ResponseControl,
        rules: &Rules,
        asked_s: u64,
        answered_s: u64,
    ) -> Self {
        let age_s = initial_age_s(response, asked_s, answered_s);
        Self {
            born_s: answered_s.saturating_sub(age_s),
            lifetime_s: lifetime_s(status, response, control, rules, answered_s),
            while_revalidate_s: control.stale_while_revalidate.or(rules.stale_while_revalidate).unwrap_or(0),
            if_error_s: control.stale_if_error.or(rules.stale_if_error).unwrap_or(0),
            no_cache: control.no_cache == Qualified::All && rules.ttl.is_none(),
            must_revalidate: control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some(),
        }
    }

    /// The value of `Age`.
    #[must_use]
    pub fn age_s(&self, now_s: u64) -> u64 {
        now_s.saturating_sub(self.born_s)
    }

    /// Seconds that it stays fresh; negative: for so long it has been stale.
    #[must_use]
    pub fn ttl_s(&self, now_s: u64) -> i64 {
        i64::from(self.lifetime_s).saturating_sub_unsigned(self.age_s(now_s))
    }

    #[must_use]
    pub fn use_now(&self, now_s: u64) -> Use {
        let ttl_s = self.ttl_s(now_s);
        if self.no_cache {
            Use::Revalidate
        } else if ttl_s > 0 {
            Use::Fresh
        } else if !self.must_revalidate && ttl_s > -i64::from(self.while_revalidate_s) {
            Use::WhileRevalidating
        } else {
            Use::Revalidate
        }
    }

    /// It may be given out where the server cannot be reached or answers 500, 502, 503 or 504
    /// (RFC 5861 section 4).
    #[must_use]
    pub fn covers_errors(&self, now_s: u64) -> bool {
        !self.no_cache && !self.must_revalidate && self.ttl_s(now_s) > -i64::from(self.if_error_s)
    }

    /// It becomes stale now (a soft purge), also for who has a clock that is behind; and may stand in from now on
    /// for as long as it might have.
    pub fn expire(&mut self, now_s: u64) {
        let age_s = u32::try_from(self.age_s(now_s)).unwrap_or(u32::MAX);
        let earlier_s = self.lifetime_s.min(age_s.saturating_sub(CLOCKS_APART_S));
        let moved_s = self.lifetime_s.min(age_s) - earlier_s;
        self.lifetime_s = earlier_s;
        for window_s in [&mut self.while_revalidate_s, &mut self.if_error_s] {
            if *window_s > 0 {
                *window_s = window_s.saturating_add(moved_s);
            }
        }
    }
}

/// Answers that there is nothing, and that the request is wrong.
pub(super) fn is_negative(status: u16) -> bool {
    status >= 400
}

/// That there is nothing, or that the server cannot, holds for everybody; what is wrong with a request does not.
fn is_for_all(status: u16) -> bool {
    matches!(status, 404 | 405 | 410 | 414 | 451 | 500..)
}

fn lifetime_s(status: u16, response: Fields<'_>, control: &ResponseControl, rules: &Rules, answered_s: u64) -> u32 {
    let negative = is_negative(status);
    let heuristic_s = || rules.is_heuristic.then(|| heuristic_s(status, response, control, answered_s)).flatten();
    let said = said_s(response, control, answered_s).or_else(heuristic_s);
    let lifetime_s = match (negative, rules.ttl) {
        (false, Some(ttl)) => ttl,
        (false, None) => said.or(rules.default_ttl).unwrap_or(0),
        (true, _) => said.or_else(|| rules.negative_ttl.filter(|_| is_for_all(status))).unwrap_or(0),
    };
    if negative { lifetime_s.min(rules.negative_most.unwrap_or(u32::MAX)) } else { lifetime_s }
}

/// A tenth of the time for which it has not changed, a day at most, for what may be guessed at (section 4.2.2;
/// status codes: RFC 9110 section 15.1).
fn heuristic_s(status: u16, response: Fields<'_>, control: &ResponseControl, answered_s: u64) -> Option<u32> {
    const DAY_S: u64 = 86_400;
    let may_guess = control.public || matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    let modified_s = response.only("last-modified").and_then(parse_date).filter(|_| may_guess)?;
    let date_s = response.only("date").and_then(parse_date).unwrap_or(answered_s);
    u32::try_from((date_s.saturating_sub(modified_s) / 10).min(DAY_S)).ok()
}

/// What the server says of the lifetime (section 4.2.1); `None`: nothing.
pub(super) fn said_s(response: Fields<'_>, control: &ResponseControl, answered_s: u64) -> Option<u32> {
    let by_control = control.s_maxage.or(control.max_age);
    if by_control.is_some() || control.is_targeted {
        return by_control;
    }
    response.has("expires").then(|| {
        // Several, or what is no date, is in the past (section 5.3).
        let expires_s = response.only("expires").and_then(parse_date).unwrap_or(0);
        let date_s = response.only("date").and_then(parse_date).unwrap_or(answered_s);
        u32::try_from(expires_s.saturating_sub(date_s)).unwrap_or(u32::MAX)
    })
}

/// Section 4.2.3. Of several ages the first counts, and what is no number does not (section 5.1).
fn initial_age_s(response: Fields<'_>, asked_s: u64, answered_s: u64) -> u64 {
    let said_s = response.list("age").next().and_then(parse_seconds).map_or(0, u64::from);
    let date_s = response.only("date").and_then(parse_date).unwrap_or(answered_s);
    let apparent_s = answered_s.saturating_sub(date_s);
    apparent_s.max(said_s + answered_s.saturating_sub(asked_s))
}

/// Dates are read in any case (section 4.2), and whatever day of the week they say: the rest says it, too.
fn parse_date(text: &[u8]) -> Option<u64> {
    const WEEKDAYS: [&[u8; 3]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
    date::parse(text).or_else(|| {
        let mut is_inside = false;
        let in_usual_case = text.iter().map(|byte| {
            let small = is_inside;
            is_inside = byte.is_ascii_alphabetic();
            if small { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() }
        });
        let mut usual: Vec<u8> = in_usual_case.collect();
        if let Some(zone) = usual.len().checked_sub(3).and_then(|at| usual.get_mut(at..)).filter(|zone| *zone == b"Gmt")
        {
            zone.make_ascii_uppercase();
        }
        WEEKDAYS.iter().find_map(|weekday| {
            usual.get_mut(..3)?.copy_from_slice(*weekday);
            date::parse(&usual)
        })
    })
}
