//! Whom a stored answer is for, and that nobody gets another's.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use support::caching::{caching, counting, said, status};
use support::instance::{Instance, PATIENCE, eventually, everywhere};
use support::server::Server;
use support::talk::Client;

#[test]
fn clients_cannot_put_into_answers_of_others_what_is_in_no_key() {
    everywhere(|place| {
        let server =
            Server::answering(place.ip, |request| said("200 OK", "Cache-Control: max-age=60\r\n", &request.raw_head));
        let gateway = caching(place, &server, "{ query: { except: utm_source }, drop_cookies: on }");
        let poison = "X-Forwarded-Host: evil.example\r\nX-Original-URL: /admin\r\nX_Rewrite_URL: /admin\r\n\
                      X-HTTP-Method-Override: DELETE\r\nX-Forwarded-Scheme: nothttps\r\nX-Forwarded-Prefix: /evil\r\n\
                      X-Host: evil.example\r\nForwarded: host=evil.example\r\nCookie: evil=1\r\nRange: bytes=0-3\r\n";
        let mut client = gateway.connect();
        client.get_with("/p?utm_source=evil&a=1", poison);
        let seen = client.get("/p?a=1").expect(200);
        assert!(status(&seen).starts_with("sumun; hit"), "{seen:?}");
        let text = seen.text().to_ascii_lowercase();
        for forbidden in ["evil", "/admin", "delete", "nothttps", "utm_source", "cookie", "range"] {
            assert!(!text.contains(forbidden), "{forbidden} in {text}");
        }
        // A body counts for the server and not for the key.
        assert_eq!(status(&client.request("GET", "/p?a=1", "", b"a=2").expect(200)), "sumun; fwd=bypass");
        // Another parameter of the same URL, however it is parted.
        assert!(status(&client.get("/p?a=1;utm_source=x").expect(200)).starts_with("sumun; fwd=uri-miss"));
        assert!(status(&client.get("/p?a=1%26b=2").expect(200)).starts_with("sumun; fwd=uri-miss"));
    });
}

#[test]
fn routes_and_listeners_share_no_answers() {
    everywhere(|place| {
        let inside = Server::answering(place.ip, |_| said("200 OK", "Cache-Control: max-age=60\r\n", "inside"));
        let outside = Server::answering(place.ip, |_| said("200 OK", "Cache-Control: max-age=60\r\n", "outside"));
        let other = place.free_address();
        let config = format!(
            "pools: {{ inside: {{ servers: [\"{}\"] }}, outside: {{ servers: [\"{}\"] }} }}\n\
             listeners:\n\
             \x20 web: {{ bind: \"$BIND\", routes: [{{ path: /, header: {{ X-Beta: present }}, proxy: inside, cache: {{}} }}, {{ path: /, proxy: outside, cache: {{}} }}] }}\n\
             \x20 other: {{ bind: \"{other}\", routes: [{{ path: /, proxy: inside, cache: {{}} }}] }}\n",
            inside.address(),
            outside.address(),
        );
        let gateway = Instance::start(place, &config);
        for _ in 0..2 {
            assert_eq!(Client::connect(other).get("/a").expect(200).text(), "inside");
            assert_eq!(gateway.get("/a").expect(200).text(), "outside");
            assert_eq!(gateway.connect().get_with("/a", "X-Beta: 1\r\n").expect(200).text(), "inside");
        }
        assert_eq!((inside.requests().len(), outside.requests().len()), (2, 1));
    });
}

#[test]
fn what_varies_by_fields_of_the_gateways_own_is_for_nobody_else() {
    everywhere(|place| {
        let server = counting(place, "Cache-Control: max-age=60\r\nVary: X-Forwarded-For\r\n");
        let gateway = caching(place, &server, "{}");
        assert_eq!(status(&gateway.get("/").expect(200)), "sumun; fwd=uri-miss; detail=vary-any");
        assert_eq!(gateway.get("/").expect(200).text(), "answer 2");
    });
}

#[test]
fn answers_that_vary_are_told_apart() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let language = request.header("accept-language").unwrap_or_default();
            said("200 OK", "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", &language)
        });
        let gateway = caching(place, &server, "{}");
        let ask =
            |language: &str| gateway.connect().get_with("/", &format!("Accept-Language: {language}\r\n")).expect(200);
        for _ in 0..2 {
            assert_eq!(ask("ko").text(), "ko");
            assert_eq!(ask("en").text(), "en");
        }
        assert!(status(&ask("KO")).starts_with("sumun; hit"), "the same in capitals");
        assert_eq!(status(&ask("fr")), "sumun; fwd=vary-miss; stored");
        assert_eq!(server.requests().len(), 3);
        let url = "http://test/".to_owned();
        let found = gateway.command_ok(&["cache", "get", &url]);
        assert!(found.contains("answers differ by accept-language"), "{found}");
        let found = gateway.command_ok(&["cache", "get", &url, "--header", "Accept-Language: ko"]);
        assert!(found.contains("status 200, fresh for ") && found.contains("varies by accept-language"), "{found}");
    });
}

#[test]
fn what_the_server_says_of_queries_holds_for_its_path() {
    everywhere(|place| {
        let count = AtomicUsize::new(0);
        let server = Server::answering(place.ip, move |request| {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let fresh = "Cache-Control: max-age=60\r\n";
            let word = "Cache-Control: max-age=60\r\nNo-Vary-Search: key-order, params=(\"utm\")\r\n";
            match request.target.as_str() {
                path if path.contains("gone") => said("404 Not Found", fresh, &format!("{number}: {path}")),
                path if path.contains("else") => said("200 OK", fresh, &format!("{number}: {path}")),
                path => said("200 OK", word, &format!("{number}: {path}")),
            }
        });
        let gateway = caching(place, &server, "{}");
        let text = |path: &str| gateway.get(path).expect(200).text();
        let first = text("/p?a=1&utm=x&b=2");
        assert_eq!(first, "1: /p?a=1&utm=x&b=2", "the server gets all of it");
        for same in ["/p?a=1&b=2", "/p?b=2&a=1&utm=y", "/p?utm=&utm=z&a=1&b=2", "/p?a=1&b=2&%75tm=1"] {
            assert_eq!(text(same), first, "{same}");
        }
        assert_eq!(text("/p?a=2&utm=x"), "2: /p?a=2&utm=x");
        assert_eq!(text("/q?a=1&utm=x&b=2"), "3: /q?a=1&utm=x&b=2", "another path");
        assert_eq!(text("/p?utm=x"), "4: /p?utm=x");
        assert_eq!(text("/p"), "4: /p?utm=x");
        // What is said of it by a purge, a change and `cache get` holds for all of its names.
        let found = gateway.command_ok(&["cache", "get", "http://test/p?b=2&a=1&utm=k"]);
        assert!(found.contains("status 200"), "{found}");
        gateway.command_ok(&["cache", "purge", "http://test/p?b=2&a=1&utm=k"]);
        assert_eq!(text("/p?a=1&b=2"), "5: /p?a=1&b=2");
        assert_eq!(gateway.connect().request("POST", "/p?a=2", "", b"").expect(200).text(), "6: /p?a=2");
        assert_eq!(text("/p?a=2"), "7: /p?a=2");
        // A prefix with a query is all of its path, and no other one.
        assert_eq!(text("/pq"), "8: /pq");
        gateway.command_ok(&["cache", "purge", "--prefix", "http://test/p?b=2"]);
        assert_eq!((text("/pq").as_str(), text("/p?b=2&a=2").as_str()), ("8: /pq", "9: /p?b=2&a=2"));
        assert_eq!(text("/p?a=1&b=2"), "10: /p?a=1&b=2");
        // An error is for its own URL, and leaves the word alone.
        for _ in 0..2 {
            assert_eq!(gateway.get("/p?gone&utm=1").expect(404).text(), "11: /p?gone&utm=1");
        }
        assert_eq!(gateway.get("/p?gone&utm=2").expect(404).text(), "12: /p?gone&utm=2");
        assert_eq!(text("/p?a=1&b=2&utm=m"), "10: /p?a=1&b=2");
        // Another word, and what was stored by the one before is not found by it.
        assert_eq!(text("/p?else&utm=1"), "13: /p?else&utm=1");
        assert_eq!(text("/p?else&utm=2"), "14: /p?else&utm=2");
        assert_eq!(text("/p?a=1&b=2&utm=m"), "15: /p?a=1&b=2&utm=m");
        assert_eq!(text("/p?a=1&b=2"), "15: /p?a=1&b=2&utm=m");
    });
}

#[test]
fn who_waits_for_another_query_gets_it_only_by_the_servers_word() {
    everywhere(|place| {
        let (go, waits) = mpsc::channel::<()>();
        let waits = Mutex::new(waits);
        let server = Server::answering(place.ip, move |request| {
            if request.target.contains("first") {
                return said("200 OK", "Cache-Control: max-age=60\r\nNo-Vary-Search: params\r\n", "first");
            }
            waits.lock().unwrap().recv_timeout(PATIENCE).ok();
            // Which queries are alike is another matter by now.
            said("200 OK", "Cache-Control: max-age=60\r\n", &request.target)
        });
        let gateway = caching(place, &server, "{}");
        assert_eq!(gateway.get("/p?first").expect(200).text(), "first");
        gateway.command_ok(&["cache", "purge", "--all"]);
        let get = |path: &str| assert_eq!(gateway.get(path).expect(200).text(), path);
        thread::scope(|scope| {
            scope.spawn(|| get("/p?a=1"));
            eventually("the server is asked", || server.count() == 2);
            scope.spawn(|| get("/p?a=2"));
            eventually("one waits for the other", || gateway.json(&["cache"])["requests"]["collapsed"] == 1);
            // Those who come after a purge look again what it is about, and not only that.
            gateway.command_ok(&["cache", "purge", "--tag", "other"]);
            scope.spawn(|| get("/p?a=3"));
            eventually("so does a third", || gateway.json(&["cache"])["requests"]["collapsed"] == 2);
            drop(go);
        });
    });
}

#[test]
fn what_a_client_keeps_from_the_server_is_no_part_of_the_key() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| {
            let language = request.header("accept-language").unwrap_or_else(|| "none".to_owned());
            said("200 OK", "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", &language)
        });
        let gateway = caching(place, &server, "{}");
        let get = |fields: &str| gateway.connect().get_with("/", fields).expect(200).text();
        assert_eq!(get("Accept-Language: ko\r\nConnection: Accept-Language\r\n"), "none");
        assert_eq!(get("Accept-Language: ko\r\n"), "ko", "what the server did not see is not for those who say it");
        assert_eq!(get(""), "none");
        assert_eq!(server.requests().len(), 2);
    });
}

#[test]
fn a_semicolon_may_part_a_query_for_the_server() {
    everywhere(|place| {
        let word = "Cache-Control: max-age=60\r\nNo-Vary-Search: params=(\"utm\")\r\n";
        let server = Server::answering(place.ip, move |request| said("200 OK", word, &request.target));
        let gateway = caching(place, &server, "{}");
        for target in ["/p?id=1&utm=x", "/p?id=1&utm=x;id=2", "/p?id=1;utm=x"] {
            assert_eq!(gateway.get(target).expect(200).text(), target);
        }
        assert_eq!(gateway.get("/p?id=1").expect(200).text(), "/p?id=1&utm=x");
    });
}
