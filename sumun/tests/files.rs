//! The web server: what is served, in which form, and what never is.

mod support;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use support::instance::{Instance, Place, eventually, everywhere};
use support::talk::Answer;

/// An instance that serves the directory `root`; `keys` are further keys of `files`.
fn start(place: Place, keys: &str, prepare: impl FnOnce(&Path)) -> Instance {
    let config = format!(
        "listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
         \x20 {{ path: /under/prefix/, files: {{ root: $DIR/root }} }},\n\
         \x20 {{ path: /, files: {{ {keys} root: $DIR/root }} }}] }} }}\n"
    );
    Instance::start_in(place, &config, |directory| {
        let root = directory.join("root");
        fs::create_dir(&root).expect("the root can be made");
        prepare(&root);
        // The worker process that takes uploads is another user than the one that made this.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).expect("its mode");
    })
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).expect("the directory can be made");
    }
    fs::write(path, content).expect("the file can be written");
}

/// Text that is worth compressing.
fn long_text() -> String {
    (0..2000).map(|number| format!("line {number} of a text that repeats itself\n")).collect()
}

fn get_with(gateway: &Instance, target: &str, fields: &str) -> Answer {
    gateway.connect().get_with(target, fields)
}

#[test]
fn files_and_index_files() {
    everywhere(|place| {
        let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let content = big.clone();
        let gateway = start(place, "index: [index.html, index.txt],", |root| {
            write(&root.join("index.html"), "<p>start");
            write(&root.join("a/index.txt"), "in a");
            write(&root.join("empty/x"), "");
            write(&root.join("a b&ü.txt"), "name");
            write(&root.join("big.bin"), &content);
        });
        let mut client = gateway.connect();
        let answer = client.get("/").expect(200);
        assert_eq!((answer.text().as_str(), answer.header("content-length")), ("<p>start", Some("8")));
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        assert!(answer.header("etag").is_some() && answer.header("last-modified").is_some());
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(client.get("/under/prefix/").expect(200).text(), "<p>start", "the prefix is taken off");
        assert_eq!(client.get("/a/").expect(200).text(), "in a");
        let answer = client.get("/a?q=1");
        assert!(matches!(answer.status, 301 | 302 | 307 | 308), "{}", answer.status);
        assert!(answer.header("location").is_some_and(|to| to.ends_with("/a/?q=1")), "{:?}", answer.header("location"));
        assert_eq!(client.get("/a%20b&%C3%BC.txt").expect(200).text(), "name");
        assert_eq!(client.get("/big.bin").expect(200).body, big, "larger than what is kept in memory");
        let head = client.request("HEAD", "/big.bin", "", b"").expect(200);
        assert_eq!(head.header("content-length"), Some("1200000"));
        assert!(matches!(client.get("/empty/").status, 403 | 404), "a listing is off by default");
        client.get("/nothing").expect(404);
        let refused = client.request("POST", "/", "", b"");
        assert_eq!(refused.status, 405);
        assert!(refused.header("allow").is_some_and(|allow| allow.contains("GET") && !allow.contains("PUT")));
    });
}

#[test]
fn ranges() {
    everywhere(|place| {
        let gateway = start(place, "", |root| {
            write(&root.join("digits"), "0123456789");
            write(&root.join("big"), vec![b'x'; 200_000]);
            write(&root.join("spread"), format!("01{}56", "-".repeat(9996)));
        });
        for (range, status, body, field) in [
            ("bytes=2-4", 206, "234", "bytes 2-4/10"),
            ("bytes=7-", 206, "789", "bytes 7-9/10"),
            ("bytes=-3", 206, "789", "bytes 7-9/10"),
            ("bytes=5-100", 206, "56789", "bytes 5-9/10"),
            ("bytes=10-", 416, "", "bytes */10"),
            ("bytes=4-2", 200, "0123456789", ""),
            ("lines=1-2", 200, "0123456789", ""),
        ] {
            let answer = get_with(&gateway, "/digits", &format!("Range: {range}\r\n"));
            assert_eq!(answer.status, status, "{range}");
            if status != 416 {
                assert_eq!(answer.text(), body, "{range}");
            }
            assert_eq!(answer.header("content-range").unwrap_or_default(), field, "{range}");
        }
        // Several that lie far from each other: each in a part of its own.
        let answer = get_with(&gateway, "/spread", "Range: bytes=0-1,-2\r\n").expect(206);
        let kind = answer.header("content-type").expect("a type").to_owned();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("a boundary").trim_matches('"');
        let text = answer.text();
        assert_eq!(text.matches(&format!("--{boundary}")).count(), 3, "{text}");
        for part in ["bytes 0-1/10000\r\n", "bytes 9998-9999/10000\r\n", "\r\n\r\n01\r\n", "\r\n\r\n56\r\n"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        let answer = get_with(&gateway, "/big", "Range: bytes=100000-199999\r\n").expect(206);
        assert_eq!(answer.body.len(), 100_000);
        // If-Range: the part if it is still the same file, else the whole.
        let tag = gateway.get("/digits").header("etag").expect("a tag").to_owned();
        get_with(&gateway, "/digits", &format!("Range: bytes=0-0\r\nIf-Range: {tag}\r\n")).expect(206);
        get_with(&gateway, "/digits", "Range: bytes=0-0\r\nIf-Range: \"other\"\r\n").expect(200);
    });
}

#[test]
fn conditions() {
    everywhere(|place| {
        let gateway = start(place, "", |root| write(&root.join("f"), "content"));
        let first = gateway.get("/f");
        let tag = first.header("etag").expect("a tag").to_owned();
        let date = first.header("last-modified").expect("a date").to_owned();
        let old = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (fields, status) in [
            (format!("If-None-Match: {tag}\r\n"), 304),
            (format!("If-None-Match: \"a\", {tag}\r\n"), 304),
            (format!("If-None-Match: W/{}\r\n", tag.trim_start_matches("W/")), 304),
            ("If-None-Match: *\r\n".to_owned(), 304),
            ("If-None-Match: \"a\"\r\n".to_owned(), 200),
            (format!("If-Modified-Since: {date}\r\n"), 304),
            (format!("If-Modified-Since: {old}\r\n"), 200),
            ("If-Modified-Since: nonsense\r\n".to_owned(), 200),
            (format!("If-None-Match: \"a\"\r\nIf-Modified-Since: {date}\r\n"), 200),
            ("If-Match: \"a\"\r\n".to_owned(), 412),
            (format!("If-Unmodified-Since: {old}\r\n"), 412),
            (format!("If-Unmodified-Since: {date}\r\n"), 200),
        ] {
            let answer = get_with(&gateway, "/f", &fields);
            assert_eq!(answer.status, status, "{fields}");
            if status == 304 {
                assert_eq!(answer.body, b"");
                assert_eq!(answer.header("etag"), Some(tag.as_str()), "{fields}");
            }
        }
        // Another content is another tag.
        write(&gateway.directory().join("root/f"), "changed content");
        // Each worker finds out by itself.
        eventually("the new content is served", || {
            let answer = gateway.get("/f");
            answer.text() == "changed content" && answer.header("etag") != Some(tag.as_str())
        });
    });
}

fn decoded(answer: &Answer) -> String {
    let mut text = String::new();
    let body = answer.body.as_slice();
    match answer.header("content-encoding") {
        None => text = answer.text(),
        Some("gzip") => {
            flate2::read::GzDecoder::new(body).read_to_string(&mut text).expect("gzip");
        }
        Some("br") => {
            brotli::Decompressor::new(body, 4096).read_to_string(&mut text).expect("br");
        }
        Some("zstd") => {
            zstd::Decoder::new(body).and_then(|mut decoder| decoder.read_to_string(&mut text)).expect("zstd");
        }
        Some(other) => panic!("coded as {other}"),
    }
    text
}

#[test]
fn compression() {
    everywhere(|place| {
        let gateway = start(place, "", |root| {
            write(&root.join("long.txt"), long_text());
            write(&root.join("short.txt"), "too short");
            write(&root.join("image.png"), long_text());
        });
        for coding in ["gzip", "br", "zstd"] {
            let answer = get_with(&gateway, "/long.txt", &format!("Accept-Encoding: {coding}\r\n")).expect(200);
            assert_eq!(answer.header("content-encoding"), Some(coding));
            assert!(answer.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("accept-encoding")));
            assert!(answer.body.len() < long_text().len() / 4);
            assert_eq!(decoded(&answer), long_text());
        }
        for (target, fields) in [
            ("/long.txt", ""),
            ("/long.txt", "Accept-Encoding: gzip;q=0, identity\r\n"),
            ("/long.txt", "Accept-Encoding: compress\r\n"),
            ("/short.txt", "Accept-Encoding: gzip\r\n"),
            ("/image.png", "Accept-Encoding: gzip\r\n"),
        ] {
            assert_eq!(get_with(&gateway, target, fields).header("content-encoding"), None, "{target} {fields}");
        }
        let off = start(place, "compress: off,", |root| write(&root.join("long.txt"), long_text()));
        assert_eq!(get_with(&off, "/long.txt", "Accept-Encoding: gzip\r\n").header("content-encoding"), None);
    });
}

#[test]
fn precompressed_files() {
    everywhere(|place| {
        let prepare = |root: &Path| {
            write(&root.join("a.js"), "plain");
            for coding in ["br", "zst", "gz"] {
                write(&root.join(format!("a.js.{coding}")), coding);
            }
        };
        let gateway = start(place, "", prepare);
        for (accept, coding, body) in [("br", "br", "br"), ("zstd", "zstd", "zst"), ("gzip", "gzip", "gz")] {
            let answer = get_with(&gateway, "/a.js", &format!("Accept-Encoding: {accept}\r\n")).expect(200);
            assert_eq!((answer.header("content-encoding"), answer.text().as_str()), (Some(coding), body));
            assert!(answer.header("content-type").is_some_and(|kind| kind.contains("javascript")));
        }
        assert_eq!(gateway.get("/a.js").text(), "plain");
        let off = start(place, "precompressed: off,", prepare);
        assert_eq!(get_with(&off, "/a.js", "Accept-Encoding: br\r\n").text(), "plain");
    });
}

#[test]
fn listing() {
    everywhere(|place| {
        let gateway = start(place, "list: on,", |root| {
            write(&root.join("dir/file <&>.txt"), "12345");
            write(&root.join("dir/sub/x"), "");
            write(&root.join("dir/.hidden"), "");
            fs::set_permissions(root.join("dir/file <&>.txt"), fs::Permissions::from_mode(0o640)).expect("ours");
        });
        let page = gateway.get("/dir/").expect(200);
        assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        let text = page.text();
        for part in ["-rw-r-----", "drwx", "file &lt;&amp;&gt;.txt", "sub/", ">5<"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("hidden") && !text.contains("<&>"), "{text}");
    });
}

#[test]
fn types_cache_control_and_fallback() {
    everywhere(|place| {
        let keys = "fallback: app.html, cache_control: { \"*.css\": max-age=3600, \"*\": no-cache }, \
                    types: { xyz: application/x-own },";
        let gateway = start(place, keys, |root| {
            write(&root.join("app.html"), "the app");
            write(&root.join("a.css"), "body {}");
            write(&root.join("b.xyz"), "own");
            write(&root.join("c.wasm"), "wasm");
            write(&root.join("d.unknown-kind"), "?");
        });
        for (target, kind, cache) in [
            ("/a.css", "text/css", "max-age=3600"),
            ("/b.xyz", "application/x-own", "no-cache"),
            ("/c.wasm", "application/wasm", "no-cache"),
            ("/d.unknown-kind", "application/octet-stream", "no-cache"),
            ("/some/page", "text/html", "no-cache"),
        ] {
            let answer = gateway.get(target).expect(200);
            assert!(answer.header("content-type").is_some_and(|found| found.starts_with(kind)), "{target}");
            assert_eq!(answer.header("cache-control"), Some(cache), "{target}");
        }
        assert_eq!(gateway.get("/some/page").text(), "the app");
        gateway.get("/.secret").expect(404);
    });
}

/// What must not be reached is 403 or 404, never its content, on whatever way it is asked for.
#[test]
fn nothing_outside_and_nothing_hidden() {
    everywhere(|place| {
        let gateway = start(place, "list: on, write: on,", |root| {
            write(&root.join("open.txt"), "open");
            write(&root.join("dir/x"), "open");
            write(&root.join(".env"), "SECRET");
            write(&root.join(".git/config"), "SECRET");
            write(&root.join("dir/.htpasswd"), "SECRET");
            let outside = root.parent().expect("it has one").join("outside");
            write(&outside.join("file"), "SECRET");
            symlink(outside.join("file"), root.join("link-to-file")).expect("a link");
            symlink(&outside, root.join("link-to-dir")).expect("a link");
            symlink("../outside", root.join("relative-link")).expect("a link");
            symlink("open.txt", root.join("link-inside")).expect("a link");
        });
        assert_eq!(gateway.get("/link-inside").expect(200).text(), "open");
        for target in [
            "/.env",
            "/.git/config",
            "/dir/.htpasswd",
            "/%2eenv",
            "/%2Egit/config",
            "/dir/%2ehtpasswd",
            "/link-to-file",
            "/link-to-dir/file",
            "/relative-link/file",
            "/../outside/file",
            "/dir/../../outside/file",
            "/%2e%2e/outside/file",
            "/..%2foutside%2ffile",
            "/dir/..%2f..%2foutside/file",
            "/%2e%2e%2foutside%2ffile",
            "/..%5coutside%5cfile",
            "/open.txt%00",
            "/open.txt%00.png",
            "/dir%2fx",
            "/dir/%2e%2e/%2e%2e/outside/file",
            "/....//outside/file",
            "/..;/outside/file",
            "//etc/passwd",
            "/%2fetc%2fpasswd",
            "/open.txt/",
            "/open.txt/x",
            "/%c0%ae%c0%ae/outside/file",
            "/%252e%252e/outside/file",
            "/under/prefix/../../../outside/file",
            "/under/prefix/%2e%2e/%2e%2e/%2e%2e/outside/file",
            "/under/prefix/.env",
            "/dir/./.htpasswd",
            "/~root",
        ] {
            for method in ["GET", "HEAD", "PUT", "DELETE"] {
                if matches!(method, "PUT" | "DELETE") && !target.contains("outside") {
                    continue;
                }
                let body: &[u8] = if method == "PUT" { b"overwritten" } else { b"" };
                let answer = gateway.connect().request(method, target, "", body);
                assert!(
                    (400..500).contains(&answer.status) || answer.status == 201,
                    "{method} {target}: {}",
                    answer.status
                );
                assert!(!answer.text().contains("SECRET") && !answer.text().contains("root:x"), "{method} {target}");
            }
        }
        let outside = gateway.directory().join("outside");
        assert_eq!(fs::read(outside.join("file")).expect("it is there"), b"SECRET");
        assert_eq!(fs::read_dir(outside).expect("it is there").count(), 1);
    });
}

#[test]
fn put_and_delete() {
    everywhere(|place| {
        let gateway = start(place, "write: on,", |root| write(&root.join("there"), "old"));
        let root = gateway.directory().join("root");
        let mut client = gateway.connect();
        client.request("PUT", "/new.txt", "", b"content").expect(201);
        assert_eq!(fs::read(root.join("new.txt")).expect("written"), b"content");
        let answer = client.request("PUT", "/there", "", b"new");
        assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
        assert_eq!(client.get("/there").expect(200).text(), "new", "at once");
        for condition in ["If-None-Match: *", "If-Match: \"other\""] {
            gateway.connect().request("PUT", "/there", &format!("{condition}\r\n"), b"x").expect(412);
        }
        // In chunks, with a wish for 100.
        let head = "PUT /chunks HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(client.send(head).head().0, 100);
        client.send("3\r\nabc\r\n0\r\n\r\n").answer().expect(201);
        assert_eq!(fs::read(root.join("chunks")).expect("written"), b"abc");
        // A body that breaks off leaves what was there, and nothing beside it.
        let mut broken = gateway.connect();
        broken.send("PUT /there HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart");
        broken.reset();
        client.request("DELETE", "/new.txt", "", b"").expect(204);
        client.request("DELETE", "/new.txt", "", b"").expect(404);
        client.get("/new.txt").expect(404);
        eventually("no piece of an upload is left", || fs::read_dir(&root).is_ok_and(|entries| entries.count() == 2));
        assert_eq!(fs::read(root.join("there")).expect("it is there"), b"new");

        let closed = start(place, "", |root| write(&root.join("there"), "old"));
        for method in ["PUT", "DELETE"] {
            closed.connect().request(method, "/there", "", b"").expect(405);
        }
        assert_eq!(closed.get("/there").text(), "old");
    });
}
