//! `source: client`: servers see the addresses of clients, over a network of three hosts. Each is a network
//! namespace of its own, which needs root.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use support::instance::{Instance, PATIENCE, Place};
use support::l4::{Switch, config, quoted};

type Job = Box<dyn FnOnce() + Send>;

/// A host: a thread with a network of its own, which does what it is told.
struct Host {
    thread: i32,
    jobs: Sender<Job>,
}

impl Host {
    /// `None`: this needs root.
    fn new() -> Option<Self> {
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let (tell, told) = channel();
        thread::spawn(move || {
            let own = unshare(CloneFlags::CLONE_NEWNET).ok().map(|()| nix::unistd::gettid().as_raw());
            tell.send(own).expect("somebody waits");
            work.into_iter().for_each(|job| job());
        });
        let host = told.recv().expect("it says").map(|thread| Self { thread, jobs })?;
        host.ip("link set lo up");
        Some(host)
    }

    /// Does it there: a socket, or a program, belongs to that network for good.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.send(Box::new(move || drop(tell.send(work())))).expect("it works");
        told.recv().expect("it did not fail")
    }

    fn ip(&self, arguments: &'static str) {
        self.ip_owned(arguments.to_owned());
    }

    fn ip_owned(&self, arguments: String) {
        self.run(move || {
            let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is there");
            assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        });
    }

    /// A cable between the two.
    fn connect(&self, name: &str, other: &Self, other_name: &str) {
        let thread = other.thread;
        self.ip_owned(format!("link add {name} type veth peer name {other_name} netns {thread}"));
        for (host, name) in [(self, name), (other, other_name)] {
            // An address of IPv6 can be used at once where it is not looked for elsewhere first.
            host.run(|| fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").ok());
            host.ip_owned(format!("link set {name} up"));
        }
    }
}

/// client ── gateway ── server, of this family; routes as docs/l4.md has them.
struct Network {
    client: Host,
    gateway: Host,
    server: Host,
    client_ip: IpAddr,
    gateway_ip: IpAddr,
    server_ip: IpAddr,
}

/// The port of the servers, TCP and UDP.
const PORT: u16 = 5432;

impl Network {
    fn new(v4: bool) -> Option<Self> {
        let (client, gateway, server) = (Host::new()?, Host::new()?, Host::new()?);
        client.connect("out", &gateway, "clients");
        gateway.connect("servers", &server, "out");
        let [client_ip, near, far, server_ip] = match v4 {
            true => ["192.0.2.7", "192.0.2.1", "10.1.0.1", "10.1.0.9"],
            false => ["2001:db8:a::7", "2001:db8:a::1", "2001:db8:b::1", "2001:db8:b::9"],
        };
        let (prefix, flag, dad) = if v4 { (24, "-4", "") } else { (64, "-6", " nodad") };
        for (host, ip, device) in [
            (&client, client_ip, "out"),
            (&gateway, near, "clients"),
            (&gateway, far, "servers"),
            (&server, server_ip, "out"),
        ] {
            host.ip_owned(format!("addr add {ip}/{prefix} dev {device}{dad}"));
        }
        server.ip_owned(format!("{flag} route add default via {far}"));
        for protocol in ["tcp", "udp"] {
            gateway.ip_owned(format!("{flag} rule add iif servers ipproto {protocol} sport {PORT} lookup 100"));
        }
        gateway.ip_owned(format!("{flag} route add local default dev lo table 100"));
        let parse = |text: &str| text.parse().expect("an address");
        let (client_ip, gateway_ip, server_ip) = (parse(client_ip), parse(near), parse(server_ip));
        Some(Self { client, gateway, server, client_ip, gateway_ip, server_ip })
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.server_ip, PORT)
    }

    fn config(&self, pool: &str, listener: &str) -> String {
        let text = config(&format!("app: {{ {pool} servers: [{}] }}", quoted(&[self.server()])), listener);
        // It would be open to the clients.
        text.replace("\"$ADMIN\"", "off")
    }

    /// The switch, at the gateway; `listener` is the rest of the listener's keys.
    fn switch(&self, pool: &str, listener: &str) -> Switch {
        let place = Place { ip: self.gateway_ip, workers: 2 };
        let text = self.config(pool, listener);
        self.gateway.run(move || Switch::start(place, &text))
    }
}

/// Does `test` for both families; says so where it cannot.
fn everywhere(test: impl Fn(&Network)) {
    for v4 in [true, false] {
        let Some(network) = Network::new(v4) else {
            eprintln!("left out: network namespaces need root");
            return;
        };
        test(&network);
    }
}

fn talk(mut stream: TcpStream, said: &[u8], heard: usize) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(said).expect("it takes it");
    let mut bytes = vec![0; heard];
    stream.read_exact(&mut bytes).expect("it answers");
    bytes
}

#[test]
fn servers_see_the_addresses_of_clients_over_tcp() {
    everywhere(|network| {
        let at = network.server();
        let listener = network.server.run(move || TcpListener::bind(at).expect("it is free"));
        let switch = network.switch("source: client,", "bind: \"$L4\", tcp: app");
        let front = switch.address;
        for _ in 0..20 {
            let stream = network.client.run(move || TcpStream::connect_timeout(&front, PATIENCE).expect("it listens"));
            let (server, peer) = listener.accept().expect("it came");
            assert_eq!(peer.ip(), network.client_ip);
            let client = thread::spawn(move || talk(stream, b"question", 6));
            let mut server = server;
            let mut bytes = [0; 8];
            server.read_exact(&mut bytes).expect("it came");
            server.write_all(b"answer").expect("it takes it");
            assert_eq!(client.join().expect("no panic"), b"answer");
        }
        switch.await_reason("client_ended", 1);
        end(network, switch);
    });
}

#[test]
fn servers_see_the_addresses_of_clients_over_udp() {
    everywhere(|network| {
        let at = network.server();
        let server = network.server.run(move || UdpSocket::bind(at).expect("it is free"));
        server.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let switch = network.switch("source: client,", "bind: \"$L4/udp\", udp: app");
        let (front, any) = (switch.address, SocketAddr::new(network.client_ip, 0));
        for _ in 0..20 {
            let client = network.client.run(move || UdpSocket::bind(any).expect("it is free"));
            client.set_read_timeout(Some(PATIENCE)).expect("a socket");
            client.send_to(b"question", front).expect("sent");
            let mut bytes = [0; 64];
            let (count, peer) = server.recv_from(&mut bytes).expect("it came");
            assert_eq!((&bytes[..count], peer.ip()), (&b"question"[..], network.client_ip));
            server.send_to(b"answer", peer).expect("sent");
            let (count, from) = client.recv_from(&mut bytes).expect("it came back");
            assert_eq!((&bytes[..count], from), (&b"answer"[..], front));
        }
        end(network, switch);
    });
}

/// The sandbox keeps CAP_NET_RAW where the config asks for it and nowhere else; a reload that asks for it
/// the first time has another process.
#[test]
fn a_reload_that_needs_it_starts_another_worker_process() {
    everywhere(|network| {
        let at = network.server();
        let listener = network.server.run(move || TcpListener::bind(at).expect("it is free"));
        let switch = network.switch("", "bind: \"$L4\", tcp: app");
        let before = switch.gateway.worker_process();
        assert_eq!(capabilities(before), 0);
        let text = network.config("source: client,", "bind: \"$L4\", tcp: app");
        let switch = network.gateway.run(move || {
            switch.reload(&text);
            switch
        });
        switch.gateway.await_log("`source: client` is used for the first time");
        let now = switch.gateway.worker_process();
        assert_ne!(now, before);
        assert_eq!(capabilities(now), 1 << 13, "CAP_NET_RAW");
        let front = switch.address;
        let stream = network.client.run(move || TcpStream::connect_timeout(&front, PATIENCE).expect("it listens"));
        assert_eq!(listener.accept().expect("it came").1.ip(), network.client_ip);
        drop(stream);
        end(network, switch);
    });
}

/// Whoever starts it without the right is told so.
#[test]
fn without_the_capability_it_does_not_start() {
    let text = config("app: { source: client, servers: [\"127.0.0.1:5432\"] }", "bind: \"$L4\", tcp: app");
    let directory = support::Scratch::new();
    let file = directory.path().join("sumun.yaml");
    let text = text.replace("$L4", "127.0.0.1:0").replace("$BIND", "127.0.0.1:0").replace("$ADMIN", "127.0.0.1:9");
    fs::write(&file, text.replace("$DIR", "/tmp")).expect("it can be written");
    for command in ["check", "run"] {
        let mut without = Command::new("setpriv");
        without.args(["--bounding-set", "-net_raw,-net_admin", "--inh-caps", "-all", env!("CARGO_BIN_EXE_sumun")]);
        let output = without.args([command, "-c"]).arg(&file).env("NO_COLOR", "1").output();
        let Ok(output) = output else {
            eprintln!("left out: there is no setpriv");
            return;
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("CAP_NET_RAW"), "{command}: {said}");
        assert_eq!(output.status.success(), command == "check", "{said}");
    }
}

fn capabilities(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("it has some or none");
    u64::from_str_radix(effective, 16).expect("a number")
}

/// Its instance is looked after from where it runs.
fn end(network: &Network, switch: Switch) {
    network.gateway.run(move || drop::<Instance>(switch.gateway));
}
