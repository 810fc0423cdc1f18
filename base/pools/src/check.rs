//! One health check of one server, over TLS where its pool speaks it.

mod dns;
mod exchange;
mod http1;
mod http2;
mod postgres;
mod redis;
mod tls;
pub(crate) mod words;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use sumun_config::checked::{Check, Health, Protocol};
use sumun_engine::tls::{Failure, Offer, ServerName, TlsPool, TlsStream, Transport};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::limits::CHECK_REFUSAL;
use crate::server::Target;

/// What a check found: in words, either way.
pub(crate) type Finding = Result<String, String>;

/// How the server is reached.
pub(crate) struct Way<'a> {
    pub(crate) target: &'a Target,
    /// The address to connect from.
    pub(crate) source: Option<IpAddr>,
    /// As it is called where TLS is spoken.
    pub(crate) name: ServerName<'static>,
    /// What its pool speaks.
    pub(crate) tls: Option<Arc<TlsPool>>,
    pub(crate) protocol: Protocol,
    /// Said before everything else: a server that wants a PROXY protocol header wants one here too.
    pub(crate) first: &'a [u8],
}

/// Checks once; ends within the check's timeout.
pub(crate) async fn run(health: &Health, way: Way<'_>) -> Finding {
    let begin = Instant::now();
    match tokio::time::timeout(health.timeout, look(health, way, begin + health.timeout)).await {
        Ok(Ok(found)) => Ok(format!("{found} in {} ms", begin.elapsed().as_millis())),
        Ok(Err(problem)) => Err(problem),
        Err(_) => Err(format!("no answer within {}", in_units(health.timeout))),
    }
}

/// `end`: when the check has to be over.
async fn look(health: &Health, way: Way<'_>, end: Instant) -> Finding {
    let target = with_port(way.target, health.port);
    let address = match &target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(_) => "localhost".to_owned(),
    };
    if let (Check::Dns { name, kind, over_tcp: false }, Target::Tcp(address)) = (&health.check, &target) {
        return dns::ask_udp(*address, way.source, name.as_deref(), *kind, health.timeout / 2).await;
    }
    let no_connection = |error: io::Error| format!("no connection: {error}");
    let mut transport = connect(&target, way.source).await.map_err(no_connection)?;
    // Another port than that of the traffic speaks for itself.
    let first = if health.port.is_none() { way.first } else { &[] };
    say(&mut transport, first).await.map_err(no_connection)?;
    match (&health.check, &way.tls, transport) {
        (Check::Tls { name }, _, transport) => tls::knock(transport, name.as_deref(), &way.name).await,
        (_, Some(pool), transport) => ask_secured(&health.check, &way, pool, transport, (&address, end)).await,
        (_, None, Transport::Tcp(stream)) => ask(&health.check, plain(way.protocol), stream, &address).await,
        (_, None, Transport::Unix(stream)) => ask(&health.check, plain(way.protocol), stream, &address).await,
    }
}

async fn say(transport: &mut Transport, bytes: &[u8]) -> io::Result<()> {
    let mut said = 0;
    poll_fn(|context| {
        while let Some(rest) = bytes.get(said..).filter(|rest| !rest.is_empty()) {
            match ready!(transport.poll_write(context, rest)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => said += count,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

pub(crate) async fn connect(target: &Target, source: Option<IpAddr>) -> io::Result<Transport> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::from_std(sumun_host::connect::start_connect(
                *address,
                source.map(sumun_host::connect::Source::Own),
            )?)?;
            stream.writable().await?;
            match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(Transport::Tcp(stream)),
            }
        }
        Target::Unix(path) => Ok(Transport::Unix(UnixStream::connect(path).await?)),
    }
}

/// With the handshake of TLS done, for something that is no HTTP.
pub(crate) async fn secure(
    pool: &TlsPool,
    transport: Transport,
    name: &ServerName<'static>,
) -> Result<TlsStream, String> {
    let mut stream = pool.check(transport, name, Vec::new()).map_err(|error| format!("no TLS: {error}"))?;
    poll_fn(|context| stream.poll_handshake(context)).await.map_err(no_tls)?;
    Ok(stream)
}

/// How HTTP is spoken on a connection.
#[derive(Debug, Clone, Copy)]
enum Spoken {
    Http1,
    /// With the scheme of its requests.
    Http2(&'static str),
}

fn plain(protocol: Protocol) -> Spoken {
    match protocol {
        Protocol::Http1 | Protocol::Auto => Spoken::Http1,
        Protocol::Http2 => Spoken::Http2("http"),
    }
}

async fn ask_secured(
    check: &Check,
    way: &Way<'_>,
    pool: &TlsPool,
    transport: Transport,
    (address, end): (&str, Instant),
) -> Finding {
    let protocols = offered(check, way.protocol);
    let wants_http2 = *protocols == Offer::Http2.protocols();
    let mut stream = pool.check(transport, &way.name, protocols).map_err(|error| format!("no TLS: {error}"))?;
    let begin = Instant::now();
    poll_fn(|context| stream.poll_handshake(context)).await.map_err(no_tls)?;
    let round = begin.elapsed();
    let spoken = match way.protocol {
        _ if stream.is_http2() => Spoken::Http2("https"),
        Protocol::Http2 if wants_http2 => return Err("it agrees on no HTTP/2".to_owned()),
        Protocol::Http1 | Protocol::Auto | Protocol::Http2 => Spoken::Http1,
    };
    let mut finding = ask(check, spoken, &mut stream, address).await;
    if let (Ok(found), Check::Tcp { expect, .. }) = (&finding, check)
        && expect.is_empty()
    {
        // A handshake takes a round trip and the server's work, and so does a refusal. Silence is good,
        // also where the check's time is short: it must not be what ends it.
        let left = end.saturating_duration_since(Instant::now());
        let heard = hear_out(&mut stream, (2 * round + CHECK_REFUSAL).min(left * 3 / 4)).await;
        finding = heard.map(|()| found.clone());
    }
    if finding.is_err()
        && let Some(refusal) = poll_fn(|context| stream.poll_refusal(context)).await
    {
        finding = Err(no_tls(refusal));
    }
    stream.say_goodbye();
    finding
}

/// By ALPN: what live traffic offers, and nothing where the check speaks of something else.
fn offered(check: &Check, protocol: Protocol) -> Vec<Vec<u8>> {
    match check {
        Check::Http { .. } => Offer::of(protocol).protocols(),
        check if *check == Check::CONNECT => Offer::of(protocol).protocols(),
        // What it calls itself where it takes TLS without asking for it first (PostgreSQL 17).
        Check::Postgres { .. } => vec![b"postgresql".to_vec()],
        // RFC 7858 section 11.1.
        Check::Dns { .. } => vec![b"dot".to_vec()],
        Check::Tcp { .. } | Check::Tls { .. } | Check::Redis { .. } | Check::Exec { .. } => Vec::new(),
    }
}

fn no_tls(failure: Failure) -> String {
    format!("no TLS: {failure}")
}

/// A server of TLS 1.3 looks at our certificate when the handshake is over for us: only what it says
/// then tells whether it takes us. Most say something at once, if it is but a ticket; one that says
/// nothing for so long is believed to have nothing against us.
async fn hear_out(stream: &mut TlsStream, bound: Duration) -> Result<(), String> {
    let heard = poll_fn(|context| match stream.poll_read(context, &mut [0]) {
        Poll::Ready(Ok(0)) => Poll::Ready(Err("closed as soon as the handshake was done".to_owned())),
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(format!("closed as soon as the handshake was done: {error}"))),
        Poll::Pending if stream.is_confirmed() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    });
    tokio::time::timeout(bound, heard).await.unwrap_or(Ok(()))
}

fn with_port(target: &Target, port: Option<u16>) -> Target {
    let mut target = target.clone();
    if let (Target::Tcp(address), Some(port)) = (&mut target, port) {
        address.set_port(port);
    }
    target
}

async fn ask(check: &Check, spoken: Spoken, stream: impl AsyncRead + AsyncWrite + Unpin, address: &str) -> Finding {
    match check {
        // Neither comes here: the one is done on the bare connection, the other by the supervisor.
        Check::Tls { .. } | Check::Exec { .. } => Ok("connected".to_owned()),
        Check::Redis { login } => redis::ask(stream, login.as_ref()).await,
        Check::Postgres { user, database } => postgres::ask(stream, user, database.as_deref()).await,
        Check::Dns { name, kind, .. } => dns::ask_tcp(stream, name.as_deref(), *kind).await,
        Check::Tcp { send, expect } => exchange::ask(stream, send, expect).await,
        Check::Http { path, host, status } => {
            let host = host.as_deref().unwrap_or(address);
            let found = match spoken {
                Spoken::Http2(scheme) => http2::ask(stream, scheme, path, host).await?,
                Spoken::Http1 => http1::ask(stream, path, host).await?,
            };
            let good = status.iter().any(|(low, high)| (*low..=*high).contains(&found));
            if good {
                Ok(format!("status {found}"))
            } else {
                Err(format!("status {found}, wanted {}", http1::ranges(status)))
            }
        }
    }
}

pub(crate) fn in_units(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn http(timeout: Duration) -> Health {
        Health {
            check: Check::Http { path: "/healthz".to_owned(), host: None, status: vec![(200, 299), (401, 401)] },
            every: Duration::from_secs(1),
            timeout,
            rise: 2,
            fall: 3,
            port: None,
        }
    }

    fn to(target: &Target) -> Way<'_> {
        let name = ServerName::try_from("a.example").unwrap();
        Way { target, source: None, name, tls: None, protocol: Protocol::Http1, first: b"" }
    }

    /// A server that answers one connection with `answer`, and what it was asked.
    async fn checked(answer: &'static [u8], health: Health) -> (Finding, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            request.truncate(length);
            String::from_utf8(request).unwrap()
        });
        let finding = run(&health, to(&target)).await;
        (finding, server.await.unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn good_answer() {
        let (finding, request) = checked(b"HTTP/1.1 204 No Content\r\n\r\n", http(LONG)).await;
        assert!(finding.unwrap().starts_with("status 204 in "));
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert!(request.contains("\r\nConnection: close\r\n") && request.contains("\r\nUser-Agent: sumun-health\r\n"));
    }

    #[tokio::test]
    async fn who_wants_a_proxy_header_gets_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            request.truncate(length);
            String::from_utf8(request).unwrap()
        });
        let way = Way { first: b"PROXY UNKNOWN\r\n", ..to(&target) };
        run(&http(LONG), way).await.unwrap();
        assert!(server.await.unwrap().starts_with("PROXY UNKNOWN\r\n"));
    }

    #[tokio::test]
    async fn interim_answers_are_read_over() {
        let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n";
        let (finding, _) = checked(answer, http(LONG)).await;
        assert!(finding.unwrap().starts_with("status 401"));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_http_any_more() {
        let (finding, _) =
            checked(b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", http(LONG)).await;
        assert_eq!(finding.unwrap_err(), "status 101, wanted 200-299, 401");
    }

    #[tokio::test]
    async fn bad_answers() {
        let (finding, _) = checked(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", http(LONG)).await;
        assert_eq!(finding.unwrap_err(), "status 500, wanted 200-299, 401");
        let (finding, _) = checked(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", http(LONG)).await;
        assert!(finding.unwrap_err().starts_with("not an HTTP answer"));
        let (finding, _) = checked(b"HTTP/1.1 200 OK\r\nContent-", http(LONG)).await;
        assert_eq!(finding.unwrap_err(), "closed before the answer was complete");
    }

    #[tokio::test]
    async fn refused_and_silent_servers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Tcp(listener.local_addr().unwrap());
        let finding = run(&http(Duration::from_millis(50)), to(&target)).await;
        assert_eq!(finding.unwrap_err(), "no answer within 50 ms");
        drop(listener);
        let finding = run(&http(LONG), to(&target)).await;
        assert!(finding.unwrap_err().starts_with("no connection: "));
    }

    #[tokio::test]
    async fn connects_from_the_source_to_the_port_of_checks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = Health { check: Check::CONNECT, port: Some(listener.local_addr().unwrap().port()), ..http(LONG) };
        let target = Target::Tcp("127.0.0.1:1".parse().unwrap());
        let finding = run(&health, Way { source: "127.0.0.9".parse().ok(), ..to(&target) }).await;
        assert!(finding.unwrap().starts_with("connected in "));
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.9");
    }

    #[tokio::test]
    async fn unix_socket() {
        let path =
            std::env::temp_dir().join(format!("sumun-check-{}-{:x}.sock", std::process::id(), fastrand::u64(..)));
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _request = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        });
        let finding = run(&http(LONG), to(&Target::Unix(path.clone()))).await;
        assert!(finding.unwrap().starts_with("status 200"));
        server.await.unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
