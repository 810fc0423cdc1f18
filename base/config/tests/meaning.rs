//! What a config means once it is checked: defaults, forms of writing, merged files, differences.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sumun_config::checked::*;
use sumun_config::{Checked, Probe, check, check_text, diff, load};

fn checked(text: &str) -> Config {
    let Checked { config, .. } = check_text("test.yaml", text).unwrap_or_else(|report| panic!("{report}"));
    config
}

const APP: &str = "pools: { app: { servers: 127.0.0.1:9001 } }\n";

/// A config whose only listener has this in it.
fn listener(text: &str) -> Listener {
    let config = checked(&format!("{APP}listeners: {{ web: {{ bind: '127.0.0.1:8080', {text} }} }}"));
    Listener::clone(&config.listeners["web"])
}

fn route(text: &str) -> Route {
    Route::clone(&listener(&format!("routes: [ {{ {text} }} ]")).routes[0])
}

fn pool(text: &str) -> Pool {
    let text =
        format!("pools: {{ app: {{ {text} }} }}\nlisteners: {{ web: {{ bind: ':0', routes: [ proxy: app ] }} }}");
    Pool::clone(&checked(&text).pools["app"])
}

#[test]
fn defaults() {
    let config = checked(&format!("{APP}listeners: {{ web: {{ bind: '127.0.0.1:8080', routes: [ proxy: app ] }} }}"));
    assert!(config.workers >= 1);
    assert_eq!(config.admin, Some(Admin { address: "127.0.0.1:9900".parse().unwrap(), token: None }));
    assert_eq!(config.access_log, None);
    assert_eq!(config.drain, Duration::from_secs(30));
    assert!(config.trusted_proxies.is_empty());
    let name = config.control.file_name().unwrap().to_str().unwrap();
    assert!(name.len() == 21 && name.ends_with(".sock"), "{name}");

    let app = &config.pools["app"];
    assert_eq!(app.balance, Balance::P2c);
    assert_eq!(app.hash, HashOn::Source);
    assert_eq!(
        app.outlier,
        Outlier {
            failures: 5,
            eject: Duration::from_secs(10),
            eject_max: Duration::from_secs(300),
            max_ejected_percent: 50
        }
    );
    assert_eq!(
        app.timeouts,
        Timeouts {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            keepalive: Duration::from_secs(30),
        }
    );
    assert_eq!(app.retries, Retries { tries: 2, budget_percent: 20, floor_per_second: 10, body: 65_536 });
    assert_eq!(app.queue, Queue { size: 1000, timeout: Duration::from_secs(1) });
    assert_eq!((app.slow_start, app.concurrency, app.keepalive), (Duration::ZERO, Concurrency::Unbounded, 1024));
    assert_eq!(app.host, HostHeader::Keep);
    assert_eq!((app.servers[0].weight, app.servers[0].backup), (1, false));

    let web = &config.listeners["web"];
    assert_eq!(
        web.bounds,
        Bounds {
            header: 65_536,
            headers: 100,
            request_line: 16_384,
            body: 10 << 20,
            header_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body_rate: 1024,
            answer_rate: 256,
            connections: 10_000,
            per_client: 1000,
            connection_rate: None,
            requests: 10_000,
        }
    );
    assert_eq!(web.request_id, "X-Request-Id");
    assert_eq!(web.routes[0].path, PathMatch::Prefix("/".to_owned()));
    assert_eq!(&*web.routes[0].name, "/");

    let Action::Files(files) = route("files: public").action else { panic!("not files") };
    assert_eq!(files.root, std::env::current_dir().unwrap().join("public"));
    assert_eq!(files.index, ["index.html"]);
    assert!(files.compress && files.precompressed && !files.list && !files.write);
}

#[test]
fn addresses() {
    let bind = |text: &str| {
        let config =
            checked(&format!("admin: off\nlisteners: {{ web: {{ bind: {text}, routes: [ respond: 204 ] }} }}"));
        config.listeners["web"].bind.clone()
    };
    let tcp = |text: &str| BindAddress::Tcp(text.parse().unwrap());
    assert_eq!(bind("':8080'"), [tcp("0.0.0.0:8080"), tcp("[::]:8080")]);
    assert_eq!(bind("['127.0.0.1:80', { address: '[::1]:80' }]"), [tcp("127.0.0.1:80"), tcp("[::1]:80")]);
    assert_eq!(bind("unix:/run/x.sock"), [BindAddress::Unix(PathBuf::from("/run/x.sock"))]);
    // The wildcard and one address share a TCP port: the more specific socket is taken.
    assert_eq!(bind("['0.0.0.0:80', '127.0.0.1:80']").len(), 2);

    let servers = pool("servers: ['10.0.0.5:8000-8002', 'App.example:80', 'unix:x.sock', { address: '[::1]:1', weight: 3, backup: on }]").servers;
    let names: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
    assert_eq!(names, ["10.0.0.5:8000", "10.0.0.5:8001", "10.0.0.5:8002", "App.example:80", "unix:x.sock", "[::1]:1"]);
    assert_eq!(servers[3].address, ServerAddress::Name { host: "app.example".to_owned(), port: 80 });
    assert_eq!(servers[4].address, ServerAddress::Unix(std::env::current_dir().unwrap().join("x.sock")));
    assert_eq!((servers[5].weight, servers[5].backup), (3, true));
}

#[test]
fn pools() {
    let app = pool(
        "servers: 'a.example:80', retries: 0, outlier: off, hash: { header: X-User }, balance: hash, host: server",
    );
    assert_eq!((app.retries.tries, app.outlier.failures), (0, 0));
    assert_eq!(app.hash, HashOn::Header("x-user".to_owned()));
    assert_eq!(app.host, HostHeader::Server);

    let health = |text: &str| pool(&format!("servers: 'a.example:80', health: {{ {text} }}")).health.unwrap();
    let check = health("http: /healthz, every: 500ms");
    assert_eq!(check.check, Check::Http { path: "/healthz".to_owned(), host: None, status: vec![(200, 299)] });
    assert_eq!((check.timeout, check.rise, check.fall, check.port), (Duration::from_millis(500), 2, 3, None));
    let check = health("http: { path: /, status: [200, 300-304] }, port: 81");
    assert!(matches!(check.check, Check::Http { status, .. } if status == [(200, 200), (300, 304)]));
    assert_eq!((check.every, check.timeout, check.port), (Duration::from_secs(2), Duration::from_secs(1), Some(81)));
    assert_eq!(health("tcp: {}").check, Check::CONNECT);
    let check = health(r#"tcp: { send: "hex:50 49 4e 47", expect: 220 }"#).check;
    assert_eq!(check, Check::Tcp { send: b"PING".to_vec(), expect: b"220".to_vec() });
    assert_eq!(health("tls: {}").check, Check::Tls { name: None });
    assert_eq!(health("redis: {}").check, Check::Redis { login: None });
    let login = Some(RedisLogin { user: None, password: "12".to_owned() });
    assert_eq!(health("redis: { password: 12 }").check, Check::Redis { login });
    assert_eq!(health("postgres: {}").check, Check::Postgres { user: "sumun".to_owned(), database: None });
    assert_eq!(health("dns: {}").check, Check::Dns { name: None, kind: RecordType::Ns, over_tcp: false });
    let check = health("exec: [bin/./check, 5, '']").check;
    let program = std::env::current_dir().unwrap().join("bin/check");
    assert_eq!(check, Check::Exec { program, arguments: vec!["5".to_owned(), String::new()] });
    let name = Some(b"\x01a\0".to_vec());
    let check = health("dns: { name: a., type: AAAA, transport: tcp }").check;
    assert_eq!(check, Check::Dns { name, kind: RecordType::Aaaa, over_tcp: true });
}

#[test]
fn quic() {
    let udp = |text: &str| {
        let servers = "{ address: 127.0.0.1:9001, quic_id: 0A01 }";
        let text = format!(
            "pools: {{ app: {{ servers: {servers} }} }}\nlisteners: {{ web: {{ bind: ':1/udp', udp: {text} }} }}"
        );
        let config = checked(&text);
        let id = config.pools["app"].servers[0].quic_id;
        assert_eq!(id.as_ref().map(|id| id.as_bytes()), Some(&[10, 1][..]));
        let Some(Stream::Udp(udp)) = &config.listeners["web"].stream else { panic!("{text}") };
        udp.quic.clone()
    };
    assert_eq!(udp("app"), None);
    assert_eq!(udp("{ pool: app, quic: off, responses: 1 }"), None);
    for learnt in ["on", "{}"] {
        assert_eq!(udp(&format!("{{ pool: app, quic: {learnt} }}")), Some(Quic { server_id: None }));
    }
    let server_id = |text: &str| udp(&format!("{{ pool: app, quic: {{ server_id: {{ {text} }} }} }}"));
    let plain = QuicServerId { bytes: 2, nonce_bytes: 17, config_id: 0, key: None };
    assert_eq!(server_id("bytes: 2, nonce: 17"), Some(Quic { server_id: Some(plain) }));
    let key = Some(BlockKey(std::array::from_fn(|at| at as u8)));
    let encrypted = QuicServerId { bytes: 2, nonce_bytes: 4, config_id: 6, key };
    let written = "bytes: 2, nonce: 4, config: 6, key: 000102030405060708090a0b0c0d0e0f";
    let found = server_id(written);
    assert!(!format!("{found:?}").contains("[0, 1, 2"), "a key is not shown");
    assert_eq!(found, Some(Quic { server_id: Some(encrypted) }));
}

#[test]
fn routes() {
    let found = route(
        "path: /x, proxy: app, header: { X-A: present, X-B: '~^a', X-C: 2 }, query: { Q: absent }, host: '*.Example.com'",
    );
    assert_eq!(found.path, PathMatch::Exact("/x".to_owned()));
    assert_eq!(found.hosts, [HostMatch::Suffix(".example.com".to_owned())]);
    assert_eq!(found.headers[0], FieldMatch { name: "x-a".to_owned(), value: ValueMatch::Present });
    assert!(matches!(&found.headers[1].value, ValueMatch::Regex(pattern) if pattern.0.as_str() == "^a"));
    assert_eq!(found.headers[2].value, ValueMatch::Exact("2".to_owned()));
    assert_eq!(found.query, [FieldMatch { name: "Q".to_owned(), value: ValueMatch::Absent }]);

    assert_eq!(route("redirect: /x").action, Action::Redirect(Redirect { to: "/x".to_owned(), status: 302 }));
    let respond = Respond { status: 503, body: String::new(), content_type: "text/plain; charset=utf-8".to_owned() };
    assert_eq!(route("respond: 503").action, Action::Respond(respond));
    let rewrite = route("proxy: app, rewrite: { match: '^/(a)', to: '/$${1}b' }").rewrite.unwrap();
    assert_eq!(rewrite.to, "/${1}b");
    let edits = route("proxy: app, request_headers: { add: { X-A: [1, 2] } }").request_headers;
    assert_eq!(edits.add, [("X-A".to_owned(), "1".to_owned()), ("X-A".to_owned(), "2".to_owned())]);
    assert_eq!(listener("bounds: { header: 8KiB }, routes: [ proxy: app ]").bounds.request_line, 8192);
}

#[test]
fn volumes_of_the_cache() {
    let config = |cache: &str, route: &str| {
        let web = format!("listeners: {{ web: {{ bind: ':1', routes: [ {{ proxy: app, cache: {route} }} ] }} }}");
        checked(&format!("{APP}cache: {{ {cache} }}\n{web}"))
    };
    let of_route = |config: &Config| config.listeners["web"].routes[0].cache.clone().unwrap().volume;
    let name = |text: &str| Some(Name::from(text));
    let memory = config("memory: 1MiB", "{}");
    assert_eq!((memory.cache.memory, &memory.cache.group, of_route(&memory)), (1 << 20, &None, None));

    let group = "group: { physical_volumes: [ { path: a, size: 1GiB }, { path: /dev/sdb } ] }";
    let one = config(&format!("{group}, volumes: {{ pages: {{ size: 2GiB, formerly: old }} }}"), "{}");
    let here = std::env::current_dir().unwrap();
    let expected = CacheGroup {
        physical_volumes: vec![
            PhysicalVolume { path: here.join("a"), size: Some(1 << 30) },
            PhysicalVolume { path: PathBuf::from("/dev/sdb"), size: None },
        ],
        extent: 4 << 20,
        volumes: vec![CacheVolume { name: Name::from("pages"), size: 2 << 30, formerly: name("old") }],
    };
    assert_eq!(one.cache, CacheStore { memory: 256 << 20, group: Some(expected) });
    assert_eq!(of_route(&one), name("pages"));

    let two = |route: &str| {
        let volumes = "volumes: { b: { size: 1GiB }, a: { size: 1GiB } }";
        of_route(&config(&format!("{group}, {volumes}"), route))
    };
    assert_eq!((two("a"), two("{ volume: b, ttl: 1s }")), (name("a"), name("b")));
    assert_eq!(diff(&one, &memory).settings, ["cache"]);
}

#[test]
fn volumes_have_to_fit_where_all_sizes_are_known() {
    let judge = |devices: &str, volumes: &str| {
        let group = format!("group: {{ physical_volumes: [ {devices} ] }}");
        let web = "listeners: { web: { bind: ':1', routes: [ respond: 204 ] } }";
        check_text("test.yaml", &format!("cache: {{ {group}, volumes: {{ {volumes} }} }}\n{web}"))
    };
    let two = "{ path: /a, size: 10GiB }, { path: /b, size: 10GiB }";
    assert!(judge(two, "a: { size: 2GiB }, b: { size: 16GiB }").is_ok());
    assert!(judge(two, "a: { size: 2GiB }, b: { size: 17.7GiB }").is_ok());
    assert!(judge(two, "a: { size: 2GiB }, b: { size: 18GiB }").is_err());
    assert!(judge("{ path: /a, size: 1GiB }, { path: /dev/b }", "a: { size: 1TiB }").is_ok());
    // More than 4 TiB in extents of 4 MiB are not used.
    assert!(judge("{ path: /a, size: 8TiB }", "a: { size: 3.9TiB }").is_ok());
    assert!(judge("{ path: /a, size: 8TiB }", "a: { size: 5TiB }").is_err());
    // What the message says there is room for is room enough.
    for (one, other) in [(10, 1), (3, 7), (1, 1)] {
        let devices = format!("{{ path: /a, size: {one}GiB }}, {{ path: /b, size: {other}GiB }}");
        let report = judge(&devices, "a: { size: 100GiB }, b: { size: 1GiB }").unwrap_err().render(false);
        let (_, room) = report.split_once("room for ").unwrap();
        let room: f64 = room.split_once("GiB").unwrap().0.parse().unwrap();
        let rest = ((room - 1.0) * 1000.0).floor() / 1000.0;
        assert!(judge(&devices, &format!("a: {{ size: {rest}GiB }}, b: {{ size: 1GiB }}")).is_ok(), "{devices} {rest}");
    }
}

#[test]
fn waiting_rooms() {
    let room =
        |text: &str| route(&format!("path: /sale/, proxy: app, waiting_room: {{ {text} }}")).waiting_room.unwrap();
    let found = room("admit: 200/s, active: 5000, session: 10m");
    let second = Duration::from_secs(1);
    assert_eq!((found.admit, found.active), (Rate { count: 200, period: second }, 5000));
    assert_eq!((found.session, found.claim), (600 * second, 120 * second));
    assert_eq!((found.waiting, found.tickets.count, found.page), (1_000_000, 300, None));
    let page = std::env::current_dir().unwrap().join("wait.html");
    assert_eq!(room("admit: 1/m, active: 1, page: wait.html").page, Some(page));
    assert_eq!(route("proxy: app").waiting_room, None);
}

#[test]
fn included_files_and_files_of_users() {
    let sources = load(Path::new("tests/good/everything.yaml")).unwrap();
    let Checked { config, warnings } = check(&sources, Probe::Files).unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    let names: Vec<&str> = config.pools.keys().map(|name| &**name).collect();
    assert_eq!(names, ["app", "cookies", "other", "plain"]);
    let users = config.listeners["web"].routes.iter().find_map(|route| route.basic_auth.clone()).unwrap().users;
    assert_eq!(users.keys().collect::<Vec<_>>(), ["ann"]);
    // Relative paths start at the file, not at the current directory.
    let directory = std::env::current_dir().unwrap().join("tests/good");
    let files = config.listeners["web"].routes.iter().rev().find_map(|route| match &route.action {
        Action::Files(files) => Some(files.clone()),
        _ => None,
    });
    assert_eq!(files.unwrap().root, directory);
    assert!(config.listeners["web"].bind.contains(&BindAddress::Unix(directory.join("run/web.sock"))));
}

#[test]
fn differences() {
    let old = checked(
        "pools: { app: { servers: 'a.example:1' }, media: { servers: 'b.example:1' } }\nlisteners: { old: { bind: ':1', routes: [ proxy: app, proxy: media ] } }",
    );
    let new = checked(
        "drain: 5s\npools: { shop: { servers: 'a.example:1' }, media: { servers: 'b.example:2' } }\nlisteners: { web: { bind: ':1', routes: [ proxy: shop, proxy: media ] } }",
    );
    assert!(diff(&old, &old.clone()).is_empty());
    assert_eq!(diff(&old, &old).to_string(), "nothing changed");
    assert_eq!(diff(&old, &new).to_string(), "pools: + shop, ~ media, - app; listeners: + web, - old; drain");
}

#[test]
fn a_report_as_json() {
    let report = check_text("x.yaml", "listner: {}\n").unwrap_err();
    let json = report.to_json();
    let problem = &json["problems"][0];
    assert_eq!(
        (problem["line"].as_u64(), problem["column"].as_u64(), problem["length"].as_u64()),
        (Some(1), Some(1), Some(7))
    );
    assert_eq!(problem["help"], "did you mean `listeners`?");
    assert_eq!(problem["file"], "x.yaml");
}
