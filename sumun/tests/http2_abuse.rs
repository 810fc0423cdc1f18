//! What hostile clients of HTTP/2 get: cut off and counted, while others are served and the worker
//! process stays small. And what never reaches a server, whatever it speaks.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use support::frames::{
    ACK, CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, block, frame, get, headers, reset,
};
use support::http2::{Habits, Http2Server, answer};
use support::instance::{Instance, Place, eventually, everywhere, memory_kib};
use support::server::{Server, ok};

/// What any of these may make the worker process grow by.
const GROWTH_KIB: u64 = 48 * 1024;

struct Scene {
    gateway: Instance,
    admin: SocketAddr,
    _server: Server,
    before_kib: u64,
}

impl Scene {
    fn new(place: Place) -> Self {
        Self::with_bounds(place, "idle: 1s, header_timeout: 1s")
    }

    fn with_bounds(place: Place, bounds: &str) -> Self {
        let large = "x".repeat(1_000_000);
        let server = Server::answering(
            place.ip,
            move |request| if request.target == "/large" { ok(&large) } else { ok("small") },
        );
        let admin = place.free_address();
        let config = format!(
            "admin: \"{admin}\"\npools: {{ app: {{ servers: [\"{}\"] }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", bounds: {{ {bounds} }}, routes: [{{ path: /, proxy: app }}] }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        for _ in 0..50 {
            gateway.get("/").expect(200);
        }
        let before_kib = memory_kib(gateway.worker_process(), "VmRSS");
        Self { gateway, admin, _server: server, before_kib }
    }

    fn open(&self) -> Raw {
        Raw::open(self.gateway.address, &[])
    }

    /// Another client is served, the abuse was counted, and memory stays within its bound.
    fn ends_well(&self, family: &str, reason: &str) {
        assert_eq!(self.gateway.get("/").expect(200).text(), "small");
        let line = format!("sumun_listener_http2_{family}_broken_total{{listener=\"web\",reason=\"{reason}\"}}");
        eventually(&line, || self.metrics().lines().any(|row| row.starts_with(&line)));
        let peak_kib = memory_kib(self.gateway.worker_process(), "VmHWM");
        assert!(peak_kib < self.before_kib + GROWTH_KIB, "{} KiB before, {peak_kib} KiB at the peak", self.before_kib);
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("a connection");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }
}

/// Sends the same again and again until the other side takes no more, or so many times.
fn flood(raw: &mut Raw, times: u32, bytes: impl Fn(u32) -> Vec<u8>) {
    for number in 0..times {
        if !raw.send(&bytes(number)) {
            return;
        }
    }
}

/// A client that is to be cut off with `ENHANCE_YOUR_CALM`.
fn is_cut_off(reason: &str, abuse: impl Fn(&mut Raw) + Sync) {
    everywhere(|place| {
        let scene = Scene::new(place);
        let mut raw = scene.open();
        abuse(&mut raw);
        // Where it was cut off while it still wrote, its end may have overtaken the words.
        let code = raw.end();
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
        scene.ends_well("connections", reason);
    });
}

#[test]
fn rapid_reset() {
    is_cut_off("h2_rapid_reset", |raw| {
        flood(raw, 5_000, |number| [headers(2 * number + 1, END_STREAM, &get("/")), reset(2 * number + 1)].concat());
    });
}

#[test]
fn made_you_reset() {
    is_cut_off("h2_made_reset", |raw| {
        // A window update by nothing is an error of the stream, which we then have to reset.
        flood(raw, 2_000, |number| {
            let stream = 2 * number + 1;
            [headers(stream, END_STREAM, &get("/")), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
        });
    });
}

#[test]
fn continuation_flood() {
    is_cut_off("h2_continuation_flood", |raw| {
        raw.send(&frame(HEADERS, END_STREAM, 1, &get("/")));
        flood(raw, 100_000, |_| frame(CONTINUATION, 0, 1, &[]));
    });
}

#[test]
fn a_head_without_end() {
    is_cut_off("h2_head_block", |raw| {
        raw.send(&frame(HEADERS, END_STREAM, 1, &get("/")));
        flood(raw, 1_000, |_| frame(CONTINUATION, 0, 1, &block(&[("x", &[b'a'; 16_000])])));
    });
}

#[test]
fn hpack_bomb() {
    is_cut_off("h2_head_bomb", |raw| {
        // One entry of nearly the whole table, then thousands of single bytes that stand for it.
        let mut bomb = get("/");
        bomb.push(0x40);
        bomb.extend_from_slice(&block(&[("x", &[b'a'; 4_000])])[1..]);
        bomb.extend_from_slice(&[0xbe; 10_000]);
        raw.send(&headers(1, END_STREAM, &bomb));
    });
}

#[test]
fn settings_flood() {
    is_cut_off("h2_settings_flood", |raw| flood(raw, 10_000, |_| frame(SETTINGS, 0, 0, &[])));
}

#[test]
fn ping_flood() {
    is_cut_off("h2_ping_flood", |raw| flood(raw, 50_000, |_| frame(PING, 0, 0, &[7; 8])));
}

#[test]
fn empty_data_flood() {
    is_cut_off("h2_empty_data_flood", |raw| {
        let post = block(&[(":method", b"POST"), (":scheme", b"http"), (":path", b"/"), (":authority", b"a")]);
        raw.send(&headers(1, 0, &post));
        flood(raw, 10_000, |_| frame(DATA, 0, 1, &[]));
    });
}

#[test]
fn window_update_flood() {
    is_cut_off("h2_window_update_flood", |raw| flood(raw, 50_000, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])));
}

#[test]
fn a_head_that_drips() {
    is_cut_off("h2_slow_head", |raw| {
        raw.send(&frame(HEADERS, END_STREAM, 1, &get("/")));
    });
}

#[test]
fn windows_that_stay_shut() {
    everywhere(|place| {
        let scene = Scene::new(place);
        // No window for any stream, from many connections: each holds a large answer up.
        let mut all: Vec<Raw> = (0..20).map(|_| Raw::open(scene.gateway.address, &[(4, 0)])).collect();
        for raw in &mut all {
            for number in 0..20 {
                raw.send(&headers(2 * number + 1, END_STREAM, &get("/large")));
            }
        }
        for raw in &mut all {
            raw.until(|frame| frame.kind == RST_STREAM);
        }
        scene.ends_well("streams", "h2_stream_stalled");
    });
}

/// A client that opens no window and goes away holds nothing any more: neither the server's
/// connections nor memory.
#[test]
fn clients_that_leave_with_shut_windows() {
    everywhere(|place| {
        // What is let go for being idle is so long after the test.
        let scene = Scene::with_bounds(place, "idle: 10m");
        let mut raw = Raw::open(scene.gateway.address, &[(4, 0)]);
        for number in 0..20 {
            raw.send(&headers(2 * number + 1, END_STREAM, &get("/large")));
        }
        for _ in 0..20 {
            raw.until(|frame| frame.kind == HEADERS);
        }
        let in_flight = |wanted: &str| {
            let found = |row: &str| row.starts_with("sumun_server_in_flight{") && row.ends_with(wanted);
            scene.metrics().lines().any(found)
        };
        assert!(in_flight(" 20"));
        drop(raw);
        eventually("nothing is in flight", || in_flight(" 0"));
    });
}

#[test]
fn answers_that_nobody_reads() {
    everywhere(|place| {
        let scene = Scene::new(place);
        // All windows are open, and the socket is not read: hundreds of megabytes are asked for.
        let mut all: Vec<Raw> = (0..20).map(|_| Raw::open(scene.gateway.address, &[(4, 0x7fff_ffff)])).collect();
        for raw in &mut all {
            raw.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
            for number in 0..20 {
                raw.send(&headers(2 * number + 1, END_STREAM, &get("/large")));
            }
        }
        for _ in 0..20 {
            assert_eq!(scene.gateway.get("/").expect(200).text(), "small");
        }
        let peak_kib = memory_kib(scene.gateway.worker_process(), "VmHWM");
        assert!(peak_kib < scene.before_kib + 3 * GROWTH_KIB, "{} KiB before, {peak_kib} KiB", scene.before_kib);
    });
}

#[test]
fn streams_above_the_bound_are_refused() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while peer.request().is_some() {
                std::thread::sleep(Duration::from_millis(500));
                peer.send(ok("late"));
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut raw = Raw::open(gateway.address, &[]);
        for number in 0..140 {
            raw.send(&headers(2 * number + 1, END_STREAM, &get("/")));
        }
        let mut refused = 0;
        let mut ended = 0;
        while refused + ended < 140 {
            let frame = raw.next().expect("the connection goes on");
            refused += u32::from(frame.kind == RST_STREAM && frame.code() == Some(7));
            ended += u32::from(frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS));
        }
        assert_eq!((refused, ended), (12, 128));
    });
}

/// Requests that would smuggle something to a server, each with the fields behind `:authority`, or in
/// place of all of them.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    const METHOD: (&str, &[u8]) = (":method", b"POST");
    const SCHEME: (&str, &[u8]) = (":scheme", b"http");
    const PATH: (&str, &[u8]) = (":path", b"/");
    const WHO: (&str, &[u8]) = (":authority", b"a.example");
    let with = |field: (&'static str, &'static [u8])| block(&[METHOD, SCHEME, PATH, WHO, field]);
    vec![
        ("CR LF in a value", with(("x", b"a\r\nEvil: 1"))),
        ("LF in a value", with(("x", b"a\nEvil: 1"))),
        ("NUL in a value", with(("x", b"a\0b"))),
        ("CR LF in a name", with(("x\r\nevil", b"1"))),
        ("a colon in a name", with(("x:evil", b"1"))),
        ("a space in a name", with(("x ", b"1"))),
        ("capitals in a name", with(("X-Capital", b"1"))),
        ("white space around a value", with(("x", b" a"))),
        ("transfer-encoding", with(("transfer-encoding", b"chunked"))),
        ("connection", with(("connection", b"close"))),
        ("keep-alive", with(("keep-alive", b"1"))),
        ("proxy-connection", with(("proxy-connection", b"close"))),
        ("upgrade", with(("upgrade", b"h2c"))),
        ("te", with(("te", b"gzip"))),
        ("another host", with(("host", b"b.example"))),
        (
            "two content-lengths",
            block(&[METHOD, SCHEME, PATH, WHO, ("content-length", b"4"), ("content-length", b"5")]),
        ),
        ("a content-length that is none", with(("content-length", b"+4"))),
        ("a content-length that is too long", with(("content-length", b"5"))),
        ("a content-length that is too short", with(("content-length", b"3"))),
        ("two authorities", with((":authority", b"b.example"))),
        ("two paths", with((":path", b"/other"))),
        ("a pseudo-field behind a field", block(&[METHOD, SCHEME, WHO, ("x", b"1"), PATH])),
        ("an unknown pseudo-field", with((":evil", b"1"))),
        ("a status", with((":status", b"200"))),
        ("no method", block(&[SCHEME, PATH, WHO])),
        ("no path", block(&[METHOD, SCHEME, WHO])),
        ("no authority", block(&[METHOD, SCHEME, PATH])),
        ("an empty path", block(&[METHOD, SCHEME, (":path", b""), WHO])),
        ("a path with a space", block(&[METHOD, SCHEME, (":path", b"/ HTTP/1.1\r\nEvil: 1"), WHO])),
        ("a path that is a request line", block(&[METHOD, SCHEME, (":path", b"/a HTTP/1.1"), WHO])),
        ("a path that is none", block(&[METHOD, SCHEME, (":path", b"http://b.example/"), WHO])),
        ("a method with a space", block(&[(":method", b"GET /evil HTTP/1.1"), SCHEME, PATH, WHO])),
        ("an authority with a path", block(&[METHOD, SCHEME, PATH, (":authority", b"a.example/evil")])),
        ("an authority with a user", block(&[METHOD, SCHEME, PATH, (":authority", b"evil@a.example")])),
        ("an authority with CR LF", block(&[METHOD, SCHEME, PATH, (":authority", b"a\r\nEvil: 1")])),
        ("a scheme of its own", block(&[METHOD, (":scheme", b"http://evil/?"), PATH, WHO])),
    ]
}

#[test]
fn what_would_smuggle_a_request_reaches_no_server() {
    everywhere(|place| {
        let one = Server::saying(place.ip, "one");
        let two = Http2Server::start(place.ip, Habits::default(), async |request, respond| {
            answer(request, respond, http::Response::new(()), b"two").await;
        });
        for (server, pool) in [(one.address(), ""), (two.address(), "protocol: http2,")] {
            let gateway = Instance::proxy(place, &[server], pool, "");
            for (what, fields) in hostile() {
                let mut raw = Raw::open(gateway.address, &[]);
                raw.send(&[headers(1, 0, &fields), frame(DATA, END_STREAM, 1, b"body")].concat());
                let end = raw.until(|frame| matches!(frame.kind, RST_STREAM | HEADERS | GOAWAY));
                // Index 8 of the static table is a status of 200.
                assert!(end.kind != HEADERS || end.payload.first() != Some(&0x88), "{what}: {end:?}");
            }
            // The connection of a well-behaved client goes on.
            assert!(gateway.get("/").expect(200).text().len() == 3);
        }
        assert_eq!(one.count(), 1, "{:?}", one.requests());
        assert_eq!(two.requests().len(), 1, "{:?}", two.requests());
    });
}

/// Answers of a server of HTTP/2 that must not reach a client of HTTP/1.1 as they are.
#[test]
fn what_would_split_an_answer_reaches_no_client() {
    everywhere(|place| {
        let hostile: Vec<(&str, Vec<u8>)> = vec![
            ("CR LF in a value", block(&[(":status", b"200"), ("x", b"a\r\nEvil: 1")])),
            ("NUL in a value", block(&[(":status", b"200"), ("x", b"a\0")])),
            ("capitals", block(&[(":status", b"200"), ("X", b"a")])),
            ("transfer-encoding", block(&[(":status", b"200"), ("transfer-encoding", b"chunked")])),
            ("connection", block(&[(":status", b"200"), ("connection", b"close")])),
            ("two lengths", block(&[(":status", b"200"), ("content-length", b"1"), ("content-length", b"2")])),
            ("a body shorter than it says", block(&[(":status", b"200"), ("content-length", b"9")])),
            ("a body longer than it says", block(&[(":status", b"200"), ("content-length", b"1")])),
            ("two statuses", block(&[(":status", b"200"), (":status", b"204")])),
            ("no status", block(&[("x", b"a")])),
            ("a status that is none", block(&[(":status", b"2000")])),
            ("a switch of protocols", block(&[(":status", b"101")])),
            ("a request", get("/")),
        ];
        let blocks: Vec<Vec<u8>> = hostile.iter().map(|(_, block)| block.clone()).collect();
        let server = Server::start(place.ip, move |peer| {
            peer.send([frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat());
            peer.exactly(24);
            while let Some(head) = peer.exactly(9) {
                peer.exactly(usize::from(head[1]) << 8 | usize::from(head[2]));
                if head[3] == HEADERS {
                    // Each connection is for one of them.
                    let block = blocks.get(peer.number).cloned().unwrap_or_default();
                    peer.send([headers(1, 0, &block), frame(DATA, END_STREAM, 1, b"body")].concat());
                }
            }
        });
        for (what, _) in &hostile {
            let gateway = Instance::proxy(place, &[server.address()], "protocol: http2, retries: off,", "");
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            match client.try_answer(false) {
                Ok(answer) => {
                    assert_eq!(answer.status, 502, "{what}");
                    assert!(answer.header("evil").is_none());
                }
                Err(cut) => assert!(cut.answer.body.len() < 9 && what.contains("body"), "{what}: {cut:?}"),
            }
        }
    });
}
