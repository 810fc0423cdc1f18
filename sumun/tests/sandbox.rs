//! The sandbox of the worker process: what is refused inside it, and that what the config needs goes
//! on, also when a reload needs more.
//!
//! What this host's kernel cannot restrict is not expected; run on an older one, a test says so.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::instance::{Instance, eventually, everywhere, proxy_config};
use support::server::Server;
use support::{Scratch, gateway};

const NOBODY_EVERYWHERE: &str = "nobody";

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"))
}

fn sumun(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sumun"));
    command.args(arguments).arg("-c").arg(file).env("NO_COLOR", "1").output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A config file in a directory of its own.
struct Case {
    directory: Scratch,
    file: PathBuf,
}

impl Case {
    fn new(config: &str) -> Self {
        let directory = Scratch::new();
        let file = directory.path().join("sumun.yaml");
        fs::write(&file, config.replace("$DIR", &directory.path().display().to_string())).expect("it can be written");
        Self { directory, file }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the sandbox of this config says to an act: nothing, or the error.
    fn probe(&self, act: &str, object: impl AsRef<Path>) -> Result<(), String> {
        let object = object.as_ref().display().to_string();
        let mut arguments = vec!["sandbox-probe", act];
        arguments.extend((!object.is_empty()).then_some(object.as_str()));
        let output = sumun(&arguments, &self.file);
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) => Err(text(&output.stdout).trim().to_owned()),
            _ => panic!("{act} {object} cannot be tried: {}{}", text(&output.stdout), text(&output.stderr)),
        }
    }

    #[track_caller]
    fn allows(&self, act: &str, object: impl AsRef<Path>) {
        let object = object.as_ref();
        assert_eq!(self.probe(act, object), Ok(()), "{act} {}", object.display());
    }

    #[track_caller]
    fn refuses(&self, act: &str, object: impl AsRef<Path>, error: &str) {
        let object = object.as_ref();
        let said = self.probe(act, object).expect_err(act);
        assert!(said.contains(error), "{act} {}: {said}", object.display());
    }

    /// What `sumun check --sandbox --json` says of it.
    fn plan(&self) -> Value {
        let output = sumun(&["check", "--sandbox", "--json"], &self.file);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json["sandbox"].clone()
    }

    /// Whether this kernel has Landlock of this version; says so where it has not.
    fn landlock(&self, version: u64) -> bool {
        let has = self.plan()["landlock"].as_u64().unwrap_or(0);
        if has < version {
            eprintln!("left out: Landlock {version} is needed, this kernel has {has}");
        }
        has >= version
    }

    fn seccomp(&self) -> bool {
        let has = self.plan()["seccomp"] == true;
        if !has {
            eprintln!("left out: this kernel or processor has no filter of system calls");
        }
        has
    }
}

const RESPOND: &str = "listeners: { web: { bind: \"127.0.0.1:1\", routes: [ { respond: 204 } ] } }\n";
const PERMISSION: &str = "Permission denied (os error 13)";
const NOT_PERMITTED: &str = "Operation not permitted (os error 1)";

#[test]
fn files_that_the_config_does_not_name_are_closed() {
    let case = Case::new(
        "user: 0:0\nlisteners: { web: { bind: \"127.0.0.1:1\", error_pages: { 404: $DIR/errors/404.html }, routes: [\n  \
         { path: /up/, files: { root: $DIR/up, write: on } }, { path: /, files: $DIR/root } ] } }\n",
    );
    for folder in ["root/below", "up", "errors", "other"] {
        fs::create_dir_all(case.path(folder)).expect("a folder");
    }
    for file in ["root/below/file", "up/file", "errors/404.html", "errors/key.pem", "other/file"] {
        fs::write(case.path(file), "text").expect("a file");
    }
    if !case.landlock(3) {
        return;
    }
    for allowed in ["root/below/file", "up/file", "errors/404.html"] {
        case.allows("read", case.path(allowed));
    }
    case.allows("list", case.path("root"));
    case.allows("write", case.path("up/new"));
    for allowed in ["/proc/self/status", "/proc/self/stat"] {
        case.allows("read", allowed);
    }
    case.allows("list", "/proc/self/fd");
    // All of these could be read by root, who this process still is, in name.
    for refused in ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/proc/1/status", "/proc/cpuinfo"] {
        case.refuses("read", refused, PERMISSION);
    }
    for refused in ["errors/key.pem", "other/file", "sumun.yaml"] {
        case.refuses("read", case.path(refused), PERMISSION);
    }
    for refused in ["/", "/etc", "/tmp", "/proc", "/dev"] {
        case.refuses("list", refused, PERMISSION);
    }
    case.refuses("write", case.path("root/new"), PERMISSION);
    case.refuses("write", case.path("other/new"), PERMISSION);
    assert!(!case.path("root/new").exists() && !case.path("up/new").exists());
}

#[test]
fn tcp_ports_that_the_config_does_not_name_are_closed() {
    everywhere(|place| {
        let server = TcpListener::bind((place.ip, 0)).expect("a free TCP port");
        let other = TcpListener::bind((place.ip, 0)).expect("a free TCP port");
        let at = |listener: &TcpListener| listener.local_addr().expect("it listens").to_string();
        let case = Case::new(
            &proxy_config(&[server.local_addr().expect("it listens")], "", "").replace("$BIND", "127.0.0.1:1"),
        );
        if !case.landlock(4) || !case.seccomp() {
            return;
        }
        case.allows("connect", at(&server));
        case.refuses("connect", at(&other), PERMISSION);
        // Ways around that Landlock does not see.
        case.refuses("fast-open", at(&other), NOT_PERMITTED);
        case.refuses("multipath", at(&other), NOT_PERMITTED);
        let any = SocketAddr::new(place.ip, 0).to_string();
        for address in [place.free_address().to_string(), any] {
            case.refuses("bind", address, PERMISSION);
        }
        case.refuses("listen", "", NOT_PERMITTED);
        case.refuses("netlink", "", NOT_PERMITTED);
        case.refuses("netlink-pair", "", NOT_PERMITTED);
    });
}

#[test]
fn a_source_address_takes_a_tcp_port_of_the_kernels_choice() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a free TCP port");
    let servers = [server.local_addr().expect("it listens")];
    let case = Case::new(&proxy_config(&servers, "source: 127.0.0.5,", "").replace("$BIND", "127.0.0.1:1"));
    if !case.landlock(4) {
        return;
    }
    case.allows("bind", "127.0.0.5:0");
    case.refuses("bind", "127.0.0.5:7", PERMISSION);
}

#[test]
fn no_programs_no_processes_but_threads() {
    let case = Case::new(RESPOND);
    if !case.seccomp() {
        return;
    }
    case.allows("thread", "");
    case.refuses("exec", "/bin/true", NOT_PERMITTED);
    case.refuses("spawn", "/bin/true", NOT_PERMITTED);
    if case.landlock(6) {
        // Root in name and as who started it: nobody else could be sure to be refused for the rule alone.
        let named = Case::new(&format!("user: 0:0\n{RESPOND}"));
        named.refuses("signal", std::process::id().to_string(), NOT_PERMITTED);
    }
}

/// A limit on its CPU time would end a process of the same user.
#[test]
fn limits_of_others_are_theirs() {
    let case = Case::new(&format!("user: 0:0\n{RESPOND}"));
    if !case.seccomp() || !is_root() {
        return;
    }
    case.refuses("limit", std::process::id().to_string(), NOT_PERMITTED);
    let free = Case::new(&format!("sandbox: off\nuser: 0:0\n{RESPOND}"));
    free.allows("limit", std::process::id().to_string());
}

/// Where clients' addresses are connected from a capability is kept that packets could be made with.
#[test]
fn packets_are_not_made_by_hand() {
    let case = Case::new(
        "pools: { app: { source: client, servers: \"127.0.0.1:1\" } }\n\
         listeners: { web: { bind: \"127.0.0.1:1\", tcp: app } }\n",
    );
    if case.seccomp() && is_root() {
        case.refuses("raw", "", NOT_PERMITTED);
        assert_eq!(case.plan()["transparent"], true);
    }
}

/// ptrace, mount, bpf, io_uring and all the others: each is tried.
#[test]
fn every_call_that_is_said_to_be_refused_is_refused() {
    let case = Case::new(RESPOND);
    if !case.seccomp() {
        return;
    }
    let plan = case.plan();
    let names: Vec<&str> = plan["denied_calls"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(names.len() > 50 && names.contains(&"ptrace"), "{names:?}");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sandbox.md")).expect("the page");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name} is not in docs/sandbox.md");
        // Those of which a success would leave two processes are tried by `spawn`.
        if !["fork", "vfork"].contains(&name) {
            case.refuses("call", name, NOT_PERMITTED);
        }
    }
}

#[test]
fn turned_off_it_refuses_nothing() {
    let case = Case::new(&format!("sandbox: off\n{RESPOND}"));
    case.allows("spawn", "/bin/true");
    case.allows("read", "/etc/passwd");
    case.allows("bind", "127.0.0.1:0");
    case.allows("netlink", "");
    if is_root() {
        case.allows("read", "/etc/shadow");
        // A user that is named is a user to become.
        let named = Case::new(&format!("sandbox: off\nuser: 12345:12345\n{RESPOND}"));
        named.refuses("read", "/etc/shadow", PERMISSION);
        named.allows("spawn", "/bin/true");
    }
}

#[test]
fn the_check_tells_what_will_be_allowed() {
    let case = Case::new(
        "pools: { app: { servers: [\"127.0.0.1:8001-8003\", \"app.example.com:9000\"] } }\n\
         listeners: { web: { bind: \"127.0.0.1:1\", routes: [ { path: /s/, files: $DIR }, { proxy: app } ] } }\n",
    );
    let output = sumun(&["check", "--sandbox"], &case.file);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}");
    let root = format!("read      {}\n", case.directory.path().display());
    for line in [
        ": good\n",
        "sandbox   on\n",
        root.as_str(),
        "connect   TCP 53, 8001-8003, 9000\n",
        "bind      no TCP port",
        "udp       any",
        "ptrace",
        "denied    clone: a new process",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(!text(&sumun(&["check"], &case.file).stdout).contains("connect"));
    assert_eq!(case.plan()["connect"], serde_json::json!([53, 8001, 8002, 8003, 9000]));
}

/// A value of /proc/PID/status.
fn status_of(process: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {field} in\n{status}")).to_owned()
}

fn uid_of(user: &str) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").expect("it can be read");
    passwd.lines().find_map(|line| Some(line.strip_prefix(user)?.strip_prefix(":x:")?.split(':').next()?.to_owned()))
}

#[test]
fn the_worker_process_has_no_privileges() {
    everywhere(|place| {
        let gateway = Instance::start(place, "listeners: { web: { bind: \"$BIND\", routes: [ { respond: 204 } ] } }\n");
        gateway.get("/").expect(204);
        let worker = gateway.worker_process();
        let none = "0000000000000000";
        assert_eq!([status_of(worker, "CapEff"), status_of(worker, "CapPrm"), status_of(worker, "CapInh")], [none; 3]);
        assert_eq!(status_of(worker, "CapAmb"), none);
        assert_eq!(status_of(worker, "NoNewPrivs"), "1");
        let said = gateway.command_ok(&["status"]);
        assert_eq!(said.contains(", seccomp"), status_of(worker, "Seccomp") == "2", "{said}");
        assert!(said.contains("sandbox: "), "{said}");
        if !is_root() {
            return;
        }
        assert_eq!(status_of(worker, "CapBnd"), none);
        let user = if uid_of("sumun").is_some() { "sumun" } else { NOBODY_EVERYWHERE };
        let uid = uid_of(user).expect("the user is there");
        assert_eq!(status_of(worker, "Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
        assert_ne!(status_of(worker, "Gid").split('\t').next(), Some("0"));
        assert!(said.contains(&format!("user {user}")), "{said}");
        // Who looks after it has what it needs to open TCP ports below 1024 and keys.
        assert_eq!(status_of(gateway.gateway.process_id(), "Uid"), "0\t0\t0\t0");
    });
}

/// Whether a process has this file open.
fn has_open(process: u32, path: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    descriptors.filter_map(Result::ok).any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == path))
}

/// A command that starts with a file open which nobody meant it to have.
fn with_open(path: &Path, log: &fs::File) -> Command {
    let mut command = gateway::command("/bin/sh", log);
    command.args(["-c", "exec 9<\"$1\"; shift; exec \"$@\"", "sh"]).arg(path).arg(env!("CARGO_BIN_EXE_sumun"));
    command
}

/// No sandbox keeps from a process what it has open already.
#[test]
fn what_was_left_open_by_others_stays_outside() {
    everywhere(|place| {
        let config = |workers: usize| {
            format!("workers: {workers}\nlisteners: {{ web: {{ bind: \"$BIND\", routes: [ {{ respond: 204 }} ] }} }}\n")
        };
        let mut secret = PathBuf::new();
        let gateway = Instance::start_as(
            place,
            &config(place.workers),
            |directory| {
                secret = directory.join("secret");
                fs::write(&secret, "key").expect("it can be written");
            },
            |directory, log| with_open(&directory.join("secret"), log),
        );
        assert!(has_open(gateway.gateway.process_id(), &secret), "the test is about something");
        assert!(!has_open(gateway.worker_process(), &secret));
        gateway.reload(&config(place.workers + 1));
        assert!(!has_open(gateway.worker_process(), &secret));
        gateway.command_ok(&["upgrade"]);
        assert!(!has_open(gateway.worker_process(), &secret));
    });
}

/// Whoever starts it.
#[test]
fn a_worker_process_closes_what_is_not_its_own() {
    let directory = Scratch::new();
    let secret = directory.path().join("secret");
    fs::write(&secret, "key").expect("it can be written");
    let log = fs::File::create(directory.path().join("log")).expect("a log");
    let (ours, theirs) = UnixStream::pair().expect("a channel");
    let mut command = with_open(&secret, &log);
    let mut child = command.arg("worker").stdin(OwnedFd::from(theirs)).spawn().expect("it starts");
    drop(command);
    let is_worker = || fs::read(format!("/proc/{}/cmdline", child.id())).expect("it runs").ends_with(b"\0worker\0");
    eventually("it is the worker process", is_worker);
    eventually("it closed the file", || !has_open(child.id(), &secret));
    // It waits for its first message, and ends with the channel.
    drop(ours);
    assert!(child.wait().expect("it ends").success(), "{:?}", fs::read_to_string(directory.path().join("log")));
}

#[test]
fn who_names_a_user_gets_that_user() {
    if !is_root() {
        return eprintln!("left out: only root becomes somebody else");
    }
    everywhere(|place| {
        let routes = "listeners: { web: { bind: \"$BIND\", routes: [ { respond: 204 } ] } }\n";
        let gateway = Instance::start(place, &format!("user: 12345:23456\n{routes}"));
        let worker = gateway.worker_process();
        assert_eq!(status_of(worker, "Uid"), "12345\t12345\t12345\t12345");
        assert_eq!(status_of(worker, "Gid"), "23456\t23456\t23456\t23456");
        assert_eq!(status_of(worker, "Groups").trim(), "23456");
        // Another one by a reload, with another process.
        let said = gateway.reload(&format!("user: 12346:23456\n{routes}"));
        assert_eq!(said.trim_end(), "reloaded: user");
        let next = next_process(&gateway, worker);
        assert!(status_of(next, "Uid").starts_with("12346\t"));
        gateway.write_config(&format!("user: no-such-user-here\n{routes}"));
        let output = gateway.command(&["check"]);
        assert_eq!(output.status.code(), Some(2));
        let report = text(&output.stdout);
        assert!(report.contains("no user `no-such-user-here`") && report.contains("sumun.yaml:"), "{report}");
        assert_eq!(gateway.command(&["reload"]).status.code(), Some(2));
        gateway.get("/").expect(204);
    });
}

/// Root could read it, the user that serves it could not.
#[test]
fn the_check_warns_of_what_the_user_may_not_do() {
    if !is_root() {
        return eprintln!("left out: only root becomes somebody else");
    }
    let case = Case::new(
        "user: 12345:12345\npools: { app: { servers: [\"unix:$DIR/app.sock\"] } }\n\
         listeners: { web: { bind: \"127.0.0.1:1\", error_pages: { 404: $DIR/404.html }, routes: [\n  \
         { path: /closed/, files: $DIR/closed }, { path: /up/, files: { root: $DIR/open, write: on } },\n  \
         { path: /open/, files: $DIR/open }, { proxy: app } ] } }\n",
    );
    for folder in ["closed", "open"] {
        fs::create_dir(case.path(folder)).expect("a folder");
    }
    fs::write(case.path("404.html"), "no").expect("a file");
    let socket = std::os::unix::net::UnixListener::bind(case.path("app.sock")).expect("a socket");
    let modes = |modes: [(&str, u32); 4]| {
        for (name, mode) in modes {
            fs::set_permissions(case.path(name), fs::Permissions::from_mode(mode)).expect("its mode");
        }
    };
    modes([("closed", 0o700), ("open", 0o755), ("404.html", 0o600), ("app.sock", 0o755)]);
    let output = sumun(&["check"], &case.file);
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}");
    for (name, needed) in [
        ("closed", "read and searched"),
        ("open", "written to take uploads"),
        ("404.html", "has to be read"),
        ("app.sock", "to connect to it"),
    ] {
        let path = case.path(name).display().to_string();
        let warned = report.lines().any(|line| {
            line.starts_with("warning") && line.contains(&path) && line.contains(needed) && line.contains("12345")
        });
        assert!(warned, "{name}: {needed}\n{report}");
    }
    assert_eq!(report.matches("warning").count(), 4, "{report}");
    modes([("closed", 0o755), ("open", 0o777), ("404.html", 0o644), ("app.sock", 0o777)]);
    let report = text(&sumun(&["check"], &case.file).stdout);
    assert!(!report.contains("warning"), "{report}");
    drop(socket);
}

/// The worker process that came after this one. For a moment both take connections.
fn next_process(gateway: &Instance, before: u32) -> u32 {
    eventually("another worker process", || gateway.worker_process() != before);
    gateway.worker_process()
}

/// What the running sandbox forbids is done by a new worker process; what it allows is not.
#[test]
fn a_reload_that_needs_more_gets_a_new_process() {
    everywhere(|place| {
        let (one, other) = (Server::saying(place.ip, "one"), Server::saying(place.ip, "other"));
        let gateway = Instance::proxy(place, &[one.address()], "", "");
        let first = gateway.worker_process();
        let mut kept = gateway.connect();
        assert_eq!(kept.get("/").expect(200).text(), "one");

        gateway.reload(&proxy_config(&[one.address()], "balance: first,", "bounds: { body: 1MiB },"));
        assert_eq!(gateway.worker_process(), first, "nothing more is needed");

        gateway.reload(&proxy_config(&[other.address()], "", ""));
        let second = next_process(&gateway, first);
        assert!(gateway.log().contains(&format!("TCP port {}", other.address().port())), "{}", gateway.log());
        eventually("the new server answers", || gateway.get("/").expect(200).text() == "other");
        // The process before ends what it has, with the servers it knows.
        assert_eq!(kept.get("/").expect(200).text(), "one");

        // A TCP port to listen at comes from the supervisor and needs no other process.
        let more = place.free_address();
        let config = proxy_config(&[other.address()], "", "").replace(
            "listeners: { web:",
            &format!("listeners: {{ more: {{ bind: \"{more}\", routes: [ {{ respond: {{ body: more }} }} ] }}, web:"),
        );
        gateway.reload(&config);
        assert_eq!(gateway.worker_process(), second, "listening sockets are passed");
        assert_eq!(support::talk::Client::connect(more).get("/").expect(200).text(), "more");
    });
}

#[test]
fn a_root_and_an_error_page_that_are_new_are_served() {
    everywhere(|place| {
        let config = |root: &str| {
            format!(
                "listeners: {{ web: {{ bind: \"$BIND\", error_pages: {{ 404: $DIR/404.html }}, routes: [\n  \
                 {{ path: /, files: {{ root: $DIR/{root} }} }} ] }} }}\n"
            )
        };
        let gateway = Instance::start_in(place, &config("one"), |directory| {
            for root in ["one", "one/below", "two"] {
                fs::create_dir(directory.join(root)).expect("a folder");
                fs::write(directory.join(root).join("index.html"), root).expect("a file");
            }
            fs::write(directory.join("404.html"), "first page").expect("a file");
        });
        let first = gateway.worker_process();
        assert_eq!(gateway.get("/").expect(200).text(), "one");
        gateway.reload(&config("one/below"));
        assert_eq!(gateway.get("/").expect(200).text(), "one/below");
        assert_eq!(gateway.worker_process(), first, "it lies below what could be read");
        gateway.reload(&config("two"));
        next_process(&gateway, first);
        eventually("the other root is served", || gateway.get("/").expect(200).text() == "two");
        // As an editor writes: another file under the old name.
        let page = gateway.directory().join("404.html");
        fs::write(page.with_extension("new"), "second page").expect("a file");
        fs::rename(page.with_extension("new"), &page).expect("it is put in place");
        assert_eq!(gateway.get("/nothing").expect(404).text(), "first page");
        gateway.command_ok(&["reload"]);
        eventually("the other page is sent", || gateway.get("/nothing").expect(404).text() == "second page");
    });
}

#[test]
fn turning_it_off_and_on_is_a_matter_of_a_reload() {
    everywhere(|place| {
        let routes = "listeners: { web: { bind: \"$BIND\", routes: [ { respond: 204 } ] } }\n";
        let gateway = Instance::start(place, &format!("sandbox: off\n{routes}"));
        let first = gateway.worker_process();
        assert_eq!(status_of(first, "NoNewPrivs"), "0");
        assert!(gateway.command_ok(&["status"]).contains("sandbox: off"));
        gateway.reload(routes);
        let second = next_process(&gateway, first);
        assert_eq!(status_of(second, "NoNewPrivs"), "1");
        // All of it, or not at all: on this kernel it is one or the other.
        gateway.write_config(&format!("sandbox: require\n{routes}"));
        let output = gateway.command(&["reload"]);
        let complete =
            gateway.json(&["check", "--sandbox"])["sandbox"]["missing"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(output.status.success(), complete, "{}", text(&output.stderr));
        if !complete {
            assert!(text(&output.stderr).contains("cannot restrict"), "{}", text(&output.stderr));
            assert_eq!(gateway.worker_process(), second, "everything stays as it was");
        }
        gateway.get("/").expect(204);
    });
}

/// The operator's word is heard where the file has the TCP port; the worker process cannot widen its
/// own sandbox.
#[test]
fn a_server_that_cannot_be_reached_is_not_added() {
    everywhere(|place| {
        let (one, other) = (Server::saying(place.ip, "one"), Server::saying(place.ip, "other"));
        let gateway = Instance::proxy(place, &[one.address()], "", "");
        if !gateway.command_ok(&["status"]).contains("landlock") {
            return;
        }
        let output = gateway.command(&["server", "add", "app", &other.address().to_string()]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("sandbox") && said.contains(&other.address().port().to_string()), "{said}");
        assert_eq!(gateway.json(&["pool", "app"])[0]["servers"].as_array().map(Vec::len), Some(1));
        // Another address with a TCP port that the file has.
        let name = format!("localhost:{}", one.address().port());
        gateway.command_ok(&["server", "add", "app", &name]);
    });
}
