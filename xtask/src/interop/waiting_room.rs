//! The waiting room with a real browser, and with a hundred thousand visitors: what it costs while they
//! wait, and whether they come in in order.
//!
//! Each is a cookie and a time at which it asks again, as its page would. `SUMUN_CROWD_VISITORS` and
//! `SUMUN_CROWD_SECONDS` are other numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::Stage;
use super::gateway::Gateway;
use super::servers::script_path;
use crate::children::{free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::process;
use crate::shell::{Fallible, output, target_folder};

const VISITORS: u64 = 100_000;
const SECONDS: u64 = 60;

/// Visitors a second that are let in.
const ADMIT: u64 = 200;
/// All visitors have come by then.
const ARRIVAL: Duration = Duration::from_secs(30);
/// The most that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Each does one visitor's question at a time.
const THREADS: u64 = 16;
/// Addresses of the gateway: each has TCP ports for its clients.
const ADDRESSES: u64 = 32;

/// What all threads have seen.
#[derive(Default)]
struct Seen {
    pages: AtomicU64,
    looks: AtomicU64,
    admitted: AtomicU64,
    failures: AtomicU64,
    /// Visitors whose place grew.
    overtaken: AtomicU64,
}

struct Visitor {
    address: SocketAddr,
    cookie: String,
    place: u64,
}

/// What people see, in Debian's Chromium; screenshots stay in the target folder, to be looked at.
pub(crate) fn browser(stage: &Stage) -> Fallible<String> {
    let python = match packages::python_environment("browser", &["playwright"])? {
        Ok(bin) => bin,
        Err(Missing::CannotInstall(why)) => return Err(why.into()),
    };
    let inner = loopback(free_tcp_port()?);
    let config = format!(
        "state: {}/state
pools: {{ app: {{ servers: [\"{inner}\"] }} }}
listeners:
  web:
    bind: \"LISTEN\"
    routes:
      - {{ path: /sale/, proxy: app, waiting_room: {{ admit: 2/s, active: 1000, tickets: 10000/s }} }}
      - {{ path: /closed/, proxy: app, waiting_room: {{ admit: 1/h, active: 10, tickets: 10000/s }} }}
      - {{ path: /hard/, proxy: app, challenge: {{ bits: 17 }} }}
      - {{ path: /, respond: 204 }}
  app: {{ bind: \"{inner}\", routes: [{{ respond: {{ body: inside }} }}] }}
",
        stage.folder.path().display()
    );
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let pictures = target_folder().join("screenshots");
    std::fs::create_dir_all(&pictures)?;
    let mut command = Command::new(python.join("python"));
    command.arg("-B").arg(script_path("waiting_room.py")).arg(gateway.listen.to_string()).arg(&pictures);
    Ok(format!("{}; screenshots in {}", output(&mut command)?.trim(), pictures.display()))
}

pub(crate) fn crowd(stage: &Stage) -> Fallible<String> {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (visitors, seconds) = (number("SUMUN_CROWD_VISITORS", VISITORS), number("SUMUN_CROWD_SECONDS", SECONDS));
    let inner = loopback(free_tcp_port()?);
    let config = format!(
        "state: {}/state
pools: {{ app: {{ servers: [\"{inner}\"] }} }}
listeners:
  web:
    bind: \"0.0.0.0:PORT\"
    bounds: {{ per_client: 0, connections: 15000 }}
    routes: [{{ path: /sale/, proxy: app, waiting_room: {{ admit: {ADMIT}/s, active: 1000000, tickets: 1000000/s }} }}]
  known: {{ bind: \"LISTEN\", routes: [{{ respond: 204 }}] }}
  app: {{ bind: \"{inner}\", routes: [{{ respond: {{ body: inside }} }}] }}
",
        stage.folder.path().display()
    );
    let port = free_tcp_port()?;
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config.replace("PORT", &port.to_string()))?;
    let tree = process::tree(gateway.running.id());
    let seen = Seen::default();
    let began = Instant::now();
    let end = began + ARRIVAL + Duration::from_secs(seconds);
    let (mut arrived, mut waiting) = (None, None);
    scope(|scope| {
        for thread in 0..THREADS {
            let seen = &seen;
            scope.spawn(move || visit(thread, visitors, port, began, end, seen));
        }
        sleep(ARRIVAL);
        arrived = Some(Mark::now(&tree, &seen));
        sleep(Duration::from_secs(seconds.saturating_sub(1)));
        waiting = Some(Mark::now(&tree, &seen));
    });
    let (Some(arrived), Some(waiting)) = (arrived, waiting) else { return Err("no figures".into()) };
    let memory = process::memory(&tree);
    let metrics = gateway.metrics(&stage.folder)?;
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let failures = seen.failures.load(Ordering::Relaxed);
    let overtaken = seen.overtaken.load(Ordering::Relaxed);
    let rate = (waiting.admitted - arrived.admitted) as f64 / (waiting.at - arrived.at).as_secs_f64();
    let mut text = format!("{visitors} visitors; while they come: {}", arrived.since(&Mark::zero(began)));
    write!(text, "; while they wait: {}", waiting.since(&arrived))?;
    write!(text, "; {rate:.1} admitted a second of {ADMIT}; {failures} failures; {overtaken} overtaken")?;
    write!(
        text,
        "; {} MiB resident at most; {}",
        memory.peak_resident_kib / 1024,
        line("sumun_waiting_room_waiting{")
    )?;
    if failures > visitors / 1000 || overtaken > 0 || (rate / ADMIT as f64 - 1.0).abs() > 0.02 {
        return Err(text.into());
    }
    Ok(text)
}

/// One moment of the run.
struct Mark {
    at: Instant,
    cpu: process::CpuTime,
    pages: u64,
    looks: u64,
    admitted: u64,
}

impl Mark {
    fn zero(at: Instant) -> Self {
        Self { at, cpu: process::CpuTime::default(), pages: 0, looks: 0, admitted: 0 }
    }

    fn now(tree: &std::collections::BTreeSet<u32>, seen: &Seen) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (pages, looks, admitted) = (read(&seen.pages), read(&seen.looks), read(&seen.admitted));
        Self { at: Instant::now(), cpu: process::cpu_time(tree), pages, looks, admitted }
    }

    fn since(&self, before: &Self) -> String {
        let cpu = self.cpu - before.cpu;
        let seconds = (self.at - before.at).as_secs_f64();
        let share = cpu.total_ns as f64 / 1e9 / seconds * 100.0;
        let (pages, looks) = (self.pages - before.pages, self.looks - before.looks);
        let each_us = cpu.total_ns as f64 / 1e3 / (pages + looks).max(1) as f64;
        format!(
            "{:.0} pages and {:.0} questions a second, {share:.1} % of one CPU ({:.1} % of two), {each_us:.0} us each, {:.0} % of it user time",
            pages as f64 / seconds,
            looks as f64 / seconds,
            share / 2.0,
            cpu.user_share() * 100.0
        )
    }
}

/// One thread's share of the visitors.
fn visit(thread: u64, visitors: u64, port: u16, began: Instant, end: Instant, seen: &Seen) {
    let mut agenda: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut all: Vec<Visitor> = Vec::new();
    for number in (thread..visitors).step_by(THREADS as usize) {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (number % ADDRESSES) as u8));
        all.push(Visitor { address: SocketAddr::new(address, port), cookie: String::new(), place: u64::MAX });
        let at = began + ARRIVAL * (number as u32) / (visitors as u32);
        agenda.push(Reverse((at, all.len() - 1)));
    }
    while let Some(Reverse((at, index))) = agenda.pop().filter(|Reverse((at, _))| *at < end) {
        sleep(at.saturating_duration_since(Instant::now()));
        let visitor = &mut all[index];
        match visitor.ask(seen) {
            Some(pause) => agenda.push(Reverse((Instant::now() + pause, index))),
            None => visitor.cookie.clear(),
        }
    }
}

impl Visitor {
    /// When it asks again; `None`: it is in.
    fn ask(&mut self, seen: &Seen) -> Option<Duration> {
        if self.cookie.is_empty() {
            return self.open_page(seen);
        }
        seen.looks.fetch_add(1, Ordering::Relaxed);
        let Some(answer) = self.send("Accept: application/json\r\nX-Waiting-Room: look\r\n") else {
            seen.failures.fetch_add(1, Ordering::Relaxed);
            return Some(Duration::from_secs(2));
        };
        if answer.contains("\"state\":\"called\"") {
            return self.open_page(seen);
        }
        match (number_behind(&answer, "\"place\":"), number_behind(&answer, "\"ask_again_ms\":")) {
            (Some(place), Some(pause_ms)) => {
                // Nobody moves back.
                if place > self.place {
                    seen.overtaken.fetch_add(1, Ordering::Relaxed);
                }
                self.place = place;
                Some(jittered(pause_ms, place))
            }
            _ => {
                seen.failures.fetch_add(1, Ordering::Relaxed);
                Some(Duration::from_secs(2))
            }
        }
    }

    fn open_page(&mut self, seen: &Seen) -> Option<Duration> {
        seen.pages.fetch_add(1, Ordering::Relaxed);
        let answer = self.send("Accept: text/html\r\nAccept-Language: ko\r\n").unwrap_or_default();
        if let Some((_, behind)) = answer.split_once("Set-Cookie: ") {
            self.cookie = behind.split(';').next().unwrap_or_default().to_owned();
        }
        if answer.starts_with("HTTP/1.1 200") {
            seen.admitted.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        match (number_behind(&answer, "data-place=\""), number_behind(&answer, "data-pause=\"")) {
            (Some(place), Some(pause_ms)) => {
                self.place = place;
                Some(jittered(pause_ms, place))
            }
            _ => {
                seen.failures.fetch_add(1, Ordering::Relaxed);
                Some(Duration::from_secs(2))
            }
        }
    }

    /// A connection for each question: those who wait hold none.
    fn send(&self, fields: &str) -> Option<String> {
        let cookie = if self.cookie.is_empty() { String::new() } else { format!("Cookie: {}\r\n", self.cookie) };
        let request = format!(
            "GET /sale/ HTTP/1.1\r\nHost: sale.example\r\nUser-Agent: crowd\r\n{cookie}{fields}Connection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::with_capacity(8 * 1024);
        stream.read_to_end(&mut answer).ok()?;
        String::from_utf8(answer).ok()
    }
}

/// Up to an eighth sooner, as the page does it.
fn jittered(pause_ms: u64, place: u64) -> Duration {
    let sooner_ms = if pause_ms > 2000 { place.wrapping_mul(2_654_435_761) % (pause_ms / 8) } else { 0 };
    Duration::from_millis(pause_ms - sooner_ms)
}

fn number_behind(text: &str, name: &str) -> Option<u64> {
    let digits: String = text.split_once(name)?.1.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
