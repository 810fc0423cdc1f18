//! The plan for people and programs: `sumun check --sandbox`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sumun_config::checked::{Config, Sandbox};
use sumun_host::sandbox::{Kernel, calls, kernel};
use sumun_host::users;

use super::Plan;

/// What would be allowed to a worker process that is started now, in lines.
pub(crate) fn as_text(config: &Config) -> String {
    let (plan, kernel) = (Plan::of(config), what_the_kernel_can());
    let mut lines = vec![
        format!("sandbox   {}", mode(config)),
        format!("user      {}", user(config)),
        format!("kernel    {kernel}"),
    ];
    lines.extend(kernel.missing.iter().map(|what| format!("missing   {what}")));
    if config.sandbox == Sandbox::Off {
        lines.push("allowed   everything that this user may do".to_owned());
        return lines.join("\n") + "\n";
    }
    lines.extend(paths("read", &plan.read));
    lines.extend(paths("write", &plan.write));
    lines.push(format!("connect   {}", ports(&plan.connect)));
    lines.push(format!("bind      {}", bind(&plan)));
    lines.extend(plan.unix.iter().map(|path| format!("unix      {} (by the permissions of the file)", path.display())));
    lines.extend(stores(config).map(|path| format!("store     {} (opened by the supervisor)", path.display())));
    lines.push("udp       any address and port (Landlock knows no UDP)".to_owned());
    lines.extend(plan.transparent.then(|| "keeps     CAP_NET_RAW, to connect from addresses of clients".to_owned()));
    let denied: Vec<&str> = calls::denied().map(|(name, _)| name).collect();
    lines.push(format!("denied    other files and TCP ports; new programs and processes; {}", denied.join(", ")));
    lines.extend(calls::DENIED_IN_PART.iter().map(|(name, what)| format!("denied    {name}: {what}")));
    lines.join("\n") + "\n"
}

/// The same for programs.
pub(crate) fn as_json(config: &Config) -> Value {
    let (plan, kernel) = (Plan::of(config), what_the_kernel_can());
    let texts = |paths: &BTreeSet<PathBuf>| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    json!({
        "sandbox": mode(config),
        "user": user(config),
        "landlock": kernel.landlock,
        "seccomp": kernel.seccomp,
        "missing": kernel.missing,
        "read": texts(&plan.read),
        "write": texts(&plan.write),
        "connect": plan.connect,
        "bind": plan.bind,
        "unix": texts(&plan.unix),
        "store": stores(config).map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "transparent": plan.transparent,
        "denied_calls": calls::denied().map(|(name, _)| name).collect::<Vec<_>>(),
    })
}

/// What the cache writes to, by descriptors that it is given.
fn stores(config: &Config) -> impl Iterator<Item = &Path> {
    config.cache.group.iter().flat_map(|group| &group.physical_volumes).map(|volume| volume.path.as_path())
}

fn what_the_kernel_can() -> Kernel {
    kernel().unwrap_or_else(|error| Kernel { missing: vec![error.to_string()], ..Kernel::default() })
}

fn mode(config: &Config) -> &'static str {
    match config.sandbox {
        Sandbox::On => "on",
        Sandbox::Off => "off",
        Sandbox::Require => "require",
    }
}

fn user(config: &Config) -> String {
    match sumun_config::account(config) {
        Ok(Some(account)) => {
            let groups: Vec<String> = account.groups.iter().map(u32::to_string).collect();
            format!("{} (uid {}, gid {}, groups {})", account.name, account.uid, account.gid, groups.join(", "))
        }
        Ok(None) => format!("{}, as started", users::current_name()),
        Err(why) => why,
    }
}

fn paths<'a>(word: &'a str, paths: &'a BTreeSet<PathBuf>) -> impl Iterator<Item = String> + 'a {
    paths.iter().map(move |path| {
        let note = if path.exists() { "" } else { " (not there)" };
        format!("{word:<9} {}{note}", path.display())
    })
}

fn bind(plan: &Plan) -> String {
    if plan.bind.is_empty() {
        "no TCP port (listening sockets come from the supervisor)".to_owned()
    } else {
        "TCP ports of the kernel's choice, for connections from `source`".to_owned()
    }
}

/// `TCP 53, 8000-8010`
fn ports(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => ranges.push((*port, *port)),
        }
    }
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let ranges: Vec<String> = ranges.iter().map(range).collect();
    if ranges.is_empty() { "no TCP port".to_owned() } else { format!("TCP {}", ranges.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_a_range() {
        assert_eq!(ports(&BTreeSet::new()), "no TCP port");
        assert_eq!(ports(&BTreeSet::from([53, 8000, 8001, 8002, 65535])), "TCP 53, 8000-8002, 65535");
    }

    #[test]
    fn everything_of_a_plan_is_told() {
        let config = config(
            "user: 0:0\ncache: { group: { physical_volumes: [ { path: /no/such/a, size: 1GiB } ] }, volumes: { v: { size: \
             1MiB } } }\npools: { app: { servers: ['127.0.0.1:8001', 'unix:/run/app.sock'] } }\n\
             listeners: { web: { bind: '127.0.0.1:80', routes: [ { path: /up/, files: { root: /no/such, write: on } }, \
             { proxy: app } ] } }",
        );
        let text = as_text(&config);
        for line in [
            "sandbox   on",
            "write     /no/such (not there)",
            "connect   TCP 8001",
            "unix      /run/app.sock",
            "store     /no/such/a (opened by the supervisor)",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let json = as_json(&config);
        assert_eq!(json["connect"], json!([8001]));
        assert_eq!((&json["write"], &json["store"]), (&json!(["/no/such"]), &json!(["/no/such/a"])));
    }
}
