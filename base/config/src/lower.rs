//! The tree of what was written into checked values, with every error of meaning.
//!
//! Lenient: what the walker has already refused is passed over in silence, its default stands
//! in, so that all other errors are found in the same run.

mod acme;
mod blocks;
mod cache;
mod files;
mod health;
mod limits;
mod listeners;
mod pools;
mod probe;
mod process;
mod quic;
mod routes;
mod section;
mod shared;
mod streams;
mod tls;
mod volumes;
mod waiting_room;
mod warnings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use section::Section;
pub(crate) use volumes::size_text;

use crate::check::Probe;
use crate::checked::{AccessLog, Admin, Config, LogFormat, LogTarget, Name};
use crate::node::{Entry, Node, Place};
use crate::problems::Problems;
use crate::report::{Rule, nearest, quoted};
use crate::sources::{SourceFile, Sources};
use crate::table;
use crate::values::{self, address, log};

/// The config, with defaults in the place of everything that was wrong.
pub(crate) fn config(tree: &Node, sources: &Sources, probe: Probe, problems: &mut Problems) -> Config {
    let top = Section::of(tree, &table::FILE);
    let mut lower = Lower {
        sources,
        probe,
        problems,
        pools: tree.find("pools").map(Node::entries).unwrap_or_default(),
        used: Vec::new(),
        limits: tree.find("limits").map(Node::entries).unwrap_or_default(),
        used_limits: Vec::new(),
        bound: BTreeMap::new(),
        account: None,
        is_shared: tree.find("shared").is_some(),
        volumes: tree.find("cache").and_then(|cache| cache.find("volumes")).map(Node::entries).unwrap_or_default(),
        cache_memory: 0,
        orders: Vec::new(),
    };
    let (user, sandbox) = (lower.user(top), process::sandbox(top));
    lower.account = lower.serving_account(user.as_ref(), sandbox);
    let trusted_proxies = top.networks("trusted_proxies");
    let admin = lower.admin(top);
    let access_log = lower.access_log(top);
    let asn_table = lower.asn_table(top);
    let pools = lower.all_pools();
    let shared = lower.shared(top);
    let limits = lower.all_limits();
    let blocks = lower.blocks(top, &limits);
    let cache = lower.cache(top);
    lower.cache_memory = cache.memory;
    let mut listeners = lower.all_listeners(tree, &trusted_proxies);
    lower.settle_acme(&mut listeners);
    // Beside errors they would rather distract, and half of them would come from the errors.
    if !lower.problems.has_errors() {
        warnings::of_tree(&mut lower, tree);
    }
    Config {
        workers: top.given("workers").map_or_else(|| sources.processors.max(1), |_| top.number("workers")),
        admin,
        control: lower.control(top),
        trusted_proxies,
        access_log,
        drain: top.duration("drain"),
        user,
        sandbox,
        state: top.given("state").and_then(|node| Some(lower.path(node, top.text("state")?))),
        blocks,
        shared,
        cache,
        asn_table,
        pools,
        limits,
        listeners,
    }
}

struct Lower<'a> {
    sources: &'a Sources,
    probe: Probe,
    problems: &'a mut Problems,
    /// Pools as written, to look names up.
    pools: &'a [Entry],
    /// Names of pools that something sends requests to.
    used: Vec<String>,
    /// Rate limits as written, and the names of those that a route has.
    limits: &'a [Entry],
    used_limits: Vec<String>,
    /// Addresses that are taken, by whom, and where that stands; nowhere for a default.
    bound: BTreeMap<String, (String, Option<Place>)>,
    /// Whom the worker process becomes, where files are looked at with its eyes.
    account: Option<sumun_host::users::Account>,
    /// There is somewhere to share.
    is_shared: bool,
    /// Volumes of the cache as written, to look names up.
    volumes: &'a [Entry],
    /// Bytes of memory of the cache.
    cache_memory: u64,
    /// Certificates by ACME, each once.
    orders: Vec<acme::Order>,
}

impl Lower<'_> {
    /// What is refused already needs no second reason.
    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        if self.problems.is_refused(place) {
            return;
        }
        self.problems.error_with_help(place, Rule::Meaning, message, help);
    }

    /// A path, from the directory of the file that it stands in.
    fn path(&self, node: &Node, text: &str) -> PathBuf {
        let directory = self.sources.files.get(node.place.file).map(|file: &SourceFile| file.directory.as_path());
        let joined = directory.unwrap_or_else(|| Path::new("/")).join(text);
        // Collecting the components leaves out every `.` in between.
        joined.components().collect()
    }

    /// Notes an address; two that ask for the same one cannot both have it.
    fn take_address(&mut self, address: String, owner: &str, place: Place) {
        match self.bound.get(&address) {
            None => {
                self.bound.insert(address, (owner.to_owned(), Some(place)));
            }
            Some((other, None)) => {
                let message = format!("the address {address} is taken by {other}, which is there by default");
                self.error(place, message, "`admin: off` turns it off, `admin: 127.0.0.1:9901` moves it");
            }
            Some((other, Some(first))) => {
                let first = Problems::place_text(&self.sources.files, *first);
                let message = format!("the address {address} is taken by {other} ({first})");
                let help = if address.starts_with("unix:") {
                    "give one of the two another path"
                } else {
                    "give one of the two another TCP port; \":80\" takes it on all addresses of both families"
                };
                self.error(place, message, help);
            }
        }
    }

    /// The name of a pool that exists.
    fn pool_name(&mut self, node: Option<&Node>) -> Option<Name> {
        let scalar = node?.scalar().filter(|scalar| !scalar.broken)?;
        let place = node?.place;
        if values::name(&scalar.text).is_err() {
            return None;
        }
        if self.pools.iter().any(|pool| pool.key == scalar.text) {
            self.used.push(scalar.text.clone());
            return Some(Name::from(scalar.text.as_str()));
        }
        let message = format!("there is no pool {}", quoted(&scalar.text));
        let known: Vec<&str> = self.pools.iter().map(|pool| pool.key.as_str()).collect();
        let help = match nearest(&scalar.text, known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => {
                format!("define it: `pools: {{ {}: {{ servers: [\"127.0.0.1:9001\"] }} }}`", scalar.text)
            }
            None if known.len() == 1 => format!("the only pool is `{}`", known.concat()),
            None => {
                let shown: Vec<&str> = known.iter().take(10).copied().collect();
                format!("the pools are {}{}", shown.join(", "), if known.len() > shown.len() { ", …" } else { "" })
            }
        };
        self.error(place, message, help);
        None
    }

    fn admin(&mut self, top: Section<'_>) -> Option<Admin> {
        let long = top.section("admin");
        let node = top.given("admin");
        let (node, token) = match node {
            Some(node) if node.scalar().is_none() => (long.given("address"), long.text("token").map(str::to_owned)),
            node => (node, None),
        };
        let address: SocketAddr = match node.and_then(Node::scalar) {
            Some(scalar) if values::off(&scalar.text).is_ok() => return None,
            Some(scalar) => address::admin(&scalar.text).ok()?,
            None => default_admin()?,
        };
        let place = node.map(|node| node.place).unwrap_or_default();
        if !address.ip().is_loopback() && token.is_none() && long.given("token").is_none() {
            let message = format!("the admin listener would be open to everybody who reaches {address}");
            self.error(
                place,
                message,
                format!("give it a token: `admin: {{ address: \"{address}\", token: \"${{ADMIN_TOKEN}}\" }}`"),
            );
        }
        if address.port() != 0 && node.is_some() {
            self.take_address(address.to_string(), "the admin listener", place);
        } else if address.port() != 0 {
            self.bound.insert(address.to_string(), ("the admin listener".to_owned(), None));
        }
        Some(Admin { address, token })
    }

    fn access_log(&mut self, top: Section<'_>) -> Option<AccessLog> {
        let node = top.given("access_log")?;
        let long = top.section("access_log");
        let (target, format) = match node.scalar() {
            Some(_) => (node, log::format(long.default("format")?).ok()?),
            None => (long.given("to")?, long.value("format", log::format).unwrap_or(LogFormat::Combined)),
        };
        let scalar = target.scalar().filter(|scalar| !scalar.broken)?;
        let to = match scalar.text.as_str() {
            text if values::off(text).is_ok() => return None,
            "stdout" => LogTarget::Stdout,
            "stderr" => LogTarget::Stderr,
            text => {
                log::target(text).ok()?;
                let path = self.path(target, text);
                self.probe_log(target.place, &path);
                LogTarget::File(path)
            }
        };
        Some(AccessLog { to, format })
    }

    fn control(&mut self, top: Section<'_>) -> PathBuf {
        let Some(node) = top.given("control") else {
            return self.sources.control.clone();
        };
        let Some(scalar) = node.scalar().filter(|scalar| !scalar.broken) else {
            return self.sources.control.clone();
        };
        let path = self.path(node, scalar.text.strip_prefix("unix:").unwrap_or(&scalar.text));
        self.socket_length(node, &path);
        path
    }

    /// A relative path grows when it is made absolute.
    fn socket_length(&mut self, node: &Node, path: &Path) {
        let written = node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
        let long_as_written = address::socket_path(written.strip_prefix("unix:").unwrap_or(written)).is_err();
        if !long_as_written && let Err(wrong) = address::socket_path(&path.to_string_lossy()) {
            self.error(node.place, wrong.message, "write a shorter absolute path");
        }
    }
}

fn default_admin() -> Option<SocketAddr> {
    Section::of_defaults(&table::FILE).default("admin").and_then(|text| address::admin(text).ok())
}
