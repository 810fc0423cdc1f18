//! TLS over the life of an instance: upgrades, drains, staples, what metrics say of it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::HandshakeKind;
use support::certificates::{Authority, VERSIONS};
use support::client::End;
use support::gateway;
use support::instance::{Instance, eventually, everywhere};
use support::server::{Server, ok};
use support::site::{PLAIN_SETUP, Setup, Site};
use support::talk::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sumun");

#[test]
fn an_upgrade_keeps_sessions_and_open_connections() {
    everywhere(|place| {
        let authority = Authority::new("authority");
        let pair = authority.pair(&["site.test"]);
        let config = Setup { pairs: &[("site", &pair)], ..PLAIN_SETUP }.config();
        // An upgrade executes the program that lies where it was started from.
        let gateway = Instance::start_as(
            place,
            &config,
            |directory| {
                pair.write(directory, "site");
                // By another process: a copy that this one writes could be open in a child of another
                // thread at the moment it is executed.
                let copied = Command::new("cp").arg(PROGRAM).arg(directory.join("sumun")).status();
                assert!(copied.is_ok_and(|status| status.success()), "a copy of the program");
            },
            |directory, log| gateway::command(directory.join("sumun"), log),
        );
        let site = Site { authority, gateway };
        for offered in VERSIONS {
            let config = site.authority.client(&[offered], &["http/1.1"], None);
            let mut open = site.connect(&config);
            open.get("/").expect(200);
            let before = site.gateway.worker_process();
            assert!(site.gateway.command_ok(&["upgrade"]).starts_with("upgraded from "));
            assert_ne!(site.gateway.worker_process(), before);
            // The keys of tickets went along, and the old process serves what it had begun.
            let mut next = site.connect(&config);
            next.get("/").expect(200);
            assert_eq!(next.tls.as_ref().and_then(|tls| tls.handshake_kind()), Some(HandshakeKind::Resumed));
            assert_eq!(open.get("/").expect(200).header("connection"), Some("close"));
            assert_eq!(open.end(), End::Closed);
        }
    });
}

#[test]
fn a_stop_ends_idle_connections_with_a_word_and_finishes_what_was_begun() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            std::thread::sleep(Duration::from_millis(500));
            ok("late")
        });
        // Longer than a busy machine may take for what was begun.
        let top = format!("drain: 20s\npools: {{ app: {{ servers: [\"{}\"] }} }}", server.address());
        let mut site = Site::with(place, &Setup { top: &top, routes: "{ path: /, proxy: app }", ..PLAIN_SETUP });
        let config = site.authority.plain_client();
        let (mut idle, mut busy) = (site.connect(&config), site.connect(&config));
        idle.get("/").expect(200);
        busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        server.await_count(2);
        site.gateway.signal("TERM");
        assert_eq!(idle.end(), End::Closed);
        assert_eq!(busy.answer().expect(200).text(), "late");
        assert_eq!(busy.end(), End::Closed);
        site.gateway.await_end();
    });
}

/// The lines of one family.
fn metrics(admin: std::net::SocketAddr, family: &str) -> Vec<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let text = Client::connect(admin).send(request).answer().expect(200).text();
    text.lines().filter(|line| line.starts_with(&format!("{family}{{"))).map(str::to_owned).collect()
}

#[test]
fn metrics_tell_of_handshakes_and_of_expiry() {
    everywhere(|place| {
        let admin = place.free_address();
        let site = Site::with(place, &Setup { top: &format!("admin: \"{admin}\""), ..PLAIN_SETUP });
        let config = site.authority.plain_client();
        for _ in 0..3 {
            site.connect(&config).get("/").expect(200);
        }
        let done = || metrics(admin, "sumun_tls_handshakes_total");
        let line = |resumed: &str, count: u32| {
            format!("sumun_tls_handshakes_total{{listener=\"web\",resumed=\"{resumed}\"}} {count}")
        };
        eventually("three handshakes", || done().contains(&line("no", 1)) && done().contains(&line("yes", 2)));
        let expiry = metrics(admin, "sumun_tls_certificate_expires_seconds");
        let [line] = expiry.as_slice() else { panic!("{expiry:?}") };
        let seconds: u64 = line
            .strip_prefix("sumun_tls_certificate_expires_seconds{listener=\"web\",name=\"site.test\"} ")
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{line}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        assert!((now + 59 * 86_400..now + 61 * 86_400).contains(&seconds), "{seconds}");
        // Another certificate, another time.
        let next = site.authority.expired_pair(&["site.test"]);
        next.write(site.gateway.directory(), "site");
        eventually("the expiry of the new one", || metrics(admin, "sumun_tls_certificate_expires_seconds") != expiry);
    });
}

/// A certificate with an OCSP response that the tests of the config hold.
fn stapled() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    Path::new(&manifest).join("../base/config/tests/good/parts")
}

#[test]
fn the_staple_goes_with_the_certificate() {
    everywhere(|place| {
        let config = "listeners:
  web:
    bind: \"$BIND\"
    tls: { certs: { cert: $DIR/site.pem, key: $DIR/site.key, ocsp: $DIR/site.ocsp } }
    routes: [{ path: /, respond: { body: hello } }]
";
        let gateway = Instance::start_in(place, config, |directory| {
            for name in ["site.pem", "site.key", "site.ocsp"] {
                fs::copy(stapled().join(name), directory.join(name)).expect("a file of the tests");
            }
        });
        let address = gateway.address.to_string();
        for version in ["-tls1_2", "-tls1_3"] {
            let arguments = ["s_client", "-connect", &address, "-servername", "example.com", "-status", version];
            match Command::new("openssl").args(arguments).stdin(Stdio::null()).output() {
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stdout).into_owned();
                    assert!(said.contains("OCSP Response Status: successful"), "{version}: {said}");
                }
                Err(error) => eprintln!("not run: openssl: {error}"),
            }
        }
    });
}
