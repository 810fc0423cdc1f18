//! Whether a visitor may come in, and what those are told who wait.
//!
//! ```text
//!   session ──► in; renewed once a tenth of it is over
//!   ticket  ──► not called: its place, without a lock
//!               called: exchanged for a session, once ──► in
//!   neither ──► nobody waits and there is room ──► in, with a session
//!               a ticket at the end of the queue
//! ```
//!
//! The page asks with `X-Waiting-Room: look`. That exchanges nothing and reaches no server: it only
//! tells where the visitor is.

use sumun_http::negotiate::{PageForm, page_form};
use sumun_http::{Known, Method};
use sumun_traffic::waiting_room::{Arrival, Claim, Id, Outlook};

use super::{Ended, Exchange, answer, client_address, proxy};
use crate::events::Reason;
use crate::limits::{ROOM_CONNECTION, ROOM_COOKIES};
use crate::rooms::{Filling, Language, Pass, RoomDoor, SharedRoom};
use crate::site::Route;

/// What the page's script sends.
const LOOK: &[u8] = b"x-waiting-room";

/// A visitor keeps a ticket for so long, in seconds; its number is good for as long as somebody waits.
const TICKET_AGE_S: u64 = 24 * 3600;

/// Who has to come back for a moment's reason does so after this. Milliseconds.
const MOMENT_MS: u64 = 1_500;

/// Who is refused a place asks for another one no sooner. Milliseconds.
const REFUSED_MS: u64 = 10_000;

/// What a visitor is told.
enum Told {
    /// Waits in this place.
    Place(u64),
    /// Has been called: the page is to come in.
    Called,
    /// Is to come back in a moment, with what the visitor has.
    Moment,
    /// Has no place, as only a look was asked for.
    Nothing,
    /// As many wait as may.
    Full,
    /// So many new places for one client are too many.
    TooMany { retry_ms: u64 },
}

/// `None`: the visitor is in. Otherwise what to wait for has been said.
pub(super) async fn check(exchange: &mut Exchange<'_>, route: &Route) -> Option<Ended> {
    let door = route.room.as_ref()?;
    if is_preflight(exchange) {
        return None;
    }
    let told = judge(exchange, door, &route.config.path).await?;
    Some(tell(exchange, door, told).await)
}

/// A browser asks without cookies whether a page of another origin may ask, before that does.
pub(super) fn is_preflight(exchange: &Exchange<'_>) -> bool {
    exchange.head.method == Method::Options
        && exchange.head.values(exchange.bytes, b"access-control-request-method").next().is_some()
}

async fn judge(exchange: &mut Exchange<'_>, door: &RoomDoor, path: &sumun_config::checked::PathMatch) -> Option<Told> {
    let room = &*door.shared;
    let now_ms = room.now_ms(exchange.worker.clock.coarse_ms());
    let is_look = exchange.head.values(exchange.bytes, LOOK).next().is_some();
    let cookie = Cookie { door, path: cookie_path(path), is_secure: is_secure(exchange) };
    match shown(exchange, door, now_ms) {
        Some(Pass::Session { .. }) if is_look => Some(Told::Called),
        Some(Pass::Session { id, ends_ms }) => {
            renew(exchange, room, &cookie, (id, ends_ms), now_ms).await;
            None
        }
        Some(Pass::Ticket { id, .. }) if room.gave(id) => {
            let place = room.outlook().place(id.number);
            if place > 0 {
                return Some(Told::Place(place));
            }
            if is_look {
                return Some(Told::Called);
            }
            come_in(exchange, room, &cookie, id, now_ms).await
        }
        // Whatever it is: not now.
        _ if room.is_frozen() => Some(Told::Moment),
        shown => {
            // Given in the last moment of a life of the room, or so long ago that it is forgotten.
            if shown.is_some() {
                count(&room.refused.passed);
            }
            if is_look { Some(Told::Nothing) } else { arrive(exchange, room, &cookie, now_ms).await }
        }
    }
}

/// The best of what the client shows: a session that has not ended, else a ticket.
fn shown(exchange: &Exchange<'_>, door: &RoomDoor, now_ms: u64) -> Option<Pass> {
    let mut ticket = None;
    for value in proxy::cookies(exchange, &door.cookie).take(ROOM_COOKIES) {
        match door.shared.signer.read(value) {
            Some(Pass::Session { ends_ms, .. }) if ends_ms <= now_ms => {}
            Some(session @ Pass::Session { .. }) => return Some(session),
            Some(found) => ticket = ticket.or(Some(found)),
            None => count(&door.shared.refused.forged),
        }
    }
    ticket
}

/// A session whose visitor is still here goes on. Seldom enough that most requests need no lock.
async fn renew(exchange: &mut Exchange<'_>, room: &SharedRoom, cookie: &Cookie<'_>, session: (Id, u64), now_ms: u64) {
    let (id, ends_ms) = session;
    let left_ms = ends_ms.saturating_sub(now_ms);
    if left_ms < cookie.door.session_ms - cookie.door.session_ms / 10
        && let Some(ends_ms) = room.renew(id, ends_ms, now_ms).await
    {
        set_cookie(exchange, &cookie.session(id, ends_ms, now_ms));
    }
}

pub(super) fn set_cookie(exchange: &mut Exchange<'_>, value: &[u8]) {
    for part in [b"Set-Cookie: ", value, b"\r\n"] {
        exchange.own_fields.extend_from_slice(part);
    }
}

/// A number that has been called.
async fn come_in(
    exchange: &mut Exchange<'_>,
    room: &SharedRoom,
    cookie: &Cookie<'_>,
    id: Id,
    now_ms: u64,
) -> Option<Told> {
    let Some((claim, ends_ms)) = room.claim(id, now_ms).await else { return Some(Told::Moment) };
    match claim {
        Claim::Admitted => {
            set_cookie(exchange, &cookie.session(id, ends_ms, now_ms));
            None
        }
        Claim::NotYet => Some(Told::Place(room.outlook().place(id.number).max(1))),
        // Two requests of one browser, or two tabs: the session's cookie is there by the next one, and
        // another ticket would overwrite it.
        Claim::Used { just_now: true } => {
            count(&room.refused.used);
            Some(Told::Moment)
        }
        Claim::Used { just_now: false } => {
            count(&room.refused.used);
            arrive(exchange, room, cookie, now_ms).await
        }
        Claim::Passed | Claim::Unknown => {
            count(&room.refused.passed);
            arrive(exchange, room, cookie, now_ms).await
        }
    }
}

/// A visitor without a place.
async fn arrive(exchange: &mut Exchange<'_>, room: &SharedRoom, cookie: &Cookie<'_>, now_ms: u64) -> Option<Told> {
    if room.is_frozen() {
        return Some(Told::Moment);
    }
    // Exactly, as the coarse clocks of two workers differ: who was refused by one would be let in by another.
    let now_us = exchange.worker.clock.now_us();
    if let Err(empty) = room.take_ticket(client_address::of(exchange), now_us) {
        count(&room.refused.rate);
        return Some(Told::TooMany { retry_ms: (empty.retry_after_ns / 1_000_000).max(REFUSED_MS) });
    }
    let Some((arrival, ends_ms)) = room.arrive(now_ms).await else { return Some(Told::Moment) };
    match arrival {
        Arrival::Admitted(id) => {
            set_cookie(exchange, &cookie.session(id, ends_ms, now_ms));
            None
        }
        Arrival::Waits(id) => {
            set_cookie(exchange, &cookie.ticket(id, now_ms));
            Some(Told::Place(room.outlook().place(id.number).max(1)))
        }
        Arrival::Full => {
            count(&room.refused.full);
            Some(Told::Full)
        }
    }
}

pub(super) fn is_secure(exchange: &Exchange<'_>) -> bool {
    let forwarded = || exchange.head.known(exchange.bytes, Known::XForwardedProto) == Some(b"https");
    exchange.security.is_some() || (exchange.trusted && forwarded())
}

/// Where the cookie is sent (RFC 6265 section 5.1.4): below the route's path, where that can be said.
fn cookie_path(path: &sumun_config::checked::PathMatch) -> &str {
    use sumun_config::checked::PathMatch;
    let path = match path {
        PathMatch::Prefix(prefix) => prefix.strip_suffix('/').unwrap_or(prefix),
        PathMatch::Exact(path) => path,
        PathMatch::Regex(_) => "/",
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    if !path.is_empty() && path.bytes().all(is_plain) { path } else { "/" }
}

struct Cookie<'a> {
    door: &'a RoomDoor,
    path: &'a str,
    is_secure: bool,
}

impl Cookie<'_> {
    fn ticket(&self, id: Id, now_ms: u64) -> Box<[u8]> {
        self.value(Pass::Ticket { id, given_ms: now_ms }, TICKET_AGE_S)
    }

    fn session(&self, id: Id, ends_ms: u64, now_ms: u64) -> Box<[u8]> {
        self.value(Pass::Session { id, ends_ms }, ends_ms.saturating_sub(now_ms).div_ceil(1000))
    }

    fn value(&self, pass: Pass, age_s: u64) -> Box<[u8]> {
        let Self { door, path, is_secure } = self;
        let secure = if *is_secure { "; Secure" } else { "" };
        let (name, value) = (&door.cookie, door.shared.signer.sign(pass));
        let text = format!("{name}={value}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}");
        text.into_bytes().into()
    }
}

/// Says how things stand, in the form that the client prefers.
async fn tell(exchange: &mut Exchange<'_>, door: &RoomDoor, told: Told) -> Ended {
    let outlook = door.shared.outlook();
    let now_ms = door.shared.now_ms(exchange.worker.clock.coarse_ms());
    let (state, filling, reason) = told.what(&outlook, now_ms);
    let is_look = exchange.head.values(exchange.bytes, LOOK).next().is_some();
    let status = if is_look { 200 } else { reason.status() };
    if filling.ask_again_ms > ROOM_CONNECTION.as_millis() as u64 {
        // A crowd that waits is not to hold a descriptor each.
        exchange.keep_alive = false;
    }
    let language = Language::preferred(exchange.head.values(exchange.bytes, b"accept-language").next());
    let is_json = is_look || page_form(exchange.head.known(exchange.bytes, Known::Accept)) == PageForm::Json;
    let mut fields = format!(
        "Cache-Control: no-store\r\nVary: Accept, Accept-Language, Cookie\r\nRetry-After: {}\r\n",
        filling.ask_again_ms.div_ceil(1000)
    );
    let (content_type, body) = if is_json {
        ("application/json", json(status, state, reason, filling, language))
    } else {
        if let Some(policy) = &door.page.policy {
            fields.push_str(&format!("Content-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n"));
        }
        ("text/html; charset=utf-8", door.page.fill(language, filling))
    };
    answer::of_waiting_room(exchange, (status, reason), content_type, body.as_bytes(), fields.as_bytes()).await
}

impl Told {
    /// A word for scripts, what the page shows, and why the request ended.
    fn what(&self, outlook: &Outlook, now_ms: u64) -> (&'static str, Filling, Reason) {
        let none = |ask_again_ms| Filling { place: 0, wait_ms: 0, ask_again_ms };
        match self {
            Self::Place(place) => {
                let wait_ms = outlook.wait_ms(*place, now_ms);
                let filling = Filling { place: *place, wait_ms, ask_again_ms: outlook.ask_again_ms(wait_ms) };
                ("waiting", filling, Reason::WaitingRoom)
            }
            Self::Called => ("called", none(0), Reason::WaitingRoom),
            Self::Moment => ("moment", none(MOMENT_MS), Reason::WaitingRoom),
            Self::Nothing => ("none", none(MOMENT_MS), Reason::WaitingRoom),
            Self::Full => ("full", none(REFUSED_MS), Reason::WaitingRoomFull),
            Self::TooMany { retry_ms } => ("too_many", none(*retry_ms), Reason::WaitingRoomTickets),
        }
    }
}

fn json(status: u16, state: &str, reason: Reason, filling: Filling, language: Language) -> String {
    let Filling { place, wait_ms, ask_again_ms } = filling;
    let (error, reason) = (crate::path::phrase(status), reason.as_str());
    let seconds = wait_ms.div_ceil(1000);
    let mut text = format!(r#"{{"status":{status},"error":"{error}","reason":"{reason}","state":"{state}""#);
    if place > 0 {
        text.push_str(&format!(r#","place":{place},"wait_s":{seconds},"wait":"{}""#, language.wait(wait_ms)));
    }
    text.push_str(&format!(r#","ask_again_ms":{ask_again_ms}}}"#));
    text
}

fn count(counter: &std::sync::atomic::AtomicU64) {
    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use sumun_config::checked::PathMatch;

    use super::*;

    #[test]
    fn paths_of_cookies() {
        for (path, expected) in [
            (PathMatch::Prefix("/sale/".into()), "/sale"),
            (PathMatch::Prefix("/".into()), "/"),
            (PathMatch::Exact("/sale/2026".into()), "/sale/2026"),
            (PathMatch::Exact("/a;Domain=b".into()), "/"),
            (PathMatch::Prefix("/\u{d55c}/".into()), "/"),
        ] {
            assert_eq!(cookie_path(&path), expected, "{path:?}");
        }
    }
}
