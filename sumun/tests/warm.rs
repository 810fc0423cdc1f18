//! `sumun cache warm` in front of a gateway that caches.

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use support::Scratch;
use support::instance::{Instance, Place, everywhere};
use support::server::Server;
use support::site::{PLAIN_SETUP, Setup, Site};

const FIELDS: &str = "Cache-Control: max-age=600\r\nVary: Accept-Encoding\r\n";

/// What the paths are named after; `/sitemap.xml` names the pages, and `/index.xml` that one.
fn site(place: Place) -> Server {
    Server::answering(place.ip, |request| {
        let (status, fields, body) = match request.target.as_str() {
            "/own" => ("200 OK", "Cache-Control: max-age=600\r\nSet-Cookie: a=b\r\n", "own".to_owned()),
            "/moved" => ("301 Moved Permanently", "Cache-Control: max-age=600\r\nLocation: /\r\n", String::new()),
            "/broken" => ("500 Internal Server Error", "", String::new()),
            "/index.xml" => (
                "200 OK",
                FIELDS,
                "<sitemapindex><sitemap><loc>http://www.example.com/sitemap.xml</loc></sitemap></sitemapindex>"
                    .to_owned(),
            ),
            "/sitemap.xml" => {
                let page = |number| format!("<url><loc>http://www.example.com/{number}?a&amp;b</loc></url>");
                ("200 OK", FIELDS, format!("<urlset>{}</urlset>", (1..=3).map(page).collect::<String>()))
            }
            _ => ("200 OK", FIELDS, "page".repeat(10_000)),
        };
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

fn warm(to: SocketAddr, input: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sumun"));
    command.args(["cache", "warm"]).args(arguments).args(["--rate", "1000", "--to", &to.to_string()]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().expect("the program starts");
    // Who refuses its arguments has gone before it reads.
    match child.stdin.take().expect("it is piped").write_all(input.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.expect("it reads"),
    }
    child.wait_with_output().expect("it ends")
}

fn printed(output: &Output, status: i32) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

fn caching(place: Place, server: &Server) -> Instance {
    let address = server.address();
    let config = format!(
        "cache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{address}\"] }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [\
         {{ path: /past/, proxy: app }}, {{ path: /, proxy: app, cache: {{}} }}] }} }}\n"
    );
    Instance::start(place, &config)
}

#[test]
fn what_is_asked_for_is_stored_and_counted() {
    everywhere(|place| {
        let server = site(place);
        let gateway = caching(place, &server);
        let list = "# first\nhttp://www.example.com/1?a&b\nhttp://www.example.com/moved\nhttp://other.example/1?a&b\n";
        let text = printed(&warm(gateway.address, list, &["-"]), 0);
        assert!(text.contains("stored 3, hit already 0\n"), "{text}");
        assert_eq!(server.requests().iter().filter(|request| request.target == "/1?a&b").count(), 2, "of two hosts");

        // The sitemaps come through the gateway, too, and of what they name one is there.
        for (from, stored, hit) in [("index", 2, 1), ("sitemap", 0, 3)] {
            let output = warm(gateway.address, "", &[&format!("http://www.example.com/{from}.xml"), "--json"]);
            let json: serde_json::Value = serde_json::from_str(&printed(&output, 0)).expect("JSON");
            assert_eq!((&json["asked"], &json["bytes"]), (&3.into(), &120_000.into()), "{json}");
            assert_eq!((&json["stored"], &json["hit"]), (&stored.into(), &hit.into()), "{json}");
        }
        let mut client = gateway.connect();
        let hit = client.send("GET /3?a&b HTTP/1.1\r\nHost: www.example.com\r\n\r\n").answer().expect(200);
        assert!(hit.header("cache-status").is_some_and(|status| status.starts_with("sumun; hit")), "{hit:?}");

        // Another variant is another answer.
        let folder = Scratch::new();
        let path = folder.path().join("list").display().to_string();
        std::fs::write(&path, list).expect("a file");
        let text = printed(&warm(gateway.address, "", &[&path, "--header", "Accept-Encoding: gzip"]), 0);
        assert!(text.contains("stored 2, hit already 1\n"), "{text}");
        assert_eq!(server.last_request().header("accept-encoding").as_deref(), Some("gzip"));
    });
}

#[test]
fn what_is_not_stored_and_what_failed_is_said() {
    everywhere(|place| {
        let server = site(place);
        let gateway = caching(place, &server);
        let list: String =
            ["own", "past/1", "broken", "broken", "2"].map(|path| format!("http://a.test/{path}\n")).concat();
        let text = printed(&warm(gateway.address, &list, &["-", "--connections", "1"]), 1);
        assert!(text.contains("asked 5 in "), "{text}");
        assert!(text.contains("stored 1, hit already 0\n"), "{text}");
        assert!(text.contains("not stored 2: not cached by its route 1, set-cookie 1\n"), "{text}");
        assert!(text.contains("failed 2, the first of them:\n  http://a.test/broken: status 500\n"), "{text}");
        assert_eq!(server.accepted(), 1, "the connections are kept");

        let nobody = place.free_address();
        let text = printed(&warm(nobody, "http://a.test/\n", &["-"]), 1);
        assert!(
            text.contains("failed 1, the first of them:\n  http://a.test/: ") && text.contains("refused"),
            "{text}"
        );
        for (input, arguments, why) in [
            ("", ["-"].as_slice(), "-: there is no URL in it"),
            ("http://a.test/\n/b\n", &["-"], "line 2: `/b` is no"),
            ("<!DOCTYPE a><urlset/>", &["-"], "document type"),
            ("", &["/no/such/file"], "No such file"),
            ("", &["http://a.test/broken"], "http://a.test/broken: status 500"),
            ("http://a.test/\n", &["-", "--header", "Host: b.test"], "follows from the URL"),
            ("http://a.test/\n", &["-", "--connections", "65"], "65"),
        ] {
            let count = server.count();
            let text = printed(&warm(gateway.address, input, arguments), 2);
            assert!(text.contains(why), "{arguments:?}: {text}");
            assert!(server.requests()[count..].iter().all(|request| request.target == "/broken"), "nothing was asked");
        }
    });
}

#[test]
fn over_tls_the_name_is_that_of_the_url() {
    everywhere(|place| {
        let server = site(place);
        let top = format!("cache: {{ memory: 16MiB }}\npools: {{ app: {{ servers: [\"{}\"] }} }}", server.address());
        let setup = Setup { top: &top, routes: "{ path: /, proxy: app, cache: {} }", ..PLAIN_SETUP };
        let site = Site::with(place, &setup);
        let list = "https://site.test/1\n";
        let refused = printed(&warm(site.gateway.address, list, &["-"]), 1);
        assert!(refused.contains("certificate"), "{refused}");
        let text = printed(&warm(site.gateway.address, list, &["-", "--insecure"]), 0);
        assert!(text.contains("stored 1, hit already 0\n"), "{text}");
        assert_eq!(server.only_request().header("host").as_deref(), Some("site.test"));
    });
}
