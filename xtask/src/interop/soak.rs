//! Ten minutes at full load with kills, reloads and slow clients: memory has to stay flat.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::Stage;
use super::client::ensure;
use super::gateway::Gateway;
use super::servers::{self, Server};
use crate::children::{Running, free_tcp_port, loopback};
use crate::process;
use crate::shell::Fallible;

/// How long; `SUMUN_SOAK_SECONDS` shortens it for a trial.
const SECONDS: u64 = 600;
/// Pools of buffers and allocators have filled up by then.
const SETTLED_SECONDS: u64 = 60;
/// Each kind of slow client.
const SLOW_CLIENTS: u32 = 20;
const LARGE_BYTES: usize = 1 << 20;
/// What may come on top between the settled state and the end: a fifth, and what an allocator
/// may do by itself.
const GROWTH_ALLOWED_KIB: u64 = 8 * 1024;

pub(crate) fn soak(stage: &Stage) -> Fallible<String> {
    let seconds = std::env::var("SUMUN_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    stage.folder.write("documents/page.txt", "the page\n")?;
    stage.folder.write("documents/large.bin", vec![b'x'; LARGE_BYTES])?;
    let start_server = |address| {
        let documents = stage.folder.path().join("documents");
        let lines = format!(
            "root {}; keepalive_requests 1000; location /upload {{ return 200 \"taken\"; }}",
            documents.display()
        );
        servers::nginx(&stage.folder, address, &lines)
    };
    let mut pair = [start_server(loopback(free_tcp_port()?))?, start_server(loopback(free_tcp_port()?))?];
    let addresses = [pair[0].address, pair[1].address];
    let config = |number: u64| {
        format!(
            "pools:
  app:
    servers: [\"{}\", \"{}\"]
    health: {{ http: /page.txt, every: 250ms }}
    timeouts: {{ first_byte: {}s }}
listeners:
  web:
    bind: \"LISTEN\"
    bounds: {{ per_client: 10000 }}
    routes:
      - {{ path: /, proxy: app }}
",
            addresses[0],
            addresses[1],
            20 + number % 10
        )
    };
    let mut gateway = Gateway::start(&stage.binary, &stage.folder, &config(0))?;
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "64", "-d", &format!("{seconds}s"), "--latency", &gateway.url("/page.txt")]);
    let mut load = Running::start("wrk", &mut command, &stage.folder)?;

    let stop = AtomicBool::new(false);
    let outcome = scope(|scope| {
        for _ in 0..SLOW_CLIENTS {
            for client in [slow_head, slow_reader, slow_sender] {
                let (listen, stop) = (gateway.listen, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // Being thrown out is what a slow client may expect; it comes back.
                        drop(client(listen, stop));
                        sleep(Duration::from_millis(200));
                    }
                });
            }
        }
        let outcome = disturb(stage, &mut gateway, &mut pair, start_server, config, seconds);
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;
    let status = load.wait(Duration::from_secs(60))?;
    ensure("wrk ended", status.success(), load.printed())?;
    let tally = crate::bench::parse_wrk(&load.printed()).ok_or("wrk said something else than expected")?;
    for line in load.printed().lines().filter(|line| line.contains("errors") || line.contains("responses")) {
        println!("  wrk: {}", line.trim());
    }
    for line in gateway.metrics(&stage.folder)?.lines() {
        if line.starts_with("sumun_http_ended_total") && !line.ends_with(" 0") {
            println!("  {line}");
        }
    }
    let report = format!(
        "{} requests ({} errors), {} kills, {} reloads; RSS {} KiB settled, {} KiB at the end, {} KiB at most",
        tally.requests,
        tally.errors,
        outcome.kills,
        outcome.reloads,
        outcome.settled_kib,
        outcome.end_kib,
        outcome.most_kib
    );
    let allowed = outcome.settled_kib + outcome.settled_kib / 5 + GROWTH_ALLOWED_KIB;
    ensure("memory stays flat", outcome.end_kib <= allowed, &report)?;
    Ok(report)
}

struct Outcome {
    kills: u64,
    reloads: u64,
    settled_kib: u64,
    end_kib: u64,
    most_kib: u64,
}

/// A reload every second, a kill every few; a sample of the memory with each.
fn disturb(
    stage: &Stage,
    gateway: &mut Gateway,
    pair: &mut [Server; 2],
    start_server: impl Fn(SocketAddr) -> Fallible<Server>,
    config: impl Fn(u64) -> String,
    seconds: u64,
) -> Fallible<Outcome> {
    let started = Instant::now();
    let resident = |gateway: &Gateway| process::memory(&process::tree(gateway.running.id())).resident_kib;
    let mut outcome = Outcome { kills: 0, reloads: 0, settled_kib: 0, end_kib: 0, most_kib: 0 };
    let settled = SETTLED_SECONDS.min(seconds / 3);
    for second in 1..seconds {
        sleep((started + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        gateway.reload(&stage.folder, &config(second))?;
        outcome.reloads += 1;
        // One of the two always lives: they die in turns, and come back a second later. The gaps
        // vary, so that no rhythm of the gateway's own fits them.
        if second % 7 == 0 || second % 11 == 0 {
            let victim = &mut pair[(outcome.kills % 2) as usize];
            let address = victim.address;
            victim.running.kill();
            sleep(Duration::from_millis(500));
            *victim = start_server(address)?;
            outcome.kills += 1;
        }
        if let Some(status) = gateway.running.ended()? {
            return Err(format!("the gateway ended with {status}\n{}", gateway.running.printed()).into());
        }
        outcome.end_kib = resident(gateway);
        outcome.most_kib = outcome.most_kib.max(outcome.end_kib);
        if second == settled {
            outcome.settled_kib = outcome.end_kib;
        }
        if second % 30 == 0 {
            println!("  {second} s: RSS {} KiB", outcome.end_kib);
        }
    }
    Ok(outcome)
}

const PATIENCE: Duration = Duration::from_secs(5);

fn connect(listen: SocketAddr) -> Fallible<TcpStream> {
    let stream = TcpStream::connect_timeout(&listen, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A header section that comes byte by byte and never ends.
fn slow_head(listen: SocketAddr, stop: &AtomicBool) -> Fallible<()> {
    let mut stream = connect(listen)?;
    for byte in b"GET /page.txt HTTP/1.1\r\nHost: slow\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        stream.write_all(&[*byte])?;
        sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// A large answer, taken a little at a time; half of them go away in the middle.
fn slow_reader(listen: SocketAddr, stop: &AtomicBool) -> Fallible<()> {
    let mut stream = connect(listen)?;
    stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n\r\n")?;
    let mut chunk = [0_u8; 16 * 1024];
    let mut left = if stream.local_addr()?.port().is_multiple_of(2) { LARGE_BYTES } else { LARGE_BYTES / 2 };
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        left = left.saturating_sub(count);
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A body that trickles in.
fn slow_sender(listen: SocketAddr, stop: &AtomicBool) -> Fallible<()> {
    let mut stream = connect(listen)?;
    stream.write_all(b"POST /upload HTTP/1.1\r\nHost: slow\r\nContent-Length: 40960\r\nConnection: close\r\n\r\n")?;
    for _ in 0..20 {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        stream.write_all(&[b'y'; 2048])?;
        sleep(Duration::from_millis(200));
    }
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}
