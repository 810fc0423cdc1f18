//! WebSockets over HTTP/2 (RFC 8441), on either side of the gateway.

mod support;

use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use support::http2::{Habits, Http2Server, answer, speak};
use support::instance::{Instance, eventually, everywhere};
use support::server::{Peer, Server, ok};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// RFC 6455 section 4.2.2.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Takes the handshake of HTTP/1.1 and gives every byte back.
fn echo(peer: &mut Peer) {
    let Some(request) = peer.request() else { return };
    match request.target.as_str() {
        "/no" => drop(peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")),
        "/page" => drop(peer.send(ok("a page"))),
        target => {
            let key = request.header("sec-websocket-key").unwrap_or_default();
            let accept = if target == "/wrong" { "x".repeat(28) } else { accept(&key) };
            peer.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
            ));
            while let Some(bytes) = peer.some() {
                peer.send(bytes);
            }
            peer.send("farewell");
        }
    }
}

/// The same in HTTP/2.
fn echo_server(place: support::instance::Place) -> Http2Server {
    let mut habits = Habits::default();
    habits.builder.enable_connect_protocol();
    Http2Server::start(place.ip, habits, async |request, mut respond| {
        if request.uri().path() == "/no" {
            let response = Response::builder().status(StatusCode::FORBIDDEN).body(()).expect("a response");
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            stream.send_data(Bytes::from_static(b"no"), true).ok();
            return;
        }
        if request.method() != Method::CONNECT {
            return answer(request, respond, Response::new(()), b"no tunnel").await;
        }
        let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).ok();
            stream.send_data(data, false).ok();
        }
        stream.send_data(Bytes::from_static(b"farewell"), true).ok();
    })
}

/// Asks for a WebSocket; the answer, and the two halves of the stream.
async fn open(sender: &SendRequest<Bytes>, path: &str) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let mut sender = sender.clone().ready().await.expect("ready");
    // The setting comes with the first frame of the gateway's.
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://example.com{path}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .extension(Protocol::from_static("websocket"))
        .body(())
        .expect("a request");
    let (response, stream) = sender.send_request(request, false).expect("sent");
    (response.await.expect("an answer"), stream)
}

/// So many bytes, or all until the end.
async fn read(body: &mut h2::RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    while bytes.len() < count {
        let Some(Ok(data)) = body.data().await else { break };
        body.flow_control().release_capacity(data.len()).ok();
        bytes.extend_from_slice(&data);
    }
    bytes.to_vec()
}

async fn talk(sender: &SendRequest<Bytes>) {
    let (response, mut stream) = open(sender, "/chat?room=1").await;
    assert_eq!(response.status(), 200);
    for name in ["sec-websocket-accept", "upgrade", "connection", "content-length", "transfer-encoding"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let mut body = response.into_body();
    for word in [&b"\x81\x05hello"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 10_000]] {
        assert!(support::http2::send(&mut stream, word, false).await);
        assert!(read(&mut body, word.len()).await == word);
    }
    stream.send_data(Bytes::new(), true).expect("sent");
    assert_eq!(read(&mut body, usize::MAX).await, b"farewell", "each direction ends by itself");
}

#[test]
fn from_http_2_to_a_server_of_http_1() {
    everywhere(|place| {
        let server = Server::start(place.ip, echo);
        let gateway = Instance::proxy(place, &[server.address()], "retries: off,", "");
        speak(
            async |sender| {
                talk(&sender).await;
                let seen = server.last_request();
                assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/chat?room=1"));
                assert_eq!(seen.header("upgrade").as_deref(), Some("websocket"));
                assert_eq!(seen.header("host").as_deref(), Some("example.com"));
                assert_eq!(seen.header("content-length"), None);
                assert_eq!(seen.header("transfer-encoding"), None);
                let (declined, _) = open(&sender, "/no").await;
                assert_eq!(declined.status(), 403);
                assert_eq!(read(&mut declined.into_body(), 2).await, b"no");
                // Any 2xx would be a tunnel to the client, and who does not know the key is no server
                // of WebSockets.
                for path in ["/page", "/wrong"] {
                    assert_eq!(open(&sender, path).await.0.status(), 502, "{path}");
                }
            },
            &gateway,
        );
        eventually("the end of the tunnels", || server.open() == 0);
    });
}

#[test]
fn from_http_2_to_a_server_of_http_2() {
    everywhere(|place| {
        let server = echo_server(place);
        let gateway = Instance::proxy(place, &[server.address()], "protocol: http2,", "");
        speak(
            async |sender| {
                talk(&sender).await;
                let (declined, _) = open(&sender, "/no").await;
                assert_eq!(declined.status(), 403);
            },
            &gateway,
        );
        let seen = server.requests().swap_remove(0);
        assert_eq!(
            (&seen.method, seen.uri.path_and_query().map(|path| path.as_str())),
            (&Method::CONNECT, Some("/chat?room=1"))
        );
        assert_eq!(seen.extensions.get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        for name in ["sec-websocket-key", "upgrade", "connection"] {
            assert!(!seen.headers.contains_key(name), "{name}");
        }
        assert_eq!(seen.headers["sec-websocket-protocol"], "chat");
    });
}

#[test]
fn from_http_1_to_a_server_of_http_2() {
    everywhere(|place| {
        let server = echo_server(place);
        let gateway = Instance::proxy(place, &[server.address()], "protocol: http2,", "");
        let mut client = gateway.connect();
        let answer = client.send([HANDSHAKE.as_bytes(), b"\x81\x05hello"].concat()).answer();
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(client.bytes(7), b"\x81\x05hello");
        client.finish();
        assert_eq!(client.bytes(8), b"farewell");
        let mut client = gateway.connect();
        client.send(HANDSHAKE.replace("/chat", "/no"));
        assert_eq!(client.answer().expect(403).text(), "no");
    });
}

#[test]
fn a_server_that_announces_no_websockets_is_asked_for_none() {
    everywhere(|place| {
        let server = Http2Server::saying(place.ip, "two");
        let gateway = Instance::proxy(place, &[server.address()], "protocol: http2,", "");
        gateway.get("/").expect(200);
        let mut client = gateway.connect();
        client.send(HANDSHAKE);
        client.answer().expect(502);
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn a_page_is_no_websocket_and_other_protocols_are_not_spoken() {
    everywhere(|place| {
        let config = "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: { body: said } }] } }\n";
        let gateway = Instance::start(place, config);
        speak(
            async |sender| {
                assert_eq!(open(&sender, "/").await.0.status(), 501);
                let mut sender = sender.clone().ready().await.expect("ready");
                let request = Request::builder()
                    .method(Method::CONNECT)
                    .uri("http://example.com/")
                    .extension(Protocol::from_static("connect-udp"))
                    .body(())
                    .expect("a request");
                let (response, _stream) = sender.send_request(request, false).expect("sent");
                assert_eq!(response.await.expect("an answer").status(), 501);
            },
            &gateway,
        );
    });
}

#[test]
fn the_end_of_a_drain_is_told_in_the_language_of_websockets() {
    everywhere(|place| {
        let one = Server::start(place.ip, echo);
        let two = echo_server(place);
        for (server, pool) in [(one.address(), ""), (two.address(), "protocol: http2,")] {
            let gateway = Instance::proxy(place, &[server], pool, "");
            speak(
                async |sender| {
                    let (response, mut stream) = open(&sender, "/chat").await;
                    assert_eq!(response.status(), 200);
                    let mut body = response.into_body();
                    stream.send_data(Bytes::from_static(b"\x81\x05hello"), false).expect("sent");
                    assert_eq!(read(&mut body, 7).await, b"\x81\x05hello");
                    gateway.signal("TERM");
                    // A close frame with 1001; the echo of ours to the server may come before it.
                    let last = read(&mut body, 4).await;
                    assert!(last.starts_with(b"\x88\x02\x03\xe9"), "{last:?}");
                },
                &gateway,
            );
        }
    });
}
