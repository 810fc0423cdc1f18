//! Clients and servers of HTTP/2. Both are the h2 crate's, which knows nothing of our own machine.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::instance::{Instance, PATIENCE};

/// Runs a client's side on a runtime of its own.
pub(crate) fn speak<F: Future<Output = ()>>(client: impl FnOnce(SendRequest<Bytes>) -> F, gateway: &Instance) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = gateway.address;
    let talk = async move {
        let socket = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let (sender, connection) = h2::client::handshake(socket).await.expect("a handshake");
        let driver = tokio::spawn(connection);
        client(sender).await;
        driver.abort();
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, talk).await }).expect("it ends in time");
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

pub(crate) async fn take(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { status: parts.status, headers: parts.headers, body, trailers })
}

pub(crate) async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<&[u8]>,
) -> Result<Answer, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, body.is_none())?;
    if let Some(body) = body {
        for piece in body.chunks(10_000) {
            stream.reserve_capacity(piece.len());
            let mut rest = piece;
            while !rest.is_empty() {
                let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await.ok_or_else(ended)??;
                let (now, later) = rest.split_at(room.min(rest.len()));
                stream.send_data(Bytes::copy_from_slice(now), false)?;
                rest = later;
            }
        }
        stream.send_data(Bytes::new(), true)?;
    }
    take(response.await?).await
}

fn ended() -> h2::Error {
    h2::Reason::STREAM_CLOSED.into()
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://example.com{path}")).body(()).expect("a request")
}

/// A server of HTTP/2, in plain text unless its habits say otherwise, on a thread of its own.
pub(crate) struct Http2Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: Notify,
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<http::request::Parts>>,
}

/// What a connection does once it has taken so many streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    Never,
    /// It says so, and ends what has begun.
    Gracefully {
        after: usize,
    },
}

/// How such a server behaves.
#[derive(Clone)]
pub(crate) struct Habits {
    pub(crate) builder: h2::server::Builder,
    pub(crate) leaves: Leaves,
    /// It speaks over TLS, and leaves who has not agreed on HTTP/2.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Its first connection says nothing any more, and closes nothing, from its first request on.
    pub(crate) falls_silent: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self { builder: h2::server::Builder::new(), leaves: Leaves::Never, tls: None, falls_silent: false }
    }
}

impl Http2Server {
    /// Each request gets a task of `serve`.
    pub(crate) fn start<Serve>(ip: IpAddr, habits: Habits, serve: Serve) -> Self
    where
        Serve: AsyncFn(Request<RecvStream>, SendResponse<Bytes>) + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(SocketAddr::new(ip, 0)).expect("an address");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket");
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            let serving = async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let serve = Rc::new(serve);
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let number = own.accepted.fetch_add(1, Ordering::SeqCst);
                    let (own, serve, habits) = (Arc::clone(&own), Rc::clone(&serve), habits.clone());
                    tokio::task::spawn_local(async move {
                        own.open.fetch_add(1, Ordering::SeqCst);
                        let falls_silent = habits.falls_silent && number == 0;
                        match habits.tls.clone().map(tokio_rustls::TlsAcceptor::from) {
                            None => connection(socket, &own, &serve, &habits, falls_silent).await,
                            Some(acceptor) => match acceptor.accept(socket).await {
                                Ok(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2") => {
                                    connection(tls, &own, &serve, &habits, falls_silent).await;
                                }
                                Ok(_) | Err(_) => {}
                            },
                        }
                        own.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            };
            let stopped = shared_stop(&own);
            local.block_on(&runtime, async {
                tokio::select! { () = serving => {}, () = stopped => {} }
            });
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Answers each request with this text.
    pub(crate) fn saying(ip: IpAddr, text: &'static str) -> Self {
        Self::start(ip, Habits::default(), async move |request, respond| {
            answer(request, respond, Response::new(()), text.as_bytes()).await;
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Heads of requests so far.
    pub(crate) fn requests(&self) -> Vec<http::request::Parts> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn shared_stop(shared: &Shared) {
    shared.stop.notified().await;
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn connection<Socket, Serve>(
    socket: Socket,
    shared: &Arc<Shared>,
    serve: &Rc<Serve>,
    habits: &Habits,
    falls_silent: bool,
) where
    Socket: AsyncRead + AsyncWrite + Unpin,
    Serve: AsyncFn(Request<RecvStream>, SendResponse<Bytes>) + 'static,
{
    let Ok(mut connection) = habits.builder.handshake::<_, Bytes>(socket).await else { return };
    let mut taken = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(parts.clone());
        if falls_silent {
            // Nobody drives the connection: it answers no PING either.
            std::future::pending::<()>().await;
        }
        let serve = Rc::clone(serve);
        tokio::task::spawn_local(async move { serve(Request::from_parts(parts, body), respond).await });
        taken += 1;
        if habits.leaves == (Leaves::Gracefully { after: taken }) {
            connection.graceful_shutdown();
        }
    }
}

/// Reads a request to its end.
pub(crate) async fn drain(request: Request<RecvStream>) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let mut stream = request.into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len()).ok()?;
    }
    let trailers = stream.trailers().await.ok()?;
    Some((body, trailers))
}

/// Reads a request to its end and answers it.
pub(crate) async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    response: Response<()>,
    body: &[u8],
) {
    if drain(request).await.is_none() {
        return;
    }
    let Ok(mut stream) = respond.send_response(response, body.is_empty()) else { return };
    if !body.is_empty() {
        send(&mut stream, body, true).await;
    }
}

/// Sends all of it, as the windows allow. False: the stream is gone.
pub(crate) async fn send(stream: &mut h2::SendStream<Bytes>, body: &[u8], end: bool) -> bool {
    let mut rest = body;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(Ok(room)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else { return false };
        let (now, later) = rest.split_at(room.min(rest.len()));
        if stream.send_data(Bytes::copy_from_slice(now), end && later.is_empty()).is_err() {
            return false;
        }
        rest = later;
    }
    true
}
