//! Bodies that the kernel sends from the memory of the cache.

mod support;

use support::caching::{body, caching, sized, status};
use support::http2;
use support::instance::everywhere;
use support::server::{Request, Server};

/// Around all bounds: what is copied, what is moved, what waits for a head, what lies in pieces.
const SIZES: [usize; 8] = [8193, 32_767, 32_768, 65_536, 100_001, 262_144, 262_145, 900_000];

/// So often a body is asked for before it is put there.
const HOT_HITS: usize = 16;

fn is_hit(text: &str) -> bool {
    text.starts_with("sumun; hit")
}

#[test]
fn all_of_it_and_parts_of_it_are_right() {
    everywhere(|place| {
        let server = sized(place, "Cache-Control: max-age=60\r\nETag: \"a\"\r\n");
        let gateway = caching(place, &server, "{}");
        let mut client = gateway.connect();
        for size in SIZES {
            let target = format!("/{size}/a");
            let whole = body(&target, size);
            for asked in 0..=HOT_HITS {
                let answer = client.get(&target).expect(200);
                assert_eq!(is_hit(status(&answer)), asked > 0, "{size}: {}", status(&answer));
                assert!(answer.body == whole, "{size}");
            }
            for (first, last) in [(0, 0), (5, 8000), (1, size - 2), (size / 2, size - 1), (4095, 4097)] {
                let part = client.get_with(&target, &format!("Range: bytes={first}-{last}\r\n")).expect(206);
                assert!(part.body == whole[first..=last], "{size}: {first} to {last}");
            }
            let parts = client.get_with(&target, "Range: bytes=0-3999,4002-\r\n").expect(206);
            for piece in [&whole[..4000], &whole[4002..]] {
                assert!(parts.body.windows(piece.len()).any(|found| found == piece), "{size}");
            }
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(client.answer_to_head().expect(200).header("content-length"), Some(&*size.to_string()));
            client.get_with(&target, "If-None-Match: \"a\"\r\n").expect(304);
        }
        assert_eq!(server.count(), SIZES.len());
    });
}

#[test]
fn clients_of_http_2_get_it() {
    everywhere(|place| {
        let server = sized(place, "Cache-Control: max-age=60\r\n");
        let gateway = caching(place, &server, "{}");
        for size in [32_768, 65_536, 900_000] {
            let mut client = gateway.connect();
            for _ in 0..=HOT_HITS {
                client.send(format!("GET /{size}/a HTTP/1.1\r\nHost: example.com\r\n\r\n")).answer().expect(200);
            }
        }
        http2::speak(
            async |sender| {
                for size in [32_768, 65_536, 900_000] {
                    let target = format!("/{size}/a");
                    for _ in 0..2 {
                        let answer = http2::ask(&sender, http2::get(&target), None).await.expect("an answer");
                        assert!(answer.body == body(&target, size), "{size}");
                    }
                    let mut part = http2::get(&target);
                    part.headers_mut().insert("range", http::HeaderValue::from_static("bytes=100-32000"));
                    let part = http2::ask(&sender, part, None).await.expect("an answer");
                    assert!(part.body == body(&target, size)[100..=32_000], "{size}");
                }
            },
            &gateway,
        );
        assert_eq!(server.count(), 3);
    });
}

#[test]
fn what_a_client_has_not_read_yet_does_not_change() {
    everywhere(|place| {
        let server = sized(place, "Cache-Control: max-age=60\r\n");
        let gateway = caching(place, &server, "{}");
        let targets: Vec<String> = (0..10).map(|number| format!("/900000/{number}")).collect();
        for target in &targets {
            let mut client = gateway.connect();
            (0..=HOT_HITS).for_each(|_| drop(client.get(target).expect(200)));
        }
        // They ask, and take nothing while all of it goes from the cache and others come in its place.
        let mut clients: Vec<_> = targets.iter().map(|_| gateway.connect()).collect();
        for (client, target) in clients.iter_mut().zip(&targets) {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(client.head().0, 200);
        }
        gateway.command_ok(&["cache", "purge", "--all"]);
        for number in 0..12 {
            let target = format!("/900000/other{number}");
            let mut client = gateway.connect();
            for _ in 0..=HOT_HITS {
                assert!(client.get(&target).expect(200).body == body(&target, 900_000));
            }
        }
        for (client, target) in clients.iter_mut().zip(&targets) {
            assert!(client.bytes(900_000) == body(target, 900_000), "{target}");
        }
    });
}

#[test]
fn what_is_still_right_is_given_out_after_it_was_asked_about() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request: &Request| {
            let head = "Cache-Control: max-age=60\r\nETag: \"a\"\r\n";
            match request.header("if-none-match") {
                Some(_) => format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n").into_bytes(),
                None => {
                    let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 300000\r\n\r\n");
                    [head.into_bytes(), body("/", 300_000)].concat()
                }
            }
        });
        let gateway = caching(place, &server, "{}");
        let mut client = gateway.connect();
        (0..=HOT_HITS).for_each(|_| drop(client.get("/").expect(200)));
        for number in 2..5 {
            gateway.command_ok(&["cache", "purge", "--all", "--soft"]);
            let answer = client.get("/").expect(200);
            assert!(answer.body == body("/", 300_000));
            assert_eq!((server.count(), status(&answer)), (number, "sumun; fwd=stale; fwd-status=304; stored"));
            assert!(client.get("/").expect(200).body == body("/", 300_000), "from where it was before");
        }
        gateway.command_ok(&["cache", "purge", "--all", "--soft"]);
        let part = client.get_with("/", "Range: bytes=1000-200000\r\n").expect(206);
        assert!(part.body == body("/", 300_000)[1000..=200_000]);
    });
}
