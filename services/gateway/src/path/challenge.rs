//! Whether a client has solved the challenge of a route, and what those are told who have not.

use sumun_http::Known;
use sumun_http::negotiate::{PageForm, page_form};

use super::waiting_room::{is_preflight, is_secure, set_cookie};
use super::{Ended, Exchange, answer, client_address, proxy};
use crate::challenge::{self, Challenge};
use crate::events::Reason;
use crate::limits::CHALLENGE_COOKIES;
use crate::rooms::Language;

/// What has been given for a solved challenge.
const PASS: &str = "sumun_pass";

/// What the page's script sets.
const ANSWER: &str = "sumun_answer";

/// `None`: the request may pass.
pub(super) async fn check(exchange: &mut Exchange<'_>, challenge: &Challenge) -> Option<Ended> {
    if is_preflight(exchange) {
        return None;
    }
    let client = client_address::key_of(exchange);
    let now_ms = challenge.now_ms(exchange.worker.clock.coarse_ms());
    if shown(exchange, PASS).any(|value| challenge.passes(value, client, now_ms)) {
        return None;
    }
    if shown(exchange, ANSWER).any(|value| challenge.is_solved(value, client, now_ms)) {
        let secure = if is_secure(exchange) { "; Secure" } else { "" };
        let (value, age_s) = (challenge.pass(client, now_ms), challenge.pass_ms.div_ceil(1000));
        let cookie = format!("{PASS}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}");
        set_cookie(exchange, cookie.as_bytes());
        return None;
    }
    Some(tell(exchange, challenge, &challenge.of(client, now_ms)).await)
}

/// Each of them may cost a hash.
fn shown<'a>(exchange: &Exchange<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    proxy::cookies(exchange, name).take(CHALLENGE_COOKIES)
}

/// A browser gets the page, everybody else is told what it is about.
async fn tell(exchange: &mut Exchange<'_>, challenge: &Challenge, text: &str) -> Ended {
    let (reason, bits) = (Reason::Challenge, challenge.bits);
    let status = reason.status();
    let mut fields = "Cache-Control: no-store\r\nVary: Accept, Accept-Language, Cookie\r\n".to_owned();
    let form = page_form(exchange.head.known(exchange.bytes, Known::Accept));
    let (content_type, body) = if form == PageForm::Json {
        let (error, reason) = (crate::path::phrase(status), reason.as_str());
        let text = format!(
            r#"{{"status":{status},"error":"{error}","reason":"{reason}","challenge":"{text}","bits":{bits}}}"#
        );
        ("application/json", text)
    } else {
        let policy = &*challenge::POLICY;
        fields.push_str(&format!("Content-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n"));
        let language = Language::preferred(exchange.head.values(exchange.bytes, b"accept-language").next());
        ("text/html; charset=utf-8", challenge::page(language, text, bits))
    };
    answer::of_waiting_room(exchange, (status, reason), content_type, body.as_bytes(), fields.as_bytes()).await
}
