//! What the gateway promises to clients that come over TLS. The client is rustls with its buffered
//! interface, which the gateway does not use.

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustls::{HandshakeKind, ProtocolVersion};
use support::certificates::{Authority, Pair, VERSIONS};
use support::client::End;
use support::instance::{Instance, PATIENCE, eventually, everywhere};
use support::server::{Peer, Server, ok};
use support::site::{PLAIN_SETUP, Setup, Site};
use support::talk::Client;

fn version(client: &Client) -> Option<ProtocolVersion> {
    client.tls.as_ref().and_then(|tls| tls.protocol_version())
}

#[test]
fn both_versions_are_served_and_servers_are_told_of_https() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "over TLS");
        let site = Site::proxy(place, &server);
        for (offered, spoken) in VERSIONS.into_iter().zip([ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3]) {
            let config = site.authority.client(&[offered], &["http/1.1"], None);
            let mut client = site.connect(&config);
            assert_eq!(client.get("/").expect(200).text(), "over TLS");
            assert_eq!(version(&client), Some(spoken));
            assert_eq!(client.tls.as_ref().and_then(|tls| tls.alpn_protocol()), Some(&b"http/1.1"[..]));
            let seen = server.last_request();
            assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("https"));
            assert!(seen.header("forwarded").is_some_and(|value| value.ends_with(";proto=https")), "{seen:?}");
            // The connection stays, and a client that offers no protocol is served, too.
            assert_eq!(client.get("/again").expect(200).text(), "over TLS");
            let mut silent = site.connect(&site.authority.client(&[offered], &[], None));
            assert_eq!(silent.get("/").expect(200).text(), "over TLS");
        }
    });
}

#[test]
fn the_name_that_is_asked_for_chooses_the_certificate() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let first = authority.pair(&["site.test", &place.ip.to_string()]);
        let (other, wild) = (authority.rsa_pair(&["other.test"]), authority.pair(&["*.wild.test"]));
        let pairs = [("site", &first), ("other", &other), ("wild", &wild)];
        let site = Setup { pairs: &pairs, ..PLAIN_SETUP }.start(place, authority);
        for versions in [&VERSIONS[..1], &VERSIONS[1..]] {
            let config = site.authority.client(versions, &[], None);
            let address = place.ip.to_string();
            // An address is not sent as a name.
            for (name, pair) in
                [("site.test", &first), ("other.test", &other), ("a.wild.test", &wild), (&address, &first)]
            {
                let mut client = Client::secure(site.gateway.address, &config, name);
                client.get("/").expect(200);
                let shown = client.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first().cloned());
                assert_eq!(shown, Some(pair.der()), "{name}");
            }
            // Nothing is for this name: the first certificate is shown, and the client says no.
            let mut stranger = Client::secure(site.gateway.address, &config, "stranger.test");
            assert!(stranger.handshake().is_err());
        }
    });
}

#[test]
fn sessions_are_resumed_by_every_worker_and_after_a_reload() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        for offered in VERSIONS {
            let config = site.authority.client(&[offered], &["http/1.1"], None);
            let kind = |site: &Site| {
                let mut client = site.connect(&config);
                // Tickets come with the first answer.
                client.get("/").expect(200);
                client.tls.as_ref().and_then(|tls| tls.handshake_kind())
            };
            assert_ne!(kind(&site), Some(HandshakeKind::Resumed));
            for _ in 0..16 {
                assert_eq!(kind(&site), Some(HandshakeKind::Resumed));
            }
            site.gateway.command_ok(&["reload"]);
            assert_eq!(kind(&site), Some(HandshakeKind::Resumed));
        }
    });
}

#[test]
fn without_tickets_every_handshake_is_a_full_one() {
    everywhere(|place| {
        let site = Site::with(place, &Setup { tls: "tickets: off,", ..PLAIN_SETUP });
        for offered in VERSIONS {
            let config = site.authority.client(&[offered], &[], None);
            for _ in 0..3 {
                let mut client = site.connect(&config);
                client.get("/").expect(200);
                assert_ne!(client.tls.as_ref().and_then(|tls| tls.handshake_kind()), Some(HandshakeKind::Resumed));
            }
        }
    });
}

#[test]
fn the_oldest_version_is_what_the_config_says() {
    everywhere(|place| {
        let site = Site::with(place, &Setup { tls: "min_version: 1.3,", ..PLAIN_SETUP });
        assert!(site.connect(&site.authority.client(&VERSIONS[..1], &[], None)).handshake().is_err());
        let mut client = site.connect(&site.authority.client(&VERSIONS, &[], None));
        client.get("/").expect(200);
        assert_eq!(version(&client), Some(ProtocolVersion::TLSv1_3));
    });
}

#[test]
fn replaced_files_are_taken_up_and_open_connections_live_on() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        let mut open = site.connect_plainly();
        open.get("/").expect(200);
        for _ in 0..2 {
            let next = site.authority.pair(&["site.test"]);
            next.write(site.gateway.directory(), "site");
            eventually("the new certificate", || {
                let mut client = site.connect_plainly();
                client.get("/").expect(200);
                client.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first().cloned()) == Some(next.der())
            });
            assert_eq!(open.get("/").expect(200).text(), "hello");
        }
        // A key that does not fit changes nothing.
        let log = site.gateway.log().len();
        let wrong = site.authority.pair(&["site.test"]);
        std::fs::write(site.gateway.directory().join("site.key"), &wrong.key).expect("the key");
        eventually("a word about the key", || {
            site.gateway.log().get(log..).is_some_and(|new| new.contains("does not fit the certificate"))
        });
        site.connect_plainly().get("/").expect(200);
        open.get("/").expect(200);
    });
}

#[test]
fn tls_comes_to_an_address_and_goes_by_a_reload() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test"]);
        let secure = Setup { pairs: &[("site", &pair)], ..PLAIN_SETUP };
        let plain = "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: { body: plain } }] } }\n";
        let gateway = Instance::start_in(place, plain, |directory| pair.write(directory, "site"));
        let mut early = gateway.connect();
        assert_eq!(early.get("/").expect(200).text(), "plain");
        gateway.reload(&secure.config());
        let mut client = Client::secure(gateway.address, &authority.plain_client(), "site.test");
        assert_eq!(client.get("/").expect(200).text(), "hello");
        assert_eq!(early.get("/").expect(200).text(), "hello", "it goes on as it began");
        gateway.connect().get("/").expect(400);
        gateway.reload(plain);
        assert_eq!(gateway.connect().get("/").expect(200).text(), "plain");
        assert_eq!(client.get("/").expect(200).text(), "plain");
    });
}

#[test]
fn requests_without_tls_are_sent_to_where_there_is() {
    everywhere(|place| {
        let plain = place.free_address();
        let top = "trusted_proxies: [127.0.0.1, \"::1\"]";
        let setup = Setup { plain: Some(plain), listener: "redirect_https: on", top, ..PLAIN_SETUP };
        let site = Site::with(place, &setup);
        let port = site.gateway.address.port();
        let location = |request: &str| {
            let mut client = Client::connect(plain);
            let answer = client.send(request).answer().expect(308);
            assert_eq!(answer.header("strict-transport-security"), None);
            answer.header("location").map(str::to_owned)
        };
        let get = |target: &str, host: &str| location(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(get("/", "site.test"), Some(format!("https://site.test:{port}/")));
        assert_eq!(get("/a%20b/c?x=y&z=%2F", "site.test"), Some(format!("https://site.test:{port}/a%20b/c?x=y&z=%2F")));
        assert_eq!(get("/", "site.test:80"), Some(format!("https://site.test:{port}/")));
        assert_eq!(get("/", "[::1]:80"), Some(format!("https://[::1]:{port}/")));
        // Whatever the path looks like, the host stays what it was.
        assert_eq!(get("//evil.test/..", "site.test"), Some(format!("https://site.test:{port}/")));
        assert_eq!(get("http://absolute.test/p", "site.test"), Some(format!("https://absolute.test:{port}/p")));
        assert_eq!(
            location("POST /form HTTP/1.1\r\nHost: site.test\r\nContent-Length: 3\r\n\r\na=b"),
            Some(format!("https://site.test:{port}/form"))
        );
        let refused = |request: &str| Client::connect(plain).send(request).answer();
        for host in ["evil.test/x", "user@evil.test", "a b", "evil.test\\x"] {
            refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect(400);
        }
        refused("GET / HTTP/1.0\r\n\r\n").expect(400);
        refused("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").expect(501);
        // A proxy in front that is believed took the TLS off.
        let answer = Client::connect(plain).get_with("/", "X-Forwarded-Proto: https\r\n");
        assert_eq!(answer.expect(200).text(), "hello");
        assert_eq!(site.connect_plainly().get("/").expect(200).text(), "hello");
    });
}

#[test]
fn every_answer_over_tls_says_strict_transport_security() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok".to_vec()
        });
        let plain = place.free_address();
        let listener = "hsts: { max_age: 365d, subdomains: on, preload: on }";
        let top = format!("pools: {{ app: {{ servers: [\"{}\"] }} }}", server.address());
        let routes = "{ path: /proxy, proxy: app }, { path: /static/, files: $DIR }, { path: /away, redirect: /there }, \
                      { path: /own, respond: { body: x }, response_headers: { set: { Strict-Transport-Security: max-age=7 } } }";
        let site = Site::with(place, &Setup { plain: Some(plain), listener, top: &top, routes, ..PLAIN_SETUP });
        let mut client = site.connect_plainly();
        let mut said = |target: &str| {
            let answer = client.get(target);
            let all = answer.headers.iter().filter(|(name, _)| name == "strict-transport-security");
            (answer.status, all.map(|(_, value)| value.clone()).collect::<Vec<_>>())
        };
        let ours = || vec!["max-age=31536000; includeSubDomains; preload".to_owned()];
        assert_eq!(said("/proxy"), (200, ours()));
        assert_eq!(said("/static/site.pem"), (200, ours()));
        assert_eq!(said("/static/nothing"), (404, ours()));
        assert_eq!(said("/away"), (302, ours()));
        assert_eq!(said("/nowhere"), (404, ours()));
        assert_eq!(said("/own"), (200, vec!["max-age=7".to_owned()]));
        let mut broken = site.connect_plainly();
        let answer = broken.send("GET / HTTP/9.9\r\n\r\n").answer();
        assert_eq!(answer.header("strict-transport-security"), Some(ours()[0].as_str()));
        let answer = Client::connect(plain).get("/own");
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=7"), "the route's own");
        assert_eq!(Client::connect(plain).get("/nowhere").header("strict-transport-security"), None);
        assert_eq!(
            Client::connect(plain).get("/proxy").header("strict-transport-security"),
            Some("max-age=1"),
            "the server's own"
        );
    });
}

/// The handshake fails, or the first thing that comes is a refusal.
fn is_refused(client: &mut Client) -> bool {
    let handshake = client.handshake();
    let Some(tls) = &mut client.tls else { return false };
    handshake.is_err() || rustls::Stream::new(&mut **tls, &mut client.stream).read(&mut [0]).is_err()
}

#[test]
fn who_a_client_is_says_its_certificate_alone() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            ok(request
                .headers
                .iter()
                .filter(|(name, _)| name.contains("who"))
                .map(|(name, value)| format!("{name}={value};"))
                .collect::<String>())
        });
        let plain = place.free_address();
        let top = format!("pools: {{ app: {{ servers: [\"{}\"] }} }}", server.address());
        let forged =
            "X-Who: CN=forged\r\nx_who: CN=forged\r\nX_WHO: CN=forged\r\nX.Who: CN=forged\r\nx~who: CN=forged\r\n";
        for mode in ["required", "optional"] {
            let tls = format!("client_auth: {{ ca: $DIR/authority.pem, mode: {mode}, header: X-Who }},");
            let routes = "{ path: /, proxy: app }";
            let site = Site::with(place, &Setup { plain: Some(plain), tls: &tls, top: &top, routes, ..PLAIN_SETUP });
            let (ann, stranger) = (site.authority.person("ann"), Authority::new("other").person("eve"));
            // Who is nobody is told of nowhere; a name that does not fit is cut nowhere.
            let (unnamed, endless) = (site.authority.pair(&["ann.test"]), site.authority.person(&"a".repeat(1100)));
            for offered in VERSIONS {
                let connect = |pair: Option<&Pair>| site.connect(&site.authority.client(&[offered], &[], pair));
                let mut client = connect(Some(&ann));
                assert_eq!(client.get_with("/", forged).expect(200).text(), "x-who=CN=ann;");
                assert_eq!(client.get("/").expect(200).text(), "x-who=CN=ann;");
                // Nor behind a body, where some servers look, too.
                client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n");
                client.send("X-Other: 1\r\nx_who: CN=forged\r\nX-Who: CN=forged\r\nx.who: CN=forged\r\n\r\n");
                assert_eq!(client.answer().expect(200).text(), "x-who=CN=ann;");
                assert_eq!(server.last_request().trailers, [("x-other".to_owned(), "1".to_owned())]);
                // In TLS 1.3 a client learns of it with the first bytes that it reads.
                assert!(is_refused(&mut connect(Some(&stranger))));
                assert!(is_refused(&mut connect(Some(&endless))));
                assert_eq!(connect(Some(&unnamed)).get_with("/", forged).expect(200).text(), "");
                let mut nobody = connect(None);
                if mode == "optional" {
                    assert_eq!(nobody.get_with("/", forged).expect(200).text(), "");
                } else {
                    assert!(is_refused(&mut nobody));
                }
            }
            // Nor may anybody say so where nobody can prove it.
            assert_eq!(Client::connect(plain).get_with("/", forged).expect(200).text(), "");
        }
    });
}

#[test]
fn plain_http_gets_a_plain_answer_that_says_why() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        let mut client = site.gateway.connect();
        let answer = client.get_with("/", "Accept: application/json\r\n").expect(400);
        assert!(answer.text().contains("plain_http"), "{}", answer.text());
        assert_eq!(client.end(), End::Closed);
        site.connect_plainly().get("/").expect(200);
    });
}

/// What the client sends on does not take away the alert that says what was wrong.
#[test]
fn an_alert_arrives_whatever_the_client_still_sends() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        for _ in 0..20 {
            let mut stream = site.gateway.connect().stream;
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            // A message of a handshake that there is none of, and much behind it.
            let bytes = [&[22, 3, 1, 0, 4, 9, 0, 0, 0][..], &[0; 100_000]].concat();
            stream.write_all(&bytes).expect("the gateway reads on");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an end, not a reset");
            assert_eq!((answer.first(), answer.len()), (Some(&21), 7), "one alert: {answer:?}");
        }
    });
}

/// What a listener did not understand as TLS, and what became of it.
fn failures(admin: SocketAddr) -> Vec<(String, u64)> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let text = Client::connect(admin).send(request).answer().expect(200).text();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("sumun_tls_handshake_failures_total{")?.split_once("reason=\""));
    let counts = lines.filter_map(|(_, rest)| {
        let (reason, count) = rest.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().ok()?))
    });
    counts.collect()
}

#[test]
fn slow_and_broken_handshakes_end_and_are_counted() {
    everywhere(|place| {
        let admin = place.free_address();
        let top = format!("admin: \"{admin}\"");
        let listener = "bounds: { header_timeout: 1s }";
        let site = Site::with(place, &Setup { top: &top, listener, ..PLAIN_SETUP });
        let hello = client_hello(&site);
        let began = Instant::now();
        let (mut silent, mut half, mut dripping) =
            (site.gateway.connect(), site.gateway.connect(), site.gateway.connect());
        half.send(&hello[..hello.len() / 2]);
        for byte in &hello[..8] {
            dripping.send([*byte]);
            std::thread::sleep(Duration::from_millis(20));
        }
        for client in [&mut silent, &mut half, &mut dripping] {
            assert_eq!(client.end(), End::Closed);
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(900) && took < PATIENCE, "{took:?}");
        // What is no TLS ends at once.
        let began = Instant::now();
        for garbage in
            [&b"\0\0\0\0\0\0\0\0"[..], b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x03\x01", b"\x15\x03\x03\0\x02\x02\x28"]
        {
            let mut client = site.gateway.connect();
            client.send(garbage);
            let mut rest = Vec::new();
            client.stream.read_to_end(&mut rest).unwrap_or_default();
        }
        // Gone in the middle.
        let mut gone = site.gateway.connect();
        gone.send(&hello[..40]);
        drop(gone);
        eventually("everything is counted", || {
            let counts = failures(admin);
            let count = |reason: &str| counts.iter().find(|(word, _)| word == reason).map_or(0, |(_, count)| *count);
            count("timeout") == 3 && count("not_tls") >= 2 && count("malformed") >= 1 && count("gone") >= 1
        });
        assert!(began.elapsed() < PATIENCE);
        site.connect_plainly().get("/").expect(200);
    });
}

/// The first message of a client.
fn client_hello(site: &Site) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = rustls::pki_types::ServerName::try_from("site.test").expect("a name");
    let mut tls = rustls::ClientConnection::new(site.authority.plain_client(), name).expect("a side of TLS");
    tls.write_tls(&mut bytes).expect("memory");
    bytes
}

#[test]
fn a_head_has_its_time_whatever_the_records_look_like() {
    everywhere(|place| {
        let listener = "bounds: { header_timeout: 1s, idle: 60s }";
        let site = Site::with(place, &Setup { listener, ..PLAIN_SETUP });
        // The head of a record whose end never comes, behind a request that was answered.
        let mut client = site.connect_plainly();
        client.get("/").expect(200);
        client.stream.write_all(b"\x17\x03\x03\x40\x00half").expect("it is sent");
        client.answer().expect(408);
        // Half a head in a whole record.
        let mut client = site.connect_plainly();
        client.send("GET / HT");
        client.answer().expect(408);
    });
}

#[test]
fn large_bodies_pass_in_both_directions() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let site = Site::proxy(place, &server);
        let body: Vec<u8> = (0..6_000_000_u32).map(|number| (number % 251) as u8).collect();
        for offered in VERSIONS {
            let mut client = site.connect(&site.authority.client(&[offered], &[], None));
            for size in [0, 1, 16_383, 16_384, 16_385, 65_536, 6_000_000] {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
                let sent = &body[..size];
                client.send([head.as_bytes(), sent].concat());
                let answer = client.answer().expect(200);
                assert!(answer.body == sent, "{size}: {} bytes", answer.body.len());
            }
        }
    });
}

#[test]
fn files_of_any_size_arrive_whole() {
    everywhere(|place| {
        let site = Site::with(place, &Setup { routes: "{ path: /, files: $DIR }", ..PLAIN_SETUP });
        let body: Vec<u8> = (0..3_000_001_u32).map(|number| (number % 253) as u8).collect();
        for offered in VERSIONS {
            let mut client = site.connect(&site.authority.client(&[offered], &[], None));
            for size in [0, 100, 20_000, 200_000, 3_000_001] {
                let name = format!("{size}.bin");
                std::fs::write(site.gateway.directory().join(&name), &body[..size]).expect("a file");
                let answer = client.get(&format!("/{name}")).expect(200);
                assert!(answer.body == body[..size], "{size}: {} bytes", answer.body.len());
                if size > 100 {
                    let part = client.get_with(&format!("/{name}"), "Range: bytes=7-19999\r\n").expect(206);
                    assert!(part.body == body[7..20_000]);
                }
            }
        }
    });
}

#[test]
fn an_upload_that_was_cut_is_not_taken_for_complete() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| ok("got it"));
        let site = Site::proxy(place, &server);
        for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
            let before = server.count();
            let mut client = site.connect_plainly();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
            client.send(if framing.starts_with('C') { "part of it" } else { "a\r\npart of it\r\n" });
            drop(client);
            let mut next = site.connect_plainly();
            next.get("/").expect(200);
            assert_eq!(server.count(), before + 1, "the cut one never arrived: it was collected first");
        }
    });
}

#[test]
fn an_idle_connection_ends_with_a_word() {
    everywhere(|place| {
        let listener = "bounds: { idle: 1s }";
        let site = Site::with(place, &Setup { listener, ..PLAIN_SETUP });
        let mut client = site.connect_plainly();
        client.get("/").expect(200);
        // An end without close_notify would be `Reset`.
        assert_eq!(client.end(), End::Closed);
        let mut client = site.connect_plainly();
        client.get_with("/", "Connection: close\r\n").expect(200);
        assert_eq!(client.end(), End::Closed);
    });
}

/// Takes a WebSocket's handshake and gives every byte back.
fn echo(peer: &mut Peer) {
    if peer.request().is_some() {
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        while let Some(bytes) = peer.some() {
            peer.send(bytes);
        }
        peer.send("farewell");
    }
}

#[test]
fn websockets_pass() {
    everywhere(|place| {
        let server = Server::start(place.ip, echo);
        let site = Site::proxy(place, &server);
        for offered in VERSIONS {
            let mut client = site.connect(&site.authority.client(&[offered], &["http/1.1"], None));
            let handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            assert_eq!(client.send([handshake.as_bytes(), b"\x81\x05hello"].concat()).answer().status, 101);
            assert_eq!(client.bytes(7), b"\x81\x05hello");
            let bytes: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
            assert_eq!(client.send(&bytes).bytes(bytes.len()), bytes);
            client.finish();
            assert_eq!(client.bytes(8), b"farewell");
            assert_eq!(client.end(), End::Closed);
        }
        eventually("the server's connections have ended", || server.open() == 0);
    });
}

#[test]
fn a_proxy_names_its_client_before_the_handshake() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "named");
        let top = format!(
            "trusted_proxies: [127.0.0.1, \"::1\"]\npools: {{ app: {{ servers: [\"{}\"] }} }}",
            server.address()
        );
        let setup =
            Setup { top: &top, listener: "proxy_protocol: accept", routes: "{ path: /, proxy: app }", ..PLAIN_SETUP };
        let site = Site::with(place, &setup);
        let mut client = site.connect_plainly();
        client.stream.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\n").expect("it is sent");
        assert_eq!(client.get("/").expect(200).text(), "named");
        let seen = server.only_request();
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("192.0.2.7"));
        assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("https"));
    });
}

/// Speaks HTTP/2 over TLS with the h2 crate.
fn speak_http2<F: Future<Output = ()>>(site: &Site, client: impl FnOnce(h2::client::SendRequest<bytes::Bytes>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let connector = tokio_rustls::TlsConnector::from(site.authority.client(&VERSIONS, &["h2", "http/1.1"], None));
    let talk = async {
        let socket = tokio::net::TcpStream::connect(site.gateway.address).await.expect("a connection");
        let name = rustls::pki_types::ServerName::try_from("site.test").expect("a name");
        let stream = connector.connect(name, socket).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::handshake(stream).await.expect("settings");
        let driver = tokio::spawn(connection);
        client(sender).await;
        driver.abort();
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, talk).await }).expect("it ends in time");
}

#[test]
fn http2_is_spoken_with_who_offers_it() {
    everywhere(|place| {
        let body = vec![b'x'; 1_000_000];
        let sent = body.clone();
        let server = Server::answering(place.ip, move |request| {
            let proto = request.header("x-forwarded-proto").unwrap_or_default();
            if request.target == "/large" {
                ok(&sent)
            } else {
                ok(format!("{} {proto} {}", request.target, request.body.len()))
            }
        });
        let site = Site::proxy(place, &server);
        speak_http2(&site, async |sender| {
            let ask = async |path: &str, upload: Option<&[u8]>| {
                let mut sender = sender.clone().ready().await.expect("ready");
                let request = http::Request::post(format!("https://site.test{path}")).body(()).expect("a request");
                let (response, mut stream) = sender.send_request(request, upload.is_none()).expect("sent");
                let mut rest = upload.unwrap_or_default();
                while !rest.is_empty() {
                    stream.reserve_capacity(rest.len());
                    let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
                    let room = room.expect("the stream is there").expect("room");
                    let (now, later) = rest.split_at(room.min(rest.len()));
                    stream.send_data(bytes::Bytes::copy_from_slice(now), later.is_empty()).expect("sent");
                    rest = later;
                }
                let mut incoming = response.await.expect("an answer").into_body();
                let mut body = Vec::new();
                while let Some(data) = incoming.data().await {
                    let data = data.expect("data");
                    body.extend_from_slice(&data);
                    incoming.flow_control().release_capacity(data.len()).expect("room");
                }
                body
            };
            assert_eq!(ask("/a", None).await, b"/a https 0");
            assert_eq!(ask("/b", Some(&body)).await, b"/b https 1000000");
            assert!(ask("/large", None).await == body);
        });
    });
}

#[test]
fn the_protocol_is_the_one_of_the_handshake() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        // RFC 9113 section 3.2: over TLS it is agreed on or not spoken.
        for protocols in [&["http/1.1"][..], &[]] {
            let mut client = site.connect(&site.authority.client(&VERSIONS, protocols, None));
            client.send(preface).answer().expect(505);
        }
        let mut client = site.connect(&site.authority.client(&VERSIONS, &["h2"], None));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut received = Vec::new();
        let tls = client.tls.as_mut().expect("TLS");
        rustls::Stream::new(&mut **tls, &mut client.stream).read_to_end(&mut received).unwrap_or_default();
        assert!(!received.starts_with(b"HTTP/1"), "{}", support::show(&received));
        let mut client = site.connect(&site.authority.client(&VERSIONS, &["spdy/3"], None));
        assert!(client.handshake().is_err());
        site.connect_plainly().get("/").expect(200);
    });
}

/// Runs a program of the host; `None` and a word where there is none.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output() {
        Ok(output) => {
            Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
        }
        Err(error) => {
            eprintln!("not run: {program}: {error}");
            None
        }
    }
}

#[test]
fn curl_and_openssl_are_served() {
    everywhere(|place| {
        let site = Site::with(place, &PLAIN_SETUP);
        let (address, directory) = (site.gateway.address, site.gateway.directory());
        let authority = directory.join("authority.pem").display().to_string();
        let url = format!("https://site.test:{}/", address.port());
        let resolve = format!("site.test:{}:{}", address.port(), address.ip());
        let mut seen = BTreeSet::new();
        for version in ["--http1.1", "--http2"] {
            for tls in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
                let fixed =
                    [version, "-sS", "--cacert", &authority, "--resolve", &resolve, "-w", " %{http_version}", &url];
                let Some(said) = run("curl", &[tls, &fixed].concat()) else { return };
                assert!(said.starts_with("hello "), "{version} {tls:?}: {said}");
                seen.insert(said);
            }
        }
        assert_eq!(seen.len(), 2, "{seen:?}");
        let connect = address.to_string();
        let arguments =
            ["s_client", "-connect", &connect, "-servername", "site.test", "-CAfile", &authority, "-alpn", "h2"];
        if let Some(said) = run("openssl", &arguments) {
            assert!(said.contains("ALPN protocol: h2") && said.contains("Verify return code: 0 (ok)"), "{said}");
        }
    });
}
