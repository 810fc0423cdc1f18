//! Bodies go no faster than they may, whoever carries them, and nobody is blamed for that.
//!
//! What is asserted is that nothing comes too early, which no load of the machine can break.

mod support;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use support::http2::{ask, get, speak};
use support::instance::{Instance, Place, everywhere};
use support::server::{Peer, Request, Server, ok};
use support::talk::Client;

/// Bytes a second of most of these tests.
const SPEED: usize = 400_000;

/// How long so many bytes take at least: a tenth of a second's worth may go at once, in each of two
/// directions a piece is on its way.
fn least(bytes: usize) -> Duration {
    Duration::from_secs_f64((bytes as f64 / SPEED as f64 - 0.2).max(0.0))
}

/// Answers `/SIZE` with so many bytes, `/chunked/SIZE` in chunks, and a body with how much it was.
fn sized(request: &Request) -> Vec<u8> {
    if request.method != "GET" {
        return ok(request.body.len().to_string());
    }
    let size: usize = request.target.rsplit('/').next().and_then(|size| size.parse().ok()).unwrap_or(0);
    if request.target.contains("chunked") {
        let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..size / 1000 {
            text.extend_from_slice(b"3e8\r\n");
            text.extend_from_slice(&[b'x'; 1000]);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"0\r\n\r\n");
        return text;
    }
    ok(vec![b'x'; size])
}

fn config(servers: &Server, listener: &str, routes: &str) -> String {
    format!(
        "pools: {{ app: {{ servers: [\"{}\"] }} }}\nlisteners:\n  web:\n    bind: \"$BIND\"\n{listener}    routes:\n{routes}",
        servers.address()
    )
}

fn start(place: Place, listener: &str, routes: &str) -> (Server, Instance) {
    let server = Server::answering(place.ip, sized);
    let gateway = Instance::start(place, &config(&server, listener, routes));
    (server, gateway)
}

/// How long something takes.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = act();
    (result, began.elapsed())
}

fn assert_slow(took: Duration, bytes: usize, what: &str) {
    assert!(took >= least(bytes), "{what}: {bytes} bytes in {took:?}");
    // Not an aim, only far from never.
    assert!(took < least(bytes) * 4 + Duration::from_secs(5), "{what}: {bytes} bytes in {took:?}");
}

#[test]
fn a_route_has_its_bandwidth_in_each_direction() {
    everywhere(|place| {
        let routes = "      - { path: /free/, proxy: app }\n      - { path: /, proxy: app, bandwidth: 3.2Mbit/s }\n";
        let (_server, gateway) = start(place, "", routes);
        for target in ["/400000", "/chunked/400000"] {
            let (answer, took) = timed(|| gateway.get(target).expect(200));
            assert_eq!(answer.body.len(), 400_000);
            assert_slow(took, 400_000, target);
        }
        let (answer, took) = timed(|| gateway.connect().request("POST", "/", "", &vec![b'x'; 400_000]));
        assert_eq!(answer.expect(200).text(), "400000");
        assert_slow(took, 400_000, "a request's body");
        let chunks = format!("{:x}\r\n{}\r\n0\r\n\r\n", 300_000, "y".repeat(300_000));
        let (answer, took) = timed(|| {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            gateway.connect().send(format!("{head}{chunks}")).answer()
        });
        assert_eq!(answer.expect(200).text(), "300000");
        assert_slow(took, 300_000, "a body in chunks");
        // All share it; another route does not.
        let (_, took) = timed(|| {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(gateway.get("/100000").expect(200).body.len(), 100_000));
                }
                assert_eq!(gateway.get("/free/5000000").expect(200).body.len(), 5_000_000);
            });
        });
        assert_slow(took, 400_000, "four at once");
    });
}

#[test]
fn small_answers_one_after_the_other_are_held_to_it() {
    everywhere(|place| {
        let routes = "      - { path: /r, respond: { body: \"$BODY\" }, bandwidth: 400KB/s }\n      - { path: /, proxy: app, bandwidth: 400KB/s }\n"
            .replace("$BODY", &"z".repeat(5000));
        let (_server, gateway) = start(place, "", &routes);
        for target in ["/5000", "/r"] {
            let mut client = gateway.connect();
            let (_, took) = timed(|| {
                for _ in 0..60 {
                    assert_eq!(client.get(target).expect(200).body.len(), 5000);
                }
            });
            assert_slow(took, 300_000, target);
        }
    });
}

#[test]
fn a_listener_bounds_connections_clients_and_all_together() {
    everywhere(|place| {
        for (key, shares) in [("connection", false), ("client", true), ("total", true)] {
            let listener = format!("    bandwidth: {{ {key}: 400KB/s }}\n");
            let (_server, gateway) = start(place, &listener, "      - { path: /, proxy: app }\n");
            let (_, took) = timed(|| {
                thread::scope(|scope| {
                    for _ in 0..2 {
                        scope.spawn(|| {
                            let mut client = gateway.connect();
                            // It is the connection's over all its requests.
                            for _ in 0..3 {
                                assert_eq!(client.get("/100000").expect(200).body.len(), 100_000);
                            }
                        });
                    }
                });
            });
            assert_slow(took, if shares { 600_000 } else { 300_000 }, key);
        }
    });
}

#[test]
fn files_and_uploads_go_at_the_pace() {
    everywhere(|place| {
        let server = Server::answering(place.ip, sized);
        let routes = "      - { path: /, files: { root: site, write: on, compress: on }, bandwidth: 400KB/s }\n";
        let gateway = Instance::start_in(place, &config(&server, "", routes), |directory| {
            let site = directory.join("site");
            fs::create_dir(&site).expect("a directory");
            fs::set_permissions(&site, fs::Permissions::from_mode(0o777)).expect("its mode");
            fs::write(site.join("large.bin"), vec![b'x'; 400_000]).expect("a file");
            fs::write(site.join("small.bin"), vec![b'x'; 60_000]).expect("a file");
            let noise: String = (0..700_000_u64).map(|at| char::from(b'0' + (fastrand_like(at) % 64) as u8)).collect();
            fs::write(site.join("text.txt"), noise).expect("a file");
        });
        let (answer, took) = timed(|| gateway.get("/large.bin").expect(200));
        assert_eq!(answer.body.len(), 400_000);
        assert_slow(took, 400_000, "a large file");
        let mut client = gateway.connect();
        let (_, took) = timed(|| {
            for _ in 0..5 {
                assert_eq!(client.get("/small.bin").expect(200).body.len(), 60_000);
            }
        });
        assert_slow(took, 300_000, "small files");
        let fields = "Range: bytes=0-99999, 150000-249999\r\n";
        let (answer, took) = timed(|| gateway.connect().get_with("/large.bin", fields).expect(206));
        assert!(answer.body.len() > 200_000);
        assert_slow(took, 200_000, "ranges");
        let (answer, took) = timed(|| gateway.connect().get_with("/text.txt", "Accept-Encoding: gzip\r\n").expect(200));
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_slow(took, answer.body.len(), "compressed");
        let (answer, took) = timed(|| gateway.connect().request("PUT", "/new.bin", "", &vec![b'x'; 300_000]));
        assert!(matches!(answer.status, 201 | 204), "{}", answer.status);
        assert_slow(took, 300_000, "an upload");
    });
}

/// Bits that do not compress well.
fn fastrand_like(at: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
}

#[test]
fn streams_of_http2_share_what_their_connection_has() {
    everywhere(|place| {
        let (_server, gateway) =
            start(place, "    bandwidth: { connection: 400KB/s }\n", "      - { path: /, proxy: app }\n");
        let (_, took) = timed(|| {
            speak(
                async |sender| {
                    let asked: Vec<_> = (0..4)
                        .map(|_| {
                            let sender = sender.clone();
                            tokio::spawn(async move { ask(&sender, get("/100000"), None).await })
                        })
                        .collect();
                    for answer in asked {
                        assert_eq!(answer.await.expect("no panic").expect("an answer").body.len(), 100_000);
                    }
                },
                &gateway,
            );
        });
        assert_slow(took, 400_000, "answers");
        let (_, took) = timed(|| {
            speak(
                async |sender| {
                    let post = http::Request::post("http://example.com/").body(()).expect("a request");
                    let answer = ask(&sender, post, Some(&vec![b'x'; 400_000])).await.expect("an answer");
                    assert_eq!(answer.body, b"400000");
                },
                &gateway,
            );
        });
        assert_slow(took, 400_000, "a body");
    });
}

#[test]
fn websockets_go_at_the_pace_in_both_directions() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer: &mut Peer| {
            if peer.request().is_none() {
                return;
            }
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            );
            if peer.exactly(300_000).is_some() {
                peer.send(vec![b'x'; 300_000]);
            }
        });
        let routes = "      - { path: /, proxy: app, bandwidth: 400KB/s }\n";
        let gateway = Instance::start(place, &config(&server, "", routes));
        let mut client = gateway.connect();
        let handshake = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert_eq!(client.send(handshake).answer().status, 101);
        let ((), took) = timed(|| {
            client.send(vec![b'x'; 300_000]);
            assert_eq!(client.bytes(300_000).len(), 300_000);
        });
        assert_slow(took, 500_000, "there and back");
    });
}

#[test]
fn nobody_is_blamed_for_waiting() {
    everywhere(|place| {
        let server = Server::answering(place.ip, sized);
        // Four share so little that each of them stands still for longer than anybody may.
        let text = format!(
            "pools: {{ app: {{ servers: [\"{}\"], timeouts: {{ idle: 200ms }} }} }}\nlisteners:\n  web:\n    bind: \"$BIND\"\n    \
             bounds: {{ idle: 200ms, body_rate: 1MB/s, header_timeout: 200ms }}\n    routes:\n      \
             - {{ path: /, proxy: app, bandwidth: 40KB/s }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &text);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(gateway.get("/20000").expect(200).body.len(), 20_000));
                scope.spawn(|| {
                    let answer = gateway.connect().request("POST", "/", "", &[b'x'; 20_000]);
                    assert_eq!(answer.expect(200).text(), "20000");
                });
            }
        });
    });
}

#[test]
fn a_paced_answer_does_not_hold_its_server() {
    everywhere(|place| {
        let server = Server::answering(place.ip, sized);
        let text = format!(
            "pools: {{ app: {{ servers: [{{ address: \"{}\", max_connections: 1 }}], queue: {{ timeout: 20s }} }} }}\n\
             listeners:\n  web:\n    bind: \"$BIND\"\n    routes:\n      - {{ path: /free/, proxy: app }}\n      \
             - {{ path: /, proxy: app, bandwidth: 40KB/s }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &text);
        let mut slow: Client = gateway.connect();
        slow.send("GET /200000 HTTP/1.1\r\nHost: a\r\n\r\n");
        let began = Instant::now();
        let mut first = [0; 1];
        slow.stream.read_exact(&mut first).expect("an answer has begun");
        for _ in 0..3 {
            assert_eq!(gateway.get("/free/10").expect(200).body.len(), 10);
        }
        assert!(began.elapsed() < Duration::from_secs(4), "they did not wait for the five seconds of the slow one");
    });
}

#[test]
fn a_deadline_holds_for_who_waits_for_a_share() {
    everywhere(|place| {
        let routes = "      - { path: /, proxy: app, bandwidth: 20KB/s, deadline: 1s }\n";
        let (_server, gateway) = start(place, "", routes);
        let mut client = gateway.connect();
        let cut = client.send("GET /200000 HTTP/1.1\r\nHost: a\r\n\r\n").try_answer(false);
        assert!(cut.is_err(), "it would have taken ten seconds");
    });
}
