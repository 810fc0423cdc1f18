//! The PROXY protocol header that stands before everything else on a connection.
//!
//! Who is believed does not hang on what was sent:
//! - A peer that is trusted has to send a header. Without one the connection is closed: it would be
//!   counted, logged and let in as if the proxy itself had made it.
//! - Any other peer is served as itself. If it sends a header all the same, it lies or the operator
//!   forgot it in `trusted_proxies`: the connection is closed, and the log says so.
//! - A unix socket's peer has no address. Its permissions say who may open it, so such a peer is
//!   taken for a proxy.
//!
//! The header is looked at before it is taken, so nothing that stands behind it is ever read here.

use std::cell::Cell;
use std::net::SocketAddr;

use ipnet::IpNet;
use sumun_config::checked::Listener;
use sumun_preface::limits::HEADER_BYTES_MAX;
use sumun_preface::{Header, Malformed, Parsed, Transport as Carrier};

use crate::Deadline;
use crate::limits::PREFACE_LOG_PAUSE;
use crate::socket::{self, Socket, Unseen};

thread_local! {
    /// When this worker may log a refusal again: a peer decides how often one happens.
    static QUIET_UNTIL_MS: Cell<u64> = const { Cell::new(0) };
}

/// Why a connection ends before its first byte is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
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

impl Refusal {
    /// Whether the peer broke a rule: it did not just go away or take too long.
    #[must_use]
    pub fn is_broken_rule(self) -> bool {
        !matches!(self, Self::Ended | Self::TimedOut)
    }

    /// What the peer did, as the end of a line of the log.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::NotTrusted => "it sent a PROXY protocol header and is not in `trusted_proxies`".to_owned(),
            Self::Missing => "it has to send a PROXY protocol header and did not".to_owned(),
            Self::NoStream => "its PROXY protocol header is that of a datagram".to_owned(),
            Self::Ended | Self::TimedOut => "it sent no whole PROXY protocol header".to_owned(),
            Self::Malformed(malformed) => format!("its PROXY protocol header {}", malformed.as_str()),
        }
    }

    /// Whether the operator is to hear of this one: at most one of a worker within some seconds.
    #[must_use]
    pub fn is_to_be_logged(self, now_ms: u64) -> bool {
        let is_due = self.is_broken_rule() && now_ms >= QUIET_UNTIL_MS.get();
        if is_due {
            QUIET_UNTIL_MS.set(now_ms + PREFACE_LOG_PAUSE.as_millis() as u64);
        }
        is_due
    }
}

/// This peer has to say whom it speaks for.
#[must_use]
pub fn is_awaited(listener: &Listener, trusted: &[IpNet], peer: Option<SocketAddr>) -> bool {
    let is_trusted = |peer: SocketAddr| {
        let peer = peer.ip().to_canonical();
        trusted.iter().any(|network| network.contains(&peer))
    };
    listener.proxy_protocol && peer.is_none_or(is_trusted)
}

/// A header that was taken off a connection, and its bytes, of which [`Header::tlvs`] makes more.
#[derive(Debug)]
pub struct Taken {
    pub header: Header,
    pub bytes: Box<[u8]>,
}

/// Takes the header off a connection, if there is one.
///
/// # Errors
/// The connection has to be closed.
pub async fn take_header(peer: Socket<'_>, deadline: &Deadline, awaited: bool) -> Result<Option<Taken>, Refusal> {
    let understand = |bytes: &[u8]| match sumun_preface::parse(bytes) {
        Ok(Parsed::More) => None,
        Ok(parsed) => Some(Ok(parsed)),
        Err(malformed) => Some(Err(Refusal::Malformed(malformed))),
    };
    let looked = socket::look(peer, deadline, HEADER_BYTES_MAX, understand).await.map_err(|unseen| match unseen {
        Unseen::Ended => Refusal::Ended,
        Unseen::TimedOut => Refusal::TimedOut,
        Unseen::TooMany => Refusal::Malformed(Malformed::TooLong),
    })?;
    match looked {
        Ok(Parsed::Absent) if awaited => Err(Refusal::Missing),
        Ok(Parsed::Absent | Parsed::More) => Ok(None),
        Ok(Parsed::Header(_)) | Err(Refusal::Malformed(_)) if !awaited => Err(Refusal::NotTrusted),
        Ok(Parsed::Header(header)) => {
            if header.addresses.is_some_and(|addresses| addresses.transport == Carrier::Datagram) {
                return Err(Refusal::NoStream);
            }
            let mut bytes = vec![0; header.length].into_boxed_slice();
            socket::take(peer, &mut bytes).map_err(|_| Refusal::Ended)?;
            Ok(Some(Taken { header, bytes }))
        }
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;
    use crate::Deadlines;
    use crate::buffers::leased_bytes;
    use crate::tls::Transport;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(test);
    }

    async fn pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (Transport::Tcp(listener.accept().await.unwrap().0), client)
    }

    async fn rest(mut stream: Transport) -> String {
        let mut text = String::new();
        match &mut stream {
            Transport::Tcp(stream) => stream.read_to_string(&mut text).await.unwrap(),
            Transport::Unix(stream) => stream.read_to_string(&mut text).await.unwrap(),
        };
        text
    }

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 80\r\n";

    #[test]
    fn nothing_behind_the_header_is_taken() {
        run(async {
            let deadline = Rc::<Deadlines>::default().enter().await;
            let (stream, mut client) = pair().await;
            client.write_all(&[LINE, b"GET / HTTP/1.1\r\n"].concat()).await.unwrap();
            let header = take_header((&stream).into(), &deadline, true).await.unwrap().unwrap().header;
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
            let stream = Transport::Unix(near);
            let send = async {
                for byte in [LINE, b"x"].concat() {
                    far.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                    assert_eq!(leased_bytes(), 0, "who is slow holds a buffer");
                }
                drop(far);
            };
            let (header, ()) = tokio::join!(take_header((&stream).into(), &deadline, true), send);
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
                let (stream, mut client) = pair().await;
                client.write_all(sent).await.unwrap();
                client.shutdown().await.unwrap();
                let found = take_header((&stream).into(), &deadline, awaited).await.map(|header| header.is_some());
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
            let (stream, mut client) = pair().await;
            client.write_all(b"PROXY TCP4").await.unwrap();
            let sweep = async {
                tokio::task::yield_now().await;
                table.sweep(10_000, 0);
            };
            let (found, ()) = tokio::join!(take_header((&stream).into(), &deadline, true), sweep);
            assert_eq!(found.map(|taken| taken.is_some()), Err(Refusal::TimedOut));
        });
    }
}
