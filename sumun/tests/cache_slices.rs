//! What the gateway promises where a route caches large answers in slices.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use support::Scratch;
use support::caching::status;
use support::http2;
use support::instance::{Instance, PATIENCE, eventually, everywhere};
use support::server::Server;
use support::site::{PLAIN_SETUP, Setup, Site};
use support::slices::*;
use support::talk::Answer;

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
        let of_part = (all.header("content-range"), all.header("content-digest"));
        assert_eq!((of_part, all.header("content-type")), ((None, None), Some("text/plain")));
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
            if size > 0 {
                // Behind the end of what nobody has asked for yet: others get it all the same.
                gateway.connect().get_with("/b", "Range: bytes=9999999-\r\n").expect(416);
                assert!(is_hit(&gateway.get("/b").expect(200)), "{size}");
            }
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

#[test]
fn many_who_want_it_cold_ask_the_server_once_for_each_slice() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let file = File::new(SIZE);
        let theirs = file.clone();
        let server = Server::answering(place.ip, move |request| {
            if range_of(request).is_some_and(|(first, _)| first == 0) {
                waits.lock().unwrap().recv_timeout(PATIENCE).ok();
            }
            theirs.answer(request, FRESH)
        });
        let gateway = in_memory(place, &server, "");
        let whole = content(1, SIZE);
        thread::scope(|scope| {
            for number in 0..40 {
                let (gateway, whole) = (&gateway, &whole);
                scope.spawn(move || {
                    let answer = match number % 4 {
                        0 => gateway.get_with_range(Some(&format!("{}-", 3 * SLICE + 7))).expect(206),
                        _ => gateway.get("/a").expect(200),
                    };
                    assert!(whole.ends_with(&answer.body) && answer.body.len() > SLICE);
                });
            }
            eventually("they wait", || {
                // Who comes late for the last slice finds it stored.
                let counts = gateway.json(&["cache"])["requests"].clone();
                ["collapsed", "miss", "hit"].iter().filter_map(|what| counts[what].as_u64()).sum::<u64>() >= 40
            });
            go.send(()).unwrap();
            drop(go);
        });
        let mut ranges = asked(&server);
        ranges.sort();
        ranges.dedup();
        assert_eq!(ranges.len(), server.count(), "{:?}", asked(&server));
        assert!(server.count() <= 6, "{:?}", asked(&server));
    });
}

#[test]
fn versions_are_never_mixed() {
    everywhere(|place| {
        let file = File::new(SIZE);
        let theirs = file.clone();
        let changes_at = Arc::new(AtomicUsize::new(2 * SLICE));
        let at = Arc::clone(&changes_at);
        let server = Server::answering(place.ip, move |request| {
            if range_of(request).is_some_and(|(first, _)| first == at.load(Ordering::SeqCst) && first > 0) {
                at.store(0, Ordering::SeqCst);
                theirs.change();
            }
            theirs.answer(request, FRESH)
        });
        let gateway = in_memory(place, &server, "");
        let cut = gateway.connect().send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false);
        let cut = cut.expect_err("its rest is another version's");
        assert!(cut.answer.body.len() <= 2 * SLICE && content(1, SIZE).starts_with(&cut.answer.body));
        let again = gateway.get("/a").expect(200);
        assert!(again.body == content(2, SIZE), "{}", status(&again));
        assert_eq!(server.last_request().header("range"), None, "servers that do not agree are asked for the whole");
        // Where nothing has been sent yet, it is begun anew.
        let part = |path: &str, range: &str| gateway.connect().get_with(path, &format!("Range: bytes={range}\r\n"));
        part("/b", "0-9").expect(206);
        file.change();
        let end = part("/b", &format!("{}-", SIZE - 10)).expect(206);
        assert_eq!(end.body, content(3, SIZE)[SIZE - 10..]);
        assert_eq!(end.header("etag"), Some("\"v3\""));
        assert_eq!(part("/b", "0-9").expect(206).body, content(3, 10));
        // Another length under the same name is a lie.
        part("/c", "0-9").expect(206);
        file.grow();
        let cut = gateway.connect().send("GET /c HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false);
        let cut = cut.map_or_else(|cut| cut.answer.body.len(), |whole| whole.body.len());
        assert_eq!(cut, SLICE, "it is not that long");
        let all = gateway.get("/c").expect(200);
        assert_eq!(all.body.len(), SIZE + 1);
        assert_eq!(server.last_request().header("range"), None);
    });
    everywhere(|place| {
        let file = File::new(SIZE);
        let theirs = file.clone();
        let server = Server::answering(place.ip, move |request| {
            if range_of(request).is_some_and(|(first, _)| first == SLICE) {
                theirs.change();
            }
            theirs.answer(request, FRESH)
        });
        let gateway = in_memory(place, &server, "");
        http2::speak(
            async |client| {
                let answer = http2::ask(&client, http2::get("/a"), None).await;
                assert!(answer.is_err(), "the stream is reset");
            },
            &gateway,
        );
    });
}

/// An answer for a range of these bytes.
type Lie = fn((usize, usize), &[u8]) -> Vec<u8>;

/// What servers get wrong: each gives the right whole to who asks without a range.
const LIES: [(&str, Lie); 12] = [
    ("another range", |(first, last), whole| {
        part("ETag: \"a\"\r\n", (first + 1, last, SIZE), &whole[first + 1..=last])
    }),
    ("a shorter range", |(first, last), whole| part("ETag: \"a\"\r\n", (first, last - 1, SIZE), &whole[first..last])),
    ("a longer range", |(first, last), whole| {
        part("ETag: \"a\"\r\n", (first, last + 1, SIZE), &whole[first..=last + 1])
    }),
    ("a body that does not fit", |(first, last), whole| part("ETag: \"a\"\r\n", (first, last, SIZE), &whole[..9])),
    ("no range", |(first, last), whole| said("206 Partial Content", "ETag: \"a\"\r\n", &whole[first..=last])),
    ("no length", |(first, last), whole| {
        let fields = format!("ETag: \"a\"\r\nContent-Range: bytes {first}-{last}/*\r\n");
        said("206 Partial Content", &fields, &whole[first..=last])
    }),
    ("two ranges", |(first, last), whole| {
        let line = format!("Content-Range: bytes {first}-{last}/{SIZE}\r\n");
        said("206 Partial Content", &format!("ETag: \"a\"\r\n{line}{line}"), &whole[first..=last])
    }),
    ("nonsense", |(first, last), whole| {
        said("206 Partial Content", "ETag: \"a\"\r\nContent-Range: bytes 1e3-\r\n", &whole[first..=last])
    }),
    ("several parts", |(first, last), whole| {
        let fields = format!(
            "ETag: \"a\"\r\nContent-Type: multipart/byteranges; boundary=x\r\nContent-Range: bytes {first}-{last}/{SIZE}\r\n"
        );
        said("206 Partial Content", &fields, &whole[first..=last])
    }),
    ("a weak validator", |(first, last), whole| part("ETag: W/\"a\"\r\n", (first, last, SIZE), &whole[first..=last])),
    ("no validator", |(first, last), whole| part("", (first, last, SIZE), &whole[first..=last])),
    ("too many chunks", |(first, last), whole| {
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\n\
             Content-Range: bytes {first}-{last}/{SIZE}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let body = &whole[..last + 1 - first + 5];
        [head.as_bytes(), format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
    }),
];

#[test]
fn servers_are_not_believed() {
    everywhere(|place| {
        for (lie, answer) in LIES {
            let server = Server::answering(place.ip, move |request| {
                let whole = content(1, SIZE);
                match range_of(request) {
                    Some(range) => answer(range, &whole),
                    None => said("200 OK", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n", &whole),
                }
            });
            let gateway = in_memory(place, &server, "");
            let first = gateway.connect().send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false);
            match first {
                Ok(first) => assert!(first.body == content(1, SIZE), "{lie}: {} bytes", first.body.len()),
                // What came before it was known for one: never anything else.
                Err(cut) => assert_eq!((lie, cut.answer.body.len() <= SLICE), ("too many chunks", true)),
            }
            let second = gateway.get("/a").expect(200);
            assert!(second.body == content(1, SIZE), "{lie}");
            // What was fetched ahead before that was known does not count.
            let ranges: Vec<String> = asked(&server).into_iter().filter(|range| *range != slice(1)).collect();
            assert_eq!(ranges, [&slice(0), "-"], "{lie}");
            assert!(is_hit(&gateway.get_with_range(Some("70000-70009")).expect(206)), "{lie}");
        }
        // Bodies that break off are asked for again, and end whoever waits for the rest.
        let server = Server::start(place.ip, |peer| {
            if let Some(request) = peer.request() {
                let (first, last) = range_of(&request).unwrap();
                let answer =
                    part(&format!("{FRESH}ETag: \"a\"\r\n"), (first, last, SIZE), &content(1, SIZE)[first..=last]);
                peer.send(&answer[..answer.len() / 2]);
            }
        });
        let gateway = in_memory(place, &server, "");
        let cut = gateway.connect().send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").try_answer(false);
        let cut = cut.expect_err("the rest never comes");
        assert!(content(1, SIZE).starts_with(&cut.answer.body));
        assert_eq!(asked(&server).iter().filter(|range| **range == slice(0)).count(), 3);
        // A part that nobody has asked for.
        let server = Server::answering(place.ip, |request| {
            let range = range_of(request).unwrap_or((0, 99));
            said("206 Partial Content", &format!("{FRESH}Content-Range: bytes 0-9/{SIZE}\r\n"), &[range.0 as u8; 10])
        });
        let gateway = in_memory(place, &server, "");
        gateway.get("/a").expect(206);
        assert_eq!(asked(&server), [&slice(0), "-", "-"]);
    });
}

#[test]
fn a_server_that_dies_in_a_slice_costs_no_client_its_answer() {
    everywhere(|place| {
        let file = File::new(SIZE);
        let died = AtomicUsize::new(0);
        let server = Server::start(place.ip, move |peer| {
            while let Some(request) = peer.request() {
                let answer = file.answer(&request, FRESH);
                let is_here = range_of(&request).is_some_and(|(first, _)| first == 2 * SLICE);
                if is_here && died.fetch_add(1, Ordering::SeqCst) == 0 {
                    peer.send(&answer[..answer.len() / 2]);
                    return;
                }
                if !peer.send(&answer) {
                    return;
                }
            }
        });
        let gateway = in_memory(place, &server, "");
        assert!(gateway.get("/a").expect(200).body == content(1, SIZE));
        // What is fetched ahead may come before it.
        let mut ranges = asked(&server);
        ranges.sort();
        let mut wanted = vec![slice(0), slice(1), slice(2), slice(2), slice(3), slice(4)];
        wanted.sort();
        assert_eq!(ranges, wanted);
        assert!(is_hit(&gateway.get("/a").expect(200)));
    });
}

#[test]
fn a_head_that_is_still_right_keeps_its_slices() {
    everywhere(|place| {
        let file = File::new(SIZE);
        let server = file.serve(place, "Cache-Control: no-cache\r\n");
        let gateway = in_memory(place, &server, "");
        gateway.get("/a").expect(200);
        let again = gateway.get("/a").expect(200);
        assert_eq!(status(&again), "sumun; fwd=stale; fwd-status=304; stored");
        assert!(again.body == content(1, SIZE));
        assert_eq!(server.count(), 6);
        // Asked for with the part that is wanted, so that it comes if it has changed.
        file.change();
        let changed = gateway.get_with_range(Some(&format!("{}-", 3 * SLICE))).expect(206);
        assert!(changed.body == content(2, SIZE)[3 * SLICE..], "{}", status(&changed));
        assert_eq!(asked(&server)[6..], [slice(3), slice(4)]);
    });
}

#[test]
fn purges_reach_all_slices() {
    everywhere(|place| {
        let folder = Scratch::new();
        let file = File::new(SIZE);
        let server = file.serve(place, "Cache-Control: max-age=600\r\nCache-Tag: film\r\n");
        let gateway = on_disk(place, &server, folder.path(), 64);
        gateway.get("/a").expect(200);
        eventually("it is stored", || is_hit(&gateway.get("/a").expect(200)));
        assert_eq!(server.count(), 5);
        for purge in [&["cache", "purge", "http://test/a"][..], &["cache", "purge", "--tag", "film"]] {
            let before = server.count();
            gateway.command_ok(purge);
            let first = gateway.get_with_range(Some("0-9")).expect(206);
            assert_eq!(status(&first), "sumun; fwd=uri-miss; stored", "{purge:?}");
            gateway.get("/a").expect(200);
            assert_eq!(server.count(), before + 5, "{purge:?}: none of before is found");
        }
        let before = server.count();
        gateway.command_ok(&["cache", "purge", "--soft", "--prefix", "http://test/"]);
        let soft = gateway.get("/a").expect(200);
        assert_eq!(status(&soft), "sumun; fwd=stale; fwd-status=304; stored");
        assert_eq!((server.count(), soft.body == content(1, SIZE)), (before + 1, true));
        // So does a change by a client.
        gateway.connect().request("POST", "/a", "", b"new").expect(200);
        gateway.get_with_range(Some("0-9")).expect(206);
        assert_eq!(asked(&server)[before + 2..], [slice(0)]);
    });
}

#[test]
fn slices_outlive_the_process() {
    everywhere(|place| {
        for (slice_kib, size) in [(64, SIZE), (1024, 3_500_000)] {
            let folder = Scratch::new();
            let file = File::new(size);
            let server = file.serve(place, FRESH);
            let gateway = on_disk(place, &server, folder.path(), slice_kib);
            let (whole, slice) = (content(1, size), slice_kib * 1024);
            let last = format!("{}-", size - 10);
            assert_eq!(gateway.get_with_range(Some(&last)).expect(206).body, whole[size - 10..]);
            assert_eq!(
                gateway.get_with_range(Some(&format!("{slice}-{slice}"))).expect(206).body,
                whole[slice..=slice]
            );
            let hits = |gateway: &Instance| {
                [&last, &format!("{slice}-{}", slice + 9)]
                    .map(|range| is_hit(&gateway.get_with_range(Some(range)).expect(206)))
            };
            eventually("they are stored", || hits(&gateway) == [true, true]);
            assert_eq!(server.count(), 2);
            let mut gateway = gateway;
            gateway.signal("TERM");
            gateway.await_end();
            let gateway = on_disk(place, &server, folder.path(), slice_kib);
            assert_eq!(hits(&gateway), [true, true]);
            assert_eq!(server.count(), 2);
            assert!(gateway.get("/a").expect(200).body == whole);
            assert_eq!(server.count(), size.div_ceil(slice), "only what was missing");
            eventually("it is stored", || is_hit(&gateway.get("/a").expect(200)));
            for range in [format!("{}-{}", slice - 9, slice + 9), format!("{}-{}", slice / 2, size - 3)] {
                let (from, to) = range.split_once('-').unwrap();
                let wanted = &whole[from.parse().unwrap()..=to.parse().unwrap()];
                assert!(gateway.get_with_range(Some(&range)).expect(206).body == wanted, "{range}");
            }
        }
    });
}

#[test]
fn what_is_not_for_all_goes_past_with_the_range_of_the_client() {
    everywhere(|place| {
        let file = File::new(SIZE);
        for fields in ["Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "Cache-Control: private\r\n"] {
            let server = file.serve(place, fields);
            let gateway = in_memory(place, &server, "");
            for _ in 0..2 {
                let answer = gateway.get_with_range(Some("100000-200000")).expect(206);
                assert!(status(&answer).starts_with("sumun; fwd=uri-miss; detail="), "{}", status(&answer));
                assert!(answer.body == content(1, SIZE)[100_000..=200_000]);
                assert_eq!(answer.header("set-cookie").is_some(), fields.contains("Set-Cookie"));
            }
            // The first one looks, and then one a second.
            let theirs = asked(&server).into_iter().filter(|range| *range != slice(1));
            assert_eq!(theirs.collect::<Vec<_>>(), ["100000-200000", "100000-200000"]);
        }
        // Who may not see it says nothing of the resource.
        let theirs = file.clone();
        let server = Server::answering(place.ip, move |request| match request.header("x-key") {
            Some(_) => theirs.answer(request, FRESH),
            None => said("403 Forbidden", "", b"no"),
        });
        let gateway = in_memory(place, &server, "");
        let key = "X-Key: 1\r\n";
        gateway.connect().get_with("/a", &format!("Range: bytes=0-9\r\n{key}")).expect(206);
        assert!(is_hit(&gateway.get_with_range(Some("5-9")).expect(206)));
        gateway.get_with_range(Some("70000-70009")).expect(403);
        assert!(is_hit(&gateway.get_with_range(Some("5-9")).expect(206)));
        gateway.connect().get_with("/a", &format!("Range: bytes=70000-70009\r\n{key}")).expect(206);
        let cached = "Cache-Control: only-if-cached\r\n";
        gateway.connect().get_with("/a", &format!("Range: bytes=70005-70009\r\n{cached}")).expect(206);
        gateway.connect().get_with("/a", cached).expect(504);
    });
}

#[test]
fn variants_have_slices_of_their_own_but_not_by_coding() {
    everywhere(|place| {
        let files = [File::new(SIZE), File::new(SIZE)];
        files[1].change();
        let server = Server::answering(place.ip, move |request| {
            let file = &files[usize::from(request.header("x-lang").is_some())];
            file.answer(request, &format!("{FRESH}Vary: Accept-Encoding, X-Lang\r\n"))
        });
        let gateway = in_memory(place, &server, "");
        for (fields, version) in [("", 1), ("X-Lang: ko\r\n", 2), ("Accept-Encoding: gzip\r\n", 1)] {
            let answer = gateway.connect().get_with("/a", fields).expect(200);
            assert!(answer.body == content(version, SIZE), "{fields}");
        }
        assert_eq!(server.count(), 10);
        // Dates are enough where they are old enough.
        let whole = content(1, SIZE);
        let server = Server::answering(place.ip, move |request| {
            let dates = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\n";
            let (first, last) = range_of(request).unwrap();
            let last = last.min(SIZE - 1);
            part(&format!("Cache-Control: max-age=99999999999\r\n{dates}"), (first, last, SIZE), &whole[first..=last])
        });
        let gateway = in_memory(place, &server, "ttl: 100d");
        assert!(gateway.get("/a").expect(200).body == content(1, SIZE));
        assert_eq!(server.last_request().header("if-range").as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    });
}

#[test]
fn over_http2_and_tls() {
    everywhere(|place| {
        let file = File::new(3_500_000);
        let server = file.serve(place, FRESH);
        let whole = content(1, 3_500_000);
        let folder = Scratch::new();
        let gateway = on_disk(place, &server, folder.path(), 1024);
        http2::speak(
            async |client| {
                for _ in 0..3 {
                    let answer = http2::ask(&client, http2::get("/a"), None).await.unwrap();
                    assert!(answer.status == 200 && answer.body == whole);
                }
            },
            &gateway,
        );
        let top = format!(
            "cache: {{ memory: 16MiB, group: {{ extent: 1MiB, physical_volumes: [{{ path: $DIR/a, size: 48MiB }}] }}, \
             volumes: {{ pages: {{ size: 32MiB }} }} }}\npools: {{ app: {{ servers: [\"{}\"] }} }}",
            server.address()
        );
        let routes = "{ path: /, proxy: app, cache: { slice: 1MiB } }";
        let site = Site::with(place, &Setup { top: &top, routes, ..PLAIN_SETUP });
        eventually("the pool is open", || site.gateway.json(&["volume", "list"])["group"]["state"] == "open");
        let mut client = site.connect_plainly();
        eventually("it comes from disk", || {
            let answer = client.get("/a").expect(200);
            assert!(answer.body == whole);
            is_hit(&answer)
        });
        assert!(
            client.get_with("/a", "Range: bytes=1000000-2999999\r\n").expect(206).body == whole[1_000_000..3_000_000]
        );
    });
}
