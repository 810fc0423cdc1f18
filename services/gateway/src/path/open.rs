//! From an accepted socket to a connection that can ask: the header of a proxy in front, then TLS.
//!
//! Runs in a task of its own, which is larger than one that waits for a request, and ends by starting
//! that one.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sumun_engine::accept::Admitted;
use sumun_engine::tls::{Reason as TlsReason, TlsListener, TlsStream, Transport};

use super::{Connection, packed, preface, refuse, serve};
use crate::client::ClientText;
use crate::events::{Event, Reason};
use crate::io::{self, Secured, Security, Stream};
use crate::site::Site;

/// TLS as an address of a listener speaks it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) tls: Arc<TlsListener>,
    /// Request header field with the subject of a client's certificate.
    pub(crate) subject_header: Option<Arc<str>>,
}

/// Opens a connection and has it served.
pub(super) async fn open(mut connection: Connection, mut admitted: Admitted, site: Rc<Site>, door: Option<Door>) {
    connection.deadline.wake_this_task().await;
    if site.config.proxy_protocol {
        let Connection { stream, deadline, worker, client, .. } = &mut connection;
        let peer = client.map(SocketAddr::from);
        match preface::accept_proxy_header(stream, deadline, worker, &site, peer, &mut admitted).await {
            Ok(named) => *client = named.map(packed),
            Err(()) => return,
        }
    }
    if let Some(door) = door {
        match secure(connection, &site, &door).await {
            Some(secured) => connection = secured,
            None => return,
        }
    }
    tokio::task::spawn_local(serve(Connection { admitted: Some(admitted), ..connection }));
}

/// Does the handshake. `None`: there is no connection any more, and why has been counted.
async fn secure(connection: Connection, site: &Rc<Site>, door: &Door) -> Option<Connection> {
    let Connection { stream, worker, site: newest, client, deadline, .. } = connection;
    let transport = match stream {
        Stream::Tcp(stream) => Transport::Tcp(stream),
        Stream::Unix(stream) => Transport::Unix(*stream),
        Stream::Tls(_) | Stream::Http2(_) | Stream::Fill(_) => return None,
    };
    let mut stream = match door.tls.accept(transport, worker.index) {
        Ok(tls) => Box::new(Secured { tls, security: None }),
        Err(error) => {
            Event::TlsUnusable { listener: &site.config.name, error: &error }.write();
            return None;
        }
    };
    deadline.set(site.config.bounds.header_timeout);
    let opened = poll_fn(|context| match stream.tls.poll_handshake(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(stream.tls.give_up())),
        other => other.map(|result| result.map(drop)),
    })
    .await;
    let over =
        |stream| Connection { stream, worker, site: newest, client, deadline, requests: 0, pace: None, admitted: None };
    match opened {
        // An authority that looked for a proof, which is in the certificate: nothing is said over it
        // (RFC 8737 section 3).
        Ok(()) if stream.tls.is_validation() => {
            let mut over = over(Stream::Tls(stream));
            io::close_gently(&mut over.stream, &over.deadline).await;
            None
        }
        Ok(()) => {
            let header = door.subject_header.as_ref();
            let subject = header.and_then(|name| Some((Arc::clone(name), stream.tls.peer_subject()?)));
            stream.security = Some(Rc::new(Security { is_http2: stream.tls.is_http2(), subject }));
            Some(over(Stream::Tls(stream)))
        }
        Err(failure) => {
            Event::HandshakeFailed {
                listener: &site.config.name,
                client: client.map(SocketAddr::from),
                failure: &failure,
            }
            .write();
            match failure.reason {
                TlsReason::NotTls => answer_in_plain(stream.tls, site, over).await,
                // Nobody is there, or it was told nothing.
                TlsReason::Gone | TlsReason::Timeout => {}
                // What it sent and nobody reads would take the alert with it.
                _ => {
                    let (transport, _) = stream.tls.into_plain();
                    let mut over = over(transport.into());
                    io::close_gently(&mut over.stream, &over.deadline).await;
                }
            }
            None
        }
    }
}

/// A request in plain text, sent to where TLS is spoken: who sent it reads plain text.
async fn answer_in_plain(stream: TlsStream, site: &Rc<Site>, over: impl FnOnce(Stream) -> Connection) {
    let (transport, read) = stream.into_plain();
    // A method begins with a capital; to who sent anything else no answer means anything.
    if read.is_some_and(|read| read.filled().first().is_some_and(u8::is_ascii_uppercase)) {
        let mut plain = over(transport.into());
        let client_text = ClientText::of(plain.client.map(SocketAddr::from));
        refuse(&mut plain, &client_text, site, Reason::PlainHttp).await;
    }
}
