//! The load: wrk for requests, h2load for those of HTTP/2, openssl for handshakes, connections of our
//! own for waiting.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::rows::{Kind, Row};
use crate::shell::{Fallible, output};

/// What wrk says of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    /// Broken connections, timeouts and answers other than 2xx and 3xx.
    pub(crate) errors: u64,
    pub(crate) latency_p50_us: f64,
    pub(crate) latency_p99_us: f64,
}

/// One run of what the row measures, from CPU 1.
pub(crate) fn run(row: &Row, address: SocketAddr, seconds: u32) -> Fallible<Load> {
    match row.kind {
        Kind::Handshake { resumed } => handshakes(row, address, resumed, seconds),
        Kind::Http2 { streams } => h2load(row, address, streams, seconds),
        Kind::Proxy(_) | Kind::Files(_) | Kind::Cached(_) | Kind::CachedOnDisk(_) | Kind::Idle => {
            wrk(&format!("{}://{address}{}", row.scheme(), row.path()), row.connections, seconds)
        }
        Kind::Stream(_) | Kind::Herd | Kind::Objects { .. } => Err("it has a load of its own".into()),
    }
}

/// Clients that open one connection after the other, each with one request, as openssl has them.
fn handshakes(row: &Row, address: SocketAddr, resumed: bool, seconds: u32) -> Fallible<Load> {
    let kind = if resumed { "-reuse" } else { "-new" };
    let clients: Vec<_> = (0..row.connections)
        .map(|_| {
            Command::new("taskset")
                .args(["-c", "1", "openssl", "s_time", "-tls1_3", kind, "-connect", &address.to_string()])
                .args(["-www", &row.path(), "-time", &seconds.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
        })
        .collect();
    let mut load = Load::default();
    for client in clients {
        let output = client?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = parse_s_time(&text).ok_or_else(|| format!("openssl said something else than expected:\n{text}"))?;
        load.requests += count;
    }
    load.requests_per_second = load.requests as f64 / f64::from(seconds);
    Ok(load)
}

/// `1234 connections in 6 real seconds, 232 bytes read per connection`.
fn parse_s_time(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(" connections in ") && line.contains("real seconds"))?;
    // Where nothing was read, the connections were opened and not served.
    let is_served = !line.contains(" 0 bytes read");
    line.split_whitespace().next()?.parse().ok().filter(|_| is_served)
}

/// One run of h2load with one thread on CPU 1.
fn h2load(row: &Row, address: SocketAddr, streams: u32, seconds: u32) -> Fallible<Load> {
    let text = output(
        Command::new("taskset")
            .args(["-c", "1", "h2load", "-t", "1", "-c", &row.connections.to_string(), "-m", &streams.to_string()])
            .args(["-D", &seconds.to_string(), &format!("https://{address}{}", row.path())]),
    )?;
    parse_h2load(&text).ok_or_else(|| format!("h2load said something else than expected:\n{text}").into())
}

/// Reads what h2load prints; `None` if it is something else.
fn parse_h2load(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let mut seen = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("finished in ") {
            load.requests_per_second = rest.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()?;
        } else if let Some(rest) = line.strip_prefix("requests: ") {
            let number =
                |what: &str| rest.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok());
            load.requests = number("succeeded")?;
            // What was under way at the end counts as neither.
            load.errors = number("failed")? + number("errored")? + number("timeout")?;
            seen = true;
        } else if let Some(rest) = line.strip_prefix("time for request:") {
            load.latency_p50_us = microseconds(rest.split_whitespace().nth(2)?)?;
        }
    }
    seen.then_some(load)
}

/// One run of wrk with one thread on CPU 1.
pub(crate) fn wrk(url: &str, connections: u32, seconds: u32) -> Fallible<Load> {
    let text = output(Command::new("taskset").args(["-c", "1", "wrk", "-t", "1", "--latency"]).args([
        "-c",
        &connections.to_string(),
        "-d",
        &format!("{seconds}s"),
        url,
    ]))?;
    parse_wrk(&text).ok_or_else(|| format!("wrk said something else than expected:\n{text}").into())
}

/// Reads what wrk prints with `--latency`; `None` if it is something else.
pub(crate) fn parse_wrk(text: &str) -> Option<Load> {
    let mut load = Load::default();
    let mut seen_requests = false;
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        if let Some(errors) = line.strip_prefix("Socket errors:") {
            // "connect 0, read 0, write 0, timeout 0"
            load.errors += errors.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            load.errors += count.trim().parse::<u64>().ok()?;
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            load.requests_per_second = rate.trim().parse().ok()?;
        } else if line.contains(" requests in ") {
            load.requests = words.next()?.parse().ok()?;
            seen_requests = true;
        } else if let Some(latency) = line.strip_prefix("50%") {
            load.latency_p50_us = microseconds(latency.trim())?;
        } else if let Some(latency) = line.strip_prefix("99%") {
            load.latency_p99_us = microseconds(latency.trim())?;
        }
    }
    seen_requests.then_some(load)
}

/// wrk's durations: `812.00us`, `1.20ms`, `2.00s`, `1.50m`.
fn microseconds(text: &str) -> Option<f64> {
    let split = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at_checked(split)?;
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// GET over TLS, whoever the server says it is; the status code and the length of the body.
pub(crate) fn fetch_securely(address: SocketAddr, path: &str) -> Fallible<(u16, usize)> {
    let text = output(
        Command::new("curl").args(["--insecure", "--silent", "--output", "/dev/null", "--max-time", "5"]).args([
            "--write-out",
            "%{http_code} %{size_download}",
            &format!("https://{address}{path}"),
        ]),
    )?;
    let numbers = text.split_once(' ').and_then(|(status, size)| Some((status.parse().ok()?, size.parse().ok()?)));
    numbers.ok_or_else(|| format!("curl said {text:?}").into())
}

/// A keep-alive connection of our own.
pub(crate) struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

/// Nobody needs this long for a small answer on loopback.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Fallible<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// GET; the status code and the length of the body, which has to come with a Content-Length.
    pub(crate) fn fetch(&mut self, path: &str) -> Fallible<(u16, usize)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let end = loop {
            if let Some(end) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8_lossy(self.pending.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse::<usize>().ok());
        let (Some(status), Some(length)) = (status, length) else {
            return Err(format!("an answer without status or length:\n{head}").into());
        };
        while self.pending.len() < end + length {
            self.read_more()?;
        }
        self.pending.drain(..end + length);
        // An idle connection of the client's costs this process nothing but its descriptor.
        self.pending.shrink_to_fit();
        Ok((status, length))
    }

    fn read_more(&mut self) -> Fallible<()> {
        let mut chunk = [0_u8; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err("the connection was closed before the answer was complete".into());
        }
        self.pending.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(())
    }
}

/// Opens up to `wanted` connections, one request on each; the reason, when no more were accepted.
pub(crate) fn open_idle(
    address: SocketAddr,
    path: &str,
    wanted: u32,
    connections: &mut Vec<Connection>,
) -> Option<String> {
    for _ in 0..wanted {
        let opened = Connection::open(address).and_then(|mut connection| match connection.fetch(path)? {
            (200, _) => Ok(connection),
            (status, _) => Err(format!("status {status}").into()),
        });
        match opened {
            Ok(connection) => connections.push(connection),
            Err(error) => return Some(error.to_string()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 5s test @ http://127.0.0.1:1/64.bin
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.77ms  318.80us  11.58ms   93.17%
    Req/Sec    36.26k     2.63k   40.03k    88.00%
  Latency Distribution
     50%    1.70ms
     75%    1.79ms
     90%    1.98ms
     99%    812.00us
  180443 requests in 5.00s, 50.76MB read
Requests/sec:  36066.21
Transfer/sec:     10.15MB
";

    #[test]
    fn reads_a_good_run() {
        let load = parse_wrk(GOOD).expect("it is wrk's own text");
        assert_eq!(load.requests, 180_443);
        assert_eq!(load.errors, 0);
        assert!((load.requests_per_second - 36_066.21).abs() < 0.001);
        assert!((load.latency_p50_us - 1_700.0).abs() < 0.001 && (load.latency_p99_us - 812.0).abs() < 0.001);
    }

    #[test]
    fn counts_every_kind_of_error() {
        let bad =
            format!("{GOOD}  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 100\n");
        assert_eq!(parse_wrk(&bad).expect("it is wrk's own text").errors, 110);
    }

    #[test]
    fn refuses_other_text() {
        assert_eq!(parse_wrk("unable to connect"), None);
        assert_eq!(parse_h2load("connect failed"), None);
        assert_eq!(parse_s_time("No CIPHER specified"), None);
    }

    #[test]
    fn reads_h2load_and_s_time() {
        let text = "finished in 1.01s, 41234.50 req/s, 3.10MB/s
requests: 41400 total, 41500 started, 41300 done, 41290 succeeded, 7 failed, 2 errored, 1 timeout
status codes: 41290 2xx, 0 3xx, 0 4xx, 7 5xx
                     min         max         mean         sd        +/- sd
time for request:      100us      9.10ms       2.50ms       700us    80.00%
";
        let load = parse_h2load(text).expect("it is h2load's own text");
        assert_eq!((load.requests, load.errors), (41_290, 10));
        assert!((load.requests_per_second - 41_234.5).abs() < 0.01 && (load.latency_p50_us - 2_500.0).abs() < 0.01);
        let text = "Collecting connection statistics for 5 seconds\n\n\n2049 connections in 0.70s; 2927.14 connections/user sec, bytes read 0\n2049 connections in 6 real seconds, 232 bytes read per connection\n";
        assert_eq!(parse_s_time(text), Some(2_049));
        assert_eq!(parse_s_time(&text.replace("232 bytes", "0 bytes")), None);
    }
}
