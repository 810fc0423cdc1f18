//! Real services behind the L4 switch: PostgreSQL, Redis and DNS, with their own clients in front. Each
//! server is killed in its turn and brought back, while new connections come.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::Stage;
use super::client::ensure;
use super::gateway::{Gateway, START_LIMIT};
use crate::children::{Running, free_tcp_port, loopback};
use crate::shell::{Fallible, all_output, output};

/// How long a server stays away.
const AWAY: Duration = Duration::from_secs(4);
/// A server that was brought back is up again within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of DNS queries; beyond it dnsperf takes one for lost.
const QUERY_TIMEOUT_S: u32 = 2;
/// Connections a second that come to Redis.
const PAUSE: Duration = Duration::from_millis(1);

const ZONE: &str = "$ORIGIN example.test.
$TTL 300
@ IN SOA ns admin 1 3600 600 86400 300
@ IN NS ns
ns IN A 127.0.0.1
www IN A 192.0.2.1
";

/// Two servers of one kind.
struct Pair {
    ports: [u16; 2],
    running: [Running; 2],
    start: fn(&Stage, u16) -> Fallible<Running>,
}

impl Pair {
    fn start(stage: &Stage, start: fn(&Stage, u16) -> Fallible<Running>) -> Fallible<Self> {
        let ports = [free_tcp_port()?, free_tcp_port()?];
        Ok(Self { running: [start(stage, ports[0])?, start(stage, ports[1])?], ports, start })
    }

    fn servers(&self) -> String {
        let [one, other] = self.ports;
        format!("[\"127.0.0.1:{one}\", \"127.0.0.1:{other}\"]")
    }

    /// Kills each in its turn and brings it back.
    fn drill(&mut self, stage: &Stage, gateway: &Gateway) -> Fallible<()> {
        for index in 0..2 {
            let Some((running, port)) = self.running.get_mut(index).zip(self.ports.get(index)) else { continue };
            running.kill();
            sleep(AWAY);
            await_state(stage, gateway, *port, 0)?;
            *running = (self.start)(stage, *port)?;
            await_state(stage, gateway, *port, 1)?;
        }
        Ok(())
    }
}

fn redis(stage: &Stage, port: u16) -> Fallible<Running> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    command.arg("--dir").arg(stage.folder.path());
    let mut running = Running::start("redis", &mut command, &stage.folder)?;
    running.wait_for(loopback(port), START_LIMIT)?;
    Ok(running)
}

/// The newest that is installed.
fn postgres_programs() -> Fallible<PathBuf> {
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql")?.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    versions.sort();
    versions.pop().ok_or_else(|| "there is no PostgreSQL".into())
}

/// A command that runs as the user that PostgreSQL insists on.
fn as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

fn postgres(stage: &Stage, port: u16) -> Fallible<Running> {
    let (programs, data) = (postgres_programs()?, stage.folder.path().join(format!("postgres-{port}")));
    if !data.exists() {
        std::fs::create_dir(&data)?;
        output(Command::new("chown").arg("postgres").arg(&data))?;
        output(as_postgres(programs.join("initdb")).arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres"]))?;
    }
    let mut command = as_postgres(programs.join("postgres"));
    command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"]).arg(&data);
    // One that was killed may still have children that hold its memory.
    let until = Instant::now() + PATIENCE;
    loop {
        let mut running = Running::start("postgres", &mut command, &stage.folder)?;
        match running.wait_for(loopback(port), START_LIMIT) {
            Ok(()) => return Ok(running),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

fn name_server(stage: &Stage, port: u16) -> Fallible<Running> {
    let folder = stage.folder.path().display();
    stage.folder.write("zone", ZONE)?;
    let config = format!(
        "server:
  ip-address: 127.0.0.1@{port}
  port: {port}
  username: \"\"
  chroot: \"\"
  zonesdir: {folder}
  pidfile: {folder}/nsd-{port}.pid
  xfrdfile: {folder}/nsd-{port}.xfrd
  zonelistfile: {folder}/nsd-{port}.zones
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: example.test
  zonefile: zone
"
    );
    let config = stage.folder.write(&format!("nsd-{port}.conf"), config)?;
    let mut running = Running::start("nsd", Command::new("nsd").arg("-d").arg("-c").arg(config), &stage.folder)?;
    running.wait_for(loopback(port), START_LIMIT)?;
    Ok(running)
}

fn await_state(stage: &Stage, gateway: &Gateway, port: u16, up: u8) -> Fallible<()> {
    let until = Instant::now() + PATIENCE;
    let line = format!("server=\"127.0.0.1:{port}\"}} {up}");
    loop {
        let metrics = gateway.metrics(&stage.folder)?;
        if metrics.lines().any(|found| found.starts_with("sumun_server_up{") && found.ends_with(&line)) {
            return Ok(());
        }
        ensure(&format!("127.0.0.1:{port} is seen as {up}"), Instant::now() < until, &metrics)?;
        sleep(Duration::from_millis(100));
    }
}

/// What new connections came to.
#[derive(Default)]
struct Tally {
    good: AtomicU32,
    bad: AtomicU32,
    is_over: AtomicBool,
}

impl Tally {
    /// Tries again and again until it is over.
    fn run(&self, pause: Duration, attempt: impl Fn() -> bool) {
        while !self.is_over.load(Ordering::Relaxed) {
            let counter = if attempt() { &self.good } else { &self.bad };
            counter.fetch_add(1, Ordering::Relaxed);
            sleep(pause);
        }
    }

    fn counts(&self) -> (u32, u32) {
        (self.good.load(Ordering::Relaxed), self.bad.load(Ordering::Relaxed))
    }
}

/// A connection of its own that is answered.
fn ping(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(loopback(port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).map(|()| answer)
    };
    ask().is_ok_and(|answer: [u8; 7]| &answer == b"+PONG\r\n")
}

/// Which server a session got to.
fn session(port: u16) -> Option<u16> {
    let mut command = Command::new("psql");
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-AtX", "-c", "select inet_server_port()", "-p"]);
    output(command.arg(port.to_string()).env("PGCONNECT_TIMEOUT", "5")).ok()?.trim().parse().ok()
}

/// A figure of dnsperf's report.
fn figure(report: &str, title: &str) -> u32 {
    let line = report.lines().find_map(|line| line.trim().strip_prefix(title));
    let number = line.map(|rest| rest.trim().chars().take_while(char::is_ascii_digit).collect::<String>());
    number.and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

pub(crate) fn stream(stage: &Stage) -> Fallible<String> {
    std::fs::set_permissions(stage.folder.path(), Permissions::from_mode(0o755))?;
    let (mut cache, mut names) = (Pair::start(stage, redis)?, Pair::start(stage, name_server)?);
    let mut sql = Pair::start(stage, postgres)?;
    let [main, spare] = sql.ports;
    let (redis_port, dns_port) = (free_tcp_port()?, free_tcp_port()?);
    let config = format!(
        "pools:
  cache: {{ servers: {}, balance: maglev, health: {{ redis: {{}} }} }}
  names: {{ servers: {}, health: {{ dns: {{}} }} }}
  sql: {{ servers: [\"127.0.0.1:{main}\", {{ address: \"127.0.0.1:{spare}\", backup: true }}], health: {{ postgres: {{}} }} }}
listeners:
  sql: {{ bind: \"LISTEN\", tcp: sql }}
  redis: {{ bind: \"127.0.0.1:{redis_port}\", tcp: cache }}
  dns: {{ bind: \"127.0.0.1:{dns_port}/udp\", udp: names }}
",
        cache.servers(),
        names.servers()
    );
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    for port in [cache.ports, names.ports, sql.ports].concat() {
        await_state(stage, &gateway, port, 1)?;
    }
    let first = session(gateway.listen.port());
    ensure("the server that is no backup is taken", first == Some(main), first)?;

    let benchmark = output(
        Command::new("redis-benchmark")
            .args(["-n", "50000", "-c", "50", "--csv", "-t", "get"])
            .args(["-p", &redis_port.to_string()]),
    )?;
    let (pings, sessions, spares) = (Tally::default(), Tally::default(), AtomicU32::new(0));
    let queries = stage.folder.write("queries", "www.example.test A\nns.example.test A\n")?;
    let sql_port = gateway.listen.port();
    let report = thread::scope(|scope| {
        let drill = scope.spawn(|| {
            let done = cache
                .drill(stage, &gateway)
                .and_then(|()| sql.drill(stage, &gateway))
                .and_then(|()| names.drill(stage, &gateway))
                .map_err(|error| error.to_string());
            pings.is_over.store(true, Ordering::Relaxed);
            sessions.is_over.store(true, Ordering::Relaxed);
            done
        });
        scope.spawn(|| pings.run(PAUSE, || ping(redis_port)));
        scope.spawn(|| {
            sessions.run(Duration::from_millis(20), || {
                let reached = session(sql_port);
                spares.fetch_add(u32::from(reached == Some(spare)), Ordering::Relaxed);
                reached.is_some()
            });
        });
        // As long as the drill may take; it is told to end when that has ended.
        let asked = scope.spawn(|| {
            let mut answers = Vec::new();
            while !pings.is_over.load(Ordering::Relaxed) {
                let mut command = Command::new("dnsperf");
                command.args(["-s", "127.0.0.1", "-l", "5", "-c", "20", "-Q", "1000", "-p", &dns_port.to_string()]);
                command.args(["-t", &QUERY_TIMEOUT_S.to_string(), "-d"]).arg(&queries);
                answers.push(all_output(&mut command).map_err(|error| error.to_string()));
            }
            answers
        });
        let drilled = drill.join().map_err(|_| "the drill ended early".to_owned()).and_then(|done| done);
        let asked = asked.join().map_err(|_| "dnsperf".to_owned());
        drilled.and(asked).and_then(|asked| asked.into_iter().collect::<Result<Vec<String>, String>>())
    })?;
    let sum = |title: &str| report.iter().map(|text| figure(text, title)).sum::<u32>();
    let (completed, lost) = (sum("Queries completed:"), sum("Queries lost:"));
    let ((pinged, unpinged), (opened, unopened)) = (pings.counts(), sessions.counts());
    let seen = format!(
        "Redis: {pinged} new connections, {unpinged} failed (benchmark {}); PostgreSQL: {opened} sessions, {} of them at the backup, {unopened} failed; DNS: {completed} queries, {lost} lost",
        benchmark.lines().last().unwrap_or_default(),
        spares.load(Ordering::Relaxed)
    );
    // Who was with the server when it was killed has lost it; who comes then finds another.
    ensure("Redis goes on", pinged > 1000 && unpinged <= 4, &seen)?;
    ensure("PostgreSQL goes on", opened > 50 && unopened <= 4 && spares.load(Ordering::Relaxed) > 0, &seen)?;
    ensure("DNS goes on", completed > 10_000 && lost * 200 < completed, &seen)?;
    Ok(seen)
}
