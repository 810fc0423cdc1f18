//! One peer at a time: servers behind the gateway, clients in front of it.

use std::process::Command;

use super::Stage;
use super::client::{Answer, curl, curl_many, ensure, expect, read_hey};
use super::gateway::Gateway;
use super::servers::{self, script_path};
use crate::children::{free_tcp_port, loopback};
use crate::shell::{Fallible, output};

/// A pool `app` of these servers, everything proxied to it.
pub(crate) fn proxy_to(addresses: &[String], pool: &str) -> String {
    let servers: Vec<String> = addresses.iter().map(|address| format!("{address:?}")).collect();
    format!(
        "pools:\n  app:\n    servers: [{}]\n{pool}listeners:\n  web:\n    bind: \"LISTEN\"\n    bounds: {{ body: 1GiB, per_client: 1000 }}\n    routes:\n      - {{ path: /, proxy: app }}\n",
        servers.join(", ")
    )
}

/// Bytes that compress badly and repeat nowhere near; the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = std::iter::repeat_with(|| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    next.take(length).collect()
}

fn sha256(stage: &Stage, bytes: &[u8]) -> Fallible<String> {
    let file = stage.folder.write("digest", bytes)?;
    let text = output(Command::new("sha256sum").arg(file))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Files for the servers to serve: a page, a large page, a megabyte of noise.
fn documents(stage: &Stage) -> Fallible<std::path::PathBuf> {
    stage.folder.write("documents/page.txt", "the page\n")?;
    stage.folder.write("documents/large.html", "<p>a line of a large page</p>\n".repeat(10_000))?;
    stage.folder.write("documents/noise.bin", noise(1 << 20))?;
    Ok(stage.folder.path().join("documents"))
}

/// What every server of files has to give through the gateway.
fn file_server(stage: &Stage, gateway: &Gateway) -> Fallible<()> {
    let get = |arguments: &[&str], path: &str| curl(&stage.folder, arguments, &gateway.url(path));
    let page = get(&[], "/page.txt")?;
    expect("GET", &(page.status, page.text().as_str()), &(200, "the page\n"))?;
    let whole = get(&[], "/noise.bin")?;
    ensure("1 MiB arrives unchanged", whole.body == noise(1 << 20), whole.body.len())?;
    let head = get(&["--head"], "/noise.bin")?;
    expect("HEAD", &(head.status, head.field("content-length")), &(200, Some("1048576")))?;
    let part = get(&["--range", "10-19"], "/noise.bin")?;
    expect("a range", &(part.status, part.body.as_slice()), &(206, noise(20).get(10..).unwrap_or_default()))?;
    let tag = format!("If-None-Match: {}", page.field("etag").unwrap_or("none"));
    expect("a validator that matches", &get(&["--header", &tag], "/page.txt")?.status, &304)?;
    expect("nothing there", &get(&[], "/absent")?.status, &404)?;
    let packed = get(&["--compressed"], "/large.html")?;
    ensure("it was compressed", packed.field("content-encoding") == Some("gzip"), &packed.fields)?;
    ensure("a compressed, chunked page arrives whole", packed.body.len() == 300_000, packed.body.len())?;
    // The server closes its connections after a few requests each.
    expect("500 requests in a row", &curl_many(&gateway.url("/page.txt"), 500)?, &vec!["200".to_owned()])
}

pub(crate) fn nginx(stage: &Stage) -> Fallible<String> {
    let lines = format!(
        "root {}; keepalive_requests 7; keepalive_timeout 1s; gzip on; gzip_types text/html; gzip_proxied any;",
        documents(stage)?.display()
    );
    let server = servers::nginx(&stage.folder, loopback(free_tcp_port()?), &lines)?;
    let gateway = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&[server.address.to_string()], ""))?;
    file_server(stage, &gateway)?;
    Ok("files, range, validators, gzip, closing connections".to_owned())
}

pub(crate) fn apache(stage: &Stage) -> Fallible<String> {
    let server = servers::apache(&stage.folder, &documents(stage)?)?;
    let gateway = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&[server.address.to_string()], ""))?;
    file_server(stage, &gateway)?;
    Ok("files, range, validators, gzip, closing connections".to_owned())
}

/// The values of a field that the echo server saw.
fn seen<'a>(echo: &'a serde_json::Value, name: &str) -> Vec<&'a str> {
    let fields = echo["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
    fields.iter().filter(|field| field[0] == name).filter_map(|field| field[1].as_str()).collect()
}

pub(crate) fn python(stage: &Stage) -> Fallible<String> {
    let python = stage.python()?;
    let server = servers::python(&stage.folder, &python, "echo_server.py")?;
    let gateway = Gateway::start(
        &stage.binary,
        &stage.folder,
        &proxy_to(&[server.address.to_string()], "    health: { http: /healthz }\n"),
    )?;
    let ask = |arguments: &[&str], path: &str| curl(&stage.folder, arguments, &gateway.url(path));

    let host = gateway.listen.to_string();
    let hop =
        ["--header", "Connection: keep-alive, X-Hop", "--header", "X-Hop: 1", "--header", "X-Forwarded-For: 6.6.6.6"];
    let echo = ask(&hop, "/echo?a=%2f&b")?.json()?;
    expect("the target is untouched", &echo["target"].as_str(), &Some("/echo?a=%2f&b"))?;
    expect(
        "X-Forwarded-For names the client only",
        &seen(&echo, "x-forwarded-for").join(", "),
        &"127.0.0.1".to_owned(),
    )?;
    expect("X-Forwarded-Proto", &seen(&echo, "x-forwarded-proto"), &vec!["http"])?;
    expect("X-Forwarded-Host", &seen(&echo, "x-forwarded-host"), &vec![host.as_str()])?;
    expect("Host", &seen(&echo, "host"), &vec![host.as_str()])?;
    expect("what Connection names is not passed on", &seen(&echo, "x-hop"), &Vec::new())?;
    for field in ["via", "forwarded", "x-request-id", "cdn-loop"] {
        expect(field, &seen(&echo, field).len(), &1)?;
    }

    let body = noise(3 << 20);
    let (file, digest) = (stage.folder.write("upload", &body)?, sha256(stage, &body)?);
    let upload = file.display().to_string();
    for framing in ["Transfer-Encoding: chunked", "Expect: 100-continue", "X-Plain: 1"] {
        let echo = ask(&["--header", framing, "--upload-file", &upload], "/echo")?.json()?;
        expect(framing, &echo["sha256"].as_str(), &Some(digest.as_str()))?;
    }
    let chunked = ask(&[], "/chunked?pieces=64")?;
    expect("a chunked answer", &(chunked.exit, chunked.body.len()), &(0, 1 << 20))?;
    for how in ["/cut", "/cut?reset=1"] {
        // Whether the head still came or the gateway could already see the end: never a good answer.
        let cut = ask(&[], how);
        ensure("an answer cut short", cut.as_ref().is_ok_and(|cut| cut.exit != 0 || cut.status == 502), &cut)?;
    }
    let early = ask(&["--header", "Expect:", "--upload-file", &upload], "/early");
    ensure("an answer before the body has been read", early.as_ref().is_ok_and(|early| early.status == 413), &early)?;

    let client = script_path("websocket_client.py");
    let url = format!("ws://{}/websocket", gateway.listen);
    for mode in ["echo", "large"] {
        output(Command::new(python.join("python")).arg("-B").arg(&client).args([mode, &url]))?;
    }

    let server = servers::python(&stage.folder, &python, "wsgi_server.py")?;
    let second = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&[server.address.to_string()], ""))?;
    let echo = curl(&stage.folder, &["--data", "x=1"], &second.url("/form"))?.json()?;
    expect(
        "POST to an HTTP/1.0 server",
        &(echo["method"].as_str(), echo["length"].as_u64()),
        &(Some("POST"), Some(3)),
    )?;
    expect("50 requests to an HTTP/1.0 server", &curl_many(&second.url("/"), 50)?, &vec!["200".to_owned()])?;
    Ok("aiohttp, wsgiref (HTTP/1.0), WebSocket; framing, fields, early and cut answers".to_owned())
}

pub(crate) fn grpc(stage: &Stage) -> Fallible<String> {
    let python = stage.python()?;
    let server = servers::python(&stage.folder, &python, "grpc_server.py")?;
    let pool = "    protocol: http2\n    health: { tcp: {} }\n";
    let gateway = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&[server.address.to_string()], pool))?;
    let client = script_path("grpc_client.py");
    let mut command = Command::new(python.join("python"));
    Ok(output(command.arg("-B").arg(&client).arg(gateway.listen.to_string()))?.trim().to_owned())
}

pub(crate) fn curl_client(stage: &Stage) -> Fallible<String> {
    let server = servers::python(&stage.folder, &stage.python()?, "echo_server.py")?;
    let files = documents(stage)?;
    let config = format!(
        "trusted_proxies: [127.0.0.0/8]
pools:
  app: {{ servers: [\"{}\"] }}
listeners:
  web:
    bind: \"LISTEN\"
    routes:
      - {{ path: /static/, files: {{ root: {}, compress: on }} }}
      - {{ path: /, proxy: app }}
",
        server.address,
        files.display()
    );
    let gateway = Gateway::start(&stage.binary, &stage.folder, &config)?;
    let ask =
        |arguments: &[&str], path: &str| -> Fallible<Answer> { curl(&stage.folder, arguments, &gateway.url(path)) };

    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let echo = ask(&["--request", method], "/echo")?.json()?;
        expect("the method", &echo["method"].as_str(), &Some(method))?;
    }
    for method in ["TRACE", "CONNECT"] {
        let status = ask(&["--request", method], "/echo")?.status;
        ensure("a method that is not for us", [400, 405, 501].contains(&status), (method, status))?;
    }
    expect("HTTP/1.0", &ask(&["--http1.0"], "/echo")?.status, &200)?;
    let old = ask(&["--http1.0"], "/chunked?pieces=4")?;
    expect(
        "chunked for an HTTP/1.0 client",
        &(old.exit, old.body.len(), old.field("transfer-encoding")),
        &(0, 65_536, None),
    )?;
    let echo = ask(&["--header", "X-Forwarded-For: 192.0.2.7"], "/echo")?.json()?;
    expect(
        "a trusted proxy is believed",
        &seen(&echo, "x-forwarded-for").join(", "),
        &"192.0.2.7, 127.0.0.1".to_owned(),
    )?;

    let noise = noise(1 << 20);
    let part = ask(&["--range", "0-9,100-109"], "/static/noise.bin")?;
    expect("two ranges", &part.status, &206)?;
    ensure(
        "as parts",
        part.field("content-type").is_some_and(|kind| kind.starts_with("multipart/byteranges")),
        &part.fields,
    )?;
    let rest = ask(&["--range", "1000000-"], "/static/noise.bin")?;
    expect("the rest of a file", &(rest.status, Some(rest.body.as_slice())), &(206, noise.get(1_000_000..)))?;
    let page = ask(&[], "/static/page.txt")?;
    let since = format!("If-Modified-Since: {}", page.field("last-modified").unwrap_or("never"));
    expect("unchanged since", &ask(&["--header", &since], "/static/page.txt")?.status, &304)?;
    let packed = ask(&["--compressed"], "/static/large.html")?;
    expect(
        "compressed on the way",
        &(packed.field("content-encoding").is_some(), packed.body.len()),
        &(true, 300_000),
    )?;
    expect(
        "a way out of the root",
        &ask(&["--path-as-is"], "/static/../sumun.yaml")?.text().contains("pools"),
        &false,
    )?;
    expect(
        "a way out, encoded",
        &ask(&["--path-as-is"], "/static/%2e%2e%2fsumun.yaml")?.text().contains("pools"),
        &false,
    )?;
    Ok("methods, HTTP/1.0, ranges, validators, compression".to_owned())
}

/// An nginx behind, for clients that only make load.
fn small_page(stage: &Stage) -> Fallible<(servers::Server, Gateway)> {
    let lines = format!("root {}; keepalive_requests 1000000;", documents(stage)?.display());
    let server = servers::nginx(&stage.folder, loopback(free_tcp_port()?), &lines)?;
    let gateway = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&[server.address.to_string()], ""))?;
    Ok((server, gateway))
}

pub(crate) fn wrk(stage: &Stage) -> Fallible<String> {
    let (_server, gateway) = small_page(stage)?;
    let load = crate::bench::wrk(&format!("http://{}/page.txt", gateway.listen), 64, 5)?;
    expect("errors", &load.errors, &0)?;
    Ok(format!("{} requests", load.requests))
}

pub(crate) fn hey(stage: &Stage) -> Fallible<String> {
    let (_server, gateway) = small_page(stage)?;
    let url = gateway.url("/page.txt");
    let mut total = 0;
    for arguments in [&["-n", "20000", "-c", "50"][..], &["-n", "2000", "-c", "20", "-disable-keepalive"]] {
        let wanted: u64 = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        let tally = read_hey(&output(Command::new("hey").args(arguments).arg(&url))?);
        tally.all_good(wanted)?;
        total += tally.good;
    }
    Ok(format!("{total} requests, with and without keep-alive"))
}

pub(crate) fn tomcat(stage: &Stage) -> Fallible<String> {
    let python = stage.python()?;
    let servers = [servers::tomcat_examples(&stage.folder)?, servers::tomcat_examples(&stage.folder)?];
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let pool = "    balance: round-robin\n    sticky: { cookie: SUMUN }\n    health: { http: /examples/index.html, every: 1s }\n";
    let gateway = Gateway::start(&stage.binary, &stage.folder, &proxy_to(&addresses, pool))?;
    let ask = |arguments: &[&str], path: &str| curl(&stage.folder, arguments, &gateway.url(path));

    // Ten clients, each with a session of its own that remembers what was put into it.
    for client in 0..10 {
        let jar = stage.folder.path().join(format!("cookies-{client}")).display().to_string();
        std::fs::write(&jar, "")?;
        let cookies = ["--cookie", &jar, "--cookie-jar", &jar];
        let base = "/examples/servlets/servlet/SessionExample";
        for number in 0..6 {
            let page = ask(&cookies, &format!("{base}?dataname=key{number}&datavalue=value{client}x{number}"))?;
            expect("a page with a session", &page.status, &200)?;
            let lost: Vec<u32> =
                (0..=number).filter(|past| !page.text().contains(&format!("value{client}x{past}"))).collect();
            ensure("what the session forgot", lost.is_empty(), lost)?;
        }
    }
    let jsp = ask(&[], "/examples/jsp/snp/snoop.jsp")?;
    expect("a JSP", &(jsp.status, jsp.text().contains("JSP Request Method: GET")), &(200, true))?;

    let body = noise(2 << 20);
    let file = stage.folder.write("upload", &body)?.display().to_string();
    let count = ask(
        &["--request", "POST", "--header", "Transfer-Encoding: chunked", "--data-binary", &format!("@{file}")],
        "/examples/servlets/nonblocking/bytecounter",
    )?;
    ensure("a chunked upload is counted", count.text().contains(&body.len().to_string()), count.text())?;
    let numbers = ask(&[], "/examples/servlets/nonblocking/numberwriter")?;
    ensure("a long chunked answer", numbers.exit == 0 && numbers.body.len() > 100_000, numbers.body.len())?;

    let client = script_path("websocket_client.py");
    for endpoint in ["echoAnnotation", "echoProgrammatic"] {
        let url = format!("ws://{}/examples/websocket/{endpoint}", gateway.listen);
        output(Command::new(python.join("python")).arg("-B").arg(&client).args(["echo", &url]))?;
    }
    Ok("sticky sessions over two Tomcats, JSP, chunked both ways, WebSocket".to_owned())
}
