//! How those that only cache are set up, and where ours keeps what it has.

use super::rivals::{CONNECTIONS, Setup};
use super::rows::Kind;
use crate::shell::Fallible;

/// Memory that is enough for every row: of small objects there are 100 MiB with all that belongs to them.
const MEMORY_MIB: u32 = 1024;

/// The lines at the top of our config: with a volume on disk, or all in memory.
pub(super) fn sumun(setup: &Setup<'_>) -> String {
    if !setup.row.is_cached() {
        return String::new();
    }
    if setup.row.is_on_disk() {
        // An answer of 1 MiB is more than memory takes of one.
        return format!(
            "cache:
  memory: 8MiB
  group: {{ physical_volumes: [{{ path: {}/disk, size: 512MiB }}] }}
  volumes: {{ pages: {{ size: 256MiB }} }}
",
            setup.folder.path().display()
        );
    }
    format!("cache: {{ memory: {MEMORY_MIB}MiB }}\n")
}

/// Everything for an hour, with its own rules. It writes no log, but for the one in memory, which is as
/// small as it gets where memory counts.
pub(super) fn varnish(setup: &Setup<'_>) -> Vec<String> {
    let Setup { row, listen, origin, folder, .. } = setup;
    let work = folder.path().join("varnish").display().to_string();
    let storage = if row.is_on_disk() {
        format!("file,{}/disk,512m", folder.path().display())
    } else {
        format!("malloc,{MEMORY_MIB}m")
    };
    let arguments = ["-F", "-j", "none", "-t", "3600", "-s", &storage, "-n", &work];
    let (listen, origin) = (listen.to_string(), origin.to_string());
    let places = ["-a", &listen, "-b", &origin, "-p", "listen_depth=4096"];
    let log: &[&str] = if matches!(row.kind, Kind::Objects { .. }) { &["-l", "1m"] } else { &[] };
    ["varnishd"].iter().chain(&arguments).chain(&places).chain(log).map(|&word| word.to_owned()).collect()
}

/// As its manual has it for what is behind many clients at once; everything for an hour. It keeps its user,
/// so that it may write where we may.
pub(super) fn ats(setup: &Setup<'_>) -> Fallible<Vec<String>> {
    let Setup { row, listen, origin, folder, .. } = setup;
    let root = folder.path().display();
    for name in ["ats-run/none", "ats-cache/none", "ats-log/none"] {
        folder.write(name, "")?;
    }
    let memory: u64 = if row.is_on_disk() { 0 } else { u64::from(MEMORY_MIB) << 20 };
    let records = [
        ("exec_thread.autoconfig INT", 0),
        ("exec_thread.limit INT", u64::from(row.workers)),
        ("exec_thread.affinity INT", 0),
        ("accept_threads INT", 0),
        ("task_threads INT", 1),
        ("log.logging_enabled INT", 0),
        ("http.insert_request_via_str INT", 0),
        ("http.cache.required_headers INT", 0),
        ("cache.ram_cache.size INT", memory),
        ("cache.ram_cache_cutoff INT", 16 << 20),
        ("net.connections_throttle INT", CONNECTIONS * 3 / 4),
        ("http.keep_alive_no_activity_timeout_in INT", 3600),
        ("http.transaction_no_activity_timeout_in INT", 3600),
        ("reverse_proxy.enabled INT", 1),
        ("url_remap.remap_required INT", 1),
        ("cache.enable_read_while_writer INT", 1),
        ("http.background_fill_active_timeout INT", 0),
        ("http.background_fill_completed_threshold FLOAT", 0),
        ("cache.read_while_writer.max_retries INT", 100),
        ("cache.read_while_writer_retry.delay INT", 10),
        ("http.cache.max_open_read_retries INT", 100),
        ("http.cache.open_read_retry_time INT", 10),
        ("http.cache.max_open_write_retries INT", 100),
        ("http.cache.open_write_fail_action INT", 5),
    ];
    let mut lines: String = records.iter().map(|(key, value)| format!("CONFIG proxy.config.{key} {value}\n")).collect();
    lines.push_str(&format!(
        "CONFIG proxy.config.http.server_ports STRING {}:ip-in={}\nCONFIG proxy.config.admin.user_id STRING #-1\n",
        listen.port(),
        listen.ip()
    ));
    folder.write("ats/records.config", lines)?;
    folder.write("ats/remap.config", format!("map / http://{origin}/\n"))?;
    folder.write("ats/storage.config", format!("{root}/ats-cache 1G\n"))?;
    folder.write("ats/cache.config", "dest_domain=. ttl-in-cache=1h\n")?;
    folder.write("ats/ip_allow.yaml", "ip_allow:\n  - { apply: in, ip_addrs: 0/0, action: allow, methods: ALL }\n")?;
    let places = [
        ("prefix", ""),
        ("exec_prefix", ""),
        ("sysconfdir", "/ats"),
        ("datadir", "/ats-cache"),
        ("cachedir", "/ats-cache"),
        ("localstatedir", "/ats-run"),
        ("runtimedir", "/ats-run"),
        ("logdir", "/ats-log"),
        ("libdir", "/ats-run"),
        ("libexecdir", "/ats-run"),
        ("includedir", "/ats-run"),
    ];
    let mut places: String = places.iter().map(|(name, place)| format!("{name}: {root}{place}\n")).collect();
    places.push_str("bindir: /usr/bin\nsbindir: /usr/bin\n");
    let run_root = folder.write("runroot.yaml", places)?;
    Ok(vec!["traffic_server".to_owned(), format!("--run-root={}", run_root.display())])
}
