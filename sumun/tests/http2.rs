//! What the gateway promises to clients that speak HTTP/2. The client is the h2 crate, which knows
//! nothing of our own machine.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use support::http2::{ask, get, speak};
use support::instance::{Instance, Place, everywhere};
use support::server::{Server, ok};

fn proxy(place: Place, server: &Server) -> Instance {
    Instance::proxy(place, &[server.address()], "", "")
}

#[test]
fn many_requests_of_one_connection_are_served_at_once() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            std::thread::sleep(Duration::from_millis(20));
            ok(format!("{} {}", request.target, request.header("host").unwrap_or_default()))
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let asked = (0..100).map(|number| {
                    let sender = sender.clone();
                    tokio::spawn(async move { ask(&sender, get(&format!("/{number}?a=b")), None).await })
                });
                for (number, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
                    let answer = answer.await.expect("no panic").expect("an answer");
                    assert_eq!(answer.status, 200);
                    assert_eq!(String::from_utf8_lossy(&answer.body), format!("/{number}?a=b example.com"));
                    assert!(!answer.headers.contains_key("connection"));
                }
            },
            &gateway,
        );
        assert!(server.accepted() > 1, "not one after the other");
    });
}

#[test]
fn bodies_reach_the_server_with_and_without_a_length() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let framing = if request.header("content-length").is_some() { "length" } else { "chunks" };
            ok(format!("{} {} {framing}", request.method, request.body.len()))
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                for size in [0, 1, 20_000, 3_000_000] {
                    let body = vec![b'x'; size];
                    let post = Request::post("http://example.com/").body(()).expect("a request");
                    let answer = ask(&sender, post, Some(&body)).await.expect("an answer");
                    // What is here in full goes on with its length.
                    let framing = if size > 256 * 1024 { "chunks" } else { "length" };
                    assert_eq!(String::from_utf8_lossy(&answer.body), format!("POST {size} {framing}"));
                    let put = Request::put("http://example.com/").header("content-length", size.to_string());
                    let put = put.body(()).expect("a request");
                    let answer = ask(&sender, put, Some(&body)).await.expect("an answer");
                    assert_eq!(String::from_utf8_lossy(&answer.body), format!("PUT {size} length"));
                }
            },
            &gateway,
        );
    });
}

#[test]
fn large_answers_arrive_whole_and_slowly_read_ones_too() {
    everywhere(|place| {
        let body: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
        let sent = body.clone();
        let server = Server::answering(place.ip, move |request| {
            if request.target == "/chunks" {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in sent.chunks(70_001) {
                    answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    answer.extend_from_slice(chunk);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
                answer
            } else {
                ok(&sent)
            }
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let asked = ["/length", "/chunks", "/length", "/chunks"].map(|path| {
                    let sender = sender.clone();
                    tokio::spawn(async move { ask(&sender, get(path), None).await })
                });
                for answer in asked {
                    let answer = answer.await.expect("no panic").expect("an answer");
                    assert!(answer.body == body, "{} bytes", answer.body.len());
                    assert!(!answer.headers.contains_key("transfer-encoding"));
                }
            },
            &gateway,
        );
    });
}

#[test]
fn trailers_pass() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
                .to_vec()
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let answer = ask(&sender, get("/"), None).await.expect("an answer");
                assert_eq!(answer.body, b"hi");
                assert_eq!(answer.trailers.expect("trailers")["x-sum"], "7");
            },
            &gateway,
        );
    });
}

#[test]
fn an_answer_that_was_cut_short_resets_its_stream_alone() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                if request.target == "/cut" {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
                    return;
                }
                peer.send(ok("whole"));
            }
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let cut = ask(&sender, get("/cut"), None).await;
                assert!(cut.is_err_and(|error| error.is_reset()), "not taken for complete");
                assert_eq!(ask(&sender, get("/"), None).await.expect("an answer").body, b"whole");
            },
            &gateway,
        );
    });
}

#[test]
fn what_the_gateway_answers_itself_arrives() {
    everywhere(|place| {
        let config = "listeners:
  web:
    bind: \"$BIND\"
    routes:
      - { path: /static/, files: { root: $DIR/documents } }
      - { path: /said, respond: { body: said } }
";
        let gateway = Instance::start_in(place, config, |directory| {
            std::fs::create_dir(directory.join("documents")).expect("a directory");
            std::fs::write(directory.join("documents/small.txt"), "small").expect("a file");
            std::fs::write(directory.join("documents/large.bin"), vec![7; 3_000_000]).expect("a file");
        });
        speak(
            async |sender| {
                assert_eq!(ask(&sender, get("/said"), None).await.expect("an answer").body, b"said");
                assert_eq!(ask(&sender, get("/static/small.txt"), None).await.expect("an answer").body, b"small");
                let large = ask(&sender, get("/static/large.bin"), None).await.expect("an answer");
                assert!(large.body == vec![7; 3_000_000], "{} bytes", large.body.len());
                let head = Request::head("http://example.com/static/large.bin").body(()).expect("a request");
                let head = ask(&sender, head, None).await.expect("an answer");
                assert_eq!((head.headers["content-length"].as_bytes(), head.body.len()), (&b"3000000"[..], 0));
                let range = Request::get("http://example.com/static/large.bin").header("range", "bytes=1-3");
                let part = ask(&sender, range.body(()).expect("a request"), None).await.expect("an answer");
                assert_eq!((part.status, part.body.as_slice()), (StatusCode::PARTIAL_CONTENT, &[7, 7, 7][..]));
                let missing = ask(&sender, get("/nowhere"), None).await.expect("an answer");
                assert_eq!(missing.status, 404);
            },
            &gateway,
        );
    });
}

#[test]
fn a_client_that_gives_up_frees_the_server() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            if peer.request().is_some() {
                peer.drain();
            }
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let mut sender = sender.ready().await.expect("ready");
                let (response, mut stream) = sender.send_request(get("/"), false).expect("sent");
                stream.send_data(Bytes::from_static(b"part"), true).expect("sent");
                while server.count() == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stream.send_reset(h2::Reason::CANCEL);
                drop(response);
                while server.open() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
            &gateway,
        );
    });
}

#[test]
fn a_drain_says_goodbye_and_serves_what_has_begun() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            std::thread::sleep(Duration::from_millis(300));
            ok("late")
        });
        let gateway = proxy(place, &server);
        speak(
            async |sender| {
                let asked = tokio::spawn({
                    let sender = sender.clone();
                    async move { ask(&sender, get("/"), None).await }
                });
                while server.count() == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                gateway.signal("TERM");
                assert_eq!(asked.await.expect("no panic").expect("an answer").body, b"late");
            },
            &gateway,
        );
    });
}

#[test]
fn the_same_address_still_speaks_http_1() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "one");
        let gateway = proxy(place, &server);
        assert_eq!(gateway.connect().get("/").expect(200).text(), "one");
        // The first letter of the preface may be the first of a method, too.
        let mut slow = gateway.connect();
        slow.send("P");
        std::thread::sleep(Duration::from_millis(50));
        slow.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(slow.answer().expect(200).text(), "one");
        let mut broken = gateway.connect();
        broken.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
        assert_eq!(broken.answer().status, 505);
    });
}
