//! What the proxy promises for methods, versions, framing and connections.

mod support;

use std::sync::mpsc;

use support::client::End;
use support::instance::{Instance, PATIENCE, eventually, everywhere};
use support::server::{Request, Server, ok};
use support::talk::Framing;

/// Says what it saw.
fn echo(request: &Request) -> Vec<u8> {
    ok(format!("{} {} {}", request.method, request.target, String::from_utf8_lossy(&request.body)))
}

#[test]
fn methods_pass_as_they_are() {
    everywhere(|place| {
        let server = Server::answering(place.ip, echo);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "VERSION-CONTROL"] {
            let body: &[u8] = if matches!(method, "POST" | "PUT" | "PATCH") { b"a body" } else { b"" };
            let answer = client.request(method, "/a?b=c", "", body).expect(200);
            assert_eq!(answer.text(), format!("{method} /a?b=c {}", String::from_utf8_lossy(body)));
        }
        let head = client.request("HEAD", "/a", "", b"").expect(200);
        assert_eq!(head.header("content-length"), Some("8"), "the length that GET would have");
        // One connection to the gateway, one to the server.
        assert_eq!(client.get("/last").text(), "GET /last ");
        assert_eq!(server.accepted(), 1);

        let refused = gateway.connect().request("TRACE", "/", "", b"");
        assert_eq!(refused.status, 405);
        assert!(refused.header("allow").is_some_and(|allow| allow.contains("GET") && !allow.contains("TRACE")));
        let refused = gateway.connect().send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").answer();
        assert!(matches!(refused.status, 405 | 501), "{}", refused.status);
        let refused = gateway.connect().request("FOO", "/", "", b"");
        assert_eq!(refused.status, 501, "a method that is not known");
        assert_eq!(server.count(), 10, "none of them went on");
    });
}

#[test]
fn max_forwards_ends_options_and_trace_here() {
    everywhere(|place| {
        let server = Server::answering(place.ip, echo);
        let gateway = Instance::proxy(place, &[server.address()], "", "trace: on,");
        let mut client = gateway.connect();
        let answer = client.request("OPTIONS", "/", "Max-Forwards: 0\r\n", b"");
        assert!(answer.status == 200 || answer.status == 204, "{}", answer.status);
        assert!(answer.header("allow").is_some());
        let answer = client.request("TRACE", "/x", "Max-Forwards: 0\r\nX-A: b\r\nCookie: secret\r\n", b"").expect(200);
        assert_eq!(answer.header("content-type"), Some("message/http"));
        assert!(answer.text().starts_with("TRACE /x HTTP/1.1\r\n") && answer.text().contains("X-A: b\r\n"));
        assert!(!answer.text().contains("secret"));
        assert_eq!(server.count(), 0);
        client.request("OPTIONS", "/", "Max-Forwards: 3\r\n", b"").expect(200);
        assert_eq!(server.last_request().header("max-forwards").as_deref(), Some("2"));
    });
}

#[test]
fn http_1_0_clients() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            if request.target == "/chunks" {
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".to_vec()
            } else {
                echo(request)
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        // No Host, no keep-alive asked for: answered and closed.
        let mut client = gateway.connect();
        assert_eq!(client.send("GET /old HTTP/1.0\r\n\r\n").answer().text(), "GET /old ");
        assert_eq!(client.end(), End::Closed);
        assert!(server.last_request().raw_head.starts_with("GET /old HTTP/1.1\r\n"));
        // Keep-alive where it asks for it.
        let mut client = gateway.connect();
        for _ in 0..2 {
            let answer = client.send("GET /kept HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").answer();
            assert_eq!(answer.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
        }
        // It knows no chunks.
        let answer = client.send("GET /chunks HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").answer();
        assert_eq!((answer.framing, answer.text().as_str()), (Framing::UntilClose, "abcde"));
    });
}

#[test]
fn keep_alive_and_its_end() {
    everywhere(|place| {
        let server = Server::answering(place.ip, echo);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for number in 0..20 {
            assert_eq!(client.get(&format!("/{number}")).text(), format!("GET /{number} "));
        }
        assert_eq!(server.accepted(), 1, "the connection to the server is used again");
        let answer = client.get_with("/end", "Connection: close\r\n").expect(200);
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.end(), End::Closed);
        // The client's wish is not the server's business.
        assert_eq!(server.last_request().header("connection"), None);
    });
}

#[test]
fn a_server_that_closes_after_each_answer() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for _ in 0..5 {
            let answer = client.get("/").expect(200);
            assert_eq!((answer.text().as_str(), answer.header("connection")), ("hi", None));
        }
        assert_eq!(server.accepted(), 5);
    });
}

/// A kept connection that the server closed in the meantime costs no request.
#[test]
fn a_server_that_closes_silently_between_requests() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            // Promises to stay, and goes.
            if let Some(request) = peer.request() {
                peer.send(ok(request.body));
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "retries: off,", "");
        let mut client = gateway.connect();
        for number in 0..20 {
            let body = format!("body {number}");
            let method = if number % 2 == 0 { "PUT" } else { "GET" };
            let answer = client.request(method, "/", "", if method == "PUT" { body.as_bytes() } else { b"" });
            assert_eq!(answer.status, 200, "request {number}");
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    everywhere(|place| {
        let server = Server::answering(place.ip, echo);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        let mut bytes = Vec::new();
        for number in 0..50 {
            bytes.extend_from_slice(
                match number % 3 {
                    0 => format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
                    1 => format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").into_bytes(),
                    _ => {
                        let head = format!("POST /{number} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                        [head.as_bytes(), b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"].concat()
                    }
                }
                .as_slice(),
            );
        }
        client.send(bytes);
        for number in 0..50 {
            let wanted = match number % 3 {
                0 => format!("GET /{number} "),
                1 => format!("PUT /{number} body"),
                _ => format!("POST /{number} body"),
            };
            assert_eq!(client.answer().text(), wanted);
        }
    });
}

#[test]
fn chunks_and_trailers_in_both_directions() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n".to_vec();
            for chunk in request.body.chunks(7) {
                answer.extend_from_slice(format!("{:X};ext=1\r\n", chunk.len()).as_bytes());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\nX-Sum: 42\r\n\r\n");
            answer
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        let answer = client
            .send(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5;a=b\r\nhello\r\n8\r\n, world!\r\n0\r\nX-Check: 7\r\n\r\n",
            )
            .answer();
        assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "hello, world!"));
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
        let seen = server.only_request();
        assert_eq!(seen.body, b"hello, world!");
        assert_eq!(seen.trailers, [("x-check".to_owned(), "7".to_owned())]);
        assert_eq!(client.get("/").expect(200).text(), "", "still in step");
    });
}

#[test]
fn expect_100_continue() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(mut request) = peer.head() {
                if request.target == "/no" {
                    peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    return;
                }
                if request.header("expect").is_some() {
                    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
                }
                if peer.body(&mut request).is_none() {
                    return;
                }
                peer.send(ok(request.body));
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        client.send("PUT /yes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.head().0, 100);
        assert_eq!(client.send("hello").answer().expect(200).text(), "hello");
        // Asked not to send the body, and so it does not.
        client.send("PUT /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.interim.len()), (403, 0));
    });
}

/// A client that waits for a 100 cannot send: until then the wait is the server's.
#[test]
fn a_server_that_is_slow_to_say_100() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel();
        let waits = std::sync::Mutex::new(waits);
        let server = Server::start(place.ip, move |peer| {
            while let Some(mut request) = peer.head() {
                if request.target == "/silent" {
                    peer.drain();
                    return;
                }
                waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
                if request.target == "/asked" {
                    peer.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
                }
                if peer.body(&mut request).is_none() {
                    return;
                }
                peer.send(ok(request.body));
            }
        });
        let bounds = "bounds: { header_timeout: 1s },";
        let gateway = Instance::proxy(place, &[server.address()], "outlier: off,", bounds);
        // A client's own time, begun now, has passed.
        let patience_ends = || {
            let mut slow = gateway.connect();
            slow.send("GET / HTTP/1.1\r\n").answer().expect(408);
        };
        let ask = |target: &str, number: usize| {
            let mut client = gateway.connect();
            let head = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nAccept: application/json";
            client.send(format!("PUT {target} HTTP/1.1\r\n{head}\r\n\r\n"));
            server.await_count(number);
            patience_ends();
            client
        };
        let mut client = ask("/asked", 1);
        go.send(()).expect("the server waits");
        assert_eq!((client.head().0, client.head().0), (103, 100));
        assert_eq!(client.send("hello").answer().expect(200).text(), "hello");
        // It may go on by itself, and has all of its time then.
        let mut client = ask("/untold", 2);
        client.send("he");
        go.send(()).expect("the server waits");
        assert_eq!(client.send("llo").answer().expect(200).text(), "hello");
        // Once it was told to go on it has to.
        let mut client = ask("/asked", 3);
        go.send(()).expect("the server waits");
        let answer = client.answer().expect(408);
        assert_eq!(answer.interim.len(), 2);
        assert!(answer.text().contains("body_timeout"), "{}", answer.text());

        let gateway = Instance::proxy(
            place,
            &[server.address()],
            "outlier: off, timeouts: { first_byte: 500ms },",
            "bounds: { header_timeout: 200ms },",
        );
        let mut client = gateway.connect();
        let head = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nAccept: application/json";
        let answer = client.send(format!("PUT /silent HTTP/1.1\r\n{head}\r\n\r\n")).answer().expect(504);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.text().contains("first_byte_timeout"), "{}", answer.text());
    });
}

/// An answer that nobody asked for is never given to who asks next, on whose connection it lies.
#[test]
fn a_server_that_answers_twice() {
    everywhere(|place| {
        let (told, heard) = mpsc::channel();
        let (go, waits) = mpsc::channel();
        let (told, waits) = (std::sync::Mutex::new(told), std::sync::Mutex::new(waits));
        let server = Server::start(place.ip, move |peer| {
            while let Some(request) = peer.request() {
                let more: &[u8] = match request.target.as_str() {
                    "/at-once" => {
                        peer.send([ok(&request.target), ok("secret")].concat());
                        continue;
                    }
                    "/later" => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret",
                    // What servers say before they close a connection that was idle.
                    "/idle" => b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    _ => b"",
                };
                peer.send(ok(&request.target));
                if more.is_empty() {
                    continue;
                }
                waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
                peer.send(more);
                told.lock().expect("no test thread panicked with it").send(()).ok();
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for (number, first) in ["/at-once", "/later", "/idle"].into_iter().cycle().take(30).enumerate() {
            assert_eq!(gateway.get(first).expect(200).text(), first);
            if first != "/at-once" {
                go.send(()).expect("the server waits");
                heard.recv_timeout(PATIENCE).expect("the server has sent it");
            }
            let target = format!("/{number}");
            assert_eq!(gateway.get(&target).expect(200).text(), target, "behind {first}");
        }
    });
}

#[test]
fn interim_answers_pass() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
            [&hints[..], b"HTTP/1.1 102 Processing\r\n\r\n", &ok("done")].concat()
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        let answer = client.get("/").expect(200);
        let statuses: Vec<u16> = answer.interim.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [103, 102]);
        assert!(answer.interim[0].1.contains(&("link".to_owned(), "</a.css>; rel=preload".to_owned())));
        // RFC 9110 section 15.2: not to a client of 1.0.
        let answer = gateway.connect().send("GET / HTTP/1.0\r\n\r\n").answer();
        assert_eq!((answer.interim.len(), answer.text().as_str()), (0, "done"));
    });
}

#[test]
fn answers_without_a_body() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| match request.target.as_str() {
            "/204" => b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 10\r\n\r\n".to_vec(),
            "/empty" => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            _ => ok("0123456789"),
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for target in ["/204", "/304", "/empty", "/chunks", "/"] {
            for method in ["GET", "HEAD"] {
                let answer = client.request(method, target, "", b"");
                let wanted: &[u8] = if target == "/" && method == "GET" { b"0123456789" } else { b"" };
                assert_eq!(answer.body, wanted, "{method} {target}");
                if answer.status == 204 {
                    // RFC 9110 section 8.6.
                    assert_eq!(answer.header("content-length"), None);
                }
                if answer.status == 304 {
                    assert_eq!(answer.header("etag"), Some("\"x\""));
                }
            }
        }
    });
}

/// However a body is framed, one that the server broke off is never taken for complete.
#[test]
fn an_answer_cut_short_arrives_cut_short() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            let Some(request) = peer.request() else { return };
            let head = match request.target.as_str() {
                "/length" => "Content-Length: 100000\r\n\r\nstart",
                "/chunks" => "Transfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n",
                "/in-chunk" => "Transfer-Encoding: chunked\r\n\r\nff\r\nstart",
                "/no-last" => "Transfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n0\r\n",
                _ => "Content-Length: 5\r\n\r\nstart",
            };
            peer.send(format!("HTTP/1.1 200 OK\r\n{head}"));
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for target in ["/length", "/chunks", "/in-chunk", "/no-last"] {
            let mut client = gateway.connect();
            let answer = client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).try_answer(false);
            let cut = *answer.expect_err("a whole answer");
            assert_ne!(cut.end, End::TimedOut, "{target}");
            // A client of 1.0 gets chunks as a body that ends with the connection: only a reset
            // tells it that this is not the end.
            let mut client = gateway.connect();
            let answer = client.send(format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n")).try_answer(false);
            let cut = *answer.expect_err("a whole answer");
            if target != "/length" {
                assert_eq!(cut.end, End::Reset, "{target}");
            }
        }
        assert_eq!(gateway.get("/whole").text(), "start");
    });
}

#[test]
fn a_body_that_ends_with_the_connection() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the ");
                peer.send("end");
            }
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        for _ in 0..3 {
            let answer = client.get("/").expect(200);
            assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "until the end"));
        }
    });
}

/// The client's connection breaks: the server's ends, so that it can stop working.
#[test]
fn a_client_that_goes_ends_its_request() {
    everywhere(|place| {
        let (told, heard) = mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let server = Server::start(place.ip, move |peer| {
            let Some(request) = peer.request() else { return };
            if request.target == "/begun" {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n");
            }
            // Ends only when the gateway ends the connection.
            let more = peer.drain();
            let told = told.lock().expect("no test thread panicked with it");
            told.send((request.target, more)).ok();
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for (number, target) in ["/waiting", "/begun"].into_iter().enumerate() {
            let mut client = gateway.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            server.await_count(number + 1);
            client.reset();
            let (ended, more) = heard.recv_timeout(PATIENCE).expect("the request is given up");
            assert_eq!((ended.as_str(), more), (target, 0));
        }
        eventually("no open connection at the server", || server.open() == 0);
    });
}
