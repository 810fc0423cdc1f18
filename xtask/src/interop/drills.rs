//! Things that go wrong in a live service, under load: a server dies, the config changes, an
//! application calls itself through its own gateway.

use std::net::SocketAddr;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Stage;
use super::client::{Tally, ensure, expect, read_hey};
use super::gateway::{Gateway, START_LIMIT};
use super::plain::proxy_to;
use super::servers::{self, Server, Tomcat, script_path, start_tomcat};
use crate::children::{Namespace, Running, free_tcp_port, loopback};
use crate::shell::{Fallible, output};

/// A small GET load of 2,000 requests a second on 50 connections.
fn start_load(stage: &Stage, url: &str, seconds: u32) -> Fallible<Running> {
    let mut command = Command::new("hey");
    command.args(["-z", &format!("{seconds}s"), "-c", "50", "-q", "40", url]);
    Running::start("hey", &mut command, &stage.folder)
}

fn end_load(mut load: Running, seconds: u32) -> Fallible<Tally> {
    let status = load.wait(Duration::from_secs(u64::from(seconds)) + START_LIMIT)?;
    let text = load.printed();
    ensure("hey ended", status.success(), &text)?;
    Ok(read_hey(&text))
}

/// A server that answers every path with a few bytes.
fn small_server(stage: &Stage, address: SocketAddr) -> Fallible<Server> {
    servers::nginx(&stage.folder, address, "location / { return 200 \"ok\\n\"; } keepalive_requests 1000000;")
}

/// `kill -9` of one of two servers under load, one after the other, four times.
pub(crate) fn kill(stage: &Stage) -> Fallible<String> {
    const SECONDS: u32 = 24;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(small_server(stage, loopback(free_tcp_port()?))?);
    }
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let config = proxy_to(&addresses, "    health: { http: /healthz, every: 250ms }\n");
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let mut load = start_load(stage, &gateway.url("/"), SECONDS)?;
    for kill in 0..4 {
        sleep(Duration::from_secs(2));
        let victim = &mut servers[kill % 2];
        let address = victim.address;
        victim.running.kill();
        sleep(Duration::from_secs(2));
        ensure("the load goes on", load.ended()?.is_none(), load.printed())?;
        *victim = small_server(stage, address)?;
    }
    let tally = end_load(load, SECONDS)?;
    tally.all_good(2_000)?;
    Ok(format!("{} requests, no error, 4 kills", tally.good))
}

/// 200 reloads in a minute with 50 WebSockets and a load of GETs.
pub(crate) fn reload(stage: &Stage) -> Fallible<String> {
    const SECONDS: u32 = 60;
    const RELOADS: u32 = 200;
    let python = stage.python()?;
    let sockets = servers::python(&stage.folder, &python, "echo_server.py")?;
    let pages = [small_server(stage, loopback(free_tcp_port()?))?, small_server(stage, loopback(free_tcp_port()?))?];
    // What changes from one reload to the next: a server comes and goes, a header, a timeout.
    let config = |number: u32| {
        let second = if number.is_multiple_of(2) { format!(", \"{}\"", pages[1].address) } else { String::new() };
        format!(
            "pools:
  sockets: {{ servers: [\"{}\"] }}
  pages:
    servers: [\"{}\"{second}]
    timeouts: {{ first_byte: {}s }}
listeners:
  web:
    bind: \"LISTEN\"
    bounds: {{ per_client: 1000 }}
    routes:
      - {{ path: /websocket, proxy: sockets }}
      - {{ path: /, proxy: pages, response_headers: {{ set: {{ X-Number: \"{number}\" }} }} }}
",
            sockets.address,
            pages[0].address,
            20 + number % 10
        )
    };
    let mut gateway = Gateway::start(&stage.binary, &stage.folder, &config(0))?;

    let url = format!("ws://{}/websocket", gateway.listen);
    let mut command = Command::new(python.join("python"));
    command.arg("-B").arg(script_path("websocket_client.py")).args(["hold", &url, "50"]);
    let mut clients = Running::start("websockets", &mut command, &stage.folder)?;
    let deadline = Instant::now() + START_LIMIT;
    while !clients.printed().contains("open") {
        ensure("the WebSockets open", Instant::now() < deadline && clients.ended()?.is_none(), clients.printed())?;
        sleep(Duration::from_millis(50));
    }

    let load = start_load(stage, &gateway.url("/"), SECONDS)?;
    let started = Instant::now();
    for number in 1..=RELOADS {
        gateway.reload(&stage.folder, &config(number)).map_err(|error| format!("reload {number}: {error}"))?;
        let next = started + Duration::from_secs(u64::from(SECONDS)) * number / (RELOADS + 5);
        sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = started.elapsed();
    // Asked before the last reload could still be on its way: each is acknowledged.
    let answer = super::client::curl(&stage.folder, &[], &gateway.url("/"))?;
    expect("the last config is in force", &answer.field("x-number"), &Some(RELOADS.to_string().as_str()))?;
    let tally = end_load(load, SECONDS)?;
    tally.all_good(2_000)?;
    clients.signal("TERM")?;
    let status = clients.wait(START_LIMIT)?;
    ensure("the WebSockets lived", status.success(), clients.printed())?;
    ensure("the gateway lives", gateway.running.ended()?.is_none(), gateway.running.printed())?;
    Ok(format!(
        "{RELOADS} reloads in {:.0} s, {} requests, {}",
        took.as_secs_f64(),
        tally.good,
        clients.printed().lines().last().unwrap_or_default()
    ))
}

/// Runs a program in a network namespace.
fn within(namespace: &Namespace, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]).args(arguments);
    command
}

/// Two namespaces joined by a veth pair with these addresses (/24).
fn join(one: (&Namespace, &str, &str), other: (&Namespace, &str, &str)) -> Fallible<()> {
    output(
        within(one.0, &["ip", "link", "add", one.1, "type", "veth", "peer", "name", other.1, "netns"])
            .arg(other.0.name()),
    )?;
    for (namespace, device, address) in [one, other] {
        output(&mut within(namespace, &["ip", "address", "add", &format!("{address}/24"), "dev", device]))?;
        output(&mut within(namespace, &["ip", "link", "set", device, "up"]))?;
    }
    Ok(())
}

/// An application with ten threads whose page calls the gateway for another of its pages. Client,
/// gateway and server each have a network namespace, so that the server has an address of its own.
pub(crate) fn self_call(stage: &Stage) -> Fallible<String> {
    let [client, middle, server] =
        [Namespace::create("client")?, Namespace::create("gateway")?, Namespace::create("server")?];
    for namespace in [&client, &middle, &server] {
        output(&mut within(namespace, &["ip", "link", "set", "lo", "up"]))?;
    }
    join((&client, "up0", "10.77.1.2"), (&middle, "down0", "10.77.1.1"))?;
    join((&middle, "up0", "10.77.2.1"), (&server, "down0", "10.77.2.2"))?;

    let _tomcat = start_tomcat(
        &stage.folder,
        &Tomcat {
            address: SocketAddr::from(([10, 77, 2, 2], 8080)),
            application: "self",
            documents: &script_path("tomcat/self"),
            threads: 10,
            namespace: Some(server.name()),
            front: "http://10.77.2.1:8080",
        },
    )?;
    stage.folder.write("static/page.txt", "a static page\n")?;
    let config = format!(
        "workers: 2
admin: off
control: unix:{folder}/control.sock
pools:
  app:
    servers: [\"10.77.2.2:8080\"]
    concurrency: 10
    queue: {{ size: 100, timeout: 1s }}
listeners:
  web:
    bind: \"0.0.0.0:8080\"
    routes:
      - {{ path: /static/, files: {{ root: {folder}/static }} }}
      - {{ path: /, proxy: app }}
",
        folder = stage.folder.path().display()
    );
    let config = stage.folder.write("sumun.yaml", config)?;
    let mut command = within(&middle, &[]);
    command.arg(&stage.binary).args(["run", "-c"]).arg(&config);
    let mut gateway = Running::start("sumun", &mut command, &stage.folder)?;

    let front = |path: &str| format!("http://10.77.1.1:8080{path}");
    let fetch = |path: &str| {
        output(&mut within(
            &client,
            &[
                "curl",
                "--silent",
                "--max-time",
                "5",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                &front(path),
            ],
        ))
    };
    // Compiles both pages, too.
    let deadline = Instant::now() + 2 * START_LIMIT;
    while !fetch("/self/call.jsp").is_ok_and(|code| code == "200") {
        ensure("the application starts", Instant::now() < deadline && gateway.ended()?.is_none(), gateway.printed())?;
        sleep(Duration::from_millis(200));
    }

    const SECONDS: u32 = 15;
    let load = |connections: &str, rate: &str, path: &str| {
        let duration = format!("{SECONDS}s");
        let mut command =
            within(&client, &["hey", "-z", &duration, "-t", "30", "-c", connections, "-q", rate, &front(path)]);
        Running::start("hey", &mut command, &stage.folder)
    };
    let calls = load("40", "50", "/self/call.jsp")?;
    let statics = load("4", "25", "/static/page.txt")?;
    let calls = end_load(calls, SECONDS)?;
    let statics = end_load(statics, SECONDS)?;
    statics.all_good(SECONDS.into())?;
    // The rest is refused with 502 or 503, at once: what may not happen is that nothing gets through.
    ensure("pages that call back are still served", calls.good >= u64::from(SECONDS), &calls)?;
    let refused: u64 = calls
        .bad
        .iter()
        .filter_map(|line| line.split('\t').nth(1)?.split_whitespace().next()?.parse::<u64>().ok())
        .sum();

    let waiting = |namespace: &Namespace| output(&mut within(namespace, &["ss", "-Htan", "state", "close-wait"]));
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let left = [waiting(&middle)?, waiting(&server)?].concat();
        if left.is_empty() {
            break;
        }
        ensure("no CLOSE_WAIT remains", Instant::now() < deadline, left)?;
        sleep(Duration::from_millis(200));
    }
    expect("a page afterwards", &fetch("/self/call.jsp")?.as_str(), &"200")?;
    Ok(format!(
        "{} pages served and {refused} refused, {} static pages without an error, no CLOSE_WAIT",
        calls.good, statics.good
    ))
}
