//! What happens to header fields on the way to the server and back.

mod support;

use support::instance::{Instance, Place, everywhere, proxy_config};
use support::server::{Request, Server, ok};

fn seen_by(server: &Server) -> impl Fn(&str) -> Option<String> {
    let request = server.last_request();
    move |name| request.header(name)
}

fn silent(_: &Request) -> Vec<u8> {
    ok("")
}

/// The client's address as `Forwarded` has it (RFC 7239 section 6).
fn node(place: Place) -> String {
    if place.ip.is_ipv4() { place.ip.to_string() } else { format!("\"[{}]\"", place.ip) }
}

#[test]
fn hop_by_hop_fields_end_here() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nKeep-Alive: timeout=5\r\nX-Secret: 1\r\n\
              Proxy-Connection: a\r\nUpgrade: h2c\r\nX-Public: 2\r\nContent-Length: 0\r\n\r\n"
                .to_vec()
        });
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let answer = gateway.connect().get_with(
            "/",
            "Connection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nX-Hop: 1\r\nTE: gzip\r\n\
             Proxy-Authorization: Basic YTpi\r\nUpgrade: h2c\r\nX-End: 2\r\nAuthorization: Basic YTpi\r\n",
        );
        let seen = seen_by(&server);
        for name in ["keep-alive", "proxy-connection", "x-hop", "te", "upgrade", "proxy-authorization", "connection"] {
            assert_eq!(seen(name), None, "{name} went to the server");
        }
        assert_eq!(seen("x-end").as_deref(), Some("2"));
        assert_eq!(seen("authorization").as_deref(), Some("Basic YTpi"));
        for name in ["connection", "keep-alive", "x-secret", "proxy-connection", "upgrade"] {
            assert_eq!(answer.header(name), None, "{name} came to the client");
        }
        assert_eq!(answer.header("x-public"), Some("2"));
        assert!(answer.header("date").is_some(), "RFC 9110 section 6.6.1");
    });
}

#[test]
fn forwarding_fields_of_strangers_are_not_believed() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        gateway.connect().get_with(
            "/",
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
             Forwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX_Forwarded_For: 192.0.2.1\r\nVia: 1.0 before\r\n",
        );
        let seen = seen_by(&server);
        assert_eq!(seen("x-forwarded-for"), Some(place.ip.to_string()));
        assert_eq!(seen("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(seen("x-forwarded-host").as_deref(), Some("test"));
        assert_eq!(seen("forwarded"), Some(format!("for={};host=\"test\";proto=http", node(place))));
        assert_eq!((seen("x-real-ip"), seen("x_forwarded_for")), (None, None));
        assert_eq!(seen("via").as_deref(), Some("1.0 before, 1.1 sumun"));
        assert_eq!(seen("host").as_deref(), Some("test"));
    });
}

#[test]
fn forwarding_fields_of_trusted_proxies_are_extended() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let config = proxy_config(&[server.address()], "", "");
        let gateway = Instance::start(place, &format!("trusted_proxies: [127.0.0.0/8, \"::1\"]\n{config}"));
        gateway.connect().get_with(
            "/",
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: shop.example\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n",
        );
        let seen = seen_by(&server);
        assert_eq!(seen("x-forwarded-for"), Some(format!("192.0.2.1, 192.0.2.2, {}", place.ip)));
        assert_eq!(seen("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(seen("x-forwarded-host").as_deref(), Some("shop.example"));
        assert_eq!(seen("forwarded"), Some(format!("for=192.0.2.1, for={};host=\"test\";proto=http", node(place))));
        assert_eq!(seen("x-real-ip").as_deref(), Some("192.0.2.1"));
    });
}

#[test]
fn the_request_id_is_made_or_passed_on() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        let mut client = gateway.connect();
        client.get("/");
        let first = seen_by(&server)("x-request-id").expect("one was made");
        assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
        client.get("/");
        assert_ne!(seen_by(&server)("x-request-id"), Some(first), "each request has its own");
        client.get_with("/", "X-Request-Id: abc-123\r\n");
        assert_eq!(seen_by(&server)("x-request-id").as_deref(), Some("abc-123"));
        client.get_with("/", "X-Request-Id: <script>\r\n");
        let made = seen_by(&server)("x-request-id").expect("one was made");
        assert_eq!(made.len(), 32, "one that could do harm in a log or a page is replaced: {made}");

        // An error page names it.
        let gateway = Instance::proxy(place, &[server.address()], "", "request_id: X-Trace, bounds: { body: 1KiB },");
        let fields = "X-Trace: my-id\r\nAccept: application/json\r\n";
        let answer = gateway.connect().request("POST", "/", fields, &[b'x'; 2000]).expect(413);
        assert_eq!(answer.header("x-trace"), Some("my-id"));
        let page: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON as it was asked for");
        assert_eq!((&page["request_id"], &page["status"]), (&"my-id".into(), &413.into()));
    });
}

#[test]
fn the_host_that_servers_see() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let address = server.address().to_string();
        for (setting, wanted) in [("keep", "test"), ("server", &*address), ("app.example", "app.example")] {
            let gateway = Instance::proxy(place, &[server.address()], &format!("host: {setting},"), "");
            gateway.get("/");
            let seen = seen_by(&server);
            assert_eq!(seen("host").as_deref(), Some(wanted), "host: {setting}");
            assert_eq!(seen("x-forwarded-host").as_deref(), Some("test"), "what the client asked for");
        }
        // RFC 9112 section 3.2.2: the target's authority wins.
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        gateway.connect().send("GET http://real.example/x HTTP/1.1\r\nHost: other\r\n\r\n").answer().expect(200);
        assert_eq!(seen_by(&server)("host").as_deref(), Some("real.example"));
        assert_eq!(server.last_request().target, "/x");
    });
}

#[test]
fn edits_of_both_headers() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 200 OK\r\nServer: secret/1\r\nX-Kept: 1\r\nX-Set: old\r\nContent-Length: 0\r\n\r\n".to_vec()
        });
        let config = format!(
            "pools: {{ app: {{ servers: [\"{}\"] }} }}\n\
             listeners:\n  web:\n    bind: \"$BIND\"\n    routes:\n\
             \x20     - path: /fixed\n        respond: 200\n\
             \x20       response_headers: {{ set: {{ X-Set: new }}, add: {{ X-Added: [a, b] }} }}\n\
             \x20     - path: /\n        proxy: app\n\
             \x20       request_headers: {{ remove: X-Debug, set: {{ X-Set: new }}, add: {{ X-Added: [a, b] }} }}\n\
             \x20       response_headers: {{ remove: Server, set: {{ X-Set: new }}, add: {{ X-Added: [a, b] }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        let fields = "X-Debug: 1\r\nx-debug: 2\r\nX-Set: old\r\nX-Set: older\r\nX-Added: client\r\nX-Other: 1\r\n";
        let answer = gateway.connect().get_with("/", fields).expect(200);
        let seen = seen_by(&server);
        assert_eq!(seen("x-debug"), None);
        assert_eq!(seen("x-set").as_deref(), Some("new"));
        assert_eq!(seen("x-added").as_deref(), Some("client, a, b"));
        assert_eq!(seen("x-other").as_deref(), Some("1"));
        assert_eq!((answer.header("server"), answer.header("x-set")), (None, Some("new")));
        assert_eq!(answer.header("x-kept"), Some("1"));
        let added =
            |answer: &support::talk::Answer| answer.headers.iter().filter(|(name, _)| name == "x-added").count();
        assert_eq!(added(&answer), 2);
        let answer = gateway.get("/fixed").expect(200);
        assert_eq!((answer.header("x-set"), added(&answer)), (Some("new"), 2));
    });
}

/// Edits hold for what the gateway writes itself too; only `CDN-Loop` cannot be edited.
#[test]
fn edits_of_what_the_gateway_writes() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let config = format!(
            r#"pools:
  app: {{ servers: ["{}"], sticky: {{ cookie: SID, secret: sixteen-characters-and-more }} }}
listeners:
  web:
    bind: "$BIND"
    routes:
      - path: /set
        proxy: app
        request_headers:
          set: {{ X-Forwarded-Proto: https, forwarded: for=_hidden, X-Request-Id: fixed, Via: 1.1 other }}
          add: {{ X-Forwarded-For: 192.0.2.9 }}
        response_headers: {{ set: {{ Date: then, Set-Cookie: own=1 }} }}
      - path: /remove
        proxy: app
        request_headers:
          remove: [X-Forwarded-For, x-forwarded-proto, X_Forwarded_Host, Forwarded, Via, x-request-id, Max-Forwards]
        response_headers: {{ remove: [Date, Set-Cookie] }}
      - path: /add
        proxy: app
        response_headers: {{ add: {{ Set-Cookie: own=1 }} }}
      - path: /page/
        files: site
        response_headers: {{ set: {{ Date: then, Content-Type: text/x-own }}, remove: [ETag] }}
      - path: /fixed
        respond: {{ body: text }}
        response_headers: {{ set: {{ Content-Type: text/x-own }}, remove: [Date] }}
      - path: /moved
        redirect: /new
        response_headers: {{ set: {{ Location: /newer }} }}
"#,
            server.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            std::fs::create_dir(directory.join("site")).expect("it can be made");
            std::fs::write(directory.join("site/index.html"), "page").expect("it can be written");
        });
        let values = |answer: &support::talk::Answer, name: &str| {
            let found = answer.headers.iter().filter(|(found, _)| found == name);
            found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let mut client = gateway.connect();
        let answer = client.get_with("/set", "Via: 1.0 before\r\nX-Request-Id: its-own\r\n").expect(200);
        let seen = seen_by(&server);
        assert_eq!(seen("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(seen("forwarded").as_deref(), Some("for=_hidden"));
        assert_eq!(seen("x-request-id").as_deref(), Some("fixed"));
        assert_eq!(seen("via").as_deref(), Some("1.1 other"));
        assert_eq!(seen("x-forwarded-for"), Some(format!("{}, 192.0.2.9", place.ip)));
        assert_eq!(seen("x-forwarded-host").as_deref(), Some("test"), "nobody edits it");
        assert_eq!(
            (values(&answer, "date"), values(&answer, "set-cookie")),
            (vec!["then".into()], vec!["own=1".into()])
        );

        let answer = client.request("OPTIONS", "/remove", "Via: 1.0 before\r\nMax-Forwards: 3\r\n", b"").expect(200);
        let seen = seen_by(&server);
        let removed = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "x-request-id"];
        for name in removed.into_iter().chain(["max-forwards"]) {
            assert_eq!(seen(name), None, "{name} went to the server");
        }
        assert!(seen("cdn-loop").is_some() && seen("host").is_some());
        assert_eq!((answer.header("date"), answer.header("set-cookie")), (None, None));

        let answer = client.get("/add").expect(200);
        let cookies = values(&answer, "set-cookie");
        assert!(cookies.len() == 2 && cookies[0].starts_with("SID=") && cookies[1] == "own=1", "{cookies:?}");
        assert_eq!(values(&answer, "date").len(), 1);

        let answer = client.get("/page/").expect(200);
        assert_eq!((values(&answer, "date"), answer.header("etag")), (vec!["then".into()], None));
        assert_eq!((values(&answer, "content-type"), answer.text().as_str()), (vec!["text/x-own".into()], "page"));
        let answer = client.get("/fixed").expect(200);
        assert_eq!((values(&answer, "content-type"), answer.header("date")), (vec!["text/x-own".into()], None));
        let answer = client.get("/moved").expect(302);
        assert_eq!(values(&answer, "location"), ["/newer"]);
    });
}

/// To many application servers `X_User` is `X-User`: where the gateway sets or removes the one, it
/// lets the other not through either.
#[test]
fn look_alikes_of_edited_fields_do_not_pass() {
    everywhere(|place| {
        let server = Server::answering(place.ip, silent);
        let config = format!(
            "trusted_proxies: [127.0.0.0/8, \"::1\"]\n\
             pools: {{ app: {{ servers: [\"{}\"] }} }}\n\
             listeners:\n  web:\n    bind: \"$BIND\"\n    request_id: X-Trace-Id\n    routes:\n\
             \x20     - path: /\n        proxy: app\n\
             \x20       request_headers: {{ set: {{ X-Auth-User: nobody }}, remove: [X-Role, User-Agent], add: {{ X-More: 1 }} }}\n",
            server.address()
        );
        let gateway = Instance::start(place, &config);
        gateway.connect().get_with(
            "/",
            "X_Auth_User: root\r\nx-auth_user: root\r\nX_ROLE: admin\r\nUser_Agent: x\r\nX_Trace_Id: 1\r\n\
             X_Forwarded_For: 192.0.2.1\r\nX_More: 0\r\nX_Other: 1\r\n",
        );
        let seen = seen_by(&server);
        assert_eq!(seen("x-auth-user").as_deref(), Some("nobody"));
        for name in ["x_auth_user", "x-auth_user", "x_role", "user_agent", "x_trace_id", "x_forwarded_for"] {
            assert_eq!(seen(name), None, "{name} went to the server");
        }
        assert_eq!(seen("x-trace-id").map(|id| id.len()), Some(32));
        assert_eq!((seen("x_more").as_deref(), seen("x_other").as_deref()), (Some("0"), Some("1")));
    });
}

/// A request that comes back to the same gateway is answered 508 (RFC 8586), and the log says so.
#[test]
fn a_loop_is_detected() {
    everywhere(|place| {
        // Both pools' server is the gateway itself.
        let config = "pools: { itself: { servers: [\"$BIND\"] } }\n\
                      listeners: { web: { bind: \"$BIND\", routes: [{ path: /, proxy: itself }] } }\n";
        let gateway = Instance::start(place, config);
        let answer = gateway.get("/round");
        assert_eq!(answer.status, 508, "{}", answer.text());
        gateway.await_log("came back to this gateway");

        // Other gateways on the way are no loop.
        let server = Server::answering(place.ip, silent);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        gateway.connect().get_with("/", "CDN-Loop: other; a=b, sumun-0123456789abcdef\r\n").expect(200);
        let seen = seen_by(&server)("cdn-loop").expect("it was added");
        let ids: Vec<&str> = seen.split(", ").collect();
        assert_eq!(ids.len(), 3, "{seen}");
        assert!(ids[2].starts_with("sumun-"), "{seen}");
    });
}
