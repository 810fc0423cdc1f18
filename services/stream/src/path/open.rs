//! From an accepted socket to a client whose bytes can be passed on: the header of a proxy in front,
//! then TLS where the listener ends it.
//!
//! Runs in a task of its own, which is larger than one that passes bytes on, and ends by starting
//! that one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use sumun_engine::preface;
use sumun_engine::tls::{Reason as TlsReason, TlsListener, Transport};

use super::{Client, serve};
use crate::end::End;
use crate::events::{Event, Reason};

/// TLS as an address of a listener ends it; `None`: the address is plain.
pub(crate) type Door = Option<Arc<TlsListener>>;

/// Opens a connection and has it served.
pub(crate) async fn open(mut client: Client, door: Door) {
    client.deadline.wake_this_task().await;
    client.deadline.set(client.front.config.bounds.header_timeout);
    if client.front.config.proxy_protocol && take_header(&mut client).await.is_err() {
        return;
    }
    if let Some(tls) = door {
        match secure(client, &tls).await {
            Some(secured) => client = secured,
            None => return,
        }
    }
    tokio::task::spawn_local(serve(client));
}

/// Takes the header of a proxy, which says who the client is. `Err`: the connection has to be closed;
/// why has been counted and logged.
async fn take_header(client: &mut Client) -> Result<(), ()> {
    let Client { end, address, worker, front, deadline, admitted, .. } = client;
    let awaited = front.awaits_header(*address);
    let header = match preface::take_header(end.socket().ok_or(())?, deadline, awaited).await {
        Ok(header) => header,
        Err(refusal) => {
            front.cell.ended(Reason::Preface);
            if refusal.is_to_be_logged(worker.clock.coarse_ms()) {
                Event::PrefaceRefused { listener: &front.config.name, peer: *address, refusal }.write();
            }
            return Err(());
        }
    };
    if !awaited {
        return Ok(());
    }
    *address = header.and_then(|header| header.addresses).map(|addresses| addresses.source).or(*address);
    let ip = address.map(|address| address.ip());
    if !front.may_connect(ip) {
        return Err(());
    }
    ip.map_or(Ok(()), |ip| admitted.count_for(ip).map_err(drop))
}

/// Does the handshake. `None`: there is no connection any more, and why has been counted.
async fn secure(client: Client, tls: &Arc<TlsListener>) -> Option<Client> {
    let Client { end, address, worker, front, deadline, admitted, record } = client;
    let transport: Transport = match end {
        End::Plain(transport) => transport,
        End::Tls(_) => return None,
    };
    let mut stream = match tls.accept(transport, worker.index) {
        Ok(stream) => Box::new(stream),
        Err(error) => {
            Event::TlsUnusable { listener: &front.config.name, error: &error }.write();
            return None;
        }
    };
    let opened = poll_fn(|context| match stream.poll_handshake(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(stream.give_up())),
        other => other.map(|result| result.map(drop)),
    })
    .await;
    match opened {
        // An authority that looked for a proof, which is in the certificate (RFC 8737 section 3).
        Ok(()) if stream.is_validation() => None,
        Ok(()) => Some(Client { end: End::Tls(stream), address, worker, front, deadline, admitted, record }),
        Err(failure) => {
            Event::HandshakeFailed { listener: &front.config.name, client: address, failure: &failure }.write();
            front.cell.ended(Reason::Handshake);
            if !matches!(failure.reason, TlsReason::Gone | TlsReason::Timeout) {
                linger(stream, &deadline).await;
            }
            None
        }
    }
}

/// What the client sent and nobody reads would take the alert with it: it is thrown away first.
async fn linger(mut stream: Box<sumun_engine::tls::TlsStream>, deadline: &sumun_engine::Deadline) {
    stream.say_goodbye();
    deadline.set(crate::limits::LINGER);
    let mut end = End::Plain(stream.into_plain().0);
    let mut left = crate::limits::LINGER_BYTES;
    poll_fn(|context| {
        if end.poll_shutdown(context).is_pending() && !deadline.passed() {
            return Poll::Pending;
        }
        let mut bytes = [0; 1024];
        while left > 0 {
            match end.poll_read(context, &mut bytes) {
                Poll::Pending if !deadline.passed() => return Poll::Pending,
                Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
            }
        }
        Poll::Ready(())
    })
    .await;
}
