//! The server behind: it says what each thing is, and now and then breaks off in the middle of one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use super::things::{EDITION, Edition, Thing, VARIANTS, World, count};
use crate::shell::Fallible;

const PIECE_BYTES: usize = 64 * 1024;

/// One answer in so many is broken off.
const CUT: u32 = 300;

/// One answer in so many takes its time, so that a kill finds it half-way.
const SLOW: u32 = 6;

/// Serves until the process ends; each connection has a thread.
pub(super) fn start(world: &Arc<World>, seed: u64) -> Fallible<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let world = Arc::clone(world);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let world = Arc::clone(&world);
            // A gateway that is gone is no news here.
            std::thread::spawn(move || drop(serve(&world, stream, seed.wrapping_add(number as u64))));
        }
    });
    Ok(address)
}

struct Request {
    thing: Option<Thing>,
    variant: u32,
    is_head: bool,
    none_match: Option<String>,
}

fn serve(world: &World, stream: TcpStream, seed: u64) -> Fallible<()> {
    stream.set_nodelay(true)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = BufReader::new(stream.try_clone()?);
    while let Some(request) = read(&mut lines)? {
        answer(world, &stream, &request, &mut random)?;
    }
    Ok(())
}

fn read(lines: &mut BufReader<TcpStream>) -> Fallible<Option<Request>> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let is_head = words.next() == Some("HEAD");
    let thing = words.next().and_then(Thing::of_path);
    let mut request = Request { thing, variant: 0, is_head, none_match: None };
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err("broken off in a head".into());
        }
        match line.trim_end().split_once(':') {
            None => return Ok(Some(request)),
            Some((name, value)) if name.eq_ignore_ascii_case("x-kind") => {
                request.variant = value.trim().parse().unwrap_or(0) % VARIANTS;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("if-none-match") => {
                request.none_match = Some(value.trim().to_owned());
            }
            Some(_) => {}
        }
    }
}

fn answer(world: &World, mut stream: &TcpStream, request: &Request, random: &mut fastrand::Rng) -> Fallible<()> {
    let Some(thing) = request.thing else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nCache-Control: no-store\r\n\r\n")?;
        return Ok(());
    };
    let version = world.version(thing);
    let variant = request.variant % thing.variants();
    let edition = Edition { thing, variant, version, length: thing.length(version), serial: world.next_serial() };
    let is_known = request.none_match.as_deref() == Some(&edition.etag());
    let mut head = format!(
        "HTTP/1.1 {}\r\nContent-Type: application/octet-stream\r\nCache-Control: max-age={}\r\nETag: {}\r\n{EDITION}: {}\r\n",
        if is_known { "304 Not Modified" } else { "200 OK" },
        if thing.is_short_lived() { 1 } else { 3600 },
        edition.etag(),
        edition.field(),
    );
    if let Some(tag) = thing.tag() {
        head.push_str(&format!("Cache-Tag: all, {tag}\r\n"));
    }
    if thing.variants() > 1 {
        head.push_str("Vary: X-Kind\r\n");
    }
    if !is_known && thing.is_chunked() {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !is_known {
        head.push_str(&format!("Content-Length: {}\r\n", edition.length));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if is_known || request.is_head {
        return Ok(());
    }
    let end = if edition.length > 0 && random.u32(..CUT) == 0 { random.u64(..edition.length) } else { edition.length };
    let is_slow = random.u32(..SLOW) == 0;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < end {
        // Chunks of all lengths.
        let most = if thing.is_chunked() { random.usize(1..=PIECE_BYTES) } else { PIECE_BYTES };
        let bytes = most.min(usize::try_from(end - at)?);
        let piece = piece.get_mut(..bytes).unwrap_or_default();
        edition.fill(at, piece);
        if thing.is_chunked() {
            stream.write_all(format!("{bytes:x}\r\n").as_bytes())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        } else {
            stream.write_all(piece)?;
        }
        at += bytes as u64;
        if is_slow {
            sleep(Duration::from_millis(5));
        }
    }
    if end < edition.length {
        count(&world.counts.cuts);
        // The thread ends, and the connection with it.
        return Err("broken off on purpose".into());
    }
    if thing.is_chunked() {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}
