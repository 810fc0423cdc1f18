//! Whom a proxy in front speaks for: the PROXY protocol header that stands before the first request
//! of a connection, where the listener has `proxy_protocol: accept`.
//!
//! Who is believed does not hang on what was sent:
//! - A peer in `trusted_proxies` has to send a header. Without one the connection is closed: a
//!   request would be counted, logged and let in as if the proxy itself had made it.
//! - Any other peer is served as itself. If it sends a header all the same, it lies or the operator
//!   forgot it in `trusted_proxies`: the connection is closed, and the log says so.
//! - A unix socket's peer has no address. Its permissions say who may open it, so such a peer is
//!   taken for a proxy.
//!
//! A proxy is held against access lists and bounds by the address it names, not by its own, unless
//! it speaks for itself (`LOCAL`, `UNKNOWN`, a client without an IP address).
//!
//! The header is looked at before it is taken, so nothing that stands behind it is ever read here.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::task::Poll;

use rustix::net::RecvFlags;
use sumun_engine::accept::Admitted;
use sumun_engine::{Deadline, Lease, Worker};
use sumun_preface::limits::HEADER_BYTES_MAX;
use sumun_preface::{Header, Malformed, Parsed, Transport};
use tokio::io::{Interest, Ready};

use super::guard;
use crate::events::Event;
use crate::io::Stream;
use crate::limits::PREFACE_LOG_PAUSE;
use crate::site::Site;

thread_local! {
    /// When this worker may log a refusal again: a peer decides how often one happens.
    static QUIET_UNTIL_MS: Cell<u64> = const { Cell::new(0) };
}

/// Why a connection ends before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The peer went away. Proxies look in this way whether somebody listens.
    Ended,
    TimedOut,
    /// From a peer that is not believed.
    NotTrusted,
    /// None from a peer that has to send one.
    Missing,
    Malformed(Malformed),
    /// A datagram's addresses, on a stream.
    NoStream,
}

/// This peer has to say whom it speaks for.
pub(super) fn is_awaited(site: &Site, peer: Option<SocketAddr>) -> bool {
    site.config.proxy_protocol && peer.is_none_or(|peer| site.trusts(peer.ip()))
}

/// Takes the header, if there is one, and says who the client is. `admitted` then counts that
/// client. `Err`: the connection has to be closed; why has been counted and logged.
pub(super) async fn accept_proxy_header(
    stream: &mut Stream,
    deadline: &Deadline,
    worker: &Worker,
    site: &Site,
    peer: Option<SocketAddr>,
    admitted: &mut Admitted,
) -> Result<Option<SocketAddr>, ()> {
    let awaited = is_awaited(site, peer);
    deadline.set(site.config.bounds.header_timeout);
    let header = match take_header(stream, deadline, awaited).await {
        Ok(header) => header,
        Err(refusal) => {
            note(worker, site, peer, refusal);
            return Err(());
        }
    };
    if !awaited {
        return Ok(peer);
    }
    let client = header.and_then(|header| header.addresses).map(|addresses| addresses.source).or(peer);
    if !guard::may_connect(site, client) {
        return Err(());
    }
    if let Some(client) = client {
        admitted.count_for(client.ip()).map_err(drop)?;
    }
    Ok(client)
}

async fn take_header(stream: &mut Stream, deadline: &Deadline, awaited: bool) -> Result<Option<Header>, Refusal> {
    let mut lease = Lease::of(HEADER_BYTES_MAX);
    let buffer = lease.spare();
    match look(stream, deadline, buffer).await {
        Ok(Parsed::Absent) if awaited => Err(Refusal::Missing),
        Ok(Parsed::Absent) => Ok(None),
        Ok(Parsed::Header(_)) | Err(Refusal::Malformed(_)) if !awaited => Err(Refusal::NotTrusted),
        Ok(Parsed::Header(header)) => {
            if header.addresses.is_some_and(|addresses| addresses.transport == Transport::Datagram) {
                return Err(Refusal::NoStream);
            }
            consume(stream, deadline, buffer.get_mut(..header.length).unwrap_or_default()).await?;
            Ok(Some(header))
        }
        Ok(Parsed::More) => Err(Refusal::Ended),
        Err(refusal) => Err(refusal),
    }
}

/// Waits until the first bytes say what they are, and leaves them where they are.
async fn look(stream: &Stream, deadline: &Deadline, buffer: &mut [u8]) -> Result<Parsed, Refusal> {
    loop {
        let ready = readable(stream, deadline).await?;
        let mut parsed = Ok(Parsed::More);
        let peeked = try_read_io(stream, |socket| {
            let (_, count) = rustix::net::recv(socket, &mut *buffer, RecvFlags::PEEK)?;
            parsed = sumun_preface::parse(buffer.get(..count).unwrap_or_default());
            if count > 0 && parsed == Ok(Parsed::More) {
                // What is here is known: the next wait has to be for what is not here yet.
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match peeked {
            Ok(0) => return Err(Refusal::Ended),
            Ok(_) => return parsed.map_err(Refusal::Malformed),
            // No more will come, and waiting would not wait: an end stays ready for ever.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            Err(_) => return Err(Refusal::Ended),
        }
    }
}

async fn readable(stream: &Stream, deadline: &Deadline) -> Result<Ready, Refusal> {
    let mut ready = pin!(async {
        match stream {
            Stream::Tcp(stream) => stream.ready(Interest::READABLE).await,
            Stream::Unix(stream) => stream.ready(Interest::READABLE).await,
            Stream::Tls(_) | Stream::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    });
    poll_fn(|context| match ready.as_mut().poll(context) {
        Poll::Pending if deadline.passed() => Poll::Ready(Err(Refusal::TimedOut)),
        other => other.map_err(|_| Refusal::Ended),
    })
    .await
}

fn try_read_io(stream: &Stream, call: impl FnOnce(BorrowedFd<'_>) -> io::Result<usize>) -> io::Result<usize> {
    match stream {
        Stream::Tcp(stream) => stream.try_io(Interest::READABLE, || call(stream.as_fd())),
        Stream::Unix(stream) => stream.try_io(Interest::READABLE, || call(stream.as_fd())),
        Stream::Tls(_) | Stream::Http2(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Reads exactly the bytes of `header`, which are all here.
async fn consume(stream: &mut Stream, deadline: &Deadline, header: &mut [u8]) -> Result<(), Refusal> {
    let mut at = 0;
    while let Some(rest) = header.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match crate::io::read(stream, deadline, rest).await {
            Ok(0) | Err(_) => return Err(Refusal::Ended),
            Ok(count) => at += count,
        }
    }
    Ok(())
}

fn note(worker: &Worker, site: &Site, peer: Option<SocketAddr>, refusal: Refusal) {
    match refusal {
        Refusal::Ended => return,
        Refusal::TimedOut => site.cell.timeouts.increment(),
        Refusal::NotTrusted | Refusal::Missing | Refusal::Malformed(_) | Refusal::NoStream => {
            site.cell.rejected.increment()
        }
    }
    let now_ms = worker.clock.coarse_ms();
    if refusal != Refusal::TimedOut && now_ms >= QUIET_UNTIL_MS.get() {
        QUIET_UNTIL_MS.set(now_ms + PREFACE_LOG_PAUSE.as_millis() as u64);
        Event::PrefaceRefused { listener: &site.config.name, peer, refusal }.write();
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use sumun_engine::Deadlines;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(test);
    }

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (Stream::Tcp(listener.accept().await.unwrap().0), client)
    }

    async fn rest(mut stream: Stream) -> String {
        let mut text = String::new();
        match &mut stream {
            Stream::Tcp(stream) => stream.read_to_string(&mut text).await.unwrap(),
            Stream::Unix(stream) => stream.read_to_string(&mut text).await.unwrap(),
            Stream::Tls(_) | Stream::Http2(_) => unreachable!("a peer is a socket"),
        };
        text
    }

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\r\n";

    #[test]
    fn nothing_behind_the_header_is_taken() {
        run(async {
            let deadline = Rc::<Deadlines>::default().enter().await;
            let (mut stream, mut client) = pair().await;
            client.write_all(&[LINE, b"GET / HTTP/1.1\r\n"].concat()).await.unwrap();
            let header = take_header(&mut stream, &deadline, true).await.unwrap().unwrap();
            assert_eq!(header.addresses.unwrap().source, "192.0.2.1:4660".parse().unwrap());
            drop(client);
            assert_eq!(rest(stream).await, "GET / HTTP/1.1\r\n");
        });
    }

    #[test]
    fn a_header_in_pieces_is_waited_for() {
        run(async {
            let deadline = Rc::<Deadlines>::default().enter().await;
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut stream = Stream::Unix(Box::new(near));
            let send = async {
                for byte in [LINE, b"x"].concat() {
                    far.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(far);
            };
            let (header, ()) = tokio::join!(take_header(&mut stream, &deadline, true), send);
            assert!(header.unwrap().is_some());
            assert_eq!(rest(stream).await, "x");
        });
    }

    #[test]
    fn who_sends_what_it_should_not_is_refused() {
        run(async {
            let deadline = Rc::<Deadlines>::default().enter().await;
            for (sent, awaited, expected) in [
                (&b"GET / HTTP/1.1\r\n"[..], true, Err(Refusal::Missing)),
                (b"GET / HTTP/1.1\r\n", false, Ok(false)),
                (LINE, false, Err(Refusal::NotTrusted)),
                (b"PROXY nonsense\r\n", false, Err(Refusal::NotTrusted)),
                (b"PROXY nonsense\r\n", true, Err(Refusal::Malformed(Malformed::Line))),
                (b"", true, Err(Refusal::Ended)),
                (b"PROXY TC", true, Err(Refusal::Ended)),
            ] {
                let (mut stream, mut client) = pair().await;
                client.write_all(sent).await.unwrap();
                client.shutdown().await.unwrap();
                let found = take_header(&mut stream, &deadline, awaited).await.map(|header| header.is_some());
                assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(sent));
                if expected == Ok(false) {
                    assert_eq!(rest(stream).await.as_bytes(), sent);
                }
            }
        });
    }

    #[test]
    fn half_a_header_ends_with_the_deadline() {
        run(async {
            let table = Rc::<Deadlines>::default();
            let deadline = table.enter().await;
            deadline.set(Duration::from_secs(1));
            let (mut stream, mut client) = pair().await;
            client.write_all(b"PROXY TCP4").await.unwrap();
            let sweep = async {
                tokio::task::yield_now().await;
                table.sweep(10_000);
            };
            let (found, ()) = tokio::join!(take_header(&mut stream, &deadline, true), sweep);
            assert_eq!(found, Err(Refusal::TimedOut));
        });
    }
}
