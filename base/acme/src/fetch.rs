//! Requests to an authority, one connection each: there are about a dozen for a certificate.
//!
//! The library that knows ACME wants to move its requests between threads, and a connection over
//! our TLS belongs to one: so requests wait in a queue for a task of this thread.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use sumun_config::checked::{AcmeDirectory, ServerAddress};
use sumun_engine::tls::{Offer, TlsConnector, TlsPool, TlsStream, Transport, server_name};
use sumun_host::connect::start_connect;
use sumun_http::chunked::Decoder;
use sumun_http::response::ResponseBody;
use sumun_http::{Method, Received, ResponseHead, ResponseReceiver};
use sumun_pools::resolve::{self, NameServers};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::limits::{ADDRESSES, BODY_BYTES, CONNECT_TIMEOUT, HEAD_BYTES, HOSTS, REQUEST_TIMEOUT, WAITING_REQUESTS};

type Request = http::Request<BodyWrapper<Bytes>>;
type Response = http::Response<Bytes>;
/// A request, and where its answer goes.
type Asked = (Request, oneshot::Sender<Result<Response, Unreached>>);

const USER_AGENT: &str = concat!("sumun/", env!("CARGO_PKG_VERSION"));

/// The authority was not reached, or what it said is no HTTP.
#[derive(Debug)]
pub(crate) struct Unreached(pub(crate) String);

impl fmt::Display for Unreached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unreached {}

/// How to reach one authority.
pub(crate) struct Authority {
    pub(crate) directory: AcmeDirectory,
    /// `None` where it is asked without TLS.
    pub(crate) tls: Option<Arc<TlsPool>>,
    pub(crate) name_servers: NameServers,
}

/// Requests to one authority, for as long as it lives.
pub(crate) struct Line {
    queue: mpsc::Sender<Asked>,
    last: Arc<Mutex<Said>>,
    task: AbortHandle,
}

/// Of the last answer.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    refused: bool,
    retry_after: Option<u64>,
}

/// What the library speaks through.
struct Far {
    queue: mpsc::Sender<Asked>,
}

impl Line {
    /// Within a local runtime.
    pub(crate) fn open(authority: Authority) -> Self {
        let (queue, mut requests) = mpsc::channel::<Asked>(WAITING_REQUESTS);
        let last: Arc<Mutex<Said>> = Arc::default();
        let noted = Arc::clone(&last);
        let task = tokio::task::spawn_local(async move {
            let connector = authority.tls.clone().map(|pool| TlsConnector::new(pool, 0));
            while let Some((request, answer)) = requests.recv().await {
                let response = ask(&authority, connector.as_ref(), request).await;
                let said = response.as_ref().map(said).unwrap_or_default();
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = said;
                // Who asked may have been stopped.
                answer.send(response).unwrap_or_default();
            }
        });
        Self { queue, last, task: task.abort_handle() }
    }

    pub(crate) fn client(&self) -> Box<dyn HttpClient> {
        Box::new(Far { queue: self.queue.clone() })
    }

    /// Seconds to wait before the next try, of an answer that refused.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retry_after.filter(|_| last.refused)
    }

    /// Seconds to wait before the next look, of an answer that is not the last word.
    pub(crate) fn look_after(&self) -> Option<u64> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retry_after.filter(|_| !last.refused)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpClient for Far {
    fn request(&self, request: Request) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let queue = self.queue.clone();
        Box::pin(async move {
            let (answer, response) = oneshot::channel();
            let stopped = || Error::Other(Box::new(Unreached("stopped".to_owned())));
            queue.send((request, answer)).await.map_err(|_| stopped())?;
            let response = response.await.map_err(|_| stopped())?.map_err(|error| Error::Other(Box::new(error)))?;
            let (parts, body) = response.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

async fn ask(authority: &Authority, tls: Option<&TlsConnector>, request: Request) -> Result<Response, Unreached> {
    match tokio::time::timeout(REQUEST_TIMEOUT, exchange(authority, tls, request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(why)) => Err(Unreached(why)),
        Err(_) => Err(Unreached(format!("no whole answer within {} s", REQUEST_TIMEOUT.as_secs()))),
    }
}

async fn exchange(authority: &Authority, tls: Option<&TlsConnector>, request: Request) -> Result<Response, String> {
    let (parts, body) = request.into_parts();
    let (host, port) = destination(&authority.directory, &parts.uri)?;
    let method = match parts.method {
        http::Method::HEAD => Method::Head,
        http::Method::GET => Method::Get,
        _ => Method::Post,
    };
    let body = bytes_of(body).await;
    let mut wire = connect(authority, tls, &host, port).await?;
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let shown_host = parts.uri.authority().map_or(host.as_str(), http::uri::Authority::as_str);
    let mut head = format!("{} {target} HTTP/1.1\r\nHost: {shown_host}\r\nUser-Agent: {USER_AGENT}\r\n", parts.method);
    if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        head.push_str(&format!("Content-Type: {kind}\r\n"));
    }
    if method == Method::Post {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("Accept: */*\r\nAccept-Language: en\r\nConnection: close\r\n\r\n");
    let lost = |error: io::Error| format!("the request could not be sent: {error}");
    wire.write_all(&[head.as_bytes(), &body].concat()).await.map_err(lost)?;
    let response = receive(&mut wire, method).await?;
    wire.close().await;
    Ok(response)
}

/// Only to where the directory is may a worker process connect, and only as safely as there.
fn destination(directory: &AcmeDirectory, uri: &http::Uri) -> Result<(String, u16), String> {
    let (scheme, default_port) = if directory.is_secure { ("https", 443) } else { ("http", 80) };
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(default_port);
    if uri.scheme_str() != Some(scheme) || host.is_empty() {
        return Err(format!("it names a URL that is not {scheme}: {}", cut(&uri.to_string())));
    }
    if port != directory.port {
        let own = directory.port;
        return Err(format!(
            "it names a URL with TCP port {port}, and the directory has {own}: {}",
            cut(&uri.to_string())
        ));
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_ascii_lowercase();
    if !directory.is_secure && host != directory.host {
        return Err(format!("it names a URL on another host, without TLS: {}", cut(&uri.to_string())));
    }
    Ok((host, port))
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(200)).unwrap_or(text)
}

/// All of it lies in memory already.
async fn bytes_of(mut body: BodyWrapper<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        bytes.extend_from_slice(frame.data_ref().map(|data| &data[..]).unwrap_or_default());
    }
    bytes
}

async fn connect(authority: &Authority, tls: Option<&TlsConnector>, host: &str, port: u16) -> Result<Wire, String> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = resolve::addresses(host, &authority.name_servers).await;
            found.map_err(|why| format!("the name {host} does not resolve: {why}"))?
        }
    };
    let mut problem = format!("{host} has no address");
    for address in addresses.into_iter().take(ADDRESSES).map(|address| SocketAddr::new(address, port)) {
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, open(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                problem = format!("no connection to {address}: {error}");
                continue;
            }
            Err(_) => {
                problem = format!("no connection to {address} within {} s", CONNECT_TIMEOUT.as_secs());
                continue;
            }
        };
        let transport = Transport::Tcp(stream);
        let Some(tls) = tls else { return Ok(Wire::Plain(transport)) };
        let named = match host.parse::<IpAddr>() {
            Ok(ip) => ServerAddress::Ip(SocketAddr::new(ip, port)),
            Err(_) => ServerAddress::Name { host: host.to_owned(), port },
        };
        let name = server_name(&named);
        let mut stream = tls.connect(transport, &name, Offer::Http1, HOSTS).map_err(|error| error.to_string())?;
        // What it shows it shows on all of its addresses.
        let opened = poll_fn(|context| stream.poll_handshake(context)).await;
        opened.map_err(|failure| format!("the TLS handshake with {address} failed: {failure}"))?;
        return Ok(Wire::Tls(Box::new(stream)));
    }
    Err(problem)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(start_connect(address, None)?)?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

enum Wire {
    Plain(Transport),
    Tls(Box<TlsStream>),
}

impl Wire {
    fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(transport) => transport.poll_read(context, bytes),
            Self::Tls(stream) => stream.poll_read(context, bytes),
        }
    }

    async fn read(&mut self, bytes: &mut Vec<u8>) -> Result<usize, String> {
        let mut block = [0; 8 * 1024];
        let count = poll_fn(|context| self.poll_read(context, &mut block)).await;
        let count = count.map_err(|error| format!("the answer broke off: {error}"))?;
        bytes.extend_from_slice(block.get(..count).unwrap_or_default());
        Ok(count)
    }

    async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| match self {
                Self::Plain(transport) => transport.poll_write(context, bytes),
                Self::Tls(stream) => stream.poll_write(context, bytes),
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn close(&mut self) {
        let closed = poll_fn(|context| match self {
            Self::Plain(transport) => transport.poll_shutdown(context),
            Self::Tls(stream) => stream.poll_shutdown(context),
        });
        // All that was wanted is here.
        closed.await.unwrap_or_default();
    }
}

async fn receive(wire: &mut Wire, method: Method) -> Result<Response, String> {
    let no_http = |reject: sumun_http::Reject| format!("its answer is no HTTP: {}", reject.reason());
    let (mut bytes, mut head, mut receiver) = (Vec::new(), ResponseHead::default(), ResponseReceiver::default());
    let length = loop {
        match receiver.receive(&mut head, &bytes, method, HEAD_BYTES).map_err(no_http)? {
            Received::Final(length) => break length,
            Received::Interim(length) => {
                bytes.drain(..length);
                continue;
            }
            Received::Partial => {}
        }
        if wire.read(&mut bytes).await? == 0 {
            return Err("it closed the connection before its answer was complete".to_owned());
        }
    };
    let mut response = http::Response::builder().status(head.status);
    for field in &head.fields {
        response = response.header(field.name.of_bytes(&bytes), field.value.of_bytes(&bytes));
    }
    let mut rest = bytes.split_off(length);
    let body = receive_body(wire, head.body, &mut rest).await?;
    response.body(Bytes::from(body)).map_err(|error| format!("its answer is no HTTP: {error}"))
}

/// `rest`: what came behind the head.
async fn receive_body(wire: &mut Wire, kind: ResponseBody, rest: &mut Vec<u8>) -> Result<Vec<u8>, String> {
    let too_long = || format!("its answer has more than {} KiB", BODY_BYTES / 1024);
    let cut_short = || "its answer ended in the middle".to_owned();
    match kind {
        ResponseBody::None => Ok(Vec::new()),
        ResponseBody::Length(length) => {
            let length = usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES).ok_or_else(too_long)?;
            while rest.len() < length {
                if wire.read(rest).await? == 0 {
                    return Err(cut_short());
                }
            }
            rest.truncate(length);
            Ok(std::mem::take(rest))
        }
        ResponseBody::UntilClose => {
            while rest.len() <= BODY_BYTES {
                if wire.read(rest).await? == 0 {
                    return Ok(std::mem::take(rest));
                }
            }
            Err(too_long())
        }
        ResponseBody::Chunked => {
            let (mut decoder, mut body) = (Decoder::default(), Vec::new());
            loop {
                while !rest.is_empty() && !decoder.is_done() {
                    let step =
                        decoder.decode(rest).map_err(|reject| format!("its answer is no HTTP: {}", reject.reason()))?;
                    body.extend_from_slice(rest.get(step.data.clone()).unwrap_or_default());
                    rest.drain(..step.consumed);
                    if body.len() > BODY_BYTES {
                        return Err(too_long());
                    }
                }
                if decoder.is_done() {
                    return Ok(body);
                }
                if wire.read(rest).await? == 0 {
                    return Err(cut_short());
                }
            }
        }
    }
}

/// RFC 9110 section 10.2.3.
fn said(response: &Response) -> Said {
    let value = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = |text: &str| {
        text.parse().ok().or_else(|| Some(sumun_http::date::parse(text.as_bytes())?.saturating_sub(now())))
    };
    Said { refused: response.status().as_u16() >= 400, retry_after: value.map(str::trim).and_then(seconds) }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    sumun_host::clock::wall_ns() / 1_000_000_000
}
