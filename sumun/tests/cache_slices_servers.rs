//! What the gateway promises of slices where servers fail, and where they speak HTTP/2.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::caching::status;
use support::http2::{self, Habits, Http2Server};
use support::instance::{Instance, everywhere};
use support::server::Server;
use support::slices::{File, SIZE, SLICE, content, in_memory, is_hit, said};

#[test]
fn servers_of_http_2_are_asked_for_slices() {
    everywhere(|place| {
        let server = Http2Server::start(place.ip, Habits::default(), async |request, respond| {
            let range = request.headers().get("range").and_then(|range| range.to_str().ok()).map(str::to_owned);
            let whole = content(1, SIZE);
            let answer = http::Response::builder()
                .header("cache-control", "max-age=600")
                .header("etag", "\"v1\"")
                .header("accept-ranges", "bytes");
            let Some(range) = range else {
                return http2::answer(request, respond, answer.body(()).expect("an answer"), &whole).await;
            };
            let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
            let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
            let last = last.min(SIZE - 1);
            let answer = answer.status(206).header("content-range", format!("bytes {first}-{last}/{SIZE}"));
            http2::answer(request, respond, answer.body(()).expect("an answer"), &whole[first..=last]).await;
        });
        let gateway = Instance::start(
            place,
            &format!(
                "cache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{}\"], protocol: http2 }} }}\n\
                 listeners: {{ web: {{ bind: \"$BIND\", routes: \
                 [{{ path: /, proxy: app, cache: {{ slice: 64KiB }} }}] }} }}\n",
                server.address()
            ),
        );
        let mut client = gateway.connect();
        let part = client.get_with("/a", &format!("Range: bytes={}-{}\r\n", SLICE + 5, 2 * SLICE + 5)).expect(206);
        assert!(part.body == content(1, SIZE)[SLICE + 5..=2 * SLICE + 5]);
        assert!(client.get("/a").expect(200).body == content(1, SIZE));
        let again = client.get("/a").expect(200);
        assert!(is_hit(&again) && again.body == content(1, SIZE), "{}", status(&again));
        let mut ranges: Vec<_> = server
            .requests()
            .iter()
            .map(|request| request.headers.get("range").map(|range| range.to_str().expect("text").to_owned()))
            .collect();
        ranges.sort();
        let one = |first: usize| Some(format!("bytes={}-{}", first * SLICE, (first * SLICE + SLICE - 1).min(SIZE - 1)));
        let mut wanted: Vec<_> = (0..5).map(one).collect();
        wanted.sort();
        assert_eq!(ranges, wanted, "each once");
    });
}

#[test]
fn what_is_stale_stands_in_as_far_as_it_is_there() {
    everywhere(|place| {
        let (file, fails) = (File::new(SIZE), Arc::new(AtomicBool::new(false)));
        let has_failed = Arc::clone(&fails);
        let server = Server::answering(place.ip, move |request| {
            if has_failed.load(Ordering::SeqCst) {
                return said("503 Service Unavailable", "", b"no");
            }
            file.answer(request, "Cache-Control: max-age=0, stale-if-error=600\r\n")
        });
        let gateway = in_memory(place, &server, "");
        let mut client = gateway.connect();
        let first = format!("Range: bytes=0-{}\r\n", 2 * SLICE - 1);
        client.get_with("/a", &first).expect(206);
        fails.store(true, Ordering::SeqCst);
        let part = client.get_with("/a", &first).expect(206);
        assert!(part.body == content(1, SIZE)[..2 * SLICE], "{}", status(&part));
        assert!(status(&part).contains("fwd-status=503"), "{}", status(&part));
        // Of what is not there nothing can be given out, and nothing wrong is.
        client.get_with("/a", &format!("Range: bytes={}-{}\r\n", 3 * SLICE, 4 * SLICE - 1)).expect(503);
        fails.store(false, Ordering::SeqCst);
        assert!(gateway.get("/a").expect(200).body == content(1, SIZE));
    });
}
