//! What it costs to say no, beside what it costs to pass a request on, on connections that stay open.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::contenders::Contender;
use super::{Report, Scenario, Stage, not_measured, wait_for_answer};
use crate::bench::START_LIMIT;
use crate::bench::load::{Connection, wrk};
use crate::bench::report::spread;
use crate::bench::rivals::{CONNECTIONS, haproxy_connections, nginx_command, nginx_frame, pinned, start_origin};
use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::process;
use crate::shell::Fallible;
use crate::table;

pub(super) const SECONDS: u32 = 4;

/// Of wrk, each with one request after the other.
const CLIENTS: u32 = 64;

/// Shorter than any patience with a server.
const STALL: Duration = Duration::from_millis(500);

/// What is asked for: the path says what will become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Proxied,
    Limited,
    Shed,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Proxied => "/64.bin",
            Self::Limited => "/limited/64.bin",
            Self::Shed => "/shed/64.bin",
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::Proxied => 200,
            Self::Limited => 429,
            Self::Shed => 503,
        }
    }
}

/// What each can be asked.
fn kinds(contender: Contender) -> &'static [Kind] {
    match contender {
        Contender::Adaptive => &[Kind::Proxied, Kind::Limited, Kind::Shed],
        // With a fixed limit, so that one sees what the adaptive one adds.
        Contender::Off => &[Kind::Proxied, Kind::Shed],
        Contender::Haproxy | Contender::Nginx => &[Kind::Proxied, Kind::Limited],
        Contender::HaproxyUntuned | Contender::Envoy => &[],
    }
}

fn label(contender: Contender, kind: Kind) -> String {
    match (contender, kind) {
        (Contender::Adaptive, Kind::Proxied) => "sumun, proxied".to_owned(),
        (Contender::Adaptive, Kind::Limited) => "sumun, 429 of limits".to_owned(),
        (Contender::Adaptive, Kind::Shed) => "sumun, 503 of concurrency: adaptive".to_owned(),
        (Contender::Off, Kind::Proxied) => "sumun without limits, proxied".to_owned(),
        (Contender::Off, _) => "sumun, 503 of concurrency: 8".to_owned(),
        (Contender::Haproxy, Kind::Proxied) => "HAProxy, proxied".to_owned(),
        (Contender::Haproxy, _) => "HAProxy, 429 of http-request deny".to_owned(),
        (Contender::Nginx, Kind::Proxied) => "nginx, proxied".to_owned(),
        (Contender::Nginx, _) => "nginx, 429 of limit_req".to_owned(),
        (other, _) => other.label().to_owned(),
    }
}

/// One round of one kind.
#[derive(Debug, Clone, Copy)]
struct Cost {
    total_us: f64,
    user_us: f64,
    per_second: f64,
}

struct Line {
    contender: Contender,
    kind: Kind,
    workers: u32,
    costs: Vec<Cost>,
    /// Whether a second request was answered on the connection of the first.
    kept: bool,
    /// Why there are no figures.
    why_not: Option<String>,
}

impl Line {
    fn median(&self, value: fn(&Cost) -> f64) -> f64 {
        spread(self.costs.iter().map(value)).map_or(0.0, |spread| spread.median)
    }

    /// Round by round, since what else runs on the machine changes between them; the median.
    fn ratio_to(&self, other: &Self, value: fn(&Cost) -> f64) -> f64 {
        let ratios = self.costs.iter().zip(&other.costs).map(|(own, other)| value(own) / value(other));
        spread(ratios).map_or(0.0, |spread| spread.median)
    }

    fn text(&self, value: fn(&Cost) -> f64) -> String {
        spread(self.costs.iter().map(value)).map_or_else(
            || "-".to_owned(),
            |spread| format!("{:.2} [{:.2} {:.2}]", spread.median, spread.least, spread.most),
        )
    }
}

pub(super) fn run(stage: &Stage, contenders: &[Contender], rounds: u32, seconds: u32) -> Fallible<Report> {
    let (mut lines, mut complete) = (Vec::new(), true);
    for workers in [1, 2] {
        let (measured, is_complete) = with_workers(stage, contenders, workers, rounds, seconds)?;
        lines.extend(measured);
        complete &= is_complete;
    }
    let header = ["", "workers", "CPU us", "user us", "system us", "of its proxied", "requests/s", "kept"];
    let find = |contender, kind, workers| {
        lines.iter().find(|line| line.contender == contender && line.kind == kind && line.workers == workers)
    };
    let row = |line: &Line| {
        let proxied = find(line.contender, Kind::Proxied, line.workers);
        let ratio = proxied.map_or(0.0, |proxied| line.ratio_to(proxied, |cost| cost.total_us));
        vec![
            label(line.contender, line.kind),
            line.workers.to_string(),
            line.text(|cost| cost.total_us),
            line.text(|cost| cost.user_us),
            line.text(|cost| cost.total_us - cost.user_us),
            format!("{ratio:.2}"),
            format!("{:.0}", line.median(|cost| cost.per_second)),
            if line.why_not.is_some() {
                "not measured"
            } else if line.kept {
                "yes"
            } else {
                "NO"
            }
            .to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    print!("\n{}", table::plain(&header, &rows, true));
    let mut verdict = Vec::new();
    for workers in [1, 2] {
        let deny = find(Contender::Haproxy, Kind::Limited, workers);
        for kind in [Kind::Limited, Kind::Shed] {
            if let (Some(ours), Some(proxied), Some(deny)) =
                (find(Contender::Adaptive, kind, workers), find(Contender::Adaptive, Kind::Proxied, workers), deny)
            {
                let of_proxied = ours.ratio_to(proxied, |cost| cost.total_us);
                let of_deny = ours.ratio_to(deny, |cost| cost.user_us);
                verdict.push(format!(
                    "{}, workers: {workers}: {of_proxied:.2} of a proxied request (aim 0.60), user time {of_deny:.2} of HAProxy's deny (aim 1.00)",
                    label(ours.contender, kind)
                ));
            }
        }
    }
    for line in &verdict {
        println!("=> {line}");
    }
    let mut markdown = format!(
        "CPU time of the proxy per request; wrk with {CLIENTS} connections, {rounds} interleaved rounds of {seconds} s, medians with the least and the greatest. Ratios are those of the same round, their median.\n\n{}",
        table::markdown(&header, &rows)
    );
    for line in &verdict {
        markdown.push_str(&format!("\n{line}\n"));
    }
    let json = lines
        .iter()
        .map(|line| {
            json!({
                "what": label(line.contender, line.kind), "workers": line.workers, "kept": line.kept,
                "total_us": line.costs.iter().map(|cost| cost.total_us).collect::<Vec<_>>(),
                "user_us": line.costs.iter().map(|cost| cost.user_us).collect::<Vec<_>>(),
                "requests_per_second": line.median(|cost| cost.per_second), "why_not": line.why_not,
            })
        })
        .collect();
    Ok(Report { scenario: Scenario::Refused, markdown, json: Value::Array(json), images: Vec::new(), complete })
}

/// A contender that runs, and where.
struct Entrant {
    contender: Contender,
    listen: SocketAddr,
    running: Running,
    _folder: TemporaryFolder,
}

fn with_workers(
    stage: &Stage,
    contenders: &[Contender],
    workers: u32,
    rounds: u32,
    seconds: u32,
) -> Fallible<(Vec<Line>, bool)> {
    let folder = TemporaryFolder::create()?;
    for place in ["", "limited/"] {
        folder.write(&format!("files/{place}64.bin"), [b'x'; 64])?;
    }
    let origin = loopback(free_tcp_port()?);
    let mut origin_running = start_origin(origin, &folder.path().join("files"), &folder)?;
    origin_running.wait_for(origin, START_LIMIT)?;
    stage.server.forget();
    let (mut entrants, mut lines, mut complete) = (Vec::new(), Vec::new(), true);
    for &contender in contenders.iter().filter(|contender| !kinds(**contender).is_empty()) {
        match enter(stage, contender, origin, workers) {
            Ok(entrant) => {
                let line = |&kind| Line { contender, kind, workers, costs: Vec::new(), kept: false, why_not: None };
                lines.extend(kinds(contender).iter().map(line));
                entrants.push(entrant);
            }
            Err(error) => {
                not_measured(contender, &error.to_string());
                complete &= !contender.is_ours();
            }
        }
    }
    for round in 0..=rounds {
        let mut proxied_us = 0.0;
        for line in &mut lines {
            let Some(entrant) = entrants.iter_mut().find(|entrant| entrant.contender == line.contender) else {
                continue;
            };
            if line.why_not.is_some() {
                continue;
            }
            // The first round is the warm-up.
            let cost = match one_round(entrant, line.kind, if round == 0 { 1 } else { seconds }, proxied_us) {
                Ok(cost) => cost,
                Err(error) => {
                    line.why_not = Some(not_measured(line.contender, &error.to_string()));
                    line.costs.clear();
                    complete &= !line.contender.is_ours();
                    continue;
                }
            };
            if line.kind == Kind::Proxied {
                proxied_us = cost.total_us;
            }
            if round == 0 {
                line.kept = keeps(stage, entrant, line.kind).is_ok_and(|keeps| keeps);
            } else {
                println!(
                    "  {round}/{rounds} {:<36} {:>7.2} us, user {:>6.2}, {:>7.0}/s",
                    label(line.contender, line.kind),
                    cost.total_us,
                    cost.user_us,
                    cost.per_second
                );
                line.costs.push(cost);
            }
        }
    }
    Ok((lines, complete))
}

/// `proxied_us` is what a request costs that is passed on: of those that are to be shed, some are.
fn one_round(entrant: &mut Entrant, kind: Kind, seconds: u32, proxied_us: f64) -> Fallible<Cost> {
    let tree = process::tree(entrant.running.id());
    let before = process::cpu_time(&tree);
    let load = wrk(&format!("http://{}{}", entrant.listen, kind.path()), CLIENTS, seconds)?;
    let used = process::cpu_time(&tree) - before;
    if let Some(status) = entrant.running.ended()? {
        return Err(format!("{} ended with {status}", entrant.contender.label()).into());
    }
    let used_us = used.total_ns as f64 / 1e3;
    let refused = load.errors.min(load.requests);
    let total_us = match kind {
        Kind::Proxied if load.errors > 0 => {
            return Err(format!("{}: {} errors", entrant.contender.label(), load.errors).into());
        }
        Kind::Proxied => used_us / load.requests.max(1) as f64,
        // wrk counts what is neither 2xx nor 3xx.
        Kind::Limited | Kind::Shed if refused == 0 => {
            return Err(format!("{}: nothing was refused at {}", entrant.contender.label(), kind.path()).into());
        }
        Kind::Limited | Kind::Shed => {
            let answered = load.requests - refused;
            (used_us - answered as f64 * proxied_us).max(0.0) / refused as f64
        }
    };
    Ok(Cost { total_us, user_us: total_us * used.user_share(), per_second: load.requests_per_second })
}

/// Whether two requests are refused, or answered, on one connection.
fn keeps(stage: &Stage, entrant: &Entrant, kind: Kind) -> Fallible<bool> {
    let mut others = Vec::new();
    if kind == Kind::Shed {
        // Nothing is shed while there is room: all of it is taken, by clients who wait for their answer.
        stage.server.stall(STALL);
        for _ in 0..CLIENTS {
            let mut client = TcpStream::connect(entrant.listen)?;
            client.write_all(format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", kind.path()).as_bytes())?;
            others.push(client);
        }
        sleep(STALL / 5);
    }
    let mut connection = Connection::open(entrant.listen)?;
    if kind == Kind::Limited {
        // This one may still be within the limit.
        connection.fetch(kind.path())?;
    }
    let refused = |connection: &mut Connection| connection.fetch(kind.path()).map(|(status, _)| status);
    let statuses = (refused(&mut connection), refused(&mut connection));
    if kind == Kind::Shed {
        sleep(STALL);
    }
    Ok(matches!(statuses, (Ok(first), Ok(second)) if first == kind.status() && second == kind.status()))
}

fn enter(stage: &Stage, contender: Contender, origin: SocketAddr, workers: u32) -> Fallible<Entrant> {
    let folder = TemporaryFolder::create()?;
    let listen = loopback(free_tcp_port()?);
    let path = folder.path();
    let command = match contender {
        Contender::Haproxy => {
            let config = folder.write("haproxy.cfg", haproxy(listen, origin, workers))?;
            vec!["haproxy".into(), "-db".into(), "-f".into(), config.display().to_string()]
        }
        Contender::Nginx => nginx_command(&folder.write("nginx.conf", nginx(listen, origin, workers, path))?, path),
        _ => {
            let adaptive = contender == Contender::Adaptive;
            let config = sumun(adaptive, listen, origin, stage.server.address(), workers, path);
            let config = folder.write("sumun.yaml", config)?;
            vec![stage.sumun.display().to_string(), "run".into(), "-c".into(), config.display().to_string()]
        }
    };
    let cpus: &[u32] = if workers == 1 { &[0] } else { &[0, 1] };
    let mut running = Running::start(contender.name(), &mut pinned(cpus, &command), &folder)?;
    wait_for_answer(&mut running, contender.label(), listen, Kind::Proxied.path(), 200)?;
    Ok(Entrant { contender, listen, running, _folder: folder })
}

fn sumun(
    adaptive: bool,
    listen: SocketAddr,
    origin: SocketAddr,
    server: SocketAddr,
    workers: u32,
    folder: &Path,
) -> String {
    let (concurrency, limits, limited, priority) = if adaptive {
        (
            "adaptive",
            "limits:\n  per-client: { key: client, rate: 1/s, burst: 1 }\n",
            "      - { path: /limited/, proxy: app, limits: [per-client] }\n",
            ", priority: low",
        )
    } else {
        ("8", "", "", "")
    };
    // A line of one, so that the clients, who are few, are refused and do not wait.
    format!(
        "workers: {workers}
admin: off
control: unix:{folder}/control.sock
pools:
  app: {{ servers: [\"{origin}\"] }}
  slow: {{ servers: [\"{server}\"], concurrency: {concurrency}, queue: {{ size: 1, timeout: 1s }} }}
{limits}listeners:
  web:
    bind: \"{listen}\"
    bounds: {{ connections: {CONNECTIONS}, per_client: {CONNECTIONS}, requests: 1000000000 }}
    routes:
{limited}      - {{ path: /shed/, proxy: slow{priority} }}
      - {{ path: /, proxy: app }}
",
        folder = folder.display(),
    )
}

fn haproxy(listen: SocketAddr, origin: SocketAddr, workers: u32) -> String {
    let connections = haproxy_connections();
    format!(
        "global
  nbthread {workers}
  maxconn {connections}
defaults
  mode http
  http-reuse always
  maxconn {connections}
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend web
  bind {listen} backlog 4096
  http-request deny deny_status 429 if {{ path_beg /limited/ }}
  default_backend app
backend app
  server one {origin} pool-max-conn -1
"
    )
}

fn nginx(listen: SocketAddr, origin: SocketAddr, workers: u32, folder: &Path) -> String {
    let rest = format!(
        "limit_req_zone $binary_remote_addr zone=limit:1m rate=1r/s;
  limit_req_log_level info;
  upstream app {{ server {origin}; keepalive 128; keepalive_requests 1000000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  server {{
    listen {listen} backlog=4096{reuseport};
    location /limited/ {{ limit_req zone=limit; limit_req_status 429; proxy_pass http://app; }}
    location / {{ proxy_pass http://app; }}
  }}",
        reuseport = if workers > 1 { " reuseport" } else { "" },
    );
    nginx_frame(workers, folder, "access_log off;", &rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(totals: &[f64]) -> Line {
        let costs = totals.iter().map(|&total_us| Cost { total_us, user_us: total_us / 2.0, per_second: 1.0 });
        Line {
            contender: Contender::Adaptive,
            kind: Kind::Shed,
            workers: 1,
            costs: costs.collect(),
            kept: true,
            why_not: None,
        }
    }

    #[test]
    fn rounds_are_compared_with_their_own() {
        // The machine was slow in the second round, for both.
        let (refused, proxied) = (line(&[10.0, 40.0, 12.0]), line(&[20.0, 80.0, 12.0]));
        assert!((refused.ratio_to(&proxied, |cost| cost.total_us) - 0.5).abs() < 1e-9);
        assert!((refused.median(|cost| cost.total_us) - 12.0).abs() < 1e-9);
    }
}
