//! What comes from outside: Debian packages by apt, Python packages into an environment of our own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::children::remove_at_end;
use crate::shell::{Fallible, cache_folder, find_program, is_root, output, passes};

/// A program we need and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// A file or a program on the PATH that tells that it is there.
    pub(crate) proof: &'static str,
    /// The service that the package would start by itself; it is kept from doing so.
    pub(crate) service: Option<&'static str>,
}

const fn service(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof, service: Some(name) }
}

const fn tool(name: &'static str, proof: &'static str) -> Package {
    Package { name, proof, service: None }
}

pub(crate) const NGINX: Package = service("nginx", "nginx");
pub(crate) const NGINX_STREAM: Package = tool("libnginx-mod-stream", "/usr/lib/nginx/modules/ngx_stream_module.so");
pub(crate) const IPERF: Package = tool("iperf3", "iperf3");
pub(crate) const HAPROXY: Package = service("haproxy", "haproxy");
pub(crate) const VARNISH: Package = service("varnish", "varnishd");
pub(crate) const TRAFFIC_SERVER: Package = service("trafficserver", "traffic_server");
pub(crate) const H2O: Package = service("h2o", "h2o");
pub(crate) const APACHE: Package = service("apache2", "apache2");
pub(crate) const TOMCAT: Package = service("tomcat10", "/usr/share/tomcat10/bin/catalina.sh");
pub(crate) const TOMCAT_EXAMPLES: Package =
    tool("tomcat10-examples", "/usr/share/tomcat10-examples/examples/META-INF/context.xml");
pub(crate) const JAVA: Package = tool("default-jre-headless", "java");
pub(crate) const WRK: Package = tool("wrk", "wrk");
pub(crate) const H2LOAD: Package = tool("nghttp2-client", "h2load");
pub(crate) const OPENSSL: Package = tool("openssl", "openssl");
pub(crate) const HEY: Package = tool("hey", "hey");
pub(crate) const CHROMIUM: Package = tool("chromium", "chromium");
pub(crate) const NANUM: Package = tool("fonts-nanum", "/usr/share/fonts/truetype/nanum");
pub(crate) const STRACE: Package = tool("strace", "strace");
pub(crate) const CURL: Package = tool("curl", "curl");
pub(crate) const PYTHON: Package = tool("python3", "python3");
pub(crate) const PYTHON_VENV: Package = tool("python3-venv", "/usr/share/doc/python3-venv");
pub(crate) const NODE: Package = tool("nodejs", "node");
pub(crate) const NPM: Package = tool("npm", "npm");
pub(crate) const PEBBLE: Package = tool("pebble", "pebble");
pub(crate) const TASKSET: Package = tool("util-linux", "taskset");
pub(crate) const IPROUTE: Package = tool("iproute2", "ip");
pub(crate) const POSTGRES: Package = service("postgresql", "/usr/lib/postgresql");
pub(crate) const PSQL: Package = tool("postgresql-client", "psql");
pub(crate) const REDIS: Package = service("redis-server", "redis-server");
pub(crate) const REDIS_TOOLS: Package = tool("redis-tools", "redis-benchmark");
pub(crate) const NSD: Package = service("nsd", "nsd");
pub(crate) const DNSPERF: Package = tool("dnsperf", "dnsperf");
pub(crate) const SETPRIV: Package = tool("util-linux", "setpriv");

impl Package {
    pub(crate) fn is_installed(self) -> bool {
        if self.proof.starts_with('/') { Path::new(self.proof).exists() } else { find_program(self.proof).is_some() }
    }
}

/// Why something could not be had on this machine; the caller decides whether that is a failure.
pub(crate) enum Missing {
    /// Not a Debian-like system, or not root: named, so that the user can act.
    CannotInstall(String),
}

/// Whether this is a Debian or a child of it.
pub(crate) fn has_apt() -> bool {
    find_program("apt-get").is_some() && Path::new("/etc/debian_version").exists()
}

/// Makes sure that all the packages are there, installing the missing ones as root on Debian.
pub(crate) fn ensure(packages: &[Package]) -> Fallible<Result<(), Missing>> {
    // One apt at a time: it holds a lock of its own and fails instead of waiting.
    static APT: Mutex<()> = Mutex::new(());
    let _one_at_a_time = APT.lock().map_err(|_| "an earlier installation broke off")?;
    let missing: Vec<Package> = packages.iter().copied().filter(|package| !package.is_installed()).collect();
    if missing.is_empty() {
        return Ok(Ok(()));
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !has_apt() {
        return Ok(Err(Missing::CannotInstall(format!(
            "not a Debian system, and these are missing: {}",
            names.join(" ")
        ))));
    }
    if !is_root() {
        return Ok(Err(Missing::CannotInstall(format!("not root; needed: apt-get install {}", names.join(" ")))));
    }
    println!("installing with apt: {}", names.join(" "));
    let _policy = NoServiceStarts::set()?;
    apt(&["update", "--quiet", "--quiet"])?;
    let mut install = vec!["install", "--quiet", "--quiet", "--yes", "--no-install-recommends"];
    install.extend(&names);
    apt(&install)?;
    for service in missing.iter().filter_map(|package| package.service) {
        keep_stopped(service);
    }
    match missing.iter().find(|package| !package.is_installed()) {
        Some(package) => Err(format!("apt installed {}, but {} is not there", package.name, package.proof).into()),
        None => Ok(Ok(())),
    }
}

fn apt(arguments: &[&str]) -> Fallible<()> {
    let done = output(
        Command::new("apt-get")
            .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    done.map(drop)
}

/// While this lives, Debian's packages start no service of theirs: a web server on TCP port 80
/// is not what somebody who runs our tests asked for.
struct NoServiceStarts {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServiceStarts {
    fn set() -> Fallible<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        remove_at_end(Path::new(POLICY))?;
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if self.ours {
            drop(std::fs::remove_file(POLICY));
        }
    }
}

/// Keeps a service that we installed from starting at the next boot.
fn keep_stopped(service: &str) {
    if Path::new("/run/systemd/system").exists() {
        let mut command = Command::new("systemctl");
        command.args(["disable", "--now", "--quiet", service]).stderr(Stdio::null());
        if !passes(&mut command).unwrap_or(false) {
            eprintln!("warning: could not disable the service {service}");
        }
    }
}

/// The folder of programs of a Python environment of ours that has these PyPI packages.
///
/// Each set of packages has an environment of its own in the cache folder, so that a changed
/// requirement makes a new one.
pub(crate) fn python_environment(name: &str, requirements: &[&str]) -> Fallible<Result<PathBuf, Missing>> {
    if let Err(missing) = ensure(&[PYTHON, PYTHON_VENV])? {
        return Ok(Err(missing));
    }
    let folder = cache_folder().join("sumun-python").join(name);
    let bin = folder.join("bin");
    let stamp = folder.join("requirements");
    let wanted = requirements.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(Ok(bin));
    }
    println!("installing from PyPI into {}: {}", folder.display(), requirements.join(" "));
    // Debian's own Python first: its venv module is the one that the package above brings.
    let python = ["/usr/bin/python3", "python3"].into_iter().find(|python| find_program(python).is_some());
    output(Command::new(python.unwrap_or("python3")).args(["-m", "venv", "--clear"]).arg(&folder))?;
    output(Command::new(bin.join("pip")).args(["install", "--quiet"]).args(requirements))?;
    std::fs::write(stamp, wanted)?;
    Ok(Ok(bin))
}
