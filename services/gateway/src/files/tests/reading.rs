//! Files, ranges, conditions, directories, and how long the cache knows them.

use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use sumun_config::checked::Glob;
use sumun_http::Method;

use super::super::limits::{CACHE_BYTES_MAX, CACHE_OPEN_FILES_MAX, CACHE_UNUSED_SECONDS, MEMORY_FILE_BYTES_MAX};
use super::{Ground, Seen, on_worker};

#[test]
fn a_small_file_comes_from_memory_and_then_from_the_cache() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        let path = ground.file("hello.txt", "hello");
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(UNIX_EPOCH + Duration::from_secs(784_111_777))
            .unwrap();
        assert!(ground.known("/hello.txt", &[]).await.is_none());
        let seen = ground.get("/hello.txt", &[]).await;
        assert_eq!((seen.status, seen.kind, &*seen.body), (200, "memory", &b"hello"[..]));
        assert_eq!(seen.field("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(seen.field("Last-Modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(seen.field("Accept-Ranges"), Some("bytes"));
        assert_eq!(seen.field("Vary"), None, "too small to be compressed");
        assert!(seen.field("ETag").unwrap().starts_with('"'));
        let again = ground.known("/hello.txt", &[]).await.unwrap();
        assert_eq!((again.head, again.body), (seen.head.clone(), seen.body));
        let head = ground.ask(Method::Head, "/hello.txt", &[]).await;
        assert_eq!((head.status, head.kind, head.head), (200, "empty", seen.head));
    });
}

#[test]
fn a_large_file_comes_from_its_descriptor() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        let content = vec![7; MEMORY_FILE_BYTES_MAX as usize + 1];
        ground.file("a/large.bin", &content);
        let seen = ground.get("/a/large.bin", &[]).await;
        assert_eq!((seen.status, seen.kind), (200, "file"));
        assert_eq!(seen.body, content);
        assert_eq!(seen.field("Content-Type"), Some("application/octet-stream"));
        ground.file("empty", "");
        let seen = ground.get("/empty", &[]).await;
        assert_eq!((seen.status, seen.field("Content-Length")), (200, Some("0")));
    });
}

#[test]
fn ranges() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        ground.file("large.bin", &content);
        ground.file("small.bin", &content[..1_000]);
        for (path, length) in [("/large.bin", 100_000), ("/small.bin", 1_000)] {
            let seen = ground.get(path, &[("Range", "bytes=10-19")]).await;
            assert_eq!((seen.status, &*seen.body), (206, &content[10..20]));
            assert_eq!(seen.field("Content-Range"), Some(&*format!("bytes 10-19/{length}")));
            assert!(seen.field("ETag").is_some());

            let seen = ground.get(path, &[("Range", "bytes=0-1,500-501")]).await;
            assert_eq!((seen.status, seen.kind), (206, "parts"));
            let boundary = seen.field("Content-Type").unwrap().split_once("boundary=").unwrap().1;
            let mut expected = Vec::new();
            for first in [0, 500] {
                let frame = format!(
                    "--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                     Content-Range: bytes {first}-{}/{length}\r\n\r\n",
                    first + 1
                );
                expected.extend_from_slice(frame.as_bytes());
                expected.extend_from_slice(&content[first..first + 2]);
                expected.extend_from_slice(b"\r\n");
            }
            expected.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
            assert_eq!(seen.body, expected);

            let seen = ground.get(path, &[("Range", "bytes=100000-")]).await;
            assert_eq!(seen.status, 416);
            assert_eq!(seen.field("Content-Range"), Some(&*format!("bytes */{length}")));
            for ignored in ["bytes=9-1", "lines=1-2", "bytes=1-2,x"] {
                let seen = ground.get(path, &[("Range", ignored)]).await;
                assert_eq!((seen.status, seen.body.len()), (200, length), "{ignored}");
            }
            let twice = [("Range", "bytes=0-1"), ("Range", "bytes=2-3")];
            assert_eq!(ground.get(path, &twice).await.status, 200);
            let seen = ground.ask(Method::Head, path, &[("Range", "bytes=0-1")]).await;
            assert_eq!((seen.status, seen.field("Content-Range")), (200, None));
        }
    });
}

#[test]
fn if_range() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("a.bin", vec![1; 500]);
        let seen = ground.get("/a.bin", &[]).await;
        let etag = seen.field("ETag").unwrap();
        let date = seen.field("Last-Modified").unwrap();
        let weak = format!("W/{etag}");
        for (value, status) in
            [(etag, 206), (date, 206), ("\"other\"", 200), (&*weak, 200), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)]
        {
            let fields = [("Range", "bytes=0-9"), ("If-Range", value)];
            assert_eq!(ground.get("/a.bin", &fields).await.status, status, "{value}");
        }
    });
}

#[test]
fn conditions() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("a.bin", vec![1; 500]);
        let seen = ground.get("/a.bin", &[]).await;
        let etag = seen.field("ETag").unwrap();
        let date = seen.field("Last-Modified").unwrap();
        let listed = format!("\"x\", W/{etag}");
        for (name, value, status) in [
            ("If-None-Match", etag, 304),
            ("If-None-Match", &*listed, 304),
            ("If-None-Match", "*", 304),
            ("If-None-Match", "\"x\"", 200),
            ("If-Modified-Since", date, 304),
            ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT", 200),
            ("If-Modified-Since", "yesterday", 200),
            ("If-Match", etag, 200),
            ("If-Match", "\"x\"", 412),
            ("If-Unmodified-Since", date, 200),
            ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:37 GMT", 412),
        ] {
            for method in [Method::Get, Method::Head] {
                let seen = ground.ask(method, "/a.bin", &[(name, value)]).await;
                assert_eq!(seen.status, status, "{name}: {value}");
                if status == 304 {
                    assert_eq!(seen.field("ETag"), Some(etag));
                    assert_eq!(seen.field("Content-Type"), None);
                    assert_eq!(seen.kind, "empty");
                }
            }
        }
        let lines = [("If-None-Match", "\"x\""), ("If-None-Match", etag)];
        assert_eq!(ground.get("/a.bin", &lines).await.status, 304, "a list on two lines");
        let fields = [("If-None-Match", etag), ("Range", "bytes=0-1")];
        assert_eq!(ground.get("/a.bin", &fields).await.status, 304, "conditions before ranges");
    });
}

#[test]
fn directories() {
    on_worker(async {
        let ground = Ground::new(|files| {
            files.index = vec!["index.html".to_owned(), "default.htm".to_owned()];
        });
        ground.file("index.html", "root");
        ground.file("sub/default.htm", "sub");
        ground.file("bare/x.txt", "x");
        for path in ["/", ""] {
            let url_path = format!("/pub{path}");
            let request = ground.request(Method::Get, path, &url_path, &[]);
            let seen = Seen::read(ground.cache.answer(&ground.root, &request).await).await;
            match path {
                "/" => assert_eq!(seen.body, b"root"),
                _ => assert_eq!((seen.status, seen.field("Location")), (301, Some("/pub/"))),
            }
        }
        let seen = ground.get("/sub/", &[]).await;
        assert_eq!((seen.status, &*seen.body), (200, &b"sub"[..]));
        assert_eq!(seen.field("Content-Type"), Some("text/html; charset=utf-8"));
        assert!(ground.known("/sub/", &[]).await.is_some());
        let seen = ground.get("/sub", &[]).await;
        assert_eq!((seen.status, seen.field("Location")), (301, Some("/pub/sub/")));
        assert_eq!(ground.get("/bare/", &[]).await.status, 404);
        assert_eq!(ground.get("/bare/x.txt/", &[]).await.status, 404);
        assert_eq!(ground.get("/nothing", &[]).await.status, 404);
    });
}

#[test]
fn a_redirect_stays_on_this_host_and_keeps_the_query() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("host.example/x", "x");
        let mut request = ground.request(Method::Get, "host.example", "//host.example", &[]);
        request.query = Some("a=b");
        let seen = Seen::read(ground.cache.answer(&ground.root, &request).await).await;
        assert_eq!((seen.status, seen.field("Location")), (301, Some("/host.example/?a=b")));
    });
}

#[test]
fn the_fallback_answers_for_what_is_not_there() {
    on_worker(async {
        let ground = Ground::new(|files| files.fallback = Some("app/shell.html".to_owned()));
        ground.file("app/shell.html", "shell");
        ground.file("real.txt", "real");
        for path in ["/users/42", "/app/", "/missing.js"] {
            let seen = ground.get(path, &[]).await;
            assert_eq!((seen.status, &*seen.body), (200, &b"shell"[..]), "{path}");
        }
        assert_eq!(ground.get("/real.txt", &[]).await.body, b"real");
        assert_eq!(ground.cache.size().0, 2, "one entry answers for all that is missing");
        for path in ["/.env", "/a%2fb", "/../x"] {
            assert_eq!(ground.get(path, &[]).await.status, 404, "{path}");
        }
        std::fs::remove_file(ground.path("app/shell.html")).unwrap();
        ground.now.set(ground.now.get() + 10);
        assert_eq!(ground.get("/users/42", &[]).await.status, 404);
    });
}

#[test]
fn headers_by_name() {
    on_worker(async {
        let ground = Ground::new(|files| {
            files.cache_control = vec![
                (Glob("*.css".to_owned()), "max-age=60".to_owned()),
                (Glob("*".to_owned()), "no-cache".to_owned()),
            ];
            files.types.insert("css".to_owned(), "text/x-own".to_owned());
        });
        ground.file("deep/a.CSS", "x");
        ground.file("deep/b.css", "x");
        let seen = ground.get("/deep/b.css", &[]).await;
        assert_eq!(seen.field("Cache-Control"), Some("max-age=60"));
        assert_eq!(seen.field("Content-Type"), Some("text/x-own"));
        let etag = seen.field("ETag").unwrap();
        let seen = ground.get("/deep/b.css", &[("If-None-Match", etag)]).await;
        assert_eq!((seen.status, seen.field("Cache-Control")), (304, Some("max-age=60")));
        let seen = ground.get("/deep/a.CSS", &[]).await;
        assert_eq!(seen.field("Cache-Control"), Some("no-cache"), "names have a case");
        assert_eq!(seen.field("Content-Type"), Some("text/x-own"), "extensions have none");
    });
}

#[test]
fn listings() {
    on_worker(async {
        let ground = Ground::new(|files| files.list = true);
        ground.file("d/<b>&\"'.txt", "12345");
        ground.file("d/javascript:x", "");
        ground.file("d/zzz/x", "");
        ground.file("d/.hidden", "");
        ground.link("d/inside", "zzz");
        ground.link("d/leaves", ground.directory.join("outside/secret.txt"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            ground.path("d/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let seen = ground.get("/d/", &[]).await;
        assert_eq!((seen.status, seen.kind), (200, "memory"));
        assert_eq!(seen.field("Content-Type"), Some("text/html; charset=utf-8"));
        let page = String::from_utf8(seen.body).unwrap();
        assert!(page.contains("&lt;b&gt;&amp;&quot;&#39;.txt</a>"), "{page}");
        assert!(page.contains("href=\"./%3Cb%3E%26%22%27.txt\""), "{page}");
        assert!(page.contains("href=\"./javascript%3Ax\""), "{page}");
        assert!(page.contains("-rw-") && page.contains("drwx") && page.contains("<td>5<td>"), "{page}");
        assert!(page.contains("lrwxrwxrwx") && page.contains("inside/</a>"), "{page}");
        assert!(page.find("zzz/</a>") < page.find("javascript"), "directories first: {page}");
        for hidden in ["hidden", "leaves", "pipe", "<b>"] {
            assert!(!page.contains(hidden), "{hidden}: {page}");
        }
        assert!(page.contains("<title>/pub/d/</title>") && page.contains("href=\"../\""), "{page}");
        let page = String::from_utf8(ground.get("/", &[]).await.body).unwrap();
        assert!(!page.contains("href=\"../\""), "nothing is above the root");
        ground.file("index.html", "index");
        assert_eq!(ground.get("/", &[]).await.body, b"index");
        assert_eq!(ground.ask(Method::Head, "/d/", &[]).await.kind, "empty");
    });
}

#[test]
fn a_change_is_seen_after_a_second_and_while_it_is_looked_for_the_old_one_serves() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("a.txt", "old");
        let start = ground.now.get();
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"old");
        ground.file("a.txt", "new one");
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"old", "within the second");
        ground.now.set(start + 1);
        assert_eq!(ground.known("/a.txt", &[]).await.unwrap().body, b"old", "while looking");
        while ground.known("/a.txt", &[]).await.unwrap().body == b"old" {
            tokio::task::yield_now().await;
        }
        assert_eq!(ground.known("/a.txt", &[]).await.unwrap().body, b"new one");
        ground.now.set(start + 3);
        assert!(ground.known("/a.txt", &[]).await.is_none(), "too old to be given");
        std::fs::remove_file(ground.path("a.txt")).unwrap();
        assert_eq!(ground.get("/a.txt", &[]).await.status, 404);
        assert_eq!(ground.cache.size(), (0, 0, 0));
        ground.file("a.txt", "back");
        assert_eq!(ground.get("/a.txt", &[]).await.body, b"back");
        ground.now.set(start);
        assert!(ground.known("/a.txt", &[]).await.is_none(), "the clock was set back");
    });
}

#[test]
fn the_cache_keeps_its_bounds() {
    on_worker(async {
        let ground = Ground::new(|_| {});
        ground.file("large.bin", vec![0; MEMORY_FILE_BYTES_MAX as usize + 1]);
        ground.file("small.bin", vec![0; MEMORY_FILE_BYTES_MAX as usize]);
        for number in 0..CACHE_OPEN_FILES_MAX + 5 {
            std::fs::hard_link(ground.path("large.bin"), ground.path(&format!("l{number}"))).unwrap();
            assert_eq!(ground.get(&format!("/l{number}"), &[]).await.status, 200);
            // One that is asked for again and again stays.
            assert!(number == 0 || ground.known("/l0", &[]).await.is_some());
        }
        assert_eq!(ground.cache.size().2, CACHE_OPEN_FILES_MAX);
        for number in 0..CACHE_BYTES_MAX / MEMORY_FILE_BYTES_MAX as usize + 5 {
            std::fs::hard_link(ground.path("small.bin"), ground.path(&format!("s{number}"))).unwrap();
            assert_eq!(ground.get(&format!("/s{number}"), &[]).await.status, 200);
        }
        let (entries, bytes, _) = ground.cache.size();
        assert!(bytes <= CACHE_BYTES_MAX && bytes > CACHE_BYTES_MAX / 2, "{entries} {bytes}");
        ground.cache.expire(ground.now.get() + CACHE_UNUSED_SECONDS);
        assert_eq!(ground.cache.size().0, entries);
        ground.cache.expire(ground.now.get() + CACHE_UNUSED_SECONDS + 1);
        assert_eq!(ground.cache.size(), (0, 0, 0));
    });
}

#[test]
fn many_who_ask_at_once_are_all_answered() {
    on_worker(async {
        let ground = std::rc::Rc::new(Ground::new(|_| {}));
        ground.file("page.html", "text ".repeat(1_000));
        let mut asking = Vec::new();
        for number in 0..200 {
            let ground = std::rc::Rc::clone(&ground);
            let coding = ["gzip", "br", "zstd", "identity"][number % 4];
            asking.push(tokio::task::spawn_local(async move {
                ground.get("/page.html", &[("Accept-Encoding", coding)]).await
            }));
        }
        // The one who came first goes away; the others must not wait for nothing.
        asking[0].abort();
        for asking in asking.drain(1..) {
            assert_eq!(asking.await.unwrap().status, 200);
        }
        assert_eq!(ground.cache.size().0, 1);
    });
}
