//! A running instance as most tests want it: a config with the addresses filled in, commands and
//! signals, and its processes.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{panic, thread};

use super::gateway::{self, Gateway};
use super::talk::{Answer, Client};

/// How long anything that has to happen may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where a test runs: its address family, and how many workers serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) ip: IpAddr,
    pub(crate) workers: usize,
}

/// Runs a test over IPv4 with one worker and over IPv6 with two, both at the same time.
pub(crate) fn everywhere(test: impl Fn(Place) + Sync) {
    let places = [
        Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 1 },
        Place { ip: IpAddr::V6(Ipv6Addr::LOCALHOST), workers: 2 },
    ];
    thread::scope(|scope| {
        let runs = places.map(|place| {
            let test = &test;
            (place, scope.spawn(move || test(place)))
        });
        for (place, run) in runs {
            if let Err(failure) = run.join() {
                eprintln!("failed at {} with {} worker(s)", place.ip, place.workers);
                panic::resume_unwind(failure);
            }
        }
    });
}

/// Waits for a condition of which nobody tells.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "in {} s not seen: {what}", PATIENCE.as_secs());
        thread::sleep(LOOK_EVERY);
    }
}

impl Place {
    /// An address of this family with a TCP port that is free, and stays so: the kernel takes the
    /// TCP ports it chooses by itself, for servers and clients of the tests, from 32768 on.
    pub(crate) fn free_address(self) -> SocketAddr {
        const FIRST: u32 = 20_000;
        const COUNT: u32 = 12_000;
        static NEXT: AtomicU32 = AtomicU32::new(0);

        // Another run of tests at the same time begins elsewhere.
        let start = process::id().wrapping_mul(911);
        loop {
            let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(FIRST + number % COUNT).expect("below 65536");
            let address = SocketAddr::new(self.ip, port);
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    }
}

/// A running instance.
pub(crate) struct Instance {
    pub(crate) gateway: Gateway,
    /// Where its listener `web` is.
    pub(crate) address: SocketAddr,
    directory: PathBuf,
    preamble: String,
}

impl Instance {
    /// Starts with this config, in which `$BIND` is the address to listen on and `$DIR` the
    /// directory of the test. `admin`, `control`, `workers` and `drain` are given unless it names them.
    pub(crate) fn start(place: Place, config: &str) -> Self {
        Self::start_in(place, config, |_| {})
    }

    /// The same, with something put into the directory first.
    pub(crate) fn start_in(place: Place, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_as(place, config, prepare, |_, log| gateway::command(env!("CARGO_BIN_EXE_sumun"), log))
    }

    /// The same with another command in place of the program's name ([`Gateway::start_as`]).
    pub(crate) fn start_as(
        place: Place,
        config: &str,
        prepare: impl FnOnce(&Path),
        command: impl FnOnce(&Path, &File) -> Command,
    ) -> Self {
        Self::start_at(place.free_address(), place, config, prepare, command)
    }

    /// The same at an address that is not free to take.
    pub(crate) fn start_at(
        address: SocketAddr,
        place: Place,
        config: &str,
        prepare: impl FnOnce(&Path),
        command: impl FnOnce(&Path, &File) -> Command,
    ) -> Self {
        let (mut directory, mut preamble) = (PathBuf::new(), String::new());
        let gateway = Gateway::start_as(
            command,
            |scratch| {
                scratch.path().clone_into(&mut directory);
                prepare(&directory);
                preamble = preamble_of(place, config, &directory);
                filled_in(&preamble, config, address, &directory)
            },
            &[address],
        );
        let instance = Self { gateway, address, directory, preamble };
        // Its listeners took connections already; now the commands find it, too.
        instance.await_log("ready: ");
        instance
    }

    /// One pool `app` of these servers behind `/`; `pool` and `listener` are further keys of the two,
    /// each ending in a comma.
    pub(crate) fn proxy(place: Place, servers: &[SocketAddr], pool: &str, listener: &str) -> Self {
        Self::start(place, &proxy_config(servers, pool, listener))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn log(&self) -> String {
        self.gateway.log()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One GET on a connection of its own.
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.connect().get(target)
    }

    /// Another text in the place of the config file.
    pub(crate) fn write_config(&self, config: &str) {
        let text = filled_in(&self.preamble, config, self.address, &self.directory);
        fs::write(self.config_path(), text).expect("the config can be written");
    }

    /// Writes the config and reloads; fails the test if that is refused.
    pub(crate) fn reload(&self, config: &str) -> String {
        self.write_config(config);
        self.command_ok(&["reload"])
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.join("sumun.yaml")
    }

    /// Runs a subcommand for this instance.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sumun"))
            .args(arguments)
            .arg("-c")
            .arg(self.config_path())
            .env("NO_COLOR", "1")
            .output()
            .expect("the program starts")
    }

    /// The same where it has to succeed; gives what it printed.
    pub(crate) fn command_ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.log()
        );
        text(&output.stdout)
    }

    /// What a subcommand prints with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.command_ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}"))
    }

    /// What `sumun pool` says of one server, by the text of its address.
    pub(crate) fn server(&self, pool: &str, address: SocketAddr) -> serde_json::Value {
        let pools = self.json(&["pool", pool]);
        let name = address.to_string();
        let found = pools[0]["servers"]
            .as_array()
            .and_then(|servers| servers.iter().find(|server| server["address"] == name.as_str()).cloned());
        found.unwrap_or_else(|| panic!("no server {name} in {pools}"))
    }

    /// Waits until a server is in this state, as `sumun pool` names it.
    pub(crate) fn await_state(&self, pool: &str, address: SocketAddr, state: &str) {
        eventually(&format!("{address} {state}"), || self.server(pool, address)["state"] == state);
    }

    /// Sends a signal (`TERM`, `HUP`, …) to the supervisor.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.gateway.process_id(), name);
    }

    /// Waits until this stands in its log.
    pub(crate) fn await_log(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    /// Waits until it has ended, and says how.
    pub(crate) fn await_end(&mut self) -> String {
        let mut ended = None;
        eventually("the end of the instance", || {
            ended = self.gateway.ended();
            ended.is_some()
        });
        ended.unwrap_or_default()
    }

    /// The newest worker process that said it is ready.
    pub(crate) fn worker_process(&self) -> u32 {
        self.await_log("ready: ");
        let log = self.log();
        log.lines()
            .rfind(|line| line.contains("ready: "))
            .and_then(|line| line.rsplit_once("worker process ")?.1.trim().parse().ok())
            .unwrap_or_else(|| panic!("no worker process in the log:\n{log}"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of {}:\n{}", self.address, self.log());
        }
    }
}

pub(crate) fn proxy_config(servers: &[SocketAddr], pool: &str, listener: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    format!(
        "pools: {{ app: {{ {pool} servers: [{}] }} }}\n\
         listeners: {{ web: {{ {listener} bind: \"$BIND\", routes: [{{ path: /, proxy: app }}] }} }}\n",
        servers.join(", ")
    )
}

/// The config with one more pool, so that the sandbox lets the worker process connect to this server
/// when it is added at run time.
pub(crate) fn with_spare(config: &str, server: SocketAddr) -> String {
    config.replacen("pools: {", &format!("pools: {{ spare: {{ servers: [\"{server}\"] }},"), 1)
}

pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {process}")).status();
    assert!(sent.is_ok_and(|status| status.success()), "SIG{name} to {process}");
}

/// A figure of `/proc/PID/status` in KiB, such as `VmHWM`.
pub(crate) fn memory_kib(process: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_else(|| panic!("no {field} of process {process}"))
}

fn preamble_of(place: Place, config: &str, directory: &Path) -> String {
    let control = format!("unix:{}", directory.join("control.sock").display());
    let workers = place.workers.to_string();
    [("workers", workers.as_str()), ("admin", "off"), ("control", &control), ("drain", "1s")]
        .iter()
        .filter(|(key, _)| !config.lines().any(|line| line.starts_with(&format!("{key}:"))))
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect()
}

fn filled_in(preamble: &str, config: &str, address: SocketAddr, directory: &Path) -> String {
    let config = config.replace("$BIND", &address.to_string()).replace("$DIR", &directory.display().to_string());
    format!("{preamble}{config}")
}
