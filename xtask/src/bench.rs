//! `cargo xtask bench gateway`, `cache`, `tls`, `stream`, `storm`: us and the rivals in one run.
//!
//! Two CPUs: the proxy has CPU 0, load and origin have CPU 1. All contenders of a row run at the
//! same time, fresh, and take turns: A B C A B C. What counts is the CPU time of a proxy's whole
//! process tree per request; the rate depends on the load generator as well.

pub(crate) use load::{parse_wrk, wrk};
mod cached;
mod caches;
mod calls;
mod load;
mod report;
mod rivals;
mod rows;
mod storm;
mod stream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::process;
use crate::shell::{Fallible, cargo, find_program, output, passes, target_folder, workspace};
use report::{Outcome, Round};
use rivals::{Contender, Setup};
use rows::{CACHE_ROWS, Key, Kind, ORIGIN_FILES, ROWS, Row, STREAM_ROWS, TLS_ROWS, Traffic};

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_value = "gateway")]
    what: What,
    /// Only these rows; of the storm, only these contenders
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// Interleaved rounds of each row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Length of a round, 5 unless said otherwise; of the storm, of what is measured at once
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Who to compare with
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "nginx,haproxy,envoy,h2o,varnish,ats")]
    rivals: Vec<String>,
    /// A binary to measure instead of building one; give several to compare builds
    #[arg(long, value_name = "[LABEL=]PATH")]
    sumun: Vec<String>,
    /// Rivals only
    #[arg(long)]
    without_sumun: bool,
    /// Build with this profile
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Append the tables to docs/benchmarks.md; those of the storm go into its own page
    #[arg(long)]
    record: bool,
    /// Count system calls per request as well, with strace, after the rounds
    #[arg(long)]
    calls: bool,
    /// List the rows and end
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    storm: storm::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Gateway,
    Cache,
    Tls,
    Stream,
    Storm,
}

/// Of a round.
const SECONDS: u32 = 5;

impl What {
    fn rows(self) -> &'static [Row] {
        match self {
            Self::Gateway => &ROWS,
            Self::Cache => &CACHE_ROWS,
            Self::Tls => &TLS_ROWS,
            Self::Stream => &STREAM_ROWS,
            // It has scenarios instead.
            Self::Storm => &[],
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::Cache => "Cache",
            Self::Tls => "TLS",
            Self::Stream => "Streams",
            Self::Storm => "Storm",
        }
    }
}

/// Idle memory hardly differs between starts.
const IDLE_ROUNDS_MAX: u32 = 3;

pub(crate) fn run(options: &Options) -> Fallible<bool> {
    if options.what == What::Storm {
        return storm::run(options);
    }
    if options.storm.is_for_storm() {
        return Err("only the storm has scenarios".into());
    }
    let seconds = options.seconds.unwrap_or(SECONDS);
    if options.list {
        for row in options.what.rows() {
            println!("{:<22} {}", row.name, row.what);
        }
        return Ok(true);
    }
    let rows = chosen_rows(options.what.rows(), &options.only)?;
    let mut needed = match options.what {
        What::Gateway | What::Cache | What::Tls => vec![packages::WRK, packages::NGINX, packages::TASKSET],
        What::Stream | What::Storm => vec![packages::TASKSET],
    };
    if rows.iter().any(|row| row.kind == Kind::Stream(Traffic::Bulk)) {
        needed.push(packages::IPERF);
    }
    if rows.iter().any(|row| row.tls.is_some()) {
        needed.extend([packages::H2LOAD, packages::OPENSSL, packages::CURL]);
    }
    if let Err(Missing::CannotInstall(why)) = packages::ensure(&needed)? {
        return Err(format!("the load generators and the origin are needed: {why}").into());
    }
    let contenders = contenders(options, &rows)?;
    let versions: Vec<(String, String)> = contenders
        .iter()
        .map(|contender| Ok((contender.label().to_owned(), contender.version()?)))
        .collect::<Fallible<_>>()?;
    let machine = machine()?;
    println!("{machine}");
    for (label, version) in &versions {
        println!("{label} {version}");
    }
    if options.calls
        && let Err(Missing::CannotInstall(why)) = packages::ensure(&[packages::STRACE])?
    {
        return Err(why.into());
    }
    raise_own_open_files();
    if options.what == What::Stream || rows.iter().any(|row| row.has_counting_server()) {
        stream::stay_on_cpu(1)?;
    }

    let mut measured = Vec::new();
    for row in rows {
        println!("\n{}: {}", row.name, row.what);
        let outcomes = if row.is_about_memory() {
            measure_idle(row, &contenders, options.rounds.min(IDLE_ROUNDS_MAX))?
        } else {
            measure_requests(row, &contenders, options)?
        };
        print!("{}", report::text(row, &outcomes));
        measured.push((row, outcomes));
    }

    let heading = format!("{} rounds of {seconds} s", options.rounds);
    if let Some(path) = &options.json {
        let rows: Vec<Value> = measured.iter().map(|(row, outcomes)| report::json(row, outcomes)).collect();
        let versions: serde_json::Map<String, Value> =
            versions.iter().cloned().map(|(label, version)| (label, json!(version))).collect();
        let all = json!({ "machine": machine, "settings": heading, "versions": versions, "rows": rows });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if options.record {
        record(options.what, &machine, &heading, &versions, &measured)?;
    }
    Ok(measured.iter().all(|(_, outcomes)| outcomes.iter().filter(|outcome| outcome.ours).all(|ours| !ours.failed)))
}

fn chosen_rows(rows: &'static [Row], names: &[String]) -> Fallible<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(rows.iter().collect());
    }
    let known = || rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    let find = |name: &String| {
        rows.iter().find(|row| row.name == name).ok_or_else(|| format!("no row {name:?}; there are {}", known()).into())
    };
    names.iter().map(find).collect()
}

/// Ours first, then the rivals that can be had and fit a row; builds and installs them.
fn contenders(options: &Options, rows: &[&Row]) -> Fallible<Vec<Contender>> {
    let mut contenders = Vec::new();
    if !options.without_sumun {
        for written in &options.sumun {
            let (label, path) = written.split_once('=').unwrap_or(("sumun", written));
            let binary = std::path::absolute(path)?;
            contenders.push(Contender::Sumun { label: label.to_owned(), binary });
        }
        if options.sumun.is_empty() {
            let binary = build_sumun(&options.profile)?;
            contenders.push(Contender::Sumun { label: "sumun".to_owned(), binary });
        }
    }
    for name in options.rivals.iter().filter(|name| !name.is_empty()) {
        let rival = Contender::rival(name)?;
        if !rows.iter().any(|row| rival.fits(row)) {
            continue;
        }
        match rival.install(rows)? {
            Ok(()) => contenders.push(rival),
            Err(Missing::CannotInstall(why)) => println!("left out: {name}: {why}"),
        }
    }
    Ok(contenders)
}

fn build_sumun(profile: &str) -> Fallible<PathBuf> {
    println!("building sumun with the profile {profile}");
    if !passes(&mut cargo(&["build", "--profile", profile, "-p", "sumun"]))? {
        return Err("sumun does not build".into());
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target_folder().join(folder).join("sumun"))
}

/// A contender that runs in a row.
struct Entrant<'a> {
    contender: &'a Contender,
    listen: SocketAddr,
    running: Running,
    outcome: Outcome,
    _folder: TemporaryFolder,
}

/// The origin and the files, shared by all contenders of a row.
struct Stage {
    origin: SocketAddr,
    files: PathBuf,
    /// The other end of streams; there is no origin then.
    streams: Option<stream::Server>,
    /// The origin that counts, where the row has one.
    counting: Option<cached::Origin>,
    _origin: Option<Running>,
    _folder: TemporaryFolder,
}

impl Stage {
    fn set(row: &Row) -> Fallible<Self> {
        let folder = TemporaryFolder::create()?;
        if let Kind::Stream(traffic) = row.kind {
            let server = stream::Server::start(traffic, &folder)?;
            let (origin, files) = (server.address(), folder.path().to_path_buf());
            return Ok(Self { origin, files, streams: Some(server), counting: None, _origin: None, _folder: folder });
        }
        if row.has_counting_server() {
            let counting = cached::Origin::start(row.body_bytes())?;
            let (origin, files) = (counting.address, folder.path().to_path_buf());
            return Ok(Self { origin, files, streams: None, counting: Some(counting), _origin: None, _folder: folder });
        }
        for file in ORIGIN_FILES {
            // Not all zeros: nothing on the way may be tempted to treat the body specially.
            let body: Vec<u8> = (0..file.bytes).map(|index| (index % 251) as u8).collect();
            folder.write(&format!("files/{}", file.name), body)?;
        }
        let files = folder.path().join("files");
        let origin = loopback(free_tcp_port()?);
        let mut running = rivals::start_origin(origin, &files, &folder)?;
        running.wait_for(origin, START_LIMIT)?;
        Ok(Self { origin, files, streams: None, counting: None, _origin: Some(running), _folder: folder })
    }

    /// One run of what the row measures, from CPU 1.
    fn load(&self, row: &Row, address: SocketAddr, seconds: u32) -> Fallible<load::Load> {
        match &self.streams {
            Some(server) => server.load(row, address, seconds),
            None => load::run(row, address, seconds),
        }
    }

    /// Starts a contender and makes sure that it answers what is going to be measured.
    fn enter<'a>(&self, row: &Row, contender: &'a Contender) -> Fallible<Entrant<'a>> {
        let folder = TemporaryFolder::create()?;
        let listen = loopback(free_tcp_port()?);
        if let Some(key) = row.tls {
            make_certificate(key, &folder)?;
        }
        let setup = Setup { row, listen, origin: self.origin, files: &self.files, folder: &folder };
        let mut running = contender.start(&setup)?;
        if !row.is_udp() {
            running.wait_for(listen, START_LIMIT)?;
        }
        // A health check or a slow start may still keep the server out for a moment.
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let answer = match (&self.streams, row.tls) {
                (Some(server), _) => server.reach(listen).map(|()| (200, row.body_bytes())),
                (None, None) => load::Connection::open(listen).and_then(|mut connection| connection.fetch(&row.path())),
                (None, Some(_)) => load::fetch_securely(listen, &row.path()),
            };
            match answer {
                Ok((200, length)) if length == row.body_bytes() => break,
                answer if Instant::now() >= deadline => {
                    return Err(format!("{} answers {answer:?}\n{}", contender.label(), running.printed()).into());
                }
                _ => sleep(Duration::from_millis(50)),
            }
        }
        let outcome = Outcome { label: contender.label().to_owned(), ours: contender.is_ours(), ..Outcome::default() };
        Ok(Entrant { contender, listen, running, outcome, _folder: folder })
    }
}

/// As `site.pem` and `site.key`, and both together as `both.pem`.
fn make_certificate(key: Key, folder: &TemporaryFolder) -> Fallible<()> {
    let kind: &[&str] = match key {
        Key::Ecdsa => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        Key::Rsa => &["-newkey", "rsa:2048"],
    };
    let file = |name: &str| folder.path().join(name);
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=bench.test"])
            .args(["-addext", "subjectAltName=DNS:bench.test,IP:127.0.0.1"])
            .args(kind)
            .arg("-keyout")
            .arg(file("site.key"))
            .arg("-out")
            .arg(file("site.pem")),
    )?;
    let both = [std::fs::read(file("site.pem"))?, std::fs::read(file("site.key"))?].concat();
    folder.write("both.pem", both)?;
    Ok(())
}

const START_LIMIT: Duration = Duration::from_secs(15);

/// A contender that cannot enter a row.
fn absent(contender: &Contender, why: &str) -> Outcome {
    let note = why.lines().take(5).collect::<Vec<_>>().join(" ");
    Outcome {
        label: contender.label().to_owned(),
        ours: contender.is_ours(),
        note: Some(note),
        failed: true,
        ..Outcome::default()
    }
}

fn measure_requests(row: &Row, contenders: &[Contender], options: &Options) -> Fallible<Vec<Outcome>> {
    let stage = Stage::set(row)?;
    let mut entrants = Vec::new();
    let mut absentees = Vec::new();
    for contender in contenders.iter().filter(|contender| contender.fits(row)) {
        match stage.enter(row, contender) {
            Ok(entrant) => entrants.push(entrant),
            Err(error) => {
                eprintln!("{}: not measured: {error}", contender.label());
                absentees.push(absent(contender, &error.to_string()));
            }
        }
    }
    if row.kind == Kind::Herd {
        for number in 1..=options.rounds {
            for entrant in &mut entrants {
                let round = cached::herd_round(row, &stage, entrant, number)?;
                println!(
                    "  {number}/{} {:<10} {:>5} reached the server, all had it after {:.0} ms, {:.2} us a client{}",
                    options.rounds,
                    entrant.contender.label(),
                    round.reached,
                    round.all_ms,
                    round.total_us,
                    if round.errors > 0 { format!(", {} ERRORS", round.errors) } else { String::new() },
                );
                entrant.outcome.rounds.push(round);
            }
        }
        return Ok(end(entrants, absentees));
    }
    for entrant in &entrants {
        stage.load(row, entrant.listen, 2)?;
    }
    for number in 1..=options.rounds {
        for entrant in &mut entrants {
            let round = one_round(row, &stage, entrant, options.seconds.unwrap_or(SECONDS))?;
            println!(
                "  {number}/{} {:<10} {:>8.2} us/{}, user {:>6.2}, {:>7.0} {}{}",
                options.rounds,
                entrant.contender.label(),
                round.total_us,
                row.unit(),
                round.user_us,
                round.requests_per_second,
                row.rate(),
                if round.errors > 0 { format!(", {} ERRORS", round.errors) } else { String::new() },
            );
            entrant.outcome.rounds.push(round);
        }
    }
    if options.calls {
        for entrant in &mut entrants {
            let load = |seconds| stage.load(row, entrant.listen, seconds);
            let calls = calls::per_request(row, &process::tree(entrant.running.id()), load)?;
            println!("  {:<10} {calls}", entrant.contender.label());
            entrant.outcome.calls = Some(calls);
        }
    }
    Ok(end(entrants, absentees))
}

/// What all have come to, with their memory at the end.
fn end(entrants: Vec<Entrant<'_>>, absentees: Vec<Outcome>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = entrants
        .into_iter()
        .map(|mut entrant| {
            entrant.outcome.memory.push(process::memory(&process::tree(entrant.running.id())));
            entrant.outcome
        })
        .collect();
    outcomes.extend(absentees);
    outcomes
}

fn one_round(row: &Row, stage: &Stage, entrant: &mut Entrant<'_>, seconds: u32) -> Fallible<Round> {
    let busy = || row.proxy_cpus().iter().map(|&cpu| process::busy_ticks(cpu)).sum::<u64>();
    let tree = process::tree(entrant.running.id());
    let (cpu_before, busy_before, started) = (process::cpu_time(&tree), busy(), Instant::now());
    let load = stage.load(row, entrant.listen, seconds)?;
    let (used, busy_ticks, elapsed) = (process::cpu_time(&tree) - cpu_before, busy() - busy_before, started.elapsed());
    if let Some(status) = entrant.running.ended()? {
        return Err(format!(
            "{} ended during the run with {status}\n{}",
            entrant.contender.label(),
            entrant.running.printed()
        )
        .into());
    }
    if tree != process::tree(entrant.running.id()) {
        entrant.outcome.note = Some("its processes changed during the run".to_owned());
        entrant.outcome.failed = true;
    }
    let total_us = used.total_ns as f64 / 1e3 / load.requests.max(1) as f64;
    let own_percent = used.total_ns as f64 / elapsed.as_nanos() as f64 * 100.0;
    // A clock tick is 10 ms, so ticks over seconds are percent of a CPU.
    let busy_percent = busy_ticks as f64 / elapsed.as_secs_f64();
    Ok(Round {
        requests: load.requests,
        errors: load.errors,
        requests_per_second: load.requests_per_second,
        total_us,
        user_us: total_us * used.user_share(),
        system_us: total_us * (1.0 - used.user_share()),
        latency_p50_us: load.latency_p50_us,
        latency_p99_us: load.latency_p99_us,
        own_percent,
        others_percent: (busy_percent - own_percent).max(0.0),
        ..Round::default()
    })
}

fn measure_idle(row: &Row, contenders: &[Contender], rounds: u32) -> Fallible<Vec<Outcome>> {
    let stage = Stage::set(row)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for number in 1..=rounds {
        for contender in contenders.iter().filter(|contender| contender.fits(row)) {
            let known = outcomes.iter().position(|outcome| outcome.label == contender.label());
            if known.is_some_and(|index| outcomes[index].failed) {
                continue;
            }
            let mut outcome = match stage.enter(row, contender) {
                Ok(entrant) if matches!(row.kind, Kind::Objects { .. }) => {
                    cached::object_round(row, &stage, entrant, number, rounds)
                }
                Ok(entrant) => idle_round(row, &stage, entrant, number, rounds),
                Err(error) => absent(contender, &error.to_string()),
            };
            match known {
                Some(index) => {
                    outcomes[index].memory.append(&mut outcome.memory);
                    outcomes[index].failed |= outcome.failed;
                    outcomes[index].note = outcome.note.or_else(|| outcomes[index].note.take());
                }
                None => outcomes.push(outcome),
            }
        }
    }
    Ok(outcomes)
}

fn idle_round(row: &Row, stage: &Stage, entrant: Entrant<'_>, number: u32, rounds: u32) -> Outcome {
    let (mut requests, mut streams) = (Vec::new(), Vec::new());
    let refusal = match &stage.streams {
        Some(server) => server.open_idle(entrant.listen, row.connections, &mut streams),
        None => load::open_idle(entrant.listen, &row.path(), row.connections, &mut requests),
    };
    let opened = requests.len() + streams.len();
    // Buffers that were leased for the last answers go back, allocators settle.
    sleep(Duration::from_secs(2));
    let memory = process::memory(&process::tree(entrant.running.id()));
    let mut outcome = entrant.outcome;
    println!(
        "  {number}/{rounds} {:<10} {:>6} connections, PSS {} KiB, RSS {} KiB",
        outcome.label, opened, memory.proportional_kib, memory.resident_kib
    );
    outcome.memory.push(memory);
    if let Some(reason) = refusal {
        outcome.note = Some(format!("holds {opened} only: {reason}"));
        outcome.failed = true;
    }
    outcome
}

/// The idle rows need a descriptor here for each connection.
fn raise_own_open_files() {
    let hard = process::open_files_hard_limit();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &std::process::id().to_string(), &format!("--nofile={hard}:{hard}")]);
    if let Err(error) = output(&mut command) {
        eprintln!("warning: the limit of open files stays as it is: {error}");
    }
}

/// Date, kernel, CPU: one line.
fn machine() -> Fallible<String> {
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<&str> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(':')).map_or("unknown CPU", |(_, model)| model.trim());
    if models.len() < 2
        && find_program("nproc")
            .is_some_and(|nproc| output(&mut Command::new(nproc)).is_ok_and(|count| count.trim() == "1"))
    {
        return Err("two CPUs are needed: one for the proxy, one for load and origin".into());
    }
    Ok(format!("{}, Linux {}, {} x {model}", date.trim(), kernel.trim(), models.len()))
}

fn record(
    what: What,
    machine: &str,
    settings: &str,
    versions: &[(String, String)],
    measured: &[(&Row, Vec<Outcome>)],
) -> Fallible<()> {
    let path: &Path = &workspace().join("docs/benchmarks.md");
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    let versions: Vec<String> = versions.iter().map(|(label, version)| format!("{label} {version}")).collect();
    text.push_str(&format!("\n## {}, {machine}\n\n{settings}; {}\n", what.title(), versions.join(", ")));
    for (row, outcomes) in measured {
        text.push_str(&format!("\n{}", report::markdown(row, outcomes)));
    }
    std::fs::write(path, text)?;
    println!("recorded in {}", path.display());
    Ok(())
}
