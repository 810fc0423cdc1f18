//! One finished request as a line of the access log.

use std::rc::Rc;

use sumun_engine::access_log::{Entry, Needs};
use sumun_http::Known;

use super::Exchange;
use crate::events::Reason;
use crate::site::Route;

/// Hands the line to the writer; only what its format names is looked up.
#[cold]
pub(super) fn write(exchange: &Exchange<'_>, route: Option<&Rc<Route>>, reason: Reason, total_us: u64) {
    let log = &exchange.site.log;
    let needs = log.needs();
    let (head, bytes, record) = (exchange.head, exchange.bytes, &exchange.record);
    let of_name = |name: &'_ Option<sumun_config::checked::Name>| name.as_deref().map_or(String::new(), str::to_owned);
    let known = |known: Known| head.known(bytes, known).unwrap_or_default();
    let kept = needs
        .contains(Needs::REQUEST_HEADERS)
        .then(|| log.keep_request_headers(|name| head.values(bytes, name.as_bytes()).next()));
    let before_us = record.start_us + record.queue_us + record.connect_us;
    let id_field = exchange.site.config.request_id.as_bytes();
    let given_id = || head.values(bytes, id_field).next().unwrap_or_default();
    let server = of_name(&record.server);
    log.write(&Entry {
        unix_ms: exchange.worker.clock.unix_ms().saturating_sub(total_us / 1000),
        read_us: record.read_us,
        queue_us: record.queue_us,
        connect_us: record.connect_us,
        first_byte_us: record.first_byte_at_us.saturating_sub(before_us),
        total_us: total_us + record.read_us,
        status: record.status,
        bytes_received: record.bytes_in,
        bytes_sent: record.bytes_out,
        tries: record.tries,
        reason: reason.as_str(),
        client: exchange.client,
        method: if bytes.is_empty() { b"" } else { head.method.as_str().as_bytes() },
        target: needs.text(Needs::TARGET, || head.target.of_bytes(bytes)),
        host: needs.text(Needs::HOST, || head.host_value(bytes)),
        version: if bytes.is_empty() { b"" } else { head.version.as_str().as_bytes() },
        referer: needs.text(Needs::REFERER, || known(Known::Referer)),
        user_agent: needs.text(Needs::USER_AGENT, || known(Known::UserAgent)),
        request_id: record.request_id.as_ref().map_or_else(given_id, |id| id.as_slice()),
        listener: exchange.site.config.name.as_bytes(),
        route: route.map_or(&b""[..], |route| route.config.name.as_bytes()),
        pool: record.pool.as_ref().map_or(&b""[..], |pool| pool.config.name.as_bytes()),
        server: server.as_bytes(),
        user: record.user.as_deref().map_or(&b""[..], str::as_bytes),
        request_headers: kept.as_ref(),
        response_headers: record.response_headers.as_ref(),
    });
}
