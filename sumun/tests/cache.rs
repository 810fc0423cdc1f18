//! What the gateway promises where a route caches.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use support::caching::{caching, counting, said, status};
use support::http2;
use support::instance::{PATIENCE, eventually, everywhere};
use support::server::{Request, Server};
use support::talk::Framing;

#[test]
fn what_is_fresh_is_given_out_again() {
    everywhere(|place| {
        let server = counting(place, "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nX-Own: a\r\n");
        let gateway = caching(place, &server, "{}");
        let first = gateway.get("/a?b").expect(200);
        assert_eq!((first.text().as_str(), status(&first)), ("answer 1", "sumun; fwd=uri-miss; stored"));
        assert_eq!(first.header("age"), None);
        let mut client = gateway.connect();
        let second = client.get("/a?b").expect(200);
        assert!(status(&second).starts_with("sumun; hit; ttl="), "{second:?}");
        assert_eq!(
            (second.text().as_str(), second.framing, second.header("age")),
            ("answer 1", Framing::Length, Some("0"))
        );
        assert_eq!((second.header("etag"), second.header("x-own")), (Some("\"v1\""), Some("a")));
        assert_eq!(client.get("/a?c").expect(200).text(), "answer 2", "another query is another URL");
        assert_eq!(client.get("/%61?b").expect(200).text(), "answer 1", "the same path, written in another way");
        client.send("HEAD /a?b HTTP/1.1\r\nHost: test\r\n\r\n");
        let head = client.answer_to_head().expect(200);
        assert_eq!((head.header("content-length"), head.text().as_str()), (Some("8"), ""));
        let not_modified = client.get_with("/a?b", "If-None-Match: W/\"v1\"\r\n").expect(304);
        assert_eq!((not_modified.header("etag"), not_modified.header("content-length")), (Some("\"v1\""), None));
        let part = client.get_with("/a?b", "Range: bytes=-1\r\n").expect(206);
        assert_eq!((part.text().as_str(), part.header("content-range")), ("1", Some("bytes 7-7/8")));
        assert_eq!(
            client.get_with("/a?b", "Range: bytes=9-\r\n").expect(416).header("content-range"),
            Some("bytes */8")
        );
        assert_eq!(client.get("/a?b").expect(200).text(), "answer 1", "the connection carries on");
        assert_eq!(server.requests().len(), 2);
    });
}

#[test]
fn what_is_stale_is_asked_about_and_kept_where_it_is_still_right() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| match request.header("if-none-match").as_deref() {
            Some("\"v1\"") => {
                b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nX-New: b\r\nSet-Cookie: c=d\r\n\r\n"
                    .to_vec()
            }
            _ => said("200 OK", "Cache-Control: max-age=0\r\nETag: \"v1\"\r\nX-Old: a\r\n", "the body"),
        });
        let gateway = caching(place, &server, "{ drop_set_cookie: on }");
        gateway.get("/").expect(200);
        let second = gateway.get("/").expect(200);
        assert_eq!((second.text().as_str(), status(&second)), ("the body", "sumun; fwd=stale; fwd-status=304; stored"));
        assert_eq!((second.header("x-old"), second.header("x-new")), (Some("a"), Some("b")));
        assert_eq!(second.header("set-cookie"), Some("c=d"), "it is for whoever asked");
        let third = gateway.get("/").expect(200);
        assert!(status(&third).starts_with("sumun; hit"), "{third:?}");
        assert_eq!((third.header("x-new"), third.header("set-cookie")), (Some("b"), None));
        assert_eq!(server.requests().len(), 2);
    });
}

#[test]
fn who_asks_for_what_is_being_fetched_waits_for_it() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let server = Server::start(place.ip, move |peer| {
            peer.answer_all(&|_: &Request| {
                waits.lock().unwrap().recv_timeout(PATIENCE).ok();
                said("200 OK", "Cache-Control: max-age=60\r\n", "once")
            });
        });
        let gateway = caching(place, &server, "{}");
        let answers = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    let answer = gateway.get("/").expect(200);
                    answers.lock().unwrap().push((answer.text(), status(&answer).to_owned()));
                });
            }
            eventually("all of them wait", || {
                let counts = &gateway.json(&["cache"])["requests"];
                counts["collapsed"].as_u64() == Some(49)
            });
            go.send(()).unwrap();
        });
        let answers = answers.into_inner().unwrap();
        assert_eq!(server.requests().len(), 1);
        assert!(answers.iter().all(|(text, _)| text == "once"));
        let collapsed = answers.iter().filter(|(_, status)| status == "sumun; fwd=uri-miss; stored; collapsed").count();
        assert_eq!(collapsed, 49, "{answers:?}");
    });
}

#[test]
fn a_purge_parts_those_who_wait_only_from_what_it_is_about() {
    let cases: [(&[&str], usize); 6] = [
        (&["--tag", "other"], 1),
        (&["--prefix", "http://test/y"], 1),
        (&["http://test/y"], 1),
        (&["--tag", "own"], 2),
        (&["--prefix", "http://test/x"], 2),
        (&["http://test/x", "--soft"], 2),
    ];
    everywhere(|place| {
        for (arguments, expected) in cases {
            let go = Arc::new(AtomicBool::new(false));
            let (may_go, count) = (Arc::clone(&go), AtomicUsize::new(0));
            let server = Server::answering(place.ip, move |_| {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                eventually("it may answer", || may_go.load(Ordering::SeqCst));
                said("200 OK", "Cache-Control: max-age=60\r\nCache-Tag: own\r\n", &number.to_string())
            });
            let gateway = caching(place, &server, "{ tags: Cache-Tag }");
            let counted = |what: &str| gateway.json(&["cache"])["requests"][what].as_u64().unwrap_or_default();
            let get = || gateway.get("/x").expect(200).text();
            thread::scope(|scope| {
                let before = scope.spawn(get);
                eventually("the server is asked", || server.count() == 1);
                gateway.command_ok(&[&["cache", "purge"], arguments].concat());
                let after = [scope.spawn(get), scope.spawn(get)];
                eventually("they wait", || counted("collapsed") + counted("miss") >= 3);
                go.store(true, Ordering::SeqCst);
                assert_eq!(before.join().unwrap(), "1", "{arguments:?}");
                let after = after.map(|one| one.join().unwrap());
                assert_eq!(after, [expected.to_string(), expected.to_string()], "{arguments:?}");
            });
            assert_eq!((get(), server.count()), (expected.to_string(), expected), "it is stored: {arguments:?}");
        }
    });
}

#[test]
fn a_second_reader_reads_what_has_come_so_far() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let server = Server::start(place.ip, move |peer| {
            peer.request();
            peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234");
            waits.lock().unwrap().recv_timeout(PATIENCE).ok();
            peer.send(b"56789");
            peer.request();
        });
        let gateway = caching(place, &server, "{}");
        let (mut one, mut other) = (gateway.connect(), gateway.connect());
        for client in [&mut one, &mut other] {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(client.head().0, 200);
            assert_eq!(client.bytes(5), b"01234");
        }
        go.send(()).unwrap();
        for client in [&mut one, &mut other] {
            assert_eq!(client.bytes(5), b"56789");
        }
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn what_is_for_one_client_is_asked_for_by_each_side_by_side() {
    everywhere(|place| {
        let arrived = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&arrived);
        let server = Server::answering(place.ip, move |request| {
            let user = request.header("cookie").unwrap_or_default();
            if user != "first" {
                seen.fetch_add(1, Ordering::SeqCst);
                eventually("all are here at once", || seen.load(Ordering::SeqCst) >= 20);
            }
            said("200 OK", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", &user)
        });
        let gateway = caching(place, &server, "{}");
        let first = gateway.connect().get_with("/", "Cookie: first\r\n").expect(200);
        assert_eq!(
            (status(&first), first.header("set-cookie")),
            ("sumun; fwd=uri-miss; detail=set-cookie", Some("a=b"))
        );
        thread::scope(|scope| {
            for number in 0..20 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let own = gateway.connect().get_with("/", &format!("Cookie: u{number}\r\n")).expect(200);
                    assert_eq!(own.text(), format!("u{number}"));
                });
            }
        });
        assert_eq!(server.requests().len(), 21);
    });
}

#[test]
fn a_change_makes_what_is_stored_invalid() {
    everywhere(|place| {
        let count = AtomicUsize::new(0);
        let server = Server::answering(place.ip, move |request| match request.method.as_str() {
            "POST" => said("200 OK", "Location: /other\r\n", ""),
            _ => said("200 OK", "Cache-Control: max-age=60\r\n", &count.fetch_add(1, Ordering::SeqCst).to_string()),
        });
        let gateway = caching(place, &server, "{}");
        let get = |path: &str| gateway.get(path).expect(200).text();
        assert_eq!((get("/a"), get("/other"), get("/third")), ("0".into(), "1".into(), "2".into()));
        let mut client = gateway.connect();
        assert_eq!(status(&client.request("POST", "/a", "", b"x").expect(200)), "sumun; fwd=method");
        assert_eq!((get("/a"), get("/other"), get("/third")), ("3".into(), "4".into(), "2".into()));
    });
}

#[test]
fn purges_hold_at_once_in_all_workers() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let tag = if request.target.starts_with("/news") { "Cache-Tag: news, all\r\n" } else { "" };
            let etag = request.header("if-none-match").is_some();
            if etag {
                b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()
            } else {
                said("200 OK", &format!("Cache-Control: max-age=60\r\nETag: \"a\"\r\n{tag}"), "x")
            }
        });
        let gateway = caching(place, &server, "{ tags: Cache-Tag }");

        let paths = ["/news/1", "/news/2", "/shop/1"];
        let hits = || -> Vec<bool> {
            paths
                .iter()
                .map(|path| {
                    let answer = gateway.get(path).expect(200);
                    assert_eq!(answer.header("cache-tag"), None, "it is for the gateway");
                    status(&answer).starts_with("sumun; hit")
                })
                .collect()
        };
        let purge = |arguments: &[&str]| gateway.command_ok(&[&["cache", "purge"], arguments].concat());
        assert_eq!(hits(), [false, false, false]);
        assert_eq!(hits(), [true, true, true]);
        purge(&["--tag", "news"]);
        assert_eq!(hits(), [false, false, true]);
        purge(&["--prefix", "http://test/shop/"]);
        assert_eq!(hits(), [true, true, false]);
        purge(&["http://test/news/1"]);
        assert_eq!(hits(), [false, true, true]);
        purge(&["--all", "--soft"]);
        let soft = gateway.get("/news/1").expect(200);
        assert_eq!(status(&soft), "sumun; fwd=stale; fwd-status=304; stored");
        purge(&["--all"]);
        assert_eq!(hits(), [false, false, false]);
        let refused = gateway.command(&["cache", "purge", "nonsense"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("nonsense is no URL"), "{refused:?}");
    });
}

#[test]
fn where_the_server_fails_what_is_stale_stands_in_as_long_as_it_may() {
    everywhere(|place| {
        let fails = Arc::new(AtomicUsize::new(0));
        let failing = Arc::clone(&fails);
        let server = Server::start(place.ip, move |peer| {
            while peer.request().is_some() {
                match failing.load(Ordering::SeqCst) {
                    0 => peer.send(said("200 OK", "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", "good")),
                    1 => peer.send(said("503 Service Unavailable", "", "bad")),
                    _ => return,
                };
            }
        });
        let gateway = caching(place, &server, "{ stale_if_error: 1h }");
        assert_eq!(gateway.get("/").expect(200).text(), "good");
        fails.store(1, Ordering::SeqCst);
        let stale = gateway.get("/").expect(200);
        assert_eq!((stale.text().as_str(), status(&stale)), ("good", "sumun; fwd=stale; fwd-status=503; stored"));
        fails.store(2, Ordering::SeqCst);
        assert_eq!(gateway.get("/").expect(200).text(), "good");
        gateway.get("/never").expect(502);
    });
}

#[test]
fn what_is_stale_is_given_out_while_it_is_fetched_anew() {
    everywhere(|place| {
        let server = counting(place, "Cache-Control: max-age=1, stale-while-revalidate=60\r\n");
        let gateway = caching(place, &server, "{}");
        assert_eq!(gateway.get("/").expect(200).text(), "answer 1");
        eventually("it is stale", || {
            let answer = gateway.get("/").expect(200);
            assert!(status(&answer).starts_with("sumun; hit"), "{answer:?}");
            answer.text() == "answer 2"
        });
    });
}

#[test]
fn requests_that_are_to_go_past_do() {
    everywhere(|place| {
        let server = counting(place, "Cache-Control: max-age=60\r\n");
        let gateway = caching(place, &server, "{ bypass: { cookie: [session, \"~^wp_\"], header: X-Preview } }");
        let mut client = gateway.connect();
        client.get("/").expect(200);
        for fields in ["Cookie: a=b; session=1\r\n", "Cookie: wp_user=1\r\n", "X-Preview: 1\r\n"] {
            assert_eq!(status(&client.get_with("/", fields).expect(200)), "sumun; fwd=bypass", "{fields}");
        }
        for fields in ["Cookie: sessions=1; a=session\r\n", "Cookie: x=wp_\r\n", ""] {
            assert!(status(&client.get_with("/", fields).expect(200)).starts_with("sumun; hit"), "{fields}");
        }
        client.get_with("/other", "Cache-Control: only-if-cached\r\n").expect(504);
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_stored() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                if peer.number == 0 && request.target == "/" {
                    peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n01234");
                    return;
                }
                peer.send(said("200 OK", "Cache-Control: max-age=60\r\n", "0123456789"));
            }
        });
        let gateway = caching(place, &server, "{}");
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let cut = client.try_answer(false).expect_err("it was cut short");
        assert_eq!(cut.answer.body, b"01234");
        assert_eq!(gateway.get("/").expect(200).text(), "0123456789");
    });
}

#[test]
fn what_is_too_large_to_keep_goes_through_and_its_parts_are_asked_for() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| match request.header("range") {
            Some(_) => said("206 Partial Content", "Content-Range: bytes 5-9/4000000\r\n", "12345"),
            None => said("200 OK", "Cache-Control: max-age=60\r\n", &"x".repeat(4_000_000)),
        });
        let gateway = caching(place, &server, "{}");
        let first = gateway.get("/").expect(200);
        assert_eq!((first.body.len(), status(&first)), (4_000_000, "sumun; fwd=uri-miss; detail=size"));
        let part = gateway.connect().get_with("/", "Range: bytes=5-9\r\n").expect(206);
        assert_eq!(part.text(), "12345");
        // Without a length it turns out on the way.
        let open = Server::start(place.ip, |peer| {
            peer.request();
            peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\n");
            peer.send("y".repeat(4_000_000).as_bytes());
        });
        let gateway = caching(place, &open, "{}");
        assert_eq!(gateway.get("/").expect(200).body.len(), 4_000_000);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(gateway.json(&["cache"])["stored"], 0);
    });
}

#[test]
fn who_asks_over_http_1_0_gets_what_it_understands() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_vec()
        });
        let gateway = caching(place, &server, "{}");
        for _ in 0..2 {
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
            assert_eq!(client.answer().expect(200).text(), "abcde");
        }
        let newer = gateway.get("/").expect(200);
        assert_eq!((newer.text().as_str(), newer.framing), ("abcde", Framing::Length));
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn parts_come_from_the_whole_that_is_stored_and_from_one_that_still_comes() {
    everywhere(|place| {
        let body: String = (0..100).map(|number| format!("{number:03}")).collect();
        let text = body.clone();
        let server = Server::answering(place.ip, move |request| {
            assert_eq!(request.header("range"), None);
            said("200 OK", "Cache-Control: max-age=60\r\nContent-Type: text/x\r\n", &text)
        });
        let gateway = caching(place, &server, "{}");
        for path in ["/one", "/one"] {
            let part = gateway.connect().get_with(path, "Range: bytes=150-152\r\n").expect(206);
            assert_eq!((part.text().as_str(), part.header("content-range")), ("050", Some("bytes 150-152/300")));
            assert_eq!(part.header("content-length"), Some("3"));
        }
        for path in ["/many", "/many"] {
            let parts = gateway.connect().get_with(path, "Range: bytes=0-2,-3\r\n").expect(206);
            let kind = parts.header("content-type").unwrap_or_default();
            let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("parts");
            let text = parts.text();
            let found: Vec<&str> = text.split(&format!("--{boundary}")).collect();
            assert_eq!(found.len(), 4, "{text}");
            assert_eq!(found[1], "\r\nContent-Type: text/x\r\nContent-Range: bytes 0-2/300\r\n\r\n000\r\n");
            assert_eq!(found[2], "\r\nContent-Type: text/x\r\nContent-Range: bytes 297-299/300\r\n\r\n099\r\n");
            assert_eq!(found[3], "--\r\n");
        }
        assert_eq!(server.requests().len(), 2);
    });
}

#[test]
fn clients_of_http_2_share_what_is_stored_and_what_still_comes() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            said("200 OK", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n", &"z".repeat(500_000))
        });
        let gateway = caching(place, &server, "{}");
        http2::speak(
            async |sender| {
                let asked: Vec<_> = (0..20)
                    .map(|_| {
                        let sender = sender.clone();
                        tokio::spawn(async move { http2::ask(&sender, http2::get("/"), None).await })
                    })
                    .collect();
                for answer in asked {
                    let answer = answer.await.expect("no panic").expect("an answer");
                    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 500_000));
                }
                let mut part = http2::get("/");
                part.headers_mut().insert("range", http::HeaderValue::from_static("bytes=1-3"));
                let part = http2::ask(&sender, part, None).await.expect("an answer");
                assert_eq!((part.status.as_u16(), part.body.as_slice()), (206, &b"zzz"[..]));
                let mut head = http2::get("/");
                *head.method_mut() = http::Method::HEAD;
                let head = http2::ask(&sender, head, None).await.expect("an answer");
                assert_eq!((head.headers["content-length"].as_bytes(), head.body.len()), (&b"500000"[..], 0));
                let mut known = http2::get("/");
                known.headers_mut().insert("if-none-match", http::HeaderValue::from_static("\"a\""));
                assert_eq!(http2::ask(&sender, known, None).await.expect("an answer").status.as_u16(), 304);
            },
            &gateway,
        );
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn a_change_holds_for_variants_that_are_on_their_way() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let count = AtomicUsize::new(0);
        let server = Server::start(place.ip, move |peer| {
            while let Some(request) = peer.request() {
                if request.method == "POST" {
                    peer.send(said("204 No Content", "", ""));
                    continue;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                peer.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nVary: Accept\r\nContent-Length: 2\r\n\r\n");
                if number == 0 {
                    waits.lock().unwrap().recv_timeout(PATIENCE).ok();
                }
                peer.send(format!("v{number}"));
            }
        });
        let gateway = caching(place, &server, "{}");
        let mut early = gateway.connect();
        early.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert_eq!(early.head().0, 200);
        gateway.connect().request("POST", "/", "", b"x").expect(204);
        go.send(()).unwrap();
        assert_eq!(early.bytes(2), b"v0");
        assert_eq!(gateway.get("/").expect(200).text(), "v1", "what was asked for before the change is not stored");
        assert_eq!(gateway.get("/").expect(200).text(), "v1");
    });
}

#[test]
fn a_change_holds_for_variants_that_have_not_begun_to_come() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let server = Server::start(place.ip, move |peer| {
            while let Some(request) = peer.request() {
                if request.method == "POST" {
                    peer.send(said("204 No Content", "", ""));
                    continue;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                // The first has told that answers vary; the second was made before the change, and comes after it.
                if number == 1 {
                    waits.lock().unwrap().recv_timeout(PATIENCE).ok();
                }
                peer.send(said("200 OK", "Cache-Control: max-age=60\r\nVary: Accept\r\n", &format!("v{number}")));
            }
        });
        let gateway = caching(place, &server, "{}");
        let get = |accept: &str| gateway.connect().get_with("/", &format!("Accept: {accept}\r\n")).expect(200).text();
        assert_eq!(get("a"), "v0");
        let mut early = gateway.connect();
        early.send("GET / HTTP/1.1\r\nHost: test\r\nAccept: b\r\n\r\n");
        eventually("the server has been asked", || asked.load(Ordering::SeqCst) == 2);
        gateway.connect().request("POST", "/", "", b"x").expect(204);
        go.send(()).unwrap();
        assert_eq!(early.answer().expect(200).text(), "v1");
        assert_eq!((get("b").as_str(), get("b").as_str()), ("v2", "v2"), "what is older than the change is not stored");
        assert_eq!(get("a"), "v3");
    });
}

#[test]
fn what_is_wrong_with_one_request_is_not_kept_for_all() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let status = request.target.trim_start_matches('/').to_owned();
            said(&format!("{status} X"), "Cache-Control: public\r\n", "x")
        });
        let gateway = caching(place, &server, "{ negative_ttl: 1m }");
        for kept in [404, 410, 500, 503] {
            let (first, second) = (gateway.get(&format!("/{kept}")), gateway.get(&format!("/{kept}")));
            assert_eq!((first.status, status(&second).starts_with("sumun; hit")), (kept, true), "{second:?}");
        }
        for one in [400, 401, 403, 429, 431] {
            let (first, second) = (gateway.get(&format!("/{one}")), gateway.get(&format!("/{one}")));
            assert_eq!((first.status, status(&second).starts_with("sumun; hit")), (one, false), "{second:?}");
        }
    });
}

#[test]
fn what_hides_in_an_old_request_does_not_reach_the_server() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            said("200 OK", "Cache-Control: max-age=60\r\n", &request.raw_head.to_ascii_lowercase())
        });
        let gateway = caching(place, &server, "{}");
        let mut client = gateway.connect();
        client.send(
            "GET / HTTP/1.0\r\nHost: test\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let seen = client.answer().expect(200).text();
        for forbidden in ["upgrade", "websocket-key", "x-hop"] {
            assert!(!seen.contains(forbidden), "{forbidden} in {seen}");
        }
    });
}

#[test]
fn parts_of_what_is_not_kept_are_asked_for_as_they_are() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| match request.header("range") {
            Some(_) => said("206 Partial Content", "Content-Range: bytes 0-1/10\r\nCache-Control: no-store\r\n", "01"),
            None => said("200 OK", "Cache-Control: no-store\r\n", "0123456789"),
        });
        let gateway = caching(place, &server, "{}");
        for _ in 0..2 {
            let part = gateway.connect().get_with("/", "Range: bytes=0-1\r\n").expect(206);
            assert_eq!((part.text().as_str(), status(&part)), ("01", "sumun; fwd=uri-miss; detail=no-store"));
        }
    });
}

#[test]
fn what_breaks_off_is_not_made_whole_with_what_was_stored() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                if request.header("if-none-match").is_none() {
                    peer.send(said("200 OK", "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", &"o".repeat(900_000)));
                    continue;
                }
                // Of no known length, and more than is kept together.
                peer.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n");
                for _ in 0..30 {
                    peer.send(format!("c350\r\n{}\r\n", "n".repeat(0xc350)));
                }
                return;
            }
        });
        let gateway = caching(place, &server, "{ stale_if_error: 1h }");
        assert_eq!(gateway.get("/").expect(200).body.len(), 900_000);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let cut = client.try_answer(false).expect_err("it was cut short");
        assert!(cut.answer.body.iter().all(|byte| *byte == b'n'), "two answers in one");
    });
}
