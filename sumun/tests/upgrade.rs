//! From one program to the next under traffic, and what a new process knows of the one before.

mod support;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use support::client::End;
use support::gateway;
use support::instance::{Instance, Place, eventually, everywhere, proxy_config, signal};
use support::server::{Peer, Server, ok};
use support::talk::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sumun");

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// "Going away" from a server, and from a client less its mask.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// Puts a program in the place of `to` at once. By another process: a copy that this one writes could
/// be open in a child of another thread at the moment it is executed.
fn put(from: impl AsRef<Path>, to: &Path) {
    let beside = to.with_extension("new");
    let copied = Command::new("cp").arg(from.as_ref()).arg(&beside).status();
    assert!(copied.is_ok_and(|status| status.success()), "a copy of the program");
    fs::rename(beside, to).expect("it takes the place of the old one");
}

/// The same with a shell script, in which `$SUMUN` is the real program.
fn put_script(text: &str, to: &Path) {
    let beside = to.with_extension("sh");
    fs::write(&beside, format!("#!/bin/sh\nSUMUN={PROGRAM}\n{text}\n")).expect("the script can be written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("it is ours");
    put(&beside, to);
}

/// An instance whose program lies in the directory of the test.
fn start(place: Place, config: &str) -> Instance {
    Instance::start_as(
        place,
        config,
        |directory| put(PROGRAM, &directory.join("sumun")),
        |directory, log| gateway::command(directory.join("sumun"), log),
    )
}

fn program_of(gateway: &Instance) -> PathBuf {
    gateway.directory().join("sumun")
}

fn upgrade(gateway: &Instance) {
    let before = gateway.worker_process();
    let said = gateway.command_ok(&["upgrade"]);
    assert!(said.starts_with("upgraded from "), "{said}");
    assert_ne!(gateway.worker_process(), before, "another process serves");
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// Children of the supervisor that live.
fn worker_processes(gateway: &Instance) -> Vec<u32> {
    let supervisor = gateway.gateway.process_id();
    let text = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn open_descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// Answers requests; echoes each frame of a WebSocket.
fn serving(place: Place) -> Server {
    Server::start(place.ip, |peer| {
        while let Some(request) = peer.request() {
            if request.header("upgrade").is_none() {
                peer.send(ok("app"));
                continue;
            }
            peer.send("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
            return echo_frames(peer);
        }
    })
}

fn echo_frames(peer: &mut Peer) {
    while let Some(frame) = short_frame(peer) {
        if frame[0] & 0x0f == 8 {
            return;
        }
        // As a server sends it: not masked.
        let payload: Vec<u8> =
            frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        peer.send([&[frame[0], frame[1] & 0x7f], payload.as_slice()].concat());
    }
}

/// A whole masked frame of up to 125 bytes.
fn short_frame(peer: &mut Peer) -> Option<Vec<u8>> {
    let head = peer.exactly(2)?;
    let rest = peer.exactly(4 + usize::from(head[1] & 0x7f))?;
    Some([head, rest].concat())
}

/// Connects a WebSocket.
fn websocket(gateway: &Instance) -> Client {
    let mut client = gateway.connect();
    assert_eq!(client.send(HANDSHAKE).answer().status, 101);
    client
}

/// Sends a text of four bytes and waits for the echo; `false` where the gateway goes away instead.
fn echo(client: &mut Client, text: &[u8; 4]) -> bool {
    client.send([&[0x81, 0x84, 0, 0, 0, 0], text.as_slice()].concat());
    let head = client.bytes(2);
    if head == GOING_AWAY[..2] {
        assert_eq!(client.bytes(2), GOING_AWAY[2..]);
        return false;
    }
    assert_eq!([head, client.bytes(4)].concat(), [&[0x81, 4], text.as_slice()].concat());
    true
}

#[test]
fn twenty_upgrades_under_load_lose_nothing() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = start(place, &format!("drain: 3s\n{}", proxy_config(&[server.address()], "", "")));
        let (supervisor, address) = (gateway.gateway.process_id(), gateway.address);
        let (done, answers, sockets) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let go_on = || !done.load(Ordering::SeqCst);
        thread::scope(|scope| {
            let once = scope.spawn(|| {
                while go_on() {
                    Client::connect(address).get("/").expect(200);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
            let kept = [0, 7].map(|pause_ms| {
                let (go_on, answers) = (&go_on, &answers);
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    while go_on() {
                        let answer = client.get("/").expect(200);
                        answers.fetch_add(1, Ordering::SeqCst);
                        if answer.header("connection") == Some("close") {
                            assert_eq!(client.end(), End::Closed);
                            client = Client::connect(address);
                        }
                        // Idle for a moment, as clients are.
                        thread::sleep(std::time::Duration::from_millis(pause_ms));
                    }
                })
            });
            let frames = scope.spawn(|| {
                let mut client = websocket(&gateway);
                let mut number = 0_u32;
                while go_on() {
                    number = number.wrapping_add(1);
                    while !echo(&mut client, &number.to_be_bytes()) {
                        assert_eq!(client.end(), End::Closed);
                        client = websocket(&gateway);
                    }
                    sockets.fetch_add(1, Ordering::SeqCst);
                }
            });
            let mut descriptors = 0;
            for round in 0..20 {
                upgrade(&gateway);
                let (before, socket) = (answers.load(Ordering::SeqCst), sockets.load(Ordering::SeqCst));
                eventually("traffic goes on", || {
                    answers.load(Ordering::SeqCst) > before + 10 && sockets.load(Ordering::SeqCst) > socket + 10
                });
                if round == 0 {
                    eventually("the first one has gone", || worker_processes(&gateway).len() <= 2);
                    descriptors = open_descriptors(supervisor);
                }
            }
            done.store(true, Ordering::SeqCst);
            for client in [once, frames].into_iter().chain(kept) {
                client.join().expect("a client saw an error");
            }
            // What was there before is gone: its memory, and what the supervisor held of it.
            eventually("one worker process is left", || worker_processes(&gateway) == [gateway.worker_process()]);
            assert!(open_descriptors(supervisor) <= descriptors, "descriptors are left open");
        });
        assert_eq!(gateway.log().matches("upgraded from").count(), 20);
        assert_eq!(gateway.gateway.process_id(), supervisor);
        let name = fs::read_to_string(format!("/proc/{supervisor}/comm")).expect("it runs");
        assert_eq!(name.trim(), "sumun");
    });
}

/// A client that is about to send its next request is answered on the connection it has.
#[test]
fn an_idle_connection_hears_of_it_with_its_next_answer() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = start(place, &format!("drain: 30s\n{}", proxy_config(&[server.address()], "", "")));
        let mut kept = gateway.connect();
        assert_eq!(kept.get("/").expect(200).header("connection"), None);
        // By a signal as well as by the command.
        gateway.signal("USR2");
        gateway.await_log("upgraded from");
        // With a signal the old process is told a moment later. Not one request is lost until then, or after.
        eventually("the last answer", || kept.get("/").expect(200).header("connection") == Some("close"));
        assert_eq!(kept.end(), End::Closed);
        // With its last connection the old process has ended, long before its time.
        eventually("one worker process is left", || worker_processes(&gateway).len() == 1);
        // The new program obeys, and ends in order.
        gateway.reload(&format!("drain: 30s\n{}", proxy_config(&[server.address()], "", "bounds: { body: 1MiB },")));
        let mut gateway = gateway;
        gateway.command_ok(&["stop"]);
        gateway.await_end();
        assert!(!gateway.directory().join("control.sock").exists());
    });
}

/// What is begun in the old process ends there.
#[test]
fn what_was_begun_is_finished() {
    everywhere(|place| {
        let (go, waits) = std::sync::mpsc::channel::<()>();
        let waits = std::sync::Mutex::new(waits);
        let server = Server::answering(place.ip, move |request| {
            if request.target == "/slow" {
                waits.lock().expect("nobody panicked with it").recv().ok();
            }
            ok("done")
        });
        let gateway = start(place, &format!("drain: 30s\n{}", proxy_config(&[server.address()], "", "")));
        let mut busy = gateway.connect();
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(1);
        upgrade(&gateway);
        gateway.get("/").expect(200);
        go.send(()).expect("the server waits");
        let answer = busy.answer().expect(200);
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", Some("close")));
    });
}

#[test]
fn a_new_program_that_cannot_go_on_changes_nothing() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = start(place, &proxy_config(&[server.address()], "", ""));
        let program = program_of(&gateway);
        let old = gateway.worker_process();
        let mut kept = gateway.connect();
        let mut refused = |wanted: &str| {
            let output = gateway.command(&["upgrade"]);
            let text = text_of(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("the running program goes on") && text.contains(wanted), "{wanted:?} in {text}");
            assert!(gateway.log().contains("upgrade refused"));
            assert_eq!(kept.get("/").expect(200).header("connection"), None, "the old process serves as before");
            eventually("nothing of the new program is left", || worker_processes(&gateway) == [old]);
            // Nothing is being handed over any more.
            gateway.command_ok(&["server", "drain", "app", &server.address().to_string()]);
            gateway.command_ok(&["server", "enable", "app", &server.address().to_string()]);
        };
        fs::remove_file(&program).expect("it was there");
        refused("No such file");
        fs::write(&program, "not a program").expect("it can be written");
        refused("not executable");
        fs::remove_file(&program).expect("it was there");
        fs::create_dir(&program).expect("a directory in its place");
        refused("not a file");
        fs::remove_dir(&program).expect("it is empty");
        put("/bin/true", &program);
        refused("no sumun");
        put("/bin/false", &program);
        refused("exit status: 1");
        put_script("echo library missing >&2; exit 127", &program);
        refused("library missing");
        put_script("kill -SEGV $$", &program);
        refused("SIGSEGV");
        put_script(r#"[ "$1" = takeover ] && { echo '{"version":"9.9.9","messages":0}'; exit 0; }"#, &program);
        refused("sumun 9.9.9, speaks other messages");
        put_script(r#"[ "$1" = takeover ] && { echo >>"$0"; exec $SUMUN "$@"; }"#, &program);
        refused("replaced");
        put_script(r#"[ "$1" = worker ] && { echo no luck; exit 3; }; exec $SUMUN "$@""#, &program);
        refused("exit status: 3");
        // The state says that descriptors are there that are not: the real program, but not our state.
        put_script(r#"[ "$1" = takeover ] && { exec $SUMUN takeover </dev/null; }; exec $SUMUN "$@""#, &program);
        refused("cannot be read");
        // And one that can.
        put(PROGRAM, &program);
        upgrade(&gateway);
        assert_eq!(kept.get("/").expect(200).header("connection"), Some("close"));
    });
}

/// The worker process of the new program hangs: it is given up in time, and nobody notices.
#[test]
fn a_new_program_that_hangs_is_given_up() {
    let place = Place { ip: std::net::Ipv4Addr::LOCALHOST.into(), workers: 1 };
    let gateway = start(place, "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: 204 }] } }\n");
    put_script(r#"[ "$1" = worker ] && exec sleep 1000; exec $SUMUN "$@""#, &program_of(&gateway));
    let old = gateway.worker_process();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut kept = gateway.connect();
            while !done.load(Ordering::SeqCst) {
                kept.get("/").expect(204);
                gateway.get("/").expect(204);
                thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let text = text_of(&gateway.command(&["upgrade"]));
        assert!(text.contains("did not become ready in time"), "{text}");
        done.store(true, Ordering::SeqCst);
        client.join().expect("a client saw an error");
    });
    assert_eq!(worker_processes(&gateway), [old]);
}

/// The worker process of the new program says that it is ready, and is not to be talked to any more.
#[test]
fn a_new_program_that_ends_when_it_is_ready_is_given_up() {
    let place = Place { ip: std::net::Ipv4Addr::LOCALHOST.into(), workers: 1 };
    let gateway = start(place, "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: 204 }] } }\n");
    let old = gateway.worker_process();
    put_script(
        r#"if [ "$1" = worker ]; then
            folder=${0%/*}
            # The first message, which who cannot send it takes for the end of this.
            dd bs=1 count=1 of=/dev/null 2>/dev/null
            : >"$folder/begun"
            while [ ! -e "$folder/go" ]; do sleep 0.01; done
            printf '\000\000\000\007\000\000\000\000"Ready"' >&0
            exec 0</dev/null
            : >"$folder/told"
            exec sleep 1000
        fi
        exec $SUMUN "$@""#,
        &program_of(&gateway),
    );
    let there = |name: &str| eventually(name, || gateway.directory().join(name).exists());
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| text_of(&gateway.command(&["upgrade"])));
        there("begun");
        // So that it hears both at once, whatever else this machine does.
        signal(gateway.gateway.process_id(), "STOP");
        fs::write(gateway.directory().join("go"), "").expect("it can be written");
        there("told");
        signal(gateway.gateway.process_id(), "CONT");
        let text = upgrade.join().expect("the command runs");
        assert!(text.contains("does not serve any more"), "{text}");
    });
    gateway.get("/").expect(204);
    eventually("nothing of the new program is left", || worker_processes(&gateway) == [old]);
}

/// The new program understood the state in the rehearsal, and gives it back all the same.
#[test]
fn the_program_before_takes_everything_back() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = start(place, &proxy_config(&[server.address()], "", ""));
        let old = gateway.worker_process();
        let supervisor = gateway.gateway.process_id();
        let mut socket = websocket(&gateway);
        put_script(
            r#"[ "$1" = run ] && { SUMUN_TAKEOVER_REFUSED="no room left"; export SUMUN_TAKEOVER_REFUSED; }; exec $SUMUN "$@""#,
            &program_of(&gateway),
        );
        let output = gateway.command(&["upgrade"]);
        let text = text_of(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("no room left"), "{text}");
        eventually("the new worker process has gone", || worker_processes(&gateway) == [old]);
        assert!(echo(&mut socket, b"here"));
        gateway.get("/").expect(200);
        gateway.command_ok(&["server", "drain", "app", &server.address().to_string()]);
        assert_eq!(gateway.gateway.process_id(), supervisor);
        put(PROGRAM, &program_of(&gateway));
        upgrade(&gateway);
        assert_eq!(gateway.server("app", server.address())["state"], "draining");
    });
}

/// A program that cannot take what it is given executes the one that gave it, which is held open.
#[test]
fn who_cannot_take_over_gives_back() {
    let memory = |bytes: &[u8]| sumun_host::program::memory_file("state", bytes).expect("a file in memory");
    // As it is held: not to be read, only to be executed (O_PATH).
    let echo = File::options().read(true).custom_flags(0o10000000).open("/bin/echo");
    let echo: OwnedFd = echo.expect("every system has it").into();
    let nothing: OwnedFd = File::open("/dev/null").expect("every system has it").into();
    for (state, why) in [
        ("", "cannot be read"),
        (r#"{"format":0,"version":"9.9.9"}"#, "sumun 9.9.9 writes its state in another form"),
        (r#"{"format":1,"version":"9.9.9"}"#, "missing field"),
    ] {
        let state = memory(state.as_bytes());
        let queue = sumun_host::pass::queue_descriptors(&[state.as_fd(), echo.as_fd(), nothing.as_fd()]);
        let mut child = Command::new(PROGRAM)
            .args(["run", "-c", "nowhere.yaml"])
            .env("SUMUN_TAKEOVER", "3")
            .stdin(queue.expect("three are not many"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = String::new();
        child.stdout.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        let errors = std::io::read_to_string(child.stderr.take().expect("it is piped")).expect("it is text");
        assert!(errors.contains(why), "{errors}");
        assert!(child.wait().expect("it ends").success());
        assert_eq!(said, "run -c nowhere.yaml\n", "the program before, with the same arguments");
    }
}

/// Whatever operators did and checks found, a new process goes on with it.
#[test]
fn what_is_known_of_servers_is_carried() {
    everywhere(|place| {
        let servers: Vec<Server> = ["a", "b", "c", "d"].map(|name| Server::saying(place.ip, name)).into();
        let addresses: Vec<_> = servers.iter().map(Server::address).collect();
        let dead = place.free_address();
        let config = |workers: usize| {
            let all: Vec<_> = addresses[..3].iter().copied().chain([dead]).collect();
            let health = "health: { tcp: {}, every: 1h, fall: 1 },";
            // The sandbox would refuse a server whose TCP port the file does not name.
            format!("workers: {workers}\nsandbox: off\n{}", proxy_config(&all, health, ""))
        };
        let gateway = start(place, &config(place.workers));
        gateway.await_state("app", dead, "down");
        let server = |action: &str, address: std::net::SocketAddr, more: &[&str]| {
            let address = address.to_string();
            gateway.command_ok(&[&["server", action, "app", &address], more].concat());
        };
        server("drain", addresses[0], &[]);
        server("weight", addresses[1], &["7"]);
        server("remove", addresses[2], &[]);
        server("add", addresses[3], &["--weight", "3"]);
        let known = || {
            let pools = gateway.json(&["pool", "app"]);
            let rows = pools[0]["servers"].as_array().expect("a list").clone();
            let row = |row: &serde_json::Value| {
                ["address", "state", "weight"].map(|key| row[key].to_string().trim_matches('"').to_owned())
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        let row = |address: std::net::SocketAddr, state: &str, weight: u32| {
            [address.to_string(), state.to_owned(), weight.to_string()]
        };
        let expected = [
            row(addresses[0], "draining", 1),
            row(addresses[1], "up", 7),
            row(dead, "down", 1),
            row(addresses[3], "up", 3),
        ];
        assert_eq!(known(), expected);
        for _ in 0..2 {
            upgrade(&gateway);
            assert_eq!(known(), expected);
        }
        // Another number of workers needs another process, too.
        let before = gateway.worker_process();
        gateway.reload(&config(3 - place.workers));
        eventually("another process serves", || gateway.worker_process() != before);
        assert_eq!(known(), expected);
        // One that dies without a word: what operators did is known, what it found out is found out anew.
        let before = gateway.worker_process();
        signal(before, "KILL");
        eventually("another process serves", || gateway.worker_process() != before);
        assert_eq!(
            known().iter().map(|row| row[0].clone()).collect::<Vec<_>>(),
            expected.clone().map(|row| row[0].clone())
        );
        assert_eq!((&known()[0], &known()[1], &known()[3]), (&expected[0], &expected[1], &expected[3]));
    });
}

/// Each upgrade leaves a process with a WebSocket behind. The fifth of them ends early, and in order.
#[test]
fn so_many_drain_at_once_and_no_more() {
    everywhere(|place| {
        let server = serving(place);
        let gateway = start(place, &format!("drain: 1h\n{}", proxy_config(&[server.address()], "", "")));
        let mut sockets = Vec::new();
        for number in 0..6_u32 {
            let mut socket = websocket(&gateway);
            assert!(echo(&mut socket, &number.to_be_bytes()));
            sockets.push((gateway.worker_process(), socket));
            upgrade(&gateway);
        }
        // Two too many: the oldest were told.
        for (process, socket) in sockets.iter_mut().take(2) {
            assert_eq!(socket.bytes(4), GOING_AWAY);
            assert_eq!(socket.end(), End::Closed);
            gateway.await_log(&format!("worker process {process} ends now what it has left"));
        }
        for (_, socket) in sockets.iter_mut().skip(2) {
            assert!(echo(socket, b"stay"));
        }
        eventually("four drain, and one serves", || worker_processes(&gateway).len() == 5);
    });
}

/// A signal that comes while the one program becomes the next finds no handler there: it has to wait.
#[test]
fn signals_do_no_harm_while_programs_change() {
    everywhere(|place| {
        let gateway = start(place, "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: 204 }] } }\n");
        let supervisor = gateway.gateway.process_id();
        let script =
            format!("while kill -HUP {supervisor} && kill -USR1 {supervisor} && kill -USR2 {supervisor}; do :; done");
        let mut flood = Command::new("sh").args(["-c", &script]).spawn().expect("a shell");
        let mut client = gateway.connect();
        eventually("many upgrades", || {
            if client.get("/").expect(204).header("connection") == Some("close") {
                client = gateway.connect();
            }
            gateway.log().matches("upgraded from").count() >= 10
        });
        flood.kill().expect("it runs");
        flood.wait().expect("it ends");
        // Whatever was asked for last is done, and then it is quiet.
        eventually("it obeys", || gateway.command(&["upgrade"]).status.success());
        gateway.command_ok(&["reload"]);
        gateway.get("/").expect(204);
    });
}

/// Who was left behind by an upgrade has no successor any more: idle connections hold nothing up.
#[test]
fn a_stop_ends_those_that_drain_already() {
    everywhere(|place| {
        let server = serving(place);
        let mut gateway = start(place, &format!("drain: 1h\n{}", proxy_config(&[server.address()], "", "")));
        let mut idle = gateway.connect();
        idle.get("/").expect(200);
        upgrade(&gateway);
        assert_eq!(worker_processes(&gateway).len(), 2);
        gateway.signal("TERM");
        assert_eq!(idle.end(), End::Closed);
        gateway.await_end();
    });
}

#[test]
fn the_end_of_a_drain_closes_websockets() {
    everywhere(|place| {
        let (told, hears) = std::sync::mpsc::channel();
        let told = std::sync::Mutex::new(told);
        let (half, rest) = ([0x82, 126, 0, 200], [7_u8; 200]);
        let server = Server::start(place.ip, move |peer| {
            let Some(request) = peer.request() else { return };
            peer.send("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
            match request.target.as_str() {
                // Says nothing, and tells what it heard last.
                "/quiet" => {
                    let frame = short_frame(peer);
                    told.lock().expect("nobody panicked with it").send(frame).expect("the test waits");
                }
                // Half of a frame, and the other half once it was told that the gateway goes away.
                "/half" => {
                    peer.send(half);
                    short_frame(peer);
                    peer.send(rest);
                    peer.send([0x81, 1, b'x']);
                    peer.drain();
                }
                // Half of a frame and no more.
                _ => {
                    peer.send(half);
                    peer.drain();
                }
            }
        });
        let config = format!("drain: 300ms\n{}", proxy_config(&[server.address()], "", ""));
        let mut gateway = Instance::start(place, &config);
        let open = |target: &str| {
            let mut client = gateway.connect();
            let handshake = HANDSHAKE.replace("GET / ", &format!("GET {target} "));
            assert_eq!(client.send(handshake).answer().status, 101);
            client
        };
        let (mut quiet, mut in_half, mut never) = (open("/quiet"), open("/half"), open("/never"));
        assert_eq!((in_half.bytes(4), never.bytes(4)), (half.to_vec(), half.to_vec()));
        gateway.signal("TERM");
        assert_eq!(quiet.bytes(4), GOING_AWAY);
        assert_eq!(quiet.end(), End::Closed);
        let frame = hears.recv().expect("the server hears it").expect("a whole frame");
        let unmasked = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
        assert_eq!((frame[0], frame[1], unmasked), (0x88, 0x82, [0x03, 0xe9]));
        // The frame is whole, the farewell comes behind it, and nothing behind that.
        assert_eq!(in_half.bytes(200), rest);
        assert_eq!(in_half.bytes(4), GOING_AWAY);
        assert_eq!(in_half.end(), End::Closed);
        // Nothing of ours inside a frame.
        assert_ne!(never.end(), End::TimedOut);
        gateway.await_end();
    });
}
