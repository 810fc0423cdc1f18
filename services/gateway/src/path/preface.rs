//! Whom a proxy in front speaks for, where the listener has `proxy_protocol: accept`.
//!
//! A proxy is held against access lists and bounds by the address it names, not by its own, unless
//! it speaks for itself (`LOCAL`, `UNKNOWN`, a client without an IP address).

use std::net::SocketAddr;

use sumun_engine::accept::Admitted;
use sumun_engine::preface::{self, Refusal};
use sumun_engine::{Deadline, Worker};

use super::{guard, watch};
use crate::events::Event;
use crate::io::Stream;
use crate::site::Site;

/// This peer has to say whom it speaks for.
pub(super) fn is_awaited(site: &Site, peer: Option<SocketAddr>) -> bool {
    preface::is_awaited(&site.config, &site.trusted_proxies, peer)
}

/// Takes the header, if there is one, and says who the client is. `admitted` then counts that
/// client. `Err`: the connection has to be closed; why has been counted and logged.
pub(super) async fn accept_proxy_header(
    stream: &Stream,
    deadline: &Deadline,
    worker: &Worker,
    site: &Site,
    peer: Option<SocketAddr>,
    admitted: &mut Admitted,
) -> Result<Option<SocketAddr>, ()> {
    let awaited = is_awaited(site, peer);
    deadline.set(site.config.bounds.header_timeout);
    let socket = stream.socket().ok_or(())?;
    let taken = match preface::take_header(socket, deadline, awaited).await {
        Ok(taken) => taken,
        Err(refusal) => {
            note(worker, site, peer, refusal);
            return Err(());
        }
    };
    if !awaited {
        return Ok(peer);
    }
    let client = taken.and_then(|taken| taken.header.addresses).map(|addresses| addresses.source).or(peer);
    if !guard::may_connect(site, client) || watch::is_shut_out(site, client, worker.clock.coarse_ms()) {
        return Err(());
    }
    if let Some(client) = client {
        admitted.count_for(client.ip()).map_err(drop)?;
    }
    Ok(client)
}

fn note(worker: &Worker, site: &Site, peer: Option<SocketAddr>, refusal: Refusal) {
    if refusal.is_broken_rule() {
        site.cell.rejected.increment();
    } else if refusal == Refusal::TimedOut {
        site.cell.timeouts.increment();
    }
    if refusal.is_to_be_logged(worker.clock.coarse_ms()) {
        Event::PrefaceRefused { listener: &site.config.name, peer, refusal }.write();
    }
}
