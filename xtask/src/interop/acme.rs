//! The life of certificates with pebble, the authority that Let's Encrypt tests clients with: first
//! issue by both challenges, an external account, renewal, an account that was deactivated, an authority
//! that is slow, dislikes nonces, refuses, is away, and has forgotten everybody.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Stage;
use super::client::ensure;
use super::gateway::{Gateway, START_LIMIT};
use super::servers::script_path;
use crate::children::{Running, free_tcp_port, loopback};
use crate::packages::{self, Missing};
use crate::shell::{Fallible, output};

/// A slow validation, a renewal and a pause of ours fit in.
const PATIENCE: Duration = Duration::from_secs(60);

const HMAC_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Where things are.
struct Ports {
    directory: u16,
    management: u16,
    names: u16,
    http: u16,
    tls: u16,
}

impl Ports {
    fn free() -> Fallible<Self> {
        Ok(Self {
            directory: free_tcp_port()?,
            management: free_tcp_port()?,
            names: free_tcp_port()?,
            http: free_tcp_port()?,
            tls: free_tcp_port()?,
        })
    }
}

struct Pebble {
    running: Running,
}

/// How pebble behaves.
struct Mood {
    lifetime_s: u32,
    external_account: bool,
    /// Environment.
    settings: &'static [(&'static str, &'static str)],
}

impl Pebble {
    fn start(stage: &Stage, ports: &Ports, mood: &Mood) -> Fallible<Self> {
        let account = if mood.external_account {
            format!(", \"externalAccountMACKeys\": {{ \"kid-1\": \"{HMAC_KEY}\" }}")
        } else {
            String::new()
        };
        let folder = stage.folder.path().display();
        let config = format!(
            "{{ \"pebble\": {{ \"listenAddress\": \"127.0.0.1:{}\", \"managementListenAddress\": \"127.0.0.1:{}\", \
             \"certificate\": \"{folder}/directory.pem\", \"privateKey\": \"{folder}/directory.key\", \"httpPort\": {}, \
             \"tlsPort\": {}, \"ocspResponderURL\": \"\", \"certificateValidityPeriod\": {}, \
             \"externalAccountBindingRequired\": {}{account} }} }}",
            ports.directory, ports.management, ports.http, ports.tls, mood.lifetime_s, mood.external_account
        );
        let config = stage.folder.write("pebble.json", config)?;
        let mut command = Command::new("pebble");
        command.arg("-config").arg(config).args(["-dnsserver", &format!("127.0.0.1:{}", ports.names)]);
        command.envs(mood.settings.iter().copied());
        let mut running = Running::start("pebble", &mut command, &stage.folder)?;
        running.wait_for(loopback(ports.directory), START_LIMIT)?;
        Ok(Self { running })
    }

    /// Its root is another one with every start.
    fn write_root(&self, stage: &Stage, ports: &Ports) -> Fallible<()> {
        let url = format!("https://127.0.0.1:{}/roots/0", ports.management);
        stage.folder.write("root.pem", output(Command::new("curl").args(["-sSk", "--max-time", "10", &url]))?)?;
        Ok(())
    }
}

/// All names lead to 127.0.0.1.
fn name_server(stage: &Stage, ports: &Ports) -> Fallible<Running> {
    let mut command = Command::new("pebble-challtestsrv");
    let management = loopback(free_tcp_port()?);
    command.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
    command.args(["-dns01", &format!("127.0.0.1:{}", ports.names), "-management", &management.to_string()]);
    let mut running = Running::start("names", &mut command, &stage.folder)?;
    running.wait_for(management, START_LIMIT)?;
    Ok(running)
}

fn config(stage: &Stage, ports: &Ports, acme: &str, body: &str) -> String {
    let folder = stage.folder.path().display();
    let Ports { directory, http, tls, .. } = ports;
    format!(
        "state: {folder}/state
listeners:
  web:
    bind:
      - \"LISTEN\"
      - \"127.0.0.1:{http}\"
      - address: \"127.0.0.1:{tls}\"
        tls: {{ acme: {{ directory: \"https://127.0.0.1:{directory}/dir\", ca: {folder}/directory.pem, {acme} }} }}
    redirect_https: on
    routes: [{{ path: /, respond: {{ body: {body} }} }}]
"
    )
}

/// What comes over TLS under this name, where the certificate is pebble's.
fn get(stage: &Stage, ports: &Ports, name: &str) -> Option<String> {
    let root = stage.folder.path().join("root.pem");
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "--resolve", &format!("{name}:{}:127.0.0.1", ports.tls), "--cacert"]);
    output(command.arg(root).arg(format!("https://{name}:{}/", ports.tls))).ok()
}

fn eventually(what: &str, gateway: &Gateway, mut holds: impl FnMut() -> bool) -> Fallible<()> {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > until {
            return Err(format!("not seen: {what}\n{}", gateway.running.printed()).into());
        }
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn obtained(gateway: &Gateway) -> usize {
    gateway.running.printed().matches("obtained from 127.0.0.1").count()
}

fn lost_accounts(gateway: &Gateway) -> usize {
    gateway.running.printed().matches("does not take our account any more").count()
}

/// The account with the external one, at the authority.
fn deactivate(stage: &Stage, ports: &Ports) -> Fallible<()> {
    let python = match packages::python_environment("acme", &["cryptography"])? {
        Ok(bin) => bin,
        Err(Missing::CannotInstall(why)) => return Err(why.into()),
    };
    let folder = stage.folder.path();
    let mut accounts: Vec<_> = std::fs::read_dir(folder.join("state/acme"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("account-")))
        .collect();
    accounts.sort_by_key(|path| path.metadata().and_then(|found| found.modified()).ok());
    let account = accounts.pop().ok_or("no account is kept")?;
    let mut command = Command::new(python.join("python"));
    command.arg("-B").arg(script_path("acme_deactivate.py")).arg(account);
    command.arg(format!("https://127.0.0.1:{}/dir", ports.directory)).arg(folder.join("directory.pem"));
    let status = output(&mut command)?;
    ensure("deactivated", status.trim() == "deactivated", status)
}

pub(crate) fn life(stage: &Stage) -> Fallible<String> {
    let folder = stage.folder.path().display().to_string();
    let (key, certificate) = (format!("{folder}/directory.key"), format!("{folder}/directory.pem"));
    output(
        Command::new("openssl").args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]).args([
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=directory",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]),
    )?;
    let ports = Ports::free()?;
    let _names = name_server(stage, &ports)?;

    // HTTP-01 for two names; a third of all nonces is not liked.
    let mood = Mood {
        lifetime_s: 90 * 86_400,
        external_account: false,
        settings: &[("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "33"), ("PEBBLE_AUTHZREUSE", "0")],
    };
    let mut pebble = Pebble::start(stage, &ports, &mood)?;
    pebble.write_root(stage, &ports)?;
    let first = "challenge: http-01, domains: [one.test, two.test]";
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config(stage, &ports, first, "first"))?;
    for name in ["one.test", "two.test"] {
        eventually(name, &gateway, || get(stage, &ports, name).as_deref() == Some("first"))?;
    }

    // TLS-ALPN-01 with an external account. The authority is slow, and a reload comes in the middle.
    pebble.running.kill();
    let mood = Mood {
        lifetime_s: 40,
        external_account: true,
        settings: &[("PEBBLE_VA_SLEEPTIME", "4"), ("PEBBLE_AUTHZREUSE", "0")],
    };
    let mut pebble = Pebble::start(stage, &ports, &mood)?;
    pebble.write_root(stage, &ports)?;
    let second = format!(
        "challenge: tls-alpn-01, email: admin@example.com, domains: [three.test, \"127.0.0.1\"], \
         external_account: {{ key_id: kid-1, hmac_key: {HMAC_KEY} }}"
    );
    gateway.reload(&stage.folder, &config(stage, &ports, &second, "second"))?;
    eventually("an order", &gateway, || pebble.running.printed().contains("/order-plz"))?;
    gateway.reload(&stage.folder, &config(stage, &ports, &second, "third"))?;
    eventually("three.test", &gateway, || get(stage, &ports, "three.test").as_deref() == Some("third"))?;
    let orders = pebble.running.printed().matches("/order-plz").count();
    ensure("one order", orders == 1, format!("{orders} orders\n{}", gateway.running.printed()))?;

    // Renewal after two thirds of 40 s.
    let before = obtained(&gateway);
    eventually("a renewal", &gateway, || obtained(&gateway) > before)?;

    // Our account is deactivated: the certificate stays, and the renewal is made with another account,
    // bound to the external one again.
    deactivate(stage, &ports)?;
    let before = obtained(&gateway);
    let mut served = true;
    eventually("a deactivated account", &gateway, || {
        served &= get(stage, &ports, "three.test").is_some();
        lost_accounts(&gateway) == 1
    })?;
    ensure("still served", served, gateway.running.printed())?;
    eventually("a renewal with another account", &gateway, || obtained(&gateway) > before)?;
    let accounts = pebble.running.printed().matches("/sign-me-up").count();
    ensure("one account more", accounts == 2, format!("{accounts} accounts\n{}", pebble.running.printed()))?;

    // It goes away, and comes back without a memory: the last certificate stays, then there is a new one.
    pebble.running.kill();
    eventually("the authority is missed", &gateway, || gateway.running.printed().contains("cannot be asked"))?;
    ensure("still served", get(stage, &ports, "three.test").is_some(), gateway.running.printed())?;
    let mood = Mood { settings: &[("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0")], ..mood };
    let mut pebble = Pebble::start(stage, &ports, &mood)?;
    pebble.write_root(stage, &ports)?;
    eventually("a new account", &gateway, || lost_accounts(&gateway) == 2)?;
    eventually("a certificate of the new one", &gateway, || get(stage, &ports, "three.test").is_some())?;

    // It comes to another place, and finds nothing.
    pebble.running.kill();
    let elsewhere = Ports { http: free_tcp_port()?, tls: free_tcp_port()?, ..ports };
    let mood = Mood { external_account: false, ..mood };
    let _pebble = Pebble::start(stage, &elsewhere, &mood)?;
    let third = "challenge: http-01, domains: four.test";
    gateway.reload(&stage.folder, &config(stage, &ports, third, "fourth"))?;
    eventually("a refusal", &gateway, || {
        let refused = |line: &str| {
            line.contains("certificate four.test")
                && line.contains("the authority did not find its proof at TCP port 80 of the names")
        };
        gateway.running.printed().lines().any(refused)
    })?;
    Ok(format!(
        "{} certificates by http-01 and tls-alpn-01, renewals, a deactivated and a lost account, a refusal",
        obtained(&gateway)
    ))
}
