//! The program and its certificate are replaced again and again, under load: nobody may notice.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Stage;
use super::client::{ensure, read_hey};
use super::gateway::{Gateway, START_LIMIT};
use super::servers::{self, script_path};
use crate::children::{Running, TemporaryFolder, free_tcp_port, loopback};
use crate::process;
use crate::shell::{Fallible, output};

const UPGRADES: u32 = 20;
const SWAPS: u32 = 50;
const SECONDS: u32 = 60;
const DRAIN_SECONDS: u32 = 2;
const WEBSOCKETS: u32 = 20;

/// A certificate that signs for itself, renamed into its place: nobody reads half of it.
fn certificate(folder: &TemporaryFolder, number: u32) -> Fallible<()> {
    let at = |name: &str| folder.path().join(name);
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", &format!("/CN=number {number}")])
            .args(["-addext", "subjectAltName=DNS:site.test,IP:127.0.0.1"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"])
            .arg(at("new.key"))
            .arg("-out")
            .arg(at("new.pem")),
    )?;
    // Both in one file, so that no moment has one of each.
    let both = [std::fs::read(at("new.pem"))?, std::fs::read(at("new.key"))?].concat();
    std::fs::write(at("new.both"), both)?;
    Ok(std::fs::rename(at("new.both"), at("site.pem"))?)
}

/// The name in the certificate that is shown to new connections.
fn shown(listen: &str) -> Fallible<String> {
    output(Command::new("sh").args([
        "-c",
        "openssl s_client -connect \"$0\" </dev/null 2>&1 | grep '^subject'",
        listen,
    ]))
}

/// h2load in short runs, one after the other. It does not open a connection again that says goodbye,
/// and counts what it had not sent by then as an error, even as begun: what it sent can be told by
/// nothing that it prints, so no answer may be another one than 2xx, and none may be missing for long.
fn start_http2(folder: &TemporaryFolder, url: &str) -> Fallible<Running> {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do h2load -n 3000 -c 4 -m 8 --rps 100 \"$0\" || exit 1; done", url]);
    Running::start("h2load", &mut command, folder)
}

/// Answers with 2xx that h2load got; other answers, and those that it waited for in vain.
fn read_h2load(text: &str) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    for line in text.lines() {
        let parts = || line.split_once(": ").into_iter().flat_map(|(_, rest)| rest.split(", "));
        let number = |what: &str| {
            parts().find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok()).unwrap_or_default()
        };
        if line.starts_with("status codes: ") {
            good += number("2xx");
            bad += number("3xx") + number("4xx") + number("5xx");
        } else if line.starts_with("requests: ") {
            bad += number("timeout");
        }
    }
    (good, bad)
}

fn resident_kib(gateway: &Gateway) -> u64 {
    process::memory(&process::tree(gateway.running.id())).resident_kib
}

pub(crate) fn upgrade(stage: &Stage) -> Fallible<String> {
    let folder = &stage.folder;
    let python = stage.python()?;
    certificate(folder, 0)?;
    let sockets = servers::python(folder, &python, "echo_server.py")?;
    let pages = servers::nginx(
        folder,
        loopback(free_tcp_port()?),
        "location / { return 200 \"ok\\n\"; } keepalive_requests 1000000;",
    )?;
    let config = format!(
        "drain: {DRAIN_SECONDS}s
pools:
  sockets: {{ servers: [\"{}\"] }}
  pages: {{ servers: [\"{}\"] }}
listeners:
  web:
    bind: \"LISTEN\"
    tls: {{ certs: {{ cert: {place}/site.pem, key: {place}/site.pem }} }}
    bounds: {{ per_client: 1000 }}
    routes:
      - {{ path: /websocket, proxy: sockets }}
      - {{ path: /, proxy: pages }}
",
        sockets.address,
        pages.address,
        place = folder.path().display(),
    );
    let mut gateway = Gateway::start(&stage.binary, folder, &config)?;
    let listen = gateway.listen.to_string();
    let url = format!("https://{listen}/");
    let before_kib = resident_kib(&gateway);

    let mut command = Command::new(python.join("python"));
    command.arg("-B").arg(script_path("websocket_client.py"));
    command.args(["follow", &format!("wss://{listen}/websocket"), &WEBSOCKETS.to_string()]);
    let mut clients = Running::start("websockets", &mut command, folder)?;
    let deadline = Instant::now() + START_LIMIT;
    while !clients.printed().contains("open") {
        ensure("the WebSockets open", Instant::now() < deadline && clients.ended()?.is_none(), clients.printed())?;
        sleep(Duration::from_millis(50));
    }
    let duration = format!("{SECONDS}s");
    let mut command = Command::new("hey");
    // hey says the host as it stands in the URL as the name that it wants, the port included: that is none.
    command.args(["-z", &duration, "-c", "20", "-q", "50", "-host", "site.test", &url]);
    let mut paced = Running::start("hey", &mut command, folder)?;
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "16", "-d", &duration, &url]);
    let mut full = Running::start("wrk", &mut command, folder)?;
    let mut http2 = start_http2(folder, &url)?;

    replace(&gateway, folder)?;

    let (full_status, paced_status) = (full.wait(2 * START_LIMIT)?, paced.wait(2 * START_LIMIT)?);
    ensure("wrk and hey ended", full_status.success() && paced_status.success(), (full.printed(), paced.printed()))?;
    ensure("h2load goes on", http2.ended()?.is_none(), http2.printed())?;
    http2.signal("TERM")?;
    clients.signal("TERM")?;
    let status = clients.wait(START_LIMIT)?;
    ensure("the WebSockets ended by the rule alone", status.success(), clients.printed())?;

    let paced = read_hey(&paced.printed());
    paced.all_good(u64::from(SECONDS) * 500)?;
    let full = crate::bench::parse_wrk(&full.printed()).ok_or("wrk said something else than expected")?;
    ensure("wrk", full.errors == 0 && full.requests > 0, &full)?;
    let (answered, bad) = read_h2load(&http2.printed());
    ensure("h2load", bad == 0 && answered > 0, (answered, bad))?;
    let seen = shown(&listen)?;
    ensure("the last certificate is shown", seen.contains(&format!("number {SWAPS}")), &seen)?;

    // Old processes are gone once they have drained, and what they held with them.
    sleep(Duration::from_secs(u64::from(DRAIN_SECONDS) + 2));
    let count = process::tree(gateway.running.id()).len();
    ensure("one supervisor and one worker process are left", count == 2, count)?;
    ensure("the gateway lives", gateway.running.ended()?.is_none(), gateway.running.printed())?;
    Ok(format!(
        "{UPGRADES} upgrades and {SWAPS} certificates: {} requests by hey, {} by wrk, {answered} by h2load without an error; {}; RSS {before_kib} KiB before, {} KiB after",
        paced.good,
        full.requests,
        clients.printed().lines().last().unwrap_or_default(),
        resident_kib(&gateway),
    ))
}

/// Certificates and programs, over the whole time of the load.
fn replace(gateway: &Gateway, folder: &TemporaryFolder) -> Fallible<()> {
    let started = Instant::now();
    let span = Duration::from_secs(u64::from(SECONDS - 5));
    let mut upgrades = 0;
    for swap in 1..=SWAPS {
        sleep((started + span * swap / SWAPS).saturating_duration_since(Instant::now()));
        certificate(folder, swap)?;
        if upgrades < UPGRADES * swap / SWAPS {
            upgrades += 1;
            gateway.upgrade().map_err(|error| format!("upgrade {upgrades}: {error}"))?;
        }
    }
    // What looks after the files needs a moment for the last one.
    let deadline = Instant::now() + START_LIMIT;
    let listen = gateway.listen.to_string();
    while !shown(&listen)?.contains(&format!("number {SWAPS}")) {
        ensure("the last certificate comes", Instant::now() < deadline, shown(&listen)?)?;
        sleep(Duration::from_millis(100));
    }
    ensure("all upgrades were made", upgrades == UPGRADES, upgrades)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_h2load() {
        let text = "requests: 10 total, 8 started, 8 done, 7 succeeded, 3 failed, 2 errored, 1 timeout
status codes: 7 2xx, 0 3xx, 1 4xx, 2 5xx
x
requests: 5 total, 5 started, 5 done, 5 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 5 2xx, 0 3xx, 0 4xx, 0 5xx";
        assert_eq!(read_h2load(text), (12, 4));
    }
}
