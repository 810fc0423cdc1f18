//! An application server that does what a test tells it, a thread for each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection};

use super::instance::{PATIENCE, eventually};
use super::origin::named;

/// A request as the server saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// The head as it came.
    pub(crate) raw_head: String,
}

impl Request {
    /// The values of a field, whose name is in lower case, joined as a list.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = named(&self.headers, name).collect();
        if values.is_empty() { None } else { Some(values.join(", ")) }
    }
}

/// The gateway's connection, as a test's server sees it.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    /// It speaks over TLS.
    pub(crate) tls: Option<Box<ServerConnection>>,
    /// The connection ends without a word of TLS, as if it was cut.
    pub(crate) cut: bool,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    /// Counts from 0 in the order of acceptance.
    pub(crate) number: usize,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
    requests: Mutex<Vec<Request>>,
}

pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// A plain answer with its length.
pub(crate) fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn bound(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

impl Server {
    /// `serve` has each connection for as long as it likes.
    pub(crate) fn start(ip: IpAddr, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start_on(bound(SocketAddr::new(ip, 0)), serve)
    }

    /// Answers every request, with keep-alive.
    pub(crate) fn answering(ip: IpAddr, respond: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(ip, move |peer| peer.answer_all(&respond))
    }

    /// Answers 200 with this text.
    pub(crate) fn saying(ip: IpAddr, text: &'static str) -> Self {
        Self::answering(ip, move |_| ok(text))
    }

    /// Answers when it is told to: the sender of one message lets one request go.
    pub(crate) fn gated(ip: IpAddr) -> (Self, mpsc::Sender<()>) {
        let (go, waits) = mpsc::channel();
        let waits = Mutex::new(waits);
        let server = Self::answering(ip, move |_| {
            waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
            ok("done")
        });
        (server, go)
    }

    pub(crate) fn start_at(address: SocketAddr, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start_on(bound(address), serve)
    }

    /// Over a socket that is bound already: an address that was free a moment ago may not be any more.
    pub(crate) fn start_on(listener: TcpListener, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::start_over(None, listener, serve)
    }

    /// The same over TLS.
    pub(crate) fn secure(
        ip: IpAddr,
        config: &Arc<ServerConfig>,
        serve: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        Self::start_over(Some(Arc::clone(config)), bound(SocketAddr::new(ip, 0)), serve)
    }

    fn start_over(
        config: Option<Arc<ServerConfig>>,
        listener: TcpListener,
        serve: impl Fn(&mut Peer) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (own, serve) = (Arc::clone(&shared), Arc::new(serve));
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(copy) = stream.try_clone() else { continue };
                // Small answers must not wait for acknowledgements.
                stream.set_nodelay(true).ok();
                lock(&own.streams).push(copy);
                own.open.fetch_add(1, Ordering::SeqCst);
                let number = own.accepted.fetch_add(1, Ordering::SeqCst);
                let side =
                    |config: &Arc<ServerConfig>| ServerConnection::new(Arc::clone(config)).expect("a side of TLS");
                let tls = config.as_ref().map(side).map(Box::new);
                let mut peer = Peer { stream, tls, cut: false, buffer: Vec::new(), shared: Arc::clone(&own), number };
                let serve = Arc::clone(&serve);
                thread::spawn(move || {
                    serve(&mut peer);
                    if let Some(tls) = peer.tls.as_mut().filter(|_| !peer.cut) {
                        tls.send_close_notify();
                        // The gateway may have gone before.
                        tls.complete_io(&mut peer.stream).ok();
                    }
                    peer.stream.shutdown(Shutdown::Both).ok();
                    peer.shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are served now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Requests whose head was read so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.requests).len()
    }

    /// The only request so far.
    pub(crate) fn only_request(&self) -> Request {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap_or_default()
    }

    /// The last request so far.
    pub(crate) fn last_request(&self) -> Request {
        self.requests().pop().expect("the server saw a request")
    }

    pub(crate) fn await_count(&self, count: usize) {
        eventually(&format!("{count} requests at the server"), || self.count() >= count);
    }

    /// Dies: its address refuses connections, and those that were open end.
    pub(crate) fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, which closes the listening socket.
        TcpStream::connect(self.address).ok();
        accepting.join().expect("the accepting thread does not panic");
        for stream in lock(&self.shared.streams).drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Peer {
    /// Reads requests and answers them until the connection ends.
    pub(crate) fn answer_all(&mut self, respond: &impl Fn(&Request) -> Vec<u8>) {
        while let Some(request) = self.request() {
            let answer = respond(&request);
            // RFC 9110 section 9.3.2: an answer to HEAD ends with its head.
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            let bytes = if request.method == "HEAD" { answer.get(..end).unwrap_or_default() } else { &answer };
            if !self.send(bytes) {
                return;
            }
        }
    }

    /// The next request with its body; `None` when the connection ended.
    pub(crate) fn request(&mut self) -> Option<Request> {
        let mut request = self.head()?;
        self.body(&mut request)?;
        let mut seen = lock(&self.shared.requests);
        if let Some(noted) = seen.iter_mut().rfind(|noted| noted.raw_head == request.raw_head) {
            noted.clone_from(&request);
        }
        Some(request)
    }

    /// The next request's head; its body stays to be read.
    pub(crate) fn head(&mut self) -> Option<Request> {
        let head = self.take_until(b"\r\n\r\n")?;
        let raw_head: String = head.iter().copied().map(char::from).collect();
        let mut lines = raw_head.trim_end_matches("\r\n").split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (method, target) = (word(), word());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let request = Request { method, target, headers, raw_head, ..Request::default() };
        lock(&self.shared.requests).push(request.clone());
        Some(request)
    }

    /// Reads the body of a request whose head was read.
    pub(crate) fn body(&mut self, request: &mut Request) -> Option<()> {
        if request.header("transfer-encoding").is_some() {
            loop {
                let mut chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                request.body.append(&mut chunk);
            }
            loop {
                let line = self.take_until(b"\r\n")?;
                let text = String::from_utf8_lossy(&line).into_owned();
                let Some((name, value)) = text.trim_end().split_once(':') else { return Some(()) };
                request.trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        if let Some(length) = request.header("content-length") {
            request.body = self.exactly(length.parse().ok()?)?;
        }
        Some(())
    }

    /// The next chunk of a body; an empty one is the last, and what follows that is still to come.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.take_until(b"\r\n")?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim_end(), 16).ok()?;
        if size == 0 {
            return Some(Vec::new());
        }
        let mut chunk = self.exactly(size + 2)?;
        chunk.truncate(size);
        Some(chunk)
    }

    /// Hands over what came behind the head, and the connection.
    pub(crate) fn read_body_with<T>(&mut self, read: impl FnOnce(&mut dyn Read) -> T) -> T {
        let here = std::mem::take(&mut self.buffer);
        read(&mut here.as_slice().chain(&self.stream))
    }

    /// False when the connection has ended.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        match &mut self.tls {
            None => self.stream.write_all(bytes).is_ok(),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush()).is_ok()
            }
        }
    }

    /// Exactly this many bytes, whatever they are.
    pub(crate) fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.more()?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// What is there, at least a byte.
    pub(crate) fn some(&mut self) -> Option<Vec<u8>> {
        while self.buffer.is_empty() {
            self.more()?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// Reads and forgets until the connection ends; gives how many bytes came.
    pub(crate) fn drain(&mut self) -> usize {
        let mut count = self.buffer.len();
        self.buffer.clear();
        while self.more().is_some() {
            count += self.buffer.len();
            self.buffer.clear();
        }
        count
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let read = match &mut self.tls {
                None => self.stream.read(&mut chunk),
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut chunk),
            };
            match read {
                Ok(0) => return None,
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Some(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere already fails the test; what was recorded stays readable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
