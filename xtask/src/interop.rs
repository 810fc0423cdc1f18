//! `cargo xtask interop [NAME…]`: the real binary with real peers.
//!
//! The peers come from Debian and PyPI and are installed by this command. The fast ones are part
//! of `cargo xtask test`.

mod acme;
mod attack;
mod cache;
mod cache_crash;
mod client;
mod drills;
mod gateway;
mod plain;
mod quic;
mod servers;
mod soak;
mod stream;
mod tls;
mod upgrade;
mod waiting_room;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::children::TemporaryFolder;
use crate::packages::{self, Missing, Package};
use crate::shell::{Fallible, cargo, is_root, passes, target_folder};
use crate::table;

#[derive(Args)]
pub(crate) struct Options {
    /// Which ones; by default all but those on demand
    names: Vec<String>,
    /// Only the fast ones
    #[arg(long)]
    fast: bool,
    /// List them and end
    #[arg(long)]
    list: bool,
    /// A binary to use instead of building one
    #[arg(long, value_name = "PATH")]
    sumun: Option<PathBuf>,
    /// Build with this profile
    #[arg(long, default_value = "release")]
    profile: String,
    /// Of cache-crash: kills
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Of cache-crash: what all that is random follows from
    #[arg(long)]
    seed: Option<u64>,
}

/// One interop.
struct Peer {
    name: &'static str,
    what: &'static str,
    packages: &'static [Package],
    fast: bool,
    /// Makes network namespaces.
    needs_root: bool,
    /// Runs only when it is named: it takes long.
    on_demand: bool,
    /// Returns what was seen to work.
    run: fn(&Stage) -> Fallible<String>,
}

/// What an interop gets to work with.
pub(crate) struct Stage {
    pub(crate) binary: PathBuf,
    pub(crate) folder: TemporaryFolder,
    /// How often, where one does something again and again.
    pub(crate) rounds: Option<u32>,
    /// What is random follows from it.
    pub(crate) seed: Option<u64>,
}

impl Stage {
    /// The programs of a Python environment with all that our scripts import.
    pub(crate) fn python(&self) -> Fallible<PathBuf> {
        match packages::python_environment("interop", &["aiohttp", "grpcio", "websockets"])? {
            Ok(bin) => Ok(bin),
            Err(Missing::CannotInstall(why)) => Err(why.into()),
        }
    }
}

const fn peer(
    name: &'static str,
    what: &'static str,
    packages: &'static [Package],
    fast: bool,
    run: fn(&Stage) -> Fallible<String>,
) -> Peer {
    Peer { name, what, packages, fast, needs_root: false, on_demand: false, run }
}

const PYTHON: [Package; 3] = [packages::CURL, packages::PYTHON, packages::PYTHON_VENV];

const TLS: [Package; 5] = [packages::NGINX, packages::CURL, packages::OPENSSL, packages::H2LOAD, packages::PYTHON];

const PEERS: [Peer; 23] = [
    peer("nginx", "nginx as the server behind", &[packages::NGINX, packages::CURL], true, plain::nginx),
    peer("apache", "Apache httpd as the server behind", &[packages::APACHE, packages::CURL], true, plain::apache),
    peer("python", "aiohttp, wsgiref and WebSockets", &PYTHON, true, plain::python),
    peer("curl", "curl as the client", &PYTHON, true, plain::curl_client),
    peer("tls", "curl, openssl, nghttp, h2load and Python over TLS, nginx with TLS behind", &TLS, true, tls::tls),
    peer(
        "acme",
        "certificates from pebble, from the first to the last",
        &[packages::PEBBLE, packages::OPENSSL, packages::CURL],
        false,
        acme::life,
    ),
    peer(
        "cache",
        "the public suite of tests of HTTP caches, http-cache-tests from npm",
        &[packages::NODE, packages::NPM],
        true,
        cache::suite,
    ),
    peer(
        "cache-origins",
        "a cache in front of Apache httpd and Tomcat, curl and Chromium as clients",
        &[
            packages::APACHE,
            packages::JAVA,
            packages::TOMCAT,
            packages::TOMCAT_EXAMPLES,
            packages::CURL,
            packages::CHROMIUM,
            packages::PYTHON,
            packages::PYTHON_VENV,
        ],
        false,
        cache::origins,
    ),
    Peer {
        on_demand: true,
        ..peer(
            "cache-crash",
            "a cache on disk, killed while it is written: every byte, every purge, and how warm it is",
            &[],
            false,
            cache_crash::crash,
        )
    },
    peer("grpc", "gRPC over HTTP/2, its client and its server", &PYTHON, true, plain::grpc),
    peer("quic", "aioquic through the L4 switch, its clients' UDP ports changing", &PYTHON, false, quic::rebinding),
    peer("wrk", "wrk as the client", &[packages::NGINX, packages::WRK, packages::TASKSET], false, plain::wrk),
    peer("hey", "hey as the client", &[packages::NGINX, packages::HEY], false, plain::hey),
    peer(
        "tomcat",
        "two Tomcats with their examples",
        &[
            packages::JAVA,
            packages::TOMCAT,
            packages::TOMCAT_EXAMPLES,
            packages::CURL,
            packages::PYTHON,
            packages::PYTHON_VENV,
        ],
        false,
        plain::tomcat,
    ),
    peer(
        "kill",
        "kill -9 of one of two servers at 2,000 requests/s",
        &[packages::NGINX, packages::HEY],
        false,
        drills::kill,
    ),
    peer(
        "reload",
        "200 reloads in a minute with 50 WebSockets",
        &[packages::NGINX, packages::HEY, packages::CURL, packages::PYTHON, packages::PYTHON_VENV],
        false,
        drills::reload,
    ),
    peer(
        "upgrade",
        "20 upgrades and 50 certificates under HTTP/1.1, HTTP/2 and WebSockets",
        &[
            packages::NGINX,
            packages::WRK,
            packages::HEY,
            packages::H2LOAD,
            packages::OPENSSL,
            packages::PYTHON,
            packages::PYTHON_VENV,
        ],
        false,
        upgrade::upgrade,
    ),
    Peer {
        needs_root: true,
        ..peer(
            "stream",
            "PostgreSQL, Redis and DNS behind the L4 switch, each server killed and brought back",
            &[
                packages::POSTGRES,
                packages::PSQL,
                packages::REDIS,
                packages::REDIS_TOOLS,
                packages::NSD,
                packages::DNSPERF,
                packages::SETPRIV,
                packages::CURL,
            ],
            false,
            stream::stream,
        )
    },
    Peer {
        on_demand: true,
        needs_root: true,
        ..peer(
            "attack",
            "the others' 99th percentile and our memory under floods and 5,000 slow clients",
            &[packages::NGINX, packages::HEY, packages::TASKSET],
            false,
            attack::attack,
        )
    },
    peer(
        "waiting-room",
        "the queue page in Chromium: languages, screens, a reload, the turn",
        &[packages::CHROMIUM, packages::NANUM, packages::PYTHON, packages::PYTHON_VENV],
        false,
        waiting_room::browser,
    ),
    Peer {
        on_demand: true,
        ..peer(
            "crowd",
            "100,000 visitors in a waiting room: order, rate and our CPU time",
            &[packages::CURL],
            false,
            waiting_room::crowd,
        )
    },
    Peer {
        on_demand: true,
        ..peer(
            "soak",
            "ten minutes at full load with kills, reloads and slow clients",
            &[packages::NGINX, packages::WRK, packages::CURL],
            false,
            soak::soak,
        )
    },
    Peer {
        needs_root: true,
        ..peer(
            "self-call",
            "an application that calls itself through the gateway",
            &[packages::JAVA, packages::TOMCAT, packages::HEY, packages::CURL, packages::IPROUTE],
            false,
            drills::self_call,
        )
    },
];

/// What became of an interop.
enum Verdict {
    Passed(String),
    Failed(String),
    Skipped(String),
}

/// How many passed, failed and were skipped.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

pub(crate) fn run(options: &Options) -> Fallible<bool> {
    if options.list {
        for peer in &PEERS {
            println!(
                "{:<10} {:<9} {}",
                peer.name,
                if peer.fast {
                    "fast"
                } else if peer.on_demand {
                    "on demand"
                } else {
                    ""
                },
                peer.what
            );
        }
        return Ok(true);
    }
    if let Some(unknown) = options.names.iter().find(|name| !PEERS.iter().any(|peer| peer.name == **name)) {
        let names: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(format!("no interop {unknown:?}; there are {}", names.join(", ")).into());
    }
    let chosen = |peer: &&Peer| {
        let named = options.names.iter().any(|name| name == peer.name);
        (named || options.names.is_empty() && !peer.on_demand) && (peer.fast || !options.fast)
    };
    let binary = match &options.sumun {
        Some(path) => std::path::absolute(path)?,
        None => build(&options.profile)?,
    };
    let chosen: Vec<_> = PEERS.iter().filter(chosen).collect();
    let count = run_peers(&chosen, &binary, options.rounds, options.seed)?;
    Ok(count.failed == 0)
}

/// The fast ones, with the binary that the tests have built already.
pub(crate) fn run_fast() -> Fallible<Count> {
    let binary = build("dev")?;
    run_peers(&PEERS.iter().filter(|peer| peer.fast).collect::<Vec<_>>(), &binary, None, None)
}

/// Packages that the fast ones need, so that they can be installed before everything else.
pub(crate) fn fast_packages() -> Vec<Package> {
    PEERS.iter().filter(|peer| peer.fast).flat_map(|peer| peer.packages).copied().collect()
}

fn build(profile: &str) -> Fallible<PathBuf> {
    if !passes(&mut cargo(&["build", "--quiet", "--profile", profile, "-p", "sumun"]))? {
        return Err("sumun does not build".into());
    }
    Ok(target_folder().join(if profile == "dev" { "debug" } else { profile }).join("sumun"))
}

fn run_peers(peers: &[&Peer], binary: &std::path::Path, rounds: Option<u32>, seed: Option<u64>) -> Fallible<Count> {
    let mut count = Count::default();
    let mut lines = Vec::new();
    for peer in peers {
        println!("interop {}: {}", peer.name, peer.what);
        let started = Instant::now();
        let (result, details) = match run_one(peer, binary, rounds, seed) {
            Verdict::Passed(seen) => {
                count.passed += 1;
                ("passed", seen)
            }
            Verdict::Failed(why) => {
                count.failed += 1;
                println!("  FAILED: {}", why.replace('\n', "\n  "));
                ("FAILED", why.lines().next().unwrap_or_default().chars().take(100).collect())
            }
            Verdict::Skipped(why) => {
                count.skipped += 1;
                ("skipped", why)
            }
        };
        lines.push(vec![
            peer.name.to_owned(),
            result.to_owned(),
            format!("{:.0}", started.elapsed().as_secs_f64()),
            details,
        ]);
    }
    println!();
    print!("{}", table::plain(&["interop", "result", "s", ""], &lines, false));
    println!("interop: {} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(count)
}

fn run_one(peer: &Peer, binary: &std::path::Path, rounds: Option<u32>, seed: Option<u64>) -> Verdict {
    if peer.needs_root && !is_root() {
        return Verdict::Skipped("needs root for network namespaces".to_owned());
    }
    match packages::ensure(peer.packages) {
        Ok(Ok(())) => {}
        Ok(Err(Missing::CannotInstall(why))) => return Verdict::Skipped(why),
        Err(error) => return Verdict::Failed(error.to_string()),
    }
    let run = || {
        let stage = Stage { binary: binary.to_owned(), folder: TemporaryFolder::create()?, rounds, seed };
        (peer.run)(&stage)
    };
    match run() {
        Ok(seen) => Verdict::Passed(seen),
        Err(error) => Verdict::Failed(error.to_string()),
    }
}
