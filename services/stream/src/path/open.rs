//! From an accepted socket to a client whose bytes can be passed on: the header of a proxy in front, a
//! look at what its TLS asks for, then the handshake where the listener ends the TLS.
//!
//! Runs in a task of its own, which is larger than one that passes bytes on, and ends by starting
//! that one.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sumun_engine::socket::{self, Unseen};
use sumun_engine::tls::{Reason as TlsReason, TlsListener, Transport};
use sumun_engine::{Deadline, preface};
use sumun_hello::client_hello::{self, Parsed, ServerName};
use sumun_hello::limits::STREAM_BYTES_MAX;

use super::{Client, finish, serve};
use crate::end::End;
use crate::events::{Event, Reason};
use crate::front::Way;
use crate::limits::{LINGER, LINGER_BYTES};

/// TLS as an address of a listener ends it; `None`: the address is plain.
pub(crate) type Door = Option<Arc<TlsListener>>;

/// Opens a connection and has it served.
pub(crate) async fn open(mut client: Client, door: Door) {
    client.deadline.wake_this_task().await;
    client.deadline.set(client.front.config.bounds.header_timeout);
    if client.front.config.proxy_protocol {
        match take_header(&mut client).await {
            Ok(()) => {}
            Err(Some(reason)) => return finish(&client, reason, (0, 0)),
            Err(None) => return,
        }
    }
    if client.to.is_none()
        && let Err(reason) = Box::pin(choose(&mut client)).await
    {
        return turn_away(client, reason).await;
    }
    if let Some(tls) = door {
        match secure(client, &tls).await {
            Some(secured) => client = secured,
            None => return,
        }
    }
    tokio::task::spawn_local(serve(client));
}

/// Takes the header of a proxy, which says who the client is. `Err`: the connection has to be closed; a
/// client that may not be here is counted where that was found.
async fn take_header(client: &mut Client) -> Result<(), Option<Reason>> {
    let Client { end, address, worker, front, deadline, admitted, record, .. } = client;
    let awaited = front.awaits_header(*address);
    let socket = end.socket().ok_or(None)?;
    let taken = match preface::take_header(socket, deadline, awaited).await {
        Ok(taken) => taken,
        Err(refusal) => {
            if refusal.is_to_be_logged(worker.clock.coarse_ms()) {
                Event::PrefaceRefused { listener: &front.config.name, peer: *address, refusal }.write();
            }
            return Err(Some(Reason::Preface));
        }
    };
    if !awaited {
        return Ok(());
    }
    let named = taken.as_ref().and_then(|taken| taken.header.addresses);
    *address = named.map(|addresses| addresses.source).or(*address);
    record.preface = taken;
    let ip = address.map(|address| address.ip());
    if !front.may_connect(ip) {
        return Err(None);
    }
    ip.map_or(Ok(()), |ip| admitted.count_for(ip).map_err(|_| None))
}

/// Finds the pool by what the client's TLS begins with, which stays where it is.
async fn choose(client: &mut Client) -> Result<(), Reason> {
    let Way::ByName(names, backends) = &client.front.way else { return Ok(()) };
    let socket = client.end.socket().ok_or(Reason::BadHello)?;
    let understand = |bytes: &[u8]| match client_hello::parse(bytes) {
        Ok(Parsed::More) => None,
        Ok(Parsed::NotTls) | Err(_) => Some(Err(Reason::BadHello)),
        Ok(Parsed::Hello(hello)) => {
            let name = hello.server_name();
            let choice = names.find(name.as_ref().map(ServerName::as_str));
            let to = choice.and_then(|choice| choice.find(hello.alpn())).and_then(|pool| backends.get(pool));
            Some(Ok((name.map(|name| Box::from(name.as_str())), to.map(Rc::clone))))
        }
    };
    let looked = socket::look(socket, &client.deadline, STREAM_BYTES_MAX, understand).await;
    let (name, to) = looked.map_err(|unseen| match unseen {
        Unseen::Ended => Reason::ClientEnded,
        Unseen::TimedOut => Reason::HelloTimeout,
        Unseen::TooMany => Reason::BadHello,
    })??;
    client.record.name = name;
    client.to = Some(to.ok_or(Reason::UnknownName)?);
    Ok(())
}

/// Ends a connection that goes nowhere. Whose TLS asks for what is not here is told so (RFC 6066
/// section 3, RFC 8446 section 6.2).
async fn turn_away(mut client: Client, reason: Reason) {
    if reason == Reason::UnknownName {
        let mut written = 0;
        poll_fn(|context| match client.end.poll_write(context, UNRECOGNIZED_NAME.get(written..).unwrap_or_default()) {
            Poll::Pending if !client.deadline.passed() => Poll::Pending,
            Poll::Ready(Ok(count)) if count > 0 && written + count < UNRECOGNIZED_NAME.len() => {
                written += count;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
        .await;
        client.deadline.set(LINGER);
        linger(&mut client.end, &client.deadline).await;
    }
    finish(&client, reason, (0, 0));
}

/// A fatal alert, in a record of TLS 1.2 and before: 112 is `unrecognized_name`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Does the handshake. `None`: there is no connection any more, and why has been counted.
async fn secure(client: Client, tls: &Arc<TlsListener>) -> Option<Client> {
    let Client { end, address, worker, front, to, deadline, admitted, record } = client;
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
    let client = |end| Client { end, address, worker, front, to, deadline, admitted, record };
    match opened {
        // An authority that looked for a proof, which is in the certificate (RFC 8737 section 3).
        Ok(()) if stream.is_validation() => None,
        Ok(()) => Some(client(End::Tls(stream))),
        Err(failure) => {
            stream.say_goodbye();
            let mut client = client(End::Plain(stream.into_plain().0));
            let listener = &client.front.config.name;
            Event::HandshakeFailed { listener, client: client.address, failure: &failure }.write();
            finish(&client, Reason::Handshake, (0, 0));
            if !matches!(failure.reason, TlsReason::Gone | TlsReason::Timeout) {
                client.deadline.set(LINGER);
                linger(&mut client.end, &client.deadline).await;
            }
            None
        }
    }
}

/// What the client sent and nobody reads would take the alert with it: it is thrown away first.
async fn linger(end: &mut End, deadline: &Deadline) {
    let (mut left, mut told) = (LINGER_BYTES, false);
    poll_fn(|context| {
        if deadline.passed() {
            return Poll::Ready(());
        }
        told = told || end.poll_shutdown(context).is_ready();
        let mut bytes = [0; 1024];
        while told && left > 0 {
            match end.poll_read(context, &mut bytes) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
            }
        }
        if told { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
