//! WebSocket handshakes become tunnels, and no other upgrade does.

mod support;

use std::io::Write as _;
use std::net::Shutdown;

use support::client::End;
use support::instance::{Instance, Place, eventually, everywhere};
use support::server::{Peer, Server, ok};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: chat\r\n\r\n";
/// The answer to that key (RFC 6455 section 1.3).
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

/// Takes the handshake and gives every byte back.
fn echo(peer: &mut Peer) {
    let Some(request) = peer.request() else { return };
    if request.header("upgrade").as_deref() != Some("websocket") {
        peer.send(ok("no upgrade"));
        return;
    }
    peer.send(ACCEPTED);
    while let Some(bytes) = peer.some() {
        peer.send(bytes);
    }
    // The client ended its direction; ours goes on for one more word.
    peer.send("farewell");
}

fn start(place: Place) -> (Server, Instance) {
    let server = Server::start(place.ip, echo);
    let gateway = Instance::proxy(place, &[server.address()], "", "");
    (server, gateway)
}

#[test]
fn a_handshake_opens_a_tunnel() {
    everywhere(|place| {
        let (server, gateway) = start(place);
        let mut client = gateway.connect();
        // The first frame comes together with the handshake.
        let answer = client.send([HANDSHAKE.as_bytes(), b"\x81\x05hello"].concat()).answer();
        assert_eq!(answer.status, 101);
        for (name, value) in [
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "chat"),
            ("upgrade", "websocket"),
        ] {
            assert_eq!(answer.header(name), Some(value));
        }
        assert!(answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
        assert_eq!(client.bytes(7), b"\x81\x05hello");
        // What looks like HTTP is none any more, and no byte is special.
        let bytes: Vec<u8> = (0..=255).collect();
        client.send("GET / HTTP/1.1\r\n\r\n").send(&bytes);
        assert_eq!(client.bytes(18), b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.bytes(256), bytes);
        let seen = server.only_request();
        assert_eq!(seen.header("sec-websocket-key").as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(seen.header("connection").map(|value| value.to_ascii_lowercase()).as_deref(), Some("upgrade"));
    });
}

#[test]
fn each_direction_ends_by_itself() {
    everywhere(|place| {
        let (server, gateway) = start(place);
        let mut client = gateway.connect();
        assert_eq!(client.send(HANDSHAKE).answer().status, 101);
        client.send("last");
        client.finish();
        assert_eq!(client.bytes(12), b"lastfarewell");
        assert_eq!(client.end(), End::Closed);
        eventually("the server's connection has ended", || server.open() == 0);
    });
}

#[test]
fn the_servers_end_reaches_the_client() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.send(ACCEPTED);
                peer.send("bye");
                peer.stream.shutdown(Shutdown::Write).ok();
                peer.drain();
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        assert_eq!(client.send(HANDSHAKE).answer().status, 101);
        assert_eq!(client.bytes(3), b"bye");
        assert_eq!(client.end(), End::Closed);
        client.finish();
        eventually("the tunnel is gone", || server.open() == 0);
    });
}

#[test]
fn many_bytes_in_both_directions_at_once() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_none() || !peer.send(ACCEPTED) {
                return;
            }
            while let Some(block) = peer.exactly(4096) {
                peer.send(block);
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        assert_eq!(client.send(HANDSHAKE).answer().status, 101);
        let mut sink = client.stream.try_clone().expect("a second handle");
        let sender = std::thread::spawn(move || {
            for number in 0..2000_u32 {
                let block: Vec<u8> = number.to_le_bytes().repeat(1024);
                sink.write_all(&block).expect("the tunnel takes it");
            }
        });
        for number in 0..2000_u32 {
            assert_eq!(client.bytes(4096), number.to_le_bytes().repeat(1024));
        }
        sender.join().expect("no panic");
    });
}

#[test]
fn other_upgrades_are_not_forwarded() {
    everywhere(|place| {
        let (server, gateway) = start(place);
        for (upgrade, more) in [
            ("h2c", "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            ("TLS/1.0", "Connection: Upgrade\r\n"),
            ("foo, websocket2", "Connection: Upgrade\r\n"),
            // A WebSocket upgrade that `Connection` does not name.
            ("websocket", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        ] {
            let answer = gateway.connect().get_with("/", &format!("Upgrade: {upgrade}\r\n{more}"));
            assert_eq!((answer.status, answer.text().as_str()), (200, "no upgrade"), "{upgrade}");
            assert_eq!(server.last_request().header("upgrade"), None, "{upgrade}");
            assert_eq!(server.last_request().header("http2-settings"), None);
        }
    });
}

/// A server that switches where nobody asked is broken, and one that declines is not.
#[test]
fn what_servers_answer_to_a_handshake() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                let asked = request.header("upgrade").is_some();
                peer.send(if asked { ok("not today") } else { ACCEPTED.as_bytes().to_vec() });
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "retries: off,", "");
        let mut client = gateway.connect();
        assert_eq!(client.send(HANDSHAKE).answer().expect(200).text(), "not today");
        client.get("/unasked").expect(502);
    });
}
