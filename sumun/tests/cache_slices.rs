//! What the gateway promises where a route caches large answers in slices.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use support::Scratch;
use support::http2;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere};
use support::server::{Request, Server};
use support::talk::Answer;

const SLICE: usize = 64 * 1024;
/// Four slices and a part of a fifth.
const SIZE: usize = 4 * SLICE + 30_000;

/// A gateway whose only route has slices in memory; `route` are further keys.
fn in_memory(place: Place, server: &Server, route: &str) -> Instance {
    let address = server.address();
    let config = format!(
        "workers: 2\ncache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: \
         [{{ path: /, proxy: app, cache: {{ slice: 64KiB, {route} }} }}] }} }}\n"
    );
    Instance::start(place, &config)
}

/// The same with slices of so many KiB on disk.
fn on_disk(place: Place, server: &Server, folder: &Path, slice_kib: usize) -> Instance {
    let (address, folder) = (server.address(), folder.display());
    let config = format!(
        "state: {folder}/state\n\
         cache: {{ memory: 16MiB, group: {{ extent: 1MiB, physical_volumes: [\
         {{ path: {folder}/a, size: 48MiB }}, {{ path: {folder}/b, size: 48MiB }}] }}, \
         volumes: {{ pages: {{ size: 64MiB }} }} }}\n\
         pools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: \
         [{{ path: /, proxy: app, cache: {{ slice: {slice_kib}KiB, tags: Cache-Tag }} }}] }} }}\n"
    );
    let gateway = Instance::start(place, &config);
    eventually("the pool is open", || gateway.json(&["volume", "list"])["group"]["state"] == "open");
    gateway
}

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("sumun; hit")
}

/// Bytes of a version of a file: no two slices are alike.
fn content(version: usize, size: usize) -> Vec<u8> {
    (0..size).map(|at| ((at / 7) ^ (at >> 11) ^ (version * 37)) as u8).collect()
}

/// What a server has: a version and its size.
#[derive(Clone)]
struct File(Arc<Mutex<(usize, usize)>>);

impl File {
    fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new((1, size))))
    }

    fn change(&self) {
        self.0.lock().unwrap().0 += 1;
    }

    fn now(&self) -> (usize, usize) {
        *self.0.lock().unwrap()
    }

    /// Answers as RFC 9110 says, ranges, `If-Range` and `If-None-Match` among it.
    fn answer(&self, request: &Request, fields: &str) -> Vec<u8> {
        let (version, size) = self.now();
        let fields = format!("ETag: \"v{version}\"\r\nAccept-Ranges: bytes\r\n{fields}");
        if request.header("if-none-match").is_some_and(|tags| tags == format!("\"v{version}\"")) {
            return format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n").into_bytes();
        }
        let whole = content(version, size);
        let holds = request.header("if-range").is_none_or(|tag| tag == format!("\"v{version}\""));
        match range_of(request).filter(|_| holds) {
            None => said("200 OK", &fields, &whole),
            Some((first, _)) if first >= size => {
                said("416 Range Not Satisfiable", &format!("Content-Range: bytes */{size}\r\n"), b"")
            }
            Some((first, last)) => {
                let last = last.min(size - 1);
                part(&fields, (first, last, size), &whole[first..=last])
            }
        }
    }

    fn serve(&self, place: Place, fields: &'static str) -> Server {
        let file = self.clone();
        Server::answering(place.ip, move |request| file.answer(request, fields))
    }
}

fn range_of(request: &Request) -> Option<(usize, usize)> {
    let range = request.header("range")?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn said(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn part(fields: &str, (first, last, size): (usize, usize, usize), body: &[u8]) -> Vec<u8> {
    said("206 Partial Content", &format!("{fields}Content-Range: bytes {first}-{last}/{size}\r\n"), body)
}

/// The ranges that the server was asked for, in order; `-`: without.
fn asked(server: &Server) -> Vec<String> {
    let range = |request: &Request| request.header("range").map_or("-".to_owned(), |range| range.replace("bytes=", ""));
    server.requests().iter().map(range).collect()
}

fn slice(number: usize) -> String {
    format!("{}-{}", number * SLICE, (number * SLICE + SLICE - 1).min(SIZE - 1))
}

const FRESH: &str = "Cache-Control: max-age=600\r\nContent-Type: text/plain\r\n";

#[test]
fn a_range_costs_the_slices_that_it_touches() {
    everywhere(|place| {
        let file = File::new(SIZE);
        let server = file.serve(place, FRESH);
        let gateway = in_memory(place, &server, "");
        let whole = content(1, SIZE);
        let mut client = gateway.connect();
        let last = client.get_with("/a", &format!("Range: bytes={}-\r\n", SIZE - 100)).expect(206);
        assert_eq!(status(&last), "sumun; fwd=uri-miss; stored");
        assert_eq!(last.body, whole[SIZE - 100..]);
        let of_whole = format!("bytes {}-{}/{SIZE}", SIZE - 100, SIZE - 1);
        assert_eq!((last.header("content-range"), last.header("etag")), (Some(of_whole.as_str()), Some("\"v1\"")));
        // The client does not say where the end is: the slice is asked for in full.
        assert_eq!(asked(&server), [format!("{}-{}", 4 * SLICE, 5 * SLICE - 1)]);
        let request = server.only_request();
        assert_eq!(request.header("accept-encoding").as_deref(), Some("identity"));
        let again = client.get_with("/a", "Range: bytes=-100\r\n").expect(206);
        assert!(is_hit(&again), "{}", status(&again));
        assert_eq!((again.body.as_slice(), again.header("age")), (&whole[SIZE - 100..], Some("0")));
        // Across the border of two slices.
        let across = client.get_with("/a", &format!("Range: bytes={}-{}\r\n", SLICE - 5, SLICE + 4)).expect(206);
        assert_eq!(status(&across), "sumun; fwd=partial; stored");
        assert_eq!(across.body, whole[SLICE - 5..SLICE + 5]);
        assert_eq!(asked(&server)[1..], [slice(0), slice(1)]);
        assert_eq!(server.last_request().header("if-range").as_deref(), Some("\"v1\""));
        // The rest, and then all of it is there.
        let all = client.get("/a").expect(200);
        assert_eq!((status(&all), all.body == whole), ("sumun; fwd=partial; stored", true));
        assert_eq!(asked(&server)[3..], [slice(2), slice(3)]);
        let all = client.get("/a").expect(200);
        assert!(is_hit(&all) && all.body == whole, "{}", status(&all));
        assert_eq!(all.header("content-length"), Some(SIZE.to_string().as_str()));
        assert_eq!((all.header("content-range"), all.header("content-type")), (None, Some("text/plain")));
        let parts = client.get_with("/a", &format!("Range: bytes=0-3,{}-{}\r\n", SLICE - 2, SLICE + 1)).expect(206);
        let contains = |wanted: &[u8]| parts.body.windows(wanted.len()).any(|window| window == wanted);
        assert!(contains(&whole[..4]) && contains(&whole[SLICE - 2..SLICE + 2]) && is_hit(&parts));
        client.send("HEAD /a HTTP/1.1\r\nHost: test\r\n\r\n");
        let head = client.answer_to_head().expect(200);
        assert_eq!(head.header("content-length"), Some(SIZE.to_string().as_str()));
        client.get_with("/a", "If-None-Match: \"v1\"\r\n").expect(304);
        assert_eq!(client.get_with("/a", "Range: bytes=0-3\r\nIf-Range: \"v1\"\r\n").expect(206).body, whole[..4]);
        assert!(client.get_with("/a", "Range: bytes=0-3\r\nIf-Range: \"v0\"\r\n").expect(200).body == whole);
        let beyond = client.get_with("/a", &format!("Range: bytes={SIZE}-\r\n")).expect(416);
        assert_eq!(beyond.header("content-range"), Some(format!("bytes */{SIZE}").as_str()));
        assert_eq!(server.count(), 5);
        let report = gateway.json(&["cache"]);
        assert_eq!((&report["slices"], &report["stored"]), (&5.into(), &1.into()), "{report}");
        assert_eq!(report["requests"]["miss"], 3, "{report}");
        let found = gateway.json(&["cache", "get", "http://test/a"]);
        assert_eq!((&found[0]["where"], &found[0]["bytes"]), (&"slices".into(), &SIZE.into()), "{found}");
    });
}

#[test]
fn a_whole_is_fetched_slice_by_slice_and_a_small_one_at_once() {
    everywhere(|place| {
        let file = File::new(SIZE);
        let server = file.serve(place, FRESH);
        let gateway = in_memory(place, &server, "");
        let all = gateway.get("/a").expect(200);
        assert_eq!((status(&all), all.body == content(1, SIZE)), ("sumun; fwd=uri-miss; stored", true));
        assert_eq!(asked(&server), [slice(0), slice(1), slice(2), slice(3), slice(4)]);
        assert!(is_hit(&gateway.get("/a").expect(200)));
        for size in [0, 1, 1000, SLICE] {
            let small = File::new(size);
            let server = small.serve(place, FRESH);
            let gateway = in_memory(place, &server, "");
            let first = gateway.get_with_range(None);
            assert_eq!((first.status, first.body == content(1, size)), (200, true), "{size}");
            assert_eq!(first.header("content-range"), None);
            let count = server.count();
            assert_eq!(count, if size == 0 { 2 } else { 1 }, "an empty one has no range");
            let second = gateway.get("/a").expect(200);
            assert!(is_hit(&second) && second.body == content(1, size), "{size}");
            if size > 0 {
                assert_eq!(gateway.get_with_range(Some("0-0")).expect(206).body, content(1, 1));
            }
            assert_eq!(server.count(), count);
            let found = gateway.json(&["cache", "get", "http://test/a"]);
            assert_eq!(found[0]["where"], "memory", "{found}");
        }
    });
}

trait Ask {
    fn get_with_range(&self, range: Option<&str>) -> Answer;
}

impl Ask for Instance {
    fn get_with_range(&self, range: Option<&str>) -> Answer {
        let fields = range.map_or(String::new(), |range| format!("Range: bytes={range}\r\n"));
        self.connect().get_with("/a", &fields)
    }
}
