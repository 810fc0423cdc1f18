//! A Redis or Valkey of this machine, and servers that are none.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::instance::{Place, eventually};
use super::talk::Client;

/// A server that ends with its test.
pub(crate) struct Redis {
    child: Child,
    pub(crate) address: SocketAddr,
    arguments: Vec<String>,
}

const PROGRAMS: [&str; 2] = ["valkey-server", "redis-server"];

impl Redis {
    /// `None`, with a word about it, where this machine has none.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let place = Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 1 };
        let address = place.free_address();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let Some(child) = spawn(address, &arguments) else {
            eprintln!("left out: neither valkey-server nor redis-server is installed");
            return None;
        };
        Some(Self { child, address, arguments })
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Again, at the same address, and empty.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.address, &self.arguments).expect("it started before");
    }

    /// What a command answers, as it comes.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have been killed before.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(address: SocketAddr, arguments: &[String]) -> Option<Child> {
    let port = address.port().to_string();
    let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
    let port = if arguments.iter().any(|argument| argument == "--tls-port") { "0".to_owned() } else { port };
    let child = PROGRAMS.iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(common).args(["--port", &port]).args(arguments.iter().map(|argument| match &**argument {
            "$PORT" => address.port().to_string(),
            other => other.to_owned(),
        }));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    })?;
    eventually("the Redis", || TcpStream::connect(address).is_ok());
    Some(child)
}

/// Answers each command as it is told; counts connections.
pub(crate) struct Stranger {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
}

/// After a good beginning: `answer` writes what it wants each time something was read; false ends it.
pub(crate) fn stranger(answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Stranger {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a TCP port");
    let address = listener.local_addr().expect("its address");
    let connections: Arc<AtomicUsize> = Arc::default();
    let (counted, answer) = (Arc::clone(&connections), Arc::new(answer));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut bytes = [0; 64 * 1024];
                while let Ok(count) = stream.read(&mut bytes) {
                    let is_ping = bytes.get(..count).is_some_and(|bytes| bytes.ends_with(b"PING\r\n"));
                    let goes_on = if is_ping { stream.write_all(b"+PONG\r\n").is_ok() } else { answer(&mut stream) };
                    if count == 0 || !goes_on {
                        return;
                    }
                }
            });
        }
    });
    Stranger { address, connections }
}

/// A figure of `/metrics`, by its line up to the figure.
pub(crate) fn metric(admin: SocketAddr, line: &str) -> Option<u64> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let text = Client::connect(admin).send(request).answer().expect(200).text();
    text.lines().find_map(|there| there.strip_prefix(line)?.trim().parse().ok())
}
