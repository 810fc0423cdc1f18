//! Two application servers, small enough to read: what stands behind the gateway in the
//! demonstration. Each is a thread with an event loop of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sumun_http::chunked::Decoder;
use sumun_http::{BodyLength, Method, RequestHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

const NAMES: [&str; 2] = ["east", "west"];

/// How long `/api/slow` takes.
const SLOW: Duration = Duration::from_secs(2);
/// How long a server is gone after `/api/crash`.
const GONE: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted; descriptors come back by themselves.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Connections to one server; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1000;
/// Bytes of a request's head; a longer one is answered with 400.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields of a request's head; more are answered with 400.
const FIELDS_MAX: usize = 200;
/// Bytes of a request's body; a longer one is answered with 413.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Starts both on free TCP ports of 127.0.0.1; they end with this process.
pub(super) fn start_all() -> io::Result<[SocketAddr; 2]> {
    let [east, west] = NAMES;
    Ok([start(east)?, start(west)?])
}

fn start(name: &'static str) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let application = Arc::new(Application { name, answers: AtomicU64::new(0), crash: Notify::new() });
    let live = async move {
        let mut listener = TcpListener::from_std(listener);
        loop {
            if let Ok(listener) = listener {
                serve(&application, listener).await;
            }
            tokio::time::sleep(GONE).await;
            listener = TcpListener::bind(address).await;
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(live))?;
    Ok(address)
}

struct Application {
    name: &'static str,
    /// Requests answered so far, health checks aside.
    answers: AtomicU64,
    crash: Notify,
}

/// Takes connections until `/api/crash`; then all of them break at once.
async fn serve(application: &Arc<Application>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let application = Arc::clone(application);
                    connections.spawn(async move { converse(&application, stream).await });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            () = application.crash.notified() => return,
        }
    }
}

/// One connection, request after request.
async fn converse(application: &Application, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let mut head = RequestHead::default();
    loop {
        let length = match head.parse(&bytes, FIELDS_MAX) {
            Ok(Some(length)) => length,
            Ok(None) if bytes.len() < HEAD_BYTES_MAX => {
                if stream.read_buf(&mut bytes).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            Ok(None) | Err(_) => {
                return write(&mut stream, application, &Answer::text(400, "bad request"), false, false).await;
            }
        };
        let mut rest = bytes.split_off(length);
        if head.expect_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let Some(body) = read_body(&mut stream, head.body, &mut rest).await? else {
            return write(&mut stream, application, &Answer::text(413, "too long for a demonstration"), false, false)
                .await;
        };
        let answer = application.answer(&head, &bytes, &body).await;
        let keep_alive = head.keep_alive && !answer.crash;
        write(&mut stream, application, &answer, head.method == Method::Head, keep_alive).await?;
        if answer.crash {
            application.crash.notify_one();
        }
        if !keep_alive {
            return Ok(());
        }
        bytes = rest;
    }
}

/// The whole body, taken off `rest` and, where that ends, off the stream; `None` when it is
/// longer than allowed, or is no chunked body.
async fn read_body(stream: &mut TcpStream, length: BodyLength, rest: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut decoder = match length {
        BodyLength::None => return Ok(Some(Vec::new())),
        BodyLength::Length(length) => {
            let Some(length) = usize::try_from(length).ok().filter(|length| *length <= BODY_BYTES_MAX) else {
                return Ok(None);
            };
            while rest.len() < length {
                read_more(stream, rest).await?;
            }
            let behind = rest.split_off(length);
            return Ok(Some(std::mem::replace(rest, behind)));
        }
        BodyLength::Chunked => Decoder::default(),
    };
    let mut body = Vec::new();
    let mut used = 0;
    while !decoder.is_done() {
        let input = rest.get(used..).unwrap_or_default();
        if input.is_empty() {
            rest.clear();
            used = 0;
            read_more(stream, rest).await?;
            continue;
        }
        let Ok(step) = decoder.decode(input) else { return Ok(None) };
        body.extend_from_slice(input.get(step.data).unwrap_or_default());
        used += step.consumed;
        if body.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
    }
    rest.drain(..used);
    Ok(Some(body))
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// What one request gets.
struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    /// The server is gone after this one.
    crash: bool,
}

impl Answer {
    fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into_bytes(), crash: false }
    }

    fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: "application/json", body: format!("{value}\n").into_bytes(), crash: false }
    }
}

impl Application {
    async fn answer(&self, head: &RequestHead, bytes: &[u8], body: &[u8]) -> Answer {
        let path = head.path.of_bytes(bytes);
        if path == b"/healthz" {
            return Answer::text(200, "ok");
        }
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        match path {
            b"/api/hello" => Answer::json(&json!({ "server": self.name, "answer": number })),
            b"/api/slow" => {
                tokio::time::sleep(SLOW).await;
                Answer::json(&json!({ "server": self.name, "answer": number, "took_seconds": SLOW.as_secs() }))
            }
            b"/api/echo" => {
                let request = [bytes, body].concat();
                Answer { body: request, ..Answer::text(200, "") }
            }
            // A page that is opened by mistake must not take a server down.
            b"/api/crash" if head.method != Method::Post => Answer::text(405, "POST it"),
            b"/api/crash" => {
                let text = format!("{} is gone for {} seconds; the other one goes on", self.name, GONE.as_secs());
                Answer { crash: true, ..Answer::text(200, &text) }
            }
            _ => Answer::text(404, "there are /api/hello, /api/slow, /api/echo and /api/crash"),
        }
    }
}

async fn write(
    stream: &mut TcpStream,
    application: &Application,
    answer: &Answer,
    head_only: bool,
    keep_alive: bool,
) -> io::Result<()> {
    let phrase = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Content Too Large",
    };
    let mut bytes = format!(
        "HTTP/1.1 {} {phrase}\r\nServer: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{}{}\r\n",
        answer.status,
        application.name,
        answer.content_type,
        answer.body.len(),
        // RFC 9110 section 15.5.6.
        if answer.status == 405 { "Allow: POST\r\n" } else { "" },
        if keep_alive { "" } else { "Connection: close\r\n" },
    )
    .into_bytes();
    if !head_only {
        bytes.extend_from_slice(&answer.body);
    }
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_on_one_connection() {
        let address = start("north").unwrap();
        let answer = ask(
            address,
            "GET /api/hello HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /api/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nde\
             HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        assert!(answer.contains("{\"answer\":1,\"server\":\"north\"}\n"), "{answer}");
        assert!(answer.contains("\r\n\r\nabcHTTP/1.1 200 OK") && answer.contains("\r\n\r\ndeHTTP/1.1"), "{answer}");
        assert!(
            answer.ends_with("Content-Length: 3\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"),
            "{answer}"
        );
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let address = start("south").unwrap();
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("POST /api/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", "413"),
            ("GET /api/crash HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "405"),
            ("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "404"),
        ] {
            let answer = ask(address, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        }
    }

    #[test]
    fn a_crash_takes_all_connections_along() {
        let address = start("centre").unwrap();
        let mut idle = TcpStream::connect(address).unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).unwrap();
        let answer = ask(address, "POST /api/crash HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.contains("centre is gone"), "{answer}");
        let mut rest = Vec::new();
        // Closed or reset: either way it is over.
        idle.read_to_end(&mut rest).unwrap_or_default();
        assert!(TcpStream::connect(address).is_err());
    }
}
