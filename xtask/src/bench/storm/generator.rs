//! Clients that come when they like: an open loop. A request starts at its own time whether or not others
//! have been answered, and how long it took is counted from that time, also where it could not start in
//! time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::answer::{Answer, parse};
use super::schedule::{Class, Clients, Mix, Schedule};
use super::server::wait;
use crate::shell::Fallible;

/// Together with the server's, these fit into 20,000 descriptors.
const CONNECTIONS_MAX: usize = 7_000;

/// No answer here is longer.
const ANSWER_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// Requests start within this time, and are waited for beyond it.
    pub(crate) length: Duration,
    pub(crate) per_second: f64,
    pub(crate) clients: Clients,
    pub(crate) mix: Mix,
    pub(crate) seed: u64,
    /// A client gives up then, and closes its connection.
    pub(crate) deadline: Duration,
    /// How often a client that got nothing, or no 200, tries again at once.
    pub(crate) retries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Answered(u16),
    /// The deadline passed.
    Late,
    /// The connection could not be opened, or broke.
    Broken,
    /// As many connections are open as may be.
    NoRoom,
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// When it was to start, since the start of everything.
    pub(crate) at_us: u64,
    /// How much later it did start: more than a little shows that the machine had other things to do.
    pub(crate) lag_us: u64,
    /// From when it was to start to the end of its last attempt.
    pub(crate) took_us: u64,
    pub(crate) class: Class,
    pub(crate) attempts: u8,
    pub(crate) end: End,
}

impl Record {
    /// 200 within the deadline, counted from when it was to start.
    pub(crate) fn is_good(&self, deadline: Duration) -> bool {
        self.end == End::Answered(200) && u128::from(self.took_us) <= deadline.as_micros()
    }
}

/// Runs the plan from `started` on, to the end of its last request.
pub(crate) fn run(plan: &Plan, started: Instant) -> Fallible<Vec<Record>> {
    Generator::new(plan, started)?.run()
}

struct Attempt {
    record: usize,
    /// Of this record, to know it from a later one.
    number: u8,
    deadline_us: u64,
    /// On a connection that had been used before: it may have been closed for its age.
    reused: bool,
    sent: bool,
}

struct Connection {
    stream: TcpStream,
    client: u16,
    attempt: Option<Attempt>,
    read: Vec<u8>,
}

struct Generator<'a> {
    plan: &'a Plan,
    started: Instant,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    idle: Vec<Vec<u64>>,
    records: Vec<Record>,
    clients: Vec<u16>,
    under_way: usize,
    /// When which attempt ends at the latest: connection, record, number.
    deadlines: BinaryHeap<Reverse<(u64, u64, usize, u8)>>,
}

impl<'a> Generator<'a> {
    fn new(plan: &'a Plan, started: Instant) -> Fallible<Self> {
        Ok(Self {
            plan,
            started,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: HashMap::new(),
            next: 0,
            idle: vec![Vec::new(); usize::from(plan.clients.count)],
            records: Vec::new(),
            clients: Vec::new(),
            under_way: 0,
            deadlines: BinaryHeap::new(),
        })
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn run(mut self) -> Fallible<Vec<Record>> {
        let plan = self.plan;
        let length_us = plan.length.as_micros() as u64;
        let schedule = Schedule::new(plan.per_second, plan.clients.count, plan.mix, plan.seed);
        let mut schedule = schedule.take_while(|arrival| arrival.at_us < length_us).peekable();
        let mut events = Vec::with_capacity(256);
        loop {
            let now_us = self.now_us();
            while let Some(arrival) = schedule.next_if(|arrival| arrival.at_us <= now_us) {
                self.records.push(Record {
                    at_us: arrival.at_us,
                    lag_us: now_us - arrival.at_us,
                    took_us: 0,
                    class: arrival.class,
                    attempts: 0,
                    end: End::Broken,
                });
                self.clients.push(arrival.client);
                self.under_way += 1;
                self.attempt(self.records.len() - 1, arrival.at_us);
            }
            self.give_up();
            let next_us = [
                schedule.peek().map(|arrival| arrival.at_us),
                self.deadlines.peek().map(|&Reverse((deadline_us, ..))| deadline_us),
            ]
            .into_iter()
            .flatten()
            .min();
            if self.under_way == 0 && schedule.peek().is_none() {
                return Ok(self.records);
            }
            let limit = next_us.map_or(1_000, |next_us| next_us.saturating_sub(self.now_us()));
            events.clear();
            wait(&self.epoll, &mut events, Duration::from_micros(limit))?;
            for event in &events {
                let data = event.data;
                self.act(data.u64());
            }
        }
    }

    /// One more attempt, which counts as having started at `at_us`.
    fn attempt(&mut self, record: usize, at_us: u64) {
        self.records[record].attempts += 1;
        let deadline_us = at_us + self.plan.deadline.as_micros() as u64;
        let attempt = Attempt { record, number: self.records[record].attempts, deadline_us, reused: true, sent: false };
        let idle = &mut self.idle[usize::from(self.clients[record])];
        match idle.pop() {
            Some(id) => self.send_on(id, attempt),
            None => self.open(attempt),
        }
    }

    fn open(&mut self, attempt: Attempt) {
        if self.connections.len() >= CONNECTIONS_MAX {
            return self.failed(attempt.record, End::NoRoom);
        }
        let client = self.clients[attempt.record];
        let Ok(stream) = connect(IpAddr::V4(self.plan.clients.address(client)), self.plan.target) else {
            return self.failed(attempt.record, End::Broken);
        };
        let id = self.next;
        self.next += 1;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if epoll::add(&self.epoll, &stream, EventData::new_u64(id), interest).is_err() {
            return self.failed(attempt.record, End::Broken);
        }
        self.connections.insert(id, Connection { stream, client, attempt: None, read: Vec::new() });
        self.send_on(id, Attempt { reused: false, ..attempt });
    }

    fn send_on(&mut self, id: u64, attempt: Attempt) {
        self.deadlines.push(Reverse((attempt.deadline_us, id, attempt.record, attempt.number)));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.attempt = Some(attempt);
            connection.read.clear();
        }
        self.act(id);
    }

    /// Does what can be done on a connection: sends the request, reads the answer, notices its end.
    fn act(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(attempt) = &mut connection.attempt
            && !attempt.sent
        {
            let class = self.records[attempt.record].class;
            let request = format!("GET {} HTTP/1.1\r\nHost: storm.test\r\n\r\n", class.path());
            // So short a request fits into the socket's buffer at once.
            match connection.stream.write(request.as_bytes()) {
                Ok(count) if count == request.len() => attempt.sent = true,
                // Not connected yet.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => return self.broke(id),
            }
        }
        let at_end = loop {
            let mut chunk = [0; 4096];
            match connection.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(count) if connection.read.len() < ANSWER_MAX => {
                    connection.read.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                _ => return self.broke(id),
            }
        };
        if connection.attempt.is_none() {
            // Whatever a server says unasked, it is going to close.
            if at_end || !connection.read.is_empty() {
                self.close(id);
            }
            return;
        }
        match parse(&connection.read, at_end) {
            Answer::Incomplete => {}
            Answer::Broken => self.broke(id),
            Answer::Complete { status, keep } => {
                let attempt = connection.attempt.take();
                if keep {
                    let client = usize::from(connection.client);
                    self.idle[client].push(id);
                } else {
                    self.close(id);
                }
                if let Some(attempt) = attempt {
                    self.answered(attempt.record, status);
                }
            }
        }
    }

    fn answered(&mut self, record: usize, status: u16) {
        if status == 200 {
            self.ended(record, End::Answered(status));
        } else {
            self.failed(record, End::Answered(status));
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.idle[usize::from(connection.client)].retain(|&idle| idle != id);
        }
    }

    /// A connection ended before its answer. Where it had been in use, the request may never have been
    /// seen: it goes out once more on a new one, as browsers do.
    fn broke(&mut self, id: u64) {
        let attempt = self.connections.get_mut(&id).and_then(|connection| {
            let unseen = connection.read.is_empty();
            connection.attempt.take().map(|attempt| (attempt, unseen))
        });
        self.close(id);
        match attempt {
            Some((attempt, true)) if attempt.reused => self.open(Attempt { sent: false, ..attempt }),
            Some((attempt, _)) => self.failed(attempt.record, End::Broken),
            None => {}
        }
    }

    /// Clients whose time is up close their connections.
    fn give_up(&mut self) {
        let now_us = self.now_us();
        while let Some(&Reverse((deadline_us, id, record, number))) = self.deadlines.peek()
            && deadline_us <= now_us
        {
            self.deadlines.pop();
            let attempt = self.connections.get(&id).and_then(|connection| connection.attempt.as_ref());
            if attempt.is_some_and(|attempt| attempt.record == record && attempt.number == number) {
                self.close(id);
                self.failed(record, End::Late);
            }
        }
    }

    fn failed(&mut self, record: usize, end: End) {
        if self.records[record].attempts <= self.plan.retries {
            let now_us = self.now_us();
            self.attempt(record, now_us);
        } else {
            self.ended(record, end);
        }
    }

    fn ended(&mut self, record: usize, end: End) {
        let now_us = self.now_us();
        let record = &mut self.records[record];
        record.end = end;
        record.took_us = now_us.saturating_sub(record.at_us);
        self.under_way -= 1;
    }
}

/// Begins to connect from an address of the client's own.
fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::{API_MIX, STORM_MIX};
    use super::super::server::Server;
    use super::*;

    fn plan(target: SocketAddr) -> Plan {
        Plan {
            target,
            length: Duration::from_millis(200),
            per_second: 500.0,
            clients: Clients { network: 99, count: 10 },
            mix: STORM_MIX,
            seed: 1,
            deadline: Duration::from_secs(5),
            retries: 0,
        }
    }

    #[test]
    fn every_request_has_an_end() {
        let server = Server::start(64, Duration::from_millis(1)).expect("it starts");
        let records = run(&plan(server.address()), Instant::now()).expect("it runs");
        assert!((60..140).contains(&records.len()), "{} requests", records.len());
        assert!(records.iter().all(|record| record.end == End::Answered(200) && record.attempts == 1));
        assert!(records.iter().all(|record| record.took_us >= 1_000));
        assert_eq!(server.finished(), (records.len() as u64, 0));
    }

    #[test]
    fn whoever_gets_nothing_tries_again_and_gives_up() {
        let server = Server::start(1, Duration::from_secs(60)).expect("it starts");
        let deadline = Duration::from_millis(50);
        let plan = Plan { mix: API_MIX, deadline, retries: 3, ..plan(server.address()) };
        let records = run(&plan, Instant::now()).expect("it runs");
        assert!(records.iter().all(|record| record.end == End::Late && record.attempts == 4), "{records:?}");
        assert!(records.iter().all(|record| record.took_us >= 200_000 && !record.is_good(deadline)));
    }

    #[test]
    fn nobody_there_is_no_hang() {
        let address = crate::children::loopback(crate::children::free_tcp_port().expect("there are free ones"));
        let records = run(&plan(address), Instant::now()).expect("it runs");
        assert!(records.iter().all(|record| record.end == End::Broken), "{records:?}");
    }
}
