//! `sumun demo` as somebody meets it who has never seen it.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::Scratch;
use support::client::{Reader, connect, fetch};

/// How long one answer may take.
const ANSWER_BOUND: Duration = Duration::from_secs(20);
/// How long the end may take; the demonstration itself gives up earlier.
const END_BOUND: Duration = Duration::from_secs(30);
/// Between two looks at processes that are ending.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Requests while one of the two servers is gone.
const REQUESTS: usize = 200;

/// A demonstration that runs, and what it printed first.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    introduction: String,
    // Its directory for temporary files.
    scratch: Scratch,
}

impl Demo {
    fn start() -> Self {
        let scratch = Scratch::new();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sumun"))
            .arg("demo")
            .env("TMPDIR", scratch.path())
            .env_remove("SUMUN_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut introduction = String::new();
        while !introduction.contains("Ctrl-C") {
            let read = output.read_line(&mut introduction).expect("text");
            assert!(read > 0, "the demonstration ended early:\n{introduction}");
        }
        Self { child, output, introduction, scratch }
    }

    /// The address behind a word at the start of a line.
    fn address(&self, word: &str) -> SocketAddr {
        let line = self.introduction.lines().find_map(|line| line.trim().strip_prefix(word));
        let url = line.unwrap_or_else(|| panic!("no {word} in\n{}", self.introduction)).trim();
        let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("a URL");
        authority.parse().expect("an address")
    }

    /// The curl lines as they stand there, comments taken off.
    fn curl_lines(&self) -> Vec<Vec<String>> {
        let lines = self.introduction.lines().filter(|line| line.trim().starts_with("curl "));
        lines
            .map(|line| {
                let command = line.split_once(" #").map_or(line, |(command, _)| command);
                command.split_whitespace().map(str::to_owned).collect()
            })
            .collect()
    }

    /// All processes that belong to it: itself, the supervisor, the worker process.
    fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.child.id()];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            next += 1;
        }
        found
    }

    /// Sends it a signal, waits for its end and returns what it printed since the start.
    fn end(&mut self, signal: &str) -> String {
        let processes = self.processes();
        assert_eq!(processes.len(), 3, "demonstration, supervisor and worker process");
        let kill = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.child.id())).status();
        assert!(kill.expect("a shell").success());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}\n{rest}");
        let left: Vec<&u32> =
            processes.iter().filter(|process| Path::new(&format!("/proc/{process}")).exists()).collect();
        assert!(left.is_empty(), "processes left behind: {left:?}");
        let files: Vec<_> = fs::read_dir(self.scratch.path()).expect("the directory is ours").collect();
        assert!(files.is_empty(), "left behind: {files:?}");
        rest
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail only if it has ended already; its gateway ends with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Does what a curl line says, with a client of our own.
fn curl(words: &[String]) -> (u16, String) {
    let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1);
    let data = after("-d");
    let method = after("-X").map_or_else(|| if data.is_some() { "POST" } else { "GET" }, String::as_str);
    let url = words.iter().find_map(|word| word.strip_prefix("http://")).expect("a URL");
    let (authority, path) = url.split_once('/').expect("a path");
    let stream = connect(authority.parse().expect("an address"), ANSWER_BOUND).expect("the gateway listens");
    let body = data.map_or("", String::as_str);
    let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    write!(&stream, "{method} /{path} HTTP/1.1\r\nHost: {authority}\r\n{length}Connection: close\r\n\r\n{body}")
        .expect("the gateway reads");
    let response = Reader::new(&stream, Instant::now() + ANSWER_BOUND).response(false).expect("an answer");
    let response = response.expect("an answer");
    (response.status, String::from_utf8(response.body).expect("text"))
}

/// The admin page asks for its own address as `Host`, so a browser's request is made.
fn text(address: SocketAddr, path: &str) -> String {
    let (status, text) = curl(&[format!("http://{address}{path}")]);
    assert_eq!(status, 200, "{path}");
    text
}

#[test]
fn what_is_printed_works() {
    let mut demo = Demo::start();
    let (site, admin) = (demo.address("site"), demo.address("admin"));

    let page = text(site, "/");
    assert!(page.contains("<title>Sumun") && page.contains(&format!("http://{admin}/")), "{page}");
    for asset in ["style.css", "demo.js"] {
        assert!(page.contains(asset) && !text(site, &format!("/{asset}")).is_empty(), "{asset}");
    }
    assert!(text(admin, "/").contains("<html"), "the admin page");
    assert_eq!(fetch(site, "/admin", ANSWER_BOUND).expect("an answer").status, 302);

    let lines = demo.curl_lines();
    let [hello, echo, crash] = lines.as_slice() else { panic!("three curl lines in\n{}", demo.introduction) };
    let answers: Vec<String> = (0..4).map(|_| curl(hello).1).collect();
    for name in ["east", "west"] {
        assert!(answers.iter().any(|answer| answer.contains(name)), "{name} never answers: {answers:?}");
    }
    let (status, seen) = curl(echo);
    assert_eq!(status, 200);
    assert!(seen.contains("X-Forwarded-For: 127.0.0.1") && seen.ends_with("hello"), "{seen}");

    let (status, farewell) = curl(crash);
    assert_eq!(status, 200, "{farewell}");
    let gone = farewell.split_whitespace().next().expect("a name").to_owned();
    for _ in 0..REQUESTS {
        let (status, answer) = curl(hello);
        assert_eq!(status, 200, "nobody notices that {gone} is gone: {answer}");
    }
    let until = Instant::now() + END_BOUND;
    while !curl(hello).1.contains(&gone) {
        assert!(Instant::now() < until, "{gone} does not come back");
        thread::sleep(LOOK_EVERY);
    }

    let config = demo.introduction.lines().find_map(|line| line.trim().strip_prefix("config")).expect("a line").trim();
    let status = Command::new(env!("CARGO_BIN_EXE_sumun")).args(["status", "-c", config]).output().expect("it runs");
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));

    let live = demo.end("INT");
    assert!(live.contains("2 of 2 servers up"), "a live line:\n{live}");
    assert!(TcpStream::connect(site).is_err(), "the gateway is gone");
}

#[test]
fn taken_tcp_ports_are_passed_over() {
    // Whoever has them, we or somebody else: they are taken.
    let _site = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080));
    let _admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 9900));
    let mut first = Demo::start();
    let mut second = Demo::start();
    let addresses = [&first, &second].map(|demo| [demo.address("site"), demo.address("admin")]).concat();
    for (index, address) in addresses.iter().enumerate() {
        assert!(![8080, 9900].contains(&address.port()), "{address} is taken");
        assert!(!addresses[..index].contains(address), "{address} twice");
        assert!(!text(*address, "/").is_empty());
    }
    assert!(first.introduction.contains("TCP port 8080 is taken"), "{}", first.introduction);
    first.end("TERM");
    second.end("HUP");
}

#[test]
fn the_gateway_ends_with_a_demonstration_that_was_killed() {
    let mut demo = Demo::start();
    let site = demo.address("site");
    demo.child.kill().expect("it is ours");
    demo.child.wait().expect("it is ours");
    let until = Instant::now() + END_BOUND;
    while TcpStream::connect(site).is_ok() {
        assert!(Instant::now() < until, "the gateway goes on alone");
        thread::sleep(LOOK_EVERY);
    }
}
