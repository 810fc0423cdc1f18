//! The access log, line by line.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use support::instance::{Instance, Place, eventually, everywhere, proxy_config};
use support::server::{Server, ok};
use support::talk::Framing;

/// The lines of a log file once there are this many.
fn lines(gateway: &Instance, name: &str, count: usize) -> Vec<String> {
    let read = || fs::read_to_string(gateway.directory().join(name)).unwrap_or_default();
    eventually(&format!("{count} lines in {name}"), || read().lines().count() >= count);
    let lines: Vec<String> = read().lines().map(String::from).collect();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn start(place: Place, server: &Server, format: &str, pool: &str, listener: &str) -> Instance {
    let config = proxy_config(&[server.address()], pool, listener);
    Instance::start(place, &format!("access_log: {{ to: $DIR/access.log, format: {format} }}\n{config}"))
}

#[test]
fn off_by_default() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let gateway = Instance::proxy(place, &[server.address()], "", "");
        gateway.get("/a-target-of-its-own").expect(200);
        assert!(!gateway.log().contains("a-target-of-its-own"));
    });
}

#[test]
fn combined() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "12345");
        let gateway = start(place, &server, "combined", "", "");
        let fields = "Referer: http://from.example/\r\nUser-Agent: test \"quoted\" 1.0\r\n";
        gateway.connect().get_with("/path?query=1", fields).expect(200);
        let line = lines(&gateway, "access.log", 1).remove(0);
        let (client, rest) = line.split_once(" - - [").expect("client, identity and user");
        assert_eq!(client, place.ip.to_string());
        let (time, rest) = rest.split_once("] ").expect("a time");
        // 23/Nov/2026:05:08:24 +0000
        assert!(time.len() == 26 && time.chars().filter(|sign| *sign == ':').count() == 3, "{time}");
        let agent = r#""test \"quoted\" 1.0""#;
        assert_eq!(rest, format!(r#""GET /path?query=1 HTTP/1.1" 200 5 "http://from.example/" {agent}"#));
    });
}

#[test]
fn json() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |request| ok(&request.body));
        let gateway = start(place, &server, "json", "", "");
        let fields = "X-Request-Id: my-id\r\nUser-Agent: \u{e9}\"\\\r\n";
        gateway.connect().request("PUT", "/a?b", fields, b"123").expect(200);
        let line = lines(&gateway, "access.log", 1).remove(0);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let address = server.address().to_string();
        let client = place.ip.to_string();
        for (key, wanted) in [
            ("client", client.as_str()),
            ("method", "PUT"),
            ("target", "/a?b"),
            ("host", "test"),
            ("version", "HTTP/1.1"),
            ("request_id", "my-id"),
            ("listener", "web"),
            ("route", "/"),
            ("pool", "app"),
            ("server", address.as_str()),
            ("reason", "done"),
        ] {
            assert_eq!(value[key], wanted, "{key} in {line}");
        }
        for (key, wanted) in [("status", 200), ("bytes_sent", 3), ("bytes_received", 3), ("tries", 1)] {
            assert_eq!(value[key], wanted, "{key} in {line}");
        }
        let time = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        assert!(time("total_ms") >= time("connect_ms") && time("queue_ms") >= 0.0 && time("read_ms") >= 0.0, "{line}");
        assert!(time("first_byte_ms") > 0.0, "{line}");
        assert!(value["time"].as_str().is_some_and(|time| time.contains('T') && time.contains(':')), "{line}");
    });
}

#[test]
fn a_template() {
    everywhere(|place| {
        let server = Server::answering(place.ip, |_| {
            b"HTTP/1.1 201 Created\r\nX-Out: from the server\r\nContent-Length: 2\r\n\r\nhi".to_vec()
        });
        let format = r#"'{method}|{target}|{host}|{status}|{bytes_sent}|{request.x-in}|{response.x-out}|{request.none}|{reason}|{{x}}'"#;
        let gateway = start(place, &server, format, "", "");
        gateway.connect().get_with("/t", "X-In: from the client\r\n").expect(201);
        let line = lines(&gateway, "access.log", 1).remove(0);
        assert_eq!(line, "GET|/t|test|201|2|from the client|from the server|-|done|{x}");
    });
}

/// Bytes of bodies, without heads and what chunks are framed with; also of one that was broken off.
#[test]
fn only_bodies_are_counted() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                let answer = match request.target.as_str() {
                    "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                        5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-After: 1\r\n\r\n"
                        .to_vec(),
                    "/until-the-end" => b"HTTP/1.1 200 OK\r\n\r\nhello world".to_vec(),
                    _ => ok("hi"),
                };
                if !peer.send(answer) || request.target == "/until-the-end" {
                    return;
                }
            }
        });
        let login = Server::answering(place.ip, |_| {
            b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 4\r\n\r\ngo!\n".to_vec()
        });
        let config = format!(
            "access_log: {{ to: $DIR/access.log, format: '{{method}} {{target}} {{status}} {{bytes_sent}} {{bytes_received}}' }}\n\
             pools: {{ app: {{ servers: [\"{}\"] }}, login: {{ servers: [\"{}\"] }} }}\n\
             listeners: {{ web: {{ bind: \"$BIND\", routes: [\n\
             \x20 {{ path: /files/, files: {{ root: $DIR/root, write: on }} }},\n\
             \x20 {{ path: /guarded, proxy: app, forward_auth: {{ pool: login, path: /check }} }},\n\
             \x20 {{ path: /, proxy: app }}] }} }}\n",
            server.address(),
            login.address()
        );
        let gateway = Instance::start_in(place, &config, |directory| {
            fs::create_dir(directory.join("root")).expect("the root can be made");
            // For the user that the worker process becomes.
            fs::set_permissions(directory.join("root"), fs::Permissions::from_mode(0o777)).expect("its mode");
            // Too large to be compressed before it is sent.
            let text: String = (0..120_000).map(|number| format!("line {number}\n")).collect();
            fs::write(directory.join("root/long.txt"), text).expect("the file can be written");
        });
        let mut wanted = Vec::new();
        let mut expect = |line: String| {
            wanted.push(line);
            assert_eq!(lines(&gateway, "access.log", wanted.len()), wanted);
        };
        // Compressed on its way, in chunks.
        let answer = gateway.connect().get_with("/files/long.txt", "Accept-Encoding: gzip\r\n").expect(200);
        assert_eq!(answer.framing, Framing::Chunked);
        expect(format!("GET /files/long.txt 200 {} 0", answer.body.len()));
        let answer = gateway.connect().get_with("/files/long.txt", "Range: bytes=0-1,4-5\r\n").expect(206);
        expect(format!("GET /files/long.txt 206 {} 0", answer.body.len()));
        gateway.get("/guarded").expect(302);
        expect("GET /guarded 302 4 0".to_owned());
        gateway.connect().request("HEAD", "/guarded", "", b"").expect(302);
        expect("HEAD /guarded 302 0 0".to_owned());
        // Chunked on its way here and again on its way on; and put into chunks here.
        for target in ["/chunks", "/until-the-end"] {
            let answer = gateway.get(target).expect(200);
            assert_eq!((answer.framing, answer.text()), (Framing::Chunked, "hello world".to_owned()));
            expect(format!("GET {target} 200 11 0"));
        }
        for target in ["/files/new", "/to-server"] {
            let mut client = gateway.connect();
            client.send(format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"));
            client.finish();
            client.try_answer(false).expect_err("it has not sent its request");
            expect(format!("PUT {target} 499 0 5"));
        }
    });
}

/// Who ended it, and in which phase.
#[test]
fn reasons() {
    everywhere(|place| {
        let server = Server::start(place.ip, |peer| {
            while let Some(request) = peer.request() {
                match request.target.as_str() {
                    "/cut" => {
                        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort");
                        return;
                    }
                    "/close" => return,
                    "/nonsense" => {
                        peer.send("NONSENSE\r\n\r\n");
                        return;
                    }
                    "/silence" => {
                        peer.drain();
                        return;
                    }
                    _ => peer.send(ok("hi")),
                };
            }
        });
        let pool = "retries: off, outlier: off, timeouts: { first_byte: 200ms },";
        let bounds = "bounds: { body: 1KiB, header_timeout: 200ms },";
        let gateway = start(place, &server, "'{method} {target} {status} {reason}'", pool, bounds);
        let mut wanted = Vec::new();
        let mut expect = |line: &str| {
            wanted.push(line.to_owned());
            assert_eq!(lines(&gateway, "access.log", wanted.len()), wanted);
        };
        gateway.get("/good").expect(200);
        expect("GET /good 200 done");
        gateway.get("/close").expect(502);
        expect("GET /close 502 server_closed");
        gateway.get("/nonsense").expect(502);
        expect("GET /nonsense 502 server_protocol");
        gateway.get("/silence").expect(504);
        expect("GET /silence 504 first_byte_timeout");
        let mut client = gateway.connect();
        client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").try_answer(false).expect_err("it was cut short");
        expect("GET /cut 200 server_cut_short");
        gateway.connect().request("POST", "/large", "", &[b'x'; 2000]).expect(413);
        expect("POST /large 413 body_too_large");
        let mut client = gateway.connect();
        client.send("GET /never HTTP/1.1\r\n").answer().expect(408);
        expect("- - 408 header_timeout");
        let mut client = gateway.connect();
        client.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx");
        client.reset();
        expect("POST /body 499 client_closed");
    });
}

/// What a client sends cannot become a line of its own, nor leave its field.
#[test]
fn lines_cannot_be_forged() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        for format in ["combined", "json", "'{request.user-agent} end'"] {
            let gateway = start(place, &server, format, "", "");
            let agent = "\u{1b}[31m\" 200 0 \"\\\t\u{7f}";
            // The gateway refuses control characters, or writes them escaped.
            let mut client = gateway.connect();
            client.send(format!("GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n")).answer();
            let mut client = gateway.connect();
            client
                .send("GET /%0a%22quoted HTTP/1.1\r\nHost: a\r\nUser-Agent: \" \\ \u{e9}\r\n\r\n")
                .answer()
                .expect(200);
            for line in lines(&gateway, "access.log", 2) {
                assert!(line.chars().all(|sign| sign >= ' ' && sign != '\u{7f}'), "{line:?}");
                if format == "json" {
                    serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                }
            }
        }
    });
}

#[test]
fn to_the_standard_output() {
    everywhere(|place| {
        let server = Server::saying(place.ip, "hi");
        let config = proxy_config(&[server.address()], "", "");
        let gateway =
            Instance::start(place, &format!("access_log: {{ to: stdout, format: 'LINE {{target}}' }}\n{config}"));
        gateway.get("/here").expect(200);
        gateway.await_log("LINE /here");
    });
}
