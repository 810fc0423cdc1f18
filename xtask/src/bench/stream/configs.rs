//! How each is configured as a switch of streams.

use crate::bench::rivals::{CONNECTIONS, Setup, haproxy_connections};
use crate::bench::rows::{Kind, Traffic};
use crate::packages::NGINX_STREAM;

pub(crate) fn sumun(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, folder, .. } = setup;
    let (suffix, key) = if row.is_udp() { ("/udp", "udp") } else { ("", "tcp") };
    // Of datagrams nothing is counted that could be too many here.
    let bounds = if row.is_udp() {
        String::new()
    } else {
        format!("    bounds: {{ connections: {CONNECTIONS}, per_client: {CONNECTIONS} }}\n")
    };
    format!(
        "workers: {workers}
admin: off
control: unix:{folder}/control.sock
pools:
  back: {{ servers: [\"{origin}\"] }}
listeners:
  l4:
    bind: \"{listen}{suffix}\"
{bounds}    {key}: back
",
        workers = row.workers,
        folder = folder.path().display(),
    )
}

pub(crate) fn nginx(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, folder, .. } = setup;
    // The usual 16 KiB suit many connections. In bulk it took half the CPU time with 256 KiB, measured
    // with 16, 64, 128 and 256.
    let buffer = if row.kind == Kind::Stream(Traffic::Bulk) { "256k" } else { "16k" };
    let listening = if row.is_udp() { "udp" } else { "backlog=4096" };
    format!(
        "load_module {module};
daemon off;
worker_processes {workers};
worker_rlimit_nofile {CONNECTIONS};
pid {folder}/nginx.pid;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
  access_log off;
  tcp_nodelay on;
  upstream back {{ server {origin}; }}
  server {{
    listen {listen} {listening} reuseport;
    proxy_pass back;
    proxy_buffer_size {buffer};
    proxy_timeout 600s;
  }}
}}
",
        module = NGINX_STREAM.proof,
        workers = row.workers,
        folder = folder.path().display(),
    )
}

pub(crate) fn haproxy(setup: &Setup<'_>) -> String {
    let Setup { row, listen, origin, .. } = setup;
    let connections = haproxy_connections();
    format!(
        "global
  nbthread {workers}
  maxconn {connections}
  maxpipes 100
defaults
  mode tcp
  maxconn {connections}
  option splice-request
  option splice-response
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen l4
  bind {listen} backlog 4096
  server one {origin}
",
        workers = row.workers,
    )
}
