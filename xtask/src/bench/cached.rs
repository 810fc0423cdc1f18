//! Rows of the cache that have a server of their own: many clients on one object that nobody has yet, and
//! the memory that an object takes.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::time::Timespec;

use super::load::Connection;
use super::report::{Outcome, Round};
use super::rows::Row;
use super::{Entrant, Stage};
use crate::process::{self, Memory};
use crate::shell::Fallible;

/// The server takes so long for an object that is to be cold.
const SLOW: Duration = Duration::from_millis(200);

/// Of the path of objects that it is quick with.
const QUICK: &str = "/object/";

/// Its threads do next to nothing, and may be as many as the clients.
const STACK_BYTES: usize = 128 * 1024;

/// No contender needs this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that counts how often it is asked. It runs until the program ends.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    asked: Arc<AtomicU64>,
}

impl Origin {
    /// Every answer has so many bytes.
    pub(super) fn start(body_bytes: usize) -> Fallible<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        std::thread::spawn(move || {
            let body: Arc<[u8]> = (0..body_bytes).map(|index| (index % 251) as u8).collect();
            for stream in listener.incoming().flatten() {
                let (counter, body) = (Arc::clone(&counter), Arc::clone(&body));
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                // A proxy that closes its connection is no news; without a thread the connection is closed.
                drop(thread.spawn(move || drop(serve(stream, &counter, &body))));
            }
        });
        Ok(Self { address, asked })
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, asked: &AtomicU64, body: &[u8]) -> Fallible<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::with_capacity(4096, stream.try_clone()?);
    // About a hundred bytes of fields, as a small object has them.
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age=3600\r\n\
         Last-Modified: Fri, 27 Nov 2026 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let is_quick = line.split(' ').nth(1).is_some_and(|path| path.starts_with(QUICK));
        while line != "\r\n" {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        asked.fetch_add(1, Ordering::SeqCst);
        if !is_quick {
            sleep(SLOW);
        }
        stream.write_all(&answer)?;
    }
}

/// All clients connect, then ask at once for an object that is not there yet; each round has a new one.
pub(super) fn herd_round(row: &Row, stage: &Stage, entrant: &Entrant<'_>, number: u32) -> Fallible<Round> {
    let Some(origin) = &stage.counting else { return Err("there is no server that counts".into()) };
    let mut herd = Herd::connect(entrant.listen, row.connections as usize)?;
    let tree = process::tree(entrant.running.id());
    let (asked, before) = (origin.asked(), process::cpu_time(&tree));
    let started = Instant::now();
    let path = format!("/cold/{}-{number}", entrant.outcome.label);
    let complete = herd.ask(&path, row.body_bytes(), started + PATIENCE)?;
    let elapsed = started.elapsed();
    drop(herd);
    let used = process::cpu_time(&tree) - before;
    let total_us = used.total_ns as f64 / 1e3 / f64::from(row.connections);
    Ok(Round {
        requests: u64::from(row.connections),
        errors: u64::from(row.connections) - complete,
        total_us,
        user_us: total_us * used.user_share(),
        system_us: total_us * (1.0 - used.user_share()),
        reached: (origin.asked() - asked) as f64,
        all_ms: elapsed.as_secs_f64() * 1e3,
        ..Round::default()
    })
}

/// Clients that wait for their answers together.
struct Herd {
    epoll: OwnedFd,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// What has come, up to the end of the head.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head says how many.
    left: Option<usize>,
    is_done: bool,
}

impl Herd {
    fn connect(address: SocketAddr, count: usize) -> Fallible<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut clients = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, EventData::new_u64(number), EventFlags::IN)?;
            clients.push(Client { stream, head: Vec::new(), left: None, is_done: false });
        }
        // Whoever accepts does so before the requests come.
        sleep(Duration::from_millis(200));
        Ok(Self { epoll, clients })
    }

    /// How many had a complete 200 of this length by the deadline.
    fn ask(&mut self, path: &str, body_bytes: usize, deadline: Instant) -> Fallible<u64> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        for client in &mut self.clients {
            client.stream.write_all(request.as_bytes())?;
        }
        let (mut done, mut complete) = (0, 0);
        let mut events = Vec::with_capacity(256);
        let mut piece = vec![0; 256 * 1024];
        while done < self.clients.len() && Instant::now() < deadline {
            events.clear();
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let data = event.data;
                let Some(client) = self.clients.get_mut(data.u64() as usize) else { continue };
                if let Some(is_right) = client.read(&mut piece, body_bytes) {
                    done += 1;
                    complete += u64::from(is_right);
                    epoll::delete(&self.epoll, &client.stream)?;
                }
            }
        }
        Ok(complete)
    }
}

impl Client {
    /// Reads once; `None`: more is to come. Else whether it was as it should be.
    fn read(&mut self, piece: &mut [u8], body_bytes: usize) -> Option<bool> {
        if self.is_done {
            return None;
        }
        let count = match self.stream.read(piece) {
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return None,
            Err(_) => 0,
        };
        let is_right = self.take(piece.get(..count).unwrap_or_default(), body_bytes);
        self.is_done = is_right.is_some();
        is_right
    }

    fn take(&mut self, bytes: &[u8], body_bytes: usize) -> Option<bool> {
        if bytes.is_empty() {
            return Some(false);
        }
        let (left, come) = match self.left {
            Some(left) => (left, bytes.len()),
            None => {
                self.head.extend_from_slice(bytes);
                let end = self.head.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
                let head = String::from_utf8_lossy(self.head.get(..end).unwrap_or_default()).to_ascii_lowercase();
                if !head.starts_with("http/1.1 200") || !head.contains(&format!("content-length: {body_bytes}\r\n")) {
                    return Some(false);
                }
                (body_bytes, self.head.len() - end)
            }
        };
        self.left = left.checked_sub(come);
        match self.left {
            None => Some(false),
            Some(0) => Some(true),
            Some(_) => None,
        }
    }
}

/// Fills a cache with so many objects; what its processes have grown by. The second value: what is special.
pub(super) fn fill(row: &Row, stage: &Stage, entrant: &Entrant<'_>) -> Fallible<(Memory, Option<String>)> {
    let Some(origin) = &stage.counting else { return Err("there is no server that counts".into()) };
    let memory = || {
        sleep(SETTLE);
        process::memory(&process::tree(entrant.running.id()))
    };
    let before = memory();
    let asked = origin.asked();
    ask_for_all(entrant.listen, row, 1)?;
    let after = memory();
    let filled = origin.asked() - asked;
    // Who still has it does not ask for it again.
    let asked = origin.asked();
    ask_for_all(entrant.listen, row, SAMPLE_EVERY)?;
    let lost = origin.asked() - asked;
    let sample = u64::from(row.connections / SAMPLE_EVERY);
    let note = (filled != u64::from(row.connections) || lost * 100 > sample)
        .then(|| format!("asked the server {filled} times, and of {sample} objects has {lost} no more"));
    let grown = Memory {
        peak_resident_kib: after.peak_resident_kib.saturating_sub(before.peak_resident_kib),
        resident_kib: after.resident_kib.saturating_sub(before.resident_kib),
        proportional_kib: after.proportional_kib.saturating_sub(before.proportional_kib),
    };
    Ok((grown, note))
}

/// Buffers go back, allocators settle.
const SETTLE: Duration = Duration::from_secs(3);

const SAMPLE_EVERY: u32 = 50;

const FILLERS: u32 = 4;

/// Every `step`th object, over a few connections.
fn ask_for_all(listen: SocketAddr, row: &Row, step: u32) -> Fallible<()> {
    let ask = |first: u32| -> Fallible<()> {
        let mut connection = Connection::open(listen)?;
        for number in (first * step..row.connections).step_by((FILLERS * step) as usize) {
            let (status, length) = connection.fetch(&format!("{QUICK}{number}"))?;
            if (status, length) != (200, row.body_bytes()) {
                return Err(format!("status {status} with {length} bytes").into());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..FILLERS).map(|first| scope.spawn(move || ask(first))).collect();
        fillers.into_iter().try_for_each(|filler| filler.join().map_err(|_| "a client broke off")?)
    })
}

/// One contender after the other, started anew for each round.
pub(super) fn object_round(row: &Row, stage: &Stage, entrant: Entrant<'_>, number: u32, rounds: u32) -> Outcome {
    let filled = fill(row, stage, &entrant);
    let mut outcome = entrant.outcome;
    match filled {
        Ok((grown, note)) => {
            println!(
                "  {number}/{rounds} {:<10} {} objects, PSS +{} KiB, {:.0} bytes each{}",
                outcome.label,
                row.connections,
                grown.proportional_kib,
                grown.proportional_kib as f64 * 1024.0 / f64::from(row.connections),
                note.as_ref().map(|note| format!("; {note}")).unwrap_or_default(),
            );
            outcome.memory.push(grown);
            outcome.failed = note.is_some();
            outcome.note = note;
        }
        Err(error) => {
            outcome.note = Some(error.to_string());
            outcome.failed = true;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde";
        let stream = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap()
        };
        let client = || Client { stream: stream(), head: Vec::new(), left: None, is_done: false };
        for split in 1..whole.len() {
            let mut client = client();
            assert_eq!(client.take(&whole[..split], 5), None);
            assert_eq!(client.take(&whole[split..], 5), Some(true));
        }
        assert_eq!(client().take(whole, 5), Some(true));
        assert_eq!(client().take(whole, 4), Some(false));
        assert_eq!(client().take(&[whole, &b"f"[..]].concat(), 5), Some(false));
        assert_eq!(client().take(b"", 5), Some(false));
    }
}
