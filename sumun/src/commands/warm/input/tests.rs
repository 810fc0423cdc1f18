//! What goes in from outside, and what is said of it.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn nothing(url: &str) -> Result<Vec<u8>, String> {
    panic!("{url} is asked for")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const BOUNDS: Bounds = Bounds { urls: 1000, document: 100_000, left: 200_000 };

/// Reads from a file with these bytes.
fn file(bytes: &[u8], fetch: Fetch<'_>) -> Result<Vec<String>, String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("sumun-warm-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path: PathBuf = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let found = read_within(BOUNDS, &path.display().to_string(), fetch);
    std::fs::remove_file(&path).unwrap();
    found
}

fn sitemap(urls: &[&str]) -> Vec<u8> {
    let urls: String = urls.iter().map(|url| format!("<url><loc>{url}</loc></url>")).collect();
    format!("<urlset>{urls}</urlset>").into_bytes()
}

#[test]
fn a_list_has_one_url_a_line() {
    let text = "\u{feff}# the front page\nhttp://a.example/\r\n\n  https://b.example:8443/x?y=1#part  \n\
        http://a.example/\u{d55c}?q=\u{ae00}\nHTTP://[::1]:80/\n";
    let urls = [
        "http://a.example/",
        "https://b.example:8443/x?y=1",
        "http://a.example/%ED%95%9C?q=%EA%B8%80",
        "HTTP://[::1]:80/",
    ];
    assert_eq!(file(text.as_bytes(), &nothing).unwrap(), urls);
    assert_eq!(file(&gzip(text.as_bytes()), &nothing).unwrap(), urls);
}

#[test]
fn what_is_no_url_is_named_with_its_line() {
    let error = file(b"http://a/\n/path\nftp://a/\nhttp://u@a/\nhttp://a b/\nhttp://\n", &nothing).unwrap_err();
    for line in ["line 2: `/path` is no", "line 3: `ftp://a/`", "line 4: `http://u@a/`", "line 5", "line 6"] {
        assert!(error.contains(line), "{error}");
    }
    let many = file("nothing\n".repeat(1000).as_bytes(), &nothing).unwrap_err();
    assert!(many.ends_with("and 990 more") && many.len() < 2000, "{many}");
    let long = format!("http://a/{}", "x".repeat(WARM_URL_BYTES));
    assert!(file(long.as_bytes(), &nothing).unwrap_err().contains("more than 8 KiB"));
    for (bytes, why) in [
        (b"# nothing\n".as_slice(), "there is no URL"),
        (b"", "there is no URL"),
        (b"http://a/\xff\n", "not UTF-8"),
        (&[0x1f, 0x8b, 8, 0], "gzip"),
    ] {
        assert!(file(bytes, &nothing).unwrap_err().contains(why), "{why}");
    }
    assert!(read("/no/such/file", &nothing).unwrap_err().contains("/no/such/file: No such file"));
}

#[test]
fn what_is_too_much_stops_at_its_bound() {
    let bomb = gzip(&vec![b'#'; 1_000_000]);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    for bytes in [&bomb, &vec![b'#'; 100_001]] {
        assert!(file(bytes, &nothing).unwrap_err().contains("more than 100000 bytes"));
    }
    let text = "http://a/\n".repeat(BOUNDS.urls);
    assert_eq!(file(text.as_bytes(), &nothing).unwrap().len(), BOUNDS.urls);
    assert!(file(format!("{text}http://a/").as_bytes(), &nothing).unwrap_err().contains("more than 1000 URLs"));
    // One is small, and an index names it again and again.
    let index = format!("<sitemapindex>{}</sitemapindex>", "<sitemap><loc>http://a/</loc></sitemap>".repeat(100));
    let padded = |_: &str| Ok(format!("<urlset><!--{}--></urlset>", " ".repeat(50_000)).into_bytes());
    assert!(file(index.as_bytes(), &padded).unwrap_err().contains("http://a/: all sitemaps together"));
}

#[test]
fn an_index_is_followed_one_level() {
    let index = |places: &[&str]| {
        let places: String = places.iter().map(|place| format!("<sitemap><loc>{place}</loc></sitemap>")).collect();
        format!("<sitemapindex>{places}</sitemapindex>").into_bytes()
    };
    let far = HashMap::from([
        ("http://a/index", index(&["http://a/1.xml", "http://a/2.xml.gz"])),
        ("http://a/1.xml", sitemap(&["http://a/1"])),
        ("http://a/2.xml.gz", gzip(&sitemap(&["http://a/2?b&amp;c", "http://a/3"]))),
        ("http://a/page", b"<!doctype html><p>".to_vec()),
    ]);
    let fetch = |url: &str| far.get(url).cloned().ok_or_else(|| "status 404".to_owned());
    let urls = ["http://a/1", "http://a/2?b&c", "http://a/3"];
    assert_eq!(read_within(BOUNDS, "http://a/index", &fetch).unwrap(), urls);
    assert_eq!(file(&index(&["http://a/1.xml", "http://a/2.xml.gz"]), &fetch).unwrap(), urls);
    assert_eq!(read_within(BOUNDS, "http://a/1.xml", &fetch).unwrap(), ["http://a/1"]);
    for (places, why) in [
        (["http://a/index"], "http://a/index: an index within an index"),
        (["http://a/none"], "http://a/none: status 404"),
        (["http://a/page"], "http://a/page: it has a document type"),
        // A file of this machine is nothing that an index may name.
        (["/etc/passwd"], "is no http or https URL"),
    ] {
        let error = file(&index(&places), &fetch).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    assert!(file(&sitemap(&[]), &nothing).unwrap_err().contains("there is no URL"));
}
