//! Who may pass: user and password that are checked here, or another service that is asked.
//!
//! Both hold for every method, CORS preflights included. Where a route has both, the password comes
//! first. `Authorization` goes on to the server behind as the client sent it: applications read the
//! user's name from it. A route that wants it otherwise has `request_headers: { remove: … }`.

mod basic;
mod forward;

use std::rc::Rc;

use super::{Ended, Exchange};
use crate::site::Route;

/// `Some`: the request does not pass and has been answered here.
pub(super) async fn check(exchange: &mut Exchange<'_>, route: &Rc<Route>) -> Option<Ended> {
    if let Some(auth) = &route.config.basic_auth
        && let Some(ended) = basic::check(exchange, auth).await
    {
        return Some(ended);
    }
    match &route.config.forward_auth {
        Some(auth) => forward::check(exchange, route, auth).await,
        None => None,
    }
}
