//! What other clients notice while one attacks: their 99th percentile in calm and under each attack,
//! and what the gateway grows by.
//!
//! The gateway has CPU 0 for itself. The others share CPU 1, where the measuring client and the
//! server go before the attackers: what is measured is not to be the attackers' own load.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::Stage;
use super::client::{ensure, read_hey};
use super::gateway::Gateway;
use super::servers;
use crate::children::{Running, free_tcp_port, loopback};
use crate::process;
use crate::shell::{Fallible, output};

/// Attackers of a kind that floods; each comes back a moment after it was thrown out.
const ATTACKERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// Attackers of the kind that holds what it was given.
const HOLDERS: usize = 20;
const SETTLING: Duration = Duration::from_secs(5);
/// Connections of a kind that is slow.
const SLOW: usize = 5_000;
const SECONDS: u32 = 6;
const LARGE_BYTES: usize = 1 << 20;
/// What all attacks, one after the other, may make the gateway grow by.
const GROWTH_ALLOWED_KIB: u64 = 96 * 1024;

/// One attack by HTTP/2: what is sent once, and what is sent behind it until nothing is taken any more.
struct Flood {
    name: &'static str,
    settings: &'static [u8],
    first: fn() -> Vec<u8>,
    again: fn(u32) -> Vec<u8>,
    /// So often on one connection.
    times: u32,
    /// Behind that the connection stays until it is thrown out.
    holds: bool,
}

const FLOODS: [Flood; 9] = [
    Flood {
        name: "rapid reset",
        settings: &[],
        first: Vec::new,
        again: |number| [get(2 * number + 1, "/"), frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes())].concat(),
        times: 100_000,
        holds: false,
    },
    Flood {
        name: "made you reset",
        settings: &[],
        first: Vec::new,
        again: |number| [get(2 * number + 1, "/"), frame(WINDOW_UPDATE, 0, 2 * number + 1, &[0; 4])].concat(),
        times: 100_000,
        holds: false,
    },
    Flood {
        name: "CONTINUATION flood",
        settings: &[],
        first: || frame(HEADERS, 0, 1, &get_block("/")),
        again: |_| frame(CONTINUATION, 0, 1, &[]),
        times: 1_000_000,
        holds: false,
    },
    Flood {
        name: "endless head",
        settings: &[],
        first: || frame(HEADERS, 0, 1, &get_block("/")),
        again: |_| frame(CONTINUATION, 0, 1, &field(b"x", &[b'a'; 8_000])),
        times: 1_000_000,
        holds: false,
    },
    Flood {
        name: "HPACK bomb",
        settings: &[],
        first: bomb,
        again: |_| frame(PING, 0, 0, &[0; 8]),
        times: 1_000,
        holds: false,
    },
    Flood {
        name: "SETTINGS flood",
        settings: &[],
        first: Vec::new,
        again: |_| frame(SETTINGS, 0, 0, &[]),
        times: 1_000_000,
        holds: false,
    },
    Flood {
        name: "PING flood",
        settings: &[],
        first: Vec::new,
        again: |_| frame(PING, 0, 0, &[7; 8]),
        times: 1_000_000,
        holds: false,
    },
    Flood {
        name: "WINDOW_UPDATE flood",
        settings: &[],
        first: Vec::new,
        again: |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        times: 1_000_000,
        holds: false,
    },
    // A hundred large answers a connection, for which there is no window.
    Flood {
        name: "shut windows",
        settings: &[0, 4, 0, 0, 0, 0],
        first: Vec::new,
        again: |number| if number < 100 { get(2 * number + 1, "/large.bin") } else { Vec::new() },
        times: 101,
        holds: true,
    },
];

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()[..]].concat();
    [&head, payload].concat()
}

/// A field that no table keeps (RFC 7541 section 6.2.2).
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend_from_slice(name);
    let mut rest = value.len();
    if rest < 127 {
        bytes.push(rest as u8);
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        bytes.push(rest as u8);
    }
    bytes.extend_from_slice(value);
    bytes
}

fn get_block(path: &str) -> Vec<u8> {
    [
        field(b":method", b"GET"),
        field(b":scheme", b"http"),
        field(b":path", path.as_bytes()),
        field(b":authority", b"a"),
    ]
    .concat()
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    const END_STREAM_AND_HEADERS: u8 = 5;
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, &get_block(path))
}

/// An entry as large as the table, and thousands of single bytes that stand for it.
fn bomb() -> Vec<u8> {
    let mut block = get_block("/");
    let mut entry = field(b"x", &[b'a'; 4_000]);
    entry[0] = 0x40;
    block.extend(entry);
    block.extend([0xbe; 10_000]);
    frame(HEADERS, 5, 1, &block)
}

/// One connection of a flood, until it is thrown out or has done its worst.
fn flood(listen: SocketAddr, kind: &Flood, stop: &AtomicBool) -> Fallible<()> {
    let mut stream = TcpStream::connect(listen)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&[frame(SETTINGS, 0, 0, kind.settings), frame(SETTINGS, 1, 0, &[]), (kind.first)()].concat())?;
    let mut sink = [0; 16 * 1024];
    let some = |number: u32| (number..(number + 50).min(kind.times)).map(kind.again).collect::<Vec<_>>().concat();
    // Put together once where all are alike: the work of attackers would take from the others the CPU
    // that these measure on, and that would be seen and not the gateway.
    let are_alike = (kind.again)(0) == (kind.again)(1);
    let mut bytes = some(0);
    for number in (0..kind.times).step_by(50) {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if number > 0 && !are_alike {
            bytes = some(number);
        }
        stream.write_all(&bytes)?;
        if let Ok(0) = stream.read(&mut sink) {
            return Ok(());
        }
    }
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    while kind.holds && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut sink) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    Ok(())
}

/// How thousands of connections are slow: what each sends at first, and again every second.
struct Slowness {
    name: &'static str,
    first: &'static str,
    again: &'static str,
    /// It reads a little every second.
    reads: bool,
}

const SLOWNESSES: [Slowness; 3] = [
    Slowness { name: "slow heads", first: "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", again: "x", reads: false },
    Slowness {
        name: "slow bodies",
        first: "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
        again: "0123456789012345678901234567890123456789012345678901234567890123456789",
        reads: false,
    },
    Slowness {
        name: "slow readers",
        first: "GET /static/large.bin HTTP/1.1\r\nHost: a\r\n\r\n",
        again: "",
        reads: true,
    },
];

/// Thousands of connections from a few threads. What is thrown out comes back.
fn be_slow(listen: SocketAddr, how: &Slowness, count: usize, open: &AtomicU64, stop: &AtomicBool) {
    let connect = || -> Fallible<TcpStream> {
        let mut stream = TcpStream::connect(listen)?;
        stream.set_write_timeout(Some(Duration::from_millis(10)))?;
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        stream.write_all(how.first.as_bytes())?;
        open.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    };
    let mut all: Vec<Option<TcpStream>> = (0..count).map(|_| connect().ok()).collect();
    let mut sink = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let round = Instant::now();
        for slot in &mut all {
            let lives = slot.as_mut().is_some_and(|stream| {
                stream.write_all(how.again.as_bytes()).is_ok()
                    && !(how.reads && matches!(stream.read(&mut sink), Ok(0)))
            });
            if !lives {
                *slot = connect().ok();
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
}

/// What the others saw: milliseconds at the 99th percentile.
fn measure(stage: &Stage, url: &str) -> Fallible<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1", "nice", "-n", "-10", "hey", "-z", &format!("{SECONDS}s"), "-c", "10", "-q", "50", url]);
    let mut hey = Running::start("hey", &mut command, &stage.folder)?;
    let status = hey.wait(Duration::from_secs(u64::from(SECONDS) + 60))?;
    let text = hey.printed();
    ensure("hey ended", status.success(), &text)?;
    read_hey(&text).all_good(u64::from(SECONDS) * 250)?;
    read_p99_ms(&text).ok_or_else(|| format!("hey said no percentile\n{text}").into())
}

fn read_p99_ms(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("99% in "))?;
    Some(line.strip_suffix(" secs")?.parse::<f64>().ok()? * 1000.0)
}

pub(crate) fn attack(stage: &Stage) -> Fallible<String> {
    let folder = &stage.folder;
    folder.write("documents/index.html", "the page\n")?;
    folder.write("documents/large.bin", vec![b'x'; LARGE_BYTES])?;
    let documents = folder.path().join("documents").display().to_string();
    let lines = format!(
        "root {documents}; keepalive_requests 1000000; client_max_body_size 1m; location /upload {{ return 200 \"taken\"; }}"
    );
    let server = servers::nginx(folder, loopback(free_tcp_port()?), &lines)?;
    let config = format!(
        "pools:
  app: {{ servers: [\"{}\"] }}
listeners:
  web:
    bind: \"LISTEN\"
    bounds: {{ per_client: 0 }}
    routes:
      - {{ path: /static/, files: {{ root: {documents} }} }}
      - {{ path: /, proxy: app }}
",
        server.address
    );
    let gateway = Gateway::start(&stage.binary, folder, &config)?;
    for (root, cpu) in [(gateway.running.id(), "0"), (server.running.id(), "1"), (std::process::id(), "1")] {
        for id in process::tree(root) {
            if root != std::process::id() || id == root {
                output(Command::new("taskset").args(["-a", "-p", "-c", cpu, &id.to_string()]))?;
            }
        }
    }
    for id in process::tree(server.running.id()) {
        output(Command::new("renice").args(["-n", "-10", "-p", &id.to_string()]))?;
    }
    let url = gateway.url("/");
    let memory = || process::memory(&process::tree(gateway.running.id()));
    measure(stage, &url)?;
    let calm_ms = measure(stage, &url)?;
    let before_kib = memory().resident_kib;
    println!("  calm: p99 {calm_ms:.1} ms, RSS {before_kib} KiB");

    let mut lines = vec![format!("calm p99 {calm_ms:.1} ms")];
    let mut report = |name: &str, p99_ms: f64, resident_kib: u64| -> Fallible<()> {
        let growth_kib = resident_kib.saturating_sub(before_kib);
        println!("  {name}: p99 {p99_ms:.1} ms, RSS {resident_kib} KiB");
        lines.push(format!("{name} {p99_ms:.1} ms, +{growth_kib} KiB"));
        ensure("memory stays bounded", growth_kib <= GROWTH_ALLOWED_KIB, (name, growth_kib))
    };
    for kind in &FLOODS {
        let stop = AtomicBool::new(false);
        let seen = scope(|scope| {
            for _ in 0..if kind.holds { HOLDERS } else { ATTACKERS } {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // To be thrown out is what it is there for.
                        drop(flood(gateway.listen, kind, &stop));
                        sleep(PAUSE);
                    }
                });
            }
            if kind.holds {
                // Two thousand requests at once are a load like any other; what is held is not.
                sleep(SETTLING);
            }
            let seen = measure(stage, &url).map(|p99_ms| (p99_ms, memory().resident_kib));
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let (p99_ms, resident_kib) = seen.map_err(|error| format!("{}: {error}", kind.name))?;
        report(kind.name, p99_ms, resident_kib)?;
    }
    for kind in &SLOWNESSES {
        let (stop, open) = (AtomicBool::new(false), AtomicU64::new(0));
        let seen = scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| be_slow(gateway.listen, kind, SLOW / 4, &open, &stop));
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while open.load(Ordering::Relaxed) < SLOW as u64 && Instant::now() < deadline {
                sleep(Duration::from_millis(100));
            }
            let seen = measure(stage, &url).map(|p99_ms| (p99_ms, memory().resident_kib));
            stop.store(true, Ordering::Relaxed);
            seen
        });
        let (p99_ms, resident_kib) = seen.map_err(|error| format!("{}: {error}", kind.name))?;
        ensure("the slow ones came in", open.load(Ordering::Relaxed) >= SLOW as u64, &open)?;
        report(&format!("{SLOW} {}", kind.name), p99_ms, resident_kib)?;
    }
    Ok(lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heys_percentile() {
        assert_eq!(read_p99_ms("  95% in 0.0010 secs\n  99% in 0.0023 secs\n"), Some(2.3));
    }

    #[test]
    fn frames_and_fields() {
        assert_eq!(frame(PING, 0, 0, &[7; 8]), [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat());
        assert_eq!(field(b"x", b"ab"), b"\x00\x01x\x02ab");
        assert_eq!(field(b"x", &[b'a'; 300])[3..6], [127, 0xad, 1]);
    }
}
