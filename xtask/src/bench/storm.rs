//! `cargo xtask bench storm`: more load than the server behind can bear, for us and for the rivals.
//!
//! The server is eight workers that take 50 ms for each request, so that ten times its capacity costs two
//! CPUs little. The proxy has CPU 0 (both with two workers), load and server have CPU 1. Clients come when
//! they like, and give up after a second. Every contender of a point is started afresh.

mod answer;
mod contenders;
mod curve;
mod fairness;
mod figures;
mod generator;
mod page;
mod refused;
mod schedule;
mod server;
mod step;
mod svg;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::load::Connection;
use super::{START_LIMIT, build_sumun, machine, raise_own_open_files, stream};
use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::shell::Fallible;
use contenders::{Contender, Purpose, Setup};
use generator::{Plan, Record};
use schedule::{Clients, STORM_MIX};
use server::{SERVICE, Server, WORKERS};

#[derive(Args)]
#[group(id = "storm")]
pub(super) struct Options {
    /// Of the storm: which part
    #[arg(value_enum)]
    scenario: Option<Scenario>,
    /// Of the storm: offered load, times the capacity
    #[arg(long, value_name = "TIMES", value_delimiter = ',', default_value = "0.5,0.8,1,1.5,2,3,5,10")]
    loads: Vec<f64>,
    /// Of the storm: what the times of requests follow from
    // One with which about as many come in the first minute as are asked for.
    #[arg(long, default_value_t = 6)]
    seed: u64,
    /// Of the storm: workers of every proxy; what it costs to refuse, and fairness, are measured with both
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    workers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// Goodput over offered load
    Curve,
    /// The server's speed halves and doubles in the middle
    Step,
    /// Clients that try again, and a server that stands still for 10 s
    Stall,
    /// What it costs to refuse a request
    Refused,
    /// One client above its limit, a hundred below
    Fairness,
    /// All of them
    All,
}

impl Options {
    pub(super) fn is_for_storm(&self) -> bool {
        self.scenario.is_some()
    }
}

/// What a scenario has to say.
pub(super) struct Report {
    scenario: Scenario,
    markdown: String,
    json: Value,
    /// Name and text of SVG files.
    images: Vec<(&'static str, String)>,
    /// Whether all of ours could be measured.
    complete: bool,
}

pub(super) fn run(options: &super::Options) -> Fallible<bool> {
    let needed = [packages::WRK, packages::NGINX, packages::TASKSET];
    if let Err(Missing::CannotInstall(why)) = packages::ensure(&needed)? {
        return Err(format!("the load generator and the origin are needed: {why}").into());
    }
    let storm = &options.storm;
    if storm.loads.iter().any(|&load| !(0.1..=20.0).contains(&load)) || !storm.loads.is_sorted() {
        return Err("--loads are from 0.1 to 20, the least first".into());
    }
    let mut contenders = Vec::new();
    for contender in Contender::chosen(&options.only)? {
        match contender.install()? {
            Ok(()) => contenders.push(contender),
            Err(Missing::CannotInstall(why)) => println!("skipped: {}: {why}", contender.name()),
        }
    }
    let sumun = match options.sumun.first() {
        Some(path) => std::path::absolute(path.split_once('=').map_or(path.as_str(), |(_, path)| path))?,
        None if contenders.iter().any(|contender| contender.is_ours()) => build_sumun(&options.profile)?,
        None => PathBuf::new(),
    };
    raise_own_open_files();
    stream::stay_on_cpu(1)?;
    let server = Server::start(WORKERS, SERVICE)?;
    let capacity = measure_capacity(&server)?;
    let machine = machine()?;
    let mut versions = Map::new();
    for contender in &contenders {
        versions.insert(contender.label().to_owned(), json!(contender.version(&sumun)?));
    }
    let versions_text: Vec<String> =
        versions.iter().map(|(label, version)| format!("{label} {}", version.as_str().unwrap_or_default())).collect();
    println!("{machine}\n{}\ncapacity of the server: {capacity:.1}/s", versions_text.join(", "));
    let stage = Stage { server, capacity, sumun, workers: storm.workers, seed: storm.seed };

    let chosen = storm.scenario.unwrap_or(Scenario::Curve);
    let is_wanted = |scenario| chosen == scenario || chosen == Scenario::All;
    let mut reports = Vec::new();
    if is_wanted(Scenario::Curve) {
        let seconds = options.seconds.unwrap_or(curve::SECONDS);
        reports.push(curve::run(&stage, &contenders, &storm.loads, seconds)?);
    }
    if is_wanted(Scenario::Step) {
        reports.push(step::step(&stage, &contenders)?);
    }
    if is_wanted(Scenario::Stall) {
        reports.push(step::stall(&stage, &contenders)?);
    }
    if is_wanted(Scenario::Refused) {
        let seconds = options.seconds.unwrap_or(refused::SECONDS);
        reports.push(refused::run(&stage, &contenders, options.rounds, seconds)?);
    }
    if is_wanted(Scenario::Fairness) {
        let seconds = options.seconds.unwrap_or(fairness::SECONDS);
        reports.push(fairness::run(&stage, &contenders, seconds)?);
    }

    if let Some(path) = &options.json {
        let scenarios: Map<String, Value> =
            reports.iter().map(|report| (page::name(report.scenario), report.json.clone())).collect();
        let all = json!({
            "machine": machine, "versions": versions, "capacity": capacity, "workers": storm.workers,
            "seed": storm.seed, "scenarios": scenarios,
        });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if options.record {
        let frame = format!(
            "{machine}; {}; capacity of the server {capacity:.0}/s; workers: {}; seed {}.",
            versions_text.join(", "),
            storm.workers,
            storm.seed
        );
        page::record(&frame, &reports)?;
    }
    Ok(reports.iter().all(|report| report.complete))
}

/// Twice as many clients as workers, each with one request after the other.
fn measure_capacity(server: &Server) -> Fallible<f64> {
    const WARM_UP: Duration = Duration::from_millis(500);
    const LENGTH: Duration = Duration::from_secs(4);
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 * WORKERS {
            scope.spawn(|| {
                let Ok(mut connection) = Connection::open(server.address()) else {
                    return;
                };
                while !stop.load(Ordering::Relaxed) && connection.fetch("/").is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sleep(WARM_UP);
        let (before, started) = (served.load(Ordering::Relaxed), Instant::now());
        sleep(LENGTH);
        let count = served.load(Ordering::Relaxed) - before;
        let capacity = count as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        if count == 0 { Err("the server answers nobody".into()) } else { Ok(capacity) }
    })
}

/// The server and what is the same for all scenarios.
struct Stage {
    server: Server,
    /// Requests per second.
    capacity: f64,
    sumun: PathBuf,
    workers: u32,
    seed: u64,
}

/// A contender that runs.
struct Entrant {
    listen: SocketAddr,
    running: Running,
    _folder: TemporaryFolder,
}

/// Those whose addresses the storm comes from.
const STORM_CLIENTS: Clients = Clients { network: 20, count: 200 };

impl Stage {
    /// Starts a contender in front of a server that is as it was at the start.
    fn enter(&self, contender: Contender, purpose: Purpose) -> Fallible<Entrant> {
        self.enter_with(contender, purpose, self.workers)
    }

    fn enter_with(&self, contender: Contender, purpose: Purpose, workers: u32) -> Fallible<Entrant> {
        self.server.forget();
        let folder = TemporaryFolder::create()?;
        let listen = loopback(free_tcp_port()?);
        let setup = Setup {
            purpose,
            listen,
            server: self.server.address(),
            workers,
            capacity: self.capacity,
            sumun: &self.sumun,
            folder: &folder,
        };
        let mut running = setup.start(contender)?;
        wait_for_answer(&mut running, contender.label(), listen, "/page", 200)?;
        Ok(Entrant { listen, running, _folder: folder })
    }

    /// The clients of the storm, at so many times the capacity.
    fn plan(&self, entrant: &Entrant, load: f64, length: Duration) -> Plan {
        Plan {
            target: entrant.listen,
            length,
            per_second: load * self.capacity,
            clients: STORM_CLIENTS,
            mix: STORM_MIX,
            seed: self.seed,
            deadline: figures::DEADLINE,
            retries: 0,
        }
    }
}

/// Until a contender answers as it should: health checks may keep the server out for a moment.
fn wait_for_answer(running: &mut Running, label: &str, listen: SocketAddr, path: &str, wanted: u16) -> Fallible<()> {
    running.wait_for(listen, START_LIMIT)?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match Connection::open(listen).and_then(|mut connection| connection.fetch(path)) {
            Ok((status, _)) if status == wanted => return Ok(()),
            answer if Instant::now() >= deadline => {
                return Err(format!("{label} answers {answer:?} to {path}\n{}", running.printed()).into());
            }
            _ => sleep(Duration::from_millis(50)),
        }
    }
}

/// Something to be done at a time since the start.
type Act<'a> = (Duration, Box<dyn FnMut() + 'a>);

/// Runs the plans, and meanwhile what is to be done at its time. Acts are in order.
fn drive(plans: &[Plan], acts: &mut [Act<'_>]) -> Fallible<Vec<Vec<Record>>> {
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = plans.iter().map(|plan| scope.spawn(move || generator::run(plan, started))).collect();
        for (at, act) in acts {
            sleep(at.saturating_sub(started.elapsed()));
            act();
        }
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a generator of load broke off")?).collect()
    })
}

/// A contender that ended in the storm has no figures.
fn still_runs(entrant: &mut Entrant, contender: Contender) -> Fallible<()> {
    match entrant.running.ended()? {
        None => Ok(()),
        Some(status) => Err(format!("{} ended with {status}\n{}", contender.label(), entrant.running.printed()).into()),
    }
}

/// The first lines of why a contender was not measured, and whether that matters.
fn not_measured(contender: Contender, why: &str) -> String {
    let why = why.lines().filter(|line| !line.trim().is_empty()).take(4).collect::<Vec<_>>().join(" ");
    println!("{}: not measured: {why}", contender.label());
    why
}
