//! More requests than the servers can take: who waits, who goes first, who is told to go.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use support::instance::{Instance, Place, eventually, everywhere};
use support::server::{Server, ok};
use support::talk::Client;

/// Routes of each priority to a pool with one place and this queue.
fn by_priority(place: Place, server: &Server, queue: &str) -> Instance {
    let config = format!(
        "pools: {{ app: {{ servers: \"{}\", concurrency: 1, queue: {{ {queue} }}, retries: off }} }}\n\
         listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
           {{ path: /critical, proxy: app, priority: critical }}, {{ path: /high, proxy: app, priority: high }},\n\
           {{ path: /low, proxy: app, priority: low }}, {{ path: /, proxy: app }} ] }} }}\n",
        server.address()
    );
    Instance::start(place, &config)
}

fn ask(gateway: &Instance, target: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n"));
    client
}

fn queued(gateway: &Instance) -> u64 {
    gateway.json(&["pool", "app"])[0]["queued"].as_u64().expect("a number")
}

/// Sends them so that they wait in this order.
fn queue_up(gateway: &Instance, targets: &[&str]) -> Vec<Client> {
    let before = queued(gateway);
    let one = |(number, target): (usize, &&str)| {
        let client = ask(gateway, target);
        eventually("it waits", || queued(gateway) == before + number as u64 + 1);
        client
    };
    targets.iter().enumerate().map(one).collect()
}

#[test]
fn the_important_go_first() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        let gateway = by_priority(place, &server, "timeout: 60s");
        let mut first = ask(&gateway, "/first");
        server.await_count(1);
        let mut waiting = queue_up(&gateway, &["/low", "/normal", "/high", "/critical"]);
        for _ in 0..5 {
            go.send(()).expect("the server waits");
        }
        first.answer().expect(200);
        for client in &mut waiting {
            client.answer().expect(200);
        }
        let targets: Vec<String> = server.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/first", "/critical", "/high", "/normal", "/low"]);
    });
}

#[test]
fn in_a_full_queue_the_important_take_the_places_of_others() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        let gateway = by_priority(place, &server, "size: 1, timeout: 60s");
        let mut first = ask(&gateway, "/first");
        server.await_count(1);
        let mut low = queue_up(&gateway, &["/low"]).remove(0);
        let mut critical = ask(&gateway, "/critical");
        let answer = low.answer().expect(503);
        assert!(answer.text().contains("\"shed\"") && answer.header("retry-after").is_some(), "{}", answer.text());
        // Nobody is pushed out by an equal, nor by who is less important.
        for target in ["/critical", "/normal"] {
            let answer = ask(&gateway, target).answer().expect(503);
            assert!(answer.text().contains("queue_full"), "{}", answer.text());
        }
        go.send(()).expect("the server waits");
        go.send(()).expect("the server waits");
        first.answer().expect(200);
        critical.answer().expect(200);
    });
}

/// A queue that does not empty serves the newest, and who comes to it pushes those out who have waited
/// too long.
#[test]
fn a_queue_that_does_not_empty_serves_the_newest() {
    everywhere(|place| {
        let (server, go) = Server::gated(place.ip);
        // Patience is a tenth of it.
        let gateway = by_priority(place, &server, "timeout: 10s");
        let mut first = ask(&gateway, "/first");
        server.await_count(1);
        let mut waiting = queue_up(&gateway, &["/1", "/2"]);
        thread::sleep(Duration::from_millis(1100));
        let mut newest = ask(&gateway, "/3");
        for client in &mut waiting {
            let answer = client.answer().expect(503);
            assert!(answer.text().contains("\"shed\""), "{}", answer.text());
        }
        let mut critical = ask(&gateway, "/critical");
        eventually("both wait", || queued(&gateway) == 2);
        for _ in 0..3 {
            go.send(()).expect("the server waits");
        }
        for client in [&mut first, &mut newest, &mut critical] {
            client.answer().expect(200);
        }
        let targets: Vec<String> = server.requests().into_iter().map(|request| request.target).collect();
        assert_eq!(targets, ["/first", "/critical", "/3"]);
        assert_eq!(gateway.json(&["pool", "app"])[0]["shed"], 2);
    });
}

/// So many at once, and the others wait inside the server, as in one with few threads.
fn with_hands(place: Place, hands: usize, time: Duration) -> (Server, Arc<AtomicUsize>) {
    let (free, most) = (Arc::new((Mutex::new(hands), Condvar::new())), Arc::new(AtomicUsize::new(0)));
    let (inside, most_too) = (AtomicUsize::new(0), Arc::clone(&most));
    let server = Server::answering(place.ip, move |_| {
        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (count, freed) = &*free;
        let mut left = freed.wait_while(count.lock().expect("no panic"), |left| *left == 0).expect("no panic");
        *left -= 1;
        drop(left);
        thread::sleep(time);
        *count.lock().expect("no panic") += 1;
        freed.notify_one();
        inside.fetch_sub(1, Ordering::SeqCst);
        ok("done")
    });
    (server, most_too)
}

/// Nobody says how many requests the server takes at once, and it is found out.
#[test]
fn an_adaptive_limit_finds_out_what_a_server_can_do() {
    everywhere(|place| {
        let (server, most) = with_hands(place, 4, Duration::from_millis(20));
        let config = "concurrency: adaptive, queue: { timeout: 20s }, retries: off,";
        let gateway = Instance::proxy(place, &[server.address()], config, "");
        let done = AtomicBool::new(false);
        let pool = || gateway.json(&["pool", "app"])[0].clone();
        thread::scope(|scope| {
            for _ in 0..60 {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    while !done.load(Ordering::SeqCst) {
                        let answer = client.get("/");
                        assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
                        if answer.status == 503 {
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                });
            }
            // 300 answers are a second and a half; whoever looks at a busy machine waits longer.
            server.await_count(300);
            eventually("it has settled", || pool()["answer_us"].as_u64().is_some_and(|found| found >= 15_000));
            done.store(true, Ordering::SeqCst);
        });
        let found = pool();
        let limit = found["concurrency"].as_u64().expect("there is a limit");
        assert!((1..40).contains(&limit), "{found}");
        assert!(most.load(Ordering::SeqCst) < 60, "not all of them were let in at once");
    });
}

/// One of three servers has become slow: it gets fewer at once, the others go on, and who finds no place
/// at any of them waits.
#[test]
fn a_slow_server_among_quick_ones_gets_fewer_at_once() {
    everywhere(|place| {
        let slow = with_hands(place, 1, Duration::from_millis(100));
        let quick = [with_hands(place, 8, Duration::from_millis(10)), with_hands(place, 8, Duration::from_millis(10))];
        let servers = [&slow, &quick[0], &quick[1]].map(|(server, _)| server.address());
        // In turns, all clients would come to wait for the slow one, and nobody would try how many the others take.
        let config = "concurrency: { per_server: adaptive }, queue: { timeout: 20s },";
        let gateway = Instance::proxy(place, &servers, config, "");
        let found = |server: usize| gateway.server("app", servers[server]);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    while !done.load(Ordering::SeqCst) {
                        if client.get("/").status != 200 {
                            thread::sleep(Duration::from_millis(20));
                        }
                    }
                });
            }
            slow.0.await_count(30);
            eventually("it has settled", || (0..3).all(|server| found(server)["answer_us"].as_u64() > Some(0)));
            eventually("the slow one gets fewer", || {
                let limits = [0, 1, 2].map(|server| found(server)["concurrency"].as_u64().expect("a number"));
                limits[0] * 2 <= limits[1].min(limits[2])
            });
            eventually("some wait", || queued(&gateway) > 0);
            done.store(true, Ordering::SeqCst);
        });
        let most = slow.1.load(Ordering::SeqCst);
        assert!(most <= 20, "{most} at once at the slow one");
        let counts = [&slow, &quick[0], &quick[1]].map(|(server, _)| server.requests().len());
        assert!(counts[0] * 4 < counts[1].min(counts[2]), "{counts:?}");
        assert!(gateway.json(&["pool", "app"])[0]["concurrency"].is_null(), "the pool has no bound of its own");
    });
}

/// Answers whose bodies take long, such as streams of events, hold no place of an adaptive limit.
#[test]
fn an_adaptive_limit_counts_those_who_wait_for_an_answer() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                if request.target == "/events" {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
                    peer.drain();
                    return;
                }
                peer.send(ok("plain"));
            }
        });
        let config = "concurrency: adaptive, queue: { timeout: 1s }, retries: off,";
        let gateway = Instance::proxy(place, &[server.address()], config, "");
        let mut streams: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = ask(&gateway, "/events");
                assert_eq!(client.head().0, 200);
                client
            })
            .collect();
        assert_eq!(gateway.get("/").expect(200).text(), "plain");
        streams.clear();
    });
}

/// A client that reads slowly holds no place once the server is done.
#[test]
fn a_slow_reader_holds_no_place() {
    everywhere(|place| {
        let body = vec![b'x'; 200_000];
        let server =
            Server::answering(place.ip, move |request| ok(if request.target == "/large" { &body[..] } else { b"x" }));
        let gateway = Instance::proxy(place, &[server.address()], "concurrency: 1, queue: { timeout: 20s },", "");
        let mut slow = ask(&gateway, "/large");
        server.await_count(1);
        for _ in 0..3 {
            gateway.get("/").expect(200);
        }
        assert_eq!(slow.answer().expect(200).body.len(), 200_000);
    });
}

/// Where no server answers, files stand in for it.
#[test]
fn files_stand_in_for_servers_that_are_down() {
    everywhere(|place| {
        let mut server = Server::saying(place.ip, "alive");
        let config = format!(
            "pools: {{ app: {{ servers: \"{}\", retries: off }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
               {{ path: /shop/, proxy: app, degrade: {{ files: {{ root: $DIR/static, fallback: sorry.html }} }} }},\n\
               {{ path: /, proxy: app, degrade: {{ files: $DIR/static }} }} ] }} }}\n",
            server.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            std::fs::create_dir(directory.join("static")).expect("it is new");
            std::fs::write(directory.join("static/sorry.html"), "back soon").expect("there is room");
            std::fs::write(directory.join("static/price.json"), "{}").expect("there is room");
        });
        assert_eq!(gateway.get("/shop/").expect(200).text(), "alive");
        server.stop();
        let answer = gateway.get("/shop/cart").expect(200);
        assert_eq!((answer.text().as_str(), answer.header("cache-control")), ("back soon", Some("no-store")));
        assert_eq!(gateway.get("/shop/price.json").expect(200).text(), "{}");
        // What is not there is the error that it was; so is what changes something.
        gateway.get("/other").expect(502);
        gateway.connect().request("POST", "/shop/cart", "", b"x").expect(502);
        assert_eq!(gateway.get("/price.json").expect(200).text(), "{}");
    });
}

/// Who still reads a stand-in holds no place of the servers that are back.
#[test]
fn a_slow_reader_of_a_stand_in_holds_no_place() {
    everywhere(|place| {
        let mut server = Server::saying(place.ip, "alive");
        let config = format!(
            "pools: {{ app: {{ servers: \"{}\", retries: off, concurrency: 2, queue: {{ timeout: 1s }} }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", bounds: {{ idle: 10m }}, routes: [\n\
               {{ path: /, proxy: app, degrade: {{ files: $DIR/static }} }} ] }} }}\n",
            server.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            std::fs::create_dir(directory.join("static")).expect("it is new");
            let large = std::fs::File::create(directory.join("static/large.bin")).expect("there is room");
            large.set_len(30_000_000).expect("it is mostly a hole");
        });
        server.stop();
        let slow: Vec<Client> = (0..2)
            .map(|_| {
                let mut client = ask(&gateway, "/large.bin");
                assert_eq!(client.bytes(12), b"HTTP/1.1 200");
                client
            })
            .collect();
        let _server = Server::start_at(server.address(), |peer| peer.answer_all(&|_| ok("alive")));
        eventually("an answer of the server", || gateway.get("/").status == 200);
        drop(slow);
    });
}

/// Servers that refuse everything are left in peace, but for a few that find out when they accept again.
/// Who is turned away is told so, or gets the stand-in; the important go to the servers as long as any.
#[test]
fn servers_that_refuse_are_sent_less() {
    everywhere(|place| {
        let refuses = Arc::new(AtomicBool::new(true));
        let (refuses_too, busy) = (Arc::clone(&refuses), "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        let server =
            Server::answering(
                place.ip,
                move |_| {
                    if refuses_too.load(Ordering::SeqCst) { busy.into() } else { ok("done") }
                },
            );
        let config = format!(
            "access_log: {{ to: $DIR/access.log, format: \"{{target}} {{status}} {{reason}}\" }}\n\
             pools: {{ app: {{ servers: \"{}\", throttle: on, outlier: off }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", bounds: {{ requests: 1000000 }}, routes: [\n\
               {{ path: /shop, proxy: app, priority: low, degrade: {{ files: {{ root: $DIR/static, fallback: sorry.html }} }} }},\n\
               {{ path: /, proxy: app }} ] }} }}\n",
            server.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            std::fs::create_dir(directory.join("static")).expect("it is new");
            std::fs::write(directory.join("static/sorry.html"), "back soon").expect("there is room");
        });
        let mut client = gateway.connect();
        let mut ask = |target: &str| {
            let answer = client.get(target);
            (answer.status, answer.text(), answer.header("retry-after").map(str::to_owned))
        };
        assert_eq!(ask("/"), (503, "busy".to_owned(), None));
        eventually("requests are turned away", || {
            let (status, text, retry_after) = ask("/");
            assert_eq!(status, 503);
            text.contains("throttled") && retry_after.as_deref() == Some("1")
        });
        eventually("a file stands in", || ask("/shop") == (200, "back soon".to_owned(), None));
        // Of a second's requests next to none reach the server.
        let (before, mut asked) = (server.requests().len(), 0);
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            ask("/");
            asked += 1;
        }
        let reached = server.requests().len() - before;
        assert!(reached * 5 < asked, "{reached} of {asked}");
        refuses.store(false, Ordering::SeqCst);
        let mut in_row = 0;
        eventually("all are sent again", || {
            in_row = if ask("/").1 == "done" { in_row + 1 } else { 0 };
            in_row >= 100
        });
        let throttled = gateway.json(&["pool", "app"])[0]["throttled"].as_u64().expect("a number");
        assert!(throttled as usize >= asked - reached, "{throttled}");
        eventually("the log names it", || {
            let log = std::fs::read_to_string(gateway.directory().join("access.log")).unwrap_or_default();
            log.contains("/ 503 throttled") && log.contains("/shop 200 throttled")
        });
    });
}
