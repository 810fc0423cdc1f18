//! What a worker process needs by its config, and giving up the rest.
//!
//! Supervisor and worker process draw the same plan from the same config. The worker process enters
//! the sandbox with it before it has a second thread. The supervisor keeps what the plan stood for at
//! that time ([`Allowed`]), and so knows which later config the sandbox would forbid.

mod allowed;
mod print;
mod probe;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sumun_config::checked::{AcmeDirectory, Config, Files, Pool, Sandbox, ServerAddress, Source, Stream, User};
use sumun_engine::lifecycle::HostFiles;
use sumun_engine::rooms::with_rooms;
use sumun_host::sandbox::{self, Allowances, Entered};
use sumun_host::{connect, files, process, users};

pub(crate) use allowed::Allowed;
pub(crate) use print::{as_json, as_text};
pub(crate) use probe::run as probe;

use crate::limits::HOST_FILE_BYTES;

/// DNS over TCP, for answers that do not fit into UDP (RFC 7766).
const DNS_PORT: u16 = 53;

/// What every worker process reads: what it uses itself, for the metrics, and local time.
const ALWAYS_READ: [&str; 5] =
    ["/proc/self", "/etc/localtime", "/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];

/// The names of owners, for listings.
const USERS: &str = "/etc/passwd";

pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
pub(crate) const HOSTS: &str = "/etc/hosts";

/// What a worker process needs of what the sandbox knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// Folders with everything below, and files.
    pub(crate) read: BTreeSet<PathBuf>,
    pub(crate) write: BTreeSet<PathBuf>,
    /// TCP ports.
    pub(crate) connect: BTreeSet<u16>,
    pub(crate) bind: BTreeSet<u16>,
    /// Sockets of servers. Landlock lets all connect to them; the permissions of the files decide.
    pub(crate) unix: BTreeSet<PathBuf>,
    /// Datagrams are passed on.
    pub(crate) udp: bool,
    /// Servers are connected to from the addresses of clients.
    pub(crate) transparent: bool,
}

impl Plan {
    pub(crate) fn of(config: &Config) -> Self {
        let mut plan = Self::default();
        plan.read.extend(ALWAYS_READ.map(PathBuf::from));
        for root in roots(config) {
            plan.add_root(root);
            if root.list {
                plan.read.insert(PathBuf::from(USERS));
            }
        }
        plan.udp = config.listeners.values().flat_map(|listener| &listener.stream).any(Stream::is_udp);
        plan.read.extend(pages(config).map(Path::to_owned));
        plan.read.extend(config.asn_table.iter().cloned());
        for pool in config.pools.values() {
            plan.add_pool(pool);
        }
        for directory in directories(config) {
            plan.connect.insert(directory.port);
            if directory.host.parse::<IpAddr>().is_err() {
                plan.connect.insert(DNS_PORT);
            }
        }
        plan
    }

    fn add_root(&mut self, files: &Files) {
        let folders = if files.write { &mut self.write } else { &mut self.read };
        folders.insert(files.root.clone());
    }

    fn add_pool(&mut self, pool: &Pool) {
        for server in &pool.servers {
            let port = match &server.address {
                ServerAddress::Ip(address) => address.port(),
                ServerAddress::Name { port, .. } => {
                    self.connect.insert(DNS_PORT);
                    *port
                }
                ServerAddress::Unix(path) => {
                    self.unix.insert(path.clone());
                    continue;
                }
            };
            self.connect.insert(port);
            self.connect.extend(pool.health.as_ref().and_then(|health| health.port));
        }
        self.transparent |= pool.source == Source::Client;
        if pool.source != Source::Own(Vec::new()) {
            // The source's TCP port is left to the kernel, which is a bind all the same.
            self.bind.insert(0);
        }
    }

    fn allowances(&self) -> Allowances {
        Allowances {
            read: self.read.iter().cloned().collect(),
            write: self.write.iter().cloned().collect(),
            connect: self.connect.iter().copied().collect(),
            bind: self.bind.iter().copied().collect(),
            udp: self.udp,
            transparent: self.transparent,
        }
    }
}

/// Whom certificates are obtained from.
fn directories(config: &Config) -> impl Iterator<Item = &AcmeDirectory> {
    let tls = config.listeners.values().flat_map(|listener| listener.tls.values());
    tls.flat_map(|tls| &tls.acme).map(|acme| &acme.directory)
}

fn roots(config: &Config) -> impl Iterator<Item = &Files> {
    let routes = config.listeners.values().flat_map(|listener| &listener.routes);
    routes.flat_map(|route| route.roots())
}

/// Error pages and those of waiting rooms: read by the worker process at its start and with every reload.
fn pages(config: &Config) -> impl Iterator<Item = &Path> {
    let of_rooms = with_rooms(config).filter_map(|(_, route)| route.waiting_room.as_ref()?.page.as_ref());
    config.listeners.values().flat_map(|listener| listener.error_pages.values()).chain(of_rooms).map(PathBuf::as_path)
}

/// The sandbox that this process is in.
pub(crate) struct Inside {
    /// `landlock 7, seccomp, user nobody`, or `off`.
    pub(crate) state: String,
    /// TCP ports that can be connected to; `None` where nothing stands in the way.
    pub(crate) ports: Option<BTreeSet<u16>>,
    /// What could be read of them before; `None` where they can be read at any time.
    pub(crate) host_files: Option<HostFiles>,
    /// Keeps rules in force that hang on it.
    _entered: Option<Entered>,
}

/// Gives up what `config` does not need and becomes the user that it names; before this process has
/// a second thread. A warning names what could not be given up.
///
/// # Errors
/// The config asks for more than can be done.
pub(crate) fn enter(config: &Config) -> Result<Inside, String> {
    let (account, mut missing) = match sumun_config::account(config) {
        Ok(account) => (account, None),
        // Who names a user must get it.
        Err(why) if config.user.is_some() => return Err(why),
        Err(why) => (None, Some(why)),
    };
    if let Some(user) = &config.user
        && process::effective_uid() != 0
        && !is_us(user)
    {
        tracing::warn!("only root becomes another user: the worker process stays {}", users::current_name());
    }
    let plan = Plan::of(config);
    if config.sandbox == Sandbox::Off {
        if let Some(account) = account {
            sandbox::only_become(&account, plan.transparent)
                .map_err(|error| cannot_become(&account.name, &error.to_string()))?;
        }
        can_be_transparent(&plan)?;
        let state = format!("off, user {}", users::current_name());
        return Ok(Inside { state, ports: None, host_files: None, _entered: None });
    }
    let host_files = read_host_files();
    let entered = sandbox::enter(account.as_ref(), &plan.allowances())
        .map_err(|error| format!("the sandbox cannot be entered: {error}; `sandbox: off` goes without"))?;
    if let (Some(why), Some(account)) = (&entered.user_problem, &account) {
        let why = cannot_become(&account.name, why);
        if config.user.is_some() {
            return Err(why);
        }
        missing = Some(why);
    }
    can_be_transparent(&plan)?;
    let missing: Vec<&str> = entered.kernel.missing.iter().chain(&missing).map(String::as_str).collect();
    if !missing.is_empty() {
        let missing = missing.join("; ");
        if config.sandbox == Sandbox::Require {
            return Err(format!("`sandbox: require`, and this host cannot restrict: {missing}"));
        }
        tracing::warn!("the sandbox is not complete, this host cannot restrict: {missing}");
    }
    tracing::info!("sandbox: {entered}");
    let restricts_ports = entered.kernel.landlock >= sandbox::LANDLOCK_WITH_PORTS;
    Ok(Inside {
        state: entered.to_string(),
        ports: restricts_ports.then_some(plan.connect),
        host_files: Some(host_files),
        _entered: Some(entered),
    })
}

/// Tried rather than looked up: in a container, capabilities may not be about its network.
fn can_be_transparent(plan: &Plan) -> Result<(), String> {
    let tried = if plan.transparent { connect::can_be_transparent() } else { Ok(()) };
    tried.map_err(|error| {
        format!("`source: client` needs CAP_NET_RAW, which root has unless a container or unit takes it away: {error}")
    })
}

fn is_us(user: &User) -> bool {
    match user {
        User::Name(name) => *name == users::current_name(),
        User::Ids { uid, .. } => *uid == process::effective_uid(),
    }
}

fn cannot_become(name: &str, why: &str) -> String {
    format!("the worker process cannot become the user {name}: {why}")
}

/// The host's names as they are now.
pub(crate) fn read_host_files() -> HostFiles {
    let read = |path: &str| {
        let bytes = files::read_bounded(Path::new(path), HOST_FILE_BYTES).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    HostFiles { resolv_conf: read(RESOLV_CONF), hosts: read(HOSTS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(text: &str) -> Config {
        sumun_config::check_text("sumun.yaml", text).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn ports(ports: &BTreeSet<u16>) -> Vec<u16> {
        ports.iter().copied().collect()
    }

    #[test]
    fn a_plan_names_what_the_config_needs_and_nothing_else() {
        let plan = Plan::of(&config(
            "pools:\n  app:\n    servers: ['127.0.0.1:8001', '[::1]:8002', 'unix:/run/app.sock']\n    \
             health: { tcp: {}, port: 9000 }\n  \
             named: { servers: ['app.example.com:8003'] }\n  \
             from: { servers: ['127.0.0.1:8004-8005'], source: 127.0.0.1 }\n\
             listeners:\n  web:\n    bind: ['127.0.0.1:80', '127.0.0.1:81']\n    \
             error_pages: { 404: /srv/errors/404.html }\n    routes:\n      \
             - { path: /up/, files: { root: /srv/up, write: on } }\n      \
             - { path: /static/, files: /srv/static }\n      \
             - { path: /a/, proxy: app }\n      - { path: /b/, proxy: named }\n      - { path: /c/, proxy: from }\n",
        ));
        assert_eq!(ports(&plan.connect), [53, 8001, 8002, 8003, 8004, 8005, 9000]);
        assert_eq!(ports(&plan.bind), [0]);
        assert_eq!(plan.write, BTreeSet::from([PathBuf::from("/srv/up")]));
        assert_eq!(plan.unix, BTreeSet::from([PathBuf::from("/run/app.sock")]));
        let always = ALWAYS_READ.map(PathBuf::from);
        let read: Vec<&PathBuf> = plan.read.iter().filter(|path| !always.contains(path)).collect();
        assert_eq!(read, ["/srv/errors/404.html", "/srv/static"].map(PathBuf::from).iter().collect::<Vec<_>>());
    }

    #[test]
    fn authorities_of_acme_are_connected_to() {
        let with = |directory: &str| {
            Plan::of(&config(&format!(
                "listeners: {{ web: {{ bind: '127.0.0.1:443', tls: {{ acme: {{ directory: '{directory}', domains: \
                 a.example }} }}, routes: [ {{ respond: 204 }} ] }} }}"
            )))
        };
        assert_eq!(ports(&with("https://acme.example/dir").connect), [53, 443]);
        assert_eq!(ports(&with("https://[2001:db8::1]:14000/dir").connect), [14000]);
    }

    #[test]
    fn without_servers_nothing_is_connected_to() {
        let plan = Plan::of(&config("listeners: { web: { bind: '127.0.0.1:80', routes: [ { respond: 204 } ] } }"));
        assert!(plan.connect.is_empty() && plan.bind.is_empty() && plan.write.is_empty());
        assert_eq!(plan.read.len(), ALWAYS_READ.len());
        let listing = "listeners: { web: { bind: '127.0.0.1:80', routes: [ { files: { root: /srv, list: on } } ] } }";
        assert!(Plan::of(&config(listing)).read.contains(Path::new(USERS)));
    }
}
