//! Who may pass, before anything is done for them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use sumun_config::checked::PathMatch;
use sumun_http::{Known, Method};

use super::{Ended, Exchange, answer, auth, limited};
use crate::events::Reason;
use crate::site::{Route, Site};

/// The listener lets this address connect at all.
pub(super) fn may_connect(site: &Site, client: Option<SocketAddr>) -> bool {
    let may = site.config.access.permits(client.map(|client| client.ip()));
    if !may {
        site.admittance.denied.fetch_add(1, Ordering::Relaxed);
    }
    may
}

/// The route's own conditions. `Some`: the request has been answered here.
pub(super) async fn check(exchange: &mut Exchange<'_>, route: &Rc<Route>) -> Option<Ended> {
    let access = &route.config.access;
    if !access.permits(exchange.client.map(|client| client.ip())) {
        return Some(answer::of_reason(exchange, Reason::Denied).await);
    }
    if !route.limits.is_empty()
        && let Some(ended) = limited::check(exchange, route).await
    {
        return Some(ended);
    }
    // Boxed, as few routes ask and every request's future would be larger.
    if (route.config.basic_auth.is_some() || route.config.forward_auth.is_some())
        && let Some(ended) = Box::pin(auth::check(exchange, route)).await
    {
        return Some(ended);
    }
    match exchange.head.method {
        Method::Connect => Some(answer::of_reason(exchange, Reason::Rejected(sumun_http::Reject::Method)).await),
        Method::Trace if !exchange.site.config.trace => {
            Some(answer::of_reason(exchange, Reason::MethodNotAllowed).await)
        }
        Method::Trace | Method::Options => by_max_forwards(exchange).await,
        _ => None,
    }
}

/// RFC 9110 section 7.6.2: with `Max-Forwards: 0` the request is answered here.
async fn by_max_forwards(exchange: &mut Exchange<'_>) -> Option<Ended> {
    let given = exchange.head.known(exchange.bytes, Known::MaxForwards);
    let is_last = given.is_some_and(|value| sumun_http::request::parse_length(value) == Some(0));
    if !is_last && !exchange.head.asterisk {
        return None;
    }
    Some(if exchange.head.method == Method::Trace {
        answer::trace(exchange).await
    } else {
        answer::options(exchange).await
    })
}

/// What is left to forward, or `None` when the request's has ended here: one hop less.
pub(super) fn max_forwards(exchange: &Exchange<'_>) -> Option<u64> {
    if !exchange.head.has(Known::MaxForwards) || !matches!(exchange.head.method, Method::Trace | Method::Options) {
        return None;
    }
    let value = exchange.head.known(exchange.bytes, Known::MaxForwards)?;
    sumun_http::request::parse_length(value).map(|hops| hops.saturating_sub(1))
}

/// The path that the server sees, where the route changes it.
pub(super) fn rewrite_path<'a>(route: &Route, path: &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let mut path = Cow::Borrowed(path);
    let mut changed = false;
    if route.config.strip_prefix
        && let PathMatch::Prefix(prefix) = &route.config.path
    {
        let keep_from = prefix.len() - 1;
        path = match path.get(keep_from..) {
            Some(rest) if !rest.is_empty() => Cow::Owned(rest.to_vec()),
            _ => Cow::Borrowed(b"/"),
        };
        changed = true;
    }
    if let Some(rewrite) = &route.config.rewrite
        && let Ok(text) = std::str::from_utf8(&path)
        && rewrite.pattern.0.is_match(text)
    {
        let replaced = rewrite.pattern.0.replace(text, rewrite.to.as_str());
        path = Cow::Owned(as_path(replaced.as_bytes()));
        changed = true;
    }
    changed.then_some(path)
}

/// Makes a path of what a rewrite gave: it begins with a slash, is normalised like any other, and
/// holds nothing that would end a path or a line.
fn as_path(replaced: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(replaced.len() + 1);
    if replaced.first() != Some(&b'/') {
        path.push(b'/');
    }
    for &byte in replaced {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'?' | b'#' | b'\\') => path.push(byte),
            _ => path.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    sumun_http::target::normalize(&path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrite_gives_a_path_whatever_it_says() {
        for (replaced, path) in [
            ("evil", "/evil"),
            ("", "/"),
            ("/a b", "/a%20b"),
            ("/a\r\nX: y", "/a%0D%0AX:%20y"),
            ("/../s", "/s"),
            ("/a?b", "/a%3Fb"),
        ] {
            assert_eq!(as_path(replaced.as_bytes()), path.as_bytes(), "{replaced:?}");
        }
    }
}
