//! Reload, rotation, restart and end, under traffic.

mod support;

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use support::client::End;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere, proxy_config, signal};
use support::server::{Server, ok};
use support::talk::Client;

/// A listener with these routes' lines, in flow style.
fn with_routes(routes: &str) -> String {
    format!("listeners: {{ web: {{ bind: \"$BIND\", routes: [{routes}] }} }}\n")
}

const OLD: &str = "{ path: /, respond: { body: old } }";
const NEW: &str = "{ path: /, respond: { body: new } }";

fn handshake(client: &mut Client) {
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(client.send(request).answer().status, 101);
}

/// Answers requests, and echoes what comes behind a handshake.
fn serving(place: Place) -> Server {
    Server::start(place.ip, |peer| {
        while let Some(request) = peer.request() {
            if request.header("upgrade").is_none() {
                peer.send(ok("app"));
                continue;
            }
            peer.send("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
            while let Some(bytes) = peer.some() {
                peer.send(bytes);
            }
            return;
        }
    })
}

#[test]
fn a_reload_changes_routes_and_keeps_connections() {
    everywhere(|place| {
        let server = serving(place);
        let pools = format!("pools: {{ app: {{ servers: [\"{}\"] }} }}\n", server.address());
        let proxy = "{ path: /, proxy: app }";
        let gateway = Instance::start(
            place,
            &format!("{pools}{}", with_routes(&format!("{{ path: /x, respond: {{ body: old }} }}, {proxy}"))),
        );
        let process = gateway.worker_process();
        let mut kept = gateway.connect();
        assert_eq!(kept.get("/x").text(), "old");
        let mut sockets: Vec<Client> = (0..10).map(|_| gateway.connect()).collect();
        sockets.iter_mut().for_each(handshake);

        let said = gateway
            .reload(&format!("{pools}{}", with_routes(&format!("{{ path: /x, respond: {{ body: new }} }}, {proxy}"))));
        assert!(said.contains("listeners: ~ web") && !said.contains("pool"), "{said}");
        assert_eq!(kept.get("/x").text(), "new", "on the connection that was there");
        assert_eq!(gateway.get("/x").text(), "new");
        for socket in &mut sockets {
            assert_eq!(socket.send("still here").bytes(10), b"still here");
        }
        assert_eq!(kept.get("/").text(), "app");
        assert_eq!(gateway.worker_process(), process, "the same process");
        assert!(gateway.command_ok(&["reload"]).contains("nothing changed"));
        let ruled = format!(
            "blocks: [{{ when: {{ status: 404, count: 9, within: 9s }}, for: 1m }}]\nlimits: {{ slow: {{ key: client, rate: 1/s }} }}\n{pools}{}",
            with_routes(&format!("{{ path: /x, respond: {{ body: new }} }}, {proxy}"))
        );
        assert_eq!(gateway.reload(&ruled).trim_end(), "reloaded: limits: + slow; blocks");
        // The same by a signal.
        gateway.write_config(&format!("{pools}{}", with_routes("{ path: /, respond: { body: newest } }")));
        gateway.signal("HUP");
        eventually("the newest routes", || kept.get("/x").text() == "newest");
        assert_eq!(sockets[0].send("and now").bytes(7), b"and now", "its route is gone, it is not");
    });
}

/// What a server's state was before a reload it is afterwards.
#[test]
fn a_reload_keeps_what_is_known_of_servers() {
    everywhere(|place| {
        let (one, other) = (Server::saying(place.ip, "a"), Server::saying(place.ip, "b"));
        let servers = [one.address(), other.address()];
        let gateway = Instance::proxy(place, &servers, "", "");
        gateway.command_ok(&["server", "drain", "app", &one.address().to_string()]);
        for _ in 0..5 {
            gateway.get("/").expect(200);
        }
        let requests = gateway.server("app", other.address())["requests"].clone();
        gateway.reload(&proxy_config(&servers, "", "bounds: { body: 1MiB },"));
        assert_eq!(gateway.server("app", one.address())["state"], "draining");
        assert_eq!(gateway.server("app", other.address())["requests"], requests);
        // A server that the file adds is used, one that it leaves out is not.
        let third = Server::saying(place.ip, "c");
        gateway.reload(&proxy_config(&[third.address()], "", "bounds: { body: 1MiB },"));
        assert_eq!(gateway.get("/").expect(200).text(), "c");
    });
}

#[test]
fn reloads_under_traffic_lose_nothing() {
    everywhere(|place| {
        let server = serving(place);
        // Each reload changes a route and the pool.
        let config = |number: usize| {
            let keys = format!("servers: [\"{}\"], timeouts: {{ idle: {}s }}", server.address(), 60 + number);
            let pools = format!("pools: {{ app: {{ {keys} }} }}\n");
            let route = format!("{{ path: /{number}, respond: 200 }}, {{ path: /, proxy: app }}");
            format!("{pools}{}", with_routes(&route))
        };
        let gateway = Instance::start(place, &config(0));
        let mut socket = gateway.connect();
        handshake(&mut socket);
        let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|index| {
                    let (gateway, done, count) = (&gateway, &done, &count);
                    scope.spawn(move || {
                        let mut kept = gateway.connect();
                        while !done.load(Ordering::SeqCst) {
                            let answer = if index == 0 { gateway.get("/") } else { kept.get("/") };
                            assert_eq!(answer.expect(200).text(), "app");
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            for number in 1..=10 {
                gateway.reload(&config(number));
                assert_eq!(socket.send("x").bytes(1), b"x");
            }
            let before = count.load(Ordering::SeqCst);
            eventually("traffic goes on", || count.load(Ordering::SeqCst) > before + 20);
            done.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().expect("a client saw an error");
            }
        });
    });
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    everywhere(|place| {
        let gateway = Instance::start(place, &with_routes(OLD));
        for (bad, wanted) in [
            ("listners: {}\n".to_owned(), "listeners"),
            (with_routes("{ path: /, proxy: nopool }"), "nopool"),
            (with_routes("{ path: /, respond: { body: new } "), ":"),
        ] {
            gateway.write_config(&bad);
            let output = gateway.command(&["reload"]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains(wanted) && text.contains("sumun.yaml:"), "{text}");
            assert_eq!(gateway.get("/").text(), "old");
        }
        gateway.signal("HUP");
        gateway.await_log("reload refused");
        gateway.await_log("sumun.yaml:");
        // An address that is taken is found out before anything is changed.
        let taken = std::net::TcpListener::bind((place.ip, 0)).expect("a free TCP port");
        let address = taken.local_addr().expect("it is bound");
        gateway.write_config(&format!(
            "{}  more: {{ bind: \"{address}\", routes: [{NEW}] }}\n",
            with_routes(NEW).replace("listeners: { web: ", "listeners:\n  web: ").replace("] } }\n", "] }\n")
        ));
        let output = gateway.command(&["reload"]);
        assert_ne!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(&address.to_string()), "{text}");
        assert_eq!(gateway.get("/").text(), "old");
    });
}

#[test]
fn listeners_come_and_go() {
    everywhere(|place| {
        let more = place.free_address();
        let two = |body: &str| {
            format!(
                "listeners:\n  web: {{ bind: \"$BIND\", routes: [{OLD}] }}\n  \
                     more: {{ bind: \"{more}\", routes: [{{ path: /, respond: {{ body: {body} }} }}] }}\n"
            )
        };
        let gateway = Instance::start(place, &with_routes(OLD));
        assert!(TcpStream::connect(more).is_err());
        let said = gateway.reload(&two("more"));
        assert!(said.contains("listeners: + more"), "{said}");
        let mut client = Client::connect(more);
        assert_eq!(client.get("/").text(), "more");
        let said = gateway.reload(&with_routes(OLD));
        assert!(said.contains("listeners: - more"), "{said}");
        eventually("nobody listens there any more", || TcpStream::connect(more).is_err());
        assert_eq!(gateway.get("/").text(), "old");
    });
}

/// A reload that changes the number of workers needs another process; nobody notices.
#[test]
fn the_number_of_workers_changes() {
    everywhere(|place| {
        let server = serving(place);
        let config = proxy_config(&[server.address()], "", "");
        let gateway = Instance::start(place, &format!("workers: {}\n{config}", place.workers));
        let process = gateway.worker_process();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    gateway.get("/").expect(200);
                }
            });
            gateway.reload(&format!("workers: {}\n{config}", 3 - place.workers));
            eventually("another process serves", || gateway.worker_process() != process);
            gateway.await_log("has ended");
            done.store(true, Ordering::SeqCst);
            client.join().expect("a client saw an error");
        });
        gateway.get("/").expect(200);
    });
}

#[test]
fn rotation_loses_no_line() {
    everywhere(|place| {
        let config = format!("access_log: {{ to: $DIR/access.log, format: '{{target}}' }}\n{}", with_routes(OLD));
        let gateway = Instance::start(place, &config);
        let file = |name: &str| gateway.directory().join(name);
        let mut client = gateway.connect();
        let mut number = 0;
        for round in 0..4 {
            for _ in 0..100 {
                client.get(&format!("/{number}")).expect(200);
                number += 1;
            }
            fs::rename(file("access.log"), file(&format!("access.log.{round}"))).expect("it is there");
            // Lines that come between the two go to the old file.
            for _ in 0..20 {
                client.get(&format!("/{number}")).expect(200);
                number += 1;
            }
            gateway.signal("USR1");
            eventually("the file was opened again", || file("access.log").exists());
        }
        let read = || -> Vec<usize> {
            let names = ["access.log.0", "access.log.1", "access.log.2", "access.log.3", "access.log"];
            let texts = names.map(|name| fs::read_to_string(file(name)).unwrap_or_default());
            texts.concat().lines().filter_map(|line| line.strip_prefix('/')?.parse().ok()).collect()
        };
        eventually("every line", || read().len() >= number);
        let mut found = read();
        found.sort_unstable();
        assert_eq!(found, (0..number).collect::<Vec<_>>());
    });
}

/// A server that answers `/slow` when it is told to.
fn gated(place: Place) -> (Server, mpsc::Sender<()>) {
    let (go, waits) = mpsc::channel();
    let waits = Mutex::new(waits);
    let server = Server::answering(place.ip, move |request| {
        if request.target == "/slow" {
            waits.lock().expect("no test thread panicked with it").recv_timeout(PATIENCE).ok();
        }
        ok("done")
    });
    (server, go)
}

#[test]
fn sigterm_finishes_what_was_begun() {
    everywhere(|place| {
        let (server, go) = gated(place);
        let config = format!("drain: 30s\n{}", proxy_config(&[server.address()], "", ""));
        let mut gateway = Instance::start(place, &config);
        let mut idle = gateway.connect();
        idle.get("/").expect(200);
        let mut busy = gateway.connect();
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(2);
        gateway.signal("TERM");
        assert_eq!(idle.end(), End::Closed, "an idle connection holds nothing up");
        eventually("no new connection is taken", || TcpStream::connect(gateway.address).is_err());
        go.send(()).expect("the server waits");
        let answer = busy.answer().expect(200);
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", Some("close")));
        assert!(gateway.await_end().contains('0'), "{}", gateway.log());
        assert!(!gateway.directory().join("control.sock").exists());
    });
}

#[test]
fn a_drain_has_a_deadline() {
    everywhere(|place| {
        let (server, _go) = gated(place);
        let config = format!("drain: 200ms\n{}", proxy_config(&[server.address()], "", ""));
        let mut gateway = Instance::start(place, &config);
        let mut busy = gateway.connect();
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(1);
        gateway.signal("TERM");
        gateway.await_end();
        busy.try_answer(false).expect_err("it was cut off");
    });
}

#[test]
fn the_second_sigint_ends_at_once() {
    everywhere(|place| {
        let (server, _go) = gated(place);
        let config = format!("drain: 1h\n{}", proxy_config(&[server.address()], "", ""));
        let mut gateway = Instance::start(place, &config);
        let mut busy = gateway.connect();
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(1);
        gateway.signal("INT");
        gateway.await_log("ending: ");
        assert_eq!(gateway.gateway.ended(), None, "the first one drains");
        gateway.signal("INT");
        gateway.await_end();
        busy.try_answer(false).expect_err("it was cut off");
    });
}

#[test]
fn the_command_to_stop() {
    everywhere(|place| {
        let mut gateway = Instance::start(place, &with_routes(OLD));
        gateway.get("/").expect(200);
        assert!(gateway.command_ok(&["stop"]).contains("ended"));
        gateway.await_end();
        let output = gateway.command(&["status"]);
        assert_eq!(output.status.code(), Some(1), "nobody is there to ask");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no instance is running"));
    });
}

/// The worker process dies: connections wait in the queue, and the next one serves them.
#[test]
fn a_dead_worker_process_is_replaced() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        for _ in 0..2 {
            let process = gateway.worker_process();
            let mut cut = gateway.connect();
            cut.get("/").expect(200);
            signal(process, "KILL");
            assert_ne!(cut.end(), End::TimedOut);
            // Not one of these is refused or reset, however early it comes.
            for _ in 0..5 {
                gateway.get("/").expect(200);
            }
            eventually("another process says that it is ready", || gateway.worker_process() != process);
        }
        assert!(gateway.log().contains("died"));
    });
}

/// Nobody is there to start or stop it any more: the worker process ends by itself.
#[test]
fn a_worker_process_without_its_supervisor_ends() {
    everywhere(|place| {
        let mut gateway = Instance::start(place, &with_routes(OLD));
        gateway.get("/").expect(200);
        let process = gateway.worker_process();
        gateway.signal("KILL");
        gateway.await_end();
        let path = format!("/proc/{process}/stat");
        // A zombie that nobody buries has ended, too.
        let lives = || fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z "));
        eventually("the worker process is gone", || !lives());
        assert!(TcpStream::connect(gateway.address).is_err());
    });
}

/// To open a named pipe is to wait for who writes into it, for ever if nobody does.
#[test]
fn a_pipe_in_the_place_of_a_config_is_refused() {
    let place = Place { ip: "127.0.0.1".parse().expect("an address"), workers: 1 };
    let config = format!("include: more.yaml\n{}", with_routes(OLD));
    let gateway = Instance::start_in(place, &config, |directory| {
        fs::write(directory.join("more.yaml"), "sandbox: on\n").expect("it can be written");
    });
    let refused = |command: &str, wanted: &str| {
        let output = gateway.command(&[command]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{command}: {wanted:?} in {said}");
        assert_eq!(gateway.get("/").expect(200).text(), "old");
    };
    let put_pipe = |name: &str| {
        let path = gateway.directory().join(name);
        fs::remove_file(&path).expect("it was there");
        assert!(std::process::Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
    };
    put_pipe("more.yaml");
    for command in ["check", "reload"] {
        refused(command, "more.yaml: it is a pipe and no regular file");
    }
    put_pipe("sumun.yaml");
    refused("check", "the config file cannot be read: it is a pipe and no regular file");
    gateway.signal("HUP");
    gateway.await_log("the config file cannot be read: it is a pipe and no regular file");
    assert_eq!(gateway.get("/").expect(200).text(), "old");
}

/// Its event loops stand still, and nobody but the supervisor is there to notice.
#[test]
fn a_worker_process_that_hangs_is_replaced() {
    let place = Place { ip: "127.0.0.1".parse().expect("an address"), workers: 1 };
    let gateway = Instance::start(place, &with_routes(OLD));
    let before = gateway.worker_process();
    signal(before, "STOP");
    // A thread that has not heard of it yet might still accept.
    eventually("all of its threads stand still", || {
        let mut threads = fs::read_dir(format!("/proc/{before}/task")).expect("it is there").filter_map(Result::ok);
        threads.all(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("State:") && line.contains("stopped"))
        })
    });
    // It waits in the queue of a socket that outlives the process, which takes nothing out of it any more.
    let mut waiting = gateway.connect();
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // Half a minute passes before it is given up.
    let until = std::time::Instant::now() + PATIENCE * 3;
    while gateway.worker_process() == before {
        assert!(std::time::Instant::now() < until, "it is not replaced");
        thread::sleep(std::time::Duration::from_millis(100));
    }
    gateway.await_log(&format!("worker process {before} has not answered for 30 s: it is replaced"));
    assert_eq!(gateway.get("/").expect(200).text(), "old");
    assert_eq!(waiting.answer().expect(200).text(), "old");
}
