//! What the service manager gives and what it is told.

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use support::gateway;
use support::instance::{Instance, PATIENCE, Place, eventually, everywhere, signal};
use support::talk::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sumun");

/// Runs the program with these as its first descriptors behind standard error, as a service manager
/// does: a shell that moves them there, and says whom they are for.
fn activated(sockets: [OwnedFd; 3], names: &str, log: &File) -> Command {
    let [first, second, third] = sockets;
    let mut command = gateway::command("/bin/sh", log);
    command.stdin(first).stdout(second).stderr(third);
    let script = "exec 3<&0 4<&1 5<&2 0</dev/null 1>>log 2>&1\n\
                  export LISTEN_FDS=3 LISTEN_PID=$$\n\
                  exec \"$@\"";
    command.args(["-c", script, "sh", PROGRAM]).env("LISTEN_FDNAMES", names);
    command
}

fn listen_unix(path: &Path) -> OwnedFd {
    UnixListener::bind(path).expect("the path is free").into()
}

fn get_unix(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).expect("somebody listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it takes a request");
    std::io::read_to_string(stream).expect("an answer")
}

/// A socket with a queue that nobody but us serves; sockets of ours could not be opened beside it.
#[test]
fn given_sockets_are_served() {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let place = Place { ip, workers: 2 };
        let given = TcpListener::bind((ip, 0)).expect("a free TCP port");
        let spare = TcpListener::bind((ip, 0)).expect("a free TCP port");
        let (address, unnamed) = (given.local_addr().expect("it is bound"), spare.local_addr().expect("it is bound"));
        let ours = given.try_clone().expect("another handle");
        let config = |more: &str| {
            format!(
                "listeners:\n  web:\n    bind: [\"$BIND\", \"unix:$DIR/web.sock\"{more}]\n    \
                 routes: [{{ path: /, respond: {{ body: served }} }}]\n"
            )
        };
        let gateway = Instance::start_at(
            address,
            place,
            &config(""),
            |_| {},
            |directory, log| {
                activated(
                    [given.into(), listen_unix(&directory.join("web.sock")), spare.into()],
                    "web:local:spare",
                    log,
                )
            },
        );
        let socket = gateway.directory().join("web.sock");
        let served = || {
            for _ in 0..10 {
                assert_eq!(gateway.get("/").expect(200).text(), "served");
                assert!(get_unix(&socket).ends_with("served"));
            }
        };
        served();
        gateway.await_log(&format!("a socket for {unnamed} (spare), which no listener has"));
        // With a reload it has one; with the next it has none again, and stays open all the same.
        gateway.reload(&config(&format!(", \"{unnamed}\"")));
        assert_eq!(Client::connect(unnamed).get("/").text(), "served");
        gateway.reload(&config(""));
        gateway.reload(&config(&format!(", \"{unnamed}\"")));
        assert_eq!(Client::connect(unnamed).get("/").text(), "served");
        gateway.command_ok(&["upgrade"]);
        served();
        assert_eq!(Client::connect(unnamed).get("/").text(), "served");
        // Whoever made the socket removes it, and a connection waits for the next start.
        let mut gateway = gateway;
        gateway.command_ok(&["stop"]);
        gateway.await_end();
        assert!(socket.exists());
        TcpStream::connect(address).expect("the service manager's own handle still listens");
        drop(ours);
    }
}

/// Lists of addresses would look at the wrong ones.
#[test]
fn a_socket_for_both_families_is_refused() {
    let given = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a free TCP port");
    let address = given.local_addr().expect("it is bound");
    let scratch = support::Scratch::new();
    let file = scratch.path().join("sumun.yaml");
    let text =
        format!("admin: off\nlisteners: {{ web: {{ bind: \"{address}\", routes: [{{ path: /, respond: 204 }}] }} }}\n");
    fs::write(&file, text).expect("the config can be written");
    let log = File::create(scratch.path().join("log")).expect("the log can be created");
    let nothing = || File::open("/dev/null").expect("every system has it").into();
    let mut command = activated([given.into(), nothing(), nothing()], "", &log);
    let status = command.args(["run", "-c"]).arg(&file).current_dir(scratch.path()).status().expect("it starts");
    let said = fs::read_to_string(scratch.path().join("log")).expect("it wrote something");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("takes IPv4 as well") && said.contains("BindIPv6Only=ipv6-only"), "{said}");
}

/// A service manager that notes what it is told.
struct Manager {
    told: mpsc::Receiver<String>,
}

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the path is free");
        let (teller, told) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = socket.recv(&mut bytes) {
                if teller.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { told }
    }

    /// The next message that is no mere sign of life.
    fn next(&self) -> String {
        loop {
            let message = self.told.recv_timeout(PATIENCE).expect("a message");
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// Forgets what came, and waits for a sign of life.
    fn await_life(&self) {
        while self.told.try_recv().is_ok() {}
        while self.told.recv_timeout(PATIENCE).expect("a sign of life") != "WATCHDOG=1" {}
    }
}

fn observed(place: Place, config: &str, watchdog: &str) -> (Manager, Instance) {
    let mut manager = None;
    let gateway = Instance::start_as(
        place,
        config,
        |directory| manager = Some(Manager::listen(&directory.join("notify"))),
        |directory, log| {
            let mut command = gateway::command(PROGRAM, log);
            command.env("NOTIFY_SOCKET", directory.join("notify")).stdin(Stdio::null());
            if !watchdog.is_empty() {
                command.env("WATCHDOG_USEC", watchdog);
            }
            command
        },
    );
    (manager.expect("it was made first"), gateway)
}

const CONFIG: &str = "listeners: { web: { bind: \"$BIND\", routes: [{ path: /, respond: 204 }] } }\n";

#[test]
fn the_service_manager_is_told() {
    everywhere(|place| {
        let (manager, mut gateway) = observed(place, CONFIG, "");
        let ready = format!("STATUS=web on {}; {} worker", gateway.address, place.workers);
        let is_ready = |message: &str| message.starts_with("READY=1\n") && message.contains(&ready);
        let is_reloading = |message: &str| {
            let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|text| text.parse::<u64>().ok());
            time.is_some_and(|time| time > 0)
        };
        let first = manager.next();
        assert!(is_ready(&first), "{first}");
        for command in ["reload", "upgrade"] {
            gateway.command_ok(&[command]);
            // An upgrade is said to have begun by the one program and by the next.
            let mut message = manager.next();
            assert!(is_reloading(&message), "{command}: {message}");
            while is_reloading(&message) {
                message = manager.next();
            }
            assert!(is_ready(&message), "{command}: {message}");
        }
        // Also where nothing came of it.
        gateway.write_config("listners: {}\n");
        gateway.signal("HUP");
        assert!(is_reloading(&manager.next()));
        let message = manager.next();
        assert!(is_ready(&message), "{message}");
        gateway.signal("TERM");
        assert!(manager.next().starts_with("STOPPING=1\n"));
        gateway.await_end();
    });
}

#[test]
fn the_watchdog_hears_of_a_worker_process_that_answers() {
    everywhere(|place| {
        let (manager, gateway) = observed(place, CONFIG, "400000");
        manager.await_life();
        gateway.command_ok(&["upgrade"]);
        manager.await_life();
        // Its worker process hangs: what the supervisor could say itself would be a lie.
        let worker = gateway.worker_process();
        signal(worker, "STOP");
        let refused = || gateway.log().matches("the service manager gets no sign of life").count();
        eventually("no sign of life", || refused() > 0);
        while manager.told.try_recv().is_ok() {}
        let before = refused();
        eventually("and no further one", || refused() > before + 2);
        assert_eq!(manager.told.try_recv(), Err(mpsc::TryRecvError::Empty));
        signal(worker, "CONT");
        manager.await_life();
    });
}

/// The variables are meant for the supervisor: who believed them further down would speak for it.
#[test]
fn the_worker_process_speaks_for_nobody() {
    let place = Place { ip: Ipv4Addr::LOCALHOST.into(), workers: 1 };
    let (_manager, gateway) = observed(place, CONFIG, "30000000");
    for _ in 0..2 {
        let environment = |process: u32| fs::read(format!("/proc/{process}/environ")).expect("it runs");
        let has = |process: u32, name: &str| {
            let text = String::from_utf8_lossy(&environment(process)).into_owned();
            text.split('\0').any(|variable| variable.starts_with(name))
        };
        assert!(has(gateway.gateway.process_id(), "NOTIFY_SOCKET="));
        for name in ["NOTIFY_SOCKET=", "WATCHDOG_USEC=", "SUMUN_TAKEOVER"] {
            assert!(!has(gateway.worker_process(), name), "{name}");
        }
        gateway.command_ok(&["upgrade"]);
    }
}

/// Whoever comes while nobody runs waits for the next start.
#[test]
fn connections_outlive_a_restart_in_the_queue() {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address: SocketAddr = Place { ip, workers: 1 }.free_address();
    let given = TcpListener::bind(address).expect("it is free");
    let scratch = support::Scratch::new();
    let log = File::create(scratch.path().join("log")).expect("the log can be created");
    let mut waiting: Option<Client> = None;
    for _ in 0..2 {
        let handle: OwnedFd = given.try_clone().expect("another handle").into();
        let nothing = || File::open("/dev/null").expect("every system has it").into();
        let place = Place { ip, workers: 1 };
        let mut gateway = Instance::start_at(
            address,
            place,
            CONFIG,
            |_| {},
            |_, _| activated([handle, nothing(), nothing()], "", &log),
        );
        gateway.get("/").expect(204);
        if let Some(mut client) = waiting.take() {
            client.answer().expect(204);
        }
        gateway.signal("TERM");
        gateway.await_end();
        let client = waiting.insert(Client::connect(address));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
}
