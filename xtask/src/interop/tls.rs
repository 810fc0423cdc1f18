//! TLS in front of and behind the gateway, with those who did not write ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Stage;
use super::client::{Answer, curl, ensure, expect};
use super::gateway::Gateway;
use super::servers;
use crate::children::{TemporaryFolder, free_tcp_port, loopback};
use crate::shell::{Fallible, output};

/// Asks with Python's own library, over a connection that verifies.
const PYTHON: &str = "
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
connection = http.client.HTTPSConnection('127.0.0.1', int(sys.argv[1]), context=context, timeout=20)
for number in range(20):
    connection.request('POST' if number % 2 else 'GET', '/page.txt', body=b'x' * 1000 if number % 2 else None)
    answer = connection.getresponse()
    print(answer.status, connection.sock.version(), len(answer.read()))
";

/// A certificate that signs for itself, for `site.test` and 127.0.0.1; gives its file and its key's.
fn certificate(folder: &TemporaryFolder) -> Fallible<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.path().join("site.pem"), folder.path().join("site.key"));
    output(
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=site.test"])
            .args(["-addext", "subjectAltName=DNS:site.test,IP:127.0.0.1"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;
    Ok((certificate, key))
}

pub(crate) fn tls(stage: &Stage) -> Fallible<String> {
    let folder = &stage.folder;
    let (certificate, key) = certificate(folder)?;
    let shown = |path: &Path| path.display().to_string();
    let (certificate, key) = (shown(&certificate), shown(&key));
    folder.write("documents/page.txt", "the page\n")?;
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    folder.write("documents/large.bin", &large)?;

    // An nginx that speaks TLS, verified by the gateway.
    let behind = loopback(free_tcp_port()?);
    let lines = format!(
        "ssl_certificate {certificate}; ssl_certificate_key {key}; root {}; error_page 405 =200 $uri;",
        shown(&folder.path().join("documents"))
    );
    let server = servers::secure_nginx(folder, behind, &lines)?;
    let plain = loopback(free_tcp_port()?);
    let config = format!(
        "pools:
  app: {{ servers: [\"{}\"], tls: {{ ca: {certificate} }} }}
listeners:
  web:
    bind: [\"LISTEN\", {{ address: \"{plain}\", tls: off }}]
    tls: {{ certs: {{ cert: {certificate}, key: {key} }} }}
    redirect_https: on
    hsts: 1d
    routes: [{{ path: /, proxy: app }}]
",
        server.address
    );
    let gateway = Gateway::start(&stage.binary, folder, &config)?;
    let url = |path: &str| format!("https://{}{path}", gateway.listen);

    let mut seen = Vec::new();
    for version in [&["--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        for protocol in ["--http1.1", "--http2"] {
            let get = |path: &str| -> Fallible<Answer> {
                curl(folder, &[version, &[protocol, "--cacert", &certificate]].concat(), &url(path))
            };
            let page = get("/page.txt")?;
            expect("curl", &(page.status, page.text().as_str()), &(200, "the page\n"))?;
            ensure("HSTS", page.field("strict-transport-security") == Some("max-age=86400"), &page.fields)?;
            ensure("3 MB arrive unchanged", get("/large.bin")?.body == large, ())?;
        }
    }
    seen.push("curl with both protocols in both versions");

    let redirected = curl(folder, &["--location", "--cacert", &certificate], &format!("http://{plain}/page.txt?a=b"))?;
    expect("the redirection", &(redirected.status, redirected.text().as_str()), &(200, "the page\n"))?;
    let refused = curl(folder, &[], &format!("http://{}/page.txt", gateway.listen))?;
    expect("plain HTTP at an address with TLS", &refused.status, &400)?;

    let connect = gateway.listen.to_string();
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "printf 'GET /page.txt HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -ign_eof \"$@\" 2>&1", "sh"]);
        output(command.args(["-connect", &connect, "-CAfile", &certificate]).args(arguments))
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(&[version])?;
        let is_good = said.contains("Verify return code: 0 (ok)") && said.contains("the page");
        ensure("openssl s_client", is_good, &said)?;
    }
    let said = output(Command::new("sh").args([
        "-c",
        "openssl s_client -reconnect -tls1_2 -connect \"$1\" </dev/null 2>&1",
        "sh",
        &connect,
    ]))?;
    expect("sessions that openssl resumes", &said.matches("Reused, TLSv1.2").count(), &5)?;
    seen.push("openssl with resumption");

    let said = output(Command::new("nghttp").args(["--no-verify-peer", "--null-out", "--stat"]).arg(url("/large.bin")));
    ensure("nghttp", said.as_ref().is_ok_and(|said| said.contains(" 200 ")), &said)?;
    let said = output(Command::new("h2load").args(["-n", "5000", "-c", "20", "-m", "20"]).arg(url("/page.txt")))?;
    ensure("h2load", said.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), &said)?;
    seen.push("nghttp, h2load");

    let script = folder.write("ask.py", PYTHON)?;
    let port = gateway.listen.port().to_string();
    let said = output(Command::new("python3").arg(script).args([&port, &certificate]))?;
    expect("Python", &said.lines().filter(|line| *line == "200 TLSv1.3 9").count(), &20)?;
    seen.push("Python");
    Ok(seen.join(", "))
}
