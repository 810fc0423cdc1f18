//! What the gateway promises where a route caches on disk.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use support::Scratch;
use support::caching::{body, sized};
use support::http2;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere, signal};
use support::server::{Request, Server};
use support::talk::Answer;

/// A gateway that keeps its cache in two files of `folder`; `route` are further keys of the only one.
fn config(server: &Server, folder: &Path, route: &str) -> String {
    let (address, folder) = (server.address(), folder.display());
    format!(
        "state: {folder}/state\n\
         cache: {{ memory: 16MiB, group: {{ extent: 1MiB, physical_volumes: [\
         {{ path: {folder}/a, size: 48MiB }}, {{ path: {folder}/b, size: 48MiB }}] }}, \
         volumes: {{ pages: {{ size: 64MiB }} }} }}\n\
         pools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [{{ path: /, proxy: app, cache: {{ {route} }} }}] }} }}\n"
    )
}

fn start(place: Place, server: &Server, folder: &Path, route: &str) -> Instance {
    let gateway = Instance::start(place, &config(server, folder, route));
    eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
    gateway
}

/// Ends it in good order.
fn stop(mut gateway: Instance) {
    gateway.signal("TERM");
    gateway.await_end();
}

/// The supervisor and the worker process at once, in the middle of whatever they do.
fn kill(gateway: Instance) {
    let worker = gateway.worker_process();
    signal(gateway.gateway.process_id(), "KILL");
    signal(worker, "KILL");
    drop(gateway);
}

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("sumun; hit")
}

const SIZES: [&str; 5] = ["/0/a", "/100/a", "/200000/a", "/300000/a", "/3500000/a"];

fn size_of(target: &str) -> usize {
    target.split('/').nth(1).and_then(|size| size.parse().ok()).expect("a size")
}

#[test]
fn what_is_stored_outlives_the_process() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\nETag: \"v1\"\r\nContent-Type: text/plain\r\n");
        let gateway = start(place, &server, folder.path(), "");
        for target in SIZES {
            let answer = gateway.get(target).expect(200);
            assert_eq!(status(&answer), "sumun; fwd=uri-miss; stored", "{target}");
            assert_eq!(answer.body, body(target, size_of(target)), "{target}");
        }
        for target in SIZES {
            eventually("it is stored", || {
                let answer = gateway.get(target).expect(200);
                assert_eq!(answer.body, body(target, size_of(target)), "{target}");
                is_hit(&answer)
            });
        }
        stop(gateway);
        let gateway = start(place, &server, folder.path(), "");
        for target in SIZES {
            let (whole, size) = (body(target, size_of(target)), size_of(target));
            let mut client = gateway.connect();
            let answer = client.get(target).expect(200);
            assert!(is_hit(&answer), "{target}: {}", status(&answer));
            assert_eq!((&answer.body, answer.header("etag")), (&whole, Some("\"v1\"")));
            let again = client.get(target).expect(200);
            assert_eq!(again.body, whole, "{target}");
            if size == 0 {
                continue;
            }
            let (from, to) = (size / 3, size - 7);
            let part = client.get_with(target, &format!("Range: bytes={from}-{to}\r\n")).expect(206);
            assert_eq!(part.body, whole[from..=to], "{target}");
            let parts = client.get_with(target, "Range: bytes=0-3,-5\r\n").expect(206);
            let contains = |wanted: &[u8]| parts.body.windows(wanted.len()).any(|window| window == wanted);
            assert!(contains(&whole[..4]) && contains(&whole[size - 5..]), "{target}");
            client.send(format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
            let head = client.answer_to_head().expect(200);
            assert_eq!(head.header("content-length"), Some(size.to_string().as_str()));
            client.get_with(target, "If-None-Match: \"v1\"\r\n").expect(304);
        }
        assert_eq!(server.count(), SIZES.len());
        let found = gateway.json(&["cache", "get", &format!("http://{}/3500000/a", "test")]);
        assert_eq!(found[0]["where"], "disk", "{found}");
    });
}

#[test]
fn another_worker_process_goes_on_with_it() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = start(place, &server, folder.path(), "");
        for target in SIZES {
            gateway.get(target).expect(200);
        }
        let before = gateway.worker_process();
        // A port that was not connected to before: the sandbox wants another process.
        let with_more =
            config(&server, folder.path(), "").replace("pools: {", "pools: { x: { servers: '127.0.0.1:9' },");
        gateway.reload(&with_more);
        assert_ne!(gateway.worker_process(), before);
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        for target in SIZES {
            let answer = gateway.get(target).expect(200);
            assert!(is_hit(&answer), "{target}: {}", status(&answer));
            assert_eq!(answer.body, body(target, size_of(target)), "{target}");
        }
        // One that dies is followed by one that knows as much.
        signal(gateway.worker_process(), "KILL");
        let is_back = || gateway.command(&["volume", "list"]).status.success();
        eventually("another one serves", is_back);
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        for target in SIZES {
            assert!(is_hit(&gateway.get(target).expect(200)), "{target}");
        }
        assert_eq!(server.count(), SIZES.len());
    });
}

#[test]
fn variants_are_found_again() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = Server::answering(place.ip, |request: &Request| {
            let language = request.header("accept-language").unwrap_or_default();
            format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nVary: Accept-Language\r\nContent-Length: {}\r\n\r\n{language}",
                language.len()
            )
            .into_bytes()
        });
        let ask = |gateway: &Instance| {
            ["ko", "en"].map(|language| {
                let answer = gateway.connect().get_with("/", &format!("Accept-Language: {language}\r\n")).expect(200);
                assert_eq!(answer.text(), language);
                is_hit(&answer)
            })
        };
        let gateway = start(place, &server, folder.path(), "");
        assert_eq!((ask(&gateway), ask(&gateway)), ([false, false], [true, true]));
        stop(gateway);
        let gateway = start(place, &server, folder.path(), "");
        assert_eq!(ask(&gateway), [true, true]);
        assert_eq!(server.count(), 2);
    });
}

#[test]
fn a_purge_outlives_a_kill() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\nCache-Tag: news, sport\r\n");
        let gateway = start(place, &server, folder.path(), "tags: Cache-Tag");
        for target in SIZES {
            gateway.get(target).expect(200);
        }
        gateway.get("/5/kept/x").expect(200);
        gateway.command_ok(&["cache", "purge", "--tag", "news"]);
        gateway.get("/5/after").expect(200);
        kill(gateway);
        let gateway = start(place, &server, folder.path(), "tags: Cache-Tag");
        for target in SIZES {
            assert!(!is_hit(&gateway.get(target).expect(200)), "{target}");
        }
        assert!(is_hit(&gateway.get("/5/after").expect(200)), "it was stored after the purge");
        let host = "http://test";
        gateway.command_ok(&["cache", "purge", &format!("{host}/5/after")]);
        gateway.command_ok(&["cache", "purge", "--prefix", &format!("{host}/3")]);
        kill(gateway);
        let gateway = start(place, &server, folder.path(), "tags: Cache-Tag");
        for target in SIZES {
            let is_purged = target.starts_with("/3");
            assert_eq!(is_hit(&gateway.get(target).expect(200)), !is_purged, "{target}");
        }
        assert!(!is_hit(&gateway.get("/5/after").expect(200)));
    });
}

#[test]
fn a_change_reaches_what_is_on_disk() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = start(place, &server, folder.path(), "");
        for target in ["/10/a", "/400000/a"] {
            gateway.get(target).expect(200);
            eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
        }
        stop(gateway);
        // Nothing of it is in memory now.
        let gateway = start(place, &server, folder.path(), "");
        for target in ["/10/a", "/400000/a"] {
            gateway.connect().request("POST", target, "", b"x").expect(200);
            assert!(!is_hit(&gateway.get(target).expect(200)), "{target}");
            eventually("it is stored again", || is_hit(&gateway.get(target).expect(200)));
        }
    });
}

#[test]
fn what_is_stale_is_asked_about_and_its_body_stays_where_it_is() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = Server::answering(place.ip, |request: &Request| {
            if request.header("if-none-match").is_some() {
                return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=600\r\nX-New: b\r\n\r\n".to_vec();
            }
            let size = size_of(&request.target);
            let head =
                format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nETag: \"v\"\r\nContent-Length: {size}\r\n\r\n");
            [head.into_bytes(), body(&request.target, size)].concat()
        });
        let gateway = start(place, &server, folder.path(), "");
        for target in ["/1000/a", "/2600000/a"] {
            let whole = body(target, size_of(target));
            gateway.get(target).expect(200);
            eventually("it is asked about", || {
                let second = gateway.get(target).expect(200);
                assert!(second.body == whole, "{target}");
                status(&second) == "sumun; fwd=stale; fwd-status=304; stored"
            });
            let third = gateway.get(target).expect(200);
            assert!(is_hit(&third) && third.body == whole, "{target}");
        }
        stop(gateway);
        let gateway = start(place, &server, folder.path(), "");
        for target in ["/1000/a", "/2600000/a"] {
            let answer = gateway.get(target).expect(200);
            assert_eq!((is_hit(&answer), answer.header("x-new")), (true, Some("b")), "{target}");
            assert!(answer.body == body(target, size_of(target)), "{target}");
        }
        assert_eq!(server.count(), 4);
    });
}

/// A server that sends an answer of this many bytes in pieces of 64 KiB, each when it is told so.
fn in_pieces(place: Place, length: usize, framing: &'static str) -> (Server, mpsc::Sender<()>) {
    let (go, waits) = mpsc::channel::<()>();
    let waits = Arc::new(Mutex::new(waits));
    let server = Server::start(place.ip, move |peer| {
        while let Some(request) = peer.request() {
            let whole = body(&request.target, length);
            let is_chunked = framing == "chunked";
            let framing =
                if is_chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
            peer.send(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n{framing}\r\n\r\n"));
            for piece in whole.chunks(64 << 10) {
                waits.lock().unwrap().recv_timeout(PATIENCE).ok();
                if is_chunked {
                    peer.send(format!("{:x}\r\n", piece.len()));
                }
                peer.send(piece);
                if is_chunked {
                    peer.send("\r\n");
                }
            }
            if is_chunked {
                peer.send("0\r\n\r\n");
            }
        }
    });
    (server, go)
}

#[test]
fn a_large_answer_is_read_from_its_beginning_while_it_comes() {
    for framing in ["length", "chunked"] {
        everywhere(|place| {
            const LENGTH: usize = 6 << 20;
            let folder = Scratch::new();
            let (server, go) = in_pieces(place, LENGTH, framing);
            let gateway = start(place, &server, folder.path(), "");
            let whole = body("/large", LENGTH);
            let read = |_| {
                let answer = gateway.get("/large").expect(200);
                assert!(answer.body == whole, "{} bytes", answer.body.len());
                status(&answer).to_owned()
            };
            thread::scope(|scope| {
                let mut readers = vec![scope.spawn(|| read(0))];
                // A client that reads nothing for now.
                let mut slow = gateway.connect();
                eventually("it is asked for", || server.count() == 1);
                slow.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
                for _ in 0..70 {
                    go.send(()).unwrap();
                }
                eventually("much has come", || gateway.json(&["cache"])["requests"]["collapsed"] == 1);
                readers.extend((0..10).map(|_| scope.spawn(|| read(1))));
                eventually("all of them read", || gateway.json(&["cache"])["requests"]["collapsed"] == 11);
                for _ in 70..LENGTH.div_ceil(64 << 10) {
                    go.send(()).unwrap();
                }
                let statuses: Vec<String> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
                assert!(statuses.iter().skip(1).all(|status| status.ends_with("; collapsed")), "{statuses:?}");
                assert!(slow.answer().expect(200).body == whole, "who was behind has lost nothing");
            });
            eventually("it is stored", || is_hit(&gateway.get("/large").expect(200)));
            assert_eq!(server.count(), 1);
        });
    }
}

#[test]
fn a_range_far_behind_what_has_come_is_asked_for_by_itself() {
    everywhere(|place| {
        const LENGTH: usize = 14 << 20;
        let folder = Scratch::new();
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                let whole = body("/large", LENGTH);
                if request.header("range").as_deref() == Some("bytes=-10") {
                    let head = format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{LENGTH}\r\nContent-Length: 10\r\n\r\n",
                        LENGTH - 10,
                        LENGTH - 1
                    );
                    peer.send([head.as_bytes(), &whole[LENGTH - 10..]].concat());
                    continue;
                }
                peer.send(format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: {LENGTH}\r\n\r\n"));
                for piece in whole.chunks(1 << 20) {
                    thread::sleep(std::time::Duration::from_millis(30));
                    peer.send(piece);
                }
            }
        });
        let gateway = start(place, &server, folder.path(), "");
        let mut client = gateway.connect();
        let end = client.get_with("/large", "Range: bytes=-10\r\n").expect(206);
        assert_eq!(end.body, body("/large", LENGTH)[LENGTH - 10..]);
        eventually("the whole is stored", || {
            is_hit(&gateway.connect().get_with("/large", "Range: bytes=5-9\r\n").expect(206))
        });
        assert_eq!(server.count(), 2);
    });
}

#[test]
fn over_http2_and_after_a_large_body_the_connection_goes_on() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = start(place, &server, folder.path(), "");
        let target = "/3500000/a";
        gateway.get(target).expect(200);
        http2::speak(
            async |client| {
                for _ in 0..2 {
                    let answer = http2::ask(&client, http2::get(target), None).await.unwrap();
                    assert_eq!(answer.status, 200);
                    assert!(answer.body == body(target, size_of(target)));
                }
            },
            &gateway,
        );
        assert_eq!(server.count(), 2, "it has another name there");
    });
}

#[test]
fn a_device_that_is_not_to_be_had_costs_what_lies_on_it() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = start(place, &server, folder.path(), "");
        let targets: Vec<String> = (0..40).map(|number| format!("/100/{number}")).collect();
        for target in &targets {
            gateway.get(target).expect(200);
        }
        stop(gateway);
        fs::rename(folder.path().join("b"), folder.path().join("b.away")).unwrap();
        // What it leads to is not there, as with a disk that is not mounted.
        std::os::unix::fs::symlink(folder.path().join("nowhere/b"), folder.path().join("b")).unwrap();
        let gateway = start(place, &server, folder.path(), "");
        let hits = targets.iter().filter(|target| is_hit(&gateway.get(target).expect(200))).count();
        assert!((5..35).contains(&hits), "{hits}");
        let listed = gateway.json(&["volume", "list"]);
        let states: Vec<_> = listed["physical_volumes"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
        assert_eq!(states, ["working", "failed"], "{listed}");
        stop(gateway);
        // It has missed what came since, so nothing on it counts; and it works again.
        fs::remove_file(folder.path().join("b")).unwrap();
        fs::rename(folder.path().join("b.away"), folder.path().join("b")).unwrap();
        let gateway = start(place, &server, folder.path(), "");
        for target in &targets {
            gateway.get(target).expect(200);
            eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
        }
        let listed = gateway.json(&["volume", "list"]);
        assert!(listed["physical_volumes"].as_array().unwrap().iter().all(|one| one["state"] == "working"), "{listed}");
    });
}

#[test]
fn what_is_no_physical_volume_is_left_as_it_is() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let precious = vec![b'x'; 1 << 20];
        fs::write(folder.path().join("a"), &precious).unwrap();
        let gateway = Instance::start(place, &config(&server, folder.path(), ""));
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        let listed = gateway.json(&["volume", "list"]);
        let mut devices = listed["physical_volumes"].as_array().unwrap().iter();
        let device = devices.find(|device| device["path"].as_str().unwrap().ends_with("/a")).unwrap();
        assert_eq!(device["state"], "failed", "{listed}");
        assert!(device["problem"].as_str().unwrap().contains("left as it is"), "{listed}");
        gateway.get("/100/a").expect(200);
        assert!(is_hit(&gateway.get("/100/a").expect(200)), "the others do their part");
        assert!(fs::read(folder.path().join("a")).unwrap() == precious);
    });
}

#[test]
fn another_config_keeps_what_is_stored() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = start(place, &server, folder.path(), "");
        for target in SIZES {
            gateway.get(target).expect(200);
        }
        let before = config(&server, folder.path(), "");
        let third = format!("{{ path: {}/c, size: 48MiB }}", folder.path().display());
        for (what, after) in [
            ("grown", before.replace("size: 64MiB", "size: 72MiB")),
            ("renamed", before.replace("pages: { size: 64MiB }", "media: { size: 72MiB, formerly: pages }")),
            ("one more device", before.replace("48MiB }] }", &format!("48MiB }}, {third}] }}"))),
        ] {
            gateway.reload(&after);
            eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
            eventually("it is what the config says", || {
                let listed = gateway.json(&["volume", "list"]);
                let devices = listed["physical_volumes"].as_array().map_or(0, Vec::len);
                let name = listed["volumes"][0]["name"].as_str().unwrap_or_default().to_owned();
                match what {
                    "grown" => listed["volumes"][0]["bytes"].as_u64() > Some(64 << 20),
                    "renamed" => name == "media",
                    _ => devices == 3,
                }
            });
            for target in SIZES {
                assert!(is_hit(&gateway.get(target).expect(200)), "{what}: {target}");
            }
            // The next one begins with the names of the first.
            if what == "renamed" {
                gateway.reload(&before.replace("pages: { size: 64MiB }", "pages: { size: 64MiB, formerly: media }"));
                eventually("it is named as before", || {
                    gateway.json(&["volume", "list"])["volumes"][0]["name"] == "pages"
                });
            }
        }
        assert_eq!(server.count(), SIZES.len());
    });
}

#[test]
fn a_device_that_is_taken_out_gives_away_what_it_holds_first() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let with_three = config(&server, folder.path(), "").replace("size: 64MiB", "size: 40MiB");
        let with_two = with_three.replace(&format!("{{ path: {}/b, size: 48MiB }}", folder.path().display()), "");
        let with_two = with_two.replace("48MiB }, ]", "48MiB }]");
        assert_ne!(with_two, with_three);
        let gateway = Instance::start(place, &with_three);
        let targets: Vec<String> = (0..30).map(|number| format!("/{}/x", number * 30_000)).collect();
        for target in &targets {
            gateway.get(target).expect(200);
            eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
        }
        let devices = || gateway.json(&["volume", "list"])["physical_volumes"].as_array().map_or(0, Vec::len);
        assert_eq!(devices(), 2);
        gateway.reload(&with_two);
        eventually("it is let go", || devices() == 1);
        fs::remove_file(folder.path().join("b")).unwrap();
        // Nothing of it is in memory any more.
        stop(gateway);
        let gateway = Instance::start(place, &with_two);
        for target in &targets {
            let answer = gateway.get(target).expect(200);
            assert!(is_hit(&answer), "{target}: {}", status(&answer));
            assert!(answer.body == body(target, size_of(target)), "{target}");
        }
        assert_eq!(server.count(), targets.len());
    });
}

#[test]
fn what_is_overtaken_on_disk_is_fetched_again_however_hot_it_is() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let small = config(&server, folder.path(), "").replace("size: 64MiB", "size: 16MiB");
        let gateway = Instance::start(place, &small);
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        let (hot, whole) = ("/2500000/hot", body("/2500000/hot", 2_500_000));
        for number in 0..40 {
            let answer = gateway.get(hot).expect(200);
            assert!(answer.body == whole, "in round {number}");
            gateway.get(&format!("/1500000/{number}")).expect(200);
        }
        let asked = server.requests().iter().filter(|request| request.target == hot).count();
        assert!((2..40).contains(&asked), "{asked}");
    });
}

#[test]
fn a_slow_client_gets_all_of_a_body_across_a_handover() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let gateway = Instance::start(place, &format!("drain: 20s\n{}", config(&server, folder.path(), "")));
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        let target = "/14000000/a";
        gateway.get(target).expect(200);
        eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
        let mut slow = gateway.connect();
        slow.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let (status, _) = slow.head();
        assert_eq!(status, 200);
        let first = slow.bytes(100_000);
        let with_more =
            config(&server, folder.path(), "").replace("pools: {", "pools: { x: { servers: '127.0.0.1:9' },");
        gateway.reload(&format!("drain: 20s\n{with_more}"));
        eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
        let rest = slow.bytes(14_000_000 - 100_000);
        assert!([first, rest].concat() == body(target, 14_000_000));
        assert_eq!(server.count(), 1);
    });
}

#[test]
fn a_large_answer_takes_the_place_of_the_one_before() {
    everywhere(|place| {
        let folder = Scratch::new();
        let count = AtomicUsize::new(0);
        let server = Server::answering(place.ip, move |request: &Request| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let age = if number == 0 { 0 } else { 600 };
            let target = format!("{}{number}", request.target);
            let head = format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age={age}\r\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\r\n\
                 Content-Length: 700000\r\n\r\n"
            );
            [head.into_bytes(), body(&target, 700_000)].concat()
        });
        let gateway = start(place, &server, folder.path(), "");
        assert!(gateway.get("/").expect(200).body == body("/0", 700_000));
        eventually("the second one is stored", || {
            let answer = gateway.get("/").expect(200);
            assert!(answer.body == body("/0", 700_000) || answer.body == body("/1", 700_000));
            is_hit(&answer)
        });
        assert!(gateway.get("/").expect(200).body == body("/1", 700_000));
        assert_eq!(server.count(), 2);
    });
}

#[test]
fn what_comes_to_vary_is_not_for_everybody() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = Server::answering(place.ip, |request: &Request| {
            if request.header("if-none-match").is_some() {
                return b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=600\r\nVary: Accept-Language\r\n\r\n"
                    .to_vec();
            }
            let language = request.header("accept-language").unwrap_or_default();
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=0\r\nETag: \"v\"\r\nContent-Length: 600000\r\n\r\n"
                .to_owned();
            [head.into_bytes(), body(&language, 600_000)].concat()
        });
        let gateway = start(place, &server, folder.path(), "");
        let ask = |gateway: &Instance, language: &str| {
            gateway.connect().get_with("/", &format!("Accept-Language: {language}\r\n")).expect(200).body
        };
        assert!(ask(&gateway, "ko") == body("ko", 600_000));
        eventually("it is stored", || {
            ask(&gateway, "ko");
            server.requests().iter().any(|request| request.header("if-none-match").is_some())
        });
        stop(gateway);
        let gateway = start(place, &server, folder.path(), "");
        assert!(ask(&gateway, "en") == body("en", 600_000));
    });
}

#[test]
fn a_device_that_goes_and_comes_back_at_once_goes_on() {
    everywhere(|place| {
        let folder = Scratch::new();
        let server = sized(place, "Cache-Control: max-age=600\r\n");
        let with_two = config(&server, folder.path(), "").replace("size: 64MiB", "size: 40MiB");
        let with_one = with_two.replace(&format!(", {{ path: {}/b, size: 48MiB }}", folder.path().display()), "");
        assert_ne!(with_one, with_two);
        let gateway = Instance::start(place, &with_two);
        let targets: Vec<String> = (0..20).map(|number| format!("/{}/x", number * 30_000)).collect();
        for target in &targets {
            gateway.get(target).expect(200);
            eventually("it is stored", || is_hit(&gateway.get(target).expect(200)));
        }
        gateway.reload(&with_one);
        gateway.reload(&with_two);
        eventually("both work", || {
            let listed = gateway.json(&["volume", "list"]);
            let devices = listed["physical_volumes"].as_array().cloned().unwrap_or_default();
            listed["group"]["state"] == "open"
                && devices.len() == 2
                && devices.iter().all(|device| device["state"] == "working")
        });
        for target in &targets {
            let answer = gateway.get(target).expect(200);
            assert!(answer.body == body(target, size_of(target)), "{target}");
        }
        gateway.command_ok(&["cache", "purge", "--all"]);
        assert!(!is_hit(&gateway.get(&targets[3]).expect(200)));
    });
}
