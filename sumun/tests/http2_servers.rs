//! What the gateway promises in front of servers that speak HTTP/2. Clients and servers are the h2
//! crate's, or speak HTTP/1.1.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use support::http2::{Habits, Http2Server, Leaves, answer, ask, drain, get, send, speak};
use support::instance::{Instance, Place, eventually, everywhere, proxy_config};
use support::server::Server;

const HTTP2: &str = "protocol: http2,";

fn proxy(place: Place, server: &Http2Server) -> Instance {
    Instance::proxy(place, &[server.address()], HTTP2, "")
}

#[test]
fn what_a_client_of_http_1_asks_reaches_the_server() {
    everywhere(|place| {
        let server = Http2Server::saying(place.ip, "two");
        let gateway = proxy(place, &server);
        let mut client = gateway.connect();
        client.send("GET /a?b=c HTTP/1.1\r\nHost: Example.com\r\nX-One: 1\r\nConnection: x-gone\r\nX-Gone: 1\r\nTE: gzip\r\n\r\n");
        let said = client.answer().expect(200);
        assert_eq!(said.text(), "two");
        assert_eq!(client.get("/again").expect(200).text(), "two", "the client's connection is kept");
        let requests = server.requests();
        let first = &requests[0];
        assert_eq!(first.uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some("/a?b=c"));
        assert_eq!(first.uri.authority().map(http::uri::Authority::as_str), Some("Example.com"));
        assert_eq!(first.headers["x-one"], "1");
        assert!(first.headers["via"].to_str().is_ok_and(|via| via.starts_with("1.1 sumun")));
        for gone in ["connection", "x-gone", "host", "te", "transfer-encoding", "keep-alive"] {
            assert!(!first.headers.contains_key(gone), "{gone} in {:?}", first.headers);
        }
        assert_eq!(server.accepted(), 1, "one connection carries both");
    });
}

#[test]
fn many_requests_share_few_connections() {
    everywhere(|place| {
        let most = Arc::new(AtomicUsize::new(0));
        let (now, seen) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&most));
        let server = Http2Server::start(place.ip, Habits::default(), async move |request, respond| {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            let path = request.uri().path().to_owned();
            answer(request, respond, Response::new(()), path.as_bytes()).await;
            now.fetch_sub(1, Ordering::SeqCst);
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let asked = (0..100).map(|number| {
                    let sender = sender.clone();
                    tokio::spawn(async move { ask(&sender, get(&format!("/{number}")), None).await })
                });
                for (number, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
                    let answer = answer.await.expect("no panic").expect("an answer");
                    assert_eq!(String::from_utf8_lossy(&answer.body), format!("/{number}"));
                }
            },
            &gateway,
        );
        assert!(most.load(Ordering::SeqCst) > 10, "at the same time");
        assert_eq!(server.accepted(), 1, "a worker needs one");
        let via = server.requests()[0].headers["via"].clone();
        assert_eq!(via, "2.0 sumun");
    });
}

#[test]
fn a_server_that_allows_few_streams_gets_more_connections_and_no_refused_request() {
    everywhere(|place| {
        let mut habits = Habits::default();
        habits.builder.max_concurrent_streams(3);
        let server = Http2Server::start(place.ip, habits, async |request, respond| {
            // So long that on a busy host, too, all are asked before the first is answered.
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer(request, respond, Response::new(()), b"few").await;
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let asked: Vec<_> = (0..30)
                    .map(|_| {
                        let sender = sender.clone();
                        tokio::spawn(async move { ask(&sender, get("/"), None).await })
                    })
                    .collect();
                for answer in asked {
                    assert_eq!(answer.await.expect("no panic").expect("an answer").body, b"few");
                }
            },
            &gateway,
        );
        assert!((10..=30).contains(&server.accepted()), "{} connections", server.accepted());
    });
}

#[test]
fn bodies_pass_both_ways_whatever_their_size() {
    everywhere(|place| {
        let server = Http2Server::start(place.ip, Habits::default(), async |request, mut respond| {
            let length = request.headers().get("content-length").cloned();
            let Some((body, _)) = drain(request).await else { return };
            let mut response = Response::new(());
            response.headers_mut().insert("x-length", length.unwrap_or(HeaderValue::from_static("none")));
            response.headers_mut().insert("content-length", HeaderValue::from(body.len()));
            let Ok(mut stream) = respond.send_response(response, body.is_empty()) else { return };
            // The end comes in a frame of its own.
            if !body.is_empty() && send(&mut stream, &body, false).await {
                stream.send_data(Bytes::new(), true).ok();
            }
        });
        let gateway = proxy(place, &server);
        for size in [0_usize, 1, 20_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|number| (number % 251) as u8).collect();
            let mut client = gateway.connect();
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
            client.send(&body);
            let answer = client.answer().expect(200);
            assert!(answer.body == body, "{} of {size} bytes", answer.body.len());
            assert_eq!(answer.header("x-length"), Some(size.to_string().as_str()));
            speak(
                async |sender| {
                    let post = Request::post("http://example.com/").body(()).expect("a request");
                    let answer = ask(&sender, post, Some(&body)).await.expect("an answer");
                    assert!(answer.body == body, "{} of {size} bytes", answer.body.len());
                },
                &gateway,
            );
        }
        assert_eq!(server.accepted(), server.open());
    });
}

#[test]
fn trailers_and_interim_answers_pass_both_ways() {
    everywhere(|place| {
        let server = Http2Server::start(place.ip, Habits::default(), async |request, mut respond| {
            let te = request.headers().get("te").cloned();
            let Some((body, trailers)) = drain(request).await else { return };
            let mut response = Response::new(());
            response.headers_mut().insert("x-te", te.unwrap_or(HeaderValue::from_static("none")));
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            send(&mut stream, &body, false).await;
            let mut sent = HeaderMap::new();
            sent.insert(
                "x-back",
                trailers.and_then(|all| all.get("x-sum").cloned()).unwrap_or(HeaderValue::from_static("-")),
            );
            stream.send_trailers(sent).ok();
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let post = Request::post("http://example.com/").header("te", "trailers").body(()).expect("a request");
                let mut sender = sender.ready().await.expect("ready");
                let (response, mut stream) = sender.send_request(post, false).expect("sent");
                stream.send_data(Bytes::from_static(b"hi"), false).expect("sent");
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("7"));
                stream.send_trailers(trailers).expect("sent");
                let answer = support::http2::take(response.await.expect("a head")).await.expect("an answer");
                assert_eq!(answer.headers["x-te"], "trailers");
                assert_eq!(
                    (answer.body.as_slice(), &answer.trailers.expect("trailers")["x-back"]),
                    (&b"hi"[..], &"7".parse().expect("a value"))
                );
            },
            &gateway,
        );
        // To a client of HTTP/1.1 they come behind the last chunk.
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 8\r\n\r\n");
        let answer = client.answer().expect(200);
        assert_eq!(answer.text(), "hi");
        assert_eq!(answer.header("x-te"), Some("none"));
        assert_eq!(answer.trailers, [("x-back".to_owned(), "8".to_owned())]);
    });
}

#[test]
fn trailers_pass_behind_a_body_of_known_length() {
    everywhere(|place| {
        let server = Http2Server::start(place.ip, Habits::default(), async |request, mut respond| {
            let path = request.uri().path().to_owned();
            if drain(request).await.is_none() {
                return;
            }
            let body = vec![b'x'; if path == "/large" { 300_000 } else { 4 }];
            let body = if path == "/empty" { Vec::new() } else { body };
            let mut response = Response::new(());
            response.headers_mut().insert("content-length", HeaderValue::from(body.len()));
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            if !body.is_empty() && !send(&mut stream, &body, false).await {
                return;
            }
            if matches!(path.as_str(), "/late" | "/reset") {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            match path.as_str() {
                "/reset" => stream.send_reset(h2::Reason::NO_ERROR),
                "/plain" => drop(stream.send_data(Bytes::new(), true)),
                _ => {
                    let mut sent = HeaderMap::new();
                    sent.insert("x-sum", HeaderValue::from_static("7"));
                    drop(stream.send_trailers(sent));
                }
            }
        });
        let gateway = proxy(place, &server);
        for (path, length, sum) in [
            ("/small", 4, Some("7")),
            ("/large", 300_000, Some("7")),
            ("/empty", 0, Some("7")),
            ("/late", 4, Some("7")),
            ("/plain", 4, None),
            ("/reset", 4, None),
        ] {
            speak(
                async |sender| {
                    let answer = ask(&sender, get(path), None).await.expect("an answer");
                    assert_eq!(answer.headers["content-length"], length.to_string(), "{path}");
                    assert_eq!(answer.body.len(), length, "{path}");
                    let trailers = answer.trailers.unwrap_or_default();
                    assert_eq!(trailers.get("x-sum").and_then(|sum| sum.to_str().ok()), sum, "{path}");
                },
                &gateway,
            );
            // A client of HTTP/1.1 has its length, and no place for trailers behind it.
            let answer = gateway.connect().get(path).expect(200);
            assert_eq!((answer.body.len(), answer.trailers.len()), (length, 0), "{path}");
        }
        assert_eq!(server.accepted(), server.open());
    });
}

#[test]
fn heads_without_bodies() {
    everywhere(|place| {
        let server = Http2Server::start(place.ip, Habits::default(), async |request, respond| {
            let mut response = Response::new(());
            match request.uri().path() {
                "/nothing" => *response.status_mut() = StatusCode::NO_CONTENT,
                "/same" => {
                    *response.status_mut() = StatusCode::NOT_MODIFIED;
                    response.headers_mut().insert("content-length", HeaderValue::from(5));
                }
                _ => drop(response.headers_mut().insert("content-length", HeaderValue::from(5))),
            }
            answer(request, respond, response, b"").await;
        });
        let gateway = proxy(place, &server);
        let mut client = gateway.connect();
        for _ in 0..3 {
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer_to_head().expect(200).header("content-length"), Some("5"));
            assert_eq!(client.get("/nothing").expect(204).body, b"");
            assert_eq!(client.get("/same").expect(304).body, b"");
        }
        assert_eq!(server.accepted(), 1);
    });
}

#[test]
fn what_a_leaving_connection_did_not_process_goes_to_another_one() {
    everywhere(|place| {
        let habits = Habits { leaves: Leaves::Gracefully { after: 5 }, ..Habits::default() };
        let server = Http2Server::start(place.ip, habits, async |request, respond| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            answer(request, respond, Response::new(()), b"served").await;
        });
        // Not one retry is in the budget: what was not processed costs none.
        let gateway = Instance::proxy(
            place,
            &[server.address()],
            "protocol: http2, retries: { tries: 3, budget: 0%, floor: 0 },",
            "",
        );
        speak(
            async |sender| {
                for _ in 0..10 {
                    let asked: Vec<_> = (0..8)
                        .map(|_| {
                            let sender = sender.clone();
                            let post = Request::post("http://example.com/").body(()).expect("a request");
                            tokio::spawn(async move { ask(&sender, post, Some(b"body")).await })
                        })
                        .collect();
                    for answer in asked {
                        let answer = answer.await.expect("no panic").expect("an answer");
                        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, &b"served"[..]));
                    }
                }
            },
            &gateway,
        );
        assert!(server.accepted() >= 10, "{} connections", server.accepted());
    });
}

#[test]
fn a_refused_stream_is_tried_elsewhere_and_another_reset_is_not() {
    everywhere(|place| {
        let refusing = Http2Server::start(place.ip, Habits::default(), async |request, mut respond| {
            let code = if request.uri().path() == "/refused" { h2::Reason::REFUSED_STREAM } else { h2::Reason::CANCEL };
            respond.send_reset(code);
        });
        let good = Http2Server::saying(place.ip, "good");
        let servers = [refusing.address(), good.address()];
        let gateway = Instance::proxy(place, &servers, "protocol: http2, outlier: off, balance: round-robin,", "");
        let post = |path: &str| {
            let mut client = gateway.connect();
            client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
            client.answer().status
        };
        for _ in 0..6 {
            assert_eq!(post("/refused"), 200);
        }
        let statuses: Vec<u16> = (0..6).map(|_| post("/cut")).collect();
        assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    });
}

#[test]
fn who_does_not_speak_http_2_is_asked_nothing() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            peer.drain();
        });
        let good = Http2Server::saying(place.ip, "good");
        let gateway = Instance::proxy(place, &[server.address()], HTTP2, "");
        let refused = gateway.get("/").expect(502);
        assert!(refused.text().contains("server_protocol"), "{}", refused.text());
        drop(gateway);
        let gateway = Instance::proxy(place, &[server.address(), good.address()], HTTP2, "");
        for _ in 0..10 {
            let mut client = gateway.connect();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(client.answer().expect(200).text(), "good", "it can go on: nothing was asked yet");
        }
    });
}

#[test]
fn a_client_that_gives_up_ends_the_stream_at_the_server() {
    everywhere(|place| {
        let cancelled = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&cancelled);
        let server = Http2Server::start(place.ip, Habits::default(), async move |request, mut respond| {
            if request.uri().path() == "/other" {
                return answer(request, respond, Response::new(()), b"other").await;
            }
            let reason = std::future::poll_fn(|context| respond.poll_reset(context)).await;
            assert_eq!(reason.ok(), Some(h2::Reason::CANCEL));
            seen.fetch_add(1, Ordering::SeqCst);
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let mut sender = sender.ready().await.expect("ready");
                let (response, mut stream) = sender.send_request(get("/slow"), true).expect("sent");
                while server.requests().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stream.send_reset(h2::Reason::CANCEL);
                drop(response);
                while cancelled.load(Ordering::SeqCst) == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(ask(&sender, get("/other"), None).await.expect("an answer").body, b"other");
            },
            &gateway,
        );
        let mut client = gateway.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the request at the server", || server.requests().len() == 3);
        client.reset();
        eventually("the end of the second one", || cancelled.load(Ordering::SeqCst) == 2);
        assert!(server.accepted() <= place.workers, "connections outlive cancelled requests");
    });
}

#[test]
fn slow_readers_hold_up_nobody_else() {
    everywhere(|place| {
        let body = vec![b'x'; 2_000_000];
        let server = Http2Server::start(place.ip, Habits::default(), async move |request, respond| {
            let body: &[u8] = if request.uri().path() == "/large" { &body } else { b"small" };
            answer(request, respond, Response::new(()), body).await;
        });
        let gateway = proxy(place, &server);
        let slow: Vec<_> = (0..30)
            .map(|_| {
                let mut client = gateway.connect();
                client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        eventually("all requests", || server.requests().len() == 30);
        for _ in 0..20 {
            assert_eq!(gateway.get("/").expect(200).text(), "small");
        }
        for mut client in slow {
            assert_eq!(client.answer().expect(200).body.len(), 2_000_000);
        }
    });
}

#[test]
fn idle_connections_end_and_reloads_retire_them() {
    everywhere(|place| {
        let server = Http2Server::saying(place.ip, "two");
        let servers = [server.address()];
        let config =
            |keep: &str| proxy_config(&servers, &format!("protocol: http2, timeouts: {{ keepalive: {keep} }},"), "");
        let gateway = Instance::start(place, &config("300ms"));
        gateway.get("/").expect(200);
        eventually("the end of an idle connection", || server.open() == 0);
        gateway.reload(&config("20s"));
        gateway.get("/").expect(200);
        assert!(server.open() > 0);
        gateway.reload(&config("21s"));
        eventually("the end of a retired connection", || server.open() == 0);
        gateway.get("/").expect(200);
    });
}

#[test]
fn health_checks_speak_http_2_too() {
    everywhere(|place| {
        let up = Arc::new(AtomicUsize::new(1));
        let is_up = Arc::clone(&up);
        let server = Http2Server::start(place.ip, Habits::default(), async move |request, respond| {
            let mut response = Response::new(());
            if request.uri().path() == "/healthz" && is_up.load(Ordering::SeqCst) == 0 {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            answer(request, respond, response, b"two").await;
        });
        let gateway = Instance::proxy(
            place,
            &[server.address()],
            "protocol: http2, health: { http: /healthz, every: 50ms, timeout: 50ms, rise: 1, fall: 1 },",
            "",
        );
        gateway.await_state("app", server.address(), "up");
        up.store(0, Ordering::SeqCst);
        gateway.await_state("app", server.address(), "down");
        gateway.get("/").expect(503);
        up.store(1, Ordering::SeqCst);
        gateway.await_state("app", server.address(), "up");
        assert_eq!(gateway.get("/").expect(200).text(), "two");
    });
}

/// A connection on which nothing comes any more, and which nobody closes, is found dead by a PING.
#[test]
fn a_server_that_falls_silent_is_left() {
    everywhere(|place| {
        let habits = Habits { falls_silent: true, ..Habits::default() };
        let server = Http2Server::start(place.ip, habits, async |request, respond| {
            answer(request, respond, Response::new(()), b"alive").await;
        });
        let pool = "protocol: http2, outlier: off, timeouts: { first_byte: 120s },";
        let gateway = Instance::proxy(place, &[server.address()], pool, "");
        let post = || gateway.connect().request("POST", "/", "Accept: application/json\r\n", b"x");
        let answer = post().expect(502);
        assert!(answer.text().contains("server_closed"), "{}", answer.text());
        assert_eq!((server.requests().len(), server.accepted()), (1, 1));
        for _ in 0..10 {
            assert_eq!(post().expect(200).text(), "alive");
        }
        let accepted = server.accepted();
        assert!((2..=1 + place.workers).contains(&accepted), "new requests share a new connection: {accepted}");
    });
}
