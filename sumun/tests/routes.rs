//! Which route takes a request, and what the ones without a server do.

mod support;

use support::instance::{Instance, Place, everywhere};
use support::server::{Request, Server, ok};

/// An instance with these routes, whose pool `app` says the target that it saw.
fn with_routes(place: Place, routes: &str) -> (Server, Instance) {
    let server = Server::answering(place.ip, |request: &Request| ok(&request.target));
    let lines: String = routes.lines().map(|line| format!("      {}\n", line.trim())).collect();
    let config = format!(
        "pools: {{ app: {{ servers: [\"{}\"] }} }}\nlisteners:\n  web:\n    bind: \"$BIND\"\n    routes:\n{lines}",
        server.address()
    );
    let gateway = Instance::start(place, &config);
    (server, gateway)
}

/// What answers to a GET with these fields; `None` for 404.
fn taken_by(gateway: &Instance, host: &str, target: &str, fields: &str) -> Option<String> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let answer = gateway.connect().send(request).answer();
    if answer.status == 404 { None } else { Some(answer.expect(200).text()) }
}

#[test]
fn paths() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /exact, respond: { body: exact } }
               - { path: /below/, respond: { body: below } }
               - { path: "~^/shop/[0-9]+$", respond: { body: shop } }"#,
        );
        for (target, wanted) in [
            ("/exact", Some("exact")),
            ("/exact?query", Some("exact")),
            ("/exact/", None),
            ("/exactly", None),
            ("/below/", Some("below")),
            ("/below", Some("below")),
            ("/below/a/b", Some("below")),
            ("/belows", None),
            ("/shop/12", Some("shop")),
            ("/shop/a", None),
            ("/shop/12/", None),
            // RFC 3986 section 6.2.2: the same path in other words.
            ("/%65xact", Some("exact")),
            ("/x/../exact", Some("exact")),
            ("/below/../exact", Some("exact")),
            ("/./below/x", Some("below")),
            ("/", None),
        ] {
            assert_eq!(taken_by(&gateway, "a", target, "").as_deref(), wanted, "{target}");
        }
    });
}

#[test]
fn hosts() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { host: [shop.example, www.shop.example], respond: { body: shop } }
               - { host: "*.example", respond: { body: wildcard } }"#,
        );
        for (host, wanted) in [
            ("shop.example", Some("shop")),
            ("SHOP.Example", Some("shop")),
            ("shop.example:8080", Some("shop")),
            ("shop.example.", Some("shop")),
            ("www.shop.example", Some("shop")),
            ("other.example", Some("wildcard")),
            ("a.b.example", Some("wildcard")),
            ("example", None),
            ("notexample", None),
            ("192.0.2.1", None),
            ("[::1]:80", None),
        ] {
            assert_eq!(taken_by(&gateway, host, "/", "").as_deref(), wanted, "{host}");
        }
    });
}

#[test]
fn methods_headers_and_queries() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /m, method: [GET, PUT], respond: { body: read } }
               - { path: /m, respond: { body: other } }
               - { path: /h, header: { X-Kind: "~^a+$", X-There: present, X-Not: absent }, respond: { body: all } }
               - { path: /h, header: { X-Kind: exactly }, respond: { body: exact } }
               - { path: /q, query: { v: "2", debug: present }, respond: { body: both } }
               - { path: /q, query: { v: "~^[0-9]+$" }, respond: { body: number } }"#,
        );
        let mut client = gateway.connect();
        for (method, wanted) in [("GET", "read"), ("PUT", "read"), ("POST", "other"), ("DELETE", "other")] {
            assert_eq!(gateway.connect().request(method, "/m", "", b"").text(), wanted, "{method}");
        }
        assert_eq!(client.request("HEAD", "/m", "", b"").header("content-length"), Some("5"), "GET is not HEAD");
        for (fields, wanted) in [
            ("X-Kind: aaa\r\nX-There: \r\n", Some("all")),
            ("X-Kind: aaa\r\n", None),
            ("X-Kind: aab\r\nX-There: 1\r\n", None),
            ("X-Kind: a\r\nX-There: 1\r\nX-Not: 1\r\n", None),
            ("x-kind: exactly\r\n", Some("exact")),
            ("X-Kind: Exactly\r\n", None),
            ("X-Kind: other\r\nX-Kind: exactly\r\n", Some("exact")),
        ] {
            assert_eq!(taken_by(&gateway, "a", "/h", fields).as_deref(), wanted, "{fields}");
        }
        for (query, wanted) in [
            ("?v=2&debug", Some("both")),
            ("?debug=&v=2", Some("both")),
            ("?v=2", Some("number")),
            ("?v=3&debug", Some("number")),
            ("?v=x", None),
            ("", None),
        ] {
            assert_eq!(taken_by(&gateway, "a", &format!("/q{query}"), "").as_deref(), wanted, "{query}");
        }
    });
}

#[test]
fn the_first_match_wins() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /a/b/, respond: { body: one } }
               - { path: /a/, respond: { body: two } }
               - { path: /a/b/c, respond: { body: never } }"#,
        );
        assert_eq!(taken_by(&gateway, "a", "/a/b/c", "").as_deref(), Some("one"));
        assert_eq!(taken_by(&gateway, "a", "/a/c", "").as_deref(), Some("two"));
    });
}

#[test]
fn redirects() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /short, redirect: /elsewhere }
               - { path: /long/, redirect: { to: "https://{host}{path}{?query}", status: 308 } }"#,
        );
        let answer = gateway.get("/short").expect(302);
        assert_eq!(answer.header("location"), Some("/elsewhere"));
        let answer = gateway.get("/long/x?a=b&c").expect(308);
        assert_eq!(answer.header("location"), Some("https://test/long/x?a=b&c"));
        assert_eq!(gateway.get("/long/x").header("location"), Some("https://test/long/x"));
        // What a path is made of must not become a field of its own.
        let answer = gateway.get("/long/%0d%0aSet-Cookie:%20a=b");
        assert_eq!(answer.header("set-cookie"), None);
    });
}

#[test]
fn fixed_answers() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /status, respond: 503 }
               - { path: /full, respond: { status: 418, body: "a teapot", content_type: text/markdown } }
               - { path: /nothing, respond: 204 }"#,
        );
        gateway.get("/status").expect(503);
        let mut client = gateway.connect();
        let answer = client.get("/full").expect(418);
        assert_eq!((answer.text().as_str(), answer.header("content-type")), ("a teapot", Some("text/markdown")));
        assert_eq!(client.request("HEAD", "/full", "", b"").expect(418).header("content-length"), Some("8"));
        assert_eq!(client.get("/nothing").expect(204).header("content-length"), None);
        client.get("/full").expect(418);
    });
}

#[test]
fn paths_are_changed_for_the_server() {
    everywhere(|place| {
        let (server, gateway) = with_routes(
            place,
            r#"- { path: /api/, proxy: app, strip_prefix: on }
               - { path: "~^/v[0-9]+/", proxy: app, rewrite: { match: "^/v([0-9]+)/(.*)$", to: "/$2/version/$1" } }
               - { path: /, proxy: app }"#,
        );
        for (target, wanted) in [
            ("/api/users?a=b", "/users?a=b"),
            ("/api/", "/"),
            ("/api", "/"),
            ("/api/a%20b", "/a%20b"),
            ("/v2/items?x", "/items/version/2?x"),
            ("/kept/as?it=is", "/kept/as?it=is"),
            ("/a/b/../c", "/a/c"),
            ("/%7euser", "/~user"),
            ("/a%2Fb", "/a%2Fb"),
            ("//double", "/double"),
            ("/?q=../a%0ab", "/?q=../a%0ab"),
        ] {
            assert_eq!(gateway.get(target).expect(200).text(), wanted, "{target}");
        }
        assert_eq!(server.last_request().method, "GET");
    });
}

#[test]
fn what_no_route_takes_is_404() {
    everywhere(|place| {
        let (server, gateway) = with_routes(place, "- { path: /only/, proxy: app }");
        let mut client = gateway.connect();
        let answer = client.get_with("/else", "Accept: text/html\r\n").expect(404);
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
        let answer = client.get_with("/else", "Accept: application/json\r\n").expect(404);
        let page: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((&page["status"], &page["reason"]), (&404.into(), &"no_route".into()));
        assert_eq!(client.get("/only/x").expect(200).text(), "/only/x", "the connection lives on");
        assert_eq!(server.count(), 1);
    });
}

#[test]
fn addresses_that_may_and_may_not() {
    everywhere(|place| {
        let (_server, gateway) = with_routes(
            place,
            r#"- { path: /no, allow: [192.0.2.0/24], respond: { body: never } }
               - { path: /not, deny: [127.0.0.0/8, "::1"], respond: { body: never } }
               - { path: /yes, allow: [127.0.0.0/8, "::/0"], deny: [192.0.2.0/24], respond: { body: welcome } }"#,
        );
        gateway.get("/no").expect(403);
        gateway.get("/not").expect(403);
        assert_eq!(gateway.get("/yes").expect(200).text(), "welcome");
    });
}
