//! An application server that can be overloaded: few workers, each of which takes its time for one
//! request after the other, and a long line of requests in front of them.
//!
//! The workers sleep, so that it costs nothing while it works: they are entries of a timetable, all in
//! one thread. What was begun is finished, also for a client that is gone, and so is what waits: neither
//! a worker nor the line learns that a client has given up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{self, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use crate::shell::Fallible;

/// Together with the load's, these fit into 20,000 descriptors.
const CONNECTIONS_MAX: usize = 12_000;

/// Requests that wait for a worker; more are not read, and their connections closed.
const LINE_MAX: usize = 200_000;

/// What a client may send before its request is complete.
const REQUEST_MAX: usize = 16 * 1024;

/// How soon a command is obeyed.
const PATIENCE: Duration = Duration::from_millis(10);

const LISTENER: u64 = 0;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) const WORKERS: usize = 8;
pub(crate) const SERVICE: Duration = Duration::from_millis(50);

enum Command {
    Workers(usize),
    Service(Duration),
    Stall(Duration),
    Forget,
}

#[derive(Default)]
struct Counts {
    finished: AtomicU64,
    in_vain: AtomicU64,
}

/// Runs until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    commands: Option<Sender<Command>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(workers: usize, service: Duration) -> Fallible<Self> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let (sender, commands) = channel();
        let counts = Arc::new(Counts::default());
        let mut floor = Floor::new(listener, workers, service, Arc::clone(&counts))?;
        let thread = std::thread::Builder::new().name("server".to_owned()).spawn(move || {
            be_punctual();
            if let Err(error) = floor.run(&commands) {
                eprintln!("the application server broke off: {error}");
            }
        })?;
        Ok(Self { address, commands: Some(sender), counts, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next request on.
    pub(crate) fn set_service(&self, service: Duration) {
        self.tell(Command::Service(service));
    }

    /// Those that are busy finish first.
    pub(crate) fn set_workers(&self, workers: usize) {
        self.tell(Command::Workers(workers));
    }

    /// Every worker stands still for so long, in the middle of whatever it does.
    pub(crate) fn stall(&self, length: Duration) {
        self.tell(Command::Stall(length));
    }

    /// Drops the line and all connections, and is as it was at the start: 8 workers, 50 ms.
    pub(crate) fn forget(&self) {
        self.tell(Command::Forget);
        self.tell(Command::Workers(WORKERS));
        self.tell(Command::Service(SERVICE));
        std::thread::sleep(2 * PATIENCE);
    }

    /// Requests that were worked on to the end, and those of them whose client was gone.
    pub(crate) fn finished(&self) -> (u64, u64) {
        (self.counts.finished.load(Ordering::Relaxed), self.counts.in_vain.load(Ordering::Relaxed))
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // It has said itself why it is no longer there.
            drop(commands.send(command));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The load runs on the same CPU. A worker that wakes late because of it would be a server that can do
/// less, and most of all where a proxy keeps no line in front of it: so it goes first where it may, as root.
fn be_punctual() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = process::Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &thread]).stdout(Stdio::null()).stderr(Stdio::null());
    drop(command.status());
}

/// With a line of connections in the kernel that is as long as it gets.
fn listen() -> Fallible<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listen(&socket, 4096)?;
    Ok(TcpListener::from(socket))
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// It has a request in the line or at a worker.
    waits: bool,
}

/// The place where the work is done.
struct Floor {
    listener: TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    line: VecDeque<u64>,
    /// When which connection's request will be done.
    busy: BinaryHeap<Reverse<(Instant, u64)>>,
    workers: usize,
    service: Duration,
    stalled_until: Instant,
    counts: Arc<Counts>,
}

impl Floor {
    fn new(listener: TcpListener, workers: usize, service: Duration, counts: Arc<Counts>) -> Fallible<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            listener,
            epoll,
            connections: HashMap::new(),
            next: LISTENER + 1,
            line: VecDeque::new(),
            busy: BinaryHeap::new(),
            workers,
            service,
            stalled_until: Instant::now(),
            counts,
        })
    }

    fn run(&mut self, commands: &Receiver<Command>) -> Fallible<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            loop {
                match commands.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            self.finish();
            self.begin();
            let next =
                self.busy.peek().map_or(PATIENCE, |Reverse((at, _))| at.saturating_duration_since(Instant::now()));
            events.clear();
            wait(&self.epoll, &mut events, next.min(PATIENCE))?;
            for event in &events {
                let data = event.data;
                match data.u64() {
                    LISTENER => self.accept()?,
                    id => self.read(id),
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Workers(workers) => self.workers = workers,
            Command::Service(service) => self.service = service,
            Command::Stall(length) => {
                self.stalled_until = Instant::now() + length;
                self.busy = self.busy.drain().map(|Reverse((at, id))| Reverse((at + length, id))).collect();
            }
            Command::Forget => {
                self.connections.clear();
                self.line.clear();
                self.busy.clear();
                self.stalled_until = Instant::now();
            }
        }
    }

    fn finish(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, id))) = self.busy.peek()
            && at <= now
        {
            self.busy.pop();
            self.counts.finished.fetch_add(1, Ordering::Relaxed);
            let Some(connection) = self.connections.get_mut(&id) else {
                self.counts.in_vain.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            connection.waits = false;
            // So short an answer fits into the socket's buffer, or the client is gone.
            match connection.stream.write(ANSWER) {
                Ok(count) if count == ANSWER.len() => self.take_request(id),
                _ => drop(self.connections.remove(&id)),
            }
        }
    }

    fn begin(&mut self) {
        let now = Instant::now();
        while self.busy.len() < self.workers
            && now >= self.stalled_until
            && let Some(id) = self.line.pop_front()
        {
            self.busy.push(Reverse((now + self.service, id)));
        }
    }

    fn accept(&mut self) -> Fallible<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if self.connections.len() < CONNECTIONS_MAX => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let id = self.next;
                    self.next += 1;
                    epoll::add(&self.epoll, &stream, EventData::new_u64(id), EventFlags::IN | EventFlags::RDHUP)?;
                    self.connections.insert(id, Connection { stream, read: Vec::new(), waits: false });
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut chunk = [0; 4096];
        match connection.stream.read(&mut chunk) {
            Ok(count) if count > 0 && connection.read.len() < REQUEST_MAX => {
                connection.read.extend_from_slice(chunk.get(..count).unwrap_or_default());
                self.take_request(id);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Its request stays in the line.
            _ => drop(self.connections.remove(&id)),
        }
    }

    /// Puts the connection's next request into the line, if it is complete. Requests have no body.
    fn take_request(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.waits {
            return;
        }
        if let Some(end) = connection.read.windows(4).position(|window| window == b"\r\n\r\n") {
            if self.line.len() >= LINE_MAX {
                self.connections.remove(&id);
                return;
            }
            connection.read.drain(..end + 4);
            connection.waits = true;
            self.line.push_back(id);
        }
    }
}

/// Waits for events, at most for so long; a signal is no event.
pub(super) fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, limit: Duration) -> io::Result<()> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    match epoll::wait(epoll, spare_capacity(events), Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::Connection as Client;

    #[test]
    fn answers_on_a_kept_connection() {
        let server = Server::start(2, Duration::from_millis(1)).expect("it starts");
        let mut client = Client::open(server.address()).expect("it listens");
        for _ in 0..3 {
            assert_eq!(client.fetch("/").expect("it answers"), (200, 64));
        }
        assert_eq!(server.finished(), (3, 0));
    }

    #[test]
    fn works_on_for_a_client_that_is_gone() {
        let server = Server::start(1, Duration::from_millis(1)).expect("it starts");
        server.stall(Duration::from_millis(100));
        let mut gone = TcpStream::connect(server.address()).expect("it listens");
        gone.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        drop(gone);
        let mut client = Client::open(server.address()).expect("it listens");
        for _ in 0..2 {
            assert_eq!(client.fetch("/").expect("it answers"), (200, 64));
        }
        let (finished, in_vain) = server.finished();
        // It may have been answered before it left.
        assert!(finished == 3 && in_vain <= 1, "{finished} {in_vain}");
    }
}
