//! What the gateway promises towards servers that it reaches over TLS.

mod support;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use http::Response;
use rustls::ServerConfig;
use support::certificates::{Authority, Pair, VERSIONS};
use support::client::End;
use support::http2::{Habits, Http2Server, answer};
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere};
use support::server::{Peer, Server, ok};
use support::site::{PLAIN_SETUP, Setup, Site};
use support::talk::Client;

/// A pool `app` of these servers with this `tls`, whose `ca` may be the file of the authority.
fn start(place: Place, authority: &Authority, tls: &str, servers: &[SocketAddr], more: &str) -> Instance {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    let config = format!(
        "pools: {{ app: {{ {more} tls: {{ {tls} }}, servers: [{}] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n",
        servers.join(", ")
    );
    Instance::start_in(place, &config, |directory| {
        std::fs::write(directory.join("authority.pem"), &authority.pem).expect("the authority's file");
        authority.person("gateway").write(directory, "gateway");
    })
}

const TRUSTED: &str = "ca: $DIR/authority.pem";

/// A certificate for the address that the test's servers have.
fn for_address(place: Place, authority: &Authority) -> Pair {
    authority.pair(&[&place.ip.to_string()])
}

fn both_versions(pair: &Pair) -> Arc<ServerConfig> {
    pair.server(&VERSIONS)
}

#[test]
fn a_valid_server_is_spoken_to_and_its_connection_kept() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = for_address(place, &authority);
        for version in VERSIONS {
            let server = Server::secure(place.ip, &pair.server(&[version]), |peer: &mut Peer| {
                peer.answer_all(&|request| ok(format!("{} {}", request.method, request.body.len())));
            });
            let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
            let mut client = gateway.connect();
            for _ in 0..20 {
                assert_eq!(client.get("/").expect(200).text(), "GET 0");
            }
            // TLS 1.3 sends its tickets when it likes: they are no answer that nobody asked for.
            assert_eq!(server.accepted(), 1);
            assert_eq!(client.request("POST", "/", "", b"abc").expect(200).text(), "POST 3");
            assert_eq!(server.last_request().header("x-forwarded-proto").as_deref(), Some("http"));
        }
    });
}

#[test]
fn servers_that_cannot_be_believed_get_no_request() {
    everywhere(|place| {
        let (authority, other) = (Authority::new("authority"), Authority::new("other"));
        let address = place.ip.to_string();
        let cases = [
            ("unknown authority", other.pair(&[&address])),
            ("wrong name", authority.pair(&["elsewhere.test"])),
            ("expired", authority.expired_pair(&[&address])),
        ];
        let good = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
            peer.answer_all(&|_| ok("believed"));
        });
        for (what, pair) in cases {
            let server = Server::secure(place.ip, &both_versions(&pair), |peer: &mut Peer| {
                peer.answer_all(&|_| ok("not to be seen"));
            });
            let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
            let answer = gateway.connect().get_with("/", "Accept: application/json\r\n").expect(502);
            assert!(answer.text().contains("server_handshake"), "{what}: {}", answer.text());
            gateway.await_log("no TLS with the server: invalid peer certificate");
            assert_eq!(server.count(), 0, "{what}");
            // No request has reached it: any may go to another server.
            let pair = [server.address(), good.address()];
            let gateway = start(place, &authority, TRUSTED, &pair, "balance: first, outlier: { failures: 0 },");
            assert_eq!(gateway.connect().request("POST", "/", "", b"x").expect(200).text(), "believed", "{what}");
            let gateway = start(place, &authority, "verify: off", &[server.address()], "");
            assert_eq!(gateway.get("/").expect(200).text(), "not to be seen", "{what}");
        }
    });
}

#[test]
fn a_server_without_tls_is_no_server() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        // As real ones do with what is no HTTP.
        let server = Server::start(place.ip, |peer| {
            peer.exactly(1);
            peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        });
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        let answer = gateway.connect().get_with("/", "Accept: application/json\r\n").expect(502);
        assert!(answer.text().contains("server_handshake"), "{}", answer.text());
    });
}

#[test]
fn the_name_may_be_another_than_the_addresses() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["app.test"]);
        let server = Server::secure(place.ip, &both_versions(&pair), |peer: &mut Peer| peer.answer_all(&|_| ok("app")));
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        gateway.get("/").expect(502);
        let tls = format!("{TRUSTED}, sni: app.test");
        let gateway = start(place, &authority, &tls, &[server.address()], "");
        assert_eq!(gateway.get("/").expect(200).text(), "app");
    });
}

#[test]
fn servers_may_ask_who_we_are() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let config = authority.asking_server(&for_address(place, &authority));
        let server = Server::secure(place.ip, &config, |peer: &mut Peer| peer.answer_all(&|_| ok("known")));
        let tls = format!("{TRUSTED}, cert: $DIR/gateway.pem, key: $DIR/gateway.key");
        let gateway = start(place, &authority, &tls, &[server.address()], "");
        assert_eq!(gateway.get("/").expect(200).text(), "known");
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        gateway.get("/").expect(502);
    });
}

/// With TLS 1.3 a server that does not take our certificate says so when the handshake is over for us.
#[test]
fn a_server_that_refuses_us_behind_the_handshake_is_heard() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = for_address(place, &authority);
        let serve = |peer: &mut Peer| peer.answer_all(&|_| ok("known"));
        let mut config = (*authority.asking_server(&pair)).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let asking = Server::secure(place.ip, &Arc::new(config), serve);
        let good = Server::secure(place.ip, &both_versions(&pair), |peer: &mut Peer| {
            peer.answer_all(&|_| ok("believed"));
        });
        for protocol in ["http1", "http2", "auto"] {
            let more = format!("protocol: {protocol}, outlier: off,");
            let gateway = start(place, &authority, TRUSTED, &[asking.address()], &more);
            for method in ["GET", "POST"] {
                let answer = gateway.connect().request(method, "/", "Accept: application/json\r\n", b"").expect(502);
                assert!(answer.text().contains("server_handshake"), "{protocol}: {}", answer.text());
            }
            gateway.await_log("no TLS with the server: received fatal alert: CertificateRequired");
        }
        assert_eq!(asking.count(), 0);
        // It cannot have looked at any request: all may go to another server.
        let both = [asking.address(), good.address()];
        let gateway = start(place, &authority, TRUSTED, &both, "balance: first, outlier: off,");
        for _ in 0..20 {
            assert_eq!(gateway.connect().request("POST", "/", "", b"x").expect(200).text(), "believed");
        }
        for check in ["http: /health", "tcp: {}"] {
            let health = format!("health: {{ {check}, every: 200ms, rise: 1, fall: 1 }},");
            let gateway = start(place, &authority, TRUSTED, &both, &health);
            gateway.await_state("app", good.address(), "up");
            gateway.await_state("app", asking.address(), "down");
            let why = gateway.server("app", asking.address()).to_string();
            assert!(why.contains("no TLS: received fatal alert: CertificateRequired"), "{why}");
        }
        let tls = format!("{TRUSTED}, cert: $DIR/gateway.pem, key: $DIR/gateway.key");
        let gateway = start(place, &authority, &tls, &[asking.address()], "health: { tcp: {}, every: 200ms },");
        gateway.await_state("app", asking.address(), "up");
    });
}

#[test]
fn a_handshake_has_the_time_of_a_connection() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        // Takes everything and says nothing.
        let server = Server::start(place.ip, |peer| {
            peer.drain();
        });
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "timeouts: { connect: 500ms },");
        let began = Instant::now();
        let answer = gateway.connect().get_with("/", "Accept: application/json\r\n").expect(504);
        assert!(answer.text().contains("connect_timeout"), "{}", answer.text());
        assert!(began.elapsed() < PATIENCE / 2);
        gateway.await_log("no TLS with the server: the handshake took too long");
    });
}

#[test]
fn checks_speak_tls_and_verify() {
    everywhere(|place| {
        let (authority, other) = (Authority::new("authority"), Authority::new("other"));
        let address = place.ip.to_string();
        let serve = |peer: &mut Peer| peer.answer_all(&|_| ok("well"));
        let good = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), serve);
        let bad = Server::secure(place.ip, &both_versions(&other.pair(&[&address])), serve);
        for check in ["http: /health", "tcp: {}"] {
            let health = format!("health: {{ {check}, every: 200ms, rise: 1, fall: 1 }},");
            let gateway = start(place, &authority, TRUSTED, &[good.address(), bad.address()], &health);
            gateway.await_state("app", good.address(), "up");
            gateway.await_state("app", bad.address(), "down");
            let why = gateway.server("app", bad.address()).to_string();
            assert!(why.contains("no TLS: invalid peer certificate"), "{why}");
            for _ in 0..10 {
                gateway.get("/").expect(200);
            }
        }
    });
}

#[test]
fn large_bodies_pass_in_both_directions() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
            peer.answer_all(&|request| {
                if request.target == "/chunks" {
                    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                    for chunk in request.body.chunks(70_001) {
                        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                        answer.extend_from_slice(chunk);
                        answer.extend_from_slice(b"\r\n");
                    }
                    answer.extend_from_slice(b"0\r\n\r\n");
                    answer
                } else {
                    ok(&request.body)
                }
            });
        });
        let body: Vec<u8> = (0..4_000_000_u32).map(|number| (number % 251) as u8).collect();
        let top = format!("pools: {{ app: {{ tls: {{ {TRUSTED} }}, servers: [\"{}\"] }} }}", server.address());
        // Plain to TLS, and TLS to TLS; the site's own authority is not that of the server.
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        let site_authority = authority;
        let pair = site_authority.pair(&["site.test"]);
        let setup = Setup { pairs: &[("site", &pair)], top: &top, routes: "{ path: /, proxy: app }", ..PLAIN_SETUP };
        let site = setup.start(place, site_authority);
        for mut client in [gateway.connect(), site.connect_plainly()] {
            for size in [1, 16_384, 65_536, 300_000, 4_000_000] {
                for path in ["/", "/chunks"] {
                    let answer = client.request("POST", path, "", &body[..size]).expect(200);
                    assert!(answer.body == body[..size], "{path} {size}: {} bytes", answer.body.len());
                }
            }
        }
    });
}

#[test]
fn what_a_server_left_unfinished_is_not_taken_for_complete() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
            if let Some(request) = peer.request() {
                let head = match request.target.as_str() {
                    "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
                    "/chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n",
                    _ => "HTTP/1.1 200 OK\r\n\r\n",
                };
                peer.send(format!("{head}all there is"));
                peer.cut = request.target != "/ended";
            }
        });
        let top = format!("pools: {{ app: {{ tls: {{ {TRUSTED} }}, servers: [\"{}\"] }} }}", server.address());
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "outlier: { failures: 0 },");
        let pair = authority.pair(&["site.test"]);
        let routes = "{ path: /, proxy: app }";
        let setup = Setup { pairs: &[("site", &pair)], top: &top, routes, ..PLAIN_SETUP };
        let site = setup.start(place, authority);
        let clients: [&dyn Fn() -> Client; 2] = [&|| gateway.connect(), &|| site.connect_plainly()];
        for connect in clients {
            for path in ["/cut", "/length", "/chunks"] {
                let mut client = connect();
                client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                let cut = client.try_answer(false).expect_err("it is not whole");
                assert_eq!(cut.end, End::Reset, "{path}");
            }
            assert_eq!(connect().get("/ended").expect(200).text(), "all there is");
            // To an old client the end of the connection is the end of the body.
            let mut old = connect();
            old.send("GET /cut HTTP/1.0\r\n\r\n");
            assert_eq!(old.try_answer(false).expect_err("it is not whole").end, End::Reset);
            let mut old = connect();
            assert_eq!(old.send("GET /ended HTTP/1.0\r\n\r\n").answer().text(), "all there is");
        }
    });
}

#[test]
fn a_kept_connection_that_the_server_ended_is_not_used() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
            // One request a connection, and it does not say so before.
            if peer.request().is_some() {
                peer.send(ok("once"));
            }
        });
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        let mut client = gateway.connect();
        for number in 1..10 {
            assert_eq!(client.request("POST", "/", "", b"x").expect(200).text(), "once");
            eventually("the server has ended it", || server.open() == 0);
            assert_eq!(server.accepted(), number);
        }
    });
}

/// What came before a request is no part of its answer, be it a part of a record only.
#[test]
fn a_kept_connection_with_a_part_of_a_record_is_not_used() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
            while peer.request().is_some() {
                let number = peer.number.to_string();
                let tls = peer.tls.as_mut().expect("a side of TLS");
                tls.writer().write_all(&ok(number)).expect("room for an answer");
                let mut bytes = Vec::new();
                while tls.wants_write() {
                    tls.write_tls(&mut bytes).expect("a Vec takes every write");
                }
                // In one piece with the answer: it is read with it.
                bytes.extend_from_slice(&[23, 3, 3, 0, 100, 1, 2, 3]);
                peer.stream.write_all(&bytes).expect("the gateway takes it");
            }
        });
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "outlier: off,");
        let mut client = gateway.connect();
        for number in 0..5 {
            assert_eq!(client.request("POST", "/", "", b"x").expect(200).text(), number.to_string());
        }
    });
}

/// A server may want to know whether it was an accident (RFC 8446 section 6.1).
#[test]
fn servers_are_told_that_a_connection_ends() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let ends = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ends);
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), move |peer| {
            let Some(request) = peer.request() else { return };
            match request.target.as_str() {
                "/closing" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                }
                "/wrong" => drop(peer.send("nonsense\r\n\r\n")),
                "/endless" => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok");
                }
                _ => {}
            }
            let tls = peer.tls.as_mut().expect("a side of TLS");
            // Without a word of TLS this is an error.
            let end = rustls::Stream::new(&mut **tls, &mut peer.stream).read(&mut [0]);
            seen.lock().expect("no panic").push((request.target, end.ok()));
        });
        let more = "timeouts: { first_byte: 2s, idle: 2s }, retries: { tries: 0 }, outlier: off,";
        let gateway = start(place, &authority, TRUSTED, &[server.address()], more);
        gateway.get("/closing").expect(200);
        gateway.get("/silent").expect(504);
        gateway.get("/wrong").expect(502);
        for cut in ["/endless", "/left"] {
            let mut client = gateway.connect();
            client.send(format!("GET {cut} HTTP/1.1\r\nHost: a\r\n\r\n"));
            if cut == "/left" {
                eventually("the request", || server.requests().iter().any(|request| request.target == cut));
                client.reset();
            } else {
                assert!(client.try_answer(false).is_err());
            }
        }
        eventually("all ends", || ends.lock().expect("no panic").len() == 5);
        for (target, end) in ends.lock().expect("no panic").iter() {
            assert_eq!(*end, Some(0), "{target}");
        }
    });
}

#[test]
fn websockets_pass_over_tls_on_both_sides() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let server = Server::secure(place.ip, &both_versions(&for_address(place, &authority)), |peer: &mut Peer| {
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
        });
        let top = format!("pools: {{ app: {{ tls: {{ {TRUSTED} }}, servers: [\"{}\"] }} }}", server.address());
        let gateway = start(place, &authority, TRUSTED, &[server.address()], "");
        let pair = authority.pair(&["site.test"]);
        let setup = Setup { pairs: &[("site", &pair)], top: &top, routes: "{ path: /, proxy: app }", ..PLAIN_SETUP };
        let site = setup.start(place, authority);
        for mut client in [gateway.connect(), site.connect_plainly()] {
            let handshake = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            assert_eq!(client.send(handshake).answer().status, 101);
            let bytes: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
            assert_eq!(client.send(&bytes).bytes(bytes.len()), bytes);
            client.finish();
            assert_eq!(client.bytes(8), b"farewell");
            assert_eq!(client.end(), End::Closed);
        }
        eventually("the server's connections have ended", || server.open() == 0);
    });
}

#[test]
fn authorities_are_replaced_without_a_reload() {
    everywhere(|place| {
        let (first, second) = (Authority::new("first"), Authority::new("second"));
        let address = place.ip.to_string();
        let server = Server::secure(place.ip, &both_versions(&second.pair(&[&address])), |peer: &mut Peer| {
            peer.answer_all(&|_| ok("believed"));
        });
        let gateway = start(place, &first, TRUSTED, &[server.address()], "outlier: { failures: 0 },");
        gateway.get("/").expect(502);
        std::fs::write(gateway.directory().join("authority.pem"), &second.pem).expect("the authority's file");
        eventually("the new authority is trusted", || gateway.get("/").status == 200);
    });
}

#[test]
fn a_pool_with_tls_may_be_asked_who_a_user_is() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let config = both_versions(&for_address(place, &authority));
        let server = Server::secure(place.ip, &config, |peer: &mut Peer| {
            peer.answer_all(&|request| match request.header("cookie").as_deref() {
                Some("good") => b"HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n".to_vec(),
                _ => b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno".to_vec(),
            });
        });
        let application = Server::answering(place.ip, |request| ok(request.header("x-user").unwrap_or_default()));
        let top = format!(
            "pools:\n  app: {{ servers: [\"{}\"] }}\n  auth: {{ tls: {{ {TRUSTED} }}, servers: [\"{}\"] }}",
            application.address(),
            server.address()
        );
        let pair = authority.pair(&["site.test"]);
        let routes = "{ path: /, proxy: app, forward_auth: { pool: auth, path: /check, copy: [X-User] } }";
        let setup = Setup { pairs: &[("site", &pair)], top: &top, routes, ..PLAIN_SETUP };
        let site: Site = setup.start(place, authority);
        let mut client = site.connect_plainly();
        assert_eq!(client.get_with("/", "Cookie: good\r\n").expect(200).text(), "ann");
        assert_eq!(client.get("/").expect(401).text(), "no");
        assert_eq!(server.last_request().header("x-forwarded-proto").as_deref(), Some("https"));
    });
}

fn knowing(pair: &Pair, protocols: &[&str]) -> Arc<ServerConfig> {
    let mut config = (*both_versions(pair)).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[test]
fn the_protocol_is_what_both_sides_agree_on() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = for_address(place, &authority);
        let speaking_1 = |protocols: &[&str]| {
            Server::secure(place.ip, &knowing(&pair, protocols), |peer: &mut Peer| peer.answer_all(&|_| ok("one")))
        };
        let speaking_2 = |protocols: &[&str]| {
            let habits = Habits { tls: Some(knowing(&pair, protocols)), ..Habits::default() };
            Http2Server::start(place.ip, habits, async |request, respond| {
                answer(request, respond, Response::new(()), b"two").await;
            })
        };
        let gateway = |protocol: &str, server: SocketAddr| {
            start(place, &authority, TRUSTED, &[server], &format!("protocol: {protocol}, outlier: off,"))
        };
        let all_say = |gateway: &Instance, text: &str| {
            let mut client = gateway.connect();
            for _ in 0..5 {
                assert_eq!(client.get("/").expect(200).text(), text);
                assert_eq!(client.request("POST", "/", "", b"body").expect(200).text(), text);
            }
        };
        for known in [&["http/1.1"][..], &[]] {
            let server = speaking_1(known);
            for protocol in ["http1", "auto"] {
                let before = server.accepted();
                all_say(&gateway(protocol, server.address()), "one");
                assert_eq!(server.accepted() - before, 1, "{protocol}: one connection is kept");
            }
            let (count, gateway) = (server.count(), gateway("http2", server.address()));
            let refused = gateway.connect().request("POST", "/", "Accept: application/json\r\n", b"x").expect(502);
            let why = if known.is_empty() { "server_protocol" } else { "server_handshake" };
            assert!(refused.text().contains(why), "{}", refused.text());
            assert_eq!(server.count(), count, "nothing is asked in the wrong language");
        }
        // Who knows both speaks the newer one where it may, and the older one where it has to.
        for known in [&["h2"][..], &["h2", "http/1.1"]] {
            let server = speaking_2(known);
            for protocol in ["http2", "auto"] {
                let before = server.accepted();
                let gateway = gateway(protocol, server.address());
                all_say(&gateway, "two");
                assert_eq!(server.accepted() - before, 1, "{protocol}: one connection carries all");
                let last = server.requests().pop().expect("a request");
                assert_eq!((last.version, last.uri.scheme_str()), (http::Version::HTTP_2, Some("https")));
            }
        }
        all_say(&gateway("http1", speaking_1(&["h2", "http/1.1"]).address()), "one");
        let newest_only = speaking_2(&["h2"]);
        let refused = gateway("http1", newest_only.address());
        let refused = refused.connect().get_with("/", "Accept: application/json\r\n").expect(502);
        assert!(refused.text().contains("server_handshake"), "{}", refused.text());
        assert!(newest_only.requests().is_empty());
    });
}

/// Each server for itself, and whichever of them is asked first.
#[test]
fn servers_of_one_pool_may_agree_on_different_protocols() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = for_address(place, &authority);
        let old = Server::secure(place.ip, &knowing(&pair, &["http/1.1"]), |peer: &mut Peer| {
            peer.answer_all(&|_| ok("one"));
        });
        let habits = Habits { tls: Some(knowing(&pair, &["h2", "http/1.1"])), ..Habits::default() };
        let new = Http2Server::start(place.ip, habits, async |request, respond| {
            answer(request, respond, Response::new(()), b"two").await;
        });
        let both = [old.address(), new.address()];
        let gateway = start(place, &authority, TRUSTED, &both, "protocol: auto, balance: round-robin,");
        let mut client = gateway.connect();
        let texts: Vec<String> = (0..10).map(|_| client.get("/").expect(200).text()).collect();
        assert!(texts.iter().any(|text| text == "one") && texts.iter().any(|text| text == "two"), "{texts:?}");
        assert_eq!((old.accepted(), new.accepted()), (1, 1));
    });
}
