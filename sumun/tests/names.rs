//! Names of servers inside the sandbox, which has none of the host's files: with what the supervisor
//! read of them, and by UDP, of which Landlock knows nothing.
//!
//! Each instance is in a mount namespace of its own, with an /etc/hosts and an /etc/resolv.conf of its
//! own.

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::Scratch;
use support::instance::{Place, eventually, proxy_config, signal};
use support::server::Server;
use support::talk::{Answer, Client};

const NAME: &str = "app.test";

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"));
    if !is_root {
        eprintln!("left out: only root has files of its own in the place of those of the host");
    }
    is_root
}

/// An instance whose one server is called [`NAME`].
struct Named {
    child: Child,
    address: SocketAddr,
    directory: Scratch,
}

impl Named {
    fn start(server: &Server, hosts: &str, resolv_conf: &str) -> Self {
        let place = Place { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), workers: 1 };
        let (directory, address) = (Scratch::new(), place.free_address());
        let shown = directory.path().display();
        let config = proxy_config(&[server.address()], "", "")
            .replace(&server.address().to_string(), &format!("{NAME}:{}", server.address().port()))
            .replace("$BIND", &address.to_string());
        let control =
            format!("admin: off\nworkers: 1\ndrain: 0s\nsandbox: on\ncontrol: \"unix:{shown}/control.sock\"\n");
        for (name, text) in
            [("sumun.yaml", control + &config), ("hosts", hosts.into()), ("resolv.conf", resolv_conf.into())]
        {
            fs::write(directory.path().join(name), text).expect("it can be written");
        }
        let script = format!(
            "mount --bind {shown}/hosts /etc/hosts && mount --bind {shown}/resolv.conf /etc/resolv.conf && \
             exec {} run -c {shown}/sumun.yaml",
            env!("CARGO_BIN_EXE_sumun")
        );
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stderr(fs::File::create(directory.path().join("log")).expect("a log"))
            .spawn()
            .expect("util-linux is there");
        Self { child, address, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The answer, once it serves.
    fn get(&self) -> Option<Answer> {
        std::net::TcpStream::connect(self.address).is_ok().then(|| Client::connect(self.address).get("/"))
    }

    fn await_status(&self, status: u16) {
        eventually(&format!("an answer with {status}"), || self.get().is_some_and(|answer| answer.status == status));
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
        signal(self.child.id(), "TERM");
        self.child.wait().ok();
    }
}

#[test]
fn a_changed_hosts_file_is_heard_of() {
    if !is_root() {
        return;
    }
    let server = Server::saying(IpAddr::V4(Ipv4Addr::LOCALHOST), "by name");
    // Nobody answers there, and says so at once.
    let nobody = "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n";
    let gateway = Named::start(&server, "127.0.0.1 localhost\n", nobody);
    gateway.await_status(503);
    assert!(gateway.log().contains("name does not resolve"), "{}", gateway.log());
    let hosts = format!("127.0.0.1 localhost {NAME}\n");
    fs::write(gateway.directory.path().join("hosts"), hosts).expect("it can be written");
    gateway.await_status(200);
}

/// A name server that listens on UDP alone, and knows one name.
struct NameServer {
    address: Ipv4Addr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        // The TCP or UDP port of a name server cannot be chosen, the loopback address can.
        let [_, _, third, fourth] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 77, third, fourth.clamp(1, 254));
        let socket = UdpSocket::bind((address, 53)).expect("nobody else has this address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let answer = answer(&bytes[..length]);
                count.fetch_add(1, Ordering::SeqCst);
                socket.send_to(&answer, from).ok();
            }
        });
        Self { address, asked }
    }
}

/// RFC 1035, section 4.1: 127.0.0.1 for a question of type A, and nothing for every other.
fn answer(query: &[u8]) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).expect("the name ends") + 13;
    let question = &query[12..name + 4];
    let is_address = query[name..name + 4] == [0, 1, 0, 1];
    // QR, AA, RD and RA; one question, and an answer if there is one.
    let mut answer = [&query[..2], &[0x85, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0], question].concat();
    if is_address {
        // The name by a pointer to the question, a TTL of 60 s, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

#[test]
fn names_are_looked_up_by_udp() {
    if !is_root() {
        return;
    }
    let server = Server::saying(IpAddr::V4(Ipv4Addr::LOCALHOST), "by name");
    let names = NameServer::start();
    let resolv_conf = format!("nameserver {}\noptions attempts:1 timeout:5\n", names.address);
    let gateway = Named::start(&server, "127.0.0.1 localhost\n", &resolv_conf);
    gateway.await_status(200);
    assert_eq!(gateway.get().map(|answer| answer.text()).as_deref(), Some("by name"));
    assert!(names.asked.load(Ordering::SeqCst) > 0, "it was found by asking");
    assert!(gateway.log().contains("sandbox: "), "{}", gateway.log());
}
