//! Content codings: files beside the file, and compression on the fly.

use std::fs::File;
use std::time::{Duration, SystemTime};

use sumun_http::Method;
use sumun_http::negotiate::Coding;

use super::super::compress::{compress, decompress};
use super::super::limits::{COMPRESS_CACHED_BYTES_MAX, COMPRESSED_STREAMS_MAX};
use super::super::{FileBody, FileFields};
use super::{Ground, Known, on_worker};

const BROWSER: (&str, &str) = ("Accept-Encoding", "gzip, deflate, br, zstd");

fn text() -> Vec<u8> {
    "All work and no play makes a dull gateway.\n".repeat(200).into_bytes()
}

#[test]
fn compressed_files_beside_the_file_are_taken() {
    on_worker(async {
        let ground = Ground::new(|files| files.compress = false);
        ground.file("app.js", text());
        for (name, coding) in [("app.js.br", Coding::Br), ("app.js.gz", Coding::Gzip)] {
            ground.file(name, compress(coding, &text()).unwrap());
        }
        let mut tags = Vec::new();
        for (accept, coding) in [
            ("br, gzip, zstd", Some(Coding::Br)),
            ("gzip", Some(Coding::Gzip)),
            ("zstd, gzip;q=0.1", Some(Coding::Gzip)),
            ("gzip;q=0.9, br;q=0.5", Some(Coding::Gzip)),
            ("zstd", None),
            ("br;q=0", None),
            ("identity, br;q=0.5", None),
            ("", None),
            // Nothing is left; by the RFC identity is better than no answer.
            ("identity;q=0", None),
        ] {
            let seen = ground.get("/app.js", &[("Accept-Encoding", accept)]).await;
            assert_eq!(seen.status, 200);
            assert_eq!(seen.field("Content-Encoding"), coding.map(Coding::name), "{accept}");
            assert_eq!(seen.field("Content-Type"), Some("text/javascript; charset=utf-8"));
            assert_eq!(seen.field("Vary"), Some("Accept-Encoding"));
            assert_eq!(decompress(coding.unwrap_or(Coding::Identity), &seen.body), text());
            let tag = seen.field("ETag").unwrap().to_owned();
            assert!(tag.starts_with('"'), "a file is the same byte for byte");
            tags.push((coding, tag));
        }
        for (one, one_tag) in &tags {
            for (other, other_tag) in &tags {
                assert_eq!(one == other, one_tag == other_tag, "each coding has its own tag");
            }
        }
        let seen = ground.get("/app.js", &[("Accept-Encoding", "br"), ("Range", "bytes=0-9")]).await;
        assert_eq!((seen.status, seen.field("Content-Encoding")), (206, Some("br")));
        assert_eq!(seen.body, compress(Coding::Br, &text()).unwrap()[..10]);
    });
}

#[test]
fn a_compressed_file_that_is_older_or_no_file_does_not_count() {
    on_worker(async {
        let ground = Ground::new(|files| files.compress = false);
        ground.file("a.css", text());
        let stale = ground.file("a.css.br", "of yesterday");
        File::options()
            .write(true)
            .open(stale)
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(100))
            .unwrap();
        std::fs::create_dir(ground.path("a.css.gz")).unwrap();
        ground.link("a.css.zst", ground.directory.join("outside/secret.txt"));
        let seen = ground.get("/a.css", &[BROWSER]).await;
        assert_eq!((seen.field("Content-Encoding"), &*seen.body), (None, &*text()));
        assert_eq!(seen.field("Vary"), None);
    });
}

#[test]
fn a_compressed_file_that_comes_or_goes_is_noticed() {
    on_worker(async {
        let ground = Ground::new(|files| files.compress = false);
        ground.file("a.css", text());
        assert_eq!(ground.get("/a.css", &[BROWSER]).await.field("Vary"), None);
        ground.file("a.css.gz", compress(Coding::Gzip, &text()).unwrap());
        ground.now.set(ground.now.get() + 10);
        let seen = ground.get("/a.css", &[BROWSER]).await;
        assert_eq!(seen.field("Content-Encoding"), Some("gzip"));
        let plain = ground.get("/a.css", &[]).await;
        assert_eq!(plain.field("Vary"), Some("Accept-Encoding"));
        std::fs::remove_file(ground.path("a.css.gz")).unwrap();
        ground.now.set(ground.now.get() + 10);
        let seen = ground.get("/a.css", &[BROWSER]).await;
        assert_eq!((seen.field("Content-Encoding"), seen.field("Vary")), (None, None));
    });
}

#[test]
fn text_is_compressed_once_and_then_comes_from_the_cache() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("a.html", text());
        for coding in [Coding::Br, Coding::Zstd, Coding::Gzip] {
            let accept = [("Accept-Encoding", coding.name())];
            let seen = ground.get("/a.html", &accept).await;
            assert_eq!((seen.status, seen.kind), (200, "memory"));
            assert_eq!(seen.field("Content-Encoding"), Some(coding.name()));
            assert_eq!(seen.field("Vary"), Some("Accept-Encoding"));
            assert_eq!(seen.field("Accept-Ranges"), None);
            assert!(seen.body.len() < text().len() / 10);
            assert_eq!(decompress(coding, &seen.body), text());
            let tag = seen.field("ETag").unwrap();
            assert!(tag.starts_with("W/\""));
            assert_eq!(ground.known("/a.html", &accept).await.unwrap().head, seen.head);
            let head = ground.ask(Method::Head, "/a.html", &accept).await;
            assert_eq!(head.head, seen.head);
            let asked = ground.get("/a.html", &[accept[0], ("If-None-Match", tag)]).await;
            assert_eq!((asked.status, asked.field("Vary")), (304, Some("Accept-Encoding")));
        }
        // All codings stay known when the file is looked at again.
        ground.now.set(ground.now.get() + 10);
        ground.get("/a.html", &[]).await;
        for coding in Coding::ALL {
            assert!(ground.known("/a.html", &[("Accept-Encoding", coding.name())]).await.is_some());
        }
        let seen = ground.get("/a.html", &[BROWSER, ("Range", "bytes=0-3")]).await;
        assert_eq!((seen.status, seen.field("Content-Encoding")), (206, None));
        assert_eq!(seen.body, b"All ");
    });
}

#[test]
fn what_would_not_get_smaller_is_sent_as_it_is() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(2_000).collect();
        ground.file("noise.txt", &noise);
        ground.file("tiny.txt", "tiny");
        ground.file("a.png", text());
        for path in ["/noise.txt", "/tiny.txt", "/a.png"] {
            let seen = ground.get(path, &[BROWSER]).await;
            assert_eq!((seen.status, seen.field("Content-Encoding")), (200, None), "{path}");
            assert!(ground.known(path, &[BROWSER]).await.is_some());
        }
    });
}

#[test]
fn large_text_is_compressed_as_it_is_sent_as_long_as_there_are_places() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        let large = text().repeat(COMPRESS_CACHED_BYTES_MAX as usize / text().len() + 1);
        ground.file("a.log", &large);
        for coding in [Coding::Br, Coding::Zstd, Coding::Gzip] {
            let accept = [("Accept-Encoding", coding.name())];
            let seen = ground.get("/a.log", &accept).await;
            assert_eq!((seen.status, seen.kind), (200, "stream"));
            assert!(decompress(coding, &seen.body) == large, "{coding:?}");
            let tag = seen.field("ETag").unwrap();
            let asked = ground.get("/a.log", &[accept[0], ("If-None-Match", tag)]).await;
            assert_eq!(asked.status, 304);
            let head = ground.ask(Method::Head, "/a.log", &accept).await;
            assert_eq!((head.status, head.field("Content-Length")), (200, None));
        }
        let mut streams = Vec::new();
        for _ in 0..COMPRESSED_STREAMS_MAX {
            let request = super::FilesRequest {
                fields: FileFields::collect([(Known::AcceptEncoding, &b""[..], &b"br"[..])]),
                ..ground.request(Method::Get, "/a.log", "/pub/a.log", &[])
            };
            let answer = ground.cache.lookup(&ground.root, &request).unwrap();
            assert!(matches!(answer.body, FileBody::Stream(_)));
            streams.push(answer);
        }
        let seen = ground.get("/a.log", &[BROWSER]).await;
        assert_eq!((seen.kind, seen.field("Content-Encoding")), ("file", None));
        assert_eq!(seen.field("Vary"), Some("Accept-Encoding"));
        streams.pop();
        assert_eq!(ground.get("/a.log", &[BROWSER]).await.kind, "stream");
    });
}
